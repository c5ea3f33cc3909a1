"""The protocol of a loss: a function of the linear predictor η, weighted over the rows.

An author of a loss writes `per_row`; everything else here is a default derived from it.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from .._arrays import eps, is_in_numpy, namespace, while_loop
from .._modules import Module
from .._types import Real
from ._strata import Strata, of_classes

_NEWTON_STEPS = 100  # a safeguarded step at least halves the bracket, and mostly does far better


class Shifts(NamedTuple):
    """Rows min over o of ½ curvature (target − η − o)² + up o⁺ + down o⁻, each (n,)."""

    curvature: Real
    target: Real
    up: Real
    down: Real


class Loss(Module):
    """A loss L(y, η; s) = Σᵢ sᵢ loss(yᵢ, ηᵢ), with weights s ≥ 0 that sum to one.

    A subclass must define `per_row`. `smoothness` bounds its second derivative (None: unbounded).
    Without a conjugate there is no duality gap: fits are then judged by the optimality conditions.
    """

    @property
    def smoothness(self) -> float | None:
        return None

    @property
    def is_quadratic(self) -> bool:
        """Whether it is ½(y − η)², so that the Gram matrix and Xᵀy determine the solution."""
        return False

    @property
    def is_of_residuals(self) -> Any:
        """Whether it is a function of y − η alone, unchanged by a number added to both (*k)."""
        return self.is_quadratic

    @property
    def is_separable(self) -> bool:
        """Whether it is a sum over the entries of η, so that its Hessian is diagonal."""
        return True

    @property
    def has_intercept(self) -> bool:
        """Whether the same number added to all η changes it; where not, there is no intercept."""
        return True

    @property
    def is_likelihood(self) -> bool:
        """Whether it is minus a log-likelihood, so that AIC and BIC mean something.

        Of losses of residuals only squared error is taken for one, unless they say so.
        """
        return self.is_quadratic or not self.is_of_residuals

    @property
    def convex(self) -> bool:
        """Whether it is convex in η; where not, fits are stationary points, judged by their kkt."""
        return True

    @property
    def has_curvature(self) -> bool:
        """Whether it has positive curvature in every row at every η, so that no quadratic model is flat."""
        return self.convex and (self.is_quadratic or self.is_likelihood)

    @property
    def is_smoothed(self) -> bool:
        """Whether it stands for a loss with corners, which is what is reported (see `smoothing_error`)."""
        return False

    @property
    def has_classes(self) -> bool:
        """Whether targets are classes: whether it says which, in `classes`."""
        return type(self).classes is not Loss.classes

    @property
    def has_thresholds(self) -> bool:
        """Whether η is compared with thresholds, which a fit finds besides (see `thresholds`)."""
        return False

    @property
    def says_saturated(self) -> bool:
        """Whether it says what its least value is, in `saturated`."""
        return type(self).saturated is not Loss.saturated

    @property
    def rows_interact(self) -> bool:
        """Whether the loss of a row depends on other rows, as where they are at risk together."""
        return False

    @abc.abstractmethod
    def per_row(self, y: Array, eta: Array) -> Float[Array, " n"]:
        """loss(yᵢ, ηᵢ) of every row, (n,)."""

    def value(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Float[Real, "..."]:
        """L(y, η; s), a scalar; a row of weight 0 adds 0, even where its loss overflows."""
        rows = s * type(self).per_row(self, y, _counted(self, y, eta, s))
        return namespace(rows).where(s > 0, rows, 0).sum(axis=-1)

    def gradient(self, y: Array, eta: Array, s: Float[Array, " n"]) -> Float[Array, "n *k"]:
        """∂L/∂η, like η; it includes s."""
        return jax.grad(lambda e: jnp.sum(s * self.per_row(y, _counted(self, y, e, s))))(eta)

    def value_and_gradient(self, y: Real, eta: Real, s: Float[Real, " n"]) -> tuple[Any, Any]:
        """L and ∂L/∂η, which may share work."""
        return self.value(y, eta, s), self.gradient(y, eta, s)

    def curvature(self, y: Array, eta: Array, s: Float[Array, " n"]) -> Float[Array, "n *k"]:
        """The diagonal of ∂²L/∂η², like η; it includes s. Where entries are separate one product finds it."""
        return jax.jvp(lambda e: self.gradient(y, e, s), (eta,), (jnp.ones_like(eta),))[1]

    def for_targets(self, y: Real, offset: Real, s: Float[Real, " n"]) -> Loss:
        """Returns the loss with what it takes from the scale of the targets; a constant to derivatives."""
        del y, offset, s
        return self

    def smoothing_error(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Any:
        """Returns what the loss that is reported, in objectives and gaps, exceeds a smooth `value` by."""
        del y, eta, s
        return 0

    def hessian(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Callable[[Any], Any]:
        """∂²L/∂η² as a linear map of what is like η; it includes s."""
        if not self.is_separable:
            return jax.linearize(lambda e: self.gradient(y, e, s), eta)[1]
        weights = self.curvature(y, eta, s)
        return lambda u: weights * u

    def curvature_factors(
        self, y: Real, eta: Real, s: Float[Real, " n"]
    ) -> tuple[Float[Real, "n k"], Float[Real, "n k"]] | None:
        """a and b with ∂²L/∂ηᵢ² = diag(aᵢ) − bᵢbᵢᵀ, of a row of K predictors; None: of another form."""
        del y, eta, s

    def majorant(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Float[Real, "... n *k"]:
        """Curvatures of a quadratic that touches L at η and is nowhere below it, like η; with s.

        Where there is none (`smoothness` is None), the curvature itself.
        """
        if self.smoothness is None:
            return self.curvature(y, eta, s)
        weights = self.smoothness * over_rows(self, s, y, eta)
        return namespace(eta, s).broadcast_to(weights, eta.shape)

    def shifts(self, y: Real, s: Float[Real, " n"]) -> Shifts | None:
        """L as a minimum over shifts of the targets, each with a cost (see `Shifts`); None if it is none."""
        del y, s
        return None

    def conjugate(self, y: Real, u: Real, s: Float[Real, " n"]) -> Float[Real, "..."]:
        """sup_η ⟨u, η⟩ − L(y, η; s), or an upper bound of it; by default infinite: not known."""
        del y, s
        return namespace(u).asarray(np.inf, u.dtype)

    def fenchel_gap(self, y: Real, eta: Real, c: Real, s: Float[Real, " n"]) -> Float[Real, "..."]:
        """L(η) + L*(c ∇L) − c⟨∇L, η⟩ ≥ 0 for 0 ≤ c ≤ 1: what scaling the dual point costs."""
        slope = self.gradient(y, eta, s)
        bound = self.conjugate(y, c * slope, s)
        xp = namespace(y, eta, c, s)
        return xp.maximum(self.value(y, eta, s) + bound - c * xp.sum(slope * eta), 0)

    def polish_intercept(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Float[Real, "... *k"]:
        """The shift d of all η that minimises L, by Newton steps safeguarded by bisection."""

        axis, lanes = (-1, eta.shape[:-1]) if is_in_numpy(self) else (None, ())
        gradient, curvature = self.gradient, self.curvature

        def slope(d: Any) -> Any:
            return gradient(y, eta + d[..., None], s).sum(axis=axis)

        start = slope(namespace(eta).zeros(lanes, eta.dtype))
        xp, unit = namespace(eta, start), eps(eta)
        one = xp.ones_like(start)
        limit = self._furthest_shift(eta)
        right = start < 0  # the minimiser lies to the right

        def widen(carry):
            width, _ = carry
            return 2 * width, slope(xp.where(right, 1, -1) * 2 * width)

        def is_short(carry):
            width, end = carry
            return xp.where(right, end < 0, end > 0) & (width < limit)

        width, _ = while_loop(is_short, widen, (one, slope(xp.where(right, one, -one))))
        low, high = xp.where(right, 0, -width), xp.where(right, width, 0)

        def newton(carry):
            d, low, high, last, steps, _ = carry
            at = eta + d[..., None]
            terms = gradient(y, at, s)
            g, h = terms.sum(axis=axis), curvature(y, at, s).sum(axis=axis)
            low, high = xp.where(g < 0, d, low), xp.where(g > 0, d, high)
            guess = d - g / xp.where(h > 0, h, 1)
            rounding = 2 * unit * xp.maximum(abs(guess), unit)
            # Where curvature jumps, steps that do not shrink may go to and fro for ever.
            shrinks = abs(guess - d) <= xp.maximum(last / 2, rounding)
            usable = (h > 0) & (guess >= low) & (guess <= high) & shrinks
            new = xp.where(usable, guess, low + (high - low) / 2)
            moved = abs(new - d)
            # At best, the slope or the steps are rounding, or no η changes: no more will be known.
            is_least = abs(g) <= unit * abs(terms).sum(axis=axis)
            done = is_least | (at == eta + new[..., None]).all(axis=axis)
            done |= moved <= 2 * unit * xp.maximum(abs(new), unit)
            return xp.where(is_least, d, new), low, high, moved, steps + 1, done

        steps = xp.zeros(one.shape, xp.int32)
        first = (0 * one, low, high, high - low, steps, xp.zeros(one.shape, bool))
        return while_loop(lambda c: ~c[5] & (c[4] < _NEWTON_STEPS), newton, first)[0]

    def _furthest_shift(self, eta: Real) -> Real:
        """Bounds the search for a minimiser: where it is at infinity, the slope is rounding here."""
        largest = abs(eta).max(axis=-1 if is_in_numpy(self) else None, initial=0)
        return 4 * largest - 4 * np.log(eps(eta))

    def neutral_target(self, y: Real, s: Real) -> Real:
        """Returns a target that the loss accepts, for rows of weight 0, whose own may be anything.

        By default that of the row with the largest weight s. Shapes: y, encoded, (n, *k); s (n,); it (*k,).
        """
        return y[s.argmax(), ...]  # an array of NumPy too, where a number is one

    def saturated(self, y: Real, s: Float[Real, " n"]) -> Float[Real, ""]:
        """Σᵢ sᵢ min_η loss(yᵢ, η): the loss of the saturated model. By default 0, the least of most losses."""
        return namespace(y, s).zeros((), y.dtype)

    def deviance(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Float[Real, "..."]:
        """L(η) minus the loss of the saturated model."""
        return self.value(y, eta, s) - self.saturated(y, s)

    def held_out_deviance(
        self, y: Array, eta: Array, s: Float[Array, " n"], held_out: Bool[Array, " n"]
    ) -> Float[Array, ""]:
        """The deviance that the rows held out add to that of the others, over the weight of their terms.

        Where rows interact, as those that are at risk together, it is not the deviance of these rows
        by themselves. Source: Verweij and van Houwelingen (1993).
        """
        added = self.deviance(y, eta, s) - self.deviance(y, eta, jnp.where(held_out, 0, s))
        return added / jnp.sum(jnp.where(held_out, self.counts(y, s), 0))

    def counts(self, y: Real, s: Float[Real, " n"]) -> Float[Real, " n"]:
        """The weight of each row in a mean deviance."""
        del y
        return s

    def take_rows(self, rows: np.ndarray) -> Loss:
        """Returns the loss of the rows where the mask `rows` (n,) is true.

        Fields with one number per row, such as a `delta` of Huber's, are indexed; others stay.
        """

        def some(leaf: Any) -> Any:
            has_rows = getattr(leaf, "shape", ())[:1] == rows.shape
            return np.asarray(leaf)[rows] if has_rows else leaf

        return jax.tree.map(some, self)

    def strata(self, y: np.ndarray) -> Strata:
        """The kinds of rows of each of which a fit needs some, from encoded targets: the classes."""
        return of_classes(y) if self.has_classes else Strata((), np.zeros((len(y), 0)))

    def identify_free(self, coef: Real) -> Real:
        """Returns the representative of the coefficients (p, *k) of unpenalised features with the same loss.

        A linear projection: solvers of singular systems stay in its range.
        """
        return coef

    def identify(self, intercept: Any) -> Any:
        """Returns the representative of all intercepts with the same loss."""
        return intercept

    def thresholds(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Any:
        """Returns the thresholds (..., m) that are best at η (..., n), of a loss that has them."""
        raise NotImplementedError

    def at_thresholds(self, thresholds: Any) -> Loss:
        """Returns the loss that predicts with these thresholds."""
        raise NotImplementedError

    def inverse_link(self, eta: Real) -> Real:
        """The mean response of a linear predictor."""
        return eta

    def classes(self, eta: Real) -> Real:
        """The class of a linear predictor, for losses that classify."""
        del eta
        raise ValueError(
            'kind="class" needs a loss that classifies, such as Logistic, got '
            f"{type(self).__name__}."
        )

    def accepts(self, y: Real) -> Bool[Real, "n *k"]:
        """Which targets are valid, (n, *k): for traced targets, where `check_targets` cannot raise."""
        return namespace(y).isfinite(y)

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raises where targets of this shape cannot be modelled by this loss."""
        if len(shape) != 1:
            hint = (
                "y[:, 0]" if shape[1:] == (1,) else "several responses need SquaredError or Mixed"
            )
            raise ValueError(
                f"y must have shape (n,) for {type(self).__name__}, got {shape}: {hint}."
            )

    def check_targets(self, y: np.ndarray) -> None:
        """Raises where concrete targets cannot be modelled by this loss."""
        self.check_shape(y.shape)

    def read_fields(self, y: np.ndarray) -> np.ndarray:
        """Targets with named fields, a structured array, as the columns that the loss takes."""
        names = y.dtype.names or ("",)
        raise TypeError(
            f"y must be numbers for {type(self).__name__}, got the fields {names}: pass one of them, such "
            f"as y[{names[0]!r}]; times and events are for l1jax.Cox()."
        )

    def encode(self, y: Any) -> Any:
        """Checked targets in the form that solvers work with; NumPy arrays stay such."""
        return y

    def predictor_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of η for encoded targets of this shape."""
        return shape


def has_curvature_factors(loss: Loss) -> bool:
    """Whether the curvature of each row is that of its K predictors, diagonal but for a rank of one."""
    return type(loss).curvature_factors is not Loss.curvature_factors


def over_rows(loss: Loss, s: Real, y: Real, eta: Real) -> Real:
    """Returns a number per row, shaped to multiply η."""
    # Formulas that are for NumPy too allow for more axes before those of the targets.
    ndim = y.ndim if is_in_numpy(loss) else eta.ndim
    return s.reshape(s.shape + (1,) * (ndim - 1))


def _counted(loss: Loss, y: Real, eta: Real, s: Real) -> Real:
    """Returns η, with 0 in rows of weight 0: there per_row and all its derivatives are finite."""
    xp, counts = namespace(eta, s), s > 0
    if xp is np and counts.all():
        return eta
    return xp.where(over_rows(loss, counts, y, eta), eta, 0)
