"""The protocol: each default against its override, and what a penalty of two methods gets for free."""

import os

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.optimize import minimize

import l1jax
from l1jax import Penalty
from l1jax._tracing import is_traced

GROUPS = [0, 0, 1, 2, 2]
WEIGHTS = [1.0, 0.5, 2.0, 1.0, 3.0]
NORMS = {
    "l1": l1jax.L1(0.7),
    "weighted l1": l1jax.L1(0.7, weights=WEIGHTS),
    "nonnegative": l1jax.NonNegativeL1(0.7),
    "group": l1jax.GroupL1(0.5, GROUPS),
    "nonnegative group": l1jax.NonNegativeGroupL1(0.5, GROUPS),
    "sparse group": l1jax.SparseGroupL1(0.5, GROUPS, 0.3),
}
OTHERS = {
    "elastic net": l1jax.ElasticNet(0.7, 0.4),
    "nonnegative elastic net": l1jax.NonNegativeElasticNet(0.7, 0.4),
    "group elastic net": l1jax.GroupElasticNet(0.5, GROUPS, 0.4),
    "ridge": l1jax.Ridge(0.7),
    "ball": l1jax.L1Ball(1.3),
}
ALL = NORMS | OTHERS
# One compilation per method and penalty: run eagerly, a loop in a default compiles at every call.
call = eqx.filter_jit(lambda method, *args: method(*args))
# Numbers whose squares do not underflow: a group of others has the norm 0.
numbers = st.floats(-3, 3).map(lambda x: x if abs(x) > 1e-150 else 0.0)
vectors = st.lists(numbers, min_size=5, max_size=5).map(np.array).map(jnp.asarray)


class TwoMethods(Penalty):
    """The lasso with nothing but what must be written."""

    lam: float | None = None

    def value(self, x):
        return self.lam * jnp.sum(jnp.abs(x))

    def prox(self, z, step=1.0):
        return jnp.sign(z) * jnp.maximum(jnp.abs(z) - step * self.lam, 0)


class Rounded(TwoMethods):
    """The same, where a compiled loop rounds thresholds up and all else rounds them down."""

    def prox(self, z, step=1.0):
        units = 2 if is_traced((z, self.lam)) else -2
        threshold = step * self.lam * (1 + units * jnp.finfo(z.dtype).eps)
        return jnp.sign(z) * jnp.maximum(jnp.abs(z) - threshold, 0)


class Mcp(Penalty):
    """The minimax concave penalty with concavity 3: not convex, so no gap can certify it."""

    convex = False
    lam: float | None = None

    def value(self, x):
        size = jnp.abs(x)
        inner = self.lam * size - size**2 / 6
        return jnp.sum(jnp.where(size <= 3 * self.lam, inner, 1.5 * self.lam**2))

    def prox(self, z, step=1.0):
        soft = jnp.sign(z) * jnp.maximum(jnp.abs(z) - step * self.lam, 0) / (1 - step / 3)
        return jnp.where(jnp.abs(z) <= 3 * self.lam, soft, z)


@pytest.mark.parametrize("name", NORMS)
@given(v=vectors)
def test_defaults_of_the_dual_ball_equal_their_overrides(name, v):
    pen = NORMS[name]
    scale = call(type(pen).dual_scale, pen, v)
    # Bisection to 2^-54, and an edge that overrides widen by a few units of rounding.
    np.testing.assert_allclose(call(Penalty.dual_scale, pen, v), scale, rtol=1e-12, atol=1e-15)
    inside, outside = 0.999 * scale * v, 1.001 * scale * v
    default, override = Penalty.conjugate, type(pen).conjugate
    assert call(default, pen, inside) == call(override, pen, inside) == 0
    if scale < 1:
        assert call(default, pen, outside) == call(override, pen, outside) == jnp.inf


@pytest.mark.parametrize(
    "name", [*NORMS, "elastic net", "nonnegative elastic net", "group elastic net"]
)
@given(g=vectors)
@pytest.mark.slow
def test_the_default_lambda_max_equals_its_override(name, g):
    pen = ALL[name]
    exact = call(type(pen).lambda_max, pen, g)
    found = call(Penalty.lambda_max, pen, g)
    np.testing.assert_allclose(found, exact, rtol=1e-12, atol=1e-15)
    assert (call(_prox_at, pen, exact * (1 + 1e-12), -g) == 0).all()
    if exact > 1e-3:
        assert (call(_prox_at, pen, 0.999 * exact, -g) != 0).any()


