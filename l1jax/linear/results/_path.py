"""`Path`: fits over a grid of strengths."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, overload

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from ..._checks import check_number
from ..._saving import savable_result, save
from ..._tables import Shown, Summary, Table
from ..._types import AnyArray
from ...losses import Loss
from ..host._sparse_rows import SparseRows
from ._fit import Fit
from ._frames import fits_frame, path_frame
from ._options import FitOptions
from ._records import PathRecord
from ._tables import path_summary, path_table


class Path(Shown, PathRecord[Fit]):
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

    @overload
    def __getitem__(self, i: slice | Sequence[int] | Sequence[bool] | np.ndarray) -> Path: ...
    @overload
    def __getitem__(self, i: int) -> Fit: ...
    def __getitem__(self, i: Any) -> Fit | Path:
        i = read_index(i, len(self))
        one = not isinstance(i, slice) and np.ndim(i) == 0
        fits = self._pick(lambda leaf: leaf[i, ...])
        return _with_array(fits) if one else Path(fits, self.knots)

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
        fraction = (lams[after - 1] - lam) / (lams[after - 1] - lams[after])
        nan = np.asarray(np.nan, lams.dtype)
        coef = before.coef + fraction * (next_.coef - before.coef)
        intercept = before.intercept + fraction * (next_.intercept - before.intercept)
        if self.knots is not None:
            coef, intercept = self.knots.at(lam)
        if before.thresholds is not None:
            between = (1 - fraction) * before.thresholds + fraction * next_.thresholds
            before = dataclasses.replace(before, thresholds=between)
        return eqx.tree_at(
            lambda f: (
                f.stored_coef, f.intercept, f.lam, f.objective, f.gap, f.relative_gap, f.kkt,
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

    def descending(self) -> Path:
        """Returns the same fits in the order of descending λ, as every new path has them."""
        return self[np.argsort(-np.asarray(self.lams), kind="stable")]

    def _pick(self, pick: Any) -> Fit:
        def is_common(leaf: Any) -> bool:
            return isinstance(leaf, Loss | FitOptions)  # one serves the whole path

        return jax.tree.map(lambda x: x if is_common(x) else pick(x), self.fits, is_leaf=is_common)

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
        save(self, file)

    def _table(self) -> Table:
        return path_table(self)


savable_result(Path)


def _with_array(fit: Fit) -> Fit:
    """The fit, its coefficients as an array."""
    if not isinstance(fit.stored_coef, SparseRows):
        return fit
    return dataclasses.replace(fit, stored_coef=fit.coef)


def read_index(i: Any, length: int) -> Any:
    """Which fits of a path: a slice, one integer, or a vector of integers or booleans."""
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
            "a path is indexed by an integer, a slice, or a vector of integers or booleans, "
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
