"""What removed constants added to a sum goes into a bias that follows, or the units stay.

After a removal, a value v of the small program and that of the full one differ by an offset: full = small +
offset. A sum over removed units begins an offset; linear operations carry it on; a bias that is added takes it
over, and ends it. Where an offset meets anything else, its units are not removed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from . import _primitives as prim
from ._axes import Units
from ._constant_rules import joined, product_of, summed, through
from ._constants import Constants, Known, all_along, any_along, broadcast, collapse, known
from ._program import Equation, Program, Value, readers
from ._read_rules import Reads, back, read


class Offset(NamedTuple):
    """What is missing in a value, the units whose removal did it, the sums where they were."""

    array: np.ndarray
    units: np.ndarray
    sources: frozenset[Equation]


class Failure(NamedTuple):
    """An offset that could not be folded."""

    units: np.ndarray
    sources: frozenset[Equation]
    why: str


class Folded(NamedTuple):
    """What the biases take over, what is added as a constant, and what could not be folded."""

    biases: dict[Value, np.ndarray]
    constants: dict[Equation, np.ndarray]
    failures: list[Failure]


class _Chain(NamedTuple):
    """A parameter that is added, and what moves its entries in place before."""

    leaf: Value
    moves: list[Equation]


_MOVES = ("broadcast_in_dim", "reshape", "transpose", "squeeze", "convert_element_type", "copy")
_UNARY = (
    *_MOVES,
    "copy_p",
    "stop_gradient",
    "neg",
    "rev",
    "slice",
    "split",
    "reduce_precision",
    "reduce_window_sum",
    "real",
)


def fold(
    program: Program,
    units: Units,
    gone: np.ndarray,
    constants: Constants,
    reads: Reads,
    leaves: set[Value],
    added: frozenset[Equation] = frozenset(),
) -> Folded:
    """Follows the offsets of a removal through a program; in the sums `added` they become constants."""
    folder = _Folder(program, units, gone, constants, reads, leaves, added)
    folder.run(program, readers(program))
    return Folded(folder.biases, folder.constants_added, folder.failures)


class _Folder:
    def __init__(
        self,
        program: Program,
        units: Units,
        gone: np.ndarray,
        constants: Constants,
        reads: Reads,
        leaves: set[Value],
        added: frozenset[Equation],
    ):
        self.units, self.gone, self.constants, self.reads = units, gone, constants, reads
        self.leaves, self.added = leaves, added
        self.offsets: dict[Value, Offset] = {}
        self.biases: dict[Value, np.ndarray] = {}
        self.constants_added: dict[Equation, np.ndarray] = {}
        self.failures: list[Failure] = []
        self.producers: dict[Value, Equation] = {}
        self.readers: dict[Value, int] = {}

    def run(self, program: Program, counts: dict[Value, int]) -> None:
        self.readers = counts
        for equation in program.flat():
            for value in equation.outs:
                self.producers[value] = equation
            self._step(equation)
            for body in equation.bodies:
                self.run(body, counts)
        for value in program.outputs:
            if value in self.offsets:
                self._fail(
                    self.offsets[value],
                    "its constant is not zero, and would be missing in an output",
                )

    def _step(self, equation: Equation) -> None:
        offsets = [self.offsets.get(value) for value in equation.ins]
        if equation.name in _SUMS:
            return self._sum(equation, offsets)
        found = [offset for offset in offsets if offset is not None]
        if not found:
            return None
        rule = _RULES.get(equation.name)
        results = rule(self, equation, offsets) if rule else None
        if results is None:
            if any(read(value, self.reads).any() for value in equation.outs):
                self._fail(
                    _merged(found),
                    f"its constant is not zero: no bias before {equation.place} takes it",
                )
            return None
        for value, array in zip(equation.outs, results, strict=True):
            self._set(value, array, found)
        return None

    def _fail(self, offset: Offset, why: str) -> None:
        self.failures.append(Failure(offset.units, offset.sources, why))

    def _set(self, value: Value, array: np.ndarray | None, causes: list[Offset]) -> None:
        """The offset of a value, where it matters: at entries that are kept and read."""
        if array is None:
            return
        array = np.where(self.matters(value, array.shape), array, 0)
        if array.any():
            merged = _merged(causes)
            self.offsets[value] = Offset(array, merged.units, merged.sources)

    def matters(self, value: Value, shape: tuple[int, ...]) -> np.ndarray:
        """Whether entries are kept and read, for an array in which axes of length 1 are constant."""
        mask = read(value, self.reads)
        for axis, units in enumerate(self.units.of(value)):
            if shape[axis] == 1:
                mask = any_along(mask, axis, keepdims=True)
            else:
                kept = ~self.gone[units]
                mask = mask & kept.reshape([-1 if k == axis else 1 for k in range(value.ndim)])
        return mask

    def _removed(self, value: Value, axes: tuple[int, ...]) -> np.ndarray | None:
        """The removed indices of some axes, with axes of length 1 elsewhere; None where nothing is."""
        units = self.units.of(value)
        removed = np.zeros((1,) * value.ndim, bool)
        for axis in axes:
            shape = [-1 if k == axis else 1 for k in range(value.ndim)]
            removed = removed | self.gone[units[axis]].reshape(shape)
        return removed if removed.any() else None

    def _sum(self, equation: Equation, offsets: list[Offset | None]) -> None:
        """A sum: what is missing of its terms, and what the offsets of the others add up to."""
        operand, out = equation.ins[0], equation.outs[0]
        axes = _summed_axes(equation)
        removed = self._removed(operand, axes)
        causes = [offset for offset in offsets if offset is not None]
        if removed is None and not causes:
            return None
        fact = known(operand, self.constants)
        terms = []
        if removed is not None:
            fact = Known(fact.mask | ~removed, np.where(removed, fact.value, 0))
            units = self._units_of(operand, axes, removed & ~fact.zero)
            causes.append(Offset(np.zeros(0), units, frozenset({equation})))
            terms.append([fact, *(known(value, self.constants) for value in equation.ins[1:])])
        for k, offset in enumerate(offsets):
            if offset is None:
                continue
            factors = [known(value, self.constants) for value in equation.ins]
            array = offset.array if removed is None or k else np.where(removed, 0, offset.array)
            factors[k] = Known(np.ones((1,) * array.ndim, bool), array)
            terms.append(factors)
        is_map = equation in self.added and len(terms) == 1 and removed is not None
        found = [_map(equation, *terms[0]) if is_map and _pads(equation) else None]
        if found[0] is None:
            found = [_total(equation, factors) for factors in terms]
        both = len(equation.ins) > 1 and all(offset is not None for offset in offsets)
        if both or not self._all_known(out, found):
            self._fail(_merged(causes), self._why(equation, causes))
            return None
        arrays = [one.value for one in found if one is not None]
        if not arrays:
            return None
        total = sum(arrays[1:], arrays[0])
        if equation in self.added:
            self.constants_added[equation] = np.where(self.matters(out, total.shape), total, 0)
        else:
            self._set(out, total, causes)
        return None

    def _why(self, equation: Equation, causes: list[Offset]) -> str:
        if _pads(equation):
            return f"its constant is not zero, and {equation.place} pads with zeros"
        return f"its constant is not zero, and meets what is not constant in {equation.place}"

    def _units_of(self, value: Value, axes: tuple[int, ...], which: np.ndarray) -> np.ndarray:
        found = [np.zeros(0, int)]
        for axis in axes:
            others = tuple(k for k in range(value.ndim) if k != axis)
            here = np.broadcast_to(any_along(which, others), value.shape[axis])
            units = self.units.of(value)[axis][here]
            found.append(units[self.gone[units]])
        return np.concatenate(found)

    def _all_known(self, out: Value, found: list[Known | None]) -> bool:
        return not any(
            self.matters(out, (1,) * out.ndim).any()
            if one is None
            else (self.matters(out, one.mask.shape) & ~one.mask).any()
            for one in found
        )

    def bias(self, value: Value) -> _Chain | None:
        """The parameter that a value is, moved at most; None where anything else reads it too."""
        moves = []
        while self.readers.get(value) == 1:
            if value in self.leaves:
                inexact = np.issubdtype(value.dtype, np.inexact) or value.dtype.name == "bfloat16"
                return _Chain(value, moves) if inexact else None
            producer = self.producers.get(value)
            if producer is None or producer.name not in _MOVES:
                return None
            moves.append(producer)
            value = producer.ins[0]
        return None

    def absorb(self, value: Value, array: np.ndarray) -> bool:
        """Lets the parameter behind a value take an offset over, if there is one."""
        chain = self.bias(value)
        moved: np.ndarray | None = array
        for axis, size in enumerate(value.shape):
            if size == 1 and moved is not None:
                moved = collapse(moved, axis)
        for equation in chain.moves if chain else ():
            moved = None if moved is None else _moved_back(equation, moved)
        if chain is None or moved is None:
            return False
        self.biases[chain.leaf] = self.biases.get(chain.leaf, 0) + np.broadcast_to(
            moved, chain.leaf.shape
        )
        return True


def _merged(causes: list[Offset]) -> Offset:
    units = np.unique(np.concatenate([cause.units for cause in causes]))
    return Offset(np.zeros(0), units, frozenset().union(*(cause.sources for cause in causes)))


def _moved_back(equation: Equation, array: np.ndarray) -> np.ndarray | None:
    """An array in the axes of a move's result, in those of its operand; None where they cannot hold it."""
    if equation.name in ("convert_element_type", "copy"):
        return array
    if equation.name != "broadcast_in_dim":
        return back(equation, array)
    operand, places = equation.ins[0], equation.params["broadcast_dimensions"]
    long = {place for k, place in enumerate(places) if operand.shape[k] != 1}
    found: np.ndarray | None = array
    for axis in range(array.ndim):
        if axis not in long and found is not None:
            found = collapse(found, axis)
    return None if found is None else found.reshape([found.shape[place] for place in places])


