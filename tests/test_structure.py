"""The rooms of the package: who may import whom, and how long a definition may be."""

import ast
import re

import pytest

from tests import structure

PACKAGE = structure.ROOT / "l1jax"
GRAPH = structure.imports(PACKAGE)


def test_no_imports_in_a_circle():
    assert structure.circle(GRAPH) == []


def test_a_room_imports_only_from_rooms_below_it():
    assert structure.arrows_up(GRAPH) == []


@pytest.mark.fast
def test_rooms_do_not_import_each_other_in_a_circle():
    assert structure.circle(structure.between_rooms(GRAPH)) == []


def test_every_folder_says_what_it_may_import_and_keeps_to_it():
    allowed = structure.may_import(PACKAGE)
    ground_floor = set(structure.ROOMS[0])
    folders = {name for name in GRAPH if name and (PACKAGE / name.replace(".", "/")).is_dir()}
    assert folders - set(allowed) == set()
    found = [
        f"{folder} imports {other}"
        for folder in folders
        for name in GRAPH
        if f"{name}.".startswith(f"{folder}.")
        for other in {"_" if one in ground_floor else one for one in GRAPH[name]}
        if not any(f"{other}.".startswith(f"{room}.") for room in {folder, *allowed[folder]})
    ]
    assert found == []


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"losses/_a.py": "from .._types import X\n", "_types.py": ""}, False),
        ({"losses/_a.py": "from ..linear import fit\n", "linear/__init__.py": ""}, True),
        ({"_types.py": "def late():\n    from . import prox\n", "prox.py": ""}, True),
        ({"_types.py": "from inner.losses import X\n", "losses/_a.py": ""}, True),
        ({"_types.py": "import inner.losses._a\n", "losses/_a.py": ""}, True),
        ({"_types.py": "import numpy.linalg\nfrom jax import numpy\n", "losses/_a.py": ""}, False),
    ],
)
def test_an_import_of_a_room_above_is_found_wherever_it_is_written(tmp_path, files, found):
    package = tmp_path / "inner"
    for name, text in {"__init__.py": "", **files}.items():
        (package / name).parent.mkdir(exist_ok=True, parents=True)
        (package / name).write_text(text)
        (package / name).parent.joinpath("__init__.py").touch()
    assert bool(structure.arrows_up(structure.imports(package))) == found


def test_a_circle_is_found():
    assert structure.circle({"a": {"b"}, "b": {"c"}, "c": {"a"}})
    assert not structure.circle({"a": {"b", "c"}, "b": {"c"}, "c": set()})


def test_no_function_is_long_no_class_large_and_no_private_call_wide():
    functions = list(structure.definitions(PACKAGE, ast.FunctionDef))
    assert [one for one in functions if one.lines > 60] == []
    assert [one for one in structure.definitions(PACKAGE, ast.ClassDef) if one.lines > 200] == []
    private = [one for one in functions if one.where.rpartition(":")[2].startswith("_")]
    assert [one for one in private if one.parameters > 8] == []


# Words that once had private meanings; the terms of the field are in CONTRIBUTING.md.
RETIRED = (
    r"walk\w*|mover\w*|leap\w*|stiffen\w*|patience|caution|is_easy|alive|prices?|priced|excess|slack"
    r"|Recipe\w*|twins?|Lost|critical_strength|unfinished|faces?|look(?:s|ed|ing)?|bends?|spread|seen"
    r"|settle\w*|push|even_prox"
)


def test_no_retired_word_is_back():
    found = [
        f"{file.relative_to(PACKAGE)}: {line.strip()}"
        for file in PACKAGE.rglob("*.py")
        for line in file.read_text(encoding="utf-8").splitlines()
        if re.search(rf"(?<![\w-])_?(?:{RETIRED})\b", line)
    ]
    assert found == [], "words with a private meaning; CONTRIBUTING.md has the terms of the field"


def test_every_room_has_a_fast_test():
    files = list((structure.ROOT / "tests").rglob("test_*.py"))
    fast = {file for file in files if "pytest.mark.fast" in file.read_text(encoding="utf-8")}
    rooms = {file.parent for file in files}
    assert rooms - {file.parent for file in fast} == set()
