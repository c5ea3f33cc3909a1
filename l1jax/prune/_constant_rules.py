"""How constants go through an equation: one rule for each primitive that is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from . import _primitives as prim
from ._constants import (
    MAX_ENTRIES,
    Constants,
    Known,
    all_along,
    broadcast,
    expanded,
    known,
    reshaped,
)
from ._contraction import contract
from ._program import Equation, Program, Value

Rule = Callable[[Equation, list[Known]], "Known | list[Known | None] | None"]


def propagate(program: Program, constants: Constants) -> None:
    """Fills in what is known about each value of a program, in the order of its equations."""
    for equation in program.flat():
        if equation.bodies:
            _LOOPS[equation.name](equation, constants) if equation.name in _LOOPS else None
            continue
        facts = [known(value, constants) for value in equation.ins]
        found = through(equation, facts)
        for value, fact in zip(equation.outs, found, strict=True):
            if fact is not None and fact.mask.any():
                constants[value] = fact


def through(equation: Equation, facts: list[Known]) -> list[Known | None]:
    """What is known about the outputs of an equation, given what is known about what it reads."""
    rule = _RULES.get(equation.name)
    count = len(equation.outs)
    if rule is not None and (equation.name == "iota" or any(fact.mask.any() for fact in facts)):
        with np.errstate(all="ignore"):
            found = rule(equation, facts)
        found = found if isinstance(found, list) else [found] * count
    elif facts and all(fact.everywhere for fact in facts):
        found = _evaluated(equation, facts)
    else:
        return [None] * count
    return [fact.as_arrays() if fact is not None and _fits(fact, facts) else None for fact in found]


def _fits(fact: Known, facts: list[Known]) -> bool:
    """Whether it is small, or no larger than what was known before: weights may be as large as they are."""
    size = max(fact.mask.size, fact.value.size)
    before = max((max(one.mask.size, one.value.size) for one in facts), default=0)
    return size <= max(MAX_ENTRIES, before) or all(one.everywhere for one in facts)


_NUMPY: dict[str, Callable] = {
    "add": np.add,
    "add_any": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "max": np.maximum,
    "min": np.minimum,
    "neg": np.negative,
    "square": np.square,
    "sqrt": np.sqrt,
    "gt": np.greater,
    "ge": np.greater_equal,
    "lt": np.less,
    "le": np.less_equal,
    "eq": np.equal,
    "ne": np.not_equal,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "not": np.invert,
    "stop_gradient": lambda x: x,
    "copy": lambda x: x,
    "copy_p": lambda x: x,
}


def _computed(equation: Equation, values: list[np.ndarray]) -> np.ndarray:
    """The primitive, on arrays of one shape."""
    dtype = equation.outs[0].dtype
    if equation.name == "convert_element_type":
        return values[0].astype(dtype)
    if equation.name in _NUMPY and not (equation.name == "div" and values[0].dtype.kind in "iu"):
        return np.asarray(_NUMPY[equation.name](*values)).astype(dtype, copy=False)
    shape = np.broadcast_shapes(*(value.shape for value in values))
    arrays = [
        jnp.asarray(np.broadcast_to(value, shape).astype(given.dtype, copy=False))
        for value, given in zip(values, equation.ins, strict=True)
    ]
    return np.asarray(_bind(equation, arrays))


def _bind(equation: Equation, arrays: list[Any]) -> Any:
    """The primitive evaluated, with the parameters that it was traced with."""
    return equation.eqn.primitive.bind(*arrays, **equation.params)


def _elementwise(equation: Equation, facts: list[Known]) -> Known | None:
    ndim = equation.outs[0].ndim
    facts = [Known(broadcast(f.mask, ndim), broadcast(f.value, ndim)) for f in facts]
    if equation.name == "select_n":
        return _select(facts)
    if equation.name in ("mul", "div"):
        return _multiplied(equation, facts)
    mask = facts[0].mask
    for fact in facts[1:]:
        mask = mask & fact.mask
    return Known(mask, _computed(equation, [f.value for f in facts])) if mask.any() else None


def _multiplied(equation: Equation, facts: list[Known]) -> Known | None:
    """Zero where a factor is zero, or a numerator: what is not known is finite, and no divisor is zero."""
    left, right = facts
    mask = (left.mask & right.mask) | left.zero
    if equation.name == "mul":
        mask = mask | right.zero
    if not mask.any():
        return None
    dtype = equation.outs[0].dtype
    values = [
        np.where(f.mask, f.value, one).astype(dtype) for f, one in zip(facts, (0, 1), strict=True)
    ]
    return Known(mask, _computed(equation, values))


def _select(facts: list[Known]) -> Known | None:
    """Known where the chosen case is known, or where all cases are known to be the same."""
    which, cases = facts[0], facts[1:]
    mask = cases[0].mask
    for case in cases[1:]:
        mask = mask & case.mask & (case.value == cases[0].value)
    value = np.where(mask, cases[0].value, 0).astype(cases[0].value.dtype)
    for k, case in enumerate(cases):
        here = which.mask & (which.value.astype(int) == k)
        mask = np.where(here, case.mask, mask)
        value = np.where(here, case.value, value)
    return Known(mask, value)


def moved(equation: Equation, array: np.ndarray) -> np.ndarray:
    """An array of the shape of the operand, with axes of length 1, moved as the operand is."""
    operand, out, params = equation.ins[0], equation.outs[0], equation.params
    if equation.name == "broadcast_in_dim":
        shape = [1] * out.ndim
        for axis, place in enumerate(params["broadcast_dimensions"]):
            shape[place] = array.shape[axis]
        return array.reshape(shape)
    if equation.name == "transpose":
        return array.transpose(params["permutation"])
    if equation.name == "squeeze":
        return array.reshape(
            [n for k, n in enumerate(array.shape) if k not in params["dimensions"]]
        )
    if equation.name == "reshape":
        return reshaped(array, operand.shape, out.shape)
    if equation.name == "rev":
        return np.flip(array, params["dimensions"])
    assert equation.name == "slice"
    strides = params["strides"] or [1] * array.ndim
    limits = zip(params["start_indices"], params["limit_indices"], strides, strict=True)
    return array[
        tuple(
            slice(None) if n == 1 else slice(*one)
            for n, one in zip(array.shape, limits, strict=True)
        )
    ]


def _moved(equation: Equation, facts: list[Known]) -> Known:
    return Known(moved(equation, facts[0].mask), moved(equation, facts[0].value))


def _concatenate(equation: Equation, facts: list[Known]) -> Known:
    axis = equation.params["dimension"]
    return Known(
        joined([f.mask for f in facts], equation.ins, axis),
        joined([f.value for f in facts], equation.ins, axis),
    )


def joined(arrays: list[np.ndarray], values: list[Value], axis: int) -> np.ndarray:
    """The arrays one after the other along an axis."""
    pieces = [expanded(a, value.shape, axis) for a, value in zip(arrays, values, strict=True)]
    shape = list(np.broadcast_shapes(*(np.delete(p.shape, axis) for p in pieces)))
    full = [np.broadcast_to(p, [*shape[:axis], p.shape[axis], *shape[axis:]]) for p in pieces]
    return np.concatenate(full, axis)


def _split(equation: Equation, facts: list[Known]) -> list[Known | None]:
    axis, ends = equation.params["axis"], np.cumsum(equation.params["sizes"])
    found: list[Known | None] = []
    for end, size in zip(ends, equation.params["sizes"], strict=True):

        def part(array, end=end, size=size):
            if array.shape[axis] == 1:
                return array
            return np.take(array, range(end - size, end), axis=axis)

        found.append(Known(part(facts[0].mask), part(facts[0].value)))
    return found


def _pad(equation: Equation, facts: list[Known]) -> Known | None:
    config = equation.params["padding_config"]
    if any(low < 0 or high < 0 or inner for low, high, inner in config):
        return None
    ends = [(low, high) for low, high, _ in config]

    def filled(array, fill):
        for axis, pair in enumerate(ends):
            if pair != (0, 0):
                array = expanded(array, equation.ins[0].shape, axis)
        return np.pad(array, ends, constant_values=fill)

    mask = filled(facts[0].mask, bool(facts[1].mask))
    return Known(mask, filled(facts[0].value, facts[1].value))


def _iota(equation: Equation, facts: list[Known]) -> Known:
    params, out = equation.params, equation.outs[0]
    shape = [1] * out.ndim
    shape[params["dimension"]] = out.shape[params["dimension"]]
    value = np.arange(shape[params["dimension"]]).astype(out.dtype).reshape(shape)
    return Known(np.ones((1,) * out.ndim, bool), value)


def _reduced(equation: Equation, facts: list[Known]) -> Known | None:
    axes, shape = tuple(map(int, equation.params["axes"])), equation.ins[0].shape
    mask = all_along(facts[0].mask, axes)
    if not mask.any():
        return None
    value = facts[0].value
    if equation.name == "reduce_sum":
        return Known(mask, summed(value, axes, shape).astype(value.dtype))
    if equation.name in ("reduce_max", "reduce_min"):
        return Known(mask, (np.max if equation.name == "reduce_max" else np.min)(value, axis=axes))
    return None


def summed(value: np.ndarray, axes: tuple[int, ...], shape: tuple[int, ...]) -> np.ndarray:
    """The sum over axes, those of length 1 counted as often as they are long."""
    times = np.prod([shape[axis] for axis in axes if value.shape[axis] == 1], initial=1)
    return np.asarray(value.sum(axis=axes) * times)


def product_of(equation: Equation, left: Known, right: Known) -> Known | None:
    """The product of two operands of `dot_general` or of a convolution, where all that counts is known."""
    if equation.name == "dot_general":
        return _dot(equation, [left, right])
    return _convolution(equation, [left, right])


def _dot(equation: Equation, facts: list[Known]) -> Known | None:
    shapes = [value.shape for value in equation.ins]
    left, right = facts
    where = prim.product(equation)
    found = _sum_of_products(left, right, right.zero, where, shapes, False)
    return found and Known(found.mask, found.value.astype(equation.outs[0].dtype))


def _sum_of_products(
    left: Known,
    right: Known,
    right_zero: np.ndarray,
    where: prim.Product,
    shapes: list,
    padded: bool,
) -> Known | None:
    """Known where each term is zero or known; with padding, where each term is zero."""

    def count(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return contract(a.astype(np.float32), b.astype(np.float32), where, shapes)

    unknown = count(~left.zero if padded else ~left.mask, ~right_zero)
    if not padded and not right.everywhere:
        unknown = unknown + count(left.mask & ~left.zero, ~right.mask)
    mask = unknown == 0
    if not mask.any():
        return None
    if padded or not left.mask.any():
        return Known(mask, np.zeros(mask.shape, left.value.dtype))
    a, b = (f.value if f.everywhere else np.where(f.mask, f.value, 0) for f in (left, right))
    return Known(mask, contract(a, b, where, shapes))


def _convolution(equation: Equation, facts: list[Known]) -> Known | None:
    where = prim.convolution(equation)
    if where.batch_groups != 1:
        return None
    lhs = _features(equation, facts[0], where)
    rhs, zero = _kernel(equation, facts[1], where)
    lhs, rhs, zero, shapes = in_groups(equation, where, lhs, rhs, zero)
    # groups, batch, features out
    product = prim.Product(((2,), (2,)), ((1,), (0,)), ((0,), (1,)))
    padded = where.pads and _has_constants(lhs)
    found = _sum_of_products(lhs, rhs, zero, product, shapes, padded)
    if found is None:
        return None
    mask, value = (ungrouped(array, equation, where) for array in found)
    return Known(mask, value.astype(equation.outs[0].dtype))


def _has_constants(fact: Known) -> bool:
    return bool((fact.mask & ~fact.zero).any())


def _features(equation: Equation, fact: Known, where: prim.Convolution) -> Known:
    """What is known about the features (batch, features) wherever in space."""
    ndim = equation.ins[0].ndim
    mask, value = (
        np.broadcast_to(a, np.broadcast_shapes(fact.mask.shape, fact.value.shape)) for a in fact
    )
    space = where.lhs[2:]
    first = value[tuple(slice(0, 1) if axis in space else slice(None) for axis in range(ndim))]
    same = all_along(value == first, space, keepdims=True) & all_along(mask, space, keepdims=True)
    order = (*where.lhs[:2], *space)
    flat = [
        a.transpose(order).reshape(a.shape[where.lhs[0]], a.shape[where.lhs[1]])
        for a in (same, first)
    ]
    return Known(flat[0], flat[1])


def _kernel(equation: Equation, fact: Known, where: prim.Convolution) -> tuple[Known, np.ndarray]:
    """The kernel (out, in) summed over space, and where it is zero all over space."""
    order = (where.rhs[0], where.rhs[1], *where.rhs[2:])
    mask, value, zero = (a.transpose(order) for a in (fact.mask, fact.value, fact.zero))
    space = tuple(range(2, value.ndim))
    shape = tuple(equation.ins[1].shape[axis] for axis in order)
    total = summed(value, space, shape)
    return Known(all_along(mask, space), total), all_along(zero, space)


def in_groups(
    equation: Equation, where: prim.Convolution, lhs: Known, rhs: Known, zero: np.ndarray
) -> tuple[Known, Known, np.ndarray, list]:
    """Features (batch, features) and kernel (out, in) with an axis for the groups of a convolution."""
    features = equation.ins[0].shape[where.lhs[1]]
    out, inside = (equation.ins[1].shape[axis] for axis in where.rhs[:2])
    batch = equation.ins[0].shape[where.lhs[0]]
    groups = where.groups

    def left(a: np.ndarray) -> np.ndarray:
        a = np.broadcast_to(a, (a.shape[0], features))
        return a.reshape(a.shape[0], groups, features // groups)

    def right(a: np.ndarray) -> np.ndarray:
        return np.broadcast_to(a, (out, inside)).reshape(groups, out // groups, inside)

    shapes = [(batch, groups, inside), (groups, out // groups, inside)]
    return Known(*map(left, lhs)), Known(*map(right, rhs)), right(zero), shapes


def ungrouped(array: np.ndarray, equation: Equation, where: prim.Convolution) -> np.ndarray:
    """From (groups, batch, features in a group) to the axes of the convolution's result."""
    array = array.transpose(1, 0, 2).reshape(array.shape[1], -1)
    shape = [1] * equation.outs[0].ndim
    shape[where.out[0]], shape[where.out[1]] = array.shape
    if where.out[0] > where.out[1]:
        array = array.T
    return array.reshape(shape)


