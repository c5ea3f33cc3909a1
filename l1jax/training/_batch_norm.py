"""Where the scales γ of batch normalisation are, in the trees of four frameworks."""

from __future__ import annotations

from typing import Any

import jax
from jaxtyping import PyTree

from ._selection import _entries, _Entry, _name

_STATISTICS = ("mean", "var")


def batch_norm_scales(model: PyTree, state: Any = None) -> list[str]:
    """The paths of all scales of batch normalisation, for `on`; those of other norms and layers are not.

    They are those of modules of the frameworks' own type, or, in Linen and Haiku, of modules with running
    statistics: names do not matter.

    **Arguments:**

    - `model`: an Equinox or Flax NNX module; Flax Linen's variables, with "batch_stats" and "params" (the paths
      begin below "params"); Haiku's params.
    - `state`: that of Haiku.

    **Raises:** ValueError where there are none.

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> norm = {"scale": jnp.ones(2), "bias": jnp.ones(2)}
    >>> stats = {"mean": jnp.zeros(2), "var": jnp.ones(2)}
    >>> variables = {"params": {"bn": norm, "ln": norm}, "batch_stats": {"bn": stats}}
    >>> l1jax.batch_norm_scales(variables)
    ['bn/scale']

    ```
    """
    if state is not None:
        found = _haiku(model, state)
    elif hasattr(model, "keys") and "batch_stats" in model:
        found = _linen(model)
    else:
        found = [e.path for e in _entries(model) if _is_scale(e)]
    if not found:
        raise ValueError(
            "model has no batch normalisation with a scale: pass an Equinox or Flax NNX module, Flax "
            'Linen variables with "params" and "batch_stats", or Haiku params and their state.'
        )
    return found


def _is_scale(entry: _Entry) -> bool:
    """Whether a leaf of a module is the scale of Equinox's or Flax NNX's BatchNorm."""
    *path, name = entry.path.split("/")
    if len(entry.types) <= len(path):
        return False  # some node around it is not entered by its keys
    owner = entry.types[len(path)]
    return any(
        kind.__name__ == "BatchNorm"
        and {"equinox": "weight", "flax": "scale"}.get(kind.__module__.split(".")[0]) == name
        for kind in owner.__mro__
    )


def _linen(variables: Any) -> list[str]:
    stats = {
        _path(path) for path, _ in jax.tree_util.tree_leaves_with_path(variables["batch_stats"])
    }
    names = [_path(path) for path, _ in jax.tree_util.tree_leaves_with_path(variables["params"])]
    return [
        path
        for path in names
        for module, _, leaf in [path.rpartition("/")]
        if leaf == "scale" and all(f"{module}/{s}".lstrip("/") in stats for s in _STATISTICS)
    ]


def _haiku(params: Any, state: Any) -> list[str]:
    return [
        f"{module}/scale"
        for module, leaves in params.items()
        if "scale" in leaves and all(f"{module}/~/{s}_ema" in state for s in _STATISTICS)
    ]


def _path(path: Any) -> str:
    return "/".join(_name(key) for key in path)
