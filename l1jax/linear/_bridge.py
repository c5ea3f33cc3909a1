"""Straight lines between strengths that are solved, over those where a line is good enough.

On a line between two solutions of squared error the gradients lie on a line as well. The prices do
too, so that no gradient is over its price: the line is feasible for the dual problem, and its
duality gap is what its features pay beyond their gradients. Where that is small enough, the
strengths between need no solve (approximate paths; Mairal and Yu 2012, Ndiaye et al. 2019).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ._state import State

_LONGEST = 25  # strengths from one end of a line to the other
_POWER = 2.5  # of the length of a line that its gap grows with, about
_CAUTION = 0.8  # share of the length that would be just good enough
_AT_MOST = 2  # times as long as the line before
_HOPE = 0.8  # share of the gap of a line, for each strength further on that has told nothing of it


class End(NamedTuple):
    """A solved strength, where a line ends: its place in the block, and the solution there."""

    place: int  # -1: where the walk stood before the block
    lam: float
    state: State
    beta: np.ndarray  # of the working set, or of all columns
    descent: np.ndarray  # −∇L of the same

    @classmethod
    def at(
        cls, place: int, lam: float, state: State, prices: Any, members: np.ndarray | None = None
    ) -> End:
        """The solution with its coefficients and gradients laid out, where they are of `members` only."""
        features = state.features
        if members is not None:
            features = np.searchsorted(members, features)
        beta = np.zeros((len(state.gradient), *state.values.shape[1:]))
        beta[features] = state.values
        return cls(place, lam, state, beta, state.gradient + prices.bend(lam, beta))


class Bridges:
    """Solves as few strengths of a block as lines can join at a gap of `enough`."""

    def __init__(self, enough: float):
        self.enough = enough
        self.length, self.gap = (
            1,
            0.0,
        )  # of the next line; of one from a strength to the next but one

    def across(
        self, mover: Any, prices: Any, members: np.ndarray, at: State, lam: float, block: np.ndarray
    ) -> list[tuple[int, State]]:
        """The strengths that are solved, in their order; the last of the block is one of them."""
        own = prices.of(members)

        def solve(place: int) -> End:
            lam = block[place]
            return End.at(place, lam, mover.to(lam), own, members)

        def join(left: End, right: End) -> list[End]:
            """What has to be solved between them, and the right end."""
            length = right.place - left.place
            between = block[left.place + 1 : right.place]
            worst = max([0.0, *(_gap(own, left, right, lam) for lam in between)])
            self._learn(length, worst)
            if worst <= self.enough:
                return [right]
            middle = solve((left.place + right.place) // 2)
            return join(left, middle) + join(middle, right)

        begin = at._replace(gradient=at.gradient[members])
        ends = [End.at(-1, lam, begin, own, members)]
        while ends[-1].place < len(block) - 1:
            place = min(ends[-1].place + self.length, len(block) - 1)
            ends += join(ends[-1], solve(place))
        return [(end.place, end.state) for end in ends[1:]]

    def _learn(self, length: int, gap: float) -> None:
        """The length of the next line, after one of this length and gap."""
        self.gap = gap / (length / 2) ** _POWER if length > 1 else _HOPE * self.gap
        longest = min(_AT_MOST * max(length, self.length), _LONGEST)
        possible = 2 * _CAUTION * (self.enough / self.gap) ** (1 / _POWER) if self.gap else longest
        self.length = int(min(max(possible, 1), longest))


def fill(begin: int, end: int, lams: np.ndarray, *tables: np.ndarray | None) -> None:
    """The rows between two that are solved."""
    for table in tables:
        if table is not None:
            for i in range(begin + 1, end):
                table[i] = _on_line(
                    table[begin], table[end], _share(lams[begin], lams[end], lams[i])
                )


def _gap(prices: Any, left: End, right: End, lam: float) -> float:
    """The duality gap at a strength on the line between two solutions."""
    share = _share(left.lam, right.lam, lam)
    beta = _on_line(left.beta, right.beta, share)
    return prices.slack(lam, beta, _on_line(left.descent, right.descent, share))


def _share(left: float, right: float, lam: float) -> float:
    """How far a strength is on the way from one to another."""
    return (left - lam) / (left - right)


def _on_line(left: Any, right: Any, share: float) -> Any:
    return left + share * (right - left)
