"""The margin of a fit: how far λ may move, either way, before a coefficient enters or leaves."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq

import l1jax

N, P = 60, 6
RNG = np.random.default_rng(4)
SCALES = np.array([1.0, 0.5, 2.0, 1.0, 3.0, 0.7])
ORTHOGONAL = np.linalg.qr(RNG.standard_normal((N, P)))[0] * np.sqrt(N) * SCALES
Y = RNG.standard_normal(N) + ORTHOGONAL @ (np.array([1.2, -0.8, 0.5, 0.0, -0.1, 0.2]) / SCALES)
Z = ORTHOGONAL.T @ Y / N  # minus the gradient at 0
WEIGHTS = np.array([1.0, 2.0, np.inf, 1.0, 0.0, 1.5])
PENALISED = (WEIGHTS > 0) & np.isfinite(WEIGHTS)
GROUPS = np.array([0, 0, 1, 1, 2, 2])
NORMS = np.array([np.linalg.norm(Z[g == GROUPS]) for g in range(3)])


class Tilted(l1jax.Penalty):
    """2λx⁺ + λx⁻, by two methods."""

    lam: float

    def value(self, x):
        return self.lam * jnp.sum(2 * jnp.maximum(x, 0) + jnp.maximum(-x, 0))

    def prox(self, z, step=1.0):
        return jnp.maximum(z - 2 * step * self.lam, 0) - jnp.maximum(-z - step * self.lam, 0)


# Kinds, with the strengths at which something enters or leaves: the columns are orthogonal.
KINDS = {
    "l1": (lambda lam: l1jax.L1(lam), np.abs(Z)),
    "weights": (lambda lam: l1jax.L1(lam, WEIGHTS), np.abs(Z)[PENALISED] / WEIGHTS[PENALISED]),
    "nonnegative": (lambda lam: l1jax.NonNegativeL1(lam), Z[Z > 0]),
    "elastic net": (lambda lam: l1jax.ElasticNet(lam, 0.4), np.abs(Z) / 0.4),
    "group": (lambda lam: l1jax.GroupL1(lam, GROUPS, 1.0), NORMS),
    "group elastic net": (lambda lam: l1jax.GroupElasticNet(lam, GROUPS, 0.4, 1.0), NORMS / 0.4),
    "own": (lambda lam: Tilted(lam), np.where(Z > 0, Z / 2, -Z)),
}


def fit(pen, X=ORTHOGONAL, y=Y, **options):
    return l1jax.fit(X, y, pen, fit_intercept=False, tol=1e-13, **options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_with_orthogonal_columns_it_is_the_distance_to_the_nearest_knot(kind):
    make, knots = KINDS[kind]
    knots = np.sort(knots)
    between = (knots[:-1] + knots[1:]) / 2
    for lam in [*between, *(knots + 1e-6), *(knots[knots > 1e-6] - 1e-6)]:
        found = fit(make(lam))
        # Of its own strength; λ = 0 is a knot, too.
        nearest = np.abs(np.append(knots, 0) - lam).min()
        assert found.margin == pytest.approx(nearest, rel=1e-6, abs=1e-12)


@pytest.mark.fast
def test_ridge_has_no_knot():
    x, gradient, curvature = jnp.array([[2.0, -1.0], [-0.6, 0.3], [1.0, 1.0]])
    assert l1jax.Ridge(0.3).margin(x, gradient, curvature) == np.inf


@pytest.mark.slow
def test_of_a_ball_it_is_in_units_of_the_multiplier():
    for lam in (0.3, 0.15):
        tau = np.sum(np.maximum(np.abs(Z) - lam, 0) / SCALES**2)
        found = fit(l1jax.L1Ball(tau))
        assert found.margin == pytest.approx(np.abs(np.abs(Z) - lam).min(), rel=1e-5)


def sparse_group_knots(ratio):
    """Where a group enters, and where a feature does that would not be 0 in a group that is in."""

    def size(lam, g):
        return np.linalg.norm(np.maximum(np.abs(Z[g == GROUPS]) - lam * ratio, 0))

    groups = [brentq(lambda lam, g=g: size(lam, g) - lam * (1 - ratio), 0, 9) for g in range(3)]
    features = np.abs(Z) / ratio
    return np.sort([*groups, *features[features < np.array(groups)[GROUPS]]])


def test_of_a_sparse_group_it_is_that_distance_to_first_order():
    knots = sparse_group_knots(0.5)
    assert np.diff(knots).min() > 1e-3
    for lam in [*(knots + 1e-4), *(knots - 1e-4)]:
        found = fit(l1jax.SparseGroupL1(lam, GROUPS, 0.5, 1.0))
        assert found.margin == pytest.approx(
            1e-4, rel=1e-3
        )  # first order: another 1e-4 of it is next


def correlated(n=80, p=8):
    rng = np.random.default_rng(2)
    X = rng.standard_normal((n, p)) + 0.7 * rng.standard_normal((n, 1))
    return X - X.mean(axis=0), X @ rng.standard_normal(p) + rng.standard_normal(n)


@pytest.mark.parametrize("distance", [1e-4, 1e-6])
def test_on_either_side_of_a_knot_it_is_of_the_order_of_the_distance(distance):
    X, y = correlated()
    path = l1jax.path(X, y, l1jax.L1(), n_lams=5, engine="homotopy", lam_min_ratio=0.01)
    knots = np.asarray(path.knots.lams)[:-1]  # the last one is the end of the grid
    assert len(knots) >= 8
    h = np.mean((X - X.mean(axis=0)) ** 2, axis=0)
    for lam in [*(knots[1:] + distance), *(knots - distance)]:
        found = l1jax.fit(X, y, l1jax.L1(lam), tol=1e-14)
        coef = np.asarray(found.coef)
        gradient = np.abs(X.T @ (y - np.asarray(found.predict(X))) / len(y))
        knot = np.where(coef != 0, h * np.abs(coef), lam - gradient).min()
        assert found.margin == pytest.approx(knot, rel=1e-4, abs=1e-11)
        # The columns have variance inflation factors of up to about 5.
        assert distance / 6 < found.margin < 6 * distance


@pytest.mark.parametrize("kind", ["logistic", "poisson"])
def test_of_another_loss_it_is_of_that_order(kind):
    X, y = correlated()
    loss = {"logistic": l1jax.Logistic(), "poisson": l1jax.Poisson()}[kind]
    y = (y > 0).astype(float) if kind == "logistic" else np.floor(np.abs(y))
    lam = float(l1jax.lambda_max(X, y, l1jax.L1(), loss=loss))
    for pen in (l1jax.L1(lam * (1 + 1e-5)), l1jax.L1(lam * (1 - 1e-5))):
        found = l1jax.fit(X, y, pen, loss=loss, tol=1e-14)
        assert found.n_nonzero == (pen.lam < lam)
        assert lam * 1e-5 / 3 < found.margin < 3 * lam * 1e-5
