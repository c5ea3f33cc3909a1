"""What optax promises of every transformation, of all of l1jax's; and parameters of little precision."""

import functools
import os
import subprocess
import sys

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

import l1jax

PEN = l1jax.L1(0.3)


def chained_step(learning_rate, penalty, **options):
    step = l1jax.prox_step(learning_rate, penalty, **options)
    return optax.chain(optax.sgd(learning_rate), step)


def proximal(learning_rate, penalty, **options):
    return l1jax.proximal(learning_rate, penalty, l1jax.directions.adam(b2=0.9), **options)


FACTORIES = {
    "prox_sgd": l1jax.prox_sgd,
    "momentum": functools.partial(l1jax.prox_sgd, momentum=0.5, nesterov=True),
    "prox_adam": l1jax.prox_adam,
    "prox_adamw": l1jax.prox_adamw,
    "prox_rmsprop": l1jax.prox_rmsprop,
    "rmsprop_momentum": functools.partial(l1jax.prox_rmsprop, momentum=0.5, centered=True),
    "prox_adagrad": l1jax.prox_adagrad,
    "proximal": proximal,
    "prox_step": chained_step,
    "rda": l1jax.rda,
    "ftrl_proximal": l1jax.ftrl_proximal,
}
OPTIONS = {
    "nearest": {},
    "master_weights": {"master_weights": True},
    "rounding_key": {"rounding_key": 7},
}
every_factory = pytest.mark.parametrize("name", FACTORIES)
every_option = pytest.mark.parametrize("option", OPTIONS)


def made(name, option="nearest", rate=0.125):  # a power of 2: exact in optax.sgd, too
    return FACTORIES[name](rate, PEN, **OPTIONS[option])


def parameters(low=jnp.bfloat16):
    """A tree of two precisions, with what is not trained."""
    return {
        "low": jnp.array([1.0, -0.02, 0.0, 0.5], low),
        "full": jnp.array([[1.0, -0.02]], jnp.float32),
        "frozen": None,
    }


