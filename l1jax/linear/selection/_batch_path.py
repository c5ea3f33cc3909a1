"""`batch_path`: many paths on one X, of as many responses or as many weights of the rows."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array

from ..._checks import check_number
from ..._compile import program
from ..._progress import progress_bar
from ..._tracing import is_traced
from ...losses import Loss
from ...penalties import Penalty
from .._fit import _SQUARED_ERROR
from .._grid import check_grid, make_grid
from ..data._arrays import as_array
from ..data._inputs import Inputs, check_concrete, encoded_targets, read, read_weights
from ..data._precision import check_max_steps, check_tol, precision
from ..data._standardise import Standardised
from ..engines._engine import Engine, Plan, check_engine, prepare_for, solve_plan
from ..host._columns import GramColumns
from ..host._entry_point import entry_point
from ..host._sparse_rows import SparseRows, compact
from ..model._null_model import prepare, with_null
from ..model._on_host import host_errors, host_values, is_on_host, on_host
from ..model._prepare import data_of
from ..model._problem import Data, Problem, arrange
from ..results._fit import Fit
from ..results._options import FitOptions, options_of
from ..results._path import Path
from ..results._warning import warn_if_short
from ._batch_paths import BatchPaths
from ._subset_paths import SubsetPaths, engine_for_subsets

_IN_PROGRAMS = ("compiled", "parallel", "fista")  # the engines whose lanes are one program
_ROOM = 2**28  # bytes of the coefficients and X of a chunk


@entry_point
def batch_path(
    X: Any,
    Y: Any,
    pen: Penalty,
    *,
    sample_weights: Any = None,
    chunk: int | None = None,
    lams: Any = None,
    n_lams: int = 100,
    lam_min_ratio: float | None = None,
    progress: bool | None = None,
    loss: Loss = _SQUARED_ERROR,
    fit_intercept: bool = True,
    standardize: bool = False,
    tol: Any = None,
    max_steps: Any = 20_000,
    engine: str = "auto",
) -> BatchPaths:
    """Fits k independent paths on one X: of k responses, of k weights of the rows, or of both.

        path i:   minimise over (β, b):   Σᵣ wᵢᵣ loss(Yᵣᵢ, xᵣᵀβ + b) + R(β)

    **Arguments:**

    - `Y` (n, k): a column for each path, or (n,): the response of all, with `sample_weights`.
    - `sample_weights` (k, n): a row for each path, such as how often a bootstrap drew each row.
    - `lams` (L,): the grid of all; unless given, each path has its own, from its λmax.
    - `engine`: "auto" solves one path after the other on a CPU, which is faster there, and on an accelerator
      chunks of lanes as one program, split over all devices; "compiled" does so anywhere.
    - `chunk`: lanes of one program; unless given, as many as need 256 MB.

    All other arguments and errors as for `path`. Every fit is certified. Only coefficients that are not zero
    are kept, where these are few. The data must be concrete.

    Returns a `BatchPaths`: `batch[i]` is the `Path` of lane i.

    **Example:**

    ```python
    >>> import numpy as np, l1jax
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(50, 8))
    >>> batch = l1jax.batch_path(X, X[:, :3] + rng.normal(size=(50, 3)), l1jax.L1(), n_lams=5)
    >>> print(len(batch), batch.n_nonzero.shape, bool((batch.relative_gaps < 1e-6).all()))
    3 (3, 5) True

    ```
    """
    check_engine(engine)
    Y, weights = _lanes_of(Y, sample_weights)
    others = (lams, tol, max_steps)
    first = Y if Y.ndim == 1 else Y[:, 0]
    row = None if weights is None else weights[0]
    inputs = read(X, first, pen, loss, row, None, *others, has_strength=False)
    check_concrete(inputs, (others, Y, weights), "batch_path", "jax.vmap of l1jax.path")
    if inputs.y.ndim != 1 or inputs.offset.ndim != 1:
        raise ValueError(f"loss must be of one response for each column of Y, got {loss}.")
    tol, max_steps = check_tol(tol, inputs.x.dtype), check_max_steps(max_steps)
    if chunk is not None:
        chunk = int(check_number(chunk, "chunk", 1, whole=True))
    grid = check_grid(lams, n_lams, lam_min_ratio)
    with precision(inputs.wants_x64):
        data = data_of(inputs, inputs.loss, fit_intercept, standardize)
        batch = _Batch(inputs, data, Y, weights, engine)
        problem, gram = batch.problem(0)
        shape = inputs.x.shape
        some = make_grid(problem, inputs.pen, grid, n_lams, lam_min_ratio, shape)
        plan = Plan(
            problem, batch.pen, np.asarray(some), problem.null.point, tol, max_steps, inputs.names,
            gram=gram,
        )  # fmt: skip
        chosen = engine_for_subsets(engine, plan)

        def lams_of(problem: Problem) -> np.ndarray:
            return np.asarray(make_grid(problem, inputs.pen, grid, n_lams, lam_min_ratio, shape))

        in_program = jax.default_backend() != "cpu" or engine in _IN_PROGRAMS
        find = partial(_in_chunks, chunk=chunk) if in_program else _one_by_one
        with progress_bar(len(batch), progress, "batch_path", "path") as bar:
            paths = []
            for one in find(batch, plan, chosen, lams_of):
                paths.append(one)
                bar.update()
    result = BatchPaths(tuple(paths))
    gaps, kkts = (np.ravel(v) for v in (result.relative_gaps, result.relative_kkts))
    measures = SimpleNamespace(relative_gap=gaps, relative_kkt=kkts)
    warn_if_short(result.status.ravel(), measures, tol)
    return result


def _lanes_of(Y: Any, weights: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns the responses and weights of the lanes, checked. Raises: ValueError where they do not match."""
    if is_traced((Y, weights)):
        raise TypeError(
            "batch_path needs concrete data: under jit or grad use jax.vmap of l1jax.path."
        )
    Y = np.asarray(as_array(Y, "Y"))
    if Y.ndim not in (1, 2) or not Y.size:
        raise ValueError(f"Y must have shape (n, k), or (n,) with sample_weights, got {Y.shape}.")
    if weights is None:
        if Y.ndim == 1:
            raise ValueError(
                f"Y must have a column for each path, got shape {Y.shape}: pass Y[:, None], or sample_weights."
            )
        return Y, None
    weights = np.asarray(as_array(weights, "sample_weights"))
    count = weights.shape[0] if Y.ndim == 1 and weights.ndim else Y.shape[-1]
    if weights.shape != (count, len(Y)) or not count:
        raise ValueError(
            f"sample_weights must have a row for each path and an entry per row of X, shape (k, {len(Y)})"
            f"{'' if Y.ndim == 1 else f' with k = {count}'}, got {weights.shape}."
        )
    return Y, weights


