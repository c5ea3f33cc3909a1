"""What the parts of this room ask of each other.

A path of a new loss is a `PathFollower` with its `RestrictedSolver`; a penalty of a new form, its
`PenaltyWeights`. `_working_set` brings them together.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np

from ...host._columns import Columns
from ._path_point import PathPoint


@runtime_checkable
class SymmetricMatrix(Protocol):
    """A Hessian or Gram matrix (w, w): an array, or one whose rows are computed when they are read."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> np.ndarray: ...

    def diagonal(self) -> np.ndarray: ...


@runtime_checkable
class PenaltyWeights(Protocol):
    """The weights of a penalty R_λ on p coefficients, or on some of them, at any λ; on the host."""

    @property
    def proportional(self) -> bool:
        """Whether R_λ = λ R₁."""
        ...

    @property
    def unpenalised(self) -> np.ndarray:
        """The coefficients of weight zero, (p,)."""
        ...

    @property
    def excluded(self) -> np.ndarray:
        """The coefficients of infinite weight, (p,)."""
        ...

    def at(self, lam: float) -> Any:
        """Returns the weights at λ, in the form that the follower's solvers take."""
        ...

    def ridge_gradient(self, lam: float, beta: np.ndarray) -> np.ndarray:
        """Returns ∇ of the quadratic part of R_λ, (p, *k)."""
        ...

    def fenchel_gap(self, lam: float, beta: np.ndarray, neg_gradient: np.ndarray) -> float:
        """Returns R_λ(β) + R_λ*(g) − ⟨β, g⟩ for g = −∇L.

        Of gradients over their weights only those count that have a quadratic part: the others must
        not be over.
        """
        ...

    def kkt_violation(self, neg_gradient: np.ndarray, lam: float, floor: float) -> np.ndarray:
        """Returns by how much −∇(L + quad/2) exceeds the weights, as a fraction of them, (p,).

        It is negative where there is no violation, and the nearer to zero, the nearer the feature is
        to entering. Weights below `floor` count as `floor`.
        """
        ...

    def close_over_groups(self, features: np.ndarray) -> np.ndarray:
        """Returns the features and all that can only enter together with them, sorted."""
        ...


@runtime_checkable
class RestrictedSolver(Protocol):
    """The solution on a working set, moved from one λ to another."""

    working: np.ndarray  # (w,): the features of the working set, sorted

    @property
    def weights(self) -> PenaltyWeights:
        """The penalty weights of the working set."""
        ...

    def to(self, lam: float) -> PathPoint:
        """Solves at λ; raises `NumericalBreakdown` if that fails."""
        ...

    def gap(self, lam: float, beta: np.ndarray, intercept: Any, neg_gradient: np.ndarray) -> float:
        """Returns the duality gap on the working set of a point β (w, *k) between two solutions.

        `neg_gradient`: −∇L, interpolated between the two.
        """
        ...

    def known_inverse(self) -> np.ndarray | None:
        """Returns the inverse of the Hessian on the active set, if the next solver can start from it."""
        ...


@runtime_checkable
class PathFollower(Protocol):
    """A loss and a penalty on concrete data, whose solutions are followed over λ."""

    @property
    def weights(self) -> PenaltyWeights:
        """The penalty weights of all features."""
        ...

    @property
    def columns(self) -> Columns:
        """The columns of X̃ on the host."""
        ...

    can_halve_steps: bool  # whether a solver that fails may succeed at a λ that is closer
    starts_anywhere: bool  # whether a solver may start at a point that is no solution

    def start(
        self, features: np.ndarray, values: np.ndarray, neg_gradient: np.ndarray
    ) -> PathPoint:
        """Returns the null model, in which the unpenalised features have these values."""
        ...

    def restricted_solver(self, working: np.ndarray, at: PathPoint, lam: float) -> RestrictedSolver:
        """Returns a solver on the working set, which starts at the solution `at` of `lam`."""
        ...

    def neg_gradients(self, points: list[PathPoint], out: np.ndarray) -> None:
        """Writes −∇L of all features at B points into `out` (B, p, *k)."""
        ...
