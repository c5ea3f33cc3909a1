"""A quadratic program with separable penalty weights, at its solution.

    minimise over x (w,):   ½ xᵀQx − cᵀx + Σⱼ (upⱼ xⱼ⁺ + downⱼ xⱼ⁻)

x is zero off the active set A, and keeps its signs on it. With g = c − Qx, the negative gradient of
the quadratic, x is optimal if gⱼ is upⱼ where xⱼ > 0, −downⱼ where xⱼ < 0, and between the two where
xⱼ = 0. What follows the solution while c and the weights change: `homotopy`, exactly, from one change
of A to the next; `primal_dual`, by guesses at A. All of it is NumPy on the host, since the size of A
changes at every step.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ._active_set import ActiveSet
from ._factor import Factor
from ._protocols import SymmetricMatrix

_REFINED = 1e-13  # residual of the equations on A, as a fraction of c and the weights
_REFINEMENTS = 6
_INFINITE = 1e150  # stands for an infinite weight, where weights are subtracted


class Bounds(NamedTuple):
    """The weights: −down ≤ g ≤ up (w,), where infinite ones are large numbers."""

    up: np.ndarray
    down: np.ndarray

    @classmethod
    def of(cls, up: np.ndarray, down: np.ndarray) -> Bounds:
        return cls(np.minimum(up, _INFINITE), np.minimum(down, _INFINITE))


class Checkpoint(NamedTuple):
    """What it takes to return to a solution."""

    indices: np.ndarray
    signs: np.ndarray
    values: np.ndarray
    neg_gradient: np.ndarray
    has_inverse: bool


class QuadraticProgram:
    """The problem, and its solution: the active set, a factor of Q on it, and g."""

    def __init__(
        self,
        hessian: SymmetricMatrix,
        neg_gradient: np.ndarray,
        weights: tuple[np.ndarray, np.ndarray],
        active: ActiveSet,
        inverse: np.ndarray | None = None,
        ridge: np.ndarray | float = 0.0,
        linear: np.ndarray | None = None,
    ):
        """Starts at a solution: `active`, at which `neg_gradient` (w,) meets the `weights` (up, down).

        Q = hessian + diag(ridge), (w, w). `inverse`: Q_AA⁻¹, if it is known. `linear`: c (w,), if it
        never changes; then `primal_dual` and `refine` compute g from it, against drift.
        """
        self.active = active
        self.factor = Factor(hessian, ridge, active, inverse)
        self.neg_gradient, self.linear = neg_gradient.copy(), linear
        # Whether the stored g may have lost digits: it is computed afresh before it is refined.
        self.has_drifted = True
        self.bounds = Bounds.of(*weights)

    @property
    def x(self) -> np.ndarray:
        return self.active.x

    @property
    def known_inverse(self) -> np.ndarray | None:
        """A copy of Q_AA⁻¹, if homotopy has left one."""
        return self.factor.inverse.copy() if self.factor.has_inverse else None

    def add_ridge(self, ridge: np.ndarray) -> None:
        """Replaces Q by Q + diag(ridge), at the same x and g: c becomes c + ridge · x."""
        self.factor.add_ridge(ridge)

    def stationary(self, bounds: Bounds) -> np.ndarray:
        """Returns g on A at a solution of these signs (m,): up, −down, or zero if unpenalised."""
        at, signs = self.active.indices, self.active.signs
        return np.where(signs > 0, bounds.up[at], np.where(signs < 0, -bounds.down[at], 0))

    def differentiate(self) -> None:
        """Computes g = c − Qx afresh."""
        assert self.linear is not None
        self.neg_gradient = self.linear - self.factor.product(self.active.values)
        self.has_drifted = False

    def enter(self, j: int, sign: float, value: float, pivot: tuple[np.ndarray, float]) -> None:
        """Adds coordinate j to A, with what `Factor.pivot` says of it."""
        self.active.append(j, sign, value)
        self.factor.append(*pivot)

    def leave(self, k: int) -> None:
        """Takes the coordinate in place k from A."""
        self.factor.remove(k)
        self.active.remove(k)

    def exchange(self, leaving: np.ndarray, entering: np.ndarray) -> None:
        """Takes the coordinates in some places from A, and adds others at zero, by Cholesky."""
        active, factor, g = self.active, self.factor, self.neg_gradient
        at, values = active.indices[leaving], active.values[leaving]
        g += values @ factor.rows[leaving]
        g[at] += factor.ridge[at] * values
        factor.exchange(leaving, entering)
        for k in leaving[::-1].tolist():
            active.remove(k)
        for j in entering.tolist():
            active.append(j, 1.0 if g[j] > 0 else -1.0, 0.0)
        factor.extend(len(entering))

    def checkpoint(self) -> Checkpoint:
        active = self.active
        return Checkpoint(
            active.indices.copy(),
            active.signs.copy(),
            active.values.copy(),
            self.neg_gradient,
            self.factor.has_inverse,
        )

    def restore(self, to: Checkpoint) -> None:
        self.active.replace(to.indices, to.signs, to.values)
        self.factor.restore(to.has_inverse)
        self.neg_gradient, self.has_drifted = to.neg_gradient, True

    def refine(self) -> None:
        """Solves Q_AA x_A = (c − weights)_A by iterative refinement, against drift; c must be known."""
        assert self.linear is not None
        active, bounds = self.active, self.bounds
        weights = np.where(active.signs < 0, bounds.down[active.indices], bounds.up[active.indices])
        scale = max(
            np.abs(self.linear).max(initial=0), (weights * np.abs(active.signs)).max(initial=0)
        )
        last = np.inf
        for attempt in range(_REFINEMENTS):
            if self.has_drifted:
                self.differentiate()
            residual = self.neg_gradient[active.indices] - self.stationary(bounds)
            error = np.abs(residual).max(initial=0)
            if error <= _REFINED * scale:
                break
            if error > 0.5 * last:  # the factorisation has drifted as well
                if attempt > 3:
                    break
                self.factor.invert()
            last = error
            active.values[:] += self.factor.solve(residual)
            self.has_drifted = True
        # A coordinate that rounding has left on the wrong side of zero is at its knot.
        active.values[active.values * active.signs < 0] = 0
