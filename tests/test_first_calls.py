"""First calls: NumPy data compile nothing, and what is compiled is kept."""

import errno
import math
import os
import subprocess
import sys
import threading
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

import l1jax
from l1jax import _compile
from l1jax.linear.data._inputs import read
from l1jax.linear.host._path_solution import PathSolution
from l1jax.linear.host._penalty_lanes import penalty_lanes
from l1jax.linear.model._null_model import prepare
from l1jax.linear.model._on_host import is_on_host, on_host
from l1jax.linear.model._prepare import data_of
from l1jax.linear.results._certified import Solutions, _compiled_lanes, _host_lanes

_COMPILED = []
jax.monitoring.register_event_duration_secs_listener(
    lambda name, *_, **__: _COMPILED.append(name) if "backend_compile" in name else None
)

_LOSSES = {
    "squared": l1jax.SquaredError(),
    "logistic": l1jax.Logistic(),
    "poisson": l1jax.Poisson(),
    "huber": l1jax.Huber(0.7),
    "hinge": l1jax.SquaredHinge(),
    "cox": l1jax.Cox(),
    "efron": l1jax.Cox("efron"),
}
_PENALTIES = {
    "l1": lambda p: l1jax.L1(weights=1 + np.arange(p) % 3),
    "nonnegative": lambda p: l1jax.NonNegativeL1(),
    "net": lambda p: l1jax.ElasticNet(l1_ratio=0.7),
    "nonnegative_net": lambda p: l1jax.NonNegativeElasticNet(l1_ratio=0.7),
    "groups": lambda p: l1jax.GroupL1(groups=np.arange(p) // 2),
    "net_of_groups": lambda p: l1jax.GroupElasticNet(groups=np.arange(p) % 4, l1_ratio=0.7),
}
_PAIRS = [(loss, pen) for loss in _LOSSES for pen in list(_PENALTIES)[:4]]
_LOSSES["softmax"] = l1jax.Multinomial()
_PAIRS += [("softmax", "nonnegative"), ("softmax", "net")]
_PAIRS += [("squared", "groups"), ("squared", "net_of_groups")]
# A certificate is what the loss says and what the penalty says: each loss, and each penalty with two of them.
_SOME_PAIRS = [pair for pair in _PAIRS if pair[0] in ("squared", "softmax") or pair[1] == "net"]
_SOME_PAIRS += [("logistic", pen) for pen in ("l1", "nonnegative", "nonnegative_net")]


def _data(n, p, loss, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, p))
    eta = X[:, 0] - 0.5 * X[:, 1] + 0.5 * rng.normal(size=n)
    if loss in ("logistic", "hinge"):
        return X, (eta > 0) * 1.0
    if loss == "softmax":
        return X, np.digitize(eta, [-0.5, 0.5])
    if loss in ("cox", "efron"):
        return X, np.column_stack([np.ceil(4 * np.exp(-eta)), rng.uniform(size=n) < 0.8])
    return X, rng.poisson(np.exp(eta / 2)) * 1.0 if loss == "poisson" else eta + 3


@pytest.mark.parametrize(("loss", "pen"), _PAIRS)
def test_a_new_shape_of_numpy_data_compiles_nothing(loss, pen):
    """The first call may; of the second one, no size is that of an earlier test."""

    def calls(n, p):
        X, y = _data(n, p, loss)
        one = _PENALTIES[pen](p)
        options = {"loss": _LOSSES[loss], "sample_weight": np.linspace(1, 2, n)}
        path = l1jax.path(X, y, one, n_lams=4, lam_min_ratio=0.1, standardize=True, **options)
        fit = l1jax.fit(X, y, one.with_strength(path.lams[2]), **options)
        fit.predict(X)
        l1jax.lambda_max(X, y, one, **options)
        return path

    calls(30, 8)
    before = len(_COMPILED)
    path = calls(37, 12)
    assert len(_COMPILED) == before
    assert (np.asarray(path.status) == l1jax.Status.CONVERGED).all()


