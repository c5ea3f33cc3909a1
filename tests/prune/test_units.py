"""Which parameters belong to a unit, the penalty on them, and training until a fraction is gone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import l1jax
from l1jax import prune
from tests.prune import networks as nets


@pytest.fixture(scope="module")
def units():
    return prune.units(nets.mlp, nets.mlp_params(), nets.rows())


@pytest.mark.fast
def test_lists_what_writes_and_what_reads_each_unit(units):
    (layer,) = units.layers
    assert (layer.name, layer.size) == ("w", 6)
    sides = {
        reads: {(m.path, m.axis) for m in layer.members if m.reads == reads}
        for reads in (True, False)
    }
    assert sides[True] == {("v", 0)}
    assert sides[False] == {("w", 1), ("scale", 0), ("shift", 0), ("mean", 0), ("var", 0)}
    # 4 rows: 3 products to write a unit, 2 to read it.
    np.testing.assert_array_equal(layer.cost, np.full(6, 4 * (3 + 2)))


def test_needs_shapes_only():
    shapes = jax.eval_shape(nets.mlp_params)
    assert prune.units(nets.mlp, shapes, nets.rows()).layers[0].size == 6


@pytest.mark.parametrize(
    "parts, names", [("read", "v"), ("vectors", ("scale", "shift", "mean", "var"))]
)
def test_the_penalty_is_a_group_lasso_over_the_parts(units, parts, names):
    params = nets.mlp_params()
    squares = sum(
        np.asarray(params[n]).reshape(6, -1) ** 2 @ np.ones(params[n].size // 6) for n in names
    )
    size = sum(params[name].size // 6 for name in names)
    expected = 0.3 * np.sqrt(size) * np.sqrt(squares).sum()
    value = units.penalty(0.3, parts).value(params)
    np.testing.assert_allclose(value, expected, rtol=1e-12)


def test_what_the_penalty_makes_zero_is_removed(units):
    params = nets.mlp_params()
    params["scale"] = jnp.ones(6)
    cut = units.penalty(1.0, "vectors").prox(params, 0.9)
    zero = np.asarray(cut["scale"] == 0)
    assert 0 < zero.sum() < 6 and (np.asarray(cut["shift"] == 0) == zero).all()
    small = prune.compact(nets.mlp, cut, nets.rows())
    assert small.params["w"].shape == (3, 6 - zero.sum())


def two_layers(params, x):
    h = jnp.tanh(x @ params["a"])
    return jnp.tanh(jnp.concatenate([h, h @ params["b"]], -1) @ params["c"]) @ params["d"]


def test_saved_is_the_share_of_multiply_adds():
    params = nets.as_jax(nets.normal(0, a=(3, 4), b=(4, 2), c=(6, 5), d=(5, 2)))
    units = prune.units(two_layers, params, nets.rows())
    params["a"] = params["a"].at[:, 0].set(0)
    params["c"] = params["c"].at[:, 1:3].set(0)
    before = 3 * 4 + 4 * 2 + 6 * 5 + 5 * 2
    after = 3 * 3 + 3 * 2 + 5 * 3 + 3 * 2
    assert float(units.saved(params)) == pytest.approx(1 - after / before)
    small = prune.compact(two_layers, params, nets.rows())
    assert [small.params[k].shape for k in "abcd"] == [(3, 3), (3, 2), (5, 3), (3, 2)]


def test_weights_by_cost_are_in_proportion_to_the_multiply_adds():
    params = nets.as_jax(nets.normal(0, a=(3, 4), b=(4, 2), c=(6, 5), d=(5, 2)))
    units = prune.units(two_layers, params, nets.rows())
    (layer, _) = units.layers
    assert (
        layer.cost.tolist() == [40] * 4 + [36] * 2
    )  # 4 rows; what writes a unit, and what reads it
    nothing = {name: jnp.zeros_like(leaf) for name, leaf in params.items()}

    def ratio(name):
        one = nothing | {name: jnp.ones_like(params[name])}
        return float(units.penalty(1.0, weights="cost").value(one) / units.penalty(1.0).value(one))

    assert ratio("a") / ratio("b") == pytest.approx(40 / 36)


def attention(params, x):
    q, k, v = (jnp.einsum("btd,dhs->bths", x, params[name]) for name in "qkv")
    weights = jax.nn.softmax(jnp.einsum("bths,buhs->bhtu", q, k), -1)
    y = jnp.einsum("bhtu,buhs->bths", weights, v)
    return (x + jnp.einsum("bths,hsd->btd", y, params["o"])) @ params["last"]


def test_heads_are_units_and_go_as_a_whole():
    shapes = dict.fromkeys("qkv", (4, 3, 2)) | {"o": (3, 2, 4), "last": (4, 2)}
    params = nets.as_jax(nets.normal(2, **shapes))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 4)))
    units = prune.units(attention, params, x)
    assert sorted(layer.size for layer in units.layers) == [2, 2, 3]
    heads = next(layer for layer in units.layers if layer.size == 3)
    cut = units.penalty(1.0, "read", layers=[heads.name]).prox(params, 0.9)
    zero = np.asarray((cut["o"] == 0).all((1, 2)))
    assert 0 < zero.sum() < 3
    small = prune.compact(attention, cut, x)
    assert small.params["q"].shape == small.params["v"].shape == (4, 3 - zero.sum(), 2)
    told = {layer.name: layer.after for layer in small.report.layers}
    assert len(told) == len(small.report.layers) and told[heads.name] == 3 - zero.sum()


def test_feedback_reaches_its_target():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(60, 5)))
    y = jnp.sin(x[:, :1])
    params = nets.as_jax(nets.normal(1, w=(5, 20), c=20, v=(20, 1), b=1))

    def apply(params, x):
        return jnp.tanh(x @ params["w"] + params["c"]) @ params["v"] + params["b"]

    units = prune.units(apply, params, x)
    feedback = prune.Feedback(target=0.7, steps=300, start=1e-3)
    tx = l1jax.prox_adam(0.02, None)

    @jax.jit
    def train(params):
        def step(carry, _):
            params, opt, state = carry
            gradient = jax.grad(lambda p: ((apply(p, x) - y) ** 2).mean())(params)
            updates, opt = tx.update(gradient, opt, params, penalty=units.penalty(state.strength))
            params = optax.apply_updates(params, updates)
            return (params, opt, feedback.update(state, units.saved(params))), None

        carry = params, tx.init(params), feedback.init()
        return jax.lax.scan(step, carry, None, 500)[0]

    params, _, state = train(params)
    small = prune.compact(apply, params, x)
    fraction = 1 - small.params["w"].shape[1] / 20
    assert fraction == pytest.approx(0.7, abs=0.11)  # two of 20 units
    assert float(state.steps) == 500


def test_bad_arguments_get_a_sentence(units):
    with pytest.raises(ValueError, match="layers names 'x', which is none of w"):
        units.penalty(1.0, layers=["x"])
    with pytest.raises(ValueError, match='parts must be "write", "read" or "vectors"'):
        units.penalty(1.0, "all")
    with pytest.raises(ValueError, match='weights must be "size" or "cost"'):
        units.penalty(1.0, weights="flops")
    with pytest.raises(ValueError, match="target must be a fraction between 0 and 1"):
        prune.Feedback(70.0, steps=10, start=1.0)
    with pytest.raises(ValueError, match="start must be positive"):
        prune.Feedback(0.7, steps=10, start=0.0)
