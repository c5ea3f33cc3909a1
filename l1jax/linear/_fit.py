"""`fit` and `lambda_max`: one penalised linear model, and the strength at which nothing is left of it."""

from __future__ import annotations

import dataclasses
import operator
import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._checks import show_shape
from .._status import Status, convergence_warning
from .._tracing import frozen, is_differentiable, is_traced
from .._types import AnyArray
from ..losses import Loss, SquaredError
from ..penalties import Penalty
from .data._inputs import (
    Inputs,
    check_max_steps,
    check_tol,
    give_back,
    precision,
    read,
)
from .derivatives._differentiable import differentiable_fit, differentiable_gradient
from .engines._gradient import solve
from .engines.active_set._gram_compression import compress
from .engines.active_set._working_set import follow_to, supports
from .host._columns import GramColumns
from .host._entry_point import entry_point
from .model._null_model import compiled_lambda_max, prepare
from .model._problem import Data, Outcome, Point, Problem, with_smoothness
from .model._unpenalised_basis import in_orthonormal_basis
from .results._certified import report, report_one
from .results._fit import Fit
from .results._options import options_of

_SQUARED_ERROR = SquaredError()
WALKS = ("working_set", "covariance", "homotopy")
_LARGEST_FACE = 600  # up to which a walk on the host is faster than an accelerator's gradient steps


@entry_point
def fit(
    X: Any,
    y: Any,
    pen: Penalty,
    *,
    loss: Loss = _SQUARED_ERROR,
    fit_intercept: bool = True,
    standardize: bool = False,
    sample_weight: Any = None,
    offset: Any = None,
    init: Any = None,
    tol: Any = None,
    max_steps: Any = 20_000,
    engine: str = "auto",
) -> Fit:
    """Fits a penalised linear model, and certifies what it returns.

        minimise over (β, b):   Σᵢ sᵢ loss(yᵢ, xᵢᵀβ + b + offsetᵢ) + R(β),    Σᵢ sᵢ = 1

    **Arguments:**

    - `X` (n, p): an array, a DataFrame (its column names are kept), scipy.sparse or BCOO (never
      densified).
    - `y` (n,), or (n, k) for k responses: the targets; for `Cox` the columns (time, event). A table of
      one column is (n,); an array (n, 1) is a matrix of one response, with coefficients (p, 1).
    - `pen`: a penalty with its strength.
    - `loss`: `SquaredError`, `Logistic` (y in {0, 1}), `Multinomial` (0 … K−1), `SquaredHinge`,
      `Poisson` (counts), `Cox` (survival times), `Huber`, or your own.
    - `fit_intercept`: whether b is fitted; it is never penalised.
    - `standardize`: the penalty refers to σⱼβⱼ, with σⱼ the weighted 1/n deviation of column j.
      Coefficients are reported on the scale of X.
    - `sample_weight` (n,): ≥ 0, normalised to sum one.
    - `offset` (n,): added to the linear predictor.
    - `init`: a `Fit`, or coefficients, to start from.
    - `tol`: bounds the relative gap (where there is none, the relative kkt); 1e-6 in float64 and
      1e-4 in float32 unless given.
    - `max_steps`: of FISTA.
    - `engine`: "working_set" walks there from λmax on the columns that matter, and lands exactly
      (concrete data; one response and penalties with a price per coordinate such as L1, or squared
      error and a price per group such as GroupL1); "fista" takes gradient steps and serves
      everything; "auto" takes the first that can.

    Returns a `Fit`. Works under `jit` and `vmap`, over any of its arrays, and under `jax.grad`, `jvp`
    and `hessian` with respect to any: X, y, weights, offset, the numbers in pen and loss.
    Derivatives follow from the optimality conditions, not from the steps; at a strength where the
    active set changes they are those of one side. `init` and `tol` have none.

    Raises: ValueError or TypeError that names the argument, before any work. Traced values cannot
    be checked: they give the status `INVALID_INPUT` and NaN. Warns: `ConvergenceWarning` if an
    eager solve ends short of `tol`.

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> X, y = jnp.array([[-1.0], [0.0], [1.0]]), jnp.array([-1.0, 0.0, 1.0])
    >>> fit = l1jax.fit(X, y, l1jax.L1(0.5), fit_intercept=False)
    >>> print(fit.coef, l1jax.Status(int(fit.status)).name)
    [0.25] CONVERGED

    ```
    """
    if engine not in ("auto", "working_set", "fista"):
        raise ValueError(
            f'engine must be "auto", "working_set" or "fista" for one fit, got {engine!r}.'
        )
    inputs = read(X, y, pen, loss, sample_weight, offset, init, tol, max_steps)
    pen, loss = inputs.pen, inputs.loss
    tol = check_tol(tol, inputs.x.dtype)
    max_steps = check_max_steps(max_steps)
    with precision(inputs.wants_x64):
        data = data_of(inputs, loss, fit_intercept, standardize)
        pen_now = frozen(pen)
        problem, columns = lay_out(frozen(data), pen_now, engine)
        start = start_point(problem, frozen(init))
        result = None
        if engine == "auto" and is_trivial(problem):
            result = _at_null(problem, pen_now, tol, inputs.names)
        elif walks(engine, problem, pen_now):
            result = _walked(problem, pen_now, tol, inputs.names, columns)
        if result is None or result.status != Status.CONVERGED:
            problem = estimate_smoothness(problem, pen_now)
            if result is not None:  # short of `tol`, but near
                start = problem.start_from(jnp.asarray(result.coef), jnp.asarray(result.intercept))
            result, _ = solve_best(problem, pen_now, start, tol, max_steps, inputs.names)
        if is_differentiable((data, pen)):
            given = in_given_columns(problem, frozen(data), pen_now)
            result = differentiable_fit(result, given, data, pen)
        options = options_of(inputs, data, problem, sample_weight, offset, not is_traced(result))
        result = give_back(dataclasses.replace(result, options=options), inputs.wants_x64)
    warn_if_short(result.status, result, tol)
    return result


