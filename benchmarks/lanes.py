"""What stands for the time of a batch of paths on an accelerator: loop iterations, kernels, memory.

python benchmarks/lanes.py [--short] [--shape N P] [--bootstraps N] [--alone N]

The lanes are those of batch.py, folds of bootstrap samples under one `vmap` of `l1jax.path`. A batch costs an
accelerator, whose lanes are wide, what its loop iterations cost, each some kernels; a loop ends with its last
lane. So the iterations of the batch are compared with those of each lane in a batch of one, here on
a CPU, which is told to take all lanes at once. The iterations are counted by the bodies of the loops; kernels
are the instructions that the loop over knots has left after XLA has fused them.
"""

from __future__ import annotations

import argparse
import collections
import re

import jax
import jax.numpy as jnp
import numpy as np

import l1jax
import report
from batch import GAP, fold_weights
from l1jax.linear.engines.compiled import _follow, _knots, _path
from problems import correlated, linear_target

# Instructions that move or name values, and are no kernel of their own.
NO_KERNEL = "parameter|constant|tuple|get-tuple-element|bitcast|copy|after-all|iota|partition-id"
LOOPS = {"blocks": _path, "knots": _knots}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="a tiny shape")
    parser.add_argument("--shape", nargs=2, type=int, default=(200, 2000), metavar=("N", "P"))
    parser.add_argument("--bootstraps", type=int, default=20)
    parser.add_argument("--alone", type=int, default=200, help="lanes that also run alone")
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    print(report.machine_line(report.machine()))
    if arguments.short:
        found = count_lanes(30, 140, n_folds=3, n_lams=5, n_bootstraps=2, n_alone=2)
    else:
        found = count_lanes(*arguments.shape, 10, 100, arguments.bootstraps, arguments.alone)
    for name, value in found.items():
        print(f"  {name}: {value if isinstance(value, str) else format(value, '.3g')}")


def count_lanes(
    n: int, p: int, n_folds: int, n_lams: int, n_bootstraps: int, n_alone: int
) -> dict[str, float | str]:
    rng = np.random.default_rng(0)
    X = correlated(rng, n, p)
    y = linear_target(rng, X, active=20)
    biggest = float(l1jax.lambda_max(X, y, l1jax.L1()))
    lams = np.geomspace(0.9 * biggest, 0.05 * biggest, n_lams)
    weights = fold_weights(rng, n, n_folds, n_bootstraps).astype(float)
    X_there, y_there, lams_there = map(jnp.asarray, (X, y, lams))

    def one(weight):
        path = l1jax.path(
            X_there, y_there, l1jax.L1(), lams=lams_there, sample_weight=weight, tol=GAP
        )
        return jnp.max(path.relative_gaps)

    counts = counted_loops()
    batch = jax.jit(jax.vmap(one)).lower(weights).compile()
    alone = jax.jit(jax.vmap(one)).lower(weights[:1]).compile()
    of_batch, gaps = iterations(counts, batch, weights)
    some = np.linspace(0, len(weights) - 1, min(n_alone, len(weights))).astype(int)
    of_lanes = [iterations(counts, alone, weights[i : i + 1])[0] for i in some]
    found: dict[str, float | str] = {
        "problem": f"{n} × {p}: {n_bootstraps} bootstraps × {n_folds} folds × {n_lams} strengths",
        "largest relative gap": float(np.max(gaps)),
    }
    for loop in LOOPS:
        longest = max(of_lane[loop] for of_lane in of_lanes)
        found[f"loop over {loop}, iterations of the batch"] = of_batch[loop]
        found[f"loop over {loop}, of the longest of {len(some)} lanes alone"] = longest
        found[f"loop over {loop}, ratio"] = of_batch[loop] / longest
    found["kernels of an iteration over knots"] = kernels_of_smallest_loop(batch.as_text())
    memory = batch.memory_analysis()
    found["MB of intermediates, a lane"] = memory.temp_size_in_bytes / len(weights) / 1e6
    return found


class CountedLoops:
    """`jax.lax`, whose loops count their iterations: under `vmap`, once for all lanes."""

    def __init__(self, counts: collections.Counter[str], loop: str):
        self.counts, self.loop = counts, loop

    def __getattr__(self, name: str):
        return getattr(jax.lax, name)

    def while_loop(self, goes_on, body, start):
        def count() -> None:
            self.counts[self.loop] += 1

        def counted(carry):
            jax.debug.callback(count)
            return body(carry)

        return jax.lax.while_loop(goes_on, counted, start)


def counted_loops() -> collections.Counter[str]:
    """Makes each loop of the compiled engine count its iterations, and returns the counts."""
    counts: collections.Counter[str] = collections.Counter()
    _follow._runs_lanes_in_turn = lambda: False
    for loop, module in LOOPS.items():
        module.lax = CountedLoops(counts, loop)
    return counts


def iterations(counts: collections.Counter[str], compiled, weights) -> tuple[dict, np.ndarray]:
    """Returns how often each loop ran, and the gaps of the lanes."""
    counts.clear()
    gaps = np.asarray(compiled(weights))
    jax.effects_barrier()
    return dict(counts), gaps


def kernels_of_smallest_loop(program: str) -> int:
    """Returns the number of kernels in the innermost loop that has any product, of compiled HLO."""
    bodies = set(re.findall(r"body=%?([\w.-]+)", program))
    found = []
    for name, lines in re.findall(r"^%?([\w.-]+) \(.*?\{\n(.*?)^\}", program, re.M | re.S):
        if name in bodies and "while(" not in lines:
            operations = re.findall(r"= \S+ ([\w-]+)\(", lines)
            kernels = [o for o in operations if not re.fullmatch(NO_KERNEL, o)]
            found.append(len(kernels))
    return max(found)


if __name__ == "__main__":
    main()
