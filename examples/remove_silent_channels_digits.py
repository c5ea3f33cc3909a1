"""Most of a network's channels fall silent in training, and are removed: the same outputs, in less time.

python examples/remove_silent_channels_digits.py [--short] [--output FOLDER]

A convolutional network with batch norm learns scikit-learn's digits, from three seeds. A group lasso on each
channel's scale and shift, whose strength rises as long as fewer than 88 % of the multiply-adds are gone, makes
channels exactly zero; `l1jax.prune.compact` cuts them out, checks that the outputs stay the same, and measures.
Beside it, what cutting the channels with the smallest scales of a dense network does. The small network then
trains on, is exported, and is loaded in a fresh process. With `--short` it trains one seed for a few steps.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from functools import partial
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
import l1jax.plot

if __name__ == "__main__":
    matplotlib.use("Agg")
import matplotlib.pyplot as plt

WIDTHS = (48, 64, 64)
STRIDES = (2, 1, 1)
TARGET = 0.88  # of the multiply-adds
BATCH = 256


class Trained(NamedTuple):
    """What is left after training, and at each step how much was saved and how strong the penalty was."""

    params: dict
    state: dict
    saved: np.ndarray
    strength: np.ndarray


def digits() -> tuple:
    """Training and test images (n, 8, 8, 1) from 0 to 1, and their labels."""
    data = load_digits()
    images = (data.images / 16).astype(np.float32)[..., None]
    x, x_test, y, y_test = train_test_split(
        images, data.target, test_size=597, stratify=data.target, random_state=0
    )
    return tuple(map(jnp.asarray, (x, x_test, y, y_test)))


def initial(key) -> tuple[dict, dict]:
    """Parameters, and the running statistics of each norm."""
    params, state, before = {}, {}, 1
    for k, width in enumerate(WIDTHS):
        key, here = jax.random.split(key)
        size = (2 / (9 * before)) ** 0.5
        params[f"conv{k}"] = {
            "kernel": size * jax.random.normal(here, (3, 3, before, width)),
            "scale": jnp.ones(width),
            "shift": jnp.zeros(width),
        }
        state[f"conv{k}"] = {"mean": jnp.zeros(width), "var": jnp.ones(width)}
        before = width
    kernel = before**-0.5 * jax.random.normal(key, (before, 10))
    params["dense"] = {"kernel": kernel, "bias": jnp.zeros(10)}
    return params, state


def network(params, state, images, training=False):
    """Logits, and the statistics of this batch if it is in training."""
    x, seen = images, {}
    for k, stride in enumerate(STRIDES):
        layer = params[f"conv{k}"]
        x = jax.lax.conv_general_dilated(
            x, layer["kernel"], (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        stats = state[f"conv{k}"]
        if training:
            stats = {"mean": x.mean((0, 1, 2)), "var": x.var((0, 1, 2))}
        seen[f"conv{k}"] = stats
        x = (x - stats["mean"]) * (jax.lax.rsqrt(stats["var"] + 1e-5) * layer["scale"])
        x = jax.nn.relu(x + layer["shift"])
    logits = x.mean((1, 2)) @ params["dense"]["kernel"] + params["dense"]["bias"]
    return (logits, seen) if training else logits


def cross_entropy(params, state, x, y):
    logits, seen = network(params, state, x, training=True)
    losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, y)
    return losses.mean(), seen


@partial(jax.jit, static_argnames=("steps", "units", "feedback", "rate"))
def train(params, state, x, y, key, *, steps, units=None, feedback=None, rate=3e-3) -> Trained:
    """Adam on batches of 64; with `units`, each step ends in the prox of their penalty."""
    decay = l1jax.on("conv*/kernel", l1jax.Ridge(1e-4))
    # The threshold of the prox is in proportion to the rate: it falls when the channels are chosen.
    falls = optax.cosine_decay_schedule(rate, steps - steps * 6 // 10)
    schedule = optax.join_schedules([optax.constant_schedule(rate), falls], [steps * 6 // 10])
    tx = l1jax.prox_adam(schedule, decay)

    def step(carry, key):
        params, state, opt, lam = carry
        rows = jax.random.choice(key, len(x), (64,))
        gradient, seen = jax.grad(cross_entropy, has_aux=True)(params, state, x[rows], y[rows])
        penalty, saved = decay, jnp.zeros(())
        if units is not None:
            penalty = units.penalty(lam.strength, "vectors")
        updates, opt = tx.update(gradient, opt, params, penalty=penalty)
        params = optax.apply_updates(params, updates)
        state = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, state, seen)
        if units is not None:
            saved = units.saved(params, "vectors")
            lam = feedback.update(lam, saved)
        return (params, state, opt, lam), (saved, lam.strength)

    lam = (feedback or l1jax.prune.Feedback(0.5, 1, 1.0)).init()
    carry = params, state, tx.init(params), lam
    (params, state, _, _), (saved, lam) = jax.lax.scan(step, carry, jax.random.split(key, steps))
    return Trained(params, state, saved, lam)


def accuracy(apply, params, state, x, y) -> float:
    return float((apply(params, state, x).argmax(1) == y).mean())


def percentile_cut(params, widths):
    """The channels with the smallest |γ| set to nothing, as many as were removed elsewhere."""
    cut = dict(params)
    for k in range(len(WIDTHS)):
        layer = params[f"conv{k}"]
        order = np.argsort(np.abs(layer["scale"]))
        gone = order[: WIDTHS[k] - widths[k]]
        cut[f"conv{k}"] = layer | {
            "scale": layer["scale"].at[gone].set(0),
            "shift": layer["shift"].at[gone].set(0),
        }
    return cut


def experiment(data, seed, steps, strength=7e-2):
    """One seed: the dense training, the sparse one, and the small network."""
    x, x_test, y, y_test = data
    key, *keys = jax.random.split(jax.random.key(seed), 4)
    start = initial(key)
    units = l1jax.prune.units(network, start[0], x[:BATCH], state=start[1])
    feedback = l1jax.prune.Feedback(TARGET, steps=steps // 2, start=strength, gain=0.04)
    dense = train(*start, x, y, keys[0], steps=steps)
    sparse = train(*start, x, y, keys[0], steps=steps, units=units, feedback=feedback)
    small = l1jax.prune.compact(
        network, sparse.params, x_test[:BATCH], state=sparse.state, multiple_of=8
    )
    widths = [small.params[f"conv{k}"]["scale"].size for k in range(len(WIDTHS))]
    cut = percentile_cut(dense.params, widths)
    rights = {
        "dense": accuracy(network, dense.params, dense.state, x_test, y_test),
        "small": accuracy(small.apply, small.params, small.state, x_test, y_test),
        "percentile": accuracy(network, cut, dense.state, x_test, y_test),
    }
    return sparse, small, widths, rights


_RELOAD = """
import sys, numpy as np, jax
sys.path.insert(0, sys.argv[2])
import l1jax, remove_silent_channels_digits as example
plan = l1jax.load(sys.argv[1] + "/plan.npz")
saved = np.load(sys.argv[1] + "/params.npz")
shapes = jax.eval_shape(example.initial, jax.random.key(0))
leaves = [saved[str(k)] for k in range(len(jax.tree.leaves(shapes)))]
params, state = jax.tree.unflatten(jax.tree.structure(shapes), leaves)
logits = plan.bind(example.network)(params, state, saved["x"])
print(np.abs(logits - saved["logits"]).max())
"""


def reload(small, x) -> float:
    """Saves the small network, and compares what a fresh process computes with it."""
    leaves = jax.tree.leaves((small.params, small.state))
    logits = small.apply(small.params, small.state, x)
    with tempfile.TemporaryDirectory() as folder:
        small.plan.save(f"{folder}/plan.npz")
        arrays = {str(k): np.asarray(leaf) for k, leaf in enumerate(leaves)}
        np.savez(f"{folder}/params.npz", x=x, logits=logits, **arrays)
        command = [sys.executable, "-c", _RELOAD, folder, str(Path(__file__).parent)]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def draw(sparse, small) -> plt.Figure:
    """What was saved at each step, and the widths before and after."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
    left.plot(100 * np.asarray(sparse.saved), color="black", linewidth=1.8)
    left.axhline(100 * TARGET, color="0.6", linestyle="--")
    left.annotate("target", (0, 100 * TARGET), (2, 4), textcoords="offset points", color="0.4")
    left.set(xlabel="step", ylim=(-2, 102), title="Multiply-adds saved, %")
    names = {layer.name.split("/")[0]: layer for layer in small.report.layers}
    order = [f"conv{k}" for k in range(len(WIDTHS))]
    before = {name: names[name].before for name in order}
    l1jax.plot.widths(before, {name: names[name].after for name in order}, ax=right)
    right.set(title="Channels of each layer")
    for side in ("top", "right"):
        left.spines[side].set_visible(False)
    return figure


