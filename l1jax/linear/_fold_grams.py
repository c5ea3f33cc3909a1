"""Folds of a tall least-squares problem, by differences of Gram matrices.

Moments add up over rows. One pass over the data gives those of every fold; those of the rows that a
fold leaves out are the total less its own. From there on the rows are not needed: a problem with
the same Gram matrix and p + 1 rows has the same solutions, objectives and gaps.
"""

from __future__ import annotations

import numpy as np

from ..penalties import Penalty
from ._columns import GramColumns
from ._folds import Split
from ._matrix import DenseMatrix
from ._moments import KnownGram, Moments, problem_of
from ._problem import Problem
from ._working_set import can_walk

_TALL = 2  # rows per column, from where on
_MANY_COLUMNS = 2000  # a Gram matrix of 32 MB for each fold
_KEPT = 1e-6  # of a column's variance: with less, a difference has lost too many digits


def has_fold_grams(problem: Problem, pen: Penalty, standardize: bool) -> bool:
    """Whether all that matters are Gram matrices, and whether they are cheaper than the rows."""
    n, p = problem.x.shape
    tall = isinstance(problem.x, DenseMatrix) and n >= _TALL * (p + 1) and p <= _MANY_COLUMNS
    about_means = problem.fit_intercept or not standardize
    one = problem.loss.is_quadratic and not problem.responses
    return tall and about_means and one and can_walk(problem, pen)


class FoldGrams:
    """The moments of all rows and of those that each split fits."""

    def __init__(self, problem: Problem, splits: list[Split], standardize: bool):
        self.problem, self.standardize = problem, standardize
        self.x = np.asarray(problem.x.array, np.float64)
        self.target = np.asarray(problem.y, np.float64) - np.asarray(problem.offset, np.float64)
        self.s = np.asarray(problem.s, np.float64)
        counted = np.sum([split.test for split in splits], axis=0)[self.s > 0]
        parts = [self._of(split.test) for split in splits]
        if counted[0] and (counted == counted[0]).all():  # each row as often as any other
            total = parts[0]
            for part in parts[1:]:
                total = total + part
            total = Moments(*(value / counted[0] for value in total))
        else:
            total = self._of(np.ones(len(self.s), bool))
        self.total, self.splits = total, splits
        self.parts: list[Moments | None] = [*parts]

    def _of(self, rows: np.ndarray) -> Moments:
        return Moments.of(self.x[rows], self.target[rows], self.s[rows])

    def of_all(self) -> GramColumns:
        """The columns of the problem itself."""
        mean, products = self.total.centred(self.problem.fit_intercept)
        return KnownGram(self.problem, products, float(mean[-1]))

    def without(self, i: int, pen: Penalty) -> tuple[Problem, GramColumns] | None:
        """The problem of the rows that split i fits; None where rounding is too much of it."""
        split, part = self.splits[i], self.parts[i]
        self.parts[i] = None  # each is used once, and large
        assert part is not None
        counts = self.s > 0
        is_rest = (split.train == ~split.test)[counts].all()
        moments = self.total - part if is_rest else self._of(split.train)
        centre = self.problem.fit_intercept
        mean, products = moments.centred(centre)
        before = self.total.centred(centre)[1].diagonal()
        alive = np.append(np.asarray(self.problem.norms) > 0, True)
        if (products.diagonal() < _KEPT * before)[alive].any():
            return None
        scale = np.where(alive, 1.0, 0.0)
        if self.standardize:
            scale[:-1] /= np.sqrt(np.where(alive, products.diagonal(), 1))[:-1]
        products = products * np.outer(scale, scale)
        old = self.problem
        inverse = np.asarray(old.inverse_scale, np.float64)
        shift = mean[:-1] / np.where(inverse > 0, inverse, 1)
        level = float(old.level + mean[-1])
        return problem_of(
            products, pen, old.loss, np.asarray(old.mean) + shift, inverse * scale[:-1], level
        )
