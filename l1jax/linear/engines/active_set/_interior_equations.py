"""The linear equations of one step of an interior-point method, reduced to the smaller side of X.

    [ D    X̃  ] [ du ]   [ of_rows    ]
    [ X̃ᵀ  −E  ] [ dc ] = [ of_columns ]

X̃ (n, m) are the columns, and that of the intercept; D (n,) and E (m,) are positive or zero. Where X is tall the
rows are eliminated, else the columns. Towards the end D of the rows at a corner and E of the active columns go
to zero, and after elimination little but their squares would be left: these stay in the equations as they are.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy  # which loads `linalg` when it is used

from ...._threads import gram

_RIDGE = 1e-14  # of the diagonal entries of the matrix that is factorised
_SPARE = 32  # rows or columns that stay, beside as many as determine the others


class StepEquations(NamedTuple):
    """The matrix above. `weight`: 1/D of a typical row, to which entries are scaled."""

    x: np.ndarray  # (n, w)
    has_intercept: bool
    of_rows: np.ndarray  # D (n,)
    of_columns: np.ndarray  # E (w + 1,) or (w,)
    weight: float

    def times(self, change: np.ndarray) -> np.ndarray:
        """X̃ times a change of the coefficients and the intercept, (n,)."""
        w = self.x.shape[1]
        fitted = self.x @ change[:w]
        return fitted + change[w] if self.has_intercept else fitted

    def sums(self, u: np.ndarray) -> np.ndarray:
        """X̃ᵀu (m,)."""
        sums = u @ self.x
        return np.append(sums, u.sum()) if self.has_intercept else sums

    def rows(self, at: np.ndarray) -> np.ndarray:
        """Rows of X̃."""
        x = self.x[at]
        return np.column_stack([x, np.ones(len(at))]) if self.has_intercept else x

    def columns(self, at: np.ndarray) -> np.ndarray:
        """Columns of X̃."""
        w = self.x.shape[1]
        x = self.x[:, at[at < w]]
        return np.column_stack([x, np.ones(len(x))]) if (at == w).any() else x


class WithoutRows:
    """Solves the equations for the coefficients; late, together with the rows at a corner S.

    [ D_S     X̃_S                ]
    [ X̃_Sᵀ   −(E + X̃_NᵀD_N⁻¹X̃_N) ]
    """

    def __init__(self, equations: StepEquations, is_late: bool):
        self.equations = equations
        x, rates, weight = equations.x, equations.of_rows, equations.weight
        n, w = x.shape
        size = len(equations.of_columns)
        count = min(n, size + _SPARE) if is_late else 0
        self.corner = np.argpartition(rates, count - 1)[:count] if count else np.zeros(0, int)
        self.weights = 1 / rates
        self.weights[self.corner] = 0
        normal = np.empty((size, size))
        normal[:w, :w] = gram(np.sqrt(self.weights)[:, None] * x)
        if equations.has_intercept:
            normal[w, :w] = normal[:w, w] = self.weights @ x
            normal[w, w] = self.weights.sum()
        normal.flat[:: size + 1] += equations.of_columns
        block = equations.rows(self.corner)
        scale = np.sqrt(normal.diagonal() + weight * np.einsum("ij,ij->j", block, block))
        self.scale = np.where(scale > 0, scale, 1)
        normal /= self.scale * self.scale[:, None]
        normal.flat[:: size + 1] += _RIDGE
        if not count:
            self.factor = scipy.linalg.cho_factor(normal, lower=True, overwrite_a=True)
            return
        # In units of the slopes for u, and of residuals for the rows.
        block = block * np.sqrt(weight) / self.scale
        matrix = _saddle(np.diag(rates[self.corner] * weight), block, normal)
        self.factor = scipy.linalg.lu_factor(matrix, overwrite_a=True)

    def solve(self, of_rows: np.ndarray, of_columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns du (n,) and dc (m,)."""
        equations, count = self.equations, len(self.corner)
        rest = (of_columns - equations.sums(self.weights * of_rows)) / self.scale
        if count:
            root = np.sqrt(equations.weight)
            rhs = np.append(of_rows[self.corner] * root, rest)
            solved = scipy.linalg.lu_solve(self.factor, rhs)
            of_corner, change = solved[:count] * root, solved[count:] / self.scale
        else:
            of_corner = np.zeros(0)
            change = scipy.linalg.cho_solve(self.factor, -rest) / self.scale
        du = self.weights * (of_rows - equations.times(change))
        du[self.corner] = of_corner
        return du, change


class WithoutColumns:
    """Solves the equations for u, together with the columns K without a quadratic part; late, with active ones.

    [ D + X̃_MᵀE_M⁻¹X̃_M   X̃_K  ]
    [ X̃_Kᵀ              −E_K ]
    """

    def __init__(self, equations: StepEquations, is_late: bool):
        self.equations = equations
        diagonal = equations.of_columns
        count = np.count_nonzero(diagonal == 0)
        if is_late:
            count = max(count, min(len(diagonal), len(equations.x) + _SPARE))
        order = np.argpartition(diagonal, count - 1) if count else np.arange(len(diagonal))
        self.kept, self.gone = np.sort(order[:count]), np.sort(order[count:])
        self.part = equations.columns(self.gone)
        self.weights = 1 / diagonal[self.gone]
        matrix = gram(np.sqrt(self.weights)[:, None] * self.part.T)
        n = len(matrix)
        matrix.flat[:: n + 1] += equations.of_rows
        block = equations.columns(self.kept).T
        # In units in which the entries on the diagonal, and those of a column, are about one.
        self.of_row = np.sqrt(matrix.diagonal())
        squares = np.einsum("ij,ij->i", block, block) * equations.weight
        scale = np.sqrt(diagonal[self.kept] + squares)
        self.of_kept = np.where(scale > 0, scale, 1)
        matrix /= self.of_row * self.of_row[:, None]
        block = block / self.of_row / self.of_kept[:, None]
        corner = np.diag(diagonal[self.kept] / self.of_kept**2 + _RIDGE)
        self.factor = scipy.linalg.lu_factor(_saddle(matrix, block.T, corner), overwrite_a=True)

    def solve(self, of_rows: np.ndarray, of_columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns du (n,) and dc (m,)."""
        n = len(of_rows)
        missing = self.weights * of_columns[self.gone]
        rhs = np.append(
            (of_rows + self.part @ missing) / self.of_row, of_columns[self.kept] / self.of_kept
        )
        solved = scipy.linalg.lu_solve(self.factor, rhs)
        du, change = solved[:n] / self.of_row, np.empty(len(of_columns))
        change[self.kept] = solved[n:] / self.of_kept
        change[self.gone] = self.weights * (du @ self.part) - missing
        return du, change


def factorised(equations: StepEquations, is_late: bool) -> WithoutRows | WithoutColumns:
    """Returns the solver of these equations on the smaller side of X."""
    n, w = equations.x.shape
    return (WithoutColumns if n < w else WithoutRows)(equations, is_late)


def _saddle(upper: np.ndarray, block: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """Returns [[upper, block], [blockᵀ, −lower]]."""
    n, m = block.shape
    matrix = np.empty((n + m, n + m))
    matrix[:n, :n], matrix[:n, n:] = upper, block
    matrix[n:, :n], matrix[n:, n:] = block.T, -lower
    return matrix
