"""The convex region of a path of a penalty that is not convex: where no other minimum is nearby."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ...penalties import Penalty
from ..data._inputs import read
from ..data._precision import precision
from ..engines.active_set._host_loss import HostLoss
from ..host._columns import Columns
from ..host._entry_point import entry_point
from ..host._sparse_rows import used
from ..model._prepare import prepare_inputs
from ..model._problem import Problem
from ..results._fitted_with import options_for
from ..results._path import Path
from ..results._records import check_of_these_data


class ConvexRegion(NamedTuple):
    """Where the objective of a path is convex on its active features.

    **Attributes:**

    - `lam_min`: the least λ down to which it is, without a break; inf if it is not even at the first.
    - `is_convex` (L,): whether it is, at each λ.
    - `eigenvalues` (L,): the least curvature of the loss on the active features, less the most that the penalty
      takes from it; inf where no feature is in.
    """

    lam_min: float
    is_convex: np.ndarray
    eigenvalues: np.ndarray


@entry_point
def convex_region(
    path: Any,
    X: Any,
    y: Any,
    pen: Penalty,
    *,
    fit_intercept: bool | None = None,
    sample_weight: Any = None,
    offset: Any = None,
) -> ConvexRegion:
    """Says down to which λ the objective of a path is convex on its active features.

    There the fit is the only minimum among models of these features, and moves continuously with λ. At each λ
    that is so where the least eigenvalue of X̃_AᵀHX̃_A is above the concavity 1/max_step of the penalty, which
    is 1/γ for `MCP` and 1/(γ − 1) for `SCAD`; A are the features that are in at this λ or the next, H is the
    curvature of the loss per row, and the intercept is at its best.

    `X` and `y`: those of the path, whose other options are taken unless they are passed; `pen`: its penalty,
    with or without its strength.

    Raises: ValueError for a penalty without a bound on its concavity, TypeError for what is no path.

    Source: Breheny and Huang (2011); ncvreg's `convex.min`.

    **Example:**

    ```python
    >>> import l1jax
    >>> from sklearn.datasets import load_diabetes
    >>> X, y = load_diabetes(return_X_y=True)
    >>> path = l1jax.path(X, y, l1jax.MCP(), n_lams=20, standardize=True)
    >>> region = l1jax.convex_region(path, X, y, l1jax.MCP())
    >>> bool(region.lam_min < path.lams[3]), bool(region.is_convex.all())
    (True, False)

    ```
    """
    if not isinstance(path, Path):
        raise TypeError(f"path must be an l1jax Path, got {type(path).__name__}.")
    passed = {"fit_intercept": fit_intercept, "sample_weight": sample_weight, "offset": offset}
    options = options_for(path.fits, "path", X, **passed)
    weights, offset = options.sample_weight, options.offset
    inputs = read(X, y, pen, path.fits.loss, weights, offset, has_strength=False)
    with precision(inputs.wants_x64):
        chosen = (options.fit_intercept, options.standardize)
        problem = prepare_inputs(inputs, inputs.pen, inputs.loss, *chosen)
        check_of_these_data(path, problem.coef_shape)
        found = _least_eigenvalues(problem, path, inputs.pen)
    lams, is_convex = np.asarray(path.lams), found > 0
    count = len(lams) if is_convex.all() else int(np.argmin(is_convex))
    return ConvexRegion(float(lams[count - 1]) if count else np.inf, is_convex, found)


def _least_eigenvalues(problem: Problem, path: Path, pen: Penalty) -> np.ndarray:
    """The least eigenvalue of the Hessian of the loss, less the concavity of the penalty, at each λ."""
    if problem.responses:
        raise ValueError("convex_region needs a path of one response.")
    columns, loss = Columns(problem), HostLoss(problem)
    at, coefs = used(path.fits.stored_coef)
    intercepts = np.asarray(path.intercepts)
    inside = coefs != 0
    inside[:-1] |= inside[1:]
    found = np.full(len(coefs), np.inf)
    for i, lam in enumerate(np.asarray(path.lams)):
        features = at[inside[i]]
        if not len(features):
            continue
        coef = np.zeros(problem.coef_shape, coefs.dtype)
        coef[at] = coefs[i]
        point = problem.from_user(coef, intercepts[i])
        part = columns.matrix.part(columns.require(features))
        eta = part.dot(np.asarray(point.beta)[features]) + float(point.intercept) + loss.offset
        curvature, _ = loss.curvatures(eta)
        hessian = np.array(part.gram(curvature))
        if problem.fit_intercept:
            mean = part.rdot(curvature)
            hessian -= np.outer(mean, mean) / curvature.sum()
        found[i] = np.linalg.eigvalsh(hessian)[0] - _concavity(pen, lam)
    return found


def _concavity(pen: Penalty, lam: Any) -> float:
    """The most curvature that the penalty takes away: R + ½ concavity ‖x‖² is convex."""
    pen = pen.with_strength(lam)
    if pen.convex:
        return 0.0
    most = float(np.asarray(pen.max_step))
    if np.isinf(most):
        raise ValueError(
            f"{type(pen).__name__} has no bound on its concavity (max_step is infinite): convex_region is for "
            "penalties such as MCP, SCAD and LogSum."
        )
    return 1 / most
