"""What a fit and a path return: arrays to compute with, and tables to look at."""

from __future__ import annotations

from typing import Any, overload

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool

from .._minimize_checks import check_number
from .._status import Status
from .._types import AnyArray
from ..losses import Loss
from ._inputs import give_back, precision, read_matrix, read_vector, x64_is_on, x_dtype


class Fit(eqx.Module):
    """One penalised linear model: coefficients on the scale of the data, and their certificate.

    `coef` (p,) or (p, k), `intercept` () or (k,). `gap` bounds how far `objective` is above its
    minimum; `relative_gap` is in units of the null deviance. `kkt` is the largest violation of the
    optimality conditions, `relative_kkt` in units of the gradient of the null model. `status` is a
    number of `l1jax.Status`. A batch of fits (from `jax.vmap`) has a leading axis everywhere.

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
    deviance_explained: AnyArray
    num_steps: AnyArray
    status: AnyArray
    loss: Loss
    feature_names: tuple[str, ...] | None = eqx.field(static=True)
    several_responses: bool = eqx.field(static=True)

    @property
    def support(self) -> Bool[AnyArray, "... p"]:
        """Which features are in: their coefficient (for some response) is not zero."""
        inside = self.coef != 0
        return inside.any(axis=-1) if self.several_responses else inside

    @property
    def n_nonzero(self) -> AnyArray:
        """How many features are in."""
        return self.support.sum(axis=-1)

    def predict(self, X: Any, offset: Any = None, kind: str = "response") -> AnyArray:
        """Predictions for new rows: `kind` is "response" (the mean), "link" (η) or "class".

        X (m, p) of any kind that `fit` takes, with the same columns; `offset` (m,). A batch of
        fits gives (lanes, m). Raises: ValueError for another number or other names of columns.
        """
        if kind not in ("response", "link", "class"):
            raise ValueError(f'kind must be "response", "link" or "class", got {kind!r}.')
        p = self.coef.shape[-2] if self.several_responses else self.coef.shape[-1]
        x, names = read_matrix(X)
        if x.shape[1] != p:
            raise ValueError(f"X must have the {p} columns of the fit, got shape {x.shape}.")
        if names and self.feature_names and names != self.feature_names:
            at = next(i for i in range(p) if names[i] != self.feature_names[i])
            raise ValueError(
                f"X must have the columns of the fit in their order: column {at} is {names[at]!r}, the fit "
                f"has {self.feature_names[at]!r}."
            )
        wants_x64 = isinstance(self.coef, np.ndarray) and self.coef.dtype == np.float64
        wants_x64 &= not x64_is_on() and x_dtype(x) == np.float64
        with precision(wants_x64):
            eta = self._link(x)
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

    def _link(self, x: Any) -> Array:
        """η without offset: (m,) or (m, k), after the lanes of a batch; one product for all of them."""
        coef, intercept = jnp.asarray(self.coef), jnp.asarray(self.intercept)
        if not self.several_responses:
            coef, intercept = coef[..., None], intercept[..., None]
        *lanes, p, k = coef.shape
        columns = jnp.moveaxis(coef, -2, 0).reshape(p, -1)
        eta = x.dot(columns).reshape(-1, *lanes, k)
        eta = jnp.moveaxis(eta, 0, -2) + intercept[..., None, :]
        return eta if self.several_responses else eta[..., 0]

    def __str__(self) -> str:
        if isinstance(self.status, Tracer) or np.ndim(self.status):
            return f"Fit(coef of shape {self.coef.shape}, status {self.status})"
        names = self.feature_names or tuple(f"x{j}" for j in range(self.support.shape[-1]))
        inside = np.flatnonzero(np.asarray(self.support))
        rows = [f"{names[j]:>20}  {_number(self.coef[j])}" for j in inside[:20]]
        if len(inside) > 20:
            rows.append(f"{'':>20}  ... {len(inside) - 20} more")
        head = (
            f"Fit: {len(inside)} of {len(names)} features in, {Status(int(self.status)).name}, relative gap "
            f"{float(self.relative_gap):.1e}, deviance explained {float(self.deviance_explained):.3f}"
        )
        return "\n".join([head, f"{'(intercept)':>20}  {_number(self.intercept)}", *rows])

    __repr__ = __str__


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

    def at(self, lam: float) -> tuple[AnyArray, AnyArray]:
        """Coefficients and intercept at a strength between the first and the last knot."""
        lams = np.asarray(self.lams)
        after = int(np.clip(np.searchsorted(-lams, -lam), 1, len(lams) - 1))
        step = lams[after - 1] - lams[after]
        share = (lams[after - 1] - lam) / step if step > 0 else 0.0

        def between(values: AnyArray) -> AnyArray:
            return values[after - 1] + share * (values[after] - values[after - 1])

        return between(self.coefs), between(self.intercepts)


class Path(eqx.Module):
    """A path of fits over a descending grid of strengths: every array has the grid as its leading axis.

    `path[i]` is the `Fit` at `path.lams[i]`, with its certificate; `path[2:5]` is a path again.
    `knots` holds the `Knots` that engine="homotopy" finds, else None.

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
    def __getitem__(self, i: slice) -> Path: ...
    @overload
    def __getitem__(self, i: int) -> Fit: ...
    def __getitem__(self, i: Any) -> Fit | Path:
        if isinstance(i, slice):
            if not len(range(*i.indices(len(self)))):
                raise IndexError(f"the path has {len(self)} fits, none of them in {i}.")
            return Path(self._pick(lambda leaf: leaf[i]), self.knots)
        kind = getattr(i, "dtype", np.dtype(type(i)) if isinstance(i, int) else None)
        if np.ndim(i) != 0 or not (kind is not None and jnp.issubdtype(kind, jnp.integer)):
            raise TypeError(f"a path is indexed by one whole number or a slice, got {i!r}.")
        if not isinstance(i, Tracer) and not -len(self) <= i < len(self):
            raise IndexError(f"the path has {len(self)} fits, got index {i}.")
        return self._pick(lambda leaf: leaf[i])

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
                f.deviance_explained, f.status,
            ),
            before,
            (
                coef, intercept, np.asarray(lam, lams.dtype), nan, nan, nan, nan, nan, nan,
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

    def _pick(self, pick: Any) -> Fit:
        def is_loss(leaf):
            return isinstance(leaf, Loss)  # one loss serves the whole path

        return jax.tree.map(lambda x: x if is_loss(x) else pick(x), self.fits, is_leaf=is_loss)

    def __str__(self) -> str:
        if isinstance(self.lams, Tracer):
            return f"Path(coefs of shape {self.coefs.shape})"
        lines = [f"{'lam':>12} {'features':>9} {'explained':>10} {'rel. gap':>9}  status"]
        shown = np.unique(np.linspace(0, len(self) - 1, min(len(self), 12)).astype(int))
        for i in shown:
            lines.append(
                f"{float(self.lams[i]):12.5g} {int(self.n_nonzero[i]):9d} "
                f"{float(self.deviance_explained[i]):10.3f} {float(self.relative_gaps[i]):9.1e}  "
                f"{Status(int(self.status[i])).name}"
            )
        return f"Path: {len(self)} fits ({len(shown)} shown)\n" + "\n".join(lines)

    __repr__ = __str__


def _number(value: Any) -> str:
    return np.array2string(np.asarray(value), precision=5, threshold=6)
