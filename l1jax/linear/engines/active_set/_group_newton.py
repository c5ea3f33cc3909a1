"""A quadratic problem with prices per group, solved by Newton's method where the groups are active.

    minimise over B:   ½⟨B, QB⟩ − ⟨C, B⟩ + Σ_g price_g ‖B_g‖₂ + l1_g ‖B_g‖₁ + ½ quad_g ‖B_g‖₂²

The unknown is z = B + s ∂R(B), of which B is the prox. Where z moves, a group leaves zero, turns and
returns to zero smoothly, however small it is; the same step in B would fail near zero, where the
curvature of ‖B_g‖₂ is infinite (Newton's method on the normal map; Robinson 1992). A step that does
not lower the objective is shortened, then replaced by prox steps group by group.
"""

from __future__ import annotations

from contextlib import suppress

import numpy as np

from ._group_hessian import ByGram, ByRows, Solve
from ._group_weights import Cost, Layout
from ._state import NumericalBreakdown

_STEPS = 200
_EQUAL = 1e-14  # share of an objective that is rounding
_OVER = 1 + 1e-12  # a gradient that is so much of its price enters
_LEAST = 1e-3  # share of C that stands for a price where all is free
_TINY = 1e-300
ENOUGH = 1e-13  # error of a group's gradient, as a share of its price
_NEARLY = 1e-11  # an error that does not fall any more is small enough here
_ROUNDED = 1e-8  # ... or here, with a new factor
_FAST = 0.15  # an error that falls by less than this factor asks for a new factor
_FAR = 1e-3  # after a step from an error above this, the curvatures of small norms are others
_SHORTEST = 1e-3  # share of a Newton step
_RIDGES = (1e-10, 1e-7, 1e-4)  # of the diagonal of Q, tried in turn where it is singular
_FIRST = 1e-3  # share of a prox step with which a group enters


