"""An interior point method for rows with shifts and separable weights, on some columns.

    minimise over (β, b, o):   Σᵢ ½ cᵢ(tᵢ − xᵢᵀβ − b − oᵢ)² + upᵢ oᵢ⁺ + downᵢ oᵢ⁻
                                 + Σⱼ upⱼ βⱼ⁺ + downⱼ βⱼ⁻ + ½ quadⱼ βⱼ²

With uᵢ = cᵢ(tᵢ − xᵢᵀβ − b − oᵢ), v = (u, Xᵀu − quad∘β) and d = (o, β), a point is optimal if −down ≤ v ≤ up,
d⁺(up − v) = 0, d⁻(down + v) = 0, and 1ᵀu = 0. These products are driven to zero together, by predictor and
corrector steps (Mehrotra 1992); as applied to quantile regression, Portnoy and Koenker (1997). Some 15 steps
reach what rounding allows, from anywhere, however many rows and columns change their side.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ._interior_equations import StepEquations, factorised
from ._penalty_weights import CoordinateForm

_MAX_STEPS = 60
_GAP = 1e-12  # of the loss at zero, at which the sides are known
_MAX_STALLS = 3  # late steps without a smaller gap, after which rounding is the limit
_LEAST_WEIGHT = 1e-10  # of the largest gradient: with v between 0 and 0 there is no interior
_TO_BOUNDARY = 0.9995  # of the way to where a product would be zero
_REFINEMENTS = 2
_LATE = 1e-4  # gap below which rows at a corner and active columns have equations of their own


class Rows(NamedTuple):
    """The rows (n,): see `Shifts`."""

    curvature: np.ndarray
    target: np.ndarray
    up: np.ndarray
    down: np.ndarray


class InteriorPoint(NamedTuple):
    """A point near the solution: what is not yet zero there says on which side each row and column is."""

    beta: np.ndarray  # (w,)
    intercept: float
    u: np.ndarray  # (n,)
    shifts: np.ndarray  # (n,)
    row_ratios: (
        np.ndarray
    )  # d/(distance of v from its bound), in typical units: above 1 where a row is shifted
    column_ratios: np.ndarray  # ... above 1 where a coefficient is not zero
    gap: float  # relative to the loss at β = 0
    num_steps: int


def interior_point(
    x: np.ndarray, rows: Rows, form: CoordinateForm, has_intercept: bool
) -> InteriorPoint:
    """Returns a point near the solution on the columns x (n, w); needs `up` and `down` > 0 of all rows."""
    state = _State(x, rows, form, has_intercept)
    best, least, stalls = state.point(0), np.inf, 0
    for count in range(1, _MAX_STEPS + 1):
        try:
            with np.errstate(all="ignore"):
                state.step()
                gap = state.relative_gap()
        except (np.linalg.LinAlgError, ValueError):
            break
        if not np.isfinite(gap):
            break
        if gap < least:
            best, least, stalls = state.point(count), gap, 0
        else:
            stalls += gap < _LATE  # far from the solution it may rise
        if gap <= _GAP or stalls == _MAX_STALLS:
            break
    return best._replace(gap=least)


class _Products:
    """v between its bounds, and what is positive or negative where it is at one of them; (n + w,) each."""

    def __init__(self, up: np.ndarray, down: np.ndarray, is_bounded: np.ndarray, size: float):
        self.up, self.down = up, down
        self.v = np.zeros(len(up))
        # Where there is no bound the distance is infinite, and what it is multiplied with is zero; unpenalised
        # coefficients have no products.
        self.has = np.stack([is_bounded & np.isfinite(up), is_bounded & np.isfinite(down)])
        self.count = np.count_nonzero(self.has)
        self.distance = np.where(self.has, np.stack([up, down]), np.inf)
        self.parts = np.where(self.has, size / self.distance, 0.0)  # d⁺, d⁻

    @property
    def d(self) -> np.ndarray:
        return self.parts[0] - self.parts[1]

    def total(self) -> float:
        return float(np.vdot(self.parts[self.has], self.distance[self.has]))

    def rates(self) -> np.ndarray:
        """∂d/∂v along the equations."""
        return (self.parts / self.distance).sum(axis=0)

    def pull(self, wanted: np.ndarray) -> np.ndarray:
        """The change of d at the same v, for products (2, n + w) that are wanted."""
        change = self.changes(wanted, np.zeros(len(self.v)))
        return change[0] - change[1]

    def changes(self, wanted: np.ndarray, dv: np.ndarray) -> np.ndarray:
        """The changes of d⁺ and d⁻ (2, n + w) where v changes by dv."""
        towards = np.stack([dv, -dv])
        return np.where(
            self.has,
            wanted / self.distance - self.parts + self.parts / self.distance * towards,
            0.0,
        )

    def lengths(self, change: np.ndarray, dv: np.ndarray) -> tuple[float, float]:
        """How much of a step keeps d⁺ and d⁻ positive, and how much keeps v between its bounds; at most 1."""
        towards = np.stack([-dv, dv])
        return _length(self.parts[self.has], change[self.has]), _length(
            self.distance[self.has], towards[self.has]
        )

    def after(self, change: np.ndarray, dv: np.ndarray, lengths: tuple[float, float]) -> float:
        """The sum of the products after a step of these lengths."""
        parts = self.parts + lengths[0] * change
        distance = self.distance + lengths[1] * np.stack([-dv, dv])
        return float(np.vdot(parts[self.has], distance[self.has]))


class _State:
    """The point that is reached."""

    def __init__(self, x: np.ndarray, rows: Rows, form: CoordinateForm, has_intercept: bool):
        self.is_free = (form.up == 0) & (form.down == 0)
        least = _LEAST_WEIGHT * (np.minimum(rows.up, rows.down) @ np.abs(x))
        up, down = (np.where(self.is_free, 0, np.maximum(part, least)) for part in form[:2])
        form = form._replace(up=up, down=down)
        self.x, self.rows, self.form, self.has_intercept = x, rows, form, has_intercept
        self.n, self.w = x.shape
        self.beta, self.u = np.zeros(self.w), np.zeros(self.n)
        level = (rows.up / (rows.up + rows.down)).mean()
        self.intercept = float(np.quantile(rows.target, level)) if has_intercept else 0.0
        self.unit = np.abs(rows.target - self.intercept).mean() or 1.0  # of residuals
        up, down = np.append(rows.up, form.up), np.append(rows.down, form.down)
        is_bounded = np.append(np.ones(self.n, bool), ~self.is_free)
        typical = self.unit * np.minimum(rows.up, rows.down).mean()
        self.products = _Products(up, down, is_bounded, typical)
        self.is_quadratic = bool(form.quad.any())
        self.weight = float(
            np.minimum(rows.up, rows.down).mean() / self.unit
        )  # of a row, a curvature
        self.last_gap = np.inf
        self.null = self._loss(rows.target - self.intercept)

    def step(self) -> None:
        """Takes a predictor and a corrector step."""
        products = self.products
        self._factorise()
        # 1. The step towards products of zero says how near they can be brought in one step.
        before, none = products.total(), np.zeros_like(products.parts)
        move = self._direction(none)
        lengths = self._lengths(move)
        ratio = products.after(move.parts, move.dv, lengths) / before
        # 2. The step towards that fraction of them, with what the first one has left of second order.
        wanted = ratio**3 * before / products.count - move.parts * np.stack([-move.dv, move.dv])
        move = self._direction(np.where(products.has, wanted, 0.0))
        of_d, of_v = (_TO_BOUNDARY * length for length in self._lengths(move))
        # 3. Take it.
        products.parts = products.parts + of_d * move.parts
        products.distance = products.distance + of_v * np.stack([-move.dv, move.dv])
        products.v = products.v + of_v * move.dv
        self.u = self.u + of_v * move.dv[: self.n]
        self.beta = np.where(self.is_free, self.beta + of_d * move.beta, products.d[self.n :])
        self.intercept += of_d * move.intercept

    def _lengths(self, move: _Move) -> tuple[float, float]:
        of_d, of_v = self.products.lengths(move.parts, move.dv)
        # u of the rows on a curve, and quad∘β, belong to both.
        if self.is_quadratic:
            of_d = of_v = min(of_d, of_v)
        return of_d, of_v

    def _factorise(self) -> None:
        products, n = self.products, self.n
        rates = products.rates()
        self.stiffness = np.where(self.is_free, 0.0, 1 / rates[n:])
        self.equations = StepEquations(
            self.x,
            self.has_intercept,
            rates[:n] + 1 / self.rows.curvature,
            np.append(self.stiffness + self.form.quad, [0.0] * self.has_intercept),
            self.weight,
        )
        self.solver = factorised(self.equations, self.last_gap < _LATE)

    def _direction(self, wanted: np.ndarray) -> _Move:
        """Solves the linearised equations for products that are wanted."""
        n, w, products, rows = self.n, self.w, self.products, self.rows
        pull = products.pull(wanted)
        fitted = self.x @ self.beta + self.intercept
        residual = rows.target - fitted - products.d[:n] - self.u / rows.curvature - pull[:n]
        rest = np.where(self.is_free, self.u @ self.x - self.form.quad * self.beta, 0.0)
        rest = np.where(self.is_free, rest, self.stiffness * pull[n:])
        rest = np.append(rest, [self.u.sum()] * self.has_intercept)
        equations, du, change = self.equations, np.zeros(n), np.zeros(len(rest))
        # What is left of the equations is solved for again: D has all orders of magnitude.
        for _ in range(1 + _REFINEMENTS):
            of_rows = residual - equations.times(change) - equations.of_rows * du
            of_columns = equations.of_columns * change - equations.sums(du) - rest
            more = self.solver.solve(of_rows, of_columns)
            du, change = du + more[0], change + more[1]
        dv = np.append(du, du @ self.x - self.form.quad * change[:w])
        shift = float(change[w]) if self.has_intercept else 0.0
        return _Move(change[:w], shift, dv, products.changes(wanted, dv))

    def relative_gap(self) -> float:
        """The duality gap of (β, b) and u, as a fraction of the loss at zero."""
        rows, form, u, beta = self.rows, self.form, self.u, self.beta
        loss = self._loss(rows.target - self.x @ beta - self.intercept)
        sides = np.where(beta > 0, form.up, form.down)
        inside = beta != 0
        penalty = sides[inside] @ np.abs(beta[inside]) + 0.5 * form.quad @ beta**2
        primal = float(loss + penalty)
        dual = u @ rows.target - 0.5 * np.sum(u**2 / rows.curvature) - 0.5 * form.quad @ beta**2
        self.last_gap = abs(primal - float(dual)) / max(self.null, np.finfo(float).tiny)
        return self.last_gap

    def _loss(self, residual: np.ndarray) -> float:
        rows = self.rows
        slope = np.clip(rows.curvature * residual, -rows.down, rows.up)
        return float(slope @ residual - 0.5 * np.sum(slope**2 / rows.curvature))

    def point(self, count: int) -> InteriorPoint:
        rates, n = self.products.rates(), self.n
        size = np.abs(self.beta).max(initial=0) or 1.0
        bounds = np.minimum(self.form.up, self.form.down)
        least = np.minimum(self.rows.up, self.rows.down)
        return InteriorPoint(
            self.beta,
            self.intercept,
            self.u,
            self.products.d[:n],
            rates[:n] * least / self.unit,
            np.where(self.is_free, np.inf, rates[n:] * bounds / size),
            np.inf,
            count,
        )


class _Move(NamedTuple):
    """The change of everything in one step."""

    beta: np.ndarray
    intercept: float
    dv: np.ndarray
    parts: np.ndarray


def _length(values: np.ndarray, change: np.ndarray) -> float:
    """How much of a change keeps values positive, at most 1."""
    falls = change < 0
    return float(min(1.0, np.min(-values[falls] / change[falls], initial=np.inf)))
