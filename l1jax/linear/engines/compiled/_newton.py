"""The path of a smooth loss on a working set: quadratic models, followed knot by knot and corrected.

At a point the loss is replaced by its quadratic model, whose Hessian is inverted on the active set. 1. The
model is followed to the next strength, knot by knot. 2. There its gradient is off from that of the loss: a
correction follows the line on which the model's gradient becomes the true one, with the knots that it meets.
3. Corrections go on until the optimality conditions of the loss hold; where they gain too little, a new model
is made. 4. What the first step to a strength was off by is expected again at the next one.
Source: Friedman, Hastie and Tibshirani (2010) for the quadratic models; the paths between them are exact.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from ...._arrays import matmul
from ....losses import Loss
from ._batching import any_lane
from ._knots import (
    Bounds,
    Limits,
    Motion,
    Position,
    follow,
    is_active,
    is_held,
    limited,
    tried_again,
)
from ._tableau import Pivots, Products, Tableau, inverse_on, put

_CHANGES = 32  # of the active set between two models
_SLOW = 0.2  # part of the error that a correction may leave
_MOST_CORRECTIONS = 20  # of one strength
_MOST_MODELS = 8  # for each strength


class Curved(NamedTuple):
    """A loss whose curvature depends on the linear predictor η = X̃(β₀ + x) + b."""

    loss: Loss
    y: Float[Array, "n *k"]
    s: Float[Array, " n"]
    eta: Float[Array, " n"]  # at the null model
    root: Float[Array, " n"]  # √s
    quad: Float[Array, " p"]  # of the penalty at λ = 1
    tol: Float[Array, ""]  # violation of the optimality conditions that is none, over λ

    def at(self, moved: Array) -> tuple[Array, Array]:
        """Returns −∂L/∂η / √s and the curvature / s where √s∘η has moved by so much."""
        inverse = jnp.where(self.root > 0, 1 / jnp.where(self.root > 0, self.root, 1), 0)
        eta = self.eta + inverse * moved
        slope = self.loss.gradient(self.y, eta, self.s)
        curvature = self.loss.curvature(self.y, eta, self.s)
        return -inverse * slope, inverse**2 * curvature


class Columns(NamedTuple):
    """The working set: its columns times √s as rows, bounds of gradients, penalty weights."""

    columns: Float[Array, "W n"]
    bounds: Bounds  # moved apart
    weights: Bounds  # as they are
    quad: Float[Array, " W"]
    limits: Limits | None

    def reordered(self, order: Array) -> Columns:
        """Returns the working set in another order."""
        return Columns(
            self.columns[order],
            self.bounds.at(order),
            self.weights.at(order),
            self.quad[order],
            self.limits and self.limits.at(order),
        )


class Point(NamedTuple):
    """A point on the path, with the gradient of the loss and the quadratic part of the penalty there."""

    x: Float[Array, " W"]
    side: Float[Array, " W"]
    lam: Float[Array, ""]
    neg_gradient: Float[Array, " W"]

    def reordered(self, order: Array) -> Point:
        """Returns the point in another order of the columns."""
        return self._replace(
            x=self.x[order], side=self.side[order], neg_gradient=self.neg_gradient[order]
        )


class Found(NamedTuple):
    """The solutions so far, B + 1 rows, of which the last is spare."""

    x: Float[Array, "B1 W"]
    side: Float[Array, "B1 W"]
    residuals: Float[Array, "B1 n"]  # −∂L/∂η / √s
    violation: Float[Array, " B1"]  # on the working set, over λ
    num_knots: Int[Array, " B1"]
    num_found: Int[Array, ""]


class _Model(NamedTuple):
    tableau: Tableau
    columns: Columns
    is_usable: Bool[Array, ""]


def follow_newton(
    curved: Curved,
    columns: Columns,
    start: Point,
    lams: Float[Array, " B"],
    size: Int[Array, ""],
    going: Bool[Array, ""],
    most_active: int,
) -> tuple[Found, Bool[Array, ""]]:
    """Returns the solutions at the first `size` strengths, and whether too many columns became active."""
    width, n = columns.columns.shape
    table = jnp.zeros((len(lams) + 1, width), start.x.dtype)
    found = Found(
        table,
        table,
        jnp.zeros((len(lams) + 1, n), start.x.dtype),
        jnp.full(len(lams) + 1, jnp.inf, start.x.dtype),
        jnp.zeros(len(lams) + 1, jnp.int32),
        jnp.int32(0),
    )

    def is_full(point: Point) -> Array:
        return jnp.sum(is_active(point.side)) > most_active

    def body(carry: tuple[Point, Found, Array, Array]) -> tuple[Point, Found, Array, Array]:
        point, found, lost, count = carry
        order = jnp.argsort(~is_active(point.side), stable=True)  # active ones first
        model = _model_at(curved, columns.reordered(order), point.reordered(order), most_active)
        goes = going & (found.num_found < size) & ~lost & ~is_full(point)
        state = _follow_model(curved, model, point.reordered(order), found, lams, size, goes, order)
        back = jnp.argsort(order)
        new = state.point.reordered(back)
        return new, state.found, lost | (goes & state.is_lost), count + 1

    def goes_on(carry: tuple[Point, Found, Array, Array]) -> Array:
        point, found, lost, count = carry
        open_ = going & (found.num_found < size) & ~lost & ~is_full(point)
        return any_lane(open_) & (count < _MOST_MODELS * len(lams))

    point, found, _, _ = lax.while_loop(
        goes_on, body, (start, found, jnp.zeros((), bool), jnp.int32(0))
    )
    return found, is_full(point)


def _model_at(curved: Curved, columns: Columns, point: Point, most_active: int) -> _Model:
    """Returns the quadratic model of the loss at a point, factored on its active set."""
    x, active = point.x, is_active(point.side[:most_active])
    _, curvature = curved.at(x @ columns.columns)
    scaled = columns.columns * jnp.sqrt(curvature)
    first, ridge = scaled[:most_active], point.lam * columns.quad
    eye = jnp.eye(most_active, dtype=x.dtype)
    inverse = inverse_on(active, matmul(first, first.T) + ridge[:most_active] * eye)
    at = jnp.arange(len(x))

    def row(j: Array) -> Array:
        own = lax.dynamic_index_in_dim(scaled, j, 0, keepdims=False)
        return matmul(scaled, own) + jnp.where(at == j, ridge, 0)

    def dot_active(v: Array) -> Array:
        of_ridge = jnp.pad(ridge[:most_active] * v, (0, len(x) - most_active))
        return matmul(scaled, matmul(v, first)) + of_ridge

    products = Products(
        lambda v: matmul(scaled, matmul(v, scaled)) + ridge * v,
        dot_active,
        row,
        jnp.sum(scaled**2, axis=1) + ridge,
    )
    tableau = Tableau(products, inverse, is_active(point.side))
    return _Model(tableau, columns, jnp.all(jnp.isfinite(inverse)))


class _State(NamedTuple):
    point: Point
    of_model: Float[Array, " W"]  # the negative gradient that the model has there
    ahead: Float[Array, " W"]  # what the next first step is expected to be off by
    pivots: Pivots
    found: Found
    error: Float[Array, ""]  # violation after the correction before
    tries: Int[Array, ""]
    num_knots: Int[Array, ""]
    is_first: Bool[Array, ""]  # whether the next step is the first one to its strength
    stopped: Bool[Array, ""]
    is_lost: Bool[Array, ""]


def _follow_model(
    curved: Curved,
    model: _Model,
    point: Point,
    found: Found,
    lams: Array,
    size: Array,
    going: Array,
    order: Array,
) -> _State:
    """Follows a model from strength to strength, until it is too far off."""
    side, weights = point.side, model.columns.weights
    down, up = (point.lam * weight for weight in (-weights.down, weights.up))
    outside = jnp.clip(point.neg_gradient, down, up)
    beyond = jnp.maximum(jnp.abs(point.neg_gradient), jnp.where(side > 0, up, -down))
    outside = jnp.where(is_held(side), jnp.sign(side) * beyond, outside)
    state = _State(
        point=point,
        of_model=jnp.where(is_active(side), point.lam * weights.signed(side), outside),
        ahead=jnp.zeros_like(point.x),
        pivots=Pivots.none(_CHANGES, point.x),
        found=found,
        error=jnp.asarray(jnp.inf, point.x.dtype),
        tries=jnp.int32(0),
        num_knots=jnp.int32(0),
        is_first=point.lam > lams[jnp.minimum(found.num_found, len(lams) - 1)],
        stopped=~(going & model.is_usable),
        is_lost=~model.is_usable,
    )
    return lax.while_loop(
        lambda state: any_lane(~state.stopped),
        lambda state: _step(curved, model, state, lams, size, order),
        state,
    )


def _step(
    curved: Curved, model: _Model, state: _State, lams: Array, size: Array, order: Array
) -> _State:
    """One step to the next strength, or one correction there."""
    going = ~state.stopped
    target = lams[jnp.minimum(state.found.num_found, len(lams) - 1)]
    # 1. The line: λ goes to the target, and the gradient of the model to that of the loss.
    end = _line(model, state, target)
    arrives = end.left <= 0
    side = tried_again(end.side)
    x = limited(end.z, side, model.columns.limits)
    weights, quad = model.columns.weights, model.columns.quad
    of_model = jnp.where(is_active(side), end.lam * weights.signed(side), end.z)
    # 2. The gradient of the loss there.
    residual, _ = curved.at(x @ model.columns.columns)
    neg_gradient = model.columns.columns @ residual - end.lam * quad * x
    off = neg_gradient - of_model
    error = weights.violation(end.lam, side, neg_gradient, off) / end.lam
    is_good = arrives & (error <= curved.tol)
    # 3. What is kept.
    num_knots = state.num_knots + end.num_knots
    found = _with_found(state.found, going & is_good, order, (x, side, residual, error, num_knots))
    ahead = jnp.where(arrives, off + state.ahead, 0)
    is_slow = arrives & ~is_good & ~state.is_first & (error > _SLOW * state.error)
    tries = jnp.where(is_good, 0, state.tries + 1)
    is_lost = (tries > _MOST_CORRECTIONS) | ~jnp.isfinite(error)
    stops = (found.num_found >= size) | is_slow | end.pivots.is_full | is_lost
    return _State(
        point=Point(x, side, end.lam, neg_gradient),
        of_model=of_model,
        ahead=jnp.where(state.is_first, ahead, state.ahead),
        pivots=end.pivots,
        found=found,
        error=jnp.where(is_good | ~arrives, jnp.inf, error),
        tries=tries,
        num_knots=jnp.where(is_good, 0, num_knots),
        is_first=is_good,
        stopped=state.stopped | stops,
        is_lost=state.is_lost | (going & is_lost),
    )


def _line(model: _Model, state: _State, target: Array) -> Position:
    """Returns where the line to the target ends, within a time of 1."""
    point, is_first, weights = state.point, state.is_first, model.columns.weights
    change = point.neg_gradient - state.of_model
    # The quadratic part of the penalty falls with λ.
    expected = state.ahead - (target - point.lam) * model.columns.quad * point.x
    change = change + jnp.where(is_first, expected, 0)
    speed = jnp.where(state.stopped, 0, point.lam - target)
    active = is_active(point.side)
    wanted = jnp.where(active, change + speed * weights.signed(point.side), 0)
    moved = state.pivots.dot(model.tableau, wanted)
    one = jnp.ones_like(point.lam)
    position = Position(
        lam=point.lam,
        left=one,
        z=jnp.where(active, point.x, state.of_model),
        rate=jnp.where(active, -moved, change - moved),
        added=None,
        side=point.side,
        pivots=state.pivots,
        segments=None,
        num_knots=jnp.int32(0),
        last=jnp.int32(-1),
        going=~state.stopped,
    )
    columns = model.columns
    motion = Motion(model.tableau, columns.bounds, weights, columns.limits, target, speed, one)
    return follow(motion, position)


def _with_found(found: Found, is_good: Array, order: Array, new: tuple[Any, ...]) -> Found:
    """Returns the solutions with one more, where it is good; its columns are in this order."""
    row = jnp.where(is_good, found.num_found, len(found.violation) - 1)
    x, side, residual, error, num_knots = new
    own = [jnp.zeros_like(v).at[order].set(v) for v in (x, side)]
    values = (*own, residual, error, num_knots)
    x, side, residual, error, num_knots = (
        put(table, value, row) for table, value in zip(found[:5], values, strict=True)
    )
    return Found(x, side, residual, error, num_knots, found.num_found + is_good)
