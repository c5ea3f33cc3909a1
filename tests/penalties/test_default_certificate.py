"""The certificate of penalties of two methods: their conjugate and the scale of the dual point, by default."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from sklearn.datasets import load_diabetes

import l1jax


class NonNegativeElasticNet(l1jax.Penalty):
    """λ(½‖x‖₁ + ¼‖x‖²) where x ≥ 0."""

    lam: float

    def value(self, x):
        return self.lam * (0.5 * jnp.sum(jnp.abs(x)) + 0.25 * jnp.sum(x**2))

    def violation(self, x):
        return jnp.max(-x, initial=0)

    def prox(self, z, step=1.0):
        return jax.nn.relu(z - 0.5 * step * self.lam) / (1 + 0.5 * step * self.lam)


class LimitedL1(l1jax.Penalty):
    """λ‖x‖₁ where lower ≤ x ≤ upper."""

    lam: float
    lower: jax.Array
    upper: jax.Array

    def value(self, x):
        return self.lam * jnp.sum(jnp.abs(x))

    def violation(self, x):
        return jnp.max(jnp.maximum(self.lower - x, x - self.upper), initial=0)

    def prox(self, z, step=1.0):
        return jnp.clip(l1jax.prox.prox_l1(z, self.lam, step), self.lower, self.upper)


class RidgeToPrior(l1jax.Penalty):
    """½λ‖x − m‖²: its least value is not at zero."""

    lam: float
    prior: jax.Array

    def value(self, x):
        return 0.5 * self.lam * jnp.sum((x - self.prior) ** 2)

    def prox(self, z, step=1.0):
        return (z + step * self.lam * self.prior) / (1 + step * self.lam)


class L1ToPrior(l1jax.Penalty):
    """λ‖x − m‖₁."""

    lam: float
    prior: jax.Array

    def value(self, x):
        return self.lam * jnp.sum(jnp.abs(x - self.prior))

    def prox(self, z, step=1.0):
        return self.prior + l1jax.prox.prox_l1(z - self.prior, self.lam, step)


class Simplex(l1jax.Penalty):
    """x ≥ 0, Σ x = radius."""

    lam: float

    def value(self, x):
        return jnp.zeros((), x.dtype)

    def violation(self, x):
        return jnp.maximum(jnp.abs(jnp.sum(x) - self.lam), jnp.max(-x, initial=0))

    def prox(self, z, step=1.0):
        return l1jax.prox.project_simplex(z, self.lam)


class LassoOrRidge(l1jax.Penalty):
    """λ|xⱼ| for the first half of the coordinates, ½λxⱼ² for the others."""

    lam: float

    def value(self, x):
        half = len(x) // 2
        return self.lam * (jnp.sum(jnp.abs(x[:half])) + 0.5 * jnp.sum(x[half:] ** 2))

    def prox(self, z, step=1.0):
        half = len(z) // 2
        first = l1jax.prox.prox_l1(z[:half], self.lam, step)
        return jnp.concatenate([first, z[half:] / (1 + step * self.lam)])


P = 6
RNG = np.random.default_rng(0)
PRIOR = RNG.normal(size=P)
LOWER, UPPER = np.full(P, -0.5), np.array([0.3, 2.0, 0.3, 2.0, 0.0, 2.0])
LAM = 0.7

# Each with its conjugate in closed form, derived by hand.
CASES = {
    "non-negative elastic net": (
        NonNegativeElasticNet(LAM),
        lambda v: np.sum(np.maximum(v - LAM / 2, 0) ** 2) / LAM,
    ),
    "L1 with limits": (
        LimitedL1(LAM, LOWER, UPPER),
        lambda v: np.sum(np.maximum(0, np.maximum(UPPER * (v - LAM), LOWER * (v + LAM)))),
    ),
    "ridge to a prior": (
        RidgeToPrior(LAM, PRIOR),
        lambda v: PRIOR @ v + v @ v / (2 * LAM),
    ),
    "L1 to a prior": (
        L1ToPrior(LAM, PRIOR),
        lambda v: PRIOR @ v if np.abs(v).max() <= LAM else np.inf,
    ),
    "simplex": (Simplex(LAM), lambda v: LAM * v.max()),
    "lasso or ridge": (
        LassoOrRidge(LAM),
        lambda v: (
            v[P // 2 :] @ v[P // 2 :] / (2 * LAM) if np.abs(v[: P // 2]).max() <= LAM else np.inf
        ),
    ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.slow
def test_conjugate_is_the_closed_form(name, dtype):
    pen, conjugate = CASES[name]
    pen = jax.tree.map(lambda leaf: np.asarray(leaf, dtype), pen)
    # A sum of P terms that rounds each product once or twice; but where two coordinates are nearly tied a
    # projection on the simplex takes the difference of numbers that are a thousand times as large.
    units = 10_000 if name == "simplex" else 100
    found = jax.jit(jax.vmap(lambda v: pen.conjugate(v)))
    # Inside of the dual ball of the lasso parts, and outside.
    for size in (0.1, 0.9, 3.0):
        v = RNG.uniform(-1, 1, size=(50, P)).astype(dtype) * size * LAM
        expected = np.array([conjugate(row.astype(np.float64)) for row in v])
        rounding = units * float(np.finfo(dtype).eps)
        np.testing.assert_allclose(found(v), expected, rtol=rounding, atol=rounding)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.fast
def test_dual_scale_is_the_largest_in_the_domain(name):
    pen, conjugate = CASES[name]
    v = RNG.normal(size=P) * 4
    scale = float(jax.jit(lambda v: pen.dual_scale(v))(v))
    assert np.isfinite(conjugate(scale * (1 - 1e-14) * v))
    assert scale == 1 or conjugate(scale * (1 + 1e-13) * v) == np.inf


DIABETES = load_diabetes(return_X_y=True)


@pytest.fixture(scope="module")
def diabetes():
    X, y = DIABETES
    return (X - X.mean(axis=0)) / X.std(axis=0), y


def bounded_minimum(X, y, penalty, lower, upper):
    """The β that minimises ½ mean (y − Xβ)² + penalty(β⁺, β⁻) within limits, by SciPy; y is centred."""
    n, p = X.shape
    y = y - y.mean()

    def objective(parts):
        beta = parts[:p] - parts[p:]
        residual = y - X @ beta
        value, gradient = penalty(parts[:p], parts[p:])
        slope = -X.T @ residual / n
        return 0.5 * residual @ residual / n + value, np.concatenate([slope, -slope]) + gradient

    bounds = [(0, u) for u in upper] + [(0, -low) for low in lower]
    found = scipy.optimize.minimize(
        objective,
        np.zeros(2 * p),
        jac=True,
        bounds=bounds,
        method="L-BFGS-B",
        options={"maxiter": 10_000, "ftol": 1e-16, "gtol": 1e-12},
    )
    return found.x[:p] - found.x[p:]


@pytest.mark.slow
def test_non_negative_elastic_net_of_ones_own_is_solved(diabetes):
    X, y = diabetes
    fit = l1jax.fit(X, y, NonNegativeElasticNet(1.0))
    assert fit.status == l1jax.Status.CONVERGED
    assert fit.relative_gap <= 1e-6

    def penalty(up, down):
        return 0.5 * np.sum(up) + 0.25 * up @ up, np.concatenate([0.5 + 0.5 * up, 0 * down])

    expected = bounded_minimum(X, y, penalty, np.zeros(10), np.full(10, np.inf))
    # L-BFGS-B stops where the objective no longer changes: half of the digits of a coefficient.
    np.testing.assert_allclose(fit.coef, expected, atol=1e-4)
    np.testing.assert_allclose(
        expected, [0, 0, 19.11, 10.71, 0, 0, 0, 6.76, 15.97, 4.74], atol=0.006
    )


@pytest.mark.slow
def test_limits_on_coefficients_of_ones_own_are_solved(diabetes):
    X, y = diabetes
    lower, upper = np.full(10, -5.0), np.full(10, 15.0)
    fit = l1jax.fit(X, y, LimitedL1(1.0, lower, upper))
    assert fit.status == l1jax.Status.CONVERGED
    assert fit.relative_gap <= 1e-6

    def penalty(up, down):
        return np.sum(up) + np.sum(down), np.ones(20)

    expected = bounded_minimum(X, y, penalty, lower, upper)
    np.testing.assert_allclose(fit.coef, expected, atol=1e-4)
    assert np.sum(fit.coef == 15) == 3 and np.sum(fit.coef == -5) >= 1


@pytest.mark.slow
def test_ridge_to_a_prior_is_the_closed_form(diabetes):
    X, y = diabetes
    prior = np.linspace(-20, 20, 10)
    fit = l1jax.fit(X, y, RidgeToPrior(0.3, prior))
    assert fit.status == l1jax.Status.CONVERGED
    n = len(y)
    expected = prior + np.linalg.solve(
        X.T @ X / n + 0.3 * np.eye(10), X.T @ (y - y.mean() - X @ prior) / n
    )
    np.testing.assert_allclose(fit.coef, expected, rtol=1e-9)


class Lasso(l1jax.Penalty):
    lam: float

    def value(self, x):
        return self.lam * jnp.sum(jnp.abs(x))

    def prox(self, z, step=1.0):
        return l1jax.prox.prox_l1(z, self.lam, step)


@pytest.mark.slow
def test_python_numbers_of_ones_own_penalty_keep_their_digits(diabetes):
    X, y = diabetes
    with jax.enable_x64(False):
        own = l1jax.fit(X, y, Lasso(0.7))
        built_in = l1jax.fit(X, y, l1jax.L1(0.7))
    assert own.lam == 0.7
    np.testing.assert_allclose(own.coef, built_in.coef, rtol=1e-11, atol=1e-11)
    assert own.objective <= built_in.objective * (1 + 1e-14)


class Box(l1jax.Penalty):
    """lower ≤ x ≤ upper, without a word on how far outside a point is."""

    lam: float
    lower: float
    upper: float

    def value(self, x):
        return jnp.zeros((), x.dtype)

    def prox(self, z, step=1.0):
        return jnp.clip(z, self.lower, self.upper)


@pytest.mark.slow
def test_a_box_without_zero_is_solved(diabetes):
    X, y = diabetes
    for lower, upper in ((-3.0, -1.0), (60.0, 70.0)):
        fit = l1jax.fit(X, y, Box(1.0, lower, upper))
        expected = scipy.optimize.lsq_linear(X, y - y.mean(), (lower, upper), tol=1e-14).x
        assert fit.status == l1jax.Status.CONVERGED
        assert fit.relative_gap <= 1e-6
        # lsq_linear ends at half of the digits of a coefficient.
        np.testing.assert_allclose(fit.coef, expected, atol=1e-4)


class Limits(l1jax.Penalty):
    """A penalty without a strength."""

    upper: float

    def value(self, x):
        return jnp.zeros((), x.dtype)

    def prox(self, z, step=1.0):
        return jnp.clip(z, 0, self.upper)


@pytest.mark.slow
def test_a_penalty_without_a_strength_is_fitted(diabetes):
    X, y = diabetes
    fit = l1jax.fit(X, y, Limits(20.0))
    assert fit.status == l1jax.Status.CONVERGED and np.isnan(fit.lam)
    expected = scipy.optimize.lsq_linear(X, y - y.mean(), (0, 20), tol=1e-14).x
    np.testing.assert_allclose(fit.coef, expected, atol=1e-4)


class Unset(Lasso):
    lam: float | None = None


def test_a_strength_that_is_missing_is_asked_for(diabetes):
    with pytest.raises(ValueError, match="Unset has no lam yet"):
        l1jax.fit(*diabetes, Unset())


class InfiniteBall(l1jax.Penalty):
    """‖x‖₂ ≤ radius, with a value that is infinite outside: by an ulp that its own prox ends there."""

    lam: float
    radius: float

    def value(self, x):
        return jnp.where(jnp.sqrt(jnp.sum(x**2)) <= self.radius, 0.0, jnp.inf)

    def prox(self, z, step=1.0):
        norm = jnp.sqrt(jnp.sum(z**2))
        outside = norm > self.radius
        return jnp.where(outside, z * (self.radius / jnp.where(outside, norm, 1)), z)


@pytest.mark.parametrize("radius", [11.0, 20.0, 23.7, 29.0, 31.3])
@pytest.mark.filterwarnings("ignore::l1jax.ConvergenceWarning")
@pytest.mark.slow
def test_a_value_that_is_infinite_gives_no_false_certificate(diabetes, radius):
    X, y = diabetes
    fit = l1jax.fit(X, y, InfiniteBall(1.0, radius))

    def shrunk(ridge):
        return np.linalg.solve(X.T @ X / len(y) + ridge * np.eye(10), X.T @ (y - y.mean()) / len(y))

    ridge = scipy.optimize.brentq(lambda r: np.linalg.norm(shrunk(r)) - radius, 1e-9, 1e3)
    least = 0.5 * np.mean((y - y.mean() - X @ shrunk(ridge)) ** 2)
    loss = 0.5 * np.mean((y - fit.predict(X)) ** 2)
    np.testing.assert_allclose(fit.coef, shrunk(ridge), atol=1e-3)
    assert loss - least <= 1e-6 * least
    # Rounding takes half of the points on the sphere for points outside: no objective, and no certificate.
    assert np.isfinite(fit.objective) == (fit.status == l1jax.Status.CONVERGED)


@pytest.mark.parametrize("lam", [0.7, np.float64(0.7), np.asarray(0.7)])
@pytest.mark.slow
def test_numbers_of_ones_own_penalty_take_the_precision_of_the_data(diabetes, lam):
    X, y = (part.astype(np.float32) for part in diabetes)
    fit = l1jax.fit(X, y, Lasso(lam))
    assert fit.coef.dtype == np.float32
    assert fit.status == l1jax.Status.CONVERGED


@pytest.mark.parametrize(
    "lam, error, message",
    [(-1.0, ValueError, "lam must be non-negative"), ("much", TypeError, "lam must be a number")],
)
def test_strengths_of_ones_own_penalty_are_checked(diabetes, lam, error, message):
    with pytest.raises(error, match=message):
        l1jax.fit(*diabetes, Lasso(lam))


@pytest.mark.slow
def test_another_strength_of_ones_own_penalty_compiles_nothing(diabetes, caplog):
    X, y = diabetes
    with jax.log_compiles():  # where it is on, programs are those of `jit`
        l1jax.fit(X, y, Lasso(0.5))
        caplog.clear()
        for lam in (0.4, 1, np.float32(0.25)):
            l1jax.fit(X, y, Lasso(lam))
    assert not [record for record in caplog.records if "Compiling" in record.getMessage()]


class LooseElasticNet(NonNegativeElasticNet):
    """Its conjugate bounds the true one from above, loosely."""

    def conjugate(self, v):
        return jnp.sum(jnp.where(v <= 0.5 * self.lam, 0, 1e3 * v**2))


@pytest.mark.slow
def test_a_loose_bound_does_not_choose_the_solution(diabetes):
    X, y = diabetes
    tight = l1jax.fit(X, y, NonNegativeElasticNet(1.0))
    with pytest.warns(l1jax.ConvergenceWarning):
        loose = l1jax.fit(X, y, LooseElasticNet(1.0))
    assert loose.status != l1jax.Status.CONVERGED
    np.testing.assert_allclose(loose.coef, tight.coef, atol=1e-6)
