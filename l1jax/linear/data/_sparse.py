"""Sparse data matrices, which are never densified: their entries for XLA, and in SciPy on the host."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Array, Float, Int

from ..._threads import in_threads
from ..._types import AnyArray
from ._host import HostColumns, HostMatrix
from ._matrix import CentredScaled, DataMatrix, rows

_BLOCK = 4096  # columns


class SparseMatrix(DataMatrix):
    """Coordinates (row, column, value) of a matrix whose other entries are zero."""

    data: Float[AnyArray, " nnz"]
    rows: Int[AnyArray, " nnz"]
    cols: Int[AnyArray, " nnz"]
    size: tuple[int, int] = eqx.field(static=True)

    @property
    def shape(self) -> tuple[int, int]:
        return self.size

    @property
    def dtype(self) -> Any:
        return np.dtype(self.data.dtype)

    @property
    def batches_products(self) -> bool:
        return False  # a product takes memory for every entry and vector

    def dot(self, b: Float[AnyArray, "p *k"]) -> Float[Array, "n *k"]:
        products = rows(self.data, b) * jnp.asarray(b)[self.cols]
        return jax.ops.segment_sum(products, self.rows, self.shape[0])

    def rdot(self, r: Float[AnyArray, "n *k"]) -> Float[Array, "p *k"]:
        products = rows(self.data, r) * jnp.asarray(r)[self.rows]
        return jax.ops.segment_sum(products, self.cols, self.shape[1])

    def columns(self, at: Int[AnyArray, " m"]) -> Float[Array, "n m"]:
        return self.padded_columns(at)

    def padded_columns(self, at: Int[AnyArray, " m"]) -> Float[Array, "n m"]:
        n, p = self.shape
        place = jnp.full(p, at.size).at[at].set(jnp.arange(at.size), mode="drop")
        some = jnp.zeros((n, at.size), self.data.dtype)
        return some.at[self.rows, place[self.cols]].add(self.data, mode="drop")

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

    def transform(self, centre: Array, inverse_scale: Array) -> DataMatrix:
        return CentredScaledSparse(self, centre, inverse_scale)

    def with_columns(self, at: np.ndarray, columns: np.ndarray) -> SparseMatrix:
        data, rows, cols = (np.asarray(part) for part in (self.data, self.rows, self.cols))
        stays = ~np.isin(cols, at)
        n = self.shape[0]
        new_rows = np.tile(np.arange(n, dtype=rows.dtype), len(at))
        return dataclasses.replace(
            self,
            data=np.concatenate([data[stays], columns.T.ravel()]),
            rows=np.concatenate([rows[stays], new_rows]),
            cols=np.concatenate([cols[stays], np.repeat(at, n).astype(cols.dtype)]),
        )

    def to_host(self) -> HostMatrix:
        return HostSparse(self)


class CentredScaledSparse(CentredScaled[SparseMatrix]):
    """A sparse matrix, centred and scaled implicitly."""

    def padded_columns(self, at: Int[AnyArray, " m"]) -> Float[Array, "n m"]:
        some = self.x.padded_columns(at) - self.centre.at[at].get(mode="fill", fill_value=0)
        return some * self.inverse_scale.at[at].get(mode="fill", fill_value=0)

    def to_host(self) -> HostMatrix:
        return HostSparse(self.x, self.centre, self.inverse_scale)


class HostSparse:
    """All columns of a sparse matrix, centred and scaled implicitly; added ones are not copied."""

    def __init__(self, x: SparseMatrix, centre: Any = None, inverse_scale: Any = None):
        self.entries, self.shape, p = _entries(x), x.shape, x.shape[1]
        self.x = scipy.sparse.csc_array(self.entries, shape=x.shape, dtype=np.float64)
        self.is_transformed = centre is not None
        self.centres = np.asarray(centre, np.float64) if self.is_transformed else np.zeros(p)
        self.scales = np.asarray(inverse_scale) if self.is_transformed else np.ones(p)
        self.features = np.zeros(0, int)
        # Xᵀ in blocks of rows: views, small enough for what comes of them to stay in the cache.
        ends = [*range(0, p, _BLOCK), p]
        self.blocks = [_transposed(self.x, *pair) for pair in itertools.pairwise(ends)]

    def add(self, new: np.ndarray) -> None:
        self.features = np.concatenate([self.features, new])

    def linear(self, fresh: slice, s: np.ndarray, target: np.ndarray) -> np.ndarray:
        new, weighted = self.features[fresh], (s * target.T).T
        linear = self.x.T[new] @ weighted
        linear -= np.multiply.outer(self.centres[new], weighted.sum(axis=0))
        return (self.scales[new] * linear.T).T

    def gram(self, fresh: slice, s: np.ndarray) -> np.ndarray:
        some, new = self.features[: fresh.stop], self.features[fresh]
        gram = (self.x[:, some].T @ (self.x[:, new] * s[:, None])).toarray()
        # Columns of mean μ: Σ s (x − μ)(x' − μ')  =  Σ s x x' − μ (Σ s x') − (Σ s x) μ' + μ μ'.
        sums = self.x.T[some] @ s
        gram -= np.outer(self.centres[some], sums[fresh])
        gram -= np.outer(sums - self.centres[some], self.centres[new])
        return np.outer(self.scales[some], self.scales[new]) * gram

    def part(self, places: np.ndarray) -> HostColumns:
        return self.part_of(self.features[places])

    def part_of(self, at: np.ndarray) -> HostColumns:
        return SparseColumns(self.x[:, at], self.centres[at], self.scales[at])

    def rdot(self, residuals: np.ndarray, out: np.ndarray) -> None:
        sums = residuals.sum(axis=0)

        def fill(block: tuple[slice, scipy.sparse.csr_array]) -> None:
            at, rows = block
            products = rows @ residuals
            if self.is_transformed:
                products -= np.outer(self.centres[at], sums)
                products *= self.scales[at, None]
            out[:, at] = products.T

        in_threads(fill, self.blocks)

    def rows_dot(self, rows: np.ndarray, at: np.ndarray, values: np.ndarray) -> np.ndarray:
        some = self._by_rows[rows]
        return (some if len(at) == self.shape[1] else some[:, at]) @ values

    @functools.cached_property
    def _by_rows(self) -> scipy.sparse.csr_array:
        return scipy.sparse.csr_array(self.entries, shape=self.shape)


class SparseColumns:
    """Some columns of a sparse matrix, centred and scaled implicitly."""

    def __init__(self, x: scipy.sparse.csc_array, centres: np.ndarray, scales: np.ndarray):
        self.x, self.centres, self.scales = x, centres, scales

    def dense(self) -> np.ndarray:
        return (self.x.toarray() - self.centres) * self.scales

    def dot(self, values: np.ndarray) -> np.ndarray:
        scaled = (self.scales * values.T).T
        return self.x @ scaled - self.centres @ scaled

    def rdot(self, residual: np.ndarray) -> np.ndarray:
        return self.scales * (self.x.T @ residual - self.centres * residual.sum())

    def gram(self, weights: np.ndarray) -> np.ndarray:
        return self.gram_columns(weights, np.arange(len(self.scales)))

    def gram_columns(self, weights: np.ndarray, places: np.ndarray) -> np.ndarray:
        gram = (self.x.T @ (self.x[:, places] * weights[:, None]).tocsc()).toarray()
        sums = self.x.T @ weights
        gram -= np.outer(self.centres, sums[places])
        gram -= np.outer(sums - weights.sum() * self.centres, self.centres[places])
        return np.outer(self.scales, self.scales[places]) * gram

    def gram_diagonal(self, weights: np.ndarray) -> np.ndarray:
        squares = self.x.multiply(self.x).T @ weights
        rest = self.centres * (2 * (self.x.T @ weights) - weights.sum() * self.centres)
        return self.scales**2 * (squares - rest)

    def curvature_gram(self, hvp: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        columns = self.dense()
        return columns.T @ hvp(columns)


def _transposed(x: Any, begin: int, end: int) -> tuple[slice, Any]:
    """Which columns of a CSC matrix these are, and their transpose: a view."""
    ends = x.indptr[begin : end + 1]
    entries = slice(ends[0], ends[-1])
    parts = (x.data[entries], x.indices[entries], ends - ends[0])
    return slice(begin, end), scipy.sparse.csr_array(parts, shape=(end - begin, x.shape[0]))


def _entries(x: SparseMatrix) -> Any:
    """The entries of a sparse matrix, as SciPy takes them."""
    data, rows, cols = (np.asarray(part) for part in (x.data, x.rows, x.cols))
    inside = rows < x.shape[0]  # JAX fills up what it has summed with entries beyond the last row
    if inside.all():
        return data, (rows, cols)
    return data[inside], (rows[inside], cols[inside])
