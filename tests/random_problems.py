"""Random problems, and a judge of what `fit` and `path` say of them that shares no code with l1jax.

    python tests/random_problems.py 5000            # some hours
    python tests/random_problems.py 5000 --only 17  # one of them again
    python tests/random_problems.py 500 --newer     # of `NEWER_LOSSES` and `NEWER_PENALTIES`

Designs hold duplicates, constants, columns that are tiny, huge, nearly equal or of rank three, zeros and
ones, and scales over eight decades; shapes run from one row or one column to more columns than rows. Every
loss meets every penalty, in both precisions, with and without an intercept, scaling, weights and offsets.

A problem is judged by NumPy in float64 on the coefficients as returned. It fails where a call raises or
warns of anything but a solve that ends short, where a number is not finite, where CONVERGED stands above
`tol`, where the objective said is not that of the coefficients, where a long descent from there lowers it by
more than the gap that was said, where a solve takes more than five seconds once it is compiled, and where
PRECISION_LIMIT is said of a point that the descent, rounded as the coefficients are, lowers by more than
`tol` times the null deviance: there rounding was not the limit. Other fits that end with it are counted.
Of a penalty that is not convex no descent is taken: a short prox step must leave what is returned where it is.
`tests/test_random_problems.py` runs some in every build.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.optimize
import scipy.special

LOSSES = (
    "squared",
    "several",
    "huber",
    "quantile",
    "logistic",
    "probit",
    "hinge",
    "poisson",
    "negative binomial",
    "gamma",
    "tweedie",
    "inverse gaussian",
    "multinomial",
    "cox",
)
PENALTIES = (
    "l1",
    "weighted l1",
    "elastic net",
    "ridge",
    "non-negative",
    "group",
    "sparse group",
    "ball",
)
# Kept apart, so that the numbers of problems stay what they were.
NEWER_LOSSES = ("student t", "square root", "ordinal", "cox strata", "mixed")
NEWER_PENALTIES = ("slope", "l1 inf", "limits", "mcp")
SHAPES = ((30, 12), (12, 30), (30, 30), (60, 80), (1, 6), (40, 1), (2, 3))
SECONDS = 5.0
CLASSES = 3
LEVEL = 0.3  # of quantiles
POWER = 1.5  # of Tweedie's variance
DF = 3.0  # of Student's t
LIMIT = 0.2  # of coefficients, from -LIMIT to 2 LIMIT, in units of the largest entry of y
GAMMA = 3.0  # of MCP
COX = ("cox", "cox strata")
# Losses that are no sum over rows: their functions return what they are, and its slope with the weights.
OF_ALL_ROWS = (*COX, "square root", "ordinal")
TOGETHER = ("ball", "slope")  # penalties whose prox takes one step for all


@dataclasses.dataclass(frozen=True)
class Kind:
    """What decides which programs are compiled: problems of one kind share them."""

    shape: tuple[int, int]
    loss: str
    penalty: str
    dtype: str
    call: str
    fit_intercept: bool
    standardize: bool

    def __str__(self) -> str:
        options = [name for name in ("fit_intercept", "standardize") if getattr(self, name)]
        return " ".join(
            [
                f"{self.shape[0]}×{self.shape[1]}",
                self.loss,
                self.penalty,
                self.dtype,
                self.call,
                *options,
            ]
        )


@dataclasses.dataclass
class Case:
    """One problem, as its user has it."""

    kind: Kind
    seed: int
    design: str
    x: np.ndarray
    y: np.ndarray
    weights: np.ndarray | None
    offset: np.ndarray | None
    penalty_weights: np.ndarray | None  # of features or groups, relative to the strength
    share: float  # of the critical strength

    def __str__(self) -> str:
        extra = [n for n in ("weights", "offset") if getattr(self, n) is not None]
        return f"#{self.seed} {self.kind}, {self.design} {' '.join(extra)}, share {self.share:g}"


# Data.


def kinds(count: int, seed: int = 0, newer: bool = False) -> list[Kind]:
    """So many kinds, in which every loss meets every penalty as evenly as can be."""
    rng = np.random.default_rng(seed)
    pairs: list[tuple[str, str]] = [(loss, pen) for loss in LOSSES for pen in PENALTIES]
    if newer:
        losses, penalties = LOSSES + NEWER_LOSSES, PENALTIES + NEWER_PENALTIES
        every = [(loss, pen) for loss in losses for pen in penalties]
        pairs = [pair for pair in every if pair not in pairs]
        pairs = [pair for pair in pairs if pair[1] != "slope" or pair[0] not in SEVERAL]
    found = []
    while len(found) < count:
        for k in rng.permutation(len(pairs)):
            shape = SHAPES[rng.choice(len(SHAPES), p=[0.2, 0.2, 0.2, 0.2, 0.05, 0.1, 0.05])]
            dtype = rng.choice(["float64", "float32"])
            call = rng.choice(["fit", "path"])
            found.append(
                Kind(shape, *pairs[k], str(dtype), str(call), *map(bool, rng.random(2) < 0.5))
            )
    return found[:count]


def draw(kind: Kind, seed: int) -> Case:
    """A problem of some kind."""
    rng = np.random.default_rng([seed, 23])
    n, p = kind.shape
    design = str(rng.choice(list(DESIGNS)))
    x = DESIGNS[design](rng, n, p)
    scale = np.abs(x).max(axis=0)
    level = (x / np.where(scale > 0, scale, 1)) @ (
        rng.normal(size=p) * (rng.random(p) < max(0.2, 2 / p))
    )
    level = (level - level.mean()) / (level.std() or 1) * rng.choice([0.5, 1, 3])
    weights = None
    if rng.random() < 0.4:
        weights = rng.choice([rng.uniform(0.1, 2, n), rng.integers(0, 3, n) + (np.arange(n) < 2)])
    offset = rng.normal(size=n) if rng.random() < 0.3 else None
    y = _target(kind.loss, rng, level if offset is None else level + offset)
    if kind.loss == "ordinal":  # each class has a row, if there are as many
        y[:CLASSES] = np.arange(CLASSES)[:n]
        weights = None
    if kind.loss in ("squared", "several") and rng.random() < 0.2:
        y = y * rng.choice([1e-6, 1e6])
    penalty_weights = _draw_weights(kind.penalty, rng, p)
    if kind.penalty == "ball":
        share = 10 ** rng.uniform(-2, 1.5)
    else:
        share = float(rng.choice([1.05, 0.7, 0.3, 0.1, 0.01, 1e-3]))
    x, y = x.astype(kind.dtype), y.astype(kind.dtype)
    return Case(kind, seed, design, x, y, weights, offset, penalty_weights, share)


def _target(loss: str, rng: np.random.Generator, level: np.ndarray) -> np.ndarray:
    n = len(level)
    if loss == "squared":
        return level + 0.5 * rng.normal(size=n)
    if loss == "several":
        return np.stack([level, -level, 0 * level], axis=1) + 0.5 * rng.normal(size=(n, 3))
    if loss in ("huber", "quantile", "student t", "square root"):
        return level + rng.standard_t(1.5, size=n)
    if loss in ("logistic", "probit", "hinge"):
        return (rng.random(n) < scipy.special.expit(2 * level)).astype(float)
    mean = np.exp(np.clip(level, -5, 5))
    if loss == "poisson":
        return rng.poisson(mean).astype(float)
    if loss == "mixed":
        labels = rng.random(n) < scipy.special.expit(2 * level)
        return np.stack([level + 0.5 * rng.normal(size=n), labels, rng.poisson(mean)], axis=1)
    if loss == "ordinal":
        return np.digitize(level + rng.logistic(size=n), [-0.5, 1.0]).astype(float)
    if loss == "negative binomial":
        return rng.poisson(mean * rng.exponential(size=n)).astype(float)
    if loss in ("gamma", "inverse gaussian"):
        return mean * rng.gamma(2, 0.5, n) + 1e-3
    if loss == "tweedie":  # also zeros
        return mean * rng.gamma(2, 0.5, n) * (rng.random(n) < 0.8)
    if loss == "multinomial":
        noise = rng.gumbel(size=(n, CLASSES))
        return np.argmax(np.stack([level, -level, 0 * level], axis=1) + noise, axis=1).astype(float)
    times = np.round(rng.exponential(np.exp(-np.clip(level, -5, 5))) + 0.05, 1)
    return np.stack([times, (rng.random(n) < 0.7) | (np.arange(n) < 1)], axis=1).astype(float)


def _draw_weights(penalty: str, rng: np.random.Generator, p: int) -> np.ndarray | None:
    if penalty == "weighted l1":
        penalty_weights = rng.uniform(0.3, 2, p)
        penalty_weights[rng.random(p) < 0.1] = np.inf
        return penalty_weights
    return None


def _normal(rng, n, p):
    return rng.normal(size=(n, p))


def _duplicates(rng, n, p):
    return _normal(rng, n, p)[:, np.arange(p) % max(p // 2, 1)]


def _near_copies(rng, n, p):
    return _duplicates(rng, n, p) + 10.0 ** rng.integers(-9, -2) * _normal(rng, n, p)


def _constants(rng, n, p):
    x = _normal(rng, n, p)
    some = rng.random(p) < 0.3
    x[:, some] = rng.choice([0.0, 1.0, 0.1, -7.3, 1e4], size=some.sum())
    return x


def _decades(rng, n, p):
    return _normal(rng, n, p) * 10 ** rng.uniform(-4, 4, p)


def _low_rank(rng, n, p):
    return rng.normal(size=(n, 3)) @ rng.normal(size=(3, p))


def _sparse(rng, n, p):
    return _normal(rng, n, p) * (rng.random((n, p)) < 0.2)


def _levels(rng, n, p):
    return _normal(rng, n, p) + 10 ** rng.uniform(0, 2.5, p)


def _correlated(rng, n, p):
    return _normal(rng, n, p) + 5 * rng.normal(size=(n, 1))


def _one_hot(rng, n, p):
    return np.eye(p)[rng.integers(0, p, n)]


def _heavy(rng, n, p):
    return np.clip(rng.standard_t(1, size=(n, p)), -1e4, 1e4)


DESIGNS: dict[str, Callable[..., np.ndarray]] = {
    "normal": _normal,
    "duplicates": _duplicates,
    "near copies": _near_copies,
    "constants": _constants,
    "tiny": lambda *a: 1e-8 * _normal(*a),
    "huge": lambda *a: 1e8 * _normal(*a),
    "eight decades": _decades,
    "zeros and ones": lambda rng, n, p: (rng.random((n, p)) < 0.3).astype(float),
    "low rank": _low_rank,
    "sparse": _sparse,
    "levels": _levels,
    "correlated": _correlated,
    "one-hot": _one_hot,
    "heavy tails": _heavy,
    "integers": lambda rng, n, p: rng.integers(-2, 3, (n, p)).astype(float),
}


# The judge.


class Judge:
    """The objective of a problem and a descent on it, by NumPy in some precision."""

    def __init__(self, case: Case, dtype: Any = np.float64):
        kind = case.kind
        self.kind, self.dtype = kind, dtype
        self.x = case.x.astype(dtype)
        n = len(self.x)
        weights = np.ones(n) if case.weights is None else case.weights.astype(kind.dtype)
        self.s = weights.astype(dtype) / weights.astype(dtype).sum()
        offset = np.zeros(n) if case.offset is None else case.offset.astype(kind.dtype)
        self.y = case.y.astype(dtype)
        self.responses: tuple[int, ...] = ()
        if kind.loss in ("several", "mixed"):
            self.responses = self.y.shape[1:]
        if kind.loss == "multinomial":
            self.responses = (CLASSES,)
            self.y = np.eye(CLASSES)[case.y.astype(int)].astype(dtype)
        self.offset = offset.astype(dtype).reshape(n, *np.ones(len(self.responses), int))
        self.fit_intercept = kind.fit_intercept and kind.loss not in (*COX, "ordinal")
        self.centre = self.s @ self.x
        spread = np.sqrt(self.s @ (self.x - self.centre) ** 2)
        eps = np.finfo(kind.dtype).eps
        constant = spread <= 10 * eps * np.abs(self.x[self.s > 0]).max(axis=0)
        self.unit = np.where(constant, 1, spread) if kind.standardize else np.ones(len(spread))
        is_moved = kind.standardize or self.fit_intercept or kind.loss in (*COX, "ordinal")
        self.gone = constant if is_moved else np.zeros(len(spread), bool)
        if case.penalty_weights is not None:
            self.gone = self.gone | np.isinf(case.penalty_weights)
        penalty_weights = (
            np.ones(len(spread)) if case.penalty_weights is None else case.penalty_weights
        )
        self.penalty_weights = np.where(np.isinf(penalty_weights), 0, penalty_weights).astype(dtype)
        self.ids = _groups(len(spread))
        self.sorted_weights = _sorted_weights(len(spread)).astype(dtype)
        self.limit = _limit(case)

    def smooth(self, beta: np.ndarray, intercept: np.ndarray) -> tuple[Any, np.ndarray]:
        """The loss, and its slope at each row."""
        eta = self.x @ beta + intercept + self.offset
        rows, slope = _LOSSES[self.kind.loss](self.y, eta, self.s)
        s = self.s.reshape(-1, *np.ones(eta.ndim - 1, int))
        if self.kind.loss in OF_ALL_ROWS:
            return rows, slope
        counts = self.s > 0
        return np.sum(self.s[counts] * rows[counts]), np.where(s > 0, s * slope, 0)

    def penalty(self, beta: np.ndarray, lam: Any) -> Any:
        """R at coefficients on the scale of X."""
        u = self.unit.reshape(-1, *np.ones(beta.ndim - 1, int)) * beta
        sizes = np.abs(u.T) * self.penalty_weights
        group = np.sqrt(
            np.array([np.sum(u[self.ids == g] ** 2) for g in np.unique(self.ids)], self.dtype)
        )
        roots = np.sqrt(np.bincount(self.ids)).astype(self.dtype)
        kind = self.kind.penalty
        if kind in ("l1", "weighted l1", "non-negative", "limits"):
            return lam * np.sum(sizes)
        if kind == "slope":
            return lam * np.sum(self.sorted_weights * np.sort(np.abs(u))[::-1])
        if kind == "l1 inf":
            return lam * sum(np.abs(u[self.ids == g]).max() for g in np.unique(self.ids))
        if kind == "mcp":
            size = np.minimum(sizes, GAMMA * lam)
            return np.sum(lam * size - size**2 / (2 * GAMMA))
        if kind == "elastic net":
            return lam * np.sum(0.5 * sizes + 0.25 * sizes**2)
        if kind == "ridge":
            return lam * 0.5 * np.sum(sizes**2)
        if kind == "group":
            return lam * roots @ group
        if kind == "sparse group":
            return lam * (0.5 * np.sum(sizes) + 0.5 * roots @ group)
        return self.dtype(0)

    def objective(self, beta: np.ndarray, intercept: np.ndarray, lam: Any) -> Any:
        beta, intercept = np.asarray(beta, self.dtype), np.asarray(intercept, self.dtype)
        return self.smooth(beta, intercept)[0] + self.penalty(beta, self.dtype(lam))

    def prox(self, z: np.ndarray, step: np.ndarray, lam: Any) -> np.ndarray:
        """In the scale of σβ, with one step per feature that is the same within a group."""
        kind, t = (
            self.kind.penalty,
            (lam * step * self.penalty_weights).reshape(-1, *np.ones(z.ndim - 1, int)),
        )
        if kind in ("l1", "weighted l1"):
            z = z - np.clip(z, -t, t)
        elif kind == "elastic net":
            z = (z - np.clip(z, -t / 2, t / 2)) / (1 + t / 2)
        elif kind == "ridge":
            z = z / (1 + t)
        elif kind == "non-negative":
            z = np.maximum(z - t, 0)
        elif kind == "limits":
            unit = self.unit.reshape(-1, *np.ones(z.ndim - 1, int))
            z = np.clip(z - np.clip(z, -t, t), -self.limit * unit, 2 * self.limit * unit)
        elif kind == "slope":
            z = _sorted_prox(z, t * self.sorted_weights)
        elif kind == "l1 inf":
            z = z.copy()
            for g in np.unique(self.ids):
                some = self.ids == g
                z[some] -= _onto_ball(z[some], lam * step[some][0])
        elif kind == "mcp":  # of steps below γ
            soft = z - np.clip(z, -t, t)
            short = step.reshape(-1, *np.ones(z.ndim - 1, int)) / GAMMA
            z = np.where(np.abs(z) > GAMMA * lam, z, soft / (1 - short))
        elif kind in ("group", "sparse group"):
            share = 1.0
            if kind == "sparse group":
                z, share = z - np.clip(z, -t / 2, t / 2), 0.5
            z = z.copy()
            for g in np.unique(self.ids):
                some = self.ids == g
                size = np.sqrt(np.sum(z[some] ** 2))
                least = share * lam * step[some][0] * np.sqrt(some.sum())
                z[some] *= 0 if size <= least else 1 - least / size
        else:
            z = _onto_ball(z, lam)
        z[self.gone] = 0
        return z

    def descend(
        self, beta: np.ndarray, intercept: np.ndarray, lam: Any, steps: int = 1000
    ) -> tuple[np.ndarray, np.ndarray, Any]:
        """The best of an accelerated proximal descent, and of L-BFGS where no coefficient changes sign."""
        beta, intercept = np.array(beta, self.dtype), np.array(intercept, self.dtype)
        lam = self.dtype(lam)
        best = beta, intercept, self.objective(beta, intercept, lam)
        for part in (self._accelerated, self._on_face, self._accelerated):
            if part == self._on_face and self.dtype != np.float64:
                continue
            beta, intercept = part(best[0], best[1], lam, steps)
            value = self.objective(beta, intercept, lam)
            if value < best[2] and self._allowed(beta, lam):
                best = beta, intercept, value
        return best

    def moves(self, beta: np.ndarray, intercept: np.ndarray, lam: Any) -> list[str]:
        """What is wrong where a short prox step moves a stationary point, in units of the null gradient."""
        x, dtype = self._in_unit(), self.kind.dtype
        unit = self.unit.reshape(-1, *np.ones(beta.ndim - 1, int))
        z, level = unit * beta, intercept + (self.centre @ beta if self.fit_intercept else 0)
        norms = np.sqrt(self.s @ x**2)
        gradient = x.T @ self._at(x, z, level)[1]
        step = 1e-3 * GAMMA / np.maximum(norms.max(initial=0) ** 2, 1) * np.ones(len(norms))
        moved = (self.prox(z - step[0] * gradient, step, lam) - z) / step[0]
        scale = max(np.abs(x.T @ self._at(x, 0 * z, level)[1]).max(initial=0), lam)
        most = np.abs(moved).max(initial=0) / scale
        rounding = np.finfo(dtype).eps * np.abs(z).max(initial=0) / step[0] / scale
        tol = 1e-5 if dtype == "float64" else 1e-2
        return [f"a prox step moves it by {most:.1e}"] if most > tol + 10 * rounding else []

    def _allowed(self, beta: np.ndarray, lam: Any) -> bool:
        if self.kind.penalty == "non-negative":
            return bool((beta >= 0).all())
        if self.kind.penalty == "limits":
            most = self.limit * (1 + 4 * np.finfo(self.kind.dtype).eps)
            return bool((beta >= -most).all() and (beta <= 2 * most).all())
        if self.kind.penalty == "ball":
            u = self.unit.reshape(-1, *np.ones(beta.ndim - 1, int)) * beta
            return bool(np.abs(u).sum() <= lam * (1 + 4 * np.finfo(self.kind.dtype).eps))
        return True

    def _accelerated(self, beta, intercept, lam, steps):
        """FISTA in units in which columns are centred and of norm one, by group at most one."""
        unit = self.unit.reshape(-1, *np.ones(beta.ndim - 1, int))
        z, x = self._in_unit(), self._in_unit()
        norms = np.sqrt(self.s @ x**2)
        if self.kind.penalty in ("group", "sparse group", "l1 inf"):
            norms = np.array([norms[self.ids == i].max() for i in self.ids], self.dtype)
        if self.kind.penalty in TOGETHER:
            norms = np.full_like(norms, norms.max(initial=0))
        norms = np.where(norms > 0, norms, 1)
        metric = norms**2
        z = unit * beta
        level = intercept + (self.centre @ beta if self.fit_intercept else 0)
        ahead, ahead_level, momentum = z, level, 1.0
        curvature = self.dtype(1)
        for _ in range(steps):
            value, slope = self._at(x, ahead, ahead_level)
            gradient = x.T @ slope
            drift = slope.sum(axis=0) if self.fit_intercept else 0 * level
            for _ in range(60):
                step = 1 / (curvature * metric)
                spread = step.reshape(-1, *np.ones(beta.ndim - 1, int))
                new = self.prox(ahead - spread * gradient, step, lam)
                new_level = ahead_level - drift / curvature
                d, e = new - ahead, new_level - ahead_level
                bound = value + np.sum(d * gradient) + np.sum(e * drift)
                bound += curvature / 2 * (np.sum(d**2 / spread) / curvature + np.sum(e**2))
                found = self._at(x, new, new_level)[0]
                if found <= bound + 1e-15 * abs(value):
                    break
                curvature = curvature * 2
            else:
                break
            if np.sum((ahead - new) * (new - z)) > 0:
                momentum = 1.0
            after = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
            share = (momentum - 1) / after
            ahead, ahead_level = new + share * (new - z), new_level + share * (new_level - level)
            moved = max(np.abs(new - z).max(initial=0), np.abs(new_level - level).max(initial=0))
            z, level, momentum = new, new_level, after
            curvature = curvature * 0.98
            if moved == 0:
                break
        beta = z / unit
        return beta, level - (self.centre @ beta if self.fit_intercept else 0)

    def _in_unit(self) -> np.ndarray:
        is_centred = self.fit_intercept or self.kind.loss in (*COX, "ordinal")
        x = (self.x - (self.centre if is_centred else 0)) / self.unit
        x[:, self.gone] = 0
        return x

    def _at(self, x, z, level):
        eta = x @ z + level + self.offset
        rows, slope = _LOSSES[self.kind.loss](self.y, eta, self.s)
        if self.kind.loss in OF_ALL_ROWS:
            return rows, slope
        s = self.s.reshape(-1, *np.ones(eta.ndim - 1, int))
        counts = self.s > 0
        return np.sum(self.s[counts] * rows[counts]), np.where(s > 0, s * slope, 0)

    def _on_face(self, beta, intercept, lam, steps):
        """L-BFGS-B on what is not zero, each coefficient on its side of it."""
        if self.kind.penalty in ("ball", *NEWER_PENALTIES) or not (beta != 0).any():
            return beta, intercept
        x = self._in_unit()
        at = beta != 0
        unit = np.broadcast_to(self.unit.reshape(-1, *np.ones(beta.ndim - 1, int)), beta.shape)
        norms = np.sqrt(self.s @ x**2)
        norms = np.where(norms > 0, norms, 1)
        scale = np.broadcast_to(norms.reshape(-1, *np.ones(beta.ndim - 1, int)), beta.shape)[at]
        level = intercept + (self.centre @ beta if self.fit_intercept else 0)
        start = np.concatenate([(unit * beta)[at] * scale, np.atleast_1d(level).ravel()])
        m = int(at.sum())

        def unpack(v):
            z = np.zeros(beta.shape)
            z[at] = v[:m] / scale
            return z, (v[m:].reshape(np.shape(level)) if self.fit_intercept else 0 * level)

        def fun(v):
            z, level_now = unpack(v)
            value, slope = self._at(x, z, level_now)
            gradient = x.T @ slope + self._slope(z, lam)
            ends = np.atleast_1d(slope.sum(axis=0)).ravel() if self.fit_intercept else 0 * v[m:]
            paid = self.penalty(z / unit, lam)
            return value + paid, np.concatenate([gradient[at] / scale, ends])

        sides = np.sign(start[:m])
        bounds = [(0, None) if side > 0 else (None, 0) for side in sides]
        bounds += [(None, None)] * (len(start) - m)
        options = {"maxiter": steps, "maxfun": 2 * steps, "ftol": 0, "gtol": 0, "maxcor": 30}
        with np.errstate(all="ignore"):
            found = scipy.optimize.minimize(
                fun, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options
            )
        z, level = unpack(found.x)
        beta = z / unit
        return beta, level - (self.centre @ beta if self.fit_intercept else 0)

    def _slope(self, z, lam):
        """∇R where it has one."""
        t = (lam * self.penalty_weights).reshape(-1, *np.ones(z.ndim - 1, int))
        kind = self.kind.penalty
        if kind in ("l1", "weighted l1", "non-negative"):
            return t * np.sign(z)
        if kind == "elastic net":
            return t * (0.5 * np.sign(z) + 0.5 * z)
        if kind == "ridge":
            return t * z
        share = 0.5 if kind == "sparse group" else 1.0
        out = lam * (1 - share) * np.sign(z)
        for g in np.unique(self.ids):
            some = self.ids == g
            size = np.sqrt(np.sum(z[some] ** 2))
            if size > 0:
                out[some] += share * lam * np.sqrt(some.sum()) * z[some] / size
        return out


def _groups(p: int) -> np.ndarray:
    return np.arange(p) // 3


SEVERAL = ("several", "multinomial", "mixed")  # predictors of a row


def _sorted_weights(p: int) -> np.ndarray:
    return np.linspace(1, 0.3, p)


def _limit(case: Case) -> Any:
    """That of coefficients on the scale of X, which such numbers can reach."""
    size = np.abs(case.y).max() / (np.abs(case.x).max() or 1)
    return case.x.dtype.type(LIMIT * (size or 1))


def _sorted_prox(z: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """By pooling adjacent violators of the sorted sizes less their weights."""
    order = np.argsort(-np.abs(z))
    pooled = scipy.optimize.isotonic_regression(np.abs(z)[order] - weights, increasing=False).x
    out = np.zeros_like(z)
    out[order] = np.maximum(pooled, 0)
    return np.sign(z) * out


def _onto_ball(z: np.ndarray, radius: Any) -> np.ndarray:
    sizes = np.sort(np.abs(z).ravel())[::-1]
    if sizes.sum() <= radius:
        return z.copy()
    sums = (np.cumsum(sizes) - radius) / np.arange(1, len(sizes) + 1)
    t = max(sums[np.flatnonzero(sizes > sums)[-1]], 0)
    return z - np.clip(z, -t, t)


def _squared(y, eta, s):
    rows = 0.5 * (eta - y) ** 2
    return rows if rows.ndim == 1 else rows.sum(axis=1), eta - y


def _huber(y, eta, s):
    r = eta - y
    inner = np.minimum(np.abs(r), 1)
    return inner * (np.abs(r) - 0.5 * inner), np.clip(r, -1, 1)


def _logistic(y, eta, s):
    m = (1 - 2 * y) * eta
    small = np.exp(-np.abs(m))
    probability = np.where(m > 0, 1 / (1 + small), small / (1 + small))
    return np.maximum(m, 0) + np.log1p(small), (1 - 2 * y) * probability


def _quantile(y, eta, s):
    r = y - eta
    return np.maximum(LEVEL * r, (LEVEL - 1) * r), np.where(r >= 0, -LEVEL, 1 - LEVEL)


def _probit(y, eta, s):
    side = 2 * y - 1
    log_p = scipy.special.log_ndtr((side * eta).astype(float))
    ratio = np.exp(-0.5 * eta.astype(float) ** 2 - 0.5 * np.log(2 * np.pi) - log_p)
    return -log_p.astype(eta.dtype), (-side * ratio).astype(eta.dtype)


def _negative_binomial(y, eta, s):
    odds = np.logaddexp(0, eta)
    return (y + 1) * odds - y * eta, (y + 1) * scipy.special.expit(eta) - y


def _power(y, eta, power):
    """Tweedie's deviance with a log link, but for what η is not in; halved."""
    with np.errstate(over="ignore"):
        of_mean = np.exp((2 - power) * eta) / (2 - power) if power != 2 else eta
        of_y = y * np.exp((1 - power) * eta)
        slope = np.exp((2 - power) * eta) - of_y
    return of_mean - of_y / (1 - power), slope