def gradients(params, seed=0):
    """Numbers that bfloat16 represents."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: jnp.asarray(rng.integers(-2, 3, p.shape) / 4, p.dtype), params)


def aspects(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)


@every_option
@every_factory
def test_state_and_updates_keep_their_types_abstractly_and_in_fact(name, option):
    tx, w = made(name, option), parameters()
    abstract = jax.eval_shape(lambda: w)
    state = jax.eval_shape(tx.init, abstract)
    updates, after = jax.eval_shape(tx.update, abstract, state, abstract)
    assert aspects(after) == aspects(state)
    tx.init(abstract)  # shapes and dtypes are all that it may ask for
    chex.assert_trees_all_equal_shapes_and_dtypes(tx.init(w), state)
    # Where a step is exact in float32, so is its update; else it has the dtype of its parameter.
    low = jnp.bfloat16 if option == "nearest" else jnp.float32
    assert updates["low"].dtype == low and updates["full"].dtype == jnp.float32
    assert updates["frozen"] is None


@pytest.mark.core
@every_factory
def test_updates_are_compiled_once_take_other_arguments_and_may_donate(name):
    chex.clear_trace_counter()
    tx, w = made(name, "master_weights"), parameters()

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    @chex.assert_max_traces(1)
    def step(w, state, g, loss):
        u, state = tx.update(g, state, w, value=loss, unknown="to all")
        return optax.apply_updates(w, u), state

    state = jax.jit(tx.init)(w)
    expected, expected_state = parameters(), tx.init(parameters())
    for t in range(2):
        g = gradients(expected, t)
        u, expected_state = tx.update(g, expected_state, expected)
        expected = optax.apply_updates(expected, u)
        w, state = step(w, state, g, jnp.float32(t))
    chex.assert_trees_all_close(w, expected, rtol=1e-6)


@every_factory
def test_hyperparameters_are_injected(name):
    w, rates = parameters(), np.array([0.1, 0.05])
    factory = FACTORIES[name]
    injected = optax.inject_hyperparams(
        lambda learning_rate, strength: factory(
            learning_rate, PEN, strength=strength, master_weights=True
        ),
        hyperparam_dtype=jnp.float32,
    )(learning_rate=lambda t: jnp.asarray(rates, jnp.float32)[t], strength=0.5)
    plain = factory(0.1, PEN, strength=0.5, master_weights=True)
    g = gradients(w)
    u, state = injected.update(g, injected.init(w), w)
    expected, _ = plain.update(g, plain.init(w), w)
    chex.assert_trees_all_close(u, expected, rtol=1e-6)
    assert state.hyperparams["strength"] == 0.5
    u, state = injected.update(g, state, optax.apply_updates(w, u))
    np.testing.assert_allclose(state.hyperparams["learning_rate"], 0.05)


def test_the_key_of_stochastic_rounding_is_a_static_argument_of_inject_hyperparams():
    w = {"low": jnp.ones(64, jnp.bfloat16)}
    make = functools.partial(optax.inject_hyperparams, hyperparam_dtype=jnp.float32)
    static = ("penalty", "rounding_key")
    tx = make(l1jax.prox_sgd, static_args=static)(0.001, penalty=PEN, rounding_key=3)
    u, _ = jax.jit(tx.update)(w, tx.init(w), w)
    plain = l1jax.prox_sgd(0.001, PEN, rounding_key=3)
    chex.assert_trees_all_equal(u, plain.update(w, plain.init(w), w)[0])
    with pytest.raises(TypeError, match="static_args"):
        tx = make(l1jax.prox_sgd, static_args=("penalty",))(0.001, penalty=PEN, rounding_key=3)
        tx.init(w)


@every_option
@every_factory
@pytest.mark.slow
def test_gradients_are_accumulated_to_their_mean(name, option):
    w = parameters()
    halves = [gradients(w, 1), gradients(w, 2)]
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *halves)
    tx = optax.MultiSteps(made(name, option), 2)
    update, state, new = jax.jit(tx.update), tx.init(w), w
    for g in halves:
        u, state = update(g, state, new)
        new = optax.apply_updates(new, u)
    chex.assert_trees_all_equal_shapes_and_dtypes(new, w)
    plain = made(name, option)
    u, _ = jax.jit(plain.update)(mean, plain.init(w), w)
    chex.assert_trees_all_close(new, optax.apply_updates(w, u), rtol=1e-6)


# Parameters of little precision.

LOW = pytest.mark.parametrize("low", [jnp.bfloat16, jnp.float16], ids=["bfloat16", "float16"])


def trained(tx, w, steps, seed=0):
    """After some steps whose gradients do not depend on the parameters: all states and parameters."""
    state, update = tx.init(w), jax.jit(lambda g, s, w: step(tx, g, s, w))
    for t in range(steps):
        w, state = update(gradients(w, seed + t), state, w)
    return w, state


def step(tx, g, state, w):
    u, state = tx.update(g, state, w)
    return optax.apply_updates(w, u), state


def rounded(x, dtype):
    """By NumPy, to the nearest."""
    return np.asarray(x, np.float32).astype(dtype)


def test_master_weights_keep_what_lies_below_the_normal_numbers_of_float16():
    w = jnp.array([3e-5, -4e-5, 6e-8, 0.5], jnp.float16)
    tx = l1jax.prox_sgd(1e-3, l1jax.L1(1e-9), master_weights=True)
    u, _ = tx.update(jnp.zeros_like(w), tx.init(w), w)
    np.testing.assert_array_equal(optax.apply_updates(w, u), w)


@LOW
@every_factory
def test_master_weights_are_training_in_float32_then_rounded(name, low):
    tx, w = made(name, "master_weights"), parameters(low)
    wide = jax.tree.map(lambda p: p.astype(jnp.float32), w)
    for steps in (1, 4):
        new, _ = trained(tx, w, steps)
        exact, _ = trained(made(name), wide, steps)
        assert (np.asarray(exact["low"]) == 0).any() and (np.asarray(exact["low"]) != 0).any()
        np.testing.assert_array_equal(new["low"], rounded(exact["low"], low))
        np.testing.assert_array_equal(new["full"], exact["full"])
        zeros = np.asarray(new["low"]) == 0
        assert not np.signbit(np.asarray(new["low"], np.float32))[zeros].any()


@LOW
@every_factory
def test_stochastic_rounding_keeps_every_zero_of_the_step_in_float32(name, low):
    w = parameters(low)
    wide = jax.tree.map(lambda p: p.astype(jnp.float32), w)
    new, _ = trained(made(name, "rounding_key"), w, 1)
    exact, _ = trained(made(name), wide, 1)
    zeros = np.asarray(exact["low"]) == 0
    assert zeros.any()
    np.testing.assert_array_equal(np.asarray(new["low"] == 0), zeros)
    assert not np.signbit(np.asarray(new["low"], np.float32))[zeros].any()
    np.testing.assert_array_equal(new["full"], exact["full"])
    eps = float(jnp.finfo(low).eps)
    np.testing.assert_allclose(np.asarray(new["low"], float), exact["low"], rtol=eps)


@LOW
@pytest.mark.core
def test_steps_below_half_a_spacing_are_lost_unless_an_argument_keeps_them(low):
    w, steps = jnp.full(400, 0.5, low), 1000
    penalty = 1e-3 if low == jnp.bfloat16 else 1e-4  # steps of a tenth of that

    def after(**options):
        tx = l1jax.prox_sgd(0.1, l1jax.L1(penalty), **options)

        def body(carry, _):
            return step(tx, jnp.zeros_like(w), carry[1], carry[0]), None

        run = jax.jit(lambda: jax.lax.scan(body, (w, tx.init(w)), None, steps)[0][0])
        return np.asarray(run(), np.float64)

    end = 0.5 - steps * 0.1 * penalty  # without a gradient each step shrinks by the threshold
    assert (after() == 0.5).all()
    sums = steps * 2.0**-25  # of the rounding errors in float32
    kept = after(master_weights=True)
    spacing = float(jnp.finfo(low).eps) / 4
    assert (np.abs(kept - end) <= spacing / 2 + sums).all()
    found = after(rounding_key=jax.random.key(1))
    # A step of a fraction q of the spacing s varies by q(1 − q)s² at most.
    fraction = 0.1 * penalty / spacing
    deviation = spacing * np.sqrt(steps * fraction * (1 - fraction) / len(found))
    assert abs(found.mean() - end) < 5 * deviation
    assert found.std() > 0


@hypothesis.given(
    st.lists(st.floats(-4e4, 4e4, width=32), min_size=8, max_size=8),
    st.sampled_from([np.float16, ml_dtypes.bfloat16]),
    st.integers(0, 2**31 - 1),
)
@pytest.mark.fast
def test_stochastic_rounding_picks_one_of_the_two_neighbours(values, dtype, seed):
    from l1jax.training._low_precision import stochastic_round

    x = np.array(values, np.float32)
    hypothesis.assume((np.abs(x[x != 0]) > 1e-30).all())  # XLA flushes what is less
    found = np.asarray(stochastic_round(jax.random.key(seed), jnp.asarray(x), dtype))
    assert (found.astype(dtype).astype(np.float32) == found).all()
    near = x.astype(dtype)
    exact = near.astype(np.float32) == x
    assert (found[exact] == x[exact]).all()
    # The neighbours of x are those of its nearest, on either side: as integers, one more or less.
    bits = near.view(np.uint16)
    others = [(bits + np.uint16(k)).view(dtype).astype(np.float32) for k in (1, 2**16 - 1)]
    allowed = np.stack([near.astype(np.float32), *others])
    assert ((allowed == found).any(axis=0) | exact | (np.abs(x) < 1e-7)).all()
    between = (np.minimum(found, x) <= near) & (near <= np.maximum(found, x))
    assert (between | ((found - x) * (near.astype(np.float32) - x) <= 0)).all()


def test_the_mean_of_stochastic_rounding_is_the_number():
    from l1jax.training._low_precision import stochastic_round

    x = np.repeat(np.array([1.001, -0.3, 3e-5, 2.0**-25, 1000.3], np.float32), 4096).reshape(5, -1)
    for dtype in (np.float16, ml_dtypes.bfloat16):
        found = np.asarray(stochastic_round(jax.random.key(0), jnp.asarray(x), dtype), np.float64)
        spacing = found.max(axis=1) - found.min(axis=1)
        assert np.abs(found.mean(axis=1) - x[:, 0]).max(where=True, initial=0) < 1
        off = np.abs(found.mean(axis=1) - x[:, 0].astype(np.float64))
        assert (off <= 5 * 0.5 * spacing / np.sqrt(4096)).all()
        assert (spacing > 0).sum() >= 4
    special = jnp.array([0.0, jnp.inf, -jnp.inf, jnp.nan])
    kept = stochastic_round(jax.random.key(0), special.astype(jnp.float32), jnp.bfloat16)
    np.testing.assert_array_equal(kept, special)


def test_parameters_that_were_set_otherwise_are_what_master_weights_go_on_from():
    tx = l1jax.prox_sgd(0.25, l1jax.L1(0.0), master_weights=True)
    w = jnp.array([1.0, 1.0], jnp.bfloat16)
    g = jnp.full(2, 2.0**-10, jnp.bfloat16)
    w, state = step(tx, g, tx.init(w), w)
    np.testing.assert_array_equal(state.master, 1 - 2.0**-12)
    w, state = step(tx, g, state, w.at[1].set(3.0))
    np.testing.assert_array_equal(state.master, [1 - 2.0**-11, 3 - 2.0**-12])


def test_updates_in_float32_pass_through_apply_if_finite_with_gradients_in_float32():
    w = {"low": jnp.array([1.0, 0.02], jnp.bfloat16)}
    g = jax.tree.map(jnp.zeros_like, w)
    for options in (OPTIONS["master_weights"], OPTIONS["rounding_key"]):
        inner = optax.apply_if_finite(l1jax.prox_sgd(0.1, PEN, **options), 3)
        tx = l1jax.check_last(optax.chain(l1jax.cast_gradients(jnp.float32), inner))
        new, state = jax.jit(lambda g, s, w, tx=tx: step(tx, g, s, w))(g, tx.init(w), w)
        assert new["low"].dtype == jnp.bfloat16 and new["low"][1] == 0 and new["low"][0] < 1
        bad = jax.tree.map(lambda x: x * jnp.nan, g)
        chex.assert_trees_all_equal(step(tx, bad, state, new)[0], new)


def test_what_keeps_small_steps_is_named_once_and_is_what_it_says():
    for make in FACTORIES.values():
        with pytest.raises(ValueError, match="not both"):
            make(0.1, PEN, master_weights=True, rounding_key=1)
        with pytest.raises(TypeError, match="rounding_key must be one key"):
            make(0.1, PEN, rounding_key=0.5)
        with pytest.raises(TypeError, match="master_weights"):
            make(0.1, PEN, master_weights=jnp.float32)
    tx = l1jax.prox_sgd(0.1, PEN, master_weights=True)
    with pytest.raises(ValueError, match="scale comes after a proximal step"):
        l1jax.check_last(optax.chain(tx, optax.scale(0.5)))
    with pytest.raises(ValueError, match="a proximal step needs params"):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)))


ON_TWO_DEVICES = """
import sys
sys.path.insert(0, {tests!r})
import jax, jax.numpy as jnp, numpy as np, optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from test_transformations import FACTORIES, OPTIONS, made

