"""Fits with their derivatives: by the data, the strength, weights and offsets, the numbers in a loss."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int

from .._direct import direct
from .._implicit import Conditions, ConjugateGradients, Solver, answer, as_arrays, solution
from .._tracing import frozen, is_differentiable, is_traced
from ..penalties import Penalty
from ._matrix import DenseMatrix
from ._problem import Data, Point, Problem, arrange, structural_masks
from ._results import Fit

_SMALL = 64  # features for which there is always room
_FEW = 4  # numbers by which derivatives are columns
_LARGEST = 4096  # unknowns of a system that is solved with its matrix


def differentiable_fit(found: Fit, problem: Problem, data: Data, pen: Penalty) -> Fit:
    """The same numbers; coefficients, intercept, objective and deviance with their derivatives.

    `gap` and `kkt` are constants: they measure the solve, not the model.
    """
    found = frozen(found)
    by_all = functools.partial(_with_derivatives, moving_parts(found), found, problem)
    leaves, tree = jax.tree.flatten((data, pen))
    few = _FewNumbers.among(leaves)
    if few is None:
        return with_parts(found, by_all(data, pen))
    return with_parts(found, _by_few_numbers(by_all, found, problem, tree, few))


def _with_derivatives(
    values: Any, found: Fit, problem: Problem, data: Data, pen: Penalty
) -> tuple[Any, ...]:
    """The moving parts, whatever it is that has derivatives."""
    return answer(values, *_conditions(found, problem, data, pen))


def moving_parts(fit: Fit) -> tuple[Any, ...]:
    """What of a fit has derivatives."""
    return fit.coef, fit.intercept, fit.lam, fit.objective, fit.deviance_explained


def with_parts(fit: Fit, parts: tuple[Any, ...]) -> Fit:
    return eqx.tree_at(moving_parts, fit, parts)


def differentiable_gradient(problem: Problem, data: Data, pen: Penalty) -> Array:
    """The gradient of the null model, with its derivatives."""
    setting = _setting(problem, frozen(pen))
    step = _step(problem, frozen(pen))
    conditions = _NullGradient(data, _Free(setting.free), step, setting, None)
    return answer(problem.null_gradient, problem.null, conditions)


def _conditions(
    found: Fit, problem: Problem, data: Data, pen: Penalty
) -> tuple[Point, LinearConditions]:
    """A solution and what it satisfies; on the features that can move, where values are known."""
    look = _look(problem, frozen(data), found.coef, found.intercept, frozen(pen))
    everything = LinearConditions(data, pen, look.step, look.setting, None)
    if is_traced((look, data, pen)):
        return look.point, everything
    at = _places(np.asarray(look.moving))
    point, step, setting, frame = _framed(look, at)
    return point, LinearConditions(data, pen, step, setting, frame)


def _places(inside: np.ndarray) -> np.ndarray:
    """Where these features are, and beyond the last one, room that is compiled once for many counts."""
    features, p = np.flatnonzero(inside), len(inside)
    at = np.full(_room(len(features), p), p, np.int32)
    at[: len(features)] = features
    return at


def _inside(found: Fit) -> np.ndarray:
    """Which features are in, (p,); on the host."""
    coef = np.asarray(found.coef) != 0
    return coef.reshape(len(coef), -1).any(axis=1)


class _FewNumbers(NamedTuple):
    """Numbers by which there are derivatives, among leaves of which all values are known."""

    known: list[Any]
    which: tuple[int, ...]
    numbers: tuple[Any, ...]

    @classmethod
    def among(cls, leaves: list[Any]) -> _FewNumbers | None:
        """Those of these leaves; None where there are more, or arrays, or values are not known."""
        which = tuple(i for i, leaf in enumerate(leaves) if isinstance(leaf, Tracer))
        numbers = tuple(leaves[i] for i in which)
        if not 0 < len(which) <= _FEW or any(np.shape(number) != () for number in numbers):
            return None
        known = [as_arrays(frozen(leaf)) if isinstance(leaf, Tracer) else leaf for leaf in leaves]
        if any(isinstance(known[i], Tracer) for i in which):
            return None
        return cls(known, which, numbers)


def _by_few_numbers(
    by_all: Callable[..., Any], found: Fit, problem: Problem, tree: Any, few: _FewNumbers
) -> tuple[Any, ...]:
    """The moving parts, differentiated by a few numbers: a column for each, from one compiled call.

    A derivative of the derivative, and a solution on whose edge other features can move, take the
    way of all.
    """
    values = as_arrays(moving_parts(found))

    @jax.custom_jvp
    def parts(*numbers: Any) -> Any:
        del numbers
        return values

    @parts.defjvp
    def move(numbers: Any, moves: Any) -> Any:
        if not is_differentiable(numbers):
            at = _places(_inside(found))
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


@eqx.filter_jit
def _columns(
    problem: Problem, tree: Any, known: list[Any], which: tuple[int, ...], values: Any, at: Any
) -> tuple[Any, Array]:
    """How the moving parts move with each number; and whether no other feature can move."""
    data, pen = jax.tree.unflatten(tree, known)
    coef, intercept, *_ = values
    look = _look(problem, data, coef, intercept, pen)
    point, step, setting, frame = _framed(look, at)
    inside = jnp.zeros_like(look.moving).at[at].set(True, mode="drop")

    def move(i: int) -> Any:
        def parts_at(number: Array) -> Any:
            data, pen = _replaced(tree, known, (i,), (number,))
            return answer(values, point, LinearConditions(data, pen, step, setting, frame))

        return jax.jvp(parts_at, (known[i],), (jnp.ones_like(known[i]),))[1]

    return [move(i) for i in which], ~jnp.any(look.moving & ~inside)


class Frame(eqx.Module):
    """Some features among all: where they are, and what the prox sees of the others."""

    at: Int[Array, " m"]
    z: Float[Array, "p *k"]
    step: Float[Array, "p *k"]


class Setting(eqx.Module):
    """What is known of a problem, as constants: its null model, and which features that may use."""

    level: Float[Array, "*k"]
    null: Point
    free: Bool[Array, "m *k"]
    is_trivial: Bool[Array, ""]


class LinearConditions(Conditions):
    """β = prox(β − s∘X̃ᵀ∂L), and for the intercept Σ ∂L = 0; on the features of a frame, if given."""

    data: Data
    pen: Penalty
    step: Point
    setting: Setting
    frame: Frame | None

    @property
    def problem(self) -> Problem:
        """On the solver's scale, and on the features of the frame."""
        data = self.data
        if self.frame is not None:
            some = DenseMatrix(data.x.columns(self.frame.at))
            data = dataclasses.replace(data, x=some)
        return arrange(data, self.setting.level)

    def answer(self, x: Point) -> Any:
        """The `moving_parts` of a fit."""
        q = self.problem
        coef, intercept = q.to_user(x)
        null = _NullConditions(
            self.data, _Free(self.setting.free), self.step, self.setting, self.frame
        )
        trivial = self.setting.is_trivial
        null_deviance = jnp.where(trivial, 1, _lowest(self.setting.null, null))
        explained = jnp.where(trivial, 0, 1 - q.deviance(x) / null_deviance)
        lam = jnp.asarray(getattr(self.pen, self.pen.strength))
        objective = q.smooth(x) + self.pen.value(self._everywhere(x.beta))
        return self._everywhere(coef), intercept, lam, objective, explained

    def _everywhere(self, beta: Array) -> Array:
        frame = self.frame
        return (
            beta if frame is None else jnp.zeros_like(frame.z).at[frame.at].set(beta, mode="drop")
        )

    def forward(self, x: Point) -> Point:
        q = self.problem
        slope = q.loss.gradient(q.y, q.eta(x), q.s)
        beta = x.beta - self.step.beta * q.x.rdot(slope)
        # Where some intercepts say the same, it is the one to report.
        intercept = q.loss.identify(x.intercept)
        return Point(beta, intercept - self.step.intercept * jnp.sum(slope, axis=0))

    def prox(self, z: Point) -> Point:
        frame = self.frame
        if frame is None:
            return self._with_intercept(
                self.pen.even_prox(z.beta, self._prox_step(self.step.beta)), z
            )
        beta = frame.z.at[frame.at].set(z.beta, mode="drop")
        beta = self.pen.even_prox(beta, self._prox_step(frame.step))
        return self._with_intercept(beta.at[frame.at].get(mode="fill", fill_value=0), z)

    def _with_intercept(self, beta: Array, z: Point) -> Point:
        has_one = self.data.fit_intercept and self.data.loss.has_intercept
        return Point(beta, z.intercept if has_one else jnp.zeros_like(z.intercept))

    def _prox_step(self, step: Array) -> Array:
        return step if self.pen.metric == "diagonal" else step.ravel()[0]

    def root(self, x: Point) -> Point:
        del x
        return jax.tree.map(lambda s: 1 / jnp.sqrt(s), self.step)

    def solver(self, x: Point) -> Solver:
        if self.frame is None or sum(leaf.size for leaf in jax.tree.leaves(x)) > _LARGEST:
            return ConjugateGradients()
        return direct(_matrix(self, x))

    def moves_apart(self) -> bool:
        """Whether the prox moves every coordinate by itself."""
        every = self.step.beta if self.frame is None else self.frame.z
        return self.pen.linear_form(every.shape) is not None


