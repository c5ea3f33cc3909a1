"""Folds are what they promise; scores are those of scikit-learn, or of a loop over pairs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics
from sklearn.base import BaseEstimator
from sklearn.model_selection import GroupKFold, LeaveOneOut, TimeSeriesSplit
from sklearn.utils import ClassifierTags

import l1jax
from l1jax.linear.selection._folds import check_splits, grouped_folds, random_folds, splits
from l1jax.linear.selection._scores import auc, c_index, deviance, read_score

SQUARED, LOGISTIC, POISSON = l1jax.SquaredError(), l1jax.Logistic(), l1jax.Poisson()
SOFTMAX = l1jax.Multinomial()
N = 40
RNG = np.random.default_rng(2)
ETA = np.round(RNG.standard_normal((3, N)), 1)  # with ties
LABELS = (RNG.random(N) < 0.4).astype(float)
COUNTS = RNG.poisson(2.0, N).astype(float)
S = RNG.uniform(0, 1, N)
S[:3] = 0
S /= S.sum()


@given(st.integers(2, 12), st.lists(st.integers(0, 2), min_size=12, max_size=40), st.integers(0, 9))
def test_random_folds_spread_rows_and_labels_evenly(n_folds, labels, seed):
    labels = np.array(labels)
    folds = random_folds(n_folds, labels, seed)
    counts = np.bincount(folds, minlength=n_folds)
    assert counts.sum() == len(labels) and np.ptp(counts) <= 1
    for label in np.unique(labels):
        assert np.ptp(np.bincount(folds[labels == label], minlength=n_folds)) <= 1
    np.testing.assert_array_equal(folds, random_folds(n_folds, labels, seed))


@given(st.lists(st.integers(0, 9), min_size=10, max_size=60), st.integers(0, 9))
def test_groups_stay_together_in_folds_that_no_move_makes_more_even(rows, seed):
    groups = np.array([*range(3), *rows])
    folds = grouped_folds(3, groups, seed)
    for group in np.unique(groups):
        assert len(np.unique(folds[groups == group])) == 1
    sizes = np.bincount(folds, minlength=3)
    assert (sizes > 0).all()
    # The last group that came to the largest fold found it the smallest.
    largest = folds == sizes.argmax()
    smallest_group = np.bincount(groups[largest]).astype(float)
    smallest_group = smallest_group[smallest_group > 0].min()
    assert sizes.max() - smallest_group <= sizes.min()


def test_blocks_of_time_are_predicted_from_what_came_before():
    found = splits(ETA[0], SQUARED, 4, "time_series", None, 1, 0)
    theirs = list(TimeSeriesSplit(4).split(ETA[0]))
    assert len(found) == 4
    for split, (train, test) in zip(found, theirs, strict=True):
        np.testing.assert_array_equal(np.flatnonzero(split.train), train)
        np.testing.assert_array_equal(np.flatnonzero(split.test), test)


@pytest.mark.parametrize(
    ("folds", "groups", "error", "message"),
    [
        (5, None, TypeError, "for 5 random folds pass n_folds=5"),
        ("time_series", np.arange(N) % 3, ValueError, "groups go with random folds"),
        (np.arange(N) % 2, np.arange(N) % 3, ValueError, "groups go with random folds"),
        (None, np.arange(N) % 3, ValueError, "number of groups, 3"),
    ],
)
def test_folds_that_contradict_are_refused(folds, groups, error, message):
    with pytest.raises(error, match=message):
        splits(ETA[0], SQUARED, 4, folds, groups, 1, 0)


def test_splitters_pairs_masks_and_ids_are_taken_alike():
    groups = np.arange(N) // 5
    splitter = GroupKFold(3)
    pairs = list(splitter.split(ETA[0], groups=groups))
    ids = np.empty(N, int)
    for i, (_, test) in enumerate(pairs):
        ids[test] = i
    masks = [(ids != i, ids == i) for i in range(3)]
    wanted = splits(ETA[0], SQUARED, 10, splitter, groups, 1, 0)
    with pytest.raises(ValueError, match="'groups' parameter"):  # what it says itself
        splits(ETA[0], SQUARED, 10, splitter, None, 1, 0)
    for given_ in (pairs, iter(pairs), masks, ids, ids.tolist()):
        found = splits(ETA[0], SQUARED, 10, given_, None, 1, 0)
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(one, other)
    assert len(splits(ETA[0], SQUARED, 10, LeaveOneOut(), None, 1, 0)) == N


def test_labels_are_spread_where_the_loss_classifies():
    assert [loss.has_classes for loss in (SQUARED, LOGISTIC, POISSON)] == [False, True, False]
    rare = (np.arange(N) < 4).astype(float)
    for split in splits(rare, LOGISTIC, 4, None, None, 1, 0):
        assert rare[split.test].sum() == 1


def score(name, loss, y, eta=ETA):
    found = read_score(name, None, loss, y, y.shape)
    return found.function(loss, y, eta, S)


def test_scores_are_those_of_scikit_learn():
    chance, rate = 1 / (1 + np.exp(-ETA)), np.exp(ETA)
    oracles = {
        ("auc", LOGISTIC): lambda i: metrics.roc_auc_score(LABELS, ETA[i], sample_weight=S),
        ("classification_error", LOGISTIC): lambda i: metrics.zero_one_loss(
            LABELS, ETA[i] > 0, sample_weight=S
        ),
        ("deviance", LOGISTIC): lambda i: 2 * metrics.log_loss(LABELS, chance[i], sample_weight=S),
        ("squared_error", LOGISTIC): lambda i: metrics.brier_score_loss(
            LABELS, chance[i], sample_weight=S
        ),
        ("deviance", POISSON): lambda i: metrics.mean_poisson_deviance(
            COUNTS, rate[i], sample_weight=S
        ),
        ("absolute_error", POISSON): lambda i: metrics.mean_absolute_error(
            COUNTS, rate[i], sample_weight=S
        ),
        ("deviance", SQUARED): lambda i: metrics.mean_squared_error(
            COUNTS, ETA[i], sample_weight=S
        ),
    }
    for (name, loss), oracle in oracles.items():
        y = LABELS if loss == LOGISTIC else COUNTS
        np.testing.assert_allclose(score(name, loss, y), [oracle(i) for i in range(3)], rtol=1e-9)


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        *[(f"neg_{kind}", SQUARED) for kind in ("mean_squared_error", "root_mean_squared_error")],
        ("r2", SQUARED),
        ("neg_mean_absolute_error", SQUARED),
        ("neg_mean_absolute_error", POISSON),
        ("neg_mean_poisson_deviance", POISSON),
        *[(name, LOGISTIC) for name in ("accuracy", "roc_auc", "neg_log_loss", "neg_brier_score")],
        *[(name, SOFTMAX) for name in ("accuracy", "neg_log_loss")],
    ],
)
@pytest.mark.fast
def test_scores_by_the_names_of_scikit_learn_are_its_numbers(name, loss):
    y = {SQUARED: COUNTS, POISSON: COUNTS, LOGISTIC: LABELS, SOFTMAX: COUNTS.clip(0, 2)}[loss]
    eta = np.stack([ETA, ETA[::-1], -ETA], axis=2) if loss == SOFTMAX else ETA
    found = read_score(name, None, loss, loss.encode(y), eta.shape[1:])
    assert found.higher_is_better
    values = found.function(loss, loss.encode(y), eta, S)
    for one, value in zip(eta, values, strict=True):
        model = Known(loss, one, np.unique(y))
        expected = metrics.get_scorer(name)(model, np.zeros((N, 1)), y, sample_weight=S)
        assert value == pytest.approx(expected, rel=1e-12)


class Known(BaseEstimator):
    """What scikit-learn's scorers ask, at a known linear predictor."""

    def __init__(self, loss, eta, classes):
        self.loss, self.eta, self.classes_ = loss, eta, classes
        self.classifies = loss in (LOGISTIC, SOFTMAX)

    def fit(self, X, y):
        return self

    def predict(self, X):
        kind = self.loss.classes if self.classifies else self.loss.inverse_link
        return np.asarray(kind(self.eta), float)

    def predict_proba(self, X):
        p = np.asarray(self.loss.inverse_link(self.eta))
        return p if p.ndim == 2 else np.stack([1 - p, p], axis=1)

    def decision_function(self, X):
        return self.eta

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.estimator_type = "classifier" if self.classifies else "regressor"
        if self.classifies:
            tags.classifier_tags = ClassifierTags()
        return tags


