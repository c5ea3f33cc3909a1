"""Ordered classes."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from sklearn.base import ClassifierMixin

from ..linear import Fit
from ..losses import Loss, Ordinal
from ..penalties import Penalty
from ._base import RATIO, OfElasticNet, arguments
from ._classes import OfClasses
from ._logistic import INVERSE_STRENGTH, strengths
from ._padding import Data


@arguments
class OrdinalRegression(ClassifierMixin, OfClasses, OfElasticNet):
    """Ordered classes by proportional odds, P(y ≤ classₖ) = σ(θₖ − η) with η = Xw, and an elastic net.

    Minimises C Σᵢ sᵢ (−log P(yᵢ)) + ρ‖w‖₁ + ½(1−ρ)‖w‖². The classes are in the order in which they
    sort: pass numbers, or labels that sort so. The thresholds θ, which are not penalised, take the place of
    an intercept. `predict` gives the most probable class. `C`, `l1_ratio` ρ (0 unless given) and
    `class_weight` as for `LogisticRegression`, which it is for two classes; `positive`: w ≥ 0; `weights`
    (p,) ≥ 0 are factors of the penalty, one per feature. `tol`, `max_iter` and `warm_start` as for `Lasso`.

    Attributes: `classes_` (K,), `coef_` (p,), `thresholds_` (K−1,), ascending, `dual_gap_` (of the mean
    loss), `fit_`, `n_iter_`, `n_features_in_`, `feature_names_in_`. Source: McCullagh (1980).

    **Example:**

    ```python
    >>> from l1jax.sklearn import OrdinalRegression
    >>> X, y = [[0.0], [1.0], [2.0], [3.0], [4.0], [5.0]], [1, 1, 2, 2, 3, 3]
    >>> model = OrdinalRegression(C=10.0).fit(X, y)
    >>> model.predict(X).tolist(), model.thresholds_.round(1)
    ([1, 1, 2, 2, 3, 3], array([ 5.1, 12. ]))

    ```
    """

    _parameter_constraints: ClassVar[dict] = {
        "C": [INVERSE_STRENGTH],
        "l1_ratio": [RATIO],
        "verbose": ["verbose"],
        "warm_start": ["boolean"],
    }
    fit_intercept: ClassVar[Any] = True  # pyright: ignore[reportIncompatibleVariableOverride]

    C: Any = 1.0
    l1_ratio: Any = 0.0
    verbose: Any = 0
    warm_start: Any = False

    def predict_proba(self, X: Any) -> np.ndarray:
        """The probability of each class, (m, K), in the order of `classes_`."""
        eta = self._linear_predictor(X)
        return np.asarray(Ordinal(thresholds=self.thresholds_).inverse_link(eta))

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """The logarithm of the probability of each class, (m, K)."""
        with np.errstate(divide="ignore"):  # a class without weight
            return np.log(self.predict_proba(X))

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class of new rows, (m,)."""
        probabilities = self.predict_proba(X)
        return self.classes_[probabilities.argmax(axis=1)]

    def _loss(self) -> Loss:
        return Ordinal(len(self.classes_))

    def _penalty(self, data: Data) -> Penalty:
        return self._penalty_at(data, strengths(self.C, data.weights), self.l1_ratio)

    def _keep(self, fit: Fit, data: Data) -> None:
        super()._keep(fit, data)
        self.thresholds_ = np.array(fit.thresholds)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.poor_score = True  # of classes that are not in order
        return tags
