"""The squared hinge: the loss of a linear support vector machine that can be differentiated."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from .._arrays import in_numpy, namespace
from .._types import Real
from ._base import Shifts
from ._two_classes import TwoClasses


@in_numpy
class SquaredHinge(TwoClasses):
    """The squared hinge loss max(0, 1 − mη)² of support vector machines, m = 2y − 1, for labels y in {0, 1}.

    It is no likelihood: its response is η, its class the sign of η, and it has no AIC or BIC. With `L1(λ)` and
    no intercept it is scikit-learn's `LinearSVC(penalty="l1", dual=False, C=1/(nλ))`.
    Source: Chang, Hsieh and Lin (2008).

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> loss, s = l1jax.SquaredHinge(), jnp.array([0.5, 0.5])
    >>> y, eta = jnp.array([1.0, 0.0]), jnp.array([2.0, 0.0])
    >>> float(loss.value(y, eta, s)), loss.classes(eta).tolist()
    (0.5, [1, 0])

    ```
    """

    @property
    def smoothness(self) -> float:
        return 2.0

    @property
    def is_likelihood(self) -> bool:
        return False

    def per_row(self, y: Real, eta: Real) -> Float[Real, "... n"]:
        return _shortfall(y, eta) ** 2

    def gradient(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Float[Real, "... n"]:
        return -2 * s * (2 * y - 1) * _shortfall(y, eta)

    def curvature(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Float[Real, "... n"]:
        xp = namespace(y, eta, s)
        return xp.where(_shortfall(y, eta) > 0, 2 * s, 0)

    def shifts(self, y: Real, s: Float[Real, " n"]) -> Shifts:
        """The target is the margin's edge; beyond it, and not before, rows are shifted for nothing."""
        xp = namespace(y, s)
        wall = xp.full_like(s, np.inf)
        return Shifts(2 * s, 2 * y - 1, xp.where(y > 0, wall, 0), xp.where(y > 0, 0, wall))

    def conjugate(self, y: Real, u: Real, s: Float[Real, " n"]) -> Float[Real, "..."]:
        """Σ s(a + a²/4) with a = mu/s ≤ 0, else infinite."""
        xp = namespace(y, u, s)
        a = xp.where(s > 0, (2 * y - 1) * u / xp.where(s > 0, s, 1), 0)
        return xp.where((a <= 0).all(axis=-1), (s * (a + a**2 / 4)).sum(axis=-1), np.inf)

    def fenchel_gap(self, y: Real, eta: Real, c: Real, s: Float[Real, " n"]) -> Float[Real, "..."]:
        """(1−c)² L: the same number, without the cancellation."""
        return (1 - c) ** 2 * self.value(y, eta, s)


def _shortfall(y: Real, eta: Real) -> Real:
    """How far each row is short of its margin."""
    xp = namespace(y, eta)
    return xp.maximum(1 - (2 * y - 1) * eta, 0)
