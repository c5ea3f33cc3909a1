"""Estimators for scikit-learn: its names and habits, the certified fits of l1jax.

May import `linear` and what that may import.

Parameters and attributes are called as in scikit-learn and mean the same: a program that uses its
`Lasso` goes on working with this one. Every argument of the estimator of the same name is taken.
Those that say how scikit-learn computes (`selection`, `random_state`, `precompute`, `copy_X`,
`n_jobs`, `verbose`, `dual`) change nothing; `warm_start` starts from the fit before. Whatever the data
are, a fit is in float64, and its certificate is kept: `fit_` is the `l1jax.Fit`, `dual_gap_` its duality gap.
"""

from importlib.util import find_spec

if find_spec("sklearn") is None:
    raise ModuleNotFoundError(
        "l1jax.sklearn needs scikit-learn: pip install scikit-learn, or l1jax with its extra [sklearn].",
        name="sklearn",
    )

from ._concave import MCPRegressor, MCPRegressorCV, SCADRegressor, SCADRegressorCV
from ._cox import CoxRegressor
from ._cross_validated import (
    ElasticNetCV,
    GroupLassoCV,
    LassoCV,
    MultiTaskElasticNetCV,
    MultiTaskLassoCV,
)
from ._generalised import (
    GammaLasso,
    L1HuberRegressor,
    L1PoissonRegressor,
    NegativeBinomialLasso,
    QuantileLasso,
    SqrtLasso,
    TweedieLasso,
)
from ._grouped import GroupLasso, MultiTaskElasticNet, MultiTaskLasso, SparseGroupLasso
from ._lasso import ElasticNet, Lasso
from ._logistic import LogisticRegression, LogisticRegressionCV
from ._ordinal import OrdinalRegression
from ._paths import enet_path, lasso_path
from ._structured import FusedLasso, SparseSLOPE

__all__ = [
    "CoxRegressor",
    "ElasticNet",
    "ElasticNetCV",
    "FusedLasso",
    "GammaLasso",
    "GroupLasso",
    "GroupLassoCV",
    "L1HuberRegressor",
    "L1PoissonRegressor",
    "Lasso",
    "LassoCV",
    "LogisticRegression",
    "LogisticRegressionCV",
    "MCPRegressor",
    "MCPRegressorCV",
    "MultiTaskElasticNet",
    "MultiTaskElasticNetCV",
    "MultiTaskLasso",
    "MultiTaskLassoCV",
    "NegativeBinomialLasso",
    "OrdinalRegression",
    "QuantileLasso",
    "SCADRegressor",
    "SCADRegressorCV",
    "SparseGroupLasso",
    "SparseSLOPE",
    "SqrtLasso",
    "TweedieLasso",
    "enet_path",
    "lasso_path",
]
