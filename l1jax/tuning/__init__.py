"""`tune`: hyperparameters by gradient, the criteria that they are chosen by, the space that is searched.

May import `linear` and what that may import.
"""

from ._criteria import SURE, CrossValidation, HeldOut
from ._tune import Tuned, tune

__all__ = ["SURE", "CrossValidation", "HeldOut", "Tuned", "tune"]
