"""A Cholesky factor of Q on some coordinates, of which a few come and go.

What has changed since the factor was made is a border around it, with a column for each coordinate
that came, and a unit vector for each that went, which holds it at zero:

    [ Q_BB  C ] [x]   [r]          S = D − Cᵀ Q_BB⁻¹ C
    [ Cᵀ    D ] [w] = [t]          w = S⁻¹ (t − Cᵀ Q_BB⁻¹ r),    x = Q_BB⁻¹ (r − C w)
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import get_lapack_funcs

from ...host._columns import GramPart
from ._state import NumericalBreakdown

_potrf, _potrs = get_lapack_funcs(("potrf", "potrs"), dtype=np.float64)


class BorderedCholesky:
    """Solves with Q + diag(ridge) on a face that changes."""

    def __init__(
        self,
        hessian: np.ndarray | GramPart,
        ridge: np.ndarray,
        members: np.ndarray,
        square: np.ndarray,
        least: float = 0.0,
    ):
        """`square`: Q + diag(ridge) on the members, which is overwritten.

        `least`: the share of a coordinate that those before it must leave; raises `Lost`.
        """
        self.hessian, self.ridge, self.least = hessian, ridge, least
        self.base, self.size = members.copy(), (m := len(members))
        self.slots = np.full(len(hessian), -1)  # of the base, and behind it of those that came
        self.slots[members] = np.arange(m)
        self.border: list[int] = []  # coordinates
        self.reach = np.zeros((m, 0), order="F")  # Q_BB⁻¹C
        self.corner = np.zeros((0, 0))  # S
        if not m:
            return
        scale = square.diagonal().copy()
        self.factor, failed = _potrf(square.T, lower=1, overwrite_a=1, clean=0)
        if failed or (self.factor.diagonal() ** 2 <= least * scale).any():
            raise NumericalBreakdown

    def change(self, leaving: np.ndarray, entering: np.ndarray) -> None:
        """Takes coordinates from the face and adds others to it."""
        moved = [*leaving.tolist(), *entering.tolist()]
        rest = [i for i, j in enumerate(self.border) if j not in moved]
        new = [j for j in moved if j not in self.border]
        if len(rest) < len(self.border):  # what had come goes, or the other way round
            self.border = [self.border[i] for i in rest]
            at = np.array(rest, int)
            self.reach, self.corner = self.reach[:, at], self.corner[at[:, None], at]
        if new:
            self._widen(np.array(new))
        come = ~self._is_of_base(border := np.array(self.border, int))
        self.slots[border[come]] = self.size + np.flatnonzero(come)

    def _widen(self, new: np.ndarray) -> None:
        """The border with more columns: unit vectors for the base's own, those of Q for others."""
        m, old = self.size, np.array(self.border, int)
        is_own, was_own = self._is_of_base(new), self._is_of_base(old)
        own, came, had = np.flatnonzero(is_own), np.flatnonzero(~is_own), np.flatnonzero(~was_own)
        come, before = new[came], old[had]
        rows = self.hessian[come]
        sides = np.zeros((m, len(new)), order="F")  # C
        sides[self.slots[new[own]], own] = 1
        sides[:, came] = rows[:, self.base].T
        ends = len(old), len(old) + len(new)
        fresh, rest = slice(*ends), slice(len(old))
        reach = np.empty((m, ends[1]), order="F")
        reach[:, rest] = self.reach
        reach[:, fresh] = _potrs(self.factor, sides, lower=1)[0] if m else sides
        corner = np.zeros((ends[1], ends[1]))
        corner[rest, rest] = self.corner
        corner[ends[0] + came[:, None], ends[0] + came] = rows[:, come] + np.diag(self.ridge[come])
        corner[had[:, None], ends[0] + came] = rows[:, before].T
        corner[:, fresh] -= reach.T @ sides
        corner[fresh, rest] = corner[rest, fresh].T
        self.reach, self.corner = reach, corner
        self.border += new.tolist()

    def _is_of_base(self, some: np.ndarray) -> np.ndarray:
        return (self.slots[some] >= 0) & (self.slots[some] < self.size)

    def is_independent(self) -> bool:
        """Whether those that came leave enough of themselves outside of the others on the face."""
        border = np.array(self.border, int)
        is_own = self._is_of_base(border)
        own, came = np.flatnonzero(is_own), np.flatnonzero(~is_own)
        if not len(came):
            return True
        outside, across = self.corner[came[:, None], came], self.corner[own[:, None], came]
        if len(own):
            inside = self.corner[own[:, None], own]
            outside = outside - across.T @ np.linalg.solve(inside, across)
        scale = self.hessian.diagonal()[border[came]] + self.ridge[border[came]]
        factor, failed = _potrf(outside, lower=1)
        return not failed and bool((factor.diagonal() ** 2 > self.least * scale).all())

    def solve(self, members: np.ndarray, rhs: np.ndarray) -> np.ndarray:
        """Q⁻¹ rhs on the face, whose members may be in any order."""
        m, slots = self.size, self.slots[members]
        full = np.zeros(m + len(self.border))
        full[slots] = rhs
        first, weights = full[:m], full[m:]
        if self.border:
            weights[:] = np.linalg.solve(self.corner, weights - first @ self.reach)
        if m:
            first[:] = _potrs(self.factor, first, lower=1)[0] - self.reach @ weights
        return full[slots]
