"""Logistic regression: the log-likelihood of labels 0 and 1."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from .._arrays import eps, in_numpy, log_sigmoid, namespace, sigmoid, softplus, xlogy
from .._types import Real
from ._two_classes import TwoClasses


@in_numpy
class Logistic(TwoClasses):
    """The logistic loss log(1 + exp η) − yη, minus the log-likelihood of labels y in {0, 1}, (n,).

    Where all labels of positive weight are equal the best intercept is infinite; the one returned leaves a
    gradient at rounding.

    Source: Cox (1958).

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> loss = l1jax.Logistic()
    >>> print(loss.inverse_link(jnp.array([0.0])), loss.classes(jnp.array([-1.0, 2.0])))
    [0.5] [0 1]

    ```
    """

    @property
    def smoothness(self) -> float:
        return 0.25

    def per_row(self, y: Real, eta: Real) -> Float[Real, "... n"]:
        # For y = 1 the difference is log(1 + exp −η), which keeps its digits.
        xp = namespace(y, eta)
        return softplus(_toward(y, eta)) - xp.where(y == 1, 0, y * eta)

    def gradient(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Float[Real, "... n"]:
        # For y = 1 the difference σ(η) − 1 is −σ(−η), which keeps its digits.
        xp, found = namespace(y, eta, s), sigmoid(_toward(y, eta))
        return s * xp.where(y == 1, -found, found - y)

    def curvature(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Float[Real, "... n"]:
        del y
        return s * sigmoid(eta) * sigmoid(-eta)

    def conjugate(self, y: Real, u: Real, s: Float[Real, " n"]) -> Float[Real, "..."]:
        """Σ s(q log q + (1−q) log(1−q)) with q = y + u/s in [0, 1], else infinite."""
        xp = namespace(y, u, s)
        scaled = xp.where(s > 0, u / xp.where(s > 0, s, 1), 0)
        q = xp.where(s > 0, y + scaled, 0.5)
        rounding = 8 * eps(u)
        inside = ((q >= -rounding) & (q <= 1 + rounding)).all(axis=-1)
        q = xp.clip(q, 0, 1)
        return xp.where(inside, (s * (xlogy(q, q) + xlogy(1 - q, 1 - q))).sum(axis=-1), np.inf)

    def fenchel_gap(self, y: Real, eta: Real, c: Real, s: Float[Real, " n"]) -> Float[Real, "..."]:
        """Σ s KL(q‖σ(η)) with q = y + c(σ(η) − y): every row ≥ 0, and exactly 0 at c = 1."""
        xp = namespace(y, eta, c, s)
        c = xp.asarray(c)[..., None]
        positive = y == 1
        wrong = xp.where(positive, sigmoid(-eta), sigmoid(eta))  # P(other label)
        log_right = log_sigmoid(xp.where(positive, eta, -eta))
        # q of the other label is c·wrong; log(c wrong/wrong) = log c.
        other = xlogy(c * wrong, c)
        own = (1 - c * wrong) * (xp.log1p(-c * wrong) - log_right)
        own = xp.where(c * wrong < 1, own, 0)
        rows = xp.where(c == 1, 0, xp.maximum(other + own, 0))
        return xp.where(s > 0, s * rows, 0).sum(axis=-1)

    def inverse_link(self, eta: Real) -> Real:
        return sigmoid(eta)


def _toward(y: Real, eta: Real) -> Real:
    """Returns −η for labels 1 and η for others: with it one function of each entry serves both."""
    return namespace(y, eta).where(y == 1, -eta, eta)
