"""Checks of values: finite, of a size whose squares can be held, weights that count something."""

from __future__ import annotations

from typing import Any

import numpy as np


def check_finite(
    array: np.ndarray, name: str, columns: tuple[str, ...] | None = None, fill: str = ""
) -> None:
    if np.isfinite(array).all():
        return
    bad = ~np.isfinite(array)
    at = tuple(int(i) for i in np.argwhere(bad)[0])
    raise not_finite(name, array[at], at, int(bad.sum()), bad if columns else None, columns, fill)


def not_finite(
    name: str,
    value: Any,
    at: tuple[int, ...],
    count: int,
    bad: np.ndarray | None = None,
    columns: tuple[str, ...] | None = None,
    fill: str = "",
) -> ValueError:
    """The error of `count` entries that are not finite, the first of them at `at`; `bad` says which."""
    place = f"row {at[0]}" if at else ""
    if len(at) == 2:
        place += f", column {columns[at[1]]!r}" if columns else f", column {at[1]}"
    how_many = f"{count} such {'entry' if count == 1 else 'entries'}"
    advice = "Drop those rows or fill them in first"
    if columns and bad is not None:
        some = [f"{columns[j]!r}" for j in np.flatnonzero(bad.any(axis=0))]
        listed = ", ".join(some[:5]) + (", ..." if len(some) > 5 else "")
        how_many += f" in {'column' if len(some) == 1 else f'{len(some)} columns:'} {listed}"
        advice += f", for example with {fill}"
    return ValueError(f"{name} must be finite, got {value} at {place} ({how_many}). {advice}.")


def check_scale(array: np.ndarray, name: str) -> None:
    """Raises where the squares that a fit needs would overflow, or all vanish."""
    peak = max(array.max(initial=0), -array.min(initial=0))
    limit = 1e150 if array.dtype == np.float64 else 1e18
    if peak > limit or 0 < peak < 1 / limit:
        raise ValueError(
            f"{name} must have entries whose squares {array.dtype} can hold: its largest is "
            f"{peak:.3g}. Measure it in other units."
        )


def check_weights(weights: np.ndarray) -> None:
    check_finite(weights, "sample_weight")
    if (weights < 0).any():
        at = int(np.flatnonzero(weights < 0)[0])
        raise ValueError(f"sample_weight must be >= 0, got {weights[at]} at row {at}.")
    with np.errstate(over="ignore"):
        if not np.isfinite(weights.sum()):
            raise ValueError(
                "sample_weight must have a finite sum: divide it by its largest entry."
            )
    if not weights.any():
        raise ValueError("sample_weight sums to zero: at least one row must count.")


def is_harmless(array: np.ndarray) -> bool:
    """Whether one sum of squares, which is fast, says that entries are finite and of a usual size."""
    if not (array.flags.c_contiguous or array.flags.f_contiguous):
        return False
    entries = array.ravel(order="K")
    with np.errstate(over="ignore", invalid="ignore"):
        size = float(np.dot(entries, entries))
    return bool(1e-30 < size < 1e30)
