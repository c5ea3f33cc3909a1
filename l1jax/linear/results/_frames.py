"""Results as data frames of pandas, which nothing else needs."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..._status import Status
from ..._tracing import is_traced
from ._records import FitRecord, PathRecord
from ._tables import names_of

_OF_FITS = (
    "n_nonzero",
    "deviance_explained",
    "objective",
    "gap",
    "relative_gap",
    "kkt",
    "relative_kkt",
    "num_steps",
)


def fit_frame(fit: FitRecord, intercept: bool) -> Any:
    """Returns a row per feature."""
    pandas = pandas_for(fit, fit.status, 0)
    names, values = _named(fit, intercept)
    columns = ["coef"]
    if fit.several_responses:
        columns = pandas.RangeIndex(values.shape[-1], name="response")
    index = pandas.Index(names, name="feature")
    return pandas.DataFrame(values.reshape(len(names), -1), index, columns)


def path_frame(path: PathRecord, intercept: bool) -> Any:
    """Returns a row per λ, a column per feature."""
    pandas = pandas_for(path, path.status, 1)
    names, values = _named(path.fits, intercept)
    columns = pandas.Index(names, name="feature")
    if path.fits.several_responses:
        levels = ["feature", "response"]
        columns = pandas.MultiIndex.from_product([names, range(values.shape[-1])], names=levels)
    index = pandas.Index(np.asarray(path.lams), name="lam")
    return pandas.DataFrame(values.reshape(len(path), -1), index, columns)


def fits_frame(path: PathRecord) -> Any:
    """Returns a row per λ, with what is known of its fit."""
    pandas = pandas_for(path, path.status, 1)
    columns: dict[str, Any] = {name: np.asarray(getattr(path.fits, name)) for name in _OF_FITS}
    columns["status"] = [Status(int(status)).name for status in path.status]
    return pandas.DataFrame(columns, pandas.Index(np.asarray(path.lams), name="lam"))


def _named(fit: FitRecord, intercept: bool) -> tuple[list[str], np.ndarray]:
    """The names of coefficients, and these (..., p, *k); with the intercept before them."""
    names, values = list(names_of(fit)), np.asarray(fit.coef)
    if intercept:
        axis = values.ndim - 1 - fit.several_responses
        first = np.expand_dims(np.asarray(fit.intercept), axis)
        names, values = ["(intercept)", *names], np.concatenate([first, values], axis)
    return names, values


def pandas_for(result: Any, status: Any, axes: int) -> Any:
    """The library, for a result that is concrete and no batch of such."""
    name = type(result).__name__
    if is_traced(result):
        raise ValueError("to_frame needs concrete values: it cannot run inside jit or vmap.")
    if np.ndim(status) != axes:
        raise ValueError(
            f"to_frame is of one {name}, and this is a batch of {np.shape(status)[0]}: take one with "
            "jax.tree.map(lambda leaf: leaf[i], batch)."
        )
    try:
        import pandas
    except ImportError as error:
        raise ImportError("to_frame needs pandas: pip install pandas.") from error
    return pandas
