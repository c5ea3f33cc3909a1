"""Fits and paths as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .._status import Status
from .._tables import Table
from .._tracing import frozen, is_traced

if TYPE_CHECKING:
    from ._results import Fit, Path

_FEATURES = 20  # shown of a fit
_FITS = 12  # shown of a path


def fit_table(fit: Fit) -> Table:
    """The features that are in, with their coefficients; those that matter least may be left out."""
    if is_traced(fit) or np.ndim(fit.status):
        return Table(f"Fit(coef of shape {fit.coef.shape}, status {fit.status})")
    fit = frozen(fit)
    support = np.asarray(fit.support)
    names = fit.feature_names or tuple(f"x{j}" for j in range(len(support)))
    inside = np.flatnonzero(support)
    rows = [("(intercept)", _number(fit.intercept))]
    rows += [(names[j], _number(fit.coef[j])) for j in inside[:_FEATURES]]
    if len(inside) > _FEATURES:
        rows.append((f"... {len(inside) - _FEATURES} more", ""))
    title = (
        f"Fit: {len(inside)} of {len(names)} features in, {Status(int(fit.status)).name}, relative gap "
        f"{float(fit.relative_gap):.1e}, deviance explained {_share(fit.deviance_explained)}"
    )
    return Table(title, ("feature", "coefficient"), tuple(rows), left=(0,))


def path_table(path: Path) -> Table:
    """Some of the fits, from the first to the last."""
    if is_traced(path):
        return Table(f"Path(coefs of shape {path.coefs.shape})")
    path = frozen(path)
    shown = np.unique(np.linspace(0, len(path) - 1, min(len(path), _FITS)).astype(int))
    rows = [
        (
            f"{float(path.lams[i]):.5g}",
            str(int(path.n_nonzero[i])),
            _share(path.deviance_explained[i]),
            f"{float(path.relative_gaps[i]):.1e}",
            Status(int(path.status[i])).name,
        )
        for i in shown
    ]
    title = f"Path: {len(path)} fits ({len(shown)} shown)"
    unfinished = int(np.sum(np.asarray(path.status) == Status.INTERRUPTED))
    if unfinished:
        title += f", unfinished: {unfinished} not reached"
    header = ("lam", "features", "explained", "rel. gap", "status")
    return Table(title, header, tuple(rows), left=(4,))


def _share(value: Any) -> str:
    """Three digits; what rounding has left below zero is zero."""
    return f"{round(float(value), 3) + 0.0:.3f}"


def _number(value: Any) -> str:
    value = np.asarray(value)
    if value.ndim == 0:
        return f"{float(value):.5g}"
    return np.array2string(value, precision=5, threshold=6)
