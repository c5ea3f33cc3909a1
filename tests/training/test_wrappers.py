"""Proximal steps within optax's wrappers and JAX's transformations; the averaging methods."""

import functools
import os
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import l1jax

PEN = l1jax.L1(1.0)
W = {"a": jnp.array([2.0, -0.3, -0.0, 0.1]), "b": jnp.array([[3.0, 0.2]]), "c": None}
G = jax.tree.map(lambda w: 0.1 * jnp.ones_like(w), W)


@functools.cache
def plainly(inner):
    """A step without wrapper."""
    return moved(INNER[inner]())[0]


def moved(tx, w=None, g=None):
    w, g = W if w is None else w, G if g is None else g
    state = tx.init(w)
    update = jax.jit(tx.update)
    u, state = update(g, state, w)
    return optax.apply_updates(w, u), state


INNER = {
    "sgd": lambda: l1jax.prox_sgd(0.5, PEN),
    "adam": lambda: l1jax.prox_adam(0.05, PEN),
    "adamw": lambda: l1jax.prox_adamw(0.05, PEN),
    "rmsprop": lambda: l1jax.prox_rmsprop(0.05, PEN),
    "adagrad": lambda: l1jax.prox_adagrad(0.5, PEN),
    "step": lambda: optax.chain(optax.sgd(0.5), l1jax.prox_step(0.5, PEN)),
    "rda": lambda: l1jax.rda(0.5, PEN),
    "ftrl": lambda: l1jax.ftrl_proximal(0.5, PEN),
}
WRAPPERS = {
    "chain": lambda tx: optax.chain(optax.clip_by_global_norm(10.0), optax.clip(5.0), tx),
    "masked": lambda tx: optax.masked(tx, {"a": True, "b": True, "c": None}),
    "partition": lambda tx: optax.partition({"x": tx}, {"a": "x", "b": "x", "c": None}),
    "multisteps": lambda tx: optax.MultiSteps(tx, 1),
    "apply_if_finite": lambda tx: optax.apply_if_finite(tx, 3),
    "cast": lambda tx: optax.chain(l1jax.cast_gradients(), optax.apply_if_finite(tx, 3)),
    "conditionally": lambda tx: optax.conditionally_transform(tx, lambda step: step >= 0),
    "inject": lambda tx: optax.inject_hyperparams(lambda rate: tx)(0.5),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("inner", INNER)
def test_wrappers_keep_every_zero(inner, wrapper):
    expected = plainly(inner)
    assert int(l1jax.sparsity(expected).zeros.sum()) >= (4 if "rda" not in inner else 3)
    got, _ = moved(WRAPPERS[wrapper](INNER[inner]()))
    chex.assert_trees_all_close(got, expected, rtol=1e-12)
    for new, old in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(new == 0, old == 0)
        assert not bool(jnp.any((new == 0) & jnp.signbit(new)))


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize(
    "pair", [("float32", "bfloat16"), ("bfloat16", "float32"), ("float16", "bfloat16")]
)
def test_a_cast_makes_every_pair_of_dtypes_fit_apply_if_finite(inner, pair):
    w, g = ({"a": x["a"].astype(d)} for x, d in zip((W, G), pair, strict=True))
    tx = optax.apply_if_finite(INNER[inner](), 3)
    if pair[1] == "bfloat16":
        with pytest.raises(TypeError, match="dtype|type"):
            moved(tx, w, g)
    tx = optax.chain(l1jax.cast_gradients(), tx)
    new, state = moved(tx, w, g)
    assert new["a"].dtype == pair[0] and bool((new["a"][1:] == 0).all())
    bad = jax.tree.map(lambda x: x * jnp.nan, g)
    u, _ = tx.update(bad, state, new)
    chex.assert_trees_all_equal(optax.apply_updates(new, u), new)


DTYPES = ("float16", "bfloat16", "float32", "float64")


@pytest.mark.parametrize("of_gradient", DTYPES)
@pytest.mark.parametrize("of_params", DTYPES)
@pytest.mark.slow
def test_wrappers_keep_every_zero_of_every_pair_of_dtypes(of_params, of_gradient):
    w, g = ({"a": x["a"].astype(d)} for x, d in zip((W, G), (of_params, of_gradient), strict=True))
    for name in ("chain", "masked", "partition", "multisteps", "cast", "inject"):
        wrap = WRAPPERS[name]
        if name == "masked":
            wrap = lambda tx: optax.masked(tx, {"a": True})  # noqa: E731
        if name == "partition":
            wrap = lambda tx: optax.partition({"x": tx}, {"a": "x"})  # noqa: E731
        tx = wrap(INNER["sgd"]())
        u, _ = tx.update(g, tx.init(w), w)
        new = optax.apply_updates(w, u)["a"]
        assert new.dtype == of_params and not bool(jnp.signbit(new).any())
        np.testing.assert_array_equal(new != 0, [True, False, False, False])


def test_multisteps_steps_once_for_all_mini_steps():
    tx = optax.MultiSteps(l1jax.prox_sgd(0.5, PEN), 2)
    w, state = W, tx.init(W)
    for _ in range(2):
        u, state = tx.update(G, state, w)
        w = optax.apply_updates(w, u)
    chex.assert_trees_all_close(w, moved(l1jax.prox_sgd(0.5, PEN))[0])


def test_it_maps_scans_donates_and_keeps_shardings():
    strengths = jnp.array([0.0, 1.0, 2.0])
    w = W["a"]

    def one(strength):
        tx = l1jax.prox_sgd(0.5, PEN, strength=strength)
        u, _ = tx.update(jnp.zeros(4), tx.init(w), w)
        return optax.apply_updates(w, u)

    out = jax.vmap(one)(strengths)
    np.testing.assert_allclose(out[:, 0], [2.0, 1.5, 1.0])
    sharding = NamedSharding(jax.make_mesh((1,), ("x",)), PartitionSpec("x"))
    for make in INNER.values():
        tx = make()
        sharded = jax.device_put(W["a"].astype(jnp.float32), sharding)
        state = tx.init(sharded)

        @jax.jit
        def scan(w, state, tx=tx):
            def body(carry, _):
                w, state = carry
                u, state = tx.update(0.1 * jnp.ones_like(w), state, w)
                return (optax.apply_updates(w, u), state), None

            return jax.lax.scan(body, (w, state), None, 3)[0]

        new, _ = jax.jit(scan, donate_argnums=(0, 1))(sharded, state)
        assert new.sharding.is_equivalent_to(sharding, 1) and new.dtype == jnp.float32


def test_a_learning_rate_of_zero_moves_nothing_and_forgets_nothing():
    w, pen = jnp.array([0.5, -0.2]), l1jax.L1(0.05)
    for make in (l1jax.prox_sgd, l1jax.prox_adam, l1jax.rda, l1jax.ftrl_proximal):
        tx = make(0.0, pen)
        u, _ = tx.update(jnp.ones(2), tx.init(w), w)
        np.testing.assert_array_equal(optax.apply_updates(w, u), w)
    # FTRL: a gradient that came while the rate was 0 counts like one that came with the first rate.
    g1, g2 = jnp.array([1.0, -0.5]), jnp.array([0.3, 0.2])
    tx = l1jax.ftrl_proximal(lambda t: jnp.where(t < 1, 0.0, 0.3), pen)
    state, p = tx.init(w), w
    for g in (g1, g2):
        u, state = tx.update(g, state, p)
        p = optax.apply_updates(p, u)
    curvature = (1 + jnp.sqrt(g1**2 + g2**2)) / 0.3
    z = g1 + g2 - curvature * w
    np.testing.assert_allclose(p, -(z - jnp.clip(z, -0.1, 0.1)) / curvature, rtol=1e-12)


@pytest.mark.fast
def test_states_hold_nothing_of_the_user_and_no_type_that_a_schedule_changes():
    w = jnp.ones(3)
    for make in (l1jax.prox_sgd, l1jax.prox_adam, l1jax.rda, l1jax.ftrl_proximal):
        rate = jnp.asarray(0.1)
        tx = make(rate, l1jax.L1(0.1))
        donated = jax.jit(lambda w, s, tx=tx: tx.update(jnp.ones(3), s, w), donate_argnums=1)
        for _ in range(2):
            donated(w, tx.init(w))
        assert not rate.is_deleted()
        chex.clear_trace_counter()
        tx = make(optax.cosine_decay_schedule(0.1, 10), l1jax.L1(0.1))
        update = jax.jit(chex.assert_max_traces(tx.update, n=1))
        state = tx.init(w)
        for _ in range(3):
            _, state = update(jnp.ones(3), state, w)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sums_of_many_gradients_do_not_overflow(dtype):
    w, g = jnp.zeros(1, dtype), jnp.full(1, 100, dtype)
    for make in (l1jax.rda, l1jax.ftrl_proximal):
        tx = make(1e-3, l1jax.L1(0.1))

        def body(carry, _, tx=tx):
            w, state = carry
            u, state = tx.update(g, state, w)
            return (optax.apply_updates(w, u), state), None

        (out, state), _ = jax.lax.scan(body, (w, tx.init(w)), None, 1000)
        assert bool(jnp.isfinite(out).all()) and out.dtype == dtype
        if make is l1jax.rda:
            np.testing.assert_allclose(state.total, 1e5, rtol=1e-6)


def test_states_can_be_mapped_like_parameters():
    tx = l1jax.prox_adam(0.1, PEN)
    doubled = optax.tree_map_params(tx, lambda x: 2 * x, tx.init(jnp.ones(3)))
    assert jax.tree.structure(doubled) == jax.tree.structure(tx.init(jnp.ones(3)))


def test_a_user_penalty_of_two_methods_trains():
    class Half(l1jax.Penalty):
        lam: float

        def value(self, x):
            return self.lam * jnp.sum(jnp.abs(x["a"]))

        def prox(self, x, step=1.0):
            return x | {"a": l1jax.prox.prox_l1(x["a"], self.lam, step)}

    new, _ = moved(l1jax.prox_sgd(0.5, Half(1.0)))
    assert int((new["a"] == 0).sum()) == 3 and int((new["b"] == 0).sum()) == 0


def lasso(w, X, y):
    return 0.5 * jnp.mean((y - X @ w) ** 2)


@pytest.mark.parametrize(
    ("make", "steps"),
    [
        (lambda pen: l1jax.rda(0.5, pen), (1000, 10_000)),
        (lambda pen: l1jax.ftrl_proximal(1.0, pen), (30, 1000)),
    ],
    ids=["rda", "ftrl"],
)
def test_averaging_methods_find_the_support_and_their_residual_falls(make, steps):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, 8))
    y = X @ np.array([1.5, -1.0, 0.7, 0, 0, 0, 0, 0]) + 0.3 * rng.standard_normal(60)
    X, y = jnp.asarray(X), jnp.asarray(y)
    pen = l1jax.L1(0.1)
    fit = l1jax.fit(X, y, pen, fit_intercept=False)
    tx = make(pen)

    @jax.jit
    def run(w, state, n):
        def body(_, carry):
            w, state = carry
            u, state = tx.update(jax.grad(lasso)(w, X, y), state, w)
            return optax.apply_updates(w, u), state

        return jax.lax.fori_loop(0, n, body, (w, state))

    def kkt(w):
        return float(pen.distance(w, jax.grad(lasso)(w, X, y)).max())

    w = jnp.zeros(8)
    w, state = run(w, tx.init(w), steps[0])
    first = kkt(w)
    w, state = run(w, state, steps[1] - steps[0])
    # RDA's rate, 1/√t, is what it has here; FTRL's is at least that.
    assert kkt(w) < 1.2 * first * (steps[0] / steps[1]) ** 0.5 and kkt(w) < 0.02
    np.testing.assert_array_equal(w != 0, fit.coef != 0)


