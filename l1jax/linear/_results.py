"""What a fit and a path return: arrays to compute with, and tables to look at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool

from .._minimize_checks import check_number
from .._tables import Shown, Summary, Table
from .._types import AnyArray
from ..losses import Loss
from ._entry import entry_point
from ._inputs import give_back, precision, read_matrix, read_vector, x64_is_on, x_dtype
from ._options import FitOptions
from ._show import fit_summary, fit_table, path_summary, path_table
from ._to_frame import fit_frame, fits_frame, path_frame


class Fit(Shown, eqx.Module):
    """One penalised linear model: coefficients on the scale of the data, and their certificate.

    `coef` (p,) or (p, k), `intercept` () or (k,). `gap` bounds how far `objective` is above its
    minimum; `relative_gap` is in units of the null deviance. `kkt` is the largest violation of the
    optimality conditions, `relative_kkt` in units of the gradient of the null model. `margin` is
    how far the strength may fall before another feature enters: near 0 the fit is at a knot, where
    its derivative has two sides. `status` is a number of `l1jax.Status`. `options` says what it was
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

    coef: AnyArray
    intercept: AnyArray
    lam: Any
    objective: AnyArray
    gap: AnyArray
    relative_gap: AnyArray
    kkt: AnyArray
    relative_kkt: AnyArray
    margin: AnyArray
    deviance_explained: AnyArray
    num_steps: AnyArray
    status: AnyArray
    loss: Loss
    feature_names: tuple[str, ...] | None = eqx.field(static=True)
    several_responses: bool = eqx.field(static=True)
    options: FitOptions | None = None

    @property
    def support(self) -> Bool[AnyArray, "... p"]:
        """Which features are in: their coefficient (for some response) is not zero."""
        inside: Any = abs(self.coef) > 0  # NaN, of a fit that was not reached, is not in
        return inside.any(axis=-1) if self.several_responses else inside

    @property
    def n_nonzero(self) -> AnyArray:
        """How many features are in."""
        return self.support.sum(axis=-1)

    @entry_point
    def predict(self, X: Any, offset: Any = None, kind: str = "response") -> AnyArray:
        """Predictions for new rows: `kind` is "response" (the mean), "link" (η) or "class".

        X (m, p) of any kind that `fit` takes, with the same columns; `offset` (m,). A batch of
        fits gives (lanes, m). Raises: ValueError for another number or other names of columns.
        """
        if kind not in ("response", "link", "class"):
            raise ValueError(f'kind must be "response", "link" or "class", got {kind!r}.')
        p = self.coef.shape[-2] if self.several_responses else self.coef.shape[-1]
        x, names = read_matrix(X)
        _check_columns(x.shape, names, p, self.feature_names)
        wants_x64 = isinstance(self.coef, np.ndarray) and self.coef.dtype == np.float64
        wants_x64 &= not x64_is_on() and x_dtype(x) == np.float64
        with precision(wants_x64):
            eta = _link(x, self.coef, self.intercept, self.several_responses)
            if offset is not None:
                shift = read_vector(offset, "offset", eta.dtype)
                rows = eta.shape[self.coef.ndim - 1 - self.several_responses :]
                if shift.shape not in {(), rows[:1], rows}:
                    raise ValueError(
                        f"offset must have one entry per row of X, shape {rows}, got {shift.shape}."
                    )
                eta = eta + (shift[:, None] if 0 < shift.ndim < len(rows) else shift)
            if kind == "response":
                eta = self.loss.inverse_link(eta)
            elif kind == "class":
                eta = self.loss.classes(eta)
            return give_back(eta, wants_x64)

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
        from .._saving import save

        save(self, file)

    def _table(self) -> Table:
        return fit_table(self)


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


@eqx.filter_jit
def _link(x: Any, coef: AnyArray, intercept: AnyArray, several: bool) -> Array:
    """η without offset: (m,) or (m, k), after the lanes of a batch; one product for all of them."""
    coef, intercept = jnp.asarray(coef), jnp.asarray(intercept)
    if not several:
        coef, intercept = coef[..., None], intercept[..., None]
    *lanes, p, k = coef.shape
    columns = jnp.moveaxis(coef, -2, 0).reshape(p, -1)
    eta = x.dot(columns).reshape(-1, *lanes, k)
    eta = jnp.moveaxis(eta, 0, -2) + intercept[..., None, :]
    return eta if several else eta[..., 0]


