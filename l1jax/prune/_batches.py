"""Whether the examples of a batch depend on one another, and the smaller function at another batch size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ._bind import OtherProgram
from ._plan import PruningPlan
from ._trace import Split
from ._verify import allowed_difference, difference


def check_batches(
    apply: Callable,
    bound: Callable,
    params: Split,
    small: list[Any],
    inputs: Split,
    plan: PruningPlan,
    tolerance: float,
) -> None:
    """Raises where an output changes with the rest of its batch, or the smaller function differs there."""
    if not _has_batch(inputs):
        return

    def run(arrays: list[Any], given: list[Any]) -> list[Any]:
        return jax.tree.leaves(apply(*params.join(arrays), *inputs.join(given)))

    part = max(1, inputs.arrays[0].shape[0] // 2)
    whole = inputs.arrays
    if inputs.arrays[0].shape[0] == 1:
        whole = [jnp.concatenate([x, x[::-1], jnp.flip(x)]) for x in whole]
    halves = [x[:part] for x in whole]
    try:
        together, alone = (jax.eval_shape(run, params.arrays, given) for given in (whole, halves))
    except Exception:
        return  # it takes batches of one size only
    if not _scales(together, alone, len(whole[0]), part):
        return
    run = jax.jit(run)
    together, alone = run(params.arrays, whole), run(params.arrays, halves)
    cut = [x[:part] if x.shape != y.shape else x for x, y in zip(together, alone, strict=True)]
    found = difference(cut, alone)
    if not found <= allowed_difference(run, params, halves, alone, found, tolerance):
        raise ValueError(
            f"apply depends on the batch: the first {part} examples give another output alone ({found:.1e} of "
            "the largest), as batch norm in training mode does. Pass the function of inference, with running "
            "statistics; or batch_axis=None where the first axis of the inputs is no batch."
        )
    try:
        cut_halves = list(plan.cut_inputs(*halves))
        smaller = jax.tree.leaves(bound(*params.join(small), *inputs.join(cut_halves)))
    except OtherProgram:
        return  # a batch of one example most often, for which JAX writes other operations
    pairs = [(x, y) for x, y in zip(alone, smaller, strict=True) if x.shape == y.shape]
    found = difference([x for x, _ in pairs], [y for _, y in pairs])
    if not found <= allowed_difference(run, params, halves, alone, found, tolerance):
        raise ValueError(
            f"the smaller network differs by {found:.1e} of the largest output at another batch size: nothing "
            "was removed. This must not happen; please report it, with apply."
        )


def _has_batch(inputs: Split) -> bool:
    sizes = {np.shape(x)[0] if np.ndim(x) else 0 for x in inputs.arrays}
    return len(sizes) == 1 and 0 not in sizes


def _scales(together: list[Any], alone: list[Any], whole: int, part: int) -> bool:
    """Whether the outputs have the batch in front, or do not have it."""
    changed = [
        (x.shape, y.shape) for x, y in zip(together, alone, strict=True) if x.shape != y.shape
    ]
    return bool(changed) and all(x == (whole, *y[1:]) and y[:1] == (part,) for x, y in changed)
