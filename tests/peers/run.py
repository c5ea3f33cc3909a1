"""Runs the tests of scikit-learn's linear models, as its wheel has them, against the estimators of l1jax.

Its test modules import `Lasso` and all others from `sklearn.linear_model`, where they find those of
l1jax. A test that fails must be excused in `excused.py`; an excuse that no failure needs any more
fails the run too. Arguments go to pytest.
"""

import inspect
import os
import sys
from collections import Counter
from fnmatch import fnmatch
from pathlib import Path

import jax
import pytest
import sklearn
from sklearn import linear_model

from l1jax import sklearn as ours

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from excused import EXCUSED  # noqa: E402

MODULES = [
    "test_coordinate_descent",
    "test_sparse_coordinate_descent",
    "test_logistic",
    "test_common",
]
REPLACED = sorted(set(ours.__all__) & set(dir(linear_model)))


class Peers:
    """Leaves out what does not touch an estimator of l1jax, and keeps count of excuses."""

    def __init__(self):
        self.needed, self.failed, self.passed, self.left_out = Counter(), [], 0, 0

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config, items):
        # Arrays are NumPy's here: array namespaces other than it are not tried.
        kept = [item for item in items if _is_ours(item) and "array_api" not in item.name]
        self.left_out = len(items) - len(kept)
        items[:] = kept

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item, call):
        report = yield
        if report.failed:
            name = f"{item.module.__name__.rsplit('.', 1)[-1]}::{item.name}"
            found = [pattern for pattern in EXCUSES if fnmatch(name, _literal(pattern))]
            if found:
                self.needed.update(found)
                report.outcome, report.wasxfail = "skipped", EXCUSES[found[0]]
            else:
                self.failed.append(name)
        elif report.when == "call" and report.passed:
            self.passed += 1
        return report

    def pytest_terminal_summary(self, terminalreporter, config):
        terminalreporter.write_line(
            f"scikit-learn {sklearn.__version__}: {self.passed} tests pass, {len(self.failed)} fail, "
            f"{sum(self.needed.values())} are excused; {self.left_out} touch nothing of l1jax."
        )
        if not config.option.keyword:
            for pattern in EXCUSES.keys() - self.needed.keys():
                terminalreporter.write_line(f"needs no excuse any more: {pattern}", red=True)

    def pytest_sessionfinish(self, session):
        if not session.config.option.keyword and EXCUSES.keys() - self.needed.keys():
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


EXCUSES = {pattern: reason for reason, patterns in EXCUSED.items() for pattern in patterns}


def _literal(pattern):
    """Brackets are those of a test's parameters."""
    return pattern.replace("[", "[[]")


def _is_ours(item):
    """Whether a test names an estimator of l1jax, in its code or its parameters."""
    names = set(_names(item.function.__code__))
    values = getattr(getattr(item, "callspec", None), "params", {}).values()
    return bool(names & set(REPLACED)) or any(map(_comes_from_us, values))


def _comes_from_us(value):
    kind = value if isinstance(value, type) or inspect.isfunction(value) else type(value)
    return kind.__module__.startswith("l1jax.")


def _names(code):
    yield from code.co_names
    for constant in code.co_consts:
        if hasattr(constant, "co_names"):
            yield from _names(constant)


def main():
    """The status of pytest."""
    os.environ.setdefault("MPLBACKEND", "agg")
    cache = HERE.parents[1] / ".cache" / f"jax-{jax.__version__}"
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    for name in REPLACED:
        setattr(linear_model, name, getattr(ours, name))
    options = ["-q", "-c", str(HERE / "pytest.ini"), "-p", "no:cacheprovider", "--pyargs"]
    modules = [f"sklearn.linear_model.tests.{name}" for name in MODULES]
    return pytest.main([*options, *sys.argv[1:], *modules], plugins=[Peers()])


if __name__ == "__main__":
    sys.exit(main())
