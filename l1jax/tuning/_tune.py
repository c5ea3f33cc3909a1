"""`tune`: hyperparameters by gradient, through the derivative of the solution.

One strength: a coarse path with its derivatives makes a curve of cubics in log λ, and each further
fit goes where that curve is lowest; so a valley between two points is found, and the start does not
matter. Several hyperparameters: L-BFGS from there, in log space, with bounds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, no_type_check

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Array

from .._checks import check_number
from .._progress import progress_bar
from .._tables import Shown, Table
from ..linear import Fit, fit, lambda_max, path
from ..linear.data._inputs import read
from ..linear.data._precision import give_back, precision
from ..linear.host._entry_point import entry_point
from ..losses import Loss, SquaredError
from ..penalties import Penalty
from ._criteria import Criterion, CrossValidation, Refit, UserCriterion
from ._search_space import LEAST_RATIO, Curve, Space, numbers_of, with_fields

_COARSE = 10  # strengths of the first path
_SPAN = 1e-3  # of λmax, down to which λ is searched
_RATIOS = (0.1, 0.9)  # l1_ratio to start from, beside the one given
_SQUARED_ERROR = SquaredError()


class Trial(NamedTuple):
    """What was tried, what it was worth, and the derivative there (by the logarithms)."""

    values: dict[str, np.ndarray]
    criterion: float
    gradient: np.ndarray

    @property
    def rank(self) -> float:
        """The criterion, and infinity for what is no number."""
        return self.criterion if np.isfinite(self.criterion) else np.inf


class Tuned(Shown, eqx.Module):
    """What `tune` found.

    `pen`: the penalty with the best hyperparameters; `fit`: of all the data, with it; `criterion`:
    its value; `gradient`: by the logarithms of the hyperparameters (of l1_ratio itself), there;
    `history`: every trial, in order; `num_fits`: how many hyperparameters were tried one by one,
    after the first path; `interrupted`: by Ctrl-C, so that the search did not end.
    """

    pen: Penalty
    fit: Fit
    criterion: float
    gradient: np.ndarray
    history: tuple[Trial, ...]
    num_fits: int
    interrupted: bool = False

    def _table(self) -> Table:
        best = min(range(len(self.history)), key=lambda i: self.history[i].rank)
        names = tuple(self.history[best].values)
        rows = []
        for i in sorted({*range(min(len(self.history), 10)), best, len(self.history) - 1}):
            trial = self.history[i]
            values = (_show(trial.values[name]) if name in trial.values else "" for name in names)
            mark = "<- best" if i == best else ""
            rows.append((str(i), *values, f"{trial.criterion:.6g}", mark))
        title = (
            f"Tuned: {self.pen}, criterion {self.criterion:.6g}, "
            f"{len(self.history)} trials, gradient {np.abs(self.gradient).max(initial=0):.1e}"
        )
        title += ", interrupted" * self.interrupted
        title += self._end(best)
        header = ("trial", *names, "criterion", "")
        return Table(title, header, tuple(rows), left=(len(header) - 1,))

    def _end(self, best: int) -> str:
        """Says if a single strength is the last one of the range, beyond which others may be better."""
        names = {name for trial in self.history for name in trial.values}
        if len(self.history) < _COARSE or len(names) > 1:
            return ""
        values = [next(iter(trial.values.values())) for trial in self.history]
        if any(value.ndim for value in values):
            return ""
        ends = {"least": min(values), "largest": max(values)}
        return "".join(
            f", at the {name} tried" for name, end in ends.items() if values[best] == end
        )


@no_type_check  # checks its arguments itself, in sentences
@entry_point
def tune(
    X: Any,
    y: Any,
    pen: Penalty,
    *,
    by: str | tuple[str, ...] | None = None,
    criterion: Criterion | Callable[[Fit], Array] | None = None,
    max_fits: int | None = None,
    progress: bool | None = None,
    loss: Loss = _SQUARED_ERROR,
    fit_intercept: bool = True,
    standardize: bool = False,
    sample_weight: Any = None,
    offset: Any = None,
    tol: Any = None,
) -> Tuned:
    """Chooses hyperparameters of a penalty by the gradient of a criterion.

    **Arguments:**

    - `pen`: the penalty. A strength it has is one more point to start from; none is needed.
    - `by`: the names of its fields to choose: its strength unless given; ("lam", "l1_ratio");
      "weights", one per feature or group, which start from those of pen (1 unless given) and keep
      its strength if it has one (where nothing is in at that, they start from smaller ones). Weights
      of 0 and inf stay. One strength per class or response:
      `L1(lam, weights=np.ones((1, k)))`.
    - `criterion`: `l1jax.CrossValidation()` unless given, `l1jax.HeldOut(X, y)`,
      `l1jax.SURE(sigma)`, or your function of a `Fit`, made of JAX operations, that returns a
      scalar. Less is better; what is not finite is worse than all else.
    - `max_fits`: hyperparameters to try after the first path of 10: 15 for one strength and 100 for
      more, unless given. Each takes one fit per fold.
    - `progress`: show a bar (None: in a terminal).

    All other arguments as for `fit`. λ is searched between λmax and λmax/1000. Returns a
    `Tuned`, never worse than any start. The criterion of several hyperparameters has many minima:
    this is one of them. Ctrl-C ends the search with the best so far, and says so.

    Raises: ValueError or TypeError that names the argument.

    Source: Bengio (2000); for the lasso Bertrand et al. (2022).

    **Example:**

    ```python
    >>> import l1jax
    >>> from sklearn.datasets import load_diabetes
    >>> X, y = load_diabetes(return_X_y=True)
    >>> tuned = l1jax.tune(X, y, l1jax.L1(), criterion=l1jax.CrossValidation(5))
    >>> bool(0.01 < tuned.pen.lam < 0.2), tuned.num_fits <= 15
    (True, True)

    ```
    """
    options = {
        "loss": loss,
        "fit_intercept": fit_intercept,
        "standardize": standardize,
        "sample_weight": sample_weight,
        "offset": offset,
    }
    inputs = read(X, y, pen, loss, sample_weight, offset, tol, has_strength=False)
    names = _names(pen, by)
    criterion = _criterion(criterion)
    several = names != (pen.strength,)
    if max_fits is None:
        max_fits = 100 if several else 15
    max_fits = int(check_number(max_fits, "max_fits", 1, whole=True))
    with precision(inputs.wants_x64):
        data = Refit(X, y, {**options, "tol": tol})
        with progress_bar(None, progress, "tune") as bar:
            search = _Search(data, pen, criterion, bar)
            interrupted = False
            try:
                found = search.several(names, max_fits) if several else search.one(max_fits)
            except KeyboardInterrupt:
                if not search.history:
                    raise
                interrupted = True
                found = with_fields(pen, search.best().values)
        best = give_back(found, inputs.wants_x64)
    result = fit(X, y, best, tol=tol, **options)
    trial = search.best()
    history = tuple(search.history)
    return Tuned(
        best, result, trial.criterion, trial.gradient, history, search.num_fits, interrupted
    )


class _Search:
    """The trials so far, and how to make another."""

    def __init__(self, data: Refit, pen: Penalty, criterion: Criterion, bar: Any):
        self.data, self.pen, self.criterion, self.bar = data, pen, criterion, bar
        self.history: list[Trial] = []
        self.num_fits = 0
        self.held: dict[str, Any] = {}  # what is chosen too, and does not vary at the moment

    def one(self, max_fits: int) -> Penalty:
        """The best strength."""
        name = self.pen.strength
        biggest = float(lambda_max(self.data.X, self.data.y, self.pen, **self.data.without_tol))
        if not 0 < biggest < np.inf:
            raise ValueError(
                f"{type(self.pen).__name__} has no strength at which nothing is in the model of these "
                f"data (it is {biggest}), so there is no range to search."
            )
        grid = np.log(biggest) + np.linspace(0, np.log(_SPAN), _COARSE)
        curve = Curve(*self._along(grid))
        self.best()  # raises where no criterion is finite
        start = getattr(self.pen, name, None)
        points = (
            [] if start is None else [np.clip(np.log(max(float(start), 1e-300)), grid[-1], grid[0])]
        )
        for _ in range(max_fits):
            t = points.pop() if points else curve.lowest()
            if t is None:
                break
            if np.abs(curve.t - t).min() > 1e-12:
                found = self._at({name: np.exp(t)}, lambda values: np.asarray([values[name]]))
                if not curve.add(t, *found):
                    break
        return self.pen.with_strength(np.exp(curve.t[np.argmin(curve.value)]))

    def best(self) -> Trial:
        """The trial of the least criterion so far."""
        best = min(self.history, key=lambda trial: trial.rank)
        if best.rank == np.inf:
            raise ValueError(
                f"criterion must be a finite number for some of the fits, but it was {best.criterion} "
                f"at all {len(self.history)} trials."
            )
        return best

    def several(self, names: tuple[str, ...], max_fits: int) -> Penalty:
        """A local minimum in all the named fields, from the best strength."""
        strength = self.pen.strength
        pen = self.pen
        if strength in names or getattr(pen, strength) is None:
            pen = self._from_best_strength(names, max_fits)
            if strength not in names:
                self.held = {strength: np.asarray(getattr(pen, strength))}
        else:
            pen = self._with_some_in(pen, names)
        space = self._space(pen, names)
        budget = max(max_fits - self.num_fits, 1)
        scipy.optimize.minimize(
            lambda u: self._at(space.fields(u), space.by_coordinates, pen),
            space.start,
            jac=True,
            method="L-BFGS-B",
            bounds=space.bounds,
            options={"maxfun": budget, "maxiter": budget, "ftol": 1e-7, "gtol": 1e-6},
        )
        return with_fields(pen, self.best().values)

    def _space(self, pen: Penalty, names: tuple[str, ...]) -> Space:
        return Space(pen, names, np.shape(self.data.X)[1])

    def _with_some_in(self, pen: Penalty, names: tuple[str, ...]) -> Penalty:
        """The penalty; where nothing is in, and no gradient leads on, the best of some smaller λ."""
        given: Any = pen
        lam = float(given.strength_value)
        biggest = float(lambda_max(self.data.X, self.data.y, pen, **self.data.without_tol))
        if lam < biggest:
            return pen
        space = self._space(pen, names)
        moved = False
        for fall in np.log(lam / biggest) - np.linspace(0, np.log(_SPAN), _COARSE):
            fields = space.fields(space.fallen(fall))
            _, gradient = self._at(fields, space.by_coordinates, pen)
            moved |= bool(gradient.any())
        if not moved:
            raise ValueError(
                f"pen: nothing is in the model at {pen.strength} = {lam:.6g}, whatever {names} are: start "
                f"from a smaller one, or choose it too, by={(pen.strength, *names)}."
            )
        self.num_fits = 0  # these stand for the first path
        return with_fields(pen, self.best().values)

    def _from_best_strength(self, names: tuple[str, ...], max_fits: int) -> Penalty:
        """The penalty with the strength that is best for what else it has, or for some ratios."""
        given: Any = self.pen
        p = np.shape(self.data.X)[1]
        others = {name: numbers_of(given, name, p) for name in names if name != given.strength}
        if "l1_ratio" not in names:
            self.held = others
            found = self.one(min(max_fits, 15))
            self.held = {}
            return found
        for ratio in {float(np.clip(given.l1_ratio, LEAST_RATIO, 1)), *_RATIOS}:
            self.held = others | {"l1_ratio": np.asarray(ratio)}
            self.pen = with_fields(given, self.held)
            self.one(min(max_fits, 5))
        self.held = {}
        return with_fields(given, self.best().values)

    def _along(self, logs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The criterion and its derivative at strengths of one path."""

        def total(lams: Array) -> tuple[Array, Array]:
            fits = lambda y, weight: path(  # noqa: E731
                self.data.X, y, self.pen, lams=lams, sample_weight=weight, progress=False,
                **self.data.rest,
            ).fits  # fmt: skip
            values = self.criterion(self.data.with_fits(fits))
            return jnp.sum(values), values

        lams = jnp.asarray(np.exp(logs))
        (_, values), by_lam = jax.value_and_grad(total, has_aux=True)(lams)
        values, slopes = np.asarray(values, float), np.asarray(by_lam * lams, float)
        for lam, value, slope in zip(np.exp(logs), values, slopes, strict=True):
            self._note({self.pen.strength: np.asarray(lam)}, value, np.asarray([slope]))
        return logs, values, slopes

    def _at(
        self, values: dict[str, Any], by_coordinates: Callable, pen: Penalty | None = None
    ) -> tuple[float, np.ndarray]:
        """The criterion and its derivative by the coordinates of the search at one point."""
        base = self.pen if pen is None else pen

        def one(values: dict[str, Array]) -> Array:
            here = with_fields(base, values)
            fits = lambda y, weight: fit(  # noqa: E731
                self.data.X, y, here, sample_weight=weight, **self.data.rest
            )
            return self.criterion(self.data.with_fits(fits))

        arrays = {name: jnp.asarray(value) for name, value in values.items()}
        value, slopes = jax.value_and_grad(one)(arrays)
        scaled = {
            name: slope if name == "l1_ratio" else slope * arrays[name]
            for name, slope in slopes.items()
        }
        gradient = np.asarray(by_coordinates(jax.tree.map(np.asarray, scaled)), float)
        self.num_fits += 1
        self._note({k: np.asarray(v) for k, v in values.items()}, float(value), gradient)
        return float(value), gradient

    def _note(self, values: dict[str, np.ndarray], criterion: float, gradient: np.ndarray) -> None:
        self.history.append(Trial(self.held | values, float(criterion), gradient))
        self.bar.update()
        self.bar.set_postfix(criterion=f"{min(t.rank for t in self.history):.5g}")


