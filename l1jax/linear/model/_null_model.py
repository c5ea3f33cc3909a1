"""The null model: intercept and unpenalised features only, and what follows from it."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from ..._tracing import frozen
from ...losses import Loss
from ...penalties import Penalty
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
from ._unpenalised_newton import fit_unpenalised


def prepare(data: Data, pen: Penalty) -> Problem:
    """The problem on the solver's scale, with its null model."""
    return with_null(arrange(data), pen)


def with_null(data: ScaledData, pen: Penalty) -> Problem:
    """The problem of data that are on the solver's scale."""
    return Problem.of(data, fit_null(frozen(data), frozen(pen)))


def fit_null(data: ScaledData, pen: Penalty) -> NullModel:
    """Fits the intercept and the features that are unpenalised at every λ."""
    y, s, loss = data.y, data.s, data.loss
    zero = jnp.zeros(data.coef_shape, y.dtype)
    unpenalised = structural_masks(pen, zero.shape).unpenalised & rows(data.norms > 0, zero)
    null = fit_unpenalised(data, Point(zero, jnp.zeros(data.responses, y.dtype)), unpenalised)
    eta = data.eta(null)
    deviance = loss.deviance(y, eta, s)
    return NullModel(
        point=null,
        gradient=data.x.rdot(loss.gradient(y, eta, s)),
        deviance=deviance,
        is_trivial=_left_to_explain(loss, y, eta, s) <= _rounding(loss, y, eta, s, data.level),
        unpenalised=jnp.all(unpenalised.reshape(unpenalised.shape[0], -1), axis=1),
    )


def _left_to_explain(loss: Loss, y: Array, eta: Array, s: Array) -> Array:
    """The deviance; of a loss that does not say what its least value is, that of a Newton step per row."""
    if type(loss).saturated is not Loss.saturated:
        return loss.deviance(y, eta, s)
    slope, curvature = loss.gradient(y, eta, s), loss.curvature(y, eta, s)
    return 0.5 * jnp.sum(jnp.where(slope == 0, 0, slope**2 / jnp.maximum(curvature, 0)))


def _rounding(loss: Loss, y: Array, eta: Array, s: Array, level: Array) -> Array:
    """The deviance that rounding leaves: of residuals, and of y when its level was taken off.

    An error δ of y costs δ²/h and one of η costs hδ², where the loss has the curvature h per row.
    """
    eps = jnp.finfo(y.dtype).eps
    curvature = jnp.ones((), y.dtype)
    if loss.smoothness is None and y.shape == eta.shape:
        curvature = jnp.maximum(loss.curvature(y, eta, jnp.ones_like(s)), 1)
        curvature = jnp.where(jnp.isfinite(curvature), curvature, 1)
    squares = jnp.sum(rows(s, y) * y**2 / curvature) + jnp.sum(rows(s, eta) * curvature * eta**2)
    return (100 * eps) ** 2 * squares + (ROUNDING * eps) ** 2 * jnp.sum(level**2)


def null_lambda_max(problem: Problem, pen: Penalty) -> Array:
    """λmax, from the gradient of the null model."""
    return pen.lambda_max(gradient_to_explain(problem))


def gradient_to_explain(problem: Problem) -> Array:
    """The gradient of the null model, zero on constant columns and where the null model fits exactly."""
    counts = rows(problem.norms > 0, problem.null.gradient)
    return jnp.where(counts & ~problem.null.is_trivial, problem.null.gradient, 0)


compiled_lambda_max = eqx.filter_jit(null_lambda_max)
