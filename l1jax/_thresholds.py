"""Thresholds that the entries of a group share, where a sum over the group says how large they are."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ._groups import Groups

_LEVEL = 4  # units of rounding within which an entry is on the threshold


def shared_threshold(
    tops: Float[Array, "p *k"],
    slopes: Float[Array, "p *k"],
    level: Any,
    scale: Any,
    groups: Groups,
    extra: float = 0.0,
) -> Float[Array, " groups"]:
    """The μ ≥ 0 of each group with scale·Σᵢ(topsᵢ − slopesᵢ μ)⁺ = level + extra·μ; 0 where there is none.

    Newton's method from the left: the entries that are above zero become fewer until they stay (Michelot,
    1986), which is exact. To derivatives they are a constant.
    """
    fixed = jax.lax.stop_gradient((tops, slopes, level, scale))
    active = _active(*fixed, extra, groups)
    return jnp.maximum(_root(active, (tops, slopes, level, scale), extra, groups), 0)


def per_entry(per_group: Array, groups: Groups, like: Array) -> Array:
    """One value per group, shaped to be compared with entries (p, *k)."""
    per_feature = groups.broadcast(per_group)
    return per_feature.reshape(per_feature.shape + (1,) * (like.ndim - 1))


def _total(values: Array, groups: Groups) -> Float[Array, " groups"]:
    return groups.sums(jnp.sum(values.reshape(values.shape[0], -1), axis=1))


def _root(active: Array, terms: tuple, extra: float, groups: Groups) -> Float[Array, " groups"]:
    tops, slopes, level, scale = terms
    above = scale * _total(jnp.where(active, tops, 0), groups) - level
    slope = scale * _total(jnp.where(active, slopes, 0), groups) + extra
    return jnp.where(slope > 0, above / jnp.where(slope > 0, slope, 1), 0)


# Compiled once, where eager code would compile the loop at every call.
@functools.partial(jax.jit, static_argnums=(4, 5))
def _active(
    tops: Array, slopes: Array, level: Any, scale: Any, extra: float, groups: Groups
) -> Bool[Array, "p *k"]:
    """The entries that are above zero at the threshold."""
    terms = (tops, slopes, level, scale)

    def shrink(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        active, _ = carry
        new = active & (
            tops > slopes * per_entry(_root(active, terms, extra, groups), groups, tops)
        )
        # Of equal entries at a level of 0 none is above their mean.
        is_left = per_entry(_total(new.astype(tops.dtype), groups) > 0, groups, tops)
        new = jnp.where(is_left, new, active)
        return new, jnp.any(new != active)

    start = (jnp.ones(tops.shape, bool), jnp.ones((), bool))
    return jax.lax.while_loop(lambda carry: carry[1], shrink, start)[0]


def l1_inf_levels(
    sizes: Float[Array, "p *k"], radius: Array, groups: Groups
) -> Float[Array, " groups"]:
    """The μ_g ≥ 0 that add up to the radius, and cut off the same sum θ of each group or, at 0, all of it.

    Newton's method for Σ_g μ_g(θ) = radius from θ = 0, where the sum is larger: it falls, and is convex.
    """
    theta, is_above = _cut_off(*jax.lax.stop_gradient((sizes, radius)), groups)
    counts = jnp.maximum(_total(is_above.astype(sizes.dtype), groups), 1)
    is_in = _total(is_above.astype(sizes.dtype), groups) > 0
    means = _total(jnp.where(is_above, sizes, 0), groups) / counts
    rates = jnp.where(is_in, 1 / counts, 0)
    # The last of Newton's steps again, for derivatives.
    rate = jnp.sum(rates)
    exact = (jnp.sum(means) - radius) / jnp.where(rate > 0, rate, 1)
    theta = jnp.where(rate > 0, exact, theta)
    return jnp.where(is_in & (radius > 0), jnp.maximum(means - theta * rates, 0), 0)


@functools.partial(jax.jit, static_argnums=2)
def _cut_off(sizes: Array, radius: Array, groups: Groups) -> tuple[Array, Bool[Array, "p *k"]]:
    """θ, and the entries that are cut off."""
    ones = jnp.ones_like(sizes)

    def above(theta: Array) -> Array:
        level = per_entry(shared_threshold(sizes, ones, theta, 1.0, groups), groups, sizes)
        # Those on the level too: to the right of θ they are above it.
        return (sizes >= level * (1 - _LEVEL * jnp.finfo(sizes.dtype).eps)) & (level > 0)

    def step(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        theta, _ = carry
        is_above = above(theta)
        counts = _total(is_above.astype(sizes.dtype), groups)
        rates = jnp.where(counts > 0, 1 / jnp.maximum(counts, 1), 0)
        total = jnp.sum(_total(jnp.where(is_above, sizes, 0), groups) * rates)
        rate = jnp.sum(rates)
        new = jnp.where(rate > 0, (total - radius) / jnp.where(rate > 0, rate, 1), theta)
        is_moved = new > theta * (1 + _LEVEL * jnp.finfo(theta.dtype).eps)
        return jnp.where(is_moved, new, theta), is_moved

    start = (jnp.zeros((), sizes.dtype), jnp.ones((), bool))
    theta, _ = jax.lax.while_loop(lambda carry: carry[1], step, start)
    return theta, above(theta)
