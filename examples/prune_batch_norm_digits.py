"""A network that prunes itself: three penalties meet batch normalisation, and one silences channels.

python examples/prune_batch_norm_digits.py [--short] [--output FOLDER]

A small convolutional network with batch normalisation learns scikit-learn's digits, from three seeds:
with L1 on the weights before the norm, which the norm cancels; with L1 on its scales γ as part of the
loss, which makes them small; and with L1 on γ by its prox, which makes them zero. With `--short`
it trains one seed for a few steps.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import l1jax

if __name__ == "__main__":
    matplotlib.use("Agg")
import matplotlib.pyplot as plt

WEIGHTS, SUBGRADIENT, PROX = "L1 on the weights", "L1 on γ, subgradient", "L1 on γ, prox"
COLOURS = {WEIGHTS: "#0072b2", SUBGRADIENT: "#e69f00", PROX: "#000000"}
DASHES = {WEIGHTS: "-.", SUBGRADIENT: "--", PROX: "-"}
CHANNELS, KERNEL = 24, 5
TICKS = (-7, -5, -3, -1, 1)
LAM = 4e-2


class Result(NamedTuple):
    """What is left after training, what was recorded at each step, the share of test digits read right."""

    params: dict
    penalty: np.ndarray
    alive: np.ndarray
    accuracy: float


def digits() -> tuple:
    """Training and test images (n, 8, 8) from 0 to 1, and their labels."""
    data = load_digits()
    images = (data.images / 16).astype(np.float32)
    x, x_test, y, y_test = train_test_split(
        images, data.target, test_size=897, stratify=data.target, random_state=0
    )
    return tuple(map(jnp.asarray, (x, x_test, y, y_test)))


def initial(key) -> dict:
    conv, dense = jax.random.split(key)
    return {
        "conv": {"kernel": 0.2 * jax.random.normal(conv, (KERNEL**2, CHANNELS))},
        "norm": {"scale": jnp.ones(CHANNELS), "bias": jnp.zeros(CHANNELS)},
        "dense": {
            "kernel": 0.1 * jax.random.normal(dense, (4 * CHANNELS, 10)),
            "bias": jnp.zeros(10),
        },
    }


def convolve(images, kernel):
    """Every 5×5 patch of an image times the kernel: (n, 8, 8) -> (n, 4, 4, channels)."""
    size = images.shape[1] - KERNEL + 1
    shifts = [images[:, i : i + size, j : j + size] for i in range(KERNEL) for j in range(KERNEL)]
    return jnp.stack(shifts, axis=-1) @ kernel


def network(params, images, statistics=None):
    """Convolution, batch norm, ReLU, mean of each quarter, dense; returns logits and the norm's statistics."""
    x = convolve(images, params["conv"]["kernel"])
    mean, var = statistics or (x.mean((0, 1, 2)), x.var((0, 1, 2)))
    x = (x - mean) / jnp.sqrt(var + 1e-5)
    x = jax.nn.relu(params["norm"]["scale"] * x + params["norm"]["bias"])
    x = x.reshape(-1, 2, 2, 2, 2, x.shape[-1]).mean((2, 4)).reshape(len(images), -1)
    return x @ params["dense"]["kernel"] + params["dense"]["bias"], (mean, var)


def cross_entropy(params, x, y):
    return optax.losses.softmax_cross_entropy_with_integer_labels(network(params, x)[0], y).mean()


def trainings(rate) -> dict:
    """For each way: the optimiser, the penalty it is about, and what is added to the loss."""
    # The scale of γ must not hide in the next layer instead: some weight decay there.
    decay = l1jax.on("dense/kernel", l1jax.Ridge(1e-3))
    weights = l1jax.on("conv/kernel", l1jax.L1(LAM))
    scales = l1jax.on("norm/scale", l1jax.L1(LAM))
    none = l1jax.on("**", None)
    return {
        WEIGHTS: (l1jax.prox_adam(rate, l1jax.penalties(weights, decay)), weights, none),
        SUBGRADIENT: (l1jax.prox_adam(rate, decay), scales, scales),
        PROX: (l1jax.prox_adam(rate, l1jax.penalties(scales, decay)), scales, none),
    }


def spread(params, x):
    """The standard deviation of each channel's output: zero where the channel is silent."""
    _, (_, var) = network(params, x)
    return jnp.abs(params["norm"]["scale"]) * jnp.sqrt(var / (var + 1e-5))


def trainer(tx, penalty, in_loss, data, steps):
    """A compiled function from a key to a `Result`."""
    x, x_test, y, y_test = data

    @jax.jit
    def train(key):
        params = initial(key)

        def loss(params):
            return cross_entropy(params, x, y) + in_loss.value(params)

        def step(carry, _):
            params, state = carry
            updates, state = tx.update(jax.grad(loss)(params), state, params)
            params = optax.apply_updates(params, updates)
            return (params, state), (penalty.value(params), jnp.sum(spread(params, x) > 0))

        (params, _), (price, alive) = jax.lax.scan(step, (params, tx.init(params)), None, steps)
        logits, _ = network(params, x_test, network(params, x)[1])
        return Result(params, price, alive, jnp.mean(logits.argmax(1) == y_test))

    return train


