"""What an engine is, what it is given, and which one serves a call.

An engine is one class and one line of registration: `fit`, `path` and `cross_validate` then know its name.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from ..._status import Status
from ...penalties import Penalty
from ..data._block_sources import BlockError
from ..data._matrix import DataMatrix
from ..host._columns import GramColumns
from ..host._path_solution import PathSolution
from ..host._sparse_rows import dense, put, take
from ..model._on_host import is_on_host
from ..model._prepare import prepare_data
from ..model._problem import Data, Point, Problem
from ..model._unpenalised_basis import in_orthonormal_basis
from ..results._certified import report_path, report_uncertified
from ..results._checkpoint import Checkpoint
from ..results._fit import Fit
from ..results._path import Path
from ..results._resume import Known
from .active_set._gram_compression import compress
from .active_set._path_point import NumericalBreakdown
from .compiled._batching import any_lane

# Rows or columns up to which the host is faster than an accelerator's gradient steps.
_MAX_HOST_SIZE = 600


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is to be solved: a problem, a penalty, and its strengths.

    `problem` holds the data on the scale of the solver: `problem.x` (its methods `dot` and `rdot`),
    `y` (n, *k), row weights `s` (n,) of sum one, `offset`, `loss`, `norms` (p,) of the columns, and the
    null model. `lams` (L,) descend; `pen_at(lam)` is the penalty at one of them. `start` is where to begin
    the first of them, `tol` the relative gap that is enough, `max_steps` the most steps of one fit.
    An engine may use, or not: `progress` (show a bar), `gram`, `interpolate`, `known`, `starts`, and hand what
    it has solved to `keep`; `names` are those of the features, for the results.
    """

    problem: Problem
    pen: Penalty
    lams: Any  # (L,): a NumPy array where it is concrete
    start: Point
    tol: Any
    max_steps: Any
    names: tuple[str, ...] | None = None
    progress: bool | None = False
    gram: GramColumns | None = None  # of squared error, where all its columns are known
    interpolate: bool = False  # whether strengths may lie on lines between others, certified
    known: Known | None = None  # the solution at a higher strength, to go on from
    starts: Point | None = None  # a start for each strength, (L, p, *k)
    checkpoint: Checkpoint | None = None  # of `path(checkpoint=...)`

    def __len__(self) -> int:
        return len(self.lams)

    def pen_at(self, lam: Any) -> Penalty:
        """Returns the penalty at this strength; as it is, where it has none."""
        return self.pen.with_strength(lam) if self.pen.has_strength else self.pen

    def is_traced(self) -> bool:
        """Whether some value is known only when compiled code runs."""
        values = (self.problem, self.pen, self.lams, self.start, self.tol, self.max_steps)
        return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(values))

    def only(self, some: np.ndarray, starts: Point | None = None) -> Plan:
        """Returns the plan for some of the strengths, each with a start of its own, if given."""
        lams = np.asarray(self.lams)[some]
        kept = None if self.checkpoint is None else self.checkpoint.only(some)
        return dataclasses.replace(self, lams=lams, starts=starts, known=None, checkpoint=kept)

    def without_interpolation(self) -> Plan:
        """Returns the plan in which every strength is solved."""
        return dataclasses.replace(self, interpolate=False)

    def keep(self, at: Any, betas: Any, intercepts: Any, num_steps: Any) -> None:
        """Hands solutions to the file of `path(checkpoint=...)`, if there is one; an engine need not.

        `at` (m,): their places in `lams`. `betas` (m, p, *k), `intercepts` (m, *k) and `num_steps` (m,) as for
        `certified`, which sees them later: what is kept only says where to go on.
        """
        if self.checkpoint is not None:
            to_user = self.problem.to_user
            to_user = to_user if is_on_host(self.problem) else jax.vmap(to_user)
            coefs, intercepts = to_user(Point(betas, intercepts))
            self.checkpoint.keep(np.asarray(at), coefs, intercepts, num_steps)

    def certified(self, betas: Any, intercepts: Any, num_steps: Any) -> Path:
        """Returns the path of these solutions, on the scale of `problem`; each gets its certificate.

        `betas` (L, p, *k), `intercepts` (L, *k) and `num_steps` (L,) are concrete.
        A solution whose certificate is not within `tol` has the status PRECISION_LIMIT. Raises: ValueError
        for arrays of other shapes.
        """
        count, shape = len(self), self.problem.coef_shape
        betas, intercepts, num_steps = map(np.array, (betas, intercepts, num_steps))  # copies
        needed = {
            "betas": (betas, (count, *shape)),
            "intercepts": (intercepts, (count, *shape[1:])),
            "num_steps": (num_steps, (count,)),
        }
        for name, (array, need) in needed.items():
            if array.shape != need:
                raise ValueError(f"{name} must have shape {need}, got {array.shape}.")
        return Path(self.report(PathSolution(betas, intercepts, num_steps, count, [])))

    def report(self, solution: PathSolution) -> Fit:
        """Returns the certified fits of what was found on the host."""
        lams = np.asarray(self.lams, self.problem.y.dtype)
        return report_path(self.problem, self.pen, lams, solution, self.tol, self.names)

    def uncertified(self, solution: PathSolution) -> Fit:
        """Returns the fits of what was found, where the data can be read for no certificate."""
        lams = np.asarray(self.lams, self.problem.y.dtype)
        return report_uncertified(self.problem, self.pen, lams, solution, self.tol, self.names)


