"""Constraints: penalties that are worth 0 inside of a set and forbid the outside."""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, PyTree

from .. import prox
from .._groups import Groups
from .._tracing import frozen, is_traced
from ._base import Masks, Penalty, nearest_knot, strength_leaf, weight_leaves
from ._grouped_norms import L1Inf


class _Set(Penalty):
    """A set of size τ: R is 0 inside, and R* the support function, finite everywhere."""

    strength: ClassVar[str] = "tau"

    tau: Any

    def __init__(self, tau: Any = None):
        self.tau = strength_leaf(tau, "tau")

    def value(self, x: PyTree) -> Array:
        return jnp.zeros((), jnp.result_type(*jax.tree.leaves(x)))

    def lambda_max(self, gradient: Array) -> Array:
        """The size at which nothing is left: 0, whatever the gradient."""
        return jnp.zeros((), gradient.dtype)

    def dual_scale(self, v: Array) -> Array:
        return jnp.ones((), v.dtype)

    def _tau(self) -> Any:
        if self.tau is None:
            name = type(self).__name__
            raise ValueError(f"{name} has no radius yet: pass tau, as in {name}(1.0).")
        return self.tau

    def _tau_like(self, x: Array) -> Array:
        return jnp.asarray(self._tau(), x.dtype)


class L1Ball(_Set):
    """The constraint Σⱼ wⱼ|xⱼ| ≤ τ: the lasso in its first form, with a bound in place of a weight.

    The solution is that of `L1(lam, weights)` with λ the multiplier of the constraint: `multiplier` of the
    coefficients and the gradient of the loss there.

    **Arguments:**

    - `tau`: the radius τ ≥ 0, in units of a coefficient; None is not set yet.
    - `weights`: w > 0, one per coefficient, shaped like them; 1 unless given.

    **Raises:** ValueError for a negative radius, and for weights that are not positive and finite.
    Source: Tibshirani (1996); the projection: Duchi et al. (2008), with weights Michelot (1986).

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> print(l1jax.L1Ball(2.0).prox(jnp.array([3.0, -0.5])))
    [2. 0.]

    ```
    """

    weights: Any

    def __init__(self, tau: Any = None, weights: Any = None):
        super().__init__(tau)
        self.weights, excluded = weight_leaves(weights)
        for w, off in zip(jax.tree.leaves(self.weights), jax.tree.leaves(excluded), strict=True):
            if not is_traced((w, off)) and (np.asarray(frozen(w)) == 0).any():
                raise ValueError("weights of an L1Ball must be positive and finite, got 0 or inf.")

    def is_valid(self) -> Bool[Array, ""]:
        leaves = [jnp.all(jnp.asarray(w) > 0) for w in jax.tree.leaves(self.weights)]
        return super().is_valid() & jnp.stack([*leaves, jnp.ones((), bool)]).all()

    def prox(self, z: PyTree, step: Any = 1.0) -> PyTree:
        del step
        return prox.project_l1_ball(z, self._tau(), self.weights)

    def violation(self, x: PyTree) -> Array:
        flat, _ = ravel_pytree(x)
        norm = jnp.sum(self._flat_weights(flat) * jnp.abs(flat))
        return jnp.maximum(norm - self._tau_like(norm), 0)

    def multiplier(self, x: Array, gradient: Array) -> Array:
        """The λ of the penalised form with this solution: max |gradientⱼ|/wⱼ where xⱼ is not zero."""
        sizes = jnp.abs(gradient).ravel() / self._flat_weights(gradient.ravel())
        return jnp.max(jnp.where(x.ravel() != 0, sizes, 0), initial=0)

    def margin(self, x: Array, gradient: Array, curvature: Array) -> Array:
        """As in `Penalty`, in units of the constraint's multiplier λ."""
        weights, inside = self._flat_weights(x.ravel()).reshape(x.shape), x != 0
        lam = self.multiplier(x, gradient)
        leaves = jnp.where(inside, jnp.abs(gradient - curvature * x) / weights, jnp.inf)
        return nearest_knot(lam, jnp.where(inside, 0, jnp.abs(gradient) / weights), leaves)

    def conjugate(self, v: Array) -> Array:
        sizes = jnp.abs(v).ravel() / self._flat_weights(v.ravel())
        return self._tau_like(v) * jnp.max(sizes, initial=0)

    def _flat_weights(self, flat: Array) -> Float[Array, " m"]:
        if self.weights is None:
            return jnp.ones_like(flat)
        return ravel_pytree(self.weights)[0].astype(flat.dtype)


