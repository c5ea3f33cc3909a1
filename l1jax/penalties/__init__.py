"""Penalties: each a small class with its value and its prox, and what engines may ask beyond them.

May import `prox` and the ground floor.
"""

from .._saving import extensible, savable
from ._base import Penalty
from ._composed import Composed
from ._concave import L0, MCP, SCAD, CappedL1, LHalf, LogSum, LTwoThirds
from ._constraints import Box, Cardinality, L1Ball, L1InfBall, L2Ball, Simplex
from ._differences import FusedLasso, TrendFilter
from ._grouped import GroupElasticNet, GroupL1, NonNegativeGroupL1, SparseGroupL1
from ._grouped_nonconvex import GroupMCP, GroupSCAD
from ._grouped_norms import ExclusiveLasso, L1Inf
from ._norms import L2, LInf, NuclearNorm
from ._overlapping import HierarchicalGroupL1, OverlappingGroupL1
from ._separable import L1, AsymmetricL1, ElasticNet, NonNegativeElasticNet, NonNegativeL1, Ridge
from ._sorted import SLOPE

extensible("penalty", Penalty)
savable(L1, ElasticNet, GroupElasticNet, GroupL1, L1Ball, NonNegativeElasticNet)
savable(L0, MCP, SCAD, AsymmetricL1, CappedL1, LHalf, LogSum, LTwoThirds)
savable(NonNegativeGroupL1, NonNegativeL1, Ridge, SparseGroupL1)
savable(SLOPE, FusedLasso, L2, LInf, NuclearNorm, L1Inf, ExclusiveLasso, GroupMCP, GroupSCAD)
savable(
    HierarchicalGroupL1,
    OverlappingGroupL1,
    TrendFilter,
    L2Ball,
    Simplex,
    L1InfBall,
    Box,
    Cardinality,
)

__all__ = [
    "L0",
    "L1",
    "L2",
    "MCP",
    "SCAD",
    "SLOPE",
    "AsymmetricL1",
    "Box",
    "CappedL1",
    "Cardinality",
    "Composed",
    "ElasticNet",
    "ExclusiveLasso",
    "FusedLasso",
    "GroupElasticNet",
    "GroupL1",
    "GroupMCP",
    "GroupSCAD",
    "HierarchicalGroupL1",
    "L1Ball",
    "L1Inf",
    "L1InfBall",
    "L2Ball",
    "LHalf",
    "LInf",
    "LTwoThirds",
    "LogSum",
    "NonNegativeElasticNet",
    "NonNegativeGroupL1",
    "NonNegativeL1",
    "NuclearNorm",
    "OverlappingGroupL1",
    "Penalty",
    "Ridge",
    "Simplex",
    "SparseGroupL1",
    "TrendFilter",
]
