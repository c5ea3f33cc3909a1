"""The engine that follows a path as one compiled program."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..._compile import program
from ..._progress import advance, progress_bar
from ..._status import Status
from ...penalties import Penalty
from ..host._columns import Columns
from ..host._path_solution import PathSolution
from ..host._sparse_rows import dense, take
from ..model._problem import Outcome, Point, Problem
from ..results._certified import report
from ..results._fit import Fit
from ..results._path import Path
from ._engine import Engine, Plan, suits_host
from ._gradient_engines import with_validity
from .active_set._path_point import NumericalBreakdown
from .active_set._penalty_weights import CoordinateWeights, linear_form
from .active_set._working_set import supports as supports_active_sets
from .compiled._follow import follow_on_host, follow_traced

_FEWEST_COLUMNS = 128  # from which on a program is worth its compilation
_FEWEST_STRENGTHS = 10
# Rows or columns; beyond them, sizes that change on the host are faster. A ridge curves the path, so that each
# strength needs a new factor, and more features than rows may be active: the more, the more columns there are.
_MAX_SIZE, _MAX_SIZE_WITH_RIDGE = 256, 100
_MOST_COLUMNS_WITH_RIDGE = 1000


class Compiled(Engine):
    """Follows the path of a penalty with a weight per coordinate from knot to knot, in one program."""

    name = "compiled"
    successor = "working_set"

    @property
    def fits_in_one_batch(self) -> bool:
        return jax.default_backend() != "cpu"

    def is_preferred(self, plan: Plan) -> bool:
        n, p = plan.problem.x.shape
        if plan.is_traced() or not suits_host(plan.problem.x):
            return True
        is_dense = plan.problem.x.as_array() is not None
        is_worth_it = p > _FEWEST_COLUMNS and len(plan) >= _FEWEST_STRENGTHS
        on_cpu = jax.default_backend() == "cpu"
        if not (on_cpu and is_dense and is_worth_it and min(n, p) <= _MAX_SIZE):
            return False
        if _can_be_held(plan):  # on the host many held coefficients take many models
            return True
        suits_ridge = min(n, p) <= _MAX_SIZE_WITH_RIDGE and p <= _MOST_COLUMNS_WITH_RIDGE
        return suits_ridge or not _curves(plan)

    def supports(self, plan: Plan) -> str | None:
        problem, pen = plan.problem, plan.pen
        is_served = _serves_loss(problem) and _serves_penalty(pen, problem.coef_shape)
        if is_served and not plan.is_traced():
            is_served = np.min(plan.lams) > 0 and _follows(problem, pen)
        if not is_served or plan.known is not None or plan.gram is not None:
            return (
                "needs SquaredError, Logistic, Poisson or a loss with curvature like these, of one response, "
                "with a penalty weight per coordinate, such as L1 or ElasticNet, at strengths above 0"
            )
        return None

    def run(self, plan: Plan) -> Path:
        is_on_host = jax.default_backend() == "cpu" and plan.problem.x.as_array() is not None
        if not is_on_host or plan.is_traced():
            limits = (plan.start, plan.tol, plan.max_steps, plan.names)
            return Path(_solve(plan.problem, plan.pen, jnp.asarray(plan.lams), *limits))
        with progress_bar(len(plan), plan.progress) as bar:
            solution = _follow(plan)
            done = solution.num_solved
            if not done:
                raise NumericalBreakdown
            last = np.asarray(dense(take(solution.betas, slice(done - 1, done))))
            advance(bar, done, plan.lams[done - 1], np.count_nonzero(last))
        return Path(jax.block_until_ready(plan.report(solution)))


def _follow(plan: Plan) -> PathSolution:
    """Returns the solutions of concrete data, in float64."""
    problem = plan.problem
    form = linear_form(plan.pen, np.ones(()), problem.coef_shape)
    form = form.map(lambda part: np.asarray(part, np.float64))
    tol = float(plan.tol) if plan.interpolate else None
    with jax.enable_x64(True):
        found = follow_on_host(problem, form, np.asarray(plan.lams, np.float64), tol)
    return PathSolution(
        np.asarray(found.betas),
        np.asarray(found.intercepts),
        np.asarray(found.num_steps),
        int(found.num_done),
        [],
        columns=Columns(problem),
        has_unpenalised=bool(np.any(np.asarray(problem.null.unpenalised))),
    )


def _serves_loss(problem: Problem) -> bool:
    """Whether a loss is a sum over rows of one linear predictor, with curvature in every row."""
    loss = problem.loss
    # A model on rows where Huber's loss or the squared hinge has none is singular.
    return not problem.responses and loss.is_separable and loss.has_curvature


def _serves_penalty(pen: Penalty, shape: tuple[int, ...]) -> bool:
    """Whether a penalty has weights per coordinate, whatever they are."""
    if not (pen.convex and pen.has_strength) or type(pen).linear_form is Penalty.linear_form:
        return False
    return pen.with_strength(1.0).linear_form(shape) is not None


def _can_be_held(plan: Plan) -> bool:
    """Whether coefficients of a penalty with weights may be held at limits other than 0."""
    shape = plan.problem.coef_shape
    if not _serves_penalty(plan.pen, shape):
        return False
    return bool(np.any(linear_form(plan.pen, np.ones(()), shape).can_be_held))


def _curves(plan: Plan) -> bool:
    """Whether a path of squared error, straight without one, is curved by a ridge."""
    if not plan.problem.loss.is_quadratic or not _serves_penalty(plan.pen, plan.problem.coef_shape):
        return False
    return bool(np.any(linear_form(plan.pen, np.ones(()), plan.problem.coef_shape).quad))


def _follows(problem: Problem, pen: Penalty) -> bool:
    """Whether there is a path to follow: concrete weights that are proportional to the strength."""
    if not supports_active_sets(problem, pen):
        return False
    form = linear_form(pen, np.ones(()), problem.coef_shape)
    if np.any(form.is_smooth_at_zero):
        return False
    return CoordinateWeights(pen, problem.coef_shape[0]).proportional


@program
def _solve(
    problem: Problem,
    pen: Penalty,
    lams: Array,
    start: Point,
    tol: Any,
    max_steps: Any,
    names: tuple[str, ...] | None,
) -> Fit:
    """The path, each fit with its certificate; where it was lost, they say that they are short of `tol`."""
    lams = lams.astype(problem.y.dtype)
    problem = with_validity(problem, pen.with_strength(lams[0]), start, tol, max_steps)
    found = follow_traced(problem, pen, lams)
    # Rounding is mostly none without unpenalised features; where it is, gradient steps absorb it.
    absorb = problem.null.has_unpenalised

    def lane(lam: Array, beta: Any, intercept: Any, num_steps: Any) -> Fit:
        # Unless the certificate says otherwise.
        status = jnp.where(problem.is_valid, Status.CONVERGED, Status.INVALID_INPUT)
        status = status.astype(jnp.int32)
        outcome = Outcome(Point(beta, intercept), num_steps, status)
        return report(problem, pen.with_strength(lam), outcome, tol, names, absorb=absorb)

    return jax.vmap(lane)(lams, found.betas, found.intercepts, found.num_steps)
