"""Times adelie's paths of the rows that each fold leaves, at a certified gap; prints one JSON object.

`cross_validation.py` starts it, with the Python that has adelie.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time

import numpy as np

import certificate
import problems
from peers import PEERS, quietly

LIMIT = 60  # seconds for all folds at one tolerance


def main(name: str, gap: str) -> None:
    problem = problems.make(name)
    folds = np.random.default_rng(0).permutation(len(problem.y)) % 10
    for tol in 10.0 ** -np.arange(10, 20):
        found = paths(problem, folds, float(tol))
        if found["gap"] <= float(gap) or found["seconds"] > LIMIT:
            break
    print(json.dumps(found))


def paths(problem: problems.Problem, folds: np.ndarray, tol: float) -> dict[str, float]:
    seconds, worst = 0.0, 0.0
    for k in np.unique(folds):
        X, y = problem.X[folds != k], problem.y[folds != k]
        part = dataclasses.replace(problem, X=X - X.mean(axis=0), y=y - y.mean())
        solve = PEERS["adelie"].prepare(part)
        start = time.perf_counter()
        coefs = quietly(solve, tol)
        seconds += time.perf_counter() - start
        worst = max(worst, certificate.worst_gap(part, coefs))
    return {"seconds": seconds, "gap": worst, "tol": tol}


if __name__ == "__main__":
    main(*sys.argv[1:])
