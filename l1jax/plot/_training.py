"""Networks that become sparse, and smaller."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..training import Sparsity
from ._style import BLACK, COLOURS, GREY, Axes, axes_or_new, line_style, name_ends, plain


def sparsity(
    history: Sequence[Sparsity | Mapping[str, Any]],
    steps: Iterable[Any] | None = None,
    *,
    groups: bool = False,
    ax: Axes | None = None,
) -> Axes:
    """The fraction of exact zeros over training, in all and for each path of the tree.

    `history`: what `l1jax.sparsity` said at each of `steps`, or its `scalars()`; `groups`: of whole
    groups instead of entries.
    """
    if not len(history):
        raise ValueError("history is empty: keep l1jax.sparsity(params) while you train.")
    ax, what = axes_or_new(ax), "zero_groups" if groups else "zeros"
    rows = [one.scalars() if isinstance(one, Sparsity) else one for one in history]
    xs = np.arange(len(rows)) if steps is None else np.asarray(list(steps))
    if len(xs) != len(rows):
        raise ValueError(
            f"steps must have one entry per entry of history, {len(rows)}: got {len(xs)}."
        )
    keys = [key for key in rows[0] if key.endswith(f"/{what}")]
    if not keys:
        raise ValueError(f'history has no "{what}": groups=True needs a penalty with groups.')
    lines = {key.split("/", 1)[-1].rpartition("/")[0]: key for key in keys}
    ends = []
    for k, (name, key) in enumerate(lines.items()):
        values = 100 * np.asarray([float(row[key]) for row in rows])
        if not name and len(lines) == 2:
            continue  # the total of one path is that path
        style: dict[str, Any] = line_style(k) if name else {"color": BLACK, "linestyle": "-"}
        ax.plot(xs, values, linewidth=1.8 if name else 3, alpha=1 if name else 0.5, **style)
        ends.append((float(values[-1]), plain(name) or "all", style["color"]))
    ax.set(xlabel="step", ylim=(-2, 102), xlim=(xs.min(), max(xs.max(), xs.min() + 1e-9)))
    ax.set_ylabel("groups that are zero, %" if groups else "entries that are exactly zero, %")
    name_ends(ax, float(xs[-1]), ends)
    return ax


def widths(before: Mapping[str, int], after: Mapping[str, int], *, ax: Axes | None = None) -> Axes:
    """How wide each layer was, and what is left of it: outlines and bars, from the first layer down."""
    unknown = [name for name in after if name not in before]
    if unknown:
        raise ValueError(f"after has a layer {unknown[0]!r} that before has not.")
    names = list(before)
    old = np.asarray([before[name] for name in names])
    new = np.asarray([after.get(name, 0) for name in names])
    ax = axes_or_new(ax, height=1.2 + 0.35 * len(names))
    rows = np.arange(len(names))
    ax.barh(rows, old, height=0.7, facecolor="none", edgecolor=GREY, linewidth=1.2)
    ax.barh(rows, new, height=0.7, color=COLOURS[0])
    for row, wide, narrow in zip(rows, old, new, strict=True):
        ax.annotate(
            f"{wide} → {narrow}", (wide, row), (6, 0), textcoords="offset points", va="center"
        )
    ax.set_yticks(rows, names)
    ax.set(
        xlim=(0, 1.25 * max(old.max(initial=1), 1)), xlabel="width: before (outline), after (bar)"
    )
    ax.set_ylim(len(names) - 0.4, -0.6)
    return ax
