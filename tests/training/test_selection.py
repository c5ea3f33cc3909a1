"""Penalties for parts of trees, of every framework, and what they count as zero."""

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize

import l1jax


def tree():
    return {
        "conv1": {"kernel": jnp.ones((3, 3, 2, 4)), "bias": jnp.ones(4)},
        "BatchNorm_0": {"scale": jnp.full(4, 0.5), "bias": jnp.ones(4)},
        "block": {
            "BatchNorm_1": {"scale": jnp.full(4, 0.5)},
            "LayerNorm_0": {"scale": jnp.ones(4)},
        },
        "skip": None,
    }


def names(pen, params):
    return {path for block in l1jax.training._sparsity._blocks(params, pen) for path in block.paths}


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("**/BatchNorm_*/scale", {"BatchNorm_0/scale", "block/BatchNorm_1/scale"}),
        ("BatchNorm_*/scale", {"BatchNorm_0/scale"}),
        ("*/scale", {"BatchNorm_0/scale"}),
        ("conv[0-9]/*", {"conv1/kernel", "conv1/bias"}),
        ("conv[!0-9]/*|", None),
        ("block/**", {"block/BatchNorm_1/scale", "block/LayerNorm_0/scale"}),
        (lambda path, leaf: leaf.ndim == 4, {"conv1/kernel"}),
        (["conv1/bias", "**/kernel"], {"conv1/kernel", "conv1/bias"}),
        ("scale", None),
        (eqx.nn.Linear, None),
    ],
)
def test_selectors_match_whole_paths(selector, expected):
    pen = l1jax.on(selector, l1jax.L1(0.1))
    if expected is None:
        with pytest.raises(ValueError, match="matches no floating-point leaf"):
            pen.prox(tree())
        with pytest.raises(ValueError, match="matches no floating-point leaf"):
            l1jax.prox_adam(0.1, pen).init(tree())
    else:
        assert names(pen, tree()) == expected


@pytest.mark.fast
def test_the_first_match_wins_and_the_rest_is_left_alone():
    params = tree()
    pen = l1jax.penalties(
        l1jax.on("block/**", None),
        l1jax.on("**/scale", l1jax.L1(1.0)),
        l1jax.on(["**/scale", "**/bias"], l1jax.Ridge(1.0)),
    )
    out = pen.prox(params, 0.2)
    assert out["conv1"]["kernel"] is params["conv1"]["kernel"]
    np.testing.assert_allclose(out["BatchNorm_0"]["scale"], 0.3)
    np.testing.assert_allclose(out["BatchNorm_0"]["bias"], 1 / 1.2)
    np.testing.assert_allclose(out["block"]["BatchNorm_1"]["scale"], 0.5)
    np.testing.assert_allclose(pen.value(params), 4 * 0.5 + 8 * 0.5)
    nested = l1jax.penalties(l1jax.penalties(*pen.selections[:1]), *pen.selections[1:])
    assert nested.selections == pen.selections
    with pytest.raises(TypeError, match="penalties takes what"):
        l1jax.penalties(l1jax.L1(0.1))
    with pytest.raises(TypeError, match="selector must be"):
        l1jax.on(3, l1jax.L1(0.1))
    with pytest.raises(ValueError, match="several strengths"):
        pen.with_strength(1.0)


