"""Losses other than the squared error: means of a skewed distribution, quantiles, and robust ones."""

from __future__ import annotations

from numbers import Real
from typing import Any, ClassVar

import numpy as np
from sklearn.metrics import d2_pinball_score
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import _check_sample_weight, check_array, column_or_1d

from ..losses import (
    Gamma,
    Huber,
    Loss,
    NegativeBinomial,
    Poisson,
    Quantile,
    SquareRootLasso,
    Tweedie,
)
from ._base import POSITIVE, AtAlphaAndRatio, Regressor, arguments

_LEVEL = Interval(Real, 0, 1, closed="neither")
_LINEAR_PROGRAMMING = {"highs-ds", "highs-ipm", "highs", "interior-point", "revised simplex"}


@arguments
class _OfMeans(AtAlphaAndRatio, Regressor):
    """Models of the mean exp η of numbers that are not negative."""

    def predict(self, X: Any) -> np.ndarray:
        """Means of new rows, (m,)."""
        return np.exp(self._linear_predictor(X))

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """D², the fraction of the deviance of y that predictions explain; 1 at best."""
        eta, loss = self._linear_predictor(X), self._loss()
        read: Any = check_array  # whose defaults are not its types
        y = column_or_1d(read(y, ensure_2d=False, dtype=np.float64))
        loss.check_targets(y)
        weights = _check_sample_weight(sample_weight, X, dtype=np.float64)
        weights = weights / weights.sum()
        with np.errstate(divide="ignore", invalid="ignore"):
            of_mean = np.full(len(y), np.log(weights @ y))
            rest, whole = (float(loss.deviance(y, at, weights)) for at in (eta, of_mean))
        return 1 - rest / whole if whole > 0 else float(rest == 0)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.positive_only = True
        return tags


@arguments
class _OfPower(_OfMeans):
    """Those of which scikit-learn has the ridge, with a choice of solvers."""

    _parameter_constraints: ClassVar[dict] = {
        "solver": [StrOptions({"lbfgs", "newton-cholesky"})],
    }

    solver: Any = "lbfgs"


@arguments
class L1PoissonRegressor(_OfPower):
    """Poisson regression with the log link, n⁻¹ Σᵢ (exp ηᵢ − yᵢηᵢ) + α(ρ‖w‖₁ + ½(1−ρ)‖w‖²).

    y (n,) ≥ 0 holds counts or rates; `predict` gives means exp η, `score` the fraction of the deviance
    that they explain (D²). `l1_ratio` ρ in [0, 1]: 0 is scikit-learn's `PoissonRegressor`.
    `positive`: w ≥ 0. `solver` and `verbose` say how scikit-learn computes: they change nothing. All
    else as for `Lasso`.

    **Example:**

    ```python
    >>> from l1jax.sklearn import L1PoissonRegressor
    >>> model = L1PoissonRegressor(alpha=0.1).fit([[0.0], [1.0], [2.0]], [1, 3, 6])
    >>> model.predict([[0.0], [1.0], [2.0]]).round(1)
    array([1.3, 2.7, 6. ])

    ```
    """

    def _loss(self) -> Loss:
        return Poisson()


@arguments
class GammaLasso(_OfPower):
    """Gamma regression with the log link, n⁻¹ Σᵢ (yᵢ exp(−ηᵢ) + ηᵢ) + α(ρ‖w‖₁ + ½(1−ρ)‖w‖²).

    y (n,) > 0 holds costs or durations, whose standard deviation is proportional to their mean. With
    `l1_ratio` ρ = 0 it is scikit-learn's `GammaRegressor`; all else as for `L1PoissonRegressor`.

    **Example:**

    ```python
    >>> from l1jax.sklearn import GammaLasso
    >>> model = GammaLasso(alpha=0.1).fit([[0.0], [1.0], [2.0]], [1.0, 2.0, 4.0])
    >>> model.predict([[0.0], [1.0], [2.0]]).round(1)
    array([1.2, 2. , 3.5])

    ```
    """

    def _loss(self) -> Loss:
        return Gamma()


@arguments
class TweedieLasso(_OfPower):
    """Tweedie regression: the mean exp η of a variance in proportion to its power p, with an elastic net.

    The loss is n⁻¹ Σᵢ (exp((2−p)ηᵢ)/(2−p) − yᵢ exp((1−p)ηᵢ)/(1−p)). `power` p ≤ 0 or p ≥ 1: 1 is
    Poisson's, 1 < p < 2 has zeros and positive numbers, such as the cost of claims, 2 is the gamma and 3
    the inverse Gaussian distribution; y (n,) ≥ 0 for 1 ≤ p < 2, > 0 for p ≥ 2. With `l1_ratio` ρ = 0 it is
    scikit-learn's `TweedieRegressor(link="log")`; there is no other `link`. Beyond 1 ≤ p ≤ 2 it is not
    convex: a fit is a stationary point and `dual_gap_` infinite. All else as for `L1PoissonRegressor`.
    Source: Jørgensen (1987).

    **Example:**

    ```python
    >>> from l1jax.sklearn import TweedieLasso
    >>> model = TweedieLasso(alpha=0.1, power=1.5).fit([[0.0], [1.0], [2.0]], [0.0, 3.0, 6.0])
    >>> model.predict([[0.0], [1.0], [2.0]]).round(1)
    array([0.4, 1.7, 6.9])

    ```
    """

    _parameter_constraints: ClassVar[dict] = {
        "power": [Interval(Real, None, 0, closed="right"), Interval(Real, 1, None, closed="left")],
        "link": [StrOptions({"log"})],
    }

    power: Any = 1.5
    link: Any = "log"

    def _loss(self) -> Loss:
        return Tweedie(self.power)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.positive_only = self.power > 0
        return tags


