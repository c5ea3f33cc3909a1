"""Tall least squares by its Gram matrix, without its rows.

Least squares depends on the rows only through their moments: the means and the mean products of
columns and target. A problem of p + 1 rows with the same moments has the same solutions, objectives
and gaps, so that the rows are needed for one symmetric product only.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np
import scipy  # which loads `linalg` when it is used
from jax.core import Tracer

from ...._threads import num_cores
from ....losses import Loss
from ....penalties import Penalty
from ...data._matrix import DataMatrix, DenseMatrix
from ...data._row_blocks import blocks_of, densely
from ...host._columns import GramColumns
from ...model._null_model import with_null
from ...model._problem import Data, Problem, ScaledData
from ._group_weights import has_group_weights
from ._moments import Moments, MomentSums
from ._penalty_weights import has_penalty_weights
from ._working_set import supports

_FRACTION = 1 / 8  # of the memory budget that products of threads may have
_TALL = 2  # rows per column, from which on the rows are replaced
_MANY_COLUMNS = 2000  # a Gram matrix of 32 MB
_MIN_VARIANCE = 1e-3  # fraction of a mean square: with less, centring costs too many digits
_MIN_REMAINDER = 1e-6  # fraction of a column's variance: with less, a difference has too few
_CONSTANT = 100  # units of rounding by which a constant column may vary
_MIN_PIVOT = 1e-5  # for a factor without pivoting


class KnownGram(GramColumns):
    """All columns of a problem without rows: `products` (p + 1, p + 1) hold their Gram matrix."""

    def __init__(self, problem: Problem, products: np.ndarray, centre: float):
        del problem
        p = len(products) - 1
        self.matrix = None  # there are no rows
        self.gram, self.linear = products[:p, :p], products[:p, p]
        self.place, self.count, self.known, self.centre = np.arange(p), p, p, centre


class TallRows:
    """The rows of tall least squares, shifted to where their moments keep their digits."""

    is_streamed = False

    def __init__(self, data: Data):
        weights, y, offset = (
            np.asarray(v, np.float64) for v in (data.weights, data.y, data.offset)
        )
        self.fit_intercept, self.standardize = data.fit_intercept, data.standardize
        self.s = weights / weights.sum()
        self.level = float(self.s @ (y - offset)) if data.fit_intercept else 0.0
        self.target = y - offset - self.level
        self.shift = np.zeros(data.x.shape[1])

    def moments_of(self, parts: list[np.ndarray]) -> list[Moments]:
        """Returns the moments of the rows of each mask (n,)."""
        raise NotImplementedError

    def move_to_means(self, total: Moments) -> bool:
        """Shifts the rows to their means if centring would cost too many digits; returns whether it did."""
        mean = total.sums / total.weight if self.fit_intercept else np.zeros_like(total.sums)
        variance = total.squares(self.fit_intercept)[:-1]
        if (variance >= _MIN_VARIANCE * (variance + mean[:-1] ** 2)).all():
            return False
        self._shift_by(mean[:-1])
        return True

    def _shift_by(self, change: np.ndarray) -> None:
        self.shift = self.shift + change

    def compressed(self, moments: Moments, total: Moments) -> Compressed | None:
        """Returns p + 1 rows of these moments; None where rounding is too large a part of them.

        `total`: the moments of all rows.
        """
        before = total.squares(self.fit_intercept)
        mean, products = moments.centred(self.fit_intercept)
        after = products.diagonal()
        if not np.isfinite(products).all():
            return None
        rounding = 0.0
        if self.fit_intercept:  # a constant column leaves the problem
            rounding = (_CONSTANT * np.finfo(np.float64).eps) ** 2 * (before[:-1] + self.shift**2)
        varies = np.append(before[:-1] > rounding, True)
        if (after < _MIN_REMAINDER * before)[varies].any():
            return None
        scale = np.where(varies, 1.0, 0.0)
        if self.standardize:
            scale[:-1] /= np.sqrt(np.where(varies, after, 1))[:-1]
        if (scale != 1).any():
            products *= scale[:, None]
            products *= scale
        return Compressed(
            products=products,
            root=_root(products),
            mean=self.shift + mean[:-1],
            inverse_scale=np.where(varies, scale, 1)[:-1],
            level=self.level + float(mean[-1]),
            is_needed=self.is_streamed,
        )


class ArrayRows(TallRows):
    """The rows of an array."""

    def __init__(self, data: Data):
        super().__init__(data)
        self.x = np.asarray(data.x.as_array(), np.float64)

    def moments_of(self, parts: list[np.ndarray]) -> list[Moments]:
        def of(mask: np.ndarray) -> Moments:
            rows = slice(None) if mask.all() else mask
            return Moments.of(self.x[rows], self.target[rows], self.s[rows])

        return [of(mask) for mask in parts]

    def _shift_by(self, change: np.ndarray) -> None:
        super()._shift_by(change)
        self.x = self.x - change


class DistributedRows(TallRows):
    """Rows on many devices: the moments of each part take one pass."""

    def __init__(self, data: Data):
        super().__init__(data)
        self.x: Any = data.x.in_numpy()  # all is known, by `can_compress`

    def moments_of(self, parts: list[np.ndarray]) -> list[Moments]:
        return [Moments.of_matrix(self.x, self.target, np.where(part, self.s, 0)) for part in parts]

    def _shift_by(self, change: np.ndarray) -> None:
        super()._shift_by(change)
        self.x = self.x.transform(change, np.ones_like(change))


class StreamedRows(TallRows):
    """Rows that are read in blocks: the moments of any number of parts take one pass."""

    is_streamed = True

    def __init__(self, data: Data):
        super().__init__(data)
        x = blocks_of(data.x)
        assert x is not None  # by `_rows_of`
        self.x, self.is_shifted = x, not self.fit_intercept

    def moments_of(self, parts: list[np.ndarray]) -> list[Moments]:
        room = int(self.x.max_memory * _FRACTION) // (16 * (self.x.shape[1] + 2) ** 2)
        num_threads = max(min(num_cores(), room), 1)
        with MomentSums(self.target, self.s, parts, num_threads) as sums:
            for rows, block in self.x.read():
                x = densely(block)
                if not self.is_shifted:  # a value of the data is near enough to the means, mostly
                    self.shift, self.is_shifted = x.mean(axis=0), True
                sums.add(rows, x, self.shift)
        return sums.moments()


def tall_rows(data: Data) -> TallRows:
    """Returns the rows of tall least squares, of data for which `can_compress`."""
    kind = _rows_of(data.x)
    assert kind is not None
    return kind(data)


def _rows_of(x: DataMatrix) -> type[TallRows] | None:
    """Returns how the moments of a matrix are found, by where its rows are; None where its products are all."""
    if blocks_of(x) is not None:
        return StreamedRows
    if x.is_distributed:
        return DistributedRows
    return None if x.as_array() is None else ArrayRows


class Compressed(NamedTuple):
    """p + 1 rows that have the moments of many others, as many as columns and target."""

    products: np.ndarray  # (p + 1, p + 1): mean products, centred and scaled
    root: np.ndarray  # (p + 1, p + 1): rootᵀ root = products
    mean: np.ndarray
    inverse_scale: np.ndarray  # of the user's columns
    level: float  # what was subtracted from y
    is_needed: bool  # whether to read the rows again would cost too much

    def problem(self, pen: Penalty, loss: Loss) -> tuple[Problem, KnownGram | None] | None:
        """Returns the problem of these rows, and its columns; None where the engine does not serve it.

        Where these rows are needed, any engine is better than all rows: then the columns are None.
        """
        m = len(self.root)
        columns = np.sqrt(m) * self.root[:, :-1]
        data = ScaledData(
            x=DenseMatrix(columns),
            y=np.sqrt(m) * self.root[:, -1],
            s=np.full(m, 1 / m),
            offset=np.zeros(m),
            loss=loss,
            mean=self.mean,
            inverse_scale=self.inverse_scale,
            level=np.asarray(self.level),
            norms=np.sqrt(self.products.diagonal()[:-1]),
            is_valid=np.ones((), bool),
            fit_intercept=False,
        )
        problem = with_null(data, pen)
        if _has_weights(pen, problem.norms.shape) and supports(problem, pen):
            return problem, KnownGram(problem, self.products, 0.0)
        return (problem, None) if self.is_needed else None


def compress(data: Data, pen: Penalty) -> tuple[Problem, KnownGram | None] | None:
    """Returns the problem of these data without their rows; None where the rows are needed."""
    if not can_compress(data, pen):
        return None
    rows, every = tall_rows(data), np.ones(data.x.shape[0], bool)
    (moments,) = rows.moments_of([every])
    if rows.move_to_means(moments):
        (moments,) = rows.moments_of([every])
    compressed = rows.compressed(moments, moments)
    return compressed and compressed.problem(pen, data.loss)


def can_compress(data: Data, pen: Penalty, num_parts: int = 1) -> bool:
    """Returns whether the moments, of so many parts, are all that matters, and cheaper than the rows."""
    n, p = data.x.shape
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((data, pen))):
        return False
    if data.standardize and not data.fit_intercept:
        return False
    dense = data.x.dtype == np.float64 and _rows_of(data.x) is not None
    tall = n >= _TALL * (p + 1) and p <= _MANY_COLUMNS
    tall &= data.x.has_room_for(num_parts * 8 * (p + 1) ** 2)
    one = data.loss.is_quadratic and data.y.ndim == 1
    return dense and tall and one and (blocks_of(data.x) is not None or _has_weights(pen, (p,)))


def _has_weights(pen: Penalty, shape: tuple[int, ...]) -> bool:
    return has_penalty_weights(pen, shape) or has_group_weights(pen, shape)


def _root(products: np.ndarray) -> np.ndarray:
    """Returns R with RᵀR = products, which may be singular, whatever the scales of the columns."""
    scale = np.sqrt(np.maximum(products.diagonal(), 0))
    factor, failed = scipy.linalg.lapack.dpotrf(
        products.T, lower=1
    )  # its errors are relative to the scales
    if not failed and (factor.diagonal() > _MIN_PIVOT * scale).all():  # three times as fast
        return factor.T
    scale = np.where(scale > 0, scale, 1)
    factor, order, rank, _ = scipy.linalg.lapack.dpstrf(products / np.outer(scale, scale))
    root = np.zeros_like(products)
    root[:rank, order - 1] = np.triu(factor)[:rank]
    return root * scale
