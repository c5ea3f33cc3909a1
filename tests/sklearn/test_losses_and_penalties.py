"""Estimators of other losses and penalties: against the problems that they promise to solve."""

import cvxpy as cp
import numpy as np
import pandas as pd
import pytest
from scipy.stats import nbinom
from sklearn import linear_model, metrics
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_sample_weight

import l1jax
from l1jax import sklearn as ours

RNG = np.random.default_rng(3)
N, P = 80, 6
X = RNG.normal(size=(N, P))
ETA = X[:, 0] - 2 * X[:, 1] + 0.5 * X[:, 4]
NOISY = ETA + 0.5 * RNG.normal(size=N)
COUNTS = RNG.poisson(np.exp(ETA / 3) * RNG.gamma(2, 0.5, N)).astype(float)
COSTS = np.exp(ETA / 3) * RNG.gamma(2, 0.5, N)
GRADES = np.digitize(NOISY, [-1.5, 0.5])
TIGHT = {"solver": "CLARABEL", "tol_gap_abs": 1e-13, "tol_gap_rel": 1e-13, "tol_feas": 1e-12}
WEIGHTS = np.array([4.0, 3.0, 2.0, 2.0, 1.0, 0.5])


def _l1(w):
    return cp.norm1(w)


def _net(w):
    return 0.6 * cp.norm1(w) + 0.2 * cp.sum_squares(w)


def _sorted(w):
    steps = WEIGHTS - np.append(WEIGHTS[1:], 0)
    return sum(step * cp.sum_largest(cp.abs(w), k + 1) for k, step in enumerate(steps) if step)


def _fused(w):
    return 0.7 * cp.tv(w) + 0.3 * cp.norm1(w)


def _squares(y, eta):
    return cp.sum_squares(y - eta) / (2 * N)


def _root(y, eta):
    return cp.norm2(y - eta) / np.sqrt(N)


def _gamma(y, eta):
    return cp.sum(cp.multiply(y, cp.exp(-eta)) + eta) / N


def _tweedie(y, eta):
    return cp.sum(2 * cp.exp(eta / 2) + 2 * cp.multiply(y, cp.exp(-eta / 2))) / N


def _negative_binomial(y, eta):
    return cp.sum(cp.multiply(y + 2, cp.logistic(eta + np.log(0.5))) - cp.multiply(y, eta)) / N


PROBLEMS = [
    (ours.SparseSLOPE(0.1, weights=WEIGHTS), NOISY, _squares, _sorted),
    (ours.FusedLasso(0.1, l1_ratio=0.3), NOISY, _squares, _fused),
    (ours.SqrtLasso(0.1), NOISY, _root, _l1),
    (ours.GammaLasso(0.1, l1_ratio=0.6), COSTS, _gamma, _net),
    (ours.TweedieLasso(0.1, power=1.5, l1_ratio=0.6), COUNTS, _tweedie, _net),
    (ours.NegativeBinomialLasso(0.1, dispersion=0.5, l1_ratio=0.6), COUNTS, _negative_binomial, _net),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore:Solution may be inaccurate"
)  # of cvxpy, which stops at rounding
@pytest.mark.parametrize(
    ("model", "y", "loss", "penalty"), PROBLEMS, ids=[type(case[0]).__name__ for case in PROBLEMS]
)
def test_coefficients_minimise_what_is_promised(model, y, loss, penalty):
    w, b = cp.Variable(P), cp.Variable()
    problem = cp.Problem(cp.Minimize(loss(y, X @ w + b) + 0.1 * penalty(w)))
    problem.solve(**TIGHT)
    model = clone(model).set_params(tol=1e-12).fit(X, y)
    # The objective is flat: half of the digits of the gap remain for the point.
    np.testing.assert_allclose(model.coef_, w.value, atol=1e-6)
    np.testing.assert_allclose(model.intercept_, b.value, atol=1e-6)
    assert model.fit_.objective == pytest.approx(problem.value, rel=1e-9)
    assert 0 < (model.coef_ != 0).sum() < P or penalty is _fused
    assert 0.1 < model.score(X, y) < 1


