"""Times cross-validation of the lasso, 10 folds × 100 strengths, at a certified gap of 1e-6.

python benchmarks/cross_validation.py [--short] [--problem NAME ...] [--repeats N] [--json PATH]

Against scikit-learn's LassoCV on the same folds and strengths, with one and with two jobs, at the
loosest power of ten of its tolerance that certifies its path of each fold; against adelie's paths of
the folds' rows, where `run.py` has made its environment; and against cv.glmnet, where R has it. Each
problem also says what its parts cost: the product XᵀX where the rows are many, the paths, and the
rest. Runs are interleaved, and the best of each counts: so noise of the machine meets all alike.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import subprocess
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from sklearn.linear_model import LassoCV, lasso_path

import certificate
import l1jax
import report
from l1jax.linear.engines.active_set._gram_compression import Compressed
from l1jax.linear.selection import _cross_validate
from l1jax.linear.selection._fold_grams import FoldGrams
from problems import Problem, make
from run import adelie_python

GAP = 1e-6
PROBLEMS = ("ar-200x2000", "tall-20000x1000")
HERE = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="tiny shapes: every path of the code")
    parser.add_argument("--problem", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, default=HERE / "output" / "cross_validation.json")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # scikit-learn's, of tolerances too loose
    machine = report.machine()
    print(report.machine_line(machine))
    found = {
        name: compare(make(name, arguments.short), 1 if arguments.short else arguments.repeats)
        for name in arguments.problem
    }
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps({"machine": machine, "problems": found}, indent=1) + "\n")


def compare(problem: Problem, repeats: int) -> dict:
    n_folds = 3 if len(problem.lams) < 50 else 10
    folds = np.random.default_rng(0).permutation(len(problem.y)) % n_folds
    pairs = [(np.flatnonzero(folds != k), np.flatnonzero(folds == k)) for k in range(n_folds)]
    tol, theirs = loosest(problem, folds)

    def ours():
        return l1jax.cross_validate(
            problem.X,
            problem.y,
            l1jax.L1(),
            folds=folds,
            lams=problem.lams,
            tol=GAP,
            progress=False,
        )

    def scikit_learn(jobs):
        model = LassoCV(alphas=problem.lams, cv=pairs, tol=tol, max_iter=1_000_000, n_jobs=jobs)
        return model.fit(problem.X, problem.y)

    seconds, cv = timed(ours)
    runs = {"l1jax": ours, "LassoCV": lambda: scikit_learn(1)}
    if repeats > 1:
        runs["LassoCV, 2 jobs"] = lambda: scikit_learn(2)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, work in runs.items():
            times[name].append(timed(work)[0])
    best = {name: min(values) for name, values in times.items()}
    if repeats > 1 and has_glmnet():
        best["cv.glmnet"] = glmnet(problem, folds)
    gaps = {"l1jax": float(cv.fold_gaps.max()), "LassoCV": theirs}
    if repeats > 1 and (python := adelie_python(may_install=False)):
        found = adelie(python, problem)
        best["adelie"], gaps["adelie"] = found["seconds"], found["gap"]
    difference = np.abs(cv.fold_scores - scikit_learn(1).mse_path_.T).max() / problem.y.var()
    result = {
        "what": f"{problem.name}: {n_folds} folds × {len(problem.lams)} strengths",
        "first call": seconds,
        "seconds": best,
        "gaps": gaps,
        "LassoCV's tol": tol,
        "largest difference of a fold's error, in units of the variance": float(difference),
        "parts": parts(problem, ours),
    }
    show(result)
    return result


def loosest(problem: Problem, folds: np.ndarray) -> tuple[float, float]:
    """The loosest tolerance of LassoCV with which its path of each fold is certified, and its gap."""
    for tol in 10.0 ** -np.arange(3, 10):
        worst = max(fold_gap(problem, folds != k, tol) for k in np.unique(folds))
        if worst <= GAP:
            break
    return float(tol), float(worst)


def fold_gap(problem: Problem, rows: np.ndarray, tol: float) -> float:
    X, y = problem.X[rows], problem.y[rows]
    X, y = X - X.mean(axis=0), y - y.mean()
    # The Gram matrix where LassoCV would take it: its stopping rule is another one then.
    _, coefs, _ = lasso_path(X, y, alphas=problem.lams, tol=tol, max_iter=1_000_000)
    return certificate.worst_gap(dataclasses.replace(problem, X=X, y=y), coefs)


def parts(problem: Problem, work) -> dict[str, float]:
    """Seconds of the paths and of all the rest; and of the product XᵀX, if X is tall.

    A path of tall data begins where the products of its rows are known.
    """
    spent = []

    def watched(function):
        def with_clock(*args):
            seconds, found = timed(lambda: function(*args))
            spent[-1].append(seconds)
            return found

        return with_clock

    def once():
        spent.append([])
        return timed(work)[0], sum(spent[-1])

    places = [(_cross_validate.SubsetPaths, "path"), (Compressed, "problem")]
    places += [(FoldGrams, "of_all"), (FoldGrams, "without")]
    before = [getattr(*place) for place in places]
    for place, function in zip(places, before, strict=True):
        setattr(*place, watched(function))
    try:
        total, paths = min(once() for _ in range(3))
    finally:
        for place, function in zip(places, before, strict=True):
            setattr(*place, function)
    found = {"paths": paths, "rest": total - paths}
    if problem.is_tall:
        found["XᵀX"] = min(timed(lambda: problem.X.T @ problem.X)[0] for _ in range(3))
    return found


def adelie(python: str, problem: Problem) -> dict[str, float]:
    """Seconds and gap of its paths of the folds' rows, without the errors of those held out."""
    command = [python, "adelie_folds.py", problem.name, str(GAP)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=HERE)
    return json.loads(done.stdout)


