"""Fits of solutions: coefficients on the user's scale, and the certificate of exactly those."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..._arrays import namespace
from ..._compile import program
from ..._status import Status
from ..._types import Real
from ...penalties import Penalty
from ..data._zero_copy import aligned, zero_copy
from ..host._columns import Columns
from ..host._path_solution import PathSolution
from ..host._penalty_lanes import penalty_lanes
from ..host._sparse_rows import compact, concatenated, dense, is_large, parts_of
from ..model._certificate import Certificate, certify, relative_gap
from ..model._on_host import host_errors, is_on_host
from ..model._problem import Outcome, Point, Problem
from ..model._unpenalised_newton import polish_intercept
from ._fit import Fit

_LANES = 5  # of a sparse problem at once in XLA: a product takes memory for every entry and lane
_MANY_LANES = 25  # at once where all products are known: what they need in between is small
_CACHED = 2**17  # entries of the arrays of one batch in NumPy
_BATCH = 25  # lanes whose gradients are computed at once on the host


class Products(NamedTuple):
    """The two products with X̃ that a certificate needs; None where it has to compute them itself."""

    fitted: Any = None  # X̃β
    neg_gradient: Any = None  # −∇L = −X̃ᵀ slope, where the intercept is the best one


_NONE = Products()


def report(
    problem: Problem,
    pen: Penalty,
    outcome: Outcome,
    tol: Any,
    names: tuple[str, ...] | None,
    known: Products = _NONE,
    absorb: bool = True,
) -> Fit:
    """Returns the fit of what a solve found, certified; its status says whether it meets `tol`."""
    coef, intercept = problem.to_user(outcome.point)
    found = _certificate_of(problem, pen, coef, intercept, known, absorb)
    returned = Point(coef, intercept)
    thresholds = _thresholds(problem, returned, known.fitted)
    return _fit_of(problem, pen, returned, found, outcome, tol, names, thresholds)


def _fit_of(
    problem: Problem,
    pen: Penalty,
    returned: Point,
    found: Certificate,
    outcome: Outcome,
    tol: Any,
    names: tuple[str, ...] | None,
    thresholds: Any,
) -> Fit:
    """The fit of coefficients on the user's scale, with their certificate."""
    coef, intercept = returned.beta, returned.intercept
    xp = namespace(coef)
    is_short = (outcome.status == Status.CONVERGED) & ~(found.measure <= tol)
    status = xp.where(is_short, Status.PRECISION_LIMIT, outcome.status).astype(np.int32)
    explained = problem.null.explained(found.deviance)
    if xp is jnp or not problem.is_valid:
        coef, intercept, found, explained, thresholds = jax.tree.map(
            lambda leaf: xp.where(problem.is_valid, leaf, np.nan),
            (coef, intercept, found, explained, thresholds),
        )
    return Fit(
        stored_coef=coef,
        intercept=intercept,
        lam=strength_or_nan(pen, problem.y.dtype),
        objective=found.objective,
        gap=found.gap,
        relative_gap=found.relative_gap,
        kkt=found.kkt,
        relative_kkt=found.relative_kkt,
        margin=found.margin,
        deviance_explained=explained,
        num_steps=outcome.num_steps,
        status=status,
        loss=problem.loss,
        feature_names=names,
        several_responses=bool(problem.responses),
        thresholds=thresholds,
    )


def _thresholds(problem: Problem, returned: Point, fitted: Any) -> Any:
    """The thresholds of a loss that has them, at coefficients on the user's scale."""
    if not problem.loss.has_thresholds:
        return None
    point = problem.from_user(returned.beta, returned.intercept)
    return problem.loss.thresholds(problem.y, problem.given_eta(point, fitted), problem.s)