def _every_window_meets(params: Mapping[str, Any]) -> bool:
    """Whether no window lies in the padding alone, where a maximum is −∞; False where that is not plain."""
    names = ("padding", "window_dimensions", "window_dilation", "base_dilation")
    for pads, width, apart, holes in zip(*(params[name] for name in names), strict=True):
        is_padded = tuple(pads) != (0, 0)
        if holes != 1 or (is_padded and (apart != 1 or max(pads) >= width)):
            return False
    return True


def _window(equation: Equation, facts: list[Known]) -> Known | None:
    free = prim.untouched_by_window(equation)
    others = [axis for axis in range(equation.ins[0].ndim) if axis not in free]
    if any(array.shape[axis] != 1 for array in facts[0] for axis in others):
        return None
    params = equation.params
    if equation.name != "reduce_window_sum":
        return facts[0] if _every_window_meets(params) else None
    pads = any(tuple(pair) != (0, 0) for pair in params["padding"])
    pads |= any(dilation != 1 for dilation in params["base_dilation"])
    mask, value = facts[0]
    if pads:
        return Known(facts[0].zero, value)
    return Known(mask, (value * np.prod(params["window_dimensions"])).astype(value.dtype))


def _gather(equation: Equation, facts: list[Known]) -> Known | None:
    """Columns of a table that are the same in every row; not where an index out of range gives NaN."""
    table, out = facts[0], equation.outs[0]
    passed = dict(prim.passed_by_gather(equation))
    mode = str(equation.params["mode"])
    if "fill" in mode.lower() or "one_hot" in mode.lower():
        return None
    mask, value = table
    others = tuple(axis for axis in range(value.ndim) if axis not in passed)
    if not value.size:
        return None
    first = value[
        tuple(slice(0, 1) if axis in others else slice(None) for axis in range(value.ndim))
    ]
    same = all_along(value == first, others, keepdims=True) & all_along(mask, others, keepdims=True)
    shapes = [[1] * out.ndim for _ in range(2)]
    for axis, place in passed.items():
        shapes[0][place], shapes[1][place] = same.shape[axis], value.shape[axis]
    return Known(same.reshape(shapes[0]), first.reshape(shapes[1]))


