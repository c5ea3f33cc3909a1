"""Squared error with prices per group on a working set, in terms of its Gram matrix."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...host._columns import GramColumns
from ._group_hessian import ByGram, ByRows
from ._group_newton import ENOUGH, GroupNewton
from ._group_weights import GroupWeights
from ._state import NumericalBreakdown, State

_SHARE = 0.01  # of a gap that its groups may miss their prices by: they add up to about the gap
_MANY = 2  # times as many columns as rows: their Gram matrix is larger than it is worth
_HALVINGS = 4  # of a move on which Newton's method is lost


class GroupLeastSquares:
    """Follows the solutions of squared error from one strength to the next."""

    def __init__(self, columns: GramColumns, gap: float | None = None):
        self.columns = columns
        self.enough = ENOUGH if gap is None else max(ENOUGH, _SHARE * gap)

    def start(self, features: np.ndarray, values: np.ndarray, gradient: np.ndarray) -> State:
        """The null model, with the features that are free."""
        signs = np.zeros(len(features))
        return State(features, signs, values, self.columns.centre, gradient)

    def mover(
        self, members: np.ndarray, prices: GroupWeights, at: State, lam: float
    ) -> GroupSolver:
        """What moves on from the solution at `lam` on the columns `members`."""
        return GroupSolver(self, members, prices, at, lam)

    def hessian(self, places: np.ndarray) -> ByGram | ByRows:
        """The form in which a product with it is cheaper."""
        columns = self.columns
        if columns.matrix is None or columns.count <= _MANY * len(columns.s):
            return ByGram(columns.gram_of(places)[:])
        part = columns.matrix.part(places)
        if len(places) <= len(columns.s):
            return ByGram(part.gram(columns.s))
        rows = np.empty((len(places), len(columns.s)))
        np.multiply(part.dense().T, np.sqrt(columns.s), out=rows)
        return ByRows(rows)

    def gradients(self, states: list[State], out: np.ndarray) -> None:
        """−∇L of all columns at each of the states, into `out` (B, p, *k)."""
        self.columns.gradients([(state.features, state.values) for state in states], out)


class GroupSolver:
    """Moves the solution on some columns from one strength to another."""

    def __init__(
        self,
        path: GroupLeastSquares,
        members: np.ndarray,
        prices: GroupWeights,
        at: State,
        lam: float,
    ):
        self.intercept, self.members, self.prices = path.columns.centre, members, prices.of(members)
        places = path.columns.require(members[self.prices.order])
        self.shape = (len(members), *at.values.shape[1:])
        flat = (len(members), -1)
        x = self._laid_out(at)
        self.model = GroupNewton(
            path.hessian(places),
            path.columns.linear[places].reshape(flat),
            self.prices.layout,
            x,
            path.enough,
        )
        self.lam, self.before = lam, None
        if at.before is not None and at.before[0] != lam:
            there, state = at.before
            gradient = state.gradient[members[self.prices.order]].reshape(flat)
            x = self._laid_out(state)
            gradient = gradient + self._quad(there) * x
            self.before = there, x + self.model.scale * gradient

    def _quad(self, lam: float) -> np.ndarray:
        """The price of squares of each member, group by group."""
        return self.prices.at(lam).quad[self.prices.layout.ids, None]

    def _laid_out(self, state: State) -> np.ndarray:
        """The coefficients of the members, group by group."""
        x = np.zeros(self.shape)
        inside = np.isin(state.features, self.members)
        x[np.searchsorted(self.members, state.features[inside])] = state.values[inside]
        return x[self.prices.order].reshape(len(x), -1)

    def to(self, lam: float) -> State:
        """The solution at this strength."""
        steps = self._move(lam, _HALVINGS)
        x, gradient = np.empty(self.shape), np.empty(self.shape)
        x[self.prices.order] = self.model.x.reshape(self.shape)
        rest = self.model.gradient - self.model.quad * self.model.x
        gradient[self.prices.order] = rest.reshape(self.shape)
        inside = np.flatnonzero(x.reshape(len(x), -1).any(axis=1))
        return State(
            features=self.members[inside],
            signs=np.zeros(len(inside)),
            values=x[inside],
            intercept=self.intercept,
            gradient=gradient,
            steps=steps,
        )

    def _move(self, lam: float, halvings: int) -> int:
        """Goes on in the direction of the last move, at once or else by halves."""
        x, z, guess = self.model.x, self.model.z, None
        if self.before is not None:
            there, old = self.before
            guess = z + (lam - self.lam) / (self.lam - there) * (z - old)
        try:
            steps = self.model.move_to(self.prices.at(lam), guess)
        except NumericalBreakdown:
            if not halvings:
                raise
            self.model.stand(self.prices.at(self.lam), x)
            steps = self._move((lam + self.lam) / 2, halvings - 1)
            return steps + self._move(lam, halvings - 1)
        if lam != self.lam:
            self.before = self.lam, z
        self.lam = lam
        return steps

    def gap(self, lam: float, beta: np.ndarray, intercept: Any, descent: np.ndarray) -> float:
        """The duality gap of a point on a line between two solutions; `descent` is −∇L."""
        del intercept  # at its best
        return self.prices.slack(lam, beta, descent)

    def inverse(self) -> None:
        """Nothing that another would start from."""
