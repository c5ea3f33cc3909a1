"""`path(checkpoint=...)`: what is solved is in a file while the path goes on, and is resumed from it."""

import jax
import numpy as np
import pandas as pd
import pytest

import l1jax
from l1jax import Status, _saving
from l1jax.linear.engines import _gradient_engines, _row_blocks_engine
from l1jax.linear.engines.active_set import _step_control, _working_set
from l1jax.linear.engines.active_set._options import OPTIONS
from l1jax.linear.results import _checkpoint

N, P, L = 30, 6, 17
RNG = np.random.default_rng(8)
X = RNG.standard_normal((N, P)) * np.array([1.0, 3.0, 1.0, 0.5, 1.0, 1.0])
Y = X @ np.array([2.0, -1.0, 0.5, 0.0, 0.0, 0.0]) + RNG.standard_normal(N) + 5
CLASSES = np.argmax(X[:, :3] + RNG.gumbel(size=(N, 3)), axis=1)
TALL = RNG.standard_normal((900, P)) + 1
LABELS = (TALL[:, 0] - TALL[:, 1] + RNG.logistic(size=900) > 0).astype(float)
GROUPS = l1jax.GroupL1(groups=[0, 0, 1, 1, 2, 2])
FINE = {"tol": 1e-12}
CASES = {
    "working set": (X, Y, l1jax.L1(), {"standardize": True}),
    "lines between solved strengths": (X, Y, l1jax.ElasticNet(l1_ratio=0.7), {"tol": 1e-4}),
    "several classes": (X, CLASSES, l1jax.L1(), {"loss": l1jax.Multinomial(3), **FINE}),
    "gradient steps": (X, Y, GROUPS, {"engine": "sequential", **FINE}),
    "blocks of rows": (
        l1jax.blocks(TALL, max_memory="30KB"),
        LABELS,
        l1jax.L1(),
        {"loss": l1jax.Logistic(), "engine": "row_blocks", **FINE},
    ),
}
SAYS_HOW_FAR = {"gradient steps": _gradient_engines, "blocks of rows": _row_blocks_engine}
NUMBERS = {"n_lams": L, "lam_min_ratio": 0.01}


class Killed(BaseException):
    """Ends a path as no engine expects it."""


@pytest.fixture
def at_once(monkeypatch):
    """Writes whenever something is solved."""
    monkeypatch.setattr(_checkpoint, "_SECONDS", 0.0)
    monkeypatch.setattr(_checkpoint, "_TIMES", 0.0)
    monkeypatch.setattr(OPTIONS, "block_size_all_columns", 5)
    monkeypatch.setattr(_step_control, "_FIRST", 5)


def killed(monkeypatch, module, file, X, y, pen, **options):
    """Ends a path when it says that some fits are solved; returns how many."""
    done, before = [], []

    def advance(bar, count, *told):
        done.append(count)
        if 5 <= sum(done) < L:
            before.append(file.read_bytes())
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(module, "advance", advance)
        with pytest.raises(Killed) as error:
            l1jax.path(X, y, pen, checkpoint=file, **NUMBERS | options)
    assert error.value.__notes__ == [
        f'What was solved is in its checkpoint: resume="{file}" goes on.'
    ]
    assert file.read_bytes() == before[0]  # the end of the path wrote nothing
    return sum(done)


