"""A smooth convex function with weights per group, minimised by semismooth Newton steps on the normal map.

    minimise over B:   L(B) + Σ_g weight_g ‖B_g‖₂ + l1_g ‖B_g‖₁ + ½ quad_g ‖B_g‖₂²

The unknown is z = B + s ∂R(B), of which B is the prox. Where z moves, a group leaves zero, turns and
returns to zero smoothly, however small it is; the same step in B would fail near zero, where the
curvature of ‖B_g‖₂ is infinite (Robinson 1992). A step that does not lower the objective is
repeated without the groups that it takes too far, then replaced by prox steps on the quadratic model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import suppress

import numpy as np

from ._group_hessian import NormCurvature, SmoothPart, Solve
from ._group_weights import GroupForm, Layout
from ._path_point import NumericalBreakdown
from ._step_budget import StepBudget

_MAX_STEPS = 200
_EQUAL = 1e-14  # fraction of an objective within which it is the same
_OVER = 1 + 1e-12  # a gradient that is so much of its weight enters
# Fraction of a gradient that stands for a weight where all weights are zero.
_UNPENALISED_SCALE = 1e-3
_TINY = 1e-300
EXACT = 1e-13  # error of a group's gradient, as a fraction of its weight
_STALLED = 1e-11  # an error that falls no more is small enough here
_STALLED_EXACT = 1e-8  # ... or here, with an exact factor of the point itself
_FAST = 0.15  # an error that falls by less than this factor asks for a new factor
_CLOSE = 1e-3  # after a step from a larger error, the curvatures of small norms have changed
_MIN_STEP = 1e-3  # fraction of a Newton step
_RIDGES = (1e-10, 1e-7, 1e-4, 1e-2, 1.0)  # of the diagonal of Q, tried in turn where steps fail
_PROX_STEPS, _MOST_PROX_STEPS = 20, 320  # where Newton steps fail
_POWER_STEPS = 20
_MANY = 0.4  # fraction of the active groups: a step that takes more of them away is a wild one
_MAX_DROPS = 8  # times that groups are taken out of one step
_FIRST = 1e-3  # fraction of a prox step with which a group enters


@dataclasses.dataclass
class _Step:
    """A step from z to z + dz, which moves x by dx to first order."""

    z: np.ndarray
    dz: np.ndarray
    dx: np.ndarray
    is_fresh: bool  # whether the factor is of this point
    is_taken: bool = False


class GroupNewton:
    """The solution at some weights, and how to move it to others.

    Features are sorted by group, as `layout` says; B is `x` (m, k), with a column for each response,
    and ∇L(x) is minus `neg_gradient`.
    """

    def __init__(
        self,
        smooth: SmoothPart,
        layout: Layout,
        x: np.ndarray,
        tolerance: float,
        budget: StepBudget,
    ):
        self.smooth, self.layout = smooth, layout
        self.tolerance, self.budget = tolerance, budget
        self.step_size = 1 / layout.broadcast(
            layout.sums(smooth.diagonal)
        )  # s: safe for prox steps
        self.factor: Solve | None = None
        self.factored = np.zeros(0, int)  # the features that the factor is of
        self.ridges: tuple[float, ...] = _RIDGES
        self.is_exact = smooth.is_exact  # whether the next factor is in double precision
        self.start(GroupForm(*np.zeros((3, len(layout.starts)))), x)

    def start(self, form: GroupForm, x: np.ndarray) -> None:
        """Starts at the solution x of some weights."""
        self._set_form(form)
        self._place(x)

    def move_to(self, form: GroupForm, guess: np.ndarray | None = None) -> int:
        """Solves at other weights, from x or from a guess at z if it is better; returns the number of steps."""
        self.start(form, self.x)
        if guess is not None:
            self._accept(self._prox_at(guess))
        is_exact = self.smooth.needs_free_gradient_zero and self.unpenalised.any()
        tolerance = EXACT if is_exact else self.tolerance
        self.ridges, self.is_exact = _RIDGES, self.smooth.is_exact
        self.num_prox_steps = _PROX_STEPS  # of the next descent
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
        value, self.neg_gradient = self.smooth.evaluate(x)
        self.x, self.objective = x, value + self._penalty(x)
        self.norms = self.layout.broadcast(self.layout.norms(x))
        self.u = x / np.where(self.norms > 0, self.norms, 1)
        is_nonzero = (self.norms > 0) & ((x != 0) | (self.l1 == 0))
        self.is_active = self.unpenalised | is_nonzero

    def _accept(self, x: np.ndarray, old: float | None = None) -> bool:
        """Moves to x unless the objective is higher there than here, or than `old`; returns whether it has."""
        before, old = self.x, self.objective if old is None else old
        self._place(x)
        if self.objective <= old + _EQUAL * abs(old):
            return True
        self._place(before)
        return False

    def _penalty(self, x: np.ndarray) -> float:
        penalty = self.form.weight @ self.layout.norms(x)
        penalty += np.sum(self.l1 * np.abs(x)) + 0.5 * np.sum(self.quad * x**2)
        return float(penalty)

    def _prox_at(self, z: np.ndarray) -> np.ndarray:
        return _prox(z, self.step_size, self.layout, self.weight, self.l1, self.quad)

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
        scale = _UNPENALISED_SCALE * self.smooth.scale
        scale = max(total.max(initial=0), scale, _TINY)
        sizes = self.layout.norms(self._residual())
        return float((sizes / np.where(total > 0, total, scale)).max(initial=0))

    def _step(self, is_slow: bool) -> bool:
        """Takes a Newton step in z, or else prox steps; returns whether its factor is of this point.

        The factor at hand serves as well, unless `is_slow`.
        """
        before, objective = self.x, self.objective
        # 1. The whole step; where it goes too far, that without the groups whose norms it takes below zero.
        step = whole = self._newton_step(is_slow)
        for _ in range(_MAX_DROPS):
            if step is None or self._take(step, 1.0, objective):
                break
            leaves = self._leaves(step.dx)
            num_leaving = np.count_nonzero(leaves[self.layout.starts])
            if not 0 < num_leaving < _MANY * np.count_nonzero(self.norms[self.layout.starts]):
                break
            self._place(np.where(leaves, 0, self.x))
            step = self._newton_step(is_slow=True)
        # 2. A part of it.
        if step is None or not step.is_taken:
            self._place(before)
            step, fraction = whole, 0.25
            while step is not None and fraction > _MIN_STEP and not step.is_taken:
                self._take(step, fraction, objective)
                fraction /= 4
        if step is not None and step.is_taken:
            if step.is_fresh:  # the ridge before may be enough again
                self.ridges = _RIDGES[-len(self.ridges) - 1 :]
            return step.is_fresh
        # 3. Prox steps.
        if step is not None and step.is_fresh and self.is_exact:
            self.ridges = self.ridges[1:]
        self.factor = None
        self._descend()
        return True

    def _newton_step(self, is_slow: bool) -> _Step | None:
        """Returns Newton's step in z from here; None where nothing factorises the Hessian."""
        features = np.flatnonzero(self.is_active.any(axis=1))
        norms = np.where(self.norms > 0, self.norms, 1)
        curvature = np.where(self.is_active, self.weight / norms, 0)
        is_fresh = is_slow or self.factor is None or not np.array_equal(features, self.factored)
        residual = self._residual()[features]
        if is_fresh:
            self.factor, self.factored = self._factorise(features, curvature, residual), features
        if self.factor is None:
            return None
        dx = np.zeros_like(self.x)
        dx[features] = -self.factor(residual)
        along = self.layout.broadcast(self.layout.sums(self.u * dx))
        dz = dx + self.step_size * (curvature * (dx - self.u * along) + self.quad * dx)
        subgradient = np.where(self.is_active, self._penalty_gradient(), 0)  # others stay zero
        return _Step(self.x + self.step_size * subgradient, dz, dx, is_fresh)

    def _take(self, step: _Step, fraction: float, objective: float) -> bool:
        """Takes a fraction of a step unless it leads above an objective; returns whether it has."""
        step.is_taken = self._accept(self._prox_at(step.z + fraction * step.dz), objective)
        return step.is_taken

    def _leaves(self, dx: np.ndarray) -> np.ndarray:
        """Returns which features are of groups whose norms a step takes below zero, to first order."""
        along = self.layout.broadcast(self.layout.sums(self.u * dx))
        return (self.weight > 0) & (self.norms > 0) & (self.norms + along <= 0)

    def _factorise(
        self, features: np.ndarray, curvature: np.ndarray, residual: np.ndarray
    ) -> Solve | None:
        """Factorises the Hessian on some features, in single precision if that serves; None if nothing does."""
        layout = Layout.of(self.layout.ids[features])
        tables = self.u[features], curvature[features, 0], self.quad[features, 0]
        norms = NormCurvature(layout, *tables)
        if self.ridges and not self.is_exact:
            with suppress(NumericalBreakdown):
                factor = self.smooth.factorise(features, norms, self.ridges[0], is_exact=False)
                if np.isfinite(factor(residual)).all():
                    return factor
            self.is_exact = True  # single precision has a short range
        while self.ridges:
            with suppress(NumericalBreakdown):
                return self.smooth.factorise(features, norms, self.ridges[0], is_exact=True)
            self.ridges = self.ridges[1:]
        return None

    def _descend(self) -> None:
        """Takes accelerated prox steps on the quadratic model of the active groups, and goes there.

        With restarts (O'Donoghue and Candès, 2015), and twice as many as the last time: it is needed where
        Newton's method does not find what is active.
        """
        groups = np.unique(self.layout.ids[self.is_active.any(axis=1)])
        at = np.flatnonzero(np.isin(self.layout.ids, groups))
        product, layout = self.smooth.product(at), Layout.of(self.layout.ids[at])
        step = 1 / _largest_eigenvalue(product, self.x[at].shape)
        parts = (self.weight[at], self.l1[at], self.quad[at])
        first, slope = self.x[at], self.neg_gradient[at]
        x = ahead = first
        momentum = 1.0
        for _ in range(self.num_prox_steps):
            new = _prox(ahead + step * (slope - product(ahead - first)), step, layout, *parts)
            if np.vdot(ahead - new, new - x) > 0:
                momentum, ahead = 1.0, x
                continue
            later = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
            ahead, x, momentum = new + (momentum - 1) / later * (new - x), new, later
        self.num_prox_steps = min(2 * self.num_prox_steps, _MOST_PROX_STEPS)
        fraction, move = 1.0, np.zeros_like(self.x)
        move[at] = x - first
        while fraction > _MIN_STEP and not self._accept(self.x + fraction * move):
            fraction /= 4


def _prox(
    z: np.ndarray,
    step: np.ndarray | float,
    layout: Layout,
    weight: np.ndarray,
    l1: np.ndarray,
    quad: np.ndarray,
) -> np.ndarray:
    """Returns the prox of the penalty, of steps that are equal within groups; weights are (m, 1)."""
    z = z - np.clip(z, -step * l1, step * l1)
    norms, threshold = layout.broadcast(layout.norms(z)), step * weight
    is_free = weight + l1 == 0
    is_zero = (norms <= threshold) & ~is_free
    keep = np.where(is_zero | is_free, 1, norms)
    return np.where(is_zero, 0, z / (1 + step * quad) * (1 - threshold / keep))


def _largest_eigenvalue(
    product: Callable[[np.ndarray], np.ndarray], shape: tuple[int, ...]
) -> float:
    """Returns a little more than the largest eigenvalue, by power iterations."""
    u = np.random.default_rng(0).normal(size=shape)
    size = 1.0
    for _ in range(_POWER_STEPS):
        u = product(u / np.linalg.norm(u))
        size = np.linalg.norm(u)
    return float(1.1 * size)
