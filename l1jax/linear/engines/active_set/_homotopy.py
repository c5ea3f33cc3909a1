"""Homotopy: the solution of a quadratic program followed exactly while its data move along a line.

While c and the weights move along a line, x does too, until a coordinate of the active set reaches
zero and leaves it, or a gradient reaches its weight and enters (Osborne, Presnell and Turlach 2000;
Efron et al. 2004). `homotopy` goes from one such knot to the next, so that its answer is exact.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ._path_point import NumericalBreakdown
from ._quadratic_program import Bounds, QuadraticProgram

_PARALLEL = 1e-10  # a gradient that closes in on its weight more slowly than this never reaches it
_MAX_KNOTS = 20  # per coordinate, and 50 coordinates more
_TOWARDS = np.array([[-1.0], [1.0]])  # a rising g comes nearer to `up` and goes from −`down`


class LineKnot(NamedTuple):
    """A change of the active set: the fraction of the line that lies behind it, and x (w,) there."""

    fraction: float
    x: np.ndarray


class _Event(NamedTuple):
    """The first knot ahead: after a step (infinite if there is none), by what, and of which."""

    step: float
    kind: str  # "leave", "up" or "down"
    coordinate: int  # a place in A if it leaves, else a coordinate


def homotopy(
    program: QuadraticProgram,
    shift: np.ndarray,
    weights: tuple[np.ndarray, np.ndarray],
    knots: list[LineKnot] | None = None,
) -> int:
    """Follows the solution while c moves by `shift` and the weights to `weights`.

    Returns the number of knots passed; `knots` collects them, if given. Raises `NumericalBreakdown`
    after too many.
    """
    active, start, end = program.active, program.bounds, Bounds.of(*weights)
    program.has_drifted = True
    d_weights = np.stack([end.up - start.up, end.down - start.down])
    distance = np.stack([start.up - program.neg_gradient, start.down + program.neg_gradient])
    parallel = _PARALLEL * max(np.abs(shift).max(), np.abs(d_weights).max())
    d_linear = shift if shift.any() else None
    done, count = 0.0, 0
    while True:
        # 1. Direction: dx_A = Q_AA⁻¹ (dc − sign · dw)_A, dg = dc − Q dx.
        dx, dg = _direction(program, d_linear, d_weights)
        # 2. The knot ahead: where a coordinate is zero, or where a gradient meets its weight.
        rates = d_weights + _TOWARDS * dg
        event = _next_event(program, dx, distance, rates, parallel)
        is_last = event.step >= 1 - done
        step = 1 - done if is_last else event.step
        # 3. Step.
        active.values[:] += step * dx
        program.neg_gradient += step * dg
        if step > 0:
            active.unblock()
        if is_last:
            program.bounds = end
            return count
        distance += step * rates
        done += step
        count += 1
        if count > _MAX_KNOTS * (len(shift) + 50):
            raise NumericalBreakdown
        # 4. Change of the active set.
        if event.kind == "leave":
            j = int(active.indices[event.coordinate])
            program.leave(event.coordinate)
            if step == 0:  # or it might enter and leave forever
                active.block(j)
        else:
            _enter(program, event.coordinate, 1.0 if event.kind == "up" else -1.0)
        if knots is not None:
            knots.append(LineKnot(done, program.x))


def _direction(
    program: QuadraticProgram, d_linear: np.ndarray | None, d_weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the derivatives of x_A (m,) and of g (w,) along the line."""
    at, signs = program.active.indices, program.active.signs
    rhs = -signs * d_weights[(signs < 0).view(np.int8), at]
    if d_linear is not None:
        rhs += d_linear[at]
    dx = program.factor.inverse @ rhs
    dg = -program.factor.product(dx)
    if d_linear is not None:
        dg += d_linear
    return dx, dg


def _next_event(
    program: QuadraticProgram,
    dx: np.ndarray,
    distance: np.ndarray,
    rates: np.ndarray,
    parallel: float,
) -> _Event:
    active = program.active
    place, step = first_zero(active.values, dx, dx * active.signs < 0)
    entry, ahead = first_zero(distance, rates, (rates < -parallel) & active.may_enter)
    if ahead < step:
        side, j = divmod(entry, rates.shape[1])
        return _Event(ahead, ("up", "down")[side], j)
    return _Event(step, "leave", place)


def _enter(program: QuadraticProgram, j: int, sign: float) -> None:
    """Adds coordinate j, in exchange for another where it depends on those of the active set."""
    factor, value = program.factor, 0.0
    pivot = factor.pivot(j)
    if pivot[1] <= factor.min_pivot(j):
        found = _degenerate_pivot(program, sign, pivot[0])
        if found is None:
            program.active.block(j)
            return
        k, value = found
        program.leave(k)
        pivot = factor.pivot(j)
        if pivot[1] <= factor.min_pivot(j):
            raise NumericalBreakdown
    program.enter(j, sign, value, pivot)


def _degenerate_pivot(
    program: QuadraticProgram, sign: float, u: np.ndarray
) -> tuple[int, float] | None:
    """Moves along the null direction of a dependent column until an active coordinate is zero.

    Returns the place of that coordinate, and the value of the column then; None if none gets there.
    Neither Qx nor the objective changes, since the gradient of the column is at its weight.
    """
    active = program.active
    direction = -sign * u
    place, step = first_zero(active.values, direction, direction * active.signs < 0)
    if np.isinf(step):
        return None
    active.values[:] += step * direction
    return place, step * sign


def first_zero(x: np.ndarray, rate: np.ndarray, where: np.ndarray) -> tuple[int, float]:
    """Returns which of the entries `where` is first at zero, and when: never, if there are none.

    Their rates must lead towards zero.
    """
    if not x.size:
        return -1, np.inf
    times = np.full(x.shape, -np.inf)
    np.divide(x, rate, out=times, where=where)
    place = int(times.argmax())
    return place, max(-times.flat[place], 0.0)
