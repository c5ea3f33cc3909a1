"""Fits with every loss: optimal by the formula of the loss alone, certified, differentiable, in batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import GammaRegressor, PoissonRegressor, TweedieRegressor
from sklearn.metrics import d2_tweedie_score, mean_tweedie_deviance
from statsmodels.genmod import families
from statsmodels.genmod.generalized_linear_model import GLM

import l1jax
from l1jax import Status
from tests.losses.cases import CASES

N, P = 20, 30
RNG = np.random.default_rng(8)
X = RNG.normal(size=(N, P)) * RNG.uniform(0.5, 2, P)
LEVEL = X @ np.where(np.arange(P) % 10 == 0, 0.4, 0.0) + 0.5
WEIGHT = np.where(np.arange(N) % 7 == 0, 0.0, RNG.uniform(0.5, 1.5, N))
OFFSET = 0.3 * RNG.normal(size=N)
Y = {name: case.draw(np.random.default_rng(3), LEVEL) for name, case in CASES.items()}
# Of a smoothed loss the gap has a floor: see `test_quantile.py`.
each = pytest.mark.parametrize(
    "name", [n for n, case in CASES.items() if not case.loss.is_smoothed]
)
# The programs of each kind of loss take ten seconds to compile.
TRACED = ["gamma", "inverse gaussian"]


def kkt_of_formula(name, coef, intercept, lam):
    """The largest violation of the optimality conditions, over λ, from derivatives of the formula by JAX."""
    s = WEIGHT / WEIGHT.sum()

    def value(coef, intercept):
        eta = jnp.asarray(X) @ coef + intercept + OFFSET
        return jnp.sum(s * CASES[name].formula(Y[name], eta))

    gradient, of_intercept = jax.grad(value, argnums=(0, 1))(jnp.asarray(coef), float(intercept))
    active = coef != 0
    assert 0 < active.sum() < P
    on = np.abs(gradient + lam * np.sign(coef))[active].max()
    off = (np.abs(gradient) - lam)[~active].max()
    return max(on, off, abs(float(of_intercept))) / lam


@each
def test_a_fit_is_optimal_by_the_formula_with_weights_of_zero_and_an_offset(name):
    loss, y = CASES[name].loss, Y[name]
    options = {"loss": loss, "sample_weight": WEIGHT, "offset": OFFSET}
    lam = 0.3 * float(l1jax.lambda_max(X, y, l1jax.L1(), **options))
    fit = l1jax.fit(X, y, l1jax.L1(lam), tol=1e-10, **options)
    assert fit.status == Status.CONVERGED
    assert np.isfinite(fit.gap) == loss.convex
    assert 0 < fit.deviance_explained < 1
    # The objective is flat at its optimum: a gap of 1e-10 leaves a gradient of its root.
    assert kkt_of_formula(name, np.asarray(fit.coef), fit.intercept, lam) < 1e-6
    eta = X @ np.asarray(fit.coef) + float(fit.intercept) + OFFSET
    response = np.asarray(fit.predict(X, offset=OFFSET))
    np.testing.assert_allclose(response, loss.inverse_link(eta), rtol=1e-12)


def test_steps_are_few_where_a_loss_is_not_convex():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 10))
    fit = l1jax.fit(x, rng.wald(1.0, 2.0, 400), l1jax.L1(0.01), loss=l1jax.InverseGaussian())
    # 17 with the true Hessian, 37 with one that is kept convex.
    assert fit.status == Status.CONVERGED and fit.num_steps <= 25
    assert fit.relative_kkt <= 1e-12


@each
def test_a_path_with_more_columns_than_rows_is_certified(name):
    path = l1jax.path(X, Y[name], l1jax.L1(), loss=CASES[name].loss, n_lams=8, tol=1e-8)
    assert (np.asarray(path.status) == Status.CONVERGED).all()
    measure = path.relative_gaps if CASES[name].convex else path.fits.relative_kkt
    assert np.max(measure) <= 1e-8
    assert (np.diff(path.deviance_explained) > -1e-9).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", TRACED)
def test_compiled_batches_of_fits_and_their_derivatives_are_those_of_eager_ones(name):
    """By λ, against differences of eager fits: of h², and of rounding over h."""
    loss, y, h = CASES[name].loss, Y[name], 1e-5
    top = float(l1jax.lambda_max(X, y, l1jax.L1(), loss=loss))
    lams = top * np.array([0.6, 0.3])

    def coef(lam):
        return l1jax.fit(jnp.asarray(X), jnp.asarray(y), l1jax.L1(lam), loss=loss, tol=1e-13).coef

    ours, slopes = jax.jit(jax.vmap(lambda lam: jax.jvp(coef, (lam,), (top,))))(jnp.asarray(lams))
    for lam, one, slope in zip(lams, ours, slopes, strict=True):
        at, ahead, behind = (
            l1jax.fit(X, y, l1jax.L1(lam + d), loss=loss, tol=1e-13).coef
            for d in (0, h * top, -h * top)
        )
        np.testing.assert_allclose(one, at, atol=1e-6)
        scale = np.abs(slope).max()
        np.testing.assert_allclose(slope / scale, (ahead - behind) / (2 * h) / scale, atol=2e-4)


@pytest.mark.slow
@each
def test_cross_validation_scores_held_out_rows_by_their_deviance(name):
    loss, y, folds = CASES[name].loss, Y[name], np.arange(N) % 2
    options = {"loss": loss, "tol": 1e-9}
    lams = float(l1jax.lambda_max(X, y, l1jax.L1(), loss=loss)) * np.array([0.8, 0.4])
    cv = l1jax.cross_validate(X, y, l1jax.L1(), lams=lams, folds=folds, **options)
    scores = np.zeros((2, 2))
    for k in range(2):
        rows = folds == k
        path = l1jax.path(X[~rows], y[~rows], l1jax.L1(), lams=lams, **options)
        for i in range(2):
            eta = X[rows] @ path.coefs[i] + path.intercepts[i]
            of_rows = CASES[name].formula(y[rows], eta)
            least = CASES[name].formula(y[rows], CASES[name].least(y[rows]))
            scores[k, i] = 2 * np.mean(of_rows - least)
    np.testing.assert_allclose(cv.mean_score, scores.mean(axis=0), rtol=1e-5)


TALL = np.random.default_rng(5).normal(size=(80, 4))
MEANS = TALL @ [0.4, -0.3, 0.0, 0.2] + 1
REGRESSORS = {
    "poisson": (PoissonRegressor, 1.0),
    "gamma": (GammaRegressor, 2.0),
    "tweedie": (TweedieRegressor, 1.5),
    "inverse gaussian": (TweedieRegressor, 3.0),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REGRESSORS)
def test_a_ridge_is_that_of_scikit_learn(name):
    loss, (regressor, power) = CASES[name].loss, REGRESSORS[name]
    y = CASES[name].draw(np.random.default_rng(6), MEANS)
    weight = np.arange(80) % 3 + 0.0
    options = {"alpha": 0.1, "tol": 1e-12, "max_iter": 10_000}
    if regressor is TweedieRegressor:
        options |= {"power": power, "link": "log"}
    exact = regressor(**options).fit(TALL, y, sample_weight=weight)
    fit = l1jax.fit(TALL, y, l1jax.Ridge(0.1), loss=loss, sample_weight=weight, tol=1e-12)
    np.testing.assert_allclose(fit.coef, exact.coef_, atol=1e-6)
    assert float(fit.intercept) == pytest.approx(exact.intercept_, abs=1e-6)
    counts = weight > 0
    kept = y[counts], exact.predict(TALL[counts])
    deviance = mean_tweedie_deviance(*kept, sample_weight=weight[counts], power=power)
    s = weight / weight.sum()
    eta = np.log(exact.predict(TALL))
    assert 2 * float(loss.deviance(y, eta, s)) == pytest.approx(deviance, rel=1e-12)
    explained = d2_tweedie_score(*kept, sample_weight=weight[counts], power=power)
    assert float(fit.deviance_explained) == pytest.approx(explained, rel=1e-6)


def test_without_a_penalty_counts_are_those_of_statsmodels():
    family = families.NegativeBinomial(alpha=0.7)
    y = CASES["negative binomial"].draw(np.random.default_rng(6), MEANS)
    exact = GLM(y, np.column_stack([np.ones(80), TALL]), family=family).fit(tol=1e-13)
    fit = l1jax.fit(TALL, y, l1jax.L1(0.0), loss=l1jax.NegativeBinomial(0.7), tol=1e-12)
    np.testing.assert_allclose([fit.intercept, *fit.coef], exact.params, atol=1e-7)
    s, eta = np.full(80, 1 / 80), np.log(exact.mu)
    assert 160 * float(l1jax.NegativeBinomial(0.7).deviance(y, eta, s)) == pytest.approx(
        exact.deviance, rel=1e-10
    )
    below = np.asarray(l1jax.NegativeBinomial(1e-8).per_row(y, eta))
    np.testing.assert_allclose(below, l1jax.Poisson().per_row(y, eta), atol=1e-6)


def test_powers_are_the_distributions_that_they_name():
    eta, y, s = np.array([0.3, -0.4, 2.0]), np.array([0.5, 1.5, 9.0]), np.array([0.2, 0.3, 0.5])
    pairs = ((1, l1jax.Poisson()), (2, l1jax.Gamma()), (3, l1jax.InverseGaussian()))
    for power, loss in pairs:
        for method in ("value", "gradient", "curvature", "deviance"):
            ours = getattr(l1jax.Tweedie(power), method)(y, eta, s)
            np.testing.assert_allclose(ours, getattr(loss, method)(y, eta, s), rtol=1e-14)


def test_a_loss_with_an_unknown_dispersion_has_no_information_criterion():
    path = l1jax.path(TALL, np.exp(MEANS), l1jax.L1(), loss=l1jax.Gamma(), n_lams=3)
    with pytest.raises(ValueError, match=r"Gamma\(\) is no likelihood"):
        l1jax.information_criterion(path, TALL, np.exp(MEANS))


@pytest.mark.float32
@pytest.mark.parametrize("name", ["gamma", "tweedie", "negative binomial"])
def test_in_float32_fits_meet_their_tolerance(name):
    X32, y32 = X.astype(np.float32), Y[name].astype(np.float32)
    path = l1jax.path(X32, y32, l1jax.L1(), loss=CASES[name].loss, n_lams=5)
    assert path.coefs.dtype == np.float32
    assert (np.asarray(path.status) == Status.CONVERGED).all()


@pytest.mark.slow
# Gradient steps with the other losses are those of the ridges above.
@pytest.mark.parametrize(
    ("name", "engine"),
    [
        ("gamma", "compiled"),
        ("tweedie", "compiled"),
        ("negative binomial", "compiled"),
        ("negative binomial", "sequential"),
    ],
)
def test_other_engines_find_the_same_path(name, engine):
    options = {"loss": CASES[name].loss, "n_lams": 5, "lam_min_ratio": 0.2, "tol": 1e-10}
    path = l1jax.path(X, Y[name], l1jax.L1(), **options)
    other = l1jax.path(X, Y[name], l1jax.L1(), engine=engine, **options)
    np.testing.assert_allclose(other.coefs, path.coefs, atol=1e-6)
