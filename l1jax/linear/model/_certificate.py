"""The certificate of a point: how far its objective can be from the optimum, proved by a dual point.

With θ = −∂loss and v = X̃ᵀ(s∘θ), and any c in [0, 1] with Σ sᵢcθᵢ = 0 and R*(c v) finite,

    gap = Σ sᵢ [lossᵢ(ηᵢ) + lossᵢ*(−cθᵢ) + cθᵢηᵢ]  +  [R(β) + R*(c v) − ⟨β, c v⟩]   ≥   excess ≥ 0.

Every penalty has such a c: at c = 0 the bound is the objective above the best loss.
"""

from __future__ import annotations

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ...penalties import Penalty
from ..data._matrix import rows
from ._newton import solve_free
from ._problem import Point, Problem

_ROUNDING = 100  # units of rounding below which a sum over the rows is taken for zero
_LEFT = 0.08  # share of that which no change of the free features may take away
_RIDGE = 30  # units of rounding added to the system of the free features


class Certificate(eqx.Module):
    """What can be said of a point: its objective, and two measures of how far it is from optimal."""

    objective: Float[Array, ""]
    gap: Float[Array, ""]
    relative_gap: Float[Array, ""]
    kkt: Float[Array, ""]
    relative_kkt: Float[Array, ""]
    deviance: Float[Array, ""]
    margin: Float[Array, ""]

    @property
    def measure(self) -> Float[Array, ""]:
        """What `tol` bounds: the relative gap where there is one, else the relative kkt."""
        found = jnp.where(jnp.isfinite(self.relative_gap), self.relative_gap, self.relative_kkt)
        return jnp.where(jnp.isfinite(self.objective), found, jnp.inf)


def certify(
    problem: Problem,
    pen: Penalty,
    point: Point,
    fitted: Array | None = None,
    descent: Array | None = None,
    absorb: bool = True,
) -> Certificate:
    """The certificate of exactly this point; `fitted` is Xβ and `descent` −∇L, where known.

    Unless it may `absorb` rounding, the gap is infinite where that would be asked for: mostly where
    features are free of the penalty.
    """
    y, s, loss, beta = problem.y, problem.s, problem.loss, point.beta
    eta = problem.eta(point, fitted)
    slope = loss.gradient(y, eta, s)
    gradient = problem.x.rdot(slope) if descent is None else -descent
    null_size = jnp.sqrt(jnp.sum(slope**2 / jnp.where(rows(s, slope) > 0, rows(s, slope), 1)))
    curvature = loss.curvature(y, eta, s)
    spread = jnp.sum(jnp.abs(curvature * eta), axis=0)
    noise = _ROUNDING * jnp.finfo(eta.dtype).eps * (null_size + jnp.max(spread))
    is_tiny = jnp.abs(gradient) <= noise * rows(problem.norms, gradient)
    plain = _DualPoint(-gradient, slope, jnp.zeros((), eta.dtype), jnp.zeros((), bool))
    is_known = jnp.ones((), bool)
    if not pen.convex:  # there is no gap
        dual = plain
    elif absorb:
        dual = _project(problem, pen, loss.hessian(y, eta, s), plain, is_tiny, noise)
    else:
        dual = plain
        is_known = ~jnp.any(pen.prox(jnp.where(is_tiny, dual.v, 0)) != 0)

    intercept_slope = jnp.max(jnp.abs(jnp.sum(slope, axis=0)))
    is_balanced = (intercept_slope <= noise) if problem.fit_intercept else jnp.ones((), bool)
    objective_pen = pen.value(beta)

    def gap_at(c):
        dual_value = objective_pen + pen.conjugate(c * dual.v) - c * jnp.sum(beta * dual.v)
        near = loss.fenchel_gap(y, eta, c, s) + jnp.where(c > 0, dual.cost, 0)
        if loss.is_quadratic:
            return near + jnp.maximum(dual_value, 0)
        far = loss.value(y, eta, s) + loss.conjugate(y, c * dual.slope, s)
        far = jnp.maximum(far - c * jnp.sum(dual.slope * eta), 0)
        return jnp.where(dual.is_far, far, near) + jnp.maximum(dual_value, 0)

    if pen.convex:
        is_usable = is_balanced & jnp.isfinite(dual.cost)
        scales = jnp.where(is_usable, pen.dual_scales(dual.v, beta), 0)
        gap = jnp.min(jax.vmap(gap_at)(scales))
    else:
        gap = jnp.asarray(jnp.inf, eta.dtype)
    deviance = loss.deviance(y, eta, s)
    # Far out all is rounding. But no point is nearer to the optimum than it is to the null model.
    above = deviance + objective_pen - (problem.null.deviance + pen.value(problem.null.point.beta))
    above = jnp.where(is_inside(pen, problem.null.point.beta), above, -jnp.inf)
    gap = jnp.where(above > gap, above, gap)
    gap = jnp.where(is_inside(pen, beta) & is_known & ~jnp.isnan(gap), gap, jnp.inf)

    step = 1 / problem.limited_metric(pen, 1.0).beta
    kkt = jnp.max(pen.distance(beta, gradient, step), initial=0)
    if problem.fit_intercept:
        kkt = jnp.maximum(kkt, intercept_slope)
    yardstick = pen.dual_norm(problem.null.gradient)
    return Certificate(
        objective=loss.value(y, eta, s) + objective_pen,
        gap=gap,
        relative_gap=_relative(gap, problem.null.deviance, problem.null.is_trivial),
        kkt=kkt,
        relative_kkt=_relative(kkt, yardstick, problem.null.is_trivial),
        deviance=deviance,
        margin=pen.margin(beta, gradient, _curvature_of_columns(problem, beta, curvature)),
    )


