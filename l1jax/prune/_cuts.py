"""What is removed of each array: the record that a plan is made of."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._tracing import is_differentiable


@dataclasses.dataclass(frozen=True, eq=False)
class LeafCut:
    """What is removed of one array of the parameters: the indices of each of its axes."""

    part: str = dataclasses.field(metadata={"static": True})  # "params" or "state"
    path: str = dataclasses.field(metadata={"static": True})
    shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    removed: tuple[np.ndarray, ...]

    @property
    def small(self) -> tuple[int, ...]:
        """The shape of what is kept."""
        return tuple(n - len(gone) for n, gone in zip(self.shape, self.removed, strict=True))

    def kept(self, axis: int) -> np.ndarray:
        return np.delete(np.arange(self.shape[axis]), self.removed[axis])

    def cut(self, leaf: Any, axes: tuple[int, ...]) -> Any:
        """What is kept of an array that has some of the axes."""
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(tuple(self.small[axis] for axis in axes), leaf.dtype)
        if not any(len(self.removed[axis]) for axis in axes):
            return leaf
        if _is_here(leaf):
            return jax.device_put(self.cut(np.asarray(leaf), axes), leaf.sharding)
        for place, axis in enumerate(axes):
            if len(self.removed[axis]):
                leaf = leaf[(slice(None),) * place + (self.kept(axis),)]
        return leaf

    def restore(self, leaf: Any, axes: tuple[int, ...]) -> Any:
        """The array at its full shape, zero where something was removed."""
        for place, axis in enumerate(axes):
            if not len(self.removed[axis]):
                continue
            shape = (*leaf.shape[:place], self.shape[axis], *leaf.shape[place + 1 :])
            where = (slice(None),) * place + (self.kept(axis),)
            if isinstance(leaf, np.ndarray):
                full = np.zeros(shape, leaf.dtype)
                full[where] = leaf
                leaf = full
            else:
                leaf = jnp.zeros(shape, leaf.dtype).at[where].set(leaf)
        return leaf


def _is_here(leaf: Any) -> bool:
    """Whether it is a concrete array on one device: NumPy cuts it without compiling anything."""
    return (
        isinstance(leaf, jax.Array)
        and not is_differentiable(leaf)
        and len(leaf.sharding.device_set) == 1
        and not jnp.issubdtype(leaf.dtype, jax.dtypes.extended)
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Removed:
    """A removal, for the program with this fingerprint."""

    program: str = dataclasses.field(metadata={"static": True})
    has_state: bool = dataclasses.field(metadata={"static": True})
    cuts: tuple[LeafCut, ...]
    places: tuple[int, ...] = dataclasses.field(metadata={"static": True})  # of the constants added
    constants: tuple[np.ndarray, ...]
    inputs: tuple[LeafCut, ...]
