"""Penalties that are sums over coordinates: L1, elastic net, ridge, the first two also for coefficients ≥ 0."""

from __future__ import annotations

import abc
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PyTree

from .. import prox
from .._arrays import in_numpy, namespace
from .._modules import with_fields
from .._tracing import frozen, is_traced
from .._types import Real
from ._base import (
    Masks,
    Penalty,
    check_nonnegative,
    nearest_knot,
    no_negative,
    number_above,
    strength_leaf,
    total,
    weight_leaves,
)
from ._forms import LinearForm


class _Separable(Penalty):
    """Σⱼ λ wⱼ r(xⱼ) where lowerⱼ ≤ xⱼ ≤ upperⱼ: a strength, optional weights, and optional limits.

    An infinite weight excludes its coordinate. A subclass says what its prox is without limits, in `_shrink`:
    that of a convex function of one number, kept within limits, is the nearest point of it within them.
    """

    metric: ClassVar[Literal["scalar", "diagonal"]] = "diagonal"

    lam: Any
    weights: Any
    excluded: Any
    lower: Any
    upper: Any

    def __init__(self, lam: Any = None, weights: Any = None, lower: Any = None, upper: Any = None):
        self.lam = strength_leaf(lam, "lam")
        self.weights, self.excluded = weight_leaves(weights)
        self.lower, self.upper = limit_leaves(lower, "lower", -1), limit_leaves(upper, "upper", 1)

    def is_valid(self) -> Bool[Array, ""]:
        limits_are_valid = no_negative(self.upper) & no_negative(_negated(self.lower))
        return super().is_valid() & no_negative(self.weights) & limits_are_valid

    @property
    def has_limits(self) -> bool:
        return self.lower is not None or self.upper is not None

    def on_scale(self, deviations: Real) -> Penalty:
        if not self.has_limits:
            return self
        lower, upper = _scaled(self.lower, deviations), _scaled(self.upper, deviations)
        return with_fields(self, lower=lower, upper=upper)

    def restricted(self, features: Any) -> Penalty:
        """The penalty of some of the features of one array, by index."""

        def some(leaf: Any) -> Any:
            return leaf[features] if np.ndim(leaf) else leaf

        names = ("weights", "excluded", "lower", "upper")
        parts = {name: jax.tree.map(some, getattr(self, name)) for name in names}
        return with_fields(self, **parts)

    def violation(self, x: PyTree) -> Array:
        most = jnp.zeros((), jnp.result_type(*jax.tree.leaves(x)))
        if self.excluded is not None:
            for leaf, _, off in self._terms(x):
                most = jnp.maximum(most, jnp.max(jnp.where(off, jnp.abs(leaf), 0), initial=0))
        if self.has_limits:
            for leaf, lower, upper in self._limits(x):
                over = jnp.maximum(lower - leaf, leaf - upper)
                most = jnp.maximum(most, jnp.max(over, initial=0))
        return most

    @abc.abstractmethod
    def _shrink(self, z: PyTree, step: Any) -> PyTree:
        """The prox without limits, and for all coordinates as if none were excluded."""

    def prox(self, z: PyTree, step: Any = 1.0) -> PyTree:
        return self._inside(self._zero_excluded(self._shrink(z, step)))

    def _limits(self, x: PyTree) -> list[tuple[Real, Real, Real]]:
        """(leaf, lower, upper), shaped to go with the leaf, for each leaf of x."""
        leaves, tree = jax.tree.flatten(x)
        lower, upper = _like(self.lower, tree, -np.inf), _like(self.upper, tree, np.inf)
        return [
            (leaf, per_row(low, leaf, name="lower"), per_row(high, leaf, name="upper"))
            for leaf, low, high in zip(leaves, lower, upper, strict=True)
        ]

    def _inside(self, x: PyTree) -> PyTree:
        """The nearest point within the limits; its derivative at a limit is that of the limit."""
        if not self.has_limits:
            return x
        inside = [
            jnp.where(leaf >= upper, upper, jnp.where(leaf <= lower, lower, leaf))
            for leaf, lower, upper in self._limits(x)
        ]
        return jax.tree.unflatten(jax.tree.structure(x), inside)

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
        zeros = self._zeros(shape)
        lam_w, excluded = self._array_terms(zeros)
        unpenalised = (lam_w == 0) & ~excluded
        if self.has_limits:
            # A coordinate of weight 0 within limits is not free.
            ((_, lower, upper),) = self._limits(zeros)
            excluded = excluded | ((lower == 0) & (upper == 0))
            xp = namespace(lower, upper)
            unpenalised = unpenalised & ~(xp.isfinite(lower) | xp.isfinite(upper))
        return Masks(unpenalised=unpenalised, excluded=excluded)

    def linear_form(self, shape: tuple[int, ...]) -> LinearForm | None:
        return self._form(self._zeros(shape))

    def _form(self, x: Real) -> LinearForm:
        """The weights and limits of the coordinates of x, in its precision."""
        return self._within_limits(self._weights_form(x), x)

    def _weights_form(self, x: Real) -> LinearForm:
        """The form without limits."""
        lam_w, excluded = self._array_terms(x)
        xp = namespace(lam_w, excluded)
        up = xp.where(excluded, np.inf, lam_w)
        return LinearForm(up, up, xp.zeros_like(up))

    def _within_limits(self, form: LinearForm, x: Real) -> LinearForm:
        """The form with the limits; where one of them is 0, the weight of that side is infinite."""
        if not self.has_limits:
            return form
        ((_, lower, upper),) = self._limits(x)
        xp = namespace(form.up, lower, upper)
        lower, upper = xp.broadcast_to(lower, x.shape), xp.broadcast_to(upper, x.shape)
        up, down = xp.where(upper == 0, np.inf, form.up), xp.where(lower == 0, np.inf, form.down)
        return LinearForm(up, down, form.quad, lower, upper)

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
        if self.has_limits:
            ((_, lower, upper),) = self._limits(gradient)
            xp = namespace(gradient, lower, upper)
            limit = xp.where(gradient < 0, upper, lower)
            gradient = xp.where(limit == 0, 0, gradient)
        xp = namespace(w, gradient)
        return xp.where(penalised, abs(gradient) / xp.where(penalised, w, 1), 0)

    def lambda_max(self, gradient: Real) -> Real:
        return self._critical_strengths(gradient).max(initial=0)

    def margin(self, x: Array, gradient: Array, curvature: Array) -> Array:
        _, penalised = self._unit_weights(-x)
        leaves = self._critical_strengths(gradient - curvature * x)
        enters = jnp.where(x == 0, self._critical_strengths(gradient), 0)
        leaves = jnp.where((x != 0) & penalised, leaves, jnp.inf)
        return nearest_knot(
            self._lam(), *self._with_limit_knots(enters, leaves, x, gradient, curvature)
        )

    def _with_limit_knots(
        self, enters: Real, leaves: Real, x: Real, gradient: Real, curvature: Real
    ) -> tuple[Real, Real]:
        """The λ at which coordinates enter or reach a limit, and at which they leave 0 or a limit."""
        if not self.has_limits:
            return enters, leaves
        unit: Any = self.with_strength(1.0)
        reaches, frees = unit._form(x).limit_knots(x, gradient, curvature)
        return jnp.maximum(enters, reaches), jnp.minimum(leaves, frees)

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
    - `lower` ≤ 0 ≤ `upper`: limits of the coefficients, in the units in which these are reported: numbers, or
      arrays as for `weights`; infinite, or None, where there is none. A coefficient at a limit stays there
      while λ falls, and does not move with it.

    **Raises:** ValueError for negative or NaN values and for limits on the wrong side of 0, TypeError for what
    is not a number.
    Source: Tibshirani (1996); limits: Friedman, Hastie and Tibshirani (2010).

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> pen = l1jax.L1(1.0)
    >>> print(pen.prox(jnp.array([3.0, -0.5]), 1.0), pen.value(jnp.array([3.0, -0.5])))
    [2. 0.] 3.5
    >>> print(l1jax.L1(1.0, lower=-1.0, upper=[0.5, jnp.inf]).prox(jnp.array([3.0, -4.0])))
    [ 0.5 -1. ]

    ```
    """

    def __init__(
        self, lam: Any = None, weights: Any = None, *, lower: Any = None, upper: Any = None
    ):
        super().__init__(lam, weights, lower, upper)

    homogeneous: ClassVar[bool] = True

    def value(self, x: PyTree) -> Array:
        terms = self._terms(x)
        return total(jnp.sum(lam_w * jnp.abs(leaf), where=~off) for leaf, lam_w, off in terms)

    def _shrink(self, z: PyTree, step: Any) -> PyTree:
        return prox.prox_l1(z, self._lam(), step, self.weights)


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

    def _weights_form(self, x: Real) -> LinearForm:
        return nonnegative(super()._weights_form(x))


@in_numpy
class NonNegativeL1(_NonNegative):
    """The lasso penalty on non-negative coefficients: λ Σⱼ wⱼxⱼ where x ≥ 0.

    λ = 0 gives non-negative least squares.

    **Arguments and errors:** as for `L1`, of whose limits there is `upper`.

    Source: Efron, Hastie, Johnstone and Tibshirani (2004), as the positive lasso.

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> print(l1jax.NonNegativeL1(1.0).prox(jnp.array([3.0, -2.0])))
    [2. 0.]

    ```
    """

    def __init__(self, lam: Any = None, weights: Any = None, *, upper: Any = None):
        _Separable.__init__(self, lam, weights, None, upper)

    homogeneous: ClassVar[bool] = True

    def value(self, x: PyTree) -> Array:
        return total(jnp.sum(lam_w * leaf, where=~off) for leaf, lam_w, off in self._terms(x))

    def _shrink(self, z: PyTree, step: Any) -> PyTree:
        return prox.prox_nonnegative_l1(z, self._lam(), step, self.weights)


@in_numpy
class ElasticNet(_Separable):
    """The elastic net λ Σⱼ wⱼ(ρ|xⱼ| + ½(1−ρ)xⱼ²): L1 selects, L2 keeps correlated features together.

    **Arguments and errors:** `lam`, `weights`, `lower` and `upper` as for `L1`, and

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

    def __init__(
        self,
        lam: Any = None,
        l1_ratio: Any = 0.5,
        weights: Any = None,
        *,
        lower: Any = None,
        upper: Any = None,
    ):
        _Separable.__init__(self, lam, weights, lower, upper)
        self.l1_ratio = ratio_leaf(l1_ratio)

    def is_valid(self) -> Bool[Array, ""]:
        return super().is_valid() & is_ratio(self.l1_ratio)

    def value(self, x: PyTree) -> Array:
        def term(leaf, lam_w, off):
            ratio = jnp.asarray(self.l1_ratio, leaf.dtype)
            unit = ratio * jnp.abs(leaf) + 0.5 * (1 - ratio) * leaf**2
            return jnp.sum(lam_w * unit, where=~off)

        return total(term(*terms) for terms in self._terms(x))

    def _shrink(self, z: PyTree, step: Any) -> PyTree:
        return prox.prox_elastic_net(z, self._lam(), self.l1_ratio, step, self.weights)

    def _critical_strengths(self, gradient: Real) -> Real:
        return ridge_or(super()._critical_strengths(gradient), self.l1_ratio)

    def _weights_form(self, x: Real) -> LinearForm:
        return split(super()._weights_form(x).up, self.l1_ratio)

    def dual_scales(self, v: Array, x: Array) -> Array:
        form = self._form(v)
        return form.scales(v, v - form.quad * x, least)


