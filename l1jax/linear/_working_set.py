"""The engines that walk a lasso-like path exactly, on the few columns that matter.

The walk (`Face`) sees the active columns and those next in line, through their Gram matrix. The
gradients of all columns are looked at once per block of strengths, in one product; where a column
outside of the working set passes its price, it joins, and the block is walked again from there.
Everything here runs on the host, where sizes may change, and in float64.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import jax
import numpy as np
from jax.core import Tracer
from tqdm import tqdm

from ..penalties import Penalty
from ._columns import Columns
from ._face import Face, Lost, Stop
from ._problem import Problem

_BLOCK = 5  # strengths per look at all columns
_NEXT_IN_LINE = 128  # columns that join the active ones in a working set, at least; or as many
_PATIENCE = 30  # blocks walked again before giving up
_ALL_COLUMNS = 600  # a problem of no more columns than this is its own working set
_FLOOR = 1e-10
_SLACK = 1e-9  # by which a gradient may pass its price, as a share of it


class Walk(NamedTuple):
    """Solutions along the grid, on the solver's scale, and the knots where all were asked for."""

    betas: np.ndarray  # (L, p)
    intercepts: np.ndarray  # (L,)
    num_steps: np.ndarray  # (L,)
    num_solved: int  # the first so many strengths are solved; the rest hold the last solution


def can_walk(problem: Problem, pen: Penalty) -> bool:
    """Whether the walk serves this problem: squared error, one response, prices with a corner at 0."""
    leaves = jax.tree.leaves((problem, pen))
    if any(isinstance(leaf, Tracer) for leaf in leaves) or not problem.loss.is_quadratic:
        return False
    shape = problem.null.beta.shape
    if len(shape) != 1 or not pen.convex or not hasattr(pen, pen.strength):
        return False
    form = pen.with_strength(1.0).linear_form(shape)
    nothing = np.max(np.asarray(problem.norms)) == 0
    if form is None or not problem.is_valid or problem.is_trivial or nothing:
        return False
    up, down, quad = (np.asarray(price) for price in form)
    return not ((up == 0) & (down == 0) & (quad > 0)).any()


def walk(
    problem: Problem,
    pen: Penalty,
    lams: np.ndarray,
    critical: float,
    progress: bool | None = False,
) -> Walk:
    """Solves squared error with a penalty of linear form at descending strengths.

    `critical` is the strength at which nothing but the free features is in: the walk starts there.
    """
    columns = Columns(problem)
    p = problem.x.shape[1]
    prices = _Prices(pen, p)
    beta = np.asarray(problem.null.beta, np.float64).copy()
    gradient = -np.asarray(problem.null_gradient, np.float64)
    floor = _FLOOR * np.abs(gradient).max(initial=0)  # of a price, where its share is asked for
    alive = (np.asarray(problem.norms) > 0) & ~prices.excluded
    features = np.flatnonzero(prices.free & alive)
    gradient[features] = 0
    at = _State(features, np.zeros(len(features)), beta[features], gradient, None, 0)

    betas, steps = np.zeros((len(lams), p)), np.zeros(len(lams), int)
    lam = max(critical, lams[0])
    done, patience, extra = 0, _PATIENCE, np.zeros(0, int)
    disable = None if progress is None else not progress  # None: tqdm shows itself in a terminal
    bar = tqdm(total=len(lams), desc="path", unit="fit", disable=disable, leave=False)
    while done < len(lams):
        block = lams[done : done + _BLOCK]
        excess = np.where(alive, prices.excess(at.gradient, lam, floor), -np.inf)
        members = _choose(excess, at.features, extra)
        try:
            found = _walk_block(columns, prices, members, at, lam, block)
        except Lost:
            break
        gradients = columns.gradients([(state.features, state.values) for state in found])
        outside = alive.copy()
        outside[members] = False
        good, violators = _first_violation(gradients, prices, block, outside, floor)
        for i, state in enumerate(found[:good]):
            betas[done + i, state.features] = state.values
            steps[done + i] = state.knots
        extra = violators if good else np.union1d(extra, violators)
        patience -= not good
        if not patience:
            break
        if good:
            at, lam = found[good - 1], block[good - 1]
            gradients[members, good - 1] = at.gradient
            at = at._replace(gradient=gradients[:, good - 1])
            done += good
            bar.update(good)
    bar.close()
    betas[done:] = betas[done - 1] if done else beta
    return Walk(betas, np.full(len(lams), columns.centre), steps, done)


