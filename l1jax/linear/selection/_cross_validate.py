"""`cross_validate`: a path, and how well fits of some of the rows predict the others."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from ..._progress import with_bar
from ...losses import Loss
from ...penalties import Penalty
from .._fit import _SQUARED_ERROR
from .._grid import check_grid, make_grid
from ..data._block_reader import passes_shown
from ..data._inputs import Inputs, check_concrete, read
from ..data._precision import check_max_steps, check_tol, give_back, precision
from ..data._row_blocks import in_blocks
from ..engines._engine import Plan, check_engine, choose_engine, may_use_gram
from ..engines.active_set._gram_compression import can_compress
from ..host._columns import GramColumns
from ..host._entry_point import entry_point
from ..model._prepare import data_of, prepare_inputs
from ..model._problem import Data, Problem
from ..model._unpenalised_basis import in_orthonormal_basis
from ..results._options import options_of, with_passes
from ..results._path import Path
from ..results._resume import solved_so_far
from ._cross_validated import CrossValidated, best_of
from ._fold_grams import FoldGrams
from ._folds import Split, check_splits, splits
from ._held_out import HeldOut
from ._relaxed import check_gammas, relaxed
from ._scores import read_score
from ._subset_paths import SubsetPaths


@entry_point
def cross_validate(
    X: Any,
    y: Any,
    pen: Penalty,
    *,
    n_folds: int = 10,
    folds: Any = None,
    groups: Any = None,
    n_repeats: int = 1,
    seed: int = 0,
    score: Any = None,
    higher_is_better: Any = None,
    gammas: Any = None,
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
    max_memory: Any = None,
) -> CrossValidated:
    """Fits a path to all rows, and to all but those of each fold, which it predicts and scores.

    **Arguments:**

    - `n_folds`: random folds of equal size, over which the rows of each class, or with an event (for
      `Cox`), are in equal proportion. The rows that a fold fits must hold every class (some event).
      `seed`: the same seed gives the same folds. `n_repeats`: as often, with the seeds after it.
    - `groups` (n,): rows of a group are held out together.
    - `folds`: given ones instead: the fold of each row (n,); pairs (train, test) of row numbers or
      masks; a splitter of scikit-learn; or "time_series": `n_folds` blocks of rows, each predicted
      from all rows before it.
    - `score`: "deviance" of the loss (the default: the mean squared error for `SquaredError`, −2 log
      likelihood beyond the saturated model for others; for `Cox` what the held-out rows add to the
      deviance of those that were fitted, per event, as grouped=TRUE of glmnet), "squared_error",
      "absolute_error", "classification_error", "auc", "c_index"; one of scikit-learn's names, with
      its sign: "r2", "neg_mean_squared_error", "neg_root_mean_squared_error",
      "neg_mean_absolute_error", "neg_mean_poisson_deviance", "accuracy", "roc_auc", "neg_log_loss",
      "neg_brier_score"; or a function of (y, prediction, weight), NumPy arrays of the held-out rows
      with weights that sum to one, that returns a number; `higher_is_better` says so of that function.
    - `gammas`: validates relaxed paths too, as of `l1jax.relax`, at these fractions of the penalised fit
      in [0, 1] such as (0, 0.25, 0.5, 0.75, 1). The result is that of the best of them,
      `cv.gamma`; `cv.by_gamma` holds all.

    All other arguments and errors as for `path`; the grid is that of all rows, and a fold is fitted as
    `path` would with a sample weight of 0 on its rows: centred, and standardised, without them.
    Every fit is certified. Tall least squares takes one pass over the rows, also where they are read in blocks
    (then `predictions` are None): the Gram matrix of what a fold leaves is the difference of two.
    engine="parallel", which is that of an accelerator, fits all folds and strengths as one batch.

    Returns a `CrossValidated`. Ctrl-C returns it with the folds that are done; the others hold NaN.
    The data must be concrete: under `jit` or `grad` use `l1jax.tune`, or `jax.vmap` of `fit` over
    sample weights.

    Source of the standard errors and their rule: Hastie, Tibshirani, Friedman (2009), 7.10; glmnet.

    **Example:**

    ```python
    >>> import l1jax
    >>> from sklearn.datasets import load_diabetes
    >>> data = load_diabetes(as_frame=True)
    >>> cv = l1jax.cross_validate(data.data, data.target, l1jax.L1(), n_folds=5)
    >>> bool(0.01 < cv.lam_min < 0.2), bool(cv.fit_1se.n_nonzero < cv.fit_min.n_nonzero)
    (True, True)

    ```
    """
    check_engine(engine)
    others, X = (lams, tol, max_steps), in_blocks(X, max_memory)
    inputs = read(X, y, pen, loss, sample_weight, offset, *others, has_strength=False)
    instead = "l1jax.tune, or jax.vmap of l1jax.fit over sample_weight"
    check_concrete(inputs, others, "cross_validate", instead)
    tol, max_steps = check_tol(tol, inputs.x.dtype), check_max_steps(max_steps)
    grid = check_grid(lams, n_lams, lam_min_ratio)
    which = _checked_splits(inputs, n_folds, folds, groups, n_repeats, seed)
    with precision(inputs.wants_x64), passes_shown(progress):
        targets = (inputs.loss, np.asarray(inputs.y), np.shape(inputs.offset))
        scored = read_score(score, higher_is_better, *targets)
        gammas_ = (1.0,) if gammas is None else check_gammas(gammas)
        data = data_of(inputs, inputs.loss, fit_intercept, standardize)
        problems = _FoldProblems(inputs, data, which, engine)
        problem, gram = problems.of_all()
        grid = make_grid(problem, inputs.pen, grid, n_lams, lam_min_ratio, inputs.x.shape)
        limits = (tol, max_steps, inputs.names)
        plan = Plan(problem, inputs.pen, grid, problem.null.point, *limits, gram=gram)
        options = options_of(inputs, data, problem, sample_weight, offset)
        solver = SubsetPaths(plan, choose_engine(engine, plan), options)
        path = solver.path(problem, gram)
        held_out = [HeldOut(inputs, which, scored, problems.grams) for _ in gammas_]
        path = _validated(path, solver, problems, held_out, gammas_, progress)
        variants = zip(held_out, relaxed(problem, path.fits, gammas_), gammas_, strict=True)
        results = (
            one.result(path if gamma == 1 else Path(fits), n_repeats, gamma)
            for one, fits, gamma in variants
        )
        found = give_back(best_of(tuple(results)), inputs.wants_x64)
    held_out[0].warn(path, tol)
    return found


def _checked_splits(
    inputs: Inputs, n_folds: int, folds: Any, groups: Any, n_repeats: int, seed: int
) -> list[Split]:
    """The splits of the rows; each of them can be fitted."""
    y, weights = np.asarray(inputs.y), np.asarray(inputs.weights)
    which = splits(y, inputs.loss, n_folds, folds, groups, n_repeats, seed, weights)
    given = None
    if folds is not None:
        given = "time" if isinstance(folds, str) else "folds"
    elif groups is not None:
        given = "groups"
    check_splits(which, y, inputs.loss, weights, given)
    return which


class _FoldProblems:
    """The problem of all rows, and of those that each split fits; by Gram matrices where rows are many."""

    def __init__(self, inputs: Inputs, data: Data, which: list[Split], engine: str):
        self.inputs, self.data, self.splits = inputs, data, which
        by_gram = may_use_gram(engine, inputs.x)
        by_gram = by_gram and can_compress(data, inputs.pen, len(which))
        self.grams = FoldGrams(data, which) if by_gram else None

    def of_all(self) -> tuple[Problem, GramColumns | None]:
        """Returns the problem of all rows, and its Gram matrix where that is known."""
        few = self.grams and self.grams.of_all()
        found = few and few.problem(self.inputs.pen, self.inputs.loss)
        if found is None or in_orthonormal_basis(self.data, found[0]):
            self.grams = None  # the rows are needed
            return self._of_rows(np.asarray(self.inputs.weights)), None
        return found

    def of_fold(self, i: int) -> tuple[Problem, GramColumns | None]:
        """Returns the problem of the rows that split i fits, and its Gram matrix where that is known."""
        few = self.grams and self.grams.without(i)
        found = few and few.problem(self.inputs.pen, self.inputs.loss)
        return found or (self._of_rows(self.weights(i)), None)

    def release(self, i: int) -> None:
        """Forgets what only split i needs."""
        if self.grams:
            self.grams.release(i)

    def weights(self, i: int) -> np.ndarray:
        """Returns the sample weights of split i: 0 for rows that it does not fit, (n,)."""
        return np.where(self.splits[i].train, self.inputs.weights, 0)

    def _of_rows(self, weights: np.ndarray) -> Problem:
        inputs = self.inputs._replace(weights=weights)
        options = (self.data.fit_intercept, self.data.standardize)
        return prepare_inputs(inputs, inputs.pen, inputs.loss, *options)


def _validated(
    path: Path,
    solver: SubsetPaths,
    problems: _FoldProblems,
    held_out: list[HeldOut],
    gammas: tuple[float, ...],
    progress: bool | None,
) -> Path:
    """Validates; returns the path of all rows, with the number of passes that all of it took."""
    with solved_so_far(path, solver.options, problems.inputs):
        _validate(solver, problems, held_out, gammas, progress)
    options = with_passes(solver.options, problems.inputs)
    return Path(dataclasses.replace(path.fits, options=options), path.knots)


def _validate(
    solver: SubsetPaths,
    problems: _FoldProblems,
    held_out: list[HeldOut],
    gammas: tuple[float, ...],
    progress: bool | None,
) -> None:
    """Fits every fold, and scores it on its held-out rows; Ctrl-C ends it with the folds that are done."""
    count = len(problems.splits)
    together = None
    if gammas == (1.0,) and count <= solver.most_in_one_batch(problems.data.x):
        weights = np.stack([problems.weights(i) for i in range(count)])
        together = solver.in_one_batch(problems.data, weights)
    try:
        for i in with_bar(range(count), progress, "cross_validate", "fold"):
            if together is not None:
                fits, variants = together[i], [together[i]]
            else:
                problem, gram = problems.of_fold(i)
                fits = solver.path(problem, gram).fits
                variants = relaxed(problem, fits, gammas)
            found = [one.evaluate(i, v) for one, v in zip(held_out, variants, strict=True)]
            for one, (eta, scores) in zip(held_out, found, strict=True):
                one.add(i, eta, scores, fits)
            problems.release(i)
    except KeyboardInterrupt:
        if not held_out[-1].is_started:
            raise
