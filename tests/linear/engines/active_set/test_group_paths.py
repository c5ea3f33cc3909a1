"""Paths with weights per group: against accelerated prox steps written here, on awkward groups."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

import l1jax
from l1jax.linear.engines.active_set import _group_least_squares
from l1jax.linear.engines.active_set._group_hessian import GramHessian, NormCurvature, RowHessian
from l1jax.linear.engines.active_set._group_newton import GroupNewton
from l1jax.linear.engines.active_set._group_weights import GroupWeights, Layout
from l1jax.linear.engines.active_set._options import OPTIONS

pytestmark = pytest.mark.usefixtures("no_help", "small_working_sets")
N, P, TALL = 40, 60, 150
RNG = np.random.default_rng(5)
IDS = RNG.permutation(np.repeat(np.arange(14), [5, 5, 5, 5, 5, 5, 5, 5, 1, 1, 2, 3, 6, 7]))
X_TALL = RNG.standard_normal((TALL, P)) * np.geomspace(0.3, 3, P) + 0.5
X_TALL[:, 7] = X_TALL[:, 3]  # a duplicate
X_TALL[:, 11] = 2.0  # says what the intercept says
TRUTH = np.where(np.isin(IDS, [0, 3, 8, 11]), RNG.standard_normal(P), 0)
TRUTH[11] = 0
Y_TALL = X_TALL @ TRUTH + 2 * RNG.standard_normal(TALL)
WEIGHTS = np.sqrt(np.bincount(IDS))
AWKWARD = WEIGHTS.copy()
AWKWARD[9], AWKWARD[[3, 12]] = 0, np.inf
SAMPLE_WEIGHT = RNG.uniform(0.2, 2, TALL)
DATA_OPTIONS = {
    "plain": {},
    "no intercept": {"fit_intercept": False},
    "everything": {"standardize": True, "sample_weight": SAMPLE_WEIGHT},
}


@pytest.fixture(autouse=True)
def rows_serve_wherever_they_are_fewer(monkeypatch):
    monkeypatch.setattr(OPTIONS, "row_ratio", 0)


def reference(X, y, lam, ids, weights, l1=0.0, *, fit_intercept=True, standardize=False,
              sample_weight=None):  # fmt: skip
    """Coefficients and intercept by accelerated prox steps with restarts."""
    s = np.ones(len(y)) if sample_weight is None else sample_weight[: len(y)]
    s = s / s.sum()
    mean = s @ X if fit_intercept else np.zeros(X.shape[1])
    level = s @ y if fit_intercept else np.zeros(y.shape[1:])
    scale = np.sqrt(s @ (X - s @ X) ** 2) if standardize else np.ones(X.shape[1])
    scale = np.where(scale > 1e-12, scale, 1)
    A, target = (X - mean) / scale, (y - level).reshape(len(y), -1)
    Q, C = A.T @ (s[:, None] * A), A.T @ (s[:, None] * target)
    step = 1 / np.linalg.eigvalsh(Q)[-1]
    norm_weight = (lam * np.where(np.isinf(weights), 0, weights))[ids][:, None]
    excluded = np.isinf(weights)[ids]

    def prox(z):
        z = np.sign(z) * np.maximum(np.abs(z) - step * lam * l1, 0)
        norms = np.sqrt(np.bincount(ids, (z**2).sum(axis=1)))[ids][:, None]
        z = z * np.maximum(1 - step * norm_weight / np.where(norms > 0, norms, 1), 0)
        return np.where(excluded[:, None], 0, z)

    b = ahead = np.zeros_like(C)
    momentum = 1.0
    for _ in range(30_000):
        new = prox(ahead - step * (Q @ ahead - C))
        if np.sum((ahead - new) * (new - b)) > 0:
            momentum, ahead = 1.0, b
            continue
        if np.abs(new - ahead).max() <= 1e-13 * max(np.abs(new).max(), 1e-3):
            break
        later = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        ahead, b, momentum = new + (momentum - 1) / later * (new - b), new, later
    coef = (b / scale[:, None]).reshape(-1, *y.shape[1:])
    return coef, level - mean @ coef


def agree(path, X, y, ids, weights, l1=0.0, **options):
    """Every fit certified, and some equal to the reference."""
    assert (np.asarray(path.status) == l1jax.Status.CONVERGED).all()
    assert (np.asarray(path.relative_gaps) <= 1e-10).all()
    coefs = np.asarray(path.coefs)
    assert not np.signbit(coefs[coefs == 0]).any()
    for i in (5, 14, len(path.lams) - 1):
        lam = float(path.lams[i])
        coef, intercept = reference(X, y, lam, ids, weights, l1, **options)
        # Duplicates, and an unpenalised constant column, are not unique: fitted values are.
        atol = 1e-6 * np.abs(coef).max()
        fitted = X @ coefs[i] + np.asarray(path.intercepts[i])
        np.testing.assert_allclose(fitted, X @ coef + intercept, atol=10 * atol)
        unique = np.setdiff1d(np.arange(P), [3, 7, 11])
        np.testing.assert_allclose(coefs[i][unique], coef[unique], atol=atol)


@pytest.mark.parametrize(
    ("n", "options"),
    [(N, "plain"), (N, "no intercept"), (N, "everything"), (TALL, "plain"), (TALL, "everything")],
)
@pytest.mark.parametrize(
    "weights", [WEIGHTS, AWKWARD], ids=["groups", "unpenalised and excluded groups"]
)
@pytest.mark.slow
def test_the_path_is_that_of_prox_steps(n, weights, options):
    X, y, given = X_TALL[:n], Y_TALL[:n], dict(DATA_OPTIONS[options])
    if "sample_weight" in given:
        given["sample_weight"] = given["sample_weight"][:n]
    pen = l1jax.GroupL1(groups=IDS, weights=weights)
    path = l1jax.path(X, y, pen, n_lams=20, lam_min_ratio=0.03, tol=1e-10, **given)
    agree(path, X, y, IDS, weights, **given)
    coefs = np.asarray(path.coefs)
    if weights is AWKWARD:
        assert (coefs[:, np.isin(IDS, [3, 12])] == 0).all() and coefs[:, IDS == 9].all()
    if options != "no intercept":
        assert (coefs[:, 11] == 0).all()


def test_a_block_extrapolates_from_the_one_before(monkeypatch):
    monkeypatch.setattr(OPTIONS, "min_candidates", P)
    monkeypatch.setattr(OPTIONS, "block_size", 1)

    def steps():
        pen = l1jax.GroupL1(groups=IDS, weights=WEIGHTS)
        path = l1jax.path(X_TALL[:N], Y_TALL[:N], pen, n_lams=100)
        return np.asarray(path.num_steps).sum()

    init, extrapolating = _group_least_squares.GroupSolver.__init__, steps()

    def without(self, path, working, at, lam):
        init(self, path, working, at._replace(previous=None), lam)

    monkeypatch.setattr(_group_least_squares.GroupSolver, "__init__", without)
    assert extrapolating < steps()


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_several_responses_are_solved_together(kind):
    X, y = X_TALL[:N], np.stack([Y_TALL[:N], X_TALL[:N, 5] + 0.1 * Y_TALL[:N], np.ones(N)], axis=1)
    ids = np.arange(P)
    data = scipy.sparse.csr_array(X) if kind == "sparse" else X
    pen = l1jax.GroupL1(groups=ids)
    path = l1jax.path(data, y, pen, n_lams=20, lam_min_ratio=0.03, tol=1e-10)
    agree(path, X, y, ids, np.ones(P))
    assert not np.asarray(path.coefs)[:, :, 2].any()


def test_several_responses_in_groups_with_weights():
    X, y = X_TALL, np.stack([Y_TALL, X_TALL[:, 5] + 0.1 * Y_TALL], axis=1)
    pen = l1jax.GroupL1(groups=IDS, weights=AWKWARD)
    path = l1jax.path(
        X, y, pen, n_lams=20, lam_min_ratio=0.03, tol=1e-10, **DATA_OPTIONS["everything"]
    )
    agree(path, X, y, IDS, AWKWARD, **DATA_OPTIONS["everything"])


@pytest.mark.slow
def test_features_leave_within_groups():
    X, y, ratio = X_TALL[:N], Y_TALL[:N], 0.4
    pen = l1jax.SparseGroupL1(groups=IDS, l1_ratio=ratio, weights=WEIGHTS)
    path = l1jax.path(X, y, pen, n_lams=20, lam_min_ratio=0.03, tol=1e-10)
    agree(path, X, y, IDS, (1 - ratio) * WEIGHTS, ratio)
    sizes, inside = np.bincount(IDS), np.bincount(IDS, np.asarray(path.coefs[5]) != 0)
    assert ((inside > 0) & (inside < sizes)).any()


@pytest.mark.slow
def test_one_fit_is_that_of_gradient_steps():
    X, y = X_TALL[:N], Y_TALL[:N]
    pen = l1jax.GroupL1(groups=IDS, weights=WEIGHTS)
    most = l1jax.lambda_max(X, y, pen)
    slow = l1jax.fit(X, y, pen.with_strength(0.3 * most), tol=1e-12, engine="parallel")
    fit = l1jax.fit(X, y, pen.with_strength(0.3 * most), tol=1e-12)
    assert fit.relative_gap <= 1e-12
    np.testing.assert_allclose(fit.coef, slow.coef, atol=1e-5)
    for lam in (most * 1.0000001, 2 * most):
        assert not jnp.any(l1jax.fit(X, y, pen.with_strength(lam), tol=1e-12).coef)


@pytest.mark.parametrize("seed", range(3))
def test_groups_that_are_copies_of_others_end_optimal(seed):
    """Their Hessian has no factor: prox steps of one group at a time replace Newton steps."""
    rng = np.random.default_rng(seed)
    half = rng.normal(size=(30, 15))
    X, y = np.hstack([half, half]), half[:, :3].sum(axis=1) + rng.normal(size=30)
    pen = l1jax.GroupL1(groups=np.arange(30) // 3)
    lam = 0.01 * float(l1jax.lambda_max(X, y, pen, standardize=True))
    fit = l1jax.fit(X, y, pen.with_strength(lam), standardize=True)
    beta = (np.asarray(fit.coef) * X.std(axis=0)).reshape(10, 3)
    neg_gradient = ((X - X.mean(axis=0)) / X.std(axis=0)).T @ (y - fit.predict(X)) / 30
    sizes, weight = np.linalg.norm(beta, axis=1, keepdims=True), lam * np.sqrt(3)
    neg_gradient, active = neg_gradient.reshape(10, 3), sizes[:, 0] > 0
    assert active.any()
    np.testing.assert_allclose(
        neg_gradient[active], weight * beta[active] / sizes[active], atol=1e-6 * weight
    )
    assert (np.linalg.norm(neg_gradient, axis=1) <= weight * (1 + 1e-6)).all()


def test_both_forms_of_the_hessian_solve_the_same_system():
    rng = np.random.default_rng(0)
    root, at = rng.standard_normal((30, 20)), np.array([0, 1, 2, 5, 6, 9, 11, 12])
    layout = Layout.of(np.array([0, 0, 0, 2, 2, 3, 4, 4]))
    for k in (1, 2):
        u = rng.standard_normal((8, k))
        u /= layout.norms(u)[layout.ids, None]
        curvature, quad = rng.uniform(0.5, 2, (2, 5))[:, layout.ids]
        residual = rng.standard_normal((8, k))
        dense = np.kron(root[at, :] @ root[at, :].T + np.diag(curvature + quad), np.eye(k))
        for g in range(4):
            one = np.where(layout.ids == g, np.sqrt(curvature), 0)[:, None] * u
            dense -= np.outer(one.ravel(), one.ravel())
        expected = np.linalg.solve(dense, residual.ravel()).reshape(8, k)
        norms, rows = NormCurvature(layout, u, curvature, quad), RowHessian(root)
        for form, is_exact in ((GramHessian(root @ root.T), True), (rows, True), (rows, False)):
            found = form.factorise(at, norms, 1e-10, is_exact)(residual)
            np.testing.assert_allclose(found, expected, atol=1e-7 if is_exact else 1e-4)


@pytest.mark.fast
def test_weights_of_groups():
    pen = l1jax.SparseGroupL1(groups=[4, 2, 4, 7], l1_ratio=0.5, weights=[2.0, 0.0, np.inf])
    weights = GroupWeights(pen, (4,))
    assert weights.excluded.tolist() == [False, False, False, True]
    assert not weights.unpenalised.any()
    assert weights.close_over_groups(np.array([0])).tolist() == [0, 2]
    # Weight 1 of the norm and ½ of each feature; a group of weight 0 has the latter alone.
    violation = weights.kkt_violation(np.array([0.6, 1.5, 0.0, 0.0]), 1.0, 1e-9)
    np.testing.assert_allclose(violation[:3], [0.2, 0.0, 0.2])


@pytest.fixture
def requested(monkeypatch):
    """Whether each factor by rows that was requested had to be exact."""
    requested = []
    factorise = RowHessian.factorise

    def noted(self, *arguments, is_exact):
        requested.append(is_exact)
        return factorise(self, *arguments, is_exact=is_exact)

    monkeypatch.setattr(RowHessian, "factorise", noted)
    return requested


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("of_x", "of_y"), [(2.0**140, 1.0), (1.0, 2.0**160), (2.0**-140, 2.0**70)])
def test_numbers_out_of_the_range_of_single_precision_are_solved(
    monkeypatch, requested, of_x, of_y
):
    def no_descent(_):
        raise AssertionError("a step was taken with what is not finite")

    pen = l1jax.GroupL1(groups=IDS, weights=WEIGHTS)
    X, y = X_TALL[:N], Y_TALL[:N]
    path = l1jax.path(X, y, pen, n_lams=5)
    assert requested and not any(requested)
    requested.clear()
    monkeypatch.setattr(GroupNewton, "_descend", no_descent)
    far = l1jax.path(of_x * X, of_y * y, pen, n_lams=5)  # powers of two change no digit
    assert requested[:2] == [False, True]
    np.testing.assert_allclose(of_x / of_y * np.asarray(far.coefs), path.coefs, atol=1e-9)
    assert (np.asarray(far.status) == l1jax.Status.CONVERGED).all()


def test_a_single_precision_factor_that_does_not_serve_gives_way_to_an_exact_one(
    monkeypatch, requested
):
    noted = RowHessian.factorise

    def useless(self, *arguments, is_exact):
        solve = noted(self, *arguments, is_exact=is_exact)
        return solve if is_exact else lambda residual: 1e-3 * solve(residual)

    monkeypatch.setattr(RowHessian, "factorise", useless)
    pen = l1jax.GroupL1(groups=IDS, weights=WEIGHTS)
    path = l1jax.path(X_TALL[:N], Y_TALL[:N], pen, n_lams=5)
    assert any(requested) and not all(requested)
    assert (np.asarray(path.relative_gaps) <= 1e-12).all()
