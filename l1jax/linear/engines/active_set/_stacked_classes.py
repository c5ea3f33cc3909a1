"""Several linear predictors as one: the problem of a loss of K predictors per row, on n·K rows.

Coefficient (j, k) is the feature j·K + k; its column is that of j in the rows of predictor k, and zero in the
others. The intercepts are K more columns, which no penalty has a say in. Where the same number added to all
predictors of a row changes nothing, as of classes, the last one is 0, and there are K − 1. So what follows a
path of one response follows it here.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float

from ...._arrays import in_numpy
from ...._groups import Groups
from ...._tracing import is_traced
from ...._types import Real
from ....losses import Loss
from ....losses._base import has_curvature_factors
from ....penalties import Penalty
from ....penalties._base import Masks
from ....penalties._forms import GroupForm, LinearForm
from ...data._matrix import DenseMatrix
from ...host._path_solution import PathSolution
from ...host._sparse_rows import dense
from ...model._problem import Point, Problem, structural_masks
from ._group_weights import has_group_weights
from ._penalty_weights import has_penalty_weights
from ._smooth_groups import serves_groups
from ._stacked_matrix import StackedMatrix


def can_stack(problem: Problem, pen: Penalty) -> bool:
    """Whether a problem is one of several linear predictors per row that can be followed as one."""
    loss, shape = problem.loss, problem.coef_shape
    if len(shape) != 2 or not pen.has_strength or loss.is_smoothed:
        return False
    if not (has_curvature_factors(loss) or loss.is_separable):
        return False
    if is_traced((problem, pen)) or problem.basis is not None:
        return False
    if problem.x.as_array() is None and not problem.x.is_distributed:
        return False
    null, size = problem.null, (math.prod(shape),)
    if not problem.is_valid or null.is_trivial or np.max(np.asarray(problem.norms)) == 0:
        return False
    flat = _StackedPenalty(_in_numpy(pen), np.asarray(null.unpenalised), shape, 0, False)
    if has_penalty_weights(flat, size):
        return True
    # Of squared error the responses have one Hessian: `GroupLeastSquares` takes them all at once.
    is_served = serves_groups(loss) and not loss.is_quadratic
    return is_served and has_group_weights(flat, size)


def _has_level(loss: Loss) -> bool:
    """Whether the same number added to all predictors of a row changes nothing."""
    return type(loss).identify_free is not Loss.identify_free


def _in_numpy(tree: Any) -> Any:
    return jax.tree.map(np.asarray, tree)


def stacked(problem: Problem, pen: Penalty) -> tuple[Problem, Penalty]:
    """Returns the problem and the penalty as those of one linear predictor per row."""
    (k,), dtype = problem.responses, np.float64
    has_level = _has_level(problem.loss)
    num_free = (k - has_level) * problem.fit_intercept
    null, array = _in_numpy(problem.null), problem.x.as_array()
    x = problem.x if array is None else DenseMatrix(np.asarray(array, dtype))
    last = np.asarray(null.point.intercept, dtype)[-1] * problem.fit_intercept * has_level
    pen = _StackedPenalty(_in_numpy(pen), null.unpenalised, problem.coef_shape, num_free, has_level)
    size = math.prod(problem.coef_shape) + num_free
    flat = dataclasses.replace(
        problem,
        x=StackedMatrix(x, k, num_free),
        y=np.asarray(problem.y, dtype).ravel(),
        s=np.repeat(np.asarray(problem.s, dtype), k),
        offset=(np.asarray(problem.offset, dtype) + last).ravel(),
        loss=_StackedLoss(_in_numpy(problem.loss), k),
        level=np.zeros(()),
        mean=np.zeros(size),
        inverse_scale=np.ones(size),
        norms=np.append(np.repeat(np.asarray(problem.norms), k), np.ones(num_free)),
        fit_intercept=False,
        null=dataclasses.replace(
            null,
            point=Point(_flat_point(problem, null.point), np.zeros(())),
            gradient=np.append(np.asarray(null.gradient, dtype).ravel(), np.zeros(num_free)),
            unpenalised=structural_masks(pen, (size,), np).unpenalised,
        ),
    )
    return flat, pen


def _flat_point(problem: Problem, point: Point) -> np.ndarray:
    """Returns the coefficients and the intercepts that are left, of unpenalised features less the last one."""
    beta, intercept = (np.asarray(part, np.float64) for part in (point.beta, point.intercept))
    if not _has_level(problem.loss):
        return np.append(beta.ravel(), intercept if problem.fit_intercept else [])
    beta = beta - np.where(np.asarray(problem.null.unpenalised)[:, None], beta[:, -1:], 0)
    rest = (intercept - intercept[-1])[: (len(intercept) - 1) * problem.fit_intercept]
    return np.append(beta.ravel(), rest)


def unstacked(
    problem: Problem, pen: Penalty, lams: np.ndarray, solution: PathSolution
) -> PathSolution:
    """Returns the solutions of a stacked problem as those of the problem that it was made of."""
    p, k = problem.coef_shape
    betas = np.asarray(dense(solution.betas))
    count = len(betas)
    intercepts = np.zeros((count, k))
    free = betas[:, p * k :]
    intercepts[:, : free.shape[1]] = free
    if problem.fit_intercept and _has_level(problem.loss):
        intercepts += np.asarray(problem.null.point.intercept)[-1]
    betas = np.ascontiguousarray(betas[:, : p * k]).reshape(count, p, k)
    unpenalised = np.flatnonzero(np.asarray(problem.null.unpenalised))
    betas[:, unpenalised] = problem.loss.identify_free(betas[:, unpenalised])
    for at in np.flatnonzero(lams[:count] == 0):  # where many coefficients predict the same
        free = np.asarray(pen.with_strength(lams[at]).masks((p, k)).unpenalised)
        betas[at] = np.where(free, problem.loss.identify_free(betas[at]), betas[at])
    return PathSolution(
        betas,
        intercepts,
        solution.num_steps,
        solution.num_solved,
        [],
        solution.interrupted,
        has_unpenalised=len(unpenalised) > 0,
    )


@in_numpy
class _StackedLoss(Loss):
    """A loss of K linear predictors, as a function of all of them in a row."""

    loss: Loss
    k: int = eqx.field(static=True)

    @property
    def smoothness(self) -> float | None:
        return self.loss.smoothness

    @property
    def is_separable(self) -> bool:
        return self.loss.is_separable

    @property
    def convex(self) -> bool:
        return self.loss.convex

    def _rows(self, values: Any) -> Any:
        return values.reshape(*values.shape[:-1], -1, self.k)

    def _of_rows(self, y: Real, eta: Real, s: Real) -> tuple[Any, Any, Any]:
        return self._rows(y), self._rows(eta), self._rows(s)[..., 0]

    def _flat(self, values: Any) -> Any:
        return values.reshape(*values.shape[:-2], -1)

    def per_row(self, y: Real, eta: Real) -> Float[Real, "..."]:
        return self.loss.per_row(self._rows(y), self._rows(eta))

    def value(self, y: Real, eta: Real, s: Real) -> Float[Real, "..."]:
        return self.loss.value(*self._of_rows(y, eta, s))

    def gradient(self, y: Real, eta: Real, s: Real) -> Any:
        return self.value_and_gradient(y, eta, s)[1]

    def value_and_gradient(self, y: Real, eta: Real, s: Real) -> tuple[Any, Any]:
        value, slope = self.loss.value_and_gradient(*self._of_rows(y, eta, s))
        return value, self._flat(slope)

    def polish_intercept(self, y: Real, eta: Real, s: Real) -> Any:
        """The shift of each predictor, in all rows."""
        shift = self.loss.polish_intercept(*self._of_rows(y, eta, s))
        return self._flat(np.broadcast_to(shift, self._rows(eta).shape))

    def fenchel_gap(self, y: Real, eta: Real, c: Real, s: Real) -> Any:
        y, eta, s = self._of_rows(y, eta, s)
        return self.loss.fenchel_gap(y, eta, c, s)

    def curvature(self, y: Real, eta: Real, s: Real) -> Any:
        return self._flat(self.loss.curvature(*self._of_rows(y, eta, s)))

    def majorant(self, y: Real, eta: Real, s: Real) -> Any:
        return self._flat(self.loss.majorant(*self._of_rows(y, eta, s)))

    def curvature_factors(self, y: Real, eta: Real, s: Real) -> tuple[Any, Any] | None:
        return self.loss.curvature_factors(*self._of_rows(y, eta, s))

    def hessian(self, y: Real, eta: Real, s: Real) -> Callable[[Any], Any]:
        image = self.loss.hessian(*self._of_rows(y, eta, s))
        return lambda u: self._flat(image(self._rows(u)))


@in_numpy
class _StackedPenalty(Penalty):
    """A penalty with a weight per coefficient (p, K), and as many coefficients without one as are `free`.

    With `drops_last` the last coefficient of an unpenalised feature is excluded: the same number added to
    all of them changes nothing.
    """

    pen: Penalty
    unpenalised: np.ndarray  # (p,): which features are
    coef_shape: tuple[int, ...] = eqx.field(static=True)
    free: int = eqx.field(static=True)
    drops_last: bool = eqx.field(static=True)

    @property
    def has_strength(self) -> bool:
        return True

    def with_strength(self, lam: Any) -> Penalty:
        pen = self.pen.with_strength(lam)
        return _StackedPenalty(pen, self.unpenalised, self.coef_shape, self.free, self.drops_last)

    def _split(self, x: Any) -> tuple[Any, Any]:
        size = math.prod(self.coef_shape)
        return x[:size].reshape(self.coef_shape), x[size:]

    def _joined(self, some: Any, rest: Any = 0) -> np.ndarray:
        some = np.broadcast_to(some, self.coef_shape).ravel()
        return np.append(some, np.full(self.free, rest, some.dtype))

    def value(self, x: Any) -> Array:
        return self.pen.value(self._split(x)[0])

    def prox(self, z: Any, step: Any = 1.0) -> Any:
        some, rest = self._split(z)
        return np.append(np.asarray(self.pen.prox(some, step)).ravel(), rest)

    def _is_last_of_unpenalised(self) -> np.ndarray:
        of_class = np.arange(self.coef_shape[1]) == self.coef_shape[1] - 1
        return self._joined(self.unpenalised[:, None] & of_class & self.drops_last, False)

    def masks(self, shape: tuple[int, ...]) -> Masks:
        del shape
        unpenalised, excluded = map(self._joined, self.pen.masks(self.coef_shape), (True, False))
        is_last = self._is_last_of_unpenalised()
        return Masks(unpenalised & ~is_last, excluded | is_last)

    def linear_form(self, shape: tuple[int, ...]) -> Any:
        del shape
        form = self.pen.linear_form(self.coef_shape)
        if form is None or form.has_limits:
            return None
        up, down, quad = map(self._joined, form[:3])
        is_last = self._is_last_of_unpenalised()
        up, down = np.where(is_last, np.inf, up), np.where(is_last, np.inf, down)
        return LinearForm(up, down, quad)

    def group_form(self, shape: tuple[int, ...]) -> Any:
        del shape
        form = self.pen.group_form(self.coef_shape)
        if form is None:
            return None
        # After the groups: one for each intercept, and one for what is excluded.
        num_groups, free = len(form.weight), self.free
        ids = np.repeat(form.groups.ids, self.coef_shape[1])
        ids = np.append(ids, num_groups + np.arange(free))
        is_last = self._is_last_of_unpenalised()
        ids[is_last] = num_groups + free
        weight, l1, quad = (np.append(part, np.zeros(free)) for part in form[1:])
        if is_last.any():
            weight, l1, quad = np.append(weight, np.inf), np.append(l1, 0), np.append(quad, 0)
        return GroupForm(Groups(ids), weight, l1, quad)
