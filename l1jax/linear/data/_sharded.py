"""A dense matrix that is sharded over the devices of a mesh, of one process or of many, and is never gathered.

Each device multiplies its own part, `jax.shard_map`; what is added up over the devices (`psum`) and then is on
all of them has the size of the result: n or p numbers for a product with a vector, p² for a Gram matrix.
Vectors are replicated. With vectors of NumPy's a product is one too, so that all but the products is NumPy's,
and the same on every process.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from ..._arrays import namespace
from ..._tracing import frozen
from ..._types import Real
from ._host import ONES, HostColumns, HostMatrix
from ._matrix import DataMatrix

_BLOCK = 2**17  # entries of the rows of a part that are centred, or widened, at a time
_AT_ONCE = 8  # vectors of n rows that come back at once, where they are many

Axes = tuple[str, ...]


class ShardedMatrix(DataMatrix):
    """(X − 1 centreᵀ) diag(inverse_scale) of an array X (n, p) that is sharded; None stands for 0 and 1.

    Centring and scaling are applied to some rows at a time, so that X is not copied.
    """

    array: Float[Real, "n p"]
    centre: Float[Real, " p"] | None
    inverse_scale: Float[Real, " p"] | None
    mesh: Mesh = eqx.field(static=True)
    row_axes: Axes = eqx.field(static=True)  # axes of the mesh that rows are split over
    column_axes: Axes = eqx.field(static=True)

    @classmethod
    def of(cls, array: Any) -> ShardedMatrix:
        """Returns the matrix of an array for which `is_sharded`."""
        sharding: Any = frozen(array).sharding
        by_rows, by_columns = (_axes(entry) for entry in (*sharding.spec, None, None)[:2])
        return cls(array, None, None, sharding.mesh, by_rows, by_columns)

    @property
    def shape(self) -> tuple[int, int]:
        n, p = self.array.shape
        return n, p

    @property
    def dtype(self) -> Any:
        return np.dtype(self.array.dtype)

    @property
    def batches_products(self) -> bool:
        return False  # of many vectors of n rows, some at a time

    @property
    def is_distributed(self) -> bool:
        return True

    def namespace(self, *arrays: Any) -> Any:
        given = (self.centre, self.inverse_scale, *arrays)
        return jnp if isinstance(self.array, Tracer) else namespace(*given)

    def in_numpy(self) -> DataMatrix | None:
        if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(self)):
            return None
        centre, inverse_scale = jax.tree.map(to_numpy, (self.centre, self.inverse_scale))
        return eqx.tree_at(_transformation, self, (centre, inverse_scale), is_leaf=_is_none)

    def dot(self, b: Float[Real, "p *k"]) -> Float[Real, "n *k"]:
        return self._call(_dot, b)

    def rdot(self, r: Float[Real, "n *k"]) -> Float[Real, "p *k"]:
        return self._call(_rdot, r)

    def columns(self, at: Int[Real, " m"]) -> Float[Real, "n m"]:
        return self._call(_columns, at)

    def padded_columns(self, at: Int[Real, " m"]) -> Float[Real, "n m"]:
        return self._call(_columns, at)  # none is beyond the last on any device

    def means(self, s: Float[Real, " n"]) -> Float[Real, " p"]:
        return self._call(_means, s)

    def squares(self, s: Float[Real, " n"], centre: Float[Real, " p"]) -> Float[Real, " p"]:
        return self._call(_squares, s, centre)

    def peaks(self, s: Float[Real, " n"]) -> Float[Real, " p"]:
        return self._call(_peaks, s)

    def products(self, s: np.ndarray, beside: np.ndarray) -> np.ndarray:
        with jax.enable_x64(True):
            return to_numpy(_gram(self, s, beside))

    def transform(self, centre: Real, inverse_scale: Real) -> DataMatrix:
        if self.centre is not None:
            return super().transform(centre, inverse_scale)
        return eqx.tree_at(_transformation, self, (centre, inverse_scale), is_leaf=_is_none)

    def astype(self, dtype: Any) -> DataMatrix:
        return jax.tree.map(lambda leaf: leaf.astype(dtype), self)

    def to_host(self) -> HostMatrix:
        n, p = self.shape
        # Rows that are many, or are split, stay on the devices; where columns are many, some are copied.
        return HostSharded(self) if self.row_axes or n > p else super().to_host()

    def gathered(self, at: Any) -> ShardedMatrix:
        """The columns `at` (m,) as a matrix whose rows are split as they are here; traced."""
        columns = _on_mesh(lambda x, at: x.taken(at), (self,), at, rows_out=True)
        zero, one = jnp.zeros(len(at), columns.dtype), jnp.ones(len(at), columns.dtype)
        return ShardedMatrix(columns, zero, one, self.mesh, self.row_axes, ())

    def _call(self, product: Callable[..., Array], *vectors: Any) -> Any:
        """A product with replicated vectors: of NumPy where they are and the matrix is known."""
        if self.namespace(*vectors) is jnp:
            return product(self, *vectors)
        return to_numpy(product(self, *vectors))


def is_sharded(array: Any) -> bool:
    """Whether an array's values are known and split over several devices, by the axes of a mesh.

    Raises: TypeError where they are split in another way.
    """
    array = frozen(array)
    if isinstance(array, Tracer) or not isinstance(array, jax.Array):
        return False
    if array.is_fully_replicated:
        return False
    if not isinstance(array.sharding, NamedSharding):
        raise TypeError(
            f"X must be sharded by a jax.sharding.NamedSharding, got {type(array.sharding).__name__}: "
            "X = jax.device_put(X, NamedSharding(mesh, PartitionSpec(...)))."
        )
    return True


def to_numpy(array: Any) -> np.ndarray:
    """Returns the values of an array that need not be all in this process."""
    if isinstance(array, jax.Array) and not (
        array.is_fully_replicated or array.is_fully_addressable
    ):
        array = _replicated(array)
    return np.asarray(array)


def _replicated(array: jax.Array) -> jax.Array:
    sharding: Any = array.sharding
    return jax.jit(lambda x: x, out_shardings=NamedSharding(sharding.mesh, P()))(array)


def _transformation(x: ShardedMatrix) -> tuple[Any, Any]:
    return x.centre, x.inverse_scale


def _is_none(leaf: Any) -> bool:
    return leaf is None


def _axes(entry: Any) -> Axes:
    """The axes of one entry of a `PartitionSpec`."""
    if entry is None:
        return ()
    return tuple(entry) if isinstance(entry, tuple) else (entry,)


class _Part:
    """What one device has of a matrix: the rows from `first_row`, the columns from `first_column`."""

    def __init__(self, x: ShardedMatrix, array: Array, centre: Any, inverse_scale: Any):
        self.array, self.shape = array, x.shape
        self.row_axes, self.column_axes = x.row_axes, x.column_axes
        n, p = array.shape
        self.first_row = _index(x.row_axes) * n
        self.first_column = _index(x.column_axes) * p
        self.transformation = None
        if centre is not None:
            self.transformation = self.of_columns(centre), self.of_columns(inverse_scale)

    def of_rows(self, v: Array) -> Array:
        """The entries of a vector (n, *k) for the rows that are here."""
        return _slice(v, self.first_row, self.array.shape[0], self.row_axes)

    def of_columns(self, v: Array) -> Array:
        """The entries of a vector (p, *k) for the columns that are here."""
        return _slice(v, self.first_column, self.array.shape[1], self.column_axes)

    def all_rows(self, v: Array, over: Axes) -> Array:
        """A vector (n, *k), from its entries for the rows of each device; summed over the axes `over`."""
        return _whole(v, self.shape[0], self.first_row, self.row_axes, over)

    def all_columns(self, v: Array, over: Axes) -> Array:
        """A vector (p, *k), from its entries for the columns of each device; summed over the axes `over`."""
        return _whole(v, self.shape[1], self.first_column, self.column_axes, over)

    def is_as_stored(self, dtype: Any) -> bool:
        """Whether a product in this precision takes the array as it is."""
        return self.transformation is None and self.array.dtype == dtype

    def block(self, begin: Any, size: int, dtype: Any) -> Array:
        """Some of the rows, centred and scaled."""
        some = jax.lax.dynamic_slice_in_dim(self.array, begin, size).astype(dtype)
        if self.transformation is None:
            return some
        centre, inverse_scale = self.transformation
        return (some - centre) * inverse_scale

    def all_of_block(self, some: Array) -> Array:
        """All columns of some rows."""
        if not self.column_axes:
            return some
        return self.all_columns(some.T, ()).T

    def taken(self, at: Array) -> Array:
        """Some columns of the rows that are here, (n, m); zeros for an index beyond the last, or ones."""
        p = self.array.shape[1]
        place = at - self.first_column
        is_here = (place >= 0) & (place < p)
        some = self.array[:, jnp.clip(place, 0, p - 1)]
        if self.transformation is not None:
            centre, inverse_scale = (t[jnp.clip(place, 0, p - 1)] for t in self.transformation)
            some = (some - centre) * inverse_scale
        some = jnp.where(is_here, some, 0)
        some = jax.lax.psum(some, self.column_axes) if self.column_axes else some
        return jnp.where(at == ONES, jnp.ones((), some.dtype), some)


def _index(axes: Axes) -> Any:
    return jax.lax.axis_index(axes) if axes else 0


def _slice(v: Array, begin: Any, size: int, axes: Axes) -> Array:
    return jax.lax.dynamic_slice_in_dim(v, begin, size) if axes else v


def _whole(v: Array, size: int, begin: Any, axes: Axes, over: Axes) -> Array:
    """A vector of which each device has some entries, or a term of them, on all devices."""
    if axes:
        empty = jnp.zeros((size, *v.shape[1:]), v.dtype)
        v = jax.lax.dynamic_update_slice_in_dim(empty, v, begin, 0)
    return jax.lax.psum(v, (*axes, *over)) if axes or over else v


def _on_mesh(
    function: Callable[..., Array],
    matrices: tuple[ShardedMatrix, ...],
    *vectors: Any,
    rows_out: bool = False,
) -> Any:
    """function(*parts, *vectors) on every device; its result is on all of them, or split by rows."""
    first = matrices[0]
    given = [(x.array, x.centre, x.inverse_scale) for x in matrices]
    specs = [(P(x.row_axes or None, x.column_axes or None), P(), P()) for x in matrices]

    def local(given: Any, vectors: Any) -> Array:
        parts = [_Part(x, *arrays) for x, arrays in zip(matrices, given, strict=True)]
        return function(*parts, *vectors)

    out = P(first.row_axes or None) if rows_out else P()
    mapped = jax.shard_map(local, mesh=first.mesh, in_specs=(specs, P()), out_specs=out)
    return mapped(given, tuple(map(jnp.asarray, vectors)))


def _sum_of_blocks(
    parts: tuple[_Part, ...],
    dtype: Any,
    term: Callable[..., Array],
    *of_rows: Array,
    add: Callable[[Array, Array], Array] = jnp.add,
    width: int | None = None,
) -> Array:
    """Adds up term(*rows of the parts, *their entries of vectors) over blocks of rows of this width."""

    def at(begin: Any, size: int) -> Array:
        some = (jax.lax.dynamic_slice_in_dim(v, begin, size) for v in of_rows)
        return term(*(part.block(begin, size, dtype) for part in parts), *some)

    n = parts[0].array.shape[0]
    size = max(_BLOCK // (width or parts[0].array.shape[1]), 1)
    count = n // size
    rest = at(count * size, n - count * size)  # it may have no rows
    if not count:
        return rest
    return jax.lax.fori_loop(0, count, lambda i, total: add(total, at(i * size, size)), rest)


@eqx.filter_jit
def _dot(x: ShardedMatrix, b: Any) -> Array:
    def local(part: _Part, b: Array) -> Array:
        dtype, b = jnp.result_type(part.array, b), part.of_columns(b)
        n, p = part.array.shape
        if part.is_as_stored(dtype):
            return part.all_rows(_matmul(part.array, b), part.column_axes)
        size = max(_BLOCK // p, 1)
        count = n // size

        def at(begin: Any, size: int) -> Array:
            return _matmul(part.block(begin, size, dtype), b)

        found = at(count * size, n - count * size)
        if count:
            blocks = jax.lax.map(lambda i: at(i * size, size), jnp.arange(count))
            found = jnp.concatenate([blocks.reshape(count * size, *b.shape[1:]), found])
        return part.all_rows(found, part.column_axes)

    return _on_mesh(local, (x,), b)


@eqx.filter_jit
def _rdot(x: ShardedMatrix, r: Any) -> Array:
    def local(part: _Part, r: Array) -> Array:
        def term(some: Array, r: Array) -> Array:
            return _matmul(r, some) if r.ndim == 1 else _matmul(some.T, r)

        dtype, r = jnp.result_type(part.array, r), part.of_rows(r)
        if part.is_as_stored(dtype):
            found = term(part.array, r)
        else:
            found = _sum_of_blocks((part,), dtype, term, r)
        return part.all_columns(found, part.row_axes)

    return _on_mesh(local, (x,), r)


@eqx.filter_jit
def _columns(x: ShardedMatrix, at: Any) -> Array:
    return _on_mesh(lambda part, at: part.all_rows(part.taken(at), ()), (x,), at)


@eqx.filter_jit
def _gathered(x: ShardedMatrix, at: Any) -> ShardedMatrix:
    return x.gathered(at)


@eqx.filter_jit
def _means(x: ShardedMatrix, s: Any) -> Array:
    # A second pass takes off the rounding of the first, which is relative to the level.
    first = _rdot(x, s)

    def local(part: _Part, s: Array, first: Array) -> Array:
        first = part.of_columns(first)

        def term(some: Array, s: Array) -> Array:
            return jnp.sum(s[:, None] * (some - first), axis=0)

        found = _sum_of_blocks((part,), part.array.dtype, term, part.of_rows(s))
        return part.all_columns(found, part.row_axes)

    return first + _on_mesh(local, (x,), s, first) / jnp.sum(s)


@eqx.filter_jit
def _squares(x: ShardedMatrix, s: Any, centre: Any) -> Array:
    def local(part: _Part, s: Array, centre: Array) -> Array:
        centre = part.of_columns(centre)

        def term(some: Array, s: Array) -> Array:
            return jnp.sum(s[:, None] * (some - centre) ** 2, axis=0)

        found = _sum_of_blocks((part,), part.array.dtype, term, part.of_rows(s))
        return part.all_columns(found, part.row_axes)

    return _on_mesh(local, (x,), s, centre)


@eqx.filter_jit
def _peaks(x: ShardedMatrix, s: Any) -> Array:
    def local(part: _Part, s: Array) -> Array:
        def term(some: Array, s: Array) -> Array:
            return jnp.max(jnp.where(s[:, None] > 0, jnp.abs(some), 0), axis=0, initial=0)

        at, most = part.of_rows(s), jnp.maximum
        found = _sum_of_blocks((part,), part.array.dtype, term, at, add=most)
        if part.row_axes:
            found = jax.lax.pmax(found, part.row_axes)
        return part.all_columns(found, ())

    return _on_mesh(local, (x,), s)


@eqx.filter_jit
def _gram(x: ShardedMatrix, s: Any, beside: Any) -> Array:
    """Xᵀ diag(s) [X, beside] in float64."""

    def local(part: _Part, s: Array, beside: Array) -> Array:
        def term(some: Array, s: Array, beside: Array) -> Array:
            full = jnp.column_stack([part.all_of_block(some), beside])
            return _matmul(some.T, s[:, None] * full)

        rows_ = part.of_rows(s), part.of_rows(beside)
        found = _sum_of_blocks((part,), jnp.float64, term, *rows_, width=part.shape[1])
        return part.all_columns(found, part.row_axes)

    return _on_mesh(local, (x,), s, beside)


@eqx.filter_jit
def _cross(x: ShardedMatrix, other: ShardedMatrix, s: Any) -> Array:
    """Xᵀ diag(s) Z in float64, of two matrices whose rows are split alike."""

    def local(part: _Part, other: _Part, s: Array) -> Array:
        def term(some: Array, z: Array, s: Array) -> Array:
            return _matmul(some.T, s[:, None] * other.all_of_block(z))

        width = part.shape[1] + other.shape[1]
        found = _sum_of_blocks((part, other), jnp.float64, term, part.of_rows(s), width=width)
        return part.all_columns(found, part.row_axes)

    return _on_mesh(local, (x, other), s)


def _matmul(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision="highest")


class HostSharded:
    """`HostMatrix` of which all rows stay on the devices: what comes back are vectors, and Gram matrices."""

    def __init__(self, x: ShardedMatrix):
        found = x.in_numpy()
        assert isinstance(found, ShardedMatrix)  # all is concrete
        self.x, self.features = found, np.zeros(0, int)

    def add(self, new: np.ndarray) -> None:
        self.features = np.concatenate([self.features, new])

    def part(self, places: np.ndarray) -> HostColumns:
        return self.part_of(self.features[places])

    def part_of(self, at: np.ndarray) -> ShardedColumns:
        return ShardedColumns(self.x, at)

    def linear(self, fresh: slice, s: np.ndarray, target: np.ndarray) -> np.ndarray:
        return _in_float64(_rdot, self.x, (s * target.T).T)[self.features[fresh]]

    def gram(self, fresh: slice, s: np.ndarray) -> np.ndarray:
        every = self.part_of(self.features[: fresh.stop])
        if fresh.start == 0:
            return every.gram(s)
        new = self.part_of(self.features[fresh])
        found = _in_float64(_cross, every.x, new.x, s)
        return found[: every.count, : new.count]

    def rdot(self, residuals: np.ndarray, out: np.ndarray) -> None:
        out[:] = self.x.rdot(residuals.astype(self.x.dtype)).T

    def rows_dot(self, rows: np.ndarray, at: np.ndarray, values: np.ndarray) -> np.ndarray:
        out = np.empty((len(rows), values.shape[1]), self.x.dtype)
        coefs = np.zeros((self.x.shape[1], _AT_ONCE), self.x.dtype)
        for begin in range(0, values.shape[1], _AT_ONCE):
            some = values[:, begin : begin + _AT_ONCE]
            coefs[at, : some.shape[1]] = some
            out[:, begin : begin + _AT_ONCE] = self.x.dot(coefs)[rows, : some.shape[1]]
        return out


class ShardedColumns:
    """`HostColumns` on the devices: some columns, copied there unless they are all of the matrix."""

    def __init__(self, x: ShardedMatrix, at: np.ndarray):
        p, self.count = x.shape[1], len(at)
        self.x = x
        if not (self.count == p and (at == np.arange(p)).all()):
            room = 1 << max(len(at) - 1, 0).bit_length()  # few sizes, for few compilations
            padded = np.full(room, p, np.int32)
            padded[: len(at)] = at
            self.x = _gathered(x, padded)

    def dense(self) -> np.ndarray:
        return _in_float64(_columns, self.x, np.arange(self.count))

    def dot(self, values: np.ndarray) -> np.ndarray:
        padded = np.zeros((self.x.shape[1], *values.shape[1:]))
        padded[: self.count] = values
        return _in_float64(_dot, self.x, padded)

    def rdot(self, residual: np.ndarray) -> np.ndarray:
        return _in_float64(_rdot, self.x, residual)[: self.count]

    def gram(self, weights: np.ndarray) -> np.ndarray:
        found = _in_float64(_gram, self.x, weights, np.zeros((len(weights), 0)))
        return found[: self.count, : self.count]

    def gram_columns(self, weights: np.ndarray, places: np.ndarray) -> np.ndarray:
        some = ShardedColumns(self.x, places)
        found = _in_float64(_cross, self.x, some.x, weights)
        return found[: self.count, : some.count]

    def gram_diagonal(self, weights: np.ndarray) -> np.ndarray:
        centre = np.zeros(self.x.shape[1])
        return _in_float64(_squares, self.x, weights, centre)[: self.count]

    def curvature_gram(self, hvp: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        found = np.empty((self.count, self.count))
        size = min(_AT_ONCE, math.ceil(self.count / _AT_ONCE))
        for begin in range(0, self.count, size):
            unit = np.zeros((self.count, size))
            some = np.arange(begin, min(begin + size, self.count))
            unit[some, some - begin] = 1
            found[:, some] = self.rdot(hvp(self.dot(unit)))[:, : len(some)]
        return found


def _in_float64(product: Callable[..., Array], *args: Any) -> np.ndarray:
    with jax.enable_x64(True):
        return to_numpy(product(*args))