def glmnet(problem: Problem, folds: np.ndarray) -> float:
    """Seconds of cv.glmnet, told not to stop early; its gap is not certified here."""
    with tempfile.TemporaryDirectory() as folder:
        for name, values in {"X": problem.X, "y": problem.y, "lams": problem.lams}.items():
            np.savetxt(f"{folder}/{name}", values)
        np.savetxt(f"{folder}/folds", folds + 1)
        script = f"""library(glmnet); glmnet.control(fdev=0, devmax=1)
            read <- function(name) as.matrix(read.table(paste0("{folder}/", name)))
            X <- read("X"); y <- read("y")[, 1]; l <- read("lams")[, 1]; f <- read("folds")[, 1]
            cat(system.time(cv.glmnet(X, y, lambda=l, foldid=f, standardize=FALSE, thresh=1e-10))[3])
        """
        run = subprocess.run(["Rscript", "-e", script], capture_output=True, text=True, check=True)
    return float(run.stdout.split()[-1])


def has_glmnet() -> bool:
    rscript = shutil.which("Rscript")
    asked = [rscript or "Rscript", "-e", "library(glmnet)"]
    return bool(rscript) and subprocess.run(asked, capture_output=True).returncode == 0


def timed(work):
    start = time.perf_counter()
    found = work()
    return time.perf_counter() - start, found


def show(result: dict) -> None:
    print(f"\n{result['what']}; first call {result['first call']:.1f} s")
    ours = result["seconds"]["l1jax"]
    for name, seconds in result["seconds"].items():
        gap = result["gaps"].get(name.split(",")[0])
        gap = "not certified" if gap is None else f"largest gap {gap:.0e}"
        print(f"{name:16s} {seconds:8.3f} s  ×{seconds / ours:6.1f}  {gap}")
    print("l1jax, its parts: ", ", ".join(f"{k} {v:.3f} s" for k, v in result["parts"].items()))


if __name__ == "__main__":
    main()
