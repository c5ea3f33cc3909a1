"""Arrays that NumPy fills and XLA reads in place.

XLA on a CPU takes an array of NumPy's as it is where it is aligned, and copies it else. NumPy asks
for large pages, XLA does not: a large array costs XLA several times as much to write for the first
time.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

_ALIGNMENT = 64  # bytes


def aligned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array of zeros, to be filled before `zero_copy`."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.zeros(size + _ALIGNMENT, np.uint8)
    begin = -memory.ctypes.data % _ALIGNMENT
    return memory[begin : begin + size].view(dtype).reshape(shape)


def zero_copy(arrays: Any) -> Any:
    """The arrays for JAX, without a copy where that can be; they must not be written to any more."""
    return jax.device_put(arrays, may_alias=True)
