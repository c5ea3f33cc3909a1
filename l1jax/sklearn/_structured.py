"""Penalties of all coefficients together: by their order of size, or of their place."""

from __future__ import annotations

from numbers import Real
from typing import Any, ClassVar

import numpy as np
from sklearn.utils._param_validation import Interval

from ..penalties import SLOPE, Penalty
from ..penalties import FusedLasso as FusedLassoPenalty
from ._base import (
    NOT_NEGATIVE,
    RATIO,
    AtAlpha,
    Regressor,
    arguments,
    elastic_net,
    numbers,
)
from ._padding import Data


@arguments
class SparseSLOPE(AtAlpha, Regressor):
    """Least squares with the sorted L1 norm, ½n⁻¹‖y − Xw − b‖² + α Σₖ weightₖ|w|₍ₖ₎, |w|₍₁₎ ≥ |w|₍₂₎ ≥ ….

    The largest coefficients have the largest weights; coefficients of correlated features become equal in
    size. `weights` (p,), from the largest to the smallest; unless given the Benjamini–Hochberg weights
    Φ⁻¹(1 − qk/(2p)), which for orthogonal columns of unit variance and α = σ/√n control the false discovery
    rate at `q`. Others: `l1jax.SLOPE.oscar_weights`. `verbose` changes nothing; all else as for `Lasso`, for
    one target. Source: Bogdan et al. (2015).

    **Example:**

    ```python
    >>> from l1jax.sklearn import SparseSLOPE
    >>> X, y = [[-1.0, 1.0], [-1.0, -1.0], [1.0, 1.0], [1.0, -1.0]], [-1.0, -5.0, 5.0, 1.0]
    >>> SparseSLOPE(alpha=1.0, weights=[2.0, 1.0]).fit(X, y).coef_.round(2)
    array([1., 1.])

    ```
    """

    _parameter_constraints: ClassVar[dict] = {
        "q": [Interval(Real, 0, 1, closed="neither")],
        "weights": ["array-like", None],
    }

    weights: Any = None
    q: Any = 0.1

    def _penalty_at(self, data: Data, alpha: Any, l1_ratio: Any) -> Penalty:
        del l1_ratio
        weights = self._sorted_weights(data.p)
        if (weights == weights[0]).all():  # this is the lasso, which has faster engines
            return elastic_net(alpha * weights[0])
        # Columns that were added have coefficients of zero, the last in order.
        return SLOPE(float(alpha), np.pad(weights, (0, data.columns - data.p), mode="edge"))

    def _sorted_weights(self, p: int) -> np.ndarray:
        if self.weights is None:
            return SLOPE.bh_weights(p, self.q)
        weights = numbers(self.weights, "weights", NOT_NEGATIVE)
        if weights.shape != (p,):
            raise ValueError(
                f"weights must hold one number per column of X, shape ({p},), from the largest to the "
                f"smallest, got {self.weights!r}."
            )
        return weights


@arguments
class FusedLasso(AtAlpha, Regressor):
    """Least squares with the fused lasso, ½n⁻¹‖y − Xw − b‖² + α((1−ρ) Σⱼ|wⱼ₊₁ − wⱼ| + ρ‖w‖₁).

    Along the order of the columns coefficients have few levels, and few that are not zero. `l1_ratio` ρ in
    [0, 1]: 1 is the lasso, 0 total variation. `verbose` changes nothing; all else as for `Lasso`, for one
    target. Each number of columns takes a compilation of its own. Source: Tibshirani et al. (2005).

    **Example:**

    ```python
    >>> import numpy as np
    >>> from l1jax.sklearn import FusedLasso
    >>> model = FusedLasso(alpha=2.0, fit_intercept=False).fit(np.eye(4) * 2, [2, 1, 12, 16])
    >>> model.coef_.round(2)
    array([0.25, 0.25, 5.  , 6.  ])

    ```
    """

    _parameter_constraints: ClassVar[dict] = {"l1_ratio": [RATIO]}
    _pads_columns = False

    l1_ratio: Any = 0.5

    def _penalty_at(self, data: Data, alpha: Any, l1_ratio: Any) -> Penalty:
        del data
        if l1_ratio == 1:  # this is the lasso, which has faster engines
            return elastic_net(alpha)
        return FusedLassoPenalty(float(alpha), float(l1_ratio))
