"""Which entries of each value are read: they change an output if they change.

What is multiplied with zeros, or not chosen, is not read. Masks have the rank of their value; an axis of
length 1 stands for all of its indices.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from . import _primitives as prim
from ._constant_rules import joined
from ._constants import Constants, Known, all_along, any_along, broadcast, known, reshaped
from ._contraction import contract
from ._program import Equation, Program, Value

Reads = dict[Value, np.ndarray]
Rule = Callable[[Equation, list[Known], list[np.ndarray]], "list[np.ndarray | None]"]


def read(value: Value, reads: Reads) -> np.ndarray:
    return reads.get(value, np.zeros((1,) * value.ndim, bool))


def trace_back(program: Program, constants: Constants, reads: Reads) -> None:
    """Fills in what is read of each value, from what is read of the outputs."""
    for equation in reversed(list(program.flat())):
        if equation.name in _LOOPS:
            _LOOPS[equation.name](equation, constants, reads)
            continue
        wanted = [read(value, reads) for value in equation.outs]
        if not any(mask.any() for mask in wanted):
            continue
        facts = [known(value, constants) for value in equation.ins]
        rule = _RULES.get(equation.name, _everything)
        for value, mask in zip(equation.ins, rule(equation, facts, wanted), strict=True):
            add(value, mask, reads)


def add(value: Value, mask: np.ndarray | None, reads: Reads) -> None:
    """What one more reader reads."""
    if mask is None or value.content is not None or not mask.any():
        return
    reads[value] = np.asarray(reads[value] | mask if value in reads else mask)


def everything(value: Value) -> np.ndarray:
    return np.ones((1,) * value.ndim, bool)


def _everything(equation: Equation, facts: list[Known], wanted: list) -> list:
    return [everything(value) for value in equation.ins]


def _elementwise(equation: Equation, facts: list[Known], wanted: list) -> list:
    out, ndim = wanted[0], equation.outs[0].ndim
    masks = [out] * len(facts)
    if equation.name == "mul":
        zeros = [broadcast(fact.zero, ndim) for fact in facts]
        masks = [np.asarray(out & ~zero) for zero in zeros[::-1]]
    elif equation.name == "div":
        masks = [out, np.asarray(out & ~broadcast(facts[0].zero, ndim))]
    elif equation.name == "select_n":
        mask, value = (broadcast(array, ndim) for array in facts[0])
        unchosen = [mask & (value.astype(int) != k) for k in range(len(facts) - 1)]
        masks = [out, *(np.asarray(out & ~other) for other in unchosen)]
    return [to_shape(mask, value) for value, mask in zip(equation.ins, masks, strict=True)]


def to_shape(mask: np.ndarray, value: Value) -> np.ndarray:
    """What is read of an operand that is broadcast: all that is read of its copies."""
    if value.ndim < mask.ndim:
        return any_along(mask, None)
    long = tuple(k for k in range(mask.ndim) if mask.shape[k] != 1 and value.shape[k] == 1)
    return any_along(mask, long, keepdims=True)


def _broadcast(equation: Equation, facts: list[Known], wanted: list) -> list:
    operand = equation.ins[0]
    places = equation.params["broadcast_dimensions"]
    new = tuple(axis for axis in range(equation.outs[0].ndim) if axis not in places)
    mask = any_along(wanted[0], new)
    for axis, size in enumerate(operand.shape):
        if size == 1:
            mask = any_along(mask, axis, keepdims=True)
    return [mask] + [None] * (len(facts) - 1)


def _moved_back(equation: Equation, facts: list[Known], wanted: list) -> list:
    return [back(equation, wanted[0])]


def back(equation: Equation, array: np.ndarray) -> np.ndarray:
    """An array of the shape of the result, with axes of length 1, moved to where the operand has it."""
    operand, out, params = equation.ins[0], equation.outs[0], equation.params
    if equation.name == "transpose":
        return array.transpose(np.argsort(params["permutation"]))
    if equation.name == "squeeze":
        dropped = sorted(axis % operand.ndim for axis in params["dimensions"])
        for axis in dropped:
            array = np.expand_dims(array, axis)
        return array
    if equation.name == "reshape":
        return reshaped(array, out.shape, operand.shape)
    assert equation.name == "rev"
    return np.flip(array, params["dimensions"])


def _slice(equation: Equation, facts: list[Known], wanted: list) -> list:
    params, operand = equation.params, equation.ins[0]
    strides = params["strides"] or [1] * operand.ndim
    limits = zip(params["start_indices"], params["limit_indices"], strides, strict=True)
    mask = wanted[0]
    for axis, one in enumerate(limits):
        if operand.shape[axis] != equation.outs[0].shape[axis]:
            mask = _placed(mask, operand.shape, axis, slice(*one))
    return [mask]


def _placed(mask: np.ndarray, shape: tuple[int, ...], axis: int, where: slice) -> np.ndarray:
    """The mask at some indices of an axis, nothing at the others."""
    sizes = list(mask.shape)
    sizes[axis] = shape[axis]
    full = np.zeros(sizes, bool)
    full[tuple(where if k == axis else slice(None) for k in range(mask.ndim))] = mask
    return full


def _split(equation: Equation, facts: list[Known], wanted: list) -> list:
    return [joined(wanted, equation.outs, equation.params["axis"])]


def _concatenate(equation: Equation, facts: list[Known], wanted: list) -> list:
    axis, masks, start = equation.params["dimension"], [], 0
    for value in equation.ins:
        stop = start + value.shape[axis]
        whole = wanted[0].shape[axis] == 1
        masks.append(wanted[0] if whole else np.take(wanted[0], range(start, stop), axis=axis))
        start = stop
    return masks


def _pad(equation: Equation, facts: list[Known], wanted: list) -> list:
    config, operand = equation.params["padding_config"], equation.ins[0]
    mask = wanted[0]
    for axis, (low, high, inner) in enumerate(config):
        if (low, high, inner) == (0, 0, 0) or mask.shape[axis] == 1:
            continue
        if low < 0 or high < 0 or inner:
            mask = any_along(mask, axis, keepdims=True)
        else:
            mask = np.take(mask, range(low, low + operand.shape[axis]), axis=axis)
    return [mask, everything(equation.ins[1])]


def _reduced(equation: Equation, facts: list[Known], wanted: list) -> list:
    axes = sorted(equation.params["axes"])
    mask = wanted[0]
    for other in wanted[1:]:
        mask = mask | other
    for axis in axes:
        mask = np.expand_dims(mask, axis)
    return [mask] * len(facts)


def _along(key: str) -> Rule:
    """What runs along one axis reads all of it."""

    def rule(equation: Equation, facts: list[Known], wanted: list) -> list:
        axis = equation.params.get(key, -1) % equation.ins[0].ndim
        mask = any_along(wanted[0], axis, keepdims=True)
        for other in wanted[1:]:
            mask = mask | any_along(other, axis, keepdims=True)
        return [mask] * len(facts)

    return rule


def _dot(equation: Equation, facts: list[Known], wanted: list) -> list:
    where = prim.product(equation)
    batch, free = len(where.batch[0]), len(where.free[0])
    masks: list[np.ndarray | None] = []
    for side in (0, 1):
        other = 1 - side
        if equation.ins[side].content is not None:
            masks.append(None)
            continue
        # The result has its batch axes, then the free ones of the left, then of the right.
        mine = range(batch, batch + free) if side == 0 else range(batch + free, wanted[0].ndim)
        theirs = range(batch + free, wanted[0].ndim) if side == 0 else range(batch, batch + free)
        plan = prim.Product(
            (tuple(theirs), where.free[other]),
            (tuple(range(batch)), where.batch[other]),
            (tuple(mine), where.contracted[other]),
        )
        shapes = [equation.outs[0].shape, equation.ins[other].shape]
        nonzero = (~facts[other].zero).astype(np.float32)
        found = contract(wanted[0].astype(np.float32), nonzero, plan, shapes) > 0
        order = [*where.batch[side], *where.free[side], *where.contracted[side]]
        masks.append(found.transpose(np.argsort(order)))
    return masks


def _convolution(equation: Equation, facts: list[Known], wanted: list) -> list:
    where = prim.convolution(equation)
    if where.batch_groups != 1:
        return _everything(equation, facts, wanted)
    space = where.out[2:]
    outs = any_along(wanted[0], space, keepdims=True)
    flat = outs.transpose((*where.out[:2], *space)).reshape(
        outs.shape[where.out[0]], outs.shape[where.out[1]]
    )
    order = (*where.rhs[:2], *where.rhs[2:])
    zero = all_along(facts[1].zero.transpose(order), tuple(range(2, len(order))))
    kernel = _feature_reads(equation, where, flat, zero)
    shape = [1] * equation.ins[0].ndim
    shape[where.lhs[0]], shape[where.lhs[1]] = kernel.shape
    if where.lhs[0] > where.lhs[1]:
        kernel = kernel.T
    return [kernel.reshape(shape), everything(equation.ins[1])]


def _feature_reads(
    equation: Equation, where: prim.Convolution, wanted: np.ndarray, zero: np.ndarray
) -> np.ndarray:
    """Which features (batch, features in) are read, of a convolution whose result is (batch, features out)."""
    out, inside = (equation.ins[1].shape[axis] for axis in where.rhs[:2])
    groups = where.groups
    nonzero = ~np.broadcast_to(zero, (out, inside)).reshape(groups, out // groups, inside)
    wanted = np.broadcast_to(wanted, (wanted.shape[0], out))
    wanted = wanted.reshape(len(wanted), groups, out // groups)
    found = np.einsum("bgo,goi->bgi", wanted.astype(np.float32), nonzero.astype(np.float32))
    return found.reshape(len(wanted), groups * inside) > 0


def _window(equation: Equation, facts: list[Known], wanted: list) -> list:
    free = prim.untouched_by_window(equation)
    others = tuple(axis for axis in range(equation.ins[0].ndim) if axis not in free)
    return [any_along(wanted[0], others, keepdims=True)]


def _gather(equation: Equation, facts: list[Known], wanted: list) -> list:
    operand = equation.ins[0]
    passed = dict(prim.passed_by_gather(equation))
    others = tuple(axis for axis in range(wanted[0].ndim) if axis not in passed.values())
    flat = any_along(wanted[0], others)
    shape = [1] * operand.ndim
    for k, axis in enumerate(sorted(passed)):
        shape[axis] = flat.shape[k]
    return [flat.reshape(shape), everything(equation.ins[1])]


def _dynamic_slice(equation: Equation, facts: list[Known], wanted: list) -> list:
    mask = _whole(wanted[0], equation.ins[0], equation.outs[0])
    return [mask, *(everything(value) for value in equation.ins[1:])]


def _whole(mask: np.ndarray, whole: Value, part: Value) -> np.ndarray:
    for axis in range(whole.ndim):
        if whole.shape[axis] != part.shape[axis]:
            mask = any_along(mask, axis, keepdims=True)
    return mask


def _dynamic_update_slice(equation: Equation, facts: list[Known], wanted: list) -> list:
    operand, update = equation.ins[:2]
    mask = _whole(wanted[0], operand, update)
    return [wanted[0], mask, *(everything(value) for value in equation.ins[2:])]


def _scan(equation: Equation, constants: Constants, reads: Reads) -> None:
    params, body = equation.params, equation.bodies[0]
    consts, carries = params["num_consts"], params["num_carry"]
    wanted = [read(value, reads) for value in equation.outs]
    outputs = wanted[:carries] + [any_along(mask, 0) for mask in wanted[carries:]]
    inner = _until_stable(body, outputs, slice(consts, consts + carries), constants, reads)
    for k, (value, mask) in enumerate(zip(equation.ins, inner, strict=True)):
        add(value, mask[None] if k >= consts + carries else mask, reads)


def _until_stable(
    body: Program, outputs: list[np.ndarray], carried: slice, constants: Constants, reads: Reads
) -> list[np.ndarray]:
    """What is read of a body's inputs: more and more, until another step reads no more."""
    count = carried.stop - carried.start
    while True:
        for value, mask in zip(body.outputs, outputs, strict=True):
            add(value, mask, reads)
        trace_back(body, constants, reads)
        inner = [read(value, reads) for value in body.inputs]
        new = [np.asarray(a | b) for a, b in zip(outputs[:count], inner[carried], strict=True)]
        if not any((b & ~a).any() for a, b in zip(outputs, new, strict=False)):
            return inner
        outputs = new + outputs[count:]


