"""One solver on some problems, in a process of its own: first call, memory, time at each gap.

`run.py` starts it, with the Python that has the solver, and reads one JSON object per line. It ends
itself where one grid takes longer than `--limit`, or one problem four times that: an alarm, which
ends compiled code too.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import re
import resource
import signal
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import certificate
import problems
from peers import PEERS, Solve, quietly

COMPILED = "/jax/core/compile/backend_compile_duration"
HALF_A_DECADE = 10**0.5


def main() -> None:
    arguments = parse()
    for name in arguments.problems:
        problem = problems.make(name, arguments.short)
        hard = problems.is_hard(name)
        gaps = [problems.HARD_GAP] if hard else sorted(arguments.gaps, reverse=True)
        try:
            Measurement(problem, arguments.solver, arguments.limit).run(gaps)
        except Exception as error:
            say("error", name, text=f"{type(error).__name__}: {error}"[:200])


class Measurement:
    """What is known of one solver on one problem; says each thing as soon as it is known."""

    def __init__(self, problem: problems.Problem, solver: str, limit: float):
        self.problem, self.solver, self.limit = problem, solver, limit
        self.peer = PEERS[solver]
        self.known: dict[float, tuple[float, float]] = {}  # tolerance: (gap, seconds)

    def run(self, gaps: list[float]) -> None:
        solve = self.peer.prepare(self.problem)
        if solve is None:
            return self.say("unsupported")
        self.deadline = time.perf_counter() + 4 * self.limit
        self.first_call(solve, gaps[0] if self.solver == "l1jax" else self.peer.loosest)
        for gap in gaps:
            # l1jax promises a gap, so that it needs no search.
            tol = gap if self.solver == "l1jax" else self.search(solve, gap)
            self.conclude(solve, tol, gap)
        return None

    def first_call(self, solve: Solve, tol: float) -> None:
        product, gram = unit_costs(self.problem)
        self.say("first", tol=tol, certificate=product, gram=gram)
        compiled = count_compiled() if self.solver == "l1jax" else []
        gc.collect()
        before = resident()
        seconds, _ = self.timed(solve, tol, limit=2 * self.limit)
        self.say("first", seconds=seconds, memory=peak() - before)
        if self.solver == "l1jax":
            first = len(compiled)
            again = self.peer.prepare(self.problem.other_values())
            self.timed(again, tol, limit=self.limit)
            self.say("first", compiled=first, compiled_again=len(compiled) - first)

    def search(self, solve: Solve, gap: float) -> float:
        """A tolerance whose certified gap is at most `gap`, and not much less; or the best there is.

        Half a decade too tight is near enough, in the gap or in the tolerance.
        """
        self.try_at(solve, self.peer.loosest)
        for _ in range(12):
            passing = [tol for tol in self.known if self.known[tol][0] <= gap]
            failing = [tol for tol in self.known if not passing or tol > max(passing)]
            if passing:
                tol = max(passing)
                near = self.known[tol][0] * HALF_A_DECADE > gap
                if near or not failing or min(failing) / tol < 1.01 * HALF_A_DECADE:
                    return tol
                self.try_at(solve, (min(failing) * tol) ** 0.5)
            elif min(failing) <= self.peer.tightest or self.is_stuck():
                break
            else:
                self.try_at(solve, max(self.tighter(gap), self.peer.tightest))
        return max(passing) if passing else min(self.known, key=lambda tol: self.known[tol][0])

    def tighter(self, gap: float) -> float:
        """Where the gap should be half of what is asked, if it goes as a power of the tolerance."""
        *_, (tol, (found, _)) = self.by_tolerance()
        slope = 1.0
        if len(self.known) > 1:
            before, (loose, _) = self.by_tolerance()[-2]
            slope = math.log(loose / found) / math.log(before / tol) if loose > found else 0.3
        wanted = (0.5 * gap / found) ** (1 / min(max(slope, 0.3), 1.2))
        return tol * min(max(wanted, 1e-3), 0.5)

    def is_stuck(self) -> bool:
        """Whether two tighter tolerances in a row have not halved the gap."""
        gaps = [gap for _, (gap, _) in self.by_tolerance()]
        return len(gaps) > 3 and min(gaps[-2:]) > 0.5 * min(gaps[:-2])

    def by_tolerance(self) -> list[tuple[float, tuple[float, float]]]:
        return sorted(self.known.items(), reverse=True)

    def try_at(self, solve: Solve, tol: float) -> float:
        if tol not in self.known:
            self.say("trying", tol=tol)
            seconds, coefs = self.timed(solve, tol, self.limit)
            self.known[tol] = (certificate.worst_gap(self.problem, coefs), seconds)
            self.say("tried", tol=tol, gap=self.known[tol][0], seconds=seconds)
        return self.known[tol][0]

    def conclude(self, solve: Solve, tol: float, target: float) -> None:
        """Repeats what was found, where that is cheap, and says the median."""
        found = self.try_at(solve, tol)
        seconds = [self.known[tol][1]]
        repeats = 1 if found > target or seconds[0] > 5 else 3 if seconds[0] > 0.5 else 5
        while len(seconds) < repeats:
            seconds.append(self.timed(solve, tol, self.limit)[0])
        statuses = sorted(getattr(solve, "statuses", []))
        median = statistics.median(seconds)
        self.say("target", target=target, tol=tol, gap=found, seconds=median, statuses=statuses)

    def timed(self, solve: Solve, tol: float, limit: float):
        limit = min(limit, max(self.deadline - time.perf_counter(), 0.01))
        signal.setitimer(signal.ITIMER_REAL, limit)
        start = time.perf_counter()
        coefs = quietly(solve, tol)
        seconds = time.perf_counter() - start
        signal.setitimer(signal.ITIMER_REAL, 0)
        return getattr(solve, "seconds", seconds), coefs

    def say(self, kind: str, **what: Any) -> None:
        say(kind, self.problem.name, **what)


def unit_costs(problem: problems.Problem) -> tuple[float, float | None]:
    """Seconds of the certificate's product XᵀR for the whole grid, and of XᵀX if X is tall."""
    X = problem.X
    R = np.random.default_rng(0).standard_normal((X.shape[0], len(problem.lams)))
    gram = best_time(lambda: X.T @ X) if problem.is_tall else None
    return best_time(lambda: X.T @ R), gram


def best_time(work: Callable[[], Any]) -> float:
    """The least of five: what the machine can do when it is left alone."""
    times = []
    for _ in range(5):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def count_compiled() -> list[float]:
    """A list that grows by one with every executable that jax compiles from now on."""
    import jax

    compiled: list[float] = []

    def listen(event: str, seconds: float, **_: Any) -> None:
        if event == COMPILED:
            compiled.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)
    return compiled


def resident() -> int:
    """Bytes that the process holds; where the system allows it, the peak is counted from here."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return peak()
    return proc_status("VmRSS")


def peak() -> int:
    if Path("/proc/self/status").exists():
        return proc_status("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def proc_status(key: str) -> int:
    found = re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return 1024 * int(found[1]) if found else 0


def say(kind: str, problem: str, **what: Any) -> None:
    print(json.dumps({"kind": kind, "problem": problem, **what}), flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--solver", required=True, choices=list(PEERS))
    parser.add_argument("--problems", nargs="+", required=True, choices=list(problems.PROBLEMS))
    parser.add_argument("--gaps", nargs="+", type=float, required=True)
    parser.add_argument("--limit", type=float, default=60.0, help="seconds for one grid")
    parser.add_argument("--short", action="store_true", help="tiny shapes")
    return parser.parse_args()


if __name__ == "__main__":
    main()
