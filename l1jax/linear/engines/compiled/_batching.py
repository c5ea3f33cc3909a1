"""Loops under `vmap` that run until the last lane is done, without a selection per lane."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool


@jax.custom_batching.custom_vmap
def any_lane(flag: Bool[Array, ""]) -> Bool[Array, ""]:
    """Returns the flag; under `vmap`, whether it is set in any lane.

    As the predicate of a `while_loop` it stays a scalar, so that `vmap` selects nothing lane by lane: the
    body must leave alone what belongs to lanes that are done.
    """
    return flag


@any_lane.def_vmap
def _(size: int, batched: list[bool], flag: Array) -> tuple[Any, bool]:
    del size
    return any_lane(jnp.any(flag, axis=0) if batched[0] else flag), False
