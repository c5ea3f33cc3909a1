"""Which units an equation relates: one rule for each primitive that is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from . import _primitives as prim
from ._axes import Axes
from ._derivatives import derivative_program
from ._program import LOOPS, Equation, Program, Value, all_values
from ._reshapes import blocks


def relate(program: Program, axes: Axes, summing: bool = True) -> None:
    """Applies the rule of every equation; without `summing`, axes that are summed over stay whole."""
    for equation in program.flat():
        rule = _RULES.get(equation.name, _unknown)
        rule(equation, axes)
        if not summing:
            _keep_summed(equation, axes)
    for equation in _calls(program) if summing else ():
        if "custom" in equation.name:
            _derivative(equation, axes)


def _calls(program: Program) -> Iterator[Equation]:
    for equation in program.equations:
        if equation.is_call:
            yield equation
            yield from _calls(equation.bodies[0])


def is_known(equation: Equation) -> bool:
    """Whether there is a rule for its primitive."""
    return equation.name in _RULES or equation.is_call


def _unknown(equation: Equation, axes: Axes) -> None:
    why = f"{equation.place}, which is not known here, reads or writes it"
    for value in (*equation.ins, *equation.outs):
        axes.fix_all(value, why)


def _elementwise(equation: Equation, axes: Axes) -> None:
    """The operands have the axes of the result, or length 1 there, or are scalars."""
    out = equation.outs[0]
    found: list[Any] = [None] * out.ndim
    for value in equation.ins:
        for axis, ids in enumerate(axes.of(value) if value.ndim == out.ndim else ()):
            if len(ids) != out.shape[axis]:
                axes.fix(ids, "")
            elif found[axis] is None:
                found[axis] = ids
            else:
                axes.equal(found[axis], ids)
    ids = [axes.fresh(n) if one is None else one for one, n in zip(found, out.shape, strict=True)]
    for other in equation.outs:
        axes.assign(other, ids)


def _broadcast(equation: Equation, axes: Axes) -> None:
    operand, out = equation.ins[0], equation.outs[0]
    ids: list[Any] = [None] * out.ndim
    pairs = zip(axes.of(operand), equation.params["broadcast_dimensions"], strict=True)
    for ours, axis in pairs:
        if len(ours) == out.shape[axis]:
            ids[axis] = ours
        else:
            axes.fix(ours, "")
    axes.assign(
        out, [axes.fresh(n) if one is None else one for one, n in zip(ids, out.shape, strict=True)]
    )


def _transpose(equation: Equation, axes: Axes) -> None:
    ids = axes.of(equation.ins[0])
    axes.assign(equation.outs[0], [ids[axis] for axis in equation.params["permutation"]])


def _squeeze(equation: Equation, axes: Axes) -> None:
    dropped = equation.params["dimensions"]
    ids = axes.of(equation.ins[0])
    for axis in dropped:
        axes.fix(ids[axis], "")
    axes.assign(equation.outs[0], [one for axis, one in enumerate(ids) if axis not in dropped])


def _reshape(equation: Equation, axes: Axes) -> None:
    operand, out = equation.ins[0], equation.outs[0]
    ids = axes.of(operand)
    found: list[Any] = [None] * out.ndim
    for before, after in blocks(operand.shape, out.shape):
        ours = [ids[axis] for axis in before]
        if len(before) == len(after) == 1:
            found[after[0]] = ours[0]
            continue
        theirs = [axes.fresh(out.shape[axis]) for axis in after]
        for axis, one in zip(after, theirs, strict=True):
            found[axis] = one
        if len(after) == 1 and len(before) > 1:
            axes.product(theirs[0], ours)
        elif len(before) == 1 and len(after) > 1:
            axes.product(ours[0], theirs)
        else:
            why = f"{equation.place} mixes it with other axes" if before and after else ""
            for one in (*ours, *theirs):
                axes.fix(one, why)
    axes.assign(out, found)


def _along(equation: Equation, axes: Axes, axis: int) -> list[np.ndarray]:
    """The numbers of the first operand, those of the others made the same but for one axis."""
    first = axes.of(equation.ins[0])
    for value in equation.ins[1:]:
        for k, (ours, theirs) in enumerate(zip(first, axes.of(value), strict=True)):
            if k != axis:
                axes.equal(ours, theirs)
    return first


def _concatenate(equation: Equation, axes: Axes) -> None:
    axis = equation.params["dimension"]
    ids = list(_along(equation, axes, axis))
    ids[axis] = np.concatenate([axes.of(value)[axis] for value in equation.ins])
    axes.assign(equation.outs[0], ids)


def _split(equation: Equation, axes: Axes) -> None:
    axis = equation.params["axis"]
    ids = axes.of(equation.ins[0])
    ends = np.cumsum(equation.params["sizes"])
    for value, end in zip(equation.outs, ends, strict=True):
        part = ids[axis][end - value.shape[axis] : end]
        axes.assign(value, [part if k == axis else one for k, one in enumerate(ids)])


def _slice(equation: Equation, axes: Axes) -> None:
    params, ids = equation.params, axes.of(equation.ins[0])
    strides = params["strides"] or [1] * len(ids)
    each = zip(ids, params["start_indices"], params["limit_indices"], strides, strict=True)
    axes.assign(equation.outs[0], [one[start:stop:step] for one, start, stop, step in each])


def _pad(equation: Equation, axes: Axes) -> None:
    ids = []
    why = f"{equation.place} pads it"
    each = zip(axes.of(equation.ins[0]), equation.params["padding_config"], strict=True)
    for axis, (ours, (low, high, inner)) in enumerate(each):
        if inner or low < 0 or high < 0:
            axes.fix(ours, why)
            ids.append(axes.fresh(equation.outs[0].shape[axis]))
            axes.fix(ids[-1], why)
            continue
        ends = axes.fresh(int(low)), axes.fresh(int(high))
        for end in ends:
            axes.fix(end, "")
        ids.append(np.concatenate([ends[0], ours, ends[1]]) if low or high else ours)
    axes.assign(equation.outs[0], ids)


def _reverse(equation: Equation, axes: Axes) -> None:
    turned = equation.params["dimensions"]
    ids = axes.of(equation.ins[0])
    axes.assign(
        equation.outs[0], [one[::-1] if axis in turned else one for axis, one in enumerate(ids)]
    )


def _reduction(equation: Equation, axes: Axes) -> None:
    reduced = equation.params["axes"]
    for value in equation.ins:
        ids = axes.of(value)
        for axis in reduced:
            if equation.name not in prim.SUMS:
                axes.fix(ids[axis], f"{equation.place} is over it")
    for out in equation.outs:
        kept = [one for axis, one in enumerate(axes.of(equation.ins[0])) if axis not in reduced]
        axes.assign(out, kept)


def _fixed_along(axis_of: Callable[[Equation], int]) -> Callable[[Equation, Axes], None]:
    """A rule for what runs along one axis and treats the others elementwise."""

    def rule(equation: Equation, axes: Axes) -> None:
        axis = axis_of(equation) % equation.ins[0].ndim
        first = _along(equation, axes, -1)
        why = f"{equation.place} runs along it"
        axes.fix(first[axis], why)
        for out in equation.outs:
            same = out.shape == equation.ins[0].shape
            ids = [
                one if same or k != axis else axes.fresh(out.shape[k])
                for k, one in enumerate(first)
            ]
            axes.fix(ids[axis], why)
            axes.assign(out, ids)

    return rule


def _dot(equation: Equation, axes: Axes) -> None:
    lhs, rhs = equation.ins
    where = prim.product(equation)
    ours, theirs = axes.of(lhs), axes.of(rhs)
    for pairs in (where.contracted, where.batch):
        for i, j in zip(*pairs, strict=True):
            axes.equal(ours[i], theirs[j])
    out = [ours[axis] for axis in (*where.batch[0], *where.free[0])]
    axes.assign(equation.outs[0], out + [theirs[axis] for axis in where.free[1]])


def _convolution(equation: Equation, axes: Axes) -> None:
    lhs, rhs = equation.ins
    where = prim.convolution(equation)
    if where.batch_groups != 1:
        return _unknown(equation, axes)
    ours, theirs = axes.of(lhs), axes.of(rhs)
    if where.groups == 1:
        axes.equal(ours[where.lhs[1]], theirs[where.rhs[1]])
    else:
        group = axes.fresh(where.groups)
        axes.product(ours[where.lhs[1]], [group, theirs[where.rhs[1]]])
        inside = axes.fresh(rhs.shape[where.rhs[0]] // where.groups)
        axes.product(theirs[where.rhs[0]], [group, inside])
    ids: list[Any] = [None] * lhs.ndim
    ids[where.out[0]], ids[where.out[1]] = ours[where.lhs[0]], theirs[where.rhs[0]]
    for a, b, c in zip(where.lhs[2:], where.rhs[2:], where.out[2:], strict=True):
        ids[c] = axes.fresh(equation.outs[0].shape[c])
        for one in (ours[a], theirs[b], ids[c]):
            axes.fix(one, "")
    axes.assign(equation.outs[0], ids)
    return None


def _window(equation: Equation, axes: Axes) -> None:
    free = prim.untouched_by_window(equation)
    ids = axes.of(equation.ins[0])
    out = [axes.fresh(size) for size in equation.outs[0].shape]
    for axis in range(len(ids)):
        if axis in free:
            out[axis] = ids[axis]
        else:
            axes.fix(ids[axis], "")
            axes.fix(out[axis], "")
    axes.assign(equation.outs[0], out)


def _gather(equation: Equation, axes: Axes) -> None:
    operand, indices = equation.ins
    out = equation.outs[0]
    ids: list[Any] = [axes.fresh(size) for size in out.shape]
    passed = dict(prim.passed_by_gather(equation))
    why = f"{equation.place} picks from it"
    for axis, one in enumerate(axes.of(operand)):
        if axis in passed:
            ids[passed[axis]] = one
        else:
            axes.fix(one, why)
    for axis in range(out.ndim):
        if axis not in passed.values():
            axes.fix(ids[axis], "")
    axes.fix_all(indices, why)
    axes.assign(out, ids)


def _dynamic_slice(equation: Equation, axes: Axes) -> None:
    operand, out = equation.ins[0], equation.outs[0]
    _window_in(axes, operand, out, equation)


def _dynamic_update_slice(equation: Equation, axes: Axes) -> None:
    operand, update = equation.ins[:2]
    axes.of(update)
    _window_in(axes, operand, update, equation)
    axes.assign(equation.outs[0], axes.of(operand))


def _window_in(axes: Axes, whole: Value, part: Value, equation: Equation) -> None:
    why = f"{equation.place} takes a part of it"
    ids = []
    for one, size in zip(axes.of(whole), part.shape, strict=True):
        if len(one) == size:
            ids.append(one)
        else:
            axes.fix(one, why)
            ids.append(axes.fresh(size))
            axes.fix(ids[-1], why)
    axes.assign(part, ids)


def _iota(equation: Equation, axes: Axes) -> None:
    axes.of(equation.outs[0])


def _same(axes: Axes, left: Value, right: Value) -> None:
    axes.assign(right, axes.of(left))


def _scan(equation: Equation, axes: Axes) -> None:
    params, body = equation.params, equation.bodies[0]
    consts, carries = params["num_consts"], params["num_carry"]
    relate(body, axes)
    for outer, inner in zip(equation.ins[: consts + carries], body.inputs, strict=False):
        _same(axes, outer, inner)
    for k in range(carries):
        _same(axes, body.inputs[consts + k], body.outputs[k])
        _same(axes, body.outputs[k], equation.outs[k])
    stacked = list(zip(equation.ins, body.inputs, strict=True))[consts + carries :]
    stacked += list(zip(equation.outs, body.outputs, strict=True))[carries:]
    for outer, inner in stacked:
        steps = axes.fresh(outer.shape[0])
        axes.fix(steps, "")
        axes.assign(outer, [steps, *axes.of(inner)])


def _while(equation: Equation, axes: Axes) -> None:
    params, (condition, body) = equation.params, equation.bodies
    first, second = params["cond_nconsts"], params["body_nconsts"]
    for part in equation.bodies:
        relate(part, axes)
    carry = equation.ins[first + second :]
    pairs = list(zip(equation.ins[:first] + carry, condition.inputs, strict=True))
    pairs += list(zip(equation.ins[first:], body.inputs, strict=True))
    pairs += list(zip(carry, body.outputs, strict=True))
    pairs += list(zip(carry, equation.outs, strict=True))
    for left, right in pairs:
        _same(axes, left, right)


def _cond(equation: Equation, axes: Axes) -> None:
    for body in equation.bodies:
        relate(body, axes)
        for outer, inner in zip(equation.ins[1:], body.inputs, strict=True):
            _same(axes, outer, inner)
        for outer, inner in zip(equation.outs, body.outputs, strict=True):
            _same(axes, inner, outer)


def _keep_summed(equation: Equation, axes: Axes) -> None:
    """Keeps what an equation sums over."""
    why = f"the derivative rule of {equation.place} sums over it"
    if equation.name == "dot_general":
        for axis in prim.product(equation).contracted[0]:
            axes.fix(axes.of(equation.ins[0])[axis], why)
    elif equation.name in prim.SUMS:
        for axis in equation.params["axes"]:
            axes.fix(axes.of(equation.ins[0])[axis], why)
    elif equation.name == "conv_general_dilated" or equation.name in LOOPS:
        for value in equation.ins:
            axes.fix_all(value, why)


def _derivative(equation: Equation, axes: Axes) -> None:
    """The derivative of a function that has its own is cut like the function, or it is not cut."""
    found = derivative_program(equation)
    if found is None:
        why = f"{equation.place} has a derivative that cannot be read"
        for value in (*equation.ins, *equation.outs):
            axes.fix_all(value, why)
        return
    for inner, outer in (*found.inputs, *found.outputs):
        axes.assign(inner, axes.of(outer))
    relate(found.program, axes, summing=False)
    for value in all_values(found.program):
        axes.of(value)


def _entries(names: Sequence[str], rule: Callable) -> dict[str, Callable]:
    return dict.fromkeys(names, rule)


def _named_axis(key: str) -> Callable[[Equation], int]:
    return lambda equation: equation.params[key]


_RULES: dict[str, Callable[[Equation, Axes], None]] = {
    **_entries(tuple(prim.ELEMENTWISE), _elementwise),
    **_entries(tuple(prim.SUMS | prim.OTHER_REDUCTIONS), _reduction),
    **_entries(tuple(prim.CUMULATIVE), _fixed_along(_named_axis("axis"))),
    **_entries(tuple(prim.WINDOWS), _window),
    "sort": _fixed_along(_named_axis("dimension")),
    "top_k": _fixed_along(lambda equation: equation.params.get("axis", -1)),
    "broadcast_in_dim": _broadcast,
    "transpose": _transpose,
    "squeeze": _squeeze,
    "reshape": _reshape,
    "concatenate": _concatenate,
    "split": _split,
    "slice": _slice,
    "pad": _pad,
    "rev": _reverse,
    "dot_general": _dot,
    "conv_general_dilated": _convolution,
    "gather": _gather,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
    "iota": _iota,
    "scan": _scan,
    "while": _while,
    "cond": _cond,
}
