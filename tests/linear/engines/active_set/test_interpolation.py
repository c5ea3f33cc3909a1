"""Lines between solved strengths: certified, no longer than they may be, and nowhere they do not belong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

import l1jax
from l1jax.linear.engines._gradient_steps import Sequential
from l1jax.linear.engines.active_set import _quadratic_program, _working_set
from l1jax.linear.engines.active_set._group_least_squares import GroupSolver
from l1jax.linear.engines.active_set._interpolation import PathInterpolation
from l1jax.linear.engines.active_set._least_squares import LeastSquaresSolver
from l1jax.linear.engines.active_set._prox_newton import ProxNewtonSolver
from l1jax.linear.engines.active_set._quadratic_program import Face
from l1jax.linear.engines.active_set._row_shifts import RowShiftSolver
from l1jax.linear.results import _certified

N, P, L = 40, 60, 60
RNG = np.random.default_rng(11)
X = RNG.standard_normal((N, P)) + 0.7 * RNG.standard_normal((N, 1))
Y = X[:, :6] @ np.array([1.0, -1.0, 0.5, 0.2, 0.0, -0.3]) + RNG.standard_normal(N)
FREE = RNG.uniform(0.5, 2, P)
FREE[[4, 5]] = 0
FREE[[0, 20]] = np.inf
GROUPS = np.repeat(np.arange(15), 4)
FREE_GROUPS = np.full(15, 2.0)
FREE_GROUPS[3] = 0
LABELS = (Y > 0).astype(float)
COUNTS = np.round(np.exp(Y / 2))

# name: (penalty, loss, target, strengths that are solved at most at a tolerance of 1e-2 and 1e-4)
CASES = {
    "l1": (l1jax.L1(), l1jax.SquaredError(), Y, (0.5, 0.9)),
    "free": (l1jax.L1(weights=FREE), l1jax.SquaredError(), Y, (0.5, 0.9)),
    "elastic net": (l1jax.ElasticNet(l1_ratio=0.5), l1jax.SquaredError(), Y, (0.5, 0.9)),
    "nonnegative": (l1jax.NonNegativeL1(), l1jax.SquaredError(), Y, (0.5, 0.9)),
    "groups": (l1jax.GroupL1(groups=GROUPS), l1jax.SquaredError(), Y, (0.5, 0.9)),
    "free groups": (
        l1jax.GroupL1(groups=GROUPS, weights=FREE_GROUPS),
        l1jax.SquaredError(),
        Y,
        (0.5, 0.9),
    ),
    "sparse groups": (l1jax.SparseGroupL1(groups=GROUPS), l1jax.SquaredError(), Y, (0.5, 0.9)),
    "responses": (
        l1jax.GroupL1(groups=range(P)),
        l1jax.SquaredError(),
        np.stack([Y, Y[::-1]], axis=1),
        (0.5, 0.9),
    ),
    "logistic": (l1jax.L1(), l1jax.Logistic(), LABELS, (0.5, 1)),
    "logistic elastic net": (l1jax.ElasticNet(l1_ratio=0.5), l1jax.Logistic(), LABELS, (0.5, 0.9)),
    "poisson": (l1jax.NonNegativeL1(), l1jax.Poisson(), COUNTS, (0.5, 0.9)),
    "huber": (l1jax.L1(), l1jax.Huber(0.5), Y, (0.75, 1)),  # a path of many kinks
    # Where a loss bends, the gradient of a free feature is not zero between two solutions.
    "free poisson": (l1jax.L1(weights=FREE), l1jax.Poisson(), COUNTS, (1, 1)),
}


@pytest.fixture(autouse=True)
def no_help(monkeypatch):
    """The walk must do it all, and on some of the columns."""

    def help(*_, **__):
        raise AssertionError("the walk left something short of the tolerance")

    monkeypatch.setattr(Sequential, "run", help)
    monkeypatch.setattr(_working_set, "_ALL_COLUMNS", 0)
    monkeypatch.setattr(_working_set, "_NEXT_IN_LINE", 4)


@pytest.fixture
def solved(monkeypatch):
    """The strengths that were solved."""
    lams: list[float] = []
    for mover in (LeastSquaresSolver, GroupSolver, ProxNewtonSolver, RowShiftSolver):

        def to(self, lam, move=mover.to):
            lams.append(lam)
            return move(self, lam)

        monkeypatch.setattr(mover, "to", to)
    return lams


@pytest.mark.parametrize("kind", ["dense", "sparse"])
@pytest.mark.parametrize("name", CASES)
def test_what_lies_on_lines_is_as_good_as_was_asked_for(solved, name, kind):
    pen, loss, y, most = CASES[name]
    data = scipy.sparse.csc_array(X) if kind == "sparse" else X
    options = {"loss": loss, "n_lams": L, "lam_min_ratio": 0.02, "standardize": True}
    exact = l1jax.path(data, y, pen, **options)
    assert len(set(solved)) == L and (np.asarray(exact.relative_gaps) <= 1e-11).all()
    excess = {}
    for tol, share in zip((1e-2, 1e-4), most, strict=True):
        solved.clear()
        path = l1jax.path(data, y, pen, tol=tol, **options)
        assert len(set(solved)) <= share * L
        assert (np.asarray(path.status) == l1jax.Status.CONVERGED).all()
        gaps, objectives = np.asarray(path.gaps), np.asarray(path.objectives)
        assert (np.asarray(path.relative_gaps) <= tol).all()
        above = objectives - np.asarray(exact.objectives)
        assert (above <= gaps + 1e-12 * objectives).all()  # what the certificate says
        assert (above >= -1e-12 * objectives).all()
        excess[tol] = above.max()
        coefs = np.asarray(path.coefs)
        assert not np.signbit(coefs[coefs == 0]).any()
        never = ~np.asarray(exact.coefs).reshape(L, P, -1).any(axis=(0, 2))
        assert not coefs[:, never].any()
    if most[0] < 1:  # and no better than it had to be: the test above can fail
        assert excess[1e-2] > 1e-10 * objectives[0]


def test_every_strength_is_solved_unless_a_tolerance_is_given(solved):
    path = l1jax.path(X, Y, l1jax.L1(), n_lams=L)
    assert sorted(set(solved), reverse=True) == [float(lam) for lam in path.lams]


def test_lines_that_are_too_long_are_walked_again(monkeypatch, solved):
    monkeypatch.setattr(PathInterpolation, "_gap", lambda *_: 0.0)
    path = l1jax.path(X, Y, l1jax.L1(), n_lams=L, tol=1e-6)
    assert (np.asarray(path.status) == l1jax.Status.CONVERGED).all()
    assert (np.asarray(path.relative_gaps) <= 1e-6).all()
    assert len(set(solved)) > L / 2


@pytest.mark.parametrize("name", ["l1", "elastic net"])
def test_a_leap_too_far_goes_by_halves(monkeypatch, name):
    pen = CASES[name][0]
    rng = np.random.default_rng(3)
    A = rng.standard_normal((150, P)) @ (np.eye(P) + rng.standard_normal((P, P)) / 6)
    y = A[:, :20] @ rng.standard_normal(20) + 3 * rng.standard_normal(150)
    exact = l1jax.path(A, y, pen, lams=np.geomspace(9, 0.03, 40))
    moves, leap = [], Face.leap

    def noted(self, shift, up, down):
        changed = leap(self, shift, up, down)
        moves.append((up[0], changed, self.is_far))
        return changed

    monkeypatch.setattr(Face, "leap", noted)
    monkeypatch.setattr(_quadratic_program, "_FEW", 0)
    path = l1jax.path(A, y, pen, lams=[9, 0.03], engine="covariance")
    np.testing.assert_allclose(path.coefs[-1], exact.coefs[-1], atol=1e-9)
    first = next(i for i, (_, changed, is_far) in enumerate(moves) if changed is None and is_far)
    share = float(pen.with_strength(1.0).linear_form((P,)).up[0])
    assert moves[first + 1][0] == pytest.approx(share * (9 + 0.03) / 2)
    assert moves[-1][0] == pytest.approx(share * 0.03)


@pytest.mark.parametrize("name", ["l1", "groups", "poisson"])
@pytest.mark.filterwarnings("error")
def test_equal_strengths_end_no_lines(solved, name):
    pen, loss, y, _ = CASES[name]
    top = float(l1jax.lambda_max(X, y, pen, loss=loss))
    grid = top * np.geomspace(1, 0.05, 40)
    lams = np.concatenate([4 * [grid[0]], grid, 5 * [grid[-1]]])
    path = l1jax.path(X, y, pen, lams=lams, loss=loss, tol=1e-2)
    assert (np.asarray(path.relative_gaps) <= 1e-2).all()
    assert len(solved) <= 30


@pytest.mark.parametrize("tol", [None, 1e-3])
def test_groups_may_lie_in_any_order(monkeypatch, tol):
    monkeypatch.setattr(_working_set, "_ALL_COLUMNS", P)  # all columns are asked for at once
    order = np.random.default_rng(0).permutation(P)
    options = {"n_lams": 12, "tol": tol}
    sorted_, mixed = (
        l1jax.path(X[:, at], Y, l1jax.GroupL1(groups=GROUPS[at]), **options)
        for at in (np.arange(P), order)
    )
    np.testing.assert_allclose(np.asarray(sorted_.coefs)[:, order], mixed.coefs, atol=1e-6)


def test_derivatives_are_of_solutions():
    def last(y, **options):
        return l1jax.path(X, y, l1jax.L1(), n_lams=20, **options).coefs.sum()

    exact, loose = (jax.grad(last)(jnp.asarray(Y), **kw) for kw in ({}, {"tol": 1e-2}))
    np.testing.assert_array_equal(exact, loose)


def test_a_path_with_knots_is_exact_at_any_tolerance():
    path = l1jax.path(X, Y, l1jax.L1(), n_lams=20, engine="homotopy", tol=1e-2)
    assert (np.asarray(path.relative_gaps) <= 1e-12).all()


@pytest.mark.parametrize("name", ["l1", "groups", "poisson"])
def test_lines_to_no_strength_at_all(name):
    pen, loss, y, _ = CASES[name]
    if name == "groups":
        pen = l1jax.GroupL1(groups=GROUPS[:12])
    lams = [1.0, 0.5, 0.2, 0.1, 0.05, 0.0]
    path = l1jax.path(X[:, :12], y, pen, lams=lams, loss=loss, tol=1e-2)
    assert (np.asarray(path.relative_gaps) <= 1e-2).all()


@pytest.mark.float32
def test_single_precision_has_lines_too(monkeypatch, solved):
    lanes = _certified._lanes

    def unknown(problem, pen, inputs, *rest, **options):
        # Rounded coefficients have other gradients than lines between those that were seen.
        assert inputs[-1].descent is None
        return lanes(problem, pen, inputs, *rest, **options)

    monkeypatch.setattr(_certified, "_lanes", unknown)
    path = l1jax.path(X.astype(np.float32), Y, l1jax.L1(), n_lams=L, tol=1e-2, engine="working_set")
    assert path.coefs.dtype == jnp.float32 and len(set(solved)) < L / 2
    assert (np.asarray(path.relative_gaps) <= 1e-2).all()


def test_a_loose_path_is_taken_up_again_at_a_tighter_tolerance():
    loose = l1jax.path(X, Y, l1jax.L1(), n_lams=L, tol=1e-2)
    tight = l1jax.path(X, Y, l1jax.L1(), resume=loose, tol=1e-9)
    assert (np.asarray(tight.relative_gaps) <= 1e-9).all()


def test_a_line_is_feasible_and_its_gap_is_what_its_features_pay_too_much():
    lams = np.array([0.5, 0.4, 0.2])
    path = l1jax.path(X, Y, l1jax.L1(), lams=lams, fit_intercept=False, tol=0.1)
    coefs = np.asarray(path.coefs)
    np.testing.assert_allclose(coefs[1], coefs[0] + (coefs[2] - coefs[0]) / 3, atol=1e-12)
    inner = X.T @ (Y - X @ coefs[1]) / N
    assert np.abs(inner).max() <= lams[1] * (1 + 1e-12)
    gap = lams[1] * np.abs(coefs[1]).sum() - coefs[1] @ inner
    assert gap > 1e-6
    np.testing.assert_allclose(path.gaps[1], gap, rtol=1e-9)


def test_lines_are_as_long_as_their_gaps_allow():
    bridges = PathInterpolation(1e-3, by_log=False)
    bridges._learn(1, 0.0)
    assert bridges.length == 2
    bridges._learn(2, 1e-6)
    assert bridges.length == 4
    bridges._learn(4, 1e-3)  # just good enough: a little shorter is safe
    assert bridges.length == 3
    bridges._learn(3, np.inf)
    assert bridges.length == 1
    lengths = []
    for _ in range(60):  # what has told nothing of it gives hope
        bridges._learn(bridges.length, 0.0 if bridges.length == 1 else 1e-9)
        lengths.append(bridges.length)
    assert lengths[0] == 1 and lengths[-1] == 25
