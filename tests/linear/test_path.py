"""The lasso path on real data: its knots, its coefficients, its certificates, one compilation."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_diabetes
from sklearn.linear_model import lars_path, lasso_path

import l1jax
from l1jax.linear.engines import _fista_newton

# λ at which the active set of the diabetes data changes, and what enters (+) or leaves (−) there;
# found by a homotopy that shares no code with this library.
KNOTS = [
    (2.14804358, "+bmi"), (2.01202214, "+s5"), (1.02465091, "+bp"), (0.71509814, "+s3"),
    (0.29441072, "+sex"), (0.20086946, "+s6"), (0.15602894, "+s1"), (0.04520626, "+s4"),
    (0.01239262, "+s2"), (0.01151185, "+age"), (0.00493726, "-s3"), (0.00296480, "+s3"),
]  # fmt: skip


@pytest.fixture(scope="module")
def diabetes():
    return load_diabetes(return_X_y=True)


@pytest.fixture(scope="module")
def names():
    return load_diabetes().feature_names


@pytest.fixture(scope="module")
def path(diabetes):
    return l1jax.path(*diabetes, l1jax.L1())


def certified_gap(X, y, coef, lam):
    """The duality gap of a plain lasso on centred data, relative to the null objective; in NumPy."""
    X, y = X - X.mean(axis=0), y - y.mean()
    n = len(y)
    r = y - X @ coef
    theta = r * min(1, lam / np.abs(X.T @ r / n).max())
    primal = r @ r / (2 * n) + lam * np.abs(coef).sum()
    dual = (y @ y - (y - theta) @ (y - theta)) / (2 * n)
    return (primal - dual) / (y @ y / (2 * n))


@pytest.mark.core
def test_lambda_max_is_the_first_knot(diabetes):
    assert l1jax.lambda_max(*diabetes, l1jax.L1()) == pytest.approx(KNOTS[0][0], rel=1e-8)


@pytest.mark.parametrize(("knot", "change"), KNOTS)
def test_features_enter_and_leave_at_the_known_knots(diabetes, names, knot, change):
    # The knots are printed to eight decimals: 1e-5 relative to either side is well clear of that.
    j = names.index(change[1:])
    above = l1jax.fit(*diabetes, l1jax.L1(knot * (1 + 1e-5)), tol=1e-14).coef[j]
    below = l1jax.fit(*diabetes, l1jax.L1(knot * (1 - 1e-5)), tol=1e-14).coef[j]
    out, inside = (above, below) if change[0] == "+" else (below, above)
    assert out == 0 and not np.signbit(out)
    assert inside != 0


@pytest.mark.core
@pytest.mark.fast
def test_coefficients_equal_the_homotopy_of_scikit_learn_along_the_grid(diabetes, path):
    X, y = diabetes
    knots, _, coefs = lars_path(X - X.mean(axis=0), y - y.mean(), method="lasso")
    lams = np.asarray(path.lams)
    exact = np.stack([np.interp(-lams, -knots, row) for row in coefs], axis=1)
    # Both are exact but for rounding, which the condition of the data (500) magnifies.
    assert np.abs(path.coefs - exact).max() <= 1e-8 * np.abs(exact).max()


# Its tightest tolerance is below rounding, as it says. What it reaches has a gap of 1e-14 of ‖y‖²,
# and so a few 1e-8 of the largest coefficient to spare.
@pytest.mark.filterwarnings("ignore:Objective did not converge")
def test_coefficients_equal_the_descent_of_scikit_learn_along_the_grid(diabetes, path):
    X, y = diabetes
    X, y = X - X.mean(axis=0), y - y.mean()
    lams = np.asarray(path.lams)[::5]
    _, coefs, _ = lasso_path(X, y, alphas=lams, tol=1e-15, max_iter=200_000)
    assert np.abs(path.coefs[::5] - coefs.T).max() <= 1e-7 * np.abs(coefs).max()


@pytest.mark.core
def test_every_fit_is_certified_from_outside(diabetes, path):
    gaps = [
        certified_gap(*diabetes, np.asarray(path.coefs[i]), float(path.lams[i]))
        for i in range(len(path))
    ]
    assert max(gaps) <= 1e-8
    assert (np.asarray(path.relative_gaps) <= 1e-8).all()


def test_included_features_sit_at_lambda_and_excluded_ones_below(diabetes, path):
    X, y = diabetes
    for i in (20, 60, 99):
        fit = path[i]
        r = y - fit.predict(X)
        correlation = np.abs((X - X.mean(axis=0)).T @ r) / len(y)
        inside = np.asarray(fit.support)
        # Rounding of a residual of size 1e2 in a product of unit columns.
        np.testing.assert_allclose(correlation[inside], fit.lam, atol=1e-12)
        assert (correlation[~inside] <= float(fit.lam) + 1e-12).all()


@pytest.mark.parametrize("engine", ["sequential", "parallel"])
@pytest.mark.slow
def test_engines_agree_with_the_loop_over_fit(diabetes, engine):
    lams = np.geomspace(2.0, 0.01, 6)
    path = l1jax.path(*diabetes, l1jax.L1(), lams=lams, engine=engine, tol=1e-13)
    for i, lam in enumerate(lams):
        alone = l1jax.fit(*diabetes, l1jax.L1(lam), tol=1e-13)
        # A gap of 1e-13 bounds the error of coefficients at about its root times the condition.
        np.testing.assert_allclose(path.coefs[i], alone.coef, atol=1e-7 * 700)


@pytest.mark.core
@pytest.mark.slow
def test_vmap_over_strengths_equals_the_loop(diabetes):
    X, y = map(jnp.asarray, diabetes)
    lams = jnp.geomspace(2.0, 0.02, 5)
    pen = l1jax.L1()
    batch = jax.vmap(lambda lam: l1jax.fit(X, y, pen.with_strength(lam), tol=1e-13))(lams)
    for i, lam in enumerate(lams):
        alone = l1jax.fit(X, y, l1jax.L1(lam), tol=1e-13)
        np.testing.assert_allclose(batch.coef[i], alone.coef, atol=1e-7 * 700)
        assert batch.status[i] == l1jax.Status.CONVERGED


@pytest.mark.core
def test_other_values_do_not_compile_again(diabetes, monkeypatch):
    X, y = diabetes
    X, y = X[:173, :7], y[:173]  # a shape of this test's own
    counted = chex.assert_max_traces(_fista_newton.solve, n=1)
    monkeypatch.setattr("l1jax.linear.engines._gradient_engines.solve", counted)
    chex.clear_trace_counter()
    l1jax.fit(X, y, l1jax.L1(0.5))
    l1jax.fit(2 * X, y + 1, l1jax.L1(0.3), tol=1e-7, max_steps=500)
    if jax.default_backend() == "cpu":  # elsewhere a path is one batch, a program of its own
        l1jax.path(X, y, l1jax.L1(), n_lams=3)


@pytest.mark.float32
@pytest.mark.parametrize(("dtype", "bound"), [(np.float64, 1e-8), (np.float32, 1e-4)])
def test_a_wide_problem_is_certified_from_outside(dtype, bound):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((200, 2000))
    X[:, 1:] = 0.5 * X[:, :-1] + np.sqrt(0.75) * X[:, 1:]
    y = X[:, :20] @ rng.standard_normal(20) + rng.standard_normal(200)
    X, y = X.astype(dtype), y.astype(dtype)
    path = l1jax.path(X, y, l1jax.L1(), n_lams=25)
    assert path.coefs.dtype == dtype
    X, y = X.astype(float), y.astype(float)
    coefs, lams = np.asarray(path.coefs, float), np.asarray(path.lams, float)
    gaps = [certified_gap(X, y, coef, lam) for coef, lam in zip(coefs, lams, strict=True)]
    assert max(gaps) <= bound


@pytest.mark.core
@pytest.mark.float32
def test_float32_is_certified_to_its_tolerance():
    X, y = load_diabetes(return_X_y=True)
    X, y = X.astype(np.float32), y.astype(np.float32)
    path = l1jax.path(X, y, l1jax.L1(), n_lams=30)
    assert path.coefs.dtype == np.float32
    gaps = [
        certified_gap(
            X.astype(float), y.astype(float), np.asarray(path.coefs[i], float), float(path.lams[i])
        )
        for i in range(30)
    ]
    assert max(gaps) <= 1e-4


@pytest.mark.core
def test_entries_names_features_in_the_order_of_the_knots(path, names):
    order = [names[j] for _, j in path.entries()]
    assert order == [change[1:] for _, change in KNOTS if change[0] == "+"][:10]


def test_at_interpolates_between_grid_points(path):
    lam = 0.5 * float(path.lams[10] + path.lams[11])
    np.testing.assert_allclose(
        path.at(lam).coef, 0.5 * (path.coefs[10] + path.coefs[11]), rtol=1e-12
    )
    assert np.isnan(path.at(lam).gap)
    with pytest.raises(ValueError, match="grid"):
        path.at(100.0)


@pytest.mark.core
def test_path_runs_inside_jit(diabetes):
    X, y = map(jnp.asarray, diabetes)
    lams = jnp.geomspace(2.0, 0.2, 3)
    inside = jax.jit(
        lambda X, y: l1jax.path(X, y, l1jax.L1(), lams=lams, engine="sequential").coefs
    )
    outside = l1jax.path(X, y, l1jax.L1(), lams=lams).coefs
    np.testing.assert_allclose(inside(X, y), outside, atol=1e-7 * 700)


def test_the_knots_of_the_path_are_the_known_ones(diabetes, names):
    knots = l1jax.path(*diabetes, l1jax.L1(), engine="homotopy", lams=[2.5e-3]).knots
    # The first is the start of the path and the last the end of the grid.
    np.testing.assert_allclose(knots.lams[1:-1], [knot for knot, _ in KNOTS], atol=1e-8)
    inside = np.asarray(knots.coefs) != 0
    for k, (_, change) in enumerate(KNOTS, start=1):
        j = names.index(change[1:])
        there, beyond = (k + 1, k - 1) if change[0] == "+" else (k - 1, k + 1)
        assert not inside[k, j] and inside[there, j]
        assert not inside[beyond, j]


@pytest.mark.parametrize(
    ("pen", "allowed"),
    [
        (l1jax.NonNegativeL1(), lambda coefs: (coefs >= 0).all()),
        (l1jax.L1(weights=np.r_[1.0, np.inf, np.ones(4)]), lambda coefs: (coefs[:, 1] == 0).all()),
        (
            l1jax.GroupL1(groups=[0, 0, 1, 1, 2, 2], weights=[np.inf, 1.0, 1.0]),
            lambda coefs: (coefs[:, :2] == 0).all(),
        ),
    ],
    ids=["nonnegative", "excluded", "excluded group"],
)
@pytest.mark.slow
def test_fits_that_another_penalty_forbids_are_not_taken_up(pen, allowed):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((40, 6))
    y = X @ np.array([1.0, -2.0, 0.5, 0.0, 0.0, 1.0]) + 0.1 * rng.standard_normal(40)
    free = l1jax.path(X, y, l1jax.L1(), lam_min_ratio=1e-3, n_lams=12)
    assert not allowed(np.asarray(free.coefs))
    again = l1jax.path(X, y, pen, resume=free)
    fresh = l1jax.path(X, y, pen, lams=np.asarray(free.lams))
    assert allowed(np.asarray(again.coefs))
    assert (np.asarray(again.relative_gaps) <= 1e-6).all()
    np.testing.assert_allclose(again.coefs, fresh.coefs, atol=1e-6)


@pytest.mark.slow
def test_no_fit_is_said_to_have_converged_above_its_tolerance(diabetes):
    with pytest.warns(l1jax.ConvergenceWarning, match="PRECISION_LIMIT"):
        path = l1jax.path(*diabetes, l1jax.L1(), n_lams=10, tol=1e-17)
    converged = np.asarray(path.status) == l1jax.Status.CONVERGED
    assert (np.asarray(path.relative_gaps)[converged] <= 1e-17).all() and not converged.all()
