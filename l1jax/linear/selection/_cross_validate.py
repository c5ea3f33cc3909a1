"""`cross_validate`: a path, and how well fits of some of the rows predict the others."""

from __future__ import annotations

import dataclasses
import math
import operator
from types import SimpleNamespace
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jax.core import Tracer
from jaxtyping import Array
from tqdm import tqdm

from ..._status import Status
from ...losses import Loss
from ...penalties import Penalty
from .._fit import (
    _SQUARED_ERROR,
    WALKS,
    data_of,
    may_walk,
    prepare_inputs,
    start_point,
    warn_if_short,
)
from .._grid import check_grid, make_grid
from .._path import ENGINES, batch, choose_engine, engine_for, shared
from ..data._inputs import Inputs, check_max_steps, check_tol, give_back, precision, read
from ..engines.active_set._gram_compression import can_compress
from ..engines.active_set._working_set import supports
from ..host._columns import GramColumns
from ..host._entry_point import entry_point
from ..model._null_model import prepare
from ..model._problem import Data, Problem
from ..model._unpenalised_basis import in_orthonormal_basis
from ..results._fit import Fit
from ..results._options import FitOptions, options_of
from ..results._path import Path
from ._cross_validated import CrossValidated, best_of
from ._fold_grams import FoldGrams
from ._folds import Split, check_splits, splits
from ._relaxed import check_gammas, relaxed
from ._scores import Score, held_out_deviance, of_rows, read_score, response

