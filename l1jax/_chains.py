"""The prox of Σᵢ downᵢ(xᵢ − xᵢ₊₁)⁺ + upᵢ(xᵢ₊₁ − xᵢ)⁺ on a chain of numbers, exactly.

It is total variation where down = up, and monotone regression where one is 0 and the other infinite.

Which xᵢ lie above a level t is a binary problem: the least of Σᵢ (t − zᵢ)bᵢ plus what the edges cost, over
b in {0, 1} (Darbon and Sigelle, 2006; Hochbaum, 2001). In rounds, each segment of the chain is split at the
level that it would have if it were constant, its mean shifted by the edges that are cut already; a segment that
does not split has that value. All segments split at once, so that there are about log₂(segments) rounds.

The binary problem is dynamic programming: the cost of bᵢ = 1 over that of bᵢ = 0 is a message that each
coordinate shifts and each edge clips. Maps m -> clip(m + shift, low, high) are closed under composition, so the
messages are a prefix scan: over √n blocks at once, in √n steps.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


@jax.jit  # compiled once, where eager code would compile the loop at every call
def chain_prox(z: Float[Array, " n"], down: Any, up: Any) -> Float[Array, " n"]:
    """argmin_x ½‖x − z‖² + Σᵢ downᵢ(xᵢ − xᵢ₊₁)⁺ + upᵢ(xᵢ₊₁ − xᵢ)⁺.

    `down` and `up` are numbers ≥ 0 or one per edge (n − 1,); inf forbids that direction. Differentiable by all
    three: the segments are constants to derivatives, as they are off the kinks.
    """
    if z.size < 2:
        return z
    down, up = (_per_edge(one, z) for one in (down, up))
    cuts = _all_cuts(*jax.lax.stop_gradient((z, down, up)))
    return _levels(_pulled(z, down, up, cuts), cuts)


def _all_cuts(z: Array, down: Array, up: Array) -> Int[Array, " n"]:
    """The edges at which the solution has a jump: 1 where it falls, −1 where it rises, 0 elsewhere."""

    def split(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        cuts, _ = carry
        new = _cut(z, down, up, cuts)
        return cuts + new, jnp.any(new != 0)

    start = (jnp.zeros(z.size, jnp.int32), jnp.ones((), bool))
    return jax.lax.while_loop(lambda carry: carry[1], split, start)[0]


def _per_edge(cost: Any, z: Array) -> Array:
    """One cost for each coordinate: of the edge to the next one, and 0 for the last."""
    cost = jnp.broadcast_to(jnp.asarray(cost, z.dtype), (z.size - 1,))
    return jnp.concatenate([cost, jnp.zeros(1, z.dtype)])


def _pulled(z: Array, down: Array, up: Array, cuts: Int[Array, " n"]) -> Array:
    """z, shifted by the edges that are cut: 1 where xᵢ > xᵢ₊₁, −1 where xᵢ < xᵢ₊₁, 0 where none is known."""
    force = jnp.where(cuts > 0, down, jnp.where(cuts < 0, -up, 0))
    return z - force + jnp.roll(force, 1)  # of the last edge it is 0


def _levels(pulled: Array, cuts: Array) -> Array:
    """The mean of each segment, repeated over it."""
    segment = _count_before(cuts != 0)
    both = jnp.stack([pulled, jnp.ones_like(pulled)], axis=1)
    sums = jax.ops.segment_sum(both, segment, pulled.size, indices_are_sorted=True)[segment]
    return sums[:, 0] / sums[:, 1]


def _cut(z: Array, down: Array, up: Array, cuts: Array) -> Array:
    """The edges at which segments split: 1 or −1 there, as in `cuts`, and 0 elsewhere."""
    pulled = _pulled(z, down, up, cuts)
    cost = _levels(pulled, cuts) - pulled  # of being above the level
    is_end = (cuts != 0).at[-1].set(True)
    # Across an edge m becomes min(m, up) for b = 1 and min(m + down, 0) for b = 0; past an end, 0.
    message = _clip_scan(cost, jnp.where(is_end, 0, -down), jnp.where(is_end, 0, up))
    before = jnp.concatenate([jnp.zeros(1, z.dtype), message[:-1]]) + cost
    # Where neither value is worth the edge, b is that of the next coordinate: of the next that is known.
    above = before < jnp.where(is_end, 0, -down)
    is_known = above | is_end | (before > up)
    place = _count_before(is_known)
    known = jnp.zeros(z.size, jnp.int32)
    known = known.at[jnp.where(is_known, place, z.size)].set(above.astype(jnp.int32), mode="drop")
    above = known[place]
    return jnp.where(is_end, 0, above - jnp.roll(above, -1))


def _count_before(flags: Array) -> Int[Array, " n"]:
    """How many flags are set before each place: sums within √n blocks and over them, by products."""
    n = flags.size
    length = math.isqrt(n - 1) + 1
    count = -(-n // length)
    ones = jnp.pad(flags, (0, count * length - n)).reshape(count, length).astype(jnp.float32)
    with jax.default_matmul_precision("highest"):
        within = ones @ jnp.triu(jnp.ones((length, length), jnp.float32), 1)
        over = jnp.sum(ones, axis=1) @ jnp.triu(jnp.ones((count, count), jnp.float32), 1)
    return (within + over[:, None]).reshape(-1)[:n].astype(jnp.int32)


def _clip_scan(shift: Array, low: Array, high: Array) -> Array:
    """m₁, m₂, ... with mᵢ = clip(mᵢ₋₁ + shiftᵢ, lowᵢ, highᵢ) and m₀ = 0."""
    n = shift.size
    length = math.isqrt(n - 1) + 1
    count = -(-n // length)

    def in_blocks(x: Array, fill: float) -> Array:
        return jnp.pad(x, (0, count * length - n), constant_values=fill).reshape(count, length).T

    def compose(first: tuple, then: tuple) -> tuple[tuple, tuple]:
        (a, lower, upper), (b, least, most) = first, then
        both = (a + b, jnp.clip(lower + b, least, most), jnp.clip(upper + b, least, most))
        return both, both

    def carry_over(message: Array, block: tuple) -> tuple[Array, Array]:
        total, lower, upper = block
        return jnp.clip(message + total, lower, upper), message

    maps = in_blocks(shift, 0.0), in_blocks(low, -jnp.inf), in_blocks(high, jnp.inf)
    nothing = jnp.zeros(count, shift.dtype)
    identity = (nothing, nothing - jnp.inf, nothing + jnp.inf)
    blocks, prefixes = jax.lax.scan(compose, identity, maps)
    _, first = jax.lax.scan(carry_over, jnp.zeros((), shift.dtype), blocks)
    return jnp.clip(first + prefixes[0], prefixes[1], prefixes[2]).T.reshape(-1)[:n]
