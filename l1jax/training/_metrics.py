"""Metrics: by what an optimiser divides each coordinate of a gradient, and so each threshold."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from ._optax_internals import (
    ADAGRAD_STATES,
    ADAM_STATES,
    CENTRED_STATES,
    RMS_STATES,
    only_state,
)


class Metric(eqx.Module):
    """The diagonal metric C of a direction C⁻¹m: read from the state that the direction returned."""

    @abc.abstractmethod
    def diagonal(self, state: PyTree, params: PyTree) -> Any:
        """C like params, or one number for all; inf where the direction never moves a coordinate."""


class MomentumMetric(Metric):
    """C = 1 − β: undamped momentum `optax.trace(β)` adds 1/(1−β) gradients, so as many thresholds.

    Nesterov's form has the same sum.

    **Example:**

    ```python
    >>> import l1jax, optax
    >>> tx = l1jax.proximal(
    ...     0.1, l1jax.L1(0.1), optax.trace(0.5), metric=l1jax.MomentumMetric(0.5)
    ... )

    ```
    """

    decay: Any

    def diagonal(self, state: PyTree, params: PyTree) -> Any:
        del state, params
        return 1 - self.decay


class AdamMetric(Metric):
    """C = √(v̂ + eps_root) + eps with v̂ the bias-corrected second moment of `optax.scale_by_adam`.

    **Arguments:** those of `optax.scale_by_adam`, whose state does not contain them.
    **Raises:** ValueError if the direction has no such state, or several. Source: Kingma and Ba (2015).

    **Example:**

    ```python
    >>> import l1jax, optax
    >>> tx = l1jax.proximal(
    ...     1e-3, l1jax.L1(0.1), optax.scale_by_adam(b2=0.99), metric=l1jax.AdamMetric(b2=0.99)
    ... )

    ```
    """

    b2: Any = 0.999
    eps: Any = 1e-8
    eps_root: Any = 0.0

    def diagonal(self, state: PyTree, params: PyTree) -> Any:
        del params
        adam = only_state(state, ADAM_STATES, "AdamMetric", "optax.scale_by_adam")
        second = optax.tree.bias_correction(_precise(adam.nu), self.b2, adam.count)
        return jax.tree.map(lambda v: jnp.sqrt(v + self.eps_root) + self.eps, second)


class RMSPropMetric(Metric):
    """C = √(ν + eps), or √ν + eps, with ν the second moment of `optax.scale_by_rms` or `scale_by_stddev`.

    **Arguments:** those of the direction (its state says whether it is centred), and

    - `momentum`: β of an `optax.trace(β)` that follows it, which multiplies C by 1 − β.

    **Raises:** as `AdamMetric`. Source: Tieleman and Hinton (2012).

    **Example:**

    ```python
    >>> import l1jax, optax
    >>> tx = l1jax.proximal(
    ...     1e-3, l1jax.L1(0.1), optax.scale_by_rms(), metric=l1jax.RMSPropMetric()
    ... )

    ```
    """

    decay: Any = 0.9
    eps: Any = 1e-8
    eps_in_sqrt: bool = eqx.field(static=True, default=True)
    bias_correction: bool = eqx.field(static=True, default=False)
    momentum: Any = None

    def diagonal(self, state: PyTree, params: PyTree) -> Any:
        del params
        maker = "optax.scale_by_rms or scale_by_stddev"
        rms = only_state(state, (*RMS_STATES, *CENTRED_STATES), "RMSPropMetric", maker)
        second = self._corrected(rms, rms.nu)
        if type(rms).__name__ in CENTRED_STATES:
            first = self._corrected(rms, rms.mu)
            second = jax.tree.map(lambda v, m: v - m**2, second, first)
        damping = 1 if self.momentum is None else 1 - self.momentum
        return jax.tree.map(lambda v: damping * self._root(v), second)

    def _corrected(self, rms: Any, moment: PyTree) -> PyTree:
        moment = _precise(moment)
        if not self.bias_correction:
            return moment
        return optax.tree.bias_correction(moment, self.decay, rms.count)

    def _root(self, v: Any) -> Any:
        return jnp.sqrt(v + self.eps) if self.eps_in_sqrt else jnp.sqrt(v) + self.eps


class AdagradMetric(Metric):
    """C = √(Σg² + eps) of `optax.scale_by_rss`, infinite where the sum is 0: there nothing moves yet.

    **Arguments:** `eps`, that of the direction. **Raises:** as `AdamMetric`.
    Source: Duchi, Hazan and Singer (2011).

    **Example:**

    ```python
    >>> import l1jax, optax
    >>> tx = l1jax.proximal(
    ...     0.1, l1jax.L1(0.1), optax.scale_by_rss(), metric=l1jax.AdagradMetric()
    ... )

    ```
    """

    eps: Any = 1e-7

    def diagonal(self, state: PyTree, params: PyTree) -> Any:
        del params
        rss = only_state(state, ADAGRAD_STATES, "AdagradMetric", "optax.scale_by_rss")
        return jax.tree.map(
            lambda t: jnp.where(t > 0, jnp.sqrt(t + self.eps), jnp.inf),
            _precise(rss.sum_of_squares),
        )


class Direction(optax.GradientTransformationExtraArgs):
    """An optax transformation that knows its metric, for `metric="auto"`."""

    metric: Metric | str


def directed(direction: optax.GradientTransformation, metric: Metric | str) -> Direction:
    """The same transformation, which carries its metric."""
    out = Direction(*optax.with_extra_args_support(direction))
    out.metric = metric
    return out


def resolve(
    metric: Any, direction: optax.GradientTransformation
) -> Callable[[PyTree, PyTree], Any]:
    """(state of the direction, params) -> C, from what a user gave as `metric`."""
    if isinstance(metric, str) and metric == "auto":
        if not isinstance(direction, Direction):
            raise ValueError(
                'metric="auto" serves the directions of l1jax.directions, which carry their metric; an '
                "optax transformation does not say by what it divides the gradient, and a threshold that "
                "does not divide by the same solves another problem. Pass metric=l1jax.AdamMetric(b2, "
                "eps), RMSPropMetric, AdagradMetric or MomentumMetric with the direction's own numbers, "
                'a function of (state, params) that returns the metric, or "identity" where the '
                "direction returns the plain gradient."
            )
        metric = direction.metric
    if isinstance(metric, Metric):
        return metric.diagonal
    if isinstance(metric, str) and metric == "identity":
        return lambda state, params: 1.0
    if callable(metric) and not isinstance(metric, type):
        return metric
    raise ValueError(
        f'metric must be "auto", "identity", a metric such as l1jax.AdamMetric(b2=0.999), or a function '
        f"of (state, params), got {metric!r}."
    )


def has_one_per_coordinate(diagonal: Callable[[PyTree, PyTree], Any]) -> bool:
    """Whether that is known of what `resolve` returns."""
    kinds = AdamMetric | RMSPropMetric | AdagradMetric
    return isinstance(getattr(diagonal, "__self__", None), kinds)


def _precise(moments: PyTree) -> PyTree:
    """In float32 at least: the eps of an optimiser is 0 in float16."""
    return jax.tree.map(lambda v: v.astype(jnp.promote_types(v.dtype, jnp.float32)), moments)
