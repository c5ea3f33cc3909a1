"""Unpenalised columns that are nearly collinear: solved in an orthonormal basis, certified off their span."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
import sklearn.linear_model
import statsmodels.api as sm

import l1jax

N, LAM = 120, 0.05
WEIGHTS = np.array([0.0, 0, 1, 1, 1, 1, 1, 1])


def quadratic_trend(seed):
    """year² and year (correlation 1 − 1e-8 of the columns), six other features, and the trend's basis."""
    rng = np.random.default_rng(seed)
    year = rng.integers(1990, 2021, N).astype(float)
    others = rng.normal(size=(N, 6))
    trend = 0.1 * (year - 2005) + 0.01 * (year - 2005) ** 2
    y = trend + others @ np.array([1, 0, 0, 0.5, 0, 0]) + rng.normal(size=N)
    X = np.column_stack([year**2, year, others])
    span = np.column_stack([np.ones(N), year - 2005, (year - 2005) ** 2])
    return X, y, np.linalg.qr(span)[0]


def projected_lasso(X, y, basis, lam):
    """Coefficients of the penalised columns by scikit-learn, with the unpenalised ones projected out."""
    others = X[:, 2:] / X[:, 2:].std(axis=0)
    others, y = (part - basis @ (basis.T @ part) for part in (others, y))
    lasso = sklearn.linear_model.Lasso(alpha=lam, fit_intercept=False, tol=1e-14, max_iter=100_000)
    coef = lasso.fit(others, y).coef_
    residual = y - others @ coef
    return coef / X[:, 2:].std(axis=0), 0.5 * residual @ residual / N + lam * np.abs(coef).sum()


@pytest.mark.parametrize("seed", range(8))
def test_trend_with_its_square_is_certified(seed):
    X, y, basis = quadratic_trend(seed)
    fit = l1jax.fit(X, y, l1jax.L1(LAM, weights=WEIGHTS), standardize=True)
    coef, objective = projected_lasso(X, y, basis, LAM)
    assert fit.status == l1jax.Status.CONVERGED
    assert fit.relative_gap <= 1e-12
    # scikit-learn stops at a gap of 1e-14 of ‖y‖²: half of the digits of a coefficient.
    np.testing.assert_allclose(fit.coef[2:], coef, atol=1e-6)
    assert abs(fit.objective - objective) <= 1e-12


@pytest.mark.fast
def test_options_hold_the_deviations_of_the_columns_as_given():
    X, y, _ = quadratic_trend(0)
    fit = l1jax.fit(X, y, l1jax.L1(LAM, weights=WEIGHTS), standardize=True)
    np.testing.assert_allclose(fit.options.scale, X.std(axis=0), rtol=1e-12)


def test_path_and_cross_validation_with_such_columns_do_not_warn():
    X, y, basis = quadratic_trend(0)
    pen = l1jax.L1(weights=WEIGHTS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cv = l1jax.cross_validate(X, y, pen, n_lams=10, n_folds=4, standardize=True)
    assert (cv.fold_status == l1jax.Status.CONVERGED).all()
    for i in (0, 5, 9):
        _, objective = projected_lasso(X, y, basis, float(cv.lams[i]))
        assert abs(cv.path[i].objective - objective) <= 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("difference", [1e-5, 1e-7, 1e-9])
def test_columns_that_hardly_differ_are_least_squares(difference, sparse):
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, N))
    X = np.column_stack([one, one + difference * other, rng.normal(size=(N, 6))])
    y = one + 0.3 * other + X[:, 2] + rng.normal(size=N)
    X_given = scipy.sparse.csr_array(X) if sparse else X
    fit = l1jax.fit(X_given, y, l1jax.L1(1e3, weights=WEIGHTS))  # no other feature is in
    span = np.column_stack([np.ones(N), one, other])
    residual = y - span @ np.linalg.lstsq(span, y)[0]
    assert fit.status == l1jax.Status.CONVERGED
    # The second column has lost all digits of `other` but these, and the first of that the coefficients.
    rounding = 100 * np.finfo(float).eps / difference
    least = 0.5 * residual @ residual / N
    assert abs(fit.objective - least) <= rounding * least
    own = y - X @ fit.coef - fit.intercept
    assert abs(0.5 * own @ own / N - fit.objective) <= rounding * least


