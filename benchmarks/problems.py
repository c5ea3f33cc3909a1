"""The problems: each a small function with a fixed seed, and a grid of strengths that goes with it.

All are without intercept. Columns are centred with unit variance unless a problem says otherwise.
With `short` the shapes are tiny: every path of the code, and nothing to be learnt about time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse

import certificate


@dataclasses.dataclass(frozen=True)
class Problem:
    """minimise  mean loss(y, Xβ) + λ R(β)  at each of `lams`, which descend."""

    name: str
    what: str
    X: Any  # (n, p), NumPy or scipy.sparse
    y: np.ndarray
    lams: np.ndarray
    loss: str = "squared"  # or "logistic", y in {0, 1}; "multinomial", y in {0 … K−1}, β (p, K)
    penalty: str = "l1"  # or "elastic_net", "nonnegative", "group"
    l1_ratio: float = 1.0
    weights: np.ndarray | None = None  # per feature; per group for "group"
    groups: np.ndarray | None = None  # one id per feature, ascending

    @property
    def coef_shape(self) -> tuple[int, ...]:
        p = self.X.shape[1]
        return (p, int(self.y.max()) + 1) if self.loss == "multinomial" else (p,)

    @property
    def is_tall(self) -> bool:
        return self.X.shape[0] > self.X.shape[1] and not scipy.sparse.issparse(self.X)

    def other_values(self) -> Problem:
        """The same shapes with other targets, and so another grid."""
        rng = np.random.default_rng(1)
        if self.loss == "logistic":
            y = np.where(rng.random(len(self.y)) < 0.05, 1 - self.y, self.y)
        elif self.loss == "multinomial":
            y = np.where(rng.random(len(self.y)) < 0.05, rng.permutation(self.y), self.y)
        else:
            y = self.y + 0.1 * self.y.std() * rng.standard_normal(len(self.y))
        other = dataclasses.replace(self, y=y)
        return with_grid(other, self.lams[-1] / certificate.lambda_max(self), len(self.lams))


def with_grid(problem: Problem, ratio: float, n_lams: int) -> Problem:
    """The problem with log-spaced strengths from λmax down to λmax·ratio; one is λmax·ratio."""
    biggest = certificate.lambda_max(problem)
    lams = biggest * ratio ** np.linspace(1 if n_lams == 1 else 0, 1, n_lams)
    return dataclasses.replace(problem, lams=lams)


# --- Designs and targets ---------------------------------------------------------------------


def correlated(rng, n: int, p: int, rho: float = 0.5) -> np.ndarray:
    """Gaussian columns of which neighbours correlate by ρ, as in an autoregression."""
    X = rng.standard_normal((n, p))
    for j in range(1, p):
        X[:, j] = rho * X[:, j - 1] + np.sqrt(1 - rho**2) * X[:, j]
    return unit(X)


def expression(rng, n: int, p: int, block: int = 20) -> np.ndarray:
    """Blocks of columns that follow one factor each; in every other block they nearly tie."""
    blocks = -(-p // block)
    factors = np.repeat(rng.standard_normal((n, blocks)), block, axis=1)[:, :p]
    noise = np.repeat(np.where(np.arange(blocks) % 2, 1e-3, 0.6), block)[:p]
    return unit(factors + noise * rng.standard_normal((n, p)))


def discrete_expression(rng, n: int, p: int, block: int = 20) -> np.ndarray:
    """Expression in steps of a tenth; in every fourth block columns are equal."""
    X = np.round(expression(rng, n, p, block), 1)
    first = np.arange(p) // block * block
    return unit(np.where(first // block % 4 == 3, X[:, first], X))


def unit(X: np.ndarray) -> np.ndarray:
    X = X - X.mean(axis=0)
    return X / X.std(axis=0)


def linear_target(rng, X, active: int, snr: float = 3.0, positive: bool = False) -> np.ndarray:
    """Xβ of a few true coefficients, plus noise of a `snr`-th of its deviation; centred."""
    signal = X @ true_coefficients(rng, X.shape[1], active, positive)
    y = signal + signal.std() / snr * rng.standard_normal(len(signal))
    return y - y.mean()


def labels(rng, X, active: int) -> np.ndarray:
    signal = X @ true_coefficients(rng, X.shape[1], active)
    chance = 1 / (1 + np.exp(-3 * signal / signal.std()))
    return (rng.random(len(signal)) < chance).astype(float)


def class_labels(rng, X, active: int, classes: int) -> np.ndarray:
    """0 … K−1, each class with coefficients of its own."""
    beta = [true_coefficients(rng, X.shape[1], active) for _ in range(classes)]
    signal = X @ np.stack(beta, axis=1)
    return np.argmax(3 * signal / signal.std() + rng.gumbel(size=signal.shape), axis=1)


def true_coefficients(rng, p: int, active: int, positive: bool = False) -> np.ndarray:
    beta = np.zeros(p)
    size = rng.uniform(0.5, 2, active)
    where = rng.choice(p, active, replace=False)
    beta[where] = size if positive else size * rng.choice([-1, 1], active)
    return beta


# --- The problems ----------------------------------------------------------------------------


def simulated(name: str, n: int, p: int, what: str, short: bool, ratio=1e-2, **spec) -> Problem:
    """A correlated design; what is penalised and how comes with `spec`."""
    rng = np.random.default_rng(0)
    n, p = (30, 60) if short and n < p else (60, 30) if short else (n, p)
    rho, snr = spec.pop("rho", 0.5), spec.pop("snr", 3.0)
    X = correlated(rng, n, p, rho)
    active = min(50, p // 6)
    if spec.get("loss") == "logistic":
        y = labels(rng, X, active)
    else:
        y = linear_target(rng, X, active, snr, positive=spec.get("penalty") == "nonnegative")
    if spec.get("weights") == "random":
        spec["weights"] = rng.uniform(0.5, 2, p)
    if "groups" in spec:
        sizes = spec.pop("groups")(rng, p)
        spec |= {"groups": np.repeat(np.arange(len(sizes)), sizes), "weights": np.sqrt(sizes)}
    return finish(name, what, X, y, short, ratio, **spec)


def expressed(
    name: str, n: int, p: int, what: str, short: bool, ratio=1e-2, design=expression, **spec
) -> Problem:
    rng = np.random.default_rng(0)
    n, p = (30, 60) if short else (n, p)
    X, active, loss = design(rng, n, p), min(20, p // 6), spec.get("loss")
    if loss == "multinomial":
        y = class_labels(rng, X, active, spec.pop("classes"))
    else:
        y = (labels if loss == "logistic" else linear_target)(rng, X, active)
    return finish(name, what, X, y, short, ratio, **spec)


def finish(name, what, X, y, short: bool, ratio: float, n_lams: int = 100, **spec) -> Problem:
    problem = Problem(name, what, X, y, np.ones(1), **spec)
    return with_grid(problem, ratio, min(5, n_lams) if short else n_lams)


def sparse(name: str, what: str, short: bool) -> Problem:
    rng = np.random.default_rng(0)
    n, p, density = (60, 90, 0.2) if short else (20_000, 50_000, 1e-3)
    draw = rng.standard_normal
    X = scipy.sparse.random(n, p, density, format="csc", random_state=rng, data_rvs=draw)
    y = linear_target(rng, X, min(50, p // 6))
    return finish(name, what, X, y, short, 1 / 50)


def digits(name: str, what: str, short: bool) -> Problem:
    """scikit-learn's images of digits; pixels that are the same in all are left out."""
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    X, y = (X[:60, 20:40], y[:60]) if short else (X, y)
    X = unit(X[:, X.std(axis=0) > 0])
    return finish(name, what, X, y, short, 1e-2, n_lams=20, loss="multinomial")


