"""Any smooth loss with weights per coordinate, on a working set: proximal Newton steps.

The model is the loss to second order at some point, plus the penalty: a quadratic program, whose
solution is moved from the one before. At each new point the true gradient replaces the model's, and
the difference is the shift of the next step. A point that leaves nothing to shift is optimal for the
loss itself, whatever Hessian the model has; so the Hessian is computed afresh only where the error
falls too slowly (Lee, Sun and Saunders 2014).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...data._host import HostColumns
from ...host._columns import Columns
from ...model._problem import Problem
from ._active_set import ActiveSet
from ._curvature_gram import CurvatureGram
from ._host_loss import HostLoss
from ._path_point import NumericalBreakdown, PathPoint
from ._penalty_weights import CoordinateForm, CoordinateWeights
from ._primal_dual import solve_moved
from ._protocols import RestrictedSolver, SymmetricMatrix
from ._quadratic_program import QuadraticProgram
from ._stacked_matrix import StackedPart
from ._step_budget import StepBudget

_MAX_STEPS = 30  # for one λ
_MAX_HALVINGS = 40  # on the way back from a point that is too far
_EXACT = 1e-13  # error of the gradient, as a fraction of the null model's: all that float64 gives
ROUGH = 0.01  # fraction of its weight that a gradient may miss it by, on the way to a single λ
# That a solution may use up, to first order: lines between two take the rest.
_FRACTION_OF_GAP = 0.2
_FAST = 0.05  # an error that falls by less than this factor asks for a new Hessian
_SLOW = 0.5  # ... and with a new Hessian, for an end
# The least curvature of a row, as a fraction of its bound; at first any, as of a loss that is not convex.
_DAMPINGS = (None, 0.0, 1e-6, 1e-2, 1.0)
_LARGE = 1e150  # stands for the weight of an empty working set
_ROUNDED = 1e-7  # an error below this fraction may be all that rounding allows
_EQUAL = 1e-14  # fraction of the objective within which it is the same

Curvature = np.ndarray | float  # per row (n,), or one for all


class ProxNewton:
    """`PathFollower` of a smooth convex loss."""

    can_halve_steps = starts_anywhere = True

    def __init__(
        self,
        problem: Problem,
        weights: CoordinateWeights,
        budget: StepBudget,
        relative_gap: float | None = None,
        rough_above: float = np.inf,
    ):
        """`relative_gap`: what solutions may have; `rough_above`: λ above which they are on the way only."""
        self.columns, self.weights, self.budget = Columns(problem), weights, budget
        self.loss = HostLoss(problem)
        self.null_intercept = float(problem.null.point.intercept)
        null_gradient = np.abs(np.asarray(problem.null.gradient)).max(initial=0)
        self.tolerance = _EXACT * float(null_gradient)
        self.rough_above = rough_above
        gap = 0.0 if relative_gap is None else _FRACTION_OF_GAP * relative_gap
        self.gap = gap * float(problem.null.unit)  # that solutions may have

    def weight_tolerance(self, lam: float) -> float:
        """Returns the fraction of a weight by which a gradient may miss it."""
        return ROUGH if lam > self.rough_above else 0.0

    def start(
        self, features: np.ndarray, values: np.ndarray, neg_gradient: np.ndarray
    ) -> PathPoint:
        signs = np.zeros(len(features))
        return PathPoint(features, signs, values, self.null_intercept, neg_gradient)

    def restricted_solver(self, working: np.ndarray, at: PathPoint, lam: float) -> RestrictedSolver:
        return ProxNewtonSolver(self, working, at, lam)

    def neg_gradients(self, points: list[PathPoint], out: np.ndarray) -> None:
        slopes = np.stack([np.asarray(point.slope) for point in points], axis=1)
        self.columns.matrix.rdot(-slopes, out)


class ProxNewtonSolver:
    """`RestrictedSolver` of a smooth loss."""

    def __init__(self, path: ProxNewton, working: np.ndarray, at: PathPoint, lam: float):
        self.path, self.working, self.weights = path, working, path.weights.restrict(working)
        self.part = path.columns.matrix.part(path.columns.require(working))
        self.model = NewtonModel(path, self.part, self.weights.at(lam))
        places = np.searchsorted(working, at.features)
        self.model.start(places, at.signs, at.values, float(at.intercept))

    def to(self, lam: float) -> PathPoint:
        model = self.model
        num_steps = model.move_to(self.weights.at(lam), self.path.weight_tolerance(lam))
        active = model.program.active
        is_feature = active.indices < model.size  # the intercept is none
        places = active.indices[is_feature]
        return PathPoint(
            features=self.working[places],
            signs=active.signs[is_feature],
            values=model.beta[places],
            intercept=model.intercept,
            neg_gradient=model.neg_gradient[: model.size],
            slope=model.slope,
            num_steps=num_steps,
        )

    def gap(
        self, lam: float, beta: np.ndarray, intercept: float, neg_gradient: np.ndarray
    ) -> float:
        del neg_gradient  # it is no line between two solutions
        return self.path.loss.duality_gap(self.part, self.weights, lam, beta, intercept)

    def known_inverse(self) -> None:
        return None


class _Before(NamedTuple):
    """The point from which a step starts, and its active set."""

    x: np.ndarray
    indices: np.ndarray
    signs: np.ndarray


class NewtonModel:
    """The point x that is reached, and the quadratic model of the loss that leads on from there.

    Its coordinates are the features of the working set and, if there is one, the intercept, which
    has no weights. `neg_gradient` is −∇(L + quad/2) of the loss itself, `program.neg_gradient` that
    of the model.
    """

    program: QuadraticProgram

    def __init__(self, path: ProxNewton, part: HostColumns, form: CoordinateForm):
        self.path, self.part, self.loss = path, part, path.loss
        self.size = len(form.up)
        self.form = self._with_intercept(form)
        self.release()

    def _with_intercept(self, form: CoordinateForm) -> CoordinateForm:
        if not self.loss.fit_intercept:
            return form
        return CoordinateForm(*(np.append(table, 0.0) for table in form))

    @property
    def beta(self) -> np.ndarray:
        return self.x[: self.size]

    @property
    def intercept(self) -> float:
        return float(self.x[self.size]) if self.loss.fit_intercept else 0.0

    def start(
        self, features: np.ndarray, signs: np.ndarray, values: np.ndarray, intercept: float
    ) -> None:
        """Starts at a point, by the places of its features in the working set."""
        self.x = np.zeros(len(self.form.up))
        self.x[features] = values
        if self.loss.fit_intercept:
            features, signs = np.append(features, self.size), np.append(signs, 0.0)
            self.x[self.size] = intercept
        self._evaluate()
        self._rebuild(features, signs)

    def release(self) -> None:
        """Lets all coefficients vary."""
        self.held = np.zeros(len(self.form.up))

    def hold(self, values: np.ndarray) -> None:
        """Holds coefficients at these values (w,), NaN of those that may vary."""
        is_held = np.append(~np.isnan(values), np.zeros(len(self.held) - self.size, bool))
        self.held = np.zeros(len(self.held))
        self.held[is_held] = values[is_held[: self.size]]
        active = self.program.active
        stays = ~is_held[active.indices]
        indices, signs = active.indices[stays].copy(), active.signs[stays].copy()
        self.x = np.where(is_held, self.held, self.program.x)
        self._evaluate()
        self._rebuild(indices, signs)

    def move_to(self, form: CoordinateForm, weight_tolerance: float = 0.0) -> int:
        """Solves at other weights, to a fraction of them; returns the number of steps."""
        self._set_form(form)
        weights = np.minimum(form.up, form.down)[: self.size]
        least_weight = weights[weights > 0].min(initial=_LARGE)
        tolerance = max(self.path.tolerance, weight_tolerance * least_weight)
        objective, error, is_fresh = self._objective(), np.inf, False
        min_curvature: Curvature = -np.inf
        for count in range(1, _MAX_STEPS + 1):
            # 1. Solve the model, with the true gradient at the point before.
            active = self.program.active
            before = _Before(self.x, active.indices.copy(), active.signs.copy())
            min_curvature = self._solve_model(before, min_curvature)
            # 2. Evaluate the loss at its solution.
            self._evaluate()
            new_objective, new_error = self._objective(), self._error()
            if new_error <= tolerance or self._gap(least_weight) < self.path.gap:
                return count
            # 3. Where the objective has risen the step was too long: go back, with more curvature.
            if not new_objective <= objective + _EQUAL * (abs(objective) + abs(self.value)):
                min_curvature = self._go_back(before, objective, min_curvature)
                error, is_fresh = np.inf, True
                continue
            # 4. End where a new Hessian has not helped, and the error may be rounding.
            is_rounding = new_error <= _ROUNDED * self.path.tolerance / _EXACT
            if is_fresh and new_error > _SLOW * error and is_rounding:
                return count
            # 5. Compute the Hessian afresh where the error falls too slowly.
            is_fresh = new_error > _FAST * error
            if is_fresh:
                active = self.program.active
                self._rebuild(active.indices, active.signs)
            objective, error, min_curvature = new_objective, new_error, -np.inf
        raise NumericalBreakdown

    def _set_form(self, form: CoordinateForm) -> None:
        """Moves to other weights, at the same point."""
        form = self._with_intercept(form)
        ridge = form.quad - self.form.quad
        if ridge.any():
            self.program.add_ridge(ridge)
            self.neg_gradient = self.neg_gradient - ridge * self.x
        self.form = form

    def _solve_model(self, before: _Before, min_curvature: Curvature) -> Curvature:
        """Moves x to the solution of the model; returns the least curvature of a row that this took."""
        self.path.budget.spend()
        weights = self.form[:2]
        try:
            solve_moved(self.program, self.neg_gradient - self.program.neg_gradient, weights)
        except NumericalBreakdown:  # the Hessian was too flat; with the bound of each row it is not
            min_curvature = self._raise_curvature(before, min_curvature, np.inf)
            solve_moved(self.program, self.neg_gradient - self.program.neg_gradient, weights)
        self.x = self.program.x + self.held
        return min_curvature

    def _go_back(self, before: _Before, objective: float, min_curvature: Curvature) -> Curvature:
        """Returns to the point before, with a Hessian of more curvature."""
        curvature = self._curvature_on_the_way(before.x, objective)
        self.x = before.x
        self._evaluate()
        return self._raise_curvature(before, min_curvature, curvature)

    def _raise_curvature(
        self, before: _Before, min_curvature: Curvature, curvature: Curvature
    ) -> Curvature:
        """Rebuilds the model with at least this curvature of each row; returns the new minimum."""
        if np.isposinf(min_curvature).all():
            raise NumericalBreakdown
        min_curvature = np.maximum(np.maximum(min_curvature, curvature), 0)
        self._rebuild(before.indices, before.signs, min_curvature)
        return min_curvature

    def _curvature_on_the_way(self, start: np.ndarray, objective: float) -> Curvature:
        """Returns the curvature at the point nearest to `start`, by halves, that is no better than it.

        Where a loss is curved only in places, as Huber's is, it may have none at `start`.
        """
        end, fraction = self.x, 1.0
        for _ in range(_MAX_HALVINGS):
            curvature, _ = self.loss.curvatures(self.eta)
            fraction /= 2
            self.x = start + fraction * (end - start)
            self._evaluate()
            if self._objective() < objective:
                return curvature
        return np.inf

    def _evaluate(self) -> None:
        """Computes the loss and its gradient at x."""
        self.eta = self.part.dot(self.beta) + self.intercept + self.loss.offset
        self.value, self.slope = self.loss.evaluate(self.eta)
        neg_gradient = -self.part.rdot(self.slope)
        if self.loss.fit_intercept:
            neg_gradient = np.append(neg_gradient, -self.slope.sum())
        self.neg_gradient = neg_gradient - self.form.quad * self.x

    def _rebuild(
        self, indices: np.ndarray, signs: np.ndarray, min_curvature: Curvature = -np.inf
    ) -> None:
        """Builds the model at x, with an active set; its gradient is the nearest that makes x optimal."""
        neg_gradient = np.clip(self.neg_gradient, -self.form.down, self.form.up)
        neg_gradient[indices] = self._stationary(indices, signs)
        curvature, bound = self.loss.curvatures(self.eta)
        min_curvature = np.minimum(min_curvature, bound)
        for damping in _DAMPINGS:
            least = min_curvature if damping is None else np.maximum(min_curvature, damping * bound)
            hessian = self._hessian(curvature, least)
            active = ActiveSet(len(neg_gradient), indices, signs, self.x[indices])
            self.program = QuadraticProgram(
                hessian, neg_gradient, self.form[:2], active, ridge=self.form.quad
            )
            try:
                self.program.factor.factorise()
                return
            except NumericalBreakdown:  # singular on the active set, for rows without curvature
                continue
        raise NumericalBreakdown

    def _hessian(self, curvature: np.ndarray, min_curvature: np.ndarray) -> SymmetricMatrix:
        """Returns X̃ᵀ H X̃, with the intercept, for H = ∂²L/∂η² of at least a minimum in each row.

        Where H is not diagonal the minimum is added. Most are computed by the rows that are read.
        """
        loss = self.loss
        if loss.loss.is_separable:
            row_weights = np.maximum(curvature, min_curvature)
            if isinstance(self.part, StackedPart):
                return self.part.gram_rows(row_weights)
            return CurvatureGram(self.part, row_weights, self.size, loss.fit_intercept)
        least = np.maximum(min_curvature, 0)
        factors = loss.curvature_factors(self.eta)
        if factors is not None and isinstance(self.part, StackedPart):
            a, b = factors
            return self.part.curvature_rows(a + least.reshape(a.shape), b)
        return loss.hessian(self.part, self.eta, curvature, least)

    def _stationary(self, indices: np.ndarray, signs: np.ndarray) -> np.ndarray:
        """Returns the negative gradient of active coordinates of these signs, at a solution."""
        weights = np.where(signs > 0, self.form.up[indices], -self.form.down[indices])
        return np.where(signs == 0, 0, weights)

    def _error(self) -> float:
        """Returns the largest KKT violation, in units of a gradient."""
        active = self.program.active
        stationary = self._stationary(active.indices, active.signs)
        on_active = np.abs(self.neg_gradient[active.indices] - stationary)
        over = np.maximum(self.neg_gradient - self.form.up, -self.neg_gradient - self.form.down)
        over[active.indices] = 0
        return max(on_active.max(initial=0), over.max(initial=0))

    def _gap(self, least_weight: float) -> float:
        """Returns the duality gap, to first order in how far gradients are from their weights.

        The dual point is the gradient, scaled into the weights; that of a free coordinate, which the
        certificate makes vanish, moves the others by about as much.
        """
        g, x, (up, down, _) = self.neg_gradient, self.x, self.form
        weights = np.where(g > 0, up, down)
        is_free = weights == 0
        inside = (x != 0) & ~is_free
        penalty = np.where(x > 0, up, down)[inside] @ np.abs(x[inside])
        if not penalty:  # then free coordinates do not count
            return np.inf
        over = (np.abs(g) - weights) / np.where(is_free, least_weight, weights)
        return abs(penalty - x[inside] @ g[inside]) + max(over.max(initial=0), 0) * penalty

    def _objective(self) -> float:
        weights = np.where(self.x > 0, self.form.up, self.form.down)
        inside = (self.x != 0) & np.isfinite(weights)
        penalty = np.abs(self.x[inside]) @ weights[inside]
        return float(self.value + penalty + 0.5 * self.form.quad @ self.x**2)
