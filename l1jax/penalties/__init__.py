"""Penalties: each one small class that says its value and its prox, and what it can say beyond them."""

from ._base import Penalty
from ._constraints import L1Ball
from ._grouped import GroupElasticNet, GroupL1, NonNegativeGroupL1, SparseGroupL1
from ._separable import L1, ElasticNet, NonNegativeElasticNet, NonNegativeL1, Ridge

__all__ = [
    "L1",
    "ElasticNet",
    "GroupElasticNet",
    "GroupL1",
    "L1Ball",
    "NonNegativeElasticNet",
    "NonNegativeGroupL1",
    "NonNegativeL1",
    "Penalty",
    "Ridge",
    "SparseGroupL1",
]
