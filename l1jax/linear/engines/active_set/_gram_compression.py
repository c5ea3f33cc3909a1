"""Tall least squares without its rows.

Least squares sees the rows only through their moments: the means and the mean products of columns
and target. A problem of p + 1 rows with the same moments has the same solutions, objectives and
gaps, so that one symmetric product is all that the rows are needed for.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from scipy.linalg import get_lapack_funcs

from ...._threads import gram
from ....losses import Loss
from ....penalties import Penalty
from ...data._matrix import DenseMatrix
from ...host._columns import GramColumns
from ...model._null_model import with_null
from ...model._problem import Data, Problem, ScaledData
from ._working_set import has_group_weights, has_penalty_weights, supports

_TALL = 2  # rows per column, from where on
_MANY_COLUMNS = 2000  # a Gram matrix of 32 MB
_KEPT = 1e-3  # of a column's mean square: with less about its mean, centring costs too many digits
_KEPT_OF_A_PART = 1e-6  # of a column's variance: with less, a difference has lost too many
_CONSTANT = 100  # units of rounding that a constant column may vary by
_SAFE = 1e-5  # the least pivot for a factor without exchanges
_potrf, _pstrf = get_lapack_funcs(("potrf", "pstrf"), dtype=np.float64)


class Moments(NamedTuple):
    """Sums over some rows, weighted: of 1, of the columns with the target last, of their products."""

    weight: float
    sums: np.ndarray  # (p + 1,)
    products: np.ndarray  # (p + 1, p + 1)

    @classmethod
    def of(cls, x: np.ndarray, target: np.ndarray, s: np.ndarray) -> Moments:
        """Those of some rows, with their weights."""
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

    def __add__(self, other):
        return Moments(*(a + b for a, b in zip(self, other, strict=True)))

    def __sub__(self, other):
        return Moments(*(a - b for a, b in zip(self, other, strict=True)))

    def centred(self, centre: bool) -> tuple[np.ndarray, np.ndarray]:
        """Means, and mean products about them; about zero unless `centre`."""
        products = self.products / self.weight
        if not centre:
            return np.zeros_like(self.sums), products
        mean = self.sums / self.weight
        products -= np.outer(mean, mean)
        return mean, products

    def squares(self, centre: bool) -> np.ndarray:
        """Mean squares about the means; about zero unless `centre`."""
        squares = self.products.diagonal() / self.weight
        return squares - (self.sums / self.weight) ** 2 if centre else squares


class KnownGram(GramColumns):
    """All columns, whose Gram matrix is known beforehand."""

    def __init__(self, problem: Problem, products: np.ndarray, centre: float):
        del problem
        p = len(products) - 1
        self.matrix = None  # of rows that are not needed
        self.gram, self.linear = products[:p, :p], products[:p, p]
        self.place, self.count, self.known, self.centre = np.arange(p), p, p, centre


class TallRows:
    """The rows of tall least squares, about a point at which their moments keep their digits."""

    def __init__(self, data: Data):
        weights, y, offset = (
            np.asarray(v, np.float64) for v in (data.weights, data.y, data.offset)
        )
        self.fit_intercept, self.standardize = data.fit_intercept, data.standardize
        self.x = np.asarray(data.x.as_array(), np.float64)
        self.s = weights / weights.sum()
        self.level = float(self.s @ (y - offset)) if data.fit_intercept else 0.0
        self.target = y - offset - self.level
        self.shift = np.zeros(self.x.shape[1])

    def moments(self, rows: Any) -> Moments:
        return Moments.of(self.x[rows], self.target[rows], self.s[rows])

    def move_to_means(self, whole: Moments) -> bool:
        """Moves the rows there if centring would cost too many digits; says whether it did."""
        mean = whole.sums / whole.weight if self.fit_intercept else np.zeros_like(whole.sums)
        variance = whole.squares(self.fit_intercept)[:-1]
        if (variance >= _KEPT * (variance + mean[:-1] ** 2)).all():
            return False
        self.shift, self.x = self.shift + mean[:-1], self.x - mean[:-1]
        return True

    def compressed(self, moments: Moments, whole: Moments) -> Compressed | None:
        """The rows with these moments, of all; None where rounding is too much of them."""
        before = whole.squares(self.fit_intercept)
        mean, products = moments.centred(self.fit_intercept)
        after = products.diagonal()
        if not np.isfinite(products).all():
            return None
        rounding = 0.0
        if self.fit_intercept:  # a constant column leaves the problem
            rounding = (_CONSTANT * np.finfo(np.float64).eps) ** 2 * (before[:-1] + self.shift**2)
        alive = np.append(before[:-1] > rounding, True)
        if (after < _KEPT_OF_A_PART * before)[alive].any():
            return None
        scale = np.where(alive, 1.0, 0.0)
        if self.standardize:
            scale[:-1] /= np.sqrt(np.where(alive, after, 1))[:-1]
        if (scale != 1).any():
            products *= scale[:, None]
            products *= scale
        return Compressed(
            products=products,
            root=_root(products),
            mean=self.shift + mean[:-1],
            inverse_scale=np.where(alive, scale, 1)[:-1],
            level=self.level + float(mean[-1]),
        )


class Compressed(NamedTuple):
    """Rows that have the moments of many others: no more of them than columns, the target among these."""

    products: np.ndarray  # (p + 1, p + 1): mean products, centred and scaled
    root: np.ndarray  # (p + 1, p + 1), its transpose times itself: the products
    mean: np.ndarray
    inverse_scale: np.ndarray  # how the columns came from the user's
    level: float  # what was taken off y

    def problem(self, pen: Penalty, loss: Loss) -> tuple[Problem, KnownGram] | None:
        """The problem of these rows; None where there is nothing to walk for."""
        m = len(self.root)
        columns = np.sqrt(m) * self.root[:, :-1]
        data = ScaledData(
            x=DenseMatrix(jax.device_put(columns)),
            y=jnp.asarray(np.sqrt(m) * self.root[:, -1]),
            s=jnp.full(m, 1 / m),
            offset=jnp.zeros(m),
            loss=loss,
            mean=jnp.asarray(self.mean),
            inverse_scale=jnp.asarray(self.inverse_scale),
            level=jnp.asarray(self.level),
            norms=jnp.asarray(np.sqrt(self.products.diagonal()[:-1])),
            is_valid=jnp.ones((), bool),
            fit_intercept=False,
        )
        problem = _with_null(data, pen)
        return (problem, KnownGram(problem, self.products, 0.0)) if supports(problem, pen) else None


def compress(data: Data, pen: Penalty) -> tuple[Problem, KnownGram] | None:
    """The problem of these data without their rows, for the walk; None where it needs the rows."""
    if not can_compress(data, pen):
        return None
    rows = TallRows(data)
    moments = rows.moments(slice(None))
    if rows.move_to_means(moments):
        moments = rows.moments(slice(None))
    few = rows.compressed(moments, moments)
    return few and few.problem(pen, data.loss)


def can_compress(data: Data, pen: Penalty) -> bool:
    """Whether all that matters are moments, and whether they are cheaper than the rows."""
    n, p = data.x.shape
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((data, pen))):
        return False
    if data.standardize and not data.fit_intercept:
        return False
    dense = data.x.as_array() is not None and data.x.dtype == np.float64
    tall = n >= _TALL * (p + 1) and p <= _MANY_COLUMNS
    one = data.loss.is_quadratic and data.y.ndim == 1
    return (
        dense and tall and one and (has_penalty_weights(pen, (p,)) or has_group_weights(pen, (p,)))
    )


def _root(products: np.ndarray) -> np.ndarray:
    """R with RᵀR = products, which may be singular; the size of a column does not matter."""
    size = np.sqrt(np.maximum(products.diagonal(), 0))
    factor, failed = _potrf(products.T, lower=1)  # whatever the sizes, it errs by shares of them
    if not failed and (factor.diagonal() > _SAFE * size).all():  # three times as fast
        return factor.T
    size = np.where(size > 0, size, 1)
    factor, order, rank, _ = _pstrf(products / np.outer(size, size))
    root = np.zeros_like(products)
    root[:rank, order - 1] = np.triu(factor)[:rank]
    return root * size


_with_null = eqx.filter_jit(with_null)