class _State(NamedTuple):
    """A solution: the features on its face, and what it takes to walk on from there."""

    features: np.ndarray
    signs: np.ndarray
    values: np.ndarray
    gradient: np.ndarray  # of the working set, or of all columns
    inverse: np.ndarray | None
    knots: int


def _walk_block(
    columns: Columns,
    prices: _Prices,
    members: np.ndarray,
    at: _State,
    lam: float,
    block: np.ndarray,
    stops: list[Stop] | None = None,
) -> list[_State]:
    """The solutions at the strengths of the block, on the columns of a working set."""
    places = columns.require(members)
    linear = columns.linear[places]
    prices = prices.of(members)
    old = prices.at(lam)
    face = Face(
        columns.gram[np.ix_(places, places)] + np.diag(old.quad),
        at.gradient[members],
        old.up,
        old.down,
        np.searchsorted(members, at.features),
        at.signs,
        at.values,
        at.inverse,
    )
    states = []
    for target in block:
        new = prices.at(target)
        bend = new.quad - old.quad
        if bend.any():
            face.bend(bend)
        knots = face.follow(-bend * face.x, new.up, new.down, stops)
        face.settle(linear)
        features, values = members[face.face], face.x[face.face]
        states.append(
            _State(
                features,
                face.signs.copy(),
                values,
                face.gradient.copy(),
                face.inverse.copy(),
                knots,
            )
        )
        old = new
    return states


class _Form(NamedTuple):
    """A `LinearForm` on the host."""

    up: np.ndarray
    down: np.ndarray
    quad: np.ndarray


class _Prices:
    """The linear form of a penalty at any strength; evaluated once where it is proportional to it."""

    def __init__(self, pen: Penalty, p: int):
        def evaluate(lam: float) -> _Form:
            form = pen.with_strength(lam).linear_form((p,))
            assert form is not None  # `can_walk` has asked
            return _Form(*(np.asarray(price, np.float64) for price in form))

        self._evaluate = evaluate
        self._unit = evaluate(1.0)
        pairs = zip(self._unit, evaluate(0.37), strict=True)
        self._proportional = all(np.allclose(0.37 * a, b, rtol=1e-14, atol=0) for a, b in pairs)
        self._some: np.ndarray | slice = slice(None)
        self._is_wall = tuple(bool(np.isinf(price).any()) for price in self._unit)

    @property
    def free(self) -> np.ndarray:
        """Which coordinates have no price for leaving zero."""
        return (self._unit.up == 0) & (self._unit.down == 0)

    @property
    def excluded(self) -> np.ndarray:
        return np.isinf(self._unit.up) & np.isinf(self._unit.down)

    def of(self, some: np.ndarray) -> _Prices:
        """The prices of some coordinates."""
        part = copy.copy(self)
        part._unit = _Form(*(price[some] for price in self._unit))
        part._some = some
        return part

    def at(self, lam: float) -> _Form:
        if not self._proportional:
            return _Form(*(price[self._some] for price in self._evaluate(lam)))
        return _Form(
            *(
                np.where(np.isinf(price), price, lam) * np.where(np.isinf(price), 1, price)
                if wall
                else lam * price
                for price, wall in zip(self._unit, self._is_wall, strict=True)
            )
        )

    def excess(self, gradient: np.ndarray, lam: float, floor: float) -> np.ndarray:
        """How far gradients are over their prices, as a share of them: below zero where they are not."""
        now = self.at(lam)
        up, down = np.maximum(now.up, floor), np.maximum(now.down, floor)
        return np.maximum(gradient / up, -gradient / down) - 1


def _choose(excess: np.ndarray, face: np.ndarray, extra: np.ndarray) -> np.ndarray:
    """The face, the violators, and the columns whose gradients are nearest to their prices."""
    wanted = len(face) + max(_NEXT_IN_LINE, len(face))
    possible = np.flatnonzero(excess > -np.inf)
    if len(possible) <= max(_ALL_COLUMNS, wanted):
        return possible
    excess[face] = np.inf
    nearest = np.argpartition(-excess, wanted)[:wanted]
    return np.union1d(nearest, extra)


def _first_violation(gradients, prices, block, outside, floor) -> tuple[int, np.ndarray]:
    """How many strengths pass before a column outside of the working set is over its price; which."""
    for i, lam in enumerate(block):
        over = outside & (prices.excess(gradients[:, i], lam, floor) > _SLACK)
        if over.any():
            return i, np.flatnonzero(over)
    return len(block), np.zeros(0, int)
