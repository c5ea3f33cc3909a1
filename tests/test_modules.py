"""Modules: what equinox promises of them, at the cost of Python's own objects."""

import copy
import dataclasses
import inspect
import pickle

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import l1jax
from l1jax._modules import Record, with_fields


class _Pair(Record):
    first: object
    second: object = eqx.field(static=True, default=2)


def test_a_bound_method_is_a_pytree_of_the_arrays_of_its_object():
    pen = l1jax.L1(jnp.asarray(0.5))
    found = jax.jit(lambda value, x: value(x))(pen.value, jnp.array([1.0, -2.0]))
    assert float(found) == 1.5
    slope = jax.grad(lambda method: method(jnp.ones(3)))(pen.value)
    assert float(slope.__self__.lam) == 3.0


def test_a_bound_method_looks_like_one():
    loss = l1jax.Logistic()
    method = loss.inverse_link
    assert method == loss.inverse_link
    assert method != loss.value
    assert hash(method) == hash(l1jax.Logistic().inverse_link)
    assert method.__name__ == "inverse_link"
    assert method.__doc__ == l1jax.Logistic.inverse_link.__doc__
    assert list(inspect.signature(method).parameters) == ["eta"]


def test_jit_takes_a_method_of_an_object_with_arrays_and_compiles_it_once():
    traces = []

    class Counted(l1jax.L1):
        def prox(self, z, step=1.0):
            traces.append(z)
            return super().prox(z, step)

    pen, z = Counted(0.5, weights=[1.0, 2.0]), jnp.array([3.0, -1.5])
    compiled = jax.jit(pen.prox)
    for _ in range(2):
        np.testing.assert_allclose(compiled(z), [2.5, -0.5])
    assert len(traces) == 1
    other = Counted(1.0, weights=[1.0, 2.0])  # another object, with other numbers
    np.testing.assert_allclose(jax.jit(other.prox)(z), [2.0, 0.0])
    assert pen.prox == pen.prox and pen.prox != other.prox


def test_methods_of_a_users_penalty_see_its_fields():
    class Scaled(l1jax.L1):
        def value(self, x):
            return 2 * super().value(x)

    assert float(Scaled(0.5).value(jnp.ones(2))) == 2.0


def test_a_record_is_frozen_and_a_pytree():
    pair = _Pair(jnp.ones(2))
    with pytest.raises(dataclasses.FrozenInstanceError):
        pair.first = 0
    with pytest.raises(TypeError, match="first"):
        _Pair()
    assert len(jax.tree.leaves(pair)) == 1
    assert jax.tree.map(lambda x: x + 1, pair).second == 2
    assert dataclasses.replace(pair, second=3).second == with_fields(pair, second=3).second == 3
    for copied in (copy.deepcopy(pair), pickle.loads(pickle.dumps(pair))):
        assert (copied.first == 1).all()
    assert isinstance(pair, eqx.Module)


@pytest.mark.parametrize("n_lams", [5, 30])
def test_a_call_makes_few_modules_however_many_strengths(monkeypatch, n_lams):
    X = np.random.default_rng(0).normal(size=(40, 150))
    y, pen, made = X[:, 0] - X[:, 1], l1jax.L1(), []
    l1jax.path(X, y, pen, n_lams=n_lams)
    meta, before = type(eqx.Module), type(eqx.Module).__call__

    def call(cls, *args, **kwargs):
        made.append(cls.__name__)
        return before(cls, *args, **kwargs)

    monkeypatch.setattr(meta, "__call__", call)
    l1jax.path(X, y, pen, n_lams=n_lams)
    assert 0 < len(made) <= 4, made  # matrices: as read, scaled, padded