def experiment(data, seeds, steps) -> dict[str, list[Result]]:
    """Every training from every seed."""
    ways = trainings(optax.cosine_decay_schedule(0.01, steps))
    compiled = {name: trainer(*parts, data, steps) for name, parts in ways.items()}
    return {
        name: [jax.device_get(train(jax.random.key(seed))) for seed in range(seeds)]
        for name, train in compiled.items()
    }


def cut(params, x):
    """The network without its silent channels, whose constant relu(β) goes into the next bias."""
    _, statistics = network(params, x)
    return l1jax.prune.compact(lambda p, images: network(p, images, statistics)[0], params, x)


def draw_channels(results, x) -> plt.Figure:
    """How loud each channel is, sorted, one mark per seed; what is exactly zero lies on the floor."""
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.8), sharey=True, layout="constrained")
    floor = 1e-9
    for axis, (name, runs) in zip(axes, results.items(), strict=True):
        axis.axhspan(floor / 3, floor * 3, color="0.9", linewidth=0)
        for seed, (run, marker) in enumerate(zip(runs, "os^", strict=False)):
            loud = np.sort(np.asarray(spread(run.params, x)))[::-1]
            axis.plot(
                np.arange(1, loud.size + 1),
                np.maximum(loud, floor),
                marker,
                color=COLOURS[name],
                fillstyle="none",
                markersize=5,
                label=f"seed {seed}",
            )
        silent = [int(np.sum(spread(run.params, x) == 0)) for run in runs]
        axis.set_title(f"{name}\nsilent: {', '.join(map(str, silent))} of {CHANNELS}", fontsize=11)
        axis.set_yscale("log")
        axis.set_ylim(floor / 3, 20)
        axis.set_xlabel("channel, the loudest first")
        tidy(axis)
    axes[0].set_ylabel("spread of the channel's output")
    ticks = [10.0**k for k in TICKS]
    axes[0].set_yticks([floor, *ticks], ["0", *(f"$10^{{{k}}}$" for k in TICKS)])
    axes[0].minorticks_off()
    axes[0].legend(frameon=False, loc="center left")
    return figure


def draw_training(results) -> plt.Figure:
    """The penalty's value and the channels alive at each step, of the first seed."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    for name, runs in results.items():
        style = {"color": COLOURS[name], "linestyle": DASHES[name], "label": name, "linewidth": 1.8}
        left.plot(runs[0].penalty / runs[0].penalty[0], **style)
        right.plot(runs[0].alive, **style)
    left.set_yscale("log")
    left.set_ylabel("penalty, relative to its start")
    right.set_ylabel("channels alive")
    right.set_ylim(0, CHANNELS + 1.5)
    right.legend(frameon=False, loc="lower left")
    for axis in (left, right):
        axis.set_xlabel("step")
        tidy(axis)
    return figure


def draw_filters(params) -> plt.Figure:
    """The 5×5 filter of every channel, by its scale; the silent ones crossed out."""
    scale = np.asarray(params["norm"]["scale"])
    figure, axes = plt.subplots(2, CHANNELS // 2, figsize=(10, 2.1), layout="constrained")
    for axis, c in zip(axes.flat, np.argsort(-np.abs(scale), kind="stable"), strict=True):
        kernel = np.asarray(params["conv"]["kernel"][:, c]).reshape(KERNEL, KERNEL)
        limit = np.abs(kernel).max() or 1
        axis.imshow(kernel, cmap="PuOr", vmin=-limit, vmax=limit, alpha=1 if scale[c] else 0.15)
        axis.set(xticks=[], yticks=[])
        if scale[c] == 0:
            axis.plot([0, KERNEL - 1], [0, KERNEL - 1], color="0.4", linewidth=1)
            axis.plot([0, KERNEL - 1], [KERNEL - 1, 0], color="0.4", linewidth=1)
    return figure


def tidy(axis) -> None:
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def main() -> None:
    arguments = parse()
    data = digits()
    seeds, steps = (1, 40) if arguments.short else (3, 500)
    results = experiment(data, seeds, steps)
    print(
        f"{'':22s}  {'silent channels':>15}  {'zeros in γ':>10}  {'‖W‖₁':>8}  {'test accuracy':>13}"
    )
    for name, runs in results.items():
        for run in runs:
            silent = int(np.sum(spread(run.params, data[0]) == 0))
            zeros = int(np.sum(run.params["norm"]["scale"] == 0))
            size = np.abs(run.params["conv"]["kernel"]).sum()
            print(f"{name:22s}  {silent:15d}  {zeros:10d}  {size:8.3f}  {run.accuracy:13.3f}")

    params = results[PROX][0].params
    print("\n" + str(l1jax.sparsity(params, l1jax.on("norm/scale", l1jax.L1(LAM)))))
    print(f"Without them:\n{cut(params, data[0]).report}")

    arguments.output.mkdir(parents=True, exist_ok=True)
    pictures = {
        "channels": draw_channels(results, data[0]),
        "training": draw_training(results),
        "filters": draw_filters(params),
    }
    for name, figure in pictures.items():
        file = arguments.output / f"prune_batch_norm_digits_{name}.png"
        figure.savefig(file, dpi=150)
        print(f"The picture of the {name}: {file}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="one seed and a few steps")
    default = Path(__file__).resolve().parent / "output"
    parser.add_argument("--output", type=Path, default=default, help="folder for the pictures")
    return parser.parse_args()


if __name__ == "__main__":
    main()
