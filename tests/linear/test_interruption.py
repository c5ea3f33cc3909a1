"""Ctrl-C ends a path with what is done; it is taken up again where it stopped."""

import functools
import io
import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tqdm

import l1jax
from l1jax import Status
from l1jax.linear.engines import _engine, _gradient_engines
from l1jax.linear.engines.active_set import _step_control, _working_set
from l1jax.linear.engines.active_set._options import OPTIONS

N, P, L = 30, 6, 17
RNG = np.random.default_rng(8)
X = RNG.standard_normal((N, P)) * np.array([1.0, 3.0, 1.0, 0.5, 1.0, 1.0])
Y = X @ np.array([2.0, -1.0, 0.5, 0.0, 0.0, 0.0]) + RNG.standard_normal(N) + 5
GROUPS = l1jax.GroupL1(groups=[0, 0, 1, 1, 2, 2])
WEIGHTED = l1jax.ElasticNet(l1_ratio=0.5, weights=[0.0, 1.0, 2.0, 1.0, 1.0, np.inf])
LOGISTIC = {"loss": l1jax.Logistic()}
CASES = {
    "working set": (X, Y, l1jax.L1(), {}),
    "working set, weights and curvature": (X, Y, WEIGHTED, {"standardize": True}),
    "working set, another loss": (X, Y > 5, l1jax.L1(), LOGISTIC),
    "working set of groups": (X, Y, GROUPS, {"tol": 1e-10}),
    "sequential": (X, Y, GROUPS, {"tol": 1e-10, "engine": "sequential"}),
}


def interrupt_after(monkeypatch, fits):
    """Raises KeyboardInterrupt where a path says how far it is, once it has so many fits."""
    real, done = _gradient_engines.advance, []

    def advance(bar, count, *told):
        real(bar, count, *told)
        done.append(count)
        if sum(done) >= fits:
            raise KeyboardInterrupt

    monkeypatch.setattr(_gradient_engines, "advance", advance)
    monkeypatch.setattr(_working_set, "advance", advance)
    monkeypatch.setattr(OPTIONS, "block_size_all_columns", 5)
    monkeypatch.setattr(_step_control, "_FIRST", 5)


def interrupted(monkeypatch, X, y, pen, **options):
    with monkeypatch.context() as patch, pytest.warns(l1jax.ConvergenceWarning, match="resume="):
        interrupt_after(patch, 10)
        return l1jax.path(X, y, pen, n_lams=L, lam_min_ratio=0.01, **options)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.slow
def test_what_is_done_is_kept_and_the_rest_is_solved_on_resume(monkeypatch, name):
    X, y, pen, options = CASES[name]
    whole = l1jax.path(X, y, pen, n_lams=L, lam_min_ratio=0.01, **options)
    part = interrupted(monkeypatch, X, y, pen, **options)
    done = part.status == Status.CONVERGED
    assert done.sum() == 10 and done[:10].all()
    assert (part.status[10:] == Status.INTERRUPTED).all()
    assert_close(part[:10], whole[:10])
    np.testing.assert_allclose(part.lams, whole.lams, rtol=1e-14)
    for values in (part.coefs, part.intercepts, part.relative_gaps, part.gaps):
        assert np.isnan(values[10:]).all()
    assert not part.n_nonzero[10:].any() and "incomplete: 7 not reached" in str(part)

    file = io.BytesIO()
    part.save(file)
    file.seek(0)
    again = l1jax.path(X, y, pen, resume=l1jax.load(file), **options)
    assert (again.status == Status.CONVERGED).all()
    assert_close(again, whole)


def assert_close(path, other):
    # Gaps of 1e-10 and less of data like these bound the error of coefficients by a few 1e-5.
    np.testing.assert_allclose(path.coefs, other.coefs, atol=1e-5)
    np.testing.assert_allclose(path.intercepts, other.intercepts, atol=1e-5)


@pytest.mark.parametrize("name", ["working set", "sequential"])
def test_only_what_is_missing_is_solved(monkeypatch, name):
    X, y, pen, options = CASES[name]
    part = interrupted(monkeypatch, X, y, pen, **options)
    solved = []

    def advance(bar, count, lam, *told):
        solved.append(float(lam))

    monkeypatch.setattr(_gradient_engines, "advance", advance)
    monkeypatch.setattr(_working_set, "advance", advance)
    again = l1jax.path(X, y, pen, resume=part, **options)
    assert solved and set(solved) <= set(np.asarray(part.lams[10:], float))
    solved.clear()
    assert_close(l1jax.path(X, y, pen, resume=again, **options), again)
    assert not solved


def test_fits_of_other_data_are_found_out():
    other = l1jax.path(X, Y[::-1], l1jax.L1(), n_lams=L)
    again = l1jax.path(X, Y, l1jax.L1(), resume=other)
    assert_close(again, l1jax.path(X, Y, l1jax.L1(), lams=other.lams))
    assert (np.asarray(again.relative_gaps) <= 1e-8).all()


def test_a_tighter_tolerance_is_met_on_resume():
    loose = l1jax.path(X, Y, GROUPS, n_lams=L, tol=1e-2)
    assert (np.asarray(l1jax.path(X, Y, GROUPS, resume=loose, tol=1e-10).gaps) < 1e-8).all()


