"""A path of squared error with L1 through the capacities that it takes: from NumPy, under `jit` and `vmap`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ....penalties import Penalty
from ....penalties._base import LinearForm
from ...data._matrix import DenseMatrix
from ...model._problem import Problem
from ._path import BLOCK, Capacity, LeastSquares, PathState, Solutions, advance, begin

_ONE_CAPACITY = 256  # active columns that are served by one capacity, however few there are
_LADDER = ((256, 128), (512, 256), (1024, 512), (2048, 1024))
_MOST_ACTIVE = 512  # ... of a traced path, whose capacities are all compiled
_STRENGTHS = 40  # that a traced path goes through at least, given or between those given


class PathResult(NamedTuple):
    """The solutions that were found, less the null model, at the first `num_done` of the strengths."""

    betas: Float[Array, "L p"]
    num_steps: Int[Array, " L"]  # knots between a strength and the one before
    num_done: Int[Array, ""]


def capacities(n: int, p: int, most: int | None = None) -> list[Capacity]:
    """Returns the capacities to be tried in turn: one that always suffices, where n or p is small."""
    rank = min(n, p, most or n)
    active = 32 * -(-rank // 32)
    if active <= _ONE_CAPACITY:
        return [_capacity(2 * active, active, p)]
    some = [_capacity(*pair, p) for pair in _LADDER if pair[1] < active]
    return [*some, _capacity(2 * active, active, p)]


def _capacity(working: int, active: int, p: int) -> Capacity:
    return Capacity(min(working, p), min(active, p))


# From NumPy.


def follow_on_host(
    problem: Problem, form: LinearForm, lams: np.ndarray
) -> tuple[np.ndarray, np.ndarray, int]:
    """Returns the path of concrete data in NumPy; programs depend on sizes to an eighth, and on capacities.

    It is (betas, num_steps, num_done), as in a `PathResult`.
    """
    data, unpenalised = _padded(problem, form)
    n, p = problem.x.shape
    count = -(-len(lams) // BLOCK) * BLOCK
    padded = np.append(lams, np.full(count - len(lams), lams[-1]))
    betas, num_steps = np.zeros((len(lams), p)), np.zeros(len(lams), int)
    state, done = None, 0
    for capacity in capacities(n, p):
        if state is None:
            state, found = _first(data, unpenalised, padded, _within(capacity, data))
        else:
            state, found = _next(data, padded, state, _within(capacity, data))
        reached = min(int(state.num_done), len(lams))
        values, columns, steps = (np.asarray(part)[done:reached] for part in found)
        row, place = np.nonzero(values)
        betas[done + row, columns[row, place]] = values[row, place]
        num_steps[done:reached] = steps
        done = reached
        if done == len(lams) or state.lost:
            break
    return betas, num_steps, done


def _within(capacity: Capacity, data: LeastSquares) -> Capacity:
    """Returns the capacity, of no more columns than there are."""
    return _capacity(*capacity, len(data.unit))


def _first_of(
    data: LeastSquares, unpenalised: Array, lams: Array, capacity: Capacity
) -> tuple[PathState, Solutions]:
    return advance(data, lams, begin(data, unpenalised, lams), capacity)


# Compiling takes two thirds of the time without fusion emitters, and the program as long to run.
_OPTIONS = {"xla_cpu_use_fusion_emitters": False} if jax.__version_info__ < (0, 11) else None
_first = jax.jit(_first_of, static_argnums=3, compiler_options=_OPTIONS)
_next = jax.jit(advance, static_argnums=3, compiler_options=_OPTIONS)


def _padded(problem: Problem, form: LinearForm) -> tuple[LeastSquares, np.ndarray]:
    """The data on the host in float64, with rows of weight zero and columns of zeros up to round sizes."""
    x = np.asarray(problem.x.as_array(), np.float64)
    n, p = x.shape
    n_round, p_round = _round_size(n), _round_size(p)
    array = np.zeros((n_round, p_round))
    array[:n, :p] = x
    null = problem.null
    beta = np.asarray(null.point.beta, np.float64)
    free = np.flatnonzero(beta)
    target = np.asarray(problem.y, np.float64) - np.asarray(problem.offset, np.float64)
    residual = target - float(null.point.intercept) - x[:, free] @ beta[free]
    weights = np.asarray(problem.s, np.float64)
    gradient = -(weights * residual) @ x  # that of the null model may be in float32

    def pad(v: Any, size: int, fill: float = 0.0) -> np.ndarray:
        return np.append(np.asarray(v, np.float64), np.full(size - len(v), fill))

    data = LeastSquares.of(
        DenseMatrix(array),
        pad(weights, n_round),
        pad(residual, n_round),
        pad(gradient, p_round),
        pad(problem.norms, p_round),
        (pad(form.up, p_round, np.inf), pad(form.down, p_round, np.inf)),
        np,
    )
    return data, pad(null.unpenalised, p_round) > 0


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
    is_linear = jnp.all(form.quad == 0)
    for one, half in zip(form[:2], other[:2], strict=True):
        is_linear &= jnp.all(jnp.isclose(0.5 * one, half, rtol=1e-5, atol=0))
    null = problem.null
    residual = problem.y - problem.eta(null.point)
    weights = form.up.astype(residual.dtype), form.down.astype(residual.dtype)
    data = LeastSquares.of(
        problem.x, problem.s, residual, null.gradient, problem.norms, weights, jnp
    )
    return _in_lanes(_follow)(data, null.unpenalised, lams, is_linear & problem.is_valid)


def _follow(
    data: LeastSquares, unpenalised: Array, lams: Array, is_linear: Bool[Array, ""]
) -> PathResult:
    """The path from the null model through the capacities, each of which goes on where the last one ended."""
    n, p = data.x.shape
    count, between = len(lams), -(-_STRENGTHS // len(lams))
    state = begin(data, unpenalised, lams)
    state = state._replace(lost=~is_linear)
    all_ = _refined(state.lam, lams, between)
    betas = jnp.zeros((count, p), data.target.dtype)
    steps = jnp.zeros(len(all_), jnp.int32)
    rows = jnp.arange(len(all_), dtype=jnp.int32)
    for capacity in capacities(n, p, _MOST_ACTIVE):
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
    num_done = state.num_done // between
    return PathResult(betas, jnp.sum(steps.reshape(count, between), axis=1), num_done)


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
        all_batched = tuple.__new__(PathResult, (True, True, True))
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
