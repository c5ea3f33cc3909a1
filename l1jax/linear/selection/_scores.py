"""How good predictions of held-out rows are: one number per strength.

A score is a function of (loss, y, η, s): targets (m, *k), predictors of every strength (L, m, *k),
and weights (m,) that sum to one; it returns (L,). Those that scikit-learn has are known by its names
too: they are its numbers, of which higher is better.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from ..._arrays import is_in_numpy, xlogy
from ..._compile import program
from ...losses import Loss
from ..model._on_host import host_errors

_ROWS = 64  # compiled functions see rows in multiples of this: few shapes


class Score(NamedTuple):
    """A number per strength for held-out rows, averaged over the folds; whether higher is better."""

    name: str
    function: Callable[[Loss, np.ndarray, np.ndarray, np.ndarray], np.ndarray]
    higher_is_better: bool
    is_of_all_rows: bool = False  # `held_out_deviance` in place of the function


def read_score(score: Any, higher_is_better: Any, loss: Loss, y: np.ndarray, like: Any) -> Score:
    """The score asked for, where it fits the loss and the targets; `like`: the shape of η."""
    if higher_is_better is not None and not isinstance(higher_is_better, bool | np.bool_):
        raise TypeError(f"higher_is_better must be True or False, got {higher_is_better!r}.")
    if callable(score):
        _check_signature(score)
        name = getattr(score, "__name__", type(score).__name__)
        return Score(name, _users(score), bool(higher_is_better))
    name = "deviance" if score is None else score
    if not isinstance(name, str) or name not in _SCORES:
        raise ValueError(
            f"score must be one of {[name for name in _SCORES if name not in _SCORERS]}, one of "
            f"scikit-learn's {list(_SCORERS)}, or a function of (y, prediction, weight) that returns a "
            f"number; got {score!r}."
        )
    if higher_is_better is not None:
        raise ValueError(f"higher_is_better is for a function as score; that of {name!r} is known.")
    if name in _OF_CLASSES and not loss.has_classes:
        raise ValueError(f'score="{name}" needs a loss that classifies, such as Logistic.')
    if name in _OF_PROBABILITIES and not _gives_probabilities(loss, like):
        raise ValueError(f'score="{name}" needs a loss of probabilities, such as Logistic.')
    if name in ("auc", "roc_auc") and (y.ndim > 1 or len(np.unique(y)) > 2):
        raise ValueError(f'score="{name}" needs labels of two classes.')
    if name == "neg_mean_poisson_deviance" and not (response(loss, np.full(like, -9.0)) > 0).all():
        raise ValueError(
            f'score="{name}" needs a loss whose predictions are positive, such as Poisson.'
        )
    if name == "c_index" and (y.ndim != 2 or y.shape[1] != 2):
        raise ValueError('score="c_index" needs y of two columns: time and event.')
    if name in _OF_NUMBERS and y.shape != like:
        raise ValueError(f'score="{name}" needs a prediction for each entry of y, {y.shape}.')
    is_of_all_rows = name == "deviance" and loss.rows_interact
    return Score(name, _SCORES[name], name in ("auc", "c_index", *_SCORERS), is_of_all_rows)


def deviance(loss: Loss, y: np.ndarray, eta: np.ndarray, s: np.ndarray) -> np.ndarray:
    """2 Σ s (loss − the least that any prediction could have): for squared error its mean."""
    if is_in_numpy(loss):
        loss = jax.tree.map(np.asarray, loss)
        with host_errors():
            return 2 * loss.deviance(y, eta, s)
    if any(np.ndim(leaf) for leaf in jax.tree.leaves(loss)):  # that goes with the rows as they are
        return np.asarray(_deviances(loss, y, eta, s))
    return np.asarray(_deviances(loss, *_padded(loss, y, eta, s)))


def held_out_deviance(
    loss: Loss, y: np.ndarray, eta: np.ndarray, s: np.ndarray, held_out: np.ndarray
) -> np.ndarray:
    """2 (the deviance of all rows − that of those not held out) / the weight of events held out. (L,)"""
    return np.asarray(_held_out_deviances(loss, y, eta, s, held_out))


def squared_error(loss: Loss, y: np.ndarray, eta: np.ndarray, s: np.ndarray) -> np.ndarray:
    """Σ s (y − prediction)², summed over responses."""
    return _total((y - response(loss, eta)) ** 2) @ s


def absolute_error(loss: Loss, y: np.ndarray, eta: np.ndarray, s: np.ndarray) -> np.ndarray:
    """Σ s |y − prediction|, summed over responses."""
    return _total(np.abs(y - response(loss, eta))) @ s


def classification_error(loss: Loss, y: np.ndarray, eta: np.ndarray, s: np.ndarray) -> np.ndarray:
    """The fraction of rows, by weight, that are predicted in another class."""
    found = np.asarray(loss.classes(eta if is_in_numpy(loss) else jax.numpy.asarray(eta)))
    return (found != (y if y.ndim == 1 else y.argmax(axis=1))) @ s


def auc(loss: Loss, y: np.ndarray, eta: np.ndarray, s: np.ndarray) -> np.ndarray:
    """The chance that a row of class 1 is ranked above one of class 0; ties count half.

    NaN where one of the classes is missing.
    """
    del loss
    positive, negative = s * (y == 1), s * (y != 1)
    pairs = positive.sum() * negative.sum()
    if not pairs:
        return np.full(len(eta), np.nan)
    found = []
    for one in eta:
        _, rank = np.unique(one, return_inverse=True)
        ties = np.bincount(rank, negative)
        below = np.cumsum(ties) - ties / 2
        found.append(positive @ below[rank] / pairs)
    return np.array(found)


def c_index(loss: Loss, y: np.ndarray, eta: np.ndarray, s: np.ndarray) -> np.ndarray:
    """Harrell's C: of the pairs whose order in time is known, the fraction that η orders so.

    A larger η is a larger risk, an earlier event; ties of η count half. y (m, 2): time, and whether
    the event was observed. NaN where no pair can be ordered.
    """
    del loss
    time, event = y[:, 0], y[:, 1] != 0
    right, pairs = np.zeros(len(eta)), 0.0
    for i in np.flatnonzero(event & (s > 0)):
        later = (time > time[i]) | ((time == time[i]) & ~event)
        risk = eta[:, i, None] - eta[:, later]
        right += s[i] * (((risk > 0) + 0.5 * (risk == 0)) @ s[later])
        pairs += s[i] * s[later].sum()
    return right / pairs if pairs else np.full(len(eta), np.nan)


def accuracy(loss: Loss, y: np.ndarray, eta: np.ndarray, s: np.ndarray) -> np.ndarray:
    """The fraction of rows, by weight, that are predicted in their class."""
    return 1 - classification_error(loss, y, eta, s)


def roc_auc(loss: Loss, y: np.ndarray, eta: np.ndarray, s: np.ndarray) -> np.ndarray:
    """As `auc`."""
    return auc(loss, y, eta, s)


def neg_log_loss(loss: Loss, y: np.ndarray, eta: np.ndarray, s: np.ndarray) -> np.ndarray:
    """Σ s log of the probability of the class of each row."""
    p = response(loss, eta)
    p = np.clip(p, np.finfo(p.dtype).eps, 1 - np.finfo(p.dtype).eps)
    logs = np.log(np.where(y == 1, p, 1 - p)) if y.ndim == 1 else (y * np.log(p)).sum(axis=2)
    return logs @ s


def neg_brier_score(loss: Loss, y: np.ndarray, eta: np.ndarray, s: np.ndarray) -> np.ndarray:
    """Minus the squared error of the probabilities: of class 1 where there are two, else of all."""
    return squared_error(loss, y, eta, s) / (-2 if y.ndim == 2 and y.shape[1] == 2 else -1)


def neg_mean_squared_error(loss: Loss, y: np.ndarray, eta: np.ndarray, s: np.ndarray) -> np.ndarray:
    """−Σ s (y − prediction)², the mean over responses."""
    return -_mean(_by_response((y - response(loss, eta)) ** 2, s))


def neg_root_mean_squared_error(
    loss: Loss, y: np.ndarray, eta: np.ndarray, s: np.ndarray
) -> np.ndarray:
    """−√(Σ s (y − prediction)²), the mean over responses."""
    return -_mean(np.sqrt(_by_response((y - response(loss, eta)) ** 2, s)))


def neg_mean_absolute_error(
    loss: Loss, y: np.ndarray, eta: np.ndarray, s: np.ndarray
) -> np.ndarray:
    """−Σ s |y − prediction|, the mean over responses."""
    return -_mean(_by_response(np.abs(y - response(loss, eta)), s))


def neg_mean_poisson_deviance(
    loss: Loss, y: np.ndarray, eta: np.ndarray, s: np.ndarray
) -> np.ndarray:
    """−2 Σ s (y log(y/prediction) − y + prediction), the mean over responses."""
    p = response(loss, eta)
    return -2 * _mean(_by_response(xlogy(y, y / p) - y + p, s))


def r2(loss: Loss, y: np.ndarray, eta: np.ndarray, s: np.ndarray) -> np.ndarray:
    """1 − Σ s (y − prediction)² / Σ s (y − ȳ)², the mean over responses.

    Where y is constant it is 1 for what is exact and else 0. NaN for a single row.
    """
    if len(y) < 2:
        return np.full(len(eta), np.nan)
    errors = _by_response((y - response(loss, eta)) ** 2, s)
    variance = _by_response((y - s @ y)[None] ** 2, s)
    explained = 1 - errors / np.where(variance > 0, variance, 1)
    return _mean(np.where(variance > 0, explained, errors == 0))


_SCORERS = {
    score.__name__: score
    for score in (
        r2, neg_mean_squared_error, neg_root_mean_squared_error, neg_mean_absolute_error,
        neg_mean_poisson_deviance, accuracy, roc_auc, neg_log_loss, neg_brier_score,
    )
}  # fmt: skip
_SCORES = {
    score.__name__: score
    for score in (deviance, squared_error, absolute_error, classification_error, auc, c_index)
} | _SCORERS
_OF_PROBABILITIES = {"neg_log_loss", "neg_brier_score"}
_OF_CLASSES = {"classification_error", "accuracy", "auc", "roc_auc"} | _OF_PROBABILITIES
_OF_NUMBERS = {"squared_error", "absolute_error"} | _SCORERS.keys() - _OF_CLASSES


def _gives_probabilities(loss: Loss, like: Any) -> bool:
    """Whether predictions lie within [0, 1], whatever η is."""
    if loss.has_thresholds:
        return True
    p = response(loss, np.stack([np.full(like, -9.0), np.full(like, 9.0)]))
    return bool(((p >= 0) & (p <= 1)).all())


def _check_signature(score: Any) -> None:
    """Raises where a function cannot be called with (y, prediction, weight)."""
    try:
        signature = inspect.signature(score)
    except ValueError:  # some that are built in do not say
        return
    parameters = list(signature.parameters)
    if parameters[:1] == ["estimator"]:
        raise TypeError(
            "score must be a function of (y, prediction, weight), got a scorer of scikit-learn, which asks "
            f"an estimator: pass a name, one of {list(_SCORERS)}, or the function that it calls."
        )
    try:
        signature.bind(None, None, None)
    except TypeError:
        name = getattr(score, "__name__", "score").replace("<lambda>", "score")
        weight = ", sample_weight=weight" if "sample_weight" in parameters else ""
        raise TypeError(
            f"score must be a function of (y, prediction, weight), got one of {signature}. Wrap it: lambda y, "
            f"prediction, weight: {name}(y, prediction{weight})."
        ) from None


def _by_response(errors: np.ndarray, s: np.ndarray) -> np.ndarray:
    """The weighted mean over rows: (L, m, *k) -> (L, *k)."""
    return np.moveaxis(errors, 1, -1) @ s


def _mean(values: np.ndarray) -> np.ndarray:
    """The mean over responses: (L,)."""
    return values if values.ndim == 1 else values.mean(axis=1)


def response(loss: Loss, eta: np.ndarray) -> np.ndarray:
    """The mean response, of η with any axes."""
    with host_errors():
        return np.asarray(loss.inverse_link(eta if is_in_numpy(loss) else jax.numpy.asarray(eta)))


def _users(function: Callable[..., Any]) -> Callable[..., np.ndarray]:
    """The user's function of (y, prediction, weight), strength by strength."""

    def score(loss: Loss, y: np.ndarray, eta: np.ndarray, s: np.ndarray) -> np.ndarray:
        values = [np.asarray(function(y, one, s)) for one in response(loss, eta)]
        if values[0].shape != () or values[0].dtype.kind not in "fiub":
            raise TypeError(f"score must return a number, got {values[0]!r}.")
        return np.array(values, float)

    return score


def _total(errors: np.ndarray) -> np.ndarray:
    """Summed over responses: (L, m)."""
    return errors if errors.ndim == 2 else errors.sum(axis=2)


@program
def _deviances(loss: Loss, y: Any, eta: Any, s: Any) -> Any:
    return jax.vmap(lambda one: 2 * loss.deviance(y, one, s))(eta)


@program
def _held_out_deviances(loss: Loss, y: Any, eta: Any, s: Any, held_out: Any) -> Any:
    return jax.vmap(lambda one: 2 * loss.held_out_deviance(y, one, s, held_out))(eta)


def _padded(loss: Loss, y: np.ndarray, eta: np.ndarray, s: np.ndarray) -> tuple[np.ndarray, ...]:
    """Appends rows of weight 0, so that their number is a multiple of `_ROWS`."""
    more = -len(s) % _ROWS
    wide = [(0, 0)] * (eta.ndim - 2)
    targets = np.broadcast_to(loss.neutral_target(y, s), (more, *y.shape[1:]))
    return (
        np.concatenate([y, targets]),
        np.pad(eta, [(0, 0), (0, more), *wide]),
        np.pad(s, (0, more)),
    )
