"""A jaxpr as a list of equations in which every value is an object of its own, calls opened."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core

# Calls whose body takes the place of the call: they mean nothing to the values.
_OPENED = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "composite": "jaxpr",
}


def _stack(*arrays: Any, axis: int) -> Any:
    return lax.concatenate([lax.expand_dims(one, (axis,)) for one in arrays], axis)


def _unstack(array: Any, *, axis: int) -> list[Any]:
    return [lax.index_in_dim(array, k, axis, keepdims=False) for k in range(array.shape[axis])]


def _tile(array: Any, *, reps: tuple[int, ...]) -> Any:
    pairs = list(zip(reps, array.shape, strict=True))
    places = range(1, 2 * array.ndim, 2)
    repeated = lax.broadcast_in_dim(array, [n for pair in pairs for n in pair], places)
    return lax.reshape(repeated, [times * size for times, size in pairs])


# Primitives of recent releases of jax that are the same as a few older ones, which take their place.
_COMPOSED = {
    "stack": _stack,
    "unstack": _unstack,
    "tile": _tile,
    "optimization_barrier": lambda *arrays: list(arrays),
}
# Calls that are kept, because a derivative or a saved intermediate depends on them.
CALLS = {
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
}
LOOPS = {"scan": ("jaxpr",), "while": ("cond_jaxpr", "body_jaxpr"), "cond": ("branches",)}


class Value:
    """One array of the program: its shape, and what it holds where that is known from the start."""

    __slots__ = ("content", "dtype", "shape")

    def __init__(self, shape: Any, dtype: Any, content: Any = None):
        self.shape: tuple[int, ...] = tuple(shape)
        self.dtype = dtype
        self.content = content

    @property
    def ndim(self) -> int:
        return len(self.shape)


class Equation:
    """One primitive: what it reads, what it writes, its settings; its bodies where it is a call or a loop."""

    __slots__ = ("bodies", "derivative", "eqn", "ins", "name", "outs", "params")

    def __init__(self, eqn: Any, ins: list[Value], outs: list[Value], bodies: tuple[Program, ...]):
        self.eqn = eqn
        self.name: str = eqn.primitive.name
        self.params: dict[str, Any] = _settings(eqn)
        self.ins, self.outs, self.bodies = ins, outs, bodies
        self.derivative: Any = None  # filled in where it is asked for

    @property
    def is_call(self) -> bool:
        return self.name in CALLS

    @property
    def place(self) -> str:
        """Where it comes from, for messages: its primitive, and the names of the modules around it."""
        stack = str(self.eqn.source_info.name_stack)
        return f"{self.name} in {stack}" if stack else self.name


def _settings(eqn: Any) -> dict[str, Any]:
    """The settings of an equation; of a scan, how many constants and carries, whatever jax calls them."""
    # Axes may have been given as NumPy's integers.
    params: dict[str, Any] = {
        key: int(one) if isinstance(one, np.integer) else one for key, one in eqn.params.items()
    }
    if eqn.primitive.name != "scan" or "num_carry" in params:
        return params
    consts, carry, _ = params["ft_in"].unpack()  # from jax 0.12 on
    return params | {"num_consts": len(list(consts)), "num_carry": len(list(carry))}


class Program:
    """The equations of a jaxpr in order, with its inputs and outputs."""

    __slots__ = ("equations", "inputs", "outputs")

    def __init__(self, inputs: list[Value], equations: list[Equation], outputs: list[Value]):
        self.inputs, self.equations, self.outputs = inputs, equations, outputs

    def flat(self) -> Iterator[Equation]:
        """All equations, those within calls in their place; loops stay closed."""
        for equation in self.equations:
            if equation.is_call:
                yield from equation.bodies[0].flat()
            else:
                yield equation

    def everything(self) -> Iterator[Equation]:
        """All equations, those within calls and loops too."""
        for equation in self.equations:
            yield equation
            for body in equation.bodies:
                yield from body.everything()


class Roles(NamedTuple):
    """Which values of a program are parameters, inputs, and outputs whose shape must stay.

    `leaves` are the arrays of `params` and those of `state`; gradients are taken of `params` alone.
    """

    leaves: list[Value]
    params: list[Value]
    inputs: list[Value]
    outputs: list[Value]


def read_program(closed: Any) -> Program:
    """The program of a closed jaxpr; a jaxpr that is called twice is read twice."""
    return _read(closed, [_value_of(var.aval) for var in closed.jaxpr.invars])


def _value_of(aval: Any, content: Any = None) -> Value:
    return Value(aval.shape, getattr(aval, "dtype", None), content)


def _read(closed: Any, inputs: list[Value]) -> Program:
    jaxpr = closed.jaxpr if hasattr(closed, "jaxpr") else closed
    known = dict(zip(jaxpr.invars, inputs, strict=True))
    for var, const in zip(jaxpr.constvars, getattr(closed, "consts", ()), strict=True):
        known[var] = _value_of(var.aval, const)
    equations: list[Equation] = []

    def value(atom: Any) -> Value:
        if isinstance(atom, core.Literal):
            return _value_of(atom.aval, atom.val)
        return known[atom]

    for eqn in jaxpr.eqns:
        ins = [value(atom) for atom in eqn.invars]
        name = eqn.primitive.name
        if name in _OPENED or name in _COMPOSED:
            body = _read(_body(eqn), ins)
            equations += body.equations
            outs = body.outputs
        elif name in CALLS:
            body = _read(eqn.params[CALLS[name]], ins)
            outs = body.outputs
            equations.append(Equation(eqn, ins, outs, (body,)))
        else:
            outs = [_value_of(var.aval) for var in eqn.outvars]
            equations.append(Equation(eqn, ins, outs, _bodies(eqn)))
        known.update(zip(eqn.outvars, outs, strict=True))
    return Program(inputs, equations, [value(atom) for atom in jaxpr.outvars])


def _body(eqn: Any) -> Any:
    """The jaxpr that takes the place of an equation."""
    name = eqn.primitive.name
    if name in _OPENED:
        return eqn.params[_OPENED[name]]
    shapes = [jax.ShapeDtypeStruct(atom.aval.shape, atom.aval.dtype) for atom in eqn.invars]
    return jax.make_jaxpr(functools.partial(_COMPOSED[name], **eqn.params))(*shapes)


def _bodies(eqn: Any) -> tuple[Program, ...]:
    found = []
    for key in LOOPS.get(eqn.primitive.name, ()):
        entry = eqn.params[key]
        found += list(entry) if isinstance(entry, tuple | list) else [entry]
    return tuple(read_program(body) for body in found)


def all_values(program: Program) -> list[Value]:
    """Every value of a program, those within loops too."""
    found = [*program.inputs, *program.outputs]
    for equation in program.everything():
        found += [*equation.ins, *equation.outs]
        for body in equation.bodies:
            found += [*body.inputs, *body.outputs]
    return list(dict.fromkeys(found))


def content_of(value: Value) -> np.ndarray | None:
    """What a value holds as a NumPy array of its dtype; None where it is not known, or a random key."""
    if value.content is None or jnp.issubdtype(value.dtype, jax.dtypes.extended):
        return None
    return np.asarray(value.content).astype(value.dtype, copy=False)


def jaxprs_in(params: dict[str, Any]) -> list[Any]:
    """The jaxprs among the settings of an equation."""
    entries = [
        one
        for entry in params.values()
        for one in (entry if isinstance(entry, tuple | list) else (entry,))
    ]
    inner = [getattr(one, "jaxpr", one) for one in entries]
    return [one for one in inner if hasattr(one, "eqns")]


def readers(program: Program) -> dict[Value, int]:
    """How often each value is read, by equations of any depth and as an output."""
    counts: dict[Value, int] = {}

    def count(part: Program) -> None:
        for equation in part.flat():
            for value in equation.ins:
                counts[value] = counts.get(value, 0) + 1
            for body in equation.bodies:
                count(body)
        for value in part.outputs:
            counts[value] = counts.get(value, 0) + 1

    count(program)
    return counts


def fingerprint(program: Program) -> str:
    """What two traces of one function have in common, whatever the sizes of their axes."""
    return hashlib.sha256(repr(shapeless(program)).encode()).hexdigest()


# Settings that say which axes are meant and what is done, not how long anything is.
_SETTINGS = (
    *("axes", "axis", "dimension", "dimensions", "dimension_numbers", "broadcast_dimensions"),
    *(
        "permutation",
        "new_dtype",
        "preferred_element_type",
        "y",
        "reverse",
        "num_carry",
        "num_consts",
    ),
    *("window_strides", "lhs_dilation", "rhs_dilation"),
)


def shapeless(program: Program, numbers: dict[Value, int] | None = None) -> tuple:
    """What does not change with the sizes of axes: which equations read what, and how."""
    numbers = {} if numbers is None else numbers

    for value in program.inputs:
        numbers.setdefault(value, len(numbers))

    def number(value: Value) -> Any:
        """Which value it is; of one that is written in the program, its sign."""
        if value in numbers or value.content is None:
            return numbers.setdefault(value, len(numbers))
        return f"sign {_sign(value)}"

    each = [
        (
            equation.name,
            [(number(v), v.ndim, str(v.dtype)) for v in equation.ins],
            [(number(v), v.ndim, str(v.dtype)) for v in equation.outs],
            _pads(equation),
            [repr(equation.params[key]) for key in _SETTINGS if key in equation.params],
            [shapeless(body, numbers) for body in equation.bodies],
        )
        for equation in program.equations
    ]
    return each, [(number(value), value.ndim) for value in program.outputs]


def _sign(value: Value) -> int:
    """Whether a number that is written in the program is zero: what follows may depend on it."""
    if value.content is None or value.ndim:
        return 0
    content = content_of(value)
    if content is None:
        return 0
    if content != content:
        return 2
    has_sign = content.dtype.kind not in "bc"  # booleans and complex numbers have none
    return int(np.sign(content)) if has_sign else int(content != 0)


def _pads(equation: Equation) -> Any:
    padding = equation.params.get("padding", ())
    if equation.name != "conv_general_dilated":
        return None
    return tuple(bool(low or high) for low, high in padding)
