"""Which problems are NumPy's: nothing is compiled for those, whatever their shapes."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from ..._arrays import is_in_numpy, is_numpy
from ...penalties import Penalty
from ..data._matrix import DenseMatrix
from ._problem import Data, Problem


def on_host(data: Data, pen: Penalty) -> tuple[Data, Penalty] | None:
    """Returns the same with arrays of NumPy; None unless all is known and there are formulas for it."""
    if type(data.x) is not DenseMatrix or not (is_in_numpy(data.loss) and is_in_numpy(pen)):
        return None
    leaves = jax.tree.leaves((data, pen))
    if jax.default_backend() != "cpu" or not all(map(_is_here, leaves)):
        return None
    return jax.tree.map(np.asarray, (data, pen))


def _is_here(leaf: Any) -> bool:
    """Whether a value is known, and the whole of it in the memory of this process."""
    if isinstance(leaf, Tracer):
        return False
    return not isinstance(leaf, jax.Array) or len(leaf.sharding.device_set) == 1


def host_prediction(x: Any, *rest: Any) -> Any:
    """Returns the matrix and arrays as NumPy's; None unless all is known, and the matrix an array."""
    leaves = jax.tree.leaves((x, rest))
    if (
        type(x) is not DenseMatrix
        or jax.default_backend() != "cpu"
        or not all(map(_is_here, leaves))
    ):
        return None
    return jax.tree.map(np.asarray, (x, *rest))


def host_values(tree: Any) -> Any:
    """The same with arrays of NumPy, where all is known and on a CPU; else as it is."""
    leaves = jax.tree.leaves(tree)
    if jax.default_backend() != "cpu" or not all(map(_is_here, leaves)):
        return tree
    return jax.tree.map(np.asarray, tree)


def is_on_host(problem: Problem) -> bool:
    """Whether a problem is NumPy's, on the user's own columns, its loss too."""
    return is_in_numpy(problem.loss) and problem.basis is None and is_numpy(problem)


def host_errors() -> Any:
    """A context in which NumPy does not warn of overflows: as in XLA, results say so."""
    return np.errstate(over="ignore", invalid="ignore", divide="ignore", under="ignore")
