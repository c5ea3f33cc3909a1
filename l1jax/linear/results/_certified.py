"""Fits of solutions: coefficients on the user's scale, and the certificate of exactly those."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..._status import Status
from ...penalties import Penalty
from ..host._columns import Columns
from ..host._path_solution import PathSolution
from ..host._zero_copy import aligned, zero_copy
from ..model._certificate import Certificate, certify, relative_gap
from ..model._problem import Outcome, Point, Problem
from ..model._unpenalised_newton import polish_intercept
from ._fit import Fit

_LANES = 5  # of a sparse problem at once in XLA: a product takes memory for every entry and lane
_MANY_LANES = 25  # at once where all products are known: what they need in between is small
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
    names: Any,
    known: Products = _NONE,
    absorb: bool = True,
) -> Fit:
    """Returns the fit of what a solve found, certified; its status says whether it meets `tol`."""
    coef, intercept = problem.to_user(outcome.point)
    found = _certificate_of(problem, pen, coef, intercept, known, absorb)
    is_short = (outcome.status == Status.CONVERGED) & ~(found.measure <= tol)
    status = jnp.where(is_short, Status.PRECISION_LIMIT, outcome.status).astype(jnp.int32)
    explained = problem.null.explained(found.deviance)
    coef, intercept, found, explained = jax.tree.map(
        lambda leaf: jnp.where(problem.is_valid, leaf, jnp.nan), (coef, intercept, found, explained)
    )
    return Fit(
        coef=coef,
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
    )


def _certificate_of(
    problem: Problem, pen: Penalty, coef: Array, intercept: Array, known: Products, absorb: bool
) -> Certificate:
    """Certifies coefficients on the user's scale, with what rounding has made of them.

    The intercept is rounded where means are large, but the dual point needs the best one. The point that
    is certified has that; what it gains in objective is added to the gap of what is returned.
    """
    returned = problem.from_user(coef, intercept)
    fitted = problem.x.dot(returned.beta) if known.fitted is None else known.fitted
    best = polish_intercept(problem, returned, fitted)
    found = certify(problem, pen, best, fitted, known.neg_gradient, absorb)
    in_given = fitted
    if problem.basis is not None:
        in_given = problem.basis.fitted(problem.x, returned.beta, coef)
    rise = problem.smooth(returned, in_given) - problem.smooth(best, fitted)
    rounding = jnp.maximum(rise, 0)
    if problem.basis is not None:
        slope = problem.loss.gradient(problem.y, problem.eta(returned, in_given), problem.s)
        rounding += jnp.sum(jnp.abs(slope) * problem.basis.rounding(coef))
    gap = found.gap + rounding
    return dataclasses.replace(
        found,
        objective=found.objective + rise,
        gap=gap,
        relative_gap=relative_gap(problem, pen, gap),
        deviance=found.deviance + rise,
    )


def strength_or_nan(pen: Penalty, dtype: Any) -> Array:
    """The strength λ of a penalty; NaN where it has none."""
    return jnp.asarray(jnp.nan if pen.strength_value is None else pen.strength_value, dtype)


report_one = eqx.filter_jit(report)


def report_path(
    problem: Problem,
    pen: Penalty,
    lams: Float[Array, " L"],
    solution: PathSolution,
    tol: Any,
    names: Any,
) -> Fit:
    """Returns the fits of solutions along a grid, certified; all is concrete."""
    dtype = problem.y.dtype
    betas, intercepts = (np.asarray(part, dtype) for part in (solution.betas, solution.intercepts))
    # In another basis, no engine knows the products of what comes back from the user's scale.
    is_plain = problem.basis is None
    known = _host_products(problem, solution, betas, intercepts) if is_plain else _NONE
    steps = np.asarray(solution.num_steps, np.int32)
    inputs = jax.tree.map(zero_copy, (lams, betas, intercepts, steps, known))
    arguments = (problem, pen, inputs, tol, names)
    # A program that absorbs nothing takes half of the time, and mostly is enough.
    if not solution.has_unpenalised:
        fits = _lanes(*arguments, absorb=False)
        if np.isfinite(fits.gap).all():
            return fits
    return _lanes(*arguments, absorb=True)


@eqx.filter_jit
def _lanes(problem: Problem, pen: Penalty, inputs: Any, tol: Any, names: Any, absorb: bool) -> Fit:
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


def _host_products(
    problem: Problem, solution: PathSolution, betas: np.ndarray, intercepts: np.ndarray
) -> Products:
    """The products that the engine knows, or that the host computes faster than XLA (of a sparse X)."""
    neg_gradient = solution.neg_gradients
    if neg_gradient is not None:
        neg_gradient = neg_gradient.astype(betas.dtype, copy=False)
    by_host = not problem.x.batches_products and jax.default_backend() == "cpu"
    if problem.responses or not (by_host or neg_gradient is not None):
        return Products(neg_gradient=neg_gradient)
    columns = solution.columns or Columns(problem)
    at = np.flatnonzero(betas.any(axis=0))
    fitted = aligned((len(betas), len(columns.s)), betas.dtype)
    fitted[:] = columns.matrix.part_of(at).dot(columns.returned(at, betas[:, at].T)).T
    if neg_gradient is None:
        neg_gradient = aligned(betas.shape, betas.dtype)
        for begin in range(0, len(betas), _BATCH):
            some = slice(begin, begin + _BATCH)
            slopes = np.asarray(_slopes(problem, intercepts[some], fitted[some]), np.float64)
            columns.matrix.rdot(np.ascontiguousarray(-slopes.T), neg_gradient[some])
    return Products(fitted, neg_gradient)


@eqx.filter_jit
def _slopes(problem: Problem, intercepts: Any, fitted: Any) -> Array:
    """The slope ∂L/∂η at points with these Xβ, the intercepts polished."""

    def lane(intercept: Array, fitted: Array) -> Array:
        balanced = polish_intercept(problem, Point(problem.null.point.beta, intercept), fitted)
        return problem.loss.gradient(problem.y, problem.eta(balanced, fitted), problem.s)

    return jax.vmap(lane)(intercepts, fitted)