@in_numpy
class NonNegativeElasticNet(_NonNegative, ElasticNet):
    """The elastic net on non-negative coefficients: λ Σⱼ wⱼ(ρxⱼ + ½(1−ρ)xⱼ²) where x ≥ 0.

    ρ = 0 gives a non-negative ridge regression.

    **Arguments and errors:** as for `ElasticNet`, of whose limits there is `upper`.

    Source: Wu and Yang (2014).

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> print(l1jax.NonNegativeElasticNet(2.0, l1_ratio=0.5).prox(jnp.array([3.0, -2.0])))
    [1. 0.]

    ```
    """

    def __init__(
        self, lam: Any = None, l1_ratio: Any = 0.5, weights: Any = None, *, upper: Any = None
    ):
        ElasticNet.__init__(self, lam, l1_ratio, weights, upper=upper)

    def _shrink(self, z: PyTree, step: Any) -> PyTree:
        lam, ratio = self._lam(), self.l1_ratio
        out = prox.prox_nonnegative_l1(z, lam * ratio, step, self.weights)
        return prox.prox_ridge(out, lam * (1 - ratio), step, self.weights)


@in_numpy
class AsymmetricL1(_Separable):
    """The lasso with weights of its own for either sign: λ Σⱼ wⱼ(a xⱼ⁺ + b xⱼ⁻).

    **Arguments and errors:** `lam`, `weights`, `lower` and `upper` as for `L1`, and

    - `positive`: a > 0, the weight of what is above 0; `negative`: b > 0, of what is below. Numbers, or
      arrays as for `weights`.

    Source: Combettes and Pesquet (2007).

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> print(l1jax.AsymmetricL1(1.0, positive=0.5, negative=2.0).prox(jnp.array([3.0, -3.0])))
    [ 2.5 -1. ]

    ```
    """

    positive: Any
    negative: Any

    def __init__(
        self,
        lam: Any = None,
        positive: Any = 1.0,
        negative: Any = 1.0,
        weights: Any = None,
        *,
        lower: Any = None,
        upper: Any = None,
    ):
        super().__init__(lam, weights, lower, upper)
        self.positive = number_above(positive, "positive", 0)
        self.negative = number_above(negative, "negative", 0)

    def is_valid(self) -> Bool[Array, ""]:
        sides = jnp.all(jnp.asarray(self.positive) > 0) & jnp.all(jnp.asarray(self.negative) > 0)
        return super().is_valid() & sides

    def _sides(self, x: Real) -> Real:
        """a where x > 0, b where it is below, shaped to go with x."""
        a, b = (
            per_row(self.positive, x, name="positive"),
            per_row(self.negative, x, name="negative"),
        )
        return namespace(a, b, x).where(x > 0, a, b)

    def value(self, x: PyTree) -> Array:
        terms = self._terms(x)
        return total(
            jnp.sum(lam_w * self._sides(leaf) * jnp.abs(leaf), where=~off)
            for leaf, lam_w, off in terms
        )

    def _shrink(self, z: PyTree, step: Any) -> PyTree:
        def least(size: Array, lam: Array, step: Array, sides: Array) -> Array:
            return jnp.maximum(size - step * lam * sides, 0)

        sides = (self.negative, self.positive)
        return prox.map_even(least, z, self._lam(), step, self.weights, *sides)

    def _weights_form(self, x: Real) -> LinearForm:
        up = super()._weights_form(x).up
        xp = namespace(up)
        a, b = (xp.broadcast_to(self._sides(sign * xp.ones_like(x)), x.shape) for sign in (1, -1))
        finite, is_infinite = xp.where(xp.isinf(up), 0, up), xp.isinf(up)
        up, down = (xp.where(is_infinite, np.inf, finite * side) for side in (a, b))
        return LinearForm(up, down, xp.zeros_like(up))

    def _unit_weights(self, x: Real) -> tuple[Real, Real]:
        w, penalised = super()._unit_weights(x)
        w = w * self._sides(-x)  # a gradient below 0 pulls upwards
        return w, penalised