class Knots(eqx.Module):
    """Where the active set of a path changes: the path is straight between these strengths.

    `lams` (K,), descending, from the start of the path to the end of the grid; `coefs` (K, p) and
    `intercepts` (K,) on the scale of the data.
    """

    lams: AnyArray
    coefs: AnyArray
    intercepts: AnyArray

    def __len__(self) -> int:
        return self.lams.shape[0]

    def at(self, lam: float) -> tuple[Any, Any]:
        """Coefficients and intercept at a strength between the first and the last knot."""
        lams = np.asarray(self.lams)
        after = int(np.clip(np.searchsorted(-lams, -lam), 1, len(lams) - 1))
        step = lams[after - 1] - lams[after]
        share = (lams[after - 1] - lam) / step if step > 0 else 0.0

        def between(values: AnyArray) -> Any:
            return values[after - 1] + share * (values[after] - values[after - 1])

        return between(self.coefs), between(self.intercepts)


def check_of_these_data(path: Any, shape: tuple[int, ...], name: str = "path") -> None:
    """Raises where the coefficients of a path are not of this shape."""
    if np.shape(path.coefs)[1:] != shape:
        raise ValueError(
            f"{name} must be a path of these data, with coefficients of shape {shape} for each "
            f"strength, got {np.shape(path.coefs)[1:]}."
        )


def read_index(i: Any, length: int) -> Any:
    """Which fits of a path: a slice, one whole number, or a vector of them or of truths."""
    if isinstance(i, slice):
        if not len(range(*i.indices(length))):
            raise IndexError(f"the path has {length} fits, none of them in {i}.")
        return i
    which = i if isinstance(i, jax.Array) else np.asarray(i)
    is_mask, is_whole = which.dtype == bool, jnp.issubdtype(which.dtype, jnp.integer)
    if (
        isinstance(i, tuple)
        or which.ndim > 1
        or (which.size and not is_whole and not (is_mask and which.ndim))
    ):
        raise TypeError(
            "a path is indexed by a whole number, a slice, or a vector of whole numbers or truths, "
            f"got {i!r}."
        )
    if which.ndim and is_mask and which.shape != (length,):
        raise IndexError(f"the path has {length} fits, and the mask {len(which)} entries.")
    if isinstance(which, Tracer):
        if is_mask:
            raise TypeError(
                "a traced mask does not say how many fits there are: index the path outside of jit."
            )
        return which
    which = np.asarray(which)
    if not which.size or (is_mask and not which.any()):
        raise IndexError(f"the path has {length} fits, none of them in {i!r}.")
    beyond = which[(which < -length) | (which >= length)] if is_whole else which[:0]
    if beyond.size:
        raise IndexError(f"the path has {length} fits, got index {beyond.flat[0]}.")
    return which if which.ndim else int(which)


