"""An engine of one's own: one class and one line of registration."""

import numpy as np
import pytest
from sklearn.linear_model import Lasso

import l1jax
from l1jax.linear.engines._engine import ENGINES

rng = np.random.default_rng(0)
X = rng.normal(size=(30, 8))
Y = X[:, 0] - 2 * X[:, 3] + rng.normal(size=30)


class CoordinateDescent(l1jax.Engine):
    """Cyclic coordinate descent for the lasso (Friedman, Hastie, Tibshirani 2010)."""

    name = "coordinate_descent"

    def __init__(self, sweeps=500):
        self.sweeps = sweeps
        self.plans = []

    def supports(self, plan):
        is_lasso = isinstance(plan.pen, l1jax.L1) and plan.problem.loss.is_quadratic
        return (
            None if is_lasso and not plan.is_traced() else "solves SquaredError with L1, untraced"
        )

    def run(self, plan):
        self.plans.append(plan)
        q = plan.problem
        x, s = np.asarray(q.x.dot(np.eye(q.x.shape[1]))), np.asarray(q.s)
        target = np.asarray(q.y - q.offset)
        centre = s @ target if q.fit_intercept else 0.0
        beta, betas = np.zeros(x.shape[1]), []
        rest = target - centre
        for lam in np.asarray(plan.lams):
            for _ in range(self.sweeps):
                for j, column in enumerate(x.T):
                    square = s @ column**2
                    z = s @ (column * rest) + square * beta[j]
                    new = np.sign(z) * max(abs(z) - lam, 0) / square
                    rest = rest + column * (beta[j] - new)
                    beta[j] = new
            betas.append(beta.copy())
        counts = np.full(len(plan), self.sweeps)
        return plan.certified(np.stack(betas), np.full(len(plan), centre), counts)


@pytest.fixture
def engine(monkeypatch):
    made = CoordinateDescent()
    monkeypatch.setitem(ENGINES, made.name, made)
    return made


def test_it_serves_fit_path_and_cross_validate_by_its_name(engine):
    fit = l1jax.fit(X, Y, l1jax.L1(0.2), engine="coordinate_descent")
    oracle = Lasso(0.2, tol=1e-12).fit(X, Y)
    np.testing.assert_allclose(fit.coef, oracle.coef_, atol=1e-10)
    assert fit.status == l1jax.Status.CONVERGED and fit.num_steps == 500
    path = l1jax.path(X, Y, l1jax.L1(), lams=[0.2, 0.1], engine="coordinate_descent")
    np.testing.assert_allclose(path.coefs[0], oracle.coef_, atol=1e-10)
    assert (path.status == l1jax.Status.CONVERGED).all() and (path.gaps < 1e-10).all()
    cv = l1jax.cross_validate(
        X, Y, l1jax.L1(), lams=[0.2, 0.1], n_folds=3, engine="coordinate_descent"
    )
    other = l1jax.cross_validate(X, Y, l1jax.L1(), lams=[0.2, 0.1], n_folds=3)
    np.testing.assert_allclose(cv.fold_scores, other.fold_scores, rtol=1e-9)
    assert len(engine.plans) == 1 + 1 + 4 and l1jax.fit(X, Y, l1jax.L1(0.2)).num_steps != 500


def test_what_it_leaves_short_is_certified_as_short_and_solved_by_gradient_steps(engine):
    engine.sweeps = 1
    plain = l1jax.path(X, Y, l1jax.L1(), lams=[0.2, 0.1, 1e-3])
    path = l1jax.path(X, Y, l1jax.L1(), lams=[0.2, 0.1, 1e-3], engine="coordinate_descent")
    assert (path.num_steps > 1).any() and (path.status == l1jax.Status.CONVERGED).all()
    np.testing.assert_allclose(path.coefs, plain.coefs, atol=1e-8)
    engine.leaves_rest = False
    with pytest.warns(l1jax.ConvergenceWarning, match="PRECISION_LIMIT"):
        short = l1jax.path(X, Y, l1jax.L1(), lams=[0.2, 0.1, 1e-3], engine="coordinate_descent")
    assert (short.num_steps == 1).all() and (short.relative_gaps > 1e-6).any()


@pytest.mark.fast
def test_what_it_does_not_support_is_refused_with_its_reason(engine):
    with pytest.raises(ValueError, match=r'"coordinate_descent" solves SquaredError with L1'):
        l1jax.fit(X, Y, l1jax.Ridge(0.2), engine="coordinate_descent")
    with pytest.raises(ValueError, match=r"engine must be one of .*coordinate_descent"):
        l1jax.path(X, Y, l1jax.L1(), engine="simplex")


def test_auto_takes_it_where_it_says_that_it_is_preferred(engine, monkeypatch):
    monkeypatch.setattr(
        CoordinateDescent, "is_preferred", lambda self, plan: plan.problem.x.shape[0] < 100
    )
    assert l1jax.fit(X, Y, l1jax.L1(0.2)).num_steps == 500
    assert l1jax.fit(X, Y, l1jax.ElasticNet(0.2)).num_steps != 500


