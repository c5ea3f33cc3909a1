"""The same problems through jaxopt and l1jax, and jaxopt's failures as claims about l1jax."""

import warnings
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import l1jax
from l1jax import Status, minimize

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    jaxopt = pytest.importorskip("jaxopt")

# jaxopt is no longer maintained and calls what jax deprecates.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:jaxopt")


def squared(beta, X, y):
    return 0.5 * jnp.mean((y - X @ beta) ** 2)


def logistic(beta, X, y):
    eta = X @ beta
    return jnp.mean(jnp.logaddexp(0, eta) - y * eta)


def data(n=60, p=20, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p))
    y = X[:, :4] @ np.array([3.0, -2.0, 1.5, 1.0]) + 0.5 * rng.standard_normal(n)
    return jnp.asarray(X), jnp.asarray(y)


def theirs(fun, prox, strength, init, *args, **options):
    options = {"maxiter": 20_000, "tol": 1e-12} | options
    return jaxopt.ProximalGradient(fun, prox, **options).run(init, strength, *args)


# The same answers


def group_prox(z, lam, scaling=1.0):
    return jax.vmap(jaxopt.prox.prox_group_lasso, (0, None, None))(
        z.reshape(5, 4), lam, scaling
    ).ravel()


ball = jaxopt.prox.make_prox_from_projection(jaxopt.projection.projection_l1_ball)
blocks = np.repeat(np.arange(5), 4)
# R = λ(‖x‖₁ + ½γ‖x‖²) there is λ' = λ(1 + γ), ρ = 1/(1 + γ) here.
PAIRS = {
    "lasso": (jaxopt.prox.prox_lasso, 0.2, l1jax.L1(0.2)),
    "non-negative lasso": (jaxopt.prox.prox_non_negative_lasso, 0.2, l1jax.NonNegativeL1(0.2)),
    "elastic net": (jaxopt.prox.prox_elastic_net, (0.2, 0.5), l1jax.ElasticNet(0.3, 1 / 1.5)),
    "ridge": (jaxopt.prox.prox_ridge, 0.2, l1jax.Ridge(0.2)),
    "group lasso": (group_prox, 0.4, l1jax.GroupL1(0.4, blocks, weights=np.ones(5))),
    "l1 ball": (ball, 2.5, l1jax.L1Ball(2.5)),
}


@pytest.mark.parametrize(
    ("case", "accelerate"),
    # Steps without momentum know no more of a penalty than those with it.
    [*((case, True) for case in PAIRS), ("lasso", False), ("group lasso", False)],
)
@pytest.mark.slow
def test_least_squares_agrees_with_jaxopt(case, accelerate):
    prox, strength, pen = PAIRS[case]
    X, y = data()
    solver = l1jax.FISTA() if accelerate else l1jax.ISTA()
    ours = minimize(squared, jnp.zeros(20), pen, args=(X, y), solver=solver, tol=1e-11)
    params, _ = theirs(squared, prox, strength, jnp.zeros(20), X, y, acceleration=accelerate)
    np.testing.assert_allclose(ours.params, params, atol=1e-8)


@pytest.mark.parametrize("case", ["lasso", "elastic net", "group lasso"])
def test_logistic_regression_agrees_with_jaxopt(case):
    prox, _, pen = PAIRS[case]
    X, y = data(n=100)
    y = (y > 0).astype(float)
    strength = (0.02, 0.5) if case == "elastic net" else 0.02
    pen = pen.with_strength(0.03 if case == "elastic net" else 0.02)
    ours = minimize(logistic, jnp.zeros(20), pen, args=(X, y), tol=1e-11)
    params, _ = theirs(logistic, prox, strength, jnp.zeros(20), X, y)
    np.testing.assert_allclose(ours.params, params, atol=1e-7)


