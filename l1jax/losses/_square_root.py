"""The square-root lasso: the root mean squared error, whose best λ does not depend on the noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float

from .._arrays import eps, in_numpy, namespace
from .._types import Real
from ._base import Loss


@in_numpy
class SquareRootLasso(Loss):
    """The root mean squared error √(Σᵢ sᵢ(yᵢ − ηᵢ)²), of numbers y (n,): with `L1(λ)` ‖y − Xβ‖₂/√n + λ‖β‖₁.

    It is no sum over rows. Its solution at λ is that of the lasso at λ times the root mean squared error there,
    so that the λ which suits a design does not depend on the noise: √(2 log(p)/n) or a little more, for columns
    of norm √n. It has a corner where all residuals vanish: where features outnumber rows, solutions below some
    λ are of that kind, and steps end short of them.

    Source: Belloni, Chernozhukov and Wang (2011).

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> y, eta, s = jnp.array([3.0, 0.0]), jnp.array([0.0, 4.0]), jnp.array([0.5, 0.5])
    >>> print(f"{l1jax.SquareRootLasso().value(y, eta, s):.4f} = 5/√2")
    3.5355 = 5/√2

    ```
    """

    @property
    def is_separable(self) -> bool:
        return False

    @property
    def is_of_residuals(self) -> bool:
        return True

    def per_row(self, y: Real, eta: Real) -> Float[Real, "... n"]:
        """Terms whose mean it is where all rows weigh the same."""
        xp, squares = namespace(y, eta), (y - eta) ** 2
        size = xp.sqrt(squares.mean(axis=-1, keepdims=True))
        return squares / xp.where(size > 0, size, 1)

    def value(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Float[Real, "..."]:
        xp = namespace(y, eta, s)
        total = (s * (y - eta) ** 2).sum(axis=-1)
        return xp.where(total > 0, xp.sqrt(xp.where(total > 0, total, 1)), 0)

    def _inverse(self, y: Real, eta: Real, s: Real) -> Real:
        """1 over the value, (..., 1); 0 where that is 0."""
        xp, size = namespace(y, eta, s), self.value(y, eta, s)[..., None]
        return xp.where(size > 0, 1 / xp.where(size > 0, size, 1), 0)

    def gradient(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Float[Real, "... n"]:
        return s * (eta - y) * self._inverse(y, eta, s)

    def curvature(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Float[Real, "... n"]:
        return (s - self.gradient(y, eta, s) ** 2) * self._inverse(y, eta, s)

    def hessian(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Callable[[Any], Any]:
        """(diag s − ggᵀ)/L, with g the gradient."""
        g, inverse = self.gradient(y, eta, s), self._inverse(y, eta, s)
        return lambda u: (s * u - g * (g * u).sum(axis=-1, keepdims=True)) * inverse

    def majorant(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Float[Real, "... n"]:
        """s/L, as a root is below its tangents."""
        return s * self._inverse(y, eta, s)

    def conjugate(self, y: Real, u: Real, s: Float[Real, " n"]) -> Float[Real, "..."]:
        """⟨u, y⟩ where Σ u²/s ≤ 1, else infinite."""
        xp = namespace(y, u, s)
        counts = s > 0
        size = (xp.where(counts, u**2 / xp.where(counts, s, 1), 0)).sum(axis=-1)
        product = (xp.where(counts, u * xp.where(counts, y, 0), 0)).sum(axis=-1)
        return xp.where(size <= 1 + 100 * eps(u), product, np.inf)

    def fenchel_gap(self, y: Real, eta: Real, c: Real, s: Float[Real, " n"]) -> Float[Real, "..."]:
        """(1 − c) L: the same number, without the cancellation."""
        return (1 - c) * self.value(y, eta, s)

    def polish_intercept(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Float[Real, "..."]:
        return (s * (y - eta)).sum(axis=-1) / s.sum()

    def saturated(self, y: Real, s: Float[Real, " n"]) -> Float[Real, ""]:
        return namespace(y, s).zeros((), y.dtype)
