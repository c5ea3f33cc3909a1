"""Smooth losses over rows that are read in blocks: Newton steps at all strengths at once, a pass for each.

A pass gives the loss and its gradient over all rows, at the points of all strengths. The Hessian comes from a
sample of the rows that memory has room for (Byrd, Chin, Neveitt and Nocedal 2011), on a working set for each
strength, and learns from the change of the gradient on each step (BFGS): what is left of an error after the
first step is about √(working set / sample) of it, and less after those that follow. The first points are the
path of the sample itself, which is solved in memory. Strengths that are solved are read for no more.

The gradient is that of all columns: so every pass checks the optimality conditions of all of them, and a
column that violates them joins the working set of the next step.
"""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np

from ...._threads import gram, num_cores
from ....losses import Loss
from ....penalties import Penalty
from ...data._matrix import DenseMatrix
from ...data._row_blocks import RowBlocks, blocks_of, densely
from ...host._sparse_rows import dense
from ...model._null_model import known_lambda_max, with_null
from ...model._on_host import host_errors
from ...model._problem import Problem, ScaledData
from ._active_set import ActiveSet
from ._path_point import NumericalBreakdown
from ._penalty_weights import CoordinateForm, CoordinateWeights
from ._primal_dual import solve_moved
from ._quadratic_program import QuadraticProgram
from ._working_set import follow_path, supports

_MAX_ROWS = 40_000  # of the sample
_FRACTION_OF_TOL = 0.1  # to which the gap is bounded, by less than what it is
_NEAR = 0.8  # of its weight: a column with such a gradient is in the working set
_LARGE = 1e150  # stands for an infinite weight
_RIDGES = (0.0, 1e-8, 1e-4, 1e-1)  # added to the Hessian, as fractions of its diagonal
_PART = 2**16  # linear predictors at a time, of all strengths: they stay in the cache
_MAX_HALVINGS = 12  # of a step that raises the objective, each with a pass


class Evaluation(NamedTuple):
    """The smooth loss at some points, a row for each: from one pass over all rows."""

    value: np.ndarray  # (K,)
    neg_gradient: np.ndarray  # −∇L by β (K, p)
    slope: np.ndarray  # Σ ∂L/∂η (K,)


class Visited(NamedTuple):
    """A point, and ∇L there."""

    beta: np.ndarray
    intercept: float
    neg_gradient: np.ndarray
    slope: float


class RowSample:
    """Rows in memory, at equal distances, which stand for all: the loss over them, and its Hessian."""

    def __init__(self, problem: Problem, x: RowBlocks):
        n, p = x.shape
        room = int(x.max_memory / 4) // (8 * p)
        self.at = np.unique(np.linspace(0, n - 1, min(n, _MAX_ROWS, max(room, 1))).astype(int))
        mask = np.zeros(n, bool)
        mask[self.at] = True
        scaled = np.empty((len(self.at), p))
        for rows, block in x.read():
            begin, end = np.searchsorted(self.at, [rows.start, rows.stop])
            if begin < end:
                scaled[begin:end] = densely(block[self.at[begin:end] - rows.start])
        scaled -= problem.mean
        scaled *= problem.inverse_scale
        self.x, self.y, self.offset = scaled, problem.y[self.at], problem.offset[self.at]
        self.s = problem.s[self.at] / problem.s[self.at].sum()
        self.loss = problem.loss.take_rows(mask)

    def problem(self, problem: Problem, pen: Penalty) -> Problem:
        """Returns the problem of these rows alone, on the scale of the problem of all."""
        parts = {
            field.name: getattr(problem, field.name) for field in dataclasses.fields(ScaledData)
        }
        norms = np.where(problem.norms > 0, np.sqrt(self.s @ self.x**2), 0)
        parts |= {"x": DenseMatrix(self.x), "y": self.y, "s": self.s, "offset": self.offset}
        return with_null(ScaledData(**parts | {"loss": self.loss, "norms": norms}), pen)

    def hessian(self, working: np.ndarray, beta: np.ndarray, intercept: float) -> np.ndarray:
        """Returns the Hessian of the loss by the working set and the intercept (w + 1, w + 1)."""
        x = self.x[:, working]
        eta = x @ beta + intercept + self.offset
        with host_errors():
            weights = np.maximum(self.loss.curvature(self.y, eta, self.s), 0)
        out, w = np.empty((len(working) + 1, len(working) + 1)), len(working)
        out[:w, :w] = gram(np.sqrt(weights)[:, None] * x)
        out[w, :w] = out[:w, w] = weights @ x
        out[w, w] = weights.sum()
        return out


