"""A penalty for a part of a tree: chosen by path, predicate or module type, leaf by leaf or joined."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

from .._group_shrinkage import Rematerialisation
from ..penalties._base import Penalty, total
from ._channels import ChannelL1, flat, steps_of
from ._checks import check_penalty
from ._rematerialisation import GroupNormPenalty, RematOf, norms_for, prox_with

_SHOWN = 20


class Block(NamedTuple):
    """What one penalty sees at once: which leaves, by their paths, and the array that they make."""

    penalty: Penalty
    paths: tuple[str, ...]
    array: Array


class Selection(GroupNormPenalty):
    """What `on` returns: a penalty for those leaves of a tree that a selector matches."""

    penalty: Penalty | None
    parts: tuple[tuple[Any, int | None], ...] = eqx.field(static=True)
    joined: bool = eqx.field(static=True)

    @property
    def metric(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        return "diagonal" if self.penalty is None else self.penalty.metric

    @property
    def plain(self) -> tuple[Penalty, ...]:
        """The penalties that it chooses leaves for."""
        return () if self.penalty is None else (self.penalty,)

    @property
    def max_step(self) -> Any:
        return jnp.inf if self.penalty is None else self.penalty.max_step

    def is_valid(self) -> Bool[Array, ""]:
        return jnp.ones((), bool) if self.penalty is None else self.penalty.is_valid()

    def with_strength(self, lam: Any) -> Penalty:
        if self.penalty is None:
            return self
        return Selection(self.penalty.with_strength(lam), self.parts, self.joined)

    def value(self, x: PyTree) -> Array:
        return Selections((self,)).value(x)

    def prox(self, z: PyTree, step: Any = 1.0) -> PyTree:
        return Selections((self,)).prox(z, step)

    def prox_given_norms(self, z: PyTree, step: Any, norms: Any) -> PyTree:
        return Selections((self,)).prox_given_norms(z, step, norms)

    def group_norms(self, z: PyTree, step: Any, remat_of: RematOf) -> Any:
        return Selections((self,)).group_norms(z, step, remat_of)

    def matched(self, entries: list[_Entry]) -> list[list[tuple[int, int | None]]]:
        """The leaves of each block, as (index, axis of the groups); an error where nothing matches."""
        found: dict[int, int | None] = {}
        for selector, axis in self.parts:
            here = [e.place for e in entries if _matches(selector, e)]
            if not here:
                raise ValueError(_nothing(selector, entries))
            for index in here:
                found.setdefault(index, axis)
        pairs = list(found.items())
        return [pairs] if self.joined else [[pair] for pair in pairs]


class Selections(GroupNormPenalty):
    """What `penalties` returns: several selections, of which the first that matches a leaf has it."""

    selections: tuple[Selection, ...]

    @property
    def metric(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        return "diagonal" if all(s.metric == "diagonal" for s in self.selections) else "scalar"

    @property
    def plain(self) -> tuple[Penalty, ...]:
        return tuple(pen for selection in self.selections for pen in selection.plain)

    @property
    def max_step(self) -> Any:
        return functools.reduce(jnp.minimum, [s.max_step for s in self.selections])

    def is_valid(self) -> Bool[Array, ""]:
        return jnp.stack([s.is_valid() for s in self.selections]).all()

    def with_strength(self, lam: Any) -> Penalty:
        raise ValueError(
            "several penalties have several strengths: build penalties(...) with new ones, or use the "
            "strength of the transformation, which multiplies them all."
        )

    def value(self, x: PyTree) -> Array:
        terms = [block.penalty.value(block.array) for block in self.blocks(x)]
        return total(terms) if terms else jnp.zeros(())

    def blocks(self, x: PyTree) -> list[Block]:
        """Each block of leaves that a penalty sees at once, with the groups' axis leading."""
        entries = _entries(x)
        arrays = {e.place: e.leaf for e in entries}
        names = {e.place: e.path for e in entries}
        return [
            Block(pen, tuple(names[i] for i, _ in pairs), _join(pairs, arrays, names))
            for pen, pairs in self._owners(entries)
        ]

    def prox(self, z: PyTree, step: Any = 1.0) -> PyTree:
        return self.prox_given_norms(z, step, None)

    def prox_given_norms(self, z: PyTree, step: Any, norms: Any) -> PyTree:
        leaves, tree = jax.tree.flatten(z)
        entries = _entries(z)
        names = {e.place: e.path for e in entries}
        steps = steps_of(step, tree)
        owners = list(self._owners(entries))
        for (pen, pairs), known in zip(owners, norms or [None] * len(owners), strict=True):
            array, s = _join_both(pairs, leaves, steps, names)
            new = prox_with(pen, array, s, known)
            for index, leaf in _split(new, pairs, leaves):
                leaves[index] = leaf
        return tree.unflatten(leaves)

    def group_norms(self, z: PyTree, step: Any, remat_of: RematOf) -> Any:
        leaves, tree = jax.tree.flatten(z)
        entries = _entries(z)
        names = {e.place: e.path for e in entries}
        steps = steps_of(step, tree)

        def joined(pairs: list) -> Rematerialisation | None:
            found = {i: remat_of(i) for i, _ in pairs}
            remats = {i: remat for i, remat in found.items() if remat is not None}
            if len(remats) < len(found):
                return None

            def compute(inputs: dict, after: Any) -> tuple[Array, Any]:
                both = {i: remat.compute(inputs[i], after) for i, remat in remats.items()}
                arrays, steps = ({i: pair[k] for i, pair in both.items()} for k in (0, 1))
                return _join_both(pairs, arrays, steps, names)

            estimate = _join(pairs, {i: remat.estimate for i, remat in remats.items()}, names)
            inputs = {i: remat.inputs for i, remat in remats.items()}
            return Rematerialisation(inputs, compute, estimate)

        return [
            norms_for(
                pen, *_join_both(pairs, leaves, steps, names), lambda _, pairs=pairs: joined(pairs)
            )
            for pen, pairs in self._owners(entries)
        ]

    def _owners(self, entries: list[_Entry]) -> Iterator[tuple[Penalty, list]]:
        taken: set[int] = set()
        for selection in self.selections:
            for block in selection.matched(entries):
                pairs = [(index, axis) for index, axis in block if index not in taken]
                taken |= {index for index, _ in pairs}
                if pairs and selection.penalty is not None:
                    yield selection.penalty, pairs


