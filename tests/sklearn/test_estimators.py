"""The estimators: scikit-learn's own checks, its own answers, and the tools that take estimators."""

import importlib
import inspect
import pickle
import subprocess
import sys
import warnings

import cvxpy as cp
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn import linear_model
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_selection import SelectFromModel
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator, estimator_checks_generator

import l1jax
from l1jax import sklearn as ours
from l1jax._status import convergence_warning
from l1jax.sklearn._padding import padded

# Ours, beside the one of scikit-learn whose checks it must pass. Checks fit 90 times: grids are small.
_GRID = {"alphas": 3, "cv": 2}
CHECKED = [
    (ours.Lasso(), linear_model.Lasso()),
    (ours.LassoCV(**_GRID), linear_model.LassoCV()),
    (ours.ElasticNet(), linear_model.ElasticNet()),
    (ours.ElasticNetCV(**_GRID), linear_model.ElasticNetCV()),
    (ours.MultiTaskLasso(), linear_model.MultiTaskLasso()),
    (ours.MultiTaskLassoCV(**_GRID), linear_model.MultiTaskLassoCV()),
    (ours.MultiTaskElasticNet(), linear_model.MultiTaskElasticNet()),
    (ours.MultiTaskElasticNetCV(**_GRID), linear_model.MultiTaskElasticNetCV()),
    (
        ours.LogisticRegression(l1_ratio=1.0, tol=1e-3),
        linear_model.LogisticRegression(solver="saga"),
    ),
    (
        ours.LogisticRegressionCV(Cs=[1.0], l1_ratios=[1.0], cv=2, tol=1e-3),
        linear_model.LogisticRegressionCV(solver="saga"),
    ),
    (ours.L1PoissonRegressor(), linear_model.PoissonRegressor()),
    (ours.L1HuberRegressor(), linear_model.HuberRegressor()),
    (ours.GroupLasso(), linear_model.HuberRegressor()),
    (ours.GroupLassoCV(**_GRID), linear_model.LassoLarsCV()),
    (ours.SparseGroupLasso(), linear_model.HuberRegressor()),
    (ours.CoxRegressor(), linear_model.HuberRegressor()),
    (ours.MCPRegressor(), linear_model.HuberRegressor()),
    (ours.MCPRegressorCV(**_GRID), linear_model.LassoLarsCV()),
    (ours.SCADRegressor(), linear_model.HuberRegressor()),
    (ours.SparseSLOPE(), linear_model.HuberRegressor()),
    # Others of its ratios compile for each number of columns.
    (ours.FusedLasso(l1_ratio=1.0), linear_model.HuberRegressor()),
    (ours.SqrtLasso(tol=1e-3), linear_model.HuberRegressor()),
    (ours.QuantileLasso(tol=1e-3), linear_model.QuantileRegressor()),
    (ours.GammaLasso(), linear_model.GammaRegressor()),
    (ours.TweedieLasso(), linear_model.TweedieRegressor()),
    (ours.NegativeBinomialLasso(), linear_model.PoissonRegressor()),
]


def _name(value):
    return type(value).__name__


@pytest.mark.parametrize(("estimator", "theirs"), CHECKED, ids=[_name(ours) for ours, _ in CHECKED])
@pytest.mark.slow
def test_every_check_of_scikit_learn_passes(estimator, theirs):
    with warnings.catch_warnings():
        # Its checks hold degenerate data: a row, a class, a constant. What is said of them is not at issue.
        warnings.simplefilter("ignore")
        results = check_estimator(estimator, on_skip=None)
        # Those of its own estimator, but for array namespaces other than NumPy.
        expected = {_check(check) for _, check in estimator_checks_generator(theirs)}
    done = {one["check_name"]: one["status"] for one in results}
    expected = {name for name in expected if "array_api" not in name}
    assert expected <= done.keys()
    assert {done[name] for name in done if "array_api" not in name} == {"passed"}


def _check(check):
    return check.func.__name__ if hasattr(check, "func") else check.__name__


@pytest.fixture(scope="module")
def data():
    """Regression data by name, float64."""
    digits, cancer = load_digits(), load_breast_cancer()
    return {
        "diabetes": load_diabetes(return_X_y=True),
        "breast cancer": (StandardScaler().fit_transform(cancer.data), cancer.target.astype(float)),
        "digits": (digits.data, digits.target.astype(float)),
    }


# Coordinate descent of scikit-learn that goes on until rounding stops it, as it then says.
_EXACT = {"tol": 1e-14, "max_iter": 200_000}
NAMES = ["diabetes", "breast cancer", "digits"]


def _same(ours, theirs):
    """Coefficients and intercept, to 1e-6 of the largest."""
    size = np.abs(theirs.coef_).max()
    assert size > 0
    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=0, atol=1e-6 * size)
    level = np.abs(theirs.intercept_).max() + size
    np.testing.assert_allclose(ours.intercept_, theirs.intercept_, rtol=0, atol=1e-6 * level)
    assert np.shape(ours.coef_) == np.shape(theirs.coef_)
    if ours.fit_intercept:  # without one, scikit-learn says 0 in more than one shape
        assert np.shape(ours.intercept_) == np.shape(theirs.intercept_)


