"""Any smooth loss on a working set: a quadratic model is followed, and corrected until it agrees.

The model is the loss to second order at some point. Its solution is found by the same walk as that
of squared error; there the true gradient replaces the model's, whose error is the next distance to
walk. The point where nothing is left to correct is optimal for the loss itself, whatever Hessian
the model has; the Hessian is taken anew where the error falls too slowly.
"""

from __future__ import annotations

import functools
from typing import Any

import equinox as eqx
import jax
import numpy as np

from ...._types import AnyArray
from ....losses import Loss
from ...host._columns import Columns
from ...model._problem import Problem
from ._penalty_weights import Form, PenaltyWeights
from ._quadratic_program import Face
from ._state import NumericalBreakdown, State

_CORRECTIONS = 30
_HALVINGS = 40
_ENOUGH = 1e-13  # error of the gradient, as a share of the null model's: all that float64 gives
_SHARE = 0.01  # of a gap that the gradients may miss their prices by: they add up to about the gap
_FAST = 0.05  # an error that falls by less than this factor asks for a new Hessian
_SLOW = 0.5  # ... and with a new Hessian, for an end
_DAMPINGS = (0.0, 1e-6, 1e-2, 1.0)  # least curvature of a row, as a share of its bound
_LEAST_ROOM = 32  # columns that are bent at once; or twice as many, and so on
_WIDE = 1e150  # stands for the price of nothing
_TINY = 1e-300  # of a price, where its share is asked for
_FLOOR = 1e-7  # an error below this share may be all that rounding lets one see