@in_numpy
class Ridge(_Separable):
    """The ridge penalty ½λ Σⱼ wⱼxⱼ²: it shrinks and never selects, for comparison.

    **Arguments and errors:** as for `L1`.

    Source: Hoerl and Kennard (1970).

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> print(l1jax.Ridge(1.0).prox(jnp.array([3.0, -0.5])))
    [ 1.5  -0.25]

    ```
    """

    def __init__(
        self, lam: Any = None, weights: Any = None, *, lower: Any = None, upper: Any = None
    ):
        super().__init__(lam, weights, lower, upper)

    def _net(self) -> ElasticNet:
        net = ElasticNet(self._lam(), 0.0)
        object.__setattr__(net, "weights", self.weights)
        object.__setattr__(net, "excluded", self.excluded)
        return net

    def value(self, x: PyTree) -> Array:
        return self._net().value(x)

    def _shrink(self, z: PyTree, step: Any) -> PyTree:
        return prox.prox_ridge(z, self._lam(), step, self.weights)

    def margin(self, x: Real, gradient: Real, curvature: Real) -> Real:
        """Infinite without limits: along λ no coefficient becomes zero, and none ceases to be."""
        if not self.has_limits:
            return namespace(x).full((), np.inf, x.dtype)
        never = jnp.zeros_like(x), jnp.full_like(x, jnp.inf)
        knots = self._with_limit_knots(*never, x, gradient, curvature)
        return nearest_knot(self._lam(), *knots)

    def _critical_strengths(self, gradient: Real) -> Real:
        return ridge_or(super()._critical_strengths(gradient), 0.0)

    def _weights_form(self, x: Real) -> LinearForm:
        return split(super()._weights_form(x).up, np.zeros((), x.dtype))