@pytest.mark.parametrize("name", ["r2", "neg_root_mean_squared_error", "neg_mean_absolute_error"])
def test_over_responses_they_are_means_as_there(name):
    y, eta = np.stack([COUNTS, LABELS], axis=1), np.stack([ETA, ETA[::-1]], axis=2)
    values = score(name, SQUARED, y, eta)
    for one, value in zip(eta, values, strict=True):
        expected = metrics.get_scorer(name)(Known(SQUARED, one, None), y, y, sample_weight=S)
        assert value == pytest.approx(expected, rel=1e-12)


def test_r2_of_few_or_equal_targets():
    y, eta, s = np.ones(4), np.stack([np.ones(4), ETA[0, :4]]), np.full(4, 0.25)
    expected = [metrics.r2_score(y, one) for one in eta]
    found = read_score("r2", None, SQUARED, y, y.shape).function
    np.testing.assert_array_equal(found(SQUARED, y, eta, s), expected)
    assert np.isnan(found(SQUARED, y[:1], eta[:, :1], np.ones(1))).all()


def test_probabilities_are_asked_of_losses_that_give_them():
    for name in ("neg_log_loss", "neg_brier_score"):
        with pytest.raises(ValueError, match="a loss of probabilities, such as Logistic"):
            score(name, l1jax.SquaredHinge(), LABELS)


