"""A penalty at several λ at once, in NumPy: what the certificates of a whole path ask of it.

Coefficients are (L, p, *k), one row per λ, or (p, *k) for all λ alike.
"""

from __future__ import annotations

import copy
from typing import Any, Self

import numpy as np

from ..._arrays import is_in_numpy, is_numpy
from ..._groups import Groups
from ...penalties import Penalty
from ...penalties._base import nearest_knot
from ...penalties._forms import LinearForm


class CoordinateLanes:
    """A penalty with weights per coordinate."""

    convex = True
    strength_value: np.ndarray  # (L,)
    form: LinearForm  # (L, p)

    def __init__(self, pen: Penalty, unit: LinearForm):
        self.pen, self.unit = pen, unit  # at λ = 1
        self.has_squares = bool(unit.quad.any())

    def at(self, lams: np.ndarray) -> Self:
        """Returns the penalty at these λ."""
        lanes = copy.copy(self)
        lanes.strength_value, lanes.form = lams, self.unit.times(lams[:, None])
        return lanes

    def value(self, x: np.ndarray) -> np.ndarray:
        return self.form.value(x, axis=-1)

    def violation(self, x: np.ndarray) -> np.ndarray:
        return self.form.violation(x, axis=-1)

    def conjugate(self, v: np.ndarray) -> np.ndarray:
        return self.form.conjugate(v, axis=-1)

    def dual_scales(self, v: np.ndarray, x: np.ndarray) -> np.ndarray:
        if not self.has_squares:
            return self.form.dual_scale(v, axis=-1)[None]
        return self.form.dual_scales(v, v - self.form.quad * x, axis=-1)

    def dual_norm(self, gradient: np.ndarray) -> Any:
        return self.pen.dual_norm(gradient)

    def prox(self, z: np.ndarray) -> np.ndarray:
        """Which coordinates prox(z) moves off zero."""
        return self.form.exceeds(z)

    def distance(self, x: np.ndarray, gradient: np.ndarray, step: Any = None) -> np.ndarray:
        del step
        return self.form.distance(x, gradient)

    def margin(self, x: np.ndarray, gradient: np.ndarray, curvature: np.ndarray) -> np.ndarray:
        is_out = x == 0
        enters = np.where(is_out, self.unit.critical(gradient), 0)
        leaves = np.full(x.shape, np.inf, x.dtype)
        inside = ~is_out & self._is_penalised(x)
        at = np.nonzero(inside)
        unit = LinearForm(*(np.broadcast_to(part, x.shape[1:])[at[-1]] for part in self.unit))
        leaves[at] = unit.critical(gradient[at] - curvature[at] * x[at])
        return nearest_knot(self.strength_value, enters, leaves, axis=-1)

    def _is_penalised(self, x: np.ndarray) -> np.ndarray:
        up, down, quad = self.unit
        found = (((up > 0) | (quad > 0)) & ~np.isinf(up)) | ((down > 0) & ~np.isinf(down))
        return np.broadcast_to(found, x.shape)


class GroupLanes:
    """A penalty with weights per group, of norms and of their squares."""

    convex = True
    strength_value: np.ndarray  # (L,)
    form: LinearForm  # (L, G)

    def __init__(self, pen: Penalty, groups: Groups, unit: LinearForm, ndim: int):
        self.pen, self.groups, self.unit = pen, groups, unit
        self.ndim = ndim  # of the coefficients at one λ
        self.has_squares = bool(unit.quad.any())

    at = CoordinateLanes.at

    def value(self, x: np.ndarray) -> np.ndarray:
        return self.form.value(self._norms(x), axis=-1)

    def violation(self, x: np.ndarray) -> np.ndarray:
        return self.form.violation(self._norms(x), axis=-1)

    def conjugate(self, v: np.ndarray) -> np.ndarray:
        return self.form.conjugate(self._norms(v), axis=-1)

    def dual_scales(self, v: np.ndarray, x: np.ndarray) -> np.ndarray:
        norms = self._norms(v)
        if not self.has_squares:
            return self.form.dual_scale(norms, axis=-1)[None]
        rest = v - self._broadcast(self.form.quad) * x
        return self.form.dual_scales(norms, self._norms(rest), axis=-1)

    def dual_norm(self, gradient: np.ndarray) -> Any:
        return self.pen.dual_norm(gradient)

    def prox(self, z: np.ndarray) -> np.ndarray:
        """Which groups prox(z) moves off zero."""
        return self.form.exceeds(self._norms(z))

    def distance(self, x: np.ndarray, gradient: np.ndarray, step: Any = None) -> np.ndarray:
        del step
        norms, form = self._norms(x), self.form
        is_excluded = np.isinf(form.up)
        weight = np.where(is_excluded, 0, form.up)
        slope = gradient + self._broadcast(form.quad) * x if self.has_squares else gradient
        pull = weight / np.where(norms > 0, norms, 1)
        active = self._norms(slope + self._broadcast(pull) * x)
        inside = np.maximum(self._norms(slope) - weight, 0)
        return np.where(is_excluded, norms, np.where(norms > 0, active, inside))

    def margin(self, x: np.ndarray, gradient: np.ndarray, curvature: np.ndarray) -> np.ndarray:
        is_out = self._norms(x) == 0
        unit = self.unit
        is_penalised = ((unit.up > 0) | (unit.quad > 0)) & ~np.isinf(unit.up)
        enters = np.where(is_out, unit.critical(self._norms(gradient)), 0)
        leaves = unit.critical(self._norms(gradient - curvature * x))
        leaves = np.where(~is_out & is_penalised, leaves, np.inf)
        return nearest_knot(self.strength_value, enters, leaves, axis=-1)

    def _norms(self, x: np.ndarray) -> np.ndarray:
        """‖x_g‖₂: (..., p, *k) -> (..., G)."""
        squares = x**2 if self.ndim == 1 else (x**2).sum(axis=-1)
        return np.sqrt(self.groups.sums(squares.T).T)

    def _broadcast(self, per_group: np.ndarray) -> np.ndarray:
        """(..., G), for the features and responses."""
        wide = self.groups.broadcast(per_group.T).T
        return wide[..., None] if self.ndim == 2 else wide


def penalty_lanes(pen: Penalty, shape: tuple[int, ...], dtype: Any) -> Any:
    """Returns the penalty for `at`; None unless weights proportional to λ say all of it."""
    if not (is_in_numpy(pen) and is_numpy(pen)):
        return None
    unit = pen.with_strength(1.0)
    linear = unit.linear_form(shape) if len(shape) == 1 else None
    if linear is not None:
        return CoordinateLanes(pen, _of_dtype(linear, dtype))
    form = unit.group_form(shape)
    if form is None or form.l1.any():
        return None
    norms = LinearForm(form.weight, form.weight, form.quad)
    return GroupLanes(pen, form.groups, _of_dtype(norms, dtype), len(shape))


def _of_dtype(form: LinearForm, dtype: Any) -> LinearForm:
    up = form.up.astype(dtype)
    down = up if form.is_symmetric else form.down.astype(dtype)
    quad = form.quad.astype(dtype) if form.quad.any() else np.zeros((), dtype)
    return LinearForm(up, down, quad)