def test_poisson_regression_on_a_tree_with_an_intercept_agrees_with_jaxopt():
    # What NeMoS fits: weights under a penalty, an intercept free of it.
    X, _ = data(100, 6)
    y = jnp.asarray(np.random.default_rng(1).poisson(np.exp(0.5 * X[:, 0])), float)

    def poisson(params, X, y):
        eta = X @ params["coef"] + params["intercept"]
        return jnp.mean(jnp.exp(eta) - y * eta)

    class CoefOnly(l1jax.Penalty):
        lam: Any

        def value(self, x):
            return self.lam * jnp.sum(jnp.abs(x["coef"]))

        def prox(self, z, step=1.0):
            return z | {"coef": l1jax.prox.prox_l1(z["coef"], self.lam, step)}

    def their_prox(z, lam, scaling=1.0):
        return z | {"coef": jaxopt.prox.prox_lasso(z["coef"], lam, scaling)}

    init = {"coef": jnp.zeros(6), "intercept": jnp.zeros(())}
    ours = minimize(poisson, init, CoefOnly(0.05), args=(X, y), tol=1e-11)
    params, _ = theirs(poisson, their_prox, 0.05, init, X, y)
    chex.assert_trees_all_close(ours.params, params, atol=1e-7)


def test_groups_that_span_the_leaves_of_a_tree():
    # One group per leaf, and a prox for the whole tree: `l1jax.prox` takes trees.
    target = {"a": jnp.array([3.0, 4.0]), "b": jnp.array([[0.3], [0.4]])}

    class LeafGroups(l1jax.Penalty):
        lam: Any

        def value(self, x):
            return self.lam * sum(jnp.linalg.norm(leaf) for leaf in jax.tree.leaves(x))

        def prox(self, z, step=1.0):
            return jax.tree.map(lambda leaf: l1jax.prox.prox_l2(leaf, self.lam, step), z)

    def distance(x, target):
        return 0.5 * sum(jnp.sum((x[k] - target[k]) ** 2) for k in x)

    init = jax.tree.map(jnp.zeros_like, target)
    found = minimize(distance, init, LeafGroups(1.0), args=(target,)).params
    chex.assert_trees_all_close(found, {"a": 0.8 * target["a"], "b": 0 * target["b"]}, atol=1e-6)


# Their failures


@pytest.mark.parametrize("acceleration", [True, False])
@pytest.mark.slow
def test_wild_column_ends_in_nan_or_false_convergence_there_and_honestly_here(acceleration):
    solver = l1jax.FISTA() if acceleration else l1jax.ISTA()
    their_failures = 0
    for seed in range(20):
        X, y = data(50, 30, seed)
        X = X.at[:, 7].multiply(1e4)
        L = np.linalg.norm(X, 2) ** 2 / 50

        def residual(beta, step, X=X, y=y):
            z = np.asarray(beta - step * (X.T @ (X @ beta - y) / 50))
            return np.linalg.norm(beta - z + np.clip(z, -0.1 * step, 0.1 * step)) / step

        params, state = theirs(
            squared,
            jaxopt.prox.prox_lasso,
            0.1,
            jnp.zeros(30),
            X,
            y,
            acceleration=acceleration,
            maxiter=2000,
            tol=1e-3,
        )
        true = residual(params, 1 / L)
        their_failures += bool(np.isnan(true) or (state.error <= 1e-3 and true > 0.1))

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", l1jax.ConvergenceWarning)
            ours = minimize(
                squared,
                jnp.zeros(30),
                l1jax.L1(0.1),
                args=(X, y),
                solver=solver,
                tol=1e-7,
                max_steps=2000,
            )
        true = residual(ours.params, float(ours.step))
        scale = np.linalg.norm(X.T @ y / 50)
        assert np.isfinite(true)
        assert int(ours.status) != Status.CONVERGED or true <= 1.01e-7 * scale
        np.testing.assert_allclose(ours.residual, true, rtol=1e-4)
    assert their_failures == 20


