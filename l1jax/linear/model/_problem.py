"""A penalised linear model, ready to be solved: the data on the solver's scale, and its null model.

minimise over (β, b):   Σᵢ sᵢ loss(yᵢ, x̃ᵢᵀβ + b + offsetᵢ) + R(β),    X̃ = (X − 1μᵀ) diag(1/σ)
"""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from ..._arrays import eps, matmul, namespace
from ..._modules import Record
from ..._tracing import frozen, known
from ..._types import Real
from ...composite._step import limited
from ...losses import Loss
from ...penalties import Penalty
from ...penalties._base import longest_step
from ..data._matrix import DataMatrix, rows
from ..data._standardise import Standardised, standardise

ROUNDING = 4  # units of it that equal numbers may differ by
_POWER_STEPS = 12  # of power iteration; backtracking repairs what it underestimates


class Point(Record):
    """Coefficients on the solver's scale, and the intercept that goes with centred columns."""

    beta: Float[Real, "..."]  # (p, *k); () where it holds one step for all
    intercept: Float[Real, "..."]  # (*k,)


class Outcome(Record):
    """What a solve returns, on the solver's scale."""

    point: Point
    num_steps: Int[Real, "..."]
    status: Int[Real, "..."]


class ScaledData(Record):
    """The data of a fit on the solver's scale: everything that no penalty has a say in."""

    x: DataMatrix  # X̃, centred and scaled as asked
    y: Float[Real, "n ..."]  # encoded by the loss: mostly like η
    s: Float[Real, " n"]
    offset: Float[Real, "n *k"]
    loss: Loss
    mean: Float[Real, " p"]  # μ, subtracted from the columns
    inverse_scale: Float[Real, " p"]  # 1/σ
    level: Float[Real, "*k"]  # subtracted from y; the intercept returns it
    norms: Float[Real, " p"]  # √Σ sᵢ x̃ᵢⱼ²
    is_valid: Bool[Real, ""]  # False where a traced input holds what an eager call refuses
    fit_intercept: bool = eqx.field(static=True)

    @property
    def responses(self) -> tuple[int, ...]:
        """() or (k,): the shape of an intercept."""
        return self.offset.shape[1:]

    @property
    def coef_shape(self) -> tuple[int, ...]:
        """(p,) or (p, k): the shape of the coefficients."""
        return (*self.norms.shape, *self.responses)

    def eta(self, point: Point, fitted: Real | None = None) -> Float[Real, "... n *k"]:
        """The linear predictor; `fitted` is X̃β, where it is known: XLA repeats a sparse product."""
        known = self.x.dot(point.beta) if fitted is None else fitted
        return known + self.over_rows(point.intercept) + self.offset

    def given_eta(self, point: Point, fitted: Real | None = None) -> Float[Real, "... n *k"]:
        """The linear predictor of the user's columns, which are not centred, with the intercept reported."""
        intercept = self._unscaled(point)[1]
        return self.eta(point, fitted) + self.over_rows(self.loss.identify(intercept) - intercept)

    def over_rows(self, per_response: Any) -> Any:
        """Numbers per response, (..., *k), with an axis for the rows or features before it."""
        return per_response[..., None, :] if self.responses else per_response[..., None]

    def over_features(self, per_feature: Real) -> Real:
        """Numbers per feature, (p,), shaped to multiply coefficients."""
        return per_feature.reshape(per_feature.shape + (1,) * len(self.responses))

    def smooth(self, point: Point, fitted: Real | None = None) -> Float[Real, "..."]:
        """L(β, b), the smooth part of the objective."""
        return type(self.loss).value(self.loss, self.y, self.eta(point, fitted), self.s)

    def deviance(self, point: Point) -> Float[Real, "..."]:
        """The deviance of the loss at a point."""
        return self.loss.deviance(self.y, self.eta(point), self.s)

    def metric(self, pen: Penalty) -> Point:
        """The diagonal metric C of the solver: squared column norms, where the penalty's prox allows."""
        squares = self.norms**2
        floor = jnp.finfo(squares.dtype).tiny * 1e8
        squares = jnp.where(squares > floor, squares, 1)
        if pen.metric == "diagonal":
            beta = squares.reshape(squares.shape + (1,) * len(self.responses))
            beta = pen.uniform_metric(jnp.broadcast_to(beta, self.coef_shape))
        else:
            beta = jnp.max(squares)
        return Point(beta, jnp.ones(self.responses, self.y.dtype))

    def max_step(self, pen: Penalty) -> Point:
        """The longest steps that the prox of the penalty allows; the intercept has no limit."""
        dtype = self.y.dtype
        return Point(longest_step(pen, dtype), jnp.full((), jnp.inf, dtype))

    def is_convex(self, pen: Penalty) -> bool:
        """Whether loss and penalty are: else there is no duality gap."""
        return pen.convex and self.loss.convex

    def limited_metric(self, pen: Penalty, curvature: Any) -> Point:
        """The metric, raised to where the steps 1/(curvature C) are no longer than the prox allows."""
        return limited(self.metric(pen), jnp.asarray(curvature, self.y.dtype), self.max_step(pen))

    def to_user(self, point: Point) -> tuple[Real, Real]:
        """Coefficients and intercept on the scale of the data as given."""
        coef, intercept = self._unscaled(point)
        return coef, self.loss.identify(intercept)

    def from_user(self, coef: Real, intercept: Real) -> Point:
        """The point on the solver's scale of coefficients and intercept on that of the data."""
        beta = coef if self._is_unscaled() else coef / self.over_features(self.inverse_scale)
        intercept = (intercept - self.level) + self._of_means(coef)
        return Point(beta, self.loss.identify(intercept))

    def on_scale(self, pen: Penalty) -> Penalty:
        """The penalty of coefficients on the solver's scale, of one whose limits are on the user's."""
        return pen if self._is_unscaled() else pen.on_scale(1 / self.inverse_scale)

    def _unscaled(self, point: Point) -> tuple[Real, Real]:
        coef = point.beta
        if not self._is_unscaled():
            coef = self.over_features(self.inverse_scale) * coef
        return coef, self.level + (point.intercept - self._of_means(coef))

    def _is_unscaled(self) -> bool:
        """Whether it is known that no column is scaled."""
        return isinstance(self.inverse_scale, np.ndarray) and bool((self.inverse_scale == 1).all())

    def _of_means(self, coef: Real) -> Real:
        """μᵀβ, (..., *k)."""
        return matmul(self.mean, coef) if self.responses else matmul(coef, self.mean)


