"""`minimize` with R(A x): against CVXPY, exact proxes of l1jax, isotonic regression and differences."""

import warnings

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from jax.experimental import sparse
from scipy.sparse import csgraph
from sklearn.isotonic import isotonic_regression

import l1jax
from l1jax import AugmentedLagrangian, Composed, Status, graph_differences, minimize

WIDE = jnp.result_type(float)  # float32 in the lane with x64 off
IS_WIDE = jnp.finfo(WIDE).bits == 64
RNG = np.random.default_rng(0)
N, P, M = 40, 12, 18
X = RNG.normal(size=(N, P)) * np.linspace(0.5, 2, P)
Y = X[:, :4] @ [1.0, 1.0, -1.0, -1.0] + 0.3 * RNG.normal(size=N)
A = RNG.normal(size=(M, P))
EDGES = np.array([(i, j) for i in range(P) for j in range(i) if RNG.random() < 0.25])
PAIRS = np.repeat(np.arange(M // 2), 2)


def squared(beta, x, y):
    return 0.5 * jnp.mean((y - x @ beta) ** 2)


def distance(x, z):
    return 0.5 * jnp.sum((x - z) ** 2)


def logistic(beta, x, y):
    eta = x @ beta
    return jnp.mean(jnp.logaddexp(0, eta) - (y > 0) * eta)


def solved(pen, fun=squared, x=X, y=Y, **options):
    args = (jnp.asarray(x, WIDE), jnp.asarray(y, WIDE))
    solution = minimize(fun, jnp.zeros(x.shape[1], WIDE), pen, args=args, **options)
    assert int(solution.status) == Status.CONVERGED
    return solution


def by_cvxpy(penalty, loss=None, x=X, y=Y, limits=()):
    """The least objective, and where."""
    beta = cp.Variable(x.shape[1])
    loss = loss or cp.sum_squares(y - x @ beta) / (2 * len(y))
    if callable(loss):
        loss = loss(beta)
    problem = cp.Problem(cp.Minimize(loss + penalty(beta)), [limit(beta) for limit in limits])
    tight = dict.fromkeys(("tol_gap_abs", "tol_gap_rel", "tol_feas"), 1e-13)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it may be inaccurate: not every tolerance can be met
        problem.solve(solver="CLARABEL", **tight)
    return problem.value, beta.value


# Against CVXPY: a cone solver leaves about the root of rounding in coefficients.


@pytest.mark.float32
@pytest.mark.parametrize("x", [X, X[:8]], ids=["n > p", "n < p"])
def test_the_generalised_lasso_is_that_of_a_cone_solver(x):
    y = Y[: len(x)]
    solution = solved(Composed(l1jax.L1(0.05), A), x=x, y=y)
    least, beta = by_cvxpy(lambda b: 0.05 * cp.norm1(A @ b), x=x, y=y)
    np.testing.assert_allclose(solution.params, beta, atol=1e-6 if IS_WIDE else 2e-3)
    excess = float(solution.objective) - least
    assert excess <= float(solution.gap) + 1e-10 + 5e-7 * (not IS_WIDE)
    assert float(solution.gap) <= (1e-6 if IS_WIDE else 1e-3) * least
    zeros = np.asarray(solution.image) == 0
    assert zeros.any() and np.array_equal(zeros, abs(A @ beta) < 1e-6)


def test_the_gap_bounds_the_excess_far_from_the_solution():
    pen, least = Composed(l1jax.L1(0.05), A), by_cvxpy(lambda b: 0.05 * cp.norm1(A @ b))[0]
    for steps in (1, 3, 6):
        with pytest.warns(l1jax.ConvergenceWarning, match="MAX_STEPS"):
            solution = minimize(
                squared, jnp.zeros(P), pen, args=(jnp.asarray(X), jnp.asarray(Y)), max_steps=steps
            )
        assert 1e-9 < float(solution.objective) - least <= float(solution.gap)
        assert int(solution.num_steps) == steps


def test_total_variation_on_a_graph_is_that_of_a_cone_solver():
    weights = RNG.uniform(0.5, 2, len(EDGES))
    D = graph_differences(EDGES, P, weights)
    solution = solved(Composed(l1jax.L1(0.1), D), fun=logistic)
    least, beta = by_cvxpy(
        lambda b: 0.1 * cp.sum(cp.multiply(weights, cp.abs(b[EDGES[:, 1]] - b[EDGES[:, 0]]))),
        lambda b: cp.sum(cp.logistic(X @ b) - cp.multiply(Y > 0, X @ b)) / N,
    )
    assert float(solution.objective) - least == pytest.approx(0, abs=1e-8)
    np.testing.assert_allclose(solution.params, beta, atol=1e-5)


def test_norms_of_groups_that_overlap_are_those_of_a_cone_solver():
    groups = [[0, 1, 2, 3], [3, 4, 5], [5, 6, 7], [7, 8, 9, 10, 11]]
    ids, places = np.repeat(np.arange(4), [len(g) for g in groups]), np.concatenate(groups)
    solution = solved(Composed(l1jax.GroupL1(0.2, ids), np.eye(P)[places]))
    least, beta = by_cvxpy(lambda b: 0.2 * sum(np.sqrt(len(g)) * cp.norm2(b[g]) for g in groups))
    assert float(solution.objective) - least == pytest.approx(0, abs=1e-8)
    np.testing.assert_allclose(solution.params, beta, atol=1e-5)
    for g, group in enumerate(groups):
        is_out = np.linalg.norm(beta[group]) < 1e-6
        assert np.all(np.asarray(solution.image)[ids == g] == 0) == is_out == (g == 2)


# Against what l1jax has an exact prox for.


@pytest.mark.parametrize(
    "exact, operator",
    [
        (l1jax.FusedLasso(0.5, 0.0), np.diff(np.eye(P), axis=0)),
        (l1jax.TrendFilter(0.5), np.diff(np.eye(P), 2, axis=0)),
        (l1jax.L1(0.5), np.eye(P)),
    ],
    ids=["total variation", "linear trend", "L1"],
)
def test_it_agrees_with_the_penalty_that_has_a_prox(exact, operator):
    z = jnp.asarray(Y[:P])
    rows = np.vstack([operator, np.zeros((P - len(operator), P))])  # one program for all
    solution = minimize(distance, jnp.zeros(P), Composed(l1jax.L1(0.5), rows), args=(z,))
    np.testing.assert_allclose(solution.params, exact.prox(z), atol=1e-9)


def test_a_trend_of_order_three_is_that_of_a_cone_solver():
    y = np.sin(np.arange(60) / 6) + 0.1 * RNG.normal(size=60)
    pen = Composed(l1jax.L1(5.0), lambda x: jnp.diff(x, n=4))
    solution = minimize(distance, jnp.zeros(60), pen, args=(jnp.asarray(y),))
    D = np.diff(np.eye(60), 4, axis=0)
    least, beta = by_cvxpy(
        lambda b: 5 * cp.norm1(D @ b), lambda b: cp.sum_squares(b - y) / 2, y=y, x=np.eye(60)
    )
    assert int(solution.status) == Status.CONVERGED
    assert float(solution.objective) - least == pytest.approx(0, abs=1e-7)
    np.testing.assert_allclose(solution.params, beta, atol=1e-4)


def test_differences_in_a_box_are_isotonic_regression():
    y = jnp.asarray(np.arange(15) / 5 + RNG.normal(size=15))
    pen = Composed(l1jax.Box(0, np.inf), np.diff(np.eye(15), axis=0))
    solution = minimize(distance, y, pen, args=(y,))
    np.testing.assert_allclose(solution.params, isotonic_regression(y), atol=1e-6)
    assert np.asarray(solution.image).min() == 0


# Operators.


FORMS = {
    "scipy.sparse": lambda: scipy.sparse.csc_matrix(A),
    "BCOO": lambda: sparse.BCOO.fromdense(jnp.asarray(A)),
    "function": lambda: lambda x: [A[:5] @ x, A[5:] @ x],
}


@pytest.mark.parametrize("form", FORMS)
def test_an_operator_of_another_form_is_the_same(form):
    other = solved(Composed(l1jax.L1(0.05), FORMS[form]()))
    expected = solved(Composed(l1jax.L1(0.05), A))
    np.testing.assert_allclose(other.params, expected.params, atol=1e-8)


def test_a_function_may_take_and_return_trees():
    image = RNG.normal(size=(6, 5)) + np.add.outer(np.arange(6) > 2, np.arange(5) > 1)
    pen = Composed(
        l1jax.L1(0.3), lambda x: (jnp.diff(x["a"], axis=0), jnp.diff(x["a"], axis=1), x["b"])
    )

    def loss(x):
        return 0.5 * jnp.sum((x["a"] - image) ** 2) + 0.5 * jnp.sum((x["b"] - 1) ** 2)

    solution = minimize(loss, {"a": jnp.zeros((6, 5)), "b": jnp.zeros(3)}, pen)
    beta = cp.Variable((6, 5))
    variation = cp.norm1(cp.diff(beta, axis=0)) + cp.norm1(cp.diff(beta, axis=1))
    problem = cp.Problem(cp.Minimize(cp.sum_squares(beta - image) / 2 + 0.3 * variation))
    problem.solve(solver="CLARABEL", tol_gap_abs=1e-12, tol_gap_rel=1e-12)
    np.testing.assert_allclose(solution.params["a"], beta.value, atol=1e-5)
    np.testing.assert_allclose(solution.params["b"], 0.7, atol=1e-6)


def test_many_unknowns_are_solved_by_conjugate_gradients():
    y = np.repeat(RNG.normal(size=6), 100) + 0.3 * RNG.normal(size=600)
    args = (jnp.asarray(y),)
    pen = Composed(
        l1jax.L1(1.0), graph_differences(np.stack([np.arange(599), np.arange(1, 600)], 1))
    )
    solution = minimize(distance, jnp.zeros(600), pen, args=args)
    assert int(solution.status) == Status.CONVERGED
    expected = l1jax.FusedLasso(1.0, 0.0).prox(args[0])  # tested against bounded least squares
    np.testing.assert_allclose(solution.params, expected, atol=1e-6)


# Transformations.


def at_strength(lam, a=A, x=X):
    pen = Composed(l1jax.L1(lam), a)
    args = (jnp.asarray(x), jnp.asarray(Y))
    return minimize(squared, jnp.zeros(P), pen, args=args, tol=1e-8).params


def test_lanes_of_vmap_are_the_solutions_alone():
    lams = jnp.array([0.05, 0.2, 1.0])
    lanes = jax.jit(jax.vmap(at_strength))(lams)
    for lam, lane in zip(lams, lanes, strict=True):
        np.testing.assert_allclose(lane, at_strength(lam), atol=1e-7)


@pytest.mark.slow
def test_derivatives_are_those_of_differences():
    h = 1e-5

    def norm(lam, t):
        return jnp.sum(at_strength(lam, A + t * A**2, X + t * X**2) ** 2)

    slopes = jax.grad(norm, argnums=(0, 1))(0.05, 0.0)
    for k, slope in enumerate(slopes):
        ends = [norm(0.05 + s * h * (k == 0), s * h * (k == 1)) for s in (1, -1)]
        np.testing.assert_allclose(slope, (ends[0] - ends[1]) / (2 * h), rtol=1e-5)


@pytest.mark.slow
def test_a_second_derivative_is_that_of_differences():
    def norm(lam):
        pen = Composed(l1jax.GroupL1(lam, PAIRS), A)
        args = (jnp.asarray(X), jnp.asarray(Y))
        return jnp.sum(minimize(squared, jnp.zeros(P), pen, args=args, tol=1e-8).params ** 2)

    h, slope = 1e-4, jax.grad(norm)
    expected = (slope(0.05 + h) - slope(0.05 - h)) / (2 * h)
    np.testing.assert_allclose(jax.grad(slope)(0.05), expected, rtol=1e-4)


def test_a_start_from_the_solution_takes_fewer_steps():
    first = solved(Composed(l1jax.L1(0.05), A))
    args = (jnp.asarray(X), jnp.asarray(Y))
    warm = AugmentedLagrangian(dual=first.dual)
    again = minimize(squared, first.params, Composed(l1jax.L1(0.05), A), args=args, solver=warm)
    assert int(again.num_steps) <= int(first.num_steps) / 3
    near = minimize(squared, first.params, Composed(l1jax.L1(0.051), A), args=args, solver=warm)
    assert int(near.num_steps) < int(solved(Composed(l1jax.L1(0.051), A)).num_steps)


def test_other_numbers_compile_nothing():
    traces = 0

    def counted(beta, x, y):
        nonlocal traces
        traces += 1
        return squared(beta, x, y)

    solved(Composed(l1jax.L1(0.05), A), fun=counted)
    first = traces
    solved(Composed(l1jax.L1(0.06), A + 0.1), fun=counted, x=X + 0.1)
    assert traces == first


def test_options_of_minimize_hold():
    def with_aux(beta, x, y):
        return squared(beta, x, y), beta[0]

    solution = solved(Composed(l1jax.L1(0.05), A), fun=with_aux, has_aux=True, history=3)
    assert float(solution.aux) == float(solution.params[0])
    assert np.all(np.diff(solution.history) < 0) and solution.history[-1] > solution.objective
    value = squared(solution.params, X, Y) + Composed(l1jax.L1(0.05), A).value(solution.params)
    np.testing.assert_allclose(solution.objective, value, rtol=1e-12)
    assert "gap" in repr(solution)


def test_a_negative_strength_in_one_lane_is_invalid_there():
    def status(lam):
        pen = Composed(l1jax.L1(lam), A)
        solution = minimize(squared, jnp.zeros(P), pen, args=(jnp.asarray(X), jnp.asarray(Y)))
        return solution.status, solution.params

    found, params = jax.vmap(status)(jnp.array([0.05, -1.0, 1.0]))
    assert found.tolist() == [Status.CONVERGED, Status.INVALID_INPUT, Status.CONVERGED]
    assert np.isnan(params[1]).all() and np.isfinite(params[0]).all()


# Refusals.


def minimized(pen, **options):
    return minimize(squared, jnp.zeros(P), pen, args=(jnp.asarray(X), jnp.asarray(Y)), **options)


@pytest.mark.parametrize(
    "call, error, sentence",
    [
        (lambda: Composed(A, l1jax.L1(0.1)), TypeError, "the penalty comes first"),
        (lambda: Composed(l1jax.MCP(0.1, 3.0), A), TypeError, "must be convex, got MCP"),
        (lambda: Composed(Composed(l1jax.L1(0.1), A), A), TypeError, "multiply the operators"),
        (lambda: Composed(l1jax.L1(0.1), "D"), TypeError, "operator must be a matrix"),
        (lambda: Composed(l1jax.L1(0.1), A[0]), ValueError, r"shape \(m, p\), got shape \(12,\)"),
        (lambda: Composed(l1jax.L1(0.1), A * np.nan), ValueError, "must be finite"),
        (lambda: minimized(Composed(l1jax.L1(0.1), A[:, :5])), ValueError, r"x of shape \(5,\)"),
        (lambda: minimized(Composed(l1jax.L1(0.1), jnp.sin)), TypeError, "linear function"),
        (lambda: minimized(Composed(l1jax.L1(0.1), lambda x: x + 1)), ValueError, "not 0 at 0"),
        (lambda: minimized(Composed(l1jax.L1(), A)), ValueError, "no lam yet"),
        (
            lambda: minimized(Composed(l1jax.L1(0.1), A), solver=l1jax.FISTA()),
            TypeError,
            "FISTA does not serve Composed",
        ),
        (
            lambda: minimized(l1jax.L1(0.1), solver=AugmentedLagrangian()),
            TypeError,
            "AugmentedLagrangian does not serve L1",
        ),
        (
            lambda: minimized(
                Composed(l1jax.L1(0.1), A), solver=AugmentedLagrangian(dual=jnp.zeros(3))
            ),
            ValueError,
            "dual must be like A x",
        ),
        (lambda: AugmentedLagrangian(0.0), ValueError, "rho must be positive"),
        (lambda: l1jax.fit(X, Y, Composed(l1jax.L1(0.1), A)), TypeError, "l1jax.minimize"),
        (lambda: l1jax.path(X, Y, Composed(l1jax.L1(), A)), TypeError, "l1jax.minimize"),
        (
            lambda: l1jax.prox_sgd(0.1, Composed(l1jax.L1(0.1), A)).init(jnp.zeros(P)),
            TypeError,
            "l1jax.minimize",
        ),
    ],
)
def test_what_cannot_be_says_what_can(call, error, sentence):
    with pytest.raises(error, match=sentence):
        call()


# Graphs.


def test_differences_along_edges_are_those_of_the_definition():
    weights = RNG.uniform(0.5, 2, len(EDGES))
    D, x = graph_differences(EDGES, P + 1, weights), RNG.normal(size=P + 1)
    np.testing.assert_allclose(D @ x, weights * (x[EDGES[:, 1]] - x[EDGES[:, 0]]))
    rows, cols = EDGES.T
    links = scipy.sparse.coo_matrix((np.ones(len(EDGES)), (rows, cols)), (P + 1, P + 1))
    laplacian = csgraph.laplacian((links + links.T).toarray())
    plain = graph_differences(EDGES, P + 1)
    np.testing.assert_array_equal((plain.T @ plain).toarray(), laplacian)


@pytest.mark.parametrize(
    "arguments, error, sentence",
    [
        (([[0.0, 1.0]],), TypeError, "integers"),
        (([0, 1],), ValueError, r"shape \(m, 2\), got shape \(2,\)"),
        (([[0, 3]], 3), ValueError, "from 0 to 2, got 3"),
        (([[-1, 0]],), ValueError, "got -1"),
        (([[1, 1]],), ValueError, r"two nodes, got \[1, 1\]"),
        (([[0, 1]], None, [1.0, 2.0]), ValueError, "1 finite numbers"),
    ],
)
def test_edges_that_are_none_are_refused(arguments, error, sentence):
    with pytest.raises(error, match=sentence):
        graph_differences(*arguments)
