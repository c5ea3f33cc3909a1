"""Which columns are in a working set: all, where that costs less than to search, or those that may matter."""

from __future__ import annotations

import math

import numpy as np

from ....penalties import Penalty
from ...model._problem import Problem
from ._options import OPTIONS
from ._penalty_weights import has_penalty_weights
from ._sides import has_corners

_TALL = 5  # rows per column, from where on all columns are the working set of squared error
_MAX_TALL_COLUMNS = 5000  # ... up to a Gram matrix of 200 MB


def has_room(problem: Problem) -> bool:
    """Returns whether the columns of a first working set may be copied, of an X that is read in blocks."""
    n, p = problem.x.shape
    count = p if may_take_all_columns(problem) else min(p, 2 * OPTIONS.min_candidates)
    return problem.x.has_room_for(8 * n * count)


def may_take_all_columns(problem: Problem) -> bool:
    """Returns whether the Gram matrix of all columns costs less than to search for those that matter."""
    n, p = problem.x.shape
    is_dense = problem.x.as_array() is not None or problem.x.is_distributed
    is_tall = is_dense and _TALL * p <= n and p <= _MAX_TALL_COLUMNS
    if has_corners(problem):
        return p <= OPTIONS.min_candidates_interior
    return p <= OPTIONS.max_columns or (is_tall and problem.loss.is_quadratic)


def takes_all_columns(problem: Problem, pen: Penalty) -> bool:
    """Returns whether all columns are the working set."""
    is_small = math.prod(problem.x.shape) <= OPTIONS.max_entries
    return may_take_all_columns(problem) and (is_small or not _rereads_columns(problem, pen))


def _rereads_columns(problem: Problem, pen: Penalty) -> bool:
    """Whether each step goes through the rows of the working set, as one of proximal Newton does."""
    if problem.loss.is_quadratic or has_corners(problem):
        return False
    return has_penalty_weights(pen, problem.coef_shape)


def min_candidates(problem: Problem, pen: Penalty) -> int:
    """Returns how many columns join the active ones in a working set, at least."""
    if has_corners(problem):
        return OPTIONS.min_candidates_interior
    most = OPTIONS.min_candidates
    if not _rereads_columns(problem, pen):
        return most
    return min(most, max(OPTIONS.min_candidates_reread, problem.x.shape[1] // 8))


def most_violating(
    violation: np.ndarray, active: np.ndarray, violators: np.ndarray, min_count: int
) -> np.ndarray:
    """Returns the active columns, the violators, and the columns of the largest KKT violation."""
    wanted = len(active) + max(min_count, len(active))
    possible = np.flatnonzero(violation > -np.inf)
    if len(possible) <= wanted:
        return possible
    violation[active] = np.inf
    largest = np.argpartition(-violation, wanted)[:wanted]
    return np.union1d(largest, violators)