@pytest.mark.filterwarnings("ignore:Objective did not converge")
@pytest.mark.parametrize("name", NAMES)
def test_lasso_and_elastic_net_equal_those_of_scikit_learn(data, name):
    X, y = data[name]
    alpha = 0.05 * float(l1jax.lambda_max(X, y, l1jax.L1()))
    weights = np.random.default_rng(0).integers(0, 3, len(y))
    for ratio, weight in ((1.0, None), (0.5, weights)):
        net = ours.ElasticNet(alpha, l1_ratio=ratio).fit(X, y, weight)
        theirs = linear_model.ElasticNet(alpha, l1_ratio=ratio, **_EXACT).fit(X, y, weight)
        _same(net, theirs)
        assert net.score(X, y) == pytest.approx(theirs.score(X, y), abs=1e-8)
    lasso = ours.Lasso(alpha).fit(X, y)
    _same(lasso, linear_model.Lasso(alpha, **_EXACT).fit(X, y))
    assert lasso.dual_gap_ < 1e-9 * y.var()  # both are exact: what is left is rounding


@pytest.mark.filterwarnings("ignore:Objective did not converge")
@pytest.mark.parametrize("name", NAMES)
def test_multi_task_lasso_equals_that_of_scikit_learn(data, name):
    # Five columns are the targets of others: one shape of all three data sets.
    X = data[name][0][:500]
    X = X / np.where(X.std(axis=0) > 0, X.std(axis=0), 1)
    X, Y = (X[:, :5], X[:, 5:10]) if name == "diabetes" else (X[:, :20], X[:, 20:25])
    model = ours.MultiTaskLasso(0.1).fit(X, Y)
    _same(model, linear_model.MultiTaskLasso(0.1, **_EXACT).fit(X, Y))
    assert model.predict(X).shape == Y.shape


