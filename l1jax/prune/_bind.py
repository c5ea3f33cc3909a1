"""The smaller function: the program of the full one, cut, for whatever inputs come."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from ._cuts import LeafCut, Removed
from ._program import Equation, Value, fingerprint
from ._rebind import Rebound
from ._removal import relations
from ._trace import Split, Traced, split, trace


class OtherProgram(ValueError):
    """A function, or shapes of its arguments, that a plan was not made for."""


def check_apply(apply: Any) -> None:
    if not callable(apply):
        raise TypeError(f"apply must be a function of (params, *inputs), got {apply!r}.")


class Bound:
    """`apply` for the parameters of a plan."""

    def __init__(self, apply: Callable, plan: Removed):
        check_apply(apply)
        self._apply, self._plan = apply, plan
        self._compiled: dict[Any, tuple[Callable, Any]] = {}
        functools.update_wrapper(self, apply, updated=())

    def __call__(self, *args: Any) -> Any:
        count = 2 if self._plan.has_state else 1
        params, inputs = split(args[:count]), split(args[count:])
        self._check(params)
        self._check_inputs(inputs)
        key = (params.key, inputs.key, jax.config.read("jax_enable_x64"))
        if key not in self._compiled:
            self._compiled[key] = self._bind(params, inputs)
        run, out_tree = self._compiled[key]
        return out_tree.unflatten(run(params.arrays, inputs.arrays))

    def _check(self, params: Split) -> None:
        cuts = self._plan.cuts
        paths = [path.partition("/")[2] for path in params.paths]
        if paths != [cut.path for cut in cuts]:
            expected = ", ".join(cut.path for cut in cuts[:8])
            raise ValueError(
                f"params must be the tree that compact returned, with the arrays {expected}; got "
                f"{', '.join(paths[:8]) or 'none'}."
            )
        for cut, leaf in zip(cuts, params.arrays, strict=True):
            if tuple(np.shape(leaf)) != cut.small:
                raise ValueError(
                    f"params has shape {tuple(np.shape(leaf))} at {cut.path}, where the plan leaves "
                    f"{cut.small} of {cut.shape}: pass plan.apply(params) or what compact returned."
                )

    def _check_inputs(self, inputs: Split) -> None:
        expected = [cut.path for cut in self._plan.inputs]
        if inputs.paths != expected:
            raise ValueError(
                f"the inputs must hold arrays at {', '.join(expected) or 'no place'} as for compact, and hold "
                f"them at {', '.join(inputs.paths) or 'no place'}: where compact got a Python number, pass "
                "one, or call compact with jnp.asarray of it."
            )
        for cut, x in zip(self._plan.inputs, inputs.arrays, strict=True):
            shape = tuple(np.shape(x))
            if len(shape) != len(cut.shape):
                raise ValueError(
                    f"input {cut.path} has shape {shape}, where compact got {cut.shape}: pass an array of "
                    f"{len(cut.shape)} axes, one example as a batch of one."
                )
            if not all(isinstance(size, int) for size in shape):
                raise ValueError(
                    f"input {cut.path} has the symbolic shape {shape}: export the smaller function for a batch "
                    "whose size is a number."
                )

    def _bind(self, params: Split, inputs: Split) -> tuple[Callable, Any]:
        plan = self._plan
        full = [
            jax.ShapeDtypeStruct(cut.shape, leaf.dtype)
            for cut, leaf in zip(plan.cuts, params.arrays, strict=True)
        ]
        given = [_restored(x, cut) for x, cut in zip(inputs.arrays, plan.inputs, strict=True)]
        traced = trace(self._apply, params._replace(arrays=full), inputs._replace(arrays=given))
        rebound = rebind(traced, plan)
        run = jax.jit(lambda arrays, others: rebound([*arrays, *others]))
        return run, traced.out_tree


def _restored(x: Any, cut: LeafCut) -> jax.ShapeDtypeStruct:
    """The shape that an input had before features of it were cut."""
    shape = list(np.shape(x))
    for axis, gone in enumerate(cut.removed):
        shape[axis] += len(gone)
    return jax.ShapeDtypeStruct(tuple(shape), x.dtype)


def rebind(traced: Traced, plan: Removed) -> Rebound:
    """A traced program, cut by a plan that was made of a trace for other inputs."""
    if fingerprint(traced.program) != plan.program:
        raise OtherProgram(
            "apply is another program for these arguments than for those of compact, so that the plan does "
            "not hold for it: call compact again with arguments of these shapes and dtypes."
        )
    program = traced.program
    cut_inputs = any(len(gone) for cut in plan.inputs for gone in cut.removed)
    units = relations(program, traced.roles(plan.has_state), cut_inputs=cut_inputs, fixed=False)
    known = np.zeros(units.count, bool)
    gone = np.zeros(units.count, bool)
    cuts = list(zip(traced.leaves, plan.cuts, strict=True))
    cuts += zip(traced.inputs, plan.inputs, strict=True) if cut_inputs else []
    for value, cut in cuts:
        for ids, removed in zip(units.of(value), cut.removed, strict=True):
            known[ids] = True
            gone[ids[removed]] = True
    known |= ~units.candidate
    gone = units.implied(known, gone)
    _check_consistent(units, gone, cuts)
    equations = list(program.everything())
    added: dict[Equation, np.ndarray] = {
        equations[place]: array for place, array in zip(plan.places, plan.constants, strict=True)
    }
    return Rebound(program, units, gone, added)


def _check_consistent(units: Any, gone: np.ndarray, cuts: list[tuple[Value, Any]]) -> None:
    """Raises where this program ties units together that the plan does not remove together."""
    same = units.consistent(gone) and not (gone & ~units.candidate).any()
    for value, cut in cuts:
        for ids, removed in zip(units.of(value), cut.removed, strict=True):
            same = same and np.array_equal(np.flatnonzero(gone[ids]), np.sort(removed))
    if not same:
        raise ValueError(
            "the plan does not fit apply at these shapes: call compact again with arguments of these shapes."
        )
