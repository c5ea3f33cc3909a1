"""Squared error with weights per group, on a working set, in terms of its Gram matrix or its rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...host._columns import GramColumns
from ._group_hessian import GramHessian, Quadratic, RowHessian
from ._group_newton import EXACT
from ._group_solver import GroupSolver
from ._group_weights import GroupWeights
from ._options import OPTIONS
from ._path_point import PathPoint
from ._step_budget import StepBudget

_FRACTION_OF_GAP = 0.01  # by which groups may miss their weights: they add up to about the gap


class GroupLeastSquares:
    """`PathFollower` of squared error with weights per group."""

    can_halve_steps = False
    starts_anywhere = False

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

    def restricted_solver(
        self, working: np.ndarray, at: PathPoint, lam: float
    ) -> LeastSquaresGroupSolver:
        return LeastSquaresGroupSolver(self, working, at, lam)

    def quadratic(self, features: np.ndarray) -> Quadratic:
        """Returns the squared error as a function of the coefficients of some features."""
        places = self.columns.require(features)
        return Quadratic(self.hessian(places), self.columns.linear[places].reshape(len(places), -1))

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


class LeastSquaresGroupSolver(GroupSolver):
    """`RestrictedSolver` of squared error with weights per group."""

    def __init__(self, path: GroupLeastSquares, working: np.ndarray, at: PathPoint, lam: float):
        super().__init__(path.weights, working, at, lam)
        self.intercept = path.columns.centre
        self._begin(path.quadratic(self.sorted_working), path.tolerance, path.budget)

    def gap(self, lam: float, beta: np.ndarray, intercept: Any, neg_gradient: np.ndarray) -> float:
        del intercept  # it is at its best: columns and target are centred
        return self.weights.fenchel_gap(lam, beta, neg_gradient)
