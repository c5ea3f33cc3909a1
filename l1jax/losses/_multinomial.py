"""Multinomial regression: the log-likelihood of one of K classes, also known as softmax."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from .._arrays import (
    columns_first,
    eps,
    if_any,
    in_numpy,
    matmul,
    namespace,
    softmax,
    while_loop,
    xlogy,
)
from .._types import Real
from ._base import Loss
from ._strata import check_labels, rows_of_labels

_POLISH_STEPS = 100  # most take under ten
# Units of rounding below which an intercept that gets no better is taken for the best.
_VISIBLE = 50
_NEAR = 0.1  # fraction of the rarest class by which means may be off where Newton's method begins


@in_numpy
class Multinomial(Loss):
    """The multinomial loss −Σₖ yₖ log softmax(η)ₖ, for labels 0 … K−1 or for rows of K probabilities.

    y (n,) has whole numbers, or y (n, K) rows ≥ 0 that sum to one. Coefficients are (p, K), one column per
    class, intercepts (K,). The same number added to all classes changes nothing: intercepts, and coefficients
    of an unpenalised feature, are returned with mean zero. `GroupL1(lam, range(p))` selects a feature for all
    classes at once. Of a class without a row of positive weight the best intercept is minus infinity; the one
    returned leaves its probability at rounding.

    **Arguments:**

    - `n_classes`: K ≥ 2, the number of labels that occur unless given; needed where labels are traced, or where
      a class has no row.

    **Raises:** ValueError for n_classes < 2.
    Source: Friedman, Hastie and Tibshirani (2010).

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> loss = l1jax.Multinomial()
    >>> eta = jnp.array([[0.0, 0.0], [1.0, 3.0]])
    >>> print(loss.inverse_link(eta)[0], loss.classes(eta))
    [0.5 0.5] [0 1]

    ```
    """

    n_classes: int | None = eqx.field(static=True)

    def __init__(self, n_classes: int | None = None):
        if n_classes is not None:
            if not isinstance(n_classes, int | np.integer) or n_classes < 2:
                raise ValueError(f"n_classes must be a whole number >= 2, got {n_classes!r}.")
            n_classes = int(n_classes)
        self.n_classes = n_classes

    @property
    def smoothness(self) -> float:
        return 0.5

    @property
    def is_separable(self) -> bool:
        return False

    def per_row(self, y: Real, eta: Real) -> Float[Real, "... n"]:
        _, log_p = _probabilities(columns_first(eta))
        return -(columns_first(_one_hot(y, eta)) * log_p).sum(axis=-2)

    def value(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Float[Real, "..."]:
        return super().value(_one_hot(y, eta), eta, s)

    def majorant(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Float[Real, "... n K"]:
        return super().majorant(_one_hot(y, eta), eta, s)

    def gradient(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Float[Real, "... n K"]:
        return self.value_and_gradient(y, eta, s)[1]

    def value_and_gradient(self, y: Real, eta: Real, s: Float[Real, " n"]) -> tuple[Any, Any]:
        xp, y = namespace(y, eta, s), columns_first(_one_hot(y, eta))
        p, log_p = _probabilities(columns_first(eta))
        rows = -s * (y * log_p).sum(axis=-2)
        # Of the label's own class: p − 1 is minus the sum of the others, which keeps its digits.
        others = xp.where(y == 1, 0, p).sum(axis=-2, keepdims=True)
        slope = s * xp.where(y == 1, -others, p - y)
        return xp.where(s > 0, rows, 0).sum(axis=-1), slope.swapaxes(-1, -2)

    def hessian(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Callable[[Any], Any]:
        del y
        p = softmax(eta)
        return lambda u: s[:, None] * p * (u - (p * u).sum(axis=-1, keepdims=True))

    def curvature_factors(
        self, y: Real, eta: Real, s: Float[Real, " n"]
    ) -> tuple[Float[Real, "n K"], Float[Real, "n K"]]:
        """s p and √s p: the curvature is s(diag p − ppᵀ)."""
        del y
        p = softmax(eta)
        return s[:, None] * p, namespace(s).sqrt(s)[:, None] * p

    def curvature(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Float[Real, "... n K"]:
        del y
        p = softmax(eta)
        return s[:, None] * p * (1 - p)

    def conjugate(self, y: Real, u: Real, s: Float[Real, " n"]) -> Float[Real, "..."]:
        """Σ s Σₖ q log q with q = y + u/s a row of probabilities, else infinite."""
        xp, counts = namespace(y, u, s), s[:, None] > 0
        q = _one_hot(y, u) + xp.where(counts, u / xp.where(counts, s[:, None], 1), 0)
        rounding = 8 * eps(u) * u.shape[-1]
        inside = (q >= -rounding).all(axis=-1) & (abs(q.sum(axis=-1) - 1) <= rounding)
        q = xp.clip(q, 0, 1)
        total = (s * xlogy(q, q).sum(axis=-1)).sum(axis=-1)
        return xp.where((inside | (s == 0)).all(axis=-1), total, np.inf)

    def fenchel_gap(self, y: Real, eta: Real, c: Real, s: Float[Real, " n"]) -> Float[Real, "..."]:
        """Σ s KL(q‖p) with p = softmax(η), q = y + c(p − y): every term ≥ 0, exactly 0 at c = 1."""
        xp = namespace(y, eta, c, s)
        y, c = columns_first(_one_hot(y, eta)), xp.asarray(c)[..., None, None]
        p, log_p = _probabilities(columns_first(eta))
        q = (1 - c) * y + c * p
        # q log(q/p) − q + p, of which the last two sum to nothing; with q = p(1 + t) where t is small.
        t = (1 - c) * (y - p) / xp.where(p > 0, p, 1)
        is_near = (abs(t) <= 0.5) & (p > 0)
        t = xp.where(is_near, t, 0)
        near = p * ((1 + t) * xp.log1p(t) - t)
        terms = xp.where(is_near, near, xlogy(q, q) - q * log_p - q + p)
        rows = xp.where(c[..., 0] == 1, 0, xp.maximum(terms, 0).sum(axis=-2))
        return xp.where(s > 0, s * rows, 0).sum(axis=-1)

    def polish_intercept(self, y: Real, eta: Real, s: Float[Real, " n"]) -> Float[Real, "... K"]:
        """By Newton steps; where these lead too far, by shorter ones or by scaling.

        Scaling, dₖ ← dₖ + log(ȳₖ/p̄ₖ), never goes up (Darroch and Ratcliff, 1972), nor does the step
        of Newton's direction u shortened to log(1 + Δ)/Δ with Δ = max u − min u (Bach, 2010). Where
        rows are certain beyond what rounding shows it may end short: then there is no gap.
        """
        xp, unit = namespace(y, eta, s), eps(eta)
        y, eta = columns_first(_one_hot(y, eta)), columns_first(eta)
        frequency = xp.maximum(y @ s, unit**2)

        def iterate_at(d: Any) -> _Iterate:
            p, log_p = _probabilities(eta + d[..., None])
            mean, links = p @ s, matmul(p, (s * p).swapaxes(-1, -2))
            off = abs(mean - frequency).max(axis=-1)
            # Where all of a class are too small for a number, the largest stands for their mean.
            is_number = mean > np.finfo(eta.dtype).tiny / unit
            log_mean = xp.where(is_number, xp.log(xp.where(is_number, mean, 1)), log_p.max(axis=-1))
            return _Iterate(d, mean, log_mean, links, off, -(s * (y * log_p)).sum(axis=(-2, -1)))

        def scaled(at: _Iterate) -> _Iterate:
            return iterate_at(at.d + xp.log(frequency) - at.log_mean)

        def safe_step(at: _Iterate, u: Any) -> _Iterate:
            reach = (u.max(axis=-1) - u.min(axis=-1))[..., None]
            shortened = xp.log1p(reach) / xp.where(reach > 0, reach, 1)
            damped, other = iterate_at(at.d + shortened * u), scaled(at)
            return _choose(damped.value < other.value, damped, other)

        def step(carry):
            at, steps, done = carry
            u = -_solve_laplacian(at.links, at.mean - frequency)
            newton = iterate_at(at.d + u)
            is_good = newton.off < 0.5 * at.off
            safe = if_any(~is_good & ~done, lambda: safe_step(at, u), newton)
            new = _choose(is_good, newton, safe)
            stalled = ~(new.off < at.off) & (at.off <= _VISIBLE * unit)
            return _choose(stalled, at, new), steps + 1, stalled | (new.off <= unit)

        at = iterate_at(0 * eta[..., 0])
        is_near = at.off <= _NEAR * frequency.min()
        at = _choose(is_near, at, if_any(~is_near, lambda: scaled(at), at))
        done = at.off <= unit
        first = (at, xp.zeros(done.shape, xp.int32), done)
        at, *_ = while_loop(lambda c: ~c[2] & (c[1] < _POLISH_STEPS), step, first)
        return self.identify(at.d)

    def identify_free(self, coef: Real) -> Real:
        return coef - coef.mean(axis=-1, keepdims=True)

    def identify(self, intercept: Any) -> Any:
        return self.identify_free(intercept)

    def saturated(self, y: Real, s: Float[Real, " n"]) -> Float[Real, ""]:
        """The entropy of the rows: none where they are labels."""
        entropies = namespace(s).zeros_like(s) if y.ndim == 1 else -xlogy(y, y).sum(axis=-1)
        return (s * entropies).sum()

    def inverse_link(self, eta: Real) -> Real:
        return softmax(eta)

    def classes(self, eta: Real) -> Int[Real, "..."]:
        return eta.argmax(axis=-1).astype(np.int32)

    def accepts(self, y: Real) -> Bool[Real, "n K"]:
        is_whole = abs(y.sum(axis=-1, keepdims=True) - 1) <= _rounding_of_sum(y.dtype)
        return (y >= 0) & is_whole

    def check_shape(self, shape: tuple[int, ...]) -> None:
        columns = shape[1] if len(shape) == 2 else self.n_classes
        if len(shape) not in (1, 2) or columns == 1:
            raise ValueError(
                "y must hold labels, shape (n,), or rows of K >= 2 probabilities, shape (n, K), for "
                f"Multinomial; got {shape}."
            )
        if self.n_classes is not None and columns != self.n_classes:
            raise ValueError(
                f"y must have {self.n_classes} columns for Multinomial(n_classes={self.n_classes}), got "
                f"shape {shape}."
            )

    def check_targets(self, y: np.ndarray) -> None:
        self.check_shape(y.shape)
        if y.ndim == 2:
            bad = np.flatnonzero(
                (y < 0).any(axis=1) | (np.abs(y.sum(axis=1) - 1) > _rounding_of_sum(y.dtype))
            )
            if len(bad):
                raise ValueError(
                    f"y must have rows >= 0 that sum to one for Multinomial, got {y[bad[0]]} at row "
                    f"{bad[0]}."
                )
            return
        check_labels(y, self, self.n_classes)

    def encode(self, y: Any) -> Any:
        """Rows of probabilities, (n, K)."""
        if y.ndim == 2:
            totals = y.sum(axis=1, keepdims=True)
            return y / namespace(y).where(totals > 0, totals, 1)
        or_else = ", or rows of probabilities, shape (n, K)"
        return rows_of_labels(y, self, self.n_classes, or_else)


def _one_hot(y: Real, eta: Real) -> Real:
    """Labels as rows; rows as they are."""
    if y.ndim == 2:
        return y
    return (y[:, None] == namespace(y, eta).arange(eta.shape[-1])).astype(eta.dtype)


def _probabilities(eta: Real) -> tuple[Any, Any]:
    """softmax and its logarithm, of classes in rows (..., K, n).

    To the last digit also where one class is all but certain.
    """
    xp = namespace(eta)
    is_top = xp.arange(eta.shape[-2])[:, None] == eta.argmax(axis=-2)[..., None, :]
    # Not `max`, whose derivative is shared among equals.
    below = eta - xp.where(is_top, eta, 0).sum(axis=-2, keepdims=True)
    sizes = xp.exp(below)
    rest = xp.where(is_top, 0, sizes).sum(axis=-2, keepdims=True)
    return sizes / (1 + rest), below - xp.log1p(rest)


class _Iterate(NamedTuple):
    """Where the search for an intercept stands."""

    d: Float[Real, "... K"]
    mean: Float[Real, "... K"]  # of the probabilities
    log_mean: Float[Real, "... K"]
    links: Float[Real, "... K K"]  # Σ s ppᵀ
    off: Float[Real, "..."]  # how far the mean is from the frequencies of the classes
    value: Float[Real, "..."]


def _choose(condition: Real, yes: _Iterate, no: _Iterate) -> _Iterate:
    xp = namespace(condition)
    return _Iterate(
        *(
            xp.where(condition.reshape(condition.shape + (1,) * (a.ndim - condition.ndim)), a, b)
            for a, b in zip(yes, no, strict=True)
        )
    )


def _solve_laplacian(links: Real, rhs: Real) -> Real:
    """Solves Σ s (diag p − ppᵀ) u = rhs, given Σ s ppᵀ; solutions differ by a level.

    Where classes are all but certain the matrix is tiny: its diagonal is summed from the others.
    """
    xp, k = namespace(links, rhs), links.shape[-1]
    eye = xp.eye(k, dtype=links.dtype)
    links = links * (1 - eye)
    degree = links.sum(axis=-2)
    root = xp.sqrt(xp.where(degree > 0, degree, 1))
    level = root / xp.sqrt((root**2).sum(axis=-1, keepdims=True))
    outer = level[..., :, None] * level[..., None, :]
    system = eye - links / root[..., :, None] / root[..., None, :] + outer
    return xp.linalg.solve(system, (rhs / root)[..., None])[..., 0] / root


def _rounding_of_sum(dtype: Any) -> float:
    """By which a row of probabilities may miss a sum of one."""
    is_short = jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 64
    return 1e-4 if is_short else 1e-8
