"""Penalised linear models: `fit`, `path`, and how a strength is selected.

Rooms, each of which may import those before it: `data`, `model`, `host`, `results`, `derivatives`
and `engines`, the verbs `_fit` and `_path`, `selection`. May import all but `tuning`, `sklearn` and `plot`.
"""

from ._fit import fit, lambda_max
from ._path import path
from .engines._engine import Engine, NumericalBreakdown, Plan, register_engine
from .results._fit import Fit
from .results._path import Path
from .selection._adaptive import adaptive_weights
from .selection._cross_validate import cross_validate
from .selection._cross_validated import CrossValidated
from .selection._information import InformationCriterion, information_criterion
from .selection._relaxed import relax

__all__ = [
    "CrossValidated",
    "Engine",
    "Fit",
    "InformationCriterion",
    "NumericalBreakdown",
    "Path",
    "Plan",
    "adaptive_weights",
    "cross_validate",
    "fit",
    "information_criterion",
    "lambda_max",
    "path",
    "register_engine",
    "relax",
]
