"""`path`: the whole grid of strengths, warm-started one after the other or as one batch."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._status import Status
from .._tracing import as_array, frozen, is_differentiable, is_traced
from ..losses import Loss
from ..penalties import Penalty
from ._fit import _SQUARED_ERROR, start_point
from ._grid import check_grid, make_grid
from .data._block_reader import passes_shown
from .data._block_sources import BlockError
from .data._inputs import read
from .data._precision import check_max_steps, check_tol, give_back, precision
from .data._row_blocks import in_blocks
from .derivatives._differentiable import differentiable_fit, moving_parts, with_parts
from .engines._engine import (
    Engine,
    Plan,
    check_engine,
    choose_engine,
    prepare_for,
    solve_plan,
    with_rest,
)
from .host._entry_point import entry_point
from .host._path_solution import PathSolution
from .host._sparse_rows import dense, take
from .model._on_host import host_values
from .model._prepare import data_of, in_given_columns
from .model._problem import Data, Point, Problem
from .results._checkpoint import Checkpoint, check_checkpoint
from .results._fit import Fit, in_jax
from .results._fitted_with import check_same_options
from .results._options import FitOptions, options_of, with_passes
from .results._path import Path
from .results._resume import Known, known_points, read_resume
from .results._warning import warn_if_short

_EXACT = 0.75  # power of eps within whose relative kkt an active set can be followed from a fit


@entry_point
def path(
    X: Any,
    y: Any,
    pen: Penalty,
    *,
    lams: Any = None,
    n_lams: int = 100,
    lam_min_ratio: float | None = None,
    progress: bool | None = None,
    resume: Any = None,
    checkpoint: Any = None,
    loss: Loss = _SQUARED_ERROR,
    fit_intercept: bool = True,
    standardize: bool = False,
    sample_weight: Any = None,
    offset: Any = None,
    init: Any = None,
    tol: Any = None,
    max_steps: Any = 20_000,
    engine: str = "auto",
    max_memory: Any = None,
) -> Path:
    """Fits a penalty at every strength of a grid; each fit comes with its certificate.

    The penalty comes without its strength (a strength it has is not used).

    **Arguments:**

    - `lams` (L,): the grid, sorted here to descend. Unless given: `n_lams` log-spaced strengths from
      λmax to λmax·`lam_min_ratio`.
    - `lam_min_ratio`: 1e-2 where n ≤ p and 1e-3 else, unless given.
    - `progress`: show a bar (None: in a terminal) with the strength, the features and, where there
      is one already, the gap.
    - `resume`: an earlier path of the same problem (with the same options: others are refused), or the name of
      its file, whose grid is taken up again. Its fits are certified anew on these data; only what is missing
      or short of `tol` is solved.
    - `checkpoint`: the name of a file for `resume` ("run.npz"), into which what is solved is written every few
      seconds, and at the end the path; it is replaced as a whole. Engines that solve all strengths in one
      program ("compiled", "parallel") write at the end. Of many processes the first one writes.
    - `tol`: as for `fit`. Unless it is given, an engine of active sets solves every strength, to rounding.
      Given, it says what is enough: strengths between two that are solved may lie on a line from one
      to the other where that is certified at `tol`. They take no step (`num_steps` is 0), and what is
      in at either end is in. (Not with knots, nor under a derivative.)
    - `engine`: on concrete data of one response or of `Multinomial`, with a penalty weight per coordinate (L1,
      elastic net, non-negative L1, any weights), "working_set" follows the path on the columns that matter and
      lands exactly on each strength, also within limits, and with `MCP`, `SCAD`, `CappedL1` and `LogSum`,
      where it goes from each stationary point to the next; for squared error it does so with weights per
      group too (GroupL1, for several responses as well, and SparseGroupL1). For squared error "covariance"
      does so on the Gram matrix of all columns (n ≫ p), and "homotopy" also keeps every knot of a
      piecewise linear path, in `path.knots`. "compiled" follows it as one program, for squared error,
      `Logistic`, `Poisson` and likelihoods like these: under `jit`, `vmap` and derivatives as well, where
      it serves `fit` too. Gradient steps support everything: "sequential" starts each fit from the one
      before, "parallel" fits all as one batch, and "fista" is the one of them that suits the device.
      Engines of one's own: `l1jax.Engine`. "auto" takes, of those that support the problem, the one that
      was measured to be the fastest there: "compiled" where it is traced, and on a CPU for a dense X where
      p is above 128, n or p at most 256 (100 with a ridge) and there are ten strengths or more; on an
      accelerator "working_set" where n or p is at most 600. Fits that an engine leaves short of `tol` take
      gradient steps from what it found.

    - `max_memory`: as for `fit`. The bar shows each pass over X, and `path.passes` counts them.

    All other arguments and errors as for `fit`; `max_steps` is per fit. Returns a `Path`. Raises: `BlockError`
    where a block of X cannot be used; its `path` holds what was solved, to go on from by `resume`.

    Ctrl-C ends it early: the path then holds what is done, and for the strengths that were not
    reached NaN and the status INTERRUPTED; to go on, pass it as `resume`. (With nothing done, under
    a derivative, or in one batch, it raises KeyboardInterrupt.)

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> X, y = jnp.array([[-1.0], [0.0], [1.0]]), jnp.array([-3.0, 0.0, 3.0])
    >>> path = l1jax.path(X, y, l1jax.L1(), lams=[2.0, 1.0])
    >>> print(path.coefs[:, 0], path.n_nonzero)
    [0.  1.5] [0 1]

    ```
    """
    others = (lams, init, tol, max_steps)
    X = in_blocks(X, max_memory)
    inputs = read(X, y, pen, loss, sample_weight, offset, *others, has_strength=False)
    pen, loss = inputs.pen, inputs.loss
    check_engine(engine)
    tol_is_given, tol = tol is not None, check_tol(tol, inputs.x.dtype)
    max_steps = check_max_steps(max_steps)
    values = (inputs.x, inputs.y, inputs.weights, inputs.offset, pen, lams)
    check_checkpoint(checkpoint, values)
    resume, lams = read_resume(resume, lams, loss, values)
    grid = check_grid(lams, n_lams, lam_min_ratio)
    with precision(inputs.wants_x64), passes_shown(progress):
        data = data_of(inputs, loss, fit_intercept, standardize)
        pen_now = host_values(frozen(pen))
        problem, gram = prepare_for(engine, frozen(data), pen_now)
        grid = make_grid(problem, pen, grid, n_lams, lam_min_ratio, inputs.x.shape)
        start = start_point(problem, frozen(init))
        pen_there = problem.on_scale(pen_now)
        plan = Plan(
            problem, pen_there, frozen(grid), start, tol, max_steps, inputs.names, progress, gram,
            # A derivative is that of a solution.
            interpolate=tol_is_given and not is_traced(tol) and not is_differentiable((data, pen, grid)),
        )  # fmt: skip
        keep = not is_traced((data, pen, grid, start, tol, max_steps))
        options = options_of(inputs, data, problem, sample_weight, offset, keep)
        check_same_options(resume, loss, options, inputs.names)
        plan = _with_checkpoint(plan, checkpoint, loss, options)
        found, failure = _solved(choose_engine(engine, plan), plan, resume)
        fits = found.fits
        if is_differentiable((data, pen, grid)):
            grid = grid if isinstance(grid, jax.Array) else as_array(grid)
            given = in_given_columns(problem, frozen(data), pen_now)
            fits = _differentiable(fits, given, data, pen, grid)
        # One loss and one set of options for all lanes.
        fits = in_jax(dataclasses.replace(fits, loss=loss, options=with_passes(options, inputs)))
        result = give_back(dataclasses.replace(found, fits=fits), inputs.wants_x64)
    _finish(plan.checkpoint, failure, result)
    warn_if_short(result.status, result.fits, tol)
    return result


def _with_checkpoint(plan: Plan, file: Any, loss: Loss, options: FitOptions) -> Plan:
    """Returns the plan, which writes what is solved to this file, if there is one."""
    if file is None:
        return plan
    kept = Checkpoint.of(file, plan.lams, plan.problem, plan.names, loss, options)
    return dataclasses.replace(plan, checkpoint=kept)


def _finish(checkpoint: Checkpoint | None, failure: BlockError | None, solved: Path) -> None:
    """Writes the path; raises the error of a block of rows, if there is one, with what was solved before."""
    if checkpoint is not None:
        checkpoint.write(solved)
    if failure is not None:
        failure.path = solved
        raise failure


def _solved(engine: Engine, plan: Plan, resume: Path | None) -> tuple[Path, BlockError | None]:
    """Returns the path; what is solved of it and the error, where a block of rows could not be used."""
    try:
        found = solve_plan(engine, plan) if resume is None else _resumed(engine, resume, plan)
    except BlockError as error:
        if error.path is None:
            raise
        return error.path, error
    except BaseException as error:  # another process has died, memory is full, ...
        if plan.checkpoint is not None:
            plan.checkpoint.write()
            error.add_note(plan.checkpoint.note)
        raise
    return found, None


def _differentiable(fits: Fit, problem: Problem, data: Data, pen: Penalty, lams: Array) -> Fit:
    """Returns the fits with their derivatives: one after the other, or as one batch where they are traced.

    Raises: KeyboardInterrupt where the path was interrupted: a part of it has no derivative.
    """
    if not is_traced(fits.status) and Status.INTERRUPTED in np.asarray(frozen(fits.status)):
        raise KeyboardInterrupt

    def lane(one: Fit, lam: Array) -> Fit:
        return differentiable_fit(one, problem, data, pen.with_strength(lam))

    if is_traced((fits, problem, data, pen, lams)):
        return jax.vmap(lane)(fits, lams)
    arrays = jax.tree.map(np.asarray, fits)
    lanes = [
        lane(jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i]), arrays), lams[i])
        for i in range(len(lams))
    ]
    moving = _stack([(moving_parts(one), one.thresholds) for one in lanes])
    return dataclasses.replace(with_parts(fits, moving[0]), thresholds=moving[1])


@jax.jit
def _stack(trees: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _resumed(engine: Engine, resume: Path, plan: Plan) -> Path:
    """Returns an earlier path, certified anew; an engine solves what is missing, from the fit before it."""
    if plan.checkpoint is not None:
        fits = (resume.fits.stored_coef, resume.intercepts, resume.num_steps)
        plan.checkpoint.keep(np.arange(len(plan)), *fits)
    betas, intercepts = known_points(resume, plan.problem)
    steps = np.asarray(resume.num_steps)
    found = Path(plan.report(PathSolution(betas, intercepts, steps, len(steps), [])))
    missing = np.flatnonzero(np.asarray(found.status) != Status.CONVERGED)
    if not len(missing):
        return Path(found.fits, resume.knots)
    rest, last = plan.only(missing), int(missing[0]) - 1
    if last >= 0:
        start = Point(np.asarray(dense(take(betas, last))), intercepts[last])
        known = None
        if found.fits.relative_kkt[last] <= jnp.finfo(start.beta.dtype).eps ** _EXACT:
            known = Known(float(np.asarray(plan.lams)[last]), start)
        rest = dataclasses.replace(rest, start=start, known=known)
    return with_rest(found, missing, lambda: solve_plan(engine, rest))
