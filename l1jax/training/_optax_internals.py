"""What is read of optax by name: the factories of its transformations, and what is in their closures.

optax does not promise any of it. A transformation is a pair of functions: its factory is in the qualified name
of `update`, as in "scale_by_adam.<locals>.update_fn", and its parts are in the closure.
`tests/training/test_optax_internals.py` fails where a release of optax loses one of these names.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import FunctionType
from typing import Any

import equinox as eqx
import jax
import numpy as np
import optax
from jax.core import Tracer
from jaxtyping import PyTree

# Transformations whose metric is the identity, and wrappers; all others have a metric of their own, or none.
PLAIN = {
    "adaptive_grad_clip",
    "add_decayed_weights",
    "add_noise",
    "apply_every",
    "apply_if_finite",
    "cast_gradients",
    "centralize",
    "chain",
    "clip",
    "clip_by_block_rms",
    "clip_by_global_norm",
    "conditionally_mask",
    "conditionally_transform",
    "flatten",
    "identity",
    "inject_hyperparams",
    "keep_params_nonnegative",
    "masked",
    "named_chain",
    "partition",
    "scale",
    "scale_by_schedule",
    "selective_transform",
    "set_to_zero",
    "sgd",
    "snapshot",
    "stateless",
    "stateless_with_tree_map",
    "with_extra_args_support",
    "zero_nans",
    "MultiSteps",
}
# Transformations that move a coordinate by about the learning rate, whatever its gradient.
NORMALISED = {
    "scale_by_lion",
    "scale_by_sign",
    "scale_by_rprop",
    "scale_by_muon",
    "scale_by_trust_ratio",
    "scale_by_param_block_norm",
    "scale_by_param_block_rms",
    "normalize_by_update_norm",
    "normalize",
}
PROX = {"proximal_after", "prox_sgd", "prox_adam", "prox_adamw", "prox_rmsprop", "prox_adagrad"}
PROX |= {"proximal", "prox_step", "rda", "ftrl_proximal"}
PROX |= {"_with_master_weights", "_with_stochastic_rounding"}
# Wrappers that average what the proximal step returns.
AVERAGES = {"schedule_free", "lookahead"}
# Their state is Adam's, what they divide by is not.
NOT_ADAM = {"scale_by_adamax", "scale_by_radam"}


# The states of directions that have a metric; their fields are nu, mu, count and sum_of_squares.
ADAM_STATES = ("ScaleByAdamState",)
RMS_STATES = ("ScaleByRmsState", "ScaleByRmsWithCountState")
CENTRED_STATES = ("ScaleByRStdDevState", "ScaleByRStdDevWithCountState")
ADAGRAD_STATES = ("ScaleByRssState",)


def parts(function: FunctionType) -> list:
    """Returns the transformations of a chain, in order."""
    for value in _closure(function).values():
        if not isinstance(value, list | tuple) or isinstance(value, optax.GradientTransformation):
            continue
        found = [
            part[1]
            if isinstance(part, tuple) and len(part) == 2 and isinstance(part[0], str)
            else part
            for part in value
        ]
        if found and all(map(_is_transformation, found)):
            return found
    return []


def _is_transformation(value: Any) -> bool:
    return isinstance(value, optax.GradientTransformation) or (
        callable(value) and "update" in getattr(value, "__name__", "")
    )


def components(
    function: Any, visited: set[int] | None = None
) -> Iterator[tuple[str, FunctionType]]:
    """Yields (factory, update function) of all transformations that an update function closes over.

    `visited` contains the ids of functions yielded before.
    """
    visited = set() if visited is None else visited
    if isinstance(function, optax.GradientTransformation):
        function = function.update
    if isinstance(function, list | tuple):
        for part in function:
            yield from components(part, visited)
    elif isinstance(function, dict):
        yield from components(list(function.values()), visited)
    owner = getattr(function, "__self__", None)
    if owner is not None and type(owner).__module__.startswith("optax"):
        yield from components(vars(owner), visited)
    function = getattr(function, "__func__", function)
    if not isinstance(function, FunctionType) or id(function) in visited:
        return
    visited.add(id(function))
    if (function.__module__ or "").split(".")[0] not in ("optax", "l1jax"):
        return
    if ".<locals>.update" in function.__qualname__ or _makes(function):
        yield function.__qualname__.split(".")[0], function
    for value in _closure(function).values():
        yield from components(value, visited)


def _makes(function: FunctionType) -> bool:
    """Whether it is a factory, as is in the closure of `optax.inject_hyperparams`."""
    return function.__qualname__ in PROX or function is getattr(optax, function.__name__, None)


def only_state(state: PyTree, kinds: tuple[str, ...], metric: str, maker: str) -> Any:
    """Returns the one state of these kinds within the state of a direction."""

    def is_one(node: Any) -> bool:
        return type(node).__name__ in kinds

    found = [leaf for leaf in jax.tree.leaves(state, is_leaf=is_one) if is_one(leaf)]
    if len(found) != 1:
        raise ValueError(
            f"{metric} reads the state of {maker}, of which the direction must have one, but it has "
            f"{len(found)}: name the metric that belongs to the direction."
        )
    return found[0]


def has_rate(name: str, function: FunctionType) -> bool:
    """Whether a transformation is a learning rate, or a factory whose optimiser has one."""
    if name == "scale":
        step_size = _closure(function).get("step_size")
        concrete = eqx.is_array_like(step_size) and not isinstance(step_size, Tracer)
        return concrete and bool(np.any(np.asarray(step_size) < 0))
    is_factory = ".<locals>." not in function.__qualname__
    takes_one = is_factory and "learning_rate" in inspect.signature(function).parameters
    return name == "scale_by_schedule" or takes_one


def _closure(function: FunctionType) -> dict[str, Any]:
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    filled = {}
    for name, cell in cells:
        try:
            filled[name] = cell.cell_contents
        except ValueError:  # a name that is not bound yet
            continue
    return filled
