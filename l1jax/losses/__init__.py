"""Losses: value, gradient, curvature and conjugate, as functions of the linear predictor."""

from ._base import Loss
from ._cox import Cox
from ._huber import Huber
from ._logistic import Logistic
from ._multinomial import Multinomial
from ._poisson import Poisson
from ._squared_error import SquaredError
from ._squared_hinge import SquaredHinge

__all__ = [
    "Cox",
    "Huber",
    "Logistic",
    "Loss",
    "Multinomial",
    "Poisson",
    "SquaredError",
    "SquaredHinge",
]
