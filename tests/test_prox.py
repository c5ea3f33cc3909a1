"""Proximal operators against brute force, and the properties that every one of them has."""

import itertools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

import l1jax
from l1jax import prox

IDS = [0, 1, 1, 2, 2, 2]
SIZES = np.sqrt(np.array([1, 2, 3]))


def norms(x):
    return np.array([np.linalg.norm(x[np.array(IDS) == g]) for g in range(3)])


OPERATORS = {
    "l1": (lambda z, lam, s: prox.prox_l1(z, lam, s), lambda x: np.abs(x).sum()),
    "elastic net": (
        lambda z, lam, s: prox.prox_elastic_net(z, lam, 0.3, s),
        lambda x: 0.3 * np.abs(x).sum() + 0.35 * (x**2).sum(),
    ),
    "ridge": (lambda z, lam, s: prox.prox_ridge(z, lam, s), lambda x: 0.5 * (x**2).sum()),
    "group": (
        lambda z, lam, s: prox.prox_group_l1(z, lam, IDS, s),
        lambda x: (SIZES * norms(x)).sum(),
    ),
    "sparse group": (
        lambda z, lam, s: prox.prox_sparse_group_l1(z, lam, IDS, 0.4, s),
        lambda x: 0.4 * np.abs(x).sum() + 0.6 * (SIZES * norms(x)).sum(),
    ),
}
# One program for each operator and kind of step: eagerly, each operation is compiled by itself.
COMPILED = {name: jax.jit(operator) for name, (operator, _) in OPERATORS.items()}
STEPS = {"scalar": 0.7, "metric": np.array([0.1, 2.0, 0.5, 1.0, 0.03, 3.0])}
vectors = st.lists(st.floats(-5, 5), min_size=6, max_size=6).map(np.array)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("name", OPERATORS)
@given(z=vectors, lam=st.floats(0.05, 2), seed=st.integers(0, 1000))
def test_nothing_nearby_is_better(name, step, z, lam, seed):
    operator, penalty = COMPILED[name], OPERATORS[name][1]
    s = STEPS[step]

    def objective(x):
        return 0.5 * ((x - z) ** 2 / s).sum() + lam * penalty(x)

    x = np.asarray(operator(z, lam, s))
    rng = np.random.default_rng(seed)
    for size in (1e-4, 1e-2, 1):
        assert objective(x) <= objective(x + size * rng.standard_normal(6)) + 1e-12
    assert objective(x) <= objective(x * (rng.random(6) > 0.5)) + 1e-12


@pytest.mark.parametrize("name", OPERATORS)
def test_the_metric_prox_is_the_minimiser_that_brute_force_finds(name):
    operator, penalty = OPERATORS[name]
    z, s = np.array([2.0, -1.5, 3.0, 0.4, -2.5, 1.0]), STEPS["metric"]
    x = np.asarray(operator(jnp.asarray(z), 0.3, jnp.asarray(s)))

    def objective(x):
        return 0.5 * ((x - z) ** 2 / s).sum() + 0.3 * penalty(x)

    options = {"xatol": 1e-10, "fatol": 1e-14, "maxiter": 20000, "maxfev": 20000}
    found = minimize(objective, x + 0.01, method="Nelder-Mead", options=options)
    assert objective(x) <= found.fun + 1e-12


@pytest.mark.parametrize("name", OPERATORS)
@given(a=vectors, b=vectors)
def test_it_is_firmly_nonexpansive(name, a, b):
    pa, pb = (np.asarray(COMPILED[name](v, 0.5, 1.0)) for v in (a, b))
    assert (pa - pb) @ (pa - pb) <= (pa - pb) @ (a - b) + 1e-12


def slopes(f, x, d, u):
    """The derivative along d, as it is and as a difference, and the gradient of ⟨u, f⟩."""
    central = (f(x + 1e-6 * d) - f(x - 1e-6 * d)) / 2e-6
    return jax.jvp(f, (x,), (d,))[1], central, jax.vjp(f, x)[1](u)[0]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("name", OPERATORS)
def test_its_derivative_is_the_finite_difference(name, step):
    operator, _ = OPERATORS[name]
    z, s = jnp.array([2.0, -1.5, 3.0, 0.4, -2.5, 1.0]), jnp.asarray(STEPS[step])
    u = jnp.array([0.3, -1.0, 0.5, 1.0, 0.2, -0.4])
    for f, x, d in (
        (lambda z: operator(z, 0.3, s), z, u),
        (lambda lam: operator(z, lam, s), jnp.asarray(0.3), jnp.asarray(1.0)),
        (lambda s: operator(z, 0.3, s), s, jnp.ones_like(s)),
    ):
        forward, central, reverse = jax.jit(slopes, static_argnums=0)(f, x, d, u)
        np.testing.assert_allclose(forward, central, atol=1e-8)
        assert np.vdot(reverse, d) == pytest.approx(np.vdot(u, forward), abs=1e-12)


