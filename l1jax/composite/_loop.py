"""The loop around the proximal gradient step: when to check, what to measure, when to stop."""

from __future__ import annotations

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

_RUNNING = -1
_CHECK_EVERY = 10  # steps; a check costs a gradient, a prox and a value, so 8 to 10 % of the solve
_PROBES = 4  # gradients spent on guessing the first step
# Rounding is all that is left after this many checks without progress, near the floor or anywhere:
_STALE_AT_FLOOR = 10
_STALE = 100
_ENDLESS = 1e-6  # of the largest number
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


class _Progress(NamedTuple):
    """The marks to beat, and for how many checks neither was."""

    residual: Array
    objective: Array
    stale: Array

    def see(self, now: Check, eps: float) -> _Progress:
        """A residual 1 % below its mark is progress, and so is an objective below its own by more
        than rounding: where momentum builds up, the residual may rise for a long time. Without
        restarts so may the objective, and what moves visibly is not at the end of its digits."""
        rounding = 10 * eps * jnp.abs(now.objective)
        lower = now.objective < self.objective - rounding
        higher = now.objective > self.objective + rounding
        ahead = (now.rank < 0.99 * self.residual) | lower
        return _Progress(
            residual=jnp.where(ahead, jnp.minimum(now.rank, self.residual), self.residual),
            objective=jnp.where(ahead, jnp.minimum(now.objective, self.objective), self.objective),
            stale=jnp.where(ahead | higher, 0, self.stale + 1),
        )


def descend(
    smooth: Callable[[PyTree], Array],
    prox: Callable[[PyTree, Array], PyTree],
    objective: Callable[[PyTree, Array], Array],
    x0: PyTree,
    step: Array | None,
    *,
    tol: Array,
    max_steps: Array,
    invalid: Array,
    history: int,
    accelerate: bool,
    restart: bool,
    backtrack: bool,
    max_step: Array,
) -> Outcome:
    """Proximal gradient steps from x0 until a status holds; `objective` takes x and f(x)."""
    dtype = scalar_dtype(x0)
    eps = coarsest_eps(x0)

    def measure_and_run(carry):
        state, kept, progress, reference, record, _ = carry
        now = _measure(smooth, prox, objective, state)
        first = state.num_steps == 0
        reference = jnp.where(first, now.gradient_norm, reference)
        kept = tree_where(first | (now.rank < kept.rank), now, kept)
        progress = progress.see(now, eps)

        bound = tol * jnp.maximum(now.gradient_norm, reference)
        converged = now.finite & now.valid & (now.residual + now.noise <= bound)
        # Without a lower bound the objective runs to the end of the numbers, where steps are lost.
        endless = now.objective < -_ENDLESS * jnp.finfo(dtype).max
        floor = _FLOOR * (kept.noise + eps * kept.gradient_norm)
        at_floor = (progress.stale >= _STALE_AT_FLOOR) & (kept.residual <= floor)
        reasons = (
            (invalid, Status.INVALID_INPUT),
            (converged, Status.CONVERGED),
            (state.failed | ~now.finite | endless, Status.NOT_FINITE),
            (state.stuck | at_floor | (progress.stale >= _STALE), Status.PRECISION_LIMIT),
            (state.num_steps >= max_steps, Status.MAX_STEPS),
        )
        status = jnp.full((), _RUNNING, jnp.int32)
        for holds, reason in reversed(reasons):  # the first one that holds wins
            status = jnp.where(holds, jnp.int32(reason), status)
        last = (status == Status.CONVERGED) | (status == Status.MAX_STEPS)
        kept = tree_where(last, now, kept)

        # At first after 1, 2, 4 and 8 steps, so that easy problems end early.
        pause = jnp.clip(state.num_steps, 1, _CHECK_EVERY)
        until = jnp.minimum(state.num_steps + pause, max_steps)
        until = jnp.where(status == _RUNNING, until, 0)
        state, record = run(state, record, until)
        return state, kept, progress, reference, record, status

    def run(state: ProxGradState, record: Array | None, until: Array):
        def unfinished(carry):
            state, _ = carry
            return (state.num_steps < until) & ~state.failed & ~state.stuck

        def one(carry):
            state, record = carry
            state = advance(
                smooth,
                prox,
                state,
                max_step=max_step,
                accelerate=accelerate,
                restart=restart,
                backtrack=backtrack,
            )
            if record is not None:
                value = objective(state.x, smooth(state.x))
                record = record.at[state.num_steps - 1].set(value, mode="drop")
            return state, record

        return jax.lax.while_loop(unfinished, one, (state, record))

    curvature = _guess_curvature(smooth, x0) if step is None else 1 / step
    nan, no = jnp.full((), jnp.nan, dtype), jnp.zeros((), bool)
    far = jnp.full((), jnp.inf, dtype)
    carry = (
        start(x0, jnp.maximum(curvature, 1 / max_step)),
        Check(x0, nan, nan, nan, nan, nan, no, no),
        _Progress(far, far, jnp.zeros((), jnp.int32)),
        nan,
        jnp.full((history,), jnp.nan, dtype) if history else None,
        jnp.full((), _RUNNING, jnp.int32),
    )
    state, found, _, reference, record, status = jax.lax.while_loop(
        lambda carry: carry[-1] == _RUNNING, measure_and_run, carry
    )
    return Outcome(found, reference, state.num_steps, status, record)


def _measure(smooth, prox, objective, state: ProxGradState) -> Check:
    x, curvature = state.x, state.curvature
    dtype = curvature.dtype
    step = 1 / curvature
    value, gradient = jax.value_and_grad(smooth)(x)
    moved = tree_sub(
        prox(jax.tree.map(lambda a, g: a - step.astype(a.dtype) * g, x, gradient), step), x
    )

    # Where |s g| < ulp(x)/2, x − s g is x and a large gradient leaves no residual at all.
    def lost(a, g):
        ulp = 0.5 * jnp.finfo(a.dtype).eps * jnp.abs(a).astype(dtype)
        return jnp.minimum(ulp * curvature, jnp.abs(g).astype(dtype))

    after = smooth(jax.tree.map(jnp.add, x, moved))
    model = 0.5 * curvature * tree_vdot(moved, moved, dtype)
    rounding = 10 * coarsest_eps(x) * (jnp.abs(value) + jnp.abs(after))
    return Check(
        x=x,
        objective=objective(x, value),
        residual=_norm(moved, dtype) * curvature,
        noise=_norm(jax.tree.map(lost, x, gradient), dtype),
        gradient_norm=_norm(gradient, dtype),
        curvature=curvature,
        valid=after - value - tree_vdot(gradient, moved, dtype) <= model + rounding,
        finite=jnp.isfinite(value) & tree_finite(gradient),
    )


def _guess_curvature(smooth, x: PyTree) -> Array:
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
        bend = tree_sub(jax.grad(smooth)(there), gradient)
        bend = jax.tree.map(lambda b: b.astype(dtype) / reach, bend)
        return bend, _norm(bend, dtype)

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
