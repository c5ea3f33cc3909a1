"""The bar that a path shows while it runs."""

from __future__ import annotations

from typing import Any

from tqdm import tqdm


def progress_bar(total: int, progress: bool | None) -> tqdm:
    """A bar over fits: shown if `progress` is True, hidden if False; None shows it in a terminal."""
    disable = None if progress is None else not progress
    return tqdm(total=total, desc="path", unit="fit", disable=disable, leave=False)


def advance(bar: tqdm, fits: int, lam: Any, features: Any, gap: Any = None) -> None:
    """Advances the bar. Fetches values from the device only if the bar is visible."""
    if not bar.disable:
        told = {"lam": f"{float(lam):.3g}", "features": int(features)}
        bar.set_postfix(told if gap is None else told | {"gap": f"{float(gap):.1e}"}, refresh=False)
    bar.update(fits)
