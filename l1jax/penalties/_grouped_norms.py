"""Penalties on groups by other norms than the 2-norm: ℓ1,∞, and the exclusive lasso."""

from __future__ import annotations

from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .. import prox
from .._types import Real
from ._base import Masks
from ._forms import LinearForm
from ._grouped import _Grouped
from ._separable import least


class _UnitGroups(_Grouped):
    """Groups of weight 1 unless given, whose prox takes any diagonal metric."""

    def __init__(self, lam: Any = None, groups: Any = None, weights: Any = None):
        super().__init__(lam, groups, weights)

    def uniform_metric(self, squares: Array) -> Array:
        return squares

    def masks(self, shape: tuple[int, ...]) -> Masks:
        return self._free(self._weights_at_lam(self._zeros(shape)), shape)

    def _group_weights(self, dtype: Any) -> Float[Real, " groups"]:
        if self.weights is None:
            return np.ones(self.groups.num_groups, dtype)
        return super()._group_weights(dtype)

    def _weights_at_lam(self, x: Real) -> Float[Array, " groups"]:
        self._check(x)
        return jnp.asarray(self._lam(), x.dtype) * self._group_weights(x.dtype)

    def _sums(self, x: Array) -> Float[Array, " groups"]:
        """‖x_g‖₁."""
        return self.groups.sums(jnp.sum(jnp.abs(x).reshape(x.shape[0], -1), axis=1))

    def _maxima(self, x: Array) -> Float[Array, " groups"]:
        """max|x_g|."""
        return self._largest(jnp.abs(x))


class L1Inf(_UnitGroups):
    """The ℓ1,∞ norm λ Σ_g w_g max|x_g|: few groups, and within one the largest coefficients are equal.

    With coefficients (p, k) a group contains all responses of its features: `L1Inf(lam, range(p))` selects
    features for all responses at once.

    **Arguments:**

    - `lam`: the strength λ ≥ 0, in units of a gradient; None is not set yet.
    - `groups`: one id per feature, (p,), integers or strings, or `Groups`.
    - `weights`: w ≥ 0, one per group (G,) in the order of sorted ids, 1 unless given; 0 leaves a group
      unpenalised, inf excludes it.

    **Raises:** ValueError for wrong lengths or negative values; TypeError without groups.
    Source: Turlach, Venables and Wright (2005); the prox: Quattoni et al. (2009).

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> print(l1jax.L1Inf(2.0, groups=[0, 0, 1]).prox(jnp.array([3.0, 2.5, 1.0])))
    [1.75 1.75 0.  ]

    ```
    """

    def __init__(self, lam: Any = None, groups: Any = None, weights: Any = None):
        super().__init__(lam, groups, weights)

    def value(self, x: Array) -> Array:
        weights = self._weights_at_lam(x)
        return jnp.sum(weights * self._maxima(x), where=~self._is_excluded())

    def prox(self, z: Array, step: Any = 1.0) -> Array:
        self._check(z)
        weights = self._group_weights(z.dtype)
        return self._zero_excluded(prox.prox_l1_inf(z, self._lam(), self.groups, step, weights))

    def lambda_max(self, gradient: Array) -> Array:
        self._check(gradient)
        weights = jnp.asarray(self._group_weights(gradient.dtype))
        penalised = (weights > 0) & ~self._is_excluded()
        ratios = self._sums(gradient) / jnp.where(penalised, weights, 1)
        return jnp.max(jnp.where(penalised, ratios, 0), initial=0)

    def conjugate(self, v: Array) -> Array:
        return self._form(v).conjugate(self._sums(v)).sum().astype(v.dtype)

    def dual_scale(self, v: Array) -> Array:
        return least(self._form(v).limit(self._sums(v)))

    def _form(self, x: Array) -> LinearForm:
        weight = jnp.where(self._is_excluded(), jnp.inf, self._weights_at_lam(x))
        return LinearForm(weight, weight, jnp.zeros_like(weight))


class ExclusiveLasso(_UnitGroups):
    """The exclusive lasso ½λ Σ_g w_g‖x_g‖₁²: features of one group compete, and each group keeps some.

    Its slope at zero is zero, so that no strength takes all coefficients out: there is no λmax, pass `lams`.

    **Arguments and errors:** as for `L1Inf`.

    Source: Zhou, Jin and Hoi (2010); Campbell and Allen (2017).

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> print(l1jax.ExclusiveLasso(1.0, groups=[0, 0, 1]).prox(jnp.array([4.0, 1.0, 3.0])))
    [2.  0.  1.5]

    ```
    """

    homogeneous: ClassVar[bool] = False

    def __init__(self, lam: Any = None, groups: Any = None, weights: Any = None):
        super().__init__(lam, groups, weights)

    def value(self, x: Array) -> Array:
        weights = self._weights_at_lam(x)
        return 0.5 * jnp.sum(weights * self._sums(x) ** 2, where=~self._is_excluded())

    def prox(self, z: Array, step: Any = 1.0) -> Array:
        self._check(z)
        weights = self._group_weights(z.dtype)
        out = prox.prox_exclusive_lasso(z, self._lam(), self.groups, step, weights)
        return self._zero_excluded(out)

    def lambda_max(self, gradient: Array) -> Array:
        """Infinite, where a group that is penalised has a gradient."""
        is_penalised = (jnp.asarray(self._group_weights(gradient.dtype)) > 0) & ~self._is_excluded()
        moves = jnp.any(is_penalised & (self._maxima(gradient) > 0))
        return jnp.where(moves, jnp.inf, 0).astype(gradient.dtype)

    def conjugate(self, v: Array) -> Array:
        return self._form(v).conjugate(self._maxima(v)).sum().astype(v.dtype)

    def dual_scale(self, v: Array) -> Array:
        return least(self._form(v).limit(self._maxima(v)))

    def _form(self, x: Array) -> LinearForm:
        """R* is Σ_g max|v_g|²/(2λw_g): that of a weight of ½ of the square."""
        weight = self._weights_at_lam(x)
        none = jnp.where(self._is_excluded(), jnp.inf, jnp.zeros_like(weight))
        return LinearForm(none, none, weight)
