"""Fits and paths as tables to print."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..._status import Status
from ..._tables import Summary, Table
from ..._tracing import frozen, is_traced
from ._records import FitRecord, PathRecord

_FEATURES = 20  # shown of a fit
_FITS = 12  # shown of a path
_NOTE = (
    "Coefficients are shrunk, and their features chosen by the same data: standard errors and p-values "
    "of least squares do not hold for them."
)


def fit_table(fit: FitRecord) -> Table:
    """The features that are in, with their coefficients; those that matter least may be left out."""
    if is_traced(fit) or np.ndim(fit.status):
        return Table(f"Fit(coef of shape {fit.stored_coef.shape}, status {fit.status})")
    fit = frozen(fit)
    inside = np.flatnonzero(fit.support)
    rows = coefficient_rows(fit, inside[:_FEATURES])
    if len(inside) > _FEATURES:
        rows.append((f"... {len(inside) - _FEATURES} more", ""))
    title = (
        f"Fit: {len(inside)} of {num_features(fit)} features in, {Status(int(fit.status)).name}, relative gap "
        f"{float(fit.relative_gap):.1e}, deviance explained {_three_digits(fit.deviance_explained)}"
    )
    return Table(title, ("feature", "coefficient"), tuple(rows), left=(0,))


def fit_summary(fit: FitRecord) -> Summary:
    """What was fitted and how well, and every coefficient that is in."""
    if is_traced(fit) or np.ndim(fit.status):
        return Summary((fit_table(fit),))
    fit = frozen(fit)
    inside = np.flatnonzero(fit.support)
    facts = (
        ("loss", str(fit.loss)),
        *_options_rows(fit),
        ("strength", f"{float(fit.lam):.6g}"),
        ("features in", f"{len(inside)} of {num_features(fit)}"),
        ("deviance explained", f"{float(fit.deviance_explained):.4f}"),
        ("objective", f"{float(fit.objective):.6g}"),
        ("gap", f"{float(fit.gap):.1e}"),
        ("relative gap", f"{float(fit.relative_gap):.1e}"),
        ("relative kkt", f"{float(fit.relative_kkt):.1e}"),
        ("status", f"{Status(int(fit.status)).name}, {int(fit.num_steps)} steps"),
    )
    rows = tuple(coefficient_rows(fit, inside))
    coefs = Table("", ("feature", "coefficient"), rows, left=(0,))
    return Summary((Table("Fit", ("", ""), facts, left=(0,)), coefs, Table(_NOTE)))


def _options_rows(fit: FitRecord) -> list[tuple[str, str]]:
    """The penalty by its name, and what else was asked for."""
    options = fit.options
    if options is None:
        return []
    asked = ["intercept" if options.fit_intercept else "no intercept"]
    asked += ["standardized columns"] * options.standardize
    for name in ("sample_weight", "offset"):
        asked += [name] * (getattr(options, name) is not None or name in options.not_kept)
    penalty = [] if options.pen is None else [("penalty", type(options.pen).__name__)]
    return [*penalty, ("with", ", ".join(asked))]


def coefficient_rows(fit: FitRecord, some: np.ndarray) -> list[tuple[str, str]]:
    """The intercept and the coefficients of some features, by name."""
    coef = np.asarray(fit.coef)
    rows = [("(intercept)", _number(fit.intercept))]
    return rows + [(name_of(fit, j), _number(coef[j])) for j in some.tolist()]


def name_of(fit: FitRecord, feature: int) -> str:
    """The name of a feature: x0, x1, ... where the data had none."""
    return f"x{feature}" if fit.feature_names is None else fit.feature_names[feature]


def num_features(fit: FitRecord) -> int:
    """The number p of features."""
    return np.shape(fit.stored_coef)[-2 if fit.several_responses else -1]


def names_of(fit: FitRecord) -> tuple[str, ...]:
    """The names of the features: x0, x1, ... where the data had none."""
    return fit.feature_names or tuple(f"x{j}" for j in range(num_features(fit)))


def choices_table(fits: dict[str, FitRecord]) -> Table:
    """The coefficients of several fits side by side, of the features that are in any."""
    inside = np.flatnonzero(np.any([np.asarray(fit.support) for fit in fits.values()], axis=0))
    columns = [coefficient_rows(fit, inside) for fit in fits.values()]
    rows = tuple((row[0][0], *(cell for _, cell in row)) for row in zip(*columns, strict=True))
    return Table("Coefficients", ("feature", *fits), rows, left=(0,))


def path_summary(path: PathRecord) -> Summary:
    """Every fit, and which features enter where."""
    if is_traced(path):
        return Summary((path_table(path),))
    entries = path.entries()
    first = {at for at, _ in entries}
    rows = tuple(
        (
            f"{float(path.lams[at]):.5g}",
            ", ".join(name_of(path.fits, j) for i, j in entries if i == at),
        )
        for at in sorted(first)
    )
    entering = Table(
        "Features by the strength at which they first come in", ("lam", "features"), rows, (1,)
    )
    return Summary((path_table(path, len(path)), entering))


def path_table(path: PathRecord, most: int = _FITS) -> Table:
    """Some of the fits, from the first to the last."""
    if is_traced(path):
        return Table(f"Path(coefs of shape {path.fits.stored_coef.shape})")
    path = frozen(path)
    shown = np.unique(np.linspace(0, len(path) - 1, min(len(path), most)).astype(int))
    rows = [
        (
            f"{float(path.lams[i]):.5g}",
            str(int(path.n_nonzero[i])),
            _three_digits(path.deviance_explained[i]),
            f"{float(path.relative_gaps[i]):.1e}",
            Status(int(path.status[i])).name,
        )
        for i in shown
    ]
    title = f"Path: {len(path)} fits ({len(shown)} shown)"
    missing = int(np.sum(np.asarray(path.status) == Status.INTERRUPTED))
    if missing:
        title += f", incomplete: {missing} not reached"
    header = ("lam", "features", "explained", "rel. gap", "status")
    return Table(title, header, tuple(rows), left=(4,))


def _three_digits(value: Any) -> str:
    """Three digits; what rounding has left below zero is zero."""
    return f"{round(float(value), 3) + 0.0:.3f}"


def _number(value: Any) -> str:
    value = np.asarray(value) + 0.0  # no −0
    if value.ndim == 0:
        return f"{float(value):.5g}"
    return np.array2string(value, precision=5, threshold=6)
