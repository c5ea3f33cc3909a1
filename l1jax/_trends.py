"""The prox of the sum of absolute differences of order k + 1: trend filtering of order k.

Its dual is a quadratic with box limits, ½‖z − t Dᵀu‖² with |u| ≤ 1, whose matrix D Dᵀ is banded. An interior
point method (Kim et al., 2009) finds which uᵢ are at a limit, the knots; an active-set method (Han and Curtis,
2016) mends what is left, after which u is the solution of one banded system, and exact.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

_STEPS = 60  # of the interior point method, at most
_CENTRING = 0.1  # the fraction of the gap that one of them aims at
_TO_EDGE = 0.99  # of the way to the limits
_MENDING = 30  # steps of the active-set method, at most


# Compiled once, where eager code would compile its loops at every call.
@functools.partial(jax.jit, static_argnums=2)
def trend_prox(z: Float[Array, " n"], strength: Any, order: int) -> Float[Array, " n"]:
    """argmin_x ½‖x − z‖² + strength·Σᵢ|(D x)ᵢ|, with D the differences of order `order` + 1.

    Differentiable by z and by the strength: the knots are constants to derivatives, as they are off the kinks.
    """
    if z.size < order + 2:
        return z
    strength = jnp.asarray(strength, z.dtype)
    is_off = ~(strength > 0)
    safe = jnp.where(is_off, 1, strength)
    signs = _knots(jax.lax.stop_gradient(z / safe), order)
    at_knots = z - safe * _transpose(signs, order)
    rest = _solve(signs == 0, jnp.where(signs == 0, differences(at_knots, order), 0), order)
    return jnp.where(is_off, z, at_knots - _transpose(rest, order))


def differences(x: Array, order: int) -> Array:
    """D x."""
    return jnp.diff(x, n=order + 1)


def coefficients(order: int) -> np.ndarray:
    """The entries of a row of D."""
    k = order + 1
    return np.array([(-1.0) ** (k - i) * math.comb(k, i) for i in range(k + 1)])


def _transpose(u: Array, order: int) -> Array:
    """Dᵀu."""
    return jnp.convolve(u, jnp.asarray(coefficients(order), u.dtype))


def _knots(z: Float[Array, " n"], order: int) -> Float[Array, " m"]:
    """The sign of uᵢ where it is at a limit, else 0, at a strength of 1."""
    slope = differences(z, order)
    one, zero = jnp.ones_like(slope), jnp.zeros_like(slope)

    def gap(carry: tuple) -> Array:
        u, above, below, _ = carry
        return jnp.sum((1 - u) * above + (1 + u) * below)

    def is_far(carry: tuple) -> Array:
        unit = 1 + jnp.max(jnp.abs(slope))
        return (gap(carry) > jnp.finfo(z.dtype).eps ** 0.75 * slope.size * unit) & (
            carry[3] < _STEPS
        )

    def step(carry: tuple) -> tuple:
        u, above, below, count = carry
        centre = _CENTRING * gap(carry) / (2 * slope.size)
        up, down = 1 - u, 1 + u
        image = differences(_transpose(u, order), order)
        right = slope - image - centre / up + centre / down
        du = _banded_solve(above / up + below / down, one, right, order)
        dabove = -above + (centre + above * du) / up
        dbelow = -below + (centre - below * du) / down
        length = _TO_EDGE * jnp.minimum(
            jnp.minimum(_longest(up, -du), _longest(down, du)),
            jnp.minimum(_longest(above, dabove), _longest(below, dbelow)),
        )
        length = jnp.minimum(length, 1)
        moved = (u + length * du, above + length * dabove, below + length * dbelow)
        return (*moved, count + 1)

    start = (zero, one, one, jnp.zeros((), jnp.int32))
    u, above, below, _ = jax.lax.while_loop(is_far, step, start)
    signs = jnp.where(above > 1 - u, 1, jnp.where(below > 1 + u, -1, zero))
    return _mended(z, signs, order)


def _longest(x: Array, dx: Array) -> Array:
    """The longest step with x + step·dx ≥ 0."""
    return jnp.min(jnp.where(dx < 0, x / jnp.where(dx < 0, -dx, 1), jnp.inf))


def _mended(z: Array, signs: Array, order: int) -> Array:
    """The knots after primal-dual active set steps: none with |u| > 1, none that turns the other way."""
    tiny = jnp.finfo(z.dtype).eps ** 0.75

    def step(carry: tuple) -> tuple:
        signs, count, _ = carry
        at_knots = z - _transpose(signs, order)
        free = _solve(signs == 0, jnp.where(signs == 0, differences(at_knots, order), 0), order)
        turns = differences(at_knots - _transpose(free, order), order)
        wrong = (signs != 0) & (signs * turns < -tiny * (1 + jnp.max(jnp.abs(turns))))
        beyond = jnp.where(jnp.abs(free) > 1 + tiny, jnp.sign(free), 0)
        return jnp.where(wrong, 0, signs) + beyond, count + 1, jnp.any(wrong | (beyond != 0))

    start = (signs, jnp.zeros((), jnp.int32), jnp.ones((), bool))
    return jax.lax.while_loop(lambda c: c[2] & (c[1] < _MENDING), step, start)[0]


def _solve(is_free: Array, right: Array, order: int) -> Array:
    """u with (D Dᵀu)ᵢ = rightᵢ where it is free, and 0 elsewhere."""
    mask = is_free.astype(right.dtype)

    def system(u: Array) -> Array:
        return mask * differences(_transpose(mask * u, order), order) + (1 - mask) * u

    def solve(_: Any, right: Array) -> Array:
        return _banded_solve(1 - mask, mask, right, order)

    return jax.lax.custom_linear_solve(system, right, solve, symmetric=True)


def _banded_solve(diagonal: Array, mask: Array, right: Array, order: int) -> Array:
    """Solves (M D Dᵀ M + diag) u = right with M = diag(mask), by an LDLᵀ factorisation in one pass and back."""
    width, row = order + 1, coefficients(order)
    bands = [float(row[: len(row) - o] @ row[o:]) for o in range(width + 1)]
    before = [
        jnp.concatenate([jnp.zeros(o, mask.dtype), mask])[: mask.size] for o in range(width + 1)
    ]
    rows = jnp.stack([band * mask * one for band, one in zip(bands, before, strict=True)], axis=1)
    rows = rows.at[:, 0].add(diagonal)

    def forward(carry: tuple, now: tuple) -> tuple:
        lower, pivots, y = carry  # of the rows before, the last one first
        entries, b = now
        scaled: dict[int, Array] = {}
        for o in range(width, 0, -1):
            scaled[o] = entries[o] - sum(
                (scaled[q] * lower[o - 1, q - o - 1] for q in range(o + 1, width + 1)), 0.0
            )
        factors = [scaled[o] / pivots[o - 1] for o in range(1, width + 1)]
        pivot = entries[0] - sum(scaled[o] * factors[o - 1] for o in range(1, width + 1))
        new = b - sum(factors[o] * y[o] for o in range(width))
        factors = jnp.stack(factors)
        carry = (
            jnp.concatenate([factors[None], lower[:-1]]),
            jnp.concatenate([pivot[None], pivots[:-1]]),
            jnp.concatenate([new[None], y[:-1]]),
        )
        return carry, (factors, new / pivot)

    zeros = jnp.zeros(width, right.dtype)
    start = (jnp.zeros((width, width), right.dtype), zeros + 1, zeros)
    _, (lower, y) = jax.lax.scan(forward, start, (rows, right))
    # Of column i the factors of the rows i + 1, i + 2, ... below it.
    columns = [
        jnp.concatenate([lower[o:, o - 1], jnp.zeros(o, lower.dtype)])[: y.size]
        for o in range(1, width + 1)
    ]

    def backward(after: Array, now: tuple) -> tuple:
        factors, b = now
        new = b - jnp.sum(factors * after)
        return jnp.concatenate([new[None], after[:-1]]), new

    return jax.lax.scan(backward, zeros, (jnp.stack(columns, axis=1), y), reverse=True)[1]
