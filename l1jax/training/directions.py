"""Directions for `l1jax.proximal`: optax's own, each with its metric.

They return what optax's optimisers of the same name return before the learning rate.
"""

from __future__ import annotations

from typing import Any

import optax

from ._metrics import (
    AdagradMetric,
    AdamMetric,
    Direction,
    MomentumMetric,
    RMSPropMetric,
    directed,
)


def sgd(momentum: Any = None, nesterov: bool = False, accumulator_dtype: Any = None) -> Direction:
    """The gradient, or the undamped sum of gradients that `optax.sgd` calls momentum: C = 1 − β.

    **Example:**

    ```python
    >>> import l1jax
    >>> tx = l1jax.proximal(0.1, l1jax.L1(0.1), l1jax.directions.sgd(momentum=0.9))

    ```
    """
    if momentum is None:
        return directed(optax.identity(), "identity")
    trace = optax.trace(momentum, nesterov, accumulator_dtype)
    return directed(trace, MomentumMetric(momentum))


def adam(
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = False,
) -> Direction:
    """`optax.scale_by_adam`, with its `AdamMetric`."""
    return directed(
        optax.scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov),
        AdamMetric(b2, eps, eps_root),
    )


def adamw(
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    weight_decay: Any = 1e-4,
    mask: Any = None,
    *,
    nesterov: bool = False,
) -> Direction:
    """Adam with decoupled weight decay, which adds ½·weight_decay·‖w‖²_C to the objective, C Adam's metric."""
    direction = optax.scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov)
    decayed = optax.chain(direction, optax.add_decayed_weights(weight_decay, mask))
    return directed(decayed, AdamMetric(b2, eps, eps_root))


def rmsprop(
    decay: Any = 0.9,
    eps: Any = 1e-8,
    initial_scale: Any = 0.0,
    eps_in_sqrt: bool = True,
    centered: bool = False,
    momentum: Any = None,
    nesterov: bool = False,
    bias_correction: bool = False,
) -> Direction:
    """`optax.scale_by_rms`, or the centred `scale_by_stddev`; momentum comes before the learning rate."""
    scale = optax.scale_by_stddev if centered else optax.scale_by_rms
    direction = scale(decay, eps, initial_scale, eps_in_sqrt, bias_correction)
    if momentum is not None:
        direction = optax.chain(direction, optax.trace(momentum, nesterov))
    return directed(direction, RMSPropMetric(decay, eps, eps_in_sqrt, bias_correction, momentum))


def adagrad(initial_accumulator_value: Any = 0.1, eps: Any = 1e-7) -> Direction:
    """`optax.scale_by_rss`, with its `AdagradMetric`."""
    return directed(optax.scale_by_rss(initial_accumulator_value, eps), AdagradMetric(eps))
