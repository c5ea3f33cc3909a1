"""Relaxed and adaptive fits, and information criteria: against least squares and statsmodels."""

import dataclasses
import io
import math

import jax
import numpy as np
import pytest
import scipy.sparse
import statsmodels.api as sm
from sklearn.datasets import load_diabetes

import l1jax

N = 60
RNG = np.random.default_rng(3)
X = RNG.standard_normal((N, 8)) + 2
X[:, 7] = X[:, 0] - X[:, 1]  # dependent
Y = X[:, :3] @ [1.0, -1.0, 0.5] + 0.5 * RNG.standard_normal(N)
LABELS = (RNG.random(N) < 1 / (1 + np.exp(-Y))).astype(float)
COUNTS = RNG.poisson(np.exp(Y / 2)).astype(float)
WEIGHT, OFFSET = RNG.uniform(0.5, 2, N), 0.3 * RNG.standard_normal(N)
MODELS = {
    "gaussian": (l1jax.SquaredError(), Y, sm.families.Gaussian()),
    "binomial": (l1jax.Logistic(), LABELS, sm.families.Binomial()),
    "poisson": (l1jax.Poisson(), COUNTS, sm.families.Poisson()),
}


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    loss, y, family = MODELS[request.param]
    options = {"loss": loss, "sample_weight": WEIGHT, "offset": OFFSET}
    path = l1jax.path(X[:, :7], y, l1jax.L1(), n_lams=8, lam_min_ratio=0.02, **options)
    return path, y, family


@pytest.mark.parametrize("kind", ["dense", "sparse"])
@pytest.mark.slow
def test_relaxed_fits_are_glms_of_what_is_in(model, kind):
    path, y, family = model
    data = X[:, :7] if kind == "dense" else scipy.sparse.csr_array(X[:, :7])
    relaxed = l1jax.relax(path, data, y, sample_weight=WEIGHT, offset=OFFSET)
    half = l1jax.relax(path, data, y, 0.5, sample_weight=WEIGHT, offset=OFFSET)
    for i in range(1, 8):
        inside = np.flatnonzero(path[i].support)
        glm = sm.GLM(
            y, sm.add_constant(X[:, inside]), family, offset=OFFSET, freq_weights=WEIGHT
        ).fit(tol=1e-12)
        np.testing.assert_allclose(relaxed[i].coef[inside], glm.params[1:], atol=1e-7)
        assert relaxed[i].intercept == pytest.approx(glm.params[0], abs=1e-7)
        explained = 1 - glm.deviance / glm.null_deviance
        assert relaxed[i].deviance_explained == pytest.approx(explained, abs=1e-7)
        assert (relaxed[i].support == path[i].support).all()
        np.testing.assert_allclose(half[i].coef, (relaxed[i].coef + path[i].coef) / 2)
    same = l1jax.relax(path, data, y, 1.0, sample_weight=WEIGHT, offset=OFFSET)
    np.testing.assert_array_equal(same.coefs, path.coefs)


def test_criteria_differ_between_models_as_those_of_statsmodels(model):
    path, y, family = model
    relaxed = l1jax.relax(path, X[:, :7], y, sample_weight=WEIGHT, offset=OFFSET)
    weight = WEIGHT * N / WEIGHT.sum()
    options = {"sample_weight": WEIGHT, "offset": OFFSET}
    found = {
        kind: l1jax.information_criterion(relaxed, X[:, :7], y, kind, **options)
        for kind in ("aic", "bic", "ebic")
    }
    differences = []
    for i in (2, 7):
        columns = sm.add_constant(X[:, np.flatnonzero(path[i].support)])
        if isinstance(family, sm.families.Gaussian):
            weighted = np.sqrt(weight)[:, None] * np.column_stack([y - OFFSET, columns])
            one = sm.OLS(weighted[:, 0], weighted[:, 1:]).fit()
            differences.append((one.aic, one.bic))
        else:
            one = sm.GLM(y, columns, family, offset=OFFSET, freq_weights=weight).fit(tol=1e-12)
            differences.append((one.aic, one.bic_llf))
        assert found["aic"].degrees_of_freedom[i] == columns.shape[1]
    wanted = np.subtract(*differences)
    assert found["aic"].values[2] - found["aic"].values[7] == pytest.approx(wanted[0], rel=1e-6)
    assert found["bic"].values[2] - found["bic"].values[7] == pytest.approx(wanted[1], rel=1e-6)
    more = [2 * math.log(math.comb(7, int(k))) for k in path.n_nonzero]
    np.testing.assert_allclose(found["ebic"].values - found["bic"].values, more, atol=1e-10)
    assert "ebic" in repr(found["ebic"]) and found["bic"].fit_min.lam == found["bic"].lam_min


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::l1jax.ConvergenceWarning")  # of dependent columns
def test_degrees_of_freedom_are_the_rank_of_what_is_in():
    pen = l1jax.L1(weights=np.zeros(8))  # all in, of which one depends on two
    path = l1jax.path(X, Y, pen, lams=[1.0], engine="sequential")
    assert path.n_nonzero[0] == 8
    for data in (X, scipy.sparse.csc_array(X)):
        assert l1jax.information_criterion(path, data, Y).degrees_of_freedom[0] == 7 + 1
    without = l1jax.information_criterion(path, X, Y, fit_intercept=False)
    assert without.degrees_of_freedom[0] == 7
    given = l1jax.information_criterion(path, X, Y, "aic", degrees_of_freedom=[3.0], variance=0.25)
    errors = np.sum((Y - path[0].predict(X)) ** 2)
    assert given.values[0] == pytest.approx(errors / 0.25 + 6)


