"""The lasso and the elastic net."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from .. import linear
from ..linear import Fit
from ..penalties import Penalty
from ._base import NOT_NEGATIVE, RATIO, LinearModel, OfSeveralTargets, Regressor, elastic_net, lasso
from ._padding import Data


class _OnePerTarget(OfSeveralTargets, Regressor):
    """Models in which each target of y (n, k) is fitted by itself."""

    def _targets(self, y: np.ndarray) -> np.ndarray:
        return y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y

    def _fit(self, data: Data) -> Any:
        if data.y.ndim == 1:
            return super()._fit(data)
        pen, settings = self._penalty(data), self._settings(data)
        return [linear.fit(data.X, one, pen, **settings) for one in data.y.T]

    def _keep(self, fit: Fit | list[Fit], data: Data) -> None:
        if isinstance(fit, Fit):
            return super()._keep(fit, data)
        fits = [self._trim(one, data) for one in fit]
        self.fit_ = fits
        self.coef_ = np.stack([one.coef for one in fits])
        self.intercept_ = np.array([one.intercept for one in fits])
        self.n_iter_ = [max(1, int(one.num_steps)) for one in fits]
        self.dual_gap_ = np.array([one.gap for one in fits])
        return None


class Lasso(_OnePerTarget):
    """Least squares with an L1 penalty, ½n⁻¹‖y − Xw − b‖² + α‖w‖₁, solved exactly.

    `alpha` ≥ 0; `fit_intercept`; `positive`: w ≥ 0; `tol` bounds the duality gap in units of the
    null deviance, `max_iter` the gradient steps where they are needed. Targets y (n,), or (n, k),
    each then a lasso of its own. Sample weights are normalised to sum one.

    Attributes: `coef_` (p,) or (k, p), `intercept_`, `n_iter_`, `dual_gap_` (in the units of the
    objective), `fit_` (the `l1jax.Fit`; k of them for k targets), `n_features_in_`,
    `feature_names_in_`. Raises: ValueError that names what is wrong. Source: Tibshirani (1996).

    **Example:**

    ```python
    >>> from l1jax.sklearn import Lasso
    >>> lasso = Lasso(alpha=0.1).fit([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]], [0.0, 1.0, 2.0])
    >>> lasso.coef_.round(2), round(lasso.intercept_, 2), lasso.dual_gap_ < 1e-12
    (array([0.85, 0.  ]), 0.15, True)

    ```
    """

    _parameter_constraints: ClassVar[dict] = {
        **LinearModel._parameter_constraints,
        "alpha": [NOT_NEGATIVE],
        "positive": ["boolean"],
    }

    def __init__(
        self,
        alpha: Any = 1.0,
        *,
        fit_intercept: Any = True,
        max_iter: Any = 20_000,
        tol: Any = 1e-6,
        positive: Any = False,
    ):
        self.alpha = alpha
        self.fit_intercept = fit_intercept
        self.max_iter = max_iter
        self.tol = tol
        self.positive = positive

    def _penalty(self, data: Data) -> Penalty:
        del data
        return lasso(self.alpha, positive=True) if self.positive else elastic_net(self.alpha)


class ElasticNet(_OnePerTarget):
    """Least squares with the penalty α(ρ‖w‖₁ + ½(1−ρ)‖w‖²), ρ = `l1_ratio`, solved exactly.

    `alpha` ≥ 0, `l1_ratio` in [0, 1]; all else as for `Lasso`. Source: Zou and Hastie (2005).

    **Example:**

    ```python
    >>> from l1jax.sklearn import ElasticNet
    >>> net = ElasticNet(alpha=0.1).fit([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]], [0.0, 1.0, 2.0])
    >>> net.coef_.round(3)  # equal columns share
    array([0.446, 0.446])

    ```
    """

    _parameter_constraints: ClassVar[dict] = {
        **LinearModel._parameter_constraints,
        "alpha": [NOT_NEGATIVE],
        "l1_ratio": [RATIO],
    }

    def __init__(
        self,
        alpha: Any = 1.0,
        *,
        l1_ratio: Any = 0.5,
        fit_intercept: Any = True,
        max_iter: Any = 20_000,
        tol: Any = 1e-6,
    ):
        self.alpha = alpha
        self.l1_ratio = l1_ratio
        self.fit_intercept = fit_intercept
        self.max_iter = max_iter
        self.tol = tol

    def _penalty(self, data: Data) -> Penalty:
        del data
        return elastic_net(self.alpha, self.l1_ratio)