@arguments
class NegativeBinomialLasso(_OfMeans):
    """Negative binomial regression: counts of a mean μ = exp η and a variance μ + δμ², with an elastic net.

    The loss is n⁻¹ Σᵢ ((yᵢ + 1/δ) log(1 + δ exp ηᵢ) − yᵢηᵢ). `dispersion` δ > 0 is not estimated; towards
    0 it becomes `L1PoissonRegressor`, as for which all else is. Source: Cameron and Trivedi (1998).

    **Example:**

    ```python
    >>> from l1jax.sklearn import NegativeBinomialLasso
    >>> model = NegativeBinomialLasso(alpha=0.1, dispersion=0.5).fit([[0.0], [1.0], [2.0]], [1, 3, 6])
    >>> model.predict([[0.0], [1.0], [2.0]]).round(1)
    array([1.3, 2.7, 5.6])

    ```
    """

    _parameter_constraints: ClassVar[dict] = {
        "dispersion": [POSITIVE],
    }

    dispersion: Any = 1.0

    def _loss(self) -> Loss:
        return NegativeBinomial(float(self.dispersion))


@arguments
class QuantileLasso(AtAlphaAndRatio, Regressor):
    """Quantile regression, n⁻¹ Σᵢ ρ(yᵢ − ηᵢ) + α‖w‖₁ with ρ(r) = τr for r ≥ 0 and (τ−1)r below.

    `quantile` τ in (0, 1): `predict` gives the τ-quantile, `score` the fraction of the pinball loss ρ that
    it explains (D²). With the default `l1_ratio` of 1 it is scikit-learn's `QuantileRegressor`, but for
    `score`, which is R² there. `solver`, `solver_options` and `verbose` say how scikit-learn computes:
    they change nothing. All else as for `L1PoissonRegressor`. Source: Koenker and Bassett (1978).

    **Example:**

    ```python
    >>> from l1jax.sklearn import QuantileLasso
    >>> X, y = [[0.0], [1.0], [2.0], [3.0], [4.0]], [0.0, 1.0, 2.0, 3.0, 100.0]
    >>> QuantileLasso(alpha=0.01).fit(X, y).coef_.round(2)
    array([1.])

    ```
    """

    _parameter_constraints: ClassVar[dict] = {
        "quantile": [_LEVEL],
        "solver": [StrOptions(_LINEAR_PROGRAMMING)],
        "solver_options": [dict, None],
    }

    quantile: Any = 0.5
    solver: Any = "highs"
    solver_options: Any = None

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """D², the fraction of the pinball loss of y that predictions explain; 1 at best."""
        found = self.predict(X)
        return float(d2_pinball_score(y, found, sample_weight=sample_weight, alpha=self.quantile))

    def _loss(self) -> Loss:
        return Quantile(float(self.quantile))


@arguments
class SqrtLasso(AtAlphaAndRatio, Regressor):
    """The square-root lasso ‖y − Xw − b‖₂/√n + α‖w‖₁, whose best α does not depend on the noise.

    For standardised columns √(2 log(p)/n) or a little more. Where all residuals vanish, as with p > n and a
    small α, it has a corner short of which a fit ends, as `fit_.status` says. All else as for
    `L1PoissonRegressor`. Source: Belloni, Chernozhukov and Wang (2011).

    **Example:**

    ```python
    >>> from l1jax.sklearn import SqrtLasso
    >>> X, y = [[0.0], [1.0], [2.0], [3.0]], [0.0, 1.0, 2.0, 2.0]
    >>> [SqrtLasso(alpha=0.1).fit(X, [c * yi for yi in y]).coef_.round(2) for c in (1, 10)]
    [array([0.68]), array([6.78])]

    ```
    """

    def _loss(self) -> Loss:
        return SquareRootLasso()


@arguments
class L1HuberRegressor(AtAlphaAndRatio, Regressor):
    """Huber's loss, n⁻¹ Σᵢ huber(yᵢ − ηᵢ) + α(ρ‖w‖₁ + ½(1−ρ)‖w‖²): outliers count by their size.

    A residual counts half its square up to `delta` > 0, and grows linearly beyond. `delta` is in the
    units of y: unlike scikit-learn's `HuberRegressor`, no scale of the residuals is estimated. All else as
    for `L1PoissonRegressor`. Source: Huber (1964).

    **Example:**

    ```python
    >>> from l1jax.sklearn import L1HuberRegressor
    >>> X, y = [[0.0], [1.0], [2.0], [3.0], [4.0]], [0.0, 1.0, 2.0, 3.0, 100.0]
    >>> L1HuberRegressor(alpha=0.01, delta=0.1).fit(X, y).coef_.round(2)
    array([1.04])

    ```
    """

    _parameter_constraints: ClassVar[dict] = {
        "delta": [POSITIVE],
    }

    delta: Any = 1.0

    def _loss(self) -> Loss:
        return Huber(float(self.delta))