def _evaluated(equation: Equation, facts: list[Known]) -> list[Known | None]:
    """Any primitive, where all that it reads is known and small."""
    sizes = [value.shape for value in (*equation.ins, *equation.outs)]
    if sum(int(np.prod(size)) for size in sizes) > MAX_ENTRIES or equation.eqn.effects:
        return [None] * len(equation.outs)
    arrays = [
        jnp.asarray(np.broadcast_to(fact.value, value.shape).astype(value.dtype, copy=False))
        for fact, value in zip(facts, equation.ins, strict=True)
    ]
    try:
        found = _bind(equation, arrays)
    except Exception:
        return [None] * len(equation.outs)
    many = found if equation.eqn.primitive.multiple_results else [found]
    result: list[Known | None] = []
    for one, value in zip(many, equation.outs, strict=True):
        plain = not jnp.issubdtype(one.dtype, jax.dtypes.extended)
        result.append(Known(np.ones((1,) * value.ndim, bool), np.asarray(one)) if plain else None)
    return result


def common(first: Known, second: Known) -> Known:
    """What is known in either of two cases."""
    mask = first.mask & second.mask & (first.value == second.value)
    return Known(mask, first.value).as_arrays()


def _given(inputs: list[Value], facts: list[Known], constants: Constants) -> None:
    for value, fact in zip(inputs, facts, strict=True):
        constants[value] = fact


