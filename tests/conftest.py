"""What every test stands on: precision, runtime type checks, compilation cache, hypothesis."""

import ctypes
import gc
import os
import resource
import sys
from pathlib import Path

import hypothesis
import jax
import pytest
from jaxtyping import install_import_hook

os.environ.setdefault("MPLBACKEND", "agg")
os.environ["L1JAX_CACHE"] = "off"  # tests of it ask for a folder

_PEAKS: list[float] = []  # of this process and of its workers, in MB

# The float32 lane sets L1JAX_TEST_X64=0.
jax.config.update("jax_enable_x64", os.environ.get("L1JAX_TEST_X64", "1") != "0")

# Compilations are kept between runs and shared by the workers of pytest-xdist.
if not jax.config.jax_compilation_cache_dir:
    _cache = Path(__file__).parents[1] / ".cache" / "jax"
    jax.config.update("jax_compilation_cache_dir", str(_cache))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)

# Shapes and dtypes in annotations are checked at run time, unless L1JAX_TEST_TYPES=0; must come before
# l1jax is imported.
if os.environ.get("L1JAX_TEST_TYPES", "1") != "0":
    install_import_hook("l1jax", "beartype.beartype")

# What JAX traces is many objects that live on; to look through all of them often takes a twentieth of the time.
gc.set_threshold(100_000, 50, 1000)

# A first example pays for compilation, so there is no deadline and slowness is not a failure.
hypothesis.settings.register_profile(
    "local",
    deadline=None,
    max_examples=30,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.register_profile(
    "ci",
    hypothesis.settings.get_profile("local"),
    derandomize=True,
    database=None,
    max_examples=20,
)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Keeps one case of every slow test with several, and puts the longest files first.

    So that `-m "not slow"` tries each claim on one case, and no long file is left for one worker at the end.
    """
    _keep_first_cases(items)
    weights: dict[Path, int] = {}
    for item in items:
        weight = 10 if item.get_closest_marker("slow") else 1
        weights[item.path] = weights.get(item.path, 0) + weight
    items.sort(key=lambda item: -weights[item.path])


def _keep_first_cases(items):
    """Takes the mark off the first case of each slow test that has parameters."""
    known = set()
    for item in items:
        name = (item.path, getattr(item, "originalname", item.name))
        if name not in known and hasattr(item, "callspec"):
            known.add(name)
            item.own_markers = [mark for mark in item.own_markers if mark.name != "slow"]


_MEMORY = 1.3e9  # bytes of a process, above which it drops its compiled functions
_STATM = Path("/proc/self/statm")


@pytest.fixture(autouse=True)
def drop_compiled_functions():
    """Bounds the memory of a worker: thousands of compiled functions take gigabytes.

    They would take its memory maps too, of which Linux allows a process 65,530.
    """
    yield
    if _STATM.exists() and int(_STATM.read_text().split()[1]) * resource.getpagesize() > _MEMORY:
        jax.clear_caches()
        if "l1jax._compile" in sys.modules:
            sys.modules["l1jax._compile"].forget_programs()
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)


def pytest_sessionfinish(session):
    """Hands the peak memory of a worker to the process that prints the summary."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    getattr(session.config, "workeroutput", {})["peak"] = peak
    _PEAKS.append(peak)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    _PEAKS.append(getattr(node, "workeroutput", {}).get("peak", 0.0))


def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(f"peak memory of a process: {max(_PEAKS, default=0):.0f} MB")
