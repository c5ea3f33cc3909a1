"""The arguments of every public call on data, checked and turned into arrays."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np
from jax.core import Tracer

from ..._tracing import frozen, is_traced
from ...losses import Loss
from ...penalties import Penalty
from ._arrays import as_array, float_dtype, read_vector
from ._matrix import DataMatrix
from ._parameters import as_parameter, check_penalty
from ._precision import x64_is_on
from ._read_matrix import read_matrix
from ._sharded import to_numpy
from ._values import check_finite, check_scale, check_weights


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
    first_pass: int  # over X, where that is read in blocks


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
        wants_x64 = not _is_mixed((x, y, sample_weight, offset), (pen, loss, others))
        if not wants_x64:
            dtype = np.dtype(np.float32)
            x = x.astype(dtype)
    for name, values in (("y", y), ("sample_weight", sample_weight), ("offset", offset)):
        _check_index(X, values, name)
    y = encoded_targets(y, n, loss, dtype)
    shape = loss.predictor_shape(y.shape)
    weights = read_weights(sample_weight, n, dtype)
    offset = _read_offset(offset, shape, dtype)
    pen = check_penalty(pen, (p, *shape[1:]), has_strength)
    pen, loss = jax.tree.map(lambda leaf: as_parameter(leaf, dtype), (pen, loss))
    if x.is_distributed:  # NumPy's arrays are replicated
        rest = (y, weights, offset, pen, loss)
        y, weights, offset, pen, loss = jax.tree.map(_as_numpy, rest)
    return Inputs(x, y, weights, offset, pen, loss, names, wants_x64, x.passes or 0)


def _as_numpy(leaf: Any) -> Any:
    is_known = isinstance(leaf, jax.Array) and not isinstance(leaf, Tracer)
    return to_numpy(leaf) if is_known else leaf


def check_concrete(inputs: Inputs, others: Any, name: str, instead: str) -> None:
    """Raises a TypeError where data or options of the call `name` are traced, that says what to use."""
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((inputs[:-3], others))):
        raise TypeError(f"{name} needs concrete data: under jit or grad use {instead}.")


def _is_mixed(data: Any, rest: Any) -> bool:
    """Whether JAX arrays of float32 are among the data, or some argument is traced."""
    has_jax = any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(data))
    return has_jax or any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(rest))


def read_weights(weights: Any, n: int, dtype: Any) -> Any:
    """The weights of the rows (n,); 1/n each unless given."""
    if weights is None:
        return np.full(n, 1 / n, dtype)
    weights = read_vector(weights, "sample_weight", dtype)
    if weights.shape != (n,):
        raise ValueError(
            f"sample_weight must have one entry per row of X, shape ({n},), got {weights.shape}."
        )
    if not is_traced(weights):
        check_weights(np.asarray(frozen(weights)))
    return weights


def _read_offset(offset: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """The offset (n, *k); zeros unless given."""
    if offset is None:
        return np.zeros(shape, dtype)
    offset = read_vector(offset, "offset", dtype)
    if offset.shape not in {(), shape[:1], shape}:
        raise ValueError(
            f"offset must have one entry per row of X, shape {shape}, got {offset.shape}."
        )
    if not is_traced(offset):
        check_finite(np.asarray(frozen(offset)), "offset")
    if offset.ndim == 1 and len(shape) == 2:
        offset = offset[:, None]
    return offset + np.zeros(shape, dtype)


def encoded_targets(y: Any, n: int, loss: Loss, dtype: Any) -> Any:
    """The targets as the loss works with them, checked before that."""
    y = read_targets(y, loss)
    float_dtype(y, "y")
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
    y = as_array(y, "y")
    return y if getattr(y.dtype, "names", None) is None else loss.read_fields(y)


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


def _kind(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"{value!r}"