def _summed_axes(equation: Equation) -> tuple[int, ...]:
    if equation.name == "dot_general":
        return prim.product(equation).contracted[0]
    if equation.name == "conv_general_dilated":
        return (prim.convolution(equation).lhs[1],)
    return tuple(map(int, equation.params["axes"]))


def _total(equation: Equation, facts: list[Known]) -> Known | None:
    if equation.name != "reduce_sum":
        return product_of(equation, *facts)
    axes, shape = _summed_axes(equation), equation.ins[0].shape
    value = np.where(facts[0].mask, facts[0].value, 0)
    return Known(all_along(facts[0].mask, axes), summed(value, axes, shape))


def _pads(equation: Equation) -> bool:
    return equation.name == "conv_general_dilated" and prim.convolution(equation).pads


def _map(equation: Equation, features: Known, kernel: Known) -> Known | None:
    """What constant features give at each place of a convolution that pads, for one example."""
    where = prim.convolution(equation)
    shape = list(equation.ins[0].shape)
    shape[where.lhs[0]] = 1
    is_one = features.mask.shape[where.lhs[0]] == features.value.shape[where.lhs[0]] == 1
    if not (features.everywhere and is_one):
        return None
    dtypes = [value.dtype for value in equation.ins]

    def convolved(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        arrays = np.broadcast_to(left, shape), np.broadcast_to(right, equation.ins[1].shape)
        given = [jnp.asarray(one.astype(dtype)) for one, dtype in zip(arrays, dtypes, strict=True)]
        return np.asarray(equation.eqn.primitive.bind(*given, **equation.params))

    unknown = convolved(features.value != 0, ~kernel.mask)
    return Known(unknown == 0, convolved(features.value, np.where(kernel.mask, kernel.value, 0)))


def _plus(folder: _Folder, equation: Equation, offsets: list[Offset | None]) -> Any:
    """A sum of two: a bias that is the other operand takes the offset over."""
    signs = (1, -1 if equation.name == "sub" else 1)
    ndim = equation.outs[0].ndim
    arrays = [None if o is None else broadcast(o.array, ndim) for o in offsets]
    if arrays[0] is not None and arrays[1] is not None:
        return [arrays[0] * signs[0] + arrays[1] * signs[1]]
    mine = 0 if arrays[0] is not None else 1
    array = arrays[mine]
    assert array is not None
    other = equation.ins[1 - mine]
    if other.ndim == ndim and folder.absorb(other, array * signs[mine] * signs[1 - mine]):
        return [None]
    return [array * signs[mine]]


def _times(folder: _Folder, equation: Equation, offsets: list[Offset | None]) -> Any:
    """A product with, or a quotient by, what is known."""
    mine = 0 if offsets[0] is not None else 1
    ours = offsets[mine]
    assert ours is not None
    if offsets[1 - mine] is not None or (equation.name == "div" and mine == 1):
        return None
    ndim = equation.outs[0].ndim
    fact = known(equation.ins[1 - mine], folder.constants)
    mask, value = broadcast(fact.mask, ndim), broadcast(fact.value, ndim)
    array = broadcast(ours.array, ndim)
    shape = np.broadcast_shapes(array.shape, mask.shape, value.shape)
    if (folder.matters(equation.outs[0], shape) & ~mask & (array != 0)).any():
        return None
    factor = np.where(mask, value, 0 if equation.name == "mul" else 1)
    with np.errstate(all="ignore"):
        return [array * factor if equation.name == "mul" else array / factor]


def _one(folder: _Folder, equation: Equation, offsets: list[Offset | None]) -> Any:
    """A linear operation on one value."""
    ours = offsets[0]
    if ours is None:
        return None
    found = through(equation, [Known(np.ones(ours.array.shape, bool), ours.array)])
    for one, value in zip(found, equation.outs, strict=True):
        if one is None or (folder.matters(value, one.mask.shape) & ~one.mask).any():
            return None
    return [one.value for one in found if one is not None]


def _joined(folder: _Folder, equation: Equation, offsets: list[Offset | None]) -> Any:
    arrays = [
        np.zeros((1,) * value.ndim) if offset is None else offset.array
        for value, offset in zip(equation.ins, offsets, strict=True)
    ]
    return [joined(arrays, equation.ins, equation.params["dimension"])]


def _chosen(folder: _Folder, equation: Equation, offsets: list[Offset | None]) -> Any:
    """A choice that is known."""
    ndim = equation.outs[0].ndim
    which = known(equation.ins[0], folder.constants)
    if not which.everywhere:
        return None
    array = np.zeros((1,) * ndim)
    for k, offset in enumerate(offsets[1:]):
        if offset is not None:
            here = broadcast(which.value, ndim).astype(int) == k
            array = np.where(here, broadcast(offset.array, ndim), array)
    return [array]


_SUMS = ("dot_general", "conv_general_dilated", "reduce_sum")
_RULES: dict[str, Callable] = {
    **dict.fromkeys(("add", "add_any", "sub"), _plus),
    **dict.fromkeys(("mul", "div"), _times),
    **dict.fromkeys(_UNARY, _one),
    "concatenate": _joined,
    "select_n": _chosen,
}
