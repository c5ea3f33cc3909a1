"""Least squares, for one or several responses."""

from __future__ import annotations

from jaxtyping import Float

from .._arrays import in_numpy, namespace
from .._types import Real
from ._base import Loss, over_rows


@in_numpy
class SquaredError(Loss):
    """Half the squared error ½(y − η)², summed over responses: the lasso is ½n⁻¹‖y − Xβ‖² + λ‖β‖₁.

    y (n,) or (n, k), real.

    Source: Hastie, Tibshirani and Friedman (2009), chapter 3.

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> y, eta, s = jnp.array([1.0, 3.0]), jnp.array([0.0, 1.0]), jnp.array([0.5, 0.5])
    >>> float(l1jax.SquaredError().value(y, eta, s))
    1.25

    ```
    """

    @property
    def smoothness(self) -> float:
        return 1.0

    @property
    def is_quadratic(self) -> bool:
        return True

    def per_row(self, y: Real, eta: Real) -> Float[Real, "... n"]:
        squares = 0.5 * (y - eta) ** 2
        return squares if y.ndim == 1 else squares.sum(axis=-1)

    def gradient(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Float[Real, "... n *k"]:
        return over_rows(self, s, y, eta) * (eta - y)

    def curvature(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Float[Real, "... n *k"]:
        return namespace(s, eta).broadcast_to(over_rows(self, s, y, eta), eta.shape)

    def conjugate(self, y: Real, u: Real, s: Float[Real, " n"]) -> Float[Real, "..."]:
        xp, s = namespace(y, u, s), over_rows(self, s, y, u)
        counts = s > 0
        scaled = xp.where(counts, u / xp.where(counts, s, 1), 0)
        terms = s * (0.5 * scaled**2 + scaled * xp.where(counts, y, 0))
        return terms.sum(axis=tuple(range(-y.ndim, 0)))

    def fenchel_gap(self, y: Real, eta: Real, c: Real, s: Float[Real, " n"]) -> Float[Real, "..."]:
        """½(1−c)² Σ sᵢ(yᵢ − ηᵢ)²: the same number, without the cancellation."""
        return (1 - c) ** 2 * self.value(y, eta, s)

    def polish_intercept(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Float[Real, "... *k"]:
        return (over_rows(self, s, y, eta) * (y - eta)).sum(axis=-y.ndim) / s.sum()

    def check_shape(self, shape: tuple[int, ...]) -> None:
        del shape
