"""The bar that long calls show while they run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from tqdm import tqdm

_T = TypeVar("_T")


def progress_bar(
    total: int | None,
    progress: bool | None,
    name: str = "path",
    unit: str = "fit",
    scaled: bool = False,
) -> tqdm:
    """A bar over fits: shown if `progress` is True, hidden if False; None shows it in a terminal.

    `scaled` counts are shown as k, M, G.
    """
    from tqdm import tqdm  # 20 ms, where the package takes 300

    disable = None if progress is None else not progress
    return tqdm(total=total, desc=name, unit=unit, disable=disable, leave=False, unit_scale=scaled)


def with_bar(some: Sequence[_T], progress: bool | None, name: str, unit: str) -> Iterable[_T]:
    """The same one after the other, with a bar over them as of `progress_bar`."""
    with progress_bar(len(some), progress, name, unit) as bar:
        for one in some:
            yield one
            bar.update()


def advance(bar: tqdm, fits: int, lam: Any, features: Any, gap: Any = None) -> None:
    """Advances the bar. Fetches values from the device only if the bar is visible."""
    if not bar.disable:
        told = {"lam": f"{float(lam):.3g}", "features": int(features)}
        bar.set_postfix(told if gap is None else told | {"gap": f"{float(gap):.1e}"}, refresh=False)
    bar.update(fits)
