"""Derivatives of solutions, against central differences of solutions and against closed forms."""

import functools

import equinox as eqx
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

import l1jax
from l1jax.linear.derivatives import _differentiable

pytestmark = pytest.mark.filterwarnings("ignore::l1jax.ConvergenceWarning")
exact = functools.partial(l1jax.fit, tol=1e-13)  # as exact as rounding lets it be

N, P = 24, 12
GROUPS = np.repeat(np.arange(4), 3)
_rng = np.random.default_rng(1)
X = _rng.normal(size=(N, P)) @ (np.eye(P) + 0.1 * _rng.normal(size=(P, P)))
BETA = np.array([1.5, -1, 0.8, 0.7, -0.9] + [0.0] * 7)
ETA = X @ BETA
WEIGHTS = np.array([1.0, 0.7, 1.3, 0.0, 1.1, 0.6, 0.9, 1.4, 0.8, 1.2, 1.0, 0.5])
LOSSES = {
    "squared": (l1jax.SquaredError(), ETA + 0.3 * _rng.normal(size=N)),
    "huber": (l1jax.Huber(0.8), ETA + 0.5 * _rng.standard_t(2, size=N)),
    "logistic": (l1jax.Logistic(), (_rng.uniform(size=N) < 1 / (1 + np.exp(-ETA))) * 1.0),
    "poisson": (l1jax.Poisson(), _rng.poisson(np.exp(0.4 * ETA)) * 1.0),
    "hinge": (l1jax.SquaredHinge(), (ETA + _rng.normal(size=N) > 0) * 1.0),
    "cox": (
        l1jax.Cox("efron"),
        np.column_stack([np.ceil(9 * _rng.exponential(np.exp(-0.3 * ETA))), np.arange(N) % 4 > 0]),
    ),
}
CLASSES = np.digitize(ETA + _rng.normal(size=N), [-1, 1])


class Tilted(l1jax.Penalty):
    """Known to the library by its value and its prox alone."""

    lam: float

    def value(self, x):
        return self.lam * jnp.sum(jnp.maximum(2 * x, -x))

    def prox(self, z, step=1.0):
        return jax.nn.relu(z - 2 * step * self.lam) - jax.nn.relu(-z - step * self.lam)


PENALTIES = {
    "l1": l1jax.L1(0.08, WEIGHTS),
    "elastic_net": l1jax.ElasticNet(0.1, 0.6, WEIGHTS),
    "ridge": l1jax.Ridge(0.1, WEIGHTS),
    "nonnegative": l1jax.NonNegativeL1(0.05),
    "group": l1jax.GroupL1(0.08, GROUPS, [1.0, 1.5, 0.8, 1.2]),
    "sparse_group": l1jax.SparseGroupL1(0.08, GROUPS, 0.4, [1.0, 1.5, 0.8, 1.2]),
    "ball": l1jax.L1Ball(1.3),
    "tilted": Tilted(0.04),
}
# Each loss, and each penalty; the other pairs share all of their code with these.
PAIRS = [(loss, "l1") for loss in LOSSES] + [("squared", pen) for pen in PENALTIES if pen != "l1"]
PAIRS += [("logistic", "group")]
FURTHER = [("squared", "group"), ("squared", "ball")]  # forward, and the first also compiled


def problem(loss, pen):
    """Everything that enters a fit, as one tree, and a number that its answer comes to."""
    loss, y = LOSSES[loss]
    leaves, static = eqx.partition(PENALTIES[pen], lambda leaf: eqx.is_array_like(leaf))
    is_smooth = isinstance(loss, l1jax.SquaredError | l1jax.Huber)
    rng = np.random.default_rng(2)
    entering = {
        "X": X,
        "y": y if is_smooth else None,
        "sample_weight": rng.uniform(0.5, 1.5, size=N),
        "offset": 0.1 * rng.normal(size=N),
        "pen": jax.tree.map(lambda leaf: np.asarray(leaf, float), _floats(leaves)),
        "loss": loss if isinstance(loss, l1jax.Huber) else None,
    }
    direction = rng.normal(size=P)

    def answer(entering):
        found = exact(
            entering["X"],
            y if entering["y"] is None else entering["y"],
            eqx.combine(entering["pen"], leaves, static),
            loss=entering["loss"] or loss,
            standardize=True,
            sample_weight=entering["sample_weight"],
            offset=entering["offset"],
        )
        of_coefs = jnp.sum(direction @ jnp.sin(found.coef)) + 0.7 * jnp.sum(found.intercept**2)
        return of_coefs + 0.5 * found.objective + 0.3 * found.deviance_explained

    return answer, entering