@entry_point
def lambda_max(
    X: Any,
    y: Any,
    pen: Penalty,
    *,
    loss: Loss = _SQUARED_ERROR,
    fit_intercept: bool = True,
    standardize: bool = False,
    sample_weight: Any = None,
    offset: Any = None,
) -> AnyArray:
    """λmax: the least strength at which no penalised feature is in the model.

    For the lasso max_j |x̃ⱼᵀ(s∘r)|/wⱼ with r the residual of the null model (intercept, offset and
    unpenalised features). Arguments and errors as for `fit`; the penalty's own strength is not
    used. Infinite for a penalty without a corner. A feature of weight 0 that must be non-negative
    is no part of the null model: at λmax its gradient is counted as if it were out.

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> X, y = jnp.array([[-1.0], [0.0], [1.0]]), jnp.array([-3.0, 0.0, 3.0])
    >>> float(l1jax.lambda_max(X, y, l1jax.L1()))
    2.0

    ```
    """
    inputs = read(X, y, pen, loss, sample_weight, offset, has_strength=False)
    pen, loss = inputs.pen, inputs.loss
    with precision(inputs.wants_x64):
        problem = prepare_inputs(inputs, pen, loss, fit_intercept, standardize)
        data = data_of(inputs, loss, fit_intercept, standardize)
        if is_differentiable((data, pen)):
            given = in_given_columns(problem, frozen(data), frozen(pen))
            gradient = differentiable_gradient(given, data, pen)
            problem = eqx.tree_at(lambda q: q.null.gradient, problem, gradient)
        return give_back(compiled_lambda_max(problem, pen), inputs.wants_x64)


def walks(engine: str, problem: Problem, pen: Penalty, name: str = "working_set") -> bool:
    """Whether the engine asked for is the walk, or the choice is left to us and it is the best."""
    if engine == "working_set":
        if not supports(problem, pen):
            raise ValueError(
                f'engine="{name}" needs concrete data, and a penalty with prices per coordinate '
                "such as L1 (one response) or, for SquaredError, per group such as GroupL1; leave "
                'engine="auto" for all else.'
            )
        return True
    return engine == "auto" and may_walk(engine, problem.x.shape) and supports(problem, pen)


def may_walk(engine: str, shape: tuple[int, int]) -> bool:
    """Whether data of this shape go to the host: beside an accelerator only where no face can be large."""
    is_near = jax.default_backend() == "cpu" or min(shape) <= _LARGEST_FACE
    return engine in WALKS or (engine == "auto" and is_near)


def is_trivial(problem: Problem) -> bool:
    """Whether the data are concrete, and the null model explains them to rounding."""
    return not is_traced(problem) and bool(problem.null.is_trivial)


def _at_null(problem: Problem, pen: Penalty, tol: Any, names: Any) -> Fit:
    """The null model, certified."""
    converged = jnp.asarray(Status.CONVERGED, jnp.int32)
    outcome = Outcome(problem.null.point, jnp.zeros((), jnp.int32), converged)
    return report_one(problem, pen, outcome, tol, names)


