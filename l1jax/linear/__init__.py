"""Penalised linear models: `fit`, `path`, and how a strength is selected.

Rooms, each of which may import those before it: `data`, `model`, `host`, `results`, `derivatives`
and `engines`, the verbs `_fit` and `_path`, `selection`. May import `losses`, `penalties`, `composite`,
`implicit` and what these may import.
"""

from ._fit import fit, lambda_max
from ._path import path
from .data._block_sources import BlockError
from .data._interactions import Interactions, interactions
from .data._matrix import DataMatrix
from .data._row_blocks import RowBlocks, blocks
from .engines._engine import Engine, NumericalBreakdown, Plan, register_engine
from .results._fit import Fit
from .results._path import Path
from .selection._adaptive import Reweighted, adaptive_weights, reweighted
from .selection._batch_path import batch_path
from .selection._batch_paths import BatchPaths
from .selection._convex_region import ConvexRegion, convex_region
from .selection._cross_validate import cross_validate
from .selection._cross_validated import CrossValidated
from .selection._information import InformationCriterion, information_criterion
from .selection._quantiles import Quantiles, quantiles
from .selection._relaxed import relax
from .selection._stability import stability
from .selection._stability_selection import StabilitySelection

__all__ = [
    "BatchPaths",
    "BlockError",
    "ConvexRegion",
    "CrossValidated",
    "DataMatrix",
    "Engine",
    "Fit",
    "InformationCriterion",
    "Interactions",
    "NumericalBreakdown",
    "Path",
    "Plan",
    "Quantiles",
    "Reweighted",
    "RowBlocks",
    "StabilitySelection",
    "adaptive_weights",
    "batch_path",
    "blocks",
    "convex_region",
    "cross_validate",
    "fit",
    "information_criterion",
    "interactions",
    "lambda_max",
    "path",
    "quantiles",
    "register_engine",
    "relax",
    "reweighted",
    "stability",
]
