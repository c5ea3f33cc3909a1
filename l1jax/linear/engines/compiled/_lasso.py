"""The lasso path on a working set: every knot once, and the grid filled in from the lines between them."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ._knots import (
    Bounds,
    Limits,
    Motion,
    Position,
    Segments,
    follow,
    is_active,
    limited,
    tried_again,
)
from ._tableau import Pivots, Products, Tableau


class Start(NamedTuple):
    """The solution at the first strength, and the inverse of Q on its active set, among the first M columns."""

    lam: Float[Array, ""]
    x: Float[Array, " W"]
    side: Float[Array, " W"]
    linear: Float[Array, " W"]  # c, less what columns that are held give
    inverse: Float[Array, "M M"]  # zero off the active set


class Followed(NamedTuple):
    """What was followed: the solutions at the strengths, and where it ended, in the last row."""

    x: Float[Array, "L1 W"]
    side: Float[Array, "L1 W"]
    lam: Float[Array, ""]  # reached
    num_reached: Int[Array, ""]  # strengths
    num_changes: Int[Array, ""]  # of the active set
    num_knots: Int[Array, " L"]  # since the strength before


def follow_lasso(
    products: Products,
    bounds: Bounds,
    limits: Limits | None,
    start: Start,
    lams: Float[Array, " L"],
    capacity: int,
    going: Bool[Array, ""],
) -> Followed:
    """Returns the solutions at descending strengths, until `capacity` changes of the active set are made."""
    tableau = Tableau(products, start.inverse, is_active(start.side))
    weights = bounds.signed(start.side)
    x, num_active = jnp.where(tableau.is_active, start.x, 0), len(start.inverse)
    for _ in range(2):  # iterative refinement of the start
        error = start.linear - products.dot_active(x[:num_active]) - start.lam * weights
        correction = start.inverse @ jnp.where(tableau.is_active, error, 0)[:num_active]
        x = x + tableau.padded(correction)
    z = jnp.where(tableau.is_active, x, start.linear - products.dot_active(x[:num_active]))
    table = jnp.zeros((capacity + 1, len(x)), x.dtype)
    position = Position(
        lam=start.lam,
        left=start.lam - lams[-1],
        z=z,
        rate=tableau.rate(weights),
        added=tableau.rate(bounds.added * weights),
        side=start.side,
        pivots=Pivots.none(capacity, x),
        segments=Segments(table[:, 0] - 1, table, table, table, table),
        num_knots=jnp.int32(0),
        last=jnp.int32(-1),
        going=going,
    )
    motion = Motion(tableau, bounds, bounds, limits, lams[-1], jnp.ones_like(start.lam), start.lam)
    return _on_grid(follow(motion, position), lams, limits)


def _on_grid(end: Position, lams: Array, limits: Limits | None) -> Followed:
    """Returns the solutions on the grid from their segments, less what the added weights do."""
    assert end.segments is not None
    assert end.added is not None
    begins = end.segments.lam.at[-1].set(-1)
    at = jnp.maximum(jnp.sum(begins >= lams[:, None], axis=1) - 1, 0)
    begin, z, rate, added, side = (part[at] for part in end.segments)
    x = z + (begin - lams)[:, None] * rate
    x, added, side = (
        jnp.concatenate([part, last[None]])
        for part, last in ((x, end.z), (added, end.added), (side, end.side))
    )
    without = x + jnp.append(lams, end.lam)[:, None] * added
    penalised = jnp.abs(side) == 1
    x = jnp.where(penalised & (without * side < 0), 0, without)  # it enters later than was said
    side = tried_again(side)
    since = jnp.sum(begins >= lams[:, None], axis=1, dtype=jnp.int32)
    return Followed(
        limited(x, side, limits),
        side,
        end.lam,
        jnp.sum(lams >= end.lam, dtype=jnp.int32),
        end.pivots.num_pivots,
        jnp.diff(since, prepend=jnp.zeros(1, jnp.int32)),
    )
