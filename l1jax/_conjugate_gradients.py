"""Conjugate gradients for symmetric systems of trees."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

T = TypeVar("T")  # an array, or a tree of arrays


def conjugate_gradients(system: Callable[[T], T], rhs: T, tolerance: Any, max_steps: int) -> T:
    """Solves system(u) = rhs to this fraction of |rhs|, from zero.

    Ends where a direction is not curved upwards. JAX's own holds the system twice, the second time for a start
    of zero: of what is compiled that is most.
    """
    size = _square(rhs)

    def goes_on(carry: tuple[T, T, T, Array, Array, Array]) -> Any:
        _, _, _, square, count, is_curved = carry
        return is_curved & (square > tolerance**2 * size) & (count < max_steps)

    def step(
        carry: tuple[T, T, T, Array, Array, Array],
    ) -> tuple[T, T, T, Array, Array, Array]:
        u, residual, direction, square, count, _ = carry
        image = system(direction)
        curvature: Any = optax.tree.vdot(direction, image)
        is_curved = jnp.asarray(curvature > 0)
        length = jnp.where(is_curved, square / jnp.where(is_curved, curvature, 1), 0)
        u, residual = _add(u, direction, length), _add(residual, image, -length)
        new = _square(residual)
        return u, residual, _add(residual, direction, new / square), new, count + 1, is_curved

    none = jnp.zeros((), jnp.int32)
    start = optax.tree.zeros_like(rhs), rhs, rhs, size, none, jnp.ones((), bool)
    return jax.lax.while_loop(goes_on, step, start)[0]


def _add(a: T, b: T, factor: Array) -> T:
    return jax.tree.map(lambda x, y: x + factor * y, a, b)


def _square(tree: Any) -> Any:
    return optax.tree.vdot(tree, tree)
