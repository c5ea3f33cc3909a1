"""Heads and hidden units of a small Transformer fall silent in training, and are removed.

python examples/remove_heads_text.py [--short] [--output FOLDER]

A Transformer learns to continue, letter by letter, the documentation that comes with Python
(`pydoc_data.topics`). `l1jax.prune.units` lists its heads and hidden units from its own code; a group lasso on
the weights that read each of them, whose strength is raised until a quarter of the multiply-adds is gone, then
makes units exactly zero; `l1jax.prune.compact` cuts them out and checks that the outputs stay the same. The
small network takes the remaining steps, with what is left of Adam's state. With `--short` it trains for a few.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from pydoc_data.topics import topics
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax

import l1jax
import l1jax.plot

if __name__ == "__main__":
    matplotlib.use("Agg")
import matplotlib.pyplot as plt

LAYERS, WIDTH, HEADS, HEAD, HIDDEN = 2, 64, 8, 16, 512
LENGTH, BATCH = 64, 32
RATE = 2e-3
TARGET = 0.33  # of the multiply-adds


class Trained(NamedTuple):
    """What is left after training, and at each step the loss and how much was saved."""

    params: dict
    opt: tuple
    loss: np.ndarray
    saved: np.ndarray


def text() -> tuple[jax.Array, jax.Array, int]:
    """Letters as numbers, nine tenths to learn from and a tenth to test on; how many letters there are."""
    letters = "".join(topics[key] for key in sorted(topics))
    alphabet = sorted(set(letters))
    number = {letter: k for k, letter in enumerate(alphabet)}
    codes = np.array([number[letter] for letter in letters], np.int32)
    rows = codes[: len(codes) // (LENGTH + 1) * (LENGTH + 1)].reshape(-1, LENGTH + 1)
    rows = np.random.default_rng(0).permutation(rows)
    cut = len(rows) * 9 // 10
    return jnp.asarray(rows[:cut]), jnp.asarray(rows[cut:]), len(alphabet)


def initial(key, letters: int) -> dict:
    """Parameters of a Transformer whose blocks are written one after the other."""

    def normal(key, *shape, inputs):
        return inputs**-0.5 * jax.random.normal(key, shape)

    keys = jax.random.split(key, 3 + LAYERS)
    params = {
        "embedding": normal(keys[0], letters, WIDTH, inputs=WIDTH),
        "position": normal(keys[1], LENGTH, WIDTH, inputs=WIDTH),
        "norm": jnp.ones(WIDTH),
        "letters": normal(keys[2], WIDTH, letters, inputs=WIDTH),
    }
    for k in range(LAYERS):
        q, key, v, o, up, down = jax.random.split(keys[3 + k], 6)
        params[f"attention{k}"] = {
            "norm": jnp.ones(WIDTH),
            "query": normal(q, WIDTH, HEADS, HEAD, inputs=WIDTH),
            "key": normal(key, WIDTH, HEADS, HEAD, inputs=WIDTH),
            "value": normal(v, WIDTH, HEADS, HEAD, inputs=WIDTH),
            "out": normal(o, HEADS, HEAD, WIDTH, inputs=HEADS * HEAD),
        }
        params[f"mlp{k}"] = {
            "norm": jnp.ones(WIDTH),
            "up": normal(up, WIDTH, HIDDEN, inputs=WIDTH),
            "bias": jnp.zeros(HIDDEN),
            "down": normal(down, HIDDEN, WIDTH, inputs=HIDDEN),
        }
    return params


def rms_norm(x, scale):
    return x * jax.lax.rsqrt((x**2).mean(-1, keepdims=True) + 1e-6) * scale


def attention(p, x):
    """Each letter looks at those before it."""
    x = rms_norm(x, p["norm"])
    q, k, v = (jnp.einsum("btd,dhs->bths", x, p[name]) for name in ("query", "key", "value"))
    scores = jnp.einsum("bths,buhs->bhtu", q, k) * HEAD**-0.5
    length = x.shape[1]
    scores = jnp.where(np.tri(length, dtype=bool), scores, -1e9)
    mixed = jnp.einsum("bhtu,buhs->bths", jax.nn.softmax(scores), v)
    return jnp.einsum("bths,hsd->btd", mixed, p["out"])


def network(params, letters):
    """Logits of the letter that follows each."""
    x = params["embedding"][letters] + params["position"]
    for k in range(LAYERS):
        x = x + attention(params[f"attention{k}"], x)
        p = params[f"mlp{k}"]
        x = x + jax.nn.gelu(rms_norm(x, p["norm"]) @ p["up"] + p["bias"]) @ p["down"]
    return rms_norm(x, params["norm"]) @ params["letters"]


def cross_entropy(apply, params, rows):
    logits = apply(params, rows[:, :-1])
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits, rows[:, 1:]).mean()


def group_lasso(units, lam):
    """On the weights that read each head and each hidden unit; the width of the network stays."""
    heads = [f"attention{k}/key:1" for k in range(LAYERS)]
    hidden = [f"mlp{k}/up" for k in range(LAYERS)]
    return l1jax.penalties(
        units.penalty(1.7 * lam, "read", layers=heads),
        units.penalty(lam, "read", layers=hidden),
    )


class Phases(NamedTuple):
    """How many steps the network learns, loses units, and, small, goes on."""

    learn: int
    silence: int
    small: int


def phases(steps) -> Phases:
    learn, silence = steps * 3 // 10, steps // 10
    return Phases(learn, silence, steps - learn - silence)


def optimiser(steps):
    """Adam, at a constant rate until units are removed, at a falling one after that."""
    learn, silence, small = phases(steps)
    constant = optax.warmup_constant_schedule(0, RATE, steps // 20)
    falls = optax.cosine_decay_schedule(RATE, small, 0.02)
    schedule = optax.join_schedules([constant, falls], [learn + silence])
    return l1jax.prox_adam(schedule, l1jax.on("**", None))


@partial(jax.jit, static_argnames=("apply", "steps", "units", "feedback"))
def train(apply, params, opt, rows, keys, *, steps, units=None, feedback=None) -> Trained:
    """A step for each key; with `units`, each ends in the prox of their group lasso."""
    tx = optimiser(steps)

    def step(carry, key):
        params, opt, lam = carry
        batch = rows[jax.random.choice(key, len(rows), (BATCH,))]
        loss, gradient = jax.value_and_grad(cross_entropy, 1)(apply, params, batch)
        settings = {} if units is None else {"penalty": group_lasso(units, lam.strength)}
        updates, opt = tx.update(gradient, opt, params, **settings)
        params = optax.apply_updates(params, updates)
        saved = jnp.zeros(())
        if units is not None:
            saved = units.saved(params, "read")
            lam = feedback.update(lam, saved)
        return (params, opt, lam), (loss, saved)

    lam = (feedback or l1jax.prune.Feedback(0.5, 1, 1.0)).init()
    (params, opt, _), told = jax.lax.scan(step, (params, opt, lam), keys)
    return Trained(params, opt, *told)


def test_loss(apply, params, rows) -> float:
    """The mean cross-entropy of a letter, in nats."""

    @jax.jit
    def one(params, rows):
        return cross_entropy(apply, params, rows)

    parts = np.array_split(np.asarray(rows), max(1, len(rows) // 128))
    return float(np.average([one(params, part) for part in parts], weights=list(map(len, parts))))


def experiment(rows, test, letters, steps, start):
    """The dense training; and one whose second phase is sparse, the small network, and its training."""
    params = initial(jax.random.key(0), letters)
    opt = optimiser(steps).init(params)
    learn, silence, _ = phases(steps)
    keys = jnp.split(jax.random.split(jax.random.key(1), steps), [learn, learn + silence])

    first = train(network, params, opt, rows, keys[0], steps=steps)
    dense = train(network, first.params, first.opt, rows, jnp.concatenate(keys[1:]), steps=steps)
    units = l1jax.prune.units(network, params, rows[:BATCH, :-1])
    feedback = l1jax.prune.Feedback(TARGET, steps=silence // 2, start=start)
    options = {"units": units, "feedback": feedback}
    sparse = train(network, first.params, first.opt, rows, keys[1], steps=steps, **options)
    small = l1jax.prune.compact(network, sparse.params, test[:BATCH, :-1])
    opt = small.plan.apply(sparse.opt)
    onward = train(small.apply, small.params, opt, rows, keys[2], steps=steps)
    return units, first, dense, sparse, small, onward


def widths(small) -> tuple[dict[str, int], dict[str, int]]:
    """Heads and hidden units of each layer, before and after."""
    layers = {layer.name: layer for layer in small.report.layers}
    chosen = {f"heads {k}": layers[f"attention{k}/key:1"] for k in range(LAYERS)}
    chosen |= {f"hidden {k}": layers[f"mlp{k}/up"] for k in range(LAYERS)}
    before = {name: layer.before for name, layer in chosen.items()}
    return before, {name: layer.after for name, layer in chosen.items()}


def draw(first, dense, sparse, small, onward) -> plt.Figure:
    """The losses, what was saved at each step, and the fractions of heads and hidden units that are left."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.4), layout="constrained")
    whole = np.concatenate([first.loss, dense.loss])
    losses = np.concatenate([first.loss, sparse.loss, onward.loss])
    window, begin = max(1, len(whole) // 40), len(first.loss)
    for loss, name, colour in ((whole, "dense", "0.6"), (losses, "sparse, then small", "black")):
        smooth = np.convolve(loss, np.ones(window) / window, "valid")
        axes[0].plot(np.arange(window - 1, len(loss)), smooth, color=colour, label=name)
    for step in (begin, begin + len(sparse.loss)):
        axes[0].axvline(step, color="0.6", linestyle=":")
    axes[0].set(xlabel="step", ylabel="training loss, nats a letter", title="Loss")
    axes[0].legend(frameon=False)
    axes[1].plot(
        begin + np.arange(len(sparse.saved)), 100 * np.asarray(sparse.saved), color="black"
    )
    axes[1].axhline(100 * TARGET, color="0.6", linestyle="--")
    axes[1].annotate(
        "target", (begin, 100 * TARGET), (2, 4), textcoords="offset points", color="0.4"
    )
    axes[1].set(xlabel="step", ylim=(-2, 102), title="Multiply-adds saved, %")
    before, after = widths(small)
    names = list(before)
    bars = axes[2].barh(names, [100 * after[n] / before[n] for n in names], color="black")
    axes[2].bar_label(bars, [f"{before[n]} → {after[n]}" for n in names], padding=4)
    axes[2].set(xlim=(0, 125), title="What is left, %")
    axes[2].invert_yaxis()
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    return figure


def main() -> None:
    arguments = parse()
    rows, test, letters = text()
    steps, start = (20, 0.1) if arguments.short else (1500, 1e-3)
    if arguments.short:
        test = test[:64]
    print(f"{rows.size + test.size} letters, {letters} different ones.")
    units, first, dense, sparse, small, onward = experiment(rows, test, letters, steps, start)
    print(units, "\n")
    print(small.report, "\n")
    losses = test_loss(network, dense.params, test), test_loss(small.apply, onward.params, test)
    before, after = widths(small)
    for kind in ("heads", "hidden"):
        old, new = (sum(n for name, n in one.items() if kind in name) for one in (before, after))
        print(f"{kind}: {old} → {new}, {100 * (1 - new / old):.0f} % are gone.")
    print(f"Loss on letters not seen: {losses[0]:.4f} dense, {losses[1]:.4f} small,", end=" ")
    print(f"{100 * (losses[1] / losses[0] - 1):+.1f} %.")

    arguments.output.mkdir(parents=True, exist_ok=True)
    file = arguments.output / "remove_heads_text.png"
    draw(first, dense, sparse, small, onward).savefig(file, dpi=150)
    print(f"The picture: {file}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="a few steps")
    default = Path(__file__).resolve().parent / "output"
    parser.add_argument("--output", type=Path, default=default, help="folder for the picture")
    return parser.parse_args()


if __name__ == "__main__":
    main()
