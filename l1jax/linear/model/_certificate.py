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
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ..._arrays import eps, namespace
from ..._modules import Record
from ..._types import Real
from ...penalties import Penalty
from ..data._matrix import rows
from ._problem import Point, Problem
from ._unpenalised_newton import solve_unpenalised

_ROUNDING = 100  # units of rounding below which a sum over the rows is taken for zero
_UNSOLVED = 0.08  # fraction of `noise` that the projection may leave
_RIDGE = 30  # units of rounding added to the system of the unpenalised features


@runtime_checkable
class PenaltyAtPoints(Protocol):
    """A penalty at the points β that are certified, one or, in NumPy, several; v is −∇L there."""

    value: Float[Real, "..."]  # R(β)
    null_value: Float[Real, "..."]  # R at the null model
    is_inside: Bool[Real, "..."]  # whether β lies in the domain of R, to rounding
    null_is_inside: Bool[Real, "..."]

    def moves(self, v: Real, noise: Real) -> Real:
        """Whether prox(v) moves some coordinate, of those where |v| is rounding, off zero."""
        ...

    def product(self, v: Real) -> Real:
        """⟨β, v⟩."""
        ...

    def scales(self, v: Real) -> Real:
        """Scales c that are worth trying: (m, ...)."""
        ...

    def conjugate(self, c: Real, v: Real) -> Real:
        """R*(c v)."""
        ...

    def kkt(self, v: Real) -> Real:
        """The largest distance of v from ∂R(β)."""
        ...

    def margin(self, v: Real, curvature: Real) -> Real:
        """As of `Penalty`, for this curvature of L by η, summed over the rows."""
        ...


class _AtPoint:
    """Any penalty at one point, by its methods."""

    def __init__(self, problem: Problem, pen: Penalty, beta: Real):
        self.problem, self.pen, self.beta = problem, pen, beta
        null = problem.null.point.beta
        self.value, self.null_value = pen.value(beta), pen.value(null)
        self.is_inside, self.null_is_inside = is_inside(pen, beta), is_inside(pen, null)

    def moves(self, v: Array, noise: Array) -> Array:
        is_tiny = jnp.abs(v) <= noise * rows(self.problem.norms, v)
        return jnp.any(self.pen.prox(jnp.where(is_tiny, v, 0)) != 0)

    def product(self, v: Array) -> Array:
        return jnp.sum(self.beta * v)

    def scales(self, v: Array) -> Array:
        return self.pen.dual_scales(v, self.beta)

    def conjugate(self, c: Array, v: Array) -> Array:
        return self.pen.conjugate(c * v)

    def kkt(self, v: Array) -> Array:
        step = 1 / self.problem.limited_metric(self.pen, 1.0).beta
        return jnp.max(self.pen.distance(self.beta, -v, step), initial=0)

    def margin(self, v: Array, curvature: Array) -> Array:
        of_columns = rows(self.problem.norms, self.beta) ** 2 * curvature
        return self.pen.margin(self.beta, -v, jnp.broadcast_to(of_columns, self.beta.shape))


