"""Constraints: penalties that are worth 0 inside of a set and forbid the outside."""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .. import prox
from ._base import Penalty, nearest_knot, strength_leaf, total


class L1Ball(Penalty):
    """The constraint Σⱼ|xⱼ| ≤ τ: the lasso in its first form, with a bound in place of a weight.

    **Arguments:**

    - `tau`: the radius τ ≥ 0, in units of a coefficient; None is not set yet.

    **Raises:** ValueError for a negative radius.
    Source: Tibshirani (1996); the projection: Duchi et al. (2008).

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> print(l1jax.L1Ball(2.0).prox(jnp.array([3.0, -0.5])))
    [2. 0.]

    ```
    """

    strength: ClassVar[str] = "tau"

    tau: Any

    def __init__(self, tau: Any = None):
        self.tau = strength_leaf(tau, "tau")

    def _tau(self) -> Any:
        if self.tau is None:
            raise ValueError("L1Ball has no radius yet: pass tau, as in L1Ball(1.0).")
        return self.tau

    def value(self, x: PyTree) -> Array:
        return jnp.zeros((), jnp.result_type(*jax.tree.leaves(x)))

    def prox(self, z: PyTree, step: Any = 1.0) -> PyTree:
        del step
        return prox.project_l1_ball(z, self._tau())

    def violation(self, x: PyTree) -> Array:
        norm = total(jnp.sum(jnp.abs(leaf)) for leaf in jax.tree.leaves(x))
        return jnp.maximum(norm - jnp.asarray(self._tau(), norm.dtype), 0)

    def lambda_max(self, gradient: Array) -> Array:
        """The radius at which nothing is left: 0, whatever the gradient."""
        return jnp.zeros((), gradient.dtype)

    def margin(self, x: Array, gradient: Array, curvature: Array) -> Array:
        """As in `Penalty`, in units of the constraint's multiplier λ, the largest gradient on the support."""
        sizes, inside = jnp.abs(gradient), x != 0
        lam = jnp.max(jnp.where(inside, sizes, 0), initial=0)
        leaves = jnp.where(inside, jnp.abs(gradient - curvature * x), jnp.inf)
        return nearest_knot(lam, jnp.where(inside, 0, sizes), leaves)

    def conjugate(self, v: Array) -> Array:
        return jnp.asarray(self._tau(), v.dtype) * jnp.max(jnp.abs(v), initial=0)

    def dual_scale(self, v: Array) -> Array:
        return jnp.ones((), v.dtype)