def _gamma(y, eta, s):
    return _power(y, eta, 2)


def _tweedie(y, eta, s):
    return _power(y, eta, POWER)


def _inverse_gaussian(y, eta, s):
    return _power(y, eta, 3)


def _student_t(y, eta, s):
    r = eta - y
    return (DF + 1) / 2 * np.log1p(r**2 / DF), (DF + 1) * r / (DF + r**2)


def _square_root(y, eta, s):
    r = np.where(s > 0, eta - y, 0)
    size = np.sqrt(np.sum(s * r**2))
    return size, s * r / (size or 1)


def _mixed(y, eta, s):
    parts = [f(y[:, k], eta[:, k], s) for k, f in enumerate((_squared, _logistic, _poisson))]
    return sum(rows for rows, _ in parts), np.stack([slope for _, slope in parts], axis=1)


def _ordinal(y, eta, s):
    """Of three classes, at the best thresholds, which Newton's method finds."""
    of = [s * (y == k) for k in range(CLASSES)]
    below = np.cumsum([part.sum() for part in of])[:2]
    a, b = scipy.special.logit(below) + np.sum(s * eta)

    def at(a, b):
        with np.errstate(all="ignore"):
            low, high = scipy.special.expit(a - eta), scipy.special.expit(b - eta)
            middle = high * (1 - low) * -np.expm1(a - b)
            logs = np.log(low), np.log(middle), np.log1p(-high)
            value = -sum(np.sum(w[w > 0] * log[w > 0]) for w, log in zip(of, logs, strict=True))
        return (value if b > a else np.inf), low, high, middle

    value, low, high, middle = at(a, b)
    for _ in range(50):
        f, g = low * (1 - low), high * (1 - high)
        first = of[1] * f / middle - of[0] * (1 - low)
        second = of[2] * high - of[1] * g / middle
        slope = np.array([first.sum(), second.sum()])
        cross = -np.sum(of[1] * f * g / middle**2)
        hessian = np.array(
            [
                [
                    np.sum(of[0] * f + of[1] * (f * (1 - 2 * low) / middle + (f / middle) ** 2)),
                    cross,
                ],
                [
                    cross,
                    np.sum(of[2] * g + of[1] * ((g / middle) ** 2 - g * (1 - 2 * high) / middle)),
                ],
            ]
        )
        step, length = np.linalg.lstsq(hessian, slope)[0], 1.0
        new = at(a - step[0], b - step[1])
        while not new[0] <= value + 1e-15 * abs(value) and length > 1e-9:
            length /= 2
            new = at(a - length * step[0], b - length * step[1])
        if not new[0] <= value + 1e-15 * abs(value):
            break
        a, b = a - length * step[0], b - length * step[1]
        value, low, high, middle = new
        if np.abs(step).max() < 1e-14 * (1 + np.abs([a, b]).max()):
            break
    f, g = low * (1 - low), high * (1 - high)
    return value, of[0] * (1 - low) + of[1] * (g - f) / middle - of[2] * high


