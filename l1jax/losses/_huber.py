"""Huber's loss: least squares for small residuals, absolute error for large ones."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from .._arrays import eps, in_numpy, namespace
from .._tracing import frozen, is_traced
from .._types import Real
from ._base import Loss, Shifts


@in_numpy
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

    def per_row(self, y: Real, eta: Real) -> Float[Real, "... n"]:
        xp = namespace(y, eta, self.delta)
        delta = xp.asarray(self.delta, eta.dtype)
        size = abs(y - eta)
        inner = xp.minimum(size, delta)
        return inner * (size - 0.5 * inner)

    def gradient(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Float[Real, "... n"]:
        xp = namespace(y, eta, s, self.delta)
        delta = xp.asarray(self.delta, eta.dtype)
        return s * xp.clip(eta - y, -delta, delta)

    def curvature(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Float[Real, "... n"]:
        xp = namespace(y, eta, s, self.delta)
        return xp.where(abs(y - eta) <= xp.asarray(self.delta, eta.dtype), s, 0)

    def majorant(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Float[Real, "... n"]:
        """s min(1, δ/|r|): the weights of iterated least squares."""
        xp = namespace(y, eta, s, self.delta)
        delta = xp.asarray(self.delta, eta.dtype)
        return s * delta / xp.maximum(abs(y - eta), delta)

    def shifts(self, y: Real, s: Float[Real, " n"]) -> Shifts:
        """Shifting the target of a row costs δ per unit."""
        xp = namespace(y, s, self.delta)
        weight = s * xp.asarray(self.delta, s.dtype)
        return Shifts(s, y, weight, weight)

    def conjugate(self, y: Real, u: Real, s: Float[Real, " n"]) -> Float[Real, "..."]:
        xp = namespace(y, u, s, self.delta)
        delta = xp.asarray(self.delta, u.dtype)
        scaled = xp.where(s > 0, u / xp.where(s > 0, s, 1), 0)
        inside = (abs(scaled) <= delta * (1 + 8 * eps(u))).all(axis=-1)
        return xp.where(inside, (s * (0.5 * scaled**2 + y * scaled)).sum(axis=-1), np.inf)

    def fenchel_gap(self, y: Real, eta: Real, c: Real, s: Float[Real, " n"]) -> Float[Real, "..."]:
        """Σ s(½(1−c)²ψ² + (1−c)|ψ|(|r|−δ)₊) with ψ = clip(r, ±δ): no cancellation, exactly 0 at c = 1."""
        xp = namespace(y, eta, c, s, self.delta)
        c = xp.asarray(c)[..., None]
        delta = xp.asarray(self.delta, eta.dtype)
        size = abs(y - eta)
        inner = xp.minimum(size, delta)
        rows = 0.5 * (1 - c) ** 2 * inner**2 + (1 - c) * inner * (size - inner)
        return xp.where(s > 0, s * rows, 0).sum(axis=-1)

    def accepts(self, y: Real) -> Bool[Real, " n"]:
        xp = namespace(y, self.delta)
        return xp.isfinite(y) & (xp.asarray(self.delta) > 0)

    def _furthest_shift(self, eta: Real) -> Real:
        return namespace(eta).asarray(jnp.finfo(eta.dtype).max / 8, eta.dtype)
