"""The optimality conditions of a fit, of which its derivatives follow; on its active features, or all."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int

from ..._compile import program
from ...implicit._dense import direct
from ...implicit._derivative import Conditions, ConjugateGradients, Solver, solution
from ...penalties import Penalty
from ..model._problem import Data, Point, Problem, ScaledData, arrange, structural_masks

_LEAST_SIZE = 64  # features, to which fewer are padded
_SHORT = 1e3  # by which steps of penalties that are not convex are shorter
_LARGEST = 4096  # unknowns of a system that is solved with its matrix


class ActiveFeatures(eqx.Module):
    """The features that can move, as indices; and the fixed arguments of the prox at the others."""

    at: Int[Array, " m"]
    z: Float[Array, "p *k"]
    step: Float[Array, "p *k"]


class Constants(eqx.Module):
    """What of a problem derivatives take as constant: its level and null model."""

    level: Float[Array, "*k"]
    null: Point
    unpenalised: Bool[Array, "m *k"]
    is_trivial: Bool[Array, ""]


class LinearConditions(Conditions):
    """β = prox(β − t∘X̃ᵀ∂L), and for the intercept Σ ∂L = 0; on the active features, where these are given."""

    data: Data
    pen: Penalty
    step: Point
    constants: Constants
    active: ActiveFeatures | None

    @property
    def problem(self) -> ScaledData:
        """The data on the solver's scale, restricted to the active features."""
        data = self.data
        if self.active is not None:
            data = dataclasses.replace(data, x=data.x.part(self.active.at))
        return arrange(data, self.constants.level)

    def answer(self, x: Point) -> Any:
        """The `moving_parts` of a fit."""
        q = self.problem
        coef, intercept = q.to_user(x)
        null = _NullConditions(
            self.data,
            UnpenalisedOnly(self.constants.unpenalised),
            self.step,
            self.constants,
            self.active,
        )
        trivial = self.constants.is_trivial
        null_deviance = jnp.where(trivial, 1, _lowest(self.constants.null, null))
        explained = jnp.where(trivial, 0, 1 - q.deviance(x) / null_deviance)
        strength = self.pen.strength_value
        lam = jnp.asarray(jnp.nan if strength is None else strength)
        objective = q.smooth(x) + self.pen.value(self._scattered(x.beta))
        return self._scattered(coef), intercept, lam, objective, explained

    def _scattered(self, beta: Array) -> Array:
        """Coefficients of all features (p, *k); zero unless they are active."""
        if self.active is None:
            return beta
        return jnp.zeros_like(self.active.z).at[self.active.at].set(beta, mode="drop")

    def forward(self, x: Point) -> Point:
        q = self.problem
        slope = q.loss.gradient(q.y, q.eta(x), q.s)
        beta = x.beta - self.step.beta * q.x.rdot(slope)
        # Where some intercepts say the same, it is the one to report.
        intercept = q.loss.identify(x.intercept)
        return Point(beta, intercept - self.step.intercept * jnp.sum(slope, axis=0))

    def prox(self, z: Point) -> Point:
        active, pen = self.active, self._pen_on_scale()
        if active is None:
            return self._with_intercept(
                pen.uniform_prox(z.beta, self._prox_step(self.step.beta)), z
            )
        beta = active.z.at[active.at].set(z.beta, mode="drop")
        beta = pen.uniform_prox(beta, self._prox_step(active.step))
        return self._with_intercept(beta.at[active.at].get(mode="fill", fill_value=0), z)

    def _pen_on_scale(self) -> Penalty:
        """The penalty on the solver's scale; at features that cannot move, its limits do not matter."""
        if not self.data.standardize:
            return self.pen
        deviations = 1 / self.problem.inverse_scale
        if self.active is not None:
            every = jnp.ones(self.active.z.shape[0], deviations.dtype)
            deviations = every.at[self.active.at].set(deviations, mode="drop")
        return self.pen.on_scale(deviations)

    def _with_intercept(self, beta: Array, z: Point) -> Point:
        has_one = self.data.fit_intercept and self.data.loss.has_intercept
        return Point(beta, z.intercept if has_one else jnp.zeros_like(z.intercept))

    def _prox_step(self, step: Array) -> Array:
        return step if self.pen.metric == "diagonal" else step.ravel()[0]

    def root(self, x: Point) -> Point:
        del x
        return jax.tree.map(lambda s: 1 / jnp.sqrt(s), self.step)

    def solver(self, x: Point) -> Solver:
        if self.active is None or sum(leaf.size for leaf in jax.tree.leaves(x)) > _LARGEST:
            return ConjugateGradients()
        return direct(_matrix(self, x))

    def has_diagonal_jacobian(self) -> bool:
        """Whether the prox acts on each coordinate alone."""
        every = self.step.beta if self.active is None else self.active.z
        return self.pen.linear_form(every.shape) is not None


class _NullConditions(LinearConditions):
    """The optimality conditions of the null model."""

    def prox(self, z: Point) -> Point:
        return self._with_intercept(self.pen.prox(z.beta), z)

    def solver(self, x: Point) -> Solver:
        del x
        return ConjugateGradients()


class NullGradient(_NullConditions):
    """The optimality conditions of the null model, whose answer is its gradient ∇L."""

    def answer(self, x: Point) -> Array:
        q = self.problem
        return q.x.rdot(q.loss.gradient(q.y, q.eta(x), q.s))


class UnpenalisedOnly(Penalty):
    """The penalty of the null model: zero on unpenalised features, which are the only ones allowed."""

    unpenalised: Bool[Array, "p *k"]
    metric = "diagonal"

    def value(self, x: Array) -> Array:
        return jnp.zeros((), x.dtype)

    def prox(self, z: Array, step: Any = 1.0) -> Array:
        return jnp.where(self.unpenalised, z, 0)


