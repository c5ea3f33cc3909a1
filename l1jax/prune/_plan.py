"""What a removal does to the parameters and to any tree that has their shapes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from os import PathLike
from typing import Any

import jax
from jaxtyping import PyTree

from .._saving import load as load_result
from .._saving import savable, savable_result, save
from ._bind import Bound
from ._cuts import LeafCut, Removed
from ._trace import is_array, path_of


@dataclasses.dataclass(frozen=True, eq=False)
class PruningPlan(Removed):
    """Which indices of which axes a removal takes: for the parameters, and for all that has their shapes.

    `apply` makes optimiser states, averages, gradients and checkpoints smaller, `undo` brings them back with
    zeros, `bind` makes the smaller function of the full one; `save` writes the plan, `l1jax.load` reads it.
    """

    def apply(self, tree: PyTree) -> PyTree:
        """A tree that holds arrays of the parameters' shapes, such as an optimiser's state, made smaller.

        Arrays are found by the end of their path; others, such as counters, are left as they are. Vectors kept
        for single axes of a parameter (Adafactor, SM3) are cut by their axis. Constants
        are not folded into biases here: `compact` does that for parameters, where their values are known.

        **Raises:** ValueError where no array is found, or one has another shape.
        """
        return self._each(tree, lambda cut: cut.shape, LeafCut.cut)

    def undo(self, tree: PyTree) -> PyTree:
        """A tree of the smaller shapes, back at full size: zero where something was removed."""
        return self._each(tree, lambda cut: cut.small, LeafCut.restore)

    def bind(self, apply: Callable) -> Callable:
        """`apply` for smaller parameters: the function that `compact` returns.

        Runs under `jit`, `grad` and `vmap`, for any batch size; `jax.export` takes one that is a number.

        **Raises:** TypeError for what is no function. When it is called: ValueError for parameters of other
        shapes, inputs of another number or rank, or a function that is not the one that was planned for.
        """
        return Bound(apply, self)

    def save(self, file: Any) -> None:
        """Writes the plan to a file, for `l1jax.load`."""
        if not isinstance(file, str | PathLike) and not hasattr(file, "write"):
            raise TypeError(f"file must be a path, or a file opened for writing, got {file!r}.")
        save(self, file)

    @staticmethod
    def load(file: Any) -> PruningPlan:
        """The plan in a file that `save` wrote."""
        found = load_result(file)
        if not isinstance(found, PruningPlan):
            raise ValueError(f"the file holds a {type(found).__name__}, not a plan of a removal.")
        return found

    def cut_inputs(self, *inputs: PyTree) -> tuple[PyTree, ...]:
        """The inputs without the features that `compact(..., cut_inputs=True)` removed."""
        leaves, tree = jax.tree.flatten(inputs)
        arrays = iter(self.inputs)
        return tree.unflatten([_cut_input(next(arrays), x) if is_array(x) else x for x in leaves])

    def _each(self, tree: PyTree, shape_of: Callable, change: Callable) -> PyTree:
        found, structure = jax.tree_util.tree_flatten_with_path(tree)
        names = {}
        for cut in self.cuts:
            names.setdefault(tuple(cut.path.split("/")), []).append(cut)
        leaves, known = [], 0
        for path, leaf in found:
            cut, axes = self._cut_of(path, leaf, names, shape_of) if is_array(leaf) else (None, ())
            known += cut is not None
            leaves.append(leaf if cut is None else change(cut, leaf, axes))
        if not known and self.cuts:
            raise ValueError(
                f"tree holds no array of the parameters, such as {self.cuts[0].path!r} of shape "
                f"{shape_of(self.cuts[0])}: pass parameters, or what an optimiser keeps for them."
            )
        return structure.unflatten(leaves)

    def _cut_of(
        self, path: Any, leaf: Any, names: dict, shape_of: Callable
    ) -> tuple[LeafCut | None, tuple[int, ...]]:
        """The cut of a leaf by the longest end of its path, and which axes of the parameter it has."""
        parts = tuple(path_of(path).split("/"))
        for start in range(len(parts)):
            for cut in names.get(parts[start:], ()):
                axes = _axes_in(tuple(leaf.shape), shape_of(cut))
                if axes is not None:
                    return cut, axes
            for cut in names.get(parts[start:-1], ()):
                axes = _axis_named(parts[-1], tuple(leaf.shape), shape_of(cut))
                if axes is not None:
                    return cut, axes
            if parts[start:] in names:
                cut = names[parts[start:]][0]
                if math.prod(leaf.shape) <= 1:
                    return None, ()
                raise ValueError(
                    f"{'/'.join(parts)} has shape {tuple(leaf.shape)}, where the parameter {cut.path} of the "
                    f"plan has {shape_of(cut)}: pass a tree for the same parameters; what an optimiser keeps "
                    "in another shape, as L-BFGS does, its init makes anew for the smaller ones."
                )
        return None, ()


def _axes_in(shape: tuple[int, ...], full: tuple[int, ...]) -> tuple[int, ...] | None:
    """Which axes an array has: all, or all but one (a factored second moment); None if that is not clear."""
    everything = tuple(range(len(full)))
    if shape == full:
        return everything
    if len(full) < 2:
        return None
    dropped = [tuple(a for a in everything if a != k) for k in everything]
    fitting = [axes for axes in dropped if tuple(full[a] for a in axes) == shape]
    return fitting[0] if len(fitting) == 1 else None


def _axis_named(name: str, shape: tuple[int, ...], full: tuple[int, ...]) -> tuple[int, ...] | None:
    """The axis of a vector kept for each axis of a parameter, in their order, as SM3 does."""
    axis = int(name) if name.isdecimal() else len(full)
    return (axis,) if axis < len(full) and shape == (full[axis],) else None


def _cut_input(cut: LeafCut, x: Any) -> Any:
    """An input whose batch may have another size than that of the example."""
    for axis, gone in enumerate(cut.removed):
        if len(gone):
            x = x[(slice(None),) * axis + (cut.kept(axis),)]
    return x


savable(LeafCut)
savable_result(PruningPlan)