class _NullConditions(LinearConditions):
    """Those of the null model."""

    def prox(self, z: Point) -> Point:
        return self._with_intercept(self.pen.prox(z.beta), z)

    def solver(self, x: Point) -> Solver:
        del x
        return ConjugateGradients()


class _NullGradient(_NullConditions):
    def answer(self, x: Point) -> Array:
        q = self.problem
        return q.x.rdot(q.loss.gradient(q.y, q.eta(x), q.s))


class _Free(Penalty):
    """The null model's: the features that a penalty leaves free are, all others are held at zero."""

    free: Bool[Array, "p *k"]
    metric = "diagonal"

    def value(self, x: Array) -> Array:
        return jnp.zeros((), x.dtype)

    def prox(self, z: Array, step: Any = 1.0) -> Array:
        return jnp.where(self.free, z, 0)


@eqx.filter_custom_jvp
def _lowest(x: Point, conditions: LinearConditions) -> Array:
    """The deviance at x, where the loss is least."""
    return conditions.problem.deviance(x)


@_lowest.def_jvp
def _move_lowest(primals, tangents):
    # A minimum moves as its objective does at a fixed point; x itself moves for higher orders.
    x, conditions = primals
    x = solution(x, conditions)
    return eqx.filter_jvp(lambda c: c.problem.deviance(x), (conditions,), (tangents[1],))


