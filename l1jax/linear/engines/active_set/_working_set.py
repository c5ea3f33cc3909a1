"""The active-set engine: paths that are followed on the few columns that matter.

A `PathFollower` sees a working set: the active columns, and those that are the closest to entering.
The KKT conditions of all columns are checked once per block of λ, in one product; where a column
outside of the working set violates them, it joins, and the block is solved again from there.
Everything here runs on the host, where sizes may change, and in float64.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jax.core import Tracer

from ...._progress import advance, progress_bar
from ....penalties import Penalty
from ...data._block_sources import BlockError
from ...data._row_blocks import blocks_of
from ...data._zero_copy import aligned
from ...host._columns import GramColumns
from ...host._path_solution import Knot, PathSolution
from ...host._sparse_rows import SparseRows, is_large, take
from ...model._problem import Problem
from ...results._resume import Known
from ._candidates import (
    may_take_all_columns,
    min_candidates,
    most_violating,
    takes_all_columns,
)
from ._group_least_squares import GroupLeastSquares
from ._group_weights import GroupWeights, has_group_weights
from ._interpolation import PathInterpolation
from ._least_squares import LeastSquares
from ._local_solver import LocalPath
from ._local_weights import LocalWeights, has_local_weights
from ._options import OPTIONS
from ._path_point import NumericalBreakdown, PathPoint
from ._penalty_weights import CoordinateWeights, has_penalty_weights, linear_form
from ._protocols import PathFollower, PenaltyWeights, RestrictedSolver
from ._prox_newton import ROUGH, ProxNewton
from ._row_shifts import RowShifts, has_few_rows
from ._sides import Sides, has_corners
from ._smooth_groups import SmoothGroups, serves_groups
from ._stacked_matrix import StackedMatrix
from ._step_budget import StepBudget
from ._step_control import StepControl

_FLOOR = 1e-10  # fraction of the null model's gradient that weights count as at least
_VIOLATION = 1e-9  # fraction of its weight by which a gradient may exceed it
_FRACTION_OF_GAP = 0.25  # that such a fraction may be, as λR(β) is less than the unit of the gap
# ... or fall short of it to be added with those that exceed theirs, at an interior point.
_NEAR = -0.05
_STRIDE = 0.8  # ratio from one λ to the next on the way to a single one
_LONG_STRIDE = 0.5  # ... where all columns are in the working set, or hardly a new one comes in
_LONG_BELOW = 1e-4  # of λmax: strides below it are long
_NONE_BELOW = 1e-10  # ... and below this the rest is one step
# Fraction by which gradients may exceed on the way, where it only finds columns.
_ROUGH_INTERIOR = 0.1
_MAX_CHECKED = 2**23  # entries of the gradients of a block
_ONE = np.ones(())


def supports(problem: Problem, pen: Penalty) -> bool:
    """Returns whether this engine serves a problem: a penalty with a corner at 0, and a loss to go with it."""
    leaves = jax.tree.leaves((problem, pen))
    if any(isinstance(leaf, Tracer) for leaf in leaves):
        return False
    is_empty = np.max(np.asarray(problem.norms)) == 0
    if not problem.is_valid or problem.null.is_trivial or is_empty:
        return False
    shape = problem.coef_shape
    if has_penalty_weights(pen, shape) or has_local_weights(pen, shape):
        return True
    is_served = problem.loss.is_quadratic or (len(shape) == 1 and serves_groups(problem.loss))
    return is_served and has_group_weights(pen, shape)


def has_knots(problem: Problem, pen: Penalty) -> bool:
    """Returns whether the path of a supported problem is linear in λ between its knots."""
    shape = problem.coef_shape
    form = linear_form(pen, _ONE, shape)
    if form is None or form.has_limits:
        return False
    is_linear = not np.asarray(form.quad).any() and CoordinateWeights(pen, shape[0]).proportional
    return bool(problem.loss.is_quadratic and is_linear)


Keep = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], None]
"""Takes places in the grid, and the betas, intercepts and numbers of steps of the solutions there."""


class FollowerOptions(NamedTuple):
    """What a path is to consist of beside the solutions on the grid, and where it starts."""

    progress: bool | None = False  # show a bar; None: in a terminal
    all_columns: bool | None = None  # take them all into the working set; None: where it is cheaper
    keep_knots: bool = False
    columns: GramColumns | None = None  # of squared error, where their Gram matrix is known
    start: Known | None = None  # a solution below λmax to start from; None: the null model
    catch_interrupt: bool = False  # Ctrl-C ends the path, which keeps what is solved
    keep_gradients: bool = False  # of all columns at all λ, where these are computed anyway
    relative_gap: float | None = None  # that solutions may have; None: they are exact
    interpolates: bool = False  # whether λ may be interpolated, at that gap
    rough_above: float = np.inf  # λ above which solutions of smooth losses are on the way only
    keep: Keep | None = None  # is handed what is solved, block by block


_DEFAULTS = FollowerOptions()


def follow_path(
    problem: Problem,
    pen: Penalty,
    lams: np.ndarray,
    lambda_max: float,
    options: FollowerOptions = _DEFAULTS,
) -> PathSolution:
    """Returns the solutions at descending λ, for a penalty of linear or group form.

    `lambda_max` is the λ at which only the unpenalised features are in the model: the path starts
    there, or at the solution `options.start` at a lower λ. Every λ is solved, unless
    `options.interpolates` allows interpolation between those that are.
    """
    follower = _Follower(problem, pen, lams, lambda_max, options)
    if options.start is not None:
        follower.start_from(options.start)
    interrupted, failure = False, None
    with progress_bar(len(lams), options.progress) as bar:
        try:
            while not follower.is_done:
                count = follower.advance()
                if options.keep is not None and count:
                    options.keep(*follower.last(count))
                advance(bar, count, follower.lam, len(follower.at.features))
        except NumericalBreakdown:
            pass  # `num_solved` of the result says how far it came
        except KeyboardInterrupt:
            if not options.catch_interrupt:
                raise
            interrupted = True
        except BlockError as error:
            if not options.catch_interrupt:
                raise
            failure = error
    return follower.result(interrupted)._replace(failure=failure)


def follow_to(
    problem: Problem,
    pen: Penalty,
    lam: float,
    lambda_max: float,
    columns: GramColumns | None = None,
) -> PathSolution:
    """Returns the solution at one λ, at the end of a path to it in strides that working sets can follow."""
    if columns is not None:
        options = FollowerOptions(all_columns=True, columns=columns)
        return follow_path(problem, pen, np.array([lam]), lambda_max, options)
    if has_corners(problem) and (lam == 0 or takes_all_columns(problem, pen)):
        # Nothing on the way helps an interior point method, and at zero no column can be left out.
        return follow_path(
            problem, pen, np.array([lam]), lambda_max, FollowerOptions(all_columns=True)
        )
    is_exact = has_penalty_weights(pen, problem.coef_shape) and problem.loss.is_quadratic
    if (takes_all_columns(problem, pen) and is_exact) or lam >= lambda_max:
        return follow_path(problem, pen, np.array([lam]), lambda_max)
    middle, end = (max(lam, ratio * lambda_max) for ratio in (_LONG_BELOW, _NONE_BELOW))
    # Else where it ends depends on the way, or columns are found on it.
    is_long = pen.convex and (may_take_all_columns(problem) or has_corners(problem))
    is_rough = pen.convex and problem.loss.convex and not problem.loss.is_quadratic
    lams = _strides(lambda_max, middle, _LONG_STRIDE if is_long else _STRIDE)
    if end < middle:
        lams = np.append(lams, _strides(middle, end, _LONG_STRIDE))
    if lam < end:
        lams = np.append(lams, lam)
    options = FollowerOptions(rough_above=lam) if is_rough else _DEFAULTS
    found = follow_path(problem, pen, lams, lambda_max, options)
    complete = found.num_solved == len(lams)
    return PathSolution(
        take(found.betas, slice(-1, None)),
        found.intercepts[-1:],
        found.num_steps.sum(keepdims=True),
        complete,
        [],
    )


def _strides(start: float, end: float, stride: float) -> np.ndarray:
    """Returns λ from below `start` down to `end`, each at least `stride` times the one before."""
    count = int(np.ceil(np.log(end / start) / np.log(stride)))
    steps = start * (end / start) ** (np.arange(1, count) / count)
    return np.append(steps, end)


class _Follower:
    """Goes down the grid block by block, and keeps what is solved."""

    def __init__(
        self,
        problem: Problem,
        pen: Penalty,
        lams: np.ndarray,
        lambda_max: float,
        options: FollowerOptions,
    ):
        self.problem, self.lams, self.rough_above = problem, lams, options.rough_above
        all_columns = options.all_columns
        self.all_columns = takes_all_columns(problem, pen) if all_columns is None else all_columns
        self.may_take_all = may_take_all_columns(problem)
        self.is_interior = has_corners(problem)
        self.rough = _ROUGH_INTERIOR if self.is_interior else ROUGH
        self.violation = _violation(problem, pen, options.relative_gap)
        self.min_candidates = min_candidates(problem, pen)
        self.budget = StepBudget(OPTIONS.max_steps(len(lams)))
        self.path = _path_follower(problem, pen, options, self.budget)
        self.weights = self.path.weights
        # 1. The null model, at λmax.
        self.null = np.asarray(problem.null.point.beta, np.float64)
        neg_gradient = -np.asarray(problem.null.gradient, np.float64)
        self.floor = _FLOOR * np.abs(neg_gradient).max(initial=0)
        self.is_candidate = (np.asarray(problem.norms) > 0) & ~self.weights.excluded
        features = np.flatnonzero(self.weights.unpenalised & self.is_candidate)
        neg_gradient[features] = 0
        self.lam = max(lambda_max, lams[0])
        self.at = self.path.start(features, self.null[features], neg_gradient)
        # 2. How to go on from there.
        self.interpolation = self._interpolation(options)
        self.control = StepControl(interpolates=self.interpolation is not None)
        self.retries = OPTIONS.max_retries
        if self.is_interior:  # a working set is found anew for each λ
            self.retries += OPTIONS.retries_per_lam_interior * len(lams)
        # A solution that columns outside of the working set violate, and its λ: near that with them.
        self.rejected: tuple[PathPoint, float] | None = None
        self.violators = np.zeros(0, int)  # columns that the next working set must contain
        # 3. What is to be filled in.
        shape = (len(lams), *self.null.shape)
        self.num_solved = 0
        self.rows = [(features[:0], self.null[:0])] * len(lams)  # what is not zero
        self.num_steps = np.zeros(len(lams), int)
        self.intercepts = np.repeat(np.asarray(self.at.intercept)[None], len(lams), axis=0)
        self.knots: list[Knot] = []
        keeps = options.keep_gradients and self._has_exact_gradients()
        keeps &= not is_large(shape) or blocks_of(problem.x) is not None
        self.all_neg_gradients = aligned(shape, np.float64) if keeps else None

    def _interpolation(self, options: FollowerOptions) -> PathInterpolation | None:
        relative_gap = options.relative_gap if options.interpolates else None
        is_quadratic, weights = self.problem.loss.is_quadratic, self.weights
        # Of other losses, an unpenalised gradient is not zero between two solutions, but for an intercept's.
        x, is_free = self.problem.x, weights.unpenalised
        num_intercepts = x.free if isinstance(x, StackedMatrix) else 0
        is_feasible = is_quadratic or not is_free[: len(is_free) - num_intercepts].any()
        if relative_gap is None or not weights.proportional or not is_feasible:
            return None
        tolerance = relative_gap * float(self.problem.null.unit)
        return PathInterpolation(tolerance, by_log=not is_quadratic)

    def _has_exact_gradients(self) -> bool:
        """Whether the gradients of the KKT checks are those of the coefficients that are returned."""
        is_rounded = self.interpolation is not None and self.problem.y.dtype != np.float64
        if blocks_of(self.problem.x) is not None:  # another pass would find them to rounding
            return not is_rounded
        return self.problem.loss.is_quadratic and not self.all_columns and not is_rounded

    @property
    def is_done(self) -> bool:
        """Whether all is solved, or nothing more will be."""
        return self.num_solved == len(self.lams) or not self.retries

    def start_from(self, known: Known) -> None:
        """Starts from a solution of an earlier path."""
        self.at = _known_point(self.problem, self.weights, known, self.at)
        self.lam = known.lam

    def advance(self) -> int:
        """Solves a block up to the first KKT violation; returns how many λ of the grid that is.

        Where a solve fails, it returns 0, and the next step is shorter: it may end between two λ.
        """
        control, before = self.control, self.lam
        size = OPTIONS.block_size_all_columns if self.all_columns else OPTIONS.block_size
        size = 1 if self.is_interior else size  # a solve costs more than a KKT check
        size = min(size, max(_MAX_CHECKED // self.null.size, 1))
        block = control.next_block(self.lam, self.lams[self.num_solved :][:size])
        try:
            count = self._advance(block, control.ends_on_grid)
        except NumericalBreakdown:
            control.fail()
            if not self.path.can_halve_steps or control.is_exhausted or self.budget.is_spent:
                raise
            return 0
        if self.lam != before:
            control.succeed()
        return count

    def _advance(self, block: np.ndarray, ends_on_grid: bool) -> int:
        # 1. Solve on the working set.
        working = self._working_set()
        start = (self.at, self.lam) if self.rejected is None else self.rejected
        solver = self.path.restricted_solver(working, *start)
        self.rejected = None
        solved = self._solve(solver, block)
        # 2. Check the KKT conditions of the other columns.
        neg_gradients, good = self._check(solved, working, block)
        if not good and self.path.starts_anywhere:
            self.rejected = solved[0][1], block[solved[0][0]]
        reached = solved[good - 1][0] + 1 if good else 0
        self.control.adapt(good, len(solved), reached, len(block))
        if not good:
            return 0
        # 3. Keep what meets them.
        if ends_on_grid:
            self._keep(solved[:good])
        for k in range(max(good - 2, 0), good):
            i, point = solved[k]
            neg_gradient = neg_gradients[k].copy()
            neg_gradient[working] = point.neg_gradient
            previous = self.lam, self.at._replace(inverse=None, knots=(), previous=None)
            self.at = point._replace(neg_gradient=neg_gradient, previous=previous)
            self.lam = block[i]
        if self.interpolation is None and good == len(block):
            self.at = self.at._replace(inverse=solver.known_inverse())
        count = solved[good - 1][0] + 1 if ends_on_grid else 0
        self.num_solved += count
        return count

    def _working_set(self) -> np.ndarray:
        """Returns the working set of the next block, sorted."""
        violation = self.weights.kkt_violation(self.at.neg_gradient, self.lam, self.floor)
        violation = np.where(self.is_candidate, violation, -np.inf)
        if self.all_columns:
            working = np.arange(len(violation))
        else:
            working = most_violating(
                violation, self.at.features, self.violators, self.min_candidates
            )
            if self.may_take_all and 2 * len(working) > len(violation):
                working = np.arange(len(violation))
        working = self.weights.close_over_groups(working)
        return working[self.is_candidate[working]]

    def _solve(self, solver: RestrictedSolver, block: np.ndarray) -> list[tuple[int, PathPoint]]:
        """Returns the solutions on the working set, with their places: at all λ, or where lines end."""
        # A step that overflows is tried at half its length: no reason to warn.
        with np.errstate(over="ignore", invalid="ignore"):
            if self.interpolation is None:
                return _solve_until_breakdown(solver, block)
            if not self.num_solved:  # lines have both of their ends on the grid
                self.interpolation.length = 1
            return self.interpolation.solve(solver, self.at, self.lam, block)

    def _check(
        self, solved: list[tuple[int, PathPoint]], working: np.ndarray, block: np.ndarray
    ) -> tuple[np.ndarray, int]:
        """Returns −∇L of all columns at each solution, and how many meet the KKT conditions."""
        outside = self.is_candidate.copy()
        outside[working] = False
        neg_gradients = np.zeros((len(solved), *self.null.shape))
        good, violators = len(solved), working[:0]
        places = [i for i, _ in solved]
        if self.all_neg_gradients is not None or outside.any():
            self.path.neg_gradients([point for _, point in solved], neg_gradients)
            good, violators = self._first_violation(neg_gradients, block[places], outside)
        if self.all_neg_gradients is not None:
            self.all_neg_gradients[[self.num_solved + i for i in places]] = neg_gradients
        self.violators = violators if good else np.union1d(self.violators, violators)
        self.retries -= not good
        return neg_gradients, good

    def _first_violation(
        self, neg_gradients: np.ndarray, lams: np.ndarray, outside: np.ndarray
    ) -> tuple[int, np.ndarray]:
        """Returns how many λ pass before a column outside of the working set violates, and which do."""
        for i, lam in enumerate(lams):
            violation = self.weights.kkt_violation(neg_gradients[i], lam, self.floor)
            violates = outside & (
                violation > (self.rough if lam > self.rough_above else self.violation)
            )
            if violates.any():
                return i, self._entering(np.where(outside, violation, -np.inf), violates)
        return len(lams), np.zeros(0, int)

    def _entering(self, violation: np.ndarray, violates: np.ndarray) -> np.ndarray:
        """Returns the columns that join the working set: all that violate, or the nearest to it."""
        if not self.is_interior:
            return np.flatnonzero(violates)
        # A solve from anywhere costs the cube of the columns, and starts anew for each that is missing.
        count = min(max(self.min_candidates, len(self.at.features)), len(violation) - 1)
        largest = np.argpartition(-violation, count)[:count]
        return largest[violation[largest] > _NEAR]

    def _keep(self, solved: list[tuple[int, PathPoint]]) -> None:
        """Writes the next solutions into the tables, and what lies on lines between them."""
        for i, point in solved:
            row = self.num_solved + i
            self.rows[row] = point.features, point.values
            self.intercepts[row], self.num_steps[row] = point.intercept, point.num_steps
            self.knots.extend(point.knots)
        if self.interpolation is not None:
            tables = self.rows, self.intercepts, self.all_neg_gradients
            ends = [self.num_solved - 1, *(self.num_solved + i for i, _ in solved)]
            for left, right in itertools.pairwise(ends):
                self.interpolation.fill(left, right, self.lams, *tables)

    def last(self, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Returns so many solutions, the last ones: their places in the grid, and what they are."""
        at = np.arange(self.num_solved - count, self.num_solved)
        rows = SparseRows.of_rows([self.rows[i] for i in at], self.null.shape, np.float64)
        return at, np.asarray(rows.to_array()), self.intercepts[at], self.num_steps[at]

    def _known_gradients(self) -> np.ndarray | None:
        """Returns −∇L at all λ; at those that were not reached, that of the last one, if it is known."""
        known, done = self.all_neg_gradients, self.num_solved
        if known is None or not done:
            return None
        known[done:] = known[done - 1]
        return known

    def result(self, interrupted: bool) -> PathSolution:
        """Returns all that is solved; rows of λ that were not reached repeat the last solution."""
        done = self.num_solved
        at = np.flatnonzero(self.null.reshape(len(self.null), -1).any(axis=1))
        last = self.rows[done - 1] if done else (at, self.null[at])
        self.rows[done:] = [last] * (len(self.rows) - done)
        self.intercepts[done:] = self.intercepts[done - 1] if done else self.at.intercept
        return PathSolution(
            SparseRows.of_rows(self.rows, self.null.shape, np.float64),
            self.intercepts,
            self.num_steps,
            done,
            self.knots,
            interrupted,
            self._known_gradients(),
            self.path.columns,
            has_unpenalised=bool(self.weights.unpenalised.any()) or self.lams[-1] == 0,
        )


