"""Time and memory of paths of a sparse X with the shape of text or of a log of clicks.

Each solver has a process of its own: `python benchmarks/sparse.py`, `--short` for tiny shapes.
Columns are as frequent as words, by Zipf's law; entries are 1 + log of a count. A tiny path comes first, so
that what is imported and compiled is not counted; memory is what it grows by at most, beyond X.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import scipy.sparse

from measure import peak, resident

SHAPES = {
    "text": (16_000, 1_600_000, 2500),
    "clicks": (1_000_000, 2_000_000, 20),
}  # n, p, words a row
SHORT = {"text": (60, 400, 20), "clicks": (300, 200, 5)}
SOLVERS = ("l1jax", "celer", "skglm", "scikit-learn")
NUM_LAMS, RATIO, GAP = 30, 0.02, 1e-6


def make(n: int, p: int, words: int) -> tuple[scipy.sparse.csc_matrix, np.ndarray, np.ndarray]:
    """X, a response of 200 of its columns with noise, and labels."""
    rng = np.random.default_rng(0)
    frequency = np.cumsum(1 / np.arange(1, p + 1))
    columns = np.searchsorted(frequency / frequency[-1], rng.random(n * words)).astype(np.int32)
    rows = np.repeat(np.arange(n, dtype=np.int32), words)
    X = scipy.sparse.coo_matrix((np.ones(n * words), (rows, columns)), shape=(n, p)).tocsc()
    X.data = 1 + np.log(X.data)
    common = np.flatnonzero(np.diff(X.indptr) > 20)[:20_000]
    active = rng.choice(common, min(200, len(common)), replace=False)
    z = X[:, active] @ rng.standard_normal(len(active))
    z = (z - z.mean()) / z.std()
    labels = (rng.random(n) < 1 / (1 + np.exp(-2 * z))).astype(float)
    return X, z + 0.5 * rng.standard_normal(n), labels


def solve(solver: str, loss: str, X, y: np.ndarray) -> float:
    """Runs one path; returns the number of features at its end."""
    n, p = X.shape
    y = y - y.mean() if loss == "squared" else y  # nobody has an intercept
    slope = y if loss == "squared" else y - 0.5
    lams = abs(X.T @ slope).max() / n * np.geomspace(0.999, RATIO, NUM_LAMS)
    if solver == "l1jax":
        import l1jax

        of = {"squared": l1jax.SquaredError(), "logistic": l1jax.Logistic()}[loss]
        path = l1jax.path(X, y, l1jax.L1(), lams=lams, loss=of, tol=GAP, fit_intercept=False)
        return int(path.n_nonzero[-1])
    if loss == "logistic" and solver == "scikit-learn":
        raise NotImplementedError  # no path: liblinear, without a warm start
    if solver == "scikit-learn":
        from sklearn.linear_model import lasso_path

        coefs = lasso_path(X, y, alphas=lams, tol=GAP, max_iter=100_000)[1]
        return int(np.count_nonzero(coefs[:, -1]))
    if solver == "celer":
        from celer import celer_path

        about = {"max_iter": 100, "tol": GAP}
        if loss == "squared":
            coefs = celer_path(X, y, "lasso", alphas=lams, **about)[1]
        else:
            coefs = celer_path(X, 2 * y - 1, "logreg", alphas=n * lams, use_PN=True, **about)[1]
        return int(np.count_nonzero(coefs[:, -1]))
    from skglm import datafits, penalties, solvers

    squared = loss == "squared"
    pen, datafit = penalties.L1(1.0), datafits.Quadratic() if squared else datafits.Logistic()
    kind = solvers.AndersonCD if squared else solvers.ProxNewton
    engine = kind(tol=GAP * lams[0], fit_intercept=False)
    target, w = y if squared else 2 * y - 1, np.zeros(p)
    for lam in lams:
        pen.alpha, inside = lam, np.flatnonzero(w)
        w = engine.solve(X, target, datafit, pen, w, X[:, inside] @ w[inside])[0]
    return int(np.count_nonzero(w))


def measure(file: str, solver: str, loss: str) -> None:
    """In a process of its own: seconds, of all cores too, and what memory grows by at most."""
    with np.load(file) as given:
        parts = given["data"], given["indices"], given["indptr"]
        X = scipy.sparse.csc_matrix(parts, shape=tuple(given["shape"]))
        y = given[loss]
    tiny, *targets = make(*SHORT["text"])
    solve(solver, loss, tiny, targets[loss == "logistic"])  # imports, and compiles what it does
    before = resident()
    wall, cpu = time.perf_counter(), time.process_time()
    features = solve(solver, loss, X, y)
    found = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    found["peak"] = (peak() - before) / 1e6
    print(json.dumps(found | {"features": features}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="tiny shapes")
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--solvers", nargs="+", choices=SOLVERS, default=SOLVERS)
    parser.add_argument("--losses", nargs="+", default=("squared", "logistic"))
    parser.add_argument("--limit", type=float, default=300.0, help="seconds for one path")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        return measure(*given.measure)
    print(f"{'X':8} {'loss':9} {'solver':13} {'seconds':>8} {'CPU':>7} {'+ MB':>8} {'features':>8}")
    for shape in given.shapes:
        with tempfile.TemporaryDirectory() as folder:
            file = str(Path(folder) / "x.npz")
            X, squared, logistic = make(*(SHORT if given.short else SHAPES)[shape])
            parts = {"data": X.data, "indices": X.indices, "indptr": X.indptr, "shape": X.shape}
            np.savez(file, squared=squared, logistic=logistic, **parts)
            for loss in given.losses:
                for solver in given.solvers:
                    print(
                        f"{shape:8} {loss:9} {solver:13} {line(file, solver, loss, given.limit)}",
                        flush=True,
                    )
    return None


def line(file: str, solver: str, loss: str, limit: float) -> str:
    command = [sys.executable, __file__, "--measure", file, solver, loss]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=limit, env=os.environ
        )
    except subprocess.TimeoutExpired:
        return f"more than {limit:.0f} s"
    if done.returncode:
        return done.stderr.strip().splitlines()[-1][:60]
    found = json.loads(done.stdout.splitlines()[-1])
    return f"{found['wall']:8.1f} {found['cpu']:7.1f} {found['peak']:8.0f} {found['features']:8d}"


if __name__ == "__main__":
    main()
