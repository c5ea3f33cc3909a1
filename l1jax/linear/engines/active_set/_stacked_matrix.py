"""The columns of a problem of K linear predictors on n·K rows, of which only X (n, p) is kept.

Column j·K + k is that of feature j in the rows of predictor k, and zero in the others; the columns after
those are ones, in the rows of a predictor each. The curvature of a row, (K, K), is diag(a) − bbᵀ.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import numpy as np

from ...._threads import gram
from ...data._host import ONES, DenseColumns, HostColumns
from ...data._matrix import DataMatrix
from ._curvature_gram import LazyRows
from ._protocols import SymmetricMatrix


class StackedMatrix(DataMatrix):
    """The columns of all coefficients."""

    x: DataMatrix
    k: int = eqx.field(static=True)
    free: int = eqx.field(static=True)  # columns of intercepts

    @property
    def shape(self) -> tuple[int, int]:
        n, p = self.x.shape
        return n * self.k, p * self.k + self.free

    @property
    def dtype(self) -> Any:
        return self.x.dtype

    def dot(self, b: Any) -> Any:
        return self.to_host().part_of(np.arange(self.shape[1])).dot(b)

    def rdot(self, r: Any) -> Any:
        return self.to_host().part_of(np.arange(self.shape[1])).rdot(r)

    def columns(self, at: Any) -> Any:
        return self.to_host().part_of(np.asarray(at)).dense()

    def to_host(self) -> Any:
        return _StackedColumns(self.x, self.k, self.free)


class _StackedColumns:
    """`HostMatrix` of a `StackedMatrix`: a copy of a column of it is its number."""

    def __init__(self, x: DataMatrix, k: int, free: int):
        self.x: Any = x.to_host()
        self.shape, self.k, self.free = x.shape, k, free
        self.added = np.zeros(0, int)

    def add(self, new: np.ndarray) -> None:
        self.added = np.append(self.added, new)

    def part(self, places: np.ndarray) -> StackedPart:
        return self.part_of(self.added[places])

    def part_of(self, at: np.ndarray) -> StackedPart:
        """Returns columns by their numbers, of which only the features' own are taken from X."""
        of_feature, predictor = np.divmod(at, self.k)
        features, feature = np.unique(of_feature, return_inverse=True)
        of_intercept = features == self.shape[1]
        x = self.x.part_of(np.where(of_intercept, ONES, features))
        return StackedPart(x, self.shape[0], self.k, feature, predictor, of_intercept[feature])

    def rdot(self, residuals: np.ndarray, out: np.ndarray) -> None:
        (n, p), k, count = self.shape, self.k, residuals.shape[1]
        rows = residuals.reshape(n, k * count)
        products = np.empty((k * count, p))
        self.x.rdot(rows, products)
        out[:, : p * k] = products.reshape(k, count, p).transpose(1, 2, 0).reshape(count, p * k)
        out[:, p * k :] = rows.sum(axis=0).reshape(k, count)[: self.free].T