class GroupNewton:
    """The solution at some prices, and what it takes to move on to others.

    Its features lie group by group, as `layout` says; `x` has a column for each response.
    """

    def __init__(
        self,
        hessian: ByGram | ByRows,
        linear: np.ndarray,
        layout: Layout,
        x: np.ndarray,
        enough: float = ENOUGH,
    ):
        self.hessian, self.linear, self.layout, self.enough = hessian, linear, layout, enough
        self.scale = 1 / self._spread(layout.sums(hessian.diagonal))  # s: safe for prox steps
        self.factor: Solve | None = None
        self.ridges: tuple[float, ...] = _RIDGES
        self.is_exact = hessian.is_exact  # whether the next factor is in double precision
        self.support = np.zeros(0, int)
        self._set(Cost(*np.zeros((3, len(layout.starts)))))
        self._place(x)

    def move_to(self, cost: Cost, guess: np.ndarray | None = None) -> int:
        """Solves at other prices, from where it stands or a guess at z; returns the number of steps."""
        self._set(cost)
        self._place(self.x)
        if guess is not None:
            self._accept(self._prox(guess))
        # A gradient without a price leaves no dual point, unless it is zero.
        enough = ENOUGH if self.free.any() else self.enough
        error, is_fresh, stuck, self.is_exact = np.inf, False, False, self.hessian.is_exact
        self.ridges = _RIDGES
        for count in range(_STEPS):
            self._enter()
            last, error = error, self._error()
            was_stuck, stuck = stuck, error > 0.5 * last
            exactly = is_fresh and self.is_exact
            if error <= enough or (stuck and error <= (_ROUNDED if exactly else _NEARLY)):
                return count
            self.is_exact |= stuck and was_stuck and is_fresh  # once may be a guess from afar
            is_fresh = self._step(error > _FAST * last or (is_fresh and last > _FAR))
        raise NumericalBreakdown

    def stand(self, cost: Cost, x: np.ndarray) -> None:
        """Stands at the solution x of these prices."""
        self._set(cost)
        self._place(x)

    @property
    def z(self) -> np.ndarray:
        """Where it stands, if that is a solution."""
        return self.x + self.scale * self.gradient

    def _set(self, cost: Cost) -> None:
        self.cost = cost
        self.price, self.l1, self.quad = (self._spread(part) for part in cost)
        self.free = self.price + self.l1 == 0

    def _spread(self, per_group: np.ndarray) -> np.ndarray:
        return per_group[self.layout.ids, None]

    def _place(self, x: np.ndarray) -> None:
        """Stands at x."""
        self.x, self.gradient = x, self.linear - self.hessian.dot(x)  # −∇ of the quadratic
        self.objective = self._objective(x, self.gradient)
        self.norms = self._spread(self.layout.norms(x))
        self.u = x / np.where(self.norms > 0, self.norms, 1)
        self.inside = self.free | ((self.norms > 0) & ((x != 0) | (self.l1 == 0)))

    def _accept(self, x: np.ndarray) -> bool:
        """Goes there, if that is no worse."""
        before, old = self.x, self.objective
        self._place(x)
        if self.objective <= old + _EQUAL * abs(old):
            return True
        self._place(before)
        return False

    def _objective(self, x: np.ndarray, gradient: np.ndarray) -> float:
        smooth = -0.5 * np.vdot(x, self.linear + gradient)
        paid = self.cost.weight @ self.layout.norms(x)
        paid += np.sum(self.l1 * np.abs(x)) + 0.5 * np.sum(self.quad * x**2)
        return float(smooth + paid)

    def _prox(self, z: np.ndarray) -> np.ndarray:
        z = z - np.clip(z, -self.scale * self.l1, self.scale * self.l1)
        norms, least = self._spread(self.layout.norms(z)), self.scale * self.price
        is_out = (norms <= least) & ~self.free
        z = z / (1 + self.scale * self.quad)
        return np.where(is_out, 0, z * (1 - least / np.where(is_out | self.free, 1, norms)))

    def _enter(self) -> None:
        """Lets in the groups, and in active groups the features, whose gradients are over their prices."""
        rest = self.gradient - np.clip(self.gradient, -self.l1, self.l1)
        size = self._spread(self.layout.norms(rest))
        over = ~self.inside & (size > self.price * _OVER) & (np.abs(rest) > self.l1 * (_OVER - 1))
        over |= ~self.inside & (self.norms > 0) & (np.abs(rest) > self.l1 * (_OVER - 1))
        if over.any():
            share = np.where(self.norms > 0, 1, 1 - self.price / np.where(size > 0, size, 1))
            self._place(self.x + np.where(over, _FIRST * self.scale * share * rest, 0))

    def _slope(self) -> np.ndarray:
        """∇ of what is paid, where it has one."""
        return self.price * self.u + self.l1 * np.sign(self.x) + self.quad * self.x

    def _residual(self) -> np.ndarray:
        """∇ of the objective where it has one."""
        return np.where(self.inside, self._slope() - self.gradient, 0)

    def _error(self) -> float:
        """The largest residual of a group, as a share of its price."""
        total = self.cost.weight + self.cost.l1
        least = max(total.max(initial=0), _LEAST * np.abs(self.linear).max(initial=0), _TINY)
        sizes = self.layout.norms(self._residual())
        return float((sizes / np.where(total > 0, total, least)).max(initial=0))

    def _step(self, slow: bool) -> bool:
        """A Newton step; whether its factor is new: that at hand may still serve, unless `slow`."""
        support = np.flatnonzero(self.inside.any(axis=1))
        bend = np.where(self.inside, self.price / np.where(self.norms > 0, self.norms, 1), 0)
        is_fresh = slow or self.factor is None or not np.array_equal(support, self.support)
        residual = self._residual()[support]
        if is_fresh:
            self.factor, self.support = self._factorise(support, bend, residual), support
        if self.factor is None:
            self._sweep()
            return True
        move = np.zeros_like(self.x)
        move[support] = -self.factor(residual)
        along = self._spread(self.layout.sums(self.u * move))
        turn = move + self.scale * (bend * (move - self.u * along) + self.quad * move)
        z = self.x + self.scale * np.where(self.inside, self._slope(), self.gradient)
        share = 1.0
        while share > _SHORTEST:
            if self._accept(self._prox(z + share * turn)):
                return is_fresh
            share /= 4
        if is_fresh and self.is_exact:
            self.ridges = self.ridges[1:]
        self.factor = None
        self._sweep()
        return True

    def _factorise(
        self, support: np.ndarray, bend: np.ndarray, residual: np.ndarray
    ) -> Solve | None:
        """A factor that moves these features, in single precision where that serves; None where none does."""
        layout = Layout.of(self.layout.ids[support])
        arguments = (support, layout, self.u[support], bend[support, 0], self.quad[support, 0])
        if self.ridges and not self.is_exact:
            with suppress(NumericalBreakdown):
                factor = self.hessian.factorise(*arguments, self.ridges[0], is_exact=False)
                if np.isfinite(factor(residual)).all():
                    return factor
            self.is_exact = True  # single precision has a short range
        while self.ridges:
            with suppress(NumericalBreakdown):
                return self.hessian.factorise(*arguments, self.ridges[0], is_exact=True)
            self.ridges = self.ridges[1:]
        return None

    def _sweep(self) -> None:
        """A prox step of each active group in turn."""
        ends = np.append(self.layout.starts[1:], len(self.x))
        x, mover = self.x.copy(), self.hessian.mover(self.gradient, self.x)
        for g in np.unique(self.layout.ids[self.inside.any(axis=1)]):
            some = slice(self.layout.starts[g], ends[g])
            scale = self.scale[some]
            z = x[some] + scale * mover.gradient(some)
            z = z - np.clip(z, -scale * self.l1[some], scale * self.l1[some])
            least, size = scale[0, 0] * self.cost.weight[g], np.sqrt(np.sum(z**2))
            shrink = 1 + scale * self.quad[some]
            move = (z * (1 - least / size) / shrink if size > least else 0 * z) - x[some]
            x[some] += move
            mover.move(some, move)
        self._place(x)
