"""Who is at risk when: sums over the rows at risk at a time, and over the times at which a row is at risk."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Int

from .._arrays import log_sums_from, namespace, never
from .._types import Real


class NestedSets(NamedTuple):
    """Rows that are at risk from the beginning to their time: the sets at later times are smaller."""

    order: Int[Real, " n"]  # of time
    first: Int[Real, " n"]  # the first place in the order of those with the time of a row
    last: Int[Real, " n"]

    @property
    def is_nested(self) -> bool:
        return True

    def later(self, values: Real) -> Real:
        """log Σ exp of the values of all rows that are at risk at the time of each row."""
        return log_sums_from(values[..., self.order])[..., self.first]

    def earlier(self, values: Real) -> Real:
        """log Σ exp of the values of all rows at whose time each row is at risk."""
        return log_sums_from(values[..., self.order][..., ::-1])[..., ::-1][..., self.last]

    def sum_earlier(self, values: Real) -> Real:
        """Σ of the values ≥ 0 of all rows at whose time each row is at risk."""
        return namespace(values).cumsum(values[self.order])[self.last]

    def same(self, values: Real) -> Real:
        """The sum over the rows with the time of each row."""
        return _sum_ties(self.order, self.first, values)

    def at_risk(self, rows: np.ndarray) -> Bool[np.ndarray, "d n"]:
        """Which rows are at risk at the times of some, a mask (n,) of d rows."""
        return np.argsort(self.order) >= self.first[rows][:, None]


class IntervalSets(NamedTuple):
    """Rows that are at risk in an interval of time, such as from a late entry on, or in a stratum.

    Row j is at risk at the times from place `low` of the order to its own. Each interval is a sum of at most
    2 log n of those of a binary tree, so that no sum is the difference of others, which would lose its digits.
    """

    order: Int[Real, " n"]
    first: Int[Real, " n"]
    last: Int[Real, " n"]
    low: Int[Real, " n"]

    @property
    def is_nested(self) -> bool:
        return False

    def later(self, values: Real) -> Real:
        xp, parts = namespace(values, self.low), self._parts()
        nothing = never(values)
        total = xp.full((*values.shape[:-1], 1), nothing, values.dtype)
        for size, (left, takes_left, right, takes_right) in reversed(parts):
            nodes = _scatter(xp.where(takes_left, values, nothing), left, size)
            nodes = xp.logaddexp(
                nodes, _scatter(xp.where(takes_right, values, nothing), right, size)
            )
            above = xp.repeat(total, 2, axis=-1)[..., :size] if size > 1 else total
            total = xp.logaddexp(nodes, above)
        return total[..., self.first]

    def earlier(self, values: Real) -> Real:
        xp, nothing = namespace(values, self.low), never(values)
        parts = self._parts()
        nodes = _scatter(values, self.first, parts[0][0])
        total = xp.full(values.shape, nothing, values.dtype)
        for size, (left, takes_left, right, takes_right) in parts:
            for at, takes in ((left, takes_left), (right, takes_right)):
                part = xp.where(takes, nodes[..., xp.minimum(at, size - 1)], nothing)
                total = xp.logaddexp(total, part)
            nodes = xp.logaddexp(nodes[..., ::2], nodes[..., 1::2]) if size > 1 else nodes
        return total

    def sum_earlier(self, values: Real) -> Real:
        xp = namespace(values, self.low)
        logs = xp.where(values > 0, xp.log(xp.where(values > 0, values, 1)), never(values))
        return xp.exp(self.earlier(logs))

    def same(self, values: Real) -> Real:
        return _sum_ties(self.order, self.first, values)

    def at_risk(self, rows: np.ndarray) -> Bool[np.ndarray, "d n"]:
        at = self.first[rows][:, None]
        return (self.low <= at) & (at <= self.first)

    def _parts(self) -> list[tuple[int, tuple[Real, Real, Real, Real]]]:
        """Of each level of the tree its size, and the nodes at the ends of the intervals that it adds."""
        xp = namespace(self.low, self.first)
        left, right = self.low, self.first + 1
        size, found = 1 << max(len(self.first) - 1, 0).bit_length(), []
        while size:
            takes_left = (left < right) & (left % 2 == 1)
            takes_right = (left + takes_left < right) & (right % 2 == 1)
            found.append((size, (left, takes_left, xp.maximum(right - 1, 0), takes_right)))
            left, right, size = (left + takes_left) // 2, (right - takes_right) // 2, size // 2
        return found


def _scatter(values: Real, at: Real, size: int) -> Real:
    """log Σ exp of the values at each of so many places."""
    xp, nothing = namespace(values, at), never(values)
    if xp is not np:
        most = xp.maximum(jax.ops.segment_max(values, at, size), nothing)
        most = jax.lax.stop_gradient(most)
        sums = jax.ops.segment_sum(xp.exp(values - most[at]), at, size)
        is_some = (sums > 0) & (most > nothing / 2)
        return xp.where(is_some, xp.log(xp.where(is_some, sums, 1)) + most, nothing)
    order = np.argsort(at, kind="stable")
    places, starts = np.unique(at[order], return_index=True)
    found = np.full((*values.shape[:-1], size), nothing, values.dtype)
    found[..., places] = np.logaddexp.reduceat(values[..., order], starts, axis=-1)
    return found


def _sum_ties(order: Real, first: Real, values: Real) -> Real:
    """The sum over the rows of one place `first`."""
    if namespace(values, first) is not np:
        return jax.ops.segment_sum(values, first, values.shape[0])[first]
    starts = np.flatnonzero(np.bincount(first))
    sums = np.add.reduceat(values[..., order], starts, axis=-1)
    return sums[..., np.searchsorted(starts, first)]


def risk_sets(y: Any) -> NestedSets | IntervalSets:
    """Returns the sets of targets (n, 2), (time, event), or (n, 3), (start, stop, event)."""
    xp, time = namespace(y), y[:, -2]
    order = xp.argsort(time, stable=True)
    in_order = time[order]
    first = xp.searchsorted(in_order, time)
    last = xp.searchsorted(in_order, time, side="right") - 1
    if y.shape[1] == 2:
        return NestedSets(order, first, last)
    return IntervalSets(order, first, last, xp.searchsorted(in_order, y[:, 0], side="right"))
