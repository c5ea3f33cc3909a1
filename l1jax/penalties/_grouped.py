"""Penalties on groups of features: groups enter or stay out as one."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from .. import prox
from .._arrays import constant, in_numpy, namespace
from .._groups import Groups
from .._types import Real
from ._base import (
    Masks,
    Penalty,
    nearest_knot,
    no_negative,
    strength_leaf,
    weight_leaves,
)
from ._forms import GroupForm, LinearForm
from ._separable import (
    _below_zero,
    is_ratio,
    least,
    ratio_leaf,
    ridge_or,
    split,
)


class _Grouped(Penalty):
    homogeneous: ClassVar[bool] = True
    metric: ClassVar[Literal["scalar", "diagonal"]] = "diagonal"

    lam: Any
    weights: Any  # one per group; None: the square root of its size
    excluded: Any
    groups: Groups = eqx.field(static=True)

    def __init__(self, lam: Any = None, groups: Any = None, weights: Any = None):
        if groups is None:
            raise TypeError(
                f"{type(self).__name__} needs groups: one id per feature, as in "
                f"{type(self).__name__}(0.1, groups=[0, 0, 1, 1, 1])."
            )
        self.lam = strength_leaf(lam, "lam")
        self.groups = Groups.of(groups)
        self.weights, self.excluded = weight_leaves(weights)
        shape = np.shape(self.weights) if self.weights is not None else ()
        if shape not in ((), (self.groups.num_groups,)):
            raise ValueError(
                f"weights must hold one number per group, shape ({self.groups.num_groups},), "
                f"got shape {shape}."
            )

    def is_valid(self) -> Bool[Array, ""]:
        return super().is_valid() & no_negative(self.weights)

    def _lam(self) -> Any:
        if self.lam is None:
            raise ValueError(
                f"{type(self).__name__} has no strength yet: pass lam, or pen.with_strength(0.1)."
            )
        return self.lam

    def _zeros(self, shape: tuple[int, ...]) -> Real:
        return namespace(*jax.tree.leaves(self)).zeros(shape)

    def linear_form(self, shape: tuple[int, ...]) -> LinearForm | None:
        """The weights of single features, where every group is one."""
        form = self.group_form(shape)
        if form is None or len(shape) != 1 or self.groups.num_groups != self.groups.num_features:
            return None
        weight = form.groups.broadcast(form.weight + form.l1)
        return LinearForm(weight, weight, namespace(weight).zeros_like(weight))

    def uniform_metric(self, squares: Array) -> Array:
        """One step for each group: the block soft threshold, instead of the root of an equation."""
        return jnp.broadcast_to(self._broadcast(self._largest(squares), squares), squares.shape)

    def _largest(self, values: Array) -> Float[Array, " groups"]:
        """The largest value of each group: of steps that are equal there, the step."""
        return self.groups.maxima(values.reshape(values.shape[0], -1).max(axis=1))

    def _check(self, x: Real) -> None:
        if not hasattr(x, "shape") or x.ndim == 0 or x.shape[0] != self.groups.num_features:
            raise ValueError(
                f"groups has {self.groups.num_features} ids, one per feature, but the coefficients "
                f"have shape {getattr(x, 'shape', type(x).__name__)}."
            )

    def _group_weights(self, dtype: Any) -> Float[Real, " groups"]:
        if self.weights is None:
            return np.sqrt(self.groups.sizes).astype(dtype)
        xp = namespace(self.weights)
        return xp.broadcast_to(xp.asarray(self.weights, dtype), (self.groups.num_groups,))

    def _is_excluded(self) -> Any:
        excluded = False if self.excluded is None else self.excluded
        xp = namespace(excluded)
        return xp.broadcast_to(xp.asarray(excluded, bool), (self.groups.num_groups,))

    def violation(self, x: Array) -> Array:
        if self.excluded is None:
            return jnp.zeros((), x.dtype)
        return jnp.max(jnp.where(self._is_excluded(), self._norms(x), 0), initial=0)

    def _zero_excluded(self, x: Array) -> Array:
        if self.excluded is None:
            return x
        return jnp.where(self._broadcast(self._is_excluded(), x), jnp.zeros((), x.dtype), x)

    def _broadcast(self, per_group: Real, x: Real) -> Real:
        """Repeats one value per group over its features and responses."""
        per_feature = self.groups.broadcast(per_group)
        return per_feature.reshape(per_feature.shape + (1,) * (x.ndim - 1))

    def _norms(self, x: Real) -> Float[Real, " groups"]:
        """‖x_g‖₂ with a derivative of 0 at a zero group, and no overflow."""
        xp = namespace(x)
        peak = constant(abs(x).max(initial=0))
        peak = xp.where((peak > 0) & xp.isfinite(peak), peak, 1)
        squares = (x / peak) ** 2
        total = self.groups.sums(squares.reshape(x.shape[0], -1).sum(axis=1))
        positive = total > 0
        return peak * xp.where(positive, xp.sqrt(xp.where(positive, total, 1)), 0)

    def _free(self, weight: Real, shape: tuple[int, ...]) -> Masks:
        """The masks of coefficients of this shape, whose groups have these weights."""
        x, excluded = self._zeros(shape), self._is_excluded()
        xp = namespace(x, weight)
        return Masks(
            *(
                xp.broadcast_to(self._broadcast(per_group, x), shape)
                for per_group in ((weight == 0) & ~excluded, excluded)
            )
        )


@in_numpy
class GroupL1(_Grouped):
    """The group lasso λ Σ_g w_g‖x_g‖₂: a norm, not squared, so that it has a corner at zero.

    With coefficients (p, k) a group contains all responses of its features: `GroupL1(lam, range(p))` is the
    multi-task lasso.

    **Arguments:**

    - `lam`: the strength λ ≥ 0, in units of a gradient; None is not set yet.
    - `groups`: one id per feature, (p,), integers or strings, or `Groups`.
    - `weights`: w ≥ 0, one per group (G,) in the order of sorted ids, √(number of its features) unless given;
      0 leaves a group unpenalised, inf excludes it.

    **Raises:** ValueError for wrong lengths or negative values; TypeError without groups.
    Source: Yuan and Lin (2006).

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> pen = l1jax.GroupL1(1.0, groups=[0, 0, 1], weights=[2.5, 2.0])
    >>> print(pen.prox(jnp.array([3.0, 4.0, 1.0])))
    [1.5 2.  0. ]

    ```
    """

    def __init__(self, lam: Any = None, groups: Any = None, weights: Any = None):
        super().__init__(lam, groups, weights)

    def value(self, x: Array) -> Array:
        self._check(x)
        weights = jnp.asarray(self._lam(), x.dtype) * self._group_weights(x.dtype)
        return jnp.sum(weights * self._norms(x), where=~self._is_excluded())

    def prox(self, z: Array, step: Any = 1.0) -> Array:
        self._check(z)
        weights = self._group_weights(z.dtype)
        return self._zero_excluded(prox.prox_group_l1(z, self._lam(), self.groups, step, weights))

    def uniform_prox(self, z: Array, step: Any = 1.0) -> Array:
        if jnp.ndim(step) == 0:
            return self.prox(z, step)
        weights = self._group_weights(z.dtype) * self._largest(step)
        return self._zero_excluded(prox.prox_group_l1(z, self._lam(), self.groups, 1.0, weights))

    def masks(self, shape: tuple[int, ...]) -> Masks:
        return self._free(self._weights_at_lam(self._zeros(shape)), shape)

    def group_form(self, shape: tuple[int, ...]) -> GroupForm | None:
        form = self._form(self._zeros(shape))
        return GroupForm(self.groups, form.up, namespace(*form).zeros_like(form.up), form.quad)

    def _form(self, x: Real) -> LinearForm:
        """The weights of the norms, and of their squares, in the precision of x."""
        weight = self._weights_at_lam(x)
        weight = namespace(weight).where(self._is_excluded(), np.inf, weight)
        return LinearForm(weight, weight, namespace(weight).zeros_like(weight))

    def _critical_strengths(self, gradient: Real) -> Float[Real, " groups"]:
        """The λ from which on each group by itself is 0, with this gradient there; 0: unpenalised."""
        self._check(gradient)
        weights, norms = self._group_weights(gradient.dtype), self._norms(gradient)
        xp = namespace(weights, norms)
        penalised = (weights > 0) & ~self._is_excluded()
        return xp.where(penalised, norms / xp.where(penalised, weights, 1), 0)

    def lambda_max(self, gradient: Real) -> Real:
        return self._critical_strengths(gradient).max(initial=0)

    def dual_norm(self, gradient: Real) -> Real:
        return GroupL1._critical_strengths(self, gradient).max(initial=0)

    def margin(self, x: Array, gradient: Array, curvature: Array) -> Array:
        is_out = self._norms(x) == 0
        is_penalised = (self._group_weights(x.dtype) > 0) & ~self._is_excluded()
        leaves = self._critical_strengths(gradient - curvature * x)
        return nearest_knot(
            self._lam(),
            jnp.where(is_out, self._critical_strengths(gradient), 0),
            jnp.where(~is_out & is_penalised, leaves, jnp.inf),
        )

    def _weights_at_lam(self, x: Real) -> Real:
        self._check(x)
        lam = namespace(self._lam(), x).asarray(self._lam(), x.dtype)
        return lam * self._group_weights(x.dtype)

    def conjugate(self, v: Array) -> Array:
        return self._form(v).conjugate(self._norms(v)).sum().astype(v.dtype)

    def dual_scale(self, v: Array) -> Array:
        return least(self._form(v).limit(self._norms(v)))

    def distance(self, x: Array, gradient: Array, step: Any = 1.0) -> Array:
        del step
        weights, norms = self._weights_at_lam(x), self._norms(x)
        direction = x / self._broadcast(jnp.where(norms > 0, norms, 1), x)
        active = self._norms(gradient + self._broadcast(weights, x) * direction)
        inside = jnp.maximum(self._norms(gradient) - weights, 0)
        return jnp.where(self._is_excluded(), norms, jnp.where(norms > 0, active, inside))


class NonNegativeGroupL1(GroupL1):
    """The group lasso on non-negative coefficients: λ Σ_g w_g‖x_g‖₂ where x ≥ 0.

    Its prox is that of `GroupL1` at max(z, 0): an entry below zero is projected to zero first.

    **Arguments and errors:** as for `GroupL1`.

    Source: Yuan and Lin (2006); the prox: Yu (2013).

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> pen = l1jax.NonNegativeGroupL1(1.0, groups=[0, 0, 0], weights=[2.5])
    >>> print(pen.prox(jnp.array([3.0, 4.0, -1.0])))
    [1.5 2.  0. ]

    ```
    """

    def __init__(self, lam: Any = None, groups: Any = None, weights: Any = None):
        super().__init__(lam, groups, weights)

    def prox(self, z: Array, step: Any = 1.0) -> Array:
        return super().prox(prox.project_nonnegative(z), step)

    def uniform_prox(self, z: Array, step: Any = 1.0) -> Array:
        return super().uniform_prox(prox.project_nonnegative(z), step)

    def violation(self, x: Array) -> Array:
        return jnp.maximum(_below_zero(x), super().violation(x))

    def masks(self, shape: tuple[int, ...]) -> Masks:
        # A coordinate of weight 0 is still bound to be non-negative: it is not free.
        masks = super().masks(shape)
        return masks._replace(unpenalised=masks.unpenalised & False)

    def group_form(self, shape: tuple[int, ...]) -> Any:
        del shape  # these weights say nothing of bounds

    def _critical_strengths(self, gradient: Array) -> Float[Array, " groups"]:
        return super()._critical_strengths(jnp.minimum(gradient, 0))

    def conjugate(self, v: Array) -> Array:
        return super().conjugate(jnp.maximum(v, 0))

    def dual_scale(self, v: Array) -> Array:
        return super().dual_scale(jnp.maximum(v, 0))

    def distance(self, x: Array, gradient: Array, step: Any = 1.0) -> Array:
        del step
        weights, norms = self._weights_at_lam(x), self._norms(x)
        direction = x / self._broadcast(jnp.where(norms > 0, norms, 1), x)
        slope = gradient + self._broadcast(weights, x) * direction
        # At zero the bound takes any slope that is not below zero.
        slope = jnp.where(x == 0, jnp.minimum(slope, 0), slope)
        inside = jnp.maximum(self._norms(jnp.minimum(gradient, 0)) - weights, 0)
        inside = jnp.where(norms > 0, self._norms(slope), inside)
        inside = jnp.maximum(inside, self._norms(jnp.minimum(x, 0)))
        return jnp.where(self._is_excluded(), norms, inside)


@in_numpy
class GroupElasticNet(GroupL1):
    """The elastic net on groups, λ Σ_g w_g(ρ‖x_g‖₂ + ½(1−ρ)‖x_g‖₂²): it selects groups, and shrinks them.

    For coefficients (p, k), `GroupElasticNet(lam, range(p), weights=1.0)` is the multi-task elastic net.

    **Arguments and errors:** as for `GroupL1`, and

    - `l1_ratio`: ρ in [0, 1]; 1 is the group lasso, 0 ridge.

    Source: Yang and Hastie (2024).

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> pen = l1jax.GroupElasticNet(2.0, groups=[0, 0, 1], l1_ratio=0.5, weights=1.0)
    >>> print(pen.prox(jnp.array([6.0, 8.0, 1.0])))
    [2.7 3.6 0. ]

    ```
    """

    homogeneous: ClassVar[bool] = False

    l1_ratio: Any

    def __init__(
        self, lam: Any = None, groups: Any = None, l1_ratio: Any = 0.5, weights: Any = None
    ):
        super().__init__(lam, groups, weights)
        self.l1_ratio = ratio_leaf(l1_ratio)

    def is_valid(self) -> Bool[Array, ""]:
        return super().is_valid() & is_ratio(self.l1_ratio)

    def _norm(self) -> GroupL1:
        """The part that is not squared."""
        norm = GroupL1(self._lam() * self.l1_ratio, self.groups)
        object.__setattr__(norm, "weights", self.weights)
        object.__setattr__(norm, "excluded", self.excluded)
        return norm

    def _both(self, x: Array) -> tuple[Array, Array]:
        """The weights of ‖x_g‖ and of ½‖x_g‖², λ included."""
        weight, ratio = self._weights_at_lam(x), jnp.asarray(self.l1_ratio, x.dtype)
        return weight * ratio, weight * (1 - ratio)

    def value(self, x: Array) -> Array:
        (linear, quadratic), norms = self._both(x), self._norms(x)
        return jnp.sum(linear * norms + 0.5 * quadratic * norms**2, where=~self._is_excluded())

    def prox(self, z: Array, step: Any = 1.0) -> Array:
        step = jnp.asarray(step, z.dtype)
        shrink = 1 + step * self._broadcast(self._both(z)[1], z)
        if step.ndim == 0:
            return self._norm().prox(z, step) / shrink
        return self._norm().prox(z / shrink, step / shrink)  # the square, completed

    def uniform_prox(self, z: Array, step: Any = 1.0) -> Array:
        shrink = 1 + jnp.asarray(step, z.dtype) * self._broadcast(self._both(z)[1], z)
        return self._norm().uniform_prox(z, step) / shrink

    def _form(self, x: Real) -> LinearForm:
        return split(super()._form(x).up, self.l1_ratio)

    def _critical_strengths(self, gradient: Real) -> Float[Real, " groups"]:
        return ridge_or(super()._critical_strengths(gradient), self.l1_ratio)

    def dual_scales(self, v: Array, x: Array) -> Array:
        """As of `LinearForm`, of the norms; the last of those of the group lasso on augmented data."""
        form = self._form(v)
        rest = self._norms(v - self._broadcast(form.quad, x) * x)
        return form.scales(self._norms(v), rest, least)

    def distance(self, x: Array, gradient: Array, step: Any = 1.0) -> Array:
        slope = gradient + self._broadcast(self._both(x)[1], x) * x
        return self._norm().distance(x, slope, step)


class SparseGroupL1(_Grouped):
    """The sparse group lasso λ(ρ‖x‖₁ + (1−ρ) Σ_g w_g‖x_g‖₂): few groups, and few features within them.

    An infinite weight excludes its group; a weight of 0 leaves it the lasso part.

    **Arguments and errors:** as for `GroupL1`, and

    - `l1_ratio`: ρ in [0, 1]; 1 is the lasso, 0 the group lasso.

    Source: Simon et al. (2013).

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> pen = l1jax.SparseGroupL1(2.0, groups=[0, 0, 1], l1_ratio=0.5, weights=[2.5, 1.0])
    >>> print(pen.prox(jnp.array([4.0, 5.0, 1.0])))
    [1.5 2.  0. ]

    ```
    """

    l1_ratio: Any

    def __init__(
        self, lam: Any = None, groups: Any = None, l1_ratio: Any = 0.5, weights: Any = None
    ):
        super().__init__(lam, groups, weights)
        self.l1_ratio = ratio_leaf(l1_ratio)

    def is_valid(self) -> Bool[Array, ""]:
        return super().is_valid() & is_ratio(self.l1_ratio)

    def value(self, x: Array) -> Array:
        self._check(x)
        lam, ratio = jnp.asarray(self._lam(), x.dtype), jnp.asarray(self.l1_ratio, x.dtype)
        excluded = self._broadcast(self._is_excluded(), x)
        norms = jnp.sum(self._group_weights(x.dtype) * self._norms(x), where=~self._is_excluded())
        return lam * (ratio * jnp.sum(jnp.abs(x), where=~excluded) + (1 - ratio) * norms)

    def prox(self, z: Array, step: Any = 1.0) -> Array:
        self._check(z)
        weights = self._group_weights(z.dtype)
        out = prox.prox_sparse_group_l1(z, self._lam(), self.groups, self.l1_ratio, step, weights)
        return self._zero_excluded(out)

    def uniform_prox(self, z: Array, step: Any = 1.0) -> Array:
        if jnp.ndim(step) == 0:
            return self.prox(z, step)
        lam, ratio = jnp.asarray(self._lam(), z.dtype), jnp.asarray(self.l1_ratio, z.dtype)
        weights = (1 - ratio) * self._group_weights(z.dtype) * self._largest(step)
        z = prox.prox_l1(z, lam * ratio, step)
        return self._zero_excluded(prox.prox_group_l1(z, lam, self.groups, 1.0, weights))

    def masks(self, shape: tuple[int, ...]) -> Masks:
        x = self._zeros(shape)
        xp = namespace(x)
        lam, ratio = xp.asarray(self._lam(), x.dtype), xp.asarray(self.l1_ratio, x.dtype)
        return self._free(lam * (ratio + (1 - ratio) * self._group_weights(x.dtype)), shape)

    def group_form(self, shape: tuple[int, ...]) -> GroupForm:
        x = self._zeros(shape)
        xp = namespace(x)
        lam, ratio = xp.asarray(self._lam(), x.dtype), xp.asarray(self.l1_ratio, x.dtype)
        weight = lam * (1 - ratio) * self._group_weights(x.dtype)
        l1 = xp.broadcast_to(lam * ratio, weight.shape)
        weight = xp.where(self._is_excluded(), np.inf, weight)
        return GroupForm(self.groups, weight, l1, xp.zeros_like(l1))

    def margin(self, x: Array, gradient: Array, curvature: Array) -> Array:
        """As in `Penalty`, of features and of groups; to first order in λ for groups."""
        lam, ratio = jnp.asarray(self._lam(), x.dtype), jnp.asarray(self.l1_ratio, x.dtype)
        at_zero = gradient - curvature * x
        is_out, excluded = self._norms(x) == 0, self._is_excluded()
        enters = jnp.where(is_out, self._critical_strengths(gradient), 0)
        leaves = jnp.where(is_out | excluded, jnp.inf, self._critical_strengths(at_zero))
        groups = nearest_knot(lam, enters, leaves)
        # A feature of a group that is in: its own part of the penalty is λρ|x|.
        inside = ~self._broadcast(is_out | excluded, x) & (ratio > 0)
        unit = jnp.where(ratio > 0, ratio, 1)
        enters = jnp.where(inside & (x == 0), jnp.abs(gradient) / unit, 0)
        leaves = jnp.where(inside & (x != 0), jnp.abs(at_zero) / unit, jnp.inf)
        return jnp.minimum(groups, nearest_knot(lam, enters, leaves))

    def _critical_strengths(self, gradient: Array) -> Float[Array, " groups"]:
        """Of each group by itself, by one Newton step from λ for ‖(|gradient| − λρ)⁺‖ = λ(1−ρ)w."""
        lam, ratio = jnp.asarray(self._lam(), gradient.dtype), self.l1_ratio
        rest = jnp.maximum(jnp.abs(gradient) - lam * ratio, 0)
        norms, weights = self._norms(rest), self._group_weights(gradient.dtype)
        sums = self.groups.sums(rest.reshape(rest.shape[0], -1).sum(axis=1))
        rate = (1 - ratio) * weights + ratio * sums / jnp.where(norms > 0, norms, 1)
        beyond = norms - lam * (1 - ratio) * weights
        return jnp.where(rate > 0, lam + beyond / jnp.where(rate > 0, rate, 1), 0)
