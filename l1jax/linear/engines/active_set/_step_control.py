"""How far the next step on the grid goes, where solves may fail."""

from __future__ import annotations

import numpy as np

from ._options import OPTIONS

_FIRST = 2  # λ of the first block, where these are solved one by one
_FEW = 2  # solutions that lines may lose
_LONGEST = 1000  # as long as there are λ


class StepControl:
    """A block of λ at a time, until a solve fails: then one λ, or a fraction of the way to it.

    A step that fails is followed by one of half its length; two in a row that succeed, by one of
    twice their length.
    """

    def __init__(self, interpolates: bool):
        """`interpolates`: in a block, not every λ is a step of its own."""
        self.interpolates = interpolates
        self.is_block = True
        self.length = _LONGEST if interpolates else _FIRST  # of a block, in λ of the grid
        self.was_good = True  # whether all of the last block met the KKT conditions
        self.fraction = 1.0  # of the way to the next λ
        self.has_succeeded = False  # the last step, at this length
        self.num_breakdowns = 0

    @property
    def ends_on_grid(self) -> bool:
        return self.fraction == 1

    @property
    def is_exhausted(self) -> bool:
        """Whether steps have become too short, or have failed too often."""
        is_short = self.fraction < 0.5**OPTIONS.max_step_halvings
        return is_short or self.num_breakdowns > OPTIONS.max_breakdowns

    def next_block(self, lam: float, block: np.ndarray) -> np.ndarray:
        """Returns the λ of the next step from `lam`, out of a block of the grid."""
        if self.is_block:
            return block[: self.length]
        return block[:1] if self.ends_on_grid else lam + self.fraction * (block[:1] - lam)

    def adapt(self, good: int, num_solved: int, reached: int, length: int) -> None:
        """Makes the next block as long as the part of this one that met the KKT conditions, or twice as long.

        Of its solutions so many are `good`, and it `reached` so many of its λ. What is solved behind a
        violation is solved again: of lines, that is little, unless most solutions were.
        """
        if not self.is_block:
            return
        is_good = good == num_solved
        if is_good and (self.was_good or not self.interpolates):
            self.length = min(2 * length, _LONGEST)
        elif not is_good and (not self.interpolates or num_solved - good > max(good, _FEW)):
            self.length = max(reached, 1)
        self.was_good = is_good

    def fail(self) -> None:
        """Shortens the next step."""
        if not (self.is_block and self.interpolates):  # else a single λ is shorter
            self.fraction /= 2
        self.is_block, self.has_succeeded = False, False
        self.num_breakdowns += 1

    def succeed(self) -> None:
        """Lengthens the next step, if the last one has succeeded too."""
        if self.has_succeeded and not self.is_block:
            self.is_block = self.ends_on_grid
            self.fraction = min(2 * self.fraction, 1.0)
        self.has_succeeded = not self.has_succeeded
