"""optax's optimisers with a proximal step: learning rate first, penalty second, then their own options.

At zero strength their updates are bit for bit those of optax. (Compiled in one program with what adds them
to the parameters, the sum may differ in its last bit: XLA joins optax's product and sum into one operation.)
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

from . import directions
from ._checks import check_rate
from ._low_precision import in_float32
from ._metrics import RMSPropMetric
from ._proximal import proximal, proximal_after


def prox_sgd(
    learning_rate: Any,
    penalty: Any,
    momentum: Any = None,
    nesterov: bool = False,
    accumulator_dtype: Any = None,
    *,
    strength: Any = 1.0,
    master_weights: bool = False,
    rounding_key: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """`optax.sgd`, then the prox: w⁺ = prox_{ηR/(1−β)}(w − η m), as momentum β sums 1/(1−β) gradients.

    Stable for η below 2/L, with momentum below 2(1+β)/L, with Nesterov's below 2(1+β)/((1+2β)L), where L is the
    largest curvature of f.

    **Arguments and errors:** as for `proximal` and `optax.sgd`; 0 ≤ `momentum` < 1.
    Source: Nitanda (2014); the sum of the momentum is derived in the tests.

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax, optax
    >>> tx = l1jax.prox_sgd(0.5, l1jax.L1(1.0))
    >>> w = jnp.array([2.0, -0.3])
    >>> u, state = tx.update(jnp.zeros(2), tx.init(w), w)
    >>> print(optax.apply_updates(w, u))
    [1.5 0. ]

    ```
    """
    _check_momentum(momentum)
    direction = directions.sgd(momentum, nesterov, accumulator_dtype)
    options = _Options(strength, master_weights, rounding_key)
    return options.proximal(learning_rate, penalty, direction)


def prox_adam(
    learning_rate: Any,
    penalty: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = False,
    strength: Any = 1.0,
    master_weights: bool = False,
    rounding_key: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """`optax.adam`, then the prox in its metric C = √v̂ + ε: for L1 the threshold ηλ/C of each coordinate.

    On the support C tends to λ, so a constant η must stay below 2(1+β₁)/((1−β₁)·λmax(C^−½HC^−½)), H the
    Hessian of f, or decay: above it the iterates burst. Where all gradients were 0 so far C = ε and the
    threshold ηλ/ε empties the coordinate at once, as is right for a dead unit; for rows that are only rare
    a larger `eps` bounds it (and changes no solution), a warm-up of the strength delays it.
    (Within `optax.inject_hyperparams` and with parameters of bfloat16, in which 0.999 is 1, say
    `hyperparam_dtype=jnp.float32`, as for `optax.adam`.)

    **Arguments and errors:** as for `proximal` and `optax.adam`. Source: Yun, Lozano and Yang (2021).

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax, optax
    >>> tx = l1jax.prox_adam(0.1, l1jax.L1(0.5))
    >>> w = jnp.array([2.0, -0.1])
    >>> u, state = tx.update(jnp.array([1.0, 0.5]), tx.init(w), w)
    >>> print(optax.apply_updates(w, u).round(3))
    [ 1.85 -0.1 ]

    ```
    """
    direction = directions.adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov)
    options = _Options(strength, master_weights, rounding_key)
    return options.proximal(learning_rate, penalty, direction)


def prox_adamw(
    learning_rate: Any,
    penalty: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    weight_decay: Any = 1e-4,
    mask: Any = None,
    *,
    nesterov: bool = False,
    strength: Any = 1.0,
    master_weights: bool = False,
    rounding_key: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """`optax.adamw`, then the prox in Adam's metric; the decay is part of the direction.

    An elastic net is `prox_adam` with `ElasticNet`.

    **Arguments and errors:** as for `proximal` and `optax.adamw`. Source: Loshchilov and Hutter (2019).
    """
    direction = directions.adamw(
        b1, b2, eps, eps_root, mu_dtype, weight_decay, mask, nesterov=nesterov
    )
    options = _Options(strength, master_weights, rounding_key)
    return options.proximal(learning_rate, penalty, direction)


def prox_rmsprop(
    learning_rate: Any,
    penalty: Any,
    decay: Any = 0.9,
    eps: Any = 1e-8,
    initial_scale: Any = 0.0,
    eps_in_sqrt: bool = True,
    centered: bool = False,
    momentum: Any = None,
    nesterov: bool = False,
    bias_correction: bool = False,
    *,
    strength: Any = 1.0,
    master_weights: bool = False,
    rounding_key: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """`optax.rmsprop`, then the prox in its metric √(ν + ε), or √ν + ε, or the centred one.

    optax's momentum acts after the learning rate, so that a step sums past learning rates; the
    threshold takes the same sum, and a schedule does not change what is solved.

    **Arguments and errors:** as for `proximal` and `optax.rmsprop`. Source: Tieleman and Hinton (2012).
    """
    _check_momentum(momentum)
    options = _Options(strength, master_weights, rounding_key)
    arguments = (decay, eps, initial_scale, eps_in_sqrt, centered)
    if momentum is None:
        direction = directions.rmsprop(*arguments, bias_correction=bias_correction)
        return options.proximal(learning_rate, penalty, direction)
    check_rate(learning_rate, "learning_rate")
    move = optax.rmsprop(
        learning_rate,
        *arguments,
        momentum=momentum,
        nesterov=nesterov,
        bias_correction=bias_correction,
    )
    metric = RMSPropMetric(decay, eps, eps_in_sqrt, bias_correction)
    step = proximal_after(
        move, learning_rate, penalty, metric.diagonal, strength, _steady_trace(momentum, nesterov)
    )
    return in_float32(step, master_weights, rounding_key)


def prox_adagrad(
    learning_rate: Any,
    penalty: Any,
    initial_accumulator_value: Any = 0.1,
    eps: Any = 1e-7,
    *,
    strength: Any = 1.0,
    master_weights: bool = False,
    rounding_key: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """`optax.adagrad`, then the prox in its metric √(Σg² + ε); where the sum is 0 nothing moves.

    **Arguments and errors:** as for `proximal` and `optax.adagrad`. Source: Duchi, Hazan and Singer (2011).
    """
    direction = directions.adagrad(initial_accumulator_value, eps)
    options = _Options(strength, master_weights, rounding_key)
    return options.proximal(learning_rate, penalty, direction)


class _Options(NamedTuple):
    """The options that all of them share."""

    strength: Any
    master_weights: bool
    rounding_key: Any

    def proximal(
        self, learning_rate: Any, penalty: Any, direction: Any
    ) -> optax.GradientTransformationExtraArgs:
        return proximal(learning_rate, penalty, direction, **self._asdict())


def _check_momentum(momentum: Any) -> None:
    if isinstance(momentum, int | float) and not 0 <= momentum < 1:
        raise ValueError(f"momentum must be in [0, 1), got {momentum}.")


def _steady_trace(decay: Any, nesterov: bool) -> optax.GradientTransformation:
    """Momentum that starts where a constant input would have brought it: at input/(1−β)."""
    trace = optax.trace(decay, nesterov)

    def init(params: Any):
        return optax.TraceState(jnp.asarray(params / (1 - decay)).astype(params.dtype))

    return optax.GradientTransformation(init, trace.update)
