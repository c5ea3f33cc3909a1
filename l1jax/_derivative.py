"""Solves have no derivative yet, and say so."""

from __future__ import annotations

import equinox as eqx
import jax
from jaxtyping import PyTree


def without_derivative(tree: PyTree) -> PyTree:
    """The same tree; differentiating through it raises NotImplementedError."""
    return jax.tree.map(lambda leaf: _constant(leaf) if eqx.is_inexact_array(leaf) else leaf, tree)


@jax.custom_jvp
def _constant(x):
    return x


@_constant.defjvp
def _no_derivative(primals, tangents):
    # Unrolled, a warm start that needs no steps would have derivative 0: wrong, and silently so.
    del primals, tangents
    raise NotImplementedError(
        "minimize, fit and path have no derivative yet: use jax.lax.stop_gradient on what goes in."
    )
