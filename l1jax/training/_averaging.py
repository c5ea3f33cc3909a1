"""Methods that choose the parameters anew from all gradients so far: dual averaging and FTRL-proximal."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PyTree

from ._checks import check_fits, check_penalty, check_rate, needs_params
from ._low_precision import in_float32
from ._proximal import arrive, at, check_metric, increment, is_none, number, steps_in


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
    learning_rate: Any,
    penalty: Any,
    *,
    strength: Any = 1.0,
    master_weights: bool = False,
    rounding_key: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """Regularised dual averaging: the prox at the start w₀ of the mean ḡ of all gradients.

        w = prox_{s R}(w₀ − s ḡ),   s = √t·η

    Noise averages out before the threshold, so that supports are stable under small batches. It
    converges as O(1/√t): supports soon, digits late. Zeros where w₀ is zero are the natural ones: start
    penalised parameters at 0, or small. The state is the sum of the gradients, in float32 at least, and w₀.

    **Arguments and errors:** as for `proximal`; any penalty serves. Source: Xiao (2010), with γ = 1/η.

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
        start = jax.tree.map(_copy, params)
        return RDAState(jnp.zeros([], jnp.int32), _zeros(params), start)

    def update(updates, state, params=None, *, penalty=None, **extra_args):
        del extra_args
        needs_params(params, "rda")
        pen = default if penalty is None else check_penalty(penalty)
        count = increment(state.count)
        total = _add(state.total, updates)
        step = number(at(learning_rate, state.count), "learning_rate") * jnp.sqrt(count)

        def point(start, g):
            return start - (step / count).astype(g.dtype) * g

        there = _map(point, state.start, total)
        prox_step = step * number(at(strength, state.count), "strength")
        return arrive(pen, there, updates, params, prox_step), RDAState(count, total, state.start)

    step = optax.GradientTransformationExtraArgs(init, update)
    return in_float32(step, master_weights, rounding_key)


def ftrl_proximal(
    learning_rate: Any,
    penalty: Any,
    beta: Any = 1.0,
    l2: Any = 0.0,
    initial_accumulator_value: Any = 0.0,
    *,
    strength: Any = 1.0,
    master_weights: bool = False,
    rounding_key: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """Follow the proximally regularised leader: Adagrad with the penalty of all steps so far in each.

        w = prox^D_{tR}(−z/D),   D = (β + √n)/η + l2,   n = Σg²,   z = Σ(g − ΔD·w)

    λ is that of the mean loss: after t steps tλ is the λ₁ of the paper. It suits one pass over sparse data; the
    first w is the one given.

    **Arguments and errors:** as for `proximal`, and

    - `beta`: β > 0; `l2`: ≥ 0; `initial_accumulator_value`: n₀ ≥ 0, as in the paper.

    Source: McMahan et al. (2013).

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
    if _is_zero(beta) and _is_zero(initial_accumulator_value):
        raise ValueError(
            "beta and initial_accumulator_value are both 0: where all gradients were 0 the step would be "
            "infinite. Pass beta > 0, such as 1.0."
        )

    def curvature(squares, rate):
        rate = rate.astype(squares.dtype)
        return (beta + jnp.sqrt(squares)) / rate + l2

    def init(params):
        check_fits(default, params)
        count = jnp.zeros([], jnp.int32)
        # No weak type, which a schedule would change; and a copy, as steps may donate their state.
        first = number(at(learning_rate, count), "learning_rate")
        squares = _zeros(params, initial_accumulator_value)
        return FTRLState(count, _zeros(params), squares, jnp.zeros([], first.dtype))

    def update(updates, state, params=None, *, penalty=None, **extra_args):
        del extra_args
        needs_params(params, "ftrl_proximal")
        pen = default if penalty is None else check_penalty(penalty)
        if pen is not None:
            check_metric(pen)
        count = increment(state.count)
        rate = number(at(learning_rate, state.count), "learning_rate").astype(state.rate.dtype)
        squares = _add(state.squares, _map(lambda g: _precise(g) ** 2, updates))
        # At a rate of 0 nothing moves, and gradients are summed for when it is not. Until then z is
        # their sum alone; the first rate gives the parameters their curvature.
        begun, moves_now = state.rate > 0, rate > 0
        known = jnp.where(moves_now, rate, jnp.where(begun, state.rate, 1))
        last = _map(lambda n: curvature(n, jnp.where(begun, state.rate, known)), state.squares)
        now = _map(lambda n: curvature(n, known), squares)

        def leader(z, g, d, before, p):
            from_here = jnp.where(begun, (d - before) * p, d * p)
            return (z + g - jnp.where(begun | moves_now, from_here, 0)).astype(z.dtype)

        linear = _map(leader, state.linear, updates, now, last, params)
        there = _map(lambda z, d: -z / d, linear, now)
        total = count * number(at(strength, state.count), "strength")
        moves = arrive(pen, there, updates, params, steps_in(total, now))
        moves = _map(lambda u: jnp.where(moves_now, u, 0), moves)
        rate = jnp.where(moves_now, rate, state.rate)
        return moves, FTRLState(count, linear, squares, rate)

    step = optax.GradientTransformationExtraArgs(init, update)
    return in_float32(step, master_weights, rounding_key)


def _zeros(params: PyTree, value: Any = 0.0) -> PyTree:
    """Like params, for sums: in float32 at least, as thousands of gradients overflow float16."""

    def leaf(p: Any) -> Array:
        p = p if _is_abstract(p) else jnp.asarray(p)
        return jnp.full_like(p, value, jnp.promote_types(p.dtype, jnp.float32))

    return _map(leaf, params)


def _copy(p: Any) -> Any:
    """A copy; of an abstract parameter, which has no value, itself."""
    return p if _is_abstract(p) else jnp.array(p, copy=True)


def _is_abstract(p: Any) -> bool:
    return isinstance(p, jax.ShapeDtypeStruct)


def _precise(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _map(function: Any, *trees: PyTree) -> PyTree:
    return jax.tree.map(lambda *x: None if x[0] is None else function(*x), *trees, is_leaf=is_none)


def _is_zero(value: Any) -> bool:
    return isinstance(value, int | float) and value == 0


def _add(total: PyTree, updates: PyTree) -> PyTree:
    return _map(lambda a, b: a if b is None else (a + b).astype(a.dtype), total, updates)
