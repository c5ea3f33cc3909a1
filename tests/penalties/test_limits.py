"""Limits on coefficients: fits, paths and derivatives against coordinate descent and SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize

import l1jax

N, P = 60, 12


def problem(seed=0, n=N, p=P):
    rng = np.random.default_rng(seed)
    X = (rng.normal(size=(n, p)) + 0.5 * rng.normal(size=(n, 1))) * np.linspace(0.5, 2, p)
    return X, X @ np.tile([0.8, -0.6, 0.5, 0.2], p // 4) + rng.normal(size=n)


X, Y = problem()
LOWER = np.where(np.arange(P) % 3 == 0, -0.2, -np.inf)
UPPER = np.where(np.arange(P) % 2 == 0, 0.3, np.where(np.arange(P) == 5, 0.0, np.inf))


def minimum(lam, lower, upper, l1_ratio=1.0, X=X, y=Y):
    """The β of ½ mean (y − Xβ)² + Σ λ(ρ|β| + ½(1−ρ)β²) within limits, by coordinate descent."""
    n, p = X.shape
    X, y = X - X.mean(axis=0), y - y.mean()
    gram, linear, beta = X.T @ X / n, X.T @ y / n, np.zeros(p)
    lam, lower, upper = (np.broadcast_to(v, p) for v in (lam, lower, upper))
    for _ in range(20_000):
        before = beta.copy()
        for j in range(p):
            pull = linear[j] - gram[j] @ beta + gram[j, j] * beta[j]
            size = max(abs(pull) - lam[j] * l1_ratio, 0)
            beta[j] = np.sign(pull) * size / (gram[j, j] + lam[j] * (1 - l1_ratio))
            beta[j] = np.clip(beta[j], lower[j], upper[j])
        if abs(beta - before).max() <= 1e-15:
            break
    return beta


PENALTIES = {
    "L1": (lambda lam: l1jax.L1(lam, lower=LOWER, upper=UPPER), LOWER, 1.0),
    "NonNegativeL1": (lambda lam: l1jax.NonNegativeL1(lam, upper=UPPER), 0.0, 1.0),
    "ElasticNet": (lambda lam: l1jax.ElasticNet(lam, 0.6, lower=LOWER, upper=UPPER), LOWER, 0.6),
    "NonNegativeElasticNet": (
        lambda lam: l1jax.NonNegativeElasticNet(lam, 0.6, upper=UPPER), 0.0, 0.6,
    ),
    "Ridge": (lambda lam: l1jax.Ridge(lam, lower=LOWER, upper=UPPER), LOWER, 0.0),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", PENALTIES)
def test_a_path_within_limits_is_that_of_bounded_least_squares(name):
    make, lower, l1_ratio = PENALTIES[name]
    path = l1jax.path(X, Y, make(None), lams=[1.0, 0.3, 0.1, 0.02], tol=1e-10)
    assert (path.relative_gaps <= 1e-10).all() and (path.status == l1jax.Status.CONVERGED).all()
    for lam, coef, kkt in zip(path.lams, path.coefs, path.fits.relative_kkt, strict=True):
        expected = minimum(lam, lower, UPPER, l1_ratio)
        np.testing.assert_allclose(coef, expected, atol=1e-6)
        assert kkt <= 1e-5  # also at the limits, where a gradient of any size pulls outwards
    assert np.sum(path.coefs[-1] == UPPER) >= 3  # exactly


@pytest.mark.filterwarnings("ignore::l1jax.ConvergenceWarning")
def test_one_fit_says_whether_it_is_optimal():
    pen = l1jax.L1(0.1, lower=LOWER, upper=UPPER)
    fit = l1jax.fit(X, Y, pen, tol=1e-10)
    free = l1jax.fit(X, Y, l1jax.L1(0.1))
    inside = np.clip(free.coef, LOWER, UPPER)
    # The clipped lasso solution is no solution, and its certificate bounds what that costs.
    off = l1jax.fit(X, Y, pen, init=inside, max_steps=1, tol=1e-15)

    def objective(coef):
        return 0.5 * np.mean((Y - Y.mean() - (X - X.mean(axis=0)) @ coef) ** 2) + 0.1 * np.sum(
            abs(coef)
        )

    np.testing.assert_allclose(fit.objective, objective(fit.coef), rtol=1e-12)
    assert objective(fit.coef) < objective(inside) - 1e-3
    assert off.gap >= objective(np.asarray(off.coef)) - objective(fit.coef) - 1e-12


def test_lambda_max_knows_which_way_a_coefficient_may_go():
    gradient = X.T @ (Y.mean() - Y) / N
    for limits in ({}, {"upper": 0.0}, {"lower": 0.0}, {"upper": 1e-3, "lower": -1e-3}):
        pen = l1jax.L1(**limits)
        up = -gradient if limits.get("upper") != 0 else 0 * gradient
        down = gradient if limits.get("lower") != 0 else 0 * gradient
        expected = np.maximum(up, down).max()
        found = float(l1jax.lambda_max(X, Y, pen))
        assert found == pytest.approx(expected, rel=1e-12)
        assert (l1jax.fit(X, Y, pen.with_strength(1.001 * found)).coef == 0).all()
        assert (l1jax.fit(X, Y, pen.with_strength(0.99 * found)).coef != 0).any()
    assert float(l1jax.lambda_max(X, Y, l1jax.L1(lower=0.0, upper=0.0))) == 0


def test_limits_are_in_the_units_in_which_coefficients_are_reported():
    sigma = X.std(axis=0)
    pen = l1jax.L1(0.05, lower=-0.2, upper=UPPER)
    fit = l1jax.fit(X, Y, pen, standardize=True, tol=1e-10)
    expected = minimum(0.05, -0.2 * sigma, UPPER * sigma, X=X / sigma) / sigma
    np.testing.assert_allclose(fit.coef, expected, atol=1e-6)
    assert fit.relative_gap <= 1e-10 and np.sum(np.isclose(fit.coef, UPPER, rtol=1e-12)) >= 3
    path = l1jax.path(X, Y, pen, standardize=True, lams=[0.2, 0.05], tol=1e-10)
    np.testing.assert_allclose(path.coefs[-1], fit.coef, atol=1e-6)
    cv = l1jax.cross_validate(X, Y, pen, standardize=True, lams=[0.2, 0.05], n_folds=3)
    assert (cv.path.coefs <= UPPER * (1 + 1e-12)).all()


@pytest.mark.slow
@pytest.mark.parametrize("standardize", [False, True])
def test_a_coefficient_at_its_limit_moves_with_the_limit_and_not_with_lambda(standardize):
    def coefs(lam, upper):
        pen = l1jax.L1(lam, lower=-0.2, upper=upper)
        return l1jax.fit(X, Y, pen, tol=1e-13, standardize=standardize).coef

    at = (jnp.asarray(0.05), jnp.asarray(0.3))
    by_lam, by_upper = jax.jacfwd(coefs, argnums=(0, 1))(*at)
    h = 1e-6
    for i, found in enumerate((by_lam, by_upper)):
        step = [h * (k == i) for k in range(2)]
        ahead = coefs(at[0] + step[0], at[1] + step[1])
        behind = coefs(at[0] - step[0], at[1] - step[1])
        np.testing.assert_allclose(found, (ahead - behind) / (2 * h), atol=1e-5)
    at_limit = np.isclose(coefs(*at), 0.3, rtol=1e-9)
    assert at_limit.sum() >= 2
    np.testing.assert_allclose(np.asarray(by_lam)[at_limit], 0, atol=1e-9)
    np.testing.assert_allclose(np.asarray(by_upper)[at_limit], 1, atol=1e-9)


@pytest.mark.slow
def test_a_derivative_through_the_deviations_moves_the_limits():
    """With standardize=True the scale of a column changes λ's meaning, and not the limit."""

    def coefs(scale):
        pen = l1jax.L1(0.05, upper=0.3)
        stretched = jnp.asarray(X) * (1 + (scale - 1) * (jnp.arange(P) == 0))
        return l1jax.fit(stretched, jnp.asarray(Y), pen, tol=1e-13, standardize=True).coef

    slope, h = jax.jacfwd(coefs)(1.0), 1e-6
    expected = (coefs(1 + h) - coefs(1 - h)) / (2 * h)
    np.testing.assert_allclose(slope, expected, atol=1e-5)
    assert coefs(1.0)[0] == pytest.approx(0.3) and abs(slope).max() > 1e-2


