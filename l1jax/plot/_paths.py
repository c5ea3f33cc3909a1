"""Paths, how well they predict, and how often they select."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, no_type_check

import numpy as np

from ..linear import Path, StabilitySelection
from ..linear.host._sparse_rows import used
from ..linear.results._tables import name_of
from ._style import (
    COLOURS,
    FALLING,
    Axes,
    axes_or_new,
    counts_on_top,
    falling,
    line_style,
    mark,
    name_ends,
    plain,
    reached,
)


@no_type_check  # checks its arguments itself, in sentences
def path(
    path: Path,
    x: str = "lambda",
    *,
    top: int = 12,
    chosen: float | Mapping[str, float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """The coefficients of a path of one response, the largest ones named, and how many are in.

    - `x`: "lambda" (log λ), "norm" (Σ|βⱼ|) or "deviance" (the fraction that is explained).
    - `top`: how many features are coloured and named: those whose coefficient becomes largest.
    - `chosen`: a strength to mark, or several by name: {"best": cv.lam_min, "1 SE": cv.lam_1se}.
    """
    if x not in ("lambda", "norm", "deviance"):
        raise ValueError(f'x must be "lambda", "norm" or "deviance", got {x!r}.')
    path = reached(path, positive=x == "lambda")
    if path.fits.several_responses:
        raise ValueError(
            "plot.path draws one response: make a path for each column of y, or for each class against "
            "the others."
        )
    ax = axes_or_new(ax)
    features, coefs = used(path.fits.stored_coef)
    places = {
        "lambda": lambda path: np.asarray(path.lams),
        "norm": lambda _: np.abs(coefs).sum(axis=-1),
        "deviance": lambda path: np.asarray(path.deviance_explained),
    }[x]
    xs = places(path)
    names = [plain(name_of(path.fits, j)) for j in features.tolist()]
    biggest = np.argsort(-np.abs(coefs).max(axis=0), kind="stable")
    named, others = biggest[:top], biggest[top:]
    lines = _while_inside(coefs)
    if len(others):
        ax.plot(xs, lines[:, others], color="0.8", linewidth=0.8, zorder=1)
    ends = []
    for k, j in enumerate(named):
        style = line_style(k)
        ax.plot(xs, lines[:, j], linewidth=1.8, marker="o" if len(xs) == 1 else None, **style)
        ends.append((float(coefs[-1, j]), names[j], style["color"]))
    ax.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    titles = {"lambda": FALLING, "norm": "Σ|β|", "deviance": "fraction of the deviance explained"}
    ax.set(xlabel=titles[x], ylabel="coefficient")
    if x == "lambda":
        falling(ax, xs)
    else:
        ax.set_xlim(xs.min(), max(xs.max(), xs.min() + 1e-12))
    name_ends(ax, float(xs[-1]), ends)
    counts_on_top(ax, xs, np.asarray(path.n_nonzero))
    if chosen is not None:
        marks = chosen if isinstance(chosen, Mapping) else {"chosen": chosen}
        at = {name: float(np.interp(-lam, -path.lams, xs)) for name, lam in marks.items()}
        mark(ax, at if x != "lambda" else {name: float(lam) for name, lam in marks.items()})
    return ax


def cross_validation(cv: Any, *, ax: Axes | None = None) -> Axes:
    """The score of `l1jax.cross_validate` by log λ, with its standard errors and the number of features.

    Marked are the best strength and the largest one within a standard error of it.
    """
    if not (hasattr(cv, "mean_score") and hasattr(cv, "path")):
        inside = "its `.cv_`" if hasattr(cv, "cv_") else "what l1jax.cross_validate returns"
        raise TypeError(f"cv must be a CrossValidated, got {type(cv).__name__}: pass {inside}.")
    ax = axes_or_new(ax)
    lams, mean, error = (np.asarray(v) for v in (cv.lams, cv.mean_score, cv.se_score))
    keep = (lams > 0) & np.isfinite(mean)
    lams, mean, error = lams[keep], mean[keep], error[keep]
    ax.errorbar(
        lams, mean, yerr=error, fmt="o", markersize=3, color=COLOURS[0], ecolor="0.7", elinewidth=1
    )
    falling(ax, lams)
    better = "higher" if cv.higher_is_better else "lower"
    score = cv.score if isinstance(getattr(cv, "score", None), str) else "score"
    ax.set(xlabel=FALLING, ylabel=f"{score.replace('_', ' ')}, held out ({better} is better)")
    counts_on_top(ax, lams, np.asarray(cv.path.n_nonzero)[keep])
    mark(ax, {"1 SE": float(cv.lam_1se), "best": float(cv.lam_min)})
    return ax


@no_type_check  # checks its arguments itself, in sentences
def stability(stable: StabilitySelection, *, top: int = 12, ax: Axes | None = None) -> Axes:
    """How often each feature is selected on halves of the rows, by log λ, with the threshold.

    Selected features are coloured, the `top` most probable of them named; the others are grey. The
    picture ends where no frequency changes any more.
    """
    if not isinstance(stable, StabilitySelection):
        raise TypeError(
            f"stable must be a StabilitySelection, got {type(stable).__name__}: pass what l1jax.stability "
            "returns."
        )
    keep = stable.lams > 0
    if not keep.any():
        raise ValueError("there is no strength above 0 to draw.")
    ax, lams, lines = axes_or_new(ax), stable.lams[keep], stable.probabilities[keep]
    moves = np.flatnonzero((np.diff(lines, axis=0) != 0).any(axis=1))
    end = min(moves[-1] + 3, len(lams)) if len(moves) else len(lams)
    lams, lines = lams[:end], lines[:end]
    selected = [j for j in stable.by_probability() if stable.selected[j]]
    others = ~stable.selected & (lines > 0).any(axis=0)
    marker = "o" if len(lams) == 1 else None
    if others.any():
        ax.plot(lams, lines[:, others], color="0.8", linewidth=0.8, marker=marker, zorder=1)
    ends = []
    for k, j in enumerate(selected):
        style = line_style(k)
        ax.plot(lams, lines[:, j], linewidth=1.8, marker=marker, **style)
        ends.append((float(lines[-1, j]), plain(stable.names[j]), style["color"]))
    ax.axhline(stable.threshold, color="0.35", linestyle=(0, (4, 3)), linewidth=1.2, zorder=0)
    falling(ax, lams)
    unit = "group" if stable.of_groups else "feature"
    ax.set(
        xlabel=FALLING, ylabel=f"fraction of the halves that select a {unit}", ylim=(-0.02, 1.04)
    )
    name_ends(ax, float(lams[-1]), ends[:top])
    return ax


def _while_inside(coefs: np.ndarray) -> np.ndarray:
    """The coefficients, NaN where they stay zero: a line begins at the last zero and ends at the next."""
    inside = coefs != 0
    shown = inside.copy()
    shown[:-1] |= inside[1:]
    shown[1:] |= inside[:-1]
    return np.where(shown, coefs, np.nan)
