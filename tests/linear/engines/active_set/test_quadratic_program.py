"""Faces of a quadratic problem: what moves along them is optimal at the end, however it went there."""

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from l1jax.linear.engines.active_set import _quadratic_program
from l1jax.linear.engines.active_set._bordered_cholesky import BorderedCholesky
from l1jax.linear.engines.active_set._quadratic_program import Face
from l1jax.linear.engines.active_set._state import NumericalBreakdown

W = 15
SEEDS = st.integers(0, 10_000)


class Problem:
    """½ xᵀQx − cᵀx with prices; `face` is where nothing is in but the first coordinate, which is free."""

    def __init__(self, seed, rows=40, twins=False, settles=False):
        rng = np.random.default_rng(seed)
        A = rng.standard_normal((rows, W)) @ (np.eye(W) + 0.3 * rng.standard_normal((W, W)))
        if twins:
            A[:, 5], A[:, 9] = A[:, 3], -A[:, 4]
        self.Q, self.ridge = A.T @ A / rows, rng.uniform(0, 0.5, W) * rng.integers(0, 2)
        self.c = A.T @ (A[:, :4] @ rng.standard_normal(4) + rng.standard_normal(rows)) / rows
        self.up, self.down = rng.uniform(0.5, 2, (2, W))
        self.up[0] = self.down[0] = 0
        self.down[[3, 7]] = np.inf  # these are never negative
        if twins:  # they cost the same
            self.up[[5, 9]], self.down[[5, 9]] = self.up[[3, 4]], self.down[[3, 4]]
            self.up[9], self.down[9] = self.down[9], self.up[9]
        value = self.c[:1] / (self.Q[0, 0] + self.ridge[0])
        gradient = self.c - self.Q[:, 0] * value
        gradient[0] = 0
        rest = slice(1, None)
        over = gradient[rest] / self.up[rest], -gradient[rest] / self.down[rest]
        self.biggest = max(side.max() for side in over)
        free = np.array([0])
        prices = self.prices(1.0)
        self.face = Face(
            self.Q,
            gradient,
            *prices,
            free,
            np.zeros(1),
            value,
            ridge=self.ridge,
            linear=self.c if settles else None,
        )

    def prices(self, share):
        return share * self.biggest * self.up, share * self.biggest * self.down

    def is_optimal(self, share, tol=1e-9):
        """By the definition: the gradient is at the price of its sign where x is not zero."""
        x = self.face.x
        gradient = self.c - self.Q @ x - self.ridge * x
        np.testing.assert_allclose(self.face.gradient, gradient, atol=tol)
        up, down = self.prices(share)
        high = np.where(x < 0, -down, up) + tol
        low = np.where(x > 0, up, -down) - tol
        return bool(((low <= gradient) & (gradient <= high)).all())


@example(seed=526, twins=True, rows=8, settles=False)  # two columns that are one enter together
@given(seed=SEEDS, twins=st.booleans(), rows=st.sampled_from([8, 40]), settles=st.booleans())
def test_it_moves_to_what_is_optimal(seed, twins, rows, settles):
    problem = Problem(seed, rows, twins, settles)
    for share in (0.7, 0.3, 0.5, 0.05):
        problem.face.move(np.zeros(W), *problem.prices(share))
        assert problem.is_optimal(share)


@example(seed=42, rows=8)
@given(seed=SEEDS, rows=st.sampled_from([8, 40]))
def test_no_face_holds_members_that_depend_on_each_other(seed, rows):
    problem = Problem(seed, rows, twins=True)
    for share in (0.7, 0.3, 0.05):
        problem.face.move(np.zeros(W), *problem.prices(share))
        face = problem.face.face
        square = (problem.Q + np.diag(problem.ridge))[np.ix_(face, face)]
        assert np.linalg.matrix_rank(square, hermitian=True) == len(face)


@given(seed=SEEDS, walked=st.booleans())
def test_what_has_settled_is_optimal_to_rounding_whatever_error_was_there(seed, walked):
    problem = Problem(seed, settles=True)
    face = problem.face
    for share in (0.7, 0.3, 0.5):
        (face.follow if walked else face.move)(np.zeros(W), *problem.prices(share))
        if walked:  # an error that a long walk may have gathered, which its gradient does not show
            face.values[:] *= 1 + 1e-7
        face.settle()
        assert problem.is_optimal(share, tol=1e-11 * problem.biggest)