def test_a_relaxed_path_is_validated_with_its_share():
    gammas = (0, 0.5, 1)
    how = {"n_folds": 3, "n_lams": 6, "seed": 1}
    cv = l1jax.cross_validate(X[:, :7], Y, l1jax.L1(), gammas=gammas, **how)
    plain = l1jax.cross_validate(X[:, :7], Y, l1jax.L1(), **how)
    assert [one.gamma for one in cv.by_gamma] == [0, 0.5, 1]
    np.testing.assert_allclose(cv.by_gamma[2].fold_scores, plain.fold_scores, rtol=1e-12)
    assert plain.gamma == 1 and plain.by_gamma == ()
    best = [one.mean_score.min() for one in cv.by_gamma]
    assert cv.mean_score.min() == min(best) and cv.gamma == gammas[int(np.argmin(best))]
    for gamma, one in zip(gammas, cv.by_gamma, strict=True):
        for test in one.held_out:
            rest = X[~test][:, :7], Y[~test]
            path = l1jax.relax(l1jax.path(*rest, l1jax.L1(), lams=cv.lams), *rest, gamma)
            wanted = path.predict(X[test][:, :7])
            np.testing.assert_allclose(one.predictions[:, test], wanted, atol=1e-7)
    assert "gamma" in repr(cv) and (cv.fold_gaps < 1e-6).all()
    relaxed = l1jax.relax(plain.path, X[:, :7], Y, cv.gamma)
    np.testing.assert_allclose(cv.path.coefs, relaxed.coefs, atol=1e-9)


@pytest.mark.fast
def test_separable_labels_are_explained_from_far_out():
    y = (X[:, 0] > 2).astype(float)
    path = l1jax.path(X[:, :7], y, l1jax.L1(), loss=l1jax.Logistic(), n_lams=3)
    relaxed = l1jax.relax(path, X[:, :7], y)
    assert np.isfinite(relaxed.coefs).all()
    margins = np.where(y == 1, 1, -1) * relaxed[-1].predict(X[:, :7], kind="link")
    assert (margins > 0).all()
    assert np.log1p(np.exp(-margins)).mean() < 1e-4 * np.log(2)  # of the deviance at even odds


def test_adaptive_weights_are_the_inverse_of_a_first_fit():
    data, y = load_diabetes(return_X_y=True)
    first = l1jax.fit(data, y, l1jax.L1(0.5))
    weights = l1jax.adaptive_weights(first, 2.0, scale=data.std(axis=0))
    inside = np.asarray(first.support)
    size = np.abs(np.asarray(first.coef) * data.std(axis=0))[inside]
    np.testing.assert_allclose(weights[inside], 1 / size**2)
    assert np.isinf(weights[~inside]).all()
    second = l1jax.path(data, y, l1jax.L1(weights=weights), n_lams=5, standardize=True)
    assert (np.asarray(second.coefs)[:, ~inside] == 0).all() and second[-1].n_nonzero > 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda path: l1jax.relax(path, X, Y, 2.0), "gamma must lie in"),
        (lambda path: l1jax.relax(path[0], X, Y), "must be an l1jax Path"),
        (lambda path: l1jax.information_criterion(path, X, Y, "cp"), "kind must be"),
        (lambda path: l1jax.information_criterion(path[0], X, Y), "must be an l1jax Path"),
        (
            lambda path: l1jax.information_criterion(path, X, Y, degrees_of_freedom=[1]),
            "degrees_of_freedom must be of shape",
        ),
        (lambda path: l1jax.adaptive_weights(np.zeros(3)), "not all zero"),
        (lambda path: l1jax.adaptive_weights(np.ones((3, 2))), "one response"),
        (lambda path: l1jax.adaptive_weights([1.0], scale=[1, 2]), "scale must be"),
        (lambda path: l1jax.cross_validate(X, Y, l1jax.L1(), gammas=[-1]), "gamma must be"),
    ],
)
def test_bad_arguments_are_named(call, message):
    path = l1jax.path(X, Y, l1jax.L1(), lams=[0.3, 0.2])
    with pytest.raises((ValueError, TypeError), match=message):
        call(path)


def test_a_loss_that_is_no_likelihood_has_no_criterion():
    path = l1jax.path(X, Y, l1jax.L1(), lams=[0.3, 0.2])
    path = l1jax.Path(dataclasses.replace(path.fits, loss=l1jax.Huber()))
    with pytest.raises(ValueError, match="no likelihood"):
        l1jax.information_criterion(path, X, Y)


