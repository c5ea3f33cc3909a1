"""The data on the host, for engines that ask for some columns at a time, in float64."""

from __future__ import annotations

import numpy as np
import scipy.sparse

from ._matrix import DenseMatrix
from ._problem import Problem


class Columns:
    """The columns of a problem, and a cache of the Gram matrix of those that were ever asked for.

    Products are weighted by the rows: `gram` holds X̃ᵀ diag(s) X̃ and `linear` X̃ᵀ(s∘y), with y less its
    offset and its mean. A sparse matrix stays sparse; its centring is a correction of rank one.
    """

    def __init__(self, problem: Problem):
        self.s = np.asarray(problem.s, np.float64)
        target = np.asarray(problem.y, np.float64) - np.asarray(problem.offset, np.float64)
        self.centre = float(self.s @ target) if problem.fit_intercept else 0.0
        self.target = target - self.centre
        self.matrix = _Dense(problem) if isinstance(problem.x, DenseMatrix) else _Sparse(problem)
        self.place = np.full(problem.x.shape[1], -1)  # of each feature in the cache
        self.count = 0
        self.gram = np.empty((0, 0))
        self.linear = np.empty(0)

    def require(self, features: np.ndarray) -> np.ndarray:
        """The places of these features in the cache, after adding those that are missing."""
        new = features[self.place[features] < 0]
        if len(new):
            old, self.count = self.count, self.count + len(new)
            if self.count > len(self.linear):
                room = max(self.count, 2 * len(self.linear))
                self.gram, self.linear = grown(self.gram, (room, room)), grown(self.linear, (room,))
            fresh = slice(old, self.count)
            block, self.linear[fresh] = self.matrix.add(new, self.s, self.target)
            self.gram[: self.count, fresh] = block
            self.gram[fresh, : self.count] = block.T
            self.place[new] = np.arange(old, self.count)
        return self.place[features]

    def gradients(self, solutions: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        """X̃ᵀ(s∘r) of all columns, (p, B), at solutions given as (features, their coefficients)."""
        fitted = [self.matrix.dot(self.place[at], values) for at, values in solutions]
        residuals = self.s * (self.target - np.stack(fitted))
        return self.matrix.rdot(residuals.T)


class _Dense:
    def __init__(self, problem: Problem):
        self.x = np.asarray(problem.x.array)
        self.cache = np.empty((self.x.shape[0], 0), order="F")
        self.count = 0

    def add(self, new, s, target):
        old, self.count = self.count, self.count + len(new)
        if self.count > self.cache.shape[1]:
            room = max(self.count, 2 * self.cache.shape[1])
            self.cache = grown(self.cache, (self.cache.shape[0], room))
        self.cache[:, old : self.count] = self.x[:, new]
        weighted = s[:, None] * self.cache[:, old : self.count]
        return self.cache[:, : self.count].T @ weighted, weighted.T @ target

    def dot(self, places, values):
        return self.cache[:, places] @ values

    def rdot(self, residuals):
        return np.asarray(self.x.T @ residuals.astype(self.x.dtype), np.float64)


class _Sparse:
    def __init__(self, problem: Problem):
        x = problem.x
        entries = (np.asarray(x.data, np.float64), (np.asarray(x.rows), np.asarray(x.cols)))
        self.x = scipy.sparse.csc_array(entries, shape=x.shape)
        p = x.shape[1]
        self.centres = np.zeros(p) if x.centre is None else np.asarray(x.centre, np.float64)
        self.scales = np.ones(p) if x.inverse_scale is None else np.asarray(x.inverse_scale)
        self.features = np.zeros(0, int)

    def add(self, new, s, target):
        self.features = np.concatenate([self.features, new])
        some = self.features
        weighted = self.x[:, new] * s[:, None]
        gram = (self.x[:, some].T @ weighted).toarray()
        # Columns of mean μ: Σ s (x − μ)(x' − μ')  =  Σ s x x' − μ (Σ s x') − (Σ s x) μ' + μ μ'.
        sums = self.x.T[some] @ s
        gram -= np.outer(self.centres[some], sums[-len(new) :])
        gram -= np.outer(sums - self.centres[some], self.centres[new])
        linear = weighted.T @ target - self.centres[new] * (s @ target)
        return np.outer(self.scales[some], self.scales[new]) * gram, self.scales[new] * linear

    def dot(self, places, values):
        at = self.features[places]
        scaled = self.scales[at] * values
        return self.x[:, at] @ scaled - self.centres[at] @ scaled

    def rdot(self, residuals):
        out = self.x.T @ residuals - np.outer(self.centres, residuals.sum(axis=0))
        return self.scales[:, None] * out


def grown(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The same entries in a larger array, whose others are not set."""
    new = np.empty(shape, array.dtype, order="F")
    new[tuple(slice(0, size) for size in array.shape)] = array
    return new
