"""The lasso path of all columns as one compiled program, block by block of the grid.

A block 1. takes a working set of fixed size: the active columns and those whose gradients are the nearest to
their bounds; 2. inverts the Gram matrix of the active ones; 3. follows the path from knot to knot over the next
strengths of the grid; 4. checks the optimality conditions of every column at every one of them; 5. keeps what
meets them. The gradients of all columns are computed at two strengths of the block, and bounded in between:
the residuals lie near a line, and |x̃ⱼᵀ(r − r′)| ≤ ‖r − r′‖ for columns of norm one.

Sizes are fixed: where more columns are active than a capacity holds, the state says `full`, and a program of
the next capacity goes on from it. Where rounding has lost the path, it says `lost`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from ....losses import Loss
from ...data._matrix import DataMatrix
from ._batching import any_lane
from ._knots import OUT, UNPENALISED, Bounds
from ._lasso import Start, follow_lasso
from ._newton import Columns, Curved, Point, follow_newton
from ._tableau import Products, inverse_on

BLOCK = 20  # strengths
_CHANGES = 64  # of the active set in a block
_MAX_BLOCKS = 100
_MAX_STALLS = 2  # blocks of one strength without progress after which more columns are asked for
_NORM_ERROR = 1e-6  # of norms that were computed in float32
_FIRST = 3e38  # score of the columns that a working set must hold


class Capacity(NamedTuple):
    """The sizes that a program is compiled for."""

    working: int  # W: columns of the working set
    active: int  # M: of them, at most so many active


class PathInputs(NamedTuple):
    """What a path is of: data on the solver's scale, a loss about its null model, penalty weights."""

    x: DataMatrix  # with a column of ones, where the loss has an intercept and is not squared error
    y: Float[Array, " n"]
    s: Float[Array, " n"]
    eta: Float[Array, " n"]  # linear predictor of the null model
    loss: Loss
    norms: Float[Array, " p"]  # √Σᵢ sᵢ x̃ᵢⱼ²
    up: Float[Array, " p"]  # penalty weights at λ = 1
    down: Float[Array, " p"]
    quad: Float[Array, " p"] | None  # None: the penalty has no quadratic part
    unpenalised: Bool[Array, " p"]
    tol: Float[
        Array, ""
    ]  # violation of the optimality conditions that is none, over λ; of curved losses


class PathData(NamedTuple):
    """The same in rows times √s and columns of norm one."""

    x: DataMatrix
    root: Float[Array, " n"]  # √s
    target: Float[Array, " n"]  # −∂L/∂η / √s at the null model: √s∘(y − η) of squared error
    unit: Float[Array, " p"]  # 1/√Σᵢ sᵢ x̃ᵢⱼ², or 0
    linear: Float[Array, " p"]  # −∇L at the null model
    bounds: Bounds  # penalty weights at λ = 1
    weight: Float[Array, ""]  # a typical one: the largest gradient over λmax
    curved: Curved | None  # None: squared error, with no quadratic part of the penalty

    @classmethod
    def of(cls, given: PathInputs) -> PathData:
        """Returns the data in these units."""
        has_unit = given.norms > 0
        divisor = jnp.where(has_unit, given.norms, 1)
        unit = jnp.where(has_unit, 1 / divisor, 0)
        up, down = (jnp.where(has_unit, w / divisor, jnp.inf) for w in (given.up, given.down))
        root = jnp.sqrt(given.s)
        slope = given.loss.gradient(given.y, given.eta, given.s)
        target = -slope * jnp.where(root > 0, 1 / jnp.where(root > 0, root, 1), 0)
        is_free = jnp.isfinite(up) | jnp.isfinite(down)
        linear = jnp.where(is_free, -unit * given.x.rdot(slope), 0)
        bounds = Bounds.apart(up, down)
        ratio = bounds.ratio(jnp.where(given.unpenalised, 0, linear))
        largest, most = jnp.max(jnp.abs(linear)), jnp.max(ratio)
        typical = jnp.where(most > 0, largest / jnp.where(most > 0, most, 1), 1)
        curved = None
        if given.quad is not None or not given.loss.is_quadratic:
            quad = jnp.zeros_like(unit) if given.quad is None else given.quad * unit**2
            parts = given.loss, given.y, given.s, given.eta, root, quad
            curved = Curved(*parts, given.tol * typical)
        return cls(given.x, root, target, unit, linear, bounds, typical, curved)

    def columns(self, at: Array) -> Array:
        """Returns some columns, as the rows of an array (W, n)."""
        return (self.x.columns(at) * self.root[:, None]).T * self.unit[at][:, None]

    def neg_gradient(self, residual: Array) -> Array:
        """Returns −∇L of all columns from √s∘(y − η)."""
        return self.unit * self.x.rdot(self.root * residual)


