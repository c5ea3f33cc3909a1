"""What was removed, why the rest stays, and what it saves."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import numpy as np

from .._tables import Shown, Table
from ._axes import Ids, Units
from ._memory import peak_bytes
from ._plan import PruningPlan
from ._program import Program, Value, read_program
from ._removal import PLAIN, Removal
from ._trace import are_read
from ._writers import reading_axes


@dataclasses.dataclass(frozen=True)
class Layer:
    """The units that arrays of the parameters share: how many there were and are, and why those stay.

    `arrays`: the (path, axis) that have them. `why`: of those that stay, how many for which reason.
    """

    name: str
    arrays: tuple[tuple[str, int], ...]
    before: int
    after: int
    why: dict[str, int]


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one forward pass on the example: what it takes.

    `flops`: floating-point operations by XLA's count; `memory`: the most bytes of intermediates that are held
    at once, before fusion; `seconds`: the shortest of some runs.
    """

    parameters: int
    flops: float
    memory: int
    seconds: float


@dataclasses.dataclass(frozen=True, repr=False)
class Report(Shown):
    """What `compact` did: prints itself as a table.

    `layers`, `before` and `after` (a `Cost` each, of a pass on the example), `difference`: the largest of an
    output, relative to the largest output, on the example and on random inputs; `dead_inputs`: the features
    of each input that nothing reads.
    """

    layers: tuple[Layer, ...]
    before: Cost
    after: Cost
    difference: float
    dead_inputs: dict[str, np.ndarray]

    def _table(self) -> Table:
        rows = [(one.name, str(one.before), str(one.after), _told(one.why)) for one in self.layers]
        for name, unit, scale in _COSTS:
            before, after = (getattr(c, name) / scale for c in (self.before, self.after))
            rows.append((unit, f"{before:.4g}", f"{after:.4g}", ""))
        for name, features in self.dead_inputs.items():
            rows.append((name, "", "", f"{len(features)} features are not read: cut_inputs=True"))
        title = f"largest difference of an output: {self.difference:.1e}"
        return Table(title, ("units of", "before", "after", "why they stay"), tuple(rows), (0, 3))


_COSTS = (
    ("parameters", "parameters", 1),
    ("flops", "Mflop, forward", 1e6),
    ("memory", "MB of intermediates, at most", 1e6),
    ("seconds", "ms, forward", 1e-3),
)
LIVE = "it varies and is read"


def _told(why: dict[str, int]) -> str:
    return "; ".join(f"{count}: {reason}" for reason, count in why.items())


def layers(removal: Removal, plan: PruningPlan, program: Program) -> tuple[Layer, ...]:
    """The arrays of the parameters by the units that they share, where any of those could be removed."""
    reading = reading_axes(program, removal.roles.leaves)
    read = are_read(program, removal.roles)
    found: list[Layer] = []
    for group in shared(removal.units, removal.free, removal.roles.leaves, read, reading):
        name = distinct(_name(plan, group, reading), group, [one.name for one in found])
        found.append(_layer(removal, plan, group, name))
    return tuple(found)


def distinct(name: str, axes: list[tuple[int, int]], taken: list[str]) -> str:
    """A name with its axis where it is taken: of two axes of one array, such as heads and their entries."""
    return f"{name}:{axes[0][1]}" if name in taken else name


def shared(
    units: Units,
    free: np.ndarray,
    leaves: list[Value],
    read: list[bool],
    reading: Collection[tuple[int, int]] = (),
) -> list[list[tuple[int, int]]]:
    """The (array, axis) that share units, of those with units that could be removed.

    Also of those that an output has, where an axis in `reading` contracts them: of a hidden layer.
    """
    owner = np.full(units.count, -1)
    groups: list[list[tuple[int, int]]] = []
    for k, value in enumerate(leaves):
        for axis, ids in enumerate(units.of(value)):
            told = units.why[ids] > 0
            if not read[k] or not (free[ids].any() or told.any()):
                continue
            merged: list[tuple[int, int]] = [(k, axis)]
            for old in np.unique(owner[ids][owner[ids] >= 0]):
                merged = groups[old] + merged
                groups[old] = []
            for leaf, place in merged:
                owner[units.of(leaves[leaf])[place]] = len(groups)
            groups.append(merged)

    def is_told(group: list[tuple[int, int]]) -> bool:
        plain = [PLAIN[1]] if any(one in reading for one in group) else PLAIN
        return any(_is_told(units, free, units.of(leaves[k])[axis], plain) for k, axis in group)

    return [group for group in groups if is_told(group)]


def _is_told(units: Units, free: np.ndarray, ids: Ids, plain: Sequence[str]) -> bool:
    """Whether there is something to say: not where units stay for plain reasons alone."""
    places = [units.reasons.index(why) for why in plain if why in units.reasons]
    return bool(free[ids].any() or not np.isin(units.why[ids], [0, *places]).all())


def _layer(removal: Removal, plan: PruningPlan, group: list[tuple[int, int]], name: str) -> Layer:
    units = removal.units
    members = np.unique(
        np.concatenate([units.of(removal.roles.leaves[k])[axis] for k, axis in group])
    )
    kept = members[~removal.gone[members]]
    why: dict[str, int] = {}
    for reason in units.why[kept]:
        text = units.reasons[reason] or LIVE
        why[text] = why.get(text, 0) + 1
    arrays = tuple((plan.cuts[k].path, axis) for k, axis in group)
    return Layer(name, arrays, len(members), len(kept), why)


def _name(plan: PruningPlan, group: list[tuple[int, int]], reading: set) -> str:
    """The largest array that writes the units."""
    writing = [k for k, axis in group if (k, axis) not in reading]
    return plan.cuts[
        max(writing or [group[0][0]], key=lambda k: math.prod(plan.cuts[k].shape))
    ].path


def cost(run: Callable, params: list[Any], inputs: list[Any]) -> tuple[Cost, Callable]:
    """What a forward pass costs, and the compiled function."""
    traced = jax.jit(run).trace(params, inputs)
    compiled = traced.lower().compile()
    analysis: Any = compiled.cost_analysis() or {}
    if isinstance(analysis, list):
        analysis = analysis[0] if analysis else {}
    return (
        Cost(
            sum(math.prod(np.shape(leaf)) for leaf in params),
            float(analysis.get("flops", math.nan)),
            peak_bytes(read_program(traced.jaxpr)),
            _seconds(compiled, params, inputs),
        ),
        compiled,
    )


def _seconds(compiled: Callable, params: list[Any], inputs: list[Any]) -> float:
    """The shortest of some runs, for a quarter of a second or three of them."""
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < 3 or (len(times) < 50 and time.perf_counter() - begin < 0.25):
        start = time.perf_counter()
        jax.block_until_ready(compiled(params, inputs))
        times.append(time.perf_counter() - start)
    return min(times)
