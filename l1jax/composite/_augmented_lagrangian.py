"""The augmented Lagrangian method for f(x) + R(A x), each of whose problems takes semismooth Newton steps.

With z for A x, and u for the multiplier of A x = z, minimising over z leaves a smooth function of x,

    Φ(x) = f(x) + min_z R(z) + ⟨u, A x − z⟩ + ρ/2 ‖A x − z‖²,    z = prox_{R/ρ}(w),    w = A x + u/ρ,

with ∇Φ = ∇f + Aᵀy at y = u + ρ(A x − z), which is a subgradient of R at z whatever x is: a dual point. The
method minimises Φ roughly, takes u = y, and goes on, with a larger ρ where A x − z falls slowly. Newton's
matrix is H + ρAᵀ(I − J)A, with H that of f and J the Jacobian of the prox. First-order methods (Condat–Vũ,
PDHG) take products only, but many: differences of order 2 and 3 are beyond them.

Source: Rockafellar (1976); Li, Sun and Toh (2018).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._conjugate_gradients import conjugate_gradients
from .._status import Status
from ._loop import ENDLESS, RUNNING, guess_curvature

_DENSE = 512  # unknowns up to which Newton's matrix is written down and factorised
MOST_CG_STEPS = 500
_POWER_STEPS = 20
_GROWTH = 4.0  # of ρ, where ‖A x − z‖ has not fallen by as much
_ROUGHLY = 0.3  # of the other part of the residual, to which Φ is minimised
_ARMIJO = 1e-4
_HALVINGS = 30
_STALE = 100  # steps without progress, after which rounding is all that is left
_DAMPING = 1e-4  # of Newton's matrix far from a minimum of Φ, in units of the curvature of f
# Units of rounding of the curvature of f in it always, where A and f leave directions flat.
RIDGE = 1e3
_NOISE = 10  # units of rounding in a value


class Composite(NamedTuple):
    """f, A, Aᵀ, the prox and the value of R, all of vectors."""

    smooth: Callable[[Array], Array]
    operator: Callable[[Array], Array]
    adjoint: Callable[[Array], Array]
    prox: Callable[[Array, Array], Array]
    value: Callable[[Array], Array]


class Limits(NamedTuple):
    """When to stop."""

    tol: Array
    max_steps: Array
    invalid: Array  # whether an argument is what an eager call refuses
    history: int  # of how many steps to record the objective


class Scales(NamedTuple):
    """Sizes at the start, in units of which the rest is measured."""

    start: Array
    gradient: Array  # ‖∇f‖
    curvature: Array  # of f
    squared_norm: Array  # ‖A‖²

    @property
    def rho(self) -> Array:
        """The ρ at which f and the augmentation are as curved."""
        return self.curvature / self.squared_norm

    def reach(self, x: Array, gradient: Array) -> Array:
        """How large A x may be: x, how far it went, or a step down a gradient of this length."""
        sizes = jnp.linalg.norm(x), jnp.linalg.norm(x - self.start), gradient / self.curvature
        return jnp.sqrt(self.squared_norm) * jnp.maximum(jnp.maximum(*sizes[:2]), sizes[2])


class Point(NamedTuple):
    """An x with its dual point, and how far both are from a solution."""

    x: Float[Array, " p"]
    dual: Float[Array, " m"]  # y
    image: Float[Array, " m"]  # z: A x, but with the zeros that the prox makes
    w: Float[Array, " m"]
    objective: Array
    augmented: Array  # Φ
    gradient: Float[Array, " p"]  # ∇Φ = ∇f + Aᵀy
    stationarity: Array  # its norm
    fenchel: Array  # R(A x) + R*(y) − ⟨A x, y⟩ ≥ 0
    infeasibility: Array  # ‖A x − z‖
    reference: Array  # the larger of ‖∇f‖ here and at the start
    finite: Array
    residual: Array
    relative: Array  # the larger of two residuals in their units; `tol` bounds it


class State(NamedTuple):
    """Where the method stands."""

    x: Array
    dual: Array
    rho: Array
    infeasibility: Array  # ‖A x − z‖ where u was changed last
    has_moved: Array  # whether a step was taken since
    is_stuck: Array  # whether that step led nowhere
    best: Point
    stale: Array
    num_steps: Array
    status: Array
    history: Array | None


def scales_at(problem: Composite, x: Array) -> Scales:
    """Measures f and A at the start."""

    def power(_, carry):
        v, _ = carry
        size = jnp.linalg.norm(v)
        v = problem.adjoint(problem.operator(v / jnp.where(size > 0, size, 1)))
        return v, jnp.linalg.norm(v)

    probe = jnp.cos(jnp.arange(x.size, dtype=x.dtype) ** 2)  # no direction in particular
    _, squared = jax.lax.fori_loop(0, _POWER_STEPS, power, (probe, jnp.ones((), x.dtype)))
    return Scales(
        start=x,
        gradient=jnp.linalg.norm(jax.grad(problem.smooth)(x)),
        curvature=guess_curvature(problem.smooth, x),
        squared_norm=jnp.where(squared > 0, squared, 1),
    )


def solve(
    problem: Composite, scales: Scales, x: Array, dual: Array, rho: Array, limits: Limits
) -> State:
    """Takes Newton steps from x and the multiplier until a status holds."""
    none, far = jnp.zeros((), jnp.int32), jnp.full((), jnp.inf, x.dtype)
    shapes = jax.eval_shape(lambda: measure(problem, scales, x, dual, rho))
    nothing = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
    state = State(
        x=x,
        dual=dual,
        rho=rho,
        infeasibility=far,
        has_moved=jnp.zeros((), bool),
        is_stuck=jnp.zeros((), bool),
        best=nothing._replace(relative=far),
        stale=none,
        num_steps=none,
        status=jnp.full((), RUNNING, jnp.int32),
        history=jnp.full((limits.history,), jnp.nan, x.dtype) if limits.history else None,
    )
    return jax.lax.while_loop(
        lambda state: state.status == RUNNING,
        lambda state: _advance(problem, scales, limits, state),
        state,
    )


def _advance(problem: Composite, scales: Scales, limits: Limits, state: State) -> State:
    """Measures x; where Φ is at its minimum there, roughly, takes a new multiplier, else a Newton step."""
    now = measure(problem, scales, state.x, state.dual, state.rho)
    is_first = state.num_steps == 0
    is_better = (now.relative < state.best.relative) | (is_first & ~state.best.finite)
    stale = jnp.where(now.relative < 0.99 * state.best.relative, 0, state.stale + 1)
    best = jax.tree.map(lambda a, b: jnp.where(is_better, a, b), now, state.best)
    status = _status(limits, best, now, stale, state.num_steps)

    rest = jnp.sqrt(2 * scales.curvature * now.fenchel)
    target = jnp.maximum(limits.tol, jnp.minimum(_ratio(rest, now.reference), 0.1))
    # Where rounding allows no step, Φ is at its minimum as well.
    is_near = (now.stationarity <= _ROUGHLY * target * now.reference) | state.is_stuck
    is_done = state.has_moved & is_near
    is_slow = now.infeasibility > state.infeasibility / _GROWTH
    rho = jnp.where(is_done & is_slow, state.rho * _GROWTH, state.rho)
    goes_on = (status == RUNNING) & ~is_done
    x, is_stuck = jax.lax.cond(
        goes_on,
        lambda: _newton_step(problem, scales, now, state.dual, state.rho),
        lambda: (state.x, jnp.zeros((), bool)),
    )
    history = state.history
    if history is not None:
        before = jnp.where(is_first, limits.history, state.num_steps - 1)
        history = history.at[before].set(now.objective, mode="drop")
    return State(
        x=x,
        dual=jnp.where(is_done, now.dual, state.dual),
        rho=jnp.minimum(rho, _largest_rho(scales, limits.tol, now)),
        infeasibility=jnp.where(is_done, now.infeasibility, state.infeasibility),
        has_moved=goes_on,
        is_stuck=is_stuck,
        best=best,
        stale=stale,
        num_steps=state.num_steps + goes_on,
        status=status,
        history=history,
    )


def _status(limits: Limits, best: Point, now: Point, stale: Array, num_steps: Array) -> Array:
    """The first reason to stop that holds, or `RUNNING`."""
    endless = now.objective < -ENDLESS * jnp.finfo(now.x.dtype).max
    reasons = (
        (limits.invalid, Status.INVALID_INPUT),
        (best.finite & (best.relative <= limits.tol), Status.CONVERGED),
        (~now.finite | endless, Status.NOT_FINITE),
        (stale >= _STALE, Status.PRECISION_LIMIT),
        (num_steps >= limits.max_steps, Status.MAX_STEPS),
    )
    status = jnp.full((), RUNNING, jnp.int32)
    for holds, reason in reversed(reasons):
        status = jnp.where(holds, jnp.int32(reason), status)
    return status


def measure(problem: Composite, scales: Scales, x: Array, dual: Array, rho: Array) -> Point:
    """The dual point of x at this multiplier, and the residuals of both.

    `residual` bounds ‖x − prox_s(x − s∇f)‖/s for the prox of R∘A and s = 1/curvature: half its square, times s,
    is the duality gap of that prox at (x, y).
    """
    value, slope = jax.value_and_grad(problem.smooth)(x)
    image = problem.operator(x)
    w = image + dual / rho
    z = problem.prox(w, 1 / rho)
    y = dual + rho * (image - z)
    gradient = slope + problem.adjoint(y)
    reference = jnp.maximum(scales.gradient, jnp.linalg.norm(slope))
    reach = scales.reach(x, reference)
    # What A x cannot resolve is no distance from z.
    off = jnp.where(jnp.abs(image - z) > jnp.finfo(x.dtype).eps * reach, image - z, 0)
    at_image, at_z = problem.value(image), problem.value(z)
    fenchel = _fenchel_gap(problem, (image, at_image), (z, at_z), y, off)
    stationarity, infeasibility = jnp.linalg.norm(gradient), jnp.linalg.norm(off)
    residual = jnp.sqrt(stationarity**2 + 2 * scales.curvature * fenchel)
    return Point(
        x=x,
        dual=y,
        image=z,
        w=w,
        objective=value + at_image,
        augmented=value + at_z + 0.5 * rho * jnp.sum((w - z) ** 2),
        gradient=gradient,
        stationarity=stationarity,
        fenchel=fenchel,
        infeasibility=infeasibility,
        reference=reference,
        finite=jnp.isfinite(value) & jnp.isfinite(stationarity),
        residual=residual,
        relative=jnp.maximum(_ratio(residual, reference), _ratio(infeasibility, reach)),
    )


def _fenchel_gap(problem: Composite, image: tuple, z: tuple, y: Array, off: Array) -> Array:
    """R(A x) + R*(y) − ⟨A x, y⟩, which is R(A x) − R(z) − ⟨y, off⟩, off = A x − z, as y is a subgradient at z.

    Bounded by ⟨y′ − y, off⟩ with a subgradient y′ at A x, of which no digits cancel. Where the derivative of
    R there is not a number, the difference itself and its rounding. Both points come with their values.
    """
    bound = jnp.abs(jnp.vdot(jax.grad(problem.value)(image[0]) - y, off))
    rounding = _NOISE * jnp.finfo(y.dtype).eps * (jnp.abs(image[1]) + jnp.abs(z[1]))
    direct = jnp.abs(image[1] - z[1] - jnp.vdot(y, off)) + rounding
    return jnp.where(jnp.isfinite(bound), bound, direct)


def _newton_step(
    problem: Composite, scales: Scales, now: Point, dual: Array, rho: Array
) -> tuple[Array, Array]:
    """x + step·d with d of Newton's system, the step halved until Φ falls enough; and whether it never does."""
    x, gradient, eps = now.x, now.gradient, jnp.finfo(now.x.dtype).eps
    far = jnp.minimum(_ratio(now.stationarity, now.reference), 1)
    ridge = scales.curvature * jnp.maximum(RIDGE * eps, _DAMPING * far)
    hessian = newton_matrix(problem, x, prox_jacobian(problem, now.w, rho), rho, ridge)
    direction = -newton_solver(hessian, x)(gradient, 0.1 * jnp.sqrt(far))
    slope = jnp.vdot(gradient, direction)
    # Where f is not convex Newton's matrix may be indefinite.
    is_down = jnp.isfinite(direction).all() & (slope <= 0)
    short = 1 / (scales.curvature + rho * scales.squared_norm)
    direction = jnp.where(is_down, direction, -short * gradient)
    slope = jnp.where(is_down, slope, -short * now.stationarity**2)
    noise = _NOISE * eps * jnp.abs(now.augmented)

    def augmented(x):
        w = problem.operator(x) + dual / rho
        z = problem.prox(w, 1 / rho)
        return problem.smooth(x) + problem.value(z) + 0.5 * rho * jnp.sum((w - z) ** 2)

    def is_too_long(carry):
        step, new, count = carry
        return ~(new <= now.augmented + _ARMIJO * step * slope + noise) & (count < _HALVINGS)

    def halve(carry):
        step, _, count = carry
        return step / 2, augmented(x + step / 2 * direction), count + 1

    step, _, count = jax.lax.while_loop(
        is_too_long, halve, (jnp.full((), 2, x.dtype), jnp.full((), jnp.inf, x.dtype), 0)
    )
    moved = jnp.where(count < _HALVINGS, x + step * direction, x)
    return moved, jnp.all(moved == x)


