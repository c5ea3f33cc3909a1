"""What the transformations accept, and the sentences they answer with where they do not."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import numpy as np
import optax
from jax.core import Tracer
from jaxtyping import PyTree

from .._tracing import frozen, is_traced
from ..penalties._base import Penalty, check_max_step
from ._metrics import AdamMetric
from ._optax_internals import (
    AVERAGES,
    NORMALISED,
    NOT_ADAM,
    PLAIN,
    PROX,
    components,
    has_rate,
    parts,
)


def check_penalty(pen: Any) -> Penalty | None:
    """A penalty, or None for no penalty."""
    if isinstance(pen, type) and issubclass(pen, Penalty):
        raise TypeError(
            f"penalty must be a penalty, got the class {pen.__name__}: write {pen.__name__}(0.1)."
        )
    if pen is not None and not isinstance(pen, Penalty):
        raise TypeError(
            f"penalty must be a l1jax.Penalty such as l1jax.L1(1e-4), or None, got {type(pen).__name__}; the "
            "learning rate comes first, the penalty second."
        )
    if pen is not None:
        check_max_step(pen)
    return pen


def check_rate(rate: Any, name: str) -> Any:
    """A number, array, tracer or schedule; the numbers not negative where they are concrete."""
    if isinstance(rate, Penalty):
        raise TypeError(f"{name} must be a number or a schedule, got a penalty: it comes second.")
    if callable(rate) or isinstance(rate, Tracer):
        return rate
    kind = np.asarray(rate).dtype.kind if eqx.is_array_like(rate) else "?"
    if kind not in "iuf" and not isinstance(rate, jax.Array):
        raise TypeError(f"{name} must be a number, an array or a schedule, got {rate!r}.")
    if np.shape(rate) != ():
        raise ValueError(f"{name} must be one number, got shape {np.shape(rate)}.")
    if not np.asarray(rate) >= 0:
        raise ValueError(f"{name} must be >= 0, got {rate}.")
    return rate


def plain(penalty: Penalty) -> tuple[Penalty, ...]:
    """The penalties that one for parts of a tree is made of; else the penalty itself."""
    return getattr(penalty, "plain", (penalty,))


def check_step(penalty: Penalty, step: PyTree) -> None:
    """Raises where a concrete step is longer than the prox allows; traced ones cannot be checked."""
    limits = [pen.max_step for pen in plain(penalty)]
    if is_traced((limits, step)) or np.isposinf(limits).all():
        return
    limit = min(float(np.asarray(frozen(limit))) for limit in limits)
    longest = max(float(np.max(frozen(s), initial=0)) for s in jax.tree.leaves(step))
    if longest >= limit:
        raise ValueError(
            f"the prox of {type(penalty).__name__} takes steps below {limit:.6g}, got learning_rate * strength "
            f"/ metric = {longest:.6g}: lower the learning rate."
        )


def check_fits(penalty: Penalty | None, params: PyTree) -> None:
    """Runs the prox on shapes only, so that a penalty that does not fit says so at `init`."""
    leaves = jax.tree.leaves(params)
    if penalty is None or any(
        pen.has_strength and pen.strength_value is None for pen in plain(penalty)
    ):
        return
    if not leaves or not all(eqx.is_array(leaf) for leaf in leaves):
        return
    shapes = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), params)
    jax.eval_shape(lambda tree: penalty.prox(tree, 1.0), shapes)


def needs_params(params: Any, name: str = "a proximal step") -> None:
    """Raises where there are no parameters to step from."""
    if params is None:
        raise ValueError(
            f"{name} needs params: call tx.update(grads, state, params), with the params that the update "
            "will be added to."
        )


def check_direction(direction: Any, metric: Any) -> None:
    """Refuses what has no metric, another one than is named, or a learning rate already."""
    if not isinstance(direction, optax.GradientTransformation):
        raise TypeError(
            "direction must be an optax transformation without its learning rate, such as "
            f"l1jax.directions.adam() or optax.scale_by_adam(), got {type(direction).__name__}."
        )
    found = list(components(direction.update))
    for name, _ in found:
        if name in NORMALISED:
            raise ValueError(
                f"direction contains {name}, which moves a coordinate by the learning rate whatever the "
                "size of its gradient: no metric makes zeros of its steps. Use a direction of "
                "l1jax.directions."
            )
    for name, function in found:
        if name in NOT_ADAM and isinstance(metric, AdamMetric):
            raise ValueError(
                f"direction contains {name}, whose metric is not AdamMetric although its state is Adam's: "
                "pass a function of (state, params) that returns what it divides by."
            )
        if name not in PLAIN | PROX and isinstance(metric, str) and metric == "identity":
            raise ValueError(
                f'direction contains {name}, whose metric is not "identity": the threshold of another metric '
                'solves another problem. Use the direction of l1jax.directions with metric="auto", or name '
                "its metric, such as l1jax.AdamMetric(b2, eps) or l1jax.MomentumMetric(decay), or a function "
                "of (state, params)."
            )
        if name in PROX:
            raise ValueError(
                "direction contains a proximal step already: pass it what comes before."
            )
        if has_rate(name, function):
            raise ValueError(
                "direction contains a learning rate (a scale by a negative number, or by a schedule): pass it "
                "without one, as in optax.scale_by_adam() for optax.adam(1e-3)."
            )


def check_last(tx: Any) -> Any:
    """Returns tx, or raises where a chain of optax undoes a proximal step, or feeds it what it cannot serve.

    Zeros are zeros because the update is exactly −w: scaling it by 0.5 afterwards leaves none. And a step
    takes its threshold in its own metric: Adam or momentum before it in the chain, instead of inside, solve
    another problem. A chain does not tell its parts what surrounds them, so that a transformation cannot
    check this by itself; this sees through optax's own chains and wrappers, not into functions of yours.

    **Raises:** ValueError; TypeError for what is no transformation.

    **Example:**

    ```python
    >>> import l1jax, optax
    >>> step = l1jax.prox_sgd(0.1, l1jax.L1(0.1))
    >>> tx = l1jax.check_last(optax.chain(optax.clip(1.0), step))
    >>> l1jax.check_last(optax.chain(step, optax.scale(0.5)))
    Traceback (most recent call last):
    ...
    ValueError: scale comes after a proximal step, ...

    ```
    """
    if not callable(getattr(tx, "update", None)):
        raise TypeError(f"tx must be a transformation of optax, got {tx!r}.")
    for name, function in components(tx.update):
        if name in AVERAGES and PROX & {inner for inner, _ in components(function, set())}:
            raise ValueError(
                f"{name} averages the parameters of a proximal step, and averages are never zero: use the "
                "proximal optimiser without it."
            )
        proximal, before = False, set()
        for part in parts(function) if name in ("chain", "named_chain") else []:
            inside = {inner for inner, _ in components(part)}
            if inside & PROX and before - PLAIN:
                raise ValueError(
                    f"{min(before - PLAIN)} comes before a proximal step, which takes its threshold in "
                    "another metric and so solves another problem: use prox_adam, prox_sgd(momentum=...) or "
                    "their like, or pass it to l1jax.proximal as the direction."
                )
            before |= inside
            if proximal and not inside & PROX and inside != {"identity"}:
                raise ValueError(
                    f"{next(iter(sorted(inside)), 'a function')} comes after a proximal step, and would "
                    "scale its zeros away: put it before, or inside the direction."
                )
            proximal = proximal or bool(inside & PROX)
    return tx
