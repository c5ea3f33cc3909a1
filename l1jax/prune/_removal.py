"""Which units of a program can be removed: silent everywhere, in shape, and folded without a rest."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ._axes import Axes, Ids, Units
from ._axis_rules import relate
from ._constant_rules import propagate
from ._constants import Constants, Known, all_along, known
from ._folding import Failure, Folded, fold
from ._program import Equation, Program, Roles, Value, all_values, content_of
from ._read_rules import Reads, everything, read, trace_back

PLAIN = ("an output has it", "an input has it")


class Removal(NamedTuple):
    """The units, which of them go, and what the biases take over for it."""

    units: Units
    gone: np.ndarray
    folded: Folded
    constants: Constants
    reads: Reads
    roles: Roles
    added: frozenset[Equation]
    free: np.ndarray  # the units that could go, whatever the values


def relations(
    program: Program, roles: Roles, cut_inputs: bool = False, fixed: bool = True
) -> Units:
    """The units of a program; those of inputs and outputs stay, and those that no parameter tells of.

    `fixed=False` leaves the latter as they are.
    """
    axes = Axes()
    relate(program, axes)
    for value in all_values(program):
        axes.of(value)
    for value in roles.outputs:
        axes.fix_all(value, PLAIN[0])
    for value in roles.inputs:
        for axis, ids in enumerate(axes.of(value)):
            if not (cut_inputs and axis):
                axes.fix(ids, PLAIN[1])
    for value in roles.leaves:
        for ids in axes.of(value):
            if len(ids) == 1:  # as for broadcasting: not a unit
                axes.fix(ids, "")
    units = axes.solve()
    if fixed:
        told = _told(units, [*roles.leaves, *(roles.inputs if cut_inputs else [])])
        units.keep(np.flatnonzero(~units.reached(told)), "")
    return units


def _told(units: Units, leaves: list[Value]) -> np.ndarray:
    """The units that parameters have, and those that stay in any case."""
    told = ~units.candidate
    for value in leaves:
        for ids in units.of(value):
            told[ids] = True
    return told


def silence(program: Program, units: Units, constants: Constants, reads: Reads) -> None:
    """Keeps the units that somewhere vary and are read."""
    varying: dict[Value, list[Ids]] = {}  # of each value that has some, by axis
    for value in all_values(program):
        fact = known(value, constants)
        silent = np.asarray(fact.mask | ~read(value, reads))
        if not silent.all():
            varying[value] = [
                ids[~here]
                for ids, here in zip(units.of(value), _along_axes(silent, value), strict=True)
            ]
    _tell_where_constants_end(program, units, constants, varying)
    for axes in varying.values():
        for ids in axes:
            units.keep(ids, "")


def _along_axes(mask: np.ndarray, value: Value) -> list[np.ndarray]:
    """Of each axis, the indices at which a mask holds all over the other axes."""
    return [
        np.broadcast_to(all_along(mask, tuple(k for k in range(value.ndim) if k != axis)), size)
        for axis, size in enumerate(value.shape)
    ]


def _tell_where_constants_end(
    program: Program, units: Units, constants: Constants, varying: dict[Value, list[Ids]]
) -> None:
    """Gives the units that an equation reads as constants, and that vary after it, that reason."""
    of_inputs = set(program.inputs) - {v for v in program.inputs if v.content is not None}
    for equation in program.flat():
        ins = [value for value in equation.ins if value in of_inputs]
        if not ins:
            continue
        of_inputs.update(equation.outs)
        after = [ids for value in equation.outs for ids in varying.get(value, ())]
        facts = [known(value, constants) for value in ins]
        pairs = [(v, f) for v, f in zip(ins, facts, strict=True) if after and f.mask.any()]
        before = [
            ids[here]
            for value, fact in pairs
            for ids, here in zip(units.of(value), _along_axes(fact.mask, value), strict=True)
        ]
        if before:
            both = np.intersect1d(np.concatenate(before), np.concatenate(after))
            why = f"it is constant where {equation.place} reads it, and varies after it"
            units.keep(both, why)


def find_removal(
    program: Program,
    roles: Roles,
    *,
    cut_inputs: bool = False,
    add_constants: bool = False,
) -> Removal:
    """The largest removal after which the program computes the same."""
    units = relations(program, roles, cut_inputs)
    free = units.candidate.copy()
    constants: Constants = {}
    reads: Reads = {}
    propagate(program, constants)
    for value in program.outputs:
        reads[value] = everything(value)
    trace_back(program, constants, reads)
    silence(program, units, constants, reads)
    start = Removal(units, units.candidate, _NONE, constants, reads, roles, frozenset(), free)
    return complete(program, start, add_constants)


_NONE = Folded({}, {}, [])


def complete(program: Program, start: Removal, add_constants: bool) -> Removal:
    """Removes what can be folded; units whose constant cannot stay, until all is folded."""
    units, added = start.units, start.added
    leaves = set(start.roles.leaves)
    while True:
        gone = units.removed()

        def folding(constants: Constants, added: frozenset[Equation], gone: Ids = gone) -> Folded:
            return fold(program, units, gone, constants, start.reads, leaves, added)

        folded = folding(start.constants, added)
        failures = folded.failures
        if not failures and gone.any():
            without = _without_kept_parameters(program, start, gone)
            folded = folding(without, added)
            failures = folded.failures
            if failures:
                sources = added.union(*(failure.sources for failure in failures))
                failures = _explained(failures, folding(without, sources).failures)
        if not failures:
            return start._replace(gone=gone, folded=folded, added=added)
        for failure in failures:
            sources = failure.sources - added
            if add_constants and sources:
                added |= sources
            else:
                units.keep(failure.units, failure.why)


def _without_kept_parameters(program: Program, start: Removal, gone: Ids) -> Constants:
    """What does not depend on parameters that are kept either.

    A constant that is folded must not: else gradients with respect to them would change.
    """
    constants: Constants = {}
    for value in start.roles.params:
        content = content_of(value)
        if content is None:
            continue
        mask = np.zeros((1,) * value.ndim, bool)
        for axis, ids in enumerate(start.units.of(value)):
            shape = [-1 if k == axis else 1 for k in range(value.ndim)]
            mask = mask | gone[ids].reshape(shape)
        constants[value] = Known(np.asarray(mask), content)
    propagate(program, constants)
    return constants


def _explained(failures: list[Failure], even_added: list[Failure]) -> list[Failure]:
    """Failures that parameters which are kept cause, and whether adding the constants would help."""
    hopeless = {unit for failure in even_added for unit in failure.units}
    return [
        failure._replace(why=_DEPENDS if hopeless & set(failure.units) else _MEETS)
        for failure in failures
    ]


_MEETS = (
    "its constant meets parameters before the next bias: add_constants=True adds it where it enters"
)
_DEPENDS = "its constant depends on parameters that stay"
