"""The semismooth Newton step on the active set of a penalised problem.

At a solution β = prox(z), z = β − t C⁻¹∇L(β). With J the Jacobian of the prox at z, one Newton step
for that equation is exact on quadratics once the active set (the support, the active groups, the side of
a ball) is right. In coordinates where the metric C is the identity J is symmetric, and the step
solves a positive semi-definite system on its range, by conjugate gradients:

    d = −F + J u,    (J(I − J) + t J H J) u = J(t H F − F),    F = β − prox(z).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool

from ...penalties import Penalty
from ._problem import Point, ScaledData
from ._unpenalised_newton import add, identified, only_if_fitted, scaled_conjugate_gradients, where

# Of the gradient, which an inexact Newton step may leave (Dembo, Eisenstat, Steihaug, 1982).
_INEXACT = 1e-6


def newton_step(
    data: ScaledData, pen: Penalty, point: Point, curvature: Array, attempt: Bool[Array, ""]
) -> Point:
    """Takes the Newton step from `point`; returns `point` itself where `attempt` is false."""
    metric = data.limited_metric(pen, curvature)
    root = jax.tree.map(jnp.sqrt, metric)
    t = 1 / curvature
    step = t / metric.beta
    eta = data.eta(point)
    slope = data.loss.gradient(data.y, eta, data.s)
    loss_hessian = data.loss.hessian(data.y, eta, data.s)
    z = point.beta - step * data.x.rdot(slope)
    prox_jacobian = pen.prox_jacobian(z, step)
    unpenalised = pen.masks(point.beta.shape).unpenalised

    def jacobian(u: Point) -> Point:
        beta = root.beta * prox_jacobian(u.beta / root.beta)
        return Point(identified(data, unpenalised, beta), only_if_fitted(data, u.intercept))

    def hessian(u: Point) -> Point:
        u = jax.tree.map(jnp.divide, u, root)
        image = loss_hessian(data.x.dot(u.beta) + u.intercept)
        image = Point(data.x.rdot(image), only_if_fitted(data, jnp.sum(image, axis=0)))
        return jax.tree.map(jnp.divide, image, root)

    def system(u: Point) -> Point:
        ju = jacobian(u)
        return jacobian(add(optax.tree.sub(u, ju), hessian(ju), t))

    # 1. F, in coordinates where the metric is the identity.
    intercept_residual = t * only_if_fitted(data, jnp.sum(slope, axis=0))
    residual = Point(point.beta - pen.uniform_prox(z, step), intercept_residual)
    residual = jax.tree.map(jnp.multiply, residual, root)
    # 2. The system for u. One exact step solves a quadratic; of others each squares the error at best.
    rhs = jacobian(add(jax.tree.map(jnp.negative, residual), hessian(residual), t))
    tolerance = 0.0 if data.loss.is_quadratic else _INEXACT
    u = scaled_conjugate_gradients(data, system, rhs, attempt, tolerance)
    # 3. The step, back in the coordinates of β.
    d = jax.tree.map(jnp.divide, optax.tree.sub(jacobian(u), residual), root)
    target = optax.tree.add(point, d)
    # A step of zero is the identity for a penalty, the projection for a constraint.
    beta = pen.prox(identified(data, unpenalised, target.beta), jnp.zeros_like(step))
    is_finite = jnp.all(jnp.isfinite(beta)) & jnp.all(jnp.isfinite(target.intercept))
    return where(attempt & is_finite, Point(beta, target.intercept), point)
