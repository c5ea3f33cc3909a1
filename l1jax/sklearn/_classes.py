"""Reading classes: what all classifiers have in common."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d, validate_data

from ._base import LinearModel, arguments


@arguments
class OfClasses(LinearModel):
    """A model of labels of two classes or more, each with a weight that multiplies those of its rows."""

    _parameter_constraints: ClassVar[dict] = {
        "class_weight": [dict, StrOptions({"balanced"}), None],
    }

    class_weight: Any = None

    def _validate(self, X: Any, y: Any) -> tuple[Any, np.ndarray]:
        X, y = validate_data(self, X, y, accept_sparse="csr", dtype=np.float64)
        check_classification_targets(y)
        y = column_or_1d(y, warn=True)
        self.classes_ = np.unique(y)
        if len(self.classes_) < 2:
            raise ValueError(
                f"{type(self).__name__} needs y of two classes or more, got one class: "
                f"{self.classes_[0]!r}."
            )
        return X, y

    def _targets(self, y: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.classes_, y).astype(np.float64)

    def _weights(self, weights: np.ndarray, y: np.ndarray) -> np.ndarray:
        if self.class_weight is None:
            return weights
        of_row = np.searchsorted(self.classes_, y)
        if self.class_weight == "balanced":
            totals = np.bincount(of_row, weights)
            of_class = weights.sum() / (len(totals) * np.where(totals > 0, totals, 1))
        else:
            of_class = compute_class_weight(self.class_weight, classes=self.classes_, y=y)
        return weights * of_class[of_row]
