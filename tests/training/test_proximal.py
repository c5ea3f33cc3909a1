"""The proximal transformations: what they solve, exactly zero zeros, and what they refuse."""

import warnings

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import l1jax

LAM = 0.1


def problem(scales=None, logistic=False):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, 8))
    X -= X.mean(0)
    beta = np.array([1.5, -1.0, 0.7, 0, 0, 0, 0, 0])
    y = X @ beta + 0.3 * rng.standard_normal(60)
    if logistic:
        y = (y > 0).astype(float)
    X = X if scales is None else X * scales
    return jnp.asarray(X), jnp.asarray(y)


def gradient(loss, X, y):
    return jax.grad(lambda w: jnp.mean(jax.vmap(lambda t, e: loss(t, e))(y, X @ w)))


def squared(t, e):
    return 0.5 * (t - e) ** 2


def logistic(t, e):
    return jnp.logaddexp(0, e) - t * e


def train(tx, w, grad, steps):
    @jax.jit
    def run(w):
        def step(carry, _):
            w, state = carry
            u, state = tx.update(grad(w), state, w)
            return (optax.apply_updates(w, u), state), None

        return jax.lax.scan(step, (w, tx.init(w)), None, steps)[0]

    return run(w)[0]


def objective(loss, X, y, pen, w):
    return float(jnp.mean(loss(y, X @ w)) + pen.value(w))


GROUPS = [0, 0, 1, 1, 1, 2, 2, 2]
PENALTIES = {
    "lasso": l1jax.L1(LAM),
    "elastic net": l1jax.ElasticNet(LAM, 0.7),
    "group lasso": l1jax.GroupL1(LAM, GROUPS),
    "logistic lasso": l1jax.L1(0.05),
}


def decaying(rate, half_life):
    return lambda count: rate * 0.5 ** (count / half_life)


OPTIMISERS = {  # of a penalty, and a factor of the learning rate
    "sgd": lambda pen, r: l1jax.prox_sgd(0.3 * r, pen),
    "momentum": lambda pen, r: l1jax.prox_sgd(0.05 * r, pen, momentum=0.9),
    "nesterov": lambda pen, r: l1jax.prox_sgd(0.05 * r, pen, momentum=0.9, nesterov=True),
    "adam": lambda pen, r: l1jax.prox_adam(0.02 * r, pen, b2=0.99),
    # Without an average the steps of a small metric never converge: the rate must decay.
    "rmsprop": lambda pen, r: l1jax.prox_rmsprop(decaying(0.02 * r, 1000), pen, decay=0.99),
    "rmsprop, momentum": lambda pen, r: l1jax.prox_rmsprop(
        0.005 * r, pen, decay=0.99, momentum=0.8
    ),
    "adagrad": lambda pen, r: l1jax.prox_adagrad(0.5 * r, pen),
}


@pytest.mark.parametrize("kind", PENALTIES)
@pytest.mark.parametrize("name", OPTIMISERS)
@pytest.mark.slow
def test_full_batch_training_reaches_the_solution_of_fit(name, kind):
    X, y = problem(logistic=kind == "logistic lasso")
    pen = PENALTIES[kind]
    loss = logistic if kind == "logistic lasso" else squared
    model = l1jax.Logistic() if kind == "logistic lasso" else l1jax.SquaredError()
    fit = l1jax.fit(X, y, pen, loss=model, fit_intercept=False, tol=1e-10)

    @jax.vmap
    def at_rate(factor):
        return train(OPTIMISERS[name](pen, factor), jnp.full(8, 0.3), gradient(loss, X, y), 8000)

    for w in at_rate(jnp.array([1.0, 0.6])):
        assert objective(loss, X, y, pen, w) - float(fit.objective) < 1e-6
        np.testing.assert_array_equal(w != 0, fit.coef != 0)
        assert 0 < int(jnp.sum(w != 0)) < 8


@pytest.mark.parametrize("name", ["adam", "rmsprop", "adagrad"])
def test_the_metric_methods_solve_columns_scaled_over_four_decades(name):
    scales = np.logspace(-2, 2, 8)[[3, 0, 7, 1, 5, 2, 6, 4]]
    X, y = problem(scales)
    pen = l1jax.L1(LAM, weights=scales)
    make = {
        "adam": lambda r: l1jax.prox_adam(3e-3 * r, pen, b2=0.99),
        "rmsprop": lambda r: l1jax.prox_rmsprop(1e-3 * r, pen, decay=0.99),
        "adagrad": lambda r: l1jax.prox_adagrad(0.5 * r, pen, initial_accumulator_value=1e-8),
    }[name]
    fit = l1jax.fit(X, y, pen, fit_intercept=False, tol=1e-10)

    @jax.vmap
    def at_rate(factor):
        return train(make(factor), jnp.zeros(8), gradient(squared, X, y), 200_000)

    for w in at_rate(jnp.array([1.0, 1.2])):
        assert objective(squared, X, y, pen, w) - float(fit.objective) < 1e-6
        np.testing.assert_array_equal(w != 0, fit.coef != 0)


