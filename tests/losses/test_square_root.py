"""The square-root lasso: it is the lasso at another strength, and not a sum over rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import Lasso

import l1jax
from l1jax import Status

LOSS = l1jax.SquareRootLasso()
Y, S = np.array([1.0, -2.0, 0.5, 3.0]), np.array([0.4, 0.3, 0.3, 0.0])
ETA = np.array([0.3, -0.4, 2.0, -1.0])
RNG = np.random.default_rng(1)
X = RNG.normal(size=(40, 60))
TARGET = X[:, 0] - X[:, 1] + RNG.normal(size=40) + 2


def root_mean_square(eta):
    return jnp.sqrt(jnp.sum(S * (Y - eta) ** 2))


@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray])
def test_value_and_derivatives_are_those_of_the_root(convert):
    y, eta, s = map(convert, (Y, ETA, S))
    gradient, hessian = jax.grad(root_mean_square)(ETA), jax.hessian(root_mean_square)(ETA)
    assert float(LOSS.value(y, eta, s)) == pytest.approx(float(root_mean_square(ETA)), rel=1e-15)
    np.testing.assert_allclose(LOSS.gradient(y, eta, s), gradient, atol=1e-15)
    np.testing.assert_allclose(LOSS.curvature(y, eta, s), np.diag(hessian), atol=1e-15)
    apply = LOSS.hessian(y, eta, s)
    np.testing.assert_allclose(
        np.stack([apply(e) for e in convert(np.eye(4))]), hessian, atol=1e-15
    )
    over = np.diag(np.asarray(LOSS.majorant(y, eta, s))) - hessian
    assert np.linalg.eigvalsh(over).min() >= -1e-15
    rows = LOSS.per_row(y, eta)
    assert float(rows.mean()) == pytest.approx(float(LOSS.value(y, eta, convert(np.full(4, 0.25)))))
    shift = LOSS.polish_intercept(y, eta, s)
    assert float(LOSS.gradient(y, eta + shift, s).sum()) == pytest.approx(0, abs=1e-15)


def test_the_conjugate_is_a_linear_function_on_the_unit_ball():
    u = LOSS.gradient(Y, ETA, S)
    assert (u[S > 0] ** 2 / S[S > 0]).sum() == pytest.approx(1)
    for c in (0.0, 0.5, 1.0):
        assert LOSS.conjugate(Y, c * u, S) == pytest.approx(c * u @ Y, abs=1e-15)
        direct = LOSS.value(Y, ETA, S) + c * u @ Y - c * u @ ETA
        assert LOSS.fenchel_gap(Y, ETA, np.asarray(c), S) == pytest.approx(direct, abs=1e-15)
    assert LOSS.conjugate(Y, 1.01 * u, S) == np.inf


def test_where_all_residuals_vanish_nothing_is_nan():
    for method in ("value", "gradient", "curvature", "majorant", "deviance"):
        found = getattr(LOSS, method)(jnp.asarray(Y), jnp.asarray(Y), jnp.asarray(S))
        assert (np.asarray(found) == 0).all()
    assert np.isfinite(jax.grad(LOSS.value, argnums=1)(jnp.asarray(Y), jnp.asarray(Y), S)).all()


@pytest.mark.parametrize("alpha", [0.3, 0.1])
def test_it_is_the_lasso_at_another_strength(alpha):
    exact = Lasso(alpha, tol=1e-14, max_iter=100_000).fit(X, TARGET)
    size = np.sqrt(np.mean((TARGET - exact.predict(X)) ** 2))
    fit = l1jax.fit(X, TARGET, l1jax.L1(alpha / size), loss=LOSS, tol=1e-12)
    assert fit.status == Status.CONVERGED
    np.testing.assert_allclose(fit.coef, exact.coef_, atol=1e-6)
    assert float(fit.intercept) == pytest.approx(exact.intercept_, abs=1e-6)


def test_a_path_is_certified_and_does_not_depend_on_the_unit_of_y():
    options = {
        "loss": LOSS,
        "n_lams": 8,
        "lam_min_ratio": 0.2,
        "tol": 1e-8,
        "engine": "working_set",
    }
    path = l1jax.path(X, TARGET, l1jax.L1(), **options)
    assert (np.asarray(path.status) == Status.CONVERGED).all()
    assert np.max(path.relative_gaps) <= 1e-8
    scaled = l1jax.path(X, 1e3 * TARGET, l1jax.L1(), **options)
    np.testing.assert_allclose(scaled.lams, path.lams, rtol=1e-12)
    np.testing.assert_allclose(scaled.coefs, 1e3 * path.coefs, atol=1e-3)


def test_cross_validation_scores_by_the_root_mean_squared_error():
    lams, folds = np.array([0.5, 0.3]), np.arange(40) % 2
    cv = l1jax.cross_validate(X, TARGET, l1jax.L1(), loss=LOSS, lams=lams, folds=folds, tol=1e-10)
    scores = np.zeros((2, 2))
    for k in range(2):
        path = l1jax.path(
            X[folds != k], TARGET[folds != k], l1jax.L1(), loss=LOSS, lams=lams, tol=1e-10
        )
        eta = path.coefs @ X[folds == k].T + np.asarray(path.intercepts)[:, None]
        scores[k] = 2 * np.sqrt(np.mean((TARGET[folds == k] - eta) ** 2, axis=1))
    np.testing.assert_allclose(cv.mean_score, scores.mean(axis=0), rtol=1e-6)
