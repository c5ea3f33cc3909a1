"""Proximal operators: pure functions of arrays or pytrees.

    prox_{sR}(z) = argmin_x ½‖x − z‖²/s + R(x)

`step` s is a scalar, or an array like z: the step of each coordinate, which is a diagonal metric.
Strengths, weights and steps may be numbers, arrays or tracers; the result has the dtype of z. Zeros
are exact and positive, NaN stays NaN, derivatives are finite.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PyTree

from ._chains import chain_prox
from ._group_shrinkage import Rematerialisation, Rows, channels, norms_left, shrink
from ._groups import Groups
from ._thresholds import l1_inf_levels, per_entry, shared_threshold
from ._trends import trend_prox


def prox_l1(x: PyTree, lam: Any, step: Any = 1.0, weights: Any = None) -> PyTree:
    """Soft threshold: sign(x)·max(|x| − s λ w, 0), the prox of λ Σ wⱼ|xⱼ|.

    **Arguments:**

    - `x`: an array or pytree of floats.
    - `lam`: λ ≥ 0, a number. `step`: s ≥ 0, a number or like x.
    - `weights`: w ≥ 0, like x or one per row of x; inf gives zero.

    **Raises:** ValueError for a negative lam, step or weight, TypeError for an x that is not floating.
    Source: Donoho and Johnstone (1994).

    **Example:**

    ```python
    >>> import jax.numpy as jnp
    >>> from l1jax.prox import prox_l1
    >>> print(prox_l1(jnp.array([3.0, -0.5, -2.0]), 1.0))
    [ 2.  0. -1.]

    ```
    """
    _check(lam=lam, step=step, weights=weights)
    return _map(lambda z, t, w, s: _soft(z, _threshold(z, t, w, s)), x, lam, weights, step)


def prox_nonnegative_l1(x: PyTree, lam: Any, step: Any = 1.0, weights: Any = None) -> PyTree:
    """max(x − s λ w, 0), the prox of λ Σ wⱼxⱼ on x ≥ 0. Arguments and errors as for `prox_l1`.

    **Example:**

    ```python
    >>> import jax.numpy as jnp
    >>> from l1jax.prox import prox_nonnegative_l1
    >>> print(prox_nonnegative_l1(jnp.array([3.0, -2.0]), 1.0))
    [2. 0.]

    ```
    """
    _check(lam=lam, step=step, weights=weights)

    def leaf(z, t, w, s):
        threshold = _threshold(z, t, w, s)
        return jnp.where(z <= threshold, jnp.zeros((), z.dtype), z - _finite(threshold))

    return _map(leaf, x, lam, weights, step)


def prox_ridge(x: PyTree, lam: Any, step: Any = 1.0, weights: Any = None) -> PyTree:
    """x/(1 + s λ w), the prox of ½λ Σ wⱼxⱼ². Arguments and errors as for `prox_l1`.

    **Example:**

    ```python
    >>> import jax.numpy as jnp
    >>> from l1jax.prox import prox_ridge
    >>> print(prox_ridge(jnp.array([3.0, -0.5]), 1.0))
    [ 1.5  -0.25]

    ```
    """
    return prox_elastic_net(x, lam, 0.0, step, weights)


def prox_elastic_net(
    x: PyTree, lam: Any, l1_ratio: Any = 0.5, step: Any = 1.0, weights: Any = None
) -> PyTree:
    """S(x, s λ ρ w)/(1 + s λ(1−ρ)w), the prox of λ Σ wⱼ(ρ|xⱼ| + ½(1−ρ)xⱼ²), with S the soft threshold.

    `l1_ratio` ρ in [0, 1]; other arguments and errors as for `prox_l1`. Source: Zou and Hastie
    (2005).

    **Example:**

    ```python
    >>> import jax.numpy as jnp
    >>> from l1jax.prox import prox_elastic_net
    >>> print(prox_elastic_net(jnp.array([3.0, -0.5]), 2.0, l1_ratio=0.5))
    [1. 0.]

    ```
    """
    _check(lam=lam, step=step, weights=weights, l1_ratio=l1_ratio)

    def leaf(z, t, w, s):
        threshold, ratio = _threshold(z, t, w, s), jnp.asarray(l1_ratio, z.dtype)
        # An infinite threshold excludes its coordinate, also where ρ = 0 would make 0·inf of it.
        excluded = jnp.isinf(threshold)
        threshold = jnp.where(excluded, 1, threshold)
        out = _soft(z, ratio * threshold) / (1 + (1 - ratio) * threshold)
        return _exclude(out, excluded, z)

    return _map(leaf, x, lam, weights, step)


def prox_group_l1(x: PyTree, lam: Any, groups: Any, step: Any = 1.0, weights: Any = None) -> PyTree:
    """Block soft threshold: x_g·max(1 − s λ w_g/‖x_g‖, 0), the prox of λ Σ w_g‖x_g‖₂.

    Groups are of any size; with k columns a group contains all of them.

    **Arguments:**

    - `x`: (p,) or (p, k), or a pytree of them, and `groups` and `weights` like it.
    - `lam`: λ ≥ 0, a number. `step`: s ≥ 0, a number or like x, also different within a group.
    - `groups`: one id per feature, an integer or a string, or `Groups`.
    - `weights`: w ≥ 0, (G,), √(size) unless given; inf gives zero.

    **Raises:** ValueError for lengths that do not fit. Source: Yuan and Lin (2006).

    **Example:**

    ```python
    >>> import jax.numpy as jnp
    >>> from l1jax.prox import prox_group_l1
    >>> w = jnp.array([2.5, 2.0])
    >>> print(prox_group_l1(jnp.array([3.0, 4.0, 1.0]), 1.0, [0, 0, 1], weights=w))
    [1.5 2.  0. ]

    ```
    """
    return prox_sparse_group_l1(x, lam, groups, 0.0, step, weights)


def prox_sparse_group_l1(
    x: PyTree, lam: Any, groups: Any, l1_ratio: Any = 0.5, step: Any = 1.0, weights: Any = None
) -> PyTree:
    """The block soft threshold of the soft threshold: the prox of λ(ρ‖x‖₁ + (1−ρ) Σ w_g‖x_g‖₂).

    Arguments and errors as for `prox_group_l1`; `l1_ratio` ρ in [0, 1]. Source: Simon et al.
    (2013).

    **Example:**

    ```python
    >>> import jax.numpy as jnp
    >>> from l1jax.prox import prox_sparse_group_l1
    >>> w = jnp.array([2.5, 1.0])
    >>> print(prox_sparse_group_l1(jnp.array([4.0, 5.0, 1.0]), 2.0, [0, 0, 1], 0.5, weights=w))
    [1.5 2.  0. ]

    ```
    """
    _check(lam=lam, step=step, weights=weights, l1_ratio=l1_ratio)
    if hasattr(x, "shape"):
        return _sparse_group(x, lam, Groups.of(groups), l1_ratio, step, weights)
    leaves, tree = jax.tree.flatten(x)
    partitions = tree.flatten_up_to(groups)
    weights = [None] * len(leaves) if weights is None else tree.flatten_up_to(weights)
    each_step = _per_leaf(step, tree)
    out = [
        _sparse_group(leaf, lam, Groups.of(part), l1_ratio, s, w)
        for leaf, part, s, w in zip(leaves, partitions, each_step, weights, strict=True)
    ]
    return jax.tree.unflatten(tree, out)


def prox_l2(x: PyTree, lam: Any, step: Any = 1.0) -> PyTree:
    """x·max(1 − s λ/‖x‖, 0), the prox of λ‖x‖₂ (not squared) of the whole array or pytree; `step` is a scalar.

    **Example:**

    ```python
    >>> import jax.numpy as jnp
    >>> from l1jax.prox import prox_l2
    >>> print(prox_l2(jnp.array([3.0, 4.0]), 2.5))
    [1.5 2. ]

    ```
    """
    flat, unravel = ravel_pytree(_floating_tree(x))
    _check_scalar("prox_l2", step)
    everything = Groups(np.zeros(flat.size, int))
    return unravel(prox_group_l1(flat, lam, everything, step, jnp.ones(1, flat.dtype)))


def prox_slope(x: PyTree, lam: Any, weights: Any, step: Any = 1.0) -> PyTree:
    """The prox of the sorted L1 norm λ Σₖ wₖ|x|₍ₖ₎, with |x|₍₁₎ ≥ |x|₍₂₎ ≥ ... of the whole array or pytree.

    The sorted |x| less the weights, made non-increasing again by averages and cut off at zero.

    **Arguments:**

    - `x`: an array or pytree of floats, of p entries in all.
    - `lam`: λ ≥ 0, a number. `step`: s ≥ 0, a number.
    - `weights`: w ≥ 0, (p,), of the largest entry first, not increasing.

    **Raises:** ValueError for weights of another length and for steps that are no numbers.
    Source: Bogdan et al. (2015).

    **Example:**

    ```python
    >>> import jax.numpy as jnp
    >>> from l1jax.prox import prox_slope
    >>> print(prox_slope(jnp.array([2.0, 5.0]), 1.0, [4.0, 2.0]))
    [0. 1.]

    ```
    """
    _check(lam=lam, step=step, weights=weights)
    _check_scalar("prox_slope", step)
    flat, unravel = ravel_pytree(_floating_tree(x))
    if np.shape(weights) != flat.shape:
        raise ValueError(
            f"weights must hold one number per entry of x, shape {flat.shape}, got shape "
            f"{np.shape(weights)}."
        )
    z = _wide(flat)
    thresholds = jnp.asarray(lam, z.dtype) * jnp.asarray(step, z.dtype)
    thresholds = thresholds * jnp.asarray(weights, z.dtype)
    sizes, places = jax.lax.sort((-jnp.abs(z), jnp.arange(z.size)), num_keys=1)
    sizes = jax.nn.relu(chain_prox(-sizes - thresholds, 0.0, jnp.inf))
    out = jnp.zeros_like(z).at[places].set(sizes)
    out = _positive_zeros(jnp.where(z < 0, -out, out))
    return unravel(jnp.where(jnp.isnan(z), z, out).astype(flat.dtype))


def prox_total_variation(x: PyTree, lam: Any, step: Any = 1.0) -> PyTree:
    """The prox of the total variation λ Σⱼ|xⱼ₊₁ − xⱼ| along the first axis, of each leaf.

    **Arguments:**

    - `x`: (p,) or (p, k), in which case each column by itself, or a pytree of them.
    - `lam`: λ ≥ 0, a number. `step`: s ≥ 0, a number.

    **Raises:** ValueError for steps that are no numbers. Source: Rudin, Osher and Fatemi (1992); the algorithm:
    Darbon and Sigelle (2006).

    **Example:**

    ```python
    >>> import jax.numpy as jnp
    >>> from l1jax.prox import prox_total_variation
    >>> print(prox_total_variation(jnp.array([1.0, 3.0, 8.0, 8.0]), 1.0))
    [2.  3.  7.5 7.5]

    ```
    """
    _check(lam=lam, step=step)
    _check_scalar("prox_total_variation", step)

    def leaf(z: Array) -> Array:
        cost = jnp.asarray(lam, z.dtype) * jnp.asarray(step, z.dtype)
        columns = z.reshape(z.shape[0], -1)
        return jax.vmap(lambda z: chain_prox(z, cost, cost), 1, 1)(columns).reshape(z.shape)

    return _positive_zeros(_map(leaf, x))


def prox_trend_filter(x: PyTree, lam: Any, step: Any = 1.0, order: int = 1) -> PyTree:
    """The prox of λ Σᵢ|(D x)ᵢ| along the first axis, of each leaf, with D the differences of order `order` + 1.

    `order` is 1, for pieces that are linear, or 2, for quadratic ones; other arguments and errors as for
    `prox_total_variation`. Source: Kim et al. (2009).

    **Example:**

    ```python
    >>> import jax.numpy as jnp
    >>> from l1jax.prox import prox_trend_filter
    >>> print(prox_trend_filter(jnp.array([0.0, 3.0, 0.0]), 0.25))
    [0.25 2.5  0.25]

    ```
    """
    _check(lam=lam, step=step)
    _check_scalar("prox_trend_filter", step)
    if order not in (1, 2):
        raise ValueError(f"order must be 1 or 2, got {order}; order 0 is prox_total_variation.")

    def leaf(z: Array) -> Array:
        strength = jnp.asarray(lam, z.dtype) * jnp.asarray(step, z.dtype)
        columns = z.reshape(z.shape[0], -1)
        return jax.vmap(lambda z: trend_prox(z, strength, order), 1, 1)(columns).reshape(z.shape)

    return _positive_zeros(_map(leaf, x))


def prox_linf(x: PyTree, lam: Any, step: Any = 1.0) -> PyTree:
    """The prox of λ max|x| of the whole array or pytree: |x| is cut off where what is above adds up to s λ.

    `lam` λ ≥ 0 and `step` s ≥ 0 are numbers. Errors as for `prox_l2`.

    **Example:**

    ```python
    >>> import jax.numpy as jnp
    >>> from l1jax.prox import prox_linf
    >>> print(prox_linf(jnp.array([3.0, -2.5, 1.0]), 2.0))
    [ 1.75 -1.75  1.  ]

    ```
    """
    _check_scalar("prox_linf", step)
    flat, unravel = ravel_pytree(_floating_tree(x))
    everything = Groups(np.zeros(flat.size, int))
    return unravel(prox_l1_inf(flat, lam, everything, step))


def prox_l1_inf(x: PyTree, lam: Any, groups: Any, step: Any = 1.0, weights: Any = None) -> PyTree:
    """The prox of λ Σ_g w_g max|x_g|: |x_g| is cut off where what is above adds up to s λ w_g.

    **Arguments:**

    - `x`: (p,) or (p, k), in which case a group contains all columns.
    - `lam`: λ ≥ 0, a number. `step`: s ≥ 0, a number or like x.
    - `groups`: one id per feature, or `Groups`. `weights`: w ≥ 0, (G,), 1 unless given; inf gives zero.

    **Raises:** ValueError for lengths that do not fit. Source: Quattoni et al. (2009).

    **Example:**

    ```python
    >>> import jax.numpy as jnp
    >>> from l1jax.prox import prox_l1_inf
    >>> print(prox_l1_inf(jnp.array([3.0, 2.5, 1.0]), 2.0, [0, 0, 1]))
    [1.75 1.75 0.  ]

    ```
    """
    _check(lam=lam, step=step, weights=weights)
    terms = _group_terms(x, Groups.of(groups), lam, step, weights)
    # In units of the longest step, and of a shortest one where there is none.
    unit = jnp.maximum(jnp.max(terms.steps, initial=0), jnp.finfo(terms.z.dtype).tiny)
    slopes = 1 / jnp.maximum(terms.steps / unit, jnp.finfo(terms.z.dtype).eps ** 2)
    level = terms.weights * unit
    tops = jnp.abs(terms.z) * slopes
    most = shared_threshold(tops, slopes, level, 1.0, terms.groups)
    most = terms.broadcast(jnp.where(level > 0, most, jnp.inf))
    size = jnp.abs(terms.z)
    out = jnp.where(size >= most, jnp.where(terms.z > 0, most, -most), terms.z)
    return terms.finished(out)


def prox_exclusive_lasso(
    x: PyTree, lam: Any, groups: Any, step: Any = 1.0, weights: Any = None
) -> PyTree:
    """The soft threshold by s λ w_g‖x_g‖₁, with the norm of the result: the prox of ½λ Σ_g w_g‖x_g‖₁².

    Arguments and errors as for `prox_l1_inf`. Source: Zhou, Jin and Hoi (2010).

    **Example:**

    ```python
    >>> import jax.numpy as jnp
    >>> from l1jax.prox import prox_exclusive_lasso
    >>> print(prox_exclusive_lasso(jnp.array([4.0, 1.0, 3.0]), 1.0, [0, 0, 1]))
    [2.  0.  1.5]

    ```
    """
    _check(lam=lam, step=step, weights=weights)
    terms = _group_terms(x, Groups.of(groups), lam, step, weights)
    sizes = jnp.abs(terms.z)
    threshold = shared_threshold(sizes, terms.steps, 0.0, terms.weights, terms.groups, extra=1.0)
    return terms.finished(_soft(terms.z, terms.steps * terms.broadcast(threshold)))


class _GroupTerms(NamedTuple):
    """An array as rows of a matrix, with its steps, and λ times the weight of each group."""

    z: Array  # (p, k), float32 at least
    steps: Array  # like z
    weights: Array  # (G,)
    excluded: Array  # (G,)
    groups: Groups
    like: Array

    def broadcast(self, per_group: Array) -> Array:
        return per_entry(per_group, self.groups, self.z)

    def finished(self, out: Array) -> Array:
        """Returns the result in the shape and the precision of what was given."""
        out = _exclude(_positive_zeros(out), self.broadcast(self.excluded), self.z)
        out = jnp.where(jnp.isnan(self.z), self.z, out)
        return out.reshape(self.like.shape).astype(self.like.dtype)


def _group_terms(x: Any, groups: Groups, lam: Any, step: Any, weights: Any) -> _GroupTerms:
    like = _floating(x)
    _check_groups(like, groups, weights)
    z = _wide(like).reshape(like.shape[0], -1)
    steps = jnp.broadcast_to(_per_row(step, _wide(like)), like.shape).reshape(z.shape)
    weights = jnp.ones(groups.num_groups) if weights is None else jnp.asarray(weights)
    weights = jnp.broadcast_to(weights.astype(z.dtype), (groups.num_groups,))
    excluded = jnp.isinf(weights)
    weights = jnp.asarray(lam, z.dtype) * jnp.where(excluded, 0, weights)
    return _GroupTerms(z, steps, weights, excluded, groups, like)


def prox_nuclear_norm(x: PyTree, lam: Any, step: Any = 1.0) -> PyTree:
    """The soft threshold of the singular values: the prox of λ Σᵢσᵢ(X), of each leaf.

    `x` is a matrix, a vector (one column), or a pytree of them; `lam` and `step` are numbers.

    **Raises:** ValueError for arrays with more than two axes. Source: Cai, Candès and Shen (2010).

    **Example:**

    ```python
    >>> import jax.numpy as jnp
    >>> from l1jax.prox import prox_nuclear_norm
    >>> print(prox_nuclear_norm(jnp.diag(jnp.array([3.0, -0.5])), 1.0))
    [[2. 0.]
     [0. 0.]]

    ```
    """
    _check(lam=lam, step=step)
    _check_scalar("prox_nuclear_norm", step)

    def leaf(z: Array) -> Array:
        threshold = jnp.asarray(lam, z.dtype) * jnp.asarray(step, z.dtype)
        out = _shrink_singular_values(as_matrix(z), threshold).reshape(z.shape)
        return jnp.where(threshold > 0, out, z)

    return _positive_zeros(_map(leaf, x))


def as_matrix(x: Array) -> Array:
    """x, (p, k); a vector as one column."""
    if x.ndim not in (1, 2):
        raise ValueError(f"the nuclear norm is of matrices (p, k) or vectors, got shape {x.shape}.")
    return x.reshape(x.shape[0], -1)


@jax.custom_jvp
def _shrink_singular_values(x: Array, threshold: Array) -> Array:
    # Singular vectors of what is not finite are not: NaN.
    u, sizes, v = jnp.linalg.svd(x, full_matrices=False)
    return jnp.matmul(u * jnp.maximum(sizes - threshold, 0), v, precision="highest")


@_shrink_singular_values.defjvp
def _(primals: tuple, tangents: tuple) -> tuple:
    """By divided differences of the soft threshold f, which exist where singular values are equal or zero.

    With M = UᵀdX V: U[(f(σᵢ) − f(σⱼ))/(σᵢ − σⱼ) ∘ sym M + (f(σᵢ) + f(σⱼ))/(σᵢ + σⱼ) ∘ skew M]Vᵀ, and what
    of dX is outside of the spaces of U and V, times f(σ)/σ.
    """
    (x, threshold), (dx, dthreshold) = primals, tangents
    with jax.default_matmul_precision("highest"):
        u, sizes, v = jnp.linalg.svd(x, full_matrices=False)
        kept = jnp.maximum(sizes - threshold, 0)
        is_kept = sizes > threshold
        both, either = is_kept[:, None] & is_kept, is_kept[:, None] | is_kept
        most, least = jnp.maximum(sizes[:, None], sizes), jnp.minimum(sizes[:, None], sizes)
        gap = jnp.where(either & ~both, most - least, 1)
        rises = jnp.where(both, 1, jnp.where(either, (most - threshold) / gap, 0))
        sums = sizes[:, None] + sizes
        turns = jnp.where(sums > 0, (kept[:, None] + kept) / jnp.where(sums > 0, sums, 1), 0)
        inside = u.T @ dx @ v.T
        even, odd = (inside + inside.T) / 2, (inside - inside.T) / 2
        core = rises * even + turns * odd - jnp.diag(jnp.where(is_kept, dthreshold, 0))
        ratios = jnp.where(is_kept, kept / jnp.where(is_kept, sizes, 1), 0)
        right = u.T @ dx - inside @ v  # what is outside of the rows
        left = dx @ v.T - u @ inside
        out = (u * kept) @ v
        return out, u @ (core @ v + ratios[:, None] * right) + (left * ratios) @ v


def map_even(
    least: Callable[..., Array],
    x: PyTree,
    lam: Any,
    step: Any = 1.0,
    weights: Any = None,
    *limits: Any,
) -> PyTree:
    """sign(x)·least(|x|, λw, s), the prox of an even function of each entry; `least` is that for x ≥ 0.

    `limits`: lower and upper ones, of which `least` gets that on the side of x, as a fourth argument.
    """
    _check(lam=lam, step=step, weights=weights)

    def leaf(z: Array, t: Any, w: Any, s: Any, *limits: Any) -> Array:
        threshold = _threshold(z, t, w, 1.0)
        excluded = jnp.isinf(threshold)
        ends = [_per_row(jnp.inf if limit is None else abs(limit), z) for limit in limits]
        bound = [jnp.where(z < 0, *ends)] if ends else []
        size = least(jnp.abs(z), jnp.where(excluded, 0, threshold), _per_row(s, z), *bound)
        out = jnp.where(z < 0, -size, size)
        return _exclude(jnp.where(jnp.isnan(z), z, out), excluded | (size == 0), z)

    return _map(leaf, x, lam, weights, step, *limits)


def project_nonnegative(x: PyTree) -> PyTree:
    """max(x, 0), the nearest point with x ≥ 0."""
    return _map(lambda z: jnp.where(z <= 0, jnp.zeros((), z.dtype), z), x)


def project_box(x: PyTree, lower: Any, upper: Any) -> PyTree:
    """The nearest point with lower ≤ x ≤ upper, numbers or like x.

    **Raises:** ValueError for lower > upper.
    """

    def leaf(z: Array, low: Any, high: Any) -> Array:
        is_known = not (isinstance(low, Tracer) or isinstance(high, Tracer))
        if is_known and (np.asarray(low) > np.asarray(high)).any():
            raise ValueError(f"lower must be <= upper everywhere, got {lower} and {upper}.")
        # optax would promote float32 to the dtype of the bounds.
        low, high = jnp.asarray(low, z.dtype), jnp.asarray(high, z.dtype)
        return _positive_zeros(optax.projections.projection_box(z, low, high))

    return _map(leaf, x, lower, upper)


def project_simplex(x: PyTree, total: Any = 1.0) -> PyTree:
    """The nearest point with x ≥ 0 and Σx = total ≥ 0. Source: Duchi et al. (2008).

    **Example:**

    ```python
    >>> import jax.numpy as jnp
    >>> from l1jax.prox import project_simplex
    >>> print(project_simplex(jnp.array([1.0, 0.5, -1.0])))
    [0.75 0.25 0.  ]

    ```
    """
    _check(total=total)
    flat, unravel = ravel_pytree(_floating_tree(x))
    if not flat.size:
        raise ValueError("x is empty: a simplex needs at least one entry.")
    return unravel(_simplex(flat, jnp.asarray(total, flat.dtype)))


def project_l1_ball(x: PyTree, radius: Any = 1.0, weights: Any = None) -> PyTree:
    """The nearest point with Σ w|x| ≤ radius; the sum is over the whole pytree. Source: Duchi et al. (2008).

    `weights` w > 0 are like x, 1 unless given.

    **Example:**

    ```python
    >>> import jax.numpy as jnp
    >>> from l1jax.prox import project_l1_ball
    >>> print(project_l1_ball(jnp.array([3.0, -0.5]), 2.0))
    [2. 0.]

    ```
    """
    _check(radius=radius, weights=weights)
    flat, unravel = ravel_pytree(_floating_tree(x))
    radius = jnp.asarray(radius, flat.dtype)
    if weights is None:
        w = jnp.ones_like(flat)
        sizes = _simplex(jnp.abs(flat), radius)
    else:
        w = ravel_pytree(weights)[0].astype(flat.dtype)
        if w.shape != flat.shape:
            raise ValueError(f"weights must be like x, {flat.size} numbers, got {w.size}.")
        everything = Groups(np.zeros(flat.size, int))
        threshold = shared_threshold(w * jnp.abs(flat), w**2, radius, 1.0, everything)
        sizes = jax.nn.relu(jnp.abs(flat) - w * threshold)
    outside = jnp.sum(w * jnp.abs(flat)) > radius
    # Rounding of the threshold must not leave a point outside of the ball.
    total = jnp.sum(w * sizes)
    over = total > radius
    shrink = radius / jnp.where(over, total, 1) * (1 - 2 * jnp.finfo(flat.dtype).eps)
    sizes = jnp.where(over, sizes * jax.lax.stop_gradient(shrink), sizes)
    out = jnp.where(outside, jnp.sign(flat) * sizes, flat)
    return unravel(_positive_zeros(jnp.where(jnp.isnan(flat), flat, out)))


def project_l2_ball(x: PyTree, radius: Any = 1.0) -> PyTree:
    """The nearest point with ‖x‖₂ ≤ radius; the norm is of the whole pytree."""
    _check(radius=radius)
    flat, unravel = ravel_pytree(_floating_tree(x))
    radius = jnp.asarray(radius, flat.dtype)
    norm = l2_norm(flat)
    outside = norm > radius
    out = jnp.where(outside, flat * (radius / jnp.where(outside, norm, 1)), flat)
    return unravel(_positive_zeros(out))


def project_linf_ball(x: PyTree, radius: Any = 1.0) -> PyTree:
    """The nearest point with max|x| ≤ radius."""
    _check(radius=radius)
    return _map(lambda z, r: _clip(z, jnp.asarray(r, z.dtype)), x, radius)


def project_l1_inf_ball(x: Array, radius: Any, groups: Any) -> Array:
    """The nearest point with Σ_g max|x_g| ≤ radius: each |x_g| cut off where what is above adds up to one θ.

    `x` is (p,) or (p, k), in which case a group contains all columns; `groups` one id per feature, or `Groups`.
    Errors as for `prox_l1_inf`. Source: Quattoni et al. (2009).

    **Example:**

    ```python
    >>> import jax.numpy as jnp
    >>> from l1jax.prox import project_l1_inf_ball
    >>> print(project_l1_inf_ball(jnp.array([3.0, 2.5, 0.5]), 2.0, [0, 0, 1]))
    [2. 2. 0.]

    ```
    """
    _check(radius=radius)
    terms = _group_terms(x, Groups.of(groups), 1.0, 1.0, None)
    sizes, radius = jnp.abs(terms.z), jnp.asarray(radius, terms.z.dtype)
    most = terms.broadcast(l1_inf_levels(sizes, radius, terms.groups))
    is_outside = jnp.sum(terms.groups.maxima(jnp.max(sizes, axis=1))) > radius
    cut = jnp.where(sizes >= most, jnp.where(terms.z > 0, most, -most), terms.z)
    return terms.finished(jnp.where(is_outside, cut, terms.z))


def project_cardinality(x: PyTree, k: Any) -> PyTree:
    """The nearest point with at most k entries that are not zero: the largest of the whole pytree, the first of
    equal ones.

    **Example:**

    ```python
    >>> import jax.numpy as jnp
    >>> from l1jax.prox import project_cardinality
    >>> print(project_cardinality(jnp.array([3.0, -0.5, -2.0]), 2))
    [ 3.  0. -2.]

    ```
    """
    _check(k=k)
    flat, unravel = ravel_pytree(_floating_tree(x))
    order = jnp.argsort(-jnp.abs(flat), stable=True)
    is_kept = jnp.zeros(flat.size, bool).at[order].set(jnp.arange(flat.size) < jnp.asarray(k))
    is_kept |= jnp.isnan(flat)
    return unravel(_positive_zeros(jnp.where(is_kept, flat, jnp.zeros((), flat.dtype))))


def _soft(z: Array, threshold: Array) -> Array:
    # z − stop(z) is a positive zero that still has derivative one where the threshold is 0.
    nothing = jnp.where(threshold > 0, jnp.zeros_like(z), z - jax.lax.stop_gradient(z))
    # Not z − clip(z, ±threshold): at a threshold of 0 that has the derivative of neither side.
    out = jnp.where(z > 0, z - threshold, z + threshold)
    return jnp.where(jnp.abs(z) <= threshold, nothing, out)


def _threshold(z: Array, lam: Any, weights: Any, step: Any) -> Array:
    """s λ w in the dtype of z; infinite where w is, also at λ = 0 or s = 0."""
    threshold = jnp.asarray(lam, z.dtype) * _per_row(step, z)
    if weights is None:
        return threshold
    w = _per_row(weights, z)
    return jnp.where(jnp.isinf(w), jnp.inf, threshold * jnp.where(jnp.isinf(w), 0, w))


def _finite(threshold: Array) -> Array:
    return jnp.where(jnp.isinf(threshold), 0, threshold)


def _exclude(out: Array, excluded: Array, z: Array) -> Array:
    return jnp.where(excluded & ~jnp.isnan(z), jnp.zeros((), z.dtype), out)


def _sparse_group(
    z: Array, lam: Any, groups: Groups, l1_ratio: Any, step: Any, weights: Any
) -> Array:
    z = _floating(z)
    _check_groups(z, groups, weights)
    weights = jnp.asarray(np.sqrt(groups.sizes) if weights is None else weights)
    dtype, z = z.dtype, _wide(z)
    weights = jnp.broadcast_to(jnp.asarray(weights, z.dtype), (groups.num_groups,))
    lam, ratio = jnp.asarray(lam, z.dtype), jnp.asarray(l1_ratio, z.dtype)
    excluded = jnp.isinf(weights)
    group_weights = lam * (1 - ratio) * jnp.where(excluded, 0, weights)
    steps = _per_row(step, z)
    soft = z if isinstance(l1_ratio, float) and l1_ratio == 0 else _soft(z, lam * ratio * steps)
    flat = soft.reshape(z.shape[0], -1)
    if steps.ndim:
        steps = jnp.broadcast_to(steps, z.shape).reshape(flat.shape)
    out = _positive_zeros(shrink(flat, group_weights, steps, Rows(groups))).reshape(z.shape)
    off = groups.broadcast(excluded).reshape((-1,) + (1,) * (z.ndim - 1))
    return _exclude(out, off, z).astype(dtype)


def _check_groups(z: Array, groups: Groups, weights: Any) -> None:
    if z.ndim == 0 or z.shape[0] != groups.num_features:
        raise ValueError(
            f"groups has {groups.num_features} ids, one per feature, but x has shape {z.shape}."
        )
    if weights is not None and np.shape(weights) not in ((), (groups.num_groups,)):
        raise ValueError(
            f"weights must hold one number per group, shape ({groups.num_groups},), got "
            f"{np.shape(weights)}."
        )


def prox_channels(
    z: Array, weights: Any, step: Any, axis: int, norms: Array | None = None
) -> Array:
    """The block soft threshold of each index of an axis, in place: nothing is moved or copied.

    `norms`: what `channel_norms` returns, if it was called before for the same z and step.
    """
    dtype, z, groups = z.dtype, _wide(z), channels(z, axis)
    weights = groups.per_group(weights, z)
    out = shrink(z, weights, _per_row(step, z), groups, norms)
    return _positive_zeros(out).astype(dtype)


def channel_norms(z: Array, step: Any, remat: Rematerialisation, weights: Any, axis: int) -> Array:
    """The norm that `prox_channels` leaves of each index of an axis, from the rematerialised z and step."""
    groups, z = channels(z, axis), _wide(z)
    steps = _per_row(step, z)

    def compute(inputs: Any, after: Any) -> tuple[Array, Array]:
        again, step = remat.compute(inputs, after)
        return again.astype(z.dtype), _per_row(step, z)

    wide = Rematerialisation(remat.inputs, compute, remat.estimate)
    return norms_left(z, steps, wide, groups.per_group(weights, z), groups)


def l2_norm(flat: Array) -> Array:
    """‖x‖₂ with a derivative of 0 at zero, and no overflow."""
    peak = jnp.max(jnp.abs(jax.lax.stop_gradient(flat)), initial=0)
    peak = jnp.where((peak > 0) & jnp.isfinite(peak), peak, 1)
    square = jnp.sum((flat / peak) ** 2)
    return peak * jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


def _simplex(flat: Array, total: Array) -> Array:
    """Projection on {x ≥ 0, Σx = total}, at total = 0 too: relu(x − level), whose level follows from a sort."""
    unit = jnp.where(total > 0, total, 1)
    # All follows from what was sorted: compiled code may compute x again, and round it otherwise.
    sizes, places = jax.lax.sort((-flat, jnp.arange(flat.size)), num_keys=1)
    # The same number added to all changes nothing, and beside a large one a total of 1 would be rounded away.
    ordered = (jax.lax.stop_gradient(sizes[0]) - sizes) / unit
    counts = jnp.arange(1, flat.size + 1, dtype=flat.dtype)
    fixed = jax.lax.stop_gradient(ordered)
    last = jnp.maximum(jnp.count_nonzero(fixed * counts > jnp.cumsum(fixed) - 1), 1)
    level = (jnp.sum(jnp.where(counts <= last, ordered, 0)) - 1) / last
    out = jnp.zeros_like(flat).at[places].set(jax.nn.relu(ordered - level) * unit)
    out = jnp.where(total > 0, out, jnp.zeros_like(flat))
    return _positive_zeros(jnp.where(jnp.any(jnp.isnan(flat)), jnp.nan, out))


def _clip(z: Array, radius: Array) -> Array:
    return _positive_zeros(jnp.clip(z, -radius, radius))


def _positive_zeros(x: PyTree) -> PyTree:
    return jax.tree.map(
        lambda z: jnp.where(z == 0, z - jax.lax.stop_gradient(z), z).astype(z.dtype), x
    )


def _map(function: Callable[..., Array], x: PyTree, *parameters: Any) -> PyTree:
    """Applies a function of (leaf, parameters...) to every leaf of x."""

    def one(leaf: Any, *rest: Any) -> Array:
        leaf = _floating(leaf)
        return function(_wide(leaf), *rest).astype(leaf.dtype)

    if hasattr(x, "shape"):
        return one(x, *parameters)
    leaves, tree = jax.tree.flatten(x)
    columns = [_per_leaf(parameter, tree) for parameter in parameters]
    return jax.tree.unflatten(tree, [one(*row) for row in zip(leaves, *columns, strict=True)])


def _wide(z: Array) -> Array:
    """In float32 at least: a step of 1e5, as Adam takes at an entry without gradient, is inf in float16."""
    return z.astype(jnp.promote_types(z.dtype, jnp.float32))


def _per_leaf(parameter: Any, tree: Any) -> list:
    """One entry per leaf: of a pytree like x, or the same number or array for all."""
    if parameter is None or isinstance(parameter, int | float) or hasattr(parameter, "shape"):
        return [parameter] * tree.num_leaves
    return tree.flatten_up_to(parameter)


def _per_row(value: Any, z: Array) -> Array:
    """A scalar, an array like z, or one entry per row of z, shaped to multiply z."""
    value = jnp.asarray(value, z.dtype)
    if 0 < value.ndim < z.ndim and value.shape == z.shape[: value.ndim]:
        value = value.reshape(value.shape + (1,) * (z.ndim - value.ndim))
    if not fits(value.shape, z.shape):
        raise ValueError(
            f"a step or weight of shape {value.shape} does not fit x of shape {z.shape}."
        )
    return value


def fits(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    """Whether an array of one shape multiplies one of the target's without making it larger."""
    ends = zip(reversed(shape), reversed(target), strict=False)
    return len(shape) <= len(target) and all(m in (1, n) for m, n in ends)


def _floating(leaf: Any) -> Array:
    leaf = jnp.asarray(leaf)
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        raise TypeError(f"x must hold floating numbers, got dtype {leaf.dtype}: convert it first.")
    return leaf


def _floating_tree(x: PyTree) -> PyTree:
    return jax.tree.map(_floating, x)


def _check_scalar(function: str, step: Any) -> None:
    if jnp.ndim(step) != 0:
        raise ValueError(f"step must be a scalar for {function}, got shape {jnp.shape(step)}.")


def _check(**arguments: Any) -> None:
    """Raises for concrete values that are negative or NaN, naming the argument."""
    for name, value in arguments.items():
        for leaf in jax.tree.leaves(value):
            if isinstance(leaf, Tracer) or not isinstance(
                leaf, int | float | np.ndarray | np.generic | jax.Array
            ):
                continue
            concrete = np.asarray(leaf)
            if not (concrete >= 0).all():
                worst = concrete[~(concrete >= 0)].flat[0]
                raise ValueError(f"{name} must be >= 0, got {worst}.")
            if name == "l1_ratio" and (concrete > 1).any():
                raise ValueError(f"l1_ratio must lie in [0, 1], got {concrete.max()}.")
