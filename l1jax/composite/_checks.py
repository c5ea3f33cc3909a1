"""What `minimize` accepts, and the sentences it answers with where it does not."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import PyTree

from .._tracing import frozen, is_traced
from ..penalties._base import Penalty, check_max_step, longest_step


def check_init(init: PyTree) -> PyTree:
    """init as JAX arrays with strong dtypes, which a loop can carry."""
    paths = jax.tree_util.tree_leaves_with_path(init)
    if not any(np.size(leaf) for _, leaf in paths):
        raise ValueError("init has no entries: there is nothing to minimise over.")
    for path, leaf in paths:
        dtype = getattr(leaf, "dtype", None) or np.result_type(type(leaf))
        if not jnp.issubdtype(dtype, jnp.floating):
            name = f"init{jax.tree_util.keystr(path)}"
            given = f"dtype {dtype}" if hasattr(leaf, "dtype") else f"{leaf!r}"
            raise TypeError(
                f"{name} must be a floating-point array, got {given}: convert it, or pass what is "
                "not minimised over in args."
            )
    return jax.tree.map(
        lambda leaf: jax.lax.convert_element_type(
            jnp.asarray(leaf), jax.dtypes.canonicalize_dtype(jnp.result_type(leaf))
        ),
        init,
    )


def check_penalty(pen: Any) -> Penalty:
    if isinstance(pen, type) and issubclass(pen, Penalty):
        raise TypeError(
            f"pen must be a penalty, got the class {pen.__name__}: write {pen.__name__}(0.1)."
        )
    if not isinstance(pen, Penalty):
        raise TypeError(
            f"pen must be a l1jax.Penalty or None, got {type(pen).__name__}: a class with value "
            "and prox becomes one by deriving from l1jax.Penalty."
        )
    if pen.has_strength and pen.strength_value is None:
        raise ValueError(
            f"{type(pen).__name__} has no {pen.strength} yet: pass it, or use "
            "pen.with_strength(...)."
        )
    check_max_step(pen)
    return pen


def step_leaf(step: Any, backtracking: bool) -> Any:
    if step is None:
        if not backtracking:
            raise ValueError("backtracking=False needs a step to trust: pass step.")
        return None
    step = frozen(step)
    if isinstance(step, Tracer):
        return step
    leaf = step if isinstance(step, jax.Array) else np.asarray(step, np.float64)
    if not np.all((np.asarray(leaf) > 0) & np.isfinite(np.asarray(leaf))):
        raise ValueError(f"step must be positive and finite, got {step}.")
    return leaf


def check_step(solver: Any, pen: Penalty) -> None:
    """Raises where a step that backtracking may not shorten is longer than the prox allows."""
    if solver.backtracking or is_traced((solver.step, pen.max_step)):
        return
    longest = float(longest_step(pen, float))
    if float(frozen(solver.step)) > longest:
        raise ValueError(
            f"step must be at most {longest:.6g} for {type(pen).__name__}, whose prox takes steps below "
            f"{float(frozen(pen.max_step)):.6g}, got {float(frozen(solver.step)):.6g}."
        )


def default_tolerance(init: PyTree) -> np.ndarray:
    bits = min(jnp.finfo(leaf.dtype).bits for leaf in jax.tree.leaves(init))
    return np.asarray({64: 1e-6, 32: 1e-4}.get(bits, 1e-2))
