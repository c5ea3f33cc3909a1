"""Cox's proportional hazards: the partial likelihood of who dies first among those still at risk."""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln, xlogy
from jaxtyping import Array, Bool, Float, Int

from ._base import Loss
from ._strata import Strata

_TIES = ("breslow", "efron")
_ROUNDING = 32  # units of rounding of its terms below which a deviance is taken for zero


class Cox(Loss):
    """Minus the log partial likelihood of survival times: −Σᵢ sᵢδᵢ [ηᵢ − log Σ_{tⱼ ≥ tᵢ} wⱼ exp ηⱼ].

    w are the weights s at a mean of one. y (n, 2) has the columns (time, event): δ = 1 where the event
    happened at that time, 0 where the row is censored then; a structured array of a boolean and a number, as
    in scikit-survival, is read so. Only the order of times matters. There is no intercept, as the same number
    added to all η changes nothing: `fit_intercept` has no effect and 0 is returned. The response is the
    relative risk exp η. The gap uses an upper bound of the conjugate that is tight at the optimum; the
    deviance is relative to the saturated model.

    **Arguments:**

    - `ties`: the sum over those at risk, of d events at one time: "breslow" counts all of them in each;
      "efron" subtracts the fraction l/d of them from the l-th, l = 0 … d−1, and gives each their mean weight.

    **Raises:** ValueError for other ties.
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

    def __init__(self, ties: str = "breslow"):
        if ties not in _TIES:
            raise ValueError(f'ties must be "breslow" or "efron", got {ties!r}.')
        self.ties = ties

    @property
    def is_separable(self) -> bool:
        return False

    @property
    def has_intercept(self) -> bool:
        return False

    @property
    def rows_interact(self) -> bool:
        return True

    def per_row(self, y: Array, eta: Array) -> Float[Array, " n"]:
        """The terms of the rows where all weigh the same."""
        n = y.shape[0]
        return n * self._terms(y, eta, jnp.full(n, 1 / n, eta.dtype))

    def value(self, y: Array, eta: Array, s: Float[Array, " n"]) -> Float[Array, ""]:
        return jnp.sum(self._terms(y, eta, s))

    def _terms(self, y: Array, eta: Array, s: Array) -> Float[Array, " n"]:
        at = _risks_at(self.ties, y, eta, s)
        gained = s * (at.log_risk - eta) + at.weight * jnp.log1p(-at.left_out * at.tied)
        return jnp.where(at.dies, gained, 0)

    def gradient(self, y: Array, eta: Array, s: Float[Array, " n"]) -> Float[Array, " n"]:
        at = _risks_at(self.ties, y, eta, s)
        return at.expected() - jnp.where(at.dies, s, 0)

    def curvature(self, y: Array, eta: Array, s: Float[Array, " n"]) -> Float[Array, " n"]:
        at = _risks_at(self.ties, y, eta, s)
        return jnp.maximum(at.expected() - at.expected_squares(), 0)

    def majorant(self, y: Array, eta: Array, s: Float[Array, " n"]) -> Float[Array, " n"]:
        """Half of the weight of the events that each row was at risk of."""
        at = _risks_at(self.ties, y, eta, s)
        at_risk = jnp.cumsum(jnp.where(at.dies, at.weight, 0)[at.sets.order])[at.sets.last]
        return jnp.where(s > 0, at_risk / 2, 0)

    def fenchel_gap(
        self, y: Array, eta: Array, c: Array, s: Float[Array, " n"]
    ) -> Float[Array, ""]:
        """Σ wₗ KL(qₗ‖pₗ) over events l, with pₗ the risks of those at risk, qₗ = yₗ + c(pₗ − yₗ).

        yₗ spreads over the rows that die at that time. Any qₗ that sum to the gradient bound the
        conjugate from above; these are right at c = 1. Where several die, the part of KL among them
        is bounded by (1−c)KL(yₗ‖pₗ) and by the log of one plus the divergence χ².
        """
        at = _risks_at(self.ties, y, eta, s)
        tied = jnp.minimum(at.tied, 1)
        thinner = 1 - at.left_out * tied
        others = (1 - tied) / thinner  # the probability that none of those who die is the one
        log_own = jnp.log1p(-at.left_out) + jnp.log(tied) - jnp.log(thinner)
        own = jnp.where(c * others < 1, 1 - c * others, 0)
        log_ratio = jnp.log(jnp.where(own > 0, own, 1)) - log_own
        ratio = (1 - c) / jnp.where(own > 0, own, 1)
        # Among those who die at one time: y by weight, p by weight and risk.
        y_in = s / at.sum_ties(s)
        log_p = at.log_weight + eta - at.log_risk - jnp.log(at.tied)
        p_in = jnp.exp(log_p)
        divergence = at.sum_ties(y_in * (jnp.log(y_in) - log_p) - y_in + p_in)
        chi_square = at.sum_ties((y_in - p_in) ** 2 / p_in)
        among = jnp.minimum(ratio * divergence, jnp.log1p(ratio**2 * chi_square))
        rows = xlogy(c * others, c) + own * (log_ratio + jnp.maximum(among, 0))
        rows = jnp.where(c == 1, 0, jnp.maximum(rows, 0))
        return jnp.sum(jnp.where(at.dies, at.weight * rows, 0))

    def polish_intercept(self, y: Array, eta: Array, s: Float[Array, " n"]) -> Float[Array, ""]:
        del y, s
        return jnp.zeros((), eta.dtype)

    def identify(self, intercept: Any) -> Any:
        return abs(0 * intercept)  # never −0

    def saturated(self, y: Array, s: Float[Array, " n"]) -> Float[Array, ""]:
        """Σ over the times of death, of weight D: D log D, and with Efron's ties D/d log(d!/dᵈ)."""
        at = _risks_at(self.ties, y, jnp.zeros_like(s), s)
        weight = at.sum_ties(jnp.exp(at.log_weight))
        rows = s * jnp.log(jnp.where(at.dies, weight, 1))
        if self.ties == "efron":
            d = jnp.where(at.dies, at.sum_ties(jnp.ones_like(s)), 1)
            rows = rows + at.weight * (gammaln(d + 1) / d - jnp.log(d))
        return jnp.sum(jnp.where(at.dies, rows, 0))

    def deviance(self, y: Array, eta: Array, s: Float[Array, " n"]) -> Float[Array, ""]:
        terms = self._terms(y, eta, s)
        found = jnp.sum(terms) - self.saturated(y, s)
        size = jnp.sum(jnp.abs(terms) + s * y[:, 1])
        return jnp.where(found > _ROUNDING * jnp.finfo(eta.dtype).eps * size, found, 0)

    def counts(self, y: Array, s: Float[Array, " n"]) -> Float[Array, " n"]:
        """The weight of the event of each row; 0 where it is censored."""
        return s * y[:, 1]

    def strata(self, y: np.ndarray) -> Strata:
        return Strata(("rows with an event",), y[:, 1:])

    def inverse_link(self, eta: Array) -> Array:
        """The relative risk."""
        return jnp.exp(eta)

    def accepts(self, y: Array) -> Bool[Array, "n 2"]:
        return jnp.isfinite(y) & ((y[:, 1:] == 0) | (y[:, 1:] == 1))

    def check_shape(self, shape: tuple[int, ...]) -> None:
        if len(shape) != 2 or shape[1] != 2:
            raise ValueError(
                "y must have the columns (time, event), shape (n, 2), for Cox, got "
                f"{shape}: numpy.column_stack([time, event])."
            )

    def check_targets(self, y: np.ndarray) -> None:
        self.check_shape(y.shape)
        time, event = y.T
        bad = np.flatnonzero((event != 0) & (event != 1))
        if len(bad):
            swapped = ((time == 0) | (time == 1)).all()
            hint = " The columns seem to be swapped: y[:, ::-1]." if swapped else ""
            raise ValueError(
                "y[:, 1] must hold 1 where the event happened and 0 where it did not, for Cox, got "
                f"{event[bad[0]]} at row {bad[0]}.{hint}"
            )
        if not event.any():
            raise ValueError("y[:, 1] holds no event: the partial likelihood of Cox needs some.")

    def read_fields(self, y: np.ndarray) -> np.ndarray:
        return survival_columns(y)

    def encode(self, y: Any) -> Any:
        """Times become their ranks, in (0, 1]: nothing that is rounded later can tie them."""
        xp = jnp if isinstance(y, jax.Array) else np
        rank = (xp.searchsorted(xp.sort(y[:, 0]), y[:, 0]) + 1) / y.shape[0]
        rank = xp.where(xp.isfinite(y[:, 0]), rank, xp.nan)
        return xp.stack([rank, y[:, 1].astype(rank.dtype)], axis=1)

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