class Lane:
    """The point of one strength, and the Newton step from it."""

    def __init__(self, lam: float, form: CoordinateForm, beta: np.ndarray, intercept: float):
        self.lam, self.form = lam, form
        self.beta, self.intercept = beta, intercept
        self.before: Visited | None = None  # the best point so far
        self.objective = np.inf
        self.working, self.hessian = np.zeros(0, int), np.zeros((0, 0))
        self.neg_gradient, self.slope = np.zeros(0), 0.0
        self.is_solved, self.num_steps, self.num_halvings = False, 0, 0

    def move_to(self, value: float, neg_gradient: np.ndarray, slope: float) -> bool:
        """Takes what a pass says of this point; returns False where it goes back, half of the way."""
        up, down, quad = self.form
        beta = self.beta
        weights = np.where(beta > 0, up, down)
        inside = beta != 0
        objective = value + abs(beta[inside]) @ weights[inside] + 0.5 * (quad * beta) @ beta
        rise = objective - self.objective
        if rise > 1e-12 * abs(self.objective) and self.num_halvings < _MAX_HALVINGS:
            assert self.before is not None  # the objective was finite
            self.num_halvings += 1
            self.beta = self.before.beta + 0.5 * (beta - self.before.beta)
            self.intercept = 0.5 * (self.intercept + self.before.intercept)
            return False
        here = Visited(beta, self.intercept, neg_gradient, slope)
        if self.before is not None:
            self._learn(self.before, here)
        self.before, self.objective, self.num_halvings = here, objective, 0
        self.neg_gradient, self.slope = neg_gradient - quad * beta, slope
        return True

    def _learn(self, a: Visited, b: Visited) -> None:
        """Updates the Hessian by what the gradient has changed by on the last step (BFGS)."""
        at, size = self.working, len(self.hessian)
        step = np.append(b.beta[at] - a.beta[at], b.intercept - a.intercept)[:size]
        change = np.append(a.neg_gradient[at] - b.neg_gradient[at], b.slope - a.slope)[:size]
        image = self.hessian @ step
        true, model = change @ step, step @ image
        if true > 1e-10 * model > 0:
            self.hessian = self.hessian - np.outer(image, image / model)
            self.hessian += np.outer(change, change / true)

    def gap(self, unit: float) -> float:
        """Bounds the gap by what the gradient exceeds its weights by; `unit` is the null deviance."""
        up, down, _ = self.form
        g, beta = self.neg_gradient, self.beta
        weights = np.where(g > 0, up, down)
        is_bounded = np.isfinite(weights) & (weights > 0)
        over = (abs(g[is_bounded]) / weights[is_bounded]).max(initial=0)
        inside = beta != 0
        signed = np.where(beta > 0, up, down)[inside]
        complementary = abs(abs(beta[inside]) * signed - beta[inside] * g[inside]).sum()
        return complementary + max(over - 1, 0) * (unit + abs(beta @ g)) + abs(self.slope)

    def step(self, sample: RowSample, fit_intercept: bool) -> None:
        """Moves to the solution of the quadratic model at this point, on the working set."""
        up, down, quad = self.form
        near = abs(self.neg_gradient) >= _NEAR * np.where(self.neg_gradient > 0, up, down)
        working = np.flatnonzero((self.beta != 0) | near)
        if not np.isin(working, self.working).all():
            self._extend(np.union1d(self.working, working), sample)
        w = len(self.working)
        size = w + fit_intercept
        tables = (np.append(part[self.working], 0.0)[:size] for part in self.form)
        up, down, quad = (np.minimum(part, _LARGE) for part in tables)
        x = np.append(self.beta[self.working], self.intercept)[:size]
        gradient = np.append(self.neg_gradient[self.working], -self.slope)[:size]
        hessian = self.hessian[:size, :size] + np.diag(quad)
        x = _solved(hessian, gradient, x, (up, down), np.arange(size) == w)
        self.beta = np.zeros(len(self.beta))
        self.beta[self.working] = x[:w]
        self.intercept = float(x[w]) if fit_intercept else 0.0
        self.num_steps += 1

    def _extend(self, working: np.ndarray, sample: RowSample) -> None:
        """Computes the Hessian on a larger working set, and keeps what was learnt of it."""
        known = np.append(np.searchsorted(working, self.working), len(working))
        before, self.working = self.hessian, working
        self.hessian = sample.hessian(working, self.beta[working], self.intercept)
        if len(before):
            self.hessian = _with_block(self.hessian, known, before)