@given(seed=SEEDS)
def test_a_leap_lands_where_the_walk_does(seed):
    one, other = Problem(seed), Problem(seed)
    shift = 0.1 * np.random.default_rng(seed).standard_normal(W)
    for problem in (one, other):
        problem.c = problem.c + shift
    assume(one.face.leap(shift, *one.prices(0.4)) is not None)
    other.face.follow(shift, *other.prices(0.4))
    np.testing.assert_allclose(one.face.x, other.face.x, atol=1e-10)
    assert one.is_optimal(0.4)


@given(seed=SEEDS, walked=st.booleans())
def test_a_leap_that_does_not_settle_has_not_moved(seed, walked):
    problem = Problem(seed)
    face = problem.face
    start = (face.follow if walked else face.move)(np.zeros(W), *problem.prices(0.8))
    assert start >= 0
    x, gradient = face.x, face.gradient.copy()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_quadratic_program, "_GUESSES", 1)
        changed = face.leap(np.zeros(W), *problem.prices(0.01))
    if changed is None:
        np.testing.assert_array_equal(face.x, x)
        np.testing.assert_array_equal(face.gradient, gradient)
        assert problem.is_optimal(0.8)
    face.follow(np.zeros(W), *problem.prices(0.01))
    assert problem.is_optimal(0.01)


def test_guesses_that_get_worse_say_that_the_leap_is_too_far(monkeypatch):
    monkeypatch.setattr(_quadratic_program, "_FEW", 0)
    far = 0
    for seed in range(40):
        problem = Problem(seed)
        face, x = problem.face, problem.face.x
        if face.leap(np.zeros(W), *problem.prices(0.01)) is None and face.is_far:
            far += 1
            np.testing.assert_array_equal(face.x, x)
            monkeypatch.setattr(_quadratic_program, "_FEW", W)
            face.move(np.zeros(W), *problem.prices(0.9))
            assert problem.is_optimal(0.9) and not face.is_far
            monkeypatch.setattr(_quadratic_program, "_FEW", 0)
    assert far >= 3


def test_most_leaps_settle():
    done = [Problem(seed).face.leap(np.zeros(W), *Problem(seed).prices(0.5)) for seed in range(50)]
    assert sum(changed is not None for changed in done) >= 45


@given(seed=SEEDS)
def test_a_bordered_factor_solves_as_its_face_changes(seed):
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((20, W))
    Q, ridge = A.T @ A, rng.random(W)
    full = Q + np.diag(ridge)
    members = rng.permutation(W)[: rng.integers(0, 8)]
    factor = BorderedCholesky(Q, ridge, members, full[np.ix_(members, members)])
    for _ in range(6):
        leaving = members[rng.random(len(members)) < 0.3]
        entering = np.setdiff1d(np.arange(W), members)[:: rng.integers(2, 5)]
        factor.change(leaving, entering)
        members = rng.permutation(np.concatenate([np.setdiff1d(members, leaving), entering]))
        rhs = rng.standard_normal(len(members))
        x = factor.solve(members, rhs)
        np.testing.assert_allclose(full[np.ix_(members, members)] @ x, rhs, atol=1e-8)


def test_coordinates_that_depend_on_each_other_have_no_factor():
    Q = np.ones((2, 2))
    with pytest.raises(NumericalBreakdown):
        BorderedCholesky(Q, np.zeros(2), np.array([0, 1]), Q.copy(), 1e-9)
    BorderedCholesky(Q, np.ones(2), np.array([0, 1]), Q + np.eye(2), 1e-9)


def test_what_a_walk_has_barred_for_a_moment_may_enter_by_a_leap():
    problem = Problem(0)
    for j in range(1, W):
        problem.face._bar(j)
    assert problem.face.leap(np.zeros(W), *problem.prices(0.4)) is not None
    assert problem.face.size > 1 and problem.is_optimal(0.4)


def test_a_column_without_curvature_does_not_enter_an_empty_face():
    nothing = np.zeros(0)
    ones = np.ones(2)
    face = Face(np.diag([0.0, 1.0]), np.zeros(2), ones, ones, nothing.astype(int), nothing, nothing)
    face.follow(np.array([2.0, 3.0]), ones, ones)
    np.testing.assert_allclose(face.x, [0, 2])
