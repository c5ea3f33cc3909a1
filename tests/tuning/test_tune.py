"""Hyperparameters by gradient, against grids, and against refits by hand."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_diabetes
from sklearn.linear_model import lasso_path

import l1jax
from l1jax.tuning import _criteria
from l1jax.tuning._tune import _Search

pytestmark = pytest.mark.filterwarnings("ignore::l1jax.ConvergenceWarning")

X, Y = load_diabetes(return_X_y=True)
FOLDS = np.arange(len(Y)) % 3
CRITERION = l1jax.CrossValidation(folds=FOLDS)


def other_data():
    """Two more data sets, of the shape of the first: what compiles is shared."""
    rng = np.random.default_rng(0)
    few = rng.normal(size=X.shape) + rng.normal(size=(len(X), 1))  # correlated by one half
    yield few, few @ np.r_[1.0, -1.0, np.zeros(8)] + 3 * rng.normal(size=len(X))
    noise = rng.standard_t(3, size=X.shape) * np.logspace(-1, 1, 10)  # nothing but noise
    yield noise, rng.normal(size=len(X))


@pytest.fixture(scope="module")
def one():
    return l1jax.tune(X, Y, l1jax.L1(), criterion=CRITERION)


def error_by_hand(lams, X=X, y=Y):
    """Cross-validated half squared error of scikit-learn's lasso at each strength."""
    total = 0
    for fold in range(3):
        train = fold != FOLDS
        mean, centre = X[train].mean(axis=0), y[train].mean()
        _, coefs, _ = lasso_path(X[train] - mean, y[train] - centre, alphas=lams, tol=1e-8)
        fitted = (X[~train] - mean) @ coefs + centre
        total = total + 0.5 * np.mean((y[~train][:, None] - fitted) ** 2, axis=0)
    return total / 3


@pytest.mark.slow
def test_one_strength_is_as_good_as_the_best_of_a_thousand_from_any_start(one):
    for data, target in [(X, Y), *other_data()]:
        biggest = float(l1jax.lambda_max(data, target, l1jax.L1()))
        best = error_by_hand(biggest * np.logspace(0, -3, 1000), data, target).min()
        found = {"no start": one} if data is X else {}
        for start in (biggest, biggest / 1000, *([1e9] if data is X else [])):
            found[start] = l1jax.tune(data, target, l1jax.L1(start), criterion=CRITERION)
        for start, tuned in found.items():
            assert tuned.criterion <= best * (1 + 1e-3), start
            assert tuned.num_fits <= 15 and len(tuned.history) <= 25
            by_hand = error_by_hand([float(tuned.pen.lam)], data, target)[0]
            assert tuned.criterion == pytest.approx(by_hand, rel=1e-5)
            assert tuned.fit.lam == tuned.pen.lam and tuned.fit.relative_gap < 1e-6


@pytest.mark.fast
def test_every_gradient_in_the_history_is_a_difference_of_criteria(one):
    h = 1e-3
    for trial in one.history[3:6]:
        log = np.log(float(trial.values["lam"]))
        ahead, behind = error_by_hand(np.exp([log + h, log - h]))
        # The difference is right to h² of the third derivative: 1e-4 of the gradient here.
        assert trial.gradient == pytest.approx((ahead - behind) / (2 * h), rel=1e-3)


@pytest.mark.slow
def test_several_hyperparameters_end_no_worse_than_they_start(one):
    weights = l1jax.tune(X, Y, one.pen, by="weights", criterion=CRITERION)
    assert weights.criterion < one.criterion
    best = min(weights.history, key=lambda trial: trial.criterion)
    first, last = (np.abs(trial.gradient).max() for trial in (weights.history[0], best))
    assert last < 0.01 * first  # a local optimum
    assert weights.pen.weights.shape == (10,) and weights.pen.lam == one.pen.lam
    found = l1jax.tune(X, Y, l1jax.L1(), by="weights", criterion=CRITERION, max_fits=1)
    assert all(trial.values.keys() == {"lam", "weights"} for trial in found.history)
    for trial in (found.history[2], found.history[-1]):  # each holds all that its criterion is of
        lam, weights = float(trial.values["lam"]), trial.values["weights"]
        assert error_by_hand([lam], X / weights)[0] == pytest.approx(trial.criterion, rel=1e-5)
    assert all(cell for row in found._table().rows for cell in row[:-1])
    both = l1jax.tune(
        X, Y, l1jax.ElasticNet(), by=("lam", "l1_ratio"), criterion=CRITERION, max_fits=4
    )
    assert both.criterion <= min(trial.criterion for trial in both.history)
    assert 0 < both.pen.l1_ratio <= 1


