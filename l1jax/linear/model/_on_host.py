"""Which problems are NumPy's: nothing is compiled for those, whatever their shapes."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from ..._arrays import is_in_numpy
from ..._tracing import is_differentiable
from ...penalties import Penalty
from ..data._matrix import DataMatrix, is_in_process
from ..data._sharded import to_numpy
from ._problem import Data, Problem


def on_host(data: Data, pen: Penalty) -> tuple[Data, Penalty] | None:
    """Returns the same with arrays of NumPy; None unless all is known and the loss has formulas for it.

    A penalty without them keeps its own arrays.
    """
    if not is_in_numpy(data.loss):
        return None
    x, rest = data.x.in_numpy(), (data.y, data.weights, data.offset, data.loss)
    if x is None or is_differentiable((rest, pen)):
        return None
    y, weights, offset, loss = jax.tree.map(to_numpy, rest)
    parts = {"x": x, "y": y, "weights": weights, "offset": offset, "loss": loss}
    return dataclasses.replace(data, **parts), in_numpy_if_it_can(pen)


def in_numpy_if_it_can(pen: Penalty) -> Penalty:
    """Returns a penalty whose formulas are for NumPy with arrays of NumPy, another one as it is."""
    return jax.tree.map(np.asarray, pen) if is_in_numpy(pen) else pen


def host_prediction(x: DataMatrix, *rest: Any) -> Any:
    """Returns the matrix and arrays as NumPy's; None unless all is known, and products can be NumPy's."""
    found = x.in_numpy()
    if found is None or is_differentiable(rest):
        return None
    return found, *jax.tree.map(to_numpy, rest)


def host_values(tree: Any) -> Any:
    """The same with arrays of NumPy, where all is known and on a CPU; else as it is."""
    leaves = jax.tree.leaves(tree)
    if jax.default_backend() != "cpu" or not all(map(is_in_process, leaves)):
        return tree
    return jax.tree.map(np.asarray, tree)


def is_on_host(problem: Problem) -> bool:
    """Whether a problem is NumPy's, on the user's own columns, its loss too."""
    if not is_in_numpy(problem.loss) or problem.basis is not None:
        return False
    names = (field.name for field in dataclasses.fields(problem) if field.name != "x")
    arrays = jax.tree.leaves([getattr(problem, name) for name in names])
    return problem.x.namespace(*arrays) is np


def host_errors() -> Any:
    """A context in which NumPy does not warn of overflows: as in XLA, results say so."""
    return np.errstate(over="ignore", invalid="ignore", divide="ignore", under="ignore")
