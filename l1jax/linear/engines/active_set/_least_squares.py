"""Squared error on a working set: the solution is followed exactly, in terms of its Gram matrix."""

from __future__ import annotations

import numpy as np

from ...host._columns import GramColumns
from ...host._path_solution import Knot
from ._penalty_weights import PenaltyWeights
from ._quadratic_program import Face, Stop
from ._state import State

_HALVINGS = 4  # of a leap that is too far


class LeastSquares:
    """Follows the solutions of squared error from one strength to the next."""

    def __init__(self, columns: GramColumns, keep_knots: bool = False):
        self.columns = columns
        self.keep_knots = keep_knots

    def start(self, features: np.ndarray, values: np.ndarray, gradient: np.ndarray) -> State:
        """The null model, with the features that are free."""
        signs = np.zeros(len(features))
        return State(features, signs, values, self.columns.centre, gradient)

    def mover(
        self, members: np.ndarray, prices: PenaltyWeights, at: State, lam: float
    ) -> LeastSquaresSolver:
        """What moves on from the solution at `lam` on the columns `members`."""
        return LeastSquaresSolver(self, members, prices, at, lam)

    def gradients(self, states: list[State], out: np.ndarray) -> None:
        """−∇L of all columns at each of the states, into `out` (B, p, *k)."""
        self.columns.gradients([(state.features, state.values) for state in states], out)


class LeastSquaresSolver:
    """Moves the solution on some columns from one strength to another."""

    def __init__(
        self, path: LeastSquares, members: np.ndarray, prices: PenaltyWeights, at: State, lam: float
    ):
        places = path.columns.require(members)
        self.intercept, self.keep_knots = path.columns.centre, path.keep_knots
        self.members, self.prices = members, prices.of(members)
        self.form, self.lam = self.prices.at(lam), lam
        hessian = path.columns.gram_of(places)
        self.face = Face(
            hessian,
            at.gradient[members],
            self.form.up,
            self.form.down,
            np.searchsorted(members, at.features),
            at.signs,
            at.values,
            at.inverse,
            self.form.quad,
            path.columns.linear[places],
        )

    def to(self, lam: float) -> State:
        """The solution at this strength."""
        face, stops, before = self.face, [], self.lam
        passed = self._move(lam, _HALVINGS, stops if self.keep_knots else None)
        face.settle()
        knots = tuple(_knot(stop, self.members, before, lam) for stop in stops)
        return State(
            features=self.members[face.face],
            signs=face.signs.copy(),
            values=face.values.copy(),
            intercept=self.intercept,
            gradient=face.gradient.copy(),
            steps=passed,
            knots=knots,
        )

    def _move(self, lam: float, halvings: int, stops: list[Stop] | None) -> int:
        """Leaps there, by halves where that is too far; else by the knots, which `stops` collects."""
        face, form = self.face, self.prices.at(lam)
        bend = form.quad - self.form.quad
        if bend.any():
            face.bend(bend)
        line = (-bend * face.x, form.up, form.down)
        passed = face.leap(*line) if stops is None else None
        if passed is None and stops is None and face.is_far and halvings:
            if bend.any():
                face.bend(-bend)
            halfway = self._move((self.lam + lam) / 2, halvings - 1, stops)
            return halfway + self._move(lam, halvings - 1, stops)
        if passed is None:
            passed = face.follow(*line, stops)
        self.form, self.lam = form, lam
        return passed

    def gap(self, lam: float, beta: np.ndarray, intercept: float, descent: np.ndarray) -> float:
        """The duality gap of a point on a line between two solutions; `descent` is −∇L."""
        del intercept  # at its best
        return self.prices.slack(lam, beta, descent)

    def inverse(self) -> np.ndarray | None:
        """Of the Hessian on the face where it stands, if it is known."""
        return self.face.known_inverse


def _knot(stop: Stop, members: np.ndarray, lam: float, target: float) -> Knot:
    inside = np.flatnonzero(stop.x)
    return Knot(lam + stop.share * (target - lam), members[inside], stop.x[inside])
