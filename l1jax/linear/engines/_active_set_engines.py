"""The engines that follow a path by active sets, on the host and in float64."""

from __future__ import annotations

import dataclasses
from contextlib import suppress
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from ..._status import Status
from ...penalties import Penalty
from ..host._path_solution import Knot, PathSolution
from ..host._sparse_rows import (
    SparseRows,
    compact,
    concatenated,
    dense,
    is_large,
    parts_of,
    take,
)
from ..model._null_model import known_lambda_max
from ..model._on_host import is_on_host
from ..model._problem import Point, Problem
from ..results._path import Path
from ..results._records import Knots
from ..results._resume import unreached
from ._engine import Engine, Plan, suits_host, with_some
from .active_set._candidates import has_room
from .active_set._path_point import NumericalBreakdown
from .active_set._stacked_classes import can_stack, stacked, unstacked
from .active_set._working_set import (
    FollowerOptions,
    Keep,
    follow_path,
    follow_to,
    has_knots,
    supports,
)

_FRACTION = 0.5  # of `tol` that a line may use up: its gap is measured in the middle


class WorkingSet(Engine):
    """Follows the path on the columns that matter, and lands exactly on each strength."""

    name = "working_set"
    uses_gram = True
    successor = "row_blocks"
    all_columns: bool | None = None  # whether all are the working set; None: where that is cheaper
    keeps_knots = False

    def is_preferred(self, plan: Plan) -> bool:
        return suits_host(plan.problem.x)

    def supports(self, plan: Plan) -> str | None:
        problem, pen = plan.problem, plan.pen
        if plan.gram is None and not has_room(problem):
            return "copies columns, for which max_memory is too small"
        if not plan.is_traced() and (
            _is_null(problem) or supports(problem, pen) or self._stacks(plan)
        ):
            # Which stationary point is found depends on the start: it is gradient steps that begin at one.
            if pen.convex or plan.start is problem.null.point or plan.known is not None:
                return None
            return "goes down from λmax where a penalty is not convex, and takes no init"
        if problem.responses and _has_limits(pen, problem.coef_shape):
            return (
                "takes no limits (lower, upper) of several responses or classes: leave them out, or take "
                'engine="fista"'
            )
        return (
            "needs concrete data, and a penalty with a weight per coordinate such as L1 or, for losses with "
            "curvature everywhere such as SquaredError, Logistic and Multinomial, per group such as GroupL1"
        )

    def _stacks(self, plan: Plan) -> bool:
        """Whether it solves for several responses or classes as if they were one."""
        return plan.gram is None and can_stack(plan.problem, plan.pen)

    def run(self, plan: Plan) -> Path:
        if _is_null(plan.problem):
            return _null_path(plan)
        lambda_max = float(known_lambda_max(plan.problem, plan.pen))
        solution = self._follow(plan, lambda_max)
        if not solution.num_solved:
            if solution.interrupted:
                raise KeyboardInterrupt
            raise solution.failure or NumericalBreakdown
        try:
            fits = jax.block_until_ready(plan.report(solution))
        except KeyboardInterrupt:  # all is solved, and soon certified
            fits = plan.report(solution)
        if solution.interrupted or solution.failure:
            found = Path(unreached(fits, np.arange(len(plan)) >= solution.num_solved))
            if solution.failure is None:
                return found
            solution.failure.path = found
            raise solution.failure
        short = np.flatnonzero(np.asarray(fits.status) != Status.CONVERGED)
        if len(short) and plan.interpolate and solution.num_solved == len(plan):
            with suppress(NumericalBreakdown):  # gradient steps take what is short
                again = self.run(plan.only(short).without_interpolation())
                fits = with_some(fits, short, again.fits)
            return Path(fits)
        complete = self.keeps_knots and not len(short) and plan.known is None
        return Path(fits, _knots(plan, solution, lambda_max) if complete else None)

    def _follow(self, plan: Plan, lambda_max: float) -> PathSolution:
        """Returns the solutions at all λ; a single one by way of larger ones that working sets can follow."""
        if self._stacks(plan):
            problem, pen = stacked(plan.problem, plan.pen)
            flat = dataclasses.replace(plan, problem=problem, pen=pen, known=None)
            lams = np.asarray(plan.lams, np.float64)

            def keep(at: np.ndarray, betas: Any, intercepts: Any, num_steps: Any) -> None:
                part = PathSolution(betas, intercepts, num_steps, len(at), [])
                plan.keep(at, *unstacked(plan.problem, plan.pen, lams[at], part)[:3])

            found = self._follow_flat(flat, lambda_max, keep)
            return unstacked(plan.problem, plan.pen, lams, found)
        return self._follow_flat(plan, lambda_max, plan.keep)

    def _follow_flat(self, plan: Plan, lambda_max: float, keep: Keep) -> PathSolution:
        lams = np.asarray(plan.lams, np.float64)
        single = len(lams) == 1 and plan.known is None and not self.keeps_knots
        if single and self.all_columns is None:
            return follow_to(plan.problem, plan.pen, float(lams[0]), lambda_max, plan.gram)
        options = FollowerOptions(
            progress=plan.progress,
            all_columns=self.all_columns if plan.gram is None else True,
            keep_knots=self.keeps_knots,
            columns=plan.gram,
            start=plan.known,
            catch_interrupt=True,
            keep_gradients=True,
            relative_gap=_FRACTION * float(plan.tol) if plan.interpolate else None,
            interpolates=plan.interpolate and not self.keeps_knots,
            keep=keep if plan.checkpoint is not None else None,
        )
        return follow_path(plan.problem, plan.pen, lams, lambda_max, options)


