"""Arrays of whatever a user hands in: NumPy, JAX, lists, series and tables; real numbers of 4 or 8 bytes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from ._frames import is_frame, label_advice, only_column, read_frame, read_series
from ._sharded import to_numpy


def read_vector(values: Any, name: str, dtype: Any) -> Any:
    values = as_array(values, name)
    float_dtype(values, name)
    return values.astype(dtype)


def as_array(values: Any, name: str) -> Any:
    if isinstance(values, jax.Array):
        return _in_one_place(values)
    if is_frame(values):
        values = only_column(values)
    if is_frame(values):
        return read_frame(values, name)
    if hasattr(values, "to_frame"):
        values = read_series(values, name)
    elif hasattr(values, "to_numpy"):
        values = values.to_numpy()
    if np.ma.is_masked(values):
        raise ValueError(f"{name} has masked entries: drop those rows or fill them in first.")
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(f"{name} must be a rectangular array of numbers: {error}.") from None
    return array


def _in_one_place(values: jax.Array) -> Any:
    """An array that several devices hold, or parts of it, in one place, where its values are known."""
    if isinstance(values, Tracer) or len(values.sharding.device_set) == 1:
        return values
    if values.is_fully_replicated:
        return values.addressable_data(0)
    return to_numpy(values)


def float_dtype(array: Any, name: str) -> Any:
    """float32 for what is no longer, float64 for the rest; what JAX has of it for its arrays."""
    dtype = array.dtype
    if not jnp.issubdtype(dtype, jnp.floating) and dtype.kind not in "iub":
        hint = ""
        if name == "y" and dtype.kind in "OUS":
            hint = f" {label_advice(array, name)}"
        elif dtype.kind in "OUS":
            hint = f" Numbers that are kept as objects or text: {name}.astype(float). Else encode them first."
        raise TypeError(f"{name} must hold real numbers, got dtype {dtype}.{hint}")
    is_short = jnp.issubdtype(dtype, jnp.floating) and dtype.itemsize <= 4
    wanted = np.dtype(np.float32 if is_short else np.float64)
    return jax.dtypes.canonicalize_dtype(wanted) if isinstance(array, jax.Array) else wanted


def fresh_view(values: Any) -> Any:
    """A view of an array of NumPy: of one that a user has traced, JAX may have kept a rounded copy."""
    return values.view() if type(values) is np.ndarray else values
