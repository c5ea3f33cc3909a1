"""Linear operators A of penalties R(A x): arrays, sparse matrices, functions; differences along a graph."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy  # of which each part loads when it is used
from jaxtyping import Array, Float, Int, PyTree

from ._tracing import frozen, is_traced
from ._types import Real

Operator = Callable[[PyTree], PyTree]


class MatrixOperator(eqx.Module):
    """A dense matrix (m, p), for x (p,) or (p, k)."""

    matrix: Float[Real, "m p"]

    def __call__(self, x: Array) -> Array:
        _check_fits(self.matrix.shape, x)
        return jnp.matmul(jnp.asarray(self.matrix, x.dtype), x, precision="highest")

    def __repr__(self) -> str:
        return _show_matrix("array", self.matrix.shape)


class SparseOperator(eqx.Module):
    """A sparse matrix (m, p) by its entries that are not zero, for x (p,) or (p, k)."""

    data: Float[Real, " nnz"]
    rows: Int[Real, " nnz"]
    cols: Int[Real, " nnz"]
    shape: tuple[int, int] = eqx.field(static=True)

    def __call__(self, x: Array) -> Array:
        _check_fits(self.shape, x)
        data = jnp.asarray(self.data, x.dtype).reshape((-1,) + (1,) * (x.ndim - 1))
        return jax.ops.segment_sum(data * x[self.cols], self.rows, self.shape[0])

    def __repr__(self) -> str:
        return _show_matrix("sparse", self.shape)


def as_operator(A: Any) -> Operator:
    """Returns A as a function of x that is a pytree of its arrays; a function is checked where x is known."""
    # Who has one of these has loaded their module.
    jax_sparse = sys.modules.get("jax.experimental.sparse")
    if jax_sparse is not None and isinstance(A, jax_sparse.BCSR):
        A = A.to_bcoo()
    if jax_sparse is not None and isinstance(A, jax_sparse.BCOO):
        return _of_bcoo(A)
    if hasattr(A, "tocoo"):
        return _of_scipy(A)
    if callable(A):
        # A plain function is no leaf, so that maps over a penalty see only its arrays.
        return jax.tree_util.Partial(A) if jax.tree_util.all_leaves([A]) else A
    return _as_matrix(A)


def _of_scipy(A: Any) -> SparseOperator:
    coo = A.tocsr().tocoo()  # by rows
    data = np.asarray(coo.data, coo.data.dtype if coo.data.dtype.kind == "f" else float)
    _check_finite(data)
    shape = (int(A.shape[0]), int(A.shape[1]))
    return SparseOperator(data, coo.row.astype(np.int32), coo.col.astype(np.int32), shape)


def _of_bcoo(A: Any) -> SparseOperator:
    if A.n_batch or A.n_dense:
        raise ValueError(
            "operator must be a BCOO matrix without batch or dense dimensions, got "
            f"n_batch={A.n_batch} and n_dense={A.n_dense}."
        )
    _check_finite(A.data)
    shape = (int(A.shape[0]), int(A.shape[1]))
    # Entries that pad it are outside of the matrix, and dropped.
    return SparseOperator(A.data, A.indices[:, 0], A.indices[:, 1], shape)


def _as_matrix(A: Any) -> MatrixOperator:
    matrix = A if isinstance(A, jax.Array) else np.asarray(A)
    if matrix.dtype.kind not in "fiub" and not isinstance(A, jax.Array):
        raise TypeError(
            "operator must be a matrix, a scipy.sparse or BCOO matrix, or a linear function of x, got "
            f"{type(A).__name__}."
        )
    if matrix.ndim != 2:
        raise ValueError(f"operator must be a matrix of shape (m, p), got shape {matrix.shape}.")
    if matrix.dtype.kind != "f":
        matrix = matrix.astype(float)
    _check_finite(matrix)
    return MatrixOperator(matrix)


def check_linear(operator: Operator, like: PyTree) -> None:
    """Raises unless a function of trees like this one is linear, as far as its program and A(0) say."""
    if isinstance(operator, MatrixOperator | SparseOperator):
        jax.eval_shape(operator, like)  # checks the shape of x
        return
    try:
        transposed = jax.linear_transpose(operator, like)
        jax.eval_shape(transposed, jax.eval_shape(operator, like))
    except (NotImplementedError, AssertionError, ValueError) as error:
        raise TypeError(
            f"operator must be a linear function of x, whose transpose JAX can find, got {operator!r}: "
            f"{str(error).splitlines()[0] if str(error) else 'it is not linear'}"
        ) from error
    at_zero = frozen(operator(jax.tree.map(jnp.zeros_like, like)))
    if not is_traced(at_zero) and any(bool(jnp.any(a != 0)) for a in jax.tree.leaves(at_zero)):
        raise ValueError(
            "operator must be linear, got a function that is not 0 at 0: shift what the penalty is of instead."
        )


def graph_differences(edges: Any, n_nodes: int | None = None, weights: Any = None) -> Any:
    """Returns the differences along the edges of a graph, D (m, p) with (D x)ₑ = wₑ (xⱼ − xᵢ) for e = (i, j).

    It is the transposed oriented incidence matrix: Σₑ wₑ|xⱼ − xᵢ| = ‖D x‖₁ is total variation on the graph, and
    DᵀD its Laplacian with weights w². Trend filtering on a graph is of the products DᵀD, D DᵀD, ...

    **Arguments:**

    - `edges`: pairs of nodes (m, 2), integers from 0; the order within a pair is a sign.
    - `n_nodes`: p; by default one more than the largest node.
    - `weights`: w, one per edge, 1 unless given.

    **Returns:** a `scipy.sparse` matrix in CSR format.

    **Raises:** TypeError for edges that are no integers, ValueError for pairs of another shape, a node that is
    not there, an edge from a node to itself, and weights of another shape or not finite.
    Source: Tibshirani and Taylor (2011); Wang, Sharpnack, Smola and Tibshirani (2016).

    **Example:**

    ```python
    >>> import l1jax
    >>> print(l1jax.graph_differences([(0, 1), (1, 2), (0, 2)]).toarray())
    [[-1.  1.  0.]
     [ 0. -1.  1.]
     [-1.  0.  1.]]

    ```
    """
    edges = np.asarray(edges)
    if edges.size and edges.dtype.kind not in "iu":
        raise TypeError(f"edges must be integers, the places of nodes, got dtype {edges.dtype}.")
    if edges.ndim != 2 or edges.shape[1] != 2 or not len(edges):
        raise ValueError(f"edges must be pairs of nodes, shape (m, 2), got shape {edges.shape}.")
    m, p = len(edges), int(edges.max()) + 1 if n_nodes is None else int(n_nodes)
    if edges.min() < 0 or edges.max() >= p:
        raise ValueError(
            f"edges must be of nodes from 0 to {p - 1}, got {edges.min() if edges.min() < 0 else edges.max()}."
        )
    loops = np.flatnonzero(edges[:, 0] == edges[:, 1])
    if loops.size:
        raise ValueError(f"edges must be between two nodes, got {edges[loops[0]].tolist()}.")
    w = np.ones(m) if weights is None else np.asarray(weights, float)
    if w.shape != (m,) or not np.isfinite(w).all():
        raise ValueError(f"weights must be {m} finite numbers, one per edge, got shape {w.shape}.")
    rows, values = np.repeat(np.arange(m), 2), np.stack([-w, w], axis=1).ravel()
    return scipy.sparse.csr_matrix((values, (rows, edges.ravel())), shape=(m, p))


def _check_fits(shape: tuple[int, ...], x: Any) -> None:
    if getattr(x, "ndim", 0) not in (1, 2) or x.shape[0] != shape[1]:
        given = f"shape {x.shape}" if hasattr(x, "shape") else type(x).__name__
        raise ValueError(
            f"the operator has shape {shape}, for x of shape ({shape[1]},) or ({shape[1]}, k), got {given}: "
            "for other arrays, or a tree of them, pass a linear function."
        )


def _check_finite(values: Any) -> None:
    if not is_traced(values) and not np.isfinite(np.asarray(frozen(values))).all():
        raise ValueError("operator must be finite, got NaN or inf in it.")


def _show_matrix(kind: str, shape: tuple[int, ...]) -> str:
    return f"{kind} matrix {tuple(shape)}"
