"""Estimators for scikit-learn: its names and habits, the certified fits of l1jax.

Parameters and attributes are called as in scikit-learn and mean the same: a program that uses its
`Lasso` goes on working with this one. Parameters that would be ignored here (`selection`,
`random_state`, `precompute`, `warm_start`, `n_jobs`) do not exist. Whatever the data are, a fit is in
float64, and its certificate is kept: `fit_` is the `l1jax.Fit`, `dual_gap_` its duality gap.
"""

from ._cox import CoxRegressor
from ._cross_validated import ElasticNetCV, GroupLassoCV, LassoCV, MultiTaskLassoCV
from ._generalised import L1HuberRegressor, L1PoissonRegressor
from ._grouped import GroupLasso, MultiTaskLasso, SparseGroupLasso
from ._lasso import ElasticNet, Lasso
from ._logistic import LogisticRegression, LogisticRegressionCV

__all__ = [
    "CoxRegressor",
    "ElasticNet",
    "ElasticNetCV",
    "GroupLasso",
    "GroupLassoCV",
    "L1HuberRegressor",
    "L1PoissonRegressor",
    "Lasso",
    "LassoCV",
    "LogisticRegression",
    "LogisticRegressionCV",
    "MultiTaskLasso",
    "MultiTaskLassoCV",
    "SparseGroupLasso",
]
