"""The Hessian that is computed by the rows that are read, against the dense product."""

import numpy as np
import pytest

from l1jax.linear.data._matrix import DenseMatrix
from l1jax.linear.data._sparse import SparseMatrix
from l1jax.linear.engines.active_set._curvature_gram import CurvatureGram

N, P = 50, 20
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, P)) * (RNG.random((N, P)) < 0.4)
WEIGHTS = RNG.normal(size=N)  # of any sign, as of a loss that is not convex
AT = np.array([3, 7, 0, 15, 9, 12])
ROWS, COLS = np.nonzero(X)
MATRICES = {"dense": DenseMatrix(X), "sparse": SparseMatrix(X[ROWS, COLS], ROWS, COLS, X.shape)}


@pytest.mark.parametrize("has_intercept", [False, True])
@pytest.mark.parametrize("name", MATRICES)
def test_rows_read_one_by_one_and_all_at_once_are_those_of_the_product(name, has_intercept):
    part = MATRICES[name].to_host().part_of(AT)
    full = np.column_stack([X[:, AT], np.ones((N, int(has_intercept)))])
    expected = full.T @ (WEIGHTS[:, None] * full)
    gram = CurvatureGram(part, WEIGHTS, len(AT), has_intercept)
    assert len(gram) == len(expected)
    np.testing.assert_allclose(gram.diagonal(), expected.diagonal(), atol=1e-12)
    np.testing.assert_allclose(gram[2], expected[2], atol=1e-12)
    np.testing.assert_allclose(gram[np.array([4, 2])], expected[[4, 2]], atol=1e-12)
    every = np.arange(len(expected))  # more than a third: all at once
    np.testing.assert_allclose(gram[every], expected, atol=1e-12)