@pytest.mark.filterwarnings("ignore:'penalty' was deprecated|Inconsistent values")
@pytest.mark.parametrize(
    ("solver", "weighted", "class_weight"),
    [("saga", False, None), ("liblinear", True, {"benign": 1.0, "malignant": 3.0})],
)
def test_logistic_regression_equals_that_of_scikit_learn(data, solver, weighted, class_weight):
    X, y = data["breast cancer"]
    # liblinear penalises its intercept, which is far from zero here.
    arguments = {"C": 0.05, "class_weight": class_weight, "penalty": "l1", "solver": solver}
    if solver == "liblinear":
        arguments["intercept_scaling"] = 2.0
    weights = np.random.default_rng(0).integers(0, 3, len(y)) if weighted else None
    labels = np.array(["malignant", "benign"])[y.astype(int)]
    model = ours.LogisticRegression(**arguments).fit(X, labels, weights)
    tol = 1e-11 if solver == "saga" else 1e-9
    theirs = linear_model.LogisticRegression(tol=tol, max_iter=20_000, **arguments)
    theirs.fit(X, labels, weights)
    _same(model, theirs)
    np.testing.assert_array_equal(model.classes_, theirs.classes_)
    np.testing.assert_array_equal(model.predict(X), theirs.predict(X))
    np.testing.assert_allclose(model.predict_proba(X), theirs.predict_proba(X), atol=1e-6)
    log = model.predict_log_proba(X)
    np.testing.assert_allclose(log, theirs.predict_log_proba(X), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("C", [1e3, 1e5])
def test_next_to_no_penalty_is_walked_to(data, C):
    X, y = data["breast cancer"]
    model = ours.LogisticRegression(C=C, l1_ratio=1).fit(X, y)  # separable: the coefficients go far
    assert model.fit_.relative_gap < 1e-8 and model.n_iter_[0] < 1000
    assert model.score(X, y) > 0.98


@pytest.mark.filterwarnings("ignore:'penalty' was deprecated")
def test_softmax_regression_equals_that_of_scikit_learn():
    X, y = load_digits(return_X_y=True)
    X = X / 16
    theirs = linear_model.LogisticRegression(
        penalty="elasticnet", l1_ratio=0.7, C=0.1, solver="saga", tol=1e-10, max_iter=20_000
    ).fit(X, y)
    model = ours.LogisticRegression(C=0.1, l1_ratio=0.7).fit(X, y)
    _same(model, theirs)
    np.testing.assert_allclose(model.predict_proba(X), theirs.predict_proba(X), atol=1e-6)
    np.testing.assert_allclose(model.predict_log_proba(X), theirs.predict_log_proba(X), atol=1e-5)


@pytest.mark.filterwarnings("ignore:Objective did not converge")
@pytest.mark.parametrize(
    ("name", "weighted"), [*((name, False) for name in NAMES), ("diabetes", True)]
)
def test_errors_of_the_folds_equal_those_of_scikit_learn(data, name, weighted):
    X, y = data[name]
    weights = np.random.default_rng(0).integers(1, 4, len(y)) if weighted else None
    folds = KFold(5, shuffle=True, random_state=0)
    model = ours.LassoCV(alphas=20, cv=folds).fit(X, y, weights)
    theirs = linear_model.LassoCV(alphas=model.alphas_, cv=folds, **_EXACT).fit(X, y, weights)
    np.testing.assert_allclose(model.mse_path_, theirs.mse_path_, rtol=1e-6)
    assert model.alpha_ == theirs.alpha_
    _same(model, theirs)
    own_grid = linear_model.LassoCV(**{_COUNT: 20}, cv=folds).fit(X, y, weights).alphas_
    np.testing.assert_allclose(model.alphas_, own_grid, rtol=1e-12)
    assert model.cv_.fold_gaps.max() < 1e-6 and model.fit_.relative_gap < 1e-6


# The name of scikit-learn for how many strengths there are, until its 1.7.
_COUNT = "alphas" if linear_model.LassoCV().alphas == 100 else "n_alphas"


@pytest.mark.filterwarnings("ignore:Objective did not converge")
def test_elastic_net_chooses_its_ratio_as_scikit_learn_does(data):
    X, y = data["diabetes"]
    arguments = {"l1_ratio": [0.5, 0.9], "alphas": np.geomspace(1, 0.001, 10), "cv": 3}
    model = ours.ElasticNetCV(**arguments).fit(X, y)
    theirs = linear_model.ElasticNetCV(**arguments, **_EXACT).fit(X, y)
    np.testing.assert_allclose(model.mse_path_, theirs.mse_path_, rtol=1e-6)
    assert (model.alpha_, model.l1_ratio_) == (theirs.alpha_, theirs.l1_ratio_)
    _same(model, theirs)


@pytest.mark.filterwarnings("ignore:Objective did not converge")
@pytest.mark.fast
def test_errors_of_several_targets_are_averaged():
    X = load_diabetes().data * 10
    X, Y = X[:, :5], X[:, 5:]
    model = ours.MultiTaskLassoCV(alphas=[0.1, 0.01], cv=3).fit(X, Y)
    theirs = linear_model.MultiTaskLassoCV(alphas=[0.1, 0.01], cv=3, **_EXACT).fit(X, Y)
    np.testing.assert_allclose(model.mse_path_, theirs.mse_path_, rtol=1e-6)
    assert model.alpha_ == theirs.alpha_
    _same(model, theirs)


def _misses(estimator, X, y, sample_weight=None):
    """The share of wrong labels, as a scorer of one's own."""
    return -np.average(estimator.predict(X) != y, weights=sample_weight)


@pytest.mark.parametrize(
    ("scoring", "weighted"),
    [
        ("neg_log_loss", False),
        ("roc_auc", False),
        ("balanced_accuracy", True),
        (None, True),
        (_misses, True),
    ],
)
@pytest.mark.slow
def test_scores_of_logistic_regression_are_those_of_scikit_learn(data, scoring, weighted):
    X, y = data["breast cancer"]
    y = np.array(["malignant", "benign"])[y.astype(int)]
    weights = np.random.default_rng(0).integers(1, 4, len(y)) if weighted else None
    arguments = {"Cs": [0.01, 0.1], "cv": 3, "scoring": scoring, "class_weight": "balanced"}
    arguments |= {"l1_ratios": (0.0,), "use_legacy_attributes": False}
    model = ours.LogisticRegressionCV(**arguments).fit(X, y, weights)
    theirs = linear_model.LogisticRegressionCV(
        solver="newton-cholesky", tol=1e-12, max_iter=1000, **arguments
    ).fit(X, y, weights)
    np.testing.assert_allclose(model.scores_, theirs.scores_, rtol=1e-6)
    np.testing.assert_allclose(model.coefs_paths_, theirs.coefs_paths_, atol=1e-6)
    assert (model.C_, model.l1_ratio_) == (theirs.C_, theirs.l1_ratio_)
    _same(model, theirs)
    assert model.score(X, y) == pytest.approx(theirs.score(X, y), rel=1e-6)
    # The certificates of the folds are kept, and their predictions.
    assert model.cv_.fold_gaps.max() < 1e-6 and model.cv_.predictions.shape == (2, len(y))


def test_scores_are_those_of_the_models_that_cross_val_score_fits():
    X, y = load_iris(return_X_y=True)
    model = ours.LogisticRegressionCV(
        Cs=[1.0, 0.1], l1_ratios=[0.5, 1.0], cv=KFold(3, shuffle=True)
    )
    model.cv.random_state = 0
    model.fit(X, y)
    for r, ratio in enumerate([0.5, 1.0]):
        for c, C in enumerate([0.1, 1.0]):
            one = ours.LogisticRegression(C=C, l1_ratio=ratio)
            scores = cross_val_score(one, X, y, cv=model.cv, scoring="neg_log_loss")
            np.testing.assert_allclose(model.scores_[:, r, c], scores, rtol=1e-5)
    assert model.coefs_paths_.shape == (3, 2, 2, 3, 5)


def test_without_a_refit_the_folds_are_averaged(data):
    X, y = data["breast cancer"]
    arguments = {"Cs": [0.01, 0.1], "cv": 3, "l1_ratios": (0.0,), "scoring": "accuracy"}
    arguments |= {"refit": False, "use_legacy_attributes": False}
    model = ours.LogisticRegressionCV(**arguments).fit(X, y)
    theirs = linear_model.LogisticRegressionCV(
        solver="newton-cholesky", tol=1e-12, max_iter=1000, **arguments
    ).fit(X, y)
    _same(model, theirs)
    assert (model.C_, model.l1_ratio_) == (theirs.C_, theirs.l1_ratio_)


@pytest.mark.parametrize("ratios", [{}, {"l1_ratios": (0.0,)}], ids=["default", "one"])
@pytest.mark.slow
def test_attributes_by_class_are_those_of_scikit_learn(ratios):
    X, y = load_iris(return_X_y=True)
    arguments = {"Cs": [0.1, 1.0], "cv": 3, "scoring": "neg_log_loss"} | ratios
    arguments["use_legacy_attributes"] = True
    model = ours.LogisticRegressionCV(**arguments).fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        theirs = linear_model.LogisticRegressionCV(solver="newton-cholesky", tol=1e-10, **arguments)
        theirs.fit(X, y)
    for name in ("C_", "l1_ratio_", "n_iter_"):
        assert np.shape(getattr(model, name)) == np.shape(getattr(theirs, name))
    assert list(model.scores_) == list(theirs.scores_) == [0, 1, 2]
    for label in range(3):
        np.testing.assert_allclose(model.scores_[label], theirs.scores_[label], rtol=1e-6)
        # Softmax leaves the level of its intercepts open.
        found, expected = (one.coefs_paths_[label] for one in (model, theirs))
        np.testing.assert_allclose(found[..., :-1], expected[..., :-1], atol=1e-5)


def test_a_fold_without_a_class_gives_it_no_probability():
    X, y = load_iris(return_X_y=True)
    folds = KFold(3)  # the labels are sorted: each fold holds out a class
    model = ours.LogisticRegressionCV(Cs=[1.0], cv=folds, l1_ratios=[1.0], scoring="accuracy")
    model.fit(X, y)
    assert (model.scores_ == 0).all()
    first = model.coefs_paths_[0, 0, 0]
    assert first[0, -1] == -np.inf and (first[0, :-1] == 0).all()
    # Softmax of two classes is logistic regression on the difference of its rows, at the same strength.
    rest = ours.LogisticRegression(l1_ratio=1.0).fit(X[50:], y[50:])
    eta = X @ (first[2, :-1] - first[1, :-1]) + first[2, -1] - first[1, -1]
    np.testing.assert_allclose(eta, rest.decision_function(X), atol=1e-6)


@pytest.fixture(scope="module")
def small():
    """Rows and columns of which two groups and their scale are known."""
    rng = np.random.default_rng(1)
    X = rng.normal(size=(80, 6))
    return X, X[:, 0] - 2 * X[:, 1] + 0.5 * X[:, 4] + 0.3 * rng.normal(size=80)


GROUPS = np.array(["b", "b", "a", "a", "c", "c"])


@pytest.mark.parametrize("ratio", [None, 0.4])
def test_groups_minimise_what_is_promised(small, ratio):
    X, y = small
    w, b = cp.Variable(6), cp.Variable()
    alpha, sizes = 0.3, np.sqrt(2)
    norms = sum(sizes * cp.norm(w[np.flatnonzero(g == GROUPS)], 2) for g in "abc")
    penalty = norms if ratio is None else ratio * cp.norm1(w) + (1 - ratio) * norms
    loss = cp.sum_squares(y - X @ w - b) / (2 * len(y))
    problem = cp.Problem(cp.Minimize(loss + alpha * penalty))
    problem.solve(solver="CLARABEL", tol_gap_abs=1e-13, tol_gap_rel=1e-13)
    if ratio is None:
        model = ours.GroupLasso(alpha, groups=GROUPS)
    else:
        model = ours.SparseGroupLasso(alpha, groups=GROUPS, l1_ratio=ratio)
    model.fit(X, y)
    # The objective is flat: half of the digits of the gap remain for the point.
    np.testing.assert_allclose(model.coef_, w.value, atol=1e-6)
    assert model.fit_.objective == pytest.approx(problem.value, rel=1e-10)
    assert (model.coef_[2:4] == 0).all()


def test_groups_are_chosen_by_folds(small):
    X, y = small
    model = ours.GroupLassoCV(groups=GROUPS, alphas=[1.0, 0.1], cv=3).fit(X, y)
    errors = [
        -cross_val_score(
            ours.GroupLasso(alpha, groups=GROUPS), X, y, cv=3, scoring="neg_mean_squared_error"
        )
        for alpha in (1.0, 0.1)
    ]
    np.testing.assert_allclose(model.mse_path_, errors, rtol=1e-6)
    assert model.alpha_ == 0.1


def _huber(y, eta):
    return np.clip(eta - y, -1.0, 1.0)


def _cox(y, eta):
    """The slope of minus the log partial likelihood, event by event."""
    slope = np.zeros(len(eta))
    for time, observed, i in zip(*y.T, range(len(eta)), strict=True):
        if observed:
            risk = np.where(y[:, 0] >= time, np.exp(eta), 0)
            slope += risk / risk.sum()
            slope[i] -= 1
    return slope


@pytest.mark.parametrize("ratio", [1.0, 0.6])
@pytest.mark.parametrize("kind", ["poisson", "huber", "cox"])
def test_conditions_of_optimality_hold(small, kind, ratio):
    X, eta = small
    rng, alpha = np.random.default_rng(2), 0.2
    if kind == "poisson":
        y, model = rng.poisson(np.exp(eta / 3)), ours.L1PoissonRegressor(alpha, l1_ratio=ratio)
    elif kind == "huber":
        y, model = eta + rng.standard_t(1.5, len(eta)), ours.L1HuberRegressor(alpha, l1_ratio=ratio)
    else:
        y = np.stack([rng.exponential(np.exp(-eta)), rng.integers(0, 2, len(eta))], axis=1)
        model = ours.CoxRegressor(alpha, l1_ratio=ratio)
    model.fit(X, y)
    found = X @ model.coef_ + model.intercept_
    slopes = {"poisson": lambda: np.exp(found) - y, "huber": lambda: _huber(y, found)}
    slope = slopes.get(kind, lambda: _cox(y, found))() / len(y)
    threshold = alpha * ratio
    gradient = X.T @ slope + alpha * (1 - ratio) * model.coef_
    inside = model.coef_ != 0
    assert 0 < inside.sum() < 6
    # The fit is exact up to rounding of sums over 80 rows.
    np.testing.assert_allclose(
        gradient[inside], -threshold * np.sign(model.coef_[inside]), atol=1e-10
    )
    assert (np.abs(gradient[~inside]) <= threshold + 1e-10).all()
    assert abs(slope.sum()) < 1e-10
    assert model.score(X, y) > 0.2


def test_predictions_and_scores_of_counts(small):
    X, eta = small
    y = np.random.default_rng(2).poisson(np.exp(eta / 3))
    model = ours.L1PoissonRegressor(0.05).fit(X, y)
    theirs = linear_model.PoissonRegressor().fit(X, y)
    theirs.coef_, theirs.intercept_ = model.coef_, model.intercept_
    np.testing.assert_allclose(model.predict(X), theirs.predict(X), rtol=1e-12)
    assert model.score(X, y) == pytest.approx(theirs.score(X, y), rel=1e-10)


def test_a_concordance_counts_pairs_in_the_right_order(small):
    X, eta = small
    y = np.stack([np.exp(-eta), np.ones(len(eta))], axis=1)
    model = ours.CoxRegressor(0.05).fit(X, y)
    risk = model.predict(X)
    pairs = [(i, j) for i in range(80) for j in range(80) if y[i, 0] < y[j, 0]]
    assert model.score(X, y) == pytest.approx(np.mean([risk[i] > risk[j] for i, j in pairs]))
    np.testing.assert_allclose(ours.CoxRegressor(0.05).fit(X, y[:, 0]).coef_, model.coef_)


def test_several_targets_are_lassos_of_their_own(small):
    X, y = small
    Y = np.stack([y, y**2], axis=1)
    both = ours.Lasso(0.1).fit(X, Y)
    for j in range(2):
        one = ours.Lasso(0.1).fit(X, Y[:, j])
        np.testing.assert_array_equal(both.coef_[j], one.coef_)
        assert both.intercept_[j] == one.intercept_ and both.dual_gap_[j] == one.dual_gap_
    assert both.predict(X).shape == Y.shape and len(both.n_iter_) == 2


@pytest.mark.filterwarnings("ignore:Objective did not converge")
def test_positive_coefficients(small):
    X, y = small
    model = ours.Lasso(0.01, positive=True).fit(X, y)
    _same(model, linear_model.Lasso(0.01, positive=True, **_EXACT).fit(X, y))
    alphas = [0.5, 0.01]
    chosen = ours.LassoCV(alphas=alphas, positive=True).fit(X, y)
    theirs = linear_model.LassoCV(alphas=alphas, positive=True, **_EXACT).fit(X, y)
    np.testing.assert_allclose(chosen.mse_path_, theirs.mse_path_, rtol=1e-6)
    assert chosen.alpha_ == theirs.alpha_ and (model.coef_ >= 0).all() and (model.coef_ == 0).any()


def test_padding_changes_nothing(data):
    X, y = data["diabetes"]
    model = ours.Lasso(0.1).fit(X, y)
    plain = l1jax.fit(X, y, l1jax.L1(0.1))
    # Sums of other lengths round otherwise; the condition of the data (500) magnifies that.
    np.testing.assert_allclose(model.coef_, plain.coef, rtol=1e-9, atol=1e-9)
    assert model.fit_.coef.shape == (10,)
    assert model.fit_.objective == pytest.approx(float(plain.objective), rel=1e-12)
    from_sparse = ours.Lasso(0.1).fit(sparse.csr_array(X), y)
    np.testing.assert_array_equal(from_sparse.coef_, model.coef_)
    np.testing.assert_allclose(from_sparse.predict(sparse.csr_array(X)), model.predict(X))


def test_folds_have_the_shape_of_all_rows():
    y = np.zeros(442)
    shapes = {padded(np.ones((n, 10)), y[:n], y[:n]).X.shape for n in (353, 354, 442)}
    assert shapes == {(512, 32)}
    many = np.ones((1100, 1030))  # 2048 × 2048 would be more than it saves
    assert padded(many, np.ones(1100), np.ones(1100)).X is many


@pytest.mark.core
@pytest.mark.float32
def test_fits_are_in_float64_whatever_jax_says(data):
    X, y = data["diabetes"]
    model = ours.Lasso(0.1).fit(X.astype(np.float32), y.astype(np.float32))
    assert model.coef_.dtype == np.float64 and isinstance(model.fit_.coef, np.ndarray)
    assert model.fit_.relative_gap < 1e-12  # float32 could not say so


@pytest.mark.core
def test_copies_pickles_and_frames(data):
    frame = load_diabetes(as_frame=True)
    model = ours.Lasso(0.1).fit(frame.data, frame.target)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(frame.data), model.predict(frame.data))
    assert again.feature_names_in_.tolist() == list(frame.data.columns)
    assert "bmi" in str(again.fit_) and again.fit_.relative_gap < 1e-6
    assert clone(model).get_params() == model.get_params()
    assert not hasattr(clone(model), "coef_")
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame.data[["bmi", *frame.data.columns.drop("bmi")]])


