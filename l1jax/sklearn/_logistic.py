"""Logistic regression: binary, and softmax for several classes."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from scipy.special import expit, log_expit, log_softmax, softmax
from sklearn.base import _fit_context
from sklearn.linear_model._base import LinearClassifierMixin, SparseCoefMixin
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d, validate_data

from ..linear import Fit
from ..losses import Logistic, Loss, Multinomial
from ..penalties import Penalty
from ._base import RATIO, LinearModel, elastic_net
from ._cross_validated import OfFolds, read_ratios
from ._padding import Data


class _Classifier(LinearClassifierMixin, SparseCoefMixin, LinearModel):
    """A model that predicts classes."""

    _parameter_constraints: ClassVar[dict] = {
        **LinearModel._parameter_constraints,
        "class_weight": [dict, StrOptions({"balanced"}), None],
    }
    class_weight: Any

    def predict_proba(self, X: Any) -> np.ndarray:
        """The probability of each class, (m, K), in the order of `classes_`."""
        eta = self.decision_function(X)
        return (
            np.stack([expit(-eta), expit(eta)], axis=1) if eta.ndim == 1 else softmax(eta, axis=1)
        )

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """The logarithm of the probability of each class, (m, K)."""
        eta = self.decision_function(X)
        if eta.ndim == 1:
            return np.stack([log_expit(-eta), log_expit(eta)], axis=1)
        return log_softmax(eta, axis=1)

    def _validate(self, X: Any, y: Any) -> tuple[Any, np.ndarray]:
        X, y = validate_data(self, X, y, accept_sparse="csr", dtype=np.float64)
        check_classification_targets(y)
        y = column_or_1d(y, warn=True)
        self.classes_ = np.unique(y)
        if len(self.classes_) < 2:
            raise ValueError(
                f"{type(self).__name__} needs y of two classes or more, got one class: "
                f"{self.classes_[0]!r}."
            )
        return X, y

    def _targets(self, y: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.classes_, y).astype(np.float64)

    def _weights(self, weights: np.ndarray, y: np.ndarray) -> np.ndarray:
        if self.class_weight is None:
            return weights
        of_row = np.searchsorted(self.classes_, y)
        if self.class_weight == "balanced":
            totals = np.bincount(of_row, weights)
            of_class = weights.sum() / (len(totals) * np.where(totals > 0, totals, 1))
        else:
            of_class = compute_class_weight(self.class_weight, classes=self.classes_, y=y)
        return weights * of_class[of_row]

    def _loss(self) -> Loss:
        n_classes = len(self.classes_)
        return Logistic() if n_classes == 2 else Multinomial(n_classes)

    def _keep(self, fit: Fit, data: Data) -> None:
        super()._keep(fit, data)
        self.coef_, self.intercept_ = np.atleast_2d(self.coef_), np.atleast_1d(self.intercept_)
        self.n_iter_ = np.array([self.n_iter_])


class LogisticRegression(_Classifier):
    """Logistic regression, C Σᵢ sᵢ loss(yᵢ, ηᵢ) + ρ‖w‖₁ + ½(1−ρ)‖w‖², with softmax for several classes.

    `C` > 0 is the inverse strength, as in scikit-learn, infinite for no penalty at all; `l1_ratio` ρ
    in [0, 1], 1 unless given: the lasso. The intercept is not penalised. `class_weight`: a dict, or
    "balanced" for weights in inverse proportion to how often a class is seen. Several classes are
    fitted together, with a column of coefficients each. `tol` and `max_iter` as for `Lasso`; the
    strength in its terms is 1 / (C Σ sᵢ).

    Attributes: `classes_` (K,), `coef_` (1, p) or (K, p) for K > 2, `intercept_` (1,) or (K,),
    `n_iter_` (1,), `dual_gap_` (of the mean loss), `fit_`, `n_features_in_`, `feature_names_in_`.

    **Example:**

    ```python
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from l1jax.sklearn import LogisticRegression
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1)).fit(X, y)
    >>> int((model[-1].coef_ != 0).sum()), bool(model.score(X, y) > 0.97)
    (8, True)

    ```
    """

    _parameter_constraints: ClassVar[dict] = {
        **_Classifier._parameter_constraints,
        "C": [Interval(Real, 0, None, closed="right")],
        "l1_ratio": [RATIO],
    }

    def __init__(
        self,
        *,
        C: Any = 1.0,
        l1_ratio: Any = 1.0,
        fit_intercept: Any = True,
        class_weight: Any = None,
        max_iter: Any = 20_000,
        tol: Any = 1e-6,
    ):
        self.C = C
        self.l1_ratio = l1_ratio
        self.fit_intercept = fit_intercept
        self.class_weight = class_weight
        self.max_iter = max_iter
        self.tol = tol

    def _penalty(self, data: Data) -> Penalty:
        return elastic_net(strengths(self.C, data), self.l1_ratio)


class LogisticRegressionCV(OfFolds, _Classifier):
    """A `LogisticRegression` whose `C` is chosen by cross-validation, and its `l1_ratio` if asked.

    `Cs`: values of C, or how many of them between 1e-4 and 1e4. `l1_ratios`: one or several ratios.
    `cv`: as everywhere in scikit-learn; 5 folds with the classes spread evenly, unless given.
    `scoring`: "neg_log_loss", "accuracy", or "roc_auc" for two classes. Each C means one strength,
    1 / (C Σ sᵢ) of all rows, in every fold. All else as for `LogisticRegression`.

    Attributes, beyond those: `C_`, `l1_ratio_`, `Cs_` (c,), ascending, `l1_ratios_` (r,), `scores_`
    (folds, r, c), `cv_` (the `l1jax.CrossValidated` at `l1_ratio_`).

    **Example:**

    ```python
    >>> from sklearn.datasets import load_breast_cancer
    >>> from l1jax.sklearn import LogisticRegressionCV
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> model = LogisticRegressionCV(Cs=[0.1, 1.0], cv=3).fit(X / X.std(axis=0), y)
    >>> model.C_, model.scores_.shape
    (1.0, (3, 1, 2))

    ```
    """

    _parameter_constraints: ClassVar[dict] = {
        **_Classifier._parameter_constraints,
        "Cs": [Interval(Integral, 1, None, closed="left"), "array-like"],
        "l1_ratios": [RATIO, "array-like"],
        "cv": ["cv_object"],
        "scoring": [StrOptions({"neg_log_loss", "accuracy", "roc_auc"})],
    }

    def __init__(
        self,
        *,
        Cs: Any = 10,
        l1_ratios: Any = 1.0,
        fit_intercept: Any = True,
        cv: Any = None,
        scoring: Any = "neg_log_loss",
        class_weight: Any = None,
        max_iter: Any = 20_000,
        tol: Any = 1e-6,
    ):
        self.Cs = Cs
        self.l1_ratios = l1_ratios
        self.fit_intercept = fit_intercept
        self.cv = cv
        self.scoring = scoring
        self.class_weight = class_weight
        self.max_iter = max_iter
        self.tol = tol

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any, sample_weight: Any = None, groups: Any = None) -> Any:
        """Chooses `C_`, and fits all rows with it.

        X (n, p), dense or sparse, y (n,), `sample_weight` (n,) ≥ 0; `groups` (n,) go to the
        splitter `cv`.
        """
        data = self._read(X, y, sample_weight)
        self.Cs_, self.l1_ratios_ = self._grid(), read_ratios(self.l1_ratios, "l1_ratios")
        name, scale, shift = _SCORES[self.scoring]
        lams, folds = strengths(self.Cs_, data), self._splits(data, groups)
        found = [
            self._validated(data, elastic_net(1.0, ratio), lams, folds, name)
            for ratio in self.l1_ratios_
        ]
        self.scores_ = np.stack([shift + scale * one.fold_scores for one in found], axis=1)
        means = self.scores_.mean(axis=0)  # (ratios, Cs)
        ratio, at = np.unravel_index(np.argmax(means), means.shape)  # the least of equal Cs
        self.C_, self.l1_ratio_ = float(self.Cs_[at]), float(self.l1_ratios_[ratio])
        self.cv_ = found[ratio]
        self._keep(self.cv_.path[int(at)], data)
        return self

    def _grid(self) -> np.ndarray:
        """The values of C, ascending: strengths descend."""
        if isinstance(self.Cs, Integral):
            return np.logspace(-4, 4, int(self.Cs))
        Cs = np.asarray(self.Cs, np.float64)
        if Cs.ndim != 1 or not Cs.size or not (Cs > 0).all():
            raise ValueError(f"Cs must be a list of numbers > 0, got {self.Cs!r}.")
        return np.sort(Cs)


# scoring: the score of `cross_validate`, and what makes it that of scikit-learn
_SCORES = {
    "neg_log_loss": ("deviance", -0.5, 0.0),
    "accuracy": ("classification_error", -1.0, 1.0),
    "roc_auc": ("auc", 1.0, 0.0),
}


def strengths(C: Any, data: Data) -> Any:
    """λ = 1 / (C Σ sᵢ): the loss here is a mean."""
    total = data.weights.sum()
    return 1 / (np.asarray(C, np.float64) * (total if total > 0 else 1))
