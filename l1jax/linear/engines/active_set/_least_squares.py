"""Squared error with weights per coordinate: a quadratic program on the Gram matrix of a working set."""

from __future__ import annotations

import numpy as np

from ...host._columns import GramColumns
from ...host._path_solution import Knot
from ._active_set import ActiveSet
from ._homotopy import LineKnot, homotopy
from ._options import OPTIONS
from ._path_point import PathPoint
from ._penalty_weights import CoordinateForm, CoordinateWeights
from ._primal_dual import primal_dual
from ._quadratic_program import QuadraticProgram


class LeastSquares:
    """`PathFollower` of squared error; the solutions are exact."""

    can_halve_steps = False
    starts_anywhere = False

    def __init__(self, columns: GramColumns, weights: CoordinateWeights, keep_knots: bool = False):
        self.columns, self.weights, self.keep_knots = columns, weights, keep_knots

    def start(
        self, features: np.ndarray, values: np.ndarray, neg_gradient: np.ndarray
    ) -> PathPoint:
        signs = np.zeros(len(features))
        return PathPoint(features, signs, values, self.columns.centre, neg_gradient)

    def restricted_solver(
        self, working: np.ndarray, at: PathPoint, lam: float
    ) -> LeastSquaresSolver:
        return LeastSquaresSolver(self, working, at, lam)

    def neg_gradients(self, points: list[PathPoint], out: np.ndarray) -> None:
        self.columns.gradients([(point.features, point.values) for point in points], out)


class LeastSquaresSolver:
    """`RestrictedSolver` of squared error."""

    def __init__(self, path: LeastSquares, working: np.ndarray, at: PathPoint, lam: float):
        places = path.columns.require(working)
        self.intercept, self.keep_knots = path.columns.centre, path.keep_knots
        self.working, self.weights = working, path.weights.restrict(working)
        self.form, self.lam = self.weights.at(lam), lam
        self.program = QuadraticProgram(
            path.columns.gram_of(places),
            at.neg_gradient[working],
            (self.form.up, self.form.down),
            ActiveSet(len(working), np.searchsorted(working, at.features), at.signs, at.values),
            at.inverse,
            self.form.quad,
            path.columns.linear[places],
        )

    def to(self, lam: float) -> PathPoint:
        program, start = self.program, self.lam
        knots: list[LineKnot] = []
        if self.keep_knots:
            shift, form = self._move_to(lam)
            num_steps = homotopy(program, shift, form[:2], knots)
            self.form, self.lam = form, lam
        else:
            num_steps = self._solve(lam, OPTIONS.max_halvings)
        program.refine()
        active = program.active
        return PathPoint(
            features=self.working[active.indices],
            signs=active.signs.copy(),
            values=active.values.copy(),
            intercept=self.intercept,
            neg_gradient=program.neg_gradient.copy(),
            num_steps=num_steps,
            knots=tuple(_knot(knot, self.working, start, lam) for knot in knots),
        )

    def _solve(self, lam: float, halvings: int) -> int:
        """Solves at λ by guesses, by way of the middle where these diverge, or else by homotopy."""
        old = self.form
        shift, form = self._move_to(lam)
        outcome = primal_dual(self.program, shift, form[:2])
        if outcome.diverged and halvings:
            if (form.quad != old.quad).any():
                self.program.add_ridge(old.quad - form.quad)
            steps = self._solve((self.lam + lam) / 2, halvings - 1)
            return steps + self._solve(lam, halvings - 1)
        steps = outcome.num_changes
        if not outcome.converged:
            steps = homotopy(self.program, shift, form[:2])
        self.form, self.lam = form, lam
        return steps

    def _move_to(self, lam: float) -> tuple[np.ndarray, CoordinateForm]:
        """Adds the ridge of λ to Q; returns by how much c has moved for it, and the weights there."""
        form = self.weights.at(lam)
        ridge = form.quad - self.form.quad
        if ridge.any():
            self.program.add_ridge(ridge)
        return -ridge * self.program.x, form

    def gap(
        self, lam: float, beta: np.ndarray, intercept: float, neg_gradient: np.ndarray
    ) -> float:
        del intercept  # it is at its best: columns and target are centred
        return self.weights.fenchel_gap(lam, beta, neg_gradient)

    def known_inverse(self) -> np.ndarray | None:
        return self.program.known_inverse


def _knot(knot: LineKnot, working: np.ndarray, lam: float, target: float) -> Knot:
    inside = np.flatnonzero(knot.x)
    return Knot(lam + knot.fraction * (target - lam), working[inside], knot.x[inside])
