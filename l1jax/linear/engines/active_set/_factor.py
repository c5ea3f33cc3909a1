"""The Hessian on the active set: its rows, and a factorisation that follows what enters and leaves.

There are two factorisations, each for one algorithm, and each valid for as long as it is kept up:

- the inverse, updated by rank one: `append` and `remove` keep it, and void the other (homotopy);
- a bordered Cholesky factor: `exchange` keeps it, and voids the other (primal-dual active sets).
"""

from __future__ import annotations

import numpy as np
import scipy  # which loads `linalg` when it is used

from ._active_set import ActiveSet, capacity
from ._bordered_cholesky import BorderedCholesky
from ._path_point import NumericalBreakdown
from ._protocols import SymmetricMatrix

# A column of a smaller fraction outside of the span of the active ones depends on them.
DEPENDENT = 1e-9
_MAX_BORDER = 48  # changes of the active set before it is factorised anew
_STRIP = 64  # rows of a matrix mirrored at a time


class Factor:
    """Q_AA for an active set A, with Q = hessian + diag(ridge), (w, w).

    `append` follows that of A, `remove` and `exchange` come before those of A.
    """

    def __init__(
        self,
        hessian: SymmetricMatrix,
        ridge: np.ndarray | float,
        active: ActiveSet,
        inverse: np.ndarray | None,
    ):
        """`inverse`: Q_AA⁻¹, if it is known."""
        if isinstance(hessian, np.ndarray) and not hessian.flags.c_contiguous:
            hessian = hessian.T  # symmetric: for its rows
        self.hessian, self.active = hessian, active
        self.ridge = np.broadcast_to(ridge, (len(hessian),))
        m, room = active.size, capacity(active.size)
        self._rows = np.empty((room, len(hessian)))  # of `hessian`, for the active coordinates
        self._rows[:m] = hessian[active.indices]
        self._inverse = np.zeros((room, room), order="F")
        self.has_inverse = inverse is not None
        if inverse is not None:
            self._inverse[:m, :m] = inverse
        self._cholesky: BorderedCholesky | None = None

    @property
    def diagonal(self) -> np.ndarray:
        """The diagonal of `hessian`, (w,)."""
        return self.hessian.diagonal()

    @property
    def rows(self) -> np.ndarray:
        """The rows of `hessian` at the active coordinates, (m, w)."""
        return self._rows[: self.active.size]

    @property
    def inverse(self) -> np.ndarray:
        """Q_AA⁻¹; raises `NumericalBreakdown` if Q_AA is singular."""
        if not self.has_inverse:
            self.invert()
        return self._inverse[: self.active.size, : self.active.size]

    @property
    def cholesky(self) -> BorderedCholesky:
        """A factor of Q_AA; raises `NumericalBreakdown` if it is singular."""
        if self._cholesky is None or len(self._cholesky.border) > _MAX_BORDER:
            order = np.argsort(self.active.indices)
            indices, square = self.active.indices[order], self._square(order)
            self._cholesky = BorderedCholesky(self.hessian, self.ridge, indices, square, DEPENDENT)
        return self._cholesky

    def factorise(self) -> None:
        """Raises `NumericalBreakdown` if Q_AA is singular."""
        _ = self.cholesky

    def solve(self, rhs: np.ndarray) -> np.ndarray:
        """Q_AA⁻¹ rhs, by the factorisation that there is."""
        return self.inverse @ rhs if self.has_inverse else self.solve_cholesky(rhs)

    def solve_cholesky(self, rhs: np.ndarray) -> np.ndarray:
        return self.cholesky.solve(self.active.indices, rhs)

    def product(self, values: np.ndarray) -> np.ndarray:
        """Q x (w,) for an x of these values on A."""
        out = values @ self.rows
        out[self.active.indices] += self.ridge[self.active.indices] * values
        return out

    def add_ridge(self, ridge: np.ndarray) -> None:
        self.ridge = self.ridge + ridge
        self.has_inverse, self._cholesky = False, None

    def pivot(self, j: int) -> tuple[np.ndarray, float]:
        """Q_AA⁻¹ q_j, and the Schur complement Q_jj − q_jᵀQ_AA⁻¹q_j, of an inactive coordinate."""
        q = self.hessian[j][self.active.indices]
        u = self.inverse @ q
        return u, self.diagonal[j] + self.ridge[j] - q @ u

    def min_pivot(self, j: int) -> float:
        """The Schur complement below which column j counts as dependent on the active ones."""
        return DEPENDENT * (self.diagonal[j] + self.ridge[j])

    def append(self, u: np.ndarray, pivot: float) -> None:
        """Updates the inverse for the last coordinate of A, given its `pivot`."""
        self._append_rows(1)
        m = self.active.size - 1
        self._rank_one(u, 1 / pivot)
        self._inverse[:m, m] = self._inverse[m, :m] = -u / pivot
        self._inverse[m, m] = 1 / pivot
        self._cholesky = None

    def remove(self, k: int) -> None:
        """Updates the inverse for the coordinate in place k of A, which leaves."""
        inverse, last = self.inverse, self.active.size - 1
        if k != last:
            inverse[:, [k, last]] = inverse[:, [last, k]]
            inverse[[k, last], :] = inverse[[last, k], :]
            self._rows[k] = self._rows[last]
        b = self._inverse[:last, last].copy()
        self._rank_one(b, -1 / self._inverse[last, last])
        self._cholesky = None

    def exchange(self, leaving: np.ndarray, entering: np.ndarray) -> None:
        """Updates the Cholesky factor: `leaving` are places in A, `entering` coordinates."""
        self.cholesky.exchange(self.active.indices[leaving], entering)
        self.has_inverse = False
        rows, last = self._rows, self.active.size
        for k in leaving[::-1].tolist():
            last -= 1
            if k != last:
                rows[k] = rows[last]

    def extend(self, count: int) -> None:
        """Reads the rows of the last `count` coordinates of A, after an `exchange`."""
        self._append_rows(count)

    def restore(self, has_inverse: bool) -> None:
        """Returns to an active set of before, at which the inverse was (not) valid."""
        self._rows[: self.active.size] = self.hessian[self.active.indices]
        self.has_inverse, self._cholesky = has_inverse, None

    def invert(self) -> None:
        """Computes the inverse afresh."""
        square = self._square(np.arange(m := self.active.size))
        if m:
            factor, failed = scipy.linalg.lapack.dpotrf(square.T, lower=1, overwrite_a=1)
            if failed:
                raise NumericalBreakdown
            self._inverse[:m, :m] = _mirrored(
                scipy.linalg.lapack.dpotri(factor, lower=1, overwrite_c=1)[0]
            )
        self.has_inverse = True

    def _square(self, order: np.ndarray) -> np.ndarray:
        """Q_AA in some order; in ascending order it is gathered several times faster."""
        indices = self.active.indices[order]
        square = self.rows.take(indices, axis=1)[order]
        square.flat[:: self.active.size + 1] += self.ridge[indices]
        return square

    def _append_rows(self, count: int) -> None:
        m = self.active.size
        if m > len(self._rows):
            old, room = len(self._rows), capacity(m)
            rows, inverse = np.zeros((room, self._rows.shape[1])), np.zeros((room, room), order="F")
            rows[:old], inverse[:old, :old] = self._rows, self._inverse
            self._rows, self._inverse = rows, inverse
        self._rows[m - count : m] = self.hessian[self.active.indices[m - count :]]

    def _rank_one(self, u: np.ndarray, factor: float) -> None:
        """Adds factor · u uᵀ to the inverse, in place: half of homotopy's time goes through here."""
        padded = np.zeros(len(self._inverse))
        padded[: len(u)] = u
        self._inverse = scipy.linalg.blas.dger(
            factor, padded, padded, a=self._inverse, overwrite_a=1
        )


def _mirrored(half: np.ndarray) -> np.ndarray:
    """The symmetric matrix of this lower half, in place."""
    for i in range(0, len(half), _STRIP):
        half[i : i + _STRIP, i + _STRIP :] = half[i + _STRIP :, i : i + _STRIP].T
        corner = np.tril(half[i : i + _STRIP, i : i + _STRIP])
        half[i : i + _STRIP, i : i + _STRIP] = corner + np.tril(corner, -1).T
    return half
