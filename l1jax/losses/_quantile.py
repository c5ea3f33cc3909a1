"""Quantile regression: the pinball loss, smoothed where it has its corner."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from .._arrays import eps, in_numpy, namespace
from .._modules import with_fields
from .._tracing import frozen, is_traced
from .._types import Real
from ._base import Loss, Shifts

_SMOOTHING = 1e-6  # of the null model's loss; in float32 what rounding allows
_SMOOTHING_FLOAT32 = 1e-3


@in_numpy
class Quantile(Loss):
    """The pinball loss of the residual r = y − η, τ r where r ≥ 0 and (τ−1) r below: η is the τ-quantile.

    Steps are taken on a smooth loss, which is r²/(2γ) where −(1−τ)γ ≤ r ≤ τγ and straight beyond; it is
    below the pinball loss by at most ½γ max(τ, 1−τ)². What is reported is of the pinball loss itself:
    objective, deviance, and the duality gap, to which smoothing adds up to γ/4 times the weight of the rows
    that are smoothed. So a fit that meets `tol` has the accuracy that it says, that of the linear program.

    **Arguments:**

    - `level`: τ, 0 < τ < 1, a number.
    - `smoothing`: γ > 0, in the units of y. Unless given it is 10⁻⁶ of the loss of the null model (without
      features; in float32 10⁻³), for a relative gap of at most 2.5·10⁻⁷. A `tol` below that needs a smaller
      one, a loose one is met sooner with a larger one. Under `jit` and `vmap`, where gradient steps solve it,
      one of a few percent of the residuals is needed.

    **Raises:** ValueError for a level outside of (0, 1), or smoothing ≤ 0.
    Source: Koenker and Bassett (1978); Belloni and Chernozhukov (2011); Nesterov (2005).

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> y, eta, s = jnp.array([1.0, -3.0]), jnp.zeros(2), jnp.array([0.5, 0.5])
    >>> print(f"{l1jax.Quantile(0.9).deviance(y, eta, s):.2f} = (0.9 × 1 + 0.1 × 3)/2")
    0.60 = (0.9 × 1 + 0.1 × 3)/2

    ```
    """

    level: Any
    smoothing: Any

    def __init__(self, level: Any = 0.5, smoothing: Any = None):
        if not isinstance(level, jax.Array):
            level = np.asarray(level, np.float64)
        if (
            not is_traced(level)
            and not ((known := np.asarray(frozen(level))) > 0).all() & (known < 1).all()
        ):
            raise ValueError(f"level must be between 0 and 1, got {level}.")
        if smoothing is not None:
            if not isinstance(smoothing, jax.Array):
                smoothing = np.asarray(smoothing, np.float64)
            if not is_traced(smoothing) and not (np.asarray(frozen(smoothing)) > 0).all():
                raise ValueError(f"smoothing must be > 0, got {smoothing}.")
        self.level, self.smoothing = level, smoothing

    @property
    def is_of_residuals(self) -> bool:
        return True

    def for_targets(self, y: Real, offset: Real, s: Float[Real, " n"]) -> Loss:
        """Returns the loss with the smoothing that these targets ask for, unless it was given."""
        if self.smoothing is not None:
            return self
        xp, r = namespace(y, offset, s), frozen(y - offset)
        s, level = frozen(s), frozen(self.level)
        r = xp.where(s > 0, r, 0)
        order = xp.argsort(r)
        first = xp.searchsorted(xp.cumsum(s[order]), xp.asarray(level) * s.sum())
        r = r - r[order][xp.minimum(first, len(r) - 1)]
        null = (s * xp.maximum(level * r, (level - 1) * r)).sum()
        fraction = _SMOOTHING if eps(y) < 1e-10 else _SMOOTHING_FLOAT32
        return with_fields(
            self, smoothing=xp.asarray(xp.where(null > 0, fraction * null, 1), y.dtype)
        )

    def _parameters(self, y: Real, eta: Real) -> tuple[Real, Real]:
        xp = namespace(y, eta, self.level, self.smoothing)
        width = 0 if self.smoothing is None else self.smoothing
        return xp.asarray(self.level, eta.dtype), xp.asarray(width, eta.dtype)

    def _slope(self, y: Real, eta: Real) -> Real:
        """The derivative by the residual, in [τ − 1, τ]."""
        level, width = self._parameters(y, eta)
        xp, r = namespace(y, eta, level), y - eta
        inside = r / xp.where(width > 0, width, 1)
        return xp.where(width > 0, xp.clip(inside, level - 1, level), level - (r < 0))

    def per_row(self, y: Real, eta: Real) -> Float[Real, "... n"]:
        xp = namespace(y, eta, self.level, self.smoothing)
        slope, (_, width) = self._slope(y, eta), self._parameters(y, eta)
        slope = jax.lax.stop_gradient(slope) if xp is jnp else slope  # it is the maximiser
        return slope * (y - eta) - width / 2 * slope**2

    @property
    def is_smoothed(self) -> bool:
        return True

    def smoothing_error(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Float[Real, "..."]:
        return self.deviance(y, eta, s) - self.value(y, eta, s)

    def gradient(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Float[Real, "... n"]:
        return -s * self._slope(y, eta)

    def curvature(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Float[Real, "... n"]:
        level, width = self._parameters(y, eta)
        xp, r = namespace(y, eta, s, level), y - eta
        inside = (r >= (level - 1) * width) & (r <= level * width) & (width > 0)
        return xp.where(inside, s / xp.where(width > 0, width, 1), 0)

    def majorant(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Float[Real, "... n"]:
        """s |slope| / |r|, as of Huber's loss where τ = ½; 1/γ within the corner."""
        level, width = self._parameters(y, eta)
        xp, r = namespace(y, eta, s, level), y - eta
        least = xp.where(r > 0, level, 1 - level)
        return s * least / xp.maximum(abs(r), xp.maximum(least * width, eps(eta)))

    def shifts(self, y: Real, s: Float[Real, " n"]) -> Shifts:
        """Shifting the target of a row costs τ per unit upwards and 1 − τ downwards."""
        level, width = self._parameters(y, y)
        return Shifts(s / width, y, s * level, s * (1 - level))

    def conjugate(self, y: Real, u: Real, s: Float[Real, " n"]) -> Float[Real, "..."]:
        """That of the pinball loss: ⟨u, y⟩ where −τ ≤ u/s ≤ 1 − τ, else infinite."""
        level, _ = self._parameters(y, u)
        xp = namespace(y, u, s, level)
        scaled = xp.where(s > 0, u / xp.where(s > 0, s, 1), 0)
        rounding = 8 * eps(u)
        inside = ((scaled >= -level - rounding) & (scaled <= 1 - level + rounding)).all(axis=-1)
        return xp.where(inside, (s * y * scaled).sum(axis=-1), np.inf)

    def fenchel_gap(self, y: Real, eta: Real, c: Real, s: Float[Real, " n"]) -> Float[Real, "..."]:
        """Of the pinball loss at c times the slope of the smooth one: Σ s(pinball − c r slope), rows ≥ 0."""
        xp = namespace(y, eta, c, s)
        level, _ = self._parameters(y, eta)
        r, c = y - eta, xp.asarray(c)[..., None]
        corner = xp.where(r < 0, level - 1, level)
        rows = r * (corner - c * self._slope(y, eta))
        return xp.where(s > 0, s * xp.maximum(rows, 0), 0).sum(axis=-1)

    def deviance(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Float[Real, "..."]:
        """The pinball loss itself."""
        level, _ = self._parameters(y, eta)
        xp, r = namespace(y, eta, s, level), y - eta
        rows = xp.maximum(level * r, (level - 1) * r)
        return xp.where(s > 0, s * rows, 0).sum(axis=-1)

    def accepts(self, y: Real) -> Bool[Real, " n"]:
        xp = namespace(y, self.level)
        level = xp.asarray(self.level)
        return xp.isfinite(y) & (level > 0) & (level < 1)

    def _furthest_shift(self, eta: Real) -> Real:
        return namespace(eta).asarray(jnp.finfo(eta.dtype).max / 8, eta.dtype)
