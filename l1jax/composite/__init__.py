"""`minimize`: a smooth function of any pytree plus a penalty, by proximal gradient steps.

May import the ground floor, `implicit`, `penalties`.
"""

from ._minimize import minimize
from ._solution import Solution
from ._solvers import FISTA, ISTA, AugmentedLagrangian

__all__ = ["FISTA", "ISTA", "AugmentedLagrangian", "Solution", "minimize"]
