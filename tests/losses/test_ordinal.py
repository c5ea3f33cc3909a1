"""Proportional odds: against its likelihood with thresholds, minimised by others, and against Logistic."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit
from statsmodels.miscmodels.ordinal_model import OrderedModel

import l1jax
from l1jax import Status
from l1jax.linear.data._inputs import read
from l1jax.linear.model._prepare import prepare_inputs

LOSS = l1jax.Ordinal()
RNG = np.random.default_rng(0)
N, P = 80, 12
X = RNG.normal(size=(N, P))
LATENT = X[:, 0] - X[:, 1] + RNG.logistic(size=N)
Y = np.digitize(LATENT, [-1.0, 0.5, 2.0]).astype(float)
TWO = (LATENT > 0.3).astype(float)
ETA = X[:, 0] - 0.5 * X[:, 2]
S = RNG.random(N)
S[:5] = 0
S /= S.sum()
UNIFORM = np.full(N, 1 / N)


def likelihood(theta, eta, s, y=Y):
    """Σ s of minus the log-probabilities, at given thresholds."""
    edges, k = np.concatenate([[-np.inf], theta, [np.inf]]), y.astype(int)
    with np.errstate(divide="ignore", invalid="ignore"):
        return -np.sum(s * np.log(expit(edges[k + 1] - eta) - expit(edges[k] - eta)))


def best_thresholds(eta, s):
    options = {"xatol": 1e-9, "fatol": 1e-15, "maxiter": 10_000}
    return minimize(likelihood, [-1.0, 0.0, 1.0], (eta, s), method="Nelder-Mead", options=options)


def profile(eta):
    return LOSS.value(LOSS.encode(Y), eta, S)


def test_the_value_is_the_least_likelihood_over_the_thresholds():
    found = best_thresholds(ETA, S)
    assert float(profile(ETA)) == pytest.approx(found.fun, rel=1e-12)
    np.testing.assert_allclose(LOSS.thresholds(Y, ETA, S), found.x, atol=1e-6)


def test_derivatives_are_those_of_finite_differences():
    y, eye = LOSS.encode(Y), np.eye(N)[[0, 7, 8, 30]]
    gradient = LOSS.gradient(y, ETA, S)
    step = 1e-5
    slopes = [(profile(ETA + step * e) - profile(ETA - step * e)) / (2 * step) for e in eye]
    np.testing.assert_allclose(eye @ gradient, slopes, atol=1e-9)
    hessian = LOSS.hessian(y, ETA, S)
    for e in eye:
        change = LOSS.gradient(y, ETA + step * e, S) - LOSS.gradient(y, ETA - step * e, S)
        np.testing.assert_allclose(hessian(jnp.asarray(e)), change / (2 * step), atol=1e-9)
    whole = np.asarray(jax.vmap(hessian)(jnp.eye(N)))
    np.testing.assert_allclose(LOSS.curvature(y, ETA, S), np.diag(whole), atol=1e-15)
    assert np.linalg.eigvalsh(whole).min() >= -1e-15
    over = np.diag(np.asarray(LOSS.majorant(y, ETA, S))) - whole
    assert np.linalg.eigvalsh(over).min() >= -1e-15


def test_the_gap_of_the_loss_bounds_what_the_convex_function_leaves():
    y = LOSS.encode(Y)
    gaps = [float(LOSS.fenchel_gap(y, ETA, np.asarray(c), S)) for c in (0.0, 0.5, 1.0)]
    assert gaps[0] == pytest.approx(float(profile(ETA)), rel=1e-14)
    assert gaps[2] == 0
    # L(η) + L*(u) − ⟨u, η⟩, of which the bound is one; L* by its definition.
    u = 0.5 * np.asarray(LOSS.gradient(y, ETA, S))

    def negative(eta):
        return float(profile(eta)) - u @ eta, np.asarray(LOSS.gradient(y, eta, S)) - u

    exact = profile(ETA) - u @ ETA - minimize(negative, ETA, jac=True, method="L-BFGS-B").fun
    assert gaps[1] >= float(exact) > 0.01


@pytest.mark.parametrize("scale", [1e3, -1e3, -1e5])
def test_extreme_predictors_neither_overflow_nor_stop_the_thresholds(scale):
    theta = np.asarray(LOSS.thresholds(Y, scale * Y, UNIFORM))
    assert (np.diff(theta) > 0).all()
    value = float(LOSS.value(LOSS.encode(Y), scale * Y, UNIFORM))
    assert np.isfinite(value)
    if scale > 0:
        assert value < 1e-20  # classes are apart
        return
    # At the least, the loss goes up to both sides of every threshold.
    for move in 1e-2 * np.vstack([np.eye(3), -np.eye(3)]):
        assert likelihood_far(theta + move, scale * Y) > likelihood_far(theta, scale * Y)


def likelihood_far(theta, eta):
    """`likelihood` by logs of sigmoids, in which nothing is lost far out."""
    edges, k = np.concatenate([[-1e9], theta, [1e9]]), Y.astype(int)
    a, b = edges[k + 1] - eta, edges[k] - eta
    return np.mean(np.logaddexp(0, -a) + np.logaddexp(0, b) - np.log(-np.expm1(b - a)))


def test_a_class_without_weight_has_no_interval():
    some = np.where(Y == 1, 0, UNIFORM)
    theta = np.asarray(LOSS.thresholds(Y, ETA, some))
    others = Y[Y != 1]
    merged = np.asarray(LOSS.thresholds(others - (others > 1), ETA[Y != 1], some[Y != 1]))
    assert theta[0] == theta[1]
    np.testing.assert_allclose(theta[1:], merged, atol=1e-12)
    top = LOSS.thresholds(Y, ETA, np.where(Y == 3, 0, UNIFORM))
    assert float(top[2]) == np.inf
    found = l1jax.Ordinal(thresholds=theta).inverse_link(jnp.asarray(ETA))
    np.testing.assert_allclose(found[:, 1], 0)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-14)


def test_a_fit_is_that_of_lbfgs_on_the_likelihood_with_thresholds():
    lam = 0.05

    def objective(v):
        beta, theta = v[:P] - v[P : 2 * P], v[2 * P] + np.cumsum([0, *v[2 * P + 1 :]])
        return likelihood(theta, X @ beta, UNIFORM) + lam * v[: 2 * P].sum()

    start = np.concatenate([np.zeros(2 * P), [-1.0, 1.0, 1.0]])
    bounds = [(0, None)] * (2 * P) + [(None, None), (1e-6, None), (1e-6, None)]
    options = {"maxiter": 5000, "maxfun": 10**6, "ftol": 1e-14, "gtol": 1e-9}
    found = minimize(objective, start, method="L-BFGS-B", bounds=bounds, options=options)
    fit = l1jax.fit(X, Y, l1jax.L1(lam), loss=LOSS, tol=1e-10)
    assert fit.status == Status.CONVERGED
    assert 0 <= fit.relative_gap <= 1e-10
    assert float(fit.intercept) == 0
    assert float(fit.objective) == pytest.approx(found.fun, abs=1e-8)
    np.testing.assert_allclose(fit.coef, found.x[:P] - found.x[P : 2 * P], atol=1e-4)


@pytest.mark.slow
def test_without_a_penalty_it_is_the_ordered_model_of_statsmodels():
    model = OrderedModel(Y.astype(int), X[:, :2], distr="logit")
    exact = model.fit(method="bfgs", disp=False, gtol=1e-7, maxiter=1000)  # good to 1e-6
    theta = model.transform_threshold_params(exact.params)[1:-1]
    fit = l1jax.fit(X, Y, l1jax.L1(0.0, weights=np.r_[1, 1, np.full(P - 2, np.inf)]), loss=LOSS)
    np.testing.assert_allclose(fit.coef[:2], exact.params[:2], atol=1e-4)
    np.testing.assert_allclose(fit.thresholds, theta, atol=1e-4)
    np.testing.assert_allclose(fit.predict(X), exact.predict(X[:, :2]), atol=1e-4)
    np.testing.assert_array_equal(
        fit.predict(X, kind="class"), exact.predict(X[:, :2]).argmax(axis=1)
    )


def test_every_fit_of_a_path_predicts_at_its_own_thresholds():
    lams, weights = np.array([0.1, 0.05]), RNG.integers(1, 4, N)
    path = l1jax.path(X + 5, Y, l1jax.L1(), loss=LOSS, lams=lams, sample_weight=weights)
    probabilities = path.predict(X + 5)
    for i in range(2):
        eta = (X + 5) @ np.asarray(path.coefs[i])
        theta = best_thresholds(eta, weights / weights.sum()).x
        np.testing.assert_allclose(path[i].thresholds, theta, atol=1e-6)
        below = expit(theta - eta[:, None])
        expected = np.diff(below, axis=1, prepend=0, append=1)
        np.testing.assert_allclose(probabilities[i], expected, atol=1e-6)
    np.testing.assert_allclose(path.at(0.075).thresholds, path.fits.thresholds.mean(axis=0))
    file = io.BytesIO()
    path.save(file)
    file.seek(0)
    labels = l1jax.load(file).predict(X + 5, kind="class")
    np.testing.assert_array_equal(labels, np.argmax(probabilities, axis=2))


@pytest.mark.slow
def test_probabilities_have_the_derivative_of_finite_differences():
    def predicted(lam, rows):
        fit = l1jax.fit(X, Y, l1jax.L1(lam), loss=LOSS, tol=1e-12)
        return fit.predict(rows)

    rows, step = X[:2], 1e-5
    found = jax.jacfwd(predicted)(0.05, rows)
    differences = (predicted(0.05 + step, rows) - predicted(0.05 - step, rows)) / (2 * step)
    np.testing.assert_allclose(found, differences, atol=1e-6)
    assert np.abs(differences).min() > 0.1


@pytest.mark.slow
def test_folds_are_scored_by_the_classes_and_probabilities_of_held_out_rows():
    lams, folds = np.array([0.15, 0.08, 0.03]), np.arange(N) % 2
    options = {"loss": LOSS, "lams": lams, "folds": folds, "tol": 1e-12}
    accuracy, log_loss = (
        l1jax.cross_validate(X, Y, l1jax.L1(), score=score, **options).fold_scores
        for score in ("accuracy", "neg_log_loss")
    )
    for k in range(2):
        rest = l1jax.path(X[folds != k], Y[folds != k], l1jax.L1(), loss=LOSS, lams=lams, tol=1e-12)
        labels = np.asarray(rest.predict(X[folds == k], kind="class"))
        np.testing.assert_allclose(accuracy[k], (labels == Y[folds == k]).mean(axis=1))
        own = np.asarray(rest.predict(X[folds == k]))[:, range(N // 2), Y[folds == k].astype(int)]
        np.testing.assert_allclose(log_loss[k], np.log(own).mean(axis=1))


@pytest.mark.slow
def test_with_two_classes_a_path_is_that_of_logistic_with_an_intercept():
    lams = np.array([0.15, 0.08, 0.03])
    ours, exact = (
        l1jax.path(X, TWO, l1jax.L1(), loss=loss, lams=lams, tol=1e-12)
        for loss in (LOSS, l1jax.Logistic())
    )
    assert (np.asarray(ours.status) == Status.CONVERGED).all()
    np.testing.assert_allclose(ours.coefs, exact.coefs, atol=1e-8)
    np.testing.assert_allclose(ours.deviance_explained, exact.deviance_explained, atol=1e-10)
    for ours_at, exact_at in zip(ours, exact, strict=True):
        theta = LOSS.thresholds(TWO, ours_at.predict(X, kind="link"), UNIFORM)
        assert -float(theta[0]) == pytest.approx(float(exact_at.intercept), abs=1e-8)
    folds = np.arange(N) % 2
    scores = [
        l1jax.cross_validate(X, TWO, l1jax.L1(), loss=loss, lams=lams, folds=folds, tol=1e-12)
        for loss in (LOSS, l1jax.Logistic())
    ]
    np.testing.assert_allclose(scores[0].fold_scores, scores[1].fold_scores, atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "y"),
    [
        (LOSS, Y),
        (l1jax.Cox(), np.column_stack([np.exp(LATENT), TWO])),
        (l1jax.SquareRootLasso(), LATENT),
    ],
)
def test_a_derivative_by_the_strength_is_that_of_finite_differences(loss, y):
    """Of losses that are no sums over rows."""

    def moving(lam):
        fit = l1jax.fit(X, y, l1jax.L1(lam), loss=loss, tol=1e-12)
        return jnp.append(fit.coef, fit.intercept)

    found = jax.jacfwd(moving)(0.05)
    step = 1e-5
    differences = (np.asarray(moving(0.05 + step)) - np.asarray(moving(0.05 - step))) / (2 * step)
    np.testing.assert_allclose(found, differences, atol=1e-4)
    assert np.abs(differences).max() > 0.5


def test_what_is_no_class_is_refused():
    with pytest.raises(ValueError, match=r"labels 0, 1, ..., K-1 for Ordinal.*got 4.0 at row"):
        l1jax.fit(X, Y + 1, l1jax.L1(0.1), loss=LOSS)
    with pytest.raises(ValueError, match=r"l1jax.Ordinal\(n_classes=...\)"):
        l1jax.fit(X, Y + 0.5, l1jax.L1(0.1), loss=LOSS)
    with pytest.raises(ValueError, match="n_classes must be a whole number >= 2"):
        l1jax.Ordinal(1)
    with pytest.raises(ValueError, match=r"n_classes - 1 = 2 numbers, got shape \(1,\)"):
        l1jax.Ordinal(3, [0.0])
    with pytest.raises(ValueError, match="thresholds must ascend"):
        l1jax.Ordinal(thresholds=[1.0, 0.0])
    with pytest.raises(ValueError, match="the class needs the thresholds"):
        LOSS.classes(jnp.asarray(ETA))


@pytest.mark.float32
def test_float32_gives_what_float64_gives():
    data = X.astype(np.float32), Y.astype(np.float32)
    fit = l1jax.fit(*data, l1jax.L1(np.float32(0.05)), loss=LOSS)
    assert fit.coef.dtype == np.float32
    assert fit.status == Status.CONVERGED
    exact = l1jax.fit(X, Y, l1jax.L1(0.05), loss=LOSS)
    np.testing.assert_allclose(fit.coef, exact.coef, atol=1e-3)


def test_in_float32_the_null_model_and_its_strength_are_of_that_precision():
    """NumPy takes more digits where weights are multiplied by counts."""
    x = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    for loss, y in (
        (l1jax.Ordinal(3), np.arange(30) % 3),
        (l1jax.Cox(), np.stack([1.0 + np.arange(30) % 7, np.arange(30) % 2], axis=1)),
    ):
        y = y.astype(np.float32)
        assert l1jax.lambda_max(x, y, l1jax.L1(), loss=loss).dtype == np.float32
        inputs = read(x, y, l1jax.L1(), loss, None, None, has_strength=False)
        null = prepare_inputs(inputs, inputs.pen, inputs.loss, True, False).null
        assert null.deviance.dtype == null.gradient.dtype == np.float32