class Engine(abc.ABC):
    """Solves the fits of a plan.

    **Attributes:**

    - `name`: by which `engine=` asks for it.
    - `uses_gram`: whether tall least squares may come as its Gram matrix, in `plan.gram`, without rows.
    - `leaves_rest`: whether fits that it leaves short of `tol` are solved by others.
    - `successor`: the name of the engine that solves these, if it supports them; else gradient steps do.

    **Example:** one step of ridge regression in closed form.

    ```python
    >>> import numpy as np, l1jax
    >>> class ClosedForm(l1jax.Engine):
    ...     name = "closed_form"
    ...     def supports(self, plan):
    ...         is_ridge = isinstance(plan.pen, l1jax.Ridge) and plan.problem.loss.is_quadratic
    ...         return None if is_ridge else "solves SquaredError with Ridge only"
    ...     def run(self, plan):
    ...         q = plan.problem
    ...         x, y = np.asarray(q.x.dot(np.eye(q.x.shape[1]))), np.asarray(q.y - q.offset)
    ...         intercept = q.s @ y if q.fit_intercept else 0.0
    ...         gram, linear = x.T @ (x * q.s[:, None]), x.T @ (q.s * (y - intercept))
    ...         eye = np.eye(len(gram))
    ...         betas = [np.linalg.solve(gram + lam * eye, linear) for lam in np.asarray(plan.lams)]
    ...         intercepts = np.full(len(plan), intercept)
    ...         return plan.certified(np.stack(betas), intercepts, np.ones(len(plan), int))
    >>> l1jax.register_engine(ClosedForm())
    >>> X, y = np.array([[-1.0], [0.0], [1.0]]), np.array([-1.0, 0.0, 1.0])
    >>> fit = l1jax.fit(X, y, l1jax.Ridge(1.0), engine="closed_form")
    >>> print(fit.coef, l1jax.Status(int(fit.status)).name)
    [0.4] CONVERGED

    ```
    """

    name: ClassVar[str]
    uses_gram: ClassVar[bool] = False
    leaves_rest: ClassVar[bool] = True
    successor: ClassVar[str] = "sequential"

    @abc.abstractmethod
    def supports(self, plan: Plan) -> str | None:
        """Returns None if it can solve the plan, else why not, as what follows its name in a sentence."""

    @abc.abstractmethod
    def run(self, plan: Plan) -> Path:
        """Returns the path over `plan.lams`, certified; see `Plan.certified`.

        Raises: `l1jax.NumericalBreakdown` where nothing could be solved; gradient steps then take over.
        """

    @property
    def fits_in_one_batch(self) -> bool:
        """Whether subsets of the rows are best solved as lanes of one compiled batch; no by default."""
        return False

    def is_preferred(self, plan: Plan) -> bool:
        """Whether engine="auto" asks it for this plan, before earlier ones; no by default."""
        del plan
        return False


