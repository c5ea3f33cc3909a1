"""Several responses of mixed kinds: against the losses of one response, CVXPY and finite differences."""

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import l1jax
from l1jax import Status
from tests.losses.cases import CASES

CHOSEN = [CASES[name] for name in ("squared", "logistic", "poisson", "quantile", "gamma")]
EVERY = l1jax.Mixed([case.loss for case in CHOSEN], [0.5, 1.0, 2.0, 1.0, 3.0])
TARGETS = np.stack([case.y for case in CHOSEN], axis=1)
S = np.array([0.4, 0.3, 0.2, 0.1])
ETA = np.random.default_rng(0).uniform(-2, 2, TARGETS.shape)

PARTS = (l1jax.SquaredError(), l1jax.Logistic(), l1jax.Poisson())
LOSS, K = l1jax.Mixed(PARTS), 3
N, P = 40, 8
RNG = np.random.default_rng(1)
X = RNG.normal(size=(N, P))
MEANS = X[:, :3] @ RNG.normal(0, 0.5, size=(3, K)) + 0.3
Y = np.column_stack(
    [
        1e4 + MEANS[:, 0] + RNG.normal(size=N),
        RNG.random(N) < 1 / (1 + np.exp(-MEANS[:, 1])),
        RNG.poisson(np.exp(MEANS[:, 2])),
    ]
).astype(float)
ROWS = l1jax.GroupL1(groups=range(P))


@pytest.mark.core
def test_value_and_derivatives_are_those_of_the_formulas():
    @jax.jit
    @jax.value_and_grad
    def total(eta):
        parts = zip(CHOSEN, EVERY.weights, strict=True)
        rows = sum(w * case.formula(TARGETS[:, k], eta[:, k]) for k, (case, w) in enumerate(parts))
        return jnp.sum(S * rows)

    # Formulas leave out what only depends on y.
    (value, gradient), (at_zero, _) = total(ETA), total(0 * ETA)
    change = EVERY.value(TARGETS, ETA, S) - EVERY.value(TARGETS, 0 * ETA, S)
    assert change == pytest.approx(float(value - at_zero), rel=1e-12)
    np.testing.assert_allclose(EVERY.gradient(TARGETS, ETA, S), gradient, atol=1e-12)
    h = 1e-6  # differences are good to h², and to rounding over h
    ahead, behind = (EVERY.gradient(TARGETS, ETA + d, S) for d in (h, -h))
    curvature = EVERY.curvature(TARGETS, ETA, S)
    np.testing.assert_allclose(curvature, (ahead - behind) / (2 * h), atol=1e-8)
    assert (EVERY.majorant(TARGETS, ETA, S) >= curvature - 1e-12).all()


METHODS = ("value", "deviance", "smoothing_error", "polish_intercept", "fenchel_gap", "conjugate")


def methods(eta, slope, c, s):
    """What each of the methods says."""
    given = {"fenchel_gap": (eta, c), "conjugate": (0.7 * slope,)}
    return [getattr(EVERY, name)(TARGETS, *given.get(name, (eta,)), s) for name in METHODS]


def test_in_numpy_it_is_the_same_and_points_may_be_several():
    slope, c = EVERY.gradient(TARGETS, ETA, S), np.asarray(0.7)
    ours = methods(ETA, slope, c, S)
    theirs = jax.jit(methods)(*map(jnp.asarray, (ETA, slope, c, S)))
    pair = np.array([1.0, 0.5])[:, None, None]
    several = methods(pair * ETA, pair * slope, c, S)
    for name, one, other, batch in zip(METHODS, ours, theirs, several, strict=True):
        assert not hasattr(one, "devices"), name
        np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-11, err_msg=name)
        np.testing.assert_allclose(batch[0], one, rtol=1e-12, atol=1e-13, err_msg=name)


def test_the_fenchel_gap_is_that_of_the_conjugate():
    slope = EVERY.gradient(TARGETS, ETA, S)
    for c in (0.0, 0.3, 0.9):
        gap = EVERY.fenchel_gap(TARGETS, ETA, np.asarray(c), S)
        direct = EVERY.value(TARGETS, ETA, S) + EVERY.conjugate(TARGETS, c * slope, S)
        direct += EVERY.smoothing_error(TARGETS, ETA, S) - c * np.sum(slope * ETA)
        assert gap == pytest.approx(float(direct), abs=1e-11)


def test_what_it_says_of_itself_is_what_its_losses_say():
    saturated = [
        case.loss.saturated(TARGETS[:, k], S * EVERY.weights[k]) for k, case in enumerate(CHOSEN)
    ]
    assert sum(saturated) != 0
    assert EVERY.saturated(TARGETS, S) == pytest.approx(float(sum(saturated)), rel=1e-12)
    np.testing.assert_array_equal(EVERY.neutral_target(TARGETS, S), TARGETS[0])  # of most weight
    pair = [l1jax.SquaredError(), l1jax.Logistic()]  # of curvatures up to 1 and 1/4
    assert l1jax.Mixed(pair, [0.5, 16.0]).smoothness == 4
    assert EVERY.smoothness is None and not l1jax.Mixed(pair).is_likelihood
    counts = [l1jax.Logistic(), l1jax.Poisson()]
    assert l1jax.Mixed(counts).is_likelihood and not l1jax.Mixed(counts, [1, 2]).is_likelihood


