"""Least squares with a concave penalty: selects as the lasso does, and shrinks what is large less."""

from __future__ import annotations

from numbers import Real
from typing import Any, ClassVar

from sklearn.utils._param_validation import Interval

from ..penalties import MCP, SCAD, Penalty
from ._base import POSITIVE, AtAlpha, LinearModel, Regressor, arguments, feature_weights
from ._cross_validated import OfAlphas
from ._padding import Data


@arguments
class _OfConcave(LinearModel):
    """A model with a concave penalty of each |wⱼ|."""

    _parameter_constraints: ClassVar[dict] = {
        "positive": ["boolean"],
        "weights": ["array-like", None],
    }
    _concave: ClassVar[type[MCP | SCAD]]

    gamma: Any
    positive: Any = False
    weights: Any = None

    def _penalty_at(self, data: Data, alpha: Any, l1_ratio: Any) -> Penalty:
        del l1_ratio
        weights = feature_weights(self.weights, data)
        lower = 0.0 if self.positive else None
        return self._concave(float(alpha), float(self.gamma), weights, lower=lower)


@arguments
class _OfMCP(_OfConcave):
    _parameter_constraints: ClassVar[dict] = {"gamma": [POSITIVE]}
    _concave = MCP

    gamma: Any = 3.0


@arguments
class _OfSCAD(_OfConcave):
    _parameter_constraints: ClassVar[dict] = {"gamma": [Interval(Real, 2, None, closed="neither")]}
    _concave = SCAD

    gamma: Any = 3.7


@arguments
class MCPRegressor(_OfMCP, AtAlpha, Regressor):
    """Least squares with the minimax concave penalty, ½n⁻¹‖y − Xw − b‖² + Σⱼ r(|wⱼ|).

    r(t) = αt − t²/(2γ) up to t = γα and ½γα² from there: what is beyond γα is not shrunk at all. `gamma`
    γ > 0; large ones give the lasso. Not convex: a fit is a stationary point, the end of a path from the null
    model, or with `warm_start` one near the fit before; its violation of the optimality conditions is
    `fit_.kkt`, and `dual_gap_` is infinite. Columns of unit variance suit a γ above 1. `positive`: w ≥ 0.
    `weights` (p,) ≥ 0 are factors of α, one per feature. `verbose` changes nothing; all else as for
    `Lasso`, for one target. Source: Zhang (2010).

    **Example:**

    ```python
    >>> from l1jax.sklearn import Lasso, MCPRegressor
    >>> X, y = [[-1.0, 1.0], [-1.0, -1.0], [1.0, 1.0], [1.0, -1.0]], [-2.9, -3.1, 3.1, 2.9]
    >>> MCPRegressor(alpha=0.5).fit(X, y).coef_.round(2), Lasso(alpha=0.5).fit(X, y).coef_.round(2)
    (array([3., 0.]), array([2.5, 0. ]))

    ```
    """


@arguments
class SCADRegressor(_OfSCAD, AtAlpha, Regressor):
    """Least squares with the smoothly clipped absolute deviation: slope α up to |wⱼ| = α, none from γα on.

    `gamma` γ > 2. Not convex; all else as for `MCPRegressor`. Source: Fan and Li (2001).

    **Example:**

    ```python
    >>> from l1jax.sklearn import SCADRegressor
    >>> X, y = [[-1.0, 1.0], [-1.0, -1.0], [1.0, 1.0], [1.0, -1.0]], [-2.9, -3.1, 3.1, 2.9]
    >>> SCADRegressor(alpha=0.5).fit(X, y).coef_.round(2)
    array([3., 0.])

    ```
    """


@arguments
class MCPRegressorCV(_OfMCP, OfAlphas):
    """An `MCPRegressor` whose `alpha` is chosen by cross-validation.

    The path goes down from the least α at which all coefficients are zero, from each stationary point to the
    next, in every fold. `gamma`, `positive` and `weights` as for `MCPRegressor`, all else as for `LassoCV`.

    **Example:**

    ```python
    >>> from sklearn.datasets import load_diabetes
    >>> from l1jax.sklearn import MCPRegressorCV
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = MCPRegressorCV(alphas=[30.0, 10.0, 1.0], cv=3).fit(X / X.std(axis=0), y)
    >>> model.alpha_, int((model.coef_ != 0).sum())
    (1.0, 7)

    ```
    """


@arguments
class SCADRegressorCV(_OfSCAD, OfAlphas):
    """A `SCADRegressor` whose `alpha` is chosen by cross-validation; all else as for `MCPRegressorCV`.

    **Example:**

    ```python
    >>> from sklearn.datasets import load_diabetes
    >>> from l1jax.sklearn import SCADRegressorCV
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = SCADRegressorCV(alphas=[30.0, 10.0, 1.0], cv=3).fit(X / X.std(axis=0), y)
    >>> model.alpha_, int((model.coef_ != 0).sum())
    (1.0, 8)

    ```
    """
