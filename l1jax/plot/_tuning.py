"""What a search for hyperparameters tried."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..tuning._tune import Tuned
from ._style import COLOURS, GREY, Axes, axes_or_new, falling


def tuning(tuned: Tuned, *, ax: Axes | None = None) -> Axes:
    """What `l1jax.tune` tried: the criterion and its slope by log λ, or by trial where more was tuned."""
    ax = axes_or_new(ax)
    values = np.asarray([trial.criterion for trial in tuned.history])
    best = int(np.argmin(values))
    tuned_names = {name for trial in tuned.history for name in trial.values}
    (name, *others) = sorted(tuned_names)
    is_curve = not others and all(np.ndim(t.values[name]) == 0 for t in tuned.history)
    xs = np.arange(len(values), dtype=float)
    if is_curve:
        xs = np.asarray([float(trial.values[name]) for trial in tuned.history])
        falling(ax, xs)
        _draw_slopes(ax, xs, values, [float(t.gradient[0]) for t in tuned.history])
    first = len(values) - tuned.num_fits
    dots: dict[str, Any] = {"linestyle": "", "markersize": 6, "color": COLOURS[0], "zorder": 3}
    ax.plot(
        xs[:first],
        values[:first],
        marker="o",
        markerfacecolor="white",
        label="the first path",
        **dots,
    )
    ax.plot(xs[first:], values[first:], marker="o", label="one by one", **dots)
    if not is_curve:
        ax.step(
            xs, np.minimum.accumulate(values), where="post", color=COLOURS[1], label="best so far"
        )
    ax.plot(
        xs[best], values[best], marker="D", markersize=9, color=COLOURS[1], linestyle="", label="best",
        zorder=2,
    )  # fmt: skip
    if is_curve:
        _zoom(ax, xs, values)
    ax.set(xlabel=name if is_curve else "trial", ylabel="criterion")
    ax.legend(frameon=False)
    return ax


def _draw_slopes(ax: Axes, xs: np.ndarray, values: np.ndarray, slopes: list[float]) -> None:
    """A short piece of the tangent at each point; slopes are by log x."""
    reach = 0.04 * abs(np.log(xs.max() / xs.min()))
    for x, value, slope in zip(xs, values, slopes, strict=True):
        ends = np.array([-reach, reach])
        ax.plot(x * np.exp(ends), value + slope * ends, color=GREY, linewidth=1.2, zorder=1)


def _zoom(ax: Axes, xs: np.ndarray, values: np.ndarray) -> None:
    """Shows the valley, and says how many points lie above; all of them where that is all the same."""
    lowest = values.min()
    limit = lowest + 8 * (np.median(values) - lowest)
    shown = values <= limit
    if shown.all() or shown.sum() < 2:
        return
    falling(ax, xs[shown])
    ax.set_ylim(lowest - 0.06 * (limit - lowest), values[shown].max() + 0.3 * (limit - lowest))
    ax.text(0.01, 0.98, f"{int(np.sum(~shown))} of {len(xs)} trials lie above", transform=ax.transAxes,
            va="top", color="0.35")  # fmt: skip
