"""Losses against finite differences and brute force, and each default against its override."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq
from sklearn.linear_model import GammaRegressor
from sklearn.metrics import mean_gamma_deviance

import l1jax
from l1jax import Loss

LOSSES = {
    "squared": l1jax.SquaredError(),
    "logistic": l1jax.Logistic(),
    "poisson": l1jax.Poisson(),
    "huber": l1jax.Huber(0.7),
    "hinge": l1jax.SquaredHinge(),
}
Y = {
    "squared": [1.0, -2.0, 0.5, 3.0],
    "logistic": [1.0, 0.0, 0.0, 1.0],
    "poisson": [0.0, 3.0, 1.0, 2.0],
    "huber": [1.0, -2.0, 0.5, 3.0],
    "hinge": [1.0, 0.0, 0.0, 1.0],
}
Y = {name: jnp.array(y) for name, y in Y.items()}
S = jnp.array([0.4, 0.3, 0.2, 0.1])
predictors = st.lists(st.floats(-3, 3), min_size=4, max_size=4).map(np.array).map(jnp.asarray)
# One compilation per method and loss: run eagerly, a loop in a default compiles at every call.
call = eqx.filter_jit(lambda method, *args: method(*args))
each = pytest.mark.parametrize("name", LOSSES)


@each
@given(eta=predictors)
def test_defaults_equal_overrides(name, eta):
    loss, y = LOSSES[name], Y[name]
    for method, atol in (("gradient", 1e-14), ("curvature", 1e-14), ("polish_intercept", 1e-10)):
        if name in ("huber", "hinge") and method == "curvature":
            continue  # it jumps where hypothesis likes to sample
        default = call(getattr(Loss, method), loss, y, eta, S)
        override = call(getattr(type(loss), method), loss, y, eta, S)
        np.testing.assert_allclose(default, override, atol=atol)


@each
@given(eta=predictors, c=st.floats(0, 1))
def test_the_fenchel_gap_is_what_it_says_and_never_negative(name, eta, c):
    loss, y = LOSSES[name], Y[name]
    slope = loss.gradient(y, eta, S)
    direct = loss.value(y, eta, S) + loss.conjugate(y, c * slope, S) - c * slope @ eta
    gap = loss.fenchel_gap(y, eta, jnp.asarray(c), S)
    assert gap >= 0
    # The direct sum loses digits to cancellation of terms of size up to 100.
    assert float(gap) == pytest.approx(float(direct), abs=1e-12)
    assert loss.fenchel_gap(y, eta, jnp.asarray(1.0), S) == 0


@each
def test_the_conjugate_is_the_supremum(name):
    loss, y = LOSSES[name], Y[name]
    eta = jnp.array([0.3, -0.4, 0.2, 0.1])
    u = 0.5 * loss.gradient(y, eta, S)
    grid = np.linspace(-20, 20, 400_001)  # spacing 1e-4, so good to 1e-8 at curvature one
    best = 0.0
    for i in range(4):
        rows = np.asarray(loss.per_row(jnp.full(grid.shape, y[i]), jnp.asarray(grid)))
        best += np.max(float(u[i]) * grid - float(S[i]) * rows)
    assert float(loss.conjugate(y, u, S)) == pytest.approx(best, abs=1e-7)


@each
@given(eta=predictors)
def test_the_polished_intercept_is_the_root_that_bisection_finds(name, eta):
    loss, y = LOSSES[name], Y[name]

    def slope(d):
        return float(jnp.sum(call(type(loss).gradient, loss, y, eta + d, S)))

    shift = float(call(type(loss).polish_intercept, loss, y, eta, S))
    assert slope(shift) == pytest.approx(0, abs=1e-13)
    if any(abs(slope(shift + side)) < 1e-13 for side in (-1e-6, 1e-6)):
        return  # there is more than one: no row has curvature between them
    assert shift == pytest.approx(brentq(slope, -30, 30, xtol=1e-13), abs=1e-8)


@pytest.mark.parametrize("namespace", [np, jnp])
def test_a_small_logistic_loss_keeps_its_digits(namespace):
    margin = np.array([2.0, 9.0, 14.0, 40.0], np.float32)
    y = np.array([1, 0, 1, 0], np.float32)
    eta = np.where(y == 1, margin, -margin)
    rows = l1jax.Logistic().per_row(namespace.asarray(y), namespace.asarray(eta))
    expected = np.log1p(np.exp(-margin.astype(float)))
    np.testing.assert_allclose(rows, expected, rtol=4 * np.finfo(np.float32).eps)


@pytest.mark.parametrize("kind", [l1jax.Logistic, l1jax.Poisson, l1jax.SquaredHinge])
def test_an_intercept_that_is_the_best_one_takes_few_slopes_to_confirm(kind):
    """Newton's steps end where the slope is rounding; bisection would go on for 20 more."""
    calls = []

    class Counting(kind):
        def gradient(self, y, eta, s):
            calls.append(1)
            return super().gradient(y, eta, s)

    rng = np.random.default_rng(0)
    eta, s = rng.normal(size=300), np.full(300, 1 / 300)
    y = (rng.uniform(size=300) < 0.5) * 1.0
    eta = eta + kind().polish_intercept(y, eta, s)
    shift = Counting.polish_intercept(Counting(), y, eta, s)
    assert abs(shift) < 1e-14
    assert len(calls) <= 6