class _Batch:
    """The problems of the lanes: where only the response differs, X is centred and scaled once."""

    def __init__(
        self, inputs: Inputs, data: Data, Y: np.ndarray, weights: np.ndarray | None, engine: str
    ):
        self.inputs, self.data, self.Y, self.weights, self.engine = inputs, data, Y, weights, engine
        self.pen = host_values(inputs.pen)
        self.columns: Standardised | None = None

    def __len__(self) -> int:
        return self.Y.shape[1] if self.weights is None else len(self.weights)

    def lane(self, i: int) -> Data:
        """Returns the data of lane i. Raises: ValueError for values that the loss refuses."""
        data, dtype, n = self.data, self.inputs.x.dtype, len(self.Y)
        try:
            if self.Y.ndim > 1:
                y = encoded_targets(self.Y[:, i], n, data.loss, dtype)
                data = dataclasses.replace(data, y=y)
            if self.weights is not None:
                weights = read_weights(self.weights[i], n, dtype)
                data = dataclasses.replace(data, weights=weights)
        except ValueError as error:
            raise ValueError(f"path {i} of the batch: {error}") from None
        return data

    def problem(self, i: int) -> tuple[Problem, GramColumns | None]:
        """Returns the problem of lane i, and its Gram matrix where that is enough."""
        data = self.lane(i)
        if self.columns is not None:
            here = on_host(data, self.pen)
            assert here is not None
            with host_errors():
                return with_null(arrange(here[0], columns=self.columns), here[1]), None
        problem, gram = prepare_for(self.engine, data, self.pen)
        is_shared = self.weights is None and gram is None and problem.basis is None
        if is_shared and is_on_host(problem) and problem.x.passes is None:
            scales = problem.mean, problem.inverse_scale, problem.norms
            self.columns = Standardised(problem.x, *scales)
        return problem, gram

    def options(self, i: int, problem: Problem) -> FitOptions:
        weights = None if self.weights is None else self.weights[i]
        inputs = self.inputs
        if weights is not None:
            inputs = inputs._replace(weights=np.asarray(weights, inputs.x.dtype))
        return options_of(inputs, self.data, problem, weights, None)


