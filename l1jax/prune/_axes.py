"""Units: the indices of axes that must be removed together.

Each index of each axis of each value has a number. A rule of a primitive says which numbers are the same
unit (union-find, by connected components) and which are one of several others: where axes are merged or
split, an index of the long axis is gone if and only if that of one of the short axes is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy  # of which each part loads when it is used

from ._program import Value

Ids = np.ndarray


class Axes:
    """The numbers of all indices, and what relates them; `solve` turns numbers into units."""

    def __init__(self) -> None:
        self.count = 0
        self._ids: dict[Value, list[Ids]] = {}
        self._left: list[Ids] = []
        self._right: list[Ids] = []
        self._products: list[tuple[Ids, list[Ids]]] = []
        self._fixed: list[tuple[Ids, str]] = []

    def fresh(self, size: int) -> Ids:
        self.count += size
        return np.arange(self.count - size, self.count)

    def of(self, value: Value) -> list[Ids]:
        """The numbers of a value's indices, axis by axis."""
        if value not in self._ids:
            self._ids[value] = [self.fresh(size) for size in value.shape]
        return self._ids[value]

    def assign(self, value: Value, ids: Sequence[Ids]) -> None:
        """Gives a value numbers that others have; those that it has already are made the same."""
        if value in self._ids:
            for ours, theirs in zip(self._ids[value], ids, strict=True):
                self.equal(ours, theirs)
        else:
            self._ids[value] = list(ids)

    def equal(self, left: Ids, right: Ids) -> None:
        assert len(left) == len(right)
        if left is not right:
            self._left.append(left)
            self._right.append(right)

    def product(self, whole: Ids, factors: list[Ids]) -> None:
        """The whole axis is the factors, merged in row-major order."""
        longer = [ids for ids in factors if len(ids) != 1]
        for ids in factors:
            if len(ids) == 1:
                self.fix(ids, "")
        if len(longer) == 1:
            self.equal(whole, longer[0])
        elif longer:
            self._products.append((whole, longer))

    def fix(self, ids: Ids, why: str) -> None:
        """These units stay, whatever they hold; an empty reason where there is nothing to explain."""
        self._fixed.append((ids, why))

    def fix_all(self, value: Value, why: str) -> None:
        for ids in self.of(value):
            self.fix(ids, why)

    def solve(self) -> Units:
        return Units(self._ids, self.count, self._edges(), self._products, self._fixed)

    def _edges(self) -> tuple[Ids, Ids]:
        nothing = np.zeros(0, int)
        return np.concatenate([nothing, *self._left]), np.concatenate([nothing, *self._right])


class Units:
    """The units of a program, numbered from 0, and which of them may be removed."""

    def __init__(
        self,
        ids: dict[Value, list[Ids]],
        count: int,
        edges: tuple[Ids, Ids],
        products: list[tuple[Ids, list[Ids]]],
        fixed: list[tuple[Ids, str]],
    ):
        labels = np.zeros(0, int)
        self.count = 0
        if count:
            graph = scipy.sparse.coo_matrix(
                (np.ones(len(edges[0]), bool), edges), shape=(count, count)
            )
            self.count, labels = scipy.sparse.csgraph.connected_components(graph, directed=False)
        self._of = {value: [labels[numbers] for numbers in axes] for value, axes in ids.items()}
        self.products = [
            (labels[whole].reshape([len(f) for f in factors]), [labels[f] for f in factors])
            for whole, factors in products
        ]
        self.reasons: list[str] = [""]
        self.why = np.zeros(self.count, int)  # of each unit, the place of its reason
        self.candidate = np.ones(self.count, bool)
        for numbers, why in fixed:
            self.keep(labels[numbers], why)

    def of(self, value: Value) -> list[Ids]:
        """The units of a value's indices, axis by axis."""
        return self._of[value]

    def __contains__(self, value: Value) -> bool:
        return value in self._of

    def keep(self, units: Ids, why: str) -> None:
        """These units stay; the first reason is kept."""
        self.candidate[units] = False
        if not why:
            return
        if why not in self.reasons:
            self.reasons.append(why)
        first = units[self.why[units] == 0]
        self.why[first] = self.reasons.index(why)

    def removed(self) -> np.ndarray:
        """The largest set of candidates that can be removed: merged axes stay products of their factors."""
        return self._largest(self.candidate)

    def implied(self, known: np.ndarray, gone: np.ndarray) -> np.ndarray:
        """What is removed, given that of the known units those in `gone` are; the others follow, or stay."""
        return self._largest(np.where(known, gone, self.reached(known)))

    def _largest(self, start: np.ndarray) -> np.ndarray:
        gone = start.copy()
        while True:
            before = gone.sum()
            for whole, factors in self.products:
                _narrow(gone, whole, factors)
            if gone.sum() == before:
                return gone

    def reached(self, known: np.ndarray) -> np.ndarray:
        """The units whose removal follows from that of the known ones, through merged axes."""
        known = known.copy()
        while True:
            before = known.sum()
            for whole, factors in self.products:
                if known[whole].all():
                    for ids in factors:
                        known[ids] = True
                elif all(known[ids].all() for ids in factors):
                    known[whole] = True
            if known.sum() == before:
                return known

    def consistent(self, gone: np.ndarray) -> bool:
        """Whether every merged axis is the product of its factors after the removal."""
        return all(
            np.array_equal(_either(gone, factors, whole.shape), gone[whole])
            for whole, factors in self.products
        )


def _narrow(gone: np.ndarray, whole: np.ndarray, factors: list[Ids]) -> None:
    """A factor goes only if all of its entries go, an entry only if one of its factors goes."""
    entries = gone[whole]
    for axis, ids in enumerate(factors):
        others = tuple(k for k in range(whole.ndim) if k != axis)
        gone[ids[~entries.all(axis=others)]] = False
    gone[whole[~_either(gone, factors, whole.shape)]] = False


def _either(gone: np.ndarray, factors: list[Ids], shape: tuple[int, ...]) -> np.ndarray:
    """Which entries of a merged axis are gone because one of its factors is."""
    either = np.zeros(shape, bool)
    for axis, ids in enumerate(factors):
        either |= gone[ids].reshape([-1 if k == axis else 1 for k in range(len(shape))])
    return either
