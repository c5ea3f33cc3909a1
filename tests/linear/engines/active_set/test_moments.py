"""Moments that are added up over blocks of rows are those of all rows."""

import numpy as np
import pytest

from l1jax.linear.engines.active_set._moments import Moments, MomentSums

RNG = np.random.default_rng(3)
N, P = 3000, 7
X, TARGET = RNG.normal(size=(N, P)) + 3, RNG.normal(size=N)
WEIGHTS = {
    "even": np.full(N, 1 / N),
    "uneven": RNG.uniform(size=N),
    "zero": (RNG.random(N) < 0.4) / N,
}
FOLDS = RNG.integers(0, 3, N)
PARTS = {
    "all": [np.ones(N, bool)],
    "folds": [fold == FOLDS for fold in range(3)],
    "runs": [np.arange(N) < 1000, np.arange(N) >= 1000],
    "none": [np.zeros(N, bool), np.arange(N) < 5],
}


def of_blocks(s, parts, shift, num_threads):
    with MomentSums(TARGET, s, parts, num_threads) as sums:
        for rows in (slice(0, 1400), slice(1400, 2800), slice(2800, N)):
            sums.add(rows, X[rows], shift)
    return sums.moments()


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("num_threads", [1, 4])
def test_moments_of_blocks_are_the_weighted_sums(weights, parts, num_threads, monkeypatch):
    monkeypatch.setattr("l1jax.linear.engines.active_set._moments._PART", 300 * P)  # many a block
    s, shift = WEIGHTS[weights], X[:10].mean(axis=0)
    found = of_blocks(s, PARTS[parts], shift, num_threads)
    z = np.column_stack([X - shift, TARGET])
    for one, part in zip(found, PARTS[parts], strict=True):
        # Sums of 3000 products of either sign, of rounding 1e-16 each.
        np.testing.assert_allclose(one.weight, s[part].sum(), rtol=1e-13)
        np.testing.assert_allclose(one.sums, s[part] @ z[part], atol=1e-11)
        wanted = np.einsum("n,nj,nk->jk", s[part], z[part], z[part])
        np.testing.assert_allclose(one.products, wanted, atol=1e-11)


def test_moments_of_blocks_are_those_of_the_array():
    s, shift = WEIGHTS["uneven"], X.mean(axis=0)
    (found,) = of_blocks(s, PARTS["all"], shift, 2)
    wanted = Moments.of(X - shift, TARGET, s)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-11)


def test_digits_are_kept_far_from_zero():
    """About a value of the data, a mean of 1e8 takes no digits of the variance."""
    far, s = X + 1e8, WEIGHTS["even"]
    with MomentSums(TARGET, s, PARTS["all"], 2) as sums:
        sums.add(slice(0, N), far, far[0])
    (found,) = sums.moments()
    # What is stored has a rounding of 1e-8.
    np.testing.assert_allclose(found.squares(centre=True)[:-1], X.var(axis=0), atol=1e-7)
