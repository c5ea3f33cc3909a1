"""A partition of features into groups: digested once, static, hashable."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array


class Groups:
    """Which group each feature belongs to.

    `ids`: one integer per feature, in any order and with any labels; groups are numbered 0, 1, ...
    in the order of their sorted labels. Being static, other groups mean one recompilation. Raises:
    TypeError for ids that are traced or not integers, ValueError for an empty or non-flat list.

    **Example:**

    ```python
    >>> import l1jax
    >>> groups = l1jax.Groups([7, 3, 7])
    >>> groups.num_groups, groups.labels.tolist(), groups.sizes.tolist()
    (2, [3, 7], [1, 2])

    ```
    """

    def __init__(self, ids: Any):
        if isinstance(ids, Tracer):
            raise TypeError(
                "groups must be concrete: build l1jax.Groups(ids) outside of jit and vmap, from a "
                "list or NumPy array."
            )
        array = np.asarray(ids)
        if array.ndim != 1 or not array.size:
            raise ValueError(
                f"groups must be a flat list with one id per feature, got shape {array.shape}."
            )
        if array.dtype.kind not in "iu":
            raise TypeError(
                f"groups must be integer ids, one per feature, got dtype {array.dtype}."
            )
        self.labels, inverse = np.unique(array, return_inverse=True)
        self.ids = inverse.reshape(-1).astype(np.int32)
        self.sizes = np.bincount(self.ids)
        for part in (self.labels, self.ids, self.sizes):
            part.setflags(write=False)
        # Each feature a group by itself, in order, as for channels: nothing to gather.
        self._single = np.array_equal(self.ids, np.arange(self.ids.size))
        self._key = (self.ids.tobytes(), self.labels.tobytes())
        self._hash = hash(self._key)

    @staticmethod
    def of(groups: Any) -> Groups:
        """The groups themselves, or made from ids."""
        return groups if isinstance(groups, Groups) else Groups(groups)

    @property
    def num_groups(self) -> int:
        return len(self.sizes)

    @property
    def num_features(self) -> int:
        return len(self.ids)

    def sums(self, values: Array) -> Array:
        """Sums over the features of each group: (p, ...) -> (G, ...)."""
        if self._single:
            return jnp.asarray(values)
        return jax.ops.segment_sum(jnp.asarray(values), self.ids, self.num_groups)

    def maxima(self, values: Array) -> Array:
        """Maxima over the features of each group: (p, ...) -> (G, ...)."""
        if self._single:
            return jnp.asarray(values)
        return jax.ops.segment_max(jnp.asarray(values), self.ids, self.num_groups)

    def broadcast(self, per_group: Array) -> Array:
        """One value per group, repeated for its features: (G, ...) -> (p, ...)."""
        return jnp.asarray(per_group) if self._single else jnp.asarray(per_group)[self.ids]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Groups) and self._key == other._key

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        return f"Groups({self.num_features} features in {self.num_groups} groups)"
