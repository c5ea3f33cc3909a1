"""The reference knows every public name, and the gallery every notebook and example.

`make docs` checks that each page builds and each link leads somewhere, `make doctest` that the
code on the pages runs.
"""

import importlib
import inspect
import json
import re
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import l1jax

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
MODULES = ["l1jax", "l1jax.losses", "l1jax.penalties", "l1jax.training", "l1jax.sklearn"]
MODULES += ["l1jax.plot", "l1jax.prox", "l1jax.prune", "l1jax.training.directions"]
# What penalties take from the module of operators, without a promise to users.
NOT_PROMISED = {"prox_channels", "channel_norms", "fits", "map_even", "as_matrix", "l2_norm"}


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
def test_the_gallery_links_every_example_and_every_notebook_in_order(pattern):
    gallery = (DOCS / "gallery" / "index.md").read_text(encoding="utf-8")
    places = [
        gallery.find(f"](../../{file.relative_to(ROOT)})") for file in sorted(ROOT.glob(pattern))
    ]
    assert min(places) >= 0
    assert places == sorted(places) or pattern.startswith(
        "examples"
    )  # these are grouped by subject


@pytest.mark.parametrize("notebook", sorted(ROOT.glob("notebooks/*.ipynb")), ids=lambda n: n.stem)
@pytest.mark.fast
def test_a_notebook_holds_the_pictures_that_the_site_shows(notebook):
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in code)
    outputs = [output for cell in code for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert any("image/png" in output.get("data", {}) for output in outputs)


@pytest.fixture(scope="module")
def family_pages():
    """The module that makes tables and pictures from the classes."""
    pytest.importorskip("matplotlib")
    sys.path.insert(0, str(ROOT / ".ci"))
    yield importlib.import_module("family_pages")
    sys.path.remove(str(ROOT / ".ci"))


@pytest.mark.parametrize(("family", "base"), [("penalties", "Penalty"), ("losses", "Loss")])
def test_every_penalty_and_loss_is_shown_with_its_formula_source_and_use(
    family, base, family_pages
):
    shown = family_pages.instances(family)
    assert set(shown) == set(importlib.import_module(f"l1jax.{family}").__all__) - {base}
    said = (family_pages.first_sentence, family_pages.source)
    missing = [name for name in shown if not all(say(name) for say in said)]
    assert missing == []  # a docstring says it: a first sentence, and a line "Source: ..."
    assert [name for name in shown if not family_pages.uses(name, family)] == []  # choosing.md


def test_a_row_says_what_is_known_of_the_lasso_and_of_a_concave_penalty(family_pages):
    lasso = family_pages.penalty_row("L1", l1jax.L1(1.0))
    assert lasso["certificate"] == "gap, λmax"
    assert lasso["prox"] == "a step per coordinate"
    assert lasso["training"] == "`prox_sgd`, `prox_adam`"
    assert lasso["source"].startswith("Tibshirani (1996)")
    concave = family_pages.penalty_row("MCP", l1jax.MCP(1.0, gamma=2.5))
    assert concave["certificate"] == "kkt, λmax"
    assert concave["prox"] == "a step per coordinate, below 2.5"
    assert concave["derivative by"] == "`gamma`, `lam`"
    assert family_pages.certificate_words(l1jax.Ridge(1.0), np.ones(2)) == "gap, no λmax"


SURVIVAL = "(time, event) or (start, stop, event)"


@pytest.mark.parametrize(
    ("name", "y", "curvature", "certificate", "null"),
    [
        ("Logistic", "0 or 1", "positive, ≤ 0.25", "gap", "the mean of y"),
        ("Poisson", "numbers ≥ 0", "positive, unbounded", "gap", "the mean of y"),
        ("Huber", "numbers", "not positive everywhere, ≤ 1", "gap", "its minimiser"),
        ("StudentT", "numbers", "not convex, unbounded", "kkt", "its minimiser"),
        ("Cox", SURVIVAL, "positive, unbounded", "gap", "η = 0"),
    ],
)
def test_a_row_says_what_is_known_of_a_loss(name, y, curvature, certificate, null, family_pages):
    row = family_pages.loss_row(name, family_pages.instances("losses")[name])
    known = {"y": y, "curvature": curvature, "certificate": certificate, "null model": null}
    assert known.items() <= row.items()


@pytest.mark.parametrize("name", ["L1", "Ridge"])
def test_the_engines_of_a_row_are_those_that_fit_takes(name, family_pages):
    X, y = np.array([[-1.0, 0.5], [0.0, -1.0], [1.0, 0.5]]), np.array([-3.0, 0.0, 3.0])
    pen = getattr(l1jax, name)(0.5)
    row = family_pages.penalty_row(name, pen)["engines, squared error"]
    for engine in ("working_set", "covariance", "homotopy"):
        if f"`{engine}`" in row:
            assert l1jax.fit(X, y, pen, engine=engine).coef.shape == (2,)
        else:
            with pytest.raises(ValueError, match=engine):
                l1jax.fit(X, y, pen, engine=engine)


def test_a_picture_shows_the_loss_and_its_slope_by_the_predictor(family_pages):
    pictures = importlib.import_module("family_pictures")
    eta = pictures._ETA
    value, slope = pictures.along(l1jax.Logistic(), np.array([0.0, 1.0]), 1)
    np.testing.assert_allclose(value, np.log1p(np.exp(-eta)), rtol=1e-12)
    np.testing.assert_allclose(slope, -1 / (1 + np.exp(eta)), rtol=1e-12)
    # Of one row among others the log partial likelihood, of the second to die: it is at risk in two terms.
    value, _ = pictures.along(l1jax.Cox(), np.array([[1.0, 1], [2.0, 1], [3.0, 0]]), 1)
    risk = np.exp(eta)
    expected = (np.log(2 + risk) + np.log(1 + risk) - eta) / 3
    np.testing.assert_allclose(value, expected, rtol=1e-12)
