"""Stability selection against a loop of scikit-learn's paths on the same halves of the rows.

python benchmarks/stability.py [--short] [--shape N P] [--pairs N] [--orders] [--json PATH]

Seconds, and seconds of CPU. scikit-learn's paths go down the whole grid, and as far as the halves of l1jax
need it. With `--orders` all halves over the whole grid, by rows, and as lanes of one program.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.linear_model import lasso_path

import l1jax
import report
from l1jax.linear.engines.compiled import _follow
from problems import correlated, linear_target

HERE = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="a tiny shape")
    parser.add_argument("--shape", nargs=2, type=int, default=(200, 2000), metavar=("N", "P"))
    parser.add_argument("--pairs", type=int, default=50)
    parser.add_argument("--orders", action="store_true", help="rows, lanes in turn, one batch")
    parser.add_argument("--json", type=Path, default=HERE / "output" / "stability.json")
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    machine = report.machine()
    print(report.machine_line(machine))
    n, p = (30, 40) if arguments.short else arguments.shape
    n_pairs = 2 if arguments.short else arguments.pairs
    rng = np.random.default_rng(0)
    X = correlated(rng, n, p)
    y = linear_target(rng, X, active=20)
    found = compare(X, y, n_pairs)
    if arguments.orders:
        found |= orders(X, y, n_pairs)
    for name, (wall, cpu) in found.items():
        print(f"  {name}: {wall:.3g} s ({cpu:.3g} s of CPU)")
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps({"machine": machine, "stability": found}, indent=1) + "\n")


def compare(X: np.ndarray, y: np.ndarray, n_pairs: int) -> dict[str, tuple[float, float]]:
    found = {}
    found["l1jax, first call"], stable = timed(lambda: select(X, y, n_pairs))
    found["l1jax"] = min(timed(lambda: select(X, y, n_pairs))[0] for _ in range(3))
    needed = 1 + np.flatnonzero((np.diff(stable.probabilities, axis=0) != 0).any(axis=1)).max() + 1
    print(stable, f"{needed} of {len(stable.lams)} strengths are needed", sep="\n")
    for lams, what in ((stable.lams, "all strengths"), (stable.lams[:needed], "those needed")):
        for tol in (1e-4, 1e-6):
            name = f"scikit-learn, {what}, tol={tol:.0e}, from a tenth of the halves"
            some = stable.halves[::10]
            spent, _ = timed(lambda lams=lams, tol=tol, some=some: paths(X, y, some, lams, tol))
            share = len(stable.halves) / len(some)
            found[name] = (spent[0] * share, spent[1] * share)
    return found


def select(X: np.ndarray, y: np.ndarray, n_pairs: int) -> l1jax.StabilitySelection:
    return l1jax.stability(X, y, l1jax.L1(), n_pairs=n_pairs, progress=False)


def paths(X: np.ndarray, y: np.ndarray, halves: np.ndarray, lams: np.ndarray, tol: float) -> None:
    for rows in halves:
        x = np.asfortranarray(X[rows] - X[rows].mean(axis=0))
        lasso_path(x, y[rows] - y[rows].mean(), alphas=lams, tol=tol, max_iter=100_000)


def orders(X: np.ndarray, y: np.ndarray, n_pairs: int) -> dict[str, tuple[float, float]]:
    """All halves over the whole grid: in three orders that give the same."""
    stable = select(X, y, n_pairs)
    weights = jnp.asarray(stable.halves, float)
    there = tuple(map(jnp.asarray, (X, y, stable.lams)))

    def by_rows() -> None:
        for rows in stable.halves:
            l1jax.path(X[rows], y[rows], l1jax.L1(), lams=stable.lams, progress=False)

    found = {"by rows": timed(by_rows)[0]}
    for in_turn in (True, False):
        _follow._runs_lanes_in_turn = lambda in_turn=in_turn: in_turn

        @jax.jit
        def lanes(weights, X, y, lams):
            def one(weights):
                path = l1jax.path(X, y, l1jax.L1(), lams=lams, sample_weight=weights)
                return path.coefs != 0, path.relative_gaps

            return jax.vmap(one)(weights)

        jax.block_until_ready(lanes(weights, *there))
        name = "lanes in turn" if in_turn else "lanes at once"
        found[name] = timed(lambda lanes=lanes: jax.block_until_ready(lanes(weights, *there)))[0]
        jax.clear_caches()
    return found


def timed(work):
    wall, cpu = time.perf_counter(), time.process_time()
    found = work()
    return (time.perf_counter() - wall, time.process_time() - cpu), found


if __name__ == "__main__":
    main()