class PathState(NamedTuple):
    """How far a path has come: a solution, and what the next working set is chosen by."""

    lam: Float[Array, ""]
    x: Float[Array, " p"]  # less the null model's
    side: Float[Array, " p"]  # see `_knots`
    neg_gradient: Float[Array, " p"]
    residual: Float[Array, " n"]
    score: Float[Array, " p"]  # the larger, the sooner a column is expected to enter
    num_done: Int[Array, ""]  # strengths
    size: Int[Array, ""]  # strengths of the next block
    stalls: Int[Array, ""]  # blocks of one strength in a row without progress
    full: Bool[Array, ""]
    lost: Bool[Array, ""]

    def is_going(self, count: int) -> Array:
        """Whether there is more to do, and it can be done."""
        return (self.num_done < count) & ~self.full & ~self.lost


class Solutions(NamedTuple):
    """The coefficients at each strength by the columns of its working set, L rows."""

    values: Float[Array, "L W"]
    columns: Int[Array, "L W"]
    num_knots: Int[Array, " L"]


def begin(data: PathData, unpenalised: Bool[Array, " p"], lams: Float[Array, " L"]) -> PathState:
    """Returns the null model, at the strength where the first column enters or the first of the grid."""
    neg_gradient = jnp.where(unpenalised, 0, data.linear)
    ratio = data.bounds.ratio(neg_gradient)
    lam = jnp.maximum(jnp.max(ratio) * (1 + 50 * jnp.finfo(ratio.dtype).eps), lams[0])
    zero, no = jnp.zeros_like(ratio), jnp.zeros((), bool)
    return PathState(
        lam, zero, jnp.where(unpenalised, UNPENALISED, zero), neg_gradient, data.target, ratio,
        jnp.int32(0), jnp.int32(BLOCK), jnp.int32(0), no, no,
    )  # fmt: skip


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
    working = _working_set(data, state, capacity)
    goes = going & working.is_usable
    solve = _solve_lasso if data.curved is None else _solve_curved
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


class _WorkingSet(NamedTuple):
    at: Int[Array, " W"]
    columns: Float[Array, "W n"]  # times √s
    bounds: Bounds
    x: Float[Array, " W"]
    side: Float[Array, " W"]
    inverse: Float[
        Array, "M M"
    ]  # of the Gram matrix of the active columns; zeros where that is not needed
    holds_all: Bool[Array, ""]  # whether all active columns are among the first M
    is_usable: Bool[Array, ""]


def _working_set(data: PathData, state: PathState, capacity: Capacity) -> _WorkingSet:
    """Takes the active columns and those of the largest score."""
    width, most = capacity
    score = jnp.where(state.side != OUT, _FIRST, state.score)
    # In float64 `top_k` takes 20 times as long.
    at = lax.top_k(score.astype(jnp.float32), width)[1].astype(jnp.int32)
    side, columns = state.side[at], data.columns(at)
    holds_all = ~jnp.any(side[most:] != OUT)
    if data.curved is None:
        first = columns[:most]
        inverse = inverse_on(side[:most] != OUT, _matmul(first, first.T))
        is_usable = holds_all & jnp.all(jnp.isfinite(inverse))
    else:
        inverse, is_usable = jnp.zeros((most, most), columns.dtype), holds_all
    return _WorkingSet(
        at, columns, data.bounds.at(at), state.x[at], side, inverse, holds_all, is_usable
    )


