"""What results give back: parts of a path, data frames, summaries, predictions of the chosen fit."""

import builtins

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import l1jax

N, P, L = 40, 5, 12
RNG = np.random.default_rng(11)
NAMES = ["age", "bmi", "bp", "s1", "s2"]
TABLE = pd.DataFrame(RNG.standard_normal((N, P)) + 1.0, columns=NAMES)
Y = TABLE.to_numpy() @ np.array([2.0, -1.0, 0.5, 0.0, 0.0]) + RNG.standard_normal(N)


@pytest.fixture(scope="module")
def path():
    return l1jax.path(TABLE, Y, l1jax.L1(), n_lams=L)


@pytest.fixture(scope="module")
def cv():
    return l1jax.cross_validate(TABLE, Y, l1jax.L1(), n_lams=L, n_folds=4)


@pytest.fixture(scope="module")
def several():
    return l1jax.path(TABLE, np.stack([Y, -Y], axis=1), l1jax.GroupL1(groups=range(P)), n_lams=3)


@pytest.mark.parametrize(
    "which",
    [
        [0, 3],
        [5, -1, 5],
        np.array([True, False] * (L // 2)),
        [True, *[False] * (L - 1)],
        jnp.array([2, 1]),
        jnp.arange(L) > 7,
        pd.Series(np.arange(L) < 2),
        slice(None, None, -2),
        np.int64(4),
        jnp.array(-2),
    ],
    ids=lambda which: type(which).__name__,
)
def test_a_path_is_indexed_as_arrays_are(path, which):
    expected = np.arange(L)[which if isinstance(which, slice) else np.asarray(which)]
    part = path[which]
    assert isinstance(part, l1jax.Path if expected.ndim else l1jax.Fit)
    fits = part.fits if expected.ndim else part
    for name in ("coef", "intercept", "lam", "relative_gap", "status"):
        np.testing.assert_array_equal(getattr(fits, name), getattr(path.fits, name)[expected])


def test_a_mask_is_what_a_comparison_gives(path):
    small = path[path.n_nonzero <= 2]
    assert 0 < len(small) < L and (small.n_nonzero <= 2).all()
    np.testing.assert_array_equal(small.predict(TABLE), path.predict(TABLE)[path.n_nonzero <= 2])


@pytest.mark.parametrize(
    ("which", "error", "message"),
    [
        (np.zeros(L, bool), IndexError, "12 fits, none of them"),
        ([], IndexError, "none of them"),
        (np.ones(L + 1, bool), IndexError, "12 fits, and the mask 13 entries"),
        ([0, L], IndexError, "12 fits, got index 12"),
        ([0, -L - 1], IndexError, "got index -13"),
        ([0.0, 1.0], TypeError, "integers or booleans"),
        ((0, 1), TypeError, "integers or booleans"),
        ([[0, 1]], TypeError, "integers or booleans"),
        ("0", TypeError, "integers or booleans"),
        (True, TypeError, "integers or booleans"),
    ],
)
def test_what_is_no_index_is_refused(path, which, error, message):
    with pytest.raises(error, match=message):
        path[which]


def test_traced_indices_choose_and_traced_masks_are_refused(path):
    chosen = jax.jit(lambda i: path[i].lams)(jnp.array([3, 1]))
    np.testing.assert_allclose(chosen, np.asarray(path.lams)[[3, 1]], rtol=1e-6)
    with pytest.raises(TypeError, match="traced mask"):
        jax.jit(lambda mask: path[mask].lams)(jnp.ones(L, bool))


def test_a_grid_in_any_order_is_interpolated_and_resumed_alike(path):
    lam = float(path.lams[3] + path.lams[4]) / 2
    mixed = path[RNG.permutation(L)]
    np.testing.assert_array_equal(mixed.at(lam).coef, path.at(lam).coef)
    again = l1jax.path(TABLE, Y, l1jax.L1(), resume=mixed)
    np.testing.assert_array_equal(again.lams, path.lams)
    assert not again.num_steps[path.num_steps == 0].any()
    np.testing.assert_allclose(again.coefs, path.coefs, atol=1e-10)


def test_a_fit_is_a_frame_of_its_features(path):
    fit = path[6]
    frame = fit.to_frame()
    assert frame.index.name == "feature" and list(frame.index) == NAMES
    assert list(frame.columns) == ["coef"]
    np.testing.assert_array_equal(frame["coef"], fit.coef)
    whole = fit.to_frame(intercept=True)
    assert whole.index[0] == "(intercept)" and whole.iloc[0, 0] == fit.intercept
    pd.testing.assert_frame_equal(whole.iloc[1:], frame)
    by_hand = TABLE[frame.index] @ frame["coef"] + whole.loc["(intercept)", "coef"]
    np.testing.assert_allclose(by_hand, fit.predict(TABLE), rtol=1e-12)


def test_a_path_is_a_frame_by_strength(path):
    frame = path.to_frame()
    assert frame.index.name == "lam" and list(frame.columns) == NAMES
    np.testing.assert_array_equal(frame.index, path.lams)
    np.testing.assert_array_equal(frame.to_numpy(), path.coefs)
    np.testing.assert_array_equal(path.to_frame(intercept=True)["(intercept)"], path.intercepts)
    fits = path.to_frame("fits")
    np.testing.assert_array_equal(fits["n_nonzero"], path.n_nonzero)
    np.testing.assert_array_equal(fits["relative_gap"], path.relative_gaps)
    assert list(fits["status"]) == ["CONVERGED"] * L
    with pytest.raises(ValueError, match='kind must be "coefs" or "fits"'):
        path.to_frame("gaps")


def test_responses_are_columns(several):
    frame = several.to_frame(intercept=True)
    assert frame.columns.names == ["feature", "response"]
    np.testing.assert_array_equal(frame["bmi"], several.coefs[:, 1])
    np.testing.assert_array_equal(frame["(intercept)"], several.intercepts)
    one = several[2].to_frame()
    assert list(one.columns) == [0, 1] and one.columns.name == "response"
    np.testing.assert_array_equal(one.loc["bmi"], several.coefs[2, 1])
    assert "bmi" in str(several[2].summary())


@pytest.mark.fast
def test_features_without_names_are_numbered(path):
    bare = l1jax.fit(TABLE.to_numpy(), Y, l1jax.L1(float(path.lams[6])))
    assert list(bare.to_frame().index) == ["x0", "x1", "x2", "x3", "x4"]


def test_a_cross_validation_is_a_frame_of_its_scores(cv):
    frame = cv.to_frame()
    assert list(frame.columns) == ["lam", "mean_score", "se_score", "n_nonzero"]
    for name in ("mean_score", "se_score"):
        np.testing.assert_array_equal(frame[name], getattr(cv, name))
    assert frame["lam"][cv.index_1se] == cv.lam_1se
    assert frame["mean_score"].idxmin() == cv.index_min
    bic = l1jax.information_criterion(cv.path, TABLE, Y, "bic")
    frame = bic.to_frame()
    assert list(frame.columns) == ["lam", "bic", "degrees_of_freedom", "n_nonzero"]
    assert frame["bic"].idxmin() == bic.index_min


def test_a_cross_validation_predicts_as_the_fit_that_is_asked_for(cv):
    assert cv.lam_1se > cv.lam_min  # else the cases below are one
    x, coefs = TABLE.to_numpy(), {"1se": cv.fit_1se, "min": cv.fit_min, 0.5: cv.path.at(0.5)}
    for at, fit in coefs.items():
        by_hand = x @ fit.coef + fit.intercept
        np.testing.assert_allclose(cv.predict(TABLE, at=at), by_hand, rtol=1e-12)
        np.testing.assert_allclose(cv.predict(TABLE, offset=1.0, at=at), by_hand + 1, rtol=1e-12)
    np.testing.assert_array_equal(cv.predict(TABLE), cv.predict(TABLE, at="1se"))
    np.testing.assert_array_equal(cv.coef, cv.fit_1se.coef)
    np.testing.assert_array_equal(cv.intercept, cv.fit_1se.intercept)
    assert isinstance(cv.intercept, np.ndarray)  # as all numbers of a fit are, no scalar of NumPy
    with pytest.raises(ValueError, match='at must be "1se", "min" or a strength'):
        cv.predict(TABLE, at="best")
    with pytest.raises(ValueError, match="lam must lie within the grid"):
        cv.predict(TABLE, at=1e6)


def test_summaries_say_what_was_found(path, cv):
    fit = path[6]
    text = str(fit.summary())
    assert f"{int(fit.n_nonzero)} of {P}" in text and "SquaredError" in text and "CONVERGED" in text
    for name, value in zip(NAMES, fit.coef, strict=True):
        row = f"\n{name:<11}  {value:>11.5g}"
        assert (row in text) == (value != 0)
    assert "p-values" in text and "L1" in text and "no intercept" not in text
    again = l1jax.fit(
        TABLE, Y, l1jax.L1(0.3), fit_intercept=False, sample_weight=np.arange(N) + 1.0
    )
    assert "no intercept, sample_weight\n" in str(again.summary())
    text = str(path.summary())
    assert all(f"{lam:.5g}" in text for lam in path.lams)
    _, first = path.entries()[0]
    assert text.split("first come in")[1].split()[3] == NAMES[first]
    text = str(cv.summary())
    for name in np.array(NAMES)[np.asarray(cv.fit_min.support)]:
        assert name in text
    assert "<table>" in cv.summary()._repr_html_()


def test_batches_and_traced_results_are_no_frame(path):
    with pytest.raises(ValueError, match="of one Fit, and this is a batch of 12"):
        path.fits.to_frame()
    with pytest.raises(ValueError, match="inside jit"):
        jax.jit(lambda fit: fit.to_frame())(path[0])
    assert "coef of shape" in str(path.fits.summary())


def test_without_pandas_a_frame_says_what_to_install(path, monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name == "pandas":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match="to_frame needs pandas: pip install pandas"):
        path.to_frame()
    assert "CONVERGED" in str(path.summary())


def test_fits_of_a_path_are_taken_one_by_one_by_vmap():
    """Their loss and options are of all of them: numbers without an axis, such as `l1_ratio` and `delta`."""
    x, y = np.random.default_rng(0).normal(size=(20, 4)), np.arange(20.0) % 3
    options = {"loss": l1jax.Huber(0.7), "standardize": True, "sample_weight": 1 + y, "n_lams": 4}
    path = l1jax.path(x, y, l1jax.ElasticNet(l1_ratio=0.6), **options)
    each = jax.vmap(lambda fit: (fit.predict(x), fit.n_nonzero), in_axes=(path.fits.axes,))
    predictions, sizes = each(path.fits)
    np.testing.assert_allclose(predictions, path.predict(x), rtol=1e-12)
    np.testing.assert_array_equal(sizes, path.n_nonzero)