@pytest.mark.parametrize("largest", [0.7, 2.0])
def test_the_edge_of_the_dual_ball_is_found_where_it_is_rounded_otherwise(largest):
    pen, v = Rounded(0.7), jnp.array([largest, -0.5])
    scale = pen.dual_scale(v)
    np.testing.assert_allclose(scale, 0.7 / largest, rtol=1e-14)
    assert 0 <= pen.conjugate(scale * v) <= 1e-30  # steps over the edge are rounding, squared
    np.testing.assert_allclose(pen.lambda_max(v), largest, rtol=1e-14)


def _prox_at(pen, lam, z):
    return pen.with_strength(lam).prox(z)


@pytest.mark.parametrize("name", ALL)
@given(z=vectors)
def test_distances_vanish_exactly_at_optimal_pairs(name, z):
    pen = ALL[name]
    x = call(type(pen).prox, pen, z)
    slope = x - z  # then −slope is a subgradient at x
    far = slope - 10.0
    for distance in (type(pen).distance, Penalty.distance):
        assert jnp.max(call(distance, pen, x, slope)) <= 1e-12
        if name != "ball":  # at a vertex of the ball, many slopes are optimal
            assert jnp.max(call(distance, pen, x, far)) > 0.1


@pytest.mark.parametrize("name", ALL)
@given(x=vectors, v=vectors)
def test_fenchel_young(name, x, v):
    pen = ALL[name]
    x = call(type(pen).prox, pen, x)  # into the domain
    conjugate = call(type(pen).conjugate, pen, v)
    bound = call(type(pen).value, pen, x) + conjugate - x @ v
    assert bound >= -1e-12
    # An edge is within a few units of rounding, where either may say that it is inside.
    inside = (1 - 1e-12) * v
    default, conjugate = (call(m, pen, inside) for m in (Penalty.conjugate, type(pen).conjugate))
    np.testing.assert_allclose(default, conjugate, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ALL)
@given(z=vectors)
@pytest.mark.fast
def test_the_conjugate_is_attained_at_the_prox(name, z):
    pen = ALL[name]
    x = call(type(pen).prox, pen, z)
    # On the edge of a dual ball; the default conjugate knows no rounding, so a little inside.
    v = (z - x) * (1 - 1e-12)
    both = call(type(pen).value, pen, x) + call(type(pen).conjugate, pen, v)
    assert float(both - x @ v) == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize("name", ALL)
def test_the_jacobian_of_the_prox_is_its_derivative(name):
    pen = ALL[name]
    z, u = jnp.array([2.0, -1.5, 1.1, 0.9, -2.2]), jnp.array([0.3, 1.0, -0.5, 0.2, 0.7])

    @jax.jit
    def slopes(z, u):
        central = (pen.prox(z + 1e-6 * u, 0.4) - pen.prox(z - 1e-6 * u, 0.4)) / 2e-6
        return pen.prox_jacobian(z, 0.4)(u), central

    np.testing.assert_allclose(*slopes(z, u), atol=1e-8)


@pytest.mark.core
def test_masks_name_what_is_unpenalised_and_what_is_excluded():
    masks = l1jax.L1(0.1, weights=[0.0, 1.0, np.inf]).masks((3,))
    assert masks.unpenalised.tolist() == [True, False, False]
    assert masks.excluded.tolist() == [False, False, True]
    nothing = Penalty.masks(l1jax.L1(0.1), (3,))
    assert not nothing.unpenalised.any() and not nothing.excluded.any()


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((40, 8))
    return X, X[:, 0] - 0.5 * X[:, 3] + 0.3 * rng.standard_normal(40)


def test_two_methods_give_a_fit_a_path_and_a_certificate(data):
    X, y = data
    own = l1jax.path(X, y, TwoMethods(), n_lams=6)
    known = l1jax.path(X, y, l1jax.L1(), n_lams=6)
    np.testing.assert_allclose(own.lams, known.lams, rtol=1e-12)
    np.testing.assert_allclose(own.coefs, known.coefs, atol=1e-6)
    assert (np.asarray(own.relative_gaps) <= 1e-6).all()


