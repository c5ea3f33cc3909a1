"""What cross-validation returns."""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import numpy as np

from ..._modules import Record
from ..._saving import savable_result, save
from ..._status import Status
from ..._tables import Shown, Summary, Table
from ..._types import AnyArray
from ..results._fit import Fit
from ..results._path import Path
from ..results._tables import choices_table
from ._frames import scores_frame


class CrossValidated(Shown, Record):
    """A path, and how well fits of some of the rows predict the others, at each of its strengths.

    With L strengths, n rows and F folds (those of all repeats): `path`, of all rows; `fold_scores`
    (F, L), the weighted mean over the held-out rows of each fold; `fold_weights` (F,), their total
    weight (for the deviance of `Cox` that of their events); `predictions` (L, n, *k), of each row
    by the fits that did not see it (the mean over repeats; NaN for a row that is never held out; None for
    an X that is read in blocks);
    `held_out` (F, n), which rows were; `fold_gaps` and `fold_status` (F, L), the relative gaps and
    statuses of the fits of the folds. `predict`, `coef` and `intercept` are of the fit to all rows
    at `lam_1se`, as in glmnet, unless another is asked for. Relaxed: `gamma` is the fraction of the
    penalised fit in all of this, the gaps are of that fit alone, and `by_gamma` holds the results of
    all fractions, of which this is the best.

    **Example:**

    ```python
    >>> import l1jax
    >>> from sklearn.datasets import load_diabetes
    >>> X, y = load_diabetes(return_X_y=True)
    >>> cv = l1jax.cross_validate(X, y, l1jax.L1(), n_folds=5, n_lams=30)
    >>> bool(cv.lam_1se >= cv.lam_min), cv.mean_score.shape, bool(cv.fold_gaps.max() < 1e-6)
    (True, (30,), True)

    ```
    """

    path: Path
    fold_scores: np.ndarray
    fold_weights: np.ndarray
    predictions: np.ndarray | None
    held_out: np.ndarray
    fold_gaps: np.ndarray
    fold_status: np.ndarray
    score: str = eqx.field(static=True)
    higher_is_better: bool = eqx.field(static=True)
    n_repeats: int = eqx.field(static=True)
    gamma: float = eqx.field(static=True, default=1.0)
    by_gamma: tuple[CrossValidated, ...] = ()

    @property
    def lams(self) -> AnyArray:
        """The strengths, (L,), descending: those of all the data."""
        return self.path.lams

    @property
    def mean_score(self) -> np.ndarray:
        """The mean over the folds, weighted by what they weigh, (L,). A fold of NaN does not count."""
        return weighted_mean(self.fold_scores, self.fold_weights)

    @property
    def se_score(self) -> np.ndarray:
        """Its standard error √(weighted variance over the folds / (folds − 1)), (L,).

        As glmnet has it. Repeats hold the same rows: they do not count as more folds.
        """
        return standard_error(self.fold_scores, self.fold_weights, self.n_repeats)

    @property
    def index_min(self) -> int:
        """Where the score is best; of several such strengths the largest."""
        return best(self.mean_score, self.higher_is_better)

    @property
    def index_1se(self) -> int:
        """The largest strength whose score is within one standard error of the best."""
        sign = 1 if self.higher_is_better else -1
        at = self.index_min
        mean, error = sign * self.mean_score, self.se_score[at]
        return int(np.argmax(mean >= mean[at] - (error if error > 0 else 0)))

    @property
    def lam_min(self) -> float:
        """The strength of the best score."""
        return float(np.asarray(self.lams)[self.index_min])

    @property
    def lam_1se(self) -> float:
        """The largest strength whose score is within one standard error of the best."""
        return float(np.asarray(self.lams)[self.index_1se])

    @property
    def fit_min(self) -> Fit:
        """The fit of all rows at `lam_min`."""
        return self.path[self.index_min]

    @property
    def fit_1se(self) -> Fit:
        """The fit of all rows at `lam_1se`."""
        return self.path[self.index_1se]

    @property
    def coef(self) -> AnyArray:
        """The coefficients of `fit_1se`, (p,) or (p, k); those of the best score are `fit_min.coef`."""
        return self.fit_1se.coef

    @property
    def intercept(self) -> AnyArray:
        """The intercept of `fit_1se`, () or (k,)."""
        return self.fit_1se.intercept

    def predict(
        self, X: Any, offset: Any = None, kind: str = "response", at: str | float = "1se"
    ) -> AnyArray:
        """Predictions of one fit for new rows; `X`, `offset`, `kind` and errors as for `Fit.predict`.

        `at`: "1se", the simplest fit within one standard error of the best (glmnet's default), "min",
        that of the best score (scikit-learn's), or a strength within the grid (as of `Path.at`).
        """
        if not isinstance(at, str):
            fit = self.path.at(at)
        elif at in ("1se", "min"):
            fit = self.fit_1se if at == "1se" else self.fit_min
        else:
            raise ValueError(f'at must be "1se", "min" or a strength, got {at!r}.')
        return fit.predict(X, offset, kind)

    def to_frame(self) -> Any:
        """The scores as a pandas DataFrame: lam, mean_score, se_score, n_nonzero.

        A row per strength, whose number is its place in the grid: that of `path[i]` and `index_min`.
        """
        return scores_frame(self)

    def summary(self) -> Summary:
        """The choices, and the coefficients of each side by side, to print or to show in a notebook."""
        names = ("min", "1 se")
        fits = (self.fit_min, self.fit_1se)
        return Summary((self._table(), choices_table(dict(zip(names, fits, strict=True)))))

    def save(self, file: Any) -> None:
        """Writes the result to a file (a name such as "cv.npz", or an open file) for `l1jax.load`."""
        save(self, file)

    def _table(self) -> Table:
        mean, error, inside = self.mean_score, self.se_score, np.asarray(self.path.n_nonzero)
        done = int(np.isfinite(self.fold_scores).any(axis=1).sum())
        relaxed = f"gamma {self.gamma:g}, " if self.by_gamma else ""
        title = (
            f"CrossValidated: {relaxed}{done} of {len(self.fold_scores)} folds, {self.score}, "
            f"largest relative gap {np.nanmax(self.fold_gaps):.1e}, {_worst(self.fold_status)}"
        )
        rows = tuple(
            (
                name,
                f"{float(self.lams[at]):.5g}",
                str(int(inside[at])),
                f"{mean[at]:.5g}",
                f"{error[at]:.5g}",
            )
            for name, at in (("min", self.index_min), ("1 se", self.index_1se))
        )
        return Table(title, ("", "lam", "features", f"mean {self.score}", "std. error"), rows)


