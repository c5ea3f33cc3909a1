"""The data matrix as an operator: dense or sparse, centred and scaled without the solver's knowing.

A matrix answers `dot(B)` = X B, `rdot(R)` = XᵀR, and the weighted column moments. A sparse one is
never densified: its centring is a correction of rank one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ..._tracing import frozen
from ..._types import AnyArray

_WIDE = 64  # columns
_CONSTANT = 10  # units of rounding of its largest entry: a column that deviates less is constant


class DenseMatrix(eqx.Module):
    """An array (n, p)."""

    array: Float[AnyArray, "n p"]

    @property
    def shape(self) -> tuple[int, int]:
        n, p = self.array.shape
        return n, p

    def dot(self, b: Float[Array, "p *k"]) -> Float[Array, "n *k"]:
        return jnp.matmul(self.array, b, precision="highest")

    def rdot(self, r: Float[Array, "n *k"]) -> Float[Array, "p *k"]:
        if r.ndim == 1:  # as rows, a batch of these needs no transposition
            return jnp.matmul(r, self.array, precision="highest")
        return jnp.matmul(self.array.T, r, precision="highest")

    def columns(self, at: Int[Array, " m"]) -> Float[Array, "n m"]:
        """Some columns; zeros for a number beyond the last."""
        return jnp.asarray(self.array).at[:, at].get(mode="fill", fill_value=0)

    def means(self, s: Float[Array, " n"]) -> Float[Array, " p"]:
        first = self.rdot(s)
        # A second pass takes off the rounding of the first, which is relative to the level.
        rest = self._sum(lambda x, w: w * (x - first), s)
        return first + rest / jnp.sum(s)

    def squares(self, s: Float[Array, " n"], centre: Float[Array, " p"]) -> Float[Array, " p"]:
        """Σᵢ sᵢ (xᵢⱼ − centreⱼ)²."""
        return self._sum(lambda x, w: w * (x - centre) ** 2, s)

    def peaks(self, s: Float[Array, " n"]) -> Float[Array, " p"]:
        """maxᵢ |xᵢⱼ| over the rows that count."""

        def term(x, w):
            return jnp.where(w > 0, jnp.abs(x), 0)

        def step(most, row, weight):
            return jnp.maximum(most, term(row, weight))

        if not self._is_wide:
            return jnp.max(term(self.array, s[:, None]), axis=0)
        return self._row_by_row(step, self._zeros(), s)

    def _sum(self, term: Callable[..., Array], s: Float[Array, " n"]) -> Float[Array, " p"]:
        """The sum of a term per row and weight."""
        if not self._is_wide:
            return jnp.sum(term(jnp.asarray(self.array), s[:, None]), axis=0)

        # With what rounding lost carried along (Kahan): a plain sum drifts where rows are many.
        def step(carry, row, weight):
            total, lost = carry
            more = term(row, weight) - lost
            new = total + more
            return new, frozen((new - total) - more)

        return self._row_by_row(step, (self._zeros(), self._zeros()), s)[0]

    @property
    def _is_wide(self) -> bool:
        """Whether rows are worth a step each: XLA on a CPU would write all their terms to memory."""
        return jax.default_backend() == "cpu" and self.shape[1] >= _WIDE

    def _row_by_row(self, step: Callable[..., Any], start: Any, s: Float[Array, " n"]) -> Any:
        # Some at a time, without a rest: for that X would be copied.
        together = next(k for k in range(8, 0, -1) if len(s) % k == 0)
        rows_ = (jnp.asarray(self.array), s)
        return jax.lax.scan(lambda c, row: (step(c, *row), None), start, rows_, unroll=together)[0]

    def _zeros(self) -> Float[Array, " p"]:
        return jnp.zeros(self.shape[1], self.array.dtype)

    def transform(self, centre: Array, inverse_scale: Array) -> DenseMatrix:
        return DenseMatrix((self.array - centre) * inverse_scale)


class SparseMatrix(eqx.Module):
    """Coordinates (row, column, value) of a matrix whose other entries are zero."""

    data: Float[AnyArray, " nnz"]
    rows: Int[AnyArray, " nnz"]
    cols: Int[AnyArray, " nnz"]
    centre: Float[Array, " p"] | None
    inverse_scale: Float[Array, " p"] | None
    shape: tuple[int, int] = eqx.field(static=True)

    def dot(self, b: Float[Array, "p *k"]) -> Float[Array, "n *k"]:
        b = b if self.inverse_scale is None else rows(self.inverse_scale, b) * b
        products = rows(self.data, b) * b[self.cols]
        out = jax.ops.segment_sum(products, self.rows, self.shape[0])
        if self.centre is None:
            return out
        return out - jnp.matmul(self.centre, b, precision="highest")

    def rdot(self, r: Float[Array, "n *k"]) -> Float[Array, "p *k"]:
        products = rows(self.data, r) * r[self.rows]
        out = jax.ops.segment_sum(products, self.cols, self.shape[1])
        if self.centre is not None:
            out = out - rows(self.centre, r) * jnp.sum(r, axis=0)
        return out if self.inverse_scale is None else rows(self.inverse_scale, r) * out

    def columns(self, at: Int[Array, " m"]) -> Float[Array, "n m"]:
        n, p = self.shape
        place = jnp.full(p, at.size).at[at].set(jnp.arange(at.size), mode="drop")
        some = jnp.zeros((n, at.size), self.data.dtype)
        some = some.at[self.rows, place[self.cols]].add(self.data, mode="drop")
        if self.centre is not None:
            some = some - self.centre.at[at].get(mode="fill", fill_value=0)
        if self.inverse_scale is not None:
            some = some * self.inverse_scale.at[at].get(mode="fill", fill_value=0)
        return some

    def means(self, s: Float[Array, " n"]) -> Float[Array, " p"]:
        weights = s[self.rows]
        first = jax.ops.segment_sum(self.data * weights, self.cols, self.shape[1])
        stored = weights * (self.data - first[self.cols])
        rest = jax.ops.segment_sum(stored, self.cols, self.shape[1]) - self._missing(s) * first
        return first + rest / jnp.sum(s)

    def squares(self, s: Float[Array, " n"], centre: Float[Array, " p"]) -> Float[Array, " p"]:
        weights = s[self.rows]
        stored = jax.ops.segment_sum(
            weights * (self.data - centre[self.cols]) ** 2, self.cols, self.shape[1]
        )
        return stored + self._missing(s) * centre**2

    def _missing(self, s: Float[Array, " n"]) -> Float[Array, " p"]:
        """The weight of the rows in which a column stores nothing; exactly 0 where there are none."""
        weights = s[self.rows]
        covered = jax.ops.segment_sum(weights, self.cols, self.shape[1])
        counts = jax.ops.segment_sum((weights > 0).astype(jnp.int32), self.cols, self.shape[1])
        return jnp.where(counts < jnp.sum(s > 0), jnp.maximum(jnp.sum(s) - covered, 0), 0)

    def peaks(self, s: Float[Array, " n"]) -> Float[Array, " p"]:
        sizes = jnp.where(s[self.rows] > 0, jnp.abs(self.data), 0)
        return jnp.maximum(jax.ops.segment_max(sizes, self.cols, self.shape[1]), 0)

    def transform(self, centre: Array, inverse_scale: Array) -> SparseMatrix:
        return SparseMatrix(self.data, self.rows, self.cols, centre, inverse_scale, self.shape)


class Standardised(NamedTuple):
    """(X − 1μᵀ) diag(1/σ), and what it takes to come back."""

    x: Any
    mean: Float[Array, " p"]  # μ: 0 unless centred
    inverse_scale: Float[Array, " p"]  # 1/σ: 1 unless scaled, and for a column that is constant
    norms: Float[Array, " p"]  # √Σᵢ sᵢ x̃ᵢⱼ², constants to derivatives


def standardise(x: Any, s: Float[Array, " n"], centre: bool, scale: bool) -> Standardised:
    """Centres and scales the columns as asked.

    σ is the weighted 1/n deviation about the mean, also without centring. A centred column that is
    rounding becomes one of zeros: its coefficient is what the penalty likes best, which is mostly 0.
    """
    zeros = jnp.zeros(x.shape[1], s.dtype)
    if not centre and not scale:
        squares = frozen(x).squares(frozen(s), zeros)
        return Standardised(x, zeros, zeros + 1, jnp.sqrt(squares))
    means = x.means(s)
    variance = x.squares(s, means)
    rounding = _CONSTANT * jnp.finfo(s.dtype).eps * frozen(x).peaks(frozen(s))
    constant = variance <= rounding**2
    deviation = jnp.sqrt(jnp.where(constant, 1, variance))
    inverse_scale = jnp.where(constant, 1, 1 / deviation if scale else 1).astype(s.dtype)
    squares = frozen(variance if centre else x.squares(s, zeros))
    mean = means if centre else zeros
    norms = jnp.sqrt(jnp.where(constant, 0, squares)) * frozen(inverse_scale)
    x = x.transform(mean, jnp.where(constant, 0, inverse_scale))
    return Standardised(x, mean, inverse_scale, norms)


def rows(v: AnyArray, like: AnyArray) -> Array:
    """A vector shaped to multiply the rows of an array."""
    return jnp.asarray(v).reshape(v.shape + (1,) * (like.ndim - 1))
