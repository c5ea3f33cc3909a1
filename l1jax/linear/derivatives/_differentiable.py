"""Fits with their derivatives by the data, λ, weights and offsets, and the numbers in penalty and loss."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from ..._compile import program
from ..._tracing import frozen, is_differentiable, is_traced
from ...implicit._derivative import answer, as_arrays
from ...penalties import Penalty
from ..model._on_host import host_values
from ..model._problem import Data, Point, Problem
from ..results._fit import Fit
from ._by_strength import derivative_by_strength
from ._conditions import (
    LinearConditions,
    NullGradient,
    UnpenalisedOnly,
    at_solution,
    constants_of,
    padded_indices,
    restricted,
    step_of,
)

_FEW = 4  # traced scalars, by which derivatives are computed as columns


def differentiable_fit(found: Fit, problem: Problem, data: Data, pen: Penalty) -> Fit:
    """The same numbers; coefficients, intercept, objective and deviance with their derivatives.

    `gap` and `kkt` are constants: they measure the solve, not the model.
    """
    return _with_thresholds(_moving_fit(frozen(found), problem, data, pen), data)


def _moving_fit(found: Fit, problem: Problem, data: Data, pen: Penalty) -> Fit:
    """The fit, its coefficients and what follows from them with their derivatives."""
    by_all = functools.partial(_with_derivatives, moving_parts(found), found, problem)
    leaves, tree = jax.tree.flatten((data, pen))
    few = _TracedScalars.among(leaves)
    if few is None:
        return with_parts(found, by_all(data, pen))
    # A derivative by the strength alone needs no program.
    by_strength = None
    if few.numbers[0] is pen.strength_value and len(few.numbers) == 1:
        by_strength = functools.partial(
            derivative_by_strength, found, problem, problem.on_scale(host_values(frozen(pen)))
        )
    return with_parts(found, _by_scalars(by_all, found, problem, tree, few, by_strength))


def _with_thresholds(fit: Fit, data: Data) -> Fit:
    """The fit, the thresholds of its loss with their derivatives."""
    if fit.thresholds is None:
        return fit
    eta = data.x.dot(fit.coef) + data.offset
    return dataclasses.replace(fit, thresholds=data.loss.thresholds(data.y, eta, data.weights))


def _with_derivatives(
    values: Any, found: Fit, problem: Problem, data: Data, pen: Penalty
) -> tuple[Any, ...]:
    """The parts, with derivatives by whatever is traced."""
    return answer(values, *_conditions(found, problem, data, pen))


def moving_parts(fit: Fit) -> tuple[Any, ...]:
    """The parts of a fit that have derivatives."""
    return fit.coef, fit.intercept, fit.lam, fit.objective, fit.deviance_explained


def with_parts(fit: Fit, parts: tuple[Any, ...]) -> Fit:
    names = ("stored_coef", "intercept", "lam", "objective", "deviance_explained")
    return dataclasses.replace(fit, **dict(zip(names, parts, strict=True)))


def differentiable_gradient(problem: Problem, data: Data, pen: Penalty) -> Array:
    """The gradient of the null model, with its derivatives."""
    constants = constants_of(problem, frozen(pen))
    step = step_of(problem, frozen(pen))
    conditions = NullGradient(data, UnpenalisedOnly(constants.unpenalised), step, constants, None)
    return answer(problem.null.gradient, problem.null.point, conditions)


def _conditions(
    found: Fit, problem: Problem, data: Data, pen: Penalty
) -> tuple[Point, LinearConditions]:
    """A solution and its optimality conditions; on the features that can move, where values are known."""
    solved = at_solution(problem, frozen(data), found.coef, found.intercept, frozen(pen))
    everything = LinearConditions(data, pen, solved.step, solved.constants, None)
    if is_traced((solved, data, pen)):
        return solved.point, everything
    at = padded_indices(np.asarray(solved.can_move))
    point, step, constants, active = restricted(solved, at)
    return point, LinearConditions(data, pen, step, constants, active)


def _support(found: Fit) -> np.ndarray:
    """The support (p,), on the host."""
    coef = np.asarray(found.coef) != 0
    return coef.reshape(len(coef), -1).any(axis=1)


class _TracedScalars(NamedTuple):
    """The traced scalars to differentiate by; every other leaf is concrete."""

    known: list[Any]
    which: tuple[int, ...]
    numbers: tuple[Any, ...]

    @classmethod
    def among(cls, leaves: list[Any]) -> _TracedScalars | None:
        """The traced scalars among the leaves; None where there are many, or arrays, or values are unknown."""
        which = tuple(i for i, leaf in enumerate(leaves) if isinstance(leaf, Tracer))
        numbers = tuple(leaves[i] for i in which)
        if not 0 < len(which) <= _FEW or any(np.shape(number) != () for number in numbers):
            return None
        known = [as_arrays(frozen(leaf)) if isinstance(leaf, Tracer) else leaf for leaf in leaves]
        if any(isinstance(known[i], Tracer) for i in which):
            return None
        return cls(known, which, numbers)


def _by_scalars(
    by_all: Callable[..., Any],
    found: Fit,
    problem: Problem,
    tree: Any,
    few: _TracedScalars,
    on_host: Callable[[], tuple[Any, ...] | None] | None,
) -> tuple[Any, ...]:
    """The parts with derivatives by a few scalars: a column for each, from one compiled call.

    `on_host` may know that of a single one without compiling. A derivative of the derivative, and a solution
    on whose edge other features can move, are left to `by_all`.
    """
    values = as_arrays(moving_parts(found))

    @jax.custom_jvp
    def parts(*numbers: Any) -> Any:
        del numbers
        return values

    @parts.defjvp
    def move(numbers: Any, moves: Any) -> Any:
        if not is_differentiable(numbers):
            column = on_host and on_host()
            if column is not None:
                like = [np.asarray(new, old.dtype) for new, old in zip(column, values, strict=True)]
                return values, _combined([tuple(like)], moves)
            at = padded_indices(_support(found))
            columns, is_enough = _columns(problem, tree, few.known, few.which, values, at)
            if is_enough:
                return values, _combined(columns, moves)
        return jax.jvp(
            lambda *numbers: by_all(*_replaced(tree, few.known, few.which, numbers)),
            numbers,
            moves,
        )

    return parts(*few.numbers)


@jax.jit
def _combined(columns: list[Any], moves: tuple[Array, ...]) -> Any:
    """Σ column·move, as one function: each costs by itself under a derivative."""

    def combine(*each: Array) -> Array:
        terms = [
            column * move.astype(column.dtype) for column, move in zip(each, moves, strict=True)
        ]
        return functools.reduce(jnp.add, terms)

    return jax.tree.map(combine, *columns)


def _replaced(
    tree: Any, leaves: list[Any], which: tuple[int, ...], numbers: Any
) -> tuple[Data, Penalty]:
    leaves = list(leaves)
    for i, number in zip(which, numbers, strict=True):
        leaves[i] = number
    return jax.tree.unflatten(tree, leaves)


@program
def _columns(
    problem: Problem, tree: Any, known: list[Any], which: tuple[int, ...], values: Any, at: Any
) -> tuple[Any, Array]:
    """The derivative of the parts by each scalar; and whether no feature beyond `at` can move."""
    data, pen = jax.tree.unflatten(tree, known)
    coef, intercept, *_ = values
    solved = at_solution(problem, data, coef, intercept, pen)
    point, step, constants, active = restricted(solved, at)
    within = jnp.zeros_like(solved.can_move).at[at].set(True, mode="drop")

    def move(i: int) -> Any:
        def parts_at(number: Array) -> Any:
            data, pen = _replaced(tree, known, (i,), (number,))
            return answer(values, point, LinearConditions(data, pen, step, constants, active))

        return jax.jvp(parts_at, (known[i],), (jnp.ones_like(known[i]),))[1]

    return [move(i) for i in which], ~jnp.any(solved.can_move & ~within)
