"""Quantiles at several levels, whose predictions are rearranged not to cross."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ...losses import Quantile
from ...penalties import Penalty
from .._fit import fit
from ..results._fit import Fit


class Quantiles(NamedTuple):
    """A fit for each of the levels (K,), which ascend."""

    levels: np.ndarray
    fits: tuple[Fit, ...]

    def predict(self, X: Any, offset: Any = None, *, noncrossing: bool = True) -> np.ndarray:
        """Predictions for new rows X (m, p), of each level: (m, K).

        Lines that were fitted one by one may cross where data are few. With `noncrossing` the K numbers of
        each row are sorted: that never takes them further, in any Lᵖ norm over the levels, from quantiles
        that ascend, such as the true ones (Chernozhukov, Fernández-Val and Galichon 2010).
        """
        found = np.stack([np.asarray(one.predict(X, offset)) for one in self.fits], axis=-1)
        return np.sort(found, axis=-1) if noncrossing else found


def quantiles(
    X: Any, y: Any, pen: Penalty, levels: Any = (0.1, 0.5, 0.9), **options: Any
) -> Quantiles:
    """Fits several quantiles of y, each a problem of its own, whose predictions are rearranged not to cross.

    For each level τ: minimise Σᵢ sᵢ ρ_τ(yᵢ − xᵢᵀβ − b − offsetᵢ) + R(β), ρ_τ the loss of `l1jax.Quantile`.
    Nothing couples the problems, so the linear predictors of `fits` may cross. `predict` rearranges the numbers
    of each row to ascend: what it returns for a level is then not everywhere a linear function of the row.

    **Arguments:**

    - `X` (n, p), `y` (n,), `pen` and `options`: as for `fit`, except `loss`.
    - `levels`: numbers that ascend, between 0 and 1.

    Returns `Quantiles`: `levels`, `fits` with a certificate each, and `predict(X)` (m, K), which ascends.

    Raises: as `fit`; ValueError for levels that do not ascend between 0 and 1; TypeError for a `loss`.

    Source: Koenker and Bassett (1978); Chernozhukov, Fernández-Val and Galichon (2010).

    **Example:**

    ```python
    >>> import l1jax
    >>> from sklearn.datasets import load_diabetes
    >>> X, y = load_diabetes(return_X_y=True)
    >>> found = l1jax.quantiles(X, y, l1jax.L1(0.01), levels=(0.1, 0.5, 0.9))
    >>> low, middle, high = found.predict(X).T
    >>> bool((low <= middle).all() and (middle <= high).all())
    True
    >>> print(f"{((low <= y) & (y <= high)).mean():.1f} of the rows are between")
    0.8 of the rows are between

    ```
    """
    if "loss" in options:
        raise TypeError("quantiles takes no loss: it is l1jax.Quantile at each of the levels.")
    known = np.asarray(levels, float)
    is_inside = known.ndim == 1 and known.size > 0 and ((known > 0) & (known < 1)).all()
    if not is_inside or not (np.diff(known) > 0).all():
        raise ValueError(f"levels must ascend between 0 and 1, got {levels!r}.")
    fits = (fit(X, y, pen, loss=Quantile(level), **options) for level in known.tolist())
    return Quantiles(known, tuple(fits))
