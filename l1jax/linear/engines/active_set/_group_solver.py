"""A solution on a working set with weights per group, followed over λ by Newton's method."""

from __future__ import annotations

import abc
from typing import Any

import numpy as np

from ._group_hessian import SmoothPart
from ._group_newton import GroupNewton
from ._group_weights import GroupForm, GroupWeights, Layout
from ._options import OPTIONS
from ._path_point import NumericalBreakdown, PathPoint
from ._step_budget import StepBudget


class GroupSolver(abc.ABC):
    """`RestrictedSolver` of a smooth loss with weights per group.

    Newton's method works on the features sorted by group, with a column for each response. An intercept
    that no centring takes care of is a group of its own, after the others.
    """

    intercept: float | np.ndarray
    has_intercept = False  # whether it is a coordinate
    newton: GroupNewton

    def __init__(self, weights: GroupWeights, working: np.ndarray, at: PathPoint, lam: float):
        self.working, self.weights = working, weights.restrict(working)
        self.sorted_working = working[self.weights.order]
        self.shape = (len(working), *at.values.shape[1:])
        self.at, self.lam = at, lam
        self.previous: tuple[float, np.ndarray] | None = None  # (λ, z) to extrapolate from

    def _begin(self, smooth: SmoothPart, tolerance: float, budget: StepBudget) -> None:
        """Starts Newton's method at the point that the solver is given."""
        at, m = self.at, len(self.working)
        self.newton = GroupNewton(smooth, self._layout(), self._sorted(at), tolerance, budget)
        if at.previous is not None and at.previous[0] != self.lam:
            previous_lam, point = at.previous
            z = self._sorted(point)
            neg_gradient = point.neg_gradient[self.sorted_working].reshape(m, -1)
            form, layout = self.weights.at(previous_lam), self.weights.layout
            neg_gradient = neg_gradient + layout.broadcast(form.quad) * z[:m]
            z[:m] += self.newton.step_size[:m] * neg_gradient
            self.previous = previous_lam, z

    def _layout(self) -> Layout:
        starts, ids = self.weights.layout
        if not self.has_intercept:
            return self.weights.layout
        return Layout(np.append(starts, len(ids)), np.append(ids, len(starts)))

    def _form(self, lam: float) -> GroupForm:
        form = self.weights.at(lam)
        return GroupForm(*(np.append(part, 0.0) for part in form)) if self.has_intercept else form

    def _sorted(self, point: PathPoint) -> np.ndarray:
        """Returns the coefficients of the working set at a solution, sorted by group, and the intercept."""
        x = np.zeros(self.shape)
        inside = np.isin(point.features, self.working)
        x[np.searchsorted(self.working, point.features[inside])] = point.values[inside]
        x = x[self.weights.order].reshape(len(x), -1)
        if not self.has_intercept:
            return x
        return np.append(x, np.full((1, 1), point.intercept), axis=0)

    def to(self, lam: float) -> PathPoint:
        num_steps = self._solve(lam, OPTIONS.max_halvings)
        newton, order, m = self.newton, self.weights.order, len(self.working)
        x, neg_gradient = np.empty(self.shape), np.empty(self.shape)
        x[order] = newton.x[:m].reshape(self.shape)
        rest = newton.neg_gradient - newton.quad * newton.x
        neg_gradient[order] = rest[:m].reshape(self.shape)
        if self.has_intercept:
            self.intercept = float(newton.x[m, 0])
        is_inside = x.reshape(m, -1).any(axis=1) | self.weights.unpenalised
        inside = np.flatnonzero(is_inside)
        return PathPoint(
            features=self.working[inside],
            signs=np.zeros(len(inside)),
            values=x[inside],
            intercept=self.intercept,
            neg_gradient=neg_gradient,
            slope=self._slope(),
            num_steps=num_steps,
        )

    def _slope(self) -> np.ndarray | None:
        """Returns ∂L/∂η (n,) at the solution, if the loss is not quadratic."""
        return None

    def _solve(self, lam: float, halvings: int) -> int:
        """Solves at λ from an extrapolation of z, at once or by way of the middle."""
        newton, form = self.newton, self._form(lam)
        x, z, guess = newton.x, newton.z, None
        if self.previous is not None:
            previous_lam, previous_z = self.previous
            guess = z + (lam - self.lam) / (self.lam - previous_lam) * (z - previous_z)
        try:
            steps = newton.move_to(form, guess)
        except NumericalBreakdown:
            if not halvings:
                raise
            newton.start(self._form(self.lam), x)
            steps = self._solve((lam + self.lam) / 2, halvings - 1)
            return steps + self._solve(lam, halvings - 1)
        if lam != self.lam:
            self.previous = self.lam, z
        self.lam = lam
        return steps

    @abc.abstractmethod
    def gap(
        self, lam: float, beta: np.ndarray, intercept: Any, neg_gradient: np.ndarray
    ) -> float: ...

    def known_inverse(self) -> None:
        return None
