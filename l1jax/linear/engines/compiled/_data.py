"""What a path is of, in the units in which it is followed, and how far it has come."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ....losses import Loss
from ...data._matrix import DataMatrix
from ._knots import UNPENALISED, Bounds, Limits
from ._newton import Curved

BLOCK = 20  # strengths that are solved before all columns are checked


class PathInputs(NamedTuple):
    """What a path is of: data on the solver's scale, a loss about its null model, penalty weights."""

    x: DataMatrix  # with a column of ones, where the loss has an intercept and is not squared error
    y: Float[Array, " n"]
    s: Float[Array, " n"]
    eta: Float[Array, " n"]  # linear predictor of the null model
    loss: Loss
    norms: Float[Array, " p"]  # √Σᵢ sᵢ x̃ᵢⱼ²
    up: Float[Array, " p"]  # penalty weights at λ = 1
    down: Float[Array, " p"]
    quad: Float[Array, " p"] | None  # None: the penalty has no quadratic part
    limits: Limits | None  # of the coefficients
    unpenalised: Bool[Array, " p"]
    tol: Float[Array, ""]  # violation over λ that is none, of curved losses


class PathData(NamedTuple):
    """The same in rows times √s and columns of norm one."""

    x: DataMatrix
    root: Float[Array, " n"]  # √s
    target: Float[Array, " n"]  # −∂L/∂η / √s at the null model: √s∘(y − η) of squared error
    unit: Float[Array, " p"]  # 1/√Σᵢ sᵢ x̃ᵢⱼ², or 0
    linear: Float[Array, " p"]  # −∇L at the null model
    bounds: Bounds  # penalty weights at λ = 1
    limits: Limits | None  # of the coefficients
    weight: Float[Array, ""]  # a typical one: the largest gradient over λmax
    curved: Curved | None  # None: squared error, with no quadratic part of the penalty

    @classmethod
    def of(cls, given: PathInputs) -> PathData:
        """Returns the data in these units."""
        has_unit = given.norms > 0
        divisor = jnp.where(has_unit, given.norms, 1)
        unit = jnp.where(has_unit, 1 / divisor, 0)
        up, down = (jnp.where(has_unit, w / divisor, jnp.inf) for w in (given.up, given.down))
        root = jnp.sqrt(given.s)
        slope = given.loss.gradient(given.y, given.eta, given.s)
        target = -slope * jnp.where(root > 0, 1 / jnp.where(root > 0, root, 1), 0)
        is_free = jnp.isfinite(up) | jnp.isfinite(down)
        linear = jnp.where(is_free, -unit * given.x.rdot(slope), 0)
        bounds = Bounds.apart(up, down)
        ratio = bounds.ratio(jnp.where(given.unpenalised, 0, linear))
        largest, most = jnp.max(jnp.abs(linear)), jnp.max(ratio)
        typical = jnp.where(most > 0, largest / jnp.where(most > 0, most, 1), 1)
        curved = None
        if given.quad is not None or not given.loss.is_quadratic:
            quad = jnp.zeros_like(unit) if given.quad is None else given.quad * unit**2
            parts = given.loss, given.y, given.s, given.eta, root, quad
            curved = Curved(*parts, given.tol * typical)
        limits = given.limits and Limits(
            *(jnp.where(has_unit, limit * divisor, jnp.inf) for limit in given.limits)
        )
        return cls(given.x, root, target, unit, linear, bounds, limits, typical, curved)

    def columns(self, at: Array) -> Array:
        """Returns some columns, as the rows of an array (W, n)."""
        return (self.x.columns(at) * self.root[:, None]).T * self.unit[at][:, None]

    def neg_gradient(self, residual: Array) -> Array:
        """Returns −∇L of all columns from √s∘(y − η)."""
        return self.unit * self.x.rdot(self.root * residual)


class PathState(NamedTuple):
    """How far a path has come: a solution, and what the next working set is chosen by."""

    lam: Float[Array, ""]
    x: Float[Array, " p"]  # less the null model's
    side: Float[Array, " p"]  # see `_knots`
    neg_gradient: Float[Array, " p"]
    residual: Float[Array, " n"]
    score: Float[Array, " p"]  # the larger, the sooner a column is expected to enter
    num_done: Int[Array, ""]  # strengths
    size: Int[Array, ""]  # strengths of the next block
    stalls: Int[Array, ""]  # blocks of one strength in a row without progress
    full: Bool[Array, ""]
    lost: Bool[Array, ""]

    def is_going(self, count: int) -> Array:
        """Whether there is more to do, and it can be done."""
        return (self.num_done < count) & ~self.full & ~self.lost


def begin(data: PathData, unpenalised: Bool[Array, " p"], lams: Float[Array, " L"]) -> PathState:
    """Returns the null model, at the strength where the first column enters or the first of the grid."""
    neg_gradient = jnp.where(unpenalised, 0, data.linear)
    ratio = data.bounds.ratio(neg_gradient)
    lam = jnp.maximum(jnp.max(ratio) * (1 + 50 * jnp.finfo(ratio.dtype).eps), lams[0])
    zero, no = jnp.zeros_like(ratio), jnp.zeros((), bool)
    return PathState(
        lam, zero, jnp.where(unpenalised, UNPENALISED, zero), neg_gradient, data.target, ratio,
        jnp.int32(0), jnp.int32(BLOCK), jnp.int32(0), no, no,
    )  # fmt: skip
