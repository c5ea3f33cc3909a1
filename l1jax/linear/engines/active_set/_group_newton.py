"""A quadratic program with weights per group, solved by semismooth Newton steps on the normal map.

    minimise over B:   ½⟨B, QB⟩ − ⟨C, B⟩ + Σ_g weight_g ‖B_g‖₂ + l1_g ‖B_g‖₁ + ½ quad_g ‖B_g‖₂²

The unknown is z = B + s ∂R(B), of which B is the prox. Where z moves, a group leaves zero, turns and
returns to zero smoothly, however small it is; the same step in B would fail near zero, where the
curvature of ‖B_g‖₂ is infinite (Robinson 1992). A step that does not lower the objective is
shortened, then replaced by a prox step of each active group in turn.
"""

from __future__ import annotations

from contextlib import suppress

import numpy as np

from ._group_hessian import GramHessian, NormCurvature, RowHessian, Solve
from ._group_weights import GroupForm, Layout
from ._path_point import NumericalBreakdown
from ._step_budget import StepBudget

_MAX_STEPS = 200
_EQUAL = 1e-14  # fraction of an objective within which it is the same
_OVER = 1 + 1e-12  # a gradient that is so much of its weight enters
_UNPENALISED_SCALE = 1e-3  # fraction of C that stands for a weight where all weights are zero
_TINY = 1e-300
EXACT = 1e-13  # error of a group's gradient, as a fraction of its weight
_STALLED = 1e-11  # an error that falls no more is small enough here
_STALLED_EXACT = 1e-8  # ... or here, with an exact factor of the point itself
_FAST = 0.15  # an error that falls by less than this factor asks for a new factor
_CLOSE = 1e-3  # after a step from a larger error, the curvatures of small norms have changed
_MIN_STEP = 1e-3  # fraction of a Newton step
_RIDGES = (1e-10, 1e-7, 1e-4)  # of the diagonal of Q, tried in turn if it is singular
_FIRST = 1e-3  # fraction of a prox step with which a group enters


