"""The lasso path on a working set, from knot to knot: principal pivots in product form.

With Q = X̃ᵀ diag(s) X̃ and c = X̃ᵀ(s∘y) of the W columns of the working set, and the active set A, the
solution at λ meets c_A − Q_AA x_A = λ w_A sign(x_A). As λ falls by t, x_A moves along d = Q_AA⁻¹ w_A sign(x_A)
and the negative gradient g = c − Qx of the other columns along −Q_{·A} d, until a coefficient reaches zero or
a gradient its bound: a knot, where one column enters or leaves A.

One vector `z` holds x_A and g of the rest, one vector `rate` their derivatives by −λ. The tableau T, by which a
pivot changes the rates, is never formed: one of its columns is a product with the inverse of the first Q_AA,
one with the columns, and one with the pivots since then. A knot costs O(M² + nW), with no factorisation.
Source: Osborne, Presnell and Turlach (2000); Cottle and Dantzig (1968) for principal pivots.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from ...._types import AnyArray
from ._batching import any_lane

OUT, DEPENDENT, UNPENALISED = 0.0, 2.0, 3.0
"""What `side` says of a column beside ±1, the sign of its coefficient: not in the active set; dependent on it,
and so left out; in it without a weight."""


class Products(NamedTuple):
    """The products with Q of the W columns, of which the first M may be active at the start."""

    dot: Callable[[Array], Array]  # (M,) to (W,): Q[:, :M] v
    row: Callable[[Array], Array]  # Q[j]
    diagonal: Float[Array, " W"]


class Bounds(NamedTuple):
    """The penalty weights of positive and negative coefficients, moved apart; inf: there are none.

    Each is larger than what was asked for by another tiny fraction, so that ties are none: no two columns
    enter at once, and exact copies one after the other. What that adds to the solutions is linear in λ on an
    active set, and is taken off again.
    """

    up: Float[Array, " W"]
    down: Float[Array, " W"]
    added: Float[Array, " W"]  # fraction of each that was added

    @classmethod
    def apart(cls, up: AnyArray, down: AnyArray, xp: Any) -> Bounds:
        """Returns weights moved by up to 1e-10 of them (4e-5 in float32); `xp` is NumPy or jax.numpy."""
        most = float(jnp.finfo(up.dtype).eps) ** 0.64
        added = most * xp.mod(0.6180339887498949 * xp.arange(1, len(up) + 1), 1.0).astype(up.dtype)
        return cls(up * (1 + added), down * (1 + added), added / (1 + added))

    def at(self, columns: Array) -> Bounds:
        """Returns the weights of some columns."""
        return Bounds(*(part[columns] for part in self))

    def signed(self, side: Array) -> Array:
        """Returns w sign(x) of the active columns, 0 of the others and of unpenalised ones."""
        return jnp.where(side == 1, self.up, jnp.where(side == -1, -self.down, 0))


class Start(NamedTuple):
    """The solution at the first strength, and the inverse of Q on its active set, among the first M columns."""

    lam: Float[Array, ""]
    x: Float[Array, " W"]
    side: Float[Array, " W"]
    linear: Float[Array, " W"]  # c
    inverse: Float[Array, "M M"]  # zero off the active set


class Segments(NamedTuple):
    """The line from each knot to the next: where it begins, the solution there and its rate; K + 1 rows."""

    lam: Float[Array, " K1"]  # descending; −1 in rows that are not used
    z: Float[Array, "K1 W"]
    rate: Float[Array, "K1 W"]
    added: Float[Array, "K1 W"]  # rate by the added weights alone
    side: Float[Array, "K1 W"]


class Pivots(NamedTuple):
    """The changes of the active set since the start, in product form."""

    columns: Float[Array, "K1 W"]
    inverse: Float[Array, " K1"]  # 1 / the pivot
    shift: Float[Array, " W"]  # of the diagonal

    def column(self, first: Array, j: Array) -> Array:
        """Returns column j of the present tableau, given that of the first one."""
        of_j = lax.dynamic_index_in_dim(self.columns, j, 1, keepdims=False)
        changed = first - (self.inverse * of_j) @ self.columns
        return changed + jnp.where(jnp.arange(len(first)) == j, self.shift, 0)


class _State(NamedTuple):
    lam: Float[Array, ""]
    z: Float[Array, " W"]
    rate: Float[Array, " W"]
    added: Float[Array, " W"]
    side: Float[Array, " W"]
    pivots: Pivots
    segments: Segments
    num_changes: Int[Array, ""]
    num_knots: Int[Array, ""]
    last: Int[Array, ""]  # the column of the knot before
    going: Bool[Array, ""]


class Followed(NamedTuple):
    """What was followed: the solutions at the strengths, and where it ended, in the last row."""

    x: Float[Array, "L1 W"]
    side: Float[Array, "L1 W"]
    lam: Float[Array, ""]  # reached
    num_reached: Int[Array, ""]  # strengths
    num_changes: Int[Array, ""]  # of the active set
    num_knots: Int[Array, " L"]  # since the strength before


def follow_knots(
    products: Products,
    bounds: Bounds,
    start: Start,
    lams: Float[Array, " L"],
    capacity: int,
    going: Bool[Array, ""],
) -> Followed:
    """Returns the solutions at descending strengths, until `capacity` changes of the active set are made."""
    was_active = start.side != OUT
    tolerance = tolerances(start.x.dtype)
    num_active = len(start.inverse)

    def padded(v: Array) -> Array:
        return jnp.pad(v, (0, len(start.x) - num_active))

    def first_column(j: Array) -> Array:
        """Column j of the tableau at the start."""
        at, row = jnp.arange(len(start.x)) == j, products.row(j)
        inside = was_active[j]
        wanted = jnp.where(inside, at[:num_active], was_active[:num_active] * row[:num_active])
        solved = start.inverse @ wanted
        through = products.dot(solved)
        active = jnp.where(inside, -1, 1) * padded(solved)
        return jnp.where(was_active, active, jnp.where(inside, through, row - through))

    def body(state: _State) -> _State:
        return _next_knot(state, bounds, lams[-1], tolerance, products.diagonal, first_column)

    x = start.x
    for _ in range(2):  # iterative refinement of the start
        error = start.linear - products.dot(x[:num_active]) - start.lam * bounds.signed(start.side)
        x = x + padded(start.inverse @ jnp.where(was_active, error, 0)[:num_active])
    z = jnp.where(was_active, x, start.linear - products.dot(x[:num_active]))

    def rate_of(weights: Array) -> Array:
        direction = start.inverse @ weights[:num_active]
        return jnp.where(was_active, padded(direction), -products.dot(direction))

    weights = bounds.signed(start.side)
    rate, added = rate_of(weights), rate_of(bounds.added * weights)
    table, numbers = jnp.zeros((capacity + 1, len(x)), x.dtype), jnp.zeros(capacity + 1, x.dtype)
    state = _State(
        start.lam, z, rate, added, start.side,
        Pivots(table, numbers, jnp.zeros_like(x)),
        Segments(numbers - 1, table, table, table, table),
        jnp.int32(0), jnp.int32(0), jnp.int32(-1), going,
    )  # fmt: skip
    end = lax.while_loop(lambda state: any_lane(state.going), body, state)
    return _on_grid(end, lams)


class Tolerances(NamedTuple):
    """What counts as nothing beside 1, in the precision at hand."""

    dependent: float  # a pivot, over its diagonal
    still: float  # the speed at which a gradient comes nearer to its bound, over its weight
    again: float  # the step after which the column of one knot is that of the next, over λ


def tolerances(dtype: np.dtype) -> Tolerances:
    """Returns 1e-11, 1e-13 and 1e-13 in float64; 1e-5, 1e-6 and 1e-6 in float32."""
    eps = float(jnp.finfo(dtype).eps)
    nothing = 450 * eps if eps < 1e-10 else 8 * eps
    return Tolerances(eps**0.7, nothing, nothing)


def _next_knot(
    state: _State,
    bounds: Bounds,
    lam_end: Array,
    tolerance: Tolerances,
    diagonal: Array,
    first_column: Callable[[Array], Array],
) -> _State:
    """Goes to the next knot, or to the last strength, and changes the active set there."""
    lam, z, rate, added, side, old, segments, num_changes, num_knots, _, going = state
    spare = len(segments.lam) - 1  # the row where lanes write that are done
    # 1. The segment that begins here, unless a column that is dependent has ended it.
    row = jnp.where(going & (segments.lam[num_changes] < 0), num_changes, spare)
    begin = jnp.where(going, lam, -1)
    here = (begin, z, rate, added, side)
    segments = Segments(*(_put(a, b, row) for a, b in zip(segments, here, strict=True)))
    # 2. The next knot: the place of column j, or the end.
    to_up, to_down = _steps_to_bounds(lam, z, rate, bounds, tolerance.still)
    j, step = _first(_steps(state, to_up, to_down, tolerance.again))
    ends = step >= lam - lam_end
    step = jnp.where(going, jnp.minimum(step, lam - lam_end), 0)
    z = z + step * rate
    lam = jnp.where(going, jnp.where(ends, lam_end, lam - step), lam)
    # 3. The pivot there.
    column = old.column(first_column(j), j)
    pivot, at, leaves = column[j], jnp.arange(len(z)) == j, jnp.abs(side[j]) == 1
    changes = going & ~ends
    depends = ~leaves & (pivot <= tolerance.dependent * diagonal[j])
    pivots = changes & ~depends
    entered = jnp.where(to_up[j] <= to_down[j], 1.0, -1.0).astype(z.dtype)
    weight = jnp.where(jnp.where(leaves, side[j], entered) > 0, bounds.up[j], -bounds.down[j])

    def pivoted(rate: Array, weight: Array) -> Array:
        of_j = jnp.where(leaves, rate[j], weight + rate[j]) / pivot
        own = jnp.where(leaves, -weight - of_j, of_j)
        return jnp.where(pivots, jnp.where(at, own, rate - of_j * column), rate)

    rate, added = pivoted(rate, weight), pivoted(added, bounds.added[j] * weight)
    z = jnp.where(at & pivots, jnp.where(leaves, lam * weight, 0), z)
    after = jnp.where(depends, DEPENDENT, jnp.where(leaves, OUT, entered))
    side = jnp.where(at & changes, after, side)
    # 4. The product form.
    sign = jnp.where(leaves, -1, 1)
    row = jnp.where(pivots, num_changes, spare)
    new = Pivots(
        _put(old.columns, jnp.where(at, column - sign, column), row),
        _put(old.inverse, jnp.where(pivots, 1 / pivot, 0), row),
        jnp.where(at & pivots, old.shift - 2 * sign, old.shift),
    )
    num_changes, num_knots = num_changes + pivots, num_knots + 1
    going = changes & (num_changes < spare) & (num_knots < 4 * spare)
    return _State(lam, z, rate, added, side, new, segments, num_changes, num_knots, j, going)


def _steps_to_bounds(
    lam: Array, z: Array, rate: Array, bounds: Bounds, still: float
) -> tuple[Array, Array]:
    """Returns by how much λ falls until the gradient of each column meets its upper and its lower bound."""
    up, down = bounds.up, bounds.down
    nearing_up, nearing_down = up + rate, down - rate
    return (
        jnp.where(nearing_up > still * up, (lam * up - z) / nearing_up, jnp.inf),
        jnp.where(nearing_down > still * down, (lam * down + z) / nearing_down, jnp.inf),
    )


def _steps(state: _State, to_up: Array, to_down: Array, again: float) -> Array:
    """Returns by how much λ falls until each column changes: until it enters, or its coefficient is zero."""
    z, rate, side = state.z, state.rate, state.side
    to_zero = jnp.where(side * rate < 0, -z / rate, jnp.inf)
    steps = jnp.where(jnp.abs(side) == 1, to_zero, jnp.minimum(to_up, to_down))
    steps = jnp.maximum(steps, 0)
    repeated = (jnp.arange(len(z)) == state.last) & (steps <= again * state.lam)
    return jnp.where((side >= DEPENDENT) | repeated, jnp.inf, steps)


def _first(steps: Array) -> tuple[Array, Array]:
    """Returns the place of the least of numbers ≥ 0, and that number.

    Order among them is that of their bits, whose last ones are replaced by the place: a single minimum,
    where XLA's `argmin` on a CPU takes five times as long. Which of two is first is decided up to these.
    """
    bits = jnp.int64 if steps.dtype == jnp.float64 else jnp.int32
    low = (1 << max(1, (len(steps) - 1).bit_length())) - 1
    keys = lax.bitcast_convert_type(steps, bits) & ~low | jnp.arange(len(steps), dtype=bits)
    j = (jnp.min(keys) & low).astype(jnp.int32)
    return j, steps[j]


def _put(table: Array, value: Array, row: Array) -> Array:
    return lax.dynamic_update_index_in_dim(table, value.astype(table.dtype), row, 0)


def _on_grid(end: _State, lams: Array) -> Followed:
    """Returns the solutions on the grid, from the segments that they lie on."""
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
    active = penalised | (side == UNPENALISED)
    since = jnp.sum(begins >= lams[:, None], axis=1, dtype=jnp.int32)
    return Followed(
        jnp.where(active, x, 0),
        jnp.where(active, side, OUT),
        end.lam,
        jnp.sum(lams >= end.lam, dtype=jnp.int32),
        end.num_changes,
        jnp.diff(since, prepend=jnp.zeros(1, jnp.int32)),
    )
