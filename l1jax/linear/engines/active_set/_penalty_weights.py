"""Penalty weights per coordinate: the linear form of a penalty at any λ, on the host."""

from __future__ import annotations

import copy
import threading
from typing import Any, NamedTuple

import equinox as eqx
import numpy as np

from ...._arrays import is_in_numpy, is_numpy
from ....penalties import Penalty


class CoordinateForm(NamedTuple):
    """Σⱼ upⱼ βⱼ⁺ + downⱼ βⱼ⁻ + ½ quadⱼ βⱼ²: a `LinearForm` on the host."""

    up: np.ndarray
    down: np.ndarray
    quad: np.ndarray


def linear_form(pen: Penalty, lam: Any, shape: tuple[int, ...]) -> Any:
    """Returns the linear form of a penalty at λ: None if it has none."""
    if not (is_in_numpy(pen) and is_numpy(pen)):
        return _compiled_form(pen, lam, shape)
    last = getattr(_last, "found", None)  # several questions about one penalty ask for it
    if last is None or last[0] is not pen or last[1:3] != (float(lam), shape):
        form = pen.with_strength(lam).linear_form(shape)
        _last.found = last = (pen, float(lam), shape, form)
    return last[3]


_last = threading.local()
_ONE = np.ones(())


@eqx.filter_jit
def _compiled_form(pen: Penalty, lam: Any, shape: tuple[int, ...]) -> Any:
    return pen.with_strength(lam).linear_form(shape)


def has_penalty_weights(pen: Penalty, shape: tuple[int, ...]) -> bool:
    """Returns whether a penalty has a weight per coefficient, for coefficients of this shape."""
    if len(shape) != 1 or not pen.convex or not pen.has_strength:
        return False
    form = linear_form(pen, _ONE, shape)
    if form is None:
        return False
    if form.has_limits:
        return False
    up, down, quad = (np.asarray(table) for table in form[:3])
    return not ((up == 0) & (down == 0) & (quad > 0)).any()


class CoordinateWeights:
    """`PenaltyWeights` of a penalty of linear form; it is evaluated once if it is proportional to λ."""

    def __init__(self, pen: Penalty, p: int):
        def evaluate(lam: float) -> CoordinateForm:
            form = self._form_at_zero(pen, np.asarray(lam), p)
            return CoordinateForm(*(np.asarray(part, np.float64) for part in form[:3]))

        self._evaluate = evaluate
        self._unit = evaluate(1.0)
        pairs = zip(self._unit, evaluate(0.37), strict=True)
        self._scales = all(np.allclose(0.37 * a, b, rtol=1e-6, atol=0) for a, b in pairs)
        self._places: np.ndarray | slice = slice(None)
        self._is_symmetric = self._scales and np.array_equal(self._unit.up, self._unit.down)
        self._has_infinite = tuple(bool(np.isinf(part).any()) for part in self._unit)

    def _form_at_zero(self, pen: Penalty, lam: Any, p: int) -> Any:
        form = linear_form(pen, lam, (p,))
        assert form is not None  # by `supports`
        return form

    @property
    def proportional(self) -> bool:
        return self._scales

    @property
    def unpenalised(self) -> np.ndarray:
        return (self._unit.up == 0) & (self._unit.down == 0)

    @property
    def excluded(self) -> np.ndarray:
        return np.isinf(self._unit.up) & np.isinf(self._unit.down)

    def restrict(self, places: np.ndarray) -> CoordinateWeights:
        """Returns the weights of some of the coordinates."""
        part = copy.copy(self)
        part._unit = CoordinateForm(*(table[places] for table in self._unit))
        part._places = places
        return part

    def at(self, lam: float) -> CoordinateForm:
        if not self._scales:
            return CoordinateForm(*(table[self._places] for table in self._evaluate(lam)))
        return CoordinateForm(
            *(
                np.where(np.isinf(table), table, lam) * np.where(np.isinf(table), 1, table)
                if has_infinite  # at λ = 0 too
                else lam * table
                for table, has_infinite in zip(self._unit, self._has_infinite, strict=True)
            )
        )

    def ridge_gradient(self, lam: float, beta: np.ndarray) -> np.ndarray:
        return self.at(lam).quad * beta

    def fenchel_gap(self, lam: float, beta: np.ndarray, neg_gradient: np.ndarray) -> float:
        up, down, quad = self.at(lam)
        weights = np.where(neg_gradient > 0, up, down)
        inside = beta != 0
        value = np.where(beta > 0, up, down)[inside] @ np.abs(beta[inside])
        over = np.maximum(np.abs(neg_gradient) - weights, 0)
        over = np.divide(over**2, quad, where=quad > 0, out=np.zeros_like(over))
        return float(value + 0.5 * (quad @ beta**2 + over.sum()) - beta @ neg_gradient)

    def kkt_violation(self, neg_gradient: np.ndarray, lam: float, floor: float) -> np.ndarray:
        now = self.at(lam)
        weights = now.up if self._is_symmetric else np.where(neg_gradient > 0, now.up, now.down)
        return np.abs(neg_gradient) / np.maximum(weights, floor) - 1

    def close_over_groups(self, features: np.ndarray) -> np.ndarray:
        return features  # each enters by itself
