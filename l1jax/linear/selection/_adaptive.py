"""The adaptive lasso: weights from a first fit."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..._checks import check_number
from ..results._fit import Fit


def adaptive_weights(first: Any, power: float = 1.0, scale: Any = None) -> np.ndarray:
    """Weights wⱼ = 1/|βⱼ|^power for a second fit, which shrinks less what the first one found large.

    Args: `first`, a `Fit` of one response or its coefficients β (p,); `power` > 0; `scale` (p,):
    with it wⱼ = 1/|scaleⱼ βⱼ|^power. A fit with `standardize=True` brings the deviations of its columns,
    for a second fit with `standardize=True`, unless a scale is passed (ones, for a second fit without).
    Returns (p,); infinite where β is 0: such a feature stays out. Where β is least squares, or of a
    ridge, the second fit selects consistently; where it is a lasso it can only drop features.
    Cross-validation of the second fit alone is optimistic: all rows enter its weights.

    Raises: ValueError for coefficients that are not (p,), or all zero.

    Source: Zou (2006).

    **Example:**

    ```python
    >>> import l1jax
    >>> from sklearn.datasets import load_diabetes
    >>> X, y = load_diabetes(return_X_y=True)
    >>> first = l1jax.fit(X, y, l1jax.Ridge(1e-3))
    >>> cv = l1jax.cross_validate(X, y, l1jax.L1(weights=l1jax.adaptive_weights(first)))
    >>> bool(cv.fit_1se.n_nonzero < 10)
    True

    ```
    """
    power = float(check_number(power, "power", 0))
    beta = np.asarray(first.coef if isinstance(first, Fit) else first, float)
    if scale is None and isinstance(first, Fit) and first.options is not None:
        scale = first.options.scale
    if beta.ndim != 1:
        raise ValueError(f"first must be a Fit of one response or (p,), got shape {beta.shape}.")
    if scale is not None:
        scale = np.asarray(scale, float)
        if scale.shape != beta.shape or not (scale >= 0).all():
            raise ValueError(f"scale must be >= 0, of shape {beta.shape}, got {scale.shape}.")
        beta = scale * beta
    if not np.isfinite(beta).all() or not beta.any():
        raise ValueError("first must hold coefficients that are finite and not all zero.")
    with np.errstate(divide="ignore"):
        return np.abs(beta) ** -power
