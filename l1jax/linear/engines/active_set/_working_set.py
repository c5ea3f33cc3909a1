"""The engine that walks a path on the few columns that matter.

A walk (`LeastSquares`, `ProxNewton`) sees the active columns and those next in line. The gradients of all
columns are looked at once per block of strengths, in one product; where a column outside of the
working set passes its price, it joins, and the block is walked again from there. Everything here
runs on the host, where sizes may change, and in float64.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.core import Tracer

from ...._progress import advance, progress_bar
from ....penalties import Penalty
from ...host._columns import GramColumns
from ...host._path_solution import Knot, PathSolution
from ...host._zero_copy import aligned
from ...model._problem import Problem
from ...results._resume import Known
from ._group_least_squares import GroupLeastSquares
from ._group_weights import GroupWeights
from ._interpolation import PathInterpolation
from ._least_squares import LeastSquares
from ._penalty_weights import PenaltyWeights, linear_form
from ._prox_newton import ProxNewton
from ._row_shifts import RowShifts, is_few_rows
from ._state import NumericalBreakdown, State

_BLOCK = 10  # strengths per look at all columns
_WHOLE_BLOCK = 25  # ... where all of them are in the working set
_NEXT_IN_LINE = 256  # columns that join the active ones in a working set, at least; or as many
_PATIENCE = 30  # blocks walked again before giving up
_ALL_COLUMNS = 600  # a problem of no more columns than this is its own working set
_CAUTION = 7  # at most: steps of 1/64 of the way; and four losses for each
_TALL = 5  # as is one of this many times more rows than columns, up to a Gram matrix of 200 MB
_MANY_COLUMNS = 5000
_FLOOR = 1e-10
_SLACK = 1e-9  # by which a gradient may pass its price, as a share of it
_STRIDE = 0.955  # from one strength to the next on the way to a single one
_LONG_STRIDE = 0.5  # ... where all columns are in the working set, or hardly a new one comes in
_NEAR = 1e-4  # of λmax: strides beyond it are long
_FAR = 1e-10  # ... and beyond this there are none
_ONE = np.ones(())


def supports(problem: Problem, pen: Penalty) -> bool:
    """Whether the walk serves this problem: prices with a corner at 0, and a loss to go with them."""
    leaves = jax.tree.leaves((problem, pen))
    if any(isinstance(leaf, Tracer) for leaf in leaves):
        return False
    nothing = np.max(np.asarray(problem.norms)) == 0
    if not problem.is_valid or problem.null.is_trivial or nothing:
        return False
    shape = problem.coef_shape
    return has_penalty_weights(pen, shape) or (
        problem.loss.is_quadratic and has_group_weights(pen, shape)
    )


def has_penalty_weights(pen: Penalty, shape: tuple[int, ...]) -> bool:
    """Whether coefficients of this shape have prices each by itself."""
    if len(shape) != 1 or not pen.convex or not hasattr(pen, pen.strength):
        return False
    form = linear_form(pen, _ONE, shape)
    if form is None:
        return False
    up, down, quad = (np.asarray(price) for price in form)
    return not ((up == 0) & (down == 0) & (quad > 0)).any()


def has_group_weights(pen: Penalty, shape: tuple[int, ...]) -> bool:
    """Whether coefficients of this shape have prices group by group."""
    if not pen.convex or not hasattr(pen, pen.strength):
        return False
    if pen.with_strength(1.0).group_form(shape) is None:
        return False
    prices = GroupWeights(pen, shape)
    if prices.has_ridges:
        return False
    return prices.proportional and (len(shape) == 1 or not prices.is_separable)


def has_knots(problem: Problem, pen: Penalty) -> bool:
    """Whether the path of a problem that can be walked is straight between its knots."""
    shape = problem.coef_shape
    form = linear_form(pen, _ONE, shape)
    if form is None:
        return False
    straight = not np.asarray(form.quad).any() and PenaltyWeights(pen, shape[0]).proportional
    return bool(problem.loss.is_quadratic and straight)


class FollowerOptions(NamedTuple):
    """What a path follower is asked for, beside the solutions on the grid."""

    progress: bool | None = False  # show a bar; None: in a terminal
    all_columns: bool | None = None  # take them all into the working set; None: where it is cheaper
    keep_knots: bool = False
    columns: GramColumns | None = None  # of squared error, where their Gram matrix is known
    start: Known | None = None  # a solution below λmax to start from; None: the null model
    catch_interrupt: bool = False  # Ctrl-C ends the path, which keeps what is solved
    keep_gradients: bool = False  # of all columns at all λ, where these are computed anyway
    interpolation_gap: float | None = None  # relative gap at which λ may be interpolated


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
    `options.interpolation_gap` allows interpolation between those that are.
    """
    follower = _Follower(problem, pen, lams, lambda_max, options)
    if options.start is not None:
        follower.start_from(options.start)
    interrupted = False
    with progress_bar(len(lams), options.progress) as bar:
        try:
            while not follower.is_done:
                count = follower.advance()
                advance(bar, count, follower.lam, len(follower.at.features))
        except NumericalBreakdown:
            pass
        except KeyboardInterrupt:
            if not options.catch_interrupt:
                raise
            interrupted = True
    return follower.result(interrupted)


