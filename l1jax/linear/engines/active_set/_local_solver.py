"""The solution on a working set where weights depend on where coefficients are, by those near the last point.

1. Solve with the weights near x, as a penalty with a weight per coordinate: on the lasso's own engine.
2. Where the model has no minimum, or the objective has risen, solve with the tangents at x in their place: the
   objective falls then (Zou and Li, 2008).
3. Hold what is beyond a limit at it, and free what is no longer pulled there.
4. Go on until the weights are those near the solution.

With MCP and SCAD step 1 mostly is exact at once. From one λ to the next a concave penalty goes to a stationary
point nearby: which one follows from where the path has come from.
"""

from __future__ import annotations

import abc
from contextlib import suppress
from typing import Any

import numpy as np
import scipy  # which loads `linalg` when it is used

from ._active_set import ActiveSet
from ._homotopy import homotopy
from ._least_squares import LeastSquares
from ._local_weights import LocalWeights
from ._path_point import NumericalBreakdown, PathPoint
from ._penalty_weights import CoordinateForm
from ._primal_dual import primal_dual
from ._prox_newton import NewtonModel, ProxNewton
from ._quadratic_program import Bounds, QuadraticProgram

_MAX_ROUNDS = 300
_ALL_AT_ONCE = 10  # rounds in which all that is held wrongly is changed; then one at a time
_EXACT = 1e-13  # error of a slope, as a fraction of the largest
_EQUAL = 1e-13  # fraction of the objective within which it is the same


class LocalPath:
    """`PathFollower` of a penalty with local weights, by that of one with a weight per coordinate."""

    def __init__(self, path: LeastSquares | ProxNewton, weights: LocalWeights):
        self.path, self.local = path, weights
        self.can_halve_steps, self.starts_anywhere = True, False  # where it starts is where it ends

    @property
    def weights(self) -> LocalWeights:
        return self.local

    @property
    def columns(self) -> Any:
        return self.path.columns

    def start(
        self, features: np.ndarray, values: np.ndarray, neg_gradient: np.ndarray
    ) -> PathPoint:
        return self.path.start(features, values, neg_gradient)

    def restricted_solver(self, working: np.ndarray, at: PathPoint, lam: float) -> LocalSolver:
        weights = self.local.restrict(working)
        if isinstance(self.path, LeastSquares):
            model = _LeastSquaresModel(self.path, working, at, weights, lam)
        else:
            model = _SmoothModel(self.path, working, at, weights, lam)
        return LocalSolver(working, weights, model)

    def neg_gradients(self, points: list[PathPoint], out: np.ndarray) -> None:
        self.path.neg_gradients(points, out)