@pytest.mark.fast
def test_the_uncorrected_forms_do_not_solve_it():
    """Threshold ηλ under Adam, ηλ under momentum, a clip below the bound: what must not pass."""
    scales = np.array([3, 1, 0.3, 1, 2, 0.5, 1, 0.2])
    X, y = problem(scales)
    pen = l1jax.L1(LAM)
    fit = l1jax.fit(X, y, pen, fit_intercept=False, tol=1e-10)
    wrong = {
        "adam": optax.chain(optax.adam(0.002, b2=0.99), l1jax.prox_step(0.002, pen)),
        "momentum": optax.chain(optax.sgd(0.02, momentum=0.9), l1jax.prox_step(0.02, pen)),
        "clip": optax.chain(optax.clip_by_global_norm(LAM / 2), l1jax.prox_sgd(0.05, pen)),
    }
    for tx in wrong.values():
        w = train(tx, jnp.full(8, 0.3), gradient(squared, X, y), 8000)
        assert objective(squared, X, y, pen, w) - float(fit.objective) > 1e-4
    # A clip above ‖λ sign(w)‖ is harmless.
    tx = optax.chain(optax.clip_by_global_norm(LAM * 8**0.5), l1jax.prox_sgd(0.05, pen))
    w = train(tx, jnp.full(8, 0.3), gradient(squared, X, y), 8000)
    assert objective(squared, X, y, pen, w) - float(fit.objective) < 1e-6


def test_undamped_momentum_solves_for_a_fraction_of_the_strength():
    X, y = problem()
    tx = optax.chain(optax.sgd(0.05, momentum=0.9), l1jax.prox_step(0.05, l1jax.L1(LAM)))
    w = train(tx, jnp.zeros(8), gradient(squared, X, y), 4000)
    fit = l1jax.fit(X, y, l1jax.L1(LAM * 0.1), fit_intercept=False, tol=1e-12)
    np.testing.assert_allclose(w, fit.coef, atol=1e-8)


def test_rmsprop_momentum_takes_the_past_learning_rates_into_its_threshold():
    pen = l1jax.L1(0.5)
    rates = optax.exponential_decay(0.1, 1, 0.5)
    tx = l1jax.prox_rmsprop(rates, pen, momentum=0.9, initial_scale=1.0, decay=1.0, eps=0.0)
    w = jnp.array([100.0])
    state = tx.init(w)
    trace, threshold = 0.0, 0.1 / 0.1  # in the steady state of the first rate
    for t in range(4):
        u, state = tx.update(jnp.array([-0.2]), state, w)
        trace, threshold = 0.1 * 0.5**t * 0.2 + 0.9 * trace, 0.1 * 0.5**t + 0.9 * threshold
        np.testing.assert_allclose(u, [trace - 0.5 * threshold], rtol=1e-6)
        w = optax.apply_updates(w, u)


DTYPES = [jnp.float32, jnp.bfloat16, jnp.float16, jnp.float64]


@pytest.mark.core
@pytest.mark.parametrize("of_gradient", DTYPES)
@pytest.mark.parametrize("of_params", DTYPES)
def test_zeros_are_exact_and_positive_in_every_pair_of_dtypes(of_params, of_gradient):
    rng = np.random.default_rng(0)
    w = jnp.asarray(rng.standard_normal(2000), of_params).at[0].set(-0.0)
    g = jnp.asarray(0.1 * rng.standard_normal(2000), of_gradient).at[0].set(0)
    pen = l1jax.L1(1.0)
    for tx, plain in (
        (l1jax.prox_sgd(0.5, pen), optax.sgd(0.5)),
        (optax.chain(optax.sgd(0.5), l1jax.prox_step(0.5, pen)), optax.sgd(0.5)),
    ):
        u, _ = tx.update(g, tx.init(w), w)
        new = optax.apply_updates(w, u)
        there = optax.apply_updates(w, plain.update(g, plain.init(w), w)[0])
        zero = pen.prox(there, 0.5) == 0
        assert new.dtype == of_params and 500 < int(zero.sum()) < 1900
        assert bool(jnp.all(new[zero] == 0)) and not bool(jnp.signbit(new[zero]).any())
        assert not bool(jnp.any((new == 0) & jnp.signbit(new)))
    for tx in (l1jax.prox_adam(0.1, l1jax.L1(100.0), eps=1e-3), l1jax.rda(0.5, l1jax.L1(100.0))):
        u, _ = tx.update(g, tx.init(w), w)
        new = optax.apply_updates(w, u)
        assert bool(jnp.all(new == 0)) and not bool(jnp.signbit(new).any())


