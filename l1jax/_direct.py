"""Small symmetric systems, solved with their matrix: on the host, where its values are known."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.linalg import get_lapack_funcs

from ._implicit import Solver
from ._tracing import as_array

_CUT = 1e-11  # eigenvalues below this share of the largest are taken for zero
_potrf, _potri = get_lapack_funcs(("potrf", "potri"), dtype=np.float64)


class Direct(Solver):
    """The matrix of a system and its inverse, or pseudo-inverse where it has none."""

    matrix: Float[Array, "m m"]
    inverse: Float[Array, "m m"]

    def __init__(self, matrix: Array):
        self.matrix = matrix
        inverse = pseudo_inverse(np.asarray(matrix, np.float64))
        self.inverse = as_array(inverse.astype(matrix.dtype))

    def __call__(self, system: Any, rhs: Float[Array, " m"]) -> Float[Array, " m"]:
        del system
        u = _product(self.inverse, rhs)
        return u + _product(self.inverse, rhs - _product(self.matrix, u))


def pseudo_inverse(matrix: np.ndarray) -> np.ndarray:
    """Of a symmetric positive semi-definite matrix: gives the solution of least norm.

    Rows that are zero stay zero, whatever the scale of the others.
    """
    size = np.sqrt(np.maximum(np.diag(matrix), 0))
    alive = np.flatnonzero(size > 0)
    scale = size[alive]
    unit = matrix[np.ix_(alive, alive)] / np.outer(scale, scale)
    factor, failed = _potrf(unit, lower=1)
    if not len(alive):
        inverse = unit
    elif not failed and np.diag(factor).min() ** 2 > _CUT:
        inverse, _ = _potri(factor, lower=1)
        inverse = np.tril(inverse)
        inverse = inverse + np.tril(inverse, -1).T
    else:
        values, vectors = np.linalg.eigh(unit)
        keep = values > _CUT * values.max()
        inverse = (vectors[:, keep] / values[keep]) @ vectors[:, keep].T
    full = np.zeros_like(matrix)
    full[np.ix_(alive, alive)] = inverse / np.outer(scale, scale)
    return full


def _product(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision="highest")
