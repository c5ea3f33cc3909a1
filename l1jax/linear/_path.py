"""`path`: the whole grid of strengths, warm-started one after the other or as one batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float
from tqdm import tqdm

from .._derivative import without_derivative
from .._minimize_checks import check_number
from .._status import Status
from ..losses import Loss
from ..penalties import Penalty
from ._fit import (
    _SQUARED_ERROR,
    critical,
    critical_strength,
    estimate_smoothness,
    prepare_inputs,
    remaining_gradient,
    report,
    solve_and_report,
    solve_one,
    start_point,
    walks,
    warn_if_short,
)
from ._inputs import check_max_steps, check_tol, give_back, precision, read, x_dtype
from ._matrix import DenseMatrix
from ._problem import Point, Problem, with_smoothness
from ._results import Fit, Knots, Path
from ._solve import Outcome
from ._state import Knot
from ._working_set import Walk, has_knots, walk


def path(
    X: Any,
    y: Any,
    pen: Penalty,
    *,
    lams: Any = None,
    n_lams: int = 100,
    lam_min_ratio: float | None = None,
    progress: bool | None = None,
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
    - `progress`: show a bar (None: in a terminal).
    - `engine`: on concrete data of one response, with prices per coordinate (L1, elastic net,
      non-negative L1, any weights), "working_set" walks the path on the columns that matter and
      lands exactly on each strength; for squared error "covariance" does so on the Gram matrix of
      all columns (n ≫ p), and "homotopy" also keeps every knot of a piecewise linear path, in
      `path.knots`. "sequential" starts each fit from the one before; "parallel" fits all as one
      batch, for accelerators. "auto" takes the first that can on a CPU, and "parallel" elsewhere.

    All other arguments and errors as for `fit`; `max_steps` is per fit. Returns a `Path`.

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
    tol = check_tol(tol, x_dtype(inputs.x))
    max_steps = check_max_steps(max_steps)
    grid = _check_grid(lams, n_lams, lam_min_ratio)
    with precision(inputs.wants_x64):
        problem = prepare_inputs(inputs, pen, loss, fit_intercept, standardize)
        if grid is None:
            n, p = problem.x.shape
            ratio = lam_min_ratio if lam_min_ratio is not None else (1e-2 if n <= p else 1e-3)
            grid = _automatic_grid(problem, pen, n_lams, float(ratio))
            _check_automatic(grid, pen)
        grid = jnp.asarray(grid, problem.y.dtype)
        start = start_point(problem, init)
        engine = _choose(engine, problem, pen)
        run = ENGINES[engine]
        found = run(problem, pen, grid, start, tol, max_steps, inputs.names, progress)
        found = dataclasses.replace(found, fits=_with_loss(found.fits, loss))
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
) -> Path:
    """One strength after the other, each from the solution before it."""
    leaves = jax.tree.leaves((problem, pen, lams, start, tol, max_steps))
    if any(isinstance(leaf, Tracer) for leaf in leaves):
        return Path(_scan(problem, pen, lams, start, tol, max_steps, names))
    problem = estimate_smoothness(problem, pen)
    disable = None if progress is None else not progress  # None: tqdm shows itself in a terminal
    fits = []
    with tqdm(np.asarray(lams), desc="path", unit="fit", disable=disable, leave=False) as bar:
        for lam in bar:
            pen_at = pen.with_strength(lam)
            one, start = solve_one(problem, pen_at, start, tol, max_steps, names)
            fits.append(one)
    return Path(jax.tree.map(lambda *leaves: jnp.stack(leaves), *fits))


def _with_loss(fits: Fit, loss: Loss) -> Fit:
    """The batch with one loss for all of it, not one per lane."""
    return dataclasses.replace(fits, loss=loss)


@eqx.filter_jit
def _scan(problem, pen, lams, start, tol, max_steps, names) -> Fit:
    lams = without_derivative(lams)
    problem = with_smoothness(problem, pen)

    def step(start: Point, lam: Array) -> tuple[Point, Fit]:
        pen_at = pen.with_strength(lam)
        one, start = solve_and_report(problem, pen_at, start, tol, max_steps, names)
        return start, one

    return jax.lax.scan(step, start, lams)[1]


def _parallel(problem, pen, lams, start, tol, max_steps, names, progress) -> Path:
    """All strengths as one batch, in which finished lanes are frozen."""
    del progress
    return Path(_batch(problem, pen, lams, start, tol, max_steps, names))


@eqx.filter_jit
def _batch(problem, pen, lams, start, tol, max_steps, names) -> Fit:
    lams = without_derivative(lams)
    problem = with_smoothness(problem, pen)

    def lane(lam: Array) -> Fit:
        pen_at = pen.with_strength(lam)
        return solve_and_report(problem, pen_at, start, tol, max_steps, names)[0]

    return jax.vmap(lane)(lams)


def _walking(whole: bool | None = None, keep_knots: bool = False) -> Callable[..., Path]:
    """An engine that walks; what it leaves short of `tol` is solved by gradient steps."""

    def engine(problem, pen, lams, start, tol, max_steps, names, progress) -> Path:
        biggest = float(critical(problem, pen))
        grid = np.asarray(lams, np.float64)
        walked = walk(problem, pen, grid, biggest, progress, whole, keep_knots)
        fits = _report_all(problem, pen, lams, walked, tol, names)
        short = np.flatnonzero(np.asarray(fits.status) != Status.CONVERGED)
        if len(short):
            again = _sequential(problem, pen, lams[short], start, tol, max_steps, names, progress)
            fits = jax.tree.map(lambda all_, some: all_.at[short].set(some), fits, again.fits)
        complete = keep_knots and not len(short)
        return Path(fits, _knots(problem, walked, biggest, grid) if complete else None)

    return engine


def _knots(problem: Problem, walked: Walk, critical: float, lams: np.ndarray) -> Knots:
    """The knots on the user's scale, between the start of the path and the end of the grid."""
    null = np.asarray(problem.null.beta)
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


