"""What stability selection returns."""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import numpy as np

from ..._checks import check_number
from ..._modules import Record
from ..._saving import savable_result, save
from ..._status import Status
from ..._tables import Shown, Summary, Table
from ._error_bounds import check_assumption, check_threshold, error_bound
from ._frames import stability_frame

_SHOWN = 12  # features


class StabilitySelection(Shown, Record):
    """How often each feature is selected on halves of the rows, and which are selected on most of them.

    With L strengths, n rows, B pairs of halves and p features (groups, for a penalty of groups: all of
    this is then by group): `lams` (L,), descending; `probabilities` (L, p), the fraction of the halves on
    which a feature is in and one of the first `q`; `threshold`; `candidates` (p,), which features there
    are to select from: not those without penalty (always in), excluded or constant; `halves` (2B, n), the
    rows of each, the two of a pair one after the other; `num_selected` (2B,), how many candidates were
    selected at any strength, at most `q`; `relative_gaps` and `statuses` (2B,), the largest of the fits of
    a half up to where it has `q`.

    **Example:**

    ```python
    >>> import numpy as np, l1jax
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((100, 200))
    >>> stable = l1jax.stability(X, X[:, 3] - X[:, 7] + rng.standard_normal(100), l1jax.L1())
    >>> print(stable.names_selected, stable.q, stable.max_false)
    ('x3', 'x7') 10 1.0
    >>> stable.at(0.95, assumption="r-concave").max_false < 0.05
    True

    ```
    """

    lams: np.ndarray
    probabilities: np.ndarray
    candidates: np.ndarray
    halves: np.ndarray
    num_selected: np.ndarray
    relative_gaps: np.ndarray
    statuses: np.ndarray
    threshold: float = eqx.field(static=True)
    q: int = eqx.field(static=True)
    assumption: str = eqx.field(static=True)
    names: tuple[str, ...] = eqx.field(static=True)
    of_groups: bool = eqx.field(static=True, default=False)

    @property
    def num_pairs(self) -> int:
        """How many pairs of halves the probabilities are of: all, unless Ctrl-C came first."""
        return int((self.statuses != Status.INTERRUPTED).sum()) // 2

    @property
    def max_probabilities(self) -> np.ndarray:
        """The largest probability of each feature over the strengths, (p,)."""
        return self.probabilities.max(axis=0)

    @property
    def selected(self) -> np.ndarray:
        """Which candidates have a largest probability at or above the threshold, (p,), boolean."""
        rounding = 1e-9  # of a count over a number of halves
        return self.candidates & (self.max_probabilities >= self.threshold - rounding)

    @property
    def names_selected(self) -> tuple[str, ...]:
        """Their names: those of the columns of X, or the ids of the groups."""
        return tuple(self.names[j] for j in np.flatnonzero(self.selected))

    @property
    def max_false(self) -> float:
        """The bound on the expected number of false selections, under `assumption`; see `l1jax.stability`."""
        num_candidates = int(self.candidates.sum())
        return error_bound(self.q, self.threshold, num_candidates, self.num_pairs, self.assumption)

    def at(self, threshold: Any = None, assumption: str | None = None) -> StabilitySelection:
        """The same at another threshold, or with the bound under another assumption; `q` stays.

        Raises: ValueError for a threshold outside of (0.5, 1], or an unknown assumption.
        """
        return dataclasses.replace(
            self,
            threshold=self.threshold if threshold is None else check_threshold(threshold),
            assumption=self.assumption if assumption is None else check_assumption(assumption),
        )

    def between(self, least: Any, most: Any) -> StabilitySelection:
        """The same over the strengths from `least` to `most` alone; the bound holds for these, too.

        Raises: ValueError where there is none.
        """
        least, most = (
            float(check_number(value, name, 0))
            for value, name in ((least, "least"), (most, "most"))
        )
        inside = (self.lams >= least) & (self.lams <= most)
        if not inside.any():
            raise ValueError(
                f"no strength lies between {least:.6g} and {most:.6g}: the grid goes from "
                f"{self.lams.min():.6g} to {self.lams.max():.6g}."
            )
        return dataclasses.replace(
            self, lams=self.lams[inside], probabilities=self.probabilities[inside]
        )

    def to_frame(self, kind: str = "features") -> Any:
        """As a pandas DataFrame.

        `kind` "features": a row per feature, by name, with its largest probability and whether it is
        selected, the most probable first. "probabilities": a row per strength, which is its index, "lam",
        and a column per feature.
        """
        if kind not in ("features", "probabilities"):
            raise ValueError(f'kind must be "features" or "probabilities", got {kind!r}.')
        return stability_frame(self, kind == "probabilities")

    def summary(self) -> Summary:
        """Every feature that was selected on some half, to print or to show in a notebook."""
        return Summary((self._table(len(self.names)),))

    def save(self, file: Any) -> None:
        """Writes the result to a file (a name such as "stable.npz", or an open file) for `l1jax.load`."""
        save(self, file)

    def by_probability(self) -> np.ndarray:
        """The numbers of the features, the most probable first, (p,)."""
        return np.argsort(-self.max_probabilities, kind="stable")

    def _table(self, most: int = _SHOWN) -> Table:
        largest, selected = self.max_probabilities, self.selected
        order = [j for j in self.by_probability() if largest[j] > 0][:most]
        rows = tuple(
            (self.names[j], f"{largest[j]:.3g}", "selected" if selected[j] else "") for j in order
        )
        what = "groups" if self.of_groups else "features"
        short = int((self.statuses != Status.CONVERGED).sum())
        title = (
            f"StabilitySelection: {int(selected.sum())} of {int(self.candidates.sum())} {what} at threshold "
            f"{self.threshold:g}, the first {self.q} on each half of {self.num_pairs} pairs\n"
            f"expected false selections: at most {self.max_false:.3g} (assumption: {self.assumption}); largest "
            f"relative gap {np.nanmax(self.relative_gaps):.1e}, "
            f"{f'{short} halves are short of it' if short else 'CONVERGED'}"
        )
        header = ("group" if self.of_groups else "feature", "probability", "")
        return Table(title, header, rows, left=(0, 2))


savable_result(StabilitySelection)
