"""A smooth loss on the host: its value and derivatives as functions of η, in float64."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np

from ...._arrays import if_any, is_in_numpy, namespace
from ....losses import Loss
from ....losses._base import has_curvature_factors
from ...data._host import HostColumns
from ...model._on_host import host_errors
from ...model._problem import Problem
from ._protocols import PenaltyWeights
from ._stacked_matrix import StackedMatrix, StackedPart

_MIN_WIDTH = 32  # columns of one Hessian-vector product, or twice as many, and so on
_TINY = 1e-300  # the least weight that gradients are divided by


class HostLoss:
    """L(η) = Σᵢ sᵢ loss(yᵢ, ηᵢ), for η = X̃β + b + offset (n,)."""

    def __init__(self, problem: Problem):
        self.loss = problem.loss
        self.y, self.s, self.offset = (
            np.asarray(v, np.float64) for v in (problem.y, problem.s, problem.offset)
        )
        self.fit_intercept = problem.fit_intercept
        x = problem.x  # of classes, intercepts are columns
        self.has_intercepts = self.fit_intercept or (isinstance(x, StackedMatrix) and x.free > 0)
        self.has_factors = has_curvature_factors(self.loss)
        if is_in_numpy(self.loss):
            self.loss = jax.tree.map(np.asarray, self.loss)
        # Python's numbers stay what they are: a loss may ask for them.
        self.arrays, self.rest = eqx.partition(self.loss, lambda leaf: hasattr(leaf, "dtype"))

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Returns function(loss, y, *arguments); compiled, unless the loss is for NumPy too."""
        if is_in_numpy(self.loss):
            with host_errors():
                return function(self.loss, self.y, *arguments)
        with jax.enable_x64(True):
            found = _compiled(function, self.rest, self.arrays, self.y, *arguments)
            return jax.tree.map(np.asarray, found)

    def evaluate(self, eta: np.ndarray) -> tuple[float, np.ndarray]:
        """Returns L and the slope ∂L/∂η (n,)."""
        value, slope = self._call(_value_and_slope, eta, self.s)
        return float(value), slope

    def curvatures(self, eta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns ∂²L/∂ηᵢ² of each row, (n,), negative only where it is not convex, and the bound of it."""
        curvature, bound = self._call(_curvatures, eta, self.s)
        return np.maximum(curvature, 0) if self.loss.convex else curvature, bound

    def curvature_factors(self, eta: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """Returns a and b of the curvatures diag(a) − bbᵀ of the rows, (n, K), if they are of this form."""
        return self._call(_curvature_factors, eta, self.s) if self.has_factors else None

    def hvp(self, eta: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Returns the Hessian-vector product ∂²L/∂η² times each of the columns (n, m)."""
        if is_in_numpy(self.loss):
            with host_errors():
                return self.loss.hessian(self.y, eta, self.s)(columns.T).T
        count = columns.shape[1]
        width = _MIN_WIDTH * 2 ** max(0, int(np.ceil(np.log2(count / _MIN_WIDTH))))
        padded = np.zeros((len(columns), width))  # few widths, few compilations
        padded[:, :count] = columns
        return self._call(_hvp, eta, self.s, padded)[:, :count]

    def hessian(
        self, part: HostColumns, eta: np.ndarray, curvature: np.ndarray, min_curvature: np.ndarray
    ) -> np.ndarray:
        """Returns X̃ᵀ H X̃ on the columns of `part` and the intercept, for H = ∂²L/∂η² of at least a minimum.

        `curvature`, `min_curvature`: of each row, (n,). Where H is not diagonal the minimum is added.
        """
        if self.loss.is_separable:
            row_weights = np.maximum(curvature, min_curvature)
            return self._with_intercept(part, part.gram(row_weights), row_weights)
        factors = self.curvature_factors(eta)
        if factors is not None and isinstance(part, StackedPart):
            a, b = factors
            return part.curvature_matrix(a + min_curvature.reshape(a.shape), b)
        gram = part.curvature_gram(lambda columns: self.hvp(eta, columns))
        gram = (gram + gram.T) / 2 + part.gram(min_curvature)
        of_one = self.hvp(eta, np.ones((len(eta), 1)))[:, 0] + min_curvature
        return self._with_intercept(part, gram, of_one)

    def _with_intercept(
        self, part: HostColumns, gram: np.ndarray, of_one: np.ndarray
    ) -> np.ndarray:
        """Returns the Hessian of the columns, with H times ones for that of the intercept, if there is one."""
        if not self.fit_intercept:
            return gram
        m = len(gram)
        hessian = np.empty((m + 1, m + 1))
        hessian[:m, :m] = gram
        hessian[m, :m] = hessian[:m, m] = part.rdot(of_one)
        hessian[m, m] = of_one.sum()
        return hessian

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
        eta, slope = self._call(_at_best_intercept, eta, self.s, np.asarray(self.has_intercepts))
        neg_gradient = -part.rdot(slope)
        if isinstance(part, StackedPart):
            neg_gradient[part.is_intercept] = 0  # but for rounding: η is at the best ones
        penalised = neg_gradient - weights.ridge_gradient(lam, beta)
        over = np.max(weights.kkt_violation(penalised, lam, _TINY), initial=0.0)
        scale = np.asarray(1 / (1 + over))
        of_loss = float(self._call(_fenchel_gap, eta, scale, self.s))
        return of_loss + weights.fenchel_gap(lam, beta, scale * neg_gradient)


@functools.partial(jax.jit, static_argnums=(0, 1))  # half the cost of eqx.filter_jit, at every step
def _compiled(function: Any, rest: Any, arrays: Any, *arguments: Any) -> Any:
    return function(eqx.combine(arrays, rest), *arguments)


def _value_and_slope(loss: Loss, y: Any, eta: Any, s: Any) -> tuple[Any, Any]:
    return loss.value_and_gradient(y, eta, s)


def _curvatures(loss: Loss, y: Any, eta: Any, s: Any) -> tuple[Any, Any]:
    return loss.curvature(y, eta, s), loss.majorant(y, eta, s)


def _curvature_factors(loss: Loss, y: Any, eta: Any, s: Any) -> tuple[Any, Any] | None:
    return loss.curvature_factors(y, eta, s)


def _hvp(loss: Loss, y: Any, eta: Any, s: Any, columns: Any) -> Any:
    return jax.vmap(loss.hessian(y, eta, s), in_axes=1, out_axes=1)(columns)


def _at_best_intercept(loss: Loss, y: Any, eta: Any, s: Any, has_intercept: Any) -> tuple[Any, Any]:
    """Returns η at the intercept that minimises the loss, and the slope there."""
    xp = namespace(y, eta, s)
    shift = if_any(has_intercept, lambda: loss.polish_intercept(y, eta, s), 0)
    eta = eta + xp.where(has_intercept, shift, 0)
    return eta, loss.gradient(y, eta, s)


def _fenchel_gap(loss: Loss, y: Any, eta: Any, scale: Any, s: Any) -> Any:
    return loss.fenchel_gap(y, eta, scale, s)