def _hinge(y, eta, s):
    m = 2 * y - 1
    short = np.maximum(1 - m * eta, 0)
    return short**2, -2 * m * short


def _poisson(y, eta, s):
    with np.errstate(over="ignore"):
        mean = np.exp(eta)
    return mean - y * eta, mean - y


def _multinomial(y, eta, s):
    top = eta.max(axis=1, keepdims=True)
    total = np.exp(eta - top).sum(axis=1, keepdims=True)
    log_p = eta - top - np.log(total)
    return -(y * log_p).sum(axis=1), np.exp(log_p) - y


def _cox_strata(y, eta, s):
    return _cox(y, eta, s, _strata(len(y)))


def _strata(n: int) -> np.ndarray:
    return np.arange(n) % 2


def _cox(y, eta, s, strata=None):
    """Breslow's partial likelihood with weights of mean one over the rows that count."""
    time, dies = y[:, 0], (y[:, 1] > 0) & (s > 0)
    w = s * np.sum(s > 0)
    top = eta[s > 0].max()
    risk = np.where(s > 0, w * np.exp(np.minimum(eta - top, 0)), 0)
    at_risk = time[None, :] >= time[:, None]  # (event, row)
    if strata is not None:
        at_risk &= strata[None, :] == strata[:, None]
    totals = np.where(dies, at_risk @ risk, 1)
    value = np.sum(np.where(dies, s * (np.log(totals) + top - eta), 0))
    share = np.where(dies, s / totals, 0) @ at_risk
    return value, risk * share - np.where(dies, s, 0)


