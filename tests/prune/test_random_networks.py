"""Random networks with random dead units compute the same after the cut, and so do their gradients.

2,000 seeds of the outputs have been tried, 300 of the gradients.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.prune.random_networks import compacted, random_network


@pytest.mark.parametrize("seed", range(100))
def test_a_random_network_computes_the_same_without_its_silent_units(seed):
    apply, params, example = random_network(seed)
    run, small, _ = compacted(apply, params, example, add_constants=seed % 4 == 3)
    x = jnp.asarray(np.random.default_rng(seed).normal(size=(3, *example.shape[1:])))

    @jax.jit
    def both(params, small, x):
        return apply(params, x), run(small, x)

    full, less = both(params, small, x)
    # Rounding errors grow with the largest value inside, of which the largest output tells.
    scale = float(jnp.abs(full).max()) + 1e-9
    np.testing.assert_allclose(less / scale, full / scale, rtol=0, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(0, 24, 2))
def test_gradients_of_a_random_network_are_the_same_where_what_is_kept_is_not_zero(seed):
    """A zero that is kept may have multiplied what was removed alone: its gradient needed that."""
    apply, params, example = random_network(seed)
    run, small, plan = compacted(apply, params, example, add_constants=seed % 4 == 2)
    if jax.tree.map(jnp.shape, small) == jax.tree.map(jnp.shape, params):
        return
    x = jnp.asarray(np.random.default_rng(seed).normal(size=(3, *example.shape[1:])))

    @jax.jit
    def gradients(params, small, x):
        def loss(function):
            return lambda params: (function(params, x) ** 2 * jnp.arange(1.0, 3.0)).sum()

        return jax.grad(loss(apply))(params), jax.grad(loss(run))(small)

    full, less = gradients(params, small, x)
    full, kept = plan.apply(full), plan.apply(params)
    scale = max(float(jnp.abs(leaf).max(initial=0)) for leaf in full.values()) + 1e-9
    for name, leaf in less.items():
        ours, theirs = (jnp.where(kept[name] != 0, one, 0) / scale for one in (full[name], leaf))
        np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-9, err_msg=name)
