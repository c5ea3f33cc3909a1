"""The losses that are sums over rows: of each a line, by which it joins the tests of them all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erf, gammaln

import l1jax


class Case(NamedTuple):
    """A loss, targets of it, and what it is without any of its code."""

    loss: l1jax.Loss
    y: list[float]  # of four rows
    formula: Callable[[Any, Any], Any]  # the loss of a row up to a number that only depends on y
    bad: tuple[float, str]  # a target that it refuses, and the sentence that says so
    draw: Callable[[np.random.Generator, np.ndarray], np.ndarray]  # targets, for predictors
    least: Callable[[Any], Any]  # the η at which the loss of a row with the target y is least
    convex: bool = True
    curvature_jumps: bool = False  # where hypothesis likes to sample
    gap_is_bound: bool = (
        False  # the Fenchel gap is more than the direct sum, but not below c = 1 − ε
    )


def _huber(delta):
    def formula(y, eta):
        size = jnp.abs(y - eta)
        return jnp.where(size < delta, size**2 / 2, delta * (size - delta / 2))

    return formula


def _pinball(level, width):
    """The pinball loss, its corner replaced by a parabola that is `width` wide."""

    def formula(y, eta):
        r = y - eta
        straight = jnp.where(r > 0, level * r - width * level**2 / 2, 0)
        straight += jnp.where(r > 0, 0, (level - 1) * r - width * (1 - level) ** 2 / 2)
        inside = (r < level * width) & (r > (level - 1) * width)
        return jnp.where(inside, r**2 / (2 * width), straight)

    return formula


def _gamma(y, eta):
    """Minus the log-density of a shape of one, exponential, and a mean exp η."""
    return eta + y / jnp.exp(eta)


def _tweedie(p):
    """scikit-learn's `HalfTweedieLoss`."""

    def formula(y, eta):
        mean = jnp.exp(eta)
        return mean ** (2 - p) / (2 - p) - y * mean ** (1 - p) / (1 - p)

    return formula


def _negative_binomial(alpha):
    """Minus the log-probability of statsmodels' `NegativeBinomial`."""

    def formula(y, eta):
        mean, size = jnp.exp(eta), 1 / alpha
        of_counts = gammaln(y + size) - gammaln(size) - gammaln(y + 1)
        total = jnp.log(size + mean)
        return -(of_counts + size * (jnp.log(size) - total) + y * (eta - total))

    return formula


def _heavy_tails(rng, eta):
    return eta + rng.standard_t(2, len(eta))


def _labels(rng, eta):
    return (rng.random(len(eta)) < 1 / (1 + np.exp(-eta))).astype(float)


def _counts(rng, eta):
    return rng.poisson(np.exp(eta)).astype(float)


def _claims(rng, eta):
    return np.array([rng.gamma(2.0, 0.5, count).sum() for count in rng.poisson(np.exp(eta))])


def _costs(rng, eta):
    return np.exp(eta) * rng.gamma(3.0, 1 / 3, len(eta))


def _log(y):
    return jnp.log(jnp.maximum(y, 1e-300))


def _itself(y):
    return y


def _side(y):
    return jnp.where(y > 0, 700.0, -700.0)


NUMBERS, LABELS, COUNTS = [1.0, -2.0, 0.5, 3.0], [1.0, 0.0, 0.0, 1.0], [0.0, 3.0, 1.0, 2.0]
CLAIMS, COSTS = [0.0, 2.5, 0.3, 1.0], [0.2, 2.5, 0.3, 1.0]
NAN = float("nan"), "nan"

CASES = {
    "squared": Case(
        l1jax.SquaredError(), NUMBERS, lambda y, eta: (y - eta) ** 2 / 2, NAN, _heavy_tails, _itself
    ),
    "logistic": Case(
        l1jax.Logistic(),
        LABELS,
        lambda y, eta: jnp.log1p(jnp.exp(eta)) - y * eta,
        (-1.0, "labels 0 and 1.*-1.0 at row 2"),
        _labels,
        _side,
    ),
    "poisson": Case(
        l1jax.Poisson(),
        COUNTS,
        lambda y, eta: jnp.exp(eta) - y * eta,
        (-1.0, "counts >= 0 for Poisson, got -1.0 at row 2"),
        _counts,
        _log,
    ),
    "huber": Case(
        l1jax.Huber(0.7), NUMBERS, _huber(0.7), NAN, _heavy_tails, _itself, curvature_jumps=True
    ),
    "quantile": Case(
        l1jax.Quantile(0.7, 0.5),
        NUMBERS,
        _pinball(0.7, 0.5),
        NAN,
        _heavy_tails,
        _itself,
        curvature_jumps=True,
    ),
    "hinge": Case(
        l1jax.SquaredHinge(),
        LABELS,
        lambda y, eta: jnp.maximum(0, 1 - (2 * y - 1) * eta) ** 2,
        (2.0, "labels 0 and 1 for SquaredHinge"),
        _labels,
        _side,
        curvature_jumps=True,
    ),
    "negative binomial": Case(
        l1jax.NegativeBinomial(0.7),
        COUNTS,
        _negative_binomial(0.7),
        (-1.0, "counts >= 0 for NegativeBinomial, got -1.0 at row 2"),
        _counts,
        _log,
    ),
    "gamma": Case(
        l1jax.Gamma(), COSTS, _gamma, (0.0, "numbers > 0 for Gamma, got 0.0 at row 2"), _costs, _log
    ),
    "tweedie": Case(
        l1jax.Tweedie(1.5),
        CLAIMS,
        _tweedie(1.5),
        (-1.0, r"numbers >= 0 for Tweedie\(1.5\), got -1.0 at row 2"),
        _claims,
        _log,
        gap_is_bound=True,
    ),
    "tweedie 1.1": Case(
        l1jax.Tweedie(1.1),
        CLAIMS,
        _tweedie(1.1),
        (-1.0, r"numbers >= 0 for Tweedie\(1.1\)"),
        _claims,
        _log,
        gap_is_bound=True,
    ),
    "inverse gaussian": Case(
        l1jax.InverseGaussian(),
        COSTS,
        _tweedie(3.0),
        (0.0, "numbers > 0 for InverseGaussian"),
        _costs,
        _log,
        convex=False,
    ),
    "student t": Case(
        l1jax.StudentT(3.0, 0.8),
        NUMBERS,
        lambda y, eta: 2 * jnp.log1p(((y - eta) / 0.8) ** 2 / 3),
        NAN,
        _heavy_tails,
        _itself,
        convex=False,
    ),
    "probit": Case(
        l1jax.Probit(),
        LABELS,
        lambda y, eta: -jnp.log(0.5 * (1 + erf((2 * y - 1) * eta / jnp.sqrt(2.0)))),
        (2.0, "labels 0 and 1 for Probit"),
        _labels,
        lambda y: jnp.where(y > 0, 30.0, -30.0),
    ),
    "tweedie 0": Case(
        l1jax.Tweedie(0), NUMBERS, _tweedie(0.0), NAN, _heavy_tails, _log, convex=False
    ),
}
