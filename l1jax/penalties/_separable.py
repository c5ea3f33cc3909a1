"""Penalties that are sums over coordinates: L1, elastic net, ridge, the first two also for coefficients ≥ 0."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PyTree

from .. import prox
from .._arrays import in_numpy, namespace
from .._tracing import frozen, is_traced
from .._types import Real
from ._base import (
    Masks,
    Penalty,
    check_nonnegative,
    nearest_knot,
    no_negative,
    strength_leaf,
    total,
    weight_leaves,
)
from ._forms import LinearForm


class _Separable(Penalty):
    """Σⱼ λ wⱼ r(xⱼ): a strength, and optional weights of which an infinite one excludes its coordinate."""

    metric: ClassVar[Literal["scalar", "diagonal"]] = "diagonal"

    lam: Any
    weights: Any
    excluded: Any

    def __init__(self, lam: Any = None, weights: Any = None):
        self.lam = strength_leaf(lam, "lam")
        self.weights, self.excluded = weight_leaves(weights)

    def is_valid(self) -> Bool[Array, ""]:
        return super().is_valid() & no_negative(self.weights)

    def violation(self, x: PyTree) -> Array:
        if self.excluded is None:
            return jnp.zeros((), jnp.result_type(*jax.tree.leaves(x)))
        leaves = [jnp.where(off, jnp.abs(leaf), 0) for leaf, _, off in self._terms(x)]
        return jnp.stack([jnp.max(leaf, initial=0) for leaf in leaves]).max()

    def _lam(self) -> Any:
        if self.lam is None:
            raise ValueError(
                f"{type(self).__name__} has no strength yet: pass lam, as in "
                f"{type(self).__name__}(0.1), or pen.with_strength(0.1)."
            )
        return self.lam

    def _terms(self, x: PyTree) -> list[tuple[Real, Real, Real]]:
        """(leaf, λ w broadcast to the leaf, excluded) for each leaf of x."""
        leaves, tree = jax.tree.flatten(x)
        weights = _like(self.weights, tree, 1.0)
        excluded = _like(self.excluded, tree, False)
        lam = self._lam()
        return [
            (
                leaf,
                namespace(lam, w, leaf).asarray(lam, leaf.dtype) * per_row(w, leaf),
                per_row(off, leaf, bool),
            )
            for leaf, w, off in zip(leaves, weights, excluded, strict=True)
        ]

    def _array_terms(self, x: Real) -> tuple[Real, Real]:
        ((_, lam_w, excluded),) = self._terms(x)
        xp = namespace(lam_w, excluded)
        return xp.broadcast_to(lam_w, x.shape), xp.broadcast_to(excluded, x.shape)

    def _zeros(self, shape: tuple[int, ...]) -> Real:
        return namespace(*jax.tree.leaves(self)).zeros(shape)

    def masks(self, shape: tuple[int, ...]) -> Masks:
        lam_w, excluded = self._array_terms(self._zeros(shape))
        return Masks(unpenalised=(lam_w == 0) & ~excluded, excluded=excluded)

    def linear_form(self, shape: tuple[int, ...]) -> LinearForm:
        return self._form(self._zeros(shape))

    def _form(self, x: Real) -> LinearForm:
        """The weights of the coordinates of x, in its precision."""
        lam_w, excluded = self._array_terms(x)
        xp = namespace(lam_w, excluded)
        up = xp.where(excluded, np.inf, lam_w)
        return LinearForm(up, up, xp.zeros_like(up))

    def _zero_excluded(self, x: PyTree) -> PyTree:
        """Returns x with 0 in the excluded coordinates."""
        if self.excluded is None:
            return x
        leaves, tree = jax.tree.flatten(x)
        kept = [
            jnp.where(per_row(off, leaf, bool), jnp.zeros((), leaf.dtype), leaf)
            for leaf, off in zip(leaves, _like(self.excluded, tree, False), strict=True)
        ]
        return jax.tree.unflatten(tree, kept)

    def _unit_weights(self, x: Real) -> tuple[Real, Real]:
        """The weights without λ, and which coordinates they penalise at all."""
        w = per_row(1.0 if self.weights is None else self.weights, x)
        excluded = per_row(False if self.excluded is None else self.excluded, x, bool)
        xp = namespace(w, excluded)
        w = xp.broadcast_to(w, x.shape)
        return w, (w > 0) & ~xp.broadcast_to(excluded, x.shape)

    def _critical_strengths(self, gradient: Real) -> Real:
        """The λ from which on each coefficient by itself is 0, with this gradient there; 0: unpenalised."""
        w, penalised = self._unit_weights(gradient)
        xp = namespace(w, gradient)
        return xp.where(penalised, abs(gradient) / xp.where(penalised, w, 1), 0)

    def lambda_max(self, gradient: Real) -> Real:
        return self._critical_strengths(gradient).max(initial=0)

    def margin(self, x: Array, gradient: Array, curvature: Array) -> Array:
        _, penalised = self._unit_weights(x)
        leaves = self._critical_strengths(gradient - curvature * x)
        return nearest_knot(
            self._lam(),
            jnp.where(x == 0, self._critical_strengths(gradient), 0),
            jnp.where((x != 0) & penalised, leaves, jnp.inf),
        )

    def dual_norm(self, gradient: Real) -> Real:
        return _Separable._critical_strengths(self, gradient).max(initial=0)

    def conjugate(self, v: Array) -> Array:
        return self._form(v).conjugate(v).sum().astype(v.dtype)

    def dual_scale(self, v: Array) -> Array:
        return least(self._form(v).limit(v))

    def distance(self, x: Array, gradient: Array, step: Any = 1.0) -> Array:
        del step
        return self._form(x).distance(x, gradient)


@in_numpy
class L1(_Separable):
    """The lasso penalty λ Σⱼ wⱼ|xⱼ|, whose corners at zero select.

    **Arguments:**

    - `lam`: the strength λ ≥ 0, in units of a gradient: a number, array or tracer; None is not set yet.
    - `weights`: w ≥ 0, one per feature (p,), the leading axis, or like the parameters; 0 leaves a feature
      unpenalised, inf excludes it.

    **Raises:** ValueError for negative or NaN values, TypeError for what is not a number.
    Source: Tibshirani (1996).

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> pen = l1jax.L1(1.0)
    >>> print(pen.prox(jnp.array([3.0, -0.5]), 1.0), pen.value(jnp.array([3.0, -0.5])))
    [2. 0.] 3.5

    ```
    """

    def __init__(self, lam: Any = None, weights: Any = None):
        super().__init__(lam, weights)

    homogeneous: ClassVar[bool] = True

    def value(self, x: PyTree) -> Array:
        terms = self._terms(x)
        return total(jnp.sum(lam_w * jnp.abs(leaf), where=~off) for leaf, lam_w, off in terms)

    def prox(self, z: PyTree, step: Any = 1.0) -> PyTree:
        return self._zero_excluded(prox.prox_l1(z, self._lam(), step, self.weights))


class _NonNegative(_Separable):
    """What is common to penalties on coefficients that must not be negative."""

    def violation(self, x: PyTree) -> Array:
        return jnp.maximum(_below_zero(x), super().violation(x))

    def masks(self, shape: tuple[int, ...]) -> Masks:
        # A coordinate of weight 0 is still bound to be non-negative: it is not free.
        masks = super().masks(shape)
        return masks._replace(unpenalised=masks.unpenalised & False)

    def _critical_strengths(self, gradient: Real) -> Real:
        return super()._critical_strengths(_falls(gradient))

    def _form(self, x: Real) -> LinearForm:
        return nonnegative(super()._form(x))


@in_numpy
class NonNegativeL1(_NonNegative):
    """The lasso penalty on non-negative coefficients: λ Σⱼ wⱼxⱼ where x ≥ 0.

    λ = 0 gives non-negative least squares.

    **Arguments and errors:** as for `L1`.

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> print(l1jax.NonNegativeL1(1.0).prox(jnp.array([3.0, -2.0])))
    [2. 0.]

    ```
    """

    def __init__(self, lam: Any = None, weights: Any = None):
        _Separable.__init__(self, lam, weights)

    homogeneous: ClassVar[bool] = True

    def value(self, x: PyTree) -> Array:
        return total(jnp.sum(lam_w * leaf, where=~off) for leaf, lam_w, off in self._terms(x))

    def prox(self, z: PyTree, step: Any = 1.0) -> PyTree:
        return self._zero_excluded(prox.prox_nonnegative_l1(z, self._lam(), step, self.weights))


@in_numpy
class ElasticNet(_Separable):
    """The elastic net λ Σⱼ wⱼ(ρ|xⱼ| + ½(1−ρ)xⱼ²): L1 selects, L2 keeps correlated features together.

    **Arguments and errors:** `lam` and `weights` as for `L1`, and

    - `l1_ratio`: ρ in [0, 1]; 1 is the lasso, 0 ridge.

    Source: Zou and Hastie (2005).

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> print(l1jax.ElasticNet(2.0, l1_ratio=0.5).prox(jnp.array([3.0, -0.5])))
    [1. 0.]

    ```
    """

    l1_ratio: Any

    def __init__(self, lam: Any = None, l1_ratio: Any = 0.5, weights: Any = None):
        super().__init__(lam, weights)
        self.l1_ratio = ratio_leaf(l1_ratio)

    def is_valid(self) -> Bool[Array, ""]:
        return super().is_valid() & is_ratio(self.l1_ratio)

    def value(self, x: PyTree) -> Array:
        def term(leaf, lam_w, off):
            ratio = jnp.asarray(self.l1_ratio, leaf.dtype)
            unit = ratio * jnp.abs(leaf) + 0.5 * (1 - ratio) * leaf**2
            return jnp.sum(lam_w * unit, where=~off)

        return total(term(*terms) for terms in self._terms(x))

    def prox(self, z: PyTree, step: Any = 1.0) -> PyTree:
        out = prox.prox_elastic_net(z, self._lam(), self.l1_ratio, step, self.weights)
        return self._zero_excluded(out)

    def _critical_strengths(self, gradient: Real) -> Real:
        return ridge_or(super()._critical_strengths(gradient), self.l1_ratio)

    def _form(self, x: Real) -> LinearForm:
        up, _, _ = super()._form(x)
        return split(up, self.l1_ratio)

    def dual_scales(self, v: Array, x: Array) -> Array:
        form = self._form(v)
        return form.scales(v, v - form.quad * x, least)


@in_numpy
class NonNegativeElasticNet(_NonNegative, ElasticNet):
    """The elastic net on non-negative coefficients: λ Σⱼ wⱼ(ρxⱼ + ½(1−ρ)xⱼ²) where x ≥ 0.

    ρ = 0 gives a non-negative ridge regression.

    **Arguments and errors:** as for `ElasticNet`.

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> print(l1jax.NonNegativeElasticNet(2.0, l1_ratio=0.5).prox(jnp.array([3.0, -2.0])))
    [1. 0.]

    ```
    """

    def __init__(self, lam: Any = None, l1_ratio: Any = 0.5, weights: Any = None):
        super().__init__(lam, l1_ratio, weights)

    def prox(self, z: PyTree, step: Any = 1.0) -> PyTree:
        lam, ratio = self._lam(), self.l1_ratio
        out = prox.prox_nonnegative_l1(z, lam * ratio, step, self.weights)
        return self._zero_excluded(prox.prox_ridge(out, lam * (1 - ratio), step, self.weights))


@in_numpy
class Ridge(_Separable):
    """The ridge penalty ½λ Σⱼ wⱼxⱼ²: it shrinks and never selects, for comparison.

    **Arguments and errors:** as for `L1`.

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> print(l1jax.Ridge(1.0).prox(jnp.array([3.0, -0.5])))
    [ 1.5  -0.25]

    ```
    """

    def __init__(self, lam: Any = None, weights: Any = None):
        super().__init__(lam, weights)

    def _net(self) -> ElasticNet:
        net = ElasticNet(self._lam(), 0.0)
        object.__setattr__(net, "weights", self.weights)
        object.__setattr__(net, "excluded", self.excluded)
        return net

    def value(self, x: PyTree) -> Array:
        return self._net().value(x)

    def prox(self, z: PyTree, step: Any = 1.0) -> PyTree:
        return self._zero_excluded(prox.prox_ridge(z, self._lam(), step, self.weights))

    def margin(self, x: Real, gradient: Real, curvature: Real) -> Real:
        """Infinite: along λ no coefficient becomes zero, and none ceases to be."""
        return namespace(x).full((), np.inf, x.dtype)

    def _critical_strengths(self, gradient: Real) -> Real:
        return ridge_or(super()._critical_strengths(gradient), 0.0)

    def _form(self, x: Real) -> LinearForm:
        up, _, _ = super()._form(x)
        return split(up, np.zeros((), x.dtype))


def ratio_leaf(l1_ratio: Any) -> Any:
    """l1_ratio as a leaf, checked to lie in [0, 1] where it is concrete."""
    ratio = strength_leaf(l1_ratio, "l1_ratio")
    if ratio is None:
        raise TypeError("l1_ratio must be a number in [0, 1], got None.")
    if not is_traced(ratio) and type(ratio) is not object:
        concrete = np.asarray(frozen(ratio))
        check_nonnegative(concrete, "l1_ratio")
        if (concrete > 1).any():
            raise ValueError(f"l1_ratio must lie in [0, 1], got {concrete.max()}.")
    return ratio


def is_ratio(l1_ratio: Any) -> Bool[Array, ""]:
    """Whether it lies in [0, 1], for one that is traced."""
    return jnp.all((jnp.asarray(l1_ratio) >= 0) & (jnp.asarray(l1_ratio) <= 1))


def ridge_or(norm: Real, l1_ratio: Any) -> Real:
    """λmax = norm/ρ; of a ridge (ρ = 0), which never lets go, infinite."""
    xp = namespace(norm, l1_ratio)
    ratio = xp.asarray(l1_ratio, norm.dtype)
    at_ridge = xp.where(norm > 0, np.inf, 0).astype(norm.dtype)
    return xp.where(ratio > 0, norm / xp.where(ratio > 0, ratio, 1), at_ridge)


def least(scales: Real) -> Real:
    """The least of scales in [0, 1]; 1 of none."""
    return scales.min(initial=1)


def split(weight: Real, l1_ratio: Any) -> LinearForm:
    """The form of an elastic net with these weights, inf of what is excluded."""
    xp = namespace(weight, l1_ratio)
    ratio, is_excluded = xp.asarray(l1_ratio, weight.dtype), xp.isinf(weight)
    finite = xp.where(is_excluded, 0, weight)
    linear = xp.where(is_excluded, np.inf, finite * ratio)
    return LinearForm(linear, linear, finite * (1 - ratio))


def nonnegative(form: LinearForm) -> LinearForm:
    """The form on coefficients ≥ 0."""
    return form._replace(down=namespace(*form).full_like(form.up, np.inf))


def _falls(gradient: Real) -> Real:
    """The part of a gradient along which a coefficient ≥ 0 can leave zero."""
    return namespace(gradient).minimum(gradient, 0)


def per_row(weights: Any, x: Real, dtype: Any = None) -> Real:
    """Weights with one entry per feature, shaped to multiply x of shape (p,) or (p, k)."""
    weights = namespace(weights, x).asarray(weights, x.dtype if dtype is None else dtype)
    if 0 < weights.ndim < x.ndim:
        weights = weights.reshape(weights.shape + (1,) * (x.ndim - weights.ndim))
    if not prox.fits(weights.shape, x.shape):
        raise ValueError(
            f"weights has shape {weights.shape}, which does not fit coefficients of shape {x.shape}."
        )
    return weights


def _like(tree: PyTree, structure: Any, default: Any) -> list:
    """One entry of `tree` (an array, a pytree of this structure, or None) for each leaf."""
    if tree is None:
        return [default] * structure.num_leaves
    if hasattr(tree, "shape"):
        return [tree] * structure.num_leaves
    return structure.flatten_up_to(tree)


def _below_zero(x: PyTree) -> Array:
    """How far the least entry of x is below zero."""
    return jnp.stack([jnp.max(-leaf, initial=0) for leaf in jax.tree.leaves(x)]).max()