def test_a_cross_validation_by_a_name_of_scikit_learn():
    X = RNG.standard_normal((N, 3))
    how = {"n_lams": 5, "n_folds": 4}
    plain = l1jax.cross_validate(X, COUNTS, l1jax.L1(), **how)
    cv = l1jax.cross_validate(X, COUNTS, l1jax.L1(), score="neg_mean_squared_error", **how)
    np.testing.assert_allclose(cv.fold_scores, -plain.fold_scores, rtol=1e-12)
    assert (cv.index_min, cv.index_1se) == (plain.index_min, plain.index_1se)


def test_auc_without_one_of_the_classes_is_not_a_number():
    assert np.isnan(auc(LOGISTIC, np.ones(N), ETA, S)).all()


def test_c_index_is_a_count_of_pairs():
    time = RNG.integers(1, 9, N).astype(float)  # with ties
    event = RNG.random(N) < 0.6
    found = c_index(SQUARED, np.stack([time, event], axis=1), ETA, S)
    for eta, value in zip(ETA, found, strict=True):
        right = total = 0.0
        for i in range(N):
            for j in range(N):
                if event[i] and (time[i] < time[j] or (time[i] == time[j] and not event[j])):
                    total += S[i] * S[j]
                    right += S[i] * S[j] * (1.0 if eta[i] > eta[j] else 0.5 * (eta[i] == eta[j]))
        assert value == pytest.approx(right / total, rel=1e-12)
    assert np.isnan(c_index(SQUARED, np.stack([time, 0 * time], axis=1), ETA, S)).all()


def test_several_responses_add_up():
    y, eta = np.stack([COUNTS, LABELS], axis=1), np.stack([ETA, ETA[::-1]], axis=2)
    single = score("deviance", SQUARED, COUNTS) + score("deviance", SQUARED, LABELS, ETA[::-1])
    for name in ("deviance", "squared_error"):
        np.testing.assert_allclose(score(name, SQUARED, y, eta), single, rtol=1e-12)


def test_rows_that_pad_do_not_count():
    whole = deviance(LOGISTIC, LABELS, ETA, S)
    np.testing.assert_allclose(deviance(LOGISTIC, LABELS[3:], ETA[:, 3:], S[3:]), whole, rtol=1e-12)


@pytest.mark.core
@pytest.mark.float32
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_folds_that_leave_one_of_several_classes_out_are_refused(dtype):
    # Where it is held out its deviance would be infinite, in either precision.
    X = np.random.default_rng(0).standard_normal((30, 3)).astype(dtype)
    three = np.arange(30) % 3
    how = {"loss": l1jax.Multinomial(), "n_lams": 3}
    with pytest.raises(
        ValueError, match="fold 0 leaves no rows of class 0 to fit. Leave folds out"
    ):
        l1jax.cross_validate(X, three.astype(dtype), l1jax.L1(), folds=three, **how)
    soft = np.eye(3)[three] * 0.8 + np.array([0.1, 0.1, 0])
    soft /= soft.sum(axis=1, keepdims=True)
    with pytest.raises(ValueError, match="fold 2 leaves no rows of class 2"):
        l1jax.cross_validate(X, soft, l1jax.L1(), folds=three, **how)
    rare = np.where(np.arange(30) == 7, 2, three % 2).astype(dtype)
    with pytest.raises(ValueError, match="There is only one, which cannot be both fitted and held"):
        l1jax.cross_validate(X, rare, l1jax.L1(), **how)
    # What is advised works, also where most rows of a class have no weight.
    weight = np.where((three == 2) & (np.arange(30) > 5), 0, 1)
    which = splits(three, l1jax.Multinomial(3), 5, None, None, 1, 0, weight)
    assert all((weight * (three == 2))[split.train].any() for split in which)
    check_splits(which, three, l1jax.Multinomial(3), weight, None)


def test_folds_that_leave_one_class_to_fit_are_refused():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((30, 3))
    y = (X[:, 0] > 0).astype(float)
    with pytest.raises(
        ValueError, match="fold 0 leaves no rows of class 0 to fit. Leave folds out"
    ):
        l1jax.cross_validate(X, y, l1jax.L1(), loss=l1jax.Logistic(), folds=y.astype(int))
    with pytest.raises(ValueError, match="leaves no rows of class . to fit. Take fewer folds"):
        l1jax.cross_validate(X, y, l1jax.L1(), loss=l1jax.Logistic(), groups=y, n_folds=2)
    with pytest.raises(ValueError, match="folds must give the fold of each row, got nan at row 4"):
        folds = np.arange(30.0) % 3
        folds[4] = np.nan
        l1jax.cross_validate(X, y, l1jax.L1(), folds=folds)
