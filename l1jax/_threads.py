"""Threads: BLAS has one, and products that are large are cut into one part per core.

NumPy and SciPy each have threads of their own, which wait for work in a busy loop. Where small products
with one and the other alternate, or XLA works in between, they take each other's cores: a product of
10 µs takes 500. So a public call sets one thread for all of them, once (`entry_point`), and gives the rest
back at its end. Threads that end with their product wait for nothing.
"""

from __future__ import annotations

import importlib
import itertools
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

_LARGE = 3 * 10**7  # multiplications of a product, about 3 ms; to start threads takes 0.2


class one_thread:
    """A context within which NumPy and SciPy use one thread each.

    The number of threads belongs to the process: the first of several that overlap sets it, and the
    last gives it back.
    """

    _lock = threading.Lock()
    _inside = 0
    _limit: Any = None

    def __enter__(self) -> None:
        with self._lock:
            if not one_thread._inside:
                one_thread._limit = _controller().limit(limits=1, user_api="blas")
            one_thread._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            one_thread._inside -= 1
            if not one_thread._inside:
                one_thread._limit.restore_original_limits()


@cache
def _controller() -> ThreadpoolController:
    """Looks for the libraries once, when all are loaded: SciPy's loads with `scipy.linalg`."""
    importlib.import_module("scipy.linalg")
    return ThreadpoolController()


def num_cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def in_threads(task: Callable[[Any], None], parts: Iterable[Any]) -> None:
    """Runs a task on each of the parts at once; it pays where the task lets go of Python's lock.

    The threads end with the call (0.2 ms): a process that is forked later inherits none.
    """
    with ThreadPoolExecutor(num_cores()) as pool:
        list(pool.map(task, parts))


def matmul(a: np.ndarray, b: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """A B of two matrices, the columns of B split among the cores where the product is large."""
    if a.size * b.shape[1] < _LARGE or num_cores() == 1:
        return np.matmul(a, b, out=out)
    result = np.empty((a.shape[0], b.shape[1]), np.result_type(a, b)) if out is None else out

    def fill(at: slice) -> None:
        np.matmul(a, b[:, at], out=result[:, at])

    in_threads(fill, _slices(b.shape[1], num_cores()))
    return result


def gram(x: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """XᵀX (p, p), at half the cost of another product; the rows split among the cores where it is large."""
    n, p = x.shape
    num_parts = min(num_cores(), n // max(p, 1))  # each has p² sums of its own
    if x.size * p // 2 < _LARGE or num_parts <= 1:
        return np.matmul(x.T, x, out=out)
    parts = _slices(n, num_parts)
    sums = [np.empty((p, p), x.dtype) for _ in parts]

    def fill(which: tuple[slice, np.ndarray]) -> None:
        rows, part = which
        np.matmul(x[rows].T, x[rows], out=part)

    in_threads(fill, zip(parts, sums, strict=True))
    result = sums[0] if out is None else out
    result[...] = sums[0]
    for part in sums[1:]:
        result += part
    return result


def _slices(size: int, parts: int) -> list[slice]:
    ends = [size * i // parts for i in range(parts + 1)]
    return list(itertools.starmap(slice, itertools.pairwise(ends)))
