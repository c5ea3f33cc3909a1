"""Penalties that are not convex: fits, paths and their convex region, against coordinate descent and skglm."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
from skglm.datafits import Quadratic
from skglm.penalties import SCAD, MCPenalty
from skglm.solvers import AndersonCD

import l1jax
from l1jax import Status

N, P = 80, 12
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, P)) + 0.4 * RNG.normal(size=(N, 1))
X = (X - X.mean(axis=0)) / X.std(axis=0)
Y = X @ np.tile([1.5, 0.0, -0.4, 0.1], P // 4) + RNG.normal(size=N)
Y = Y - Y.mean()
LAMS = [0.6, 0.3, 0.1, 0.03]
WIDE = RNG.normal(size=(50, 150))
WIDE_Y = WIDE[:, :6] @ [2.0, -2, 1.5, 1, -1, 0.5] + 0.5 * RNG.normal(size=50)

# r′(t; λ) for t > 0 and the r of one coordinate, written down here.
SLOPES = {
    "MCP": lambda t, lam: max(lam - t / 3, 0),
    "SCAD": lambda t, lam: lam if t <= lam else max(3.7 * lam - t, 0) / 2.7,
    "CappedL1": lambda t, lam: lam if t < 1 else 0.0,
    "LogSum": lambda t, lam: lam / (2 + t),
}
PENALTIES = {
    "MCP": l1jax.MCP(),
    "SCAD": l1jax.SCAD(),
    "CappedL1": l1jax.CappedL1(),
    "LogSum": l1jax.LogSum(eps=2.0),
}


def kkt(name, coef, gradient, lam):
    """The most by which −∇L is no subgradient of the penalty."""
    slopes = np.array([SLOPES[name](abs(b), lam) for b in coef])
    at_zero = SLOPES[name](1e-300, lam)
    off = np.where(
        coef != 0, abs(gradient + np.sign(coef) * slopes), np.maximum(abs(gradient) - at_zero, 0)
    )
    return off.max()


def least(name, pull, lam):
    """argmin ½(t − pull)² + r(t) over t ≥ 0, of MCP and SCAD, for columns of norm 1."""
    if name == "MCP":
        return max(pull - lam, 0) / (1 - 1 / 3) if pull <= 3 * lam else pull
    if pull <= 2 * lam:
        return max(pull - lam, 0)
    return (2.7 * pull - 3.7 * lam) / 1.7 if pull <= 3.7 * lam else pull


def descent(name, lams, lower=-np.inf, upper=np.inf):
    """Coordinate descent along λ, from each solution to the next."""
    gram, linear, beta, found = X.T @ X / N, X.T @ Y / N, np.zeros(P), []
    for lam in lams:
        for _ in range(10_000):
            before = beta.copy()
            for j in range(P):
                pull = linear[j] - gram[j] @ beta + beta[j]
                size = np.sign(pull) * least(name, abs(pull), lam)
                beta[j] = np.clip(size, lower, upper)
            if abs(beta - before).max() <= 1e-15:
                break
        found.append(beta.copy())
    return np.array(found)


@pytest.mark.parametrize("name", ["MCP", "SCAD"])
def test_a_path_is_that_of_coordinate_descent_where_it_is_convex(name):
    path = l1jax.path(X, Y, PENALTIES[name], lams=LAMS, engine="working_set")
    # The least eigenvalue of all of X'X/n is above the concavity: there is one minimum.
    assert np.linalg.eigvalsh(X.T @ X / N)[0] > 1 / 2.7
    np.testing.assert_allclose(path.coefs, descent(name, LAMS), atol=1e-12)
    assert (path.status == Status.CONVERGED).all() and np.isinf(path.fits.gap).all()
    for lam, fit in zip(LAMS, path, strict=True):
        by_steps = l1jax.fit(X, Y, PENALTIES[name].with_strength(lam), engine="fista", tol=1e-12)
        np.testing.assert_allclose(fit.coef, by_steps.coef, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MCP", "SCAD"])
def test_a_path_has_the_objective_and_residual_of_skglm(name):
    penalty = {"MCP": MCPenalty, "SCAD": SCAD}[name]
    gamma = {"MCP": 3.0, "SCAD": 3.7}[name]
    ours = l1jax.path(X, Y, PENALTIES[name], lams=LAMS, fit_intercept=False)
    solver = AndersonCD(tol=1e-12, fit_intercept=False, ws_strategy="fixpoint")
    for lam, coef in zip(LAMS, ours.coefs, strict=True):
        pen = penalty(lam, gamma)
        quadratic = Quadratic()
        quadratic.initialize(np.asfortranarray(X), Y)
        theirs = solver.solve(np.asfortranarray(X), Y, quadratic, pen, np.zeros(P))[0]
        np.testing.assert_allclose(coef, theirs, atol=1e-8)


@pytest.mark.parametrize("name", PENALTIES)
def test_more_features_than_rows_give_stationary_points_and_always_the_same(name):
    pen = PENALTIES[name]
    path = l1jax.path(WIDE, WIDE_Y, pen, n_lams=20, lam_min_ratio=0.1)
    assert (path.status == Status.CONVERGED).all()
    x, y = WIDE - WIDE.mean(axis=0), WIDE_Y - WIDE_Y.mean()
    for lam, coef in zip(path.lams, np.asarray(path.coefs), strict=True):
        gradient = -x.T @ (y - x @ coef) / len(y)
        assert kkt(name, coef, gradient, float(lam)) <= 1e-11
    again = l1jax.path(WIDE, WIDE_Y, pen, lams=path.lams)
    np.testing.assert_array_equal(again.coefs, path.coefs)
    lasso = l1jax.path(WIDE, WIDE_Y, l1jax.L1(), lams=path.lams)
    if name != "LogSum":  # whose λ has another unit
        assert path.n_nonzero[-1] < lasso.n_nonzero[-1]  # that is what they are for


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MCP", "SCAD"])
def test_one_fit_is_the_end_of_a_path_and_init_another_start(name):
    pen = PENALTIES[name].with_strength(0.3)
    fit = l1jax.fit(WIDE, WIDE_Y, pen, engine="working_set")
    path = l1jax.path(WIDE, WIDE_Y, pen, lams=np.geomspace(2, 0.3, 60))
    np.testing.assert_allclose(fit.coef, path[-1].coef, atol=1e-10)
    start = np.zeros(150)
    start[:6] = [2.0, -2, 1.5, 1, -1, 0.5]
    warm = l1jax.fit(WIDE, WIDE_Y, pen, init=start)
    assert warm.status == Status.CONVERGED and warm.relative_kkt <= 1e-6
    with pytest.raises(ValueError, match='engine="working_set" goes down from λmax.*takes no init'):
        l1jax.fit(WIDE, WIDE_Y, pen, init=start, engine="working_set")


@pytest.mark.parametrize("name", ["MCP", "SCAD"])
def test_limits_hold_coefficients_of_a_penalty_that_is_not_convex(name):
    pen = type(PENALTIES[name])(lower=-0.3, upper=1.2)
    path = l1jax.path(X, Y, pen, lams=LAMS, fit_intercept=False, engine="working_set")
    np.testing.assert_allclose(path.coefs, descent(name, LAMS, -0.3, 1.2), atol=1e-10)
    assert (path.status == Status.CONVERGED).all()
    assert np.sum(path.coefs[-1] == 1.2) >= 2 and np.sum(path.coefs[-1] == -0.3) >= 1


@pytest.mark.slow
@pytest.mark.parametrize("gamma", [16.0, 3.0])
def test_logistic_regression_is_stationary_and_a_minimum_on_its_support(gamma):
    y = (Y + np.random.default_rng(1).normal(size=N) > 0).astype(float)
    path = l1jax.path(
        X, y, l1jax.MCP(gamma=gamma), loss=l1jax.Logistic(), n_lams=15, lam_min_ratio=0.15
    )
    assert (path.status == Status.CONVERGED).all()
    for lam, fit in zip(np.asarray(path.lams), path, strict=True):
        coef = np.asarray(fit.coef)
        slope = (1 / (1 + np.exp(-X @ coef - float(fit.intercept))) - y) / N
        gradient, sizes = X.T @ slope, np.maximum(lam - abs(coef) / gamma, 0)
        inside = coef != 0
        np.testing.assert_allclose(gradient[inside], -(np.sign(coef) * sizes)[inside], atol=1e-9)
        assert (abs(gradient) <= lam * (1 + 1e-9)).all() and abs(slope.sum()) <= 1e-12


def test_fixed_weights_and_excluded_features_count():
    weights = np.array([0.0, np.inf, 2.0, *np.ones(P - 3)])
    path = l1jax.path(X, Y, l1jax.MCP(weights=weights), lams=LAMS, fit_intercept=False)
    for lam, coef in zip(LAMS, np.asarray(path.coefs), strict=True):
        gradient = -X.T @ (Y - X @ coef) / N
        assert abs(gradient[0]) <= 1e-12 and coef[1] == 0
        own = lam * np.where(np.isinf(weights), 0, weights)
        slopes = np.maximum(own - abs(coef) / 3, 0)
        inside = coef != 0
        np.testing.assert_allclose(gradient[inside], -(np.sign(coef) * slopes)[inside], atol=1e-12)


ALL = {
    "MCP": l1jax.MCP(0.1),
    "SCAD": l1jax.SCAD(0.1),
    "CappedL1": l1jax.CappedL1(0.1),
    "LogSum": l1jax.LogSum(0.2, 2.0),
    "L0": l1jax.L0(0.02),
    "LHalf": l1jax.LHalf(0.05),
    "LTwoThirds": l1jax.LTwoThirds(0.05),
    "AsymmetricL1": l1jax.AsymmetricL1(0.1, 0.5, 2.0),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_a_fit_is_a_minimum_along_each_coordinate_and_moves_as_finite_differences_say(name):
    pen = ALL[name]
    fit = l1jax.fit(X, Y, pen, fit_intercept=False, tol=1e-12)
    assert fit.status == Status.CONVERGED
    coef = np.asarray(fit.coef)
    assert 3 <= np.count_nonzero(coef) < P

    near = coef + 1e-4 * np.vstack([np.zeros(P), np.eye(P), -np.eye(P)])
    here, *there = 0.5 * np.mean((Y - near @ X.T) ** 2, axis=1) + jax.jit(jax.vmap(pen.value))(near)
    np.testing.assert_allclose(fit.objective, here, rtol=1e-12)
    assert (np.array(there) >= here - 1e-12).all()
    support = np.flatnonzero(coef)

    @jax.jit
    def polished(lam):
        """The minimum with these signs, without l1jax's solvers."""
        own = pen.with_strength(lam)

        def restricted(values):
            beta = jnp.zeros(P).at[support].set(values)
            return 0.5 * jnp.mean((Y - X @ beta) ** 2) + own.value(beta)

        start = coef[support]
        for _ in range(3):  # Newton steps, from a minimum that is near
            found = jax.grad(restricted)(start)
            start = start - jnp.linalg.solve(jax.hessian(restricted)(start), found)
        return jnp.zeros(P).at[support].set(start)

    lam, h = float(pen.lam), 1e-5
    slope = jax.jacfwd(
        lambda lam: l1jax.fit(X, Y, pen.with_strength(lam), fit_intercept=False, tol=1e-12).coef
    )(lam)
    np.testing.assert_allclose(slope, (polished(lam + h) - polished(lam - h)) / (2 * h), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_minimize_and_training_take_it(name):
    pen = ALL[name]

    def smooth(beta):
        return 0.5 * jnp.mean((Y - X @ beta) ** 2)

    found = l1jax.minimize(smooth, jnp.zeros(P), pen, tol=1e-10)
    assert found.status == Status.CONVERGED

    @jax.jit
    @jax.vmap
    def objective(beta):
        return smooth(beta) + pen.value(beta)

    near = found.params + 1e-4 * np.vstack([np.zeros(P), np.eye(P), -np.eye(P)])
    here, *there = objective(near)
    assert (np.array(there) >= here - 1e-12).all()

    @partial(jax.jit, static_argnums=0)
    def trained(tx, params):
        state = tx.init(params)
        for _ in range(5):
            updates, state = tx.update(jax.grad(smooth)(params), state, params)
            params = optax.apply_updates(params, updates)
        return params

    before = np.linspace(-1, 1, P)
    for tx in (l1jax.prox_sgd(0.1, pen), l1jax.prox_adam(0.01, pen)):
        first, last = objective(np.stack([before, trained(tx, before)]))
        assert last < first


def test_the_convex_region_is_where_the_least_eigenvalue_says():
    pen = l1jax.MCP(gamma=1.2)
    path = l1jax.path(WIDE, WIDE_Y, pen, n_lams=30, lam_min_ratio=0.05)
    region = l1jax.convex_region(path, WIDE, WIDE_Y, pen)
    x, coefs = WIDE - WIDE.mean(axis=0), np.asarray(path.coefs)
    first = None
    for i in range(30):
        inside = (coefs[i] != 0) | (coefs[min(i + 1, 29)] != 0)
        if not inside.any():
            assert region.eigenvalues[i] == np.inf
            continue
        least_one = np.linalg.eigvalsh(x[:, inside].T @ x[:, inside] / 50)[0] - 1 / 1.2
        np.testing.assert_allclose(region.eigenvalues[i], least_one, atol=1e-10)
        if first is None and least_one <= 0:
            first = i
    assert first is not None and region.lam_min == path.lams[first - 1]
    assert not region.is_convex[first]
    with pytest.raises(ValueError, match="CappedL1 has no bound on its concavity"):
        l1jax.convex_region(path, WIDE, WIDE_Y, l1jax.CappedL1())


def test_the_convex_region_of_logistic_regression_weighs_rows_by_their_curvature():
    y = (Y > 0).astype(float)
    pen = l1jax.SCAD(gamma=10.0)
    path = l1jax.path(X, y, pen, loss=l1jax.Logistic(), n_lams=5, lam_min_ratio=0.3)
    region = l1jax.convex_region(path, X, y, pen)
    coef = np.asarray(path.coefs[-1])
    mean = 1 / (1 + np.exp(-X @ coef - float(path.intercepts[-1])))
    rows = np.column_stack([X[:, coef != 0], np.ones(N)])
    full = rows.T @ (rows * (mean * (1 - mean))[:, None]) / N
    inverse = np.linalg.inv(np.linalg.inv(full)[:-1, :-1])  # the intercept at its best
    expected = np.linalg.eigvalsh(inverse)[0] - 1 / 9
    assert float(region.eigenvalues[-1]) == pytest.approx(expected, abs=1e-10)


def test_reweighted_lassos_descend_the_log_sum():
    lam, eps = 0.2, 0.5
    found = l1jax.reweighted(X, Y, l1jax.L1(lam), eps=eps, max_rounds=500, tol=1e-12)
    coef = np.asarray(found.fit.coef)
    gradient = -X.T @ (Y - X @ coef) / N
    slopes = lam / (abs(coef) + eps)
    inside = coef != 0
    # A stationary point of λ Σ log(1 + |β|/ε), to the change that ends the rounds.
    np.testing.assert_allclose(gradient[inside], -(np.sign(coef) * slopes)[inside], atol=1e-6)
    assert (abs(gradient) <= slopes + 1e-6).all() and 1 < found.num_rounds < 500
    np.testing.assert_allclose(found.weights, 1 / (abs(coef) + eps), rtol=1e-6)


def test_one_round_is_the_adaptive_lasso_and_keeps_the_weights_that_there_are():
    first = scipy.optimize.lsq_linear(X, Y).x
    own = np.array([0.0, np.inf, 2.0, *np.ones(P - 3)])
    found = l1jax.reweighted(X, Y, l1jax.L1(0.05, own), first, max_rounds=1, eps=0.0)
    weights = np.where(np.isinf(own), np.inf, own / abs(first))
    np.testing.assert_allclose(found.weights, weights)
    expected = l1jax.fit(X, Y, l1jax.L1(0.05, weights))
    np.testing.assert_array_equal(found.fit.coef, expected.coef)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: l1jax.MCP(0.1, gamma=0.0), ValueError, "gamma must be above 0, got 0.0"),
        (lambda: l1jax.SCAD(0.1, gamma=2.0), ValueError, "gamma must be above 2, got 2.0"),
        (lambda: l1jax.SCAD(0.1, gamma=None), TypeError, "gamma must be a number above 2"),
        (lambda: l1jax.LogSum(0.1, eps=0), ValueError, "eps must be above 0"),
        (lambda: l1jax.CappedL1(0.1, theta=-1), ValueError, "theta must be non-negative"),
        (lambda: l1jax.AsymmetricL1(0.1, positive=0), ValueError, "positive must be above 0"),
        (
            lambda: l1jax.reweighted(X, Y, l1jax.L1Ball(1.0)),
            TypeError,
            "reweighted needs a penalty",
        ),
        (
            lambda: l1jax.reweighted(X, Y, l1jax.L1(0.1), max_rounds=0),
            ValueError,
            "max_rounds must",
        ),
        (
            lambda: l1jax.convex_region(1, X, Y, l1jax.MCP()),
            TypeError,
            "path must be an l1jax Path",
        ),
    ],
)
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
