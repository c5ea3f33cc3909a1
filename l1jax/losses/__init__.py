"""Losses: value, gradient, curvature and conjugate, as functions of the linear predictor."""

from ._base import Loss
from ._huber import Huber
from ._logistic import Logistic
from ._poisson import Poisson
from ._squared_error import SquaredError

__all__ = ["Huber", "Logistic", "Loss", "Poisson", "SquaredError"]
