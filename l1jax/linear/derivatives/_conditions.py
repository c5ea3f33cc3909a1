"""What a fit satisfies, as conditions that its derivatives follow from; on some of its features, or all."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int

from ...implicit._dense import direct
from ...implicit._derivative import Conditions, ConjugateGradients, Solver, solution
from ...penalties import Penalty
from ..data._matrix import DenseMatrix
from ..model._problem import Data, Point, Problem, ScaledData, arrange, structural_masks

_SMALL = 64  # features for which there is always room
_LARGEST = 4096  # unknowns of a system that is solved with its matrix


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
    def problem(self) -> ScaledData:
        """The data on the solver's scale, and on the features of the frame."""
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
            self.data, Free(self.setting.free), self.step, self.setting, self.frame
        )
        trivial = self.setting.is_trivial
        null_deviance = jnp.where(trivial, 1, _lowest(self.setting.null, null))
        explained = jnp.where(trivial, 0, 1 - q.deviance(x) / null_deviance)
        strength = self.pen.strength_value
        lam = jnp.asarray(jnp.nan if strength is None else strength)
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
                self.pen.uniform_prox(z.beta, self._prox_step(self.step.beta)), z
            )
        beta = frame.z.at[frame.at].set(z.beta, mode="drop")
        beta = self.pen.uniform_prox(beta, self._prox_step(frame.step))
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


class NullGradient(_NullConditions):
    def answer(self, x: Point) -> Array:
        q = self.problem
        return q.x.rdot(q.loss.gradient(q.y, q.eta(x), q.s))


class Free(Penalty):
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
def look_at(problem: Problem, data: Data, coef: Any, intercept: Any, pen: Penalty) -> _Look:
    """Where a solution is; the features that can move are seen by moving all of them."""
    x, step, setting = (
        problem.from_user(coef, intercept),
        step_of(problem, pen),
        setting_of(problem, pen),
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
def framed(look: _Look, at: Any) -> tuple[Point, Point, Setting, Frame]:
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
def setting_of(problem: Problem, pen: Penalty) -> Setting:
    free = structural_masks(pen, problem.coef_shape).unpenalised
    return Setting(problem.level, problem.null.point, free, problem.null.is_trivial)


@eqx.filter_jit
def step_of(problem: Problem, pen: Penalty) -> Point:
    metric = problem.limited_metric(pen, problem.smoothness)
    return Point(
        jnp.broadcast_to(1 / (problem.smoothness * metric.beta), problem.coef_shape),
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


def places(inside: np.ndarray) -> np.ndarray:
    """Where these features are, and beyond the last one, room that is compiled once for many counts."""
    features, p = np.flatnonzero(inside), len(inside)
    at = np.full(_room(len(features), p), p, np.int32)
    at[: len(features)] = features
    return at
