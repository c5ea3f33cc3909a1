"""Penalties and losses of a call: checked, their numbers as arrays in the precision of the data."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ...penalties import Penalty
from ...penalties._base import check_max_step
from ._arrays import fresh_view
from ._precision import x64_is_on

# Penalties, by structure and shapes, whose methods were traced without an error: that takes 5 ms.
_CHECKED: set[Any] = set()


def as_parameter(value: Any, dtype: Any) -> Any:
    """A number or array in a field of a penalty or loss, real ones in the precision of the data.

    Python numbers would be constants of the compiled program, and of fewer digits where x64 is off.
    """
    if isinstance(value, float | np.floating):
        return np.asarray(value, dtype)
    if hasattr(value, "dtype") and jnp.issubdtype(value.dtype, jnp.floating):
        return fresh_view(value.astype(dtype))
    return np.asarray(value) if isinstance(value, np.generic) else value


def check_penalty(pen: Penalty, shape: tuple[int, ...], has_strength: bool) -> Penalty:
    """The penalty, its strength checked as that of a built-in one is at its construction.

    Traces its value and prox: they raise its own sentences about lengths that do not fit.
    """
    strength = pen.strength_value
    if has_strength and strength is not None and np.ndim(strength) != 0:
        raise ValueError(
            f"{pen.strength} must be one number, got shape {np.shape(strength)}: fit a grid with "
            "l1jax.path(..., lams=...), or jax.vmap over pen.with_strength."
        )
    if strength is not None:
        pen = pen.with_strength(strength)
    example = pen
    if not has_strength and pen.has_strength:
        example = pen.with_strength(1.0)
    check_max_step(example)
    leaves, structure = jax.tree.flatten(example)
    case = (structure, tuple(map(np.shape, leaves)), tuple(map(type, leaves)), shape, x64_is_on())
    if case not in _CHECKED:
        for method in (example.value, example.prox):
            try:
                jax.eval_shape(method, jax.ShapeDtypeStruct(shape, jnp.result_type(float)))
            except TypeError:
                if has_strength and strength is None and pen.has_strength:
                    raise ValueError(
                        f"{type(pen).__name__} has no {pen.strength} yet: pass it, or "
                        "pen.with_strength(0.1)."
                    ) from None
                raise
        _CHECKED.add(case)
    return pen