def test_folds_are_told_the_classes_of_each_response():
    labels = np.array([[0, 3.0, 1], [1, 4.0, 1], [1, 5.0, 0]])
    strata = l1jax.Mixed([PARTS[1], PARTS[2], PARTS[1]]).strata(labels)
    assert [name[-len("of response 0") :] for name in strata.names] == (
        2 * ["of response 0"] + 2 * ["of response 2"]
    )
    np.testing.assert_array_equal(strata.membership, [[1, 0, 0, 1], [0, 1, 0, 1], [0, 1, 1, 0]])


def test_rows_are_taken_of_what_a_loss_has_per_row_and_not_of_the_weights():
    loss = l1jax.Mixed([l1jax.Huber(np.array([1.0, 2.0])), l1jax.Logistic()], [3.0, 4.0])
    some = loss.take_rows(np.array([False, True]))
    assert some.losses[0].delta.tolist() == [2.0] and some.weights.tolist() == [3.0, 4.0]


def test_a_response_of_numbers_may_be_far_from_zero():
    options = {"loss": l1jax.Mixed(PARTS[:2]), "tol": 1e-10}
    near, far = (
        l1jax.fit(X, Y[:, :2] + [level, 0], l1jax.L1(0.05), **options) for level in (-1e4, 1e9)
    )
    assert far.status == Status.CONVERGED
    np.testing.assert_allclose(far.coef, near.coef, atol=1e-7)  # the spacing of numbers at 1e9


@pytest.mark.parametrize("weights", [None, [0.5, 1.0, 2.0]])
def test_with_l1_responses_are_fits_of_their_own(weights):
    lam = 0.05
    fit = l1jax.fit(X, Y, l1jax.L1(lam), loss=l1jax.Mixed(PARTS, weights), tol=1e-12)
    assert fit.status == Status.CONVERGED and fit.relative_gap <= 1e-12
    response = np.asarray(fit.predict(X))
    deviances = []
    for k, (loss, weight) in enumerate(zip(PARTS, weights or [1.0] * K, strict=True)):
        one = l1jax.fit(X, Y[:, k], l1jax.L1(lam / weight), loss=loss, tol=1e-12)
        np.testing.assert_allclose(fit.coef[:, k], one.coef, atol=1e-9)
        assert fit.intercept[k] == pytest.approx(float(one.intercept), rel=1e-10)
        np.testing.assert_allclose(response[:, k], one.predict(X), rtol=1e-9)
        s, eta = np.full(N, weight / N), np.asarray(one.predict(X, kind="link"))
        null = loss.polish_intercept(Y[:, k], np.zeros(N), s)
        deviances.append([loss.deviance(Y[:, k], e, s) for e in (eta, np.full(N, null))])
    explained = 1 - np.sum(deviances, axis=0)[0] / np.sum(deviances, axis=0)[1]
    assert float(fit.deviance_explained) == pytest.approx(float(explained), rel=1e-8)


def test_rows_are_those_of_a_conic_solver_with_weights_of_zero_and_an_offset():
    weight, lam = np.where(np.arange(N) % 5 == 0, 0.0, 1.0 + np.arange(N) % 2), 0.25
    offset = 0.3 * RNG.normal(size=(N, K))
    y = np.where(weight[:, None] > 0, Y, 7.0)  # no label
    y[weight > 0, 0] -= 1e4
    options = {"loss": LOSS, "sample_weight": weight, "offset": offset, "tol": 1e-11}
    with pytest.raises(ValueError, match="In response 1, y must hold labels 0 and 1"):
        l1jax.fit(X, y, ROWS.with_strength(lam), **options)
    y[weight == 0] = 0
    fit = l1jax.fit(X, y, ROWS.with_strength(lam), **options)
    assert fit.status == Status.CONVERGED
    coef, intercept = cp.Variable((P, K)), cp.Variable((1, K))
    eta = X @ coef + np.ones((N, 1)) @ intercept + offset
    rows = 0.5 * cp.square(y[:, 0] - eta[:, 0])
    rows += cp.logistic(eta[:, 1]) - cp.multiply(y[:, 1], eta[:, 1])
    rows += cp.exp(eta[:, 2]) - cp.multiply(y[:, 2], eta[:, 2])
    penalty = lam * cp.sum(cp.norm(coef, 2, axis=1))
    problem = cp.Problem(cp.Minimize(weight / weight.sum() @ rows + penalty))
    problem.solve(solver="CLARABEL")  # to 1e-8
    assert float(fit.objective) == pytest.approx(problem.value, rel=1e-7)
    # The objective is flat there: 1e-8 of it is 1e-4 of a coefficient.
    np.testing.assert_allclose(fit.coef, np.asarray(coef.value), atol=1e-4)
    np.testing.assert_allclose(fit.intercept, np.asarray(intercept.value)[0], atol=1e-4)
    assert 0 < (np.asarray(fit.coef) != 0).all(axis=1).sum() < P