class L2Ball(_Set):
    """The constraint ‖x‖₂ ≤ τ, of all coefficients together: ridge regression in its first form.

    A pytree is one vector.

    **Arguments:**

    - `tau`: the radius τ ≥ 0, in units of a coefficient; None is not set yet.

    **Raises:** ValueError for a negative radius. Source: Hoerl and Kennard (1970).

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> print(l1jax.L2Ball(2.5).prox(jnp.array([3.0, 4.0])))
    [1.5 2. ]

    ```
    """

    def __init__(self, tau: Any = None):
        super().__init__(tau)

    def prox(self, z: PyTree, step: Any = 1.0) -> PyTree:
        del step
        return prox.project_l2_ball(z, self._tau())

    def violation(self, x: PyTree) -> Array:
        norm = prox.l2_norm(ravel_pytree(x)[0])
        return jnp.maximum(norm - self._tau_like(norm), 0)

    def conjugate(self, v: Array) -> Array:
        return self._tau_like(v) * prox.l2_norm(v.ravel())


class Simplex(_Set):
    """The constraint x ≥ 0, Σⱼxⱼ = τ: shares of a whole, some of them zero.

    A pytree is one vector.

    **Arguments:**

    - `tau`: the sum τ ≥ 0, in units of a coefficient; 1 unless given.

    **Raises:** ValueError for a negative sum. Source: Duchi et al. (2008).

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> print(l1jax.Simplex().prox(jnp.array([1.0, 0.5, -1.0])))
    [0.75 0.25 0.  ]

    ```
    """

    def __init__(self, tau: Any = 1.0):
        super().__init__(tau)

    def prox(self, z: PyTree, step: Any = 1.0) -> PyTree:
        del step
        return prox.project_simplex(z, self._tau())

    def violation(self, x: PyTree) -> Array:
        flat, _ = ravel_pytree(x)
        off = jnp.abs(jnp.sum(flat) - self._tau_like(flat))
        return jnp.maximum(off, jnp.max(-flat, initial=0))

    def conjugate(self, v: Array) -> Array:
        return self._tau_like(v) * jnp.max(v)


class L1InfBall(_Set):
    """The constraint Σ_g max|x_g| ≤ τ: few groups, by a bound in place of a weight.

    **Arguments:**

    - `tau`: the radius τ ≥ 0, in units of a coefficient; None is not set yet.
    - `groups`: one id per feature, (p,), integers or strings, or `Groups`.

    **Raises:** ValueError for a negative radius or a wrong length; TypeError without groups.
    Source: Quattoni et al. (2009).

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> print(l1jax.L1InfBall(2.0, groups=[0, 0, 1]).prox(jnp.array([3.0, 2.5, 0.5])))
    [2. 2. 0.]

    ```
    """

    norm: L1Inf

    def __init__(self, tau: Any = None, groups: Any = None):
        super().__init__(tau)
        if groups is None:
            raise TypeError(
                "L1InfBall needs groups: one id per feature, as in L1InfBall(1.0, groups=[0, 0, 1])."
            )
        self.norm = L1Inf(1.0, Groups.of(groups))

    def prox(self, z: Array, step: Any = 1.0) -> Array:
        del step
        return prox.project_l1_inf_ball(z, self._tau(), self.norm.groups)

    def violation(self, x: Array) -> Array:
        norm = self.norm.value(x)
        return jnp.maximum(norm - self._tau_like(norm), 0)

    def conjugate(self, v: Array) -> Array:
        return self._tau_like(v) * self.norm.lambda_max(v)


