"""Scores and criteria as data frames of pandas."""

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


def _by_strength(result: Any, **columns: np.ndarray) -> Any:
    path = result.path
    lam, inside = np.asarray(path.lams), np.asarray(path.n_nonzero)
    return pandas_for(result, path.status, 1).DataFrame(
        {"lam": lam, **columns, "n_nonzero": inside}
    )
