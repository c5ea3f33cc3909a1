"""The rooms of the package: who may import whom, and how long a definition may be."""

import ast

import pytest

from tests import structure

PACKAGE = structure.ROOT / "l1jax"
GRAPH = structure.imports(PACKAGE)


def test_no_imports_in_a_circle():
    assert structure.circle(GRAPH) == []


def test_a_room_imports_only_from_rooms_below_it():
    assert structure.arrows_up(GRAPH) == []


def test_rooms_do_not_import_each_other_in_a_circle():
    assert structure.circle(structure.between_rooms(GRAPH)) == []


def test_every_room_says_what_it_may_import():
    for name, tree in structure.modules(PACKAGE).items():
        if (PACKAGE / name.replace(".", "/")).is_dir():
            text = ast.get_docstring(tree) or ""
            assert not name or "May import" in text, f"{name}/__init__.py does not say it"


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"losses/_a.py": "from .._types import X\n", "_types.py": ""}, False),
        ({"losses/_a.py": "from ..linear import fit\n", "linear/__init__.py": ""}, True),
        ({"_types.py": "def late():\n    from . import prox\n", "prox.py": ""}, True),
    ],
)
def test_an_import_of_a_room_above_is_found_wherever_it_is_written(tmp_path, files, found):
    for name, text in {"__init__.py": "", **files}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(text)
        (tmp_path / name).parent.joinpath("__init__.py").touch()
    assert bool(structure.arrows_up(structure.imports(tmp_path))) == found


def test_a_circle_is_found():
    assert structure.circle({"a": {"b"}, "b": {"c"}, "c": {"a"}})
    assert not structure.circle({"a": {"b", "c"}, "b": {"c"}, "c": set()})
