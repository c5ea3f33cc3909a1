"""Data of nearly the same shape, brought to one: rows of no weight and columns of zeros change nothing.

XLA compiles once per shape. Folds, grid searches and learning curves fit many shapes that hardly
differ; padded, they use one program, and a fit of a hundred rows takes milliseconds, not seconds.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

_ROWS, _COLUMNS = 512, 32  # the least shape
_ENTRIES = 2**20  # 8 MB: above, a fit takes longer than what it saves


class Data(NamedTuple):
    """What is fitted, padded or not, and the numbers of rows and columns that count."""

    X: Any
    y: np.ndarray
    weights: np.ndarray
    n: int
    p: int

    @property
    def columns(self) -> int:
        """The number of columns, with those that were added."""
        return self.X.shape[1]


def padded(X: Any, y: np.ndarray, weights: np.ndarray, in_columns: bool = True) -> Data:
    """The data in the next larger shape of a ladder by twos, where that is small (and so dense)."""
    n, p = X.shape
    rows, columns = _next(n, _ROWS), _next(p, _COLUMNS) if in_columns else p
    if rows * columns > _ENTRIES:
        return Data(X, y, weights, n, p)
    wide = np.zeros((rows, columns))
    wide[:n, :p] = X.toarray() if sparse.issparse(X) else X
    more = (0, rows - n)
    # The last targets again: those are what a loss accepts.
    targets = np.pad(y, [more] + [(0, 0)] * (y.ndim - 1), mode="edge")
    return Data(wide, targets, np.pad(weights, more), n, p)


def _next(size: int, least: int) -> int:
    return max(least, 1 << (size - 1).bit_length())