@each
def test_curvature_is_bounded_by_smoothness(name):
    loss = LOSSES[name]
    if loss.smoothness is not None:
        eta = jnp.linspace(-5, 5, 101)
        s = jnp.ones(101)
        assert jnp.max(loss.curvature(jnp.zeros(101), eta, s)) <= loss.smoothness


@each
@pytest.mark.float32
@pytest.mark.fast
def test_extreme_predictors_and_rows_of_weight_zero_do_no_harm(name):
    loss = LOSSES[name]
    y = jnp.asarray(Y[name], jnp.float32)
    eta, s = (
        jnp.array([0.1, 0.2, 0.3, 800.0], jnp.float32),
        jnp.array([0.5, 0.3, 0.2, 0], jnp.float32),
    )
    for out in (loss.value(y, eta, s), loss.gradient(y, eta, s), loss.curvature(y, eta, s)):
        assert out.dtype == jnp.float32
        assert jnp.isfinite(out).all()
    assert jnp.isfinite(loss.fenchel_gap(y, eta, jnp.float32(0.5), s))
    assert not jnp.isnan(loss.value(y, -eta, S.astype(jnp.float32)))


def test_saturated_is_the_least_loss():
    y = Y["poisson"]
    grid = jnp.linspace(-40, 5, 1_000_001)
    least = sum(float(S[i]) * float(jnp.min(jnp.exp(grid) - y[i] * grid)) for i in range(4))
    assert float(l1jax.Poisson().saturated(y, S)) == pytest.approx(least, abs=1e-8)


@pytest.mark.core
def test_several_responses_sum():
    loss, y = l1jax.SquaredError(), jnp.arange(8.0).reshape(4, 2)
    eta = jnp.ones((4, 2))
    parts = sum(loss.value(y[:, k], eta[:, k], S) for k in range(2))
    assert float(loss.value(y, eta, S)) == pytest.approx(float(parts))
    assert loss.polish_intercept(y, eta, S).shape == (2,)


class PseudoHuber(Loss):
    """A loss of one method."""

    def per_row(self, y, eta):
        return jnp.sqrt(1 + (y - eta) ** 2) - 1


def test_a_loss_of_one_method_fits_and_is_judged_by_its_kkt():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((30, 4))
    y = X[:, 0] + 0.1 * rng.standard_normal(30)
    fit = l1jax.fit(X, y, l1jax.L1(0.05), loss=PseudoHuber(), tol=1e-8)
    assert fit.relative_kkt <= 1e-8
    assert fit.gap == jnp.inf
    assert jnp.isfinite(fit.objective)


class Gamma(Loss):
    """Half of the unit deviance of a gamma distribution with the log link; NaN at y = 0."""

    def per_row(self, y, eta):
        return jnp.log(jnp.exp(eta) / y) + y / jnp.exp(eta) - 1

    def inverse_link(self, eta):
        return jnp.exp(eta)


class GammaLikelihood(Loss):
    """The same without its constant; at y = 0 the value is finite, and the least value is not."""

    def per_row(self, y, eta):
        return y * jnp.exp(-eta) + eta

    def saturated(self, y, s):
        return jnp.sum(s * (1 + jnp.log(y)))


def gamma_data():
    rng = np.random.default_rng(3)
    X = rng.standard_normal((60, 3))
    y = np.exp(1 + X @ [0.5, -0.3, 0.0]) * rng.gamma(4.0, 0.25, 60)
    return X, y


@pytest.mark.parametrize("loss", [Gamma(), GammaLikelihood()], ids=["deviance", "likelihood"])
def test_rows_of_weight_zero_may_hold_anything_with_a_loss_of_ones_own(loss):
    X, y = gamma_data()
    lam = 0.05
    s = np.where(np.arange(60) % 3 == 0, 0, 1.0 + np.arange(60) % 2)
    kept = s > 0
    y = np.where(kept, y, -1.0)  # of which the loss is NaN
    X = np.where(kept[:, None], X, 1e3)  # where exp(η) overflows
    fit = l1jax.fit(X, y, l1jax.Ridge(lam), loss=loss, sample_weight=s, tol=1e-10)
    assert fit.status == l1jax.Status.CONVERGED
    exact = GammaRegressor(alpha=lam, tol=1e-12, max_iter=1000, solver="newton-cholesky")
    exact.fit(X[kept], y[kept], sample_weight=s[kept])
    np.testing.assert_allclose(fit.coef, exact.coef_, rtol=1e-6)
    assert fit.intercept == pytest.approx(exact.intercept_, rel=1e-8)
    explained = exact.score(X[kept], y[kept], sample_weight=s[kept])
    assert fit.deviance_explained == pytest.approx(explained, rel=1e-6)