@pytest.mark.slow
def test_where_nothing_is_in_smaller_prices_are_tried(one):
    biggest = float(l1jax.lambda_max(X, Y, l1jax.L1()))
    options = {"criterion": CRITERION, "max_fits": 3}
    weights = l1jax.tune(X, Y, l1jax.L1(3 * biggest), by="weights", **options)
    assert weights.num_fits <= 4 and weights.pen.lam == 3 * biggest
    assert weights.criterion < 1.01 * one.criterion  # as good as one strength
    net = l1jax.tune(X, Y, l1jax.ElasticNet(1.5 * biggest), by="l1_ratio", **options)
    assert net.pen.l1_ratio < 0.5 and np.asarray(net.fit.n_nonzero) > 0
    with pytest.raises(
        ValueError, match=r"nothing is in the model at lam.*by=\('lam', 'l1_ratio'\)"
    ):
        l1jax.tune(X, Y, l1jax.ElasticNet(1e4 * biggest), by="l1_ratio", **options)


@pytest.mark.parametrize("what", ["group", "class"])
@pytest.mark.slow
def test_a_strength_for_each_group_or_class(what):
    if what == "group":
        pen = l1jax.GroupL1(1.0, np.repeat(np.arange(5), 2), np.ones(5))
        loss, y, shape = l1jax.SquaredError(), Y, (5,)
    else:
        pen = l1jax.L1(0.01, np.ones((1, 3)))
        loss, y, shape = l1jax.Multinomial(), np.digitize(Y, np.quantile(Y, [0.3, 0.7])), (1, 3)

    def size(fit):
        return jnp.sum(fit.coef**2) / 1e4

    def at(log):
        weights = np.array(pen.weights)
        weights.flat[1] = np.exp(log)
        changed = eqx.tree_at(lambda one: one.weights, pen, weights)
        return float(size(l1jax.fit(X, y, changed, loss=loss, tol=1e-10)))

    how = {"by": "weights", "loss": loss, "criterion": size, "max_fits": 3, "tol": 1e-10}
    tuned = l1jax.tune(X, y, pen, **how)
    first, h = tuned.history[0], 1e-3
    assert tuned.pen.weights.shape == shape and first.gradient.shape == (max(shape),)
    assert first.gradient[1] == pytest.approx((at(h) - at(-h)) / (2 * h), rel=1e-4)
    assert tuned.criterion < first.criterion


def test_a_criterion_that_is_no_number_is_worse_than_any_other():
    def undefined_above_one(fit):
        return jnp.where(fit.lam > 1, jnp.nan, jnp.mean((Y - fit.predict(X)) ** 2))

    tuned = l1jax.tune(X, Y, l1jax.L1(), criterion=undefined_above_one)
    tried = [trial.criterion for trial in tuned.history]
    assert np.isnan(tried).any() and tuned.criterion == np.nanmin(tried)
    assert tuned.pen.lam == min(trial.values["lam"] for trial in tuned.history)
    assert "at the least tried" in repr(tuned)


@pytest.mark.slow
def test_weights_of_zero_and_infinity_stay():
    start = np.array([0.0, np.inf] + [1.0] * 8)
    data = X.tolist()  # as `fit` takes them
    tuned = l1jax.tune(data, Y, l1jax.L1(0.1, start), by="weights", criterion=CRITERION, max_fits=3)
    assert tuned.pen.weights[0] == 0 and tuned.pen.excluded[1] and tuned.fit.coef[1] == 0


def test_held_out_rows_and_a_function_of_the_fit_agree():
    rows = FOLDS == 0
    held_out = l1jax.HeldOut(X[rows], Y[rows])

    def by_hand(fit):
        return 0.5 * jnp.mean((Y[rows] - fit.predict(X[rows])) ** 2)

    pen = l1jax.L1(2.0)
    tuned = l1jax.tune(X, Y, pen, criterion=held_out, max_fits=2)
    other = l1jax.tune(X, Y, pen, criterion=by_hand, max_fits=2)
    assert tuned.pen.lam == pytest.approx(other.pen.lam, rel=1e-6)
    assert tuned.criterion == pytest.approx(other.criterion, rel=1e-9)


