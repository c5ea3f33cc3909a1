"""Multinomial paths by active sets: against the optimality conditions, in SciPy, and dense columns."""

import numpy as np
import pytest
from scipy.special import softmax

import l1jax
from l1jax.linear.engines.active_set._stacked_classes import _StackedMatrix

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


def test_stacked_columns_are_those_of_a_kronecker_product():
    matrix, k = _StackedMatrix(X, 3, 2), 3
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
