"""Where blocks of rows come from: one adapter for each kind of storage, over the library that reads it.

An adapter knows its shape and the dtype that it stores. `open()` starts a pass; `read` of what it returns is
then called for consecutive rows, and fills an array: of its dtype, or of the one that the caller works in.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

_KINDS = "fiub"  # real numbers
CHANGED = "X has changed, it is not what it was in a pass before"


class BlockError(ValueError):
    """A block of rows of X that cannot be used: cut off, of another width, not finite, or changed.

    `block` is its number, from 0; `rows` the range of its rows; `path` the part of a path that was solved
    before, or None. What it holds is certified, and the rest is solved by `l1jax.path(..., resume=error.path)`.
    """

    def __init__(self, message: str, block: int, rows: range):
        super().__init__(message)
        self.block, self.rows = block, rows
        self.path: Any = None
        _last[:] = [self]


_last: list[BlockError] = []


@contextlib.contextmanager
def block_errors() -> Iterator[None]:
    """A context in which an error of a block, raised by compiled code that calls back, is raised as such."""
    _last.clear()
    try:
        yield
    except jax.errors.JaxRuntimeError:
        if _last:
            raise _last.pop() from None
        raise
    finally:
        _last.clear()  # it may hold a path


@runtime_checkable
class OpenSource(Protocol):
    """A pass over a source."""

    def read(self, rows: slice, out: np.ndarray | None) -> Any:
        """Returns these rows, which follow on those before: in `out` (m, p), or as a sparse CSR matrix."""
        ...


@runtime_checkable
class BlockSource(Protocol):
    """An adapter of one kind of storage."""

    name: str  # for messages
    shape: tuple[int, int]
    dtype: np.dtype
    names: tuple[str, ...] | None  # of the columns
    is_sparse: bool
    chunk: int  # rows that are stored together
    finds_changes: bool  # whether it compares passes by itself

    def open(self) -> OpenSource:
        """Starts a pass."""
        ...

    def block_of(self, row: int) -> tuple[int, range] | None:
        """Returns the number and the rows of the block that the user made of this row, if blocks are theirs."""
        ...


class _Storage:
    """What adapters have in common."""

    names: tuple[str, ...] | None = None
    is_sparse = False
    chunk = 1
    finds_changes = False

    def __init__(self, name: str, shape: Any, dtype: Any):
        self.name, self.dtype = name, np.dtype(dtype)
        if len(shape) != 2 or 0 in shape:
            raise ValueError(
                f"X must be a matrix with at least one row and column, got {name} of shape {tuple(shape)}."
            )
        self.shape = (int(shape[0]), int(shape[1]))
        if self.dtype.kind not in _KINDS:
            raise TypeError(f"X must hold real numbers, got {name} of dtype {self.dtype}.")

    def open(self) -> Any:
        return self

    def block_of(self, row: int) -> tuple[int, range] | None:
        del row
        return None


class ArrayRows(_Storage):
    """Whatever is sliced by rows: datasets of h5py, arrays of zarr, of NumPy."""

    def __init__(self, array: Any):
        super().__init__(f"a {type(array).__name__}", array.shape, array.dtype)
        self.array = array
        chunks = getattr(array, "chunks", None)  # of zarr and h5py
        self.chunk = int(chunks[0]) if isinstance(chunks, tuple) else 1

    def read(self, rows: slice, out: np.ndarray) -> np.ndarray:
        out[:] = self.array[rows]
        mapped = getattr(self.array, "_mmap", None)
        if mapped is not None and hasattr(mapped, "madvise"):  # else its pages would count as ours
            import mmap

            with contextlib.suppress(OSError, ValueError):
                mapped.madvise(mmap.MADV_DONTNEED)
        return out


class FileRows(_Storage):
    """An array in a file at an offset, by rows or by columns; read: mapped pages count as ours."""

    def __init__(self, file: Any, offset: int, shape: Any, dtype: np.dtype, by_columns: bool):
        super().__init__(Path(file).name, shape, dtype)
        self.file, self.offset, self.by_columns = file, offset, by_columns
        self.chunk = self.shape[0] if by_columns else 1

    def open(self) -> Any:
        return _OpenFile(self)


class _OpenFile:
    def __init__(self, source: FileRows):
        self.source = source
        self.file = open(source.file, "rb", buffering=0)  # noqa: SIM115

    def __del__(self) -> None:
        self.file.close()

    def read(self, rows: slice, out: np.ndarray) -> np.ndarray:
        source, (n, p), size = self.source, self.source.shape, self.source.dtype.itemsize
        if not source.by_columns:
            self._fill(out, source.offset + rows.start * p * size)
            return out
        column = np.empty(len(out), source.dtype)
        for j in range(p):
            self._fill(column, source.offset + (j * n + rows.start) * size)
            out[:, j] = column
        return out

    def _fill(self, array: np.ndarray, position: int) -> None:
        entries: Any = array.reshape(-1).view(np.uint8)
        memory = memoryview(entries)
        self.file.seek(position)
        while len(memory):
            count = self.file.readinto(memory)
            if not count:
                raise EOFError(
                    f"{self.source.name} ends {len(memory)} bytes short: the file was cut off"
                )
            memory = memory[count:]


class SparseRows(_Storage):
    """A CSR matrix of SciPy, whose arrays may be memory maps."""

    is_sparse = True

    def __init__(self, matrix: Any):
        super().__init__(f"a {type(matrix).__name__}", matrix.shape, matrix.dtype)
        self.matrix = matrix

    def read(self, rows: slice, out: None) -> Any:
        del out
        import scipy.sparse

        ends = self.matrix.indptr[rows.start : rows.stop + 1]
        entries = slice(int(ends[0]), int(ends[-1]))
        data, indices = (
            np.array(part[entries]) for part in (self.matrix.data, self.matrix.indices)
        )
        shape = (rows.stop - rows.start, self.shape[1])
        return scipy.sparse.csr_array((data, indices, np.asarray(ends - ends[0])), shape=shape)


class IteratedRows(_Storage):
    """Blocks of rows, one after the other, from an iterator that can be started again."""

    finds_changes = True

    def __init__(self, start: Callable[[], Iterable[Any]], shape: Any, name: str):
        self.start = start
        self.lengths: list[int] = []  # of the blocks of the first pass, and sums of their bits
        self.sums: list[int] = []
        first = next(iter(start()), None)
        if first is None:
            raise ValueError(f"X is empty: {name} gives no blocks of rows.")
        first = _as_block(first)
        if shape is None:
            n = sum(len(block) for block in map(_as_block, start()))
            shape = (n, first.shape[1])
        super().__init__(name, shape, first.dtype)

    def open(self) -> Any:
        return _OpenIterator(self)

    def block_of(self, row: int) -> tuple[int, range] | None:
        ends = [0, *itertools.accumulate(self.lengths)]
        block = int(np.searchsorted(ends, row, side="right")) - 1
        return block, range(ends[block], ends[min(block + 1, len(ends) - 1)])


class _OpenIterator:
    def __init__(self, source: IteratedRows):
        self.source, self.blocks = source, iter(source.start())
        self.rest = np.empty((0, source.shape[1]))
        self.number, self.end = 0, 0  # of the next block, of the rows before it

    def read(self, rows: slice, out: np.ndarray) -> np.ndarray:
        done = 0
        while done < len(out):
            if not len(self.rest):
                self.rest = self._next()
            count = min(len(out) - done, len(self.rest))
            out[done : done + count] = self.rest[:count]
            self.rest, done = self.rest[count:], done + count
        if rows.stop == self.source.shape[0] and (len(self.rest) or self._has_more()):
            raise self._error(f"there are more rows than the {self.source.shape[0]} before")
        return out

    def _next(self) -> np.ndarray:
        n, p = self.source.shape
        found = next(self.blocks, None)
        if found is None:
            raise self._error(f"the rows end after {self.end} of {n}")
        block = _as_block(found)
        if block.shape[1] != p:
            raise self._error(f"it has {block.shape[1]} columns, those before {p}", len(block))
        lengths, sums, total = self.source.lengths, self.source.sums, sum_of_bits(block)
        if self.number == len(lengths):
            lengths.append(len(block))
            sums.append(total)
        if lengths[self.number] != len(block):
            raise self._error(f"it has {len(block)} rows, in a pass before {lengths[self.number]}")
        if sums[self.number] != total:
            raise self._error(CHANGED, len(block))
        self.number, self.end = self.number + 1, self.end + len(block)
        return block

    def _has_more(self) -> bool:
        return next(self.blocks, None) is not None

    def _error(self, why: str, length: int = 0) -> BlockError:
        rows = range(self.end, self.end + length)
        return BlockError(_told(self.source.name, self.number, rows, why), self.number, rows)


def _told(name: str, block: int, rows: range, why: str) -> str:
    """The message of a `BlockError`."""
    where = f" (rows {rows.start} to {rows.stop - 1})" if len(rows) else ""
    return f"X, {name}, cannot be used in block {block}{where}: {why}."


def sum_of_bits(entries: np.ndarray) -> int:
    """Returns a sum of what entries are in memory, which tells whether some have changed."""
    memory = np.ascontiguousarray(entries).reshape(-1).view(np.uint8)
    whole = len(memory) - len(memory) % 8
    return int(memory[:whole].view(np.uint64).sum(dtype=np.uint64)) + int(memory[whole:].sum())


def block_error(source: BlockSource, block: int, rows: range, why: str) -> BlockError:
    """Returns the error of these rows, by the user's own blocks where there are such."""
    block, rows = source.block_of(rows.start) or (block, rows)
    return BlockError(_told(source.name, block, rows, why), block, rows)


