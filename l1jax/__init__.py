"""l1jax: sparse optimisation in JAX. Describe a penalty once; train with it, fit with it, certify with it."""

import importlib as _importlib
from functools import partial as _partial
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from . import prox
from ._compile import set_compilation_cache
from ._groups import Groups
from ._operators import graph_differences
from ._saving import load
from ._saving import savable_later as _savable_later
from ._status import ConvergenceWarning, Status
from .losses import (
    Cox,
    Gamma,
    Huber,
    InverseGaussian,
    Logistic,
    Loss,
    Multinomial,
    NegativeBinomial,
    Ordinal,
    Poisson,
    Probit,
    Quantile,
    SquaredError,
    SquaredHinge,
    SquareRootLasso,
    StudentT,
    Tweedie,
)
from .penalties import (
    L0,
    L1,
    L2,
    MCP,
    SCAD,
    SLOPE,
    AsymmetricL1,
    Box,
    CappedL1,
    Cardinality,
    Composed,
    ElasticNet,
    ExclusiveLasso,
    FusedLasso,
    GroupElasticNet,
    GroupL1,
    GroupMCP,
    GroupSCAD,
    HierarchicalGroupL1,
    L1Ball,
    L1Inf,
    L1InfBall,
    L2Ball,
    LHalf,
    LInf,
    LogSum,
    LTwoThirds,
    NonNegativeElasticNet,
    NonNegativeGroupL1,
    NonNegativeL1,
    NuclearNorm,
    OverlappingGroupL1,
    Penalty,
    Ridge,
    Simplex,
    SparseGroupL1,
    TrendFilter,
)
from .training import (
    AdagradMetric,
    AdamMetric,
    ChannelL1,
    MomentumMetric,
    RMSPropMetric,
    Sparsity,
    batch_norm_scales,
    cast_gradients,
    check_last,
    directions,
    ftrl_proximal,
    masked_average,
    on,
    paths,
    penalties,
    prox_adagrad,
    prox_adam,
    prox_adamw,
    prox_rmsprop,
    prox_sgd,
    prox_step,
    proximal,
    rda,
    sparsity,
    strength_warmup,
)

if _TYPE_CHECKING:
    from . import plot as plot
    from . import prune as prune
    from . import sklearn as sklearn
    from .composite import FISTA, ISTA, AugmentedLagrangian, Solution, minimize
    from .linear import (
        BatchPaths,
        BlockError,
        ConvexRegion,
        CrossValidated,
        DataMatrix,
        Engine,
        Fit,
        InformationCriterion,
        Interactions,
        NumericalBreakdown,
        Path,
        Plan,
        Reweighted,
        RowBlocks,
        StabilitySelection,
        adaptive_weights,
        batch_path,
        blocks,
        convex_region,
        cross_validate,
        fit,
        information_criterion,
        interactions,
        lambda_max,
        path,
        register_engine,
        relax,
        reweighted,
        stability,
    )
    from .tuning import SURE, CrossValidation, HeldOut, Tuned, tune

__version__ = "0.1.0"

__all__ = [
    "FISTA",
    "ISTA",
    "L0",
    "L1",
    "L2",
    "MCP",
    "SCAD",
    "SLOPE",
    "SURE",
    "AdagradMetric",
    "AdamMetric",
    "AsymmetricL1",
    "AugmentedLagrangian",
    "BatchPaths",
    "BlockError",
    "Box",
    "CappedL1",
    "Cardinality",
    "ChannelL1",
    "Composed",
    "ConvergenceWarning",
    "ConvexRegion",
    "Cox",
    "CrossValidated",
    "CrossValidation",
    "DataMatrix",
    "ElasticNet",
    "Engine",
    "ExclusiveLasso",
    "Fit",
    "FusedLasso",
    "Gamma",
    "GroupElasticNet",
    "GroupL1",
    "GroupMCP",
    "GroupSCAD",
    "Groups",
    "HeldOut",
    "HierarchicalGroupL1",
    "Huber",
    "InformationCriterion",
    "Interactions",
    "InverseGaussian",
    "L1Ball",
    "L1Inf",
    "L1InfBall",
    "L2Ball",
    "LHalf",
    "LInf",
    "LTwoThirds",
    "LogSum",
    "Logistic",
    "Loss",
    "MomentumMetric",
    "Multinomial",
    "NegativeBinomial",
    "NonNegativeElasticNet",
    "NonNegativeGroupL1",
    "NonNegativeL1",
    "NuclearNorm",
    "NumericalBreakdown",
    "Ordinal",
    "OverlappingGroupL1",
    "Path",
    "Penalty",
    "Plan",
    "Poisson",
    "Probit",
    "Quantile",
    "RMSPropMetric",
    "Reweighted",
    "Ridge",
    "RowBlocks",
    "Simplex",
    "Solution",
    "SparseGroupL1",
    "Sparsity",
    "SquareRootLasso",
    "SquaredError",
    "SquaredHinge",
    "StabilitySelection",
    "Status",
    "StudentT",
    "TrendFilter",
    "Tuned",
    "Tweedie",
    "adaptive_weights",
    "batch_norm_scales",
    "batch_path",
    "blocks",
    "cast_gradients",
    "check_last",
    "convex_region",
    "cross_validate",
    "directions",
    "fit",
    "ftrl_proximal",
    "graph_differences",
    "information_criterion",
    "interactions",
    "lambda_max",
    "load",
    "masked_average",
    "minimize",
    "on",
    "path",
    "paths",
    "penalties",
    "prox",
    "prox_adagrad",
    "prox_adam",
    "prox_adamw",
    "prox_rmsprop",
    "prox_sgd",
    "prox_step",
    "proximal",
    "prune",
    "rda",
    "register_engine",
    "relax",
    "reweighted",
    "set_compilation_cache",
    "sparsity",
    "stability",
    "strength_warmup",
    "tune",
]

_ROOMS = ("composite", "linear", "tuning")  # from the ground up; the public names are in `__all__`
_WHEN_USED = (*_ROOMS, "plot", "prune", "sklearn")  # they load when they are used


def __getattr__(name: str) -> _Any:
    """Loads a sub-package when it, or a public name of it, is used first."""
    if name in _WHEN_USED:
        return _importlib.import_module(f".{name}", __name__)
    if name in __all__:
        for room in map(__getattr__, _ROOMS):
            if name in room.__all__:
                globals()[name] = getattr(room, name)
                return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_WHEN_USED})


for _result in ("CrossValidated", "Fit", "Path", "StabilitySelection"):
    _savable_later(_result, _partial(__getattr__, _result))
_savable_later("PruningPlan", _partial(__getattr__, "prune"))