def _of_every_step(fact: Known) -> Known:
    """What is the same in every slice of a stacked array."""
    if not fact.value.shape[0] or not fact.mask.shape[0]:
        return Known(np.zeros(fact.mask.shape[1:], bool), np.zeros(fact.value.shape[1:]))
    same = all_along(fact.value == fact.value[:1], 0) & all_along(fact.mask, 0)
    return Known(same, fact.value[0]).as_arrays()


def _scan(equation: Equation, constants: Constants) -> None:
    params, body = equation.params, equation.bodies[0]
    consts, carries = params["num_consts"], params["num_carry"]
    facts = [known(value, constants) for value in equation.ins]
    stacked = [_of_every_step(fact) for fact in facts[consts + carries :]]
    carry = facts[consts : consts + carries]
    carry = _until_stable(body, facts[:consts], carry, stacked, constants, body.outputs[:carries])
    for value, fact in zip(equation.outs[:carries], carry, strict=True):
        constants[value] = fact
    for value, inner in zip(equation.outs[carries:], body.outputs[carries:], strict=True):
        fact = known(inner, constants)
        constants[value] = Known(fact.mask[None], fact.value[None])


def _until_stable(
    body: Program,
    consts: list[Known],
    carry: list[Known],
    stacked: list[Known],
    constants: Constants,
    outputs: list[Value],
) -> list[Known]:
    """What is known about the carry at every step: less and less, until a step changes nothing."""
    while True:
        for value in _values(body):
            constants.pop(value, None)
        _given(body.inputs, [*consts, *carry, *stacked], constants)
        propagate(body, constants)
        new = [
            common(old, known(value, constants)) for old, value in zip(carry, outputs, strict=True)
        ]
        if not any((a.mask & ~b.mask).any() for a, b in zip(carry, new, strict=True)):
            return carry
        carry = new