def _certificate_of(
    problem: Problem,
    pen: Penalty,
    coef: Real,
    intercept: Real,
    known: Products,
    absorb: bool,
    lanes: Any = None,
) -> Certificate:
    """Certifies coefficients on the user's scale, with what rounding has made of them.

    In NumPy they may be several, of a penalty at as many λ, which `lanes` holds.

    The intercept is rounded where means are large, but the dual point needs the best one. The point that
    is certified has that; what it gains in objective is added to the gap of what is returned.
    """
    returned = problem.from_user(coef, intercept)
    fitted = problem.x.dot(returned.beta) if known.fitted is None else known.fitted
    best = polish_intercept(problem, returned, fitted)
    at = None
    if lanes is not None:
        at = lanes.at(problem, pen.strength_value, best.beta, known.neg_gradient)
    found = certify(problem, pen, best, fitted, known.neg_gradient, absorb, at)
    in_given = fitted
    if problem.basis is not None:
        in_given = problem.basis.fitted(problem.x, returned.beta, coef)
    rise = problem.smooth(returned, in_given) - found.loss
    xp = namespace(coef)
    rounding = xp.maximum(rise, 0)
    if problem.basis is not None:
        slope = problem.loss.gradient(problem.y, problem.eta(returned, in_given), problem.s)
        rounding += jnp.sum(jnp.abs(slope) * problem.basis.rounding(coef))
    gap = found.gap + rounding
    null_value = pen.value(problem.null.point.beta) if at is None else at.null_value
    return dataclasses.replace(
        found,
        objective=found.objective + rise,
        gap=gap,
        relative_gap=relative_gap(problem, gap, null_value),
        deviance=found.deviance + rise,
    )


def strength_or_nan(pen: Penalty, dtype: Any) -> Real:
    """The strength λ of a penalty; NaN where it has none."""
    lam = np.nan if pen.strength_value is None else pen.strength_value
    return (np if isinstance(lam, np.ndarray) and lam.ndim else jnp).asarray(lam, dtype)


def report_path(
    problem: Problem,
    pen: Penalty,
    lams: Float[Real, " L"],
    solution: PathSolution,
    tol: Any,
    names: tuple[str, ...] | None,
) -> Fit:
    """Returns the fits of solutions along a grid, certified; all is concrete.

    Of many features some are arrays at a time, and the coefficients are kept by what is not zero.
    """
    lams = np.asarray(lams, problem.y.dtype)
    betas, together = solution.betas, problem.x.lanes_together(math.prod(problem.coef_shape))
    parts = parts_of(betas, together)
    if len(parts) == 1 and not is_large(betas.shape):
        return _report_arrays(problem, pen, lams, solution, tol, names)
    columns = solution.columns or (Columns(problem) if is_on_host(problem) else None)
    fits, coefs = [], []
    for some in parts:
        rows = solution.rows(some)._replace(columns=columns)
        part = _report_arrays(problem, pen, lams[some], rows, tol, names)
        coefs.append(compact(np.asarray(part.coef)))
        fits.append(dataclasses.replace(part, stored_coef=None, loss=None))
    joined = jax.tree.map(lambda *leaves: np.concatenate([np.asarray(v) for v in leaves]), *fits)
    return dataclasses.replace(joined, stored_coef=concatenated(coefs), loss=problem.loss)


def _report_arrays(
    problem: Problem,
    pen: Penalty,
    lams: np.ndarray,
    solution: PathSolution,
    tol: Any,
    names: tuple[str, ...] | None,
) -> Fit:
    """As `report_path`, with all coefficients as an array."""
    dtype = problem.y.dtype
    betas = np.asarray(dense(solution.betas), dtype)
    intercepts = np.asarray(solution.intercepts, dtype)
    steps = np.asarray(solution.num_steps, np.int32)
    found = Solutions(lams, betas, intercepts, steps)
    lanes = penalty_lanes(pen, problem.coef_shape, dtype) if is_on_host(problem) else None
    has_unpenalised = solution.has_unpenalised
    if lanes is not None:
        has_unpenalised = problem.null.unpenalised.any() or not (found.lams > 0).all()
    # A program that absorbs nothing takes half of the time, and mostly is enough.
    if not has_unpenalised:
        if lanes is not None:
            fits = _host_lanes(problem, pen, lanes, found, solution, tol, names)
        else:
            fits = _compiled_lanes(problem, pen, found, solution, tol, names)
        if np.isfinite(fits.gap).all() or problem.x.passes is not None:
            return fits
    return _compiled_lanes(problem, pen, found, solution, tol, names, absorb=True)