class Certificate(Record):
    """The objective at a point, and two measures of how far from optimal it is."""

    objective: Float[Real, "..."]
    loss: Float[Real, "..."]  # its smooth part
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
    pen: Penalty,
    point: Point,
    fitted: Real | None = None,
    neg_gradient: Real | None = None,
    absorb: bool = True,
    at: PenaltyAtPoints | None = None,
) -> Certificate:
    """Returns the certificate of exactly this point; `fitted` is X̃β, `neg_gradient` −∇L, where known.

    Unless it may `absorb` rounding, the gap is infinite where that would be needed: mostly where
    features are unpenalised. `at` is the penalty at these points, if somebody knows it better than by its
    methods.
    """
    beta, loss, over = point.beta, problem.loss, _Over(problem, point)
    xp = over.xp
    at = at or _AtPoint(problem, pen, beta)
    eta = problem.eta(point, fitted)
    dual = _dual_point(problem, eta, neg_gradient)
    v = dual.v
    curvature = loss.curvature(problem.y, eta, problem.s)
    noise = _noise(problem, eta, dual.slope, curvature, over)
    intercept_slope = over.most(abs(over.sum_rows(dual.slope)))
    is_balanced = (intercept_slope <= noise) if problem.fit_intercept else xp.ones((), bool)
    is_known = xp.ones((), bool)
    is_convex = problem.is_convex(pen)
    if absorb and is_convex:
        hessian = loss.hessian(problem.y, eta, problem.s)
        is_tiny = abs(v) <= noise * rows(problem.norms, v)
        dual = _absorb_rounding(problem, pen, hessian, dual, is_tiny, noise)
    elif is_convex:
        is_known = ~at.moves(v, noise)

    deviance = loss.deviance(problem.y, eta, problem.s)
    gap = xp.asarray(np.inf, eta.dtype)
    if is_convex:
        gap = _fenchel_gap(problem, at, eta, dual, is_balanced, over)
    # The null model is feasible: the objective minus its own is a lower bound of the true gap, and guards
    # against rounding far out.
    null = problem.null
    above = deviance + at.value - (null.deviance + at.null_value)
    above = xp.where(at.null_is_inside, above, -np.inf)
    gap = xp.where(above > gap, above, gap)
    gap = xp.where(at.is_inside & is_known & ~xp.isnan(gap), gap, np.inf)

    kkt = at.kkt(v)  # of 0 ∈ ∇L + ∂R, and of Σᵢ slopeᵢ = 0
    kkt = xp.maximum(kkt, intercept_slope) if problem.fit_intercept else kkt
    value = loss.value(problem.y, eta, problem.s)
    return Certificate(
        objective=value + loss.smoothing_error(problem.y, eta, problem.s) + at.value,
        loss=value,
        gap=gap,
        relative_gap=relative_gap(problem, gap, at.null_value),
        kkt=kkt,
        relative_kkt=_relative(
            kkt, xp.where(null.explains_all, 1, pen.dual_norm(null.gradient)), null.is_trivial
        ),
        deviance=deviance,
        # By the mean of the curvatures of the rows; exact for squared error.
        margin=at.margin(v, over.sum_rows(curvature)),
    )


class _Over:
    """Sums and maxima over all axes but that of the points, if there are several."""

    def __init__(self, problem: Problem, point: Point):
        self.xp = namespace(point.beta, problem.y)
        self.ndim = len(problem.coef_shape)  # of one point
        self.first = point.beta.ndim - self.ndim

    def sum_rows(self, x: Real) -> Real:
        return x.sum(axis=self.first)

    def sum(self, x: Real) -> Real:
        return x.sum(axis=self._axes(x))

    def most(self, x: Real) -> Real:
        return x.max(axis=self._axes(x), initial=0)

    def _axes(self, x: Real) -> tuple[int, ...]:
        return tuple(range(min(self.first, x.ndim), x.ndim))


def is_inside(pen: Penalty, beta: Real) -> Array:
    """Whether β lies in the domain of the penalty, to rounding."""
    return pen.violation(beta) <= rounding_of(jnp.sum(jnp.abs(beta)))


def rounding_of(size: Real) -> Real:
    """How far what adds up to this size may be outside of a domain."""
    return _ROUNDING * eps(size) * size


class _DualPoint(Record):
    """A dual point θ, by slope = −s∘θ, and its products with the columns."""

    v: Float[Real, "... p *k"]  # −X̃ᵀ slope
    slope: Float[Real, "... n *k"]
    cost: Float[Real, ""]  # of its distance from ∂L(η), to second order
    is_far: Bool[Real, ""]  # whether that distance is more than rounding


def _dual_point(problem: Problem, eta: Real, neg_gradient: Real | None) -> _DualPoint:
    """The slope ∂L(η) as a dual point."""
    slope = problem.loss.gradient(problem.y, eta, problem.s)
    v = -problem.x.rdot(slope) if neg_gradient is None else neg_gradient
    xp = namespace(slope, v)
    return _DualPoint(v, slope, xp.zeros((), eta.dtype), xp.zeros((), bool))


