"""Cox regression with strata, late entries and rows that leave: against its definition and statsmodels."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from statsmodels.duration.hazard_regression import PHReg

import l1jax
from l1jax import Status

N = 14
RNG = np.random.default_rng(2)
STRATA = np.array(["b", "a", "b", "a", "c", "b", "a", "b", "a", "b", "a", "c", "b", "a"])
STOP = np.array([3.0, 1, 3, 2, 3, 1, 5, 4, 3, 2, 3, 2, 4, 1])
EVENT = np.array([1.0, 1, 1, 0, 1, 1, 0, 1, 1, 0, 1, 0, 1, 1])
START = np.array([0.0, 0, 1, 1, 0, 0, 3, 2, 0, 1, 2, 1, 3, 0])  # some at the time of an event
S = np.array([2.0, 1, 0.5, 1, 0.5, 1.5, 1, 1, 1.5, 0, 1, 1, 2, 1])
S /= S.sum()
PAIRS, TRIPLES = np.column_stack([STOP, EVENT]), np.column_stack([START, STOP, EVENT])
KINDS = {
    "strata": (PAIRS, STRATA),
    "intervals": (TRIPLES, None),
    "both": (TRIPLES, STRATA),
}
every = pytest.mark.parametrize("kind", KINDS)
each = pytest.mark.parametrize("ties", ["breslow", "efron"])
call = eqx.filter_jit(lambda method, *args: method(*args))


def definition(ties, y, strata, eta, s):
    """One sum over those at risk for each row that dies."""
    start = y[:, 0] if y.shape[1] == 3 else np.full(len(y), -np.inf)
    stop, event = y[:, -2], y[:, -1]
    strata = np.zeros(len(y)) if strata is None else strata
    w, risks, weights, slopes = s * (s > 0).sum() / s.sum(), [], [], np.zeros(len(y))
    for stratum in np.unique(strata):
        for t in np.unique(stop):
            here = (strata == stratum) & (s > 0)
            dead = np.flatnonzero(here & (stop == t) & (event == 1))
            for place, i in enumerate(dead):
                among, weight = w * (here & (start < t) & (stop >= t)), s[i]
                if ties == "efron":
                    among[dead] *= 1 - place / len(dead)
                    weight = s[dead].mean()
                risks.append(among)
                weights.append(weight)
                slopes[i] = s[i]
    return np.array(weights) @ jnp.log(np.array(risks) @ jnp.exp(eta)) - slopes @ eta


@pytest.mark.parametrize(
    ("kind", "ties"), [("strata", "breslow"), ("intervals", "efron"), ("both", "efron")]
)
@pytest.mark.slow
def test_value_and_derivatives_are_those_of_the_definition(kind, ties):
    y, strata = KINDS[kind]
    loss = l1jax.Cox(ties, strata=strata)
    eta = np.random.default_rng(3).normal(size=N)

    def derivatives(e):
        value = jax.value_and_grad(lambda at: definition(ties, y, strata, at, S))
        (found, slope), push = jax.linearize(value, e)
        return found, slope, jax.vmap(lambda u: push(u)[1])(jnp.eye(N))

    expected, slope, hessian = jax.jit(derivatives)(jnp.asarray(eta))
    methods = ("value", "gradient", "curvature", "majorant")

    def traced(*entering):
        found = [getattr(loss, name)(*entering) for name in methods]
        return *found, jax.vmap(loss.hessian(*entering))(jnp.eye(N))

    encoded = loss.encode(y)  # what is encoded again stays what it was
    eager = [getattr(loss, name)(encoded, eta, S) for name in methods]
    all_found = [(*eager, loss.hessian(y, eta, S)(np.eye(N)))]
    if kind != "intervals":  # traced, they are part of "both"
        all_found.append(jax.jit(traced)(*map(jnp.asarray, (y, eta, S))))
    for found in all_found:
        assert float(found[0]) == pytest.approx(float(expected), rel=1e-13)
        np.testing.assert_allclose(found[1], slope, atol=1e-14)
        np.testing.assert_allclose(found[2], np.diag(hessian), atol=1e-14)
        assert np.linalg.eigvalsh(np.diag(found[3]) - hessian).min() >= -1e-14
        np.testing.assert_allclose(found[4], hessian, atol=1e-14)


@every
@each
@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_the_gap_bounds_what_the_conjugate_gives(kind, ties, scale):
    y, strata = KINDS[kind]
    loss = l1jax.Cox(ties, strata=strata)
    eta = scale * np.linspace(-1, 1, N)[np.argsort(np.sin(np.arange(N)))]
    with np.errstate(all="ignore"):
        gap_is_a_bound(loss, y, eta, scale)


def gap_is_a_bound(loss, y, eta, scale):
    slope, value = loss.gradient(y, eta, S), loss.value(y, eta, S)
    for c in (0.0, 0.5, 0.99):
        gap = loss.fenchel_gap(y, eta, np.asarray(c), S)
        for other in (eta, c * eta, (1 - c) * eta, 0 * eta, eta - 20 * y[:, -2]):
            shown = c * slope @ other - loss.value(y, other, S)
            assert gap >= value + shown - c * slope @ eta - 1e-12 * scale
    assert loss.fenchel_gap(y, eta, np.asarray(1.0), S) == 0
    at_zero = loss.fenchel_gap(y, eta, np.asarray(0.0), S)
    assert at_zero == pytest.approx(loss.deviance(y, eta, S), rel=1e-11)


def problem(n, p):
    rng = np.random.default_rng(6)
    x = rng.normal(size=(n, p))
    stop = rng.exponential(size=n) * np.exp(0.7 * x[:, 1] - 0.7 * x[:, 0]) + 0.01
    start = np.where(rng.random(n) < 0.4, rng.random(n), 0) * stop
    event = (rng.random(n) < 0.7).astype(float)
    return x, np.column_stack([start, stop, event]), rng.integers(0, 3, n)


@each
def test_without_a_penalty_it_is_the_model_of_statsmodels(ties):
    x, y, strata = problem(120, 4)
    peer = PHReg(y[:, 1], x, status=y[:, 2], entry=y[:, 0], strata=strata, ties=ties)
    exact = peer.fit()
    loss = l1jax.Cox(ties, strata=strata)
    entering = y, x @ exact.params, np.full(120, 1 / 120)
    assert 120 * float(loss.value(*entering)) == pytest.approx(-exact.llf, rel=1e-9)
    # Its Newton's method ends at a gradient of about 1e-6, in units of the log-likelihood.
    np.testing.assert_allclose(x.T @ loss.gradient(*entering), 0, atol=1e-7)
    hessian = x.T @ loss.hessian(*entering)(x.T).T
    np.testing.assert_allclose(-120 * hessian, peer.hessian(exact.params), rtol=1e-8)


@each
def test_paths_are_certified_and_optimal_by_the_definition(ties):
    x, y, strata = problem(30, 40)
    loss, s = l1jax.Cox(ties, strata=strata), np.full(30, 1 / 30)
    path = l1jax.path(x, y, l1jax.L1(), loss=loss, n_lams=6, lam_min_ratio=0.2, tol=1e-10)
    assert (np.asarray(path.status) == Status.CONVERGED).all()
    coef, lam = path.coefs[-1], float(path.lams[-1])
    slope = jax.grad(lambda e: definition(ties, y, strata, e, s))(jnp.asarray(x @ coef))
    gradient, active = x.T @ np.asarray(slope), coef != 0
    assert 3 < active.sum() < 30
    np.testing.assert_allclose(gradient[active], -lam * np.sign(coef[active]), atol=1e-6 * lam)
    assert np.abs(gradient).max() <= lam * (1 + 1e-6)


@pytest.mark.slow
def test_rows_of_strata_are_followed_into_the_folds():
    x, y, strata = problem(60, 5)
    folds = np.arange(60) % 2
    loss, lams = l1jax.Cox(strata=strata), np.array([0.1, 0.02])
    cv = l1jax.cross_validate(x, y, l1jax.L1(), loss=loss, lams=lams, folds=folds, tol=1e-10)
    scores = np.zeros((2, 2))
    for k in range(2):
        rows = folds != k
        fits = l1jax.path(
            x[rows], y[rows], l1jax.L1(), loss=loss.take_rows(rows), lams=lams, tol=1e-10
        )
        for i in range(2):
            eta = x @ fits.coefs[i]
            of_all, of_rest = (
                loss.deviance(y, eta, s / 60) for s in (np.ones(60), rows.astype(float))
            )
            weight = y[~rows, 2].sum() / 60
            scores[k, i] = 2 * float(of_all - of_rest) / weight
    events = [y[folds == k, 2].sum() for k in range(2)]  # the weight of a fold
    expected = np.average(scores, axis=0, weights=events)
    np.testing.assert_allclose(cv.mean_score, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: l1jax.Cox(strata=np.ones((3, 1))), r"strata must be one label per row.*\(3, 1\)"),
        (
            lambda: l1jax.Cox(strata=["a"]).check_targets(PAIRS),
            r"strata must have one label per row",
        ),
        (lambda: l1jax.Cox().check_targets(TRIPLES[:, [1, 0, 2]]), "enters, must be before.*row 0"),
        (lambda: l1jax.Cox().check_targets(TRIPLES[:, [0, 2, 1]]), r"y\[:, 2\] must hold 1 where"),
    ],
)
def test_bad_strata_and_intervals_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
