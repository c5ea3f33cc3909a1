"""A lasso path of a trait on genotypes: int8 on disk, more features than memory holds in float64.

python examples/lasso_genotypes.py [--short] [--bed FILE.bed] [--rows N] [--columns P] [--max-memory 500MB]
A PLINK .bed file is copied once, by `bed_reader` (pip install bed-reader), to an .npy file of int8, where
missing entries are the rounded mean of their variant. Without --bed genotypes are simulated, in blocks of
linkage. The trait is simulated: 20 variants explain half of its variance. Prints the path, the time, passes
over the file and the peak memory of the fit.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np

import l1jax

BLOCK = 2000  # variants that are read or simulated at a time
CAUSAL = 20


def simulated(file: Path, n: int, p: int) -> None:
    """Counts 0, 1 and 2 of alleles, each variant like the one before it with a probability of 0.8."""
    rng = np.random.default_rng(0)
    X = np.lib.format.open_memmap(file, "w+", np.int8, (n, p))
    for begin in range(0, p, BLOCK):
        width = min(BLOCK, p - begin)
        fresh = rng.random((n, width)) > 0.8
        fresh[:, 0] = True
        last = np.maximum.accumulate(np.where(fresh, np.arange(width), 0), axis=1)
        new = rng.binomial(2, rng.uniform(0.05, 0.5), (n, width)).astype(np.int8)
        X[:, begin : begin + width] = np.take_along_axis(new, last, axis=1)
    X.flush()


def copied(bed: str, file: Path) -> None:
    """The genotypes of a .bed file, which stores variant by variant, as rows of individuals."""
    from bed_reader import open_bed

    with open_bed(bed) as opened:
        n, p = opened.shape
        X = np.lib.format.open_memmap(file, "w+", np.int8, (n, p))
        for begin in range(0, p, BLOCK):
            part = opened.read(index=np.s_[:, begin : begin + BLOCK], dtype="int8")
            missing = part < 0
            counts = np.maximum((~missing).sum(axis=0), 1)
            means = np.rint(np.where(missing, 0, part).sum(axis=0) / counts).astype(np.int8)
            X[:, begin : begin + BLOCK] = np.where(missing, means, part)
    X.flush()


def trait(X: l1jax.RowBlocks) -> tuple[np.ndarray, np.ndarray]:
    """Returns a trait, and the variants that it depends on."""
    rng = np.random.default_rng(1)
    causal = np.sort(rng.choice(X.shape[1], min(CAUSAL, X.shape[1]), replace=False))
    part = X.columns(causal)  # one pass over the file
    signal = (part - part.mean(axis=0)) @ rng.choice([-1.0, 1.0], len(causal))
    return signal + signal.std() * rng.standard_normal(len(part)), causal


def peak_memory(start: bool = False) -> float:
    """The largest resident memory in MB, of what follows a call with `start` where the system tells."""
    if start:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
    with suppress(OSError):
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="200 individuals, 3000 variants")
    parser.add_argument("--bed", help="a PLINK .bed file")
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--columns", type=int, default=200_000)
    parser.add_argument("--n-lams", type=int, default=50)
    parser.add_argument("--max-memory", default="500MB")
    given = parser.parse_args()
    n, p, count = (200, 3000, 10) if given.short else (given.rows, given.columns, given.n_lams)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "genotypes.npy"
        if given.bed:
            copied(given.bed, file)
        else:
            simulated(file, n, p)
        X = l1jax.blocks(file, max_memory=given.max_memory)
        y, causal = trait(X)
        peak_memory(start=True)
        start = time.perf_counter(), time.process_time()
        path = l1jax.path(X, y, l1jax.L1(), n_lams=count, lam_min_ratio=0.1, tol=1e-4)
        seconds, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
        size = file.stat().st_size / 1e6
    print(path)
    found = np.flatnonzero(path[-1].support)
    near = [bool((abs(found - j) <= 5).any()) for j in causal]
    print(f"{sum(near)} of {len(causal)} causal variants have one within 5 in the last model")
    print(f"{seconds:.1f} s ({cpu:.1f} of CPU), {path.passes} passes over {size:.0f} MB")
    print(f"peak {peak_memory():.0f} MB")


if __name__ == "__main__":
    main()
