"""Coefficients of many fits that are mostly zero: those of each fit that are not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Float, Int

from ..._modules import Record
from ..._saving import savable
from ..._types import AnyArray
from ..data._zero_copy import zero_copy

_MIN_SIZE = 2**21  # entries, from which on an array is kept by those that are not zero
_PART = 2**21  # entries of the rows that are arrays at a time
_MOST = 1 / 4  # of the entries of a row, that may be nonzero there


class SparseRows(Record):
    """Rows (L, p, *k) by their nonzero entries, padded to the same number m in each.

    Every array has the rows as its leading axis, as all of a path: an index, `vmap` and `jit` see a batch.
    """

    features: Int[AnyArray, "*L m"]  # ascending; p where there is none
    values: Float[AnyArray, "*L m *k"]
    fill: Float[
        AnyArray, "*L"
    ]  # the value of all other entries: 0, or NaN of a row that is not known
    size: int = eqx.field(static=True)  # p

    @classmethod
    def of(cls, array: np.ndarray) -> SparseRows:
        """The rows of an array (L, p, *k)."""
        inside = (array != 0).reshape(*array.shape[:2], -1).any(axis=2)
        features = [np.flatnonzero(row) for row in inside]
        rows = [(at, row[at]) for at, row in zip(features, array, strict=True)]
        return cls.of_rows(rows, array.shape[1:], array.dtype)

    @classmethod
    def of_rows(
        cls, rows: Sequence[tuple[np.ndarray, np.ndarray]], shape: tuple[int, ...], dtype: Any
    ) -> SparseRows:
        """From (features, values) of each row (p, *k)."""
        m, p = max(len(at) for at, _ in rows), shape[0]
        features = np.full((len(rows), m), p, np.int32)
        values = np.zeros((len(rows), m, *shape[1:]), dtype)
        for i, (at, some) in enumerate(rows):
            features[i, : len(at)], values[i, : len(at)] = at, some
        return cls(features, values, np.zeros(len(rows), dtype), p)

    @property
    def shape(self) -> tuple[int, ...]:
        ndim = np.ndim(self.features)
        return (*self.features.shape[:-1], self.size, *self.values.shape[ndim:])

    @property
    def dtype(self) -> Any:
        return np.dtype(self.values.dtype)

    def __len__(self) -> int:
        return len(self.fill)

    def take(self, some: Any) -> SparseRows:
        """The rows at an index of NumPy's."""
        return jax.tree.map(lambda leaf: leaf[some, ...], self)

    def without(self, where: np.ndarray) -> SparseRows:
        """The rows, those at `where` said not to be known; in NumPy."""
        features, values, fill = (np.array(leaf) for leaf in jax.tree.leaves(self))
        features[where], values[where], fill[where] = self.size, 0, np.nan
        return SparseRows(features, values, fill, self.size)

    def count(self) -> AnyArray:
        """How many features of each row are not zero."""
        inside: Any = abs(self.values) > 0
        inside = inside.reshape(*self.features.shape, -1).any(axis=-1)
        return inside.sum(axis=-1)

    def inside(self) -> np.ndarray:
        """Which features of each row are not zero, nor NaN: (L, p), or (p,) of one row; in NumPy."""
        features, values = np.asarray(self.features), np.asarray(self.values)
        lanes, m = features.shape[:-1], features.shape[-1]
        is_in = (abs(values) > 0).reshape(-1, m, math.prod(values.shape[features.ndim :]))
        out = np.zeros((math.prod(lanes), self.size), bool)
        row, place = np.nonzero(is_in.any(axis=2))
        out[row, features.reshape(-1, m)[row, place]] = True
        return out.reshape(*lanes, self.size)

    def to_array(self) -> AnyArray:
        """All entries, (L, p, *k) or those of one row, in NumPy or JAX as these are."""
        leaves = jax.tree.leaves(self)
        if any(isinstance(leaf, Tracer) for leaf in leaves):
            return self._scattered(jnp)
        found = jax.tree.map(np.asarray, self)._scattered(np)
        return zero_copy(found) if isinstance(leaves[0], jax.Array) else found

    def _scattered(self, xp: Any) -> Any:
        lanes, m = self.features.shape[:-1], self.features.shape[-1]
        count, responses = math.prod(lanes), self.shape[len(lanes) + 1 :]
        features = self.features.reshape(count, m)
        values = self.values.reshape(count, m, *responses)
        fill = self.fill.reshape(count, *(1,) * (1 + len(responses)))
        shape = (count, self.size, *responses)
        if xp is jnp:
            out = jnp.broadcast_to(fill, shape)
            out = out.at[jnp.arange(count)[:, None], features].set(values, mode="drop")
        else:
            out = np.zeros(shape, values.dtype)
            unknown = np.flatnonzero(self.fill.ravel())
            out[unknown] = fill[unknown]
            at = np.nonzero(features < self.size)
            out[at[0], features[at]] = values[at]
        return out.reshape(self.shape)

    def padded(self, m: int) -> SparseRows:
        """The same rows with room for m entries each; in NumPy."""
        more = m - self.features.shape[-1]
        features = np.pad(self.features, ((0, 0), (0, more)), constant_values=self.size)
        ends = ((0, 0), (0, more), *((0, 0),) * (self.values.ndim - 2))
        return SparseRows(features, np.pad(self.values, ends), np.asarray(self.fill), self.size)


