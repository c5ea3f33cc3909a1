"""Penalised linear models: the data matrix, the problem, its certificate, the engines."""

from ._fit import fit, lambda_max
from ._path import path
from ._results import Fit, Path

__all__ = ["Fit", "Path", "fit", "lambda_max", "path"]
