"""The relaxed lasso: between each fit of a path and the fit of its features without a penalty."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy  # which loads `linalg` when it is used

from ..._checks import check_number
from ..._compile import program
from ..._status import Status
from ..data._inputs import read
from ..data._precision import give_back, precision
from ..engines.active_set._host_loss import HostLoss
from ..host._columns import Columns
from ..host._entry_point import entry_point
from ..host._sparse_rows import (
    Coefs,
    SparseRows,
    as_rows,
    concatenated,
    dense,
    parts_of,
    take,
    used,
)
from ..model._prepare import prepare_inputs
from ..model._problem import Point, Problem
from ..results._fit import Fit
from ..results._fitted_with import options_for
from ..results._path import Path
from ..results._records import check_of_these_data
from ..results._warning import warn_if_short
from ._information import NO_PRICE

_STEPS = 50  # of Newton
_HALVINGS = 30
_ENOUGH = 1e-10  # of the null model's gradient


@entry_point
def relax(
    path: Any,
    X: Any,
    y: Any,
    gamma: Any = 0.0,
    *,
    fit_intercept: bool | None = None,
    sample_weight: Any = None,
    offset: Any = None,
) -> Path:
    """The path with coefficients γβ + (1 − γ)β̂, where β̂ fits the same features without a penalty.

    `gamma` in [0, 1]: 1 is the path itself, 0 its unpenalised fits. `X` and `y`: those of the path,
    whose `fit_intercept`, `sample_weight` and `offset` are taken unless they are passed. β̂ is
    found by Newton's method for the loss of the path, of one response; of dependent columns the
    least step is taken. Such a model minimises no objective: its objective, gap and kkt are NaN,
    its `deviance_explained` is recomputed. Where β̂ does not exist (separable labels) it is taken
    from far out, where the gradient has vanished.

    Raises: ValueError or TypeError that names the argument.

    Source: Meinshausen (2007); Hastie, Tibshirani, Tibshirani (2020); glmnet's `relax`.

    **Example:**

    ```python
    >>> import l1jax
    >>> from sklearn.datasets import load_diabetes
    >>> X, y = load_diabetes(return_X_y=True)
    >>> path = l1jax.path(X, y, l1jax.L1(), n_lams=10)
    >>> relaxed = l1jax.relax(path, X, y)
    >>> bool((relaxed.deviance_explained >= path.deviance_explained - 1e-12).all())
    True

    ```
    """
    if not isinstance(path, Path):
        raise TypeError(f"path must be an l1jax Path, got {type(path).__name__}.")
    (gamma,) = check_gammas([gamma])
    passed = {"fit_intercept": fit_intercept, "sample_weight": sample_weight, "offset": offset}
    options = options_for(path.fits, "path", X, **passed)
    inputs = read(X, y, NO_PRICE, path.fits.loss, options.sample_weight, options.offset)
    with precision(inputs.wants_x64):
        problem = prepare_inputs(inputs, inputs.pen, inputs.loss, options.fit_intercept, False)
        check_of_these_data(path, problem.coef_shape)
        (fits,) = relaxed(problem, path.fits, (gamma,))
        fits = dataclasses.replace(fits, options=options)
        found = give_back(Path(fits), inputs.wants_x64)
    warn_if_short(found.status, found.fits, np.nan)
    return found


def check_gammas(gammas: Any) -> tuple[float, ...]:
    """Returns the fractions of the penalised fit. Raises: ValueError outside of [0, 1]."""
    gammas = tuple(float(check_number(gamma, "gamma", 0)) for gamma in np.atleast_1d(gammas))
    if not gammas or max(gammas) > 1:
        raise ValueError(f"gamma must lie in [0, 1], got {gammas}.")
    return gammas


def relaxed(problem: Problem, fits: Fit, gammas: tuple[float, ...]) -> list[Fit]:
    """Returns the fits of a path, relaxed to each fraction γ of the penalised fit."""
    if gammas == (1.0,):
        return [fits]
    other = unpenalised(problem, fits)
    return [blend(problem, fits, other, gamma) for gamma in gammas]


class Unpenalised(NamedTuple):
    """The unpenalised fits of the features of each fit of a path, on the user's scale."""

    coefs: Coefs  # (L, p), kept as those of the path are
    intercepts: np.ndarray  # (L,)
    statuses: np.ndarray  # (L,)


def unpenalised(problem: Problem, fits: Fit) -> Unpenalised:
    """Returns the unpenalised fits of the features of each fit."""
    if problem.y.ndim > 1 or fits.several_responses:
        raise ValueError("A relaxed path needs one response.")
    newton = _Newton(problem)
    at, coefs = used(fits.stored_coef)
    found: dict[bytes, tuple] = {}
    rows = []
    for coef, intercept in zip(coefs, np.asarray(fits.intercept), strict=True):
        key = (coef != 0).tobytes()
        if key not in found:
            row = np.zeros(problem.coef_shape, coefs.dtype)
            row[at] = coef
            solved, level, status = newton.solve(row, float(intercept))
            found[key] = np.asarray(solved)[at], float(level), status
        rows.append(found[key])
    solved, intercepts, statuses = (np.stack([row[i] for row in rows]) for i in range(3))
    return Unpenalised(_kept_as(fits.stored_coef, at, solved), intercepts, statuses)


