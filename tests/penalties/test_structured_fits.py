"""Fits, paths, derivatives and training steps with structured penalties, against CVXPY and differences."""

import warnings

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq

import l1jax

N, P, K = 40, 6, 2
GROUPS = np.array([0, 0, 1, 1, 2, 2])
PARTS = [[0, 1], [2, 3], [4, 5]]
SETS, NESTED = [[0, 1, 2], [2, 3], [3, 4, 5]], [[0, 1, 2, 3], [2, 3], [4, 5]]
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, P)) * np.linspace(0.5, 2, P)
Y = X[:, :2] @ [[1.0, 0.5], [1.0, -1.0]] + 0.5 * X[:, 2:4] + 0.3 * RNG.normal(size=(N, K)) + 2
SLOPE_WEIGHTS = l1jax.SLOPE.bh_weights(P, 0.2)
BALL_WEIGHTS = np.array([1.0, 0.5, 2.0, 1.0, 3.0, 1.0])


def two_ball(b):
    raise NotImplementedError


# Of these the solution is that of a ridge, for which a condition holds; cone solvers are good to 1e-5.
BY_RIDGE = {
    cp.norm2: lambda ridge, beta, lam: lam - ridge * np.linalg.norm(beta),
    two_ball: lambda ridge, beta, lam: np.linalg.norm(beta) - 1,
}


def by_ridge(x, y, condition):
    """(XᵀX/n + ρ)⁻¹Xᵀy/n of what is centred, with the ρ at which the condition changes its sign."""
    x, y = x - x.mean(axis=0), y - y.mean()

    def beta(ridge):
        return np.linalg.solve(x.T @ x / N + ridge * np.eye(P), x.T @ y / N)

    ridge = brentq(lambda ridge: condition(ridge, beta(ridge)), 1e-9, 1e3, xtol=1e-15, rtol=1e-15)
    return beta(ridge)


def sorted_l1(b):
    falls = np.append(SLOPE_WEIGHTS[:-1] - SLOPE_WEIGHTS[1:], SLOPE_WEIGHTS[-1])
    return sum(fall * cp.sum_largest(cp.abs(b), k + 1) for k, fall in enumerate(falls))


def latent(b):
    parts = [cp.Variable(len(group)) for group in SETS]
    placed = sum(np.eye(P)[:, group] @ part for group, part in zip(SETS, parts, strict=True))
    cost = sum(np.sqrt(len(g)) * cp.norm2(v) for g, v in zip(SETS, parts, strict=True))
    return cost, [placed == b]


def over(groups, norm):
    return lambda b: sum(norm(b[group]) for group in groups)


# Each with λ times what for CVXPY, and constraints; at a strength that takes some coefficients out.
CASES = {
    "SLOPE": (l1jax.SLOPE(0.2, SLOPE_WEIGHTS), sorted_l1),
    "FusedLasso": (
        l1jax.FusedLasso(0.3, 0.3),
        lambda b: 0.7 * cp.norm1(cp.diff(b)) + 0.3 * cp.norm1(b),
    ),
    "total variation": (l1jax.FusedLasso(0.3, 0.0), lambda b: cp.norm1(cp.diff(b))),
    "linear trend": (l1jax.TrendFilter(0.2), lambda b: cp.norm1(cp.diff(b, 2))),
    "quadratic trend": (l1jax.TrendFilter(0.1, order=2), lambda b: cp.norm1(cp.diff(b, 3))),
    "L2": (l1jax.L2(0.5), cp.norm2),
    "LInf": (l1jax.LInf(0.5), cp.norm_inf),
    "L1Inf": (l1jax.L1Inf(0.6, GROUPS), over(PARTS, cp.norm_inf)),
    "ExclusiveLasso": (
        l1jax.ExclusiveLasso(0.5, GROUPS),
        lambda b: sum(cp.square(cp.norm1(b[group])) for group in PARTS) / 2,
    ),
    "OverlappingGroupL1": (l1jax.OverlappingGroupL1(0.5, SETS), latent),
    "HierarchicalGroupL1": (
        l1jax.HierarchicalGroupL1(0.3, NESTED, 1.0),
        over(NESTED, cp.norm2),
    ),
    "weighted L1Ball": (
        l1jax.L1Ball(1.5, BALL_WEIGHTS),
        lambda b: (0, [BALL_WEIGHTS @ cp.abs(b) <= 1.5]),
    ),
    "L2Ball": (l1jax.L2Ball(1.0), two_ball),
    "Simplex": (l1jax.Simplex(1.5), lambda b: (0, [b >= 0, cp.sum(b) == 1.5])),
    "L1InfBall": (
        l1jax.L1InfBall(1.0, GROUPS),
        lambda b: (0, [over(PARTS, cp.norm_inf)(b) <= 1]),
    ),
    "Box": (l1jax.Box(-0.1, 0.6), lambda b: (0, [b >= -0.1, b <= 0.6])),
}
HAVE_LAMBDA_MAX = [
    name
    for name, (pen, _) in CASES.items()
    if pen.strength == "lam"
    and pen.has_strength
    and name not in ("total variation", "linear trend", "quadratic trend", "ExclusiveLasso")
    and name != "HierarchicalGroupL1"  # which has the default
]


