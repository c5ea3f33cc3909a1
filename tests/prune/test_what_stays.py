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


def cube(p=2):
    return jnp.asarray(np.random.default_rng(4).normal(size=(p, 4, 3)))


# How many of the six units stay; and a word of the reason.
CASES = [
    (shared_weight, silent(), 3, ""),
    (shared_weight, unread(), 6, "its constant is not zero"),
    (read_by_a_second_output, silent(), 6, ""),
    (read_twice, silent(), 3, ""),
    (read_twice, unread(), 6, ""),
    (turned, silent(), 6, ""),
    (softmax, silent(), 6, "reduce_max is over it"),
    (maximum, silent(), 6, "reduce_max is over it"),
    (layer_norm, silent(), 6, ""),
    (rms_norm, silent(), 3, ""),
    (sort, silent(), 6, "sort runs along it"),
    (gather, silent(), 6, "gather picks from it"),
    (gate, silent(g=(3, N)), 3, ""),
    (dropout, unread(), 6, "which is not known here"),
    (residual, silent(p=(3, N)), 6, ""),
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
    assert not why or any(why in reason for reason in reasons)


@pytest.mark.fast
def test_a_reshape_that_mixes_channels_and_positions_keeps_them():
    small = prune.compact(mixed, silent(), cube())
    assert small.params["w"].shape == (3, N)


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
