"""X that is read in blocks of rows: the fits of the array, few passes, bounded memory, errors of blocks."""

import gc
import io
import json
import tracemalloc
import weakref
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from sklearn.linear_model import Lasso
from threadpoolctl import threadpool_info

import l1jax
from l1jax.linear.data._block_reader import read_memory
from l1jax.linear.data._block_sources import block_errors
from l1jax.linear.engines._row_blocks_engine import RowBlockNewton
from l1jax.linear.engines.active_set._row_block_newton import _with_block

RNG = np.random.default_rng(7)
N, P = 1200, 12
X = RNG.normal(size=(N, P)) * RNG.uniform(0.5, 2, P) + RNG.normal(size=P)
Y = X[:, :4] @ np.array([1.0, -1.0, 0.5, 0.2]) + RNG.normal(size=N) + 5
LABELS = (RNG.random(N) < 1 / (1 + np.exp(-(Y - Y.mean())))).astype(float)
LOGISTIC = {"loss": l1jax.Logistic()}
SMALL = "40KB"  # too small for copies of columns, and for many rows in a sample
WIDE = RNG.normal(size=(60, 700))  # more columns than all of which are copied
WIDE_LABELS = (WIDE[:, :5].sum(axis=1) + RNG.normal(size=60) > 0).astype(float)


def parts(x=X, count=30):
    """A function that returns an iterator over blocks of rows."""
    return lambda: iter(np.array_split(x, count))


def kkt_violation(x, y, coef, intercept, lam, mean, weights=None):
    """The largest violation of the optimality conditions of the L1 penalty, for ∂loss/∂η = mean(η) − y."""
    s = np.full(len(y), 1 / len(y)) if weights is None else weights / weights.sum()
    slope = s * (mean(x @ coef + intercept) - y)
    gradient = x.T @ slope
    active = abs(gradient + lam * np.sign(coef))[coef != 0].max(initial=0)
    return max(active, (abs(gradient) - lam)[coef == 0].max(initial=0), abs(slope.sum()))


def sigmoid(eta):
    return 1 / (1 + np.exp(-eta))


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.int8, np.uint8])
@pytest.mark.float32
def test_a_lasso_of_stored_dtypes_takes_one_pass(tmp_path, dtype):
    stored = np.clip(8 * X, 0 if dtype == np.uint8 else -100, 100).astype(dtype)
    np.save(tmp_path / "x.npy", stored)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    fit = l1jax.fit(mapped, Y, l1jax.L1(0.4), max_memory=SMALL)
    wanted = Lasso(0.4, tol=1e-14, max_iter=10**5).fit(stored.astype(float), Y)
    assert fit.passes == 1 and fit.n_nonzero == np.count_nonzero(wanted.coef_)
    # Both are solved to rounding; coordinate descent stops at a gap of 1e-14 |y|².
    np.testing.assert_allclose(fit.coef, wanted.coef_, atol=1e-7)
    np.testing.assert_allclose(fit.intercept, wanted.intercept_, atol=1e-6)


def memory_maps(folder, x):
    np.save(folder / "rows.npy", x)
    np.save(folder / "columns.npy", np.asfortranarray(x))
    np.save(folder / "more.npy", np.pad(x, [(3, 2), (0, 0)]))
    np.save(folder / "wider.npy", np.pad(x, [(0, 0), (1, 2)]))
    rows, columns, more, wider = (
        np.load(folder / f"{name}.npy", mmap_mode="r")
        for name in ("rows", "columns", "more", "wider")
    )
    yield from (rows, columns, more[3:-2], wider[:, 1:-2], folder / "rows.npy")


def assert_same_products(rows, x):
    b, r, at = np.arange(1.0, x.shape[1] + 1), np.sin(np.arange(len(x))), np.array([4, 1])
    assert rows.shape == x.shape
    np.testing.assert_allclose(rows.dot(b), x @ b, rtol=1e-12)
    np.testing.assert_allclose(rows.rdot(r), x.T @ r, atol=1e-10)
    np.testing.assert_allclose(rows.columns(at), x[:, at], rtol=1e-15)
    assert rows.passes == 3 and rows.bytes_read == 3 * x.nbytes