_LOSSES = {
    "squared": _squared,
    "several": _squared,
    "huber": _huber,
    "logistic": _logistic,
    "quantile": _quantile,
    "probit": _probit,
    "hinge": _hinge,
    "poisson": _poisson,
    "negative binomial": _negative_binomial,
    "gamma": _gamma,
    "tweedie": _tweedie,
    "inverse gaussian": _inverse_gaussian,
    "multinomial": _multinomial,
    "cox": _cox,
    "student t": _student_t,
    "square root": _square_root,
    "ordinal": _ordinal,
    "cox strata": _cox_strata,
    "mixed": _mixed,
}


# What l1jax says.


def _loss(kind: Kind) -> Any:
    import l1jax

    return {
        "squared": l1jax.SquaredError(),
        "several": l1jax.SquaredError(),
        "huber": l1jax.Huber(1.0),
        "logistic": l1jax.Logistic(),
        "quantile": l1jax.Quantile(LEVEL),
        "probit": l1jax.Probit(),
        "hinge": l1jax.SquaredHinge(),
        "negative binomial": l1jax.NegativeBinomial(1.0),
        "gamma": l1jax.Gamma(),
        "tweedie": l1jax.Tweedie(POWER),
        "inverse gaussian": l1jax.InverseGaussian(),
        "poisson": l1jax.Poisson(),
        "multinomial": l1jax.Multinomial(CLASSES),
        "cox": l1jax.Cox(),
        "student t": l1jax.StudentT(DF),
        "square root": l1jax.SquareRootLasso(),
        "ordinal": l1jax.Ordinal(CLASSES),
        "cox strata": l1jax.Cox(strata=_strata(kind.shape[0])),
        "mixed": l1jax.Mixed([l1jax.SquaredError(), l1jax.Logistic(), l1jax.Poisson()]),
    }[kind.loss]


