"""Paths of subsets of the rows, folds or halves: one after the other, or as lanes of one compiled batch."""

from __future__ import annotations

import dataclasses
import operator
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from ..._compile import program
from ..._status import Status
from ..._types import AnyArray
from ...penalties import Penalty
from ..engines._engine import ENGINES, Engine, Plan, choose_engine, solve_plan
from ..host._columns import GramColumns
from ..model._null_model import prepare
from ..model._problem import Data, Problem
from ..results._fit import Fit
from ..results._options import FitOptions
from ..results._path import Path

_AT_ONCE = 2**30  # bytes of data, a copy for each lane, that one batch may hold


@dataclasses.dataclass(frozen=True)
class SubsetPaths:
    """What all paths have in common: the plan but for its problem, the engine, the options.

    On a CPU paths one after the other are faster than lanes of one batch, whose loops run to the longest of
    them: 100 halves of 200 × 2000, 100 strengths, took 34 ms each by halves of the rows, 56 as lanes of a
    program that goes through them in turn, 121 as one batch (seconds of CPU).
    """

    plan: Plan  # its penalty is on the user's scale
    engine: Engine
    options: FitOptions

    def path(
        self, problem: Problem, gram: GramColumns | None = None, count: int | None = None
    ) -> Path:
        """Returns the path over the grid, or its first `count` strengths.

        Raises: KeyboardInterrupt where it was stopped.
        """
        pen = problem.on_scale(self.plan.pen)
        parts = {"lams": self.plan.lams[:count], "start": problem.null.point, "gram": gram}
        plan = dataclasses.replace(self.plan, problem=problem, pen=pen, **parts)
        is_supported = gram is not None or self.engine.supports(plan) is None
        found = solve_plan(self.engine if is_supported else ENGINES["fista"], plan)
        if (np.asarray(found.status) == Status.INTERRUPTED).any():
            raise KeyboardInterrupt
        fits = dataclasses.replace(found.fits, loss=problem.loss, options=self.options)
        return Path(fits, found.knots)

    def most_in_one_batch(self, x: Any) -> int:
        """Returns the number of paths that one batch may hold; 0 where the engine solves one at a time."""
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(x))
        return _AT_ONCE // max(size, 1) if self.engine.fits_in_one_batch else 0

    def in_one_batch(self, data: Data, weights: np.ndarray) -> list[Fit]:
        """Returns the fits over the grid for each row of weights, 0 for rows that are not of the subset."""
        plan = self.plan
        limits = (plan.lams, plan.tol, plan.max_steps, plan.names)
        fits = _in_one_batch(data, plan.pen, weights, *limits, self.engine)
        fits = dataclasses.replace(fits, loss=data.loss, options=self.options)
        fits = Path(jax.tree.map(np.asarray, fits))
        return [fits._pick(operator.itemgetter(i)) for i in range(len(weights))]


def engine_for_subsets(name: str, plan: Plan) -> Engine:
    """Returns the engine for many subsets; for "auto" on an accelerator one that solves them in one batch."""
    if name != "auto" or jax.default_backend() == "cpu":
        return choose_engine(name, plan)
    compiled = ENGINES["compiled"]
    return compiled if compiled.supports(plan) is None else ENGINES["parallel"]


@program
def _in_one_batch(
    data: Data,
    pen: Penalty,
    weights: AnyArray,
    lams: Array,
    tol: Any,
    max_steps: Any,
    names: tuple[str, ...] | None,
    engine: Engine,
) -> Fit:
    def subset(weights: AnyArray) -> Fit:
        problem = prepare(dataclasses.replace(data, weights=weights), pen)
        pen_there, start = problem.on_scale(pen), problem.null.point
        plan = Plan(problem, pen_there, lams, start, tol, max_steps, names)
        return solve_plan(engine, plan).fits

    return jax.vmap(subset)(weights)
