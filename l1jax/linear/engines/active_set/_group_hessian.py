"""The Hessian of squared error on a working set, and of the norms of groups that are active.

It is kept as a Gram matrix, or, where there are more features than rows, as those rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.linalg import get_blas_funcs, get_lapack_funcs
from scipy.sparse import csr_array

from ._group_weights import Layout
from ._state import NumericalBreakdown

_STIFFEST = 1e10  # curvature of a norm, in units of the diagonal of Q
_BY_TYPE: dict[str, dict[str, Any]] = {
    char: {
        "syrk": get_blas_funcs("syrk", dtype=char),
        **{
            name: get_lapack_funcs(name, dtype=char)
            for name in ("potrf", "potri", "potrs", "trtrs")
        },
    }
    for char in "fd"  # single and double precision
}
_potri, _potrs = _BY_TYPE["d"]["potri"], _BY_TYPE["d"]["potrs"]

# Of numbers beyond single precision there is no factor, or none whose steps are finite: then who
# asks for them asks for exact ones.
_BEYOND: dict[str, Any] = {"over": "ignore", "invalid": "ignore", "divide": "ignore"}

Solve = Callable[[np.ndarray], np.ndarray]


class ByGram:
    """Q, as it is."""

    is_exact = True  # a factor is never in single precision

    def __init__(self, gram: np.ndarray):
        self.gram = gram
        self.diagonal = gram.diagonal().copy()

    def dot(self, x: np.ndarray) -> np.ndarray:
        """Q x."""
        return self.gram @ x

    def mover(self, gradient: np.ndarray, x: np.ndarray) -> _MoverByGram:
        """For steps of one group at a time."""
        del x
        return _MoverByGram(self.gram, gradient.copy())

    def factorise(
        self,
        at: np.ndarray,
        layout: Layout,
        u: np.ndarray,
        bend: np.ndarray,
        quad: np.ndarray,
        ridge: float,
        is_exact: bool,
    ) -> Solve:
        """Solves with Q + bend (I − uuᵀ) + quad on the features `at`, whose groups `layout` tells.

        `ridge`, as a share of the diagonal of Q, is added to it: groups may depend on each other. Raises
        `Lost` where that is not enough. Unless it must be exact, the factor may be good to single
        precision: enough for a Newton step.
        """
        del is_exact
        bend = np.minimum(bend, _STIFFEST * self.diagonal[at])
        hessian = self.gram.take(at, axis=0).take(at, axis=1)
        every = np.arange(len(at))
        hessian[every, every] += bend + quad + ridge * self.diagonal[at]
        u = np.sqrt(bend)[:, None] * u
        if u.shape[1] > 1:
            return _coupled(hessian, layout, u)
        ends = np.append(layout.starts[1:], len(at))
        for start, end in zip(layout.starts, ends, strict=True):
            hessian[start:end, start:end] -= u[start:end] @ u[start:end].T
        factor = _cholesky(hessian)
        return lambda residual: _potrs(factor, residual, lower=1)[0]


class ByRows:
    """Q = RᵀR, by its root; `columns` are those of R, each a row here."""

    is_exact = False

    def __init__(self, columns: np.ndarray):
        self.columns = columns
        with np.errstate(**_BEYOND):
            self.rough = columns.astype(np.float32)
        self.diagonal = np.einsum("ij,ij->i", columns, columns)

    def dot(self, x: np.ndarray) -> np.ndarray:
        return self.columns @ (self.columns.T @ x)

    def mover(self, gradient: np.ndarray, x: np.ndarray) -> _MoverByRows:
        return _MoverByRows(self.columns, gradient, np.zeros((self.columns.shape[1], x.shape[1])))

    @np.errstate(**_BEYOND)
    def factorise(
        self,
        at: np.ndarray,
        layout: Layout,
        u: np.ndarray,
        bend: np.ndarray,
        quad: np.ndarray,
        ridge: float,
        is_exact: bool,
    ) -> Solve:
        """By the identity of Woodbury, twice: for R, and for the −bend uuᵀ of each group."""
        columns = (self.columns if is_exact else self.rough).take(at, axis=0)
        dtype, diagonal = columns.dtype, self.diagonal[at]
        syrk, potrs, trtrs = (_BY_TYPE[dtype.char][name] for name in ("syrk", "potrs", "trtrs"))
        bend = np.minimum(bend, _STIFFEST * diagonal)
        stiff = (bend + quad + ridge * diagonal)[:, None]
        scaled = columns / np.sqrt(stiff).astype(dtype)
        inner = syrk(1.0, scaled.T, lower=1)  # one half of it, for half of the price
        inner[np.diag_indices_from(inner)] += 1
        inner = _cholesky(inner)
        u = np.sqrt(bend)[:, None] * u
        ends = np.append(layout.starts, len(at))
        each = np.arange(len(at))
        weights = (u / stiff).T
        seen = [(csr_array((w.astype(dtype), each, ends)) @ columns).T for w in weights]
        outer = np.asfortranarray(np.diag(1 - layout.sums(u**2 / stiff)).astype(dtype))
        for part in seen:
            half, _ = trtrs(inner, part, lower=1)
            outer = syrk(1.0, half, beta=1.0, c=outer, trans=1, lower=1, overwrite_c=1)
        outer = _cholesky(outer)

        @np.errstate(**_BEYOND)
        def solve(residual: np.ndarray) -> np.ndarray:
            fitted, _ = potrs(inner, columns.T @ (residual / stiff).astype(dtype), lower=1)
            sums = layout.sums(u * residual / stiff).astype(dtype)
            sums -= np.sum([part.T @ f for part, f in zip(seen, fitted.T, strict=True)], axis=0)
            weights, _ = potrs(outer, sums, lower=1)
            more = np.stack([part @ weights for part in seen], axis=1)
            fitted = fitted - potrs(inner, -more, lower=1)[0]
            return (residual + u * weights[layout.ids, None] - columns @ fitted) / stiff

        return solve


class _MoverByGram:
    def __init__(self, gram: np.ndarray, gradient: np.ndarray):
        self.gram, self.all = gram, gradient

    def gradient(self, some: slice) -> np.ndarray:
        return self.all[some]

    def move(self, some: slice, by: np.ndarray) -> None:
        self.all -= self.gram[:, some] @ by


class _MoverByRows:
    def __init__(self, columns: np.ndarray, gradient: np.ndarray, fitted: np.ndarray):
        self.columns, self.first, self.fitted = columns, gradient, fitted

    def gradient(self, some: slice) -> np.ndarray:
        return self.first[some] - self.columns[some] @ self.fitted

    def move(self, some: slice, by: np.ndarray) -> None:
        self.fitted += self.columns[some].T @ by


def _cholesky(matrix: np.ndarray) -> np.ndarray:
    """The lower factor of a symmetric matrix, which is overwritten; by columns only its lower half counts."""
    matrix = matrix if matrix.flags.f_contiguous else matrix.T
    factor, failed = _BY_TYPE[matrix.dtype.char]["potrf"](matrix, lower=1, overwrite_a=1, clean=0)
    if failed or not np.isfinite(factor.diagonal()).all():  # of NaN, not every LAPACK says so
        raise NumericalBreakdown
    return factor


def _coupled(hessian: np.ndarray, layout: Layout, u: np.ndarray) -> Solve:
    """Solves with I ⊗ H − Σ_g u_g u_gᵀ: the responses share H, and each group couples them."""
    inverse, _ = _potri(_cholesky(hessian), lower=1)
    inverse = np.tril(inverse) + np.tril(inverse, -1).T
    by_group = np.add.reduceat(inverse * (u @ u.T), layout.starts, axis=0)
    outer = _cholesky(np.eye(len(layout.starts)) - np.add.reduceat(by_group, layout.starts, axis=1))

    def solve(residual: np.ndarray) -> np.ndarray:
        first = inverse @ residual
        weights, _ = _potrs(outer, layout.sums(u * first), lower=1)
        return first + inverse @ (u * weights[layout.ids, None])

    return solve
