"""Penalties that are sums over coordinates: L1, elastic net, ridge, the first two also for coefficients ≥ 0."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PyTree

from .. import prox
from .._tracing import frozen, is_traced
from ._base import (
    EDGE,
    LinearForm,
    Masks,
    Penalty,
    check_nonnegative,
    nearest_knot,
    no_negative,
    strength_leaf,
    total,
    weight_leaves,
)


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

    def _terms(self, x: PyTree) -> list[tuple[Array, Array, Array]]:
        """(leaf, λ w broadcast to the leaf, excluded) for each leaf of x."""
        leaves, tree = jax.tree.flatten(x)
        weights = _like(self.weights, tree, 1.0)
        excluded = _like(self.excluded, tree, False)
        return [
            (
                leaf,
                jnp.asarray(self._lam(), leaf.dtype) * per_row(w, leaf),
                per_row(off, leaf, bool),
            )
            for leaf, w, off in zip(leaves, weights, excluded, strict=True)
        ]

    def _array_terms(self, x: Array) -> tuple[Array, Array]:
        ((_, lam_w, excluded),) = self._terms(x)
        return jnp.broadcast_to(lam_w, x.shape), jnp.broadcast_to(excluded, x.shape)

    def masks(self, shape: tuple[int, ...]) -> Masks:
        lam_w, excluded = self._array_terms(jnp.zeros(shape))
        return Masks(unpenalised=(lam_w == 0) & ~excluded, excluded=excluded)

    def _weights_or_inf(self, shape: tuple[int, ...]) -> Array:
        """λ w, infinite where a coordinate is excluded."""
        lam_w, excluded = self._array_terms(jnp.zeros(shape))
        return jnp.where(excluded, jnp.inf, lam_w)

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

    def _unit_weights(self, x: Array) -> tuple[Array, Array]:
        """The weights without λ, and which coordinates they penalise at all."""
        w = per_row(1.0 if self.weights is None else self.weights, x)
        excluded = per_row(False if self.excluded is None else self.excluded, x, bool)
        w = jnp.broadcast_to(w, x.shape)
        return w, (w > 0) & ~jnp.broadcast_to(excluded, x.shape)

    def _critical_strengths(self, gradient: Array) -> Array:
        """The λ from which on each coefficient by itself is 0, with this gradient there; 0: unpenalised."""
        w, penalised = self._unit_weights(gradient)
        return jnp.where(penalised, jnp.abs(gradient) / jnp.where(penalised, w, 1), 0)

    def lambda_max(self, gradient: Array) -> Array:
        return jnp.max(self._critical_strengths(gradient), initial=0)

    def margin(self, x: Array, gradient: Array, curvature: Array) -> Array:
        _, penalised = self._unit_weights(x)
        leaves = self._critical_strengths(gradient - curvature * x)
        return nearest_knot(
            self._lam(),
            jnp.where(x == 0, self._critical_strengths(gradient), 0),
            jnp.where((x != 0) & penalised, leaves, jnp.inf),
        )

    def dual_norm(self, gradient: Array) -> Array:
        return jnp.max(_Separable._critical_strengths(self, gradient), initial=0)


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

    def linear_form(self, shape: tuple[int, ...]) -> LinearForm:
        weight = self._weights_or_inf(shape)
        return LinearForm(weight, weight, jnp.zeros_like(weight))

    def conjugate(self, v: Array) -> Array:
        lam_w, excluded = self._array_terms(v)
        return _indicator(excluded | _within(jnp.abs(v), lam_w), v)

    def dual_scale(self, v: Array) -> Array:
        lam_w, excluded = self._array_terms(v)
        return _scale_into(jnp.abs(v), lam_w, ~excluded)

    def distance(self, x: Array, gradient: Array, step: Any = 1.0) -> Array:
        del step
        lam_w, excluded = self._array_terms(x)
        inside = jnp.maximum(jnp.abs(gradient) - lam_w, 0)
        active = jnp.abs(gradient + lam_w * jnp.sign(x))
        return jnp.where(excluded, jnp.abs(x), jnp.where(x == 0, inside, active))


class NonNegativeL1(_Separable):
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
        super().__init__(lam, weights)

    homogeneous: ClassVar[bool] = True

    def value(self, x: PyTree) -> Array:
        return total(jnp.sum(lam_w * leaf, where=~off) for leaf, lam_w, off in self._terms(x))

    def prox(self, z: PyTree, step: Any = 1.0) -> PyTree:
        return self._zero_excluded(prox.prox_nonnegative_l1(z, self._lam(), step, self.weights))

    def violation(self, x: PyTree) -> Array:
        return jnp.maximum(_below_zero(x), super().violation(x))

    def masks(self, shape: tuple[int, ...]) -> Masks:
        # A coordinate of weight 0 is still bound to be non-negative: it is not free.
        masks = super().masks(shape)
        return Masks(unpenalised=jnp.zeros_like(masks.unpenalised), excluded=masks.excluded)

    def _critical_strengths(self, gradient: Array) -> Array:
        return super()._critical_strengths(jnp.minimum(gradient, 0))

    def linear_form(self, shape: tuple[int, ...]) -> LinearForm:
        up = self._weights_or_inf(shape)
        return LinearForm(up, jnp.full_like(up, jnp.inf), jnp.zeros_like(up))

    def conjugate(self, v: Array) -> Array:
        lam_w, excluded = self._array_terms(v)
        return _indicator(excluded | _within(v, lam_w), v)

    def dual_scale(self, v: Array) -> Array:
        lam_w, excluded = self._array_terms(v)
        return _scale_into(jnp.maximum(v, 0), lam_w, ~excluded)

    def distance(self, x: Array, gradient: Array, step: Any = 1.0) -> Array:
        del step
        lam_w, excluded = self._array_terms(x)
        slope = gradient + lam_w
        inside = jnp.where(x == 0, jnp.maximum(-slope, 0), jnp.abs(slope))
        return jnp.where(excluded | (x < 0), jnp.abs(x), inside)


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

    def _weights_of_terms(self, x: Array) -> tuple[Array, Array, Array]:
        """The weights of |x| and of ½x², and the excluded mask."""
        lam_w, excluded = self._array_terms(x)
        ratio = jnp.asarray(self.l1_ratio, x.dtype)
        return lam_w * ratio, lam_w * (1 - ratio), excluded

    def value(self, x: PyTree) -> Array:
        def term(leaf, lam_w, off):
            ratio = jnp.asarray(self.l1_ratio, leaf.dtype)
            unit = ratio * jnp.abs(leaf) + 0.5 * (1 - ratio) * leaf**2
            return jnp.sum(lam_w * unit, where=~off)

        return total(term(*terms) for terms in self._terms(x))

    def prox(self, z: PyTree, step: Any = 1.0) -> PyTree:
        out = prox.prox_elastic_net(z, self._lam(), self.l1_ratio, step, self.weights)
        return self._zero_excluded(out)

    def _critical_strengths(self, gradient: Array) -> Array:
        return ridge_or(super()._critical_strengths(gradient), self.l1_ratio)

    def linear_form(self, shape: tuple[int, ...]) -> LinearForm:
        linear, quadratic, excluded = self._weights_of_terms(jnp.zeros(shape))
        linear = jnp.where(excluded, jnp.inf, linear)
        return LinearForm(linear, linear, quadratic)

    def conjugate(self, v: Array) -> Array:
        linear, quadratic, excluded = self._weights_of_terms(v)
        beyond = jnp.maximum(jnp.abs(v) - linear, 0)
        curved = quadratic > 0
        terms = jnp.where(curved, beyond**2 / (2 * jnp.where(curved, quadratic, 1)), 0)
        inside = excluded | curved | _within(jnp.abs(v), linear)
        return jnp.sum(terms, where=~excluded) + _indicator(inside, v)

    def dual_scale(self, v: Array) -> Array:
        linear, quadratic, excluded = self._weights_of_terms(v)
        return _scale_into(jnp.abs(v), linear, ~excluded & (quadratic == 0))

    def dual_scales(self, v: Array, x: Array) -> Array:
        """Unscaled; scaled into the lasso's ball; and scaled as the lasso on augmented data."""
        linear, quadratic, excluded = self._weights_of_terms(v)
        limit = self.dual_scale(v)
        boxed = _scale_into(jnp.abs(v), linear, ~excluded)
        augmented = _scale_into(jnp.abs(v - quadratic * x), linear, ~excluded)
        return jnp.minimum(jnp.stack([limit, boxed, augmented]), limit)

    def distance(self, x: Array, gradient: Array, step: Any = 1.0) -> Array:
        del step
        linear, quadratic, excluded = self._weights_of_terms(x)
        slope = gradient + quadratic * x
        inside = jnp.maximum(jnp.abs(slope) - linear, 0)
        active = jnp.abs(slope + linear * jnp.sign(x))
        return jnp.where(excluded, jnp.abs(x), jnp.where(x == 0, inside, active))


