"""Every loss × penalty against a solver that shares no code with this one, and what a certificate promises."""

import dataclasses
import itertools

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental import sparse as jax_sparse
from scipy.optimize import brentq, root
from scipy.special import expit
from sklearn.linear_model import MultiTaskLasso

import l1jax

N, P = 30, 6
GROUPS = [0, 0, 1, 2, 2, 2]
IDS = np.array(GROUPS)
LOSSES = {
    "squared": l1jax.SquaredError(),
    "logistic": l1jax.Logistic(),
    "poisson": l1jax.Poisson(),
    "huber": l1jax.Huber(0.7),
}
WEIGHTS = np.array([1.0, 0.5, 2.0, 0.0, np.inf, 1.0])
PENALTIES = {
    "l1": l1jax.L1(0.05),
    "weighted l1": l1jax.L1(0.05, weights=WEIGHTS),
    "elastic net": l1jax.ElasticNet(0.08, 0.4),
    "ridge": l1jax.Ridge(0.1),
    "nonnegative": l1jax.NonNegativeL1(0.03),
    "group": l1jax.GroupL1(0.04, GROUPS),
    "sparse group": l1jax.SparseGroupL1(0.06, GROUPS, 0.3),
    "ball": l1jax.L1Ball(0.4),
}
PAIRS = list(itertools.product(LOSSES, PENALTIES))
# A certificate is a sum of what the loss says and what the penalty says: each of both suffices.
SOME_PAIRS = [pair for pair in PAIRS if "squared" in pair or "elastic net" in pair]
# What a gap adds of it: the weighted L1 stands for the plain one, and the elastic net for the ridge.
GAP_PAIRS = [pair for pair in SOME_PAIRS if pair[1] not in ("l1", "ridge")]
# A solver sees the loss by value, slope and curvature: those with all penalties are two.
MOST_PAIRS = [*SOME_PAIRS, *(("logistic", pen) for pen in PENALTIES if pen != "elastic net")]
MOST_PAIRS += [("huber", "sparse group"), ("poisson", "nonnegative")]
# Without intercept and scales a gradient step is what it was: the ball stands for what takes those.
PLAIN_PAIRS = [
    ("squared", "weighted l1"),
    ("squared", "group"),
    ("squared", "ball"),
    ("logistic", "elastic net"),
    ("huber", "elastic net"),
]
EVERYTHING = {"fit_intercept": True, "standardize": True}
NOTHING = {"fit_intercept": False, "standardize": False}


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(7)
    X = rng.standard_normal((N, P)) * np.array([1, 2, 0.5, 1, 1, 3]) + 0.3
    signal = X @ np.array([0.6, -0.3, 0.0, 0.5, 0.0, 0.2])
    y = {
        "squared": signal + 0.5 * rng.standard_normal(N),
        "huber": signal + rng.standard_t(2, N),
        "logistic": (signal + rng.logistic(size=N) > 0).astype(float),
        "poisson": rng.poisson(np.exp(0.5 * signal)).astype(float),
    }
    return X, y, rng.uniform(0.2, 2, N), 0.3 * rng.standard_normal(N)


