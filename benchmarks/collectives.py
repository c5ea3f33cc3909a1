"""What a path on a sharded X moves between devices, as the compiled programs say it.

python benchmarks/collectives.py [--short]

For each engine that takes a sharded X, and X split over rows, columns or both among 8 virtual devices, every
program that is run on X during `l1jax.path` is listed: how often it ran, its collectives with the entries that
each moves, and which of these a loop repeats. `--short` has tiny shapes, and no gradient steps, which take
seconds to compile.
"""

from __future__ import annotations

import argparse
import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple
from unittest import mock

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
if "xla_backend_optimization_level" not in os.environ["XLA_FLAGS"]:  # collectives are the same
    os.environ["XLA_FLAGS"] += " --xla_backend_optimization_level=0"

import equinox as eqx
import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import l1jax
from l1jax.linear.data import _host, _read_matrix, _sharded
from l1jax.linear.engines import _gradient_engines

KINDS = "all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute|collective-broadcast"
LAYOUTS = {"rows": P(("a", "b"), None), "columns": P(None, ("a", "b")), "both": P("a", "b")}
PRODUCTS = ("_dot", "_rdot", "_columns", "_gathered", "_means", "_squares", "_peaks", "_gram")
# The programs that take X, where they are.
PROGRAMS = [
    *((_sharded, name) for name in (*PRODUCTS, "_cross")),
    *((_host, name) for name in ("_dot", "_rdot", "_columns")),
    *((_read_matrix, name) for name in ("_summary", "_row")),
    *((_gradient_engines, name) for name in ("solve_one", "estimate_smoothness", "batched")),
]


class Collective(NamedTuple):
    """One operation between devices: its kind, its largest array, and whether a loop repeats it."""

    kind: str
    array: str
    in_loop: bool

    @property
    def entries(self) -> int:
        shape = re.search(r"\[([\d,]*)\]", self.array)
        return int(np.prod([int(size) for size in shape[1].split(",") if size])) if shape else 0


def collectives_of(text: str) -> list[Collective]:
    """The collectives of a compiled program, from its `as_text()`."""
    bodies = dict(computations(text))
    calls = {
        name: set(re.findall(r"(?:body|condition|calls|to_apply|computation)=%?([\w.-]+)", body))
        | {
            one
            for some in re.findall(r"branch_computations=\{(.*?)\}", body)
            for one in re.findall(r"[\w.-]+", some)
        }
        for name, body in bodies.items()
    }
    loops = [re.findall(r"(?:body|condition)=%?([\w.-]+)", body) for body in bodies.values()]
    repeated, left = set(), [name for names in loops for name in names]
    while left:
        name = left.pop()
        if name not in repeated:
            repeated.add(name)
            left.extend(calls.get(name, ()))
    found = []
    for name, body in bodies.items():
        for arrays, kind in re.findall(rf"= (.*?) ({KINDS})(?:-start)?\(", body):
            shapes = re.findall(r"\w+\[[\d,]*\]", arrays)
            every = [Collective(kind, shape, name in repeated) for shape in shapes]
            found.append(max(every, key=lambda one: one.entries))
    return found


def computations(text: str) -> Iterator[tuple[str, str]]:
    """The computations of a module: their names and what is in them."""
    for part in re.split(r"\n(?=(?:ENTRY )?%)", text):
        named = re.match(r"(?:ENTRY )?%([\w.-]+)", part)
        if named:
            yield named[1], part


