"""Least squares, for one or several responses."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from ._base import Loss


class SquaredError(Loss):
    """Half the squared error ½(y − η)², summed over responses: the lasso is ½n⁻¹‖y − Xβ‖² + λ‖β‖₁.

    y (n,) or (n, k), real.

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

    def per_row(self, y: Array, eta: Array) -> Float[Array, " n"]:
        return 0.5 * _row_sums((y - eta) ** 2)

    def gradient(self, y: Array, eta: Array, s: Float[Array, " n"]) -> Float[Array, "n *k"]:
        return _rows(s, eta) * (eta - y)

    def curvature(self, y: Array, eta: Array, s: Float[Array, " n"]) -> Float[Array, "n *k"]:
        return jnp.broadcast_to(_rows(s, eta), eta.shape)

    def conjugate(self, y: Array, u: Array, s: Float[Array, " n"]) -> Float[Array, ""]:
        counts = _rows(s > 0, u)
        scaled = jnp.where(counts, u / jnp.where(counts, _rows(s, u), 1), 0)
        return jnp.sum(_rows(s, u) * (0.5 * scaled**2 + scaled * jnp.where(counts, y, 0)))

    def fenchel_gap(
        self, y: Array, eta: Array, c: Array, s: Float[Array, " n"]
    ) -> Float[Array, ""]:
        """½(1−c)² Σ sᵢ(yᵢ − ηᵢ)²: the same number, without the cancellation."""
        return (1 - c) ** 2 * self.value(y, eta, s)

    def polish_intercept(self, y: Array, eta: Array, s: Float[Array, " n"]) -> Float[Array, "*k"]:
        return jnp.sum(_rows(s, eta) * (y - eta), axis=0) / jnp.sum(s)

    def check_shape(self, shape: tuple[int, ...]) -> None:
        del shape


def _rows(s: Array, like: Array) -> Array:
    return s.reshape(s.shape + (1,) * (like.ndim - 1))


def _row_sums(values: Array) -> Array:
    return values if values.ndim == 1 else values.sum(axis=1)
