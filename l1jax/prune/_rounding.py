"""Widths that are a multiple of something: some silent units stay."""

from __future__ import annotations

import numpy as np

from ._program import content_of
from ._removal import Removal


def round_up(removal: Removal, multiple: int) -> None:
    """Keeps as many units as make each axis of a parameter a multiple long, or as long as it was.

    Those that are kept are the least silent: of the largest parameters.
    """
    if isinstance(multiple, bool) or not isinstance(multiple, int | np.integer) or multiple < 1:
        raise ValueError(f"multiple_of must be an integer of at least 1, got {multiple!r}.")
    units, sizes = removal.units, _sizes(removal)
    why = f"widths are multiples of {multiple}"
    while True:
        gone, before = units.removed(), units.candidate.sum()
        for value in removal.roles.leaves:
            for ids in units.of(value):
                lacking = _lacking(len(ids), int((~gone[ids]).sum()), multiple)
                silent = ids[gone[ids] & units.candidate[ids]]
                if lacking and len(silent):
                    order = np.argsort(-sizes[silent], kind="stable")
                    units.keep(silent[order[:lacking]], why)
                    gone = units.removed()
        if units.candidate.sum() == before:
            return


def _lacking(full: int, kept: int, multiple: int) -> int:
    if kept == full or kept == 0:
        return 0
    return min(full, -(-kept // multiple) * multiple) - kept


def _sizes(removal: Removal) -> np.ndarray:
    """The squares of all parameters of each unit, summed."""
    sizes = np.zeros(removal.units.count)
    for value in removal.roles.leaves:
        content = content_of(value)
        if content is None:
            continue
        squares = np.square(content.astype(np.float64))
        for axis, ids in enumerate(removal.units.of(value)):
            others = tuple(k for k in range(value.ndim) if k != axis)
            np.add.at(sizes, ids, squares.sum(axis=others))
    return sizes
