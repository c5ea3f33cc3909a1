"""Time, passes and peak memory of paths of an X that lies in a file larger than the memory it is given.

python benchmarks/files.py [--short] [--size 4GB] [--columns 1000] [--max-memory 500MB] [--folder DIR]

Rows of float32 are written to an .npy file, block by block. Each path then has a process of its own: a lasso,
and a logistic model. Beside it: what it takes to read the file once without arithmetic, and
once more by products with one vector. Before each measurement the file's pages are dropped from the cache
of the system, as far as it does that on request; whether it did is told by the rate.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from l1jax.linear.data._block_reader import read_memory
from measure import peak

ACTIVE, NUM_LAMS, RATIO = 20, 50, 0.05
BLOCK = 2**24  # entries that are made at a time
KINDS = ("read", "product", "lasso", "logistic")


def make(file: Path, n: int, p: int) -> None:
    """Writes X, correlated columns of float32, and beside it a response and labels."""
    rng = np.random.default_rng(0)
    X = np.lib.format.open_memmap(file, "w+", np.float32, (n, p))
    offset = X.offset
    del X
    coef = rng.choice([-1.0, 1.0], ACTIVE).astype(np.float32)
    signal = np.empty(n)
    with open(file, "r+b") as out:
        out.seek(offset)
        for begin in range(0, n, max(BLOCK // p, 1)):
            rows = min(max(BLOCK // p, 1), n - begin)
            block = rng.standard_normal((rows, p), np.float32)
            block[:, 1:] += block[:, :-1]  # neighbours correlate by a half
            signal[begin : begin + rows] = block[:, :: max(p // ACTIVE, 1)][:, :ACTIVE] @ coef
            block.tofile(out)
        os.fsync(out.fileno())
    signal /= signal.std()
    labels = (rng.random(n) < 1 / (1 + np.exp(-2 * signal))).astype(float)
    np.savez(file.with_suffix(".y.npz"), lasso=signal + rng.standard_normal(n), logistic=labels)


def drop_from_cache(file: str) -> None:
    """Asks the system to keep no page of the file."""
    with open(file, "rb") as opened:
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(file: str, kind: str, max_memory: str) -> None:
    """In a process of its own: seconds, by the clock and of CPU, passes, and the largest resident memory."""
    import l1jax

    y = None
    if kind in ("lasso", "logistic"):
        with np.load(Path(file).with_suffix(".y.npz")) as given:
            y = given[kind]
    rows = l1jax.blocks(file, max_memory=max_memory)
    drop_from_cache(file)
    wall, cpu = time.perf_counter(), time.process_time()
    found: dict[str, float] = {}
    if kind == "read":
        size = 2**22
        with open(file, "rb", buffering=0) as opened:
            memory = memoryview(bytearray(size))
            while opened.readinto(memory):
                pass
        found["passes"] = 1
    elif kind == "product":
        rows.dot(np.ones(rows.shape[1]))
        found["passes"] = rows.passes
    else:
        loss = {"lasso": l1jax.SquaredError(), "logistic": l1jax.Logistic()}[kind]
        lams = {"n_lams": NUM_LAMS, "lam_min_ratio": RATIO}
        path = l1jax.path(rows, y, l1jax.L1(), loss=loss, **lams, tol=1e-4)
        found |= {"passes": path.passes, "features": int(path.n_nonzero[-1])}
        found["gap"] = float(np.max(path.relative_gaps))
    found |= {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    found["peak"] = peak() / 1e6
    print(json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="a file of 4 MB")
    parser.add_argument("--size", default="4GB")
    parser.add_argument("--columns", type=int, default=1000)
    parser.add_argument("--max-memory", default="500MB")
    parser.add_argument("--folder", help="where the file is written; a temporary one")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        return measure(*given.measure, given.max_memory)
    if given.short:
        given.size, given.columns, given.max_memory = "4MB", 50, "1MB"
    size, p = read_memory(given.size), given.columns
    n = size // (4 * p)
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        free = shutil.disk_usage(folder).free
        if free < 2 * size:
            sys.exit(f"{folder} has {free / 1e9:.1f} GB left: pass a --folder with more")
        file = Path(folder) / "X.npy"
        make(file, n, p)
        print(f"{n} × {p}, float32: {size / 1e9:.1f} GB; max_memory={given.max_memory}")
        print(f"{'':10} {'seconds':>8} {'CPU':>7} {'passes':>7} {'GB/s':>6} {'peak MB':>8}")
        for kind in given.kinds:
            print(line(file, kind, given.max_memory, size), flush=True)
    return None


def line(file: Path, kind: str, max_memory: str, size: int) -> str:
    command = [sys.executable, __file__, "--measure", str(file), kind, "--max-memory", max_memory]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return f"{kind:10} {done.stderr.strip().splitlines()[-1][:80]}"
    found = json.loads(done.stdout.splitlines()[-1])
    rate = found["passes"] * size / found["wall"] / 1e9
    numbers = f"{found['wall']:8.1f} {found['cpu']:7.1f} {found['passes']:7d} {rate:6.2f}"
    rest = "".join(f", {name} {found[name]:.3g}" for name in ("features", "gap") if name in found)
    return f"{kind:10} {numbers} {found['peak']:8.0f}{rest}"


if __name__ == "__main__":
    main()
