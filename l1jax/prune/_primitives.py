"""Families of primitives, and how to read the settings of the larger ones."""

from __future__ import annotations

from typing import NamedTuple

from ._program import Equation

_ELEMENTWISE = """
    abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt
    ceil clamp clz complex conj convert_element_type copy copy_p cos cosh digamma div eq
    eq_to erf erf_inv erfc exp exp2 expm1 floor ge gt igamma igammac imag integer_pow
    is_finite le le_to lgamma log log1p logistic lt lt_to max min mul ne neg nextafter not
    or polygamma population_count pow real reduce_precision rem round rsqrt select_n
    shift_left shift_right_arithmetic shift_right_logical sign sin sinh sqrt square
    stop_gradient sub tan tanh xor zeta
"""
ELEMENTWISE = frozenset(_ELEMENTWISE.split())
# The entries of a sum do not matter to one another: units on its axis may go.
SUMS = frozenset({"reduce_sum"})
OTHER_REDUCTIONS = frozenset(
    {
        "reduce_max",
        "reduce_min",
        "reduce_prod",
        "reduce_and",
        "reduce_or",
        "reduce_xor",
        "argmax",
        "argmin",
    }
)
CUMULATIVE = frozenset({"cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"})
WINDOWS = frozenset({"reduce_window_sum", "reduce_window_max", "reduce_window_min"})


class Convolution(NamedTuple):
    """Where the axes of a convolution are, and what it does at the border."""

    lhs: tuple[int, ...]  # batch, features, space
    rhs: tuple[int, ...]  # features out, features in, space
    out: tuple[int, ...]  # batch, features, space
    groups: int
    batch_groups: int
    pads: bool


def convolution(equation: Equation) -> Convolution:
    """The settings of `conv_general_dilated`."""
    params = equation.params
    numbers = params["dimension_numbers"]
    pads = any(tuple(pair) != (0, 0) for pair in params["padding"])
    pads |= any(dilation != 1 for dilation in params["lhs_dilation"])
    return Convolution(
        tuple(numbers.lhs_spec),
        tuple(numbers.rhs_spec),
        tuple(numbers.out_spec),
        params["feature_group_count"],
        params["batch_group_count"],
        pads,
    )


class Product(NamedTuple):
    """Where the axes of `dot_general` are."""

    contracted: tuple[tuple[int, ...], tuple[int, ...]]
    batch: tuple[tuple[int, ...], tuple[int, ...]]
    free: tuple[tuple[int, ...], tuple[int, ...]]


def product(equation: Equation) -> Product:
    """The settings of `dot_general`; its result has the batch axes, then the free ones of either side."""
    contracted, batch = equation.params["dimension_numbers"]
    free = tuple(
        tuple(axis for axis in range(value.ndim) if axis not in (*contracted[k], *batch[k]))
        for k, value in enumerate(equation.ins)
    )
    return Product(
        (tuple(contracted[0]), tuple(contracted[1])),
        (tuple(batch[0]), tuple(batch[1])),
        (free[0], free[1]),
    )


def passed_by_gather(equation: Equation) -> list[tuple[int, int]]:
    """The axes of a gather's operand that come out whole, as (axis of the operand, axis of the result)."""
    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    operand = equation.ins[0]
    dropped = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    kept = [axis for axis in range(operand.ndim) if axis not in dropped]
    return [
        (axis, out)
        for axis, out in zip(kept, numbers.offset_dims, strict=True)
        if sizes[axis] == operand.shape[axis] and axis not in numbers.start_index_map
    ]


def untouched_by_window(equation: Equation) -> list[int]:
    """The axes along which a `reduce_window` does nothing."""
    params = equation.params
    each = zip(
        params["window_dimensions"],
        params["window_strides"],
        params["padding"],
        params["base_dilation"],
        strict=True,
    )
    return [
        axis
        for axis, (window, stride, pad, dilation) in enumerate(each)
        if window == 1 and stride == 1 and tuple(pad) == (0, 0) and dilation == 1
    ]
