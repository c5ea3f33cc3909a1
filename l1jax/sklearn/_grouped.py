"""Group and multi-task penalties: features that enter together."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from .._groups import Groups
from ..linear import Fit
from ..penalties import GroupL1, NonNegativeGroupL1, Penalty, SparseGroupL1
from ._base import (
    COORDINATE_DESCENT,
    NOT_NEGATIVE,
    RATIO,
    AtAlpha,
    LinearModel,
    OfSeveralTargets,
    Regressor,
    arguments,
    elastic_net,
    numbers,
)
from ._padding import Data
from ._paths import enet_path, task_penalty


@arguments
class OfGroups(LinearModel):
    """Models with `groups` (None: each feature by itself) and a weight for each group."""

    _parameter_constraints: ClassVar[dict] = {
        "groups": ["array-like", Groups, None],
        "weights": ["array-like", None],
    }

    _ratio_unless_given: ClassVar[float] = 0.0

    groups: Any = None
    weights: Any = None

    def _penalty_at(self, data: Data, alpha: Any, l1_ratio: Any) -> Penalty:
        """The penalty of the columns of data; those that were added are a group of their own."""
        positive = getattr(self, "positive", False)
        ids, weights = self._read_groups(data.p)
        count, added = len(weights), data.columns - data.p
        if count == data.p:  # groups of one: this is the lasso, which has faster engines
            per_column = (l1_ratio + (1 - l1_ratio) * weights)[ids]
            per_column = np.pad(per_column, (0, added), constant_values=1.0)
            is_plain = (per_column == 1).all()
            return elastic_net(alpha, 1.0, positive, None if is_plain else per_column)
        if added:
            ids, weights = np.append(ids, np.full(added, count)), np.append(weights, 1.0)
        if l1_ratio:
            return SparseGroupL1(float(alpha), ids, float(l1_ratio), weights=weights)
        kind: Any = NonNegativeGroupL1 if positive else GroupL1
        return kind(float(alpha), ids, weights)

    def _read_groups(self, p: int) -> tuple[np.ndarray, np.ndarray]:
        """The number of the group of each feature, (p,), and the weights of the groups."""
        groups = Groups.of(np.arange(p) if self.groups is None else self.groups)
        labels, ids = groups.labels, groups.ids
        if ids.shape != (p,):
            raise ValueError(
                f"groups must hold one id per column of X, shape ({p},), got shape {ids.shape}."
            )
        if self.weights is None:
            return ids, np.sqrt(groups.sizes)
        weights = numbers(self.weights, "weights", NOT_NEGATIVE)
        if weights.shape != labels.shape:
            raise ValueError(
                f"weights must hold one number per group, in the order of their sorted ids, shape "
                f"({len(labels)},), got {self.weights!r}."
            )
        return ids, weights


@arguments
class GroupLasso(OfGroups, AtAlpha, Regressor):
    """Least squares with the penalty α Σ_g √p_g‖β_g‖₂ over groups of p_g features, each in or out whole.

    `groups` (p,): an integer or a string for each feature, in any order (None: each by itself,
    which is the lasso). `weights`: one per group, in the order of the sorted ids; the square root
    of its size unless given. `positive`: β ≥ 0. All else as for `Lasso`. Source: Yuan and Lin (2006).

    **Example:**

    ```python
    >>> import numpy as np
    >>> from l1jax.sklearn import GroupLasso
    >>> X = np.array([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    >>> model = GroupLasso(0.5, groups=["a", "a", "b"]).fit(X, X @ [2.0, 0.0, 0.3])
    >>> model.coef_.round(3)  # b is out
    array([1.293, 0.   , 0.   ])

    ```
    """

    _parameter_constraints: ClassVar[dict] = {"positive": ["boolean"]}

    positive: Any = False


@arguments
class SparseGroupLasso(OfGroups, AtAlpha, Regressor):
    """Least squares with the penalty α Σ_g [ρ‖β_g‖₁ + (1−ρ)√p_g‖β_g‖₂], ρ = `l1_ratio`.

    It selects groups, and features within them. `l1_ratio` in [0, 1]; all else as for
    `GroupLasso`. Source: Simon, Friedman, Hastie and Tibshirani (2013).

    **Example:**

    ```python
    >>> import numpy as np
    >>> from l1jax.sklearn import SparseGroupLasso
    >>> X = np.array([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    >>> model = SparseGroupLasso(0.5, groups=[0, 0, 1]).fit(X, X @ [2.0, 0.3, 0.3])
    >>> (model.coef_ != 0).tolist()
    [True, True, False]

    ```
    """

    _parameter_constraints: ClassVar[dict] = {"l1_ratio": [RATIO]}

    l1_ratio: Any = 0.5


class OfTasks(OfSeveralTargets, Regressor):
    """Models of targets y (n, k) that share their features."""

    def _validate(self, X: Any, y: Any) -> tuple[Any, np.ndarray]:
        X, y = super()._validate(X, y)
        if y.ndim == 1:
            raise ValueError(
                f"{type(self).__name__} needs y of shape (n, k), got {y.shape}. For one target use Lasso, "
                "or pass y[:, None]."
            )
        return X, y

    def _penalty_at(self, data: Data, alpha: Any, l1_ratio: Any) -> Penalty:
        return task_penalty(data, alpha, l1_ratio)

    def _targets(self, y: np.ndarray) -> np.ndarray:
        return y[:, 0] if y.shape[1] == 1 else y

    def _keep(self, fit: Fit, data: Data) -> None:
        super()._keep(fit, data)
        self.coef_, self.intercept_ = np.atleast_2d(self.coef_), np.atleast_1d(self.intercept_)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.single_output = False
        return tags


@arguments
class _OfTasksAtAlpha(OfTasks, AtAlpha):
    """Those of one strength."""

    _parameter_constraints: ClassVar[dict] = {
        **COORDINATE_DESCENT,
    }
    path = staticmethod(enet_path)

    copy_X: Any = True
    random_state: Any = None
    selection: Any = "cyclic"


@arguments
class MultiTaskLasso(_OfTasksAtAlpha):
    """Least squares for k targets, ½n⁻¹‖Y − XW − b‖² + α Σⱼ‖Wⱼ‖₂: they share their features.

    y (n, k); `coef_` (k, p), `intercept_` (k,). All else as for `Lasso`.
    Source: Obozinski, Taskar and Jordan (2010).

    **Example:**

    ```python
    >>> from l1jax.sklearn import MultiTaskLasso
    >>> X, Y = [[0.0, 1.0], [1.0, 0.0], [2.0, 1.0]], [[0.0, 0.0], [1.0, 2.0], [2.0, 4.0]]
    >>> MultiTaskLasso(alpha=0.1).fit(X, Y).coef_.round(3)
    array([[0.933, 0.   ],
           [1.866, 0.   ]])

    ```
    """


@arguments
class MultiTaskElasticNet(_OfTasksAtAlpha):
    """Least squares for k targets with the penalty α(ρ Σⱼ‖Wⱼ‖₂ + ½(1−ρ)‖W‖²), ρ = `l1_ratio`.

    y (n, k); `coef_` (k, p), `intercept_` (k,); `l1_ratio` in [0, 1]. All else as for `Lasso`.

    **Example:**

    ```python
    >>> from l1jax.sklearn import MultiTaskElasticNet
    >>> X, Y = [[0.0, 1.0], [1.0, 0.0], [2.0, 1.0]], [[0.0, 0.0], [1.0, 2.0], [2.0, 4.0]]
    >>> MultiTaskElasticNet(alpha=0.1).fit(X, Y).coef_.round(3)
    array([[0.899, 0.   ],
           [1.798, 0.   ]])

    ```
    """

    _parameter_constraints: ClassVar[dict] = {"l1_ratio": [RATIO]}

    l1_ratio: Any = 0.5
