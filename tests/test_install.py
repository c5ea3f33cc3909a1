"""What is imported is declared, and what is declared says the same everywhere."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import jax
import pytest

import l1jax

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
OPTIONAL = {"sklearn": "sklearn", "plot": "plot"}  # subpackages, and the extra that each needs
# What the only function that needs it imports when it is called, and its extra.
LATE = {"pandas": "pandas", "pyarrow": "parquet"}


def modules(requirements):
    names = {re.split(r"[<>=!\[ ]", one)[0] for one in requirements}
    return {{"scikit-learn": "sklearn"}.get(name, name) for name in names}


def imported(file):
    """The packages of others that a file imports."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module.split(".")[0]


@pytest.mark.fast
def test_every_import_is_declared_where_it_is_needed():
    core, late = modules(PROJECT["dependencies"]), set()
    used = set()
    for file in (ROOT / "l1jax").rglob("*.py"):
        part = file.relative_to(ROOT / "l1jax").parts[0]
        extra = modules(EXTRAS[OPTIONAL[part]]) if part in OPTIONAL else set()
        others = set(imported(file)) - set(sys.stdlib_module_names) - {"__future__", "l1jax"}
        late |= others & LATE.keys()
        used |= others
        assert others - LATE.keys() <= core | extra, file
    assert late == LATE.keys() and all(name in modules(EXTRAS[LATE[name]]) for name in LATE)
    assert core - used <= {"jaxlib"}  # nothing is asked for in vain


def test_the_core_alone_runs_the_first_example_of_the_readme():
    """In a process that finds no optional package."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    example = re.search(r"## Install.*?```python\n(.*?)```", readme, re.DOTALL)[1]
    hidden = {*LATE, "sklearn", "matplotlib", "polars"}
    program = f"import sys; sys.modules.update(dict.fromkeys({sorted(hidden)}))\n{example}"
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    quiet = ["-W", "error", "-W", "ignore:Error reading persistent compilation cache:UserWarning"]
    done = subprocess.run(
        [sys.executable, *quiet, "-c", program],
        cwd=ROOT,
        env=os.environ | cache | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "CrossValidated" in done.stdout


def test_versions_agree():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"^version: (.*)$", citation, re.MULTILINE)[1] == PROJECT["version"]
    assert l1jax.__version__ == PROJECT["version"]
    floors = (ROOT / ".ci" / "floor.txt").read_text(encoding="utf-8")
    for requirement in PROJECT["dependencies"]:
        name, floor = requirement.split(">=")
        assert re.search(rf"^{name}=={re.escape(floor)}(\.0)?$", floors, re.MULTILINE), requirement