def _products(columns: Array, most: int) -> Products:
    """Returns the products with the Gram matrix; it is formed where there are more rows than columns."""
    width, n = columns.shape
    if n > width:
        gram = _matmul(columns, columns.T)
        return Products(
            lambda v: _matmul(v, gram),
            lambda v: _matmul(v, gram[:most]),
            lambda j: lax.dynamic_index_in_dim(gram, j, 0, keepdims=False),
            jnp.diagonal(gram),
        )
    first = columns[:most]
    return Products(
        lambda v: _matmul(columns, _matmul(v, columns)),
        lambda v: _matmul(columns, _matmul(v, first)),
        lambda j: _matmul(columns, lax.dynamic_index_in_dim(columns, j, 0, keepdims=False)),
        jnp.sum(columns**2, axis=1),
    )


def _matmul(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision="highest")


class _Solved(NamedTuple):
    """The solutions on the working set: at the strengths of a block, and a point reached after them."""

    x: Float[Array, "B1 W"]
    side: Float[Array, "B1 W"]
    residuals: Float[Array, "B1 n"]  # −∂L/∂η / √s
    violation: Float[Array, " B1"]  # of the optimality conditions on the working set, over λ
    lam: Float[Array, ""]  # of that point
    num_reached: Int[Array, ""]  # strengths
    is_between: Bool[Array, ""]  # whether that point lies between two strengths
    num_knots: Int[Array, " B"]
    too_many: Bool[Array, ""]  # whether more columns became active than there is room for


def _solve_lasso(
    data: PathData, working: _WorkingSet, state: PathState, lams: Array, size: Array, going: Array
) -> _Solved:
    """Follows the path of squared error over the strengths of a block."""
    linear, inverse = data.linear[working.at], working.inverse
    start = Start(state.lam, working.x, working.side, linear, inverse)
    products = _products(working.columns, len(inverse))
    found = follow_lasso(products, working.bounds, start, lams, _CHANGES, going)
    got = jnp.minimum(found.num_reached, size)
    residuals = data.target - _matmul(found.x, working.columns)
    all_ = jnp.append(lams, found.lam)[:, None]
    neg_gradient = _matmul(residuals, working.columns.T)
    active = all_ * working.bounds.signed(found.side)
    up, down = (jnp.where(jnp.isinf(bound), bound, all_ * bound) for bound in working.bounds[:2])
    off = jnp.maximum(jnp.maximum(neg_gradient - up, -neg_gradient - down), 0)
    off = jnp.where(found.side != OUT, jnp.abs(neg_gradient - active), off)
    return _Solved(
        x=found.x,
        side=found.side,
        residuals=residuals,
        violation=jnp.max(off / all_, axis=1),
        lam=found.lam,
        num_reached=got,
        is_between=(got < size) & (found.num_changes > 0),
        num_knots=found.num_knots,
        too_many=jnp.zeros((), bool),
    )


def _solve_curved(
    data: PathData, working: _WorkingSet, state: PathState, lams: Array, size: Array, going: Array
) -> _Solved:
    """Follows the path of another loss, or with a quadratic part of the penalty."""
    curved, at = data.curved, working.at
    assert curved is not None
    quad = curved.quad[at]
    columns = Columns(working.columns, working.bounds, working.bounds.exact(), quad)
    neg_gradient = state.neg_gradient[at] - state.lam * quad * working.x
    point = Point(working.x, working.side, state.lam, neg_gradient)
    most = len(working.inverse)
    found, too_many = follow_newton(curved, columns, point, lams, size, going, most)
    return _Solved(
        x=found.x,
        side=found.side,
        residuals=found.residuals,
        violation=found.violation.at[-1].set(jnp.inf),
        lam=lams[-1],
        num_reached=found.num_found,
        is_between=jnp.zeros((), bool),
        num_knots=found.num_knots[:-1],
        too_many=too_many,
    )


class _Block(NamedTuple):
    """What was followed in a block. Rows: its strengths, then the point where it ended."""

    lams: Float[Array, " B"]
    solved: _Solved
    working: _WorkingSet
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
    outside: Float[
        Array, " B1"
    ]  # bound on the relative violation of columns out of the working set
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
