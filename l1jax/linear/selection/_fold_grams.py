"""Folds of a tall least-squares problem, by differences of Gram matrices.

Moments add up over rows. One pass over the data gives those of every fold; those of the rows that a
fold leaves out are the total less its own. From there on the rows are not needed: a problem with
the same Gram matrix and p + 1 rows has the same solutions, objectives and gaps.
"""

from __future__ import annotations

import functools
import operator

import numpy as np

from ..engines.active_set._gram_compression import Compressed, tall_rows
from ..engines.active_set._moments import Moments
from ..model._problem import Data
from ._folds import Split


class FoldGrams:
    """The moments of all rows and of those that each split fits."""

    def __init__(self, data: Data, splits: list[Split]):
        self.rows, self.splits = tall_rows(data), splits
        counts = self.rows.s > 0
        counted = np.sum([split.test for split in splits], axis=0)[counts]
        self.is_rest = [bool((split.train == ~split.test)[counts].all()) for split in splits]
        # How often each row is held out, where that is as often as any other; else 0.
        self.times = int(counted[0]) if (counted == counted[0]).all() and all(self.is_rest) else 0
        self.total, self.parts = self._sum_moments()
        if self.rows.move_to_means(self.total):
            self.total, self.parts = self._sum_moments()

    def _sum_moments(self) -> tuple[Moments, list[Moments | None]]:
        """Returns the moments of all rows, and those that each split holds out; or fits, if not all others."""
        pairs = zip(self.splits, self.is_rest, strict=True)
        masks = [split.test if is_rest else split.train for split, is_rest in pairs]
        if not self.times:
            total, *parts = self.rows.moments_of([np.ones(len(self.rows.s), bool), *masks])
            return total, [*parts]
        parts = self.rows.moments_of(masks)
        total = functools.reduce(operator.add, parts)
        weight, sums, products = total
        return Moments(weight / self.times, sums / self.times, products / self.times), [*parts]

    def of_all(self) -> Compressed | None:
        """All rows, by their moments; None where they are needed."""
        return self.rows.compressed(self.total, self.total)

    def without(self, i: int) -> Compressed | None:
        """The rows that split i fits; None where rounding is too much of their moments."""
        part = self.parts[i]
        assert part is not None  # each is used once
        return self.rows.compressed(self.total - part if self.is_rest[i] else part, self.total)

    def release(self, i: int) -> None:
        """Forgets the moments of split i, which are large."""
        self.parts[i] = None

    def squared_errors(self, i: int, coefs: np.ndarray, intercepts: np.ndarray) -> np.ndarray:
        """Returns the weighted mean of the squared errors of the rows that split i holds out, (L,).

        Σ s (t − d'β − c)² of the target t and the columns d less their shift, from their moments.
        """
        part = self.parts[i]
        assert part is not None and self.is_rest[i]
        p = len(part.sums) - 1
        c = intercepts + coefs @ self.rows.shift - self.rows.level
        squares = ((coefs @ part.products[:p, :p]) * coefs).sum(axis=1)
        squares += part.products[p, p] - 2 * coefs @ part.products[:p, p]
        squares += c * (c * part.weight - 2 * (part.sums[p] - coefs @ part.sums[:p]))
        return np.maximum(squares, 0) / part.weight
