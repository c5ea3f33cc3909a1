"""Checks of arguments that every room makes, and how errors show a value."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ._tracing import frozen, is_traced


def check_number(value: Any, name: str, least: int, whole: bool = False) -> Any:
    """A number as an array, so that another one is no recompilation."""
    if isinstance(value, jax.Array):  # tracers too, whose values are checked where they run
        concrete = None if is_traced(value) else np.asarray(frozen(value))
    else:
        value = concrete = np.asarray(value)
    kinds = "iu" if whole else "iuf"
    if value.shape != () or value.dtype.kind not in kinds:
        what = "an integer" if whole else "a number"
        raise TypeError(f"{name} must be {what}, got {show_shape(value)}.")
    if concrete is not None and not concrete >= least:
        raise ValueError(f"{name} must be at least {least}, got {concrete}.")
    xp = jnp if isinstance(value, jax.Array) else np
    if whole:
        return xp.asarray(xp.minimum(value, np.iinfo(np.int32).max), np.int32)
    return value if value.dtype.kind == "f" else xp.asarray(value, float)


def numbers_as_leaves(tree: PyTree) -> PyTree:
    """Python floats as arrays: a leaf instead of a constant of the compiled program.

    `jnp.asarray` keeps them weakly typed, so that they do not promote float32.
    """

    def leaf(value):
        if isinstance(value, np.generic):
            return np.asarray(value)
        return jnp.asarray(value) if isinstance(value, float) else value

    return jax.tree.map(leaf, tree)


def show_shape(value: Any) -> str:
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"shape {value.shape} and dtype {value.dtype}"
    return f"{type(value).__name__}"
