"""From what was read to a problem on the scale of the solver; compiled, and without copies of the data."""

from __future__ import annotations

import dataclasses
import operator
from typing import Any

import equinox as eqx
import jax
import numpy as np

from ..._compile import program
from ..._tracing import frozen, is_traced
from ...losses import Loss
from ...penalties import Penalty
from ..data._inputs import Inputs
from ._null_model import may_have_unpenalised, prepare
from ._on_host import host_errors, on_host
from ._problem import Data, Problem
from ._unpenalised_basis import in_orthonormal_basis


def data_of(inputs: Inputs, loss: Loss, fit_intercept: bool, standardize: bool) -> Data:
    """Returns the data of a call. Raises: TypeError unless the two options are True or False."""
    for name, value in (("fit_intercept", fit_intercept), ("standardize", standardize)):
        if not isinstance(value, bool | np.bool_):
            raise TypeError(f"{name} must be True or False, got {value!r}.")
    return Data(
        inputs.x,
        inputs.y,
        inputs.weights,
        inputs.offset,
        loss,
        fit_intercept=bool(fit_intercept),
        standardize=bool(standardize),
    )


def prepare_inputs(
    inputs: Inputs, pen: Penalty, loss: Loss, fit_intercept: bool, standardize: bool
) -> Problem:
    """Returns the problem as a constant to derivatives: they go through the data as they were given."""
    data = data_of(inputs, loss, fit_intercept, standardize)
    return prepare_data(frozen(data), frozen(pen))


def prepare_data(data: Data, pen: Penalty) -> Problem:
    """Returns the problem, with nearly collinear unpenalised columns replaced by an orthonormal basis."""
    problem = _prepare_as_given(data, pen)
    changed = in_orthonormal_basis(data, problem)
    if changed is None:
        return problem
    data, basis = changed
    return dataclasses.replace(_prepare_as_given(data, pen), basis=basis)


def in_given_columns(problem: Problem, data: Data, pen: Penalty) -> Problem:
    """Returns the problem without a basis of its own, as derivatives by the data need it."""
    return problem if problem.basis is None else _prepare_as_given(data, pen)


def _prepare_as_given(data: Data, pen: Penalty) -> Problem:
    """Returns the problem; columns that stay as they are are not copied."""
    here = on_host(data, pen)
    if here is not None:
        with host_errors():
            return prepare(*here)
    data = dataclasses.replace(data, x=jax.tree.map(_on_device, data.x))
    # In a program for other values too, any may be unpenalised.
    has_unpenalised = not is_traced(data) or may_have_unpenalised(pen, data.coef_shape)
    problem = _all_but_kept_columns(data, pen, has_unpenalised)
    if problem.x is not None:
        return problem
    return eqx.tree_at(lambda q: q.x, problem, data.x, is_leaf=lambda leaf: leaf is None)


def _on_device(leaf: Any) -> jax.Array:
    return leaf if isinstance(leaf, jax.Array) else jax.device_put(leaf)


@program
def _all_but_kept_columns(data: Data, pen: Penalty, has_unpenalised: bool) -> Problem:
    problem = prepare(data, pen, has_unpenalised)
    before, after = jax.tree.leaves(data.x), jax.tree.leaves(problem.x)
    is_kept = len(before) == len(after) and all(map(operator.is_, before, after))
    return eqx.tree_at(lambda q: q.x, problem, None) if is_kept else problem
