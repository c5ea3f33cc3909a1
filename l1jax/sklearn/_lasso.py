"""The lasso and the elastic net."""

from __future__ import annotations

from itertools import zip_longest
from typing import Any, ClassVar

import numpy as np
from sklearn.base import _fit_context

from ..linear import Fit
from ._base import (
    COORDINATE_DESCENT,
    RATIO,
    AtAlpha,
    OfElasticNet,
    OfSeveralTargets,
    Regressor,
    arguments,
)
from ._padding import Data
from ._paths import enet_path


@arguments
class _OnePerTarget(OfSeveralTargets, OfElasticNet, AtAlpha, Regressor):
    """Models in which each target of y (n, k) is fitted by itself."""

    _parameter_constraints: ClassVar[dict] = {
        **COORDINATE_DESCENT,
        "precompute": ["boolean", "array-like"],
    }
    path = staticmethod(enet_path)

    precompute: Any = False
    copy_X: Any = True
    random_state: Any = None
    selection: Any = "cyclic"

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any, sample_weight: Any = None, check_input: bool = True) -> Any:
        """Fits the model to X (n, p), dense or sparse, and y; `sample_weight` (n,) ≥ 0.

        `check_input` is scikit-learn's: here data are always checked.
        """
        del check_input
        return super().fit(X, y, sample_weight)

    def _targets(self, y: np.ndarray) -> np.ndarray:
        return y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y

    def _fit(self, data: Data) -> Any:
        if data.y.ndim == 1:
            return super()._fit(data)
        before = getattr(self, "fit_", None)
        before = before if isinstance(before, list) else []
        return [
            self._fit_one(data, y, fit)
            for y, fit in zip_longest(data.y.T, before[: data.y.shape[1]])
        ]

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


@arguments
class Lasso(_OnePerTarget):
    """Least squares with an L1 penalty, ½n⁻¹‖y − Xw − b‖² + α‖w‖₁, solved exactly.

    `alpha` ≥ 0; `fit_intercept`; `positive`: w ≥ 0; `tol` bounds the duality gap in units of the
    null deviance, `max_iter` the gradient steps where they are needed. Targets y (n,), or (n, k),
    each then a lasso of its own. Sample weights are normalised to sum one. `weights` (p,) ≥ 0 are
    factors of `alpha`, one per feature: 0 for one that is not penalised. `warm_start`: a fit starts
    from the one before, and ends where it would without. `precompute`, `copy_X`, `random_state`,
    `selection` and `verbose` say how scikit-learn computes: they change nothing.

    Attributes: `coef_` (p,) or (k, p), `sparse_coef_`, `intercept_`, `n_iter_`, `dual_gap_` (in the
    units of the objective), `fit_` (the `l1jax.Fit`; k of them for k targets), `n_features_in_`,
    `feature_names_in_`; `path` is `enet_path`. Raises: ValueError that names what is wrong.
    Source: Tibshirani (1996).

    **Example:**

    ```python
    >>> from l1jax.sklearn import Lasso
    >>> lasso = Lasso(alpha=0.1).fit([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]], [0.0, 1.0, 2.0])
    >>> lasso.coef_.round(2), round(lasso.intercept_, 2), lasso.dual_gap_ < 1e-12
    (array([0.85, 0.  ]), 0.15, True)

    ```
    """


@arguments
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

    _parameter_constraints: ClassVar[dict] = {"l1_ratio": [RATIO]}

    l1_ratio: Any = 0.5
