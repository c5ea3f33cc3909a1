"""Losses: value, gradient, curvature and conjugate, as functions of the linear predictor.

May import `prox`, `_groups` and the ground floor.
"""

from .._saving import extensible, savable
from ._base import Loss
from ._cox import Cox
from ._huber import Huber
from ._logistic import Logistic
from ._multinomial import Multinomial
from ._poisson import Poisson
from ._squared_error import SquaredError
from ._squared_hinge import SquaredHinge

extensible("loss", Loss)
savable(Cox, Huber, Logistic, Multinomial, Poisson, SquaredError, SquaredHinge)

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