PLAIN = {
    "sgd": (l1jax.prox_sgd, optax.sgd, {}),
    "momentum": (l1jax.prox_sgd, optax.sgd, {"momentum": 0.9, "nesterov": True}),
    "adam": (l1jax.prox_adam, optax.adam, {"nesterov": True}),
    "adamw": (l1jax.prox_adamw, optax.adamw, {"weight_decay": 0.1}),
    "rmsprop": (l1jax.prox_rmsprop, optax.rmsprop, {"centered": True}),
    "rmsprop, momentum": (
        l1jax.prox_rmsprop,
        optax.rmsprop,
        {"momentum": 0.7, "bias_correction": True, "eps_in_sqrt": False},
    ),
    "adagrad": (l1jax.prox_adagrad, optax.adagrad, {}),
}


@pytest.mark.core
@pytest.mark.parametrize("zero", ["strength", "penalty", "none"])
@pytest.mark.parametrize("name", PLAIN)
def test_zero_strength_is_bit_for_bit_the_optimiser_of_optax(name, zero):
    ours, plain, options = PLAIN[name]
    rate = optax.cosine_decay_schedule(0.1, 10)
    pen = {"strength": l1jax.L1(1.0), "penalty": l1jax.L1(0.0), "none": None}[zero]
    tx = ours(rate, pen, **options, strength=0.0 if zero == "strength" else 1.0)
    other = plain(rate, **options)
    w = v = {"a": jnp.linspace(-1, 1, 7, dtype=jnp.float32), "b": jnp.ones((2, 2)), "c": None}
    state, other_state = tx.init(w), other.init(v)
    for k in range(4):
        g = jax.tree.map(lambda x, k=k: jnp.cos(3 * x + k), w)
        u, state = tx.update(g, state, w)
        t, other_state = other.update(g, other_state, v)
        chex.assert_trees_all_equal(u, t)
        w, v = optax.apply_updates(w, u), optax.apply_updates(v, t)
        chex.assert_trees_all_equal(w, v)


@pytest.mark.core
def test_numbers_change_without_a_recompilation():
    w, g = jnp.ones(4), jnp.ones(4)

    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(rate, strength, pen, state, w):
        tx = l1jax.prox_adam(rate, l1jax.L1(), strength=strength)
        return tx.update(g, state, w, penalty=pen)

    state = l1jax.prox_adam(0.1, l1jax.L1()).init(w)
    for k in range(3):
        _, state = step(jnp.asarray(0.1 * k), jnp.asarray(0.5 * k), l1jax.L1(0.1 * k), state, w)

    tx = optax.inject_hyperparams(l1jax.prox_adam)(learning_rate=0.1, penalty=l1jax.L1(1.0))
    update = jax.jit(chex.assert_max_traces(tx.update, n=1))
    state = tx.init(w)
    for rate in (0.05, 0.1, 0.2):
        state.hyperparams["learning_rate"] = jnp.asarray(rate)
        state.hyperparams["strength"] = jnp.asarray(10 * rate)
        u, state = update(g, state, w)
        np.testing.assert_allclose(u, -rate * (1 + 10 * rate), rtol=1e-5)


def test_schedules_of_rate_and_strength_share_the_count():
    tx = l1jax.prox_sgd(lambda t: 0.1 * (t + 1), l1jax.L1(1.0), strength=lambda t: t)
    w = jnp.array([10.0])
    state = tx.init(w)
    for t in range(3):
        u, state = tx.update(jnp.array([1.0]), state, w)
        np.testing.assert_allclose(u, -0.1 * (t + 1) * (1 + t))