def _while(equation: Equation, constants: Constants, reads: Reads) -> None:
    params, (condition, body) = equation.params, equation.bodies
    first, second = params["cond_nconsts"], params["body_nconsts"]
    reads[condition.outputs[0]] = np.ones((), bool)
    trace_back(condition, constants, reads)
    asked = [read(value, reads) for value in condition.inputs]
    outputs = [
        np.asarray(read(value, reads) | mask)
        for value, mask in zip(equation.outs, asked[first:], strict=True)
    ]
    inner = _until_stable(body, outputs, slice(second, second + len(outputs)), constants, reads)
    carry = [np.asarray(a | b) for a, b in zip(inner[second:], outputs, strict=True)]
    for value, mask in zip(equation.ins, asked[:first] + inner[:second] + carry, strict=True):
        add(value, mask, reads)


def _cond(equation: Equation, constants: Constants, reads: Reads) -> None:
    wanted = [read(value, reads) for value in equation.outs]
    if not any(mask.any() for mask in wanted):
        return
    add(equation.ins[0], everything(equation.ins[0]), reads)
    for body in equation.bodies:
        for value, mask in zip(body.outputs, wanted, strict=True):
            add(value, mask, reads)
        trace_back(body, constants, reads)
        for outer, inner in zip(equation.ins[1:], body.inputs, strict=True):
            add(outer, read(inner, reads), reads)


_LOOPS: dict[str, Callable[[Equation, Constants, Reads], None]] = {
    "scan": _scan,
    "while": _while,
    "cond": _cond,
}
_RULES: dict[str, Rule] = {
    **dict.fromkeys(prim.ELEMENTWISE, _elementwise),
    **dict.fromkeys(prim.SUMS | prim.OTHER_REDUCTIONS, _reduced),
    **dict.fromkeys(prim.CUMULATIVE, _along("axis")),
    **dict.fromkeys(prim.WINDOWS, _window),
    **dict.fromkeys(("transpose", "squeeze", "reshape", "rev"), _moved_back),
    "sort": _along("dimension"),
    "top_k": _along("axis"),
    "broadcast_in_dim": _broadcast,
    "slice": _slice,
    "split": _split,
    "concatenate": _concatenate,
    "pad": _pad,
    "dot_general": _dot,
    "conv_general_dilated": _convolution,
    "gather": _gather,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
}
