"""Cox's proportional hazards: times until an event, some of them censored."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.validation import _check_sample_weight, check_array, column_or_1d, validate_data

from ..linear.selection._scores import c_index
from ..losses import Cox, Loss
from ..losses._cox import survival_columns
from ._base import AtAlphaAndRatio, Regressor, arguments


@arguments
class CoxRegressor(AtAlphaAndRatio, Regressor):
    """Cox regression: minus the log partial likelihood over n, plus α(ρ‖w‖₁ + ½(1−ρ)‖w‖²).

    y (n, 2) holds times and whether the event was observed at them (1) or observation ended (0), and so
    does a structured array of scikit-survival; y (n,) holds times at which it was observed, all of them.
    `ties`: "breslow" or "efron". `predict` gives the log of the relative risk, larger for an earlier
    event; `score` is Harrell's C, the fraction of pairs in the right order. There is no intercept. All
    else as for `L1PoissonRegressor`. Source: Cox (1972).

    **Example:**

    ```python
    >>> import numpy as np
    >>> from l1jax.sklearn import CoxRegressor
    >>> X, y = [[0.0], [1.0], [2.0], [3.0]], [[4.0, 1], [3.0, 0], [1.5, 1], [2.0, 1]]
    >>> model = CoxRegressor(alpha=0.1).fit(X, y)
    >>> bool(model.coef_[0] > 0), round(model.score(X, y), 2)
    (True, 0.8)

    ```
    """

    _parameter_constraints: ClassVar[dict] = {
        "ties": [StrOptions({"breslow", "efron"})],
    }
    fit_intercept: ClassVar[Any] = True  # pyright: ignore[reportIncompatibleVariableOverride]

    ties: Any = "breslow"

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Harrell's C of the predicted risks: ½ for none but chance, 1 at best."""
        eta = self.predict(X)
        y = _times(np.asarray(check_array(_columns(y), ensure_2d=False), np.float64))
        weights = _check_sample_weight(sample_weight, X, dtype=np.float64)
        return float(c_index(self._loss(), y, eta[None], weights)[0])

    def _loss(self) -> Loss:
        return Cox(self.ties)

    def _validate(self, X: Any, y: Any) -> tuple[Any, np.ndarray]:
        X, y = validate_data(
            self, X, _columns(y), accept_sparse="csr", dtype=np.float64, y_numeric=True, multi_output=True
        )  # fmt: skip
        return X, _times(y)


def _columns(y: Any) -> Any:
    """(time, event) of a structured array, as of scikit-survival; all else as it is."""
    return survival_columns(y) if getattr(getattr(y, "dtype", None), "names", None) else y


def _times(y: np.ndarray) -> np.ndarray:
    """(time, event) of each row, (n, 2)."""
    if y.ndim == 1 or y.shape[1] == 1:
        time = column_or_1d(y, warn=True)
        return np.stack([time, np.ones_like(time)], axis=1)
    if y.shape[1] != 2 or not np.isin(y[:, 1], (0, 1)).all():
        raise ValueError(
            "y must hold times, shape (n,), or times and events, shape (n, 2), with 1 where the event "
            f"was observed and 0 where observation ended; got shape {y.shape}."
        )
    return y