def solved(x, y, penalty, lam, has_intercept=True):
    """The coefficients that minimise ½ mean ‖y − Xβ − b‖² + λ·penalty(β), by CVXPY."""
    if penalty in BY_RIDGE:
        return by_ridge(x, y, lambda ridge, beta: BY_RIDGE[penalty](ridge, beta, lam))
    beta = cp.Variable(x.shape[1])
    cost = penalty(beta)
    cost, limits = cost if isinstance(cost, tuple) else (cost, [])
    rest = y - x @ beta - (cp.Variable() if has_intercept else 0)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(rest) / (2 * N) + lam * cost), limits)
    tight = dict.fromkeys(("tol_gap_abs", "tol_gap_rel", "tol_feas"), 1e-13)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it may be inaccurate: not every tolerance can be met
        problem.solve(solver="CLARABEL", **tight)
    return beta.value


def atol(name):
    """What the oracle is good to: cone solvers leave about the root of rounding in coefficients."""
    return 1e-5 if name in ("OverlappingGroupL1", "HierarchicalGroupL1") else 1e-6


def strength_of(pen):
    return float(pen.strength_value) if pen.has_strength else 1.0


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_fit_is_certified_and_that_of_cvxpy(name):
    pen, penalty = CASES[name]
    fit = l1jax.fit(X, Y[:, 0], pen)
    assert fit.status == l1jax.Status.CONVERGED
    assert fit.relative_gap <= 1e-6
    expected = solved(X, Y[:, 0], penalty, strength_of(pen))
    np.testing.assert_allclose(fit.coef, expected, atol=atol(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", HAVE_LAMBDA_MAX)
def test_at_lambda_max_nothing_is_in(name):
    pen = CASES[name][0]
    largest = float(l1jax.lambda_max(X, Y[:, 0], pen))
    default = l1jax.Penalty.lambda_max(pen, jnp.asarray(X.T @ (Y[:, 0] - Y[:, 0].mean()) / N))
    np.testing.assert_allclose(largest, default, rtol=1e-10)
    assert not l1jax.fit(X, Y[:, 0], pen.with_strength(largest)).coef.any()
    assert l1jax.fit(X, Y[:, 0], pen.with_strength(0.99 * largest)).coef.any()


def test_a_path_starts_where_nothing_is_in():
    pen, penalty = CASES["SLOPE"]
    path = l1jax.path(X, Y[:, 0], pen, n_lams=4, lam_min_ratio=0.05)
    assert not path.coefs[0].any() and path.coefs[1].any()
    assert path.relative_gaps.max() <= 1e-6
    expected = solved(X, Y[:, 0], penalty, float(path.lams[2]))
    np.testing.assert_allclose(path.coefs[2], expected, atol=atol("SLOPE"))


@pytest.mark.parametrize("name", ["total variation", "ExclusiveLasso"])
@pytest.mark.slow
def test_where_something_is_free_a_path_asks_for_strengths(name):
    pen, penalty = CASES[name]
    with pytest.raises(ValueError, match="lams"):
        l1jax.path(X, Y[:, 0], pen, n_lams=3)
    path = l1jax.path(X, Y[:, 0], pen, lams=[1.0, 0.3])
    assert path.relative_gaps.max() <= 1e-6
    np.testing.assert_allclose(path.coefs[0], solved(X, Y[:, 0], penalty, 1.0), atol=1e-6)


def loss(beta, x, y):
    return 0.5 * jnp.mean((y - x @ beta) ** 2)


# A quadratic trend differs from a linear one by its matrix alone.
@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CASES if name != "quadratic trend"])
def test_minimize_is_that_of_cvxpy_and_has_the_derivative_by_the_strength(name):
    pen, penalty = CASES[name]
    centred = X - X.mean(axis=0), Y[:, 0] - Y[:, 0].mean()

    def params(lam):
        at = pen.with_strength(lam) if pen.has_strength else pen
        return l1jax.minimize(loss, jnp.zeros(P), at, args=centred, tol=1e-12).params

    def moved(lam):
        return jax.jvp(params, (lam,), (1.0,))

    lam = strength_of(pen)
    found, slope = moved(lam)
    np.testing.assert_allclose(found, solved(*centred, penalty, lam, False), atol=atol(name))
    central = (moved(lam + 1e-5)[0] - moved(lam - 1e-5)[0]) / 2e-5
    # Solves that are good to 1e-11, over the difference, and its error of second order.
    np.testing.assert_allclose(slope, central, atol=1e-5)