@pytest.mark.parametrize("pen", [l1jax.L1(), ROWS], ids=["L1", "rows"])
def test_a_path_with_more_columns_than_rows_is_certified(pen):
    few = slice(0, 6)
    path = l1jax.path(X[few], Y[few] - [1e4, 0, 0], pen, loss=LOSS, n_lams=8, tol=1e-9)
    assert (np.asarray(path.status) == Status.CONVERGED).all()
    assert np.max(path.relative_gaps) <= 1e-9
    active = (np.asarray(path.coefs[0]) != 0).sum()
    assert active == 0 and (np.asarray(path.coefs[-1]) != 0).any()


def test_held_out_rows_are_scored_by_the_deviance_of_all_responses():
    folds, lams = np.arange(N) % 2, np.array([0.3, 0.1])
    cv = l1jax.cross_validate(X, Y, ROWS, loss=LOSS, lams=lams, folds=folds, tol=1e-10)
    scores = np.zeros((2, 2))
    for fold in range(2):
        rows = folds == fold
        for i, lam in enumerate(lams):
            fit = l1jax.fit(X[~rows], Y[~rows], ROWS.with_strength(lam), loss=LOSS, tol=1e-10)
            eta = np.asarray(fit.predict(X[rows], kind="link"))
            s = np.full(rows.sum(), 1 / rows.sum())
            each = (loss.deviance(Y[rows, k], eta[:, k], s) for k, loss in enumerate(PARTS))
            scores[fold, i] = 2 * sum(each)
    np.testing.assert_allclose(cv.mean_score, scores.mean(axis=0), rtol=1e-6)
    predictions = np.asarray(cv.predictions)
    assert predictions.shape == (2, N, K)
    assert ((predictions[..., 1] > 0) & (predictions[..., 1] < 1)).all()


@pytest.mark.slow
def test_the_derivative_by_strength_is_that_of_differences():
    def coef(lam):
        return l1jax.fit(X, Y, ROWS.with_strength(lam), loss=LOSS, tol=1e-13).coef

    h = 1e-5  # differences are good to h², and to rounding over h
    slope = jax.jvp(coef, (0.1,), (1.0,))[1]
    np.testing.assert_allclose(slope, (coef(0.1 + h) - coef(0.1 - h)) / (2 * h), atol=1e-6)


def test_a_saved_fit_predicts_each_response_by_its_own_link(tmp_path):
    fit = l1jax.fit(X, Y, ROWS.with_strength(0.1), loss=l1jax.Mixed(PARTS, [0.5, 1, 1]))
    fit.save(tmp_path / "fit.npz")
    again = l1jax.load(tmp_path / "fit.npz")
    np.testing.assert_array_equal(again.predict(X), fit.predict(X))
    eta = X @ np.asarray(fit.coef) + np.asarray(fit.intercept)
    expected = np.stack([eta[:, 0], 1 / (1 + np.exp(-eta[:, 1])), np.exp(eta[:, 2])], axis=1)
    np.testing.assert_allclose(fit.predict(X), expected, rtol=1e-12)


class OwnSquaredError(l1jax.SquaredError):
    """A loss of one's own, of which nobody knows whether it is for NumPy."""


@pytest.mark.slow
def test_a_loss_of_ones_own_is_a_response():
    y = Y[:, [2, 1]]
    ours = l1jax.fit(
        X, y, l1jax.L1(0.1), loss=l1jax.Mixed([OwnSquaredError(), PARTS[1]]), tol=1e-10
    )
    known = l1jax.fit(X, y, l1jax.L1(0.1), loss=l1jax.Mixed([PARTS[0], PARTS[1]]), tol=1e-10)
    np.testing.assert_allclose(ours.coef, known.coef, atol=1e-7)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: l1jax.Mixed([l1jax.Cox()]), ValueError, "sums over rows, each of one response"),
        (lambda: l1jax.Mixed([l1jax.Multinomial()]), ValueError, "got Multinomial"),
        (lambda: l1jax.Mixed([LOSS]), ValueError, "got Mixed"),
        (lambda: l1jax.Mixed([l1jax.Logistic]), TypeError, "losses must be l1jax losses"),
        (lambda: l1jax.Mixed([]), ValueError, "a loss per response, got none"),
        (lambda: l1jax.Mixed(PARTS, [1.0]), ValueError, r"weights.*shape \(3,\), got \(1,\)"),
        (lambda: l1jax.Mixed(PARTS, [1.0, 0.0, 1.0]), ValueError, "weights must be > 0"),
        (lambda: LOSS.check_targets(Y[:, :2]), ValueError, r"shape \(n, 3\), got \(40, 2\)"),
        (lambda: LOSS.check_targets(-Y), ValueError, "In response 1, y must hold labels"),
        (lambda: l1jax.Logistic().check_shape((4, 2)), ValueError, "SquaredError or Mixed"),
    ],
)
def test_what_is_no_mixture_is_named(make, error, message):
    with pytest.raises(error, match=message):
        make()