@eqx.filter_jit
def _report_all(problem, pen, lams, walked, tol, names) -> Fit:
    def lane(inputs: tuple[Array, Array, Array, Array]) -> Fit:
        lam, beta, intercept, num_steps = inputs
        status = jnp.asarray(Status.CONVERGED, jnp.int32)  # unless the certificate says otherwise
        outcome = Outcome(Point(beta, intercept), num_steps, status)
        return report(problem, pen.with_strength(lam), outcome, tol, names)

    dtype = problem.y.dtype
    lanes = (
        lams,
        jnp.asarray(walked.betas, dtype),
        jnp.asarray(walked.intercepts, dtype),
        jnp.asarray(walked.num_steps, jnp.int32),
    )
    # A product with a sparse matrix takes memory for every entry and lane.
    batch = len(lams) if isinstance(problem.x, DenseMatrix) else 4
    return jax.lax.map(lane, lanes, batch_size=batch)


def _choose(engine: str, problem: Problem, pen: Penalty) -> str:
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
    "working_set": _walking(),
    "covariance": _walking(whole=True),
    "homotopy": _walking(keep_knots=True),
    "sequential": _sequential,
    "parallel": _parallel,
}


@eqx.filter_jit
def _automatic_grid(problem: Problem, pen: Penalty, n_lams: int, ratio: float) -> Array:
    biggest = critical_strength(problem, pen)
    # Where nothing is left to explain every strength gives the null model: any grid will do.
    nothing = (biggest == 0) & ~jnp.any(remaining_gradient(problem) != 0)
    biggest = jax.lax.stop_gradient(jnp.where(nothing, 1, biggest))
    powers = jnp.linspace(0, 1, n_lams, dtype=biggest.dtype)
    return biggest * jnp.asarray(ratio, biggest.dtype) ** powers


def _check_automatic(grid: Any, pen: Penalty) -> None:
    if isinstance(grid, Tracer):
        return
    first = float(grid[0])
    if not 0 < first < np.inf:
        why = "no strength at which everything is zero" if first else "a budget, not a price"
        raise ValueError(
            f"{type(pen).__name__} has {why}, so no grid follows from the data: pass lams."
        )


def _check_grid(lams: Any, n_lams: int, ratio: float | None) -> Any:
    """The given grid, checked and in descending order; None if it is to be made."""
    if lams is None:
        if not isinstance(n_lams, int | np.integer) or n_lams < 1:
            raise ValueError(f"n_lams must be a whole number >= 1, got {n_lams!r}.")
        if ratio is not None and not 0 < check_number(ratio, "lam_min_ratio", 0) <= 1:
            raise ValueError(f"lam_min_ratio must lie in (0, 1], got {ratio}.")
        return None
    if isinstance(lams, Tracer):
        if lams.ndim != 1:
            raise ValueError(f"lams must be a vector, got shape {lams.shape}.")
        return -jnp.sort(-lams)
    lams = np.asarray(lams)
    if lams.dtype.kind not in "fiu":
        raise TypeError(f"lams must be numbers, got dtype {lams.dtype}.")
    if lams.ndim != 1 or not len(lams):
        raise ValueError(f"lams must be a vector with at least one entry, got shape {lams.shape}.")
    bad = np.flatnonzero(~((lams >= 0) & np.isfinite(lams)))
    if len(bad):
        raise ValueError(f"lams must be >= 0 and finite, got {lams[bad[0]]} at index {bad[0]}.")
    return -np.sort(-lams.astype(np.float64))
