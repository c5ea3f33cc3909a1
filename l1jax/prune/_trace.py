"""An apply function as a program: what of its arguments are arrays, and whether it is a function at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from ..training._selection import _name
from ._program import Program, Roles, Value, content_of, read_program, shapeless


class Split(NamedTuple):
    """The arrays of a tree, and what puts them back among what is not an array."""

    arrays: list[Any]
    paths: list[str]
    others: tuple[Any, ...]  # at the places of arrays: None
    tree: Any

    def join(self, arrays: list[Any]) -> PyTree:
        left = iter(arrays)
        leaves = [next(left) if one is None else one.value for one in self.others]
        return self.tree.unflatten(leaves)

    @property
    def key(self) -> Any:
        """What must be the same for the same program."""
        shapes = tuple((tuple(np.shape(one)), str(one.dtype)) for one in self.arrays)
        return shapes, tuple(repr(one) for one in self.others), self.tree


class _Other(NamedTuple):
    value: Any


def is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct)


def split(tree: PyTree) -> Split:
    """Takes the arrays out of a tree."""
    found, structure = jax.tree_util.tree_flatten_with_path(tree)
    arrays = [leaf for _, leaf in found if is_array(leaf)]
    paths = [path_of(path) for path, leaf in found if is_array(leaf)]
    others = tuple(None if is_array(leaf) else _Other(leaf) for _, leaf in found)
    return Split(arrays, paths, others, structure)


def path_of(path: Any) -> str:
    """The names along a path, joined by "/"; a `.value` of Flax NNX is not part of it."""
    names = [_name(key) for key in path]
    if len(path) > 1 and getattr(path[-1], "name", None) == "value":
        names = names[:-1]
    return "/".join(names)


class Traced(NamedTuple):
    """The program of an apply function, with the places of parameters, inputs and outputs in it."""

    program: Program
    leaves: list[Value]
    inputs: list[Value]
    out_tree: Any
    in_state: list[bool]  # of each leaf: whether it is one of the state, not of the parameters

    def roles(self, has_state: bool) -> Roles:
        """A state that is returned as it came may be cut; all other outputs keep their shape."""
        pairs = list(zip(self.leaves, self.in_state, strict=True))
        state = {value for value, inside in pairs if inside}
        params = [value for value, inside in pairs if not inside]
        outputs = [value for value in self.program.outputs if not has_state or value not in state]
        return Roles(self.leaves, params, self.inputs, outputs)


def are_read(program: Program, roles: Roles) -> list[bool]:
    """Of each parameter, whether an equation or an output reads it; a state that is passed on is not read."""
    read = {value for equation in program.everything() for value in equation.ins}
    return [value in read or value in roles.outputs for value in roles.leaves]


def trace(apply: Callable, params: Split, inputs: Split) -> Traced:
    """Traces `apply(*params, *inputs)` for arrays of these shapes."""

    def function(arrays: list[Any], given: list[Any]) -> Any:
        return apply(*params.join(arrays), *inputs.join(given))

    ours, theirs = abstract(params.arrays), abstract(inputs.arrays)
    closed, out = jax.make_jaxpr(function, return_shape=True)(ours, theirs)
    if closed.effects:
        names = ", ".join(sorted(str(effect) for effect in closed.effects))
        raise ValueError(
            f"apply must be a pure function of its arguments, but it has side effects ({names}): take "
            "prints and callbacks out of the function that is pruned."
        )
    program = read_program(closed)
    count = len(params.arrays)
    in_state = [path.startswith("1/") or path == "1" for path in params.paths]
    leaves, others = program.inputs[:count], program.inputs[count:]
    return Traced(program, leaves, others, jax.tree.structure(out), in_state)


def abstract(arrays: list[Any]) -> list[Any]:
    """The shapes and dtypes that arrays have in JAX."""

    def one(array: Any) -> jax.ShapeDtypeStruct:
        dtype = array.dtype
        if isinstance(array, np.ndarray | np.generic):
            dtype = jax.dtypes.canonicalize_dtype(dtype)
        return jax.ShapeDtypeStruct(np.shape(array), dtype)

    return [one(array) for array in arrays]


def check_pure(apply: Callable, params: Split, inputs: Split, traced: Traced) -> None:
    """Raises where a second trace is another program: the function keeps a state of its own."""
    again = trace(apply, params, inputs)
    same = shapeless(again.program) == shapeless(traced.program)
    same = same and all(map(_equal, _contents(traced.program), _contents(again.program)))
    if not same:
        raise ValueError(
            "apply must be a pure function of its arguments, but two traces of it differ: pass random keys, "
            "counters and other state as arguments."
        )


def _contents(program: Program) -> list[Any]:
    return [
        value.content
        for equation in program.everything()
        for value in equation.ins
        if value.content is not None
    ]


def _equal(left: Any, right: Any) -> bool:
    if left is right:
        return True
    dtypes = [getattr(one, "dtype", np.asarray(one).dtype) for one in (left, right)]
    a, b = (
        content_of(Value(np.shape(one), dtype, one))
        for one, dtype in zip((left, right), dtypes, strict=True)
    )
    return a is None or b is None or np.array_equal(a, b, equal_nan=a.dtype.kind in "fc")
