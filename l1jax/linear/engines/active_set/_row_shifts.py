"""Losses that are least squares with a shift of each row, followed exactly where rows are few.

With Huber's loss and the squared hinge the solution of

    minimise over (β, b, o):   Σᵢ ½ cᵢ(tᵢ − xᵢᵀβ − b − oᵢ)² + upᵢ oᵢ⁺ + downᵢ oᵢ⁻ + R(β)

is that of the loss itself: minimal over o the rows are the loss (She and Owen 2011). So it is a
quadratic problem with separable prices on the columns of [X, 1, I], whose solutions are followed
from knot to knot; a row that changes its zone is a knot like any other. A quadratic model of the loss
knows the zones of one point only, and where there are as many features in as rows that bend, its
Hessian says nothing of what lies behind them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ...._threads import one_thread
from ...model._problem import Problem
from ._penalty_weights import Form, PenaltyWeights
from ._prox_newton import ProxNewton
from ._quadratic_program import Face
from ._state import State

_MANY_ROWS = 1000  # each is a coordinate


def is_few_rows(problem: Problem) -> bool:
    """Whether rows are few enough to be coordinates, and features enough for that to be worth it."""
    n, p = problem.x.shape
    return n <= min(p, _MANY_ROWS) and problem.loss.shifts(problem.y, problem.s) is not None


class RowShifts(ProxNewton):
    """Follows the solutions from one strength to the next."""

    def __init__(self, problem: Problem, gap: float | None = None):
        super().__init__(problem, gap)
        with jax.enable_x64(True):
            form = self.loss.shifts(jnp.asarray(self.y), jnp.asarray(self.s))
        assert form is not None  # `is_few_rows` has asked
        self.counts = np.flatnonzero(self.s > 0)
        form = (np.asarray(part, np.float64)[self.counts] for part in form)
        self.curvature, self.target, self.up, self.down = form
        self.target = self.target - self.offset[self.counts]

    def mover(
        self, members: np.ndarray, prices: PenaltyWeights, at: State, lam: float
    ) -> RowShiftSolver:
        """What moves on from the solution at `lam` on the columns `members`."""
        return RowShiftSolver(self, members, prices, at, lam)


class RowShiftSolver:
    """Moves the solution on some columns from one strength to another.

    Its coordinates are the columns, the shifts of the rows that count, and the intercept, where there is
    one; each is in units in which its diagonal entry of the Hessian is one.
    """

    def __init__(
        self, path: RowShifts, members: np.ndarray, prices: PenaltyWeights, at: State, lam: float
    ):
        self.path, self.members, self.prices = path, members, prices.of(members)
        self.part = path.columns.matrix.part(path.columns.require(members))
        self.size, self.rows = len(members), len(path.counts)
        columns = np.hstack([self.part.dense()[path.counts], np.eye(self.rows)])
        if path.fit_intercept:
            columns = np.column_stack([columns, np.ones(self.rows)])
        columns *= np.sqrt(path.curvature)[:, None]
        self.unit = np.sqrt(np.einsum("ij,ij->j", columns, columns))
        self.unit[self.unit == 0] = 1
        columns /= self.unit
        linear = columns.T @ (np.sqrt(path.curvature) * path.target)
        x, signs = self._start(at)
        inside = np.flatnonzero(~np.isnan(signs))
        self.form, self.lam = self._form(lam), lam
        with one_thread():
            hessian = columns.T @ columns
            self.face = Face(
                hessian,
                linear - hessian @ x - self.form.quad * x,
                self.form.up,
                self.form.down,
                inside,
                signs[inside],
                x[inside],
                ridge=self.form.quad,
                linear=linear,
            )

    def _start(self, at: State) -> tuple[np.ndarray, np.ndarray]:
        """The coordinates of a solution, and their signs: NaN for those that are zero."""
        path, m = self.path, self.size
        x, signs = np.zeros(len(self.unit)), np.full(len(self.unit), np.nan)
        places = np.searchsorted(self.members, at.features)
        x[places], signs[places] = at.values, at.signs
        rest = path.target - self.part.dot(x[:m])[path.counts] - at.intercept
        force = path.curvature * rest
        high, low = np.maximum(force - path.up, 0), np.minimum(force + path.down, 0)
        shifts, intercept = (high + low) / path.curvature, at.intercept
        if path.fit_intercept and shifts.all():
            # No row holds the intercept where it is. It is as good where it meets the first of them.
            nearest = shifts[np.abs(shifts).argmin()]
            shifts, intercept = shifts - nearest, intercept + nearest
        x[m : m + self.rows] = shifts
        signs[m : m + self.rows] = np.where(shifts == 0, np.nan, np.sign(shifts))
        if path.fit_intercept:
            x[-1], signs[-1] = intercept, 0
        return x * self.unit, signs

    def _form(self, lam: float) -> Form:
        """The prices of all coordinates."""
        path, unit, now = self.path, self.unit, self.prices.at(lam)
        free = np.zeros(len(unit) - self.size - self.rows)
        up, down = (
            np.concatenate([now.up, path.up, free]),
            np.concatenate([now.down, path.down, free]),
        )
        quad = np.zeros(len(unit))
        quad[: self.size] = now.quad
        return Form(up / unit, down / unit, quad / unit**2)

    def to(self, lam: float) -> State:
        """The solution at this strength."""
        face, form, m = self.face, self._form(lam), self.size
        bend = form.quad - self.form.quad
        if bend.any():
            face.bend(bend)
        steps = face.move(-bend * face.x, form.up, form.down)
        face.settle()
        self.form, self.lam = form, lam
        inside = face.face < m
        features = face.face[inside]
        slope = np.zeros(len(self.path.s))
        slope[self.path.counts] = -(face.gradient * self.unit)[m : m + self.rows]
        return State(
            features=self.members[features],
            signs=face.signs[inside],
            values=face.values[inside] / self.unit[features],
            intercept=float(face.x[-1] / self.unit[-1]) if self.path.fit_intercept else 0.0,
            gradient=(face.gradient * self.unit)[:m],
            slope=slope,
            steps=steps,
        )

    def gap(self, lam: float, beta: np.ndarray, intercept: float, descent: np.ndarray) -> float:
        """The duality gap of a point; columns outside of the working set are not looked at."""
        del descent  # rows change their zones
        return self.path.gap(self.part, self.prices, lam, beta, intercept)

    def inverse(self) -> None:
        """Nothing that another would start from."""