class _Follower:
    """Goes down the grid block by block, and notes what it finds."""

    def __init__(
        self,
        problem: Problem,
        pen: Penalty,
        lams: np.ndarray,
        lambda_max: float,
        options: FollowerOptions,
    ):
        whole, keep_knots, columns = options.all_columns, options.keep_knots, options.columns
        keep_gradients, gap = options.keep_gradients, options.interpolation_gap
        self.problem, self.lams = problem, lams
        self.whole = whole = _is_small(problem) if whole is None else whole
        self.path, self.prices = path, prices = _way(problem, pen, columns, keep_knots, gap)
        self.null = np.asarray(problem.null.point.beta, np.float64)
        gradient = -np.asarray(problem.null.gradient, np.float64)
        self.floor = _FLOOR * np.abs(gradient).max(
            initial=0
        )  # of a price, where its share is asked for
        self.alive = (np.asarray(problem.norms) > 0) & ~prices.excluded
        features = np.flatnonzero(prices.free & self.alive)
        gradient[features] = 0
        self.lam = max(lambda_max, lams[0])
        self.at = path.start(features, self.null[features], gradient)
        self.done, self.patience, self.extra = 0, _PATIENCE, np.zeros(0, int)
        # 1: one strength at a time, 2: a half of the way to the next, 3: a quarter ...
        self.caution, self.losses, self.is_easy = 0, 0, False

        self.bridges, is_quadratic = None, problem.loss.is_quadratic
        if gap is not None and prices.proportional and (is_quadratic or not prices.free.any()):
            self.bridges = PathInterpolation(
                gap * float(problem.null.deviance), by_log=not is_quadratic
            )
            # Rounded coefficients have other gradients than lines between those that were seen.
            keep_gradients &= problem.y.dtype == np.float64
        # Of other losses they are not exactly those of what is returned.
        keep_gradients &= not whole and is_quadratic
        shape = (len(lams), *self.null.shape)
        self.betas, self.steps = aligned(shape, np.float64), np.zeros(len(lams), int)
        self.seen = aligned(shape, np.float64) if keep_gradients else None
        self.intercepts = np.repeat(np.asarray(self.at.intercept)[None], len(lams), axis=0)
        self.knots: list[Knot] = []

    @property
    def is_done(self) -> bool:
        """Whether all is solved, or nothing more will be."""
        return self.done == len(self.lams) or not self.patience

    def start_from(self, known: Known) -> None:
        """Begins at a solution that is known."""
        self.at = _there(self.problem, self.prices, known, self.at)
        self.lam = known.lam

    def advance(self) -> int:
        """One block: its strengths up to the first violation; returns how many.

        Where a curved loss leads astray the block is shorter, and steps end between two strengths.
        """
        block = self.lams[self.done :][: _WHOLE_BLOCK if self.whole else _BLOCK]
        on_grid, before = self.caution <= 1, self.lam
        if self.caution:
            share = 0.5 ** (self.caution - 1)
            block = block[:1] if on_grid else self.lam + share * (block[:1] - self.lam)
        try:
            count = self._advance(block, on_grid)
        except NumericalBreakdown:
            # Without lines the next strength is what it was lost on the way to.
            least = 2 if self.bridges is None else 1
            self.losses, self.caution = self.losses + 1, max(self.caution + 1, least)
            self.is_easy = False
            if (
                not isinstance(self.path, ProxNewton)
                or max(self.losses / 4, self.caution) > _CAUTION
            ):
                raise
            return 0
        if self.lam != before:  # two good steps in a row are followed by a longer one
            self.caution -= self.is_easy and self.caution > 0
            self.is_easy = not self.is_easy
        return count

    def _advance(self, block: np.ndarray, on_grid: bool) -> int:
        members = self._members()
        mover = self.path.mover(members, self.prices, self.at, self.lam)
        found = self._solve(mover, block)
        gradients, good = self._look(found, members, block)
        if not good:
            return 0
        if on_grid:
            self._note(found[:good])
        for k in range(max(good - 2, 0), good):
            i, state = found[k]
            gradient = gradients[k].copy()
            gradient[members] = state.gradient
            before = self.lam, self.at._replace(inverse=None, knots=(), before=None)
            self.at, self.lam = state._replace(gradient=gradient, before=before), block[i]
        if self.bridges is None and good == len(block):
            self.at = self.at._replace(inverse=mover.inverse())
        count = found[good - 1][0] + 1 if on_grid else 0
        self.done += count
        return count

    def _note(self, found: list[tuple[int, State]]) -> None:
        """The solutions at the next strengths, and what lies on lines between them."""
        for i, state in found:
            row = self.done + i
            self.betas[row, state.features] = state.values
            self.intercepts[row], self.steps[row] = state.intercept, state.steps
            self.knots.extend(state.knots)
        if self.bridges is not None:
            ends = [self.done - 1, *(self.done + i for i, _ in found)]
            for left, right in itertools.pairwise(ends):
                self.bridges.fill(left, right, self.lams, self.betas, self.intercepts, self.seen)

    def _members(self) -> np.ndarray:
        """The working set of the next block."""
        excess = self.prices.excess(self.at.gradient, self.lam, self.floor)
        excess = np.where(self.alive, excess, -np.inf)
        every = np.arange(len(self.alive))
        members = every if self.whole else _choose(excess, self.at.features, self.extra)
        members = self.prices.whole(members)
        return members[self.alive[members]]

    def _solve(self, mover: Any, block: np.ndarray) -> list[tuple[int, State]]:
        """The solutions on the working set: at all strengths of the block, or where lines end."""
        # A step that overflows is tried at half its length: no reason to warn.
        with np.errstate(over="ignore", invalid="ignore"):
            if self.bridges is None:
                return _until_lost(mover, block)
            if not self.done:  # lines have both of their ends on the grid
                self.bridges.length = 1
            return self.bridges.across(mover, self.at, self.lam, block)

    def _look(
        self, found: list[tuple[int, State]], members: np.ndarray, block: np.ndarray
    ) -> tuple[np.ndarray, int]:
        """−∇L of all columns at what was found, and how much of that passes."""
        outside = self.alive.copy()
        outside[members] = False
        gradients = np.zeros((len(found), *self.null.shape))
        good, violators = len(found), members[:0]
        places = [i for i, _ in found]
        if self.seen is not None or outside.any():
            self.path.gradients([state for _, state in found], gradients)
            good, violators = _first_violation(
                gradients, self.prices, block[places], outside, self.floor
            )
        if self.seen is not None:
            self.seen[[self.done + i for i in places]] = gradients
        self.extra = violators if good else np.union1d(self.extra, violators)
        self.patience -= not good
        return gradients, good

    def result(self, interrupted: bool) -> PathSolution:
        """All that was found; strengths that were not reached hold the last solution."""
        done, is_complete = self.done, self.done == len(self.lams)
        self.betas[done:] = self.betas[done - 1] if done else self.null
        self.intercepts[done:] = self.intercepts[done - 1] if done else self.at.intercept
        return PathSolution(
            self.betas,
            self.intercepts,
            self.steps,
            done,
            self.knots,
            interrupted,
            self.seen if is_complete else None,
            self.path.columns,
            has_unpenalised=bool(self.prices.free.any()) or self.lams[-1] == 0,
        )


