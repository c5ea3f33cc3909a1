"""The context of every public call on data: one BLAS thread, and placement by the compiler on a mesh."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from ..._sharding import in_auto_axes
from ..._threads import one_thread
from ..data._block_sources import block_errors

P = ParamSpec("P")
R = TypeVar("R")


def entry_point(function: Callable[P, R]) -> Callable[P, R]:
    """A public function whose engines work on the host; one may call another."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        with one_thread(), block_errors():
            return in_auto_axes(function, *args, **kwargs)

    return call