@pytest.mark.parametrize("axis", [0, 2, -1])
@pytest.mark.slow
def test_groups_lie_along_the_axis_that_is_named(axis):
    kernel = jax.random.normal(jax.random.key(0), (4, 3, 5))
    step = jnp.exp(jax.random.normal(jax.random.key(1), kernel.shape))
    size = kernel.shape[axis]
    for s in (0.7, step):
        channel = l1jax.ChannelL1(0.3, axis=axis).prox(kernel, s)
        weights = np.full(size, (kernel.size / size) ** 0.5)
        pen = l1jax.on("w", l1jax.GroupL1(0.3, range(size), weights), axis=axis)
        grouped = pen.prox({"w": kernel}, s if np.ndim(s) == 0 else {"w": s})["w"]
        np.testing.assert_allclose(channel, grouped)
        c = jnp.moveaxis(kernel, axis, 0)[1]
        w = jnp.moveaxis(jnp.broadcast_to(s, kernel.shape), axis, 0)[1]
        one = l1jax.prox.prox_group_l1(
            c.reshape(-1), 0.3, np.zeros(c.size, int), w.reshape(-1), np.ones(1) * c.size**0.5
        )
        np.testing.assert_allclose(jnp.moveaxis(channel, axis, 0)[1], one.reshape(c.shape))


def shrunk(z, step):
    """A group of one column and its norm, by bisection."""

    def residual(theta):
        return np.sum((z / (theta + step)) ** 2) - 1

    theta = (
        scipy.optimize.brentq(residual, 0, 100, xtol=1e-300, rtol=1e-15) if residual(0) > 0 else 0
    )
    return z * theta / (theta + step), theta


def test_steps_of_any_spread_and_dead_entries_shrink_a_group_as_its_root_says():
    """Against the root of Σ z²/(θ + s)² = 1 by bisection, to rounding of the entries that go in."""
    rng = np.random.default_rng(0)
    prox = jax.jit(lambda z, step: l1jax.ChannelL1(1 / 12**0.5, axis=-1).prox(z, step))
    for scale in (1e-3, 0.03, 1.0):
        z = rng.standard_normal((12, 20))
        step = scale * np.exp(2 * rng.standard_normal(z.shape))
        z[:4], step[:4] = 0, 1e6  # no gradient so far: Adam's metric is ε
        out = np.asarray(prox(jnp.asarray(z), jnp.asarray(step)))
        for c in range(20):
            exact, theta = shrunk(z[:, c], step[:, c])
            np.testing.assert_allclose(out[:, c], exact, rtol=0, atol=1e-14)
            assert out[:, c].any() == (theta > 0)


def test_attention_heads_go_as_a_whole():
    kernel = jnp.concatenate([jnp.full((3, 2), 0.1), jnp.full((3, 2), 2.0)], axis=1)
    pen = l1jax.on("**/query", l1jax.GroupL1(0.5, [0, 0, 1, 1]), axis=-1)
    out = pen.prox({"query": kernel})["query"]
    assert not out[:, :2].any() and bool((out[:, 2:] > 1).all())
    assert l1jax.sparsity({"query": out}, pen).zero_groups.tolist() == [1]


@pytest.mark.parametrize("metric", [False, True])
@pytest.mark.slow
def test_a_group_across_leaves_is_the_group_of_their_concatenation(metric):
    keys = jax.random.split(jax.random.key(0), 3)
    params = {
        "gamma": jax.random.normal(keys[0], (3,)),
        "beta": jax.random.normal(keys[1], (3,)),
        "next": jax.random.normal(keys[2], (2, 3, 4)),
        "other": jnp.ones(2),
    }
    step = jax.tree.map(lambda x: 0.2 + x**2, params) if metric else 0.5
    pen = l1jax.on({"gamma": 0, "beta": 0, "next": 1}, l1jax.ChannelL1(0.4))
    flat = jnp.concatenate(
        [
            params["gamma"][:, None],
            params["beta"][:, None],
            params["next"].swapaxes(0, 1).reshape(3, 8),
        ],
        1,
    )
    steps = step
    if metric:
        steps = jnp.concatenate(
            [
                step["gamma"][:, None],
                step["beta"][:, None],
                step["next"].swapaxes(0, 1).reshape(3, 8),
            ],
            1,
        )
    expected = l1jax.prox.prox_group_l1(flat, 0.4, range(3), steps, np.full(3, 10**0.5))
    out = pen.prox(params, step)
    np.testing.assert_allclose(out["gamma"], expected[:, 0])
    np.testing.assert_allclose(out["next"], expected[:, 2:].reshape(3, 2, 4).swapaxes(0, 1))
    np.testing.assert_allclose(
        pen.value(params), 0.4 * 10**0.5 * np.linalg.norm(flat, axis=1).sum()
    )
    assert out["other"] is params["other"]
    with pytest.raises(ValueError, match="one length along their axes"):
        l1jax.on({"gamma": 0, "next": 2}, l1jax.ChannelL1(0.4)).prox(params)
    with pytest.raises(ValueError, match="given twice"):
        l1jax.on({"gamma": 0}, l1jax.ChannelL1(0.4, axis=-1))


