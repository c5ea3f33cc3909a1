"""Logistic regression: the log-likelihood of labels 0 and 1."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import xlogy
from jaxtyping import Array, Bool, Float, Int

from ._base import Loss
from ._strata import check_labels


class Logistic(Loss):
    """The logistic loss log(1 + exp η) − yη, minus the log-likelihood of labels y in {0, 1}, (n,).

    Where all labels of positive weight are equal the best intercept is infinite; the one returned leaves a
    gradient at rounding.

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

    def per_row(self, y: Array, eta: Array) -> Float[Array, " n"]:
        return jax.nn.softplus(eta) - y * eta

    def gradient(self, y: Array, eta: Array, s: Float[Array, " n"]) -> Float[Array, " n"]:
        # For y = 1 the difference σ(η) − 1 is −σ(−η), which keeps its digits.
        return s * jnp.where(y == 1, -jax.nn.sigmoid(-eta), jax.nn.sigmoid(eta) - y)

    def curvature(self, y: Array, eta: Array, s: Float[Array, " n"]) -> Float[Array, " n"]:
        del y
        return s * jax.nn.sigmoid(eta) * jax.nn.sigmoid(-eta)

    def conjugate(self, y: Array, u: Array, s: Float[Array, " n"]) -> Float[Array, ""]:
        """Σ s(q log q + (1−q) log(1−q)) with q = y + u/s in [0, 1], else infinite."""
        scaled = jnp.where(s > 0, u / jnp.where(s > 0, s, 1), 0)
        q = jnp.where(s > 0, y + scaled, 0.5)
        rounding = 8 * jnp.finfo(u.dtype).eps
        inside = jnp.all((q >= -rounding) & (q <= 1 + rounding))
        q = jnp.clip(q, 0, 1)
        return jnp.where(inside, jnp.sum(s * (xlogy(q, q) + xlogy(1 - q, 1 - q))), jnp.inf)

    def fenchel_gap(
        self, y: Array, eta: Array, c: Array, s: Float[Array, " n"]
    ) -> Float[Array, ""]:
        """Σ s KL(q‖σ(η)) with q = y + c(σ(η) − y): every row ≥ 0, and exactly 0 at c = 1."""
        positive = y == 1
        wrong = jnp.where(positive, jax.nn.sigmoid(-eta), jax.nn.sigmoid(eta))  # P(other label)
        log_right = jax.nn.log_sigmoid(jnp.where(positive, eta, -eta))
        # q of the other label is c·wrong; log(c wrong/wrong) = log c.
        other = xlogy(c * wrong, c)
        own = (1 - c * wrong) * (jnp.log1p(-c * wrong) - log_right)
        own = jnp.where(c * wrong < 1, own, 0)
        rows = jnp.where(c == 1, 0, jnp.maximum(other + own, 0))
        return jnp.sum(jnp.where(s > 0, s * rows, 0))

    def inverse_link(self, eta: Array) -> Array:
        return jax.nn.sigmoid(eta)

    def classes(self, eta: Array) -> Int[Array, "..."]:
        return (eta > 0).astype(jnp.int32)

    def accepts(self, y: Array) -> Bool[Array, " n"]:
        return (y == 0) | (y == 1)

    def check_targets(self, y: np.ndarray) -> None:
        self.check_shape(y.shape)
        check_labels(y, self, 2)
