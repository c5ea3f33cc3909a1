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

from ._groups import Groups

_NEWTON_STEPS = {4: 14, 8: 18}  # at most, by bytes of the dtype; see `_newton`


def prox_l1(x: PyTree, lam: Any, step: Any = 1.0, weights: Any = None) -> PyTree:
    """Soft threshold: sign(x)·max(|x| − s λ w, 0), the prox of λ Σ wⱼ|xⱼ|.

    `x`: an array or pytree; `weights`: like x, or one per row of x. Raises: ValueError for a
    negative lam, step or weight, TypeError for an x that is not floating. Source: Donoho and
    Johnstone (1994).

    **Example:**

    ```python
    >>> import jax.numpy as jnp
    >>> from l1jax.prox import prox_l1
    >>> print(prox_l1(jnp.array([3.0, -0.5, -2.0]), 1.0))
    [ 2.  0. -1.]

    ```
    """
    _check(lam=lam, step=step, weights=weights)
    return _map(lambda z, t, w, s: _soft(z, _price(z, t, w, s)), x, lam, weights, step)


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
        price = _price(z, t, w, s)
        return jnp.where(z <= price, jnp.zeros((), z.dtype), z - _finite(price))

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
        price, ratio = _price(z, t, w, s), jnp.asarray(l1_ratio, z.dtype)
        # An infinite price excludes its coordinate, also where ρ = 0 would make 0·inf of it.
        excluded = jnp.isinf(price)
        price = jnp.where(excluded, 1, price)
        out = _soft(z, ratio * price) / (1 + (1 - ratio) * price)
        return _exclude(out, excluded, z)

    return _map(leaf, x, lam, weights, step)


