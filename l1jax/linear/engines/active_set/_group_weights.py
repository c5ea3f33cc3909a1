"""What each group pays for leaving zero, at any strength, on the host."""

from __future__ import annotations

import copy
from typing import NamedTuple

import numpy as np

from ....penalties import Penalty


class Layout(NamedTuple):
    """Features that lie group by group: where each group starts, and the group of each feature."""

    starts: np.ndarray  # (g,)
    ids: np.ndarray  # (m,), ascending from 0 without gaps

    @classmethod
    def of(cls, sorted_ids: np.ndarray) -> Layout:
        """From ids that ascend, with gaps."""
        is_first = np.diff(sorted_ids, prepend=-1) != 0
        return cls(np.flatnonzero(is_first), np.cumsum(is_first) - 1)

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Sums over each group, and over all that follows the first axis: (m, ...) -> (g,)."""
        if not len(self.starts):
            return np.zeros(0)
        return np.add.reduceat(values.reshape(len(values), -1).sum(axis=1), self.starts)

    def norms(self, values: np.ndarray) -> np.ndarray:
        """‖values_g‖₂ of each group."""
        return np.sqrt(self.sums(values**2))


class Cost(NamedTuple):
    """Σ_g price_g ‖b_g‖₂ + l1_g ‖b_g‖₁ + ½ quad_g ‖b_g‖₂², for the groups of some features."""

    weight: np.ndarray  # (g,)
    l1: np.ndarray  # (g,)
    quad: np.ndarray  # (g,)


class GroupWeights:
    """The group form of a penalty at any strength; it must be proportional to it.

    The features need not lie group by group: `order` sorts them so.
    """

    def __init__(self, pen: Penalty, shape: tuple[int, ...]):
        forms = [pen.with_strength(lam).group_form(shape) for lam in (1.0, 0.37)]
        unit, other = forms
        assert unit is not None  # who asks for prices knows that there are some
        assert other is not None
        pairs = zip(unit[1:], other[1:], strict=True)
        self.proportional = all(np.allclose(0.37 * a, b, rtol=1e-6, atol=0) for a, b in pairs)
        parts = [np.asarray(part, np.float64) for part in unit[1:]]
        self._held = held = np.isinf(parts[0])
        self._unit = Cost(*(np.where(held, 0, part) for part in parts))
        self.ids = np.asarray(unit.groups.ids)
        self._sort()

    def _sort(self) -> None:
        self.order = np.argsort(self.ids, kind="stable")
        sorted_ids = self.ids[self.order]
        self.layout = Layout.of(sorted_ids)
        self.present = sorted_ids[self.layout.starts]  # the groups that have features here

    @property
    def is_separable(self) -> bool:
        """Whether features have prices of their own beside those of their groups."""
        return bool(self._unit.l1.any())

    @property
    def free(self) -> np.ndarray:
        """Which features have no price for leaving zero."""
        is_free = (self._unit.weight == 0) & (self._unit.l1 == 0) & ~self._held
        return is_free[self.ids]

    @property
    def has_ridges(self) -> bool:
        """Whether a group has a price for its square alone: it is never zero."""
        unit = self._unit
        return bool(((unit.weight == 0) & (unit.l1 == 0) & (unit.quad > 0)).any())

    @property
    def excluded(self) -> np.ndarray:
        return self._held[self.ids]

    def of(self, some: np.ndarray) -> GroupWeights:
        """The prices of some features, whose order is their own."""
        part = copy.copy(self)
        part.ids = self.ids[some]
        part._sort()
        return part

    def at(self, lam: float) -> Cost:
        """The prices of the groups `present`."""
        return Cost(*(lam * part[self.present] for part in self._unit))

    def bend(self, lam: float, beta: np.ndarray) -> np.ndarray:
        """The gradient of what they say of squares."""
        quad = np.empty(len(beta))
        quad[self.order] = self.at(lam).quad[self.layout.ids]
        return quad.reshape(-1, *(1,) * (beta.ndim - 1)) * beta

    def slack(self, lam: float, beta: np.ndarray, gradient: np.ndarray) -> float:
        """R(β) + R*(g) − ⟨β, g⟩, for gradients that are over their prices only where squares have one."""
        now, sorted_beta, sums = self.at(lam), beta[self.order], self.layout.sums
        norms = self.layout.norms(sorted_beta)
        paid = now.weight @ norms + 0.5 * now.quad @ norms**2
        if now.l1.any():
            paid += now.l1 @ sums(np.abs(sorted_beta))
        if now.quad.any():
            rest = np.abs(gradient[self.order])
            rest = np.maximum(rest.reshape(len(rest), -1) - now.l1[self.layout.ids, None], 0)
            over = np.maximum(self.layout.norms(rest) - now.weight, 0)
            paid += 0.5 * np.divide(over**2, now.quad, where=now.quad > 0, out=0 * over).sum()
        return float(paid - np.vdot(beta, gradient))

    def whole(self, some: np.ndarray) -> np.ndarray:
        """These features, and all others of their groups."""
        inside = np.zeros(len(self._held), bool)
        inside[self.ids[some]] = True
        return np.flatnonzero(inside[self.ids])

    def excess(self, gradient: np.ndarray, lam: float, floor: float) -> np.ndarray:
        """How far the gradient of each feature's group is over the price, as a share of it.

        Below zero where it is not: the nearer to zero, the nearer to entering.
        """
        now, sums = self.at(lam), self.layout.norms
        gradient = np.abs(gradient[self.order])
        gradient = gradient.reshape(len(gradient), -1)
        total = np.maximum(now.weight + now.l1, floor)
        rest = np.maximum(gradient - now.l1[self.layout.ids, None], 0)
        over = (sums(rest) - now.weight) / total
        if now.l1.any():  # where the whole group is below `l1`, all are as far over: these bounds
            counts = np.diff(np.append(self.layout.starts, len(gradient))) * gradient.shape[1]
            peaks = np.maximum.reduceat(gradient.max(axis=1), self.layout.starts)
            spread = np.maximum(now.weight + now.l1 * np.sqrt(counts), floor)
            nearest = np.maximum(peaks / total, sums(gradient) / spread) - 1
            over = np.where(over > 0, over, np.minimum(np.maximum(over, nearest), 0))
        out = np.empty(len(gradient))
        out[self.order] = over[self.layout.ids]
        return out