class NonNegativeElasticNet(ElasticNet):
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

    def violation(self, x: PyTree) -> Array:
        return jnp.maximum(_below_zero(x), super().violation(x))

    def masks(self, shape: tuple[int, ...]) -> Masks:
        # A coordinate of weight 0 is still bound to be non-negative: it is not free.
        masks = super().masks(shape)
        return Masks(unpenalised=jnp.zeros_like(masks.unpenalised), excluded=masks.excluded)

    def _critical_strengths(self, gradient: Array) -> Array:
        return super()._critical_strengths(jnp.minimum(gradient, 0))

    def linear_form(self, shape: tuple[int, ...]) -> LinearForm:
        up, _, quad = super().linear_form(shape)
        return LinearForm(up, jnp.full_like(up, jnp.inf), quad)

    def conjugate(self, v: Array) -> Array:
        return super().conjugate(jnp.maximum(v, 0))

    def dual_scale(self, v: Array) -> Array:
        return super().dual_scale(jnp.maximum(v, 0))

    def dual_scales(self, v: Array, x: Array) -> Array:
        """As of `ElasticNet`, of what is above zero: below it there is no limit."""
        linear, quadratic, excluded = self._weights_of_terms(v)
        limit = self.dual_scale(v)
        boxed = _scale_into(jnp.maximum(v, 0), linear, ~excluded)
        augmented = _scale_into(jnp.maximum(v - quadratic * x, 0), linear, ~excluded)
        return jnp.minimum(jnp.stack([limit, boxed, augmented]), limit)

    def distance(self, x: Array, gradient: Array, step: Any = 1.0) -> Array:
        del step
        linear, quadratic, excluded = self._weights_of_terms(x)
        slope = gradient + quadratic * x + linear
        inside = jnp.where(x == 0, jnp.maximum(-slope, 0), jnp.abs(slope))
        return jnp.where(excluded | (x < 0), jnp.abs(x), inside)


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

    def margin(self, x: Array, gradient: Array, curvature: Array) -> Array:
        """Infinite: along λ no coefficient becomes zero, and none ceases to be."""
        return jnp.full((), jnp.inf, x.dtype)

    def _critical_strengths(self, gradient: Array) -> Array:
        return ridge_or(super()._critical_strengths(gradient), 0.0)

    def linear_form(self, shape: tuple[int, ...]) -> LinearForm:
        return self._net().linear_form(shape)

    def conjugate(self, v: Array) -> Array:
        return self._net().conjugate(v)

    def dual_scale(self, v: Array) -> Array:
        return self._net().dual_scale(v)

    def distance(self, x: Array, gradient: Array, step: Any = 1.0) -> Array:
        del step
        return self._net().distance(x, gradient)


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


