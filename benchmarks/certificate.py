"""The certificate that every solver is held to: a relative duality gap, in float64 NumPy.

Nothing here comes from a solver. With s = 1/n, θ = −∂loss(y, η) per row, v = Xᵀθ/n and any scale
c in [0, 1] for which c v is feasible,

    gap = mean[loss(η) + loss*(−cθ) + cθη]  +  [R(β) + R*(c v) − ⟨β, c v⟩]  ≥  P(β) − min P,

both brackets ≥ 0. It is divided by the null deviance: the objective at β = 0 above the best loss.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import logsumexp, softmax

if TYPE_CHECKING:
    from problems import Problem


def relative_gaps(problem: Problem, coefs: np.ndarray) -> np.ndarray:
    """The relative gaps (L,) of coefficients (p, L) or (p, K, L): two products for the grid."""
    coefs = np.asarray(coefs, np.float64)
    eta = _product(problem.X, coefs)
    v = _product(problem.X.T, dual_residual(problem, eta)) / len(problem.y)
    gaps = [
        _gap(problem, lam, coefs[..., i], eta[..., i], v[..., i])
        for i, lam in enumerate(problem.lams)
    ]
    return np.array(gaps) / null_deviance(problem)


def worst_gap(problem: Problem, coefs: np.ndarray) -> float:
    """The largest relative gap over the grid: what a solver is judged by. NaN counts as infinite."""
    gaps = relative_gaps(problem, coefs)
    return float(np.max(np.where(np.isnan(gaps), np.inf, gaps)))


def objective(problem: Problem, lam: float, beta: np.ndarray) -> float:
    """mean loss(y, Xβ) + λ R(β)."""
    beta = np.asarray(beta, np.float64)
    eta = problem.X @ beta
    if problem.loss == "squared":
        value = 0.5 * np.mean((problem.y - eta) ** 2)
    else:
        value = -np.mean(_own_chance(problem, eta)[0])
    return float(value) + _penalty(problem, lam, beta)


def dual_residual(problem: Problem, eta: np.ndarray) -> np.ndarray:
    """θ = −∂loss(y, η), (n, L) or (n, K, L)."""
    if problem.loss == "multinomial":
        theta = -softmax(eta, axis=1)
        rows = np.arange(len(theta))
        theta[rows, problem.y] = 0  # then minus the sum of the others, which keeps its digits
        theta[rows, problem.y] = -theta.sum(axis=1)
        return theta
    y = problem.y[:, None]
    if problem.loss == "squared":
        return y - eta
    # For y = 1 the difference 1 − σ(η) is σ(−η), which keeps its digits.
    return np.where(y == 1, _sigmoid(-eta), -_sigmoid(eta))


def null_deviance(problem: Problem) -> float:
    if problem.loss == "squared":
        return 0.5 * float(np.mean(problem.y**2))
    return float(np.log((*problem.coef_shape, 2)[1]))  # of K classes


def lambda_max(problem: Problem) -> float:
    """λmax: the least strength at which all coefficients are zero."""
    theta = dual_residual(problem, np.zeros((len(problem.y), *problem.coef_shape[1:], 1)))
    v = _product(problem.X.T, theta)[..., 0] / len(problem.y)
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
    dual = (
        _penalty(problem, lam, beta) + _conjugate(problem, lam, c * v) - c * float(np.vdot(beta, v))
    )
    return _loss_gap(problem, eta, c) + max(dual, 0.0)


def _loss_gap(problem: Problem, eta: np.ndarray, c: float) -> float:
    """mean[loss(η) + loss*(−cθ) + cθη]."""
    if problem.loss == "squared":
        return 0.5 * (1 - c) ** 2 * float(np.mean((problem.y - eta) ** 2))
    log_right, wrong = _own_chance(problem, eta)
    if c in (0.0, 1.0):
        return 0.0 if c else -float(np.mean(log_right))
    # The Kullback–Leibler divergence between labels that are wrong with chance cw and w.
    own = (1 - c * wrong) * (np.log1p(-c * wrong) - log_right)
    return float(np.mean(np.maximum(c * wrong * np.log(c) + own, 0)))


def _own_chance(problem: Problem, eta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The logarithm of the chance of each row's own label, and the chance of another, (n,)."""
    if problem.loss == "multinomial":
        own = problem.y[:, None]
        others = eta - np.take_along_axis(eta, own, axis=1)
        np.put_along_axis(others, own, -np.inf, axis=1)
        away = logsumexp(others, axis=1)
    else:
        away = np.where(problem.y == 1, -eta, eta)
    return -np.logaddexp(0, away), _sigmoid(away)


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
    weights = np.ones(x.shape) if problem.weights is None else problem.weights
    return np.abs(x), weights


def _product(x: Any, columns: np.ndarray) -> np.ndarray:
    """X times each column of (p, ..., L)."""
    return (x @ columns.reshape(len(columns), -1)).reshape(x.shape[0], *columns.shape[1:])


def _sigmoid(eta: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -eta))