def test_quantiles_are_those_of_scikit_learn():
    theirs = linear_model.QuantileRegressor(quantile=0.7, alpha=0.05).fit(X, NOISY)
    model = ours.QuantileLasso(0.05, quantile=0.7, solver="highs").fit(X, NOISY)
    np.testing.assert_allclose(model.coef_, theirs.coef_, atol=1e-5)  # as γ, a part of the loss
    np.testing.assert_allclose(model.intercept_, theirs.intercept_, atol=1e-5)
    np.testing.assert_array_equal(model.coef_ == 0, theirs.coef_ == 0)
    explained = metrics.d2_pinball_score(NOISY, model.predict(X), alpha=0.7)
    assert model.score(X, NOISY) == explained > 0.3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "theirs", "y"),
    [
        (ours.GammaLasso(0.1, l1_ratio=0.0), linear_model.GammaRegressor(alpha=0.1), COSTS),
        (
            ours.TweedieLasso(0.1, power=1.5, link="log", l1_ratio=0.0),
            linear_model.TweedieRegressor(power=1.5, alpha=0.1, link="log"),
            COUNTS,
        ),
    ],
    ids=["gamma", "tweedie"],
)
def test_without_an_l1_part_means_are_those_of_scikit_learn(model, theirs, y):
    weights = np.random.default_rng(0).integers(0, 3, N)
    theirs.set_params(solver="newton-cholesky", tol=1e-12).fit(X, y, weights)
    model.set_params(tol=1e-14).fit(X, y, weights)
    np.testing.assert_allclose(model.coef_, theirs.coef_, atol=1e-6)
    np.testing.assert_allclose(model.predict(X), theirs.predict(X), rtol=1e-6)
    assert model.score(X, y, weights) == pytest.approx(theirs.score(X, y, weights), rel=1e-6)


def test_the_deviance_of_counts_is_that_of_the_negative_binomial_distribution():
    model = ours.NegativeBinomialLasso(0.05, dispersion=0.5).fit(X, COUNTS)

    def likelihood(mean):
        return nbinom.logpmf(COUNTS, 2, 1 / (1 + 0.5 * mean)).sum()

    null = likelihood(np.full(N, COUNTS.mean()))
    explained = (likelihood(model.predict(X)) - null) / (likelihood(COUNTS) - null)
    assert model.score(X, COUNTS) == pytest.approx(explained, rel=1e-10)


def _mcp(t):
    return np.maximum(0.1 - t / 3, 0)


def _scad(t):
    return np.minimum(0.1, np.maximum(3.7 * 0.1 - t, 0) / 2.7)


@pytest.mark.parametrize(
    ("model", "slope"), [(ours.MCPRegressor(0.1), _mcp), (ours.SCADRegressor(0.1), _scad)]
)
def test_concave_penalties_end_at_a_stationary_point_with_large_ones_unshrunk(model, slope):
    scaled = StandardScaler().fit_transform(X)
    model.fit(scaled, NOISY)
    gradient = scaled.T @ (model.predict(scaled) - NOISY) / N
    w, inside = model.coef_, model.coef_ != 0
    np.testing.assert_allclose(
        gradient[inside], -np.sign(w[inside]) * slope(abs(w[inside])), atol=1e-7
    )
    assert (abs(gradient[~inside]) <= 0.1).all() and 0 < inside.sum() < P
    large = abs(w) > 0.4  # all that is in
    np.testing.assert_array_equal(large, inside)
    least, *_ = np.linalg.lstsq(scaled[:, inside], NOISY - NOISY.mean())
    np.testing.assert_allclose(w[inside], least, atol=1e-7)
    assert model.fit_.relative_kkt < 1e-6 and model.dual_gap_ == np.inf
    positive = clone(model).set_params(positive=True).fit(scaled, NOISY)
    assert (positive.coef_ >= 0).all() and positive.coef_[1] == 0


