"""What `l1jax.prune.compact` costs on large networks: seconds, and memory in copies of the parameters.

python benchmarks/prune.py [--short]

A ResNet-50 whose norms have lost 30 % of their scales, and a Transformer of 12 layers (the size of BERT-base)
that lost 30 % of its hidden units and four heads of each layer; each in a fresh process. `planning` is the time
to trace, to read and to plan; `in all` is with the check of the outputs and the report, for which both networks
are compiled. Seconds of the clock, and of all cores.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import l1jax
from l1jax.prune import _compact


def normal(rng, *shape) -> jax.Array:
    scale = np.prod(shape[:-1], dtype=float) ** -0.5
    return jnp.asarray(scale * rng.normal(size=shape), jnp.float32)


def resnet50(rng, divisor):
    """The bottleneck network of He et al. (2016) at inference; every third unit of a block is silent."""
    params, strides = {}, {}

    def convolution(name, size, before, width, stride=1):
        silent = rng.random(width) < (0.3 if name.endswith(("a", "b")) else 0.0)
        scale = jnp.where(silent, 0.0, jnp.asarray(rng.uniform(0.5, 1.5, width), jnp.float32))
        shift = jnp.asarray(0.1 * rng.normal(size=width), jnp.float32)
        kernel = normal(rng, size, size, before, width)
        params[name] = {"kernel": kernel, "scale": scale, "shift": shift}
        params[name] |= {"mean": jnp.zeros(width), "var": jnp.ones(width)}
        strides[name] = stride

    convolution("stem", 7, 3, 64 // divisor, 2)
    blocks, before = [], 64 // divisor
    for stage, depth in enumerate((3, 4, 6, 3)):
        width = 64 * 2**stage // divisor
        for block in range(depth):
            name = f"stage{stage}/block{block}/"
            stride = 2 if stage and not block else 1
            convolution(name + "a", 1, before, width)
            convolution(name + "b", 3, width, width, stride)
            convolution(name + "c", 1, width, 4 * width)
            if not block:
                convolution(name + "shortcut", 1, before, 4 * width, stride)
            blocks.append(name)
            before = 4 * width
    params["head"] = {"kernel": normal(rng, before, 1000), "bias": jnp.zeros(1000)}

    def layer(params, name, x):
        p = params[name]
        x = jax.lax.conv_general_dilated(
            x, p["kernel"], (strides[name],) * 2, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return (x - p["mean"]) * jax.lax.rsqrt(p["var"] + 1e-5) * p["scale"] + p["shift"]

    def apply(params, x):
        x = jax.nn.relu(layer(params, "stem", x))
        x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME")
        for name in blocks:
            h = jax.nn.relu(layer(params, name + "a", x))
            h = jax.nn.relu(layer(params, name + "b", h))
            h = layer(params, name + "c", h)
            shortcut = layer(params, name + "shortcut", x) if name + "shortcut" in params else x
            x = jax.nn.relu(h + shortcut)
        return x.mean((1, 2)) @ params["head"]["kernel"] + params["head"]["bias"]

    return apply, params, normal(rng, 2, 64, 64, 3)


def transformer(rng, divisor):
    """Twelve pre-norm layers of 12 heads; every third hidden unit and four heads of a layer are silent."""
    width, hidden, heads, words = 768 // divisor, 3072 // divisor, 12, 30522 // divisor
    size = width // heads
    params = {"words": normal(rng, words, width), "last": jnp.ones(width)}
    for k in range(12):
        up, down = normal(rng, width, hidden), normal(rng, hidden, width)
        silent = rng.random(hidden) < 0.3
        out = normal(rng, heads, size, width).at[:4].set(0.0)
        params[f"layer{k}"] = {
            "norm": jnp.ones(width),
            "qkv": normal(rng, width, 3, heads, size).transpose(1, 0, 2, 3),
            "out": out,
            "norm2": jnp.ones(width),
            "up": jnp.where(silent, 0.0, up),
            "bias": jnp.asarray(0.1 * rng.normal(size=hidden), jnp.float32),
            "down": down,
            "down_bias": jnp.zeros(width),
        }

    def norm(x, scale):
        return x * jax.lax.rsqrt((x**2).mean(-1, keepdims=True) + 1e-6) * scale

    def apply(params, tokens):
        x = params["words"][tokens]
        for k in range(12):
            p = params[f"layer{k}"]
            h = norm(x, p["norm"])
            q, key, v = (jnp.einsum("btd,dhk->bhtk", h, p["qkv"][i]) for i in range(3))
            weights = jax.nn.softmax(jnp.einsum("bhtk,bhsk->bhts", q, key) / size**0.5)
            x = x + jnp.einsum("bhts,bhsk,hkd->btd", weights, v, p["out"])
            h = jax.nn.gelu(norm(x, p["norm2"]) @ p["up"] + p["bias"])
            x = x + h @ p["down"] + p["down_bias"]
        return norm(x, params["last"]) @ params["words"].T

    return apply, params, jnp.asarray(rng.integers(0, words, (2, 32)))


NETWORKS = {"ResNet-50": resnet50, "Transformer": transformer}


def held_at_most() -> float:
    """The most memory that the process has held, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def held_now() -> float:
    """The memory that the process holds, in bytes; what it has held at most where the system tells no more."""
    pages = Path("/proc/self/statm")
    if not pages.exists():
        return held_at_most()
    return int(pages.read_text().split()[1]) * resource.getpagesize()


def plan(apply, params, example):
    """The part of `compact` before anything of the network is compiled."""
    ours, inputs = _compact.split((params,)), _compact.split((example,))
    model = _compact._Model(apply, ours, inputs, False)
    traced = _compact.trace(apply, model.params, model.inputs)
    removal = _compact._removal(model, traced, None, False, False, 1)
    return _compact._plan(model, traced, removal)


def timed(function, *args) -> tuple:
    """What the function returns, and its seconds: of the clock, and of all cores."""
    start = time.perf_counter(), time.process_time()
    result = function(*args)
    return result, time.perf_counter() - start[0], time.process_time() - start[1]


def one(name: str, divisor: int):
    apply, params, example = NETWORKS[name](np.random.default_rng(0), divisor)
    jax.block_until_ready(params)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    before = held_now()
    _, *planned = timed(plan, apply, params, example)
    most = held_at_most()
    small, *whole = timed(l1jax.prune.compact, apply, params, example)
    count, left = (
        sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (params, small.params)
    )
    print(
        f"{name:12}{count / 1e6:9.1f} →{left / 1e6:6.1f}"
        f"{planned[0]:9.1f}{planned[1]:6.1f}{whole[0]:9.1f}{whole[1]:6.1f}"
        f"{(most - before) / size:11.1f}{(held_at_most() - before) / size:9.1f}",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="networks a quarter as wide")
    parser.add_argument("--one", choices=list(NETWORKS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    divisor = 4 if options.short else 1
    if options.one:
        return one(options.one, divisor)
    print("               10⁶ parameters    planning: s, cpu   in all    copies: held   in all")
    for name in NETWORKS:
        command = [sys.executable, __file__, "--one", name, *(["--short"] * options.short)]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
