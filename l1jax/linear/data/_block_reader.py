"""Passes over blocks of rows: read ahead by a thread, within a memory budget, checked and counted."""

from __future__ import annotations

import contextlib
import contextvars
import queue
import re
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ..._progress import progress_bar
from ..._threads import one_thread
from ._block_sources import CHANGED, BlockError, BlockSource, block_error, sum_of_bits

_AHEAD = 3  # blocks in memory: one that is read, one that waits, one that is used
_FRACTION = 1 / 16  # of the memory budget that a block may have
_USUAL = 2**23  # bytes of a block: it stays in the cache, and has few new pages
_LARGEST = 2**25  # ... that has more rows, since chunks of storage or X'X need them
_TALL = 2  # rows of a block for each column, so that X'X costs more than to add it up
_UNITS = {"": 1, "B": 1}
_UNITS |= {
    f"{letter}{end}": (2**10 if end.startswith("I") else 10**3) ** (power + 1)
    for power, letter in enumerate("KMGT")
    for end in ("", "B", "I", "IB")
}

_shown: contextvars.ContextVar[bool | None] = contextvars.ContextVar("passes", default=False)


@contextlib.contextmanager
def passes_shown(progress: bool | None) -> Iterator[None]:
    """A context in which passes show a bar, as `progress` of a public call says."""
    token = _shown.set(progress)
    try:
        yield
    finally:
        _shown.reset(token)


class Block(NamedTuple):
    """Some rows of X, in the dtype that is computed in: an array (m, p), or CSR."""

    rows: slice
    x: Any


