"""Norms of all coefficients together, by their dual norm: the ∞-norm, the 2-norm, the nuclear norm."""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PyTree

from .. import prox
from ._base import Penalty, strength_leaf, total
from ._forms import EDGE


class Norm(Penalty):
    """λ times a norm: a subclass defines `value`, `prox` and `lambda_max`, the dual norm at λ = 1."""

    homogeneous: ClassVar[bool] = True

    lam: Any

    def __init__(self, lam: Any = None):
        self.lam = strength_leaf(lam, "lam")

    def violation(self, x: PyTree) -> Array:
        return jnp.zeros((), jnp.result_type(*jax.tree.leaves(x)))

    def conjugate(self, v: Array) -> Array:
        limit = self._lam_like(v) * (1 + self._edge(v) * jnp.finfo(v.dtype).eps)
        return jnp.where(self.lambda_max(v) <= limit, 0, jnp.inf).astype(v.dtype)

    def dual_scale(self, v: Array) -> Array:
        lam, norm = self._lam_like(v), self.lambda_max(v)
        return jnp.where(norm > lam, lam / jnp.where(norm > lam, norm, 1), 1)

    def _edge(self, v: Array) -> Any:
        """Units of rounding by which v may lie outside of the dual ball."""
        del v
        return EDGE

    def _lam(self) -> Any:
        if self.lam is None:
            raise ValueError(
                f"{type(self).__name__} has no strength yet: pass lam, or pen.with_strength(0.1)."
            )
        return self.lam

    def _lam_like(self, x: Array) -> Array:
        return jnp.asarray(self._lam(), x.dtype)


class L2(Norm):
    """The 2-norm λ‖x‖₂ of all coefficients, not squared: all of them are in, or none is.

    A pytree is one vector. For a norm per group: `GroupL1`.

    **Arguments:**

    - `lam`: the strength λ ≥ 0, in units of a gradient; None is not set yet.

    **Raises:** ValueError for a negative strength. Source: Yuan and Lin (2006).

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> print(l1jax.L2(2.5).prox(jnp.array([3.0, 4.0])))
    [1.5 2. ]

    ```
    """

    def __init__(self, lam: Any = None):
        super().__init__(lam)

    def value(self, x: PyTree) -> Array:
        flat, _ = ravel_pytree(x)
        return self._lam_like(flat) * prox.l2_norm(flat)

    def prox(self, z: PyTree, step: Any = 1.0) -> PyTree:
        return prox.prox_l2(z, self._lam(), step)

    def lambda_max(self, gradient: Array) -> Array:
        return prox.l2_norm(gradient.ravel())


class LInf(Norm):
    """The ∞-norm λ max|xⱼ|: the largest coefficients are made equal, none is made zero alone.

    A pytree is one vector. For a norm per group: `L1Inf`.

    **Arguments and errors:** as for `L2`.

    Source: Parikh and Boyd (2014), section 6.5.

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> print(l1jax.LInf(2.0).prox(jnp.array([3.0, -2.5, 1.0])))
    [ 1.75 -1.75  1.  ]

    ```
    """

    def __init__(self, lam: Any = None):
        super().__init__(lam)

    def value(self, x: PyTree) -> Array:
        flat, _ = ravel_pytree(x)
        return self._lam_like(flat) * jnp.max(jnp.abs(flat), initial=0)

    def prox(self, z: PyTree, step: Any = 1.0) -> PyTree:
        return prox.prox_linf(z, self._lam(), step)

    def lambda_max(self, gradient: Array) -> Array:
        return jnp.sum(jnp.abs(gradient))


class NuclearNorm(Norm):
    """The nuclear norm λ Σᵢσᵢ(X), the sum of the singular values of a matrix, for one of low rank.

    Of coefficients (p, k): several responses, or the classes of a multinomial model. A vector is one column; of
    a pytree the norms of the leaves add up.

    **Arguments:**

    - `lam`: the strength λ ≥ 0, in units of a gradient; None is not set yet.

    **Raises:** ValueError for a negative strength, and for arrays with more than two axes.
    Source: Fazel, Hindi and Boyd (2001); the prox: Cai, Candès and Shen (2010).

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> print(l1jax.NuclearNorm(1.0).prox(jnp.diag(jnp.array([3.0, -0.5]))))
    [[2. 0.]
     [0. 0.]]

    ```
    """

    def __init__(self, lam: Any = None):
        super().__init__(lam)

    def value(self, x: PyTree) -> Array:
        return total(
            self._lam_like(m) * _nuclear_norm(prox.as_matrix(m)) for m in jax.tree.leaves(x)
        )

    def prox(self, z: PyTree, step: Any = 1.0) -> PyTree:
        return prox.prox_nuclear_norm(z, self._lam(), step)

    def lambda_max(self, gradient: Array) -> Array:
        """The largest singular value of the gradient."""
        values = jnp.linalg.svd(prox.as_matrix(gradient), compute_uv=False)
        return jnp.max(values, initial=0)

    def _edge(self, v: Array) -> Any:
        return EDGE * max(v.shape)  # what singular values are good to


@jax.custom_jvp
def _nuclear_norm(x: Array) -> Array:
    return jnp.sum(jnp.linalg.svd(x, compute_uv=False))


@_nuclear_norm.defjvp
def _(primals: tuple, tangents: tuple) -> tuple:
    """U Vᵀ of the singular values above rounding, a subgradient where others are zero."""
    (x,), (dx,) = primals, tangents
    u, sizes, v = jnp.linalg.svd(x, full_matrices=False)
    is_there = sizes > max(x.shape) * jnp.finfo(x.dtype).eps * jnp.max(sizes, initial=0)
    return jnp.sum(sizes), jnp.sum((u * is_there) @ v * dx)
