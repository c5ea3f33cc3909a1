"""A penalty on whole channels of an array of any shape."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .. import prox
from .._group_shrinkage import Rematerialisation
from ..penalties._base import strength_leaf, total
from ._rematerialisation import GroupNormPenalty, RematOf


class ChannelL1(GroupNormPenalty):
    """The group lasso on channels, λ Σ_c √k ‖x_c‖₂: one group of k entries for each index c of an axis.

    For unequal weights or several indices per group use `GroupL1` with `on(..., axis=)`.

    **Arguments:**

    - `lam`: the strength λ ≥ 0, in units of a gradient; None is not set yet.
    - `axis`: the axis of the channels in an array of any shape: −1 for the outputs of a Flax or Haiku kernel,
      0 for those of an Equinox weight.

    **Raises:** ValueError for a negative λ, or an array without that axis; TypeError for another `axis`.
    Source: Yuan and Lin (2006); Wen et al. (2016).

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> kernel = jnp.array([[3.0, 0.1], [4.0, 0.1]])
    >>> print(l1jax.ChannelL1(1.0, axis=-1).prox(kernel, 2.5 / 2**0.5))
    [[1.5 0. ]
     [2.  0. ]]

    ```
    """

    metric: ClassVar[Any] = "diagonal"

    lam: Any
    axis: int = eqx.field(static=True)

    def __init__(self, lam: Any = None, axis: Any = 0):
        self.lam = strength_leaf(lam, "lam")
        if not isinstance(axis, int | np.integer) or isinstance(axis, bool):
            raise TypeError(f"axis must be an integer, the axis of the channels, got {axis!r}.")
        self.axis = int(axis)

    def _lam(self) -> Any:
        if self.lam is None:
            raise ValueError("ChannelL1 has no strength yet: pass lam, or pen.with_strength(0.1).")
        return self.lam

    def _rows(self, x: Array) -> Array:
        self._check(x)
        return flat(jnp.moveaxis(x, self.axis, 0))

    def _check(self, x: Array) -> None:
        if not -x.ndim <= self.axis < x.ndim:
            raise ValueError(
                f"ChannelL1 has axis {self.axis}, which an array of shape {x.shape} does not have: choose "
                'the leaves that have it, as in l1jax.on("**/kernel", l1jax.ChannelL1(lam, axis=-1)).'
            )

    def value(self, x: PyTree) -> Array:
        def norms(rows):
            peak = jnp.max(jnp.abs(rows), axis=1, initial=0)
            peak = jax.lax.stop_gradient(jnp.where(peak > 0, peak, 1))
            square = jnp.sum((rows / peak[:, None]) ** 2, axis=1)
            root = jnp.sqrt(jnp.where(square > 0, square, 1))
            return jnp.sum(peak * jnp.where(square > 0, root, 0)) * rows.shape[1] ** 0.5

        leaves = jax.tree.leaves(x)
        return total(jnp.asarray(self._lam(), z.dtype) * norms(self._rows(z)) for z in leaves)

    def prox(self, z: PyTree, step: Any = 1.0) -> PyTree:
        return self.prox_given_norms(z, step, None)

    def prox_given_norms(self, z: PyTree, step: Any, norms: Any) -> PyTree:
        leaves, tree = jax.tree.flatten(z)
        each = zip(leaves, steps_of(step, tree), norms or [None] * len(leaves), strict=True)
        return tree.unflatten([self._leaf(*one) for one in each])

    def _leaf(self, z: Array, step: Any, norms: Array | None) -> Array:
        self._check(z)
        if not z.size:
            return z
        return prox.prox_channels(z, self._weight(z), step, self.axis, norms)

    def group_norms(self, z: PyTree, step: Any, remat_of: RematOf) -> Any:
        if type(self).prox is not ChannelL1.prox:
            return None  # a prox of somebody's own
        leaves, tree = jax.tree.flatten(z)
        remats = [remat_of(k) for k in range(len(leaves))]
        each = zip(leaves, steps_of(step, tree), remats, strict=True)
        return [self._norms(*one) for one in each]

    def _norms(self, z: Array, step: Any, remat: Rematerialisation | None) -> Array | None:
        if remat is None or not z.size:
            return None
        return prox.channel_norms(z, step, remat, self._weight(z), self.axis)

    def _weight(self, z: Array) -> Array:
        lam = jnp.asarray(self._lam(), jnp.promote_types(z.dtype, jnp.float32))
        return lam * (z.size // z.shape[self.axis]) ** 0.5


def steps_of(step: Any, tree: Any) -> list:
    if isinstance(step, int | float) or hasattr(step, "shape"):
        return [step] * tree.num_leaves
    return tree.flatten_up_to(step)


def flat(x: Array) -> Array:
    """All axes but the first in one; reshape cannot tell how many where the first is empty."""
    return x.reshape(x.shape[0], math.prod(x.shape[1:]))
