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

from ..._checks import check_number
from ..._tracing import frozen, is_traced
from ...losses import Loss
from ...penalties import Penalty
from ._frames import is_frame, is_polars, label_advice, only_column, read_frame, read_series
from ._matrix import DataMatrix, DenseMatrix
from ._sparse import SparseMatrix

# Penalties, by structure and shapes, that had nothing to say: to ask takes 5 ms.
_HEARD: set[Any] = set()


class Inputs(NamedTuple):
    """Data ready for the solver, and how its answer is to be given back."""

    x: DataMatrix
    y: Any
    weights: Any
    offset: Any
    pen: Penalty
    loss: Loss
    names: tuple[str, ...] | None
    wants_x64: bool  # NumPy float64 while JAX's x64 switch is off: solve in a local x64 context


def read(
    X: Any,
    y: Any,
    pen: Any,
    loss: Any,
    sample_weight: Any,
    offset: Any,
    *others: Any,
    has_strength: bool = True,
) -> Inputs:
    """Checks everything that can be checked before any work, and converts it.

    Shapes and dtypes are always checked; values where they are concrete. `others` may hold tracers
    too: then the whole call is traced.
    """
    if not isinstance(pen, Penalty):
        raise TypeError(f"pen must be an l1jax penalty such as l1jax.L1(0.1), got {_kind(pen)}.")
    if not isinstance(loss, Loss):
        raise TypeError(
            f"loss must be an l1jax loss such as l1jax.SquaredError(), got {_kind(loss)}."
        )
    x, names = read_matrix(X)
    n, p = x.shape
    dtype, wants_x64 = x.dtype, False
    if dtype == np.float64 and not x64_is_on():
        data = jax.tree.leaves((x, y, sample_weight, offset))
        rest = jax.tree.leaves((pen, loss, others))
        wants_x64 = not any(isinstance(leaf, jax.Array) for leaf in data)
        wants_x64 &= not any(isinstance(leaf, Tracer) for leaf in rest)
        if not wants_x64:
            dtype = np.dtype(np.float32)
            x = x.astype(dtype)

    for name, values in (("y", y), ("sample_weight", sample_weight), ("offset", offset)):
        _check_index(X, values, name)
    y = _read_targets(y, n, loss, dtype)
    shape = loss.predictor_shape(y.shape)
    if sample_weight is None:
        weights = np.full(n, 1 / n, dtype)
    else:
        weights = read_vector(sample_weight, "sample_weight", dtype)
        if weights.shape != (n,):
            raise ValueError(
                f"sample_weight must have one entry per row of X, shape ({n},), got {weights.shape}."
            )
        if not is_traced(weights):
            check_weights(np.asarray(frozen(weights)))
    if offset is None:
        offset = np.zeros(shape, dtype)
    else:
        offset = read_vector(offset, "offset", dtype)
        if offset.shape not in {(), (n,), shape}:
            raise ValueError(
                f"offset must have one entry per row of X, shape {shape}, got {offset.shape}."
            )
        if not is_traced(offset):
            check_finite(np.asarray(frozen(offset)), "offset")
        if offset.ndim == 1 and len(shape) == 2:
            offset = offset[:, None]
        offset = offset + np.zeros(shape, dtype)
    pen = _checked_penalty(pen, (p, *shape[1:]), has_strength)
    pen, loss = jax.tree.map(lambda leaf: _as_parameter(leaf, dtype), (pen, loss))
    return Inputs(x, y, weights, offset, pen, loss, names, wants_x64)


def _read_targets(y: Any, n: int, loss: Loss, dtype: Any) -> Any:
    """The targets as the loss works with them, checked before that."""
    y = read_targets(y, loss)
    _float_dtype(y, "y")
    if y.ndim not in (1, 2) or y.shape[0] != n or y.size == 0:
        raise ValueError(
            f"y must have one row per row of X: shape ({n},), or ({n}, k) for k responses; got {y.shape}."
        )
    if is_traced(y):
        loss.check_shape(y.shape)
    else:
        host = np.asarray(frozen(y))
        check_finite(host, "y")
        loss.check_targets(host)
    y = loss.encode(y).astype(dtype)
    if not is_traced(y):
        check_scale(np.asarray(frozen(y)), "y")
    return y


