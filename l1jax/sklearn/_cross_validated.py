"""Estimators that choose their strength by cross-validation."""

from __future__ import annotations

import dataclasses
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from sklearn.base import _fit_context, is_classifier
from sklearn.model_selection import check_cv
from sklearn.utils._param_validation import Interval

from .. import linear
from ..linear import CrossValidated, Path
from ..penalties import Penalty
from ._base import RATIO, LinearModel, Regressor, elastic_net, lasso
from ._grouped import OfGroups, OfTasks
from ._padding import Data

_NOTHING = np.finfo(np.float64).resolution  # the grid where every strength gives the null model


class OfFolds(LinearModel):
    """What is common to all that cross-validate: the folds, and a path over them."""

    cv: Any

    def _splits(self, data: Data, groups: Any) -> list[tuple[Any, Any]]:
        """(train, test) of each fold, as scikit-learn draws them."""
        X, y = data.X[: data.n], data.y[: data.n]
        splitter: Any = check_cv(self.cv, y, classifier=is_classifier(self))
        return list(splitter.split(X, y, groups))

    def _validated(
        self, data: Data, pen: Penalty, lams: Any, folds: Any, score: str
    ) -> CrossValidated:
        """The cross-validation of a path, of the rows and columns that count."""
        found = linear.cross_validate(
            data.X, data.y, pen, lams=lams, folds=folds, score=score, progress=False,
            **self._settings(data),
        )  # fmt: skip
        return dataclasses.replace(
            found,
            path=Path(self._trim(found.path.fits, data), None),
            predictions=found.predictions[:, : data.n],
            held_out=found.held_out[:, : data.n],
        )


class _OfAlphas(OfFolds, Regressor):
    """Least squares with an `alpha` chosen by the mean squared error of held-out rows."""

    _parameter_constraints: ClassVar[dict] = {
        **LinearModel._parameter_constraints,
        "eps": [Interval(Real, 0, 1, closed="neither")],
        "alphas": [Interval(Integral, 1, None, closed="left"), "array-like"],
        "cv": ["cv_object"],
    }

    def __init__(
        self,
        *,
        eps: Any = 1e-3,
        alphas: Any = 100,
        fit_intercept: Any = True,
        max_iter: Any = 20_000,
        tol: Any = 1e-6,
        cv: Any = None,
    ):
        self.eps = eps
        self.alphas = alphas
        self.fit_intercept = fit_intercept
        self.max_iter = max_iter
        self.tol = tol
        self.cv = cv

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any, sample_weight: Any = None, groups: Any = None) -> Any:
        """Chooses `alpha_`, and fits all rows with it.

        X (n, p), dense or sparse, y, `sample_weight` (n,) ≥ 0; `groups` (n,) go to the splitter `cv`.
        """
        data = self._read(X, y, sample_weight)
        folds, ratios = self._splits(data, groups), self._ratios()
        pens = [self._penalty_at(data, ratio) for ratio in ratios]
        grids = [self._grid(data, pen) for pen in pens]
        found = [
            self._validated(data, pen, grid, folds, "squared_error")
            for pen, grid in zip(pens, grids, strict=True)
        ]
        n_targets = 1 if data.y.ndim == 1 else data.y.shape[1]
        errors = np.stack([one.fold_scores.T for one in found]) / n_targets
        means = errors.mean(axis=2)  # (ratios, alphas)
        ratio, at = np.unravel_index(np.argmin(means), means.shape)  # the largest of equal alphas
        self.cv_ = found[ratio]
        self.alpha_ = float(grids[ratio][at])
        self.mse_path_ = np.squeeze(errors, axis=0) if len(found) == 1 else errors
        several = len(found) > 1 and isinstance(self.alphas, Integral)
        self.alphas_ = np.stack(grids) if several else grids[0]
        if hasattr(self, "l1_ratio"):
            self.l1_ratio_ = float(ratios[ratio])
        self._keep(self.cv_.path[int(at)], data)
        return self

    def _ratios(self) -> np.ndarray:
        return np.ones(1)

    def _penalty_at(self, data: Data, l1_ratio: float) -> Penalty:
        raise NotImplementedError

    def _grid(self, data: Data, pen: Penalty) -> np.ndarray:
        """The strengths, descending."""
        if not isinstance(self.alphas, Integral):
            alphas = np.asarray(self.alphas, np.float64)
            if alphas.ndim != 1 or not alphas.size or not (alphas >= 0).all():
                raise ValueError(f"alphas must be a list of numbers >= 0, got {self.alphas!r}.")
            return -np.sort(-alphas)
        settings = self._settings(data)
        del settings["tol"], settings["max_steps"]
        biggest = float(linear.lambda_max(data.X, data.y, pen, **settings))
        if not np.isfinite(biggest):
            raise ValueError(
                "alphas must be given for l1_ratio=0: such a penalty has no strength at which all "
                "coefficients are zero, so no grid follows from the data."
            )
        if biggest <= _NOTHING:
            return np.full(int(self.alphas), _NOTHING)
        return np.geomspace(biggest, biggest * self.eps, int(self.alphas))


