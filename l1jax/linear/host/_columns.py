"""The data on the host, for engines that ask for some columns at a time, in float64."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import scipy.sparse

from ..data._matrix import DenseMatrix
from ..model._problem import Problem
from ._threads import gram, in_threads, matmul

_BLOCK = 4096  # columns
_GROWTH = 1.5  # of a Gram matrix that is too small


class Columns:
    """The columns of a problem that were ever asked for, copied once.

    A sparse matrix stays sparse; its centring is a correction of rank one.
    """

    def __init__(self, problem: Problem):
        self.s = np.asarray(problem.s, np.float64)
        self.matrix = _Dense(problem) if isinstance(problem.x, DenseMatrix) else HostSparse(problem)
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
    """The Gram matrix of some of the columns: what is copied of it are the rows that are read."""

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


class _Dense:
    def __init__(self, problem: Problem):
        self.x = np.asarray(problem.x.array)
        self.cache = np.empty((self.x.shape[0], 0), order="F")
        self.count = 0

    def add(self, new: np.ndarray) -> None:
        old, self.count = self.count, self.count + len(new)
        every = len(new) == self.x.shape[1] and (new == np.arange(len(new))).all()
        if every and self.x.dtype == self.cache.dtype:
            self.cache = self.x  # all of them at once, in their order: no copy is needed
            return
        if self.count > self.cache.shape[1]:
            room = min(max(self.count, 2 * self.cache.shape[1]), self.x.shape[1])
            self.cache = grown(self.cache, (self.cache.shape[0], room))
        self.cache[:, old : self.count] = self.x[:, new]

    def linear(self, fresh: slice, s: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Products of the fresh columns with the target."""
        return self.cache[:, fresh].T @ (s * target.T).T

    def gram(self, fresh: slice, s: np.ndarray) -> np.ndarray:
        """Products of all copies up to the fresh columns with these."""
        some, new = self.cache[:, : fresh.stop], self.cache[:, fresh]
        if s.min() == s.max():
            scale = s[0]
        else:
            root, scale = np.sqrt(s)[:, None], 1.0
            some, new = root * some, root * new
        return scale * (gram(new) if fresh.start == 0 else matmul(some.T, new))

    def part(self, places: np.ndarray) -> DensePart:
        return DensePart(self.cache[:, places])

    def part_of(self, at: np.ndarray) -> DensePart:
        """These columns, whether they were asked for or not."""
        return DensePart(self.x[:, at].astype(np.float64, copy=False))

    def rdot(self, residuals: np.ndarray, out: np.ndarray) -> None:
        """XᵀR of residuals (n, B) into `out` (B, p)."""
        rows = residuals.astype(self.x.dtype).T  # twice as fast as Xᵀ times a few columns
        if out.dtype == self.x.dtype:
            matmul(rows, self.x, out=out)
        else:
            out[:] = matmul(rows, self.x)


class DensePart:
    """Some columns, as a matrix of their own."""

    def __init__(self, x: np.ndarray):
        self.x = x

    def dense(self) -> np.ndarray:
        return self.x

    def dot(self, values: np.ndarray) -> np.ndarray:
        return self.x @ values

    def rdot(self, residual: np.ndarray) -> np.ndarray:
        return self.x.T @ residual

    def gram(self, weights: np.ndarray) -> np.ndarray:
        """Xᵀ diag(weights) X, for weights ≥ 0."""
        return gram(np.sqrt(weights)[:, None] * self.x)


