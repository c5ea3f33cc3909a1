"""A data matrix that is read in blocks of rows: larger than memory, or nowhere an array.

Every product with it is a pass over its rows. It works in NumPy; inside of compiled code a product calls
back to it. Centring and scaling are implicit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from ..._threads import matmul
from ..._tracing import is_differentiable
from ..._types import Real
from ._block_reader import Block, BlockReader, read_memory
from ._block_sources import source_of
from ._host import CopiedColumns, DenseColumns, HostColumns, HostMatrix
from ._matrix import CentredScaled, DataMatrix

_FRACTION_OF_LANES = 1 / 4  # ... that vectors of a certificate may have
_PART = 2**16  # entries of rows whose moments are taken at a time: they stay in the cache
_SPARSE = 4  # columns for each that is used, from where on only these are multiplied
_FRACTION = 1 / 2  # of the memory budget that copies of columns, or a Gram matrix, may have


class Statistics(NamedTuple):
    """Weighted statistics of the columns, (p,) each; `squares` are Σ s (x − mean)²."""

    mean: np.ndarray
    squares: np.ndarray
    peak: np.ndarray
    weight: float


class RowBlocks(DataMatrix):
    """X (n, p) read in blocks of rows, as `blocks` makes it: what `fit` and `path` take as X.

    `passes` is how often it has been read so far, and `bytes_read` how many bytes that were, both counted
    over all calls that used it; `fit.passes` and `path.passes` are those of one call. `max_memory` is in bytes.
    """

    reader: BlockReader = eqx.field(static=True)
    precision: np.dtype = eqx.field(static=True, default=np.dtype(np.float64))

    @property
    def shape(self) -> tuple[int, int]:
        return self.reader.source.shape

    @property
    def dtype(self) -> Any:
        return self.precision

    @property
    def passes(self) -> int:
        """How often it has been read."""
        return self.reader.passes

    @property
    def bytes_read(self) -> int:
        """How many bytes have been read, in the dtype of the storage."""
        return self.reader.bytes_read

    @property
    def max_memory(self) -> int:
        """The memory budget, in bytes."""
        return self.reader.max_memory

    def in_numpy(self) -> RowBlocks:
        return self

    @property
    def batches_products(self) -> bool:
        return True

    def has_room_for(self, size: int) -> bool:
        """Whether so many bytes may be kept in memory beside the blocks."""
        return size <= _FRACTION * self.max_memory

    def lanes_together(self, size: int) -> int:
        return max(int(_FRACTION_OF_LANES * self.max_memory) // (8 * size), 1)

    def read(self) -> Iterator[Block]:
        """Yields all rows in blocks: one pass."""
        return self.reader.blocks(self.precision)

    def astype(self, dtype: Any) -> RowBlocks:
        return RowBlocks(self.reader, np.dtype(dtype))

    # Products.

    def dot(self, b: Real) -> Any:
        return self._product(self._dot, b, (self.shape[0], *b.shape[1:]))

    def rdot(self, r: Real) -> Any:
        return self._product(self._rdot, r, (self.shape[1], *r.shape[1:]))

    def columns(self, at: Any) -> Any:
        if not isinstance(at, Tracer):
            return self._columns(np.asarray(at))
        return _call_back(self._columns, (self.shape[0], *at.shape), self.dtype, at)

    def _product(self, product: Callable[..., np.ndarray], v: Any, shape: tuple[int, ...]) -> Any:
        """A product with vectors v (m, *k), known or traced; those of a batch take one pass."""
        if not isinstance(v, Tracer):
            return product(np.asarray(v))
        core = v.ndim

        def of_batch(v: np.ndarray) -> np.ndarray:
            lanes = v.shape[: v.ndim - core]
            flat = v.reshape(-1, *v.shape[v.ndim - core :])
            out = product(np.moveaxis(flat, 0, -1))
            return np.moveaxis(out, -1, 0).reshape(*lanes, *shape)

        return _call_back(of_batch, shape, self.dtype, v, vmap_method="expand_dims")

    def _dot(self, b: np.ndarray) -> np.ndarray:
        out = np.zeros((self.shape[0], b[0].size), self.dtype)
        flat = b.reshape(len(b), -1).astype(self.dtype, copy=False)
        used = np.flatnonzero(flat.any(axis=1))
        few = _SPARSE * len(used) < len(flat)
        if len(used):
            flat = flat[used] if few else flat
            for rows, x in self.read():
                out[rows] = times(x[:, used] if few else x, flat)
        return out.reshape(-1, *b.shape[1:])

    def _rdot(self, r: np.ndarray) -> np.ndarray:
        flat = r.reshape(len(r), -1).astype(self.dtype, copy=False)
        out = np.zeros((flat.shape[1], self.shape[1]), self.dtype)
        if flat.any():
            for rows, x in self.read():
                out += times(flat[rows].T, x)
        return np.ascontiguousarray(out.T).reshape(-1, *r.shape[1:])

    def _columns(self, at: np.ndarray) -> np.ndarray:
        out = np.empty((self.shape[0], len(at)), self.dtype, order="F")
        for rows, x in self.read():
            out[rows] = densely(x[:, at])
        return out

    # Statistics of the columns, all of them in one pass.

    def means(self, s: Real) -> Any:
        return self._of_statistics(lambda known: known.mean, s)

    def squares(self, s: Real, centre: Real) -> Any:
        def squares(known: Statistics, centre: np.ndarray) -> np.ndarray:
            return known.squares + known.weight * (known.mean - centre) ** 2

        return self._of_statistics(squares, s, centre)

    def peaks(self, s: Real) -> Any:
        return self._of_statistics(lambda known: known.peak, s)

    def _of_statistics(self, pick: Callable[..., np.ndarray], s: Any, *others: Any) -> Any:
        def found(s: Any, *others: Any) -> np.ndarray:
            known = self.statistics(np.asarray(s, np.float64))
            picked = pick(known, *(np.asarray(other, np.float64) for other in others))
            return picked.astype(self.dtype)

        if not any(isinstance(v, Tracer) for v in (s, *others)):
            return found(s, *others)
        return _call_back(found, (self.shape[1],), self.dtype, s, *others)

    def statistics(self, s: np.ndarray) -> Statistics:
        """Returns the statistics for weights s (n,) of the rows; those of the last weights are kept."""
        known = self.reader.known
        if known is None or not np.array_equal(known[0], s):
            self.reader.known = known = (s, self._statistics(s))
        return known[1]

    def _statistics(self, s: np.ndarray) -> Statistics:
        p = self.shape[1]
        sums, squares, peak, shift = np.zeros(p), np.zeros(p), np.zeros(p), None
        for rows, x in self.read():
            for begin in range(0, x.shape[0], max(_PART // p, 8)):
                part = slice(begin, begin + max(_PART // p, 8))
                some = densely(x[part]).astype(np.float64)
                weights = s[rows][part]
                counted = some if weights.all() else some[weights > 0]
                peak = np.maximum(peak, abs(counted).max(axis=0, initial=0))
                if shift is None:  # sums about a value of the data keep their digits
                    shift = some.mean(axis=0)
                some -= shift
                sums += weights @ some
                squares += weights @ np.square(some, out=some)
        weight = float(s.sum())
        mean = sums / weight
        squares = np.maximum(squares - weight * mean**2, 0)
        return Statistics(mean + (0.0 if shift is None else shift), squares, peak, weight)

    def transform(self, centre: Any, inverse_scale: Any) -> DataMatrix:
        return CentredScaledBlocks(self, centre, inverse_scale)

    def to_host(self) -> HostMatrix:
        return HostBlocks(self)


class CentredScaledBlocks(CentredScaled[RowBlocks]):
    """Blocks of rows, centred and scaled implicitly."""

    def in_numpy(self) -> DataMatrix | None:
        return None if is_differentiable(self) else jax.tree.map(np.asarray, self)

    @property
    def passes(self) -> int:
        return self.x.passes

    def has_room_for(self, size: int) -> bool:
        return self.x.has_room_for(size)

    def lanes_together(self, size: int) -> int:
        return self.x.lanes_together(size)

    def to_host(self) -> HostMatrix:
        return HostBlocks(self.x, np.asarray(self.centre), np.asarray(self.inverse_scale))


class HostBlocks(CopiedColumns):
    """Copies of the columns that were added; products with all columns are passes."""

    def __init__(self, x: RowBlocks, centre: Any = 0.0, inverse_scale: Any = 1.0):
        super().__init__(*x.shape)
        self.x = x
        p = x.shape[1]
        self.centre, self.scale = (
            np.broadcast_to(np.asarray(v, np.float64), (p,)) for v in (centre, inverse_scale)
        )
        self.features = np.zeros(0, int)  # that were added

    def _columns(self, at: np.ndarray) -> np.ndarray:
        return (self.x.columns(at).astype(np.float64) - self.centre[at]) * self.scale[at]

    def add(self, new: np.ndarray) -> None:
        super().add(new)
        self.features = np.concatenate([self.features, new])

    def part_of(self, at: np.ndarray) -> HostColumns:
        places = np.full(self.p, -1)
        places[self.features] = np.arange(len(self.features))
        if (places[at] < 0).any():
            return StreamedColumns(self, at)
        return DenseColumns(self.cache[:, places[at]])

    def rdot(self, residuals: np.ndarray, out: np.ndarray) -> None:
        products = self.x.rdot(residuals).T - np.multiply.outer(residuals.sum(axis=0), self.centre)
        out[:] = products * self.scale

    def rows_dot(self, rows: np.ndarray, at: np.ndarray, values: np.ndarray) -> np.ndarray:
        coefs = np.zeros((self.p, values.shape[1]))
        coefs[at] = values
        out = np.empty((len(rows), values.shape[1]))
        for which, x in self.x.read():
            begin, end = np.searchsorted(rows, [which.start, which.stop])
            if begin < end:
                out[begin:end] = times(x[rows[begin:end] - which.start], coefs)
        return out


def _call_back(
    function: Callable[..., np.ndarray],
    shape: tuple[int, ...],
    dtype: Any,
    *args: Any,
    vmap_method: str = "sequential",
) -> Any:
    """Calls a function of NumPy's from compiled code; what it returns has this shape and dtype.

    Numbers go to and fro as their bits: the thread that calls back knows of no local x64 context, and would
    round them.
    """

    def call(*bits: Any) -> np.ndarray:
        values = (
            np.asarray(one).view(arg.dtype).reshape(np.shape(one)[: _ndim(one, arg)])
            for one, arg in zip(bits, args, strict=True)
        )
        found = np.ascontiguousarray(function(*values).astype(dtype, copy=False))
        return found.view(np.uint32).reshape(*found.shape, *_pairs(dtype))

    out = jax.ShapeDtypeStruct((*shape, *_pairs(dtype)), np.uint32)
    bits = [jax.lax.bitcast_convert_type(jnp.asarray(arg), np.uint32) for arg in args]
    found = jax.pure_callback(call, out, *bits, vmap_method=vmap_method)
    return jax.lax.bitcast_convert_type(found, dtype)


def _pairs(dtype: Any) -> tuple[int, ...]:
    """The axis that the halves of numbers of 8 bytes have."""
    return (2,) if np.dtype(dtype).itemsize == 8 else ()


def _ndim(bits: Any, like: Any) -> int:
    return np.ndim(bits) - len(_pairs(like.dtype))


class StreamedColumns:
    """Some columns that are not copied for a product with them."""

    def __init__(self, matrix: HostBlocks, at: np.ndarray):
        self.matrix, self.at = matrix, at

    def dense(self) -> np.ndarray:
        return self.matrix._columns(self.at)

    def dot(self, values: np.ndarray) -> np.ndarray:
        scaled = (self.matrix.scale[self.at] * values.T).T
        coefs = np.zeros((self.matrix.p, *values.shape[1:]))
        coefs[self.at] = scaled
        return self.matrix.x.dot(coefs) - self.matrix.centre[self.at] @ scaled

    def rdot(self, residual: np.ndarray) -> np.ndarray:
        out = np.empty((1, self.matrix.p))
        self.matrix.rdot(residual[:, None], out)
        return out[0, self.at]

    def gram(self, weights: np.ndarray) -> np.ndarray:
        return DenseColumns(self.dense()).gram(weights)

    def gram_columns(self, weights: np.ndarray, places: np.ndarray) -> np.ndarray:
        return DenseColumns(self.dense()).gram_columns(weights, places)

    def gram_diagonal(self, weights: np.ndarray) -> np.ndarray:
        return DenseColumns(self.dense()).gram_diagonal(weights)

    def curvature_gram(self, hvp: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        return DenseColumns(self.dense()).curvature_gram(hvp)


def in_blocks(X: Any, max_memory: Any) -> Any:
    """Returns X as it is, or read in blocks where a call says how much memory it may take."""
    return X if max_memory is None else blocks(X, max_memory=max_memory)


def blocks_of(x: DataMatrix) -> RowBlocks | None:
    """Returns the blocks that a matrix is read in, also where it is centred and scaled; else None."""
    if isinstance(x, RowBlocks):
        return x
    return x.x if isinstance(x, CentredScaledBlocks) else None


def times(a: Any, b: Any) -> np.ndarray:
    """Returns A B (dense) of two matrices, one of which may be sparse."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return matmul(a, b)
    return densely(a @ b)