def _with_block(hessian: np.ndarray, at: np.ndarray, block: np.ndarray) -> np.ndarray:
    """Returns the matrix with another block at these places, positive semidefinite as both were.

    Its other coordinates keep their regression on those of the block, and what that leaves.
    """
    others = np.setdiff1d(np.arange(len(hessian)), at)
    old, cross = hessian[np.ix_(at, at)], hessian[np.ix_(at, others)]
    slopes = np.linalg.lstsq(old, cross, rcond=1e-12)[0]
    out = np.empty_like(hessian)
    out[np.ix_(at, at)] = block
    out[np.ix_(at, others)] = block @ slopes
    out[np.ix_(others, at)] = out[np.ix_(at, others)].T
    left = hessian[np.ix_(others, others)] - slopes.T @ old @ slopes
    out[np.ix_(others, others)] = left + slopes.T @ block @ slopes
    return out


def _solved(
    hessian: np.ndarray,
    neg_gradient: np.ndarray,
    x: np.ndarray,
    weights: tuple[np.ndarray, np.ndarray],
    is_free: np.ndarray,
) -> np.ndarray:
    """Returns the solution of the model whose −∇ at x is known; `is_free` coordinates have no weight."""
    up, down = weights
    indices = np.flatnonzero((x != 0) | is_free)
    signs = np.where(is_free, 0, np.sign(x))[indices]
    at_start = np.clip(neg_gradient, -down, up)
    at_start[indices] = np.where(signs > 0, up[indices], np.where(signs < 0, -down[indices], 0))
    diagonal = np.diag(np.maximum(hessian.diagonal(), hessian.diagonal().max() * 1e-12))
    for ridge in _RIDGES:
        active = ActiveSet(len(x), indices, signs, x[indices])
        program = QuadraticProgram(hessian + ridge * diagonal, at_start, weights, active)
        try:
            program.factor.factorise()
            solve_moved(program, neg_gradient - at_start, weights)
        except NumericalBreakdown:
            continue
        return program.x
    raise NumericalBreakdown


