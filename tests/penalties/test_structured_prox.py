"""Structured, grouped and constraint penalties: every property of a prox, against oracles of the tests' own."""

import itertools

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.isotonic import isotonic_regression

import l1jax
from tests.penalties.prox_properties import (
    CHECKS,
    ROWS,
    SIZE,
    Case,
    brute_force,
    check_conjugate,
    check_derivative,
    check_moreau,
    check_nothing_nearby_is_better,
    check_projection,
    check_value,
)

GROUPS = np.array([0, 1, 0, 1, 1])
PARTS = [GROUPS == 0, GROUPS == 1]
GROUP_WEIGHTS = np.array([1.3, 0.6])
WEIGHTS = np.array([2.0, 1.5, 0.75, 0.75, 0.25])
DIFFERENCES = np.diff(np.eye(SIZE), axis=0)


def rowwise(function):
    """An oracle of one row as one of rows, with its steps."""
    return lambda z, s: np.stack([function(*row) for row in zip(z, s, strict=True)])


def of_analysis(matrix, weights):
    """The prox of Σᵢ wᵢ|(A x)ᵢ|: z − s Aᵀu with u in a box, by bounded least squares."""

    def prox(z, s):
        dual = scipy.optimize.lsq_linear(
            s[0] * matrix.T, z, (-weights, weights), "bvls", tol=1e-15, max_iter=500
        )
        return z - s[0] * matrix.T @ dual.x

    return rowwise(prox)


@rowwise
def slope(z, s):
    order = np.argsort(-abs(z), kind="stable")
    sizes = isotonic_regression(abs(z)[order] - 0.7 * s * WEIGHTS, increasing=False)
    out = np.zeros(SIZE)
    out[order] = np.maximum(sizes, 0)
    return np.sign(z) * out


def root(function, high):
    """The zero of a function that falls from above zero at 0 to below it, or 0."""
    if function(0.0) <= 0:
        return 0.0
    return scipy.optimize.brentq(function, 0, high, xtol=1e-15, rtol=1e-15)


def cut(z, s, limit):
    """z cut off at the level where what is above it, over the steps, adds up to a limit."""
    level = root(lambda m: np.sum(np.maximum(abs(z) - m, 0) / s) - limit, 10)
    return np.clip(z, -level, level)


def by_groups(function):
    def prox(z, s):
        out = np.zeros(SIZE)
        for part, weight in zip(PARTS, GROUP_WEIGHTS, strict=True):
            out[part] = function(z[part], s[part], weight)
        return out

    return rowwise(prox)


@by_groups
def exclusive(z, s, w):
    def left(norm):
        return np.sum(np.maximum(abs(z) - 0.7 * w * s * norm, 0)) - norm

    return np.sign(z) * np.maximum(abs(z) - 0.7 * w * s * root(left, 40), 0)


def norms(x):
    """‖x_g‖ of rows: (B, G)."""
    return np.stack([np.linalg.norm(x[:, part], axis=1) for part in PARTS], axis=1)


def of_norms(value):
    """The prox of a sum of functions of the norms of groups: a search for the norms, along z."""

    def prox(z, s):
        before = norms(z)
        after = brute_force(value, before, np.broadcast_to(s[:, :1], before.shape))
        factors = after / np.where(before > 0, before, 1)
        return z * np.where(PARTS[0], factors[:, :1], factors[:, 1:])

    return prox


def mcp(n):
    n, limit = abs(n), 0.7 * GROUP_WEIGHTS.reshape((2,) + (1,) * (np.ndim(n) - 2))
    return np.where(n <= 3 * limit, limit * n - n**2 / 6, 1.5 * limit**2)


def scad(n):
    n, limit = abs(n), 0.7 * GROUP_WEIGHTS.reshape((2,) + (1,) * (np.ndim(n) - 2))
    middle = (7.4 * limit * n - n**2 - limit**2) / 5.4
    return np.where(n <= limit, limit * n, np.where(n <= 3.7 * limit, middle, limit**2 * 4.7 / 2))


def inside(is_in):
    return lambda x: np.where(is_in(x), 0.0, np.inf)