@pytest.mark.parametrize("name", CASES)
def test_what_is_solved_is_in_the_file_and_the_rest_is_solved_on_resume(
    tmp_path, monkeypatch, at_once, name
):
    X, y, pen, options = CASES[name]
    whole = l1jax.path(X, y, pen, **NUMBERS | options)
    file = tmp_path / "run.npz"
    module = SAYS_HOW_FAR.get(name, _working_set)
    count = killed(monkeypatch, module, file, X, y, pen, **options)
    part = l1jax.load(file)
    kept = part.status != Status.INTERRUPTED
    assert kept.sum() == count and np.isnan(part.coefs[~kept]).all()
    assert np.isnan(part.gaps).all()  # it is certified when it is resumed
    tol = options.get("tol", 1e-12)
    # Coefficients of a gap ε are within √ε of those of another one, on these scales.
    np.testing.assert_allclose(part.coefs[kept], whole.coefs[kept], atol=3 * np.sqrt(tol))
    told = []
    with monkeypatch.context() as patch:
        patch.setattr(module, "advance", lambda bar, fits, *_: told.append(fits))
        again = l1jax.path(X, y, pen, resume=file, checkpoint=file, **options)
    assert sum(told) == L - count
    assert (again.status == Status.CONVERGED).all()
    np.testing.assert_allclose(again.coefs, whole.coefs, atol=3 * np.sqrt(tol))
    np.testing.assert_array_equal(l1jax.load(file).coefs, again.coefs)
    np.testing.assert_array_equal(l1jax.load(file).gaps, again.gaps)


@pytest.mark.parametrize("name", ["working set", "gradient steps"])
def test_a_resumed_path_that_is_killed_again_has_all_that_both_have_solved(
    tmp_path, monkeypatch, at_once, name
):
    X, y, pen, options = CASES[name]
    whole = l1jax.path(X, y, pen, **NUMBERS | options)
    file, module = tmp_path / "run.npz", SAYS_HOW_FAR.get(name, _working_set)
    count = killed(monkeypatch, module, file, X, y, pen, **options)
    count += killed(monkeypatch, module, file, X, y, pen, resume=file, **options)
    part = l1jax.load(file)
    assert (np.flatnonzero(part.status != Status.INTERRUPTED) == np.arange(count)).all()
    np.testing.assert_allclose(part.coefs[:count], whole.coefs[:count], atol=3e-6)  # √ of a gap
    assert np.isnan(part.coefs[count:]).all()


class InOneProgram(l1jax.Engine):
    """Solves all strengths at once: ridge regression of one column."""

    name = "in_one_program"

    def supports(self, plan):
        return None

    def run(self, plan):
        x, y = np.asarray(plan.problem.x.columns(np.arange(1)))[:, 0], np.asarray(plan.problem.y)
        betas = plan.problem.s @ (x * y) / (plan.problem.s @ x**2 + np.asarray(plan.lams))
        return plan.certified(betas[:, None], np.zeros(len(plan)), np.ones(len(plan), int))


@pytest.mark.parametrize("engine", ["homotopy", "in_one_program"])
def test_the_file_of_any_engine_is_at_the_end_what_is_returned(tmp_path, monkeypatch, engine):
    monkeypatch.setitem(l1jax.linear.engines._engine.ENGINES, "in_one_program", InOneProgram())
    pen = l1jax.Ridge() if engine == "in_one_program" else l1jax.L1()
    file = tmp_path / "run.npz"
    x, lams = X[:, :1], [0.5, 0.2]
    path = l1jax.path(x, Y, pen, lams=lams, checkpoint=file, engine=engine, fit_intercept=False)
    again = l1jax.load(file)
    assert [one.name for one in tmp_path.iterdir()] == ["run.npz"]
    assert jax.tree.structure(again.fits) == jax.tree.structure(path.fits)
    np.testing.assert_array_equal(again.coefs, path.coefs)
    assert (again.knots is None) == (engine != "homotopy")
    # The grid may be passed again, as by a program that runs twice.
    same = l1jax.path(x, Y, pen, lams=lams, resume=str(file), engine=engine, fit_intercept=False)
    np.testing.assert_array_equal(same.coefs, path.coefs)


def test_a_loss_of_ones_own_is_that_of_the_call(tmp_path):
    class Own(l1jax.SquaredError):
        pass

    file = tmp_path / "run.npz"
    path = l1jax.path(X, Y, l1jax.L1(), lams=[0.5, 0.2], loss=Own(), checkpoint=file)
    again = l1jax.path(X, Y, l1jax.L1(), resume=file, loss=Own())
    np.testing.assert_allclose(again.coefs, path.coefs, atol=1e-12)