@pytest.mark.parametrize("loss", ["squared", "logistic"])
def test_cross_validation_of_new_shapes_compiles_nothing(loss):
    def call(n, p):
        X, y = _data(n, p, loss)
        l1jax.cross_validate(X, y, l1jax.L1(), n_lams=4, n_folds=3, loss=_LOSSES[loss])

    call(30, 8)
    before = len(_COMPILED)
    call(37, 12)
    assert len(_COMPILED) == before


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "pen"), _SOME_PAIRS)
def test_certificates_in_numpy_are_those_of_compiled_programs(loss, pen):
    """The same formulas, evaluated by NumPy and by XLA, at points near and far from the solutions."""
    n, p = 30, 8
    X, y = _data(n, p, loss)
    one, weights = _PENALTIES[pen](p), np.linspace(1, 2, n)
    k = (3,) if loss == "softmax" else ()
    offset = np.linspace(0, 0.2, n * math.prod(k)).reshape(n, *k)
    inputs = read(X, y, one, _LOSSES[loss], weights, offset, has_strength=False)
    data, known_pen = on_host(data_of(inputs, inputs.loss, True, True), inputs.pen)
    problem = prepare(data, known_pen)
    assert is_on_host(problem)
    compiled = jax.jit(prepare)(data, known_pen)
    for ours, theirs in zip(jax.tree.leaves(problem), jax.tree.leaves(compiled), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)
    lams = np.array([0.3, 0.05, 0.01])
    betas = np.stack([np.zeros(p), np.full(p, 0.1), np.linspace(0, 1, p) ** 3])
    intercepts = np.array([0.0, 0.5, -1.0])
    if k:
        betas, intercepts = betas[..., None] * [1, 0, 0.5], intercepts[:, None] * [1, 0, -1]
    found = Solutions(lams, betas, intercepts, np.ones(3, np.int32))
    solution = PathSolution(betas, found.intercepts, found.num_steps, 3, [])
    lanes = penalty_lanes(known_pen, (p, *k), np.float64)
    ours = _host_lanes(problem, known_pen, lanes, found, solution, 1e-6, None)
    theirs = _compiled_lanes(problem, known_pen, found, solution, 1e-6, None)
    for name in ("coef", "intercept", "objective", "gap", "kkt", "margin", "deviance_explained"):
        np.testing.assert_allclose(
            getattr(ours, name), getattr(theirs, name), rtol=1e-9, atol=1e-12, err_msg=name
        )
    np.testing.assert_array_equal(ours.status, theirs.status)