@pytest.mark.fast
def test_zeros_are_positive():
    X, y = data()
    beta = minimize(squared, jnp.zeros(20), l1jax.L1(0.5), args=(X, -y)).params
    zeros = np.asarray(beta)[np.asarray(beta) == 0]
    assert len(zeros) > 5 and not np.signbit(zeros).any()
    assert np.signbit(jaxopt.prox.prox_lasso(jnp.array([-0.1]), 1.0)).any()


@pytest.mark.slow
def test_group_prox_has_a_finite_gradient_at_an_all_zero_block():
    groups, w = np.array([0, 0, 1]), np.ones(2)

    def ours(z):
        return jnp.sum(l1jax.prox.prox_group_l1(z, 0.5, groups, weights=w))

    z = jnp.array([0.0, 0.0, 2.0])
    np.testing.assert_allclose(jax.grad(ours)(z), [0.0, 0.0, 1.0])
    assert np.isnan(jax.grad(lambda z: jnp.sum(jaxopt.prox.prox_group_lasso(z, 0.5)))(z[:2])).all()


def test_data_may_be_closed_over_also_while_traced():  # jaxopt#539
    X, y = data()

    @jax.jit
    @jax.vmap
    def solve(y):
        return minimize(lambda beta: squared(beta, X, y), jnp.zeros(20), l1jax.L1(0.2)).params

    lanes = solve(jnp.stack([y, 2 * y]))
    for lane, factor in zip(lanes, (1.0, 2.0), strict=True):
        expected = minimize(squared, jnp.zeros(20), l1jax.L1(0.2), args=(X, factor * y)).params
        np.testing.assert_allclose(lane, expected, atol=1e-6)


def test_the_history_is_the_objective_after_each_step():  # jaxopt#582
    X, y = data()
    step = 0.05
    solution = minimize(
        squared,
        jnp.zeros(20),
        l1jax.L1(0.2),
        args=(X, y),
        solver=l1jax.ISTA(step, backtracking=False),
        history=10,
    )
    solver = jaxopt.ProximalGradient(
        squared, jaxopt.prox.prox_lasso, stepsize=step, acceleration=False, maxiter=10
    )
    params, state = jnp.zeros(20), solver.init_state(jnp.zeros(20), 0.2, X, y)
    for k in range(10):
        params, state = solver.update(params, state, 0.2, X, y)
        expected = squared(params, X, y) + 0.2 * jnp.abs(params).sum()
        np.testing.assert_allclose(solution.history[k], expected, rtol=1e-12)


def test_tol_is_used():  # the other half of jaxopt#582
    X, y = data(30, 60)
    counts = []
    for tol in (1e-2, 1e-4, 1e-8):
        solution = minimize(squared, jnp.zeros(60), l1jax.L1(0.1), args=(X, y), tol=tol)
        assert float(solution.relative_residual) <= tol
        counts.append(int(solution.num_steps))
    assert counts == sorted(set(counts))


def test_all_zero_parameters_are_explained_by_lambda_max():  # jaxopt#617
    X, y = data(n=100)
    y = (y > 0).astype(float)
    zero = jnp.zeros(20)
    critical = l1jax.L1().lambda_max(jax.grad(logistic)(zero, X, y))
    above, below = (
        minimize(logistic, zero, l1jax.L1(c * critical), args=(X, y)).params for c in (1.001, 0.99)
    )
    assert (above == 0).all() and (below != 0).any()


def test_a_lane_takes_the_steps_it_takes_alone_not_those_of_the_slowest():
    X, y = data()
    lams = jnp.logspace(-3, 0, 20)

    def solve(lam):
        return minimize(squared, jnp.zeros(20), l1jax.L1(lam), args=(X, y), tol=1e-8)

    lanes = jax.vmap(solve)(lams)
    alone = np.array([solve(lam).num_steps for lam in lams])
    assert (lanes.status == Status.CONVERGED).all()
    # One interval between checks, since batched products round differently.
    assert (np.abs(np.asarray(lanes.num_steps) - alone) <= 10).all()
    assert lanes.num_steps.max() <= alone.max() + 10 and alone.min() < alone.max() / 2