def shrunk(z, weights, limit):
    """sign(z)(|z| − μw)⁺ with Σ w|x| = limit, of a z outside of that ball."""
    level = root(lambda m: weights @ np.maximum(abs(z) - m * weights, 0) - limit, 100)
    return np.sign(z) * np.maximum(abs(z) - level * weights, 0)


@rowwise
def l1_inf_ball(z, s):
    def level(part, theta):
        return root(lambda m: np.maximum(abs(z[part]) - m, 0).sum() - theta, 10)

    def levels(theta):
        return [level(part, theta) for part in PARTS]

    if sum(abs(z[p]).max() for p in PARTS) <= 1.5:
        return z
    most = levels(root(lambda theta: sum(levels(theta)) - 1.5, 40))
    return np.clip(z, *(sign * np.where(PARTS[0], *most) for sign in (-1, 1)))


@rowwise
def simplex(z, s):
    level = scipy.optimize.brentq(
        lambda m: np.maximum(z - m, 0).sum() - 1.5, z.max() - 2, z.max(), xtol=1e-15, rtol=1e-15
    )
    return np.maximum(z - level, 0)


def maxima(x):
    return np.stack([abs(x[:, part]).max(axis=1) for part in PARTS], axis=1)


def sums(x):
    return np.stack([abs(x[:, part]).sum(axis=1) for part in PARTS], axis=1)


SETS, NESTED = [[0, 1, 2], [2, 3], [3, 4, 0]], [[0, 1, 2, 3, 4], [1, 2], [3, 4]]
SET_WEIGHTS = np.array([1.2, 0.6, 0.9])


def block_descent(z, groups, limits, is_latent):
    """argmin ½‖z − Σ v_g‖² + Σ limit_g‖v_g‖, or the dual of Σ limit_g‖x_g‖: (Σ v_g, Σ of the residual's)."""
    parts = np.zeros((len(groups), SIZE))
    for _ in range(20000):
        before = parts.copy()
        for g, (group, limit) in enumerate(zip(groups, limits, strict=True)):
            rest = (z - parts.sum(axis=0) + parts[g])[group]
            size = max(np.linalg.norm(rest), 1e-300)
            factor = max(1 - limit / size, 0)
            parts[g, group] = rest * (factor if is_latent else 1 - factor)
        if abs(parts - before).max() <= 1e-13:
            break
    return parts


@rowwise
def latent(z, s):
    return block_descent(z, SETS, 0.7 * s[0] * SET_WEIGHTS, True).sum(axis=0)


@rowwise
def nested(z, s):
    return z - block_descent(z, NESTED, 0.7 * s[0] * SET_WEIGHTS, False).sum(axis=0)


def no_closed_form(x):
    raise NotImplementedError