savable(SparseRows)

Coefs = AnyArray | SparseRows


def dense(coefs: Coefs) -> AnyArray:
    """The array of coefficients, however they are kept."""
    return coefs.to_array() if isinstance(coefs, SparseRows) else coefs


def is_large(shape: tuple[int, ...]) -> bool:
    """Whether coefficients of this shape are to be kept by their nonzero entries, if these are few."""
    return math.prod(shape) >= _MIN_SIZE


def parts_of(coefs: Coefs, together: int = 1) -> list[slice]:
    """Slices of the rows that may be arrays at a time, at least `together` in each; all of a few."""
    count = len(coefs)
    if not is_large(coefs.shape):
        return [slice(0, count)]
    size = max(_PART * count // math.prod(coefs.shape), together, 1)
    parts = -(-count // size)
    return [slice(count * i // parts, count * (i + 1) // parts) for i in range(parts)]


def take(coefs: Coefs, some: Any) -> Coefs:
    """Some rows."""
    return coefs.take(some) if isinstance(coefs, SparseRows) else coefs[some]


def concatenated(parts: Sequence[Coefs]) -> Coefs:
    """The rows of all parts in NumPy, by their nonzero entries if these are few."""
    m = max(part.features.shape[1] if isinstance(part, SparseRows) else math.inf for part in parts)
    if m > _MOST * parts[0].shape[1]:
        return np.concatenate([np.asarray(dense(part)) for part in parts])
    rows = [part.padded(int(m)) for part in parts if isinstance(part, SparseRows)]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *rows)


def compact(array: np.ndarray) -> Coefs:
    """The rows of an array by their nonzero entries, if these are few."""
    rows = SparseRows.of(array)
    return rows if rows.features.shape[1] <= _MOST * rows.size else array


def put(coefs: Coefs, some: np.ndarray, others: Coefs) -> Coefs:
    """The rows, those at the indices `some` replaced by all the others; in NumPy."""
    if not (isinstance(coefs, SparseRows) or isinstance(others, SparseRows)):
        out = np.array(coefs)
        out[some] = others
        return out
    both = concatenated([as_rows(coefs), as_rows(others)])
    order = np.arange(len(coefs))
    order[some] = len(coefs) + np.arange(len(some))
    return take(both, order)


def as_rows(coefs: Coefs) -> SparseRows:
    """Coefficients of any kind by their nonzero entries."""
    if isinstance(coefs, SparseRows):
        return jax.tree.map(np.asarray, coefs)
    return SparseRows.of(np.asarray(coefs))


def used(coefs: Coefs) -> tuple[np.ndarray, np.ndarray]:
    """The features (m,) that are in any row, and the coefficients (L, m, *k) of these; in NumPy."""
    if not isinstance(coefs, SparseRows):
        array = np.asarray(coefs)
        at = np.flatnonzero(array.any(axis=tuple(i for i in range(array.ndim) if i != 1)))
        return at, array[:, at]
    rows = as_rows(coefs)
    if rows.fill.any():  # NaN is in
        return np.arange(rows.size), np.asarray(rows.to_array())
    at = np.unique(rows.features[rows.features < rows.size])
    out = np.zeros((len(rows), len(at), *rows.values.shape[2:]), rows.dtype)
    row, place = np.nonzero(rows.features < rows.size)
    out[row, np.searchsorted(at, rows.features[row, place])] = rows.values[row, place]
    return at, out
