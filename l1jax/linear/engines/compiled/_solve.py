"""The solutions at the strengths of a block, on a working set of fixed size."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from ...._arrays import matmul
from ._data import PathData, PathState
from ._knots import Bounds, Limits, is_active, is_held
from ._lasso import Start, follow_lasso
from ._newton import Columns, Point, follow_newton
from ._tableau import Products, inverse_on

_CHANGES = 64  # of the active set in a block of the lasso
_SCORE_ACTIVE, _SCORE_HELD = 3e38, 2e38  # beyond all others: a working set has them all


class Capacity(NamedTuple):
    """The sizes that a program is compiled for."""

    working: int  # W: columns of the working set
    active: int  # M: of them, at most so many active


class WorkingSet(NamedTuple):
    at: Int[Array, " W"]
    columns: Float[Array, "W n"]  # times √s
    bounds: Bounds
    limits: Limits | None
    x: Float[Array, " W"]
    side: Float[Array, " W"]
    inverse: Float[Array, "M M"]  # of the Gram matrix on the active ones; 0 for curved losses
    holds_all: Bool[Array, ""]  # all active columns are among the first M, all held ones in it
    is_usable: Bool[Array, ""]


def take_working_set(data: PathData, state: PathState, capacity: Capacity) -> WorkingSet:
    """Takes the active columns and those of the largest score."""
    width, most = capacity
    score = jnp.where(is_held(state.side), _SCORE_HELD, state.score)
    score = jnp.where(is_active(state.side), _SCORE_ACTIVE, score)
    # In float64 `top_k` takes 20 times as long.
    at = lax.top_k(score.astype(jnp.float32), width)[1].astype(jnp.int32)
    side, columns = state.side[at], data.columns(at)
    holds_all = ~jnp.any(is_active(side[most:]))
    if data.limits is not None:
        holds_all &= jnp.sum(is_held(side)) == jnp.sum(is_held(state.side))
    if data.curved is None:
        first = columns[:most]
        inverse = inverse_on(is_active(side[:most]), matmul(first, first.T))
        is_usable = holds_all & jnp.all(jnp.isfinite(inverse))
    else:
        inverse, is_usable = jnp.zeros((most, most), columns.dtype), holds_all
    limits = data.limits and data.limits.at(at)
    bounds, x = data.bounds.at(at), state.x[at]
    return WorkingSet(at, columns, bounds, limits, x, side, inverse, holds_all, is_usable)


class Solved(NamedTuple):
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


def solve_lasso(
    data: PathData, working: WorkingSet, state: PathState, lams: Array, size: Array, going: Array
) -> Solved:
    """Follows the path of squared error over the strengths of a block."""
    linear, inverse, limits = data.linear[working.at], working.inverse, working.limits
    if limits is not None:
        held = jnp.where(is_held(working.side), working.x, 0)
        linear = linear - matmul(working.columns, matmul(held, working.columns))
    start = Start(state.lam, working.x, working.side, linear, inverse)
    products = _products(working.columns, len(inverse))
    found = follow_lasso(products, working.bounds, limits, start, lams, _CHANGES, going)
    got = jnp.minimum(found.num_reached, size)
    residuals = data.target - matmul(found.x, working.columns)
    all_ = jnp.append(lams, found.lam)[:, None]
    neg_gradient = matmul(residuals, working.columns.T)
    off = neg_gradient - all_ * working.bounds.signed(found.side)
    violation = working.bounds.violation(all_, found.side, neg_gradient, off)
    return Solved(
        x=found.x,
        side=found.side,
        residuals=residuals,
        violation=violation / all_[:, 0],
        lam=found.lam,
        num_reached=got,
        is_between=(got < size) & (found.num_changes > 0),
        num_knots=found.num_knots,
        too_many=jnp.zeros((), bool),
    )


def _products(columns: Array, most: int) -> Products:
    """Returns the products with the Gram matrix; it is formed where there are more rows than columns."""
    width, n = columns.shape
    if n > width:
        gram = matmul(columns, columns.T)
        return Products(
            lambda v: matmul(v, gram),
            lambda v: matmul(v, gram[:most]),
            lambda j: lax.dynamic_index_in_dim(gram, j, 0, keepdims=False),
            jnp.diagonal(gram),
        )
    first = columns[:most]
    return Products(
        lambda v: matmul(columns, matmul(v, columns)),
        lambda v: matmul(columns, matmul(v, first)),
        lambda j: matmul(columns, lax.dynamic_index_in_dim(columns, j, 0, keepdims=False)),
        jnp.sum(columns**2, axis=1),
    )


def solve_curved(
    data: PathData, working: WorkingSet, state: PathState, lams: Array, size: Array, going: Array
) -> Solved:
    """Follows the path of another loss, or with a quadratic part of the penalty."""
    curved, at = data.curved, working.at
    assert curved is not None
    quad = curved.quad[at]
    bounds = working.bounds
    columns = Columns(working.columns, bounds, bounds.exact(), quad, working.limits)
    neg_gradient = state.neg_gradient[at] - state.lam * quad * working.x
    point = Point(working.x, working.side, state.lam, neg_gradient)
    most = len(working.inverse)
    found, too_many = follow_newton(curved, columns, point, lams, size, going, most)
    return Solved(
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