class GammaBelowZero(Loss):
    """The same in five lines, which do not say what its least value is: log μ + 1, of either sign."""

    def per_row(self, y, eta):
        return y * jnp.exp(-eta) + eta


def test_a_loss_below_zero_is_fitted_as_any_other():
    X, y = gamma_data()
    exact = GammaRegressor(alpha=0.05, tol=1e-12, solver="newton-cholesky").fit(X, y)
    fit = l1jax.fit(X, 1e-3 * y, l1jax.Ridge(0.05), loss=GammaBelowZero(), tol=1e-10)
    np.testing.assert_allclose(
        fit.coef, exact.coef_, rtol=1e-6
    )  # the unit of y is in the intercept
    assert fit.status == l1jax.Status.CONVERGED and np.isnan(fit.deviance_explained)
    path = l1jax.path(X, 1e-3 * y, l1jax.L1(), loss=GammaBelowZero(), n_lams=4)
    above = l1jax.path(X, y, l1jax.L1(), loss=Gamma(), n_lams=4)
    np.testing.assert_allclose(path.lams, above.lams, rtol=1e-9)
    np.testing.assert_allclose(path.coefs, above.coefs, atol=1e-6)


@pytest.mark.parametrize("loss", [Gamma(), GammaLikelihood()], ids=["deviance", "likelihood"])
def test_a_loss_of_ones_own_cross_validates(loss):
    X, y = gamma_data()
    lams, folds = np.array([0.5, 0.05]), np.arange(60) % 3
    cv = l1jax.cross_validate(X, y, l1jax.Ridge(), loss=loss, lams=lams, folds=folds, tol=1e-10)
    scores = np.zeros((3, 2))
    for k in range(3):
        for i, lam in enumerate(lams):
            exact = GammaRegressor(alpha=lam, tol=1e-12, solver="newton-cholesky")
            exact.fit(X[folds != k], y[folds != k])
            scores[k, i] = mean_gamma_deviance(y[folds == k], exact.predict(X[folds == k]))
    np.testing.assert_allclose(cv.mean_score, scores.mean(axis=0), rtol=1e-6)


@pytest.mark.parametrize(
    ("loss", "y", "message"),
    [
        (l1jax.Logistic(), [0.0, -1.0, 1.0], "labels 0 and 1.*-1.0 at row 1"),
        (l1jax.Logistic(), [-1.0, 1.0], r"\(y \+ 1\) / 2"),
        (l1jax.SquaredHinge(), [-1.0, 1.0], r"SquaredHinge.*\(y \+ 1\) / 2"),
        (l1jax.Poisson(), [0.0, -1.0], "counts >= 0.*row 1"),
        (l1jax.Huber(), [[1.0]], r"shape \(n,\) for Huber.*y\[:, 0\]"),
    ],
)
def test_bad_targets_are_named(loss, y, message):
    with pytest.raises(ValueError, match=message):
        loss.check_targets(np.array(y))


def test_huber_needs_a_positive_delta():
    with pytest.raises(ValueError, match="delta"):
        l1jax.Huber(0.0)


def test_the_squared_hinge_is_that_of_a_support_vector_machine():
    svm = pytest.importorskip("sklearn.svm")
    rng = np.random.default_rng(0)
    X, lam = rng.standard_normal((30, 4)), 0.05
    y = (X[:, 0] + 0.5 * rng.standard_normal(30) > 0).astype(int)
    peer = svm.LinearSVC(
        penalty="l1", dual=False, C=1 / (30 * lam), fit_intercept=False, tol=1e-10, max_iter=100_000
    ).fit(X, y)
    options = {"loss": l1jax.SquaredHinge(), "tol": 1e-12}
    fit = l1jax.fit(X, y, l1jax.L1(lam), fit_intercept=False, **options)
    np.testing.assert_allclose(fit.coef, peer.coef_[0], atol=1e-8)
    assert (np.asarray(fit.predict(X, kind="class")) == peer.predict(X)).all()
    np.testing.assert_allclose(fit.predict(X), peer.decision_function(X), atol=1e-7)
    path = l1jax.path(X, y, l1jax.L1(), n_lams=5, **options)
    assert (np.asarray(path.status) == l1jax.Status.CONVERGED).all()