def limit_leaves(limits: Any, name: str, sign: int) -> PyTree:
    """Limits as leaves, checked to lie on the side of 0 that `sign` says; None where there are none."""
    if limits is None:
        return None

    def leaf(limit: Any) -> Any:
        if is_traced(limit) or type(limit) is object:
            return limit
        concrete = np.asarray(frozen(limit))
        if concrete.dtype.kind not in "fiu":
            raise TypeError(f"{name} must be numbers, got dtype {concrete.dtype}.")
        wrong = ~(sign * concrete >= 0)
        if wrong.any():
            where = np.argwhere(wrong)[0]
            place = f" at index {tuple(int(i) for i in where)}" if concrete.ndim else ""
            side = "<= 0" if sign < 0 else ">= 0"
            given = f"{concrete[tuple(where)]}{place}"
            raise ValueError(f"{name} must be {side}, so that 0 is allowed, got {given}.")
        if isinstance(limit, jax.Array):
            return limit
        return concrete.astype(concrete.dtype if concrete.dtype.kind == "f" else np.float64) + 0.0

    if isinstance(limits, list | tuple) and not any(hasattr(part, "shape") for part in limits):
        limits = np.asarray(limits)  # a plain list of numbers, not a pytree of arrays
    return jax.tree.map(leaf, limits)


def _negated(limits: PyTree) -> PyTree:
    return jax.tree.map(lambda limit: -jnp.asarray(limit), limits)


def _scaled(limits: PyTree, deviations: Real) -> PyTree:
    """Limits of coefficients (p, *k) times a number per feature, (p,)."""

    def scale(limit: Any) -> Real:
        xp = namespace(limit, deviations)
        limit = xp.asarray(limit)
        factor = deviations.reshape(deviations.shape + (1,) * max(limit.ndim - 1, 0))
        return limit * factor

    return jax.tree.map(scale, limits)


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


def per_row(weights: Any, x: Real, dtype: Any = None, name: str = "weights") -> Real:
    """Weights with one entry per feature, shaped to multiply x of shape (p,) or (p, k)."""
    weights = namespace(weights, x).asarray(weights, x.dtype if dtype is None else dtype)
    if 0 < weights.ndim < x.ndim:
        weights = weights.reshape(weights.shape + (1,) * (x.ndim - weights.ndim))
    if not prox.fits(weights.shape, x.shape):
        raise ValueError(
            f"{name} has shape {weights.shape}, which does not fit coefficients of shape {x.shape}."
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
