"""`BatchPaths`: the paths of a batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..._modules import Record
from ..results._path import Path


class BatchPaths(Record):
    """Paths of many responses or weights on one X: `batch[i]` is the `Path` of lane i.

    Arrays over all fits are (k, L), a row for each path. Coefficients are kept by what is not zero, where that
    is little; `coefs_at` makes arrays of those of one strength.
    """

    paths: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> Path:
        return self.paths[i]

    def __iter__(self) -> Iterator[Path]:
        return iter(self.paths)

    def coefs_at(self, i: int) -> np.ndarray:
        """Coefficients at strength i of each grid, (k, p)."""
        return np.stack([np.asarray(path[i].coef) for path in self.paths])

    @property
    def lams(self) -> np.ndarray:
        """The grids λ, each descending."""
        return self._stacked("lam")

    @property
    def intercepts(self) -> np.ndarray:
        """Intercepts."""
        return self._stacked("intercept")

    @property
    def objectives(self) -> np.ndarray:
        """Loss plus penalty."""
        return self._stacked("objective")

    @property
    def relative_gaps(self) -> np.ndarray:
        """Bounds on how far each objective is above its minimum, in units of its null deviance."""
        return self._stacked("relative_gap")

    @property
    def relative_kkts(self) -> np.ndarray:
        """Violations of the optimality conditions, in units of the gradient of the null model."""
        return self._stacked("relative_kkt")

    @property
    def n_nonzero(self) -> np.ndarray:
        """How many features are in."""
        return self._stacked("n_nonzero")

    @property
    def deviance_explained(self) -> np.ndarray:
        """The fraction of the null deviance that each fit explains."""
        return self._stacked("deviance_explained")

    @property
    def status(self) -> np.ndarray:
        """A number of `l1jax.Status` for each fit."""
        return self._stacked("status")

    def _stacked(self, name: str) -> Any:
        return np.stack([np.asarray(getattr(path.fits, name)) for path in self.paths])
