"""Proximal steps as optax transformations: the prox of a penalty in the metric of an optimiser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jaxtyping import Array, Int, PyTree

from .._group_shrinkage import Rematerialisation
from .._sharding import in_auto_axes, is_explicit, specs
from ..penalties._base import Penalty
from ._checks import (
    check_direction,
    check_fits,
    check_penalty,
    check_rate,
    check_step,
    needs_params,
    plain,
)
from ._low_precision import in_float32
from ._metrics import has_one_per_coordinate, resolve
from ._rematerialisation import Rematerialiser, RematOf, norms_for, prox_with


class ProximalState(NamedTuple):
    """The steps taken, the state of what moves the parameters, and that of the learning rate's momentum."""

    count: Int[Array, ""]  # pyright: ignore[reportIncompatibleMethodOverride]
    inner: optax.OptState
    rate: optax.OptState


def proximal(
    learning_rate: Any,
    penalty: Any,
    direction: Any,
    *,
    metric: Any = "auto",
    strength: Any = 1.0,
    master_weights: bool = False,
    rounding_key: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """Minimises f + R by steps along a direction C⁻¹m of an optimiser, each followed by the prox in its metric.

        w⁺ = prox^C_{ηR}(w − ηC⁻¹m) = argmin_x ½‖x − (w − ηC⁻¹m)‖²_C/η + R(x)

    Its fixed points solve the problem for any η, and its zeros are zeros: `optax.apply_updates(w, u) == 0`
    wherever the prox is 0. A threshold that does not divide by C, as a plain ηλ under Adam, solves
    another problem.

    **Arguments:**

    - `learning_rate`: η ≥ 0, a number, array or schedule.
    - `penalty`: a `Penalty` or None, also given at update time, as in
      `tx.update(grads, state, params, penalty=pen)`.
    - `direction`: an optax transformation without its learning rate.
    - `metric`: "auto" for one of `l1jax.directions`, "identity" for the plain gradient, an `AdamMetric`,
      `RMSPropMetric`, `AdagradMetric` or `MomentumMetric`, or a function of (state of the direction, params)
      that returns C like params or one number.
    - `strength`: a factor ≥ 0 of the penalty: a number, array or schedule.
    - `master_weights`, `rounding_key`: for parameters of few digits, see below.

    **Parameters of bfloat16 or float16** lose every change below half of their spacing (in bfloat16 1/512
    to 1/256 of a parameter), so that small steps never move them. `master_weights=True` keeps a
    float32 copy of them in the state, from which each step goes and which is rounded to the parameters.
    `rounding_key`, a key of `jax.random` or a seed, keeps none: it rounds at random, with the right mean.
    With either, moments and updates of these parameters are float32. Their zeros are zeros.

    It must be the last of a chain: what scales its update afterwards undoes its zeros (`check_last`).
    At strength 0 its updates are bit for bit those of the direction (a constraint such as `L1Ball` has
    no strength, and holds).
    Gradient clipping scales λ up where it is active, so clip well above ‖λ sign(w)‖.

    Of a penalty with a `max_step`, such as a weakly convex one, η·strength/C must stay below it: this is
    checked in eager code only.

    **Raises:** ValueError for a direction without a metric (signs, trust ratios, normalised gradients), a
    penalty that does not serve the metric, or missing params; TypeError for what is not a penalty.
    Source: Duchi, Hazan and Singer (2011); Yun, Lozano and Yang (2021).

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax, optax
    >>> tx = l1jax.proximal(0.5, l1jax.L1(1.0), l1jax.directions.sgd())
    >>> w = jnp.array([2.0, -0.3])
    >>> u, state = tx.update(jnp.zeros(2), tx.init(w), w)
    >>> print(optax.apply_updates(w, u))
    [1.5 0. ]

    ```
    """
    check_rate(learning_rate, "learning_rate")
    check_direction(direction, metric)
    of_direction = resolve(metric, direction)
    default = check_penalty(penalty)
    if default is not None and has_one_per_coordinate(of_direction):
        check_metric(default)
    move = optax.chain(direction, optax.scale_by_learning_rate(learning_rate))
    step = proximal_after(
        move, learning_rate, penalty, lambda state, params: of_direction(state[0], params), strength
    )
    return in_float32(step, master_weights, rounding_key)


def prox_step(
    learning_rate: Any,
    penalty: Any,
    *,
    strength: Any = 1.0,
    master_weights: bool = False,
    rounding_key: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """The prox alone, for the end of a chain that ends in plain gradient steps: the metric is the identity.

        u ← prox_{ηR}(w + u) − w

    Right after `optax.sgd(η)`. After undamped momentum it would solve for λ(1−β), and after Adam another
    problem: use `prox_sgd`, `prox_adam`.

    **Arguments and errors:** as for `proximal`, with the η of the chain.

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax, optax
    >>> tx = optax.chain(optax.sgd(0.5), l1jax.prox_step(0.5, l1jax.L1(1.0)))
    >>> w = jnp.array([2.0, -0.3])
    >>> u, state = tx.update(jnp.zeros(2), tx.init(w), w)
    >>> print(optax.apply_updates(w, u))
    [1.5 0. ]

    ```
    """
    step = proximal_after(
        optax.identity(), learning_rate, penalty, lambda state, params: 1.0, strength
    )
    return in_float32(step, master_weights, rounding_key)


def cast_gradients(dtype: Any = None) -> optax.GradientTransformation:
    """Casts gradients to the dtypes of the parameters; first in a chain, outside of `apply_if_finite`.

    Or to `dtype`: float32, where a step has `master_weights` or a `rounding_key`, whose updates are that.

    `optax.apply_if_finite` and `conditionally_mask` choose between the update and zeros of the
    gradient's dtype, and refuse a pair that differs, such as bfloat16 gradients of float32 parameters.

    **Example:**

    ```python
    >>> import l1jax, optax
    >>> step = l1jax.prox_adam(1e-3, l1jax.L1(1e-4))
    >>> tx = optax.chain(l1jax.cast_gradients(), optax.apply_if_finite(step, 5))

    ```
    """

    def update(updates, state, params=None):
        needs_params(params, "cast_gradients")
        cast = jax.tree.map(
            lambda g, p: None if g is None else g.astype(dtype or jnp.asarray(p).dtype),
            updates,
            params,
            is_leaf=is_none,
        )
        return cast, state

    return optax.GradientTransformation(optax.init_empty_state, update)


def proximal_after(
    move: optax.GradientTransformation,
    learning_rate: Any,
    penalty: Any,
    metric: Callable[[PyTree, PyTree], Any],
    strength: Any,
    rate_momentum: optax.GradientTransformation | None = None,
) -> optax.GradientTransformationExtraArgs:
    """What `move` does, then the prox of `learning_rate`·`strength`·R in the metric.

    `rate_momentum` acts on the learning rate as the move's momentum acts on what it scales.
    """
    default = check_penalty(penalty)
    check_rate(learning_rate, "learning_rate")
    check_rate(strength, "strength")
    move = optax.with_extra_args_support(move)
    rates = rate_momentum or optax.identity()

    def init(params):
        check_fits(default, params)
        count = jnp.zeros([], jnp.int32)
        rate = number(at(learning_rate, count), "learning_rate")
        return ProximalState(count, move.init(params), rates.init(rate))

    def update(updates, state, params=None, *, penalty=None, **extra_args):
        pen = default if penalty is None else check_penalty(penalty)
        needs_params(params)
        now = number(at(learning_rate, state.count), "learning_rate")
        rate, rate_state = rates.update(now, state.rate)
        step = jnp.asarray(rate) * number(at(strength, state.count), "strength")
        moves, inner = move.update(updates, state.inner, params, **extra_args)
        if pen is not None:
            steps = _divide(step, metric(inner, params), pen, moves)

            def again(updates: PyTree, inner: PyTree, params: PyTree) -> tuple[list, PyTree]:
                moves, inner = move.update(updates, inner, params, **extra_args)
                return _pairs(
                    moves, params, _divide(step, metric(inner, params), pen, moves)
                ), inner

            remats = Rematerialiser(again, (updates, state.inner, params), inner)
            moves = after_prox(pen, moves, params, steps, remats)
        return moves, ProximalState(increment(state.count), inner, rate_state)

    return optax.GradientTransformationExtraArgs(init, update)


def after_prox(
    penalty: Penalty, moves: PyTree, params: PyTree, step: Any, remats: Rematerialiser
) -> PyTree:
    """Updates to prox(params + moves), and the moves themselves where the prox changes nothing."""
    leaves, tree = jax.tree.flatten(moves, is_leaf=is_none)
    old = _old(leaves, tree, params)
    there = [_there(p, u) for p, u in zip(old, leaves, strict=True)]
    points = [p for p in old if p is not None]

    def remat_of(index: int) -> Rematerialisation | None:
        return remats.of(index, estimate=points[index])

    new = tree.flatten_up_to(_prox(penalty, tree.unflatten(there), step, remat_of))
    out = [
        u if z is x else _to(x, z, u, p) for u, p, z, x in zip(leaves, old, there, new, strict=True)
    ]
    return tree.unflatten(out)


def arrive(
    penalty: Penalty | None, there: PyTree, like: PyTree, params: PyTree, step: Any
) -> PyTree:
    """Updates that lead from params to prox(there), wherever `like` (the gradients) is not None."""
    leaves, tree = jax.tree.flatten(like, is_leaf=is_none)
    old = _old(leaves, tree, params)
    new = there if penalty is None else _prox(penalty, there, step)
    out = [
        None
        if p is None
        else _difference(x.astype(p.dtype), p, jnp.promote_types(p.dtype, u.dtype))
        for u, p, x in zip(leaves, old, tree.flatten_up_to(new), strict=True)
    ]
    return tree.unflatten(out)


def _prox(
    penalty: Penalty,
    there: PyTree,
    step: Any,
    remat_of: RematOf | None = None,
) -> PyTree:
    """The prox; where axes of a mesh are explicit, the compiler places what it needs within."""
    check_step(penalty, step)
    if is_explicit(there):
        return in_auto_axes(penalty.prox, there, step, out_sharding=specs(there))
    leaves = jax.tree.leaves(there)
    is_compiled = any(isinstance(z, Tracer) for z in leaves)
    is_mapped = any(getattr(jax.typeof(z), "vma", None) for z in leaves)  # in a shard_map
    norms = None
    if remat_of and is_compiled and not is_mapped:
        norms = norms_for(penalty, there, step, remat_of)
    return prox_with(penalty, there, step, norms)


def increment(count: Array) -> Array:
    return jnp.asarray(optax.safe_increment(count))


def at(rate: Any, count: Array) -> Any:
    """The value of a number or schedule at a step."""
    return rate(count) if callable(rate) else rate


def check_metric(penalty: Penalty) -> None:
    """Refuses a penalty whose prox takes one step only, where the metric has one per coordinate."""
    refused = [pen for pen in plain(penalty) if pen.metric != "diagonal"]
    if refused:
        raise ValueError(
            f"penalty {type(refused[0]).__name__} takes one step for all coordinates, and the metric of this "
            "optimiser has one for each: use prox_sgd or prox_step, or write a prox that takes a step "
            'like z and say metric = "diagonal" in its class.'
        )


def _to(new: Array, there: Any, move: Array, old: Any) -> Array:
    """An update u with old + u = 0 where new is, equal to move where new is what move leads to.

    It has at least the precision of the parameters, so that −old is exact. A negative zero is led to
    the positive one.
    """
    dtype = jnp.promote_types(old.dtype, move.dtype)
    new = new.astype(there.dtype)
    kept = (new == there) & (there != 0)
    return jnp.where(kept, move.astype(dtype), _difference(new, old, dtype))


def _difference(new: Array, old: Array, dtype: Any) -> Array:
    return new.astype(dtype) - old.astype(dtype)


def _old(leaves: list, tree: Any, params: PyTree) -> list:
    """The parameters that have an update, as arrays."""
    pairs = zip(leaves, tree.flatten_up_to(params), strict=True)
    old = [None if u is None else jnp.asarray(p) for u, p in pairs]
    for p, u in zip(old, leaves, strict=True):
        if p is not None and p.shape != jnp.shape(u):
            raise ValueError(
                f"a gradient has shape {jnp.shape(u)} where its parameter has shape {p.shape}."
            )
    return old


def _there(old: Array | None, move: Any) -> Array | None:
    return None if old is None else (old + move).astype(old.dtype)


def _pairs(moves: PyTree, params: PyTree, steps: Any) -> list[tuple[Array, Any]]:
    """Where each move leads, with its step."""
    leaves, tree = jax.tree.flatten(moves, is_leaf=is_none)
    old = _old(leaves, tree, params)
    there = [x for x in map(_there, old, leaves) if x is not None]
    each = [steps] * len(there) if _is_number(steps) else jax.tree.leaves(steps)
    return list(zip(there, each, strict=True))


def _divide(step: Array, metric: Any, penalty: Penalty, moves: PyTree) -> Any:
    """step/C, one number or like the moves."""
    if _is_number(metric):
        return step / metric
    check_metric(penalty)
    if len(jax.tree.leaves(metric)) != len(jax.tree.leaves(moves)):
        raise ValueError("metric must return one number, or one array for each parameter.")
    return steps_in(step, metric)


def steps_in(step: Array, metric: PyTree) -> PyTree:
    """The step of each coordinate; 0 in eager code where C is NaN, as the move is: it would be refused."""

    def one(c: Any) -> Array:
        steps = step.astype(jnp.result_type(c)) / c
        return steps if isinstance(steps, Tracer) else jnp.where(jnp.isnan(c), 0, steps)

    return jax.tree.map(one, metric)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) or (hasattr(value, "shape") and value.shape == ())


def number(value: Any, name: str) -> Array:
    """A learning rate or strength as it is at one step."""
    value = jnp.asarray(value, float) if isinstance(value, int | float) else jnp.asarray(value)
    if value.ndim:
        raise ValueError(f"{name} must be one number at each step, got shape {value.shape}.")
    if not isinstance(value, Tracer) and not np.asarray(value) >= 0:
        raise ValueError(f"{name} must be >= 0 at each step, got {value}.")
    return value


def is_none(leaf: Any) -> bool:
    return leaf is None
