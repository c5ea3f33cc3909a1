"""Quantile regression: against the linear program that it is."""

import jax
import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.stats import norm
from sklearn.linear_model import QuantileRegressor

import l1jax
from l1jax import Status

RNG = np.random.default_rng(4)


def data(n, p):
    x = RNG.normal(size=(n, p))
    return x, x[:, 0] - x[:, 1] + RNG.standard_t(2, size=n) + 3


WIDE, TALL = data(30, 50), data(300, 12)


def pinball(level, y, eta, s):
    return s @ np.maximum(level * (y - eta), (level - 1) * (y - eta))


def linear_program(x, y, level, lam, s):
    """The least objective, by HiGHS."""
    n, p = x.shape
    cost = np.concatenate([np.full(2 * p, lam), [0, 0], level * s, (1 - level) * s])
    one = np.ones((n, 1))
    equal = np.hstack([x, -x, one, -one, np.eye(n), -np.eye(n)])
    found = linprog(cost, A_eq=equal, b_eq=y, method="highs")
    return found.fun, found.x[:p] - found.x[p : 2 * p]


@pytest.mark.parametrize(("xy", "level"), [(WIDE, 0.5), (WIDE, 0.1), (TALL, 0.9)])
@pytest.mark.slow
def test_a_path_reaches_the_objective_of_the_linear_program(xy, level):
    (x, y), loss = xy, l1jax.Quantile(level)
    s = np.where(np.arange(len(y)) % 5 == 0, 0.0, RNG.uniform(0.5, 1.5, len(y)))
    path = l1jax.path(
        x,
        y,
        l1jax.L1(),
        loss=loss,
        sample_weight=s,
        n_lams=12,
        lam_min_ratio=0.05,
        engine="working_set",
    )
    s = s / s.sum()
    null = pinball(level, y, np.quantile(y[s > 0], level), s)
    assert (np.asarray(path.status) == Status.CONVERGED).all()
    assert np.max(path.relative_gaps) <= 1e-6
    for i in (0, 5, 11):
        lam, coef = float(path.lams[i]), path.coefs[i]
        least, _ = linear_program(x, y, level, lam, s)
        eta = x @ coef + path.intercepts[i]
        ours = pinball(level, y, eta, s) + lam * np.abs(coef).sum()
        assert -1e-9 * null <= ours - least <= 1e-6 * null
        assert float(path[i].objective) == pytest.approx(ours, rel=1e-9)


def test_coefficients_are_those_of_scikit_learn():
    x, y = TALL
    exact = QuantileRegressor(quantile=0.3, alpha=0.05, solver="highs").fit(x, y)
    fit = l1jax.fit(x, y, l1jax.L1(0.05), loss=l1jax.Quantile(0.3))
    np.testing.assert_allclose(fit.coef, exact.coef_, atol=1e-4)
    assert float(fit.intercept) == pytest.approx(exact.intercept_, abs=1e-4)
    np.testing.assert_allclose(fit.predict(x), exact.predict(x), atol=1e-4)
    below = (y < np.asarray(fit.predict(x)) - 1e-3).mean()
    assert below == pytest.approx(0.3, abs=0.05)


def test_smoothing_adds_no_more_to_the_objective_than_it_says():
    x, y = TALL
    s, null = np.full(300, 1 / 300), pinball(0.5, y, np.median(y), np.full(300, 1 / 300))
    least, _ = linear_program(x, y, 0.5, 0.05, s)
    for width in (1e-2, 1e-4):
        loss = l1jax.Quantile(0.5, smoothing=width)
        fit = l1jax.fit(x, y, l1jax.L1(0.05), loss=loss, tol=width / null)
        assert fit.status == Status.CONVERGED
        assert least - 1e-9 <= float(fit.objective) <= least + width / 8 + 1e-9  # ½γ max(τ, 1−τ)²
        assert float(fit.objective) - least <= float(fit.gap)


def test_the_default_smoothing_follows_the_units_and_the_level_of_y():
    x, y = WIDE
    lam = 0.05
    one = l1jax.fit(x, y, l1jax.L1(lam), loss=l1jax.Quantile(0.4))
    other = l1jax.fit(1e3 * x, 1e3 * y - 1e5, l1jax.L1(1e3 * lam), loss=l1jax.Quantile(0.4))
    np.testing.assert_allclose(one.coef, other.coef, atol=1e-5)
    assert float(other.objective) == pytest.approx(1e3 * float(one.objective), rel=1e-6)


def test_cross_validation_scores_by_the_pinball_loss():
    x, y = TALL
    lams, folds = np.array([0.1, 0.05]), np.arange(300) % 2
    cv = l1jax.cross_validate(x, y, l1jax.L1(), loss=l1jax.Quantile(0.8), lams=lams, folds=folds)
    scores = np.zeros((2, 2))
    for k in range(2):
        for i, lam in enumerate(lams):
            exact = QuantileRegressor(quantile=0.8, alpha=lam, solver="highs")
            exact.fit(x[folds != k], y[folds != k])
            held = folds == k
            scores[k, i] = 2 * pinball(0.8, y[held], exact.predict(x[held]), np.full(150, 1 / 150))
    np.testing.assert_allclose(cv.mean_score, scores.mean(axis=0), rtol=1e-4)


