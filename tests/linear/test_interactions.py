"""Strong heredity: an interaction is in only with both of its main effects; against CVXPY."""

import warnings

import cvxpy as cp
import numpy as np
import pandas as pd
import polars as pl
import pytest

import l1jax

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 5))
Y = X[:, 0] + X[:, 0] * X[:, 1] - 1.5 * X[:, 2] * X[:, 3] + 0.5 * RNG.normal(size=60)
DESIGN = l1jax.interactions(X)


@pytest.fixture(scope="module")
def path():
    pen = l1jax.OverlappingGroupL1(groups=DESIGN.groups)
    return l1jax.path(DESIGN.X, Y, pen, n_lams=8, lam_min_ratio=0.1, tol=1e-9)


@pytest.mark.slow
def test_no_interaction_is_in_without_both_of_its_main_effects(path):
    assert (path.relative_gaps <= 1e-9).all()
    main, products = path.coefs[:, :5] != 0, path.coefs[:, 5:] != 0
    assert products[2:].any(axis=1).all() and not products[:5].all(axis=1).any()
    for k, (i, j) in enumerate(DESIGN.pairs):
        assert (main[:, i] & main[:, j])[products[:, k]].all()
    # The lasso has interactions alone.
    lasso = l1jax.path(DESIGN.X, Y, l1jax.L1(), n_lams=15).coefs != 0
    assert any((lasso[:, 5 + k] & ~lasso[:, i]).any() for k, (i, _) in enumerate(DESIGN.pairs))


@pytest.mark.slow
def test_a_fit_is_the_group_lasso_of_latent_copies(path):
    fit, lam = path[4], path.lams[4]
    copies = [cp.Variable(len(group)) for group in DESIGN.groups]
    eta = sum(DESIGN.X[:, g] @ v for g, v in zip(DESIGN.groups, copies, strict=True))
    cost = sum(np.sqrt(len(g)) * cp.norm2(v) for g, v in zip(DESIGN.groups, copies, strict=True))
    rest = Y - eta - cp.Variable()
    problem = cp.Problem(cp.Minimize(cp.sum_squares(rest) / 120 + lam * cost))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it may be inaccurate: not every tolerance can be met
        problem.solve(
            solver="CLARABEL", **dict.fromkeys(("tol_gap_abs", "tol_gap_rel", "tol_feas"), 1e-13)
        )
    beta = np.zeros(15)
    for group, copy in zip(DESIGN.groups, copies, strict=True):
        beta[list(group)] += copy.value
    np.testing.assert_allclose(fit.coef, beta, atol=1e-5)
    assert fit.objective == pytest.approx(problem.value, abs=1e-8)


def test_pairs_are_those_asked_for_and_new_data_get_the_same_columns():
    design = l1jax.interactions(X, [(3, 1), (2, 2)])
    assert design.pairs == ((1, 3), (2, 2))
    assert design.groups[5:] == ((1, 3, 5), (2, 6))
    np.testing.assert_array_equal(design.X[:, 5], X[:, 1] * X[:, 3])
    np.testing.assert_array_equal(design.X[:, 6], X[:, 2] ** 2)
    again = l1jax.interactions(X[:3], design.pairs)
    np.testing.assert_array_equal(again.X, design.X[:3])


@pytest.mark.parametrize("table", [pd.DataFrame, pl.DataFrame])
def test_a_table_keeps_its_names(table):
    frame = table(dict(zip("abcde", X.T, strict=True)))
    design = l1jax.interactions(frame, [(0, 1), (2, 3)])
    assert list(design.X.columns) == [*"abcde", "a:b", "c:d"]
    np.testing.assert_array_equal(design.X.to_numpy(), l1jax.interactions(X, [(0, 1), (2, 3)]).X)


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ((X[0],), r"shape \(n, p\), got shape \(5,\)"),
        ((X, [(0, 5)]), r"from 0 to 4 each, got \[0, 5\]"),
        ((X, [(0, 1, 2)]), "two places"),
        ((X, [(0, 1), (1, 0)]), r"got \(0, 1\) twice"),
    ],
)
def test_pairs_that_are_none_are_refused(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        l1jax.interactions(*arguments)