def report_uncertified(
    problem: Problem,
    pen: Penalty,
    lams: Float[Real, " L"],
    solution: PathSolution,
    tol: Any,
    names: tuple[str, ...] | None,
) -> Fit:
    """Returns the fits of solutions of which nothing else is known: their certificates hold NaN."""
    betas = np.asarray(dense(solution.betas))
    found = Solutions(lams, betas, solution.intercepts, solution.num_steps)
    outcome = found.outcome()
    returned = Point(*problem.to_user(outcome.point))
    nothing = [np.full(len(lams), np.nan) for _ in dataclasses.fields(Certificate)]
    pen = _with_lams(pen, lams)
    certificate, thresholds = Certificate(*nothing), None  # these, too, need the rows
    return _fit_of(problem, pen, returned, certificate, outcome, tol, names, thresholds)


class Solutions(NamedTuple):
    """What is to be certified, a row per λ."""

    lams: Any  # (L,)
    betas: Any  # (L, p, *k)
    intercepts: Any  # (L, *k)
    num_steps: Any  # (L,)

    def rows(self, some: slice) -> Solutions:
        return Solutions(*(part[some] for part in self))

    def outcome(self) -> Outcome:
        status = np.full(np.shape(self.num_steps), Status.CONVERGED, np.int32)
        # ... unless the certificate says otherwise
        return Outcome(Point(self.betas, self.intercepts), self.num_steps, status)


@host_errors()
def _host_lanes(
    problem: Problem,
    pen: Penalty,
    lanes: Any,
    found: Solutions,
    solution: PathSolution,
    tol: Any,
    names: tuple[str, ...] | None,
) -> Fit:
    """Certifies in NumPy, so many rows at a time that what they need stays in the cache."""
    columns = _columns_of(solution) or Columns(problem)
    outcome = found.outcome()
    returned = Point(*problem.to_user(outcome.point))
    parts, thresholds = [], []
    for some, products in _products_in_batches(problem, lanes, columns, found, solution):
        rows = found.rows(some)
        coef, intercept = returned.beta[some], returned.intercept[some]
        at = _with_lams(pen, rows.lams)
        parts.append(_certificate_of(problem, at, coef, intercept, products, False, lanes))
        thresholds.append(_thresholds(problem, Point(coef, intercept), products.fitted))
    certificate, thresholds = (
        jax.tree.map(lambda *leaves: np.concatenate(leaves), *each) for each in (parts, thresholds)
    )
    pen = _with_lams(pen, found.lams)
    return _fit_of(problem, pen, returned, certificate, outcome, tol, names, thresholds)


