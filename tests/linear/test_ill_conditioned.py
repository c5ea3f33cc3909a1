"""Columns that are nearly dependent: fits converge to the optimum that cvxpy finds."""

import cvxpy as cp
import numpy as np
import pytest

import l1jax
from l1jax import Status
from tests.random_problems import Kind, draw, strengths

CASES = {
    # Columns far from zero without an intercept: their level is one direction for all.
    "squared, groups": (Kind((12, 30), "squared", "group", "float64", "path", False, True), 2658),
    "logistic, groups": (Kind((30, 30), "logistic", "group", "float64", "path", False, True), 2884),
    "multinomial, groups": (
        Kind((12, 30), "multinomial", "group", "float64", "fit", False, False),
        3655,
    ),
    # Columns of scales over eight decades, within groups.
    "responses, sparse groups": (
        Kind((12, 30), "several", "sparse group", "float64", "fit", True, False),
        3947,
    ),
}


def optimum(case, lam):
    """The least objective, by an interior point method."""
    kind, (n, p) = case.kind, case.kind.shape
    s = np.ones(n) if case.weights is None else case.weights
    s = s / s.sum()
    x = case.x / (np.sqrt(s @ (case.x - s @ case.x) ** 2) if kind.standardize else 1)
    if kind.fit_intercept:
        x = x - s @ x
    # In units in which no column is large; the weights of the groups are in those of the data.
    unit = np.sqrt((x**2).mean(axis=0))
    k = {"several": case.y.shape[-1], "multinomial": 3}.get(kind.loss, 1)
    z, intercept = cp.Variable((p, k)), cp.Variable((1, k))
    beta = cp.diag(1 / unit) @ z
    eta = (x / unit) @ z + np.ones((n, 1)) @ (intercept if kind.fit_intercept else np.zeros((1, k)))
    eta = eta + (np.zeros((n, 1)) if case.offset is None else case.offset[:, None])
    if kind.loss == "logistic":
        rows = cp.logistic(cp.multiply(1 - 2 * case.y[:, None], eta))
    elif kind.loss == "multinomial":
        rows = cp.log_sum_exp(eta, axis=1, keepdims=True)
        rows = rows - cp.sum(cp.multiply(np.eye(3)[case.y.astype(int)], eta), axis=1, keepdims=True)
    else:
        rows = 0.5 * cp.square(case.y.reshape(n, -1) - eta)
    share = 0.5 if kind.penalty == "sparse group" else 1.0
    groups = [beta[g : g + 3] for g in range(0, p, 3)]
    penalty = sum(share * np.sqrt(3) * cp.norm(group, "fro") for group in groups)
    penalty = penalty + (1 - share) * cp.sum(cp.abs(beta))
    problem = cp.Problem(cp.Minimize(cp.sum(s @ rows) + lam * penalty))
    return problem.solve(solver="CLARABEL", tol_gap_abs=1e-11, tol_gap_rel=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_nearly_dependent_columns_are_no_reason_to_end_short(name):
    kind, seed = CASES[name]
    case = draw(kind, seed)
    ids = tuple((np.arange(kind.shape[1]) // 3).tolist())
    penalty = (l1jax.SparseGroupL1 if kind.penalty == "sparse group" else l1jax.GroupL1)(groups=ids)
    loss = {"logistic": l1jax.Logistic(), "multinomial": l1jax.Multinomial(3)}.get(
        kind.loss, l1jax.SquaredError()
    )
    lam = strengths(case).min()
    fit = l1jax.fit(
        case.x,
        case.y,
        penalty.with_strength(lam),
        loss=loss,
        fit_intercept=kind.fit_intercept,
        standardize=kind.standardize,
        sample_weight=case.weights,
        offset=case.offset,
    )
    assert fit.status == Status.CONVERGED
    least, unit = optimum(case, lam), float(fit.gap / fit.relative_gap)
    # Both are found to 1e-6 of the null deviance.
    assert abs(fit.objective - least) <= 2e-6 * unit
