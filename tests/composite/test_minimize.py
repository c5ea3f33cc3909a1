import warnings
from typing import Any, ClassVar

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import l1jax
from l1jax import FISTA, ISTA, Status, minimize

SOLVERS = [FISTA(), ISTA(), FISTA(restart=False), FISTA(0.5), ISTA(100.0)]
WIDE = jnp.result_type(float)  # float32 in the lane with x64 off
TIGHT = 1e-9 if jnp.finfo(WIDE).bits == 64 else 1e-5


def squared(beta, X, y):
    return 0.5 * jnp.mean((y - X @ beta) ** 2)


def logistic(beta, X, y):
    eta = X @ beta
    return jnp.mean(jnp.logaddexp(0, eta) - y * eta)


def data(n=60, p=20, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p))
    y = X[:, :4] @ np.array([3.0, -2.0, 1.5, 1.0]) + 0.5 * rng.standard_normal(n)
    return jnp.asarray(X, WIDE), jnp.asarray(y, WIDE)


def soft(z, t):
    return np.sign(z) * np.maximum(np.abs(z) - t, 0)


def lasso_residual(X, y, lam, beta, step):
    """The stopping rule's two sides in plain NumPy and float64."""
    X, y, beta = (np.asarray(a, np.float64) for a in (X, y, beta))
    lam, step = float(lam), float(step)

    def gradient(b):
        return X.T @ (X @ b - y) / len(y)

    g = gradient(beta)
    residual = np.linalg.norm(beta - soft(beta - step * g, step * lam)) / step
    return residual, max(np.linalg.norm(g), np.linalg.norm(gradient(np.zeros_like(beta))))


def name(solution):
    return Status(int(solution.status)).name


class Taxi(l1jax.Penalty):
    """λ‖x‖₁ over a whole tree, as a user would write it: a plain number, value and prox."""

    lam: Any

    def value(self, x):
        return self.lam * sum(jnp.sum(jnp.abs(leaf)) for leaf in jax.tree.leaves(x))

    def prox(self, z, step=1.0):
        t = step * self.lam
        return jax.tree.map(lambda leaf: leaf - jnp.clip(leaf, -t, t), z)


# Known answers


@pytest.mark.float32
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.fast
def test_three_point_lasso_loses_lambda_over_the_mean_square(solver):
    X, y = jnp.array([[-1.0], [0.0], [1.0]]), jnp.array([-1.0, 0.0, 1.0])
    solution = minimize(squared, jnp.zeros(1), l1jax.L1(0.1), args=(X, y), solver=solver)
    assert name(solution) == "CONVERGED"
    np.testing.assert_allclose(solution.params, [0.85], atol=1e-4)  # 1 − 0.1/(2/3)
    np.testing.assert_allclose(solution.objective, 0.0925, atol=1e-5)


@pytest.mark.core
@pytest.mark.float32
@pytest.mark.parametrize("solver", SOLVERS)
def test_orthonormal_lasso_is_the_soft_threshold(solver):
    X, y = data()
    q = jnp.linalg.qr(X)[0] * jnp.sqrt(len(y))  # q'q/n = I
    expected = soft(np.asarray(q.T @ y / len(y)), 0.3)
    solution = minimize(
        squared, jnp.zeros(20), l1jax.L1(0.3), args=(q, y), solver=solver, tol=TIGHT
    )
    np.testing.assert_allclose(solution.params, expected, atol=20 * TIGHT)
    assert np.array_equal(np.asarray(solution.params) == 0, expected == 0)


@pytest.mark.float32
def test_minimax_concave_penalty_is_the_firm_threshold():
    class Concave(l1jax.Penalty):
        convex: ClassVar[bool] = False
        lam: Any
        gamma: float = 3.0

        def value(self, x):
            a = jnp.abs(x)
            inner = self.lam * a - a**2 / (2 * self.gamma)
            return jnp.sum(
                jnp.where(a < self.gamma * self.lam, inner, self.gamma * self.lam**2 / 2)
            )

        def prox(self, z, step=1.0):
            a = jnp.abs(z)
            t = jnp.maximum(a - step * self.lam, 0) / (1 - step / self.gamma)
            return jnp.where(a > self.gamma * self.lam, z, jnp.sign(z) * t)

    z = jnp.linspace(-4, 4, 33)
    solution = minimize(
        lambda x, z: 0.5 * jnp.sum((x - z) ** 2), 0 * z, Concave(1.0), args=(z,), tol=TIGHT
    )
    a = np.abs(z)
    firm = np.where(a > 3, z, np.sign(z) * np.maximum(a - 1, 0) * 1.5)
    np.testing.assert_allclose(solution.params, firm, atol=20 * TIGHT)


