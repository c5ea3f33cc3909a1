"""Penalty weights per group: the group form of a penalty at any λ, on the host."""

from __future__ import annotations

import copy
from typing import NamedTuple

import numpy as np

from ....penalties import Penalty


def has_group_weights(pen: Penalty, shape: tuple[int, ...]) -> bool:
    """Returns whether a penalty has a weight per group, for coefficients of this shape."""
    if not pen.convex or not pen.has_strength:
        return False
    if pen.with_strength(1.0).group_form(shape) is None:
        return False
    weights = GroupWeights(pen, shape)
    if weights.has_ridge_groups:
        return False
    return weights.proportional and (len(shape) == 1 or not weights.has_l1)


class Layout(NamedTuple):
    """Features sorted by group: where each group starts, and the group of each feature."""

    starts: np.ndarray  # (g,)
    ids: np.ndarray  # (m,), ascending from 0 without gaps

    @classmethod
    def of(cls, sorted_ids: np.ndarray) -> Layout:
        """Returns the layout of ids that ascend, with gaps."""
        is_first = np.diff(sorted_ids, prepend=-1) != 0
        return cls(np.flatnonzero(is_first), np.cumsum(is_first) - 1)

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Returns the sums over each group, and over all axes but the first: (m, ...) -> (g,)."""
        if not len(self.starts):
            return np.zeros(0)
        return np.add.reduceat(values.reshape(len(values), -1).sum(axis=1), self.starts)

    def norms(self, values: np.ndarray) -> np.ndarray:
        """Returns ‖values_g‖₂ of each group, (g,)."""
        return np.sqrt(self.sums(values**2))

    def broadcast(self, per_group: np.ndarray) -> np.ndarray:
        """Returns the value of each feature's group: (g,) -> (m, 1)."""
        return per_group[self.ids, None]


class GroupForm(NamedTuple):
    """Σ_g weight_g ‖b_g‖₂ + l1_g ‖b_g‖₁ + ½ quad_g ‖b_g‖₂², for the groups of some features."""

    weight: np.ndarray  # (g,): of the norm
    l1: np.ndarray  # (g,)
    quad: np.ndarray  # (g,)


class GroupWeights:
    """`PenaltyWeights` of a penalty of group form, which must be proportional to λ.

    The features need not be sorted by group: `order` sorts them.
    """

    def __init__(self, pen: Penalty, shape: tuple[int, ...]):
        unit, other = (pen.with_strength(lam).group_form(shape) for lam in (1.0, 0.37))
        assert unit is not None  # by `has_group_weights`
        assert other is not None
        pairs = zip(unit[1:], other[1:], strict=True)
        self.proportional = all(np.allclose(0.37 * a, b, rtol=1e-6, atol=0) for a, b in pairs)
        parts = [np.asarray(part, np.float64) for part in unit[1:]]
        self._is_excluded = is_excluded = np.isinf(parts[0])
        self._unit = GroupForm(*(np.where(is_excluded, 0, part) for part in parts))
        self.ids = np.asarray(unit.groups.ids)
        self._sort()

    def _sort(self) -> None:
        self.order = np.argsort(self.ids, kind="stable")
        sorted_ids = self.ids[self.order]
        self.layout = Layout.of(sorted_ids)
        self.present = sorted_ids[self.layout.starts]  # the groups that have features here

    @property
    def has_l1(self) -> bool:
        """Whether features have weights of their own beside those of their groups."""
        return bool(self._unit.l1.any())

    @property
    def unpenalised(self) -> np.ndarray:
        is_free = (self._unit.weight == 0) & (self._unit.l1 == 0) & ~self._is_excluded
        return is_free[self.ids]

    @property
    def has_ridge_groups(self) -> bool:
        """Whether a group has a weight for its square alone: it is never zero."""
        unit = self._unit
        return bool(((unit.weight == 0) & (unit.l1 == 0) & (unit.quad > 0)).any())

    @property
    def excluded(self) -> np.ndarray:
        return self._is_excluded[self.ids]

    def restrict(self, places: np.ndarray) -> GroupWeights:
        """Returns the weights of some features, with an order of their own."""
        part = copy.copy(self)
        part.ids = self.ids[places]
        part._sort()
        return part

    def at(self, lam: float) -> GroupForm:
        """Returns the weights of the groups `present`."""
        return GroupForm(*(lam * part[self.present] for part in self._unit))

    def ridge_gradient(self, lam: float, beta: np.ndarray) -> np.ndarray:
        quad = np.empty(len(beta))
        quad[self.order] = self.at(lam).quad[self.layout.ids]
        return quad.reshape(-1, *(1,) * (beta.ndim - 1)) * beta

    def fenchel_gap(self, lam: float, beta: np.ndarray, neg_gradient: np.ndarray) -> float:
        now, sorted_beta, layout = self.at(lam), beta[self.order], self.layout
        norms = layout.norms(sorted_beta)
        value = now.weight @ norms + 0.5 * now.quad @ norms**2
        if now.l1.any():
            value += now.l1 @ layout.sums(np.abs(sorted_beta))
        if now.quad.any():
            rest = np.abs(neg_gradient[self.order])
            rest = np.maximum(rest.reshape(len(rest), -1) - layout.broadcast(now.l1), 0)
            over = np.maximum(layout.norms(rest) - now.weight, 0)
            value += 0.5 * np.divide(over**2, now.quad, where=now.quad > 0, out=0 * over).sum()
        return float(value - np.vdot(beta, neg_gradient))

    def close_over_groups(self, features: np.ndarray) -> np.ndarray:
        inside = np.zeros(len(self._is_excluded), bool)
        inside[self.ids[features]] = True
        return np.flatnonzero(inside[self.ids])

    def kkt_violation(self, neg_gradient: np.ndarray, lam: float, floor: float) -> np.ndarray:
        now, layout = self.at(lam), self.layout
        sizes = np.abs(neg_gradient[self.order])
        sizes = sizes.reshape(len(sizes), -1)
        total = np.maximum(now.weight + now.l1, floor)
        rest = np.maximum(sizes - layout.broadcast(now.l1), 0)
        over = (layout.norms(rest) - now.weight) / total
        if now.l1.any():
            # Where a whole group is below `l1`, all violations would be equal: these bounds rank them.
            counts = np.diff(np.append(layout.starts, len(sizes))) * sizes.shape[1]
            peaks = np.maximum.reduceat(sizes.max(axis=1), layout.starts)
            largest = np.maximum(now.weight + now.l1 * np.sqrt(counts), floor)
            nearest = np.maximum(peaks / total, layout.norms(sizes) / largest) - 1
            over = np.where(over > 0, over, np.minimum(np.maximum(over, nearest), 0))
        out = np.empty(len(sizes))
        out[self.order] = over[layout.ids]
        return out
