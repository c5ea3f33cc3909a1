"""The compiled path: exact at every strength, the same under `jit` and `vmap`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import l1jax
from l1jax import _compile
from l1jax.linear.engines import _compiled_engine, _engine
from l1jax.linear.engines.compiled import _follow
from l1jax.linear.engines.compiled._batching import any_lane

N, P = 40, 150
RNG = np.random.default_rng(11)
GAUSS = RNG.normal(size=(N, P))
TRUTH = np.where(np.arange(P) % 30 == 0, 1.5, 0.0)
X32 = GAUSS.astype(np.float32)


def blocks(rng, n, p):
    """Blocks of eight columns that are nearly tied, as genes are."""
    return np.repeat(rng.normal(size=(n, -(-p // 8))), 8, axis=1)[:, :p] + 0.15 * rng.normal(
        size=(n, p)
    )


DESIGNS = {
    "independent": lambda rng, g: g,
    "copies": lambda rng, g: np.concatenate([g[:, : P // 2], g[:, : P // 2]], axis=1),
    "opposite copies": lambda rng, g: np.concatenate([g[:, : P // 2], -g[:, : P // 2]], axis=1),
    "nearly tied": lambda rng, g: blocks(rng, N, P),
    "correlated": lambda rng, g: np.cumsum(g, axis=1),
    "zeros and ones": lambda rng, g: (g > 0.8).astype(float),
    "few values": lambda rng, g: np.round(g),
    "constants": lambda rng, g: np.where(np.arange(P) % 3 == 0, 1.7, g),
    "rank three": lambda rng, g: g[:, :3] @ rng.normal(size=(3, P)),
    "eight decades": lambda rng, g: g * 10 ** rng.uniform(-4, 4, P),
    "tiny": lambda rng, g: 1e-9 * g,
}


def problem(design, seed=0):
    rng = np.random.default_rng(seed)
    x = DESIGNS[design](rng, rng.normal(size=(N, P)))
    deviation = x.std(axis=0)
    unit = x / np.where(deviation > 1e-12, deviation, 1)
    return x, unit @ TRUTH + 0.5 * rng.normal(size=N)


def gap_from_outside(x, y, coef, lam, weights, s):
    """The relative duality gap of a weighted lasso on centred data, in NumPy."""
    x, y = x - s @ x, y - s @ y
    r = y - x @ coef
    correlation = np.abs(x.T @ (s * r))
    theta = r * min(1, (lam * weights / np.maximum(correlation, 1e-300)).min())
    primal = s @ r**2 / 2 + lam * weights @ np.abs(coef)
    dual = (s @ y**2 - s @ (y - theta) ** 2) / 2
    return (primal - dual) / (s @ y**2 / 2)


@pytest.fixture
def served(monkeypatch):
    """How many strengths the compiled path solved, for each call, and which were handed on as short."""
    counts, original, successor = [], _compiled_engine.follow_on_host, _engine._successor

    def follow(*args):
        found = original(*args)
        counts.append(int(found.num_done))
        return found

    def hand_on(engine, plan, tried):
        found = successor(engine, plan, tried)
        counts.append(f"{len(plan)} to {found.name}")
        return found

    monkeypatch.setattr(_compiled_engine, "follow_on_host", follow)
    monkeypatch.setattr(_engine, "_successor", hand_on)
    return counts


@pytest.mark.parametrize("design", DESIGNS)
def test_every_strength_is_solved_exactly(design, served):
    x, y = problem(design)
    path = l1jax.path(x, y, l1jax.L1(), engine="compiled", lam_min_ratio=1e-3)
    assert served == [100]
    ones, s = np.ones(P), np.full(N, 1 / N)
    worst = max(
        gap_from_outside(x, y, coef, lam, ones, s)
        for coef, lam in zip(path.coefs, path.lams, strict=True)
    )
    # 1e-15 but where pivots are small: a step along nearly parallel columns loses half of the digits.
    assert worst < (1e-9 if design == "correlated" else 1e-12)
    assert (path.status == l1jax.Status.CONVERGED).all()


@pytest.mark.fast
@pytest.mark.core
def test_weights_of_rows_and_columns_are_respected(served):
    x, y = problem("independent")
    rng = np.random.default_rng(3)
    s = rng.integers(0, 4, N).astype(float)
    weights = rng.uniform(0.2, 3, P)
    pen = l1jax.L1(weights=weights)
    path = l1jax.path(x, y, pen, sample_weight=s, engine="compiled")
    gaps = [
        gap_from_outside(x, y, coef, lam, weights, s / s.sum())
        for coef, lam in zip(path.coefs, path.lams, strict=True)
    ]
    assert served == [100] and max(gaps) < 1e-12


def test_unpenalised_and_excluded_columns_are_those_of_the_active_set_engine(served):
    x, y = problem("independent")
    weights = np.ones(P)
    weights[[3, 70]], weights[[0, 5]] = 0, np.inf
    pen = l1jax.L1(weights=weights)
    path, other = (l1jax.path(x, y, pen, engine=name) for name in ("compiled", "working_set"))
    assert served == [100] and not path.coefs[:, [0, 5]].any() and path.coefs[:, 3].all()
    # Two exact solvers: what is left is rounding.
    np.testing.assert_allclose(path.coefs, other.coefs, atol=1e-11)
    np.testing.assert_allclose(path.intercepts, other.intercepts, atol=1e-11)


def test_coefficients_may_be_bound_to_be_non_negative(served):
    x, y = problem("nearly tied")
    path = l1jax.path(x, y, l1jax.NonNegativeL1(), engine="compiled")
    assert served == [100] and (path.coefs >= 0).all() and path.n_nonzero[-1] > 5
    xc, r = x - x.mean(axis=0), (y - y.mean())[:, None] - (x - x.mean(axis=0)) @ path.coefs.T
    gradients = (xc.T @ r / N - path.lams).T  # ≤ 0, and 0 where a coefficient is positive
    assert gradients.max() < 1e-12 * path.lams[0]
    assert np.abs(gradients[path.coefs > 0]).max() < 1e-12 * path.lams[0]


def test_copies_that_differ_by_rounding_are_left_to_another_engine(served):
    rng = np.random.default_rng(1)
    half = rng.normal(size=(N, P // 2))
    x = np.concatenate([half, half + 1e-7 * rng.normal(size=half.shape)], axis=1)
    y = half @ TRUTH[: P // 2] + 0.5 * rng.normal(size=N)
    path = l1jax.path(x, y, l1jax.L1(), engine="compiled", lam_min_ratio=1e-3)
    assert served == [served[0], f"{100 - served[0]} to working_set"]
    assert 0 < served[0] < 100 and (path.status == l1jax.Status.CONVERGED).all()


def test_a_larger_capacity_goes_on_where_one_is_full(served, monkeypatch):
    x, y = problem("independent")
    expected = l1jax.path(x, y, l1jax.L1(), engine="working_set")
    monkeypatch.setattr(_follow, "_ONE_CAPACITY", 0)
    monkeypatch.setattr(_follow, "_LADDER", ((24, 8), (48, 16)))
    tried = []
    following = _follow._next
    monkeypatch.setattr(_follow, "_next", lambda *args: tried.append(args[-1]) or following(*args))
    path = l1jax.path(x, y, l1jax.L1(), engine="compiled")
    assert [capacity.active for capacity in tried] == [16, 64] and served == [100]
    np.testing.assert_allclose(path.coefs, expected.coefs, atol=1e-11)


def test_no_program_is_compiled_for_other_sizes_of_the_same_eighth(monkeypatch):
    _compile.forget_programs()
    compiled, obtain = [], _compile._obtain
    monkeypatch.setattr(_compile, "_obtain", lambda *args: compiled.append(args) or obtain(*args))
    for n, p, count in ((40, 150, 100), (38, 147, 96)):
        l1jax.path(GAUSS[:n, :p], GAUSS[:n, 0], l1jax.L1(), n_lams=count, engine="compiled")
    assert len(compiled) == 1


def test_float32_data_are_followed_in_float64(served):
    y = X32 @ TRUTH.astype(np.float32)
    path = l1jax.path(X32, y, l1jax.L1(), engine="compiled")
    assert path.coefs.dtype == np.float32 and served == [100]
    assert (path.status == l1jax.Status.CONVERGED).all()
    exact = l1jax.path(X32.astype(float), y.astype(float), l1jax.L1(), lams=path.lams)
    np.testing.assert_allclose(
        path.coefs, exact.coefs, atol=3e-7
    )  # coefficients of 1.5, in float32


# Curved losses, and a quadratic part of the penalty.


def targets(loss, y):
    level = (y - y.mean()) / y.std()
    counts = np.random.default_rng(4).poisson(np.exp(0.5 * level)).astype(float)
    return {"logistic": (level > 0.3).astype(float), "poisson": counts}.get(loss, y)


CURVED = {
    "logistic": (l1jax.Logistic(), lambda y, eta: 1 / (1 + np.exp(-eta)) - y),
    "poisson": (l1jax.Poisson(), lambda y, eta: np.exp(eta) - y),
    "squared": (l1jax.SquaredError(), lambda y, eta: eta - y),
}
PENALTIES = {
    "l1": (l1jax.L1(), 1.0, 0.0),
    "elastic net": (l1jax.ElasticNet(l1_ratio=0.7), 0.7, 0.3),
}


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("loss", CURVED)
@pytest.mark.parametrize("design", ["independent", "copies", "nearly tied", "eight decades"])
def test_the_path_of_other_losses_meets_the_optimality_conditions(design, loss, penalty, served):
    x, y = problem(design)
    y = targets(loss, y)
    (model, slope), (pen, l1, l2) = CURVED[loss], PENALTIES[penalty]
    options = {"loss": model, "lam_min_ratio": 0.05, "n_lams": 40}
    path = l1jax.path(x, y, pen, engine="compiled", standardize=True, **options)
    assert served == [40] and (path.status == l1jax.Status.CONVERGED).all()
    scale = x.std(axis=0)
    for beta, level, lam in zip(path.coefs, path.intercepts, path.lams, strict=True):
        rest = slope(y, x @ beta + level) / N
        gradient = (x / scale).T @ rest + lam * l2 * beta * scale
        off = np.where(beta == 0, np.maximum(np.abs(gradient) - lam * l1, 0), 0)
        off += np.where(beta != 0, np.abs(gradient + lam * l1 * np.sign(beta)), 0)
        # Solved to 1e-9 of λ; columns of other scales give up some digits.
        assert off.max() < 1e-8 * path.lams[0] and abs(rest.sum()) < 1e-8 * path.lams[0]


def test_a_loose_tolerance_is_met_in_fewer_steps(served):
    x, y = problem("independent")
    y = targets("logistic", y)
    exact, loose = (
        l1jax.path(x, y, l1jax.L1(), loss=l1jax.Logistic(), engine="compiled", tol=tol, n_lams=40)
        for tol in (None, 1e-4)
    )
    assert served == [40, 40] and loose.relative_gaps.max() < 1e-4
    assert (
        exact.relative_gaps.max() < 1e-8 and exact.relative_gaps.max() < loose.relative_gaps.max()
    )


def test_more_columns_than_rows_may_be_active_with_a_quadratic_part(served):
    x, y = problem("independent")
    pen = l1jax.ElasticNet(l1_ratio=0.1)
    path, other = (l1jax.path(x, y, pen, engine=name) for name in ("compiled", "working_set"))
    assert served == [100] and path.n_nonzero.max() > N
    np.testing.assert_allclose(path.coefs, other.coefs, atol=1e-7)


# Under transformations of JAX.


@pytest.fixture(scope="module")
def arrays():
    x, y = problem("nearly tied")
    return jnp.asarray(x), jnp.asarray(y)


@pytest.mark.core
def test_under_jit_the_path_is_that_of_an_eager_call(arrays):
    eager = l1jax.path(*arrays, l1jax.L1(), n_lams=30)
    traced = jax.jit(lambda x, y: l1jax.path(x, y, l1jax.L1(), n_lams=30))(*arrays)
    np.testing.assert_allclose(traced.coefs, eager.coefs, atol=1e-11)
    assert (traced.status == l1jax.Status.CONVERGED).all()
    # Knots, not gradient steps: FISTA takes hundreds for each strength.
    assert traced.num_steps.sum() < 2 * np.count_nonzero(eager.coefs[-1]) + 60


@pytest.mark.slow
def test_under_jit_one_fit_is_that_at_the_end_of_its_path_and_its_derivative_the_difference(arrays):
    x, y = arrays
    lam = float(0.03 * l1jax.lambda_max(x, y, l1jax.L1()))

    def risk(lam, x, y):
        fit = l1jax.fit(x, y, l1jax.L1(lam))
        return (fit.coef**2).sum(), fit

    (_, fit), slope = jax.jit(jax.value_and_grad(risk, has_aux=True))(lam, x, y)
    np.testing.assert_allclose(fit.coef, l1jax.fit(x, y, l1jax.L1(lam)).coef, atol=1e-11)
    assert fit.status == l1jax.Status.CONVERGED and 0 < fit.num_steps < 200
    step = 1e-5 * lam  # inside the segment; the quotient loses half of the digits
    ahead, behind = (risk(lam + sign * step, x, y)[0] for sign in (1, -1))
    assert slope == pytest.approx(float(ahead - behind) / (2 * step), rel=1e-6)


# On a CPU the lanes run one after the other; an accelerator runs them as one batch.
@pytest.mark.slow
@pytest.mark.parametrize("in_turn", [True, False])
def test_lanes_of_sample_weights_are_the_fits_one_by_one(arrays, in_turn, monkeypatch):
    monkeypatch.setattr(_follow, "_runs_lanes_in_turn", lambda: in_turn)
    x, y = arrays
    s = np.random.default_rng(2).exponential(size=(3, N))
    lams = l1jax.lambda_max(x, y, l1jax.L1()) * np.geomspace(0.5, 0.02, 20)

    def path(s):
        return l1jax.path(x, y, l1jax.L1(), lams=lams, sample_weight=s)

    lanes = jax.jit(jax.vmap(path))(jnp.asarray(s))
    assert (lanes.status == l1jax.Status.CONVERGED).all()
    for lane, weights in zip(lanes.coefs, s, strict=True):
        np.testing.assert_allclose(lane, path(weights).coefs, atol=1e-11)


def test_a_predicate_over_lanes_stays_one_number():
    def count(stop):
        return jax.lax.while_loop(
            lambda c: any_lane(c[0] < stop), lambda c: (c[0] + (c[0] < stop), c[1] + 1), (0, 0)
        )

    own, iterations = jax.vmap(count)(jnp.array([3, 7, 5]))
    assert own.tolist() == [3, 7, 5] and iterations.tolist() == [7, 7, 7]
    loops = [
        e
        for e in jax.make_jaxpr(jax.vmap(count))(jnp.arange(3)).eqns
        if e.primitive.name == "while"
    ]
    assert loops and all(e.params["cond_jaxpr"].out_avals[0].shape == () for e in loops)


def test_where_the_path_is_lost_a_traced_call_takes_gradient_steps(arrays, monkeypatch):
    x, y = arrays
    lam = 0.1 * l1jax.lambda_max(x, y, l1jax.L1())
    # A penalty that changes with its strength by more than a factor has no such path.
    original = l1jax.L1.linear_form
    monkeypatch.setattr(
        l1jax.L1,
        "linear_form",
        lambda self, shape: original(self, shape)._replace(up=original(self, shape).up ** 2),
    )
    fit = jax.jit(lambda x, y: l1jax.fit(x, y, l1jax.L1(lam)))(x, y)
    assert fit.status == l1jax.Status.CONVERGED and fit.relative_gap < 1e-6


@pytest.mark.float32
def test_in_float32_a_traced_path_meets_its_tolerance():
    x, y = X32, X32 @ TRUTH.astype(np.float32)
    path = jax.jit(lambda x, y: l1jax.path(x, y, l1jax.L1(), n_lams=20))(x, y)
    assert path.coefs.dtype == np.float32 and (path.status == l1jax.Status.CONVERGED).all()
    assert path.num_steps.max() < 100


@pytest.mark.slow
def test_under_jit_logistic_regression_is_that_of_an_eager_call(arrays):
    x, y = arrays
    y = jnp.asarray(targets("logistic", np.asarray(y)))
    lams = l1jax.lambda_max(x, y, l1jax.L1(), loss=l1jax.Logistic()) * np.geomspace(0.9, 0.05, 10)

    def path(x, y):
        return l1jax.path(x, y, l1jax.L1(), loss=l1jax.Logistic(), lams=lams)

    eager, traced = path(x, y), jax.jit(path)(x, y)
    # The eager one is that of another engine: there are few strengths.
    np.testing.assert_allclose(traced.coefs, eager.coefs, atol=1e-7)
    np.testing.assert_allclose(traced.intercepts, eager.intercepts, atol=1e-7)
    assert (traced.status == l1jax.Status.CONVERGED).all() and traced.num_steps.sum() < 400


def test_a_traced_fit_has_no_part_for_unpenalised_features_where_none_is(arrays):
    """Counted by loops: those of the null model, and those that absorb rounding in the certificates."""
    x, y = arrays

    def loops(first):
        weights = np.append(first, np.ones(P - 1))
        program = jax.make_jaxpr(lambda y: l1jax.fit(x, y, l1jax.L1(0.1, weights)).coef)(y)
        return str(program).count("while[")

    assert loops(0.0) >= loops(1.0) + 4