def _until_lost(mover: Any, block: np.ndarray) -> list[tuple[int, State]]:
    """The solutions at the strengths of a block, or at the first of them."""
    found: list[tuple[int, State]] = []
    for i, lam in enumerate(block):
        try:
            found.append((i, mover.to(lam)))
        except NumericalBreakdown:
            if not found:
                raise
            break
    return found


def _way(
    problem: Problem,
    pen: Penalty,
    columns: GramColumns | None,
    keep_knots: bool,
    gap: float | None,
) -> tuple[Any, Any]:
    """What follows the solutions of this problem, and the prices that it follows them by."""
    shape = problem.coef_shape
    if problem.loss.is_quadratic and columns is None:
        columns = GramColumns(problem)
    if not has_penalty_weights(pen, shape):
        assert columns is not None  # `supports` has asked
        return GroupLeastSquares(columns, gap), GroupWeights(pen, shape)
    prices = PenaltyWeights(pen, shape[0])
    if columns is None:
        follow = RowShifts if is_few_rows(problem) else ProxNewton
        return follow(problem, gap), prices
    return LeastSquares(columns, keep_knots), prices


def _there(problem: Problem, prices: Any, begin: Known, null: State) -> State:
    """Where the walk stands at a solution that is known."""
    beta = np.asarray(begin.point.beta, np.float64)
    slope = problem.loss.gradient(problem.y, problem.eta(begin.point), problem.s)
    gradient = -np.asarray(problem.x.rdot(slope), np.float64) - prices.bend(begin.lam, beta)
    features = np.flatnonzero((beta != 0).reshape(len(beta), -1).any(axis=1))
    features = np.union1d(features, null.features)
    signs = np.where(prices.free[features], 0, np.sign(beta[features]).T).T
    intercept = np.asarray(begin.point.intercept, np.float64)
    intercept = intercept if intercept.ndim else float(intercept)
    return null._replace(
        features=features,
        signs=signs,
        values=beta[features],
        intercept=intercept,
        gradient=gradient,
    )


