"""Paths without an intercept, as scikit-learn's functions `lasso_path` and `enet_path` return them."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.utils import check_array, check_consistent_length
from sklearn.utils._param_validation import Interval, StrOptions, validate_params

from .. import linear
from ..penalties import GroupElasticNet, GroupL1, Penalty
from ._base import COORDINATE_DESCENT, NOT_NEGATIVE, RATIO, LinearModel, elastic_net, numbers
from ._padding import Data, padded

_NOTHING = np.finfo(np.float64).resolution  # the grid where every strength gives the null model
COUNT = 100  # strengths of a grid unless given


# How a grid of strengths may be given.
GRID: dict[str, list] = {
    "eps": [Interval(Real, 0, 1, closed="right")],
    "alphas": [Interval(Integral, 1, None, closed="left"), "array-like", None],
    "n_alphas": [Interval(Integral, 1, None, closed="left"), StrOptions({"deprecated"}), None],
}


@validate_params(
    {
        **GRID,
        **COORDINATE_DESCENT,
        "l1_ratio": [RATIO],
        "max_iter": LinearModel._parameter_constraints["max_iter"],
        "positive": ["boolean"],
        "return_n_iter": ["boolean"],
        "tol": [NOT_NEGATIVE],
    },
    prefer_skip_nested_validation=True,
)
def enet_path(
    X: Any,
    y: Any,
    *,
    l1_ratio: Any = 0.5,
    eps: Any = 1e-3,
    n_alphas: Any = "deprecated",
    alphas: Any = COUNT,
    precompute: Any = "auto",
    Xy: Any = None,
    copy_X: bool = True,
    coef_init: Any = None,
    verbose: Any = False,
    return_n_iter: bool = False,
    positive: bool = False,
    check_input: bool = True,
    tol: Any = 1e-6,
    max_iter: Any = 20_000,
    random_state: Any = None,
    selection: str = "cyclic",
) -> tuple[np.ndarray, ...]:
    """The elastic net at every strength of a grid, without an intercept; each fit is certified.

    X (n, p), dense or sparse; y (n,), or (n, k) for the multi-task elastic net. `alphas`: how many
    strengths, log-spaced down to `eps` times the least at which all is zero, or the strengths.
    `n_alphas` is scikit-learn's older name for how many.
    `positive`: coefficients ≥ 0, for one target. `tol` and `max_iter` as for `ElasticNet`.
    `precompute`, `Xy`, `copy_X`, `coef_init`, `verbose`, `check_input`, `random_state` and
    `selection` say how scikit-learn computes: they change nothing.

    Returns (alphas (L,), descending; coefs (p, L) or (k, p, L); dual gaps (L,)), and the numbers of
    steps where `return_n_iter`. Raises: ValueError that names what is wrong.

    **Example:**

    ```python
    >>> from l1jax.sklearn import enet_path
    >>> alphas, coefs, gaps = enet_path([[0.0], [1.0], [2.0]], [0.0, 1.0, 2.0], alphas=[1.0, 0.1])
    >>> coefs.round(3), bool(gaps.max() < 1e-12)
    (array([[0.538, 0.942]]), True)

    ```
    """
    alphas = number_or_strengths(alphas, n_alphas)
    del precompute, Xy, copy_X, coef_init, verbose, check_input, random_state, selection
    read: Any = check_array  # whose defaults are not its types
    X = read(X, accept_sparse="csr", dtype=np.float64)
    y = read(y, ensure_2d=False, dtype=np.float64)
    check_consistent_length(X, y)
    if positive and y.ndim == 2:
        raise ValueError("positive=True is not allowed for several targets, y (n, k).")
    data = padded(X, y, np.ones(len(y)))
    pen = elastic_net(1.0, l1_ratio, positive) if y.ndim == 1 else task_penalty(data, 1.0, l1_ratio)
    settings = {"fit_intercept": False, "sample_weight": data.weights}
    grid = strengths(data, pen, alphas, eps, settings)
    found = linear.path(
        data.X, data.y, pen, lams=grid, progress=False, tol=tol, max_steps=max_iter, **settings
    )
    coefs = np.moveaxis(np.asarray(found.coefs)[:, : data.p], 0, -1)
    coefs = np.ascontiguousarray(coefs if y.ndim == 1 else coefs.swapaxes(0, 1))
    answer = grid, coefs, np.array(found.gaps)
    return (*answer, np.maximum(np.array(found.num_steps), 1)) if return_n_iter else answer


def lasso_path(X: Any, y: Any, **arguments: Any) -> tuple[np.ndarray, ...]:
    """The lasso at every strength of a grid, without an intercept: `enet_path` with `l1_ratio` 1.

    **Example:**

    ```python
    >>> from l1jax.sklearn import lasso_path
    >>> alphas, coefs, gaps = lasso_path([[0.0], [1.0], [2.0]], [0.0, 1.0, 2.0], alphas=[1.0, 0.1])
    >>> coefs.round(3)
    array([[0.4 , 0.94]])

    ```
    """
    return enet_path(X, y, l1_ratio=1.0, **arguments)


def task_penalty(data: Data, alpha: Any, l1_ratio: Any = 1.0) -> Penalty:
    """α(ρ Σⱼ‖Wⱼ‖₂ + ½(1−ρ)‖W‖²): of one target it is that of the elastic net, which has faster engines."""
    if data.y.ndim == 1:
        return elastic_net(alpha, l1_ratio)
    each, ones = np.arange(data.columns), np.ones(data.columns)
    kind: Any = GroupL1
    if l1_ratio == 1:
        return kind(float(alpha), each, ones)
    kind = GroupElasticNet
    return kind(float(alpha), each, float(l1_ratio), ones)


def number_or_strengths(alphas: Any, n_alphas: Any) -> Any:
    """How many strengths, or which: `n_alphas` is scikit-learn's older name for how many."""
    is_given = not (n_alphas is None or isinstance(n_alphas, str))
    return n_alphas if is_given and (alphas is None or alphas is COUNT) else alphas


def strengths(data: Data, pen: Penalty, alphas: Any, eps: Any, settings: Any) -> np.ndarray:
    """The grid, descending: the given one, or of so many strengths."""
    alphas = COUNT if alphas is None else alphas
    if not isinstance(alphas, Integral):
        return -np.sort(-numbers(alphas, "alphas", NOT_NEGATIVE))
    biggest = float(linear.lambda_max(data.X, data.y, pen, **settings))
    if not np.isfinite(biggest):
        raise ValueError(
            "alphas must be given for l1_ratio=0: such a penalty has no strength at which all "
            "coefficients are zero, so no grid follows from the data."
        )
    if biggest <= _NOTHING:
        return np.full(int(alphas), _NOTHING)
    return np.geomspace(biggest, biggest * eps, int(alphas))