w = {{"low": jnp.linspace(-1, 1, 8).astype(jnp.bfloat16), "full": jnp.linspace(-1, 1, 8)[:, None]}}

def moved(tx, w):
    return jax.jit(lambda w: optax.apply_updates(w, tx.update(w, tx.init(w), w)[0]))(w)

def spread(tree):
    return [(x.shape, x.dtype, jax.typeof(x).sharding.spec) for x in jax.tree.leaves(tree)]

explicit, automatic = (
    jax.make_mesh((2,), ("x",), axis_types=(kind,)) for kind in (AxisType.Explicit, AxisType.Auto)
)
with jax.set_mesh(explicit):  # where shardings are part of the types
    placed = jax.device_put(w, NamedSharding(explicit, P("x")))
    for name in FACTORIES:
        for option in OPTIONS if name == "prox_adam" else ("nearest",):
            tx = made(name, option)
            state = jax.eval_shape(tx.init, placed)
            u, after = jax.eval_shape(tx.update, placed, state, placed)
            assert spread(after) == spread(state), name
            for k in w:
                assert jax.typeof(u[k]).sharding == jax.typeof(placed[k]).sharding, (name, k)
for mesh in (explicit, automatic):
    placed = jax.device_put(w, NamedSharding(mesh, P("x")))
    for option in OPTIONS:
        tx = made("prox_sgd", option)
        with jax.set_mesh(mesh):
            new = moved(tx, placed)
        for k in w:
            assert new[k].sharding.is_equivalent_to(placed[k].sharding, new[k].ndim), option
            found, expected = np.float32(new[k]), np.float32(moved(tx, w)[k])
            np.testing.assert_array_equal(found == 0, expected == 0)
            np.testing.assert_allclose(found, expected, rtol=1e-2 if k == "low" else 1e-6)
print("done")
"""


def on_two_devices(program):
    flags = "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"
    found = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ
        | {
            "XLA_FLAGS": flags,
            "JAX_ENABLE_X64": "0",
            "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir or "",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
        },
        capture_output=True,
        text=True,
    )
    assert found.stdout == "done\n", found.stderr[-2000:]


def test_states_and_updates_are_spread_over_devices_as_the_parameters_are():
    on_two_devices(ON_TWO_DEVICES.format(tests=os.path.dirname(__file__)))
