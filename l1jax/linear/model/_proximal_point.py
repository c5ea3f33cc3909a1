"""A proximal point step, by semismooth Newton on its dual: for columns that are nearly dependent.

The step to (β⁺, b⁺) = argmin L(X̃β + b) + R(β) + ‖(β, b) − (βₖ, bₖ)‖²_C/(2σ) lowers the objective, whatever
the condition number; σ says how far (Rockafellar, 1976). Its dual is smooth (Li, Sun and Toh, 2018): with the
slope u = ∇L(η), β⁺ = prox_{σR}(βₖ − σ C⁻¹X̃ᵀu) and b⁺ = bₖ − σ Σᵢuᵢ, minimise over η

    ψ = L*(u) − R(β⁺) − ⟨u, X̃β⁺ + b⁺⟩ − ‖(β⁺, b⁺) − (βₖ, bₖ)‖²_C/(2σ),    ∇ᵤ ψ = g = η − X̃β⁺ − b⁺.

With the Jacobian J of the prox and H = ∂²L/∂η², Newton's step d = −(I + σ(X̃ J C⁻¹ X̃ᵀ + 11ᵀ) H)⁻¹ g always
exists, and ψ falls along it. The duality gap of the step is the Bregman distance of L from η to η − g.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PyTree

from ...penalties import Penalty
from ._problem import Point, ScaledData
from ._unpenalised_newton import only_if_fitted, scaled_conjugate_gradients, where

_MAX_STEPS = 50  # of Newton's method, and halvings of these
_MIN_STEP = 2.0**-20  # fraction of a step
_DECREASE = 1e-4  # fraction of the derivative along a step that it must gain
_SOLVED = 0.01  # dual gap, as a fraction of the distance to the point before, that is small enough
_ROUNDING = 10  # units of rounding within which values are equal
_DENSE = 300  # unknowns up to which a system is solved by elimination
_MAX_ENTRIES = 2**22  # of what is held for it


class _DualState(eqx.Module):
    """ψ and what goes with it, at some η."""

    eta: Float[Array, "n *k"]
    primal: Point  # (β⁺, b⁺)
    z: Float[Array, "p *k"]  # of which β⁺ is the prox
    residual: Float[Array, "n *k"]  # g
    value: Float[Array, ""]  # ψ
    gap: Float[Array, ""]
    distance: Float[Array, ""]  # ‖(β⁺, b⁺) − (βₖ, bₖ)‖²_C/(2σ)
    rounding: Float[Array, ""]  # of `value` and `gap`

    @property
    def is_solved(self) -> Bool[Array, ""]:
        return self.gap <= _SOLVED * self.distance


class _Search(eqx.Module):
    """The state of Newton's method: where ψ is least so far, and the step that is tried from there."""

    best: _DualState
    direction: Float[Array, "n *k"]
    derivative: Float[Array, ""]  # of ψ along it
    length: Float[Array, ""]  # 1, ½, ¼ ... of the step
    count: Int[Array, ""]
    is_done: Bool[Array, ""]


class ProximalStep(eqx.Module):
    """What a proximal point step leads to."""

    point: Point
    is_solved: Bool[Array, ""]  # to what was asked, or to rounding
    num_steps: Int[Array, ""]  # of Newton's method


def proximal_point_step(
    data: ScaledData, pen: Penalty, point: Point, sigma: Array, attempt: Bool[Array, ""]
) -> ProximalStep:
    """Takes the step of length σ from `point`; stays there where `attempt` is false. `pen` is convex."""
    dual = _Dual(data, pen, point, sigma)

    def body(search: _Search) -> _Search:
        # One evaluation and one system in the text of the program: both take long to compile.
        best, length = search.best, search.length
        new = dual.evaluate(best.eta + length * search.direction)
        is_lower = dual.is_lower(new, best, length * search.derivative)
        best = jax.tree.map(lambda a, b: jnp.where(is_lower, a, b), new, best)
        direction, derivative = jax.lax.cond(
            is_lower, lambda: dual.newton(best), lambda: (search.direction, search.derivative)
        )
        length = jnp.where(is_lower, 1, length / 2)
        is_done = jnp.where(is_lower, best.is_solved, length < _MIN_STEP)
        return _Search(best, direction, derivative, length, search.count + 1, is_done)

    def goes_on(search: _Search) -> Array:
        return ~search.is_done & (search.count < _MAX_STEPS)

    final = jax.lax.while_loop(goes_on, body, dual.start(~attempt))
    new = final.best.primal
    is_finite = jnp.all(jnp.isfinite(new.beta)) & jnp.all(jnp.isfinite(new.intercept))
    is_solved = final.best.is_solved | (final.best.gap <= final.best.rounding)
    return ProximalStep(where(attempt & is_finite, new, point), is_solved, final.count)


