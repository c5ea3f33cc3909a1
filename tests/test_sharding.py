"""Data on a mesh of several devices, with explicit axes (the default of newer versions of JAX) and without."""

import os
import subprocess
import sys

import jax
import pytest

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
