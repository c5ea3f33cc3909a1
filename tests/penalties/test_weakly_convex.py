"""A penalty that is not convex, whose prox takes no steps beyond the inverse of its weak convexity."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import l1jax
from l1jax import Penalty, Status

SEEDS = range(20)
LAM, H = 0.1, 1e-6


class Mcp(Penalty):
    """The minimax concave penalty, whose prox is NaN where a step does not allow one."""

    convex, metric = False, "diagonal"
    lam: Any = None
    max_step: float = 3.0  # the concavity γ

    def value(self, x):
        size = jnp.minimum(jnp.abs(x), self.max_step * self.lam)
        return jnp.sum(self.lam * size - size**2 / (2 * self.max_step))

    def prox(self, z, step=1.0):
        soft = jnp.sign(z) * jnp.maximum(jnp.abs(z) - step * self.lam, 0)
        near = soft / jnp.where(step < self.max_step, 1 - step / self.max_step, jnp.nan)
        return jnp.where(jnp.abs(z) <= self.max_step * self.lam, near, z + 0 * near)


class ScalarMcp(Mcp):
    """The same with one step for all."""

    metric = "scalar"


def problem(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((40, 6)) * scale
    return X, X[:, :2] @ [1.0, -1.0] / scale + 0.3 * rng.standard_normal(40)


def objective(X, y, gamma, coef, intercept):
    size = np.minimum(np.abs(coef), gamma * LAM)
    rest = y - X @ coef - intercept
    return 0.5 * np.mean(rest**2) + np.sum(LAM * size - size**2 / (2 * gamma))


def steepest_descent(X, y, gamma, coef, intercept):
    """The largest slope along which the objective falls when one coordinate moves to either side."""
    here = objective(X, y, gamma, coef, intercept)
    moves = [sign * H * unit for unit in np.eye(len(coef)) for sign in (1, -1)]
    return max(here - objective(X, y, gamma, coef + move, intercept) for move in moves) / H


# At scale 0.3 every step that suits the columns is longer than each of the limits.
@pytest.mark.parametrize("scale", [1.0, 0.3])
@pytest.mark.parametrize("gamma", [3.0, 0.7])
@pytest.mark.parametrize("kind", [Mcp, ScalarMcp])
@pytest.mark.slow
def test_a_fit_takes_no_step_that_its_prox_does_not_allow(kind, gamma, scale):
    for seed in SEEDS:
        X, y = problem(seed, scale)
        fit = l1jax.fit(X, y, kind(LAM, gamma))
        assert fit.status == Status.CONVERGED and fit.gap == np.inf
        # Two units of rounding of the objective over H; the curvature, at most 1/γ + 3, times H.
        coef, intercept = np.asarray(fit.coef), float(fit.intercept)
        assert steepest_descent(X, y, gamma, coef, intercept) <= 1e-5
        assert coef.any()


@pytest.mark.parametrize("solver", [l1jax.FISTA(), l1jax.ISTA(step=100.0)])
def test_minimize_takes_no_step_that_the_prox_does_not_allow(solver):
    def smooth(beta, X, y):
        return 0.5 * jnp.mean((y - X @ beta) ** 2)

    for seed in SEEDS:
        X, y = problem(seed, 0.3)
        found = l1jax.minimize(smooth, jnp.zeros(6), Mcp(LAM, 0.7), args=(X, y), solver=solver)
        assert found.status == Status.CONVERGED and found.step < 0.7
        assert steepest_descent(X, y, 0.7, np.asarray(found.params), 0.0) <= 1e-5


def test_a_step_that_may_not_be_shortened_is_refused_beyond_the_limit():
    solver = l1jax.ISTA(step=1.0, backtracking=False)

    def solve(gamma):
        return l1jax.minimize(
            lambda x: 0.2 * jnp.sum((x - 2) ** 2), jnp.zeros(2), Mcp(LAM, gamma), solver=solver
        )

    with pytest.raises(ValueError, match=r"step must be at most 0.63 for Mcp.*below 0.7, got 1"):
        solve(0.7)
    assert solve(3.0).status == Status.CONVERGED
    status = jax.jit(lambda gamma: solve(gamma).status)
    assert status(0.7) == Status.INVALID_INPUT and status(3.0) == Status.CONVERGED


@pytest.mark.slow
def test_the_derivative_is_the_finite_difference():
    X, y = problem(0, 0.3)

    def coefs(lam):
        return l1jax.fit(X, y, Mcp(lam, 0.7), tol=1e-12).coef

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        moved = (coefs(LAM + H) - coefs(LAM - H)) / (2 * H)
        np.testing.assert_allclose(jax.jacobian(coefs)(LAM), moved, atol=1e-5)


@pytest.mark.fast
def test_lambda_max_is_that_of_the_lasso():
    gradient = jnp.array([0.3, -0.8, 0.1])
    assert float(Mcp(None, 0.7).lambda_max(gradient)) == pytest.approx(0.8, rel=1e-12)


def test_training_refuses_a_step_beyond_the_limit_in_eager_code():
    w = jnp.ones(3)
    for pen in (Mcp(LAM, 0.7), l1jax.on("*", Mcp(LAM, 0.7))):
        tx = l1jax.prox_sgd(1.0, pen)
        params = {"w": w} if isinstance(pen, type(l1jax.on("*", None))) else w
        with pytest.raises(ValueError, match=r"takes steps below 0.7, got .* = 1: lower"):
            tx.update(optax.tree.zeros_like(params), tx.init(params), params)
    tx = l1jax.prox_sgd(0.5, Mcp(LAM, 0.7))
    # From w − ½w the prox of step ½ at ½: ½ − ½·LAM over 1 − ½/0.7, where LAM is below ½.
    updates, _ = tx.update(w, tx.init(w), w)
    np.testing.assert_allclose(w + updates, Mcp(LAM, 0.7).prox(w / 2, 0.5), atol=1e-15)


def test_a_limit_is_a_number():
    class Method(l1jax.L1):
        convex = False
        max_step = lambda self: 1.0  # noqa: E731

    with pytest.raises(TypeError, match=r"Method.max_step must be a number: write @property"):
        l1jax.fit(*problem(0), Method(LAM))


@pytest.mark.parametrize("limit", [0, -1.0, np.nan])
def test_a_limit_is_above_zero(limit):
    pen, refused = Mcp(LAM, limit), pytest.raises(ValueError, match=r"Mcp.max_step must be above 0")
    with refused:
        l1jax.fit(np.eye(3), np.arange(3.0), pen)
    with refused:
        l1jax.minimize(lambda x: jnp.sum(x**2), jnp.ones(3), pen)
    with refused:
        l1jax.prox_adam(0.1, pen)