@pytest.mark.fast
def test_products_with_every_source_are_those_of_the_array(tmp_path):
    for source in (*memory_maps(tmp_path, X), parts(), np.array_split(X, 7), X):
        assert_same_products(l1jax.blocks(source, max_memory=SMALL, shape=X.shape), X)


def test_a_sparse_matrix_on_disk_stays_sparse(tmp_path):
    x = np.where(abs(X) > 1.5, X, 0)
    csr = scipy.sparse.csr_array(x)
    mapped = []
    for name in ("data", "indices", "indptr"):
        np.save(tmp_path / f"{name}.npy", getattr(csr, name))
        mapped.append(np.load(tmp_path / f"{name}.npy", mmap_mode="r"))
    rows = l1jax.blocks(scipy.sparse.csr_array(tuple(mapped), shape=x.shape), max_memory=SMALL)
    np.testing.assert_allclose(rows.dot(np.ones(P)), x.sum(axis=1), atol=1e-12)
    assert rows.bytes_read == csr.nnz * 8
    fit = l1jax.fit(rows, Y, l1jax.L1(0.1))
    wanted = Lasso(0.1, tol=1e-14, max_iter=10**5).fit(x, Y)
    np.testing.assert_allclose(fit.coef, wanted.coef_, atol=1e-7)


def test_zarr_hdf5_and_arrow_are_sources(tmp_path):
    import h5py
    import pyarrow
    import pyarrow.parquet
    import zarr

    with h5py.File(tmp_path / "x.h5", "w") as file:
        dataset = file.create_dataset("x", data=X, chunks=(100, P))
        assert_same_products(l1jax.blocks(dataset, max_memory=SMALL), X)
    array = zarr.create_array(str(tmp_path / "x.zarr"), data=X, chunks=(100, P))
    assert_same_products(l1jax.blocks(array, max_memory=SMALL), X)
    names = [f"gene {j}" for j in range(P)]
    table = pyarrow.table(dict(zip(names, X.T, strict=True)))
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet", row_group_size=100)
    for source in (table, tmp_path / "x.parquet"):
        rows = l1jax.blocks(source, max_memory=SMALL)
        assert_same_products(rows, X)
        assert l1jax.fit(rows, Y, l1jax.L1(0.1)).feature_names == tuple(names)


def test_any_penalty_on_squared_error_takes_one_pass():
    found = l1jax.path(parts(), Y, l1jax.MCP(), n_lams=6, max_memory=SMALL, standardize=True)
    wanted = l1jax.path(X, Y, l1jax.MCP(), n_lams=6, standardize=True)
    assert found.passes == 1
    np.testing.assert_allclose(found.coefs, wanted.coefs, atol=1e-9)


def test_cross_validation_of_a_lasso_takes_one_pass():
    folds, lams = np.arange(N) % 3, np.array([0.5, 0.1])
    cv = l1jax.cross_validate(parts(), Y, l1jax.L1(), folds=folds, lams=lams, max_memory=SMALL)
    wanted = np.empty((3, 2))
    for k in range(3):
        for i, lam in enumerate(lams):
            model = Lasso(lam, tol=1e-14, max_iter=10**5).fit(X[folds != k], Y[folds != k])
            wanted[k, i] = np.mean((model.predict(X[folds == k]) - Y[folds == k]) ** 2)
    np.testing.assert_allclose(cv.fold_scores, wanted, rtol=1e-7)
    assert cv.path.passes == 1 and cv.predictions is None


def test_cross_validation_of_other_losses_is_that_of_the_array():
    options = {"n_folds": 2, "n_lams": 4, **LOGISTIC}
    found = l1jax.cross_validate(X, LABELS, l1jax.L1(), max_memory="4MB", **options)
    wanted = l1jax.cross_validate(X, LABELS, l1jax.L1(), **options)
    np.testing.assert_allclose(found.fold_scores, wanted.fold_scores, rtol=1e-9)
    assert found.path.passes <= 20


