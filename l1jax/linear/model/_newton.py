"""Newton steps: on the free coordinates of the null model, and on the face where a solution lies.

At a solution β = prox(z), z = β − t C⁻¹∇f(β). With J the derivative of prox at z, one Newton step
for that equation is exact on quadratics once the face (the support, the active groups, the side of
a ball) is right. In coordinates where the metric C is the identity J is symmetric, and the step
solves a positive semi-definite system on its range, by conjugate gradients:

    d = −F + J u,    (J(I − J) + t J H J) u = J(t H F − F),    F = β − prox(z).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.scipy.sparse.linalg import cg
from jaxtyping import Array, Bool

from ...penalties import Penalty
from ..data._matrix import rows
from ._problem import Point, ScaledData

_NULL_STEPS = 50  # of damped Newton: a null model has few coordinates and a smooth loss
_HALVINGS = 30
_RIDGE = 1000  # units of rounding, of the curvature along a column
_REST = (
    1e-6  # of the gradient that an inexact Newton step may leave (Dembo, Eisenstat, Steihaug, 1982)
)
_ROUNDS = 3  # of solving for what a ridge has left


def newton_step(
    problem: ScaledData, pen: Penalty, point: Point, curvature: Array, attempt: Bool[Array, ""]
) -> Point:
    """The Newton step from `point` on its face; `point` itself where `attempt` is false."""
    metric = problem.limited_metric(pen, curvature)
    root = jax.tree.map(jnp.sqrt, metric)
    t = 1 / curvature
    step = t / metric.beta
    eta = problem.eta(point)
    slope = problem.loss.gradient(problem.y, eta, problem.s)
    bend = problem.loss.hessian(problem.y, eta, problem.s)
    z = point.beta - step * problem.x.rdot(slope)
    push = pen.prox_jacobian(z, step)

    free = pen.masks(point.beta.shape).unpenalised

    def face(u: Point) -> Point:
        beta = identified(problem, free, root.beta * push(u.beta / root.beta))
        return Point(beta, _free(problem, u.intercept))

    def hessian(u: Point) -> Point:
        u = jax.tree.map(jnp.divide, u, root)
        image = bend(problem.x.dot(u.beta) + u.intercept)
        image = Point(problem.x.rdot(image), _free(problem, jnp.sum(image, axis=0)))
        return jax.tree.map(jnp.divide, image, root)

    def system(u: Point) -> Point:
        ju = face(u)
        curved = _add(optax.tree.sub(u, ju), hessian(ju), t)
        return face(curved)

    intercept_residual = t * _free(problem, jnp.sum(slope, axis=0))
    residual = Point(point.beta - pen.uniform_prox(z, step), intercept_residual)
    residual = jax.tree.map(jnp.multiply, residual, root)
    rhs = face(_add(jax.tree.map(jnp.negative, residual), hessian(residual), t))
    # Of a quadratic one exact step lands; of others each step squares what is wrong at best.
    rest = 0.0 if problem.loss.is_quadratic else _REST
    u = _conjugate_gradients(problem, system, rhs, attempt, rest)
    moved = optax.tree.sub(face(u), residual)
    moved = jax.tree.map(jnp.divide, moved, root)
    target = optax.tree.add(point, moved)
    # A step of zero is the identity for a penalty, the projection for a constraint.
    beta = pen.prox(identified(problem, free, target.beta), jnp.zeros_like(step))
    ok = attempt & jnp.all(jnp.isfinite(beta)) & jnp.all(jnp.isfinite(target.intercept))
    return _where(ok, Point(beta, target.intercept), point)


def fit_free(problem: ScaledData, point: Point, free: Bool[Array, "p *k"]) -> Point:
    """The model of the intercept and the free features alone, by damped Newton; exact to rounding."""
    has_free = jnp.any(free)

    def polished(point: Point) -> Point:
        return polish_intercept(problem, point)

    def body(carry):
        point, steps, careful, _ = carry
        eta = problem.eta(point)
        slope = problem.loss.gradient(problem.y, eta, problem.s)
        # Where many rows have no curvature Newton's step leads nowhere; the majorant's goes down.
        hessian = problem.loss.hessian(problem.y, eta, problem.s)
        majorant = problem.loss.majorant(problem.y, eta, problem.s)
        rhs = Point(-problem.x.rdot(slope), -jnp.sum(slope, axis=0))

        def bend(u: Array) -> Array:
            return jnp.where(careful, majorant * u, hessian(u))

        direction, _ = solve_free(problem, free, bend, rhs)
        value = problem.smooth(point)

        def at(length):
            return _add(point, direction, length)

        def too_long(carry):
            length, halvings = carry
            new = problem.smooth(at(length))
            slack = 10 * jnp.finfo(new.dtype).eps * jnp.abs(value)
            return ~(new <= value + slack) & (halvings < _HALVINGS)

        length, _ = jax.lax.while_loop(
            too_long, lambda c: (c[0] / 2, c[1] + 1), (jnp.ones((), value.dtype), 0)
        )
        new = polished(at(length))
        better = problem.smooth(new) < value - 4 * jnp.finfo(value.dtype).eps * jnp.abs(value)
        finite = jnp.all(jnp.isfinite(new.beta)) & jnp.all(jnp.isfinite(new.intercept))
        size = jnp.max(jnp.abs(new.beta), initial=0)
        change = jnp.max(jnp.abs(new.beta - point.beta), initial=0)
        settled = finite & (change <= 4 * jnp.finfo(value.dtype).eps * size)
        good = finite & (better | ~careful) & (length > 0.5**_HALVINGS)
        point = _where(good, new, point)
        # A majorant's step is followed by another try of Newton's; two that fail end it.
        failed = ~good | ~(better | settled)
        return point, steps + 1, failed & ~careful, settled | (failed & careful)

    start = polished(point)
    no = jnp.zeros((), bool)
    point, _, _, _ = jax.lax.while_loop(
        lambda c: ~c[3] & (c[1] < _NULL_STEPS),
        body,
        (start, jnp.zeros((), jnp.int32), no, ~has_free),
    )
    return point


def solve_free(
    problem: ScaledData,
    free: Bool[Array, "p *k"],
    bend: Callable[[Array], Array],
    rhs: Point,
    units: int = _RIDGE,
) -> tuple[Point, Point]:
    """Solves X_Uᵀ H X_U d = rhs on the free features U and the intercept, with H the map `bend`.

    Also what is left of rhs, per norm of a column. A ridge of so many `units` of rounding keeps columns which
    others explain from moving along what rounding has left of them; solving again for what is left undoes it
    elsewhere.
    """
    scale = rows(jnp.where(problem.norms > 0, problem.norms, 1), rhs.beta)

    def mask(u: Point) -> Point:
        beta = identified(problem, free, jnp.where(free, u.beta, 0))
        return Point(beta, _free(problem, u.intercept))

    def system(u: Point) -> Point:
        u = mask(u)
        image = bend(problem.x.dot(u.beta / scale) + u.intercept)
        return mask(Point(problem.x.rdot(image) / scale, jnp.sum(image, axis=0)))

    def left(u: Point) -> Point:
        return optax.tree.sub(scaled, system(u))

    def solved_for_the_rest(_: Any, u: Point) -> Point:
        more = _conjugate_gradients(problem, ridged, left(u), jnp.any(free))
        return mask(optax.tree.add(u, more))

    def ridged(u: Point) -> Point:
        return _add(system(u), u, ridge)

    scaled = mask(Point(rhs.beta / scale, rhs.intercept))
    some = mask(jax.tree.map(_waves, scaled))
    size, dtype = optax.tree.norm(some), problem.y.dtype
    curvature = optax.tree.norm(system(some)) / jnp.where(size > 0, size, 1)
    ridge = jnp.asarray(units * jnp.finfo(dtype).eps, dtype) * curvature
    none = optax.tree.zeros_like(scaled)
    u = jax.lax.fori_loop(0, _ROUNDS, solved_for_the_rest, none)
    return Point(u.beta / scale, u.intercept), left(u)


def _waves(like: Array) -> Array:
    """Numbers that no structure in the data is likely to share."""
    return jnp.sin(1.0 + jnp.arange(like.size, dtype=like.dtype)).reshape(like.shape)


def polish_intercept(problem: ScaledData, point: Point, fitted: Array | None = None) -> Point:
    """The same coefficients with the best intercept for them; `fitted` is Xβ, where it is known."""
    if not problem.fit_intercept:
        return point
    shift = problem.loss.polish_intercept(problem.y, problem.eta(point, fitted), problem.s)
    return Point(point.beta, point.intercept + shift)


def _conjugate_gradients(
    problem: ScaledData, system, rhs: Point, attempt: Array, rest: float = 0.0
) -> Point:
    """Solves but for this share of rhs, or to rounding; a lane that makes no attempt takes no step."""
    n, p = problem.x.shape
    rhs = jax.tree.map(lambda leaf: jnp.where(attempt, leaf, 0), rhs)
    size = optax.tree.norm(rhs)
    safe = jnp.where((size > 0) & jnp.isfinite(size), size, 1)
    rhs = jax.tree.map(lambda leaf: jnp.where(jnp.isfinite(size), leaf / safe, 0), rhs)
    responses = math.prod(problem.responses)
    tolerance = max(rest, float(2 * jnp.finfo(problem.y.dtype).eps))
    u, _ = cg(system, rhs, tol=tolerance, maxiter=2 * min(n, p) * responses + 50)
    return jax.tree.map(lambda leaf: leaf * safe, u)


def identified(problem: ScaledData, free: Bool[Array, "p *k"], beta: Array) -> Array:
    """β, with the free features of those coefficients that the loss tells from others which say the same."""
    return jnp.where(free, problem.loss.identify_free(beta), beta)


def _free(problem: ScaledData, intercept: Array) -> Array:
    return intercept if problem.fit_intercept else jnp.zeros_like(intercept)


def _add(a: Point, b: Point, factor: Array) -> Point:
    return jax.tree.map(lambda x, y: x + factor * y, a, b)


def _where(condition: Array, yes: Point, no: Point) -> Point:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)
