"""Whether two functions compute the same, beyond what rounding explains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ._program import Program, Value, all_values
from ._trace import Split

# Of the largest output, by bytes; a model in float32 that sums in another order differs by about 1e-6.
_TOLERANCE = {1: 5e-1, 2: 5e-2, 4: 1e-5, 8: 1e-11}
_ROUNDING = 30  # as often as the change that parameters rounded anew make


def tolerance_of(program: Program) -> float:
    """The difference that rounding explains: that of the coarsest dtype that a program computes in."""
    if not any(_is_inexact(value) for value in program.outputs):
        return 0.0
    dtypes = {value.dtype for value in all_values(program) if _is_inexact(value)}
    return max(_TOLERANCE[max(1, min(8, jnp.finfo(dtype).bits // 8))] for dtype in dtypes)


def _is_inexact(value: Value) -> bool:
    return value.dtype is not None and jnp.issubdtype(value.dtype, jnp.inexact)


def random_like(inputs: Split, seed: int) -> list[Any]:
    """Inputs of the same shapes and dtypes: normal of the example's size, or its integers anew."""
    rng = np.random.default_rng(seed)
    return [_random(np.asarray(x), rng) if _is_plain(x) else x for x in inputs.arrays]


def _is_plain(x: Any) -> bool:
    return not jnp.issubdtype(x.dtype, jax.dtypes.extended)


def _random(x: np.ndarray, rng: np.random.Generator) -> Any:
    if x.size and x.dtype.kind in "iub":
        return jnp.asarray(rng.choice(x.reshape(-1), x.shape))
    if not x.size or not jnp.issubdtype(x.dtype, jnp.floating):
        return jnp.asarray(x)
    wide = x.astype(np.float64)
    scale = wide.std() or abs(wide.mean()) or 1.0
    return jnp.asarray((wide.mean() + scale * rng.normal(size=x.shape)).astype(x.dtype))


def difference(full: list[Any], small: list[Any]) -> float:
    """The largest difference of two lists of outputs, relative to the largest entry."""
    worst = 0.0
    for a, b in zip(full, small, strict=True):
        if not _is_plain(a) or not a.size:
            continue
        x, y = (np.asarray(one).astype(np.complex128) for one in (a, b))
        same = np.isfinite(x) == np.isfinite(y)
        gap = np.where(np.isfinite(x) & same, np.abs(x - y), np.where(same, 0, np.inf)).max()
        size = np.abs(x[np.isfinite(x)]).max(initial=0) or 1.0
        worst = max(worst, float(gap / size))
    return worst


def rounding(run: Callable, params: Split, inputs: list[Any], outputs: list[Any]) -> float:
    """How much the outputs change where each parameter is rounded to a neighbour: a yardstick."""
    rng = np.random.default_rng(0)

    def nudged(leaf: Any) -> Any:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        step = float(jnp.finfo(leaf.dtype).eps)
        signs = rng.choice([-1, 1], np.shape(leaf))
        return jnp.asarray(np.asarray(leaf) * (1 + step * signs).astype(leaf.dtype))

    return difference(outputs, run([nudged(leaf) for leaf in params.arrays], inputs))


def allowed_difference(
    run: Callable,
    params: Split,
    inputs: list[Any],
    outputs: list[Any],
    worst: float,
    allowed: float,
) -> float:
    """The tolerance; where it is not met, what rounding alone would do is measured too."""
    if worst <= allowed:
        return allowed
    return max(allowed, _ROUNDING * rounding(run, params, inputs, outputs))
