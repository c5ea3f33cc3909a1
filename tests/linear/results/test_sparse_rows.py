"""Paths of many features keep the coefficients that are not zero, and answer as arrays do."""

import io

import jax
import numpy as np
import pytest
import scipy.sparse
from sklearn.linear_model import lasso_path

import l1jax
from l1jax.linear.host import _sparse_rows
from l1jax.linear.host._sparse_rows import SparseRows
from l1jax.linear.results._resume import unreached

N, P, L = 60, 400, 12
RNG = np.random.default_rng(0)
X = scipy.sparse.random_array(
    (N, P), density=0.1, rng=RNG, data_sampler=RNG.standard_normal
).tocsc()
Y = X[:, :5] @ np.ones(5) + 0.1 * RNG.standard_normal(N) + 3
PAIR = np.stack([Y, RNG.standard_normal(N)], axis=1)
ENTRIES = 1000  # of arrays at a time: two strengths
CASES = {
    "lasso": (l1jax.L1(), Y, {}),
    "interpolated": (l1jax.L1(), Y, {"tol": 1e-3, "standardize": True}),
    "knots": (l1jax.L1(), Y, {"engine": "homotopy"}),
    "logistic": (l1jax.L1(), (Y > 3).astype(float), {"loss": l1jax.Logistic()}),
    "two responses": (l1jax.GroupL1(groups=np.arange(P)), PAIR, {}),
}


@pytest.fixture
def keep_sparse(monkeypatch):
    def keep():
        monkeypatch.setattr(_sparse_rows, "_MIN_SIZE", 0)
        monkeypatch.setattr(_sparse_rows, "_PART", ENTRIES)

    return keep


@pytest.mark.parametrize("case", CASES)
@pytest.mark.slow
def test_a_path_kept_sparse_is_that_of_arrays(case, keep_sparse):
    pen, y, options = CASES[case]
    options = {"n_lams": L, "lam_min_ratio": 0.2} | options
    wanted = answers(l1jax.path(X, y, pen, **options))
    keep_sparse()
    path = l1jax.path(X, y, pen, **options)
    assert isinstance(path.fits.stored_coef, SparseRows)
    found = answers(path)
    for name, values in wanted.items():
        # The same steps: only the order of sums of the certificates differs, by parts of the grid.
        np.testing.assert_allclose(found[name], values, rtol=1e-9, atol=1e-9, err_msg=name)


def answers(path: l1jax.Path) -> dict:
    """Whatever a path says, as arrays."""
    some = np.asarray(path.n_nonzero) > 1
    again = there_and_back(path)
    found = {
        "coefs": path.coefs,
        "loaded": again.coefs,
        "support": path.fits.support,
        "n_nonzero": path.n_nonzero,
        "objectives": path.objectives,
        "slice": path[2:7].coefs,
        "mask": path[some].coefs,
        "fit": path[5].coef,
        "at": path.at(float(path.lams[3]) * 0.99).coef,
        "predictions": path.predict(X),
        "of rows": path.predict(X.toarray()[:3]),
        "entries": path.entries(),
        "frame": path.to_frame(),
    }
    assert str(again) == str(path) and str(again.summary()) == str(path.summary())
    return found | ({} if path.knots is None else {"knots": path.knots.coefs})


def there_and_back(path: l1jax.Path) -> l1jax.Path:
    file = io.BytesIO()
    path.save(file)
    file.seek(0)
    return l1jax.load(file)


def test_a_sparse_path_is_a_tree_with_the_grid_as_its_leading_axis(keep_sparse):
    keep_sparse()
    path = l1jax.path(X, Y, l1jax.L1(), n_lams=4)
    sums = jax.jit(lambda path: path.coefs.sum(axis=1))(path)
    # Of float32, where JAX's x64 switch is off: sums of up to 60 coefficients of about 1.
    np.testing.assert_allclose(sums, path.coefs.sum(axis=1), atol=1e-4)
    rows = jax.vmap(lambda coefs: coefs.to_array())(path.fits.stored_coef)
    np.testing.assert_allclose(rows, path.coefs, atol=1e-6)
    one = jax.tree.map(lambda leaf: leaf[2], path.fits.stored_coef)
    np.testing.assert_array_equal(one.to_array(), path.coefs[2])


def test_a_path_that_was_stopped_is_resumed_sparse(keep_sparse):
    keep_sparse()
    path = l1jax.path(X, Y, l1jax.L1(), n_lams=8, lam_min_ratio=0.1, fit_intercept=False)
    stopped = l1jax.Path(unreached(path.fits, np.arange(8) > 4))
    assert np.isnan(stopped.coefs[5:]).all() and (stopped.n_nonzero[5:] == 0).all()
    resumed = l1jax.path(X, Y, l1jax.L1(), resume=there_and_back(stopped), fit_intercept=False)
    assert isinstance(resumed.fits.stored_coef, SparseRows)
    exact = lasso_path(X, Y, alphas=path.lams, tol=1e-12, max_iter=100_000)[1].T
    # 1e-12 ‖y‖² of gap, of columns of norm about 2: scikit-learn's coefficients are good to 1e-5.
    np.testing.assert_allclose(resumed.coefs, exact, atol=1e-5)


def test_a_path_that_is_not_sparse_is_kept_as_an_array(keep_sparse):
    keep_sparse()
    path = l1jax.path(X[:, :20], Y, l1jax.L1(), lams=[1e-3])
    assert not isinstance(path.fits.stored_coef, SparseRows)


def test_a_path_without_features_has_no_entries():
    path = l1jax.path(X, Y, l1jax.L1(), lams=[1.1 * l1jax.lambda_max(X, Y, l1jax.L1())])
    assert path.entries() == [] and not path.fits.support.any()


def test_cross_validation_works_on_sparse_paths(keep_sparse):
    options = {"n_folds": 3, "n_lams": 6, "lam_min_ratio": 0.1}
    wanted = l1jax.cross_validate(X, Y, l1jax.L1(), **options)
    keep_sparse()
    found = l1jax.cross_validate(X, Y, l1jax.L1(), **options)
    assert isinstance(found.path.fits.stored_coef, SparseRows)
    np.testing.assert_allclose(found.mean_score, wanted.mean_score, rtol=1e-9)
    np.testing.assert_allclose(found.fit_1se.coef, wanted.fit_1se.coef, atol=1e-9)


def test_what_is_computed_from_a_sparse_path_stays_sparse(keep_sparse):
    def found(kept=False):
        if kept:
            keep_sparse()
        path = l1jax.path(X, Y, l1jax.L1(), n_lams=6, lam_min_ratio=0.2)
        relaxed = l1jax.relax(path, X, Y, 0.5)
        region = l1jax.convex_region(path, X, Y, l1jax.L1())
        stable = l1jax.stability(X, Y, l1jax.L1(), q=4, n_pairs=2, n_lams=10)
        assert isinstance(relaxed.fits.stored_coef, SparseRows) == kept
        return {
            "relaxed": relaxed.coefs,
            "explained": relaxed.deviance_explained,
            "eigenvalues": region.eigenvalues,
            "probabilities": stable.probabilities,
        }

    wanted = found()
    for name, values in found(kept=True).items():
        np.testing.assert_allclose(values, wanted[name], rtol=1e-9, atol=1e-9, err_msg=name)
