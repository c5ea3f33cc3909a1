"""Batches of paths on one X: each is the path of its response and weights, whatever engine solves it."""

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from sklearn.linear_model import lasso_path

import l1jax

N, P, K, L = 40, 30, 3, 6
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, P))
Y = X[:, :K] + RNG.normal(size=(N, K))
DRAWS = RNG.multinomial(N, np.ones(N) / N, size=K).astype(float)
GRID = {"n_lams": L, "lam_min_ratio": 0.05}


@pytest.fixture(scope="module")
def batch():
    return l1jax.batch_path(X, Y, l1jax.L1(), **GRID)


def test_each_lane_is_the_lasso_of_its_response(batch):
    for i, path in enumerate(batch):
        target = Y[:, i] - Y[:, i].mean()
        exact = lasso_path(X - X.mean(axis=0), target, alphas=path.lams, tol=1e-12)[1].T
        # A gap of 1e-12 ‖y‖² leaves coefficients within its root.
        np.testing.assert_allclose(path.coefs, exact, atol=1e-5)
    assert (batch.relative_gaps < 1e-10).all() and (batch.status == l1jax.Status.CONVERGED).all()
    assert batch.lams.shape == batch.n_nonzero.shape == (K, L)
    np.testing.assert_array_equal(batch.coefs_at(2)[1], batch[1].coefs[2])


@pytest.mark.parametrize("loss", [l1jax.SquaredError(), l1jax.Logistic()], ids=str)
def test_a_batch_is_a_loop_of_paths(loss):
    y = Y[:, 0] if loss.is_quadratic else (Y[:, 0] > 0).astype(float)
    options = GRID | {"loss": loss, "standardize": True}
    found = l1jax.batch_path(X, y, l1jax.L1(), sample_weights=DRAWS, **options)
    for i, path in enumerate(found):
        alone = l1jax.path(X, y, l1jax.L1(), sample_weight=DRAWS[i], **options)
        # Both at rounding, from the same steps.
        np.testing.assert_allclose(path.coefs, alone.coefs, atol=1e-9)
        np.testing.assert_allclose(path.predict(X[:3]), alone.predict(X[:3]), atol=1e-9)
        np.testing.assert_array_equal(path.fits.options.sample_weight, DRAWS[i])


def test_columns_are_prepared_once_for_all_responses(monkeypatch):
    from l1jax.linear.model import _problem

    calls, standardise = [], _problem.standardise
    monkeypatch.setattr(
        _problem, "standardise", lambda *a, **k: calls.append(1) or standardise(*a, **k)
    )
    l1jax.batch_path(X, Y, l1jax.L1(), **GRID)
    assert len(calls) == 1


@pytest.mark.slow
def test_chunks_of_lanes_in_one_program_give_the_same(batch):
    found = l1jax.batch_path(X, Y, l1jax.L1(), engine="parallel", chunk=2, tol=1e-12, **GRID)
    # A gap of 1e-12 of the null deviance, about 1, leaves coefficients within its root.
    np.testing.assert_allclose(found.coefs_at(L - 1), batch.coefs_at(L - 1), atol=1e-5)
    np.testing.assert_allclose(found.lams, batch.lams, rtol=1e-12)


@pytest.mark.slow
def test_lanes_are_split_over_devices():
    program = """
        import jax, numpy as np, l1jax
        jax.config.update("jax_enable_x64", True)
        assert len(jax.devices()) == 8
        rng = np.random.default_rng(0)
        X = rng.normal(size=(20, 6))
        Y = X[:, :5] + rng.normal(size=(20, 5))
        alone = l1jax.batch_path(X, Y, l1jax.L1(), n_lams=4)
        from l1jax.linear.selection import _batch_path
        seen, lanes = [], _batch_path._lanes
        def look(*arguments):
            fits = lanes(*arguments)
            seen.append(fits.intercept.sharding)
            return fits
        _batch_path._lanes = look
        split = l1jax.batch_path(X, Y, l1jax.L1(), n_lams=4, engine="parallel", tol=1e-12)
        assert len(seen[0].device_set) == 8 and not seen[0].is_fully_replicated
        np.testing.assert_allclose(split.coefs_at(3), alone.coefs_at(3), atol=1e-5)
        print("ok")
    """
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", textwrap.dedent(program)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.stdout == "ok\n", done.stderr


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((X, Y[:, 0]), {}, r"Y must have a column for each path, got shape \(40,\)"),
        ((X, Y), {"sample_weights": DRAWS[:2]}, r"shape \(k, 40\) with k = 3, got \(2, 40\)"),
        (
            (X, Y),
            {"sample_weights": -DRAWS},
            "path 0 of the batch: sample_weight|sample_weight must",
        ),
        ((X, np.where(np.isin(np.arange(N), 5)[:, None], np.nan, Y)), {}, r"y must be finite"),
        ((X, Y), {"chunk": 0}, "chunk must be"),
        ((X, Y), {"loss": l1jax.Cox()}, "Cox|one response|y must"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        l1jax.batch_path(*arguments, l1jax.L1(), **GRID, **options)