@pytest.mark.parametrize("name", [*CASES, "GroupMCP", "GroupSCAD", "Cardinality"])
def test_a_training_step_is_the_prox_of_the_gradient_step(name):
    pen = CASES[name][0] if name in CASES else CONCAVE[name]
    tx = l1jax.prox_sgd(0.1, pen)

    @jax.jit
    def both(w, gradient):
        updates, _ = tx.update(gradient, tx.init(w), w)
        return w + updates, pen.prox(w - 0.1 * gradient, 0.1)

    # The step is added to w, and rounded once more there.
    np.testing.assert_allclose(*both(X[0], X[1]), atol=1e-15)


CONCAVE = {
    "GroupMCP": l1jax.GroupMCP(0.3, GROUPS, 3.0, 1.0),
    "GroupSCAD": l1jax.GroupSCAD(0.3, GROUPS, 3.7, 1.0),
    "Cardinality": l1jax.Cardinality(3),
}
COSTS = {
    "GroupMCP": lambda n: np.where(n <= 0.9, 0.3 * n - n**2 / 6, 0.135),
    "GroupSCAD": lambda n: np.where(
        n <= 0.3,
        0.3 * n,
        np.where(n <= 1.11, (2.22 * n - n**2 - 0.09) / 5.4, 0.09 * 4.7 / 2),
    ),
}


@pytest.mark.parametrize("name", COSTS)
def test_a_fit_with_concave_groups_is_a_stationary_point(name):
    fit = l1jax.fit(X, Y[:, 0], CONCAVE[name])
    assert fit.status == l1jax.Status.CONVERGED and fit.gap == np.inf
    assert fit.relative_kkt <= 1e-6
    coef, intercept = np.asarray(fit.coef), float(fit.intercept)

    def objective(b):
        norms = np.array([np.linalg.norm(b[group]) for group in PARTS])
        return 0.5 * np.mean((Y[:, 0] - X @ b - intercept) ** 2) + COSTS[name](norms).sum()

    assert (coef == 0).any() and coef.any()
    tries = coef + 1e-6 * np.random.default_rng(1).normal(size=(200, P))
    # The objective is good to 1e-16, and falls by no more than the residual times the length.
    assert min(objective(b) for b in tries) >= objective(coef) - 1e-13


