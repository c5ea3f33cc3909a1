"""The derivative of a fit by its strength alone, on the host: one small system, nothing is compiled.

On the active features A of a penalty with weights per coordinate, at fixed signs,

    X̃_Aᵀ∂L + λ(w∘sign β + q∘β) = 0,  Σ∂L = 0     so     (X̃_Aᵀ∂²L X̃_A + λ diag q) dβ = −(w∘sign β + q∘β) dλ

with the intercept as one more column, of ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy  # which loads `linalg` when it is used

from ..._arrays import is_in_numpy
from ...penalties import Penalty
from ..model._on_host import host_errors, is_on_host
from ..model._problem import Point, Problem
from ..results._fit import Fit

_MAX_UNKNOWNS = 4096
_LEAST_PIVOT = 1e-5  # of a factor whose diagonal was 1: with less, the answer has too few digits
_EXACT = 1e-9  # of its weights, by which the gradient of a solution may miss them


@host_errors()
def derivative_by_strength(found: Fit, problem: Problem, pen: Penalty) -> tuple[Any, ...] | None:
    """Returns the derivatives of the moving parts of a fit by λ; None where this is not the way."""
    if not (is_on_host(problem) and is_in_numpy(pen)) or problem.responses:
        return None
    if not problem.is_valid or problem.null.is_trivial:
        return None
    unit = pen.with_strength(1.0).linear_form(problem.coef_shape)
    if unit is None:
        return None
    x = problem.from_user(np.asarray(found.coef), np.asarray(found.intercept))
    beta, lam = np.asarray(x.beta, np.float64), float(np.asarray(found.lam))
    is_free = (unit.up == 0) & (unit.down == 0) & (unit.quad == 0) & ~unit.is_limited
    at = np.flatnonzero(((beta != 0) & ~unit.at_limit(beta)) | (is_free & (problem.norms > 0)))
    weight, quad = np.where(beta > 0, unit.up, -unit.down)[at], unit.quad[at]
    weight[is_free[at]] = 0
    if len(at) > _MAX_UNKNOWNS or not np.isfinite(weight).all():
        return None
    # 1. The rate of the conditions, and whether they hold.
    eta = problem.eta(Point(x.beta, x.intercept))
    slope = np.asarray(problem.loss.gradient(problem.y, eta, problem.s), np.float64)
    columns = problem.x.to_host().part_of(at)
    rate = weight + quad * beta[at]
    gradient = columns.rdot(slope)
    if (abs(gradient + lam * rate) > _EXACT * abs(problem.null.gradient).max()).any():
        return None
    # 2. The move of the active features and of the intercept.
    hessian = problem.loss.hessian(problem.y, eta, problem.s)  # of rows that may interact
    system = columns.curvature_gram(lambda u: np.asarray(hessian(u.T), np.float64).T)
    system[np.diag_indices_from(system)] += lam * quad
    if problem.fit_intercept:
        of_one = np.asarray(hessian(np.ones((1, len(slope)))), np.float64)[0]
        system = np.pad(system, (0, 1))
        system[-1, :-1] = system[:-1, -1] = columns.rdot(of_one)
        system[-1, -1] = of_one.sum()
        rate = np.append(rate, 0)
    move = _solved(system, -rate)
    if move is None:
        return None
    # 3. The move of what is returned.
    d_beta = np.zeros(len(beta))
    d_beta[at] = move[: len(at)]
    d_coef = np.asarray(problem.inverse_scale) * d_beta
    d_intercept = (move[-1] if problem.fit_intercept else 0.0) - np.asarray(problem.mean) @ d_coef
    d_intercept = problem.loss.identify(d_intercept)
    d_deviance = gradient @ move[: len(at)]  # the slope by the intercept is zero
    d_objective = unit.value(beta).sum()  # at fixed coefficients (envelope theorem)
    return d_coef, d_intercept, 1.0, d_objective, -d_deviance / problem.null.unit


def _solved(system: np.ndarray, rhs: np.ndarray) -> np.ndarray | None:
    """The solution of a positive definite system; None where it is all but singular."""
    if not len(system):
        return rhs
    diagonal = system.diagonal()
    if not (diagonal > 0).all():
        return None
    unit = 1 / np.sqrt(diagonal)
    try:
        factor = scipy.linalg.cho_factor(unit[:, None] * system * unit)
    except (np.linalg.LinAlgError, ValueError):
        return None
    if factor[0].diagonal().min() < _LEAST_PIVOT:
        return None
    return unit * scipy.linalg.cho_solve(factor, unit * rhs)