class NullModel(Record):
    """The model of the intercept and the unpenalised features alone, and what follows from it."""

    point: Point
    gradient: Float[Real, "p *k"]  # ∇L there
    deviance: Float[Real, ""]
    explains_all: Bool[Real, ""]  # it fits to rounding
    is_least: Bool[Real, ""]  # the penalty is least there, at any λ
    unpenalised: Bool[Real, " p"]  # its features, at every λ
    has_unpenalised: bool = eqx.field(static=True, default=True)  # False: it is known that none is

    @property
    def is_trivial(self) -> Bool[Real, ""]:
        """Whether it is the solution at every λ: nothing is left to explain, and the penalty is least there."""
        return self.explains_all & self.is_least

    @property
    def unit(self) -> Float[Real, ""]:
        """The unit of a relative gap: the null deviance; 1 where that is not positive."""
        return namespace(self.deviance).where(self.deviance > 0, self.deviance, 1)

    def explained(self, deviance: Real) -> Real:
        """Returns the fraction of the null deviance that a model of this deviance explains.

        It is 0 where nothing is left to explain, and NaN where the null deviance is not positive.
        """
        xp = namespace(self.deviance)
        fraction = xp.where(self.deviance > 0, 1 - deviance / self.unit, np.nan)
        return xp.where(self.explains_all, 0, fraction)


class Problem(ScaledData):
    """Data, loss and null model: everything about a fit that does not depend on λ."""

    null: NullModel
    basis: Any  # an `UnpenalisedBasis` in place of some columns of the data, or None
    smoothness: Float[Real, ""]  # largest curvature in the metric: estimated, or 1 to begin with

    @classmethod
    def of(cls, data: ScaledData, null: NullModel) -> Problem:
        """The problem of these data with their null model."""
        fields = {field.name: getattr(data, field.name) for field in dataclasses.fields(ScaledData)}
        return cls(
            **fields, null=null, basis=None, smoothness=namespace(data.y).ones((), data.y.dtype)
        )

    @property
    def deviations(self) -> Float[Real, " p"]:
        """σ of the columns as they were given, where they are standardised; 1 of a constant one."""
        host = known(self.inverse_scale)  # NumPy where it can be: there is nothing to dispatch
        found = 1 / (self.inverse_scale if host is None else np.asarray(host))
        if self.basis is not None:  # only where all is concrete
            found[self.basis.at] = self.basis.deviations
        return found

    def _unscaled(self, point: Point) -> tuple[Real, Real]:
        coef, intercept = super()._unscaled(point)
        return (coef, intercept) if self.basis is None else self.basis.to_data(coef, intercept)

    def from_user(self, coef: Real, intercept: Real) -> Point:
        if self.basis is not None:
            coef, intercept = self.basis.from_data(coef, intercept)
        return super().from_user(coef, intercept)

    def start_from(self, coef: Real, intercept: Real) -> Point:
        """Coefficients on the user's scale, of whatever problem, as a point to start this one from."""
        point = self.from_user(coef, intercept)
        xp = namespace(point.beta)
        beta = xp.where(self.over_features(self.norms > 0), point.beta, 0)
        none = xp.zeros_like(point.intercept)
        return Point(beta, point.intercept if self.fit_intercept else none)


class Data(Record):
    """What enters a fit, as it was given; `weights` need not sum to one yet."""

    x: DataMatrix
    y: Float[Real, "n ..."]
    weights: Float[Real, " n"]
    offset: Float[Real, "n *k"]
    loss: Loss
    fit_intercept: bool = eqx.field(static=True)
    standardize: bool = eqx.field(static=True)

    @property
    def coef_shape(self) -> tuple[int, ...]:
        """(p,) or (p, k): the shape of the coefficients."""
        return (self.x.shape[1], *self.offset.shape[1:])