def read_targets(y: Any, loss: Loss) -> Any:
    """Targets of any kind as an array: a table of one column is (n,), named fields are columns."""
    y = _as_array(y, "y")
    return y if getattr(y.dtype, "names", None) is None else loss.read_fields(y)


def _check_operator(x: DataMatrix) -> DataMatrix:
    """A matrix of a user's own kind: its entries cannot be checked, but what it says of itself can."""
    kind = type(x).__name__
    shape = x.shape
    if len(shape) != 2 or not all(
        isinstance(size, int | np.integer) and size > 0 for size in shape
    ):
        raise ValueError(
            f"{kind}.shape must be (n, p) with at least one row and column, got {shape}."
        )
    if np.dtype(x.dtype) not in (np.float32, np.float64):
        raise TypeError(f"{kind}.dtype must be float32 or float64, got {x.dtype}.")
    for leaf in jax.tree.leaves(x):
        if not isinstance(leaf, np.ndarray | jax.Array):
            raise TypeError(
                f"{kind} must hold arrays, got {leaf!r} in a field: declare it as "
                "equinox.field(static=True)."
            )
    return x


def read_matrix(X: Any) -> tuple[DataMatrix, tuple[str, ...] | None]:
    """X as an operator, and the names of its columns where it has them."""
    if isinstance(X, DataMatrix):
        return _check_operator(X), None
    names, fill = None, ""
    if is_frame(X):
        names = tuple(str(name) for name in X.columns)
        means = 'X.fill_nan(None).fill_null(strategy="mean")'
        fill = means if is_polars(X) else "X.fillna(X.median())"
        X = read_frame(X, "X")
    if isinstance(X, jax_sparse.BCSR):
        X = X.to_bcoo()
    is_scipy = hasattr(X, "tocoo") and not isinstance(X, np.ndarray | jax.Array)
    is_sparse = is_scipy or isinstance(X, jax_sparse.BCOO)
    X = X if is_sparse else _as_array(X, "X")
    if not is_sparse and X.ndim == 0:
        given = X.item()
        advice = "A file is read first, for example with pandas.read_csv."
        if hasattr(given, "shape"):
            advice = "An operator is a subclass of l1jax.DataMatrix."
        raise TypeError(f"X must be a matrix of numbers, got {given!r}. {advice}")
    if X.ndim != 2:
        hint = " One feature is a column: X[:, None]." if X.ndim == 1 else ""
        raise ValueError(f"X must be a matrix of shape (n, p), got shape {X.shape}.{hint}")
    if 0 in X.shape:
        raise ValueError(f"X is empty: shape {X.shape}. It needs at least one row and one column.")
    if is_sparse:
        return (_read_scipy(X) if is_scipy else _read_bcoo(X)), names
    X = X.astype(_float_dtype(X, "X"), copy=False)
    if not is_traced(X):
        host = np.asarray(frozen(X))
        if not _is_harmless(host):
            check_finite(host, "X", names, fill)
            check_scale(host, "X")
    return DenseMatrix(_anew(X)), names


def _anew(values: Any) -> Any:
    """A view of an array of NumPy: of one that a user has traced, JAX may have kept a rounded copy."""
    return values.view() if type(values) is np.ndarray else values


def _as_parameter(value: Any, dtype: Any) -> Any:
    """A number or array in a field of a penalty or loss, real ones in the precision of the data.

    Python numbers would be constants of the compiled program, and of fewer digits where x64 is off.
    """
    if isinstance(value, float | np.floating):
        return np.asarray(value, dtype)
    if hasattr(value, "dtype") and jnp.issubdtype(value.dtype, jnp.floating):
        return _anew(value.astype(dtype))
    return np.asarray(value) if isinstance(value, np.generic) else value


