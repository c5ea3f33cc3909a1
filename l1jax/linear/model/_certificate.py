"""The certificate of a point: how far its objective can be from the optimum, proved by a dual point.

With θ = −∂loss and v = X̃ᵀ(s∘θ), and any c in [0, 1] with Σ sᵢcθᵢ = 0 and R*(c v) finite,

    gap = Σ sᵢ [lossᵢ(ηᵢ) + lossᵢ*(−cθᵢ) + cθᵢηᵢ]  +  [R(β) + R*(c v) − ⟨β, c v⟩]   ≥   0

bounds how far the objective is above its minimum. Every penalty has such a c: at c = 0 the bound is the
objective above the best loss. The steps of `certify` are

1. the dual point θ, v from the slope of the loss (`_dual_point`),
2. its projection off the unpenalised features, where R*(c v) is finite at no other v (`_absorb_rounding`),
3. the least Fenchel gap over the scales c that the penalty proposes (`_fenchel_gap`),
4. the violation of the optimality conditions (`_kkt_violation`).
"""

from __future__ import annotations

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ...penalties import Penalty
from ..data._matrix import rows
from ._problem import Point, Problem
from ._unpenalised_newton import solve_unpenalised

_ROUNDING = 100  # units of rounding below which a sum over the rows is taken for zero
_UNSOLVED = 0.08  # fraction of that sum which the projection may leave
_RIDGE = 30  # units of rounding added to the system of the unpenalised features


class Certificate(eqx.Module):
    """The objective at a point, and two measures of how far from optimal it is."""

    objective: Float[Array, ""]
    gap: Float[Array, ""]
    relative_gap: Float[Array, ""]
    kkt: Float[Array, ""]
    relative_kkt: Float[Array, ""]
    deviance: Float[Array, ""]
    margin: Float[Array, ""]

    @property
    def measure(self) -> Float[Array, ""]:
        """The number that `tol` bounds: the relative gap where it is finite, else the relative kkt."""
        found = jnp.where(jnp.isfinite(self.relative_gap), self.relative_gap, self.relative_kkt)
        return jnp.where(jnp.isfinite(self.objective), found, jnp.inf)


def certify(
    problem: Problem,
    pen: Penalty,
    point: Point,
    fitted: Array | None = None,
    neg_gradient: Array | None = None,
    absorb: bool = True,
) -> Certificate:
    """Returns the certificate of exactly this point; `fitted` is X̃β, `neg_gradient` −∇L, where known.

    Unless it may `absorb` rounding, the gap is infinite where that would be needed: mostly where
    features are unpenalised.
    """
    beta, loss = point.beta, problem.loss
    eta = problem.eta(point, fitted)
    dual = _dual_point(problem, eta, neg_gradient)
    gradient = -dual.v
    curvature = loss.curvature(problem.y, eta, problem.s)
    noise = _noise(eta, problem.s, dual.slope, curvature)
    is_tiny = jnp.abs(gradient) <= noise * rows(problem.norms, gradient)
    intercept_slope = jnp.max(jnp.abs(jnp.sum(dual.slope, axis=0)))
    is_balanced = (intercept_slope <= noise) if problem.fit_intercept else jnp.ones((), bool)
    is_known = jnp.ones((), bool)
    if absorb and pen.convex:  # else there is no gap
        hessian = loss.hessian(problem.y, eta, problem.s)
        dual = _absorb_rounding(problem, pen, hessian, dual, is_tiny, noise)
    elif pen.convex:
        is_known = ~jnp.any(pen.prox(jnp.where(is_tiny, dual.v, 0)) != 0)

    penalty, deviance = pen.value(beta), loss.deviance(problem.y, eta, problem.s)
    gap = _fenchel_gap(problem, pen, beta, eta, dual, is_balanced)
    # Far out all is rounding. But no point is nearer to the optimum than it is to the null model.
    null = problem.null
    above = deviance + penalty - (null.deviance + pen.value(null.point.beta))
    above = jnp.where(is_inside(pen, null.point.beta), above, -jnp.inf)
    gap = jnp.where(above > gap, above, gap)
    gap = jnp.where(is_inside(pen, beta) & is_known & ~jnp.isnan(gap), gap, jnp.inf)

    kkt = _kkt_violation(problem, pen, beta, gradient, intercept_slope)
    return Certificate(
        objective=loss.value(problem.y, eta, problem.s) + penalty,
        gap=gap,
        relative_gap=relative_gap(problem, pen, gap),
        kkt=kkt,
        relative_kkt=_relative_kkt(problem, pen, kkt),
        deviance=deviance,
        margin=pen.margin(beta, gradient, _curvature_of_columns(problem, beta, curvature)),
    )