def test_ftrl_is_the_algorithm_of_the_paper_with_the_strength_of_the_mean_loss():
    w = jnp.array([0.5, -0.2])
    alpha, beta, l2, lam = 0.3, 1.0, 0.4, 0.05
    tx = l1jax.ftrl_proximal(alpha, l1jax.L1(lam), beta=beta, l2=l2)
    state = tx.init(w)
    n, p = np.zeros(2), np.array(w)
    z = -p * (beta / alpha + l2)
    for t in range(1, 6):
        g = np.sin(np.arange(2) + t)
        u, state = tx.update(jnp.asarray(g), state, w)
        w = optax.apply_updates(w, u)
        sigma = (np.sqrt(n + g**2) - np.sqrt(n)) / alpha
        z, n = z + g - sigma * p, n + g**2
        p = -(z - np.clip(z, -t * lam, t * lam)) / ((beta + np.sqrt(n)) / alpha + l2)
        np.testing.assert_allclose(w, p, atol=1e-12)


ON_A_MESH = """
import jax, jax.numpy as jnp, l1jax, numpy as np, optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

mesh = jax.make_mesh((4,), ("x",), axis_types=(AxisType.Explicit,))
w = {"w": jnp.linspace(-1, 1, 64).reshape(8, 8), "g": jnp.linspace(0.1, 1, 8)}
specs = {"w": P("x", None), "g": P("x")}
placed = {k: jax.device_put(v, NamedSharding(mesh, specs[k])) for k, v in w.items()}
for tx in (
    l1jax.prox_adam(0.1, l1jax.on("w", l1jax.GroupL1(0.5, [0] * 3 + [1] * 5))),
    l1jax.rda(0.1, l1jax.on({"g": 0, "w": -1}, l1jax.ChannelL1(0.5))),
):
    u, _ = jax.jit(tx.update)(placed, tx.init(placed), placed)
    plain, _ = jax.jit(tx.update)(w, tx.init(w), w)
    for k in w:
        assert jax.typeof(u[k]).sharding.spec == specs[k], (tx, k)
        np.testing.assert_allclose(u[k], plain[k], rtol=1e-5, atol=1e-6)
print("done")
"""


def test_groups_on_a_mesh_of_explicit_axes_keep_their_shardings():
    flags = "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"
    found = subprocess.run(
        [sys.executable, "-c", ON_A_MESH],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_ENABLE_X64": "0"},
        capture_output=True,
        text=True,
    )
    assert found.stdout == "done\n", found.stderr[-2000:]
