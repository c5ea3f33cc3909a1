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
    """A function that takes one donated step and returns its seconds."""

    @jax.jit
    def fresh(params):
        return jax.tree.map(lambda p: p + 0, params), tx.init(params)

    def update(params, state):
        u, state = tx.update(grads, state, params)
        return optax.apply_updates(params, u), state

    step = jax.jit(update, donate_argnums=(0, 1))
    carry = jax.block_until_ready(step(*fresh(params)))

    def once():
        nonlocal carry
        start = time.perf_counter()
        carry = jax.block_until_ready(step(*carry))
        return time.perf_counter() - start

    return once


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="fewer parameters and repeats")
    short = parser.parse_args().short
    rows, repeats = (1000, 5) if short else (10_000, 31)
    shape = (rows, 1000)
    params = {"w": jax.random.normal(jax.random.key(0), shape)}
    grads = {"w": 0.1 * jax.random.normal(jax.random.key(1), shape)}
    runs = {
        "optax.adam": optax.adam(1e-3),
        "prox_adam, L1": l1jax.prox_adam(1e-3, l1jax.L1(1e-4)),
        "prox_adam, ChannelL1": l1jax.prox_adam(1e-3, l1jax.on("w", l1jax.ChannelL1(1e-4))),
        "optax.sgd": optax.sgd(1e-3),
        "prox_sgd, L1": l1jax.prox_sgd(1e-3, l1jax.L1(1e-4)),
    }
    timers = {name: timer(tx, params, grads) for name, tx in runs.items()}
    times = {name: [] for name in runs}
    for _ in range(repeats):  # interleaved, so that noise of the machine meets all alike
        for name, once in timers.items():
            times[name].append(once())
    print(f"{jnp.size(params['w']):,} parameters, {jax.devices()[0].device_kind}")
    for name, seconds in times.items():
        plain = times["optax.sgd" if "sgd" in name else "optax.adam"]
        ratio = statistics.median(a / b for a, b in zip(seconds, plain, strict=True))
        print(f"{name:22s} {1e3 * statistics.median(seconds):8.2f} ms   ×{ratio:.2f}")


if __name__ == "__main__":
    main()
