"""The null model: intercept and unpenalised features only, and what follows from it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..._arrays import eps, is_in_numpy, is_numpy, namespace
from ..._compile import program
from ..._tracing import frozen, is_traced
from ..._types import Real
from ...losses import Loss
from ...penalties import Penalty
from ...penalties._base import Masks, longest_step
from ..data._matrix import rows
from ._problem import (
    ROUNDING,
    Data,
    NullModel,
    Point,
    Problem,
    ScaledData,
    arrange,
    structural_masks,
)
from ._unpenalised_newton import fit_unpenalised, polish_intercept


def prepare(data: Data, pen: Penalty, has_unpenalised: bool = True) -> Problem:
    """The problem on the solver's scale, with its null model; see `fit_null`."""
    return with_null(arrange(data), pen, has_unpenalised)


def with_null(data: ScaledData, pen: Penalty, has_unpenalised: bool = True) -> Problem:
    """The problem of data that are on the solver's scale."""
    return Problem.of(data, fit_null(frozen(data), frozen(pen), has_unpenalised))


def fit_null(data: ScaledData, pen: Penalty, has_unpenalised: bool) -> NullModel:
    """Fits the intercept and the features that are unpenalised at every λ.

    Where it is known that no feature is, compiled code has no part for them.
    """
    y, s, loss = data.y, data.s, data.loss
    xp = namespace(*jax.tree.leaves((y, s, data.norms)))
    zero = xp.zeros(data.coef_shape, y.dtype)
    unpenalised = _structural_masks(pen, zero.shape, xp).unpenalised & rows(data.norms > 0, zero)
    start = Point(zero, xp.zeros(data.responses, y.dtype))
    if xp is jnp and has_unpenalised:
        null = fit_unpenalised(data, start, unpenalised)
    elif xp is jnp or not unpenalised.any():
        null = polish_intercept(data, start)
    else:
        null = jax.tree.map(np.asarray, _fit_unpenalised(data, start, unpenalised))
    eta = data.eta(null)
    rest = _left_to_explain(loss, y, eta, s)
    return NullModel(
        point=null,
        # NumPy may have taken more digits, which compiled code has no room for.
        gradient=xp.asarray(data.x.rdot(loss.gradient(y, eta, s)), y.dtype),
        deviance=xp.asarray(loss.deviance(y, eta, s), y.dtype),
        explains_all=rest <= _rounding(loss, y, eta, s, data.level),
        is_least=_is_least(pen, null.beta),
        unpenalised=unpenalised.reshape(unpenalised.shape[0], -1).all(axis=1),
        has_unpenalised=has_unpenalised,
    )


_fit_unpenalised = program(fit_unpenalised)
_compiled_masks = program(structural_masks)


def _structural_masks(pen: Penalty, shape: tuple[int, ...], xp: Any) -> Masks:
    """Returns the masks; for NumPy those of a penalty whose formulas are JAX's come from a program."""
    if xp is jnp or is_in_numpy(pen):
        return structural_masks(pen, shape, xp)
    return Masks(*map(np.asarray, _compiled_masks(pen, shape)))


def may_have_unpenalised(pen: Penalty, shape: tuple[int, ...]) -> bool:
    """Whether the penalty may leave features unpenalised at every λ: False where it is known that none is."""
    if pen.has_strength:
        pen = pen.with_strength(np.ones(()))
    if is_traced(pen):
        return True
    with jax.ensure_compile_time_eval():
        return bool(np.any(np.asarray(pen.masks(shape).unpenalised)))


def _is_least(pen: Penalty, beta: Real) -> Real:
    """Whether the penalty is least at these coefficients of unpenalised features, at any λ.

    Its prox stays there. One with a linear or a group form always is.
    """
    forms = type(pen).linear_form, type(pen).group_form
    if forms != (Penalty.linear_form, Penalty.group_form):
        return namespace(beta).ones((), bool)
    stays = _prox_stays(pen.with_strength(1.0) if pen.has_strength else pen, beta)
    return np.asarray(stays) if isinstance(beta, np.ndarray) else stays


@program
def _prox_stays(pen: Penalty, beta: Real) -> Real:
    beta = jnp.asarray(beta)
    moved = pen.prox(beta, jnp.minimum(longest_step(pen, beta.dtype), 1))
    return jnp.all(jnp.abs(moved - beta) <= ROUNDING * jnp.finfo(beta.dtype).eps * jnp.abs(beta))


def _left_to_explain(loss: Loss, y: Real, eta: Real, s: Real) -> Real:
    """The deviance; of a loss that does not say what its least value is, that of a Newton step per row."""
    if loss.says_saturated:
        return loss.deviance(y, eta, s)
    slope, curvature = loss.gradient(y, eta, s), loss.curvature(y, eta, s)
    xp = namespace(slope, curvature)
    is_flat, is_curved = slope == 0, curvature > 0
    steps = xp.where(is_curved, slope**2 / xp.where(is_curved, curvature, 1), np.inf)
    return 0.5 * xp.sum(xp.where(is_flat, 0, steps))


def _rounding(loss: Loss, y: Real, eta: Real, s: Real, level: Real) -> Real:
    """The deviance that rounding leaves: of residuals, and of y when its level was taken off.

    An error δ of y costs δ²/h and one of η costs hδ², where the loss has the curvature h per row.
    """
    xp, unit = namespace(y, eta, s), eps(y)
    curvature = xp.ones((), y.dtype)
    if loss.smoothness is None and y.shape == eta.shape:
        curvature = xp.maximum(loss.curvature(y, eta, xp.ones_like(s)), 1)
        curvature = xp.where(xp.isfinite(curvature), curvature, 1)
    squares = (rows(s, y) * y**2 / curvature).sum() + (rows(s, eta) * curvature * eta**2).sum()
    return (100 * unit) ** 2 * squares + (ROUNDING * unit) ** 2 * (level**2).sum()


def null_lambda_max(problem: Problem, pen: Penalty) -> Real:
    """λmax, from the gradient of the null model."""
    return pen.lambda_max(gradient_to_explain(problem))


def gradient_to_explain(problem: Problem) -> Real:
    """The gradient of the null model, zero on constant columns and where the null model fits exactly."""
    null = problem.null
    counts = rows(problem.norms > 0, null.gradient)
    return namespace(null.gradient).where(counts & ~null.explains_all, null.gradient, 0)


_compiled_lambda_max = program(null_lambda_max)


def known_lambda_max(problem: Problem, pen: Penalty) -> Real:
    """`null_lambda_max`, compiled where it is not for NumPy."""
    on_host = is_numpy((problem.null, problem.norms, pen)) and is_in_numpy(pen)
    return (null_lambda_max if on_host else _compiled_lambda_max)(problem, pen)