def _read_scipy(X: Any) -> SparseMatrix:
    coo = X.tocsc().tocoo()  # by columns, without repeated entries
    data = np.asarray(coo.data, _float_dtype(coo.data, "X"))
    rows, cols = coo.row.astype(np.int32), coo.col.astype(np.int32)
    _check_entries(data, rows, cols)
    return SparseMatrix(data, rows, cols, (int(coo.shape[0]), int(coo.shape[1])))


def _read_bcoo(X: jax_sparse.BCOO) -> SparseMatrix:
    if X.n_batch or X.n_dense:
        raise ValueError(
            f"X must be a BCOO matrix without batch or dense dimensions, got n_batch={X.n_batch} and "
            f"n_dense={X.n_dense}."
        )
    X = X.sum_duplicates(nse=X.nse)
    data, rows, cols = X.data, X.indices[:, 0], X.indices[:, 1]
    data = data.astype(_float_dtype(data, "X"))
    if not is_traced(data):
        _check_entries(np.asarray(frozen(data)), rows, cols)
    return SparseMatrix(data, rows, cols, (int(X.shape[0]), int(X.shape[1])))


def _check_entries(data: np.ndarray, rows: Any, cols: Any) -> None:
    bad = np.flatnonzero(~np.isfinite(data))
    if len(bad):
        at = int(bad[0])
        raise ValueError(f"X must be finite, got {data[at]} at row {rows[at]}, column {cols[at]}.")
    check_scale(data, "X")


def _is_harmless(array: np.ndarray) -> bool:
    """Whether one sum of squares, which is fast, says that entries are finite and of a usual size."""
    if not (array.flags.c_contiguous or array.flags.f_contiguous):
        return False
    entries = array.ravel(order="K")
    with np.errstate(over="ignore", invalid="ignore"):
        size = float(np.dot(entries, entries))
    return bool(1e-30 < size < 1e30)


def check_finite(
    array: np.ndarray, name: str, columns: tuple[str, ...] | None = None, fill: str = ""
) -> None:
    if np.isfinite(array).all():
        return
    at = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
    place = f"row {at[0]}" if at else ""
    if len(at) == 2:
        place += f", column {columns[at[1]]!r}" if columns else f", column {at[1]}"
    bad = ~np.isfinite(array)
    count = f"{bad.sum()} such {'entry' if bad.sum() == 1 else 'entries'}"
    advice = "Drop those rows or fill them in first"
    if columns:
        some = [f"{columns[j]!r}" for j in np.flatnonzero(bad.any(axis=0))]
        listed = ", ".join(some[:5]) + (", ..." if len(some) > 5 else "")
        count += f" in {'column' if len(some) == 1 else f'{len(some)} columns:'} {listed}"
        advice += f", for example with {fill}"
    raise ValueError(f"{name} must be finite, got {array[at]} at {place} ({count}). {advice}.")


def check_scale(array: np.ndarray, name: str) -> None:
    """Raises where the squares that a fit needs would overflow, or all vanish."""
    peak = max(array.max(initial=0), -array.min(initial=0))
    limit = 1e150 if array.dtype == np.float64 else 1e18
    if peak > limit or 0 < peak < 1 / limit:
        raise ValueError(
            f"{name} must have entries whose squares {array.dtype} can hold: its largest is "
            f"{peak:.3g}. Measure it in other units."
        )


def check_weights(weights: np.ndarray) -> None:
    check_finite(weights, "sample_weight")
    if (weights < 0).any():
        at = int(np.flatnonzero(weights < 0)[0])
        raise ValueError(f"sample_weight must be >= 0, got {weights[at]} at row {at}.")
    with np.errstate(over="ignore"):
        if not np.isfinite(weights.sum()):
            raise ValueError(
                "sample_weight must have a finite sum: divide it by its largest entry."
            )
    if not weights.any():
        raise ValueError("sample_weight sums to zero: at least one row must count.")


def default_tolerance(dtype: Any) -> float:
    """`tol`, unless it is given."""
    return 1e-6 if dtype == np.float64 else 1e-4


