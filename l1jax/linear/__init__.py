"""Penalised linear models: the data matrix, the problem, its certificate, the engines."""

from ._adaptive import adaptive_weights
from ._cross_validate import cross_validate
from ._cross_validated import CrossValidated
from ._fit import fit, lambda_max
from ._information import InformationCriterion, information_criterion
from ._path import path
from ._relaxed import relax
from ._results import Fit, Path

__all__ = [
    "CrossValidated",
    "Fit",
    "InformationCriterion",
    "Path",
    "adaptive_weights",
    "cross_validate",
    "fit",
    "information_criterion",
    "lambda_max",
    "path",
    "relax",
]