def _names(pen: Penalty, by: Any) -> tuple[str, ...]:
    names = (pen.strength,) if by is None else (by,) if isinstance(by, str) else tuple(by)
    fields = {field.name: getattr(pen, field.name) for field in dataclasses.fields(pen)}
    possible = tuple(
        name
        for name, value in fields.items()
        if name != "excluded" and (value is None or np.asarray(value).dtype.kind in "fiu")
    )
    for name in names:
        if name not in possible:
            raise ValueError(
                f"by must name fields of {type(pen).__name__} that hold numbers, {possible}, got {name!r}."
            )
    if not names or len(set(names)) < len(names):
        raise ValueError(f"by must name one field or several different ones, got {by!r}.")
    return names


def _criterion(criterion: Any) -> Criterion:
    if criterion is None:
        return CrossValidation()
    if isinstance(criterion, Criterion):
        return criterion
    if not callable(criterion):
        raise TypeError(
            "criterion must be l1jax.CrossValidation(), l1jax.HeldOut(X, y), l1jax.SURE(sigma) or a "
            f"function of a fit, got {criterion!r}."
        )
    return UserCriterion(criterion)


def _show(value: np.ndarray) -> str:
    if value.ndim:
        return f"{value.size} in [{value.min():.3g}, {value.max():.3g}]"
    return f"{float(value):.5g}"
