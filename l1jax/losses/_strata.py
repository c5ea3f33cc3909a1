"""Targets of several kinds, classes or events: their checks, for all losses that have them."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Strata(NamedTuple):
    """Kinds of rows, of each of which a fit needs some: the classes, or the events."""

    names: tuple[str, ...]
    membership: np.ndarray  # (n, number of kinds), >= 0: how much of a row is of each kind

    @property
    def labels(self) -> np.ndarray:
        """The number of the kind that each row is mostly of, from 1 on; 0 if of none. (n,)"""
        if not self.names:
            return np.zeros(len(self.membership), int)
        return np.where(self.membership.any(axis=1), self.membership.argmax(axis=1) + 1, 0)


def of_classes(y: np.ndarray) -> Strata:
    """One kind per class: of labels (n,) those that occur, of probabilities (n, K) the columns."""
    if y.ndim == 2:
        return Strata(tuple(f"rows of class {k}" for k in range(y.shape[1])), y)
    labels = np.unique(y)
    return Strata(tuple(f"rows of class {label:g}" for label in labels), y[:, None] == labels)


def check_labels(y: np.ndarray, loss: Any, n_classes: int | None) -> None:
    """Raises where labels (n,) are not 0, 1, ..., K - 1.

    K is `n_classes`; where that is None the number of labels that occur, so that no class is empty.
    """
    name, found = type(loss).__name__, np.unique(y)
    if n_classes is None and len(found) < 2:
        raise ValueError(
            f"y holds the label {found[0]:g} alone, which does not say how many classes there are: pass "
            f"l1jax.{name}(n_classes=...)."
        )
    count = len(found) if n_classes is None else n_classes
    bad = np.flatnonzero((y < 0) | (y >= count) | (y != np.floor(y)))
    if not len(bad):
        return
    last = "K-1" if n_classes is None else count - 1
    wanted = "0 and 1" if n_classes == 2 else f"0, 1, ..., {last}"
    given = f", with K = {count} as {count} different labels occur" if n_classes is None else ""
    raise ValueError(
        f"y must hold labels {wanted} for {name}{given}; got {y[bad[0]]} at row {bad[0]}."
        + _advice(found, n_classes, name)
    )


def rows_of_labels(y: Any, loss: Any, n_classes: int | None, or_else: str = "") -> Any:
    """Labels (n,) as rows (n, K), 1 at the class; K is the largest label and one unless it is given.

    Raises: ValueError for traced labels without `n_classes`; `or_else` is other advice for its sentence.
    """
    xp = jnp if isinstance(y, jax.Array) else np
    if n_classes is None:
        try:
            n_classes = int(y.max()) + 1
        except jax.errors.ConcretizationTypeError:
            raise ValueError(
                "y is traced, so its labels do not say how many classes there are: pass "
                f"l1jax.{type(loss).__name__}(n_classes=...){or_else}."
            ) from None
    return (y[:, None] == xp.arange(n_classes)).astype(xp.result_type(y.dtype, xp.float32))


def _advice(found: np.ndarray, n_classes: int | None, loss: str) -> str:
    if n_classes is not None and len(found) > n_classes:
        return (
            f" There are {len(found)} different labels: l1jax.Multinomial() takes several classes."
        )
    if set(found) <= {-1, 1}:
        return " Labels -1 and 1 become 0 and 1 by (y + 1) / 2."
    names = " Other labels become such by numpy.unique(y, return_inverse=True)[1]"
    if n_classes is not None:
        return f"{names}."
    return f"{names}; where a class has no row, pass l1jax.{loss}(n_classes=...)."
