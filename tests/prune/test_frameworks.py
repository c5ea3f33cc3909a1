"""Modules of Equinox, Flax NNX, Flax Linen and Haiku, with channels whose scale is zero."""

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from l1jax import prune


def images(axis):
    x = np.random.default_rng(0).normal(size=(4, 6, 6, 1))
    return jnp.asarray(np.moveaxis(x, -1, axis))


def filled(tree, scale):
    """The same tree with random numbers; every other one of `scale` is zero, variances are positive."""
    rng = np.random.default_rng(1)

    def fill(path, leaf):
        if not eqx.is_inexact_array(leaf):
            return leaf
        value = rng.normal(size=leaf.shape)
        name = jax.tree_util.keystr(path)
        if scale(name, leaf):
            value[..., ::2] = 0
        if "var" in name or "[1]" in name:
            value = value**2 + 0.5
        return jnp.asarray(value)

    return jax.tree_util.tree_map_with_path(fill, tree)


def same(small, apply, *arguments):
    """The outputs on the arguments, of the cut parameters and of the full ones."""
    count = len(arguments) - 1
    given = (small.params, small.state)[:count]
    ours, theirs = small.apply(*given, arguments[-1]), apply(*arguments)
    first = [jax.tree.leaves(out)[0] for out in (ours, theirs)]
    np.testing.assert_allclose(*first, rtol=1e-11)


class Linen(nn.Module):
    widths: tuple = (6, 4)

    @nn.compact
    def __call__(self, x):
        for width in self.widths:
            x = nn.Conv(width, (3, 3), padding="VALID")(x)
            x = nn.relu(nn.BatchNorm(use_running_average=True)(x))
        return nn.Dense(3)(x.reshape(len(x), -1))


def test_linen_gives_trees_for_a_module_of_smaller_widths():
    model, x = Linen(), images(-1)
    variables = filled(model.init(jax.random.key(0), x), lambda name, _: "scale" in name)

    def apply(params, state, x):
        return model.apply({"params": params, "batch_stats": state}, x)

    params, state = variables["params"], variables["batch_stats"]
    small = prune.compact(apply, params, x, state=state)
    same(small, apply, params, state, x)
    widths = {layer.name: layer.after for layer in small.report.layers}
    thinner = Linen((widths["Conv_0/kernel"], widths["Conv_1/kernel"]))
    again = thinner.apply({"params": small.params, "batch_stats": small.state}, x)
    np.testing.assert_allclose(again, model.apply(variables, x), rtol=1e-11)
    assert thinner.widths == (3, 2)


class Module(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.conv = nnx.Conv(1, 6, (3, 3), padding="VALID", rngs=rngs)
        self.norm = nnx.BatchNorm(6, use_running_average=True, rngs=rngs)
        self.last = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x):
        return self.last(nnx.relu(self.norm(self.conv(x))).mean((1, 2)))


def test_nnx_modules_are_merged_again():
    graph, params, state = nnx.split(Module(), nnx.Param, nnx.BatchStat)
    params, state = (filled(one, lambda name, _: "scale" in name) for one in (params, state))
    x = images(-1)
    small = prune.compact(lambda p, s, x: nnx.merge(graph, p, s)(x), params, x, state=state)
    module = nnx.merge(graph, small.params, small.state)
    assert module.conv.kernel.shape == (3, 3, 1, 3)
    full = nnx.merge(graph, params, state)(x)
    np.testing.assert_allclose(module(x), full, rtol=1e-11)
    whole = prune.compact(lambda model, x: model(x), nnx.merge(graph, params, state), x)
    np.testing.assert_allclose(whole.params(x), full, rtol=1e-11)


class Equinox(eqx.Module):
    conv: eqx.nn.Conv2d
    norm: eqx.nn.BatchNorm
    last: eqx.nn.Linear

    def __init__(self):
        keys = jax.random.split(jax.random.key(0))
        self.conv = eqx.nn.Conv2d(1, 6, 3, key=keys[0])
        self.norm = eqx.nn.BatchNorm(6, "batch", mode="batch")
        self.last = eqx.nn.Linear(6, 3, key=keys[1])

    def __call__(self, x, state):
        x, state = self.norm(self.conv(x), state)
        return self.last(jax.nn.relu(x).mean((1, 2))), state


def test_equinox_modules_keep_their_class():
    model, state = eqx.nn.make_with_state(Equinox)()
    model = filled(eqx.nn.inference_mode(model), lambda name, _: name == ".norm.weight")
    state = jax.tree.map(lambda x: jnp.abs(x) + 0.5 if eqx.is_inexact_array(x) else x, state)

    def apply(model, state, x):
        return jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(x, state)

    x = images(1)
    small = prune.compact(apply, model, x, state=state)
    same(small, apply, model, state, x)
    assert isinstance(small.params, Equinox) and small.params.conv.weight.shape == (3, 1, 3, 3)
    again = apply(small.params, small.state, x)[0]  # its layers do not check their widths
    np.testing.assert_allclose(again, apply(model, state, x)[0], rtol=1e-11)


def test_haiku_state_that_only_training_reads_is_cut_too():
    def network(x, training=False):
        x = hk.Conv2D(6, 3, padding="VALID")(x)
        x = jax.nn.relu(hk.BatchNorm(True, True, 0.9)(x, is_training=training))
        return hk.Linear(3)(x.mean((1, 2)))

    x = images(-1)
    model = hk.without_apply_rng(hk.transform_with_state(network))
    params, state = model.init(jax.random.key(0), x, True)
    params = filled(params, lambda name, _: "scale" in name)
    small = prune.compact(model.apply, params, x, state=state)
    same(small, model.apply, params, state, x)
    shapes = {jnp.shape(leaf) for leaf in jax.tree.leaves(small.state)}
    assert shapes == {(1, 1, 1, 3), ()}  # averages, and the hidden values behind them


@pytest.mark.fast
def test_paths_are_those_of_the_selections_for_training():
    import l1jax

    _, params, _ = nnx.split(Module(), nnx.Param, nnx.BatchStat)
    plan = prune.compact(lambda p, x: x @ p["last"]["kernel"][...], params, jnp.ones((2, 6))).plan
    assert {cut.path for cut in plan.cuts} == set(l1jax.paths(params))
