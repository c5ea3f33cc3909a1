"""Nearly collinear unpenalised columns, replaced by an orthonormal basis of what they span.

A unit of an unpenalised column costs nothing, so that only the span of these columns matters. In a basis
from the singular value decomposition of the columns (by way of their QR factors) Newton's system is the
identity and the dual point is projected off them to rounding, where their own Gram matrix has no digits
left: its condition number is the square of theirs. Directions that are rounding are left out, which
gives the coefficients of least norm.
"""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ..._tracing import is_traced
from ..._types import Real
from ..data._matrix import DataMatrix
from ._problem import Data, Problem

_WELL_CONDITIONED = 30  # of columns of equal size: up to here, their own Gram matrix will do


class UnpenalisedBasis(eqx.Module):
    """X_U = 1μᵀ + Q T⁻¹ on some columns U, with Qᵀ diag(s) Q = I.

    Coefficients γ of Q say the same as β = T γ of X_U and the intercept −μᵀβ.
    """

    at: Int[Real, " m"]
    mean: Float[Real, " m"]  # μ: 0 without an intercept
    deviations: Float[Real, " m"]  # of the columns as given
    columns: Float[Real, "n m"]  # X_U − 1μᵀ
    to_columns: Float[Real, "m m"]  # T, with columns of zeros beyond the rank
    from_columns: Float[Real, "m m"]  # T⁻¹, likewise; the pseudo-inverse

    def to_data(self, coef: Array, intercept: Array) -> tuple[Array, Array]:
        """Coefficients of the columns as given, from those of the basis."""
        some = jnp.matmul(self.to_columns, coef[self.at], precision="highest")
        of_means = jnp.matmul(self.mean, some, precision="highest")
        return coef.at[self.at].set(some), intercept - of_means

    def fitted(self, x: DataMatrix, beta: Array, coef: Array) -> Array:
        """Xβ by the columns as given, which is what a user sees of these coefficients."""
        others = x.dot(beta.at[self.at].set(0))
        return others + jnp.matmul(self.columns, coef[self.at], precision="highest")

    def rounding(self, coef: Array) -> Array:
        """How far rounding may take Xβ: large coefficients of nearly equal columns cancel."""
        sizes = jnp.matmul(jnp.abs(self.columns), jnp.abs(coef[self.at]), precision="highest")
        return jnp.finfo(coef.dtype).eps * sizes

    def from_data(self, coef: Array, intercept: Array) -> tuple[Array, Array]:
        """Coefficients of the basis, from those of the columns as given."""
        some = coef[self.at]
        of_means = jnp.matmul(self.mean, some, precision="highest")
        some = jnp.matmul(self.from_columns, some, precision="highest")
        return coef.at[self.at].set(some), intercept + of_means


def in_orthonormal_basis(data: Data, problem: Problem) -> tuple[Data, UnpenalisedBasis] | None:
    """The data with a basis in place of the unpenalised columns; None where these are well-conditioned."""
    if is_traced((data, problem)) or not problem.is_valid:
        return None
    at = np.flatnonzero(np.asarray(problem.null.unpenalised))
    if len(at) < 2:
        return None
    columns = np.asarray(data.x.columns(at), np.float64)
    s = np.asarray(data.weights, np.float64)
    s = s / s.sum()
    deviations = np.sqrt(s @ (columns - s @ columns) ** 2)
    mean = s @ columns if _is_centred(data) else np.zeros(len(at))
    centred = columns - mean
    size = np.sqrt(s @ centred**2)
    scale = np.where(size > 0, 1 / np.where(size > 0, size, 1), 0)
    triangle = np.linalg.qr(np.sqrt(s)[:, None] * centred * scale, mode="r")
    _, values, right = np.linalg.svd(triangle, full_matrices=True)
    values = np.append(values, np.zeros(len(at) - len(values)))
    if values[-1] * _WELL_CONDITIONED >= values[0]:
        return None
    eps = np.finfo(data.y.dtype).eps
    counts = values > max(columns.shape) * eps * values[0]
    inverse = np.where(counts, 1 / np.where(counts, values, 1), 0)
    basis = UnpenalisedBasis(
        at,
        mean.astype(data.y.dtype),
        np.where(deviations > 0, deviations, 1).astype(data.y.dtype),
        centred.astype(data.y.dtype),
        (scale[:, None] * right.T * inverse).astype(data.y.dtype),
        (np.where(counts, values, 0)[:, None] * right * size).astype(data.y.dtype),
    )
    q = (centred * scale) @ (right.T * inverse)
    if _is_centred(data):  # of a short direction, rounding is a large fraction
        q -= s @ q
    x = data.x.with_columns(at, q.astype(data.y.dtype))
    return dataclasses.replace(data, x=x), basis


def _is_centred(data: Data) -> bool:
    return data.fit_intercept or not data.loss.has_intercept
