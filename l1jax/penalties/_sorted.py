"""Sorted L1 norms: the largest coefficient has the largest weight, which makes clusters of equal sizes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy  # which loads `special` when it is used
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, PyTree

from .. import prox
from .._tracing import frozen, is_traced
from ._base import check_nonnegative, nearest_knot
from ._forms import EDGE
from ._norms import Norm


class SLOPE(Norm):
    """The sorted L1 norm λ Σₖ wₖ|x|₍ₖ₎, |x|₍₁₎ ≥ |x|₍₂₎ ≥ ...: it selects, and makes clusters of equal sizes.

    Equal weights are the lasso. `SLOPE.bh_weights(p, q)` control the false discovery rate in orthogonal
    designs; `SLOPE.oscar_weights(p, c)` fall linearly. The norm is of all coefficients together, also with
    several responses, and refers to σⱼβⱼ with `standardize=True`.

    **Arguments:**

    - `lam`: the strength λ ≥ 0, in units of a gradient; None is not set yet.
    - `weights`: w ≥ 0, one per coefficient (p,), from the largest to the smallest; w₁ > 0.

    **Raises:** ValueError for weights that increase, are negative or not finite, or are not as many as
    coefficients.
    Source: Bogdan et al. (2015).

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> pen = l1jax.SLOPE(1.0, weights=[4.0, 3.0, 2.0])
    >>> print(pen.prox(jnp.array([6.0, -6.5, 1.0])))
    [ 2.75 -2.75  0.  ]

    ```
    """

    weights: Any

    def __init__(self, lam: Any = None, weights: Any = None):
        if weights is None:
            raise TypeError(
                "SLOPE needs weights, one per coefficient and not increasing: pass for example "
                "weights=l1jax.SLOPE.bh_weights(p)."
            )
        super().__init__(lam)
        self.weights = _sorted_weights(weights)

    @staticmethod
    def bh_weights(p: int, q: float = 0.1) -> Float[np.ndarray, " p"]:
        """Φ⁻¹(1 − q k/(2p)) for k = 1, ..., p, the Benjamini–Hochberg weights for a false discovery rate q.

        In units of the standard error of a coefficient: with squared error and standardised columns, λ = σ/√n.

        **Raises:** ValueError unless p ≥ 1 and 0 < q < 1. Source: Bogdan et al. (2015).
        """
        if p < 1 or not 0 < q < 1:
            raise ValueError(f"p must be at least 1 and q between 0 and 1, got {p} and {q}.")
        return scipy.special.ndtri(1 - q * np.arange(1, p + 1) / (2 * p))

    @staticmethod
    def oscar_weights(p: int, c: float) -> Float[np.ndarray, " p"]:
        """1 + c(p − k) for k = 1, ..., p: the weights of ‖x‖₁ + c Σ_{j<k} max(|xⱼ|, |xₖ|).

        **Raises:** ValueError unless p ≥ 1 and c ≥ 0. Source: Bondell and Reich (2008).
        """
        if p < 1 or not c >= 0:
            raise ValueError(f"p must be at least 1 and c at least 0, got {p} and {c}.")
        return 1.0 + c * np.arange(p - 1, -1, -1)

    def is_valid(self) -> Bool[Array, ""]:
        weights = jnp.asarray(self.weights)
        is_sorted = jnp.all(weights[1:] <= weights[:-1]) & (weights[0] > 0)
        return super().is_valid() & is_sorted & jnp.all((weights >= 0) & jnp.isfinite(weights))

    def value(self, x: PyTree) -> Array:
        flat, _ = ravel_pytree(x)
        weights = self._lam_like(flat) * self._weights_like(flat)
        return jnp.sum(weights * jnp.sort(jnp.abs(flat), descending=True))

    def prox(self, z: PyTree, step: Any = 1.0) -> PyTree:
        return prox.prox_slope(z, self._lam(), self._weights_like(ravel_pytree(z)[0]), step)

    def lambda_max(self, gradient: Array) -> Array:
        """maxₖ (|g|₍₁₎ + ... + |g|₍ₖ₎)/(w₁ + ... + wₖ), the dual norm of the gradient at λ = 1."""
        sizes = jnp.sort(jnp.abs(gradient).ravel(), descending=True)
        norm = _largest_ratio(sizes, self._weights_like(gradient.ravel()))
        # Sums are rounded: not below the true one.
        return norm * (1 + EDGE / 2 * jnp.finfo(norm.dtype).eps)

    def margin(self, x: Array, gradient: Array, curvature: Array) -> Array:
        """As in `Penalty`; what is out enters by the weights that those which are in leave to it."""
        if self.strength_value is None:
            return jnp.full((), jnp.nan, gradient.dtype)
        lam, weights = jnp.asarray(self.lam, gradient.dtype), self._weights_like(gradient.ravel())
        is_out = (x == 0).ravel()
        # Sorted, those that are in have the first weights.
        sizes = jnp.where(is_out, jnp.abs(gradient).ravel(), jnp.inf)
        sizes = jnp.sort(sizes, descending=True)
        is_next = jnp.isfinite(sizes)
        enters = _largest_ratio(jnp.where(is_next, sizes, 0), jnp.where(is_next, weights, 0))
        size = jnp.abs(gradient)
        moves = (x != 0) & (size > 0)
        rise = lam * curvature * jnp.abs(x) / jnp.where(moves, size, 1)
        return nearest_knot(lam, enters, jnp.where(moves, lam + rise, jnp.inf))

    def _weights_like(self, flat: Array) -> Float[Array, " p"]:
        if np.shape(self.weights) != flat.shape:
            raise ValueError(
                f"weights has {np.size(self.weights)} numbers, but there are {flat.size} coefficients: "
                "SLOPE needs one for each."
            )
        return jnp.asarray(self.weights, flat.dtype)


def _largest_ratio(sizes: Array, weights: Array) -> Array:
    """maxₖ (sizes₁ + ... + sizesₖ)/(weights₁ + ... + weightsₖ); inf where only sizes are above 0."""
    sums, totals = jnp.cumsum(sizes), jnp.cumsum(weights)
    ratios = sums / jnp.where(totals > 0, totals, 1)
    ratios = jnp.where(totals > 0, ratios, jnp.where(sums > 0, jnp.inf, 0))
    return jnp.max(ratios, initial=0)


def _sorted_weights(weights: Any) -> Any:
    """Weights as a leaf; checked to be finite, ≥ 0 and not increasing where they are concrete."""
    if is_traced(weights) or type(weights) is object:
        return weights
    array = np.asarray(jax.tree.map(frozen, weights))
    if array.dtype.kind not in "fiub" or array.ndim != 1 or not array.size:
        raise TypeError(
            f"weights must be a list of numbers, one per coefficient, got dtype {array.dtype} and "
            f"shape {array.shape}."
        )
    check_nonnegative(array, "weights")
    rises = np.flatnonzero(np.diff(array) > 0)
    if rises.size:
        k = int(rises[0])
        raise ValueError(
            f"weights must not increase, got {array[k]} before {array[k + 1]}: sort them, the largest first."
        )
    if not array[0] > 0:
        raise ValueError("weights must start with a number above 0: else nothing is penalised.")
    return weights if isinstance(weights, jax.Array) else array.astype(np.float64)