class _Sets(NamedTuple):
    """Who is at risk when: rows in order of time, and where in it the times of each row are."""

    order: Int[Array, " n"]
    first: Int[Array, " n"]  # the first place in the order of those with the time of a row
    last: Int[Array, " n"]

    def later(self, values: Array) -> Array:
        """log Σ exp of the values of all rows whose time is not before that of each row."""
        return _log_sums_from(values[self.order])[self.first]

    def earlier(self, values: Array) -> Array:
        """log Σ exp of the values of all rows whose time is not after that of each row."""
        return _log_sums_from(values[self.order][::-1])[::-1][self.last]

    def same(self, values: Array) -> Array:
        """The sum over the rows with the time of each row."""
        n = values.shape[0]
        return jax.ops.segment_sum(values, self.first, n)[self.first]


class _Risks(NamedTuple):
    """The terms of the likelihood at some η. Each row that dies has one: a sum over those at risk."""

    sets: _Sets
    dies: Bool[Array, " n"]  # rows that count
    eta: Float[Array, " n"]
    log_weight: Float[Array, " n"]
    weight: Float[Array, " n"]  # of the term
    left_out: Float[
        Array, " n"
    ]  # the fraction of those who die at that time that its sum leaves out
    log_risk: Float[Array, " n"]  # log of the sum over all at risk
    tied: Float[Array, " n"]  # the fraction of it due to those who die at that time

    def sum_ties(self, values: Array) -> Array:
        """The sum over the rows that die at the time of each row."""
        return self.sets.same(jnp.where(self.dies, values, 0))

    def log_rates(self, power: int) -> Array:
        """log of weight over sumᵖᵒʷᵉʳ, of the term of each row that dies."""
        log_sum = self.log_risk + jnp.log1p(-self.left_out * self.tied)
        weight = jnp.where(self.dies, self.weight, 1)
        return jnp.where(self.dies, jnp.log(weight) - power * log_sum, _never(self.eta))

    def _over_terms(self, power: int) -> Array:
        """Σ over the terms, of weight times the row's fraction of the sum, to a power."""
        size = self.log_weight + self.eta
        in_all = jnp.exp(power * size + self.sets.earlier(self.log_rates(power)))
        # Those who die are left out of some of the sums of their own time, in part.
        part = 1 - (1 - self.left_out) ** power
        thinner = (1 - self.left_out * self.tied) ** power
        too_much = self.sum_ties(self.weight * part / thinner)
        too_much = too_much * jnp.exp(power * (size - self.log_risk))
        return in_all - jnp.where(self.dies, too_much, 0)

    def expected(self) -> Array:
        """The weight of the events that each row is expected to have had."""
        return self._over_terms(1)

    def expected_squares(self) -> Array:
        return self._over_terms(2)


