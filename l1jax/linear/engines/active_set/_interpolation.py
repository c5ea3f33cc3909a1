"""Lines between strengths that are solved, over those where a line is good enough.

On a line between two solutions of squared error the gradients lie on a line as well. The prices do
too, so that no gradient is over its price: the line is feasible for the dual problem, and its
duality gap is what its features pay beyond their gradients. Where that is small enough, the
strengths between need no solve (approximate paths; Mairal and Yu 2012, Ndiaye et al. 2019). Paths of
other losses bend, and are nearer to lines in log λ; there the gap is that of the point itself.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ._state import State

_LONGEST = 25  # strengths from one end of a line to the other
_POWER = 2.5  # of the length of a line that its gap grows with, about
_CAUTION = 0.8  # share of the length that would be just good enough
_AT_MOST = 2  # times as long as the line before
_WORST = 10  # times what is enough: a gap of more is not held against the lines to come
_HOPE = 0.8  # share of the gap of a line, for each strength further on that has told nothing of it


class End(NamedTuple):
    """A solved strength, where a line ends: its place in the block, and the solution there."""

    place: int  # -1: where the walk stood before the block
    lam: float
    state: State
    beta: np.ndarray  # of the working set
    descent: np.ndarray  # −∇L of the working set


class PathInterpolation:
    """Solves as few strengths of a block as lines can join at a gap of `enough`."""

    def __init__(self, enough: float, by_log: bool):
        self.enough, self.by_log = enough, by_log
        self.length = 1  # of the next line
        self.gap = 0.0  # of a line from one strength to the next but one

    def across(
        self, mover: Any, at: State, lam: float, block: np.ndarray
    ) -> list[tuple[int, State]]:
        """The strengths that are solved, in their order; the last of the block is one of them."""
        begin = at._replace(gradient=at.gradient[mover.members])
        ends = [_end(mover, -1, lam, begin)]
        while ends[-1].place < len(block) - 1:
            place = min(ends[-1].place + self.length, len(block) - 1)
            ends += self._join(mover, block, ends[-1], _solve(mover, block, place))
        return [(end.place, end.state) for end in ends[1:]]

    def _join(self, mover: Any, block: np.ndarray, left: End, right: End) -> list[End]:
        """What has to be solved between two ends, and the right one."""
        length, middle = right.place - left.place, (left.place + right.place) // 2
        gap = 0.0 if length == 1 else self._gap(mover, left, right, block[middle])
        self._learn(length, gap)
        if gap <= self.enough:
            return [right]
        between = _solve(mover, block, middle)
        return [
            *self._join(mover, block, left, between),
            *self._join(mover, block, between, right),
        ]

    def fill(self, begin: int, end: int, lams: np.ndarray, *tables: np.ndarray | None) -> None:
        """The rows between two that are solved."""
        for i in range(begin + 1, end):
            share = self._share(lams[begin], lams[end], lams[i])
            for table in tables:
                if table is not None:
                    table[i] = _on_line(table[begin], table[end], share)

    def _gap(self, mover: Any, left: End, right: End, lam: float) -> float:
        """The duality gap at a strength on the line between two solutions."""
        share = self._share(left.lam, right.lam, lam)
        beta = _on_line(left.beta, right.beta, share)
        descent = _on_line(left.descent, right.descent, share)
        intercept = _on_line(left.state.intercept, right.state.intercept, share)
        gap = mover.gap(lam, beta, intercept, descent)
        return np.inf if np.isnan(gap) else max(gap, 0.0)  # below zero there is rounding

    def _share(self, left: float, right: float, lam: float) -> float:
        """How far a strength is on the way from one to another."""
        if left == right:
            return 0.0
        if self.by_log and right > 0:
            left, right, lam = np.log([left, right, lam])
        return (left - lam) / (left - right)

    def _learn(self, length: int, gap: float) -> None:
        """The length of the next line, after one of this length and gap."""
        self.gap = gap / (length / 2) ** _POWER if length > 1 else _HOPE * self.gap
        self.gap = min(self.gap, _WORST * self.enough)
        longest = min(_AT_MOST * max(length, self.length), _LONGEST)
        possible = 2 * _CAUTION * (self.enough / self.gap) ** (1 / _POWER) if self.gap else longest
        self.length = int(min(max(possible, 1), longest))


def _solve(mover: Any, block: np.ndarray, place: int) -> End:
    return _end(mover, place, block[place], mover.to(block[place]))


def _end(mover: Any, place: int, lam: float, state: State) -> End:
    beta = np.zeros((len(mover.members), *state.values.shape[1:]))
    beta[np.searchsorted(mover.members, state.features)] = state.values
    return End(place, lam, state, beta, state.gradient + mover.prices.bend(lam, beta))


def _on_line(left: Any, right: Any, share: float) -> Any:
    return left + share * (right - left)
