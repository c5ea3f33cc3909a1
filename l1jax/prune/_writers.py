"""Which axes of a parameter write units, and which read them: those that a sum contracts read."""

from __future__ import annotations

from typing import NamedTuple

from . import _primitives as prim
from ._program import Equation, Program, Value
from ._reshapes import blocks

# For each axis of a value, the axis of the parameter that it is; None where it is several, or none.
Axes = tuple["int | None", ...]


class Origin(NamedTuple):
    """The parameter, by its place, that a value holds the entries of, moved or scaled."""

    leaf: int
    axes: Axes


def reading_axes(program: Program, leaves: list[Value]) -> set[tuple[int, int]]:
    """The (parameter, axis) that a product contracts."""
    origins = {value: Origin(k, tuple(range(value.ndim))) for k, value in enumerate(leaves)}
    found: set[tuple[int, int]] = set()
    _follow(program, origins, found)
    return found


def _follow(program: Program, origins: dict[Value, Origin], found: set[tuple[int, int]]) -> None:
    for equation in program.flat():
        if equation.bodies:
            _enter(equation, origins, found)
        for value, contracted in _contracted(equation):
            origin = origins.get(value)
            if origin is not None:
                axes = [origin.axes[axis] for axis in contracted]
                found |= {(origin.leaf, axis) for axis in axes if axis is not None}
        moved = _moved(equation, origins)
        if moved is not None:
            origins[equation.outs[0]] = moved


def _contracted(equation: Equation) -> list[tuple[Value, tuple[int, ...]]]:
    if equation.name == "dot_general":
        return list(zip(equation.ins, prim.product(equation).contracted, strict=True))
    if equation.name == "conv_general_dilated":
        where = prim.convolution(equation)
        return [(equation.ins[0], (where.lhs[1],)), (equation.ins[1], (where.rhs[1],))]
    return []


def _moved(equation: Equation, origins: dict[Value, Origin]) -> Origin | None:
    """What the result is the entries of, where it is those of one parameter."""
    known = [value for value in equation.ins if value in origins]
    if len(known) != 1 or not equation.outs:
        return None
    value, out, params = known[0], equation.outs[0], equation.params
    leaf, axes = origins[value]
    if equation.name == "transpose":
        return Origin(leaf, tuple(axes[axis] for axis in params["permutation"]))
    if equation.name == "squeeze":
        return Origin(leaf, tuple(a for k, a in enumerate(axes) if k not in params["dimensions"]))
    if equation.name == "reshape":
        places: list[int | None] = [None] * out.ndim
        for before, after in blocks(value.shape, out.shape):
            if len(before) == len(after) == 1:
                places[after[0]] = axes[before[0]]
        return Origin(leaf, tuple(places))
    if equation.name in prim.ELEMENTWISE and value.shape == out.shape:
        return Origin(leaf, axes)
    return None


def _enter(equation: Equation, origins: dict[Value, Origin], found: set[tuple[int, int]]) -> None:
    """The bodies of a loop, whose inputs are those of the loop, or slices of them."""
    params, ins = equation.params, equation.ins
    for body in equation.bodies:
        outer = {
            "scan": lambda: ins,
            "cond": lambda: ins[1:],
            "while": lambda body=body: (
                ins[params["cond_nconsts"] :]
                if body is equation.bodies[1]
                else ins[: params["cond_nconsts"]]
                + ins[params["cond_nconsts"] + params["body_nconsts"] :]
            ),
        }[equation.name]()
        for before, inside in zip(outer, body.inputs, strict=True):
            if before in origins:
                leaf, axes = origins[before]
                origins[inside] = Origin(leaf, axes[before.ndim - inside.ndim :])
        _follow(body, origins, found)
