"""l1jax: sparse optimisation in JAX. Describe a penalty once; train with it, fit with it, certify with it."""

from . import prox
from ._groups import Groups
from ._minimize import FISTA, ISTA, Solution, minimize
from ._status import ConvergenceWarning, Status
from .linear import Fit, Path, fit, lambda_max, path
from .losses import Huber, Logistic, Loss, Poisson, SquaredError
from .penalties import (
    L1,
    ElasticNet,
    GroupL1,
    L1Ball,
    NonNegativeL1,
    Penalty,
    Ridge,
    SparseGroupL1,
)
from .training import (
    AdagradMetric,
    AdamMetric,
    MomentumMetric,
    RMSPropMetric,
    cast_gradients,
    check_last,
    directions,
    prox_adagrad,
    prox_adam,
    prox_adamw,
    prox_rmsprop,
    prox_sgd,
    prox_step,
    proximal,
)

__version__ = "0.1.0"

__all__ = [
    "FISTA",
    "ISTA",
    "L1",
    "AdagradMetric",
    "AdamMetric",
    "ConvergenceWarning",
    "ElasticNet",
    "Fit",
    "GroupL1",
    "Groups",
    "Huber",
    "L1Ball",
    "Logistic",
    "Loss",
    "MomentumMetric",
    "NonNegativeL1",
    "Path",
    "Penalty",
    "Poisson",
    "RMSPropMetric",
    "Ridge",
    "Solution",
    "SparseGroupL1",
    "SquaredError",
    "Status",
    "cast_gradients",
    "check_last",
    "directions",
    "fit",
    "lambda_max",
    "minimize",
    "path",
    "prox",
    "prox_adagrad",
    "prox_adam",
    "prox_adamw",
    "prox_rmsprop",
    "prox_sgd",
    "prox_step",
    "proximal",
]
