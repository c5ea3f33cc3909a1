"""A path through the capacities that it takes: from NumPy, and under `jit` and `vmap`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ...._compile import program
from ...._types import AnyArray
from ....penalties import Penalty
from ....penalties._forms import LinearForm
from ...data._matrix import DataMatrix, DenseMatrix
from ...data._zero_copy import aligned
from ...model._problem import Problem
from ._data import BLOCK, PathData, PathInputs, PathState, begin
from ._knots import Limits
from ._path import Solutions, advance
from ._solve import Capacity

_ONE_CAPACITY = 256  # active columns that are served by one capacity, however few there are
_LADDER = ((128, 64), (256, 128), (512, 256))
_MOST_ACTIVE = 512  # beyond them, other engines are faster
_STRENGTHS = 40  # that a traced path goes through at least, given or between those given


class PathResult(NamedTuple):
    """The solutions that were found at the first `num_done` of the strengths."""

    betas: Float[AnyArray, "L p"]
    intercepts: Float[AnyArray, " L"]
    num_steps: Int[AnyArray, " L"]  # knots between a strength and the one before
    num_done: Int[AnyArray, ""]


class WithOnes(DataMatrix):
    """A matrix with a column of ones after its own: that of the intercept."""

    x: DataMatrix

    @property
    def shape(self) -> tuple[int, int]:
        n, p = self.x.shape
        return n, p + 1

    @property
    def dtype(self) -> Any:
        return self.x.dtype

    def dot(self, b: Any) -> Array:
        return self.x.dot(b[:-1]) + b[-1]

    def rdot(self, r: Any) -> Array:
        return jnp.concatenate([self.x.rdot(r), jnp.sum(r, axis=0, keepdims=True)])

    def columns(self, at: Any) -> Array:
        p = self.x.shape[1]
        return jnp.where(at < p, self.x.columns(jnp.minimum(at, p - 1)), 1)


def capacities(n: int, p: int, exceeds_rank: bool) -> list[Capacity]:
    """Returns the capacities to be tried in turn: one that always suffices, where n or p is small.

    With a quadratic part of the penalty or limits, more columns than rows may be active or held.
    """
    rank = min(p if exceeds_rank else n, p, _MOST_ACTIVE)
    active = 32 * -(-rank // 32)
    if active <= _ONE_CAPACITY and not (exceeds_rank and n < active):
        return [_capacity(2 * active, active, p)]
    some = [_capacity(*pair, p) for pair in _LADDER if pair[1] < active]
    return [*some, _capacity(2 * active, active, p)]


def _exceeds_rank(given: PathInputs) -> bool:
    return given.quad is not None or given.limits is not None


def _capacity(working: int, active: int, p: int) -> Capacity:
    return Capacity(min(working, p), min(active, p))


# From NumPy.


def follow_on_host(
    problem: Problem, form: LinearForm, lams: np.ndarray, tol: float | None
) -> PathResult:
    """Returns the path of concrete data in NumPy; programs depend on sizes to an eighth, and on capacities.

    `tol` is the relative gap that is enough; None: rounding.
    """
    given = _padded(problem, form, tol)
    n, p = problem.x.shape
    count = -(-len(lams) // BLOCK) * BLOCK
    padded: Any = np.append(lams, np.full(count - len(lams), lams[-1]))
    # Less the null model; the last column is that of the intercept.
    width = p + _has_own_intercept(problem)
    betas, num_steps = aligned((len(lams), width), np.float64), np.zeros(len(lams), int)
    state, done = None, 0
    for capacity in capacities(n, width, _exceeds_rank(given)):
        capacity = _capacity(*capacity, given.x.shape[1])
        if state is None:
            state, found = _first(given, padded, capacity)
        else:
            state, found = _next(given, padded, state, capacity)
        reached = min(int(state.num_done), len(lams))
        values, columns, steps = (np.asarray(part)[done:reached] for part in found)
        row, place = np.nonzero(values)
        betas[done + row, columns[row, place]] = values[row, place]
        num_steps[done:reached] = steps
        done = reached
        if done == len(lams) or state.lost:
            break
    null = problem.null.point
    intercepts = np.full(len(lams), float(null.intercept))
    if width > p:
        intercepts += betas[:, p]
        betas = betas[:, :p]
    if (at_null := np.asarray(null.beta)).any():
        betas = betas + at_null
    return PathResult(form.within_limits(betas), intercepts, num_steps, np.asarray(done))


def _first_of(given: PathInputs, lams: Array, capacity: Capacity) -> tuple[PathState, Solutions]:
    data = PathData.of(given)
    return advance(data, lams, begin(data, given.unpenalised, lams), capacity)


def _next_of(
    given: PathInputs, lams: Array, state: PathState, capacity: Capacity
) -> tuple[PathState, Solutions]:
    return advance(PathData.of(given), lams, state, capacity)


_first, _next = program(_first_of), program(_next_of)


def _padded(problem: Problem, form: LinearForm, tol: float | None) -> PathInputs:
    """The data on the host in float64, with rows of weight zero and columns of zeros up to round sizes."""
    x = np.asarray(problem.x.as_array(), np.float64)
    n, p = x.shape
    has_intercept = _has_own_intercept(problem)
    n_round, p_round = _round_size(n), _round_size(p + has_intercept)
    array = np.zeros((n_round, p_round))
    array[:n, :p] = x
    null = problem.null
    beta = np.asarray(null.point.beta, np.float64)
    free = np.flatnonzero(beta)
    offset = np.asarray(problem.offset, np.float64)
    eta = offset + float(null.point.intercept) + x[:, free] @ beta[free]
    if has_intercept:
        array[:n, p] = 1
    s = np.asarray(problem.s, np.float64)
    valid = int(np.argmax(s))  # a row that the loss accepts

    def rows(v: Any, fill: float | None = None) -> Any:
        v = np.asarray(v, np.float64)
        return np.append(v, np.full(n_round - n, v[valid] if fill is None else fill))

    def columns(v: Any, of_ones: float, rest: float) -> Any:
        own = np.append(np.asarray(v, np.float64), [of_ones] * has_intercept)
        return np.append(own, np.full(p_round - len(own), rest))

    return PathInputs(
        x=DenseMatrix(array),
        y=rows(problem.y),
        s=rows(s, 0.0),
        eta=rows(eta),
        loss=problem.loss,
        norms=columns(problem.norms, 1.0, 0.0),
        up=columns(form.up, 0.0, np.inf),
        down=columns(form.down, 0.0, np.inf),
        quad=columns(form.quad, 0.0, 0.0) if np.any(form.quad) else None,
        limits=_limits(form, lambda limit: columns(limit, np.inf, np.inf))
        if np.any(form.can_be_held)
        else None,
        unpenalised=columns(null.unpenalised, 1.0, 0.0) > 0,
        tol=jnp.asarray(_violation_for(tol, np.float64)),
    )


def _limits(form: LinearForm, columns: Callable[[Any], Any]) -> Limits | None:
    """Returns the limits of a form as distances from 0, each made an array of all columns."""
    if form.lower is None or form.upper is None:
        return None
    return Limits(columns(form.upper), columns(-form.lower))


def _has_own_intercept(problem: Problem) -> bool:
    """Whether the intercept is a column: centred columns of squared error leave it where it is."""
    return problem.fit_intercept and not problem.loss.is_quadratic


def _violation_for(tol: Any, dtype: Any) -> Any:
    """Returns the violation over λ at which a relative gap is less than `tol`; rounding for None."""
    least = float(jnp.finfo(dtype).eps) ** 0.6
    return least if tol is None else 0.3 * tol + least


def _round_size(size: int) -> int:
    """Returns the size to an eighth of a power of two, upwards: at most an eighth is padding."""
    unit = max(8, 2 ** (size - 1).bit_length() // 16)
    return -(-size // unit) * unit


# Under `jit` and `vmap`.


def follow_traced(problem: Problem, pen: Penalty, lams: Array) -> PathResult:
    """Returns the path of traced data; a batch of them on a CPU one after the other, which is faster there."""
    form = pen.with_strength(1.0).linear_form(problem.coef_shape)
    other = pen.with_strength(0.5).linear_form(problem.coef_shape)
    assert form is not None
    assert other is not None
    serves = problem.is_valid & ~jnp.any(form.is_smooth_at_zero)
    for one, half in zip(form[:3], other[:3], strict=True):  # proportional to λ, as limits are not
        serves &= jnp.all(jnp.isclose(0.5 * one, half, rtol=1e-5, atol=0))
    if pen.homogeneous:
        serves &= jnp.all(form.quad == 0)
    null, dtype = problem.null, problem.y.dtype
    has_intercept = _has_own_intercept(problem)

    def columns(v: AnyArray, of_ones: Any) -> Array:
        return jnp.append(v, jnp.asarray(of_ones, v.dtype)) if has_intercept else jnp.asarray(v)

    given = PathInputs(
        x=WithOnes(problem.x) if has_intercept else problem.x,
        y=problem.y,
        s=problem.s,
        eta=problem.eta(null.point),
        loss=problem.loss,
        norms=columns(problem.norms, 1),
        up=columns(form.up.astype(dtype), 0),
        down=columns(form.down.astype(dtype), 0),
        quad=None if pen.homogeneous else columns(form.quad.astype(dtype), 0),
        limits=_limits(form, lambda limit: columns(limit.astype(dtype), jnp.inf)),
        unpenalised=columns(null.unpenalised, True),
        tol=jnp.asarray(_violation_for(None, dtype), dtype),
    )
    betas, _, num_steps, num_done = _in_lanes(_follow)(given, lams, serves)
    p = len(problem.norms)
    of_ones = betas[:, p] if has_intercept else jnp.zeros_like(lams)
    intercepts = null.point.intercept + of_ones
    betas = form.within_limits(null.point.beta + betas[:, :p])
    return PathResult(betas, intercepts, num_steps, num_done)


def _follow(given: PathInputs, lams: Array, serves: Bool[Array, ""]) -> PathResult:
    """The path from the null model through the capacities, each of which goes on where the last one ended."""
    n, p = given.x.shape
    count, between = len(lams), -(-_STRENGTHS // len(lams))
    data = PathData.of(given)
    state = begin(data, given.unpenalised, lams)._replace(lost=~serves)
    all_ = _refined(state.lam, lams, between)
    betas = jnp.zeros((count, p), data.target.dtype)
    steps = jnp.zeros(len(all_), jnp.int32)
    rows = jnp.arange(len(all_), dtype=jnp.int32)
    for capacity in capacities(n, p, _exceeds_rank(given)):
        done = state.num_done
        state, found = advance(data, all_, state, capacity)
        is_new = (rows >= done) & (rows < state.num_done)
        steps = jnp.where(is_new, found.num_knots, steps)
        # Only the last of the strengths between two given ones is wanted.
        new, values, columns = (
            part[between - 1 :: between] for part in (is_new, found.values, found.columns)
        )
        at = jnp.arange(count)[:, None]
        betas = betas.at[at, columns].add(jnp.where(new[:, None], values, 0))
    num_steps = jnp.sum(steps.reshape(count, between), axis=1)
    return PathResult(betas, jnp.zeros_like(lams), num_steps, state.num_done // between)


def _refined(begin: Array, lams: Array, between: int) -> Array:
    """Returns the grid with so many strengths for each, down from the one before, in equal ratios."""
    before = jnp.concatenate([begin[None], lams[:-1]])
    part = jnp.arange(1, between, dtype=lams.dtype) / between
    inner = before[:, None] ** (1 - part) * lams[:, None] ** part
    return jnp.concatenate([inner, lams[:, None]], axis=1).reshape(-1)


def _in_lanes(function: Callable[..., PathResult]) -> Callable[..., PathResult]:
    """Returns the function; under `vmap` on a CPU its lanes run one after the other."""
    wrapped = jax.custom_batching.custom_vmap(function)

    @wrapped.def_vmap
    def _(size: int, batched: Any, *args: Any) -> tuple[PathResult, Any]:
        del size
        axes = jax.tree.map(lambda flag: 0 if flag else None, list(batched))
        all_batched = tuple.__new__(PathResult, 4 * (True,))
        if not _runs_lanes_in_turn():
            return jax.vmap(function, in_axes=tuple(axes))(*args), all_batched
        leaves, tree = jax.tree.flatten(args)
        flags = jax.tree.leaves(batched)
        lanes = [leaf for leaf, flag in zip(leaves, flags, strict=True) if flag]

        def lane(some: list[Array]) -> PathResult:
            rest = iter(some)
            own = [next(rest) if flag else leaf for leaf, flag in zip(leaves, flags, strict=True)]
            return wrapped(*jax.tree.unflatten(tree, own))

        return jax.lax.map(lane, lanes), all_batched

    return wrapped


def _runs_lanes_in_turn() -> bool:
    """Whether a batch costs more than its lanes one after the other: its loops run to the longest of them."""
    return jax.default_backend() == "cpu"
