"""The options of earlier fits, for a later call that must ask the same question."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from ._options import FitOptions
from ._records import FitRecord, PathRecord

_ARRAYS = ("sample_weight", "offset")


def options_for(
    fits: FitRecord, name: str, X: Any, *, fit_intercept: Any, sample_weight: Any, offset: Any
) -> FitOptions:
    """Returns the options of some fits; what is passed here goes first. `name` is the argument of the fits.

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


def check_same_options(
    resume: PathRecord[Any] | None, loss: Any, now: FitOptions, names: tuple[str, ...] | None
) -> None:
    """Raises where an earlier path was fitted with other options than those of this call, or other columns."""
    if resume is None:
        return
    before, had, has = resume.fits.options, resume.feature_names, names
    if type(resume.fits.loss) is not type(loss):
        raise ValueError(
            f"resume was fitted with loss={resume.fits.loss}, this call has {loss}: pass the same."
        )
    if had is not None and has is not None and len(had) == len(has) and had != has:
        j = next(j for j, pair in enumerate(zip(had, has, strict=True)) if pair[0] != pair[1])
        raise ValueError(
            f"resume was fitted with the column {had[j]!r} where X has {has[j]!r}: pass the columns in "
            "their order."
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
