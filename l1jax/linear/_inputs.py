"""What users hand in, checked and turned into arrays: one place for every sentence about bad data."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.experimental import sparse as jax_sparse

from ..losses import Loss
from ..penalties import Penalty
from ._matrix import DenseMatrix, SparseMatrix


class Inputs(NamedTuple):
    """Data ready for the solver, and how its answer is to be given back."""

    x: Any  # DenseMatrix or SparseMatrix
    y: Any
    weights: Any
    offset: Any
    names: tuple[str, ...] | None
    is_traced: bool
    wants_x64: (
        bool  # NumPy float64 data while JAX's x64 switch is off: solve in a local x64 context
    )


def read(
    X: Any,
    y: Any,
    pen: Any,
    loss: Any,
    sample_weight: Any,
    offset: Any,
    *,
    has_strength: bool = True,
) -> Inputs:
    """Checks everything that can be checked before any work, and converts it.

    Shapes and dtypes are always checked; values where they are concrete.
    """
    if not isinstance(pen, Penalty):
        raise TypeError(f"pen must be an l1jax penalty such as l1jax.L1(0.1), got {_kind(pen)}.")
    if not isinstance(loss, Loss):
        raise TypeError(
            f"loss must be an l1jax loss such as l1jax.SquaredError(), got {_kind(loss)}."
        )
    is_traced = any(
        isinstance(leaf, Tracer)
        for leaf in jax.tree.leaves((X, y, pen, loss, sample_weight, offset))
    )
    x, names = read_matrix(X)
    n, p = x.shape
    dtype = x_dtype(x)
    is_host = not any(
        isinstance(leaf, jax.Array) for leaf in jax.tree.leaves((x, y, sample_weight, offset))
    )
    wants_x64 = is_host and not is_traced and dtype == np.float64 and not x64_is_on()

    y = _column(y, "y", dtype)
    if y.ndim not in (1, 2) or y.shape[0] != n or y.size == 0:
        raise ValueError(
            f"y must have one row per row of X: shape ({n},), or ({n}, k) for k responses; got {y.shape}."
        )
    if not isinstance(y, Tracer):
        host = np.asarray(y)
        check_finite(host, "y")
        loss.check_targets(host)
    elif y.ndim == 2:
        loss.check_targets(np.zeros(y.shape))
    if sample_weight is None:
        weights = np.full(n, 1 / n, dtype)
    else:
        weights = _column(sample_weight, "sample_weight", dtype)
        if weights.shape != (n,):
            raise ValueError(
                f"sample_weight must have one entry per row of X, shape ({n},), got {weights.shape}."
            )
        if not isinstance(weights, Tracer):
            check_weights(np.asarray(weights))
    if offset is None:
        offset = np.zeros(y.shape, dtype)
    else:
        offset = _column(offset, "offset", dtype)
        if offset.shape not in {(), (n,), y.shape}:
            raise ValueError(
                f"offset must have one entry per row of X, shape {y.shape}, got {offset.shape}."
            )
        if not isinstance(offset, Tracer):
            check_finite(np.asarray(offset), "offset")
        if offset.ndim == 1 and y.ndim == 2:
            offset = offset[:, None]
        offset = offset + np.zeros(y.shape, dtype)
    _check_penalty(pen, (p, *y.shape[1:]), has_strength)
    return Inputs(x, y, weights, offset, names, is_traced, wants_x64)


def read_matrix(X: Any) -> tuple[Any, tuple[str, ...] | None]:
    """X as an operator, and the names of its columns where it has them."""
    names = None
    if hasattr(X, "columns") and hasattr(X, "to_numpy"):
        names = tuple(str(name) for name in X.columns)
        for name, kind in zip(X.columns, X.dtypes, strict=True):
            if getattr(kind, "kind", "O") not in "fiub":
                raise TypeError(
                    f"X: column {name!r} has dtype {kind}, which is not numeric. Encode it first, for "
                    "example with pandas.get_dummies(X, drop_first=True, dtype=float)."
                )
        X = X.to_numpy(dtype=np.float64 if any(k != np.float32 for k in X.dtypes) else np.float32)
    if hasattr(X, "tocoo") and not isinstance(X, np.ndarray | jax.Array):
        return _read_sparse(X), names
    if isinstance(X, jax_sparse.BCOO):
        X = X.sum_duplicates(nse=X.nse)
        data = X.data.astype(_float_dtype(X.data.dtype, "X"))
        return SparseMatrix(data, X.indices[:, 0], X.indices[:, 1], None, None, X.shape), names
    X = _as_array(X, "X")
    if X.ndim != 2:
        hint = " One feature is a column: X[:, None]." if X.ndim == 1 else ""
        raise ValueError(f"X must be a matrix of shape (n, p), got shape {X.shape}.{hint}")
    if 0 in X.shape:
        raise ValueError(f"X is empty: shape {X.shape}. It needs at least one row and one column.")
    X = X.astype(_float_dtype(X.dtype, "X"))
    if not isinstance(X, Tracer):
        check_finite(np.asarray(X), "X", names)
    return DenseMatrix(X), names


def _read_sparse(X: Any) -> SparseMatrix:
    coo = X.tocsc().tocoo()  # by columns, without repeated entries
    if 0 in coo.shape:
        raise ValueError(
            f"X is empty: shape {coo.shape}. It needs at least one row and one column."
        )
    data = np.asarray(coo.data, _float_dtype(coo.data.dtype, "X"))
    if not np.isfinite(data).all():
        at = int(np.flatnonzero(~np.isfinite(data))[0])
        raise ValueError(
            f"X must be finite, got {data[at]} at row {coo.row[at]}, column {coo.col[at]}."
        )
    rows, cols = coo.row.astype(np.int32), coo.col.astype(np.int32)
    return SparseMatrix(data, rows, cols, None, None, (int(coo.shape[0]), int(coo.shape[1])))


def x_dtype(x: Any) -> Any:
    return np.dtype((x.array if isinstance(x, DenseMatrix) else x.data).dtype)


def check_finite(array: np.ndarray, name: str, columns: tuple[str, ...] | None = None) -> None:
    if np.isfinite(array).all():
        return
    at = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
    place = f"row {at[0]}" if at else ""
    if len(at) == 2:
        place += f", column {columns[at[1]]!r}" if columns else f", column {at[1]}"
    count = int((~np.isfinite(array)).sum())
    raise ValueError(
        f"{name} must be finite, got {array[at]} at {place} ({count} such "
        f"{'entry' if count == 1 else 'entries'}). Drop those rows or fill them in first."
    )


def check_weights(weights: np.ndarray) -> None:
    check_finite(weights, "sample_weight")
    if (weights < 0).any():
        at = int(np.flatnonzero(weights < 0)[0])
        raise ValueError(f"sample_weight must be >= 0, got {weights[at]} at row {at}.")
    if weights.sum() <= 0:
        raise ValueError("sample_weight sums to zero: at least one row must count.")


def check_tol(tol: Any, dtype: Any) -> Any:
    if tol is None:
        return np.asarray(1e-6 if dtype == np.float64 else 1e-4, dtype)
    if not isinstance(tol, Tracer) and not float(tol) >= 0:
        raise ValueError(f"tol must be a number >= 0, got {tol}.")
    return tol if isinstance(tol, Tracer) else np.asarray(tol, dtype)


def check_max_steps(max_steps: Any) -> Any:
    if isinstance(max_steps, Tracer):
        return max_steps
    if int(max_steps) != max_steps or max_steps < 1:
        raise ValueError(f"max_steps must be a whole number >= 1, got {max_steps}.")
    return np.asarray(max_steps, np.int32)


def x64_is_on() -> bool:
    return jnp.result_type(float) == jnp.float64


@contextlib.contextmanager
def precision(wants_x64: bool) -> Iterator[None]:
    """A local x64 context where NumPy float64 data asks for one."""
    with jax.enable_x64(True) if wants_x64 else contextlib.nullcontext():
        yield


def give_back(result: Any, wants_x64: bool) -> Any:
    """NumPy arrays where the answer was found in a local x64 context: JAX would round it outside."""
    if not wants_x64:
        return result
    return jax.tree.map(
        lambda leaf: np.asarray(leaf) if isinstance(leaf, jax.Array) else leaf, result
    )


def _check_penalty(pen: Penalty, shape: tuple[int, ...], has_strength: bool) -> None:
    """Lets the penalty speak: its own sentences about a missing strength or lengths that do not fit."""
    strength = getattr(pen, pen.strength, 0.0)
    if has_strength and strength is not None and np.ndim(strength) != 0:
        raise ValueError(
            f"{pen.strength} must be one number, got shape {np.shape(strength)}: fit a grid with "
            "l1jax.path(..., lams=...), or jax.vmap over pen.with_strength."
        )
    if not has_strength and hasattr(pen, pen.strength):
        pen = pen.with_strength(1.0)
    jax.eval_shape(pen.prox, jax.ShapeDtypeStruct(shape, jnp.result_type(float)))


def _column(values: Any, name: str, dtype: Any) -> Any:
    values = _as_array(values, name)
    _float_dtype(values.dtype, name)
    return values.astype(dtype)


def _as_array(values: Any, name: str) -> Any:
    if isinstance(values, jax.Array):
        return values
    if hasattr(values, "to_numpy"):
        values = values.to_numpy()
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(f"{name} must be a rectangular array of numbers: {error}.") from None
    return array


def _float_dtype(dtype: Any, name: str) -> Any:
    if jnp.issubdtype(dtype, jnp.floating):
        return np.dtype(np.float32) if np.dtype(dtype).itemsize < 4 else np.dtype(dtype)
    if dtype.kind in "iub":
        return np.dtype(np.float64)
    raise TypeError(f"{name} must hold real numbers, got dtype {dtype}.")


def _kind(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"{value!r}"
