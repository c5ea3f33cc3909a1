"""What each coordinate pays for leaving zero, at any strength, on the host."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import equinox as eqx
import numpy as np

from ....penalties import Penalty


class Form(NamedTuple):
    """A `LinearForm` on the host."""

    up: np.ndarray
    down: np.ndarray
    quad: np.ndarray


@eqx.filter_jit
def linear_form(pen: Penalty, lam: Any, shape: tuple[int, ...]) -> Any:
    """The linear form of a penalty at some strength: None where it has none."""
    return pen.with_strength(lam).linear_form(shape)


class PenaltyWeights:
    """The linear form of a penalty at any strength; evaluated once where it is proportional to it."""

    def __init__(self, pen: Penalty, p: int):
        def evaluate(lam: float) -> Form:
            form = linear_form(pen, np.asarray(lam), (p,))
            assert form is not None  # `supports` has asked
            return Form(*(np.asarray(price, np.float64) for price in form))

        self._evaluate = evaluate
        self._unit = evaluate(1.0)
        pairs = zip(self._unit, evaluate(0.37), strict=True)
        self.proportional = all(np.allclose(0.37 * a, b, rtol=1e-6, atol=0) for a, b in pairs)
        self._some: np.ndarray | slice = slice(None)
        self._is_even = self.proportional and np.array_equal(self._unit.up, self._unit.down)
        self._is_wall = tuple(bool(np.isinf(price).any()) for price in self._unit)

    @property
    def free(self) -> np.ndarray:
        """Which coordinates have no price for leaving zero."""
        return (self._unit.up == 0) & (self._unit.down == 0)

    @property
    def excluded(self) -> np.ndarray:
        return np.isinf(self._unit.up) & np.isinf(self._unit.down)

    def of(self, some: np.ndarray) -> PenaltyWeights:
        """The prices of some coordinates."""
        part = copy.copy(self)
        part._unit = Form(*(price[some] for price in self._unit))
        part._some = some
        return part

    def at(self, lam: float) -> Form:
        if not self.proportional:
            return Form(*(price[self._some] for price in self._evaluate(lam)))
        return Form(
            *(
                np.where(np.isinf(price), price, lam) * np.where(np.isinf(price), 1, price)
                if wall
                else lam * price
                for price, wall in zip(self._unit, self._is_wall, strict=True)
            )
        )

    def bend(self, lam: float, beta: np.ndarray) -> np.ndarray:
        """The gradient of what they say of squares."""
        return self.at(lam).quad * beta

    def slack(self, lam: float, beta: np.ndarray, gradient: np.ndarray) -> float:
        """R(β) + R*(g) − ⟨β, g⟩, for gradients that are over their prices only where these rise."""
        up, down, quad = self.at(lam)
        price = np.where(gradient > 0, up, down)
        inside = beta != 0
        paid = np.where(beta > 0, up, down)[inside] @ np.abs(beta[inside])
        over = np.maximum(np.abs(gradient) - price, 0)
        over = np.divide(over**2, quad, where=quad > 0, out=np.zeros_like(over))
        return float(paid + 0.5 * (quad @ beta**2 + over.sum()) - beta @ gradient)

    def whole(self, some: np.ndarray) -> np.ndarray:
        """These features, and those that enter with them: none here."""
        return some

    def excess(self, gradient: np.ndarray, lam: float, floor: float) -> np.ndarray:
        """How far gradients are over their prices, as a share of them: below zero where they are not."""
        now = self.at(lam)
        price = now.up if self._is_even else np.where(gradient > 0, now.up, now.down)
        return np.abs(gradient) / np.maximum(price, floor) - 1