def test_a_penalty_that_is_not_convex_is_judged_by_its_kkt(data):
    X, y = data
    fit = l1jax.fit(X, y, Mcp(0.3), tol=1e-8)
    assert fit.gap == np.inf
    assert fit.relative_kkt <= 1e-8
    coef = np.asarray(fit.coef)
    gradient = -X.T @ (y - np.asarray(fit.predict(X))) / 40
    slope = np.maximum(0.3 - np.abs(coef) / 3, 0)  # the slope of the penalty, falling to zero
    inside = coef != 0
    np.testing.assert_allclose(gradient[inside], -(np.sign(coef) * slope)[inside], atol=1e-7)
    assert inside.any() and (np.abs(gradient[~inside]) <= 0.3).all()


@pytest.mark.core
def test_strengths_are_leaves():
    pens = jax.vmap(l1jax.L1().with_strength)(jnp.array([0.5, 1.0]))
    out = jax.vmap(lambda pen: pen.prox(jnp.array([2.0, -0.7])))(pens)
    np.testing.assert_allclose(out, [[1.5, -0.2], [1.0, 0.0]], atol=1e-15)
    assert l1jax.L1(0.1).lam.dtype == np.float64


@pytest.mark.float32
def test_a_float64_strength_keeps_float32_data():
    x = jnp.array([1.0, -2.0], jnp.float32)
    for pen in (
        l1jax.L1(0.1),
        l1jax.ElasticNet(0.1),
        l1jax.GroupL1(0.1, [0, 1]),
        l1jax.L1Ball(1.0),
    ):
        assert pen.prox(x).dtype == pen.value(x).dtype == jnp.float32


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: l1jax.L1(-1.0), ValueError, "lam"),
        (lambda: l1jax.L1("a"), TypeError, "lam"),
        (lambda: l1jax.L1(1.0, weights=[1.0, -1.0]), ValueError, "weights.*index"),
        (lambda: l1jax.ElasticNet(1.0, 1.5), ValueError, "l1_ratio"),
        (lambda: l1jax.GroupL1(1.0), TypeError, "groups"),
        (lambda: l1jax.GroupL1(1.0, [0, 1], weights=[1.0]), ValueError, "weights.*per group"),
        (lambda: l1jax.L1().value(jnp.ones(2)), ValueError, "no strength"),
        (lambda: l1jax.L1Ball(-1.0), ValueError, "tau"),
    ],
)
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.slow
@example([0, 0, 1])  # all but the last group of one size
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=12)  # of any sizes, in any order
    | st.integers(1, 4).map(lambda size: list(np.repeat([0, 1, 2], size)))  # rows of an array
    | st.just([0] * 30 + list(range(1, 30)))  # one so large that a table would be mostly empty
)
def test_sums_maxima_and_broadcasts_are_those_of_each_group(ids):
    groups = l1jax.Groups(ids)
    values = jnp.asarray(np.random.default_rng(0).normal(size=(len(ids), 2)))
    parts = [np.asarray(values)[np.asarray(ids) == label] for label in groups.labels]
    np.testing.assert_allclose(groups.sums(values), [p.sum(axis=0) for p in parts], rtol=1e-12)
    np.testing.assert_array_equal(groups.maxima(values), [p.max(axis=0) for p in parts])
    repeated = groups.broadcast(groups.sums(values))
    np.testing.assert_array_equal(repeated, np.asarray(groups.sums(values))[groups.ids])


@pytest.mark.parametrize("ids", [[0, 0, 1, 1], [1, 0, 0, 1], [0, 1, 1, 1]])
@pytest.mark.parametrize("kind", [l1jax.GroupL1, l1jax.SparseGroupL1])
def test_with_one_step_per_group_the_prox_is_the_soft_threshold_of_blocks(kind, ids):
    pen = kind(0.7, ids, weights=[1.3, 0.4])
    z = jnp.array([0.9, -2.0, 0.5, 1.5])
    step = jnp.array([0.5, 2.0])[np.asarray(ids)]
    np.testing.assert_allclose(pen.uniform_prox(z, step), pen.prox(z, step), rtol=1e-12)
    squares = jnp.array([1.0, 4.0, 2.0, 3.0])
    uniform = np.asarray(pen.uniform_metric(squares))
    assert (uniform >= squares).all() and all(
        len({*uniform[np.equal(ids, g)]}) == 1 for g in (0, 1)
    )