def test_folds_of_concave_penalties_have_the_errors_of_single_fits():
    alphas = [0.5, 0.1]
    chosen = ours.MCPRegressorCV(alphas=alphas, cv=2).fit(X, NOISY)
    halves = np.arange(N) < N // 2
    for fold, test in enumerate((halves, ~halves)):
        for i, alpha in enumerate(alphas):
            one = ours.MCPRegressor(alpha).fit(X[~test], NOISY[~test])
            error = ((one.predict(X[test]) - NOISY[test]) ** 2).mean()
            assert chosen.mse_path_[i, fold] == pytest.approx(error, rel=1e-6)
    assert chosen.alpha_ == 0.1
    np.testing.assert_allclose(chosen.coef_, ours.MCPRegressor(0.1).fit(X, NOISY).coef_, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Objective did not converge")
def test_weights_of_features_are_those_of_scaled_columns():
    weights = np.array([1.0, 2.0, 0.5, 3.0, 1.0, 4.0])
    exact = {"tol": 1e-14, "max_iter": 100_000}
    theirs = linear_model.Lasso(0.1, **exact).fit(X / weights, NOISY)
    model = ours.Lasso(0.1, weights=weights).fit(X, NOISY)
    np.testing.assert_allclose(model.coef_, theirs.coef_ / weights, atol=1e-8)
    chosen = ours.LassoCV(n_alphas=4, cv=2, weights=weights).fit(X, NOISY)
    theirs = linear_model.LassoCV(alphas=chosen.alphas_, cv=2, **exact).fit(X / weights, NOISY)
    np.testing.assert_allclose(chosen.mse_path_, theirs.mse_path_, rtol=1e-6)
    assert len(chosen.alphas_) == 4
    least = ours.Lasso(10.0, weights=[0, 1, 1, 1, 1, 1]).fit(X, NOISY).coef_
    assert least[0] != 0 and not least[1:].any()
    for wrong in (weights[:3], -weights):
        with pytest.raises(ValueError, match="weights must"):
            ours.Lasso(weights=wrong).fit(X, NOISY)


def test_the_weights_of_the_false_discovery_rate_are_the_default():
    given = l1jax.SLOPE.bh_weights(P, 0.2)
    models = [ours.SparseSLOPE(0.05, **how) for how in ({"q": 0.2}, {"weights": given})]
    coefs = [model.fit(X, NOISY).coef_ for model in models]
    np.testing.assert_array_equal(*coefs)
    lasso = ours.SparseSLOPE(0.05, weights=np.full(P, 2.0)).fit(X, NOISY)
    np.testing.assert_array_equal(lasso.coef_, ours.Lasso(0.1).fit(X, NOISY).coef_)
    with pytest.raises(ValueError, match="weights must hold one number per column of X"):
        ours.SparseSLOPE(weights=[1.0]).fit(X, NOISY)
    with pytest.raises(ValueError, match="weights must not increase"):
        ours.SparseSLOPE(weights=np.arange(P) + 1.0).fit(X, NOISY)


@pytest.mark.slow
def test_two_ordered_classes_are_those_of_logistic_regression():
    y = np.where(NOISY > 0.5, "good", "bad")
    options = {"C": 0.3, "class_weight": {"bad": 3.0, "good": 1.0}}
    theirs = linear_model.LogisticRegression(solver="newton-cholesky", tol=1e-12, **options)
    theirs.fit(X, y)
    model = ours.OrdinalRegression(tol=1e-12, **options).fit(X, y)
    np.testing.assert_allclose(model.coef_, theirs.coef_[0], atol=1e-6)
    np.testing.assert_allclose(model.thresholds_, -theirs.intercept_, atol=1e-6)
    np.testing.assert_allclose(model.predict_proba(X), theirs.predict_proba(X), atol=1e-6)
    np.testing.assert_allclose(model.predict_log_proba(X), theirs.predict_log_proba(X), atol=1e-5)
    np.testing.assert_array_equal(model.predict(X), theirs.predict(X))


def test_class_weights_multiply_sample_weights():
    weights = RNG.integers(1, 4, N).astype(float)
    labels = np.array(["a: low", "b: middle", "c: high"])[GRADES]
    each = {"a: low": 2.0, "b: middle": 0.5, "c: high": 1.0}
    model = ours.OrdinalRegression(C=0.5, l1_ratio=1.0, class_weight=each).fit(X, labels, weights)
    whole = weights * compute_sample_weight(each, labels)
    plain = ours.OrdinalRegression(C=0.5, l1_ratio=1.0).fit(X, labels, whole)
    np.testing.assert_array_equal(model.coef_, plain.coef_)
    np.testing.assert_array_equal(model.thresholds_, plain.thresholds_)
    assert not np.allclose(model.coef_, model.set_params(class_weight=None).fit(X, labels).coef_)
    assert model.score(X, labels) > 0.8
    np.testing.assert_allclose(model.fit_.predict(X), model.predict_proba(X))
    found = model.classes_[model.fit_.predict(X, kind="class")]
    np.testing.assert_array_equal(found, model.predict(X))


def test_a_warm_start_begins_where_the_fit_before_ended():
    model = ours.SparseSLOPE(0.1, warm_start=True).fit(X, NOISY)
    coef, steps = model.coef_, model.n_iter_
    model.fit(X, NOISY)
    np.testing.assert_allclose(model.coef_, coef, atol=1e-9)
    assert model.n_iter_ < steps
    model.fit(X[:, :4], NOISY)  # of other columns: from zero
    cold = ours.SparseSLOPE(0.1).fit(X[:, :4], NOISY)
    np.testing.assert_array_equal(model.coef_, cold.coef_)


NEW = [
    (ours.MCPRegressor(0.1), NOISY),
    (ours.SCADRegressor(0.1), NOISY),
    (ours.SparseSLOPE(0.1), NOISY),
    (ours.FusedLasso(0.1), NOISY),
    (ours.SqrtLasso(0.1), NOISY),
    (ours.QuantileLasso(0.1), NOISY),
    (ours.GammaLasso(0.1), COSTS),
    (ours.TweedieLasso(0.1), COUNTS),
    (ours.NegativeBinomialLasso(0.1), COUNTS),
    (ours.OrdinalRegression(), GRADES),
]


@pytest.mark.slow
@pytest.mark.parametrize(("model", "y"), NEW, ids=[type(model).__name__ for model, _ in NEW])
def test_pipelines_grids_and_frames_take_it(model, y):
    frame = pd.DataFrame(X, columns=[f"x{j}" for j in range(P)])
    pipeline = make_pipeline(StandardScaler(), model).set_output(transform="pandas")
    name = f"{type(model).__name__.lower()}__{'C' if 'C' in model.get_params() else 'alpha'}"
    search = GridSearchCV(pipeline, {name: [0.02, 0.2]}, cv=2).fit(frame, y)
    scores = search.cv_results_["mean_test_score"]
    assert np.isfinite(scores).all() and search.best_score_ == scores.max()
    best = search.best_estimator_[-1]
    assert best.feature_names_in_.tolist() == list(frame.columns)
    assert best.fit_.feature_names == tuple(frame.columns)
    assert repr(clone(best)) == repr(best)
    scaled = StandardScaler().fit_transform(X)
    params = {name.rpartition("_")[2]: search.best_params_[name]}
    again = clone(model).set_params(**params).fit(scaled, y)
    np.testing.assert_allclose(best.coef_, again.coef_, atol=1e-9)
    np.testing.assert_allclose(search.predict(frame), again.predict(scaled), rtol=1e-8)


@pytest.mark.parametrize(
    ("model", "y", "message"),
    [
        (ours.TweedieLasso(power=0.5), COUNTS, "'power' parameter of TweedieLasso must be"),
        (ours.TweedieLasso(link="identity"), COUNTS, "'link' parameter of TweedieLasso must be"),
        (ours.GammaLasso(), COUNTS, r"y must hold numbers > 0 for Gamma, got 0"),
        (ours.NegativeBinomialLasso(), -COUNTS, "y must hold counts >= 0"),
        (ours.NegativeBinomialLasso(dispersion=0.0), COUNTS, "'dispersion' parameter"),
        (ours.QuantileLasso(quantile=1.0), NOISY, "'quantile' parameter of QuantileLasso"),
        (ours.SCADRegressor(gamma=2.0), NOISY, "'gamma' parameter of SCADRegressor"),
        (ours.MCPRegressor(weights=[1.0]), NOISY, "weights must hold one number per column"),
        (ours.OrdinalRegression(), np.ones(N), "needs y of two classes or more"),
        (ours.OrdinalRegression(class_weight="equal"), GRADES, "'class_weight' parameter"),
    ],
    ids=lambda value: type(value).__name__ if hasattr(value, "fit") else None,
)
def test_what_cannot_be_is_said(model, y, message):
    with pytest.raises(ValueError, match=message):
        model.fit(X, y)
