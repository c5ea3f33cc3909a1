"""Exponential dispersion models with the log link: the variance of y is a power of its mean.

With the mean μ = exp η and the variance φμᵖ, minus the log-likelihood is, in units of φ,

    a(η) + y b(η),    a = ∫ exp((2−p)η) dη,    b = −∫ exp((1−p)η) dη,

which is the Poisson loss at p = 1, the gamma loss at p = 2 and that of the inverse Gaussian at p = 3. It
is convex for 1 ≤ p ≤ 2. Source: Jørgensen (1987).
"""

from typing import Any, ClassVar

import equinox as eqx
import numpy as np
from jaxtyping import Bool, Float

from .._arrays import eps, in_numpy, namespace, relative_entropy, xlogy
from .._types import Real
from ._base import Loss

_ROOT_STEPS = 8  # of Newton's method for a conjugate; it is within rounding after six
_NEAR = 1.0  # |η − log y| up to which a deviance is computed from the difference


class PowerVariance(Loss):
    """The loss of a mean exp η whose variance is proportional to its `power`, for numbers y (n,)."""

    power: ClassVar[float]  # p; of `Tweedie` a field

    @property
    def convex(self) -> bool:
        return 1 <= self.power <= 2

    @property
    def has_curvature(self) -> bool:
        return self.convex

    @property
    def is_likelihood(self) -> bool:
        """Only of the Poisson distribution: others have a dispersion φ, which nobody has estimated."""
        return self.power == 1

    def per_row(self, y: Real, eta: Real) -> Float[Real, "... n"]:
        p = self.power
        if p == 1:
            return _power(eta, 1.0) - y * eta
        if p == 2:
            return eta + self._sum(y, eta, 0.0, 1.0)
        return self._sum(y, eta, 1 / (2 - p), 1 / (p - 1))

    def gradient(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Float[Real, "... n"]:
        return namespace(y, eta, s).where(s > 0, s * self._sum(y, eta, 1.0, -1.0), 0)

    def curvature(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Float[Real, "... n"]:
        curvature = self._sum(y, eta, 2 - self.power, self.power - 1)
        return namespace(y, eta, s).where(s > 0, s * curvature, 0)

    def _sum(self, y: Real, eta: Real, of_mean: float, of_target: float) -> Real:
        """of_mean exp((2−p)η) + of_target y exp((1−p)η), also where both of them overflow."""
        p = self.power
        if p > 2:
            return _power(eta, 2 - p) * (of_mean + of_target * y * _power(eta, -1.0))
        if p < 1:
            return _power(eta, 1 - p) * (of_mean * _power(eta, 1.0) + of_target * y)
        mean, target = self._slopes(y, eta)
        return of_target * target + (of_mean * mean if of_mean else 0)

    def majorant(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Float[Real, "... n"]:
        """The curvature; of a loss that is not convex what it has on average over y, where that is more."""
        curvature = self.curvature(y, eta, s)
        if self.convex:
            return curvature
        xp = namespace(y, eta, s)
        return xp.where(s > 0, xp.maximum(curvature, s * _power(eta, 2 - self.power)), 0)

    def _slopes(self, y: Real, eta: Real) -> tuple[Real, Real]:
        """a′(η) and −y b′(η), whose difference is the slope, for 1 ≤ p ≤ 2."""
        xp = namespace(y, eta)
        of_mean = _power(eta, 2 - self.power)
        if self.power == 1:
            return of_mean, y
        # Where y is 0, the product is: also with what is infinite.
        return of_mean, y * _power(xp.where(y == 0, 0, eta), 1 - self.power)

    def conjugate(self, y: Real, u: Real, s: Float[Real, " n"]) -> Float[Real, "..."]:
        """The sum of those of a and of y b, at the derivatives that these have where the slope is u/s."""
        xp, p = namespace(y, u, s), self.power
        if not self.convex:
            return super().conjugate(y, u, s)
        counts = s > 0
        y, v = xp.where(counts, y, 1), xp.where(counts, u / xp.where(counts, s, 1), 0)
        rounding = 8 * eps(u) * (1 + abs(y))
        if p == 1:
            of_mean, of_target = v + y, y
        elif p == 2:
            of_mean, of_target = xp.ones_like(v), 1 - v
        else:
            of_mean, of_target = self._slopes_at(y, v)
        inside = (of_mean >= -rounding) & (of_target >= -rounding)
        of_mean, of_target = xp.maximum(of_mean, 0), xp.maximum(of_target, 0)
        rows = 0 * of_mean
        if p < 2:
            rows = (xlogy(of_mean, of_mean) - of_mean) / (2 - p)
        if p > 1:
            ratio = of_target / xp.where(y > 0, y, 1)
            rows = rows + (xlogy(of_target, ratio) - of_target) / (p - 1)
        total = xp.where(counts, s * xp.where(inside, rows, 0), 0).sum(axis=-1)
        return xp.where((inside | ~counts).all(axis=-1), total, np.inf)

    def _slopes_at(self, y: Real, v: Real) -> tuple[Real, Real]:
        """a′ and −y b′ where their difference is v, for 1 < p < 2."""
        xp, p = namespace(y, v), self.power
        is_positive = y > 0
        safe = xp.where(is_positive, y, 1)
        d = xp.sign(v) * _root(abs(v) * safe ** (p - 2), xp.where(v > 0, 2 - p, p - 1))
        of_mean = xp.exp((2 - p) * (xp.log(safe) + d))
        of_target = xp.exp((1 - p) * d + (2 - p) * xp.log(safe))
        # What a step more of Newton's would bring: with the conjugates of the two parts no bound is too low.
        rest = v - (of_mean - of_target)
        part = (2 - p) * of_mean / ((2 - p) * of_mean + (p - 1) * of_target)
        of_mean = xp.where(is_positive, of_mean + part * rest, v)
        return of_mean, xp.where(is_positive, of_mean - v, 0)

    def fenchel_gap(self, y: Real, eta: Real, c: Real, s: Float[Real, " n"]) -> Float[Real, "..."]:
        """The gaps of a and of y b at derivatives whose difference is c times the slope.

        Any two such derivatives bound the gap of the sum from above; these have the least bound to second
        order in 1 − c. Exactly 0 at c = 1.
        """
        if not self.convex:
            return super().fenchel_gap(y, eta, c, s)
        xp, p = namespace(y, eta, c, s), self.power
        c = xp.asarray(c)[..., None]
        of_mean, of_target = self._slopes(y, eta)
        rest = (1 - c) * (of_target - of_mean)  # by which the slope is to change
        rows = 0
        part = 1 if p == 1 else 0
        if 1 < p < 2:
            weight = (2 - p) * of_mean
            total = weight + (p - 1) * of_target
            part = weight / xp.where(total > 0, total, 1)
        if p < 2:
            rows = relative_entropy(of_mean + part * rest, of_mean) / (2 - p)
        if p > 1:
            rows = rows + relative_entropy(of_target - (1 - part) * rest, of_target) / (p - 1)
        return xp.where((s > 0) & (c < 1), s * rows, 0).sum(axis=-1)

    def polish_intercept(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Float[Real, "..."]:
        """log Σ s y exp((1−p)η) − log Σ s exp((2−p)η): the only root of the slope, at any power."""
        xp = namespace(y, eta, s)
        sums, peaks = [], []
        for q, weight in ((1 - self.power, s * xp.where(s > 0, y, 0)), (2 - self.power, s)):
            sizes = q * eta
            peak = xp.where(s > 0, sizes, -np.inf).max(axis=-1)
            peak = xp.where(xp.isfinite(peak), peak, 0)
            terms = xp.where(s > 0, weight * xp.exp(sizes - peak[..., None]), 0)
            sums.append(terms.sum(axis=-1))
            peaks.append(peak)
        target = xp.maximum(sums[0], eps(eta) ** 2)
        return xp.log(target) - xp.log(sums[1]) + peaks[0] - peaks[1]

    def saturated(self, y: Real, s: Float[Real, " n"]) -> Float[Real, "..."]:
        return _total(self._saturated_rows(y), s)

    def _saturated_rows(self, y: Real) -> Real:
        """The least loss of each row, at the mean y; at a mean of 0 where y is not positive."""
        xp, p = namespace(y), self.power
        if p == 1:
            return y - xlogy(y, y)
        if p == 2:
            return 1 + xp.log(y)
        positive = xp.where(y > 0, y, 1)
        return xp.where(y > 0, -(positive ** (2 - p)) / ((1 - p) * (2 - p)), 0)

    def deviance(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Float[Real, "..."]:
        """Row by row, so that it is not negative, and has its digits where the model is nearly saturated."""
        xp, p = namespace(y, eta, s), self.power
        eta = xp.where(s > 0, eta, 0)
        positive = xp.where(y > 0, y, 1)
        d = eta - xp.log(positive)
        is_near = (y > 0) & (abs(d) <= _NEAR)
        near = xp.where(is_near, d, 0)
        rows = positive ** (2 - p) * (_expm1_over(near, 2 - p) - _expm1_over(near, 1 - p))
        rows = xp.where(is_near, rows, self.per_row(y, eta) - self._saturated_rows(y))
        return _total(xp.maximum(rows, 0), s)

    def inverse_link(self, eta: Real) -> Real:
        return namespace(eta).exp(eta)

    def accepts(self, y: Real) -> Bool[Real, " n"]:
        is_finite = namespace(y).isfinite(y)
        if self.power <= 0:
            return is_finite
        return is_finite & ((y > 0) if self.power >= 2 else (y >= 0))

    def check_targets(self, y: np.ndarray) -> None:
        self.check_shape(y.shape)
        bad = np.flatnonzero(~np.asarray(self.accepts(y)))
        if len(bad):
            raise ValueError(f"y must hold {self._wanted()}, got {y[bad[0]]} at row {bad[0]}.")

    def _wanted(self) -> str:
        """The targets that it takes, in words."""
        sign = "> 0" if self.power >= 2 else ">= 0"
        return f"numbers {sign} for {type(self).__name__}"


@in_numpy
class Tweedie(PowerVariance):
    """The loss exp((2−p)η)/(2−p) − y exp((1−p)η)/(1−p) of a mean exp η with a variance φ exp(pη), (n,).

    Minus the log-likelihood in units of the dispersion φ, as in scikit-learn's `TweedieRegressor(link="log")`:
    the normal (p = 0), Poisson (1), compound Poisson (1 < p < 2: zeros and positive numbers, such as the
    cost of claims), gamma (2) and inverse Gaussian (3) distribution, at p = 1 and p = 2 in the limit. y ≥ 0
    for 1 ≤ p < 2, y > 0 for p ≥ 2, any y for p ≤ 0.

    It is convex for 1 ≤ p ≤ 2. At other powers fits are stationary points without a duality gap, which
    `relative_kkt` judges. It has no AIC or BIC, as these need φ, unless p = 1.

    **Arguments:**

    - `power`: p ≤ 0 or p ≥ 1, a Python number. Another one is another model: its programs are compiled anew.

    **Raises:** ValueError for 0 < power < 1, where there is no distribution; TypeError for what is no number.
    Source: Jørgensen (1987).

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> y, eta, s = jnp.array([0.0, 4.0]), jnp.zeros(2), jnp.array([0.5, 0.5])
    >>> float(l1jax.Tweedie(1.5).value(y, eta, s))
    6.0

    ```
    """

    power: float = eqx.field(static=True)  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, power: Any):
        if not isinstance(power, int | float | np.number) or isinstance(power, bool):
            raise TypeError(f"power must be a Python number, got {power!r}.")
        if not (power <= 0 or power >= 1) or not np.isfinite(power):
            raise ValueError(
                f"power must be <= 0 or >= 1, as no distribution has others; got {power}."
            )
        self.power = float(power)  # pyright: ignore[reportIncompatibleVariableOverride]

    def _wanted(self) -> str:
        return f"{super()._wanted()}({self.power:g})"


@in_numpy
class Gamma(PowerVariance):
    """The gamma loss y exp(−η) + η of positive numbers y, (n,), such as costs or durations.

    Minus the log-likelihood, in units of the dispersion, of a mean exp η and a standard deviation
    proportional to it. With `Ridge` it is scikit-learn's `GammaRegressor`. It has no AIC or BIC, as these
    need the dispersion.

    Source: McCullagh and Nelder (1989), chapter 8.

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> y, eta, s = jnp.array([1.0, 3.0]), jnp.zeros(2), jnp.array([0.5, 0.5])
    >>> float(l1jax.Gamma().value(y, eta, s))
    2.0

    ```
    """

    power: ClassVar[float] = 2.0


@in_numpy
class InverseGaussian(PowerVariance):
    """The inverse Gaussian loss ½y exp(−2η) − exp(−η) of positive numbers y with heavy tails, (n,).

    Minus the log-likelihood, in units of the dispersion, of a mean exp η and a variance proportional to its
    cube. It is not convex where exp η > 2y: fits are stationary points without a duality gap, which
    `relative_kkt` judges. It has no AIC or BIC, as these need the dispersion.

    Source: Tweedie (1957); Jørgensen (1987).

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> y, eta, s = jnp.array([1.0, 3.0]), jnp.zeros(2), jnp.array([0.5, 0.5])
    >>> float(l1jax.InverseGaussian().value(y, eta, s))
    0.0

    ```
    """

    power: ClassVar[float] = 3.0


def _power(eta: Real, q: float) -> Real:
    """exp(qη)."""
    xp = namespace(eta)
    if q == 0:
        return xp.ones_like(eta)
    return xp.exp(eta if q == 1 else q * eta)


def _expm1_over(d: Real, q: float) -> Real:
    """(exp(qd) − 1)/q, d at q = 0."""
    return d if q == 0 else namespace(d).expm1(q * d) / q


def _root(v: Real, a: Real) -> Real:
    """The d ≥ 0 with exp(ad) − exp(−(1−a)d) = v, for v ≥ 0 and 0 < a < 1.

    By Newton's method for the logs, log(exp d − 1) − (1−a)d = log v: its left side is concave, so
    that it goes up to the root without a safeguard.
    """
    xp = namespace(v, a)
    is_positive = v > 0
    log_v = xp.log(xp.where(is_positive, v, 1))
    d = xp.log1p(xp.where(is_positive, v, 1)) / a
    for _ in range(_ROOT_STEPS):
        rest = -xp.expm1(-d)  # 1 − exp(−d)
        step = (log_v - a * d - xp.log(rest)) / (1 / rest - (1 - a))
        d = xp.maximum(d + step, d / 8)
    return xp.where(is_positive, d, 0)


def _total(rows: Real, s: Real) -> Real:
    """Σ s times the rows, of which those of weight 0 may be anything."""
    xp = namespace(rows, s)
    return xp.where(s > 0, s * xp.where(s > 0, rows, 0), 0).sum(axis=-1)