@pytest.mark.parametrize("solver", [FISTA(), ISTA()])
def test_logistic_lasso_agrees_with_scipy(solver):
    X, y = data(n=80, p=8)
    y = (y > 0).astype(float)
    X_, y_ = np.asarray(X), np.asarray(y)

    def split(uv):  # beta = u − v, both non-negative: smooth, with bounds
        eta = X_ @ (uv[:8] - uv[8:])
        residual = 1 / (1 + np.exp(-eta)) - y_
        g = X_.T @ residual / 80
        value = np.mean(np.logaddexp(0, eta) - y_ * eta) + 0.05 * uv.sum()
        return value, np.concatenate([g + 0.05, -g + 0.05])

    options = {"ftol": 1e-15, "gtol": 1e-10, "maxiter": 5000}
    found = scipy.optimize.minimize(
        split, np.zeros(16), jac=True, bounds=[(0, None)] * 16, method="L-BFGS-B", options=options
    )
    solution = minimize(
        logistic, jnp.zeros(8), l1jax.L1(0.05), args=(X, y), solver=solver, tol=1e-10
    )
    np.testing.assert_allclose(solution.params, found.x[:8] - found.x[8:], atol=1e-6)
    np.testing.assert_allclose(solution.objective, found.fun, atol=1e-12)


@pytest.mark.float32
def test_without_a_penalty_it_is_least_squares():
    X, y = data()
    solution = minimize(squared, jnp.zeros(20), None, args=(X, y), tol=TIGHT)
    expected = np.linalg.lstsq(np.asarray(X), np.asarray(y))[0]
    np.testing.assert_allclose(solution.params, expected, atol=100 * TIGHT)


def test_ball_of_the_lasso_norm_gives_the_lasso():
    X, y = data()
    lasso = minimize(squared, jnp.zeros(20), l1jax.L1(0.3), args=(X, y), tol=1e-11)
    ball = l1jax.L1Ball(jnp.sum(jnp.abs(lasso.params)))
    outside = 10 * jnp.ones(20)
    constrained = minimize(squared, outside, ball, args=(X, y), tol=1e-10)
    np.testing.assert_allclose(constrained.params, lasso.params, atol=1e-7)


def test_start_outside_of_a_constraint_is_projected_first():
    found = minimize(
        lambda x: jnp.sum(0 * x), 10 * jnp.ones(4), l1jax.L1Ball(2.0)
    )  # nothing to descend
    np.testing.assert_allclose(found.params, 0.5 * np.ones(4))
    assert int(found.num_steps) == 0


# The stopping rule


@pytest.mark.float32
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("shape", [(60, 20), (30, 90)])
def test_converged_means_that_numpy_finds_the_residual_below_tol(solver, shape):
    X, y = data(*shape)
    tol = 1e-3 if jnp.float32 == WIDE else 1e-7
    solution = minimize(
        squared, jnp.zeros(shape[1]), l1jax.L1(0.05), args=(X, y), solver=solver, tol=tol
    )
    residual, scale = lasso_residual(X, y, 0.05, solution.params, solution.step)
    assert name(solution) == "CONVERGED"
    assert residual <= 1.01 * tol * scale
    rounding = 100 * float(jnp.finfo(WIDE).eps) * scale
    np.testing.assert_allclose(solution.residual, residual, rtol=1e-3, atol=rounding)
    np.testing.assert_allclose(solution.relative_residual, residual / scale, rtol=2e-2, atol=1e-6)


def test_descent_goes_on_to_thirteen_digits():
    # Differences of f see 8 digits of x; beyond, the step is judged by differences of its gradient.
    X, y = data()
    for solver in (FISTA(), ISTA()):
        solution = minimize(
            squared, jnp.zeros(20), l1jax.L1(0.1), args=(X, y), solver=solver, tol=1e-13
        )
        residual, scale = lasso_residual(X, y, 0.1, solution.params, solution.step)
        assert name(solution) == "CONVERGED" and residual <= 2e-13 * scale