def _kept_as(coefs: Coefs, at: np.ndarray, values: np.ndarray) -> Coefs:
    """Returns coefficients, `values` (L, m) of the features `at` (m,), kept as others are."""
    if isinstance(coefs, SparseRows):
        rows = [(at[row != 0], row[row != 0]) for row in values]
        return SparseRows.of_rows(rows, coefs.shape[1:], values.dtype)
    out = np.zeros(coefs.shape, values.dtype)
    out[:, at] = values
    return out


def blend(problem: Problem, fits: Fit, other: Unpenalised, gamma: float) -> Fit:
    """Returns γ times the fits plus 1 − γ times the others."""
    if gamma == 1:
        return fits
    dtype = problem.y.dtype
    both = concatenated([as_rows(part) for part in (fits.stored_coef, other.coefs)])
    at, values = used(both)
    count = len(other.statuses)
    mixed = (gamma * values[:count] + (1 - gamma) * values[count:]).astype(dtype)
    coef = _kept_as(fits.stored_coef, at, mixed)
    if not isinstance(coef, SparseRows):
        coef = jnp.asarray(coef)
    intercept = jnp.asarray(
        gamma * np.asarray(fits.intercept) + (1 - gamma) * other.intercepts, dtype
    )
    nan = jnp.full(count, jnp.nan, dtype)
    parts = [
        _explained(problem, jnp.asarray(dense(take(coef, some))), intercept[some])
        for some in parts_of(coef)
    ]
    return dataclasses.replace(
        fits,
        stored_coef=coef,
        intercept=intercept,
        objective=nan,
        gap=nan,
        relative_gap=nan,
        kkt=nan,
        relative_kkt=nan,
        margin=nan,
        deviance_explained=jnp.concatenate(parts),
        status=jnp.asarray(np.maximum(np.asarray(fits.status), other.statuses), jnp.int32),
    )


@program
def _explained(problem: Problem, coefs: jax.Array, intercepts: jax.Array) -> jax.Array:
    saturated = problem.loss.saturated(problem.y, problem.s)

    def lane(coef: jax.Array, intercept: jax.Array) -> jax.Array:
        deviance = problem.smooth(problem.from_user(coef, intercept)) - saturated
        return problem.null.explained(deviance)

    return jax.vmap(lane)(coefs, intercepts)


class _Newton:
    """Newton's method for the unpenalised fit of some of the columns, on the host."""

    def __init__(self, problem: Problem):
        self.problem, self.columns, self.loss_terms = problem, Columns(problem), HostLoss(problem)
        slope = np.abs(np.asarray(problem.null.gradient)).max(initial=0)
        self.enough = _ENOUGH * float(slope)

    def solve(self, coef: np.ndarray, intercept: float) -> tuple[Any, Any, int]:
        problem = self.problem
        start = problem.from_user(jnp.asarray(coef), jnp.asarray(intercept))
        features = np.flatnonzero(start.beta)
        if not len(features):
            return coef, intercept, int(Status.CONVERGED)
        part = self.columns.matrix.part(self.columns.require(features))
        x = np.append(np.asarray(start.beta, float)[features], float(start.intercept))

        def predictor(x: np.ndarray) -> np.ndarray:
            return part.dot(x[:-1]) + x[-1] + self.loss_terms.offset

        eta = predictor(x)
        value, slope = self.loss_terms.evaluate(eta)
        status = Status.MAX_STEPS
        for _ in range(_STEPS):
            gradient = np.append(part.rdot(slope), slope.sum() * problem.fit_intercept)
            if np.abs(gradient).max() <= self.enough:
                status = Status.CONVERGED
                break
            step = -_solve(self._hessian(part, eta), gradient)
            length, rounding = 1.0, 1e-15 * abs(value)
            for _ in range(_HALVINGS):
                new = predictor(x + length * step)
                lower, new_slope = self.loss_terms.evaluate(new)
                if lower <= value + rounding:
                    break
                length /= 2
            else:
                break
            x, eta, value, slope = x + length * step, new, lower, new_slope
        beta = np.zeros(len(coef))
        beta[features] = x[:-1]
        dtype = problem.y.dtype
        point = Point(jnp.asarray(beta, dtype), jnp.asarray(x[-1], dtype))
        return *problem.to_user(point), int(status)

    def _hessian(self, part: Any, eta: np.ndarray) -> np.ndarray:
        weights = np.maximum(self.loss_terms.curvatures(eta)[0], 0)
        gram = part.gram(weights)
        m = len(gram)
        hessian = np.zeros((m + 1, m + 1))
        hessian[:m, :m] = gram
        if self.problem.fit_intercept:
            hessian[m, :m] = hessian[:m, m] = part.rdot(weights)
            hessian[m, m] = weights.sum()
        else:
            hessian[m, m] = 1.0
        return hessian


def _solve(hessian: np.ndarray, rhs: np.ndarray) -> np.ndarray:
    """Returns the solution of a symmetric system; the least one where there are many."""
    size = np.sqrt(hessian.diagonal())
    size = np.where(size > 0, size, 1)
    scaled = hessian / np.outer(size, size)
    try:
        return scipy.linalg.cho_solve(scipy.linalg.cho_factor(scaled), rhs / size) / size
    except np.linalg.LinAlgError:
        return scipy.linalg.pinvh(scaled) @ (rhs / size) / size