@pytest.mark.float32
@pytest.mark.parametrize("name", OPERATORS)
def test_derivatives_are_finite_at_the_kinks_and_at_any_scale(name):
    operator, _ = OPERATORS[name]
    gradients = jax.jit(jax.grad(lambda *a: operator(*a).sum(), argnums=(0, 1, 2)))
    for scale, lam in itertools.product((0.0, 1e-20, 1e20), (0.0, 1.0)):
        z = np.float32(scale) * np.array([1, -1, 0, 0, 0, 0], np.float32)
        for s in (np.float32(1), STEPS["metric"].astype(np.float32), np.float32(0)):
            found = gradients(z, np.float32(lam), s)
            assert all(np.isfinite(g).all() for g in found), (scale, lam, s)


@pytest.mark.core
@pytest.mark.float32
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("name", OPERATORS)
def test_dtype_is_kept_and_zeros_are_positive(name, dtype):
    operator, _ = OPERATORS[name]
    z = jnp.array([-0.01, -0.0, 0.0, 0.01, -0.02, 0.0], dtype)
    out = operator(z, np.float64(1.0), 1.0)
    assert out.dtype == dtype
    if name != "ridge":
        assert (out == 0).all() and not jnp.signbit(out).any()


@pytest.mark.parametrize("name", OPERATORS)
def test_nan_stays_nan_and_a_step_of_zero_moves_nothing(name):
    operator, _ = OPERATORS[name]
    z = jnp.array([jnp.nan, 1.0, -2.0, 3.0, 0.5, 1.0])
    assert jnp.isnan(operator(z, 1.0, 1.0)[0])
    assert jnp.isfinite(operator(z, 1.0, 1.0)[1:]).all()
    np.testing.assert_array_equal(operator(z[1:].repeat(2)[:6], 1.0, 0.0), z[1:].repeat(2)[:6])


def test_groups_of_size_one_are_the_lasso():
    z = jnp.array([2.0, -1.5, 0.3])
    np.testing.assert_allclose(
        prox.prox_group_l1(z, 0.5, [0, 1, 2]), prox.prox_l1(z, 0.5), atol=1e-15
    )


def test_weights_of_zero_free_and_of_inf_exclude():
    z, w = jnp.array([2.0, -1.5, 0.3]), jnp.array([0.0, jnp.inf, 1.0])
    for lam in (0.0, 1.0):
        out = prox.prox_l1(z, lam, 1.0, w)
        assert out[0] == 2.0 and out[1] == 0.0
        gradient = jax.grad(lambda z, lam=lam: prox.prox_l1(z, lam, 1.0, w).sum())(z)
        assert gradient[0] == 1 and gradient[1] == 0


def test_moreau_links_the_l1_prox_to_the_linf_ball():
    z = jnp.array([2.0, -1.5, 0.3])
    np.testing.assert_allclose(
        prox.prox_l1(z, 0.5, 2.0) + 2 * prox.project_linf_ball(z / 2, 0.5), z, atol=1e-15
    )


PROJECTIONS = {
    "l1": (prox.project_l1_ball, lambda x: np.abs(x).sum() <= 1 + 1e-12),
    "l2": (prox.project_l2_ball, lambda x: np.linalg.norm(x) <= 1 + 1e-12),
    "linf": (prox.project_linf_ball, lambda x: np.abs(x).max() <= 1),
    "simplex": (prox.project_simplex, lambda x: abs(x.sum() - 1) < 1e-12 and (x >= 0).all()),
    "nonnegative": (prox.project_nonnegative, lambda x: (x >= 0).all()),
    "box": (
        lambda x: prox.project_box(x, -0.5, 2.0),
        lambda x: (x >= -0.5).all() and (x <= 2).all(),
    ),
}


@pytest.mark.parametrize("name", PROJECTIONS)
@given(z=vectors, w=vectors)
def test_projections_are_nearest_points(name, z, w):
    project, inside = PROJECTIONS[name]
    x, other = (np.asarray(project(jnp.asarray(v))) for v in (z, w))
    assert inside(x)
    assert not (np.signbit(x) & (x == 0)).any()
    np.testing.assert_allclose(project(jnp.asarray(x)), x, atol=1e-12)
    # Variational inequality: the residual makes an obtuse angle with every feasible direction.
    assert (z - x) @ (other - x) <= 1e-10


@pytest.mark.core
@pytest.mark.float32
def test_float32_data_stay_float32_in_a_ball():
    """Also with x64 on, where a whole number of optax's would make them float64."""
    x = np.array([3.0, -0.5, 1.0], np.float32)
    out, tangent = jax.jvp(lambda x: l1jax.prox.project_l1_ball(x, 2.0), (x,), (x,))
    assert out.dtype == tangent.dtype == np.float32
    np.testing.assert_allclose(out, [2, 0, 0], atol=1e-6)
    data = np.eye(3, dtype=np.float32)
    fit = l1jax.fit(data, x, l1jax.L1Ball(2.0), fit_intercept=False)
    assert fit.coef.dtype == np.float32
    np.testing.assert_allclose(fit.coef, [2, 0, 0], atol=1e-5)