def arrange(data: Data, level: Any = None, columns: Standardised | None = None) -> ScaledData:
    """Puts the data on the solver's scale, which derivatives by the data go through.

    `level` is what is subtracted from y, and `columns` X on that scale, where these are known already.
    """
    x, y, weights, offset, loss = data.x, data.y, data.weights, data.offset, data.loss
    xp = x.namespace(y, weights, offset)
    biggest = frozen(weights.max())
    is_valid = (biggest > 0) & xp.all(weights >= 0) & xp.isfinite(biggest)
    weights = xp.where(is_valid, weights / xp.where(is_valid, biggest, 1), 1)
    s = weights / weights.sum()
    # A row of weight 0 may hold anything.
    counts = rows(s > 0, y)
    y = xp.where(counts, y, frozen(loss).neutral_target(frozen(y), frozen(s)))
    offset = xp.where(rows(s > 0, offset), offset, 0)
    loss = loss.for_targets(y, offset, s)
    # Where no level matters, that of the columns does not: centred ones keep more digits.
    centre = data.fit_intercept or not loss.has_intercept
    fit_intercept = data.fit_intercept and loss.has_intercept
    if columns is None:
        columns = standardise(x, s, centre=centre, scale=data.standardize)
    x, mean, inverse_scale, norms = columns
    is_valid &= xp.all(xp.isfinite(norms)) & xp.all(xp.isfinite(offset))
    is_valid &= xp.all(loss.accepts(y) | ~counts)

    responses = offset.shape[1:]
    has_level = fit_intercept & np.asarray(loss.is_of_residuals)  # of some responses, maybe
    if level is None:
        # Far from zero, every sum over the rows would lose the digits that the residuals have.
        # Whatever is taken off comes back: to derivatives it is a constant.
        level = xp.zeros(responses, y.dtype)
        if has_level.any():
            level = frozen(loss).polish_intercept(frozen(y), frozen(offset), frozen(s))
            level = level if has_level.all() else xp.where(has_level, level, 0)
    if has_level.any():
        y = xp.where(counts, y - level, xp.where(has_level, 0, y))
        # The mean of n equal numbers may miss them by n units of rounding.
        rest = frozen(y)
        highest = xp.max(xp.where(counts, rest, -np.inf), axis=0)
        lowest = xp.min(xp.where(counts, rest, np.inf), axis=0)
        unit = eps(y) * xp.abs(level)
        is_constant = highest - lowest <= ROUNDING * unit
        is_constant &= xp.maximum(highest, -lowest) <= (ROUNDING + len(y)) * unit
        y = y - xp.where(is_constant & has_level, rest, 0)
    return ScaledData(
        x=x,
        y=y,
        s=s,
        offset=offset,
        loss=loss,
        mean=mean,
        inverse_scale=inverse_scale,
        level=level,
        norms=norms,
        is_valid=is_valid,
        fit_intercept=fit_intercept,
    )


def structural_masks(pen: Penalty, shape: tuple[int, ...], xp: Any = jnp) -> Any:
    """The masks at λ = 1: what weights of 0 and inf say, at every λ."""
    if pen.has_strength:
        pen = pen.with_strength(xp.ones(()))
    return pen.masks(shape)


def with_smoothness(problem: Problem, pen: Penalty) -> Problem:
    """The problem with its smoothness, which only engines that take gradient steps need.

    The largest eigenvalue of C^{-1/2} X̃ᵀ diag(s) X̃ C^{-1/2}, times the loss's curvature bound; where
    that has none, with its curvature at the null model in place of both: a first guess, in its units.
    """
    metric = problem.metric(pen)
    p = problem.norms.shape[0]
    scale = (
        jnp.sqrt(metric.beta)
        if jnp.ndim(metric.beta) == 0
        else jnp.sqrt(metric.beta).reshape(p, -1)[:, 0]
    )
    bound, weights = problem.loss.smoothness, problem.s
    if bound is None:
        curvature = problem.loss.majorant(problem.y, problem.eta(problem.null.point), problem.s)
        weights = jnp.max(curvature.reshape(weights.shape[0], -1), axis=1)
        weights = jnp.where(jnp.isfinite(weights), weights, problem.s)
    start = jnp.sin(1.0 + jnp.arange(p)).astype(problem.y.dtype)

    def power(_, carry):
        u, _ = carry
        image = problem.x.rdot(weights * problem.x.dot(u / scale)) / scale
        size = jnp.sqrt(jnp.sum(image**2))
        return image / jnp.where(size > 0, size, 1), size

    norm = jnp.sqrt(jnp.sum(start**2))
    _, largest = jax.lax.fori_loop(
        0, _POWER_STEPS, power, (start / norm, jnp.ones((), problem.y.dtype))
    )
    largest = jnp.where(largest > 0, largest, 1)
    largest = largest * jnp.asarray(1.0 if bound is None else bound, largest.dtype)
    return dataclasses.replace(problem, smoothness=largest)
