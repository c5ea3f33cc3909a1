"""Interpolation between solved λ, where its duality gap is small enough.

On a line between two solutions of squared error the gradients lie on a line as well. The weights do
too, so that no gradient exceeds its weight: the line is dual feasible, and its duality gap is what
the penalty exceeds ⟨β, g⟩ by. Where that is small enough, the λ between need no solve (approximate
paths; Mairal and Yu 2012, Ndiaye et al. 2019). Paths of other losses are closer to lines in log λ;
there the gap is computed at the point itself.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ._path_point import PathPoint
from ._protocols import RestrictedSolver

_MAX_LENGTH = 25  # λ from one end of a line to the other
_POWER = 2.5  # of the length of a line that its gap grows with, about
_SAFETY = 0.8  # fraction of the length that would be just good enough
_MAX_GROWTH = 2  # times the length of the line before
_MAX_GAP = 10  # times the tolerance: a larger gap does not shorten the lines to come any further
_DECAY = 0.8  # of the gap that is expected, for each λ further on without a measurement


Row = tuple[np.ndarray, np.ndarray]  # the features whose coefficients are not zero, and these


class End(NamedTuple):
    """A solved λ, where a line ends: its place in the block, and the solution there."""

    place: int  # −1: the solution before the block
    lam: float
    point: PathPoint
    beta: np.ndarray  # of the working set
    neg_gradient: np.ndarray  # −∇L of the working set


class PathInterpolation:
    """Solves as few λ of a block as lines can join at a gap of at most `tolerance`."""

    def __init__(self, tolerance: float, by_log: bool):
        self.tolerance, self.by_log = tolerance, by_log
        self.length = 1  # of the next line
        self.expected_gap = 0.0  # of a line that spans two λ

    def solve(
        self, solver: RestrictedSolver, at: PathPoint, lam: float, block: np.ndarray
    ) -> list[tuple[int, PathPoint]]:
        """Returns the places that are solved, in their order, and the solutions; the last is one of them."""
        start = at._replace(neg_gradient=at.neg_gradient[solver.working])
        ends = [_end(solver, -1, lam, start)]
        while ends[-1].place < len(block) - 1:
            place = min(ends[-1].place + self.length, len(block) - 1)
            ends += self._join(solver, block, ends[-1], _solve(solver, block, place))
        return [(end.place, end.point) for end in ends[1:]]

    def _join(
        self, solver: RestrictedSolver, block: np.ndarray, left: End, right: End
    ) -> list[End]:
        """Solves what has to be solved between two ends; returns those, and the right end."""
        length, middle = right.place - left.place, (left.place + right.place) // 2
        gap = 0.0 if length == 1 else self._gap(solver, left, right, block[middle])
        self._adapt_length(length, gap)
        if gap <= self.tolerance:
            return [right]
        between = _solve(solver, block, middle)
        return [
            *self._join(solver, block, left, between),
            *self._join(solver, block, between, right),
        ]

    def fill(
        self, start: int, end: int, lams: np.ndarray, rows: list[Row], *tables: np.ndarray | None
    ) -> None:
        """Interpolates the sparse rows, and those of each table (L, ...), between two that are solved."""
        for i in range(start + 1, end):
            fraction = self._fraction(lams[start], lams[end], lams[i])
            rows[i] = _between_rows(rows[start], rows[end], fraction)
            for table in tables:
                if table is not None:
                    table[i] = _interpolated(table[start], table[end], fraction)

    def _gap(self, solver: RestrictedSolver, left: End, right: End, lam: float) -> float:
        """Returns the duality gap at λ, on the line between two solutions."""
        fraction = self._fraction(left.lam, right.lam, lam)
        beta, intercept, neg_gradient = (
            _interpolated(one, other, fraction)
            for one, other in (
                (left.beta, right.beta),
                (left.point.intercept, right.point.intercept),
                (left.neg_gradient, right.neg_gradient),
            )
        )
        gap = solver.gap(lam, beta, intercept, neg_gradient)
        return np.inf if np.isnan(gap) else max(gap, 0.0)  # below zero there is rounding

    def _fraction(self, left: float, right: float, lam: float) -> float:
        """Returns the fraction of the way from one λ to another at which `lam` lies."""
        if left == right:
            return 0.0
        if self.by_log and right > 0:
            left, right, lam = np.log([left, right, lam])
        return (left - lam) / (left - right)

    def _adapt_length(self, length: int, gap: float) -> None:
        """Sets the length of the next line, after one of this length and gap."""
        measured = length > 1
        expected = gap / (length / 2) ** _POWER if measured else _DECAY * self.expected_gap
        self.expected_gap = min(expected, _MAX_GAP * self.tolerance)
        longest = min(_MAX_GROWTH * max(length, self.length), _MAX_LENGTH)
        possible = longest
        if self.expected_gap:
            possible = 2 * _SAFETY * (self.tolerance / self.expected_gap) ** (1 / _POWER)
        self.length = int(min(max(possible, 1), longest))


def _solve(solver: RestrictedSolver, block: np.ndarray, place: int) -> End:
    return _end(solver, place, block[place], solver.to(block[place]))


def _end(solver: RestrictedSolver, place: int, lam: float, point: PathPoint) -> End:
    beta = np.zeros((len(solver.working), *point.values.shape[1:]))
    beta[np.searchsorted(solver.working, point.features)] = point.values
    neg_gradient = point.neg_gradient + solver.weights.ridge_gradient(lam, beta)
    return End(place, lam, point, beta, neg_gradient)


def _between_rows(left: Row, right: Row, fraction: float) -> Row:
    features = np.union1d(left[0], right[0])
    values = np.zeros((len(features), *left[1].shape[1:]))
    values[np.searchsorted(features, left[0])] = (1 - fraction) * left[1]
    values[np.searchsorted(features, right[0])] += fraction * right[1]
    return features, values


def _interpolated(left: Any, right: Any, fraction: float) -> Any:
    return left + fraction * (right - left)
