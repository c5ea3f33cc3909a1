"""What a first call costs: in a new process, without and with compiled programs on disk, and with a new shape.

Run it as `python benchmarks/first_calls.py [NAME ...]`. Each row is a process of its own that has imported JAX
and l1jax; seconds of CPU beside those of the clock, which on a machine with several cores are fewer.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np

CASES = (
    "fit", "path", "cross_validate", "LassoCV", "groups", "logistic", "logistic path", "softmax", "cox",
    "SLOPE", "fused lasso", "grad",
)  # fmt: skip
SHAPES = (442, 10), (301, 13)


def main() -> None:
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(sys.argv[2])))
        return
    names = sys.argv[1:] or CASES
    print(
        f"{'import':>16} {timed_import():5.2f} s of CPU, of jax, optax and equinox {import_of_jax():.2f}"
    )
    columns = ("empty cache", "warm cache", "new shape", "again")
    print(f"{'':>16}" + "".join(f"{column:>16}" for column in columns) + "   CPU (clock), s")
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            empty, warm = (in_process(name, folder) for _ in range(2))
        rows = (empty["first"], warm["first"], empty["new"], empty["again"])
        print(
            f"{name:>16}" + "".join(f"{cpu:8.3f} ({wall:5.3f})" for cpu, wall in rows), flush=True
        )


def in_process(name: str, folder: str) -> dict[str, tuple[float, float]]:
    environment = {**os.environ, "L1JAX_CACHE": folder}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    command = [sys.executable, __file__, "--measure", name]
    out = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(out.stdout.splitlines()[-1])


def timed_import() -> float:
    return cpu_of("import jax, optax, equinox, time; t = time.process_time(); import l1jax")


def import_of_jax() -> float:
    return cpu_of("import time; t = time.process_time(); import jax, optax, equinox")


def cpu_of(code: str) -> float:
    code = f"{code}; print(time.process_time() - t)"
    found = (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        for _ in range(3)
    )
    return min(float(one.stdout) for one in found)


def measure(name: str) -> dict[str, tuple[float, float]]:
    """First call, first call with another shape, and that again."""
    import jax

    jax.config.update("jax_enable_x64", True)
    first, other = (call_of(name, *shape) for shape in SHAPES)
    return {"first": clocked(first), "new": clocked(other), "again": clocked(other)}


def clocked(call: Callable[[], object]) -> tuple[float, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    call()
    return time.process_time() - cpu, time.perf_counter() - wall


def call_of(name: str, n: int, p: int) -> Callable[[], object]:
    import jax

    import l1jax
    import l1jax.sklearn

    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, p))
    y = X[:, 0] - X[:, 1] + rng.normal(size=n)
    labels, classes = (y > 0) * 1.0, rng.integers(0, 3, n)
    survival = np.column_stack([rng.exponential(size=n), labels])
    pen, logistic = l1jax.L1(0.05), l1jax.Logistic()

    def sum_of_squares(lam):
        return (l1jax.fit(X, y, l1jax.L1(lam)).coef ** 2).sum()

    return {
        "fit": lambda: l1jax.fit(X, y, pen),
        "path": lambda: l1jax.path(X, y, pen),
        "cross_validate": lambda: l1jax.cross_validate(X, y, pen),
        "LassoCV": lambda: l1jax.sklearn.LassoCV().fit(X, y),
        "groups": lambda: l1jax.fit(X, y, l1jax.GroupL1(0.05, groups=np.arange(p) // 2)),
        "logistic": lambda: l1jax.fit(X, labels, pen, loss=logistic),
        "logistic path": lambda: l1jax.path(X, labels, pen, loss=logistic),
        "softmax": lambda: l1jax.fit(X, classes, pen, loss=l1jax.Multinomial()),
        "cox": lambda: l1jax.fit(X, survival, pen, loss=l1jax.Cox()),
        "SLOPE": lambda: l1jax.fit(X, y, l1jax.SLOPE(0.05, np.linspace(2, 1, p))),
        "fused lasso": lambda: l1jax.fit(X, y, l1jax.FusedLasso(0.05, 0.5)),
        "grad": lambda: jax.grad(sum_of_squares)(0.05),
    }[name]


if __name__ == "__main__":
    main()
