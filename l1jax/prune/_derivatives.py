"""The derivatives of functions that have rules of their own (`jax.custom_jvp`, `jax.custom_vjp`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core

from ._program import Equation, Program, Value, jaxprs_in, read_program


class Derivative(NamedTuple):
    """The program of a derivative, at the full shapes, and the values of the function that it is about.

    Forward (`custom_jvp`): primals and tangents to outputs and their tangents. Reverse (`custom_vjp`):
    primals and cotangents of the outputs to cotangents of the primals. Only floating-point values have any.
    """

    program: Program
    inputs: list[tuple[Value, Value]]
    outputs: list[tuple[Value, Value]]


def derivative_program(equation: Equation) -> Derivative | None:
    """The derivative as a program; None where JAX does not give one."""
    if equation.derivative is None:
        try:
            equation.derivative = _trace(equation)
        except Exception:
            equation.derivative = False
    return equation.derivative or None


def is_float(value: Value) -> bool:
    return jnp.issubdtype(value.dtype, jnp.inexact)


def _trace(equation: Equation) -> Derivative:
    function = as_function(equation)
    ins, outs = equation.ins, equation.outs
    moving = [k for k, value in enumerate(ins) if is_float(value)]
    moved = [k for k, value in enumerate(outs) if is_float(value)]

    def with_moving(primals, new):
        primals = list(primals)
        for k, one in zip(moving, new, strict=True):
            primals[k] = one
        return function(*primals)

    def forward(primals, tangents):
        start = [primals[k] for k in moving]
        out, change = jax.jvp(lambda *new: with_moving(primals, new), start, tangents)
        return [*out, *(change[k] for k in moved)]

    def reverse(primals, cotangents):
        def floating(*new):
            out = with_moving(primals, new)
            return [out[k] for k in moved]

        start = [primals[k] for k in moving]
        return list(jax.vjp(floating, *start)[1](cotangents))

    is_forward = equation.name == "custom_jvp_call"
    extra = [ins[k] for k in moving] if is_forward else [outs[k] for k in moved]
    program = read_program(
        jax.make_jaxpr(forward if is_forward else reverse)(_abstract(ins), _abstract(extra))
    )
    results = [*outs, *(outs[k] for k in moved)] if is_forward else [ins[k] for k in moving]
    return Derivative(
        program,
        list(zip(program.inputs, [*ins, *extra], strict=True)),
        list(zip(program.outputs, results, strict=True)),
    )


def _abstract(values: list[Value]) -> list:
    return [jax.ShapeDtypeStruct(value.shape, value.dtype) for value in values]


def _debug_info(equation: Equation) -> Any:
    """That of a function inside, which JAX asks for; it is shown in error messages only."""
    for jaxpr in jaxprs_in(equation.params):
        return jaxpr.debug_info._replace(arg_names=None, result_paths=None)
    return None


def as_function(equation: Equation) -> Callable[..., list]:
    """An equation as a function of its arrays, as it stands: a call with its own derivative."""
    eqn = equation.eqn
    variables = [atom for atom in eqn.invars if not isinstance(atom, core.Literal)]
    unique = list(dict.fromkeys(variables))
    debug = _debug_info(equation)
    jaxpr = core.Jaxpr((), unique, eqn.outvars, [eqn], eqn.effects, debug)
    run = core.jaxpr_as_fun(core.ClosedJaxpr(jaxpr, ()))

    def function(*primals: Any) -> list:
        given = {
            atom: primal
            for atom, primal in zip(eqn.invars, primals, strict=True)
            if not isinstance(atom, core.Literal)
        }
        return run(*(given[atom] for atom in unique))

    return function
