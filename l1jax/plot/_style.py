"""Parts of all figures: axes, colours, names that do not overlap, marks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, no_type_check

import numpy as np

from ..linear import Path

try:
    import matplotlib.pyplot as plt
    from matplotlib.axes import Axes
except ImportError as error:
    raise ImportError("l1jax.plot needs matplotlib: pip install matplotlib.") from error

BLACK, GREY = "#000000", "#8a8a8a"
# Okabe and Ito (2008), in an order in which neighbours differ; their yellow is too pale for a line.
COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000"]
FALLING = "λ, falling to the right"
_DASHES = ["-", "--", "-.", ":"]
_SIZE = 9.0  # of the names, in points
_LONGEST = 28  # letters of a name


def axes_or_new(ax: Axes | None, height: float = 4.2) -> Axes:
    if ax is None:
        ax = plt.subplots(figsize=(7.5, height), layout="constrained")[1]
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    return ax


def line_style(k: int) -> dict[str, Any]:
    n = len(COLOURS)
    return {"color": COLOURS[k % n], "linestyle": _DASHES[k // n % len(_DASHES)]}


def falling(ax: Axes, lams: np.ndarray) -> None:
    ax.set_xscale("log")
    pad = 1.03 if lams.max() == lams.min() else (lams.max() / lams.min()) ** 0.015
    ax.set_xlim(lams.max() * pad, lams.min() / pad)


@no_type_check  # of anything that is no path it says so
def reached(path: Path, positive: bool) -> Path:
    """The fits that are there, and have a logarithm of their strength where one is needed."""
    if not isinstance(path, Path):
        has_one = isinstance(getattr(path, "path", None), Path)
        raise TypeError(
            f"this picture is of a Path, got a {type(path).__name__}"
            + (": pass its `.path`." if has_one else ", as l1jax.path returns it.")
        )
    there = np.isfinite(np.asarray(path.intercepts).reshape(len(path), -1)).all(axis=1)
    there &= (np.asarray(path.lams) > 0) | (not positive)
    if not there.any():
        raise ValueError("the path has no fit to draw.")
    return Path(path._pick(lambda leaf: leaf[there]))


def names_of(path: Path) -> tuple[str, ...]:
    """The names of its features, as a picture can show them."""
    names = path.feature_names or tuple(f"x{j}" for j in range(np.shape(path.coefs)[1]))
    return tuple(map(plain, names))


def plain(name: str) -> str:
    """On one line, not too long, and with its dollars: two would begin and end a formula."""
    name = " ".join(name.split())
    if len(name) > _LONGEST:
        name = f"{name[: _LONGEST - 9]}…{name[-8:]}"
    return name.replace("$", r"\$")


def mark(ax: Axes, places: Mapping[str, float]) -> None:
    """Vertical lines with their names inside, at the top; the names of neighbours go apart."""
    falls = bool(ax.xaxis_inverted())
    to_axes, width = ax.transData + ax.transAxes.inverted(), ax.get_window_extent().width
    for i, (name, x) in enumerate(sorted(places.items(), key=lambda item: item[1], reverse=falls)):
        ax.axvline(x, color="0.35", linestyle=(0, (4, 3)), linewidth=1.2, zorder=0)
        is_left, row = i % 2 == 0, i // 2  # of a pair; each further pair is a line lower
        place, needed = to_axes.transform((x, 1))[0], len(name) * _text_height(ax) / width
        if (place if is_left else 1 - place) < needed:  # it would leave the picture
            is_left, row = not is_left, i
        ax.annotate(
            name, (x, 1), (-3 if is_left else 3, -3 - 1.4 * _SIZE * row), va="top", color="0.25",
            xycoords=ax.get_xaxis_transform(), textcoords="offset points",
            ha="right" if is_left else "left", zorder=5,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5},
        )  # fmt: skip


def counts_on_top(ax: Axes, xs: np.ndarray, counts: np.ndarray) -> None:
    """How many features are in, at some places along the top."""
    scale = np.log(xs) if ax.get_xscale() == "log" else xs
    span = np.ptp(scale) or 1.0
    picked: list[int] = []
    for i in np.argsort(scale):
        if not picked or scale[i] - scale[picked[-1]] > span / 9:
            picked.append(int(i))
    above = ax.secondary_xaxis("top")
    above.set_xticks(xs[picked], [str(int(counts[i])) for i in picked], minor=False)
    above.set_xticks([], minor=True)
    above.tick_params(length=0, colors="0.35")
    above.spines["top"].set_visible(False)
    above.set_xlabel("features in", color="0.35")


def name_ends(ax: Axes, x: float, ends: list[tuple[float, str, str]]) -> None:
    """The names of lines beside their right ends, moved apart until none overlaps another."""
    to_axes = ax.transData + ax.transAxes.inverted()
    heights = np.asarray([to_axes.transform((x, y))[1] for y, _, _ in ends])
    gap = _text_height(ax) / ax.get_window_extent().height
    for (y, name, colour), spot in zip(ends, apart(heights, gap), strict=True):
        ax.annotate(
            name, (x, y), (1.04, spot), textcoords="axes fraction", va="center",
            **_label(colour, (0.0, 0.5)),
        )  # fmt: skip


def name_tops(ax: Axes, ends: list[tuple[float, str, str]]) -> None:
    """The names of points on the diagonal, above the picture, upright and moved apart."""
    to_axes = ax.transData + ax.transAxes.inverted()
    places = np.asarray([to_axes.transform((x, x))[0] for x, _, _ in ends])
    gap = _text_height(ax) / ax.get_window_extent().width
    for (x, name, colour), spot in zip(ends, apart(places, gap), strict=True):
        ax.annotate(
            name, (x, x), (spot, 1.03), textcoords="axes fraction", ha="center", va="bottom",
            rotation=90, **_label(colour, (0.5, 0.0)),
        )  # fmt: skip


def _label(colour: str, begins: tuple[float, float]) -> dict[str, Any]:
    """Returns the style of a name, and of the line that begins at this point of its box, in fractions of it."""
    line = {"arrowstyle": "-", "color": colour, "linewidth": 0.6, "alpha": 0.6}
    return {
        "fontsize": _SIZE,
        "color": colour,
        "annotation_clip": False,
        "arrowprops": line | {"relpos": begins, "shrinkA": 1, "shrinkB": 0},
    }


def _text_height(ax: Axes) -> float:
    """In pixels, with the room between lines, and some for what the layout will take off the axes."""
    return 1.5 * _SIZE * ax.figure.dpi / 72


def apart(heights: np.ndarray, gap: float) -> np.ndarray:
    """The nearest heights (least squares) in the same order, each `gap` from the next, in [0, 1]."""
    if not len(heights):
        return heights
    gap = min(gap, 1 / max(len(heights) - 1, 1))
    order = np.argsort(heights, kind="stable")
    steps = gap * np.arange(len(heights))
    blocks: list[list[float]] = []  # pool adjacent violators of height − step
    for value in heights[order] - steps:
        blocks.append([float(value)])
        while len(blocks) > 1 and np.mean(blocks[-2]) >= np.mean(blocks[-1]):
            last = blocks.pop()
            blocks[-1] += last
    level = np.concatenate([np.full(len(block), np.mean(block)) for block in blocks])
    spots = np.empty(len(heights))
    spots[order] = np.clip(level, 0, max(1 - steps[-1], 0)) + steps
    return spots
