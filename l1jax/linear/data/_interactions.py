"""Products of pairs of features, and groups under which one is in only with both of its features."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ..._arrays import namespace
from ._frames import is_frame, is_polars


class Interactions(NamedTuple):
    """A design with interactions: `X` (n, p + m), `groups` for `l1jax.OverlappingGroupL1`, `pairs` (m, 2).

    **Example:**

    ```python
    >>> import numpy as np, l1jax
    >>> design = l1jax.interactions(np.array([[1.0, 2.0, 3.0]]), [(0, 2)])
    >>> print(design.X, design.pairs)
    [[1. 2. 3. 3.]] ((0, 2),)

    ```
    """

    X: Any
    groups: tuple[tuple[int, ...], ...]
    pairs: tuple[tuple[int, int], ...]


def interactions(X: Any, pairs: Any = None) -> Interactions:
    """Returns X with products of pairs of its columns, and groups for strong heredity of these interactions.

    The columns are x₁, ..., x_p, then xᵢxⱼ for each pair; the groups {i} of every main effect and {i, j, ij} of
    every pair. Under `OverlappingGroupL1` what is in is a union of groups: an interaction is in only with both
    of its main effects, while a main effect may be in alone.

    Centre the columns first, and say `standardize=True` in the fit: far from zero xᵢxⱼ is nearly a main effect.

    **Arguments:**

    - `X`: an array (n, p), or a table of pandas or polars, which keeps its names, and calls products `a:b`.
    - `pairs`: places of columns, (m, 2); all pairs of two columns unless given. (i, i) is the square of a
      column.

    **Returns:** `X` (n, p + m), `groups` and `pairs`; for new data: `interactions(X_new, pairs).X`.

    **Raises:** ValueError for an X of other than two axes, a place that is not there, and a pair given twice.
    Source: Lim and Hastie (2015), whose groups these are.

    **Example:**

    ```python
    >>> import numpy as np, l1jax
    >>> X = np.random.default_rng(0).normal(size=(100, 4))
    >>> y = X[:, 0] + 2 * X[:, 0] * X[:, 1]
    >>> design = l1jax.interactions(X)
    >>> fit = l1jax.fit(design.X, y, l1jax.OverlappingGroupL1(0.3, design.groups))
    >>> print(fit.support.nonzero()[0], design.pairs[0])  # x₁ is in with x₀x₁
    [0 1 4] (0, 1)

    ```
    """
    names = list(X.columns) if is_frame(X) else None
    array = X if names is not None or hasattr(X, "ndim") else np.asarray(X)
    if len(array.shape) != 2:
        raise ValueError(f"X must be a matrix of shape (n, p), got shape {array.shape}.")
    p = array.shape[1]
    chosen = _as_pairs(itertools.combinations(range(p), 2) if pairs is None else pairs, p)
    groups = tuple((i,) for i in range(p))
    groups += tuple(tuple(sorted({i, j, p + k})) for k, (i, j) in enumerate(chosen))
    if names is None:
        first, second = (np.array([pair[side] for pair in chosen], int) for side in (0, 1))
        xp: Any = jnp if namespace(array) is jnp else np
        products = array[:, first] * array[:, second]
        return Interactions(xp.concatenate([array, products], axis=1), groups, chosen)
    columns = {f"{names[i]}:{names[j]}": X[names[i]] * X[names[j]] for i, j in chosen}
    if is_polars(X):
        columns = {name: column.alias(name) for name, column in columns.items()}
        return Interactions(X.with_columns(list(columns.values())), groups, chosen)
    return Interactions(X.assign(**columns), groups, chosen)


def _as_pairs(pairs: Any, p: int) -> tuple[tuple[int, int], ...]:
    """The pairs with the smaller place first, checked."""
    found = []
    for pair in pairs:
        places = [int(place) for place in pair]
        if len(places) != 2 or min(places) < 0 or max(places) >= p:
            raise ValueError(f"pairs must be two places from 0 to {p - 1} each, got {list(pair)}.")
        found.append((min(places), max(places)))
    if len(set(found)) < len(found):
        twice = next(pair for pair in found if found.count(pair) > 1)
        raise ValueError(f"pairs must be given once each, got {twice} twice.")
    return tuple(found)