class StackedPart:
    """`HostColumns`: some of the columns, as the features that they are of, and their predictors."""

    def __init__(
        self,
        x: HostColumns,
        n: int,
        k: int,
        feature: np.ndarray,
        predictor: np.ndarray,
        is_intercept: np.ndarray,
    ):
        """`x`: the columns of the features (n, f); what each column is of, and whether of ones, (m,)."""
        self.x, self.k, self.feature, self.predictor = x, k, feature, predictor
        self.is_intercept = is_intercept
        self.num_features = int(feature.max(initial=-1)) + 1
        self.shape = (n * k, len(feature))

    def columns(self) -> np.ndarray:
        """Returns each column in the rows of its predictor, (n, m)."""
        return self.x.dense()[:, self.feature]

    def of_predictors(self) -> list[np.ndarray]:
        """Returns the places of the columns of each predictor."""
        return [np.flatnonzero(self.predictor == k) for k in range(self.k)]

    def dense(self) -> np.ndarray:
        out = np.zeros((self.shape[0] // self.k, self.k, self.shape[1]))
        out[:, self.predictor, np.arange(self.shape[1])] = self.columns()
        return out.reshape(self.shape)

    def dot(self, values: np.ndarray) -> np.ndarray:
        more = values.shape[1:]
        coefs = np.zeros((self.num_features, self.k, *more))
        coefs[self.feature, self.predictor] = values
        return self.x.dot(coefs.reshape(len(coefs), -1)).reshape(self.shape[0], *more)

    def rdot(self, residual: np.ndarray) -> np.ndarray:
        more = residual.shape[1:]
        products = self.x.rdot(residual.reshape(self.shape[0] // self.k, -1))
        return products.reshape(-1, self.k, *more)[self.feature, self.predictor]

    def gram(self, weights: np.ndarray) -> np.ndarray:
        return self.curvature_matrix(weights.reshape(-1, self.k), None)

    def gram_rows(self, weights: np.ndarray) -> SymmetricMatrix:
        """Returns the same, by the rows that are read where the rows of X are here."""
        return self.curvature_rows(weights.reshape(-1, self.k), None)

    def gram_columns(self, weights: np.ndarray, places: np.ndarray) -> np.ndarray:
        return self.gram(weights)[:, places]

    def gram_diagonal(self, weights: np.ndarray) -> np.ndarray:
        return self.gram(weights).diagonal()

    def curvature_gram(self, hvp: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        return self.rdot(hvp(self.dense()))

    def curvature_matrix(self, a: np.ndarray, b: np.ndarray | None) -> np.ndarray:
        """Returns Xᵀ C X (m, m) with the curvatures C = diag(a) − bbᵀ of the rows, a and b (n, K) or None."""
        if not isinstance(self.x, DenseColumns):
            return self._curvature_blocks(a, b)
        x = self.columns()
        out = np.zeros((x.shape[1],) * 2) if b is None else -gram(b[:, self.predictor] * x)
        for k, at in enumerate(self.of_predictors()):
            some = x[:, at]
            out[np.ix_(at, at)] += (a[:, k, None] * some).T @ some
        return out

    def _curvature_blocks(self, a: np.ndarray, b: np.ndarray | None) -> np.ndarray:
        """Returns the same by a Gram matrix of the features for each two predictors."""
        out, places = np.zeros((len(self.feature),) * 2), self.of_predictors()
        for k, at in enumerate(places):
            for other in (k,) if b is None else range(k + 1):  # without b the other blocks are zero
                beside = places[other]
                weights = a[:, k] * (k == other) - (0 if b is None else b[:, k] * b[:, other])
                block = self.x.gram(weights)[np.ix_(self.feature[at], self.feature[beside])]
                out[np.ix_(at, beside)], out[np.ix_(beside, at)] = block, block.T
        return out

    def curvature_rows(self, a: np.ndarray, b: np.ndarray | None) -> SymmetricMatrix:
        """Returns the same, by the rows that are read where the rows of X are here."""
        is_here = isinstance(self.x, DenseColumns)
        return CurvatureRows(self, a, b) if is_here else self._curvature_blocks(a, b)


class CurvatureRows(LazyRows):
    """The matrix XᵀCX of `StackedPart.curvature_matrix`, to read."""

    def __init__(self, part: StackedPart, a: np.ndarray, b: np.ndarray | None):
        super().__init__(len(part.predictor))
        self.a, self.predictor = a, part.predictor
        self.places, self.x = part.of_predictors(), part.columns()
        self.scaled = None if b is None else b[:, part.predictor] * self.x
        squares = part.x.dense().T ** 2 @ (a if b is None else a - b**2)
        self._diagonal = squares[part.feature, part.predictor]

    def diagonal(self) -> np.ndarray:
        return self._diagonal

    def _compute(self, missing: np.ndarray) -> None:
        out = np.zeros((len(missing), len(self.predictor)))
        if self.scaled is not None:
            out -= self.scaled[:, missing].T @ self.scaled
        for k, at in enumerate(self.places):
            mine = np.flatnonzero(self.predictor[missing] == k)
            if len(mine):
                weighted = self.a[:, k, None] * self.x[:, missing[mine]]
                out[np.ix_(mine, at)] += weighted.T @ self.x[:, at]
        self._rows[missing], self._is_known[missing] = out, True