@pytest.mark.parametrize("solver", [FISTA(), ISTA()])
def test_a_large_constant_in_fun_costs_no_steps(solver):
    # It hides the differences of f, so that steps could no longer be judged by them, nor grow.
    scales = jnp.logspace(0, 2.5, 30)

    def count(constant):
        solution = minimize(
            lambda x, constant: 0.5 * jnp.sum(scales * (x - 1) ** 2) + constant,
            jnp.zeros(30),
            l1jax.L1(0.01),
            args=(constant,),
            solver=solver,
            tol=1e-9,
        )
        assert name(solution) == "CONVERGED"
        return int(solution.num_steps)

    assert count(1e8) <= 1.2 * count(0.0)


@pytest.mark.parametrize("scale", [1e4, 1e6])
@pytest.mark.parametrize("solver", [FISTA(), ISTA()])
def test_a_column_of_wild_scale_is_never_called_converged_above_tol(scale, solver):
    ended = []
    for seed in range(5):
        X, y = data(50, 30, seed)
        X = X.at[:, 7].multiply(scale)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", l1jax.ConvergenceWarning)
            solution = minimize(
                squared,
                jnp.zeros(30),
                l1jax.L1(0.1),
                args=(X, y),
                solver=solver,
                tol=1e-8,
                max_steps=2000,
            )
        residual, bound = lasso_residual(X, y, 0.1, solution.params, solution.step)
        assert np.isfinite(solution.params).all()
        assert name(solution) != "CONVERGED" or residual <= 1.01e-8 * bound
        np.testing.assert_allclose(solution.residual, residual, rtol=1e-3)
        ended.append(name(solution))
    assert "MAX_STEPS" in ended  # or the claim would be empty


def test_a_step_too_small_to_move_x_is_no_convergence():
    # x − s g rounds to x, so that the residual is exactly 0 at a gradient of 1.
    solver = ISTA(1e-18, backtracking=False)
    with pytest.warns(l1jax.ConvergenceWarning, match="PRECISION_LIMIT"):
        solution = minimize(lambda x: 0.5 * jnp.sum((x - 2) ** 2), jnp.ones(1), None, solver=solver)
    assert float(solution.residual) == 0 and name(solution) == "PRECISION_LIMIT"


def test_a_trusted_step_that_is_too_long_is_no_convergence():
    # On a ball the residual is at most its diameter over the step, wherever x is.
    solver = ISTA(1e12, backtracking=False)
    target = jnp.array([3.0, 1.0])
    with pytest.warns(l1jax.ConvergenceWarning):
        solution = minimize(
            lambda x: 0.5 * jnp.sum((x - target) ** 2 * jnp.array([1.0, 30.0])),
            jnp.zeros(2),
            l1jax.L1Ball(1.0),
            solver=solver,
            max_steps=200,
        )
    assert name(solution) != "CONVERGED"


def test_a_backtracked_step_may_start_anywhere():
    X, y = data()
    expected = minimize(squared, jnp.zeros(20), l1jax.L1(0.1), args=(X, y), tol=1e-10).params
    for step in (1e-4, 1e-2, 1.0, 1e4, 1e8):
        found = minimize(
            squared, jnp.zeros(20), l1jax.L1(0.1), args=(X, y), tol=1e-10, solver=FISTA(step)
        )
        np.testing.assert_allclose(found.params, expected, atol=1e-8)


def test_a_solution_as_the_start_needs_no_steps():
    X, y = data()
    first = minimize(squared, jnp.zeros(20), l1jax.L1(0.1), args=(X, y), tol=1e-10)
    again = minimize(squared, first.params, l1jax.L1(0.1), args=(X, y), tol=1e-8)
    assert int(first.num_steps) > 0 and int(again.num_steps) == 0


