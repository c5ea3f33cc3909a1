"""Folds of a tall least-squares problem, by differences of Gram matrices.

Moments add up over rows. One pass over the data gives those of every fold; those of the rows that a
fold leaves out are the total less its own. From there on the rows are not needed: a problem with
the same Gram matrix and p + 1 rows has the same solutions, objectives and gaps.
"""

from __future__ import annotations

import functools
import operator

import numpy as np

from ..engines.active_set._gram_compression import Compressed, Moments, TallRows
from ..model._problem import Data
from ._folds import Split


class FoldGrams:
    """The moments of all rows and of those that each split fits."""

    def __init__(self, data: Data, splits: list[Split]):
        self.rows, self.splits = TallRows(data), splits
        self.parts: list[Moments | None]
        self._sum_moments()
        if self.rows.move_to_means(self.total):
            self._sum_moments()

    def _sum_moments(self) -> None:
        parts = [self.rows.moments(split.test) for split in self.splits]
        counts = self.rows.s > 0
        counted = np.sum([split.test for split in self.splits], axis=0)[counts]
        if counted[0] and (counted == counted[0]).all():  # each row as often as any other
            total = functools.reduce(operator.add, parts)
            self.total = Moments(*(value / counted[0] for value in total))
        else:
            self.total = self.rows.moments(slice(None))
        self.parts = [*parts]
        self.is_rest = [(split.train == ~split.test)[counts].all() for split in self.splits]

    def of_all(self) -> Compressed | None:
        """All rows, by their moments; None where they are needed."""
        return self.rows.compressed(self.total, self.total)

    def without(self, i: int) -> Compressed | None:
        """The rows that split i fits; None where rounding is too much of their moments."""
        part, self.parts[i] = self.parts[i], None  # each is used once, and large
        if self.is_rest[i]:
            moments = self.total - part
        else:
            moments = self.rows.moments(self.splits[i].train)
        return self.rows.compressed(moments, self.total)