def test_the_derivative_by_the_strength_is_that_of_the_piece():
    """The path of the smooth loss is straight between its knots, so that a difference is exact."""
    x, y = WIDE

    def coef(lam):
        return l1jax.fit(
            x, y, l1jax.L1(lam), loss=l1jax.Quantile(0.5, smoothing=0.5), tol=1e-1
        ).coef

    lam, h = 0.1, 1e-6
    slope = jax.jacfwd(coef)(lam)
    expected = (np.asarray(coef(lam + h)) - np.asarray(coef(lam - h))) / (2 * h)
    np.testing.assert_allclose(slope, expected, rtol=1e-5, atol=1e-5 * np.abs(slope).max())


@pytest.mark.parametrize("pen", [l1jax.L1(0.0), l1jax.NonNegativeL1(0.0)], ids=["free", "signed"])
def test_at_a_strength_of_zero_more_columns_than_rows_interpolate(pen):
    x, _ = WIDE
    y = x @ np.linspace(0.1, 1, 50) + 3  # also with coefficients ≥ 0
    fit = l1jax.fit(x, y, pen, loss=l1jax.Quantile(0.3), engine="working_set")
    assert fit.status == Status.CONVERGED
    np.testing.assert_allclose(fit.predict(x), y, atol=1e-6 * np.abs(y).max())
    if isinstance(pen, l1jax.L1):  # of all such coefficients, those of the least norm
        least = np.linalg.lstsq(x - x.mean(axis=0), y - y.mean(), rcond=None)[0]
        np.testing.assert_allclose(fit.coef, least, atol=1e-9)


def test_strengths_down_to_zero_reach_the_objective_of_the_linear_program():
    x, y = TALL
    path = l1jax.path(x, y, l1jax.L1(), loss=l1jax.Quantile(0.3), lams=np.array([0.1, 0.0]))
    s = np.full(300, 1 / 300)
    assert (np.asarray(path.status) == Status.CONVERGED).all()
    null = pinball(0.3, y, np.quantile(y, 0.3), s)
    for i, lam in enumerate((0.1, 0.0)):
        ours = pinball(0.3, y, x @ path.coefs[i] + path.intercepts[i], s)
        ours += lam * np.abs(path.coefs[i]).sum()
        assert ours - linear_program(x, y, 0.3, lam, s)[0] <= 1e-6 * null


@pytest.mark.slow
def test_ties_and_copies_of_columns_do_not_end_a_path():
    """Rows on both sides of λmax, an even number of rows, columns twice: no side is certain there."""
    x = np.round(RNG.normal(size=(40, 60)))
    x[:, 30:] = x[:, :30]
    y = np.round(x[:, 0] - x[:, 1] + RNG.normal(size=40))
    path = l1jax.path(
        x,
        y,
        l1jax.L1(),
        loss=l1jax.Quantile(0.5),
        n_lams=6,
        lam_min_ratio=0.1,
        engine="working_set",
    )
    s = np.full(40, 1 / 40)
    assert (np.asarray(path.status) == Status.CONVERGED).all()
    for i, lam in enumerate(np.asarray(path.lams)):
        ours = pinball(0.5, y, x @ path.coefs[i] + path.intercepts[i], s)
        ours += lam * np.abs(path.coefs[i]).sum()
        least = linear_program(x, y, 0.5, lam, s)[0]
        assert -1e-9 <= ours - least <= 1e-6 * pinball(0.5, y, np.median(y), s)


def test_predictions_of_several_levels_do_not_cross_and_come_no_further_from_the_truth():
    rng = np.random.default_rng(2)
    levels, x = np.array([0.4, 0.5, 0.6]), rng.normal(size=(30, 5))
    y = 1 + x[:, 0] + 2 * rng.normal(size=30)
    found = l1jax.quantiles(x, y, l1jax.L1(1e-3), levels)
    for level, one in zip(levels, found.fits, strict=True):  # each that of scikit-learn
        exact = QuantileRegressor(quantile=level, alpha=1e-3, solver="highs").fit(x, y)
        np.testing.assert_allclose(one.coef, exact.coef_, atol=1e-4)
    new = 3 * rng.normal(size=(200, 5))
    lines, sorted_lines = found.predict(new, noncrossing=False), found.predict(new)
    assert (np.diff(lines, axis=1) < 0).any()  # few rows: the lines do cross
    assert (np.diff(sorted_lines, axis=1) >= 0).all()
    truth = 1 + new[:, :1] + 2 * norm.ppf(levels)
    for power in (1, 2):
        before, after = (np.sum(abs(q - truth) ** power, axis=1) for q in (lines, sorted_lines))
        assert (after <= before + 1e-12).all()


def test_levels_are_checked():
    x, y = WIDE
    for levels in ([0.5, 0.2], [0.0, 0.5], 0.5, []):
        with pytest.raises(ValueError, match="levels must ascend"):
            l1jax.quantiles(x, y, l1jax.L1(0.1), levels)
    with pytest.raises(TypeError, match="takes no loss"):
        l1jax.quantiles(x, y, l1jax.L1(0.1), loss=l1jax.Quantile())


@pytest.mark.parametrize("engine", ["auto", "working_set"])
def test_without_an_intercept_nothing_may_be_in(engine):
    """No row is at a corner then, and the system of the sides is empty."""
    x, y = WIDE
    pen = l1jax.NonNegativeL1(1e3)
    fit = l1jax.fit(x, y, pen, loss=l1jax.Quantile(0.3), fit_intercept=False, engine=engine)
    assert fit.status == Status.CONVERGED and not np.any(fit.coef)
    s = np.full(30, 1 / 30)
    assert float(fit.objective) == pytest.approx(pinball(0.3, y, 0, s), rel=1e-12)
