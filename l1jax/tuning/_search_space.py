"""What `tune` moves in: a curve over one strength, and fields of a penalty as coordinates."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import numpy as np

from ..penalties import Penalty

LEAST_RATIO = 0.01  # of L1 in an elastic net: below, nothing is selected
_CLOSE = 1e-3  # in log λ: no nearer to a point that is known
_GAIN = 1e-5  # relative gain of the criterion below which the search ends
_REACH = 12.0  # by which a logarithm may move from its start


class Curve:
    """A function of one variable by its values and slopes at points, with cubics between them."""

    def __init__(self, t: np.ndarray, value: np.ndarray, slope: np.ndarray):
        finite = np.isfinite(value) & np.isfinite(slope)
        order = np.flatnonzero(finite)[np.argsort(t[finite])]
        self.t, self.value, self.slope = t[order], value[order], slope[order]

    def add(self, t: float, value: float, slope: np.ndarray) -> bool:
        """Whether it is a point that cubics can go through."""
        if not (np.isfinite(value) and np.isfinite(slope[0])):
            return False
        at = np.searchsorted(self.t, t)
        self.t = np.insert(self.t, at, t)
        self.value = np.insert(self.value, at, value)
        self.slope = np.insert(self.slope, at, slope[0])
        return True

    def lowest(self) -> float | None:
        """Where the cubics are lowest, if that is below every known value and away from the points."""
        if len(self.t) < 2:
            return None
        width = np.diff(self.t)
        fractions = np.linspace(0, 1, 201)[1:-1, None]
        h00 = (1 + 2 * fractions) * (1 - fractions) ** 2
        h10 = fractions * (1 - fractions) ** 2
        h01 = fractions**2 * (3 - 2 * fractions)
        h11 = fractions**2 * (fractions - 1)
        curve = h00 * self.value[:-1] + h01 * self.value[1:]
        curve += width * (h10 * self.slope[:-1] + h11 * self.slope[1:])
        nearest = np.minimum(fractions, 1 - fractions) * width
        curve = np.where(nearest > _CLOSE, curve, np.inf)
        row, column = np.unravel_index(np.argmin(curve), curve.shape)
        best = self.value.min()
        if not curve[row, column] < best - _GAIN * abs(best):
            return None
        return float(self.t[column] + fractions[row, 0] * width[column])


class Space:
    """Fields of a penalty as coordinates: logarithms, and l1_ratio itself."""

    def __init__(self, pen: Penalty, names: tuple[str, ...], p: int):
        self.names = names
        self.full: dict[str, np.ndarray] = {}
        self.moving: dict[str, np.ndarray] = {}
        start, bounds = [], []
        for name in names:
            value = numbers_of(pen, name, p)
            moving = np.ones(value.shape, bool) if name == "l1_ratio" else value > 0
            self.full[name], self.moving[name] = value, moving
            if name == "l1_ratio":
                start.append(np.clip(value.ravel(), LEAST_RATIO, 1))
                bounds += [(LEAST_RATIO, 1.0)] * value.size
            else:
                logs = np.log(value[moving])
                start.append(logs)
                bounds += [(log - _REACH, log + _REACH) for log in logs]
        self.start, self.bounds = np.concatenate(start), bounds

    def fallen(self, fall: float) -> np.ndarray:
        """Returns the start with smaller λ: all logarithms, or a ratio's, less by so much."""
        is_ratio = np.concatenate(
            [np.full(self.moving[name].sum(), name == "l1_ratio") for name in self.names]
        )
        low = np.maximum(self.start * np.exp(-fall), LEAST_RATIO)
        return np.where(is_ratio, low, self.start - fall)

    def fields(self, u: np.ndarray) -> dict[str, np.ndarray]:
        fields, used = {}, 0
        for name in self.names:
            value, moving = self.full[name].copy(), self.moving[name]
            part = u[used : used + moving.sum()]
            used += moving.sum()
            value[moving] = part if name == "l1_ratio" else np.exp(part)
            fields[name] = value
        return fields

    def by_coordinates(self, slopes: dict[str, np.ndarray]) -> np.ndarray:
        return np.concatenate([slopes[name][self.moving[name]] for name in self.names])


def numbers_of(pen: Penalty, name: str, p: int) -> np.ndarray:
    """What a field holds; weights that are not given as the numbers that they stand for."""
    value = getattr(pen, name)
    if value is None:
        groups = getattr(pen, "groups", None)
        value = np.ones(p) if groups is None else np.sqrt(groups.sizes)
    return np.asarray(value, float)


def with_fields(pen: Penalty, values: dict[str, Any]) -> Penalty:
    names = list(values)
    return eqx.tree_at(
        lambda pen: [getattr(pen, name) for name in names],
        pen,
        [values[name] for name in names],
        is_leaf=lambda leaf: leaf is None,
    )
