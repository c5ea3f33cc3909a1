"""The certificates of a path: of what is returned, whoever takes the products with X."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from jax.experimental.sparse import BCOO

import l1jax
from l1jax.linear.data._inputs import read
from l1jax.linear.data._sparse import HostSparse
from l1jax.linear.data._zero_copy import aligned, zero_copy
from l1jax.linear.engines.active_set._least_squares import LeastSquares
from l1jax.linear.engines.active_set._options import OPTIONS
from l1jax.linear.host._columns import GramColumns
from l1jax.linear.host._path_solution import PathSolution
from l1jax.linear.model._prepare import prepare_inputs
from l1jax.linear.results import _certified

N, P, L = 30, 40, 7
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, P)) * (RNG.random((N, P)) < 0.3) * RNG.uniform(0.1, 3, P)
X[0] += 0.1  # no column is empty
Y = X[:, :3].sum(axis=1) + 0.3 * RNG.normal(size=N)
WEIGHTS = RNG.uniform(0.5, 2, N)


def problem_of(data, y=Y, loss=None, fit_intercept=True, standardize=True):
    pen, loss = l1jax.L1(), loss or l1jax.SquaredError()
    inputs = read(data, y, pen, loss, WEIGHTS, None, has_strength=False)
    return prepare_inputs(inputs, pen, loss, fit_intercept, standardize)


def report(problem, **known):
    """The fits at points that solve nothing, so that no certificate of theirs is zero."""
    rng = np.random.default_rng(1)
    betas = rng.normal(size=(L, P)) * (rng.random((L, P)) < 0.2)
    intercepts = np.zeros(L) if known else rng.normal(size=L)
    solution = PathSolution(betas, intercepts, np.zeros(L, int), L, [])
    if known.get("gradients"):
        columns = GramColumns(problem)
        columns.require(np.arange(P))
        neg_gradients = np.empty((L, P))
        columns.gradients(
            [(np.flatnonzero(beta), beta[beta != 0]) for beta in betas], neg_gradients
        )
        solution = solution._replace(neg_gradients=neg_gradients, columns=columns)
    return _certified.report_path(
        problem, l1jax.L1(), jnp.geomspace(1, 0.01, L), solution, 1e-6, None
    )


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.fast
def test_products_on_the_host_are_those_of_the_standardised_matrix(
    monkeypatch, fit_intercept, standardize
):
    monkeypatch.setattr("l1jax.linear.data._sparse._BLOCK", 7)  # the last block is smaller
    options = {"fit_intercept": fit_intercept, "standardize": standardize}
    host = problem_of(scipy.sparse.csr_array(X), **options).x.to_host()
    assert isinstance(host, HostSparse)
    assert len(host.blocks) == 6
    weights = WEIGHTS / WEIGHTS.sum()
    means = weights @ X
    scales = np.sqrt(weights @ (X - means) ** 2) if standardize else np.ones(P)
    dense = (X - means * fit_intercept) / scales
    residuals, values = RNG.normal(size=(N, 3)), RNG.normal(size=(2, 3))
    out = np.empty((3, P))
    host.rdot(residuals, out)
    np.testing.assert_allclose(out, residuals.T @ dense, atol=1e-12)
    np.testing.assert_allclose(
        host.part_of(np.array([5, 2])).dot(values), dense[:, [5, 2]] @ values
    )


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize(
    "loss", [l1jax.SquaredError(), l1jax.Logistic()], ids=lambda loss: str(loss)
)
def test_the_products_of_the_host_give_the_certificates_of_xla(loss, standardize):
    y = (Y > 0).astype(float) if isinstance(loss, l1jax.Logistic) else Y
    dense, sparse = (
        problem_of(data, y, loss, standardize=standardize)
        for data in (X, scipy.sparse.csc_array(X))
    )
    by_xla, by_host = report(dense), report(sparse)
    assert (np.asarray(by_xla.relative_gap) > 1e-3).all()
    for one, other in zip(jax.tree.leaves(by_host), jax.tree.leaves(by_xla), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("make", [np.asarray, scipy.sparse.csc_array])
def test_gradients_of_all_columns_are_those_of_the_returned_coefficients(make):
    problem = problem_of(make(X))
    known, alone = report(problem, gradients=True), report(problem, gradients=False)
    for one, other in zip(jax.tree.leaves(known), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


@pytest.fixture
def selective(monkeypatch):
    """An engine whose working sets are some of the columns, where all would be few enough."""
    monkeypatch.setattr(OPTIONS, "max_columns", 0)
    monkeypatch.setattr(OPTIONS, "min_candidates", 8)


def test_a_path_takes_no_product_with_a_sparse_matrix_but_its_kkt_checks(monkeypatch, selective):
    taken, checked = [], []
    rdot, gradients = HostSparse.rdot, LeastSquares.neg_gradients

    def counted(self, residuals, out):
        taken.append(residuals.shape[1])
        rdot(self, residuals, out)

    def counting(self, points, out):
        checked.append(len(points))
        gradients(self, points, out)

    monkeypatch.setattr(HostSparse, "rdot", counted)
    monkeypatch.setattr(LeastSquares, "neg_gradients", counting)
    path = l1jax.path(scipy.sparse.csc_array(X), Y, l1jax.L1(), n_lams=25)
    assert taken == checked and sum(checked) >= 25
    assert (np.asarray(path.relative_gaps) <= 1e-12).all()


@pytest.mark.parametrize("make", [np.asarray, scipy.sparse.csc_array])
@pytest.mark.slow
def test_unpenalised_features_are_certified(monkeypatch, selective, make):
    calls, kept, lanes = [], [], _certified._lanes

    def counted(*arguments, absorb):
        calls.append(absorb)
        kept.append(arguments)
        return lanes(*arguments, absorb=absorb)

    monkeypatch.setattr(_certified, "_lanes", counted)
    weights = np.ones(P)
    weights[[1, 20]] = 0
    pen, lams = l1jax.L1(weights=weights), [1e-2, 1e-3]
    # With such a tolerance all else would do, too: the objective itself is no more above the best.
    path = l1jax.path(make(X), Y, pen, lams=lams, standardize=True, tol=1.0)
    # A program that absorbs nothing would fail at the rounding of their gradients: it is not tried.
    assert calls == [True]
    assert np.isinf(lanes(*kept[0], absorb=False).gap).any()
    # Where all are penalised no program is needed.
    l1jax.path(make(X), Y, l1jax.L1(), lams=lams, standardize=True)
    assert calls == [True]
    assert (np.asarray(path.status) == l1jax.Status.CONVERGED).all()
    assert (np.asarray(path.relative_gaps) <= 1e-9).all()
    assert (np.asarray(path.coefs)[:, [1, 20]] != 0).all()


@pytest.mark.float32
@pytest.mark.parametrize("make", [np.asarray, scipy.sparse.csc_array])
def test_single_precision_is_certified_by_known_gradients_too(monkeypatch, selective, make):
    lanes = _certified._lanes

    def known(problem, pen, inputs, *rest, **options):
        assert inputs[-1].neg_gradient.dtype == jnp.float32
        return lanes(problem, pen, inputs, *rest, **options)

    monkeypatch.setattr(_certified, "_lanes", known)
    path = l1jax.path(make(X.astype(np.float32)), Y, l1jax.L1(), n_lams=25, engine="working_set")
    assert path.coefs.dtype == jnp.float32
    assert (np.asarray(path.relative_gaps) <= 1e-5).all()


def test_aligned_arrays_are_not_copied():
    array = aligned((300, 7), np.float64)
    array[:] = 1
    assert zero_copy(array).unsafe_buffer_pointer() == array.ctypes.data


def test_padding_entries_of_bcoo_are_ignored():
    dense = BCOO.fromdense(jnp.asarray(X))
    halves = (jnp.concatenate([dense.data / 2] * 2), jnp.concatenate([dense.indices] * 2))
    path = l1jax.path(BCOO(halves, shape=dense.shape), Y, l1jax.L1(), n_lams=4)
    np.testing.assert_allclose(path.coefs, l1jax.path(X, Y, l1jax.L1(), n_lams=4).coefs, atol=1e-9)


@pytest.mark.float32
@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e6 / 3])
def test_a_constant_response_is_zero_beside_others(value):
    y = np.stack([Y, np.full(N, value)], axis=1).astype(np.float32)
    path = l1jax.path(X.astype(np.float32), y, l1jax.GroupL1(groups=range(P)), n_lams=4)
    coefs = np.asarray(path.coefs)
    assert coefs[-1, :, 0].any() and not coefs[:, :, 1].any()


def test_a_constant_response_with_an_offset_is_what_the_offset_leaves():
    offset = 0.3 * X[:, 0] + 0.5
    path = l1jax.path(X, np.ones(N), l1jax.L1(), n_lams=4, offset=offset)
    alone = l1jax.path(X, 1 - offset, l1jax.L1(), n_lams=4)
    assert np.asarray(path.coefs).any()
    np.testing.assert_allclose(path.coefs, alone.coefs, atol=1e-12)
    np.testing.assert_allclose(path.intercepts, alone.intercepts, atol=1e-12)