_AT_ONCE = 2**30  # bytes of data, a copy for each fold, that one batch may hold


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
) -> CrossValidated:
    """Fits a path to all rows, and to all but those of each fold, which it predicts and scores.

    **Arguments:**

    - `n_folds`: random folds of equal size, over which the rows of each class, or with an event (for
      `Cox`), are spread evenly. The rows that a fold fits must hold every class (some event).
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
    - `gammas`: validates relaxed paths too, as of `l1jax.relax`, at these shares of the penalised fit
      in [0, 1] such as (0, 0.25, 0.5, 0.75, 1). The result is that of the best of them,
      `cv.gamma`; `cv.by_gamma` holds all.

    All other arguments and errors as for `path`; the grid is that of all rows, and a fold is fitted as
    `path` would with a sample weight of 0 on its rows: centred, and standardised, without them.
    Every fit is certified. Tall least squares takes one pass over the rows: the Gram matrix of what
    a fold leaves is the difference of two. engine="parallel", which is that of an accelerator, fits
    all folds and strengths as one batch.

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
    others = (lams, tol, max_steps)
    inputs = read(X, y, pen, loss, sample_weight, offset, *others, has_strength=False)
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((inputs[:-2], others))):
        raise TypeError(
            "cross_validate needs concrete data: under jit or grad use l1jax.tune, or jax.vmap of "
            "l1jax.fit over sample_weight."
        )
    pen, loss = inputs.pen, inputs.loss
    tol, max_steps = check_tol(tol, inputs.x.dtype), check_max_steps(max_steps)
    grid = check_grid(lams, n_lams, lam_min_ratio)
    y = np.asarray(inputs.y)
    weights = np.asarray(inputs.weights)
    which = splits(y, loss, n_folds, folds, groups, n_repeats, seed, weights)
    in_time = isinstance(folds, str)
    given = (
        "time"
        if in_time
        else "folds"
        if folds is not None
        else "groups"
        if groups is not None
        else None
    )
    check_splits(which, y, loss, weights, given)
    with precision(inputs.wants_x64):
        scored = read_score(score, higher_is_better, loss, y, np.shape(inputs.offset))
        shares = (1.0,) if gammas is None else check_gammas(gammas)
        held_out = [_HeldOut(inputs, which, scored) for _ in shares]
        data = data_of(inputs, loss, fit_intercept, standardize)
        by_gram = may_walk(engine, inputs.x.shape) and can_compress(data, pen)
        grams = FoldGrams(data, which) if by_gram else None
        few = grams and grams.of_all()
        whole = few and few.problem(pen, loss)
        if whole is None or in_orthonormal_basis(data, whole[0]):  # the rows are needed
            grams = None
            whole = prepare_inputs(inputs, pen, loss, fit_intercept, standardize), None
        problem, _ = whole
        grid = make_grid(problem, pen, grid, n_lams, lam_min_ratio, inputs.x.shape)
        engine = choose_engine(engine, problem, pen)
        options = options_of(inputs, data, problem, sample_weight, offset)
        solver = _Solver(pen, grid, tol, max_steps, inputs.names, engine, options)
        path = solver.path(*whole)
        disable = None if progress is None else not progress  # None: it shows in a terminal
        bar = tqdm(which, desc="cross_validate", unit="fold", disable=disable, leave=False)

        def fitted(split: Split) -> np.ndarray:
            return np.where(split.train, inputs.weights, 0)

        def fold(i: int) -> tuple[Fit, list[Fit]]:
            """The fits of a fold, and those at each share."""
            few = grams and grams.without(i)
            found = few and few.problem(pen, loss)
            if found is None:
                rest = inputs._replace(weights=fitted(which[i]))
                found = prepare_inputs(rest, pen, loss, fit_intercept, standardize), None
            fits = solver.path(*found).fits
            return fits, relaxed(found[0], fits, shares)

        together = None
        at_once = engine == "parallel" and gammas is None
        if at_once and len(which) * _size(inputs.x) <= _AT_ONCE:
            together = solver.every_fold(data, np.stack([fitted(split) for split in which]))
        try:
            for i, _ in enumerate(bar):
                fits, variants = fold(i) if together is None else (together[i], [together[i]])
                seen = [one.look(i, v) for one, v in zip(held_out, variants, strict=True)]
                for one, (eta, scores) in zip(held_out, seen, strict=True):
                    one.add(i, eta, scores, fits)
        except KeyboardInterrupt:
            if not held_out[-1].is_started:
                raise
        finally:
            bar.close()
        whole = relaxed(problem, path.fits, shares)
        results = tuple(
            one.result(path if gamma == 1 else Path(fits), n_repeats, gamma)
            for one, fits, gamma in zip(held_out, whole, shares, strict=True)
        )
        found = give_back(best_of(results), inputs.wants_x64)
    held_out[0].warn(path, tol)
    return found


class _Solver(NamedTuple):
    """What all paths have in common."""

    pen: Penalty
    lams: Any
    tol: Any
    max_steps: Any
    names: Any
    engine: str
    options: FitOptions

    def path(self, problem: Problem, columns: GramColumns | None = None) -> Path:
        """Over the grid; raises KeyboardInterrupt where it was stopped."""
        engine = self.engine
        walks = columns is not None or engine not in WALKS or supports(problem, self.pen)
        # Where nothing is left to explain there is nowhere to walk.
        run = engine_for(engine, columns) if walks else ENGINES["sequential"]
        start = start_point(problem, None)
        found = run(
            problem, self.pen, self.lams, start, self.tol, self.max_steps, self.names, False
        )
        if (np.asarray(found.status) == Status.INTERRUPTED).any():
            raise KeyboardInterrupt
        return Path(shared(found.fits, problem.loss, self.options), found.knots)

    def every_fold(self, data: Data, weights: np.ndarray) -> list[Fit]:
        """The fits of all folds over the grid, one fold per row of weights: one batch."""
        limits = (self.lams, self.tol, self.max_steps, self.names)
        fits = shared(_every_fold(data, self.pen, weights, *limits), data.loss, self.options)
        fits = Path(jax.tree.map(np.asarray, fits))
        return [fits._pick(operator.itemgetter(i)) for i in range(len(weights))]


@eqx.filter_jit
def _every_fold(data, pen, weights, lams, tol, max_steps, names) -> Fit:
    def fold(weights: Array) -> Fit:
        problem = prepare(dataclasses.replace(data, weights=weights), pen)
        return batch(problem, pen, lams, problem.null.point, tol, max_steps, names)

    return jax.vmap(fold)(weights)


def _size(x: Any) -> int:
    """Of the data in bytes."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(x))


