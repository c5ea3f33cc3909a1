"""Times l1jax and the other solvers that are installed, at equal certified gap.

Run it with `make bench`, or `python benchmarks/run.py [--short] [--problem NAME ...] [--peers ...]
[--gaps ...] [--limit SECONDS] [--json PATH]`. Each solver gets a process of its own for each
problem; its tolerance is tightened until the largest relative duality gap over the grid, computed
outside of it, is below the target. Tables go to the screen, the numbers and a picture to
benchmarks/output/.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import report
from peers import PEERS
from problems import HARD_GAP, PROBLEMS, is_hard

HERE = Path(__file__).resolve().parent
ADELIE = HERE / ".venv-adelie"
GAPS = [1e-3, 1e-6, 1e-9]


def main() -> None:
    arguments = parse()
    pythons = find_solvers(arguments.peers, may_install=not arguments.short)
    result = {
        "command": " ".join(["python", "benchmarks/run.py", *sys.argv[1:]]),
        "machine": report.machine(),
        "gaps": sorted(arguments.gaps, reverse=True),
        "limit": arguments.limit,
        "problems": {
            name: {"what": PROBLEMS[name][1], "solvers": {}} for name in arguments.problem
        },
    }
    print(report.machine_line(result["machine"]), flush=True)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    for batch in batches(arguments.problem, arguments.short):
        for name, solver, found in measure_all(pythons, batch, arguments):
            result["problems"][name]["solvers"][solver] = found
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
        for name in batch:
            gaps = [HARD_GAP] if is_hard(name) else result["gaps"]
            print(report.table(name, result["problems"][name], gaps), flush=True)
    picture = arguments.json.with_suffix(".png")
    report.draw(result, picture)
    print(f"\nThe numbers: {arguments.json}\nThe picture: {picture}")


def batches(names: list[str], short: bool) -> list[list[str]]:
    """A process serves a batch: one problem, or in the short form all, to share what compiles."""
    ordered = sorted(names, key=is_hard)
    return [ordered] if short else [[name] for name in ordered]


def find_solvers(wanted: list[str], may_install: bool) -> dict[str, str]:
    """The Python that has each solver; says which are not there."""
    pythons = {}
    for name in wanted:
        if name == "adelie":
            python = adelie_python(may_install)
        else:
            python = sys.executable if PEERS[name].version() or name == "l1jax" else None
        if python is None:
            print(f"{name}: not installed, left out")
        else:
            pythons[name] = python
    return pythons


def adelie_python(may_install: bool) -> str | None:
    """adelie has an environment of its own, made the first time: it pins what others need newer."""
    python = ADELIE / "bin" / "python"
    if not python.exists() and may_install:
        print("adelie: making its environment (once)", flush=True)
        made = [
            [sys.executable, "-m", "venv", str(ADELIE)],
            [str(python), "-m", "pip", "install", "-qq", "adelie"],
        ]
        try:
            for command in made:
                subprocess.run(command, check=True, capture_output=True, timeout=600)
        except (OSError, subprocess.SubprocessError) as error:
            print(f"adelie: {type(error).__name__}")
            shutil.rmtree(ADELIE, ignore_errors=True)
    return str(python) if python.exists() else None


def measure_all(pythons: dict[str, str], batch: list[str], arguments: Any) -> list[tuple]:
    """(problem, solver, what was found); one process at a time, unless nothing is to be timed."""

    def one(solver: str) -> dict[str, dict]:
        names = [name for name in batch if solver == "l1jax" or not is_hard(name)]
        return measure(pythons[solver], solver, names, arguments) if names else {}

    with ThreadPoolExecutor(max_workers=2 if arguments.short else 1) as pool:
        found = dict(zip(pythons, pool.map(one, pythons), strict=True))
    return [(name, solver, what) for solver in found for name, what in found[solver].items()]


def measure(python: str, solver: str, names: list[str], arguments: Any) -> dict[str, dict]:
    """Runs measure.py and gathers what it says, which may end early."""
    command = [python, str(HERE / "measure.py"), "--solver", solver, "--problems", *names]
    command += ["--gaps", *map(str, arguments.gaps), "--limit", str(arguments.limit)]
    command += ["--short"] if arguments.short else []
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE.parent), *path_entries()])}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)  # a first call compiles
    if arguments.short:  # nothing is timed: compile little
        environment |= {"NUMBA_DISABLE_JIT": "1", "XLA_FLAGS": "--xla_backend_optimization_level=0"}
    start = time.perf_counter()
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    found: dict[str, dict] = {}
    for line in run.stdout.splitlines():
        if line.startswith('{"kind"'):
            said = json.loads(line)
            gather(found.setdefault(said.pop("problem"), {"tried": [], "targets": []}), said)
    end = ""
    if run.returncode == -signal.SIGALRM:
        end = f"ended after {time.perf_counter() - start:.0f} s"
    elif run.returncode:
        end = (run.stderr.strip().splitlines() or [f"exit {run.returncode}"])[-1][:200]
    if end:
        last = next(reversed(found)) if found else names[0]
        found.setdefault(last, {"tried": [], "targets": []})["ended"] = end
        print(f"{solver} on {last}: {end}", file=sys.stderr, flush=True)
    return found


def gather(found: dict, said: dict) -> None:
    kind = said.pop("kind")
    if kind == "tried":
        found["tried"].append(said)
    elif kind == "target":
        found["targets"].append(said)
    elif kind == "error":
        found["ended"] = said["text"]
    elif kind == "unsupported":
        found["unsupported"] = True
    elif kind == "first":
        found.setdefault("first", {}).update(said)


def path_entries() -> list[str]:
    return [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="tiny shapes: every path of the code")
    parser.add_argument("--problem", nargs="+", choices=list(PROBLEMS), default=list(PROBLEMS))
    parser.add_argument("--peers", nargs="+", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--gaps", nargs="+", type=float, help="default: 1e-3 1e-6 1e-9")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds for one grid")
    parser.add_argument("--json", type=Path, default=HERE / "output" / "benchmarks.json")
    arguments = parser.parse_args()
    arguments.gaps = arguments.gaps or (GAPS[:1] if arguments.short else GAPS)
    if "l1jax" not in arguments.peers:
        arguments.peers = ["l1jax", *arguments.peers]
    return arguments


if __name__ == "__main__":
    main()
