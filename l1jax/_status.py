"""How a solve ended."""

from __future__ import annotations

import functools
import sys
from enum import IntEnum


class Status(IntEnum):
    """How a solve ended; results hold it as an int32 array, one entry per lane.

    **Example:**

    ```python
    >>> import l1jax
    >>> l1jax.Status(0).name
    'CONVERGED'

    ```
    """

    CONVERGED = 0  # the tolerance was met
    MAX_STEPS = 1  # max_steps ran out first
    PRECISION_LIMIT = 2  # rounding stops all progress above the tolerance
    NOT_FINITE = 3  # the objective became NaN or infinite at every step size
    INVALID_INPUT = 4  # a traced value was one that an eager call refuses
    INTERRUPTED = 5  # stopped by the user before the end


class ConvergenceWarning(UserWarning):
    """An eager solve ended short of its tolerance; the result's `status` and residual say how.

    Where scikit-learn has been imported, what is issued is its `ConvergenceWarning` too: a filter for
    either catches it.
    """


def convergence_warning() -> type[ConvergenceWarning]:
    """The class to issue. Who filters by scikit-learn's has imported its module, which takes seconds."""
    return _with(getattr(sys.modules.get("sklearn.exceptions"), "ConvergenceWarning", None))


@functools.cache
def _with(theirs: type | None) -> type[ConvergenceWarning]:
    if theirs is None:
        return ConvergenceWarning

    def reduce(self: Warning) -> tuple[type, tuple]:
        return ConvergenceWarning, self.args  # another process finds this class by its name

    body = {"__module__": "l1jax", "__reduce__": reduce}
    return type("ConvergenceWarning", (ConvergenceWarning, theirs), body)
