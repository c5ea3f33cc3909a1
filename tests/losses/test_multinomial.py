"""Multinomial regression: against its textbook form, brute force, scikit-learn and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import log_softmax

import l1jax

LOSS = l1jax.Multinomial()
LABELS = jnp.array([0.0, 2.0, 1.0, 2.0])
ROWS = jnp.array([[1.0, 0.0, 0.0], [0.2, 0.3, 0.5], [0.0, 1.0, 0.0], [0.0, 0.6, 0.4]])
S = jnp.array([0.4, 0.3, 0.2, 0.1])
predictors = st.lists(st.floats(-3, 3), min_size=12, max_size=12).map(
    lambda values: jnp.asarray(np.reshape(values, (4, 3)))
)
kinds = pytest.mark.parametrize("y", [LABELS, ROWS], ids=["labels", "probabilities"])

# All fits probabilities their shapes, so that each program is compiled once.
N, P, K = 60, 6, 3
RNG = np.random.default_rng(3)
X = RNG.standard_normal((N, P)) + 0.5
TRUTH = np.zeros((P, K))
TRUTH[:3] = 1.5 * RNG.standard_normal((3, K))
Y = np.argmax(X @ TRUTH + RNG.gumbel(size=(N, K)), axis=1)


def textbook(y, eta, s):
    rows = np.eye(3)[np.asarray(y, int)] if y.ndim == 1 else np.asarray(y)
    return -np.sum(np.asarray(s) * np.sum(rows * log_softmax(eta, axis=1), axis=1))


@jax.jit
def methods_and_derivatives(y, eta):
    """What each method says, and the derivatives of the value by JAX."""
    units = jnp.eye(12).reshape(12, 4, 3)
    slope = jax.grad(lambda e: LOSS.value(y, e, S))(eta)
    hvp = jax.linearize(lambda e: LOSS.gradient(y, e, S), eta)[1]
    methods = [getattr(LOSS, name)(y, eta, S) for name in ("value", "gradient")]
    methods += [getattr(LOSS, name)(y, eta, S).ravel() for name in ("curvature", "majorant")]
    hessian = jax.vmap(LOSS.hessian(y, eta, S))(units)
    return *methods, hessian.reshape(12, 12), slope, jax.vmap(hvp)(units).reshape(12, 12)


@pytest.mark.core
@kinds
@given(eta=predictors)
def test_value_and_derivatives_are_those_of_the_textbook(y, eta):
    value, gradient, curvature, bound, ours, slope, matrix = map(
        np.asarray, methods_and_derivatives(y, eta)
    )
    assert float(value) == pytest.approx(textbook(y, eta, S), rel=1e-13)
    np.testing.assert_allclose(gradient, slope, atol=1e-15)
    np.testing.assert_allclose(ours, matrix, atol=1e-15)
    np.testing.assert_allclose(curvature, np.diag(matrix), atol=1e-15)
    assert np.linalg.eigvalsh(np.diag(bound) - matrix).min() >= -1e-15


@jax.jit
def gap_and_direct_sum(y, eta, c):
    slope = LOSS.gradient(y, eta, S)
    direct = LOSS.value(y, eta, S) + LOSS.conjugate(y, c * slope, S) - c * jnp.sum(slope * eta)
    return LOSS.fenchel_gap(y, eta, c, S), direct


@kinds
@given(eta=predictors, c=st.floats(0, 1))
@pytest.mark.fast
def test_the_fenchel_gap_is_what_it_says_and_never_negative(y, eta, c):
    gap, direct = gap_and_direct_sum(y, eta, c)
    assert gap >= 0
    assert float(gap) == pytest.approx(float(direct), abs=1e-14)
    assert gap_and_direct_sum(y, eta, 1.0)[0] == 0


@kinds
def test_the_conjugate_is_the_supremum_and_saturated_the_least_loss(y):
    eta = jnp.array([[0.3, -0.4, 0.1], [0.0, 1.0, 0.2], [-0.5, 0.1, 0.0], [0.2, 0.2, -1.0]])
    u = np.asarray(0.5 * LOSS.gradient(y, eta, S))

    def least(u):
        found = minimize(
            lambda e: textbook(y, e.reshape(4, 3), S) - np.sum(u.ravel() * e), np.zeros(12)
        )
        return found.fun

    # The optimiser ends at gradients of 1e-5 on curvatures of 1e-2.
    assert float(LOSS.conjugate(y, jnp.asarray(u), S)) == pytest.approx(-least(u), abs=1e-6)
    assert LOSS.conjugate(y, jnp.asarray(u) + 1e-6, S) == jnp.inf
    if y.ndim == 2:  # of labels the least loss is at infinity
        soft, mix = 0.9 * y + 0.1 / 3, np.zeros((4, 3))
        mix[:] = jnp.log(soft)
        assert float(LOSS.saturated(soft, S)) == pytest.approx(textbook(soft, mix, S), rel=1e-14)
    else:
        assert LOSS.saturated(y, S) == 0 < textbook(y, 20 * np.eye(3)[LABELS.astype(int)], S) < 1e-8


def test_two_classes_are_logistic_regression():
    y, e = jnp.array([0.0, 1.0, 1.0, 0.0]), jnp.array([-40.0, 0.3, 45.0, 1.0])
    eta, logistic = jnp.stack([0 * e, e], axis=1), l1jax.Logistic()
    for c in (0.0, 0.3, 1.0):
        both = [
            loss.fenchel_gap(y, at, jnp.asarray(c), S) for loss, at in ((LOSS, eta), (logistic, e))
        ]
        assert float(both[0]) == pytest.approx(float(both[1]), rel=1e-13, abs=1e-17)
    np.testing.assert_allclose(LOSS.per_row(y, eta), logistic.per_row(y, e), rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(
        LOSS.gradient(y, eta, S)[:, 1], logistic.gradient(y, e, S), rtol=1e-13
    )
    np.testing.assert_allclose(LOSS.inverse_link(eta)[:, 1], logistic.inverse_link(e))


polish = jax.jit(LOSS.polish_intercept)
gradient = jax.jit(LOSS.gradient)


@given(eta=predictors, size=st.sampled_from([0.0, 1.0, 4.0]), rare=st.booleans())
def test_the_polished_intercept_gives_each_class_its_share(eta, size, rare):
    y = ROWS.at[3].set(jnp.array([0.0, 1.0, 0.0])) if rare else ROWS
    shift = polish(y, size * eta, S)
    assert float(jnp.sum(shift)) == pytest.approx(0, abs=1e-12)
    slope = np.sum(gradient(y, size * eta + shift, S), axis=0)
    np.testing.assert_allclose(slope, 0, atol=1e-13)


def test_where_a_class_has_no_row_its_probability_is_rounding():
    y = jnp.array([0.0, 2.0, 2.0, 2.0])
    shift = polish(LOSS.encode(y), jnp.zeros((4, 3)), S)
    probabilities = jax.nn.softmax(shift)
    np.testing.assert_allclose(probabilities, [0.4, 0, 0.6], atol=1e-15)
    assert jnp.isfinite(shift).all()


@pytest.mark.core
@pytest.mark.float32
def test_certainty_and_rows_of_weight_zero_do_no_harm():
    eta = jnp.array([[90.0, 0, 0], [0, 0, 200], [5, 30, 5], [800, -800, 0]], jnp.float32)
    y, s = LABELS.astype(jnp.float32), jnp.array([0.5, 0.3, 0.2, 0], jnp.float32)

    @jax.jit
    def methods(y, eta, s):
        found = [LOSS.value(y, eta, s), LOSS.gradient(y, eta, s), LOSS.curvature(y, eta, s)]
        found += [LOSS.fenchel_gap(y, eta, jnp.float32(0.5), s), LOSS.polish_intercept(y, eta, s)]
        return found, LOSS.per_row(y, eta)

    found, rows = methods(y, eta, s)
    for out in found[:3]:
        assert out.dtype == jnp.float32
    assert all(np.isfinite(out).all() for out in found)
    # The loss of a near-certain row keeps its digits: 2 exp(-25), not 0.
    assert float(rows[2]) == pytest.approx(2 * np.exp(-25), rel=1e-5)


@pytest.mark.parametrize(
    ("loss", "y", "message"),
    [
        (LOSS, [0.0, 1.5], "labels 0, 1, ..., K-1.*1.5 at row 1.*return_inverse"),
        (LOSS, [-1.0, 1.0], "labels 0.*-1.0 at row 0"),
        (LOSS, [0.0, 1e6], "labels 0.*1000000.0 at row 1.*return_inverse"),
        (l1jax.Multinomial(3), [0.0, 3.0], "0, 1, ..., 2.*3.0 at row 1"),
        (LOSS, [0.0, 0.0], "n_classes"),
        (LOSS, [1.0, 2.0, 3.0], "labels 0, 1, ..., K-1 .*K = 3.*3.0 at row 2.*return_inverse"),
        (LOSS, [0.0, 2.0], "K = 2.*2.0 at row 1.*no row, pass l1jax.Multinomial"),
        (l1jax.Multinomial(3), [1.0, 2.0, 3.0], "3.0 at row 2.*return_inverse"),
        (l1jax.Multinomial(3), [0.0, 1.0, 2.0, 3.0], "There are 4 different labels"),
        (l1jax.Logistic(), [1.0, 2.0], "labels 0 and 1 for Logistic; got 2.0 at row 1.*return_inv"),
        (l1jax.Logistic(), [0.0, 1.0, 2.0], "There are 3 different labels: l1jax.Multinomial"),
        (LOSS, [[0.5, 0.4], [0.0, 1.0]], "sum to one.*row 0"),
        (LOSS, [[1.0], [1.0]], r"K >= 2.*\(2, 1\)"),
        (l1jax.Multinomial(3), [[1.0, 0.0]], r"3 columns.*\(1, 2\)"),
    ],
)
def test_bad_targets_are_named(loss, y, message):
    with pytest.raises(ValueError, match=message):
        loss.check_targets(np.array(y))


def test_the_number_of_classes_must_be_known():
    with pytest.raises(ValueError, match="n_classes.*got 1"):
        l1jax.Multinomial(1)
    with pytest.raises(ValueError, match="traced.*n_classes"):
        jax.jit(LOSS.encode)(LABELS)
    ours = jax.jit(l1jax.Multinomial(3).encode)(LABELS)
    np.testing.assert_array_equal(ours, LOSS.encode(np.asarray(LABELS)))


def fit(lam, y=Y, **options):
    return l1jax.fit(X, y, l1jax.L1(lam), loss=l1jax.Multinomial(K), tol=1e-10, **options)


def test_a_fit_is_that_of_scikit_learn():
    linear_model = pytest.importorskip("sklearn.linear_model")
    lam = 0.03
    peer = linear_model.LogisticRegression(
        l1_ratio=1.0, C=1 / (N * lam), solver="saga", tol=1e-8, max_iter=10_000, random_state=0
    ).fit(X, Y)
    ours = fit(lam)
    assert ours.status == l1jax.Status.CONVERGED
    # The peer stops where its coefficients move by less than 1e-8 of the largest.
    np.testing.assert_allclose(ours.coef, peer.coef_.T, atol=1e-5)
    np.testing.assert_allclose(ours.predict(X), peer.predict_proba(X), atol=1e-5)
    assert (np.asarray(ours.predict(X, kind="class")) == peer.predict(X)).all()
    theirs = textbook(Y, X @ peer.coef_.T + peer.intercept_, np.full(N, 1 / N))
    assert float(ours.objective) <= theirs + lam * np.abs(peer.coef_).sum()
    assert float(jnp.sum(ours.intercept)) == pytest.approx(0, abs=1e-14)
    assert ours.coef.shape == (P, K) and ours.support.shape == (P,)


def test_a_path_starts_at_lambda_max_and_weights_of_zero_leave_rows_out():
    weights = np.r_[np.zeros(10), np.ones(N - 10)]
    offset = RNG.standard_normal((N, K))
    garbage = X.copy()
    garbage[:10] = 1e3
    options = {"sample_weight": weights, "offset": offset, "loss": l1jax.Multinomial(K)}
    paths = [
        l1jax.path(x, Y, l1jax.L1(), n_lams=6, standardize=True, tol=1e-9, **options)
        for x in (X, garbage)
    ]
    assert (np.asarray(paths[0].status) == l1jax.Status.CONVERGED).all()
    assert paths[0].n_nonzero[0] == 0 < paths[0].n_nonzero[1]
    np.testing.assert_allclose(paths[0].coefs, paths[1].coefs, atol=1e-12)
    top = l1jax.lambda_max(X, Y, l1jax.L1(), standardize=True, **options)
    assert float(top) == pytest.approx(float(paths[0].lams[0]), rel=1e-12)


def test_groups_let_a_feature_in_for_all_classes():
    loss, pen = l1jax.Multinomial(K), l1jax.GroupL1(0.08, np.arange(P))
    found = l1jax.fit(X, Y, pen, loss=loss, tol=1e-9)
    assert found.relative_gap <= 1e-9
    inside = np.asarray(found.coef != 0)
    assert (inside.all(axis=1) == inside.any(axis=1)).all()
    assert 0 < inside.sum() < P * K


@pytest.mark.parametrize(
    ("pen", "condition", "start"),
    [
        (l1jax.L1(0.1, weights=np.zeros(P)), 1e4, None),
        (l1jax.L1(0.1, weights=np.zeros(P)), 1.0, None),
        # A level common to all classes; as above with weights, so that one program serves all.
        (l1jax.L1(0.0, weights=np.ones(P)), 1.0, np.full((P, K), 819.0)),
    ],
)
@pytest.mark.slow
def test_unpenalised_coefficients_sum_to_zero_over_the_classes(pen, condition, start):
    rng = np.random.default_rng(1)
    basis = np.linalg.qr(rng.standard_normal((N, P)))[0] * np.sqrt(N)
    turn = np.linalg.qr(rng.standard_normal((P, P)))[0] * np.geomspace(1, condition, P)
    y = np.argmax(basis @ (0.5 * rng.standard_normal((P, K))) + rng.gumbel(size=(N, K)), axis=1)
    # In the orthonormal basis, without rounding: classes against class 0.
    against_first = sm.MNLogit(y, basis).fit(disp=0, tol=1e-14, maxiter=100).params
    right = turn @ np.column_stack([np.zeros(P), against_first])
    right = right - right.mean(axis=1, keepdims=True)
    X = basis @ np.linalg.inv(turn)
    found = l1jax.fit(
        X, y, pen, loss=l1jax.Multinomial(K), fit_intercept=False, init=start, tol=1e-10
    )
    assert found.status == l1jax.Status.CONVERGED
    size = np.abs(right).max()
    np.testing.assert_allclose(np.sum(found.coef, axis=1), 0, atol=1e-13 * size)
    np.testing.assert_allclose(found.coef, right, atol=1e-6 * size)


@pytest.mark.slow
def test_what_data_cannot_say_does_no_harm():
    one_class = fit(0.02, y=np.zeros(N))
    assert (np.asarray(one_class.coef) == 0).all()
    assert (np.asarray(one_class.predict(X, kind="class")) == 0).all()
    assert one_class.status == l1jax.Status.CONVERGED
    only_row = fit(0.02, sample_weight=np.eye(N)[7])
    assert (np.asarray(only_row.coef) == 0).all()
    assert (np.asarray(only_row.predict(X, kind="class")) == Y[7]).all()
    # Separable, so without a penalty the best coefficients are infinite: active sets find those of a small one,
    # gradient steps end, and say how.
    signs = np.digitize(X[:, 0], [0.0, 1.0])
    assert fit(1e-6, y=signs).relative_gap < 1e-9
    with pytest.warns(l1jax.ConvergenceWarning, match="MAX_STEPS"):
        far = fit(1e-6, y=signs, max_steps=500, engine="fista")
    assert jnp.isfinite(far.coef).all()


@pytest.mark.filterwarnings("ignore::l1jax.ConvergenceWarning")
def test_derivatives_are_finite_differences():
    weights = RNG.uniform(0.5, 2, N)

    def curve(t, fit=l1jax.fit):
        found = fit(
            X,
            Y,
            l1jax.L1(0.03 * (1 + t)),
            loss=l1jax.Multinomial(K),
            sample_weight=weights * (1 + t * X[:, 1] ** 2),
            tol=1e-13,
        )
        return jnp.append(found.coef.ravel(), found.intercept)

    value, slope = jax.jvp(curve, (0.0,), (1.0,))
    h = 1e-4  # differences are good to h², and to 1e-12/h
    np.testing.assert_allclose(slope, (curve(h) - curve(-h)) / (2 * h), atol=1e-6)
    np.testing.assert_array_equal(slope[:-K][value[:-K] == 0], 0)