def _walked(
    problem: Problem, pen: Penalty, tol: Any, names: Any, columns: GramColumns | None
) -> Fit | None:
    """What the walk finds, certified; None where it loses its way."""
    lam = float(np.asarray(pen.strength_value))
    found = follow_to(problem, pen, lam, float(compiled_lambda_max(problem, pen)), columns)
    if not found.num_solved:
        return None
    dtype = problem.y.dtype
    point = Point(jnp.asarray(found.betas[0], dtype), jnp.asarray(found.intercepts[0], dtype))
    steps = jnp.asarray(found.num_steps[0], jnp.int32)
    outcome = Outcome(point, steps, jnp.asarray(Status.CONVERGED, jnp.int32))
    return report_one(problem, pen, outcome, tol, names)


def lay_out(data: Data, pen: Penalty, engine: str) -> tuple[Problem, GramColumns | None]:
    """The problem; and where least squares is tall and walked, its Gram matrix in place of its rows."""
    found = compress(data, pen) if may_walk(engine, data.x.shape) else None
    if found is not None and in_orthonormal_basis(data, found[0]) is None:
        return found
    return _prepare(data, pen), None


def prepare_inputs(
    inputs: Inputs, pen: Penalty, loss: Loss, fit_intercept: bool, standardize: bool
) -> Problem:
    """The problem, as a constant to derivatives: they go through the data as they were given."""
    data = data_of(inputs, loss, fit_intercept, standardize)
    return _prepare(frozen(data), frozen(pen))


def _prepare(data: Data, pen: Penalty) -> Problem:
    """The problem, with unpenalised columns that are nearly collinear in a basis of their own."""
    problem = _prepare_as_given(data, pen)
    changed = in_orthonormal_basis(data, problem)
    if changed is None:
        return problem
    data, basis = changed
    return dataclasses.replace(_prepare_as_given(data, pen), basis=basis)


def in_given_columns(problem: Problem, data: Data, pen: Penalty) -> Problem:
    """The problem without a basis of its own, of which derivatives by the data know nothing."""
    return problem if problem.basis is None else _prepare_as_given(data, pen)


def _prepare_as_given(data: Data, pen: Penalty) -> Problem:
    """The problem, compiled; columns that stay as they are are not copied."""
    data = dataclasses.replace(data, x=jax.device_put(data.x))
    problem = _all_but_kept_columns(data, pen)
    return problem if problem.x is not None else dataclasses.replace(problem, x=data.x)


@eqx.filter_jit
def _all_but_kept_columns(data: Data, pen: Penalty) -> Problem:
    problem = prepare(data, pen)
    before, after = jax.tree.leaves(data.x), jax.tree.leaves(problem.x)
    is_kept = len(before) == len(after) and all(map(operator.is_, before, after))
    return dataclasses.replace(problem, x=None) if is_kept else problem


def data_of(inputs: Inputs, loss: Loss, fit_intercept: bool, standardize: bool) -> Data:
    for name, value in (("fit_intercept", fit_intercept), ("standardize", standardize)):
        if not isinstance(value, bool | np.bool_):
            raise TypeError(f"{name} must be True or False, got {value!r}.")
    return Data(
        inputs.x,
        inputs.y,
        inputs.weights,
        inputs.offset,
        loss,
        fit_intercept=bool(fit_intercept),
        standardize=bool(standardize),
    )


def start_point(problem: Problem, init: Any) -> Point:
    """The null model, or what the user gives: a `Fit`, or coefficients."""
    if init is None:
        return problem.null.point
    if isinstance(init, Fit):
        coef, intercept = init.coef, init.intercept
    else:
        coef, intercept = init, problem.null.point.intercept
    shape = problem.coef_shape
    coef = coef if hasattr(coef, "dtype") else np.asarray(coef)
    if np.shape(coef) != shape or coef.dtype.kind not in "fiu":
        raise ValueError(
            f"init must be a Fit or coefficients of shape {shape}, got {show_shape(coef)}."
        )
    if not is_traced(coef) and not np.isfinite(np.asarray(coef)).all():
        raise ValueError("init must be finite.")
    dtype = problem.y.dtype
    return problem.start_from(jnp.asarray(coef, dtype), jnp.asarray(intercept, dtype))


def solve_and_report(
    problem: Problem, pen: Penalty, start: Point, tol: Any, max_steps: Any, names: Any
) -> tuple[Fit, Point]:
    """The traced solver: the fit, and the point on the solver's scale to start the next one from."""
    # Traced arguments may be such as an eager call refuses.
    finite = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(start)]
    valid = jnp.stack([problem.is_valid, pen.is_valid(), tol >= 0, max_steps >= 1, *finite]).all()
    problem = eqx.tree_at(lambda q: q.is_valid, problem, valid)
    outcome = solve(problem, pen, start, tol, max_steps)
    return report(problem, pen, outcome, tol, names), outcome.point