def test_a_penalty_at_update_time_replaces_the_one_given():
    tx = optax.chain(optax.clip(1.0), l1jax.prox_sgd(1.0, None))
    w = jnp.array([1.0, 3.0])
    u, _ = tx.update(jnp.zeros(2), tx.init(w), w, penalty=l1jax.L1(2.0))
    np.testing.assert_array_equal(optax.apply_updates(w, u), [0, 1])


def test_the_state_has_nothing_of_the_size_of_the_parameters_beyond_the_optimisers():
    w = jnp.zeros(1000)
    for ours, plain, options in PLAIN.values():
        sizes = [
            sum(np.size(leaf) for leaf in jax.tree.leaves(tx.init(w)))
            for tx in (ours(0.1, l1jax.L1(1.0), **options), plain(0.1, **options))
        ]
        assert sizes[0] - sizes[1] < 4


@pytest.mark.core
def test_a_coordinate_without_gradient_is_emptied_and_eps_caps_its_threshold():
    w, g = jnp.array([1.0, 1.0]), jnp.array([0.0, 1.0])
    tx = l1jax.prox_adam(1e-3, l1jax.L1(1e-4))
    u, _ = tx.update(g, tx.init(w), w)
    assert float(w[0] + u[0]) == 0 and float(w[1] + u[1]) > 0.9
    capped = l1jax.prox_adam(1e-3, l1jax.L1(1e-4), eps=1e-3)
    u, _ = capped.update(g, capped.init(w), w)
    np.testing.assert_allclose(u[0], -1e-4)
    tx = l1jax.prox_adagrad(0.1, l1jax.L1(1.0), initial_accumulator_value=0.0)
    u, _ = tx.update(g, tx.init(w), w)
    assert float(u[0]) == 0


def test_a_gradient_that_is_not_a_number_harms_as_it_does_in_optax():
    w, g = jnp.ones(3), jnp.array([jnp.nan, 1.0, 0.5])
    for tx in [make(l1jax.L1(0.1), 1.0) for make in OPTIMISERS.values()] + [
        l1jax.rda(0.1, l1jax.L1(0.1)),
        l1jax.ftrl_proximal(0.1, l1jax.L1(0.1)),
    ]:
        u, _ = tx.update(g, tx.init(w), w)
        np.testing.assert_array_equal(jnp.isnan(u), [True, False, False])


def test_bad_use_gets_a_sentence():
    w = jnp.ones(3)
    pen = l1jax.L1(0.1)
    tx = l1jax.prox_sgd(0.1, pen)
    with pytest.raises(ValueError, match="needs params"):
        tx.update(w, tx.init(w))
    with pytest.raises(TypeError, match="learning rate comes first"):
        l1jax.prox_sgd(0.1, 0.1)
    with pytest.raises(TypeError, match="it comes second"):
        l1jax.prox_sgd(pen, 0.1)
    with pytest.raises(TypeError, match="write L1"):
        l1jax.prox_adam(0.1, l1jax.L1)
    with pytest.raises(ValueError, match="learning_rate must be >= 0"):
        l1jax.prox_adam(-0.1, pen)
    with pytest.raises(ValueError, match="strength must be >= 0"):
        l1jax.prox_step(0.1, pen, strength=-1)
    with pytest.raises(ValueError, match="does not say by what"):
        l1jax.proximal(0.1, pen, optax.scale_by_adam())
    with pytest.raises(ValueError, match='metric must be "auto"'):
        l1jax.proximal(0.1, pen, optax.scale_by_adam(), metric="euclid")
    for direction in (l1jax.directions.adam(), optax.scale_by_rms(), optax.trace(0.9)):
        with pytest.raises(ValueError, match='whose metric is not "identity"'):
            l1jax.proximal(0.1, pen, direction, metric="identity")
    with pytest.raises(ValueError, match="AdamMetric reads the state"):
        l1jax.proximal(0.1, pen, optax.identity(), metric=l1jax.AdamMetric()).update(
            w, l1jax.proximal(0.1, pen, optax.identity(), metric=l1jax.AdamMetric()).init(w), w
        )
    with pytest.raises(ValueError, match="learning rate already|contains a learning rate"):
        l1jax.proximal(0.1, pen, optax.adam(0.1), metric=l1jax.AdamMetric())
    for ball in (l1jax.L1Ball(1.0), l1jax.penalties(l1jax.on("a", l1jax.L1Ball(1.0)))):
        with pytest.raises(ValueError, match="L1Ball takes one step for all coordinates"):
            l1jax.prox_adam(0.1, ball)
        by_function = l1jax.proximal(0.1, ball, optax.scale_by_adam(), metric=lambda s, p: s.nu)
        with pytest.raises(ValueError, match="L1Ball takes one step for all coordinates"):
            by_function.update({"a": w}, by_function.init({"a": w}), {"a": w})
    for momentum in (1.0, -0.1):
        with pytest.raises(ValueError, match="momentum must be in"):
            l1jax.prox_sgd(0.1, pen, momentum=momentum)
    falling = l1jax.prox_sgd(optax.linear_schedule(0.1, -0.1, 1), pen)
    _, state = falling.update(w, falling.init(w), w)
    with pytest.raises(ValueError, match="learning_rate must be >= 0 at each step"):
        falling.update(w, state, w)
    with pytest.raises(ValueError, match="beta > 0"):
        l1jax.ftrl_proximal(0.1, pen, beta=0.0)
    for make in (l1jax.prox_sgd, l1jax.rda, l1jax.ftrl_proximal):
        tx = make(0.1, pen)
        with pytest.raises(ValueError, match=r"gradient has shape \(3, 1\)"):
            tx.update(w[:, None], tx.init(w), w)
    later = l1jax.prox_sgd(0.1, l1jax.on("a", l1jax.L1()))  # its strength comes with an update
    assert later.init({"a": w}).count == 0
    with pytest.raises(ValueError, match="ids, one per feature"):
        l1jax.prox_sgd(0.1, l1jax.GroupL1(0.1, [0, 1])).init(w)