def test_steins_risk_is_unbiased_where_the_degrees_of_freedom_are_known():
    """On orthonormal columns the lasso is a soft threshold: df is the number of what is in."""
    rng = np.random.default_rng(0)
    q, _ = np.linalg.qr(rng.normal(size=(400, 100)))
    design = q * np.sqrt(400)
    mean = design[:, :20] @ np.full(20, 0.3)
    y = mean + rng.normal(size=400)
    how = {"criterion": l1jax.SURE(1.0), "fit_intercept": False}
    tuned = l1jax.tune(design, y, l1jax.L1(), max_fits=3, **how)
    risks = []
    for trial in tuned.history:
        fit = l1jax.fit(design, y, l1jax.L1(float(trial.values["lam"])), fit_intercept=False)
        residual = np.mean((y - design @ fit.coef) ** 2)
        risks.append(residual - 1 + 2 * int(fit.n_nonzero) / 400)
    found = [trial.criterion for trial in tuned.history]
    # One random direction estimates df to √(2 df); 2/400 of that is 0.07 at df = 100.
    np.testing.assert_allclose(found, risks, atol=0.1)
    fitted = design @ tuned.fit.coef
    assert np.mean((fitted - mean) ** 2) < 0.5 * np.mean((y - mean) ** 2)


def test_logistic_folds_hold_every_class(monkeypatch):
    y = (np.arange(len(Y)) < 12) * 1.0  # rare, and sorted
    drawn, draw = [], _criteria.random_folds
    monkeypatch.setattr(
        _criteria, "random_folds", lambda *args: drawn.append(draw(*args)) or drawn[-1]
    )
    criterion = l1jax.CrossValidation(3)
    tuned = l1jax.tune(X, y, l1jax.L1(), loss=l1jax.Logistic(), criterion=criterion, max_fits=1)
    assert np.isfinite(tuned.criterion) and drawn
    for folds in drawn:
        assert [int(y[folds == fold].sum()) for fold in np.unique(folds)] == [4, 4, 4]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"by": "alpha"}, "by must name fields of L1"),
        ({"by": "prox"}, "that hold numbers"),
        ({"by": ()}, "by must name one field"),
        ({"criterion": "cv"}, "criterion must be"),
        (
            {"criterion": l1jax.CrossValidation(folds=[0, 1])},
            "folds must give the fold of each row",
        ),
        ({"criterion": l1jax.CrossValidation(n_folds=1000)}, "n_folds must be at most"),
        ({"max_fits": 0}, "max_fits must be at least 1"),
        ({"criterion": lambda fit: fit.coef}, "criterion must return a scalar"),
        ({"criterion": lambda fit: jnp.nan * fit.lam}, "nan at all 10 trials"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        l1jax.tune(X, Y, l1jax.L1(), **arguments)


def test_results_print_their_trials(one):
    assert "<- best" in repr(one) and "criterion" in repr(one)


def test_an_interrupted_search_ends_with_the_best_so_far(monkeypatch):
    note = _Search._note

    def stop(self, *what):
        note(self, *what)
        if len(self.history) == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr(_Search, "_note", stop)
    tuned = l1jax.tune(X, Y, l1jax.L1(), criterion=CRITERION)
    assert tuned.interrupted and len(tuned.history) == 6 and "interrupted" in repr(tuned)
    best = min(tuned.history, key=lambda trial: trial.criterion)
    assert tuned.criterion == best.criterion and float(tuned.pen.lam) == best.values["lam"]
    assert float(tuned.fit.lam) == best.values["lam"]


def test_folds_that_leave_a_class_out_are_refused():
    X = np.random.default_rng(0).standard_normal((12, 2))
    y = (np.arange(12) % 2).astype(float)
    criterion = l1jax.CrossValidation(folds=y)
    with pytest.raises(
        ValueError, match="fold 0 leaves no rows of class 0 to fit. Leave folds out"
    ):
        l1jax.tune(X, y, l1jax.L1(0.1), loss=l1jax.Logistic(), criterion=criterion)


def test_with_x64_off_the_fit_holds_arrays_of_numpy_in_float64():
    with jax.enable_x64(False):
        X = np.random.default_rng(0).standard_normal((12, 2))
        tuned = l1jax.tune(X, X[:, 0], l1jax.L1(), criterion=l1jax.CrossValidation(3), max_fits=2)
        assert isinstance(tuned.fit.coef, np.ndarray) and tuned.fit.coef.dtype == np.float64
        assert tuned.fit.n_nonzero == (tuned.fit.coef != 0).sum()