def _violation(problem: Problem, pen: Penalty, relative_gap: float | None) -> float:
    """Returns the fraction of its weight by which a gradient may exceed it where solutions have a gap."""
    has_gap = pen.convex and problem.loss.convex
    if relative_gap is None or not has_gap or problem.loss.is_quadratic:
        return _VIOLATION
    return max(_VIOLATION, _FRACTION_OF_GAP * relative_gap)


def _solve_until_breakdown(
    solver: RestrictedSolver, block: np.ndarray
) -> list[tuple[int, PathPoint]]:
    """Returns the solutions at all λ of a block, or before the first that fails; raises if none is solved."""
    solved: list[tuple[int, PathPoint]] = []
    for i, lam in enumerate(block):
        try:
            solved.append((i, solver.to(lam)))
        except NumericalBreakdown:
            if not solved:
                raise
            break
    return solved


def _path_follower(
    problem: Problem, pen: Penalty, options: FollowerOptions, budget: StepBudget
) -> PathFollower:
    """Returns the follower for this loss and penalty."""
    shape, gap, columns = problem.coef_shape, options.relative_gap, options.columns
    if problem.loss.is_quadratic and columns is None:
        columns = GramColumns(problem)
    if has_local_weights(pen, shape):
        local = LocalWeights(pen, shape[0])
        of_loss = LeastSquares(columns, local) if columns else ProxNewton(problem, local, budget)
        return LocalPath(of_loss, local)
    if not has_penalty_weights(pen, shape):
        groups = GroupWeights(pen, shape)
        if columns is None:
            return SmoothGroups(problem, groups, budget, gap)
        return GroupLeastSquares(columns, groups, budget, gap)
    weights = CoordinateWeights(pen, shape[0])
    if columns is not None:
        return LeastSquares(columns, weights, options.keep_knots)
    if has_corners(problem):
        return Sides(problem, weights, budget, gap)
    follower = RowShifts if has_few_rows(problem) else ProxNewton
    return follower(problem, weights, budget, gap, options.rough_above)


def _known_point(
    problem: Problem, weights: PenaltyWeights, known: Known, null: PathPoint
) -> PathPoint:
    """Returns the point of a solution of an earlier path."""
    beta = np.asarray(known.point.beta, np.float64)
    slope = problem.loss.gradient(problem.y, problem.eta(known.point), problem.s)
    neg_gradient = -np.asarray(problem.x.rdot(slope), np.float64)
    features = np.flatnonzero((beta != 0).reshape(len(beta), -1).any(axis=1))
    features = np.union1d(features, null.features)
    signs = np.where(weights.unpenalised[features], 0, np.sign(beta[features]).T).T
    intercept = np.asarray(known.point.intercept, np.float64)
    return null._replace(
        features=features,
        signs=signs,
        values=beta[features],
        intercept=intercept if intercept.ndim else float(intercept),
        neg_gradient=neg_gradient - weights.ridge_gradient(known.lam, beta),
    )
