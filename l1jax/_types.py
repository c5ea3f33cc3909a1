"""Names for what annotations say often."""

import jax
import numpy as np

AnyArray = jax.Array | np.ndarray  # of JAX, or of NumPy before the data meets a solver
