"""Data matrices on the host, in NumPy and float64, for engines that work on some columns at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import numpy as np
from jaxtyping import Array

from ..._threads import gram, matmul

ONES = -1  # in place of the index of a column: one of ones


@runtime_checkable
class HostColumns(Protocol):
    """Some columns X_A (n, m) of a matrix on the host."""

    def dense(self) -> np.ndarray:
        """The array (n, m)."""
        ...

    def dot(self, values: np.ndarray) -> np.ndarray:
        """X_A B, for B (m,) or (m, k)."""
        ...

    def rdot(self, residual: np.ndarray) -> np.ndarray:
        """X_Aᵀ r, for r (n,)."""
        ...

    def gram(self, weights: np.ndarray) -> np.ndarray:
        """X_Aᵀ diag(weights) X_A."""
        ...

    def gram_columns(self, weights: np.ndarray, places: np.ndarray) -> np.ndarray:
        """The columns of `gram` at these places, (m, len(places))."""
        ...

    def gram_diagonal(self, weights: np.ndarray) -> np.ndarray:
        """The diagonal of `gram`, (m,)."""
        ...

    def curvature_gram(self, hvp: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """X_Aᵀ H X_A, by products of the matrix H (n, n) with some columns (n, m)."""
        ...


@runtime_checkable
class HostMatrix(Protocol):
    """A matrix on the host. Columns that an engine asks for are added once, and stay."""

    def add(self, new: np.ndarray) -> None:
        """Adds the columns with these indices."""
        ...

    def part(self, places: np.ndarray) -> HostColumns:
        """The added columns at these places, in the order in which they were added."""
        ...

    def part_of(self, at: np.ndarray) -> HostColumns:
        """The columns with these indices, added or not; of dense ones, `ONES` is a column of ones."""
        ...

    def linear(self, fresh: slice, s: np.ndarray, target: np.ndarray) -> np.ndarray:
        """X_Fᵀ(s∘target) of the added columns F at the places `fresh`."""
        ...

    def gram(self, fresh: slice, s: np.ndarray) -> np.ndarray:
        """X_Aᵀ diag(s) X_F of the columns F at the places `fresh` and all columns A up to these."""
        ...

    def rdot(self, residuals: np.ndarray, out: np.ndarray) -> None:
        """Writes XᵀR of residuals R (n, B) into `out` (B, p)."""
        ...

    def rows_dot(self, rows: np.ndarray, at: np.ndarray, values: np.ndarray) -> np.ndarray:
        """X[rows, at] B, for B (m, k): what coefficients of the columns `at` predict for some rows."""
        ...


class DenseColumns:
    """Some columns as an array of their own."""

    def __init__(self, x: np.ndarray):
        self.x = x

    def dense(self) -> np.ndarray:
        return self.x

    def dot(self, values: np.ndarray) -> np.ndarray:
        return self.x @ values

    def rdot(self, residual: np.ndarray) -> np.ndarray:
        return self.x.T @ residual

    def gram(self, weights: np.ndarray) -> np.ndarray:
        if weights.min(initial=0) < 0:
            return matmul(self.x.T, weights[:, None] * self.x)
        return gram(np.sqrt(weights)[:, None] * self.x)

    def gram_columns(self, weights: np.ndarray, places: np.ndarray) -> np.ndarray:
        return matmul(self.x.T, weights[:, None] * self.x[:, places])

    def gram_diagonal(self, weights: np.ndarray) -> np.ndarray:
        return np.einsum("ij,ij->j", weights[:, None] * self.x, self.x)

    def curvature_gram(self, hvp: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        return self.x.T @ hvp(self.x)


class CopiedColumns:
    """Copies of the columns that were added, (n, count), one after the other."""

    def __init__(self, n: int, p: int):
        self.cache = np.empty((n, 0), order="F")
        self.count, self.p = 0, p

    def _columns(self, at: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def add(self, new: np.ndarray) -> None:
        old, self.count = self.count, self.count + len(new)
        if self.count > self.cache.shape[1]:
            room = min(max(self.count, 2 * self.cache.shape[1]), self.p)
            self.cache = grown(self.cache, (self.cache.shape[0], room))
        self.cache[:, old : self.count] = self._columns(new)

    def part(self, places: np.ndarray) -> HostColumns:
        if len(places) == self.count and (places == np.arange(self.count)).all():
            return DenseColumns(
                self.cache[:, : self.count]
            )  # a view: 5000 × 500 take 50 ms to copy
        return DenseColumns(self.cache[:, places])

    def part_of(self, at: np.ndarray) -> HostColumns:
        columns = self._columns(np.maximum(at, 0)).astype(np.float64, copy=False)
        columns[:, at == ONES] = 1
        return DenseColumns(columns)

    def linear(self, fresh: slice, s: np.ndarray, target: np.ndarray) -> np.ndarray:
        return self.cache[:, fresh].T @ (s * target.T).T

    def gram(self, fresh: slice, s: np.ndarray) -> np.ndarray:
        some, new = self.cache[:, : fresh.stop], self.cache[:, fresh]
        if s.min() == s.max():
            scale = s[0]
        else:
            root, scale = np.sqrt(s)[:, None], 1.0
            some, new = root * some, root * new
        return scale * (gram(new) if fresh.start == 0 else matmul(some.T, new))


class HostArray(CopiedColumns):
    """A dense matrix: an array of NumPy."""

    def __init__(self, x: np.ndarray):
        super().__init__(*x.shape)
        self.x = x

    def _columns(self, at: np.ndarray) -> np.ndarray:
        return self.x[:, at]

    def add(self, new: np.ndarray) -> None:
        is_every = len(new) == self.p and (new == np.arange(len(new))).all()
        if is_every and self.x.dtype == self.cache.dtype:
            self.cache, self.count = self.x, self.p  # all, in their order: no copy is needed
            return
        super().add(new)

    def rdot(self, residuals: np.ndarray, out: np.ndarray) -> None:
        rows = residuals.astype(self.x.dtype).T  # twice as fast as Xᵀ times a few columns
        if out.dtype == self.x.dtype:
            matmul(rows, self.x, out=out)
        else:
            out[:] = matmul(rows, self.x)

    def rows_dot(self, rows: np.ndarray, at: np.ndarray, values: np.ndarray) -> np.ndarray:
        some = self.x[rows]
        return (some if len(at) == self.p else some[:, at]) @ values


@runtime_checkable
class Operator(Protocol):
    """What `HostOperator` asks of a `DataMatrix`."""

    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def dtype(self) -> Any: ...
    def dot(self, b: Any) -> Array: ...
    def rdot(self, r: Any) -> Array: ...
    def padded_columns(self, at: Any) -> Array: ...


class HostOperator(CopiedColumns):
    """A matrix that only multiplies, and computes some columns at a time."""

    def __init__(self, x: Operator):
        super().__init__(*x.shape)
        self.x = x

    def _columns(self, at: np.ndarray) -> np.ndarray:
        room = 1 << max(len(at) - 1, 0).bit_length()  # few sizes, for few compilations
        padded = np.full(room, self.p, np.int32)
        padded[: len(at)] = at
        return np.array(_columns(self.x, padded)[:, : len(at)], np.float64)

    def rdot(self, residuals: np.ndarray, out: np.ndarray) -> None:
        out[:] = np.asarray(_rdot(self.x, residuals.astype(self.x.dtype))).T

    def rows_dot(self, rows: np.ndarray, at: np.ndarray, values: np.ndarray) -> np.ndarray:
        coefs = np.zeros((self.p, values.shape[1]), self.x.dtype)
        coefs[at] = values
        return np.asarray(_dot(self.x, coefs))[rows]


@eqx.filter_jit
def _columns(x: Operator, at: Any) -> Array:
    return x.padded_columns(at)


@eqx.filter_jit
def _rdot(x: Operator, residuals: Any) -> Array:
    return x.rdot(residuals)


@eqx.filter_jit
def _dot(x: Operator, coefs: Any) -> Array:
    return x.dot(coefs)


def grown(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The same entries in a larger array, whose others are not set."""
    new = np.empty(shape, array.dtype, order="F")
    new[tuple(slice(0, size) for size in array.shape)] = array
    return new
