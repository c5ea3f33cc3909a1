"""How a solve ended."""

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
    """An eager solve ended short of its tolerance; the result's `status` and residual say how."""