def test_overflow_in_numpy_warns_of_nothing():
    X = np.array([[1000.0], [-1000.0], [500.0], [0.0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        y = np.array([2.0, 0.0, 1.0, 1.0])
        fit = l1jax.fit(X, y, l1jax.L1(1e-3), loss=l1jax.Poisson())
        counts = fit.predict(1e3 * X)
    scaled = l1jax.fit(X / 1000, y, l1jax.L1(1e-6), loss=l1jax.Poisson())
    np.testing.assert_allclose(
        1000 * fit.coef, scaled.coef, rtol=1e-5
    )  # fits are good to a gap of 1e-6
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(counts, np.exp(1e3 * X @ fit.coef + fit.intercept), rtol=1e-9)


def test_the_derivative_by_the_strength_compiles_nothing_that_depends_on_the_rows():
    def gradient(n):
        X, y = _data(n, 9, "squared")
        return jax.grad(lambda lam: l1jax.fit(X, y, l1jax.L1(lam)).coef.sum())(0.1), (X, y)

    gradient(31)
    before = len(_COMPILED)
    found, (X, y) = gradient(43)
    assert len(_COMPILED) == before
    step = 1e-6
    up, down = (l1jax.fit(X, y, l1jax.L1(0.1 + s)).coef.sum() for s in (step, -step))
    np.testing.assert_allclose(found, (up - down) / (2 * step), rtol=1e-6)  # straight between knots


def test_import_loads_nothing_that_few_calls_need():
    code = "import sys, l1jax; print([m for m in sys.argv[1:] if m in sys.modules])"
    late = ["sklearn", "matplotlib", "pandas", "scipy.sparse", "scipy.optimize", "scipy.special"]
    late += ["jax.experimental.sparse", "l1jax.composite", "l1jax.linear", "l1jax.tuning"]
    found = subprocess.run(
        [sys.executable, "-c", code, *late], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"


def test_names_of_sub_packages_that_load_when_used_are_the_public_ones(tmp_path):
    X, y = np.array([[-1.0], [0.0], [1.0]]), np.array([-1.0, 0.0, 1.0])
    l1jax.path(X, y, l1jax.L1(), n_lams=2).save(tmp_path / "path.npz")
    code = """
import sys, l1jax
print(set(l1jax.__all__) <= set(dir(l1jax)), hasattr(l1jax, "nothing"), "l1jax.linear" in sys.modules)
print(len(l1jax.load(sys.argv[1])), l1jax.load.__module__)
from l1jax import *
print(minimize.__module__, tune.__module__, penalties is l1jax.training.penalties, fit is l1jax.fit)
"""
    run = [sys.executable, "-c", code, tmp_path / "path.npz"]
    out = subprocess.run(run, capture_output=True, text=True, check=True).stdout.splitlines()
    assert out[0] == "True False False"
    assert out[1] == "2 l1jax._saving"
    assert out[2] == "l1jax.composite._minimize l1jax.tuning._tune True True"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder that programs are kept in, however fast they are compiled, and not in JAX's cache."""
    monkeypatch.setattr(_compile, "_LEAST_SECONDS", 0)
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
    l1jax.set_compilation_cache(tmp_path / "programs")
    yield tmp_path / "programs"
    monkeypatch.setattr(_compile, "_is_set", False)
    jax.config.update("jax_compilation_cache_dir", before)
    compilation_cache.reset_cache()


def _cube(x):
    return {"cube": x**3, "name": "cube"}


def _files(folder):
    return sorted(folder.glob("*"))


def test_a_program_is_read_by_the_next_process(folder):
    x = np.arange(3.0)
    _compile.program(_cube)(x)
    assert len(_files(folder)) == 1
    before = len(_COMPILED)
    found = _compile.program(_cube)(x)  # which knows nothing of the first
    assert len(_COMPILED) == before
    np.testing.assert_array_equal(found["cube"], x**3)
    assert found["name"] == "cube"


@pytest.mark.parametrize("content", [b"", b"nonsense", None])
def test_a_file_that_is_broken_is_replaced(folder, content):
    x = np.arange(4.0)
    _compile.program(_cube)(x)
    (file,) = _files(folder)
    good = file.read_bytes()
    file.write_bytes(good[: len(good) // 2] if content is None else content)
    np.testing.assert_array_equal(_compile.program(_cube)(x)["cube"], x**3)
    before = len(_COMPILED)
    _compile.program(_cube)(x)
    assert len(_COMPILED) == before


def test_a_file_with_another_content_is_not_run(folder):
    x = np.arange(4.0)
    _compile.program(_cube)(x)
    (file,) = _files(folder)
    good = file.read_bytes()
    at = len(good) // 2
    file.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
    np.testing.assert_array_equal(_compile.program(_cube)(x)["cube"], x**3)


def test_a_program_that_does_not_run_is_compiled(folder, monkeypatch):
    x = np.arange(4.0)
    _compile.program(_cube)(x)

    def broken(*_):
        raise RuntimeError("Function fusion not found")

    monkeypatch.setattr(_compile, "_read", lambda *_: broken)
    np.testing.assert_array_equal(_compile.program(_cube)(x)["cube"], x**3)


def test_where_jax_has_a_cache_that_one_serves(folder, tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "jax"))
    _compile.program(_cube)(np.ones(5))
    assert not folder.exists()


def test_a_folder_that_cannot_be_written_does_no_harm(tmp_path, folder):
    (tmp_path / "file").write_text("")
    l1jax.set_compilation_cache(tmp_path / "file")
    np.testing.assert_array_equal(_compile.program(_cube)(np.ones(5))["cube"], np.ones(5))


def test_a_full_disk_does_no_harm(folder, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    np.testing.assert_array_equal(_compile.program(_cube)(np.ones(6))["cube"], np.ones(6))
    assert not _files(folder)  # nor is a part of one left


def test_writers_at_one_time_do_no_harm(folder):
    results = []

    def call():
        results.append(_compile.program(_cube)(np.ones(7))["cube"])

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(results, np.ones((4, 7)))
    assert len(_files(folder)) == 1


def test_the_oldest_programs_go_first(folder, monkeypatch):
    _compile.program(_cube)(np.ones(8))
    (old,) = _files(folder)
    os.utime(old, (1, 1))
    monkeypatch.setattr(_compile, "_MOST_BYTES", int(1.5 * old.stat().st_size))
    _compile.program(_cube)(np.ones(9))
    assert old not in _files(folder)
    assert len(_files(folder)) == 1


def test_programs_of_a_user_are_not_kept(folder):
    class Mine(l1jax.L1):
        pass

    def value(pen, x):
        return pen.value(x)

    x = jnp.ones(3)
    _compile.program(value)(Mine(0.1), x)
    _compile.program(lambda f, x: f(x))(_cube, x)
    assert not folder.exists()
    _compile.program(value)(l1jax.L1(0.1), x)
    assert len(_files(folder)) == 1


def test_the_environment_says_where_programs_are_kept(monkeypatch, tmp_path):
    monkeypatch.setattr(_compile, "_is_set", False)
    monkeypatch.setenv("L1JAX_CACHE", "0")
    assert _compile.cache_folder() is None
    monkeypatch.setenv("L1JAX_CACHE", str(tmp_path))
    assert _compile.cache_folder() == tmp_path
    monkeypatch.delenv("L1JAX_CACHE")
    assert _compile.cache_folder().name == "l1jax"
    with pytest.raises(TypeError, match="folder must be a path or None, got 3"):
        l1jax.set_compilation_cache(3)


def test_other_settings_and_shapes_are_other_programs(folder):
    run = _compile.program(_cube)
    assert run(np.ones(2))["cube"].dtype == jnp.result_type(float)
    with jax.enable_x64(True):
        assert run(np.ones(2))["cube"].dtype == np.float64
    assert run(np.ones(3, np.float32))["cube"].dtype == np.float32


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="options of the compiler for CPUs")
def test_programs_of_few_numbers_are_compiled_without_optimisation(monkeypatch):
    asked = []
    compile_ = jax.stages.Lowered.compile
    monkeypatch.setattr(
        jax.stages.Lowered,
        "compile",
        lambda self, given: (asked.append(given), compile_(self, given))[1],
    )
    small, large = np.ones(3), np.ones(2**14 + 1)
    for x in (small, large):
        np.testing.assert_array_equal(_compile.program(_cube)(x)["cube"], x)
    level = "xla_backend_optimization_level"
    assert [given.get(level) for given in asked] == [0, None]


def test_a_program_within_a_function_that_is_traced_is_part_of_it(folder):
    run = _compile.program(_cube)
    batch = jax.jit(jax.vmap(lambda x: run(x)["cube"]))(jnp.arange(4.0))
    np.testing.assert_array_equal(batch, np.arange(4.0) ** 3)
    assert not folder.exists()


def test_large_constants_of_a_users_function_are_not_computed_with_at_compile_time():
    x = np.linspace(0, 1, 2 * _compile._LARGE).reshape(2, -1)
    run = _compile.program(lambda x, y: y * jnp.sum(x * x, axis=1))
    compiled = jax.jit(lambda y: run(x, y)).lower(1.0).compile()
    assert "reduce" in compiled.as_text()  # else the two sums would be constants
    np.testing.assert_allclose(compiled(2.0), 2 * (x * x).sum(axis=1), rtol=1e-5)


def test_the_import_loads_neither_scipy_linalg_nor_scikit_learn_nor_matplotlib():
    program = """
import sys
import jax, optax, equinox, l1jax
late = {"scipy.linalg", "scipy.sparse", "scipy.special", "sklearn", "matplotlib", "tqdm", "l1jax.prune"}
print(sorted(late & set(sys.modules)))
print(l1jax.prune.compact.__name__, l1jax.sklearn.Lasso.__name__, l1jax.plot.path.__name__)
l1jax.fit([[1.0], [2.0], [0.0]], [1.0, 2.0, 0.5], l1jax.L1(0.1))
from l1jax._threads import _controller
import scipy.linalg, threadpoolctl
print(len(_controller().info()) == len(threadpoolctl.threadpool_info()))
"""
    out = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert out.stdout.splitlines() == ["[]", "compact Lasso path", "True"]
