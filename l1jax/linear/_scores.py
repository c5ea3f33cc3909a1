"""How good predictions of held-out rows are: one number per strength.

A score is a function of (loss, y, η, s): targets (m, *k), predictors of every strength (L, m, *k),
and weights (m,) that sum to one; it returns (L,).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np

from ..losses import Loss

_ROWS = 64  # compiled functions see rows in multiples of this: few shapes


class Score(NamedTuple):
    """What is averaged over the folds, and which way is up."""

    name: str
    function: Callable[[Loss, np.ndarray, np.ndarray, np.ndarray], np.ndarray]
    higher_is_better: bool
    is_of_all_rows: bool = False  # `held_out_deviance` in place of the function


def read_score(score: Any, higher_is_better: Any, loss: Loss, y: np.ndarray, like: Any) -> Score:
    """The score asked for, where it fits the loss and the targets; `like`: the shape of η."""
    if higher_is_better is not None and not isinstance(higher_is_better, bool | np.bool_):
        raise TypeError(f"higher_is_better must be True or False, got {higher_is_better!r}.")
    if callable(score):
        name = getattr(score, "__name__", type(score).__name__)
        return Score(name, _users(score), bool(higher_is_better))
    name = "deviance" if score is None else score
    if not isinstance(name, str) or name not in _SCORES:
        raise ValueError(
            f"score must be one of {list(_SCORES)}, or a function of (y, prediction, weight) that "
            f"returns a number; got {score!r}."
        )
    if higher_is_better is not None:
        raise ValueError(f"higher_is_better is for a function as score; that of {name!r} is known.")
    if name in ("classification_error", "auc") and not loss.has_classes:
        raise ValueError(f'score="{name}" needs a loss that classifies, such as Logistic.')
    if name == "auc" and (y.ndim > 1 or len(np.unique(y)) > 2):
        raise ValueError('score="auc" needs labels of two classes.')
    if name == "c_index" and (y.ndim != 2 or y.shape[1] != 2):
        raise ValueError('score="c_index" needs y of two columns: time and event.')
    if name in ("squared_error", "absolute_error") and y.shape != like:
        raise ValueError(f'score="{name}" needs a prediction for each entry of y, {y.shape}.')
    is_of_all_rows = name == "deviance" and loss.rows_interact
    return Score(name, _SCORES[name], name in ("auc", "c_index"), is_of_all_rows)


def deviance(loss: Loss, y: np.ndarray, eta: np.ndarray, s: np.ndarray) -> np.ndarray:
    """2 Σ s (loss − the least that any prediction could have): for squared error its mean."""
    if any(np.ndim(leaf) for leaf in jax.tree.leaves(loss)):  # that goes with the rows as they are
        return np.asarray(_deviances(loss, y, eta, s))
    return np.asarray(_deviances(loss, *_padded(y, eta, s)))


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
    """The share of rows, by weight, that are put into another class."""
    found = np.asarray(loss.classes(jax.numpy.asarray(eta)))
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
    """Harrell's C: of the pairs whose order in time is known, the share that η orders so.

    A larger η is a larger risk, an earlier event; ties of η count half. y (m, 2): time, and whether
    the event was seen. NaN where no pair can be ordered.
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


_SCORES = {
    score.__name__: score
    for score in (deviance, squared_error, absolute_error, classification_error, auc, c_index)
}


def response(loss: Loss, eta: np.ndarray) -> np.ndarray:
    """The mean response, of η with any axes."""
    return np.asarray(loss.inverse_link(jax.numpy.asarray(eta)))


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


def of_rows(loss: Loss, rows: np.ndarray) -> Loss:
    """The loss of some rows: a number for each row, such as a `delta` of Huber's, goes with them."""

    def some(leaf: Any) -> Any:
        has_rows = getattr(leaf, "shape", ())[:1] == rows.shape
        return np.asarray(leaf)[rows] if has_rows else leaf

    return jax.tree.map(some, loss)


@eqx.filter_jit
def _deviances(loss: Loss, y: Any, eta: Any, s: Any) -> Any:
    return jax.vmap(lambda one: 2 * loss.deviance(y, one, s))(eta)


@eqx.filter_jit
def _held_out_deviances(loss: Loss, y: Any, eta: Any, s: Any, held_out: Any) -> Any:
    return jax.vmap(lambda one: 2 * loss.held_out_deviance(y, one, s, held_out))(eta)


def _padded(y: np.ndarray, eta: np.ndarray, s: np.ndarray) -> tuple[np.ndarray, ...]:
    """The same rows and some that do not count."""
    more = -len(s) % _ROWS
    rest = [(0, 0)] * (y.ndim - 1)
    wide = [(0, 0)] * (eta.ndim - 2)
    return (
        np.pad(y, [(0, more), *rest]),
        np.pad(eta, [(0, 0), (0, more), *wide]),
        np.pad(s, (0, more)),
    )