class Net(eqx.Module):
    conv: eqx.nn.Conv2d
    norm: eqx.nn.BatchNorm
    layers: list

    def __init__(self, key):
        self.conv = eqx.nn.Conv2d(1, 3, 3, key=key)
        self.norm = eqx.nn.BatchNorm(3, axis_name="batch", mode="batch")
        self.layers = [eqx.nn.LayerNorm(3), jax.nn.relu, eqx.nn.Linear(3, 2, key=key)]


def equinox_tree():
    model, _ = eqx.nn.make_with_state(Net)(jax.random.key(0))
    return eqx.filter(model, eqx.is_inexact_array), l1jax.batch_norm_scales(model), "norm/weight"


def nnx_tree():
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.norm = nnx.BatchNorm(3, rngs=rngs)
            self.other = nnx.LayerNorm(3, rngs=rngs)
            self.dense = nnx.Linear(3, 2, rngs=rngs)

    model = Net(nnx.Rngs(0))
    return nnx.state(model, nnx.Param), l1jax.batch_norm_scales(model), "norm/scale"


def linen_tree():
    from flax import linen as nn

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.BatchNorm(use_running_average=False, name="any_name")(x)
            x = nn.LayerNorm(name="BatchNorm_like")(x)
            return nn.Dense(2)(x)

    variables = Net().init(jax.random.key(0), jnp.ones((2, 3)))
    return variables["params"], l1jax.batch_norm_scales(variables), "any_name/scale"


def haiku_tree():
    import haiku as hk

    def net(x):
        x = hk.BatchNorm(True, True, 0.9, name="any_name")(x, True)
        x = hk.LayerNorm(-1, True, True)(x)
        return hk.Linear(2)(x)

    params, state = hk.transform_with_state(net).init(jax.random.key(0), jnp.ones((2, 3)))
    return params, l1jax.batch_norm_scales(params, state), "any_name/scale"


@pytest.mark.parametrize("framework", [equinox_tree, nnx_tree, linen_tree, haiku_tree])
def test_scales_of_batch_norm_are_silenced_in_every_framework(framework):
    params, scales, expected = framework()
    assert scales == [expected]
    pen = l1jax.on(scales, l1jax.L1(20.0))
    tx = l1jax.prox_adam(0.1, pen)
    grads = jax.tree.map(lambda p: 0.1 * jnp.ones_like(p), params)

    @jax.jit
    def step(params, state):
        u, state = tx.update(grads, state, params)
        return optax.apply_updates(params, u), state

    new, _ = step(params, tx.init(params))
    assert jax.tree.structure(new) == jax.tree.structure(params)
    with pytest.warns(UserWarning, match=f"every penalised entry of {expected} is exactly zero"):
        counted = l1jax.sparsity(new, pen)
    assert counted.emptied == (expected,) and f"{expected} (emptied)" in str(counted)
    assert counted.scalars()["sparsity/emptied"] == 1
    assert counted.paths == (expected,) and counted.zeros.tolist() == [3]
    assert int(l1jax.sparsity(new).zeros.sum()) == 3 + sum(
        int((p == 0).sum())
        for p in jax.tree.leaves(optax.apply_updates(params, jax.tree.map(lambda g: -g, grads)))
    )


