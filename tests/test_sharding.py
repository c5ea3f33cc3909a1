"""Data on a mesh of several devices, with explicit axes (the default of newer versions of JAX) and without."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import scipy.optimize
import scipy.special
import sklearn.linear_model

from tests.sharded_fits import LAM_OF_LOSSES, LAMS, tall_data, wide_data

PROGRAM = """
import jax, jax.numpy as jnp, numpy as np, l1jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

X, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(12, 4)))
X = np.sqrt(12) * X
y = X @ [2.0, -1.0, 0.05, 0.0] + np.linspace(-0.1, 0.1, 12)
correlations = X.T @ y / 12

def lasso(lam):  # of orthonormal columns
    return correlations - np.clip(correlations, -lam, lam)

def loss(w, X, y):
    return 0.5 * jnp.mean((y - X @ w) ** 2)

def agrees(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)

def check(mesh, spec, everything):
    Xs = jax.device_put(X, NamedSharding(mesh, spec))
    ys = jax.device_put(y, NamedSharding(mesh, P(spec[0])))
    plain = {{"fit_intercept": False}}
    fit = l1jax.fit(Xs, ys, l1jax.L1(0.1), sample_weight=jnp.ones(12), **plain)
    agrees(fit.coef, lasso(0.1))
    if not everything:
        return
    path = l1jax.path(Xs, ys, l1jax.L1(), lams=[0.5, 0.1], **plain)
    agrees(path.coefs, [lasso(0.5), lasso(0.1)])
    agrees(fit.predict(Xs), X @ lasso(0.1))
    agrees(l1jax.lambda_max(Xs, ys, l1jax.L1(), **plain), np.abs(correlations).max())
    init = jax.device_put(jnp.zeros(4), NamedSharding(mesh, P("x")))
    found = l1jax.minimize(loss, init, l1jax.L1(0.1), args=(Xs, ys), tol=1e-9)
    agrees(found.params, lasso(0.1))
    assert jax.typeof(found.params).sharding.spec == P("x")
    with jax.set_mesh(mesh):  # as derivatives on explicit axes need it
        agrees(l1jax.fit(Xs, ys, l1jax.L1(0.1), **plain).coef, lasso(0.1))
        # By y the sum of coefficients moves with the sum of active columns times their signs.
        total = lambda y: l1jax.fit(Xs, y, l1jax.L1(0.1), **plain).coef.sum()
        agrees(jax.grad(total)(ys), X[:, lasso(0.1) != 0].sum(axis=1) / 12)

