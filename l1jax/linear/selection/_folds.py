"""Which rows are held out together: random folds, given ones, groups, time, a splitter of scikit-learn."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np

from ..._checks import check_number
from ...losses import Loss


class Split(NamedTuple):
    """The rows to fit and the rows to score, as masks (n,)."""

    train: np.ndarray
    test: np.ndarray


def splits(
    y: np.ndarray,
    loss: Loss,
    n_folds: Any,
    folds: Any,
    groups: Any,
    n_repeats: Any,
    seed: Any,
    weights: np.ndarray | None = None,
) -> list[Split]:
    """The splits that the arguments of `cross_validate` ask for; y is encoded."""
    n = len(y)
    n_repeats = int(check_number(n_repeats, "n_repeats", 1, whole=True))
    seed = int(check_number(seed, "seed", 0, whole=True))
    groups = None if groups is None else _one_per_row(groups, "groups", n)
    if folds is not None and n_repeats > 1:
        raise ValueError("n_repeats needs random folds: leave out folds, or pass a splitter alone.")
    if isinstance(folds, str):
        if folds != "time_series":
            raise ValueError(f'folds must be "time_series" where it is a word, got {folds!r}.')
        _refuse_groups(groups, folds)
        return time_series(n, check_n_folds(n_folds, n - 1, "rows less one"))
    if folds is not None and hasattr(folds, "split"):
        return _from_pairs(
            list(folds.split(np.zeros((n, 1)), y, groups)), n
        )  # it says what it lacks
    _refuse_groups(groups, folds)
    if isinstance(folds, int | np.integer):
        raise TypeError(
            f"folds says which rows go together: for {folds} random folds pass n_folds={folds}."
        )
    if folds is not None and _is_vector(folds):
        return _from_ids(_one_per_row(folds, "folds", n))
    if folds is not None:
        return _from_pairs(folds, n)
    if groups is None:
        n_folds = check_n_folds(n_folds, n, "rows")
    else:
        n_folds = check_n_folds(n_folds, len(np.unique(groups)), "groups")
    found = []
    labels = strata_labels(y, loss, weights)
    for repeat in range(n_repeats):
        if groups is None:
            ids = random_folds(n_folds, labels, seed + repeat)
        else:
            ids = grouped_folds(n_folds, groups, seed + repeat)
        found += _from_ids(ids)
    return found


def check_n_folds(n_folds: Any, most: int, what: str) -> int:
    n_folds = int(check_number(n_folds, "n_folds", 2, whole=True))
    if n_folds > most:
        raise ValueError(f"n_folds must be at most the number of {what}, {most}, got {n_folds}.")
    return n_folds


def _refuse_groups(groups: Any, folds: Any) -> None:
    if groups is not None and folds is not None:
        raise ValueError(
            "groups go with random folds or a splitter of scikit-learn: folds that are given say "
            "by themselves which rows are held out. Leave out one of the two."
        )


def strata_labels(y: np.ndarray, loss: Loss, weights: np.ndarray | None = None) -> np.ndarray:
    """Returns the stratum of each row, (n,): its class, or whether it has an event; rows of weight 0 apart."""
    labels = loss.strata(y).labels
    return labels if weights is None else np.where(weights > 0, labels, -1)


def check_splits(
    which: list[Split], y: np.ndarray, loss: Loss, weights: np.ndarray, given: str | None
) -> None:
    """Raises where some rows to fit or to score have no weight, or a class has no row left to fit.

    Without such a row a model gives the class probability 0: where it occurs, the deviance is infinite.
    `given`: the argument that the splits follow from, None if they are random.
    """
    counts, strata = weights > 0, loss.strata(y)
    in_stratum = (strata.membership > 0) & counts[:, None]
    totals = in_stratum.sum(axis=0)
    for i, split in enumerate(which):
        for rows, what in ((split.train, "fits"), (split.test, "holds out")):
            if not counts[rows].any():
                raise ValueError(f"folds: the rows that fold {i} {what} have no weight.")
        missing = np.flatnonzero((totals > 0) & ~in_stratum[split.train].any(axis=0))
        if len(missing):
            name, total = strata.names[missing[0]], int(totals[missing[0]])
            raise ValueError(f"folds: fold {i} leaves no {name} to fit. {_advice(total, given)}")


def _advice(total: int, given: str | None) -> str:
    if total == 1:
        return (
            "There is only one, which cannot be both fitted and held out: leave it out of the data, or add "
            "such rows."
        )
    if given is None:
        return "Pass another seed."
    if given != "folds":
        return "Take fewer folds, so that each leaves more rows, or merge rare classes."
    return f"Leave {given} out, and the {total} of them are in equal proportion in random folds."


def random_folds(n_folds: int, labels: np.ndarray, seed: int) -> np.ndarray:
    """The fold of each row, (n,): sizes differ by one at most, and so do the counts of each label."""
    n = len(labels)
    order = np.random.default_rng(seed).permutation(n)
    order = order[np.argsort(labels[order], kind="stable")]
    folds = np.empty(n, int)
    folds[order] = np.arange(n) % n_folds
    return folds


def grouped_folds(n_folds: int, groups: np.ndarray, seed: int) -> np.ndarray:
    """The fold of each row, where the rows of a group stay together.

    Groups in random order, large ones first, each go to the fold that is smallest so far.
    """
    _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    fold_of, filled = np.empty(len(sizes), int), np.zeros(n_folds, int)
    for g in order:
        fold_of[g] = filled.argmin()
        filled[fold_of[g]] += sizes[g]
    return fold_of[group]


def time_series(n: int, n_folds: int) -> list[Split]:
    """Each block of rows is scored by a fit of all rows before it; the first block is only fitted."""
    edges = np.linspace(0, n, n_folds + 2).astype(int)[1:]
    at = np.arange(n)
    return [Split(at < i, (at >= i) & (at < j)) for i, j in itertools.pairwise(edges)]


def _from_ids(folds: np.ndarray) -> list[Split]:
    ids = np.unique(folds)
    if len(ids) < 2:
        raise ValueError(f"folds must name at least two folds, got only {ids.tolist()}.")
    return [Split(folds != one, folds == one) for one in ids]


def _from_pairs(pairs: Any, n: int) -> list[Split]:
    try:
        pairs = [(train, test) for train, test in pairs]
    except (TypeError, ValueError):
        raise TypeError(
            "folds must be the fold of each row, (n,), pairs (train, test) of row numbers or masks, "
            f'a splitter with a method `split`, or "time_series"; got {pairs!r}.'
        ) from None
    found = [Split(_mask(train, n), _mask(test, n)) for train, test in pairs]
    for i, split in enumerate(found):
        if not split.train.any() or not split.test.any():
            raise ValueError(
                f"folds: pair {i} has no rows to {'score' if split.train.any() else 'fit'}."
            )
        if (split.train & split.test).any():
            at = int(np.flatnonzero(split.train & split.test)[0])
            raise ValueError(f"folds: pair {i} both fits and scores row {at}.")
    if not found:
        raise ValueError("folds holds no pairs (train, test).")
    return found


def _mask(rows: Any, n: int) -> np.ndarray:
    rows = np.asarray(rows)
    if rows.dtype == bool and rows.shape == (n,):
        return rows
    rows = rows if rows.size else np.zeros(0, int)
    if rows.ndim != 1 or rows.dtype.kind not in "iu" or ((rows < 0) | (rows >= n)).any():
        raise ValueError(
            f"folds: a pair must hold row numbers from 0 to {n - 1}, or masks of shape ({n},); got "
            f"{rows.dtype}{list(rows.shape)}."
        )
    mask = np.zeros(n, bool)
    mask[rows] = True
    return mask


def _is_vector(folds: Any) -> bool:
    """Whether it is one id per row, not pairs."""
    if isinstance(folds, list | tuple):
        return not any(isinstance(one, list | tuple | np.ndarray) for one in folds)
    return len(getattr(folds, "shape", ())) == 1


def _one_per_row(values: Any, name: str, n: int) -> np.ndarray:
    values = np.asarray(values)
    what = "the fold" if name == "folds" else "the group"
    if values.shape != (n,):
        raise ValueError(f"{name} must give {what} of each row, shape ({n},), got {values.shape}.")
    if values.dtype.kind == "f" and np.isnan(values).any():
        at = int(np.flatnonzero(np.isnan(values))[0])
        raise ValueError(f"{name} must give {what} of each row, got nan at row {at}.")
    return values