def test_a_layer_is_emptied_only_when_every_scale_is_zero():
    scales = {"first": jnp.array([0.0, 0.0, 1e-8]), "second": jnp.array([0.0, 2.0])}
    counted = l1jax.sparsity(scales, l1jax.on("*", l1jax.L1(0.1)))  # no warning: they are errors
    assert counted.emptied == () and "emptied" not in str(counted)
    assert jax.jit(lambda w: l1jax.sparsity(w, l1jax.L1(0.1)).scalars())(jnp.zeros(2)) == {
        "sparsity/zeros": 1.0,
        "sparsity/emptied": 1,
        "sparsity/params/zeros": 1.0,
    }
    batch = jax.vmap(l1jax.sparsity)({"a": jnp.zeros((3, 2)), "b": jnp.eye(3)[:, :2]})
    assert batch.emptied == ("a",)  # b in one lane only
    assert l1jax.sparsity(jnp.zeros(2)).emptied == (
        "params",
    )  # a bias may well be: no penalty did it


def test_a_type_of_module_selects_what_is_under_it():
    params, _, _ = equinox_tree()
    pen = l1jax.on(eqx.nn.Linear, l1jax.L1(0.1))
    assert names(pen, params) == {"layers/2/weight", "layers/2/bias"}
    with pytest.raises(ValueError, match="no batch normalisation"):
        l1jax.batch_norm_scales({"w": jnp.ones(2)})


def test_modules_of_a_type_are_found_in_the_model_where_the_state_has_none():
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.norm = nnx.LayerNorm(3, rngs=rngs)
            self.dense = nnx.Linear(3, 2, rngs=rngs)

    model = Net(nnx.Rngs(0))
    state = nnx.state(model, nnx.Param)
    with pytest.raises(ValueError, match="has no module of this type"):
        l1jax.on(nnx.Linear, l1jax.L1(0.1)).prox(state)
    found = l1jax.paths(model, nnx.Linear)
    assert found == ["dense/bias", "dense/kernel"]
    assert names(l1jax.on(found, l1jax.L1(0.1)), state) == set(found)
    assert l1jax.paths(state) == ["dense/bias", "dense/kernel", "norm/bias", "norm/scale"]


def test_an_axis_that_a_leaf_does_not_have_gets_a_sentence():
    params = {"w": jnp.ones((2, 3))}
    with pytest.raises(TypeError, match="axis must be an integer"):
        l1jax.ChannelL1(0.1, axis=1.5)
    for pen in (
        l1jax.ChannelL1(0.1, axis=2),
        l1jax.on("w", l1jax.ChannelL1(0.1), axis=2),
        l1jax.on("w", l1jax.GroupL1(0.1, [0, 1, 2]), axis=-3),
        l1jax.on({"w": 2}, l1jax.ChannelL1(0.1)),
    ):
        with pytest.raises(ValueError, match=r"axis (is )?-?[23].*shape \(2, 3\)"):
            l1jax.prox_sgd(0.1, pen).init(params)


def test_sparsity_is_a_table_and_scalars_also_under_jit():
    params = {"a": jnp.array([0.0, 1.0, 0.0]), "b": jnp.ones((2, 2))}
    counted = jax.jit(l1jax.sparsity)(params)
    assert "2/3" in str(counted) and "2/7" in str(counted)
    np.testing.assert_allclose(counted.scalars()["sparsity/zeros"], 2 / 7)
    np.testing.assert_allclose(counted.scalars("x")["x/a/zeros"], 2 / 3)
    chex.assert_trees_all_equal(
        l1jax.masked_average({"a": jnp.full(3, 0.5), "b": None}, {"a": params["a"], "b": None}),
        {"a": jnp.array([0, 0.5, 0]), "b": None},
    )


