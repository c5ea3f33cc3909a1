"""A partition of features into groups: digested once, static, hashable."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from ._arrays import namespace
from ._types import Real

_MOST_FILL = 4  # places per feature in a table of groups


class Groups:
    """Which group each feature belongs to.

    A feature belongs to one group: where groups overlap, repeat a column for each of its groups (Jacob,
    Obozinski, Vert 2009). Groups are static: others mean one recompilation.

    **Arguments:**

    - `ids`: one integer or string per feature, (p,), in any order; groups are numbered 0, 1, ... in the order
      of their sorted ids (`labels`).

    **Raises:** TypeError for ids that are traced or of another kind, ValueError for an empty or non-flat list.

    **Example:**

    ```python
    >>> import l1jax
    >>> groups = l1jax.Groups([7, 3, 7])
    >>> groups.num_groups, groups.labels.tolist(), groups.sizes.tolist()
    (2, [3, 7], [1, 2])
    >>> l1jax.Groups(["size", "age", "size"]).labels.tolist()
    ['age', 'size']

    ```
    """

    def __init__(self, ids: Any):
        if isinstance(ids, Tracer):
            raise TypeError(
                "groups must be concrete: build l1jax.Groups(ids) outside of jit and vmap, from a "
                "list or NumPy array."
            )
        array = _read_ids(ids)
        self.labels, inverse = np.unique(array, return_inverse=True)
        self.ids = inverse.reshape(-1).astype(np.int32)
        self.sizes = np.bincount(self.ids)
        for part in (self.labels, self.ids, self.sizes):
            part.setflags(write=False)
        self._table = _table(self.ids, self.sizes)
        # Groups of one size, in order, are rows of an array; such of size 1 are the features.
        p, largest = self.ids.size, int(self.sizes.max())
        self._is_even = p % largest == 0 and np.array_equal(self.ids, np.arange(p) // largest)
        self._key = (self.ids.tobytes(), self.labels.dtype.str, self.labels.tobytes())
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

    def sums(self, values: Real) -> Real:
        """Sums over the features of each group: (p, ...) -> (G, ...)."""
        xp = namespace(values)
        if self._is_even:
            return self._as_rows(values).sum(axis=1)
        if self._table is not None:
            none = xp.zeros((1, *values.shape[1:]), values.dtype)
            return xp.concatenate([values, none])[self._table].sum(axis=1)
        if xp is jnp:
            return jax.ops.segment_sum(values, self.ids, self.num_groups)
        sums = np.zeros((self.num_groups, *values.shape[1:]), values.dtype)
        np.add.at(sums, self.ids, values)
        return sums

    def maxima(self, values: Array) -> Array:
        """Maxima over the features of each group: (p, ...) -> (G, ...)."""
        values = jnp.asarray(values)
        if self._is_even:
            return self._as_rows(values).max(axis=1)
        if self._table is None:
            return jax.ops.segment_max(values, self.ids, self.num_groups)
        # Where a group is smaller than the largest, its first feature stands in again.
        table = np.where(self._table < self.num_features, self._table, self._table[:, :1])
        return values[table].max(axis=1)

    def broadcast(self, per_group: Real) -> Real:
        """One value per group, repeated for its features: (G, ...) -> (p, ...)."""
        if not self._is_even:
            return per_group[self.ids]
        size = self.num_features // self.num_groups
        rows = namespace(per_group).broadcast_to(
            per_group[:, None], (self.num_groups, size, *per_group.shape[1:])
        )
        return rows.reshape(self.num_features, *per_group.shape[1:])

    def _as_rows(self, values: Real) -> Real:
        return values.reshape(self.num_groups, -1, *values.shape[1:])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Groups) and self._key == other._key

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        return f"Groups({self.num_features} features in {self.num_groups} groups)"


def _read_ids(ids: Any) -> np.ndarray:
    """The id of each feature: whole numbers or strings."""
    try:
        array = np.asarray(ids)
    except ValueError:  # lists of different lengths
        array = np.empty((0, 0))
    if array.ndim != 1 or not array.size:
        nested = array.ndim == 2
        raise ValueError(
            "groups must be a flat list with one id per feature, such as [0, 0, 1], got "
            + (f"lists of features. {_of_lists(ids)}" if nested else f"shape {array.shape}.")
        )
    if array.dtype.kind == "O" and all(isinstance(one, str) for one in array):
        array = array.astype(str)
    if array.dtype.kind not in "iuU":
        raise TypeError(
            f"groups must hold integers or strings, one id per feature, got dtype {array.dtype}."
        )
    return array


def _of_lists(lists: Any) -> str:
    """What lists of the features of each group would be as ids, or what to do where they overlap."""
    features = [feature for one in lists for feature in np.atleast_1d(one).tolist()]
    if len(set(features)) < len(features):
        repeated = next(feature for feature in features if features.count(feature) > 1)
        return (
            f"Feature {repeated} is in two of them, and groups cannot overlap: repeat its column in X, "
            "once for each of its groups."
        )
    return "The id of a feature is the number of its list."


def _table(ids: np.ndarray, sizes: np.ndarray) -> np.ndarray | None:
    """The features of each group in a row, filled up with p; None where that is too much to fill.

    A gather of it and a sum take a fraction of the time of a scatter, in compilation and after.
    """
    if sizes.max() * len(sizes) > _MOST_FILL * len(ids):
        return None
    order = np.argsort(ids, kind="stable")
    place = np.arange(len(ids)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    table = np.full((len(sizes), sizes.max()), len(ids), np.int32)
    table[ids[order], place] = order
    return table