class Box(Penalty):
    """The constraint lower ≤ x ≤ upper, coefficient by coefficient. It has no strength.

    **Arguments:**

    - `lower`, `upper`: numbers, or shaped like the coefficients; −inf and inf are no limits.

    **Raises:** ValueError for lower > upper.

    Source: Parikh and Boyd (2014), section 6.2.

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> print(l1jax.Box(0.0, 1.0).prox(jnp.array([1.5, -0.5, 0.5])))
    [1.  0.  0.5]

    ```
    """

    metric: ClassVar[Any] = "diagonal"

    lower: Any
    upper: Any

    def __init__(self, lower: Any = -np.inf, upper: Any = np.inf):
        self.lower, self.upper = _limit(lower, "lower"), _limit(upper, "upper")
        known = [frozen(one) for one in (self.lower, self.upper) if not is_traced(one)]
        if len(known) == 2 and not (np.asarray(known[0]) <= np.asarray(known[1])).all():
            raise ValueError(f"lower must be <= upper everywhere, got {lower} and {upper}.")

    def is_valid(self) -> Bool[Array, ""]:
        return jnp.all(jnp.asarray(self.lower) <= jnp.asarray(self.upper))

    def value(self, x: PyTree) -> Array:
        return jnp.zeros((), jnp.result_type(*jax.tree.leaves(x)))

    def prox(self, z: PyTree, step: Any = 1.0) -> PyTree:
        del step
        return prox.project_box(z, self.lower, self.upper)

    def masks(self, shape: tuple[int, ...]) -> Masks:
        lower, upper = (jnp.broadcast_to(jnp.asarray(b), shape) for b in (self.lower, self.upper))
        is_free = jnp.isneginf(lower) & jnp.isposinf(upper)
        return Masks(unpenalised=is_free, excluded=(lower == 0) & (upper == 0))

    def conjugate(self, v: Array) -> Array:
        """Σⱼ max(lowerⱼvⱼ, upperⱼvⱼ)."""
        bound = self._bound(v)
        return jnp.sum(jnp.where(v == 0, 0, bound * jnp.where(jnp.isinf(bound), jnp.abs(v), v)))

    def dual_scale(self, v: Array) -> Array:
        return jnp.where(jnp.any(jnp.isinf(self._bound(v)) & (v != 0)), 0, 1).astype(v.dtype)

    def _bound(self, v: Array) -> Array:
        """The limit of the side that v points to; inf where there is none."""
        lower, upper = (jnp.asarray(b, v.dtype) for b in (self.lower, self.upper))
        bound = jnp.where(v > 0, upper, lower)
        return jnp.where(jnp.isinf(bound), jnp.inf, bound)


def _limit(value: Any, name: str) -> Any:
    """A limit as a leaf; one of placeholders that tree transformations put there as it is."""
    if isinstance(value, jax.Array) or type(value) is object:
        return value
    array = np.asarray(value)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name} must be numbers, got {value!r} of type {type(value).__name__}.")
    return array.astype(array.dtype if array.dtype.kind == "f" else np.float64)


class Cardinality(Penalty):
    """The constraint that at most k coefficients are not zero; of a pytree, of all leaves together.

    Not convex: what a fit returns is a fixed point of iterative hard thresholding, judged by its optimality
    conditions (`fit.kkt`), and depends on where it starts.

    **Arguments:**

    - `k`: how many, a number ≥ 0; None is not set yet.

    **Raises:** ValueError for a negative number. Source: Blumensath and Davies (2009).

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> print(l1jax.Cardinality(2).prox(jnp.array([3.0, -0.5, -2.0])))
    [ 3.  0. -2.]

    ```
    """

    strength: ClassVar[str] = "k"
    convex: ClassVar[bool] = False

    k: Any

    def __init__(self, k: Any = None):
        self.k = strength_leaf(k, "k")

    def value(self, x: PyTree) -> Array:
        return jnp.zeros((), jnp.result_type(*jax.tree.leaves(x)))

    def prox(self, z: PyTree, step: Any = 1.0) -> PyTree:
        del step
        return prox.project_cardinality(z, self._number())

    def violation(self, x: PyTree) -> Array:
        """The largest coefficient beyond the first k."""
        flat, _ = ravel_pytree(x)
        sizes = jnp.sort(jnp.abs(flat), descending=True)
        return jnp.max(
            jnp.where(jnp.arange(flat.size) < jnp.asarray(self._number()), 0, sizes), initial=0
        )

    def lambda_max(self, gradient: Array) -> Array:
        """The number at which nothing is left: 0, whatever the gradient."""
        return jnp.zeros((), gradient.dtype)

    def _number(self) -> Any:
        if self.k is None:
            raise ValueError("Cardinality has no number yet: pass k, as in Cardinality(10).")
        return self.k