def test_a_ball_of_radius_zero_is_a_point():
    z = jnp.array([1.0, -2.0])
    for project in (prox.project_l1_ball, prox.project_l2_ball, prox.project_simplex):
        out = project(z, 0.0)
        assert (out == 0).all() and not jnp.signbit(out).any()


@pytest.mark.core
def test_sets_that_are_empty_are_errors():
    with pytest.raises(ValueError, match="lower must be <= upper"):
        jax.jit(lambda x: prox.project_box(x, 3.0, 0.0))(jnp.ones(2))
    with pytest.raises(ValueError, match="x is empty"):
        prox.project_simplex(jnp.zeros(0))


@pytest.mark.core
@pytest.mark.fast
def test_weights_of_groups_may_be_a_list():
    z = jnp.array([3.0, 4.0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_allclose(prox.prox_group_l1(z, 1.0, [0, 0], weights=[1.0]), [2.4, 3.2])


@pytest.mark.core
def test_trees_keep_their_shape():
    tree = {"a": jnp.array([2.0, -0.5]), "b": (jnp.array([[3.0]]), None)}
    out = prox.prox_l1(tree, 1.0)
    assert out["a"].tolist() == [1.0, 0.0] and out["b"][0].tolist() == [[2.0]]
    assert out["b"][1] is None
    both = prox.prox_l2({"a": jnp.array([3.0]), "b": jnp.array([4.0])}, 2.5)
    assert both["a"].tolist() == [1.5] and both["b"].tolist() == [2.0]


@pytest.mark.core
def test_a_group_holds_all_responses_of_its_features():
    z = jnp.array([[3.0, 0.0], [0.0, 4.0], [1.0, 1.0]])
    out = prox.prox_group_l1(z, 1.0, [0, 0, 1], weights=jnp.array([2.5, 2.0]))
    np.testing.assert_allclose(out, [[1.5, 0], [0, 2.0], [0, 0]], atol=1e-15)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: prox.prox_l1(jnp.ones(2), -1.0), ValueError, "lam must be >= 0"),
        (lambda: prox.prox_l1(jnp.ones(2), 1.0, -1.0), ValueError, "step must be >= 0"),
        (lambda: prox.prox_l1(jnp.ones(2, int), 1.0), TypeError, "floating"),
        (lambda: prox.prox_elastic_net(jnp.ones(2), 1.0, 2.0), ValueError, "l1_ratio"),
        (lambda: prox.prox_group_l1(jnp.ones(2), 1.0, [0]), ValueError, "groups has 1 ids"),
        (lambda: prox.prox_group_l1(jnp.ones(2), 1.0, [0.5, 1]), TypeError, "integer"),
        (lambda: prox.prox_group_l1(jnp.ones(2), 1.0, [0, 1], 1.0, np.ones(3)), ValueError, "group"),
        (lambda: jax.vmap(lambda g: prox.prox_l2(g, 1.0, g))(jnp.ones((2, 3))), ValueError, "scalar"),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("lam", [0.0, 0.5])
@pytest.mark.parametrize("step", [1.0, np.array([1.0, 2.0, 1.5, 0.5])])
def test_a_zero_in_a_group_that_stays_moves_with_its_group(lam, step):
    z, move = np.array([0.0, 2.0, 0.1, 0.0]), np.array([1.0, 1.2, 0.9, -1.3])

    def shrunk(z):
        return prox.prox_group_l1(jnp.asarray(z), lam, [0, 0, 1, 1], step)

    h = 1e-6
    expected = (shrunk(z + h * move) - shrunk(z - h * move)) / (2 * h)
    moved = jax.jvp(shrunk, (z,), (move,))[1]
    np.testing.assert_allclose(moved, expected, rtol=1e-8, atol=1e-9)
    assert moved[0] != 0 and (moved[2:].any() == (lam == 0))


def test_a_price_of_zero_has_the_derivative_of_a_price_that_rises():
    z = jnp.array([-1.5, 2.0, -0.3])

    def shrunk(lam, weight):
        return prox.prox_elastic_net(z, lam, 0.5), prox.prox_l1(z, weight)

    net, soft = jax.jacfwd(shrunk, argnums=(0, 1))(0.0, 0.0)
    np.testing.assert_allclose(soft[1], -np.sign(z))
    np.testing.assert_allclose(net[0], -0.5 * np.sign(z) - 0.5 * z)


@pytest.mark.float32
@pytest.mark.parametrize("size", [1.0, 3e7, 1e20])
def test_projections_of_far_points_lose_no_digits(size):
    x = jnp.array([1.0, 2 / 3, 0.0], jnp.float32) * jnp.float32(size)
    expected = [2 / 3, 1 / 3, 0] if size == 1 else [1, 0, 0]
    # A unit of rounding of numbers near one, or two.
    np.testing.assert_allclose(l1jax.prox.project_simplex(x), expected, atol=3e-7)
    np.testing.assert_allclose(l1jax.prox.project_l1_ball(x), expected, atol=3e-7)
