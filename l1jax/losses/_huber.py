"""Huber's loss: least squares for small residuals, absolute error for large ones."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from .._tracing import frozen, is_traced
from ._base import Loss, Shifts


class Huber(Loss):
    """Huber's loss of the residual r = y − η: ½r² where |r| ≤ δ, δ(|r| − ½δ) beyond.

    **Arguments:**

    - `delta`: δ > 0, in the units of y; a number or one per row, (n,).

    **Raises:** ValueError for delta ≤ 0. Source: Huber (1964).

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> y, eta, s = jnp.array([1.0, 3.0]), jnp.array([0.0, 0.0]), jnp.array([0.5, 0.5])
    >>> float(l1jax.Huber(1.0).value(y, eta, s))
    1.5

    ```
    """

    delta: Any

    def __init__(self, delta: Any = 1.0):
        if not isinstance(delta, jax.Array):
            delta = np.asarray(delta, np.float64)
        if not is_traced(delta) and not (np.asarray(frozen(delta)) > 0).all():
            raise ValueError(f"delta must be > 0, got {delta}.")
        self.delta = delta

    @property
    def smoothness(self) -> float:
        return 1.0

    @property
    def is_of_residuals(self) -> bool:
        return True

    def per_row(self, y: Array, eta: Array) -> Float[Array, " n"]:
        delta = jnp.asarray(self.delta, eta.dtype)
        size = jnp.abs(y - eta)
        inner = jnp.minimum(size, delta)
        return inner * (size - 0.5 * inner)

    def gradient(self, y: Array, eta: Array, s: Float[Array, " n"]) -> Float[Array, " n"]:
        delta = jnp.asarray(self.delta, eta.dtype)
        return s * jnp.clip(eta - y, -delta, delta)

    def curvature(self, y: Array, eta: Array, s: Float[Array, " n"]) -> Float[Array, " n"]:
        return jnp.where(jnp.abs(y - eta) <= jnp.asarray(self.delta, eta.dtype), s, 0)

    def majorant(self, y: Array, eta: Array, s: Float[Array, " n"]) -> Float[Array, " n"]:
        """s min(1, δ/|r|): the weights of iterated least squares."""
        delta = jnp.asarray(self.delta, eta.dtype)
        return s * delta / jnp.maximum(jnp.abs(y - eta), delta)

    def shifts(self, y: Array, s: Float[Array, " n"]) -> Shifts:
        """Shifting the target of a row costs δ per unit."""
        weight = s * jnp.asarray(self.delta, s.dtype)
        return Shifts(s, y, weight, weight)

    def conjugate(self, y: Array, u: Array, s: Float[Array, " n"]) -> Float[Array, ""]:
        delta = jnp.asarray(self.delta, u.dtype)
        scaled = jnp.where(s > 0, u / jnp.where(s > 0, s, 1), 0)
        inside = jnp.all(jnp.abs(scaled) <= delta * (1 + 8 * jnp.finfo(u.dtype).eps))
        return jnp.where(inside, jnp.sum(s * (0.5 * scaled**2 + y * scaled)), jnp.inf)

    def fenchel_gap(
        self, y: Array, eta: Array, c: Array, s: Float[Array, " n"]
    ) -> Float[Array, ""]:
        """Σ s(½(1−c)²ψ² + (1−c)|ψ|(|r|−δ)₊) with ψ = clip(r, ±δ): no cancellation, exactly 0 at c = 1."""
        delta = jnp.asarray(self.delta, eta.dtype)
        size = jnp.abs(y - eta)
        inner = jnp.minimum(size, delta)
        rows = 0.5 * (1 - c) ** 2 * inner**2 + (1 - c) * inner * (size - inner)
        return jnp.sum(jnp.where(s > 0, s * rows, 0))

    def accepts(self, y: Array) -> Bool[Array, " n"]:
        return jnp.isfinite(y) & (jnp.asarray(self.delta) > 0)

    def _furthest_shift(self, eta: Array) -> Array:
        return jnp.asarray(jnp.finfo(eta.dtype).max / 8, eta.dtype)
