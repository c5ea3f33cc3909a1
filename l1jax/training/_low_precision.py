"""Parameters of bfloat16 or float16: steps that are too small for their spacing are not rounded away.

Between 0.5 and 1 the spacing of bfloat16 is 2⁻⁸, and to add less than half of it changes nothing. Two
remedies are in use: a float32 copy of the parameters, the master weights (Micikevicius et al., 2018), and
stochastic rounding, whose mean is right (Gupta et al., 2015).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree

from .._sharding import is_explicit
from ._checks import needs_params


class MasterWeightsState(NamedTuple):
    """The state of the steps, and float32 copies of parameters that have less; `MaskedNode` for others."""

    inner: optax.OptState
    master: PyTree


def in_float32(
    tx: optax.GradientTransformationExtraArgs, master_weights: bool, rounding_key: Any
) -> optax.GradientTransformationExtraArgs:
    """The same steps, taken in float32 where parameters have less, and rounded as the arguments say.

    Both off: `tx` itself. The state of `tx` must hold its `count`.
    """
    if not isinstance(master_weights, bool | np.bool_):
        raise TypeError(f"master_weights must be True or False, got {master_weights!r}.")
    if rounding_key is None:
        return _with_master_weights(tx) if master_weights else tx
    if master_weights:
        raise ValueError(
            "pass master_weights=True or rounding_key, not both: either one keeps small steps."
        )
    return _with_stochastic_rounding(tx, _read_key(rounding_key))


def _with_master_weights(
    tx: optax.GradientTransformationExtraArgs,
) -> optax.GradientTransformationExtraArgs:
    def init(params):
        master = jax.tree.map(lambda p: _precise(p) if _is_low(p) else optax.MaskedNode(), params)
        return MasterWeightsState(tx.init(jax.tree.map(_precise, params)), master)

    def update(updates, state, params=None, **extra_args):
        needs_params(params)

        def current(m, p):
            # Parameters that were set otherwise, as by a reload, are what counts.
            return p if _is_masked(m) else jnp.where(_nearest(m, p.dtype) == p, m, _precise(p))

        before = jax.tree.map(current, state.master, params, is_leaf=_is_masked)
        moves, inner, after = _take(tx, updates, state.inner, before, params, extra_args)
        moves = _map(lambda u, x, p: _towards(u, _nearest(x, p.dtype), p), moves, after, params)
        master = jax.tree.map(
            lambda m, x, old: m if _is_masked(m) else (old if x is None else x),
            state.master,
            after,
            before,
            is_leaf=lambda leaf: leaf is None or _is_masked(leaf),
        )
        return moves, MasterWeightsState(inner, master)

    return optax.GradientTransformationExtraArgs(init, update)


def _with_stochastic_rounding(
    tx: optax.GradientTransformationExtraArgs, key: Array
) -> optax.GradientTransformationExtraArgs:
    def init(params):
        return tx.init(jax.tree.map(_precise, params))

    def update(updates, state, params=None, **extra_args):
        needs_params(params)
        before = jax.tree.map(_precise, params)
        moves, inner, after = _take(tx, updates, state, before, params, extra_args)
        now = jax.random.fold_in(key, state.count)
        leaves, tree = jax.tree.flatten(params, is_leaf=_is_none)
        keys = tree.unflatten([jax.random.fold_in(now, k) for k in range(len(leaves))])
        moves = _map(
            lambda u, x, p, k: _towards(u, stochastic_round(k, x, p.dtype), p) if _is_low(p) else u,
            moves,
            after,
            params,
            keys,
        )
        return moves, inner

    return optax.GradientTransformationExtraArgs(init, update)


def _take(
    tx: optax.GradientTransformationExtraArgs,
    updates: PyTree,
    state: optax.OptState,
    before: PyTree,
    params: PyTree,
    extra_args: dict[str, Any],
) -> tuple[PyTree, optax.OptState, PyTree]:
    """(updates, state, parameters after) of a step from `before`, for which gradients are as precise."""
    updates = _map(lambda g, p: _precise(jnp.asarray(g)) if _is_low(p) else g, updates, params)
    moves, inner = tx.update(updates, state, before, **extra_args)
    after = _map(lambda u, x: (x + u).astype(jnp.asarray(x).dtype), moves, before)
    return moves, inner, after


def _towards(move: Array, new: Array, old: Array) -> Array:
    """An update u for which old + u is `new`, which `old` can represent: in float32, without rounding.

    Up to a factor of 2¹⁶ between the two it is exact, and where `new` is zero.
    """
    return new - _precise(old) if _is_low(old) else move


def _nearest(x: Array, dtype: Any) -> Array:
    """x rounded to the numbers of the dtype; XLA may leave out a cast there and back."""
    if x.dtype == dtype:
        return x
    info = jnp.finfo(dtype)
    normal = jax.lax.reduce_precision(x, info.nexp, info.nmant)
    if info.tiny <= jnp.finfo(x.dtype).tiny:
        return normal
    # `reduce_precision` takes what lies below the normal numbers to zero, where spacing is uniform.
    spacing = float(info.smallest_subnormal)
    return jnp.where(jnp.abs(x) < float(info.tiny), jnp.round(x / spacing) * spacing, normal)


def stochastic_round(key: Array, x: Array, dtype: Any) -> Array:
    """One of the two neighbours of x in a shorter dtype, at random, with x as its mean; as float32.

    Numbers of the dtype, zero above all, are unchanged.
    """
    info = jnp.finfo(dtype)
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    power = jax.lax.bitcast_convert_type(bits & 0x7F800000, jnp.float32)  # 2^⌊log₂|x|⌋
    # Below the normal numbers spacing is uniform; XLA has no spacing below the normal float32.
    least = max(float(info.tiny), float(jnp.finfo(jnp.float32).tiny / info.eps))
    spacing = jnp.maximum(power, least) * float(info.eps)
    below = jnp.floor(x / spacing)
    fraction = x / spacing - below
    chance = jax.random.uniform(key, x.shape, jnp.float32, **_placed_like(x))
    rounded = (below + (chance < fraction)) * spacing
    return jnp.where(jnp.isfinite(x) & (fraction > 0), rounded, x)


def _placed_like(x: Array) -> dict[str, Any]:
    return {"out_sharding": jax.typeof(x).sharding} if is_explicit(x) else {}


def _read_key(key: Any) -> Array:
    if isinstance(key, int | np.integer) and not isinstance(key, bool):
        return jax.random.key(int(key))
    if isinstance(key, jax.Array):
        is_typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
        if (is_typed and key.ndim == 0) or (key.dtype == jnp.uint32 and key.ndim == 1):
            return key
    raise TypeError(
        "rounding_key must be one key of jax.random or a whole number, got "
        f"{key!r}. (In optax.inject_hyperparams name it in static_args.)"
    )


def _is_low(leaf: Any) -> bool:
    return getattr(leaf, "dtype", None) in (jnp.bfloat16, jnp.float16)


def _precise(leaf: Any) -> Any:
    """In float32 at least; of an abstract leaf the same."""
    if not _is_low(leaf):
        return leaf
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf.update(dtype=jnp.float32)
    return jnp.asarray(leaf).astype(jnp.float32)


def _map(function: Callable[..., Any], *trees: PyTree) -> PyTree:
    return jax.tree.map(lambda *x: None if x[0] is None else function(*x), *trees, is_leaf=_is_none)


def _is_none(leaf: Any) -> bool:
    return leaf is None


def _is_masked(leaf: Any) -> bool:
    return isinstance(leaf, optax.MaskedNode)