def on(selector: Any, penalty: Any, *, axis: int | None = None) -> Selection:
    """A penalty for the leaves of a tree that a selector matches; each leaf by itself, unless joined.

    Paths are joined by "/"; Flax NNX's `.value` at the end is not part of them.

    **Arguments:**

    - `selector`: one of, or a list of: a path pattern, where `*` matches within a name and `**` any number of
      names (`"**/BatchNorm_*/scale"`); an exact path, as from `batch_norm_scales`; a function of (path, leaf);
      a type of module, for trees of modules. A mapping {selector: axis} joins leaves: their entries at index c
      of their axes are one group c of `ChannelL1(lam)` or `GroupL1(lam, groups)`, such as a channel's γ, β and
      the weights that read it.
    - `penalty`: a `Penalty`; None leaves the leaves unpenalised, for use with `penalties`.
    - `axis`: the axis of a leaf on which the penalty's features are, such as −1 for `GroupL1(lam, heads)` on a
      kernel's outputs.

    **Raises:** ValueError where the selector matches nothing or joined axes differ in length; TypeError for
    another selector.

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> params = {"BatchNorm_0": {"scale": jnp.array([2.0, 0.5])}, "Dense_0": {"kernel": jnp.ones(1)}}
    >>> pen = l1jax.on("**/BatchNorm_*/scale", l1jax.L1(1.0))
    >>> print(pen.prox(params)["BatchNorm_0"]["scale"], float(pen.value(params)))
    [1. 0.] 2.5

    ```
    """
    pen = check_penalty(penalty)
    if isinstance(pen, Selection | Selections):
        raise TypeError("penalty must be a plain penalty, got one for a part of a tree already.")
    if isinstance(selector, Mapping):
        if axis is not None:
            raise ValueError(
                "axis is given twice: a mapping says the axis of each selector itself."
            )
        parts, joined = tuple(selector.items()), True
    else:
        each = selector if isinstance(selector, list | tuple) else [selector]
        parts, joined = tuple((one, axis) for one in each), False
    for one, _ in parts:
        if not (isinstance(one, str) or callable(one)):
            raise TypeError(
                "selector must be a path pattern, a function of (path, leaf), a module type, a list of them, "
                f"or a mapping from them to an axis, got {one!r}."
            )
    if isinstance(pen, ChannelL1) and pen.axis != 0 and (joined or axis is not None):
        raise ValueError(
            "the axis of the channels is given twice: ChannelL1(lam) sees the axis that on names first."
        )
    if not parts:
        raise ValueError("selector is empty: it names no leaf to penalise.")
    if isinstance(pen, ChannelL1) and axis is not None:
        # It takes its channels where they are; other penalties see them moved to the front.
        pen, parts = ChannelL1(pen.lam, axis), tuple((one, None) for one, _ in parts)
    return Selection(pen, parts, joined)


