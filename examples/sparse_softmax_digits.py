"""Which pixels speak for which digit: a softmax model of the digits with exact zeros, trained with Adam.

python examples/sparse_softmax_digits.py [--short] [--output FOLDER]

The same L1 penalty twice: by the prox of `l1jax.prox_adam`, and as a term of the loss under
`optax.adam`, which makes weights small and none of them zero. With `--short` it takes a few steps.
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


def main() -> None:
    arguments = parse()
    data = load_digits()
    x, x_test, y, y_test = train_test_split(
        jnp.asarray(data.data / 16, jnp.float32), jnp.asarray(data.target), random_state=0
    )
    pen = l1jax.on("weight", l1jax.L1(2e-3))

    def cross_entropy(params):
        logits = x @ params["weight"] + params["bias"]
        return optax.losses.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    def penalised(params):
        return cross_entropy(params) + pen.value(params)

    steps = 100 if arguments.short else 3000
    rate = optax.cosine_decay_schedule(0.05, steps)
    params = {"weight": jnp.zeros((64, 10)), "bias": jnp.zeros(10)}
    models = {
        "l1jax.prox_adam": train(l1jax.prox_adam(rate, pen), cross_entropy, params, steps),
        "optax.adam, L1 in the loss": train(optax.adam(rate), penalised, params, steps),
    }

    print(f"{'':26s}  {'objective':>9}  {'zeros':>9}  {'test accuracy':>13}")
    for name, params in models.items():
        zeros = int(l1jax.sparsity(params, pen).zeros.sum())
        right = (x_test @ params["weight"] + params["bias"]).argmax(1) == y_test
        print(f"{name:26s}  {penalised(params):9.5f}  {zeros:4d}/640  {right.mean():13.3f}")
    params = models["l1jax.prox_adam"]
    print("\n" + str(l1jax.sparsity(params, pen)))

    arguments.output.mkdir(parents=True, exist_ok=True)
    picture = arguments.output / "sparse_softmax_digits.png"
    draw(np.asarray(params["weight"]), picture)
    print(f"The picture of the weights: {picture}")


def train(tx, loss, params, steps):
    """The parameters after so many full-batch steps."""

    @jax.jit
    def run(params):
        def step(carry, _):
            params, state = carry
            updates, state = tx.update(jax.grad(loss)(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, tx.init(params)), None, steps)[0][0]

    return run(params)


def draw(weight, file: Path) -> None:
    figure, axes = plt.subplots(2, 5, figsize=(9, 4.3), layout="constrained")
    limit = np.abs(weight).max() or 1
    colours = plt.get_cmap("PuOr").copy()
    colours.set_bad("0.8")
    for digit, axis in enumerate(axes.flat):
        w = weight[:, digit].reshape(8, 8)
        shown = axis.imshow(np.where(w == 0, np.nan, w), cmap=colours, vmin=-limit, vmax=limit)
        axis.set(xticks=[], yticks=[], title=f"{digit}: {np.sum(w != 0)} pixels")
    bar = figure.colorbar(shown, ax=axes, shrink=0.8)
    bar.set_label("weight; grey: exactly 0")
    figure.savefig(file, dpi=150)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="a few steps")
    default = Path(__file__).resolve().parent / "output"
    parser.add_argument("--output", type=Path, default=default, help="folder for the picture")
    return parser.parse_args()


if __name__ == "__main__":
    main()
