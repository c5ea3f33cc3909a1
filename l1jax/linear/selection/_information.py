"""AIC, BIC and EBIC along a path."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import numpy as np
import scipy

from ..._checks import check_number
from ...penalties import Penalty, Ridge
from ..data._inputs import read
from ..data._precision import precision
from ..host._entry_point import entry_point
from ..results._fit import Fit
from ..results._fitted_with import options_for
from ..results._path import Path
from ._frames import criterion_frame
from ._scores import deviance

NO_PRICE: Penalty = Ridge(0.0)  # pyright: ignore[reportCallIssue]  # where one must be given
_RANK = 1e-9  # the least norm of a column outside of the span of the others, relative to its own


class InformationCriterion(eqx.Module):
    """A criterion at each strength of a path, and where it is least.

    `values` (L,): less is better, up to a constant that is the same for all models of the same data;
    `degrees_of_freedom` (L,), the intercept included.

    **Example:**

    ```python
    >>> import l1jax
    >>> from sklearn.datasets import load_diabetes
    >>> X, y = load_diabetes(return_X_y=True)
    >>> path = l1jax.path(X, y, l1jax.L1(), n_lams=30)
    >>> bool(l1jax.information_criterion(path, X, y, "bic").fit_min.n_nonzero < 10)
    True

    ```
    """

    path: Path
    values: np.ndarray
    degrees_of_freedom: np.ndarray
    kind: str = eqx.field(static=True)

    @property
    def index_min(self) -> int:
        """Where it is least; of several such strengths the largest."""
        return int(np.argmin(self.values))

    @property
    def lam_min(self) -> float:
        """The strength where it is least."""
        return float(np.asarray(self.path.lams)[self.index_min])

    @property
    def fit_min(self) -> Fit:
        """The fit where it is least."""
        return self.path[self.index_min]

    def to_frame(self) -> Any:
        """As a pandas DataFrame: lam, the criterion by its name, degrees_of_freedom, n_nonzero.

        A row per strength, whose number is its place in the grid: that of `path[i]` and `index_min`.
        """
        return criterion_frame(self)

    def __repr__(self) -> str:
        at = self.index_min
        return (
            f"InformationCriterion: {self.kind} {self.values[at]:.6g} at lam {self.lam_min:.5g}, "
            f"{int(self.fit_min.n_nonzero)} features, {self.degrees_of_freedom[at]:.4g} degrees of freedom"
        )


@entry_point
def information_criterion(
    path: Any,
    X: Any,
    y: Any,
    kind: str = "bic",
    *,
    gamma: Any = 1.0,
    variance: Any = None,
    degrees_of_freedom: Any = None,
    fit_intercept: bool | None = None,
    sample_weight: Any = None,
    offset: Any = None,
) -> InformationCriterion:
    """AIC, BIC or EBIC of every fit of a path.

        AIC = D + 2 df,   BIC = D + log(n) df,   EBIC = BIC + 2 gamma log(p choose the features in)

    with D = n log(RSS/n) for squared error, RSS/`variance` where that is given, and the deviance for
    other losses. df is that of the lasso: the rank of the columns in, and the intercept. It is right
    for L1 and its weights; for others pass `degrees_of_freedom` (L,). Where features outnumber rows
    RSS goes to 0 along a path and D to −∞: give `variance`, or a path that ends before.

    `X` and `y`: those of the path, whose `fit_intercept`, `sample_weight` and `offset` are taken
    unless they are passed. Weights are taken to sum to the number n of rows that have any.

    Raises: ValueError or TypeError that names the argument; also for a loss that is no
    likelihood (`Loss.is_likelihood`): `Huber`, `SquaredHinge`.

    Source: Zou, Hastie, Tibshirani (2007); Tibshirani and Taylor (2012); Chen and Chen (2008).

    **Example:** see `InformationCriterion`.
    """
    if not isinstance(path, Path):
        raise TypeError(f"path must be an l1jax Path, got {type(path).__name__}.")
    if kind not in ("aic", "bic", "ebic"):
        raise ValueError(f'kind must be "aic", "bic" or "ebic", got {kind!r}.')
    gamma = float(check_number(gamma, "gamma", 0))
    loss = path.fits.loss
    if not loss.is_likelihood:
        raise ValueError(f"{loss} is no likelihood: there is no information criterion for it.")
    if variance is not None and not loss.is_quadratic:
        raise ValueError("variance is for SquaredError.")
    passed = {"fit_intercept": fit_intercept, "sample_weight": sample_weight, "offset": offset}
    options = options_for(path.fits, "path", X, **passed)
    eta = np.asarray(path.predict(X, offset=options.offset, kind="link"))
    inputs = read(X, y, NO_PRICE, loss, options.sample_weight, options.offset)
    weights = np.asarray(inputs.weights, float)
    n, p = int((weights > 0).sum()), inputs.x.shape[1]
    with precision(inputs.wants_x64):
        s = (weights / weights.sum()).astype(eta.dtype)
        misfit = n * deviance(inputs.loss, np.asarray(inputs.y), eta, s).astype(float)
    if variance is not None:
        misfit = misfit / float(check_number(variance, "variance", 0))
    elif loss.is_quadratic:
        misfit = n * np.log(misfit / n)
    if degrees_of_freedom is None:
        df = _ranks(inputs.x, np.asarray(path.fits.support), weights > 0, options.fit_intercept)
    else:
        df = np.asarray(degrees_of_freedom, float)
        if df.shape != misfit.shape:
            raise ValueError(f"degrees_of_freedom must be of shape {misfit.shape}, got {df.shape}.")
    values = misfit + (2.0 if kind == "aic" else np.log(n)) * df
    if kind == "ebic":
        k = np.asarray(path.n_nonzero)
        log = scipy.special.gammaln
        values = values + 2 * gamma * (log(p + 1) - log(k + 1) - log(p - k + 1))
    return InformationCriterion(path, values, df, kind)


def _ranks(x: Any, supports: np.ndarray, counts: np.ndarray, intercept: bool) -> np.ndarray:
    """The rank of the columns of each support, and of the intercept."""
    used = np.flatnonzero(supports.any(axis=0))
    columns = x.to_host().part_of(used).dense()[counts]
    if intercept:
        columns = columns - columns.mean(axis=0)
    size = np.linalg.norm(columns, axis=0)
    columns = columns / np.where(size > 0, size, 1)
    supports = supports[:, used]
    found: dict[bytes, int] = {}
    everything = np.linalg.matrix_rank(columns, tol=_RANK) if len(used) else 0
    for support in supports:
        size = int(support.sum())
        # Of independent columns each part is.
        if everything == len(used):
            found[support.tobytes()] = size
        elif support.tobytes() not in found:
            rank = np.linalg.matrix_rank(columns[:, support], tol=_RANK) if size else 0
            found[support.tobytes()] = int(rank)
    return np.array([found[support.tobytes()] for support in supports], float) + intercept