class _Look(NamedTuple):
    point: Point
    step: Point
    setting: Setting
    z: Array  # what the prox sees
    moving: Bool[Array, " p"]  # what it lets move


@eqx.filter_jit
def _look(problem: Problem, data: Data, coef: Any, intercept: Any, pen: Penalty) -> _Look:
    """Where a solution is; the features that can move are seen by moving all of them."""
    x, step, setting = (
        problem.from_user(coef, intercept),
        _step(problem, pen),
        _setting(problem, pen),
    )
    conditions = LinearConditions(data, pen, step, setting, None)
    if conditions.moves_apart():  # what is at zero moves if it is free at zero, wherever z is
        z = x
    else:
        slope = problem.loss.gradient(problem.y, problem.eta(x), problem.s)
        z = Point(x.beta - step.beta * problem.x.rdot(slope), x.intercept)
    move = 1 + jnp.arange(z.beta.size, dtype=z.beta.dtype) % 7 / 8
    move = Point(move.reshape(z.beta.shape), jnp.zeros_like(z.intercept))
    moved = jax.jvp(conditions.prox, (z,), (move,))[1].beta
    moving = (moved != 0) | (x.beta != 0)
    return _Look(x, step, setting, z.beta, moving.reshape(moving.shape[0], -1).any(axis=1))


@eqx.filter_jit
def _framed(look: _Look, at: Any) -> tuple[Point, Point, Setting, Frame]:
    """The solution, the steps and the setting on the features at these places, and the frame."""

    def some(full: Array, fill: int = 0) -> Array:
        return full.at[at].get(mode="fill", fill_value=fill)

    def some_of(point: Point, fill: int = 0) -> Point:
        return Point(some(point.beta, fill), point.intercept)

    setting = look.setting
    setting = dataclasses.replace(setting, null=some_of(setting.null), free=some(setting.free))
    frame = Frame(jnp.asarray(at), look.z, look.step.beta)
    return some_of(look.point), some_of(look.step, 1), setting, frame


@eqx.filter_jit
def _setting(problem: Problem, pen: Penalty) -> Setting:
    free = structural_masks(pen, problem.null.beta.shape).unpenalised
    return Setting(problem.level, problem.null, free, problem.is_trivial)


@eqx.filter_jit
def _step(problem: Problem, pen: Penalty) -> Point:
    metric = problem.metric(pen)
    return Point(
        jnp.broadcast_to(1 / (problem.smoothness * metric.beta), problem.null.beta.shape),
        jnp.broadcast_to(1 / (problem.smoothness * metric.intercept), problem.responses),
    )


@eqx.filter_jit
def _matrix(conditions: LinearConditions, x: Point) -> Float[Array, "m m"]:
    """(I − J F′) J in the metric's coordinates."""
    root, unravel = ravel_pytree(conditions.root(x))
    z, push_forward = jax.linearize(conditions.forward, x)
    _, push_prox = jax.linearize(conditions.prox, z)

    def in_metric(operator: Any) -> Any:
        return lambda v: root * ravel_pytree(operator(unravel(v / root)))[0]

    identity = jnp.eye(root.size, dtype=root.dtype)
    q = conditions.problem
    if isinstance(q.x, DenseMatrix) and not q.responses:  # one product, in place of two
        columns = jnp.column_stack([q.x.array, jnp.ones_like(q.s)]) / root
        bent = jax.vmap(q.loss.hessian(q.y, q.eta(x), q.s), 1, 1)(columns)
        forward = identity - jnp.matmul(columns.T, bent, precision="highest")
    else:
        forward = jax.vmap(in_metric(push_forward))(identity)
    if conditions.moves_apart():
        j = in_metric(push_prox)(jnp.ones_like(root))
        system = jnp.diag(j) - j[:, None] * forward * j
    else:
        # Each is a prox of all features: some at a time.
        j = jax.lax.map(in_metric(push_prox), identity, batch_size=32)
        system = j - jnp.linalg.multi_dot([j, forward, j], precision="highest")
    return (system + system.T) / 2


def _room(count: int, p: int) -> int:
    """Room for so many of p features, from a short list: each one is compiled once."""
    room = _SMALL if count <= _SMALL else max(2 * _SMALL, 128 * -(-count // 128))
    return min(room, p)
