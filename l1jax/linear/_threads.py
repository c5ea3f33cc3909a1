"""Threads: one for small linear algebra, all of them for large products that know only one.

NumPy and SciPy each have threads of their own, which wait for work in a busy loop. Where small calls
to one and the other alternate, they wait for each other's, and a product of 10 µs takes 500.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ContextDecorator
from functools import cache
from typing import Any

from threadpoolctl import ThreadpoolController


class one_thread(ContextDecorator):
    """A context, or a decorator, within which NumPy and SciPy use one thread each.

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
    """Looks for the libraries once: it takes 10 ms."""
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