def interior_point(X, y, loss, name, s, offset, fit_intercept):
    """Coefficients, intercept and objective from cvxpy, good to about the root of its tolerance."""
    beta, b = cp.Variable(P), cp.Variable()
    eta = X @ beta + b + offset
    rows = {
        "squared": 0.5 * cp.square(y - eta),
        "logistic": cp.logistic(eta) - cp.multiply(y, eta),
        "poisson": cp.exp(eta) - cp.multiply(y, eta),
        "huber": 0.5 * cp.huber(y - eta, 0.7),
    }[loss]
    norms = [np.sqrt((g == IDS).sum()) * cp.norm(beta[np.flatnonzero(g == IDS)]) for g in range(3)]
    finite = np.where(np.isinf(WEIGHTS), 0, WEIGHTS)
    constraints = [] if fit_intercept else [b == 0]
    price = {
        "l1": 0.05 * cp.norm1(beta),
        "weighted l1": 0.05 * cp.sum(cp.multiply(finite, cp.abs(beta))),
        "elastic net": 0.08 * (0.4 * cp.norm1(beta) + 0.3 * cp.sum_squares(beta)),
        "ridge": 0.05 * cp.sum_squares(beta),
        "nonnegative": 0.03 * cp.sum(beta),
        "group": 0.04 * sum(norms),
        "sparse group": 0.06 * (0.3 * cp.norm1(beta) + 0.7 * sum(norms)),
        "ball": 0,
    }[name]
    if name == "weighted l1":
        constraints.append(beta[4] == 0)
    if name == "nonnegative":
        constraints.append(beta >= 0)
    if name == "ball":
        constraints.append(cp.norm1(beta) <= 0.4)
    problem = cp.Problem(cp.Minimize(s @ rows + price), constraints)
    for tol in (1e-13, 1e-11, 1e-9):  # the tightest that the solver can reach
        tight = dict.fromkeys(["tol_gap_abs", "tol_gap_rel", "tol_feas"], tol)
        try:
            problem.solve(solver=cp.CLARABEL, **tight, **{f"reduced_{key}": 1e-8 for key in tight})
            break
        except cp.error.SolverError:
            continue
    return beta.value, float(b.value), problem.value


def polished(X, y, loss, name, s, offset, fit_intercept, beta, b):
    """The same point to rounding: the root of the optimality conditions next to it, by SciPy."""

    def slope(eta):
        return {
            "squared": eta - y,
            "logistic": expit(eta) - y,
            "poisson": np.exp(eta) - y,
            "huber": np.clip(eta - y, -0.7, 0.7),
        }[loss]

    def soft(z, price):
        return np.sign(z) * np.maximum(np.abs(z) - price, 0)

    def by_group(z, price):
        norms, thresholds = np.sqrt(np.bincount(IDS, z**2)), price * np.sqrt(np.bincount(IDS))
        return (
            z * np.where(norms > thresholds, 1 - thresholds / np.maximum(norms, thresholds), 0)[IDS]
        )

    def in_ball(z):
        if np.abs(z).sum() <= 0.4:
            return z
        return soft(z, brentq(lambda t: np.abs(soft(z, t)).sum() - 0.4, 0, np.abs(z).max()))

    prox = {
        "l1": lambda z: soft(z, 0.05),
        "weighted l1": lambda z: soft(z, 0.05 * WEIGHTS),
        "elastic net": lambda z: soft(z, 0.032) / 1.048,
        "ridge": lambda z: z / 1.1,
        "nonnegative": lambda z: np.maximum(z - 0.03, 0),
        "group": lambda z: by_group(z, 0.04),
        "sparse group": lambda z: by_group(soft(z, 0.018), 0.042),
        "ball": in_ball,
    }[name]

    def residual(point):
        weighted = s * slope(X @ point[:P] + point[P] + offset)
        intercept = weighted.sum() if fit_intercept else point[P]
        return np.append(point[:P] - prox(point[:P] - X.T @ weighted), intercept)

    found = root(residual, np.append(beta, b), tol=1e-14)
    assert np.abs(residual(found.x)).max() <= 1e-12
    return found.x[:P], found.x[P]


# The interior point method may stop a little short of 1e-13 and says so; its answer is polished.
@pytest.mark.filterwarnings("ignore:Solution may be inaccurate")
@pytest.mark.parametrize(
    ("loss", "name", "everything"),
    [(*pair, True) for pair in MOST_PAIRS] + [(*pair, False) for pair in PLAIN_PAIRS],
)
@pytest.mark.slow
def test_every_pair_agrees_with_an_interior_point_method(data, loss, name, everything):
    X, targets, weights, offset = data
    y = targets[loss]
    options = EVERYTHING if everything else NOTHING
    given_ = {"sample_weight": weights, "offset": offset} if everything else {}
    fit = l1jax.fit(X, y, PENALTIES[name], loss=LOSSES[loss], tol=1e-12, **given_, **options)

    s = weights / weights.sum() if everything else np.full(N, 1 / N)
    sigma = np.sqrt(s @ (X - s @ X) ** 2) if everything else np.ones(P)
    problem = (X / sigma, y, loss, name, s, offset if everything else 0.0, everything)
    beta, b, objective = interior_point(*problem)
    beta, b = polished(*problem, beta, b)
    assert fit.status == l1jax.Status.CONVERGED
    assert fit.relative_gap <= 1e-12
    assert float(fit.objective) == pytest.approx(objective, abs=1e-8)
    # A gap of 1e-12 leaves 1e-6 in coefficients; the exact active set leaves rounding.
    np.testing.assert_allclose(fit.coef, beta / sigma, atol=1e-8)
    assert float(fit.intercept) == pytest.approx(b, abs=1e-8)


