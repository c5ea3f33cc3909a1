"""The active set: coordinates that may be nonzero, with their signs and values."""

from __future__ import annotations

import numpy as np


class ActiveSet:
    """Some of w coordinates, in the order in which they entered; a removed one is replaced by the last.

    `may_enter` (w,) is true for the inactive coordinates that are not blocked.
    """

    def __init__(self, w: int, indices: np.ndarray, signs: np.ndarray, values: np.ndarray):
        room = capacity(len(indices))
        self._indices, self._signs, self._values = np.zeros(room, int), *np.zeros((2, room))
        self.may_enter = np.empty(w, bool)
        self.blocked: list[int] = []
        self.replace(indices, signs, values)

    @property
    def indices(self) -> np.ndarray:
        return self._indices[: self.size]

    @property
    def signs(self) -> np.ndarray:
        """−1 or 1; 0 for an unpenalised coordinate, which never leaves."""
        return self._signs[: self.size]

    @property
    def values(self) -> np.ndarray:
        return self._values[: self.size]

    @property
    def x(self) -> np.ndarray:
        """All coordinates (w,): the values, and zeros."""
        x = np.zeros(len(self.may_enter))
        x[self.indices] = self.values
        return x

    def replace(self, indices: np.ndarray, signs: np.ndarray, values: np.ndarray) -> None:
        """Sets all of it, for no more coordinates than there is room for."""
        self.size = m = len(indices)
        self._indices[:m], self._signs[:m], self._values[:m] = indices, signs, values
        self.may_enter[:] = True
        self.may_enter[indices] = False

    def append(self, j: int, sign: float, value: float) -> None:
        m = self.size
        if m == len(self._indices):
            more = np.zeros(capacity(m + 1) - m)
            self._indices = np.append(self._indices, more.astype(int))
            self._signs, self._values = (np.append(t, more) for t in (self._signs, self._values))
        self._indices[m], self._signs[m], self._values[m] = j, sign, value
        self.may_enter[j] = False
        self.size = m + 1

    def remove(self, k: int) -> None:
        """Takes out the coordinate in place k; the last takes its place."""
        last = self.size - 1
        self.may_enter[self._indices[k]] = True
        for table in (self._indices, self._signs, self._values):
            table[k] = table[last]
        self.size = last

    def block(self, j: int) -> None:
        """Keeps an inactive coordinate from entering, until `unblock`."""
        self.may_enter[j] = False
        self.blocked.append(j)

    def unblock(self) -> None:
        if self.blocked:
            self.may_enter[self.blocked] = True
            self.may_enter[self.indices] = False
            self.blocked.clear()


def capacity(size: int) -> int:
    """The room for `size` coordinates and some more."""
    return 64 * (size // 64 + 1)