def test_what_a_penalty_forbids_is_a_violation_and_far_from_optimal():
    x, slope = jnp.array([0.5, -2.0, 0.0, 3.0]), jnp.ones(4)
    weights = np.array([np.inf, 1.0, 1.0, 1.0])
    for pen, outside in (
        (l1jax.L1(1.0), 0),
        (l1jax.L1(1.0, weights=weights), 0.5),
        (l1jax.ElasticNet(1.0, 0.5, weights=weights), 0.5),
        (l1jax.NonNegativeL1(1.0), 2),
        (l1jax.GroupL1(1.0, groups=[0, 0, 1, 1], weights=[1.0, np.inf]), 3),
        (l1jax.SparseGroupL1(1.0, groups=[0, 0, 1, 1], weights=[1.0, np.inf]), 3),
    ):
        assert float(pen.violation(x)) == outside
        assert float(pen.violation(pen.prox(x))) == 0
        assert float(jnp.max(pen.distance(x, slope))) >= outside
    # At its edge the gradient at a weight of one may be as low as −1, and not lower.
    assert float(l1jax.NonNegativeL1(1.0).distance(jnp.array([-2.0]), jnp.array([5.0]))[0]) == 2


@pytest.mark.parametrize(
    "kind",
    [
        l1jax.L1,
        l1jax.NonNegativeL1,
        l1jax.ElasticNet,
        l1jax.NonNegativeElasticNet,
        l1jax.Ridge,
        l1jax.GroupL1,
        l1jax.NonNegativeGroupL1,
        l1jax.GroupElasticNet,
        l1jax.SparseGroupL1,
        l1jax.L1Ball,
        l1jax.SLOPE,
        l1jax.FusedLasso,
        l1jax.TrendFilter,
        l1jax.NuclearNorm,
        l1jax.L2,
        l1jax.LInf,
        l1jax.L1Inf,
        l1jax.ExclusiveLasso,
        l1jax.GroupMCP,
        l1jax.GroupSCAD,
        l1jax.OverlappingGroupL1,
        l1jax.HierarchicalGroupL1,
        l1jax.L2Ball,
        l1jax.L1InfBall,
        l1jax.Simplex,
        l1jax.Box,
        l1jax.Cardinality,
    ],
)
def test_an_unknown_argument_is_one_of_the_class_that_was_called(kind):
    with pytest.raises(TypeError, match="got .* 'strength'") as error:
        kind(strength=0.1)
    if os.environ.get("L1JAX_TEST_TYPES") == "0":  # else the check of annotations says it first
        assert str(error.value).startswith(f"{kind.__name__}.__init__()")


def test_groups_may_be_called_by_strings():
    named = l1jax.GroupL1(0.5, ["b", "b", "a", "c", "c"], [3.0, 1.0, 2.0])
    numbered = l1jax.GroupL1(0.5, [1, 1, 0, 2, 2], [3.0, 1.0, 2.0])
    z = jnp.array([2.0, -1.5, 1.1, 0.9, -2.2])
    np.testing.assert_array_equal(named.prox(z), numbered.prox(z))
    assert named.groups.labels.tolist() == ["a", "b", "c"]
    assert named.groups == l1jax.Groups(np.array(["b", "b", "a", "c", "c"], object))
    assert named.groups != numbered.groups
    with pytest.raises(
        TypeError,
        match="groups must hold integers or strings, one id per feature, got dtype object",
    ):
        l1jax.Groups(["a", 1.5, None])


def _least(pen, z, step, positive):
    """argmin ½Σ(x − z)²/step + R(x), by a method that knows bounds: of smooth functions, so off zero."""
    bounds = [(0 if positive else None, None)] * len(z)

    def objective(x):
        return float(np.sum((x - z) ** 2 / step) / 2 + pen.value(jnp.asarray(x)))

    start = np.abs(z) + 0.5 if positive else z
    return minimize(
        objective, start, bounds=bounds, method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-9}
    ).x


@pytest.mark.parametrize("step", [0.7, np.array([0.7, 0.3, 0.5, 1.0, 0.2])])
@pytest.mark.parametrize(
    "name", ["nonnegative group", "nonnegative elastic net", "group elastic net"]
)
def test_a_prox_minimises_what_it_says(name, step):
    pen, z = ALL[name], np.array([2.0, -1.5, 1.1, 0.9, 2.2])
    x = pen.prox(jnp.asarray(z), jnp.asarray(step))
    # Differences of a function that is good to 1e-16 give a minimum good to about its root.
    np.testing.assert_allclose(x, _least(pen, z, step, "nonnegative" in name), atol=2e-6)
