"""Student's t: a likelihood of residuals with heavy tails, which is not convex."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from .._arrays import in_numpy, namespace
from .._tracing import frozen, is_traced
from .._types import Real
from ._base import Loss


@in_numpy
class StudentT(Loss):
    """The loss ½(ν+1) log(1 + r²/(νσ²)) of the residual r = y − η: outliers hardly count.

    Minus the log-likelihood of Student's t with ν degrees of freedom and the scale σ, less its constants.
    It is not convex where |r| > σ√ν: fits are stationary points without a duality gap, which
    `relative_kkt` judges, and depend on where they start; a path starts at its null model. `SquaredError`
    over σ² is its limit as ν → ∞.

    **Arguments:**

    - `df`: ν > 0, a number.
    - `scale`: σ > 0, in the units of y, a number or one per row, (n,); it is not estimated.

    **Raises:** ValueError for df ≤ 0 or scale ≤ 0. Source: Lange, Little and Taylor (1989).

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> y, eta, s = jnp.array([1.0, -1.0]), jnp.zeros(2), jnp.array([0.5, 0.5])
    >>> print(f"{l1jax.StudentT(1.0).value(y, eta, s):.4f} = log 2")
    0.6931 = log 2

    ```
    """

    df: Any
    scale: Any

    def __init__(self, df: Any, scale: Any = 1.0):
        for name, value in (("df", df), ("scale", scale)):
            if not is_traced(value) and not (np.asarray(frozen(value)) > 0).all():
                raise ValueError(f"{name} must be > 0, got {value}.")
        self.df = df if isinstance(df, jax.Array) else np.asarray(df, np.float64)
        self.scale = scale if isinstance(scale, jax.Array) else np.asarray(scale, np.float64)

    @property
    def convex(self) -> bool:
        return False

    @property
    def is_of_residuals(self) -> bool:
        return True

    def _parts(self, y: Real, eta: Real) -> tuple[Any, Real, Real, Real]:
        """ν, νσ² and r, with the namespace that they are of."""
        xp = namespace(y, eta, self.df, self.scale)
        df, scale = xp.asarray(self.df, eta.dtype), xp.asarray(self.scale, eta.dtype)
        return xp, df, df * scale**2, y - eta

    def per_row(self, y: Real, eta: Real) -> Float[Real, "... n"]:
        xp, df, size, r = self._parts(y, eta)
        return (df + 1) / 2 * xp.log1p(r**2 / size)

    def gradient(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Float[Real, "... n"]:
        _, df, size, r = self._parts(y, eta)
        return -s * (df + 1) * r / (size + r**2)

    def curvature(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Float[Real, "... n"]:
        _, df, size, r = self._parts(y, eta)
        return s * (df + 1) * (size - r**2) / (size + r**2) ** 2

    def majorant(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Float[Real, "... n"]:
        """s(ν+1)/(νσ² + r²): the weights of iterated least squares, as the log is below its tangents."""
        _, df, size, r = self._parts(y, eta)
        return s * (df + 1) / (size + r**2)

    def accepts(self, y: Real) -> Bool[Real, " n"]:
        xp = namespace(y, self.df, self.scale)
        return xp.isfinite(y) & (xp.asarray(self.df) > 0) & (xp.asarray(self.scale) > 0)

    def _furthest_shift(self, eta: Real) -> Real:
        return namespace(eta).asarray(jnp.finfo(eta.dtype).max ** 0.25, eta.dtype)
