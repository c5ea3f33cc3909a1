"""A Cholesky factor of Q on an active set from which a few coordinates come and go.

What has changed since Q was factorised on the base B is a border around it: a column of Q for each
coordinate that has entered, and a unit vector for each of B that has left, whose multiplier w keeps
it at zero:

    [ Q_BB  C ] [x]   [r]          S = D − Cᵀ Q_BB⁻¹ C
    [ Cᵀ    D ] [w] = [t]          w = S⁻¹ (t − Cᵀ Q_BB⁻¹ r),    x = Q_BB⁻¹ (r − C w)
"""

from __future__ import annotations

import numpy as np
import scipy  # which loads `linalg` when it is used

from ._path_point import NumericalBreakdown
from ._protocols import SymmetricMatrix


class BorderedCholesky:
    """Solves with Q + diag(ridge) on an active set that changes."""

    def __init__(
        self,
        hessian: SymmetricMatrix,
        ridge: np.ndarray,
        base: np.ndarray,
        square: np.ndarray,
        min_pivot: float = 0.0,
    ):
        """Factorises `square`, Q + diag(ridge) on the coordinates `base`, which is overwritten.

        `min_pivot`: the fraction of a diagonal entry that its pivot must exceed; raises
        `NumericalBreakdown` if one does not.
        """
        self.hessian, self.ridge, self.min_pivot = hessian, ridge, min_pivot
        self.base, self.size = base.copy(), (m := len(base))
        self.slots = np.full(len(hessian), -1)  # in the system: of the base, then of the entered
        self.slots[base] = np.arange(m)
        self.border: list[int] = []  # coordinates
        self.scale = np.zeros(len(hessian))  # diagonal entries, of those that have entered
        self.solved = np.zeros((m, 0), order="F")  # Q_BB⁻¹C
        self.schur = np.zeros((0, 0))  # S
        if not m:
            return
        scale = square.diagonal().copy()
        self.factor, failed = scipy.linalg.lapack.dpotrf(square.T, lower=1, overwrite_a=1, clean=0)
        if failed or (self.factor.diagonal() ** 2 <= min_pivot * scale).any():
            raise NumericalBreakdown

    def exchange(self, leaving: np.ndarray, entering: np.ndarray) -> None:
        """Takes coordinates from the active set, and adds others to it."""
        moved = [*leaving.tolist(), *entering.tolist()]
        kept = [i for i, j in enumerate(self.border) if j not in moved]
        new = [j for j in moved if j not in self.border]
        if len(kept) < len(self.border):  # what had entered leaves, or what had left is back
            self.border = [self.border[i] for i in kept]
            at = np.array(kept, int)
            self.solved, self.schur = self.solved[:, at], self.schur[at[:, None], at]
        if new:
            self._widen(np.array(new))
        has_entered = ~self._is_of_base(border := np.array(self.border, int))
        self.slots[border[has_entered]] = self.size + np.flatnonzero(has_entered)

    def _widen(self, new: np.ndarray) -> None:
        """Adds columns to the border: unit vectors for coordinates of the base, those of Q for others."""
        m, old = self.size, np.array(self.border, int)
        is_of_base = self._is_of_base(new)
        left, entered = np.flatnonzero(is_of_base), np.flatnonzero(~is_of_base)
        entered_before = np.flatnonzero(~self._is_of_base(old))
        rows = self.hessian[new[entered]]
        columns = np.zeros((m, len(new)), order="F")  # of C
        columns[self.slots[new[left]], left] = 1
        columns[:, entered] = rows[:, self.base].T
        self.scale[new[entered]] = rows[np.arange(len(entered)), new[entered]]
        start, end = len(old), len(old) + len(new)
        solved = np.empty((m, end), order="F")
        solved[:, :start] = self.solved
        solved[:, start:] = (
            scipy.linalg.lapack.dpotrs(self.factor, columns, lower=1)[0] if m else columns
        )
        schur = np.zeros((end, end))
        schur[:start, :start] = self.schur
        ridge = np.diag(self.ridge[new[entered]])
        schur[start + entered[:, None], start + entered] = rows[:, new[entered]] + ridge
        schur[entered_before[:, None], start + entered] = rows[:, old[entered_before]].T
        schur[:, start:] -= solved.T @ columns
        schur[start:, :start] = schur[:start, start:].T
        self.solved, self.schur = solved, schur
        self.border += new.tolist()

    def _is_of_base(self, coordinates: np.ndarray) -> np.ndarray:
        return (self.slots[coordinates] >= 0) & (self.slots[coordinates] < self.size)

    def is_independent(self) -> bool:
        """Returns whether the pivots of the coordinates that have entered are large enough."""
        border = np.array(self.border, int)
        is_of_base = self._is_of_base(border)
        left, entered = np.flatnonzero(is_of_base), np.flatnonzero(~is_of_base)
        if not len(entered):
            return True
        schur = self.schur[entered[:, None], entered]
        if len(left):
            mixed = self.schur[left[:, None], entered]
            schur = schur - mixed.T @ np.linalg.solve(self.schur[left[:, None], left], mixed)
        scale = self.scale[border[entered]] + self.ridge[border[entered]]
        factor, failed = scipy.linalg.lapack.dpotrf(schur, lower=1)
        return not failed and bool((factor.diagonal() ** 2 > self.min_pivot * scale).all())

    def solve(self, active: np.ndarray, rhs: np.ndarray) -> np.ndarray:
        """Returns Q⁻¹ rhs on the active set, whose coordinates may be in any order."""
        m, slots = self.size, self.slots[active]
        full = np.zeros(m + len(self.border))
        full[slots] = rhs
        x, w = full[:m], full[m:]
        if self.border:
            w[:] = np.linalg.solve(self.schur, w - x @ self.solved)
        if m:
            x[:] = scipy.linalg.lapack.dpotrs(self.factor, x, lower=1)[0] - self.solved @ w
        return full[slots]
