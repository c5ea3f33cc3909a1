"""Losses against finite differences and brute force, and each default against its override."""

import equinox as eqx
import jax
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
from tests.losses.cases import CASES

LOSSES = {name: case.loss for name, case in CASES.items()}
Y = {name: jnp.array(case.y) for name, case in CASES.items()}
CONVEX = {name: case for name, case in CASES.items() if case.convex}
S = jnp.array([0.4, 0.3, 0.2, 0.1])
predictors = st.lists(st.floats(-3, 3), min_size=4, max_size=4).map(np.array).map(jnp.asarray)
# One compilation per method and loss: run eagerly, a loop in a default compiles at every call.
call = eqx.filter_jit(lambda method, *args: method(*args))
each = pytest.mark.parametrize("name", LOSSES)
each_convex = pytest.mark.parametrize("name", CONVEX)


@each
@given(eta=predictors)
def test_values_and_derivatives_are_those_of_the_formula(name, eta):
    loss, y, formula = LOSSES[name], Y[name], CASES[name].formula
    rows = call(type(loss).per_row, loss, y, eta) - call(type(loss).per_row, loss, y, 0 * eta)
    expected = formula(y, eta) - formula(y, 0 * eta)
    np.testing.assert_allclose(rows, expected, rtol=1e-12, atol=1e-12)
    if CASES[name].curvature_jumps:
        return
    h = 1e-5  # differences are good to h², and to rounding over h
    slope = S * (formula(y, eta + h) - formula(y, eta - h)) / (2 * h)
    scale = 1 + jnp.abs(expected) + jnp.abs(formula(y, 0 * eta))
    gradient = call(type(loss).gradient, loss, y, eta, S)
    np.testing.assert_allclose(gradient / scale, slope / scale, atol=1e-8)
    ahead, behind = (call(type(loss).gradient, loss, y, eta + d, S) for d in (h, -h))
    curvature = call(type(loss).curvature, loss, y, eta, S)
    np.testing.assert_allclose(curvature / scale, (ahead - behind) / (2 * h) / scale, atol=1e-8)


@each
def test_a_loss_is_convex_where_it_says_so(name):
    loss, eta = LOSSES[name], np.linspace(-6, 6, 2001)
    rows = np.stack([loss.per_row(np.full(2001, target), eta) for target in Y[name]])
    bends = (rows[:, 2:] - 2 * rows[:, 1:-1] + rows[:, :-2]).min()
    rounding = 4 * np.finfo(float).eps * np.abs(rows).max()
    assert (bends >= -rounding) == loss.convex
    if loss.has_curvature:
        assert all(
            (loss.curvature(np.full(2001, t), eta, np.ones(2001)) > 0).all() for t in Y[name]
        )


@each
def test_in_numpy_it_is_the_same(name):
    loss, y, s = LOSSES[name], np.asarray(Y[name]), np.asarray(S)
    eta, c = np.array([0.3, -0.4, 2.0, -1.0]), np.asarray(0.7)
    slope = loss.gradient(y, eta, s)
    for method, arguments in (
        ("value", (y, eta, s)),
        ("gradient", (y, eta, s)),
        ("curvature", (y, eta, s)),
        ("majorant", (y, eta, s)),
        ("deviance", (y, eta, s)),
        ("polish_intercept", (y, eta, s)),
        ("conjugate", (y, 0.7 * slope, s)),
        ("fenchel_gap", (y, eta, c, s)),
    ):
        if method in ("conjugate", "fenchel_gap") and not loss.convex:
            continue
        ours = getattr(loss, method)(*arguments)
        assert not hasattr(ours, "devices"), method
        theirs = call(getattr(type(loss), method), loss, *map(jnp.asarray, arguments))
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-13, err_msg=method)


@each
@given(eta=predictors)
def test_deviances_are_not_negative_and_zero_for_the_saturated_model(name, eta):
    case, loss, y = CASES[name], LOSSES[name], Y[name]
    deviance = float(call(type(loss).deviance, loss, y, eta, S))
    least = float(call(type(loss).value, loss, y, case.least(y), S))
    assert deviance >= 0
    rounding = 1e-13 * (1 + abs(least))
    value = float(call(type(loss).value, loss, y, eta, S))
    value += float(call(type(loss).smoothing_error, loss, y, eta, S))
    assert deviance == pytest.approx(value - least, rel=1e-12, abs=rounding)
    at_least = call(type(loss).deviance, loss, y, case.least(y), S)
    assert float(at_least) == pytest.approx(0, abs=rounding)


@each
@given(eta=predictors)
def test_defaults_equal_overrides(name, eta):
    loss, y = LOSSES[name], Y[name]
    for method, atol in (("gradient", 1e-14), ("curvature", 1e-14), ("polish_intercept", 1e-10)):
        if CASES[name].curvature_jumps and method == "curvature":
            continue
        if method == "polish_intercept" and not loss.convex:
            continue  # the default finds some stationary point
        default = call(getattr(Loss, method), loss, y, eta, S)
        override = call(getattr(type(loss), method), loss, y, eta, S)
        np.testing.assert_allclose(default, override, atol=atol)


@jax.jit
def gap_and_direct_sum(loss, y, eta, c):
    slope = loss.gradient(y, eta, S)
    direct = loss.value(y, eta, S) + loss.conjugate(y, c * slope, S) - c * slope @ eta
    direct += loss.smoothing_error(y, eta, S)
    return loss.fenchel_gap(y, eta, c, S), direct


