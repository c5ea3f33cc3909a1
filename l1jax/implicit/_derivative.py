"""The derivative of a solution, through the conditions that it satisfies.

A solution is a fixed point x = prox(F(x)) with F(x) = x − s∘∇f(x). With J the derivative of prox at F(x)
and r what the right side does, at a fixed x, as the data θ move, the solution moves by

    dx = r + J u,    (I − J F′) J u = J F′ r.

In coordinates where the metric s is the identity J and F′ are symmetric, and so is the system. It
lives on the range of J: the active coordinates or groups, the intercept, the tangent space of a ball. Nothing
is unrolled; a rule for the forward derivative gives the reverse and all higher ones.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jax.scipy.sparse.linalg import cg
from jaxtyping import Array, Float, PyTree

from .._tracing import as_array, frozen, is_traced, is_weak

_POLISHING = 3  # Newton steps before a derivative is taken: a solve may have ended at a loose tol
_EXACT = 0.7  # solved where the relative error is below this power of the unit of rounding

_MOST_STEPS = 5000  # of conjugate gradients

Operator = Callable[[Array], Array]


class Conditions(eqx.Module):
    """x = prox(forward(x)). Its floating-point leaves are what a solution has derivatives by."""

    @abc.abstractmethod
    def forward(self, x: PyTree) -> PyTree:
        """x − s∘∇f(x)."""

    @abc.abstractmethod
    def prox(self, z: PyTree) -> PyTree:
        """prox_{sR}(z)."""

    @abc.abstractmethod
    def root(self, x: PyTree) -> PyTree:
        """1/√s, like x up to the common step: the coordinates in which the system is symmetric."""

    def answer(self, x: PyTree) -> PyTree:
        """What is wanted of a solution."""
        return x

    def solver(self, x: PyTree) -> Solver:
        """What solves the system at x."""
        del x
        return ConjugateGradients()


class Solver(eqx.Module):
    """Solves a symmetric positive semi-definite system; to derivatives it is a constant."""

    @abc.abstractmethod
    def __call__(self, system: Operator, rhs: Float[Array, " m"]) -> Float[Array, " m"]: ...


class ConjugateGradients(Solver):
    """Without a matrix, to rounding: for what is traced, and for trees of any shape."""

    def __call__(self, system: Operator, rhs: Float[Array, " m"]) -> Float[Array, " m"]:
        size = jnp.sqrt(jnp.sum(rhs**2))
        safe = jnp.where((size > 0) & jnp.isfinite(size), size, 1)
        eps = float(jnp.finfo(rhs.dtype).eps)
        u, _ = cg(system, rhs / safe, tol=eps, maxiter=min(2 * rhs.size + 50, _MOST_STEPS))
        return u * safe


def solution(x: PyTree, conditions: Conditions) -> PyTree:
    """x itself, which solves the conditions, with the derivative of the solution by them.

    Where x is short of rounding the derivative is that of the point some Newton steps further.
    """
    return _solution(frozen(x), as_arrays(conditions))


def answer(values: PyTree, x: PyTree, conditions: Conditions) -> PyTree:
    """The values, which are the answer at a solution x, with their derivative by the conditions."""
    return _answer(frozen(values), frozen(x), as_arrays(conditions))


@eqx.filter_custom_jvp
def _solution(x, conditions):
    del conditions
    return x


@_solution.def_jvp
def _move_solution(primals, tangents):
    x, conditions = as_arrays(primals)
    exact, solver = _polished(frozen(x), frozen(conditions))
    x = _solution(exact, conditions)  # has derivatives itself, for those of higher order
    return x, _move(x, conditions, tangents[1], solver)


@eqx.filter_custom_jvp
def _answer(values, x, conditions):
    del x, conditions
    return values


@_answer.def_jvp
def _move_answer(primals, tangents):
    values, x, conditions = as_arrays(primals)
    exact, solver = _polished(frozen(x), frozen(conditions))
    again = _answer(frozen(values), exact, conditions)
    return again, _move_all(values, _solution(exact, conditions), conditions, tangents[2], solver)


@eqx.filter_jit
def _move(x, conditions, moves, solver):
    """dx, linear in the moves of the conditions."""
    _, direct = eqx.filter_jvp(lambda c: c.prox(c.forward(x)), (conditions,), (moves,))
    return _propagate(x, conditions, _dense(direct, x), solver)


@eqx.filter_jit
def _move_all(values, x, conditions, moves, solver):
    """The move of the answer: all of it in one program."""
    dx = _move(x, conditions, moves, solver)
    _, move = eqx.filter_jvp(lambda x, c: c.answer(x), (x, conditions), (dx, moves))
    return jax.tree.map(
        lambda move, like: jnp.asarray(move, like.dtype), _dense(move, values), values
    )


def _dense(move: PyTree, like: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf, m: jnp.zeros_like(leaf) if m is None else m, like, move)


def _propagate(x: PyTree, conditions: Conditions, direct: PyTree, solver: Solver) -> PyTree:
    """r + J u: how x moves where the right side of its equation moves by r at a fixed x."""
    root = conditions.root(x)
    z, forward_jvp = jax.linearize(conditions.forward, x)
    _, prox_jacobian = jax.linearize(conditions.prox, z)

    # As one vector, of which no part can be a constant that has no transpose.
    weights, unravel = ravel_pytree(root)

    def in_metric(u: PyTree) -> Array:
        return weights * ravel_pytree(u)[0]

    def system(u: Array) -> Array:
        inside = prox_jacobian(unravel(u / weights))
        return in_metric(optax.tree.sub(inside, prox_jacobian(forward_jvp(inside))))

    rhs = in_metric(prox_jacobian(forward_jvp(direct)))
    u = jax.lax.custom_linear_solve(system, rhs, solver, symmetric=True)
    return optax.tree.add(direct, prox_jacobian(unravel(u / weights)))


def _polished(x: PyTree, conditions: Conditions) -> tuple[PyTree, Solver]:
    """x after Newton steps, while they help, and the solver for its system."""
    if is_traced((x, conditions)):
        return _polish(x, conditions, ConjugateGradients(), _POLISHING), conditions.solver(x)
    solver = conditions.solver(x)
    for _ in range(_POLISHING):
        if _is_exact(x, conditions):
            break
        x = _polish(x, conditions, solver, 1)
        solver = conditions.solver(x)
    return x, solver


def _error(x: PyTree, conditions: Conditions) -> PyTree:
    return optax.tree.sub(conditions.prox(conditions.forward(x)), x)


@eqx.filter_jit
def _is_exact(x: PyTree, conditions: Conditions, off: PyTree = None) -> Array:
    root = conditions.root(x)
    off = _error(x, conditions) if off is None else off
    eps = max(float(jnp.finfo(leaf.dtype).eps) for leaf in jax.tree.leaves(x))
    return _size(off, root) <= eps**_EXACT * _size(x, root)


def _size(u: PyTree, root: PyTree) -> Array:
    return optax.tree.norm(jax.tree.map(jnp.multiply, root, u))


@eqx.filter_jit
def _polish(x: PyTree, conditions: Conditions, solver: Solver, limit: int) -> PyTree:
    root = conditions.root(x)

    def step(carry):
        x, off, count, _ = carry
        new = optax.tree.add(x, _propagate(x, conditions, off, solver))
        new = jax.tree.map(lambda leaf, old: leaf.astype(old.dtype), new, x)
        new_off = _error(new, conditions)
        better = _size(new_off, root) < 0.5 * _size(off, root)
        pick = jax.tree.map(lambda a, b: jnp.where(better, a, b), (new, new_off), (x, off))
        return *pick, count + 1, better

    def goes_on(carry):
        x, off, count, helped = carry
        return helped & (count < limit) & ~_is_exact(x, conditions, off)

    start = (x, _error(x, conditions), jnp.zeros((), jnp.int32), jnp.ones((), bool))
    return jax.lax.while_loop(goes_on, step, start)[0]


def as_arrays(tree: PyTree) -> PyTree:
    """NumPy arrays and floats as JAX's arrays: leaves to every transformation, constants to none."""

    def leaf(value: Any) -> Any:
        is_foreign = isinstance(value, np.ndarray | np.generic | float)
        return as_array(value) if is_foreign or is_weak(value) else value

    return jax.tree.map(leaf, tree)