def _penalty(case: Case) -> Any:
    import l1jax

    groups = tuple(_groups(case.kind.shape[1]).tolist())
    return {
        "l1": lambda: l1jax.L1(),
        "weighted l1": lambda: l1jax.L1(weights=case.penalty_weights),
        "elastic net": lambda: l1jax.ElasticNet(),
        "ridge": lambda: l1jax.Ridge(),
        "non-negative": lambda: l1jax.NonNegativeL1(),
        "group": lambda: l1jax.GroupL1(groups=groups),
        "sparse group": lambda: l1jax.SparseGroupL1(groups=groups),
        "ball": lambda: l1jax.L1Ball(),
        "slope": lambda: l1jax.SLOPE(weights=_sorted_weights(case.kind.shape[1])),
        "l1 inf": lambda: l1jax.L1Inf(groups=groups),
        "limits": lambda: l1jax.L1(lower=-_limit(case), upper=2 * _limit(case)),
        "mcp": lambda: l1jax.MCP(gamma=GAMMA),
    }[case.kind.penalty]()


def arguments(case: Case) -> tuple[tuple, dict[str, Any]]:
    """What its user would pass: (X, y, penalty) and the options."""
    options = {
        "loss": _loss(case.kind),
        "fit_intercept": case.kind.fit_intercept,
        "standardize": case.kind.standardize,
        "sample_weight": case.weights,
        "offset": case.offset,
    }
    return (case.x, case.y, _penalty(case)), options


