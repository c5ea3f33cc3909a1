"""`path`: the whole grid of strengths, warm-started one after the other or as one batch."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from .._progress import advance, progress_bar
from .._status import Status
from .._tracing import frozen, is_differentiable, is_traced
from ..losses import Loss
from ..penalties import Penalty
from ._fit import (
    _SQUARED_ERROR,
    WALKS,
    data_of,
    estimate_smoothness,
    in_given_columns,
    lay_out,
    solve_and_report,
    solve_best,
    start_point,
    walks,
    warn_if_short,
)
from ._grid import check_grid, make_grid
from .data._inputs import check_max_steps, check_tol, give_back, precision, read
from .derivatives._differentiable import differentiable_fit, moving_parts, with_parts
from .engines.active_set._working_set import has_knots, walk
from .host._columns import GramColumns
from .host._entry_point import entry_point
from .host._path_solution import Knot, PathSolution
from .model._null_model import compiled_lambda_max
from .model._problem import Data, Point, Problem, with_smoothness
from .results._certified import report_path
from .results._fit import Fit
from .results._fitted_with import check_same_options
from .results._options import FitOptions, options_of
from .results._path import Path
from .results._records import Knots
from .results._resume import Known, check_resume, known_points, unreached

_CAUTION = 0.5  # share of `tol` that a line may use up: its gap is measured in the middle


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
    resume: Path | None = None,
    loss: Loss = _SQUARED_ERROR,
    fit_intercept: bool = True,
    standardize: bool = False,
    sample_weight: Any = None,
    offset: Any = None,
    init: Any = None,
    tol: Any = None,
    max_steps: Any = 20_000,
    engine: str = "auto",
) -> Path:
    """Fits a penalty at every strength of a grid; each fit comes with its certificate.

    The penalty comes without its strength (a strength it has is not used).

    **Arguments:**

    - `lams` (L,): the grid, sorted here to descend. Unless given: `n_lams` log-spaced strengths from
      λmax to λmax·`lam_min_ratio`.
    - `lam_min_ratio`: 1e-2 where n ≤ p and 1e-3 else, unless given.
    - `progress`: show a bar (None: in a terminal) with the strength, the features and, where there
      is one already, the gap.
    - `resume`: an earlier path of the same problem (with the same options: others are refused), whose
      grid is taken up again. Its fits are
      certified anew on these data; only what is missing or short of `tol` is solved.
    - `tol`: as for `fit`. Unless it is given, an engine that walks solves every strength, to rounding.
      Given, it says what is enough: strengths between two that are solved may lie on a line from one
      to the other where that is certified at `tol`. They take no step (`num_steps` is 0), and what is
      in at either end is in. (Not with knots, nor under a derivative.)
    - `engine`: on concrete data of one response, with prices per coordinate (L1, elastic net,
      non-negative L1, any weights), "working_set" walks the path on the columns that matter and
      lands exactly on each strength; for squared error it does so with prices per group too
      (GroupL1, for several responses as well, and SparseGroupL1). For squared error "covariance"
      does so on the Gram matrix of all columns (n ≫ p), and "homotopy" also keeps every knot of a
      piecewise linear path, in `path.knots`. "sequential" starts each fit from the one before;
      "parallel" fits all as one batch, for accelerators. "auto" takes the first that can; on an
      accelerator it walks where n or p is at most 600, and takes "parallel" for all else.

    All other arguments and errors as for `fit`; `max_steps` is per fit. Returns a `Path`.

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
    inputs = read(X, y, pen, loss, sample_weight, offset, *others, has_strength=False)
    pen, loss = inputs.pen, inputs.loss
    if engine not in ("auto", *ENGINES):
        raise ValueError(f"engine must be one of {['auto', *ENGINES]}, got {engine!r}.")
    tol_is_given, tol = tol is not None, check_tol(tol, inputs.x.dtype)
    max_steps = check_max_steps(max_steps)
    if resume is not None:
        check_resume(resume, lams)
        if is_traced((inputs.x, inputs.y, inputs.weights, inputs.offset, pen)):
            raise ValueError(
                "resume needs concrete data: it cannot be taken up inside jit or vmap."
            )
        resume = resume.descending()
        lams = np.asarray(resume.lams)
    grid = check_grid(lams, n_lams, lam_min_ratio)
    with precision(inputs.wants_x64):
        data = data_of(inputs, loss, fit_intercept, standardize)
        pen_now = frozen(pen)
        problem, columns = lay_out(frozen(data), pen_now, engine)
        grid = make_grid(problem, pen, grid, n_lams, lam_min_ratio, inputs.x.shape)
        lams_now = frozen(grid)
        start = start_point(problem, frozen(init))
        # A derivative is that of a solution.
        lines = tol_is_given and not is_differentiable((data, pen, grid))
        run = engine_for(choose_engine(engine, problem, pen_now), columns, lines)
        limits = (tol, max_steps, inputs.names, progress)
        keep = not is_traced((data, pen, grid, start, tol, max_steps))
        options = options_of(inputs, data, problem, sample_weight, offset, keep)
        if resume is None:
            found = run(problem, pen_now, lams_now, start, *limits)
        else:
            check_same_options(resume.fits, loss, options)
            found = _resumed(run, resume, problem, pen_now, lams_now, start, *limits)
        fits = found.fits
        if is_differentiable((data, pen, grid)):
            _raise_if_interrupted(fits)  # a part has no derivative
            given = in_given_columns(problem, frozen(data), pen_now)
            fits = _differentiable(fits, given, data, pen, grid)
        found = dataclasses.replace(found, fits=shared(fits, loss, options))
        result = give_back(found, inputs.wants_x64)
    warn_if_short(result.status, result.fits, tol)
    return result