def _products_in_batches(
    problem: Problem, lanes: Any, columns: Columns, found: Solutions, solution: PathSolution
) -> Iterator[tuple[slice, Products]]:
    """Yields the products of some solutions at a time; of rows in blocks, a pass serves several of these."""
    count, size = len(found.lams), max(_CACHED // lanes.size(problem), 1)
    together = max(problem.x.lanes_together(lanes.size(problem)), size)
    for first in range(0, count, together):
        batch, neg_gradients = slice(first, first + together), solution.neg_gradients
        known = neg_gradients if neg_gradients is None else neg_gradients[batch]
        products = _products_of(problem, columns, found.rows(batch), known)
        for begin in range(first, min(first + together, count), size):
            some = slice(begin - first, begin - first + size)
            parts = (part if part is None else part[some] for part in products)
            yield slice(begin, min(begin + size, first + together)), Products(*parts)


def _with_lams(pen: Penalty, lams: np.ndarray) -> Penalty:
    """The penalty with as many strengths, if it has any."""
    return pen.with_strength(lams) if pen.has_strength else pen


def _compiled_lanes(
    problem: Problem,
    pen: Penalty,
    found: Solutions,
    solution: PathSolution,
    tol: Any,
    names: tuple[str, ...] | None,
    absorb: bool = False,
) -> Fit:
    # In another basis, no engine knows the products of what comes back from the user's scale.
    is_plain = problem.basis is None
    known = _known_products(problem, solution, found) if is_plain else _NONE
    inputs = jax.tree.map(zero_copy, (*found, known))
    return _lanes(problem, pen, inputs, tol, names, absorb=absorb)


@program
def _lanes(
    problem: Problem,
    pen: Penalty,
    inputs: Any,
    tol: Any,
    names: tuple[str, ...] | None,
    absorb: bool,
) -> Fit:
    def lane(inputs: tuple[Array, Array, Array, Array, Products]) -> Fit:
        lam, beta, intercept, steps, known = inputs
        status = jnp.asarray(Status.CONVERGED, jnp.int32)  # unless the certificate says otherwise
        outcome = Outcome(Point(beta, intercept), steps, status)
        pen_at = pen.with_strength(lam) if pen.has_strength else pen
        return report(problem, pen_at, outcome, tol, names, known, absorb)

    count, known = len(inputs[0]), inputs[-1]
    if known.fitted is not None and not absorb:
        batch = _divisor(count)
    else:
        batch = count if problem.x.batches_products else _LANES
    return jax.lax.map(lane, inputs, batch_size=batch)


def _divisor(count: int) -> int:
    """The number of lanes at once; a divisor of `count` if there is one, so that one program serves all."""
    return max((n for n in range(_LANES, _MANY_LANES + 1) if count % n == 0), default=_MANY_LANES)


def _known_products(problem: Problem, solution: PathSolution, found: Solutions) -> Products:
    """The products that the engine knows, or that the host computes faster than XLA (of a sparse X)."""
    betas, neg_gradient = found.betas, solution.neg_gradients
    if neg_gradient is not None:
        neg_gradient = neg_gradient.astype(betas.dtype, copy=False)
    by_host = not problem.x.batches_products and jax.default_backend() == "cpu"
    columns = _columns_of(solution)
    if problem.responses or not (by_host or columns is not None or neg_gradient is not None):
        return Products(neg_gradient=neg_gradient)
    return _products_of(problem, columns or Columns(problem), found, neg_gradient)


def _columns_of(solution: PathSolution) -> Columns | None:
    """The columns of an engine that has their rows."""
    columns = solution.columns
    return None if columns is None or columns.matrix is None else columns


def _products_of(
    problem: Problem, columns: Columns, found: Solutions, neg_gradient: np.ndarray | None
) -> Products:
    """X̃β of all solutions, and −∇L unless it is known, by products of many at once."""
    betas, responses = found.betas, problem.responses
    at = np.flatnonzero(betas.any(axis=(0, *range(2, betas.ndim))))
    some = np.moveaxis(betas[:, at], 1, 0)  # (m, L, *k)
    some = columns.returned(at, some).reshape(len(at), math.prod(some.shape[1:]))
    fitted = aligned((len(betas), len(columns.s), *responses), betas.dtype)
    product = columns.matrix.part_of(at).dot(some).reshape(-1, len(betas), *responses)
    fitted[:] = np.moveaxis(product, 0, 1)
    if neg_gradient is not None:
        return Products(fitted, neg_gradient.astype(betas.dtype, copy=False))
    neg_gradient = aligned(betas.shape, betas.dtype)
    batch = len(betas) if is_on_host(problem) else _BATCH
    for begin in range(0, len(betas), batch):
        part = slice(begin, begin + batch)
        slopes = _slopes(problem, found.intercepts[part], fitted[part])
        rows = np.moveaxis(np.asarray(slopes, np.float64), 1, 0).reshape(len(columns.s), -1)
        if not responses:
            columns.matrix.rdot(np.ascontiguousarray(-rows), neg_gradient[part])
            continue
        out = np.empty((rows.shape[1], betas.shape[1]))
        columns.matrix.rdot(-rows, out)
        shape = (-1, *responses, betas.shape[1])
        neg_gradient[part] = np.moveaxis(out.reshape(shape), -1, 1)
    return Products(fitted, neg_gradient)


def _slopes(problem: Problem, intercepts: np.ndarray, fitted: np.ndarray) -> Real:
    """The slope ∂L/∂η at points with these Xβ, the intercepts polished: (B, n, *k)."""
    if is_on_host(problem):
        return _slope(problem, intercepts, fitted)
    return _compiled_slopes(problem, intercepts, fitted)


def _slope(problem: Problem, intercepts: Real, fitted: Real) -> Real:
    balanced = polish_intercept(problem, Point(problem.null.point.beta, intercepts), fitted)
    return problem.loss.gradient(problem.y, problem.eta(balanced, fitted), problem.s)


@program
def _compiled_slopes(problem: Problem, intercepts: Any, fitted: Any) -> Array:
    return jax.vmap(lambda *lane: _slope(problem, *lane))(intercepts, fitted)