savable_result(CrossValidated)


def best_of(results: tuple[CrossValidated, ...]) -> CrossValidated:
    """The result with the best score; of several such the most penalised."""
    if len(results) == 1 and results[0].gamma == 1:
        return results[0]
    sign = -1 if results[0].higher_is_better else 1
    scores = [(sign * cv.mean_score[cv.index_min], -cv.gamma) for cv in results]
    chosen = results[min(range(len(results)), key=scores.__getitem__)]
    return dataclasses.replace(chosen, by_gamma=results)


def weighted_mean(scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Over the folds that have a score, (L,); NaN where none has."""
    counts = np.where(np.isnan(scores), 0, weights[:, None])
    total = counts.sum(axis=0)
    mean = (counts * np.nan_to_num(scores)).sum(axis=0) / np.where(total > 0, total, 1)
    return np.where(total > 0, mean, np.nan)


def standard_error(scores: np.ndarray, weights: np.ndarray, n_repeats: int) -> np.ndarray:
    """Of `weighted_mean`; NaN where fewer than two folds have a score."""
    squares = (scores - weighted_mean(scores, weights)) ** 2
    folds = (~np.isnan(scores)).sum(axis=0) / n_repeats
    variance = weighted_mean(squares, weights) / np.where(folds > 1, folds - 1, 1)
    return np.where(folds > 1, np.sqrt(variance), np.nan)


def best(mean: np.ndarray, higher_is_better: bool) -> int:
    """The first best entry. Raises where none is a number."""
    if np.isnan(mean).all():
        raise ValueError("No fold has a score at any strength: see fold_scores and fold_status.")
    return int(np.nanargmax(mean) if higher_is_better else np.nanargmin(mean))


def _worst(statuses: np.ndarray) -> str:
    return Status(int(statuses.max())).name
