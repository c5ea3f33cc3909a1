"""The tableau of a quadratic model on a working set, in product form.

With Q (W, W) the Hessian on the working set and A the active set, the tableau

    S = [ −Q_AA⁻¹        Q_AA⁻¹ Q_AN              ]
        [ Q_NA Q_AA⁻¹    Q_NN − Q_NA Q_AA⁻¹ Q_AN  ]

says how coefficients in A and gradients outside move: where gradients are to change by v, coefficients
change by −(Sv)_A and gradients outside by v − Sv. It is never formed: one of its columns, or its product with
a vector, takes the inverse of the first Q_AA, a product with the columns, and the pivots since then. Where
column j enters or leaves A, S changes by a matrix of rank one. Source: Cottle and Dantzig (1968) for principal
pivots.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from ...._arrays import matmul


class Products(NamedTuple):
    """The products with Q of the W columns, of which the first M may be active at the start."""

    dot: Callable[[Array], Array]  # (W,) to (W,): Q v
    dot_active: Callable[[Array], Array]  # (M,) to (W,): Q[:, :M] v
    row: Callable[[Array], Array]  # Q[j]
    diagonal: Float[Array, " W"]


class Tableau(NamedTuple):
    """The tableau at a first active set A among the first M columns."""

    products: Products
    inverse: Float[Array, "M M"]  # Q_AA⁻¹; zero off A
    is_active: Bool[Array, " W"]

    def padded(self, v: Array) -> Array:
        """Returns a vector (M,) of the active columns as one of all."""
        return jnp.pad(v, (0, len(self.is_active) - len(v)))

    def column(self, j: Array) -> Array:
        """Returns its column j."""
        num_active = len(self.inverse)
        row, inside = self.products.row(j), self.is_active[j]
        at = jnp.arange(num_active) == j
        wanted = jnp.where(inside, at, self.is_active[:num_active] * row[:num_active])
        solved = self.inverse @ wanted
        through = self.products.dot_active(solved)
        active = jnp.where(inside, -1, 1) * self.padded(solved)
        return jnp.where(self.is_active, active, jnp.where(inside, through, row - through))

    def dot(self, v: Array) -> Array:
        """Returns S v."""
        num_active = len(self.inverse)
        outside = self.products.dot(jnp.where(self.is_active, 0, v))
        wanted = jnp.where(self.is_active, outside - v, 0)
        solved = self.inverse @ wanted[:num_active]
        through = self.products.dot_active(solved)
        return jnp.where(self.is_active, self.padded(solved), outside - through)

    def rate(self, v: Array) -> Array:
        """Returns how z moves where the gradients of the active columns are to change by v."""
        solved = self.inverse @ v[: len(self.inverse)]
        return jnp.where(self.is_active, self.padded(solved), -self.products.dot_active(solved))


def inverse_on(active: Array, hessian: Array) -> Array:
    """Returns the inverse of the Hessian (M, M) on the active columns, 0 off them; NaN where it is singular."""
    both = active[:, None] & active
    eye = jnp.eye(len(active), dtype=hessian.dtype)
    factor = jnp.linalg.cholesky(jnp.where(both, hessian, eye), symmetrize_input=False)
    root = lax.linalg.triangular_solve(factor, eye, left_side=True, lower=True)
    return jnp.where(both, matmul(root.T, root), 0)


class Pivots(NamedTuple):
    """The changes of the active set since the first tableau; K + 1 rows, of which the last is spare."""

    columns: Float[Array, "K1 W"]
    inverse: Float[Array, " K1"]  # 1 / the pivot
    shift: Float[Array, " W"]  # of the diagonal
    num_pivots: Int[Array, ""]

    @classmethod
    def none(cls, capacity: int, like: Array) -> Pivots:
        """Returns the empty product form."""
        rows = capacity + 1
        table = jnp.zeros((rows, len(like)), like.dtype)
        return cls(table, table[:, 0], jnp.zeros_like(like), jnp.int32(0))

    @property
    def is_full(self) -> Array:
        """Whether there is no row for another one."""
        return self.num_pivots >= len(self.inverse) - 1

    def column(self, first: Tableau, j: Array) -> Array:
        """Returns column j of the present tableau."""
        of_j = lax.dynamic_index_in_dim(self.columns, j, 1, keepdims=False)
        changed = first.column(j) - (self.inverse * of_j) @ self.columns
        return changed + jnp.where(jnp.arange(len(changed)) == j, self.shift, 0)

    def dot(self, first: Tableau, v: Array) -> Array:
        """Returns the present tableau times v."""
        changed = first.dot(v) - (self.inverse * (self.columns @ v)) @ self.columns
        return changed + self.shift * v

    def add(self, j: Array, column: Array, leaves: Array, pivots: Array) -> Pivots:
        """Returns the product form with a pivot on column j, where there is one."""
        at, sign = jnp.arange(len(column)) == j, jnp.where(leaves, -1, 1)
        row = jnp.where(pivots, self.num_pivots, len(self.inverse) - 1)
        return Pivots(
            put(self.columns, jnp.where(at, column - sign, column), row),
            put(self.inverse, jnp.where(pivots, 1 / column[j], 0), row),
            jnp.where(at & pivots, self.shift - 2 * sign, self.shift),
            self.num_pivots + pivots,
        )


def put(table: Array, value: Array, row: Array) -> Array:
    """Returns the table with a value in one of its rows."""
    return lax.dynamic_update_index_in_dim(table, value.astype(table.dtype), row, 0)
