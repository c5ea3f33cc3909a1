"""The base of all estimators: it reads data, calls `l1jax.fit`, and sets scikit-learn's attributes."""

from __future__ import annotations

import dataclasses
import itertools
from numbers import Integral, Real
from typing import Any, ClassVar, dataclass_transform

import jax
import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator, RegressorMixin, _fit_context
from sklearn.utils._param_validation import Interval, InvalidParameterError, StrOptions
from sklearn.utils.extmath import safe_sparse_dot
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from .. import linear
from ..linear import Fit
from ..linear.data._matrix import DataMatrix
from ..losses import Loss, SquaredError
from ..penalties import ElasticNet, NonNegativeElasticNet, Penalty
from ._padding import Data, padded

NOT_NEGATIVE = Interval(Real, 0, None, closed="left")
POSITIVE = Interval(Real, 0, None, closed="neither")
RATIO = Interval(Real, 0, 1, closed="both")

_SQUARED_ERROR = SquaredError()


# Arguments of scikit-learn's coordinate descent that choose how it computes: an exact solution has none.
COORDINATE_DESCENT: dict[str, list] = {
    "copy_X": ["boolean"],
    "random_state": ["random_state"],
    "selection": [StrOptions({"cyclic", "random"})],
}


@dataclass_transform(kw_only_default=True, eq_default=False, field_specifiers=(dataclasses.field,))
def arguments(cls: type) -> type:
    """Makes the annotated attributes of an estimator the arguments of its constructor, by keyword.

    `_parameter_constraints` of a class are those of its arguments alone; here it gets those of its bases too.
    """
    known = [vars(base).get("_parameter_constraints", {}) for base in reversed(cls.__mro__)]
    cls._parameter_constraints = dict(itertools.chain.from_iterable(one.items() for one in known))
    return dataclasses.dataclass(kw_only=True, eq=False, repr=False)(cls)


def first(default: Any) -> Any:
    """An argument that may be given by position."""
    return dataclasses.field(default=default, kw_only=False)


def numbers(given: Any, name: str, range: Interval) -> np.ndarray:
    """One number or several in a range, as an array (n,) in float64."""
    found = np.atleast_1d(np.asarray(given))
    is_list = found.ndim == 1 and found.size and found.dtype.kind in "iuf"
    if not is_list or not all(one in range for one in found.tolist()):
        raise InvalidParameterError(f"{name} must be numbers, each {range}; got {given!r}.")
    return found.astype(np.float64)


class _Estimator(BaseEstimator):
    """What a fit sets: no arguments."""

    coef_: np.ndarray  # that of one target (p,), of more (k, p)
    intercept_: Any
    n_features_in_: int


