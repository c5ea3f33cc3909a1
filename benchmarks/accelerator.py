"""Paths on an accelerator beside the host's active sets, then a batch of paths, and what its loops cost.

python benchmarks/accelerator.py [--short]

Each problem is on JAX's default device, and its path inside `jax.jit`: by the compiled engine, which `path`
takes there, and by gradient steps of all strengths at once. The same path is then solved by active sets in
NumPy on the host. The batch is that of batch.py, its loops those of lanes.py. Without an accelerator all of
it runs on the CPU, and the first line says so.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import l1jax
import problems
import report
from batch import timed

HERE = Path(__file__).resolve().parent
PROBLEMS = (
    "expression-63x2308", "expression-64x6830", "ar-200x2000", "ar-500x10000", "elastic-net-63x2308",
    "logistic-63x2308",
)  # fmt: skip
GAPS = 1e-3, 1e-6
ROW = "{:>20} {:>12} {:>8} {:>10} {:>10} {:>12} {:>8}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="tiny shapes")
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    print(report.machine_line(report.machine()), f"jax runs on {jax.devices()[0].device_kind}")
    print(
        ROW.format(
            "problem", "engine", "gap <=", "first call", "again, s", "largest gap", "reached"
        )
    )
    for name in PROBLEMS:
        problem = problems.make(name, arguments.short)
        for engine in ("auto", "parallel"):
            solve = compiled_path(problem, engine)
            for gap in GAPS:
                print(row(name, engine, gap, solve), flush=True)
        for gap in GAPS:
            print(row(name, "working_set", gap, host_path(problem)), flush=True)
    for script in ("batch.py", "lanes.py"):
        print(f"\n{script}", flush=True)
        short = ["--short"] * arguments.short
        subprocess.run([sys.executable, HERE / script, *short], check=True)


def compiled_path(problem: problems.Problem, engine: str) -> Callable[[float], Any]:
    """The path inside `jit`, of data on the device; one program for every gap."""
    X, y, lams = map(jnp.asarray, (problem.X, problem.y, problem.lams))

    @jax.jit
    def solve(X, y, lams, gap):
        path = path_of(problem, X, y, lams, gap, engine)
        return path.coefs, path.relative_gaps

    return lambda gap: solve(X, y, lams, gap)[1]


def host_path(problem: problems.Problem) -> Callable[[float], Any]:
    """The path by active sets, of data in NumPy."""
    X, y, lams = problem.X, problem.y, problem.lams
    return lambda gap: path_of(problem, X, y, lams, gap, "working_set").relative_gaps


def path_of(
    problem: problems.Problem,
    X: Any,
    y: Any,
    lams: Any,
    gap: Any,
    engine: str,
    limit: float | None = None,
):
    """The path; with a limit L, of coefficients between −L and L."""
    loss = l1jax.Logistic() if problem.loss == "logistic" else l1jax.SquaredError()
    limits = {} if limit is None else {"lower": -limit, "upper": limit}
    pen = (
        l1jax.ElasticNet(l1_ratio=problem.l1_ratio, **limits)
        if problem.penalty == "elastic_net"
        else l1jax.L1(**limits)
    )
    options = {"fit_intercept": False, "tol": gap, "progress": False, "engine": engine}
    return l1jax.path(X, y, pen, lams=lams, loss=loss, **options)


def row(name: str, engine: str, gap: float, solve: Callable[[float], Any]) -> str:
    first, _ = timed(lambda: solve(gap))
    runs = [timed(lambda: solve(gap)) for _ in range(3)]
    gaps = np.asarray(runs[0][1])
    reached = np.mean(gaps <= gap)
    warm = np.median([seconds for seconds, _ in runs])
    return ROW.format(
        name,
        engine,
        f"{gap:.0e}",
        f"{first:.2f}",
        f"{warm:.4f}",
        f"{np.max(gaps):.1e}",
        f"{reached:.0%}",
    )


if __name__ == "__main__":
    main()
