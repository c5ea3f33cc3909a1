"""Groups that overlap: unions of groups by latent copies, and groups within groups."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from .. import prox
from .._groups import Groups
from .._latent import multipliers
from ._base import Masks, no_negative, weight_leaves
from ._norms import Norm


class _SetsOfFeatures(Norm):
    """Groups as lists of places of features, with a weight each."""

    weights: Any  # one per group; None: the square root of its size
    groups: tuple[tuple[int, ...], ...] = eqx.field(static=True)

    def __init__(self, lam: Any = None, groups: Any = None, weights: Any = None):
        super().__init__(lam)
        name = type(self).__name__
        if groups is None:
            raise TypeError(
                f"{name} needs groups: one list of the places of its features for each, as in "
                f"{name}(0.1, groups=[[0, 1], [1, 2]])."
            )
        self.groups = _as_sets(groups, name)
        self.weights, excluded = weight_leaves(weights)
        shape = np.shape(self.weights) if self.weights is not None else ()
        if shape not in ((), (len(self.groups),)):
            raise ValueError(
                f"weights must hold one number per group, shape ({len(self.groups)},), got shape {shape}."
            )
        if weights is not None and isinstance(excluded, np.ndarray | np.bool_) and np.any(excluded):
            raise ValueError("weights must be finite: to exclude features, drop their columns.")

    def is_valid(self) -> Bool[Array, ""]:
        return super().is_valid() & no_negative(self.weights)

    def _bounds(self, dtype: Any) -> Float[Array, " G"]:
        """w_g."""
        if self.weights is None:
            return jnp.sqrt(jnp.asarray([len(group) for group in self.groups], dtype))
        return jnp.broadcast_to(jnp.asarray(self.weights, dtype), (len(self.groups),))

    def _members(self, x: Array) -> np.ndarray:
        return _memberships(self.groups, x.shape[0], type(self).__name__)

    def _norms(self, x: Array) -> Float[Array, " G"]:
        """‖x_g‖."""
        unit = jnp.max(jnp.abs(x), initial=0)
        unit = jnp.where(unit > 0, unit, 1)
        squares = jnp.sum((x / unit).reshape(x.shape[0], -1) ** 2, axis=1)
        sums = jnp.matmul(self._members(x).T.astype(x.dtype), squares, precision="highest")
        return unit * jnp.where(sums > 0, jnp.sqrt(jnp.where(sums > 0, sums, 1)), 0)


class OverlappingGroupL1(_SetsOfFeatures):
    """The latent group lasso λ min {Σ_g w_g‖v_g‖₂: Σ_g v_g = x, v_g zero outside of group g}.

    What is in is a union of groups: a feature may come in with any of its groups. It is the group lasso on a
    design in which each feature is repeated for each of its groups, without the copies. For groups within
    groups, of which one is in only with those around it: `HierarchicalGroupL1`.

    A prox solves for one multiplier per group by Newton's method, with a dense matrix of p × G; the value does
    too.

    **Arguments:**

    - `lam`: the strength λ ≥ 0, in units of a gradient; None is not set yet.
    - `groups`: one list of the places of its features for each group; each feature is in one at least.
    - `weights`: w > 0, one per group, √(number of its features) unless given.

    **Raises:** ValueError for a feature in no group, and for weights that are not positive and finite.
    Source: Jacob, Obozinski and Vert (2009); the prox by its dual: Villa et al. (2014).

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> pen = l1jax.OverlappingGroupL1(1.0, groups=[[0, 1], [1, 2]], weights=[2.5, 2.5])
    >>> print(pen.prox(jnp.array([3.0, 4.0, 0.0])))
    [1.5 2.  0. ]

    ```
    """

    def __init__(self, lam: Any = None, groups: Any = None, weights: Any = None):
        super().__init__(lam, groups, weights)
        if isinstance(self.weights, np.ndarray) and not (self.weights > 0).all():
            raise ValueError(
                "weights must be above 0: a group of weight 0 would leave its features free."
            )

    def value(self, x: Array) -> Array:
        squares, unit = self._squares(x)
        bounds, members = self._bounds(x.dtype), jnp.asarray(self._members(x), x.dtype)
        nu = multipliers(squares, bounds, members, 0.0)
        total = jnp.matmul(members, nu, precision="highest")
        is_there = (squares > 0) & (total > 0)
        terms = jnp.where(is_there, squares / jnp.where(is_there, total, 1), 0)
        return self._lam_like(x) * unit * 0.5 * (jnp.sum(bounds**2 * nu) + jnp.sum(terms))

    def prox(self, z: Array, step: Any = 1.0) -> Array:
        bound = self._lam_like(z) * jnp.asarray(step, z.dtype)
        safe = jnp.where(bound > 0, bound, 1)
        members, bounds = jnp.asarray(self._members(z), z.dtype), self._bounds(z.dtype)
        squares = jnp.sum((z / safe).reshape(z.shape[0], -1) ** 2, axis=1)
        total = jnp.matmul(members, multipliers(squares, bounds, members, 1.0), precision="highest")
        out = z * (total / (1 + total)).reshape((-1,) + (1,) * (z.ndim - 1))
        out = jnp.where(out == 0, jnp.zeros((), z.dtype), out)
        return jnp.where((bound > 0) & ~jnp.isnan(z), out, z)

    def lambda_max(self, gradient: Array) -> Array:
        """max_g ‖g_g‖/w_g, the dual norm of the gradient at λ = 1."""
        return jnp.max(self._norms(gradient) / self._bounds(gradient.dtype), initial=0)

    def _members(self, x: Array) -> np.ndarray:
        members = super()._members(x)
        left = np.flatnonzero(~members.any(axis=1))
        if left.size:
            raise ValueError(
                f"feature {left[0]} is in no group: add a group for it, such as [{left[0]}]."
            )
        return members

    def _squares(self, x: Array) -> tuple[Float[Array, " p"], Array]:
        """Σ xⱼ² of each feature, in units of the largest entry; and that unit."""
        unit = jnp.max(jnp.abs(x), initial=0)
        unit = jnp.where(unit > 0, unit, 1)
        return jnp.sum((x / unit).reshape(x.shape[0], -1) ** 2, axis=1), unit


class HierarchicalGroupL1(_SetsOfFeatures):
    """The tree-structured group lasso λ Σ_g w_g‖x_g‖₂ of groups within groups: none is in without those around.

    Two groups are disjoint, or one is within the other. The prox takes block soft thresholds from the inside to
    the outside. A feature in no group is unpenalised.

    **Arguments:**

    - `lam`: the strength λ ≥ 0, in units of a gradient; None is not set yet.
    - `groups`: one list of the places of its features for each group.
    - `weights`: w ≥ 0, one per group, √(number of its features) unless given.

    **Raises:** ValueError for groups that overlap otherwise, and for negative or infinite weights.
    Source: Jenatton, Mairal, Obozinski and Bach (2011).

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> pen = l1jax.HierarchicalGroupL1(1.0, groups=[[0, 1, 2], [1, 2]], weights=[2.5, 5.0])
    >>> print(pen.prox(jnp.array([4.0, 1.0, -2.0])))  # the inner group is out, the outer one in
    [1.5 0.  0. ]

    ```
    """

    def __init__(self, lam: Any = None, groups: Any = None, weights: Any = None):
        super().__init__(lam, groups, weights)
        _levels(self.groups)

    def value(self, x: Array) -> Array:
        return self._lam_like(x) * jnp.sum(self._bounds(x.dtype) * self._norms(x))

    def prox(self, z: Array, step: Any = 1.0) -> Array:
        self._members(z)  # checked
        bounds = jnp.append(
            self._bounds(z.dtype), 0
        )  # of the features of a level that are in no group
        for level in _levels(self.groups):
            ids = np.full(z.shape[0], len(self.groups))
            for g in level:
                ids[list(self.groups[g])] = g
            groups = Groups(ids)
            z = prox.prox_group_l1(z, self._lam(), groups, step, bounds[groups.labels])
        return z

    def lambda_max(self, gradient: Array) -> Array:
        """By bisection on the prox, as in `Penalty`."""
        return super(Norm, self).lambda_max(gradient)

    def conjugate(self, v: Array) -> Array:
        return super(Norm, self).conjugate(v)

    def dual_scale(self, v: Array) -> Array:
        return super(Norm, self).dual_scale(v)

    def masks(self, shape: tuple[int, ...]) -> Masks:
        x = jnp.zeros(shape)
        weights = self._lam_like(x) * self._bounds(x.dtype)
        is_free = jnp.matmul(self._members(x).astype(x.dtype), weights) == 0
        is_free = jnp.broadcast_to(is_free.reshape((-1,) + (1,) * (len(shape) - 1)), shape)
        return Masks(unpenalised=is_free, excluded=jnp.zeros(shape, bool))


def _as_sets(groups: Any, name: str) -> tuple[tuple[int, ...], ...]:
    """Sorted places of the features of each group."""
    sets = []
    for group in groups:
        if not isinstance(group, Iterable):
            raise TypeError(
                f"groups of {name} must be lists of places, one list per group, got {group!r}: for one id per "
                "feature take GroupL1."
            )
        places = sorted({int(place) for place in group})
        if not places or places[0] < 0:
            raise ValueError(f"every group of {name} needs places ≥ 0, got {list(group)}.")
        sets.append(tuple(places))
    if not sets:
        raise ValueError(f"groups of {name} is empty.")
    return tuple(sets)


@functools.lru_cache(maxsize=64)
def _memberships(groups: tuple[tuple[int, ...], ...], p: int, name: str) -> np.ndarray:
    """Which feature is in which group: (p, G)."""
    largest = max(group[-1] for group in groups)
    if largest >= p:
        raise ValueError(f"groups of {name} name feature {largest}, but there are {p} features.")
    members = np.zeros((p, len(groups)), bool)
    for g, group in enumerate(groups):
        members[list(group), g] = True
    return members


@functools.lru_cache(maxsize=64)
def _levels(groups: tuple[tuple[int, ...], ...]) -> Sequence[Sequence[int]]:
    """The groups by how many are one within the other inside of them: disjoint in each level."""
    order = sorted(range(len(groups)), key=lambda g: len(groups[g]))
    heights: dict[int, int] = {}
    top: dict[int, int] = {}  # of each feature, the largest group so far
    for g in order:
        inside = {top[place] for place in groups[g] if place in top}
        for h in inside:
            if not set(groups[h]) <= set(groups[g]):
                raise ValueError(
                    f"groups {h} and {g} overlap, and neither is within the other: take OverlappingGroupL1."
                )
        heights[g] = 1 + max((heights[h] for h in inside), default=-1)
        top.update(dict.fromkeys(groups[g], g))
    return [[g for g in order if heights[g] == h] for h in range(1 + max(heights.values()))]
