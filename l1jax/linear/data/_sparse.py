"""Sparse data matrices, which are never densified: their entries for XLA, and in SciPy on the host.

On the host the arrays are those that SciPy's matrix came with: nothing of their size is copied.
"""

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
from ..._types import AnyArray, Real
from ._host import HostColumns, HostMatrix
from ._matrix import CentredScaled, DataMatrix, is_in_process, rows

_BLOCK = 4096  # columns of a block, at least
_MAX_BLOCKS = 1024
_PART = 2**18  # entries whose moments NumPy takes at a time


class SparseMatrix(DataMatrix):
    """Coordinates (row, column, value) of a matrix whose other entries are zero.

    `starts` says where each column begins, of entries by columns; products of NumPy's arrays are SciPy's then.
    """

    data: Float[AnyArray, " nnz"]
    rows: Int[AnyArray, " nnz"]
    cols: Int[AnyArray, " nnz"]
    size: tuple[int, int] = eqx.field(static=True)
    starts: Int[AnyArray, " starts"] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        return self.size

    @property
    def dtype(self) -> Any:
        return np.dtype(self.data.dtype)

    @property
    def batches_products(self) -> bool:
        return False  # a product takes memory for every entry and vector

    def in_numpy(self) -> SparseMatrix | None:
        is_here = self.starts is not None and jax.default_backend() == "cpu"
        leaves = jax.tree.leaves(self)
        return (
            jax.tree.map(np.asarray, self) if is_here and all(map(is_in_process, leaves)) else None
        )

    def dot(self, b: Float[Real, "p *k"]) -> Any:
        if self._is_numpy(b):
            return self.in_scipy() @ b
        products = rows(self.data, b) * jnp.asarray(b)[self.cols]
        return jax.ops.segment_sum(products, self.rows, self.shape[0])

    def rdot(self, r: Float[Real, "n *k"]) -> Any:
        if self._is_numpy(r):
            return self.in_scipy().T @ r
        products = rows(self.data, r) * jnp.asarray(r)[self.rows]
        return jax.ops.segment_sum(products, self.cols, self.shape[1])

    def in_scipy(self) -> scipy.sparse.csc_array:
        """The matrix of SciPy with the same arrays, where these are NumPy's and `starts` is known."""
        return scipy.sparse.csc_array((self.data, self.rows, self.starts), shape=self.size)

    def _is_numpy(self, *arrays: Any) -> bool:
        return self.starts is not None and self.namespace(*arrays) is np

    def columns(self, at: Int[AnyArray, " m"]) -> Float[Array, "n m"]:
        return self.padded_columns(at)

    def padded_columns(self, at: Int[AnyArray, " m"]) -> Float[Array, "n m"]:
        n, p = self.shape
        place = jnp.full(p, at.size).at[at].set(jnp.arange(at.size), mode="drop")
        some = jnp.zeros((n, at.size), self.data.dtype)
        return some.at[self.rows, place[self.cols]].add(self.data, mode="drop")

    def means(self, s: Float[Real, " n"]) -> Float[Real, " p"]:
        if self._is_numpy(s):
            return _Moments(self, s).means()
        weights = s[self.rows]
        first = jax.ops.segment_sum(self.data * weights, self.cols, self.shape[1])
        stored = weights * (self.data - first[self.cols])
        rest = jax.ops.segment_sum(stored, self.cols, self.shape[1]) - self._missing(s) * first
        return first + rest / jnp.sum(s)

    def squares(self, s: Float[Real, " n"], centre: Float[Real, " p"]) -> Float[Real, " p"]:
        if self._is_numpy(s, centre):
            return _Moments(self, s).squares(centre)
        weights = s[self.rows]
        stored = jax.ops.segment_sum(
            weights * (self.data - centre[self.cols]) ** 2, self.cols, self.shape[1]
        )
        return stored + self._missing(s) * centre**2

    def _missing(self, s: Float[Real, " n"]) -> Float[Array, " p"]:
        """The weight of the rows in which a column stores nothing; exactly 0 where there are none."""
        weights = s[self.rows]
        covered = jax.ops.segment_sum(weights, self.cols, self.shape[1])
        counts = jax.ops.segment_sum((weights > 0).astype(jnp.int32), self.cols, self.shape[1])
        return jnp.where(counts < jnp.sum(s > 0), jnp.maximum(jnp.sum(s) - covered, 0), 0)

    def peaks(self, s: Float[Real, " n"]) -> Float[Real, " p"]:
        if self._is_numpy(s):
            return _Moments(self, s).peaks()
        sizes = jnp.where(s[self.rows] > 0, jnp.abs(self.data), 0)
        return jnp.maximum(jax.ops.segment_max(sizes, self.cols, self.shape[1]), 0)

    def transform(self, centre: Real, inverse_scale: Real) -> DataMatrix:
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
            starts=None,
        )

    def to_host(self) -> HostMatrix:
        return HostSparse(self)


class CentredScaledSparse(CentredScaled[SparseMatrix]):
    """A sparse matrix, centred and scaled implicitly."""

    def padded_columns(self, at: Int[AnyArray, " m"]) -> Float[Array, "n m"]:
        centre, inverse_scale = (
            jnp.asarray(values).at[at].get(mode="fill", fill_value=0)
            for values in (self.centre, self.inverse_scale)
        )
        return (self.x.padded_columns(at) - centre) * inverse_scale

    def to_host(self) -> HostMatrix:
        return HostSparse(self.x, self.centre, self.inverse_scale)