explicit = jax.make_mesh((2,), ("x",), axis_types=(AxisType.Explicit,))
automatic = jax.make_mesh((2,), ("x",), axis_types=(AxisType.Auto,))
{run}
print("done")
"""


@pytest.mark.core
@pytest.mark.parametrize(
    "run",
    [
        'check(explicit, P("x", None), True)',
        'check(explicit, P(None, "x"), False); check(automatic, P("x", None), False)',
    ],
    ids=["explicit rows", "explicit columns, automatic rows"],
)
@pytest.mark.slow
def test_data_spread_over_devices_have_the_answers_of_data_that_are_not(run):
    flags = "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(run=run)],
        env=os.environ
        | {
            "XLA_FLAGS": flags,
            "JAX_ENABLE_X64": "1",
            "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir or "",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
        },
        capture_output=True,
        text=True,
    )
    assert found.stdout == "done\n", found.stderr[-2000:]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What fits of sharded data gave; one process has done them all."""
    file = tmp_path_factory.mktemp("sharded") / "found.npz"
    program = Path(__file__).with_name("sharded_fits.py")
    environment = os.environ | {
        "JAX_ENABLE_X64": "1",
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir or "",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.05",
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    run = subprocess.run(
        [sys.executable, program, file], env=environment, capture_output=True, text=True
    )
    assert not run.returncode, run.stderr[-2000:]
    return dict(np.load(file))


def data_of(spec):
    return wide_data() if spec == "columns" else tall_data()


def softmax(scores):
    sizes = np.exp(scores - scores.max(axis=1, keepdims=True))
    return sizes / sizes.sum(axis=1, keepdims=True)


def gradient(X, slope):
    """∇L of all columns about their means, for ∂L/∂η of each row."""
    return (X - X.mean(axis=0)).T @ slope / len(X)


def violation(gradient, coef, lam, ridge=0.0):
    """By how much a gradient misses the optimality conditions of the lasso, and of a ridge beside it."""
    gradient = gradient + ridge * coef
    inside = np.maximum(np.abs(gradient) - lam, 0)
    return np.where(coef != 0, np.abs(gradient + lam * np.sign(coef)), inside).max()


def squared_error_slope(X, y, coef):
    eta = (X - X.mean(axis=0)) @ coef
    return eta - (y - y.mean())


def intercept_of(X, labels, coef):
    """The best intercept of a logistic model with these coefficients."""
    at = X @ coef
    return scipy.optimize.brentq(
        lambda b: np.sum(scipy.special.expit(at + b) - labels), -1e3, 1e3, xtol=1e-14
    )


# The conditions hold to rounding: 1e-9 is 1e-8 of the smallest λ, and a thousand times the error of the sums.
@pytest.mark.parametrize("spec", ["rows", "both"])
def test_a_sharded_lasso_path_meets_the_optimality_conditions(found, spec):
    data = tall_data()
    X, y = data["X"], data["y"]
    for lam, coef in zip(LAMS, found[f"{spec} lasso"], strict=True):
        assert violation(gradient(X, squared_error_slope(X, y, coef)), coef, lam) < 1e-9
    assert found[f"{spec} gap"].max() < 1e-12
    lambda_max = np.abs(gradient(X, squared_error_slope(X, y, np.zeros(16)))).max()
    np.testing.assert_allclose(found[f"{spec} lambda_max"], lambda_max, rtol=1e-12)
    coef = found[f"{spec} lasso"][1]
    eta = y.mean() + (X - X.mean(axis=0)) @ coef
    np.testing.assert_allclose(found[f"{spec} predicted"], eta, atol=1e-11)


def test_a_path_of_columns_on_several_devices_meets_the_optimality_conditions(found):
    data = wide_data()
    X, y = data["X"], data["y"]
    for lam, coef in zip(LAMS, found["columns lasso"], strict=True):
        assert violation(gradient(X, squared_error_slope(X, y, coef)), coef, lam) < 1e-9
    assert found["columns gap"].max() < 1e-12
    eta = y.mean() + (X - X.mean(axis=0)) @ found["columns lasso"][1]
    np.testing.assert_allclose(found["columns predicted"], eta, atol=1e-11)


@pytest.mark.parametrize(("spec", "lam"), [("rows", 0.02), ("both", 0.02), ("columns", 0.1)])
def test_a_sharded_logistic_fit_meets_the_optimality_conditions(found, spec, lam):
    data = data_of(spec)
    X, labels, coef = data["X"], data["labels"], found[f"{spec} logistic"]
    slope = scipy.special.expit(X @ coef + intercept_of(X, labels, coef)) - labels
    assert violation(gradient(X, slope), coef, lam) < 1e-9
    assert 0 < np.count_nonzero(coef) < len(coef)


@pytest.mark.parametrize("spec", LAM_OF_LOSSES)
def test_a_sharded_multinomial_fit_meets_the_optimality_conditions(found, spec):
    data, coef = data_of(spec), found[f"{spec} multinomial"]
    scores = data["X"] @ coef + found[f"{spec} multinomial b"]
    slope = softmax(scores) - np.eye(3)[data["classes"]]
    assert np.abs(slope.mean(axis=0)).max() < 1e-9
    assert violation(gradient(data["X"], slope), coef, LAM_OF_LOSSES[spec]) < 1e-9
    assert 0 < np.count_nonzero(coef) < coef.size


@pytest.mark.parametrize("spec", LAM_OF_LOSSES)
def test_a_sharded_cox_fit_meets_the_optimality_conditions(found, spec):
    data, coef = data_of(spec), found[f"{spec} cox"]
    X, (time, event) = data["X"], data["survival"].T
    risk = np.exp((X - X.mean(axis=0)) @ coef)
    order = np.argsort(time)  # no two are equal
    at_risk = np.cumsum(risk[order][::-1])[::-1]
    hazard = np.empty(len(X))
    hazard[order] = np.cumsum(event[order] / at_risk)
    assert violation(gradient(X, risk * hazard - event), coef, LAM_OF_LOSSES[spec] / 2) < 1e-9
    assert 0 < np.count_nonzero(coef) < len(coef)


@pytest.mark.parametrize("spec", LAM_OF_LOSSES)
def test_a_sharded_elastic_net_is_that_of_standardised_columns(found, spec):
    data = data_of(spec)
    scale = data["X"].std(axis=0)
    Z = (data["X"] - data["X"].mean(axis=0)) / scale
    for lam, coef in zip(LAMS, found[f"{spec} elastic net"] * scale, strict=True):
        slope = squared_error_slope(Z, data["y"], coef)
        assert violation(gradient(Z, slope), coef, lam / 2, ridge=lam / 2) < 1e-9


@pytest.mark.parametrize("spec", LAM_OF_LOSSES)
def test_sharded_groups_meet_the_optimality_conditions(found, spec):
    data = data_of(spec)
    X, y = data["X"], data["y"]
    for lam, coef in zip(LAMS, found[f"{spec} groups"], strict=True):
        of_all = gradient(X, squared_error_slope(X, y, coef)).reshape(-1, 4)
        for part, own in zip(of_all, coef.reshape(-1, 4), strict=True):
            weight = lam * np.sqrt(len(own))
            if own.any():
                np.testing.assert_allclose(part, -weight * own / np.linalg.norm(own), atol=1e-9)
            else:
                assert np.linalg.norm(part) <= weight * (1 + 1e-9)


def test_a_sharded_array_of_single_precision_is_fitted_in_it(found):
    assert found["rows single"].dtype == np.float32
    # X is rounded to 3e-6 where it is 30 from zero, and its errors add up over correlated columns.
    np.testing.assert_allclose(found["rows single"], found["rows lasso"], atol=1e-5)


@pytest.mark.parametrize("spec", ["rows", "both"])
def test_folds_of_sharded_rows_have_the_errors_of_fits_without_them(found, spec):
    data = tall_data()
    folds = np.arange(4096) % 4
    for i in range(4):
        train, test = folds != i, folds == i
        for lam, error in zip(LAMS, found[f"{spec} cv"][i], strict=True):
            model = sklearn.linear_model.Lasso(lam, tol=1e-12, max_iter=10_000)
            model.fit(data["X"][train], data["y"][train])
            rest = data["y"][test] - model.predict(data["X"][test])
            np.testing.assert_allclose(error, np.mean(rest**2), rtol=1e-8)


@pytest.mark.parametrize("spec", ["rows", "both"])
def test_the_derivative_by_the_strength_is_that_of_the_active_columns(found, spec):
    data = tall_data()
    coef = found[f"{spec} lasso"][1]
    at = np.flatnonzero(coef)
    Z = (data["X"] - data["X"].mean(axis=0))[:, at]
    expected = np.zeros(16)
    expected[at] = np.linalg.solve(Z.T @ Z / len(Z), -np.sign(coef[at]))
    np.testing.assert_allclose(found[f"{spec} by lam"], expected, atol=1e-9)


def test_the_derivative_of_a_logistic_fit_by_the_strength_solves_the_newton_system(found):
    data = tall_data()
    coef = found["rows logistic"]
    at = np.flatnonzero(coef)
    mean = scipy.special.expit(data["X"] @ coef + intercept_of(data["X"], data["labels"], coef))
    Z = np.column_stack([data["X"][:, at], np.ones(len(mean))])
    system = Z.T @ (Z * (mean * (1 - mean))[:, None]) / len(Z)
    expected = np.zeros(16)
    expected[at] = np.linalg.solve(system, -np.append(np.sign(coef[at]), 0))[:-1]
    np.testing.assert_allclose(found["rows logistic by lam"], expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("claims", ["rows", "both", "rows all", "both all", "columns"])
def test_the_host_receives_no_array_of_the_size_of_x(found, claims):
    size = 64 * 2048 if claims == "columns" else 4096 * 16
    # The most are eight vectors of n entries, or 320 of 2048 columns: the working set.
    assert 0 < found[f"{claims} host"] <= size / 2


@pytest.mark.parametrize("spec", ["rows", "both", "columns"])
def test_no_product_moves_or_copies_a_part_of_x(found, spec):
    """As the compiled programs say; the rows are centred on the way, in blocks of 1024 entries."""
    n, p = (64, 2048) if spec == "columns" else (4096, 16)
    of_programs = {name: sizes for name, sizes in found.items() if name.endswith(" program")}
    moved = {name.split()[1]: s for name, s in of_programs.items() if name.startswith(spec)}
    assert len(moved) == (5 if spec == "columns" else 6)
    # Results: n or p numbers, a Gram matrix and one more column, all columns of a block.
    limits = dict.fromkeys(moved, p) | {"dot": n, "gram": max(1024, p * (p + 1))}
    for name, (most, between) in moved.items():
        assert most <= limits[name], name
        assert between < n * p / 8, name  # what a device has of X


def test_an_entry_of_a_sharded_array_that_is_not_finite_is_named(found):
    assert "got nan at row 100, column 3 (1 such entry)" in str(found["not finite"])
