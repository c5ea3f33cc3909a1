"""`stability`: the features that are selected on most random halves of the rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import numpy as np

from ..._groups import Groups
from ..._progress import progress_bar
from ..._status import Status
from ..._tracing import frozen
from ...losses import Loss
from ...penalties import Penalty
from .._fit import _SQUARED_ERROR
from .._grid import check_grid, make_grid
from ..data._inputs import Inputs, check_concrete, read
from ..data._matrix import DenseMatrix
from ..data._precision import check_max_steps, check_tol, precision
from ..engines._engine import Plan, check_engine, prepare_for
from ..host._columns import GramColumns
from ..host._entry_point import entry_point
from ..host._sparse_rows import Coefs, used
from ..model._null_model import known_lambda_max
from ..model._on_host import host_values
from ..model._prepare import data_of, prepare_data
from ..model._problem import Data, Problem, structural_masks
from ..results._fit import Fit
from ..results._options import options_of
from ..results._warning import warn_if_short
from ._error_bounds import check_assumption, complete
from ._halves import complementary_pairs
from ._stability_selection import StabilitySelection
from ._subset_paths import SubsetPaths, engine_for_subsets

_MORE = 1.1  # strengths to follow, over those that a half has needed so far
_KEPT = 2**28  # bytes of prepared halves that are kept: to prepare one takes a sixth of its time


@entry_point
def stability(
    X: Any,
    y: Any,
    pen: Penalty,
    *,
    threshold: Any = None,
    q: Any = None,
    max_false: Any = None,
    assumption: str = "none",
    n_pairs: int = 50,
    seed: int = 0,
    lams: Any = None,
    n_lams: int = 100,
    lam_min_ratio: float | None = None,
    progress: bool | None = None,
    loss: Loss = _SQUARED_ERROR,
    fit_intercept: bool = True,
    standardize: bool = False,
    sample_weight: Any = None,
    offset: Any = None,
    tol: Any = None,
    max_steps: Any = 20_000,
    engine: str = "auto",
) -> StabilitySelection:
    """Selects the features that are among the first q of the path on most random halves of the rows.

        Π_j(λ) = fraction of the 2B halves on which β_j(λ) ≠ 0 and j is one of the first q to enter
        selected: the j with max_λ Π_j(λ) ≥ threshold

    The halves are B complementary pairs: the two of a pair have no row in common. The path of a half ends
    where q features have entered; for lower strengths its selection stays. Of several that enter at one
    strength of the grid, those of the largest coefficient are first. For penalties of groups, all of
    this is by group.

    **Arguments:**

    - `threshold` in (0.5, 1], `q` and `max_false`: two of them determine the third, so that the bound on
      the expected number of false selections is at most `max_false`. Where fewer are given, the threshold
      is 0.75, and then `max_false` 1.
    - `assumption`: "none", E[V] ≤ q²/((2·threshold − 1) p), or "r-concave", Shah and Samworth's smaller bound
      where the distributions of the selection frequencies have that shape. p counts the features that there
      are to select from. V counts selected features whose chance on a half is at most q/p; that is all
      false ones, if these are selected no more often than at random.
    - `n_pairs`: B. `seed`: the same seed gives the same halves. Rows of each class, or with an event (for
      `Cox`), are in equal numbers in both halves of a pair; rows of weight 0 are in neither.
    - `lams` (L,): the grid; unless given, it begins at the largest λmax of the halves.

    All other arguments and errors as for `path`; each half is fitted as `path` would fit its rows. Every fit
    up to the q-th feature is certified, `statuses` says where one is short of `tol`. On a CPU halves are
    solved one after the other, which is faster there; on an accelerator as lanes of one batch.

    Returns a `StabilitySelection`. Ctrl-C returns that of the pairs that are done. The data must be
    concrete.

    Source: Meinshausen and Bühlmann (2010); Shah and Samworth (2013).

    **Example:**

    ```python
    >>> import l1jax
    >>> from sklearn.datasets import load_diabetes
    >>> data = load_diabetes(as_frame=True)
    >>> stable = l1jax.stability(data.data, data.target, l1jax.L1(), q=3)
    >>> stable.names_selected
    ('bmi', 's5')
    >>> print(stable.threshold, round(stable.max_false, 2))
    0.75 1.8

    ```
    """
    check_engine(engine)
    others = (lams, tol, max_steps)
    inputs = read(X, y, pen, loss, sample_weight, offset, *others, has_strength=False)
    check_concrete(inputs, others, "stability", "jax.vmap of l1jax.path over sample_weight")
    tol, max_steps = check_tol(tol, inputs.x.dtype), check_max_steps(max_steps)
    grid = check_grid(lams, n_lams, lam_min_ratio)
    check_assumption(assumption)
    weights = np.asarray(inputs.weights)
    rows = complementary_pairs(np.asarray(inputs.y), inputs.loss, weights, n_pairs, seed)
    with precision(inputs.wants_x64):
        data = data_of(inputs, inputs.loss, fit_intercept, standardize)
        problem = prepare_data(frozen(data), host_values(inputs.pen))
        units = _Units.of(inputs, problem)
        num_units, pairs = int(units.candidates.sum()), len(rows) // 2
        threshold, q = complete(threshold, q, max_false, num_units, pairs, assumption)
        halves = _Halves(data, host_values(inputs.pen), rows, engine)
        shape = (int(rows[0].sum()), inputs.x.shape[1])
        first = halves.first_to_enter() if grid is None else problem
        grid = make_grid(first, inputs.pen, grid, n_lams, lam_min_ratio, shape)
        limits = (tol, max_steps, inputs.names)
        options = options_of(inputs, data, problem, sample_weight, offset)
        problem, gram = halves.problem(0)
        start = problem.null.point
        plan = Plan(problem, halves.pen, np.asarray(grid), start, *limits, gram=gram)
        solver = SubsetPaths(plan, engine_for_subsets(engine, plan), options)
        found = _Selections(units, q, np.asarray(grid), len(rows))
        _select(solver, halves, found, progress)
    warn_if_short(*found.certificates(), tol, if_interrupted="The other halves are not counted.")
    return found.result(rows, threshold, assumption)


class _Units(NamedTuple):
    """What is selected, features or groups of them; which of them there are to select from."""

    groups: Groups | None
    names: tuple[str, ...]
    candidates: np.ndarray  # (U,)

    @classmethod
    def of(cls, inputs: Inputs, problem: Problem) -> _Units:
        """Returns the units of a penalty on these data. Raises: ValueError where there are no candidates."""
        masks = structural_masks(inputs.pen, problem.coef_shape)
        p = problem.coef_shape[0]
        unpenalised, excluded = (np.asarray(mask).reshape(p, -1).all(axis=1) for mask in masks)
        candidates = ~unpenalised & ~excluded & (np.asarray(problem.norms) > 0)
        if not candidates.any():
            raise ValueError(
                "X must have a column that varies, with a penalty weight above 0 and below inf: there is "
                "nothing to select from."
            )
        groups = getattr(inputs.pen, "groups", None)
        if not isinstance(groups, Groups) or groups.num_groups == p:
            return cls(None, inputs.names or tuple(f"x{j}" for j in range(p)), candidates)
        names = tuple(str(label) for label in groups.labels)
        return cls(groups, names, groups.sums(candidates.astype(int)) > 0)

    def sizes(self, coefs: Coefs) -> tuple[np.ndarray, np.ndarray]:
        """Returns units (u,), and the sizes (L, u) of their coefficients; all others are zero or unknown."""
        at, some = used(coefs)
        sizes = np.nan_to_num(np.abs(some)).max(axis=tuple(range(2, some.ndim)))
        if self.groups is None:
            return at, sizes
        every = np.zeros((coefs.shape[1], len(sizes)))
        every[at] = sizes.T
        return np.arange(len(self.candidates)), self.groups.sums(every).T


class _Halves:
    """The problems of halves of the rows: of these rows alone where X is an array, else with weights of 0."""

    def __init__(self, data: Data, pen: Penalty, rows: np.ndarray, engine: str):
        self.data, self.pen, self.rows, self.engine = data, pen, rows, engine
        self._kept: dict[int, tuple[Problem, GramColumns | None]] = {}
        self._on_host: Data | None = None
        array = data.x.as_array() if type(data.x) is DenseMatrix else None
        if array is not None and len(getattr(array, "devices", lambda: [None])()) == 1:
            self._on_host = dataclasses.replace(jax.tree.map(np.asarray, data), loss=data.loss)

    def __len__(self) -> int:
        return len(self.rows)

    def problem(self, i: int) -> tuple[Problem, GramColumns | None]:
        """Returns the problem of half i, and its Gram matrix where that is enough."""
        return self._kept.pop(i, None) or prepare_for(self.engine, self._data(i), self.pen)

    def first_to_enter(self) -> Problem:
        """Returns the problem of the half with the largest λmax."""
        first, largest, room = None, -np.inf, _KEPT
        for i in range(len(self)):
            found = prepare_for(self.engine, self._data(i), self.pen)
            room -= sum(leaf.nbytes for leaf in jax.tree.leaves(found[0]))
            if room > 0:
                self._kept[i] = found
            lam = float(known_lambda_max(found[0], self.pen))
            if first is None or lam > largest:
                first, largest = found[0], lam
        assert first is not None
        return first

    def drop_problems(self) -> None:
        """Frees the memory of the problems that are kept."""
        self._kept.clear()

    def weights(self, some: slice) -> np.ndarray:
        """Returns the sample weights of some halves: 0 for rows that are not in them, (m, n)."""
        return np.where(self.rows[some], np.asarray(self.data.weights), 0)

    def _data(self, i: int) -> Data:
        data, rows = self._on_host, self.rows[i]
        if data is None:
            return dataclasses.replace(self.data, weights=self.weights(slice(i, i + 1))[0])
        return dataclasses.replace(
            data,
            x=DenseMatrix(np.asarray(data.x.as_array())[rows]),
            y=data.y[rows],
            weights=data.weights[rows],
            offset=data.offset[rows],
            loss=data.loss.take_rows(rows),
        )


class _Selections:
    """What is selected on each half, along the grid."""

    def __init__(self, units: _Units, q: int, lams: np.ndarray, count: int):
        self.units, self.q, self.lams = units, q, lams
        self.num_selected = np.zeros(count, int)
        self.gaps, self.kkts = [], []
        self.statuses: list[np.ndarray] = []
        self.counts = np.zeros((len(lams), len(units.candidates)), int)
        self._first_of_pair: tuple[np.ndarray, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.statuses)

    def add(self, fits: Fit) -> int | None:
        """Counts what is selected on the next half, by its fits over the first strengths of the grid.

        Returns how many of these were needed; None, and counts nothing, where all and more are.
        """
        which, sizes = self.units.sizes(fits.stored_coef)
        length, candidates, q = len(sizes), self.units.candidates[which], self.q
        inside = sizes > 0
        enters = np.where(inside.any(axis=0), inside.argmax(axis=0), length)
        order = np.flatnonzero(candidates & (enters < length))
        order = order[np.lexsort((-sizes[enters[order], order], enters[order]))][:q]
        if len(order) < q and length < len(self.lams):
            return None
        needed = int(enters[order[-1]]) + 1 if len(order) == q else length
        is_kept = ~candidates
        is_kept[order] = True
        row = np.minimum(np.arange(len(self.lams)), needed - 1)
        self._count(which, inside[row] & is_kept)
        self.num_selected[len(self)] = len(order)
        for values, of in (
            (self.statuses, fits.status),
            (self.gaps, fits.relative_gap),
            (self.kkts, fits.relative_kkt),
        ):
            values.append(np.asarray(of)[:needed])
        return needed

    def _count(self, which: np.ndarray, selected: np.ndarray) -> None:
        """Counts a half, by the units (u,) that are in (L, u), when the other one of its pair is there."""
        if self._first_of_pair is None:
            self._first_of_pair = which, selected
            return
        for units, is_in in (self._first_of_pair, (which, selected)):
            self.counts[:, units] += is_in
        self._first_of_pair = None

    def certificates(self) -> tuple[np.ndarray, Any]:
        """Returns the statuses of all fits that were needed, INTERRUPTED for halves without, and measures."""
        missing = len(self.num_selected) - len(self)
        statuses = np.concatenate([*self.statuses, np.full(missing, int(Status.INTERRUPTED))])
        gaps, kkts = (
            np.append(np.concatenate(v), np.full(missing, np.nan)) for v in (self.gaps, self.kkts)
        )
        return statuses, SimpleNamespace(relative_gap=gaps, relative_kkt=kkts)

    def result(self, rows: np.ndarray, threshold: float, assumption: str) -> StabilitySelection:
        count, done = len(rows), 2 * (len(self) // 2)
        statuses, gaps = np.full(count, int(Status.INTERRUPTED)), np.full(count, np.nan)
        statuses[:done] = [status.max() for status in self.statuses[:done]]
        gaps[:done] = [gap.max() for gap in self.gaps[:done]]
        self.num_selected[done:] = 0
        return StabilitySelection(
            lams=self.lams,
            probabilities=self.counts / done,
            candidates=self.units.candidates,
            halves=rows,
            num_selected=self.num_selected,
            relative_gaps=gaps,
            statuses=statuses,
            threshold=threshold,
            q=self.q,
            assumption=assumption,
            names=self.units.names,
            of_groups=self.units.groups is not None,
        )


def _select(
    solver: SubsetPaths, halves: _Halves, found: _Selections, progress: bool | None
) -> None:
    """Selects on every half; Ctrl-C ends it with the pairs that are done, unless there are none."""
    paths = _in_batches if solver.most_in_one_batch(halves.data.x) else _one_by_one
    with progress_bar(len(halves), progress, "stability", "half") as bar:
        try:
            for _ in paths(solver, halves, found):
                bar.update()
        except KeyboardInterrupt:
            if len(found) < 2:
                raise


def _one_by_one(solver: SubsetPaths, halves: _Halves, found: _Selections) -> Iterator[None]:
    """Follows each path to where q features have entered: about as far as those before it."""
    count = total = len(found.lams)
    most = 0
    for i in range(len(halves)):
        problem, gram = halves.problem(i)
        needed = found.add(solver.path(problem, gram, count).fits)
        if needed is None:
            needed = found.add(solver.path(problem, gram).fits)
        assert needed is not None  # of the whole grid
        most = max(most, needed)
        count = min(int(_MORE * most) + 1, total)
        yield


def _in_batches(solver: SubsetPaths, halves: _Halves, found: _Selections) -> Iterator[None]:
    """Solves batches of as many halves each."""
    total = len(halves)
    halves.drop_problems()
    batches = -(-total // solver.most_in_one_batch(halves.data.x))
    size = -(-total // batches)
    for begin in range(0, total, size):
        some = slice(min(begin, total - size), min(begin, total - size) + size)  # one shape for all
        fits = solver.in_one_batch(halves.data, halves.weights(some))
        for one in fits[begin - some.start :]:
            found.add(one)
            yield
