"""Scores, criteria and selection probabilities as data frames of pandas."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..results._frames import pandas_for


def scores_frame(cv: Any) -> Any:
    """A row per strength, in the order of the grid: its score."""
    return _by_strength(cv, mean_score=cv.mean_score, se_score=cv.se_score)


def criterion_frame(found: Any) -> Any:
    """A row per strength, in the order of the grid: its criterion."""
    columns = {found.kind: found.values, "degrees_of_freedom": found.degrees_of_freedom}
    return _by_strength(found, **columns)


def stability_frame(found: Any, by_strength: bool) -> Any:
    """A row per feature, the most probable first; or one per strength, with a column per feature."""
    pandas = pandas_for(found, found.statuses, 1)
    unit = "group" if found.of_groups else "feature"
    if by_strength:
        index = pandas.Index(found.lams, name="lam")
        columns = pandas.Index(list(found.names), name=unit)
        return pandas.DataFrame(found.probabilities, index, columns)
    order = found.by_probability()
    index = pandas.Index([found.names[j] for j in order], name=unit)
    columns = {"probability": found.max_probabilities[order], "selected": found.selected[order]}
    return pandas.DataFrame(columns, index)


def _by_strength(result: Any, **columns: np.ndarray) -> Any:
    path = result.path
    lam, inside = np.asarray(path.lams), np.asarray(path.n_nonzero)
    return pandas_for(result, path.status, 1).DataFrame(
        {"lam": lam, **columns, "n_nonzero": inside}
    )
