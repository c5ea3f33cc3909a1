"""One solution on a path, and the exception that ends a path early."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...host._path_solution import Knot


class NumericalBreakdown(Exception):
    """Rounding, or the bound on the number of steps, has ended an algorithm: another must take over."""


class PathPoint(NamedTuple):
    """The solution at one λ, and what the next solve starts from. A * follows for k responses."""

    features: np.ndarray  # (m,): the active set, by column of X̃
    signs: np.ndarray  # (m,): 0 for an unpenalised feature, and for all where weights are per group
    values: np.ndarray  # (m, *k)
    intercept: float | np.ndarray  # (*k,)
    neg_gradient: np.ndarray  # −∇(L + quad/2), of the working set or of all columns
    inverse: np.ndarray | None = None  # of the Hessian on the active set, if homotopy has left one
    slope: np.ndarray | None = None  # ∂L/∂η (n,), if the loss is not quadratic
    num_steps: int = 0
    knots: tuple[Knot, ...] = ()  # since the solution before, if they are kept
    previous: tuple[float, PathPoint] | None = None  # (λ, solution) before, to extrapolate from
