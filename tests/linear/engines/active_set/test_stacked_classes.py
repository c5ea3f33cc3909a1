"""Multinomial paths by active sets: against the optimality conditions, in SciPy, and dense columns."""

import numpy as np
import pytest
import scipy.sparse
from scipy.special import softmax

import l1jax
from l1jax.linear.data._matrix import DenseMatrix
from l1jax.linear.data._read_matrix import read_matrix
from l1jax.linear.engines.active_set._stacked_matrix import StackedMatrix

N, P = 80, 12
RNG = np.random.default_rng(3)
X = RNG.normal(size=(N, P))
X[:, 5] = X[:, 0]  # a tie
WEIGHTS = np.linspace(1, 2, N)


def _labels(k):
    return np.argmax(X[:, :k] + RNG.normal(size=(N, k)), axis=1)


@pytest.mark.core
@pytest.mark.parametrize("k", [2, 3, 4])
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("l1_ratio", [1.0, 0.6])
def test_every_strength_meets_the_optimality_conditions(k, fit_intercept, l1_ratio):
    y, s = _labels(k), WEIGHTS / WEIGHTS.sum()
    path = l1jax.path(
        X, y, l1jax.ElasticNet(l1_ratio=l1_ratio), loss=l1jax.Multinomial(), n_lams=8,
        lam_min_ratio=0.02, sample_weight=WEIGHTS, fit_intercept=fit_intercept, engine="working_set",
    )  # fmt: skip
    assert (np.asarray(path.status) == l1jax.Status.CONVERGED).all()
    assert path.n_nonzero[-1] > 2
    for lam, beta, intercept in zip(
        *map(np.asarray, (path.lams, path.coefs, path.intercepts)), strict=True
    ):
        residual = s[:, None] * (softmax(X @ beta + intercept, axis=1) - np.eye(k)[y])
        gradient = X.T @ residual + lam * (1 - l1_ratio) * beta
        weight = lam * l1_ratio
        off = np.where(
            beta != 0, abs(gradient + weight * np.sign(beta)), np.maximum(abs(gradient) - weight, 0)
        )
        # Solved to 1e-13 of the largest gradient, about 0.3.
        assert off.max() <= 1e-12
        assert abs(residual.sum(axis=0)).max() <= 1e-12 or not fit_intercept
        assert abs(intercept.sum()) <= 1e-12


@pytest.mark.slow
def test_weights_per_class_are_those_of_gradient_steps():
    y, weights = _labels(3), RNG.uniform(0.5, 2, size=(P, 3))
    weights[0, 0] = np.inf
    options = {"loss": l1jax.Multinomial(), "offset": RNG.normal(size=(N, 3)), "standardize": True}
    found, other = (
        l1jax.fit(X[:, :5], y, l1jax.L1(0.02, weights=weights[:5]), engine=engine, **options)
        for engine in ("working_set", "fista")
    )
    assert found.coef[0, 0] == 0
    assert float(found.relative_gap) < 1e-10
    assert (
        abs(float(found.objective - other.objective)) < 1e-6
    )  # the gap that gradient steps end at


def _rest(gradient, beta, weights, l1, ids):
    """How far each group is from the optimality conditions of Σ weight ‖B_g‖ + l1 ‖B_g‖₁."""
    off = []
    for g, weight in enumerate(weights):
        v, b = -gradient[ids == g], beta[ids == g]
        norm = np.linalg.norm(b)
        inside = np.maximum(abs(v) - l1, 0) * np.sign(v)
        if np.isinf(weight):
            off.append(norm)
        elif norm == 0:
            off.append(max(np.linalg.norm(inside) - weight, 0))
        else:
            at_zero = np.maximum(abs(v) - l1, 0)
            pulls = abs(v - weight * b / norm - l1 * np.sign(b))
            off.append(np.where(b != 0, pulls, at_zero).max())
    return max(off)


