"""Several linear predictors as one: the problem of a loss of K predictors per row, on n·K rows.

Coefficient (j, k) is the feature j·K + k; its column is that of j in the rows of predictor k, and zero in the
others. The intercepts are K − 1 more columns, which no penalty has a say in: the last one is 0, as the same
number added to all predictors of a row changes nothing. So what follows a path of one response follows it here.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float

from ...._arrays import in_numpy, is_in_numpy
from ...._types import Real
from ....losses import Loss
from ....penalties import Penalty
from ....penalties._forms import LinearForm
from ...data._host import DenseColumns
from ...data._matrix import DataMatrix
from ...host._path_solution import PathSolution
from ...model._on_host import is_on_host
from ...model._problem import Point, Problem
from ._penalty_weights import has_penalty_weights


def can_stack(problem: Problem, pen: Penalty) -> bool:
    """Whether a problem is one of several linear predictors per row that can be followed as one."""
    loss, shape = problem.loss, problem.coef_shape
    if len(shape) != 2 or loss.is_quadratic or loss.rows_interact or not is_on_host(problem):
        return False
    if not problem.is_valid or problem.null.is_trivial or problem.null.unpenalised.any():
        return False
    is_known = is_in_numpy(pen) and np.max(problem.norms) > 0
    flat = _StackedPenalty(pen, shape, 0)
    return is_known and pen.has_strength and has_penalty_weights(flat, (math.prod(shape),))


def stacked(problem: Problem, pen: Penalty) -> tuple[Problem, Penalty]:
    """Returns the problem and the penalty as those of one linear predictor per row."""
    (k,), dtype = problem.responses, np.float64
    free = (k - 1) * problem.fit_intercept
    null, x = problem.null, np.asarray(problem.x.as_array(), dtype)
    intercepts = np.asarray(null.point.intercept, dtype)
    p = x.shape[1]
    beta = np.append(np.zeros(p * k), (intercepts - intercepts[-1])[:free])
    offset = np.asarray(problem.offset, dtype) + intercepts[-1] * problem.fit_intercept
    size = p * k + free
    flat = dataclasses.replace(
        problem,
        x=_StackedMatrix(x, k, free),
        y=np.asarray(problem.y, dtype).ravel(),
        s=np.repeat(np.asarray(problem.s, dtype), k),
        offset=offset.ravel(),
        loss=_StackedLoss(problem.loss, k),
        level=np.zeros(()),
        mean=np.zeros(size),
        inverse_scale=np.ones(size),
        norms=np.append(np.repeat(problem.norms, k), np.ones(free)),
        fit_intercept=False,
        null=dataclasses.replace(
            null,
            point=Point(beta, np.zeros(())),
            gradient=np.append(np.asarray(null.gradient, dtype).ravel(), np.zeros(free)),
            unpenalised=np.arange(size) >= p * k,
        ),
    )
    return flat, _StackedPenalty(pen, (p, k), free)


def unstacked(
    problem: Problem, pen: Penalty, lams: np.ndarray, solution: PathSolution
) -> PathSolution:
    """Returns the solutions of a stacked problem as those of the problem that it was made of."""
    p, k = problem.coef_shape
    count = len(solution.betas)
    intercepts = np.zeros((count, k))
    free = solution.betas[:, p * k :]
    intercepts[:, : free.shape[1]] = free
    if problem.fit_intercept:
        intercepts += np.asarray(problem.null.point.intercept)[-1]
    betas = np.ascontiguousarray(solution.betas[:, : p * k]).reshape(count, p, k)
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
        has_unpenalised=False,
    )


class _StackedMatrix(DataMatrix):
    """The columns of all coefficients, of which only X is kept."""

    x: np.ndarray
    k: int = eqx.field(static=True)
    free: int = eqx.field(static=True)  # columns of intercepts

    @property
    def shape(self) -> tuple[int, int]:
        n, p = self.x.shape
        return n * self.k, p * self.k + self.free

    @property
    def dtype(self) -> Any:
        return self.x.dtype

    def dot(self, b: Any) -> Any:
        return self.to_host().part_of(np.arange(self.shape[1])).dot(b)

    def rdot(self, r: Any) -> Any:
        return self.to_host().part_of(np.arange(self.shape[1])).rdot(r)

    def columns(self, at: Any) -> Any:
        return self.to_host().part_of(np.asarray(at)).dense()

    def to_host(self) -> Any:
        return _StackedColumns(self.x, self.k, self.free)


class _StackedColumns:
    """`HostMatrix` of a `_StackedMatrix`: a copy of a column of it is its number."""

    def __init__(self, x: np.ndarray, k: int, free: int):
        self.x, self.k, self.free = x, k, free
        self.added = np.zeros(0, int)

    def add(self, new: np.ndarray) -> None:
        self.added = np.append(self.added, new)

    def part(self, places: np.ndarray) -> _StackedPart:
        return self.part_of(self.added[places])

    def part_of(self, at: np.ndarray) -> _StackedPart:
        return _StackedPart(self, at)

    def rdot(self, residuals: np.ndarray, out: np.ndarray) -> None:
        (n, p), k, count = self.x.shape, self.k, residuals.shape[1]
        rows = residuals.reshape(n, k * count)
        products = (self.x.T @ rows).reshape(p * k, count)
        out[:, : p * k] = products.T
        out[:, p * k :] = rows.sum(axis=0).reshape(k, count)[: self.free].T


class _StackedPart:
    """`HostColumns`: some of the columns, as the columns of X that each predictor has."""

    def __init__(self, matrix: _StackedColumns, at: np.ndarray):
        n, p = matrix.x.shape
        self.shape, self.k = (n * matrix.k, len(at)), matrix.k
        feature, predictor = np.divmod(at, matrix.k)
        self.of_predictor = []  # places among the columns, and the columns of X
        for k in range(matrix.k):
            places = np.flatnonzero(predictor == k)
            x, is_intercept = (
                matrix.x[:, np.minimum(feature[places], p - 1)],
                at[places] >= p * matrix.k,
            )
            x[:, is_intercept] = 1
            self.of_predictor.append((places, x))

    def dense(self) -> np.ndarray:
        out = np.zeros((len(self.of_predictor[0][1]), self.k, self.shape[1]))
        for k, (places, x) in enumerate(self.of_predictor):
            out[:, k, places] = x
        return out.reshape(self.shape)

    def dot(self, values: np.ndarray) -> np.ndarray:
        columns = [x @ values[places] for places, x in self.of_predictor]
        return np.stack(columns, axis=1).reshape(self.shape[0], *values.shape[1:])

    def rdot(self, residual: np.ndarray) -> np.ndarray:
        rows = residual.reshape(-1, self.k, *residual.shape[1:])
        out = np.empty((self.shape[1], *residual.shape[1:]))
        for k, (places, x) in enumerate(self.of_predictor):
            out[places] = x.T @ rows[:, k]
        return out

    def gram(self, weights: np.ndarray) -> np.ndarray:
        out, rows = np.zeros((self.shape[1],) * 2), weights.reshape(-1, self.k)
        for k, (places, x) in enumerate(self.of_predictor):
            out[np.ix_(places, places)] = DenseColumns(x).gram(rows[:, k])
        return out

    def curvature_gram(self, hvp: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Xᵀ ∂²L X, for a loss whose rows do not interact: by its K² curvatures of each row."""
        units = np.tile(np.eye(self.k), (self.shape[0] // self.k, 1))
        curvatures = hvp(units).reshape(-1, self.k, self.k)
        out = np.empty((self.shape[1],) * 2)
        for k, (at, x) in enumerate(self.of_predictor):
            for m, (other, z) in enumerate(self.of_predictor[: k + 1]):
                block = (x * curvatures[:, k, m, None]).T @ z
                out[np.ix_(at, other)] = block
                out[np.ix_(other, at)] = block.T
        return out


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
        return False

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
        return self._flat(self.loss.gradient(*self._of_rows(y, eta, s)))

    def curvature(self, y: Real, eta: Real, s: Real) -> Any:
        return self._flat(self.loss.curvature(*self._of_rows(y, eta, s)))

    def majorant(self, y: Real, eta: Real, s: Real) -> Any:
        return self._flat(self.loss.majorant(*self._of_rows(y, eta, s)))

    def hessian(self, y: Real, eta: Real, s: Real) -> Callable[[Any], Any]:
        image = self.loss.hessian(*self._of_rows(y, eta, s))
        return lambda u: self._flat(image(self._rows(u)))


@in_numpy
class _StackedPenalty(Penalty):
    """A penalty with a weight per coefficient (p, K), and K − 1 coefficients without one."""

    pen: Penalty
    coef_shape: tuple[int, int] = eqx.field(static=True)
    free: int = eqx.field(static=True)

    @property
    def has_strength(self) -> bool:
        return True

    def with_strength(self, lam: Any) -> Penalty:
        return _StackedPenalty(self.pen.with_strength(lam), self.coef_shape, self.free)

    def _split(self, x: Any) -> tuple[Any, Any]:
        size = math.prod(self.coef_shape)
        return x[:size].reshape(self.coef_shape), x[size:]

    def value(self, x: Any) -> Array:
        return self.pen.value(self._split(x)[0])

    def prox(self, z: Any, step: Any = 1.0) -> Any:
        some, rest = self._split(z)
        return np.append(np.asarray(self.pen.prox(some, step)).ravel(), rest)

    def linear_form(self, shape: tuple[int, ...]) -> Any:
        del shape
        form = self.pen.linear_form(self.coef_shape)
        if form is None:
            return None
        parts = (np.broadcast_to(part, self.coef_shape).ravel() for part in form)
        return LinearForm(*(np.append(part, np.zeros(self.free)) for part in parts))
