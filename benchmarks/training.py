"""What a proximal step costs: the time of prox_adam over that of optax.adam, in one compiled update.

python benchmarks/training.py [--short]
"""

from __future__ import annotations

import argparse
import statistics
import time

import jax
import jax.numpy as jnp
import optax

import l1jax


def timer(tx, params, grads):
    """A function that takes one donated step and returns its seconds: of the clock, and of all cores."""

    @jax.jit
    def fresh(params):
        return jax.tree.map(lambda p: p + 0, params), tx.init(params)

    def update(params, state, grads):
        u, state = tx.update(grads, state, params)
        return optax.apply_updates(params, u), state

    step = jax.jit(update, donate_argnums=(0, 1))
    carry = jax.block_until_ready(step(*fresh(params), grads))

    def once():
        nonlocal carry
        start = time.perf_counter(), time.process_time()
        carry = jax.block_until_ready(step(*carry, grads))
        return time.perf_counter() - start[0], time.process_time() - start[1]

    return once


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="fewer parameters and repeats")
    short = parser.parse_args().short
    if short:
        return compare((1000, 1000), 5)
    compare((10_000, 1000), 31)
    compare((100_000, 1000), 11)  # needs 9 GB


def compare(shape, repeats):
    params = {"w": jax.random.normal(jax.random.key(0), shape)}
    grads = {"w": 0.1 * jax.random.normal(jax.random.key(1), shape)}

    # Rows over five decades: some are about to vanish at every step.
    fading = {"w": params["w"] * jnp.logspace(-5, 0, shape[0])[:, None]}

    def channels(axis):
        return l1jax.on("w", l1jax.ChannelL1(1e-4, axis=axis))

    runs = {
        "optax.adam": optax.adam(1e-3),
        "prox_adam, L1": l1jax.prox_adam(1e-3, l1jax.L1(1e-4)),
        "prox_adam, groups of rows": l1jax.prox_adam(1e-3, channels(0)),
        "prox_adam, of columns": l1jax.prox_adam(1e-3, channels(-1)),
        "prox_adam, fading rows": l1jax.prox_adam(1e-3, channels(0)),
        "optax.sgd": optax.sgd(1e-3),
        "prox_sgd, L1": l1jax.prox_sgd(1e-3, l1jax.L1(1e-4)),
        "prox_sgd, groups of rows": l1jax.prox_sgd(1e-3, channels(0)),
        "prox_sgd, of columns": l1jax.prox_sgd(1e-3, channels(-1)),
    }
    timers = {
        name: timer(tx, fading if "fading" in name else params, grads) for name, tx in runs.items()
    }
    times = {name: [] for name in runs}
    for _ in range(repeats):  # interleaved, so that noise of the machine meets all alike
        for name, once in timers.items():
            times[name].append(once())
    print(f"{jnp.size(params['w']):,} parameters, {jax.devices()[0].device_kind}")
    for name, seconds in times.items():
        plain = times["optax.sgd" if "sgd" in name else "optax.adam"]
        wall, cores = (statistics.median(s) for s in zip(*seconds, strict=True))
        by_clock, by_cores = (
            statistics.median(s[k] / p[k] for s, p in zip(seconds, plain, strict=True))
            for k in (0, 1)
        )
        print(
            f"{name:26s} {1e3 * wall:8.2f} ms ×{by_clock:.2f}   "
            f"all cores {1e3 * cores:8.2f} ms ×{by_cores:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