def test_only_engines_with_a_name_are_registered(engine):
    with pytest.raises(TypeError, match="must be an instance of"):
        l1jax.register_engine(CoordinateDescent)
    for name in ("auto", None):
        engine.name = name
        with pytest.raises(ValueError, match='name must be a string other than "auto"'):
            l1jax.register_engine(engine)


def test_a_successor_is_an_engine_that_is_known(engine):
    engine.successor = "nope"
    with pytest.raises(ValueError, match=r"CoordinateDescent.successor must be .*got 'nope'"):
        l1jax.register_engine(engine)


@pytest.mark.parametrize(
    "successors", [("coordinate_descent", "other"), ("other", "coordinate_descent")]
)
def test_engines_that_name_each_other_end_in_gradient_steps(engine, monkeypatch, successors):
    def run(self, plan):
        self.plans.append(plan)
        raise l1jax.NumericalBreakdown

    other = CoordinateDescent()
    monkeypatch.setattr(CoordinateDescent, "run", run)
    monkeypatch.setitem(ENGINES, "other", other)
    other.name, (engine.successor, other.successor) = "other", successors
    fit = l1jax.fit(X, Y, l1jax.L1(0.2), engine="coordinate_descent")
    np.testing.assert_allclose(fit.coef, Lasso(0.2, tol=1e-12).fit(X, Y).coef_, atol=1e-6)
    assert len(engine.plans) == 1 and len(other.plans) == (successors[0] == "other")


def test_what_is_not_finite_is_solved_by_gradient_steps_from_the_start(engine, monkeypatch):
    def run(self, plan):
        betas = np.zeros((len(plan), 8))
        betas[0] = np.nan
        return plan.certified(betas, np.zeros(len(plan)), np.zeros(len(plan), int))

    monkeypatch.setattr(CoordinateDescent, "run", run)
    path = l1jax.path(X, Y, l1jax.L1(), lams=[0.2, 0.1], engine="coordinate_descent")
    plain = l1jax.path(X, Y, l1jax.L1(), lams=[0.2, 0.1])
    np.testing.assert_allclose(path.coefs, plain.coefs, atol=1e-8)
    assert (path.status == l1jax.Status.CONVERGED).all()


@pytest.mark.parametrize(
    ("run", "error", "message"),
    [
        (lambda plan: None, TypeError, r'engine="coordinate_descent" must return a Path.*NoneType'),
        (
            lambda plan: ENGINES["sequential"].run(plan.only(np.array([0]))),
            TypeError,
            "return a Path",
        ),
        (
            lambda plan: plan.certified(np.zeros(8), 0.0, 1),
            ValueError,
            r"betas.*\(2, 8\), got \(8,\)",
        ),
        (
            lambda plan: plan.certified(np.zeros((2, 8)), np.zeros(2), 1),
            ValueError,
            r"num_steps must have shape \(2,\), got \(\)",
        ),
    ],
)
def test_what_an_engine_returns_is_checked(engine, monkeypatch, run, error, message):
    monkeypatch.setattr(CoordinateDescent, "run", lambda self, plan: run(plan))
    with pytest.raises(error, match=message):
        l1jax.path(X, Y, l1jax.L1(), lams=[0.2, 0.1], engine="coordinate_descent")


class WithoutStrength(l1jax.Penalty):
    """A penalty that has no number to take from a grid."""

    def value(self, x):
        return 0.2 * abs(x).sum()

    def prox(self, z, step=1.0):
        return l1jax.prox.prox_l1(z, 0.2 * step)


@pytest.mark.slow
def test_a_penalty_without_a_strength_is_fitted_and_has_no_path(engine, monkeypatch):
    monkeypatch.setattr(CoordinateDescent, "supports", lambda self, plan: None)
    monkeypatch.setattr(
        CoordinateDescent, "run", lambda self, plan: plan.certified(np.zeros((1, 8)), [0.0], [1])
    )
    fit = l1jax.fit(X, Y, WithoutStrength(), engine="coordinate_descent")
    np.testing.assert_allclose(fit.coef, Lasso(0.2, tol=1e-12).fit(X, Y).coef_, atol=1e-8)
    constant = l1jax.fit(X, np.ones(30), WithoutStrength())
    assert constant.status == l1jax.Status.CONVERGED and not constant.coef.any()
    for call in (l1jax.path, l1jax.cross_validate):
        with pytest.raises(AttributeError, match="has no field 'lam'"):
            call(X, Y, WithoutStrength(), lams=[0.2, 0.1])


@pytest.mark.parametrize("name", [name for name in ENGINES if not name.startswith("coord")])
@pytest.mark.slow
def test_every_engine_serves_fit_and_path_with_the_same_answers(name):
    x, options = X, {"engine": name}
    if name == "row_blocks":  # of X in blocks; it ends at `tol`
        x, options = l1jax.blocks([X[:20], X[20:]]), options | {"tol": 1e-14}
    fit = l1jax.fit(x, Y, l1jax.L1(0.2), **options)
    path = l1jax.path(x, Y, l1jax.L1(), lams=[0.2], **options)
    np.testing.assert_allclose(
        fit.coef, path.coefs[0], atol=1e-8 if name == "row_blocks" else 1e-10
    )
    np.testing.assert_allclose(fit.coef, Lasso(0.2, tol=1e-12).fit(X, Y).coef_, atol=1e-8)
