"""The compiled path of coefficients within limits: its optimality conditions, by NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import l1jax
from l1jax.linear.data._matrix import DenseMatrix
from l1jax.linear.engines import _compiled_engine
from l1jax.linear.engines.compiled import _follow
from l1jax.linear.engines.compiled._data import PathData, PathInputs, begin
from l1jax.linear.engines.compiled._knots import HELD, Bounds, Limits
from l1jax.linear.engines.compiled._solve import Capacity, take_working_set

N, P = 40, 120
RNG = np.random.default_rng(5)
X = RNG.normal(size=(N, P)) + 0.5 * RNG.normal(size=(N, 1))
Y = X @ np.where(np.arange(P) % 20 == 0, 1.5, 0.0) + 0.5 * RNG.normal(size=N)
LABELS = (np.median(Y) < Y).astype(float)
LOWER = np.where(np.arange(P) % 3 == 0, -0.2, np.where(np.arange(P) % 7 == 1, 0.0, -np.inf))
UPPER = np.where(np.arange(P) % 2 == 0, 0.3, np.inf)
DESIGNS = {
    "wide": (X, Y),
    "copies": (np.concatenate([X[:, :60], X[:, :60]], axis=1), Y),
    "tall": (X[:, :12], Y),
    "three decades": (X * np.geomspace(0.03, 30, P), Y),
}


def violation(x, slope, coef, lam, l1_ratio, limits):
    """How far −∇L is from λ∂R(β) within limits, for ∂L/∂η of each row, over λ; of unit columns."""
    lower, upper = limits
    unit = np.maximum(np.sqrt(np.mean((x - x.mean(axis=0)) ** 2, axis=0)), 1e-300)
    pull = -(x - x.mean(axis=0)).T @ slope / len(x) - lam * (1 - l1_ratio) * coef
    weight = lam * l1_ratio
    at_upper, at_lower = (coef != 0) & (coef == upper), (coef != 0) & (coef == lower)
    off = np.where(coef == 0, np.maximum(abs(pull) - weight, 0), abs(pull - weight * np.sign(coef)))
    off = np.where((coef == 0) & (lower == 0), np.maximum(pull - weight, 0), off)
    off = np.where(at_upper, np.maximum(weight - pull, 0), off)
    off = np.where(at_lower, np.maximum(weight + pull, 0), off)
    return (off / unit).max() / lam


@pytest.fixture
def solved(monkeypatch):
    """How many strengths the compiled path solved, for each call."""
    counts, original = [], _compiled_engine.follow_on_host

    def follow(*args):
        found = original(*args)
        counts.append(int(found.num_done))
        return found

    monkeypatch.setattr(_compiled_engine, "follow_on_host", follow)
    return counts


# Exact solvers in float64: 1e-9 is what pivots of nearly parallel columns leave, as without limits.
@pytest.mark.parametrize("l1_ratio", [1.0, 0.7])
@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.slow
def test_every_strength_meets_the_optimality_conditions(design, l1_ratio, solved):
    x, y = DESIGNS[design]
    limits = tuple(limit[: x.shape[1]] for limit in (LOWER, UPPER))
    pen = l1jax.ElasticNet(l1_ratio=l1_ratio, lower=limits[0], upper=limits[1])
    path = l1jax.path(x, y, pen, engine="compiled", n_lams=40, lam_min_ratio=1e-3)
    assert solved == [40] and (path.status == l1jax.Status.CONVERGED).all()
    assert ((path.coefs >= limits[0]) & (path.coefs <= limits[1])).all()
    held = (path.coefs == limits[0]) | (path.coefs == limits[1])
    assert (held & (path.coefs != 0)).sum(axis=1).max() > 1
    for coef, intercept, lam in zip(path.coefs, path.intercepts, path.lams, strict=True):
        slope = intercept + x @ coef - y
        assert violation(x, slope, coef, lam, l1_ratio, limits) < 1e-9


def test_a_coefficient_leaves_its_limit_as_it_came(solved):
    """The first is near the sum of the others, whose place it takes until they are in."""
    gram = np.array([[1, 0.65, 0.65], [0.65, 1, 0], [0.65, 0, 1]])
    x = np.random.default_rng(0).normal(size=(50, 3))
    x = np.linalg.qr(x - x.mean(axis=0))[0] * np.sqrt(50) @ np.linalg.cholesky(gram).T
    y = x @ [0.1, 1.0, 1.0]
    upper = np.array([0.25, np.inf, np.inf])
    pen = l1jax.L1(upper=upper)
    path = l1jax.path(x, y, pen, engine="compiled", lam_min_ratio=1e-4, fit_intercept=False)
    first = path.coefs[:, 0]
    plain = l1jax.path(x, y, l1jax.L1(), lams=path.lams, fit_intercept=False).coefs[:, 0]
    assert solved == [100] and plain.max() > 0.25
    assert (first == 0.25).sum() > 1 and first[0] < 0.25 and first[-1] < 0.25
    for coef, lam in zip(path.coefs, path.lams, strict=True):
        off = lam * violation(x, x @ coef - y, coef, lam, 1.0, (np.full(3, -np.inf), upper))
        assert off < 1e-12


def test_logistic_regression_meets_the_optimality_conditions(solved):
    limits = (np.full(P, -0.3), np.full(P, 0.4))
    pen = l1jax.L1(lower=-0.3, upper=0.4)
    path = l1jax.path(X, LABELS, pen, loss=l1jax.Logistic(), engine="compiled", n_lams=30)
    assert solved == [30] and (path.coefs == 0.4).sum(axis=1).max() > 3
    for coef, intercept, lam in zip(path.coefs, path.intercepts, path.lams, strict=True):
        slope = 1 / (1 + np.exp(-intercept - X @ coef)) - LABELS
        assert abs(slope.mean()) < 1e-10
        # Newton's steps end where the conditions hold to eps^0.6 of a typical gradient.
        assert violation(X, slope, coef, lam, 1.0, limits) < 1e-8


@pytest.mark.parametrize(
    "pen", [l1jax.L1(upper=0.1), l1jax.ElasticNet(l1_ratio=0.5, lower=-0.1, upper=0.2)]
)
def test_it_is_taken_where_n_or_p_is_small(pen, solved):
    more = np.concatenate([X, RNG.normal(size=X.shape)], axis=1)
    path = l1jax.path(more, Y, pen, n_lams=12)
    assert solved == [12] and (path.relative_gaps < 1e-12).all()


@pytest.mark.slow
def test_a_coefficient_without_weight_within_limits_is_left_to_another_engine(solved):
    weights = np.where(np.arange(P) == 3, 0.0, 1.0)
    pen = l1jax.L1(weights=weights, lower=-0.1, upper=0.1)
    with pytest.raises(ValueError, match="compiled"):
        l1jax.path(X, Y, pen, n_lams=12, engine="compiled")
    path = l1jax.path(X, Y, pen, n_lams=12)
    traced = jax.jit(lambda y: l1jax.path(X, y, pen, lams=path.lams, tol=1e-9))(Y)
    assert not solved and (np.asarray(traced.status) == l1jax.Status.CONVERGED).all()
    np.testing.assert_allclose(traced.coefs, path.coefs, atol=1e-6)


def test_a_limit_of_zero_is_no_limit_to_be_held_at(solved, monkeypatch):
    """Neither the choice of an engine nor sizes are those of a path on which coefficients are held."""
    rng = np.random.default_rng(1)
    wide, y = rng.normal(size=(20, 1100)), rng.normal(size=20)
    pens = l1jax.ElasticNet(l1_ratio=0.5, lower=0.0), l1jax.ElasticNet(l1_ratio=0.5, lower=-9.0)
    taken = []
    for pen in pens:
        l1jax.path(wide, y, pen, n_lams=10)
        taken.append(len(solved))
    assert taken == [0, 1]
    exceeding, original = [], _follow.capacities
    monkeypatch.setattr(
        _follow, "capacities", lambda n, p, more: exceeding.append(more) or original(n, p, more)
    )
    for pen in (l1jax.L1(lower=0.0), l1jax.L1(lower=-9.0)):
        l1jax.path(wide, y, pen, n_lams=10, engine="compiled")
    assert exceeding == [False, True]


@pytest.mark.parametrize("seed", [0, 13])
def test_copies_of_a_column_that_is_held_are_let_go(seed, solved):
    """Of copies only one is independent, so that the others wait at their limits until it is back."""
    rng = np.random.default_rng(seed)
    base = rng.normal(size=(30, 8))
    base = base @ (np.eye(8) + 0.9 * rng.normal(size=(8, 8)))
    x = base[:, rng.permutation(np.repeat(np.arange(8), 3))] * rng.choice([-1, 1], 24)
    y = base @ rng.normal(size=8) * 3 + rng.normal(size=30)
    labels = (y + 3 * rng.normal(size=30) > np.median(y)).astype(float)
    limit = rng.choice([0.02, 0.1, 0.3, 1, np.inf], 24)
    pen, options = l1jax.L1(lower=-limit, upper=limit), {"lam_min_ratio": 1e-4, "n_lams": 60}
    loss = l1jax.Logistic()
    path = l1jax.path(x, labels, pen, loss=loss, engine="compiled", **options)
    assert solved == [60] and (path.relative_gaps < 1e-8).all()


def test_a_held_column_violates_its_condition_where_its_gradient_is_short_of_its_bound():
    bounds = Bounds(jnp.array([1.0, 2.0]), jnp.array([3.0, 4.0]), jnp.zeros(2))
    off = jnp.full(2, 9.0)  # of active columns alone

    def of(first, second):
        side = jnp.array([HELD, -HELD])
        return float(bounds.violation(jnp.asarray(0.5), side, jnp.array([first, second]), off))

    assert of(0.7, -2.5) == 0  # beyond 0.5 · 1 and 0.5 · 4
    assert of(0.2, -2.5) == pytest.approx(0.3)
    assert of(0.7, -1.2) == pytest.approx(0.8)


def test_a_working_set_holds_all_where_the_active_and_the_held_columns_are_in_it():
    ones, none = jnp.ones(4), jnp.zeros(4, bool)
    rows = jnp.zeros(N)
    given = PathInputs(
        DenseMatrix(jnp.asarray(X[:, :4])), jnp.asarray(Y), jnp.full(N, 1 / N), rows,
        l1jax.SquaredError(), ones, ones, ones, None, Limits(ones, ones), none, jnp.zeros(()),
    )  # fmt: skip
    data = PathData.of(given)
    state = begin(data, none, jnp.ones(1))._replace(side=jnp.array([HELD, -HELD, 1, 0]))
    holds = [
        bool(take_working_set(data, state, Capacity(*sizes)).holds_all)
        for sizes in ((2, 1), (3, 1), (4, 2))
    ]
    assert holds == [False, True, True]


def test_a_capacity_that_is_full_of_held_columns_goes_on_with_the_next(solved, monkeypatch):
    limits = (np.full(P, -0.02), np.full(P, 0.02))
    sizes, original = [], _follow.capacities
    monkeypatch.setattr(_follow, "_LADDER", ((16, 8), (48, 24)))

    def capacities(*args):
        sizes.append(original(*args))
        return sizes[-1]

    monkeypatch.setattr(_follow, "capacities", capacities)
    path = l1jax.path(X, Y, l1jax.L1(lower=-0.02, upper=0.02), engine="compiled", n_lams=30)
    assert len(sizes[0]) == 3 and solved == [30] and (abs(path.coefs[-1]) == 0.02).sum() > 48
    for coef, intercept, lam in zip(path.coefs, path.intercepts, path.lams, strict=True):
        assert violation(X, intercept + X @ coef - Y, coef, lam, 1.0, limits) < 1e-9


def test_under_jit_the_path_and_its_derivative_are_those_of_an_eager_call():
    lams = np.geomspace(0.5, 0.02, 6)

    def path_of(X, y, upper):
        return l1jax.path(X, y, l1jax.L1(lower=LOWER, upper=upper), lams=lams, engine="compiled")

    upper = np.where(np.arange(P) % 2 == 0, 0.3, np.inf)
    traced = jax.jit(path_of)(X, Y, upper)
    eager = path_of(X, Y, upper)
    np.testing.assert_allclose(traced.coefs, eager.coefs, atol=1e-9)
    assert (np.asarray(traced.status) == l1jax.Status.CONVERGED).all()
    # Knots, where gradient steps would be thousands.
    assert (np.asarray(traced.relative_gaps) < 1e-13).all() and traced.num_steps.sum() < 400

    def total(scale):
        limits = jnp.where(np.isfinite(upper), 0.3 * scale, np.inf)
        return jnp.sum(path_of(X, Y, limits).coefs[-1] ** 2)

    step = 1e-5
    quotient = (total(1 + step) - total(1 - step)) / (2 * step)
    assert float(jax.grad(total)(1.0)) == pytest.approx(float(quotient), rel=1e-6)
