"""The fields of fits and paths, and what follows from them alone: what tables and data frames show."""

from __future__ import annotations

import dataclasses
from typing import Any, Generic, TypeVar

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Bool

from ..._arrays import namespace
from ..._modules import Record
from ..._saving import savable
from ..._tracing import is_traced
from ..._types import AnyArray
from ...losses import Loss
from ..host._sparse_rows import Coefs, SparseRows, dense, take, used
from ._options import FitOptions


class FitRecord(Record):
    """The fields of a `Fit`."""

    stored_coef: Coefs  # as it is kept: of a long path of many features, by what is not zero
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
    thresholds: AnyArray | None = None

    @property
    def coef(self) -> AnyArray:
        """Coefficients on the scale of the data, (p,) or (p, k)."""
        return dense(self.stored_coef)

    @property
    def support(self) -> Bool[AnyArray, "... p"]:
        """Which features are in: their coefficient (for some response) is not zero."""
        if isinstance(self.stored_coef, SparseRows) and not is_traced(self.stored_coef):
            return self.stored_coef.inside()
        inside: Any = abs(self.coef) > 0  # NaN, of a fit that was not reached, is not in
        return inside.any(axis=-1) if self.several_responses else inside

    @property
    def n_nonzero(self) -> AnyArray:
        """How many features are in."""
        if isinstance(self.stored_coef, SparseRows):
            return self.stored_coef.count()
        support = self.support
        return namespace(support).asarray(support.sum(axis=-1))

    @property
    def axes(self) -> Any:
        """What `jax.vmap` needs to take the fits of a path one by one: 0 for what each has, None for the rest.

        `jax.vmap(f, in_axes=(path.fits.axes,))(path.fits)`; all fits share the loss and the options.
        """
        own = dataclasses.replace(self, loss=None, options=None)
        return jax.tree.map(lambda _: 0, own)

    @property
    def passes(self) -> int | None:
        """How often the call has read an X that is larger than memory (see `l1jax.blocks`); else None."""
        return None if self.options is None else self.options.passes


AFit = TypeVar("AFit", bound=FitRecord)


class Knots(Record):
    """The values of λ where the active set of a path changes; the path is straight between them.

    `lams` (K,), descending, from the start of the path to the end of the grid; `coefs` (K, p) and
    `intercepts` (K,) on the scale of the data.
    """

    lams: AnyArray
    stored_coefs: Coefs
    intercepts: AnyArray

    @property
    def coefs(self) -> AnyArray:
        """Coefficients at each knot, (K, p)."""
        return dense(self.stored_coefs)

    def __len__(self) -> int:
        return self.lams.shape[0]

    def at(self, lam: float) -> tuple[Any, Any]:
        """Returns coefficients and intercept at a λ between the first and the last knot."""
        lams = np.asarray(self.lams)
        after = int(np.clip(np.searchsorted(-lams, -lam), 1, len(lams) - 1))
        step = lams[after - 1] - lams[after]
        fraction = (lams[after - 1] - lam) / step if step > 0 else 0.0

        def between(left: Any, right: Any) -> Any:
            return left + fraction * (right - left)

        coefs = (dense(take(self.stored_coefs, i)) for i in (after - 1, after))
        return between(*coefs), between(self.intercepts[after - 1], self.intercepts[after])


class PathRecord(Record, Generic[AFit]):
    """The fields of a `Path`, and arrays over its grid."""

    fits: AFit
    knots: Knots | None = None

    @property
    def lams(self) -> AnyArray:
        """The grid λ, (L,), descending."""
        return self.fits.lam

    @property
    def coefs(self) -> AnyArray:
        """Coefficients on the scale of the data, (L, p) or (L, p, k).

        Where these are many they are kept by what is not zero, and this makes an array of them each time.
        """
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
        """The fraction of the null deviance that each fit explains, (L,).

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
    def passes(self) -> int | None:
        """How often the call has read an X that is larger than memory (see `l1jax.blocks`); else None."""
        return self.fits.passes

    @property
    def feature_names(self) -> tuple[str, ...] | None:
        """The names of the columns, where the data had any."""
        return self.fits.feature_names

    def __len__(self) -> int:
        return self.lams.shape[0]

    def entries(self) -> list[tuple[int, int]]:
        """(grid index, feature): when each feature first comes in, in that order."""
        features, coefs = used(self.fits.stored_coef)
        sizes = np.nan_to_num(np.abs(coefs)).max(axis=tuple(range(2, coefs.ndim)))
        inside = sizes > 0
        at = np.flatnonzero(inside.any(axis=0))
        firsts = inside[:, at].argmax(axis=0)
        order = np.lexsort((-sizes[firsts, at], firsts))
        return [(int(firsts[i]), int(features[at[i]])) for i in order]


savable(Knots)


def check_of_these_data(path: Any, shape: tuple[int, ...], name: str = "path") -> None:
    """Raises where the coefficients of a path are not of this shape."""
    found = np.shape(path.fits.stored_coef)[1:]
    if found != shape:
        raise ValueError(
            f"{name} must be a path of these data, with coefficients of shape {shape} for each "
            f"strength, got {found}."
        )
