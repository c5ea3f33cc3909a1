"""The data on the host, for engines that ask for some columns at a time, in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..data._host import grown
from ..model._problem import Problem

_GROWTH = 1.5  # of a Gram matrix that is too small


class Columns:
    """The columns of a problem that were ever asked for, copied once.

    A sparse matrix stays sparse; its centring is a correction of rank one.
    """

    def __init__(self, problem: Problem):
        self.s = np.asarray(problem.s, np.float64)
        self.matrix = problem.x.to_host()
        self.unit = np.asarray(problem.inverse_scale)  # in the precision of the problem
        self.place = np.full(problem.x.shape[1], -1)  # of each feature among the copies
        self.count = 0

    def require(self, features: np.ndarray) -> np.ndarray:
        """The places of these features, after adding those that are missing."""
        new = features[self.place[features] < 0]
        if len(new):
            self.matrix.add(new)
            self.place[new] = np.arange(self.count, self.count + len(new))
            self.count += len(new)
            self.added(len(new))
        return self.place[features]

    def returned(self, features: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Coefficients as they come back from the user's scale and precision."""
        scale = self.unit[features].reshape(-1, *np.ones(values.ndim - 1, int))
        return (scale * values.astype(scale.dtype) / scale).astype(np.float64)

    def added(self, count: int) -> None:
        """Told of the last `count` columns being new."""


class GramColumns(Columns):
    """Columns, and the Gram matrix of all of them.

    Products are weighted by the rows: `gram` holds X̃ᵀ diag(s) X̃ and `linear` X̃ᵀ(s∘y), with y less its
    offset and its mean.
    """

    def __init__(self, problem: Problem):
        super().__init__(problem)
        target = np.asarray(problem.y, np.float64) - np.asarray(problem.offset, np.float64)
        centre = self.s @ target if problem.fit_intercept else np.zeros(target.shape[1:])
        self.centre = centre if target.ndim > 1 else float(centre)
        self.target = target - self.centre
        self.gram, self.known = np.empty((0, 0)), 0  # of so many of the copies
        self.linear = np.empty((0, *target.shape[1:]))

    def added(self, count: int) -> None:
        fresh = slice(self.count - count, self.count)
        if self.count > len(self.linear):
            room = max(self.count, 2 * len(self.linear))
            self.linear = grown(self.linear, (room, *self.linear.shape[1:]))
        self.linear[fresh] = self.matrix.linear(fresh, self.s, self.target)

    def gram_of(self, places: np.ndarray) -> np.ndarray | GramPart:
        """The Gram matrix of some of the columns, to read."""
        if self.known < self.count:
            self._complete()
        if len(places) == len(self.gram) and (places == np.arange(len(places))).all():
            return self.gram
        return GramPart(self.gram, places)

    def _complete(self) -> None:
        fresh = slice(self.known, self.count)
        if self.count > len(self.gram):
            room = max(self.count, int(_GROWTH * len(self.gram)))
            self.gram = grown(self.gram, (room, room)).T  # symmetric: by rows, as `take` wants it
        block = self.matrix.gram(fresh, self.s)
        self.gram[: self.count, fresh] = block
        self.gram[fresh, : self.count] = block.T
        self.known = self.count

    def gradients(self, solutions: list[tuple[np.ndarray, np.ndarray]], out: np.ndarray) -> None:
        """X̃ᵀ(s∘r) of all columns into `out` (B, p, *k), at solutions given as (features, values).

        They are those of the coefficients that the user gets for these.
        """
        at = np.unique(np.concatenate([features for features, _ in solutions]))
        shape = (len(solutions), *self.target.shape[1:])
        values = np.zeros((len(at), *shape))
        for i, (features, some) in enumerate(solutions):
            values[np.searchsorted(at, features), i] = self.returned(features, some)
        fitted = self.matrix.part(self.place[at]).dot(values.reshape(len(at), math.prod(shape)))
        residuals = self.target[:, None] - fitted.reshape(-1, *shape)  # (n, B, *k)
        weighted = self.s[:, None] * residuals.reshape(len(residuals), -1)
        if residuals.ndim == 2:
            self.matrix.rdot(weighted, out)
            return
        products = np.empty((weighted.shape[1], out.shape[1]))
        self.matrix.rdot(weighted, products)
        out[:] = np.moveaxis(products.reshape(len(out), -1, out.shape[1]), 1, 2)


class GramPart:
    """View of the Gram matrix restricted to `places`; copies only the rows that are indexed."""

    def __init__(self, gram: np.ndarray, places: np.ndarray):
        self.gram, self.places = gram, places
        self._diagonal = gram.diagonal()[places]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, rows: Any) -> np.ndarray:
        which = self.places[rows]
        if not which.ndim:
            return self.gram[which].take(self.places)
        out = np.empty((len(which), len(self)))
        for row, place in zip(out, which.tolist(), strict=True):  # twice as fast as np.ix_
            self.gram[place].take(self.places, out=row, mode="clip")
        return out

    def diagonal(self) -> np.ndarray:
        return self._diagonal
