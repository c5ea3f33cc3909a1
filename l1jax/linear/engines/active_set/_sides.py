"""Losses with corners that are smoothed, such as the quantile loss: each λ solved from anywhere.

Few rows are on the curved piece of their loss, about as many as there are active features, and from one
λ to the next most of these change. So no solution is followed:

1. An interior point method tells on which side of its corner each row is, or that it is at it, and which
   coefficients are positive, negative, or zero.
2. On these sides the solution is that of a linear system: with S the rows at a corner, N the others, and
   A the active features,

       [ diag(1/c)_S    X_SA         1 ] [ u_S ]   [ t_S                 ]
       [ X_SAᵀ         −diag(quad)_A 0 ] [ β_A ] = [ ±weights_A − X_Nᵀu_N ]
       [ 1ᵀ             0            0 ] [ b   ]   [ −1ᵀu_N              ]

   It is solved as it is: where S and A are of one size, normal equations would square its condition.
3. What is on a wrong side there changes it, until nothing is.
"""

from __future__ import annotations

import numpy as np
import scipy  # which loads `linalg` when it is used

from ...model._problem import Problem
from ._interior_point import InteriorPoint, Rows, interior_point
from ._path_point import NumericalBreakdown, PathPoint
from ._protocols import RestrictedSolver
from ._row_shifts import RowShifts

_MAX_CHANGES = 12  # of sides, all at once
_OVER = 1e-9  # fraction of its bound by which a slope may exceed it
_RESIDUAL = 1e-9  # of the system, as a fraction of its right-hand side
_SINGULAR = 1e-15  # the least pivot, as a fraction of the largest
_NEAR_ENOUGH = 1e-9  # gap of an interior point that is the solution, where its sides are not known
_THRESHOLDS = (1.0, 1e-3, 1e3)  # of the ratios that tell a side, tried in turn


def has_corners(problem: Problem) -> bool:
    """Returns whether a loss stands for one with corners, and its rows have shifts."""
    return problem.loss.is_smoothed and problem.loss.shifts(problem.y, problem.s) is not None


class Sides(RowShifts):
    """`PathFollower` of a loss with corners."""

    can_halve_steps = False  # where a λ comes from makes no difference

    def restricted_solver(self, working: np.ndarray, at: PathPoint, lam: float) -> RestrictedSolver:
        del at, lam
        return SidesSolver(self, working)


