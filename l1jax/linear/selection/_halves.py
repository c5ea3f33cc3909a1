"""Complementary pairs: random halves of the rows that have no row in common."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..._checks import check_number
from ...losses import Loss


def complementary_pairs(
    y: np.ndarray, loss: Loss, weights: np.ndarray, n_pairs: Any, seed: Any
) -> np.ndarray:
    """Returns the rows of each half as masks (2 n_pairs, n); those of a pair follow each other.

    Of m rows with a weight above 0 each holds ⌊m/2⌋. Rows of each class, or with an event, are in equal
    numbers in both, up to one. `y` is encoded.
    """
    n_pairs = int(check_number(n_pairs, "n_pairs", 1, whole=True))
    rng = np.random.default_rng(int(check_number(seed, "seed", 0, whole=True)))
    rows = np.flatnonzero(weights > 0)
    if len(rows) < 2:
        raise ValueError(
            f"X must have at least two rows with a sample_weight above 0, to halve them; got {len(rows)}."
        )
    _, stratum, sizes = np.unique(
        loss.strata(y).labels[rows], return_inverse=True, return_counts=True
    )
    # The row that an odd number leaves out is one of the largest stratum, the last.
    place = np.argsort(np.argsort(sizes, kind="stable"))[stratum]
    half = len(rows) // 2
    halves = np.zeros((2 * n_pairs, len(weights)), bool)
    for pair in range(n_pairs):
        order = rng.permutation(len(rows))
        order = rows[order[np.argsort(place[order], kind="stable")]]
        halves[2 * pair, order[: 2 * half : 2]] = True
        halves[2 * pair + 1, order[1 : 2 * half : 2]] = True
    _check(halves, y, loss, rows)
    return halves


def _check(halves: np.ndarray, y: np.ndarray, loss: Loss, rows: np.ndarray) -> None:
    """Raises where a half lacks rows of a class, or events."""
    strata = loss.strata(y)
    is_of = strata.membership > 0
    totals = is_of[rows].sum(axis=0)
    missing = np.flatnonzero((totals > 0) & (halves.astype(int) @ is_of == 0).any(axis=0))
    if len(missing):
        name, total = strata.names[missing[0]], int(totals[missing[0]])
        raise ValueError(
            f"y must hold enough {name} for both halves of the rows, got {total}: add such rows, leave them "
            "out, or merge rare classes."
        )
