"""Probit regression: labels by the sign of a normal variable about the predictor."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from .._arrays import in_numpy, log_normal_cdf, namespace
from .._types import Real
from ._two_classes import TwoClasses

_LOG_ROOT_2PI = 0.5 * float(np.log(2 * np.pi))
_FAR = -30.0
_ROOT_STEPS = 12  # of Newton's method for a conjugate; it is within rounding after eight


@in_numpy
class Probit(TwoClasses):
    """The probit loss −log Φ(mη), m = 2y − 1, minus the log-likelihood of labels y in {0, 1}, (n,).

    Φ is the normal distribution function: y is 1 where η exceeds a standard normal variable. Where all labels
    of positive weight are equal the best intercept is infinite; the one returned leaves a gradient at rounding.

    Source: Bliss (1934).

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> loss = l1jax.Probit()
    >>> print(loss.inverse_link(jnp.array([0.0, 1.96])).round(3), loss.classes(jnp.array([-1.0, 2.0])))
    [0.5   0.975] [0 1]

    ```
    """

    @property
    def smoothness(self) -> float:
        return 1.0

    def per_row(self, y: Real, eta: Real) -> Float[Real, "... n"]:
        return -log_normal_cdf((2 * y - 1) * eta)

    def gradient(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Float[Real, "... n"]:
        m = 2 * y - 1
        return -s * m * _mills(m * eta)

    def curvature(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Float[Real, "... n"]:
        return s * _slope_of_mills((2 * y - 1) * eta)

    def conjugate(self, y: Real, u: Real, s: Float[Real, " n"]) -> Float[Real, "..."]:
        """Σ s(log Φ(t) − a t) with φ(t)/Φ(t) = a, a = −mu/s ≥ 0, else infinite."""
        xp = namespace(y, u, s)
        counts = s > 0
        a = xp.where(counts, -(2 * y - 1) * u / xp.where(counts, s, 1), 0)
        inside = (a >= 0).all(axis=-1)
        is_positive = a > 0
        safe = xp.where(is_positive, a, 1)
        t = _root(safe, xp.zeros_like(safe))
        rows = xp.where(is_positive, log_normal_cdf(t) - safe * t, 0)
        return xp.where(inside, (s * rows).sum(axis=-1), np.inf)

    def fenchel_gap(self, y: Real, eta: Real, c: Real, s: Float[Real, " n"]) -> Float[Real, "..."]:
        """Σ s(log Φ(t′) − log Φ(t) − cφ/Φ(t)(t′ − t)), t = mη and t′ where φ/Φ is c times that of t."""
        xp = namespace(y, eta, c, s)
        c, t = xp.asarray(c)[..., None], (2 * y - 1) * eta
        slope = c * _mills(t)
        is_scaled = (slope > 0) & (c < 1)  # a slope of 0 is met at infinity, where the loss is 0
        slope = xp.where(is_scaled, slope, 0.5)
        end = _root(slope, t)
        rows = log_normal_cdf(end) - log_normal_cdf(t) - slope * (end - t)
        rows = xp.where(is_scaled, xp.maximum(rows, 0), xp.where(c < 1, -log_normal_cdf(t), 0))
        return xp.where(s > 0, s * rows, 0).sum(axis=-1)

    def inverse_link(self, eta: Real) -> Real:
        return namespace(eta).exp(log_normal_cdf(eta))


def _log_mills(t: Real) -> Real:
    """log φ(t)/Φ(t), where Φ is nearly φ/(−t) far below 0."""
    xp, is_far = namespace(t), t < _FAR
    far, near = xp.where(is_far, t, _FAR), xp.where(is_far, 0, t)
    # There the two logs have lost their digits.
    expansion = xp.log(-far - 1 / far + 2 / far**3)
    return xp.where(is_far, expansion, -0.5 * near**2 - _LOG_ROOT_2PI - log_normal_cdf(near))


def _mills(t: Real) -> Real:
    """φ(t)/Φ(t)."""
    return namespace(t).exp(_log_mills(t))


def _slope_of_mills(t: Real) -> Real:
    """The derivative of −φ/Φ, in (0, 1)."""
    xp = namespace(t)
    a = _mills(t)
    far = xp.where(t < _FAR, t, _FAR)
    return xp.where(t < _FAR, 1 - 1 / far**2, xp.clip(a * (a + t), 0, 1))


def _root(a: Real, start: Real) -> Real:
    """The t with φ(t)/Φ(t) = a > 0, by Newton's method for the logs: log φ/Φ is concave and falls."""
    xp, t = namespace(a, start), start
    log_a = xp.log(a)
    for _ in range(_ROOT_STEPS):
        log_mills = _log_mills(t)
        t = t + (log_mills - log_a) / (xp.exp(log_mills) + t)
    return t