def prox_jacobian(problem: Composite, w: Array, rho: Array) -> Callable[[Array], Array]:
    """J, of prox_{R/ρ} at w."""
    return jax.linearize(lambda w: problem.prox(w, 1 / rho), w)[1]


def newton_matrix(
    problem: Composite, x: Array, jacobian: Callable[[Array], Array], rho: Array, ridge: Any
) -> Callable[[Array], Array]:
    """The map d -> (H + ρAᵀ(I − J)A + ridge) d.

    H by two reverse derivatives, for a fun whose derivative has no forward rule.
    """
    _, pull = jax.vjp(jax.grad(problem.smooth), x)

    def product(d: Array) -> Array:
        image = problem.operator(d)
        return pull(d)[0] + rho * problem.adjoint(image - jacobian(image)) + ridge * d

    return product


def newton_solver(product: Callable[[Array], Array], x: Array) -> Callable[[Array, Any], Array]:
    """What solves with this matrix to a relative residual: Cholesky if small, else conjugate gradients."""
    if x.size > _DENSE:
        return lambda right, tol: _or_right(
            conjugate_gradients(product, right, tol, MOST_CG_STEPS), right
        )
    matrix = jax.vmap(product)(jnp.eye(x.size, dtype=x.dtype))
    factor = jax.scipy.linalg.cho_factor((matrix + matrix.T) / 2)

    def solve(right: Array, tol: Any) -> Array:
        del tol
        first = jax.scipy.linalg.cho_solve(factor, right)
        rest = right - jnp.matmul(matrix, first, precision="highest")
        return first + jax.scipy.linalg.cho_solve(factor, rest)

    return solve


def _or_right(solved: Array, right: Array) -> Array:
    """The solution; the right side where its own direction is not curved upwards, and there is none."""
    return jnp.where(jnp.any(solved != 0), solved, right)


def _largest_rho(scales: Scales, tol: Array, point: Point) -> Array:
    """The ρ at which the rounding of A x alone makes a residual in Aᵀy of a tenth of what is allowed."""
    eps = jnp.finfo(point.x.dtype).eps
    rounding = eps * jnp.sqrt(scales.squared_norm) * scales.reach(point.x, point.reference)
    allowed = 0.1 * jnp.maximum(tol, _NOISE * eps) * point.reference
    return jnp.maximum(_ratio(allowed, rounding), scales.rho)


def _ratio(size: Array, unit: Array) -> Array:
    """size/unit, where without a unit there is no size either."""
    return size / jnp.where(unit > 0, unit, 1)