class BlockReader:
    """Reads a source of blocks, as often as it is asked; `passes` and `bytes_read` count."""

    def __init__(self, source: BlockSource, max_memory: int):
        self.source, self.max_memory = source, max_memory
        self.passes, self.bytes_read = 0, 0
        self.sums: dict[tuple[str, int], int] = {}  # of the blocks, by dtype and first row
        self.known: Any = None  # statistics of the columns, for some weights of the rows

    def blocks(self, dtype: np.dtype) -> Iterator[Block]:
        """Yields all rows, block by block; an array is valid until the next one is asked for."""
        self.passes += 1
        with one_thread():
            yield from _Pass(self, dtype)

    def slices(self, dtype: np.dtype) -> list[slice]:
        """Returns the rows of each block."""
        (n, p), chunk, size = self.source.shape, self.source.chunk, self._row_bytes(dtype)
        most = int(min(self.max_memory * _FRACTION, _LARGEST)) // size
        count = max(min(max(_USUAL // size, _TALL * p, chunk), most), 1)
        if count > chunk:
            count -= count % chunk
        return [slice(begin, min(begin + count, n)) for begin in range(0, n, count)]

    def _row_bytes(self, dtype: np.dtype) -> int:
        n, p = self.source.shape
        if not self.source.is_sparse:
            return p * dtype.itemsize
        matrix: Any = self.source
        return max(int(matrix.matrix.indptr[-1]) * (dtype.itemsize + 8) // n, 1)

    def checked(self, block: int, rows: slice, stored: Any, x: Any) -> int:
        """Checks what was read, as it is stored and as X, and returns its size in bytes of storage.

        Raises: BlockError for what is not finite, or was another in a pass before.
        """
        stored, entries = (stored.data, x.data) if self.source.is_sparse else (stored, x)
        where = range(rows.start, rows.stop)
        key = (entries.dtype.char, rows.start)
        total = 0 if self.source.finds_changes else sum_of_bits(stored)
        if key not in self.sums:
            if not _is_finite(entries):
                raise self._not_finite(block, where, x)
            self.sums[key] = total
        if self.sums[key] != total:
            raise block_error(self.source, block, where, CHANGED)
        return entries.size * self.source.dtype.itemsize

    def _not_finite(self, block: int, where: range, x: Any) -> BlockError:
        dense = x.toarray() if self.source.is_sparse else x
        row, column = (int(i) for i in np.argwhere(~np.isfinite(dense))[0])
        value, row = dense[row, column], row + where.start
        names = self.source.names
        name = repr(names[column]) if names else column
        found = self.source.block_of(row)
        block, where = found or (block, where)
        why = f"X must be finite, got {value} at row {row}, column {name}"
        return block_error(self.source, block, range(row, row + 1) if found else where, why)


class _Pass:
    """One pass: a thread fills blocks, the caller uses them."""

    def __init__(self, reader: BlockReader, dtype: np.dtype):
        self.reader, self.dtype = reader, dtype
        self.ready: queue.Queue[Any] = queue.Queue()
        self.free: queue.Queue[Any] = queue.Queue()
        self.is_over = threading.Event()
        source = reader.source  # one that finds changes by itself has blocks of any dtype
        self.converts = not (source.is_sparse or source.finds_changes or source.dtype == dtype)

    def __iter__(self) -> Iterator[Block]:
        reader, source = self.reader, self.reader.source
        slices = reader.slices(self.dtype)
        for _ in range(min(_AHEAD, len(slices))):
            shape = (slices[0].stop, source.shape[1])
            self.free.put(None if source.is_sparse else np.empty(shape, self.dtype))
        thread = threading.Thread(target=self._fill, args=(slices,), daemon=True)
        thread.start()
        size = source.shape[0] * source.shape[1] * source.dtype.itemsize
        name = f"pass {reader.passes}"
        try:
            with progress_bar(size, _shown.get(), name, "B", scaled=True) as bar:
                for rows in slices:
                    found = self.ready.get()
                    if isinstance(found, BaseException):
                        raise found
                    memory, x, count = found
                    reader.bytes_read += count
                    yield Block(rows, x)
                    self.free.put(memory)
                    bar.update(count)
        finally:
            self.is_over.set()
            self.free.put(None)
            thread.join()

    def _fill(self, slices: list[slice]) -> None:
        reader, source = self.reader, self.reader.source
        block, rows = 0, slices[0]
        try:
            opened = source.open()
            stored = np.empty((rows.stop if self.converts else 0, source.shape[1]), source.dtype)
            for block, rows in enumerate(slices):
                memory = self.free.get()
                if self.is_over.is_set():
                    return
                out: Any = None if memory is None else memory[: rows.stop - rows.start]
                x = found = opened.read(rows, stored[: len(out)] if self.converts else out)
                if source.is_sparse:
                    x = found.astype(self.dtype)
                elif self.converts:
                    x = out
                    with np.errstate(over="ignore"):  # what overflows is not finite
                        x[:] = found
                self.ready.put((memory, x, reader.checked(block, rows, found, x)))
        except BlockError as error:
            self.ready.put(error)
        except Exception as error:
            where = range(rows.start, rows.stop)
            told = block_error(source, block, where, str(error).rstrip(".") or type(error).__name__)
            told.__cause__ = error
            self.ready.put(told)


def _is_finite(entries: np.ndarray) -> bool:
    """Whether all are; one sum says so, where it does not overflow."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(entries.sum()) or np.isfinite(entries).all())


def read_memory(max_memory: Any) -> int:
    """Returns a number of bytes, given as such or as "500MB"."""
    if isinstance(max_memory, str):
        found = re.fullmatch(r"\s*(\d+\.?\d*)\s*(B?|[KMGT]I?B?)\s*", max_memory.upper())
        if found is not None:
            max_memory = float(found[1]) * _UNITS[found[2]]
    if isinstance(max_memory, bool) or not isinstance(max_memory, int | float | np.number):
        raise ValueError(
            f'max_memory must be a number of bytes or such as "500MB", got {max_memory!r}.'
        )
    if not max_memory >= 1:
        raise ValueError(f"max_memory must be at least one byte, got {max_memory!r}.")
    return int(max_memory)
