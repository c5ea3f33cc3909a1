"""The block soft threshold: one factor for each entry of a group, from sums over the group.

Arrays are floats of at least float32; penalty weights (λ included) are one number per group, in the shape that
`sum` returns. The threshold of an entry is the weight of its group times its step.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ._groups import Groups

_NEWTON_STEPS = 40  # at most; from a norm that is one step old one or two are usual
_LARGE = 2**17  # entries from which sums over channels are worth a loop of their own
_FOLDS = (10, 8, 9, 7, 6, 5, 4, 3)  # into how many parts; 16 are no vector loop any more
_PAGE = 256  # entries that are read together; over 1000 and more it takes twice the time


class Rematerialisation(NamedTuple):
    """How to compute an array z and its steps again, where they are used.

    Where a sum over z is followed by work on each entry, XLA writes z to memory between the two. That costs
    time where z is as large as the parameters of a network and follows from arrays in memory anyway.
    `compute(inputs, after)` returns (z, steps) once `after` is known; `estimate` is an array close to z.
    """

    inputs: Any
    compute: Callable[[Any, Any], tuple[Array, Any]]
    estimate: Array | None = None


class Rows(NamedTuple):
    """Groups of the rows of a matrix: one value per group, (G,), is one per row, (p, 1)."""

    groups: Groups

    def totals(self, sums: tuple, maxima: tuple = ()) -> tuple[list, list]:
        """The sums and the maxima of several arrays over each group."""
        return [self.sum(x) for x in sums], [self.max(x) for x in maxima]

    def sum(self, x: Array) -> Array:
        return self.groups.sums(jnp.sum(x, axis=1))

    def max(self, x: Array) -> Array:
        return self.groups.maxima(jnp.max(x, axis=1))

    def broadcast(self, per_group: Array) -> Array:
        return self.groups.broadcast(per_group)[:, None]


class Channels(NamedTuple):
    """One group for each index of an axis of an array of `ndim` axes."""

    axis: int
    ndim: int

    @property
    def others(self) -> tuple[int, ...]:
        return tuple(k for k in range(self.ndim) if k != self.axis)

    def per_group(self, weights: Any, z: Array) -> Array:
        return jnp.broadcast_to(jnp.asarray(weights, z.dtype), self._one_each(z.shape))

    def totals(self, sums: tuple, maxima: tuple = ()) -> tuple[list, list]:
        """The sums and the maxima of several arrays over each group: on a CPU in one pass over them."""
        shape = sums[0].shape
        view = _foldable(shape, self.axis) if sums[0].size >= _LARGE else None

        def one_by_one(sums: tuple, maxima: tuple) -> tuple[list, list]:
            return [self.sum(x) for x in sums], [self.max(x) for x in maxima]

        if view is None:
            return one_by_one(sums, maxima)

        def folded(sums: tuple, maxima: tuple) -> tuple[list, list]:
            sums, maxima, others = _fold(sums, maxima, view)
            return (
                [jnp.sum(x, others).reshape(self._one_each(shape)) for x in sums],
                [jnp.max(x, others).reshape(self._one_each(shape)) for x in maxima],
            )

        return jax.lax.platform_dependent(sums, maxima, cpu=folded, default=one_by_one)

    def sum(self, x: Array) -> Array:
        return jnp.sum(x, self.others, keepdims=True)

    def max(self, x: Array) -> Array:
        return jnp.max(x, self.others, keepdims=True)

    def broadcast(self, per_group: Array) -> Array:
        return per_group

    def _one_each(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(n if k == self.axis else 1 for k, n in enumerate(shape))


def channels(z: Array, axis: int) -> Channels:
    return Channels(axis % z.ndim, z.ndim)


class View(NamedTuple):
    """A shape in which an axis of a few entries may be summed, and where the channels are after that."""

    shape: tuple[int, ...]
    few: int
    channels: int


def _foldable(shape: tuple[int, ...], axis: int) -> View | None:
    """A view of an array of which what is summed lies close together in memory: in one page, if possible."""
    before, n, after = math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])
    for parts in _FOLDS:
        run = _divisor(after // parts, 8, _PAGE // parts)
        if after % parts == 0 and run:
            return View((before, n, after // (parts * run), parts, run), 3, 1)
    for parts in _FOLDS:
        if before % parts == 0:
            rows = _divisor(before // parts, 1, max(1, _PAGE // (parts * n * after))) or 1
            return View((before // (parts * rows), parts, rows, n, after), 1, 2)
    for parts in _FOLDS:
        if after % parts == 0:
            return View((before, n, parts, after // parts), 2, 1)
    return None


def _divisor(n: int, least: int, most: int) -> int | None:
    return next((k for k in range(most, least - 1, -1) if n % k == 0), None)


def _fold(sums: tuple, maxima: tuple, view: View) -> tuple[tuple, tuple, tuple[int, ...]]:
    """Sums and maxima of a few entries each, and the axes that are left to sum over.

    XLA makes one loop of it in which nothing is written but the results. The few additions are written out
    and other entries are next to them in memory, so that it runs in vector registers, as sums over a whole
    axis do not.
    """

    def combine(a: Sequence, b: Sequence) -> tuple:
        pairs = list(zip(a, b, strict=True))
        added = [x + y for x, y in pairs[: len(sums)]]
        return (*added, *(jnp.maximum(x, y) for x, y in pairs[len(sums) :]))

    starts = [jnp.zeros((), x.dtype) for x in sums]
    starts += [jnp.full((), -jnp.inf, x.dtype) for x in maxima]
    arrays = [x.reshape(view.shape) for x in (*sums, *maxima)]
    out = tuple(jax.lax.reduce(arrays, starts, combine, (view.few,)))
    left = tuple(k for k in range(len(view.shape) - 1) if k != view.channels)
    return out[: len(sums)], out[len(sums) :], left


def shrink(
    z: Array, weights: Array, steps: Array, groups: Rows | Channels, norms: Array | None = None
) -> Array:
    """z·θ/(θ + weight·step): the block soft threshold, with θ the norm of the result in each group."""
    if norms is None:
        norms = norms_left(z, steps, None, weights, groups)
    # In units of θ, so that no square in a derivative overflows.
    unit = jax.lax.stop_gradient(jnp.where(norms > 0, norms, 1))
    theta, threshold = groups.broadcast(norms / unit), groups.broadcast(weights / unit) * steps
    # An entry with threshold 0 stays, also beside entries that are not numbers.
    theta = jnp.where(jnp.isnan(theta) & (threshold == 0), 1, theta)
    gone = (theta == 0) & (threshold > 0)
    total = theta + jnp.where(gone, 0, threshold)
    factors = jnp.where(total == 0, 1, theta / jnp.where(total == 0, 1, total))
    return jnp.where(gone, 0, z * factors)


def norms_left(
    z: Array, steps: Array, remat: Rematerialisation | None, weights: Array, groups: Rows | Channels
) -> Array:
    """θ = ‖x_g‖ of the block soft threshold x, with the derivative of an implicit function.

    It is 0 where Σ (z/threshold)² ≤ 1, and else the root of Σ z²/(θ + threshold)² = 1. Where a group has one
    step for all, that is ‖z_g‖ − threshold. Values come from the rematerialised z and steps, if given;
    derivatives from z and steps themselves.
    """
    limits, is_kept = jnp.finfo(z.dtype), remat is None
    remat = remat or Rematerialisation((z, steps), lambda inputs, after: inputs)

    @jax.custom_jvp
    def norms(
        z: Array, threshold: Array, inputs: Any, estimate: Array | None, weights: Array
    ) -> Array:
        def terms(after: Any) -> tuple[Array, Array]:
            z, steps = remat.compute(inputs, after)
            return z, groups.broadcast(weights) * steps

        if steps.ndim:
            start = _start(terms, estimate, groups)
            theta = (
                _roots_of(*terms(None), start, groups) if is_kept else roots(terms, start, groups)
            )
        else:
            sizes = _euclid(terms, groups, estimate is not None)
            one = weights * remat.compute(inputs, None)[1]
            # A comparison decides, as a difference may be rounded otherwise where it is fused.
            theta = jnp.where(sizes <= one, 0, jnp.maximum(sizes - one, limits.tiny))
        # No norm above the largest number, which divided by itself is 1.
        return jnp.where(jnp.isinf(theta), limits.max, theta)

    @norms.defjvp
    def _(primals: tuple, tangents: tuple) -> tuple:
        theta = norms(*primals)
        (z, threshold), (dz, dthreshold) = primals[:2], tangents[:2]
        inverse = _inverse(groups.broadcast(theta) + threshold)
        ratio = z * inverse
        move = groups.sum(ratio * inverse * (dz - ratio * dthreshold))
        slope = groups.sum(ratio**2 * inverse)
        there = (theta > 0) & (slope > 0)
        return theta, jnp.where(there, move / jnp.where(there, slope, 1), 0)

    fixed = jax.lax.stop_gradient((remat.inputs, remat.estimate, weights))
    return norms(z, groups.broadcast(weights) * steps, *fixed)


def _start(
    terms: Callable[[Any], tuple[Array, Array]], estimate: Array | None, groups: Rows | Channels
) -> Array:
    """Returns the start of the root search: the norms of the estimate of z, if there is one, else of z."""
    if estimate is None:
        return _euclid(terms, groups, False)
    wide = estimate.astype(jnp.promote_types(estimate.dtype, jnp.float32))
    return jnp.sqrt(groups.sum(wide**2))


def roots(
    terms: Callable[[Any], tuple[Array, Array]], start: Array, groups: Rows | Channels
) -> Array:
    """The root θ ≥ 0 of φ(θ) = Σ z²/(θ + threshold)² = 1 in each group, 0 where φ(0) ≤ 1.

    Newton on h = φ^(−1/2) = 1, and to second order once that is exact to rounding. As h is concave and
    increasing, no step from the left of the root passes it, and one from the right ends on its left. Where that
    is below zero, or numbers overflow, max(|z| − threshold) is on the left too, and from there on none does.
    All thresholds alike, or small ones, make h a straight line.
    """
    limits = jnp.finfo(start.dtype)

    def moving(state: tuple) -> Array:
        return (state[0] < _NEWTON_STEPS) & jnp.any(~state[2])

    def step(state: tuple) -> tuple:
        count, theta, done = state
        z, threshold = terms(theta)
        inverse = 1 / jnp.maximum(groups.broadcast(theta) + threshold, limits.tiny)
        squares = (z * inverse) ** 2
        phi, third, fourth = groups.totals((squares, squares * inverse, squares * inverse**2))[0]
        is_zero = (theta == 0) & (phi <= 1)
        usable = (phi > 0) & (third > 0) & jnp.isfinite(third)
        phi, third = (jnp.where(usable, x, 1) for x in (phi, third))
        residual = jnp.sqrt(phi) - 1
        move = residual * phi / third
        ratio = 3 * jnp.maximum(fourth / third - third / phi, 0)  # −h″/h′
        corrected = theta + move + ratio * move**2 / 2
        error, size = 4 * ratio * jnp.abs(move) ** 3, jnp.abs(move)
        is_short = (2 * size <= theta + move) & (2 * ratio * size <= 1)
        is_close = usable & is_short & (4 * error <= limits.eps * corrected**2)
        is_exact = usable & (jnp.abs(residual) <= 4 * limits.eps)
        unsafe = ~usable | (theta + move <= 0) | ((theta == 0) & (count == 0))
        unsafe &= ~(is_zero | is_close | is_exact | done)

        def left() -> Array:
            z, threshold = terms(unsafe)
            # With a sum beside it XLA keeps none of both in memory.
            (square,), (left_end,) = groups.totals((z**2,), (jnp.abs(z) - threshold,))
            return jnp.where(jnp.isnan(square), square, jnp.maximum(left_end, 0))

        safe = jax.lax.cond(jnp.any(unsafe), left, lambda: theta)
        new = jnp.where(is_close, corrected, theta + move)
        new = jnp.where(is_zero, 0, jnp.where(unsafe, safe, new))
        new = jnp.where(done, theta, new)
        return count + 1, new, done | is_zero | is_close | is_exact | ~jnp.isfinite(new)

    start = jnp.where(jnp.isfinite(start), start, 0)
    none = start < 0  # computed from start, so that it lies on the same devices in a shard_map
    return jax.lax.while_loop(moving, step, (0, start, none))[1]


@functools.partial(jax.jit, static_argnums=3)
def _roots_of(z: Array, threshold: Array, start: Array, groups: Rows | Channels) -> Array:
    """Those of arrays: compiled once, where eager code would compile the loop at every call."""
    return roots(lambda after: (z, threshold), start, groups)


def _euclid(
    terms: Callable[[Any], tuple[Array, Array]], groups: Rows | Channels, in_one_pass: bool
) -> Array:
    """‖z_g‖, from squares in units of the largest entry where others overflow or vanish.

    In one pass, and a second where that is so; or in two at once, for code that runs both sides of a condition.
    """
    z, _ = terms(None)
    limits = jnp.finfo(z.dtype)

    def scaled(peak: Array, z: Array) -> Array:
        unit = jnp.where((peak > 0) & jnp.isfinite(peak), peak, 1)
        return unit * jnp.sqrt(groups.sum((z / groups.broadcast(unit)) ** 2))

    if not in_one_pass:
        return scaled(groups.max(jnp.abs(z)), z)
    (square,), (peak,) = groups.totals((z**2,), (jnp.abs(z),))
    unsure = (peak > 0) & ((peak < limits.tiny**0.4) | (peak > limits.max**0.4))
    return jax.lax.cond(
        jnp.any(unsure), lambda: scaled(peak, terms(peak)[0]), lambda: jnp.sqrt(square)
    )


def _inverse(x: Array) -> Array:
    return jnp.where(x > 0, 1 / jnp.where(x > 0, x, 1), 0)
