"""Every name that is read of optax's internals: a release of optax that loses one fails here."""

import jax.numpy as jnp
import optax
import pytest
from optax import contrib

import l1jax
from l1jax.training import _optax_internals as internals

NAMES = internals.PLAIN | internals.NORMALISED | internals.AVERAGES | internals.NOT_ADAM
OURS = {"cast_gradients"}
# Arguments of those that need some; all others are called without.
ADAM = optax.scale_by_adam()
ARGUMENTS = {
    "adaptive_grad_clip": (0.1,),
    "add_noise": (0.1, 0.5, 0),
    "apply_every": (2,),
    "apply_if_finite": (ADAM, 3),
    "clip": (1.0,),
    "clip_by_block_rms": (1.0,),
    "clip_by_global_norm": (1.0,),
    "chain": (ADAM, ADAM),
    "conditionally_mask": (ADAM, lambda step: True),
    "conditionally_transform": (ADAM, lambda step: True),
    "flatten": (ADAM,),
    "lookahead": (ADAM, 2, 0.5),
    "masked": (ADAM, True),
    "named_chain": (("a", ADAM), ("b", ADAM)),
    "partition": ({"a": ADAM}, {"w": "a"}),
    "scale": (-0.1,),
    "scale_by_rprop": (0.1,),
    "scale_by_schedule": (lambda step: -0.1,),
    "schedule_free": (ADAM, 0.1),
    "sgd": (0.1,),
    "snapshot": ("norm", optax.tree.norm),
    "stateless": (lambda updates, params: updates,),
    "stateless_with_tree_map": (lambda update, param: update,),
    "with_extra_args_support": (ADAM,),
    "MultiSteps": (ADAM, 2),
}
# Those that return what another one made, or take no part in a chain by themselves.
UNNAMED = {"MultiSteps", "identity", "inject_hyperparams", "selective_transform", "sgd"}
UNNAMED |= {"with_extra_args_support"}


def factory(name):
    return getattr(optax, name, None) or getattr(contrib, name)


def names(transformation):
    return {name for name, _ in internals.components(transformation.update)}


@pytest.mark.parametrize("name", sorted(NAMES - OURS))
@pytest.mark.fast
def test_a_transformation_is_found_by_the_name_of_its_factory(name):
    made = factory(name)
    if name not in UNNAMED:
        assert name in names(made(*ARGUMENTS.get(name, ())))


@pytest.mark.parametrize("name", [n for n in sorted(ARGUMENTS) if ADAM in ARGUMENTS[n]])
def test_a_wrapper_shows_what_it_wraps(name):
    assert "scale_by_adam" in names(factory(name)(*ARGUMENTS[name]))


def test_a_chain_shows_its_parts_in_order():
    for chain in (
        optax.chain(optax.clip(1.0), ADAM, optax.scale(-1.0)),
        optax.named_chain(("a", optax.clip(1.0)), ("b", ADAM), ("c", optax.scale(-1.0))),
    ):
        (function,) = (f for n, f in internals.components(chain.update) if n.endswith("chain"))
        found = [{name for name, _ in internals.components(p)} for p in internals.parts(function)]
        for part, name in zip(found, ["clip", "scale_by_adam", "scale"], strict=True):
            assert name in part and part <= {name, "with_extra_args_support"}


def test_a_learning_rate_is_found():
    def has_rate(transformation):
        return any(
            internals.has_rate(*part) for part in internals.components(transformation.update)
        )

    for one in (optax.scale(-0.1), optax.adam(0.1), optax.sgd(lambda step: 0.1)):
        assert has_rate(one)
    assert has_rate(optax.inject_hyperparams(optax.adam)(0.1))
    assert not has_rate(optax.scale(2.0)) and not has_rate(ADAM)


def test_the_proximal_steps_of_this_package_are_found():
    pen = l1jax.L1(0.1)
    for tx in (l1jax.prox_adam(0.1, pen), l1jax.prox_step(0.1, pen), l1jax.rda(1.0, pen)):
        assert names(tx) & internals.PROX
    assert "_with_master_weights" in names(l1jax.prox_sgd(0.1, pen, master_weights=True))


STATES = {
    "adam": (optax.scale_by_adam(), internals.ADAM_STATES, "nu count"),
    "rms": (optax.scale_by_rms(), internals.RMS_STATES, "nu"),
    "corrected rms": (optax.scale_by_rms(bias_correction=True), internals.RMS_STATES, "nu count"),
    "centred": (optax.scale_by_stddev(), internals.CENTRED_STATES, "mu nu"),
    "corrected": (
        optax.scale_by_stddev(bias_correction=True),
        internals.CENTRED_STATES,
        "mu nu count",
    ),
    "adagrad": (optax.scale_by_rss(), internals.ADAGRAD_STATES, "sum_of_squares"),
}


@pytest.mark.parametrize("name", STATES)
def test_the_state_of_a_direction_has_the_fields_of_its_metric(name):
    direction, kinds, fields = STATES[name]
    state = optax.chain(optax.clip(1.0), direction).init(jnp.zeros(2))
    found = internals.only_state(state, kinds, "metric", "maker")
    assert all(hasattr(found, field) for field in fields.split())
