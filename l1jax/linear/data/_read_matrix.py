"""X of any kind as a `DataMatrix`, checked."""

from __future__ import annotations

import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..._tracing import frozen, is_traced
from ._arrays import as_array, float_dtype, fresh_view
from ._block_sources import is_mapped
from ._frames import is_frame, is_polars, read_frame
from ._matrix import DataMatrix, DenseMatrix
from ._row_blocks import RowBlocks, blocks
from ._sharded import ShardedMatrix, is_sharded
from ._sparse import SparseMatrix
from ._values import check_finite, check_scale, is_harmless, not_finite

_LARGE = 2**28  # bytes of float64, from which on a memory map is read in blocks and not into memory


def read_matrix(X: Any) -> tuple[DataMatrix, tuple[str, ...] | None]:
    """Returns X as an operator, and the names of its columns where it has them."""
    if is_mapped(X) and 8 * X.size > _LARGE:
        X = blocks(X)
    if isinstance(X, RowBlocks):
        return X, X.reader.source.names
    if isinstance(X, DataMatrix):
        return _read_operator(X), None
    names, advice = None, ""
    if is_frame(X):
        names = tuple(str(name) for name in X.columns)
        means = 'X.fill_nan(None).fill_null(strategy="mean")'
        advice = means if is_polars(X) else "X.fillna(X.median())"
        X = read_frame(X, "X")
    # Who has one of these has loaded their module, which takes as long as all of l1jax.
    jax_sparse = sys.modules.get("jax.experimental.sparse")
    if jax_sparse is not None and isinstance(X, jax_sparse.BCSR):
        X = X.to_bcoo()
    if jax_sparse is not None and isinstance(X, jax_sparse.BCOO):
        _check_shape(X)
        return _read_bcoo(X), names
    if hasattr(X, "tocoo") and not isinstance(X, np.ndarray | jax.Array):
        _check_shape(X)
        return _read_scipy(X), names
    return _read_dense(X, names, advice), names


def _read_dense(X: Any, names: tuple[str, ...] | None, advice: str) -> DataMatrix:
    is_whole = not is_sharded(X)
    X = as_array(X, "X") if is_whole else X
    if X.ndim == 0:
        given = X.item()
        hint = "A file is read first, for example with pandas.read_csv."
        if hasattr(given, "shape"):
            hint = "An operator is a subclass of l1jax.DataMatrix."
        raise TypeError(f"X must be a matrix of numbers, got {given!r}. {hint}")
    _check_shape(X)
    X = X.astype(float_dtype(X, "X"), copy=False)
    if not is_whole:
        _check_sharded(frozen(X))
        return ShardedMatrix.of(X)
    if not is_traced(X):
        host = np.asarray(frozen(X))
        if not is_harmless(host):
            check_finite(host, "X", names, advice)
            check_scale(host, "X")
    return DenseMatrix(fresh_view(X))


def _check_sharded(X: jax.Array) -> None:
    """As the checks of other arrays, by what the devices find in their parts."""
    peak, smallest, count, row = map(np.asarray, _summary(X))
    if count:
        entries = np.asarray(_row(X, row))
        column = int(np.flatnonzero(~np.isfinite(entries))[0])
        raise not_finite("X", entries[column], (int(row), column), int(count))
    check_scale(np.array([peak, -smallest], X.dtype), "X")


@jax.jit
def _summary(X: jax.Array) -> tuple[jax.Array, ...]:
    """The largest entry, minus the smallest, the number that are not finite, the first row with one."""
    bad = ~jnp.isfinite(X)
    first = jnp.argmax(jnp.any(bad, axis=1))
    return jnp.max(X), -jnp.min(X), jnp.sum(bad), first


@jax.jit
def _row(X: jax.Array, row: Any) -> jax.Array:
    """A row, by a sum: X stays where it is."""
    is_it = (jnp.arange(X.shape[0]) == row)[:, None]
    return jnp.sum(jnp.where(is_it, X, 0), axis=0)


def _check_shape(X: Any) -> None:
    if X.ndim != 2:
        hint = " One feature is a column: X[:, None]." if X.ndim == 1 else ""
        raise ValueError(f"X must be a matrix of shape (n, p), got shape {X.shape}.{hint}")
    if 0 in X.shape:
        raise ValueError(f"X is empty: shape {X.shape}. It needs at least one row and one column.")


def _read_scipy(X: Any) -> SparseMatrix:
    csc = X.tocsc()
    if not csc.has_canonical_format:  # entries that are repeated
        csc = csc.copy() if csc is X else csc
        csc.sum_duplicates()
    data = fresh_view(np.asarray(csc.data, float_dtype(csc.data, "X")))
    rows = csc.indices.astype(np.int32, copy=False)
    n, p = csc.shape
    cols = np.repeat(np.arange(p, dtype=np.int32), np.diff(csc.indptr))
    _check_entries(data, rows, cols)
    return SparseMatrix(data, rows, cols, (int(n), int(p)), csc.indptr)


def _read_bcoo(X: Any) -> SparseMatrix:
    if X.n_batch or X.n_dense:
        raise ValueError(
            f"X must be a BCOO matrix without batch or dense dimensions, got n_batch={X.n_batch} and "
            f"n_dense={X.n_dense}."
        )
    X = X.sum_duplicates(nse=X.nse)
    data, rows, cols = X.data, X.indices[:, 0], X.indices[:, 1]
    data = data.astype(float_dtype(data, "X"))
    if not is_traced(data):
        _check_entries(np.asarray(frozen(data)), rows, cols)
    return SparseMatrix(data, rows, cols, (int(X.shape[0]), int(X.shape[1])))


def _check_entries(data: np.ndarray, rows: Any, cols: Any) -> None:
    bad = np.flatnonzero(~np.isfinite(data))
    if len(bad):
        at = int(bad[0])
        raise ValueError(f"X must be finite, got {data[at]} at row {rows[at]}, column {cols[at]}.")
    check_scale(data, "X")


def _read_operator(x: DataMatrix) -> DataMatrix:
    """A user's own matrix: its entries cannot be checked, but its shape, dtype and fields can."""
    kind = type(x).__name__
    shape = x.shape
    if len(shape) != 2 or not all(
        isinstance(size, int | np.integer) and size > 0 for size in shape
    ):
        raise ValueError(
            f"{kind}.shape must be (n, p) with at least one row and column, got {shape}."
        )
    if np.dtype(x.dtype) not in (np.float32, np.float64):
        raise TypeError(f"{kind}.dtype must be float32 or float64, got {x.dtype}.")
    for leaf in jax.tree.leaves(x):
        if not isinstance(leaf, np.ndarray | jax.Array):
            raise TypeError(
                f"{kind} must hold arrays, got {leaf!r} in a field: declare it as "
                "equinox.field(static=True)."
            )
    return jax.tree.map(fresh_view, x)