class Covariance(WorkingSet):
    """Follows a path of squared error on the Gram matrix of all columns."""

    name = "covariance"
    all_columns = True

    def is_preferred(self, plan: Plan) -> bool:
        del plan
        return False

    def supports(self, plan: Plan) -> str | None:
        if not plan.problem.loss.is_quadratic:
            return f"needs SquaredError, got {plan.problem.loss}"
        return super().supports(plan)

    def _stacks(self, plan: Plan) -> bool:
        del plan  # responses that are stacked have no Gram matrix
        return False


class Homotopy(Covariance):
    """Keeps every knot of a path of squared error that is straight between its knots."""

    name = "homotopy"
    all_columns = None
    keeps_knots = True

    def supports(self, plan: Plan) -> str | None:
        reason = super().supports(plan)
        if reason is None and not _is_null(plan.problem) and not has_knots(plan.problem, plan.pen):
            return (
                "needs a path that is straight between its knots: L1 or NonNegativeL1, with any weights "
                '(for others there is engine="working_set")'
            )
        return reason


def _has_limits(pen: Penalty, shape: tuple[int, ...]) -> bool:
    """Whether limits of the coefficients are what keeps a penalty from being followed."""
    form = pen.linear_form(shape)
    return form is not None and form.has_limits


def _is_null(problem: Problem) -> bool:
    """Whether the null model is the solution at every strength: it explains all, or no column varies."""
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(problem)):
        return False
    is_all = problem.null.explains_all or not np.any(np.asarray(problem.norms))
    return bool(is_all and problem.null.is_least)


def _null_path(plan: Plan) -> Path:
    """The null model at every strength, certified."""
    null, count = plan.problem.null.point, len(plan)

    def repeated(leaf: Any) -> np.ndarray:
        return np.repeat(np.asarray(leaf)[None], count, axis=0)

    return plan.certified(repeated(null.beta), repeated(null.intercept), np.zeros(count, int))


def _knots(plan: Plan, solution: PathSolution, lambda_max: float) -> Knots:
    """The knots on the user's scale, between the start of the path and the end of the grid."""
    problem, lams = plan.problem, np.asarray(plan.lams)
    null = np.asarray(problem.null.point.beta)
    first = Knot(max(lambda_max, lams[0]), np.flatnonzero(null), null[null != 0])
    end = np.asarray(dense(take(solution.betas, slice(-1, None))))[0]
    knots = [first, *solution.knots, Knot(lams[-1], np.flatnonzero(end), end[end != 0])]
    dtype, to_user = problem.y.dtype, problem.to_user
    to_user = to_user if is_on_host(problem) else jax.vmap(to_user)
    rows = [(knot.features, knot.values) for knot in knots]
    betas = SparseRows.of_rows(rows, problem.coef_shape, dtype)
    coefs, intercepts = [], []
    for some in parts_of(betas):
        part = np.asarray(betas.take(some).to_array())
        point = Point(part, np.full(len(part), solution.intercepts[0], dtype))
        coef, intercept = map(np.asarray, to_user(point))
        coefs.append(compact(coef) if is_large(betas.shape) else coef)
        intercepts.append(intercept)
    lams = np.array([knot.lam for knot in knots], dtype)
    return jax.tree.map(jnp.asarray, Knots(lams, concatenated(coefs), np.concatenate(intercepts)))
