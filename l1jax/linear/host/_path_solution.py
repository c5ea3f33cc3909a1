"""What a follower of a path hands over: its solutions along the grid, on the scale of the solver."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ._columns import Columns


class Knot(NamedTuple):
    """A strength at which a feature enters or leaves, and the solution there."""

    lam: float
    features: np.ndarray
    values: np.ndarray


class PathSolution(NamedTuple):
    """Solutions along the grid, on the solver's scale, and the knots where all were asked for."""

    betas: np.ndarray  # (L, p, *k)
    intercepts: np.ndarray  # (L, *k)
    num_steps: np.ndarray  # (L,)
    num_solved: int  # the first so many strengths are solved; the rest hold the last solution
    knots: list[Knot]
    interrupted: bool = False  # by the user: what is solved is what there is
    gradients: np.ndarray | None = None  # −∇L (L, p, *k), where the walk looked at all columns
    columns: Columns | None = None  # that were asked for
    has_free: bool = True  # whether there may be features without a price