class _Model(abc.ABC):
    """The loss on a working set, and the point x (w,) that is reached."""

    x: np.ndarray
    held: np.ndarray  # (w,): the value of a coefficient that is held, NaN of the others
    intercept: float | np.ndarray
    slope: np.ndarray | None = None  # ∂L/∂η (n,), if the loss is not quadratic

    def __init__(self, weights: LocalWeights):
        self.is_free = weights.unpenalised

    @abc.abstractmethod
    def loss(self) -> float: ...

    @abc.abstractmethod
    def neg_gradient(self) -> np.ndarray: ...

    @abc.abstractmethod
    def diagonal(self) -> np.ndarray: ...

    @abc.abstractmethod
    def is_convex(self, form: CoordinateForm) -> bool:
        """Whether the model with these weights is, on the active set."""

    @abc.abstractmethod
    def move_to(self, form: CoordinateForm, held: np.ndarray) -> int:
        """Solves with these weights, some coefficients held; returns the steps. Raises NumericalBreakdown."""

    @abc.abstractmethod
    def _start(self, active: ActiveSet) -> None:
        """Goes to a point, given by its active set."""

    def go_to(self, x: np.ndarray) -> None:
        """Goes to a point x (w,), whose active set is its support."""
        active, signs = self._support(x)
        self.held = np.full(len(x), np.nan)
        self._start(ActiveSet(len(x), active, signs, x[active]))

    def go_to_point(self, at: PathPoint, working: np.ndarray) -> None:
        x = np.zeros(len(working))
        x[np.searchsorted(working, at.features)] = at.values
        self.go_to(x)

    def point(self, working: np.ndarray, num_steps: int) -> PathPoint:
        features, signs = self._support(self.x)
        return PathPoint(
            features=working[features],
            signs=signs,
            values=self.x[features],
            intercept=self.intercept,
            neg_gradient=self.neg_gradient(),
            slope=self.slope,
            num_steps=num_steps,
        )

    def _support(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The places of what is active at x, and its signs: 0 where it is unpenalised."""
        active = np.flatnonzero((x != 0) | self.is_free)
        return active, np.where(self.is_free[active], 0, np.sign(x[active]))


class LocalSolver:
    """`RestrictedSolver` of a penalty with local weights."""

    def __init__(self, working: np.ndarray, weights: LocalWeights, model: _Model):
        self.working, self.weights, self.model = working, weights, model

    def to(self, lam: float) -> PathPoint:
        model, weights = self.model, self.weights
        held, num_steps = weights.held(lam, model.x, model.neg_gradient()), 0
        tolerance = _EXACT * _largest(weights.at(lam).up)
        for count in range(_MAX_ROUNDS):
            steps, form = self._move(lam, held)
            num_steps += steps
            wanted = weights.held(lam, model.x, model.neg_gradient())
            wrong = np.flatnonzero(~_same(wanted, held))
            if not len(wrong) and weights.error(lam, model.x, form) <= tolerance:
                return model.point(self.working, num_steps)
            # Changes of all can cycle; of the last one alone they end (Murty, 1974).
            some = wrong if count < _ALL_AT_ONCE else wrong[-1:]
            held = held.copy()
            held[some] = wanted[some]
        raise NumericalBreakdown

    def _move(self, lam: float, held: np.ndarray) -> tuple[int, CoordinateForm]:
        """Moves x to the solution with the weights near it; returns the steps, and these weights."""
        model, weights, before = self.model, self.weights, self.model.x
        if not weights.is_concave:
            form = weights.at(lam)
            return model.move_to(form, held), form
        # What is held jumps to its limit: only else is there an objective to compare with.
        is_still = _same(held, np.where(_same(held, before), before, np.nan)).all()
        objective = model.loss() + weights.value(lam, before) if is_still else np.inf
        form, num_steps = weights.near(lam, before, model.diagonal()), 0
        if model.is_convex(form):
            with suppress(NumericalBreakdown):
                num_steps = model.move_to(form, held)
                now = model.loss() + weights.value(lam, model.x)
                if now <= objective + _EQUAL * abs(objective):
                    return num_steps, form
            model.go_to(before)
        form = weights.above(lam, before)
        return num_steps + model.move_to(form, held), form

    def gap(self, lam: float, beta: np.ndarray, intercept: Any, neg_gradient: np.ndarray) -> float:
        raise NotImplementedError  # nothing is interpolated

    def known_inverse(self) -> None:
        return None


class _LeastSquaresModel(_Model):
    """The quadratic program of squared error."""

    def __init__(
        self,
        path: LeastSquares,
        working: np.ndarray,
        at: PathPoint,
        weights: LocalWeights,
        lam: float,
    ):
        super().__init__(weights)
        places = path.columns.require(working)
        self.hessian, self.linear = path.columns.gram_of(places), path.columns.linear[places]
        self.intercept, self.form = path.columns.centre, weights.at(lam)
        self.go_to_point(at, working)

    def _start(self, active: ActiveSet) -> None:
        zeros = np.zeros(len(self.held))
        self.program = QuadraticProgram(
            self.hessian, zeros, self.form[:2], active, None, zeros.copy(), self.linear
        )
        self.program.differentiate()
        self._locate()

    def _locate(self) -> None:
        self.x = np.where(np.isnan(self.held), self.program.x, self.held)

    def neg_gradient(self) -> np.ndarray:
        return self.program.neg_gradient + self.program.factor.ridge * self.program.x

    def diagonal(self) -> np.ndarray:
        return self.program.factor.diagonal

    def is_convex(self, form: CoordinateForm) -> bool:
        return _is_convex(self.program, form.quad)

    def loss(self) -> float:
        """½ xᵀQx − cᵀx."""
        return float(-0.5 * (self.linear + self.neg_gradient()) @ self.x)

    def move_to(self, form: CoordinateForm, held: np.ndarray) -> int:
        program = self.program
        is_held = ~np.isnan(held)
        if not _same(held, self.held).all():
            self.held = held
            at = np.flatnonzero(is_held)
            program.linear = self.linear - held[at] @ np.asarray(self.hessian[at])
            leaving = np.flatnonzero(is_held[program.active.indices])
            program.exchange(leaving, np.zeros(0, int))
        ridge = form.quad - program.factor.ridge
        if ridge.any():
            program.add_ridge(ridge)
        program.differentiate()
        # A held coordinate is no variable.
        up, down = np.where(is_held, np.inf, form.up), np.where(is_held, np.inf, form.down)
        outcome = primal_dual(program, np.zeros(len(held)), (up, down))
        steps = outcome.num_changes
        if not outcome.converged:
            steps = self._follow(up, down)
        program.refine()
        self.form = form
        self._locate()
        return steps + 1

    def _follow(self, up: np.ndarray, down: np.ndarray) -> int:
        """Solves by homotopy, from the gradient nearest to this one for which x is optimal."""
        program = self.program
        bounds = Bounds.of(up, down)
        g = program.neg_gradient
        nearest = np.clip(g, -bounds.down, bounds.up)
        nearest[program.active.indices] = program.stationary(bounds)
        program.neg_gradient, program.bounds = nearest.copy(), bounds
        return homotopy(program, g - nearest, (up, down))


class _SmoothModel(_Model):
    """The proximal Newton model of any smooth loss."""

    def __init__(
        self,
        path: ProxNewton,
        working: np.ndarray,
        at: PathPoint,
        weights: LocalWeights,
        lam: float,
    ):
        super().__init__(weights)
        part = path.columns.matrix.part(path.columns.require(working))
        form = weights.at(lam)._replace(quad=np.zeros(len(working)))
        self.model, self.size = NewtonModel(path, part, form), len(working)
        self.intercept = float(at.intercept)
        self.go_to_point(at, working)

    def _start(self, active: ActiveSet) -> None:
        self.model.release()
        self.model.start(active.indices, active.signs, active.values, float(self.intercept))
        self._locate()

    def _locate(self) -> None:
        model = self.model
        self.x, self.intercept, self.slope = model.beta, model.intercept, model.slope

    def neg_gradient(self) -> np.ndarray:
        model = self.model
        return (model.neg_gradient + model.form.quad * model.x)[: self.size]

    def diagonal(self) -> np.ndarray:
        return self.model.program.factor.diagonal[: self.size]

    def is_convex(self, form: CoordinateForm) -> bool:
        of_intercept = np.zeros(len(self.model.form.quad) - self.size)
        return _is_convex(self.model.program, np.append(form.quad, of_intercept))

    def loss(self) -> float:
        return float(self.model.value)

    def move_to(self, form: CoordinateForm, held: np.ndarray) -> int:
        if not _same(held, self.held).all():
            self.model.hold(held)
            self.held = held
        is_held = ~np.isnan(held)
        up, down = np.where(is_held, np.inf, form.up), np.where(is_held, np.inf, form.down)
        steps = self.model.move_to(CoordinateForm(up, down, np.where(is_held, 0, form.quad)))
        self._locate()
        return steps


def _is_convex(program: QuadraticProgram, quad: np.ndarray) -> bool:
    """Whether the Hessian with this in place of its ridge is positive definite on the active set."""
    at = program.active.indices
    if not quad[at].any():
        return True
    square = program.factor.rows[:, at]
    square.flat[:: len(at) + 1] += quad[at]
    return not scipy.linalg.lapack.dpotrf(square.T, lower=1, overwrite_a=1)[1]


def _same(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Which entries are equal, or both NaN."""
    return (a == b) | (np.isnan(a) & np.isnan(b))


def _largest(weights: np.ndarray) -> float:
    return float(weights[np.isfinite(weights)].max(initial=0))