class SidesSolver:
    """`RestrictedSolver` of a loss with corners."""

    def __init__(self, path: Sides, working: np.ndarray):
        self.path, self.working, self.weights = path, working, path.weights.restrict(working)
        self.part = path.columns.matrix.part(path.columns.require(working))
        self.x = self.part.dense()[path.rows]
        self.rows = Rows(path.curvature, path.target, path.up, path.down)

    def to(self, lam: float) -> PathPoint:
        path, form = self.path, self.weights.at(lam)
        path.budget.spend()
        self.form = form
        if self._interpolates():
            return self._point(1)
        near = interior_point(self.x, self.rows, form, path.loss.fit_intercept)
        for threshold in _THRESHOLDS:
            self._take_sides(near, threshold)
            for count in range(_MAX_CHANGES):
                if not self._solve():
                    break
                if not self._change_sides():
                    return self._point(near.num_steps + count + 1)
        if near.gap > _NEAR_ENOUGH:
            raise NumericalBreakdown
        self._take_point(near)
        return self._point(near.num_steps)

    def _interpolates(self) -> bool:
        """Whether unpenalised features and the intercept predict every row: nothing is then better.

        Of many such predictions, as for p > n at λ = 0, it is that of the least Σⱼ βⱼ²
        (with an intercept the columns are centred).
        """
        form, rows = self.form, self.rows
        has_intercept = self.path.loss.fit_intercept
        free = np.flatnonzero((form.up == 0) & (form.down == 0) & (form.quad == 0))
        n = len(rows.target)
        if len(free) + has_intercept < n:
            return False
        x = np.column_stack([self.x[:, free], np.ones((n, int(has_intercept)))])
        values = scipy.linalg.lstsq(x, rows.target, lapack_driver="gelsy")[0]
        rest = np.abs(rows.target - x @ values).max()
        if rest > _RESIDUAL * np.abs(rows.target).max():
            return False
        self.active, self.signs = free, np.zeros(len(self.working))
        self.u, self.neg_gradient = np.zeros(n), np.zeros(len(self.working))
        self.beta = np.zeros(len(self.working))
        self.beta[free] = values[: len(free)]
        self.intercept = float(values[-1]) if has_intercept else 0.0
        return True

    def _take_point(self, near: InteriorPoint) -> None:
        """Takes the interior point itself: where sides are a matter of rounding, none of them may be right."""
        is_free = self.weights.unpenalised
        is_active = (near.column_ratios > 1) | is_free
        self.active, self.beta = np.flatnonzero(is_active), np.where(is_active, near.beta, 0)
        self.signs = np.where(is_active & ~is_free, np.sign(near.beta), 0)
        self.intercept, self.u = near.intercept, near.u
        self.neg_gradient = near.u @ self.x - self.form.quad * self.beta

    def _take_sides(self, near: InteriorPoint, threshold: float) -> None:
        """Takes the sides that an interior point tells: 1, −1, or 0 at a corner."""
        is_free = self.weights.unpenalised
        is_active = (near.column_ratios > threshold) | is_free
        self.signs = np.where(is_active & ~is_free, np.sign(near.beta), 0)
        self.active = np.flatnonzero(is_active)
        self.side = np.sign(near.shifts)
        # At least as many rows as coefficients, which they determine.
        count = max(np.count_nonzero(near.row_ratios < 1 / threshold), self._num_unknown)
        self.side[np.argsort(near.row_ratios)[:count]] = 0

    @property
    def _num_unknown(self) -> int:
        """How many numbers only rows at a corner determine: coefficients without a ridge, and the intercept."""
        return int(np.sum(self.form.quad[self.active] == 0)) + self.path.loss.fit_intercept

    def _solve(self) -> bool:
        """Solves on the sides; returns whether there is a solution: the least, where there are many."""
        rows, form, active = self.rows, self.form, self.active
        corner = np.flatnonzero(self.side == 0)
        m, size = len(corner), len(active) + self.path.loss.fit_intercept
        self.u = np.where(self.side > 0, rows.up, -rows.down)
        self.u[corner] = 0
        weights = np.where(self.signs > 0, form.up, -form.down)[active]
        pulled = np.where(self.signs[active] == 0, 0, weights) - self.u @ self.x[:, active]
        block, quad = self.x[np.ix_(corner, active)], form.quad[active]
        if self.path.loss.fit_intercept:
            block, quad = np.column_stack([block, np.ones(m)]), np.append(quad, 0.0)
            pulled = np.append(pulled, -self.u.sum())
        scale = np.sqrt(np.einsum("ij,ij->j", block, block))
        scale, unit = np.where(scale > 0, scale, 1), (rows.up + rows.down).mean()  # of u
        matrix = np.zeros((m + size,) * 2)
        matrix.flat[: m * (m + size) : m + size + 1] = unit / rows.curvature[corner]
        matrix[:m, m:] = block / scale
        matrix[m:, :m] = matrix[:m, m:].T
        matrix[m:, m:].flat[:: size + 1] = -quad / unit / scale**2
        rhs = np.append(rows.target[corner], pulled / unit / scale)
        solved = _solved(matrix, rhs)
        if not np.allclose(
            matrix @ solved, rhs, rtol=0, atol=_RESIDUAL * np.abs(rhs).max(initial=0)
        ):
            return False
        self.u[corner] = unit * solved[:m]
        values = solved[m:] / scale
        self.beta = np.zeros(len(self.working))
        self.beta[active] = values[: len(active)]
        self.intercept = float(values[-1]) if self.path.loss.fit_intercept else 0.0
        return True

    def _change_sides(self) -> bool:
        """Changes what is on a wrong side; returns whether anything was.

        There are at least as many rows at a corner as coefficients, or nothing determines these: where more
        changes are due, only the largest are made.
        """
        rows, form = self.rows, self.form
        # 1. Rows off their corner whose shift has the other sign, and rows at it whose slope is too large.
        rest = rows.target - self.x[:, self.active] @ self.beta[self.active] - self.intercept
        shifts = rest - self.u / rows.curvature
        is_back = (self.side != 0) & (shifts * self.side < -_OVER * np.abs(rows.target).max())
        over = np.maximum(self.u / rows.up, -self.u / rows.down) - 1
        is_gone = (self.side == 0) & (over > _OVER)
        # 2. Coefficients of the other sign, and gradients over their weights.
        self.neg_gradient = self.u @ self.x - form.quad * self.beta
        is_left = self.beta * self.signs < 0
        weights = np.where(self.neg_gradient > 0, form.up, form.down)
        overshoot = np.abs(self.neg_gradient) - weights * (1 + _OVER) - self.path.tolerance
        overshoot[self.active] = -np.inf
        entering = np.flatnonzero(overshoot > 0)
        if not (is_back.any() or is_gone.any() or is_left.any() or len(entering)):
            return False
        # 3. Rows and coefficients that come back to a corner or to zero; others as far as these allow it.
        self.side[is_back] = 0
        stays = ~is_left[self.active]
        self.signs[is_left] = 0
        self.active = self.active[stays]
        spare = np.count_nonzero(self.side == 0) - self._num_unknown
        gone = np.flatnonzero(is_gone)
        gone = gone[np.argsort(-over[gone])[: max(spare, 0)]]
        self.side[gone] = np.sign(self.u[gone])
        spare = max(spare - len(gone), 0)
        entering = entering[np.argsort(-overshoot[entering])]
        if len(entering) and not spare and self.side.any():  # one, with the nearest row
            off = np.flatnonzero(self.side != 0)
            self.side[off[np.argmin(np.abs(shifts[off]))]] = 0
            spare = 1
        self.signs[entering[:spare]] = np.sign(self.neg_gradient[entering[:spare]])
        self.active = np.union1d(self.active, entering[:spare])
        return True

    def _point(self, num_steps: int) -> PathPoint:
        slope = np.zeros(len(self.path.loss.s))
        slope[self.path.rows] = -self.u
        return PathPoint(
            features=self.working[self.active],
            signs=self.signs[self.active],
            values=self.beta[self.active],
            intercept=self.intercept,
            neg_gradient=self.neg_gradient,
            slope=slope,
            num_steps=num_steps,
        )

    def gap(
        self, lam: float, beta: np.ndarray, intercept: float, neg_gradient: np.ndarray
    ) -> float:
        del neg_gradient  # rows change their sides between two solutions
        return self.path.loss.duality_gap(self.part, self.weights, lam, beta, intercept)

    def known_inverse(self) -> None:
        return None


def _solved(matrix: np.ndarray, rhs: np.ndarray) -> np.ndarray:
    """Returns the solution of a symmetric system, by least squares where it is singular."""
    if not len(rhs):
        return rhs
    factor, pivots, failed = scipy.linalg.lapack.dgetrf(matrix)
    pivot = np.abs(factor.diagonal())
    if failed or pivot.min(initial=1) <= _SINGULAR * pivot.max(initial=1):
        return scipy.linalg.lstsq(matrix, rhs)[0]
    solved = scipy.linalg.lapack.dgetrs(factor, pivots, rhs)[0]
    return solved + scipy.linalg.lapack.dgetrs(factor, pivots, rhs - matrix @ solved)[0]
