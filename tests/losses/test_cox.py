"""Cox regression: against its definition summed row by row, statsmodels, brute force and differences."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

import l1jax

BRESLOW, EFRON = l1jax.Cox(), l1jax.Cox("efron")
each = pytest.mark.parametrize("loss", [BRESLOW, EFRON], ids=["breslow", "efron"])
# Ties among those who die, among those who are censored, and between the two; a row of weight 0.
Y = jnp.array([[3.0, 1], [1, 1], [3, 1], [2, 0], [3, 0], [1, 1], [5, 0], [4, 1], [3, 1], [2, 0]])
S = jnp.array([0.2, 0.1, 0.05, 0.1, 0.05, 0.15, 0.1, 0.1, 0.15, 0.0])
predictors = st.lists(st.floats(-3, 3), min_size=10, max_size=10).map(np.array).map(jnp.asarray)
call = eqx.filter_jit(lambda method, *args: method(*args))

# All fits share their shapes, so that each program is compiled once.
N, P = 60, 6
RNG = np.random.default_rng(5)
X = RNG.standard_normal((N, P)) + 0.5
TIMES = np.ceil(5 * RNG.exponential(size=N) * np.exp(X[:, 1] - X[:, 0]))
EVENTS = (RNG.random(N) < 0.7).astype(float)
TARGET = np.column_stack([TIMES, EVENTS])


def by_rows(loss, y, eta, s):
    """The definition: one sum over those at risk for each row that dies."""
    time, event, s = np.asarray(y)[:, 0], np.asarray(y)[:, 1], np.asarray(s)
    w, risks, weights, slopes = s * (s > 0).sum(), [], [], np.zeros(len(s))
    for t in np.unique(time):
        dead = np.flatnonzero((time == t) & (event == 1) & (s > 0))
        for place, i in enumerate(dead):
            among, weight = w * (time >= t), s[i]
            if loss.ties == "efron":
                among[dead] *= 1 - place / len(dead)
                weight = s[dead].mean()
            risks.append(among)
            weights.append(weight)
            slopes[i] = s[i]
    return np.array(weights) @ jnp.log(np.array(risks) @ jnp.exp(eta)) - slopes @ eta


@functools.cache
def derived(derivative, loss):
    """A derivative of the definition, of one program for all predictors."""
    return jax.jit(derivative(lambda eta: by_rows(loss, Y, eta, S)))


@pytest.mark.core
@each
@given(eta=predictors)
def test_value_and_derivatives_are_those_of_the_definition(loss, eta):
    value, slope = derived(jax.value_and_grad, loss)(eta)
    assert float(call(type(loss).value, loss, Y, eta, S)) == pytest.approx(float(value), rel=1e-13)
    np.testing.assert_allclose(call(type(loss).gradient, loss, Y, eta, S), slope, atol=1e-15)


@each
@pytest.mark.slow
def test_the_hessian_its_diagonal_and_its_bound(loss):
    eta = jnp.linspace(-1, 1, 10)[jnp.array([3, 1, 4, 5, 9, 2, 6, 8, 7, 0])]
    matrix = derived(jax.hessian, loss)(eta)
    ours = jax.jit(jax.vmap(loss.hessian(Y, eta, S)))(jnp.eye(10))
    np.testing.assert_allclose(ours, matrix, atol=1e-15)
    diagonal, bound, gradient = (
        np.asarray(call(getattr(type(loss), name), loss, Y, eta, S))
        for name in ("curvature", "majorant", "gradient")
    )
    np.testing.assert_allclose(diagonal, np.diag(matrix), atol=1e-15)
    assert np.linalg.eigvalsh(np.diag(bound) - matrix).min() >= -1e-15
    slope = jax.jit(jax.grad(lambda e: loss.value(Y, e, S)))(eta)
    np.testing.assert_allclose(gradient, slope, atol=1e-15)


@each
@pytest.mark.parametrize("scale", [1.0, 100.0, 1000.0])
@pytest.mark.slow
def test_in_numpy_it_is_the_same_also_where_risks_are_far_apart(loss, scale):
    y, s = np.asarray(Y), np.asarray(S)
    eta = scale * np.linspace(-1, 1, 10)[[3, 1, 4, 5, 9, 2, 6, 8, 7, 0]]
    with np.errstate(all="ignore"):
        for name in ("value", "gradient", "deviance"):
            ours = getattr(loss, name)(y, eta, s)
            assert not isinstance(ours, jax.Array)
            theirs = call(getattr(type(loss), name), loss, Y, jnp.asarray(eta), S)
            np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-13)
        ours = loss.hessian(y, eta, s)(np.eye(10))
    theirs = jax.jit(lambda eta: jax.vmap(loss.hessian(Y, eta, S))(jnp.eye(10)))(eta)
    np.testing.assert_allclose(ours, theirs, atol=1e-13)
    assert abs(ours).max() > 1e-10 or scale > 1


@each
@given(eta=predictors, c=st.floats(0, 1))
def test_the_gap_bounds_what_the_conjugate_gives(loss, eta, c):
    gap = float(call(type(loss).fenchel_gap, loss, Y, eta, jnp.asarray(c), S))
    slope = call(type(loss).gradient, loss, Y, eta, S)
    value = call(type(loss).value, loss, Y, eta, S)

    # L*(c∇L) is at least what any predictor shows: the optimum's neighbours, and the far end.
    for other in (eta, (1 - c) * eta, eta - 20 * Y[:, 0], 0 * eta):
        shown = jnp.sum(c * slope * other) - call(type(loss).value, loss, Y, other, S)
        assert gap >= float(value + shown - c * jnp.sum(slope * eta)) - 1e-14
    assert call(type(loss).fenchel_gap, loss, Y, eta, jnp.asarray(1.0), S) == 0
    at_zero = call(type(loss).fenchel_gap, loss, Y, eta, jnp.asarray(0.0), S)
    deviance = call(type(loss).deviance, loss, Y, eta, S)
    assert float(at_zero) == pytest.approx(float(deviance), rel=1e-12)


@each
def test_the_gap_is_within_a_factor_of_the_exact_one(loss):
    eta = jnp.linspace(-1, 1, 10)[jnp.array([3, 1, 4, 5, 9, 2, 6, 8, 7, 0])]
    slope = np.asarray(loss.gradient(Y, eta, S))
    both = jax.jit(lambda e: (loss.value(Y, e, S), loss.gradient(Y, e, S)))
    for c in (0.5, 0.9, 0.99):

        def suboptimality(e, c=c):
            value, gradient = both(e)
            return float(value - c * slope @ e), np.asarray(gradient - c * slope)

        found = minimize(suboptimality, np.asarray(eta), jac=True, tol=1e-12)
        exact = float(loss.value(Y, eta, S)) - c * float(slope @ eta) - found.fun
        ours = float(loss.fenchel_gap(Y, eta, jnp.asarray(c), S))
        assert exact - 1e-12 <= ours <= 10 * exact


@each
@pytest.mark.fast
def test_saturated_is_what_a_model_that_knows_each_time_comes_to(loss):
    values = [float(loss.value(Y, -size * Y[:, 0], S)) for size in (1, 10, 40)]
    # Those who are censored at a time of death are at no risk in the limit.
    ended = jnp.where(Y[:, 1] == 1, 0, -100)
    limit = float(loss.value(Y, -40 * Y[:, 0] + ended, S))
    assert limit == pytest.approx(float(loss.saturated(Y, S)), rel=1e-12)
    assert min(values) > limit
    assert float(loss.deviance(Y, -40 * Y[:, 0] + ended, S)) == 0


def test_a_weight_of_two_is_a_row_twice_and_a_weight_of_zero_none():
    loss, eta = l1jax.Cox(), jnp.linspace(-1, 1, 10)
    counts = np.array([2, 1, 1, 2, 1, 1, 1, 2, 1, 0])
    again = np.repeat(np.arange(10), counts)
    ours = call(type(loss).deviance, loss, Y, eta, jnp.asarray(counts / counts.sum()))
    entering = np.asarray(Y)[again], np.asarray(eta)[again], np.full(len(again), 1 / len(again))
    theirs = call(type(loss).deviance, loss, *entering)
    assert float(ours) == pytest.approx(float(theirs), rel=1e-13)
    for loss in (
        BRESLOW,
        EFRON,
    ):  # Efron's ties count rows, so there only rows of weight 0 are as if absent
        kept = call(type(loss).value, loss, *(np.asarray(part)[:9] for part in (Y, eta, S)))
        found = call(type(loss).value, loss, Y, eta, S)
        assert float(found) == pytest.approx(float(kept), rel=1e-14)


@each
@pytest.mark.slow
def test_only_the_order_of_times_matters(loss):
    eta = jnp.linspace(-1, 1, 10)
    later = Y.at[:, 0].set(jnp.exp(3 * Y[:, 0]) - 1000)
    for y in (later, loss.encode(later), loss.encode(np.asarray(Y)), jax.jit(loss.encode)(Y)):
        found, expected = (call(type(loss).value, loss, jnp.asarray(at), eta, S) for at in (y, Y))
        assert float(found) == float(expected)
    # Times that single precision would tie stay apart.
    days = np.array([[700_000_001.0, 1], [700_000_002, 1]])
    assert len(np.unique(loss.encode(days).astype(np.float32)[:, 0])) == 2


@pytest.mark.float32
@each
def test_wide_risks_do_no_harm(loss):
    eta = jnp.array([90.0, -90, 0, 60, -60, 30, -30, 90, -90, 800], jnp.float32)
    y, s = Y.astype(jnp.float32), S.astype(jnp.float32)
    methods = jax.jit(lambda *a: (loss.value(*a), loss.gradient(*a), loss.curvature(*a)))
    found = methods(y, eta, s)
    for out in found:
        assert out.dtype == jnp.float32
        assert jnp.isfinite(out).all()
    with jax.enable_x64(True):
        wide = [jnp.asarray(np.asarray(v), jnp.float64) for v in (Y, eta, S)]
        value, slope, _ = methods(*wide)
    # An exponent of 90 is good to 1e-5, and so is what it gives.
    assert float(found[0]) == pytest.approx(float(value), rel=1e-5)
    np.testing.assert_allclose(found[1], slope, atol=1e-5)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([1.0, 2.0], r"\(time, event\).*\(2,\)"),
        ([[1.0, 2.0], [0.0, 1.0]], "got 2.0 at row 0"),
        ([[1.0, 5.0], [0.0, 3.0]], "swapped"),
        ([[1.0, 0.0], [2.0, 0.0]], "no event"),
    ],
)
def test_bad_targets_are_named(y, message):
    with pytest.raises(ValueError, match=message):
        l1jax.Cox().check_targets(np.array(y))


def test_ties_are_named():
    with pytest.raises(ValueError, match="breslow.*efron.*exact"):
        l1jax.Cox("exact")


def fit(lam, loss=BRESLOW, y=TARGET, **options):
    return l1jax.fit(X, y, l1jax.L1(lam), loss=loss, tol=1e-10, **options)


@each
@pytest.mark.slow
def test_without_a_price_a_fit_is_that_of_statsmodels(loss):
    hazards = pytest.importorskip("statsmodels.duration.hazard_regression")
    offset = 0.3 * X[:, 2] ** 2
    peer = hazards.PHReg(TIMES, X, status=EVENTS, ties=loss.ties, offset=offset)
    found = peer.fit()
    ours = fit(0.0, loss, offset=offset)
    np.testing.assert_allclose(ours.coef, found.params, atol=1e-8)
    assert float(ours.objective) == pytest.approx(-found.llf / N, rel=1e-12)
    assert ours.intercept == 0
    np.testing.assert_allclose(ours.predict(X), np.exp(X @ found.params), rtol=1e-7)


@pytest.mark.slow
def test_both_engines_find_one_certified_path():
    options = {"loss": EFRON, "n_lams": 6, "standardize": True, "sample_weight": 1 + EVENTS}
    followed = l1jax.path(X, TARGET, l1jax.L1(), tol=1e-10, **options)
    stepped = l1jax.path(X, TARGET, l1jax.L1(), tol=1e-10, engine="sequential", **options)
    for path in (followed, stepped):
        assert (np.asarray(path.status) == l1jax.Status.CONVERGED).all()
        assert (np.asarray(path.relative_gaps) <= 1e-10).all()
    assert followed.n_nonzero[1] > 0
    np.testing.assert_allclose(followed.coefs, stepped.coefs, atol=1e-8)


@pytest.mark.slow
def test_the_gap_of_a_poor_point_is_above_its_excess():
    best = fit(0.05, EFRON)
    with pytest.warns(l1jax.ConvergenceWarning):
        poor = fit(0.05, EFRON, engine="fista", max_steps=1)
    suboptimality = float(poor.objective - best.objective)
    assert 1e-6 < suboptimality <= float(poor.gap) < 100 * suboptimality


def test_an_intercept_changes_nothing():
    moved = X + 100.0
    with_it, without = (
        l1jax.fit(moved, TARGET, l1jax.L1(0.03), loss=BRESLOW, fit_intercept=flag, tol=1e-10)
        for flag in (True, False)
    )
    np.testing.assert_array_equal(with_it.coef, without.coef)
    np.testing.assert_allclose(with_it.coef, fit(0.03).coef, atol=1e-9)
    assert with_it.intercept == without.intercept == 0


@pytest.mark.slow
def test_what_data_cannot_say_does_no_harm():
    at_once = fit(0.01, y=np.column_stack([np.ones(N), np.ones(N)]))
    assert (np.asarray(at_once.coef) == 0).all() and at_once.relative_gap == 0
    assert at_once.status == l1jax.Status.CONVERGED
    nobody_dies = fit(0.01, sample_weight=1 - EVENTS)
    assert (np.asarray(nobody_dies.coef) == 0).all()
    assert nobody_dies.status == l1jax.Status.CONVERGED
    # The order of times is that of a column, so the best coefficient is infinite.
    ordered = np.column_stack([-X[:, 0], np.ones(N)])
    with pytest.warns(l1jax.ConvergenceWarning):
        far = fit(1e-5, EFRON, y=ordered, max_steps=300, engine="fista")
    assert jnp.isfinite(far.coef).all() and far.coef[0] > 5
