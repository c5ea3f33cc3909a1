"""Small symmetric systems, solved with their matrix: on the host, where its values are known."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy  # which loads `linalg` when it is used
from jaxtyping import Array, Float

from .._tracing import as_array, is_traced
from ._derivative import Solver

_CUT = 1e-11  # eigenvalues below this fraction of the largest count as zero
_ROUNDING = 100  # ... or below so many units of rounding


def direct(matrix: Float[Array, "m m"]) -> Solver:
    """What solves a symmetric positive semi-definite system by its matrix, which may be singular."""
    if is_traced(matrix):
        return _Factored(matrix)
    inverse = pseudo_inverse(np.asarray(matrix, np.float64), _cut(matrix.dtype))
    return _Inverted(matrix, as_array(inverse.astype(matrix.dtype)))


class _Inverted(Solver):
    """The matrix of a system and its inverse, or pseudo-inverse where it has none."""

    matrix: Float[Array, "m m"]
    inverse: Float[Array, "m m"]

    def __call__(self, system: Any, rhs: Float[Array, " m"]) -> Float[Array, " m"]:
        del system
        u = _product(self.inverse, rhs)
        return u + _product(self.inverse, rhs - _product(self.matrix, u))


class _Factored(Solver):
    """The same for a matrix that is traced: by Cholesky, or where that fails, by eigenvalues."""

    matrix: Float[Array, "m m"]

    def __call__(self, system: Any, rhs: Float[Array, " m"]) -> Float[Array, " m"]:
        del system
        size = jnp.sqrt(jnp.maximum(jnp.diag(self.matrix), 0))
        nonzero = size > 0
        scale, cut = jnp.where(nonzero, size, 1), _cut(rhs.dtype)
        unit = self.matrix / jnp.outer(scale, scale) + jnp.diag(jnp.where(nonzero, 0.0, 1.0))
        factor = jax.lax.linalg.cholesky(unit, symmetrize_input=False)

        def by_factor(rhs: Array) -> Array:
            return jax.scipy.linalg.cho_solve((factor, True), rhs)

        def by_eigenvalues(rhs: Array) -> Array:
            values, vectors = jnp.linalg.eigh(unit)
            keep = values > cut * values[-1]
            parts = _product(vectors.T, rhs) / jnp.where(keep, values, 1)
            return _product(vectors, jnp.where(keep, parts, 0))

        sound = jnp.min(jnp.diag(factor)) ** 2 > cut  # False for NaN, of a factor that failed
        u = jax.lax.cond(sound, by_factor, by_eigenvalues, jnp.where(nonzero, rhs, 0) / scale)
        return jnp.where(nonzero, u, 0) / scale


def _cut(dtype: Any) -> float:
    return max(_CUT, _ROUNDING * float(jnp.finfo(dtype).eps))


def pseudo_inverse(matrix: np.ndarray, cut: float = _CUT) -> np.ndarray:
    """Of a symmetric positive semi-definite matrix: gives the solution of least norm.

    Rows that are zero stay zero, whatever the scale of the others.
    """
    size = np.sqrt(np.maximum(np.diag(matrix), 0))
    nonzero = np.flatnonzero(size > 0)
    scale = size[nonzero]
    unit = matrix[np.ix_(nonzero, nonzero)] / np.outer(scale, scale)
    factor, failed = scipy.linalg.lapack.dpotrf(unit, lower=1)
    if not len(nonzero):
        inverse = unit
    elif not failed and np.diag(factor).min() ** 2 > cut:
        inverse, _ = scipy.linalg.lapack.dpotri(factor, lower=1)
        inverse = np.tril(inverse)
        inverse = inverse + np.tril(inverse, -1).T
    else:
        values, vectors = np.linalg.eigh(unit)
        keep = values > cut * values.max()
        inverse = (vectors[:, keep] / values[keep]) @ vectors[:, keep].T
    full = np.zeros_like(matrix)
    full[np.ix_(nonzero, nonzero)] = inverse / np.outer(scale, scale)
    return full


def _product(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision="highest")
