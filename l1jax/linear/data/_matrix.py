"""Data matrices as operators: centred and scaled without the solver's knowing what they are made of.

Every solver works with a `DataMatrix` alone. Dense arrays are one here; sparse ones are in `_sparse`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from ..._arrays import matmul, namespace
from ..._modules import Module
from ..._tracing import frozen
from ..._types import Real
from ._host import HostArray, HostMatrix, HostOperator
from ._zero_copy import aligned

_WIDE = 64  # columns
_BLOCK = 64  # columns that moments are taken of at a time
_PART = 2**15  # entries of rows whose moments NumPy takes at a time


class DataMatrix(Module):
    """The data X (n, p) as an operator: what a fit asks of it. Subclass it for data that are no array.

    A subclass holds its arrays in fields (whatever is no array in fields that are
    `equinox.field(static=True)`), and defines

    - `shape` (n, p) and `dtype` (float32 or float64): properties;
    - `dot(b)`: X b, for b (p,) or (p, k);
    - `rdot(r)`: Xᵀ r, for r (n,) or (n, k);
    - `columns(at)`: X[:, at] as a dense array (n, m), for indices `at` (m,).

    These are traced by JAX, so that fits work under `jit`, `vmap` and derivatives by what the matrix
    is made of. On an accelerator, ask for `precision="highest"` in products of float32. All else
    follows from them, by blocks of columns: weighted moments, centring and scaling, columns on the
    host. `fit`, `path`, `lambda_max`, `cross_validate` and `Fit.predict` take such a matrix as X.
    Its entries are not checked: where some are not finite the status of a fit is `INVALID_INPUT`.

    **Example:**

    ```python
    >>> import jax.numpy as jnp, numpy as np, l1jax
    >>> class LowRank(l1jax.DataMatrix):  # X = U V
    ...     U: jnp.ndarray
    ...     V: jnp.ndarray
    ...     shape = property(lambda self: (self.U.shape[0], self.V.shape[1]))
    ...     dtype = property(lambda self: self.U.dtype)
    ...     def dot(self, b): return self.U @ (self.V @ b)
    ...     def rdot(self, r): return self.V.T @ (self.U.T @ r)
    ...     def columns(self, at): return self.U @ self.V[:, at]
    >>> rng = np.random.default_rng(0)
    >>> U, V, y = rng.normal(size=(20, 3)), rng.normal(size=(3, 50)), rng.normal(size=20)
    >>> fit, dense = (l1jax.fit(X, y, l1jax.L1(0.2)) for X in (LowRank(U, V), U @ V))
    >>> bool(abs(fit.coef - dense.coef).max() < 1e-8)
    True

    ```
    """

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """(n, p)."""

    @property
    @abstractmethod
    def dtype(self) -> Any:
        """float32 or float64."""

    @abstractmethod
    def dot(self, b: Any) -> Array:
        """X b (n, *k), for b (p, *k)."""

    @abstractmethod
    def rdot(self, r: Any) -> Array:
        """Xᵀ r (p, *k), for r (n, *k)."""

    @abstractmethod
    def columns(self, at: Any) -> Array:
        """X[:, at] (n, m), for indices (m,) from 0 to p − 1."""

    def padded_columns(self, at: Int[Real, " m"]) -> Float[Array, "n m"]:
        """Some columns; zeros for an index beyond the last."""
        p = self.shape[1]
        x = jax.tree.map(jnp.asarray, self)  # NumPy's arrays take no traced indices
        return jnp.where(at < p, x.columns(jnp.minimum(at, p - 1)), 0)

    def part(self, at: Int[Real, " m"]) -> DenseMatrix:
        """Some columns as a dense matrix; zeros for an index beyond the last."""
        return DenseMatrix(self.padded_columns(at))

    def means(self, s: Float[Array, " n"]) -> Float[Array, " p"]:
        """The weighted means μⱼ = Σᵢ sᵢ xᵢⱼ / Σᵢ sᵢ of the columns."""
        return self._by_blocks(lambda block: block.means(s))

    def squares(self, s: Float[Array, " n"], centre: Float[Array, " p"]) -> Float[Array, " p"]:
        """Σᵢ sᵢ (xᵢⱼ − centreⱼ)²."""
        return self._by_blocks(lambda block, centre: block.squares(s, centre), centre)

    def peaks(self, s: Float[Array, " n"]) -> Float[Array, " p"]:
        """maxᵢ |xᵢⱼ| over the rows with sᵢ > 0."""
        return self._by_blocks(lambda block: block.peaks(s))

    def _by_blocks(self, moment: Callable[..., Array], *of_columns: Array) -> Float[Array, " p"]:
        """A moment of every column, from dense blocks; `of_columns` (p,) are handed to it block by block."""
        p = self.shape[1]
        size = min(p, _BLOCK)
        at = jnp.arange(-(-p // size) * size, dtype=jnp.int32).reshape(-1, size)

        def of_block(at: Array) -> Array:
            given = (v.at[at].get(mode="fill", fill_value=0) for v in of_columns)
            return moment(self.part(at), *given)

        return jax.lax.map(of_block, at).reshape(-1)[:p]

    def transform(self, centre: Array, inverse_scale: Array) -> DataMatrix:
        """(X − 1 centreᵀ) diag(inverse_scale)."""
        return CentredScaled(self, centre, inverse_scale)

    def with_columns(self, at: np.ndarray, columns: np.ndarray) -> DataMatrix:
        """The matrix with these columns (n, m) in place of its own at `at`; all are concrete."""
        return ReplacedColumns(self, jnp.asarray(at), jnp.asarray(columns))

    def astype(self, dtype: Any) -> DataMatrix:
        """The same matrix in another precision."""
        return jax.tree.map(
            lambda leaf: leaf.astype(dtype) if leaf.dtype.kind == "f" else leaf, self
        )

    def as_array(self) -> Real | None:
        """The array (n, p) where the matrix is one, else None."""
        return None

    @property
    def batches_products(self) -> bool:
        """Whether a product with many vectors at once takes XLA no more memory than its result."""
        return True

    @property
    def is_distributed(self) -> bool:
        """Whether the entries are split over devices: no device and no host has all of them."""
        return False

    @property
    def passes(self) -> int | None:
        """How often it has been read, of one that is read in blocks."""
        return None

    def lanes_together(self, size: int) -> int:
        """The vectors of this size that one product is computed with, at most; 0 where that does not matter."""
        del size
        return 0

    def has_room_for(self, size: int) -> bool:
        """Whether so many bytes of what follows from the matrix may be kept in memory."""
        del size
        return True

    def namespace(self, *arrays: Any) -> Any:
        """Returns the module, NumPy or `jax.numpy`, whose arrays products with these are."""
        return namespace(*jax.tree.leaves(self), *arrays)

    def in_numpy(self) -> DataMatrix | None:
        """The matrix whose products with NumPy's arrays are NumPy's; None where there is none."""
        return None

    def products(self, s: np.ndarray, beside: np.ndarray) -> np.ndarray | None:
        """Xᵀ diag(s) [X, beside] (p, p + m) in float64, by one pass; None where rows are on the host."""
        del s, beside
        return None

    def to_host(self) -> HostMatrix:
        """The matrix for engines on the host, where all is concrete."""
        return HostOperator(self)


M = TypeVar("M", bound=DataMatrix)


class _Derived(DataMatrix, Generic[M]):
    """A matrix made of another one, of the same shape and dtype."""

    x: M

    @property
    def shape(self) -> tuple[int, int]:
        return self.x.shape

    @property
    def dtype(self) -> Any:
        return self.x.dtype


class CentredScaled(_Derived[M]):
    """(X − 1μᵀ) diag(1/σ) of a matrix that stays as it is: centring is a correction of rank one."""

    centre: Float[Real, " p"]
    inverse_scale: Float[Real, " p"]

    @property
    def batches_products(self) -> bool:
        return self.x.batches_products

    def dot(self, b: Float[Real, "p *k"]) -> Float[Real, "n *k"]:
        b = rows(self.inverse_scale, b) * b
        return self.x.dot(b) - matmul(self.centre, b)

    def rdot(self, r: Float[Real, "n *k"]) -> Float[Real, "p *k"]:
        out = self.x.rdot(r) - rows(self.centre, r) * r.sum(axis=0)
        return rows(self.inverse_scale, r) * out

    def columns(self, at: Int[Real, " m"]) -> Float[Array, "n m"]:
        return (self.x.columns(at) - self.centre[at]) * self.inverse_scale[at]


class ReplacedColumns(_Derived[DataMatrix]):
    """A matrix with the columns `values` (n, m) in place of its own at `at`."""

    at: Int[Array, " m"]
    values: Float[Array, "n m"]

    def dot(self, b: Float[Real, "p *k"]) -> Float[Array, "n *k"]:
        b = jnp.asarray(b)
        new = jnp.matmul(self.values, b[self.at], precision="highest")
        return self.x.dot(b.at[self.at].set(0)) + new

    def rdot(self, r: Float[Real, "n *k"]) -> Float[Array, "p *k"]:
        new = jnp.matmul(self.values.T, r, precision="highest")
        return self.x.rdot(r).at[self.at].set(new)

    def columns(self, at: Int[Real, " m"]) -> Float[Array, "n m"]:
        count = len(self.at)
        place = jnp.full(self.shape[1], count).at[self.at].set(jnp.arange(count))[at]
        new = self.values.at[:, place].get(mode="fill", fill_value=0)
        return jnp.where(place < count, new, self.x.columns(at))


class DenseMatrix(DataMatrix):
    """An array (n, p)."""

    array: Float[Real, "n p"]

    @property
    def shape(self) -> tuple[int, int]:
        n, p = self.array.shape
        return n, p

    @property
    def dtype(self) -> Any:
        return np.dtype(self.array.dtype)

    def dot(self, b: Float[Real, "p *k"]) -> Float[Real, "n *k"]:
        return matmul(self.array, b)

    def rdot(self, r: Float[Real, "n *k"]) -> Float[Real, "p *k"]:
        if r.ndim == 1:  # as rows, a batch of these needs no transposition
            return matmul(r, self.array)
        return matmul(self.array.T, r)

    def columns(self, at: Int[Real, " m"]) -> Float[Array, "n m"]:
        return self.padded_columns(at)

    def padded_columns(self, at: Int[Real, " m"]) -> Float[Array, "n m"]:
        return jnp.asarray(self.array).at[:, at].get(mode="fill", fill_value=0)

    def means(self, s: Float[Real, " n"]) -> Float[Real, " p"]:
        first = self.rdot(s)
        # A second pass takes off the rounding of the first, which is relative to the level.
        if self._is_numpy(s):
            rest = self._sum_of_parts(lambda x, w: w @ (x - first), s)
        else:
            rest = self._sum(lambda x, w: w * (x - first), s)
        return first + rest / s.sum()

    def squares(self, s: Float[Real, " n"], centre: Float[Real, " p"]) -> Float[Real, " p"]:
        if self._is_numpy(s):
            return self._sum_of_parts(lambda x, w: w @ (x - centre) ** 2, s)
        return self._sum(lambda x, w: w * (x - centre) ** 2, s)

    def peaks(self, s: Float[Real, " n"]) -> Float[Real, " p"]:
        def term(x, w):
            return jnp.where(w > 0, jnp.abs(x), 0)

        def step(most, row, weight):
            return jnp.maximum(most, term(row, weight))

        if self._is_numpy(s):
            x = self.array if s.all() else self.array[s > 0]
            return np.maximum(x.max(axis=0), -x.min(axis=0))
        if not self._is_wide:
            return jnp.max(term(self.array, s[:, None]), axis=0)
        return self._row_by_row(step, self._zeros(), s)

    def _sum(self, term: Callable[..., Array], s: Float[Array, " n"]) -> Float[Array, " p"]:
        """The sum of a term per row and weight."""
        if not self._is_wide:
            return jnp.sum(term(jnp.asarray(self.array), s[:, None]), axis=0)

        # Compensated summation (Kahan): a plain sum drifts where rows are many.
        def step(carry, row, weight):
            total, error = carry
            more = term(row, weight) - error
            new = total + more
            return new, frozen((new - total) - more)

        return self._row_by_row(step, (self._zeros(), self._zeros()), s)[0]

    def _is_numpy(self, s: Any) -> bool:
        return namespace(self.array, s) is np

    def _sum_of_parts(self, term: Callable[..., Any], s: np.ndarray) -> np.ndarray:
        """The sum of a term of a few rows and their weights: small enough to stay in the cache."""
        n, p = self.shape
        size = max(_PART // p, 8)
        parts = [slice(begin, begin + size) for begin in range(0, n, size)]
        return np.sum([term(self.array[part], s[part]) for part in parts], axis=0)

    @property
    def _is_wide(self) -> bool:
        """Whether rows are worth a step each: XLA on a CPU would write all their terms to memory."""
        return jax.default_backend() == "cpu" and self.shape[1] >= _WIDE

    def _row_by_row(self, step: Callable[..., Any], start: Any, s: Float[Array, " n"]) -> Any:
        # Some at a time, without a rest: for that X would be copied.
        together = next(k for k in range(8, 0, -1) if len(s) % k == 0)
        rows_ = (jnp.asarray(self.array), s)
        return jax.lax.scan(lambda c, row: (step(c, *row), None), start, rows_, unroll=together)[0]

    def _zeros(self) -> Float[Array, " p"]:
        return jnp.zeros(self.shape[1], self.array.dtype)

    def transform(self, centre: Real, inverse_scale: Real) -> DenseMatrix:
        if namespace(self.array, centre, inverse_scale) is jnp:
            return DenseMatrix((self.array - centre) * inverse_scale)
        array = aligned(self.shape, self.dtype)
        np.subtract(self.array, centre, out=array)
        if (inverse_scale != 1).any():
            array *= inverse_scale
        return DenseMatrix(array)

    def with_columns(self, at: np.ndarray, columns: np.ndarray) -> DenseMatrix:
        array = np.array(self.array)
        array[:, at] = columns
        return DenseMatrix(array)

    def as_array(self) -> Real:
        return self.array

    def in_numpy(self) -> DataMatrix | None:
        is_here = jax.default_backend() == "cpu" and is_in_process(self.array)
        return DenseMatrix(np.asarray(self.array)) if is_here else None

    def to_host(self) -> HostMatrix:
        return HostArray(np.asarray(self.array))


def is_in_process(leaf: Any) -> bool:
    """Whether a value is known, and the whole of it on one device of this process."""
    if isinstance(leaf, Tracer):
        return False
    return not isinstance(leaf, jax.Array) or len(leaf.sharding.device_set) == 1


def rows(v: Real, like: Real) -> Real:
    """A vector shaped to multiply the rows of an array."""
    return v.reshape(v.shape + (1,) * (like.ndim - 1))
