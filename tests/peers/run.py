"""Runs the tests of scikit-learn's linear models, as its wheel has them, against the estimators of l1jax.

A test that fails must be excused in `excused.py`; an excuse that no failure needs fails the run too.
Arguments go to pytest, but for modules, and tests of them, to run instead of all: `test_logistic`,
`test_logistic::test_nan`.
"""

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
MODULES = [
    "test_coordinate_descent",
    "test_sparse_coordinate_descent",
    "test_logistic",
    "test_common",
]
# An own configuration: scikit-learn's tests warn, and mark, as scikit-learn's configuration has it.
OPTIONS = [
    "-q",
    "-c",
    str(HERE / "pytest.ini"),
    "-p",
    "no:cacheprovider",
    "-p",
    "replaced",
    "--pyargs",
]

if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    chosen = [argument for argument in sys.argv[1:] if argument.split("::")[0] in MODULES]
    options = [argument for argument in sys.argv[1:] if argument not in chosen]
    tests = [f"sklearn.linear_model.tests.{name}" for name in chosen or MODULES]
    sys.exit(pytest.main([*OPTIONS, *options, *tests]))
