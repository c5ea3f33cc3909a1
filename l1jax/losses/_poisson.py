"""Poisson regression with the log link."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from .._arrays import eps, in_numpy, namespace, xlogy
from .._types import Real
from ._base import Loss


@in_numpy
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

    def per_row(self, y: Real, eta: Real) -> Float[Real, "... n"]:
        xp = namespace(y, eta)
        return xp.exp(eta) - y * eta

    def gradient(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Float[Real, "... n"]:
        xp = namespace(y, eta, s)
        return xp.where(s > 0, s * (xp.exp(eta) - y), 0)

    def curvature(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Float[Real, "... n"]:
        xp = namespace(eta, s)
        del y
        return xp.where(s > 0, s * xp.exp(eta), 0)

    def conjugate(self, y: Real, u: Real, s: Float[Real, " n"]) -> Float[Real, "..."]:
        """Σ s(m log m − m) with m = y + u/s ≥ 0, else infinite."""
        xp = namespace(y, u, s)
        scaled = xp.where(s > 0, u / xp.where(s > 0, s, 1), 0)
        mean = xp.where(s > 0, y + scaled, 0)
        inside = (mean >= -8 * eps(u) * (1 + abs(y))).all(axis=-1)
        mean = xp.maximum(mean, 0)
        return xp.where(inside, (s * (xlogy(mean, mean) - mean)).sum(axis=-1), np.inf)

    def fenchel_gap(self, y: Real, eta: Real, c: Real, s: Float[Real, " n"]) -> Float[Real, "..."]:
        """Σ s(m log(m/μ) − m + μ) with μ = exp η, m = y + c(μ − y): every row ≥ 0, exactly 0 at c = 1."""
        xp = namespace(y, eta, c, s)
        c = xp.asarray(c)[..., None]
        mu = xp.exp(eta)
        mean = y + c * (mu - y)
        rows = xlogy(mean, mean) - mean * eta - mean + mu
        rows = xp.where(c == 1, 0, xp.maximum(rows, 0))
        return xp.where(s > 0, s * rows, 0).sum(axis=-1)

    def polish_intercept(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Float[Real, "..."]:
        xp = namespace(y, eta, s)
        peak = xp.where(s > 0, eta, -np.inf).max(axis=-1)
        peak = xp.where(xp.isfinite(peak), peak, 0)
        shape = xp.where(s > 0, s * xp.exp(eta - peak[..., None]), 0).sum(axis=-1)
        least = eps(eta) ** 2
        mean = xp.maximum((s * y).sum(axis=-1), least)
        return xp.log(mean) - xp.log(shape) - peak

    def saturated(self, y: Real, s: Float[Real, " n"]) -> Float[Real, "..."]:
        return (s * (y - xlogy(y, y))).sum(axis=-1)

    def inverse_link(self, eta: Real) -> Real:
        xp = namespace(eta)
        return xp.exp(eta)

    def accepts(self, y: Real) -> Bool[Real, " n"]:
        xp = namespace(y)
        return xp.isfinite(y) & (y >= 0)

    def check_targets(self, y: np.ndarray) -> None:
        self.check_shape(y.shape)
        bad = np.flatnonzero(y < 0)
        if len(bad):
            raise ValueError(
                f"y must hold counts >= 0 for Poisson, got {y[bad[0]]} at row {bad[0]}."
            )