@each_convex
@given(eta=predictors, c=st.floats(0, 1))
def test_the_fenchel_gap_is_what_it_says_and_never_negative(name, eta, c):
    loss, y = LOSSES[name], Y[name]
    gap, direct = gap_and_direct_sum(loss, y, eta, c)
    assert gap >= 0
    # The direct sum loses digits to cancellation of terms of size up to 100.
    rounding = 1e-12
    assert float(gap) >= float(direct) - rounding
    if not CASES[name].gap_is_bound:
        assert float(gap) == pytest.approx(float(direct), abs=rounding)
    elif c > 0.99:  # equal to second order in 1 − c
        assert float(gap) == pytest.approx(float(direct), rel=10 * (1 - c) + 1e-3, abs=rounding)
    at_one, _ = gap_and_direct_sum(loss, y, eta, 1.0)
    assert at_one == 0 or (loss.is_smoothed and at_one <= 0.5 / 4)  # γ/4


@jax.jit
def reported(loss, y, eta):
    """The loss of each row as objectives have it: of a smoothed one without the smoothing."""
    if not loss.is_smoothed:
        return loss.per_row(y, eta)
    one = jnp.ones(1)
    return jax.vmap(lambda target, at: loss.deviance(target[None], at[None], one))(y, eta)


@each_convex
@pytest.mark.parametrize("c", [0.01, 0.5])
def test_the_conjugate_is_the_supremum(name, c):
    loss, y = LOSSES[name], Y[name]
    eta = jnp.array([0.3, -0.4, 0.2, 0.1])
    u = c * call(type(loss).gradient, loss, y, eta, S)
    grid = np.linspace(-20, 20, 400_001)  # spacing 1e-4, so good to 1e-8 at curvature one
    best = 0.0
    for i in range(4):
        rows = reported(loss, jnp.full(grid.shape, y[i]), jnp.asarray(grid))
        best += float(np.max(float(u[i]) * grid - float(S[i]) * np.asarray(rows)))
    assert float(call(type(loss).conjugate, loss, y, u, S)) == pytest.approx(best, abs=1e-7)


@each
@given(eta=predictors)
def test_the_polished_intercept_is_the_root_that_bisection_finds(name, eta):
    loss, y = LOSSES[name], Y[name]

    def slope(d):
        return float(jnp.sum(call(type(loss).gradient, loss, y, eta + d, S)))

    shift = float(call(type(loss).polish_intercept, loss, y, eta, S))
    assert slope(shift) == pytest.approx(0, abs=1e-13)
    if not loss.convex:
        return  # there may be several
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
        curvature = call(type(loss).curvature, loss, jnp.zeros(101), eta, s)
        assert jnp.max(curvature) <= loss.smoothness


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

    @jax.jit
    def methods(y, eta, s, others):
        found = loss.value(y, eta, s), loss.gradient(y, eta, s), loss.curvature(y, eta, s)
        return *found, loss.fenchel_gap(y, eta, jnp.float32(0.5), s), loss.value(y, -eta, others)

    *found, gap, value = methods(y, eta, s, S.astype(jnp.float32))
    for out in found:
        assert out.dtype == jnp.float32
        assert jnp.isfinite(out).all()
    assert jnp.isfinite(gap) == loss.convex
    assert not jnp.isnan(value)


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


@pytest.mark.slow
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


@pytest.mark.slow
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
@pytest.mark.slow
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


@each
def test_bad_targets_are_named(name):
    case = CASES[name]
    bad, message = case.bad
    y = np.array([*case.y[:2], bad, case.y[3]])
    assert np.asarray(case.loss.accepts(y)).tolist() == [True, True, False, True]
    with pytest.raises(ValueError, match=message):
        l1jax.fit(np.arange(4.0)[:, None], y, l1jax.L1(0.1), loss=case.loss)


@pytest.mark.parametrize(
    ("loss", "y", "message"),
    [
        (l1jax.Logistic(), [-1.0, 1.0], r"\(y \+ 1\) / 2"),
        (l1jax.SquaredHinge(), [-1.0, 1.0], r"SquaredHinge.*\(y \+ 1\) / 2"),
        (l1jax.Huber(), [[1.0]], r"shape \(n,\) for Huber.*y\[:, 0\]"),
        (l1jax.Gamma(), [[1.0]], r"shape \(n,\) for Gamma.*y\[:, 0\]"),
    ],
)
def test_bad_shapes_and_labels_are_named(loss, y, message):
    with pytest.raises(ValueError, match=message):
        loss.check_targets(np.array(y))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: l1jax.Huber(0.0), ValueError, "delta must be > 0"),
        (lambda: l1jax.Quantile(1.0), ValueError, "level must be between 0 and 1, got 1.0"),
        (lambda: l1jax.Quantile(0.5, -1.0), ValueError, "smoothing must be > 0, got -1.0"),
        (lambda: l1jax.NegativeBinomial(0.0), ValueError, "alpha must be > 0, got 0.0.*Poisson"),
        (lambda: l1jax.Tweedie(0.5), ValueError, "power must be <= 0 or >= 1.*got 0.5"),
        (lambda: l1jax.Tweedie(jnp.array(1.5)), TypeError, "power must be a Python number"),
    ],
)
def test_bad_parameters_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


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
