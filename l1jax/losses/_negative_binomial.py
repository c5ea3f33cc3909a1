"""Negative binomial regression with the log link: counts that vary more than Poisson's."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float

from .._arrays import eps, in_numpy, namespace, relative_entropy, sigmoid, softplus, xlogy
from .._tracing import frozen, is_traced
from .._types import Real
from ._base import Loss


@in_numpy
class NegativeBinomial(Loss):
    """The negative binomial loss (y + 1/α) log(1 + α exp η) − yη of counts y ≥ 0, (n,), with a log link.

    Minus the log-likelihood of a mean μ = exp η and a variance μ + αμ², as in statsmodels' `NegativeBinomial`
    and `NegativeBinomialP(p=2)`, less what does not depend on η. It becomes `Poisson` as α → 0.

    **Arguments:**

    - `alpha`: α > 0, a number; it is not estimated.

    **Raises:** ValueError for alpha ≤ 0. Source: Cameron and Trivedi (1998).

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> y, eta, s = jnp.array([0.0, 3.0]), jnp.zeros(2), jnp.array([0.5, 0.5])
    >>> print(f"{l1jax.NegativeBinomial(1.0).value(y, eta, s):.4f} = 5/2 log 2")
    1.7329 = 5/2 log 2

    ```
    """

    alpha: Any

    def __init__(self, alpha: Any = 1.0):
        if not isinstance(alpha, jax.Array):
            alpha = np.asarray(alpha, np.float64)
        if not is_traced(alpha) and not (np.asarray(frozen(alpha)) > 0).all():
            raise ValueError(f"alpha must be > 0, got {alpha}: l1jax.Poisson() is for alpha = 0.")
        self.alpha = alpha

    def _parts(self, y: Real, eta: Real) -> tuple[Real, Real]:
        """1/α and η + log α."""
        xp = namespace(y, eta, self.alpha)
        alpha = xp.asarray(self.alpha, eta.dtype)
        return 1 / alpha, eta + xp.log(alpha)

    def per_row(self, y: Real, eta: Real) -> Float[Real, "... n"]:
        size, logit = self._parts(y, eta)
        # y log(1 + exp x) − yη = −y(η − x) + y log(1 + exp −x), of which no part is large where x is.
        return size * softplus(logit) + y * (softplus(-logit) + (logit - eta))

    def gradient(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Float[Real, "... n"]:
        xp = namespace(y, eta, s)
        size, logit = self._parts(y, eta)
        return xp.where(s > 0, s * (size * sigmoid(logit) - y * sigmoid(-logit)), 0)

    def curvature(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Float[Real, "... n"]:
        xp = namespace(y, eta, s)
        size, logit = self._parts(y, eta)
        return xp.where(s > 0, s * (y + size) * sigmoid(logit) * sigmoid(-logit), 0)

    def conjugate(self, y: Real, u: Real, s: Float[Real, " n"]) -> Float[Real, "..."]:
        """Σ s(m log(m/N) + (N−m) log((N−m)/N) − m log α), m = y + u/s in [0, N], N = y + 1/α, else infinite."""
        xp = namespace(y, u, s, self.alpha)
        alpha, counts = xp.asarray(self.alpha, u.dtype), s > 0
        y = xp.where(counts, y, 0)
        scaled = xp.where(counts, u / xp.where(counts, s, 1), 0)
        total, own, other = y + 1 / alpha, y + scaled, 1 / alpha - scaled
        rounding = 8 * eps(u) * (1 + total)
        inside = ((own >= -rounding) & (other >= -rounding)).all(axis=-1)
        own, other = xp.maximum(own, 0), xp.maximum(other, 0)
        rows = xlogy(own, own / total / alpha) + xlogy(other, other / total)
        return xp.where(inside, (s * rows).sum(axis=-1), np.inf)

    def fenchel_gap(self, y: Real, eta: Real, c: Real, s: Float[Real, " n"]) -> Float[Real, "..."]:
        """Σ s N KL of m/N = (y + c(M − y))/N from M/N = αμ/(1 + αμ): every part ≥ 0, exactly 0 at c = 1."""
        xp = namespace(y, eta, c, s)
        c = xp.asarray(c)[..., None]
        size, logit = self._parts(y, eta)
        own, other = (y + size) * sigmoid(logit), (y + size) * sigmoid(-logit)
        rest = (1 - c) * (y * sigmoid(-logit) - size * sigmoid(logit))
        rows = relative_entropy(own + rest, own) + relative_entropy(other - rest, other)
        return xp.where((s > 0) & (c < 1), s * rows, 0).sum(axis=-1)

    def saturated(self, y: Real, s: Float[Real, " n"]) -> Float[Real, "..."]:
        xp = namespace(y, s, self.alpha)
        alpha = xp.asarray(self.alpha, y.dtype)
        return (s * ((y + 1 / alpha) * xp.log1p(alpha * y) - xlogy(y, y))).sum(axis=-1)

    def inverse_link(self, eta: Real) -> Real:
        return namespace(eta).exp(eta)

    def accepts(self, y: Real) -> Bool[Real, " n"]:
        xp = namespace(y, self.alpha)
        return xp.isfinite(y) & (y >= 0) & (xp.asarray(self.alpha) > 0)

    def check_targets(self, y: np.ndarray) -> None:
        self.check_shape(y.shape)
        bad = np.flatnonzero(y < 0)
        if len(bad):
            raise ValueError(
                f"y must hold counts >= 0 for NegativeBinomial, got {y[bad[0]]} at row {bad[0]}."
            )
