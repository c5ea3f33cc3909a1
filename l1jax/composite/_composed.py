"""`minimize` with R(A x): from trees to vectors and back, and the derivative of the solution.

At a solution ∇f(x) + Aᵀu = 0 and A x = prox_{R/ρ}(A x + u/ρ) for any ρ > 0. Where the left sides move by a and
q at fixed x and u, and J is the Jacobian of the prox, u moves by ρq + (I − J)v, with

    H dx + Aᵀ(I − J) v = −a − ρAᵀq,    (I − J)(A dx − J v/ρ) = −(I − J)q,

which is symmetric, and solved by the method of multipliers. dx is unique where H is definite on the directions
that the penalty leaves; u need not be.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PyTree

from .._conjugate_gradients import conjugate_gradients
from .._tracing import frozen
from ..implicit._derivative import as_arrays
from ..penalties._base import Penalty
from ._augmented_lagrangian import (
    MOST_CG_STEPS,
    RIDGE,
    Composite,
    Limits,
    newton_matrix,
    newton_solver,
    prox_jacobian,
    scales_at,
    solve,
)
from ._checks import Call, all_nonnegative, scalar_part
from ._solution import Solution
from ._solvers import AugmentedLagrangian
from ._step import scalar_dtype

_RADIUS = 2.0  # of ‖x‖, around x, within which the gap is a bound
_STIFF = 1e3  # times the first ρ: the ρ at which a derivative is taken
_MULTIPLIER_STEPS = 100
_SOLVED = 100  # units of rounding that the linear system is solved to


class ComposedProblem(eqx.Module):
    """f(x, *args) + R(A x), of trees; a solution has derivatives by its floating-point leaves."""

    fun: Callable[..., Any]
    args: Any
    pen: Penalty  # R
    operator: Callable[[PyTree], PyTree]
    x_like: PyTree
    image_like: PyTree
    has_aux: bool = eqx.field(static=True)

    def smooth(self, x: PyTree) -> Array:
        return scalar_part(self.fun, self.x_like, self.args, self.has_aux)(x)

    def x_tree(self, x: Array) -> PyTree:
        return _tree_like(self.x_like, x)

    def image_tree(self, image: Array) -> PyTree:
        return _tree_like(self.image_like, image)

    def dual_vector(self, dual: PyTree) -> Array:
        """A multiplier given by the user, which must be like A x."""
        shapes = [jax.tree.map(jnp.shape, tree) for tree in (dual, self.image_like)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"dual must be like A x, of shape {shapes[1]}, got {shapes[0]}.")
        return self.vector(dual)

    def vector(self, tree: PyTree) -> Array:
        return ravel_pytree(tree)[0].astype(scalar_dtype(self.x_like))

    def of_vectors(self) -> Composite:
        def operator(x: Array) -> Array:
            return self.vector(self.operator(self.x_tree(x)))

        def prox(w: Array, step: Array) -> Array:
            return self.vector(self.pen.prox(self.image_tree(w), step))

        def value(image: Array) -> Array:
            return jnp.asarray(self.pen.value(self.image_tree(image)), image.dtype)

        transposed = jax.linear_transpose(operator, self.vector(self.x_like))
        return Composite(
            smooth=lambda x: self.smooth(self.x_tree(x)).astype(x.dtype),
            operator=operator,
            adjoint=lambda u: transposed(u)[0],
            prox=prox,
            value=value,
        )


@eqx.filter_jit
def minimize_composed(fun, init, pen, args, solver: AugmentedLagrangian, call: Call) -> Solution:
    """`minimize` for a penalty R(A x)."""
    has_aux = call.has_aux
    # Traced once, here, as in `minimize`: what they close over becomes a leaf.
    fun = eqx.filter_closure_convert(fun, init, *args)
    inner, operator = pen.composition()
    operator = eqx.filter_closure_convert(operator, init)
    x0 = frozen(init)
    image_like = jax.tree.map(
        lambda a: jnp.zeros(a.shape, a.dtype), eqx.filter_eval_shape(operator, x0)
    )
    live = ComposedProblem(fun, args, inner, operator, x0, image_like, has_aux)
    problem = frozen(live)
    flat, x = problem.of_vectors(), problem.vector(x0)
    rho, limits, invalid = _limits(inner, solver, call, x.dtype)
    scales = scales_at(flat, x)
    dual = jnp.zeros_like(flat.operator(x))
    if solver.dual is not None:
        dual = problem.dual_vector(frozen(solver.dual))
    state = solve(flat, scales, x, dual, scales.rho if rho is None else rho, limits)
    best = state.best

    ridge = RIDGE * float(jnp.finfo(x.dtype).eps) * scales.curvature
    moved, _ = _solution(_Found(best.x, best.dual, best.image, _STIFF * scales.rho, ridge), live)
    params = live.x_tree(moved)
    objective = live.smooth(params) + pen.value(params)

    def unless_invalid(tree):
        return jax.tree.map(lambda leaf: jnp.where(invalid, jnp.nan, leaf).astype(leaf.dtype), tree)

    gap = best.fenchel + _RADIUS * jnp.linalg.norm(best.x) * best.stationarity
    return Solution(
        params=unless_invalid(params),
        objective=unless_invalid(best.objective + (objective - frozen(objective))),
        residual=unless_invalid(best.residual),
        relative_residual=unless_invalid(best.relative),
        num_steps=state.num_steps,
        status=state.status,
        step=1 / scales.curvature,
        aux=fun(params, *args)[1] if has_aux else None,
        history=state.history,
        gap=unless_invalid(gap),
        dual=unless_invalid(problem.image_tree(best.dual)),
        image=unless_invalid(problem.image_tree(best.image)),
    )


def _limits(pen: Penalty, solver: AugmentedLagrangian, call: Call, dtype: Any) -> tuple:
    """The first ρ (None: to be measured), when to stop, and whether a traced argument is invalid."""
    tol = jnp.asarray(call.tol, dtype)
    invalid = ~(tol >= 0) | (call.max_steps < 1) | ~all_nonnegative(frozen(pen.strength_value))
    rho = None
    if solver.rho is not None:
        rho = jnp.asarray(frozen(solver.rho), dtype)
        invalid |= ~((rho > 0) & jnp.isfinite(rho))
    return rho, Limits(tol, call.max_steps, invalid, call.history), invalid


class _Found(eqx.Module):
    """The point of which derivatives are taken, at this ρ."""

    x: Array
    dual: Array
    image: Array
    rho: Array
    ridge: Array


@eqx.filter_custom_jvp
def _solution(found, problem):
    """x and u, with the derivative of the solution by the problem."""
    del problem
    return found.x, found.dual


@_solution.def_jvp
def _move_solution(primals, tangents):
    found, problem = as_arrays(primals)
    found = frozen(found)
    x, dual = _solution(found, problem)  # has derivatives itself, for those of higher order
    return (x, dual), _moves(x, dual, found, problem, tangents[1])


def _moves(
    x: Array, dual: Array, found: _Found, problem: ComposedProblem, moves: PyTree
) -> tuple[Array, Array]:
    """dx and du, linear in the moves of the problem."""
    rho = found.rho

    def w_of(flat: Composite) -> Array:
        """A x + u/ρ, with the value of z + u/ρ: there the prox makes the zeros of z."""
        image = flat.operator(x)
        return image + jax.lax.stop_gradient(found.image - image) + dual / rho

    def conditions(problem: ComposedProblem) -> tuple[Array, Array]:
        flat = problem.of_vectors()
        stationarity = jax.grad(flat.smooth)(x) + flat.adjoint(dual)
        return stationarity, flat.operator(x) - flat.prox(w_of(flat), 1 / rho)

    flat = problem.of_vectors()
    linear = _Linearised(flat, x, prox_jacobian(flat, w_of(flat), rho), rho)
    _, (a, q) = eqx.filter_jvp(conditions, (problem,), (moves,))
    a = jnp.zeros_like(x) if a is None else a
    q = jnp.zeros_like(dual) if q is None else q
    right = (-a - rho * flat.adjoint(q), -linear.kept(q))
    inverse = functools.partial(_by_multipliers, linear, found.ridge)
    dx, v = jax.lax.custom_linear_solve(linear.system, right, inverse, symmetric=True)
    return dx, rho * q + linear.kept(v)


class _Linearised(NamedTuple):
    """The conditions of optimality to first order."""

    flat: Composite
    x: Array
    jacobian: Callable[[Array], Array]  # J
    rho: Array

    def kept(self, v: Array) -> Array:
        """(I − J) v."""
        return v - self.jacobian(v)

    def system(self, s: tuple[Array, Array]) -> tuple[Array, Array]:
        """The left sides of the system of dx and v."""
        (dx, v), flat = s, self.flat
        hessian = newton_matrix(flat, self.x, lambda image: image, self.rho, 0.0)
        rest = flat.operator(dx) - self.jacobian(v) / self.rho
        return hessian(dx) + flat.adjoint(self.kept(v)), self.kept(rest)


def _by_multipliers(
    linear: _Linearised, ridge: Array, system: Callable, right: tuple[Array, Array]
) -> tuple[Array, Array]:
    """Solves the system by the method of multipliers, whose matrix is that of a Newton step."""
    (c, e), flat, rho = right, linear.flat, linear.rho
    eps, size = float(jnp.finfo(c.dtype).eps), _norm(right)
    shift = conjugate_gradients(linear.kept, e, eps, MOST_CG_STEPS)  # (I − J) shift = e
    inverse = newton_solver(newton_matrix(flat, linear.x, linear.jacobian, rho, ridge), c)

    def step(carry: tuple) -> tuple:
        (_, v), _, count = carry
        dx = inverse(c + flat.adjoint(linear.kept(rho * shift - linear.kept(v))), eps)
        s = dx, rho * (flat.operator(dx) - shift) + linear.kept(v)
        return s, _norm(jax.tree.map(jnp.subtract, system(s), right)), count + 1

    def goes_on(carry: tuple) -> Array:
        return (carry[1] > _SOLVED * eps * size) & (carry[2] < _MULTIPLIER_STEPS)

    none = jax.tree.map(jnp.zeros_like, right)
    start = (none, jnp.full((), jnp.inf, c.dtype), jnp.zeros((), jnp.int32))
    return jax.lax.while_loop(goes_on, step, start)[0]


def _tree_like(like: PyTree, vector: Array) -> PyTree:
    flat, unravel = ravel_pytree(like)
    return unravel(vector.astype(flat.dtype))


def _norm(tree: PyTree) -> Array:
    return jnp.linalg.norm(ravel_pytree(tree)[0])
