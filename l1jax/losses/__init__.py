"""Losses: value, gradient, curvature and conjugate, as functions of the linear predictor.

May import the ground floor.
"""

from .._saving import extensible, savable
from ._base import Loss
from ._cox import Cox
from ._huber import Huber
from ._logistic import Logistic
from ._mixed import Mixed
from ._multinomial import Multinomial
from ._negative_binomial import NegativeBinomial
from ._ordinal import Ordinal
from ._poisson import Poisson
from ._probit import Probit
from ._quantile import Quantile
from ._square_root import SquareRootLasso
from ._squared_error import SquaredError
from ._squared_hinge import SquaredHinge
from ._student_t import StudentT
from ._tweedie import Gamma, InverseGaussian, Tweedie

extensible("loss", Loss)
savable(Cox, Gamma, Huber, InverseGaussian, Logistic, Mixed, Multinomial, NegativeBinomial)
savable(Ordinal, Poisson, Probit, Quantile, StudentT, SquareRootLasso, SquaredError)
savable(SquaredHinge, Tweedie)

__all__ = [
    "Cox",
    "Gamma",
    "Huber",
    "InverseGaussian",
    "Logistic",
    "Loss",
    "Mixed",
    "Multinomial",
    "NegativeBinomial",
    "Ordinal",
    "Poisson",
    "Probit",
    "Quantile",
    "SquareRootLasso",
    "SquaredError",
    "SquaredHinge",
    "StudentT",
    "Tweedie",
]
