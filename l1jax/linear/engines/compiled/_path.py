"""The path of all columns as one compiled program, block by block of the grid.

A block 1. takes a working set of fixed size: the active columns and those whose gradients are the nearest to
their bounds; 2. follows the path on it over the next strengths of the grid (`_solve`); 3. checks the optimality
conditions of every column at every one of them; 4. keeps what meets them. The gradients of all columns are
computed at two strengths of the block, and bounded in between: the residuals lie near a line, and
|x̃ⱼᵀ(r − r′)| ≤ ‖r − r′‖ for columns of norm one.

Sizes are fixed: where more columns are active than a capacity holds, the state says `full`, and a program of
the next capacity goes on from it. Where rounding has lost the path, it says `lost`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from ._batching import any_lane
from ._data import BLOCK, PathData, PathState
from ._solve import Capacity, Solved, WorkingSet, solve_curved, solve_lasso, take_working_set

_MAX_BLOCKS = 100
_MAX_STALLS = 2  # blocks of one strength without progress after which more columns are asked for
_NORM_ERROR = 1e-6  # of norms that were computed in float32


class Solutions(NamedTuple):
    """The coefficients at each strength by the columns of its working set, L rows."""

    values: Float[Array, "L W"]
    columns: Int[Array, "L W"]
    num_knots: Int[Array, " L"]


def advance(
    data: PathData, lams: Float[Array, " L"], state: PathState, capacity: Capacity
) -> tuple[PathState, Solutions]:
    """Goes down the grid as far as the capacity allows."""
    count, width = len(lams), capacity.working
    # Rows beyond the grid take what a block has no place for.
    padded = jnp.concatenate([lams, jnp.full(BLOCK, lams[-1])])
    rows = count + BLOCK
    tables = Solutions(
        jnp.zeros((rows, width), data.target.dtype), jnp.zeros((rows, width), jnp.int32),
        jnp.zeros(rows, jnp.int32),
    )  # fmt: skip
    state = state._replace(full=jnp.zeros_like(state.full), stalls=jnp.zeros_like(state.stalls))

    def body(carry: tuple[PathState, Solutions, Array]) -> tuple[PathState, Solutions, Array]:
        state, tables, blocks = carry
        state, tables = _block(data, padded, state, tables, capacity)
        return state, tables, blocks + 1

    def goes_on(carry: tuple[PathState, Solutions, Array]) -> Array:
        return any_lane(carry[0].is_going(count)) & (carry[2] < _MAX_BLOCKS)

    state, tables, _ = lax.while_loop(goes_on, body, (state, tables, jnp.int32(0)))
    return state, jax.tree.map(lambda table: table[:count], tables)


def _block(
    data: PathData, lams: Array, state: PathState, tables: Solutions, capacity: Capacity
) -> tuple[PathState, Solutions]:
    """Solves the next strengths of the grid, and keeps what meets the optimality conditions."""
    count = len(lams) - BLOCK
    going, row = state.is_going(count), jnp.arange(BLOCK + 1, dtype=jnp.int32)
    size = jnp.minimum(state.size, BLOCK)
    some = lax.dynamic_slice(lams, (state.num_done,), (BLOCK,))[jnp.minimum(row[:-1], size - 1)]
    working = take_working_set(data, state, capacity)
    goes = going & working.is_usable
    solve = solve_lasso if data.curved is None else solve_curved
    solved = solve(data, working, state, some, size, goes)
    block = _Block(some, solved, working, going, row)
    checked = _check(data, state, block)
    new = Solutions(
        solved.x[:-1] * data.unit[working.at],
        jnp.broadcast_to(working.at, (BLOCK, len(working.at))),
        solved.num_knots,
    )
    tables = Solutions(
        *(
            lax.dynamic_update_slice_in_dim(table, rows, state.num_done, 0)
            for table, rows in zip(tables, new, strict=True)
        )
    )
    return _next_state(data, lams, state, block, checked), tables


class _Block(NamedTuple):
    """What was followed in a block. Rows: its strengths, then the point where it ended."""

    lams: Float[Array, " B"]
    solved: Solved
    working: WorkingSet
    going: Bool[Array, ""]
    row: Int[Array, " B1"]

    @property
    def all_lams(self) -> Array:
        return jnp.append(self.lams, self.solved.lam)


class _Check(NamedTuple):
    """How far the solutions of a block meet the optimality conditions, and what was computed for that."""

    middle: Int[Array, ""]  # the two rows where the gradients of all columns are known
    last: Int[Array, ""]
    at_middle: Float[Array, " p"]
    at_last: Float[Array, " p"]
    outside: Float[Array, " B1"]  # bound on the relative violation outside of the working set
    ratios: Float[Array, "B1 p"]  # bound on the gradients of all columns over their weights


def _check(data: PathData, state: PathState, block: _Block) -> _Check:
    """Computes the gradients of all columns at two solutions, and bounds of them at the others."""
    solved, working, row = block.solved, block.working, block.row
    got, residuals = solved.num_reached, solved.residuals
    last = jnp.where(solved.is_between, BLOCK, jnp.maximum(got - 1, 0))
    middle = jnp.maximum(got // 2 - 1, 0)
    at_middle, at_last = data.neg_gradient(residuals[middle]), data.neg_gradient(residuals[last])

    def line(begin: Array, end: Array) -> tuple[Array, Array]:
        """The place of each residual along a line, and its distance from there."""
        along = end - begin
        square = along @ along
        place = ((residuals - begin) @ along) / jnp.where(square > 0, square, 1)
        rest = residuals - begin - place[:, None] * along
        return place[:, None], jnp.sqrt(jnp.sum(rest**2, axis=1))[:, None]

    first, second = (
        line(state.residual, residuals[middle]),
        line(residuals[middle], residuals[last]),
    )
    early = (row <= middle)[:, None]
    place, distance = (jnp.where(early, a, b) for a, b in zip(first, second, strict=True))
    begin = jnp.where(early, state.neg_gradient, at_middle)
    end = jnp.where(early, at_middle, at_last)
    on_line, margin = begin + place * (end - begin), distance * (1 + _NORM_ERROR)
    up, down = data.bounds.up, data.bounds.down
    ratios = jnp.maximum(
        _over(jnp.maximum(on_line + margin, 0), up), _over(jnp.maximum(margin - on_line, 0), down)
    )
    lams = block.all_lams
    is_inside = jnp.zeros(len(up), bool).at[working.at].set(True)
    outside = jnp.max(jnp.where(is_inside, 0, ratios), axis=1) / lams - 1
    return _Check(middle, last, at_middle, at_last, outside, ratios)


def _over(gradient: Array, weight: Array) -> Array:
    """gradient / weight for both ≥ 0; 0 where both are."""
    return jnp.where(gradient > 0, gradient / weight, 0)


def _next_state(
    data: PathData, lams: Array, state: PathState, block: _Block, check: _Check
) -> PathState:
    """Returns the state after the strengths that meet the conditions."""
    solved, working, row, going = block.solved, block.working, block.row, block.going
    size, got, between = jnp.minimum(state.size, BLOCK), solved.num_reached, solved.is_between
    # 1. How many strengths are good, and whether the point reached between two is.
    inside, outside = _tolerances(data)
    is_exact = solved.violation / data.weight <= inside
    is_good = is_exact & (check.outside <= outside)
    good = jnp.min(jnp.where((is_good | (row >= got))[:-1], BLOCK, row[:-1]))
    good = jnp.minimum(good, got)
    all_good = good == got
    goes_beyond = all_good & between & is_good[-1]
    usable = going & working.is_usable
    moved = usable & (goes_beyond | (good > 0))
    take = jnp.where(goes_beyond, BLOCK, jnp.maximum(good - 1, 0))
    # 2. The gradients there, and the columns that the next working set is chosen by.
    neg_gradient = lax.cond(
        any_lane((take != check.last) & (take != check.middle)),
        lambda: data.neg_gradient(solved.residuals[take]),
        lambda: jnp.where(take == check.last, check.at_last, check.at_middle),
    )
    ratio = _expected(data, lams, state, block, check, (take, good, neg_gradient))
    violating = (jnp.where(row < BLOCK, row < got, between) & (row >= good))[:, None]
    score = jnp.where(
        all_good,
        ratio,
        jnp.max(jnp.where(violating, check.ratios / block.all_lams[:, None], 0), axis=0),
    )
    # 3. The length of the next block.
    shorter = jnp.where(good > 0, jnp.maximum(good, 1), jnp.maximum(size // 2, 1))
    size = jnp.where(all_good & (moved | ~going), jnp.minimum(2 * size, BLOCK), shorter)
    stalls = jnp.where(moved | (state.size > 1), 0, state.stalls + 1)
    asks_for_columns = is_exact[0] & (check.outside[0] > outside)
    is_full = ~working.holds_all | (stalls > _MAX_STALLS) | (solved.too_many & ~moved)
    is_lost = ~moved & (~working.is_usable | ~asks_for_columns) & ~is_full
    zero = jnp.zeros_like(state.x)

    def where(flag: Array, new: Array, old: Array) -> Array:
        return jnp.where(flag, new, old)

    return PathState(
        lam=where(moved, block.all_lams[take], state.lam),
        x=where(moved, zero.at[working.at].set(solved.x[take]), state.x),
        side=where(moved, zero.at[working.at].set(solved.side[take]), state.side),
        neg_gradient=where(moved, neg_gradient, state.neg_gradient),
        residual=where(moved, solved.residuals[take], state.residual),
        score=where(usable, score, state.score),
        num_done=jnp.minimum(state.num_done + jnp.where(usable, good, 0), len(lams) - BLOCK),
        size=size,
        stalls=stalls,
        full=state.full | (going & is_full),
        lost=state.lost | (going & is_lost),
    )


def _tolerances(data: PathData) -> tuple[Any, Any]:
    """Returns the violations over λ, on the working set and outside of it, that are none."""
    eps = float(jnp.finfo(data.target.dtype).eps)
    if data.curved is None:  # beyond these, rounding has lost the path; mostly they are 1e-14
        return eps**0.45, eps**0.51
    tol = data.curved.tol / data.weight
    return tol, tol


def _expected(
    data: PathData,
    lams: Array,
    state: PathState,
    block: _Block,
    check: _Check,
    taken: tuple[Array, Array, Array],
) -> Array:
    """Returns the gradients over their weights: now, or on a line to the end of the next block."""
    take, good, neg_gradient = taken
    now = block.all_lams[take]
    is_middle = take == check.middle
    before = jnp.where(is_middle, state.neg_gradient, check.at_middle)
    since = jnp.where(is_middle, state.lam, block.all_lams[check.middle]) - now
    end = lams[jnp.minimum(state.num_done + good + BLOCK, len(lams) - BLOCK) - 1]
    steps = jnp.where(since > 0, (now - end) / jnp.where(since > 0, since, 1), 0)
    ahead = neg_gradient - (before - neg_gradient) * steps
    return jnp.maximum(data.bounds.ratio(neg_gradient), data.bounds.ratio(ahead))
