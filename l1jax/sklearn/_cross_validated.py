"""Estimators that choose their strength by cross-validation."""

from __future__ import annotations

import dataclasses
from numbers import Integral
from typing import Any, ClassVar

import numpy as np
from sklearn.base import _fit_context, is_classifier
from sklearn.model_selection import check_cv
from sklearn.utils._param_validation import StrOptions

from .. import linear
from ..linear import CrossValidated, Path
from ._base import (
    COORDINATE_DESCENT,
    RATIO,
    LinearModel,
    OfElasticNet,
    Regressor,
    arguments,
    numbers,
)
from ._grouped import OfGroups, OfTasks
from ._padding import Data
from ._paths import COUNT, GRID, enet_path, lasso_path, number_or_strengths, strengths


@arguments
class OfFolds(LinearModel):
    """What is common to all that cross-validate: the folds, and a path over them."""

    cv: Any = None
    n_jobs: Any = None
    verbose: Any = False

    _parameter_constraints: ClassVar[dict] = {
        "cv": ["cv_object"],
        "n_jobs": [Integral, None],
        "verbose": ["verbose"],
    }

    def _splits(self, data: Data, groups: Any) -> list[tuple[Any, Any]]:
        """(train, test) of each fold, as scikit-learn draws them."""
        X, y = data.X[: data.n], data.y[: data.n]
        splitter: Any = check_cv(self.cv, y, classifier=is_classifier(self))
        return list(splitter.split(X, y, groups))


@arguments
class OfAlphas(OfFolds, Regressor):
    """Least squares with an `alpha` chosen by the mean squared error of held-out rows."""

    _parameter_constraints: ClassVar[dict] = {
        **COORDINATE_DESCENT,
        **GRID,
    }

    eps: Any = 1e-3
    alphas: Any = COUNT
    n_alphas: Any = None
    copy_X: Any = True
    random_state: Any = None
    selection: Any = "cyclic"

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any, sample_weight: Any = None, groups: Any = None) -> Any:
        """Chooses `alpha_`, and fits all rows with it.

        X (n, p), dense or sparse, y, `sample_weight` (n,) ≥ 0; `groups` (n,) go to the splitter `cv`.
        """
        data = self._read(X, y, sample_weight)
        folds, ratios = self._splits(data, groups), self._ratios()
        pens = [self._penalty_at(data, 1.0, ratio) for ratio in ratios]
        settings = self._settings(data)
        of_start = {name: settings[name] for name in ("loss", "fit_intercept", "sample_weight")}
        alphas = number_or_strengths(self.alphas, self.n_alphas)
        grids = [strengths(data, pen, alphas, self.eps, of_start) for pen in pens]
        found = [
            self._trim_all(
                linear.cross_validate(
                    data.X, data.y, pen, lams=grid, folds=folds, score="squared_error",
                    progress=False, **settings,
                ),
                data,
            )
            for pen, grid in zip(pens, grids, strict=True)
        ]  # fmt: skip
        n_targets = 1 if data.y.ndim == 1 else data.y.shape[1]
        errors = np.stack([one.fold_scores.T for one in found]) / n_targets
        means = errors.mean(axis=2)  # (ratios, alphas)
        ratio, at = np.unravel_index(np.argmin(means), means.shape)  # the largest of equal alphas
        self.cv_ = found[ratio]
        self.alpha_ = float(grids[ratio][at])
        self.mse_path_ = np.squeeze(errors, axis=0) if len(found) == 1 else errors
        several = len(found) > 1 and (alphas is None or isinstance(alphas, Integral))
        self.alphas_ = np.stack(grids) if several else grids[0]
        if hasattr(self, "l1_ratio"):
            self.l1_ratio_ = float(ratios[ratio])
        self._keep(self.cv_.path[int(at)], data)
        return self

    def _ratios(self) -> np.ndarray:
        return np.array([self._ratio_unless_given])

    def _trim_all(self, found: CrossValidated, data: Data) -> CrossValidated:
        """The cross-validation of the rows and columns that count."""
        predictions = found.predictions
        return dataclasses.replace(
            found,
            path=Path(self._trim(found.path.fits, data), None),
            predictions=None if predictions is None else predictions[:, : data.n],
            held_out=found.held_out[:, : data.n],
        )


@arguments
class _OfOneTarget(OfElasticNet, OfAlphas):
    """Those of one target."""

    _parameter_constraints: ClassVar[dict] = {
        "precompute": ["boolean", "array-like", StrOptions({"auto"})],
    }

    precompute: Any = "auto"


@arguments
class LassoCV(_OfOneTarget):
    """A `Lasso` whose `alpha` is chosen by cross-validation.

    `alphas`: how many strengths, log-spaced from the least at which all coefficients are zero down
    to `eps` times that; or the strengths themselves. `n_alphas` is the older name for how many.
    `cv`: as everywhere in scikit-learn, 5 folds
    unless given. The mean over the folds of their mean squared errors (with sample weights a
    weighted mean in each fold) decides; all else as for `Lasso`. `n_jobs` and `verbose` change
    nothing.

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

    path = staticmethod(lasso_path)


@arguments
class ElasticNetCV(_OfOneTarget):
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

    _parameter_constraints: ClassVar[dict] = {"l1_ratio": [RATIO, "array-like"]}
    path = staticmethod(enet_path)

    l1_ratio: Any = 0.5

    def _ratios(self) -> np.ndarray:
        return numbers(self.l1_ratio, "l1_ratio", RATIO)


@arguments
class MultiTaskLassoCV(OfTasks, OfAlphas):
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

    path = staticmethod(lasso_path)


@arguments
class MultiTaskElasticNetCV(OfTasks, OfAlphas):
    """A `MultiTaskElasticNet` whose `alpha` is chosen by cross-validation, and its `l1_ratio` if asked.

    `l1_ratio` as for `ElasticNetCV`; the squared error is averaged over targets; all else as for
    `LassoCV`.

    **Example:**

    ```python
    >>> from sklearn.datasets import load_diabetes
    >>> from l1jax.sklearn import MultiTaskElasticNetCV
    >>> X = load_diabetes().data * 20
    >>> model = MultiTaskElasticNetCV(l1_ratio=0.9, alphas=[1.0, 0.01], cv=3).fit(X[:, :8], X[:, 8:])
    >>> model.alpha_, model.coef_.shape
    (0.01, (2, 8))

    ```
    """

    _parameter_constraints: ClassVar[dict] = {"l1_ratio": [RATIO, "array-like"]}
    path = staticmethod(enet_path)

    l1_ratio: Any = 0.5

    def _ratios(self) -> np.ndarray:
        return numbers(self.l1_ratio, "l1_ratio", RATIO)


@arguments
class GroupLassoCV(OfGroups, OfAlphas):
    """A `GroupLasso` whose `alpha` is chosen by cross-validation.

    `groups`, `weights` and `positive` as for `GroupLasso`, all else as for `LassoCV`.

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

    _parameter_constraints: ClassVar[dict] = {"positive": ["boolean"]}

    positive: Any = False
