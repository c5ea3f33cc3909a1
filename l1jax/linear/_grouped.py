"""Squared error with prices per group on a working set, in terms of its Gram matrix."""

from __future__ import annotations

import numpy as np

from ._columns import GramColumns
from ._group_hessian import ByGram, ByRows
from ._group_model import GroupModel
from ._group_prices import GroupPrices
from ._state import State


class Grouped:
    """Follows the solutions of squared error from one strength to the next."""

    def __init__(self, columns: GramColumns):
        self.columns = columns

    def start(self, features: np.ndarray, values: np.ndarray, gradient: np.ndarray) -> State:
        """The null model, with the features that are free."""
        signs = np.zeros(len(features))
        return State(features, signs, values, self.columns.centre, gradient)

    def follow(
        self, members: np.ndarray, prices: GroupPrices, at: State, lam: float, lams: np.ndarray
    ) -> list[State]:
        """The solutions at `lams` on the columns `members`, from the one at `lam`."""
        prices = prices.of(members)
        places = self.columns.require(members[prices.order])
        linear = self.columns.linear[places]
        x = np.zeros((len(members), *at.values.shape[1:]))
        x[np.searchsorted(members, at.features)] = at.values
        shape = (len(members), -1)
        model = GroupModel(
            self._hessian(places),
            linear.reshape(shape),
            prices.layout,
            x[prices.order].reshape(shape),
        )
        states, before = [], None
        for target in lams:
            share = 0.0 if before in (None, lam) else (target - lam) / (lam - before)
            steps = model.move_to(prices.at(target), share)
            before, lam = lam, target
            x, gradient = np.empty_like(x), np.empty_like(x)
            x[prices.order] = model.x.reshape(x.shape)
            gradient[prices.order] = model.gradient.reshape(x.shape)
            inside = np.flatnonzero(x.reshape(shape).any(axis=1))
            states.append(
                State(
                    features=members[inside],
                    signs=np.zeros(len(inside)),
                    values=x[inside],
                    intercept=self.columns.centre,
                    gradient=gradient,
                    steps=steps,
                )
            )
        return states

    def _hessian(self, places: np.ndarray) -> ByGram | ByRows:
        """The form in which a product with it is cheaper."""
        columns = self.columns
        if columns.matrix is not None and len(places) > len(columns.s):
            part = columns.matrix.part(places).dense()
            return ByRows(np.ascontiguousarray((np.sqrt(columns.s)[:, None] * part).T))
        return ByGram(columns.gram_of(places))

    def gradients(self, states: list[State], out: np.ndarray) -> None:
        """−∇L of all columns at each of the states, into `out` (B, p, *k)."""
        self.columns.gradients([(state.features, state.values) for state in states], out)
