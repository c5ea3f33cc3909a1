"""The benchmarks judge solvers by a certificate of their own: it has to be right."""

import dataclasses
import warnings

import numpy as np
import pytest

import certificate
import l1jax
from measure import Measurement
from peers import l1jax_penalty
from problems import make

KINDS = [
    "weighted-500x10000",
    "elastic-net-500x10000",
    "nonnegative-500x10000",
    "logistic-500x5000",
    "multinomial-63x2308",
    "group-unequal-500x10000",
]


def fit(problem, lam, **how):
    pen, loss = l1jax_penalty(problem)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", l1jax.ConvergenceWarning)
        at = pen.with_strength(lam)
        return l1jax.fit(problem.X, problem.y, at, loss=loss, fit_intercept=False, **how)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.slow
def test_certificate_agrees_with_l1jax_and_bounds_the_excess(name):
    problem = make(name, short=True)
    lam = problem.lams[2]
    one = dataclasses.replace(problem, lams=np.array([lam]))
    best = fit(one, lam, tol=1e-12)
    least = certificate.objective(one, lam, best.coef)
    scale = certificate.null_deviance(one)
    for steps in (1, 3, 10):
        rough = fit(one, lam, tol=1e-12, max_steps=steps, engine="fista")
        (gap,) = certificate.relative_gaps(one, rough.coef[..., None])
        assert gap == pytest.approx(float(rough.relative_gap), rel=1e-6)
        assert gap > 1e-6  # rough indeed
        above = certificate.objective(one, lam, rough.coef) - least
        assert above == pytest.approx(float(rough.objective - best.objective), rel=1e-6)
        assert 0 < above <= gap * scale * (1 + 1e-9)
    assert certificate.worst_gap(one, best.coef[..., None]) < 1e-11


@pytest.mark.parametrize("name", KINDS)
def test_certificate_of_any_point_bounds_its_excess(name):
    problem = make(name, short=True)
    lam = problem.lams[-1]
    one = dataclasses.replace(problem, lams=np.array([lam]))
    null = certificate.objective(one, lam, np.zeros(problem.coef_shape))
    rng = np.random.default_rng(0)
    for size in (0.0, 1e-3, 1e-1, 10.0):
        beta = size * np.abs(rng.standard_normal(problem.coef_shape))
        (gap,) = certificate.relative_gaps(one, beta[..., None])
        above = certificate.objective(one, lam, beta) - null  # no more than the true one
        assert gap * certificate.null_deviance(one) >= above * (1 - 1e-9)


@pytest.mark.parametrize("name", KINDS)
def test_nothing_is_in_at_lambda_max(name):
    problem = make(name, short=True)
    nothing = np.zeros((*problem.coef_shape, len(problem.lams)))
    gaps = certificate.relative_gaps(problem, nothing)
    assert gaps[0] < 1e-14
    assert gaps[1] > 1e-3


def test_a_point_outside_of_the_feasible_set_has_no_gap():
    problem = make("nonnegative-500x10000", short=True)
    coefs = np.full((problem.X.shape[1], len(problem.lams)), -1e-9)
    assert certificate.worst_gap(problem, coefs) == np.inf


@pytest.mark.fast
def test_not_a_number_is_not_certified():
    problem = make("ar-200x2000", short=True)
    coefs = np.zeros((problem.X.shape[1], len(problem.lams)))
    coefs[0, -1] = np.nan
    assert certificate.worst_gap(problem, coefs) == np.inf


class Pretended(Measurement):
    """A solver of which the gap is a function of the tolerance."""

    def __init__(self, gap_of):
        super().__init__(make("ar-200x2000", short=True), "scikit-learn", limit=60.0)
        self.gap_of = gap_of

    def try_at(self, solve, tol):
        self.known[tol] = (self.gap_of(tol), 1.0)
        return self.known[tol][0]


@pytest.mark.parametrize("power", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("target", [1e-3, 1e-6])
def test_search_ends_just_below_the_target(power, target):
    pretended = Pretended(lambda tol: 3 * tol**power)
    tol = pretended.search(None, target)
    assert target / 10 < 3 * tol**power <= target
    assert len(pretended.known) <= 10


def test_search_gives_up_where_tighter_brings_nothing():
    pretended = Pretended(lambda tol: max(tol, 1e-4))
    assert pretended.gap_of(pretended.search(None, 1e-6)) == 1e-4
    assert len(pretended.known) <= 6