@pytest.mark.filterwarnings("ignore:Objective did not converge")
def test_pipelines_grids_and_frames_that_transformers_set():
    frame = load_diabetes(as_frame=True)

    def search(lasso):
        pipeline = make_pipeline(StandardScaler(), lasso).set_output(transform="pandas")
        grid = GridSearchCV(pipeline, {"lasso__alpha": [10.0, 1.0, 0.1]}, cv=3)
        return grid.fit(frame.data, frame.target)

    grid, theirs = search(ours.Lasso()), search(linear_model.Lasso(tol=1e-12))
    assert grid.best_params_ == theirs.best_params_
    scores, expected = (one.cv_results_["mean_test_score"] for one in (grid, theirs))
    np.testing.assert_allclose(scores, expected, rtol=1e-6)
    assert grid.best_estimator_[-1].feature_names_in_.tolist() == list(frame.data.columns)
    selector = SelectFromModel(ours.Lasso(1.0)).set_output(transform="pandas")
    selected = selector.fit_transform(frame.data, frame.target)
    assert isinstance(selected, pd.DataFrame)
    assert list(selected.columns) == list(frame.data.columns[selector.estimator_.fit_.support])


@pytest.mark.parametrize("name", sorted(set(ours.__all__) & set(dir(linear_model))))
def test_every_argument_of_scikit_learn_is_taken(name):
    theirs, own = (inspect.signature(getattr(one, name)) for one in (linear_model, ours))
    if name.endswith("_path"):
        extra = {"params", "n_alphas"}  # `tol` and its like; and a deprecated name of `alphas`
        assert set(theirs.parameters) - extra <= set(inspect.signature(ours.enet_path).parameters)
        return
    assert set(theirs.parameters) <= set(own.parameters)
    first, *_ = theirs.parameters.values()
    if first.kind is first.POSITIONAL_OR_KEYWORD:
        assert next(iter(own.parameters)) == first.name


