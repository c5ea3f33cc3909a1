"""Newton's method on the intercept and the unpenalised features, and the linear system of its steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool

from ..._conjugate_gradients import conjugate_gradients
from ..._types import Real
from ..data._matrix import rows
from ._problem import Point, ScaledData

T = TypeVar("T")  # a `Point`, or an array

_STEPS = 50  # of damped Newton: a null model has few coordinates and a smooth loss
_HALVINGS = 30
_RIDGE = 1000  # units of rounding, of the curvature along a column
_REFINEMENTS = 3  # solves for the residual that the ridge has left


def fit_unpenalised(data: ScaledData, point: Point, unpenalised: Bool[Array, "p *k"]) -> Point:
    """Fits the intercept and the unpenalised features alone by damped Newton; exact to rounding."""
    loss, y, s = data.loss, data.y, data.s

    def body(carry: tuple[Point, Array, Array, Array]) -> tuple[Point, Array, Array, Array]:
        point, steps, by_majorant, _ = carry
        eta = data.eta(point)
        slope = loss.gradient(y, eta, s)
        # Where many rows have no curvature Newton's step leads nowhere; the majorant's goes down.
        hessian, majorant = loss.hessian(y, eta, s), loss.majorant(y, eta, s)
        neg_gradient = Point(-data.x.rdot(slope), -jnp.sum(slope, axis=0))

        def curvature(u: Array) -> Array:
            return jnp.where(by_majorant, majorant * u, hessian(u))

        direction, _ = solve_unpenalised(data, unpenalised, curvature, neg_gradient)
        value, eps = data.smooth(point), jnp.finfo(y.dtype).eps
        length = _line_search(data, point, direction, value)
        new = polish_intercept(data, add(point, direction, length))
        is_lower = data.smooth(new) < value - 4 * eps * jnp.abs(value)
        is_finite = jnp.all(jnp.isfinite(new.beta)) & jnp.all(jnp.isfinite(new.intercept))
        size = jnp.max(jnp.abs(new.beta), initial=0)
        change = jnp.max(jnp.abs(new.beta - point.beta), initial=0)
        is_at_rest = is_finite & (change <= 4 * eps * size)
        accept = is_finite & (is_lower | ~by_majorant) & (length > 0.5**_HALVINGS)
        # A majorant's step is followed by another try of Newton's; two that fail end it.
        failed = ~accept | ~(is_lower | is_at_rest)
        is_done = is_at_rest | (failed & by_majorant)
        return where(accept, new, point), steps + 1, failed & ~by_majorant, is_done

    start, steps = polish_intercept(data, point), jnp.zeros((), jnp.int32)
    point, _, _, _ = jax.lax.while_loop(
        lambda c: ~c[3] & (c[1] < _STEPS),
        body,
        (start, steps, jnp.zeros((), bool), ~jnp.any(unpenalised)),
    )
    return point


def _line_search(data: ScaledData, point: Point, direction: Point, value: Array) -> Array:
    """The first of the lengths 1, ½, ¼ ... that does not raise the loss by more than rounding."""

    def is_too_long(carry: tuple[Array, Any]) -> Array:
        length, halvings = carry
        new = data.smooth(add(point, direction, length))
        rounding = 10 * jnp.finfo(new.dtype).eps * jnp.abs(value)
        return ~(new <= value + rounding) & (halvings < _HALVINGS)

    first = (jnp.ones((), value.dtype), 0)
    return jax.lax.while_loop(is_too_long, lambda c: (c[0] / 2, c[1] + 1), first)[0]


def polish_intercept(data: ScaledData, point: Point, fitted: Real | None = None) -> Point:
    """The same coefficients with the best intercept for them; `fitted` is X̃β, where it is known."""
    if not data.fit_intercept:
        return point
    shift = data.loss.polish_intercept(data.y, data.eta(point, fitted), data.s)
    return Point(point.beta, point.intercept + shift)


def solve_unpenalised(
    data: ScaledData,
    unpenalised: Bool[Array, "p *k"],
    hessian: Callable[[Array], Array],
    rhs: Point,
    units: int = _RIDGE,
) -> tuple[Point, Point]:
    """Solves X_Uᵀ H X_U d = rhs on the unpenalised features U and the intercept, with H = ∂²L/∂η².

    Also returns the residual, per norm of a column. A ridge of so many `units` of rounding keeps columns
    that others explain from moving along what rounding has left of them; iterative refinement undoes it
    elsewhere.
    """
    scale = rows(jnp.where(data.norms > 0, data.norms, 1), rhs.beta)

    def mask(u: Point) -> Point:
        beta = identified(data, unpenalised, jnp.where(unpenalised, u.beta, 0))
        return Point(beta, only_if_fitted(data, u.intercept))

    def system(u: Point) -> Point:
        u = mask(u)
        image = hessian(data.x.dot(u.beta / scale) + u.intercept)
        return mask(Point(data.x.rdot(image) / scale, jnp.sum(image, axis=0)))

    def ridged(u: Point) -> Point:
        return add(system(u), u, ridge)

    def refined(_: Any, carry: tuple[Point, Point]) -> tuple[Point, Point]:
        u, residual = carry
        correction = scaled_conjugate_gradients(data, ridged, residual, jnp.any(unpenalised))
        u = mask(optax.tree.add(u, correction))
        return u, optax.tree.sub(scaled, system(u))

    scaled = mask(Point(rhs.beta / scale, rhs.intercept))
    probe = mask(jax.tree.map(_waves, scaled))
    size, dtype = optax.tree.norm(probe), data.y.dtype
    curvature = optax.tree.norm(system(probe)) / jnp.where(size > 0, size, 1)
    ridge = jnp.asarray(units * jnp.finfo(dtype).eps, dtype) * curvature
    start = optax.tree.zeros_like(scaled), scaled
    u, residual = jax.lax.fori_loop(0, _REFINEMENTS, refined, start)
    return Point(u.beta / scale, u.intercept), residual


def _waves(like: Array) -> Array:
    """A vector that no structure in the data is likely to be orthogonal to."""
    return jnp.sin(1.0 + jnp.arange(like.size, dtype=like.dtype)).reshape(like.shape)


def scaled_conjugate_gradients(
    data: ScaledData,
    system: Callable[[T], T],
    rhs: T,
    attempt: Array,
    tolerance: float = 0.0,
) -> T:
    """Solves to this fraction of |rhs|, whatever its scale, or to rounding; takes no step unless `attempt`."""
    n, p = data.x.shape
    rhs = jax.tree.map(lambda leaf: jnp.where(attempt, leaf, 0), rhs)
    size = optax.tree.norm(rhs)
    safe = jnp.where((size > 0) & jnp.isfinite(size), size, 1)
    rhs = jax.tree.map(lambda leaf: jnp.where(jnp.isfinite(size), leaf / safe, 0), rhs)
    responses = math.prod(data.responses)
    tolerance = max(tolerance, float(2 * jnp.finfo(data.y.dtype).eps))
    u = conjugate_gradients(system, rhs, tolerance, 2 * min(n, p) * responses + 50)
    return jax.tree.map(lambda leaf: leaf * safe, u)


def identified(data: ScaledData, unpenalised: Bool[Array, "p *k"], beta: Array) -> Array:
    """β, its unpenalised features as the loss identifies them among all that predict the same."""
    return jnp.where(unpenalised, data.loss.identify_free(beta), beta)


def only_if_fitted(data: ScaledData, intercept: Array) -> Array:
    """The intercept, zero in a model without one."""
    return intercept if data.fit_intercept else jnp.zeros_like(intercept)


def add(a: Point, b: Point, factor: Array) -> Point:
    """a + factor·b."""
    return jax.tree.map(lambda x, y: x + factor * y, a, b)


def where(condition: Array, yes: Point, no: Point) -> Point:
    """One point or the other."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)