def ridge_or(norm: Array, l1_ratio: Any) -> Array:
    """λmax = norm/ρ; of a ridge (ρ = 0), which never lets go, infinite."""
    ratio = jnp.asarray(l1_ratio, norm.dtype)
    at_ridge = jnp.where(norm > 0, jnp.inf, 0).astype(norm.dtype)
    return jnp.where(ratio > 0, norm / jnp.where(ratio > 0, ratio, 1), at_ridge)


def per_row(weights: Any, x: Array, dtype: Any = None) -> Array:
    """Weights with one entry per feature, shaped to multiply x of shape (p,) or (p, k)."""
    weights = jnp.asarray(weights, x.dtype if dtype is None else dtype)
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


def _within(v: Array, bound: Array) -> Array:
    return v <= bound * (1 + EDGE * jnp.finfo(v.dtype).eps)


def _indicator(inside: Array, v: Array) -> Array:
    return jnp.where(jnp.all(inside), 0, jnp.inf).astype(v.dtype)


def _scale_into(size: Array, bound: Array, counts: Array) -> Array:
    """The largest c in [0, 1] with c·size ≤ bound wherever it counts."""
    outside = counts & (size > bound)
    ratios = jnp.where(outside, bound / jnp.where(outside, size, 1), 1)
    return jnp.min(ratios, initial=1)