def test_restart_needs_fewer_steps_where_the_problem_is_ill_conditioned():
    scales = jnp.logspace(0, 4, 50)

    def quadratic(x):
        return 0.5 * jnp.sum(scales * (x - 1) ** 2)

    def count(solver):
        solution = minimize(
            quadratic, jnp.zeros(50), l1jax.L1(0.01), solver=solver, tol=1e-9, max_steps=100_000
        )
        assert name(solution) == "CONVERGED"
        return int(solution.num_steps)

    restarted, plain, ista = count(FISTA()), count(FISTA(restart=False)), count(ISTA())
    assert 2 * restarted < plain and 2 * restarted < ista, (restarted, plain, ista)


# History, aux, what is returned


@pytest.mark.float32
@pytest.mark.parametrize("solver", [ISTA(), ISTA(0.01)])
def test_history_of_ista_never_rises_and_ends_at_the_objective(solver):
    X, y = data(30, 40)
    solution = minimize(
        squared, jnp.zeros(40), l1jax.L1(0.1), args=(X, y), solver=solver, history=5000
    )
    steps = int(solution.num_steps)
    record = np.asarray(solution.history)
    assert record.shape == (5000,) and 1 < steps < 5000
    assert np.isfinite(record[:steps]).all() and np.isnan(record[steps:]).all()
    rounding = 50 * float(jnp.finfo(WIDE).eps) * record[0]
    assert (np.diff(record[:steps]) <= rounding).all()
    np.testing.assert_allclose(record[steps - 1], solution.objective, rtol=1e-6)
    start = minimize(
        squared, jnp.zeros(40), None, args=(X, y), tol=1e9, history=3
    )  # converged at once
    assert np.isnan(start.history).all()


def test_max_steps_returns_the_last_iterate_whose_residual_need_not_be_the_least():
    scales = jnp.logspace(0, 3, 30)
    for max_steps in (150, 200, 250, 300):
        with pytest.warns(l1jax.ConvergenceWarning, match="MAX_STEPS"):
            solution = minimize(
                lambda x: 0.5 * jnp.sum(scales * (x - 1) ** 2),
                jnp.zeros(30),
                None,
                solver=FISTA(restart=False),
                max_steps=max_steps,
                tol=1e-12,
                history=max_steps,
            )
        np.testing.assert_allclose(solution.objective, solution.history[-1], rtol=1e-9)


def test_history_shorter_than_the_solve_holds_its_first_steps():
    X, y = data(30, 40)
    long, short, none = (
        minimize(squared, jnp.zeros(40), l1jax.L1(0.1), args=(X, y), history=k) for k in (99, 7, 0)
    )
    np.testing.assert_array_equal(long.history[:7], short.history)
    np.testing.assert_array_equal(long.params, none.params)
    assert none.history is None


def test_aux_is_that_of_the_returned_params():
    X, y = data()

    def fun(beta, X, y):
        eta = X @ beta
        return 0.5 * jnp.mean((y - eta) ** 2), {"eta": eta, "label": "a string"}

    with_aux = minimize(fun, jnp.zeros(20), l1jax.L1(0.1), args=(X, y), has_aux=True)
    plain = minimize(squared, jnp.zeros(20), l1jax.L1(0.1), args=(X, y))
    np.testing.assert_allclose(with_aux.params, plain.params, atol=1e-12)
    np.testing.assert_allclose(with_aux.aux["eta"], X @ with_aux.params, atol=1e-12)
    assert with_aux.aux["label"] == "a string" and plain.aux is None


def test_printing_never_fails():
    X, y = data()

    def fit(lam):
        solution = minimize(squared, jnp.zeros(20), l1jax.L1(lam), args=(X, y))
        assert "status" in str(solution)  # under jit and vmap: tracers
        return solution

    assert "CONVERGED" in repr(fit(0.1))
    jax.jit(fit)(0.1)
    assert "3 CONVERGED" in str(jax.vmap(fit)(jnp.array([0.1, 0.2, 0.3])))


# Trees and dtypes


class Model(eqx.Module):
    weight: jax.Array
    bias: jax.Array | None
    label: str = eqx.field(static=True, default="model")