@pytest.mark.slow
@pytest.mark.parametrize("difference", [1e-9, 1e-11, 1e-13])
@pytest.mark.filterwarnings("ignore::l1jax.ConvergenceWarning")
def test_the_objective_is_that_of_the_coefficients_returned(difference):
    rng = np.random.default_rng(1)
    others = rng.normal(size=(N, 6))
    X = np.column_stack([others, others[:, 0] + difference * rng.normal(size=N)])
    y = others[:, 0] + rng.normal(size=N)
    fit = l1jax.fit(X, y, l1jax.L1(0.1, weights=np.array([0.0, 1, 1, 1, 1, 1, 0])))
    coef, intercept = (np.asarray(part, np.longdouble) for part in (fit.coef, fit.intercept))
    residual = y - X.astype(np.longdouble) @ coef - intercept
    objective = 0.5 * np.mean(residual**2) + 0.1 * np.abs(coef[1:6]).sum()
    # What rounding hides of it is a part of the gap.
    assert abs(float(fit.objective) - float(objective)) <= float(fit.gap)


def test_equal_columns_share_their_coefficient():
    X, y, _ = quadratic_trend(1)
    X[:, 0] = X[:, 1]
    fit = l1jax.fit(X, y, l1jax.L1(LAM, weights=WEIGHTS), standardize=True)
    assert fit.status == l1jax.Status.CONVERGED
    assert float(fit.coef[0]) == pytest.approx(float(fit.coef[1]), rel=1e-9)  # that of least norm


@pytest.mark.slow
def test_logistic_trend_is_maximum_likelihood():
    X, y, basis = quadratic_trend(2)
    labels = (y > np.median(y)).astype(float)
    fit = l1jax.fit(X, labels, l1jax.L1(1e3, weights=WEIGHTS), loss=l1jax.Logistic())
    expected = sm.Logit(labels, basis * np.sqrt(N)).fit(disp=False, tol=1e-12)
    assert fit.status == l1jax.Status.CONVERGED
    assert fit.objective == pytest.approx(-expected.llf / N, rel=1e-12)
    np.testing.assert_allclose(fit.predict(X), expected.predict(), atol=1e-8)


@pytest.mark.slow
def test_unpenalised_groups_are_solved_alike():
    X, y, basis = quadratic_trend(3)
    X = X / X.std(axis=0)
    groups, weights = [0, 0, 1, 2, 3, 4, 5, 6], [0.0, 1, 1, 1, 1, 1, 1]
    fit = l1jax.fit(X, y, l1jax.GroupL1(LAM, groups, weights=weights))
    coef, objective = projected_lasso(X, y, basis, LAM)
    assert fit.status == l1jax.Status.CONVERGED
    assert abs(fit.objective - objective) <= 1e-10
    np.testing.assert_allclose(fit.coef[2:], coef, atol=1e-5)


@pytest.mark.slow
def test_a_relaxed_path_with_such_columns_is_least_squares():
    X, y, _ = quadratic_trend(4)
    path = l1jax.path(X, y, l1jax.L1(weights=WEIGHTS), lams=[1e3, 1e-3])
    relaxed = l1jax.relax(path, X, y)
    year = (X[:, 1] - 2005) / 10
    full = np.column_stack([np.ones(N), year, year**2, X[:, 2:]])
    residual = y - full @ np.linalg.lstsq(full, y)[0]
    explained = 1 - residual @ residual / np.sum((y - y.mean()) ** 2)
    own = y - relaxed[1].predict(X)
    assert relaxed[1].n_nonzero == 8
    assert own @ own == pytest.approx(residual @ residual, rel=1e-9)
    assert explained > 0


@pytest.mark.slow
def test_a_start_at_the_solution_stays_there():
    X, y, _ = quadratic_trend(5)
    pen = l1jax.L1(LAM, weights=WEIGHTS)
    first = l1jax.fit(X, y, pen)
    again = l1jax.fit(X, y, pen, init=first, engine="fista")
    assert again.status == l1jax.Status.CONVERGED
    assert abs(again.objective - first.objective) <= 1e-9 * first.objective


@pytest.mark.slow
def test_derivative_by_the_strength_is_the_finite_difference():
    X, y, _ = quadratic_trend(6)
    X[:, 0] = (X[:, 1] - 2005) * 30 + 0.03 * X[:, 0] / 2005  # condition of about a thousand
    X = jnp.asarray(X)

    def objective(lam):
        fit = l1jax.fit(X, y, l1jax.L1(lam, weights=WEIGHTS))
        return jnp.sum(fit.coef[2:] ** 2)

    step = 1e-5
    difference = (objective(LAM + step) - objective(LAM - step)) / (2 * step)
    assert jax.grad(objective)(LAM) == pytest.approx(float(difference), rel=1e-5)


@pytest.mark.float32
def test_single_precision_data_are_certified():
    X, y, _ = quadratic_trend(7)
    X[:, :2] = np.column_stack([X[:, 1] - 2005, (X[:, 1] - 2005) ** 2 / 10 + 30 * (X[:, 1] - 2005)])
    fit = l1jax.fit(X.astype(np.float32), y.astype(np.float32), l1jax.L1(LAM, weights=WEIGHTS))
    assert fit.coef.dtype == np.float32
    assert fit.status == l1jax.Status.CONVERGED
