"""What an engine on the host returns: its solutions along the grid, on the solver's scale."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..data._block_sources import BlockError
from ._columns import Columns
from ._sparse_rows import Coefs, dense, take


class Knot(NamedTuple):
    """A λ at which a feature enters or leaves, and the nonzero coefficients of the solution there."""

    lam: float
    features: np.ndarray
    values: np.ndarray


class PathSolution(NamedTuple):
    """The solutions along the grid, and the knots of an engine that keeps them."""

    betas: Coefs  # (L, p, *k)
    intercepts: np.ndarray  # (L, *k)
    num_steps: np.ndarray  # (L,)
    num_solved: int  # the first so many are solved; the rest repeat the last solution
    knots: list[Knot]
    interrupted: bool = False  # by the user: what is solved is what there is
    neg_gradients: np.ndarray | None = None  # −∇L (L, p, *k), where they are known for all columns
    columns: Columns | None = None  # that were asked for
    has_unpenalised: bool = True  # whether there may be unpenalised features
    failure: BlockError | None = None  # of a block of rows: what is solved is what there is

    def rows(self, some: slice) -> PathSolution:
        """The solutions at some of the strengths, as arrays."""
        known = self.neg_gradients
        return self._replace(
            betas=np.asarray(dense(take(self.betas, some))),
            intercepts=self.intercepts[some],
            num_steps=self.num_steps[some],
            neg_gradients=None if known is None else known[some],
        )