def is_inside(pen: Penalty, beta: Array) -> Array:
    """Whether β lies in the domain of the penalty, to rounding."""
    size = jnp.sum(jnp.abs(beta))
    return pen.violation(beta) <= _ROUNDING * jnp.finfo(beta.dtype).eps * size


class _DualPoint(eqx.Module):
    """A dual point θ, by slope = −s∘θ, and its products with the columns."""

    v: Float[Array, "p *k"]  # −X̃ᵀ slope
    slope: Float[Array, "n *k"]
    cost: Float[Array, ""]  # of its distance from ∂L(η), to second order
    is_far: Bool[Array, ""]  # whether that distance is more than rounding


def _dual_point(problem: Problem, eta: Array, neg_gradient: Array | None) -> _DualPoint:
    """The slope ∂L(η) as a dual point."""
    slope = problem.loss.gradient(problem.y, eta, problem.s)
    v = -problem.x.rdot(slope) if neg_gradient is None else neg_gradient
    return _DualPoint(v, slope, jnp.zeros((), eta.dtype), jnp.zeros((), bool))


def _noise(eta: Array, s: Array, slope: Array, curvature: Array) -> Array:
    """The size up to which Σᵢ slopeᵢ zᵢ is rounding, for z with Σᵢ sᵢ zᵢ² = 1."""
    s = rows(s, slope)
    size = jnp.sqrt(jnp.sum(slope**2 / jnp.where(s > 0, s, 1)))
    errors = jnp.abs(curvature * eta)
    return _ROUNDING * jnp.finfo(eta.dtype).eps * (size + jnp.max(jnp.sum(errors, axis=0)))


def _absorb_rounding(
    problem: Problem,
    pen: Penalty,
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
    problem: Problem, pen: Penalty, beta: Array, eta: Array, dual: _DualPoint, is_balanced: Array
) -> Array:
    """The least gap over the scales c; infinite for a penalty that is not convex."""
    if not pen.convex:
        return jnp.asarray(jnp.inf, eta.dtype)
    y, s, loss = problem.y, problem.s, problem.loss
    penalty = pen.value(beta)

    def gap_at(c: Array) -> Array:
        of_penalty = penalty + pen.conjugate(c * dual.v) - c * jnp.sum(beta * dual.v)
        of_loss = loss.fenchel_gap(y, eta, c, s) + jnp.where(c > 0, dual.cost, 0)
        if not loss.is_quadratic:  # to second order is not enough for a dual point that is far
            exact = loss.value(y, eta, s) + loss.conjugate(y, c * dual.slope, s)
            exact = jnp.maximum(exact - c * jnp.sum(dual.slope * eta), 0)
            of_loss = jnp.where(dual.is_far, exact, of_loss)
        return of_loss + jnp.maximum(of_penalty, 0)

    is_usable = is_balanced & jnp.isfinite(dual.cost)
    scales = jnp.where(is_usable, pen.dual_scales(dual.v, beta), 0)
    return jnp.min(jax.vmap(gap_at)(scales))


def _kkt_violation(
    problem: Problem, pen: Penalty, beta: Array, gradient: Array, intercept_slope: Array
) -> Array:
    """The largest violation of 0 ∈ ∇L + ∂R and of Σᵢ slopeᵢ = 0."""
    kkt = jnp.max(
        pen.distance(beta, gradient, 1 / problem.limited_metric(pen, 1.0).beta), initial=0
    )
    return jnp.maximum(kkt, intercept_slope) if problem.fit_intercept else kkt


def _curvature_of_columns(problem: Problem, beta: Array, curvature: Array) -> Array:
    """The curvature of L along each coefficient, by the mean of that of the rows; exact for squared error."""
    of_rows = jnp.sum(curvature.reshape(len(curvature), *beta.shape[1:]), axis=0)
    return jnp.broadcast_to(rows(problem.norms, beta) ** 2 * of_rows, beta.shape)


def relative_gap(problem: Problem, pen: Penalty, gap: Array) -> Array:
    """A gap in units of the null deviance; where that is rounding, of the penalty of the null model."""
    null = problem.null
    unit = jnp.where(null.is_trivial, pen.value(null.point.beta), null.deviance)
    return _relative(gap, unit, null.is_optimal(pen))


def _relative_kkt(problem: Problem, pen: Penalty, kkt: Array) -> Array:
    """A violation in units of the null gradient; where that is rounding, in its own."""
    null = problem.null
    unit = jnp.where(null.is_trivial, 1, pen.dual_norm(null.gradient))
    return _relative(kkt, unit, null.is_optimal(pen))


def _relative(value: Array, unit: Array, is_zero: Array) -> Array:
    safe = jnp.where(unit > 0, unit, 1)
    return jnp.where(is_zero & jnp.isfinite(value), 0, value / safe)
