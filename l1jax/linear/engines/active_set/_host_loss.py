"""A smooth loss on the host: its value and derivatives as functions of η, in float64."""

from __future__ import annotations

import functools
from typing import Any

import equinox as eqx
import jax
import numpy as np

from ...._types import AnyArray
from ....losses import Loss
from ...data._host import HostColumns
from ...model._problem import Problem
from ._protocols import PenaltyWeights

_MIN_WIDTH = 32  # columns of one Hessian-vector product, or twice as many, and so on
_TINY = 1e-300  # the least weight that gradients are divided by


class HostLoss:
    """L(η) = Σᵢ sᵢ loss(yᵢ, ηᵢ), for η = X̃β + b + offset (n,)."""

    def __init__(self, problem: Problem):
        self.loss = problem.loss
        # Python's numbers stay what they are: a loss may ask for them.
        self.arrays, self.rest = eqx.partition(self.loss, lambda leaf: hasattr(leaf, "dtype"))
        self.y, self.s, self.offset = (
            np.asarray(v, np.float64) for v in (problem.y, problem.s, problem.offset)
        )
        self.fit_intercept = problem.fit_intercept

    def evaluate(self, eta: np.ndarray) -> tuple[float, np.ndarray]:
        """Returns L and the slope ∂L/∂η (n,)."""
        with jax.enable_x64(True):
            value, slope = _value_and_slope(self.arrays, self.rest, self.y, eta, self.s)
        return float(value), np.asarray(slope)

    def curvatures(self, eta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns ∂²L/∂ηᵢ² of each row, and the bound of it, (n,)."""
        with jax.enable_x64(True):
            curvature, bound = _curvatures(self.loss, self.y, eta, self.s)
        return np.maximum(curvature, 0), np.asarray(bound)

    def hvp(self, eta: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Returns the Hessian-vector product ∂²L/∂η² times each of the columns (n, m)."""
        count = columns.shape[1]
        width = _MIN_WIDTH * 2 ** max(0, int(np.ceil(np.log2(count / _MIN_WIDTH))))
        padded = np.zeros((len(columns), width))  # few widths, few compilations
        padded[:, :count] = columns
        with jax.enable_x64(True):
            return np.asarray(_hvp(self.loss, self.y, eta, self.s, padded))[:, :count]

    def duality_gap(
        self,
        part: HostColumns,
        weights: PenaltyWeights,
        lam: float,
        beta: np.ndarray,
        intercept: float,
    ) -> float:
        """Returns the duality gap of (β, b) on the columns of `part`, whose penalty weights are given.

        The dual point is the slope at the best intercept, scaled into the dual feasible set.
        """
        eta = part.dot(beta) + intercept + self.offset
        with jax.enable_x64(True):
            eta, slope = _at_best_intercept(self.loss, self.y, eta, self.s, self.fit_intercept)
        neg_gradient = -part.rdot(np.asarray(slope))
        penalised = neg_gradient - weights.ridge_gradient(lam, beta)
        over = np.max(weights.kkt_violation(penalised, lam, _TINY), initial=0.0)
        scale = np.asarray(1 / (1 + over))
        with jax.enable_x64(True):
            of_loss = float(_fenchel_gap(self.loss, self.y, eta, scale, self.s))
        return of_loss + weights.fenchel_gap(lam, beta, scale * neg_gradient)


@functools.partial(jax.jit, static_argnums=1)  # half the cost of eqx.filter_jit, at every step
def _value_and_slope(arrays: Any, rest: Any, y: Any, eta: Any, s: Any) -> tuple[AnyArray, AnyArray]:
    loss = eqx.combine(arrays, rest)
    return loss.value(y, eta, s), loss.gradient(y, eta, s)


@eqx.filter_jit
def _curvatures(loss: Loss, y: Any, eta: Any, s: Any) -> tuple[AnyArray, AnyArray]:
    return loss.curvature(y, eta, s), loss.majorant(y, eta, s)


@eqx.filter_jit
def _hvp(loss: Loss, y: Any, eta: Any, s: Any, columns: Any) -> AnyArray:
    return jax.vmap(loss.hessian(y, eta, s), in_axes=1, out_axes=1)(columns)


@eqx.filter_jit
def _at_best_intercept(
    loss: Loss, y: Any, eta: Any, s: Any, has_intercept: bool
) -> tuple[AnyArray, AnyArray]:
    """Returns η at the intercept that minimises the loss, and the slope there."""
    if has_intercept:
        eta = eta + loss.polish_intercept(y, eta, s)
    return eta, loss.gradient(y, eta, s)


@eqx.filter_jit
def _fenchel_gap(loss: Loss, y: Any, eta: Any, scale: Any, s: Any) -> AnyArray:
    return loss.fenchel_gap(y, eta, scale, s)
