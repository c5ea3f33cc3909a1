"""From knot to knot: how a solution on a working set moves, in lines, as λ falls and gradients change.

The solution of ½ xᵀQx − cᵀx + λ Σ wⱼ|xⱼ| with active set A meets c_A − Q_AA x_A = λ w_A sign(x_A). One vector
`z` holds x_A, and the negative gradient g = c − Qx of the other columns. As time goes on, λ falls at a constant
speed and c changes at a constant rate: z moves along a line, until a coefficient reaches zero or a gradient its
bound. That is a knot, where one column enters or leaves A. A knot costs O(M² + nW), with no factorisation.
Where coefficients have limits, one that reaches its limit leaves A too, and is held there until its gradient
falls below its bound. Source: Osborne, Presnell and Turlach (2000).
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from ._batching import any_lane
from ._tableau import Pivots, Tableau, put

OUT, DEPENDENT, UNPENALISED, HELD, STUCK = 0.0, 2.0, 3.0, 4.0, 5.0
"""What `side` says of a column beside ±1, the sign of its coefficient: not in the active set; dependent on it,
and so left out; in it without a weight; ±, held at the limit of this sign; ±, the same, dependent and so held
even where its gradient would let it go. Dependent columns are tried again once the active set is another."""


def tried_again(side: Array) -> Array:
    """Returns the sides with none that is left out, or held, as it depends on others."""
    side = jnp.where(side == DEPENDENT, OUT, side)
    return jnp.where(jnp.abs(side) == STUCK, HELD * jnp.sign(side), side)


def is_active(side: Array) -> Array:
    """Returns which columns are in the active set."""
    return (jnp.abs(side) == 1) | (side == UNPENALISED)


def is_held(side: Array) -> Array:
    """Returns which columns are held at a limit."""
    return jnp.abs(side) >= HELD


class Limits(NamedTuple):
    """How far from 0 positive and negative coefficients may be; inf: as far as they like."""

    up: Float[Array, " W"]
    down: Float[Array, " W"]

    def at(self, columns: Array) -> Limits:
        """Returns the limits of some columns."""
        return Limits(self.up[columns], self.down[columns])

    def on(self, side: Array) -> Array:
        """Returns the distance of the limit on the side of each column."""
        return jnp.where(side > 0, self.up, self.down)


def limited(x: Array, side: Array, limits: Limits | None) -> Array:
    """Returns the coefficients of active columns within their limits, of held ones there, and 0 of others."""
    x = jnp.where(is_active(side), x, 0)
    if limits is None:
        return x
    limit = limits.on(side)
    held = jnp.where(jnp.isfinite(limit), jnp.sign(side) * limit, 0)
    return jnp.where(is_held(side) | (side * x > limit), held, x)


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
    def apart(cls, up: Array, down: Array) -> Bounds:
        """Returns weights moved by up to 1e-10 of them (4e-5 in float32)."""
        most = float(jnp.finfo(up.dtype).eps) ** 0.64
        place = jnp.arange(1, len(up) + 1, dtype=up.dtype)
        added = most * jnp.mod(0.6180339887498949 * place, 1)
        return cls(up * (1 + added), down * (1 + added), added / (1 + added))

    def exact(self) -> Bounds:
        """Returns the weights as they were."""
        rest = 1 - self.added
        return Bounds(self.up * rest, self.down * rest, jnp.zeros_like(self.added))

    def ratio(self, neg_gradient: Array) -> Array:
        """Returns the λ at which each gradient is on its bound."""
        toward = jnp.where(neg_gradient > 0, self.up, self.down)
        return jnp.where(toward > 0, jnp.abs(neg_gradient) / jnp.where(toward > 0, toward, 1), 0)

    def violation(self, lam: Array, side: Array, neg_gradient: Array, off: Array) -> Array:
        """Returns the largest violation of the optimality conditions at λ.

        Of active columns that is |off|, of the others what their gradients exceed their bounds by, and of held
        ones what they are short of them by.
        """
        up, down = (jnp.where(jnp.isinf(bound), bound, lam * bound) for bound in self[:2])
        over = jnp.maximum(neg_gradient - up, -neg_gradient - down)
        short = jnp.where(side > 0, up - neg_gradient, down + neg_gradient)
        over = jnp.maximum(jnp.where(is_held(side), short, over), 0)
        return jnp.max(jnp.where(is_active(side), jnp.abs(off), over), axis=-1)

    def at(self, columns: Array) -> Bounds:
        """Returns the weights of some columns."""
        return Bounds(*(part[columns] for part in self))

    def signed(self, side: Array) -> Array:
        """Returns w sign(x) of the active columns, 0 of the others and of unpenalised ones."""
        return jnp.where(side == 1, self.up, jnp.where(side == -1, -self.down, 0))


class Segments(NamedTuple):
    """The line from each knot to the next: where it begins, the solution there and its rate; K + 1 rows."""

    lam: Float[Array, " K1"]  # descending; −1 in rows that are not used
    z: Float[Array, "K1 W"]
    rate: Float[Array, "K1 W"]
    added: Float[Array, "K1 W"]  # rate by the added weights alone
    side: Float[Array, "K1 W"]


class Position(NamedTuple):
    """A solution, and how it moves."""

    lam: Float[Array, ""]
    left: Float[Array, ""]  # time to the end
    z: Float[Array, " W"]
    rate: Float[Array, " W"]
    added: Float[Array, " W"] | None  # rate by the added weights alone, where it is wanted
    side: Float[Array, " W"]
    pivots: Pivots
    segments: Segments | None  # where they are wanted
    num_knots: Int[Array, ""]
    last: Int[Array, ""]  # the column of the knot before
    going: Bool[Array, ""]


class Motion(NamedTuple):
    """What is the same all the way."""

    tableau: Tableau  # the first one
    bounds: Bounds  # of the gradients of columns that are out
    weights: Bounds  # of the columns that are active
    limits: Limits | None  # of coefficients
    lam_end: Float[Array, ""]
    speed: Float[Array, ""]  # of λ, downwards
    unit: Float[Array, ""]  # of time


class Tolerances(NamedTuple):
    """What counts as nothing beside 1, in the precision at hand."""

    dependent: float  # a pivot, over its diagonal
    still: float  # the speed at which a gradient comes nearer to its bound, over that of the bound
    again: float  # the time after which the column of one knot is that of the next, over its unit


def tolerances(dtype: np.dtype) -> Tolerances:
    """Returns 1e-11, 1e-13 and 1e-13 in float64; 1e-5, 1e-6 and 1e-6 in float32."""
    eps = float(jnp.finfo(dtype).eps)
    nothing = 450 * eps if eps < 1e-10 else 8 * eps
    return Tolerances(eps**0.7, nothing, nothing)


def follow(motion: Motion, position: Position) -> Position:
    """Goes on to the end of time, or until the product form is full."""
    return lax.while_loop(
        lambda position: any_lane(position.going), lambda at: _next_knot(motion, at), position
    )


def _next_knot(motion: Motion, at: Position) -> Position:
    """Goes to the next knot, or to the end of time, and changes the active set there."""
    lam, left, z, rate, added, side, pivots, segments, num_knots, _, going = at
    tolerance, speed = tolerances(z.dtype), motion.speed
    if segments is not None:
        segments = _with_segment(segments, at)
    # 1. The next knot: the place of column j, or the end.
    to_up, to_down = _times_to_bounds(motion, at, tolerance.still)
    j, step = _first(_times(motion, at, to_up, to_down, tolerance.again))
    ends = step >= left
    step = jnp.where(going, jnp.minimum(step, left), 0)
    z, left = z + step * rate, left - step
    lam = jnp.where(going, jnp.where(ends, motion.lam_end, lam - step * speed), lam)
    # 2. The pivot there.
    column = pivots.column(motion.tableau, j)
    pivot, is_j, leaves = column[j], jnp.arange(len(z)) == j, jnp.abs(side[j]) == 1
    changes = going & ~ends
    diagonal = motion.tableau.products.diagonal[j]
    depends = ~leaves & (pivot <= tolerance.dependent * diagonal)
    is_pivot = changes & ~depends
    entered = jnp.where(to_up[j] <= to_down[j], 1.0, -1.0).astype(z.dtype)
    begins, out, dependent = jnp.zeros_like(lam), jnp.asarray(OUT), jnp.asarray(DEPENDENT)
    if motion.limits is not None:  # one that is let go begins there, one that grows ends there
        returns, sign = is_held(side[j]), jnp.sign(side[j])
        entered = jnp.where(returns, sign, entered)
        begins = jnp.where(returns, sign * motion.limits.on(side)[j], begins)
        out = jnp.where(side[j] * rate[j] > 0, HELD * side[j], OUT)
        dependent = jnp.where(returns, STUCK * sign, DEPENDENT)
    up, down, _ = motion.weights
    weight = jnp.where(jnp.where(leaves, side[j], entered) > 0, up[j], -down[j])

    def pivoted(rate: Array, weight: Array) -> Array:
        of_j = jnp.where(leaves, rate[j], weight + rate[j]) / pivot
        own = jnp.where(leaves, -weight - of_j, of_j)
        return jnp.where(is_pivot, jnp.where(is_j, own, rate - of_j * column), rate)

    rate = pivoted(rate, speed * weight)
    if added is not None:
        added = pivoted(added, motion.weights.added[j] * weight)
    z = jnp.where(is_j & is_pivot, jnp.where(leaves, lam * weight, begins), z)
    after = jnp.where(depends, dependent, jnp.where(leaves, out, entered))
    side = jnp.where(is_j & changes, after.astype(side.dtype), side)
    pivots = pivots.add(j, column, leaves, is_pivot)
    num_knots = num_knots + going
    # Each is in and out twice at most, or nothing is gained.
    going = changes & ~pivots.is_full & (num_knots < 4 * len(pivots.inverse))
    return Position(lam, left, z, rate, added, side, pivots, segments, num_knots, j, going)


def _with_segment(segments: Segments, at: Position) -> Segments:
    """Returns the segments with the one that begins here, unless a dependent column has ended that before."""
    assert at.added is not None
    going, place = at.going, at.pivots.num_pivots
    row = jnp.where(going & (segments.lam[place] < 0), place, len(segments.lam) - 1)
    begin = jnp.where(going, at.lam, -1)
    here = (begin, at.z, at.rate, at.added, at.side)
    return Segments(*(put(table, value, row) for table, value in zip(segments, here, strict=True)))


def _times_to_bounds(motion: Motion, at: Position, still: float) -> tuple[Array, Array]:
    """Returns when the gradient of each column meets its upper, and when its lower bound."""
    up, down, _ = motion.bounds
    tiny = jnp.finfo(up.dtype).tiny

    def time(bound: Array, z: Array, rate: Array) -> Array:
        falls = motion.speed * bound
        nearing = falls + rate
        # Infinite bounds are never met: ∞ > ∞ is not so.
        return jnp.where(nearing > still * falls + tiny, (at.lam * bound - z) / nearing, jnp.inf)

    return time(up, at.z, at.rate), time(down, -at.z, -at.rate)


def _times(motion: Motion, at: Position, to_up: Array, to_down: Array, again: float) -> Array:
    """Returns when each column changes: when it enters, or its coefficient is zero."""
    z, rate, side = at.z, at.rate, at.side
    leaving = jnp.where(side * rate < 0, -z / rate, jnp.inf)
    times = jnp.minimum(to_up, to_down)
    if motion.limits is not None:
        to_limit, back = _times_of_limits(motion, motion.limits, at)
        leaving = jnp.where(side * rate > 0, to_limit, leaving)
        times = jnp.where(is_held(side), back, times)
    times = jnp.maximum(jnp.where(jnp.abs(side) == 1, leaving, times), 0)
    repeated = (jnp.arange(len(z)) == at.last) & (times <= again * motion.unit)
    rests = (side == DEPENDENT) | (side == UNPENALISED) | (jnp.abs(side) == STUCK)
    return jnp.where(rests | repeated, jnp.inf, times)


def _times_of_limits(motion: Motion, limits: Limits, at: Position) -> tuple[Array, Array]:
    """Returns when each active coefficient meets its limit, and when each that is held is let go."""
    sign = jnp.sign(at.side)
    size, rate = sign * at.z, sign * at.rate
    to_limit = jnp.where(rate > 0, (limits.on(sign) - size) / rate, jnp.inf)
    weight = jnp.where(sign > 0, motion.weights.up, motion.weights.down)
    falls = motion.speed * weight
    slower = -rate - falls  # at which what holds it shrinks
    tiny = jnp.finfo(falls.dtype).tiny
    still = tolerances(falls.dtype).still
    back = jnp.where(slower > still * falls + tiny, (size - at.lam * weight) / slower, jnp.inf)
    return to_limit, back


def _first(times: Array) -> tuple[Array, Array]:
    """Returns the place of the least of numbers ≥ 0, and that number.

    Order among them is that of their bits, whose last ones are replaced by the place: a single minimum,
    where XLA's `argmin` on a CPU takes five times as long. Which of two is first is decided up to these.
    """
    bits = jnp.int64 if times.dtype == jnp.float64 else jnp.int32
    low = (1 << max(1, (len(times) - 1).bit_length())) - 1
    keys = lax.bitcast_convert_type(times, bits) & ~low | jnp.arange(len(times), dtype=bits)
    j = (jnp.min(keys) & low).astype(jnp.int32)
    return j, times[j]
