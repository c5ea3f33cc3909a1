"""A penalty at several points and λ at once, in NumPy: what the certificates of a whole path ask of it.

Of weights per coordinate, only the entries matter where a coefficient is in or the gradient exceeds its
weight: few. Groups are as many as their norms.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..._arrays import is_in_numpy, is_numpy
from ..._groups import Groups
from ...penalties import Penalty
from ...penalties._base import nearest_knot
from ...penalties._forms import LinearForm
from ..model._certificate import PenaltyAtPoints, rounding_of
from ..model._problem import Problem

_CACHED = 2**15  # entries of an array that is gone through at once


class CoordinateLanes:
    """A penalty with weights per coordinate, by its form at λ = 1; all coefficients (p, *k) in a row."""

    def __init__(self, unit: LinearForm, shape: tuple[int, ...]):
        self.unit = unit.map(lambda part: np.broadcast_to(part, shape).ravel())
        self.has_squares = bool(unit.quad.any())

    def size(self, problem: Problem) -> int:
        """The entries that arrays of one point have."""
        return len(problem.s) * math.prod(problem.responses)

    def at(
        self, problem: Problem, lams: np.ndarray, x: np.ndarray, v: np.ndarray
    ) -> PenaltyAtPoints:
        """Returns the penalty at these λ (L,) and points (L, p, *k), of negative gradient v like them."""
        x, v = (of.reshape(len(of), -1) for of in (x, v))
        return _CoordinatesAtPoints(self, problem, lams, x, v)


class _CoordinatesAtPoints:
    """The entries (point, coordinate) that matter, in order, and sums and maxima of each point."""

    null_value, null_is_inside = 0.0, True  # there are no unpenalised features

    def __init__(
        self,
        lanes: CoordinateLanes,
        problem: Problem,
        lams: np.ndarray,
        x: np.ndarray,
        v: np.ndarray,
    ):
        self.lanes, self.problem, self.lams = lanes, problem, lams
        # 1. The entries that matter, and the λ at which the next coordinate would enter.
        self.enters = np.empty(len(lams), lams.dtype)
        self.at = at = self._entries(x, v)
        sizes = np.bincount(at[0], minlength=len(lams))
        self.points = np.flatnonzero(sizes)  # that have entries, and where those begin
        self.begin = (np.cumsum(sizes) - sizes)[self.points]
        self.x, self.v = x[at], v[at]
        self.unit = lanes.unit.map(lambda part: part[at[1]])
        self.form = self.unit.times(lams[at[0]])
        # 2. The penalty there.
        self.value = self._sum(self.form.value(self.x))
        violation = self._most(self.form.violation(self.x))
        self.is_inside = violation <= rounding_of(self._sum(abs(self.x)))

    def _entries(self, x: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(point, coordinate) where x is not 0 or v exceeds its weight, some points at a time."""
        step, found = max(_CACHED // x.shape[1], 1), []
        for begin in range(0, len(x), step):
            some = slice(begin, begin + step)
            ratio, is_in = self.lanes.unit.critical(-v[some]), x[some] != 0
            counts = np.flatnonzero((ratio > self.lams[some, None]) | is_in)
            found.append(counts + begin * x.shape[1])
            np.max(np.where(is_in, 0, ratio), axis=1, initial=0, out=self.enters[some])
        return np.divmod(np.concatenate(found), x.shape[1])

    def _sum(self, terms: np.ndarray) -> np.ndarray:
        return np.bincount(self.at[0], terms, minlength=len(self.lams)).astype(self.lams.dtype)

    def _most(self, terms: np.ndarray, initial: float = 0.0) -> np.ndarray:
        most = np.full(len(self.lams), initial, self.lams.dtype)
        if len(terms):
            found = np.maximum.reduceat(terms, self.begin)
            most[self.points] = np.maximum(found, initial)
        return most

    def _least(self, scales: np.ndarray) -> np.ndarray:
        return -self._most(-scales, initial=-1.0)

    def moves(self, v: np.ndarray, noise: np.ndarray) -> np.ndarray:
        is_tiny = abs(self.v) <= noise[self.at[0]] * self._norms()
        return self._most(is_tiny & self.form.exceeds(self.v)) > 0

    def product(self, v: np.ndarray) -> np.ndarray:
        return self._sum(self.x * self.v)

    def scales(self, v: np.ndarray) -> np.ndarray:
        if not self.lanes.has_squares:
            return self._least(self.form.limit(self.v))[None]
        return self.form.scales(self.v, self.v - self.form.quad * self.x, self._least)

    def conjugate(self, c: np.ndarray, v: np.ndarray) -> np.ndarray:
        return self._sum(self.form.conjugate(c[self.at[0]] * self.v))

    def kkt(self, v: np.ndarray) -> np.ndarray:
        return self._most(self.form.distance(self.x, -self.v))

    def margin(self, v: np.ndarray, curvature: np.ndarray) -> np.ndarray:
        unit = self.lanes.unit
        if not (
            unit.has_limits or unit.up.any() or unit.down.any()
        ):  # of a ridge: no coefficient enters or leaves
            return np.full(len(self.lams), np.inf, self.lams.dtype)
        is_in = self.x != 0
        curvature = curvature.reshape(len(self.lams), -1)  # (L, k), or (L, 1)
        of_column = self._norms() ** 2 * curvature[self.at[0], self.at[1] % curvature.shape[1]]
        leaves = self.unit.critical(-self.v - of_column * self.x)
        leaves = np.where(is_in & self._is_penalised(), leaves, np.inf)
        enters = self.enters
        if unit.has_limits:
            reaches, frees = self.unit.limit_knots(self.x, -self.v, of_column)
            enters = np.maximum(enters, self._most(reaches))
            leaves = np.minimum(leaves, frees)
        leaves = -self._most(-leaves, initial=-np.inf)
        return nearest_knot(self.lams, enters[:, None], leaves[:, None], axis=1)

    def _norms(self) -> np.ndarray:
        """The norms of the columns that the entries belong to."""
        return self.problem.norms[self.at[1] // math.prod(self.problem.responses)]

    def _is_penalised(self) -> np.ndarray:
        up, down, quad = self.unit[:3]
        return (((up > 0) | (quad > 0)) & ~np.isinf(up)) | ((down > 0) & ~np.isinf(down))


class GroupLanes:
    """A penalty with weights per group, of norms and of their squares, by its form at λ = 1."""

    def __init__(self, groups: Groups, unit: LinearForm, ndim: int):
        self.groups, self.unit = groups, unit
        self.ndim = ndim  # of the coefficients at one λ
        self.has_squares = bool(unit.quad.any())

    def size(self, problem: Problem) -> int:
        return max(problem.x.shape) * math.prod(problem.responses)

    def at(
        self, problem: Problem, lams: np.ndarray, x: np.ndarray, v: np.ndarray
    ) -> PenaltyAtPoints:
        """As of `CoordinateLanes`; points are (L, p, *k)."""
        return _GroupsAtPoints(self, problem, lams, x, v)

    def norms(self, x: np.ndarray) -> np.ndarray:
        """‖x_g‖₂: (L, p, *k) -> (L, G)."""
        squares = x**2 if self.ndim == 1 else (x**2).sum(axis=-1)
        return np.sqrt(self.groups.sums(squares.T).T)

    def broadcast(self, per_group: np.ndarray) -> np.ndarray:
        """(L, G), for the features and responses."""
        wide = self.groups.broadcast(per_group.T).T
        return wide[..., None] if self.ndim == 2 else wide


class _GroupsAtPoints:
    null_value, null_is_inside = 0.0, True  # there are no unpenalised features

    def __init__(
        self, lanes: GroupLanes, problem: Problem, lams: np.ndarray, x: np.ndarray, v: np.ndarray
    ):
        self.lanes, self.problem, self.lams, self.x = lanes, problem, lams, x
        self.form = lanes.unit.times(lams[:, None])
        self.norms, self.norms_v = lanes.norms(x), lanes.norms(v)
        self.value = self.form.value(self.norms).sum(axis=1)
        violation = self.form.violation(self.norms).max(axis=1, initial=0)
        self.is_inside = violation <= rounding_of(self.norms.sum(axis=1))

    def moves(self, v: np.ndarray, noise: np.ndarray) -> np.ndarray:
        limit = noise.reshape(-1, *(1,) * self.lanes.ndim)
        limit = limit * self.problem.over_features(self.problem.norms)
        if (self.norms_v <= self.form.up).all():  # then no part of v is moved
            return np.zeros(len(noise), bool)
        tiny = np.where(abs(v) <= limit, v, 0)
        return self.form.exceeds(self.lanes.norms(tiny)).any(axis=1)

    def product(self, v: np.ndarray) -> np.ndarray:
        return (self.x * v).reshape(len(v), -1).sum(axis=1)

    def scales(self, v: np.ndarray) -> np.ndarray:
        def least(scales: np.ndarray) -> np.ndarray:
            return scales.min(axis=1, initial=1)

        if not self.lanes.has_squares:
            return least(self.form.boxed(self.norms_v))[None]
        rest = v - self.lanes.broadcast(self.form.quad) * self.x
        return self.form.scales(self.norms_v, self.lanes.norms(rest), least)

    def conjugate(self, c: np.ndarray, v: np.ndarray) -> np.ndarray:
        return self.form.conjugate(c[:, None] * self.norms_v).sum(axis=1)

    def kkt(self, v: np.ndarray) -> np.ndarray:
        norms, form = self.norms, self.form
        is_excluded = np.isinf(form.up)
        weight = np.where(is_excluded, 0, form.up)
        pull = form.quad + weight / np.where(norms > 0, norms, 1)
        active = self.lanes.norms(self.lanes.broadcast(pull) * self.x - v)
        inside = np.maximum(self.norms_v - weight, 0)
        found = np.where(is_excluded, norms, np.where(norms > 0, active, inside))
        return found.max(axis=1, initial=0)

    def margin(self, v: np.ndarray, curvature: np.ndarray) -> np.ndarray:
        unit, problem, is_out = self.lanes.unit, self.problem, self.norms == 0
        is_penalised = ((unit.up > 0) | (unit.quad > 0)) & ~np.isinf(unit.up)
        enters = np.where(is_out, unit.critical(self.norms_v), 0)
        of_columns = problem.over_features(problem.norms) ** 2 * problem.over_rows(curvature)
        leaves = unit.critical(self.lanes.norms(v + of_columns * self.x))
        leaves = np.where(~is_out & is_penalised, leaves, np.inf)
        return nearest_knot(self.lams, enters, leaves, axis=1)


def penalty_lanes(pen: Penalty, shape: tuple[int, ...], dtype: Any) -> Any:
    """Returns the penalty for `at`; None unless weights proportional to λ say all of it."""
    if not (is_in_numpy(pen) and is_numpy(pen)):
        return None
    unit = pen.with_strength(1.0)
    linear = unit.linear_form(shape)
    if linear is not None:
        return CoordinateLanes(_of_dtype(linear, dtype), shape)
    form = unit.group_form(shape)
    if form is None or form.l1.any():
        return None
    norms = LinearForm(form.weight, form.weight, form.quad)
    return GroupLanes(form.groups, _of_dtype(norms, dtype), len(shape))


def _of_dtype(form: LinearForm, dtype: Any) -> LinearForm:
    return form.map(lambda part: part.astype(dtype))
