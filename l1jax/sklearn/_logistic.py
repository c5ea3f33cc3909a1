"""Logistic regression: binary, and softmax for several classes."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import warnings
from numbers import Integral, Real
from typing import Any, ClassVar, NamedTuple

import numpy as np
from scipy import sparse
from scipy.special import expit, log_expit, log_softmax, softmax
from sklearn.base import _fit_context
from sklearn.linear_model._base import LinearClassifierMixin, SparseCoefMixin
from sklearn.metrics import get_scorer, get_scorer_names
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import _check_sample_weight

from .. import linear
from .._types import AnyArray
from ..linear import CrossValidated, Fit, Path
from ..losses import Logistic, Loss, Multinomial
from ..penalties import Penalty
from ._base import POSITIVE, RATIO, arguments, elastic_net, first, numbers
from ._classes import OfClasses
from ._cross_validated import OfFolds
from ._padding import Data

INVERSE_STRENGTH = Interval(Real, 0, None, closed="right")  # infinite: no penalty
_SOLVERS = {"lbfgs", "liblinear", "newton-cg", "newton-cholesky", "sag", "saga"}


@arguments
class _Classifier(LinearClassifierMixin, SparseCoefMixin, OfClasses):
    """A model that predicts classes."""

    _parameter_constraints: ClassVar[dict] = {
        "dual": ["boolean"],
        "intercept_scaling": [POSITIVE],
        "n_jobs": [Integral, None],
        "penalty": [StrOptions({"l1", "l2", "elasticnet", "deprecated"}), None],
        "random_state": ["random_state"],
        "solver": [StrOptions(_SOLVERS)],
        "verbose": ["verbose"],
    }

    penalty: Any = first("deprecated")
    dual: Any = False
    intercept_scaling: Any = 1.0
    n_jobs: Any = None
    random_state: Any = None
    solver: Any = "lbfgs"
    verbose: Any = 0

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

    @property
    def _penalises_intercept(self) -> bool:
        """As liblinear does, to which an intercept is the coefficient of a constant column."""
        return self.solver == "liblinear" and bool(self.fit_intercept)

    def _design(self, X: Any) -> Any:
        if not self._penalises_intercept:
            return X
        if len(self.classes_) > 2:
            raise ValueError(
                f'solver="liblinear" is for two classes, got {len(self.classes_)}: leave solver out, and '
                "all classes are fitted together."
            )
        constant = np.full((X.shape[0], 1), float(self.intercept_scaling))
        return sparse.hstack([X, constant], "csr") if sparse.issparse(X) else np.c_[X, constant]

    def _settings(self, data: Data) -> dict[str, Any]:
        settings = super()._settings(data)
        return settings | {
            "fit_intercept": bool(self.fit_intercept) and not self._penalises_intercept
        }

    def _trim(self, fit: Fit, data: Data) -> Fit:
        fit = super()._trim(fit, data)
        if not self._penalises_intercept or fit.coef.shape[-1] == self.n_features_in_:
            return fit
        level = np.asarray(float(self.intercept_scaling) * fit.coef[..., -1])
        return dataclasses.replace(fit, stored_coef=fit.coef[..., :-1], intercept=level)

    def _loss(self) -> Loss:
        n_classes = len(self.classes_)
        return Logistic() if n_classes == 2 else Multinomial(n_classes)

    def _keep(self, fit: Fit, data: Data) -> None:
        super()._keep(fit, data)
        self.coef_, self.intercept_ = np.atleast_2d(self.coef_), np.atleast_1d(self.intercept_)
        self.n_iter_ = np.array([self.n_iter_])

    def _ratio(self, given: Any, name: str) -> Any:
        """The mixing ratio, or several: what `penalty` says, where it says one."""
        said = {"l1": 1.0, "l2": 0.0}.get(self.penalty)
        if said is None:
            if given is None and self.penalty == "elasticnet":
                raise ValueError(f'{name} must be given with penalty="elasticnet", got None.')
            return 0.0 if given is None else given
        if given is not None and not np.isin(given, (0.0, said)).all():
            warnings.warn(
                f"{name}={given!r} is not used with penalty={self.penalty!r}: leave one of the two out.",
                UserWarning,
                stacklevel=4,
            )
        return said


@arguments
class LogisticRegression(_Classifier):
    """Logistic regression, C Σᵢ sᵢ loss(yᵢ, ηᵢ) + ρ‖w‖₁ + ½(1−ρ)‖w‖², with softmax for several classes.

    `C` > 0 is the inverse strength, as in scikit-learn, infinite for no penalty at all; `l1_ratio` ρ
    in [0, 1]: 1 is the lasso, and 0, which is scikit-learn's default too, the ridge. `penalty` says
    the same in scikit-learn's older words: "l1", "l2", "elasticnet" with `l1_ratio`, None for none.
    The intercept is not penalised. `class_weight`: a dict, or "balanced" for weights in inverse
    proportion to how often a class is present. Several classes are fitted together, with a column of
    coefficients each. `tol` and `max_iter` as for `Lasso`; the strength in its terms is
    1 / (C Σ sᵢ).

    Of `solver`, only "liblinear" makes a difference: it fits the intercept as the coefficient of a
    column of `intercept_scaling`, penalised like any other. `dual`, `n_jobs`, `random_state`
    and `verbose` change nothing; `warm_start` as for `Lasso`.

    Attributes: `classes_` (K,), `coef_` (1, p) or (K, p) for K > 2, `intercept_` (1,) or (K,),
    `n_iter_` (1,), `dual_gap_` (of the mean loss), `fit_`, `n_features_in_`, `feature_names_in_`.

    **Example:**

    ```python
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from l1jax.sklearn import LogisticRegression
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, l1_ratio=1)).fit(X, y)
    >>> int((model[-1].coef_ != 0).sum()), bool(model.score(X, y) > 0.97)
    (8, True)

    ```
    """

    _parameter_constraints: ClassVar[dict] = {
        "C": [INVERSE_STRENGTH],
        "l1_ratio": [RATIO, None],
        "warm_start": ["boolean"],
    }

    C: Any = 1.0
    l1_ratio: Any = 0.0
    warm_start: Any = False

    def _penalty(self, data: Data) -> Penalty:
        if self.penalty is None:
            if self.C != 1 or self.l1_ratio:
                warnings.warn(
                    f"C={self.C!r} and l1_ratio={self.l1_ratio!r} are not used with penalty=None.",
                    UserWarning,
                    stacklevel=4,
                )
            return elastic_net(0.0, 0.0)
        strength = strengths(self.C, data.weights)
        return elastic_net(strength, self._ratio(self.l1_ratio, "l1_ratio"))


class _Fits(NamedTuple):
    """What a fold says of each C: coefficients (c, K, p), intercepts (c, K), steps, gaps, statuses (c,)."""

    coefs: np.ndarray
    intercepts: np.ndarray
    steps: AnyArray
    gaps: AnyArray
    status: AnyArray


@arguments
class LogisticRegressionCV(OfFolds, _Classifier):
    """A `LogisticRegression` whose `C` is chosen by cross-validation, and its `l1_ratio` if asked.

    `Cs`: values of C, or how many of them between 1e-4 and 1e4. `l1_ratios`: one or several ratios;
    0 unless given.
    `cv`: as everywhere in scikit-learn; 5 folds with the classes in equal proportion, unless given.
    `scoring`: any scorer of scikit-learn by its name, a function of (estimator, X, y), or None for
    accuracy; with sample weights it gets those of the held-out rows. In each fold C means what it
    means to `LogisticRegression` on the rows that are fitted. `refit=False`: no fit of all rows;
    `coef_`, `intercept_`, `C_` and `l1_ratio_` are then means over the folds of what is best in
    each. `use_legacy_attributes`: those below as scikit-learn had them first, by class. All else as
    for `LogisticRegression`.

    Attributes, beyond those: `C_`, `l1_ratio_`, `Cs_` (c,), ascending, `l1_ratios_` (r,), `scores_`
    and `n_iter_` (folds, r, c), `coefs_paths_` (folds, r, c, 1 or K, p + 1), with the intercept last
    where there is one, `cv_` (the `l1jax.CrossValidated` at `l1_ratio_`; as `fit_` and `dual_gap_`,
    not without `refit`). Where a fold lacks a class, its intercept there is minus infinity.

    **Example:**

    ```python
    >>> from sklearn.datasets import load_breast_cancer
    >>> from l1jax.sklearn import LogisticRegressionCV
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> model = LogisticRegressionCV(Cs=[0.1, 1.0], l1_ratios=[1.0], cv=3).fit(X / X.std(axis=0), y)
    >>> model.C_, model.scores_.shape
    (1.0, (3, 1, 2))

    ```
    """

    _parameter_constraints: ClassVar[dict] = {
        "Cs": [Interval(Integral, 1, None, closed="left"), "array-like"],
        "l1_ratios": [RATIO, "array-like", None],
        "penalty": [StrOptions({"l1", "l2", "elasticnet", "deprecated"})],
        "refit": ["boolean"],
        "scoring": [StrOptions(set(get_scorer_names())), callable, None],
        "use_legacy_attributes": ["boolean"],
    }

    Cs: Any = 10
    l1_ratios: Any = None
    scoring: Any = "neg_log_loss"
    refit: Any = True
    use_legacy_attributes: Any = False

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any, sample_weight: Any = None, groups: Any = None) -> Any:
        """Chooses `C_`, and fits all rows with it.

        X (n, p), dense or sparse, y (n,), `sample_weight` (n,) ≥ 0; `groups` (n,) go to the
        splitter `cv`.
        """
        data = self._read(X, y, sample_weight)
        self.Cs_ = self._grid()
        self.l1_ratios_ = numbers(self._ratio(self.l1_ratios, "l1_ratios"), "l1_ratios", RATIO)
        folds = [(_mask(train, data), test) for train, test in self._splits(data, groups)]
        fits = [
            [self._fold(data, np.where(train, data.weights, 0), ratio) for ratio in self.l1_ratios_]
            for train, _ in folds
        ]
        given = None if sample_weight is None else _check_sample_weight(sample_weight, X)
        self.scores_ = np.stack(
            [
                [self._scores(data, test, one, given) for one in of_ratio]
                for (_, test), of_ratio in zip(folds, fits, strict=True)
            ]
        )
        self.coefs_paths_ = np.stack([[self._with_intercepts(f) for f in row] for row in fits])
        steps = np.stack([[one.steps for one in row] for row in fits])
        if self.refit:
            at, ratio = _best(self.scores_.mean(axis=0))
            self.C_, self.l1_ratio_ = float(self.Cs_[at]), float(self.l1_ratios_[ratio])
            self.cv_ = self._validated(data, folds, [row[ratio] for row in fits], ratio)
            self._keep(self.cv_.path[at], data)
        else:
            self._average(fits)
        self.n_iter_ = np.maximum(steps, 1)
        if self.use_legacy_attributes:
            self._arrange_by_class()
        return self

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The score that `scoring` names of predictions for X."""
        weights = {} if sample_weight is None else {"sample_weight": sample_weight}
        return float(self._scorer()(self, X, y, **weights))

    def _path(self, data: Data, weights: np.ndarray, l1_ratio: Any, **changed: Any) -> Path:
        """Over the values of C, of the rows that have a weight."""
        settings: Any = self._settings(data) | {"sample_weight": weights} | changed
        y = settings.pop("y", data.y)
        lams = strengths(self.Cs_, weights)
        found = linear.path(
            data.X, y, elastic_net(1.0, l1_ratio), lams=lams, progress=False, **settings
        )
        return Path(self._trim(found.fits, data))

    def _fold(self, data: Data, weights: np.ndarray, l1_ratio: Any) -> _Fits:
        """The fits of some rows, among which a class may be missing."""
        n_classes, count = len(self.classes_), len(self.Cs_)
        present = np.unique(data.y[weights > 0]).astype(int)
        if len(present) == n_classes or not self._settings(data)["fit_intercept"]:
            path = self._path(data, weights, l1_ratio)
            coefs = np.asarray(path.coefs).reshape(count, self.n_features_in_, -1).swapaxes(1, 2)
            levels = np.asarray(path.intercepts).reshape(count, -1)
            return _Fits(coefs, levels, path.num_steps, path.relative_gaps, path.status)
        # A class without rows has probability zero, at no cost: the intercept is not penalised.
        coefs = np.zeros((count, n_classes, self.n_features_in_))
        levels = np.full((count, n_classes), -np.inf)
        levels[:, present] = 0
        steps, gaps, status = np.ones(count, int), np.zeros(count), np.zeros(count, int)
        if len(present) > 1:
            y = np.minimum(np.searchsorted(present, data.y), len(present) - 1).astype(np.float64)
            path = self._path(data, weights, l1_ratio, y=y, loss=Multinomial(len(present)))
            coefs[:, present] = np.asarray(path.coefs).swapaxes(1, 2)
            levels[:, present] = path.intercepts
            steps, gaps, status = path.num_steps, path.relative_gaps, path.status
        elif n_classes == 2:
            coefs, levels = coefs[:, :1], levels[:, 1:] - levels[:, :1]
        return _Fits(coefs, levels, steps, gaps, status)

    def _scores(self, data: Data, test: Any, fits: _Fits, weights: Any) -> list[float]:
        """The score of the held-out rows at each C."""
        scorer = self._scorer()
        X = data.X[: data.n][test][:, : self.n_features_in_]
        y = self.classes_[data.y[: data.n][test].astype(int)]
        kept = {} if weights is None else {"sample_weight": weights[test]}
        return [scorer(model, X, y, **kept) for model in self._models(fits)]

    def _scorer(self) -> Any:
        """That of `scoring`, told of all classes: a fold may lack some."""
        scorer = get_scorer(self.scoring or "accuracy")
        function = getattr(scorer, "_score_func", None)
        takes = () if function is None else inspect.signature(function).parameters
        if "labels" not in takes:
            return scorer
        known = {"labels": self.classes_}
        if "pos_label" in takes and len(self.classes_) == 2:
            known["pos_label"] = self.classes_[1]
        scorer = copy.copy(scorer)
        scorer._kwargs = known | scorer._kwargs
        return scorer

    def _models(self, fits: _Fits) -> list[LogisticRegression]:
        """The fits of a fold as estimators."""
        models = []
        for coef, level, C in zip(fits.coefs, fits.intercepts, self.Cs_, strict=True):
            model = LogisticRegression(C=C)
            model.classes_, model.n_features_in_ = self.classes_, self.n_features_in_
            model.coef_, model.intercept_ = coef, level
            models.append(model)
        return models

    def _with_intercepts(self, fits: _Fits) -> np.ndarray:
        if not self.fit_intercept:
            return fits.coefs
        return np.concatenate([fits.coefs, fits.intercepts[..., None]], axis=2)

    def _average(self, fits: list[list[_Fits]]) -> None:
        """The mean over the folds of what is best in each."""
        best = [_best(scores) for scores in self.scores_]
        chosen = [row[ratio] for row, (_, ratio) in zip(fits, best, strict=True)]
        places = [at for at, _ in best]
        self.C_ = float(np.mean(self.Cs_[places]))
        self.l1_ratio_ = float(np.mean(self.l1_ratios_[[ratio for _, ratio in best]]))
        pairs = list(zip(chosen, places, strict=True))
        if not all(np.isfinite(one.intercepts[at]).all() for one, at in pairs):
            raise ValueError(
                "refit=False takes the mean over the folds, and some of them have no row of some class to "
                "fit: let cv be StratifiedKFold, or refit=True."
            )
        self.coef_ = np.mean([one.coefs[at] for one, at in pairs], axis=0)
        self.intercept_ = np.mean([one.intercepts[at] for one, at in pairs], axis=0)

    def _arrange_by_class(self) -> None:
        """The attributes as scikit-learn had them first: by class, with the ratios after the Cs."""
        names = self.classes_[1:] if len(self.classes_) == 2 else self.classes_
        some: Any = 0 if self.l1_ratios is None else slice(None)  # one ratio that was not asked for
        arrays: Any = self.scores_, self.coefs_paths_
        scores = arrays[0].swapaxes(1, 2)[:, :, some]
        paths = np.moveaxis(arrays[1], (3, 2), (0, 2))[:, :, :, some]
        self.scores_ = dict.fromkeys(names, scores)
        self.coefs_paths_ = dict(zip(names, paths, strict=True))
        self.n_iter_ = self.n_iter_.swapaxes(1, 2)[None, :, :, some]
        self.C_ = np.full(len(names), self.C_)
        self.l1_ratio_ = np.full(len(names), self.l1_ratio_)

    def _validated(self, data: Data, folds: list, fits: list[_Fits], ratio: int) -> CrossValidated:
        """The path of all rows at a ratio, with what the folds say of it."""
        held_out = np.stack([_mask(test, data)[: data.n] for _, test in folds])
        total, present = 0.0, held_out.sum(axis=0)
        X = data.X[: data.n, : self.n_features_in_]
        for rows, one in zip(held_out, fits, strict=True):
            found = np.stack([model.predict_proba(X) for model in self._models(one)])
            total = total + np.where(rows[:, None], found, 0)
        with np.errstate(invalid="ignore"):  # NaN for a row that no fold holds out
            predictions = total / present[:, None]
        weights = data.weights[: data.n] / data.weights.sum()
        return CrossValidated(
            path=self._path(data, data.weights, float(self.l1_ratios_[ratio])),
            fold_scores=np.asarray(self.scores_)[:, ratio],
            fold_weights=held_out @ weights,
            predictions=predictions[..., 1] if len(self.classes_) == 2 else predictions,
            held_out=held_out,
            fold_gaps=np.stack([one.gaps for one in fits]),
            fold_status=np.stack([one.status for one in fits]),
            score=self.scoring if isinstance(self.scoring, str) else "scoring",
            higher_is_better=True,
            n_repeats=1,
        )

    def _grid(self) -> np.ndarray:
        """The values of C, ascending: strengths descend."""
        if isinstance(self.Cs, Integral):
            return np.logspace(-4, 4, int(self.Cs))
        return np.sort(numbers(self.Cs, "Cs", INVERSE_STRENGTH))


def strengths(C: Any, weights: np.ndarray) -> Any:
    """λ = 1 / (C Σ sᵢ): the loss here is a mean."""
    total = weights.sum()
    return 1 / (np.asarray(C, np.float64) * (total if total > 0 else 1))


def _best(scores: np.ndarray) -> tuple[int, int]:
    """The places of the best C and ratio among scores (r, c); of equal ones the least C."""
    at, ratio = np.unravel_index(
        np.argmax(np.where(np.isnan(scores), -np.inf, scores).T), scores.T.shape
    )
    return int(at), int(ratio)


def _mask(rows: Any, data: Data) -> np.ndarray:
    """Some of the rows as a mask over all, with those that were added."""
    mask = np.zeros(len(data.weights), bool)
    mask[: data.n][rows] = True
    return mask
