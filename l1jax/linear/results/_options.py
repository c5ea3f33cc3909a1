"""What a result was fitted with, so that whatever is computed from it later asks the same question."""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx

from ..._modules import Record
from ..._saving import savable
from ..._types import AnyArray
from ...penalties import Penalty
from ..data._inputs import Inputs
from ..model._problem import Data, Problem


class FitOptions(Record):
    """What was minimised, beside X, y and the loss.

    `pen`: the penalty as it was passed (None where a file or an estimator does not know it);
    `fit_intercept`: whether there is an intercept (never for `Cox`); `standardize`; `sample_weight`
    (n,) and `offset` (n, *k), None where none were given; `scale` (p,): the standard deviations σ
    of the columns that the penalty refers to, None unless `standardize`. `not_kept` names the arrays
    that were given and are not here: inside of `jit` and `vmap` they would be copied for every lane.
    `passes`: how often an X that is read in blocks was read; None of one in memory.
    """

    pen: Penalty | None
    sample_weight: AnyArray | None
    offset: AnyArray | None
    scale: AnyArray | None
    fit_intercept: bool = eqx.field(static=True)
    standardize: bool = eqx.field(static=True)
    not_kept: tuple[str, ...] = eqx.field(static=True, default=())
    passes: int | None = eqx.field(static=True, default=None)


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
        scale=problem.deviations if data.standardize else None,
        fit_intercept=data.fit_intercept and data.loss.has_intercept,
        standardize=data.standardize,
        not_kept=() if keep else tuple(given),
    )


def with_passes(options: FitOptions, inputs: Inputs) -> FitOptions:
    """Returns the options with the number of passes over X, where that is read in blocks."""
    if inputs.x.passes is None:
        return options
    return dataclasses.replace(options, passes=inputs.x.passes - inputs.first_pass)


savable(FitOptions)
