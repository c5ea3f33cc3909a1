"""The reference knows every public name, and the gallery every notebook and example.

`make docs` checks that each page builds and each link leads somewhere, `make doctest` that the
code on the pages runs.
"""

import importlib
import inspect
import json
import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
MODULES = ["l1jax", "l1jax.losses", "l1jax.penalties", "l1jax.training", "l1jax.sklearn"]
MODULES += ["l1jax.plot", "l1jax.prox", "l1jax.prune", "l1jax.training.directions"]
# What `ChannelL1` takes from the module of operators, without a promise to users.
NOT_PROMISED = {"prox_channels", "channel_norms", "fits"}


def public_objects(module):
    """The functions and classes that a module offers, by name."""
    module = importlib.import_module(module)
    here = {name for name, value in vars(module).items() if _is_own(value, module)} - NOT_PROMISED
    names = getattr(module, "__all__", None) or {name for name in here if name[0] != "_"}
    return {name: value for name in names if not inspect.ismodule(value := getattr(module, name))}


def _is_own(value, module):
    return inspect.isfunction(value) and value.__module__ == module.__name__


def documented():
    """How often each object has an entry, by its identity; the names of the entries."""
    pages = [page.read_text(encoding="utf-8") for page in sorted(DOCS.glob("api/*.md"))]
    return [name for page in pages for name in re.findall(r"^::: (\S+)$", page, re.MULTILINE)]


def resolve(name):
    """The object that a user reaches by a dotted name."""
    parent, _, last = name.rpartition(".")
    try:
        return getattr(importlib.import_module(parent), last)
    except ModuleNotFoundError:
        return getattr(resolve(parent), last)


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_has_one_entry_in_the_reference(module):
    entries = Counter(id(resolve(name)) for name in documented())
    wrong = {name: entries[id(value)] for name, value in public_objects(module).items()}
    assert {name: count for name, count in wrong.items() if count != 1} == {}


def test_every_entry_of_the_reference_is_public():
    public = {id(value) for module in MODULES for value in public_objects(module).values()}
    assert [name for name in documented() if id(resolve(name)) not in public] == []


@pytest.mark.parametrize("pattern", ["notebooks/*.ipynb", "examples/*.py"])
def test_the_gallery_links_every_notebook_and_example_in_order(pattern):
    gallery = (DOCS / "gallery" / "index.md").read_text(encoding="utf-8")
    places = [
        gallery.find(f"](../../{file.relative_to(ROOT)})") for file in sorted(ROOT.glob(pattern))
    ]
    assert min(places) >= 0
    if pattern.startswith("notebooks"):
        assert places == sorted(places)


@pytest.mark.parametrize("notebook", sorted(ROOT.glob("notebooks/*.ipynb")), ids=lambda n: n.stem)
@pytest.mark.fast
def test_a_notebook_holds_the_pictures_that_the_site_shows(notebook):
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in code)
    outputs = [output for cell in code for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert any("image/png" in output.get("data", {}) for output in outputs)