IDS = np.arange(P) // 2 % 5  # groups of two and of four features
WITH_FREE = np.array([1.0, 0.0, 2.0, np.inf, 1.0])
GROUPED = {
    "a feature each": (l1jax.GroupL1(groups=np.arange(P)), np.ones(P), 0.0, np.arange(P)),
    "free and excluded": (l1jax.GroupL1(groups=IDS, weights=WITH_FREE), WITH_FREE, 0.0, IDS),
    "sparse": (
        l1jax.SparseGroupL1(groups=IDS, weights=1.0, l1_ratio=0.5), np.full(5, 0.5), 0.5, IDS
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.usefixtures("no_help", "small_working_sets")
@pytest.mark.parametrize(
    ("name", "fit_intercept"), [*((name, True) for name in GROUPED), ("a feature each", False)]
)
def test_groups_meet_the_optimality_conditions_at_every_strength(name, fit_intercept):
    pen, weights, l1, ids = GROUPED[name]
    y, s = _labels(3), WEIGHTS / WEIGHTS.sum()
    path = l1jax.path(
        X, y, pen, loss=l1jax.Multinomial(), n_lams=6, lam_min_ratio=0.05, sample_weight=WEIGHTS,
        fit_intercept=fit_intercept, engine="working_set",
    )  # fmt: skip
    assert (np.asarray(path.status) == l1jax.Status.CONVERGED).all()
    assert path.n_nonzero[-1] > 4
    for lam, beta, intercept in zip(
        *map(np.asarray, (path.lams, path.coefs, path.intercepts)), strict=True
    ):
        residual = s[:, None] * (softmax(X @ beta + intercept, axis=1) - np.eye(3)[y])
        # Solved to 1e-13 of a weight, or where that is rounding to 1e-8 of it; weights are up to 0.4.
        assert _rest(X.T @ residual, beta, lam * weights, lam * l1, ids) <= 1e-9
        assert abs(residual.sum(axis=0)).max() <= 1e-9 or not fit_intercept
        free = np.isin(ids, np.flatnonzero(weights == 0))
        np.testing.assert_allclose(beta[free].sum(axis=1), 0, atol=1e-12)


@pytest.mark.usefixtures("no_help")
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_unpenalised_features_have_gradient_zero_and_sum_to_zero(fit_intercept):
    y, free = _labels(3), [1, 4]
    weights = np.where(np.isin(np.arange(P), free), 0.0, 1.0)
    path = l1jax.path(
        X, y, l1jax.L1(weights=weights), loss=l1jax.Multinomial(), n_lams=6, lam_min_ratio=0.05,
        fit_intercept=fit_intercept, engine="working_set",
    )  # fmt: skip
    assert (np.asarray(path.status) == l1jax.Status.CONVERGED).all()
    for lam, beta, intercept in zip(
        *map(np.asarray, (path.lams, path.coefs, path.intercepts)), strict=True
    ):
        residual = (softmax(X @ beta + intercept, axis=1) - np.eye(3)[y]) / N
        gradient, weight = X.T @ residual, lam * weights[:, None]
        off = np.where(
            beta != 0, abs(gradient + weight * np.sign(beta)), np.maximum(abs(gradient) - weight, 0)
        )
        assert off.max() <= 1e-12
        np.testing.assert_allclose(beta[free].sum(axis=1), 0, atol=1e-12)


@pytest.mark.usefixtures("no_help")
@pytest.mark.parametrize("loss", [l1jax.Logistic(), l1jax.Poisson()], ids=["logistic", "poisson"])
def test_groups_of_other_losses_meet_the_optimality_conditions(loss):
    """Of Poisson's there is no bound of the curvature."""
    y, weights, ids = (_labels(2) == 1).astype(float), np.array([1.0, 2.0, 2.0, np.inf, 1.0]), IDS
    pen = l1jax.GroupL1(groups=ids, weights=weights)
    path = l1jax.path(X, y, pen, loss=loss, n_lams=6, lam_min_ratio=0.05, engine="working_set")
    assert (np.asarray(path.status) == l1jax.Status.CONVERGED).all()
    for lam, beta, intercept in zip(
        *map(np.asarray, (path.lams, path.coefs, path.intercepts)), strict=True
    ):
        eta = X @ beta + intercept
        mean = np.exp(eta) if isinstance(loss, l1jax.Poisson) else 1 / (1 + np.exp(-eta))
        residual = (mean - y) / N
        assert _rest(X.T @ residual, beta, lam * weights, 0.0, ids) <= 1e-9
        assert abs(residual.sum()) <= 1e-9


@pytest.mark.usefixtures("no_help", "small_working_sets")
@pytest.mark.parametrize(
    ("by_group", "fit_intercept"), [(False, True), (False, False), (True, True)]
)
def test_responses_of_mixed_kinds_meet_the_optimality_conditions(by_group, fit_intercept):
    y = np.column_stack([3 + RNG.normal(size=N), _labels(2) == 1])
    weights = np.where(np.isin(np.arange(P), [1, 4]), 0.0, 1.0)
    groups = {"groups": range(P)} if by_group else {}
    pen = (l1jax.GroupL1 if by_group else l1jax.L1)(weights=weights, **groups)
    loss = l1jax.Mixed([l1jax.SquaredError(), l1jax.Logistic()])
    path = l1jax.path(
        X, y, pen, loss=loss, n_lams=6, lam_min_ratio=0.05, fit_intercept=fit_intercept,
        engine="working_set",
    )  # fmt: skip
    assert (np.asarray(path.status) == l1jax.Status.CONVERGED).all()
    for lam, beta, intercept in zip(
        *map(np.asarray, (path.lams, path.coefs, path.intercepts)), strict=True
    ):
        eta = X @ beta + intercept
        mean = np.column_stack([eta[:, 0], 1 / (1 + np.exp(-eta[:, 1]))])
        residual = (mean - y) / N
        assert abs(residual.sum(axis=0)).max() <= 1e-9 or not fit_intercept
        gradient = X.T @ residual
        if by_group:
            assert _rest(gradient, beta, lam * weights, 0.0, np.arange(P)) <= 1e-9
            continue
        bound = lam * weights[:, None]
        on = abs(gradient + bound * np.sign(beta))
        off = np.maximum(abs(gradient) - bound, 0)
        assert np.where(beta != 0, on, off).max() <= 1e-9


def test_limits_of_several_responses_are_named_as_what_is_not_served():
    y = X[:, :2] + RNG.normal(size=(N, 2))
    pen = l1jax.L1(0.1, lower=0.0)
    with pytest.raises(ValueError, match=r'engine="working_set" takes no limits \(lower, upper\)'):
        l1jax.fit(X, y, pen, engine="working_set")


@pytest.mark.usefixtures("no_help")
def test_more_features_than_rows_that_nearly_tie_are_solved():
    rng = np.random.default_rng(1)
    wide = np.repeat(rng.normal(size=(24, 15)), 6, axis=1) + 0.05 * rng.normal(size=(24, 90))
    y = np.argmax(wide[:, :18:6] + 0.3 * rng.normal(size=(24, 3)), axis=1)
    pen = l1jax.GroupL1(groups=np.arange(90))
    path = l1jax.path(wide, y, pen, loss=l1jax.Multinomial(), n_lams=6, lam_min_ratio=0.05)
    assert (np.asarray(path.relative_gaps) <= 1e-10).all()
    beta, intercept, lam = (
        np.asarray(part)[-1] for part in (path.coefs, path.intercepts, path.lams)
    )
    gradient = wide.T @ (softmax(wide @ beta + intercept, axis=1) - np.eye(3)[y]) / 24
    assert _rest(gradient, beta, np.full(90, lam), 0.0, np.arange(90)) <= 1e-9


@pytest.mark.parametrize("pen", [l1jax.L1(), l1jax.GroupL1(groups=np.arange(P))])
def test_a_loose_tolerance_takes_fewer_steps_and_is_met(pen):
    y = _labels(4)
    options = {"loss": l1jax.Multinomial(), "n_lams": 6, "lam_min_ratio": 0.05}
    exact, loose = (l1jax.path(X, y, pen, tol=tol, **options) for tol in (None, 1e-3))
    assert np.asarray(loose.num_steps).sum() < np.asarray(exact.num_steps).sum()
    assert np.asarray(loose.relative_gaps).max() <= 1e-3
    assert np.asarray(exact.relative_gaps).max() <= 1e-10


@pytest.mark.parametrize("is_sparse", [False, True])
@pytest.mark.parametrize("is_diagonal", [False, True])
def test_rows_of_the_curvature_are_those_of_the_matrix(is_sparse, is_diagonal):
    x, _ = read_matrix(scipy.sparse.csc_array(X) if is_sparse else X)
    matrix, at = StackedMatrix(x, 3, 2), np.array([37, 0, 8, 7, 20, 36])
    part = matrix.to_host().part_of(at)
    a, b = RNG.uniform(1, 2, (N, 3)), None if is_diagonal else RNG.normal(size=(N, 3))
    dense = part.dense().reshape(N, 3, 6)
    outer = 0 if b is None else b[:, :, None] * b[:, None, :]
    blocks = a[:, :, None] * np.eye(3) - outer
    expected = np.einsum("nki,nkl,nlj->ij", dense, blocks, dense)
    np.testing.assert_allclose(part.curvature_matrix(a, b), expected, atol=1e-11)
    rows = part.curvature_rows(a, b)
    np.testing.assert_allclose(rows.diagonal(), expected.diagonal(), atol=1e-11)
    np.testing.assert_allclose(rows[4], expected[4], atol=1e-11)
    np.testing.assert_allclose(rows[np.array([1, 4, 0])], expected[[1, 4, 0]], atol=1e-11)


def test_stacked_columns_are_those_of_a_kronecker_product():
    matrix, k = StackedMatrix(DenseMatrix(X), 3, 2), 3
    dense = np.kron(X, np.eye(k))
    dense = np.hstack([dense, np.kron(np.ones((N, 1)), np.eye(k))[:, :2]])
    assert matrix.shape == dense.shape
    np.testing.assert_array_equal(matrix.columns(np.arange(38)), dense)
    host, at = matrix.to_host(), np.array([37, 0, 8, 7, 20, 36])
    part, r = host.part_of(at), RNG.normal(size=(N * k, 2))
    np.testing.assert_array_equal(part.dense(), dense[:, at])
    np.testing.assert_allclose(part.dot(r[:6]), dense[:, at] @ r[:6], atol=1e-13)
    np.testing.assert_allclose(part.rdot(r[:, 0]), dense[:, at].T @ r[:, 0], atol=1e-12)
    weights = abs(r[:, 0])
    gram = dense[:, at].T * weights @ dense[:, at]
    np.testing.assert_allclose(part.gram(weights), gram, atol=1e-12)
    blocks = np.zeros((N * k, N * k))
    for i in range(0, N * k, k):
        a = RNG.normal(size=(k, k))
        blocks[i : i + k, i : i + k] = a + a.T
    curvature = dense[:, at].T @ blocks @ dense[:, at]
    np.testing.assert_allclose(part.curvature_gram(lambda u: blocks @ u), curvature, atol=1e-11)
    out = np.empty((2, 38))
    host.rdot(r, out)
    np.testing.assert_allclose(out, (dense.T @ r).T, atol=1e-12)