def test_the_ball_agrees_with_the_penalty_at_the_radius_of_its_solution(data):
    X, targets, _, _ = data
    penalised = l1jax.fit(X, targets["squared"], l1jax.L1(0.1), tol=1e-13)
    ball = l1jax.L1Ball(float(jnp.abs(penalised.coef).sum()))
    bounded = l1jax.fit(X, targets["squared"], ball, tol=1e-13)
    np.testing.assert_allclose(bounded.coef, penalised.coef, atol=1e-6)


def test_group_lasso_of_rows_is_the_multi_task_lasso(data):
    X, targets, _, _ = data
    Y = np.stack([targets["squared"], targets["huber"]], axis=1)
    fit = l1jax.fit(X, Y, l1jax.GroupL1(0.2, range(P)), tol=1e-13)
    peer = MultiTaskLasso(alpha=0.2, tol=1e-13, max_iter=100_000).fit(X, Y)
    np.testing.assert_allclose(fit.coef, peer.coef_.T, atol=1e-6)
    np.testing.assert_allclose(fit.intercept, peer.intercept_, atol=1e-6)
    assert fit.support.shape == (P,)


@pytest.mark.parametrize(
    ("kind", "options", "loss"),
    [
        (scipy.sparse.csr_matrix, EVERYTHING, "squared"),
        (scipy.sparse.coo_array, NOTHING, "squared"),
        ("bcoo", {"fit_intercept": True}, "squared"),
        ("bcoo", EVERYTHING, "huber"),
        (scipy.sparse.csc_array, EVERYTHING, "logistic"),
        (scipy.sparse.csr_array, EVERYTHING, "poisson"),
    ],
)
@pytest.mark.slow
def test_sparse_data_gives_the_dense_answer(data, kind, options, loss):
    X, targets, weights, _ = data
    X = np.where(np.abs(X) > 0.8, X, 0)
    given_ = jax_sparse.BCOO.fromdense(jnp.asarray(X)) if kind == "bcoo" else kind(X)
    arguments = {"pen": l1jax.L1(0.05), "sample_weight": weights, "tol": 1e-14, **options}
    arguments["loss"] = LOSSES[loss]
    dense = l1jax.fit(X, targets[loss], **arguments)
    thin = l1jax.fit(given_, targets[loss], **arguments)
    np.testing.assert_allclose(thin.coef, dense.coef, atol=1e-10)
    np.testing.assert_allclose(thin.intercept, dense.intercept, atol=1e-10)
    np.testing.assert_allclose(thin.predict(given_), dense.predict(X), atol=1e-10)


def test_sparse_data_is_never_densified():
    # As a dense float64 matrix this would take 80 GB.
    rng = np.random.default_rng(0)
    at = rng.integers(0, 100_000, (2, 1000))
    X = scipy.sparse.coo_matrix((rng.standard_normal(1000), at), shape=(100_000, 100_000))
    fit = l1jax.fit(X, rng.standard_normal(100_000), l1jax.L1(1e-3))
    assert fit.coef.shape == (100_000,)
    assert fit.relative_gap <= 1e-6


@pytest.mark.core
@pytest.mark.fast
def test_a_data_frame_keeps_its_names(data):
    X, targets, _, _ = data
    frame = pd.DataFrame(X, columns=list("abcdef"))
    fit = l1jax.fit(frame, targets["squared"], l1jax.L1(0.1))
    assert fit.feature_names == tuple("abcdef")
    # A frame lies in memory by columns, in which order the sums of a product are rounded.
    np.testing.assert_allclose(fit.predict(frame), fit.predict(X), rtol=1e-13, atol=1e-15)


