"""Squared error with weights per group, on a working set, in terms of its Gram matrix or its rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...host._columns import GramColumns
from ._group_hessian import GramHessian, RowHessian
from ._group_newton import EXACT, GroupNewton
from ._group_weights import GroupWeights
from ._options import OPTIONS
from ._path_point import NumericalBreakdown, PathPoint
from ._step_budget import StepBudget

_FRACTION_OF_GAP = 0.01  # by which groups may miss their weights: they add up to about the gap


class GroupLeastSquares:
    """`PathFollower` of squared error with weights per group."""

    can_halve_steps = False

    def __init__(
        self,
        columns: GramColumns,
        weights: GroupWeights,
        budget: StepBudget,
        relative_gap: float | None = None,
    ):
        self.columns, self.weights, self.budget = columns, weights, budget
        self.tolerance = (
            EXACT if relative_gap is None else max(EXACT, _FRACTION_OF_GAP * relative_gap)
        )

    def start(
        self, features: np.ndarray, values: np.ndarray, neg_gradient: np.ndarray
    ) -> PathPoint:
        signs = np.zeros(len(features))
        return PathPoint(features, signs, values, self.columns.centre, neg_gradient)

    def restricted_solver(self, working: np.ndarray, at: PathPoint, lam: float) -> GroupSolver:
        return GroupSolver(self, working, at, lam)

    def hessian(self, places: np.ndarray) -> GramHessian | RowHessian:
        """Returns the Hessian of some columns, in the form whose products are cheaper."""
        columns = self.columns
        if columns.matrix is None or columns.count <= OPTIONS.row_ratio * len(columns.s):
            return GramHessian(columns.gram_of(places)[:])
        part = columns.matrix.part(places)
        if len(places) <= len(columns.s):
            return GramHessian(part.gram(columns.s))
        rows = np.empty((len(places), len(columns.s)))
        np.multiply(part.dense().T, np.sqrt(columns.s), out=rows)
        return RowHessian(rows)

    def neg_gradients(self, points: list[PathPoint], out: np.ndarray) -> None:
        self.columns.gradients([(point.features, point.values) for point in points], out)


class GroupSolver:
    """`RestrictedSolver` of squared error with weights per group.

    Newton's method works on the features sorted by group, with a column for each response.
    """

    def __init__(self, path: GroupLeastSquares, working: np.ndarray, at: PathPoint, lam: float):
        self.intercept, self.working = path.columns.centre, working
        self.weights = path.weights.restrict(working)
        sorted_working = working[self.weights.order]
        places = path.columns.require(sorted_working)
        self.shape = (len(working), *at.values.shape[1:])
        flat = (len(working), -1)
        self.newton = GroupNewton(
            path.hessian(places),
            path.columns.linear[places].reshape(flat),
            self.weights.layout,
            self._sorted(at),
            path.tolerance,
            path.budget,
        )
        self.lam = lam
        self.previous: tuple[float, np.ndarray] | None = None  # (λ, z) to extrapolate from
        if at.previous is not None and at.previous[0] != lam:
            previous_lam, point = at.previous
            neg_gradient = point.neg_gradient[sorted_working].reshape(flat)
            x, form = self._sorted(point), self.weights.at(previous_lam)
            neg_gradient = neg_gradient + self.weights.layout.broadcast(form.quad) * x
            self.previous = previous_lam, x + self.newton.step_size * neg_gradient

    def _sorted(self, point: PathPoint) -> np.ndarray:
        """Returns the coefficients of the working set at a solution, sorted by group."""
        x = np.zeros(self.shape)
        inside = np.isin(point.features, self.working)
        x[np.searchsorted(self.working, point.features[inside])] = point.values[inside]
        return x[self.weights.order].reshape(len(x), -1)

    def to(self, lam: float) -> PathPoint:
        num_steps = self._solve(lam, OPTIONS.max_halvings)
        newton, order = self.newton, self.weights.order
        x, neg_gradient = np.empty(self.shape), np.empty(self.shape)
        x[order] = newton.x.reshape(self.shape)
        rest = newton.neg_gradient - newton.quad * newton.x
        neg_gradient[order] = rest.reshape(self.shape)
        inside = np.flatnonzero(x.reshape(len(x), -1).any(axis=1))
        return PathPoint(
            features=self.working[inside],
            signs=np.zeros(len(inside)),
            values=x[inside],
            intercept=self.intercept,
            neg_gradient=neg_gradient,
            num_steps=num_steps,
        )

    def _solve(self, lam: float, halvings: int) -> int:
        """Solves at λ from an extrapolation of z, at once or by way of the middle."""
        newton, form = self.newton, self.weights.at(lam)
        x, z, guess = newton.x, newton.z, None
        if self.previous is not None:
            previous_lam, previous_z = self.previous
            guess = z + (lam - self.lam) / (self.lam - previous_lam) * (z - previous_z)
        try:
            steps = newton.move_to(form, guess)
        except NumericalBreakdown:
            if not halvings:
                raise
            newton.start(self.weights.at(self.lam), x)
            steps = self._solve((lam + self.lam) / 2, halvings - 1)
            return steps + self._solve(lam, halvings - 1)
        if lam != self.lam:
            self.previous = self.lam, z
        self.lam = lam
        return steps

    def gap(self, lam: float, beta: np.ndarray, intercept: Any, neg_gradient: np.ndarray) -> float:
        del intercept  # it is at its best: columns and target are centred
        return self.weights.fenchel_gap(lam, beta, neg_gradient)

    def known_inverse(self) -> None:
        return None
