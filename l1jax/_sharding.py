"""Arrays on a mesh whose axes are explicit: within l1jax the compiler places what it computes.

Where axes are explicit, JAX asks for the placement of every product that is not evident. Here that is the
compiler's choice, as it is where they are automatic.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import equinox as eqx
import jax
from jax.sharding import AxisType, NamedSharding, auto_axes, get_abstract_mesh, use_abstract_mesh
from jaxtyping import PyTree

from ._tracing import frozen

_REPLICATED = jax.sharding.PartitionSpec()


def is_explicit(tree: PyTree) -> bool:
    """Whether some array is on a mesh with explicit axes."""
    return any(_is_explicit(leaf) for leaf in jax.tree.leaves(tree))


def specs(tree: PyTree) -> PyTree:
    """Returns how arrays are sharded over the explicit axes of a mesh, for `out_sharding`."""
    return jax.tree.map(
        lambda x: jax.typeof(x).sharding.spec if _is_explicit(x) else _REPLICATED, tree
    )


def in_auto_axes(
    function: Callable[..., Any], *args: Any, out_sharding: Any = _REPLICATED, **kwargs: Any
) -> Any:
    """function(*args, **kwargs), within which no axis is explicit; its arrays come back as `out_sharding`.

    Arrays that are known now are known within.
    """
    leaves, tree = jax.tree.flatten((args, kwargs))
    explicit = [leaf for leaf in leaves if _is_explicit(leaf)]
    if not explicit:
        return function(*args, **kwargs)
    others: list[PyTree] = []

    def call(arrays: list[Any]) -> PyTree:
        inner_args, inner_kwargs = tree.unflatten(eqx.combine(arrays, rest))
        out, other = eqx.partition(function(*inner_args, **inner_kwargs), _is_array)
        others.append(other)
        return out

    arrays, rest = eqx.partition(leaves, _is_array)
    meshes = (getattr(getattr(frozen(x), "sharding", None), "mesh", None) for x in explicit)
    mesh = next((m for m in meshes if isinstance(m, jax.sharding.Mesh)), None)
    if mesh is None or not get_abstract_mesh().empty:
        inside = get_abstract_mesh().empty
        with use_abstract_mesh(_mesh(explicit[0])) if inside else nullcontext():
            placed: Any = auto_axes(call, out_sharding=out_sharding)
            out = placed(arrays)
    else:  # outside of `jax.set_mesh` and of `jit`
        automatic = jax.sharding.Mesh(mesh.devices, mesh.axis_names)

        def enter(x: Any) -> Any:
            if not _is_explicit(x):
                return x
            return jax.device_put(x, NamedSharding(automatic, jax.typeof(x).sharding.spec))

        out = call([enter(x) for x in arrays])
        on_mesh = jax.tree.map(lambda spec: NamedSharding(mesh, spec), out_sharding)
        out = jax.device_put(out, on_mesh)
    return eqx.combine(out, others[-1])


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array)


def _is_explicit(leaf: Any) -> bool:
    return _is_array(leaf) and AxisType.Explicit in _mesh(leaf).axis_types


def _mesh(array: Any) -> Any:
    return jax.typeof(array).sharding.mesh
