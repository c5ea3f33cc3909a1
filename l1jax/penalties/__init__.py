"""Penalties: each one small class that says its value and its prox, and what it can say beyond them."""

from ._base import Penalty
from ._constraints import L1Ball
from ._grouped import GroupL1, SparseGroupL1
from ._separable import L1, ElasticNet, NonNegativeL1, Ridge

__all__ = [
    "L1",
    "ElasticNet",
    "GroupL1",
    "L1Ball",
    "NonNegativeL1",
    "Penalty",
    "Ridge",
    "SparseGroupL1",
]
