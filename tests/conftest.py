"""What every test stands on: precision, runtime type checks, compilation cache, hypothesis."""

import os
from pathlib import Path

import hypothesis
import jax
import pytest
from jaxtyping import install_import_hook

os.environ.setdefault("MPLBACKEND", "agg")

# The float32 lane sets L1JAX_TEST_X64=0.
jax.config.update("jax_enable_x64", os.environ.get("L1JAX_TEST_X64", "1") != "0")

# Compilations are kept between runs and shared by the workers of pytest-xdist.
if not jax.config.jax_compilation_cache_dir:
    _cache = Path(__file__).parents[1] / ".cache" / f"jax-{jax.__version__}"
    jax.config.update("jax_compilation_cache_dir", str(_cache))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)

# Shapes and dtypes in annotations are checked at run time, unless L1JAX_TEST_TYPES=0; must come before
# l1jax is imported.
if os.environ.get("L1JAX_TEST_TYPES", "1") != "0":
    install_import_hook("l1jax", "beartype.beartype")

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


_MAPS = Path("/proc/self/maps")
_MANY_MAPS = 25_000  # of the 65,530 that Linux allows a process; each compiled function takes a few


@pytest.fixture(autouse=True)
def drop_compiled_functions():
    """A process that holds thousands of compiled functions runs out of memory maps and crashes."""
    yield
    if _MAPS.exists() and _MAPS.read_bytes().count(b"\n") > _MANY_MAPS:
        jax.clear_caches()
