"""The engine of rows that are read in blocks, where too many of them for copies of columns."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
from jax.core import Tracer

from ..._progress import advance, progress_bar
from ..data._block_sources import BlockError
from ..data._row_blocks import blocks_of
from ..host._path_solution import PathSolution
from ..model._on_host import is_on_host
from ..results._path import Path
from ..results._resume import unreached
from ._engine import Engine, Plan
from .active_set._path_point import NumericalBreakdown
from .active_set._penalty_weights import has_penalty_weights
from .active_set._row_block_newton import RowBlockNewton, reason_not_supported

_MAX_PASSES = 60


class RowBlocksEngine(Engine):
    """Newton steps at all strengths at once, a pass over the rows for each."""

    name = "row_blocks"
    leaves_rest = False

    def is_preferred(self, plan: Plan) -> bool:
        return blocks_of(plan.problem.x) is not None

    def supports(self, plan: Plan) -> str | None:
        problem, pen = plan.problem, plan.pen
        if plan.is_traced() or isinstance(plan.lams, Tracer) or not is_on_host(problem):
            return "needs concrete data, and a loss and penalty of l1jax"
        if not has_penalty_weights(pen, problem.coef_shape):
            return f"needs a convex penalty with a weight per coordinate such as L1, got {pen}"
        return reason_not_supported(problem, plan.lams)

    def run(self, plan: Plan) -> Path:
        newton = RowBlockNewton(
            plan.problem, plan.pen, np.asarray(plan.lams, float), float(plan.tol)
        )
        failure: BlockError | KeyboardInterrupt | None = None
        try:
            self._solve(newton, plan)
        except (BlockError, KeyboardInterrupt) as error:
            failure = error
        solved = np.array([lane.is_solved for lane in newton.lanes], bool)
        if failure is not None and not solved.any():
            raise failure
        lanes = newton.lanes
        solution = PathSolution(
            np.stack([lane.beta for lane in lanes]),
            np.array([lane.intercept for lane in lanes]),
            np.array([lane.num_steps for lane in lanes]),
            len(lanes),
            [],
            neg_gradients=np.stack(
                [lane.neg_gradient + lane.form.quad * lane.beta for lane in lanes]
            ),
        )
        if not isinstance(failure, BlockError):
            found = Path(plan.report(solution))
            return found if failure is None else Path(unreached(found.fits, ~solved))
        failure.path = Path(unreached(plan.uncertified(solution), ~solved))
        raise failure

    def _solve(self, newton: RowBlockNewton, plan: Plan) -> None:
        newton.start()
        with progress_bar(len(plan), plan.progress) as bar, suppress(NumericalBreakdown):
            for _ in range(_MAX_PASSES):
                count = newton.run()
                lane = next((one for one in newton.lanes if not one.is_solved), newton.lanes[-1])
                if count:
                    _keep(newton, plan)
                advance(bar, count, lane.lam, np.count_nonzero(lane.beta))
                if newton.is_solved:
                    return


def _keep(newton: RowBlockNewton, plan: Plan) -> None:
    """Hands the strengths that are solved to the checkpoint."""
    at = [i for i, lane in enumerate(newton.lanes) if lane.is_solved]
    lanes = [newton.lanes[i] for i in at]
    betas = np.stack([lane.beta for lane in lanes])
    intercepts = np.array([lane.intercept for lane in lanes])
    plan.keep(at, betas, intercepts, [lane.num_steps for lane in lanes])
