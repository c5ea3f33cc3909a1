"""One batch of fits: every strength of a grid, for every fold of every bootstrap sample.

python benchmarks/batch.py [--short] [--shape N P] [--bootstraps N] [--responses K] [--json PATH]

A fold of a bootstrap sample is a vector of row weights, so that all are lanes of one `vmap` of
`l1jax.path`: 10 folds × 100 strengths × 20 bootstraps are 20,000 fits of one compiled program. The
same paths are then solved one after the other on the host, by the engine that a CPU takes.

With `--responses K` it times `l1jax.batch_path` instead: the paths of K responses on one X, as voxels or genes
are, and what memory they take.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import l1jax
import report
from measure import peak, resident
from problems import correlated, linear_target

GAP = 1e-6
HERE = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="a tiny shape")
    parser.add_argument("--shape", nargs=2, type=int, default=(200, 2000), metavar=("N", "P"))
    parser.add_argument("--bootstraps", type=int, default=20)
    parser.add_argument("--responses", type=int, help="times batch_path on so many responses")
    parser.add_argument("--json", type=Path, default=HERE / "output" / "batch.json")
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    machine = report.machine() | {"jax runs on": jax.devices()[0].device_kind}
    print(report.machine_line(machine), f"jax runs on {machine['jax runs on']}", sep="\n")
    if arguments.responses:
        found = of_responses(*arguments.shape, arguments.responses)
    elif arguments.short:
        found = compare(30, 40, n_folds=3, n_lams=5, n_bootstraps=2, ratio=0.1)
    else:
        found = compare(*arguments.shape, 10, 100, arguments.bootstraps, ratio=0.05)
    for name, value in found.items():
        print(f"  {name}: {value if isinstance(value, str) else format(value, '.3g')}")
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps({"machine": machine, "batch": found}, indent=1) + "\n")


def compare(n: int, p: int, n_folds: int, n_lams: int, n_bootstraps: int, ratio: float) -> dict:
    rng = np.random.default_rng(0)
    X = correlated(rng, n, p)
    y = linear_target(rng, X, active=20)
    biggest = float(l1jax.lambda_max(X, y, l1jax.L1()))
    lams = np.geomspace(0.9 * biggest, ratio * biggest, n_lams)
    weights = fold_weights(rng, n, n_folds, n_bootstraps)
    X_there, y_there, lams_there = map(jnp.asarray, (X, y, lams))

    @jax.jit
    def batch(weights):
        def one(weight):
            path = l1jax.path(
                X_there, y_there, l1jax.L1(), lams=lams_there, sample_weight=weight, tol=GAP
            )
            return path.coefs, path.relative_gaps

        return jax.vmap(one)(weights)

    weights_there = jnp.asarray(weights, X_there.dtype)
    first, _ = timed(lambda: batch(weights_there))
    seconds, (coefs, gaps) = timed(lambda: batch(weights_there))
    some = range(0, len(weights), max(1, len(weights) // 10))

    def follow(weight):
        return l1jax.path(
            X, y, l1jax.L1(), lams=lams, sample_weight=weight, tol=GAP,
            engine="working_set", progress=False,
        )  # fmt: skip

    follow(weights[0])
    followed = [timed(lambda i=i: follow(weights[i])) for i in some]
    off = max(
        float(jnp.max(jnp.abs(path.coefs - coefs[i])))
        for i, (_, path) in zip(some, followed, strict=True)
    )
    each = float(np.median([spent for spent, _ in followed]))
    return {
        "problem": f"{n} × {p}: {n_bootstraps} bootstraps × {n_folds} folds × {n_lams} strengths",
        "fits": len(weights) * n_lams,
        "first call (s)": first,
        "again (s)": seconds,
        "largest relative gap": float(jnp.max(gaps)),
        "share within 1e-6": float(jnp.mean(gaps <= GAP)),
        "active sets on the host, all (s), from the median of ten": each * len(weights),
        "largest difference of a coefficient from those": off,
        "times faster than active sets": each * len(weights) / seconds,
    }


def of_responses(n: int, p: int, count: int) -> dict:
    """The paths of many responses, each of three columns and noise; memory as Linux counts it."""
    rng = np.random.default_rng(0)
    X = correlated(rng, n, p)
    Y = rng.standard_normal((n, count))
    for _ in range(3):
        Y += X[:, rng.integers(p, size=count)]
    grid = {"n_lams": 10, "lam_min_ratio": 0.2, "tol": GAP, "progress": False}
    one = l1jax.batch_path(X, Y[:, :2], l1jax.L1(), **grid)
    before, cpu = resident(), time.process_time()
    seconds, batch = timed(lambda: l1jax.batch_path(X, Y, l1jax.L1(), **grid))
    return {
        "problem": f"{n} × {p}: {count} responses × {len(one[0])} strengths",
        "fits": batch.status.size,
        "seconds": seconds,
        "of CPU": time.process_time() - cpu,
        "largest relative gap": float(np.max(batch.relative_gaps)),
        "features of the last fits, on average": float(np.mean(batch.n_nonzero[:, -1])),
        "memory beyond X and Y (MB)": (peak() - before) / 1e6,
        "coefficients as arrays (MB)": batch.status.size * p * 8 / 1e6,
    }


def fold_weights(rng, n: int, n_folds: int, n_bootstraps: int) -> np.ndarray:
    """The weights of the rows in each training set of each bootstrap sample, a row each."""
    counts = [np.bincount(rng.integers(n, size=n), minlength=n) for _ in range(n_bootstraps)]
    folds = rng.permutation(n) % n_folds
    return np.stack([np.where(folds == k, 0, c) for c in counts for k in range(n_folds)])


def timed(work):
    start = time.perf_counter()
    found = jax.block_until_ready(work())
    return time.perf_counter() - start, found


if __name__ == "__main__":
    main()