@pytest.mark.float32
def test_a_logistic_path_of_wide_data_takes_few_passes():
    path = l1jax.path(parts(WIDE), WIDE_LABELS, l1jax.L1(), n_lams=50, max_memory="8MB", **LOGISTIC)
    assert path.passes <= 30 and (path.status == l1jax.Status.CONVERGED).all()
    for i in (10, 30, 49):
        args = (path.coefs[i], path.intercepts[i], path.lams[i], sigmoid)
        assert kkt_violation(WIDE, WIDE_LABELS, *args) < 1e-9


@pytest.mark.parametrize("name", ["logistic", "poisson"])
@pytest.mark.float32
def test_many_rows_are_solved_by_newton_steps_at_all_strengths_at_once(name):
    counts = np.random.default_rng(0).poisson(np.exp(0.3 * (Y - Y.mean())))
    y, loss, mean = {
        "logistic": (LABELS, l1jax.Logistic(), sigmoid),
        "poisson": (counts, l1jax.Poisson(), np.exp),
    }[name]
    weights = RNG.uniform(0.5, 1.5, N)
    options = {"engine": "row_blocks", "max_memory": "200KB", "sample_weight": weights}
    path = l1jax.path(parts(), y, l1jax.L1(), loss=loss, n_lams=50, tol=1e-8, **options)
    assert path.passes <= 40 and (path.status == l1jax.Status.CONVERGED).all()
    for fit in (path[10], path[25], path[49]):
        args = (fit.coef, fit.intercept, fit.lam, mean, weights)
        # A gap of 1e-8 of the null deviance leaves about its root in a gradient.
        assert kkt_violation(X, np.asarray(y, float), *args) < 1e-4 * path.lams[0]
    assert path[49].n_nonzero > 5


