"""Paths that were stopped before their end: marking what is missing, and resuming."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path as File
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from ..._saving import is_savable, load
from ..._status import Status
from ..._tracing import is_traced
from ...losses import Loss
from ..data._block_sources import BlockError
from ..data._inputs import Inputs
from ..data._precision import give_back
from ..host._sparse_rows import (
    Coefs,
    SparseRows,
    compact,
    concatenated,
    dense,
    is_large,
    parts_of,
    take,
)
from ..model._problem import Point, Problem
from ._fit import Fit
from ._options import FitOptions, with_passes
from ._path import Path
from ._records import check_of_these_data

_KEPT = {"lam", "num_steps", "status", "loss", "feature_names", "several_responses", "options"}
_SAME = 1e-6  # relative: float32 has rounded the strengths of one of two equal grids


class Known(NamedTuple):
    """The solution at some λ, on the solver's scale, to resume from."""

    lam: float
    point: Point


def unreached(fits: Fit, where: Bool[np.ndarray, " L"]) -> Fit:
    """The fits, those at `where` said not to be there: status INTERRUPTED, no steps, NaN."""

    def blank(name: str, blank_: Any) -> Array:
        values = jnp.asarray(getattr(fits, name))
        lanes = jnp.asarray(where).reshape(where.shape + (1,) * (values.ndim - 1))
        return jnp.where(lanes, jnp.asarray(blank_, values.dtype), values)

    names = {field.name for field in dataclasses.fields(Fit)} - _KEPT
    names -= {"thresholds"} if fits.thresholds is None else set()
    numbers: dict[str, Any] = {}
    if isinstance(fits.stored_coef, SparseRows):
        numbers["stored_coef"] = fits.stored_coef.without(where)
    numbers |= {name: blank(name, jnp.nan) for name in names - set(numbers)}
    status = blank("status", Status.INTERRUPTED)
    return dataclasses.replace(fits, num_steps=blank("num_steps", 0), status=status, **numbers)


@contextlib.contextmanager
def solved_so_far(path: Path, options: FitOptions, inputs: Inputs) -> Iterator[None]:
    """A context in which the error of a block of rows holds this path, and no other."""
    try:
        yield
    except BlockError as error:
        fits = dataclasses.replace(path.fits, options=with_passes(options, inputs))
        error.path = give_back(Path(fits, path.knots), inputs.wants_x64)
        raise


def read_resume(resume: Any, lams: Any, loss: Loss, data: Any) -> tuple[Path | None, Any]:
    """Returns the path to resume, of a file if it is a name, and the grid: its own, or `lams` without one.

    `lams` may repeat the grid of the path. Raises unless it is a path, and the data are concrete.
    """
    if resume is None:
        return None, lams
    if isinstance(resume, str | os.PathLike):
        resume = _loaded(resume, loss)
    if not isinstance(resume, Path):
        raise TypeError(
            "resume must be a path or the name of its file, as of path.save or path(checkpoint=...), got "
            f"{type(resume).__name__}."
        )
    if is_traced(data):
        raise ValueError("resume needs concrete data: it cannot be taken up inside jit or vmap.")
    resume = resume.descending()
    own = np.asarray(resume.lams)
    if lams is not None:
        given = -np.sort(-np.ravel(lams))
        if given.shape != own.shape or not np.allclose(given, own, rtol=_SAME, atol=0):
            raise ValueError(
                f"resume brings its own grid, of {len(own)} strengths, and lams is another: leave lams out."
            )
    return resume, own


def _loaded(file: str | os.PathLike, loss: Loss) -> Any:
    """The result in a file; a loss of the user's own is not in it, and is that of the call."""
    if not File(file).exists():
        raise FileNotFoundError(
            f"resume must be a path or the name of its file, and there is no {os.fspath(file)!r}."
        )
    return load(file, None if is_savable(loss) else loss)


def known_points(resume: Path, problem: Problem) -> tuple[Coefs, np.ndarray]:
    """The fits of an earlier path on the solver's scale, (L, p, *k) and (L, *k); zeros where it has none.

    Only shapes are checked here: whether they are fits of these data is for the certificate to say.
    """
    check_of_these_data(resume, problem.coef_shape, "resume")
    coefs, intercepts = resume.fits.stored_coef, np.asarray(resume.intercepts)
    betas, found = [], []
    for some in parts_of(coefs):
        rows = (np.asarray(dense(take(coefs, some))), intercepts[some])
        rows = (jnp.asarray(np.nan_to_num(values), problem.y.dtype) for values in rows)
        point = jax.tree.map(np.asarray, jax.vmap(problem.start_from)(*rows))
        betas.append(compact(point.beta) if is_large(coefs.shape) else point.beta)
        found.append(point.intercept)
    return concatenated(betas), np.concatenate(found)