@pytest.mark.core
def test_any_tree_of_arrays_gives_the_answer_of_the_flat_vector():
    X, y = data(60, 6)
    flat = minimize(squared, jnp.zeros(6), Taxi(0.2), args=(X, y), tol=TIGHT).params
    trees = {
        "dict": ({"b": jnp.zeros(2), "a": jnp.zeros(4)}, lambda t: jnp.r_[t["a"], t["b"]]),
        "tuple": ((jnp.zeros(4), None, jnp.zeros((2, 1))), lambda t: jnp.r_[t[0], t[2][:, 0]]),
        "module": (Model(jnp.zeros((3, 2)), None), lambda t: t.weight.ravel()),
        "floats": ([0.0] * 6, jnp.stack),
    }
    for init, join in trees.values():
        solution = minimize(lambda t, join=join: squared(join(t), X, y), init, Taxi(0.2), tol=TIGHT)
        assert jax.tree.structure(solution.params) == jax.tree.structure(init)
        np.testing.assert_allclose(join(solution.params), flat, atol=50 * TIGHT)


@pytest.mark.core
@pytest.mark.float32
@pytest.mark.parametrize("pen", [l1jax.L1(0.1), Taxi(0.1), Taxi(np.float64(0.1)), None])
@pytest.mark.parametrize("solver", [FISTA(), FISTA(0.1), ISTA(np.float64(0.1), backtracking=False)])
def test_float32_stays_float32(pen, solver):
    X, y = (a.astype(jnp.float32) for a in data())
    solution = minimize(
        squared, jnp.zeros(20, jnp.float32), pen, args=(X, y), solver=solver, history=4
    )
    assert name(solution) == "CONVERGED"
    chex.assert_type([solution.params, solution.objective, solution.residual], jnp.float32)
    chex.assert_type([solution.step, solution.history], jnp.float32)
    chex.assert_type([solution.num_steps, solution.status], jnp.int32)


def test_float32_parameters_may_meet_float64_data():
    X, y = data()
    solution = minimize(squared, jnp.zeros(20, jnp.float32), l1jax.L1(0.1), args=(X, y))
    assert solution.params.dtype == jnp.float32 and name(solution) == "CONVERGED"


@pytest.mark.float32
def test_mixed_leaves_keep_their_dtypes():
    init = {"a": jnp.zeros(3, jnp.float32), "b": jnp.zeros(2, jnp.bfloat16)}

    def fun(t):
        return jnp.sum((t["a"] - 1.0) ** 2) + jnp.sum((t["b"].astype(jnp.float32) - 2.0) ** 2)

    solution = minimize(fun, init, Taxi(1.0))
    chex.assert_trees_all_equal_dtypes(solution.params, init)
    # tol is 1e-2 where a leaf has 16 bits.
    np.testing.assert_allclose(solution.params["a"], 0.5, atol=0.02)
    np.testing.assert_allclose(solution.params["b"].astype(float), 1.5, atol=0.02)


def test_default_tolerance_follows_the_shortest_leaf():
    def fun(t):
        return sum(jnp.sum((leaf - 1.0) ** 2) * 3.0 for leaf in jax.tree.leaves(t))

    for dtypes, tol in {("f8",): 1e-6, ("f4",): 1e-4, ("f8", "f4"): 1e-4}.items():
        init = tuple(jnp.zeros(2, d) for d in dtypes)
        with pytest.warns(l1jax.ConvergenceWarning, match=f"tol={tol:.1e}"):
            minimize(fun, init, None, max_steps=1, solver=ISTA(1e-3))


# Transformations


@pytest.mark.core
@pytest.mark.float32
def test_lanes_of_strengths_equal_the_loop():
    X, y = data()
    lams = jnp.array([0.01, 0.1, 0.5, 2.0])

    def solve(lam):
        pen = l1jax.L1().with_strength(lam)
        return minimize(squared, jnp.zeros(20), pen, args=(X, y), tol=TIGHT)

    lanes = jax.vmap(solve)(lams)
    assert (lanes.status == Status.CONVERGED).all()
    for i, lam in enumerate(lams):
        alone = solve(lam)
        np.testing.assert_allclose(lanes.params[i], alone.params, atol=50 * TIGHT)
        np.testing.assert_allclose(lanes.objective[i], alone.objective, rtol=1e-5)