def _risks_at(ties: str, y: Array, eta: Array, s: Array) -> _Risks:
    time, dies = y[:, 0], (y[:, 1] > 0) & (s > 0)
    order = jnp.argsort(time, stable=True)
    in_order = time[order]
    first = jnp.searchsorted(in_order, time)
    sets = _Sets(order, first, jnp.searchsorted(in_order, time, side="right") - 1)
    scaled = s * jnp.sum(s > 0) / jnp.sum(s)
    log_weight = jnp.where(s > 0, jnp.log(jnp.where(s > 0, scaled, 1)), _never(eta))
    log_risk = sets.later(log_weight + eta)
    # Of a row that dies its own risk is part of the sum: no exponential here exceeds one.
    own = jnp.where(dies, jnp.exp(jnp.where(dies, log_weight + eta - log_risk, 0)), 0)
    tied = sets.same(own)
    weight, left_out = s, jnp.zeros_like(s)
    if ties == "efron":
        count = jnp.maximum(sets.same(dies.astype(eta.dtype)), 1)
        weight = sets.same(jnp.where(dies, s, 0)) / count
        before = jnp.cumsum(dies[order].astype(eta.dtype)) - dies[order]
        place = jnp.zeros_like(before).at[order].set(before) - before[first]
        left_out = jnp.where(dies, place / count, 0)
    return _Risks(sets, dies, eta, log_weight, weight, left_out, log_risk, tied)


def _log_sums_from(values: Array) -> Array:
    """log Σ_{j ≥ i} exp vⱼ for every i.

    Sums of 1, 2, 4, ... in a loop of log n rounds: `lax.cumlogsumexp` unrolls them, and compiling
    its derivatives takes a minute.
    """
    n = values.shape[0]
    nothing = jnp.full(n, _never(values), values.dtype)

    def double(sums: Array, width: Array) -> tuple[Array, None]:
        behind = jax.lax.dynamic_slice(jnp.concatenate([sums, nothing]), (width,), (n,))
        return jnp.logaddexp(sums, behind), None

    widths = 2 ** jnp.arange((n - 1).bit_length())
    return jax.lax.scan(double, values, widths)[0]


def _never(like: Array) -> float:
    """The log of nothing: finite, so that sums and derivatives of it are."""
    return float(jnp.finfo(like.dtype).min) / 8
