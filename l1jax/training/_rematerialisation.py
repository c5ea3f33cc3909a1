"""Rematerialisation: how the arrays of a training step are computed again rather than kept in memory.

The move of an optimiser is a function of the gradients, the parameters and its new state, all of which are in
memory at the end of a step. To sum over the entries of a group before any of them is shrunk, computing the
moves twice is faster than writing them to new memory and reading them back.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun
from jaxtyping import Array, PyTree

from .._group_shrinkage import Rematerialisation
from ..penalties._base import Penalty

RematOf = Callable[[int], Rematerialisation | None]

# The primitives of JAX that work on each entry by itself.
_NAMES = """
abs add add_any and broadcast_in_dim cbrt clamp convert_element_type copy div eq exp expm1 ge gt integer_pow
is_finite le log log1p logistic lt max min mul ne neg not or pow reshape rsqrt select_n sign sqrt square
squeeze stop_gradient sub tanh
"""
_ENTRYWISE = frozenset(_NAMES.split())


class GroupNormPenalty(Penalty):
    """A penalty whose prox takes norms of groups, which may come from rematerialised arrays.

    Compiled steps call `group_norms` and then `prox_given_norms`, in place of `prox`.
    """

    @abc.abstractmethod
    def group_norms(self, z: PyTree, step: Any, remat_of: RematOf) -> Any:
        """Returns what `prox_given_norms` takes as `norms`, computed without z in memory; None: nothing.

        `remat_of(k)` is the rematerialisation of the k-th array of z and its step; None if there is none.
        """

    @abc.abstractmethod
    def prox_given_norms(self, z: PyTree, step: Any, norms: Any) -> PyTree:
        """`prox`, where `norms` is what `group_norms` returned for the same z and step."""


def norms_for(pen: Penalty, z: PyTree, step: Any, remat_of: RematOf) -> Any:
    """Returns the group norms of a penalty that takes them; None of any other."""
    return pen.group_norms(z, step, remat_of) if isinstance(pen, GroupNormPenalty) else None


def prox_with(pen: Penalty, z: PyTree, step: Any, norms: Any) -> PyTree:
    """Returns the prox, from the norms that `norms_for` returned for the same arguments."""
    if norms is None or not isinstance(pen, GroupNormPenalty):
        return pen.prox(z, step)
    return pen.prox_given_norms(z, step, norms)


class Rematerialiser:
    """Finds the rematerialisation of each pair of arrays, a point and its step, that an optimiser computes.

    `compute(gradients, state, params)` returns (pairs, the new state); `kept` is that state as the optimiser
    returns it. Nothing is traced before the first call of `of`.
    """

    def __init__(self, compute: Callable, arguments: tuple[PyTree, PyTree, PyTree], kept: PyTree):
        self._compute, self._arguments, self._kept = compute, arguments, _arrays(kept)
        self._program: tuple[Any, list, dict] | None = None

    def of(self, index: int, estimate: Array) -> Rematerialisation | None:
        """Returns that of one pair; None unless it is entrywise work on arrays that stay in memory.

        Arrays of the old state are overwritten. Sums, matrix products, branches, callbacks and collectives
        are not repeated. `estimate` is an array close to the point.
        """
        self._program = self._program or self._trace()
        jaxpr, pairs, known = self._program
        inputs, equations = _backwards(pairs[index], jaxpr.eqns, known)
        if equations is None:
            return None
        part = jaxpr.replace(constvars=(), invars=inputs, outvars=pairs[index], eqns=equations)
        compute = jaxpr_as_fun(ClosedJaxpr(part, ()))
        return Rematerialisation(
            tuple(known[v] for v in inputs),
            lambda values, after: tuple(compute(*_anew(values, after))),
            estimate,
        )

    def _trace(self) -> tuple[Any, list, dict]:
        """The program of a step, its pairs of variables, and the values of variables that stay in memory."""
        arrays, others = eqx.partition(self._arguments, _is_array)
        leaves, tree = jax.tree.flatten(arrays)

        def flat(*leaves: Any) -> tuple[list, list]:
            pairs, state = self._compute(*eqx.combine(tree.unflatten(leaves), others))
            return _arrays(state), [x for pair in pairs for x in pair]

        closed = jax.make_jaxpr(flat)(*leaves)
        jaxpr, kept = closed.jaxpr, self._kept
        gradients, state, _ = (len(_arrays(tree)) for tree in self._arguments)
        known = dict(zip(jaxpr.constvars, closed.consts, strict=True))
        for k, (variable, value) in enumerate(zip(jaxpr.invars, leaves, strict=True)):
            if not gradients <= k < gradients + state or np.ndim(value) == 0:
                known[variable] = value
        for variable, value in zip(jaxpr.outvars, kept, strict=False):
            if not isinstance(variable, Literal):
                known[variable] = value
        flat_pairs = jaxpr.outvars[len(kept) :]
        return jaxpr, list(zip(flat_pairs[::2], flat_pairs[1::2], strict=True)), known


def _backwards(outputs: tuple, equations: list, known: dict) -> tuple[list, list | None]:
    """The known variables that outputs follow from, and by which equations; None if not from these alone."""
    wanted, inputs, steps = set(), {}, []

    def want(variables: Any) -> None:
        for v in variables:
            if not isinstance(v, Literal):
                inputs.update({v: None}) if v in known else wanted.add(v)

    want(outputs)
    for equation in reversed(equations):
        if not wanted.isdisjoint(equation.outvars):
            if not _is_entrywise(equation):
                return [], None
            wanted.difference_update(equation.outvars)
            steps.append(equation)
            want(equation.invars)
    return list(inputs), None if wanted else steps[::-1]


def _is_entrywise(equation: Any) -> bool:
    """Whether it works on each entry by itself; jnp.where and its like are calls of such equations."""
    inner = equation.params.get("jaxpr")
    if equation.primitive.name in ("jit", "pjit") and inner is not None:
        return all(map(_is_entrywise, inner.jaxpr.eqns))
    return equation.primitive.name in _ENTRYWISE and not equation.effects


def _arrays(tree: PyTree) -> list:
    return [leaf for leaf in jax.tree.leaves(tree) if _is_array(leaf)]


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | np.generic)


def _anew(values: tuple, after: Any) -> tuple:
    """The same values, of which the compiler does not know that it has computed with them before."""
    return jax.lax.optimization_barrier((values, after))[0]
