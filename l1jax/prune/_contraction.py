"""Sums of products of arrays in which an axis of length 1 stands for one along which nothing changes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ._primitives import Product

Shape = tuple[int, ...]


def contract(
    left: np.ndarray, right: np.ndarray, where: Product, shapes: Sequence[Shape]
) -> np.ndarray:
    """The result of `dot_general` for arrays whose axes have the length in `shapes`, or 1 for constant."""
    factor = 1.0
    for i, j in zip(*where.contracted, strict=True):
        size = shapes[0][i]
        if left.shape[i] == right.shape[j] == 1:
            factor *= size
        elif left.shape[i] == 1:
            right = right.sum(axis=j, keepdims=True)
        elif right.shape[j] == 1:
            left = left.sum(axis=i, keepdims=True)
    sizes = [max(left.shape[i], right.shape[j]) for i, j in zip(*where.batch, strict=True)]
    a = _arranged(left, where.batch[0], where.free[0], where.contracted[0], sizes)
    b = _arranged(right, where.batch[1], where.contracted[1], where.free[1], sizes)
    out = np.matmul(a, b) if factor == 1 else np.matmul(a, b) * factor
    free = [left.shape[axis] for axis in where.free[0]] + [
        right.shape[axis] for axis in where.free[1]
    ]
    return np.asarray(out.reshape([*sizes, *free]))


def _arranged(
    array: np.ndarray,
    batch: Sequence[int],
    rows: Sequence[int],
    columns: Sequence[int],
    sizes: list[int],
) -> np.ndarray:
    """As a stack of matrices."""
    ordered = array.transpose([*batch, *rows, *columns])
    shape = ordered.shape[len(batch) :]
    ordered = np.broadcast_to(ordered, (*sizes, *shape))
    count = int(np.prod(shape[: len(rows)]))
    return ordered.reshape(*sizes, count, int(np.prod(shape[len(rows) :])))
