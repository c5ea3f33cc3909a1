"""A plugin of pytest, with which scikit-learn's tests find the estimators of l1jax in their imports."""

import inspect
from collections import Counter
from fnmatch import fnmatch
from pathlib import Path

import jax
import pytest
import sklearn
from excused import EXCUSED
from sklearn import linear_model

from l1jax import sklearn as ours

REPLACED = sorted(set(ours.__all__) & set(dir(linear_model)))
EXCUSES = {pattern: reason for reason, patterns in EXCUSED.items() for pattern in patterns}
for _name in REPLACED:
    setattr(linear_model, _name, getattr(ours, _name))

_cache = Path(__file__).parents[2] / ".cache" / f"jax-{jax.__version__}"
jax.config.update("jax_compilation_cache_dir", str(_cache))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)

_count, _needed = Counter(), set()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Leaves out what does not touch an estimator of l1jax, and arrays that are not NumPy's."""
    items[:] = [item for item in items if _is_ours(item) and "array_api" not in item.name]


def _is_ours(item):
    """Whether a test names an estimator of l1jax, in its code or its parameters."""
    values = getattr(getattr(item, "callspec", None), "params", {}).values()
    names = set(_names(item.function.__code__))
    return bool(names & set(REPLACED)) or any(map(_is_one_of_ours, values))


def _names(code):
    yield from code.co_names
    for constant in code.co_consts:
        if hasattr(constant, "co_names"):
            yield from _names(constant)


def _is_one_of_ours(value):
    kind = value if isinstance(value, type) or inspect.isfunction(value) else type(value)
    return kind.__module__.startswith("l1jax.")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """A failure that is excused is one that is expected."""
    report = yield
    if report.failed:
        name = f"{item.module.__name__.rsplit('.', 1)[-1]}::{item.name}"
        found = [pattern for pattern in EXCUSES if fnmatch(name, pattern.replace("[", "[[]"))]
        if found:
            report.outcome, report.wasxfail = "skipped", EXCUSES[found[0]]
            report.user_properties += [("excuse", pattern) for pattern in found]
    return report


def pytest_runtest_logreport(report):
    """Counts, where all reports come together."""
    excuses = [pattern for name, pattern in report.user_properties if name == "excuse"]
    _needed.update(excuses)
    if excuses:
        _count["excused"] += 1
    elif report.failed or report.when == "call":
        _count[report.outcome] += 1


def pytest_terminal_summary(terminalreporter, config):
    """The counts, and excuses without a failure."""
    terminalreporter.write_line(
        f"scikit-learn {sklearn.__version__}: {_count['passed']} tests pass, {_count['failed']} fail, "
        f"{_count['excused']} are excused"
    )
    for pattern in _without_need(config):
        terminalreporter.write_line(f"needs no excuse: {pattern}", red=True)


def pytest_sessionfinish(session):
    """An excuse that nothing needs is a failure."""
    if not hasattr(session.config, "workerinput") and _without_need(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _without_need(config):
    """Of a run of all tests."""
    return [] if config.option.keyword else [name for name in EXCUSES if name not in _needed]
