"""The predictions and scores of held-out rows."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np

from ..._status import Status
from ..data._inputs import Inputs
from ..data._row_blocks import blocks_of
from ..host._sparse_rows import used
from ..results._fit import Fit
from ..results._path import Path
from ..results._warning import warn_if_short
from ._cross_validated import CrossValidated
from ._fold_grams import FoldGrams
from ._folds import Split
from ._scores import Score, held_out_deviance, response

# Scores that are the mean squared error, where the loss is squared error, and their signs.
_SQUARED_ERRORS = {"deviance": 1, "squared_error": 1, "neg_mean_squared_error": -1}


class HeldOut:
    """The held-out rows, their predictions and scores by the folds that are done.

    Predictions of rows that are read in blocks are not kept: there would be as many as strengths of each. Where
    moments `grams` of the folds are known, squared errors follow from these.
    """

    def __init__(
        self, inputs: Inputs, which: list[Split], score: Score, grams: FoldGrams | None = None
    ):
        self.y, self.offset = np.asarray(inputs.y), np.asarray(inputs.offset)
        self.weights = np.asarray(inputs.weights) / np.sum(inputs.weights)
        self.loss, self.score, self.which = inputs.loss, score, which
        self.x = inputs.x.to_host()
        self.keeps_predictions = blocks_of(inputs.x) is None
        self.grams = grams if score.name in _SQUARED_ERRORS and not self.keeps_predictions else None
        self.is_started = False

    def evaluate(self, i: int, fits: Fit) -> tuple[np.ndarray | None, np.ndarray]:
        """Returns η (m, L, *k) of the rows of fold i by its fits over the grid, and their scores (L,)."""
        train, rows = self.which[i]
        if self.grams is not None and self.grams.is_rest[i]:
            coefs, intercepts = (np.asarray(v, np.float64) for v in (fits.coef, fits.intercept))
            errors = self.grams.squared_errors(i, coefs, intercepts)
            return None, _SQUARED_ERRORS[self.score.name] * errors
        if self.score.is_of_all_rows:
            both = train | rows
            eta, held_out = self.predictors(both, fits), rows[both]
            loss, s = self.loss.take_rows(both), self.weights[both]
            every = np.moveaxis(eta, 1, 0)
            return eta[held_out], held_out_deviance(loss, self.y[both], every, s, held_out)
        eta, s = self.predictors(rows, fits), self.weights[rows]
        loss = self.loss.take_rows(rows)
        if loss.has_thresholds:
            loss = loss.at_thresholds(fits.thresholds)
        return eta, self.score.function(loss, self.y[rows], np.moveaxis(eta, 1, 0), s / s.sum())

    def add(self, i: int, eta: np.ndarray | None, scores: np.ndarray, certified: Fit) -> None:
        """Keeps these, and the certificates of the fits."""
        rows = self.which[i].test
        if not self.is_started:
            count = (len(self.which), len(scores))
            self.scores, self.gaps, self.kkts = (np.full(count, np.nan) for _ in range(3))
            self.status = np.full(count, int(Status.INTERRUPTED))
            if self.keeps_predictions and eta is not None:
                self.eta = np.zeros((len(self.y), *eta.shape[1:]), eta.dtype)
                self.times = np.zeros(len(self.y), int)
        self.scores[i], self.status[i] = scores, certified.status
        self.gaps[i], self.kkts[i] = certified.relative_gap, certified.relative_kkt
        if self.keeps_predictions:
            self.eta[rows] += eta
            self.times[rows] += 1
        self.is_started = True

    def predictors(self, rows: np.ndarray, fits: Fit) -> np.ndarray:
        """η of some rows by every fit, (m, L, *k), by the columns that any of them uses."""
        at, coefs = used(fits.stored_coef)
        if 2 * len(at) > fits.stored_coef.shape[1]:  # to pick them would cost more than it saves
            coefs = np.asarray(fits.coef)
            at = np.arange(coefs.shape[1])
        columns = np.moveaxis(coefs, 1, 0)
        shape = columns.shape[1:]
        columns = columns.reshape(len(at), math.prod(shape))
        eta = self.x.rows_dot(np.flatnonzero(rows), at, columns).reshape(-1, *shape)
        eta += np.asarray(fits.intercept)
        eta += self.offset[rows][:, None]
        return eta.astype(self.offset.dtype, copy=False)

    def result(self, path: Path, n_repeats: int, gamma: float) -> CrossValidated:
        weights = self.weights
        if self.score.is_of_all_rows:
            counts = self.loss.counts(jax.numpy.asarray(self.y), jax.numpy.asarray(weights))
            weights = np.asarray(counts)
        return CrossValidated(
            path=path,
            fold_scores=self.scores,
            fold_weights=np.array([weights[split.test].sum() for split in self.which]),
            predictions=self._predictions() if self.keeps_predictions else None,
            held_out=np.stack([split.test for split in self.which]),
            fold_gaps=self.gaps,
            fold_status=self.status,
            score=self.score.name,
            higher_is_better=self.score.higher_is_better,
            n_repeats=int(n_repeats),
            gamma=gamma,
        )

    def _predictions(self) -> np.ndarray:
        """The mean over repeats of what the folds predict, (L, n, *k)."""
        times = self.times.astype(self.eta.dtype)
        times[self.times == 0] = np.nan
        eta = np.moveaxis(self.eta, 1, 0) / times.reshape(-1, *(1,) * (self.offset.ndim - 1))
        return response(self.loss, eta)

    def warn(self, path: Path, tol: Any) -> None:
        """Warns once if some fit ended short of its tolerance."""
        fits = path.fits
        pairs = ((fits.relative_gap, self.gaps), (fits.relative_kkt, self.kkts))
        gaps, kkts = (np.append(np.asarray(one), rest) for one, rest in pairs)
        measures = SimpleNamespace(relative_gap=gaps, relative_kkt=kkts)
        statuses = np.append(np.asarray(path.status), self.status)
        warn_if_short(statuses, measures, tol, if_interrupted="They hold NaN.")
