"""What `minimize` accepts, and the sentences it answers with where it does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, PyTree

from .._checks import show_shape
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
    if step is None and not backtracking:
        raise ValueError("backtracking=False needs a step to trust: pass step.")
    return positive_leaf(step, "step")


def positive_leaf(value: Any, name: str) -> Any:
    """A number as a leaf, None as it is; a concrete one is checked to be positive and finite."""
    value = frozen(value)
    if value is None or isinstance(value, Tracer):
        return value
    leaf = value if isinstance(value, jax.Array) else np.asarray(value, np.float64)
    if not np.all((np.asarray(leaf) > 0) & np.isfinite(np.asarray(leaf))):
        raise ValueError(f"{name} must be positive and finite, got {value}.")
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


class Call(NamedTuple):
    """The options of a call: the first two are data, the others static."""

    tol: Any
    max_steps: Any
    has_aux: bool
    history: int


def scalar_part(fun, init, args, has_aux: bool) -> Callable[[PyTree], Array]:
    """x -> fun(x, *args) without aux, known to be a real scalar."""
    out = eqx.filter_eval_shape(fun, init, *args)
    if has_aux and not (isinstance(out, tuple) and len(out) == 2):
        raise TypeError(f"fun must return (scalar, aux) with has_aux=True, got {show_shape(out)}.")
    value: Any = out[0] if has_aux else out
    is_number = hasattr(value, "dtype") and jnp.issubdtype(value.dtype, jnp.floating)
    if not is_number or value.shape != ():
        hint = " Has it aux? Pass has_aux=True." if isinstance(value, tuple) else ""
        raise TypeError(f"fun must return a real scalar, got {show_shape(value)}.{hint}")
    return (lambda x: fun(x, *args)[0]) if has_aux else (lambda x: fun(x, *args))


def all_nonnegative(strength: PyTree) -> Array:
    leaves = [jnp.all(leaf >= 0) for leaf in jax.tree.leaves(strength)]
    return jnp.stack(leaves).all() if leaves else jnp.ones((), bool)


def check_call(fun: Any, args: Any, has_aux: Any, history: Any) -> None:
    if not callable(fun):
        raise TypeError(f"fun must be a function of params, got {type(fun).__name__}.")
    if not isinstance(args, tuple):
        raise TypeError(f"args must be a tuple, got {type(args).__name__}: pass args=(X, y).")
    if not isinstance(has_aux, bool):
        raise TypeError(f"has_aux must be True or False, got {has_aux!r}.")
    if isinstance(history, bool) or not isinstance(history, int | np.integer) or history < 0:
        raise ValueError(f"history must be a number of steps to record, got {history!r}.")