LamsOf = Callable[[Problem], np.ndarray]


def _one_by_one(batch: _Batch, plan: Plan, engine: Engine, lams_of: LamsOf) -> Iterator[Path]:
    for i in range(len(batch)):
        problem, gram = batch.problem(i)
        lane = dataclasses.replace(plan, lams=lams_of(problem))
        found = SubsetPaths(lane, engine, batch.options(i, problem)).path(problem, gram)
        yield _kept(found)


def _in_chunks(
    batch: _Batch, plan: Plan, engine: Engine, lams_of: LamsOf, chunk: int | None
) -> Iterator[Path]:
    """Solves chunks of lanes as one program each, the lanes of a chunk split over all devices."""
    devices, dtype = np.array(jax.devices()), plan.problem.y.dtype
    size = chunk or max(_ROOM // (8 * len(plan) * plan.problem.x.shape[1]), 1)
    size = -(-min(size, len(batch)) // len(devices)) * len(devices)  # as many on each
    mesh = Mesh(devices, ("lanes",)) if len(devices) > 1 else None
    for begin in range(0, len(batch), size):
        count = min(size, len(batch) - begin)
        lanes = [batch.lane(begin + i) for i in range(count)]
        problems = [batch.problem(begin + i)[0] for i in range(count)]
        at = np.minimum(np.arange(size), count - 1)  # the last one again, to fill up
        ys, weights, lams = (
            np.stack(parts)[at].astype(dtype)
            for parts in (
                [lane.y for lane in lanes],
                [lane.weights for lane in lanes],
                [lams_of(problem) for problem in problems],
            )
        )
        if batch.weights is None:
            weights = weights[0]
        given = (ys, weights, lams)
        limits = (plan.tol, plan.max_steps, plan.names)
        fits = _lanes(batch.data, batch.pen, given, *limits, engine, mesh)
        fits = dataclasses.replace(jax.tree.map(np.asarray, fits), loss=batch.data.loss)
        together = Path(fits)
        for i, problem in enumerate(problems):
            one = together._pick(operator.itemgetter(i))
            yield _kept(Path(dataclasses.replace(one, options=batch.options(begin + i, problem))))


@program
def _lanes(
    data: Data,
    pen: Penalty,
    given: tuple[Any, Any, Any],
    tol: Any,
    max_steps: Any,
    names: tuple[str, ...] | None,
    engine: Engine,
    mesh: Mesh | None,
) -> Fit:
    """The paths of responses (c, n), weights (c, n) or (n,) and grids (c, L): on each device some."""
    axes = tuple(0 if part.ndim == 2 else None for part in given)

    def lane(data: Data, pen: Penalty, given: tuple[Array, Array, Array]) -> Fit:
        y, weights, lams = given
        problem = prepare(dataclasses.replace(data, y=y, weights=weights), pen)
        pen_there, start = problem.on_scale(pen), problem.null.point
        plan = Plan(problem, pen_there, lams, start, tol, max_steps, names)
        return dataclasses.replace(solve_plan(engine, plan).fits, loss=None, options=None)

    batch = jax.vmap(lane, in_axes=(None, None, axes))
    if mesh is None:
        return batch(data, pen, given)
    split, whole = PartitionSpec("lanes"), PartitionSpec()
    specs = tuple(whole if axis is None else split for axis in axes)
    return jax.shard_map(
        batch, mesh=mesh, in_specs=(whole, whole, specs), out_specs=split, check_vma=False
    )(data, pen, given)


def _kept(path: Path) -> Path:
    """The path in NumPy, its coefficients by what is not zero if that is little."""
    fits = path.fits
    coefs = fits.stored_coef
    if not isinstance(coefs, SparseRows):
        coefs = compact(np.asarray(coefs))
    bare = dataclasses.replace(fits, stored_coef=None, loss=None, options=None)
    bare = jax.tree.map(np.asarray, bare)
    kept = jax.tree.map(np.asarray, coefs)
    return Path(dataclasses.replace(bare, stored_coef=kept, loss=fits.loss, options=fits.options))