def penalties(*selections: Any) -> Selections:
    """Several penalties for parts of one tree; a leaf belongs to the first that matches it.

    Each is what `l1jax.on` returns, or several that were put together before.

    **Raises:** TypeError for a penalty without a selector.

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> pen = l1jax.penalties(
    ...     l1jax.on("head/*", None), l1jax.on("**/w", l1jax.L1(1.0)), l1jax.on("**/b", l1jax.Ridge(1.0))
    ... )
    >>> params = {"head": {"w": jnp.ones(1)}, "body": {"w": jnp.ones(1), "b": jnp.ones(1)}}
    >>> out = pen.prox(params)
    >>> print(out["head"]["w"], out["body"]["w"], out["body"]["b"])
    [1.] [0.] [0.5]

    ```
    """
    found: list[Selection] = []
    for selection in selections:
        if not isinstance(selection, Selection | Selections):
            raise TypeError(
                f"penalties takes what l1jax.on returns, got {type(selection).__name__}: write "
                'l1jax.on("**", pen) for a penalty on all leaves.'
            )
        found += selection.selections if isinstance(selection, Selections) else [selection]
    if not found:
        raise ValueError("penalties needs at least one l1jax.on(selector, penalty).")
    return Selections(tuple(found))


def paths(model: PyTree, selector: Any = "**") -> list[str]:
    """The paths of the leaves of a model that a selector of `on` matches.

    To see what a pattern means; and to choose by type of module where the optimiser is given a state
    without modules, as with Flax NNX: `l1jax.on(l1jax.paths(model, nnx.Linear), pen)`.
    **Raises:** ValueError where nothing matches.

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> l1jax.paths({"body": {"w": jnp.ones(1), "b": jnp.ones(1)}, "head": jnp.ones(1)}, "body/*")
    ['body/b', 'body/w']

    ```
    """
    entries = _entries(model)
    places = {place for block in on(selector, None).matched(entries) for place, _ in block}
    return [e.path for e in entries if e.place in places]


class _Entry(NamedTuple):
    place: int  # among all leaves of the tree
    path: str
    full: str  # with the .value of Flax NNX
    leaf: Any
    types: tuple[type, ...]  # of the modules around it


def _entries(tree: PyTree) -> list[_Entry]:
    """The floating-point leaves of a tree with their paths and the modules around them."""
    out = []
    for index, (path, leaf) in enumerate(jax.tree_util.tree_leaves_with_path(tree)):
        if not eqx.is_inexact_array(leaf):
            continue
        full, types = "/".join(_name(key) for key in path), _types_along(tree, path)
        in_variable = len(path) > 0 and _is_variable(path[-1], types[len(path) - 1 :])
        short = full.removesuffix("/value") if in_variable else full
        out.append(_Entry(index, short, full, leaf, types))
    return out


def _is_variable(key: Any, owner: tuple[type, ...]) -> bool:
    """Whether a key is the `.value` of a variable of Flax NNX, not a name that somebody gave."""
    of_flax = not owner or owner[0].__module__.split(".")[0] == "flax"
    return getattr(key, "name", None) == "value" and of_flax


def _name(key: Any) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def _types_along(tree: PyTree, path: Any) -> tuple[type, ...]:
    """The types of the nodes from the root to a leaf."""
    node, types = tree, [type(tree)]
    for key in path[:-1]:
        try:
            if hasattr(key, "name"):
                node = getattr(node, key.name)
            else:
                node = node[key.key if hasattr(key, "key") else key.idx]
        except (AttributeError, KeyError, IndexError, TypeError):
            break  # a node that is not entered by its keys: no type is known below it
        types.append(type(node))
    return tuple(types)