def test_a_name_is_not_taken_for_the_value_of_a_variable():
    params = {"attn": {"query": jnp.ones(2), "value": jnp.ones(2)}, "b": jnp.ones(1)}
    assert l1jax.paths(params) == ["attn/query", "attn/value", "b"]
    assert l1jax.paths(params, "*") == ["b"]
    assert l1jax.paths(params, ["b", "attn/q*"]) == ["attn/query", "b"]
    with pytest.raises(ValueError, match="'c' matches no"):
        l1jax.paths(params, ["b", "c"])
    with pytest.raises(TypeError, match="selector must be a path pattern.*got 3"):
        l1jax.paths(params, 3)


def test_only_the_scale_of_the_norm_itself_is_found_in_a_module_that_is_one():
    from flax import nnx

    class Conditional(eqx.nn.BatchNorm):
        projection: eqx.nn.Linear
        inner: eqx.nn.LayerNorm

        def __init__(self):
            super().__init__(3, axis_name="batch", mode="ema")
            self.projection = eqx.nn.Linear(2, 3, key=jax.random.key(0))
            self.inner = eqx.nn.LayerNorm(3)

    class Wrapped(nnx.BatchNorm):
        def __init__(self):
            super().__init__(3, rngs=nnx.Rngs(0))
            self.inner = nnx.LayerNorm(3, rngs=nnx.Rngs(0))

    assert l1jax.batch_norm_scales(Conditional()) == ["weight"]
    assert l1jax.batch_norm_scales(Wrapped()) == ["scale"]
    assert l1jax.batch_norm_scales([Conditional(), eqx.nn.LayerNorm(3)]) == ["0/weight"]


def test_sparsity_of_a_batch_and_of_what_does_not_fit():
    params = {"a": jnp.array([[0.0, 1.0], [0.0, 0.0]]), "b": jnp.ones((2, 3))}
    counted = jax.vmap(l1jax.sparsity)(params)
    assert "batch of (2,)" in str(counted)
    np.testing.assert_allclose(counted.scalars()["sparsity/zeros"], [1 / 5, 2 / 5])
    np.testing.assert_allclose(counted.scalars()["sparsity/a/zeros"], [1 / 2, 1])
    with pytest.raises(TypeError, match="penalty must be"):
        l1jax.sparsity(params, "a")
    with pytest.raises(ValueError, match="groups of 4 features, but b has shape"):
        l1jax.sparsity(params, l1jax.on("b", l1jax.GroupL1(0.1, [0, 0, 1, 1])))


def test_an_average_of_a_module_keeps_what_is_not_an_array():
    model = eqx.nn.MLP(2, 1, 3, 1, key=jax.random.key(0))
    sparse = eqx.tree_at(lambda m: m.layers[0].weight, model, jnp.zeros((3, 2)))
    average = l1jax.masked_average(model, sparse)
    assert average.activation is model.activation
    host = l1jax.masked_average(np.array([0.3, 0.2]), np.array([0.5, 0.0]))
    np.testing.assert_array_equal(host, [0.3, 0.0])
    assert not average.layers[0].weight.any() and average.layers[1].weight.all()


@pytest.mark.parametrize(
    ("average", "message"),
    [
        ({"w": jnp.ones(2)}, r"average has no leaf \['b'\]"),
        ({"w": jnp.ones(2), "b": None, "c": jnp.ones(1)}, r"params has no leaf \['c'\]"),
        ({"w": jnp.ones(3), "b": None}, r"shapes of leaf \['w'\] are \(3,\) and \(2,\)"),
        (optax.ema(0.9).init({"w": jnp.ones(2), "b": None}), r"has no leaf"),
        ([jnp.ones(2), None], "has no leaf"),
    ],
)
def test_an_average_of_other_parameters_is_refused(average, message):
    params = {"w": jnp.ones(2), "b": None}
    with pytest.raises(ValueError, match=f"masked_average.*needs an average of these.*{message}"):
        l1jax.masked_average(average, params)
    with pytest.raises(ValueError, match="trees are of different kinds"):
        l1jax.masked_average((jnp.ones(2), None), [jnp.ones(2), None])
