"""A strength that is raised or lowered until a fraction of a network is gone."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class FeedbackState(NamedTuple):
    """The steps taken, and the strength λ of the penalty at this one."""

    steps: Int[Array, ""]
    strength: Float[Array, ""]


@dataclasses.dataclass(frozen=True)
class Feedback:
    """A strength that makes the fraction saved follow a line from 0 to `target` in `steps` steps.

        λ ← λ · exp(gain · (target · min(1, t/steps) − saved))

    **Arguments:**

    - `target`: the fraction to save, from 0 to 1, such as 0.7 of the multiply-adds by `Units.saved`.
    - `steps`: over how many steps; it is held after them.
    - `start`: the strength at first, in units of a gradient.
    - `gain`: how fast it follows; 0.2 doubles λ in 4 steps where all is missing.

    **Raises:** ValueError for a target outside of (0, 1), or a `steps`, `start` or `gain` that is not positive.

    **Example:**

    ```python
    >>> import l1jax
    >>> feedback = l1jax.prune.Feedback(target=0.7, steps=100, start=1e-3)
    >>> state = feedback.init()
    >>> for _ in range(50):
    ...     # tx.update(..., penalty=units.penalty(state.strength)), then
    ...     state = feedback.update(state, saved=0.0)
    >>> print(f"{float(state.strength):.1e}")
    6.0e-03

    ```
    """

    target: float
    steps: int
    start: float
    gain: float = 0.2

    def __post_init__(self) -> None:
        if not 0 < self.target < 1:
            raise ValueError(f"target must be a fraction between 0 and 1, got {self.target!r}.")
        for name in ("steps", "start", "gain"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)!r}.")

    def init(self) -> FeedbackState:
        """The state at the first step."""
        return FeedbackState(jnp.zeros((), jnp.int32), jnp.asarray(self.start, float))

    def update(self, state: FeedbackState, saved: Any) -> FeedbackState:
        """The state after a step at which this fraction was saved; traceable."""
        steps = state.steps + 1
        wanted = self.target * jnp.minimum(1.0, steps / self.steps)
        factor = jnp.exp(self.gain * (wanted - saved)).astype(state.strength.dtype)
        return FeedbackState(steps, state.strength * factor)
