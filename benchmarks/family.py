"""Losses and penalties beyond the lasso against skglm and scikit-learn, at equal objective.

python benchmarks/family.py [--short] [--row NAME ...] [--shape N P] [--limit SECONDS] [--json PATH]

A path of 10 strengths without intercept, from λmax to λmax/20. Each solver goes through its tolerances, from
loose to tight; it is timed at the loosest whose objectives, by NumPy, are all within 1e-6 of the least that any
run found: of a penalty that is not convex, of the least of its own runs, as stationary points may differ.
Seconds of CPU, warm, the least of two runs. A solver ends where a run takes longer than the limit.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from scipy.special import xlogy

import report
from problems import correlated, linear_target, true_coefficients

HERE = Path(__file__).resolve().parent
SHAPES = [(500, 10_000), (5000, 500)]
N_LAMS, RATIO, WITHIN = 10, 1 / 20, 1e-6
TOLERANCES = [1e-3, 1e-5, 1e-7, 1e-10]
LEVEL, GROUP = 0.3, 5


@dataclasses.dataclass(frozen=True)
class Row:
    """What is compared: the targets, the loss (its value per row), the penalty, and the peers."""

    target: str
    loss: Callable[[np.ndarray, np.ndarray], np.ndarray]
    penalty: Callable[[np.ndarray, float], float]
    ours: Callable[[Any, int], tuple[Any, Any]]  # penalty and loss of l1jax
    peers: dict[str, Callable[..., Any]]
    convex: bool = True


# --- Targets and objectives --------------------------------------------------------------------


def design(n: int, p: int, target: str) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    X = correlated(rng, n, p)
    signal = X @ true_coefficients(rng, p, min(20, p // 6))
    level = np.clip(signal / signal.std(), -3, 3)
    if target == "numbers":
        return X, linear_target(rng, X, min(20, p // 6))
    if target == "counts":
        return X, rng.poisson(np.exp(0.5 * level)).astype(float)
    if target == "labels":
        return X, (rng.random(n) < 1 / (1 + np.exp(-2 * level))).astype(float)
    if target == "costs":
        return X, np.exp(0.5 * level) * rng.gamma(3.0, 1 / 3, n) + 1e-3
    times = rng.exponential(np.exp(-level))
    return X, np.stack([times, rng.random(n) < 0.7], axis=1).astype(float)


def squared(y, eta):
    return 0.5 * (y - eta) ** 2


def pinball(y, eta):
    return np.maximum(LEVEL * (y - eta), (LEVEL - 1) * (y - eta))


def logistic(y, eta):
    return np.logaddexp(0, eta) - y * eta


def poisson(y, eta):
    return np.exp(eta) - y * eta


def gamma(y, eta):
    return y * np.exp(-eta) + eta - 1 - xlogy(1, y)


def tweedie(y, eta):
    return 2 * np.exp(eta / 2) + 2 * y * np.exp(-eta / 2)


def cox(y, eta):
    """Breslow's partial likelihood, without ties."""
    order = np.argsort(-y[:, 0])
    at_risk = np.empty(len(y))
    at_risk[order] = np.logaddexp.accumulate(eta[order])
    return y[:, 1] * (at_risk - eta)


def l1(beta, lam):
    return lam * np.abs(beta).sum()


def ridge(beta, lam):
    return 0.5 * lam * beta @ beta


def mcp(beta, lam, g=3.0):
    size = np.minimum(np.abs(beta), g * lam)
    return float(np.sum(lam * size - size**2 / (2 * g)))


def scad(beta, lam, g=3.7):
    size = np.abs(beta)
    middle = (2 * g * lam * size - size**2 - lam**2) / (2 * (g - 1))
    return float(
        np.sum(
            np.where(
                size <= lam, lam * size, np.where(size <= g * lam, middle, lam**2 * (g + 1) / 2)
            )
        )
    )


def slope_weights(p: int) -> np.ndarray:
    return np.linspace(1, 0.5, p)


def slope(beta, lam):
    return float(lam * slope_weights(len(beta)) @ np.sort(np.abs(beta))[::-1])


def groups(beta, lam):
    return float(lam * np.sqrt(GROUP) * np.linalg.norm(beta.reshape(-1, GROUP), axis=1).sum())


# --- Solvers: (X, y, lams) -> a function of the tolerance, which returns the coefficients (L, p) ---


def l1jax_path(row: Row, X, y, lams) -> Callable[[float], np.ndarray]:
    import l1jax

    pen, loss = row.ours(l1jax, X.shape[1])

    def solve(tol: float) -> np.ndarray:
        path = l1jax.path(X, y, pen, lams=lams, loss=loss, fit_intercept=False, tol=tol)
        return np.asarray(path.coefs)

    return solve