def prox_group_l1(x: PyTree, lam: Any, groups: Any, step: Any = 1.0, weights: Any = None) -> PyTree:
    """Block soft threshold: x_g·max(1 − s λ w_g/‖x_g‖, 0), the prox of λ Σ w_g‖x_g‖₂.

    `x` (p,) or (p, k); `groups`: one integer id per feature, or `Groups`; `weights` (G,), √(size)
    unless given. Groups are of any size; with k columns a group holds all of them. `step` may vary
    by coordinate, also within a group. For a pytree, `groups` (and `weights`, if given) is a pytree
    like it. Raises: ValueError for lengths that do not fit.
    Source: Yuan and Lin (2006).

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
    each_step = _spread(step, tree)
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
    if jnp.ndim(step) != 0:
        raise ValueError(f"step must be a scalar for prox_l2, got shape {jnp.shape(step)}.")
    everything = Groups(np.zeros(flat.size, int))
    return unravel(prox_group_l1(flat, lam, everything, step, jnp.ones(1, flat.dtype)))


def project_nonnegative(x: PyTree) -> PyTree:
    """max(x, 0), the nearest point with x ≥ 0."""
    return _map(lambda z: jnp.where(z <= 0, jnp.zeros((), z.dtype), z), x)


def project_box(x: PyTree, lower: Any, upper: Any) -> PyTree:
    """The nearest point with lower ≤ x ≤ upper (numbers, or like x)."""

    def leaf(z: Array, low: Any, high: Any) -> Array:
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
    return unravel(_simplex(flat, jnp.asarray(total, flat.dtype)))


def project_l1_ball(x: PyTree, radius: Any = 1.0) -> PyTree:
    """The nearest point with Σ|x| ≤ radius; the sum is over the whole pytree. Source: Duchi et al. (2008).

    **Example:**

    ```python
    >>> import jax.numpy as jnp
    >>> from l1jax.prox import project_l1_ball
    >>> print(project_l1_ball(jnp.array([3.0, -0.5]), 2.0))
    [2. 0.]

    ```
    """
    _check(radius=radius)
    flat, unravel = ravel_pytree(_floating_tree(x))
    radius = jnp.asarray(radius, flat.dtype)
    outside = jnp.sum(jnp.abs(flat)) > radius
    sizes = _simplex(jnp.abs(flat), radius)
    # Rounding of the threshold must not leave a point outside of the ball.
    total = jnp.sum(sizes)
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
    norm = _norm(flat)
    outside = norm > radius
    out = jnp.where(outside, flat * (radius / jnp.where(outside, norm, 1)), flat)
    return unravel(_positive_zeros(out))


def project_linf_ball(x: PyTree, radius: Any = 1.0) -> PyTree:
    """The nearest point with max|x| ≤ radius."""
    _check(radius=radius)
    return _map(lambda z, r: _clip(z, jnp.asarray(r, z.dtype)), x, radius)


def _soft(z: Array, price: Array) -> Array:
    # z − stop(z) is a positive zero that still has derivative one where nothing is charged.
    nothing = jnp.where(price > 0, jnp.zeros_like(z), z - jax.lax.stop_gradient(z))
    # Not z − clip(z, ±price): at a price of 0 that has the derivative of neither side.
    out = jnp.where(z > 0, z - price, z + price)
    return jnp.where(jnp.abs(z) <= price, nothing, out)


def _price(z: Array, lam: Any, weights: Any, step: Any) -> Array:
    """s λ w in the dtype of z; infinite where w is, also at λ = 0 or s = 0."""
    price = jnp.asarray(lam, z.dtype) * _per_row(step, z)
    if weights is None:
        return price
    w = _per_row(weights, z)
    return jnp.where(jnp.isinf(w), jnp.inf, price * jnp.where(jnp.isinf(w), 0, w))


def _finite(price: Array) -> Array:
    return jnp.where(jnp.isinf(price), 0, price)


def _exclude(out: Array, excluded: Array, z: Array) -> Array:
    return jnp.where(excluded & ~jnp.isnan(z), jnp.zeros((), z.dtype), out)


def _sparse_group(
    z: Array, lam: Any, groups: Groups, l1_ratio: Any, step: Any, weights: Any
) -> Array:
    z = _floating(z)
    if z.ndim == 0 or z.shape[0] != groups.num_features:
        raise ValueError(
            f"groups has {groups.num_features} ids, one per feature, but x has shape {z.shape}."
        )
    if weights is None:
        weights = np.sqrt(groups.sizes)
    if jnp.shape(weights) not in ((), (groups.num_groups,)):
        raise ValueError(
            f"weights must hold one number per group, shape ({groups.num_groups},), got "
            f"{jnp.shape(weights)}."
        )
    dtype, z = z.dtype, _wide(z)
    weights = jnp.broadcast_to(jnp.asarray(weights, z.dtype), (groups.num_groups,))
    lam, ratio = jnp.asarray(lam, z.dtype), jnp.asarray(l1_ratio, z.dtype)
    excluded = jnp.isinf(weights)
    group_price = lam * (1 - ratio) * jnp.where(excluded, 0, weights)
    steps = _per_row(step, z)
    soft = z if isinstance(l1_ratio, float) and l1_ratio == 0 else _soft(z, lam * ratio * steps)
    flat = soft.reshape(z.shape[0], -1)
    if steps.ndim:
        steps = jnp.broadcast_to(steps, z.shape).reshape(flat.shape)
    out = _shrink(flat, group_price, steps, _Rows(groups)).reshape(z.shape)
    spread = groups.broadcast(excluded).reshape((-1,) + (1,) * (z.ndim - 1))
    return _exclude(out, spread, z).astype(dtype)


def prox_channels(z: Array, prices: Any, step: Any, axis: int) -> Array:
    """The block soft threshold of each index of an axis, in place: nothing is moved or copied."""
    others = tuple(k for k in range(z.ndim) if k != axis % z.ndim)
    dtype, z = z.dtype, _wide(z)
    prices = jnp.broadcast_to(prices, [1 if k in others else n for k, n in enumerate(z.shape)])
    out = _shrink(z, prices.astype(z.dtype), _per_row(step, z), _Channels(others))
    return out.astype(dtype)


class _Rows(NamedTuple):
    """Groups of the rows of a matrix: one value per group, (G,), is one per row, (p, 1)."""

    groups: Groups

    def sums(self, x: Array) -> Array:
        return self.groups.sums(jnp.sum(x, axis=1))

    def maxima(self, x: Array) -> Array:
        return self.groups.maxima(jnp.max(x, axis=1))

    def spread(self, per_group: Array) -> Array:
        return self.groups.broadcast(per_group)[:, None]


class _Channels(NamedTuple):
    """One group for each index of an axis; `others` are the axes to sum over."""

    others: tuple[int, ...]

    def sums(self, x: Array) -> Array:
        return jnp.sum(x, self.others, keepdims=True)

    def maxima(self, x: Array) -> Array:
        return jnp.max(x, self.others, keepdims=True)

    def spread(self, per_group: Array) -> Array:
        return per_group


def _shrink(z: Array, prices: Array, steps: Array, groups: _Rows | _Channels) -> Array:
    """The block soft threshold, with one price per group and one step, or one per entry."""
    factors = _block_factors if steps.ndim == 0 else _metric_factors
    return _positive_zeros(z * factors(z, prices, steps, groups))


def _block_factors(z: Array, prices: Array, step: Array, groups: _Rows | _Channels) -> Array:
    """max(1 − price·step/‖z_g‖, 0) for each entry."""
    prices = prices * step
    peak = _peaks(z, groups)
    squares = groups.sums((z / groups.spread(peak)) ** 2)
    positive = squares > 0
    norms = jnp.sqrt(jnp.where(positive, squares, 1))  # in units of the peak, as the prices below
    stays = positive & (peak * norms > prices)
    factors = jnp.where(stays, 1 - jnp.where(stays, prices, 0) / peak / norms, 0)
    factors = jnp.where(jnp.isnan(squares), jnp.nan, factors)
    return groups.spread(jnp.where(positive | (prices > 0), factors, 1))


def _metric_factors(z: Array, prices: Array, steps: Array, groups: _Rows | _Channels) -> Array:
    """θ/(θ + price·step) with θ = ‖x_g‖ the norm of the answer, for each entry."""
    peak = groups.spread(_peaks(z, groups))
    z = z / peak
    charge = groups.spread(prices) * steps / peak
    charge = jnp.where(charge < jnp.finfo(z.dtype).tiny, 0, charge)
    free = charge == 0
    ratios = jnp.where(free, jnp.where(z == 0, 0, 2), z / jnp.where(free, 1, charge))
    ratios = jax.lax.stop_gradient(jnp.clip(ratios, -2, 2))
    is_zero = groups.sums(ratios**2) <= 1
    is_zero &= groups.maxima(charge) > 0
    gone = groups.spread(is_zero)
    charge = jnp.where(gone, 0, charge)  # not to overflow in the derivative of what is not used
    root = _metric_root(z, charge, groups)
    theta = groups.spread(jnp.where(is_zero, 1, root))
    total = theta + charge
    factors = jnp.where(total > 0, theta / jnp.where(total > 0, total, 1), 1)
    return jnp.where(gone & ~jnp.isnan(z), 0, factors)


def _metric_root(z: Array, charge: Array, groups: _Rows | _Channels) -> Array:
    """The root θ > 0 of Σ z²/(θ + charge)² = 1 in each group, with the derivative of an implicit function."""

    @jax.custom_jvp
    def root(z: Array, charge: Array) -> Array:
        return _newton(z, charge, groups)

    @root.defjvp
    def _(primals: tuple, tangents: tuple) -> tuple:
        (z, charge), (dz, dcharge) = primals, tangents
        theta = root(z, charge)
        inverse = _inverse(groups.spread(theta) + charge)
        move = groups.sums(z * inverse**2 * (dz - z * inverse * dcharge))
        slope = groups.sums(z**2 * inverse**3)
        return theta, jnp.where(slope > 0, move / jnp.where(slope > 0, slope, 1), 0)

    return root(z, charge)


def _newton(z: Array, charge: Array, groups: _Rows | _Channels) -> Array:
    """Newton on φ^(−1/2) = 1, φ = Σ z²/(θ + charge)²: concave and increasing, so that from the left of the
    root no step passes it.

    With q = z²/‖z‖², Jensen's inequality gives θ ≥ ‖z‖ − Σ q·charge, which misses the root by the variance of
    the charges under q over ‖z‖: where that is small, as in most steps of training, it is the root.
    """
    eps = jnp.finfo(z.dtype).eps
    squares = z**2
    total = groups.sums(squares)
    norm = jnp.sqrt(total)
    share = squares / groups.spread(jnp.where(total > 0, total, 1))
    charged = jnp.where(share > 0, charge, 0)  # 0 times a charge that overflowed is not a number
    mean = groups.sums(share * charged)
    left = jnp.where(jnp.isfinite(norm - mean), jnp.maximum(norm - mean, 0), 0)
    left = jnp.maximum(left, groups.maxima(jnp.abs(z) - charge))
    variance = groups.sums(share * (charged - groups.spread(mean)) ** 2)

    def moving(state: tuple) -> Array:
        return (state[0] < _NEWTON_STEPS[z.dtype.itemsize]) & state[2]

    def step(state: tuple) -> tuple:
        theta = state[1]
        inverse = _inverse(groups.spread(theta) + charge)
        phi = groups.sums((z * inverse) ** 2)
        slope = groups.sums(z**2 * inverse**3)
        live = (phi > 0) & (slope > 0)
        phi, slope = jnp.where(live, phi, 1), jnp.where(live, slope, 1)
        new = jnp.where(live, theta + (jnp.sqrt(phi) - 1) * phi / slope, theta)
        # The error after a step is about the square of the step.
        return state[0] + 1, new, jnp.any(new - theta > eps**0.5 / 8 * new)

    far = jnp.any(~(4 * variance <= eps * left**2))
    return jax.lax.while_loop(moving, step, (0, left, far))[1]


def _inverse(x: Array) -> Array:
    return jnp.where(x > 0, 1 / jnp.where(x > 0, x, 1), 0)


def _peaks(z: Array, groups: _Rows | _Channels) -> Array:
    """The largest entry of each group, as a scale that keeps squares from overflow; 1 for a zero group."""
    peak = groups.maxima(jnp.abs(jax.lax.stop_gradient(z)))
    return jnp.where((peak > 0) & jnp.isfinite(peak), peak, 1).astype(z.dtype)


def _norm(flat: Array) -> Array:
    peak = jnp.max(jnp.abs(jax.lax.stop_gradient(flat)), initial=0)
    peak = jnp.where((peak > 0) & jnp.isfinite(peak), peak, 1)
    square = jnp.sum((flat / peak) ** 2)
    return peak * jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


def _simplex(flat: Array, total: Array) -> Array:
    """Projection on {x ≥ 0, Σx = total}, at total = 0 too."""
    unit = jnp.where(total > 0, total, 1)
    out = optax.projections.projection_simplex(flat / unit, 1.0) * unit
    out = jnp.where(total > 0, out.astype(flat.dtype), jnp.zeros_like(flat))
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
    columns = [_spread(parameter, tree) for parameter in parameters]
    return jax.tree.unflatten(tree, [one(*row) for row in zip(leaves, *columns, strict=True)])


def _wide(z: Array) -> Array:
    """In float32 at least: a step of 1e5, as Adam takes at an entry without gradient, is inf in float16."""
    return z.astype(jnp.promote_types(z.dtype, jnp.float32))


def _spread(parameter: Any, tree: Any) -> list:
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
