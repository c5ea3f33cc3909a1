"""Names for what annotations say often."""

from typing import TYPE_CHECKING, Any

import jax
import numpy as np

AnyArray = jax.Array | np.ndarray  # of JAX, or of NumPy before the data meets a solver

# What formulas for NumPy and JAX take and return: NumPy has numbers for arrays without axes. Which of them it
# is follows from what a formula is given, which a type checker cannot see.
if TYPE_CHECKING:
    Real = Any
else:
    Real = jax.Array | np.ndarray | np.generic