def strengths(case: Case) -> np.ndarray:
    """Those to solve for: one for `fit`, five for `path`."""
    import l1jax

    args, options = arguments(case)
    if case.kind.penalty == "ball":
        size = np.abs(case.x).max() if not case.kind.standardize else 1.0
        top = np.abs(case.y).max() if case.kind.loss in ("squared", "several") else 1.0
        lam = case.share * (top or 1.0) / (size or 1.0)
    elif case.kind.penalty == "ridge":  # no strength is critical: one in units of the curvature
        judge = Judge(case)
        squares = judge.s @ judge._in_unit() ** 2
        lam = case.share * squares.mean()
    else:
        lam = case.share * float(l1jax.lambda_max(*args, **options))
    lam = float(lam) or 1e-3
    return np.array([lam]) if case.kind.call == "fit" else lam * np.array([4, 2, 1, 0.5, 0.25])


def run(case: Case) -> tuple[np.ndarray, Any]:
    """The strengths, and what is returned for them: a path."""
    import l1jax

    (x, y, pen), options = arguments(case)
    lams = strengths(case)
    if case.kind.call == "fit":
        found = l1jax.fit(x, y, pen.with_strength(lams[0]), **options)
    else:
        found = l1jax.path(x, y, pen, lams=lams, **options).fits
    return np.sort(lams)[::-1], found


