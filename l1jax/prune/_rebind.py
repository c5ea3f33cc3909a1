"""Runs a program at smaller shapes: each equation with settings that fit what is kept of its axes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from . import _primitives as prim
from ._axes import Units
from ._derivatives import as_function, derivative_program, is_float
from ._program import Equation, Program, Value, jaxprs_in

Arrays = list[Any]


class Rebound:
    """A program without the units that are gone, as a function of smaller arrays."""

    def __init__(
        self,
        program: Program,
        units: Units,
        gone: np.ndarray,
        added: dict[Equation, np.ndarray] | None = None,
    ):
        self.program, self.units, self.gone = program, units, gone
        self.added = added or {}

    def __call__(self, arrays: Sequence[Any]) -> Arrays:
        return self.run(self.program, arrays)

    def run(self, program: Program, arrays: Sequence[Any]) -> Arrays:
        """The outputs of a program, from its smaller inputs."""
        known: dict[Value, Any] = dict(zip(program.inputs, arrays, strict=True))
        self.fill(program, known)
        return [self.get(value, known) for value in program.outputs]

    def fill(self, program: Program, known: dict[Value, Any]) -> None:
        for equation in program.equations:
            ins = [self.get(value, known) for value in equation.ins]
            if equation.is_call:
                found = self._call(equation, known)
            else:
                found = self._equation(equation, ins)
            if equation in self.added:
                found = [
                    found[0]
                    + self.cut(self.added[equation], equation.outs[0]).astype(found[0].dtype)
                ]
            known.update(zip(equation.outs, found, strict=True))

    def get(self, value: Value, known: dict[Value, Any]) -> Any:
        if value in known:
            return known[value]
        return self.cut(value.content, value) if value.ndim else value.content

    def kept(self, value: Value, axis: int) -> np.ndarray:
        """The indices of an axis that are kept."""
        return np.flatnonzero(~self.gone[self.units.of(value)[axis]])

    def shape(self, value: Value) -> tuple[int, ...]:
        return tuple(int((~self.gone[ids]).sum()) for ids in self.units.of(value))

    def cut(self, array: Any, value: Value) -> Any:
        """What is kept of an array with the axes of a value; axes of length 1 are left alone."""
        for axis, size in enumerate(value.shape):
            kept = self.kept(value, axis)
            if len(kept) < size and array.shape[axis] == size:
                array = array[(slice(None),) * axis + (kept,)]
        return array

    def _equation(self, equation: Equation, ins: Arrays) -> Arrays:
        shapes = [self.shape(value) for value in equation.outs]
        if len(shapes) == 1 and self._is_empty(equation, ins, shapes[0]):
            return [jnp.zeros(shapes[0], equation.outs[0].dtype)]
        rule = _RULES.get(equation.name)
        if rule is not None:
            found = rule(self, equation, ins)
        elif jaxprs_in(equation.params):
            found = as_function(equation)(*ins)
        else:
            found = equation.eqn.primitive.bind(*ins, **equation.params)
        return list(found) if isinstance(found, list | tuple) else [found]

    def _is_empty(self, equation: Equation, ins: Arrays, shape: tuple[int, ...]) -> bool:
        """Whether the result has no entries, or is a sum over none."""
        was_empty = 0 in equation.outs[0].shape
        if 0 in shape and not was_empty:
            return True
        sums = equation.name in ("conv_general_dilated", "dot_general")
        return sums and any(0 in np.shape(one) for one in ins) and not was_empty

    def _call(self, equation: Equation, known: dict[Value, Any]) -> Arrays:
        """A call that keeps its meaning for derivatives: its own rule, or what it saves."""
        body, outs = equation.bodies[0], equation.bodies[0].outputs
        free = list(dict.fromkeys(value for value in _free(body) if value in known))

        def function(*arrays: Any) -> Arrays:
            inside = dict(zip(free, arrays, strict=True))
            self.fill(body, inside)
            return [self.get(value, inside) for value in outs]

        arrays = [known[value] for value in free]
        if "custom" not in equation.name:
            settings = {key: equation.params[key] for key in ("policy", "prevent_cse")}
            return jax.checkpoint(function, **settings)(*arrays)
        return self._with_derivative(equation, function, free, arrays)

    def _with_derivative(
        self, equation: Equation, function: Callable, free: list[Value], arrays: Arrays
    ) -> Arrays:
        found = derivative_program(equation)
        if found is None:
            return function(*arrays)
        run = functools.partial(self.run, found.program)
        count = len(equation.outs)
        where = {value: k for k, value in enumerate(free)}

        def all_primals(arrays: Any) -> Arrays:
            inside = dict(zip(free, arrays, strict=True))
            return [self.get(value, inside) for value in equation.ins]

        moving = [value for value in equation.ins if is_float(value)]
        moved = [k for k, value in enumerate(equation.outs) if is_float(value)]
        if equation.name == "custom_jvp_call":
            rule = jax.custom_jvp(function)

            def jvp(primals: Any, tangents: Any) -> Any:
                own = [
                    tangents[where[v]] if v in where else jnp.zeros(self.shape(v), v.dtype)
                    for v in moving
                ]
                results = run([*all_primals(primals), *own])
                changes = dict(zip(moved, results[count:], strict=True))
                return results[:count], [
                    changes[k] if k in changes else np.zeros(np.shape(one), jax.dtypes.float0)
                    for k, one in enumerate(results[:count])
                ]

            rule.defjvp(jvp)
            return list(rule(*arrays))
        reverse = jax.custom_vjp(function)

        def backward(primals: Any, cotangents: Any) -> Any:
            results = run([*all_primals(primals), *(cotangents[k] for k in moved)])
            total: dict[Value, Any] = {}
            for value, one in zip(moving, results, strict=True):
                total[value] = total[value] + one if value in total else one
            return tuple(
                total[v] if v in total else np.zeros(np.shape(p), jax.dtypes.float0)
                for v, p in zip(free, primals, strict=True)
            )

        reverse.defvjp(lambda *primals: (function(*primals), primals), backward)
        return list(reverse(*arrays))


def _free(program: Program) -> list[Value]:
    """The values that a body of a call takes from around it."""
    own = {value for equation in program.everything() for value in equation.outs}
    read = [value for equation in program.everything() for value in equation.ins]
    return [value for value in (*read, *program.outputs) if value not in own]


def _broadcast(self: Rebound, equation: Equation, ins: Arrays) -> Any:
    places = equation.params["broadcast_dimensions"]
    return lax.broadcast_in_dim(ins[0], self.shape(equation.outs[0]), places)


def _reshape(self: Rebound, equation: Equation, ins: Arrays) -> Any:
    return lax.reshape(ins[0], self.shape(equation.outs[0]))


def _iota(self: Rebound, equation: Equation, ins: Arrays) -> Any:
    axis, out = equation.params["dimension"], equation.outs[0]
    kept = self.kept(out, axis)
    if len(kept) == out.shape[axis]:
        return lax.broadcasted_iota(out.dtype, self.shape(out), axis)
    return lax.broadcast_in_dim(jnp.asarray(kept, out.dtype), self.shape(out), (axis,))


def _slice(self: Rebound, equation: Equation, ins: Arrays) -> Any:
    """The entries that are kept, of those in the slice."""
    params, operand = equation.params, equation.ins[0]
    strides = params["strides"] or [1] * operand.ndim
    array = ins[0]
    limits = zip(params["start_indices"], params["limit_indices"], strides, strict=True)
    for axis, (start, stop, step) in enumerate(limits):
        kept = self.kept(operand, axis)
        if len(kept) == operand.shape[axis]:
            array = lax.slice_in_dim(array, start, stop, step, axis)
            continue
        taken = np.flatnonzero(np.isin(kept, np.arange(start, stop, step)))
        if len(taken) == len(kept):
            continue
        array = jnp.take(array, taken, axis=axis, unique_indices=True, indices_are_sorted=True)
    return array


def _split(self: Rebound, equation: Equation, ins: Arrays) -> Any:
    axis = equation.params["axis"]
    ends = np.cumsum([self.shape(value)[axis] for value in equation.outs])
    return jnp.split(ins[0], ends[:-1].tolist(), axis=axis)


def _convolution(self: Rebound, equation: Equation, ins: Arrays) -> Any:
    where = prim.convolution(equation)
    groups = where.groups
    if groups != 1:
        groups = ins[0].shape[where.lhs[1]] // ins[1].shape[where.rhs[1]]
    return equation.eqn.primitive.bind(*ins, **{**equation.params, "feature_group_count": groups})


def _gather(self: Rebound, equation: Equation, ins: Arrays) -> Any:
    sizes = list(equation.params["slice_sizes"])
    for axis, _ in prim.passed_by_gather(equation):
        sizes[axis] = ins[0].shape[axis]
    return equation.eqn.primitive.bind(*ins, **{**equation.params, "slice_sizes": tuple(sizes)})


def _dynamic_slice(self: Rebound, equation: Equation, ins: Arrays) -> Any:
    return lax.dynamic_slice(ins[0], ins[1:], self.shape(equation.outs[0]))


def _scan(self: Rebound, equation: Equation, ins: Arrays) -> Any:
    params, body = equation.params, equation.bodies[0]
    consts, carries = params["num_consts"], params["num_carry"]

    def step(carry: Any, stacked: Any) -> Any:
        found = self.run(body, [*ins[:consts], *carry, *stacked])
        return found[:carries], found[carries:]

    carry, stacked = lax.scan(
        step,
        ins[consts : consts + carries],
        ins[consts + carries :],
        length=params["length"],
        reverse=params["reverse"],
        unroll=params["unroll"],
    )
    return [*carry, *stacked]


def _while(self: Rebound, equation: Equation, ins: Arrays) -> Any:
    params, (condition, body) = equation.params, equation.bodies
    first, second = params["cond_nconsts"], params["body_nconsts"]
    return lax.while_loop(
        lambda carry: self.run(condition, [*ins[:first], *carry])[0],
        lambda carry: self.run(body, [*ins[first : first + second], *carry]),
        ins[first + second :],
    )


def _cond(self: Rebound, equation: Equation, ins: Arrays) -> Any:
    branches = [functools.partial(self.run, body) for body in equation.bodies]
    calls = [lambda *arrays, run=run: run(arrays) for run in branches]
    return lax.switch(ins[0], calls, *ins[1:])


_RULES: dict[str, Callable[[Rebound, Equation, Arrays], Any]] = {
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "iota": _iota,
    "slice": _slice,
    "split": _split,
    "conv_general_dilated": _convolution,
    "gather": _gather,
    "dynamic_slice": _dynamic_slice,
    "scan": _scan,
    "while": _while,
    "cond": _cond,
}
