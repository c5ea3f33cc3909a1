"""Formulas that are written once: in NumPy for arrays of NumPy's, in JAX for all others.

A formula asks for `xp = namespace(...)` and uses it as `jax.numpy`. On a host, where all is known, NumPy needs
no compilation; what is traced, or lives on an accelerator, is an array of JAX's and stays one. Formulas
work on the last axes of what they are given (on rows, features), so that others may come before them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import scipy  # of which each part loads when it is used
from jax.scipy import special as jsp


def namespace(*arrays: Any) -> Any:
    """Returns `jax.numpy` if one of the arrays is JAX's, known or traced; else `numpy`."""
    return jnp if any(isinstance(array, jax.Array) for array in arrays) else np


def is_numpy(tree: Any) -> bool:
    """Whether no leaf is an array of JAX's."""
    return namespace(*jax.tree.leaves(tree)) is np


def eps(like: Any) -> float:
    """Returns the unit of rounding of an array's precision."""
    return float(jnp.finfo(like.dtype).eps)


def while_loop(condition: Callable, body: Callable, carry: Any) -> Any:
    """`jax.lax.while_loop`; in NumPy a loop, which goes on while the condition holds anywhere.

    There an entry of the carry for which the condition does not hold is kept, as `jax.vmap` does.
    """
    if namespace(*jax.tree.leaves(carry)) is jnp:
        return jax.lax.while_loop(condition, body, carry)
    while True:
        goes_on = np.asarray(condition(carry))
        if not goes_on.any():
            return carry
        new = body(carry)
        carry = jax.tree.map(lambda a, b, on=goes_on: np.where(_along(on, a), a, b), new, carry)


def if_any(condition: Any, make: Callable[[], Any], other: Any) -> Any:
    """Returns what `make` returns; in NumPy `other`, where the condition holds nowhere."""
    return make() if namespace(condition) is jnp or condition.any() else other


def _along(condition: np.ndarray, like: Any) -> np.ndarray:
    """A condition per lane, shaped for arrays with more axes."""
    return condition.reshape(condition.shape + (1,) * (like.ndim - condition.ndim))


def matmul(a: Any, b: Any) -> Any:
    """Returns A B, of which no digit is given up on an accelerator."""
    if namespace(a, b) is np:
        return np.matmul(a, b)
    return jnp.matmul(a, b, precision="highest")


def constant(x: Any) -> Any:
    """Returns x as a constant to derivatives."""
    return jax.lax.stop_gradient(x) if isinstance(x, jax.Array) else x


def softplus(x: Any) -> Any:
    """Returns log(1 + exp x)."""
    return jax.nn.softplus(x) if isinstance(x, jax.Array) else np.logaddexp(x, x.dtype.type(0))


def sigmoid(x: Any) -> Any:
    """Returns 1/(1 + exp(−x))."""
    return jax.nn.sigmoid(x) if isinstance(x, jax.Array) else scipy.special.expit(x)


def log_sigmoid(x: Any) -> Any:
    """Returns −log(1 + exp(−x))."""
    return jax.nn.log_sigmoid(x) if isinstance(x, jax.Array) else scipy.special.log_expit(x)


def log_normal_cdf(x: Any) -> Any:
    """Returns log Φ(x), Φ the normal distribution function."""
    return (jsp if isinstance(x, jax.Array) else scipy.special).log_ndtr(x)


def xlogy(x: Any, y: Any) -> Any:
    """Returns x log y, 0 where x = 0."""
    return (jsp if namespace(x, y) is jnp else scipy.special).xlogy(x, y)


def relative_entropy(m: Any, mean: Any) -> Any:
    """Returns m log(m/μ) − m + μ ≥ 0 for m ≥ 0 and means μ ≥ 0; infinite where only μ is 0."""
    xp = namespace(m, mean)
    is_positive = mean > 0
    safe = xp.where(is_positive, mean, 1)
    t = xp.where(is_positive, (m - mean) / safe, 0)
    # Where m is near to μ the sum of the three has lost its digits.
    is_near = abs(t) <= 0.5
    near = xp.where(is_near, t, 0)
    far = xp.where(is_near, 1, m / safe)
    ratio = xp.where(is_near, (1 + near) * xp.log1p(near) - near, xlogy(far, far) - far + 1)
    return xp.where(is_positive, safe * ratio, xp.where(m > 0, np.inf, 0))


def softmax(x: Any) -> Any:
    """Returns exp x over its sum, along the last axis."""
    if isinstance(x, jax.Array):
        return jax.nn.softmax(x)
    x = np.moveaxis(x, -1, 0).copy()  # short rows are summed slowly, see `columns_first`
    sizes = np.exp(x - x.max(axis=0))
    return np.moveaxis(sizes / sizes.sum(axis=0), 0, -1)


def columns_first(x: Any) -> Any:
    """Returns x with its last two axes exchanged, the last one without gaps.

    NumPy sums short rows one at a time, five times as slowly as long ones.
    """
    return x.swapaxes(-1, -2).copy()


def gammaln(x: Any) -> Any:
    """Returns log |Γ(x)|."""
    return (jsp if isinstance(x, jax.Array) else scipy.special).gammaln(x)


def log_sums_from(values: Any) -> Any:
    """Returns log Σ_{j ≥ i} exp vⱼ for every i of the last axis; −∞ is a number, `never`.

    In JAX by sums of 1, 2, 4, ... in a loop of log n rounds: `lax.cumlogsumexp` unrolls them, and compiling
    its derivatives takes a minute.
    """
    n, nothing = values.shape[-1], never(values)
    if namespace(values) is np:
        return _host_log_sums_from(values)
    empty = jnp.full(n, nothing, values.dtype)

    def double(sums: Any, width: Any) -> tuple[Any, None]:
        behind = jax.lax.dynamic_slice(jnp.concatenate([sums, empty]), (width,), (n,))
        return jnp.logaddexp(sums, behind), None

    widths = 2 ** jnp.arange((n - 1).bit_length())
    return jax.lax.scan(double, values, widths)[0]


def _host_log_sums_from(values: np.ndarray) -> np.ndarray:
    nothing = never(values)
    is_number, backwards = values > nothing / 2, values[..., ::-1]
    most = values.max(axis=-1, keepdims=True)
    if (most - np.where(is_number, values, most)).max() > -np.log(np.finfo(values.dtype).tiny) / 2:
        return np.logaddexp.accumulate(backwards, axis=-1)[..., ::-1]
    # No exponential is less than the root of the smallest number: a sum of them loses nothing.
    sums = np.cumsum(np.exp(backwards - most), axis=-1)[..., ::-1]
    return np.where(sums > 0, np.log(np.where(sums > 0, sums, 1)) + most, nothing)


def never(like: Any) -> float:
    """The log of nothing: finite, so that sums and derivatives of it are."""
    return float(jnp.finfo(like.dtype).min) / 8


_IN_NUMPY: set[type] = set()
_Class = TypeVar("_Class", bound=type)


def in_numpy(cls: _Class) -> _Class:
    """Says of a class of losses or penalties that all its formulas are for NumPy too; as a decorator."""
    _IN_NUMPY.add(cls)
    return cls


def is_in_numpy(value: Any) -> bool:
    """Whether the formulas of a loss or a penalty are for NumPy too; of a subclass nobody knows.

    One that is made of `losses` is where these are.
    """
    return type(value) in _IN_NUMPY and all(map(is_in_numpy, getattr(value, "losses", ())))
