"""What a result was fitted with, so that whatever is computed from it later asks the same question."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from .._types import AnyArray
from ..penalties import Penalty
from ._inputs import Inputs
from ._problem import Data, Problem

if TYPE_CHECKING:
    from ._results import Fit

_ARRAYS = ("sample_weight", "offset")


class FitOptions(eqx.Module):
    """What was minimised, beside X, y and the loss.

    `pen`: the penalty as it was passed (None where a file or an estimator does not know it);
    `fit_intercept`: whether there is an intercept (never for `Cox`); `standardize`; `sample_weight`
    (n,) and `offset` (n, *k), None where none were given; `scale` (p,): the standard deviations σ
    of the columns that the penalty refers to, None unless `standardize`. `not_kept` names the arrays
    that were given and are not here: inside of `jit` and `vmap` they would be copied for every lane.
    """

    pen: Penalty | None
    sample_weight: AnyArray | None
    offset: AnyArray | None
    scale: AnyArray | None
    fit_intercept: bool = eqx.field(static=True)
    standardize: bool = eqx.field(static=True)
    not_kept: tuple[str, ...] = eqx.field(static=True, default=())


def options_of(
    inputs: Inputs, data: Data, problem: Problem, sample_weight: Any, offset: Any, keep: bool = True
) -> FitOptions:
    """The options of a call; `sample_weight` and `offset` as they were passed to it.

    Unless told to `keep` these arrays, only their names.
    """
    arrays = {"sample_weight": (sample_weight, inputs.weights), "offset": (offset, inputs.offset)}
    given = {name: read for name, (passed, read) in arrays.items() if passed is not None}
    return FitOptions(
        pen=inputs.pen,
        sample_weight=given.get("sample_weight") if keep else None,
        offset=given.get("offset") if keep else None,
        scale=_deviations(problem) if data.standardize else None,
        fit_intercept=data.fit_intercept and data.loss.has_intercept,
        standardize=data.standardize,
        not_kept=() if keep else tuple(given),
    )


def _deviations(problem: Problem) -> AnyArray:
    """σ of every column, 1 where it is constant."""
    inverse = problem.inverse_scale
    return jnp.where(inverse > 0, 1 / jnp.where(inverse > 0, inverse, 1), 1)


def options_for(
    fits: Fit, name: str, X: Any, *, fit_intercept: Any, sample_weight: Any, offset: Any
) -> FitOptions:
    """The options of some fits; what is passed here goes first. `name`: of the argument that holds them.

    Raises: ValueError where an option is not known, or belongs to another number of rows than X has.
    """
    n = np.shape(X)[:1]
    options = fits.options
    passed = {"sample_weight": sample_weight, "offset": offset}
    if fit_intercept is not None and not isinstance(fit_intercept, bool | np.bool_):
        raise TypeError(f"fit_intercept must be True, False or None, got {fit_intercept!r}.")
    if options is None:
        raise ValueError(f"{name} does not say how it was fitted: pass a result of l1jax.path.")
    for what in _ARRAYS:
        if passed[what] is not None:
            continue
        if what in options.not_kept:
            raise ValueError(
                f"{name} was fitted with {what} inside of jit or vmap, which does not keep it: pass "
                f"{what}=..."
            )
        passed[what] = kept = getattr(options, what)
        if kept is not None and n and kept.shape[:1] != n:
            raise ValueError(
                f"{name} was fitted with {what} for {len(kept)} rows, X has {n[0]}: pass the X and y of "
                f"the fit, or {what}=..."
            )
    if fit_intercept is None:
        fit_intercept = options.fit_intercept
    return dataclasses.replace(options, fit_intercept=bool(fit_intercept), **passed)


def check_same_options(resume: Fit, loss: Any, now: FitOptions) -> None:
    """Raises where an earlier path was fitted with other options than those of this call."""
    before = resume.options
    if type(resume.loss) is not type(loss):
        raise ValueError(
            f"resume was fitted with loss={resume.loss}, this call has {loss}: pass the same."
        )
    if before is None:
        return
    for name in ("fit_intercept", "standardize"):
        if getattr(before, name) != getattr(now, name):
            raise ValueError(
                f"resume was fitted with {name}={getattr(before, name)}: pass the same."
            )
    for name in _ARRAYS:
        had, has = (getattr(one, name) is not None or name in one.not_kept for one in (before, now))
        if had != has:
            what = f"with {name}: pass the same" if had else f"without {name}: leave it out"
            raise ValueError(f"resume was fitted {what}.")
