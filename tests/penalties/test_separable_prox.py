"""Separable penalties: every property of a prox, against searches and closed forms of the tests' own."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import l1jax
from l1jax._modules import with_fields
from tests.penalties.prox_properties import CHECKS, METRIC, ROWS, SIZE, Case

WEIGHTS = np.array([1.0, 0.5, 2.0, 0.0, 3.0])


def at_limit(weight):
    """The conjugate of a weight times |x|: 0 up to it."""
    return lambda v: np.where(abs(v) <= weight, 0, np.inf)


def beyond(weight, curvature):
    """The conjugate of a weight times |x| and half a curvature times x²."""
    return lambda v: np.maximum(abs(v) - weight, 0) ** 2 / (2 * curvature)


CASES = {
    "L1": Case(l1jax.L1(0.7), lambda x: 0.7 * abs(x), True, conjugate=at_limit(0.7)),
    "NonNegativeL1": Case(
        l1jax.NonNegativeL1(0.7),
        lambda x: np.where(x >= 0, 0.7 * x, np.inf),
        True,
        conjugate=lambda v: np.where(v <= 0.7, 0, np.inf),
    ),
    "ElasticNet": Case(
        l1jax.ElasticNet(0.7, 0.4),
        lambda x: 0.28 * abs(x) + 0.21 * x**2,
        True,
        conjugate=beyond(0.28, 0.42),
    ),
    "NonNegativeElasticNet": Case(
        l1jax.NonNegativeElasticNet(0.7, 0.4),
        lambda x: np.where(x >= 0, 0.28 * x + 0.21 * x**2, np.inf),
        True,
        conjugate=lambda v: np.maximum(v - 0.28, 0) ** 2 / 0.84,
    ),
    "Ridge": Case(l1jax.Ridge(0.7), lambda x: 0.35 * x**2, True, conjugate=beyond(0, 0.7)),
}

LOWER, UPPER = np.array([-0.5, -np.inf, 0.0, -1.0, 0.0]), np.array([1.5, 0.25, 2.0, 0.0, 0.0])


def limited(value, lower, upper):
    return lambda x: np.where((x >= lower) & (x <= upper), value(x), np.inf)


def limited_conjugate(weight, curvature, lower, upper):
    """sup of v x − weight|x| − ½ curvature x² over an interval: at an end, at 0, or where the slope is 0."""

    def conjugate(v):
        with np.errstate(divide="ignore", invalid="ignore"):
            inner = np.sign(v) * np.maximum(abs(v) - weight, 0)
            inner = np.where(inner == 0, 0, inner / curvature)
        x = np.clip(inner, lower, upper)
        with np.errstate(invalid="ignore"):
            found = v * x - weight * abs(x) - curvature * x**2 / 2
        return np.where(np.isinf(x), np.inf, found)

    return conjugate


# The limits of a case in brute force are numbers; those of arrays have a closed form as their oracle.
CASES |= {
    "L1 with limits": Case(
        l1jax.L1(0.7, lower=-1, upper=0.5),
        limited(lambda x: 0.7 * abs(x), -1, 0.5),
        True,
        conjugate=limited_conjugate(0.7, 0, -1, 0.5),
    ),
    "L1 with an upper limit": Case(
        l1jax.L1(0.7, upper=0.5),
        limited(lambda x: 0.7 * abs(x), -np.inf, 0.5),
        True,
        conjugate=limited_conjugate(0.7, 0, -np.inf, 0.5),
    ),
    "L1 with limits per feature": Case(
        l1jax.L1(0.7, weights=WEIGHTS, lower=LOWER, upper=UPPER),
        limited(lambda x: 0.7 * WEIGHTS * abs(x), LOWER, UPPER),
        True,
        oracle=lambda z, s: np.clip(
            np.sign(z) * np.maximum(abs(z) - 0.7 * WEIGHTS * s, 0), LOWER, UPPER
        ),
        conjugate=limited_conjugate(0.7 * WEIGHTS, 0, LOWER, UPPER),
    ),
    "NonNegativeL1 with a limit": Case(
        l1jax.NonNegativeL1(0.7, upper=1.5),
        limited(lambda x: 0.7 * x, 0, 1.5),
        True,
        conjugate=limited_conjugate(0.7, 0, 0, 1.5),
    ),
    "ElasticNet with limits": Case(
        l1jax.ElasticNet(0.7, 0.4, lower=-1, upper=0.5),
        limited(lambda x: 0.28 * abs(x) + 0.21 * x**2, -1, 0.5),
        True,
        conjugate=limited_conjugate(0.28, 0.42, -1, 0.5),
    ),
    "NonNegativeElasticNet with a limit": Case(
        l1jax.NonNegativeElasticNet(0.7, 0.4, upper=1.5),
        limited(lambda x: 0.28 * x + 0.21 * x**2, 0, 1.5),
        True,
        conjugate=limited_conjugate(0.28, 0.42, 0, 1.5),
    ),
    "Ridge with limits": Case(
        l1jax.Ridge(0.7, lower=-0.5, upper=2),
        limited(lambda x: 0.35 * x**2, -0.5, 2),
        True,
        conjugate=limited_conjugate(0, 0.7, -0.5, 2),
    ),
}


def mcp(lam, gamma):
    return lambda x: np.where(
        abs(x) <= gamma * lam, lam * abs(x) - x**2 / (2 * gamma), gamma * lam**2 / 2
    )


def scad(lam, gamma):
    def value(x):
        t = abs(x)
        middle = (2 * gamma * lam * t - t**2 - lam**2) / (2 * (gamma - 1))
        top = lam**2 * (gamma + 1) / 2
        return np.where(t <= lam, lam * t, np.where(t <= gamma * lam, middle, top))

    return value


# Penalties that are not convex, at steps up to their weak convexity and beyond it (the second of two).
CONCAVE = {
    "MCP": (l1jax.MCP(0.7, 3.0), mcp(0.7, 3)),
    "MCP beyond": (l1jax.MCP(0.7, 0.3), mcp(0.7, 0.3)),
    "SCAD": (l1jax.SCAD(0.7), scad(0.7, 3.7)),
    "CappedL1": (l1jax.CappedL1(0.7, 1.25), lambda x: 0.7 * np.minimum(abs(x), 1.25)),
    "LogSum": (l1jax.LogSum(0.7, 1.5), lambda x: 0.7 * np.log1p(abs(x) / 1.5)),
    "LogSum beyond": (l1jax.LogSum(0.7, 0.2), lambda x: 0.7 * np.log1p(abs(x) / 0.2)),
    "L0": (l1jax.L0(0.7), lambda x: 0.7 * (x != 0)),
    "LHalf": (l1jax.LHalf(0.7), lambda x: 0.7 * np.sqrt(abs(x))),
    "LTwoThirds": (l1jax.LTwoThirds(0.7), lambda x: 0.7 * np.cbrt(abs(x)) ** 2),
}
CASES |= {name: Case(pen, value, True) for name, (pen, value) in CONCAVE.items()}
CASES |= {
    "SCAD beyond": Case(l1jax.SCAD(0.7, 2.2), scad(0.7, 2.2), True, step=1.7, metric=3 * METRIC),
    "AsymmetricL1": Case(
        l1jax.AsymmetricL1(0.7, 0.5, 2.0),
        lambda x: 0.7 * np.where(x > 0, 0.5 * x, -2 * x),
        True,
        conjugate=lambda v: np.where((v <= 0.35) & (v >= -1.4), 0, np.inf),
    ),
}
for name in ("MCP", "MCP beyond", "CappedL1", "LogSum beyond", "L0", "LHalf"):
    pen, value = CONCAVE[name]
    lower, upper = -1.5, 0.75
    inside = with_fields(pen, lower=np.float64(lower), upper=np.float64(upper))
    CASES[f"{name} with limits"] = Case(inside, limited(value, lower, upper), True)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", CASES)
@settings(max_examples=15)
@given(z=arrays(np.float64, (ROWS, SIZE), elements=st.floats(-4, 4)))
def test_its_prox(name, check, z):
    check(CASES[name], z)