class RowBlockNewton:
    """The solutions at all strengths, by passes over the rows."""

    def __init__(self, problem: Problem, pen: Penalty, lams: np.ndarray, tol: float):
        x = blocks_of(problem.x)
        assert x is not None  # by `supports`
        self.problem, self.x, self.pen, self.lams = problem, x, pen, lams
        self.weights = CoordinateWeights(pen, x.shape[1])
        self.is_candidate = (problem.norms > 0) & ~self.weights.excluded
        self.unit = float(problem.null.unit)
        self.enough = _FRACTION_OF_TOL * tol * self.unit
        self.has_rows = any(
            np.shape(leaf)[:1] == x.shape[:1] for leaf in jax.tree.leaves(problem.loss)
        )
        self.lanes: list[Lane] = []

    def start(self) -> None:
        """Solves the path of the sample, from which all strengths start."""
        self.sample = RowSample(self.problem, self.x)
        part = self.sample.problem(self.problem, self.pen)
        betas = np.zeros((len(self.lams), self.x.shape[1]))
        intercepts = np.full(len(self.lams), float(part.null.point.intercept))
        if supports(part, self.pen):
            lambda_max = float(known_lambda_max(part, self.pen))
            found = follow_path(part, self.pen, self.lams, lambda_max)
            betas, intercepts = np.asarray(dense(found.betas)), found.intercepts
        for lam, beta, intercept in zip(self.lams.tolist(), betas, intercepts, strict=True):
            form = self.weights.at(lam)
            beta = np.where(self.is_candidate, beta, 0)
            self.lanes.append(Lane(lam, form, beta, float(intercept)))

    def run(self) -> int:
        """Takes a step at all strengths that are not solved, with one pass; returns how many now are."""
        left = [lane for lane in self.lanes if not lane.is_solved]
        found, count = self.evaluate(left), 0
        for lane, value, neg_gradient, slope in zip(left, *found, strict=True):
            if not lane.move_to(float(value), neg_gradient, float(slope)):
                continue
            if lane.gap(self.unit) <= self.enough:
                lane.is_solved, count = True, count + 1
            else:
                lane.step(self.sample, self.problem.fit_intercept)
        return count

    def evaluate(self, lanes: list[Lane]) -> Evaluation:
        """Returns the loss and its gradient over all rows, at the points of some strengths: one pass."""
        problem, count = self.problem, len(lanes)
        betas = np.stack([lane.beta for lane in lanes]) * problem.inverse_scale
        shifts = np.array([lane.intercept for lane in lanes]) - betas @ problem.mean
        used = np.flatnonzero(betas.any(axis=0))
        few = 4 * len(used) < betas.shape[1]
        coefs = np.ascontiguousarray((betas[:, used] if few else betas).T)

        def of_part(x: Any, begin: int) -> Evaluation:
            rows = slice(begin, begin + x.shape[0])
            eta = densely((x[:, used] if few else x) @ coefs).T + shifts[:, None]
            eta += problem.offset[rows]
            loss, y, s = self._loss_of(rows), problem.y[rows], problem.s[rows]
            with host_errors():
                value, slope = loss.value(y, eta, s), np.asarray(loss.gradient(y, eta, s))
            return Evaluation(value, densely(slope @ x), slope.sum(axis=1))

        value, slopes = np.zeros(count), np.zeros(count)
        gradient = np.zeros((count, betas.shape[1]))
        with ThreadPoolExecutor(num_cores()) as pool:
            for rows, x in self.x.read():
                begins = range(0, x.shape[0], max(_PART // count, 1))
                parts = [x[begin : begin + begins.step] for begin in begins]
                for found in pool.map(of_part, parts, [rows.start + begin for begin in begins]):
                    value += found.value
                    gradient += found.neg_gradient
                    slopes += found.slope
        gradient -= np.outer(slopes, problem.mean)
        gradient *= problem.inverse_scale * self.is_candidate
        return Evaluation(value, -gradient, slopes * problem.fit_intercept)

    def _loss_of(self, rows: slice) -> Loss:
        if not self.has_rows:
            return self.problem.loss
        mask = np.zeros(self.x.shape[0], bool)
        mask[rows] = True
        return self.problem.loss.take_rows(mask)

    @property
    def is_solved(self) -> bool:
        return bool(self.lanes) and all(lane.is_solved for lane in self.lanes)


def reason_not_supported(problem: Problem, lams: Any) -> str | None:
    """Returns why a problem is not for `RowBlockNewton`; None if it is."""
    loss = problem.loss
    is_smooth = (
        loss.convex and loss.is_separable and not loss.rows_interact and not loss.is_smoothed
    )
    if blocks_of(problem.x) is None:
        return "needs X in blocks of rows, as of l1jax.blocks"
    if not is_smooth or problem.responses or problem.basis is not None:
        return f"needs a smooth loss of one response that is a sum over the rows, got {loss}"
    if problem.null.unpenalised.any() or not (np.asarray(lams) > 0).all():
        return "needs every feature to be penalised, at strengths above 0"
    return None
