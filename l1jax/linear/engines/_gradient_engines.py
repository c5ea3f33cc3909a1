"""The engines that take gradient steps (FISTA with Newton polishing): they support everything.

"sequential" starts each fit from the one before, "parallel" fits all strengths as one batch, and "fista" is
the one of the two that suits the device.
"""

from __future__ import annotations

import dataclasses
import operator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..._compile import program
from ..._progress import advance, progress_bar
from ..._status import Status
from ..._tracing import is_traced
from ...penalties import Penalty
from ..data._block_sources import BlockError, block_errors
from ..model._problem import Outcome, Point, Problem, with_smoothness
from ..results._certified import report
from ..results._fit import Fit
from ..results._path import Path
from ..results._resume import unreached
from ._engine import ENGINES, Engine, Plan
from ._fista_newton import solve, solve_ill_conditioned

_SLOW_STEPS = 3000  # gradient steps that do not suffice where columns are nearly dependent


def solve_and_report(
    problem: Problem,
    pen: Penalty,
    start: Point,
    tol: Any,
    max_steps: Any,
    names: tuple[str, ...] | None,
) -> tuple[Fit, Point]:
    """Returns the fit, and the point on the solver's scale to start the next one from; traced."""
    problem = with_validity(problem, pen, start, tol, max_steps)
    outcome = solve(problem, pen, start, tol, max_steps)
    return report(problem, pen, outcome, tol, names), outcome.point


def with_validity(
    problem: Problem, pen: Penalty, start: Point, tol: Any, max_steps: Any
) -> Problem:
    """Returns the problem, not valid where traced arguments are such as an eager call refuses."""
    finite = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(start)]
    valid = jnp.stack([problem.is_valid, pen.is_valid(), tol >= 0, max_steps >= 1, *finite]).all()
    return eqx.tree_at(lambda q: q.is_valid, problem, valid)


solve_one = program(solve_and_report)
estimate_smoothness = program(with_smoothness)


class GradientSteps(Engine):
    """Gradient steps, by the engine that suits the device: for one fit they are the same."""

    name = "fista"
    leaves_rest = False

    def supports(self, plan: Plan) -> None:
        del plan

    @property
    def fits_in_one_batch(self) -> bool:
        """Whether strengths, and subsets of the rows, are lanes of one compiled batch."""
        return jax.default_backend() != "cpu"

    def run(self, plan: Plan) -> Path:
        in_batch = self.fits_in_one_batch and len(plan) > 1
        return ENGINES["parallel" if in_batch else "sequential"].run(plan)


class Sequential(Engine):
    """One strength after the other, each from the solution before it, or from its own of `plan.starts`."""

    name = "sequential"
    leaves_rest = False

    def supports(self, plan: Plan) -> None:
        del plan

    def run(self, plan: Plan) -> Path:
        if plan.is_traced():
            return Path(_scan(plan))
        problem = estimate_smoothness(plan.problem, plan.pen)
        fits: list[Fit] = []
        start = plan.start
        with progress_bar(len(plan), plan.progress) as bar:
            try:
                for i, lam in enumerate(np.asarray(plan.lams)):
                    if plan.starts is not None:
                        start = jax.tree.map(operator.itemgetter(i), plan.starts)
                    limits = (plan.tol, plan.max_steps, plan.names)
                    with block_errors():
                        solved = solve_best(problem, plan.pen_at(lam), start, *limits)
                        one, start = jax.block_until_ready(solved)  # else the loop would run ahead
                    fits.append(one)
                    if plan.checkpoint is not None:
                        solution = (start.beta, start.intercept, one.num_steps)
                        plan.keep([i], *(part[None] for part in solution))
                    advance(bar, 1, lam, one.n_nonzero, one.relative_gap)
            except (KeyboardInterrupt, BlockError) as error:
                if not fits:
                    raise
                if isinstance(error, BlockError):
                    error.path = Path(_stacked(fits, len(plan), plan.lams))
                    raise
        return Path(_stacked(fits, len(plan), plan.lams))


class Parallel(GradientSteps):
    """All strengths as one batch, in which finished lanes are frozen."""

    name = "parallel"

    @property
    def fits_in_one_batch(self) -> bool:
        return True

    def run(self, plan: Plan) -> Path:
        return Path(batch(plan))


def _stacked(fits: list[Fit], count: int, lams: Any) -> Fit:
    """The fits as one batch of `count`, those that are missing said not to be reached; on the host."""
    missing = count - len(fits)

    def stack(*leaves: Array) -> Array:
        return jnp.asarray(np.stack([np.asarray(leaf) for leaf in leaves + missing * leaves[-1:]]))

    all_ = jax.tree.map(stack, *fits)
    if not missing:
        return all_
    all_ = dataclasses.replace(all_, lam=jnp.asarray(lams, all_.lam.dtype))
    return unreached(all_, np.arange(count) >= len(fits))


def _scan(plan: Plan) -> Fit:
    """The fits one after the other, in compiled code."""
    if len(plan) > 1:
        limits = (plan.start, plan.starts, plan.tol, plan.max_steps, plan.names)
        return _scanned(plan.problem, plan.pen, plan.lams, *limits)
    problem = estimate_smoothness(plan.problem, plan.pen)
    start = plan.start if plan.starts is None else jax.tree.map(lambda leaf: leaf[0], plan.starts)
    limits = (start, plan.tol, plan.max_steps, plan.names)
    one, _ = solve_one(problem, plan.pen_at(plan.lams[0]), *limits)
    return jax.tree.map(lambda leaf: leaf[None], one)