_HOW = {
    "precompute": True, "copy_X": False, "warm_start": True, "random_state": 0, "n_jobs": 2,
    "selection": "random", "verbose": 1, "dual": True, "solver": "saga", "check_input": False,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        ours.Lasso(0.1),
        ours.ElasticNetCV(alphas=3, cv=2),
        ours.MultiTaskElasticNet(0.1),
        ours.LogisticRegression(),
        ours.LogisticRegressionCV(Cs=2, cv=2),
    ],
    ids=_name,
)
def test_how_scikit_learn_computes_changes_nothing(small, model):
    X, y = small
    y = (y > 0) if "Logistic" in _name(model) else y
    y = y[:, None] * [1.0, -2.0] if "MultiTask" in _name(model) else y
    how = {name: value for name, value in _HOW.items() if name in model.get_params()}
    again = clone(model).set_params(**how).fit(X, y)
    np.testing.assert_array_equal(again.coef_, model.fit(X, y).coef_)
    assert len(how) >= 4


def test_coefficients_may_be_written_to_and_made_sparse(small):
    X, y = small
    both = y[:, None] * [1.0, -2.0]
    for model, targets in ((ours.Lasso(0.3), y), (ours.MultiTaskLasso(0.3), both)):
        model.fit(X, targets)
        sparse_coef = model.sparse_coef_
        assert sparse.issparse(sparse_coef) and sparse_coef.nnz == (model.coef_ != 0).sum()
        np.testing.assert_array_equal(sparse_coef.toarray(), np.atleast_2d(model.coef_))
        before = model.fit_.coef.copy()
        model.coef_[:] = 0
        model.intercept_ = model.intercept_ * 0
        assert (model.predict(X) == 0).all()
        np.testing.assert_array_equal(model.fit_.coef, before)
    model = ours.LogisticRegression().fit(X, np.digitize(y, [-1, 1]))
    model.intercept_[0] = 7.0
    assert model.decision_function(X * 0)[0, 0] == 7.0


