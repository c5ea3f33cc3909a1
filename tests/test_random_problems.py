"""A few of the random problems of `tests/random_problems.py`, whose docstring says what is judged and how."""

import numpy as np
import pytest

from l1jax import Status
from tests.random_problems import Kind, draw, judge

PROBLEMS = 23  # of each kind: 207 in all
KINDS = [
    Kind((30, 30), "squared", "group", "float64", "fit", True, True),
    Kind((12, 30), "huber", "l1", "float32", "fit", False, False),
    Kind((12, 30), "several", "sparse group", "float64", "fit", True, False),
    Kind((30, 12), "logistic", "weighted l1", "float32", "path", True, True),
    Kind((12, 30), "hinge", "non-negative", "float64", "fit", True, False),
    Kind((30, 12), "poisson", "elastic net", "float64", "fit", True, True),
    Kind((2, 3), "multinomial", "ridge", "float64", "fit", False, True),
    Kind((1, 6), "squared", "ball", "float32", "fit", True, False),
    Kind((40, 1), "cox", "l1", "float64", "path", True, True),
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_random_problems_are_solved_as_said(kind):
    first = 25 * KINDS.index(kind)
    short = 0
    for seed in range(first, first + PROBLEMS):
        case = draw(kind, seed)
        verdict = judge(case, steps=200)
        assert not verdict.faults, f"{case}: {verdict.faults}"
        short += np.max(verdict.statuses) != Status.CONVERGED
    assert short <= 1
