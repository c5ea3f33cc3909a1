"""A plugin of pytest, with which scikit-learn's tests find the estimators of l1jax in their imports."""

import inspect
import re
from collections import Counter
from contextlib import contextmanager
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

import jax
import pytest
import sklearn
from excused import EXCUSED, OTHER_WORDS
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
_DIFFER = pytest.StashKey[list]()  # the words that a test wanted, where others came


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Leaves out what does not touch an estimator of l1jax, and arrays that are not NumPy's."""
    items[:] = [item for item in items if _is_ours(item) and "array_api" not in item.name]


def _is_ours(item):
    """Whether a test names an estimator of l1jax: in its parameters, or in its code where they name none."""
    values = getattr(getattr(item, "callspec", None), "params", {}).values()
    if any(map(_is_one_of_ours, values)):
        return True
    names = set(_names(item.function.__code__)) & set(REPLACED)
    return bool(names) and not any(hasattr(value, "fit") for value in values)


def _names(code):
    yield from code.co_names
    for constant in code.co_consts:
        if hasattr(constant, "co_names"):
            yield from _names(constant)


def _is_one_of_ours(value):
    kind = value if isinstance(value, type) or inspect.isfunction(value) else type(value)
    return kind.__module__.startswith("l1jax.")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Where other words are excused, `pytest.raises` and `pytest.warns` take any, and note that they differ."""
    if not _excuses(item, in_words=True):
        return (yield)
    differ = item.stash[_DIFFER] = []
    with pytest.MonkeyPatch.context() as patch:
        for check in (pytest.raises, pytest.warns):
            patch.setattr(pytest, check.__name__, partial(_of_any_words, check, differ))
        return (yield)


@contextmanager
def _of_any_words(check, differ, kind, *, match):
    with check(kind) as found:
        yield found
    said = (
        [found.value] if isinstance(found, pytest.ExceptionInfo) else [one.message for one in found]
    )
    if not any(re.search(match, str(one)) for one in said):
        differ.append(match)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """A failure that is excused is one that is expected."""
    report = yield
    excuses = _excuses(item, in_words=not report.failed)
    if excuses and (report.failed or (report.when == "call" and item.stash.get(_DIFFER, None))):
        report.outcome, report.wasxfail = "skipped", EXCUSES[excuses[0]]
        report.user_properties += [("excuse", pattern) for pattern in excuses]
    return report


def _excuses(item, *, in_words):
    """The excuses of a test: of its words, or else of a failure."""
    name = f"{item.module.__name__.rsplit('.', 1)[-1]}::{item.name}"
    return [
        pattern
        for pattern, reason in EXCUSES.items()
        if (reason == OTHER_WORDS) == in_words and fnmatch(name, pattern.replace("[", "[[]"))
    ]


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
    """Of the modules that ran whole: those given without a keyword, or the name of a test."""
    modules = [] if config.option.keyword else {name.rsplit(".", 1)[-1] for name in config.args}
    return [name for name in EXCUSES if name.split("::")[0] in modules and name not in _needed]