@pytest.mark.parametrize(
    "direction",
    [
        optax.scale_by_lion(),
        optax.scale_by_sign(),
        optax.chain(optax.scale_by_adam(), optax.scale_by_trust_ratio()),
        optax.normalize_by_update_norm(),
        optax.contrib.scale_by_muon(),
    ],
)
def test_directions_of_fixed_size_are_refused_whatever_metric_is_named(direction):
    with pytest.raises(ValueError, match="moves a coordinate by the learning rate"):
        l1jax.proximal(0.1, l1jax.L1(0.1), direction, metric="identity")


def transformations_of_optax():
    """All that optax exports, made with no argument or with a learning rate; by name."""
    made = {}
    for module in (optax, optax.contrib):
        for name in dir(module):
            for arguments in ((), (0.01,)):
                try:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        tx = getattr(module, name)(*arguments)
                except Exception:  # it needs other arguments, or is something else
                    continue
                if isinstance(tx, optax.GradientTransformation):
                    made[name] = tx
                    break
    return made


# What leaves gradients as they are, up to noise and clipping, and plain gradient steps.
HARMLESS = {
    "centralize",
    "flatten",
    "identity",
    "set_to_zero",
    "zero_nans",
    "scale",
    "sgd",
    "add_noise",
}
HARMLESS |= {"add_decayed_weights", "adaptive_grad_clip", "clip", "clip_by_block_rms", "noisy_sgd"}
HARMLESS |= {
    "clip_by_global_norm",
    "keep_params_nonnegative",
    "apply_every",
    "scale_by_learning_rate",
}
HARMLESS |= {"freeze", "GradientTransformation", "named_chain"}
HARMLESS |= {"stateless", "stateless_with_tree_map"}  # a function of the user


def test_all_else_of_optax_is_refused_where_the_metric_should_be_the_identity():
    made = transformations_of_optax()
    assert len(made) > 50
    pen, accepted, before = l1jax.L1(0.1), set(), set()
    for name, tx in made.items():
        try:
            l1jax.proximal(0.1, pen, tx, metric="identity")
            accepted.add(name)
        except ValueError:
            pass
        try:
            l1jax.check_last(optax.chain(tx, l1jax.prox_step(0.1, pen)))
            before.add(name)
        except ValueError:
            pass
    assert accepted <= HARMLESS, accepted - HARMLESS
    assert before <= HARMLESS | {"scale_by_schedule"}, before - HARMLESS
    assert {"identity", "clip", "scale"} <= accepted and {"sgd", "clip"} <= before
    adam = optax.inject_hyperparams(optax.adam)(0.01)
    with pytest.raises(ValueError, match="before a proximal step"):
        l1jax.check_last(optax.chain(adam, l1jax.prox_step(0.1, pen)))
    for rate in (optax.constant_schedule(0.1), jnp.array(0.1), np.float32(0.1)):
        with pytest.raises(ValueError, match="contains a learning rate"):
            l1jax.proximal(0.1, pen, optax.adam(rate), metric=l1jax.AdamMetric())
    with pytest.raises(ValueError, match="contains a learning rate"):
        l1jax.proximal(0.1, pen, adam, metric=l1jax.AdamMetric())


