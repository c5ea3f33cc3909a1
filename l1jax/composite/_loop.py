"""The loop around the proximal gradient step: when to check, what to measure, when to stop."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._status import Status
from ._step import (
    ProxGradState,
    advance,
    coarsest_eps,
    scalar_dtype,
    start,
    tree_finite,
    tree_sub,
    tree_vdot,
    tree_where,
)

RUNNING = -1
_CHECK_EVERY = 10  # steps; a check costs a gradient, a prox and a value, so 8 to 10 % of the solve
_PROBES = 4  # gradients spent on guessing the first step
# Rounding is all that is left after this many checks without progress, near the floor or anywhere:
_STALE_AT_FLOOR = 10
_STALE = 100
ENDLESS = 1e-6  # of the largest number
_FLOOR = 20.0  # times the rounding error of the residual


class Check(NamedTuple):
    """An iterate and what was measured there."""

    x: PyTree
    objective: Array
    residual: Array  # ‖x − prox_s(x − s∇f(x))‖/s
    noise: Array  # how much of the residual rounding may have made, or hidden
    gradient_norm: Array
    curvature: Array  # 1/s
    valid: (
        Array  # the descent test holds from x with s: as s grows the residual goes to 0 on a ball
    )
    finite: Array

    @property
    def rank(self) -> Array:
        return jnp.where(self.valid, self.residual, jnp.inf)


class Outcome(NamedTuple):
    """Where the descent ended, and why."""

    found: Check
    reference: Array  # ‖∇f‖ at the start
    num_steps: Array
    status: Array
    history: Array | None


class Objective(NamedTuple):
    """f + R: `total` takes x and f(x), so that f is not evaluated again."""

    smooth: Callable[[PyTree], Array]
    prox: Callable[[PyTree, Array], PyTree]
    total: Callable[[PyTree, Array], Array]


class Rules(NamedTuple):
    """How the descent steps, and when it stops."""

    tol: Array
    max_steps: Array
    invalid: Array  # whether an argument is what an eager call refuses
    history: int  # of how many steps to record the objective
    max_step: Array  # the longest step that the prox allows
    accelerate: bool
    restart: bool
    backtrack: bool


class _Progress(NamedTuple):
    """The least residual and objective so far, and the number of checks since either fell."""

    residual: Array
    objective: Array
    stale: Array

    def after(self, now: Check, eps: float) -> _Progress:
        """Progress is a residual 1 % below the least, or an objective below it by more than rounding.

        While momentum builds up the residual may rise for a long time, and without restarts so may the
        objective: what changes visibly is not at the end of its digits.
        """
        rounding = 10 * eps * jnp.abs(now.objective)
        lower = now.objective < self.objective - rounding
        higher = now.objective > self.objective + rounding
        ahead = (now.rank < 0.99 * self.residual) | lower
        return _Progress(
            residual=jnp.where(ahead, jnp.minimum(now.rank, self.residual), self.residual),
            objective=jnp.where(ahead, jnp.minimum(now.objective, self.objective), self.objective),
            stale=jnp.where(ahead | higher, 0, self.stale + 1),
        )


class _Carry(NamedTuple):
    """The state of the loop between two checks."""

    state: ProxGradState
    kept: Check  # the one to return: the last, or that of least residual
    progress: _Progress
    reference: Array
    history: Array | None
    status: Array


def descend(objective: Objective, x0: PyTree, step: Array | None, rules: Rules) -> Outcome:
    """Takes proximal gradient steps from x0 until a status holds. `step` is the first one; None: estimated."""
    carry = _first(objective, x0, step, rules)
    carry = jax.lax.while_loop(
        lambda carry: carry.status == RUNNING,
        lambda carry: _check_and_step(objective, rules, carry),
        carry,
    )
    num_steps, history = carry.state.num_steps, carry.history
    return Outcome(carry.kept, carry.reference, num_steps, carry.status, history)


def _first(objective: Objective, x0: PyTree, step: Array | None, rules: Rules) -> _Carry:
    """The state before the first check, which is at x0."""
    dtype = scalar_dtype(x0)
    curvature = guess_curvature(objective.smooth, x0) if step is None else 1 / step
    nan, no = jnp.full((), jnp.nan, dtype), jnp.zeros((), bool)
    far = jnp.full((), jnp.inf, dtype)
    return _Carry(
        state=start(x0, jnp.maximum(curvature, 1 / rules.max_step)),
        kept=Check(x0, nan, nan, nan, nan, nan, no, no),
        progress=_Progress(far, far, jnp.zeros((), jnp.int32)),
        reference=nan,
        history=jnp.full((rules.history,), jnp.nan, dtype) if rules.history else None,
        status=jnp.full((), RUNNING, jnp.int32),
    )


def _check_and_step(objective: Objective, rules: Rules, carry: _Carry) -> _Carry:
    """One round: measure the iterate, decide whether to stop, and if not take some steps."""
    state = carry.state
    now = _measure(objective, state)
    first = state.num_steps == 0
    reference = jnp.where(first, now.gradient_norm, carry.reference)
    kept = tree_where(first | (now.rank < carry.kept.rank), now, carry.kept)
    progress = carry.progress.after(now, coarsest_eps(now.x))
    status = _status(rules, state, now, kept, progress, reference)
    last = (status == Status.CONVERGED) | (status == Status.MAX_STEPS)
    kept = tree_where(last, now, kept)
    # At first after 1, 2, 4 and 8 steps, so that easy problems end early.
    pause = jnp.clip(state.num_steps, 1, _CHECK_EVERY)
    until = jnp.minimum(state.num_steps + pause, rules.max_steps)
    until = jnp.where(status == RUNNING, until, 0)
    state, history = _steps(objective, rules, state, carry.history, until)
    return _Carry(state, kept, progress, reference, history, status)


def _status(
    rules: Rules,
    state: ProxGradState,
    now: Check,
    kept: Check,
    progress: _Progress,
    reference: Array,
) -> Array:
    """The first reason to stop that holds, or `RUNNING`."""
    eps, dtype = coarsest_eps(now.x), now.objective.dtype
    bound = rules.tol * jnp.maximum(now.gradient_norm, reference)
    converged = now.finite & now.valid & (now.residual + now.noise <= bound)
    # Without a lower bound the objective falls to the least number, where steps are rounded away.
    endless = now.objective < -ENDLESS * jnp.finfo(dtype).max
    floor = _FLOOR * (kept.noise + eps * kept.gradient_norm)
    at_floor = (progress.stale >= _STALE_AT_FLOOR) & (kept.residual <= floor)
    reasons = (
        (rules.invalid, Status.INVALID_INPUT),
        (converged, Status.CONVERGED),
        (state.failed | ~now.finite | endless, Status.NOT_FINITE),
        (state.stuck | at_floor | (progress.stale >= _STALE), Status.PRECISION_LIMIT),
        (state.num_steps >= rules.max_steps, Status.MAX_STEPS),
    )
    status = jnp.full((), RUNNING, jnp.int32)
    for holds, reason in reversed(reasons):  # the first one that holds wins
        status = jnp.where(holds, jnp.int32(reason), status)
    return status


def _steps(
    objective: Objective,
    rules: Rules,
    state: ProxGradState,
    history: Array | None,
    until: Array,
) -> tuple[ProxGradState, Array | None]:
    """Steps until their number is `until`, or none leads on; records the objective after each."""
    step = functools.partial(
        advance,
        objective.smooth,
        objective.prox,
        max_step=rules.max_step,
        accelerate=rules.accelerate,
        restart=rules.restart,
        backtrack=rules.backtrack,
    )

    def goes_on(carry: tuple[ProxGradState, Array | None]) -> Array:
        state, _ = carry
        return (state.num_steps < until) & ~state.failed & ~state.stuck

    def one(carry: tuple[ProxGradState, Array | None]) -> tuple[ProxGradState, Array | None]:
        state, history = carry
        state = step(state)
        if history is not None:
            value = objective.total(state.x, objective.smooth(state.x))
            history = history.at[state.num_steps - 1].set(value, mode="drop")
        return state, history

    return jax.lax.while_loop(goes_on, one, (state, history))


def _measure(objective: Objective, state: ProxGradState) -> Check:
    """The residual of the iterate at the step in use, and how much of it may be rounding."""
    smooth, x, curvature = objective.smooth, state.x, state.curvature
    dtype = curvature.dtype
    step = 1 / curvature
    value, gradient = jax.value_and_grad(smooth)(x)
    moved = tree_sub(
        objective.prox(jax.tree.map(lambda a, g: a - step.astype(a.dtype) * g, x, gradient), step),
        x,
    )

    # Where |s g| < ulp(x)/2, x − s g is x and a large gradient leaves no residual at all.
    def hidden(a: Array, g: Array) -> Array:
        ulp = 0.5 * jnp.finfo(a.dtype).eps * jnp.abs(a).astype(dtype)
        return jnp.minimum(ulp * curvature, jnp.abs(g).astype(dtype))

    after = smooth(jax.tree.map(jnp.add, x, moved))
    model = 0.5 * curvature * tree_vdot(moved, moved, dtype)
    rounding = 10 * coarsest_eps(x) * (jnp.abs(value) + jnp.abs(after))
    return Check(
        x=x,
        objective=objective.total(x, value),
        residual=_norm(moved, dtype) * curvature,
        noise=_norm(jax.tree.map(hidden, x, gradient), dtype),
        gradient_norm=_norm(gradient, dtype),
        curvature=curvature,
        valid=after - value - tree_vdot(gradient, moved, dtype) <= model + rounding,
        finite=jnp.isfinite(value) & tree_finite(gradient),
    )


def guess_curvature(smooth, x: PyTree) -> Array:
    """The largest curvature of f at x by a few power iterations on differences of gradients.

    A guess: it is low, and backtracking corrects it. Differences serve functions that define only a
    reverse derivative (`jax.custom_vjp`), which have no Hessian-vector product.
    """
    dtype = scalar_dtype(x)
    gradient = jax.grad(smooth)(x)
    reach = jnp.sqrt(coarsest_eps(x)) * jnp.where(_norm(x, dtype) > 0, _norm(x, dtype), 1)

    def probe(_, carry):
        direction, _ = carry
        size = _norm(direction, dtype)
        scale = reach / jnp.where(size > 0, size, 1)
        there = jax.tree.map(lambda a, d: a + (scale * d).astype(a.dtype), x, direction)
        change = tree_sub(jax.grad(smooth)(there), gradient)
        hvp = jax.tree.map(lambda d: d.astype(dtype) / reach, change)
        return hvp, _norm(hvp, dtype)

    # Where the gradient vanishes, any direction is as good as another.
    flat = _norm(gradient, dtype) == 0
    first = jax.tree.map(lambda g: jnp.where(flat, 1, g).astype(dtype), gradient)
    _, curvature = jax.lax.fori_loop(0, _PROBES, probe, (first, jnp.ones((), dtype)))
    return jnp.where((curvature > 0) & jnp.isfinite(curvature), curvature, 1)


def _norm(x: PyTree, dtype: Any) -> Array:
    """‖x‖₂ without overflow: squares of 1e20 are infinite in float32."""
    peaks = [jnp.max(jnp.abs(leaf), initial=0).astype(dtype) for leaf in jax.tree.leaves(x)]
    peak = jnp.max(jnp.stack(peaks))
    scale = jnp.where((peak > 0) & jnp.isfinite(peak), peak, 1)
    scaled = jax.tree.map(lambda leaf: leaf.astype(dtype) / scale, x)
    return scale * jnp.sqrt(tree_vdot(scaled, scaled, dtype))
