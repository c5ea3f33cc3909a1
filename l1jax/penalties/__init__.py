"""Penalties: each a small class with its value and its prox, and what engines may ask beyond them.

May import `prox`, `_groups` and the ground floor.
"""

from .._saving import extensible, savable
from ._base import Penalty
from ._constraints import L1Ball
from ._grouped import GroupElasticNet, GroupL1, NonNegativeGroupL1, SparseGroupL1
from ._separable import L1, ElasticNet, NonNegativeElasticNet, NonNegativeL1, Ridge

extensible("penalty", Penalty)
savable(L1, ElasticNet, GroupElasticNet, GroupL1, L1Ball, NonNegativeElasticNet)
savable(NonNegativeGroupL1, NonNegativeL1, Ridge, SparseGroupL1)

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