def _matches(selector: Any, entry: _Entry) -> bool:
    if isinstance(selector, str):
        pattern = _pattern(selector)
        plain = selector in (entry.path, entry.full)  # an exact path may contain brackets
        return plain or bool(pattern.fullmatch(entry.path) or pattern.fullmatch(entry.full))
    if isinstance(selector, type):
        return any(issubclass(kind, selector) for kind in entry.types)
    return bool(selector(entry.path, entry.leaf))


@functools.lru_cache
def _pattern(glob: str) -> re.Pattern:
    """A pattern in which * and ? stay within a name and ** runs over any number of names."""
    tokens = {"**/": "(?:[^/]+/)*", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"((?:(?<=/)|^)\*\*/|\*\*$|\*|\?|\[!?[^\]]+\])", glob)
    return re.compile("".join(tokens.get(part) or _characters(part) for part in parts))


def _characters(part: str) -> str:
    if re.fullmatch(r"\[!?[^\]]+\]", part):
        return part.replace("[!", "[^", 1)
    return re.escape(part)


def _nothing(selector: Any, entries: list[_Entry]) -> str:
    shown = ", ".join(repr(e.path) for e in entries[:_SHOWN])
    more = f" and {len(entries) - _SHOWN} more" if len(entries) > _SHOWN else ""
    name = repr(selector) if isinstance(selector, str) else getattr(selector, "__name__", selector)
    hint = "Paths begin at the tree that is given to the optimiser."
    if isinstance(selector, type) and not any(
        issubclass(t, selector) for e in entries for t in e.types
    ):
        hint = (
            "It has no module of this type: a dict or state of parameters has no modules, so choose from the "
            "model, as in l1jax.on(l1jax.paths(model, type), pen)."
        )
    if [e.path for e in entries] == [""]:
        return f"l1jax.on chooses leaves of a tree, and this is one array, not {name}: pass the penalty itself."
    there = f"there are {shown or 'none'}{more}."
    return f"selector {name} matches no floating-point leaf of the tree; {there} {hint}"


def _join(pairs: list, arrays: Any, names: Any) -> Array:
    """The array that a penalty sees: a leaf with its axis first, or several side by side."""
    if len(pairs) == 1 and pairs[0][1] is None:
        return arrays[pairs[0][0]]
    moved = [_front(arrays[i], axis, names[i]) for i, axis in pairs]
    if len(pairs) == 1:
        return moved[0]
    lengths = {names[i]: m.shape[0] for (i, _), m in zip(pairs, moved, strict=True)}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"joined leaves must have one length along their axes, got {lengths}.")
    return jnp.concatenate([flat(m) for m in moved], axis=1)


def _join_both(pairs: list, arrays: Any, steps: Any, names: Any) -> tuple[Array, Any]:
    """The array that a penalty sees, and its step: one number, or joined like it."""
    step = steps[pairs[0][0]]
    if jnp.ndim(step):
        like = {i: jnp.broadcast_to(steps[i], arrays[i].shape) for i, _ in pairs}
        step = _join(pairs, like, names)
    return _join(pairs, arrays, names), step


def _front(x: Array, axis: int | None, name: str) -> Array:
    axis = axis or 0
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f"axis is {axis}, but {name!r} has shape {x.shape}.")
    return jnp.moveaxis(x, axis, 0)


def _split(array: Array, pairs: list, leaves: list) -> Iterator[tuple[int, Array]]:
    """The inverse of `_join`."""
    if len(pairs) == 1 and pairs[0][1] is None:
        yield pairs[0][0], array
        return
    start = 0
    for i, axis in pairs:
        leaf = leaves[i]
        shape = jnp.moveaxis(leaf, axis or 0, 0).shape
        width = leaf.size // shape[0] if shape[0] else 0
        part = array if len(pairs) == 1 else array[:, start : start + width]
        start += width
        yield i, jnp.moveaxis(part.reshape(shape), 0, axis or 0).astype(leaf.dtype)