def test_an_unpenalised_feature_within_limits_is_no_part_of_the_null_model():
    weights = np.where(np.arange(P) < 3, 0.0, 1.0)
    pen = l1jax.L1(weights=weights, lower=-0.1, upper=0.1)
    path = l1jax.path(X, Y, pen, lams=[0.5, 0.05], tol=1e-10)
    for lam, coef in zip(path.lams, path.coefs, strict=True):
        lams = np.where(np.arange(P) < 3, 0.0, lam)
        np.testing.assert_allclose(coef, minimum(lams, -0.1, 0.1), atol=1e-6)
    assert (path.relative_gaps <= 1e-10).all() and (abs(path.coefs[:, :3]) == 0.1).any()


def test_minimize_and_training_stay_within_limits():
    pen = l1jax.L1(0.05, lower=LOWER, upper=UPPER)
    centred = jnp.asarray(X - X.mean(axis=0)), jnp.asarray(Y - Y.mean())

    def smooth(beta, x, y):
        return 0.5 * jnp.mean((y - x @ beta) ** 2)

    found = l1jax.minimize(smooth, jnp.zeros(P), pen, args=centred, tol=1e-10)
    np.testing.assert_allclose(found.params, minimum(0.05, LOWER, UPPER), atol=1e-6)
    for tx in (l1jax.prox_sgd(0.05, pen), l1jax.prox_adam(0.02, pen)):
        params = jnp.ones(P)
        state, step = tx.init(params), jax.jit(tx.update)
        for _ in range(3):
            gradient = jax.grad(smooth)(params, *centred)
            updates, state = step(gradient, state, params)
            params = optax.apply_updates(params, updates)
            # `apply_updates` adds the difference to the limit: a unit of rounding.
            assert ((params <= UPPER + 1e-15) & (params >= LOWER - 1e-15)).all()


