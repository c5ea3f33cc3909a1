"""Quadratic programs: what homotopy and primal-dual active sets find is optimal by definition."""

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from l1jax.linear.engines.active_set._active_set import ActiveSet
from l1jax.linear.engines.active_set._bordered_cholesky import BorderedCholesky
from l1jax.linear.engines.active_set._homotopy import homotopy
from l1jax.linear.engines.active_set._options import OPTIONS
from l1jax.linear.engines.active_set._path_point import NumericalBreakdown
from l1jax.linear.engines.active_set._primal_dual import primal_dual, solve_moved
from l1jax.linear.engines.active_set._quadratic_program import QuadraticProgram

W = 15
SEEDS = st.integers(0, 10_000)
STILL = np.zeros(W)


class Problem:
    """½ xᵀQx − cᵀx with penalty weights, at a solution where only the unpenalised coordinate 0 is active."""

    def __init__(self, seed, rows=40, duplicates=False, knows_c=False):
        rng = np.random.default_rng(seed)
        A = rng.standard_normal((rows, W)) @ (np.eye(W) + 0.3 * rng.standard_normal((W, W)))
        if duplicates:
            A[:, 5], A[:, 9] = A[:, 3], -A[:, 4]
        self.Q, self.ridge = A.T @ A / rows, rng.uniform(0, 0.5, W) * rng.integers(0, 2)
        self.c = A.T @ (A[:, :4] @ rng.standard_normal(4) + rng.standard_normal(rows)) / rows
        self.up, self.down = rng.uniform(0.5, 2, (2, W))
        self.up[0] = self.down[0] = 0
        self.down[[3, 7]] = np.inf  # these are never negative
        if duplicates:  # of the same weights
            self.up[[5, 9]], self.down[[5, 9]] = self.up[[3, 4]], self.down[[3, 4]]
            self.up[9], self.down[9] = self.down[9], self.up[9]
        value = self.c[:1] / (self.Q[0, 0] + self.ridge[0])
        neg_gradient = self.c - self.Q[:, 0] * value
        neg_gradient[0] = 0
        rest = slice(1, None)
        over = neg_gradient[rest] / self.up[rest], -neg_gradient[rest] / self.down[rest]
        self.lambda_max = max(side.max() for side in over)
        self.program = QuadraticProgram(
            self.Q,
            neg_gradient,
            self.weights(1.0),
            ActiveSet(W, np.array([0]), np.zeros(1), value),
            ridge=self.ridge,
            linear=self.c if knows_c else None,
        )

    def weights(self, fraction):
        """The weights (up, down) at a fraction of λmax."""
        return fraction * self.lambda_max * self.up, fraction * self.lambda_max * self.down

    def is_optimal(self, fraction, tol=1e-9):
        """By definition: −∇ is at the weight of the sign of x, and within the weights where x is zero."""
        x = self.program.x
        neg_gradient = self.c - self.Q @ x - self.ridge * x
        np.testing.assert_allclose(self.program.neg_gradient, neg_gradient, atol=tol)
        up, down = self.weights(fraction)
        high = np.where(x < 0, -down, up) + tol
        low = np.where(x > 0, up, -down) - tol
        return bool(((low <= neg_gradient) & (neg_gradient <= high)).all())


@example(seed=526, duplicates=True, rows=8, knows_c=False)  # two equal columns enter together
@given(seed=SEEDS, duplicates=st.booleans(), rows=st.sampled_from([8, 40]), knows_c=st.booleans())
@pytest.mark.fast
def test_the_solution_at_other_weights_is_optimal(seed, duplicates, rows, knows_c):
    problem = Problem(seed, rows, duplicates, knows_c)
    for fraction in (0.7, 0.3, 0.5, 0.05):
        solve_moved(problem.program, STILL, problem.weights(fraction))
        assert problem.is_optimal(fraction)


@example(seed=42, rows=8)
@given(seed=SEEDS, rows=st.sampled_from([8, 40]))
def test_active_columns_are_linearly_independent(seed, rows):
    problem = Problem(seed, rows, duplicates=True)
    for fraction in (0.7, 0.3, 0.05):
        solve_moved(problem.program, STILL, problem.weights(fraction))
        active = problem.program.active.indices
        square = (problem.Q + np.diag(problem.ridge))[np.ix_(active, active)]
        assert np.linalg.matrix_rank(square, hermitian=True) == len(active)


@given(seed=SEEDS, by_homotopy=st.booleans())
def test_refinement_removes_any_error_of_the_values(seed, by_homotopy):
    problem = Problem(seed, knows_c=True)
    program = problem.program
    for fraction in (0.7, 0.3, 0.5):
        solve = homotopy if by_homotopy else solve_moved
        solve(program, STILL, problem.weights(fraction))
        if by_homotopy:  # the error of many knots, which the stored gradient does not show
            program.active.values[:] *= 1 + 1e-7
        program.refine()
        assert problem.is_optimal(fraction, tol=1e-11 * problem.lambda_max)


@given(seed=SEEDS)
def test_primal_dual_active_sets_find_what_homotopy_finds(seed):
    one, other = Problem(seed), Problem(seed)
    shift = 0.1 * np.random.default_rng(seed).standard_normal(W)
    for problem in (one, other):
        problem.c = problem.c + shift
    assume(primal_dual(one.program, shift, one.weights(0.4)).converged)
    homotopy(other.program, shift, other.weights(0.4))
    np.testing.assert_allclose(one.program.x, other.program.x, atol=1e-10)
    assert one.is_optimal(0.4)


