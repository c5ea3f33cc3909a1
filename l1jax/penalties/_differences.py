"""Penalties on differences of neighbouring coefficients: levels, lines and parabolas along an order."""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

from .. import prox
from ._base import total
from ._forms import EDGE
from ._norms import Norm
from ._separable import is_ratio, ratio_leaf

_DINKELBACH_STEPS = 50  # at most; a handful are usual
_ROUNDING = 100  # units of it, of all |v|, within which their sum is 0
_SUMS = 16  # units of rounding that sums over segments are apart, computed in two ways


class FusedLasso(Norm):
    """The fused lasso λ(1−ρ) Σⱼ|xⱼ₊₁ − xⱼ| + λρ‖x‖₁: few levels along an order, and few that are not zero.

    Along the first axis: coefficients (p, k) have it for each response, a pytree for each leaf. With ρ = 0,
    total variation, a constant vector is free: there is no λmax, so pass `lams` to a path. The order is that of
    the columns, and with `standardize=True` the levels are those of σⱼβⱼ: leave columns of one unit as they
    are.

    **Arguments:**

    - `lam`: the strength λ ≥ 0, in units of a gradient; None is not set yet.
    - `l1_ratio`: ρ in [0, 1]; 1 is the lasso, 0 total variation.

    **Raises:** ValueError for a negative lam or l1_ratio outside of [0, 1].
    Source: Tibshirani et al. (2005); the prox: Friedman et al. (2007), Darbon and Sigelle (2006).

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> pen = l1jax.FusedLasso(2.0, l1_ratio=0.5)
    >>> print(pen.prox(jnp.array([1.0, 0.5, 6.0, 8.0])))
    [0.25 0.25 5.   6.  ]

    ```
    """

    l1_ratio: Any

    def __init__(self, lam: Any = None, l1_ratio: Any = 0.5):
        super().__init__(lam)
        self.l1_ratio = ratio_leaf(l1_ratio)

    def is_valid(self) -> Bool[Array, ""]:
        return super().is_valid() & is_ratio(self.l1_ratio)

    def value(self, x: PyTree) -> Array:
        def term(leaf: Array) -> Array:
            lam, ratio = self._lam_like(leaf), self._ratio(leaf.dtype)
            variation = jnp.sum(jnp.abs(jnp.diff(leaf, axis=0)))
            return lam * ((1 - ratio) * variation + ratio * jnp.sum(jnp.abs(leaf)))

        return total(term(leaf) for leaf in jax.tree.leaves(x))

    def prox(self, z: PyTree, step: Any = 1.0) -> PyTree:
        levels = prox.prox_total_variation(z, self._lam() * (1 - self.l1_ratio), step)
        return prox.prox_l1(levels, self._lam() * self.l1_ratio, step)

    def lambda_max(self, gradient: Array) -> Array:
        """The largest |Σ_S g|/(ρ|S| + (1−ρ)·(ends of S inside)) over segments S, the dual norm at λ = 1.

        By Dinkelbach's method: from a ratio t to that of the segment where |Σ_S g| − t·(...) is largest, from
        below. Infinite where only a constant vector has a cost of 0.
        """
        columns = gradient.reshape(gradient.shape[0], -1)
        ratio = self._ratio(gradient.dtype)
        norm = jnp.max(jax.vmap(lambda v: _largest_ratio(v, ratio), 1)(columns), initial=0)
        # A sum over a segment is not rounded twice in the same way: not below the true one.
        return norm * (1 + self._edge(gradient) / 2 * jnp.finfo(norm.dtype).eps)

    def _edge(self, v: Array) -> float:
        return EDGE + _SUMS * math.log2(1 + v.shape[0])

    def _ratio(self, dtype: Any) -> Array:
        return jnp.asarray(self.l1_ratio, dtype)