def _as_block(block: Any) -> np.ndarray:
    """A block of rows as an array (m, p) of numbers."""
    if hasattr(block, "toarray"):
        block = block.toarray()
    if hasattr(block, "to_numpy") and not hasattr(block, "schema"):
        block = block.to_numpy()
    block = np.asarray(block)
    if block.ndim != 2 or block.dtype.kind not in _KINDS:
        raise TypeError(
            f"X must come in blocks of rows, arrays of numbers (m, p), got one of shape {block.shape} and "
            f"dtype {block.dtype}."
        )
    return block


def _of_arrow(batches: Callable[[], Iterable[Any]], count: int, names: Any, kind: str) -> Any:
    """Tables of Arrow, batch by batch."""

    def start() -> Iterator[np.ndarray]:
        for batch in batches():
            if batch.num_rows:
                columns = [column.to_numpy(zero_copy_only=False) for column in batch.columns]
                yield np.stack(columns, axis=1)

    source = IteratedRows(start, (count, len(names)), kind)
    source.names = tuple(map(str, names))
    return source


def _of_memmap(x: np.memmap) -> BlockSource:
    """A memory map, or a part of one, as the place in its file."""
    size, (n, p) = x.itemsize, x.shape
    by_rows, by_columns = x.strides == (p * size, size), x.strides == (size, n * size)
    mapped, is_native = getattr(x, "_mmap", None), x.dtype.isnative
    if mapped is None or x.filename is None or not (by_rows or by_columns) or not is_native:
        return ArrayRows(x)
    start = np.frombuffer(mapped, np.uint8).__array_interface__["data"][0]
    offset = x.offset - x.offset % _granularity() + x.__array_interface__["data"][0] - start
    return FileRows(x.filename, offset, x.shape, x.dtype, not by_rows)


