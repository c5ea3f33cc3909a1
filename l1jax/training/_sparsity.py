"""What is zero: a table and scalars, an average that keeps zeros, and a warm-up of the strength."""

from __future__ import annotations

import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int, PyTree

from .._tables import Shown, Table
from .._tracing import is_traced
from ..penalties._base import Penalty
from ._channels import ChannelL1
from ._checks import check_penalty
from ._proximal import is_none
from ._selection import Block, Selection, Selections, _entries


class Sparsity(Shown, eqx.Module):
    """How many entries and groups are exactly zero, by path; printed, a table.

    `zeros` and `zero_groups`, one number per path; `sizes` and `groups`, of how many (0 groups: no groups).
    """

    paths: tuple[str, ...] = eqx.field(static=True)
    sizes: tuple[int, ...] = eqx.field(static=True)
    groups: tuple[int, ...] = eqx.field(static=True)
    zeros: Int[Array, " paths"]
    zero_groups: Int[Array, " paths"]

    @property
    def emptied(self) -> tuple[str, ...]:
        """The paths of which every entry is zero: a layer of no weights or scales passes on a constant.

        Of a batch those that are so in every lane.
        """
        zeros, sizes = np.asarray(self.zeros), np.asarray(self.sizes)
        gone = ((zeros == sizes) & (sizes > 0)).reshape(-1, len(self.paths)).all(axis=0)
        return tuple(path for path, is_gone in zip(self.paths, gone, strict=True) if is_gone)

    def scalars(self, prefix: str = "sparsity") -> dict[str, Array]:
        """Fractions of zeros (and of zero groups) for a logger, in all and by path, and emptied paths."""
        zeros, gone = jnp.asarray(self.zeros), jnp.asarray(self.zero_groups)
        out = {f"{prefix}/zeros": jnp.sum(zeros, axis=-1) / max(sum(self.sizes), 1)}
        is_empty = (zeros == jnp.asarray(self.sizes)) & (jnp.asarray(self.sizes) > 0)
        out[f"{prefix}/emptied"] = jnp.sum(is_empty, axis=-1)
        if any(self.groups):
            out[f"{prefix}/zero_groups"] = jnp.sum(gone, axis=-1) / sum(self.groups)
        for k, path in enumerate(self.paths):
            out[f"{prefix}/{path}/zeros"] = zeros[..., k] / max(self.sizes[k], 1)
            if self.groups[k]:
                out[f"{prefix}/{path}/zero_groups"] = gone[..., k] / self.groups[k]
        return out

    def _table(self) -> Table:
        if is_traced((self.zeros, self.zero_groups)):
            return Table(f"Sparsity(of {', '.join(self.paths)})")
        if self.zeros.ndim > 1:
            return Table(f"Sparsity(batch of {self.zeros.shape[:-1]}, of {', '.join(self.paths)})")
        counts = zip(self.paths, self.zeros, self.sizes, self.zero_groups, self.groups, strict=True)
        total = (
            "total",
            self.zeros.sum(),
            sum(self.sizes),
            self.zero_groups.sum(),
            sum(self.groups),
        )
        rows = tuple(
            (
                f"{path} (emptied)" if path in self.emptied else path,
                f"{int(zeros)}/{size}",
                f"{int(zeros) / max(size, 1):.0%}",
                f"{int(gone)}/{groups}" if groups else "–",
            )
            for path, zeros, size, gone, groups in (*counts, total)
        )
        return Table("", ("path", "zeros", "", "zero groups"), rows, left=(0,))


def sparsity(params: PyTree, penalty: Any = None) -> Sparsity:
    """Counts exact zeros of the penalised parameters, and zero groups where the penalty has groups.

    `penalty` None: of all floating-point leaves, so pass parameters without running statistics. Works
    under `jit` and `vmap`. A path with "+" is of joined leaves. Warns, in an eager call with a penalty, of a
    path that it has emptied: where all scales of a batch normalisation are zero, nothing of its input is left.

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> params = {"a": jnp.array([0.0, 1.0]), "b": jnp.array([[0.0, 0.0], [0.0, 1.0]])}
    >>> print(l1jax.sparsity(params, l1jax.on("b", l1jax.ChannelL1(0.1))))
    path               zeros    zero groups
    b               3/4  75%            1/2
    total           3/4  75%            1/2

    ```
    """
    blocks = _blocks(params, check_penalty(penalty))
    groups = [_zero_groups(block) for block in blocks]
    found = Sparsity(
        tuple("+".join(block.paths) or "params" for block in blocks),
        tuple(block.array.size for block in blocks),
        tuple(of for of, _ in groups),
        jnp.array([jnp.sum(block.array == 0) for block in blocks], int),
        jnp.array([gone for _, gone in groups], int),
    )
    if penalty is not None and not is_traced(found):
        _warn_of_emptied(found)
    return found


