"""The structure of the package, from its syntax: imports, lengths, parameters, annotations.

`python tests/structure.py [folder]` prints it as a table.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
# From the ground up: a module may import from its own room and from those above it in this list.
ROOMS = [
    (
        "_types",
        "_status",
        "_modules",
        "_arrays",
        "_compile",
        "_tracing",
        "_tables",
        "_progress",
        "_checks",
        "_groups",
        "_sharding",
        "_threads",
        "_saving",
        "_thresholds",
        "_group_shrinkage",
        "_chains",
        "_trends",
        "_latent",
        "_operators",
        "_conjugate_gradients",
    ),
    ("prox",),
    ("losses", "penalties"),
    ("implicit",),
    ("composite", "training"),
    ("prune",),
    ("linear.data",),
    ("linear.model",),
    ("linear.host",),
    ("linear.results",),
    ("linear.derivatives", "linear.engines"),
    ("linear._grid", "linear._fit", "linear._path"),
    ("linear.selection",),
    ("linear",),
    ("tuning",),
    ("sklearn", "plot"),
    ("",),
]


@dataclass(frozen=True)
class Definition:
    """A function or a class: where it is, and its number of lines of code."""

    where: str
    lines: int
    parameters: int = 0


def modules(package: Path) -> dict[str, ast.Module]:
    """The modules by dotted name below the package, an `__init__` by the name of its folder."""
    found = {}
    for file in sorted(package.rglob("*.py")):
        parts = file.relative_to(package).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(file.read_text(encoding="utf-8"))
    return found


def imports(package: Path) -> dict[str, set[str]]:
    """The modules that each module imports, wherever in it, within the package."""
    trees = modules(package)
    folders = {name for name in trees if (package / name.replace(".", "/")).is_dir()}
    graph: dict[str, set[str]] = {name: set() for name in trees}
    for name, tree in trees.items():
        inside = name.split(".") if name in folders else name.split(".")[:-1]
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                sources = [alias.name.split(".") for alias in node.names]
                graph[name] |= {".".join(s[1:]) for s in sources if s[0] == package.name}
            if not isinstance(node, ast.ImportFrom):
                continue
            base = [part for part in inside[: len(inside) - node.level + 1] if part]
            if not node.level:
                root, *base = (node.module or "").split(".")
                if root != package.name:
                    continue
            below = (node.module or "").split(".") if node.level else []
            source = ".".join([*base, *below]).strip(".")
            for alias in node.names:
                submodule = f"{source}.{alias.name}".strip(".")
                graph[name].add(submodule if submodule in trees else source)
        graph[name].discard(name)
    return graph


def room_of(module: str) -> tuple[int, str]:
    """The place in `ROOMS` of the room that a module belongs to, and its name: the longest that fits."""
    matches = [
        (len(name), place, name)
        for place, names in enumerate(ROOMS)
        for name in names
        if module == name or module.startswith(name + ".") or not name
    ]
    return max(matches)[1:]


def between_rooms(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """The rooms that each room imports from."""
    rooms: dict[str, set[str]] = {}
    for name, others in graph.items():
        here = room_of(name)[1]
        rooms.setdefault(here, set()).update(room_of(other)[1] for other in others)
        rooms[here].discard(here)
    return rooms


def may_import(package: Path) -> dict[str, set[str]]:
    """The rooms that each folder's `__init__` names where it says "May import"; the ground floor is "_"."""
    rooms = {name for names in ROOMS for name in names}
    said: dict[str, set[str]] = {}
    passed_on = set()
    for room, tree in modules(package).items():
        text = re.search(r"May import\s(.*?)\.(?:\s|$)", ast.get_docstring(tree) or "", re.DOTALL)
        if text is None:
            continue
        said[room] = {"_"} if "the ground floor" in text[1] else set()
        for name in re.findall(r"`(\w+)`", text[1]):
            above = [room.rsplit(".", k)[0] for k in range(1, room.count(".") + 1)]
            said[room].add(next((f"{a}.{name}" for a in above if f"{a}.{name}" in rooms), name))
        if "may import" in text[1]:
            passed_on.add(room)
    said |= {"prox": {"_"}}

    def all_of(room: str) -> set[str]:
        direct = said.get(room, set())
        return direct.union(*map(all_of, direct)) if room in passed_on else direct

    return {room: all_of(room) for room in said}


def circle(graph: dict[str, set[str]]) -> list[str]:
    """A circle of imports, or nothing."""
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        return list(error.args[1])
    return []


def arrows_up(graph: dict[str, set[str]]) -> list[str]:
    """The imports of a room that is further down the list."""
    return [
        f"{name or 'l1jax'} imports {other}"
        for name, others in graph.items()
        for other in sorted(others)
        if room_of(other)[0] > room_of(name)[0]
    ]


def _code_lines(node: ast.AST, source: list[str]) -> int:
    """Lines of a definition without its docstring, comments and blank lines."""
    assert isinstance(node, ast.FunctionDef | ast.ClassDef)
    documented: set[int] = set()
    for inner in ast.walk(node):
        if isinstance(inner, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(inner):
            text = inner.body[0]
            documented |= set(range(text.lineno, (text.end_lineno or 0) + 1))
    lines = range(node.lineno, (node.end_lineno or 0) + 1)
    texts = [source[i - 1].strip() for i in lines if i not in documented]
    return sum(bool(text) and not text.startswith("#") for text in texts)


def definitions(package: Path, kind: type) -> Iterator[Definition]:
    """All functions or all classes of the package."""
    for file in sorted(package.rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, kind):
                count = 0
                if isinstance(node, ast.FunctionDef):
                    arguments = node.args
                    names = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
                    count = len([one for one in names if one.arg not in ("self", "cls")])
                where = f"{file.relative_to(package)}:{node.name}"
                yield Definition(where, _code_lines(node, text.splitlines()), count)


def annotations(package: Path) -> tuple[int, int]:
    """How many parameters are annotated `Any`, and how many there are."""
    free = total = 0
    for tree in modules(package).values():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                for one in (*node.args.args, *node.args.kwonlyargs, *node.args.posonlyargs):
                    if one.arg not in ("self", "cls"):
                        total += 1
                        free += one.annotation is None or ast.unparse(one.annotation) == "Any"
    return free, total


def main(package: Path) -> None:
    graph = imports(package)
    functions = sorted(definitions(package, ast.FunctionDef), key=lambda one: -one.lines)
    classes = sorted(definitions(package, ast.ClassDef), key=lambda one: -one.lines)
    wide = sorted(functions, key=lambda one: -one.parameters)
    private = [one for one in wide if one.where.rpartition(":")[2].startswith("_")]
    free, total = annotations(package)
    print(f"files {len(graph)}, imports between them {sum(map(len, graph.values()))}")
    print(f"a circle: {' -> '.join(circle(graph)) or 'none'}")
    print(f"imports of a room further up: {len(arrows_up(graph))}", *arrows_up(graph), sep="\n  ")
    for title, ones in (("function", functions), ("class", classes)):
        print(f"longest {title}:", *(f"{one.where} {one.lines}" for one in ones[:8]), sep="\n  ")
    print(
        "most parameters, private:", *(f"{d.where} {d.parameters}" for d in private[:8]), sep="\n  "
    )
    print("most parameters:", *(f"{d.where} {d.parameters}" for d in wide[:8]), sep="\n  ")
    print(f"parameters without a type, or Any: {free} of {total} ({free / total:.0%})")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "l1jax")