def _granularity() -> int:
    import mmap

    return mmap.ALLOCATIONGRANULARITY


def _of_npy(file: Any) -> BlockSource:
    """A file that `numpy.save` wrote."""
    with open(file, "rb") as opened:
        version = np.lib.format.read_magic(opened)
        read = {(1, 0): np.lib.format.read_array_header_1_0}.get(
            version, np.lib.format.read_array_header_2_0
        )
        shape, by_columns, dtype = read(opened)
        return FileRows(os.fspath(file), opened.tell(), shape, dtype, by_columns)


def is_mapped(x: Any) -> bool:
    """Whether it is a memory map of a matrix."""
    return isinstance(x, np.memmap) and x.ndim == 2


def source_of(source: Any, shape: tuple[int, int] | None = None) -> BlockSource:
    """Returns the adapter for whatever a user hands in."""
    kind = type(source).__name__
    if isinstance(source, str | PathLike):
        return _of_file(source)
    if is_mapped(source):
        return _of_memmap(source)
    if hasattr(source, "indptr"):
        if getattr(source, "format", None) != "csr":
            raise TypeError(f"X must be CSR to be read by rows, got {kind}: pass X.tocsr().")
        return SparseRows(source)
    if hasattr(source, "iter_batches"):  # pyarrow.parquet.ParquetFile
        names = source.schema_arrow.names
        return _of_arrow(source.iter_batches, source.metadata.num_rows, names, f"a {kind}")
    if hasattr(source, "to_batches") and hasattr(source, "schema"):  # a table or a dataset of Arrow
        count = source.num_rows if hasattr(source, "num_rows") else source.count_rows()
        return _of_arrow(source.to_batches, count, source.schema.names, f"a {kind}")
    if hasattr(source, "shape") and hasattr(source, "__getitem__"):
        return ArrayRows(source)
    start: Any = source
    if callable(source):
        return IteratedRows(start, shape, getattr(source, "__name__", kind))
    if hasattr(source, "__iter__") and iter(source) is not source:
        return IteratedRows(lambda: start, shape, f"a {kind}")
    hint = " An iterator ends after one pass: pass a function that returns a new one."
    raise TypeError(
        "source must be a .npy or .parquet file, a memory map, an array of zarr or h5py, a table of Arrow, a "
        f"CSR matrix, or a function that returns an iterator of blocks of rows, got {kind}."
        + (hint if hasattr(source, "__next__") else "")
    )


def _of_file(file: str | PathLike) -> BlockSource:
    end = Path(file).suffix
    if end == ".npy":
        return _of_npy(file)
    if end == ".parquet":
        try:
            import pyarrow.parquet  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ImportError(
                "a .parquet file needs pyarrow: pip install pyarrow, or l1jax with its extra `parquet`."
            ) from error
        return source_of(pyarrow.parquet.ParquetFile(file))
    raise ValueError(
        f"source must be a .npy or .parquet file where it is a name, got {str(file)!r}: others are opened by "
        "their libraries, such as h5py and zarr, and passed as arrays."
    )
