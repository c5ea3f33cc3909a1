"""The adaptive lasso: weights from a first fit, once or again and again."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..._checks import check_number
from ..._modules import with_fields
from ...penalties import Penalty
from ...penalties._base import weight_leaves
from .._fit import fit
from ..results._fit import Fit

_SETTLED = 1e-8  # fraction of the largest coefficient by which a round may still change them


def adaptive_weights(
    first: Any, power: float = 1.0, scale: Any = None, eps: float = 0.0
) -> np.ndarray:
    """Weights wⱼ = 1/(|βⱼ| + ε)^power for a second fit, which shrinks less what the first one found large.

    Args: `first`, a `Fit` of one response or its coefficients β (p,); `power` > 0; `scale` (p,):
    with it scaleⱼ βⱼ takes the place of βⱼ; `eps` ε ≥ 0. A fit with `standardize=True` brings the deviations of
    its columns, for a second fit with `standardize=True`, unless a scale is passed (ones, for one without).
    Returns (p,); infinite where β and ε are 0: such a feature stays out. Where β is least squares, or of a
    ridge, the second fit selects consistently; where it is a lasso it can only drop features.
    Cross-validation of the second fit alone is optimistic: all rows enter its weights.

    Raises: ValueError for coefficients that are not (p,), or all zero while ε is 0.

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
    power, eps = float(check_number(power, "power", 0)), float(check_number(eps, "eps", 0))
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
    if not np.isfinite(beta).all() or not (beta.any() or eps):
        raise ValueError("first must hold coefficients that are finite and not all zero.")
    with np.errstate(divide="ignore"):
        return (np.abs(beta) + eps) ** -power


class Reweighted(NamedTuple):
    """The last of some reweighted fits, the weights (p,) of its penalty, and how many rounds it took."""

    fit: Fit
    weights: np.ndarray
    num_rounds: int


def reweighted(
    X: Any,
    y: Any,
    pen: Penalty,
    first: Any = None,
    *,
    max_rounds: int = 20,
    power: float = 1.0,
    eps: float = 1e-3,
    **options: Any,
) -> Reweighted:
    """Fits with weights from the fit before, until the coefficients stay: an iterated adaptive lasso.

    Each round multiplies the weights of the penalty by 1/(|βⱼ| + ε)^power, of the coefficients of the one
    before (`adaptive_weights`). With power 1 and an `L1` this descends λ Σ wⱼ log(1 + |βⱼ|/ε), the objective of
    `l1jax.LogSum`, to a stationary point that depends on the first fit.

    **Arguments:**

    - `X`, `y`, `pen` and `options`: as for `fit`; `pen` has a weight per feature, such as `L1` or `ElasticNet`.
    - `first`: a `Fit`, or coefficients (p,), for the first weights; unless given a fit of `pen` as it is.
    - `max_rounds`: at most as many; one is the adaptive lasso.
    - `power` > 0; `eps` ε ≥ 0, in units of a coefficient: a tenth of what is to count as large. With 0 a
      feature that is out once stays out.

    Returns a `Reweighted`; the certificate of its fit is that of the last weighted problem.

    Raises: as `fit`; TypeError for a penalty without weights.

    Source: Zou (2006); Candès, Wakin and Boyd (2008).

    **Example:**

    ```python
    >>> import l1jax
    >>> from sklearn.datasets import load_diabetes
    >>> X, y = load_diabetes(return_X_y=True)
    >>> once = l1jax.fit(X, y, l1jax.L1(3.0), standardize=True)
    >>> found = l1jax.reweighted(X, y, l1jax.L1(30.0), once, standardize=True, eps=1.0)
    >>> int(once.n_nonzero), int(found.fit.n_nonzero)
    (7, 3)

    ```
    """
    if not hasattr(pen, "weights") or not hasattr(pen, "excluded"):
        raise TypeError(
            f"reweighted needs a penalty with a weight per feature, such as L1, got {type(pen).__name__}."
        )
    if not isinstance(max_rounds, int | np.integer) or max_rounds < 1:
        raise ValueError(f"max_rounds must be a whole number >= 1, got {max_rounds!r}.")
    given: Any = pen
    own = 1.0 if given.weights is None else np.asarray(given.weights)
    excluded = np.zeros((), bool) if given.excluded is None else np.asarray(given.excluded)
    found = fit(X, y, pen, **options) if first is None else first
    coef, weights, num_rounds = _coefficients(found), None, 0
    while num_rounds < max_rounds and (coef.any() or eps):
        with np.errstate(invalid="ignore"):  # 0·∞, of a feature that is unpenalised
            weights = np.where(excluded, np.inf, own) * adaptive_weights(found, power, eps=eps)
        weights = np.where((own == 0) & ~excluded, 0.0, weights)
        finite, is_infinite = weight_leaves(weights)
        found = fit(X, y, with_fields(pen, weights=finite, excluded=is_infinite), **options)
        before, coef, num_rounds = coef, _coefficients(found), num_rounds + 1
        if abs(coef - before).max() <= _SETTLED * abs(coef).max():
            break
    if weights is None:  # nothing was in
        raise ValueError("first must hold coefficients that are not all zero, or eps be above 0.")
    return Reweighted(found, weights, num_rounds)


def _coefficients(first: Any) -> np.ndarray:
    return np.asarray(first.coef if isinstance(first, Fit) else first, float)
