"""What the benchmarks say: tables, and a picture."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

# Okabe and Ito's colours, which the colour-blind tell apart.
COLOURS = {
    "l1jax": "#000000",
    "scikit-learn": "#e69f00",
    "celer": "#56b4e9",
    "skglm": "#009e73",
    "adelie": "#d55e00",
    "glmnet": "#cc79a7",
}
PACKAGES = ["l1jax", "jax", "numpy", "scipy", "scikit-learn", "celer", "skglm", "numba"]
COLUMNS = [
    ("gap <=", 7),
    ("solver", 12),
    ("warm s", 8),
    ("first s", 8),
    ("compiled", 8),
    ("memory MB", 9),
    ("certified", 9),
    ("/ cert.", 8),
    ("/ Gram", 7),
    ("/ fastest", 9),
]


def table(name: str, problem: dict, gaps: list[float]) -> str:
    """The rows of one problem: for each gap l1jax, then the peers from the fastest on."""
    lines = [f"\n{name}: {problem['what']}"]
    solvers = {k: v for k, v in problem["solvers"].items() if not v.get("unsupported")}
    costs = unit_costs(solvers)
    if costs["certificate"]:
        gram = f"; XᵀX takes {costs['gram']:.3g} s" if costs["gram"] else ""
        lines.append(f"the certificate XᵀR of the grid takes {costs['certificate']:.3g} s{gram}")
    lines.append("  ".join(f"{title:>{width}}" for title, width in COLUMNS))
    for gap in gaps:
        found = {solver: at_gap(solvers[solver], gap) for solver in solvers}
        peers = [f["seconds"] for s, f in found.items() if s != "l1jax" and f["reached"]]
        order = sorted(
            found, key=lambda s: (s != "l1jax", not found[s]["reached"], found[s]["seconds"])
        )
        for solver in order:
            is_first = gap == gaps[0]
            lines.append(
                row(
                    gap,
                    solver,
                    solvers[solver],
                    found[solver],
                    costs,
                    min(peers, default=None),
                    is_first,
                )
            )
    unsupported = [k for k, v in problem["solvers"].items() if v.get("unsupported")]
    if unsupported:
        lines.append(f"does not solve this: {', '.join(unsupported)}")
    return "\n".join(lines)


def row(gap, solver, measured, found, costs, fastest, is_first: bool) -> str:
    first = measured.get("first", {}) if is_first else {}
    compiled = ""
    if "compiled" in first:
        compiled = f"{first['compiled']} + {first['compiled_again']}"
    seconds = found["seconds"]
    reached = found["reached"]
    cells = [
        f"{gap:.0e}",
        solver,
        number(seconds if reached else None),
        number(first.get("seconds")),
        compiled,
        f"{first['memory'] / 1e6:.0f}" if "memory" in first else "",
        f"{found['gap']:.1e}" if found["gap"] is not None else "",
        ratio(seconds, costs["certificate"]) if reached else "",
        ratio(seconds, costs["gram"]) if reached else "",
        ratio(seconds, fastest) if reached else "",
    ]
    text = "  ".join(f"{cell:>{width}}" for cell, (_, width) in zip(cells, COLUMNS, strict=True))
    return f"{text}  {found['note']}".rstrip()


def at_gap(measured: dict, gap: float) -> dict[str, Any]:
    """What a solver took to get below a gap; where it did not, its best gap and how it ended."""
    nothing = {"reached": False, "seconds": float("inf"), "gap": None, "note": ""}
    for target in measured["targets"]:
        if target["target"] == gap and target["gap"] <= gap:
            odd = [s for s in target["statuses"] if s != "CONVERGED"]
            note = f"says {', '.join(odd)}" if odd else ""
            return {**nothing, "reached": True, **pick(target), "note": note}
    passed = [t for t in measured["tried"] if t["gap"] <= gap]
    if passed:
        return {**nothing, "reached": True, **pick(min(passed, key=lambda t: t["seconds"]))}
    ended = measured.get("ended", "tighter tolerances bring nothing")
    statuses = [", ".join(t["statuses"]) for t in measured["targets"] if t["target"] == gap]
    if statuses and statuses[0]:
        ended = f"says {statuses[0]}"
    if not measured["tried"]:
        return {**nothing, "note": f"not reached: {ended}"}
    best = min(measured["tried"], key=lambda t: t["gap"])
    note = f"not reached: best after {best['seconds']:.2g} s; {ended}"
    return {**nothing, "gap": best["gap"], "note": note}


def pick(target: dict) -> dict[str, float]:
    return {"seconds": target["seconds"], "gap": target["gap"]}


def unit_costs(solvers: dict) -> dict[str, float | None]:
    """The least that any of the processes took for XᵀR and XᵀX: others may have been busy."""
    firsts = [solver.get("first", {}) for solver in solvers.values()]
    costs = {}
    for key in ("certificate", "gram"):
        costs[key] = min((f[key] for f in firsts if f.get(key)), default=None)
    return costs


def number(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.3g}"


def ratio(seconds: float, unit: float | None) -> str:
    if not unit:
        return ""
    value = seconds / unit
    return f"{value:.0f}" if value >= 100 else f"{value:.2g}"


def machine() -> dict[str, Any]:
    """What the numbers depend on, without a name."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [
            x.split(":")[1].strip() for x in info.read_text().splitlines() if "model name" in x
        ]
        model = models[0] if models else model
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "cpu": model,
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": versions,
    }


def machine_line(machine: dict) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return (
        f"{machine['cpu']}, {machine['architecture']}, {machine['cores']} cores, "
        f"Python {machine['python']}, {versions}"
    )


def draw(result: dict, file: Path) -> None:
    """Warm time by problem on a log axis, at the middle of the gaps; what did not get there has no bar."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    gaps = result["gaps"]
    gap = gaps[len(gaps) // 2]
    bars = []  # (problem, solver, seconds)
    for name, problem in result["problems"].items():
        for solver, measured in problem["solvers"].items():
            if not measured.get("unsupported"):
                found = at_gap(measured, gap)
                if found["reached"]:
                    bars.append((name, solver, found["seconds"]))
    if not bars:
        return
    problems = list(dict.fromkeys(name for name, *_ in bars))
    solvers = [s for s in COLOURS if any(s == solver for _, solver, _ in bars)]
    height = 0.85 / len(solvers)
    size = (9, 1.2 + 0.55 * len(problems))
    figure, axes = plt.subplots(figsize=size, layout="constrained")
    for solver in solvers:
        mine = [(problems.index(name), t) for name, s, t in bars if s == solver]
        offset = (solvers.index(solver) - (len(solvers) - 1) / 2) * height
        at, seconds = [i + offset for i, _ in mine], [t for _, t in mine]
        axes.barh(at, seconds, 0.9 * height, color=COLOURS[solver], label=solver)
    axes.set_yticks(range(len(problems)), problems)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("seconds for the grid, warm (log scale)")
    axes.set_title(f"Time to a certified relative gap of {gap:.0e}; no bar: not reached")
    axes.grid(axis="x", color="0.85")
    axes.set_axisbelow(True)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(file, dpi=130)
    plt.close(figure)
