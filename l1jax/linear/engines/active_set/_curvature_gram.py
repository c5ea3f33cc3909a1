"""The Hessian of a loss of separate rows on a working set, computed row by row as it is asked for.

Few columns of a working set are active, and a solver only reads their rows: with many more rows of data than
columns, all of the Hessian costs several times what its use does.
"""

from __future__ import annotations

import abc
import functools
from typing import Any

import numpy as np

from ...data._host import HostColumns

_FRACTION = 1 / 3  # of the rows: where more are asked for, all at once cost less


class LazyRows(abc.ABC):
    """A symmetric matrix (w, w), of which each row is computed when it is first read."""

    def __init__(self, size: int):
        self._rows = np.empty((size, size))
        self._is_known = np.zeros(size, bool)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: Any) -> np.ndarray:
        missing = np.unique(np.atleast_1d(rows)[~self._is_known[np.atleast_1d(rows)]])
        if len(missing):
            self._compute(missing)
        return self._rows[rows]

    @abc.abstractmethod
    def _compute(self, missing: np.ndarray) -> None:
        """Fills these rows, or more, and says that they are known."""


class CurvatureGram(LazyRows):
    """X̃ᵀ diag(weights) X̃ (w, w), the intercept its last column if there is one, to read.

    Weights below zero are allowed, as a loss that is not convex has them.
    """

    def __init__(self, part: HostColumns, weights: np.ndarray, size: int, has_intercept: bool):
        super().__init__(size + has_intercept)
        self.part, self.weights, self.size = part, weights, size
        if has_intercept:
            self._rows[size, :size] = part.rdot(weights)
            self._rows[size, size] = weights.sum()
            self._rows[:size, size] = self._rows[size, :size]
            self._is_known[size] = True

    def _compute(self, missing: np.ndarray) -> None:
        size = self.size
        if len(missing) + np.count_nonzero(self._is_known) > _FRACTION * size:
            self._rows[:size, :size] = self.part.gram(self.weights)
            self._is_known[:] = True
        else:
            self._rows[missing, :size] = self.part.gram_columns(self.weights, missing).T
            self._is_known[missing] = True

    def diagonal(self) -> np.ndarray:
        return self._diagonal

    @functools.cached_property
    def _diagonal(self) -> np.ndarray:
        if self._is_known.all():
            return self._rows.diagonal()
        squares = self.part.gram_diagonal(self.weights)
        return np.append(squares, self._rows.diagonal()[self.size :])