def test_a_fit_with_a_bound_on_their_number_is_least_squares_on_what_is_in():
    fit = l1jax.fit(X, Y[:, 0], CONCAVE["Cardinality"])
    assert fit.status == l1jax.Status.CONVERGED and fit.n_nonzero == 3
    inside = np.asarray(fit.coef) != 0
    design = np.column_stack([X[:, inside], np.ones(N)])
    expected = np.linalg.lstsq(design, Y[:, 0])[0]
    np.testing.assert_allclose(fit.coef[inside], expected[:-1], atol=1e-8)


@pytest.mark.slow
def test_a_nuclear_norm_gives_coefficients_of_low_rank():
    fit = l1jax.fit(X, Y, l1jax.NuclearNorm(1.0))
    assert fit.status == l1jax.Status.CONVERGED and fit.relative_gap <= 1e-6
    beta, shift = cp.Variable((P, K)), cp.Variable((1, K))
    rest = cp.sum_squares(Y - X @ beta - np.ones((N, 1)) @ shift) / (2 * N)
    cp.Problem(cp.Minimize(rest + cp.normNuc(beta))).solve(solver="CLARABEL")
    # At its usual tolerances, which it meets.
    np.testing.assert_allclose(fit.coef, beta.value, atol=1e-5)
    sizes = np.linalg.svd(fit.coef, compute_uv=False)
    assert sizes[0] > 0.1 and sizes[1] <= 1e-12
    gradient = X.T @ (Y - Y.mean(axis=0)) / N
    found = float(l1jax.lambda_max(X, Y, l1jax.NuclearNorm()))
    assert found == pytest.approx(np.linalg.norm(gradient, 2), rel=1e-12)