def _values(program: Program) -> list[Value]:
    return [
        value
        for equation in program.flat()
        for value in (*equation.outs, *(v for body in equation.bodies for v in _values(body)))
    ]


def _while(equation: Equation, constants: Constants) -> None:
    params, (condition, body) = equation.params, equation.bodies
    first, second = params["cond_nconsts"], params["body_nconsts"]
    facts = [known(value, constants) for value in equation.ins]
    carry = _until_stable(
        body, facts[first : first + second], facts[first + second :], [], constants, body.outputs
    )
    _given(condition.inputs, [*facts[:first], *carry], constants)
    propagate(condition, constants)
    for value, fact in zip(equation.outs, carry, strict=True):
        constants[value] = fact


def _cond(equation: Equation, constants: Constants) -> None:
    facts = [known(value, constants) for value in equation.ins[1:]]
    found: list[list[Known]] = []
    for body in equation.bodies:
        _given(body.inputs, facts, constants)
        propagate(body, constants)
        found.append([known(value, constants) for value in body.outputs])
    for value, *cases in zip(equation.outs, *found, strict=True):
        fact = cases[0]
        for case in cases[1:]:
            fact = common(fact, case)
        constants[value] = fact


_LOOPS: dict[str, Callable[[Equation, Constants], None]] = {
    "scan": _scan,
    "while": _while,
    "cond": _cond,
}
_RULES: dict[str, Callable] = {
    **dict.fromkeys(prim.ELEMENTWISE, _elementwise),
    **dict.fromkeys(
        ("broadcast_in_dim", "transpose", "squeeze", "reshape", "rev", "slice"), _moved
    ),
    **dict.fromkeys(("reduce_sum", "reduce_max", "reduce_min"), _reduced),
    **dict.fromkeys(prim.WINDOWS, _window),
    "concatenate": _concatenate,
    "split": _split,
    "pad": _pad,
    "iota": _iota,
    "dot_general": _dot,
    "conv_general_dilated": _convolution,
    "gather": _gather,
}