def test_jit_and_vmap_over_data_sets_give_the_eager_answer(data):
    X, targets, weights, _ = data
    X, y = np.stack([X, 1.5 * X[::-1]]), np.stack([targets["logistic"], targets["logistic"]])

    def one(X, y, w):
        return l1jax.fit(X, y, l1jax.L1(0.05), loss=l1jax.Logistic(), sample_weight=w, tol=1e-12)

    batch = jax.jit(jax.vmap(one, in_axes=(0, 0, None)))(X, y, weights)
    for i in range(2):
        np.testing.assert_allclose(batch.coef[i], one(X[i], y[i], weights).coef, atol=1e-6)


@pytest.mark.slow
def test_vmap_over_everything_but_the_data_gives_the_eager_answer(data):
    X, targets, weights, offset = data
    y = targets["squared"]

    def one(lam, of_features, weights, offset):
        pen = l1jax.L1(weights=of_features).with_strength(lam)
        return l1jax.fit(X, y, pen, sample_weight=weights, offset=offset, tol=1e-12)

    lanes = (
        np.array([0.3, 0.1, 0.01]),
        np.array([[1.0] * P, WEIGHTS, [0.5] * P]),
        np.stack([weights, np.ones(N), np.arange(N) % 3.0]),
        np.stack([offset, np.zeros(N), -offset]),
    )
    batch = jax.vmap(one)(*lanes)
    for i in range(3):
        alone = one(*(lane[i] for lane in lanes))
        np.testing.assert_allclose(batch.coef[i], alone.coef, atol=1e-8)
        np.testing.assert_allclose(batch.intercept[i], alone.intercept, atol=1e-8)


def test_closed_forms():
    X, y = np.array([[-1.0], [0.0], [1.0]]), np.array([-1.0, 0.0, 1.0])
    for lam, answer in ((0.1, 0.85), (0.5, 0.25), (1.0, 0.0)):
        fit = l1jax.fit(X, y, l1jax.L1(lam), fit_intercept=False)
        assert float(fit.coef[0]) == pytest.approx(answer, abs=1e-14)
    Q = np.linalg.qr(np.random.default_rng(1).standard_normal((20, 4)))[0] * np.sqrt(20)
    y = np.random.default_rng(2).standard_normal(20)
    z = Q.T @ y / 20
    fit = l1jax.fit(Q, y, l1jax.L1(0.1), fit_intercept=False)
    np.testing.assert_allclose(fit.coef, np.sign(z) * np.maximum(np.abs(z) - 0.1, 0), atol=1e-14)


# The points are anywhere, so the warning that they are not solutions is expected.
@pytest.mark.filterwarnings("ignore::l1jax.ConvergenceWarning")
@pytest.mark.parametrize(("loss", "name"), GAP_PAIRS)
@settings(max_examples=8)
@given(
    seed=st.integers(0, 10_000),
    factor=st.floats(0.02, 20),
    spread=st.sampled_from([0.01, 0.3, 2.0]),
    steps=st.sampled_from([1, 5, 30]),
)
@pytest.mark.slow
def test_the_gap_is_never_below_the_true_excess(data, loss, name, seed, factor, spread, steps):
    X, targets, weights, offset = data
    rng = np.random.default_rng(seed)
    y = rng.permutation(targets[loss])
    pen = PENALTIES[name]
    pen = pen.with_strength(factor * float(getattr(pen, pen.strength)))
    start = spread * rng.standard_normal(P)
    problem = {"loss": LOSSES[loss], "sample_weight": weights, "offset": offset, **EVERYTHING}
    rough = l1jax.fit(X, y, pen, init=start, tol=0.0, max_steps=steps, engine="fista", **problem)
    best = l1jax.fit(X, y, pen, tol=1e-13, **problem)
    assert 0 <= float(best.gap) <= max(0.1 * float(rough.gap), 1e-12)
    above = float(rough.objective - best.objective)
    rounding = 1e-14 * max(1.0, abs(float(rough.objective)))
    assert float(rough.gap) >= above - rounding
    assert float(best.gap) >= -above - rounding


