"""Interpolation between solved λ: certified, no longer than it may be, and nowhere it does not belong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

import l1jax
from l1jax.linear.engines.active_set import _least_squares
from l1jax.linear.engines.active_set._group_least_squares import GroupSolver
from l1jax.linear.engines.active_set._interpolation import PathInterpolation
from l1jax.linear.engines.active_set._least_squares import LeastSquaresSolver
from l1jax.linear.engines.active_set._options import OPTIONS
from l1jax.linear.engines.active_set._prox_newton import ProxNewtonSolver
from l1jax.linear.engines.active_set._row_shifts import RowShiftSolver
from l1jax.linear.results import _certified

pytestmark = pytest.mark.usefixtures("no_help", "small_working_sets")
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
CLASSES = np.digitize(Y, [-1.0, 1.0]).astype(float)

# name: (penalty, loss, target, fraction of the λ solved at most at a tolerance of 1e-2 and 1e-4)
CASES = {
    "l1": (l1jax.L1(), l1jax.SquaredError(), Y, (0.5, 0.9)),
    "unpenalised": (l1jax.L1(weights=FREE), l1jax.SquaredError(), Y, (0.5, 0.9)),
    "elastic net": (l1jax.ElasticNet(l1_ratio=0.5), l1jax.SquaredError(), Y, (0.5, 0.9)),
    "nonnegative": (l1jax.NonNegativeL1(), l1jax.SquaredError(), Y, (0.5, 0.9)),
    "groups": (l1jax.GroupL1(groups=GROUPS), l1jax.SquaredError(), Y, (0.5, 0.9)),
    "unpenalised groups": (
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
    "huber": (l1jax.L1(), l1jax.Huber(0.5), Y, (0.75, 1)),  # of many knots
    "multinomial": (l1jax.L1(), l1jax.Multinomial(), CLASSES, (0.5, 1)),
    # The gradient of an unpenalised feature is not zero between two solutions of such a loss.
    "unpenalised poisson": (l1jax.L1(weights=FREE), l1jax.Poisson(), COUNTS, (1, 1)),
}
# Of sparse data, what each of the four solvers takes.
SPARSE = ["unpenalised", "unpenalised groups", "logistic elastic net", "huber"]


@pytest.fixture
def solved(monkeypatch):
    """The λ that were solved."""
    lams: list[float] = []
    for solver in (LeastSquaresSolver, GroupSolver, ProxNewtonSolver, RowShiftSolver):

        def to(self, lam, solve=solver.to):
            lams.append(lam)
            return solve(self, lam)

        monkeypatch.setattr(solver, "to", to)
    return lams


@pytest.mark.parametrize(
    ("kind", "name"), [("dense", name) for name in CASES] + [("sparse", name) for name in SPARSE]
)
@pytest.mark.slow
def test_interpolated_fits_meet_the_tolerance(solved, name, kind):
    pen, loss, y, most = CASES[name]
    data = scipy.sparse.csc_array(X) if kind == "sparse" else X
    options = {"loss": loss, "n_lams": L, "lam_min_ratio": 0.02, "standardize": True}
    exact = l1jax.path(data, y, pen, **options)
    assert len(set(solved)) == L and (np.asarray(exact.relative_gaps) <= 1e-11).all()
    largest = {}
    for tol, fraction in zip((1e-2, 1e-4), most, strict=True):
        solved.clear()
        path = l1jax.path(data, y, pen, tol=tol, **options)
        assert len(set(solved)) <= fraction * L
        assert (np.asarray(path.status) == l1jax.Status.CONVERGED).all()
        gaps, objectives = np.asarray(path.gaps), np.asarray(path.objectives)
        assert (np.asarray(path.relative_gaps) <= tol).all()
        above = objectives - np.asarray(exact.objectives)
        assert (above <= gaps + 1e-12 * objectives).all()  # what the certificate says
        assert (above >= -1e-12 * objectives).all()
        largest[tol] = above.max()
        coefs = np.asarray(path.coefs)
        assert not np.signbit(coefs[coefs == 0]).any()
        never = ~np.asarray(exact.coefs).reshape(L, P, -1).any(axis=(0, 2))
        assert not coefs[:, never].any()
    if most[0] < 1:  # and no better than it had to be: the test above can fail
        assert largest[1e-2] > 1e-10 * objectives[0]


@pytest.mark.parametrize("name", ["logistic", "multinomial", "poisson"])
def test_newton_steps_end_where_the_gap_is_small_enough(solved, name):
    pen, loss, y, _ = CASES[name]
    options = {"loss": loss, "n_lams": 3, "lam_min_ratio": 0.02}  # too far apart for lines
    exact = l1jax.path(X, y, pen, **options)
    solved.clear()
    path = l1jax.path(X, y, pen, tol=1e-2, **options)
    assert len(set(solved)) == 3
    assert path.num_steps.sum() < exact.num_steps.sum()
    assert 1e-10 < path.relative_gaps.max() <= 1e-2


@pytest.mark.fast
def test_every_lam_is_solved_unless_a_tolerance_is_given(solved):
    path = l1jax.path(X, Y, l1jax.L1(), n_lams=L)
    assert sorted(set(solved), reverse=True) == [float(lam) for lam in path.lams]


def test_interpolated_fits_short_of_the_tolerance_are_solved(monkeypatch, solved):
    monkeypatch.setattr(PathInterpolation, "_gap", lambda *_: 0.0)
    path = l1jax.path(X, Y, l1jax.L1(), n_lams=L, tol=1e-6)
    assert (np.asarray(path.status) == l1jax.Status.CONVERGED).all()
    assert (np.asarray(path.relative_gaps) <= 1e-6).all()
    assert len(set(solved)) > L / 2


@pytest.mark.parametrize("name", ["l1", "elastic net"])
def test_guesses_that_diverge_go_by_way_of_the_middle(monkeypatch, name):
    pen = CASES[name][0]
    rng = np.random.default_rng(3)
    A = rng.standard_normal((150, P)) @ (np.eye(P) + rng.standard_normal((P, P)) / 6)
    y = A[:, :20] @ rng.standard_normal(20) + 3 * rng.standard_normal(150)
    exact = l1jax.path(A, y, pen, lams=np.geomspace(9, 0.03, 40))
    solves, primal_dual = [], _least_squares.primal_dual

    def noted(program, shift, weights):
        outcome = primal_dual(program, shift, weights)
        solves.append((weights[0][0], outcome.diverged))
        return outcome

    monkeypatch.setattr(_least_squares, "primal_dual", noted)
    monkeypatch.setattr(OPTIONS, "min_divergence", 0)
    path = l1jax.path(A, y, pen, lams=[9, 0.03], engine="covariance")
    np.testing.assert_allclose(path.coefs[-1], exact.coefs[-1], atol=1e-9)
    first = next(i for i, (_, diverged) in enumerate(solves) if diverged)
    weight = float(pen.with_strength(1.0).linear_form((P,)).up[0])
    assert solves[first + 1][0] == pytest.approx(weight * (9 + 0.03) / 2)
    assert solves[-1][0] == pytest.approx(weight * 0.03)


@pytest.mark.parametrize("name", ["l1", "groups", "poisson"])
@pytest.mark.filterwarnings("error")
def test_interpolation_serves_repeated_lams(solved, name):
    pen, loss, y, _ = CASES[name]
    top = float(l1jax.lambda_max(X, y, pen, loss=loss))
    grid = top * np.geomspace(1, 0.05, 40)
    lams = np.concatenate([4 * [grid[0]], grid, 5 * [grid[-1]]])
    path = l1jax.path(X, y, pen, lams=lams, loss=loss, tol=1e-2)
    assert (np.asarray(path.relative_gaps) <= 1e-2).all()
    assert len(solved) <= 30


@pytest.mark.parametrize("tol", [None, 1e-3])
def test_groups_may_be_in_any_order(monkeypatch, tol):
    monkeypatch.setattr(OPTIONS, "max_columns", P)  # all columns are the working set
    order = np.random.default_rng(0).permutation(P)
    options = {"n_lams": 12, "tol": tol}
    sorted_, mixed = (
        l1jax.path(X[:, at], Y, l1jax.GroupL1(groups=GROUPS[at]), **options)
        for at in (np.arange(P), order)
    )
    np.testing.assert_allclose(np.asarray(sorted_.coefs)[:, order], mixed.coefs, atol=1e-6)


@pytest.mark.slow
def test_derivatives_are_of_solutions():
    def last(y, **options):
        return l1jax.path(X, y, l1jax.L1(), n_lams=20, **options).coefs.sum()

    exact, loose = (jax.grad(last)(jnp.asarray(Y), **kw) for kw in ({}, {"tol": 1e-2}))
    np.testing.assert_array_equal(exact, loose)


def test_a_path_with_knots_is_exact_at_any_tolerance():
    path = l1jax.path(X, Y, l1jax.L1(), n_lams=20, engine="homotopy", tol=1e-2)
    assert (np.asarray(path.relative_gaps) <= 1e-12).all()


@pytest.mark.parametrize("name", ["l1", "groups", "poisson"])
@pytest.mark.slow
def test_interpolation_may_end_at_lam_zero(name):
    pen, loss, y, _ = CASES[name]
    if name == "groups":
        pen = l1jax.GroupL1(groups=GROUPS[:12])
    lams = [1.0, 0.5, 0.2, 0.1, 0.05, 0.0]
    path = l1jax.path(X[:, :12], y, pen, lams=lams, loss=loss, tol=1e-2)
    assert (np.asarray(path.relative_gaps) <= 1e-2).all()


@pytest.mark.float32
def test_float32_paths_are_interpolated(monkeypatch, solved):
    lanes = _certified._lanes

    def unknown(problem, pen, inputs, *rest, **options):
        # The gradients of rounded coefficients are not on a line between those of the KKT checks.
        assert inputs[-1].neg_gradient is None
        return lanes(problem, pen, inputs, *rest, **options)

    monkeypatch.setattr(_certified, "_lanes", unknown)
    path = l1jax.path(X.astype(np.float32), Y, l1jax.L1(), n_lams=L, tol=1e-2, engine="working_set")
    assert path.coefs.dtype == jnp.float32 and len(set(solved)) < L / 2
    assert (np.asarray(path.relative_gaps) <= 1e-2).all()


def test_an_interpolated_path_is_resumed_at_a_tighter_tolerance():
    loose = l1jax.path(X, Y, l1jax.L1(), n_lams=L, tol=1e-2)
    tight = l1jax.path(X, Y, l1jax.L1(), resume=loose, tol=1e-9)
    assert (np.asarray(tight.relative_gaps) <= 1e-9).all()


def test_an_interpolated_fit_is_dual_feasible_and_its_gap_has_a_closed_form():
    lams = np.array([0.5, 0.4, 0.2])
    path = l1jax.path(X, Y, l1jax.L1(), lams=lams, fit_intercept=False, tol=0.1)
    coefs = np.asarray(path.coefs)
    np.testing.assert_allclose(coefs[1], coefs[0] + (coefs[2] - coefs[0]) / 3, atol=1e-12)
    inner = X.T @ (Y - X @ coefs[1]) / N
    assert np.abs(inner).max() <= lams[1] * (1 + 1e-12)
    gap = lams[1] * np.abs(coefs[1]).sum() - coefs[1] @ inner
    assert gap > 1e-6
    np.testing.assert_allclose(path.gaps[1], gap, rtol=1e-9)


def test_interpolation_is_as_long_as_its_gaps_allow():
    lines = PathInterpolation(1e-3, by_log=False)
    lines._adapt_length(1, 0.0)
    assert lines.length == 2
    lines._adapt_length(2, 1e-6)
    assert lines.length == 4
    lines._adapt_length(4, 1e-3)  # just good enough: the next is a little shorter
    assert lines.length == 3
    lines._adapt_length(3, np.inf)
    assert lines.length == 1
    lengths = []
    for _ in range(60):  # without a measurement the expected gap decays
        lines._adapt_length(lines.length, 0.0 if lines.length == 1 else 1e-9)
        lengths.append(lines.length)
    assert lengths[0] == 1 and lengths[-1] == 25