class Path(Shown, eqx.Module):
    """A path of fits over a descending grid of strengths: every array has the grid as its leading axis.

    `path[i]` is the `Fit` at `path.lams[i]`, with its certificate; `path[2:5]`, `path[[0, 3]]` and
    `path[path.n_nonzero < 5]` are paths again, indexed as arrays of NumPy are. Where Ctrl-C came
    first, the status is INTERRUPTED, the numbers are NaN and no feature is in. `knots` holds the
    `Knots` that engine="homotopy" finds, else None.

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> X, y = jnp.array([[-1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]), jnp.array([-3.0, 0.6, 2.4])
    >>> path = l1jax.path(X, y, l1jax.L1(), lams=[2.0, 1.0, 0.1])
    >>> print(path.n_nonzero, path.entries(), path.at(1.5).n_nonzero)
    [0 1 2] [(1, 0), (2, 1)] 1

    ```
    """

    fits: Fit
    knots: Knots | None = None

    @property
    def lams(self) -> AnyArray:
        """The strengths, (L,), descending."""
        return self.fits.lam

    @property
    def coefs(self) -> AnyArray:
        """Coefficients on the scale of the data, (L, p) or (L, p, k)."""
        return self.fits.coef

    @property
    def intercepts(self) -> AnyArray:
        """Intercepts, (L,) or (L, k)."""
        return self.fits.intercept

    @property
    def objectives(self) -> AnyArray:
        """Loss plus penalty at each fit, (L,)."""
        return self.fits.objective

    @property
    def gaps(self) -> AnyArray:
        """Bounds on how far each objective is above its minimum, (L,)."""
        return self.fits.gap

    @property
    def relative_gaps(self) -> AnyArray:
        """The gaps in units of the null deviance, (L,)."""
        return self.fits.relative_gap

    @property
    def n_nonzero(self) -> AnyArray:
        """How many features are in, (L,)."""
        return self.fits.n_nonzero

    @property
    def deviance_explained(self) -> AnyArray:
        """The share of the null deviance that each fit explains, (L,).

        For squared error it is R², where the null model is the intercept: features that are not
        penalised belong to the null model.
        """
        return self.fits.deviance_explained

    @property
    def num_steps(self) -> AnyArray:
        """Steps that each solve took, (L,)."""
        return self.fits.num_steps

    @property
    def status(self) -> AnyArray:
        """A number of `l1jax.Status` for each fit, (L,)."""
        return self.fits.status

    @property
    def feature_names(self) -> tuple[str, ...] | None:
        """The names of the columns, where the data had any."""
        return self.fits.feature_names

    def __len__(self) -> int:
        return self.lams.shape[0]

    @overload
    def __getitem__(self, i: slice | Sequence[int] | Sequence[bool] | np.ndarray) -> Path: ...
    @overload
    def __getitem__(self, i: int) -> Fit: ...
    def __getitem__(self, i: Any) -> Fit | Path:
        i = read_index(i, len(self))
        one = not isinstance(i, slice) and np.ndim(i) == 0
        fits = self._pick(lambda leaf: leaf[i])
        return fits if one else Path(fits, self.knots)

    def predict(self, X: Any, offset: Any = None, kind: str = "response") -> AnyArray:
        """Predictions of every fit, (L, m) or (L, m, k); arguments and errors as for `Fit.predict`."""
        return self.fits.predict(X, offset, kind)

    def at(self, lam: float) -> Fit:
        """The model at a strength between grid points, its coefficients interpolated linearly.

        With `knots` it is exact. Such a model is not certified: its objective, gap and kkt are NaN.
        Raises: ValueError outside of the grid.
        """
        lam = float(check_number(lam, "lam", 0))
        lams = np.asarray(self.lams)
        if (np.diff(lams) > 0).any():
            return self.descending().at(lam)
        if not lams.min() <= lam <= lams.max():
            raise ValueError(
                f"lam must lie within the grid, [{lams.min():.6g}, {lams.max():.6g}], got {lam:.6g}."
            )
        after = int(np.clip(np.searchsorted(-lams, -lam), 1, max(len(lams) - 1, 1)))
        if len(lams) == 1 or lam == lams[after]:
            return self[min(after, len(lams) - 1)]
        if lam == lams[after - 1]:
            return self[after - 1]
        before, next_ = self[after - 1], self[after]
        share = (lams[after - 1] - lam) / (lams[after - 1] - lams[after])
        nan = np.asarray(np.nan, lams.dtype)
        coef = before.coef + share * (next_.coef - before.coef)
        intercept = before.intercept + share * (next_.intercept - before.intercept)
        if self.knots is not None:
            coef, intercept = self.knots.at(lam)
        return eqx.tree_at(
            lambda f: (
                f.coef, f.intercept, f.lam, f.objective, f.gap, f.relative_gap, f.kkt,
                f.relative_kkt,
                f.margin,
                f.deviance_explained, f.status,
            ),
            before,
            (
                coef, intercept, np.asarray(lam, lams.dtype), nan, nan, nan, nan, nan, nan, nan,
                np.maximum(before.status, next_.status),
            ),
        )  # fmt: skip

    def entries(self) -> list[tuple[int, int]]:
        """(grid index, feature): when each feature first comes in, in that order."""
        inside = np.asarray(self.fits.support)
        firsts = [
            (int(np.argmax(inside[:, j])), j) for j in range(inside.shape[1]) if inside[:, j].any()
        ]
        sizes = np.abs(np.asarray(self.coefs)).reshape(*inside.shape, -1).max(axis=-1)
        return sorted(firsts, key=lambda pair: (pair[0], -sizes[pair[0], pair[1]]))

    def descending(self) -> Path:
        """The same fits in the order of falling strengths, in which every new path is."""
        return self[np.argsort(-np.asarray(self.lams), kind="stable")]

    def _pick(self, pick: Any) -> Fit:
        def is_shared(leaf: Any) -> bool:
            return isinstance(leaf, Loss | FitOptions)  # one serves the whole path

        return jax.tree.map(lambda x: x if is_shared(x) else pick(x), self.fits, is_leaf=is_shared)

    def to_frame(self, kind: str = "coefs", intercept: bool = False) -> Any:
        """The path as a pandas DataFrame, a row per strength, which is its index, "lam".

        `kind` "coefs": a column per feature, by name, on the scale of the data; with `intercept` it
        comes first, as "(intercept)"; k responses are a second level of the columns. "fits": what is
        known of each fit instead: n_nonzero, deviance_explained, objective, gap, relative_gap, kkt,
        relative_kkt, num_steps, status.
        """
        if kind not in ("coefs", "fits"):
            raise ValueError(f'kind must be "coefs" or "fits", got {kind!r}.')
        return path_frame(self, intercept) if kind == "coefs" else fits_frame(self)

    def summary(self) -> Summary:
        """Every fit and its certificate, and where each feature comes in, to print or to show in a notebook."""
        return path_summary(self)

    def save(self, file: Any) -> None:
        """Writes the path to a file (a name such as "path.npz", or an open file) for `l1jax.load`."""
        from .._saving import save

        save(self, file)

    def _table(self) -> Table:
        return path_table(self)