class Recorder:
    """Runs programs in place of l1jax's own calls, and counts them with their collectives."""

    def __init__(self) -> None:
        self.runs: Counter[str] = Counter()
        self.found: dict[str, Counter[Collective]] = {}
        self.compiled: dict[Any, tuple[Any, list[Collective]]] = {}

    def recorded(self, name: str, program: Any) -> Any:
        function = getattr(program, "__wrapped__", program)
        is_plain = hasattr(program, "lower")
        lowerable = program if is_plain else eqx.filter_jit(function)

        def call(*args: Any) -> Any:
            leaves, tree = jax.tree.flatten(args)
            if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
                return program(*args)
            is_array = [eqx.is_array(leaf) for leaf in leaves]
            key = (
                name,
                tree,
                tuple(
                    (leaf.shape, str(leaf.dtype), str(getattr(leaf, "sharding", "")))
                    if array
                    else leaf
                    for leaf, array in zip(leaves, is_array, strict=True)
                ),
            )
            key = *key, jax.config.jax_enable_x64
            if key not in self.compiled:
                made = lowerable.lower(*args).compile()
                text = getattr(made, "compiled", made).as_text()
                self.compiled[key] = made, collectives_of(text)
            run, what = self.compiled[key]
            label = name.lstrip("_")
            self.runs[label] += 1
            self.found.setdefault(label, Counter()).update(what)
            return run(*args)

        return call

    @contextmanager
    def on(self) -> Iterator[None]:
        """Records what is run while it is entered."""
        self.runs, self.found = Counter(), {}
        with ExitStack() as stack:
            for module, name in PROGRAMS:
                replaced = self.recorded(name, getattr(module, name))
                stack.enter_context(mock.patch.object(module, name, replaced))
            yield

    def print(self, size: int) -> None:
        """Prints the programs, and the sum of what is known to have been moved."""
        every = sum(self.found.values(), Counter())
        rounds = sum(count for one, count in every.items() if not one.in_loop)
        entries = sum(count * one.entries for one, count in every.items() if not one.in_loop)
        print(f"  {rounds} collectives of {entries} entries in all ({entries / size:.2f} of X)")
        for name, runs in self.runs.items():
            kinds: dict[tuple[str, bool], Counter[int]] = {}
            for one, count in self.found[name].items():
                kinds.setdefault((one.kind, one.in_loop), Counter())[one.entries] += count
            parts = [
                f"{kind} of "
                + ", ".join(f"{n}{f' ({k})' if k > 1 else ''}" for n, k in sorted(sizes.items()))
                + " in a loop" * in_loop
                for (kind, in_loop), sizes in kinds.items()
            ]
            print(f"    {name:20} {runs:4} runs: {'; '.join(parts) or 'nothing moves'}")


def cases(short: bool) -> list[tuple[str, np.ndarray, np.ndarray, dict[str, Any]]]:
    """What is solved: a name, X, the targets, and what `path` is given."""
    rng = np.random.default_rng(0)
    tall = rng.normal(size=(512, 8) if short else (16_384, 64))
    wide = rng.normal(size=(32, 1024) if short else (128, 8192))
    target = {id(X): X[:, 0] - X[:, 3] + rng.normal(size=len(X)) for X in (tall, wide)}
    logistic = {"loss": l1jax.Logistic()}
    found = [
        ("tall lasso, its moments", tall, target[id(tall)], {}),
        ("wide lasso, working_set", wide, target[id(wide)], {}),
    ]
    if not short:
        labels = (target[id(tall)] > 0).astype(float)
        wide_labels = (target[id(wide)] > 0).astype(float)
        groups = {"pen": l1jax.GroupL1(groups=np.arange(64) // 4), "loss": l1jax.Poisson()}
        found += [
            ("tall logistic, working_set", tall, labels, logistic),
            ("wide logistic, working_set", wide, wide_labels, logistic),
            ("groups of a Poisson model, sequential", tall, labels, groups),
        ]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="tiny shapes, no gradient steps")
    given = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    auto = jax.sharding.AxisType.Auto
    mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(auto, auto))
    recorder = Recorder()
    for name, X, y, options in cases(given.short):
        for layout, spec in LAYOUTS.items():
            sharded = jax.device_put(X, NamedSharding(mesh, spec))
            about = {"pen": l1jax.L1(), "n_lams": 2 if given.short else 20, "lam_min_ratio": 0.1}
            with recorder.on():
                l1jax.path(sharded, y, **about | options)
            print(f"{name}, {len(X)} × {X.shape[1]}, split by {layout}")
            recorder.print(X.size)


if __name__ == "__main__":
    main()
