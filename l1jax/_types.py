"""Names for what annotations say often."""

import jax
import numpy as np

AnyArray = jax.Array | np.ndarray  # of JAX, or of NumPy before the data meets a solver
Real = jax.Array | np.ndarray | np.generic  # where NumPy has a number for an array without axes
