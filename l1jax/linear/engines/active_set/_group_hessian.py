"""A smooth function on a working set, and its Hessian with that of the norms of the active groups.

Q is kept as a Gram matrix or, where there are more features than rows, as its root R, Q = RᵀR.
Newton's steps need the inverse of

    Q + diag(curvature) − Σ_g curvature_g u_g u_gᵀ + diag(quad),    curvature_g = weight_g / ‖B_g‖₂

on the active features, where u_g = B_g / ‖B_g‖₂.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import scipy  # each part of which loads when it is used

from ._group_weights import Layout
from ._path_point import NumericalBreakdown

_MAX_CURVATURE = 1e10  # of a norm, in units of the diagonal of Q
# Numbers beyond single precision give no factor, or steps that are not finite: the caller then asks
# for an exact one.
_OUT_OF_RANGE: dict[str, Any] = {"over": "ignore", "invalid": "ignore", "divide": "ignore"}

Solve = Callable[[np.ndarray], np.ndarray]


class NormCurvature(NamedTuple):
    """What the norms of m active features, sorted by group, add to Q."""

    layout: Layout
    u: np.ndarray  # (m, k): B_g / ‖B_g‖₂
    curvature: np.ndarray  # (m,): of the norm of each feature's group
    quad: np.ndarray  # (m,)


@runtime_checkable
class SmoothPart(Protocol):
    """A smooth convex function L of x (m, k), and its Hessian where it was evaluated last."""

    diagonal: np.ndarray  # (m,): bounds of the second derivatives
    scale: float  # of a gradient
    is_exact: bool  # whether a factor is never in single precision
    needs_free_gradient_zero: bool  # whether no gap is known unless unpenalised gradients are zero

    def evaluate(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        """Returns L and −∇L."""
        ...

    def product(self, at: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        """Returns the product with the Hessian on some features, at the last point."""
        ...

    def factorise(
        self, at: np.ndarray, norms: NormCurvature, ridge: float, is_exact: bool
    ) -> Solve:
        """As `GramHessian.factorise`."""
        ...


class Quadratic:
    """L(x) = ½⟨x, Qx⟩ − ⟨C, x⟩."""

    needs_free_gradient_zero = True

    def __init__(self, hessian: GramHessian | RowHessian, linear: np.ndarray):
        self.hessian, self.linear = hessian, linear
        self.diagonal, self.is_exact = hessian.diagonal, hessian.is_exact
        self.scale = float(np.abs(linear).max(initial=0))
        self.factorise = hessian.factorise

    def evaluate(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        neg_gradient = self.linear - self.hessian.dot(x)
        return -0.5 * float(np.vdot(x, self.linear + neg_gradient)), neg_gradient

    def product(self, at: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        return self.hessian.product(at)


class GramHessian:
    """Q itself."""

    is_exact = True  # a factor is never in single precision

    def __init__(self, gram: np.ndarray):
        self.gram = gram
        self.diagonal = gram.diagonal().copy()

    def dot(self, x: np.ndarray) -> np.ndarray:
        """Returns Q x."""
        return self.gram @ x

    def product(self, at: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        """Returns the product with Q on some features."""
        gram = self.gram.take(at, axis=0).take(at, axis=1)
        return lambda x: gram @ x

    def factorise(
        self, at: np.ndarray, norms: NormCurvature, ridge: float, is_exact: bool
    ) -> Solve:
        """Returns a solver with the Hessian above on the features `at`.

        `ridge`, as a fraction of the diagonal of Q, is added to it, since groups may depend on each
        other. Raises `NumericalBreakdown` if that is not enough. Unless it must be exact, the factor
        may be in single precision, which is enough for a Newton step.
        """
        del is_exact
        layout = norms.layout
        curvature = np.minimum(norms.curvature, _MAX_CURVATURE * self.diagonal[at])
        hessian = self.gram.take(at, axis=0).take(at, axis=1)
        every = np.arange(len(at))
        hessian[every, every] += curvature + norms.quad + ridge * self.diagonal[at]
        u = np.sqrt(curvature)[:, None] * norms.u
        if u.shape[1] > 1:
            return _coupled(hessian, layout, u)
        ends = np.append(layout.starts[1:], len(at))
        for start, end in zip(layout.starts, ends, strict=True):
            hessian[start:end, start:end] -= u[start:end] @ u[start:end].T
        factor = _cholesky(hessian)
        return lambda residual: scipy.linalg.lapack.dpotrs(factor, residual, lower=1)[0]


class RowHessian:
    """Q = RᵀR by its root: `columns` (m, n) are those of R, each a row here."""

    is_exact = False

    def __init__(self, columns: np.ndarray):
        self.columns = columns
        with np.errstate(**_OUT_OF_RANGE):
            self.single = columns.astype(np.float32)
        self.diagonal = np.einsum("ij,ij->i", columns, columns)

    def dot(self, x: np.ndarray) -> np.ndarray:
        return self.columns @ (self.columns.T @ x)

    def product(self, at: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        columns = self.columns.take(at, axis=0)
        return lambda x: columns @ (columns.T @ x)

    @np.errstate(**_OUT_OF_RANGE)
    def factorise(
        self, at: np.ndarray, norms: NormCurvature, ridge: float, is_exact: bool
    ) -> Solve:
        """Returns a solver by the identity of Woodbury, used twice.

        First for D + RᵀR with D diagonal, whose inner matrix is I + R D⁻¹ Rᵀ; then for the
        −curvature_g u_g u_gᵀ of each group.
        """
        columns = (self.columns if is_exact else self.single).take(at, axis=0)
        dtype, diagonal, layout = columns.dtype, self.diagonal[at], norms.layout
        syrk, potrs, trtrs = (_routine(name, dtype) for name in ("syrk", "potrs", "trtrs"))
        curvature = np.minimum(norms.curvature, _MAX_CURVATURE * diagonal)
        d = (curvature + norms.quad + ridge * diagonal)[:, None]
        scaled = columns / np.sqrt(d).astype(dtype)
        inner = syrk(1.0, scaled.T, lower=1)  # one half of it, at half the cost
        inner[np.diag_indices_from(inner)] += 1
        inner = _cholesky(inner)
        u = np.sqrt(curvature)[:, None] * norms.u
        ends = np.append(layout.starts, len(at))
        each = np.arange(len(at))
        scaled_u = (u / d).T
        fitted_u = [
            (scipy.sparse.csr_array((w.astype(dtype), each, ends)) @ columns).T for w in scaled_u
        ]
        outer = np.asfortranarray(np.diag(1 - layout.sums(u**2 / d)).astype(dtype))
        for part in fitted_u:
            half, _ = trtrs(inner, part, lower=1)
            outer = syrk(1.0, half, beta=1.0, c=outer, trans=1, lower=1, overwrite_c=1)
        outer = _cholesky(outer)

        @np.errstate(**_OUT_OF_RANGE)
        def solve(residual: np.ndarray) -> np.ndarray:
            fitted, _ = potrs(inner, columns.T @ (residual / d).astype(dtype), lower=1)
            sums = layout.sums(u * residual / d).astype(dtype)
            sums -= np.sum([part.T @ f for part, f in zip(fitted_u, fitted.T, strict=True)], axis=0)
            multipliers, _ = potrs(outer, sums, lower=1)
            more = np.stack([part @ multipliers for part in fitted_u], axis=1)
            fitted = fitted - potrs(inner, -more, lower=1)[0]
            return (residual + u * layout.broadcast(multipliers) - columns @ fitted) / d

        return solve


def _routine(name: str, dtype: np.dtype) -> Callable[..., Any]:
    """Returns the function of BLAS or LAPACK for float32 or float64."""
    library = scipy.linalg.blas if name == "syrk" else scipy.linalg.lapack
    return getattr(library, ("s" if dtype == np.float32 else "d") + name)


def _cholesky(matrix: np.ndarray) -> np.ndarray:
    """Returns the lower factor of a symmetric matrix, which is overwritten.

    Of a matrix in Fortran order, only the lower half counts.
    """
    matrix = matrix if matrix.flags.f_contiguous else matrix.T
    factor, failed = _routine("potrf", matrix.dtype)(matrix, lower=1, overwrite_a=1, clean=0)
    if failed or not np.isfinite(factor.diagonal()).all():  # of NaN, not every LAPACK says so
        raise NumericalBreakdown
    return factor


def _coupled(hessian: np.ndarray, layout: Layout, u: np.ndarray) -> Solve:
    """Returns a solver with I ⊗ H − Σ_g u_g u_gᵀ: all responses have H, and groups couple them."""
    inverse, _ = scipy.linalg.lapack.dpotri(_cholesky(hessian), lower=1)
    inverse = np.tril(inverse) + np.tril(inverse, -1).T
    by_group = np.add.reduceat(inverse * (u @ u.T), layout.starts, axis=0)
    outer = _cholesky(np.eye(len(layout.starts)) - np.add.reduceat(by_group, layout.starts, axis=1))

    def solve(residual: np.ndarray) -> np.ndarray:
        first = inverse @ residual
        multipliers, _ = scipy.linalg.lapack.dpotrs(outer, layout.sums(u * first), lower=1)
        return first + inverse @ (u * layout.broadcast(multipliers))

    return solve
