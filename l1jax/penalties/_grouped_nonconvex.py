"""Concave penalties on the norms of groups: they select groups and do not shrink those that are large."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ._base import Masks
from ._concave import MCP, SCAD, Concave
from ._grouped import _Grouped


class _GroupConcave(_Grouped):
    """Σ_g r(‖x_g‖; λw_g) with a concave r of slope λw_g at zero, which is flat from γλw_g on."""

    convex: ClassVar[bool] = False
    homogeneous: ClassVar[bool] = False
    metric: ClassVar[Literal["scalar", "diagonal"]] = "scalar"
    _kind: ClassVar[type[MCP] | type[SCAD]]  # whose r it is

    gamma: Any

    def __init__(self, lam: Any, groups: Any, gamma: Any, weights: Any):
        super().__init__(lam, groups, weights)
        self.gamma = self._kind(None, gamma).gamma  # checked

    def _of_norms(self) -> Concave:
        """The penalty Σ r of coefficients ‖x_g‖."""
        return self._kind(None, self.gamma)

    @property
    def max_step(self) -> Any:
        return self._of_norms().max_step

    def is_valid(self) -> Bool[Array, ""]:
        return super().is_valid() & self._of_norms().is_valid()

    def value(self, x: Array) -> Array:
        limits = self._limits(x)
        return jnp.sum(
            self._of_norms()._value_at(self._norms(x), limits), where=~self._is_excluded()
        )

    def prox(self, z: Array, step: Any = 1.0) -> Array:
        norms, step = self._norms(z), jnp.asarray(step, z.dtype)
        limits = self._limits(z)
        sizes = self._of_norms()._least_at(norms, limits, step)
        at_zero = jnp.where(limits > 0, 0, 1)
        factors = jnp.where(norms > 0, sizes / jnp.where(norms > 0, norms, 1), at_zero)
        out = z * self._broadcast(jnp.where(jnp.isnan(norms), jnp.nan, factors), z)
        return self._zero_excluded(jnp.where(out == 0, jnp.zeros((), z.dtype), out))

    def masks(self, shape: tuple[int, ...]) -> Masks:
        return self._free(self._limits(self._zeros(shape)), shape)

    def lambda_max(self, gradient: Array) -> Array:
        """As of the group lasso, whose slope at zero is the same."""
        weights = jnp.asarray(self._group_weights(gradient.dtype))
        penalised = (weights > 0) & ~self._is_excluded()
        ratios = self._norms(gradient) / jnp.where(penalised, weights, 1)
        return jnp.max(jnp.where(penalised, ratios, 0), initial=0)

    def _limits(self, x: Any) -> Float[Array, " groups"]:
        """λw_g."""
        self._check(x)
        return jnp.asarray(self._lam(), x.dtype) * self._group_weights(x.dtype)


class GroupMCP(_GroupConcave):
    """The minimax concave penalty on groups, Σ_g λw_g‖x_g‖ − ‖x_g‖²/(2γ) up to ‖x_g‖ = γλw_g, flat from there.

    Not convex: what a fit returns is a stationary point, judged by its optimality conditions (`fit.kkt`).

    **Arguments and errors:** as for `GroupL1`, and

    - `gamma`: γ > 0, the smaller the more concave; solvers take steps below it.

    Source: Zhang (2010); Breheny and Huang (2015).

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> pen = l1jax.GroupMCP(1.0, groups=[0, 0, 1, 1], gamma=3.0, weights=1.0)
    >>> print(pen.prox(jnp.array([3.0, 4.0, 1.2, 1.6])))
    [3.  4.  0.9 1.2]

    ```
    """

    _kind = MCP

    def __init__(self, lam: Any = None, groups: Any = None, gamma: Any = 3.0, weights: Any = None):
        super().__init__(lam, groups, gamma, weights)


class GroupSCAD(_GroupConcave):
    """SCAD of the norms of groups: of slope λw_g up to ‖x_g‖ = λw_g, which falls to 0 at γλw_g.

    Not convex: what a fit returns is a stationary point, judged by its optimality conditions (`fit.kkt`).

    **Arguments and errors:** as for `GroupL1`, and

    - `gamma`: γ > 2, the smaller the more concave; solvers take steps below γ − 1.

    Source: Fan and Li (2001); Breheny and Huang (2015).

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> pen = l1jax.GroupSCAD(1.0, groups=[0, 0, 1, 1], gamma=3.7, weights=1.0)
    >>> print(pen.prox(jnp.array([3.0, 4.0, 0.9, 1.2])))
    [3.  4.  0.3 0.4]

    ```
    """

    _kind = SCAD

    def __init__(self, lam: Any = None, groups: Any = None, gamma: Any = 3.7, weights: Any = None):
        super().__init__(lam, groups, gamma, weights)
