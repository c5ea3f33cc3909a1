"""Pictures of paths, cross-validation, stability, certificates, tuning and training; needs matplotlib.

May import `linear`, `training`, `tuning` and what these may import.

Each function draws on `ax` (a new figure unless given) and returns the `Axes`; none of them shows
it. Strengths fall from left to right: features enter on the way. Colours are those of Okabe
and Ito, which stay apart without colour vision, together with dashes.

**Example:**

```python
>>> import matplotlib; matplotlib.use("agg")
>>> import l1jax
>>> from l1jax import plot
>>> from sklearn.datasets import load_diabetes
>>> data = load_diabetes(as_frame=True)
>>> ax = plot.path(l1jax.path(data.data, data.target, l1jax.L1()), chosen=0.1)
>>> ax.figure.savefig("path.png")  # doctest: +SKIP

```
"""

from ._certificate import kkt
from ._paths import cross_validation, path, stability
from ._training import sparsity, widths
from ._tuning import tuning

__all__ = ["cross_validation", "kkt", "path", "sparsity", "stability", "tuning", "widths"]
