"""Multinomial regression: the log-likelihood of one of K classes, also known as softmax."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import xlogy
from jaxtyping import Array, Bool, Float, Int

from ._base import Loss
from ._strata import check_labels

_POLISH_STEPS = 100  # most take under ten
_VISIBLE = (
    50  # units of rounding below which an intercept that gets no better is taken for the best
)


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

    def per_row(self, y: Array, eta: Array) -> Float[Array, " n"]:
        return -jnp.sum(_one_hot(y, eta) * _log_probabilities(eta), axis=-1)

    def gradient(self, y: Array, eta: Array, s: Float[Array, " n"]) -> Float[Array, "n K"]:
        y, p = _one_hot(y, eta), jax.nn.softmax(eta)
        # Of the label's own class: p − 1 is minus the sum of the others, which keeps its digits.
        others = jnp.sum(jnp.where(y == 1, 0, p), axis=-1, keepdims=True)
        return s[:, None] * jnp.where(y == 1, -others, p - y)

    def hessian(self, y: Array, eta: Array, s: Float[Array, " n"]) -> Callable[[Array], Array]:
        del y
        p = jax.nn.softmax(eta)
        return lambda u: s[:, None] * p * (u - jnp.sum(p * u, axis=-1, keepdims=True))

    def curvature(self, y: Array, eta: Array, s: Float[Array, " n"]) -> Float[Array, "n K"]:
        del y
        p = jax.nn.softmax(eta)
        return s[:, None] * p * (1 - p)

    def conjugate(self, y: Array, u: Array, s: Float[Array, " n"]) -> Float[Array, ""]:
        """Σ s Σₖ q log q with q = y + u/s a row of probabilities, else infinite."""
        counts = s[:, None] > 0
        q = _one_hot(y, u) + jnp.where(counts, u / jnp.where(counts, s[:, None], 1), 0)
        rounding = 8 * jnp.finfo(u.dtype).eps * u.shape[-1]
        inside = jnp.all(q >= -rounding, axis=-1) & (jnp.abs(jnp.sum(q, axis=-1) - 1) <= rounding)
        q = jnp.clip(q, 0, 1)
        total = jnp.sum(s * jnp.sum(xlogy(q, q), axis=-1))
        return jnp.where(jnp.all(inside | (s == 0)), total, jnp.inf)

    def fenchel_gap(
        self, y: Array, eta: Array, c: Array, s: Float[Array, " n"]
    ) -> Float[Array, ""]:
        """Σ s KL(q‖p) with p = softmax(η), q = y + c(p − y): every term ≥ 0, exactly 0 at c = 1."""
        y, log_p = _one_hot(y, eta), _log_probabilities(eta)
        p = jnp.exp(log_p)
        q = (1 - c) * y + c * p
        # q log(q/p) − q + p, of which the last two sum to nothing; with q = p(1 + t) where t is small.
        t = (1 - c) * (y - p) / jnp.where(p > 0, p, 1)
        is_near = (jnp.abs(t) <= 0.5) & (p > 0)
        t = jnp.where(is_near, t, 0)
        near = p * ((1 + t) * jnp.log1p(t) - t)
        terms = jnp.where(is_near, near, xlogy(q, q) - q * log_p - q + p)
        rows = jnp.where(c == 1, 0, jnp.sum(jnp.maximum(terms, 0), axis=-1))
        return jnp.sum(jnp.where(s > 0, s * rows, 0))

    def polish_intercept(self, y: Array, eta: Array, s: Float[Array, " n"]) -> Float[Array, " K"]:
        """By Newton steps; where these lead too far, by shorter ones or by scaling.

        Scaling, dₖ ← dₖ + log(ȳₖ/p̄ₖ), never goes up (Darroch and Ratcliff, 1972), nor does the step
        of Newton's direction u shortened to log(1 + Δ)/Δ with Δ = max u − min u (Bach, 2010). Where
        rows are certain beyond what rounding shows it may end short: then there is no gap.
        """
        y, eps = _one_hot(y, eta), jnp.finfo(eta.dtype).eps
        frequency = jnp.maximum(s @ y, eps**2)
        log_s = jnp.where(s > 0, jnp.log(jnp.where(s > 0, s, 1)), -jnp.inf)[:, None]

        def iterate_at(d: Array) -> _Iterate:
            log_p = _log_probabilities(eta + d)
            log_mean = jax.nn.logsumexp(log_s + log_p, axis=0)
            off = jnp.max(jnp.abs(jnp.exp(log_mean) - frequency))
            return _Iterate(d, log_mean, off, -jnp.sum(s[:, None] * y * log_p))

        def step(carry):
            at, steps, _ = carry
            u = -_solve_laplacian(s, jax.nn.softmax(eta + at.d), jnp.exp(at.log_mean) - frequency)
            reach = jnp.max(u) - jnp.min(u)
            shortened = jnp.log1p(reach) / jnp.where(reach > 0, reach, 1)
            newton, damped = iterate_at(at.d + u), iterate_at(at.d + shortened * u)
            scaled = iterate_at(at.d + jnp.log(frequency) - at.log_mean)
            safe = _choose(damped.value < scaled.value, damped, scaled)
            new = _choose(newton.off < 0.5 * at.off, newton, safe)
            stalled = ~(new.off < at.off) & (at.off <= _VISIBLE * eps)
            return _choose(stalled, at, new), steps + 1, stalled | (new.off <= eps)

        at = iterate_at(0 * eta[0])
        done = at.off <= eps
        at = _choose(done, at, iterate_at(at.d + jnp.log(frequency) - at.log_mean))
        first = (at, jnp.zeros((), jnp.int32), done)
        at, *_ = jax.lax.while_loop(lambda c: ~c[2] & (c[1] < _POLISH_STEPS), step, first)
        return self.identify(at.d)

    def identify_free(self, coef: Array) -> Array:
        return coef - jnp.mean(coef, axis=-1, keepdims=True)

    def identify(self, intercept: Any) -> Any:
        return self.identify_free(intercept)

    def saturated(self, y: Array, s: Float[Array, " n"]) -> Float[Array, ""]:
        """The entropy of the rows: none where they are labels."""
        entropies = jnp.zeros_like(s) if y.ndim == 1 else -jnp.sum(xlogy(y, y), axis=-1)
        return jnp.sum(s * entropies)

    def inverse_link(self, eta: Array) -> Array:
        return jax.nn.softmax(eta)

    def classes(self, eta: Array) -> Int[Array, "..."]:
        return jnp.argmax(eta, axis=-1).astype(jnp.int32)

    def accepts(self, y: Array) -> Bool[Array, "n K"]:
        is_whole = jnp.abs(jnp.sum(y, axis=-1, keepdims=True) - 1) <= _rounding_of_sum(y.dtype)
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
        xp = jnp if isinstance(y, jax.Array) else np
        if y.ndim == 2:
            totals = y.sum(axis=1, keepdims=True)
            return y / xp.where(totals > 0, totals, 1)
        count = self.n_classes
        if count is None:
            try:
                count = int(y.max()) + 1
            except jax.errors.ConcretizationTypeError:
                raise ValueError(
                    "y is traced, so its labels do not say how many classes there are: pass "
                    "l1jax.Multinomial(n_classes=...), or rows of probabilities, shape (n, K)."
                ) from None
        return (y[:, None] == xp.arange(count)).astype(xp.result_type(y.dtype, xp.float32))


def _one_hot(y: Array, eta: Array) -> Array:
    """Labels as rows; rows as they are."""
    if y.ndim == eta.ndim:
        return y
    return (y[:, None] == jnp.arange(eta.shape[-1])).astype(eta.dtype)


def _log_probabilities(eta: Array) -> Array:
    """log softmax, to the last digit also where one class is all but certain."""
    is_top = jax.nn.one_hot(jnp.argmax(eta, axis=-1), eta.shape[-1], dtype=bool)
    top = jnp.sum(jnp.where(is_top, eta, 0), axis=-1, keepdims=True)
    rest = jnp.sum(jnp.where(is_top, 0, jnp.exp(eta - top)), axis=-1, keepdims=True)
    return (eta - top) - jnp.log1p(rest)


class _Iterate(NamedTuple):
    """Where the search for an intercept stands."""

    d: Float[Array, " K"]
    log_mean: Float[Array, " K"]  # of the probabilities
    off: Float[Array, ""]  # how far the mean probabilities are from the frequencies of the classes
    value: Float[Array, ""]


def _choose(condition: Array, yes: _Iterate, no: _Iterate) -> _Iterate:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def _solve_laplacian(s: Array, p: Array, rhs: Array) -> Array:
    """Solves Σ s (diag p − ppᵀ) u = rhs, whose solutions differ by a level.

    Where classes are all but certain the matrix is tiny: its diagonal is summed from the others.
    """
    k = p.shape[-1]
    links = jnp.matmul(p.T, s[:, None] * p, precision="highest") * (1 - jnp.eye(k, dtype=p.dtype))
    degree = jnp.sum(links, axis=0)
    root = jnp.sqrt(jnp.where(degree > 0, degree, 1))
    level = root / jnp.sqrt(jnp.sum(root**2))
    system = jnp.eye(k, dtype=p.dtype) - links / root[:, None] / root + level[:, None] * level
    return jnp.linalg.solve(system, rhs / root) / root


def _rounding_of_sum(dtype: Any) -> float:
    """By which a row of probabilities may miss a sum of one."""
    is_short = jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 64
    return 1e-4 if is_short else 1e-8