def test_it_writes_every_few_seconds_and_less_where_that_takes_long(tmp_path, monkeypatch):
    now, written = [0.0], []

    def slow(path, file):
        written.append(now[0])
        now[0] += 2.0

    class Clock:
        @staticmethod
        def monotonic():
            return now[0]

    monkeypatch.setattr(_checkpoint, "time", Clock)
    monkeypatch.setattr(_checkpoint, "save_atomically", slow)
    problem = type("Problem", (), {"coef_shape": (P,), "y": Y})
    kept = _checkpoint.Checkpoint.of(
        tmp_path / "run.npz", np.arange(L)[::-1], problem, None, None, None
    )
    for i in range(60):
        now[0] = max(now[0], float(i))
        kept.keep(np.array([i % L]), np.ones((1, P)), np.ones(1), [1])
    # After 5 s, and then 20 times as long as that took: 5 + 2 + 40.
    assert written == [5.0, 47.0]
    kept.write()
    assert len(written) == 3
    kept.write()  # nothing is new
    assert len(written) == 3


def test_only_the_first_process_writes(tmp_path, monkeypatch, at_once):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    l1jax.path(X, Y, l1jax.L1(), n_lams=L, checkpoint=tmp_path / "run.npz")
    assert not list(tmp_path.iterdir())


def test_a_write_that_is_cut_short_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    file = tmp_path / "run.npz"
    path = l1jax.path(X, Y, l1jax.L1(), n_lams=L, checkpoint=file)

    def half(result, opened):
        opened.write(b"half")
        raise Killed

    monkeypatch.setattr(_saving, "save", half)
    with pytest.raises(Killed):
        l1jax.path(X, Y, l1jax.L1(), n_lams=5, checkpoint=file)
    np.testing.assert_array_equal(l1jax.load(file).coefs, path.coefs)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    frame = pd.DataFrame(X, columns=list("abcdef"))
    l1jax.path(frame, Y, l1jax.L1(), n_lams=L, checkpoint=folder / "run.npz")
    whole = (folder / "run.npz").read_bytes()
    (folder / "cut.npz").write_bytes(whole[: len(whole) // 2])
    l1jax.fit(X, Y, l1jax.L1(0.1)).save(folder / "fit.npz")
    return folder


@pytest.mark.parametrize(
    ("name", "change", "error", "message"),
    [
        ("none.npz", {}, FileNotFoundError, "resume must be .* there is no .*none.npz"),
        ("cut.npz", {}, ValueError, "cut.npz holds no result of l1jax"),
        ("fit.npz", {}, TypeError, "resume must be a path .* got Fit"),
        ("run.npz", {"X": X[:, :4]}, ValueError, r"resume must be a path of these data.*\(4,\)"),
        (
            "run.npz",
            {"X": pd.DataFrame(X, columns=list("abdcef"))},
            ValueError,
            "'c' where X has 'd'",
        ),
        ("run.npz", {"loss": l1jax.Huber()}, ValueError, "fitted with loss=SquaredError"),
        ("run.npz", {"lams": [0.3, 0.1]}, ValueError, "lams is another: leave lams out"),
    ],
)
def test_a_file_that_does_not_fit_is_an_error(file, name, change, error, message):
    with pytest.raises(error, match=message):
        l1jax.path(**{"X": X, "y": Y, "pen": l1jax.L1(), "resume": file / name} | change)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        (7, TypeError, "checkpoint must be the name of a file.*got int"),
        ("no folder/run.npz", ValueError, "in a folder that can be written, got 'no folder"),
        (".", ValueError, "in a folder that can be written"),
    ],
)
@pytest.mark.fast
def test_what_is_no_file_to_write_is_an_error(name, error, message):
    with pytest.raises(error, match=message):
        l1jax.path(X, Y, l1jax.L1(), checkpoint=name)


def test_no_file_is_written_inside_jit_or_a_derivative(tmp_path):
    def total(y):
        return l1jax.path(X, y, l1jax.L1(), n_lams=3, checkpoint=tmp_path / "run.npz").coefs.sum()

    for transformed in (jax.jit(total), jax.grad(total)):
        with pytest.raises(ValueError, match="checkpoint needs concrete data"):
            transformed(Y)