def _noise(problem: Problem, eta: Real, slope: Real, curvature: Real, over: _Over) -> Real:
    """The size up to which Σᵢ slopeᵢ zᵢ is rounding, for z with Σᵢ sᵢ zᵢ² = 1."""
    s, xp = problem.s.reshape(problem.s.shape + (1,) * (over.ndim - 1)), over.xp
    size = xp.sqrt(over.sum(slope**2 / xp.where(s > 0, s, 1)))
    errors = abs(curvature * eta)
    return _ROUNDING * eps(eta) * (size + over.most(over.sum_rows(errors)))


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
    has_unpenalised = problem.null.has_unpenalised
    is_unpenalised = jnp.broadcast_to(rows(problem.null.unpenalised, dual.v), dual.v.shape)

    def project(carry: tuple[Array, _DualPoint]) -> tuple[Array, _DualPoint]:
        _, dual = carry
        tiny = jnp.where(is_tiny, dual.v, 0)
        off = is_tiny & (pen.prox(tiny) != 0) & ~jnp.isfinite(pen.conjugate(tiny))
        off = off | is_unpenalised if has_unpenalised else off
        v = jnp.where(off, dual.v, 0)
        zero = jnp.zeros(v.shape[1:], v.dtype)
        change, residual = solve_unpenalised(problem, off, hessian, Point(v, zero), _RIDGE)
        cost = 0.5 * jnp.sum(change.beta * v)
        # The residual lies along columns that others explain, and is rounding; or it did not solve.
        most = jnp.max(jnp.abs(residual.beta)) + jnp.max(jnp.abs(residual.intercept))
        is_solved = (most <= _UNSOLVED * noise) & jnp.isfinite(cost) & (cost >= 0)
        is_far = jnp.any(is_unpenalised & ~is_tiny) if has_unpenalised else jnp.zeros((), bool)
        step = jnp.where(is_far, hessian(problem.x.dot(change.beta) + change.intercept), 0)
        return jnp.zeros((), bool), _DualPoint(
            v=jnp.where(off, 0, dual.v - problem.x.rdot(step)),
            slope=dual.slope + step,
            cost=jnp.where(is_solved, cost, jnp.inf),
            is_far=is_far,
        )

    # A loop of one round runs only where some lane of a batch needs it. All in it follows from v,
    # which it changes: so the compiler cannot compute it beforehand.
    may_change = is_tiny | is_unpenalised if has_unpenalised else is_tiny
    needed = jnp.any(may_change & (dual.v != 0))
    return jax.lax.while_loop(lambda c: c[0], project, (needed, dual))[1]


def _fenchel_gap(
    problem: Problem,
    at: PenaltyAtPoints,
    eta: Real,
    dual: _DualPoint,
    is_balanced: Real,
    over: _Over,
) -> Real:
    """The least gap over the scales c."""
    xp, y, s, loss = over.xp, problem.y, problem.s, problem.loss
    product = at.product(dual.v)

    def gap_at(c: Any) -> Any:
        of_penalty = at.value + at.conjugate(c, dual.v) - c * product
        of_loss = loss.fenchel_gap(y, eta, c, s) + xp.where(c > 0, dual.cost, 0)
        if not loss.is_quadratic and xp is jnp:
            # To second order is not enough for a dual point that is far.
            exact = loss.value(y, eta, s) + loss.conjugate(y, c * dual.slope, s)
            exact = jnp.maximum(exact - c * jnp.sum(dual.slope * eta), 0)
            of_loss = jnp.where(dual.is_far, exact, of_loss)
        return of_loss + xp.maximum(of_penalty, 0)

    is_usable = is_balanced & xp.isfinite(dual.cost)
    scales = xp.where(is_usable, at.scales(dual.v), 0)
    gaps = jax.vmap(gap_at)(scales) if xp is jnp else np.stack([gap_at(c) for c in scales])
    return gaps.min(axis=0)


def relative_gap(problem: Problem, gap: Real, null_value: Any) -> Real:
    """A gap in units of the null deviance; where that is rounding, of the penalty of the null model."""
    null = problem.null
    xp = namespace(gap, null_value)
    unit = xp.where(null.explains_all, null_value, null.deviance)
    return _relative(gap, unit, null.is_trivial)


def _relative(value: Real, unit: Real, is_trivial: Real) -> Real:
    xp = namespace(value, unit, is_trivial)
    safe = xp.where(unit > 0, unit, 1)
    return xp.where(is_trivial & xp.isfinite(value), 0, value / safe)