ENGINES: dict[str, Engine] = {}
"""By name; engine="auto" asks the last one first."""


def register_engine(engine: Any) -> None:
    """Makes an engine known by its name to `fit`, `path` and `cross_validate`.

    One of the same name is replaced. Raises: TypeError for what is no `Engine`, ValueError for one without
    a name of its own.
    """
    if not isinstance(engine, Engine):
        raise TypeError(
            f"engine must be an instance of l1jax.Engine, got {type(engine).__name__}: derive from it."
        )
    name = getattr(engine, "name", None)
    if not isinstance(name, str) or name == "auto":
        raise ValueError(
            f'{type(engine).__name__}.name must be a string other than "auto", got {name!r}: `engine=` asks '
            "for it by that."
        )
    successor = engine.successor
    if successor not in (*ENGINES, "sequential"):
        raise ValueError(
            f"{type(engine).__name__}.successor must be the name of an engine, one of {list(ENGINES)}, got "
            f"{successor!r}."
        )
    ENGINES[name] = engine


def check_engine(engine: Any) -> None:
    """Raises a ValueError unless it is "auto" or the name of an engine."""
    if engine not in ("auto", *ENGINES):
        raise ValueError(f"engine must be one of {['auto', *ENGINES]}, got {engine!r}.")


def may_use_gram(name: str, x: DataMatrix) -> bool:
    """Whether the engine asked for, or the one that "auto" takes for tall data, uses their Gram matrix."""
    return suits_host(x) if name == "auto" else ENGINES[name].uses_gram


def suits_host(x: DataMatrix) -> bool:
    """Whether active sets on the host are faster than an accelerator's gradient steps.

    They are where a product with X is a sum over devices, or a pass over its blocks: they need the fewest.
    """
    is_dear = x.is_distributed or x.passes is not None
    return jax.default_backend() == "cpu" or min(x.shape) <= _MAX_HOST_SIZE or is_dear


def prepare_for(name: str, data: Data, pen: Penalty) -> tuple[Problem, GramColumns | None]:
    """Returns the problem; where least squares is tall and the engine can use it, by its Gram matrix."""
    found = compress(data, pen) if may_use_gram(name, data.x) else None
    if found is not None and in_orthonormal_basis(data, found[0]) is None:
        return found
    return prepare_data(data, pen), None


def choose_engine(name: str, plan: Plan) -> Engine:
    """Returns the engine of this name, or for "auto" the last one that is preferred and supports it.

    Raises: ValueError where the engine asked for does not support the plan.
    """
    if name != "auto":
        engine = ENGINES[name]
        reason = engine.supports(plan)
        if reason is not None:
            raise ValueError(f'engine="{name}" {reason}; leave engine="auto" for all else.')
        return engine
    for engine in reversed(ENGINES.values()):
        if engine.is_preferred(plan) and engine.supports(plan) is None:
            return engine
    check_passes(plan)
    return ENGINES["fista"]


def check_passes(plan: Plan) -> None:
    """Raises where rows are read in blocks: gradient steps would read them again for each."""
    if plan.problem.x.passes is not None:
        loss, pen = type(plan.problem.loss).__name__, type(plan.pen).__name__
        raise ValueError(
            f"X in blocks of rows is for losses and penalties that few passes solve, not {loss} with {pen} at "
            f'{plan.problem.x.shape}: give it more max_memory, pass an array, or engine="fista" for '
            "thousands of passes."
        )