class _Moments:
    """Weighted moments of the columns in NumPy, by some columns at a time."""

    def __init__(self, x: SparseMatrix, s: np.ndarray):
        starts: Any = x.starts
        self.s, self.starts, self.is_in = s, starts, s > 0
        self.data, self.rows = np.asarray(x.data), np.asarray(x.rows)
        self.counts = np.diff(starts)
        # Where some columns begin: as many as have few entries, at least one.
        cuts = np.unique(np.searchsorted(starts, np.arange(0, len(self.rows), _PART)))
        self.ends = np.union1d(cuts[cuts < len(self.counts)], [0, len(self.counts)]).tolist()

    def means(self) -> np.ndarray:
        first = self._sums(lambda data, _: data)
        rest = self._sums(lambda data, at: data - self._repeated(first, at))
        # A second pass takes off the rounding of the first, which is relative to the level.
        return first + (rest - self._missing() * first) / self.s.sum()

    def squares(self, centre: np.ndarray) -> np.ndarray:
        if not centre.any():
            return self._sums(lambda data, _: data**2)
        stored = self._sums(lambda data, at: (data - self._repeated(centre, at)) ** 2)
        return stored + self._missing() * centre**2

    def peaks(self) -> np.ndarray:
        found = np.zeros(len(self.counts), self.data.dtype)
        for at in itertools.starmap(slice, itertools.pairwise(self.ends)):
            sizes = abs(self._part(at).data)
            if not self.is_in.all():
                sizes = np.where(self.is_in[self._part(at).indices], sizes, 0)
            some = np.flatnonzero(self.counts[at])
            if len(some):
                begin = self.starts[at][some] - self.starts[at.start]
                found[at.start + some] = np.maximum.reduceat(sizes, begin)
        return found

    def _missing(self) -> np.ndarray:
        """The weight of the rows in which a column stores nothing; exactly 0 where there are none."""
        covered = self._sums(lambda data, _: np.ones_like(data))
        counts = self.counts
        if not self.is_in.all():
            counts = self._sums(lambda data, _: np.ones_like(data), self.is_in.astype(self.s.dtype))
        return np.where(counts < self.is_in.sum(), np.maximum(self.s.sum() - covered, 0), 0)

    def _sums(
        self, term: Callable[[np.ndarray, slice], np.ndarray], s: np.ndarray | None = None
    ) -> np.ndarray:
        """Σ sᵢ term over the entries of each column; `term` has those of the columns in a slice."""
        found = np.empty(len(self.counts), self.s.dtype)
        for at in itertools.starmap(slice, itertools.pairwise(self.ends)):
            part = self._part(at)
            part.data = term(part.data, at)
            found[at] = part @ (self.s if s is None else s)
        return found

    def _part(self, at: slice) -> scipy.sparse.csr_array:
        return _transposed(self.data, self.rows, self.starts, len(self.s), at.start, at.stop)

    def _repeated(self, of_columns: np.ndarray, at: slice) -> np.ndarray:
        return np.repeat(of_columns[at], self.counts[at])


class HostSparse:
    """All columns of a sparse matrix, centred and scaled implicitly; added ones are not copied."""

    def __init__(self, x: SparseMatrix, centre: Any = None, inverse_scale: Any = None):
        self.shape, p = x.shape, x.shape[1]
        here = x.in_numpy()
        if here is None:
            self.x = scipy.sparse.csc_array(_entries(x), shape=x.shape, dtype=np.float64)
        else:
            self.x = here.in_scipy().astype(np.float64, copy=False)
        self.is_transformed = centre is not None
        self.centres = np.asarray(centre, np.float64) if self.is_transformed else np.zeros(p)
        self.scales = np.asarray(inverse_scale) if self.is_transformed else np.ones(p)
        self.features = np.zeros(0, int)

    @functools.cached_property
    def blocks(self) -> list[tuple[slice, scipy.sparse.csr_array]]:
        """Xᵀ in blocks of rows: views, small enough for what comes of them to stay in the cache."""
        p, x = self.shape[1], self.x
        ends = [*range(0, p, max(_BLOCK, p // _MAX_BLOCKS)), p]
        parts = x.data, x.indices, x.indptr, x.shape[0]
        return [(slice(*pair), _transposed(*parts, *pair)) for pair in itertools.pairwise(ends)]

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
        return self.x.tocsr()


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


def _transposed(
    data: np.ndarray, rows: np.ndarray, starts: np.ndarray, n: int, begin: int, end: int
) -> scipy.sparse.csr_array:
    """The transpose of some columns of a CSC matrix of n rows: a view."""
    ends = starts[begin : end + 1]
    entries = slice(ends[0], ends[-1])
    part = scipy.sparse.csr_array((end - begin, n), dtype=data.dtype)
    # Its constructor copies what is a small part of a larger array.
    part.data, part.indices, part.indptr = data[entries], rows[entries], ends - ends[0]
    return part


def _entries(x: SparseMatrix) -> Any:
    """The entries of a sparse matrix, as SciPy takes them."""
    data, rows, cols = (np.asarray(part) for part in (x.data, x.rows, x.cols))
    inside = rows < x.shape[0]  # JAX fills up what it has summed with entries beyond the last row
    if inside.all():
        return data, (rows, cols)
    return data[inside], (rows[inside], cols[inside])
