"""Cox's proportional hazards: the partial likelihood of who dies first among those still at risk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from .._arrays import eps, gammaln, in_numpy, namespace, never, xlogy
from .._tracing import frozen, is_traced
from .._types import Real
from ._base import Loss
from ._risk_sets import IntervalSets, NestedSets, risk_sets
from ._strata import Strata

_TIES = ("breslow", "efron")
_WIDEST = 300  # range of the logs of risks within which their sums may be squared
_ROUNDING = 32  # units of rounding of its terms below which a deviance is taken for zero


@in_numpy
class Cox(Loss):
    """Minus the log partial likelihood of survival times: −Σᵢ sᵢδᵢ [ηᵢ − log Σ_{tⱼ ≥ tᵢ} wⱼ exp ηⱼ].

    w are the weights s at a mean of one. y (n, 2) has the columns (time, event): δ = 1 where the event
    happened at that time, 0 where the row is censored then; a structured array of a boolean and a number, as
    in scikit-survival, is read so. Only the order of times matters. There is no intercept, as the same number
    added to all η changes nothing: `fit_intercept` has no effect and 0 is returned. The response is the
    relative risk exp η.

    y (n, 3) has the columns (start, stop, event), of rows that are at risk in (start, stop] only: late entries
    (left truncation), or one subject in several rows whose features change in time. The gap uses an upper bound
    of the conjugate that is tight at the optimum; the deviance is relative to the saturated model.

    **Arguments:**

    - `ties`: the sum over those at risk, of d events at one time: "breslow" counts all of them in each;
      "efron" subtracts the fraction l/d of them from the l-th, l = 0 … d−1, and gives each their mean weight.
    - `strata`: labels (n,) of rows, such as the centres of a trial: each has a baseline risk of its own, and at
      risk together are only rows of one stratum.

    **Raises:** ValueError for other ties, or strata that are not one label per row.
    Source: Cox (1972); Breslow (1974); Efron (1977); Simon, Friedman, Hastie and Tibshirani (2011).

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> y = jnp.array([[1.0, 1], [2.0, 0], [3.0, 1]])  # event, censored, event
    >>> eta, s = jnp.zeros(3), jnp.ones(3) / 3
    >>> print(f"{3 * l1jax.Cox().value(y, eta, s):.4f} = log 3")
    1.0986 = log 3

    ```
    """

    ties: str = eqx.field(static=True)
    stratum: Any  # the number of the stratum of each row (n,), or None

    def __init__(self, ties: str = "breslow", strata: Any = None):
        if ties not in _TIES:
            raise ValueError(f'ties must be "breslow" or "efron", got {ties!r}.')
        if strata is not None:
            if not is_traced(strata):
                strata = np.asarray(frozen(strata))
                if strata.ndim == 1:
                    strata = np.unique(strata, return_inverse=True)[1].astype(np.int32)
            if strata.ndim != 1:
                raise ValueError(
                    f"strata must be one label per row, shape (n,), got shape {strata.shape}."
                )
        self.ties, self.stratum = ties, strata

    @property
    def is_separable(self) -> bool:
        return False

    @property
    def has_intercept(self) -> bool:
        return False

    @property
    def rows_interact(self) -> bool:
        return True

    def per_row(self, y: Real, eta: Real) -> Float[Real, "... n"]:
        """The terms of the rows where all weigh the same."""
        n = y.shape[0]
        return n * self._terms(y, eta, namespace(y, eta).full(n, 1 / n, eta.dtype))

    def value(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Float[Real, "..."]:
        return self._terms(y, eta, s).sum(axis=-1)

    def _terms(self, y: Real, eta: Real, s: Real) -> Float[Real, "... n"]:
        at = _risks_at(self.ties, self._intervals(y), eta, s)
        gained = s * (at.log_risk - eta) + at.weight * at.xp.log1p(-at.left_out * at.tied)
        return at.xp.where(at.dies, gained, 0)

    def gradient(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Float[Real, "... n"]:
        at = _risks_at(self.ties, self._intervals(y), eta, s)
        return at.expected() - at.xp.where(at.dies, s, 0)

    def curvature(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Float[Real, "... n"]:
        at = _risks_at(self.ties, self._intervals(y), eta, s)
        return at.xp.maximum(at.expected() - at.expected_squares(), 0)

    def hessian(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Callable[[Any], Any]:
        """Σ over the events of weight (diag p − ppᵀ), with p the risks as fractions of their sum."""
        if namespace(y, eta, s) is jnp:
            return super().hessian(y, eta, s)
        at = _risks_at(self.ties, self._intervals(y), eta, s)
        expected = at.expected()
        return lambda u: expected * u - at.weighted_means(u)

    def majorant(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Float[Real, "... n"]:
        """Half of the weight of the events that each row was at risk of."""
        at = _risks_at(self.ties, self._intervals(y), eta, s)
        at_risk = at.sets.sum_earlier(at.xp.where(at.dies, at.weight, 0))
        return at.xp.broadcast_to(at.xp.where(s > 0, at_risk / 2, 0), eta.shape)

    def fenchel_gap(self, y: Real, eta: Real, c: Real, s: Float[Real, " n"]) -> Float[Real, "..."]:
        """Σ wₗ KL(qₗ‖pₗ) over events l, with pₗ the risks of those at risk, qₗ = yₗ + c(pₗ − yₗ).

        yₗ spreads over the rows that die at that time. Any qₗ that sum to the gradient bound the
        conjugate from above; these are right at c = 1. Where several die, the part of KL among them
        is bounded by (1−c)KL(yₗ‖pₗ) and by the log of one plus the divergence χ².
        """
        at = _risks_at(self.ties, self._intervals(y), eta, s)
        xp = namespace(y, eta, c, s)
        c = xp.asarray(c)[..., None]
        tied = xp.minimum(at.tied, 1)
        thinner = 1 - at.left_out * tied
        others = (1 - tied) / thinner  # the probability that none of those who die is the one
        log_own = xp.log1p(-at.left_out) + xp.log(tied) - xp.log(thinner)
        own = xp.where(c * others < 1, 1 - c * others, 0)
        log_ratio = xp.log(xp.where(own > 0, own, 1)) - log_own
        ratio = (1 - c) / xp.where(own > 0, own, 1)
        # Among those who die at one time: y by weight, p by weight and risk.
        y_in = s / at.sum_ties(s)
        log_p = at.log_weight + eta - at.log_risk - xp.log(at.tied)
        p_in = xp.exp(log_p)
        divergence = at.sum_ties(y_in * (xp.log(y_in) - log_p) - y_in + p_in)
        chi_square = at.sum_ties((y_in - p_in) ** 2 / p_in)
        among = xp.minimum(ratio * divergence, xp.log1p(ratio**2 * chi_square))
        rows = xlogy(c * others, c) + own * (log_ratio + xp.maximum(among, 0))
        rows = xp.where(c == 1, 0, xp.maximum(rows, 0))
        return xp.where(at.dies, at.weight * rows, 0).sum(axis=-1)

    def polish_intercept(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Float[Real, "..."]:
        del y, s
        return namespace(eta).zeros(eta.shape[:-1], eta.dtype)

    def identify(self, intercept: Any) -> Any:
        return abs(0 * intercept)  # never −0

    def saturated(self, y: Real, s: Float[Real, " n"]) -> Float[Real, ""]:
        """Σ over the times of death, of weight D: D log D, and with Efron's ties D/d log(d!/dᵈ)."""
        xp = namespace(y, s)
        at = _risks_at(self.ties, self._intervals(y), xp.zeros_like(s), s)
        weight = at.sum_ties(xp.exp(at.log_weight))
        rows = s * xp.log(xp.where(at.dies, weight, 1))
        if self.ties == "efron":
            d = xp.where(at.dies, at.sum_ties(xp.ones_like(s)), 1)
            rows = rows + at.weight * (gammaln(d + 1) / d - xp.log(d))
        return xp.where(at.dies, rows, 0).sum()

    def deviance(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Float[Real, "..."]:
        xp, terms = namespace(y, eta, s), self._terms(y, eta, s)
        found = terms.sum(axis=-1) - self.saturated(y, s)
        size = (abs(terms) + s * y[:, -1]).sum(axis=-1)
        return xp.where(found > _ROUNDING * eps(eta) * size, found, 0)

    def counts(self, y: Real, s: Float[Real, " n"]) -> Float[Real, " n"]:
        """The weight of the event of each row; 0 where it is censored."""
        return s * y[:, -1]

    def strata(self, y: np.ndarray) -> Strata:
        return Strata(("rows with an event",), y[:, -1:])

    def inverse_link(self, eta: Real) -> Real:
        """The relative risk."""
        return namespace(eta).exp(eta)

    def accepts(self, y: Real) -> Bool[Real, "n c"]:
        return namespace(y).isfinite(y) & ((y[:, -1:] == 0) | (y[:, -1:] == 1))

    def check_shape(self, shape: tuple[int, ...]) -> None:
        if len(shape) != 2 or shape[1] not in (2, 3):
            raise ValueError(
                "y must have the columns (time, event), shape (n, 2), or (start, stop, event), shape (n, 3), "
                f"for Cox, got {shape}: numpy.column_stack([time, event])."
            )
        if self.stratum is not None and self.stratum.shape != shape[:1]:
            raise ValueError(
                f"strata must have one label per row of y, shape {shape[:1]}, got {self.stratum.shape}."
            )

    def check_targets(self, y: np.ndarray) -> None:
        self.check_shape(y.shape)
        time, event = y[:, -2], y[:, -1]
        bad = np.flatnonzero((event != 0) & (event != 1))
        if len(bad):
            swapped = ((time == 0) | (time == 1)).all()
            hint = " The columns seem to be swapped: y[:, ::-1]." if swapped else ""
            raise ValueError(
                f"y[:, {y.shape[1] - 1}] must hold 1 where the event happened and 0 where it did not, for Cox, "
                "got "
                f"{event[bad[0]]} at row {bad[0]}.{hint}"
            )
        if not event.any():
            raise ValueError(
                f"y[:, {y.shape[1] - 1}] holds no event: the partial likelihood of Cox needs some."
            )
        empty = np.flatnonzero(y[:, 0] >= time) if y.shape[1] == 3 else []
        if len(empty):
            raise ValueError(
                "y[:, 0], when a row enters, must be before y[:, 1], when it leaves, for Cox, got "
                f"{y[empty[0], 0]} and {time[empty[0]]} at row {empty[0]}."
            )

    def read_fields(self, y: np.ndarray) -> np.ndarray:
        return survival_columns(y)

    def encode(self, y: Any) -> Any:
        """Times become their ranks, in [0, 1]: nothing that is rounded later can tie them."""
        xp = jnp if isinstance(y, jax.Array) else np
        if self.stratum is not None:
            ranks = self._intervals(y) / y.shape[0]
            ranks = xp.where(xp.isfinite(y).all(axis=1, keepdims=True), ranks, xp.nan)
            return xp.concatenate([ranks[:, :2], y[:, -1:].astype(ranks.dtype)], axis=1)
        in_order = xp.sort(y[:, -2])
        sides = ("left",) if y.shape[1] == 2 else ("right", "left")
        ranks = []
        for column, side in enumerate(sides):
            rank = xp.searchsorted(in_order, y[:, column], side=side) + (side == "left")
            ranks.append(xp.where(xp.isfinite(y[:, column]), rank / y.shape[0], xp.nan))
        return xp.stack([*ranks, y[:, -1].astype(ranks[0].dtype)], axis=1)

    def _intervals(self, y: Real) -> Real:
        """Targets as (start, stop, event) where there are strata, whose times then do not overlap."""
        if self.stratum is None:
            return y
        xp, n = namespace(y, self.stratum), y.shape[0]
        in_order = xp.sort(y[:, -2])
        first = (n + 1) * xp.asarray(self.stratum)
        stop = first + xp.searchsorted(in_order, y[:, -2], side="right")
        start = first
        if y.shape[1] == 3:
            start = first + xp.searchsorted(in_order, y[:, 0], side="right")
        # Ranks among all, so that they are small numbers.
        of_all = xp.sort(stop)
        columns = [xp.searchsorted(of_all, at, side="right") for at in (start, stop)]
        return xp.stack([*(at.astype(y.dtype) for at in columns), y[:, -1]], axis=1)

    def predictor_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape[:1]


def survival_columns(y: np.ndarray) -> np.ndarray:
    """The columns (time, event) of a structured array of survival times, (n, 2).

    It has two fields, as in scikit-survival: a boolean, which says whether the event was observed, and a
    number, the time, of any names and in any order.

    **Raises:** ValueError for other fields.
    """
    fields = [y[name] for name in y.dtype.names or ()]
    events = [field for field in fields if field.dtype.kind == "b"]
    times = [field for field in fields if field.dtype.kind in "iuf"]
    if len(fields) != 2 or not events or not times:
        raise ValueError(
            "y must have two fields, a boolean (was the event observed?) and a number (the time), got "
            f"{y.dtype.descr}: numpy.column_stack([time, event])."
        )
    return np.stack([times[0], events[0]], axis=1, dtype=np.float64)


class _Risks(NamedTuple):
    """The terms of the likelihood at some η. Each row that dies has one: a sum over those at risk."""

    sets: NestedSets | IntervalSets
    dies: Bool[Real, " n"]  # rows that count
    eta: Float[Real, "... n"]
    log_weight: Float[Real, " n"]
    weight: Float[Real, " n"]  # of the term
    left_out: Float[Real, " n"]  # the fraction of those who die then that its sum leaves out
    log_risk: Float[Real, "... n"]  # log of the sum over all at risk
    tied: Float[Real, "... n"]  # the fraction of it due to those who die at that time

    @property
    def xp(self) -> Any:
        return namespace(self.eta, self.dies, self.weight)

    def sum_ties(self, values: Real) -> Real:
        """The sum over the rows that die at the time of each row."""
        return self.sets.same(self.xp.where(self.dies, values, 0))

    def log_rates(self, power: int) -> Real:
        """log of weight over sumᵖᵒʷᵉʳ, of the term of each row that dies."""
        xp = self.xp
        log_sum = self.log_risk + xp.log1p(-self.left_out * self.tied)
        weight = xp.where(self.dies, self.weight, 1)
        return xp.where(self.dies, xp.log(weight) - power * log_sum, never(self.eta))

    def _over_terms(self, power: int) -> Real:
        """Σ over the terms, of weight times the row's fraction of the sum, to a power."""
        xp, size = self.xp, self.log_weight + self.eta
        in_all = xp.exp(power * size + self.sets.earlier(self.log_rates(power)))
        # Those who die are left out of some of the sums of their own time, in part.
        part = 1 - (1 - self.left_out) ** power
        thinner = (1 - self.left_out * self.tied) ** power
        too_much = self.sum_ties(self.weight * part / thinner)
        too_much = too_much * xp.exp(power * (size - self.log_risk))
        return in_all - xp.where(self.dies, too_much, 0)

    def expected(self) -> Real:
        """The weight of the events that each row is expected to have had."""
        return self._over_terms(1)

    def expected_squares(self) -> Real:
        return self._over_terms(2)

    def weighted_means(self, u: np.ndarray) -> np.ndarray:
        """Σ over the terms of weight p (pᵀu), for u (..., n), at one η in NumPy."""
        size, order = self.log_weight + self.eta, self.sets.order
        counts = size > never(size) / 2  # rows of positive weight
        most = size.max()
        if not self.sets.is_nested or most - size[counts].min(initial=most) > _WIDEST:
            fractions = self._fractions()
            return (u @ fractions.T * self.weight[self.dies]) @ fractions
        # By sums in order of time, none of whose exponentials is less than the root of the smallest number.
        risk = np.exp(size - most)
        rate = np.where(
            self.dies, np.exp(most - self.log_risk) / (1 - self.left_out * self.tied), 0
        )
        means = (risk * u)[..., order][..., ::-1].cumsum(axis=-1)[..., ::-1][..., self.sets.first]
        means -= self.left_out * self.sum_ties(risk * u)
        terms = self.weight * rate**2 * means
        sums = terms[..., order].cumsum(axis=-1)[..., self.sets.last]
        return risk * (sums - np.where(self.dies, self.sum_ties(self.left_out * terms), 0))

    def _fractions(self) -> np.ndarray:
        """p of each term, (d, n)."""
        dies, first = self.dies, self.sets.first
        is_at_risk = self.sets.at_risk(dies)
        size = (self.log_weight + self.eta) - self.log_risk[dies][:, None]
        p = np.exp(np.where(is_at_risk, size, -np.inf))
        is_tied = self.dies & (first == first[dies][:, None])
        p *= 1 - np.where(is_tied, self.left_out[dies][:, None], 0)
        return p / (1 - self.left_out * self.tied)[dies][:, None]


def _risks_at(ties: str, y: Real, eta: Real, s: Real) -> _Risks:
    xp, dies, sets = namespace(y, eta, s), (y[:, -1] > 0) & (s > 0), risk_sets(y)
    order, first = sets.order, sets.first
    scaled = s * (s > 0).sum() / s.sum()
    log_weight = xp.where(s > 0, xp.log(xp.where(s > 0, scaled, 1)), never(eta))
    log_risk = sets.later(log_weight + eta)
    # Of a row that dies its own risk is part of the sum: no exponential here exceeds one.
    own = xp.where(dies, xp.exp(xp.where(dies, log_weight + eta - log_risk, 0)), 0)
    tied = sets.same(own)
    weight, left_out = s, xp.zeros_like(s)
    if ties == "efron":
        count = xp.maximum(sets.same(dies.astype(eta.dtype)), 1)
        weight = sets.same(xp.where(dies, s, 0)) / count
        before = xp.cumsum(dies[order].astype(eta.dtype)) - dies[order]
        place = before[xp.argsort(order)] - before[first]
        left_out = xp.where(dies, place / count, 0)
    return _Risks(sets, dies, eta, log_weight, weight, left_out, log_risk, tied)