@pytest.mark.filterwarnings("ignore:Objective did not converge")
def test_non_negative_elastic_nets(small):
    X, y = small
    weights = np.random.default_rng(0).integers(0, 3, 80)
    net = ours.ElasticNet(0.05, l1_ratio=0.4, positive=True).fit(X, y, weights)
    theirs = linear_model.ElasticNet(0.05, l1_ratio=0.4, positive=True, **_EXACT)
    _same(net, theirs.fit(X, y, weights))
    assert (net.coef_ >= 0).all() and (net.coef_ == 0).any() and net.fit_.relative_gap < 1e-12
    arguments = {"l1_ratio": [0.3, 0.9], "alphas": 10, "cv": 3, "positive": True}
    chosen = ours.ElasticNetCV(**arguments).fit(X, y)
    theirs = linear_model.ElasticNetCV(**arguments, **_EXACT).fit(X, y)
    np.testing.assert_allclose(chosen.alphas_, theirs.alphas_, rtol=1e-12)
    np.testing.assert_allclose(chosen.mse_path_, theirs.mse_path_, rtol=1e-6)
    assert chosen.l1_ratio_ == theirs.l1_ratio_ == 0.9
    assert chosen.alpha_ == pytest.approx(theirs.alpha_, rel=1e-12)


@pytest.mark.slow
def test_non_negative_groups_minimise_what_is_promised(small):
    X, y = small
    w, b = cp.Variable(6, nonneg=True), cp.Variable()
    norms = sum(np.sqrt(2) * cp.norm(w[np.flatnonzero(g == GROUPS)], 2) for g in "abc")
    problem = cp.Problem(cp.Minimize(cp.sum_squares(y - X @ w - b) / 160 + 0.05 * norms))
    problem.solve(solver="CLARABEL", tol_gap_abs=1e-13, tol_gap_rel=1e-13)
    model = ours.GroupLasso(0.05, groups=GROUPS, positive=True).fit(X, y)
    np.testing.assert_allclose(model.coef_, w.value, atol=1e-6)
    assert model.fit_.objective == pytest.approx(problem.value, rel=1e-10)
    assert (model.coef_ >= 0).all() and model.coef_[0] > 0 and model.coef_[1] == 0  # of one group
    chosen = ours.GroupLassoCV(groups=GROUPS, alphas=[0.5, 0.05], cv=3, positive=True).fit(X, y)
    assert chosen.alpha_ == 0.05 and chosen.cv_.fold_gaps.max() < 1e-6
    np.testing.assert_allclose(chosen.coef_, model.coef_, atol=1e-8)
    alone = ours.GroupLasso(0.05, weights=np.ones(6), positive=True).fit(X, y)
    np.testing.assert_allclose(alone.coef_, ours.Lasso(0.05, positive=True).fit(X, y).coef_)


