"""The engine that follows a path of squared error as one compiled program."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..._status import Status
from ...penalties import Penalty
from ..host._columns import Columns
from ..host._path_solution import PathSolution
from ..host._zero_copy import aligned
from ..model._problem import Outcome, Point, Problem
from ..results._certified import report
from ..results._fit import Fit
from ..results._path import Path
from ._engine import ENGINES, Engine, Plan, suits_host, with_some
from .active_set._path_point import NumericalBreakdown
from .active_set._penalty_weights import linear_form
from .active_set._working_set import has_knots
from .compiled._follow import follow_on_host, follow_traced

_FEWEST_COLUMNS = 128  # from which on a program is worth its compilation
_FEWEST_STRENGTHS = 10
_MOST_ACTIVE = 256  # beyond it, sizes that change on the host are faster


class Compiled(Engine):
    """Follows the path of squared error with L1 from knot to knot, in one program."""

    name = "compiled"

    def is_preferred(self, plan: Plan) -> bool:
        n, p = plan.problem.x.shape
        if plan.is_traced() or not suits_host((n, p)):
            return True
        is_dense = plan.problem.x.as_array() is not None
        is_worth_it = p > _FEWEST_COLUMNS and len(plan) >= _FEWEST_STRENGTHS
        on_cpu = jax.default_backend() == "cpu"
        return on_cpu and is_dense and is_worth_it and min(n, p) <= _MOST_ACTIVE

    def supports(self, plan: Plan) -> str | None:
        problem, pen = plan.problem, plan.pen
        is_lasso = problem.loss.is_quadratic and not problem.responses and _is_linear(pen, problem)
        if is_lasso and not plan.is_traced():
            trivial = bool(problem.null.is_trivial) or not np.any(np.asarray(problem.norms))
            is_lasso = not trivial and np.min(plan.lams) > 0 and has_knots(problem, pen)
        if not is_lasso or plan.known is not None or plan.gram is not None:
            return (
                "needs SquaredError with L1 or NonNegativeL1 of one response, at strengths above 0"
            )
        return None

    def run(self, plan: Plan) -> Path:
        is_on_host = jax.default_backend() == "cpu" and plan.problem.x.as_array() is not None
        if not is_on_host or plan.is_traced():
            limits = (plan.tol, plan.names)
            return Path(_solve(plan.problem, plan.pen, jnp.asarray(plan.lams), *limits))
        solution = _follow(plan)
        done = solution.num_solved
        if not done:
            raise NumericalBreakdown
        fits = jax.block_until_ready(plan.report(solution))
        if done < len(plan):  # rounding has lost the path
            rest = np.arange(done, len(plan))
            fits = with_some(fits, rest, ENGINES["working_set"].run(plan.only(rest)).fits)
        return Path(fits)


def _follow(plan: Plan) -> PathSolution:
    """Returns the solutions of concrete data, in float64."""
    problem, null = plan.problem, plan.problem.null
    form = linear_form(plan.pen, np.ones(()), problem.coef_shape)
    with jax.enable_x64(True):
        lams = np.asarray(plan.lams, np.float64)
        betas, num_steps, num_done = follow_on_host(problem, form, lams)
    if (at_null := np.asarray(null.point.beta)).any():
        betas += at_null
    columns = Columns(problem)
    return PathSolution(
        betas,
        np.full(len(plan), null.point.intercept),
        num_steps,
        num_done,
        [],
        neg_gradients=_neg_gradients(problem, columns, betas),
        columns=columns,
        has_unpenalised=bool(np.any(np.asarray(null.unpenalised))),
    )


def _is_linear(pen: Penalty, problem: Problem) -> bool:
    """Whether a penalty has a weight per coordinate and no quadratic part, as far as its class says."""
    if not (pen.convex and pen.homogeneous and pen.has_strength):
        return False
    return type(pen).linear_form is not Penalty.linear_form


def _neg_gradients(problem: Problem, columns: Columns, betas: np.ndarray) -> np.ndarray:
    """−∇L (L, p) at the coefficients as they are returned, by BLAS."""
    out = aligned(betas.shape, np.float64)
    at = np.flatnonzero(betas.any(axis=0))
    fitted = columns.matrix.part_of(at).dot(columns.returned(at, betas[:, at].T))
    target = np.asarray(problem.y, np.float64) - np.asarray(problem.offset, np.float64)
    residuals = (target - float(problem.null.point.intercept))[:, None] - fitted
    columns.matrix.rdot(columns.s[:, None] * residuals, out)
    return out


@eqx.filter_jit
def _solve(problem: Problem, pen: Penalty, lams: Array, tol: Any, names: Any) -> Fit:
    """The path, each fit with its certificate; where it was lost, they say that they are short of `tol`."""
    lams = lams.astype(problem.y.dtype)
    found = follow_traced(problem, pen, lams)
    null = problem.null.point

    def lane(lam: Array, beta: Array, num_steps: Array) -> Fit:
        status = jnp.asarray(Status.CONVERGED, jnp.int32)  # unless the certificate says otherwise
        outcome = Outcome(Point(null.beta + beta, null.intercept), num_steps, status)
        return report(problem, pen.with_strength(lam), outcome, tol, names)

    return jax.vmap(lane)(lams, found.betas, found.num_steps)
