"""Losses that are least squares with a shift of each row, followed exactly where rows are few.

With Huber's loss and the squared hinge the solution of

    minimise over (β, b, o):   Σᵢ ½ cᵢ(tᵢ − xᵢᵀβ − b − oᵢ)² + upᵢ oᵢ⁺ + downᵢ oᵢ⁻ + R(β)

is that of the loss itself: minimal over o the rows are the loss (She and Owen 2011). So it is a
quadratic program with separable weights on the columns of [X, 1, I], and a row whose piece of the
loss changes is a change of the active set like any other. A quadratic model of the loss knows the
pieces at one point only; with as many active features as rows of positive curvature, its Hessian
says nothing of what lies behind them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ...model._problem import Problem
from ._active_set import ActiveSet
from ._path_point import PathPoint
from ._penalty_weights import CoordinateForm, CoordinateWeights
from ._primal_dual import solve_moved
from ._protocols import RestrictedSolver
from ._prox_newton import ProxNewton
from ._quadratic_program import QuadraticProgram
from ._step_budget import StepBudget

_MAX_ROWS = 1000  # each is a coordinate


def has_few_rows(problem: Problem) -> bool:
    """Returns whether a loss has shifts of its rows, and so few that each is worth being a coordinate."""
    n, p = problem.x.shape
    return problem.loss.shifts(problem.y, problem.s) is not None and n <= min(p, _MAX_ROWS)


class RowShifts(ProxNewton):
    """`PathFollower` of a loss that has shifts; the solutions are exact."""

    starts_anywhere = False

    def __init__(
        self,
        problem: Problem,
        weights: CoordinateWeights,
        budget: StepBudget,
        relative_gap: float | None = None,
        rough_above: float = np.inf,
    ):
        super().__init__(problem, weights, budget, relative_gap, rough_above)
        loss = self.loss
        with jax.enable_x64(True):
            shifts = loss.loss.shifts(jnp.asarray(loss.y), jnp.asarray(loss.s))
        assert shifts is not None  # by `has_few_rows`
        self.rows = np.flatnonzero(loss.s > 0)  # of positive sample weight
        parts = (np.asarray(part, np.float64)[self.rows] for part in shifts)
        self.curvature, target, self.up, self.down = parts
        self.target = target - loss.offset[self.rows]

    def shifts(self, residual: np.ndarray) -> np.ndarray:
        """Returns the best shift of each row with a weight, at its residual."""
        slope = self.curvature * residual
        above, below = np.maximum(slope - self.up, 0), np.minimum(slope + self.down, 0)
        return (above + below) / self.curvature

    def restricted_solver(self, working: np.ndarray, at: PathPoint, lam: float) -> RestrictedSolver:
        return RowShiftSolver(self, working, at, lam)


class RowShiftSolver:
    """`RestrictedSolver` of a loss that has shifts.

    Its coordinates are the columns of the working set, the shifts of the rows, and the intercept, if
    there is one; each in the unit in which its diagonal entry of the Hessian is one.
    """

    def __init__(self, path: RowShifts, working: np.ndarray, at: PathPoint, lam: float):
        self.path, self.working, self.weights = path, working, path.weights.restrict(working)
        self.part = path.columns.matrix.part(path.columns.require(working))
        self.size, self.dense = len(working), self.part.dense()
        self.num_rows = len(path.rows)
        self._build(at, self._shifts(at), lam)

    def _shifts(self, at: PathPoint) -> np.ndarray:
        """Returns the shifts of the rows with a weight, at a solution."""
        beta = np.zeros(self.size)
        beta[np.searchsorted(self.working, at.features)] = at.values
        path = self.path
        return path.shifts(path.target - self.part.dot(beta)[path.rows] - at.intercept)

    def _build(self, at: PathPoint, shifts: np.ndarray, lam: float) -> None:
        """Makes the quadratic program, at a solution."""
        path, curvature = self.path, self.path.curvature
        columns = np.hstack([self.dense[path.rows], np.eye(self.num_rows)])
        if path.loss.fit_intercept:
            columns = np.column_stack([columns, np.ones(self.num_rows)])
        columns *= np.sqrt(curvature)[:, None]
        self.unit = np.sqrt(np.einsum("ij,ij->j", columns, columns))
        self.unit[self.unit == 0] = 1
        columns /= self.unit
        linear = columns.T @ (np.sqrt(curvature) * path.target)
        x, signs = self._coordinates(at, shifts)
        active = np.flatnonzero(~np.isnan(signs))
        self.form = self._form(lam)
        hessian = columns.T @ columns
        self.program = QuadraticProgram(
            hessian,
            linear - hessian @ x - self.form.quad * x,
            self.form[:2],
            ActiveSet(len(x), active, signs[active], x[active]),
            ridge=self.form.quad,
            linear=linear,
        )

    def _coordinates(self, at: PathPoint, shifts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the coordinates of a solution, and their signs: NaN for the inactive ones."""
        path, m = self.path, self.size
        x, signs = np.zeros(len(self.unit)), np.full(len(self.unit), np.nan)
        places = np.searchsorted(self.working, at.features)
        x[places], signs[places] = at.values, at.signs
        intercept = at.intercept
        if path.loss.fit_intercept and shifts.all():
            # No row determines the intercept. It is as good where the first shift becomes zero.
            nearest = shifts[np.abs(shifts).argmin()]
            shifts, intercept = shifts - nearest, intercept + nearest
        x[m : m + self.num_rows] = shifts
        signs[m : m + self.num_rows] = np.where(shifts == 0, np.nan, np.sign(shifts))
        if path.loss.fit_intercept:
            x[-1], signs[-1] = intercept, 0
        return x * self.unit, signs

    def _form(self, lam: float) -> CoordinateForm:
        """Returns the weights of all coordinates at λ, in their units."""
        path, unit, now = self.path, self.unit, self.weights.at(lam)
        of_intercept = np.zeros(len(unit) - self.size - self.num_rows)
        up = np.concatenate([now.up, path.up, of_intercept])
        down = np.concatenate([now.down, path.down, of_intercept])
        quad = np.zeros(len(unit))
        quad[: self.size] = now.quad
        return CoordinateForm(up / unit, down / unit, quad / unit**2)

    def to(self, lam: float) -> PathPoint:
        self.path.budget.spend()
        program, form, m = self.program, self._form(lam), self.size
        ridge = form.quad - self.form.quad
        if ridge.any():
            program.add_ridge(ridge)
        num_steps = solve_moved(program, -ridge * program.x, form[:2])
        program.refine()
        self.form = form
        active, x = program.active, program.x
        is_feature = active.indices < m
        places = active.indices[is_feature]
        neg_gradient = program.neg_gradient * self.unit
        slope = np.zeros(len(self.path.loss.s))
        slope[self.path.rows] = -neg_gradient[m : m + self.num_rows]
        has_intercept = self.path.loss.fit_intercept
        return PathPoint(
            features=self.working[places],
            signs=active.signs[is_feature],
            values=active.values[is_feature] / self.unit[places],
            intercept=float(x[-1] / self.unit[-1]) if has_intercept else 0.0,
            neg_gradient=neg_gradient[:m],
            slope=slope,
            num_steps=num_steps,
        )

    def gap(
        self, lam: float, beta: np.ndarray, intercept: float, neg_gradient: np.ndarray
    ) -> float:
        del neg_gradient  # rows change their pieces between two solutions
        return self.path.loss.duality_gap(self.part, self.weights, lam, beta, intercept)

    def known_inverse(self) -> None:
        return None