class HostSparse:
    """All columns of a sparse matrix, centred and scaled implicitly, and those that were asked for."""

    def __init__(self, problem: Problem):
        x = problem.x
        self.x = scipy.sparse.csc_array(_entries(x), shape=x.shape, dtype=np.float64)
        p = x.shape[1]
        self.centres = np.zeros(p) if x.centre is None else np.asarray(x.centre, np.float64)
        self.scales = np.ones(p) if x.inverse_scale is None else np.asarray(x.inverse_scale)
        self.is_centred, self.is_scaled = x.centre is not None, x.inverse_scale is not None
        self.features = np.zeros(0, int)
        # Xᵀ in blocks of rows: views, small enough for what comes of them to stay in the cache.
        ends = [*range(0, p, _BLOCK), p]
        self.blocks = [_transposed(self.x, *pair) for pair in itertools.pairwise(ends)]

    def add(self, new: np.ndarray) -> None:
        self.features = np.concatenate([self.features, new])

    def linear(self, fresh: slice, s: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Products of the fresh columns with the target."""
        new, weighted = self.features[fresh], (s * target.T).T
        linear = self.x.T[new] @ weighted
        linear -= np.multiply.outer(self.centres[new], weighted.sum(axis=0))
        return (self.scales[new] * linear.T).T

    def gram(self, fresh: slice, s: np.ndarray) -> np.ndarray:
        """Products of all columns asked for, up to the fresh ones, with these."""
        some, new = self.features[: fresh.stop], self.features[fresh]
        gram = (self.x[:, some].T @ (self.x[:, new] * s[:, None])).toarray()
        # Columns of mean μ: Σ s (x − μ)(x' − μ')  =  Σ s x x' − μ (Σ s x') − (Σ s x) μ' + μ μ'.
        sums = self.x.T[some] @ s
        gram -= np.outer(self.centres[some], sums[fresh])
        gram -= np.outer(sums - self.centres[some], self.centres[new])
        return np.outer(self.scales[some], self.scales[new]) * gram

    def part(self, places: np.ndarray) -> SparsePart:
        return self.part_of(self.features[places])

    def part_of(self, at: np.ndarray) -> SparsePart:
        """These columns, whether they were asked for or not."""
        return SparsePart(self.x[:, at], self.centres[at], self.scales[at])

    def rdot(self, residuals: np.ndarray, out: np.ndarray) -> None:
        """XᵀR of residuals (n, B) into `out` (B, p)."""
        sums = residuals.sum(axis=0)

        def fill(block: tuple[slice, scipy.sparse.csr_array]) -> None:
            at, rows = block
            products = rows @ residuals
            if self.is_centred:
                products -= np.outer(self.centres[at], sums)
            if self.is_scaled:
                products *= self.scales[at, None]
            out[:, at] = products.T

        in_threads(fill, self.blocks)


class SparsePart:
    """Some columns of a sparse matrix, centred and scaled implicitly."""

    def __init__(self, x: scipy.sparse.csc_array, centres: np.ndarray, scales: np.ndarray):
        self.x, self.centres, self.scales = x, centres, scales

    def dense(self) -> np.ndarray:
        return (self.x.toarray() - self.centres) * self.scales

    def dot(self, values: np.ndarray) -> np.ndarray:
        scaled = (self.scales * values.T).T
        return self.x @ scaled - self.centres @ scaled

    def rdot(self, residual: np.ndarray) -> np.ndarray:
        return self.scales * (self.x.T @ residual - self.centres * residual.sum())

    def gram(self, weights: np.ndarray) -> np.ndarray:
        """Xᵀ diag(weights) X, for weights ≥ 0."""
        gram = (self.x.T @ (self.x * weights[:, None]).tocsc()).toarray()
        sums = self.x.T @ weights
        gram -= np.outer(self.centres, sums)
        gram -= np.outer(sums - weights.sum() * self.centres, self.centres)
        return np.outer(self.scales, self.scales) * gram


def _transposed(x: Any, begin: int, end: int) -> tuple[slice, Any]:
    """Which columns of a CSC matrix these are, and their transpose: a view."""
    ends = x.indptr[begin : end + 1]
    entries = slice(ends[0], ends[-1])
    parts = (x.data[entries], x.indices[entries], ends - ends[0])
    return slice(begin, end), scipy.sparse.csr_array(parts, shape=(end - begin, x.shape[0]))


def grown(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The same entries in a larger array, whose others are not set."""
    new = np.empty(shape, array.dtype, order="F")
    new[tuple(slice(0, size) for size in array.shape)] = array
    return new


def host_rows(x: Any) -> Any:
    """X on the host, to take some rows of."""
    if isinstance(x, DenseMatrix):
        return np.asarray(x.array)
    return scipy.sparse.csr_array(_entries(x), shape=x.shape)


def _entries(x: Any) -> Any:
    """The entries of a sparse matrix, as SciPy takes them."""
    data, rows, cols = (np.asarray(part) for part in (x.data, x.rows, x.cols))
    inside = rows < x.shape[0]  # JAX fills up what it has summed with entries beyond the last row
    if inside.all():
        return data, (rows, cols)
    return data[inside], (rows[inside], cols[inside])
