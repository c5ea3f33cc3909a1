"""Counts, and numbers with outliers: the Poisson and the Huber loss with an L1 or elastic net penalty."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from sklearn.metrics import d2_tweedie_score

from ..losses import Huber, Loss, Poisson
from ..penalties import Penalty
from ._base import (
    NOT_NEGATIVE,
    POSITIVE,
    RATIO,
    LinearModel,
    Regressor,
    arguments,
    elastic_net,
    first,
)
from ._padding import Data


@arguments
class L1PoissonRegressor(Regressor):
    """Poisson regression with the log link, n⁻¹ Σᵢ (exp ηᵢ − yᵢηᵢ) + α(ρ‖w‖₁ + ½(1−ρ)‖w‖²).

    y (n,) ≥ 0 holds counts or rates; `predict` gives means exp η, `score` the fraction of the deviance
    that they explain (D²). `l1_ratio` ρ in [0, 1]; all else as for `Lasso`.

    **Example:**

    ```python
    >>> from l1jax.sklearn import L1PoissonRegressor
    >>> model = L1PoissonRegressor(alpha=0.1).fit([[0.0], [1.0], [2.0]], [1, 3, 6])
    >>> model.predict([[0.0], [1.0], [2.0]]).round(1)
    array([1.3, 2.7, 6. ])

    ```
    """

    _parameter_constraints: ClassVar[dict] = {
        **LinearModel._parameter_constraints,
        "alpha": [NOT_NEGATIVE],
        "l1_ratio": [RATIO],
    }

    alpha: Any = first(1.0)
    l1_ratio: Any = 1.0

    def predict(self, X: Any) -> np.ndarray:
        """Means of new rows, (m,)."""
        return np.exp(self._linear_predictor(X))

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """D², the fraction of the deviance of y that predictions explain; 1 at best."""
        return float(d2_tweedie_score(y, self.predict(X), sample_weight=sample_weight, power=1))

    def _loss(self) -> Loss:
        return Poisson()

    def _penalty(self, data: Data) -> Penalty:
        del data
        return elastic_net(self.alpha, self.l1_ratio)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.positive_only = True
        return tags


@arguments
class L1HuberRegressor(Regressor):
    """Huber's loss, n⁻¹ Σᵢ huber(yᵢ − ηᵢ) + α(ρ‖w‖₁ + ½(1−ρ)‖w‖²): outliers count by their size.

    A residual counts half its square up to `delta` > 0, and grows linearly beyond. `delta` is in the
    units of y: unlike scikit-learn's `HuberRegressor`, no scale of the residuals is estimated.
    `l1_ratio` ρ in [0, 1]; all else as for `Lasso`. Source: Huber (1964).

    **Example:**

    ```python
    >>> from l1jax.sklearn import L1HuberRegressor
    >>> X, y = [[0.0], [1.0], [2.0], [3.0], [4.0]], [0.0, 1.0, 2.0, 3.0, 100.0]
    >>> L1HuberRegressor(alpha=0.01, delta=0.1).fit(X, y).coef_.round(2)
    array([1.04])

    ```
    """

    _parameter_constraints: ClassVar[dict] = {
        **L1PoissonRegressor._parameter_constraints,
        "delta": [POSITIVE],
    }

    alpha: Any = first(1.0)
    l1_ratio: Any = 1.0
    delta: Any = 1.0

    def _loss(self) -> Loss:
        return Huber(float(self.delta))

    def _penalty(self, data: Data) -> Penalty:
        del data
        return elastic_net(self.alpha, self.l1_ratio)