@pytest.mark.parametrize("shape", [(5, 3), (3, 4)])
def test_the_prox_of_matrices_thresholds_singular_values(shape):
    z, u = np.random.default_rng(0).normal(size=(2, *shape))
    left, sizes, right = np.linalg.svd(z, full_matrices=False)
    at = float(sizes[1:3].mean())

    def prox(z, lam):
        return l1jax.NuclearNorm(lam).prox(z)

    expected = left @ np.diag(np.maximum(sizes - at, 0)) @ right
    np.testing.assert_allclose(prox(z, at), expected, atol=1e-13)
    for f, x, d in (
        (lambda z: prox(z, at), z, u),
        (lambda lam: prox(jnp.asarray(z), lam), at, 1.0),
        (lambda z: prox(z, at), expected * 2, u),  # whose last singular values are all zero
    ):
        f = jax.jit(f)
        slope = jax.jvp(f, (jnp.asarray(x),), (jnp.asarray(d),))[1]
        central = (f(x + 1e-6 * d) - f(x - 1e-6 * d)) / 2e-6
        np.testing.assert_allclose(slope, central, atol=1e-7)
        reverse = jax.vjp(f, jnp.asarray(x))[1](jnp.asarray(u))[0]
        assert float(jnp.sum(reverse * d)) == pytest.approx(float(jnp.sum(u * slope)), abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SLOPE"])
def test_standardize_penalises_coefficients_in_units_of_their_columns(name):
    pen, penalty = CASES[name]
    fit = l1jax.fit(X, Y[:, 0], pen, standardize=True)
    scaled = X / X.std(axis=0)
    expected = solved(scaled, Y[:, 0], penalty, strength_of(pen)) / X.std(axis=0)
    np.testing.assert_allclose(fit.coef, expected, atol=1e-6)


def test_equal_weights_of_slope_are_the_lasso():
    lasso = l1jax.fit(X, Y[:, 0], l1jax.L1(0.3))
    slope = l1jax.fit(X, Y[:, 0], l1jax.SLOPE(0.3, np.ones(P)))
    np.testing.assert_allclose(slope.coef, lasso.coef, atol=1e-10)


def test_the_multiplier_of_a_ball_is_the_strength_of_the_lasso_with_its_solution():
    ball = l1jax.L1Ball(1.5, BALL_WEIGHTS)
    fit = l1jax.fit(X, Y[:, 0], ball)
    gradient = -X.T @ (Y[:, 0] - np.asarray(fit.predict(X))) / N
    lam = ball.multiplier(jnp.asarray(fit.coef), jnp.asarray(gradient))
    lasso = l1jax.fit(X, Y[:, 0], l1jax.L1(lam, BALL_WEIGHTS))
    np.testing.assert_allclose(fit.coef, lasso.coef, atol=1e-8)


def test_weights_of_slope_are_quantiles_and_lines():
    np.testing.assert_allclose(l1jax.SLOPE.oscar_weights(4, 0.5), [2.5, 2.0, 1.5, 1.0])
    # Φ⁻¹(0.975) and Φ⁻¹(0.95), from a table.
    np.testing.assert_allclose(
        l1jax.SLOPE.bh_weights(2, 0.1), [1.959963984540054, 1.6448536269514722], rtol=1e-14
    )


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: l1jax.L1(1.0) + l1jax.L2(1.0), TypeError, r"L1 \+ L2 has no prox in closed form"),
        (lambda: l1jax.SLOPE(1.0), TypeError, "SLOPE needs weights"),
        (lambda: l1jax.SLOPE(1.0, [1.0, 2.0]), ValueError, "must not increase, got 1.0 before 2.0"),
        (lambda: l1jax.SLOPE(1.0, [0.0]), ValueError, "start with a number above 0"),
        (lambda: l1jax.SLOPE(1.0, [1.0]).prox(jnp.ones(2)), ValueError, "one for each"),
        (lambda: l1jax.SLOPE.bh_weights(3, 1.5), ValueError, "q between 0 and 1"),
        (lambda: l1jax.SLOPE.oscar_weights(0, 1.0), ValueError, "p must be at least 1"),
        (lambda: l1jax.FusedLasso(1.0, 2.0), ValueError, "l1_ratio"),
        (lambda: l1jax.TrendFilter(1.0, 3), ValueError, "order must be 1 or 2"),
        (lambda: l1jax.L2().prox(jnp.ones(2)), ValueError, "L2 has no strength yet"),
        (lambda: l1jax.NuclearNorm(1.0).prox(jnp.ones((2, 2, 2))), ValueError, "of matrices"),
        (lambda: l1jax.L1Inf(1.0), TypeError, "L1Inf needs groups"),
        (lambda: l1jax.GroupMCP(1.0, [0, 1], 0.0), ValueError, "gamma must be above 0"),
        (lambda: l1jax.GroupSCAD(1.0, [0, 1], 2.0), ValueError, "gamma must be above 2"),
        (lambda: l1jax.L1Ball(1.0, [1.0, np.inf]), ValueError, "positive and finite"),
        (lambda: l1jax.Box(1.0, 0.0), ValueError, "lower must be <= upper"),
        (lambda: l1jax.Box("a"), TypeError, "lower must be numbers"),
        (lambda: l1jax.L1InfBall(1.0), TypeError, "L1InfBall needs groups"),
        (lambda: l1jax.Cardinality().prox(jnp.ones(2)), ValueError, "no number yet"),
        (lambda: l1jax.L2Ball().prox(jnp.ones(2)), ValueError, "no radius yet"),
        (lambda: l1jax.OverlappingGroupL1(1.0), TypeError, "needs groups"),
        (lambda: l1jax.OverlappingGroupL1(1.0, [0, 0, 1]), TypeError, "one list per group"),
        (
            lambda: l1jax.OverlappingGroupL1(1.0, [[0], [1]]).prox(jnp.ones(3)),
            ValueError,
            "feature 2 is in no group",
        ),
        (
            lambda: l1jax.OverlappingGroupL1(1.0, [[0, 5]]).prox(jnp.ones(3)),
            ValueError,
            "feature 5, but there are 3",
        ),
        (
            lambda: l1jax.HierarchicalGroupL1(1.0, [[0, 1], [1, 2]]),
            ValueError,
            "overlap, and neither is within the other",
        ),
    ],
)
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