@pytest.mark.core
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_takes_steps_that_it_cannot_hold(dtype):
    """Adam's step at an entry without gradient is 1e5, which is inf in float16."""
    w, g = jnp.full(4, 2.0, dtype), jnp.zeros(4, jnp.float32)  # with float16, Adam itself is NaN
    pens = [l1jax.L1(0.0), l1jax.ElasticNet(0.0), l1jax.NonNegativeL1(0.0), l1jax.Ridge(0.0)]
    pens += [
        l1jax.GroupL1(0.0, [0, 0, 1, 1]),
        l1jax.ChannelL1(0.0),
        l1jax.L1(1e-3, weights=[0] * 4),
    ]
    for pen in pens:
        tx = l1jax.prox_adam(1e-3, pen)
        u, _ = tx.update(g, tx.init(w), w)
        np.testing.assert_array_equal(optax.apply_updates(w, u), w)
    tx = l1jax.prox_adam(1e-3, l1jax.L1(1e-5))  # threshold 1e-3·1e-5/1e-8
    u, _ = tx.update(g, tx.init(w), w)
    np.testing.assert_allclose(optax.apply_updates(w, u), 1.0, atol=0.01)


def test_what_is_no_transformation_is_an_error():
    with pytest.raises(TypeError, match="tx must be a transformation of optax, got 3"):
        l1jax.check_last(3)


def test_what_follows_a_proximal_step_is_found():
    step = l1jax.prox_adam(0.1, l1jax.L1(0.1))
    l1jax.check_last(optax.chain(optax.clip(1.0), optax.chain(step)))
    for tx in (
        optax.chain(step, optax.scale(0.5)),
        optax.apply_if_finite(optax.chain(step, optax.clip(0.1)), 3),
        optax.named_chain(("step", step), ("scale", optax.scale(0.5))),
        optax.MultiSteps(optax.chain(step, optax.scale(0.5)), 2),
        optax.chain(optax.inject_hyperparams(l1jax.prox_sgd)(0.1, l1jax.L1(0.1)), optax.scale(0.5)),
    ):
        with pytest.raises(ValueError, match="after a proximal step"):
            l1jax.check_last(tx)
    plain = l1jax.prox_step(0.1, l1jax.L1(0.1))
    l1jax.check_last(optax.chain(optax.sgd(0.1), plain))
    for before in (optax.adam(0.1), optax.sgd(0.1, momentum=0.9), optax.chain(optax.rmsprop(0.1))):
        with pytest.raises(
            ValueError, match="before a proximal step, which takes its threshold in"
        ):
            l1jax.check_last(optax.chain(before, plain))
    for tx in (optax.contrib.schedule_free(step, 0.1), optax.lookahead(step, 5, 0.5)):
        with pytest.raises(ValueError, match="averages are never zero"):
            l1jax.check_last(tx)


@pytest.mark.parametrize("make", [optax.scale_by_adamax, optax.scale_by_radam])
def test_the_state_of_adam_is_not_taken_for_its_metric(make):
    with pytest.raises(ValueError, match="not AdamMetric although"):
        l1jax.proximal(0.1, l1jax.L1(0.1), optax.chain(make()), metric=l1jax.AdamMetric())


def test_shapes_that_do_not_fit_get_a_sentence_and_empty_leaves_train():
    w = {"w": jnp.ones(3)}
    tx = l1jax.prox_sgd(0.1, l1jax.L1(0.1))
    with pytest.raises(ValueError, match=r"shape \(3, 1\) where its parameter has shape \(3,\)"):
        tx.update({"w": jnp.ones((3, 1))}, tx.init(w), w)
    tx = l1jax.proximal(0.1, l1jax.L1(0.1), optax.identity(), metric=lambda state, params: {})
    with pytest.raises(ValueError, match="one array for each parameter"):
        tx.update(w, tx.init(w), w)
    tx = l1jax.prox_sgd(0.1, l1jax.L1(0.1), strength=lambda count: jnp.ones(3))
    with pytest.raises(ValueError, match="one number at each step"):
        tx.update(w, tx.init(w), w)
    empty = {"w": jnp.zeros((0, 3))}
    tx = l1jax.prox_adam(0.1, l1jax.on("w", l1jax.ChannelL1(0.1)))
    u, _ = tx.update(empty, tx.init(empty), empty)
    assert u["w"].shape == (0, 3)
