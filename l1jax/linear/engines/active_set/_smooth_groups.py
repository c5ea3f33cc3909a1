"""Any smooth convex loss with weights per group, on a working set.

Newton's method takes the Hessian of the loss on the active features alone, and keeps its factor for as long as
the error falls fast.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ....losses import Loss
from ...host._columns import Columns
from ...model._problem import Problem
from ._group_hessian import GramHessian, NormCurvature, Solve
from ._group_newton import EXACT
from ._group_solver import GroupSolver
from ._group_weights import GroupWeights
from ._host_loss import HostLoss
from ._path_point import PathPoint
from ._step_budget import StepBudget

# By which groups may miss their weights: they add up to no more than twice that.
_FRACTION_OF_GAP = 0.2


def serves_groups(loss: Loss) -> bool:
    """Returns whether a loss is curved in every row, which is the only one that enters its loss."""
    return loss.has_curvature and not loss.rows_interact


def _scale_of_curvature(problem: Problem, loss: HostLoss) -> float:
    """Returns the bound of the curvature of a row; of a loss that has none, the most at the null model."""
    if problem.loss.smoothness is not None:
        return float(problem.loss.smoothness)
    eta = np.asarray(problem.eta(problem.null.point), np.float64)
    _, most = loss.curvatures(eta)
    counts = loss.s > 0
    return float((most[counts] / loss.s[counts]).max())


class SmoothGroups:
    """`PathFollower` of a smooth loss with weights per group."""

    can_halve_steps = True
    starts_anywhere = False

    def __init__(
        self,
        problem: Problem,
        weights: GroupWeights,
        budget: StepBudget,
        relative_gap: float | None = None,
    ):
        self.columns, self.weights, self.budget = Columns(problem), weights, budget
        self.loss = HostLoss(problem)
        self.null_intercept = float(problem.null.point.intercept)
        self.scale = float(np.abs(np.asarray(problem.null.gradient)).max(initial=0))
        # The columns have these norms in the metric of the sample weights.
        smoothness = _scale_of_curvature(problem, self.loss)
        self.bounds = smoothness * np.asarray(problem.norms, np.float64) ** 2
        self.intercept_bound = smoothness
        self.tolerance = max(EXACT, _FRACTION_OF_GAP * (relative_gap or 0))

    def start(
        self, features: np.ndarray, values: np.ndarray, neg_gradient: np.ndarray
    ) -> PathPoint:
        signs = np.zeros(len(features))
        return PathPoint(features, signs, values, self.null_intercept, neg_gradient)

    def restricted_solver(
        self, working: np.ndarray, at: PathPoint, lam: float
    ) -> SmoothGroupSolver:
        return SmoothGroupSolver(self, working, at, lam)

    def neg_gradients(self, points: list[PathPoint], out: np.ndarray) -> None:
        slopes = np.stack([np.asarray(point.slope) for point in points], axis=1)
        self.columns.matrix.rdot(-slopes, out)


class SmoothGroupSolver(GroupSolver):
    """`RestrictedSolver` of a smooth loss with weights per group."""

    def __init__(self, path: SmoothGroups, working: np.ndarray, at: PathPoint, lam: float):
        super().__init__(path.weights, working, at, lam)
        self.path, self.has_intercept = path, path.loss.fit_intercept
        self.intercept = at.intercept
        self.smooth = LossOnColumns(path, self.sorted_working)
        self._begin(self.smooth, path.tolerance, path.budget)

    def _slope(self) -> np.ndarray:
        return self.smooth.slope

    def gap(self, lam: float, beta: np.ndarray, intercept: Any, neg_gradient: np.ndarray) -> float:
        del neg_gradient  # it is no line between two solutions
        part = self.path.columns.matrix.part(self.path.columns.require(self.working))
        return self.path.loss.duality_gap(part, self.weights, lam, beta, intercept)


class LossOnColumns:
    """`SmoothPart` of a loss, as a function of the coefficients of some features and the intercept."""

    is_exact = True
    needs_free_gradient_zero = False  # the certificate solves for these once more
    slope: np.ndarray  # ∂L/∂η (n,), at the last point

    def __init__(self, path: SmoothGroups, features: np.ndarray):
        self.loss, self.columns, self.scale = path.loss, path.columns, path.scale
        self.places, self.size = self.columns.require(features), len(features)
        self.part = self.columns.matrix.part(self.places)
        self.diagonal = path.bounds[features]
        if self.loss.fit_intercept:
            self.diagonal = np.append(self.diagonal, path.intercept_bound)

    def evaluate(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        self.eta = self.part.dot(x[: self.size, 0]) + self.loss.offset
        if self.loss.fit_intercept:
            self.eta = self.eta + x[self.size, 0]
        value, self.slope = self.loss.evaluate(self.eta)
        neg_gradient = -self.part.rdot(self.slope)
        if self.loss.fit_intercept:
            neg_gradient = np.append(neg_gradient, -self.slope.sum())
        return value, neg_gradient[:, None]

    def product(self, at: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        hessian = self._hessian(at)
        return lambda x: hessian @ x

    def factorise(
        self, at: np.ndarray, norms: NormCurvature, ridge: float, is_exact: bool
    ) -> Solve:
        hessian = GramHessian(self._hessian(at))
        return hessian.factorise(np.arange(len(at)), norms, ridge, is_exact)

    def _hessian(self, at: np.ndarray) -> np.ndarray:
        """Returns that at the last point, on some of the coordinates; the intercept is one of them."""
        part = self.columns.matrix.part(self.places[at[at < self.size]])
        curvature, _ = self.loss.curvatures(self.eta)
        return self.loss.hessian(part, self.eta, curvature, np.zeros_like(curvature))
