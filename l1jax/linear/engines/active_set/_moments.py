"""Moments of rows: sums of products of columns and target, of an array or added up over blocks."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from ...._threads import gram
from ...data._matrix import DataMatrix

_PART = 2**16  # entries of rows that are multiplied at a time, or as many rows as columns


class Moments(NamedTuple):
    """Weighted sums over some rows: of 1, of p columns and the target (last), of their products."""

    weight: float
    sums: np.ndarray  # (p + 1,)
    products: np.ndarray  # (p + 1, p + 1)

    @classmethod
    def of(cls, x: np.ndarray, target: np.ndarray, s: np.ndarray) -> Moments:
        """Returns the moments of some rows, with sample weights s."""
        p = x.shape[1]
        products = np.empty((p + 1, p + 1))
        of_columns = products[:p, :p]
        if s.min(initial=np.inf) == s.max(initial=-np.inf):
            gram(x, out=of_columns)
            of_columns *= s[0]
        else:
            gram(np.sqrt(s)[:, None] * x, out=of_columns)
        sums, with_target = np.stack([s, s * target]) @ x
        products[p, :p] = products[:p, p] = with_target
        products[p, p] = s @ target**2
        return cls(float(s.sum()), np.append(sums, s @ target), products)

    @classmethod
    def of_matrix(cls, x: DataMatrix, target: np.ndarray, s: np.ndarray) -> Moments:
        """Returns the moments of the rows of a matrix that are not on the host, by one pass over them."""
        found = x.products(s, np.column_stack([np.ones(len(s)), target]))
        assert found is not None  # by `can_compress`
        p = len(found)
        products = np.empty((p + 1, p + 1))
        products[:p, :p], sums, with_target = found[:, :p], found[:, p], found[:, p + 1]
        products[p, :p] = products[:p, p] = with_target
        products[p, p] = s @ target**2
        return cls(float(s.sum()), np.append(sums, s @ target), products)

    def __add__(self, other):
        return Moments(*(a + b for a, b in zip(self, other, strict=True)))

    def __sub__(self, other):
        return Moments(*(a - b for a, b in zip(self, other, strict=True)))

    def centred(self, centre: bool) -> tuple[np.ndarray, np.ndarray]:
        """Returns the means, and the mean products about them; about zero unless `centre`."""
        products = self.products / self.weight
        if not centre:
            return np.zeros_like(self.sums), products
        mean = self.sums / self.weight
        products -= np.outer(mean, mean)
        return mean, products

    def squares(self, centre: bool) -> np.ndarray:
        """Returns the mean squares about the means; about zero unless `centre`."""
        squares = self.products.diagonal() / self.weight
        return squares - (self.sums / self.weight) ** 2 if centre else squares


class MomentSums:
    """The moments of some parts of the rows, added up over blocks by threads that end with its context.

    They are ZᵀZ, with rows √s (x − shift, target, 1): one symmetric product of rows that stay in the cache.
    Each piece of a block has a sum of its own, so that the order of additions is always the same.
    """

    def __init__(
        self, target: np.ndarray, s: np.ndarray, parts: list[np.ndarray], num_threads: int
    ):
        is_even = s.min() == s.max()
        self.target, self.parts = target, parts  # masks of rows
        self.unit, self.roots = (float(s[0]), None) if is_even else (1.0, np.sqrt(s))
        self.num_threads, self.num_pieces = num_threads, max(num_threads // len(parts), 1)
        self.totals: list[list[np.ndarray]] = []  # by part and piece
        self.memory = threading.local()  # of rows, and of their products

    def __enter__(self) -> MomentSums:
        self.pool = ThreadPoolExecutor(self.num_threads)
        return self

    def __exit__(self, *error: object) -> None:
        self.pool.shutdown()

    def add(self, rows: slice, x: np.ndarray, shift: np.ndarray) -> None:
        """Adds a block of rows."""
        width, count = x.shape[1] + 2, self.num_pieces
        if not self.totals:
            self.totals = [[np.zeros((width, width)) for _ in range(count)] for _ in self.parts]
            self.num_rows = max(min(_PART // width, len(x)), min(width, -(-len(x) // count)))
        pieces = [
            (total, at)
            for totals, mask in zip(self.totals, self.parts, strict=True)
            for total, at in zip(
                totals, np.array_split(np.flatnonzero(mask[rows]), count), strict=True
            )
        ]
        roots = None if self.roots is None else self.roots[rows, None]

        def add(piece: tuple[np.ndarray, np.ndarray]) -> None:
            total, at = piece
            z, products = self._own_memory(width)
            for begin in range(0, len(at), len(z)):
                some = _as_slice(at[begin : begin + len(z)])
                z_some = z[: len(at) - begin]
                np.subtract(x[some], shift, out=z_some[:, :-2])
                z_some[:, -2], z_some[:, -1] = self.target[rows][some], 1
                if roots is not None:
                    z_some *= roots[some]
                total += np.matmul(z_some.T, z_some, out=products)

        list(self.pool.map(add, pieces))

    def _own_memory(self, width: int) -> tuple[np.ndarray, np.ndarray]:
        """The arrays of this thread."""
        if not hasattr(self.memory, "arrays"):
            rows = np.empty((self.num_rows, width))
            self.memory.arrays = rows, np.empty((width, width))
        return self.memory.arrays

    def moments(self) -> list[Moments]:
        """Returns the moments of each part."""
        return [self._moments_of(sum(totals[1:], totals[0])) for totals in self.totals]

    def _moments_of(self, total: np.ndarray) -> Moments:
        return Moments(
            weight=float(total[-1, -1]) * self.unit,
            sums=total[-1, :-1] * self.unit,
            products=total[:-1, :-1] * self.unit,
        )


def _as_slice(at: np.ndarray) -> slice | np.ndarray:
    """Places that rise by one as a slice, of which no copy is taken."""
    is_run = at[-1] - at[0] == len(at) - 1
    return slice(int(at[0]), int(at[-1]) + 1) if is_run else at