def solve_plan(engine: Engine, plan: Plan, tried: tuple[str, ...] = ()) -> Path:
    """Runs an engine; fits that it leaves short of `tol` are solved by its successor.

    The one policy for every engine: 1. the engine; 2. where it breaks down, its successor for all; 3. else its
    successor for the fits that are short, each from its own coefficients; gradient steps where the plan is
    traced, the successor does not support it or was `tried`. An interrupted path is returned as it is.
    """
    tried = (*tried, engine.name)
    try:
        found = engine.run(plan)
    except NumericalBreakdown:
        return solve_plan(_successor(engine, plan, tried), plan, tried)
    if not isinstance(found, Path) or found.status.shape != (len(plan),):
        raise TypeError(
            f'engine="{engine.name}" must return a Path with a fit for each of plan.lams, such as of '
            f"plan.certified, got {type(found).__name__}."
        )
    if not engine.leaves_rest or plan.problem.x.passes is not None:
        return found  # gradient steps would take thousands of passes
    if plan.is_traced():
        return _with_rest_traced(plan, found)
    status = np.asarray(found.status)
    short = np.flatnonzero(status != Status.CONVERGED)
    if not len(short) or Status.INTERRUPTED in status:
        return found
    if plan.checkpoint is not None:
        fits = (found.fits.stored_coef, found.intercepts, found.num_steps)
        plan.checkpoint.keep(np.arange(len(plan)), *fits)
    starts = _starts(plan, found, short)
    rest = plan.only(short, starts)
    return with_rest(found, short, lambda: solve_plan(_successor(engine, rest, tried), rest, tried))


def _successor(engine: Engine, plan: Plan, tried: tuple[str, ...]) -> Engine:
    """Returns the engine that solves what this one has left; gradient steps where there is no other."""
    found = ENGINES[engine.successor]
    is_other = found.name not in tried
    if is_other and found.supports(plan) is None:
        return found
    check_passes(plan)
    return ENGINES["sequential"]


def _with_rest_traced(plan: Plan, found: Path) -> Path:
    """Returns the path, its fits that are short of `tol` by gradient steps: where there is one, in any lane."""
    short = found.status != Status.CONVERGED
    starts = _starts(plan, found, slice(None))

    def solve_rest() -> Fit:
        others = ENGINES["fista"].run(dataclasses.replace(plan, starts=starts)).fits
        return jax.vmap(lambda is_short, a, b: jax.tree.map(partial(jnp.where, is_short), a, b))(
            short, others, found.fits
        )

    return Path(jax.lax.cond(any_lane(jnp.any(short)), solve_rest, lambda: found.fits))


def _starts(plan: Plan, found: Path, some: Any) -> Point:
    """Returns some of the fits as points to start gradient steps from."""
    dtype = plan.problem.y.dtype
    coefs, intercepts = dense(take(found.fits.stored_coef, some)), found.intercepts
    if not plan.is_traced():
        coefs, intercepts = np.asarray(coefs), np.asarray(intercepts)
    coefs, intercepts = jnp.asarray(coefs, dtype), jnp.asarray(intercepts[some], dtype)
    starts = jax.vmap(plan.problem.start_from)(coefs, intercepts)
    return _where_finite(starts, plan.start)


def _where_finite(points: Point, other: Point) -> Point:
    """Returns the points (L, p, *k), those that are not finite replaced by the other one."""

    def one(point: Point) -> Point:
        finite = jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(point)]).all()
        return jax.tree.map(lambda a, b: jnp.where(finite, a, b), point, other)

    return jax.vmap(one)(points)


def with_rest(found: Path, some: np.ndarray, solve: Callable[[], Path]) -> Path:
    """Returns the path, its fits at the indices `some` solved.

    Where a block of rows fails, its error holds what is solved.
    """
    try:
        return Path(with_some(found.fits, some, solve().fits))
    except BlockError as error:
        solved = found.fits if error.path is None else with_some(found.fits, some, error.path.fits)
        error.path = Path(solved)
        raise


def with_some(fits: Fit, some: np.ndarray, others: Fit) -> Fit:
    """Returns the fits, those at the indices `some` replaced."""

    def put_one(all_: Any, new: Any) -> Any:
        return put(all_, some, new)

    coefs = put(fits.stored_coef, some, others.stored_coef)
    loss = fits.loss
    fits, others = (dataclasses.replace(f, loss=None, stored_coef=None) for f in (fits, others))
    rest = jax.tree.map(put_one, fits, others)
    return dataclasses.replace(rest, loss=loss, stored_coef=coefs)
