"""`units`: which parameters belong to each unit, as a penalty that makes units silent, and what that saves."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from .._tables import Shown, Table
from ..penalties import GroupL1
from ..training._selection import Selection, Selections, on, penalties
from . import _primitives as prim
from ._axes import Units as UnitIds
from ._program import Equation, Program
from ._removal import relations
from ._report import distinct, shared
from ._trace import Traced, are_read, split, trace
from ._writers import reading_axes


class Member(NamedTuple):
    """An axis of an array, and the unit that each of its indices belongs to; −1 for none."""

    path: str
    axis: int
    units: np.ndarray
    rest: int  # entries of the array for each index
    reads: bool


@dataclasses.dataclass(frozen=True, eq=False)
class UnitLayer:
    """Units that stay or go independently of one another: which arrays write them, and which read them.

    `size`: how many there are; `cost`: the multiply-adds that each takes part in, on the example.
    """

    name: str
    size: int
    members: tuple[Member, ...]
    cost: np.ndarray


class _Product(NamedTuple):
    """The multiply-adds of one product, and the units on each of its axes that has some."""

    cost: float
    axes: tuple[
        tuple[tuple[int, np.ndarray], ...], ...
    ]  # of each: layers, and units of the indices


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Units(Shown):
    """What `units` returns: the layers of a network by the units that could be removed from them."""

    layers: tuple[UnitLayer, ...]
    products: tuple[_Product, ...]

    def penalty(
        self,
        lam: Any,
        parts: str = "write",
        *,
        layers: Sequence[str] | None = None,
        weights: str = "size",
    ) -> Selections:
        """A group lasso over the parameters of each unit: what it makes zero, `compact` removes.

        Pass it to `l1jax.prox_adam` and the like, or at each step as `tx.update(..., penalty=...)`.

        **Arguments:**

        - `lam`: the strength λ, in units of a gradient.
        - `parts`: which parameters of a unit make its group. "write": those that write it, so that it is
          act(0); "read": those that read it; "vectors": scales, shifts and biases alone, which is right where a
          norm follows the weights and would cancel what is done to them.
        - `layers`: names of those to penalise, all if None. An array that two layers have belongs to that with
          fewer units: heads come before their entries.
        - `weights`: "size": √ of the number of parameters; "cost": times the multiply-adds of a unit, relative
          to their mean.

        **Raises:** ValueError for a name that is no layer, or where no array is left.
        """
        names = [layer.name for layer in self.layers]
        for name in layers or ():
            if name not in names:
                raise ValueError(f"layers names {name!r}, which is none of {', '.join(names)}.")
        if weights not in ("size", "cost"):
            raise ValueError(f'weights must be "size" or "cost", got {weights!r}.')
        chosen = [one for one in self.layers if layers is None or one.name in layers]
        mean = np.mean(np.concatenate([one.cost for one in chosen])) if chosen else 1.0
        found: list[Selection] = []
        for layer in sorted(chosen, key=lambda one: one.size):
            factor = layer.cost / (mean or 1.0) if weights == "cost" else np.ones(layer.size)
            found += [
                _group_lasso(lam, block, layer.size, factor) for block in _blocks(layer, parts)
            ]
        if not found:
            raise ValueError(f"no array has parts={parts!r} of a unit: choose others.")
        return penalties(*found)

    def kept(self, params: PyTree, parts: str = "write") -> tuple[Array, ...]:
        """Of each layer, a mask of the units of which some parameter of these parts is not zero; traceable."""
        arrays = _by_path(params)
        return tuple(_is_kept(layer, _members(layer, parts), arrays) for layer in self.layers)

    def saved(self, params: PyTree, parts: str = "write") -> Float[Array, ""]:
        """The fraction of all multiply-adds that units take of which these parts are zero; traceable."""
        kept = self.kept(params, parts)
        left = jnp.zeros(())
        for one in self.products:
            fraction = jnp.asarray(one.cost)
            for axis in one.axes:
                stays = jnp.ones((), bool)
                for layer, ids in axis:
                    stays &= jnp.where(ids < 0, True, kept[layer][np.maximum(ids, 0)])
                fraction = fraction * stays.mean()
            left = left + fraction
        return 1 - left / max(sum(one.cost for one in self.products), 1e-30)

    def _table(self) -> Table:
        rows = []
        for layer in self.layers:
            sides = [_some([m.path for m in layer.members if m.reads == r]) for r in (False, True)]
            rows.append((layer.name, str(layer.size), f"{layer.cost.mean():.3g}", *sides))
        header = ("layer", "units", "multiply-adds each", "written by", "read by")
        return Table("", header, tuple(rows), (0, 3, 4))


def units(apply: Callable, params: PyTree, *example_inputs: PyTree, state: PyTree = None) -> Units:
    """Lists the units of a network that could be removed, and the parameters that belong to each.

    From the shapes alone: the values do not matter, and may be `jax.ShapeDtypeStruct`.

    **Arguments:** as for `compact`.

    **Raises:** ValueError where `apply` has side effects.

    **Example:**

    ```python
    >>> import jax, jax.numpy as jnp, l1jax
    >>> def apply(params, x):
    ...     return jax.nn.relu(x @ params["w"] + params["c"]) @ params["v"]
    >>> params = {"w": jnp.ones((3, 4)), "c": jnp.zeros(4), "v": jnp.ones((4, 2))}
    >>> units = l1jax.prune.units(apply, params, jnp.ones((1, 3)))
    >>> print(units)
    layer  units  multiply-adds each  written by  read by
    w          4                   5  c, w        v
    >>> print(float(units.penalty(1.0).value(params)))  # 4 units, each √4 · ‖(1, 1, 1, 0)‖
    13.856...

    ```
    """
    has_state = state is not None
    ours = split((params, state) if has_state else (params,))
    traced = trace(apply, ours, split(example_inputs))
    ids = relations(traced.program, traced.roles(has_state))
    paths = [path.partition("/")[2] for path in ours.paths]
    return _units(traced, ids, paths)


def _units(traced: Traced, ids: UnitIds, paths: list[str]) -> Units:
    free = ids.removed()
    group = _groups(ids, free)
    leaves = traced.leaves
    used = are_read(traced.program, traced.roles(True))
    read = [one and not inside for one, inside in zip(used, traced.in_state, strict=True)]
    reading = reading_axes(traced.program, leaves)
    layer_of, place = np.full(ids.count, -1), np.zeros(ids.count, int)
    found, costs = [], _unit_costs(traced.program, ids, group)
    for axes in shared(ids, free, leaves, read):
        numbers = np.unique(np.concatenate([group[ids.of(leaves[k])[a]] for k, a in axes]))
        numbers = numbers[numbers >= 0]
        if not len(numbers):
            continue
        place[numbers], layer_of[numbers] = np.arange(len(numbers)), len(found)

        def member(k: int, axis: int) -> Member:
            mine = group[ids.of(leaves[k])[axis]]
            inside = np.where(mine >= 0, place[mine], -1)
            rest = math.prod(leaves[k].shape) // leaves[k].shape[axis]
            return Member(paths[k], axis, inside, rest, (k, axis) in reading)

        members = tuple(member(k, axis) for k, axis in axes)
        writing = [m for m in members if not m.reads] or list(members)
        largest = max(writing, key=lambda m: m.rest * len(m.units)).path
        name = distinct(largest, axes, [one.name for one in found])
        found.append(UnitLayer(name, len(numbers), members, costs[numbers]))
    products = tuple(_products(traced.program, ids, group, layer_of, place))
    return Units(tuple(found), products)


def _groups(ids: UnitIds, free: np.ndarray) -> np.ndarray:
    """The unit that decides over each unit: of merged axes, that of the shortest factor that may go."""
    group = np.where(free, np.arange(ids.count), -1)
    for whole, factors in ids.products:
        axes = [axis for axis, factor in enumerate(factors) if free[factor].any()]
        if axes:
            axis = min(axes, key=lambda k: len(factors[k]))
            shape = [-1 if k == axis else 1 for k in range(whole.ndim)]
            deciding = np.broadcast_to(factors[axis].reshape(shape), whole.shape)
            group[whole] = np.where(free[deciding], deciding, -1)
    for _ in range(8):  # axes that were merged of merged ones
        group = np.where(group >= 0, group[np.maximum(group, 0)], -1)
    return group


def _cost_axes(equation: Equation, ids: UnitIds) -> tuple[float, list[np.ndarray]] | None:
    """The multiply-adds of a product, and the units on its axes."""
    if equation.name not in ("dot_general", "conv_general_dilated"):
        return None
    lhs, rhs = equation.ins
    out = equation.outs[0]
    if equation.name == "dot_general":
        where = prim.product(equation)
        summed = math.prod(lhs.shape[axis] for axis in where.contracted[0])
        axes = [ids.of(lhs)[axis] for axis in where.contracted[0]]
        return float(math.prod(out.shape) * summed), [*axes, *ids.of(out)]
    where = prim.convolution(equation)
    total = math.prod(out.shape) * math.prod(rhs.shape) // rhs.shape[where.rhs[0]]
    inside = ids.of(lhs if where.groups == 1 else rhs)[
        where.lhs[1] if where.groups == 1 else where.rhs[1]
    ]
    return float(total), [inside, ids.of(out)[where.out[1]]]


def _every_product(program: Program, times: float = 1.0) -> list[tuple[Equation, float]]:
    """The products, and how often each runs."""
    found = []
    for equation in program.flat():
        steps = times * equation.params.get("length", 1) if equation.name == "scan" else times
        found += [pair for body in equation.bodies for pair in _every_product(body, steps)]
        found.append((equation, times))
    return found


def _unit_costs(program: Program, ids: UnitIds, group: np.ndarray) -> np.ndarray:
    costs = np.zeros(ids.count)
    for equation, times in _every_product(program):
        entry = _cost_axes(equation, ids)
        for axis in entry[1] if entry else ():
            mine = group[axis]
            np.add.at(
                costs, mine[mine >= 0], times * (entry[0] if entry else 0) / max(len(axis), 1)
            )
    return costs


def _products(
    program: Program, ids: UnitIds, group: np.ndarray, layer_of: np.ndarray, place: np.ndarray
) -> list[_Product]:
    found = []
    for equation, times in _every_product(program):
        entry = _cost_axes(equation, ids)
        if entry is None:
            continue
        axes = []
        for axis in entry[1]:
            mine = group[axis]
            layers = np.where(mine >= 0, layer_of[mine], -1)
            axes.append(
                tuple(
                    (int(layer), np.where(layers == layer, place[mine], -1))
                    for layer in np.unique(layers[layers >= 0])
                )
            )
        found.append(_Product(times * entry[0], tuple(axes)))
    return found


def _members(layer: UnitLayer, parts: str) -> list[Member]:
    """The members of a layer that make the group of a unit."""
    if parts == "write":
        return [m for m in layer.members if not m.reads]
    if parts == "read":
        return [m for m in layer.members if m.reads]
    if parts == "vectors":
        return [m for m in layer.members if not m.reads and m.rest == 1]
    raise ValueError(f'parts must be "write", "read" or "vectors", got {parts!r}.')


def _blocks(layer: UnitLayer, parts: str) -> list[list[Member]]:
    """The members of these parts, those together whose indices are the same units in the same order."""
    found: list[list[Member]] = []
    for member in _members(layer, parts):
        same = [b for b in found if np.array_equal(b[0].units, member.units)]
        fitting = [b for b in same if member.path not in [m.path for m in b]]
        if fitting:
            fitting[0].append(member)
        else:
            found.append([member])
    return found


def _group_lasso(lam: Any, block: list[Member], size: int, factor: np.ndarray) -> Selection:
    """One group for each unit; the indices that belong to none are one that is not penalised."""
    ids = block[0].units
    here = np.bincount(ids[ids >= 0], minlength=size) * sum(member.rest for member in block)
    used = np.unique(ids)
    weights = np.where(used >= 0, np.sqrt(here)[used] * factor[used], 0.0)
    groups = np.searchsorted(used, ids)
    return on({member.path: member.axis for member in block}, GroupL1(lam, groups, weights))


def _some(paths: list[str]) -> str:
    return ", ".join(paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")


def _by_path(params: PyTree) -> dict[str, Any]:
    arrays = split(params)
    return dict(zip(arrays.paths, arrays.arrays, strict=True))


def _is_kept(layer: UnitLayer, members: list[Member], arrays: dict[str, Any]) -> Array:
    """Whether some member of a unit is not zero; those of a layer without members are kept."""
    if not members:
        return jnp.ones(layer.size, bool)
    total = jnp.zeros(layer.size + 1, bool)
    for member in members:
        leaf = jnp.moveaxis(jnp.asarray(arrays[member.path]), member.axis, 0)
        nonzero = (leaf.reshape(len(member.units), -1) != 0).any(axis=1)
        total = total.at[member.units].max(nonzero)  # −1, no unit, is the last
    return total[: layer.size]