def _warn_of_emptied(found: Sparsity) -> None:
    if found.emptied:
        warnings.warn(
            f"every penalised entry of {', '.join(found.emptied)} is exactly zero: a layer whose weights or "
            "scales are all zero passes on a constant. If that is not intended, train with a lower strength "
            "there.",
            stacklevel=3,
        )


def masked_average(average: PyTree, params: PyTree) -> PyTree:
    """The average of parameters, zero where they are zero now: no average of a training run ever is.

    For the averages of `optax.ema`, `optax.incremental_update` or SWA, before they are evaluated.

    **Raises:** ValueError for trees or shapes that differ.

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> print(l1jax.masked_average(jnp.array([0.3, 0.2]), jnp.array([0.5, 0.0])))
    [0.3 0. ]

    ```
    """

    _check_alike(average, params)

    def leaf(a: Any, p: Any) -> Any:
        is_array = hasattr(a, "dtype") and jnp.issubdtype(a.dtype, jnp.number)
        return jnp.where(p == 0, jnp.zeros((), a.dtype), a) if is_array else a

    return jax.tree.map(leaf, average, params, is_leaf=is_none)


def _check_alike(average: PyTree, params: PyTree) -> None:
    """Raises where the average is not one of these parameters."""
    needs = "masked_average(average, params) needs an average of these params"
    trees = [jax.tree_util.tree_flatten_with_path(tree, is_none) for tree in (average, params)]
    shapes = [
        {jax.tree_util.keystr(path): getattr(leaf, "shape", ()) for path, leaf in leaves}
        for leaves, _ in trees
    ]
    for name in dict.fromkeys([*shapes[0], *shapes[1]]):
        for who, theirs in zip(("average", "params"), shapes, strict=True):
            if name not in theirs:
                raise ValueError(f"{needs}, but {who} has no leaf {name}.")
        if shapes[0][name] != shapes[1][name]:
            pair = f"{shapes[0][name]} and {shapes[1][name]}"
            raise ValueError(f"{needs}, but the shapes of leaf {name} are {pair}.")
    if trees[0][1] != trees[1][1]:
        raise ValueError(
            f"{needs}, but the trees are of different kinds: {trees[0][1]}, {trees[1][1]}."
        )


def strength_warmup(steps: int, delay: int = 0) -> optax.Schedule:
    """A schedule of the strength: 0 for `delay` steps, then linearly to 1 in `steps`.

    So that the metric of Adam is that of the data before it sets thresholds.

    **Example:**

    ```python
    >>> import l1jax
    >>> schedule = l1jax.strength_warmup(10, delay=5)
    >>> [round(float(schedule(t)), 2) for t in (0, 5, 10, 15, 99)]
    [0.0, 0.0, 0.5, 1.0, 1.0]

    ```
    """
    if steps < 0 or delay < 0:
        raise ValueError(f"steps and delay must be >= 0, got {steps} and {delay}.")
    if steps == 0:
        return lambda count: jnp.where(jnp.asarray(count) >= delay, 1.0, 0.0)
    return optax.linear_schedule(0.0, 1.0, steps, delay)


def _blocks(params: PyTree, penalty: Penalty | None) -> list[Block]:
    if isinstance(penalty, Selection):
        penalty = Selections((penalty,))
    if isinstance(penalty, Selections):
        return penalty.blocks(params)
    return [Block(penalty, (e.path,) if e.path else (), e.leaf) for e in _entries(params)]  # type: ignore


def _zero_groups(block: Block) -> tuple[int, Any]:
    """(how many groups, how many of them are zero) of the penalty's groups."""
    if isinstance(block.penalty, ChannelL1):
        rows = block.penalty._rows(block.array)
        return rows.shape[0], jnp.sum(jnp.all(rows == 0, axis=1))
    groups = getattr(block.penalty, "groups", None)
    if groups is None:
        return 0, 0
    if block.array.shape[:1] != (groups.num_features,):
        raise ValueError(
            f"penalty has groups of {groups.num_features} features, but {'+'.join(block.paths) or 'params'} "
            f"has shape {block.array.shape}: choose leaves with l1jax.on."
        )
    biggest = jnp.max(jnp.abs(block.array.reshape(block.array.shape[0], -1)), axis=1, initial=0)
    return groups.num_groups, jnp.sum(groups.maxima(biggest) == 0)
