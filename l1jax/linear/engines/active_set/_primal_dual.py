"""Primal-dual active sets: the solution of a quadratic program by guesses at its active set.

Each guess is corrected by the signs of x and the gradients that it leads to, until it is right
(Hintermüller, Ito and Kunisch 2002): many changes of the active set for the cost of one solve, where
this converges. It does not always; then `homotopy` takes over.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ._homotopy import homotopy
from ._options import OPTIONS
from ._path_point import NumericalBreakdown
from ._quadratic_program import Bounds, QuadraticProgram

_OVER = 1e-12  # fraction of its weight by which a gradient may exceed it
_ROUNDING = 1e-15  # ... and of the largest gradient
_RESIDUAL = 1e-10  # ... by which the equations of a guess may be missed


class Outcome(NamedTuple):
    """Whether the guesses converged, how many coordinates changed, and whether guesses got worse."""

    converged: bool
    num_changes: int = 0
    diverged: bool = False


_FAILED = Outcome(False)


def solve_moved(
    program: QuadraticProgram, shift: np.ndarray, weights: tuple[np.ndarray, np.ndarray]
) -> int:
    """Solves at other data: by primal-dual active sets, or else by homotopy; returns the changes of A."""
    outcome = primal_dual(program, shift, weights)
    return outcome.num_changes if outcome.converged else homotopy(program, shift, weights)


def primal_dual(
    program: QuadraticProgram, shift: np.ndarray, weights: tuple[np.ndarray, np.ndarray]
) -> Outcome:
    """Solves with c moved by `shift`, at the `weights` (up, down).

    The program is as it was before if the guesses do not converge.
    """
    before = program.checkpoint()
    program.active.unblock()
    program.neg_gradient = program.neg_gradient + shift
    try:
        outcome = _guess(program, Bounds.of(*weights))
    except (NumericalBreakdown, np.linalg.LinAlgError):
        outcome = _FAILED
    if not outcome.converged:
        program.restore(before)
    return outcome


def _guess(program: QuadraticProgram, bounds: Bounds) -> Outcome:
    active, factor = program.active, program.factor
    size = np.abs(program.neg_gradient).max(initial=0)
    high, low = (weight + (_OVER * weight + _ROUNDING * size) for weight in bounds)
    num_changes, last = 0, np.inf
    for _ in range(OPTIONS.max_guesses):
        # 1. Solve on the guessed active set, with the guessed signs.
        at, wanted = active.indices, program.stationary(bounds)
        dx = factor.solve_cholesky(program.neg_gradient[at] - wanted)
        active.values[:] += dx
        if program.linear is None:
            program.neg_gradient -= factor.product(dx)
        else:
            program.differentiate()
        g = program.neg_gradient
        if not np.abs(g[at] - wanted).max(initial=0) <= _RESIDUAL * size:
            return _FAILED  # dependent columns move far, and their gradients are rounding
        # 2. Find what is wrong: signs on A, gradients over their weights off it.
        wrong = active.values * active.signs < 0
        over = active.may_enter & ((g > high) | (g < -low))
        if not wrong.any() and not over.any():
            if not factor.cholesky.is_independent():
                return _FAILED  # optimal, but nothing could go on from a singular Q_AA
            program.bounds = bounds
            return Outcome(True, num_changes)
        leaving, entering = np.flatnonzero(wrong), np.flatnonzero(over)
        # 3. Stop where guesses get worse; else correct the guess.
        before_last, last = last, len(leaving) + len(entering)
        if last > max(before_last, OPTIONS.min_divergence):
            return Outcome(False, diverged=True)
        num_changes += last
        program.exchange(leaving, entering)
    return _FAILED
