"""`Fit`: one penalised linear model, its certificate, and what it predicts."""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from ..._arrays import is_in_numpy
from ..._compile import program
from ..._saving import savable_result, save
from ..._tables import Shown, Summary, Table
from ..._tracing import is_traced
from ..._types import AnyArray
from ..data._arrays import read_vector
from ..data._matrix import DataMatrix
from ..data._precision import give_back, precision, x64_is_on
from ..data._read_matrix import read_matrix
from ..data._zero_copy import zero_copy
from ..host._entry_point import entry_point
from ..host._sparse_rows import SparseRows, used
from ..model._on_host import host_errors, host_prediction
from ._frames import fit_frame
from ._records import FitRecord
from ._tables import fit_summary, fit_table, num_features


class Fit(Shown, FitRecord):
    """One penalised linear model: coefficients on the scale of the data, and their certificate.

    `coef` (p,) or (p, k), `intercept` () or (k,); `thresholds` (K−1,) of `Ordinal`, else None.
    `gap` bounds how far `objective` is above its
    minimum; `relative_gap` is in units of the null deviance. `kkt` is the largest violation of the
    optimality conditions, `relative_kkt` in units of the gradient of the null model. `margin` is
    the least change of the strength, up or down, at which a feature leaves or enters if its coefficient
    moves by itself (exact for orthogonal columns): near 0 the fit is at a knot, where its derivative
    has two sides. `status` is a number of `l1jax.Status`. `options` says what it was
    fitted with: `options.fit_intercept`, `standardize`, `sample_weight`, `offset` and `pen`. A
    batch of fits (from `jax.vmap`) has a leading axis everywhere.

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> X, y = jnp.array([[-1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]), jnp.array([-3.0, 0.1, 3.0])
    >>> fit = l1jax.fit(X, y, l1jax.L1(0.2))
    >>> print(fit.support, fit.n_nonzero, bool(fit.gap < 1e-6))
    [ True False] 1 True

    ```
    """

    @entry_point
    def predict(self, X: Any, offset: Any = None, kind: str = "response") -> AnyArray:
        """Predictions for new rows: `kind` is "response" (the mean), "link" (η) or "class".

        X (m, p) of any kind that `fit` takes, with the same columns; `offset` (m,). A batch of
        fits gives (lanes, m). Raises: ValueError for another number or other names of columns.
        """
        if kind not in ("response", "link", "class"):
            raise ValueError(f'kind must be "response", "link" or "class", got {kind!r}.')
        p = num_features(self)
        x, names = read_matrix(X)
        _check_columns(x.shape, names, p, self.feature_names)
        wants_x64 = isinstance(self.intercept, np.ndarray | np.generic)
        wants_x64 &= self.intercept.dtype == np.float64
        wants_x64 &= not x64_is_on() and x.dtype == np.float64
        with precision(wants_x64):
            eta = self._link(x)
            if offset is not None:
                shift = read_vector(offset, "offset", eta.dtype)
                rows = eta.shape[np.ndim(self.status) :]
                if shift.shape not in {(), rows[:1], rows}:
                    raise ValueError(
                        f"offset must have one entry per row of X, shape {rows}, got {shift.shape}."
                    )
                eta = eta + (shift[:, None] if 0 < shift.ndim < len(rows) else shift)
            loss = self.loss
            if self.thresholds is not None:
                loss = loss.at_thresholds(self.thresholds)
            if not is_in_numpy(loss):
                eta = jnp.asarray(eta)
            with host_errors():
                if kind == "response":
                    eta = loss.inverse_link(eta)
                elif kind == "class":
                    eta = loss.classes(eta)
            return give_back(zero_copy(eta), wants_x64)

    def _link(self, x: DataMatrix) -> AnyArray:
        """η without offset."""
        if isinstance(self.stored_coef, SparseRows) and not is_traced((x, self.stored_coef)):
            at, coefs = used(self.stored_coef)
            columns = np.moveaxis(coefs, 1, 0)
            eta = x.to_host().part_of(at).dot(columns.reshape(len(at), -1))
            eta = np.moveaxis(eta.reshape(-1, *columns.shape[1:]), 0, 1)
            intercept = np.asarray(self.intercept)[:, None]
            return (eta + intercept).astype(coefs.dtype, copy=False)
        here = host_prediction(x, self.coef, self.intercept)
        known: Any = here or (x, self.coef, self.intercept)
        link: Any = _compiled_link if here is None else _link
        return link(*known, self.several_responses)

    def to_frame(self, intercept: bool = False) -> Any:
        """The coefficients as a pandas DataFrame: a row per feature, by name; the column "coef".

        On the scale of the data, zeros included; with `intercept` it comes first, as "(intercept)".
        For k responses the columns are 0 … k−1. Raises: ValueError for a batch of fits.
        """
        return fit_frame(self, intercept)

    def summary(self) -> Summary:
        """The fit and its certificate, and every coefficient that is in, to print or to show in a notebook."""
        return fit_summary(self)

    def save(self, file: Any) -> None:
        """Writes the fit to a file (a name such as "fit.npz", or an open file) for `l1jax.load`."""
        save(self, file)

    def _table(self) -> Table:
        return fit_table(self)


savable_result(Fit)


def in_jax(fits: Fit) -> Fit:
    """The fits with JAX's arrays; without a copy, and the loss and options as they are."""
    bare = dataclasses.replace(fits, loss=None, options=None)
    known, rest = eqx.partition(bare, lambda leaf: isinstance(leaf, np.ndarray))
    bare = eqx.combine(zero_copy(known), rest)  # all at once: each by itself takes 10 µs
    return dataclasses.replace(bare, loss=fits.loss, options=fits.options)


def _check_columns(shape: Any, names: Any, p: int, known: tuple[str, ...] | None) -> None:
    """Raises where new rows have other columns than those of the fit."""
    if names and known and names != known:
        missing = [name for name in known if name not in names]
        if missing or len(names) != p:
            extra = [name for name in names if name not in known]
            what = f"lacks {missing[0]!r}" if missing else f"has {(extra or names)[0]!r} besides"
        else:
            at = next(i for i in range(p) if names[i] != known[i])
            what = f"has {names[at]!r} as column {at}, the fit {known[at]!r}"
        raise ValueError(
            f"X must have the {p} columns of the fit in their order, but it {what}. If that is what "
            "it should be: X.reindex(columns=fit.feature_names, fill_value=0)."
        )
    if shape[1] != p:
        raise ValueError(f"X must have the {p} columns of the fit, got shape {shape}.")


def _link(x: Any, coef: AnyArray, intercept: AnyArray, several: bool) -> AnyArray:
    """η without offset: (m,) or (m, k), after the lanes of a batch; one product for all of them."""
    xp = x.namespace(coef, intercept)
    if not several:
        coef, intercept = coef[..., None], intercept[..., None]
    *lanes, p, k = coef.shape
    columns = xp.moveaxis(coef, -2, 0).reshape(p, -1)
    eta = x.dot(columns).reshape(-1, *lanes, k)
    eta = xp.moveaxis(eta, 0, -2) + intercept[..., None, :]
    return eta if several else eta[..., 0]


_compiled_link = program(_link)