class LassoCV(_OfAlphas):
    """A `Lasso` whose `alpha` is chosen by cross-validation.

    `alphas`: how many strengths, log-spaced from the least at which all coefficients are zero down
    to `eps` times that; or the strengths themselves. `cv`: as everywhere in scikit-learn, 5 folds
    unless given. The mean over the folds of their mean squared errors (with sample weights a
    weighted mean in each fold) decides; all else as for `Lasso`.

    Attributes, beyond those of `Lasso`: `alpha_`, `alphas_` (L,), descending, `mse_path_`
    (L, folds), `cv_` (the `l1jax.CrossValidated`, every fit of it certified).

    **Example:**

    ```python
    >>> from sklearn.datasets import load_diabetes
    >>> from l1jax.sklearn import LassoCV
    >>> model = LassoCV(alphas=30).fit(*load_diabetes(return_X_y=True))
    >>> model.mse_path_.shape, bool(0.001 < model.alpha_ < 0.01)
    ((30, 5), True)

    ```
    """

    _parameter_constraints: ClassVar[dict] = {
        **_OfAlphas._parameter_constraints,
        "positive": ["boolean"],
    }

    def __init__(
        self,
        *,
        eps: Any = 1e-3,
        alphas: Any = 100,
        fit_intercept: Any = True,
        max_iter: Any = 20_000,
        tol: Any = 1e-6,
        cv: Any = None,
        positive: Any = False,
    ):
        super().__init__(
            eps=eps, alphas=alphas, fit_intercept=fit_intercept, max_iter=max_iter, tol=tol, cv=cv
        )
        self.positive = positive

    def _penalty_at(self, data: Data, l1_ratio: float) -> Penalty:
        del data
        return lasso(1.0, positive=True) if self.positive else elastic_net(1.0, l1_ratio)


class ElasticNetCV(_OfAlphas):
    """An `ElasticNet` whose `alpha` is chosen by cross-validation, and its `l1_ratio` if asked.

    `l1_ratio`: a number in [0, 1], or several of which the best is chosen. All else as for
    `LassoCV`; with R ratios `mse_path_` is (R, L, folds), `alphas_` (R, L), and `cv_` is that of
    `l1_ratio_`. A ratio of 0 has no strength at which all is zero: it needs `alphas`.

    **Example:**

    ```python
    >>> from sklearn.datasets import load_diabetes
    >>> from l1jax.sklearn import ElasticNetCV
    >>> X, y = load_diabetes(return_X_y=True)
    >>> ElasticNetCV(l1_ratio=[0.5, 1.0], alphas=30).fit(X, y).l1_ratio_
    1.0

    ```
    """

    _parameter_constraints: ClassVar[dict] = {
        **_OfAlphas._parameter_constraints,
        "l1_ratio": [RATIO, "array-like"],
    }

    def __init__(
        self,
        *,
        l1_ratio: Any = 0.5,
        eps: Any = 1e-3,
        alphas: Any = 100,
        fit_intercept: Any = True,
        max_iter: Any = 20_000,
        tol: Any = 1e-6,
        cv: Any = None,
    ):
        self.l1_ratio = l1_ratio
        super().__init__(
            eps=eps, alphas=alphas, fit_intercept=fit_intercept, max_iter=max_iter, tol=tol, cv=cv
        )

    def _ratios(self) -> np.ndarray:
        return read_ratios(self.l1_ratio, "l1_ratio")

    def _penalty_at(self, data: Data, l1_ratio: float) -> Penalty:
        del data
        return elastic_net(1.0, l1_ratio)


class MultiTaskLassoCV(OfTasks, _OfAlphas):
    """A `MultiTaskLasso` whose `alpha` is chosen by cross-validation.

    The squared error is averaged over targets; all else as for `LassoCV`.

    **Example:**

    ```python
    >>> from sklearn.datasets import load_diabetes
    >>> from l1jax.sklearn import MultiTaskLassoCV
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = MultiTaskLassoCV(alphas=[10.0, 1.0, 0.1], cv=3).fit(X[:, :8], y[:, None])
    >>> model.alpha_, model.coef_.shape
    (0.1, (1, 8))

    ```
    """

    def _penalty_at(self, data: Data, l1_ratio: float) -> Penalty:
        del l1_ratio
        return self._task_penalty(data, 1.0)


class GroupLassoCV(OfGroups, _OfAlphas):
    """A `GroupLasso` whose `alpha` is chosen by cross-validation.

    `groups` and `weights` as for `GroupLasso`, all else as for `LassoCV`.

    **Example:**

    ```python
    >>> from sklearn.datasets import load_diabetes
    >>> from l1jax.sklearn import GroupLassoCV
    >>> X, y = load_diabetes(return_X_y=True)
    >>> groups = [0, 1, 2, 3, 4, 4, 4, 4, 4, 4]  # six serum measurements
    >>> model = GroupLassoCV(groups=groups, alphas=[1.0, 0.1], cv=3).fit(X, y)
    >>> model.alpha_
    0.1

    ```
    """

    _parameter_constraints: ClassVar[dict] = {
        **_OfAlphas._parameter_constraints,
        "groups": ["array-like", None],
        "weights": ["array-like", None],
    }

    def __init__(
        self,
        *,
        groups: Any = None,
        weights: Any = None,
        eps: Any = 1e-3,
        alphas: Any = 100,
        fit_intercept: Any = True,
        max_iter: Any = 20_000,
        tol: Any = 1e-6,
        cv: Any = None,
    ):
        self.groups = groups
        self.weights = weights
        super().__init__(
            eps=eps, alphas=alphas, fit_intercept=fit_intercept, max_iter=max_iter, tol=tol, cv=cv
        )

    def _penalty_at(self, data: Data, l1_ratio: float) -> Penalty:
        del l1_ratio
        return self._group_penalty(data, 1.0)


def read_ratios(ratios: Any, name: str) -> np.ndarray:
    """One or several mixing ratios, checked."""
    found = np.atleast_1d(np.asarray(ratios, np.float64))
    if found.ndim != 1 or not found.size or not ((found >= 0) & (found <= 1)).all():
        raise ValueError(f"{name} must be a number in [0, 1], or a list of such; got {ratios!r}.")
    return found