@given(seed=SEEDS, by_homotopy=st.booleans())
def test_guesses_that_do_not_converge_leave_the_program_as_it_was(seed, by_homotopy):
    problem = Problem(seed)
    program = problem.program
    (homotopy if by_homotopy else solve_moved)(program, STILL, problem.weights(0.8))
    x, neg_gradient = program.x, program.neg_gradient.copy()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OPTIONS, "max_guesses", 1)
        outcome = primal_dual(program, STILL, problem.weights(0.01))
    if not outcome.converged:
        np.testing.assert_array_equal(program.x, x)
        np.testing.assert_array_equal(program.neg_gradient, neg_gradient)
        assert problem.is_optimal(0.8)
    homotopy(program, STILL, problem.weights(0.01))
    assert problem.is_optimal(0.01)


def test_guesses_that_get_worse_are_reported_as_divergence(monkeypatch):
    num_diverged = 0
    for seed in range(40):
        problem = Problem(seed)
        program, x = problem.program, problem.program.x
        monkeypatch.setattr(OPTIONS, "min_divergence", 0)
        if primal_dual(program, STILL, problem.weights(0.01)).diverged:
            num_diverged += 1
            np.testing.assert_array_equal(program.x, x)
            monkeypatch.setattr(OPTIONS, "min_divergence", W)
            assert not primal_dual(program, STILL, problem.weights(0.9)).diverged
            solve_moved(program, STILL, problem.weights(0.9))
            assert problem.is_optimal(0.9)
    assert num_diverged >= 3


def test_most_guesses_converge():
    problems = [Problem(seed) for seed in range(50)]
    outcomes = [primal_dual(one.program, STILL, one.weights(0.5)) for one in problems]
    assert sum(outcome.converged for outcome in outcomes) >= 45


@given(seed=SEEDS)
def test_a_bordered_factor_solves_as_its_active_set_changes(seed):
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((20, W))
    Q, ridge = A.T @ A, rng.random(W)
    full = Q + np.diag(ridge)
    active = rng.permutation(W)[: rng.integers(0, 8)]
    factor = BorderedCholesky(Q, ridge, active, full[np.ix_(active, active)])
    for _ in range(6):
        leaving = active[rng.random(len(active)) < 0.3]
        entering = np.setdiff1d(np.arange(W), active)[:: rng.integers(2, 5)]
        factor.exchange(leaving, entering)
        active = rng.permutation(np.concatenate([np.setdiff1d(active, leaving), entering]))
        rhs = rng.standard_normal(len(active))
        x = factor.solve(active, rhs)
        np.testing.assert_allclose(full[np.ix_(active, active)] @ x, rhs, atol=1e-8)


def test_dependent_coordinates_have_no_factor():
    Q = np.ones((2, 2))
    with pytest.raises(NumericalBreakdown):
        BorderedCholesky(Q, np.zeros(2), np.array([0, 1]), Q.copy(), 1e-9)
    BorderedCholesky(Q, np.ones(2), np.array([0, 1]), Q + np.eye(2), 1e-9)


@given(seed=SEEDS)
def test_both_factorisations_solve_whatever_entered_and_left_before(seed):
    """Each is void where only the other has been kept up: solves never use a stale one."""
    rng = np.random.default_rng(seed)
    problem = Problem(seed)
    program, active = problem.program, problem.program.active
    full = problem.Q + np.diag(problem.ridge)
    for _ in range(12):
        inactive = np.setdiff1d(np.arange(W), active.indices)
        if rng.random() < 0.5:  # homotopy
            if rng.random() < 0.6 and len(inactive):
                j = int(rng.choice(inactive))
                program.enter(j, 1.0, rng.standard_normal(), program.factor.pivot(j))
            elif active.size > 1:
                program.leave(int(rng.integers(active.size)))
        else:  # a guess
            leaving = np.flatnonzero(rng.random(active.size) < 0.3)
            program.exchange(leaving, rng.permutation(inactive)[: rng.integers(0, 4)])
        square = full[np.ix_(active.indices, active.indices)]
        rhs = rng.standard_normal(active.size)
        solve = program.factor.solve if rng.random() < 0.5 else program.factor.solve_cholesky
        np.testing.assert_allclose(square @ solve(rhs), rhs, atol=1e-6)
        np.testing.assert_array_equal(program.factor.rows, problem.Q[active.indices])


def test_a_coordinate_that_homotopy_has_blocked_may_enter_by_a_guess():
    problem = Problem(0)
    for j in range(1, W):
        problem.program.active.block(j)
    assert primal_dual(problem.program, STILL, problem.weights(0.4)).converged
    assert problem.program.active.size > 1 and problem.is_optimal(0.4)


def test_a_column_without_curvature_does_not_enter_an_empty_active_set():
    none, ones = np.zeros(0), np.ones(2)
    active = ActiveSet(2, none.astype(int), none, none)
    program = QuadraticProgram(np.diag([0.0, 1.0]), np.zeros(2), (ones, ones), active)
    homotopy(program, np.array([2.0, 3.0]), (ones, ones))
    np.testing.assert_allclose(program.x, [0, 2])


def test_a_column_whose_weight_falls_replaces_its_duplicate():
    weights, knots = np.array([1.0, 3.0]), []
    active = ActiveSet(2, np.array([0]), np.ones(1), np.ones(1))
    program = QuadraticProgram(np.ones((2, 2)), np.ones(2), (weights, weights), active)
    lower = np.array([1.0, 0.5])
    assert homotopy(program, np.zeros(2), (lower, lower), knots) == 1
    (knot,) = knots  # both weights are 1 there, and either column may have the coefficient
    assert knot.fraction == pytest.approx(0.8)
    np.testing.assert_allclose(knot.x, [0, 1], atol=1e-15)
    np.testing.assert_allclose(program.x, [0, 1.5], atol=1e-15)
    np.testing.assert_allclose(program.neg_gradient, 0.5, atol=1e-15)
