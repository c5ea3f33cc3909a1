"""What is said of a solution: its coefficients on the user's scale, and the certificate of exactly those."""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..._status import Status
from ...penalties import Penalty
from ..data._matrix import SparseMatrix
from ..host._columns import Columns, HostSparse
from ..host._path_solution import PathSolution
from ..host._zero_copy import aligned, share
from ..model._certificate import certify
from ..model._newton import polish_intercept
from ..model._problem import Outcome, Point, Problem
from ._fit import Fit

_LANES = 5  # of a sparse problem at once in XLA: a product takes memory for every entry and lane
_FEW_LANES = 25  # at once where all products are known: what they need in between is small
_TURN = 25  # lanes whose gradients are taken at once on the host


class Products(NamedTuple):
    """The two products with X that a certificate takes; None where it has to take them itself."""

    fitted: Any = None  # Xβ
    descent: Any = None  # −∇L = −Xᵀ of the slope there, the intercept polished


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
    """Coefficients on the user's scale, the certificate of exactly those, and what it says."""
    coef, intercept = problem.to_user(outcome.point)
    returned = problem.from_user(coef, intercept)
    fitted = known.fitted
    if fitted is None:
        fitted = problem.x.dot(returned.beta)
    # The intercept is rounded where means are large. The dual point needs the exact one; what that
    # gains is added to the gap, so that the bound is of what is returned.
    balanced = polish_intercept(problem, returned, fitted)
    found = certify(problem, pen, balanced, fitted, known.descent, absorb)
    seen = fitted
    if problem.basis is not None:
        seen = problem.basis.fitted(problem.x, returned.beta, coef)
    more = problem.smooth(returned, seen) - problem.smooth(balanced, fitted)
    lost = jnp.maximum(more, 0)
    if problem.basis is not None:
        slope = problem.loss.gradient(problem.y, problem.eta(returned, seen), problem.s)
        lost += jnp.sum(jnp.abs(slope) * problem.basis.rounding(coef))
    found = eqx.tree_at(
        lambda c: (c.objective, c.gap, c.deviance),
        found,
        (found.objective + more, found.gap + lost, found.deviance + more),
    )
    relative = found.relative_gap + jnp.where(
        problem.null.is_trivial, 0, lost / problem.null.deviance
    )
    found = eqx.tree_at(lambda c: c.relative_gap, found, relative)
    short = (outcome.status == Status.CONVERGED) & ~(found.measure <= tol)
    status = jnp.where(short, Status.PRECISION_LIMIT, outcome.status).astype(jnp.int32)
    null = jnp.where(problem.null.is_trivial, 1, problem.null.deviance)
    explained = jnp.where(problem.null.is_trivial, 0, 1 - found.deviance / null)
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


def strength_or_nan(pen: Penalty, dtype: Any) -> Array:
    """The strength of a penalty; NaN where it has none."""
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
    """The fits of the solutions that a walk found; all is concrete."""
    dtype = problem.y.dtype
    betas, intercepts = (np.asarray(part, dtype) for part in (solution.betas, solution.intercepts))
    # In another basis, what comes back from the user's scale is known to no engine.
    is_plain = problem.basis is None
    known = _host_products(problem, solution, betas, intercepts) if is_plain else _NONE
    steps = np.asarray(solution.num_steps, np.int32)
    inputs = jax.tree.map(share, (lams, betas, intercepts, steps, known))
    arguments = (problem, pen, inputs, tol, names)
    if (
        not solution.has_free
    ):  # a program that absorbs nothing takes half of the time, and mostly does
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
        return report(problem, pen.with_strength(lam), outcome, tol, names, known, absorb)

    count, known = len(inputs[0]), inputs[-1]
    if known.fitted is not None and not absorb:
        batch = _share_of(count)
    else:
        batch = _LANES if isinstance(problem.x, SparseMatrix) else count
    return jax.lax.map(lane, inputs, batch_size=batch)


def _share_of(count: int) -> int:
    """How many lanes at once: if there is one, a number that leaves no rest to compile for."""
    shares = [size for size in range(_LANES, _FEW_LANES + 1) if count % size == 0]
    return max(shares, default=_FEW_LANES)


def _host_products(
    problem: Problem, solution: PathSolution, betas: np.ndarray, intercepts: np.ndarray
) -> Products:
    """What the host knows of the products with X, or finds faster than XLA: all with a sparse X."""
    descent = solution.gradients
    if descent is not None:
        descent = descent.astype(betas.dtype, copy=False)
    by_host = isinstance(problem.x, SparseMatrix) and jax.default_backend() == "cpu"
    if problem.responses or not (by_host or descent is not None):
        return Products(descent=descent)
    columns = solution.columns or Columns(problem)
    at = np.flatnonzero(betas.any(axis=0))
    fitted = aligned((len(betas), len(columns.s)), betas.dtype)
    fitted[:] = columns.matrix.part_of(at).dot(columns.returned(at, betas[:, at].T)).T
    if descent is None:
        x = columns.matrix
        assert isinstance(x, HostSparse)
        descent = aligned(betas.shape, betas.dtype)
        for begin in range(0, len(betas), _TURN):
            some = slice(begin, begin + _TURN)
            slopes = np.asarray(_slopes(problem, intercepts[some], fitted[some]), np.float64)
            x.rdot(np.ascontiguousarray(-slopes.T), descent[some])
    return Products(fitted, descent)


@eqx.filter_jit
def _slopes(problem: Problem, intercepts: Any, fitted: Any) -> Array:
    """The slope ∂L/∂η at points with these Xβ, the intercepts polished."""

    def lane(intercept: Array, fitted: Array) -> Array:
        balanced = polish_intercept(problem, Point(problem.null.point.beta, intercept), fitted)
        return problem.loss.gradient(problem.y, problem.eta(balanced, fitted), problem.s)

    return jax.vmap(lane)(intercepts, fitted)