_ADVICE = {
    Status.MAX_STEPS: "Raise max_steps (max_iter of an estimator), standardise the columns, or accept "
    "a larger tol.",
    Status.PRECISION_LIMIT: "Rounding allows no more: standardise the columns or accept a larger tol.",
    Status.NOT_FINITE: "Objective and gradient overflow: bring the columns to smaller scales.",
    Status.INVALID_INPUT: "Some argument holds a value that fit refuses, such as a negative or NaN "
    "strength, weight or tol.",
    Status.INTERRUPTED: "To go on where it was stopped: l1jax.path(X, y, pen, resume=path), "
    "with the options that it was fitted with.",
}

solve_one = eqx.filter_jit(solve_and_report)
estimate_smoothness = eqx.filter_jit(with_smoothness)


def solve_best(
    problem: Problem, pen: Penalty, start: Point, tol: Any, max_steps: Any, names: Any
) -> tuple[Fit, Point]:
    """As `solve_one`; where float32 is too short for `tol` and the call is eager, in float64."""
    found, point = solve_one(problem, pen, start, tol, max_steps, names)
    if is_traced(found.status) or problem.y.dtype == np.float64:
        return found, point
    if found.status == Status.PRECISION_LIMIT:
        with jax.enable_x64(True):
            data, price, begin, limit = jax.tree.map(_doubled, (problem, pen, point, tol))
            longer = _solve_and_round(data, price, begin, limit, max_steps, names)
            longer = jax.tree.map(_halved, longer)
        if longer.status == Status.CONVERGED or longer.relative_gap < found.relative_gap:
            return longer, point
    return found, point


@eqx.filter_jit
def _solve_and_round(
    problem: Problem, pen: Penalty, start: Point, tol: Any, max_steps: Any, names: Any
) -> Fit:
    """A fit in float64, certified at its coefficients as float32 holds them."""
    outcome = solve(problem, pen, start, tol, max_steps)
    coef, intercept = jax.tree.map(_rounded, problem.to_user(outcome.point))
    rounded = Outcome(problem.from_user(coef, intercept), outcome.num_steps, outcome.status)
    return report(problem, pen, rounded, tol, names)


def _doubled(leaf: Any) -> Any:
    is_short = getattr(leaf, "dtype", None) == np.float32
    return np.asarray(leaf, np.float64) if is_short else leaf


def _halved(leaf: Any) -> Any:
    is_long = getattr(leaf, "dtype", None) == np.float64
    return jnp.asarray(np.asarray(leaf, np.float32)) if is_long else leaf


def _rounded(value: Array) -> Array:
    return value.astype(jnp.float32).astype(value.dtype)


def warn_if_short(status: Any, result: Any, tol: Any, if_interrupted: str = "") -> None:
    """Says once that some solve ended short of its tolerance, where the call is eager."""
    if is_traced(status):
        return
    statuses = np.atleast_1d(np.asarray(status))
    short = np.flatnonzero(statuses != Status.CONVERGED)
    if not len(short):
        return
    first = int(short[0])
    status = Status(int(statuses[first]))
    objective = np.atleast_1d(np.asarray(getattr(result, "objective", 0.0)))
    what = f"{len(short)} of {len(statuses)} fits" if len(statuses) > 1 else "The fit"
    measures = {"relative gap": result.relative_gap, "relative kkt": result.relative_kkt}
    where, advice = "", _ADVICE[status]
    if status == Status.PRECISION_LIMIT and np.asarray(result.relative_gap).dtype != np.float64:
        advice += " float64 has more digits."
    if status == Status.PRECISION_LIMIT and np.isposinf(objective[min(first, objective.size - 1)]):
        advice = (
            "The penalty is infinite at what its prox returns: let the value of a constraint be 0, and "
            "its `violation` say how far a point is outside."
        )
    if status == Status.INTERRUPTED:
        measures, advice = {}, if_interrupted or advice
    for name, values in measures.items():
        value = np.atleast_1d(np.asarray(values))[first]
        if value > tol and np.isfinite(value):
            where = f" at a {name} of {value:.1e}, above tol={float(tol):.1e}"
            break
    warnings.warn(
        f"{what} ended with {status.name}{where}. {advice}",
        convergence_warning(),
        stacklevel=5,  # two frames of `entry_point` are between this call and the user's
    )
