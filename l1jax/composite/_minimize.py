"""`minimize`: proximal gradient descent on any smooth function of any pytree, plus a penalty."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, no_type_check

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, PyTree

from .._checks import check_number, numbers_as_leaves
from .._operators import check_linear
from .._sharding import in_auto_axes, specs
from .._tracing import frozen
from ..implicit._derivative import Conditions, solution
from ..penalties._base import Penalty, longest_step
from ._checks import (
    Call,
    all_nonnegative,
    check_call,
    check_init,
    check_penalty,
    default_tolerance,
    scalar_part,
)
from ._composed import minimize_composed
from ._loop import Objective, Rules, descend
from ._solution import Solution, warn_if_short
from ._solvers import FISTA, ISTA, AugmentedLagrangian, solver_for
from ._step import scalar_dtype, tree_finite, tree_where


@no_type_check  # checks its arguments itself, in sentences
def minimize(
    fun: Callable[..., Any],
    init: PyTree,
    pen: Penalty | None,
    *,
    args: tuple[Any, ...] = (),
    solver: ISTA | FISTA | AugmentedLagrangian | None = None,
    tol: Any = None,
    max_steps: Any = 10_000,
    has_aux: bool = False,
    history: int = 0,
) -> Solution:
    """Minimises fun(x, *args) + R(x) over a pytree x of arrays, for a smooth fun and a penalty R.

    Converged where ‖x − prox_s(x − s∇f(x))‖/s ≤ tol · max(‖∇f(x)‖, ‖∇f(init)‖), measured at the x
    that is returned, with a step s that passes the descent test there, and only where rounding
    cannot have made the left side small. Correct under `jit` and `vmap`, over init, args and the
    numbers of pen and solver; a lane that ends changes no more.

    **Derivatives.** `params`, `objective` and `aux` have them, in every mode and order, by args, by
    the numbers in pen and by what fun closes over: those of the optimality conditions, on the range
    of the derivative of the prox. They assume that fun is smooth and its Hessian there positive
    definite; elsewhere they are of least norm. By init, solver and tol they are 0.

    **Recompilation.** Compiled once per fun (by identity), structure, shapes and dtypes. A lambda
    written in the call is a new function each time, so hand the data over in `args` and define
    fun once. Arrays and Python floats in args are data; ints, strings and functions are static.

    **Arguments:**

    - `fun`: `fun(params, *args) -> scalar`, or `(scalar, aux)` with `has_aux`. Differentiable, not
      necessarily convex.
    - `init`: any pytree of floating-point arrays; dtypes and shardings are kept, leaf by leaf (with x64 off JAX
      makes float32 of NumPy's float64). A module with functions in it: `eqx.partition` it
      first. Where R is a constraint, the solve starts from its projection.
    - `pen`: a `l1jax.Penalty`, or None for fun alone.
    - `solver`: `l1jax.FISTA()` unless given, or `l1jax.ISTA()`; for R(A x), a `l1jax.Composed`, it is
      `l1jax.AugmentedLagrangian()`, which takes Newton steps and needs a convex fun with two derivatives. There
      the residual is a bound of the one above, and the solution has a duality gap.
    - `tol`: non-negative; None is 1e-6 in float64, 1e-4 in float32, 1e-2 in shorter types (the
      shortest leaf counts).
    - `max_steps`: at least 1.
    - `history`: k records the objective after each of the first k steps, for one evaluation a step.

    **Returns:** a `Solution`. Statuses: CONVERGED; MAX_STEPS, at the last iterate;
    PRECISION_LIMIT and NOT_FINITE, at the iterate of least residual (init, if it starts with
    NaN); INVALID_INPUT and NaN for traced values that an eager call refuses. An eager call that
    ends short of tol warns once (`l1jax.ConvergenceWarning`).

    **Raises:** TypeError for integer leaves, a fun that returns no scalar, a pen that is no
    penalty; ValueError for an empty tree, a penalty without strength, tol < 0, max_steps < 1.

    Source: Beck and Teboulle (2009); the residual is the norm of Nesterov's (2013) gradient
    mapping.

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> def loss(beta, X, y):
    ...     return 0.5 * jnp.mean((y - X @ beta) ** 2)
    >>> X, y = jnp.array([[-1.0], [0.0], [1.0]]), jnp.array([-1.0, 0.0, 1.0])
    >>> solution = l1jax.minimize(loss, jnp.zeros(1), l1jax.L1(0.1), args=(X, y))
    >>> print(solution.params.round(4))
    [0.85]

    ```
    """
    check_call(fun, args, has_aux, history)
    init = check_init(init)
    pen = _Nothing() if pen is None else check_penalty(pen)
    solver = solver_for(solver, pen)
    is_composed = pen.composition() is not None
    if is_composed:
        check_linear(pen.composition()[1], init)
    tol = check_number(tol, "tol", 0) if tol is not None else default_tolerance(init)
    max_steps = check_number(max_steps, "max_steps", 1, whole=True)
    pen, args = numbers_as_leaves((pen, tuple(args)))

    call = Call(tol, max_steps, has_aux, history)

    def solve(fun, init, pen, args, solver):
        run = minimize_composed if is_composed else _solve
        found = run(fun, init, pen, args, solver, call)
        return found.params, dataclasses.replace(found, params=None)

    places = (specs(init), PartitionSpec())
    params, found = in_auto_axes(solve, fun, init, pen, args, solver, out_sharding=places)
    solution = dataclasses.replace(found, params=params)
    warn_if_short(solution, tol)
    return solution


class _Nothing(Penalty):
    """R = 0."""

    def value(self, x: PyTree) -> Array:
        del x
        return jnp.zeros(())

    def prox(self, z: PyTree, step: Any = 1.0) -> PyTree:
        del step
        return z


@eqx.filter_jit
def _solve(fun, init, pen, args, solver, call: Call) -> Solution:
    has_aux = call.has_aux
    # Traced once, here; everything below calls what was recorded, closed-over tracers included.
    fun = eqx.filter_closure_convert(fun, init, *args)
    live = (fun, args, pen)
    init, fun, args, pen = frozen((init, fun, args, pen))
    smooth = scalar_part(fun, init, args, has_aux)
    dtype = scalar_dtype(init)
    tol = jnp.asarray(call.tol, dtype)
    step = None if solver.step is None else jnp.asarray(solver.step, dtype)
    invalid = ~(tol >= 0) | (call.max_steps < 1) | ~all_nonnegative(pen.strength_value)
    max_step = longest_step(pen, dtype)
    if step is not None:
        invalid |= ~((step > 0) & jnp.isfinite(step))
        if not solver.backtracking:
            invalid |= step > max_step

    def prox(z, step):
        return _like(pen.prox(z, step), z, pen)

    def total(x, value):
        return value.astype(dtype) + _penalty_value(pen, x, dtype)

    # At step 0 the prox of a penalty is the identity, that of a constraint the projection.
    projected = prox(init, jnp.zeros((), dtype))
    x0 = tree_where(tree_finite(projected), projected, init)
    rules = Rules(
        tol=tol,
        max_steps=call.max_steps,
        invalid=invalid,
        history=call.history,
        max_step=max_step,
        accelerate=isinstance(solver, FISTA),
        restart=isinstance(solver, FISTA) and solver.restart,
        backtrack=solver.backtracking,
    )
    outcome = descend(Objective(smooth, prox, total), x0, step, rules)
    found = outcome.found
    scale = jnp.maximum(found.gradient_norm, outcome.reference)
    relative = found.residual / jnp.where(scale > 0, scale, 1)  # no scale: no residual either

    live_fun, live_args, live_pen = live
    step_used = 1 / found.curvature
    x = solution(found.x, _MinimumConditions(*live, step_used, has_aux))
    moved = scalar_part(live_fun, x, live_args, has_aux)(x).astype(dtype)
    moved = moved + _penalty_value(live_pen, x, dtype)

    def unless_invalid(x):
        return jax.tree.map(lambda leaf: jnp.where(invalid, jnp.nan, leaf).astype(leaf.dtype), x)

    return Solution(
        params=unless_invalid(x),
        objective=unless_invalid(found.objective + (moved - frozen(moved))),
        residual=unless_invalid(found.residual),
        relative_residual=unless_invalid(relative),
        num_steps=outcome.num_steps,
        status=outcome.status,
        step=step_used,
        aux=live_fun(x, *live_args)[1] if has_aux else None,
        history=outcome.history,
    )


class _MinimumConditions(Conditions):
    """x = prox_{sR}(x − s∇f(x)), with one step for all."""

    fun: Any
    args: Any
    pen: Penalty
    step: Array
    has_aux: bool = eqx.field(static=True)

    def forward(self, x: PyTree) -> PyTree:
        gradient = jax.grad(scalar_part(self.fun, x, self.args, self.has_aux))(x)
        return jax.tree.map(lambda a, g: a - self.step.astype(a.dtype) * g, x, gradient)

    def prox(self, z: PyTree) -> PyTree:
        return _like(self.pen.prox(z, self.step), z, self.pen)

    def root(self, x: PyTree) -> PyTree:
        return jax.tree.map(lambda a: jnp.ones_like(a) / jnp.sqrt(self.step).astype(a.dtype), x)


def _penalty_value(pen: Penalty, x: PyTree, dtype: Any) -> Array:
    value = jnp.asarray(pen.value(x))
    if value.shape != ():
        raise TypeError(
            f"{type(pen).__name__}.value must return a scalar, got shape {value.shape}: sum it."
        )
    return value.astype(dtype)


def _like(x: PyTree, z: PyTree, pen: Penalty) -> PyTree:
    """x in the dtypes of z: a strength in float64 must not make a float32 loop float64."""
    if jax.tree.structure(x) != jax.tree.structure(z):
        raise TypeError(
            f"{type(pen).__name__}.prox must return a tree like its argument, "
            f"{jax.tree.structure(z)}, got {jax.tree.structure(x)}."
        )

    def leaf(a, b):
        if jnp.shape(a) != b.shape:
            raise TypeError(
                f"{type(pen).__name__}.prox must keep shapes, got {jnp.shape(a)} for {b.shape}."
            )
        return jnp.asarray(a, b.dtype)

    return jax.tree.map(leaf, x, z)
