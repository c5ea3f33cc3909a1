"""Groups under a compiled optimiser: norms from arrays that are made twice, and what that must not change."""

import functools
import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import l1jax
from l1jax import _group_shrinkage as shrinkage
from l1jax.training._rematerialisation import Rematerialiser

LAM = 0.02
OPTIMISERS = {
    "sgd": l1jax.prox_sgd,
    "momentum": functools.partial(l1jax.prox_sgd, momentum=0.9, nesterov=True),
    "adam": l1jax.prox_adam,
    "nesterov": functools.partial(l1jax.prox_adam, nesterov=True),
    "half moments": functools.partial(
        l1jax.prox_adam, mu_dtype=jnp.bfloat16
    ),  # no rematerialisation
    "adamw": l1jax.prox_adamw,
    "rmsprop": functools.partial(l1jax.prox_rmsprop, momentum=0.5),
    "centred": functools.partial(l1jax.prox_rmsprop, centered=True),
    "adagrad": l1jax.prox_adagrad,
}
PENALTIES = {
    "rows": l1jax.on("w", l1jax.ChannelL1(LAM, axis=0)),
    "columns": l1jax.on("w", l1jax.ChannelL1(LAM, axis=-1)),
    "middle": l1jax.on("deep/*", l1jax.ChannelL1(LAM, axis=1)),
    "all": l1jax.ChannelL1(LAM, axis=1),
    "joined": l1jax.on({"w": 0, "b": 0}, l1jax.ChannelL1(LAM)),
    "axis": l1jax.on("w", l1jax.ChannelL1(LAM), axis=1),
    "several": l1jax.penalties(
        l1jax.on("w", l1jax.GroupL1(LAM, [0, 0, 1, 1, 1, 2]), axis=0),
        l1jax.on("b", l1jax.L1(LAM)),
        l1jax.on("deep/*", l1jax.ChannelL1(LAM, axis=2)),
    ),
}


def start():
    """Parameters with a group at zero, a tiny one and a dead one, and gradients that favour some of them."""
    keys = jax.random.split(jax.random.key(0), 6)
    params = {
        "w": jax.random.normal(keys[0], (6, 4)).at[0].set(0).at[1].multiply(1e-6).at[2].set(0),
        "b": jax.random.normal(keys[1], (6, 1)),
        "deep": {"k": jax.random.normal(keys[2], (2, 3, 5))},
    }
    grads = jax.tree.map(lambda p: 0.3 * jax.random.normal(keys[3], p.shape) + 0.1 * p, params)
    grads["w"] = grads["w"].at[2].set(0)
    return params, grads


@pytest.mark.parametrize("name", OPTIMISERS)
@pytest.mark.slow
def test_compiled_steps_are_those_of_eager_code(name):
    """Eager code takes the prox of arrays, compiled code of remats: different sums of the same numbers."""
    most = [which for which in PENALTIES if which != "all"]
    for which in most if name in ("sgd", "adam") else ("several",):
        params, grads = start()
        tx = OPTIMISERS[name](0.1, PENALTIES[which])
        states, step = [tx.init(params)] * 2, jax.jit(tx.update)
        for _ in range(2):
            one, states[0] = tx.update(grads, states[0], params)
            two, states[1] = step(grads, states[1], params)
            ends = [optax.apply_updates(params, u) for u in (one, two)]
            # A moment that is rounded to bfloat16 may differ by its last place.
            rtol = 2e-3 if name == "half moments" else 1e-10
            for a, b in zip(*map(jax.tree.leaves, ends), strict=True):
                np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-13)
                np.testing.assert_array_equal(a == 0, b == 0)
            params = ends[0]
        assert any(bool((x == 0).any()) for x in jax.tree.leaves(params))


@pytest.mark.fast
def test_a_penalty_of_all_leaves_and_a_plain_array():
    params, grads = start()
    params, grads = {"w": params["w"]}, {"w": grads["w"]}
    tx = l1jax.prox_adam(0.1, PENALTIES["all"])
    expected, _ = tx.update(grads, tx.init(params), params)
    found, _ = jax.jit(tx.update)(grads, tx.init(params), params)
    np.testing.assert_allclose(found["w"], expected["w"], rtol=1e-12)
    found, _ = jax.jit(tx.update)(grads["w"], tx.init(params["w"]), params["w"])
    np.testing.assert_allclose(found, expected["w"], rtol=1e-12)
    assert (optax.apply_updates(params, expected)["w"] == 0).any()