class _HeldOut:
    """The held-out rows, and what the fits that are done say of them."""

    def __init__(self, inputs: Inputs, which: list[Split], score: Score):
        self.y, self.offset = np.asarray(inputs.y), np.asarray(inputs.offset)
        self.weights = np.asarray(inputs.weights) / np.sum(inputs.weights)
        self.loss, self.score, self.which = inputs.loss, score, which
        self.x = inputs.x.to_host()
        self.is_started = False

    def look(self, i: int, fits: Fit) -> tuple[np.ndarray, np.ndarray]:
        """What the fits of fold i, over the grid, say of its rows: η (m, L, *k), and scores (L,)."""
        train, rows = self.which[i]
        if self.score.is_of_all_rows:
            seen = train | rows
            eta, held_out = self.predictors(seen, fits), rows[seen]
            loss, s = of_rows(self.loss, seen), self.weights[seen]
            every = np.moveaxis(eta, 1, 0)
            return eta[held_out], held_out_deviance(loss, self.y[seen], every, s, held_out)
        eta, s = self.predictors(rows, fits), self.weights[rows]
        loss = of_rows(self.loss, rows)
        return eta, self.score.function(loss, self.y[rows], np.moveaxis(eta, 1, 0), s / s.sum())

    def add(self, i: int, eta: np.ndarray, scores: np.ndarray, certified: Fit) -> None:
        """Keeps that, and what is certified of the fits."""
        rows = self.which[i].test
        if not self.is_started:
            count = (len(self.which), len(scores))
            self.scores, self.gaps, self.kkts = (np.full(count, np.nan) for _ in range(3))
            self.status = np.full(count, int(Status.INTERRUPTED))
            self.eta = np.zeros((len(self.y), *eta.shape[1:]), eta.dtype)
            self.seen = np.zeros(len(self.y), int)
        self.scores[i], self.status[i] = scores, certified.status
        self.gaps[i], self.kkts[i] = certified.relative_gap, certified.relative_kkt
        self.eta[rows] += eta
        self.seen[rows] += 1
        self.is_started = True

    def predictors(self, rows: np.ndarray, fits: Fit) -> np.ndarray:
        """η of some rows by every fit, (m, L, *k), by the columns that any of them uses."""
        coefs = np.asarray(fits.coef)
        used = np.flatnonzero(coefs.any(axis=tuple(i for i in range(coefs.ndim) if i != 1)))
        if 2 * len(used) > coefs.shape[1]:  # to pick them would cost more than it saves
            used = np.arange(coefs.shape[1])
        columns = np.moveaxis(coefs[:, used], 1, 0)
        shape = columns.shape[1:]
        columns = columns.reshape(len(used), math.prod(shape))
        eta = self.x.rows_dot(np.flatnonzero(rows), used, columns).reshape(-1, *shape)
        eta += np.asarray(fits.intercept)
        eta += self.offset[rows][:, None]
        return eta.astype(self.offset.dtype, copy=False)

    def result(self, path: Path, n_repeats: int, gamma: float) -> CrossValidated:
        weights = self.weights
        if self.score.is_of_all_rows:
            counts = self.loss.counts(jax.numpy.asarray(self.y), jax.numpy.asarray(weights))
            weights = np.asarray(counts)
        seen = self.seen.astype(self.eta.dtype)
        seen[self.seen == 0] = np.nan
        eta = np.moveaxis(self.eta, 1, 0) / seen.reshape(-1, *(1,) * (self.offset.ndim - 1))
        return CrossValidated(
            path=path,
            fold_scores=self.scores,
            fold_weights=np.array([weights[split.test].sum() for split in self.which]),
            predictions=response(self.loss, eta),
            held_out=np.stack([split.test for split in self.which]),
            fold_gaps=self.gaps,
            fold_status=self.status,
            score=self.score.name,
            higher_is_better=self.score.higher_is_better,
            n_repeats=int(n_repeats),
            gamma=gamma,
        )

    def warn(self, path: Path, tol: Any) -> None:
        """Once, if some fit ended short of its tolerance."""
        fits = path.fits
        pairs = ((fits.relative_gap, self.gaps), (fits.relative_kkt, self.kkts))
        gaps, kkts = (np.append(np.asarray(one), rest) for one, rest in pairs)
        measures = SimpleNamespace(relative_gap=gaps, relative_kkt=kkts)
        statuses = np.append(np.asarray(path.status), self.status)
        warn_if_short(statuses, measures, tol, if_interrupted="They hold NaN.")