@pytest.mark.parametrize("name", ["working set", "sequential"])
def test_with_nothing_done_the_interrupt_goes_through(monkeypatch, name):
    def stop(*_, **__):
        raise KeyboardInterrupt

    X, y, pen, options = CASES[name]
    monkeypatch.setattr("l1jax.linear.engines._gradient_engines.solve_best", stop)
    monkeypatch.setattr(
        "l1jax.linear.engines.active_set._least_squares.LeastSquares.restricted_solver", stop
    )
    with pytest.raises(KeyboardInterrupt):
        l1jax.path(X, y, pen, n_lams=L, lam_min_ratio=0.01, **options)


def test_a_single_fit_and_a_derivative_are_all_or_nothing(monkeypatch):
    interrupt_after(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        jax.grad(lambda y: l1jax.path(X, y, l1jax.L1(), n_lams=L).coefs.sum())(jnp.asarray(Y))
    monkeypatch.setattr(OPTIONS, "max_columns", 0)  # then a fit is solved in blocks
    with pytest.raises(KeyboardInterrupt):
        l1jax.fit(X, Y, l1jax.L1(0.1))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"resume": 7}, TypeError, "resume must be a path or the name of its file.*got int"),
        (
            {"lams": [1.0]},
            ValueError,
            "resume brings its own grid, of 17 strengths.*leave lams out",
        ),
        ({"X": X[:, :4]}, ValueError, "resume must be a path of these data"),
    ],
)
@pytest.mark.fast
def test_what_cannot_be_resumed_is_an_error(change, error, message):
    path = l1jax.path(X, Y, l1jax.L1(), n_lams=L)
    with pytest.raises(error, match=message):
        l1jax.path(**{"X": X, "y": Y, "pen": l1jax.L1(), "resume": path} | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fit_intercept": False}, "resume was fitted with fit_intercept=True"),
        ({"standardize": True}, "resume was fitted with standardize=False"),
        ({"sample_weight": np.ones(len(Y))}, "resume was fitted without sample_weight"),
        ({"offset": np.ones(len(Y))}, "resume was fitted without offset"),
        ({"loss": l1jax.Huber()}, "resume was fitted with loss=SquaredError"),
    ],
)
def test_a_path_is_not_resumed_with_other_options(change, message):
    path = l1jax.path(X, Y, l1jax.L1(), lams=[0.3, 0.2])
    with pytest.raises(ValueError, match=message):
        l1jax.path(X, Y, l1jax.L1(), resume=path, **change)


def test_no_resume_inside_jit():
    path = l1jax.path(X, Y, l1jax.L1(), n_lams=L)
    with pytest.raises(ValueError, match="resume needs concrete data"):
        jax.jit(lambda y: l1jax.path(X, y, l1jax.L1(), resume=path).coefs)(Y)


@pytest.mark.parametrize("name", ["working set", "sequential"])
def test_the_bar_says_where_the_path_is(capsys, monkeypatch, name):
    at_once = functools.partial(tqdm.tqdm, mininterval=0)
    monkeypatch.setattr("tqdm.tqdm", at_once)
    X, y, pen, options = CASES[name]
    l1jax.path(X, y, pen, n_lams=L, lam_min_ratio=0.01, progress=True, **options)
    shown = capsys.readouterr().err
    assert "lam=" in shown and "features=" in shown
    assert ("gap=" in shown) == (name == "sequential")
    l1jax.path(X, y, pen, n_lams=L, lam_min_ratio=0.01, progress=False, **options)
    assert not capsys.readouterr().err


SCRIPT = """
    import sys, warnings
    import numpy as np
    import l1jax

    warnings.simplefilter("ignore", l1jax.ConvergenceWarning)
    X = np.random.default_rng(0).standard_normal((30, 6))
    path = l1jax.path(X, X.sum(axis=1), l1jax.L1(), n_lams=40_000, progress=True)
    path.save(sys.argv[1])
    print("went on")
"""


def test_a_signal_ends_a_path_and_the_program_goes_on(tmp_path):
    file = tmp_path / "path.npz"
    home = Path(l1jax.__file__).parents[1]
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), str(file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(home)},
    ) as child:
        try:
            told, sent = b"", -math.inf
            while piece := os.read(child.stderr.fileno(), 1000):
                told += piece
                # Some fits are done. Python drops an exception raised in a callback of its garbage
                # collector, and jax has one: a signal that arrives there is lost, so it is repeated.
                if b"lam=" in piece and time.monotonic() > sent + 2:
                    child.send_signal(signal.SIGINT)
                    sent = time.monotonic()
            out, _ = child.communicate()
        finally:
            child.kill()
    assert child.returncode == 0 and b"went on" in out, told.decode()
    path = l1jax.load(file)
    done = int((path.status == Status.CONVERGED).sum())
    assert 0 < done < len(path) == 40_000
    assert (path.status[done:] == Status.INTERRUPTED).all()
    assert np.isfinite(path.coefs[:done]).all() and np.isnan(path.coefs[done:]).all()


def test_a_signal_while_certifying_loses_nothing(monkeypatch):
    report, calls = _engine.report_path, []

    def interrupted_once(*args):
        calls.append(args)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return report(*args)

    monkeypatch.setattr(_engine, "report_path", interrupted_once)
    path = l1jax.path(X, Y, l1jax.L1(), n_lams=5)
    assert len(calls) == 2
    assert (np.asarray(path.status) == l1jax.Status.CONVERGED).all()
