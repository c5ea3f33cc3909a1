"""Proportional odds: the log-likelihood of ordered classes, their thresholds profiled out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .._arrays import (
    constant,
    eps,
    in_numpy,
    matmul,
    namespace,
    relative_entropy,
    sigmoid,
    softplus,
    while_loop,
    xlogy,
)
from .._modules import with_fields
from .._tracing import frozen, is_traced
from .._types import Real
from ._base import Loss
from ._strata import Strata, check_labels, of_classes, rows_of_labels

_NEWTON_STEPS = 200  # most solves take under ten
_HALVINGS = 40
_TO_BOUNDARY = 0.9  # of the way to where two thresholds would meet, at most
_ROUNDING = 8  # units of rounding that a sum over the rows may be off, so that a step does not show


@in_numpy
class Ordinal(Loss):
    """The proportional odds loss of ordered classes y in 0 … K−1, (n,), with P(yᵢ ≤ k) = σ(θₖ − ηᵢ).

    L(η) = min over θ₁ < … < θ_{K−1} of −Σᵢ sᵢ log P(yᵢ), a convex function of η: a larger η makes higher
    classes more likely. The thresholds θ (K−1,) are not penalised. They take the place of the intercept:
    `fit_intercept` has no effect and 0 is returned. For K = 2 it is `Logistic` with the intercept −θ. A class
    without a row of positive weight has probability 0: its thresholds meet.

    A fit holds its thresholds, `fit.thresholds`: `fit.predict(X)` are probabilities (m, K), with kind="class"
    the most probable labels, with kind="link" η. At any η (n,) the loss with the best thresholds is
    `loss.with_thresholds(y, eta, s)`. Without thresholds the response is η, the mean of a latent logistic
    variable: so are the `predictions` of a cross-validation. The gap uses an upper bound of the conjugate that
    is tight at the optimum. The deviance of held-out rows is at the thresholds of the others.

    **Arguments:**

    - `n_classes`: K ≥ 2, the number of labels that occur unless given; needed where labels are traced, or where
      a class has no row.
    - `thresholds`: θ (K−1,), ascending, for predictions only; a fit finds its own.

    **Raises:** ValueError for n_classes < 2, thresholds that descend, or another number of them than K−1.
    Source: McCullagh (1980).

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> loss = l1jax.Ordinal(thresholds=[-1.0, 1.0])
    >>> eta = jnp.array([-2.0, 0.0, 2.0])
    >>> print(f"{loss.inverse_link(eta)[1, 1]:.4f} = σ(1) − σ(−1)", loss.classes(eta))
    0.4621 = σ(1) − σ(−1) [0 1 2]

    ```
    """

    n_classes: int | None = eqx.field(static=True)
    cuts: Any  # the thresholds (K−1,), or None

    def __init__(self, n_classes: int | None = None, thresholds: Any = None):
        if n_classes is not None:
            if not isinstance(n_classes, int | np.integer) or n_classes < 2:
                raise ValueError(f"n_classes must be a whole number >= 2, got {n_classes!r}.")
            n_classes = int(n_classes)
        if thresholds is not None:
            if not isinstance(thresholds, jax.Array):
                thresholds = np.asarray(thresholds, np.float64)
            count = n_classes or thresholds.size + 1
            if thresholds.ndim < 1 or thresholds.shape[-1] != count - 1 or count < 2:
                what = "K-1 >= 1" if n_classes is None else f"n_classes - 1 = {count - 1}"
                raise ValueError(
                    f"thresholds must be {what} numbers, got shape {thresholds.shape}."
                )
            if not is_traced(thresholds):
                known = np.asarray(frozen(thresholds))
                if not (known[..., 1:] >= known[..., :-1]).all():
                    raise ValueError(f"thresholds must ascend, got {known}.")
        self.n_classes, self.cuts = n_classes, thresholds

    @property
    def smoothness(self) -> float:
        return 0.5

    @property
    def is_separable(self) -> bool:
        return False

    @property
    def has_intercept(self) -> bool:
        return False

    @property
    def rows_interact(self) -> bool:
        return True

    @property
    def has_thresholds(self) -> bool:
        return True

    def per_row(self, y: Real, eta: Real) -> Float[Real, "... n"]:
        """The terms of the rows where all weigh the same."""
        n = y.shape[0]
        return _at_best(y, eta, namespace(y, eta).full(n, 1 / n, eta.dtype)).rows()

    def value(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Float[Real, "..."]:
        return _at_best(y, eta, s).value()

    def gradient(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Float[Real, "... n"]:
        """That at fixed thresholds, as these are the best."""
        return _at_best(y, eta, s).slope()

    def curvature(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Float[Real, "... n"]:
        at = _at_best(y, eta, s)
        cross = at.cross()
        of_thresholds = _solve(at.hessian(cross), cross.swapaxes(-1, -2)).swapaxes(-1, -2)
        return at.xp.maximum((cross * (1 - of_thresholds)).sum(axis=-1), 0)

    def hessian(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Callable[[Any], Any]:
        """diag(C1) − C H⁻¹Cᵀ, with H the Hessian by the thresholds, −C (n, K−1) that by η and these."""
        at = _at_best(y, eta, s)
        cross = at.cross()
        of_thresholds, row_weights = at.hessian(cross), cross.sum(axis=-1)

        def apply(u: Any) -> Any:
            moved = matmul(u, cross)
            rhs = moved.reshape(-1, moved.shape[-1]).T
            solved = _solve(of_thresholds, rhs).T.reshape(moved.shape)
            return row_weights * u - matmul(solved, cross.T)

        return apply

    def majorant(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Float[Real, "... n"]:
        """s/4 for each of the thresholds of a row's class, one or two: L is below the loss at fixed ones."""
        weights = s * (1 + y[:, 1:-1].sum(axis=1)) / 4
        return namespace(y, eta, s).broadcast_to(weights, eta.shape)

    def fenchel_gap(self, y: Real, eta: Real, c: Real, s: Float[Real, " n"]) -> Float[Real, "..."]:
        """Those of log(1 + exp ·) and −log(1 − exp −·), of which the loss is a sum, at c times their slopes.

        −log(σ(a) − σ(b)) = log(1 + exp −a) + log(1 + exp b) − log(1 − exp(b − a)). Slopes by the thresholds
        sum to zero, and c times these too: so they bound the conjugate from above.
        """
        return _at_best(y, eta, s).fenchel_gap(namespace(y, eta, c, s).asarray(c))

    def polish_intercept(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Float[Real, "..."]:
        del y, s
        return namespace(eta).zeros(eta.shape[:-1], eta.dtype)

    def identify(self, intercept: Any) -> Any:
        return abs(0 * intercept)  # never −0

    def thresholds(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Float[Real, "... m"]:
        """The best thresholds θ (K−1,) at η (n,), of labels y (n,) or their rows (n, K), with weights s (n,).

        ∓∞ below the first and above the last class that has a row of positive weight.
        """
        xp = namespace(y, eta, s)
        y, eta, s = xp.asarray(y), xp.asarray(eta), xp.asarray(s)
        y = xp.asarray(self.encode(y) if y.ndim == 1 else y, eta.dtype)
        cuts = _at_best(y, eta, s).cuts
        present = ((s[:, None] * y).sum(axis=0) > 0).astype(np.int32)
        place = xp.cumsum(present)[:-1] - 1
        inside = cuts[..., xp.clip(place, 0, cuts.shape[-1] - 1)]
        last = place >= present.sum() - 1
        return xp.where(place < 0, -np.inf, xp.where(last, np.inf, inside)).astype(eta.dtype)

    def at_thresholds(self, thresholds: Any) -> Loss:
        return with_fields(self, cuts=thresholds)

    def with_thresholds(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Ordinal:
        """Returns the loss with the best thresholds at η (n,), for predictions (see `thresholds`)."""
        return Ordinal(self.n_classes, self.thresholds(y, eta, s))

    def held_out_deviance(
        self, y: Array, eta: Array, s: Float[Array, " n"], held_out: Bool[Array, " n"]
    ) -> Float[Array, ""]:
        """−Σ s log P over the rows held out, over their weight, at the thresholds of the others."""
        others = jnp.where(held_out, 0, s)
        p = self.with_thresholds(y, eta, others).inverse_link(eta)
        own = jnp.where(y > 0, p, 0).sum(axis=1)
        rows = jnp.where(held_out & (s > 0), s * -jnp.log(jnp.where(held_out, own, 1)), 0)
        return rows.sum() / jnp.where(held_out, s, 0).sum()

    def inverse_link(self, eta: Real) -> Float[Real, "..."]:
        """The probabilities of the classes (..., K); without thresholds η itself."""
        if self.cuts is None:
            return eta
        xp = namespace(eta, self.cuts)
        eta = xp.asarray(eta)
        x = xp.asarray(self.cuts, eta.dtype)[..., None, :] - eta[..., None]
        # Each is a difference of what is below its upper and its lower threshold, on the side that is small.
        wide = [(0, 0)] * (x.ndim - 1) + [(1, 1)]
        x = xp.pad(x, wide, constant_values=((0, 0),) * (x.ndim - 1) + ((-np.inf, np.inf),))
        low, high = x[..., :-1], x[..., 1:]
        flip = low + high > 0
        below = sigmoid(xp.where(flip, -high, low))
        return xp.maximum(sigmoid(xp.where(flip, -low, high)) - below, 0)

    def classes(self, eta: Real) -> Int[Real, "..."]:
        """The most probable class."""
        if self.cuts is None:
            raise ValueError(
                "the class needs the thresholds: loss.with_thresholds(y, fit.predict(X, kind='link'), s)"
                ".classes(eta), with s the weights of the rows."
            )
        return self.inverse_link(eta).argmax(axis=-1).astype(np.int32)

    def strata(self, y: np.ndarray) -> Strata:
        return of_classes(y)

    def take_rows(self, rows: np.ndarray) -> Loss:
        del rows
        return self

    def accepts(self, y: Real) -> Bool[Real, "n K"]:
        return (y == 0) | (y == 1)

    def check_targets(self, y: np.ndarray) -> None:
        self.check_shape(y.shape)
        check_labels(y, self, self.n_classes)

    def encode(self, y: Any) -> Any:
        """Labels as rows of K numbers, 1 at the class."""
        return rows_of_labels(y, self, self.n_classes)

    def predictor_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape[:1]


class _Data(NamedTuple):
    """The rows, with the classes that have weight numbered 0 … K'−1; there are K'−1 thresholds of K−1."""

    upper: Float[Real, "n m"]  # 1 where the threshold is the upper one of a row's class
    lower: Float[Real, "n m"]  # 1 where it is the lower one
    eta: Float[Real, "... n"]
    s: Float[Real, " n"]
    exists: Bool[Real, " m"]

    @property
    def inner(self) -> Float[Real, "n r"]:
        """1 where a row lies between a threshold and the next, (n, K−2)."""
        return self.upper[:, 1:] * self.lower[:, :-1]


class _Terms(NamedTuple):
    """The loss at some thresholds."""

    data: _Data
    cuts: Float[Real, "... m"]

    @property
    def xp(self) -> Any:
        return namespace(self.data.eta, self.cuts)

    def _x(self) -> Real:
        return self.cuts[..., None, :] - self.data.eta[..., None]

    def width(self) -> Real:
        """θₖ − θₖ₋₁, (..., K−2); 1 where there is no such pair."""
        return self.xp.where(self.data.exists[1:], self.xp.diff(self.cuts, axis=-1), 1)

    def _odds(self) -> Real:
        """1/(exp d − 1) of these widths d."""
        width = self.width()
        return self.xp.exp(-width) / -self.xp.expm1(-width)

    def rows(self) -> Real:
        data, x, xp = self.data, self._x(), self.xp
        outside = data.upper * softplus(-x) + data.lower * softplus(x)
        return outside.sum(axis=-1) - matmul(xp.log(-xp.expm1(-self.width())), data.inner.T)

    def value(self) -> Real:
        s, xp = self.data.s, self.xp
        return xp.where(s > 0, s * xp.where(s > 0, self.rows(), 0), 0).sum(axis=-1)

    def _slopes(self) -> Real:
        """Those of the logistic parts by the thresholds, (..., n, K−1)."""
        data, x = self.data, self._x()
        return data.s[:, None] * (data.lower * sigmoid(x) - data.upper * sigmoid(-x))

    def slope(self) -> Real:
        return -self._slopes().sum(axis=-1)

    def gradient(self) -> tuple[Real, Real]:
        """By the thresholds, (..., K−1), and the sum of the sizes of its terms."""
        parts = self._slopes()
        between = matmul(self.data.s, self.data.inner) * self._odds()
        above, below = _beside(between)
        return parts.sum(axis=-2) + above - below, abs(parts).sum(axis=-2) + above + below

    def cross(self) -> Real:
        """Minus the second derivatives by η and the thresholds, (..., n, K−1)."""
        data, x = self.data, self._x()
        return data.s[:, None] * (data.upper + data.lower) * sigmoid(x) * sigmoid(-x)

    def bound(self) -> Real:
        """Curvatures of parabolas that are nowhere below the logistic parts, as `cross`.

        Source: Jaakkola and Jordan (2000).
        """
        data, xp = self.data, self.xp
        size = xp.maximum(abs(self._x()), 1e-3)
        return data.s[:, None] * (data.upper + data.lower) * xp.tanh(size / 2) / (2 * size)

    def hessian(self, of_rows: Real) -> Real:
        """By the thresholds, tridiagonal (..., K−1, K−1), from `cross` or `bound`; 1 where there is none."""
        odds, xp, m = self._odds(), self.xp, self.cuts.shape[-1]
        above, below = _beside(matmul(self.data.s, self.data.inner) * odds * (1 + odds))
        diagonal = xp.where(self.data.exists, of_rows.sum(axis=-2) + above + below, 1)
        parts = (diagonal, 0), (-above, 1), (-below, -1)
        return sum(part[..., None] * xp.eye(m, k=k, dtype=part.dtype) for part, k in parts)

    def fenchel_gap(self, c: Real) -> Real:
        data, x, xp = self.data, self._x(), self.xp
        of_rows, of_widths = c[..., None, None], c[..., None]
        x = xp.where(data.upper > 0, -x, x)
        slope = of_rows * sigmoid(x)
        rest = 1 - slope
        log_rest = xp.log1p(-xp.where(rest > 0, slope, 0))
        logistic = xlogy(slope, of_rows) + rest * (log_rest + softplus(x))
        odds = self._odds()
        between = relative_entropy(of_widths * odds, odds)
        between = between - relative_entropy(1 + of_widths * odds, 1 + odds)
        rows = ((data.upper + data.lower) * xp.maximum(logistic, 0)).sum(axis=-1)
        rows = rows + matmul(xp.maximum(between, 0), data.inner.T)
        return xp.where(c == 1, 0, xp.where(data.s > 0, data.s * rows, 0).sum(axis=-1))


def _beside(between: Real) -> tuple[Real, Real]:
    """What lies between thresholds, (..., K−2), of the lower and of the upper one of each pair, (..., K−1)."""
    xp = namespace(between)
    none = xp.zeros((*between.shape[:-1], 1), between.dtype)
    return xp.concatenate([between, none], axis=-1), xp.concatenate([none, between], axis=-1)


def _at_best(y: Any, eta: Any, s: Any) -> _Terms:
    """The loss at the best thresholds."""
    xp = namespace(y, eta, s)
    eta, s = xp.asarray(eta), xp.asarray(s)
    y = constant(xp.asarray(y, eta.dtype))
    y, eta = xp.where(s[:, None] > 0, y, 0), xp.where(s > 0, eta, 0)
    has_rows = (y > 0).any(axis=0)
    # Classes without a row come last; the order of the others stays.
    y = y[:, xp.argsort(~has_rows, stable=True)]
    exists = xp.arange(1, y.shape[1]) < has_rows.sum()
    data = _Data(y[:, :-1] * exists, y[:, 1:] * exists, eta, s, exists)
    if xp is jnp:
        return _Terms(data, _best_cuts(data))
    with np.errstate(all="ignore"):  # of steps that are too long
        return _Terms(data, _newton(data))


def _solve(hessian: Real, rhs: Real) -> Real:
    """Solves with a Hessian by the thresholds, scaled so that no entry is tiny; rhs (..., K−1, r)."""
    xp = namespace(hessian, rhs)
    diagonal = xp.diagonal(hessian, axis1=-2, axis2=-1)
    root = xp.sqrt(xp.where(diagonal > 0, diagonal, 1))[..., None]
    eye = xp.eye(hessian.shape[-1], dtype=hessian.dtype)
    # A unit of rounding more: what is singular has a solution.
    more = xp.where(diagonal > 0, eps(hessian), 1)[..., None] * eye
    system = hessian / root / root.swapaxes(-1, -2) + more
    return xp.linalg.solve(system, rhs / root) / root


def _first_cuts(data: _Data) -> Real:
    """The thresholds of the frequencies of the classes, for a logistic variable as wide as η and its noise."""
    xp, eta, s = namespace(data.eta), data.eta, data.s / data.s.sum()
    mean = (eta * s).sum(axis=-1, keepdims=True)
    variance = ((eta - mean) ** 2 * s).sum(axis=-1, keepdims=True)
    below = xp.clip(xp.cumsum(matmul(s, data.upper)), eps(eta), 1 - eps(eta))
    first = mean + xp.sqrt(1 + variance * 3 / np.pi**2) * (xp.log(below) - xp.log1p(-below))
    return xp.where(data.exists, first, 0)


def _shortened(at: _Terms, step: Real, allowed: Real, is_needed: Real) -> Real:
    """Halves a step, within the order of the thresholds, until the loss is as low as allowed."""
    xp = at.xp
    narrower = xp.where(at.data.exists[1:], -xp.diff(step, axis=-1) / at.width(), 0)
    most = xp.maximum(narrower.max(axis=-1, initial=0), 0.5)
    first = xp.minimum(_TO_BOUNDARY / most, 1)

    def is_high(carry: tuple[Real, Real]) -> Real:
        size, count = carry
        new = at._replace(cuts=at.cuts + size[..., None] * step).value()
        return is_needed & ~(new <= allowed) & (count < _HALVINGS)

    start = (first, xp.zeros(first.shape, xp.int32))
    size, _ = while_loop(is_high, lambda carry: (carry[0] / 2, carry[1] + 1), start)
    return size[..., None] * step


def _newton(data: _Data) -> Real:
    """The best thresholds, by Newton steps; where these do not go down, by those of a curvature's bound."""
    unit, first = eps(data.eta), _first_cuts(data)
    xp = namespace(first)

    def step(carry: tuple[Real, Real, Real]) -> tuple[Real, Real, Real]:
        cuts, steps, _ = carry
        at = _Terms(data, cuts)
        gradient, sizes = at.gradient()
        gradient = xp.where(data.exists, gradient, 0)
        value = at.value()
        allowed = value + _ROUNDING * unit * abs(value)
        hessian = at.hessian(at.cross())
        whole = -_solve(hessian, gradient[..., None])[..., 0]
        full = at._replace(cuts=cuts + whole)
        in_order = xp.where(data.exists[1:], xp.diff(full.cuts, axis=-1) > 0, True).all(axis=-1)
        is_lower = in_order & (full.value() <= allowed)
        is_lower &= (xp.diagonal(hessian, axis1=-2, axis2=-1) > 0).all(axis=-1)
        other = -_solve(at.hessian(at.bound()), gradient[..., None])[..., 0]
        moved = xp.where(is_lower[..., None], whole, _shortened(at, other, allowed, ~is_lower))
        is_finite = xp.isfinite(moved).all(axis=-1)
        moved = xp.where(is_finite[..., None], moved, 0)
        done = (abs(gradient) <= _ROUNDING * unit * sizes).all(axis=-1) | ~is_finite
        done |= (abs(moved) <= unit * xp.maximum(abs(cuts), 1)).all(axis=-1)
        return cuts + moved, steps + 1, done

    lanes = first.shape[:-1]
    start = (first, xp.zeros(lanes, xp.int32), xp.zeros(lanes, bool))
    return while_loop(lambda c: ~c[2] & (c[1] < _NEWTON_STEPS), step, start)[0]


_compiled_newton = jax.jit(_newton)  # so that what is not compiled otherwise compiles once


@jax.custom_jvp
def _best_cuts(data: _Data) -> Array:
    """The best thresholds, as a function that has derivatives."""
    return _compiled_newton(data)


@_best_cuts.defjvp
def _best_cuts_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    """By the implicit function theorem: the gradient by the thresholds stays zero."""
    (data,), (change,) = primals, tangents
    cuts = _best_cuts(data)

    def gradient(eta: Array, s: Array) -> Array:
        return _Terms(data._replace(eta=eta, s=s), cuts).gradient()[0]

    moved = jax.jvp(gradient, (data.eta, data.s), (change.eta, change.s))[1]
    at = _Terms(data, cuts)
    return cuts, -_solve(at.hessian(at.cross()), jnp.where(data.exists, moved, 0)[:, None])[:, 0]
