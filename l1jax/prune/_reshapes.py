"""Which axes of a reshape belong together."""

from __future__ import annotations

import functools
from typing import NamedTuple


class Block(NamedTuple):
    """Axes before and after that hold the same entries in the same order."""

    before: tuple[int, ...]
    after: tuple[int, ...]


@functools.lru_cache(maxsize=4096)
def blocks(before: tuple[int, ...], after: tuple[int, ...]) -> tuple[Block, ...]:
    """The finest such blocks; axes of length 1 stand alone."""
    found = [Block((axis,), ()) for axis, size in enumerate(before) if size == 1]
    found += [Block((), (axis,)) for axis, size in enumerate(after) if size == 1]
    left = [axis for axis, size in enumerate(before) if size != 1]
    right = [axis for axis, size in enumerate(after) if size != 1]
    if 0 in before:
        return (*found, Block(tuple(left), tuple(right)))
    while left:
        ours, theirs = [left.pop(0)], [right.pop(0)]
        sizes = [before[ours[0]], after[theirs[0]]]
        while sizes[0] != sizes[1]:
            if sizes[0] < sizes[1]:
                ours.append(left.pop(0))
                sizes[0] *= before[ours[-1]]
            else:
                theirs.append(right.pop(0))
                sizes[1] *= after[theirs[-1]]
        found.append(Block(tuple(ours), tuple(theirs)))
    return tuple(found)
