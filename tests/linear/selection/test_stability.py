"""Stability selection against scikit-learn's paths on the same halves, and bounds against numbers by hand."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from sklearn.linear_model import lasso_path

import l1jax
from l1jax.linear.engines._compiled_engine import Compiled
from l1jax.linear.selection import _stability, _subset_paths
from l1jax.linear.selection._error_bounds import complete, error_bound, largest_tail
from l1jax.linear.selection._halves import complementary_pairs

N, P = 41, 12  # an odd number of rows: one is in neither half
RNG = np.random.default_rng(3)
X = RNG.standard_normal((N, P)) * np.geomspace(0.5, 2, P) + 1
Y = X[:, :3] @ [1.0, -1.0, 0.5] + RNG.standard_normal(N)
LABELS = (np.median(Y) < Y).astype(float)
FEW = {"n_pairs": 4, "n_lams": 12, "lam_min_ratio": 0.05}


def first_to_enter(coefs, q, candidates=None):
    """The selection of one half at every strength, from coefficients (L, U), one loop at a time."""
    kept, selected = [], np.zeros(coefs.shape, bool)
    for at, row in enumerate(coefs):
        new = [j for j in np.flatnonzero(row) if j not in kept]
        if candidates is not None:
            new = [j for j in new if candidates[j]]
        kept += sorted(new, key=lambda j: -abs(row[j]))[: q - len(kept)]
        selected[at, [j for j in kept if row[j] != 0]] = True
        if len(kept) == q:
            selected[at:] = selected[at]
            break
    return selected


def lasso_of(rows, lams, standardize=False, weights=None):
    """The lasso on some of the rows by scikit-learn, (L, p): weights become rows times their roots."""
    s = np.ones(N) if weights is None else weights
    x, y, s = X[rows], Y[rows], s[rows] / s[rows].sum()
    x, y = x - s @ x, y - s @ y
    scale = np.sqrt(s @ x**2) if standardize else np.ones(P)
    root = np.sqrt(len(s) * s)
    coefs = lasso_path(root[:, None] * x / scale, root * y, alphas=lams, tol=1e-13, max_iter=10**6)[
        1
    ]
    return coefs.T / scale


@pytest.mark.core
@pytest.mark.fast
@pytest.mark.parametrize("q", [1, 4, P])
def test_probabilities_are_those_of_paths_of_scikit_learn_on_the_same_halves(q):
    found = l1jax.stability(X, Y, l1jax.L1(), q=q, **FEW)
    each = [first_to_enter(lasso_of(rows, found.lams), q) for rows in found.halves]
    np.testing.assert_array_equal(found.probabilities, np.mean(each, axis=0))
    np.testing.assert_array_equal(found.max_probabilities, np.mean(each, axis=0).max(axis=0))
    np.testing.assert_array_equal(found.num_selected, [one.any(axis=0).sum() for one in each])
    assert (found.statuses == l1jax.Status.CONVERGED).all() and found.relative_gaps.max() < 1e-12
    # No half has a feature above the first strength, and one has at the next.
    assert not found.probabilities[0].any() and found.probabilities[1].any()


def test_rows_of_weight_zero_are_in_no_half_and_a_half_is_standardised_by_its_rows():
    weights = np.where(np.arange(N) % 4, np.linspace(0.5, 2, N), 0)
    x, y = X.copy(), Y.copy()
    x[weights == 0], y[weights == 0] = 1e6, 1e9
    how = {"sample_weight": weights, "standardize": True}
    found = l1jax.stability(x, y, l1jax.L1(), q=5, **how, **FEW)
    assert not found.halves[:, weights == 0].any()
    each = [first_to_enter(lasso_of(rows, found.lams, True, weights), 5) for rows in found.halves]
    np.testing.assert_array_equal(found.probabilities, np.mean(each, axis=0))


@pytest.mark.slow
def test_unpenalised_features_are_always_in_and_no_candidates():
    weights = np.ones(P)
    weights[[2, 5]] = 0, np.inf
    x = X.copy()
    x[:, 7] = 3.0
    found = l1jax.stability(x, Y, l1jax.L1(weights=weights), q=3, **FEW)
    assert found.candidates.sum() == P - 3 and not found.candidates[[2, 5, 7]].any()
    assert (found.probabilities[:, 2] == 1).all() and not found.probabilities[:, [5, 7]].any()
    assert not found.selected[2] and found.num_selected.max() == 3
    assert found.max_false == pytest.approx(3**2 / (0.5 * (P - 3)))
    # The unpenalised column is taken off by least squares: the rest is a lasso of what is left.
    free, each = np.setdiff1d(np.arange(P), [2, 5, 7]), []
    for rows in found.halves:
        basis = np.column_stack([np.ones(rows.sum()), x[rows, 2]])
        off = np.eye(len(basis)) - basis @ np.linalg.pinv(basis)
        left = off @ x[rows][:, free], off @ Y[rows]
        each.append(first_to_enter(lasso_path(*left, alphas=found.lams, tol=1e-13)[1].T, 3))
    np.testing.assert_array_equal(found.probabilities[:, free], np.mean(each, axis=0))


def group_lasso(rows, lams, groups):
    """The group lasso on some of the rows by proximal gradient steps in NumPy: sizes of groups, (L, G)."""
    x, y = X[rows] - X[rows].mean(axis=0), Y[rows] - Y[rows].mean()
    n, out, b = len(y), [], np.zeros(P)
    step = n / np.linalg.norm(x, 2) ** 2
    roots = np.sqrt(np.bincount(groups))
    for lam in lams:
        for _ in range(3000):
            z = b - step * x.T @ (x @ b - y) / n
            norms = np.sqrt(np.bincount(groups, z**2))
            b = z * np.maximum(1 - step * lam * roots / np.maximum(norms, 1e-300), 0)[groups]
        sizes = np.bincount(groups, np.abs(b))
        out.append(np.where(sizes > 1e-12, sizes, 0))  # rounding at λmax
    return np.array(out)


def test_groups_are_selected_as_one():
    groups = np.arange(P) // 3
    names = np.array(["a", "b", "c", "d"])[groups]
    found = l1jax.stability(
        X, Y, l1jax.GroupL1(groups=names), q=2, n_pairs=2, n_lams=8, lam_min_ratio=0.2
    )
    each = [first_to_enter(group_lasso(rows, found.lams, groups), 2) for rows in found.halves]
    np.testing.assert_array_equal(found.probabilities, np.mean(each, axis=0))
    assert found.names == ("a", "b", "c", "d") and found.candidates.sum() == 4
    assert "groups at threshold" in str(found) and found.to_frame().index.name == "group"


def logistic_lasso(rows, labels, lams):
    """Logistic regression on some of the rows by proximal gradient steps in NumPy, (L, p).

    scikit-learn's saga stops where no coefficient moves, however far the intercept is.
    """
    x, y, out = X[rows] - X[rows].mean(axis=0), labels[rows], []
    z = np.column_stack([np.ones(len(x)), x])
    step, b = 4 * len(y) / np.linalg.norm(z, 2) ** 2, np.zeros(P + 1)
    for lam in lams:
        for _ in range(3000):
            b = b - step * z.T @ (1 / (1 + np.exp(-z @ b)) - y) / len(y)
            b[1:] = np.sign(b[1:]) * np.maximum(np.abs(b[1:]) - step * lam, 0)
        out.append(np.where(np.abs(b[1:]) > 1e-12, b[1:], 0))  # rounding at λmax
    return np.array(out)


def test_logistic_halves_hold_as_many_of_each_class():
    labels = (np.quantile(Y, 0.7) < Y).astype(float)
    found = l1jax.stability(
        X, labels, l1jax.L1(), loss=l1jax.Logistic(), q=4, n_pairs=3, n_lams=7, lam_min_ratio=0.3
    )
    per_class = np.stack([found.halves[:, labels == k].sum(axis=1) for k in (0, 1)])
    assert (np.abs(per_class[:, ::2] - per_class[:, 1::2]) <= 1).all()
    each = [first_to_enter(logistic_lasso(rows, labels, found.lams), 4) for rows in found.halves]
    np.testing.assert_array_equal(found.probabilities, np.mean(each, axis=0))


def test_halves_are_disjoint_balanced_and_of_every_seed_others():
    y = np.repeat([0.0, 1.0, 2.0], [3, 8, 12])  # 23 rows: 11 in each half
    loss = l1jax.Multinomial(3)
    weights = np.ones(23)
    halves = complementary_pairs(loss.encode(y), loss, weights, 20, 0)
    assert (halves.sum(axis=1) == 11).all() and not (halves[::2] & halves[1::2]).any()
    counts = np.stack([halves[:, y == k].sum(axis=1) for k in range(3)])
    assert (np.abs(counts[:, ::2] - counts[:, 1::2]) <= 1).all()
    # Every row is in some half, and left out of some pair unless its class is small.
    assert halves.any(axis=0).all()
    np.testing.assert_array_equal(halves, complementary_pairs(loss.encode(y), loss, weights, 20, 0))
    other = complementary_pairs(loss.encode(y), loss, weights, 20, 1)
    assert not any((half == other).all(axis=1).any() for half in halves)


# R package stabs 0.6, stabsel_parameters(cutoff = 0.6, q = 1 ... 10, p = 100, assumption = "r-concave"): its
# optimiser stops within 1e-4 of the ends of intervals as short as 0.03.
STABS = [0.006971364, 0.03342845, 0.08691176, 0.1637231, 0.2605329]
STABS += [0.3820466, 0.5295188, 0.7042719, 0.9077127, 1.141338]


def test_r_concave_bounds_are_those_of_stabs():
    ours = [error_bound(q, 0.6, 100, 50, "r-concave") for q in range(1, 11)]
    np.testing.assert_allclose(ours, STABS, rtol=4e-3)
    np.testing.assert_allclose(ours[3:], STABS[3:], rtol=5e-6)
    assert (np.array(ours) >= STABS).all()  # theirs are points of a maximum
    # Its tests: optimal_q(p = 200, cutoff = 0.6, PFER = 0.2), optimal_cutoff(p = 200, q = 7, PFER = 0.2).
    assert complete(0.6, None, 0.2, 200, 50, "r-concave") == (0.6, 6)
    assert complete(None, 7, 0.2, 200, 50, "r-concave") == (0.62, 7)
    assert error_bound(7, 0.62, 200, 50, "r-concave") == pytest.approx(0.196, abs=5e-4)
    assert error_bound(7, 0.61, 200, 50, "r-concave") == pytest.approx(0.219, abs=5e-4)


@pytest.mark.parametrize("r", [-1 / 2, -1 / 4])
def test_no_r_concave_law_has_a_larger_tail(r):
    """f is r-concave where f^r is convex: random convex sequences, cut off anywhere, of any mean."""
    rng, most = np.random.default_rng(0), 12
    means, tails = [], []
    for _ in range(4000):
        kinks = rng.exponential(size=most) * (rng.random(most) < rng.choice([0.1, 0.5]))
        slopes = np.cumsum(np.append(rng.exponential(3) * rng.choice([0.1, 1, 5]), kinks))[:most]
        convex = np.append(0, np.cumsum(slopes)) + 10 ** rng.uniform(-3, 1)
        law = convex ** (1 / r) * (np.arange(most + 1) <= rng.integers(1, most + 1))
        law /= law.sum()
        means.append(law @ np.arange(most + 1))
        tails.append(np.cumsum(law[::-1])[::-1])
    means, tails = np.array(means), np.array(tails)
    close = []
    for mean in (0.3, 0.8, 1.4):
        within = (means <= mean) & (means >= 0.9 * mean)
        for least in range(int(2 * mean) + 2, most + 1):
            bound = largest_tail(mean, least, most, r)
            assert tails[within, least].max() <= bound * (1 + 1e-9)
            close.append(tails[within, least].max() / bound)
    assert max(close) > 0.8  # laws come near to it


def test_the_largest_tail_is_attained_by_a_law_of_that_mean():
    mean, least, most, r = 0.5, 7, 12, -1 / 2
    best, i = 0.0, np.arange(most + 1)
    for k in range(2, most):
        for a in np.geomspace(1e-2, 20, 8000):
            law = np.where(i <= k, (a + i) ** (1 / r), 0.0)
            law *= (k + 1 - mean) / (law @ (k + 1 - i))
            law[k + 1] = 1 - law.sum()
            # r-concave: no more at the end than the law itself would have.
            if 0 <= law[k + 1] <= law[0] * ((a + k + 1) / a) ** (1 / r):
                assert law @ i == pytest.approx(mean)
                best = max(best, law[least:].sum())
    assert largest_tail(mean, least, most, r) == pytest.approx(best, rel=4e-3)
    assert largest_tail(mean, least, most, r) >= best


def test_two_of_three_determine_the_third():
    # q²/((2π − 1)p) by hand: 5²/(0.5·100) = 0.5, 7²/(0.5·100) = 0.98, 8²/(0.5·100) = 1.28.
    assert error_bound(5, 0.75, 100, 50) == 0.5
    assert complete(0.75, None, 1.0, 100, 50, "none") == (0.75, 7)
    assert complete(None, None, None, 100, 50, "none") == (0.75, 7)
    assert complete(None, None, 1.28, 100, 50, "none") == (0.75, 8)
    assert complete(None, 5, None, 100, 50, "none") == (0.75, 5)
    assert complete(0.9, None, None, 100, 50, "none") == (0.9, 8)  # 64/80 = 0.8, 81/80 > 1
    # (1 + q²/(p max_false))/2 = 0.745, up to the next of 2B = 100 frequencies.
    assert complete(None, 7, 1.0, 100, 50, "none") == (0.75, 7)
    assert complete(None, 7, 1.0, 100, 5, "none") == (0.8, 7)
    # Under r-concavity more are allowed, and the bound holds of what was found but not of one more.
    _, q = complete(0.75, None, 1.0, 100, 50, "r-concave")
    assert q > 7
    bounds = [error_bound(k, 0.75, 100, 50, "r-concave") for k in (q, q + 1)]
    assert bounds[0] <= 1 < bounds[1]


def test_false_selections_are_no_more_than_the_bound_says():
    rng, n, p, active = np.random.default_rng(11), 40, 75, 3
    false, true, bound = 0, 0, 0.0
    for seed in range(8):
        x = rng.standard_normal((n, p))
        y = 2 * x[:, :active].sum(axis=1) + rng.standard_normal(n)
        found = l1jax.stability(
            x, y, l1jax.L1(), threshold=0.6, max_false=2, n_pairs=5, n_lams=12, lam_min_ratio=0.2,
            seed=seed,
        )  # fmt: skip
        false += found.selected[active:].sum()
        true += found.selected[:active].sum()
        bound += found.max_false
    assert 1.5 * 8 < bound <= 2 * 8 and false <= bound
    assert true > 0.8 * active * 8  # and it finds what there is


def test_numbers_of_a_loss_per_row_go_with_their_rows():
    how = {"q": 3, "n_pairs": 1, "lams": [0.3, 0.1]}
    one = l1jax.stability(X, Y, l1jax.L1(), loss=l1jax.Huber(0.7), **how)
    each = l1jax.stability(X, Y, l1jax.L1(), loss=l1jax.Huber(np.full(N, 0.7)), **how)
    np.testing.assert_array_equal(one.probabilities, each.probabilities)
    assert one.probabilities.any()


def test_given_strengths_are_the_grid():
    found = l1jax.stability(X, Y, l1jax.L1(), q=3, lams=[0.1, 0.4, 0.2], n_pairs=2)
    np.testing.assert_array_equal(found.lams, [0.4, 0.2, 0.1])
    each = [first_to_enter(lasso_of(rows, found.lams), 3) for rows in found.halves]
    np.testing.assert_array_equal(found.probabilities, np.mean(each, axis=0))


def test_another_threshold_assumption_or_range_needs_no_other_fit():
    found = l1jax.stability(X, Y, l1jax.L1(), q=3, **FEW)
    largest = found.probabilities.max(axis=0)
    level = float(largest.max())  # which is reached, and selected
    assert level > 0.5
    stricter = found.at(level, assumption="r-concave")
    np.testing.assert_array_equal(stricter.selected, largest == level)
    assert stricter.max_false == error_bound(3, level, P, 4, "r-concave")
    assert found.at().max_false == found.max_false == pytest.approx(9 / (0.5 * P))
    part = found.between(found.lams[5], found.lams[2])
    np.testing.assert_array_equal(part.lams, found.lams[2:6])
    np.testing.assert_array_equal(part.max_probabilities, found.probabilities[2:6].max(axis=0))
    with pytest.raises(ValueError, match="no strength lies between 5 and 6: the grid goes from"):
        found.between(5, 6)
    with pytest.raises(ValueError, match=r"threshold must lie in \(0.5, 1\], got 0.5"):
        found.at(0.5)


def test_a_path_is_followed_no_further_than_it_is_needed(monkeypatch):
    lengths, path = [], _subset_paths.SubsetPaths.path

    def watched(*args):
        found = path(*args)
        lengths.append(len(found))
        return found

    monkeypatch.setattr(_subset_paths.SubsetPaths, "path", watched)
    found = l1jax.stability(X, Y, l1jax.L1(), q=2, n_lams=60, n_pairs=3)
    assert max(lengths[1:]) <= 60 and np.median(lengths) < 40
    monkeypatch.setattr(_stability, "_MORE", 100)
    whole = l1jax.stability(X, Y, l1jax.L1(), q=2, n_lams=60, n_pairs=3)
    assert lengths[-1] == 60
    np.testing.assert_array_equal(found.probabilities, whole.probabilities)
    np.testing.assert_array_equal(found.statuses, whole.statuses)
    monkeypatch.setattr(_stability, "_MORE", 0.1)  # too few at first: the rest is done again
    again = l1jax.stability(X, Y, l1jax.L1(), q=2, n_lams=60, n_pairs=3)
    np.testing.assert_array_equal(found.probabilities, again.probabilities)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["parallel", "compiled"])
def test_lanes_of_one_batch_select_as_halves_one_by_one(engine, monkeypatch):
    how = {"q": 3, "n_pairs": 2, "n_lams": 5, "lam_min_ratio": 0.2, "sample_weight": np.arange(N)}
    apart = l1jax.stability(X, Y, l1jax.L1(), **how)
    monkeypatch.setattr(Compiled, "fits_in_one_batch", True)
    size = X.astype(float).nbytes
    monkeypatch.setattr(_subset_paths, "_AT_ONCE", 3 * size)  # four halves: two batches of two
    shapes, solve = [], _subset_paths.SubsetPaths.in_one_batch
    monkeypatch.setattr(
        _subset_paths.SubsetPaths,
        "in_one_batch",
        lambda *args: shapes.append(args[2].shape) or solve(*args),
    )
    together = l1jax.stability(X, Y, l1jax.L1(), engine=engine, **how)
    assert shapes == [(2, N), (2, N)]
    np.testing.assert_array_equal(together.probabilities, apart.probabilities)
    np.testing.assert_array_equal(together.num_selected, apart.num_selected)
    assert (together.statuses == l1jax.Status.CONVERGED).all()
    assert together.relative_gaps.max() <= 1e-6


def test_a_sparse_matrix_is_halved_by_weights():
    x = np.where(np.abs(X - 1) > 1.2, X, 0)
    how = {"q": 3, "n_pairs": 2, "n_lams": 6, "lam_min_ratio": 0.2}
    found = l1jax.stability(scipy.sparse.csr_array(x), Y, l1jax.L1(), **how)
    dense = l1jax.stability(x, Y, l1jax.L1(), **how)
    np.testing.assert_array_equal(found.probabilities, dense.probabilities)
    np.testing.assert_allclose(found.lams, dense.lams, rtol=1e-12)


@pytest.mark.float32
def test_float32_selects_as_float64():
    how = {"q": 3, "n_pairs": 3, "n_lams": 8, "lam_min_ratio": 0.2}
    found = l1jax.stability(jnp.asarray(X, jnp.float32), Y.astype(np.float32), l1jax.L1(), **how)
    wanted = l1jax.stability(X, Y, l1jax.L1(), **how)
    assert found.lams.dtype == np.float32 and wanted.lams.dtype == np.float64
    # At the first strength, where one enters, it may be in by rounding.
    np.testing.assert_allclose(found.probabilities[1:], wanted.probabilities[1:])
    assert (found.statuses == l1jax.Status.CONVERGED).all()


@pytest.mark.parametrize("n", [2, 3, 5])
def test_few_rows_are_halved_too(n):
    found = l1jax.stability(X[:n], Y[:n], l1jax.L1(), q=2, n_pairs=3, n_lams=5)
    assert (found.halves.sum(axis=1) == n // 2).all() and found.num_selected.max() <= 2
    if n < 4:  # one row and an intercept: nothing is left to explain
        assert not found.probabilities.any()
    constant = l1jax.stability(X[:n], np.ones(n), l1jax.L1(), q=2, n_pairs=3, n_lams=5)
    assert not constant.probabilities.any() and not constant.selected.any()


def test_several_responses_and_events():
    both = np.column_stack([Y, X[:, 3] + Y[::-1]])
    pen = l1jax.GroupL1(groups=np.arange(P))  # a group holds all responses of its feature
    found = l1jax.stability(X, both, pen, q=4, n_pairs=2, n_lams=6, lam_min_ratio=0.2)
    assert found.probabilities.shape == (6, P) and found.names[:2] == ("x0", "x1")
    each = [l1jax.path(X[rows], both[rows], pen, lams=found.lams) for rows in found.halves]
    sizes = [np.abs(path.coefs).max(axis=2) for path in each]
    each = [first_to_enter(one, 4) for one in sizes]
    np.testing.assert_array_equal(found.probabilities, np.mean(each, axis=0))
    times = np.column_stack([np.exp(-Y), np.arange(N) % 3 > 0])
    found = l1jax.stability(
        X, times, l1jax.L1(), loss=l1jax.Cox(), q=3, n_pairs=2, n_lams=5, lam_min_ratio=0.4
    )
    events = found.halves[:, times[:, 1] > 0].sum(axis=1)
    assert (np.abs(events[::2] - events[1::2]) <= 1).all()
    how = {"loss": l1jax.Cox(), "lams": found.lams}
    each = [l1jax.path(X[rows], times[rows], l1jax.L1(), **how).coefs for rows in found.halves]
    each = [first_to_enter(np.asarray(one), 3) for one in each]
    np.testing.assert_array_equal(found.probabilities, np.mean(each, axis=0))


def test_fits_that_end_short_are_reported_and_warned_of_once():
    with pytest.warns(
        l1jax.ConvergenceWarning, match=r"of \d+ fits ended with MAX_STEPS"
    ) as caught:
        found = l1jax.stability(
            X, Y, l1jax.L1(), q=3, n_pairs=2, n_lams=4, lam_min_ratio=0.2, engine="sequential",
            max_steps=1, tol=1e-12,
        )  # fmt: skip
    assert len(caught) == 1 and (found.statuses == l1jax.Status.MAX_STEPS).any()
    assert found.relative_gaps.max() > 1e-12 and "halves are short of it" in str(found)


def test_ctrl_c_keeps_the_pairs_that_are_done(monkeypatch):
    calls, path = [], _subset_paths.SubsetPaths.path

    def stopped(*args):
        calls.append(args)
        if len(calls) > 5:
            raise KeyboardInterrupt
        return path(*args)

    monkeypatch.setattr(_subset_paths.SubsetPaths, "path", stopped)
    monkeypatch.setattr(_stability, "_MORE", 100)
    with pytest.warns(l1jax.ConvergenceWarning, match="INTERRUPTED. The other halves are not"):
        found = l1jax.stability(X, Y, l1jax.L1(), q=3, **FEW)
    assert found.num_pairs == 2 and "of 2 pairs" in str(found)
    each = [first_to_enter(lasso_of(rows, found.lams), 3) for rows in found.halves[:4]]
    np.testing.assert_array_equal(found.probabilities, np.mean(each, axis=0))
    assert found.at(assumption="r-concave").max_false == error_bound(3, 0.75, P, 2, "r-concave")
    calls.extend([None] * 5)
    with pytest.raises(KeyboardInterrupt):
        l1jax.stability(X, Y, l1jax.L1(), q=3, **FEW)


def test_results_are_tables_frames_and_files():
    frame = pd.DataFrame(X, columns=[f"f{j}" for j in range(P)])
    found = l1jax.stability(frame, Y, l1jax.L1(), q=3, **FEW)
    best = int(np.argmax(found.max_probabilities))
    assert found.names_selected == tuple(f"f{j}" for j in np.flatnonzero(found.selected))
    lines = str(found).splitlines()
    assert lines[0].startswith(f"StabilitySelection: {found.selected.sum()} of {P} features")
    assert f"at most {9 / (0.5 * P):.3g} (assumption: none)" in lines[1]
    assert lines[3].split()[0] == f"f{best}" and "<table>" in found._repr_html_()
    assert len(str(found.summary()).splitlines()) == 3 + (found.max_probabilities > 0).sum()
    table = found.to_frame()
    assert table.index[0] == f"f{best}" and table.probability.is_monotonic_decreasing
    assert set(table.index[table.selected]) == set(found.names_selected)
    by_lam = found.to_frame("probabilities")
    np.testing.assert_array_equal(by_lam[f"f{best}"], found.probabilities[:, best])
    with pytest.raises(ValueError, match="kind must be .features. or .probabilities., got 'both'"):
        found.to_frame("both")
    file = io.BytesIO()
    found.save(file)
    file.seek(0)
    again = l1jax.load(file)
    assert jax.tree.structure(again) == jax.tree.structure(found) and str(again) == str(found)
    for one, other in zip(jax.tree.leaves(again), jax.tree.leaves(found), strict=True):
        np.testing.assert_array_equal(one, other)


BAD = [
    ({"threshold": 0.5}, ValueError, r"threshold must lie in \(0.5, 1\], got 0.5"),
    ({"threshold": 1.1}, ValueError, r"threshold must lie in \(0.5, 1\], got 1.1"),
    ({"q": 0}, ValueError, "q must be at least 1, got 0"),
    ({"q": 2.5}, TypeError, "q must be an integer, got"),
    ({"q": P + 1}, ValueError, "q must be at most the number of features or groups.*12, got 13"),
    ({"max_false": 0}, ValueError, "max_false must be above 0 and finite, got 0"),
    (
        {"max_false": 1e-3},
        ValueError,
        "max_false must be at least 0.167, the bound where one of 12",
    ),
    ({"q": 6, "max_false": 1}, ValueError, "at least 3, the bound at threshold=1 where q=6 of 12"),
    (
        {"threshold": 0.9, "q": 2, "max_false": 1},
        ValueError,
        "two of the three determine the third",
    ),
    ({"assumption": "unimodal"}, ValueError, r"assumption must be one of \['none', 'r-concave'\]"),
    ({"n_pairs": 0}, ValueError, "n_pairs must be at least 1, got 0"),
    ({"seed": -1}, ValueError, "seed must be at least 0, got -1"),
    ({"engine": "best"}, ValueError, "engine must be one of"),
    ({"sample_weight": np.eye(N)[0]}, ValueError, "at least two rows with a sample_weight above 0"),
]


@pytest.mark.parametrize(("options", "error", "sentence"), BAD)
def test_bad_arguments_are_refused_in_a_sentence(options, error, sentence):
    with pytest.raises(error, match=sentence):
        l1jax.stability(X, Y, l1jax.L1(), **options)


def test_data_that_cannot_be_halved_are_refused_in_a_sentence():
    labels = np.zeros(N)
    labels[3] = 1
    with pytest.raises(
        ValueError, match="y must hold enough rows of class 1 for both halves.*got 1"
    ):
        l1jax.stability(X, labels, l1jax.L1(), loss=l1jax.Logistic())
    with pytest.raises(ValueError, match="X must have a column that varies"):
        l1jax.stability(np.ones((N, 2)), Y, l1jax.L1())
    with pytest.raises(ValueError, match="Ridge has no strength at which everything is zero.*lams"):
        l1jax.stability(X, Y, l1jax.Ridge())
    with pytest.raises(TypeError, match="stability needs concrete data: under jit or grad use"):
        jax.jit(lambda x: l1jax.stability(x, Y, l1jax.L1()).probabilities)(X)
