"""Cross-validation against scikit-learn, and against fits of row subsets by hand."""

import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from sklearn import metrics
from sklearn.datasets import load_diabetes
from sklearn.linear_model import ElasticNetCV
from sklearn.model_selection import KFold

import l1jax
from l1jax.linear.data._inputs import read
from l1jax.linear.engines._gradient_engines import Parallel, Sequential
from l1jax.linear.engines.active_set._gram_compression import can_compress
from l1jax.linear.model._certificate import certify
from l1jax.linear.model._prepare import data_of, prepare_inputs
from l1jax.linear.model._problem import Point
from l1jax.linear.selection import _cross_validate, _subset_paths
from l1jax.linear.selection._fold_grams import FoldGrams
from l1jax.linear.selection._folds import splits

N = 60  # in three folds, so that all subsets of the rows have one shape
RNG = np.random.default_rng(5)
TALL = RNG.standard_normal((N, 8)) * np.geomspace(0.1, 10, 8) + 3
# As many entries in every row, so that all subsets of a sparse matrix have one shape too.
WIDE = RNG.standard_normal((N, 90)) * (RNG.random((N, 90)).argsort(axis=1) < 27)
Y = TALL[:, :3] @ [3.0, -2.0, 1.0] + WIDE[:, :3] @ [1.0, -1.0, 0.5] + RNG.standard_normal(N)
WEIGHT, OFFSET = RNG.uniform(0.2, 2, N), RNG.standard_normal(N)
LABELS = (np.median(Y) < Y).astype(float)
EVERYTHING = {"sample_weight": WEIGHT, "offset": OFFSET, "standardize": True}
GROUPS = l1jax.GroupL1(groups=np.arange(8) // 2)
PROBLEMS = {
    "tall": (TALL, Y, l1jax.L1(), l1jax.SquaredError()),
    "tall, weighted": (TALL, Y, l1jax.L1(weights=np.r_[0, np.inf, 1:7]), l1jax.SquaredError()),
    "tall, elastic net": (TALL, Y, l1jax.ElasticNet(l1_ratio=0.6), l1jax.SquaredError()),
    "wide": (WIDE, Y, l1jax.L1(), l1jax.SquaredError()),
    "sparse": (scipy.sparse.csr_array(WIDE), Y, l1jax.L1(), l1jax.SquaredError()),
    "logistic": (TALL, LABELS, l1jax.L1(), l1jax.Logistic()),
    "groups": (TALL, Y, GROUPS, l1jax.SquaredError()),
    "responses": (TALL, np.stack([Y, OFFSET], 1), GROUPS, l1jax.SquaredError()),
}


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.slow
def test_a_fold_is_predicted_as_by_a_path_of_the_other_rows(name):
    X, y, pen, loss = PROBLEMS[name]
    options = EVERYTHING | {"tol": 1e-10, "lam_min_ratio": 0.02}
    cv = l1jax.cross_validate(X, y, pen, loss=loss, n_folds=3, n_lams=6, **options)
    assert (cv.fold_status == l1jax.Status.CONVERGED).all() and (cv.fold_gaps <= 1e-10).all()
    alone = l1jax.path(X, y, pen, loss=loss, lams=cv.lams, **options | {"lam_min_ratio": None})
    np.testing.assert_allclose(cv.path.coefs, alone.coefs, atol=1e-6)
    for i, test in enumerate(cv.held_out):
        path = l1jax.path(
            X[~test],
            y[~test],
            pen,
            loss=loss,
            lams=cv.lams,
            tol=1e-10,
            standardize=True,
            sample_weight=WEIGHT[~test],
            offset=OFFSET[~test],
        )
        found = path.predict(X[test], offset=OFFSET[test])
        # A gap of 1e-10 of the null deviance leaves about its root in a prediction.
        np.testing.assert_allclose(cv.predictions[:, test], found, atol=2e-4)
        if loss == l1jax.SquaredError():
            errors = (y[test] - found) ** 2
            errors = errors if errors.ndim == 2 else errors.sum(axis=2)
        else:
            errors = -2 * np.log(np.where(y[test] == 1, found, 1 - found))
        score = np.average(errors, axis=1, weights=WEIGHT[test])
        np.testing.assert_allclose(cv.fold_scores[i], score, rtol=1e-4)
        assert cv.fold_weights[i] == pytest.approx(WEIGHT[test].sum() / WEIGHT.sum())


@pytest.mark.core
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.fast
def test_squared_errors_are_those_of_scikit_learn(fit_intercept):
    X, y = load_diabetes(return_X_y=True)
    folds = KFold(5, shuffle=True, random_state=0)
    pen = l1jax.ElasticNet(l1_ratio=0.7)
    cv = l1jax.cross_validate(X, y, pen, folds=folds, n_lams=20, fit_intercept=fit_intercept)
    theirs = ElasticNetCV(
        l1_ratio=0.7,
        alphas=np.asarray(cv.lams),
        cv=folds,
        tol=1e-10,
        max_iter=100_000,
        fit_intercept=fit_intercept,
    ).fit(X, y)
    np.testing.assert_allclose(cv.fold_scores.T, theirs.mse_path_, rtol=1e-6)
    assert cv.lam_min == pytest.approx(theirs.alpha_)
    np.testing.assert_allclose(cv.fit_min.coef, theirs.coef_, atol=1e-4)


certified = eqx.filter_jit(certify)


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.slow
def test_the_problem_of_a_difference_of_gram_matrices_is_that_of_the_rows(
    fit_intercept, standardize
):
    pen = l1jax.ElasticNet(0.1, 0.7, weights=np.r_[0, np.inf, 1:7])
    inputs = read(TALL, Y, pen, l1jax.SquaredError(), WEIGHT, OFFSET)
    loss, how = inputs.loss, {"fit_intercept": fit_intercept, "standardize": standardize}
    data = data_of(inputs, loss, **how)
    which = splits(Y, loss, 3, None, None, 1, 0)
    if standardize and not fit_intercept:
        assert not can_compress(data, pen)
        return
    found, _ = FoldGrams(data, which).without(1).problem(pen, loss)
    rest = inputs._replace(weights=np.where(which[1].train, WEIGHT, 0))
    wanted = prepare_inputs(rest, inputs.pen, loss, **how)
    rng = np.random.default_rng(0)
    for size in (1e-3, 0.1, 1.0):
        coef = size * rng.standard_normal(8) * np.r_[1, 0, np.ones(6)]
        points = [q.from_user(jnp.asarray(coef), jnp.zeros(())) for q in (found, wanted)]
        best = [  # with the best intercept: that of the found problem is in its rows
            Point(points[0].beta, jnp.zeros(())),
            Point(points[1].beta, wanted.null.point.intercept),
        ]
        pairs = zip((found, wanted), best, strict=True)
        ours, theirs = (certified(q, pen, point) for q, point in pairs)
        for field in ("objective", "gap", "relative_gap", "kkt", "relative_kkt", "deviance"):
            assert getattr(ours, field) == pytest.approx(float(getattr(theirs, field)), rel=1e-9)
        for one, other in zip(found.to_user(best[0]), wanted.to_user(best[1]), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-9)


def test_a_column_that_is_constant_without_a_fold_is_left_to_the_rows(monkeypatch):
    X = TALL.copy()
    folds = np.arange(N) // 20
    X[:, 2] = folds == 1  # constant on the rows that fold 1 fits
    X[:, 3] = 4.0
    asked = []
    prepare = _cross_validate.prepare_inputs
    monkeypatch.setattr(
        _cross_validate, "prepare_inputs", lambda *args: asked.append(args) or prepare(*args)
    )
    cv = l1jax.cross_validate(X, Y, l1jax.L1(), folds=folds, n_lams=6, standardize=True)
    assert len(asked) == 1  # of the rows of that fold
    train = folds != 1
    path = l1jax.path(X[train], Y[train], l1jax.L1(), lams=cv.lams, standardize=True)
    np.testing.assert_allclose(cv.predictions[:, ~train], path.predict(X[~train]), atol=1e-8)


def test_repeats_are_runs_with_the_seeds_after_the_first():
    runs = [
        l1jax.cross_validate(TALL, Y, l1jax.L1(), n_folds=3, n_lams=6, seed=seed)
        for seed in (4, 5, 4)
    ]
    both = l1jax.cross_validate(TALL, Y, l1jax.L1(), n_folds=3, n_lams=6, seed=4, n_repeats=2)
    np.testing.assert_array_equal(runs[0].held_out, runs[2].held_out)
    np.testing.assert_array_equal(runs[0].fold_scores, runs[2].fold_scores)
    assert (runs[0].held_out != runs[1].held_out).any()
    scores = np.concatenate([runs[0].fold_scores, runs[1].fold_scores])
    np.testing.assert_allclose(both.fold_scores, scores, rtol=1e-9)
    predictions = (runs[0].predictions + runs[1].predictions) / 2
    np.testing.assert_allclose(both.predictions, predictions, rtol=1e-9)
    # Six folds of the same rows say no more of the mean than three.
    spread = np.std(scores, axis=0)
    np.testing.assert_allclose(both.se_score, spread / np.sqrt(2), rtol=1e-9)


def test_mean_and_standard_error_are_those_of_glmnet():
    """cvm = weighted.mean(cvraw, w), cvsd = sqrt(weighted.mean((cvraw − cvm)², w)/(N − 1))."""
    folds = np.r_[np.zeros(30), np.ones(20), np.full(10, 2)]
    cv = l1jax.cross_validate(TALL, Y, l1jax.L1(), folds=folds, n_lams=6, sample_weight=WEIGHT)
    w = np.array([WEIGHT[folds == fold].sum() for fold in range(3)])
    mean = np.average(cv.fold_scores, axis=0, weights=w)
    error = np.sqrt(np.average((cv.fold_scores - mean) ** 2, axis=0, weights=w) / 2)
    np.testing.assert_allclose(cv.mean_score, mean)
    np.testing.assert_allclose(cv.se_score, error)
    at = int(mean.argmin())
    assert (cv.index_min, cv.lam_min) == (at, cv.lams[at])
    assert cv.index_1se == min(i for i in range(6) if mean[i] <= mean[at] + error[at])
    assert cv.fit_1se.lam == cv.lam_1se == cv.lams[cv.index_1se]


def partial_likelihood_deviance(time, event, eta, weight):
    """2 (saturated - log partial likelihood), by Breslow, as in glmnet 4.1: by a loop."""
    likelihood = sum(
        weight[i] * (eta[i] - np.log(np.sum((weight * np.exp(eta))[time >= time[i]])))
        for i in np.flatnonzero(event)
    )
    tied = [weight[(time == t) & (event == 1)].sum() for t in np.unique(time[event == 1])]
    return 2 * (-sum(d * np.log(d) for d in tied) - likelihood)


@pytest.mark.parametrize("weight", [np.ones(N), WEIGHT], ids=["even", "weighted"])
def test_the_deviance_of_cox_is_the_grouped_one_of_glmnet(weight):
    """cvraw = (deviance of all - of those fitted)/events held out, weighed by these events."""
    time = np.ceil(10 * RNG.exponential(np.exp(-0.1 * TALL[:, 7])))  # with ties
    folds = np.repeat([0, 1, 2], 20)
    event = (RNG.random(N) < np.array([0.95, 0.5, 0.2])[folds]).astype(float)
    cv = l1jax.cross_validate(
        TALL,
        np.column_stack([time, event]),
        l1jax.L1(),
        loss=l1jax.Cox(),
        folds=folds,
        n_lams=6,
        sample_weight=weight,
        offset=OFFSET,
        standardize=True,
    )
    events = np.array([(weight * event)[folds == k].sum() for k in range(3)])
    raw = np.empty((3, 6))
    for k in range(3):
        rest = folds != k
        fits = l1jax.path(
            TALL,
            np.column_stack([time, event]),
            l1jax.L1(),
            loss=l1jax.Cox(),
            lams=cv.lams,
            sample_weight=weight * rest,
            offset=OFFSET,
            standardize=True,
        )
        for i, coef in enumerate(np.asarray(fits.coefs)):
            eta = TALL @ coef + OFFSET
            full = partial_likelihood_deviance(time, event, eta, weight)
            fitted = partial_likelihood_deviance(time[rest], event[rest], eta[rest], weight[rest])
            raw[k, i] = (full - fitted) / events[k]
    np.testing.assert_allclose(cv.fold_scores, raw, rtol=1e-9)
    mean = np.average(raw, axis=0, weights=events)
    error = np.sqrt(np.average((raw - mean) ** 2, axis=0, weights=events) / 2)
    np.testing.assert_allclose(cv.mean_score, mean, rtol=1e-9)
    np.testing.assert_allclose(cv.se_score, error, rtol=1e-9)
    at = int(mean.argmin())
    assert cv.lam_1se == max(cv.lams[mean <= mean[at] + error[at]])


def test_events_are_spread_over_the_folds_and_none_may_be_missing():
    event = (np.arange(N) < 6).astype(float)
    y = np.column_stack([RNG.exponential(size=N), event])
    loss = l1jax.Cox()
    for split in splits(y, loss, 3, None, None, 1, 0):
        assert event[split.test].sum() == 2
    with pytest.raises(ValueError, match="fold 1 leaves no rows with an event to fit. Leave folds"):
        l1jax.cross_validate(TALL, y, l1jax.L1(), loss=loss, folds=event)


def test_a_function_scores_predictions_of_held_out_rows():
    weights_passed = []

    def explained(y, prediction, weight):
        weights_passed.append(weight)
        return 1 - weight @ (y - prediction) ** 2 / (weight @ (y - weight @ y) ** 2)

    how = {"folds": np.arange(N) % 3, "n_lams": 6, "sample_weight": WEIGHT}
    cv = l1jax.cross_validate(TALL, Y, l1jax.L1(), score=explained, higher_is_better=True, **how)
    assert cv.higher_is_better and cv.score == "explained" and len(weights_passed) == 18
    np.testing.assert_allclose(weights_passed[0], WEIGHT[::3] / WEIGHT[::3].sum())
    errors = l1jax.cross_validate(TALL, Y, l1jax.L1(), **how).fold_scores
    for i in range(3):
        y, w = Y[i::3], WEIGHT[i::3]
        variance = np.average((y - np.average(y, weights=w)) ** 2, weights=w)
        np.testing.assert_allclose(cv.fold_scores[i], 1 - errors[i] / variance)
    assert cv.mean_score[cv.index_min] == cv.mean_score.max() and cv.lam_1se >= cv.lam_min


def test_stopped_by_the_user_it_returns_the_folds_that_are_done(monkeypatch):
    run, calls = Sequential.run, []

    def stopped(*args):
        calls.append(args)
        if len(calls) == 4:  # all rows, and two folds
            raise KeyboardInterrupt
        return run(*args)

    monkeypatch.setattr(Sequential, "run", stopped)
    how = {"n_folds": 3, "n_lams": 6, "engine": "sequential"}
    with pytest.warns(l1jax.ConvergenceWarning, match="INTERRUPTED"):
        cv = l1jax.cross_validate(TALL, Y, GROUPS, **how)
    done = [0, 1]
    assert (cv.fold_status[2] == l1jax.Status.INTERRUPTED).all()
    assert np.isnan(cv.fold_scores[2]).all() and np.isnan(cv.predictions[:, cv.held_out[2]]).all()
    np.testing.assert_allclose(
        cv.mean_score, np.average(cv.fold_scores[done], axis=0, weights=cv.fold_weights[done])
    )
    assert "2 of 3 folds" in repr(cv) and cv.fit_min.lam == cv.lam_min
    del calls[:]
    monkeypatch.setattr(Sequential, "run", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):  # nothing is done
        l1jax.cross_validate(TALL, Y, GROUPS, **how)


@pytest.mark.float32
def test_data_in_single_precision_is_scored_in_it():
    X, y = jnp.asarray(TALL, jnp.float32), jnp.asarray(Y, jnp.float32)
    cv = l1jax.cross_validate(X, y, l1jax.L1(), n_folds=3, n_lams=6)
    assert cv.predictions.dtype == np.float32 and (cv.fold_gaps < 1e-4).all()
    exact = l1jax.cross_validate(TALL, Y, l1jax.L1(), lams=np.asarray(cv.lams, float), n_folds=3)
    np.testing.assert_allclose(cv.fold_scores, exact.fold_scores, rtol=1e-3)


def test_every_row_alone_and_every_strength_down_to_zero():
    X, y = TALL[:6, :1], Y[:6]
    lams = [10.0, 1.0, 0.1, 0.0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cv = l1jax.cross_validate(X, y, l1jax.L1(), n_folds=6, lams=lams)
    for i in range(6):
        rest = np.arange(6) != i
        path = l1jax.path(X[rest], y[rest], l1jax.L1(), lams=lams)
        np.testing.assert_allclose(cv.predictions[:, i], path.predict(X[[i]])[:, 0], atol=1e-6)


def test_a_fold_in_which_nothing_is_left_to_explain():
    y = np.where(np.arange(N) < 20, Y, 1.0)
    cv = l1jax.cross_validate(TALL, y, l1jax.L1(), folds=np.arange(N) // 20, n_lams=6)
    np.testing.assert_allclose(cv.predictions[:, :20], 1.0)
    assert (cv.fold_status == l1jax.Status.CONVERGED).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_folds": 1}, "n_folds must be at least 2"),
        ({"n_folds": 61}, "n_folds must be at most"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"n_repeats": 0}, "n_repeats must be at least 1"),
        ({"n_repeats": 2, "folds": np.arange(N) % 2}, "n_repeats needs random folds"),
        ({"folds": np.zeros(N)}, "at least two folds"),
        ({"folds": [0, 1]}, "folds must give the fold of each row"),
        ({"folds": "weekly"}, "folds must be"),
        ({"folds": 3}, "for 3 random folds pass n_folds=3"),
        ({"folds": []}, "folds"),
        ({"folds": [([0, 1], [1, 2])]}, "both fits and scores row 1"),
        ({"folds": [([0, 1], [60])]}, "row numbers from 0 to 59"),
        ({"folds": [([0, 1], [])]}, "no rows to score"),
        ({"groups": np.arange(3)}, "groups must give the group of each row"),
        ({"groups": np.arange(N) // 30, "n_folds": 3}, "n_folds must be at most"),
        (
            {"score": "precision"},
            r"score must be one of \['deviance'.*'neg_mean_squared_error'.*a function",
        ),
        ({"score": "accuracy"}, "needs a loss that classifies"),
        ({"score": "neg_mean_poisson_deviance"}, "predictions are positive, such as Poisson"),
        ({"score": "r2", "higher_is_better": True}, "is for a function"),
        ({"score": metrics.mean_absolute_error}, r"y, prediction, sample_weight=weight\)"),
        ({"score": lambda y, prediction: 0.0}, r"Wrap it: .*: score\(y, prediction\)\."),
        (
            {"score": metrics.make_scorer(metrics.max_error)},
            "a scorer of scikit-learn.*pass a name",
        ),
        ({"score": "auc"}, "needs a loss that classifies"),
        ({"score": "c_index"}, "two columns"),
        ({"higher_is_better": True}, "is for a function"),
        ({"score": np.mean, "higher_is_better": 1}, "must be True or False"),
        ({"score": lambda y, prediction, weight: prediction}, "score must return a number"),
        ({"sample_weight": np.arange(N) < 20, "folds": np.arange(N) // 20}, "have no weight"),
        ({"lams": [-1.0]}, "lams must be >= 0"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        l1jax.cross_validate(TALL, Y, l1jax.L1(), **{"n_lams": 6} | arguments)


def test_traced_data_is_told_where_to_go():
    with pytest.raises(TypeError, match=r"concrete data.*l1jax\.tune"):
        jax.jit(lambda y: l1jax.cross_validate(TALL, y, l1jax.L1()).predictions)(jnp.asarray(Y))


@pytest.mark.parametrize("n", [64, 80])  # the first is the number of rows that scores are padded to
def test_a_loss_with_a_number_per_row_is_scored_with_those_of_its_rows(n):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 3))
    y, delta = X[:, 0] + rng.standard_t(2, size=n), np.linspace(0.1, 3, n)
    folds = np.arange(n) % 4
    cv = l1jax.cross_validate(
        X, y, l1jax.L1(), loss=l1jax.Huber(delta), lams=[0.1, 0.05], folds=folds
    )
    for k in range(4):
        rows = folds == k
        off = np.abs(y - cv.predictions)[:, rows]
        inner = np.minimum(off, delta[rows])
        np.testing.assert_allclose(cv.fold_scores[k], 2 * (inner * (off - inner / 2)).mean(axis=1))


def test_shares_are_compared_on_the_same_folds_after_an_interruption():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30, 3))
    y, calls = X[:, 0] + rng.normal(size=30), []

    def score(y, prediction, weight):
        calls.append(0)
        if len(calls) > 2 * (2 * 2 + 1):  # two strengths: in the second share of the third fold
            raise KeyboardInterrupt
        return weight @ (y - prediction) ** 2

    with pytest.warns(l1jax.ConvergenceWarning, match="INTERRUPTED. They hold NaN"):
        cv = l1jax.cross_validate(
            X, y, l1jax.L1(), n_folds=4, lams=[0.5, 0.1], score=score, gammas=(0, 1)
        )
    done = [np.isfinite(one.fold_scores).all(axis=1) for one in cv.by_gamma]
    assert done[0].sum() == 2 and (done[0] == done[1]).all()


@pytest.mark.slow
def test_folds_and_strengths_in_one_batch_are_those_of_each_fold(monkeypatch):
    calls, run = [], Parallel.run

    def counted(engine, plan):
        calls.extend([plan] if not plan.is_traced() else [])
        return run(engine, plan)

    monkeypatch.setattr(Parallel, "run", counted)
    how = {"n_folds": 3, "n_lams": 5, "sample_weight": WEIGHT, "tol": 1e-10}
    together = l1jax.cross_validate(TALL, Y, l1jax.L1(), engine="parallel", **how)
    assert len(calls) == 1  # that of all rows
    monkeypatch.setattr(_subset_paths, "_AT_ONCE", 0)
    apart = l1jax.cross_validate(TALL, Y, l1jax.L1(), engine="parallel", **how)
    assert len(calls) == 5
    for one, other in zip(jax.tree.leaves(together), jax.tree.leaves(apart), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-8)
    by_working_sets = l1jax.cross_validate(TALL, Y, l1jax.L1(), **how)
    np.testing.assert_allclose(together.fold_scores, by_working_sets.fold_scores, rtol=1e-6)
    assert together.fold_gaps.max() < 1e-10
