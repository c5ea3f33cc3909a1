"""`fit` and `lambda_max`: one penalised linear model, and the strength at which nothing is left of it."""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import jax
import numpy as np

from .._arrays import namespace
from .._checks import show_shape
from .._tracing import as_array, frozen, is_differentiable, is_traced
from .._types import AnyArray
from ..losses import Loss, SquaredError
from ..penalties import Penalty
from .data._inputs import read
from .data._precision import check_max_steps, check_tol, give_back, precision
from .data._row_blocks import in_blocks
from .derivatives._differentiable import differentiable_fit, differentiable_gradient
from .engines._engine import Plan, check_engine, choose_engine, prepare_for, solve_plan
from .host._entry_point import entry_point
from .model._null_model import known_lambda_max
from .model._on_host import host_values
from .model._prepare import data_of, in_given_columns, prepare_inputs
from .model._problem import Point, Problem
from .results._fit import Fit, in_jax
from .results._options import options_of, with_passes
from .results._warning import warn_if_short

_SQUARED_ERROR = SquaredError()


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
    max_memory: Any = None,
) -> Fit:
    """Fits a penalised linear model, and certifies what it returns.

        minimise over (β, b):   Σᵢ sᵢ loss(yᵢ, xᵢᵀβ + b + offsetᵢ) + R(β),    Σᵢ sᵢ = 1

    **Arguments:**

    - `X` (n, p): an array, a DataFrame (its column names are kept), a `DataMatrix`, scipy.sparse or BCOO (never
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
    - `max_steps`: the most gradient steps; `num_steps` of the result counts those of the engine that solved it,
      and engines of active sets are not bounded by it.
    - `engine`: the name of one, as for `path`; "auto" takes the one that is preferred for these data.
    - `max_memory`: reads X in blocks of rows, with so much memory for them, as `l1jax.blocks` does: bytes, or
      such as "500MB". Unless given, only large memory maps and what `l1jax.blocks` returns are read so.

    Returns a `Fit`. Works under `jit` and `vmap`, over any of its arrays, and under `jax.grad`, `jvp`
    and `hessian` with respect to any: X, y, weights, offset, the numbers in pen and loss.
    Derivatives follow from the optimality conditions, not from the steps; at a strength where the
    active set changes they are those of one side. `init` and `tol` have none.

    Raises: ValueError or TypeError that names the argument, before anything is solved. Traced values cannot
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
    check_engine(engine)
    X = in_blocks(X, max_memory)
    inputs = read(X, y, pen, loss, sample_weight, offset, init, tol, max_steps)
    pen, loss = inputs.pen, inputs.loss
    tol = check_tol(tol, inputs.x.dtype)
    max_steps = check_max_steps(max_steps)
    with precision(inputs.wants_x64):
        data = data_of(inputs, loss, fit_intercept, standardize)
        pen_now = host_values(frozen(pen))
        problem, gram = prepare_for(engine, frozen(data), pen_now)
        start = start_point(problem, frozen(init))
        lams = _strength_as_grid(pen_now)
        pen_there = problem.on_scale(pen_now)
        plan = Plan(problem, pen_there, lams, start, tol, max_steps, inputs.names, gram=gram)
        result = _only(solve_plan(choose_engine(engine, plan), plan).fits, problem.loss)
        if is_differentiable((data, pen)):
            given = in_given_columns(problem, frozen(data), pen_now)
            result = differentiable_fit(result, given, data, pen)
        options = options_of(inputs, data, problem, sample_weight, offset, not is_traced(result))
        options = with_passes(options, inputs)
        result = in_jax(dataclasses.replace(result, options=options))
        result = give_back(result, inputs.wants_x64)
    warn_if_short(result.status, result, tol)
    return result


def _strength_as_grid(pen: Penalty) -> Any:
    """The strength of a penalty as a grid of one, (1,); NaN where it has none."""
    lam = pen.strength_value
    if isinstance(lam, jax.Array):
        return lam[None]
    return np.reshape(np.asarray(np.nan if lam is None else lam), (1,))


def _only(fits: Fit, loss: Loss) -> Fit:
    """The one fit of a batch of one."""
    fits = dataclasses.replace(fits, loss=None)
    if not is_traced(fits):
        fits = jax.tree.map(np.asarray, fits)
    return dataclasses.replace(jax.tree.map(lambda leaf: leaf[0, ...], fits), loss=loss)


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
        found = known_lambda_max(problem, host_values(pen))
        found = found if isinstance(found, jax.Array) else as_array(found)
        return give_back(found, inputs.wants_x64)


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
    xp = namespace(coef, intercept, problem.y)
    return problem.start_from(xp.asarray(coef, dtype), xp.asarray(intercept, dtype))