def densely(x: Any) -> np.ndarray:
    """Returns a block as an array."""
    return x if isinstance(x, np.ndarray) else x.toarray()


def blocks(
    source: Any, *, max_memory: Any = "1GB", shape: tuple[int, int] | None = None
) -> RowBlocks:
    """X (n, p) that is larger than memory, read in blocks of rows.

    **Arguments:**

    - `source`: the name of a .npy or .parquet file, a memory map of NumPy, an array of zarr or a dataset of
      h5py, a `ParquetFile`, table or dataset of pyarrow, a CSR matrix of SciPy (its arrays may be memory
      maps), or blocks of rows: a function that returns an iterator of arrays (m, p), the same each time
      that it is called, or a list of arrays.
    - `max_memory`: the memory that may be used for X, in bytes or such as "500MB": for the blocks that are read
      ahead, and the columns and Gram matrices that are kept. Vectors of n and of p numbers come beside it.
    - `shape`: that of X, where `source` is a function: it saves a pass that counts the rows.

    Entries of any real dtype are widened to float64 block by block. `l1jax.fit`, `path`, `lambda_max`,
    `cross_validate` and predictions take the result as X; centring and scaling are implicit, and the memory
    map itself is taken as one of these where it is large.

    Returns a `RowBlocks`. Raises: ValueError or TypeError for what is no source; later `BlockError`, which
    names the block that was cut off, of another width, not finite, or changed between two passes.

    **Example:**

    ```python
    >>> import numpy as np, l1jax
    >>> rng = np.random.default_rng(0)
    >>> parts = [rng.normal(size=(50, 8)).astype(np.float32) for _ in range(6)]
    >>> y = np.concatenate(parts) @ np.eye(8)[0]
    >>> X = l1jax.blocks(lambda: iter(parts), max_memory="1MB", shape=(300, 8))
    >>> path = l1jax.path(X, y, l1jax.L1(), n_lams=20)
    >>> print(path.passes, path.n_nonzero[-1])
    1 1

    ```
    """
    if isinstance(source, RowBlocks):
        return RowBlocks(BlockReader(source.reader.source, read_memory(max_memory)))
    return RowBlocks(BlockReader(source_of(source, shape), read_memory(max_memory)))
