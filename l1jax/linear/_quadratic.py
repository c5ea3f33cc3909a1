"""Squared error on a working set: the solution is followed exactly, in terms of its Gram matrix."""

from __future__ import annotations

import numpy as np

from ._columns import GramColumns
from ._face import Face, Stop
from ._prices import Prices
from ._state import Knot, State
from ._threads import one_thread


class Quadratic:
    """Follows the solutions of squared error from one strength to the next."""

    def __init__(self, columns: GramColumns, keep_knots: bool = False):
        self.columns = columns
        self.keep_knots = keep_knots

    def start(self, features: np.ndarray, values: np.ndarray, gradient: np.ndarray) -> State:
        """The null model, with the features that are free."""
        signs = np.zeros(len(features))
        return State(features, signs, values, self.columns.centre, gradient)

    def follow(
        self, members: np.ndarray, prices: Prices, at: State, lam: float, lams: np.ndarray
    ) -> list[State]:
        """The solutions at `lams` on the columns `members`, from the one at `lam`."""
        places = self.columns.require(members)
        with one_thread():
            return self._along(places, members, prices.of(members), at, lam, lams)

    def _along(self, places, members, prices: Prices, at: State, lam: float, lams) -> list[State]:
        linear = self.columns.linear[places]
        old = prices.at(lam)
        hessian = self.columns.gram_of(places)
        face = Face(
            hessian,
            at.gradient[members],
            old.up,
            old.down,
            np.searchsorted(members, at.features),
            at.signs,
            at.values,
            at.inverse,
            old.quad,
            linear,
        )
        states = []
        for target in lams:
            new = prices.at(target)
            bend = new.quad - old.quad
            if bend.any():
                face.bend(bend)
            stops: list[Stop] | None = [] if self.keep_knots else None
            line = (-bend * face.x, new.up, new.down)
            passed = face.follow(*line, stops) if self.keep_knots else face.move(*line)
            face.settle()
            state = State(
                features=members[face.face],
                signs=face.signs.copy(),
                values=face.values.copy(),
                intercept=self.columns.centre,
                gradient=face.gradient.copy(),
                inverse=face.known_inverse if target == lams[-1] else None,
                steps=passed,
                knots=tuple(_knot(stop, members, lam, target) for stop in stops or ()),
            )
            states.append(state)
            old, lam = new, target
        return states

    def gradients(self, states: list[State], out: np.ndarray) -> None:
        """−∇L of all columns at each of the states, into `out` (B, p, *k)."""
        self.columns.gradients([(state.features, state.values) for state in states], out)


def _knot(stop: Stop, members: np.ndarray, lam: float, target: float) -> Knot:
    inside = np.flatnonzero(stop.x)
    return Knot(lam + stop.share * (target - lam), members[inside], stop.x[inside])