def test_lanes_of_starts_and_data_equal_the_loop():
    sets = [data(seed=s) for s in range(3)]
    X, y = (jnp.stack(part) for part in zip(*sets, strict=True))
    starts = jnp.asarray(np.random.default_rng(1).standard_normal((3, 20)))

    @jax.jit
    @jax.vmap
    def solve(init, X, y):
        return minimize(squared, init, l1jax.L1(0.2), args=(X, y), tol=1e-10)

    lanes = solve(starts, X, y)
    for i in range(3):
        alone = minimize(squared, starts[i], l1jax.L1(0.2), args=(X[i], y[i]), tol=1e-10)
        np.testing.assert_allclose(lanes.params[i], alone.params, atol=1e-8)


@pytest.mark.core
@pytest.mark.parametrize("solver", [FISTA(), ISTA(), FISTA(0.1, backtracking=False)])
def test_a_lane_of_nan_or_divergence_harms_no_other(solver):
    X, y = data()
    scale = jnp.array([1.0, jnp.nan, 1.0, 1e3, jnp.inf])  # a step of 0.1 diverges at 1e3

    def solve(scale):
        return minimize(
            squared,
            jnp.zeros(20),
            l1jax.L1(0.1),
            args=(scale * X, y),
            solver=solver,
            tol=1e-9,
            max_steps=300,
        )

    lanes = jax.vmap(solve)(scale)
    good = solve(1.0)
    for i in (0, 2):
        assert int(lanes.status[i]) == Status.CONVERGED
        np.testing.assert_allclose(lanes.params[i], good.params, atol=1e-8)
    for i in (1, 4):
        assert int(lanes.status[i]) == Status.NOT_FINITE
        np.testing.assert_array_equal(lanes.params[i], np.zeros(20))
    if not solver.backtracking:
        assert int(lanes.status[3]) == Status.NOT_FINITE
        np.testing.assert_array_equal(lanes.params[3], np.zeros(20))  # the least residual was there
    assert np.isfinite(lanes.params).all()


def test_lanes_take_the_steps_that_each_takes_alone():
    X, y = data()

    def solve(lam):
        return minimize(squared, jnp.zeros(20), l1jax.L1(lam), args=(X, y)).num_steps

    lams = jnp.logspace(-3, 0, 8)
    np.testing.assert_array_equal(jax.vmap(solve)(lams), [solve(lam) for lam in lams])


@pytest.mark.core
@pytest.mark.float32
def test_new_values_compile_nothing_new():
    X, y = data()

    @chex.assert_max_traces(n=1)
    def fun(beta, X, y, scale):
        return scale * squared(beta, X, y)

    jax.clear_caches()
    for i in range(3):
        minimize(
            fun,
            jnp.full(20, 0.1 * i),
            l1jax.L1(0.1 + 0.1 * i),
            args=(X + i, y, 1.0 + i),
            solver=FISTA(0.1 + 0.1 * i),
            tol=1e-3 + 1e-4 * i,
            max_steps=1000 + i,
        )


def test_a_penalty_with_plain_numbers_compiles_once_too():
    @chex.assert_max_traces(n=1)
    def fun(x):
        return jnp.sum((x - 3.0) ** 2)

    for lam in (0.1, 0.2, 0.3):
        np.testing.assert_allclose(minimize(fun, jnp.zeros(2), Taxi(lam)).params, 3 - lam / 2)


def test_closed_over_tracers_reach_the_solve():
    X, y = data()

    @jax.jit
    def solve(y):
        return minimize(lambda beta: squared(beta, X, y), jnp.zeros(20), l1jax.L1(0.1)).params

    for factor in (1.0, 2.0):
        expected = minimize(squared, jnp.zeros(20), l1jax.L1(0.1), args=(X, factor * y)).params
        np.testing.assert_allclose(solve(factor * y), expected, atol=1e-12)


def test_functions_with_only_a_reverse_derivative_are_welcome():
    @jax.custom_vjp
    def half_square(x):
        return 0.5 * jnp.sum((x - 2) ** 2)

    half_square.defvjp(lambda x: (half_square(x), x - 2), lambda r, g: (g * r,))
    solution = minimize(half_square, jnp.zeros(2), l1jax.L1(0.5))
    np.testing.assert_allclose(solution.params, 1.5, atol=1e-6)