@pytest.mark.filterwarnings("ignore:Objective did not converge")
@pytest.mark.parametrize("ratio", [0.0, 0.5])
@pytest.mark.slow
def test_multi_task_elastic_net_equals_that_of_scikit_learn(ratio):
    X = load_diabetes().data * 10
    X, Y = X[:, :7], X[:, 7:]
    model = ours.MultiTaskElasticNet(0.05, l1_ratio=ratio).fit(X, Y)
    _same(model, linear_model.MultiTaskElasticNet(0.05, l1_ratio=ratio, **_EXACT).fit(X, Y))
    assert model.fit_.relative_gap < 1e-9 and model.dual_gap_ >= 0


@pytest.mark.filterwarnings("ignore:Objective did not converge")
def test_multi_task_elastic_net_is_chosen_as_scikit_learn_does():
    X = load_diabetes().data * 10
    X, Y = X[:, :7], X[:, 7:]
    arguments = {"l1_ratio": [0.5, 1.0], "alphas": 4, "cv": 3}
    model = ours.MultiTaskElasticNetCV(**arguments).fit(X, Y)
    theirs = linear_model.MultiTaskElasticNetCV(**arguments, **_EXACT).fit(X, Y)
    np.testing.assert_allclose(model.alphas_, theirs.alphas_, rtol=1e-12)
    np.testing.assert_allclose(model.mse_path_, theirs.mse_path_, rtol=1e-6)
    assert model.l1_ratio_ == theirs.l1_ratio_
    assert model.alpha_ == pytest.approx(theirs.alpha_, rel=1e-12)
    _same(model, theirs)


@pytest.mark.filterwarnings("ignore:Objective did not converge")
@pytest.mark.parametrize("kind", ["one target", "sparse and positive", "tasks"])
def test_paths_equal_those_of_scikit_learn(small, kind):
    X, y = small
    arguments = {"l1_ratio": 0.7, "alphas": 5, "positive": kind == "sparse and positive"}
    X = sparse.csr_array(X) if kind == "sparse and positive" else X
    y = y[:, None] * [1.0, -2.0] + X[:, :2] if kind == "tasks" else y
    found = ours.enet_path(X, y, **arguments, return_n_iter=True)
    theirs = linear_model.enet_path(X, y, **arguments, tol=1e-14, max_iter=100_000)
    np.testing.assert_allclose(found[0], theirs[0], rtol=1e-12)
    np.testing.assert_allclose(found[1], theirs[1], atol=1e-7)
    assert (np.abs(found[2]) < 1e-8).all() and found[3].shape == (5,)
    assert ours.Lasso.path is ours.MultiTaskElasticNetCV.path is ours.enet_path
    alphas, coefs, _ = ours.LassoCV.path(*small, alphas=[0.5])
    np.testing.assert_allclose(
        coefs[:, 0], ours.Lasso(0.5, fit_intercept=False).fit(*small).coef_, atol=1e-12
    )
    assert alphas.tolist() == [0.5]


def test_a_grid_of_one_strength_is_the_least_at_which_all_is_zero(small):
    X, y = small
    model = ours.LassoCV(alphas=1, eps=1, cv=2).fit(X, y)
    centred = X - X.mean(axis=0)
    np.testing.assert_allclose(model.alpha_, np.abs(centred.T @ y).max() / len(y), rtol=1e-12)
    assert not model.coef_.any()


@pytest.mark.parametrize(
    ("name", "given"),
    [("eps", -1.0), ("eps", 2.0), ("alphas", 2.5), ("alphas", ["1"]), ("l1_ratio", 2), ("tol", -1)],
)
def test_arguments_of_a_path_are_checked_at_once(small, name, given):
    with pytest.raises(
        ValueError, match=f"{name}.*(must be|in the range).*{given!s}".replace("[", r"\[")
    ):
        ours.enet_path(*small, **{name: given})


@pytest.mark.filterwarnings("error")
def test_the_penalty_may_be_said_in_older_words(small):
    X, y = small
    y = y > 0

    def fit(**arguments):
        return ours.LogisticRegression(**arguments).fit(X, y).coef_

    np.testing.assert_array_equal(fit(penalty="l1"), fit(l1_ratio=1.0))
    np.testing.assert_array_equal(fit(penalty="l2"), fit())
    np.testing.assert_array_equal(fit(penalty="elasticnet", l1_ratio=0.3), fit(l1_ratio=0.3))
    np.testing.assert_array_equal(fit(penalty=None), fit(C=np.inf))
    ridge = linear_model.LogisticRegression(solver="newton-cholesky", tol=1e-12).fit(X, y)
    np.testing.assert_allclose(fit(), ridge.coef_, atol=1e-7)  # the default is the ridge there too
    with pytest.warns(UserWarning, match="l1_ratio=0.5 is not used with penalty='l1'"):
        fit(penalty="l1", l1_ratio=0.5)
    with pytest.warns(UserWarning, match="not used with penalty=None"):
        fit(penalty=None, C=3.0)
    with pytest.raises(ValueError, match='solver="liblinear" is for two classes, got 3'):
        ours.LogisticRegression(solver="liblinear").fit(X, np.arange(80) % 3)


