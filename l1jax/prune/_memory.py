"""The memory of the intermediates of a forward pass."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from ._program import Program, Value


def peak_bytes(program: Program) -> int:
    """The most bytes of intermediates, outputs too, that are held at once, each equation run as written.

    A compiler fuses some of them away; its own count leaves out what the kernels that it calls allocate.
    """
    equations = list(program.flat())
    last = {value: k for k, equation in enumerate(equations) for value in equation.ins}
    last |= dict.fromkeys(program.outputs, len(equations))
    written: set[Value] = set()
    held = peak = 0
    for k, equation in enumerate(equations):
        written.update(equation.outs)
        held += sum(map(_bytes, equation.outs))
        inside = max(map(peak_bytes, equation.bodies), default=0)
        peak = max(peak, held + inside)
        ended = {value for value in (*equation.ins, *equation.outs) if last.get(value, k) == k}
        held -= sum(map(_bytes, ended & written))
    return peak


def _bytes(value: Value) -> int:
    if value.dtype is None or jnp.issubdtype(value.dtype, jax.dtypes.extended):
        return 0
    return math.prod(value.shape) * np.dtype(value.dtype).itemsize