def test_extrapolation_may_leave_the_domain_of_fun():
    def barrier(x):  # least at 1/100, NaN left of 0
        return jnp.sum(100 * x - jnp.log(x))

    for init in (1e-6, 1.0, 30.0):
        solution = minimize(barrier, jnp.full(3, init), None, tol=1e-9, max_steps=100_000)
        assert name(solution) == "CONVERGED"
        np.testing.assert_allclose(solution.params, 0.01, rtol=1e-4)


@pytest.mark.parametrize("transform", [jax.grad, jax.jacfwd])
@pytest.mark.parametrize("closed_over", [True, False])
def test_a_derivative_is_the_same_by_what_is_closed_over(transform, closed_over):
    def solve(y):
        if closed_over:
            return minimize(lambda x: jnp.sum((x - y) ** 2), jnp.zeros(2), l1jax.L1(0.5)).objective
        return minimize(
            lambda x, y: jnp.sum((x - y) ** 2), jnp.zeros(2), l1jax.L1(0.5), args=(y,)
        ).objective

    # min (x − y)² + |x|/2 is y/2 − 1/16 for y > 1/4.
    np.testing.assert_allclose(transform(solve)(jnp.ones(2)), 0.5, rtol=1e-9)


# Ends other than convergence


def test_running_out_of_steps_says_so_after_exactly_that_many():
    X, y = data(30, 60)
    for max_steps in (1, 3, 17, 40):
        with pytest.warns(l1jax.ConvergenceWarning, match=f"MAX_STEPS after {max_steps} steps"):
            solution = minimize(
                squared,
                jnp.zeros(60),
                l1jax.L1(0.01),
                args=(X, y),
                max_steps=max_steps,
                tol=1e-12,
                solver=ISTA(),
                history=50,
            )
        assert name(solution) == "MAX_STEPS" and int(solution.num_steps) == max_steps
        assert np.isfinite(solution.history[:max_steps]).all()
        np.testing.assert_allclose(solution.history[max_steps - 1], solution.objective)
        residual, _scale = lasso_residual(X, y, 0.01, solution.params, solution.step)
        np.testing.assert_allclose(solution.residual, residual)


@pytest.mark.float32
def test_tolerance_zero_ends_at_the_floor_of_rounding():
    X, y = data()
    for solver in (FISTA(), ISTA()):
        with pytest.warns(l1jax.ConvergenceWarning, match="PRECISION_LIMIT"):
            solution = minimize(
                squared, jnp.zeros(20), l1jax.L1(0.1), args=(X, y), tol=0.0, solver=solver
            )
        assert int(solution.num_steps) < 2000
        assert float(solution.relative_residual) < 100 * float(jnp.finfo(WIDE).eps)


@pytest.mark.float32
@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_nan_from_the_start_keeps_the_start(bad):
    X, y = data()
    init = jnp.linspace(0, 1, 20)
    with pytest.warns(l1jax.ConvergenceWarning, match="NOT_FINITE"):
        solution = minimize(squared, init, l1jax.L1(0.1), args=(X, y.at[0].set(bad)))
    assert name(solution) == "NOT_FINITE" and int(solution.num_steps) == 0
    np.testing.assert_array_equal(solution.params, init)


def test_without_a_lower_bound_it_is_not_finite():
    with pytest.warns(l1jax.ConvergenceWarning, match="bounded below"):
        solution = minimize(lambda x: -jnp.sum(x**2), jnp.ones(3), l1jax.L1(0.1))
    assert name(solution) == "NOT_FINITE"


def test_a_nan_gradient_at_a_finite_value_is_not_finite():
    with pytest.warns(l1jax.ConvergenceWarning, match="NOT_FINITE"):
        solution = minimize(lambda x: jnp.sqrt(jnp.sum(x**2)), jnp.zeros(2), None)
    assert name(solution) == "NOT_FINITE" and float(solution.objective) == 0