@dataclasses.dataclass
class Verdict:
    """What is wrong with an answer, and how its fits ended."""

    faults: list[str]
    statuses: list[int]


def judge(case: Case, steps: int = 1000) -> Verdict:
    """Solves a problem and judges the answer."""
    faults: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        begin = time.process_time()
        try:
            lams, found = run(case)
        except Exception as error:  # any is a fault
            return Verdict([f"{type(error).__name__}: {str(error)[:200]}"], [])
        seconds = time.process_time() - begin
        if seconds > SECONDS:  # it may have been compiled
            begin = time.process_time()
            run(case)
            seconds = time.process_time() - begin
    import l1jax

    faults += [
        f"{w.category.__name__}: {str(w.message)[:100]}"
        for w in caught
        if not issubclass(w.category, l1jax.ConvergenceWarning)
    ]
    if seconds > SECONDS:
        faults.append(f"took {seconds:.1f} s")
    one = case.kind.call == "fit"
    statuses = np.atleast_1d(np.asarray(found.status)).tolist()
    for i, lam in enumerate(lams):
        said = {
            name: np.asarray(getattr(found, name)) if one else np.asarray(getattr(found, name))[i]
            for name in (
                "coef",
                "intercept",
                "objective",
                "gap",
                "relative_gap",
                "relative_kkt",
                "status",
            )
        }
        faults += [f"λ={lam:.3g}: {fault}" for fault in _look_at(case, lam, said, steps)]
    return Verdict(faults, statuses)