def _floats(leaves):
    return jax.tree.map(lambda leaf: leaf if np.asarray(leaf).dtype.kind == "f" else None, leaves)


def approx(expected, **tolerances):
    return pytest.approx(np.asarray(expected), **tolerances)


def some_move(tree, seed=0):
    """A direction for every array; what is zero (a weight that leaves a feature free) stays."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: np.where(leaf == 0, 0.0, rng.normal(size=np.shape(leaf))), tree
    )


def only(tree, name):
    """The direction for one argument, and zero for the others."""
    return jax.tree.map(np.zeros_like, tree) | {name: tree[name]}


def inner(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return sum(float(np.vdot(np.asarray(x), np.asarray(y))) for x, y in pairs)


@pytest.mark.parametrize(("loss", "pen"), PAIRS)
@pytest.mark.slow
def test_the_gradient_by_each_argument_is_the_difference_of_solutions(loss, pen):
    answer, entering = problem(loss, pen)
    gradient = jax.grad(answer)(entering)
    h = 3e-6
    for name, part in entering.items():
        if not jax.tree.leaves(part):
            continue
        move = only(some_move(entering), name)
        ahead, behind = (
            answer(jax.tree.map(lambda x, d, sign=sign: x + sign * h * d, entering, move))
            for sign in (1, -1)
        )
        # Differences are good to h² and to rounding over h.
        expected = float(ahead - behind) / (2 * h)
        assert inner(gradient, move) == approx(expected, rel=1e-6, abs=1e-9), name
    if (loss, pen) in FURTHER:
        move = some_move(entering)
        forward = jax.jvp(answer, (entering,), (move,))[1]
        assert forward == approx(inner(gradient, move), rel=1e-10)
    if (loss, pen) == FURTHER[0]:
        # The traced solver ends at its own rounding, and so does conjugate gradients.
        compiled = jax.jit(jax.grad(answer))(entering)
        for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(compiled), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9)


@pytest.mark.slow
def test_softmax_has_the_derivatives_of_newtons_solutions():
    # Gradient steps end too far from the optimum for differences: Newton goes on, on their support.
    def answer(coef, intercept):
        return jnp.sum(np.linspace(-1, 1, P) @ jnp.sin(coef)) + 0.7 * jnp.sum(intercept**2)

    def ours(entering):
        X, weight, lam = entering
        fit = l1jax.fit(
            X, CLASSES, l1jax.L1(lam), loss=l1jax.Multinomial(3), sample_weight=weight, tol=1e-10
        )
        return answer(fit.coef, fit.intercept)

    entering = (X, np.random.default_rng(3).uniform(0.5, 1.5, N), 0.05)
    center = l1jax.fit(
        X, CLASSES, l1jax.L1(0.05), loss=l1jax.Multinomial(3), sample_weight=entering[1], tol=1e-10
    )
    signs = np.sign(center.coef)
    inside = np.flatnonzero(signs)

    def parts(u):
        return jnp.zeros(3 * P).at[inside].set(u[:-3]).reshape(P, 3), u[-3:]

    def objective(u, entering):
        X, weight, lam = entering
        coef, intercept = parts(u)
        log = jax.nn.log_softmax(jnp.asarray(X) @ coef + intercept)[np.arange(N), CLASSES]
        return -jnp.sum(weight * log) / jnp.sum(weight) + lam * jnp.sum(signs * coef)

    slope, hessian = jax.jit(jax.grad(objective)), jax.jit(jax.hessian(objective))

    def theirs(entering):
        u = np.append(np.asarray(center.coef).ravel()[inside], center.intercept)
        for _ in range(6):
            u = u - np.linalg.lstsq(hessian(u, entering), slope(u, entering))[0]
        assert np.abs(slope(u, entering)).max() < 1e-14
        return float(answer(*parts(u)))

    assert 5 < len(inside) < 25
    gradient, h = jax.grad(ours)(entering), 1e-5
    for name in range(3):
        move = [np.zeros_like(part) for part in entering]
        move[name] = np.random.default_rng(4).normal(size=np.shape(entering[name]))
        ahead, behind = (
            theirs([part + sign * h * d for part, d in zip(entering, move, strict=True)])
            for sign in (1, -1)
        )
        expected = (ahead - behind) / (2 * h)
        assert inner(gradient, move) == pytest.approx(expected, rel=1e-6), name


def lasso(lam, X=X, y=LOSSES["squared"][1]):
    return exact(jnp.asarray(X), jnp.asarray(y), l1jax.L1(lam)).coef


def closed_form(lam):
    """dβ_S/dλ = −n (X_SᵀX_S)⁻¹ sign(β_S), on centred columns."""
    coef = np.asarray(lasso(lam))
    inside = coef != 0
    derivative = np.zeros(P)
    part = (X - X.mean(axis=0))[:, inside]
    derivative[inside] = -N * np.linalg.solve(part.T @ part, np.sign(coef[inside]))
    return derivative


@pytest.mark.core
@pytest.mark.parametrize("compiled", [False, True])
def test_the_derivative_of_the_lasso_is_its_closed_form(compiled):
    for mode in [jax.jacrev] if compiled else [jax.jacrev, jax.jacfwd]:
        derivative = jax.jit(mode(lasso)) if compiled else mode(lasso)
        np.testing.assert_allclose(derivative(0.1), closed_form(0.1), rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_second_derivatives():
    y = LOSSES["logistic"][1]

    def held_out(lam):
        found = exact(jnp.asarray(X), jnp.asarray(y), l1jax.L1(lam), loss=l1jax.Logistic())
        return jnp.sum(jnp.cos(found.predict(X, kind="link")))

    lam, h = 0.05, 1e-6
    first = jax.grad(held_out)
    expected = (first(lam + h) - first(lam - h)) / (2 * h)
    assert jax.jacfwd(jax.jacfwd(held_out))(lam) == approx(expected, rel=1e-6)
    assert jax.jit(jax.hessian(held_out))(lam) == approx(expected, rel=1e-6)


@pytest.mark.slow
def test_batches_of_derivatives_are_those_at_each_lam():
    def size(lam):
        return jnp.sum(lasso(lam) ** 2)

    lams = jnp.array([0.05, 0.1, 0.4])
    together = jax.vmap(jax.grad(size))(lams)
    np.testing.assert_allclose(together, [jax.grad(size)(lam) for lam in lams], rtol=1e-7)


@pytest.mark.slow
def test_a_path_has_the_derivatives_of_its_fits():
    y = jnp.asarray(LOSSES["squared"][1])
    lams = jnp.array([0.2, 0.4, 0.05])  # not in order

    def ends(lams, y):
        return jnp.sum(l1jax.path(jnp.asarray(X), y, l1jax.L1(), lams=lams).coefs ** 3, axis=1)

    def one_by_one(lams, y):
        fits = [exact(jnp.asarray(X), y, l1jax.L1(lams[i])) for i in (1, 0, 2)]
        return jnp.stack([jnp.sum(fit.coef**3) for fit in fits])

    expected = jax.jacrev(one_by_one, argnums=(0, 1))(lams, y)
    for found in (
        jax.jacrev(ends, argnums=(0, 1))(lams, y),
        jax.jit(jax.jacfwd(ends, argnums=(0, 1)))(lams, y),
    ):
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9)


def test_lambda_max_has_derivatives():
    y, h = jnp.asarray(LOSSES["logistic"][1]), 1e-6
    offset = jnp.asarray(np.random.default_rng(3).normal(size=N))

    def biggest(offset):
        return l1jax.lambda_max(jnp.asarray(X), y, l1jax.L1(), loss=l1jax.Logistic(), offset=offset)

    move = jnp.cos(jnp.arange(N))
    expected = (biggest(offset + h * move) - biggest(offset - h * move)) / (2 * h)
    assert jax.grad(biggest)(offset) @ move == approx(expected, rel=1e-6)


def test_above_lambda_max_only_the_intercept_has_a_derivative():
    y = jnp.asarray(LOSSES["squared"][1])
    lam = 1.1 * float(l1jax.lambda_max(X, LOSSES["squared"][1], l1jax.L1()))

    def coef_and_intercept(lam, y):
        found = exact(jnp.asarray(X), y, l1jax.L1(lam))
        return found.coef, found.intercept

    of_coef, (by_lam, by_y) = jax.jacrev(coef_and_intercept, argnums=(0, 1))(lam, y)
    assert not any(np.asarray(moves).any() for moves in of_coef)
    assert by_lam == 0
    np.testing.assert_allclose(by_y, np.full(N, 1 / N), rtol=1e-12)


TWINS = np.hstack([X, X[:, :1]])
AT_REST = np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]])


class Leaning(l1jax.Penalty):
    """A group that leans on its second coordinate, which rests at zero, and may move."""

    lam: float
    lean: float

    def value(self, x):
        return self.lam * jnp.sqrt(jnp.sum(x**2)) + self.lean * x[1]

    def prox(self, z, step=1.0):
        return l1jax.prox.prox_group_l1(z.at[1].add(-step * self.lean), self.lam, [0, 0], step)


FEW = {
    "l1": (X, LOSSES["squared"][1], l1jax.SquaredError(), l1jax.L1, (0.1,), "column"),
    "elastic net": (
        X,
        LOSSES["logistic"][1],
        l1jax.Logistic(),
        l1jax.ElasticNet,
        (0.1, 0.6),
        "column",
    ),
    "twins": (TWINS, LOSSES["squared"][1], l1jax.SquaredError(), l1jax.L1, (0.1,), "column"),
    "at rest": (
        AT_REST,
        np.array([2.0, -2, 0, 0]),
        l1jax.SquaredError(),
        Leaning,
        (0.1, 0.0),
        "fallback",
    ),
}


@pytest.mark.parametrize("case", FEW)
@pytest.mark.slow
def test_derivatives_by_few_scalars_are_those_by_arrays(monkeypatch, case):
    X, y, loss, make, numbers, way = FEW[case]
    taken = []

    def watched(*args):
        columns, is_enough = _columns(*args)
        taken.append("column" if is_enough else "fallback")
        return columns, is_enough

    def predictions(numbers):
        fit = exact(jnp.asarray(X), jnp.asarray(y), make(*numbers), loss=loss)
        return jnp.append(X @ fit.coef + fit.intercept, fit.objective)

    on_host = jax.jacrev(predictions)(numbers)  # where it can be
    monkeypatch.setattr(_differentiable, "derivative_by_strength", lambda *_: None)
    _columns = _differentiable._columns
    monkeypatch.setattr(_differentiable, "_columns", watched)
    modes = (jax.jacfwd, jax.jacrev) if case == "l1" else (jax.jacrev,)
    found = [mode(predictions)(numbers) for mode in modes]
    assert set(taken) == {way}
    monkeypatch.setattr(_differentiable, "_FEW", 0)
    expected = jax.jacrev(predictions)(numbers)
    for one in (*found, on_host):
        np.testing.assert_allclose(one, expected, rtol=1e-9, atol=1e-10)
    assert np.abs(expected).max() > 0.1


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.slow
def test_a_support_without_full_rank_has_a_finite_derivative_of_what_is_determined(compiled):
    twice = jnp.asarray(TWINS)

    def fitted(lam):
        return twice @ lasso(lam, twice)

    derivative = jax.jit(jax.jacrev(fitted)) if compiled else jax.jacrev(fitted)
    np.testing.assert_allclose(derivative(0.1), X @ closed_form(0.1), rtol=1e-6, atol=1e-9)


def test_constant_columns_and_rows_without_weight_do_not_move():
    flat = np.hstack([X, np.ones((N, 1))])
    weight = np.ones(N)
    weight[3] = 0.0

    def size(X, y, weight):
        found = exact(X, y, l1jax.L1(0.1), standardize=True, sample_weight=weight)
        return jnp.sum(found.coef**2)

    by_x, by_y, by_weight = jax.grad(size, argnums=(0, 1, 2))(
        jnp.asarray(flat), jnp.asarray(LOSSES["squared"][1]), jnp.asarray(weight)
    )
    assert not by_x[:, -1].any() and not by_x[3].any() and by_y[3] == 0
    assert np.isfinite(by_weight).all() and np.isfinite(by_x).all()
    moved, h = np.eye(N)[5], 1e-6
    ahead, behind = (size(flat, LOSSES["squared"][1] + d * moved, weight) for d in (h, -h))
    assert float(by_y[5]) == pytest.approx(float(ahead - behind) / (2 * h), rel=1e-6)


@pytest.mark.slow
def test_a_sparse_matrix_has_the_derivatives_of_the_dense_one():
    from jax.experimental import sparse

    y = jnp.asarray(LOSSES["squared"][1])
    thin = np.where(np.abs(X) > 0.7, X, 0)
    inputs = (sparse.BCOO.fromdense(jnp.asarray(thin)), jnp.asarray(thin))

    def size(lam, y, X):
        found = exact(X, y, l1jax.L1(lam), standardize=True)
        return jnp.sum(found.coef**2) + found.intercept

    as_sparse, as_dense = (jax.grad(size, argnums=(0, 1))(0.1, y, matrix) for matrix in inputs)
    for a, b in zip(as_sparse, as_dense, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-12)
    by_lam = jax.grad(lambda lam: size(lam, y, scipy.sparse.csr_array(thin)))(0.1)
    assert by_lam == approx(float(as_dense[0]), rel=1e-8)


@pytest.mark.slow
def test_several_responses():
    y = np.stack([LOSSES["squared"][1], LOSSES["huber"][1]], axis=1)

    def size(lam, y):
        found = exact(jnp.asarray(X), y, l1jax.GroupL1(lam, range(P)))
        return jnp.sum(jnp.sin(found.coef)) + jnp.sum(found.intercept**2)

    h, y = 1e-6, jnp.asarray(y)
    by_lam, by_y = jax.grad(size, argnums=(0, 1))(0.2, y)
    assert by_lam == approx((size(0.2 + h, y) - size(0.2 - h, y)) / (2 * h), rel=1e-6)
    move = jnp.asarray(np.random.default_rng(0).normal(size=y.shape))
    expected = (size(0.2, y + h * move) - size(0.2, y - h * move)) / (2 * h)
    assert jnp.sum(by_y * move) == approx(expected, rel=1e-6)


@pytest.mark.float32
def test_single_precision_is_good_to_its_digits():
    X32, y32 = X.astype(np.float32), LOSSES["squared"][1].astype(np.float32)

    def size(lam):
        return jnp.sum(l1jax.fit(jnp.asarray(X32), jnp.asarray(y32), l1jax.L1(lam)).coef ** 2)

    coef = np.asarray(l1jax.fit(X32, y32, l1jax.L1(0.1)).coef, float)
    inside = coef != 0
    part = (X - X.mean(axis=0))[:, inside]
    expected = -2 * N * coef[inside] @ np.linalg.solve(part.T @ part, np.sign(coef[inside]))
    lam = jnp.float32(0.1)
    assert jax.grad(size)(lam) == approx(expected, rel=1e-3)
    assert jax.jit(jax.grad(size))(lam) == approx(expected, rel=1e-3)


@pytest.mark.parametrize("kind", [float, np.float32, np.float64, jnp.asarray])
def test_single_precision_takes_numbers_of_either(kind):
    number = kind(0.1)
    single = jnp.asarray(X, jnp.float32), jnp.asarray(LOSSES["squared"][1], jnp.float32)

    def size(lam, ratio):
        return jnp.sum(l1jax.fit(*single, l1jax.ElasticNet(lam, ratio)).coef ** 2)

    found = jax.grad(size, argnums=(0, 1))(number, 0.7)
    h = 1e-4
    for i in range(2):
        steps = [np.array([0.1, 0.7]) + sign * h * np.eye(2)[i] for sign in (1, -1)]
        ahead, behind = (
            np.sum(exact(X, LOSSES["squared"][1], l1jax.ElasticNet(*step)).coef ** 2)
            for step in steps
        )
        assert float(found[i]) == pytest.approx(float(ahead - behind) / (2 * h), rel=1e-3)


@pytest.mark.slow
def test_single_precision_at_a_strength_of_zero_has_a_derivative_of_bounded_size():
    rng = np.random.default_rng(0)
    wide, y = rng.normal(size=(10, 30)), rng.normal(size=10)

    def coef(lam, dtype):
        return l1jax.fit(jnp.asarray(wide, dtype), jnp.asarray(y, dtype), l1jax.L1(lam)).coef

    single, double = (
        np.abs(jax.jacfwd(functools.partial(coef, dtype=dtype))(0.0)).max()
        for dtype in (jnp.float32, jnp.float64)
    )
    assert single < 5 * double + 1


def test_at_a_strength_of_zero_the_derivative_is_that_of_one_that_rises():
    def coef(lam):
        return l1jax.fit(X, LOSSES["squared"][1], l1jax.L1(lam)).coef

    signs = np.sign(coef(0.0))
    part = X - X.mean(axis=0)
    expected = -N * np.linalg.solve(part.T @ part, signs)
    assert (signs < 0).any()
    np.testing.assert_allclose(jax.jacfwd(coef)(0.0), expected, rtol=1e-8)


@pytest.mark.fast
def test_bad_values_are_refused_under_an_eager_derivative():
    with pytest.raises(ValueError, match="lam"):
        jax.grad(lambda lam: jnp.sum(lasso(lam)))(-0.1)
    with pytest.raises(ValueError, match="y must be finite"):
        jax.grad(lambda y: jnp.sum(lasso(0.1, y=y)))(jnp.full(N, jnp.nan))


def test_another_value_compiles_nothing(caplog):
    def size(lam):
        return jnp.sum(lasso(lam) ** 2)

    jax.grad(size)(0.1)
    with jax.log_compiles():
        caplog.clear()
        jax.grad(size)(0.1001)
    assert not [record for record in caplog.records if "Compiling" in record.getMessage()]


def loss_of_tree(params, X, y):
    eta = X @ params["coef"] + params["intercept"]
    return jnp.mean(jnp.logaddexp(0, eta) - y * eta)


class CoefOnly(l1jax.Penalty):
    lam: float

    def value(self, params):
        return self.lam * jnp.sum(jnp.abs(params["coef"]))

    def prox(self, params, step=1.0):
        return params | {"coef": l1jax.prox.prox_l1(params["coef"], self.lam, step)}


@pytest.mark.parametrize("mode", [jax.jacfwd, jax.jacrev])
@pytest.mark.slow
def test_minimize_on_a_tree_has_the_derivatives_of_fit(mode):
    y = jnp.asarray(LOSSES["logistic"][1])
    init = {"coef": jnp.zeros(P), "intercept": jnp.zeros(())}

    def tree(lam, X):
        found = l1jax.minimize(loss_of_tree, init, CoefOnly(lam), args=(X, y), tol=1e-7)
        return found.params["coef"], found.params["intercept"], found.objective

    def linear(lam, X):
        found = exact(X, y, l1jax.L1(lam), loss=l1jax.Logistic())
        return found.coef, found.intercept, found.objective

    expected = mode(linear)(0.05, jnp.asarray(X))
    # At the loose tolerance of the solve: Newton steps come before the derivative.
    for a, b in zip(mode(tree)(0.05, jnp.asarray(X)), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9)


@pytest.mark.slow
def test_minimize_has_second_derivatives_and_those_of_what_is_closed_over():
    def curve(scale):
        found = l1jax.minimize(
            lambda x: jnp.sum((x - scale * jnp.arange(1.0, 4.0)) ** 2 + 0.1 * x**4),
            jnp.zeros(3),
            l1jax.L1(1.5),
            tol=1e-10,
        )
        return jnp.sum(found.params**2)

    h = 1e-5
    first = (curve(1.2 + h) - curve(1.2 - h)) / (2 * h)
    second = (jax.grad(curve)(1.2 + h) - jax.grad(curve)(1.2 - h)) / (2 * h)
    assert jax.grad(curve)(1.2) == approx(first, rel=1e-6)
    assert jax.hessian(curve)(1.2) == approx(second, rel=1e-5)


@hypothesis.settings(max_examples=10)
@hypothesis.given(seed=st.integers(0, 10_000), lam=st.floats(0.01, 0.5), standardize=st.booleans())
@pytest.mark.slow
def test_the_transpose_is_the_transpose(seed, lam, standardize):
    rng = np.random.default_rng(seed)
    X, y = jnp.asarray(rng.normal(size=(12, 6))), jnp.asarray(rng.normal(size=12))

    def coef(lam, X, y):
        return exact(X, y, l1jax.L1(lam), standardize=standardize).coef

    move = (jnp.asarray(rng.normal()), *(jnp.asarray(rng.normal(size=a.shape)) for a in (X, y)))
    u = jnp.asarray(rng.normal(size=6))
    _, forward = jax.jvp(coef, (lam, X, y), move)
    _, pull = jax.vjp(coef, lam, X, y)
    assert float(u @ forward) == approx(inner(pull(u), move), rel=1e-10, abs=1e-12)
