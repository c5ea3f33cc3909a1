"""Tall least squares without its rows.

Least squares sees the rows only through their moments: the means and the mean products of columns
and target. A problem of p + 1 rows with the same moments has the same solutions, objectives and
gaps, so that one symmetric product is all that the rows are needed for.
"""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from scipy.linalg import get_lapack_funcs

from ..losses import Loss
from ..penalties import Penalty
from ._columns import GramColumns
from ._matrix import DenseMatrix
from ._problem import Data, Point, Problem, with_null
from ._working_set import can_walk, has_group_prices, has_prices

_TALL = 2  # rows per column, from where on
_MANY_COLUMNS = 2000  # a Gram matrix of 32 MB
_KEPT = 1e-3  # of a column's mean square: with less about its mean, centring costs too many digits
(_pstrf,) = get_lapack_funcs(("pstrf",), dtype=np.float64)


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
        # NumPy takes a matrix times itself at half the price, where it sees that it is one.
        if s.min(initial=np.inf) == s.max(initial=-np.inf):
            products[:p, :p] = s[0] * (x.T @ x)
        else:
            root = np.sqrt(s)[:, None] * x
            products[:p, :p] = root.T @ root
        sums, with_target = (x.T @ np.stack([s, s * target], axis=1)).T
        products[p, :p] = products[:p, p] = with_target
        products[p, p] = s @ target**2
        return cls(float(s.sum()), np.append(sums, s @ target), products)

    def __add__(self, other):
        return Moments(*(a + b for a, b in zip(self, other, strict=True)))

    def __sub__(self, other):
        return Moments(*(a - b for a, b in zip(self, other, strict=True)))

    def centred(self, centre: bool) -> tuple[np.ndarray, np.ndarray]:
        """Means, and mean products about them; about zero unless `centre`."""
        mean = self.sums / self.weight if centre else np.zeros_like(self.sums)
        return mean, self.products / self.weight - np.outer(mean, mean)


class KnownGram(GramColumns):
    """All columns, whose Gram matrix is known beforehand."""

    def __init__(self, problem: Problem, products: np.ndarray, centre: float):
        del problem
        p = len(products) - 1
        self.matrix = None  # of rows that are not needed
        self.gram, self.linear = products[:p, :p], products[:p, p]
        self.place, self.count, self.centre = np.arange(p), p, centre


def compress(data: Data, pen: Penalty) -> tuple[Problem, KnownGram] | None:
    """The problem of these data without their rows, for the walk; None where it needs the rows."""
    fit_intercept, standardize = data.fit_intercept, data.standardize
    if not _is_tall_least_squares(data, pen) or (standardize and not fit_intercept):
        return None
    x, y, weights, offset = (
        np.asarray(v) for v in (data.x.array, data.y, data.weights, data.offset)
    )
    s = weights / weights.sum()
    level = float(s @ (y - offset)) if fit_intercept else 0.0
    moments = Moments.of(x, y - offset - level, s)
    mean, products = moments.centred(fit_intercept)
    square = moments.products.diagonal() / moments.weight
    if (products.diagonal() < _KEPT * square)[:-1].any() or not np.isfinite(products).all():
        return None
    alive = np.append(square[:-1] > 0, True)
    scale = np.where(alive, 1.0, 0.0)
    if standardize:
        scale[:-1] /= np.sqrt(np.where(alive, products.diagonal(), 1))[:-1]
    products = products * np.outer(scale, scale)
    level += float(mean[-1])
    return problem_of(products, pen, data.loss, mean[:-1], scale[:-1], level)


def problem_of(
    products: np.ndarray,
    pen: Penalty,
    loss: Loss,
    mean: np.ndarray,
    inverse_scale: np.ndarray,
    level: float,
) -> tuple[Problem, KnownGram] | None:
    """The problem of p + 1 rows with these mean products; None where there is nothing to walk for.

    `mean` and `inverse_scale` say how its columns came from the user's, `level` what was taken off y.
    """
    rows = _root(products)
    m = len(rows)
    rows *= np.sqrt(m)
    zero = Point(jnp.zeros(m - 1), jnp.zeros(()))
    problem = Problem(
        x=DenseMatrix(jnp.asarray(rows[:, :-1])),
        y=jnp.asarray(rows[:, -1]),
        s=jnp.full(m, 1 / m),
        offset=jnp.zeros(m),
        loss=loss,
        mean=jnp.asarray(mean),
        inverse_scale=jnp.asarray(inverse_scale),
        level=jnp.asarray(level),
        norms=jnp.asarray(np.sqrt(products.diagonal()[:-1])),
        smoothness=jnp.ones(()),
        null=zero,
        null_gradient=zero.beta,
        null_deviance=jnp.ones(()),
        is_trivial=jnp.zeros((), bool),
        is_valid=jnp.ones((), bool),
        fit_intercept=False,
    )
    problem = _with_null(problem, problem, pen)
    return (problem, KnownGram(problem, products, 0.0)) if can_walk(problem, pen) else None


def _is_tall_least_squares(data: Data, pen: Penalty) -> bool:
    n, p = data.x.shape
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((data, pen))):
        return False
    dense = isinstance(data.x, DenseMatrix) and data.x.array.dtype == np.float64
    tall = n >= _TALL * (p + 1) and p <= _MANY_COLUMNS
    one = data.loss.is_quadratic and data.y.ndim == 1
    return dense and tall and one and (has_prices(pen, (p,)) or has_group_prices(pen, (p,)))


def _root(products: np.ndarray) -> np.ndarray:
    """R with RᵀR = products, which may be singular; the size of a column does not matter."""
    size = np.sqrt(np.maximum(products.diagonal(), 0))
    size = np.where(size > 0, size, 1)
    factor, order, rank, _ = _pstrf(products / np.outer(size, size))
    root = np.zeros_like(products)
    root[:rank, order - 1] = np.triu(factor)[:rank]
    return root * size


_with_null = eqx.filter_jit(with_null)
