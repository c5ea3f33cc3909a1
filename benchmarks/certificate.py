"""The certificate that every solver is held to: a relative duality gap, in float64 NumPy.

Nothing here comes from a solver. With s = 1/n, θ = −∂loss(y, η) per row, v = Xᵀθ/n and any scale
c in [0, 1] for which c v is feasible,

    gap = mean[loss(η) + loss*(−cθ) + cθη]  +  [R(β) + R*(c v) − ⟨β, c v⟩]  ≥  P(β) − min P,

both brackets ≥ 0. It is divided by the null deviance: the objective at β = 0 above the best loss.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from problems import Problem


def relative_gaps(problem: Problem, coefs: np.ndarray) -> np.ndarray:
    """The relative gap at each strength, (L,), of coefficients (p, L): two products for the grid."""
    coefs = np.asarray(coefs, np.float64)
    eta = problem.X @ coefs
    v = problem.X.T @ dual_residual(problem, eta) / len(problem.y)
    gaps = [
        _gap(problem, lam, coefs[:, i], eta[:, i], v[:, i]) for i, lam in enumerate(problem.lams)
    ]
    return np.array(gaps) / null_deviance(problem)


def worst_gap(problem: Problem, coefs: np.ndarray) -> float:
    """The largest relative gap over the grid: what a solver is judged by. NaN counts as infinite."""
    gaps = relative_gaps(problem, coefs)
    return float(np.max(np.where(np.isnan(gaps), np.inf, gaps)))


def objective(problem: Problem, lam: float, beta: np.ndarray) -> float:
    """mean loss(y, Xβ) + λ R(β)."""
    eta = problem.X @ beta
    if problem.loss == "squared":
        value = 0.5 * np.mean((problem.y - eta) ** 2)
    else:
        value = np.mean(np.logaddexp(0, eta) - problem.y * eta)
    return float(value) + _penalty(problem, lam, beta)


def dual_residual(problem: Problem, eta: np.ndarray) -> np.ndarray:
    """θ = −∂loss(y, η), (n, L)."""
    y = problem.y[:, None]
    if problem.loss == "squared":
        return y - eta
    # For y = 1 the difference 1 − σ(η) is σ(−η), which keeps its digits.
    return np.where(y == 1, _sigmoid(-eta), -_sigmoid(eta))


def null_deviance(problem: Problem) -> float:
    return 0.5 * float(np.mean(problem.y**2)) if problem.loss == "squared" else float(np.log(2))


def lambda_max(problem: Problem) -> float:
    """λmax: the least strength at which all coefficients are zero."""
    theta = dual_residual(problem, np.zeros((len(problem.y), 1)))
    v = (problem.X.T @ theta)[:, 0] / len(problem.y)
    if problem.penalty == "nonnegative":
        v = np.maximum(v, 0)
    size, weights = _per_price(problem, v)
    return float(np.max(size / weights)) / problem.l1_ratio


# --- One strength ----------------------------------------------------------------------------


def _gap(problem: Problem, lam: float, beta, eta, v) -> float:
    """The least over the dual points c θ."""
    return min(_gap_at(problem, lam, beta, eta, v, c) for c in _scales(problem, lam, beta, v))


def _gap_at(problem: Problem, lam: float, beta, eta, v, c: float) -> float:
    """Every feature that is out, and every one at its bound, adds nothing but rounding."""
    dual = _penalty(problem, lam, beta) + _conjugate(problem, lam, c * v) - c * float(beta @ v)
    return _loss_gap(problem, eta, c) + max(dual, 0.0)


def _loss_gap(problem: Problem, eta: np.ndarray, c: float) -> float:
    """mean[loss(η) + loss*(−cθ) + cθη]."""
    y = problem.y
    if problem.loss == "squared":
        return 0.5 * (1 - c) ** 2 * float(np.mean((y - eta) ** 2))
    if c in (0.0, 1.0):
        return 0.0 if c else float(np.mean(np.logaddexp(0, eta) - y * eta))
    # The Kullback–Leibler divergence between labels that are wrong with chance cw and w.
    towards = np.where(y == 1, eta, -eta)
    wrong = _sigmoid(-towards)
    own = (1 - c * wrong) * (np.log1p(-c * wrong) + np.logaddexp(0, -towards))
    return float(np.mean(np.maximum(c * wrong * np.log(c) + own, 0)))


def _penalty(problem: Problem, lam: float, beta: np.ndarray) -> float:
    """λ R(β), infinite where a coefficient that must not be negative is."""
    if problem.penalty == "nonnegative" and (beta < 0).any():
        return np.inf
    size, weights = _per_price(problem, beta)
    rho = problem.l1_ratio
    return lam * float(np.sum(weights * (rho * size + 0.5 * (1 - rho) * size**2)))


def _conjugate(problem: Problem, lam: float, v: np.ndarray) -> float:
    """R*(v): an indicator, which `_scales` ensures, but for the elastic net's curvature."""
    if problem.l1_ratio == 1:
        return 0.0
    size, weights = _per_price(problem, v)
    beyond = np.maximum(size - lam * problem.l1_ratio * weights, 0)
    return float(np.sum(beyond**2 / (2 * lam * (1 - problem.l1_ratio) * weights)))


def _scales(problem: Problem, lam: float, beta: np.ndarray, v: np.ndarray) -> list[float]:
    """Dual points to try: scaled into the ball; for the elastic net also unscaled, and augmented."""
    if problem.penalty == "nonnegative":
        v = np.maximum(v, 0)
    size, weights = _per_price(problem, v)
    bound = lam * problem.l1_ratio * weights
    inside = _into(size, bound)
    if problem.l1_ratio == 1:
        return [inside]
    quadratic = lam * (1 - problem.l1_ratio) * weights
    return [1.0, inside, _into(np.abs(v - quadratic * beta), bound)]


def _into(size: np.ndarray, bound: np.ndarray) -> float:
    """The largest c in [0, 1] with c·size ≤ bound."""
    outside = size > bound
    return float(np.min(bound[outside] / size[outside])) if outside.any() else 1.0


def _per_price(problem: Problem, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """|x| and the weights, per feature or per group."""
    if problem.penalty == "group":
        return np.sqrt(np.bincount(problem.groups, x**2)), problem.weights
    weights = np.ones(len(x)) if problem.weights is None else problem.weights
    return np.abs(x), weights


def _sigmoid(eta: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -eta))