def skglm_path(datafit: str, penalty: str, solver: str = "AndersonCD"):
    """Warm starts along the grid; its tolerance is on the optimality conditions, a fraction of λmax."""

    def prepare(X, y, lams):
        import skglm.experimental as more
        from skglm import datafits, penalties, solvers

        p = X.shape[1]
        X = np.asfortranarray(X)
        y = 2 * y - 1 if datafit.startswith("Logistic") else y
        y = np.asfortranarray(y)
        layout = {
            "grp_ptr": np.arange(0, p + 1, GROUP, dtype=np.int32),
            "grp_indices": np.arange(p, dtype=np.int32),
        }
        loss: Any = more.Pinball(LEVEL) if datafit == "Pinball" else None
        if loss is None:
            loss = getattr(datafits, datafit)(**layout if datafit.endswith("Group") else {})
        if datafit == "Cox":
            loss.initialize(X, y)
        makers: dict[str, Callable[[float], Any]] = {
            "L1": lambda lam: penalties.L1(lam),
            "MCPenalty": lambda lam: penalties.MCPenalty(lam, 3.0),
            "SCAD": lambda lam: penalties.SCAD(lam, 3.7),
            "SLOPE": lambda lam: penalties.SLOPE(lam * slope_weights(p)),
            "WeightedGroupL2": lambda lam: penalties.WeightedGroupL2(
                lam, np.full(p // GROUP, np.sqrt(GROUP)), positive=False, **layout
            ),
        }
        if solver == "PDCD_WS":
            one = more.PDCD_WS(max_iter=1000, max_epochs=5000)
            lams = lams * len(y)  # its Pinball is a sum over the rows
        elif solver == "FISTA":
            one = solvers.FISTA(max_iter=1000, opt_strategy="fixpoint")
        else:
            one = getattr(solvers, solver)(max_iter=200, fit_intercept=False)

        def solve(tol: float) -> np.ndarray:
            one.tol = tol * lams[0]
            w, coefs = np.zeros(p), []
            for lam in lams:
                inside = np.flatnonzero(w)
                w = one.solve(X, y, loss, makers[penalty](lam), w, X[:, inside] @ w[inside])[0]
                coefs.append(w.copy())
            return np.array(coefs)

        return solve

    return prepare


def scikit_learn(name: str, **given: Any):
    def prepare(X, y, lams):
        from sklearn import linear_model

        def solve(tol: float) -> np.ndarray:
            coefs = []
            for lam in lams:
                options = dict(given)
                if name != "QuantileRegressor":
                    options |= {"tol": tol, "max_iter": 10_000}
                model = getattr(linear_model, name)(alpha=lam, fit_intercept=False, **options)
                coefs.append(model.fit(X, y).coef_)
            return np.array(coefs)

        return solve

    return prepare


HIGHS = scikit_learn("QuantileRegressor", quantile=LEVEL, solver="highs")
NEWTON = {"solver": "newton-cholesky"}
ROWS = {
    "MCP": Row(
        "numbers", squared, mcp, lambda lib, p: (lib.MCP(gamma=3.0), lib.SquaredError()),
        {"skglm": skglm_path("Quadratic", "MCPenalty")}, convex=False,
    ),
    "SCAD": Row(
        "numbers", squared, scad, lambda lib, p: (lib.SCAD(gamma=3.7), lib.SquaredError()),
        {"skglm": skglm_path("Quadratic", "SCAD")}, convex=False,
    ),
    "SLOPE": Row(
        "numbers", squared, slope, lambda lib, p: (lib.SLOPE(weights=slope_weights(p)), lib.SquaredError()),
        {"skglm": skglm_path("Quadratic", "SLOPE", "FISTA")},
    ),
    "quantile": Row(
        "numbers", pinball, l1, lambda lib, p: (lib.L1(), lib.Quantile(LEVEL)),
        {"skglm": skglm_path("Pinball", "L1", "PDCD_WS"), "scikit-learn": HIGHS},
    ),
    "Cox": Row(
        "times", cox, l1, lambda lib, p: (lib.L1(), lib.Cox()),
        {"skglm": skglm_path("Cox", "L1", "ProxNewton")},
    ),
    "groups, logistic": Row(
        "labels", logistic, groups,
        lambda lib, p: (lib.GroupL1(groups=np.arange(p) // GROUP), lib.Logistic()),
        {"skglm": skglm_path("LogisticGroup", "WeightedGroupL2", "GroupProxNewton")},
    ),
    "groups, Poisson": Row(
        "counts", poisson, groups,
        lambda lib, p: (lib.GroupL1(groups=np.arange(p) // GROUP), lib.Poisson()),
        {"skglm": skglm_path("PoissonGroup", "WeightedGroupL2", "GroupProxNewton")},
    ),
    "Poisson": Row(
        "counts", poisson, l1, lambda lib, p: (lib.L1(), lib.Poisson()),
        {"skglm": skglm_path("Poisson", "L1", "ProxNewton")},
    ),
    "Gamma": Row(
        "costs", gamma, l1, lambda lib, p: (lib.L1(), lib.Gamma()),
        {"skglm": skglm_path("Gamma", "L1", "ProxNewton")},
    ),
    "Gamma, ridge": Row(
        "costs", gamma, ridge, lambda lib, p: (lib.Ridge(), lib.Gamma()),
        {
            "scikit-learn": scikit_learn("GammaRegressor", **NEWTON),
            "its L-BFGS": scikit_learn("GammaRegressor", solver="lbfgs"),
        },
    ),
    "Tweedie, ridge": Row(
        "costs", tweedie, ridge, lambda lib, p: (lib.Ridge(), lib.Tweedie(1.5)),
        {
            "scikit-learn": scikit_learn("TweedieRegressor", power=1.5, link="log", **NEWTON),
            "its L-BFGS": scikit_learn("TweedieRegressor", power=1.5, link="log", solver="lbfgs"),
        },
    ),
}  # fmt: skip


# --- The comparison ----------------------------------------------------------------------------


def compare(name: str, shape: tuple[int, int], limit: float) -> dict[str, Any]:
    """Seconds of CPU of each solver, and how far its best objective is above the least."""
    import l1jax

    row = ROWS[name]
    X, y = design(*shape, row.target)
    pen, loss = row.ours(l1jax, shape[1])
    top = 1.0
    if row.penalty is not ridge:
        top = float(l1jax.lambda_max(X, y, pen, loss=loss, fit_intercept=False))
    lams = top * RATIO ** np.linspace(0, 1, N_LAMS)
    solvers = {"l1jax": l1jax_path(row, X, y, lams)}
    solvers |= {peer: prepare(X, y, lams) for peer, prepare in row.peers.items()}
    runs = {solver: ladder(solve, limit) for solver, solve in solvers.items()}
    values = {s: [objectives(row, X, y, lams, c) for _, _, c in tried] for s, tried in runs.items()}
    least = np.min([v for each in values.values() for v in each], axis=0)
    found = {}
    for solver, tried in runs.items():
        if not tried:
            found[solver] = {"seconds": None, "above": None}
            continue
        own = np.min(values[solver], axis=0)
        bound = (least if row.convex else own) * (1 + WITHIN) + 1e-12
        good = [i for i, value in enumerate(values[solver]) if (value <= bound).all()]
        above = float(np.max(own / least - 1))
        seconds = None
        if good:
            tol, seconds, _ = tried[good[0]]
            seconds = min(seconds, timed(lambda s=solver, t=tol: solvers[s](t))[0])
        found[solver] = {"seconds": seconds, "above": above}
    return found


def ladder(solve: Callable[[float], np.ndarray], limit: float) -> list[tuple[float, float, Any]]:
    """Runs from loose tolerances to tight ones, each as (tolerance, seconds, coefficients)."""
    tried: list[tuple[float, float, Any]] = []
    try:
        solve(TOLERANCES[0])  # compiles
        for tol in TOLERANCES:
            seconds, coefs = timed(lambda tol=tol: solve(tol))
            tried.append((tol, seconds, coefs))
            if seconds > limit:
                break
    except Exception as error:  # a peer that fails has no number
        print(f"  {type(error).__name__}: {str(error)[:100]}")
    return tried


def objectives(row: Row, X, y, lams, coefs) -> np.ndarray:
    return np.array(
        [
            row.loss(y, X @ b).mean() + row.penalty(b, lam)
            for lam, b in zip(lams, coefs, strict=True)
        ]
    )


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        begin = time.process_time()
        found = work()
        return time.process_time() - begin, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="tiny shapes")
    parser.add_argument("--row", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--shape", nargs=2, type=int, metavar=("N", "P"))
    parser.add_argument("--limit", type=float, default=20.0, help="seconds of CPU of a run")
    parser.add_argument("--json", type=Path, default=HERE / "output" / "family.json")
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    machine = report.machine()
    print(report.machine_line(machine))
    shapes = [tuple(arguments.shape)] if arguments.shape else SHAPES
    result = {}
    for shape in [(30, 60), (60, 30)] if arguments.short else shapes:
        for name in arguments.row:
            found = compare(name, shape, arguments.limit)
            result[f"{name}, {shape[0]} × {shape[1]}"] = found
            said = (
                f"{solver} {one['seconds']:.3g} s" if one["seconds"] else f"{solver} –"
                for solver, one in found.items()
            )
            above = (
                f"{one['above']:.0e}" if one["above"] is not None else "–" for one in found.values()
            )
            print(
                f"{name}, {shape}: {', '.join(said)}; above the least {', '.join(above)}",
                flush=True,
            )
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps({"machine": machine, "rows": result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