def _sequential(
    problem: Problem,
    pen: Penalty,
    lams: Float[Array, " L"],
    start: Point,
    tol: Any,
    max_steps: Any,
    names: Any,
    progress: bool | None,
    known: Known | None = None,
    starts: Point | None = None,
) -> Path:
    """One strength after the other, each from the solution before it, or from its own of `starts`."""
    del known  # `start` is the same solution
    leaves = jax.tree.leaves((problem, pen, lams, start, tol, max_steps))
    if any(isinstance(leaf, Tracer) for leaf in leaves):
        return Path(_scan(problem, pen, lams, start, tol, max_steps, names))
    problem = estimate_smoothness(problem, pen)
    fits: list[Fit] = []
    with progress_bar(len(lams), progress) as bar:
        try:
            for i, lam in enumerate(np.asarray(lams)):
                pen_at = pen.with_strength(lam)
                if starts is not None:
                    start = jax.tree.map(operator.itemgetter(i), starts)
                solved = solve_best(problem, pen_at, start, tol, max_steps, names)
                one, start = jax.block_until_ready(solved)  # else the loop would run ahead
                fits.append(one)
                advance(bar, 1, lam, one.n_nonzero, one.relative_gap)
        except KeyboardInterrupt:
            if not fits:
                raise
    done, missing = len(fits), len(lams) - len(fits)

    def stack(*leaves: Array) -> Array:  # on the host: there is nothing to compile
        return jnp.asarray(np.stack([np.asarray(leaf) for leaf in leaves + missing * leaves[-1:]]))

    all_ = dataclasses.replace(jax.tree.map(stack, *fits), lam=lams)
    return Path(unreached(all_, np.arange(len(lams)) >= done) if missing else all_)


def _raise_if_interrupted(fits: Fit) -> None:
    if not is_traced(fits.status) and Status.INTERRUPTED in np.asarray(frozen(fits.status)):
        raise KeyboardInterrupt


def _differentiable(fits: Fit, problem: Problem, data: Data, pen: Penalty, lams: Array) -> Fit:
    """The fits with their derivatives: one after the other, or as one batch where they are traced."""

    def lane(one: Fit, lam: Array) -> Fit:
        return differentiable_fit(one, problem, data, pen.with_strength(lam))

    if is_traced((fits, problem, data, pen, lams)):
        return jax.vmap(lane)(fits, lams)
    arrays = jax.tree.map(np.asarray, fits)
    moving = [
        moving_parts(lane(jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i]), arrays), lams[i]))
        for i in range(len(lams))
    ]
    return with_parts(fits, _stack(moving))