LOWER, UPPER = np.array([-1, 0, -np.inf, 0.5, -2]), np.array([1, np.inf, 0.3, 0.5, 3])
BALL_WEIGHTS = np.array([1.0, 0.5, 2.0, 1.0, 3.0])
CASES = {
    "SLOPE": Case(
        l1jax.SLOPE(0.7, WEIGHTS),
        lambda x: 0.7 * -np.sort(-abs(x), axis=-1) @ WEIGHTS,
        oracle=slope,
        tree=None,
    ),
    "FusedLasso": Case(
        l1jax.FusedLasso(0.7, 0.3),
        lambda x: 0.49 * abs(np.diff(x)).sum(axis=-1) + 0.21 * abs(x).sum(axis=-1),
        oracle=of_analysis(
            np.vstack([DIFFERENCES, np.eye(SIZE)]), np.repeat([0.49, 0.21], [SIZE - 1, SIZE])
        ),
    ),
    "total variation": Case(
        l1jax.FusedLasso(0.7, 0.0),
        lambda x: 0.7 * abs(np.diff(x)).sum(axis=-1),
        oracle=of_analysis(DIFFERENCES, np.full(SIZE - 1, 0.7)),
    ),
    "linear trend": Case(
        l1jax.TrendFilter(0.7),
        lambda x: 0.7 * abs(np.diff(x, 2)).sum(axis=-1),
        oracle=of_analysis(np.diff(np.eye(SIZE), 2, axis=0), np.full(SIZE - 2, 0.7)),
    ),
    "quadratic trend": Case(
        l1jax.TrendFilter(0.7, order=2),
        lambda x: 0.7 * abs(np.diff(x, 3)).sum(axis=-1),
        oracle=of_analysis(np.diff(np.eye(SIZE), 3, axis=0), np.full(SIZE - 3, 0.7)),
    ),
    "OverlappingGroupL1": Case(
        l1jax.OverlappingGroupL1(0.7, SETS, SET_WEIGHTS),
        no_closed_form,
        oracle=latent,
        conjugate=lambda v: np.where(
            np.stack(
                [
                    np.linalg.norm(v[:, g], axis=1) <= 0.7 * w
                    for g, w in zip(SETS, SET_WEIGHTS, strict=True)
                ]
            ).all(axis=0),
            0,
            np.inf,
        ),
        tree=None,
    ),
    "HierarchicalGroupL1": Case(
        l1jax.HierarchicalGroupL1(0.7, NESTED, SET_WEIGHTS),
        lambda x: (
            0.7
            * sum(
                w * np.linalg.norm(x[:, g], axis=1)
                for g, w in zip(NESTED, SET_WEIGHTS, strict=True)
            )
        ),
        oracle=nested,
        tree=None,
    ),
    "L2": Case(
        l1jax.L2(0.7),
        lambda x: 0.7 * np.linalg.norm(x, axis=-1),
        oracle=lambda z, s: (
            z * np.maximum(1 - 0.7 * s / np.linalg.norm(z, axis=1)[:, None].clip(1e-300), 0)
        ),
        tree="whole",
    ),
    "LInf": Case(
        l1jax.LInf(0.7),
        lambda x: 0.7 * abs(x).max(axis=-1),
        oracle=rowwise(lambda z, s: cut(z, s, 0.7)),
        tree="whole",
    ),
    "NuclearNorm": Case(
        l1jax.NuclearNorm(0.7),
        lambda x: 0.7 * np.linalg.norm(x, axis=-1),  # of one column
        oracle=lambda z, s: (
            z * np.maximum(1 - 0.7 * s / np.linalg.norm(z, axis=1)[:, None].clip(1e-300), 0)
        ),
    ),
    "L1Inf": Case(
        l1jax.L1Inf(0.7, GROUPS, GROUP_WEIGHTS),
        lambda x: 0.7 * maxima(x) @ GROUP_WEIGHTS,
        oracle=by_groups(lambda z, s, w: cut(z, s, 0.7 * w)),
        conjugate=lambda v: np.where((sums(v) <= 0.7 * GROUP_WEIGHTS).all(axis=1), 0, np.inf),
        tree=None,
    ),
    "ExclusiveLasso": Case(
        l1jax.ExclusiveLasso(0.7, GROUPS, GROUP_WEIGHTS),
        lambda x: 0.35 * sums(x) ** 2 @ GROUP_WEIGHTS,
        oracle=exclusive,
        conjugate=lambda v: maxima(v) ** 2 @ (1 / (1.4 * GROUP_WEIGHTS)),
        tree=None,
    ),
    "GroupMCP": Case(
        l1jax.GroupMCP(0.7, GROUPS, 3.0, GROUP_WEIGHTS),
        lambda x: mcp(norms(x)).sum(axis=-1),
        oracle=of_norms(mcp),
        tree=None,
    ),
    "GroupSCAD": Case(
        l1jax.GroupSCAD(0.7, GROUPS, 3.7, GROUP_WEIGHTS),
        lambda x: scad(norms(x)).sum(axis=-1),
        oracle=of_norms(scad),
        tree=None,
    ),
    "L1Ball": Case(
        l1jax.L1Ball(1.5),
        inside(lambda x: abs(x).sum(axis=-1) <= 1.5 + 1e-12),
        oracle=rowwise(lambda z, s: shrunk(z, np.ones(SIZE), 1.5)),
        conjugate=lambda v: 1.5 * abs(v).max(axis=1),
        tree="whole",
    ),
    "weighted L1Ball": Case(
        l1jax.L1Ball(1.5, BALL_WEIGHTS),
        inside(lambda x: abs(x) @ BALL_WEIGHTS <= 1.5 + 1e-12),
        oracle=rowwise(lambda z, s: shrunk(z, BALL_WEIGHTS, 1.5)),
        conjugate=lambda v: 1.5 * (abs(v) / BALL_WEIGHTS).max(axis=1),
        tree=None,
    ),
    "L2Ball": Case(
        l1jax.L2Ball(1.5),
        inside(lambda x: np.linalg.norm(x, axis=-1) <= 1.5 + 1e-12),
        oracle=lambda z, s: (
            z * np.minimum(1.5 / np.linalg.norm(z, axis=1).clip(1e-300), 1)[:, None]
        ),
        conjugate=lambda v: 1.5 * np.linalg.norm(v, axis=1),
        tree="whole",
    ),
    "Simplex": Case(
        l1jax.Simplex(1.5),
        inside(lambda x: (abs(x.sum(axis=-1) - 1.5) <= 1e-12) & (x >= 0).all(axis=-1)),
        oracle=simplex,
        conjugate=lambda v: 1.5 * v.max(axis=1),
        tree="whole",
    ),
    "L1InfBall": Case(
        l1jax.L1InfBall(1.5, GROUPS),
        inside(lambda x: maxima(x).sum(axis=1) <= 1.5 + 1e-12),
        oracle=l1_inf_ball,
        conjugate=lambda v: 1.5 * sums(v).max(axis=1),
        tree=None,
    ),
    "Box": Case(
        l1jax.Box(LOWER, UPPER),
        inside(lambda x: ((x >= LOWER) & (x <= UPPER)).all(axis=-1)),
        oracle=lambda z, s: np.clip(z, LOWER, UPPER),
        conjugate=lambda v: np.sum(
            np.where(v == 0, 1, v) * np.where(v > 0, UPPER, np.where(v < 0, LOWER, 0)), axis=1
        ),
        tree=None,
    ),
    "Cardinality": Case(
        l1jax.Cardinality(2),
        inside(lambda x: (x != 0).sum(axis=-1) <= 2),
        oracle=rowwise(
            lambda z, s: np.where(
                np.isin(np.arange(SIZE), np.argsort(-abs(z), kind="stable")[:2]), z, 0
            )
        ),
        tree="whole",
    ),
}


