"""Which units of a program can be removed: silent everywhere, in shape, and folded without a rest."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ._axes import Axes, Units
from ._axis_rules import relate
from ._constant_rules import propagate
from ._constants import Constants, all_along, known
from ._folding import Folded, fold
from ._program import Equation, Program, Roles, Value, all_values
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
    for value in all_values(program):
        fact = known(value, constants)
        silent = fact.mask | ~read(value, reads)
        if silent.all():
            continue
        for axis, ids in enumerate(units.of(value)):
            others = tuple(k for k in range(value.ndim) if k != axis)
            here = np.broadcast_to(all_along(silent, others), value.shape[axis])
            units.keep(ids[~here], "")


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
        folded = fold(program, units, gone, start.constants, start.reads, leaves, added)
        if not folded.failures:
            return start._replace(gone=gone, folded=folded, added=added)
        for failure in folded.failures:
            sources = failure.sources - added
            if add_constants and sources:
                added |= sources
            else:
                units.keep(failure.units, failure.why)