class ProxNewton:
    """Follows the solutions of a smooth convex loss from one strength to the next."""

    def __init__(self, problem: Problem, gap: float | None = None):
        self.columns = Columns(problem)
        self.loss = problem.loss
        # Python's numbers stay what they are: a loss may ask for them.
        self.parts, self.rest = eqx.partition(self.loss, lambda leaf: hasattr(leaf, "dtype"))
        self.y, self.s = (np.asarray(v, np.float64) for v in (problem.y, problem.s))
        self.offset = np.asarray(problem.offset, np.float64)
        self.fit_intercept = problem.fit_intercept
        self.null_intercept = float(problem.null.point.intercept)
        self.enough = _ENOUGH * float(np.abs(np.asarray(problem.null.gradient)).max(initial=0))
        self.share = 0.0 if gap is None else _SHARE * gap  # of a price, which is enough as well

    def start(self, features: np.ndarray, values: np.ndarray, gradient: np.ndarray) -> State:
        """The null model: the intercept, and the features that are free."""
        return State(features, np.zeros(len(features)), values, self.null_intercept, gradient)

    def mover(self, members: np.ndarray, prices: PenaltyWeights, at: State, lam: float) -> Any:
        """What moves on from the solution at `lam` on the columns `members`."""
        return ProxNewtonSolver(self, members, prices, at, lam)

    def gradients(self, states: list[State], out: np.ndarray) -> None:
        """−∇L of all columns at each of the states, into `out` (B, p)."""
        slopes = np.stack([np.asarray(state.slope) for state in states], axis=1)
        self.columns.matrix.rdot(-slopes, out)

    def gap(
        self, part: Any, prices: PenaltyWeights, lam: float, beta: np.ndarray, intercept: float
    ) -> float:
        """The duality gap of a point on the columns of `part`."""
        eta = part.dot(beta) + intercept + self.offset
        with jax.enable_x64(True):
            eta, slope = _balanced(self.loss, self.y, eta, self.s, self.fit_intercept)
        descent = -part.rdot(np.asarray(slope))
        over = np.max(prices.excess(descent - prices.bend(lam, beta), lam, _TINY), initial=0.0)
        share = np.asarray(1 / (1 + over))
        with jax.enable_x64(True):
            lost = float(_fenchel_gap(self.loss, self.y, eta, share, self.s))
        return lost + prices.slack(lam, beta, share * descent)

    def evaluate(self, eta: np.ndarray) -> tuple[float, np.ndarray]:
        """The loss and its slope ∂L/∂η."""
        with jax.enable_x64(True):
            value, slope = _slope(self.parts, self.rest, self.y, eta, self.s)
        return float(value), np.asarray(slope)

    def curvatures(self, eta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The curvature of the loss in each row, and what bounds it."""
        with jax.enable_x64(True):
            curvature, bound = _curvatures(self.loss, self.y, eta, self.s)
        return np.maximum(curvature, 0), np.asarray(bound)

    def bend(self, eta: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """The Hessian ∂²L/∂η² times each of the columns."""
        count = columns.shape[1]
        room = _LEAST_ROOM * 2 ** max(0, int(np.ceil(np.log2(count / _LEAST_ROOM))))
        padded = np.zeros((len(columns), room))
        padded[:, :count] = columns
        with jax.enable_x64(True):
            return np.asarray(_bend(self.loss, self.y, eta, self.s, padded))[:, :count]


@functools.partial(jax.jit, static_argnums=1)  # half of the price of eqx.filter_jit, at every step
def _slope(parts: Any, rest: Any, y: Any, eta: Any, s: Any) -> tuple[AnyArray, AnyArray]:
    loss = eqx.combine(parts, rest)
    return loss.value(y, eta, s), loss.gradient(y, eta, s)


@eqx.filter_jit
def _curvatures(loss: Loss, y: Any, eta: Any, s: Any) -> tuple[AnyArray, AnyArray]:
    return loss.curvature(y, eta, s), loss.majorant(y, eta, s)


@eqx.filter_jit
def _bend(loss: Loss, y: Any, eta: Any, s: Any, columns: Any) -> AnyArray:
    return jax.vmap(loss.hessian(y, eta, s), in_axes=1, out_axes=1)(columns)


@eqx.filter_jit
def _balanced(loss: Loss, y: Any, eta: Any, s: Any, has_intercept: bool) -> tuple[Any, Any]:
    """The linear predictor with its best intercept, and the slope there."""
    if has_intercept:
        eta = eta + loss.polish_intercept(y, eta, s)
    return eta, loss.gradient(y, eta, s)


@eqx.filter_jit
def _fenchel_gap(loss: Loss, y: Any, eta: Any, share: Any, s: Any) -> AnyArray:
    return loss.fenchel_gap(y, eta, share, s)


class ProxNewtonSolver:
    """Moves the solution on some columns from one strength to another."""

    def __init__(
        self, path: ProxNewton, members: np.ndarray, prices: PenaltyWeights, at: State, lam: float
    ):
        places = path.columns.require(members)
        self.members, self.prices = members, prices.of(members)
        self.model = _Model(path, path.columns.matrix.part(places), self.prices.at(lam))
        self.model.place(np.searchsorted(members, at.features), at.signs, at.values, at.intercept)

    def to(self, lam: float) -> State:
        """The solution at this strength."""
        model = self.model
        steps = model.move_to(self.prices.at(lam))
        features, signs = model.features()
        return State(
            features=self.members[features],
            signs=signs,
            values=model.beta[features],
            intercept=model.intercept,
            gradient=model.gradient,
            slope=model.slope,
            steps=steps,
        )

    def gap(self, lam: float, beta: np.ndarray, intercept: float, descent: np.ndarray) -> float:
        """The duality gap of a point; columns outside of the working set are not looked at."""
        del descent  # paths bend
        return self.model.curved.gap(self.model.part, self.prices, lam, beta, intercept)

    def inverse(self) -> None:
        """Nothing that another would start from."""


class _Model:
    """The point reached, and the quadratic model that leads on from there.

    Its coordinates are the members of the working set and, where there is one, the intercept.
    """

    def __init__(self, curved: ProxNewton, part, form: Form):
        self.curved, self.part = curved, part
        self.size = part.x.shape[1]
        self.form = self._extended(form)

    def _extended(self, form: Form) -> Form:
        """The prices of the coordinates: none for the intercept."""
        if not self.curved.fit_intercept:
            return form
        return Form(*(np.append(price, 0.0) for price in form))

    @property
    def beta(self) -> np.ndarray:
        return self.x[: self.size]

    @property
    def intercept(self) -> float:
        return float(self.x[self.size]) if self.curved.fit_intercept else 0.0

    @property
    def gradient(self) -> np.ndarray:
        return self.truth[: self.size]

    def features(self) -> tuple[np.ndarray, np.ndarray]:
        """The members on the face, and their signs."""
        inside = self.face.face < self.size
        return self.face.face[inside], self.face.signs[inside]

    def place(self, features, signs, values, intercept: float) -> None:
        """Puts the point where the walk stands."""
        self.x = np.zeros(len(self.form.up))
        self.x[features] = values
        if self.curved.fit_intercept:
            features, signs = np.append(features, self.size), np.append(signs, 0.0)
            self.x[self.size] = intercept
        self._look()
        self._rebuild(features, signs)

    def _look(self) -> None:
        """The loss and the true gradient at the point."""
        self.eta = self.part.dot(self.beta) + self.intercept + self.curved.offset
        self.loss, self.slope = self.curved.evaluate(self.eta)
        gradient = -self.part.rdot(self.slope)
        if self.curved.fit_intercept:
            gradient = np.append(gradient, -self.slope.sum())
        self.truth = gradient - self.form.quad * self.x

    def _rebuild(self, members: np.ndarray, signs: np.ndarray, least: Any = 0.0) -> None:
        """A new Hessian, at the point. The model starts from the nearest gradient that makes it optimal."""
        prices = np.where(signs > 0, self.form.up[members], -self.form.down[members])
        gradient = np.clip(self.truth, -self.form.down, self.form.up)
        gradient[members] = np.where(signs == 0, 0, prices)
        curvature, bound = self.curved.curvatures(self.eta)
        least = np.minimum(least, bound)
        for damping in _DAMPINGS:
            hessian = self._hessian(curvature, np.maximum(least, damping * bound))
            try:
                self.face = Face(
                    hessian,
                    gradient,
                    self.form.up,
                    self.form.down,
                    members,
                    signs,
                    self.x[members],
                )
                self.face.hold()
                return
            except NumericalBreakdown:  # rows without curvature left nothing to hold on to
                continue
        raise NumericalBreakdown

    def _hessian(self, curvature: np.ndarray, least: np.ndarray) -> np.ndarray:
        """With the curvature of each row, but at least so much."""
        hessian = np.diag(self.form.quad)
        m = self.size
        if not self.curved.loss.is_separable:
            # Rows bend each other: what is least is added instead. Such a loss has no intercept here.
            hessian += self._gram_across_rows() + self.part.gram(least)
            return hessian
        weights = np.maximum(curvature, least)
        hessian[:m, :m] += self.part.gram(weights)
        if self.curved.fit_intercept:
            hessian[m, :m] = hessian[:m, m] = self.part.rdot(weights)
            hessian[m, m] = weights.sum()
        return hessian

    def _gram_across_rows(self) -> np.ndarray:
        columns = self.part.dense()
        gram = columns.T @ self.curved.bend(self.eta, columns)
        return (gram + gram.T) / 2

    def _error(self) -> float:
        """How far the true gradient is from what makes the point optimal, in units of a gradient."""
        members, signs = self.face.face, self.face.signs
        prices = np.where(signs > 0, self.form.up[members], -self.form.down[members])
        on_face = np.abs(self.truth[members] - np.where(signs == 0, 0, prices))
        over = np.maximum(self.truth - self.form.up, -self.truth - self.form.down)
        over[members] = 0
        return max(on_face.max(initial=0), over.max(initial=0))

    def _objective(self) -> float:
        prices = np.where(self.x > 0, self.form.up, self.form.down)
        inside = self.x != 0
        paid = np.abs(self.x[inside]) @ prices[inside]
        return float(self.loss + paid + 0.5 * self.form.quad @ self.x**2)

    def move_to(self, form: Form) -> int:
        """Walks to the solution at other prices; returns how many corrections that took."""
        form = self._extended(form)
        bend = form.quad - self.form.quad
        if bend.any():
            self.face.bend(bend)
            self.truth = self.truth - bend * self.x
        self.form = form
        cheapest = np.minimum(form.up, form.down)[: self.size].min(initial=_WIDE)
        enough = max(self.curved.enough, self.curved.share * cheapest)
        objective, error, fresh = self._objective(), np.inf, False
        least: Any = 0.0
        for count in range(1, _CORRECTIONS + 1):
            before, face = self.x, (self.face.face.copy(), self.face.signs.copy())
            try:
                self.face.move(self.truth - self.face.gradient, form.up, form.down)
            except NumericalBreakdown:  # the Hessian was too flat to hold on to; its bound is not
                least = self._stiffen(*face, least, np.inf)
                self.face.move(self.truth - self.face.gradient, form.up, form.down)
            self.x = self.face.x
            self._look()
            lower = self._objective()
            new = self._error()
            if new <= enough:
                return count
            rounding = 1e-14 * (abs(objective) + abs(self.loss))
            if not lower <= objective + rounding:
                beyond = self._curvature_beyond(before, objective)
                self.x = before
                self._look()
                least = self._stiffen(*face, least, beyond)
                error, fresh = np.inf, True
                continue
            if fresh and new > _SLOW * error and new <= _FLOOR * self.curved.enough / _ENOUGH:
                return count
            slow = new > _FAST * error
            if slow:
                self._rebuild(self.face.face.copy(), self.face.signs.copy())
            objective, error, fresh, least = lower, new, slow, 0.0
        raise NumericalBreakdown

    def _stiffen(self, members: np.ndarray, signs: np.ndarray, least: Any, more: Any) -> Any:
        """A Hessian of more curvature than the one that led too far; returns what it was raised to."""
        if np.isinf(least).all():
            raise NumericalBreakdown
        least = np.maximum(least, more)
        self._rebuild(members, signs, least)
        return least

    def _curvature_beyond(self, before: np.ndarray, objective: float) -> Any:
        """The curvature nearest to `before` of the points on the way that are no better than it.

        A loss that bends in places only, such as Huber's, may have none where the step began.
        """
        beyond, share = self.x, 1.0
        for _ in range(_HALVINGS):
            curvature, _ = self.curved.curvatures(self.eta)
            share /= 2
            self.x = before + share * (beyond - before)
            self._look()
            if self._objective() < objective:
                return curvature
        return np.inf
