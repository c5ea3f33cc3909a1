"""Poisson regression with the log link."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import xlogy
from jaxtyping import Array, Bool, Float

from ._base import Loss


class Poisson(Loss):
    """The Poisson loss exp(η) − yη, minus the log-likelihood of counts (or rates) y ≥ 0, (n,), with a log link.

    Its curvature exp(η) has no bound. Where y is 0 in all rows of positive weight the best intercept is minus
    infinity; the one returned leaves a mean at rounding.

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> print(l1jax.Poisson().inverse_link(jnp.array([0.0])))
    [1.]

    ```
    """

    def per_row(self, y: Array, eta: Array) -> Float[Array, " n"]:
        return jnp.exp(eta) - y * eta

    def gradient(self, y: Array, eta: Array, s: Float[Array, " n"]) -> Float[Array, " n"]:
        return jnp.where(s > 0, s * (jnp.exp(eta) - y), 0)

    def curvature(self, y: Array, eta: Array, s: Float[Array, " n"]) -> Float[Array, " n"]:
        del y
        return jnp.where(s > 0, s * jnp.exp(eta), 0)

    def conjugate(self, y: Array, u: Array, s: Float[Array, " n"]) -> Float[Array, ""]:
        """Σ s(m log m − m) with m = y + u/s ≥ 0, else infinite."""
        scaled = jnp.where(s > 0, u / jnp.where(s > 0, s, 1), 0)
        mean = jnp.where(s > 0, y + scaled, 0)
        inside = jnp.all(mean >= -8 * jnp.finfo(u.dtype).eps * (1 + jnp.abs(y)))
        mean = jnp.maximum(mean, 0)
        return jnp.where(inside, jnp.sum(s * (xlogy(mean, mean) - mean)), jnp.inf)

    def fenchel_gap(
        self, y: Array, eta: Array, c: Array, s: Float[Array, " n"]
    ) -> Float[Array, ""]:
        """Σ s(m log(m/μ) − m + μ) with μ = exp η, m = y + c(μ − y): every row ≥ 0, exactly 0 at c = 1."""
        mu = jnp.exp(eta)
        mean = y + c * (mu - y)
        rows = xlogy(mean, mean) - mean * eta - mean + mu
        rows = jnp.where(c == 1, 0, jnp.maximum(rows, 0))
        return jnp.sum(jnp.where(s > 0, s * rows, 0))

    def polish_intercept(self, y: Array, eta: Array, s: Float[Array, " n"]) -> Float[Array, ""]:
        peak = jnp.max(eta, where=s > 0, initial=-jnp.inf)
        peak = jnp.where(jnp.isfinite(peak), peak, 0)
        shape = jnp.sum(jnp.where(s > 0, s * jnp.exp(eta - peak), 0))
        least = jnp.finfo(eta.dtype).eps ** 2
        mean = jnp.maximum(jnp.sum(s * y), least)
        return jnp.log(mean) - jnp.log(shape) - peak

    def saturated(self, y: Array, s: Float[Array, " n"]) -> Float[Array, ""]:
        return jnp.sum(s * (y - xlogy(y, y)))

    def inverse_link(self, eta: Array) -> Array:
        return jnp.exp(eta)

    def accepts(self, y: Array) -> Bool[Array, " n"]:
        return jnp.isfinite(y) & (y >= 0)

    def check_targets(self, y: np.ndarray) -> None:
        self.check_shape(y.shape)
        bad = np.flatnonzero(y < 0)
        if len(bad):
            raise ValueError(
                f"y must hold counts >= 0 for Poisson, got {y[bad[0]]} at row {bad[0]}."
            )