@program
def _scanned(
    problem: Problem,
    pen: Penalty,
    lams: Array,
    start: Point,
    starts: Point | None,
    tol: Any,
    max_steps: Any,
    names: tuple[str, ...] | None,
) -> Fit:
    problem = with_smoothness(problem, pen)

    def step(start: Point, given: tuple[Array, Point | None]) -> tuple[Point, Fit]:
        lam, own = given
        start = start if own is None else own
        one, start = solve_and_report(problem, pen.with_strength(lam), start, tol, max_steps, names)
        return start, one

    return jax.lax.scan(step, start, (lams, starts))[1]


def batch(plan: Plan) -> Fit:
    """Returns the fits at all strengths, as lanes of one `vmap`."""
    start = plan.start if plan.starts is None else plan.starts
    limits = (plan.tol, plan.max_steps, plan.names)
    is_own = plan.starts is not None
    return batched(plan.problem, plan.pen, jnp.asarray(plan.lams), start, *limits, is_own)


@program
def batched(
    problem: Problem,
    pen: Penalty,
    lams: Array,
    start: Point,
    tol: Any,
    max_steps: Any,
    names: tuple[str, ...] | None,
    is_own: bool = False,
) -> Fit:
    """`batch`, of the parts of a plan that compiled code takes; a start for all, or each with its own."""
    problem = with_smoothness(problem, pen)

    def lane(lam: Array, start: Point) -> Fit:
        pen_at = pen.with_strength(lam) if pen.has_strength else pen
        return solve_and_report(problem, pen_at, start, tol, max_steps, names)[0]

    return jax.vmap(lane, in_axes=(0, 0 if is_own else None))(lams, start)


def solve_best(
    problem: Problem,
    pen: Penalty,
    start: Point,
    tol: Any,
    max_steps: Any,
    names: tuple[str, ...] | None,
) -> tuple[Fit, Point]:
    """As `solve_one`; where the call is eager, what that leaves short is solved as ill-conditioned."""
    if is_traced((problem, pen, start, tol, max_steps)):
        return solve_one(problem, pen, start, tol, max_steps, names)
    # 1. Gradient steps and Newton's, as many as they mostly need.
    limit = np.asarray(max_steps)
    if problem.is_convex(pen):
        limit = np.asarray(np.minimum(limit, _SLOW_STEPS), limit.dtype)
    found, point = solve_one(problem, pen, start, tol, limit, names)
    # 2. What is left in float64: by proximal point steps, which need its digits; by gradient steps again where
    #    the penalty is not convex.
    is_float32 = problem.y.dtype != np.float64
    is_slow = found.status == Status.MAX_STEPS and limit < max_steps
    is_short = found.status == Status.PRECISION_LIMIT and (is_float32 or problem.is_convex(pen))
    if not (is_slow or is_short):
        return found, point
    left = np.asarray(max_steps - found.num_steps if is_slow else max_steps, limit.dtype)
    with jax.enable_x64(True):
        problem, pen, begin, wanted = jax.tree.map(_as_float64, (problem, pen, point, tol))
        longer, end = _solve_in_float64(problem, pen, begin, wanted, left, names, is_float32)
        if is_float32:
            longer, end = jax.tree.map(_as_float32, (longer, end))
    if is_slow or longer.status == Status.CONVERGED or _measure(longer) < _measure(found):
        count = longer.num_steps + found.num_steps if is_slow else longer.num_steps
        return dataclasses.replace(longer, num_steps=jnp.asarray(count)), end
    return found, point


@program
def _solve_in_float64(
    problem: Problem,
    pen: Penalty,
    start: Point,
    tol: Any,
    max_steps: Any,
    names: tuple[str, ...] | None,
    is_rounded: bool,
) -> tuple[Fit, Point]:
    """A fit in float64; `is_rounded` to float32, it is certified as that holds it."""
    solver = solve_ill_conditioned if problem.is_convex(pen) else solve
    outcome = solver(problem, pen, start, tol, max_steps)
    point = outcome.point
    if is_rounded:
        point = problem.from_user(*jax.tree.map(_rounded, problem.to_user(point)))
    final = Outcome(point, outcome.num_steps, outcome.status)
    return report(problem, pen, final, tol, names), outcome.point


def _measure(one: Fit) -> Array:
    """The number that `tol` bounds, as `Certificate.measure`."""
    return jnp.where(jnp.isfinite(one.relative_gap), one.relative_gap, one.relative_kkt)


def _as_float64(leaf: Any) -> Any:
    is_float32 = getattr(leaf, "dtype", None) == np.float32
    return leaf.astype(np.float64) if is_float32 else leaf  # of JAX's arrays, where they are


def _as_float32(leaf: Any) -> Any:
    is_float64 = getattr(leaf, "dtype", None) == np.float64
    return jnp.asarray(np.asarray(leaf, np.float32)) if is_float64 else leaf


def _rounded(value: Array) -> Array:
    return value.astype(jnp.float32).astype(value.dtype)
