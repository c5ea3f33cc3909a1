"""Penalties that are sums of weights times |xⱼ| and xⱼ², or group norms: their formulas, by those weights.

Arrays of NumPy or of JAX, of any shape: what is returned is a term for each coordinate.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .._arrays import eps, namespace
from .._groups import Groups
from .._types import Real

EDGE = 8  # units of rounding by which a point on the edge of the dual ball may lie outside of it


class LinearForm(NamedTuple):
    """The penalty weights of each coordinate, λ included: of xⱼ⁺, of xⱼ⁻ and of ½xⱼ² (inf: excluded).

    With limits, R is infinite outside of lowerⱼ ≤ xⱼ ≤ upperⱼ, which lie on both sides of 0; where one of them
    is 0, the weight of that side is infinite too.
    """

    up: Real
    down: Real
    quad: Real
    lower: Real | None = None
    upper: Real | None = None

    @property
    def is_symmetric(self) -> bool:
        return self.up is self.down

    @property
    def has_limits(self) -> bool:
        return self.lower is not None

    @property
    def is_limited(self) -> Any:
        """Which coordinates have a finite limit."""
        if self.lower is None or self.upper is None:
            return np.bool_(False)  # whose ~ is no number, as that of Python's False
        xp = namespace(self.lower, self.upper)
        return xp.isfinite(self.lower) | xp.isfinite(self.upper)

    @property
    def can_be_held(self) -> Any:
        """Which coordinates have a finite limit that is not 0."""
        if self.lower is None or self.upper is None:
            return np.bool_(False)
        xp = namespace(self.lower, self.upper)
        is_up, is_down = (xp.isfinite(limit) & (limit != 0) for limit in (self.upper, self.lower))
        return is_up | is_down

    @property
    def is_smooth_at_zero(self) -> Any:
        """Which coordinates have no corner at 0 from where a path could start, though they are not free."""
        is_held_back = (self.quad > 0) | self.is_limited
        return (self.up == 0) & (self.down == 0) & is_held_back

    def map(self, function: Callable[[Real], Real]) -> LinearForm:
        """Returns the form with a function of each of its arrays."""
        up, down, quad, *limits = (None if part is None else function(part) for part in self)
        return LinearForm(up, up if self.is_symmetric else down, quad, *limits)

    def times(self, lam: Any) -> LinearForm:
        """Returns the form of λ times the penalty."""
        up, quad = _times(lam, self.up), _times(lam, self.quad)
        down = up if self.is_symmetric else _times(lam, self.down)
        return LinearForm(up, down, quad, self.lower, self.upper)

    def value(self, x: Real) -> Real:
        """The terms of R(x), without what is infinite."""
        up, down = self._finite()
        linear = up * abs(x) if self.is_symmetric else self._side(x, up, down) * abs(x)
        return linear + 0.5 * self.quad * x**2

    def violation(self, x: Real) -> Real:
        """How far each coordinate is outside of the domain of R."""
        xp = namespace(x, *self)
        return xp.where(xp.isinf(self._bound(x)), abs(x), xp.maximum(abs(x) - self._limit(x), 0))

    def conjugate(self, v: Real) -> Real:
        """The terms of R*(v)."""
        xp, bound = namespace(v, *self), self._bound(v)
        size, is_curved = abs(v), self.quad > 0
        beyond = xp.maximum(size - bound, 0)
        terms = beyond**2 / (2 * xp.where(is_curved, self.quad, 1))
        is_inside = size <= bound * (1 + EDGE * eps(v))
        free = xp.where(is_curved, terms, xp.where(is_inside, 0, np.inf))
        if not self.has_limits:
            return free
        # sup over 0 ≤ t ≤ limit of (|v| − bound) t − ½ quad t².
        limit = self._limit(v)
        is_finite = xp.isfinite(limit)
        at_limit = xp.where(is_finite, limit, 0)
        stops = is_finite & (beyond >= self.quad * at_limit)
        return xp.where(stops, beyond * at_limit - 0.5 * self.quad * at_limit**2, free)

    def limit(self, v: Real) -> Real:
        """For each coordinate the largest c in [0, 1] for which its term of R*(c v) is finite."""
        xp = namespace(v, *self)
        is_bounded = self.quad > 0
        if self.has_limits:
            is_bounded |= xp.isfinite(self._limit(v))
        return xp.where(is_bounded, 1, self.boxed(v))

    def boxed(self, v: Real) -> Real:
        """For each coordinate the largest c in [0, 1] for which c v is within the weights."""
        size, bound = abs(v), self._bound(v)
        xp, is_outside = namespace(v, *self), size > bound
        return xp.where(is_outside, bound / xp.where(is_outside, size, 1), 1)

    def scales(self, v: Real, rest: Real, least: Any) -> Real:
        """Unscaled; scaled into the lasso's ball; and scaled as the lasso on augmented data: (3, ...).

        `rest` is v − quad∘x, the dual point of the augmented data; `least` the minimum over coordinates.
        """
        xp, limit = namespace(v, rest, *self), least(self.limit(v))
        scales = [limit, least(self.boxed(v)), least(self.boxed(rest))]
        return xp.minimum(xp.stack(scales), limit)

    def distance(self, x: Real, gradient: Real) -> Real:
        """dist(−gradient, ∂R(x)), per coordinate."""
        xp = namespace(x, gradient, *self)
        slope = gradient + self.quad * x
        up, down = self._finite()
        inside = xp.maximum(abs(slope) - self._bound(-slope), 0)
        weight = up if self.is_symmetric else self._side(x, up, down)
        outwards = slope + weight * xp.sign(x)
        found = xp.where(x == 0, inside, abs(outwards))
        if self.has_limits:  # at a limit any pull beyond it is met
            found = xp.where(self.at_limit(x), xp.maximum(outwards * xp.sign(x), 0), found)
        return xp.where((x != 0) & xp.isinf(self._bound(x)), abs(x), found)

    def at_limit(self, x: Real) -> Real:
        """Which coordinates are at a limit other than 0, to rounding."""
        if not self.has_limits:
            return x != x
        return (x != 0) & (abs(x) >= self._limit(x) * (1 - EDGE * eps(x)))

    def within_limits(self, x: Real) -> Real:
        """x, with the coordinates that are at a limit to rounding exactly there."""
        if not self.has_limits:
            return x
        xp, is_there = namespace(x, *self), self.at_limit(x)
        return xp.where(is_there, xp.sign(x) * xp.where(is_there, self._limit(x), 0), x)

    def limit_knots(self, x: Real, gradient: Real, curvature: Real) -> tuple[Real, Real]:
        """Of the form at λ = 1: the λ at which a coordinate reaches its limit, and at which one at it leaves.

        Each moves by itself, along a smooth part of this gradient and curvature. 0 and inf where it does not.
        """
        xp, limit = namespace(x, gradient, *self), self._limit(x)
        up, down = self._finite()
        sign, is_there = xp.sign(x), self.at_limit(x)
        can_reach = xp.isfinite(limit) & (x != 0)
        limit = xp.where(can_reach, limit, 0)
        pull = -sign * (gradient + curvature * (sign * limit - x))
        weight = xp.where(x > 0, up, down) + self.quad * limit
        lam = xp.maximum(pull, 0) / xp.where(can_reach & (weight > 0), weight, np.inf)
        return xp.where(is_there, 0, lam), xp.where(is_there & (weight > 0), lam, np.inf)

    def critical(self, gradient: Real) -> Real:
        """Of the form at λ = 1: the λ from which on each coordinate is 0, with this gradient there.

        0 where it is unpenalised, infinite where only its square is.
        """
        xp, bound, size = namespace(gradient, *self), self._bound(-gradient), abs(gradient)
        found = size / xp.where(bound > 0, bound, np.inf)
        if xp is np and not self.quad.any():
            return found
        return xp.where((bound == 0) & (self.quad > 0) & (size > 0), np.inf, found)

    def exceeds(self, v: Real) -> Real:
        """Which coordinates prox(v) moves off zero."""
        return abs(v) > self._bound(v)

    def _bound(self, v: Real) -> Real:
        """The weight of the side that v lies on."""
        return self.up if self.is_symmetric else self._side(v, self.up, self.down)

    def _limit(self, v: Real) -> Any:
        """How far from 0 a coordinate may be on the side that v lies on."""
        if self.lower is None or self.upper is None:
            return np.inf
        return self._side(v, self.upper, -self.lower)

    def _side(self, v: Real, up: Real, down: Real) -> Real:
        return namespace(v, up, down).where(v > 0, up, down)

    def _finite(self) -> tuple[Real, Real]:
        """The weights, with 0 for those that are infinite."""
        xp = namespace(*self)
        up = xp.where(xp.isinf(self.up), 0, self.up)
        return up, up if self.is_symmetric else xp.where(xp.isinf(self.down), 0, self.down)


class GroupForm(NamedTuple):
    """The penalty weights of each group, λ included: of ‖x_g‖₂ (inf: excluded), of ‖x_g‖₁ and of ½‖x_g‖₂²."""

    groups: Groups
    weight: Real  # (G,)
    l1: Real  # (G,)
    quad: Real  # (G,)


def _times(lam: Any, part: Real) -> Real:
    xp = namespace(lam, part)
    if xp is np and not np.isinf(part).any():
        return lam * part
    is_infinite = xp.isinf(part)  # at λ = 0 too
    return xp.where(is_infinite, part, lam * xp.where(is_infinite, 0, part))
