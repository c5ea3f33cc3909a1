"""Which values are known now: under an eager `jax.grad` they are, under `jit` and `vmap` they are not."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.core import Tracer
from jaxtyping import PyTree


def frozen(tree: PyTree) -> PyTree:
    """The same values as constants to every derivative; those of an eager one become concrete."""

    if not is_differentiable(tree):
        return tree

    def leaf(value: Any) -> Any:
        if not isinstance(value, Tracer):
            return value
        value = jax.lax.stop_gradient(value)
        # What was a Python number would be a constant of every compiled function.
        is_ready = isinstance(value, jax.Array) and not is_weak(value)
        return value if is_ready else as_array(value)

    return jax.tree.map(leaf, tree)


def is_traced(tree: PyTree) -> bool:
    """Whether some value is not known now, even as a constant."""
    return is_differentiable(frozen(tree))


def is_differentiable(tree: PyTree) -> bool:
    """Whether some leaf is traced: by a derivative, or by what a derivative may come to."""
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree))


def known(value: Any) -> Any:
    """The value as a constant, or None where it is not known now."""
    value = frozen(value)
    return None if isinstance(value, Tracer) else value


def is_weak(value: Any) -> bool:
    """Whether it is known, and came from a Python number: functions would be compiled again for it."""
    return not isinstance(value, Tracer) and getattr(value, "weak_type", False)


def as_array(value: Any) -> jax.Array:
    """A NumPy array or a number as an array of JAX; a known one also inside of a derivative's rule."""
    with jax.ensure_compile_time_eval():
        return jax.device_put(np.asarray(value))
