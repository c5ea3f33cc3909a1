"""Each kind of layer loses the units that it can lose, and its outputs and gradients stay the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from l1jax import prune
from tests.prune import networks as nets

FIRST = np.arange(2)  # the units that are made silent, of 4 or 6


def checked(apply, params, x, **options):
    """The compacted network, after a comparison with the full one at another batch size, with gradients."""
    params = nets.as_jax(params)
    small = prune.compact(apply, params, x, **options)
    y = jnp.concatenate([x, x[:1]])

    def both(full, less):
        def loss(function):
            return lambda p, y: (function(p, y) ** 2).sum()

        out = apply(full, y), small.apply(less, y)
        return out, (
            jax.grad(loss(apply), (0, 1))(full, y),
            jax.grad(loss(small.apply), (0, 1))(less, y),
        )

    (full, less), gradients = jax.jit(both)(params, small.params)
    np.testing.assert_allclose(less, full, rtol=1e-11, atol=1e-11)
    ours, theirs = gradients
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(ours))
    cut = small.plan.apply(ours[0])
    for a, b in zip(jax.tree.leaves((cut, ours[1])), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11 * scale)
    return {name: leaf.shape for name, leaf in small.params.items()}


def image(channels=3, n=2):
    return jnp.asarray(np.random.default_rng(5).normal(size=(n, 6, 6, channels)))


def sequence():
    return jnp.asarray(np.random.default_rng(6).normal(size=(2, 5, 4)))


def with_norm(shapes, widths):
    for name, width in widths.items():
        shapes |= {kind + name: width for kind in ("scale", "shift", "mean", "var")}
    return nets.normal(3, **shapes)


def test_residual_network_with_a_projection():
    """A unit inside a block goes; one of the trunk where every branch that writes it is silent."""

    def apply(p, x):
        x = jax.nn.relu(nets.norm(p, nets.convolve(x, p["stem"]), "0"))
        y = jax.nn.relu(nets.norm(p, nets.convolve(x, p["k1"]), "1"))
        x = jax.nn.relu(x + nets.norm(p, nets.convolve(y, p["k2"]), "2"))
        y = nets.norm(p, nets.convolve(x, p["k3"], stride=2), "3")
        x = jax.nn.relu(y + nets.convolve(x, p["shortcut"], stride=2))
        return x.mean((1, 2)) @ p["v"]

    shapes = {"stem": (3, 3, 3, 4), "k1": (3, 3, 4, 6), "k2": (3, 3, 6, 4), "k3": (3, 3, 4, 6)}
    params = with_norm(
        shapes | {"shortcut": (1, 1, 4, 6), "v": (6, 2)}, {"0": 4, "1": 6, "2": 4, "3": 6}
    )
    for name in "012":
        params["scale" + name][FIRST], params["shift" + name][FIRST] = 0, -1
    params["scale3"][FIRST] = 0
    params["shortcut"][..., 0] = 0  # the trunk's second half: unit 0 has no writer, unit 1 has one
    params["shift3"][0] = -1
    shapes = checked(apply, params, image())
    assert shapes["stem"][-1] == 2 and shapes["k1"] == (3, 3, 2, 4) and shapes["k2"] == (3, 3, 4, 2)
    assert shapes["k3"] == (3, 3, 2, 5) and shapes["v"] == (5, 2)


def test_depthwise_and_grouped_convolutions():
    def apply(p, x):
        x = jax.nn.relu(nets.norm(p, nets.convolve(x, p["k"]), "0"))
        x = nets.convolve(x, p["depth"], feature_group_count=6)
        x = jax.nn.relu(nets.norm(p, x, "1"))
        x = nets.convolve(x, p["grouped"], feature_group_count=3)
        return nets.norm(p, x, "2").mean((1, 2)) @ p["v"]

    shapes = {"k": (1, 1, 3, 6), "depth": (3, 3, 1, 6), "grouped": (3, 3, 2, 6), "v": (6, 2)}
    params = with_norm(shapes, {"0": 6, "1": 6, "2": 6})
    for name in "01":  # units 0 and 1 are the first of three groups; unit 3 is half of another
        params["scale" + name][[0, 1, 3]], params["shift" + name][[0, 1, 3]] = 0, -1
    params["scale2"][FIRST] = 0
    shapes = checked(apply, params, image(), add_constants=True)
    assert shapes["k"] == (1, 1, 3, 4) and shapes["depth"] == (3, 3, 1, 4)
    assert shapes["grouped"] == (3, 3, 2, 4) and shapes["v"] == (4, 2)


def test_dense_block_with_concatenation():
    def apply(p, x):
        y = jax.nn.relu(nets.norm(p, nets.convolve(x, p["k1"]), "1"))
        x = jnp.concatenate([x, y], -1)
        y = jax.nn.relu(nets.norm(p, nets.convolve(nets.norm(p, x, "2"), p["k2"]), "3"))
        return jnp.concatenate([x, y], -1).mean((1, 2)) @ p["v"]

    params = with_norm(
        {"k1": (3, 3, 3, 4), "k2": (1, 1, 7, 4), "v": (11, 2)}, {"1": 4, "2": 7, "3": 4}
    )
    params["scale1"][FIRST], params["scale3"][FIRST] = 0, 0
    shapes = checked(apply, params | {"b": np.zeros(2)}, image(), add_constants=True)
    assert shapes["k1"][-1] == 2 and shapes["scale2"] == (5,)
    assert shapes["k2"] == (1, 1, 5, 2) and shapes["v"] == (7, 2)


def test_layers_along_a_new_axis():
    """A unit of two stacked layers goes where both are silent; one of an axis taken apart where its gate is."""

    def apply(p, x):
        views = jnp.stack([jax.nn.relu(x @ p["w1"] + p["c1"]), jnp.tanh(x @ p["w2"])], 1)
        value, gate = jnp.unstack(jnp.einsum("nvh,hsd->nvsd", views, p["u"]), axis=2)
        return jax.lax.optimization_barrier(value * jax.nn.relu(gate)).mean(1) @ p["v"]

    params = nets.normal(8, w1=(3, 6), c1=6, w2=(3, 6), u=(6, 2, 6), v=(6, 2))
    params["w1"][:, :4], params["c1"][:4], params["w2"][:, FIRST] = 0, -1, 0
    params["u"][:, 1, 3:] = 0
    shapes = checked(apply, params, nets.normal(9, x=(4, 3))["x"])
    assert shapes["w1"] == shapes["w2"] == (3, 4) and shapes["c1"] == (4,)
    assert shapes["u"] == (4, 2, 3) and shapes["v"] == (3, 2)


def test_copies_of_a_unit_go_with_it():
    def apply(p, x):
        return jnp.tile(jax.nn.relu(x @ p["w"]), (1, 1, 2)).mean(1) @ p["v"]

    params = nets.normal(10, w=(4, 6), v=(12, 2))
    params["w"][:, FIRST] = 0
    shapes = checked(apply, params, sequence())
    assert shapes["w"] == (4, 4) and shapes["v"] == (8, 2)


def group_norm(p, x, groups):
    y = x.reshape(*x.shape[:-1], groups, -1)
    mean = y.mean((1, 2, 4), keepdims=True)
    y = (y - mean) / jnp.sqrt(((y - mean) ** 2).mean((1, 2, 4), keepdims=True) + 1e-5)
    return y.reshape(x.shape) * p["scale"] + p["shift"]


def test_group_norm_loses_whole_groups_alone():
    def apply(p, x):
        return (
            jax.nn.relu(group_norm(p, nets.convolve(x, p["k"]), 3)).mean((1, 2)) @ p["v"] + p["b"]
        )

    params = nets.normal(1, k=(3, 3, 3, 6), scale=6, shift=6, v=(6, 2), b=2)
    params["scale"][[0, 1, 3]] = 0
    assert checked(apply, params, image())["k"] == (3, 3, 3, 4)


def test_fast_layer_norm_loses_a_unit_that_it_adds_nothing_to():
    """Σx/n and Σx²/n stay what they are without a zero; (x − mean)² would not."""

    def apply(p, x):
        h = jax.nn.relu(x @ p["w"])
        mean = h.mean(-1, keepdims=True)
        h = (h - mean) * jax.lax.rsqrt((h * h).mean(-1, keepdims=True) - mean**2 + 1e-5)
        return (h * p["scale"] + p["shift"]) @ p["v"] + p["b"]

    params = nets.normal(1, w=(3, 6), scale=6, shift=6, v=(6, 2), b=2)
    params["w"][:, FIRST], params["scale"][FIRST] = 0, 0
    assert checked(apply, params, nets.rows())["w"] == (3, 4)


def test_transformer_block_with_a_scan_over_layers():
    """Heads, entries of queries and of values, and MLP units, where they are silent in every layer."""

    def rms(x):
        return x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-5)

    def layer(x, p):
        y = rms(x)
        q, k, v = (jnp.einsum("btd,dhs->bths", y, p[name]) for name in "qkv")
        weights = jax.nn.softmax(jnp.einsum("bths,buhs->bhtu", q, k), -1)
        x = x + jnp.einsum("bhtu,buhs,hsd->btd", weights, v, p["o"])
        y = rms(x)
        return x + (jax.nn.silu(y @ p["gate"]) * (y @ p["up"])) @ p["down"], None

    def apply(p, x):
        stacked = {name: leaf for name, leaf in p.items() if name != "last"}
        return jax.lax.scan(layer, x, stacked)[0] @ p["last"]

    shapes = dict.fromkeys("qkv", (2, 4, 3, 2)) | {"o": (2, 3, 2, 4), "last": (4, 2)}
    params = nets.normal(2, **shapes, gate=(2, 4, 6), up=(2, 4, 6), down=(2, 6, 4))
    params["o"][:, 0] = 0  # a head
    params["v"][..., 1], params["q"][..., 0] = 0, 0
    params["gate"][:, :, 0], params["down"][:, 1], params["down"][0, 2] = 0, 0, 0
    shapes = checked(apply, params, sequence())
    assert shapes["q"] == shapes["k"] == (2, 4, 2, 1) and shapes["v"] == (2, 4, 2, 1)
    assert shapes["o"] == (2, 2, 1, 4) and shapes["up"] == (2, 4, 4) and shapes["down"] == (2, 4, 4)


def test_merged_heads_go_as_a_whole():
    def apply(p, x):
        q, k, v = ((x @ p[name] + p[name + "b"]).reshape(*x.shape[:-1], 3, 2) for name in "qkv")
        weights = jax.nn.softmax(jnp.einsum("bths,buhs->bhtu", q, k), -1)
        y = jnp.einsum("bhtu,buhs->bths", weights, v).reshape(*x.shape[:-1], 6)
        return y @ p["o"] + p["c"]

    params = nets.normal(
        2, **dict.fromkeys("qkv", (4, 6)), **dict.fromkeys(("qb", "kb", "vb"), 6), o=(6, 2), c=2
    )
    params["o"][[0, 1, 2]] = 0  # the first head, and half of the second
    shapes = checked(apply, params, sequence())
    assert shapes["q"] == shapes["v"] == (4, 4) and shapes["o"] == (4, 2)


@pytest.mark.core
def test_recurrent_cell_under_scan():
    def apply(p, x):
        def step(h, y):
            gates = y @ p["w"] + h @ p["u"] + p["c"]
            forget, new = jnp.split(gates, 2, -1)
            h = jax.nn.sigmoid(forget) * h + jnp.tanh(new)
            return h, h @ p["v"]

        h, out = jax.lax.scan(step, jnp.zeros((x.shape[0], 6)), jnp.swapaxes(x, 0, 1))
        return out[-1] + h @ p["v"]

    params = nets.normal(2, w=(4, 12), u=(6, 12), c=12, v=(6, 2))
    params["w"][:, 6:8], params["u"][:, 6:8], params["c"][6:8] = 0, 0, 0  # these stay 0
    params["v"][2], params["u"][2] = 0, 0  # this is read by itself alone
    shapes = checked(apply, params, sequence())
    assert shapes["u"] == (3, 6) and shapes["v"] == (3, 2)


def test_embedding_columns_and_tied_embeddings():
    params = nets.normal(0, table=(7, 4), v=(4, 2))
    params["table"][:, 0] = 0
    params["v"][1] = 0
    params = nets.as_jax(params)
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 7, size=(3, 5)))

    def apply(p, t):
        return p["table"][t] @ p["v"]

    small = prune.compact(apply, params, tokens)
    assert small.params["table"].shape == (7, 2)
    np.testing.assert_allclose(
        small.apply(small.params, tokens[:2]), apply(params, tokens[:2]), rtol=1e-11
    )

    def tied(p, t):
        return jnp.tanh(p["table"][t]) @ p["table"].T

    small = prune.compact(tied, params, tokens)
    assert small.params["table"].shape == (7, 3)  # no row: each is an output


@jax.custom_vjp
def clipped(x):
    return jnp.tanh(x)


clipped.defvjp(lambda x: (jnp.tanh(x), x), lambda x, g: (jnp.clip(g, -0.1, 0.1) * x,))


@jax.custom_jvp
def doubled(x):
    return x * jax.nn.sigmoid(x)


doubled.defjvp(lambda primals, tangents: (doubled(*primals), 2 * tangents[0]))


@pytest.mark.parametrize("act", [clipped, doubled, jax.nn.relu6, jax.nn.gelu, jnp.abs])
def test_activations_keep_derivatives_of_their_own(act):
    def apply(p, x):
        return act(x @ p["w"] * p["s"] + p["c"]) @ p["v"] + p["b"]

    params = nets.normal(4, w=(3, 6), s=6, c=6, v=(6, 2), b=2)
    params["s"][FIRST] = 0
    assert checked(apply, params, nets.rows())["w"] == (3, 4)


def loops(kind):
    def block(p, x):
        return jnp.tanh(x @ p["w"] + p["c"]) @ p["v"]

    def apply(p, x):
        if kind == "checkpoint":
            x = jax.checkpoint(block)(p, x)
        elif kind == "jit":
            x = jax.jit(block)(p, jax.jit(block)(p, x))
        elif kind == "cond":
            x = jax.lax.cond(x.sum() > 0, block, lambda p, x: 2 * block(p, x), p, x)
        elif kind == "fori":
            x = jax.lax.fori_loop(0, 3, lambda _, y: block(p, y), x)
        elif kind == "while":
            size = jax.lax.stop_gradient(x).size
            x = jax.lax.while_loop(
                lambda c: c[0] < size, lambda c: (c[0] * 2, block(p, c[1])), (1, x)
            )[1]
        return x @ p["last"]

    return apply


@pytest.mark.parametrize("kind", ["checkpoint", "jit", "cond", "fori"])
def test_units_inside_calls_and_loops(kind):
    params = nets.normal(5, w=(3, 6), c=6, v=(6, 3), last=(3, 2))
    params["v"][FIRST] = 0
    assert checked(loops(kind), params, nets.rows())["w"] == (3, 4)


def test_units_inside_a_while_loop():
    params = nets.normal(5, w=(3, 6), c=6, v=(6, 3), last=(3, 2))
    params["v"][FIRST] = 0
    small = prune.compact(loops("while"), nets.as_jax(params), nets.rows(), batch_axis=None)
    assert small.params["w"].shape == (3, 4)


@pytest.mark.fast
def test_a_map_of_biases_takes_a_constant_before_zero_padding_on_request():
    apply, params = nets.cnn("SAME"), nets.cnn_params(1.0)
    shapes = checked(apply, params, nets.images(), add_constants=True)
    assert shapes["k"] == (3, 3, 2, 3) and shapes["k2"] == (3, 3, 3, 4)