def test_a_sample_of_few_rows_more_than_columns_is_enough():
    """Columns that join a working set join a Hessian that has learnt from its steps, which stays definite."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(4000, 40))
    x[:, 1:] += x[:, :-1]
    y = (rng.random(len(x)) < sigmoid(x[:, ::4] @ rng.choice([-1.0, 1.0], 10))).astype(float)
    options = {"engine": "row_blocks", "max_memory": "250KB", "n_lams": 10, "lam_min_ratio": 0.02}
    path = l1jax.path(parts(x, 5), y, l1jax.L1(), tol=1e-6, **options, **LOGISTIC)
    assert path.passes <= 40 and (path.status == l1jax.Status.CONVERGED).all()
    args = (path.coefs[-1], path.intercepts[-1], path.lams[-1], sigmoid)
    # A gap of 1e-6 of the null deviance leaves about its root in a gradient.
    assert kkt_violation(x, y, *args) < 1e-3 * path.lams[0]


def test_a_matrix_with_another_block_stays_positive_semidefinite():
    """Also where it is singular, as where a sample has few rows."""
    rng = np.random.default_rng(0)
    rows, at = rng.normal(size=(4, 6)), np.array([4, 0, 2])
    matrix = rows.T @ rows
    np.testing.assert_allclose(_with_block(matrix, at, matrix[np.ix_(at, at)]), matrix, atol=1e-12)
    for scale in (1e-2, 1e2):
        other = rng.normal(size=(3, 3))
        block = scale * other @ other.T
        found = _with_block(matrix, at, block)
        np.testing.assert_array_equal(found[np.ix_(at, at)], block)
        np.testing.assert_allclose(found, found.T, atol=1e-12 * scale)
        assert np.linalg.eigvalsh(found)[0] >= -1e-11 * np.abs(found).max()  # rounding


def test_options_of_a_fit_by_blocks_are_those_of_the_array():
    options = {"offset": 0.1 * X[:, 5], "standardize": True, "tol": 1e-10, **LOGISTIC}
    pen = l1jax.ElasticNet(l1_ratio=0.5, weights=np.append(np.ones(P - 1), np.inf))
    lams = [0.2, 0.05]
    found = l1jax.path(parts(), LABELS, pen, lams=lams, max_memory=SMALL, **options)
    wanted = l1jax.path(X, LABELS, pen, lams=lams, **options)
    # The root of the relative gap.
    np.testing.assert_allclose(found.coefs, wanted.coefs, atol=1e-5)
    assert (found.coefs[:, -1] == 0).all()
    np.testing.assert_allclose(found.predict(l1jax.blocks(X)), found.predict(X), rtol=1e-12)


def test_lambda_max_of_blocks_is_that_of_the_formula():
    found = l1jax.lambda_max(l1jax.blocks(X), Y, l1jax.L1())
    assert float(found) == pytest.approx(abs(X.T @ (Y - Y.mean())).max() / N, rel=1e-12)


@pytest.mark.float32
def test_products_in_compiled_code_call_back_without_rounding():
    rows, b, r = l1jax.blocks(X, max_memory=SMALL), np.arange(1.0, 2 * P + 1), np.sin(np.arange(N))
    with jax.enable_x64(True):
        found = jax.jit(jax.vmap(rows.dot))(b.reshape(2, P))
        np.testing.assert_allclose(found, b.reshape(2, P) @ X.T, rtol=1e-12)
        np.testing.assert_allclose(jax.jit(rows.rdot)(r), X.T @ r, atol=1e-10)
        np.testing.assert_allclose(jax.jit(rows.columns)(np.array([3, 1])), X[:, [3, 1]])
        centred = jax.jit(lambda s: rows.squares(s, rows.means(s)))(np.full(N, 1 / N))
        np.testing.assert_allclose(centred, X.var(axis=0), rtol=1e-12)
    assert rows.passes == 4  # both vectors of a batch in one, both moments in one


# Memory and passes.


def test_a_block_has_rows_enough_for_its_columns_and_for_chunks_of_storage():
    class Chunked:
        shape, dtype, chunks = (10**6, 100), np.dtype(np.float32), (30_000, 100)

        def __getitem__(self, rows):
            raise NotImplementedError

    float64 = np.dtype(np.float64)
    narrow, wide = np.broadcast_to(0.0, (10**6, 100)), np.broadcast_to(0.0, (10**6, 1000))
    sizes = [l1jax.blocks(x).reader.slices(float64)[0].stop for x in (narrow, wide, Chunked())]
    assert sizes == [2**23 // 800, 2 * 1000, 30_000]
    within = l1jax.blocks(wide, max_memory="16MB").reader.slices(float64)[0].stop
    assert within == 16_000_000 // 16 // 8000


def test_linear_algebra_has_one_thread_during_a_pass():
    rows = l1jax.blocks(X, max_memory="4MB")
    threads = [
        {one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"}
        for _ in rows.read()
    ]
    assert threads == [{1}] * len(threads) and threads


def test_memory_is_bounded_by_the_budget_and_every_pass_reads_the_file_once(tmp_path):
    n, p, budget = 4000, 600, 4_000_000
    x = RNG.normal(size=(n, p)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    size, y = x.nbytes, x[:, 0].astype(float)
    rows = l1jax.blocks(tmp_path / "x.npy", max_memory=budget)
    tracemalloc.start()
    rows.statistics(np.full(n, 1 / n))
    rows.dot(np.ones(p))
    rows.rdot(y)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert rows.bytes_read == 3 * size and size > 2 * budget
    assert peak <= budget + 10 * 8 * n


@pytest.mark.parametrize(("kind", "most"), [("lasso", 1), ("logistic", 30)])
def test_a_path_on_a_file_keeps_within_its_memory_and_passes(tmp_path, kind, most):
    """As `benchmarks/files.py`, on a file of 40 MB in place of 4 GB."""
    n, p, budget = 100_000, 100, 8_000_000
    x = np.random.default_rng(0).standard_normal((n, p), np.float32)
    np.save(tmp_path / "x.npy", x)
    loss = l1jax.SquaredError() if kind == "lasso" else l1jax.Logistic()
    signal = x[:, 0] - x[:, 1] + 0.5 * x[:, 2] + RNG.logistic(size=n)
    y = signal if kind == "lasso" else (signal > 0).astype(float)
    rows = l1jax.blocks(tmp_path / "x.npy", max_memory=budget)
    options = {"loss": loss, "n_lams": 8, "tol": 1e-4}
    tracemalloc.start()
    path = l1jax.path(rows, y, l1jax.L1(), **options)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert path.passes <= most and (path.status == l1jax.Status.CONVERGED).all()
    assert rows.bytes_read == path.passes * x.nbytes and x.nbytes >= 4 * budget
    # Beside the budget: vectors of n numbers, and what compiling a program keeps.
    assert peak <= budget + 16 * 8 * n


def test_a_large_memory_map_is_read_in_blocks_by_itself(tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert l1jax.fit(mapped, Y, l1jax.L1(0.1)).passes is None
    monkeypatch.setattr("l1jax.linear.data._read_matrix._LARGE", X.nbytes - 1)
    assert l1jax.fit(mapped, Y, l1jax.L1(0.1)).passes == 1


def test_the_bar_shows_passes_and_bytes(capsys):
    l1jax.path(parts(), LABELS, l1jax.L1(), n_lams=3, max_memory="4MB", progress=True, **LOGISTIC)
    shown = capsys.readouterr().err
    assert "pass 1:" in shown and "pass 2:" in shown and "B/s" in shown


def test_passes_are_saved_and_earlier_files_have_none():
    path = l1jax.path(parts(), Y, l1jax.L1(), n_lams=3, max_memory=SMALL)
    file = io.BytesIO()
    path.save(file)
    file.seek(0)
    assert l1jax.load(file).passes == path[0].passes == 1
    earlier = io.BytesIO()
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(earlier, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "about.npy":
                about = json.loads(str(np.load(io.BytesIO(content))))
                del about["result"]["parts"]["fits"]["parts"]["options"]["settings"]["passes"]
                out = io.BytesIO()
                np.save(out, np.asarray(json.dumps(about)))
                content = out.getvalue()
            new.writestr(name, content)
    earlier.seek(0)
    assert l1jax.load(earlier).passes is None


@pytest.mark.parametrize("loss", [l1jax.SquaredError(), l1jax.Logistic()])
def test_the_derivative_by_the_strength_solves_the_newton_system_of_the_active_columns(loss):
    y, lam = (Y, 0.1) if loss.is_quadratic else (LABELS, 0.02)
    rows = l1jax.blocks(X, max_memory=SMALL)

    def coef(lam):
        return l1jax.fit(rows, y, l1jax.L1(lam), loss=loss, tol=1e-12).coef

    fit = l1jax.fit(X, y, l1jax.L1(lam), loss=loss, tol=1e-12)
    active = np.flatnonzero(fit.coef)
    mean = sigmoid(X @ fit.coef + fit.intercept)
    curvature = np.ones(N) if loss.is_quadratic else mean * (1 - mean)
    Z = np.column_stack([X[:, active], np.ones(N)])
    system = Z.T @ (Z * curvature[:, None]) / N
    expected = np.zeros(P)
    signs = np.append(np.sign(fit.coef[active]), 0)
    expected[active] = np.linalg.solve(system, -signs)[:-1]
    # A gap of 1e-12 moves the curvatures by about its root.
    np.testing.assert_allclose(jax.jacfwd(coef)(lam), expected, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(jax.jacrev(coef)(lam), expected, rtol=1e-5, atol=1e-8)


# Errors.


def test_a_truncated_file_is_an_error_that_names_the_block(tmp_path):
    file = tmp_path / "x.npy"
    np.save(file, X)
    content = file.read_bytes()
    file.write_bytes(content[: len(content) * 3 // 4])
    with pytest.raises(
        l1jax.BlockError, match=r"x\.npy.*block \d+ \(rows 8\d\d to 9\d\d\).*cut off"
    ):
        l1jax.fit(file, Y, l1jax.L1(0.1), max_memory=SMALL)


@pytest.mark.parametrize("dtype", [np.float32, np.int8, np.uint8])
def test_a_stored_entry_that_has_changed_is_an_error_that_names_its_block(tmp_path, dtype):
    stored = np.clip(8 * X, 0, 100).astype(dtype)
    np.save(tmp_path / "x.npy", stored)
    rows = l1jax.blocks(tmp_path / "x.npy", max_memory=SMALL)
    rows.dot(np.ones(P))
    with_change = np.load(tmp_path / "x.npy", mmap_mode="r+")
    with_change[700, 3] += 1
    with_change.flush()
    with pytest.raises(l1jax.BlockError, match="X has changed") as raised:
        rows.rdot(np.ones(N))
    assert 700 in raised.value.rows and raised.value.block == 700 // len(raised.value.rows)


@pytest.mark.float32
def test_what_overflows_in_the_precision_of_computing_is_not_finite(tmp_path):
    x = X.copy()
    x[50, 2] = 1e300
    np.save(tmp_path / "x.npy", x)
    rows = l1jax.blocks(tmp_path / "x.npy", max_memory=SMALL)
    assert rows.dot(np.ones(P))[50] > 1e299
    with pytest.raises(l1jax.BlockError, match="row 50, column 2"):
        rows.astype(np.float32).dot(np.ones(P))


def test_an_entry_that_is_not_finite_is_an_error_that_names_its_block():
    x = X.copy()
    x[731, 5] = np.nan
    with pytest.raises(l1jax.BlockError, match="block 731.*got nan at row 731, column 5") as found:
        l1jax.fit(parts(x, N), Y, l1jax.L1(0.1), max_memory=SMALL)
    assert found.value.block == 731 and found.value.path is None


class Failing:
    """Blocks of rows, one of which is another from some pass on."""

    def __init__(self, x, passes, change):
        self.x, self.left, self.change = x, passes, change

    def __call__(self):
        self.left -= 1
        for number, block in enumerate(np.array_split(self.x, 20)):
            yield self.change(block) if self.left < 0 and number == 11 else block


CHANGES = {
    "has 699 columns, those before 700": lambda block: block[:, 1:],
    "X has changed": lambda block: block + 1e-13,
    "in a pass before 3": lambda block: block[1:],
}


@pytest.mark.parametrize("lengths", [(N - 1, 2), (N, 1)], ids=["longer block", "block more"])
def test_more_rows_than_were_said_are_an_error(lengths):
    blocks = l1jax.blocks(lambda: (np.zeros((m, 3)) for m in lengths), shape=(N, 3))
    with pytest.raises(l1jax.BlockError, match=f"there are more rows than the {N} before"):
        l1jax.fit(blocks, Y, l1jax.L1(0.1))


@pytest.mark.parametrize("message", CHANGES)
@pytest.mark.slow
def test_what_was_solved_before_a_block_failed_is_kept(message):
    options = {"n_lams": 30, "max_memory": "8MB", **LOGISTIC}
    whole = l1jax.path(parts(WIDE), WIDE_LABELS, l1jax.L1(), **options)
    source = Failing(WIDE, 6, CHANGES[message])
    with pytest.raises(l1jax.BlockError, match=f"block 11.*{message}") as found:
        l1jax.path(l1jax.blocks(source, shape=WIDE.shape), WIDE_LABELS, l1jax.L1(), **options)
    part = found.value.path
    done = part.status == l1jax.Status.CONVERGED
    assert 0 < done.sum() < 30 and (part.status[~done] == l1jax.Status.INTERRUPTED).all()
    np.testing.assert_allclose(part.coefs[done], whole.coefs[done], atol=1e-10)
    again = l1jax.path(WIDE, WIDE_LABELS, l1jax.L1(), resume=part, **LOGISTIC)
    np.testing.assert_allclose(again.coefs, whole.coefs, atol=1e-8)


def test_strengths_that_newton_steps_have_solved_are_kept(monkeypatch):
    options = {"lams": [0.2, 0.05, 0.01], "engine": "row_blocks", **LOGISTIC}
    run, calls = RowBlockNewton.run, []

    def fails_at_last(newton):
        calls.append(newton)
        if sum(lane.is_solved for lane in newton.lanes) == 2:
            raise l1jax.BlockError("X, it, cannot be used in block 3.", 3, range(4))
        return run(newton)

    rows = l1jax.blocks(X, max_memory=SMALL)
    with monkeypatch.context() as patch:
        patch.setattr(RowBlockNewton, "run", fails_at_last)
        with pytest.raises(l1jax.BlockError) as found:
            l1jax.path(rows, LABELS, l1jax.L1(), **options)
    part = found.value.path
    solved = np.isfinite(part.coefs).all(axis=1)
    assert solved.sum() == 2 and np.isnan(part.gaps).all()  # no pass could certify them
    again = l1jax.path(rows, LABELS, l1jax.L1(), resume=part, **LOGISTIC)
    assert (again.status == l1jax.Status.CONVERGED).all()
    np.testing.assert_array_equal(again.coefs[solved], part.coefs[solved])


def test_a_block_that_fails_in_compiled_code_is_the_same_error():
    rows = l1jax.blocks(Failing(X, 1, lambda block: block[:, 1:]), shape=X.shape)
    with pytest.raises(l1jax.BlockError, match="block 11"), block_errors():
        jax.block_until_ready(jax.jit(rows.dot)(np.ones(P)))


def test_an_error_that_was_raised_is_not_kept_in_memory():
    with pytest.raises(l1jax.BlockError) as found:
        l1jax.fit(parts(np.full_like(X, np.inf)), Y, l1jax.L1(0.1), max_memory=SMALL)
    error = weakref.ref(found.value)
    del found
    gc.collect()
    assert error() is None


def test_what_takes_thousands_of_passes_is_refused():
    pen = l1jax.GroupL1(0.1, groups=np.arange(P) // 3)
    with pytest.raises(ValueError, match='not Logistic with GroupL1.*engine="fista"'):
        l1jax.fit(parts(), LABELS, pen, max_memory=SMALL, **LOGISTIC)
    with pytest.raises(ValueError, match="row_blocks.*needs X in blocks of rows"):
        l1jax.fit(X, LABELS, l1jax.L1(0.1), engine="row_blocks", **LOGISTIC)


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (iter([X]), TypeError, "An iterator ends after one pass"),
        ("x.csv", ValueError, "opened by their libraries"),
        (scipy.sparse.csc_array(X), TypeError, r"pass X\.tocsr\(\)"),
        (lambda: iter([]), ValueError, "gives no blocks"),
        (X[:, 0], ValueError, "must be a matrix"),
        (X.astype(str), TypeError, "must hold real numbers"),
        (lambda: iter([X[0]]), TypeError, r"blocks of rows, arrays of numbers \(m, p\)"),
    ],
)
def test_what_is_no_source_is_an_error(source, error, message):
    with pytest.raises(error, match=message):
        l1jax.blocks(source)


@pytest.mark.parametrize(
    ("given", "size"), [(1e6, 10**6), ("500MB", 5 * 10**8), ("1.5 GiB", 3 * 2**29), ("2k", 2000)]
)
def test_a_memory_budget_is_read(given, size):
    assert read_memory(given) == size


@pytest.mark.parametrize("given", ["much", "5XB", 0, -1, True, None])
def test_what_is_no_memory_budget_is_an_error(given):
    with pytest.raises(ValueError, match="max_memory must be"):
        read_memory(given)


def test_jax_targets_of_float32_are_fitted_in_their_precision():
    y = jnp.asarray(Y, jnp.float32)
    fit = l1jax.fit(l1jax.blocks(X, max_memory="4MB"), y, l1jax.L1(0.1))
    wanted = l1jax.fit(X, Y, l1jax.L1(0.1))
    # float32 has 7 digits.
    np.testing.assert_allclose(fit.coef, wanted.coef, atol=1e-4)
