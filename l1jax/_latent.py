"""Projection on the points whose norms over overlapping groups are bounded, and its support function.

Both are a convex problem in one multiplier ν_g ≥ 0 per group. With M the memberships (p, G) and bounds t_g,

    min_ν  F(ν) = ½ Σ_g t_g² ν_g + ½ Σⱼ zⱼ²/(c + (Mν)ⱼ)

has at c = 1 the projection uⱼ = zⱼ/(1 + (Mν)ⱼ), and at c = 0 the value sup {⟨z, u⟩: ‖u_g‖ ≤ t_g}, at u =
z/(Mν). It is solved by projected Newton steps (Bertsekas, 1982).
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_MAX_STEPS = 200
_SHORTEST = 2.0**-6  # fraction of a step
# Factor by which the ridge grows where no step goes down, and falls after one that does.
_DAMPING = 100.0
_RIDGE = 100  # units of rounding: groups may be the same
_SOLVED = 8  # units of rounding that a step may leave of t_g² in the gradient


def multipliers(
    squares: Float[Array, " p"], bounds: Float[Array, " G"], members: Float[Array, "p G"], c: float
) -> Float[Array, " G"]:
    """ν, with its derivative by the squares zⱼ² and the bounds."""
    fixed = jax.lax.stop_gradient((squares, bounds, members))
    nu = _solve(*fixed, c)
    # One more step of Newton's, which has the derivative of an implicit function.
    gradient, hessian = _derivatives(nu, squares, bounds, members, c)
    is_free = nu > 0
    ridge = _RIDGE * jnp.finfo(gradient.dtype).eps
    step = _newton(jax.lax.stop_gradient(hessian), gradient, is_free, ridge)
    moved = nu + step - jax.lax.stop_gradient(step)
    return jnp.where(is_free, moved, 0)


def _terms(nu: Array, squares: Array, members: Array, c: float) -> tuple[Array, Array]:
    """zⱼ² where that is not zero, and c + (Mν)ⱼ there, else 1."""
    total = c + jnp.matmul(members, nu, precision="highest")
    return squares, jnp.where(squares > 0, total, 1)


def _objective(nu: Array, squares: Array, bounds: Array, members: Array, c: float) -> Array:
    squares, total = _terms(nu, squares, members, c)
    return 0.5 * (jnp.sum(bounds**2 * nu) + jnp.sum(jnp.where(total > 0, squares / total, jnp.inf)))


def _derivatives(
    nu: Array, squares: Array, bounds: Array, members: Array, c: float
) -> tuple[Array, Array]:
    squares, total = _terms(nu, squares, members, c)
    with jax.default_matmul_precision("highest"):
        gradient = 0.5 * (bounds**2 - members.T @ (squares / total**2))
        return gradient, members.T @ ((squares / total**3)[:, None] * members)


def _newton(hessian: Array, gradient: Array, is_free: Array, ridge: Any) -> Array:
    """−(H + ridge·diag H)⁻¹∇F on the free groups, 0 on the others."""
    both = is_free[:, None] & is_free
    diagonal = jnp.diagonal(hessian)
    system = jnp.where(both, hessian, 0) + jnp.diag(
        jnp.where(is_free & (diagonal > 0), ridge * diagonal, 1)
    )
    return jnp.where(is_free, -jnp.linalg.solve(system, jnp.where(is_free, gradient, 0)), 0)


@functools.partial(jax.jit, static_argnums=3)
def _solve(squares: Array, bounds: Array, members: Array, c: float) -> Array:
    data = (squares, bounds, members, c)
    norms = jnp.sqrt(jnp.matmul(members.T, squares, precision="highest"))
    start = jnp.maximum(norms / bounds - c, 0)
    eps = jnp.finfo(squares.dtype).eps

    def step(carry: tuple) -> tuple:
        nu, value, ridge, count, _ = carry
        gradient, hessian = _derivatives(nu, *data)
        is_free = (nu > 0) | (gradient < 0)
        direction = _newton(hessian, gradient, is_free, ridge)

        def is_too_long(search: tuple) -> Array:
            length, new = search
            return ~(new <= value + 4 * eps * jnp.abs(value)) & (length > _SHORTEST)

        def halve(search: tuple) -> tuple:
            length = search[0] / 2
            return length, _objective(jnp.maximum(nu + length * direction, 0), *data)

        first = (jnp.ones_like(value), _objective(jnp.maximum(nu + direction, 0), *data))
        length, new = jax.lax.while_loop(is_too_long, halve, first)
        # Where groups share what they penalise no length may do: then a shorter step, along the slope.
        is_lower = length > _SHORTEST
        moved = jnp.where(is_lower, jnp.maximum(nu + length * direction, 0), nu)
        ridge = jnp.where(is_lower, jnp.maximum(ridge / _DAMPING, _RIDGE * eps), ridge * _DAMPING)
        # On the free groups the slope vanishes; on the others it is not below zero.
        after, _ = _derivatives(moved, *data)
        off = jnp.where(moved > 0, jnp.abs(after), jnp.maximum(-after, 0))
        is_done = jnp.all(off <= _SOLVED * eps * bounds**2) | (ridge > 1 / eps)
        return moved, jnp.where(is_lower, new, value), ridge, count + 1, is_done

    ridge = jnp.asarray(_RIDGE * eps, squares.dtype)
    carry = (start, _objective(start, *data), ridge, jnp.zeros((), jnp.int32), jnp.zeros((), bool))
    return jax.lax.while_loop(lambda c: ~c[4] & (c[3] < _MAX_STEPS), step, carry)[0]
