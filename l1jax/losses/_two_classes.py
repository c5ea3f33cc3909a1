"""What losses of labels 0 and 1 have in common."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int

from .._types import Real
from ._base import Loss
from ._strata import check_labels


class TwoClasses(Loss):
    """A loss of labels y in {0, 1}, (n,), which predicts the label 1 where η > 0."""

    def classes(self, eta: Real) -> Int[Real, "..."]:
        return (eta > 0).astype(np.int32)

    def accepts(self, y: Real) -> Bool[Real, " n"]:
        return (y == 0) | (y == 1)

    def check_targets(self, y: np.ndarray) -> None:
        self.check_shape(y.shape)
        check_labels(y, self, 2)
