"""What each engine takes for the same path on the host: which of them a CPU keeps, and why.

python benchmarks/engines.py [--short] [--problem NAME ...] [--limit L] [--runs N]

Eager paths of NumPy data, every strength solved (no `tol`): the active sets in NumPy beside the compiled
program, in turn, in one process. Seconds of CPU, the least of some runs, since compiling and the other
processes of a machine count for nothing here.
"""

from __future__ import annotations

import argparse
import time

import jax
import numpy as np

import problems
import report
from accelerator import path_of

PROBLEMS = (
    "expression-63x2308", "expression-64x6830", "ar-200x2000", "ar-500x10000", "elastic-net-63x2308",
    "elastic-net-500x10000", "logistic-63x2308", "logistic-64x6830", "logistic-500x5000",
)  # fmt: skip
ENGINES = "working_set", "compiled", "auto"
ROW = "{:>22}" + "{:>14}" * len(ENGINES) + "{:>14}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="tiny shapes")
    parser.add_argument("--problem", nargs="+", default=PROBLEMS, choices=PROBLEMS, metavar="NAME")
    parser.add_argument("--limit", type=float, help="of the size of each coefficient; none")
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    print(report.machine_line(report.machine()))
    print(ROW.format("problem", *ENGINES, "largest gap"))
    for name in arguments.problem:
        seconds, gap = engines_of(
            problems.make(name, arguments.short), arguments.limit, arguments.runs
        )
        print(ROW.format(name, *(f"{one:.4f}" for one in seconds), f"{gap:.1e}"), flush=True)


def engines_of(
    problem: problems.Problem, limit: float | None, runs: int
) -> tuple[np.ndarray, float]:
    """The least seconds of CPU by engine, and the largest relative gap of all."""
    data = problem.X, problem.y, problem.lams

    def run(engine: str) -> tuple[float, float]:
        start = time.process_time()
        path = path_of(problem, *data, None, engine, limit)
        return time.process_time() - start, float(np.max(path.relative_gaps))

    for engine in ENGINES:  # compiles
        run(engine)
    found = np.array([[run(engine) for engine in ENGINES] for _ in range(runs)])
    return found[..., 0].min(axis=0), found[..., 1].max()


if __name__ == "__main__":
    main()