@jax.jit
def _stack(trees: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def shared(fits: Fit, loss: Loss, options: FitOptions | None) -> Fit:
    """The batch with one loss and one record of options for all of it, not one per lane."""
    return dataclasses.replace(fits, loss=loss, options=options)


@eqx.filter_jit
def _scan(problem, pen, lams, start, tol, max_steps, names) -> Fit:
    problem = with_smoothness(problem, pen)

    def step(start: Point, lam: Array) -> tuple[Point, Fit]:
        pen_at = pen.with_strength(lam)
        one, start = solve_and_report(problem, pen_at, start, tol, max_steps, names)
        return start, one

    return jax.lax.scan(step, start, lams)[1]


def _parallel(
    problem, pen, lams, start, tol, max_steps, names, progress, known: Known | None = None
) -> Path:
    """All strengths as one batch, in which finished lanes are frozen."""
    del progress, known
    return Path(batch(problem, pen, lams, start, tol, max_steps, names))


@eqx.filter_jit
def batch(problem, pen, lams, start, tol, max_steps, names) -> Fit:
    """The fits at all strengths, as lanes of one `vmap`."""
    problem = with_smoothness(problem, pen)

    def lane(lam: Array) -> Fit:
        pen_at = pen.with_strength(lam)
        return solve_and_report(problem, pen_at, start, tol, max_steps, names)[0]

    return jax.vmap(lane)(lams)


def walking(
    whole: bool | None = None,
    keep_knots: bool = False,
    columns: GramColumns | None = None,
    lines: bool = False,
) -> Callable[..., Path]:
    """An engine that walks; what it leaves short of `tol` is solved by gradient steps.

    `columns`: of squared error, where their Gram matrix is known. `lines`: whether strengths may lie
    on lines between those that are solved, where that is enough for `tol`; what it leaves short of it
    is walked again without.
    """

    def engine(
        problem, pen, lams, start, tol, max_steps, names, progress, known: Known | None = None
    ) -> Path:
        biggest = float(compiled_lambda_max(problem, pen))
        grid = np.asarray(lams, np.float64)
        walked = walk(
            problem,
            pen,
            grid,
            biggest,
            progress,
            whole,
            keep_knots,
            columns,
            known,
            may_stop=True,
            keep_gradients=True,
            gap=_CAUTION * float(tol) if lines and not isinstance(tol, Tracer) else None,
        )
        if walked.interrupted and not walked.num_solved:
            raise KeyboardInterrupt
        try:
            fits = jax.block_until_ready(report_path(problem, pen, lams, walked, tol, names))
        except KeyboardInterrupt:  # all is solved, and soon certified
            fits = report_path(problem, pen, lams, walked, tol, names)
        if walked.interrupted:
            return Path(unreached(fits, np.arange(len(lams)) >= walked.num_solved))
        short = np.flatnonzero(np.asarray(fits.status) != Status.CONVERGED)
        if len(short):
            is_lost = walked.num_solved < len(lams)
            rest = (problem, pen, lams[short], start, tol, max_steps, names, progress)
            if lines and not is_lost:
                again = walking(whole, columns=columns)(*rest)
            else:  # what was found is near, if not near enough
                near = walked.betas[short], walked.intercepts[short]
                near = Point(*(jnp.asarray(part, problem.y.dtype) for part in near))
                again = _sequential(*rest, starts=near)
            fits = _with_some(fits, short, again.fits)
        complete = keep_knots and not len(short) and known is None
        return Path(fits, _knots(problem, walked, biggest, grid) if complete else None)

    return engine


def _resumed(
    run: Callable[..., Path], resume: Path, problem: Problem, pen: Penalty, lams: Array, start: Point,
    tol: Any, max_steps: Any, names: Any, progress: bool | None,
) -> Path:  # fmt: skip
    """An earlier path, certified anew; an engine solves what is missing, from the fit before it."""
    points = known_points(resume, problem)
    betas, intercepts, steps = map(np.asarray, (points.beta, points.intercept, resume.num_steps))
    solved = PathSolution(betas, intercepts, steps, len(lams), [])
    fits = report_path(problem, pen, lams, solved, tol, names)
    missing = np.flatnonzero(np.asarray(fits.status) != Status.CONVERGED)
    if not len(missing):
        return Path(fits, resume.knots)
    last, known = int(missing[0]) - 1, None
    if last >= 0:
        start = jax.tree.map(operator.itemgetter(last), points)
        if fits.relative_kkt[last] <= jnp.finfo(start.beta.dtype).eps ** 0.75:
            known = Known(
                float(lams[last]), start
            )  # exact enough for a walk to start from its face
    again = run(problem, pen, lams[missing], start, tol, max_steps, names, progress, known)
    return Path(_with_some(fits, missing, again.fits))


def _with_some(fits: Fit, some: np.ndarray, others: Fit) -> Fit:
    """The fits, with those at the indices `some` replaced."""
    return jax.tree.map(lambda all_, new: jnp.asarray(all_).at[some].set(new), fits, others)


def _knots(problem: Problem, walked: PathSolution, critical: float, lams: np.ndarray) -> Knots:
    """The knots on the user's scale, between the start of the path and the end of the grid."""
    null = np.asarray(problem.null.point.beta)
    ends = [Knot(max(critical, lams[0]), np.flatnonzero(null), null[null != 0])]
    last = np.flatnonzero(walked.betas[-1])
    ends.append(Knot(lams[-1], last, walked.betas[-1][last]))
    all_ = [ends[0], *walked.knots, ends[1]]
    betas = np.zeros((len(all_), len(null)))
    for row, knot in zip(betas, all_, strict=True):
        row[knot.features] = knot.values
    dtype = problem.y.dtype
    point = Point(jnp.asarray(betas, dtype), jnp.full(len(all_), walked.intercepts[0], dtype))
    coefs, intercepts = jax.vmap(problem.to_user)(point)
    return Knots(jnp.asarray([knot.lam for knot in all_], dtype), coefs, intercepts)


def choose_engine(engine: str, problem: Problem, pen: Penalty) -> str:
    """The engine for a shape, where the choice is left to us; or the one asked for, if it can."""
    if engine in ("covariance", "homotopy"):
        walks("working_set", problem, pen, name=engine)
        if not problem.loss.is_quadratic:
            raise ValueError(f'engine="{engine}" needs SquaredError, got {problem.loss}.')
        if engine == "homotopy" and not has_knots(problem, pen):
            raise ValueError(
                'engine="homotopy" needs a path that is straight between its knots: L1 or '
                'NonNegativeL1, with any weights. For others use engine="working_set".'
            )
        return engine
    if walks(engine, problem, pen):
        return "working_set"
    if engine == "auto":
        return "sequential" if jax.default_backend() == "cpu" else "parallel"
    return engine


# An engine takes (problem, penalty, strengths, start, tol, max_steps, names, progress) and returns
# a path.
ENGINES: dict[str, Callable[..., Path]] = {
    "working_set": walking(),
    "covariance": walking(whole=True),
    "homotopy": walking(keep_knots=True),
    "sequential": _sequential,
    "parallel": _parallel,
}


def engine_for(
    engine: str, columns: GramColumns | None, lines: bool = False
) -> Callable[..., Path]:
    """The engine of this name; one that walks takes the columns whose Gram matrix is known.

    `lines` as for `walking`; one that keeps the knots has all strengths from them.
    """
    if engine not in WALKS or (columns is None and not lines):
        return ENGINES[engine]
    keep_knots = engine == "homotopy"
    whole = True if engine == "covariance" or columns is not None else None
    return walking(whole, keep_knots, columns, lines and not keep_knots)
