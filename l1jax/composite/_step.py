"""One step of proximal gradient descent, plain (ISTA) or accelerated (FISTA), on any pytree.

`minimize` and the linear models share it: they differ only in the smooth function and in when to
stop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

_MAX_TRIALS = 100  # of doublings of the curvature within one step: from 1 to 1e30
_GROWTH = 2.0  # of the curvature after a failed trial
_DECAY = 0.97  # of the curvature after a step that passed: about 23 steps forget one doubling
_VISIBLE = 100  # a test is believed where what it measures is this many times its rounding error


class ProxGradState(eqx.Module):
    """Where the iteration stands: the iterate, the point ahead of it, and the curvature in use.

    The last two say that no step leads on from x, which stays the last good iterate. A step that
    fails from an extrapolated point is no such end: the next one starts from x without momentum.
    """

    x: PyTree
    ahead: PyTree  # the extrapolated point, where the next gradient is taken
    momentum: Float[Array, ""]
    curvature: Float[Array, ""]  # 1/step, in the units of the metric
    num_steps: Int[Array, ""]
    failed: Bool[Array, ""]  # NaN or inf at every step size
    stuck: Bool[Array, ""]  # finite, but no step size passes the test: rounding is all that is left


def start(x: PyTree, curvature: Any) -> ProxGradState:
    """At rest at x."""
    dtype = scalar_dtype(x)
    return ProxGradState(
        x=x,
        ahead=x,
        momentum=jnp.ones((), dtype),
        curvature=jnp.asarray(curvature, dtype),
        num_steps=jnp.zeros((), jnp.int32),
        failed=jnp.zeros((), bool),
        stuck=jnp.zeros((), bool),
    )


def advance(
    fun: Callable[[PyTree], Array],
    prox: Callable[[PyTree, PyTree], PyTree],
    state: ProxGradState,
    *,
    metric: PyTree = None,
    max_step: PyTree = jnp.inf,
    accelerate: bool = True,
    restart: bool = True,
    backtrack: bool = True,
) -> ProxGradState:
    """x⁺ = prox_{s}(a − s∇f(a)) from the point ahead a, then the next point ahead.

    `metric` is a pytree like x of positive diagonal entries C (None: ones): the step is s =
    1/(curvature C) and the step size test is f(x⁺) ≤ f(a) + ⟨∇f(a), d⟩ + ½ curvature ‖d‖²_C.
    No step is longer than `max_step`, a number or, with a metric, a tree of numbers like it; where it would
    be, C is larger. Without a metric the caller keeps `state.curvature` ≥ 1/`max_step`.
    """
    dtype = state.curvature.dtype
    value, gradient = jax.value_and_grad(fun)(state.ahead)
    defined = jnp.isfinite(value) & tree_finite(gradient)

    def step_from(curvature):
        step = steps(curvature, limited(metric, curvature, max_step))
        return prox(_move(state.ahead, gradient, step), step)

    if backtrack:
        test = _sufficient_decrease(fun, state.ahead, value, gradient, metric, dtype)
        # Where f or its gradient is NaN at the point ahead, no step size helps; and a lane that has
        # failed must not keep the others of its batch waiting.
        may_try = defined & ~state.failed & ~state.stuck

        def keep_trying(carry):
            _, _, _, ok, _, trials = carry
            return may_try & ~ok & (trials < _MAX_TRIALS)

        def try_next(carry):
            curvature, _, _, _, _, trials = carry
            curvature = jnp.where(trials == 0, curvature, curvature * _GROWTH)
            x = step_from(curvature)
            allowed = limited(metric, curvature, max_step)
            return curvature, x, *test(x, curvature, allowed), trials + 1

        no = jnp.zeros((), bool)
        curvature, x, finite, ok, visible, _ = jax.lax.while_loop(
            keep_trying, try_next, (state.curvature, state.x, no, no, no, 0)
        )
        # Where rounding hides the test, a passed test is no reason to take longer steps. And
        # momentum that nothing restarts diverges where steps grow: Beck and Teboulle (2009) only shorten them.
        if restart or not accelerate:
            decayed = jnp.maximum(curvature * _DECAY, min_curvature(metric, max_step))
            curvature = jnp.where(visible, decayed, curvature)
    else:
        x = step_from(state.curvature)
        finite = ok = defined & tree_finite(x)
        curvature = state.curvature

    at_rest = state.momentum == 1  # then the point ahead is x itself
    momentum, ahead = _look_ahead(state, x, restart) if accelerate else (state.momentum, x)
    return ProxGradState(
        x=tree_where(ok, x, state.x),
        ahead=tree_where(ok, ahead, state.x),
        momentum=jnp.where(ok, momentum, 1).astype(dtype),
        curvature=jnp.where(ok, curvature, state.curvature).astype(dtype),
        num_steps=state.num_steps + 1,
        failed=~ok & ~finite & at_rest,
        stuck=~ok & finite & at_rest,
    )


def _sufficient_decrease(fun, ahead, value, gradient, metric, dtype) -> Callable:
    """The test of a step size: is x finite, is the model above f there, and can one tell?

    f(x) − f(a) drowns in the rounding of f long before the step itself does: at a model of 1e-16
    |f| the step still has 8 digits. There ⟨∇f(x) − ∇f(a), d⟩ ≤ curvature ‖d‖²_C is asked instead,
    which is the same for a quadratic, costs a gradient, and sees twice as many digits.
    """
    eps = coarsest_eps(ahead)
    size = _squared_norm(ahead, metric, dtype)

    def test(x, curvature, metric):
        moved = tree_sub(x, ahead)
        model = 0.5 * curvature * _squared_norm(moved, metric, dtype)
        new_value = fun(x)
        noise = 10 * eps * (jnp.abs(value) + jnp.abs(new_value))
        # The complement also rejects NaN.
        below = new_value - value - tree_vdot(gradient, moved, dtype) <= model + noise
        finite = tree_finite(x) & jnp.isfinite(new_value)
        visible = model > _VISIBLE * noise

        def ask_gradient(_):
            new_gradient = jax.grad(fun)(x)
            change = tree_vdot(tree_sub(new_gradient, gradient), moved, dtype)
            terms = jax.tree.map(lambda a, b: jnp.abs(a) + jnp.abs(b), gradient, new_gradient)
            noise = tree_vdot(terms, jax.tree.map(jnp.abs, moved), dtype)
            # A gradient may be small by cancellation: that of x alone is good to eps L‖x‖.
            noise += curvature * jnp.sqrt(size * 2 * model / curvature)
            visible = 2 * model > _VISIBLE * eps * noise
            return jnp.ones((), bool), (change <= 2 * model) | ~visible, visible

        # A loop of one round, not `cond`: under vmap a `cond` takes the gradient in every step,
        # while a loop runs only where some lane asks for it.
        _, ok, visible = jax.lax.while_loop(
            lambda carry: ~carry[0], ask_gradient, (visible | ~below | ~finite, below, visible)
        )
        return finite, ok & finite, visible & finite

    return test


def _look_ahead(state: ProxGradState, x: PyTree, restart: bool) -> tuple[Array, PyTree]:
    """Nesterov's extrapolation, restarted when it points uphill (O'Donoghue and Candès, 2015)."""
    momentum = (1 + jnp.sqrt(1 + 4 * state.momentum**2)) / 2
    factor = (state.momentum - 1) / momentum
    moved = tree_sub(x, state.x)
    if restart:
        uphill = tree_vdot(tree_sub(state.ahead, x), moved, state.momentum.dtype) > 0
        momentum = jnp.where(uphill, 1, momentum)
        factor = jnp.where(uphill, 0, factor)
    return momentum, jax.tree.map(lambda new, d: new + factor.astype(new.dtype) * d, x, moved)


def steps(curvature: Array, metric: PyTree) -> PyTree:
    """The step of each coordinate: 1/curvature, or 1/(curvature C) in a diagonal metric."""
    if metric is None:
        return 1 / curvature
    return jax.tree.map(lambda c: 1 / (curvature * c), metric)


def limited(metric: PyTree, curvature: Array, max_step: PyTree) -> PyTree:
    """Returns the metric max(C, 1/(curvature max_step)), whose steps are at most `max_step`."""
    if metric is None:
        return None
    return jax.tree.map(lambda c, most: jnp.maximum(c, 1 / (curvature * most)), metric, max_step)


def min_curvature(metric: PyTree, max_step: PyTree) -> Array:
    """Returns the curvature at which every step has its limit; 0 if there is none."""
    if metric is None:
        return 1 / jnp.asarray(max_step)
    least = jax.tree.map(lambda c, most: 1 / (jnp.max(c) * most), metric, max_step)
    return jnp.max(jnp.stack(jax.tree.leaves(least)))


def _move(x: PyTree, gradient: PyTree, step: PyTree) -> PyTree:
    if isinstance(step, jax.Array) and step.ndim == 0:
        return jax.tree.map(lambda a, g: a - step.astype(a.dtype) * g, x, gradient)
    return jax.tree.map(lambda a, g, s: a - s * g, x, gradient, step)


# Sums over a tree, in the one dtype of its scalars: leaves may differ in theirs.


def scalar_dtype(x: PyTree):
    """The dtype of step sizes, norms and momentum: that of x, but no shorter than float32."""
    return jnp.promote_types(jnp.result_type(*jax.tree.leaves(x)), jnp.float32)


def coarsest_eps(x: PyTree) -> float:
    """The largest machine epsilon among the leaves."""
    return max(float(jnp.finfo(leaf.dtype).eps) for leaf in jax.tree.leaves(x))


def tree_sub(x: PyTree, y: PyTree) -> PyTree:
    """x − y."""
    return jax.tree.map(lambda a, b: a - b, x, y)


def tree_vdot(x: PyTree, y: PyTree, dtype: Any) -> Array:
    """⟨x, y⟩, summed in dtype."""

    def one(a, b):
        return jnp.vdot(a.astype(dtype), b.astype(dtype), precision=jax.lax.Precision.HIGHEST)

    return sum(jax.tree.leaves(jax.tree.map(one, x, y)), jnp.zeros((), dtype))


def _squared_norm(x: PyTree, metric: PyTree, dtype: Any) -> Array:
    if metric is None:
        return tree_vdot(x, x, dtype)
    return tree_vdot(x, jax.tree.map(lambda a, c: c * a, x, metric), dtype)


def tree_finite(x: PyTree) -> Array:
    """Is every entry finite?"""
    leaves = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(x)]
    return jnp.stack(leaves).all() if leaves else jnp.ones((), bool)


def tree_where(condition: Array, yes: PyTree, no: PyTree) -> PyTree:
    """One tree or the other."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)