class _Dual:
    """ψ, of a step from some point."""

    def __init__(self, data: ScaledData, pen: Penalty, point: Point, sigma: Array):
        self.data, self.pen, self.point = data, pen, point
        metric = data.limited_metric(pen, 1 / sigma)
        self.step = jax.tree.map(lambda c: sigma / c, metric)

    def evaluate(self, eta: Array) -> _DualState:
        """Evaluates it at η."""
        data, loss, point, step = self.data, self.data.loss, self.point, self.step
        slope = loss.gradient(data.y, eta, data.s)
        gradient = self._transpose(slope)
        z = point.beta - step.beta * gradient.beta
        shift = step.intercept * gradient.intercept
        primal = Point(self.pen.uniform_prox(z, step.beta), point.intercept - shift)
        residual = eta - data.eta(primal)

        value, near = (loss.value(data.y, e, data.s) for e in (eta, eta - residual))
        gap = near - value + jnp.sum(slope * residual)
        # What drowns in the rounding of L still has digits to second order.
        small = 0.5 * jnp.sum(residual * loss.hessian(data.y, eta, data.s)(residual))
        product = jnp.sum(slope * (eta - data.offset))  # L* = ⟨u, η⟩ − L
        moved = jax.tree.map(jnp.subtract, primal, point)
        distance = 0.5 * _total(jax.tree.map(lambda d, s: d**2 / s, moved, step))
        along = _total(jax.tree.map(jnp.multiply, gradient, primal))
        inner = self.pen.value(primal.beta) + along + distance
        rounding = _ROUNDING * jnp.finfo(eta.dtype).eps * (jnp.abs(product) + jnp.abs(value))
        return _DualState(
            eta=eta,
            primal=primal,
            z=z,
            residual=residual,
            value=product - value - inner,
            gap=jnp.where(gap > rounding, gap, small),
            distance=distance,
            rounding=rounding,
        )

    def start(self, is_done: Bool[Array, ""]) -> _Search:
        """Returns the state before η of the point is evaluated: anything is lower than infinity."""
        eta = self.data.eta(self.point)
        shapes = jax.eval_shape(self.evaluate, eta)
        blank = jax.tree.map(lambda leaf: jnp.full(leaf.shape, jnp.inf, leaf.dtype), shapes)
        blank = eqx.tree_at(lambda state: state.eta, blank, eta)
        one, zero = jnp.ones((), eta.dtype), jnp.zeros((), eta.dtype)
        return _Search(blank, jnp.zeros_like(eta), zero, one, jnp.zeros((), jnp.int32), is_done)

    def is_lower(self, new: _DualState, old: _DualState, decrease: Array) -> Bool[Array, ""]:
        """Whether ψ has fallen enough; where that drowns in its rounding, the gap must fall instead."""
        below = new.value <= old.value + _DECREASE * decrease + old.rounding
        return below & ((old.gap > old.rounding) | (new.gap < 0.5 * old.gap))

    def newton(self, at: _DualState) -> tuple[Array, Array]:
        """Returns Newton's step d, and the derivative of ψ along it."""
        hessian = self.data.loss.hessian(self.data.y, at.eta, self.data.s)
        direction = self._solve(at, hessian)
        return direction, jnp.sum(hessian(at.residual) * direction)

    def _solve(self, at: _DualState, hessian: Callable[[Array], Array]) -> Array:
        """Returns −(I + A H)⁻¹ g with A = X̃ J̃ X̃ᵀ, J̃ = σ J C⁻¹, the intercept a column of ones."""
        data, (n, p) = self.data, self.data.x.shape
        jacobian = self.pen.prox_jacobian(at.z, self.step.beta)

        def covariance(u: Point) -> Point:  # J̃
            return Point(jacobian(self.step.beta * u.beta), self.step.intercept * u.intercept)

        def kernel(u: Array) -> Array:  # A
            return self._dot(covariance(self._transpose(u)))

        responses = math.prod(data.responses)
        unknowns = min(n, p + 1) * responses
        if unknowns > _DENSE or unknowns * max(n, p) * responses > _MAX_ENTRIES:
            # (H + H A H) d = −H g leaves open what H does not see, which is −g there.
            def system(u: Array) -> Array:
                image = hessian(u)
                return image + hessian(kernel(image))

            d = scaled_conjugate_gradients(
                data, system, -hessian(at.residual), jnp.ones((), bool), 1e-8
            )
            return -at.residual - kernel(hessian(d))
        if n <= p + 1:
            return -_eliminate(lambda u: u + kernel(hessian(u)), at.residual)

        # (I + X̃ J̃ X̃ᵀH)⁻¹ = I − X̃ J̃ (I + X̃ᵀH X̃ J̃)⁻¹ X̃ᵀH
        def inner(u: Point) -> Point:
            image = self._transpose(hessian(self._dot(covariance(u))))
            return jax.tree.map(jnp.add, u, image)

        image = self._transpose(hessian(at.residual))
        return self._dot(covariance(_eliminate(inner, image))) - at.residual

    def _dot(self, u: Point) -> Array:
        return self.data.x.dot(u.beta) + self.data.over_rows(only_if_fitted(self.data, u.intercept))

    def _transpose(self, slope: Array) -> Point:
        intercept = only_if_fitted(self.data, jnp.sum(slope, axis=0))
        return Point(self.data.x.rdot(slope), intercept)


def _eliminate(system: Callable[[PyTree], PyTree], rhs: PyTree) -> PyTree:
    """Solves a linear system of few unknowns by elimination."""
    flat, unravel = ravel_pytree(rhs)

    def column(u: Array) -> Array:
        return ravel_pytree(system(unravel(u)))[0]

    matrix = jax.vmap(column, out_axes=1)(jnp.eye(flat.size, dtype=flat.dtype))
    return unravel(jnp.linalg.solve(matrix, flat))


def _total(tree: Point) -> Array:
    return jnp.sum(tree.beta) + jnp.sum(tree.intercept)