def _curvature_of_columns(problem: Problem, beta: Array, curvature: Array) -> Array:
    """The curvature of L along each coefficient, with the mean of that of the rows; exact for squared error."""
    of_rows = jnp.sum(curvature.reshape(len(curvature), *beta.shape[1:]), axis=0)
    return jnp.broadcast_to(rows(problem.norms, beta) ** 2 * of_rows, beta.shape)


def is_inside(pen: Penalty, beta: Array) -> Array:
    """Whether β lies in the domain of the penalty, to rounding."""
    size = jnp.sum(jnp.abs(beta))
    return pen.violation(beta) <= _ROUNDING * jnp.finfo(beta.dtype).eps * size


class _DualPoint(eqx.Module):
    """The slope of the loss, negative as a dual point, and what it comes to on the columns."""

    v: Float[Array, "p *k"]  # −X̃ᵀ slope
    slope: Float[Array, "n *k"]
    cost: Float[Array, ""]  # to second order, of moving it to where it is from ∂L(η)
    is_far: Bool[Array, ""]  # whether that is by more than rounding


def _project(
    problem: Problem,
    pen: Penalty,
    bend: Callable[[Array], Array],
    dual: _DualPoint,
    is_tiny: Array,
    noise: Array,
) -> _DualPoint:
    """The dual point projected off the features that the penalty leaves free: v is 0 on these.

    Its cost is half of the squared distance, ½ vᵀ(XᵀHX)⁻¹v over those features: next to nothing where v
    was rounding, unless they are nearly collinear and rounding hides what a large change of them would
    gain. Features are free by their weights, or where the penalty has no price for rounding.
    """
    is_unpenalised = jnp.broadcast_to(rows(problem.null.unpenalised, dual.v), dual.v.shape)

    def move(carry: tuple[Array, _DualPoint]) -> tuple[Array, _DualPoint]:
        _, dual = carry
        tiny = jnp.where(is_tiny, dual.v, 0)
        free = is_tiny & (pen.prox(tiny) != 0) & ~jnp.isfinite(pen.conjugate(tiny))
        free |= is_unpenalised
        rest = jnp.where(free, dual.v, 0)
        zero = jnp.zeros(rest.shape[1:], rest.dtype)
        moved, left = solve_free(problem, free, bend, Point(rest, zero), _RIDGE)
        cost = 0.5 * jnp.sum(moved.beta * rest)
        # What is left lies along columns that others explain, and is rounding; or it did not solve.
        most = jnp.max(jnp.abs(left.beta)) + jnp.max(jnp.abs(left.intercept))
        is_solved = (most <= _LEFT * noise) & jnp.isfinite(cost) & (cost >= 0)
        is_far = jnp.any(is_unpenalised & ~is_tiny)
        along = jnp.where(is_far, bend(problem.x.dot(moved.beta) + moved.intercept), 0)
        return jnp.zeros((), bool), _DualPoint(
            v=jnp.where(free, 0, dual.v - problem.x.rdot(along)),
            slope=dual.slope + along,
            cost=jnp.where(is_solved, cost, jnp.inf),
            is_far=is_far,
        )

    # A loop of one round runs only where some lane of a batch needs it. All in it follows from v,
    # which it changes: so the compiler cannot compute it beforehand.
    needed = jnp.any((is_tiny | is_unpenalised) & (dual.v != 0))
    return jax.lax.while_loop(lambda c: c[0], move, (needed, dual))[1]


def _relative(value: Array, yardstick: Array, is_trivial: Array) -> Array:
    safe = jnp.where(yardstick > 0, yardstick, 1)
    return jnp.where(is_trivial & jnp.isfinite(value), 0, value / safe)