@pytest.mark.slow
def test_a_warm_start_needs_fewer_steps(data):
    X, targets, _, _ = data
    arguments = {"loss": LOSSES["logistic"], "engine": "fista"}
    cold = l1jax.fit(X, targets["logistic"], l1jax.L1(0.01), **arguments)
    warm = l1jax.fit(X, targets["logistic"], l1jax.L1(0.01), init=cold, **arguments)
    assert warm.num_steps < cold.num_steps


def test_what_rounding_hides_never_makes_a_gap_smaller(monkeypatch):
    # At such coefficients all gradients are rounding, and what they hide is what conjugate gradients
    # make of it: whatever they say, the point is no nearer to the optimum than to the null model.
    from l1jax.linear.data._inputs import read
    from l1jax.linear.model import _certificate
    from l1jax.linear.model._prepare import prepare_inputs
    from l1jax.linear.model._problem import Point

    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((12, 20)), rng.standard_normal(12)
    inputs = read(X, y, l1jax.L1(0.1), l1jax.SquaredError(), None, None)
    problem = prepare_inputs(inputs, inputs.pen, inputs.loss, True, False)
    point = Point(jnp.asarray(1e6 * rng.standard_normal(20)), problem.null.point.intercept)

    def objective(point):
        return float(problem.smooth(point) + inputs.pen.value(point.beta))

    above = objective(point) - objective(problem.null.point)

    def absorb_rounding(problem, pen, hessian, dual, *others):
        return dataclasses.replace(dual, v=0 * dual.v, cost=jnp.full((), -2 * above, dual.v.dtype))

    monkeypatch.setattr(_certificate, "_absorb_rounding", absorb_rounding)
    found = _certificate.certify(problem, inputs.pen, point)
    assert float(found.gap) >= above * (1 - 1e-12) > 0


def test_columns_that_stay_as_they_are_are_not_copied():
    from l1jax.linear.data._inputs import read
    from l1jax.linear.model._prepare import prepare_inputs

    X = jnp.asarray(np.random.default_rng(0).standard_normal((6, 3)))
    inputs = read(X, X[:, 0], l1jax.L1(0.1), l1jax.SquaredError(), None, None)
    for centre, same in ((False, True), (True, False)):
        problem = prepare_inputs(inputs, inputs.pen, inputs.loss, centre, False)
        assert np.shares_memory(problem.x.array, X) == same


@pytest.mark.parametrize("p", [5, 70])
@pytest.mark.parametrize("n", [1, 7, 16, 30])
def test_moments_of_columns_are_those_of_numpy(n, p):
    from l1jax.linear.data._matrix import DenseMatrix

    rng = np.random.default_rng(n)
    x, s = rng.standard_normal((n, p)) + 1e6, rng.uniform(0, 1, n)
    s[0], centre = 0.5, x.mean(axis=0) + 1.0
    s /= s.sum()
    matrix = DenseMatrix(jnp.asarray(x))
    means = np.average(x.astype(np.longdouble), axis=0, weights=s)
    np.testing.assert_allclose(matrix.means(jnp.asarray(s)), means.astype(float), rtol=4e-16)
    squares = np.average((x - centre) ** 2, axis=0, weights=s)
    np.testing.assert_allclose(
        matrix.squares(jnp.asarray(s), jnp.asarray(centre)), squares, rtol=1e-13
    )
    s[np.argmax(np.abs(x[:, 0]))] = 0  # a row that does not count
    np.testing.assert_array_equal(
        matrix.peaks(jnp.asarray(s)), np.abs(x[s > 0]).max(axis=0, initial=0)
    )


@pytest.mark.parametrize("p", [3, 80])
def test_sums_of_many_rows_do_not_drift_in_single_precision(p):
    from l1jax.linear.data._matrix import DenseMatrix

    n = 200_000 if p < 64 else 20_000
    x = np.where(np.random.default_rng(0).random((n, p)) < 0.5, -1, 1).astype(np.float32)
    s = jnp.full(n, 1 / n, jnp.float32)
    squares = DenseMatrix(jnp.asarray(x)).squares(s, jnp.zeros(p, jnp.float32))
    # Of so many equal terms a plain sum is off by 2e-4 and more; the weights add up to 1 ± 1e-6.
    np.testing.assert_allclose(squares, float(n * np.float64(s[0])), rtol=2e-6)