@pytest.mark.core
@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_derivatives_of_a_compiled_step_are_its_slopes(name):
    """By the strength, through two steps, against a difference quotient."""
    params, grads = start()

    def loss(strength):
        tx = OPTIMISERS[name](0.1, PENALTIES["columns"], strength=strength)
        p, state = params, tx.init(params)
        for _ in range(2):
            u, state = tx.update(grads, state, p)
            p = optax.apply_updates(p, u)
        return jnp.sum(p["w"] ** 2 * jnp.arange(1.0, 5.0))

    compiled = jax.jit(loss)
    slope = (compiled(1.001) - compiled(0.999)) / 0.002
    assert abs(slope) > 1e-3
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(1.0), slope, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(jax.jacfwd(loss))(1.0), slope, rtol=1e-5)
    second = (jax.jit(jax.grad(loss))(1.001) - jax.jit(jax.grad(loss))(0.999)) / 0.002
    np.testing.assert_allclose(jax.jit(jax.hessian(loss))(1.0), second, rtol=1e-4, atol=1e-8)


def test_steps_in_a_batch_are_the_steps_of_each():
    params, grads = start()
    tx = l1jax.prox_adam(0.1, PENALTIES["rows"])
    strengths = jnp.array([0.1, 1.0, 10.0])

    def step(strength):
        own = l1jax.prox_adam(0.1, PENALTIES["rows"], strength=strength)
        return own.update(grads, tx.init(params), params)[0]["w"]

    batch = jax.jit(jax.vmap(step))(strengths)
    for k, strength in enumerate(strengths):
        np.testing.assert_allclose(batch[k], jax.jit(step)(strength), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("pen", [l1jax.ChannelL1(0.5, axis=-1), l1jax.GroupL1(0.5, [0, 0, 1])])
def test_eager_steps_compile_once(pen, caplog):
    params, grads = jnp.ones((3, 4)), jnp.full((3, 4), 0.1)
    tx = l1jax.prox_adam(0.1, pen)
    _, state = tx.update(grads, tx.init(params), params)
    with jax.log_compiles():
        caplog.clear()
        tx.update(grads, state, params)
    assert not [record for record in caplog.records if "Compiling" in record.getMessage()]


def test_an_axis_is_an_integer():
    with pytest.raises(TypeError, match="axis must be an integer.*got 1.5"):
        l1jax.ChannelL1(0.5, axis=1.5)


def bisected(z, threshold):
    """The root of Σ z²/(θ + threshold)² = 1 in extended precision, 0 where there is none."""
    z, threshold = z.astype(np.longdouble), threshold.astype(np.longdouble)
    if np.sum((z / threshold) ** 2) <= 1:
        return np.longdouble(0)
    low, high = np.longdouble(0), np.sqrt(np.sum(z**2))
    for _ in range(100):
        middle = (low + high) / 2
        if np.sum((z / (middle + threshold)) ** 2) > 1:
            low = middle
        else:
            high = middle
    return (low + high) / 2


STARTS = {
    "norm": lambda z, root: np.linalg.norm(z, axis=1),
    "near": lambda z, root: 1.01 * root.astype(float),
    "none": lambda z, root: np.zeros(len(z)),
    "far": lambda z, root: 1e6 * np.linalg.norm(z, axis=1),
    "wrong": lambda z, root: np.full(len(z), np.inf),
}


@pytest.mark.float32
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_roots_are_exact_to_rounding_from_any_start(dtype):
    """Thresholds over 12 decades, groups far from zero and at the brink, against bisection."""
    dtype = np.dtype(dtype) if jax.config.jax_enable_x64 else np.dtype("float32")
    eps, rng = np.finfo(dtype).eps, np.random.default_rng(0)
    axes = shrinkage.Channels(0, 2)
    solve = jax.jit(
        lambda z, threshold, start: shrinkage.roots(lambda _: (z, threshold), start, axes)
    )
    for decades, scale in ((0, 1.0), (1, 1e-6), (3, 1.0), (6, 1e6)):
        z = rng.standard_normal((60, 9)) * 10.0 ** rng.standard_normal((60, 9))
        threshold = 10.0 ** (decades * rng.standard_normal(z.shape) / 3)
        size = np.sqrt(np.sum((z / threshold) ** 2, axis=1, keepdims=True))
        threshold[:40] *= size[:40] * 10.0 ** rng.uniform(-6, 0.5, (40, 1))
        threshold[40:] *= size[40:] * (1 - 10.0 ** rng.uniform(-5, -1, (20, 1)))
        z, threshold = (np.asarray(scale * x, dtype) for x in (z, threshold))
        root = np.array([bisected(*pair) for pair in zip(z, threshold, strict=True)])
        assert 0 < np.sum(root == 0) < 30
        for make in STARTS.values():
            first = jnp.asarray(make(z, root)[:, None], dtype)
            found = np.asarray(solve(jnp.asarray(z), jnp.asarray(threshold), first))[:, 0]
            np.testing.assert_array_equal(found == 0, root == 0)
            # An error of eps in z moves θ by eps·‖z‖ and more: twenty of these are allowed.
            live = root > 0
            slope = np.sum((z**2 / (root[:, None] + threshold) ** 3)[live], axis=1)
            wiggle = eps / slope
            assert (np.abs(found - root)[live] <= 20 * wiggle).all()


@pytest.mark.float32
def test_a_bend_that_is_larger_than_its_step_is_not_believed():
    """Two thresholds of eps beside a plain one: from zero the second order points far beyond the norm."""
    z = jnp.array([[1000.0, 1500.0, 1500.0]])
    threshold = jnp.array([[1.0, 2.0, 0.0]]) * jnp.finfo(z.dtype).eps + jnp.array([[0, 0, 100.0]])
    found = shrinkage.roots(lambda _: (z, threshold), jnp.zeros((1, 1)), shrinkage.Channels(0, 2))
    expected = float(bisected(np.asarray(z[0]), np.asarray(threshold[0])))
    np.testing.assert_allclose(found, expected, rtol=4 * jnp.finfo(z.dtype).eps)


def test_a_step_passes_once_over_groups_that_are_far_from_zero(monkeypatch):
    """And twice where one is about to vanish: the start is the norm of the parameters, one step old."""
    counts, loop = [], jax.lax.while_loop

    def counted(condition, body, state):
        out = loop(condition, body, state)
        jax.debug.callback(lambda n: counts.append(int(n)), out[0])
        return out

    monkeypatch.setattr(jax.lax, "while_loop", counted)
    keys = jax.random.split(jax.random.key(0), 2)
    params = jax.random.normal(keys[0], (200, 30), jnp.float32)
    grads = 0.1 * jax.random.normal(keys[1], params.shape, jnp.float32)
    for level, passes in ((1.0, {1}), (3e-3, {2, 3})):
        tx = l1jax.prox_adam(1e-3, l1jax.ChannelL1(1e-2, axis=0))
        p = params.at[:5].multiply(level)
        state, step = tx.init(p), jax.jit(tx.update)
        counts.clear()
        u, state = step(grads, state, p)
        jax.block_until_ready(step(grads, state, optax.apply_updates(p, u)))
        jax.effects_barrier()
        assert set(counts) <= passes and len(counts) == 2


@pytest.mark.parametrize("shape", [(600, 300), (300, 602), (131101, 1), (1, 131101), (7, 32, 600)])
def test_sums_over_channels_are_those_of_numpy_however_they_are_folded(shape):
    """Also where no axis has a divisor, and along the last axis."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, *shape))
    for axis in range(len(shape)):
        others = tuple(k for k in range(len(shape)) if k != axis)
        channels = shrinkage.Channels(axis, len(shape))
        (one, two), (top,) = jax.jit(lambda a, b, c=channels: c.totals((a, b), (a,)))(a, b)
        np.testing.assert_allclose(one, a.sum(others, keepdims=True), atol=1e-9)
        np.testing.assert_allclose(two, b.sum(others, keepdims=True), atol=1e-9)
        np.testing.assert_array_equal(top, a.max(others, keepdims=True))


MEMORY = """
import jax, jax.numpy as jnp, optax, l1jax
for make in (l1jax.prox_sgd, l1jax.prox_adam, l1jax.prox_adamw, l1jax.prox_rmsprop):
    for axis in (0, 1):
        tx = make(1e-3, l1jax.on("w", l1jax.ChannelL1(1e-4, axis=axis)))
        params = {"w": jax.ShapeDtypeStruct((1000, 640), jnp.float32)}
        def update(params, state, grads):
            u, state = tx.update(grads, state, params)
            return optax.apply_updates(params, u), state
        step = jax.jit(update, donate_argnums=(0, 1))
        compiled = step.lower(params, jax.eval_shape(tx.init, params), params).compile()
        print(compiled.memory_analysis().temp_size_in_bytes / (4 * 1000 * 640))
"""


@pytest.mark.slow
def test_a_step_keeps_nothing_of_the_size_of_its_parameters():
    """Partial sums take a half at most. With the flags of these tests XLA fuses less, so in a new process."""
    found = subprocess.run(
        [sys.executable, "-c", MEMORY],
        capture_output=True,
        text=True,
        check=True,
        env={"JAX_PLATFORMS": "cpu"},
    )
    shares = [float(line) for line in found.stdout.split()]
    assert len(shares) == 8 and max(shares) < 0.6


@pytest.mark.core
def test_what_an_array_follows_from_is_found_or_is_said_to_be_gone():
    def compute(gradients, state, params):
        total, count = state["total"] + gradients, state["count"] + 1
        pairs = [(params - total, count * total), (params - state["total"], count)]
        return pairs, {"total": total, "count": count}

    arguments = (jnp.ones(3), {"total": jnp.arange(3.0), "count": jnp.zeros(())}, jnp.full(3, 9.0))
    pairs, kept = compute(*arguments)
    remats = Rematerialiser(compute, arguments, kept)
    remat = remats.of(0, estimate=arguments[2])
    # The new sum, not the old one and a gradient.
    assert sorted(jnp.ndim(x) for x in remat.inputs) == [0, 1, 1]
    for found, expected in zip(remat.compute(remat.inputs, None), pairs[0], strict=True):
        np.testing.assert_array_equal(found, expected)
    assert remats.of(1, estimate=arguments[2]) is None  # the old sum is overwritten


def test_charges_over_many_decades_shrink_as_their_root_says():
    """An entry with a huge gradient has a small threshold: θ is far below its thresholds, or above most."""
    params = jnp.array([[1e-4], [0.9]])
    tx = l1jax.prox_adam(1e-5, l1jax.ChannelL1(1e-3 / 2**0.5, axis=-1))
    for size in (1e2, 1e4, 1e6, 1e8):
        grads = jnp.array([[size], [0.0]])
        state = tx.init(params)
        for update in (tx.update, jax.jit(tx.update)):
            new = optax.apply_updates(params, update(grads, state, params)[0])[:, 0]
            z = np.array([1e-4 - 1e-5, 0.9])
            threshold = 1e-3 * 1e-5 / (np.array([size, 0]) + 1e-8)
            root = float(bisected(z, threshold))
            np.testing.assert_allclose(new, z * root / (root + threshold), rtol=1e-6)


@pytest.mark.parametrize("make", [l1jax.prox_sgd, l1jax.prox_adam])
def test_at_strength_zero_what_is_no_number_harms_its_entry_alone(make):
    params, grads = jnp.ones((4, 3)), jnp.ones((4, 3)).at[1, 1].set(jnp.nan)
    tx = make(0.1, l1jax.ChannelL1(1.0, axis=-1), strength=0.0)
    for update in (tx.update, jax.jit(tx.update)):
        moves, _ = update(grads, tx.init(params), params)
        np.testing.assert_array_equal(jnp.isnan(moves), jnp.isnan(grads))


def test_a_prox_of_ones_own_is_the_one_that_is_taken():
    class Mine(l1jax.ChannelL1):
        def prox(self, z, step=1.0):
            return jax.tree.map(jnp.zeros_like, z)

    params = {"w": jnp.ones((4, 3))}
    for pen in (Mine(1e-3), l1jax.on("w", Mine(1e-3))):
        tx = l1jax.prox_sgd(0.1, pen)
        u, _ = jax.jit(tx.update)(params, tx.init(params), params)
        np.testing.assert_array_equal(u["w"], -params["w"])


@pytest.mark.parametrize("make", [l1jax.prox_sgd, l1jax.prox_adam])
@pytest.mark.slow
def test_a_model_with_leaves_that_are_no_arrays_trains(make):
    model = eqx.nn.MLP(3, 2, 8, 2, key=jax.random.key(0))
    tx = make(0.1, l1jax.on("layers/*/weight", l1jax.ChannelL1(0.1, axis=0)))
    state = tx.init(eqx.filter(model, eqx.is_array))
    grads = eqx.filter_grad(lambda m: jnp.sum(m(jnp.ones(3)) ** 2))(model)
    moves, _ = eqx.filter_jit(tx.update)(grads, state, model)
    plain, _ = tx.update(grads, state, model)
    for a, b in zip(*map(jax.tree.leaves, (moves, plain)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_only_work_on_each_entry_is_done_again():
    """Not a norm of all gradients, which clipping takes, nor what calls back."""

    def noted(x):
        calls.append(1)
        return x

    def called(g, state, params=None):
        shape = jax.ShapeDtypeStruct(g.shape, g.dtype)
        return jax.pure_callback(noted, shape, g, vmap_method="sequential"), state

    calls = []
    callback = optax.GradientTransformation(lambda params: optax.EmptyState(), called)
    params, grads = start()[0]["w"], start()[1]["w"]
    for direction in (optax.clip_by_global_norm(1.0), callback):
        tx = l1jax.proximal(0.1, l1jax.ChannelL1(LAM), direction, metric=lambda state, params: 1.0)
        calls.clear()
        one, _ = jax.jit(tx.update)(grads, tx.init(params), params)
        jax.block_until_ready(one)
        assert len(calls) == (direction is callback)
        two, _ = tx.update(grads, tx.init(params), params)
        np.testing.assert_allclose(one, two, rtol=1e-12, atol=1e-15)
        remats = Rematerialiser(
            lambda g, s, p, d=direction: ([(p - d.update(g, s, p)[0], 1.0)], s),
            (grads, direction.init(params), params),
            direction.init(params),
        )
        assert remats.of(0, estimate=params) is None
