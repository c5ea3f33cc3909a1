"""Which pixels a network needs to see: a group of weights per pixel, at four strengths in one batch.

python examples/pixels_read_digits.py [--short] [--output FOLDER]

The first layer of a small network has one group for each of the 64 pixels, with all weights that read
it: a pixel is read by some hidden unit, or by none. With `--short` it takes a few steps.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import l1jax

matplotlib.use("Agg")
import matplotlib.pyplot as plt

STRENGTHS = [3e-4, 1e-3, 3e-3, 1e-2]


def main() -> None:
    arguments = parse()
    data = load_digits()
    x, x_test, y, y_test = train_test_split(
        jnp.asarray(data.data / 16, jnp.float32), jnp.asarray(data.target), random_state=0
    )
    steps = 60 if arguments.short else 1000
    # The scale must not move to the second layer, which is free of charge otherwise.
    pixels = l1jax.on("first/kernel", l1jax.ChannelL1(1.0, axis=0))
    decay = l1jax.on("second/kernel", l1jax.Ridge(1e-3))
    rate = optax.cosine_decay_schedule(0.01, steps)
    tx = l1jax.prox_adam(rate, None)

    def loss(params):
        labels = optax.losses.softmax_cross_entropy_with_integer_labels
        return labels(network(params, x), y).mean()

    def train(strength):
        pen = l1jax.penalties(pixels.with_strength(strength), decay)
        params = initial(jax.random.key(0))

        def step(carry, _):
            params, state = carry
            updates, state = tx.update(jax.grad(loss)(params), state, params, penalty=pen)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, tx.init(params)), None, steps)[0][0]

    models = jax.jit(jax.vmap(train))(jnp.array(STRENGTHS))
    logits = jax.vmap(network, (0, None))(models, x_test)
    right = jnp.mean(logits.argmax(-1) == y_test, axis=1)
    sizes = jnp.linalg.norm(models["first"]["kernel"], axis=2)

    print(f"{'strength':>8}  {'pixels read':>11}  {'test accuracy':>13}")
    for lam, size, share in zip(STRENGTHS, sizes, right, strict=True):
        print(f"{lam:8.0e}  {int(jnp.sum(size > 0)):11d}  {share:13.3f}")
    third = jax.tree.map(lambda leaf: leaf[2], models)
    print("\n" + str(l1jax.sparsity(third, pixels)))

    arguments.output.mkdir(parents=True, exist_ok=True)
    picture = arguments.output / "pixels_read_digits.png"
    draw(data.images.mean(0), np.asarray(sizes), np.asarray(right), picture)
    print(f"The picture of the pixels: {picture}")


def initial(key) -> dict:
    first, second = jax.random.split(key)
    return {
        "first": {"kernel": 0.1 * jax.random.normal(first, (64, 32)), "bias": jnp.zeros(32)},
        "second": {"kernel": 0.2 * jax.random.normal(second, (32, 10)), "bias": jnp.zeros(10)},
    }


def network(params, x):
    hidden = jax.nn.relu(x @ params["first"]["kernel"] + params["first"]["bias"])
    return hidden @ params["second"]["kernel"] + params["second"]["bias"]


def draw(mean, sizes, right, file: Path) -> None:
    figure, axes = plt.subplots(1, 5, figsize=(11, 2.7), layout="constrained")
    axes[0].imshow(mean, cmap="gray_r")
    axes[0].set_title("the mean digit", fontsize=11)
    colours = plt.get_cmap("viridis").copy()
    colours.set_bad("0.85")
    for axis, lam, size, share in zip(axes[1:], STRENGTHS, sizes, right, strict=True):
        shown = axis.imshow(
            np.where(size == 0, np.nan, size).reshape(8, 8), cmap=colours, vmin=0, vmax=sizes.max()
        )
        read = int(np.sum(size > 0))
        axis.set_title(f"λ = {lam:g}: {read} pixels\n{share:.1%} right", fontsize=11)
    for axis in axes:
        axis.set(xticks=[], yticks=[])
    figure.colorbar(shown, ax=axes[1:], shrink=0.85).set_label(
        "size of its weights\n(grey: exactly 0)"
    )
    figure.savefig(file, dpi=150)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="a few steps")
    default = Path(__file__).resolve().parent / "output"
    parser.add_argument("--output", type=Path, default=default, help="folder for the picture")
    return parser.parse_args()


if __name__ == "__main__":
    main()