def follow_to(
    problem: Problem,
    pen: Penalty,
    lam: float,
    lambda_max: float,
    columns: GramColumns | None = None,
) -> PathSolution:
    """The solution at one strength: follows the path to it, in strides that working sets can follow."""
    if columns is not None:
        options = FollowerOptions(all_columns=True, columns=columns)
        return follow_path(problem, pen, np.array([lam]), lambda_max, options)
    is_exact = has_penalty_weights(pen, problem.coef_shape) and problem.loss.is_quadratic
    if (_is_small(problem) and is_exact) or lam >= lambda_max:
        return follow_path(problem, pen, np.array([lam]), lambda_max)
    near, far = max(lam, _NEAR * lambda_max), max(lam, _FAR * lambda_max)
    lams = _strides(lambda_max, near, _LONG_STRIDE if _is_small(problem) else _STRIDE)
    if far < near:
        lams = np.append(lams, _strides(near, far, _LONG_STRIDE))
    if lam < far:
        lams = np.append(lams, lam)
    found = follow_path(problem, pen, lams, lambda_max)
    complete = found.num_solved == len(lams)
    return PathSolution(
        found.betas[-1:], found.intercepts[-1:], found.num_steps.sum(keepdims=True), complete, []
    )


def _strides(begin: float, end: float, stride: float) -> np.ndarray:
    """Strengths from `begin` down to `end`, none further from the one before than a stride."""
    count = int(np.ceil(np.log(end / begin) / np.log(stride)))
    steps = begin * (end / begin) ** (np.arange(1, count) / count)
    return np.append(steps, end)


def _is_small(problem: Problem) -> bool:
    """Whether the Gram matrix of all columns costs less than looking for those that matter."""
    n, p = problem.x.shape
    is_tall = problem.x.as_array() is not None and _TALL * p <= n and p <= _MANY_COLUMNS
    return p <= _ALL_COLUMNS or (is_tall and problem.loss.is_quadratic)


def _choose(excess: np.ndarray, face: np.ndarray, extra: np.ndarray) -> np.ndarray:
    """The face, the violators, and the columns whose gradients are nearest to their prices."""
    wanted = len(face) + max(_NEXT_IN_LINE, len(face))
    possible = np.flatnonzero(excess > -np.inf)
    if len(possible) <= wanted:
        return possible
    excess[face] = np.inf
    nearest = np.argpartition(-excess, wanted)[:wanted]
    return np.union1d(nearest, extra)


def _first_violation(gradients, prices, block, outside, floor) -> tuple[int, np.ndarray]:
    """How many strengths pass before a column outside of the working set is over its price; which."""
    for i, lam in enumerate(block):
        over = outside & (prices.excess(gradients[i], lam, floor) > _SLACK)
        if over.any():
            return i, np.flatnonzero(over)
    return len(block), np.zeros(0, int)