class GroupNewton:
    """The solution at some weights, and how to move it to others.

    Features are sorted by group, as `layout` says; B is `x` (m, k), with a column for each response,
    and Q x − C is minus `neg_gradient`.
    """

    def __init__(
        self,
        hessian: GramHessian | RowHessian,
        linear: np.ndarray,
        layout: Layout,
        x: np.ndarray,
        tolerance: float,
        budget: StepBudget,
    ):
        self.hessian, self.linear, self.layout = hessian, linear, layout
        self.tolerance, self.budget = tolerance, budget
        self.step_size = 1 / layout.broadcast(
            layout.sums(hessian.diagonal)
        )  # s: safe for prox steps
        self.factor: Solve | None = None
        self.factored = np.zeros(0, int)  # the features that the factor is of
        self.ridges: tuple[float, ...] = _RIDGES
        self.is_exact = hessian.is_exact  # whether the next factor is in double precision
        self.start(GroupForm(*np.zeros((3, len(layout.starts)))), x)

    def start(self, form: GroupForm, x: np.ndarray) -> None:
        """Starts at the solution x of some weights."""
        self._set_form(form)
        self._place(x)

    def move_to(self, form: GroupForm, guess: np.ndarray | None = None) -> int:
        """Solves at other weights, from x or from a guess at z if it is better; returns the number of steps."""
        self.start(form, self.x)
        if guess is not None:
            self._accept(self._prox(guess))
        # An unpenalised gradient leaves no dual point, unless it is zero.
        tolerance = EXACT if self.unpenalised.any() else self.tolerance
        self.ridges, self.is_exact = _RIDGES, self.hessian.is_exact
        error, is_fresh, has_stalled = np.inf, False, False
        for count in range(_MAX_STEPS):
            # 1. Let in what violates the KKT conditions at zero.
            self._let_in()
            # 2. Stop at the tolerance, or where rounding allows no more.
            last, error = error, self._error()
            had_stalled, has_stalled = has_stalled, error > 0.5 * last
            small = _STALLED_EXACT if is_fresh and self.is_exact else _STALLED
            if error <= tolerance or (has_stalled and error <= small):
                return count
            # 3. Ask for an exact factor if two steps have stalled: one may be a guess from afar.
            self.is_exact |= has_stalled and had_stalled and is_fresh
            # 4. A Newton step, with the factor at hand unless it has become slow.
            is_slow = error > _FAST * last or (is_fresh and last > _CLOSE)
            self.budget.spend()
            is_fresh = self._step(is_slow)
        raise NumericalBreakdown

    @property
    def z(self) -> np.ndarray:
        """z = x + s ∂R(x), at a solution."""
        return self.x + self.step_size * self.neg_gradient

    def _set_form(self, form: GroupForm) -> None:
        self.form = form
        self.weight, self.l1, self.quad = (self.layout.broadcast(table) for table in form)
        self.unpenalised = self.weight + self.l1 == 0

    def _place(self, x: np.ndarray) -> None:
        """Moves to x."""
        self.x, self.neg_gradient = x, self.linear - self.hessian.dot(x)
        self.objective = self._objective(x, self.neg_gradient)
        self.norms = self.layout.broadcast(self.layout.norms(x))
        self.u = x / np.where(self.norms > 0, self.norms, 1)
        is_nonzero = (self.norms > 0) & ((x != 0) | (self.l1 == 0))
        self.is_active = self.unpenalised | is_nonzero

    def _accept(self, x: np.ndarray) -> bool:
        """Moves to x unless the objective is higher there; returns whether it has moved."""
        before, old = self.x, self.objective
        self._place(x)
        if self.objective <= old + _EQUAL * abs(old):
            return True
        self._place(before)
        return False

    def _objective(self, x: np.ndarray, neg_gradient: np.ndarray) -> float:
        smooth = -0.5 * np.vdot(x, self.linear + neg_gradient)
        penalty = self.form.weight @ self.layout.norms(x)
        penalty += np.sum(self.l1 * np.abs(x)) + 0.5 * np.sum(self.quad * x**2)
        return float(smooth + penalty)

    def _prox(self, z: np.ndarray) -> np.ndarray:
        z = z - np.clip(z, -self.step_size * self.l1, self.step_size * self.l1)
        norms = self.layout.broadcast(self.layout.norms(z))
        threshold = self.step_size * self.weight
        is_zero = (norms <= threshold) & ~self.unpenalised
        z = z / (1 + self.step_size * self.quad)
        keep = np.where(is_zero | self.unpenalised, 1, norms)
        return np.where(is_zero, 0, z * (1 - threshold / keep))

    def _let_in(self) -> None:
        """Lets in the groups, and the features of active groups, whose gradients exceed their weights."""
        rest = self.neg_gradient - np.clip(self.neg_gradient, -self.l1, self.l1)
        size = self.layout.broadcast(self.layout.norms(rest))
        is_over = np.abs(rest) > self.l1 * (_OVER - 1)
        enters = ~self.is_active & (size > self.weight * _OVER) & is_over
        enters |= ~self.is_active & (self.norms > 0) & is_over
        if enters.any():
            fraction = np.where(self.norms > 0, 1, 1 - self.weight / np.where(size > 0, size, 1))
            step = _FIRST * self.step_size * fraction * rest
            self._place(self.x + np.where(enters, step, 0))

    def _penalty_gradient(self) -> np.ndarray:
        """Returns ∇R where R is smooth."""
        return self.weight * self.u + self.l1 * np.sign(self.x) + self.quad * self.x

    def _residual(self) -> np.ndarray:
        """Returns ∇ of the objective on the active features, zero elsewhere."""
        return np.where(self.is_active, self._penalty_gradient() - self.neg_gradient, 0)

    def _error(self) -> float:
        """Returns the largest residual of a group, as a fraction of its weight."""
        total = self.form.weight + self.form.l1
        scale = _UNPENALISED_SCALE * np.abs(self.linear).max(initial=0)
        scale = max(total.max(initial=0), scale, _TINY)
        sizes = self.layout.norms(self._residual())
        return float((sizes / np.where(total > 0, total, scale)).max(initial=0))

    def _step(self, is_slow: bool) -> bool:
        """Takes a Newton step in z, or else a sweep; returns whether its factor is of this point.

        The factor at hand serves as well, unless `is_slow`.
        """
        features = np.flatnonzero(self.is_active.any(axis=1))
        norms = np.where(self.norms > 0, self.norms, 1)
        curvature = np.where(self.is_active, self.weight / norms, 0)
        is_fresh = is_slow or self.factor is None or not np.array_equal(features, self.factored)
        residual = self._residual()[features]
        if is_fresh:
            self.factor, self.factored = self._factorise(features, curvature, residual), features
        if self.factor is None:
            self._sweep()
            return True
        dx = np.zeros_like(self.x)
        dx[features] = -self.factor(residual)
        along = self.layout.broadcast(self.layout.sums(self.u * dx))
        dz = dx + self.step_size * (curvature * (dx - self.u * along) + self.quad * dx)
        subgradient = np.where(self.is_active, self._penalty_gradient(), self.neg_gradient)
        z, fraction = self.x + self.step_size * subgradient, 1.0
        while fraction > _MIN_STEP:
            if self._accept(self._prox(z + fraction * dz)):
                return is_fresh
            fraction /= 4
        if is_fresh and self.is_exact:
            self.ridges = self.ridges[1:]
        self.factor = None
        self._sweep()
        return True

    def _factorise(
        self, features: np.ndarray, curvature: np.ndarray, residual: np.ndarray
    ) -> Solve | None:
        """Factorises the Hessian on some features, in single precision if that serves; None if nothing does."""
        layout = Layout.of(self.layout.ids[features])
        tables = self.u[features], curvature[features, 0], self.quad[features, 0]
        norms = NormCurvature(layout, *tables)
        if self.ridges and not self.is_exact:
            with suppress(NumericalBreakdown):
                factor = self.hessian.factorise(features, norms, self.ridges[0], is_exact=False)
                if np.isfinite(factor(residual)).all():
                    return factor
            self.is_exact = True  # single precision has a short range
        while self.ridges:
            with suppress(NumericalBreakdown):
                return self.hessian.factorise(features, norms, self.ridges[0], is_exact=True)
            self.ridges = self.ridges[1:]
        return None

    def _sweep(self) -> None:
        """Takes a prox step of each active group in turn."""
        ends = np.append(self.layout.starts[1:], len(self.x))
        x, gradient = self.x.copy(), self.hessian.block_gradient(self.neg_gradient)
        for g in np.unique(self.layout.ids[self.is_active.any(axis=1)]):
            group = slice(self.layout.starts[g], ends[g])
            step = self.step_size[group]
            z = x[group] + step * gradient.at(group)
            z = z - np.clip(z, -step * self.l1[group], step * self.l1[group])
            threshold, size = step[0, 0] * self.form.weight[g], np.sqrt(np.sum(z**2))
            shrink = 1 + step * self.quad[group]
            new = z * (1 - threshold / size) / shrink if size > threshold else 0 * z
            move = new - x[group]
            x[group] += move
            gradient.move(group, move)
        self._place(x)