def test_logistic_regression_within_limits_is_that_of_scipy():
    y = (np.median(Y) < Y).astype(float)
    fit = l1jax.fit(X, y, l1jax.L1(0.02, lower=-0.2, upper=0.3), loss=l1jax.Logistic(), tol=1e-10)

    def objective(parts):
        eta = X @ (parts[:P] - parts[P : 2 * P]) + parts[-1]
        slope = (1 / (1 + np.exp(-eta)) - y) / N
        value = np.mean(np.logaddexp(0, eta) - y * eta) + 0.02 * parts[:-1].sum()
        gradient = X.T @ slope
        return value, np.concatenate([gradient + 0.02, -gradient + 0.02, [slope.sum()]])

    bounds = [(0, 0.3)] * P + [(0, 0.2)] * P + [(None, None)]
    options = {"maxiter": 10_000, "ftol": 1e-16, "gtol": 1e-10}
    found = scipy.optimize.minimize(
        objective, np.zeros(2 * P + 1), jac=True, bounds=bounds, options=options
    )
    assert fit.relative_gap <= 1e-10 and float(fit.objective) <= found.fun + 1e-12
    np.testing.assert_allclose(fit.coef, found.x[:P] - found.x[P:-1], atol=1e-4)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("limits", "error", "message"),
    [
        ({"upper": -1.0}, ValueError, r"upper must be >= 0, so that 0 is allowed, got -1.0\."),
        ({"upper": [1.0, -2.0]}, ValueError, r"upper must be >= 0.*got -2.0 at index \(1,\)"),
        ({"lower": 0.5}, ValueError, r"lower must be <= 0, so that 0 is allowed, got 0.5\."),
        ({"lower": np.nan}, ValueError, "lower must be <= 0.*got nan"),
        ({"upper": "much"}, TypeError, "upper must be numbers, got dtype"),
    ],
)
def test_limits_on_the_wrong_side_of_zero_are_refused(limits, error, message):
    with pytest.raises(error, match=message):
        l1jax.L1(0.1, **limits)


def test_limits_of_another_length_are_refused():
    with pytest.raises(ValueError, match="upper has shape .3,., which does not fit coefficients"):
        l1jax.fit(X, Y, l1jax.L1(0.1, upper=np.ones(3)))


@pytest.mark.slow
def test_traced_limits_on_the_wrong_side_are_an_invalid_input():
    status = jax.jit(lambda upper: l1jax.fit(X, Y, l1jax.L1(0.1, upper=upper)).status)
    assert status(-1.0) == l1jax.Status.INVALID_INPUT and status(0.3) == l1jax.Status.CONVERGED


def _soft(z, t):
    return np.sign(z) * np.maximum(abs(z) - t, 0)


def _firm(z, lam, gamma=3.0):
    return np.where(abs(z) <= gamma * lam, _soft(z, lam) / (1 - 1 / gamma), z)


@pytest.mark.parametrize(
    ("pen", "closed_form"),
    [
        (l1jax.L1(0.1, lower=-0.2, upper=0.4), lambda z: np.clip(_soft(z, 0.1), -0.2, 0.4)),
        (l1jax.MCP(0.1, 3.0), lambda z: _firm(z, 0.1)),
    ],
    ids=["limits", "MCP"],
)
@pytest.mark.slow
def test_several_responses_on_orthonormal_columns_have_a_closed_form(pen, closed_form):
    rng = np.random.default_rng(5)
    X = np.linalg.qr(rng.normal(size=(40, 8)))[0] * np.sqrt(40)
    Y = X @ rng.uniform(-0.6, 0.6, size=(8, 3)) + 0.1 * rng.normal(size=(40, 3))
    expected = closed_form(X.T @ Y / 40)  # each coefficient a problem of its own
    fit = l1jax.fit(X, Y, pen, fit_intercept=False)
    assert fit.status == l1jax.Status.CONVERGED
    np.testing.assert_allclose(
        fit.coef, expected, atol=1e-9
    )  # ends in an exact solve on its support
    np.testing.assert_array_equal(np.asarray(fit.coef) == 0, expected == 0)