@eqx.filter_custom_jvp
def _lowest(x: Point, conditions: LinearConditions) -> Array:
    """The deviance at x, the minimiser of the loss."""
    return conditions.problem.deviance(x)


@_lowest.def_jvp
def _lowest_jvp(primals, tangents):
    # The derivative of a minimum is that of its objective at fixed x (envelope theorem); the derivative
    # of x counts in higher orders.
    x, conditions = primals
    x = solution(x, conditions)
    return eqx.filter_jvp(lambda c: c.problem.deviance(x), (conditions,), (tangents[1],))


class _Solution(NamedTuple):
    """A solution on the solver's scale, the step t of its conditions, and which features can move."""

    point: Point
    step: Point
    constants: Constants
    z: Array  # the argument of the prox
    can_move: Bool[Array, " p"]  # where the Jacobian of the prox is not zero


@program
def at_solution(problem: Problem, data: Data, coef: Any, intercept: Any, pen: Penalty) -> _Solution:
    """Returns a fit on the solver's scale; features can move where a move of all changes their prox."""
    x = problem.from_user(coef, intercept)
    step, constants = step_of(problem, pen), constants_of(problem, pen)
    conditions = LinearConditions(data, pen, step, constants, None)
    if conditions.has_diagonal_jacobian():
        z = x  # at zero a feature can move or not, wherever its z is
    else:
        slope = problem.loss.gradient(problem.y, problem.eta(x), problem.s)
        z = Point(x.beta - step.beta * problem.x.rdot(slope), x.intercept)
    move = 1 + jnp.arange(z.beta.size, dtype=z.beta.dtype) % 7 / 8
    move = Point(move.reshape(z.beta.shape), jnp.zeros_like(z.intercept))
    change = jax.jvp(conditions.prox, (z,), (move,))[1].beta
    can_move = (change != 0) | (x.beta != 0)
    can_move = can_move.reshape(can_move.shape[0], -1).any(axis=1)
    return _Solution(x, step, constants, z.beta, can_move)


@program
def restricted(solved: _Solution, at: Any) -> tuple[Point, Point, Constants, ActiveFeatures]:
    """The solution, its steps and constants, restricted to the features `at`; and these as `ActiveFeatures`."""

    def some(full: Array, fill: int = 0) -> Array:
        return full.at[at].get(mode="fill", fill_value=fill)

    def some_of(point: Point, fill: int = 0) -> Point:
        return Point(some(point.beta, fill), point.intercept)

    constants = solved.constants
    constants = dataclasses.replace(
        constants, null=some_of(constants.null), unpenalised=some(constants.unpenalised)
    )
    active = ActiveFeatures(jnp.asarray(at), solved.z, solved.step.beta)
    return some_of(solved.point), some_of(solved.step, 1), constants, active


@program
def constants_of(problem: Problem, pen: Penalty) -> Constants:
    unpenalised = structural_masks(pen, problem.coef_shape).unpenalised
    return Constants(problem.level, problem.null.point, unpenalised, problem.null.is_trivial)


@program
def step_of(problem: Problem, pen: Penalty) -> Point:
    # The prox of a penalty that is not convex may jump, but from a stationary point no short step does.
    curvature = problem.smoothness * (1 if pen.convex else _SHORT)
    metric = problem.limited_metric(pen, curvature)
    return Point(
        jnp.broadcast_to(1 / (curvature * metric.beta), problem.coef_shape),
        jnp.broadcast_to(1 / (curvature * metric.intercept), problem.responses),
    )


@program
def _matrix(conditions: LinearConditions, x: Point) -> Float[Array, "m m"]:
    """(I − J F′) J in coordinates where the metric is the identity, with J and F′ the Jacobians."""
    root, unravel = ravel_pytree(conditions.root(x))
    z, forward_jvp = jax.linearize(conditions.forward, x)
    _, prox_jvp = jax.linearize(conditions.prox, z)

    def in_metric(operator: Any) -> Any:
        return lambda v: root * ravel_pytree(operator(unravel(v / root)))[0]

    identity = jnp.eye(root.size, dtype=root.dtype)
    q = conditions.problem
    array = q.x.as_array()
    if array is not None and not q.responses:  # one product, in place of two
        columns = jnp.column_stack([array, jnp.ones_like(q.s)]) / root
        image = jax.vmap(q.loss.hessian(q.y, q.eta(x), q.s), 1, 1)(columns)
        forward = identity - jnp.matmul(columns.T, image, precision="highest")
    else:
        forward = jax.vmap(in_metric(forward_jvp))(identity)
    if conditions.has_diagonal_jacobian():
        j = in_metric(prox_jvp)(jnp.ones_like(root))
        system = jnp.diag(j) - j[:, None] * forward * j
    else:
        # Each is a prox of all features: some at a time.
        j = jax.lax.map(in_metric(prox_jvp), identity, batch_size=32)
        system = j - jnp.linalg.multi_dot([j, forward, j], precision="highest")
    return (system + system.T) / 2


def _padded_size(count: int, p: int) -> int:
    """A size for so many of p features, of a short list: for each one there is a compilation."""
    size = _LEAST_SIZE if count <= _LEAST_SIZE else max(2 * _LEAST_SIZE, 128 * -(-count // 128))
    return min(size, p)


def padded_indices(inside: np.ndarray) -> np.ndarray:
    """The indices of these features, padded by p to one of a few sizes."""
    features, p = np.flatnonzero(inside), len(inside)
    at = np.full(_padded_size(len(features), p), p, np.int32)
    at[: len(features)] = features
    return at
