"""A bound on the work of one path."""

from __future__ import annotations

from ._path_point import NumericalBreakdown


class StepBudget:
    """Counts the steps of a path: Newton steps, or solves where these are exact.

    A path breaks down for good once it has spent more than its limit; what is left goes to another
    engine. Without this, solves that fail again and again would take any time.
    """

    def __init__(self, limit: int):
        self.limit, self.spent = limit, 0

    @property
    def is_spent(self) -> bool:
        return self.spent > self.limit

    def spend(self) -> None:
        self.spent += 1
        if self.is_spent:
            raise NumericalBreakdown
