"""Where a walk stands."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ...host._path_solution import Knot


class NumericalBreakdown(Exception):
    """Rounding has led the walk astray; another solver must take over."""


class State(NamedTuple):
    """A solution: the features on its face, and what it takes to walk on from there."""

    features: np.ndarray
    signs: np.ndarray  # 0 for a feature that is free; unused where groups have the prices
    values: np.ndarray
    intercept: Any  # (*k,)
    gradient: np.ndarray  # −∇(L + quad/2), of the working set or of all columns
    inverse: np.ndarray | None = None  # of the Hessian on the face, where a Gram matrix has it
    slope: np.ndarray | None = None  # ∂L/∂η, where the loss is not quadratic
    steps: int = 0
    knots: tuple[Knot, ...] = ()  # passed on the way, where they were asked for
    before: tuple[float, State] | None = None  # a solution from which a line leads through this one
