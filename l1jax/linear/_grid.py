"""The strengths of a path: given, or from the data."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from .._arrays import constant, is_in_numpy, is_numpy, namespace
from .._checks import check_number
from .._compile import program
from .._tracing import frozen, is_traced
from .._types import Real
from ..penalties import Penalty
from .model._null_model import gradient_to_explain, null_lambda_max
from .model._problem import Problem


def check_grid(lams: Any, n_lams: int, ratio: float | None) -> Any:
    """The given grid, checked and in descending order; None if it is to be made."""
    if lams is None:
        if not isinstance(n_lams, int | np.integer) or n_lams < 1:
            raise ValueError(f"n_lams must be a whole number >= 1, got {n_lams!r}.")
        if ratio is not None and not 0 < check_number(ratio, "lam_min_ratio", 0) <= 1:
            raise ValueError(f"lam_min_ratio must lie in (0, 1], got {ratio}.")
        return None
    if isinstance(lams, Tracer):
        if lams.ndim != 1:
            raise ValueError(f"lams must be a vector, got shape {lams.shape}.")
        if is_traced(lams):
            return -jnp.sort(-lams)
        return lams[np.argsort(-_check_values(frozen(lams)), kind="stable")]
    return -np.sort(-_check_values(lams))


def _check_values(lams: Any) -> np.ndarray:
    lams = np.asarray(lams)
    if lams.dtype.kind not in "fiu":
        raise TypeError(f"lams must be numbers, got dtype {lams.dtype}.")
    if lams.ndim != 1 or not len(lams):
        raise ValueError(f"lams must be a vector with at least one entry, got shape {lams.shape}.")
    bad = np.flatnonzero(~((lams >= 0) & np.isfinite(lams)))
    if len(bad):
        raise ValueError(f"lams must be >= 0 and finite, got {lams[bad[0]]} at index {bad[0]}.")
    return lams.astype(np.float64)


def make_grid(
    problem: Problem,
    pen: Penalty,
    grid: Any,
    n_lams: int,
    ratio: float | None,
    shape: tuple[int, int],
) -> Real:
    """The given grid, or the one that follows from the data, which have this shape.

    Raises: AttributeError for a penalty that has no strength to take from a grid.
    """
    pen.with_strength(1.0)
    if grid is None:
        n, p = shape
        ratio = ratio if ratio is not None else (1e-2 if n <= p else 1e-3)
        here = is_numpy((problem.null, problem.norms, pen)) and is_in_numpy(pen)
        make = _automatic_grid if here else _compiled_grid
        grid = make(problem, pen, n_lams, float(ratio))
        _check_automatic(grid, pen)
    return namespace(grid).asarray(grid, problem.y.dtype)


def _automatic_grid(problem: Problem, pen: Penalty, n_lams: int, ratio: float) -> Real:
    biggest = null_lambda_max(problem, pen)
    xp = namespace(biggest)
    # Where nothing is left to explain every strength gives the null model: any grid will do.
    nothing = (biggest == 0) & ~xp.any(gradient_to_explain(problem) != 0)
    biggest = constant(xp.where(nothing, 1, biggest))
    powers = xp.linspace(0, 1, n_lams, dtype=biggest.dtype)
    return biggest * xp.asarray(ratio, biggest.dtype) ** powers


_compiled_grid = program(_automatic_grid)


def _check_automatic(grid: Any, pen: Penalty) -> None:
    grid = frozen(grid)
    if is_traced(grid):
        return
    first = float(grid[0])
    if not 0 < first < np.inf:
        if first:
            why = "no strength at which everything is zero"
        elif pen.strength == "lam":
            why = "no feature with a weight above zero and below infinity"
        else:
            why = "a budget, not a penalty weight"
        raise ValueError(
            f"{type(pen).__name__} has {why}, so no grid follows from the data: pass lams."
        )
