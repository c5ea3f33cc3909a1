"""Units that look silent in one place and are not: each stays, or goes without a change of the outputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from l1jax import prune
from tests.prune import networks as nets

N = 6


def hidden(params, x):
    return jax.nn.relu(x @ params["w"] + params["c"])


def silent(seed=0, **more):
    """A hidden layer whose first three units are 0, whatever the inputs."""
    params = nets.normal(seed, w=(3, N), c=N, v=(N, 2), b=2, **more)
    params["w"][:, :3], params["c"][:3] = 0, 0
    return nets.as_jax(params)


def constant(seed=0):
    """A hidden layer whose first three units are 1."""
    params = nets.normal(seed, w=(3, N), c=N, v=(N, 2), b=2)
    params["w"][:, :3], params["c"][:3] = 0, 1
    return nets.as_jax(params)


def unread(seed=0, **more):
    """A hidden layer whose first three units are multiplied with zeros."""
    params = nets.normal(seed, w=(3, N), c=N, v=(N, 2), b=2, **more)
    params["v"][:3] = 0
    return nets.as_jax(params)


def last(params, h):
    return h @ params["v"] + params["b"]


def shared_weight(params, x):
    """The bias of the units is read once more."""
    return last(params, hidden(params, x)) + params["c"].sum()


def read_by_a_second_output(params, x):
    h = hidden(params, x)
    return last(params, h), h


def read_twice(params, x):
    h = hidden(params, x)
    return last(params, h) + (h**2 + 3 * h).sum(-1, keepdims=True)


def turned(params, x):
    """Unit k meets unit 5 - k."""
    h = hidden(params, x)
    return last(params, h + h[:, ::-1])


def softmax(params, x):
    return last(params, jax.nn.softmax(hidden(params, x)))


def maximum(params, x):
    h = hidden(params, x)
    return last(params, h) * h.max(-1, keepdims=True)


def layer_norm(params, x):
    h = hidden(params, x)
    h = (h - h.mean(-1, keepdims=True)) / jnp.sqrt(h.var(-1, keepdims=True) + 1e-5)
    return last(params, h)


def rms_norm(params, x):
    h = hidden(params, x)
    return last(params, h / jnp.sqrt((h**2).mean(-1, keepdims=True) + 1e-5))


def sort(params, x):
    return last(params, jnp.sort(hidden(params, x), -1))


def gather(params, x):
    return last(params, hidden(params, x)[:, jnp.arange(N)[::-1]])


def mixed(params, x):
    """A reshape in which channels meet positions."""
    h = hidden(params, x.reshape(-1, 3)).reshape(len(x), -1, 4)
    return last(params, jnp.swapaxes(h, 1, 2).reshape(len(x), -1, N)).sum(1)


def dropout(params, x):
    """A mask from a key that is written into the function."""
    mask = jax.random.bernoulli(jax.random.key(0), 0.5, (N,))
    return last(params, jnp.where(mask, hidden(params, x) * 2, 0))


def gate(params, x):
    return last(params, hidden(params, x) * jax.nn.sigmoid(x @ params["g"]))


def residual(params, x):
    h = x @ params["p"] + hidden(params, x)
    return last(params, h)


def unknown(params, x):
    return last(params, jnp.fft.fft(hidden(params, x)).real)


def tied(params, x):
    """One matrix writes the units and reads others."""
    h = hidden(params, x)
    return last(params, jax.nn.relu(h @ params["t"]) @ params["t"].T)


def branch(params, x):
    """A constant that is scaled one way or the other."""
    h = hidden(params, x)
    return last(params, jax.lax.cond(params["b"].sum() > 0, lambda: h * 2, lambda: h * 3))


def weighted(params, x):
    """A weighted mean of constants, as in attention: that its weights sum to 1 is not known."""
    values = jnp.stack([hidden(params, x), hidden(params, 2 * x)], 1)
    return last(params, jnp.einsum("ns,nsd->nd", jax.nn.softmax(x[:, :2]), values))


def cube(p=2):
    return jnp.asarray(np.random.default_rng(4).normal(size=(p, 4, 3)))


# How many of the six units stay; and a word of the reason.
CASES = [
    (shared_weight, silent(), 3, ""),
    (shared_weight, unread(), 6, "its constant is not zero"),
    (read_by_a_second_output, silent(), 6, "an output has it"),
    (branch, constant(), 6, "it is constant where cond reads it, and varies after it"),
    (weighted, constant(), 6, "and varies after it"),
    (read_twice, silent(), 3, ""),
    (read_twice, unread(), 6, ""),
    (turned, silent(), 6, "it is constant where add reads it, and varies after it"),
    (softmax, silent(), 6, "reduce_max is over it"),
    (maximum, silent(), 6, "reduce_max is over it"),
    (layer_norm, silent(), 6, "it is constant where sub reads it"),
    (rms_norm, silent(), 3, ""),
    (sort, silent(), 6, "sort runs along it"),
    (gather, silent(), 6, "gather picks from it"),
    (gate, silent(g=(3, N)), 3, ""),
    (dropout, unread(), 6, "which is not known here"),
    (residual, silent(p=(3, N)), 6, "it is constant where add reads it"),
    (residual, unread(p=(3, N)), 3, ""),
    (unknown, silent(), 6, "fft, which is not known here"),
    (tied, silent(t=(N, N)), 6, ""),
]


@pytest.mark.parametrize(
    "apply, params, kept, why",
    CASES,
    ids=[f"{k}-{case[0].__name__}" for k, case in enumerate(CASES)],
)
def test_what_is_not_silent_everywhere_stays(apply, params, kept, why):
    small = prune.compact(apply, params, nets.rows())
    assert small.params["w"].shape == (3, kept)
    for ours, theirs in zip(
        jax.tree.leaves(apply(params, nets.rows(2))),
        jax.tree.leaves(small.apply(small.params, nets.rows(2))),
        strict=True,
    ):
        np.testing.assert_allclose(theirs, ours, rtol=1e-11, atol=1e-11)
    reasons = [reason for layer in small.report.layers for reason in layer.why]
    assert any(why in reason for reason in reasons) and all(reasons)
    assert all(reason in str(small.report) for reason in reasons)


@pytest.mark.fast
def test_a_reshape_that_mixes_channels_and_positions_keeps_them():
    small = prune.compact(mixed, silent(), cube())
    assert small.params["w"].shape == (3, N)
    reasons = {reason for layer in small.report.layers for reason in layer.why}
    assert reasons == {"reshape mixes it with other axes"}


def test_a_gate_that_is_zero_silences_its_unit():
    params = silent(1, g=(3, N))
    params["w"], params["c"] = nets.as_jax((np.ones((3, N)), np.ones(N)))
    params["g"] = params["g"].at[:, :2].set(0)

    def apply(params, x):
        return last(params, hidden(params, x) * jnp.tanh(x @ params["g"]))

    small = prune.compact(apply, params, nets.rows())
    assert small.params["w"].shape == (3, 4) and small.params["g"].shape == (3, 4)


def test_an_output_of_the_units_without_a_bias_keeps_a_constant_that_is_not_zero():
    params = unread()
    params["w"] = params["w"].at[:, :3].set(0)  # now the constant relu(c)
    params["v"] = jnp.ones((N, 2))
    small = prune.compact(lambda p, x: hidden(p, x) @ p["v"], params, nets.rows())
    assert small.params["w"].shape == (3, 6 - int((params["c"][:3] <= 0).sum()))
    assert any(
        "missing in an output" in reason for layer in small.report.layers for reason in layer.why
    ) == bool((params["c"][:3] > 0).any())


@pytest.mark.parametrize(
    ("pads", "width", "kept"), [((1, 1), 2, 2), ((2, 0), 2, 3), ((0, 3), 3, 3)]
)
def test_a_constant_is_not_that_of_a_window_of_padding_alone(pads, width, kept):
    """The maximum over a window that holds nothing is −∞, whatever the channel."""

    def apply(params, x):
        h = jax.nn.relu(x[..., None] * params["scale"] + params["shift"])
        size, step = (1, width, 1), (1, 1, 1)
        h = jax.lax.reduce_window(h, -jnp.inf, jax.lax.max, size, step, ((0, 0), pads, (0, 0)))
        return jnp.maximum(h, -9.0).mean(1) @ params["v"] + params["b"]

    params = {"scale": jnp.array([1.0, 0.0, 2.0]), "shift": jnp.array([0.1, 0.3, 0.2])}
    params |= {"v": jnp.ones((3, 2)), "b": jnp.zeros(2)}
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 5)))
    small = prune.compact(apply, params, x)
    assert small.params["scale"].size == kept
    np.testing.assert_allclose(small.apply(small.params, x), apply(params, x), rtol=1e-12)


def scaled(params, x):
    """The constant of a unit is multiplied with a parameter before a bias follows."""
    return (jax.nn.relu(x @ params["w"] * params["g"] + params["c"]) @ params["v"]) * params[
        "s"
    ] + params["b"]


def two_layers(params, x):
    h = jax.nn.relu(x @ params["w"] * params["g"] + params["c"])
    return h @ params["v"] @ params["u"] + params["b"]


def normed_weights(params, x):
    """The weights that the constant meets depend on a parameter that stays."""
    h = jax.nn.relu(x @ params["w"] * params["g"] + params["c"])
    return h @ (params["v"] * params["s"]) + params["b"]


def parameter_statistics(params, x):
    """Batch norm with running statistics among the parameters: the mean takes the constant."""
    y = jax.nn.relu(x @ params["w"] * params["g"] + params["c"]) @ params["v"]
    y = (y - params["mean"]) * jax.lax.rsqrt(params["var"] ** 2 + 1e-5)
    return y * params["s"] + params["b"]


def slope(params, x):
    """The constant itself depends on a parameter that stays."""
    h = x @ params["w"] * params["g"] - params["c"] ** 2
    return jnp.where(h > 0, h, h * params["a"]) @ params["v"] + params["b"]


@pytest.mark.parametrize(
    ("apply", "kept", "added", "why"),
    [
        (scaled, N, 3, "add_constants=True adds it where it enters"),
        (two_layers, N, 3, "add_constants=True adds it where it enters"),
        (normed_weights, N, N, "its constant depends on parameters that stay"),
        (parameter_statistics, 3, 3, ""),
        (slope, N, N, "its constant depends on parameters that stay"),
    ],
)
def test_a_constant_does_not_pass_a_parameter_whose_gradient_needs_it(apply, kept, added, why):
    shapes = {"g": N, "v": (N, 2), "u": (2, 2), "s": 2, "mean": 2, "var": 2, "b": 2, "a": ()}
    params = nets.normal(0, w=(3, N), c=N, **shapes)
    params["g"][:3], params["c"] = 0, np.abs(params["c"])
    params, x = nets.as_jax(params), nets.rows()
    full = jax.grad(lambda p: (apply(p, x) ** 2).sum())(params)
    for width, options in ((kept, {}), (added, {"add_constants": True})):
        small = prune.compact(apply, params, x, **options)
        assert small.params["w"].shape == (3, width)
        less = jax.grad(lambda p, run=small.apply: (run(p, x) ** 2).sum())(small.params)
        for name, leaf in small.plan.apply(full).items():
            np.testing.assert_allclose(less[name], leaf, rtol=1e-10, atol=1e-12, err_msg=name)
        reasons = [reason for layer in small.report.layers for reason in layer.why]
        assert width == 3 or any(why in reason for reason in reasons)


def test_a_constant_may_pass_the_running_variance_of_a_state():
    def apply(params, state, x):
        h = jax.nn.relu(x @ params["w"] * params["g"] + params["c"]) @ params["v"]
        return h * jax.lax.rsqrt(state["var"] + 1e-5) + params["b"]

    params = nets.normal(0, w=(3, N), g=N, c=N, v=(N, 2), b=2)
    params["g"][:3], params["c"] = 0, np.abs(params["c"])
    params, x, state = nets.as_jax(params), nets.rows(), {"var": jnp.array([0.5, 2.0])}
    small = prune.compact(apply, params, x, state=state)
    assert small.params["w"].shape == (3, 3)
    np.testing.assert_allclose(
        small.apply(small.params, small.state, x), apply(params, state, x), rtol=1e-11
    )
