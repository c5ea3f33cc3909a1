"""Methods that choose the parameters anew from all gradients so far: dual averaging and FTRL-proximal."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PyTree

from ._checks import check_fits, check_penalty, check_rate
from ._proximal import _is_none, _number, arrive, at, check_metric, increment, steps_in


class RDAState(NamedTuple):
    """The steps taken, the sum of all gradients, and the parameters that all is counted from."""

    count: Int[Array, ""]  # pyright: ignore[reportIncompatibleMethodOverride]
    total: PyTree
    start: PyTree


class FTRLState(NamedTuple):
    """The steps taken, z and the sums of squared gradients, and the last learning rate."""

    count: Int[Array, ""]  # pyright: ignore[reportIncompatibleMethodOverride]
    linear: PyTree
    squares: PyTree
    rate: Array


def rda(
    learning_rate: Any, penalty: Any, *, strength: Any = 1.0
) -> optax.GradientTransformationExtraArgs:
    """Regularised dual averaging: the prox at the start w₀ of the mean ḡ of all gradients.

        w = prox_{s R}(w₀ − s ḡ),   s = √t·η

    Noise averages out before the threshold, so that supports are stable under small batches. It
    converges as O(1/√t): supports soon, digits late. Zeros where w₀ is zero are the natural ones: start
    penalised parameters at 0, or small. Args and errors as for `proximal`; any penalty
    serves. The state keeps the gradients' sum and w₀. Source: Xiao (2010), with γ = 1/η.

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax, optax
    >>> tx = l1jax.rda(0.5, l1jax.L1(1.0))
    >>> w = jnp.zeros(2)
    >>> u, state = tx.update(jnp.array([-3.0, 0.5]), tx.init(w), w)
    >>> print(optax.apply_updates(w, u))
    [1. 0.]

    ```
    """
    default = check_penalty(penalty)
    check_rate(learning_rate, "learning_rate")
    check_rate(strength, "strength")

    def init(params):
        check_fits(default, params)
        # A copy: with donated buffers the parameters themselves are gone after the first step.
        start = jax.tree.map(lambda p: jnp.array(p, copy=True), params)
        return RDAState(jnp.zeros([], jnp.int32), optax.tree.zeros_like(params), start)

    def update(updates, state, params=None, *, penalty=None, **extra_args):
        del extra_args
        _needs(params, "rda")
        pen = default if penalty is None else check_penalty(penalty)
        count = increment(state.count)
        total = _add(state.total, updates)
        step = _number(at(learning_rate, state.count)) * jnp.sqrt(count)

        def point(start, g):
            return start - (step / count).astype(start.dtype) * g

        there = _map(point, state.start, total)
        price = step * _number(at(strength, state.count))
        return arrive(pen, there, updates, params, price), RDAState(count, total, state.start)

    return optax.GradientTransformationExtraArgs(init, update)


def ftrl_proximal(
    learning_rate: Any,
    penalty: Any,
    beta: Any = 1.0,
    l2: Any = 0.0,
    initial_accumulator_value: Any = 0.0,
    *,
    strength: Any = 1.0,
) -> optax.GradientTransformationExtraArgs:
    """Follow the proximally regularised leader: Adagrad that charges the penalty of all steps at once.

        w = prox^D_{tR}(−z/D),   D = (β + √n)/η + l2,   n = Σg²,   z = Σ(g − ΔD·w)

    λ is that of the mean loss, so t steps are charged tλ, the λ₁ of the paper. Made for one pass over
    sparse data. Args and errors as for `proximal`; `beta` > 0, `l2` and
    `initial_accumulator_value` n₀ as in the paper; the first w is the one given. Source: McMahan et al. (2013).

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax, optax
    >>> tx = l1jax.ftrl_proximal(0.5, l1jax.L1(1.0))
    >>> w = jnp.zeros(2)
    >>> u, state = tx.update(jnp.array([-3.0, 0.5]), tx.init(w), w)
    >>> print(optax.apply_updates(w, u))
    [0.25 0.  ]

    ```
    """
    default = check_penalty(penalty)
    check_rate(learning_rate, "learning_rate")
    check_rate(strength, "strength")

    def curvature(squares, rate):
        rate = rate.astype(squares.dtype)
        return (beta + jnp.sqrt(squares)) / rate + l2

    def init(params):
        check_fits(default, params)
        squares = optax.tree.full_like(params, initial_accumulator_value)
        count = jnp.zeros([], jnp.int32)
        rate = _number(at(learning_rate, count))
        linear = _map(lambda p, n: (-p * curvature(n, rate)).astype(p.dtype), params, squares)
        return FTRLState(count, linear, squares, rate)

    def update(updates, state, params=None, *, penalty=None, **extra_args):
        del extra_args
        _needs(params, "ftrl_proximal")
        pen = default if penalty is None else check_penalty(penalty)
        if pen is not None:
            check_metric(pen)
        count = increment(state.count)
        rate = _number(at(learning_rate, state.count)).astype(state.rate.dtype)
        squares = _add(state.squares, _map(lambda g: g**2, updates))
        last = _map(lambda n: curvature(n, state.rate), state.squares)
        now = _map(lambda n: curvature(n, rate), squares)

        def leader(z, g, d, before, p):
            return (z + g - (d - before) * p).astype(z.dtype)

        linear = _map(leader, state.linear, updates, now, last, params)
        there = _map(lambda z, d: -z / d, linear, now)
        price = count * _number(at(strength, state.count))
        moves = arrive(pen, there, updates, params, steps_in(price, now))
        return moves, FTRLState(count, linear, squares, rate)

    return optax.GradientTransformationExtraArgs(init, update)


def _needs(params: Any, name: str) -> None:
    if params is None:
        raise ValueError(f"{name} needs params: call tx.update(grads, state, params).")


def _map(function: Any, *trees: PyTree) -> PyTree:
    return jax.tree.map(lambda *x: None if x[0] is None else function(*x), *trees, is_leaf=_is_none)


def _add(total: PyTree, updates: PyTree) -> PyTree:
    return _map(lambda a, b: a if b is None else (a + b).astype(a.dtype), total, updates)
