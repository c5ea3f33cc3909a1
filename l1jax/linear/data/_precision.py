"""The precision of a call: local x64 contexts for NumPy float64, and tolerances by dtype."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..._checks import check_number


def default_tolerance(dtype: Any) -> float:
    """`tol`, unless it is given."""
    return 1e-6 if dtype == np.float64 else 1e-4


def check_tol(tol: Any, dtype: Any) -> Any:
    if tol is None:
        return np.asarray(default_tolerance(dtype), dtype)
    return check_number(tol, "tol", 0).astype(dtype)


def check_max_steps(max_steps: Any) -> Any:
    return check_number(max_steps, "max_steps", 1, whole=True)


def x64_is_on() -> bool:
    return jnp.result_type(float) == jnp.float64


@contextlib.contextmanager
def precision(wants_x64: bool) -> Iterator[None]:
    """A local x64 context where NumPy float64 data asks for one."""
    with jax.enable_x64(True) if wants_x64 else contextlib.nullcontext():
        yield


def give_back(result: Any, wants_x64: bool) -> Any:
    """NumPy arrays where the answer was found in a local x64 context: JAX would round it outside."""
    if not wants_x64:
        return result
    return jax.tree.map(
        lambda leaf: np.asarray(leaf) if isinstance(leaf, jax.Array) else leaf, result
    )
