"""Data at the edges: each works or reports its status, and no coefficient is ever NaN."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from sklearn import linear_model

import l1jax

N, P = 20, 4
RNG = np.random.default_rng(3)
X = RNG.standard_normal((N, P)) + 1.0
Y = X @ np.array([1.0, -0.5, 0.0, 0.0]) + 0.3 * RNG.standard_normal(N)


@pytest.mark.parametrize("standardize", [True, False])
def test_a_constant_column_has_coefficient_zero(standardize):
    constant = np.column_stack([X[:, :3], np.full(N, 7.3)])
    fit = l1jax.fit(constant, Y, l1jax.L1(0.0), standardize=standardize)
    alone = l1jax.fit(X[:, :3], Y, l1jax.L1(0.0), standardize=standardize)
    assert fit.coef[3] == 0
    np.testing.assert_allclose(fit.coef[:3], alone.coef, atol=1e-10)


def test_a_constant_target_gives_the_null_model():
    path = l1jax.path(X, np.full(N, 0.1), l1jax.L1(), n_lams=4)
    assert (np.asarray(path.coefs) == 0).all()
    assert (np.asarray(path.relative_gaps) == 0).all()
    np.testing.assert_allclose(path.intercepts, 0.1)


@pytest.mark.parametrize("weighted", [False, True])
def test_a_constant_target_is_no_noise_to_fit_without_the_rows_either(weighted):
    rng = np.random.default_rng(0)
    tall = rng.normal(size=(40, 5))  # solved from its moments
    for constant in [0.1, 0.3, 2.0, 7.0, *rng.uniform(0.1, 10, size=10)]:
        weight = rng.uniform(0.2, 2, size=40) if weighted else None
        path = l1jax.path(tall, np.full(40, constant), l1jax.L1(), n_lams=4, sample_weight=weight)
        assert (np.asarray(path.coefs) == 0).all(), constant
        assert (np.asarray(path.status) == 0).all(), constant


class Near(l1jax.Penalty):
    """Least at 1."""

    lam: float | None = None

    def value(self, x):
        return self.lam * jnp.sum(jnp.abs(x - 1))

    def prox(self, z, step=1.0):
        return 1 + l1jax.prox.prox_l1(z - 1, self.lam, step)


@pytest.mark.slow
def test_a_penalty_that_is_not_least_at_zero_leaves_the_null_model_that_explains_all():
    y = np.full(N, 2.0)
    # In β − 1 it is the lasso of y − X1.
    peer = linear_model.Lasso(0.7, tol=1e-12).fit(X, y - X.sum(axis=1))
    assert (peer.coef_ == 0).any() and (peer.coef_ != 0).any()
    fit = l1jax.fit(X, y, Near(0.7), tol=1e-10)
    path = l1jax.path(X, y, Near(), lams=[0.7], tol=1e-10)
    for coef in (fit.coef, path.coefs[0]):
        np.testing.assert_allclose(coef, 1 + peer.coef_, atol=1e-5)  # the root of the gap
    assert fit.status == path.status[0] == l1jax.Status.CONVERGED
    with pytest.warns(l1jax.ConvergenceWarning, match="MAX_STEPS"):
        null = l1jax.fit(X, y, Near(0.7), max_steps=1, tol=1e-10)
    excess = null.objective - fit.objective
    assert excess > 0.1 and null.gap >= excess and null.relative_gap > 0.1


class Gamma(l1jax.Loss):
    def per_row(self, y, eta):
        return eta + y * jnp.exp(-eta)


@pytest.mark.slow
@pytest.mark.parametrize("level", [0.2, 2.0])
def test_a_loss_without_its_least_value_is_explained_where_each_row_is_at_its_least(level):
    path = l1jax.path(X, np.full(N, level), l1jax.L1(), lams=[0.3, 0.1], loss=Gamma())
    assert (np.asarray(path.status) == l1jax.Status.CONVERGED).all()
    assert (np.asarray(path.coefs) == 0).all()
    np.testing.assert_allclose(path.intercepts, np.log(level), atol=1e-12)
    noisy = l1jax.fit(X, level * np.exp(0.3 * X[:, 0]), l1jax.L1(0.01), loss=Gamma())
    assert (np.asarray(noisy.coef) != 0).any()


def test_duplicate_columns_share_one_fit():
    doubled = np.column_stack([X, X[:, 0]])
    fit = l1jax.fit(doubled, Y, l1jax.L1(0.05), tol=1e-12)
    alone = l1jax.fit(X, Y, l1jax.L1(0.05), tol=1e-12)
    assert fit.relative_gap <= 1e-12
    # Only the sum of the two is determined; it is good to about the root of the gap.
    assert float(fit.coef[0] + fit.coef[4]) == pytest.approx(float(alone.coef[0]), abs=1e-6)


@pytest.mark.parametrize("loss", [l1jax.SquaredError(), l1jax.Logistic(), l1jax.Poisson()])
def test_one_row_and_one_column_work(loss):
    one_row = l1jax.fit(X[:1], np.array([1.0]), l1jax.L1(0.1), loss=loss)
    one_column = l1jax.fit(X[:, :1], (Y > 0).astype(float), l1jax.L1(0.01), loss=loss)
    for fit in (one_row, one_column):
        assert np.isfinite(fit.coef).all() and np.isfinite(fit.intercept)
        assert fit.status == l1jax.Status.CONVERGED
    assert (np.asarray(one_row.coef) == 0).all()


def test_at_lambda_max_and_above_everything_is_exactly_zero():
    biggest = float(l1jax.lambda_max(X, Y, l1jax.L1()))
    for lam in (biggest, 2 * biggest):
        coef = np.asarray(l1jax.fit(X, Y, l1jax.L1(lam)).coef)
        assert (coef == 0).all() and not np.signbit(coef).any()
    assert l1jax.fit(X, Y, l1jax.L1(0.999 * biggest)).n_nonzero == 1


@pytest.mark.core
@pytest.mark.fast
def test_at_lambda_zero_it_is_least_squares():
    fit = l1jax.fit(X, Y, l1jax.L1(0.0))
    design = np.column_stack([np.ones(N), X])
    exact = np.linalg.lstsq(design, Y, rcond=None)[0]
    np.testing.assert_allclose(fit.coef, exact[1:], atol=1e-10)
    assert fit.relative_gap <= 1e-12


def test_at_lambda_zero_with_more_features_than_rows_it_interpolates():
    wide = RNG.standard_normal((10, 30))
    fit = l1jax.fit(wide, Y[:10], l1jax.L1(0.0))
    np.testing.assert_allclose(fit.predict(wide), Y[:10], atol=1e-6)


def test_columns_of_wild_scale_give_the_scaled_answer():
    scale = np.array([1e8, 1e-8, 1.0, 1e4])
    # With weights equal to the scales it is the same problem in other units.
    fit = l1jax.fit(X * scale, Y, l1jax.L1(0.05, weights=scale), tol=1e-12)
    alone = l1jax.fit(X, Y, l1jax.L1(0.05), tol=1e-12)
    np.testing.assert_allclose(fit.coef * scale, alone.coef, atol=1e-7)


def test_a_target_of_wild_scale_gives_the_scaled_answer():
    for scale in (1e8, 1e-8):
        fit = l1jax.fit(X, scale * Y, l1jax.L1(0.05 * scale), tol=1e-12)
        alone = l1jax.fit(X, Y, l1jax.L1(0.05), tol=1e-12)
        np.testing.assert_allclose(fit.coef / scale, alone.coef, atol=1e-7)


def test_equal_labels_and_zero_counts_end_in_the_null_model():
    for loss, target in ((l1jax.Logistic(), np.ones(N)), (l1jax.Poisson(), np.zeros(N))):
        fit = l1jax.fit(X, target, l1jax.L1(0.01), loss=loss)
        assert (np.asarray(fit.coef) == 0).all()
        assert np.isfinite(fit.intercept)
        np.testing.assert_allclose(fit.predict(X), target, atol=1e-12)


@pytest.mark.slow
def test_a_bad_lane_is_invalid_and_harms_no_other():
    batch = jnp.stack([jnp.asarray(X), jnp.asarray(X).at[2, 1].set(jnp.nan)])
    fits = jax.vmap(lambda X: l1jax.fit(X, jnp.asarray(Y), l1jax.L1(0.1)))(batch)
    assert fits.status.tolist() == [l1jax.Status.CONVERGED, l1jax.Status.INVALID_INPUT]
    assert jnp.isnan(fits.coef[1]).all()
    np.testing.assert_allclose(fits.coef[0], l1jax.fit(X, Y, l1jax.L1(0.1)).coef, atol=1e-8)


@pytest.mark.float32
def test_numpy_float64_is_solved_in_float64_whatever_the_switch():
    fit = l1jax.fit(X, Y, l1jax.L1(0.1))
    assert fit.coef.dtype == np.float64
    assert fit.relative_gap <= 1e-12
    if not jax.config.jax_enable_x64:
        assert isinstance(fit.coef, np.ndarray)
        assert fit.predict(X).dtype == np.float64
        path = l1jax.path(X, Y, l1jax.L1(), n_lams=3)
        assert path.coefs.dtype == np.float64 and path[1].coef.dtype == np.float64


@pytest.mark.float32
def test_float32_stays_float32():
    fit = l1jax.fit(X.astype(np.float32), Y.astype(np.float32), l1jax.L1(0.1))
    assert fit.coef.dtype == np.float32
    assert fit.relative_gap <= 1e-4


def test_an_offset_of_the_wrong_length_is_an_error_at_prediction():
    with pytest.raises(ValueError, match="offset must have one entry per row"):
        l1jax.fit(X, Y, l1jax.L1(0.1)).predict(X, offset=np.ones(3))


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize(
    ("dtype", "level", "tol"), [(np.float64, 1e4, 1e-6), (np.float32, 2e3, 1e-4)]
)
def test_columns_far_from_zero_are_certified(dtype, level, tol, standardize):
    far = (X + level).astype(dtype)
    fit = l1jax.fit(far, Y.astype(dtype), l1jax.L1(0.01), standardize=standardize)
    # The certificate is of what is returned, and the status says no more than the certificate.
    assert (fit.status == l1jax.Status.CONVERGED) == bool(fit.relative_gap <= tol)
    assert fit.relative_gap <= tol


@pytest.mark.float32
def test_a_target_far_from_zero_is_not_taken_for_a_constant():
    near = l1jax.fit(X, 0.1 * X[:, 0], l1jax.L1(1e-3))
    far = l1jax.fit(X.astype(np.float32), (1e4 + 0.1 * X[:, 0]).astype(np.float32), l1jax.L1(1e-3))
    # float32 keeps 1e4 to 1e-3: a hundredth of what is to be explained.
    np.testing.assert_allclose(far.coef, near.coef, atol=2e-3)
    assert far.coef[0] > 0.05


def test_penalties_print_their_strengths():
    assert repr(l1jax.L1(0.1)) == "L1(lam=0.1)"
    assert repr(l1jax.ElasticNet(0.5, 0.25)) == "ElasticNet(lam=0.5, l1_ratio=0.25)"
    assert repr(l1jax.L1()) == "L1()"


def test_nearly_collinear_free_features_are_charged_for_what_rounding_hides():
    rng = np.random.default_rng(0)
    free = rng.standard_normal(N)
    table = np.column_stack([free, free + 1e-9 * rng.standard_normal(N), X])
    pen = l1jax.L1(0.05, weights=[0.0, 0.0, 1.0, 1.0, 1.0, 1.0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", l1jax.ConvergenceWarning)
        fit = l1jax.fit(table, Y, pen)
    # The same span in a basis that is well conditioned.
    spread = (table[:, 1] - table[:, 0]) / 1e-9
    exact = l1jax.fit(np.column_stack([free, spread, X]), Y, pen, tol=1e-12)
    rounding = 1e-12 * float(exact.objective)
    assert fit.gap >= fit.objective - exact.objective - rounding
    assert (fit.status == l1jax.Status.CONVERGED) == bool(fit.relative_gap <= 1e-6)


@pytest.mark.parametrize(
    ("loss", "engine"),
    [
        (l1jax.SquaredError(), "auto"),
        (l1jax.SquaredError(), "fista"),
        (l1jax.Logistic(), "fista"),
        (l1jax.Poisson(), "auto"),
    ],
)
@pytest.mark.slow
def test_free_features_that_others_explain_do_no_harm(loss, engine):
    """All levels of a category beside the intercept, and nothing penalised: as without one of the levels."""
    rng = np.random.default_rng(3)
    levels = np.eye(4)[rng.integers(0, 4, 60)]
    x = rng.standard_normal((60, 3))
    eta = levels @ [1.0, -1.0, 0.5, 0.0] + x[:, 0]
    y = {
        "SquaredError": eta + rng.standard_normal(60),
        "Logistic": (eta + rng.logistic(size=60) > 0).astype(float),
        "Poisson": rng.poisson(np.exp(eta)).astype(float),
    }[type(loss).__name__]
    weights = np.r_[np.zeros(4), np.ones(3)]
    excluding = np.r_[
        np.zeros(3), np.inf, np.ones(3)
    ]  # in one shape, so that one program serves both
    for lam in (0.05, 0.0):
        fits = [
            l1jax.fit(np.c_[levels, x], y, l1jax.L1(lam, some), loss=loss, engine=engine, tol=1e-9)
            for some in (weights, excluding)
        ]
        for fit in fits:
            assert fit.status == l1jax.Status.CONVERGED and fit.relative_gap <= 1e-9
        assert np.abs(fits[0].coef).max() < 100
        np.testing.assert_allclose(fits[0].objective, fits[1].objective, rtol=1e-9)
        np.testing.assert_allclose(fits[0].coef[4:], fits[1].coef[4:], atol=1e-4)


def test_free_features_that_others_explain_do_no_harm_where_the_curvature_is_large():
    mean = 1e9
    rng = np.random.default_rng(3)
    levels, x = np.eye(4)[rng.integers(0, 4, 60)], rng.standard_normal((60, 1))
    counts = mean * np.exp(levels @ [1.0, -1.0, 0.5, 0.0] + 0.3 * x[:, 0]) * rng.gamma(5, 0.2, 60)
    pen = l1jax.L1(0.05 * mean, [0.0, 0.0, 0.0, 0.0, 1.0])
    fit = l1jax.fit(np.c_[levels, x], counts, pen, loss=l1jax.Poisson(), tol=1e-9)
    assert fit.status == l1jax.Status.CONVERGED and fit.relative_gap <= 1e-9
    assert np.abs(fit.coef).max() < 100


@pytest.mark.parametrize("digits", [0.3, 0.45, 0.6])
def test_a_gap_of_nearly_collinear_free_features_is_no_promise_that_is_broken(digits):
    """What is left to gain along their difference is in the gap, or the fit says that it does not know.

    `digits`: the share of all digits in which they agree.
    """
    dtype = np.dtype(np.float64 if jax.config.jax_enable_x64 else np.float32)
    apart = float(np.finfo(dtype).eps) ** digits
    rng = np.random.default_rng(0)
    one, other, noise = rng.normal(size=(3, 200))
    y = one + noise + 0.5 * min(1, apart / np.finfo(dtype).eps ** 0.5) * other
    table, y = np.column_stack([one, one + apart * other]).astype(dtype), y.astype(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", l1jax.ConvergenceWarning)
        fit = l1jax.fit(table, y, l1jax.L1(0.1, [0.0, 0.0]), engine="fista", tol=1e-6)
    wide = table.astype(np.longdouble)
    basis = np.column_stack([np.ones(200), wide[:, 0], (wide[:, 1] - wide[:, 0]) / apart])
    best = np.linalg.lstsq(basis.astype(float), y.astype(float), rcond=None)[0]
    coef, intercept = np.asarray(fit.coef, float), float(fit.intercept)
    misfits = [
        0.5 * np.mean((y.astype(float) - fitted) ** 2)
        for fitted in (basis.astype(float) @ best, table.astype(float) @ coef + intercept)
    ]
    rounding = 30 * np.finfo(dtype).eps * misfits[0]
    if fit.status == l1jax.Status.CONVERGED:
        assert misfits[1] - misfits[0] <= 2 * float(fit.gap) + rounding


def test_huber_with_free_features_is_solved():
    y = Y + 100 * (np.arange(N) % 4 == 0)
    pen = l1jax.L1(0.05, weights=[0.0, 1.0, 1.0, 1.0])
    fit = l1jax.fit(X, y, pen, loss=l1jax.Huber(0.5))
    assert fit.status == l1jax.Status.CONVERGED and fit.relative_gap <= 1e-6
    gradient = -X.T @ np.clip(y - fit.predict(X), -0.5, 0.5) / N
    np.testing.assert_allclose(gradient[0], 0, atol=1e-6)


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("pen", [l1jax.L1(0.01), l1jax.Ridge(0.01)], ids=["l1", "ridge"])
@pytest.mark.slow
def test_a_constant_column_of_sparse_data_has_coefficient_zero(pen, weighted):
    rng = np.random.default_rng(0)
    table = rng.standard_normal((3000, 3)) * (rng.random((3000, 3)) < 0.3)
    table[:, 2] = 7.3
    y, weights = table[:, 0] + rng.standard_normal(3000), rng.random(3000) if weighted else None
    options = {"standardize": True, "sample_weight": weights}
    fit = l1jax.fit(scipy.sparse.csc_array(table), y, pen, **options)
    assert fit.coef[2] == 0
    s = np.full(3000, 1 / 3000) if weights is None else weights / weights.sum()
    centred = table[:, :2] - s @ table[:, :2]
    scale = np.sqrt(s @ centred**2)
    centred /= scale
    # Xᵀ diag(s) (Xβ − y) + 0.01 (sign β, or β) = 0 on what is in, and that is at most 0.01 elsewhere.
    gram, product = centred.T @ (s[:, None] * centred), centred.T @ (s * (y - s @ y))
    is_in, beta = np.asarray(fit.coef[:2]) != 0, np.zeros(2)
    ridge = 0.01 * np.eye(2) if isinstance(pen, l1jax.Ridge) else 0
    shift = 0 if isinstance(pen, l1jax.Ridge) else 0.01 * np.sign(fit.coef[:2])
    beta[is_in] = np.linalg.solve((gram + ridge)[np.ix_(is_in, is_in)], (product - shift)[is_in])
    assert is_in[0] and (np.abs(gram @ beta - product)[~is_in] <= 0.01).all()
    np.testing.assert_allclose(fit.coef[:2], beta / scale, atol=1e-12)


def test_kkt_is_in_units_of_the_penalty_whatever_the_units_of_a_feature():
    class Plain(l1jax.Penalty):  # L1 by its two methods, and so by the default distance
        lam: float | None = None
        weights: jax.Array | None = None

        def value(self, x):
            return self.lam * jnp.sum(self.weights * jnp.abs(x))

        def prox(self, z, step=1.0):
            return l1jax.prox.prox_l1(z, self.lam, step, weights=self.weights)

    for scale in (1e-4, 1.0, 1e4):
        weights = jnp.full(P, scale)
        fit = l1jax.fit(scale * X, Y, Plain(0.05, weights))
        assert fit.relative_kkt <= 1e-6 and fit.status == l1jax.Status.CONVERGED
        np.testing.assert_allclose(
            scale * fit.coef, l1jax.fit(X, Y, l1jax.L1(0.05)).coef, atol=1e-5
        )


def test_a_batch_of_fits_predicts_like_each_of_them():
    path = l1jax.path(X, Y, l1jax.L1(), n_lams=4)
    several = l1jax.path(X, np.column_stack([Y, -Y]), l1jax.GroupL1(None, np.arange(P)), n_lams=3)
    offset = np.linspace(0, 1, N)
    for one in (path, several):
        for x in (X, scipy.sparse.csr_array(X)):
            got = one.predict(x, offset)
            each = np.stack([one[i].predict(x, offset) for i in range(len(one))])
            np.testing.assert_allclose(got, each, atol=1e-12)
    assert path.predict(X).shape == (4, N) and several.predict(X).shape == (3, N, 2)


def test_a_slice_of_a_path_is_a_path():
    path = l1jax.path(X, Y, l1jax.L1(), n_lams=6)
    part = path[1:4]
    assert isinstance(part, l1jax.Path) and len(part) == 3
    np.testing.assert_array_equal(part.coefs, path.coefs[1:4])
    assert path[jnp.asarray(2)].lam == path[np.int64(2)].lam == path.lams[2]
    with pytest.raises(IndexError, match="has 6 fits"):
        path[6]
    for bad in (True, 1.0, "a"):
        with pytest.raises(TypeError, match="indexed by an integer|__getitem__"):
            path[bad]
    with pytest.raises(TypeError, match="lam must be a number|parameter 'lam'"):
        path.at("a")


@pytest.mark.parametrize(("seed", "p"), [(1, 12), (4, 12), (4, 30)])
def test_slow_progress_is_not_taken_for_rounding(seed, p):
    # Columns far from zero, without an intercept: FISTA gains little in each round, but it gains.
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(30, p)) + 10 ** rng.uniform(0, 2.5, p)
    y = (x[:, 0] + rng.normal(size=30) > np.median(x[:, 0])).astype(float)
    pen = l1jax.GroupL1(2e-3, groups=np.arange(p) // 3)
    fit = l1jax.fit(x, y, pen, loss=l1jax.Logistic(), fit_intercept=False, standardize=True)
    assert fit.status == l1jax.Status.CONVERGED and fit.relative_gap <= 1e-6
    # Far below `max_steps`: Newton steps lead.
    assert fit.num_steps < 5_000