def check_tol(tol: Any, dtype: Any) -> Any:
    if tol is None:
        return np.asarray(default_tolerance(dtype), dtype)
    return check_number(tol, "tol", 0).astype(dtype)


def check_max_steps(max_steps: Any) -> Any:
    return check_number(max_steps, "max_steps", 1, whole=True)


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


def _checked_penalty(pen: Penalty, shape: tuple[int, ...], has_strength: bool) -> Penalty:
    """The penalty, its strength checked as that of a built-in one is at its construction.

    Lets it speak: its own sentences about a missing strength or lengths that do not fit.
    """
    strength = pen.strength_value
    if has_strength and strength is not None and np.ndim(strength) != 0:
        raise ValueError(
            f"{pen.strength} must be one number, got shape {np.shape(strength)}: fit a grid with "
            "l1jax.path(..., lams=...), or jax.vmap over pen.with_strength."
        )
    if strength is not None:
        pen = pen.with_strength(strength)
    example = pen
    if not has_strength and hasattr(pen, pen.strength):
        example = pen.with_strength(1.0)
    leaves, structure = jax.tree.flatten(example)
    case = (structure, tuple(map(np.shape, leaves)), tuple(map(type, leaves)), shape, x64_is_on())
    if case not in _HEARD:
        for method in (example.value, example.prox):
            try:
                jax.eval_shape(method, jax.ShapeDtypeStruct(shape, jnp.result_type(float)))
            except TypeError:
                if has_strength and strength is None and hasattr(pen, pen.strength):
                    raise ValueError(
                        f"{type(pen).__name__} has no {pen.strength} yet: pass it, or "
                        "pen.with_strength(0.1)."
                    ) from None
                raise
        _HEARD.add(case)
    return pen


def _check_index(X: Any, values: Any, name: str) -> None:
    """Rows are matched by position: labels that say otherwise are a mistake."""
    ours, theirs = getattr(X, "index", None), getattr(values, "index", None)
    if ours is None or theirs is None or not hasattr(ours, "equals"):
        return  # a list's `index` is a method
    if hasattr(theirs, "equals") and not ours.equals(theirs):
        raise ValueError(
            f"{name} must have the index of X, row by row: align it with {name}.loc[X.index], or drop "
            f"the labels with {name}.to_numpy()."
        )


def read_vector(values: Any, name: str, dtype: Any) -> Any:
    values = _as_array(values, name)
    _float_dtype(values, name)
    return values.astype(dtype)


def _as_array(values: Any, name: str) -> Any:
    if isinstance(values, jax.Array):
        return values
    if is_frame(values):
        values = only_column(values)
    if is_frame(values):
        return read_frame(values, name)
    if hasattr(values, "to_frame"):
        values = read_series(values, name)
    elif hasattr(values, "to_numpy"):
        values = values.to_numpy()
    if np.ma.is_masked(values):
        raise ValueError(f"{name} has masked entries: drop those rows or fill them in first.")
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(f"{name} must be a rectangular array of numbers: {error}.") from None
    return array


def _float_dtype(array: Any, name: str) -> Any:
    """float32 for what is no longer, float64 for the rest; what JAX has of it for its arrays."""
    dtype = array.dtype
    if not jnp.issubdtype(dtype, jnp.floating) and dtype.kind not in "iub":
        hint = ""
        if name == "y" and dtype.kind in "OUS":
            hint = f" {label_advice(array, name)}"
        elif dtype.kind in "OUS":
            hint = f" Numbers that are kept as objects or text: {name}.astype(float). Else encode them first."
        raise TypeError(f"{name} must hold real numbers, got dtype {dtype}.{hint}")
    is_short = jnp.issubdtype(dtype, jnp.floating) and dtype.itemsize <= 4
    wanted = np.dtype(np.float32 if is_short else np.float64)
    return jax.dtypes.canonicalize_dtype(wanted) if isinstance(array, jax.Array) else wanted


def _kind(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"{value!r}"