@arguments
class LinearModel(_Estimator):
    """A penalised linear model: subclasses say its loss, its penalty and how targets are read."""

    _parameter_constraints: ClassVar[dict] = {
        "fit_intercept": ["boolean"],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [NOT_NEGATIVE],
    }
    _pads_columns: ClassVar[bool] = True  # whether columns of zeros change nothing
    _ratio_unless_given: ClassVar[float] = 1.0  # the `l1_ratio` of those without such an argument

    fit_intercept: Any = True
    max_iter: Any = 20_000
    tol: Any = 1e-6

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Fits the model to X (n, p), dense or sparse, and y; `sample_weight` (n,) ≥ 0."""
        data = self._read(X, y, sample_weight)
        self._keep(self._fit(data), data)
        return self

    def _loss(self) -> Loss:
        return _SQUARED_ERROR

    def _penalty(self, data: Data) -> Penalty:
        """The penalty of the columns of data, with its strength."""
        raise NotImplementedError

    def _penalty_at(self, data: Data, alpha: Any, l1_ratio: Any) -> Penalty:
        """The penalty of this strength, and of this ratio where it has one."""
        raise NotImplementedError

    def _read(self, X: Any, y: Any, sample_weight: Any) -> Data:
        """The data in float64, padded; sets what scikit-learn remembers of them."""
        _refuse_operator(self, X)
        X, y = self._validate(X, y)
        weights = self._weights(_check_sample_weight(sample_weight, X, dtype=np.float64), y)
        return padded(self._design(X), self._targets(y), weights, self._pads_columns)

    def _design(self, X: Any) -> Any:
        """The matrix that is fitted."""
        return X

    def _validate(self, X: Any, y: Any) -> tuple[Any, np.ndarray]:
        X, y = validate_data(self, X, y, accept_sparse="csr", dtype=np.float64, y_numeric=True)
        return X, y

    def _targets(self, y: np.ndarray) -> np.ndarray:
        """The targets as the loss wants them."""
        return y.astype(np.float64)

    def _weights(self, weights: np.ndarray, y: np.ndarray) -> np.ndarray:
        del y
        return weights

    def _settings(self, data: Data) -> dict[str, Any]:
        """The arguments that `fit`, `path` and `cross_validate` have in common."""
        return {
            "loss": self._loss(),
            "fit_intercept": bool(self.fit_intercept),
            "sample_weight": data.weights,
            "tol": self.tol,
            "max_steps": self.max_iter,
        }

    def _fit(self, data: Data) -> Any:
        return self._fit_one(data, data.y, getattr(self, "fit_", None))

    def _fit_one(self, data: Data, y: np.ndarray, before: Any) -> Fit:
        """The fit of these targets; with `warm_start` from the fit before, where that is of such data."""
        start = None
        if getattr(self, "warm_start", False) and isinstance(before, Fit):
            coef = np.zeros((data.columns, *before.coef.shape[1:]))
            if before.coef.shape == (data.p, *y.shape[1:]):
                coef[: data.p] = before.coef
                start = dataclasses.replace(before, stored_coef=coef)
        return linear.fit(data.X, y, self._penalty(data), init=start, **self._settings(data))

    def _trim(self, fit: Fit, data: Data) -> Fit:
        """The fit of the columns that count, in NumPy, with their names."""
        # A path of NumPy arrays has NumPy scalars for its fits.
        fit = jax.tree.map(
            lambda leaf: np.asarray(leaf) if isinstance(leaf, jax.Array | np.generic) else leaf, fit
        )
        coef = fit.coef
        at = coef.ndim - 1 - fit.several_responses
        names = getattr(self, "feature_names_in_", None)
        return dataclasses.replace(
            fit,
            stored_coef=coef[(slice(None),) * at + (slice(data.p),)],
            feature_names=None if names is None else tuple(names),
            options=self._options(fit.options, data),
        )

    def _options(self, options: Any, data: Data) -> Any:
        """What it was fitted with, of the rows that count; the penalty may be of columns that do not."""
        pen = options.pen if data.columns == data.p else None
        return dataclasses.replace(options, sample_weight=options.sample_weight[: data.n], pen=pen)

    def _keep(self, fit: Fit, data: Data) -> None:
        """Sets the attributes of a fitted model."""
        self.fit_ = fit = self._trim(fit, data)
        # Copies, which may be written to: a fit's arrays are its own.
        self.coef_ = np.array(fit.coef.T)
        self.intercept_ = np.array(fit.intercept) if fit.several_responses else float(fit.intercept)
        self.n_iter_ = max(1, int(fit.num_steps))
        self.dual_gap_ = float(fit.gap)

    def _linear_predictor(self, X: Any) -> np.ndarray:
        """η for new rows, (m,) or (m, k)."""
        check_is_fitted(self)
        _refuse_operator(self, X)
        X = validate_data(self, X, accept_sparse="csr", dtype=np.float64, reset=False)
        return safe_sparse_dot(X, self.coef_.T, dense_output=True) + self.intercept_

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


@arguments
class AtAlpha(LinearModel):
    """A model of one strength."""

    _parameter_constraints: ClassVar[dict] = {
        "alpha": [NOT_NEGATIVE],
        "verbose": ["verbose"],
        "warm_start": ["boolean"],
    }

    alpha: Any = first(1.0)
    verbose: Any = 0
    warm_start: Any = False

    def _penalty(self, data: Data) -> Penalty:
        return self._penalty_at(
            data, self.alpha, getattr(self, "l1_ratio", self._ratio_unless_given)
        )


@arguments
class OfElasticNet(LinearModel):
    """A model with the penalty α Σⱼ weightⱼ(ρ|wⱼ| + ½(1−ρ)wⱼ²), of w ≥ 0 if asked."""

    _parameter_constraints: ClassVar[dict] = {
        "positive": ["boolean"],
        "weights": ["array-like", None],
    }

    positive: Any = False
    weights: Any = None

    def _penalty_at(self, data: Data, alpha: Any, l1_ratio: Any) -> Penalty:
        weights = feature_weights(self.weights, data)
        return elastic_net(alpha, l1_ratio, self.positive, weights)


@arguments
class AtAlphaAndRatio(OfElasticNet, AtAlpha):
    """A model of one strength and one ratio, by default that of the lasso."""

    _parameter_constraints: ClassVar[dict] = {"l1_ratio": [RATIO]}

    l1_ratio: Any = 1.0


class Regressor(RegressorMixin, LinearModel):
    """A model that predicts numbers."""

    @property
    def sparse_coef_(self) -> Any:
        """`coef_` as a sparse matrix of one row per target."""
        return sparse.csr_matrix(self.coef_)

    def predict(self, X: Any) -> np.ndarray:
        """Predictions for new rows, (m,), or (m, k) for k targets."""
        return self._linear_predictor(X)


def _refuse_operator(estimator: Any, X: Any) -> None:
    """Raises for a matrix that is known by its products: scikit-learn reads entries."""
    if isinstance(X, DataMatrix):
        raise TypeError(
            f"X must be an array, a sparse matrix or a data frame for {type(estimator).__name__}, got the "
            f"l1jax.DataMatrix {type(X).__name__}: l1jax.fit takes it."
        )


class OfSeveralTargets:
    """Reads targets y (n, k) with k ≥ 1, and says so."""

    def _validate(self, X: Any, y: Any) -> tuple[Any, np.ndarray]:
        X, y = validate_data(
            self, X, y, accept_sparse="csr", dtype=np.float64, y_numeric=True, multi_output=True
        )  # fmt: skip
        return X, y

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()  # pyright: ignore[reportAttributeAccessIssue]
        tags.target_tags.multi_output = True
        return tags


def feature_weights(given: Any, data: Data) -> np.ndarray | None:
    """One penalty weight per column of data, ones for those that were added; None for equal ones."""
    if given is None:
        return None
    weights = numbers(given, "weights", NOT_NEGATIVE)
    if weights.shape != (data.p,):
        raise ValueError(
            f"weights must hold one number per column of X, shape ({data.p},), got {given!r}."
        )
    return np.pad(weights, (0, data.columns - data.p), constant_values=1.0)


def elastic_net(
    alpha: Any, l1_ratio: Any = 1.0, positive: Any = False, weights: Any = None
) -> ElasticNet:
    """One class for the lasso too, so that both are one program."""
    kind = NonNegativeElasticNet if positive else ElasticNet
    return kind(float(alpha), float(l1_ratio), weights)
