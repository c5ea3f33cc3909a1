"""Weights per coordinate that depend on where a coefficient is: of concave penalties, and of limits.

Near a point x a concave penalty Σ r(|xⱼ|) is, to second order, one with the weights
r′(|xⱼ|) − r″(|xⱼ|)|xⱼ| of |xⱼ| and r″(|xⱼ|) ≤ 0 of ½xⱼ²: exactly so where r is a quadratic there, as those
of MCP and SCAD are between their knots. Its tangent, with the weights r′(|xⱼ|), is nowhere below it: a local
linear approximation (Zou and Li, 2008). A coefficient that is held at a limit is no variable at all.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from ...._modules import with_fields
from ....penalties import Penalty
from ....penalties._forms import LinearForm
from ._penalty_weights import CoordinateForm, CoordinateWeights, linear_form

_AT_LIMIT = 1e-14  # fraction of a limit within which a coefficient is at it
_BEYOND = 1e-12  # fraction of its weight by which the pull at a limit may be short of it
_LEFT = 0.5  # fraction of the curvature of the loss that a coefficient at 0 may lose
_ONE = np.ones(())


def has_local_weights(pen: Penalty, shape: tuple[int, ...]) -> bool:
    """Returns whether a penalty has weights per coefficient that are local: it is concave, or has limits."""
    if len(shape) != 1 or not pen.has_strength or pen.restricted(np.zeros(0, int)) is None:
        return False
    if not pen.convex:
        terms = _terms_at_zero(pen, _ONE, shape[0])
        return terms is not None and not np.isinf(terms.slope).all()
    form = linear_form(pen, _ONE, shape)
    return form is not None and form.has_limits and not _is_smooth(form)


def _is_smooth(form: Any) -> bool:
    """Whether some coordinate has a square and no corner at 0."""
    up, down, quad = (np.asarray(part) for part in form[:3])
    return bool(((up == 0) & (down == 0) & (quad > 0)).any())


def _terms_at_zero(pen: Penalty, lam: Any, p: int) -> Any:
    return pen.with_strength(lam).concave_terms(np.zeros(p))


class LocalWeights(CoordinateWeights):
    """`PenaltyWeights` of a penalty near any point; as such they are those at zero."""

    def __init__(self, pen: Penalty, p: int):
        self.pen = jax.tree.map(np.asarray, pen)
        self.is_concave, self._last = not pen.convex, None
        super().__init__(self.pen, p)
        self._set_limits(p)

    def _form_at_zero(self, pen: Penalty, lam: Any, p: int) -> Any:
        if not self.is_concave:
            return super()._form_at_zero(pen, lam, p)
        slope = _terms_at_zero(pen, lam, p).slope
        return LinearForm(slope, slope, np.zeros(p))

    def _set_limits(self, w: int) -> None:
        lower, upper = getattr(self.pen, "lower", None), getattr(self.pen, "upper", None)
        self.has_limits = lower is not None or upper is not None
        self.lower = np.broadcast_to(-np.inf if lower is None else lower, w)
        self.upper = np.broadcast_to(np.inf if upper is None else upper, w)
        if self.has_limits and self.is_concave:
            up, down = np.where(self.upper == 0, np.inf, 1), np.where(self.lower == 0, np.inf, 1)
            form = self._unit
            self._unit = CoordinateForm(form.up * up, form.down * down, form.quad)
            self._is_symmetric = False

    @property
    def proportional(self) -> bool:
        return False  # but near 0

    @property
    def unpenalised(self) -> np.ndarray:
        is_free = np.isinf(self.lower) & np.isinf(self.upper)
        return super().unpenalised & is_free

    def restrict(self, places: np.ndarray) -> LocalWeights:
        part: Any = super().restrict(places)
        part._last = None
        part.pen = self.pen.restricted(places)
        part.lower, part.upper = self.lower[places], self.upper[places]
        return part

    def _terms(self, lam: float, x: np.ndarray) -> Any:
        """r, r′ and r″ at |xⱼ|, of a concave penalty."""
        if self._last is None or self._last[0] != lam or self._last[1] is not x:
            pen: Any = with_fields(self.pen, **{self.pen.strength: np.asarray(lam)})
            self._last = (lam, x, pen.concave_terms(x))
        return self._last[2]

    def value(self, lam: float, x: np.ndarray) -> float:
        """Returns R(x), of a concave penalty."""
        return float(self._terms(lam, x).value.sum())

    def slope(self, lam: float, x: np.ndarray) -> np.ndarray:
        """Returns r′(|xⱼ|)."""
        if self.is_concave:
            return self._terms(lam, x).slope
        return self._slope_of(self.at(lam), x)

    def _slope_of(self, form: CoordinateForm, x: np.ndarray) -> np.ndarray:
        return np.where(x > 0, form.up, form.down) + form.quad * abs(x)

    def near(self, lam: float, x: np.ndarray, diagonal: np.ndarray) -> CoordinateForm:
        """Returns the weights near x, to second order, of a concave penalty.

        `diagonal`: the curvature of the loss along each coefficient. One at 0 where little of it would be left
        gets the weight of the tangent: with many of these at once the model has no minimum.
        """
        _, slope, curvature = self._terms(lam, x)
        is_kept = (x != 0) | (curvature >= -_LEFT * diagonal)
        curvature = np.where(is_kept, curvature, 0.0)
        return self._with_sides(slope - curvature * abs(x), curvature)

    def above(self, lam: float, x: np.ndarray) -> CoordinateForm:
        """Returns the weights of the tangent at x."""
        slope = self.slope(lam, x)
        return self._with_sides(slope, np.zeros(len(slope)))

    def _with_sides(self, weight: np.ndarray, quad: np.ndarray) -> CoordinateForm:
        up, down = self._unit[:2]
        return CoordinateForm(
            np.where(np.isinf(up), np.inf, weight), np.where(np.isinf(down), np.inf, weight), quad
        )

    def error(self, lam: float, x: np.ndarray, form: CoordinateForm) -> float:
        """Returns the most by which the slope of the penalty at x is not that of a form."""
        if not self.is_concave:
            return 0.0
        inside = x != 0
        return float(np.abs(self.slope(lam, x) - self._slope_of(form, x))[inside].max(initial=0))

    def held(self, lam: float, x: np.ndarray, neg_gradient: np.ndarray) -> np.ndarray:
        """Returns the limits at which coefficients are to be held, NaN of those that are free."""
        limit = np.where(x > 0, self.upper, self.lower)
        if not self.has_limits:
            return np.full(len(x), np.nan)
        size, most = abs(x), abs(limit)
        is_there = (x != 0) & (size >= most * (1 - _AT_LIMIT))
        is_out = is_there & (size > most * (1 + _AT_LIMIT))
        slope = self.slope(lam, np.where(is_there, limit, 0))
        pulls = np.sign(x) * neg_gradient >= slope * (1 - _BEYOND)
        return np.where(is_out | (is_there & pulls), limit, np.nan)