class TrendFilter(Norm):
    """Trend filtering λ Σᵢ|(D x)ᵢ|, D the differences of order k + 1: few pieces, polynomials of degree k.

    Along the first axis: coefficients (p, k) have it for each response, a pytree for each leaf. A polynomial of
    degree k is free: there is no λmax, so pass `lams` to a path. The order is that of the columns, as in
    `FusedLasso`, which is k = 0. A prox takes a banded factorisation per step of an interior point method, one
    coefficient after the other: about 0.1 s for p = 1000.

    **Arguments:**

    - `lam`: the strength λ ≥ 0, in units of a gradient; None is not set yet.
    - `order`: k, 1 for linear pieces or 2 for quadratic ones.

    **Raises:** ValueError for a negative lam or another order.
    Source: Kim et al. (2009); Tibshirani (2014).

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> print(l1jax.TrendFilter(0.25).prox(jnp.array([0.0, 3.0, 0.0])))
    [0.25 2.5  0.25]

    ```
    """

    order: int = eqx.field(static=True)

    def __init__(self, lam: Any = None, order: int = 1):
        super().__init__(lam)
        if order not in (1, 2):
            raise ValueError(
                f"order must be 1 or 2, got {order}; order 0 is FusedLasso(lam, l1_ratio=0)."
            )
        self.order = int(order)

    def value(self, x: PyTree) -> Array:
        def term(leaf: Array) -> Array:
            return self._lam_like(leaf) * jnp.sum(jnp.abs(jnp.diff(leaf, n=self.order + 1, axis=0)))

        return total(term(leaf) for leaf in jax.tree.leaves(x))

    def prox(self, z: PyTree, step: Any = 1.0) -> PyTree:
        return prox.prox_trend_filter(z, self._lam(), step, self.order)

    def lambda_max(self, gradient: Array) -> Array:
        """max|u| with gradient = Dᵀu, by k + 1 sums from the left; infinite where there is no such u."""
        u, rounding = gradient.reshape(gradient.shape[0], -1), jnp.finfo(gradient.dtype).eps
        size, p = jnp.sum(jnp.abs(u), axis=0), u.shape[0]
        is_free = jnp.zeros(u.shape[1:], bool)
        for _ in range(self.order + 1):
            u = jnp.cumsum(u, axis=0)
            is_free |= jnp.abs(u[-1]) > _ROUNDING * rounding * size
            u, size = u[:-1], size * p
        most = jnp.max(jnp.abs(u), axis=0, initial=0)
        return jnp.max(jnp.where(is_free, jnp.inf, most), initial=0)

    def _edge(self, v: Array) -> Any:
        return EDGE * v.shape[0]


@jax.jit
def _largest_ratio(v: Array, ratio: Array) -> Array:
    """maxₛ |Σ_S v|/(ρ|S| + (1−ρ)·ends(S)) over segments S = (i, j], with ends(S) = [i > 0] + [j < p]."""
    p = v.shape[0]
    sums = jnp.concatenate([jnp.zeros(1, v.dtype), jnp.cumsum(v)])
    places = jnp.arange(p + 1)
    ends = jnp.where((places == 0) | (places == p), 0, 1 - ratio)
    tiny = _ROUNDING * jnp.finfo(v.dtype).eps * jnp.sum(jnp.abs(v))

    def ratio_of(best: tuple[Array, Array]) -> Array:
        i, j = best
        cost = ratio * (j - i) + ends[i] + ends[j]
        size = jnp.abs(sums[j] - sums[i])
        return jnp.where(
            cost > 0, size / jnp.where(cost > 0, cost, 1), jnp.where(size > tiny, jnp.inf, 0)
        )

    def best_segment(t: Array, sign: float) -> tuple[Array, tuple[Array, Array]]:
        line = sign * sums - t * ratio * places
        low = line + t * ends  # of the start i
        first = _argmin_so_far(low)
        gains = (line - t * ends)[1:] - low[first[:-1]]
        j = jnp.argmax(gains)
        return gains[j], (first[j], j + 1)

    def step(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        t, count, _ = carry
        (up, of_up), (down, of_down) = best_segment(t, 1.0), best_segment(t, -1.0)
        segment = jax.tree.map(lambda a, b: jnp.where(up >= down, a, b), of_up, of_down)
        new = jnp.where(jnp.maximum(up, down) > 0, jnp.maximum(ratio_of(segment), t), t)
        return new, count + 1, (new > t) & jnp.isfinite(new)

    start = (jnp.zeros((), v.dtype), jnp.zeros((), jnp.int32), jnp.ones((), bool))
    return jax.lax.while_loop(lambda c: c[2] & (c[1] < _DINKELBACH_STEPS), step, start)[0]


def _argmin_so_far(x: Array) -> Array:
    """The place of the least entry up to each."""
    least = jax.lax.cummin(x)
    is_new = jnp.concatenate([jnp.ones(1, bool), least[1:] < least[:-1]])
    return jax.lax.cummax(jnp.where(is_new, jnp.arange(x.size), 0))