def test_survival_times_of_scikit_survival(small):
    X, eta = small
    rng = np.random.default_rng(2)
    y = np.stack([rng.exponential(np.exp(-eta)), rng.integers(0, 2, 80)], axis=1)
    theirs = np.array([(seen == 1, time) for time, seen in y], [("event", "?"), ("time", "f8")])
    model, plain = ours.CoxRegressor(0.1).fit(X, theirs), ours.CoxRegressor(0.1).fit(X, y)
    np.testing.assert_array_equal(model.coef_, plain.coef_)
    assert model.score(X, theirs) == plain.score(X, y)
    with pytest.raises(ValueError, match="must have two fields, a boolean"):
        ours.CoxRegressor().fit(X, np.zeros(80, [("a", "f8"), ("b", "f8")]))


def test_a_warning_of_convergence_is_that_of_scikit_learn_too(small):
    X, y = small
    model = ours.L1HuberRegressor(1e-3, max_iter=1)
    for kind in (l1jax.ConvergenceWarning, ConvergenceWarning):
        with pytest.warns(kind):
            l1jax.fit(X, y, l1jax.L1(0.01), engine="fista", max_steps=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(X, y)


def test_without_scikit_learn_the_import_says_what_to_install(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("l1jax.sklearn")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ModuleNotFoundError, match="l1jax.sklearn needs scikit-learn: pip install"):
        importlib.import_module("l1jax.sklearn")


def test_l1jax_is_imported_without_scikit_learn():
    code = "import sys, l1jax; print('sklearn' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


def test_groups_of_rows_stay_together(small):
    X, y = small
    rows = np.arange(80) % 8
    model = ours.LassoCV(alphas=[0.1], cv=GroupKFold(4)).fit(X, y, groups=rows)
    assert all(len(np.unique(rows[held_out])) == 2 for held_out in model.cv_.held_out)


@pytest.mark.parametrize(
    ("estimator", "y", "message"),
    [
        (ours.Lasso(alpha=-1), None, "'alpha' parameter of Lasso must be a float in the range"),
        (ours.ElasticNetCV(l1_ratio=0), None, "alphas must be given for l1_ratio=0"),
        (ours.ElasticNetCV(l1_ratio=[0.5, 2]), None, "l1_ratio must be numbers, each"),
        (ours.LassoCV(alphas=[-1.0]), None, "alphas must be numbers, each"),
        (ours.LassoCV(alphas=[1.0, "1"]), None, "alphas must be numbers, each"),
        (ours.MultiTaskLasso(), None, "needs y of shape"),
        (
            ours.GroupLasso(groups=[0, 1]),
            None,
            r"groups must hold one id per column of X, shape \(6,\)",
        ),
        (
            ours.GroupLasso(groups=GROUPS, weights=[1.0]),
            None,
            "weights must hold one number per group",
        ),
        (ours.LogisticRegression(), np.ones(80), "two classes or more"),
        (
            ours.LogisticRegression(penalty="elasticnet", l1_ratio=None),
            np.arange(80) % 2,
            'l1_ratio must be given with penalty="elasticnet"',
        ),
        (
            ours.LogisticRegressionCV(penalty="elasticnet"),
            np.arange(80) % 2,
            'l1_ratios must be given with penalty="elasticnet"',
        ),
        (
            ours.LogisticRegressionCV(Cs=[0.0]),
            np.arange(80) % 2,
            "Cs must be numbers, each",
        ),
        (ours.L1PoissonRegressor(), -np.ones(80), "y must"),
        (ours.CoxRegressor(), np.full((80, 2), 2.0), "y must hold times"),
    ],
    ids=lambda value: _name(value) if hasattr(value, "fit") else None,
)
def test_what_cannot_be_is_said(small, estimator, y, message):
    with pytest.raises(ValueError, match=message):
        estimator.fit(small[0], small[1] if y is None else y)


def test_a_matrix_that_is_known_by_its_products_is_refused(small):
    class Operator(l1jax.DataMatrix):
        """Without entries."""

        shape, dtype = small[0].shape, np.dtype(float)

        def dot(self, beta):
            return small[0] @ beta

        def rdot(self, u):
            return small[0].T @ u

        def columns(self, at):
            return small[0][:, at]

    model = ours.Lasso(0.1).fit(*small)
    for call in (lambda X: model.predict(X), lambda X: ours.Lasso(0.1).fit(X, small[1])):
        with pytest.raises(TypeError, match=r"for Lasso, got the l1jax.DataMatrix Operator"):
            call(Operator())


def test_a_warning_of_convergence_passes_between_processes():
    issued = convergence_warning()
    assert issued is not l1jax.ConvergenceWarning  # scikit-learn's is a base of it
    again = pickle.loads(pickle.dumps(issued("short")))
    assert isinstance(again, l1jax.ConvergenceWarning) and again.args == ("short",)


@pytest.mark.slow
def test_a_mean_over_folds_needs_every_class_in_each():
    X = np.random.default_rng(0).normal(size=(30, 2))
    y = np.repeat([0, 1, 2], 10)
    model = ours.LogisticRegressionCV(Cs=[1.0], cv=KFold(3), refit=False)
    with pytest.raises(ValueError, match="refit=False takes the mean over the folds"):
        model.fit(X, y)