def test_the_squared_hinge_is_no_likelihood():
    path = l1jax.path(X, LABELS, l1jax.L1(), lams=[0.3, 0.2], loss=l1jax.SquaredHinge())
    with pytest.raises(ValueError, match=r"SquaredHinge\(\) is no likelihood"):
        l1jax.information_criterion(path, X, LABELS)
    likelihoods = (l1jax.Logistic(), l1jax.Multinomial(), l1jax.Poisson(), l1jax.Cox())
    assert all(loss.is_likelihood for loss in likelihoods) and not l1jax.Huber().is_likelihood


def saved_and_loaded(path):
    file = io.BytesIO()
    path.save(file)
    file.seek(0)
    return l1jax.load(file)


@pytest.mark.parametrize("source", ["path", "file", "cross-validation"])
@pytest.mark.parametrize("standardize", [False, True])
def test_what_a_path_was_fitted_with_is_what_it_is_relaxed_with(source, standardize):
    how = {"fit_intercept": False, "sample_weight": WEIGHT, "offset": OFFSET}
    how |= {"lams": [0.5, 0.2, 0.02], "standardize": standardize}
    data = X[:, :7]
    if source == "cross-validation":
        path = l1jax.cross_validate(data, Y, l1jax.L1(), n_folds=2, **how).path
    else:
        path = l1jax.path(data, Y, l1jax.L1(), **how)
    path = saved_and_loaded(path) if source == "file" else path
    relaxed = l1jax.relax(path, data, Y)
    criterion = l1jax.information_criterion(relaxed, data, Y)
    root = np.sqrt(WEIGHT)
    for i, coef in enumerate(np.asarray(relaxed.coefs)):
        inside = np.asarray(path[i].support)
        right, *_ = np.linalg.lstsq(
            root[:, None] * data[:, inside], root * (Y - OFFSET), rcond=None
        )
        np.testing.assert_allclose(coef[inside], right, atol=1e-9)
        errors = N * np.average((Y - OFFSET - data[:, inside] @ right) ** 2, weights=WEIGHT)
        value = N * math.log(errors / N) + math.log(N) * inside.sum()
        assert criterion.values[i] == pytest.approx(value, rel=1e-9)
    assert (np.asarray(relaxed.intercepts) == 0).all()
    np.testing.assert_array_equal(criterion.degrees_of_freedom, path.n_nonzero)
    # What is passed goes first.
    with_intercept = l1jax.relax(path, data, Y, fit_intercept=True)
    assert (np.asarray(with_intercept.intercepts) != 0).all()
    freedom = l1jax.information_criterion(with_intercept, data, Y).degrees_of_freedom
    np.testing.assert_array_equal(freedom, path.n_nonzero + 1)


def test_weights_of_a_standardised_fit_are_on_its_scale():
    path = l1jax.path(X, Y, l1jax.L1(), lams=[0.1], sample_weight=WEIGHT, standardize=True)
    beta = np.asarray(path[0].coef)
    mean = np.average(X, axis=0, weights=WEIGHT)
    scale = np.sqrt(np.average((X - mean) ** 2, axis=0, weights=WEIGHT))
    with np.errstate(divide="ignore"):
        wanted = 1 / np.abs(scale * beta)
    np.testing.assert_allclose(l1jax.adaptive_weights(path[0]), wanted, rtol=1e-12)
    np.testing.assert_allclose(
        l1jax.adaptive_weights(path[0], scale=np.ones(8)), wanted * scale, rtol=1e-12
    )


@pytest.mark.slow
def test_arrays_that_a_traced_fit_does_not_keep_are_asked_for():
    how = {"sample_weight": WEIGHT, "lams": [0.5, 0.2, 0.02]}
    path = jax.jit(lambda y: l1jax.path(X[:, :7], y, l1jax.L1(), engine="sequential", **how))(Y)
    assert path.fits.options.sample_weight is None
    with pytest.raises(ValueError, match="fitted with sample_weight inside of jit or vmap"):
        l1jax.relax(path, X[:, :7], Y)
    found = l1jax.relax(path, X[:, :7], Y, sample_weight=WEIGHT)
    wanted = l1jax.relax(l1jax.path(X[:, :7], Y, l1jax.L1(), **how), X[:, :7], Y)
    np.testing.assert_allclose(found.coefs, wanted.coefs, atol=1e-8)


def test_other_rows_than_those_of_the_path_are_refused():
    path = l1jax.path(X, Y, l1jax.L1(), lams=[0.3, 0.2], sample_weight=WEIGHT)
    with pytest.raises(ValueError, match="sample_weight for 60 rows, X has 30"):
        l1jax.relax(path, X[:30], Y[:30])
    bare = l1jax.Path(dataclasses.replace(path.fits, options=None))
    with pytest.raises(ValueError, match="path does not say how it was fitted"):
        l1jax.information_criterion(bare, X, Y)


def test_a_path_of_other_columns_is_not_relaxed():
    X = np.random.default_rng(0).standard_normal((20, 4))
    path = l1jax.path(X, X[:, 0], l1jax.L1(), n_lams=3)
    with pytest.raises(ValueError, match="path must be a path of these data"):
        l1jax.relax(path, X[:, :2], X[:, 0])