def main() -> None:
    arguments = parse()
    data = digits()
    seeds, steps = (1, 12) if arguments.short else (3, 500)
    header = ("seed", "widths", "parameters", "forward ms", "dense", "small", "percentile cut")
    print("{:4}  {:>12}  {:>16}  {:>14}  {:>6}  {:>6}  {:>14}".format(*header))
    runs = []
    strength = 3.0 if arguments.short else 7e-2  # so that a few steps are enough
    for seed in range(seeds):
        sparse, small, widths, rights = experiment(data, seed, steps, strength)
        before, after = small.report.before, small.report.after
        print(
            f"{seed:4d}  {' '.join(map(str, widths)):>12}  {before.parameters:>6} → {after.parameters:>6}   "
            f"{1e3 * before.seconds:5.1f} → {1e3 * after.seconds:5.1f}   {rights['dense']:.3f}   "
            f"{rights['small']:.3f}  {rights['percentile']:14.3f}"
        )
        runs.append((sparse, small))

    sparse, small = runs[0]
    print(f"\n{small.report}\n")
    x, x_test, y, y_test = data
    onward = train(small.params, small.state, x, y, jax.random.key(9), steps=steps // 4, rate=1e-3)
    right = accuracy(small.apply, onward.params, onward.state, x_test, y_test)
    print(f"Trained on for {steps // 4} steps it reads {right:.3f} of the test images right.")
    shapes = jax.eval_shape(lambda: (small.params, small.state, x[:BATCH]))
    exported = jax.export.export(jax.jit(small.apply))(*shapes)
    print(f"Exported: {len(exported.mlir_module())} characters of StableHLO.")
    print(f"In a fresh process its logits differ by {reload(small, x_test[:BATCH]):.0e}.")

    arguments.output.mkdir(parents=True, exist_ok=True)
    file = arguments.output / "remove_silent_channels_digits.png"
    draw(sparse, small).savefig(file, dpi=150)
    print(f"The picture: {file}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="one seed and a few steps")
    default = Path(__file__).resolve().parent / "output"
    parser.add_argument("--output", type=Path, default=default, help="folder for the picture")
    return parser.parse_args()


if __name__ == "__main__":
    main()