def fives(rng, p: int) -> np.ndarray:
    return np.full(p // 5, 5)


def unequal(rng, p: int) -> np.ndarray:
    """200 groups (or p/5 if fewer) of sizes that differ by a factor of up to fifty."""
    count = min(200, p // 5)
    extra = rng.multinomial(p - count, rng.dirichlet(np.full(count, 0.7)))
    return extra + 1


def duplicated(name: str, what: str, short: bool) -> Problem:
    rng = np.random.default_rng(0)
    half = correlated(rng, 30 if short else 200, 30 if short else 1000)
    X = np.hstack([half, half])
    return finish(name, what, X, linear_target(rng, half, 5), short, 1e-2)


def scaled(name: str, what: str, short: bool) -> Problem:
    rng = np.random.default_rng(0)
    X = correlated(rng, 30 if short else 200, 60 if short else 2000)
    y = linear_target(rng, X, 10)
    X = X * 10 ** rng.uniform(-4, 4, X.shape[1])
    return finish(name, what, X, y, short, 1e-2)


def spikes(name: str, what: str, short: bool) -> Problem:
    rng = np.random.default_rng(0)
    n = 60 if short else 2000
    at = np.arange(n)
    X = np.exp(-0.5 * ((at[:, None] - at) / 5.0) ** 2)
    truth = true_coefficients(rng, n, n // 40, positive=True)
    y = X @ truth + 0.02 * rng.standard_normal(n)
    return finish(name, what, X, y, short, 1e-2, penalty="nonnegative")


LOGISTIC = {"loss": "logistic", "ratio": 1 / 50}

PROBLEMS: dict[str, tuple[Callable[..., Problem], str, dict[str, Any]]] = {
    "ar-200x2000": (simulated, "lasso, AR(0.5)", {"n": 200, "p": 2000}),
    "ar-500x10000": (simulated, "lasso, AR(0.5)", {"n": 500, "p": 10_000}),
    "expression-63x2308": (expressed, "lasso, blocks, near ties", {"n": 63, "p": 2308}),
    "expression-72x7129": (expressed, "lasso, blocks, near ties", {"n": 72, "p": 7129}),
    "expression-64x6830": (
        expressed,
        "lasso, steps of 0.1, ties",
        {"n": 64, "p": 6830, "design": discrete_expression},
    ),
    "fit-500x10000": (
        simulated,
        "one fit at λmax/10",
        {"n": 500, "p": 10_000, "ratio": 0.1, "n_lams": 1},
    ),
    "tall-20000x1000": (simulated, "lasso, AR(0.5)", {"n": 20_000, "p": 1000}),
    "tall-100000x500": (simulated, "lasso, AR(0.5)", {"n": 100_000, "p": 500}),
    "sparse-20000x50000": (sparse, "lasso, density 1e-3, to λmax/50", {}),
    "logistic-63x2308": (expressed, "logistic, to λmax/50", {"n": 63, "p": 2308, **LOGISTIC}),
    "logistic-64x6830": (
        expressed,
        "logistic, ties, to λmax/50",
        {"n": 64, "p": 6830, "design": discrete_expression, **LOGISTIC},
    ),
    "logistic-500x5000": (simulated, "logistic, to λmax/50", {"n": 500, "p": 5000, **LOGISTIC}),
    "multinomial-digits": (digits, "digits, 10 classes, 20 strengths", {}),
    "multinomial-63x2308": (
        expressed,
        "4 classes, to λmax/50",
        {"n": 63, "p": 2308, "loss": "multinomial", "classes": 4, "ratio": 1 / 50},
    ),
    "group-500x10000": (
        simulated,
        "groups of 5",
        {"n": 500, "p": 10_000, "penalty": "group", "groups": fives},
    ),
    "group-unequal-500x10000": (
        simulated,
        "200 unequal groups",
        {"n": 500, "p": 10_000, "penalty": "group", "groups": unequal},
    ),
    "elastic-net-500x10000": (
        simulated,
        "elastic net, ρ = 0.5",
        {"n": 500, "p": 10_000, "penalty": "elastic_net", "l1_ratio": 0.5},
    ),
    "elastic-net-63x2308": (
        expressed,
        "elastic net, ρ = 0.5",
        {"n": 63, "p": 2308, "penalty": "elastic_net", "l1_ratio": 0.5},
    ),
    "nonnegative-500x10000": (
        simulated,
        "non-negative lasso",
        {"n": 500, "p": 10_000, "penalty": "nonnegative"},
    ),
    "weighted-500x10000": (
        simulated,
        "lasso, weights in [0.5, 2]",
        {"n": 500, "p": 10_000, "weights": "random"},
    ),
    "hard-duplicates": (duplicated, "every column twice, 200×2000", {}),
    "hard-rho-0.99": (simulated, "AR(0.99)", {"n": 200, "p": 2000, "rho": 0.99}),
    "hard-wide": (simulated, "p = 20 n, noisy", {"n": 200, "p": 4000, "snr": 0.5}),
    "hard-small-lambda": (
        simulated,
        "200×2000, to λmax/1000",
        {"n": 200, "p": 2000, "ratio": 1e-3},
    ),
    "hard-scales": (scaled, "columns over eight decades, 200×2000", {}),
    "hard-spikes": (spikes, "blurred spikes, non-negative, n = p = 2000", {}),
}


HARD_GAP = 1e-6  # the only gap that is asked of the hard cases


def is_hard(name: str) -> bool:
    """Whether it is for l1jax alone, which must end, certified or saying that it is not."""
    return name.startswith("hard-")


def make(name: str, short: bool = False) -> Problem:
    """The problem of this name."""
    function, what, shape = PROBLEMS[name]
    return function(name=name, what=what, short=short, **shape)
