"""Which entries of each value do not depend on the inputs, and what they are.

What is known about a value is a mask and an array of its rank, in which an axis of length 1 stands for all of
its indices: the batch, and most often space. What is not known varies, or may.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ._program import Value, content_of
from ._reshapes import blocks

MAX_ENTRIES = 2**24  # entries beyond which a constant is not followed


class Known(NamedTuple):
    """The entries marked in `mask` are those of `value`, whatever the inputs."""

    mask: np.ndarray
    value: np.ndarray

    @property
    def everywhere(self) -> bool:
        return bool(self.mask.all())

    @property
    def zero(self) -> np.ndarray:
        """The entries that are known to be zero."""
        return np.asarray(self.mask & (self.value == 0))

    def as_arrays(self) -> Known:
        """NumPy makes scalars of what has no axes."""
        return Known(np.asarray(self.mask), np.asarray(self.value))


Constants = dict[Value, Known]


def known(value: Value, constants: Constants) -> Known:
    """What is known about a value; what is written in the program is known from the start."""
    if value in constants:
        return constants[value]
    content = content_of(value)
    if content is None or content.dtype.kind not in "biufcV":
        return nothing(value)
    constants[value] = Known(np.ones((1,) * value.ndim, bool), content)
    return constants[value]


def nothing(value: Value) -> Known:
    shape = (1,) * value.ndim
    return Known(np.zeros(shape, bool), np.zeros(shape, np.float32))


def any_along(mask: np.ndarray, axes: Any, keepdims: bool = False) -> np.ndarray:
    return np.asarray(np.any(mask, axis=axes, keepdims=keepdims))


def all_along(mask: np.ndarray, axes: Any, keepdims: bool = False) -> np.ndarray:
    return np.asarray(np.all(mask, axis=axes, keepdims=keepdims))


def broadcast(array: np.ndarray, ndim: int) -> np.ndarray:
    """A scalar in the rank of the arrays that it meets."""
    return array if array.ndim == ndim else array.reshape((1,) * ndim)


def collapse(array: np.ndarray, axis: int) -> np.ndarray | None:
    """The array with an axis of length 1 where nothing changes along it; None where something does."""
    if array.shape[axis] == 1:
        return array
    first = np.take(array, [0], axis=axis) if array.shape[axis] else None
    return first if first is not None and np.all(array == first) else None


def reshaped(array: np.ndarray, before: tuple[int, ...], after: tuple[int, ...]) -> np.ndarray:
    """An array in which axes of length 1 are constant, reshaped as the whole would be."""
    full, result = list(array.shape), [1] * len(after)
    for ours, theirs in blocks(before, after):
        if any(array.shape[axis] != 1 for axis in ours):
            for axis in ours:
                full[axis] = before[axis]
            for axis in theirs:
                result[axis] = after[axis]
    return np.broadcast_to(array, full).reshape(result)


def expanded(array: np.ndarray, shape: tuple[int, ...], axis: int) -> np.ndarray:
    """The array with an axis at its full length."""
    sizes = list(array.shape)
    sizes[axis] = shape[axis]
    return np.broadcast_to(array, sizes)
