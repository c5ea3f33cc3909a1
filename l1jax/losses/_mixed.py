"""Several responses of different kinds: for each column of the targets a loss of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float

from .._arrays import in_numpy, namespace
from .._modules import with_fields
from .._tracing import frozen, is_traced
from .._types import Real
from ._base import Loss
from ._strata import Strata


@in_numpy
class Mixed(Loss):
    """The sum of a loss per response, Σₖ wₖ lossₖ(yₖ, ηₖ), of targets y (n, K): a number, a label, a count.

    Coefficients are (p, K), one column per response, and intercepts (K,). `GroupL1(lam, range(p))` selects a
    feature for all responses at once; with `L1` the responses are independent, as K fits at λ/wₖ are.
    Predictions are the mean of each response, by the link of its own loss.

    **Arguments:**

    - `losses`: the K losses, each a sum over rows, of one response.
    - `weights`: w > 0, (K,); 1 unless given. Squared error has the squared units of its response, a likelihood
      none: 1/variance of the noise puts it on the same footing.

    **Raises:** TypeError for what is no loss; ValueError for a loss of other targets, such as `Cox`, or
    weights ≤ 0. Source: Obozinski, Taskar and Jordan (2010).

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> loss = l1jax.Mixed([l1jax.SquaredError(), l1jax.Logistic(), l1jax.Poisson()])
    >>> print(loss.inverse_link(jnp.array([[2.0, 0.0, 0.0]])))
    [[2.  0.5 1. ]]

    ```
    """

    losses: tuple[Loss, ...]
    weights: Any

    def __init__(self, losses: Sequence[Any], weights: Any = None):
        losses = tuple(losses)
        if not losses:
            raise ValueError("losses must hold a loss per response, got none.")
        for loss in losses:
            _check_loss(loss)
        if weights is not None:
            weights = weights if isinstance(weights, jax.Array) else np.asarray(weights, np.float64)
            if weights.shape != (len(losses),):
                raise ValueError(
                    f"weights must have one entry per loss, shape ({len(losses)},), got {weights.shape}."
                )
            if not is_traced(weights) and not (np.asarray(frozen(weights)) > 0).all():
                raise ValueError(f"weights must be > 0, got {weights}.")
        self.losses, self.weights = losses, weights

    @property
    def smoothness(self) -> Any:
        bounds = [b for b in (loss.smoothness for loss in self.losses) if b is not None]
        if len(bounds) < len(self.losses):
            return None
        if self.weights is None:
            return max(bounds)
        return (self.weights * np.asarray(bounds, self.weights.dtype)).max()

    @property
    def is_of_residuals(self) -> Any:
        """Of which responses the loss is a function of the residual, (K,)."""
        return np.array([bool(loss.is_of_residuals) for loss in self.losses])

    @property
    def is_likelihood(self) -> bool:
        """Where each is; squared error only is one once the variance is known."""
        parts = (loss.is_likelihood and not loss.is_quadratic for loss in self.losses)
        return self.weights is None and all(parts)

    @property
    def convex(self) -> bool:
        return all(loss.convex for loss in self.losses)

    @property
    def has_curvature(self) -> bool:
        return all(loss.has_curvature for loss in self.losses)

    @property
    def is_smoothed(self) -> bool:
        return any(loss.is_smoothed for loss in self.losses)

    @property
    def says_saturated(self) -> bool:
        return all(loss.says_saturated for loss in self.losses)

    def _weighted(self, s: Real) -> list[Real]:
        """The weights of the rows for each response."""
        if self.weights is None:
            return [s] * len(self.losses)
        weights = namespace(s, self.weights).asarray(self.weights, s.dtype)
        return [s * weights[k] for k in range(len(self.losses))]

    def _of_each(self, method: str, s: Real, *arrays: Real) -> list[Any]:
        """What a method of each loss says of its columns of the arrays."""
        weighted = self._weighted(s)
        return [
            getattr(loss, method)(*(a[..., k] for a in arrays), weighted[k])
            for k, loss in enumerate(self.losses)
        ]

    def _columns(self, method: str, y: Real, eta: Real, s: Real) -> Any:
        found = self._of_each(method, s, y, eta)
        return namespace(*found).stack(found, axis=-1)

    def per_row(self, y: Real, eta: Real) -> Float[Real, "... n"]:
        one = namespace(y, eta).ones((), eta.dtype)
        rows = [
            weight * loss.per_row(y[..., k], eta[..., k])
            for k, (loss, weight) in enumerate(zip(self.losses, self._weighted(one), strict=True))
        ]
        return sum(rows[1:], rows[0])

    def value(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Float[Real, "..."]:
        return sum(self._of_each("value", s, y, eta))

    def gradient(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Float[Real, "... n K"]:
        return self._columns("gradient", y, eta, s)

    def curvature(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Float[Real, "... n K"]:
        return self._columns("curvature", y, eta, s)

    def majorant(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Float[Real, "... n K"]:
        return self._columns("majorant", y, eta, s)

    def for_targets(self, y: Real, offset: Real, s: Float[Real, " n"]) -> Loss:
        parts = [loss.for_targets(y[:, k], offset[:, k], s) for k, loss in enumerate(self.losses)]
        return with_fields(self, losses=tuple(parts))

    def smoothing_error(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Any:
        return sum(self._of_each("smoothing_error", s, y, eta))

    def conjugate(self, y: Real, u: Real, s: Float[Real, " n"]) -> Float[Real, "..."]:
        """The sum of those of the responses, each of the weights wₖs."""
        return sum(self._of_each("conjugate", s, y, u))

    def fenchel_gap(self, y: Real, eta: Real, c: Real, s: Float[Real, " n"]) -> Float[Real, "..."]:
        return sum(
            loss.fenchel_gap(y[..., k], eta[..., k], c, weighted)
            for k, (loss, weighted) in enumerate(zip(self.losses, self._weighted(s), strict=True))
        )

    def polish_intercept(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Float[Real, "... K"]:
        return self._columns("polish_intercept", y, eta, s)

    def neutral_target(self, y: Real, s: Real) -> Real:
        found = [loss.neutral_target(y[:, k], s) for k, loss in enumerate(self.losses)]
        return namespace(*found).stack(found)

    def saturated(self, y: Real, s: Float[Real, " n"]) -> Float[Real, ""]:
        return sum(self._of_each("saturated", s, y))

    def deviance(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Float[Real, "..."]:
        return sum(self._of_each("deviance", s, y, eta))

    def take_rows(self, rows: np.ndarray) -> Loss:
        return with_fields(self, losses=tuple(loss.take_rows(rows) for loss in self.losses))

    def strata(self, y: np.ndarray) -> Strata:
        """The classes of all responses that have some."""
        found = [
            (k, loss.strata(y[:, k])) for k, loss in enumerate(self.losses) if loss.has_classes
        ]
        names = (f"{name} of response {k}" for k, strata in found for name in strata.names)
        memberships = [strata.membership for _, strata in found]
        return Strata(tuple(names), np.concatenate([np.zeros((len(y), 0)), *memberships], axis=1))

    def inverse_link(self, eta: Real) -> Real:
        found = [loss.inverse_link(eta[..., k]) for k, loss in enumerate(self.losses)]
        return namespace(*found).stack(found, axis=-1)

    def accepts(self, y: Real) -> Bool[Real, "n K"]:
        found = [loss.accepts(y[:, k]) for k, loss in enumerate(self.losses)]
        return namespace(*found).stack(found, axis=-1)

    def check_shape(self, shape: tuple[int, ...]) -> None:
        if len(shape) != 2 or shape[1] != len(self.losses):
            raise ValueError(
                f"y must have a column per loss of Mixed, shape (n, {len(self.losses)}), got {shape}."
            )

    def check_targets(self, y: np.ndarray) -> None:
        self.check_shape(y.shape)
        self._of_responses(lambda loss, column: loss.check_targets(column), y)

    def encode(self, y: Any) -> Any:
        found = self._of_responses(lambda loss, column: loss.encode(column), y)
        return namespace(*found).stack(found, axis=-1)

    def _of_responses(self, function: Callable[[Loss, Any], Any], y: Any) -> list[Any]:
        """Applies a function to each loss and its column; errors say which response it was."""
        found = []
        for k, loss in enumerate(self.losses):
            try:
                found.append(function(loss, y[:, k]))
            except ValueError as error:
                raise ValueError(f"In response {k}, {error}") from None
        return found


def _check_loss(loss: Any) -> None:
    if not isinstance(loss, Loss):
        raise TypeError(f"losses must be l1jax losses such as l1jax.SquaredError(), got {loss!r}.")
    is_sum = loss.is_separable and loss.has_intercept
    is_sum &= not (loss.rows_interact or loss.has_thresholds)
    if not is_sum or isinstance(loss, Mixed):
        raise ValueError(
            f"Mixed takes losses that are sums over rows, each of one response, got {loss}."
        )