def test_traced_values_that_an_eager_call_refuses_are_invalid_in_their_lane():
    def solve(lam, tol, max_steps, step):
        pen = l1jax.L1().with_strength(lam)
        solver = FISTA(step)
        return minimize(
            lambda x: jnp.sum((x - 3) ** 2),
            jnp.zeros(2),
            pen,
            solver=solver,
            tol=tol,
            max_steps=max_steps,
        )

    lams = jnp.array([1.0, -1.0, 1.0, 1.0, 1.0, jnp.nan])
    tols = jnp.array([1e-6, 1e-6, -1.0, 1e-6, 1e-6, 1e-6])
    most = jnp.array([99, 99, 99, 0, 99, 99])
    steps = jnp.array([0.1, 0.1, 0.1, 0.1, -1.0, 0.1])
    lanes = jax.vmap(solve)(lams, tols, most, steps)
    assert [Status(int(s)).name for s in lanes.status] == ["CONVERGED"] + ["INVALID_INPUT"] * 5
    np.testing.assert_allclose(lanes.params[0], 2.5, atol=1e-5)
    assert np.isnan(lanes.params[1:]).all() and np.isnan(lanes.objective[1:]).all()


def test_eager_calls_warn_once_and_traced_ones_not_at_all():
    def solve(x):
        return minimize(lambda t: jnp.sum((t - x) ** 4), x * 0, None, max_steps=1, tol=1e-9)

    with pytest.warns(l1jax.ConvergenceWarning) as caught:
        solve(jnp.ones(2))
    assert len(caught) == 1 and caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert int(jax.jit(solve)(jnp.ones(2)).status) == Status.MAX_STEPS


class Unsummed(Taxi):
    def value(self, x):
        return self.lam * jnp.abs(x)


class Flat(Taxi):
    def prox(self, z, step=1.0):
        return jnp.sum(z)


BAD = {
    "no function": ({"fun": 3}, TypeError, "fun must be a function"),
    "vector": ({"fun": lambda x: x}, TypeError, r"real scalar, got shape \(3,\)"),
    "integer": ({"fun": lambda x: 3}, TypeError, "real scalar, got int"),
    "hidden aux": ({"fun": lambda x: (x.sum(), 1)}, TypeError, "has_aux=True"),
    "no aux": ({"has_aux": True}, TypeError, r"\(scalar, aux\)"),
    "number as penalty": ({"pen": 0.1}, TypeError, "l1jax.Penalty or None, got float"),
    "class as penalty": ({"pen": l1jax.L1}, TypeError, r"write L1\(0.1\)"),
    "no strength": ({"pen": l1jax.L1()}, ValueError, "no lam yet"),
    "no radius": ({"pen": l1jax.L1Ball()}, ValueError, "no tau yet"),
    "value unsummed": ({"pen": Unsummed(0.1)}, TypeError, r"Unsummed.value.*\(3,\)"),
    "prox of another shape": ({"pen": Flat(0.1)}, TypeError, "Flat.prox must keep shapes"),
    "negative tol": ({"tol": -1e-3}, ValueError, "tol must be at least 0, got -0.001"),
    "nan tol": ({"tol": np.nan}, ValueError, "tol must be at least 0"),
    "text tol": ({"tol": "small"}, TypeError, "tol must be a number"),
    "no steps": ({"max_steps": 0}, ValueError, "max_steps must be at least 1, got 0"),
    "half a step": ({"max_steps": 1.5}, TypeError, "max_steps must be an integer"),
    "integers": ({"init": jnp.arange(3)}, TypeError, "init must be .* dtype int"),
    "integer leaf": ({"init": {"a": jnp.ones(2), "n": 3}}, TypeError, r"init\['n'\].*got 3"),
    "empty": ({"init": {}}, ValueError, "no entries"),
    "empty arrays": ({"init": jnp.zeros(0)}, ValueError, "no entries"),
    "bare args": ({"args": jnp.ones(3)}, TypeError, "args must be a tuple"),
    "solver": ({"solver": "fista"}, TypeError, "solver must be"),
    "history": ({"history": -1}, ValueError, "history must be"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(case):
    given, error, message = BAD[case]
    call = {"fun": lambda x: jnp.sum(x**2), "init": jnp.ones(3), "pen": None} | given
    with pytest.raises(error, match=message):
        minimize(**call)


@pytest.mark.parametrize("solver", [ISTA, FISTA])
def test_steps_must_be_positive_and_a_trusted_one_given(solver):
    for step in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match="step must be positive"):
            solver(step)
    with pytest.raises(ValueError, match="needs a step"):
        solver(backtracking=False)
