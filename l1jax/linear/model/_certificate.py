"""The certificate of a point: how far its objective can be from the optimum, proved by a dual point.

With θ = −∂loss and v = X̃ᵀ(s∘θ), and any c in [0, 1] with Σ sᵢcθᵢ = 0 and R*(c v) finite,

    gap = Σ sᵢ [lossᵢ(ηᵢ) + lossᵢ*(−cθᵢ) + cθᵢηᵢ]  +  [R(β) + R*(c v) − ⟨β, c v⟩]   ≥   0

bounds how far the objective is above its minimum. Every penalty has such a c: at c = 0 the bound is the
objective above the best loss. The steps of `certify` are

1. the dual point θ, v from the slope of the loss (`_dual_point`),
2. its projection off the unpenalised features, where R*(c v) is finite at no other v (`_absorb_rounding`),
3. the least Fenchel gap over the scales c that the penalty proposes (`_fenchel_gap`),
4. the violation of the optimality conditions (`_kkt_violation`).

Points in NumPy may be several: β (L, p, *k), with the intercepts (L, *k) that go with them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ..._arrays import eps, namespace
from ..._types import AnyArray, Real
from ..data._matrix import rows
from ._problem import Point, Problem
from ._unpenalised_newton import solve_unpenalised

_ROUNDING = 100  # units of rounding below which a sum over the rows is taken for zero
_UNSOLVED = 0.08  # fraction of that sum which the projection may leave
_RIDGE = 30  # units of rounding added to the system of the unpenalised features


class CertifiedPenalty(Protocol):
    """What a certificate asks of a penalty, each as of `Penalty`; at one λ or, in NumPy, at several."""

    @property
    def convex(self) -> bool: ...
    @property
    def strength_value(self) -> Any: ...
    def value(self, x: Any) -> Any: ...
    def violation(self, x: Any) -> Any: ...
    def conjugate(self, v: Any) -> Any: ...
    def dual_scales(self, v: Any, x: Any) -> Any: ...
    def dual_norm(self, gradient: Any) -> Any: ...
    def prox(self, z: Any) -> Any: ...
    def distance(self, x: Any, gradient: Any, step: Any) -> Any: ...
    def margin(self, x: Any, gradient: Any, curvature: Any) -> Any: ...


class Certificate(eqx.Module):
    """The objective at a point, and two measures of how far from optimal it is."""

    objective: Float[Real, "..."]
    gap: Float[Real, "..."]
    relative_gap: Float[Real, "..."]
    kkt: Float[Real, "..."]
    relative_kkt: Float[Real, "..."]
    deviance: Float[Real, "..."]
    margin: Float[Real, "..."]

    @property
    def measure(self) -> Float[Real, "..."]:
        """The number that `tol` bounds: the relative gap where it is finite, else the relative kkt."""
        xp = namespace(self.relative_gap)
        found = xp.where(xp.isfinite(self.relative_gap), self.relative_gap, self.relative_kkt)
        return xp.where(xp.isfinite(self.objective), found, np.inf)


def certify(
    problem: Problem,
    pen: CertifiedPenalty,
    point: Point,
    fitted: AnyArray | None = None,
    neg_gradient: AnyArray | None = None,
    absorb: bool = True,
) -> Certificate:
    """Returns the certificate of exactly this point; `fitted` is X̃β, `neg_gradient` −∇L, where known.

    Unless it may `absorb` rounding, the gap is infinite where that would be needed: mostly where
    features are unpenalised.
    """
    beta, loss, over = point.beta, problem.loss, _Over(problem, point)
    xp = over.xp
    eta = problem.eta(point, fitted)
    dual = _dual_point(problem, eta, neg_gradient)
    gradient = -dual.v
    curvature = loss.curvature(problem.y, eta, problem.s)
    noise = _noise(problem, eta, dual.slope, curvature, over)
    is_tiny = abs(gradient) <= over.wide(noise) * problem.over_features(problem.norms)
    intercept_slope = over.most(abs(over.sum_rows(dual.slope)))
    is_balanced = (intercept_slope <= noise) if problem.fit_intercept else xp.ones((), bool)
    is_known = xp.ones((), bool)
    if absorb and pen.convex:  # else there is no gap
        hessian = loss.hessian(problem.y, eta, problem.s)
        dual = _absorb_rounding(problem, pen, hessian, dual, is_tiny, noise)
    elif pen.convex:
        is_known = ~over.any(pen.prox(xp.where(is_tiny, dual.v, 0)) != 0)

    penalty, deviance = pen.value(beta), loss.deviance(problem.y, eta, problem.s)
    gap = _fenchel_gap(problem, pen, beta, eta, dual, is_balanced, over)
    # Far out all is rounding. But no point is nearer to the optimum than it is to the null model.
    null = problem.null
    above = deviance + penalty - (null.deviance + pen.value(null.point.beta))
    above = xp.where(is_inside(pen, null.point.beta, over), above, -np.inf)
    gap = xp.where(above > gap, above, gap)
    gap = xp.where(is_inside(pen, beta, over) & is_known & ~xp.isnan(gap), gap, np.inf)

    kkt = _kkt_violation(problem, pen, beta, gradient, intercept_slope, over)
    return Certificate(
        objective=loss.value(problem.y, eta, problem.s) + penalty,
        gap=gap,
        relative_gap=_relative(gap, null.deviance, null.is_trivial),
        kkt=kkt,
        relative_kkt=_relative(kkt, pen.dual_norm(null.gradient), null.is_trivial),
        deviance=deviance,
        margin=pen.margin(beta, gradient, _curvature_of_columns(problem, beta, curvature, over)),
    )


class _Over:
    """Sums and maxima over all axes but that of the points, if there are several."""

    def __init__(self, problem: Problem, point: Point):
        self.xp = namespace(point.beta, problem.y)
        self.ndim = len(problem.coef_shape)  # of one point
        self.first = point.beta.ndim - self.ndim

    def wide(self, value: Real) -> Real:
        """A number per point, shaped to multiply what has rows or features."""
        return value.reshape(value.shape + (1,) * self.ndim) if self.first else value

    def sum_rows(self, x: AnyArray) -> Real:
        return x.sum(axis=self.first)

    def sum(self, x: AnyArray) -> Real:
        return x.sum(axis=self._axes(x))

    def most(self, x: AnyArray) -> Real:
        return x.max(axis=self._axes(x), initial=0)

    def any(self, x: AnyArray) -> Real:
        return x.any(axis=self._axes(x))

    def _axes(self, x: AnyArray) -> tuple[int, ...]:
        return tuple(range(min(self.first, x.ndim), x.ndim))


def is_inside(pen: CertifiedPenalty, beta: AnyArray, over: _Over | None = None) -> Real:
    """Whether β lies in the domain of the penalty, to rounding."""
    is_one = over is None or beta.ndim == over.ndim
    size = abs(beta).sum() if is_one else over.sum(abs(beta))
    return pen.violation(beta) <= _ROUNDING * eps(beta) * size


class _DualPoint(eqx.Module):
    """A dual point θ, by slope = −s∘θ, and its products with the columns."""

    v: Float[AnyArray, "... p *k"]  # −X̃ᵀ slope
    slope: Float[AnyArray, "... n *k"]
    cost: Float[Real, ""]  # of its distance from ∂L(η), to second order
    is_far: Bool[Real, ""]  # whether that distance is more than rounding


def _dual_point(problem: Problem, eta: AnyArray, neg_gradient: AnyArray | None) -> _DualPoint:
    """The slope ∂L(η) as a dual point."""
    slope = problem.loss.gradient(problem.y, eta, problem.s)
    v = -problem.x.rdot(slope) if neg_gradient is None else neg_gradient
    xp = namespace(slope, v)
    return _DualPoint(v, slope, xp.zeros((), eta.dtype), xp.zeros((), bool))


def _noise(
    problem: Problem, eta: AnyArray, slope: AnyArray, curvature: AnyArray, over: _Over
) -> Real:
    """The size up to which Σᵢ slopeᵢ zᵢ is rounding, for z with Σᵢ sᵢ zᵢ² = 1."""
    s, xp = problem.s.reshape(problem.s.shape + (1,) * (over.ndim - 1)), over.xp
    size = xp.sqrt(over.sum(slope**2 / xp.where(s > 0, s, 1)))
    errors = abs(curvature * eta)
    return _ROUNDING * eps(eta) * (size + over.most(over.sum_rows(errors)))


def _absorb_rounding(
    problem: Problem,
    pen: CertifiedPenalty,
    hessian: Callable[[Array], Array],
    dual: _DualPoint,
    is_tiny: Array,
    noise: Array,
) -> _DualPoint:
    """Projects the dual point off the features that are unpenalised: v is 0 on these.

    Its cost is half of the squared distance, ½ vᵀ(XᵀHX)⁻¹v over those features: next to nothing where v
    was rounding, unless they are nearly collinear and rounding hides what a large change of them would
    gain. Features are unpenalised by their weights, or where R* is infinite at rounding.
    """
    is_unpenalised = jnp.broadcast_to(rows(problem.null.unpenalised, dual.v), dual.v.shape)

    def project(carry: tuple[Array, _DualPoint]) -> tuple[Array, _DualPoint]:
        _, dual = carry
        tiny = jnp.where(is_tiny, dual.v, 0)
        off = is_tiny & (pen.prox(tiny) != 0) & ~jnp.isfinite(pen.conjugate(tiny))
        off |= is_unpenalised
        v = jnp.where(off, dual.v, 0)
        zero = jnp.zeros(v.shape[1:], v.dtype)
        change, residual = solve_unpenalised(problem, off, hessian, Point(v, zero), _RIDGE)
        cost = 0.5 * jnp.sum(change.beta * v)
        # The residual lies along columns that others explain, and is rounding; or it did not solve.
        most = jnp.max(jnp.abs(residual.beta)) + jnp.max(jnp.abs(residual.intercept))
        is_solved = (most <= _UNSOLVED * noise) & jnp.isfinite(cost) & (cost >= 0)
        is_far = jnp.any(is_unpenalised & ~is_tiny)
        step = jnp.where(is_far, hessian(problem.x.dot(change.beta) + change.intercept), 0)
        return jnp.zeros((), bool), _DualPoint(
            v=jnp.where(off, 0, dual.v - problem.x.rdot(step)),
            slope=dual.slope + step,
            cost=jnp.where(is_solved, cost, jnp.inf),
            is_far=is_far,
        )

    # A loop of one round runs only where some lane of a batch needs it. All in it follows from v,
    # which it changes: so the compiler cannot compute it beforehand.
    needed = jnp.any((is_tiny | is_unpenalised) & (dual.v != 0))
    return jax.lax.while_loop(lambda c: c[0], project, (needed, dual))[1]


def _fenchel_gap(
    problem: Problem,
    pen: CertifiedPenalty,
    beta: AnyArray,
    eta: AnyArray,
    dual: _DualPoint,
    is_balanced: Real,
    over: _Over,
) -> Real:
    """The least gap over the scales c; infinite for a penalty that is not convex."""
    xp = over.xp
    if not pen.convex:
        return xp.asarray(np.inf, eta.dtype)
    y, s, loss = problem.y, problem.s, problem.loss
    penalty, product = pen.value(beta), over.sum(beta * dual.v)

    def gap_at(c: Any) -> Any:
        of_penalty = penalty + pen.conjugate(over.wide(c) * dual.v) - c * product
        of_loss = loss.fenchel_gap(y, eta, c, s) + xp.where(c > 0, dual.cost, 0)
        if not loss.is_quadratic and xp is jnp:
            # To second order is not enough for a dual point that is far.
            exact = loss.value(y, eta, s) + loss.conjugate(y, c * dual.slope, s)
            exact = jnp.maximum(exact - c * jnp.sum(dual.slope * eta), 0)
            of_loss = jnp.where(dual.is_far, exact, of_loss)
        return of_loss + xp.maximum(of_penalty, 0)

    is_usable = is_balanced & xp.isfinite(dual.cost)
    scales = xp.where(is_usable, pen.dual_scales(dual.v, beta), 0)
    gaps = jax.vmap(gap_at)(scales) if xp is jnp else np.stack([gap_at(c) for c in scales])
    return gaps.min(axis=0)


def _kkt_violation(
    problem: Problem,
    pen: CertifiedPenalty,
    beta: AnyArray,
    gradient: AnyArray,
    intercept_slope: Real,
    over: _Over,
) -> Real:
    """The largest violation of 0 ∈ ∇L + ∂R and of Σᵢ slopeᵢ = 0."""
    # What has formulas for NumPy measures it by itself, without a step.
    step = 1 / problem.limited_metric(pen, 1.0).beta if over.xp is jnp else None
    kkt = over.most(pen.distance(beta, gradient, step))
    return over.xp.maximum(kkt, intercept_slope) if problem.fit_intercept else kkt


def _curvature_of_columns(
    problem: Problem, beta: AnyArray, curvature: AnyArray, over: _Over
) -> AnyArray:
    """The curvature of L along each coefficient, by the mean of that of the rows; exact for squared error."""
    of_rows = problem.spread(over.sum_rows(curvature))
    return over.xp.broadcast_to(problem.over_features(problem.norms) ** 2 * of_rows, beta.shape)


def _relative(value: Real, unit: Real, is_trivial: Real) -> Real:
    xp = namespace(value, unit, is_trivial)
    safe = xp.where(unit > 0, unit, 1)
    return xp.where(is_trivial & xp.isfinite(value), 0, value / safe)
