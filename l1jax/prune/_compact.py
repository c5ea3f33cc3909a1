"""`compact`: a smaller network that computes the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from .._tracing import is_differentiable
from ._batches import check_batches
from ._bind import check_apply
from ._cuts import LeafCut
from ._plan import PruningPlan
from ._program import fingerprint
from ._read_rules import read
from ._removal import Removal, complete, find_removal
from ._report import Report, cost, layers
from ._rounding import round_up
from ._trace import Split, Traced, are_read, check_pure, split, trace
from ._verify import allowed_difference, difference, random_like, tolerance_of


@dataclasses.dataclass(frozen=True)
class Compacted:
    """What `compact` returns: the smaller function and what it takes, a report, and the plan to repeat it."""

    apply: Callable
    params: PyTree
    state: PyTree
    report: Report
    plan: PruningPlan


class _Model(NamedTuple):
    apply: Callable
    params: Split
    inputs: Split
    has_state: bool


def compact(
    apply: Callable,
    params: PyTree,
    *example_inputs: PyTree,
    state: PyTree = None,
    silent: Mapping | None = None,
    multiple_of: int = 1,
    add_constants: bool = False,
    cut_inputs: bool = False,
    batch_axis: int | None = 0,
) -> Compacted:
    """Removes the units that are silent at these parameters: constant, or read by nothing.

    A channel whose scale is 0 is the constant act(β): it goes into the bias of what follows, and the channel
    goes, with all weights that write or read it. The outputs stay the same up to rounding, which is checked,
    to that of the coarsest dtype that `apply` computes in. What is removed is proved on the jaxpr of `apply`;
    an operation that is not known keeps what it touches. Gradients with respect to what is kept stay the same
    too, except at zeros that multiplied what was removed: a constant is carried to a bias only past what does
    not depend on parameters that are kept. All values inside are taken to be finite: only then is a product
    with zero a zero.

    **Arguments:**

    - `apply`: a pure function `apply(params, *inputs)`, or `apply(params, state, *inputs)`, as at inference.
    - `params`: any tree of arrays, Equinox and Flax NNX modules among them; what is no array stays as it is.
    - `example_inputs`: arrays of the shapes and dtypes that `apply` takes, for any size of the batch; random
      keys too. They are positional. A Python number stays one.
    - `state`: running statistics; they are cut with the parameters. Returned as it came, a state is cut too;
      one that `apply` computes is an output, and keeps its shape.
    - `silent`: masks of units that should go, by path of a vector or by (path, axis):
      {"norm/scale": gamma == 0}. Those alone are removed; an error says which one is not silent.
    - `multiple_of`: widths are rounded up to a multiple of it; the kept units are the least silent.
    - `add_constants`: adds constants that no bias can take, or not without a change of gradients, to the
      program where they enter, as arrays of the new function.
    - `cut_inputs`: removes features of the inputs that nothing reads; `plan.cut_inputs` cuts inputs.
    - `batch_axis`: 0 where all inputs have a batch in front: it is checked that the examples of a batch do not
      depend on one another. None where they have none.

    **Raises:** TypeError where `apply` is no function. ValueError where it has side effects, differs from
    trace to trace or depends on the batch; for parameters or examples that are not finite; for `silent` units
    that are not; and where the outputs are not the same, which must not happen.

    **Example:**

    ```python
    >>> import jax, jax.numpy as jnp, l1jax
    >>> def apply(params, x):
    ...     h = jax.nn.relu(params["scale"] * (x @ params["w"]) + params["shift"])
    ...     return h @ params["v"] + params["b"]
    >>> params = {
    ...     "w": jnp.ones((3, 4)), "scale": jnp.array([1.0, 0.0, 2.0, 0.0]), "shift": jnp.ones(4),
    ...     "v": jnp.ones((4, 2)), "b": jnp.zeros(2),
    ... }
    >>> small = l1jax.prune.compact(apply, params, jnp.ones((5, 3)))
    >>> print(small.params["w"].shape, small.params["v"].shape, small.params["b"])
    (3, 2) (2, 2) [2. 2.]
    >>> print(small.apply(small.params, jnp.ones((1, 3))), apply(params, jnp.ones((1, 3))))
    [[13. 13.]] [[13. 13.]]

    ```
    """
    check_apply(apply)
    _check_options(silent, batch_axis)
    has_state = state is not None
    ours = split((params, state) if has_state else (params,))
    model = _Model(apply, ours, split(example_inputs), has_state)
    _check_arrays(model)
    traced = trace(apply, model.params, model.inputs)
    check_pure(apply, model.params, model.inputs, traced)
    removal = _removal(model, traced, silent, cut_inputs, add_constants, multiple_of)
    plan = _plan(model, traced, removal)
    small = _small_arrays(model, removal, plan)
    _forget(traced)
    bound = plan.bind(apply)
    report = _report(model, plan, bound, small, removal, traced)
    if batch_axis is not None:
        tolerance = tolerance_of(traced.program)
        check_batches(apply, bound, model.params, small, model.inputs, plan, tolerance)
    trees = ours.join(small)
    return Compacted(bound, trees[0], trees[1] if has_state else None, report, plan)


def _check_options(silent: Any, batch_axis: Any) -> None:
    if silent is not None and not isinstance(silent, Mapping):
        raise TypeError(
            f"silent must be masks by path, such as {{'norm/scale': gamma == 0}}, got {type(silent).__name__}."
        )
    if batch_axis is not None and (isinstance(batch_axis, bool) or batch_axis != 0):
        raise ValueError(
            f"batch_axis must be 0, or None where the inputs have no batch in front, got {batch_axis!r}."
        )


def _forget(traced: Traced) -> None:
    """Lets the parameters go that the program held while it was read."""
    for value in traced.leaves:
        value.content = None


def _check_arrays(model: _Model) -> None:
    if not model.params.arrays:
        raise ValueError("params holds no array: pass the parameters of apply as a tree of arrays.")
    for part, name in ((model.params, "params"), (model.inputs, "example_inputs")):
        for path, leaf in zip(part.paths, part.arrays, strict=True):
            if isinstance(leaf, jax.ShapeDtypeStruct):
                raise TypeError(
                    f"{name} holds a shape at {path}: compact needs the values, pass arrays."
                )
            if is_differentiable(leaf):
                raise TypeError(
                    f"{name} holds a traced array at {path}: compact needs their values, call it outside jit."
                )
            plain = jnp.issubdtype(leaf.dtype, jnp.inexact)
            if plain and not np.isfinite(np.asarray(leaf)).all():
                raise ValueError(
                    f"{name} is not finite at {path.partition('/')[2] or path}: a number times zero is zero "
                    "only where it is finite; pass finite arrays."
                )


def _removal(
    model: _Model,
    traced: Traced,
    silent: Mapping | None,
    cut_inputs: bool,
    add_constants: bool,
    multiple_of: int,
) -> Removal:
    """What is removed at the values of these parameters."""
    for value, leaf in zip(traced.leaves, model.params.arrays, strict=True):
        value.content = leaf
    roles = traced.roles(model.has_state)
    found = find_removal(traced.program, roles, cut_inputs=cut_inputs, add_constants=add_constants)
    if silent is not None:
        found = _declared(model, traced, found, silent, add_constants)
    if multiple_of != 1:
        round_up(found, multiple_of)
        found = complete(traced.program, found, add_constants)
    return found


def _declared(
    model: _Model, traced: Traced, found: Removal, silent: Mapping, add_constants: bool
) -> Removal:
    """The removal of what is declared silent, alone."""
    units = found.units
    only = np.zeros(units.count, bool)
    declared: list[tuple[str, np.ndarray]] = []
    names = [path.partition("/")[2] for path in model.params.paths]
    for key, mask in silent.items():
        path, axis = key if isinstance(key, tuple) else (key, 0)
        if path not in names:
            raise ValueError(
                f"silent names {path!r}, which is no array of params: there are {', '.join(names[:20])}."
            )
        axes = units.of(traced.leaves[names.index(path)])
        if not isinstance(key, tuple) and len(axes) != 1:
            raise ValueError(
                f"silent names {path!r}, which has {len(axes)} axes: write ({path!r}, axis)."
            )
        if axis not in range(len(axes)):
            raise ValueError(f"silent names axis {axis!r} of {path!r}, which has {len(axes)} axes.")
        mask = np.asarray(mask)
        if mask.dtype != bool or mask.shape != axes[axis].shape:
            raise ValueError(
                f"silent[{key!r}] must be a mask of shape {axes[axis].shape}, got {mask.dtype} of "
                f"shape {mask.shape}."
            )
        only[axes[axis][mask]] = True
        declared.append((path, axes[axis][mask]))
    units.keep(np.flatnonzero(~only), "it is not declared silent")
    found = complete(traced.program, found, add_constants)
    for path, ids in declared:
        kept = ids[~found.gone[ids]]
        if len(kept):
            why = units.reasons[units.why[kept[0]]] or "it varies and is read"
            raise ValueError(
                f"silent declares {len(kept)} units of {path!r} that are not silent, the first because {why}."
            )
    return found


def _plan(model: _Model, traced: Traced, removal: Removal) -> PruningPlan:
    def cut(value: Any, path: str, part: str) -> LeafCut:
        gone = tuple(np.flatnonzero(removal.gone[ids]) for ids in removal.units.of(value))
        return LeafCut(part, path.partition("/")[2], value.shape, gone)

    parts = ["state" if inside else "params" for inside in traced.in_state]
    cuts = _with_unread(
        tuple(map(cut, traced.leaves, model.params.paths, parts)),
        are_read(traced.program, removal.roles),
    )
    inputs = tuple(
        cut(value, f"/{path}", "inputs")
        for value, path in zip(traced.inputs, model.inputs.paths, strict=True)
    )
    order = {equation: place for place, equation in enumerate(traced.program.everything())}
    constants = removal.folded.constants
    places = tuple(order[equation] for equation in constants)
    return PruningPlan(
        fingerprint(traced.program),
        model.has_state,
        cuts,
        places,
        tuple(constants.values()),
        inputs,
    )


def _with_unread(cuts: tuple[LeafCut, ...], is_read: list) -> tuple[LeafCut, ...]:
    """Arrays that nothing reads are cut like one of their shape beside them, such as another statistic."""
    known = {
        (cut.part, cut.path.rpartition("/")[0], cut.shape): cut.removed
        for cut, used in zip(cuts, is_read, strict=True)
        if used
    }

    def like(cut: LeafCut) -> LeafCut:
        nothing = tuple(np.zeros(0, int) for _ in cut.shape)
        beside = known.get((cut.part, cut.path.rpartition("/")[0], cut.shape), nothing)
        return dataclasses.replace(cut, removed=beside)

    return tuple(cut if used else like(cut) for cut, used in zip(cuts, is_read, strict=True))


def _small_arrays(model: _Model, removal: Removal, plan: PruningPlan) -> list[Any]:
    """The smaller parameters, with constants in the biases."""
    found = []
    leaves = zip(model.params.arrays, removal.roles.leaves, plan.cuts, strict=True)
    for leaf, value, cut in leaves:
        if value in removal.folded.biases:
            moved = np.asarray(leaf).astype(np.promote_types(np.float32, leaf.dtype))
            changed = (moved + removal.folded.biases[value]).astype(leaf.dtype)
            leaf = changed if isinstance(leaf, np.ndarray) else jnp.asarray(changed)
        found.append(cut.cut(leaf, tuple(range(len(cut.shape)))))
    return found


def _report(
    model: _Model,
    plan: PruningPlan,
    bound: Callable,
    small: list[Any],
    removal: Removal,
    traced: Traced,
) -> Report:
    def full_run(arrays: list[Any], inputs: list[Any]) -> list[Any]:
        out = model.apply(*model.params.join(arrays), *model.inputs.join(inputs))
        return jax.tree.leaves(out)

    def small_run(arrays: list[Any], inputs: list[Any]) -> list[Any]:
        return jax.tree.leaves(bound(*model.params.join(arrays), *model.inputs.join(inputs)))

    before, full = cost(full_run, model.params.arrays, model.inputs.arrays)
    cut = list(plan.cut_inputs(*model.inputs.arrays))
    after, smaller = cost(small_run, small, cut)
    worst = 0.0
    for seed in (None, 0, 1):
        inputs = model.inputs.arrays if seed is None else random_like(model.inputs, seed)
        a = full(model.params.arrays, inputs)
        b = smaller(small, list(plan.cut_inputs(*inputs)))
        if seed is None:
            _check_finite(a)
        found = difference(*_comparable(a, b))
        allowed = tolerance_of(traced.program)
        allowed = allowed_difference(full, model.params, inputs, a, found, allowed)
        if not found <= allowed:
            raise ValueError(
                f"the smaller network differs by {found:.1e} of the largest output, where rounding explains "
                f"{allowed:.1e}: nothing was removed. This must not happen; please report it, with apply."
            )
        worst = max(worst, found)
    dead = _dead_inputs(model, removal)
    return Report(layers(removal, plan, traced.program), before, after, worst, dead)


def _check_finite(outputs: list[Any]) -> None:
    for x in outputs:
        if jnp.issubdtype(x.dtype, jnp.inexact) and not np.isfinite(np.asarray(x)).all():
            raise ValueError(
                "apply gives values that are not finite on the example: pass one where they are."
            )


def _comparable(full: list[Any], small: list[Any]) -> tuple[list[Any], list[Any]]:
    """Outputs of one shape: a state that is returned is cut."""
    pairs = [(a, b) for a, b in zip(full, small, strict=True) if a.shape == b.shape]
    return [a for a, _ in pairs], [b for _, b in pairs]


def _dead_inputs(model: _Model, removal: Removal) -> dict[str, np.ndarray]:
    """The features, on the last axis of each input, that nothing reads."""
    found = {}
    for path, value in zip(model.inputs.paths, removal.roles.inputs, strict=True):
        if value.ndim < 2:
            continue
        mask = read(value, removal.reads).any(axis=tuple(range(value.ndim - 1)))
        features = np.flatnonzero(~np.broadcast_to(mask, value.shape[-1]))
        axis = removal.units.of(value)[-1]
        features = features[~removal.gone[axis[features]]]
        if len(features):
            found[f"input {path}"] = features
    return found