UNEVEN = np.random.default_rng(0).normal(size=(ROWS, SIZE)) / 10
# Of some the dual ball is flat: z − x is in it only to the rounding of z. The value of another has no closed
# form: Moreau's identity gives it.
LEFT_OUT = [(name, check_moreau) for name in ("total variation", "linear trend", "quadratic trend")]
LEFT_OUT += [
    ("OverlappingGroupL1", check)
    for check in (check_nothing_nearby_is_better, check_value, check_conjugate, check_projection)
]
PAIRS = [(name, check) for name in CASES for check in CHECKS if (name, check) not in LEFT_OUT]


@pytest.mark.parametrize(
    ("name", "check"), PAIRS, ids=[f"{name}-{check.__name__}" for name, check in PAIRS]
)
@given(z=arrays(np.float64, (ROWS, SIZE), elements=st.floats(-4, 4, allow_subnormal=False)))
def test_its_prox(name, check, z):
    # Along lines through a tie of the entries the prox may have a derivative, and none in all directions.
    check(CASES[name], z + UNEVEN if check is check_derivative else z)


@pytest.mark.parametrize("n", [12, 150])
def test_total_variation_of_long_chains_meets_the_optimality_conditions(n):
    rng = np.random.default_rng(0)
    for lam, scale in itertools.product([0.1, 1.0, 5.0], [0.3, 1.0, 3.0, 1.0, 3.0]):
        z = scale * np.cumsum(rng.normal(size=n))
        x = np.asarray(l1jax.FusedLasso(lam, 0.0).prox(z))
        # zᵢ − xᵢ = uᵢ − uᵢ₋₁, u₀ = uₙ = 0, with |uᵢ| ≤ λ, and uᵢ = λ sign(xᵢ − xᵢ₊₁) where x has a jump.
        u, falls = np.cumsum(z - x), -np.diff(x)
        rounding = 1e-14 * n * abs(z).max()
        assert abs(u[-1]) <= rounding and (abs(u[:-1]) <= lam + rounding).all()
        jumps = falls != 0
        np.testing.assert_allclose(u[:-1][jumps], lam * np.sign(falls[jumps]), atol=rounding)