def _look_at(case: Case, lam: float, said: dict[str, np.ndarray], steps: int) -> list[str]:
    import l1jax

    faults = []
    beta, intercept = said["coef"], said["intercept"]
    for name in ("coef", "intercept", "objective", "relative_kkt"):
        if not np.isfinite(said[name]).all():
            return [f"{name} is not finite"]
    if np.isnan(said["gap"]):
        return ["gap is NaN"]
    status = l1jax.Status(int(said["status"]))
    tol = 1e-6 if case.kind.dtype == "float64" else 1e-4
    gap = float(said["relative_gap"])
    measure = gap if np.isfinite(gap) else float(said["relative_kkt"])
    if status == l1jax.Status.CONVERGED and not measure <= tol * (1 + 1e-6):
        faults.append(f"CONVERGED at {measure:.2e}")
    if status not in (l1jax.Status.CONVERGED, l1jax.Status.PRECISION_LIMIT):
        faults.append(status.name)
    the = Judge(case)
    lam = float(np.asarray(lam, case.kind.dtype))
    with np.errstate(over="ignore"):
        objective = the.objective(beta, intercept, lam)
    eps = float(np.finfo(case.kind.dtype).eps)
    noise = 200 * eps * _size(the, beta, intercept, lam) + np.finfo(case.kind.dtype).tiny
    # Of residuals that are rounding themselves, their squares.
    largest = max(float(np.max(np.abs(part), initial=0)) for part in (the.y, the.offset))
    noise += (10 * eps * largest) ** 2
    if not abs(objective - float(said["objective"])) <= noise:
        faults.append(f"objective is {objective:.9g}, said {float(said['objective']):.9g}")
    if case.kind.penalty == "mcp":
        return faults + the.moves(beta, intercept, lam)
    better, level, lowest = the.descend(beta, intercept, lam, steps)
    drop = objective - lowest
    if np.isfinite(gap) and not drop <= float(said["gap"]) * (1 + 1e-3) + noise:
        faults.append(f"a descent gains {drop:.2e}, the gap was {float(said['gap']):.2e}")
    if status == l1jax.Status.PRECISION_LIMIT:
        rounded = the.objective(better.astype(beta.dtype), level.astype(beta.dtype), lam)
        null = float(said["gap"]) / gap if np.isfinite(gap) and gap > 0 else np.inf
        if objective - rounded > tol * null:
            faults.append(
                f"PRECISION_LIMIT at {measure:.1e}, where {drop / null:.1e} may be gained"
            )
    return faults


def _size(the: Judge, beta: np.ndarray, intercept: np.ndarray, lam: float) -> float:
    """The sum of the sizes of what an objective adds up."""
    beta, intercept = beta.astype(float), intercept.astype(float)
    eta = np.abs(the.x) @ np.abs(beta) + np.abs(intercept) + np.abs(the.offset)
    value, slope = the.smooth(beta, intercept)
    terms = np.sum(np.abs(slope) * (eta + np.abs(the.y if the.y.shape == eta.shape else 1)))
    return abs(float(value)) + float(terms) + float(the.penalty(beta, lam))


def main() -> None:
    """Runs them all and says what is wrong."""
    parser = argparse.ArgumentParser(description="Judges random problems.")
    parser.add_argument("count", type=int, nargs="?", default=200)
    parser.add_argument("--per-kind", type=int, default=25, help="problems that share programs")
    parser.add_argument(
        "--newer", action="store_true", help="losses and penalties that joined later"
    )
    parser.add_argument("--first", type=int, default=0, help="the number to begin with")
    parser.add_argument("--only", type=int, help="the number of one problem")
    options = parser.parse_args()
    import jax

    jax.config.update("jax_enable_x64", True)
    all_ = kinds(-(-options.count // options.per_kind), newer=options.newer)
    seeds = range(options.first, options.count) if options.only is None else [options.only]
    totals: collections.Counter = collections.Counter()
    begin = time.time()
    for seed in seeds:
        kind = all_[seed // options.per_kind]
        case = draw(kind, seed)
        verdict = judge(case)
        totals["problems"] += 1
        totals["fits"] += len(verdict.statuses)
        totals["short"] += sum(status != 0 for status in verdict.statuses)
        totals["with a fault"] += bool(verdict.faults)
        if verdict.faults:
            print(case, *verdict.faults, sep="\n    ", flush=True)
        if seed % 100 == 99:
            print(f"--- {seed + 1}: {dict(totals)} {time.time() - begin:.0f} s", flush=True)
            jax.clear_caches()
    print(dict(totals), f"{time.time() - begin:.0f} s")


if __name__ == "__main__":
    main()
