"""Bounds on the expected number of false selections of stability selection.

q of p features are selected on a half of the rows, and those that are selected on a fraction π of the
halves are stable. With V the number of stable ones whose chance on a half is at most q/p,

    E[V] ≤ q² / ((2π − 1) p)                                    (Meinshausen and Bühlmann, 2010)
    E[V] ≤ p min(D(q²/p², 2π − 1, B, −1/2), D(q/p, π, 2B, −1/4))    (Shah and Samworth, 2013, eq. 8)

for B complementary pairs of halves. D(η, t, B, r) is the largest P(X ≥ t) of r-concave X in {0, 1/B, ..., 1}
with E[X] ≤ η.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..._checks import check_number

_ASSUMPTIONS = ("none", "r-concave")
_THRESHOLD, _MAX_FALSE = 0.75, 1.0  # unless two of three are given
_LOGARITHMS = (-40.0, 25.0)  # between which log a lies
_BISECTIONS = 45
_POINTS, _REFINEMENTS = 9, 4  # of the search for a maximum
_AT_ONCE = 64  # of the intervals that are searched


def check_assumption(assumption: Any) -> str:
    if assumption not in _ASSUMPTIONS:
        raise ValueError(f"assumption must be one of {list(_ASSUMPTIONS)}, got {assumption!r}.")
    return assumption


def check_threshold(threshold: Any) -> float:
    threshold = float(check_number(threshold, "threshold", 0))
    if not 0.5 < threshold <= 1:
        raise ValueError(f"threshold must lie in (0.5, 1], got {threshold:g}.")
    return threshold


def error_bound(
    q: int, threshold: float, num_units: int, num_pairs: int, assumption: str = "none"
) -> float:
    """Returns the bound on the expected number of false selections; see the module."""
    if assumption == "none":
        return q**2 / ((2 * threshold - 1) * num_units)
    # The least number of 2B halves; what rounding has left of a multiple is none.
    least = math.ceil(round(2 * num_pairs * threshold, 9))
    rate = q / num_units
    on_both = largest_tail(rate**2 * num_pairs, least - num_pairs, num_pairs, -1 / 2)
    on_each = largest_tail(rate * 2 * num_pairs, least, 2 * num_pairs, -1 / 4)
    return num_units * min(on_both, on_each)


def largest_tail(mean: float, least: int, most: int, r: float) -> float:
    """Returns the largest P(X ≥ least) of r-concave X in {0, ..., most} with this mean; r is −1/2 or −1/4.

    It is attained where P(X = i) ∝ (a + i)^(1/r) for i ≤ k and 0 beyond k + 1, at which it is at most that:
    a lies between the numbers with which that law, on {0, ..., k + 1} and on {0, ..., k}, has this mean. 1
    where `least` is at most twice the mean: there uniform laws matter.
    """
    first = math.ceil(2 * mean)
    if least <= first:
        return 1.0
    # 1. The number a for each end of the support, from the first on which uniform X has this mean.
    i, ends = np.arange(most + 1), np.arange(first, most + 1)
    low, high = (np.full(len(ends), value) for value in _LOGARITHMS)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        mass = _law(middle, i, r) * (i <= ends[:, None])
        is_more = mass @ i > mean * mass.sum(axis=1)
        low, high = np.where(is_more, low, middle), np.where(is_more, middle, high)
    # 2. The largest tail between each of them and the next.
    return max(
        _largest_between(high[k + 1 :][:_AT_ONCE], high[k:-1][:_AT_ONCE], first + k, mean, least, r)
        for k in range(0, most - first, _AT_ONCE)
    )


def _largest_between(
    low: np.ndarray, high: np.ndarray, first: int, mean: float, least: int, r: float
) -> float:
    """Returns the largest tail of laws that end at first + 1, first + 2, ..., log a within these intervals."""
    ends = first + np.arange(len(low))[:, None]
    i = np.arange(int(ends[-1, 0]) + 2)
    room = np.maximum(ends + 1 - i, 0)
    best = 0.0
    for _ in range(_REFINEMENTS):
        points = np.linspace(low, high, _POINTS)
        mass = _law(points.ravel(), i, r).reshape(*points.shape, -1)
        scale = (ends[:, 0] + 1 - mean) / (mass * room).sum(axis=-1)
        below = np.where(i < least, mass, 0).sum(axis=-1)
        tails = np.where(ends[:, 0] + 1 < least, 0, 1 - scale * below)
        best = max(best, float(tails.max()))
        step, around = (high - low) / (_POINTS - 1), points[tails.argmax(axis=0), range(len(low))]
        low, high = np.maximum(low, around - step), np.minimum(high, around + step)
    return min(best, 1.0)


def _law(log_a: np.ndarray, i: np.ndarray, r: float) -> np.ndarray:
    """Returns (1 + i/a)^(1/r): a row for each a."""
    squares = 1 / np.square(1 + i * np.exp(-log_a)[:, None])
    return squares if r == -1 / 2 else squares**2


def complete(
    threshold: Any, q: Any, max_false: Any, num_units: int, num_pairs: int, assumption: str
) -> tuple[float, int]:
    """Returns the threshold π and q: as given, or such that the bound is at most `max_false`.

    Where fewer than two of three are given, the threshold is 0.75, and then the bound 1.
    """
    if threshold is not None and q is not None and max_false is not None:
        raise ValueError(
            "threshold, q and max_false: two of the three determine the third, got all of them."
        )
    threshold, q, max_false = _checked(threshold, q, max_false, num_units)
    if q is not None and max_false is not None:
        return _threshold_for(q, max_false, num_units, num_pairs, assumption), q
    threshold = _THRESHOLD if threshold is None else threshold
    if q is None:
        wanted = _MAX_FALSE if max_false is None else max_false
        q = _most_selected(threshold, wanted, num_units, num_pairs, assumption)
    return threshold, q


def _checked(
    threshold: Any, q: Any, max_false: Any, num_units: int
) -> tuple[float | None, int | None, float | None]:
    if threshold is not None:
        threshold = check_threshold(threshold)
    if q is not None:
        q = int(check_number(q, "q", 1, whole=True))
        if q > num_units:
            raise ValueError(
                f"q must be at most the number of features or groups to select from, {num_units}, got {q}."
            )
    if max_false is not None:
        max_false = float(check_number(max_false, "max_false", 0))
        if not 0 < max_false < math.inf:
            raise ValueError(f"max_false must be above 0 and finite, got {max_false}.")
    return threshold, q, max_false


def _most_selected(
    threshold: float, max_false: float, num_units: int, num_pairs: int, assumption: str
) -> int:
    """Returns the largest q of which the bound is at most `max_false`; it rises with q."""
    low, high = 0, num_units
    while low < high:
        q = (low + high + 1) // 2
        if error_bound(q, threshold, num_units, num_pairs, assumption) <= max_false:
            low = q
        else:
            high = q - 1
    if not low:
        least = error_bound(1, threshold, num_units, num_pairs, assumption)
        raise ValueError(
            f"max_false must be at least {least:.3g}, the bound where one of {num_units} is selected on each "
            f"half, at threshold={threshold:g}; got {max_false:g}."
        )
    return low


def _threshold_for(
    q: int, max_false: float, num_units: int, num_pairs: int, assumption: str
) -> float:
    """Returns the least frequency above a half of which the bound is at most `max_false`."""
    low, high = num_pairs + 1, 2 * num_pairs

    def bound(count: int) -> float:
        return error_bound(q, count / (2 * num_pairs), num_units, num_pairs, assumption)

    if bound(high) > max_false:
        raise ValueError(
            f"max_false must be at least {bound(high):.3g}, the bound at threshold=1 where q={q} of "
            f"{num_units} are selected on each half, got {max_false:g}: lower q."
        )
    while low < high:
        middle = (low + high) // 2
        if bound(middle) <= max_false:
            high = middle
        else:
            low = middle + 1
    return low / (2 * num_pairs)
