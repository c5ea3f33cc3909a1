"""The active-set engine: against the gradient engine, on ties and duplicates, and its bounds on work."""

import contextlib

import chex
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import ThreadpoolController

import l1jax
from l1jax import _threads
from l1jax._threads import one_thread
from l1jax.linear.data._inputs import read
from l1jax.linear.engines._engine import Plan, choose_engine
from l1jax.linear.engines.active_set import _group_newton, _prox_newton, _row_shifts
from l1jax.linear.engines.active_set._options import OPTIONS
from l1jax.linear.engines.active_set._path_point import NumericalBreakdown
from l1jax.linear.engines.active_set._step_control import StepControl
from l1jax.linear.host._entry_point import entry_point
from l1jax.linear.model._prepare import prepare_inputs
from l1jax.linear.results import _certified

N, P = 40, 60
RNG = np.random.default_rng(11)
X = RNG.standard_normal((N, P)) * np.geomspace(0.1, 10, P) + 0.5
X[:, 7] = X[:, 3]  # a duplicate
X[:, 9] = 0.3 * X[:, 1] - 0.2 * X[:, 2]  # and a column that depends on others
X[:, 11] = 2.0
Y = X[:, :6] @ np.array([1.0, -1.0, 0.5, 0.2, 0.0, -0.3]) + RNG.standard_normal(N)
WEIGHTS = RNG.uniform(0.5, 2, P)
WEIGHTS[[4, 5]] = 0
WEIGHTS[[0, 20]] = np.inf
PENALTIES = {
    "l1": l1jax.L1(),
    "weighted l1": l1jax.L1(weights=WEIGHTS),
    "elastic net": l1jax.ElasticNet(l1_ratio=0.6),
    "weighted elastic net": l1jax.ElasticNet(l1_ratio=0.6, weights=WEIGHTS),
    "nonnegative": l1jax.NonNegativeL1(),
}
EVERYTHING = {
    "standardize": True,
    "sample_weight": RNG.uniform(0.2, 2, N),
    "offset": RNG.standard_normal(N),
}


@pytest.mark.parametrize(
    ("kind", "options", "name"),
    [
        *(
            ("dense", options, name)
            for options in ({}, {"fit_intercept": False}, EVERYTHING)
            for name in PENALTIES
        ),
        *(("sparse", EVERYTHING, name) for name in PENALTIES),
        ("sparse", {"fit_intercept": False}, "weighted elastic net"),
    ],
)
@pytest.mark.slow
@pytest.mark.usefixtures("no_help", "small_working_sets")
def test_the_engine_alone_meets_a_tight_tolerance(kind, options, name):
    data = scipy.sparse.csr_array(X) if kind == "sparse" else X
    path = l1jax.path(
        data, Y, PENALTIES[name], n_lams=40, tol=1e-10, engine="working_set", **options
    )
    assert (np.asarray(path.status) == l1jax.Status.CONVERGED).all()
    assert (np.asarray(path.relative_gaps) <= 1e-10).all()
    coefs = np.asarray(path.coefs)
    assert not np.signbit(coefs[coefs == 0]).any()
    if options.get("fit_intercept", True):  # a constant column is collinear with the intercept
        assert (coefs[:, 11] == 0).all()
    if name.startswith("weighted"):
        assert (coefs[:, [0, 20]] == 0).all() and (coefs[:, [4, 5]] != 0).all()


CURVED = {
    "logistic": (l1jax.Logistic(), (Y > 0).astype(float)),
    "poisson": (l1jax.Poisson(), np.round(np.exp(Y / 2))),
    "huber": (l1jax.Huber(0.5), Y),
}


@pytest.mark.parametrize("loss", CURVED)
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("dense", "l1"),
        ("dense", "weighted elastic net"),
        ("dense", "nonnegative"),
        ("sparse", "weighted elastic net"),
    ],
)
@pytest.mark.slow
@pytest.mark.usefixtures("no_help", "small_working_sets")
def test_other_losses_meet_a_tight_tolerance(loss, name, kind):
    data = scipy.sparse.csr_array(X) if kind == "sparse" else X
    form, target = CURVED[loss]
    options = {"loss": form, "n_lams": 15, "lam_min_ratio": 0.05, "tol": 1e-10, **EVERYTHING}
    path = l1jax.path(data, target, PENALTIES[name], engine="working_set", **options)
    assert (np.asarray(path.status) == l1jax.Status.CONVERGED).all()
    assert (np.asarray(path.relative_gaps) <= 1e-10).all()
    assert int(np.max(path.num_steps)) <= 40


@pytest.mark.parametrize(
    ("loss", "shape", "seed"),
    [
        (l1jax.Poisson(), (30, 60), 3),
        (l1jax.Huber(), (40, 40), 5),
        (l1jax.SquaredHinge(), (60, 30), 2),
    ],
)
@pytest.mark.usefixtures("no_help")
def test_a_step_that_fails_is_tried_shorter(loss, shape, seed):
    """Few λ, far from one another: each is reached, by way of some between them."""

    rng = np.random.default_rng(seed)
    table = rng.normal(size=shape)
    eta = table[:, 0] - 0.5 * table[:, 1]
    target = {
        "Poisson": lambda: rng.poisson(np.exp(2 + 1.5 * eta)),
        "Huber": lambda: eta + rng.standard_cauchy(len(eta)),
        "SquaredHinge": lambda: eta + rng.logistic(size=len(eta)) > 0,
    }[type(loss).__name__]()
    path = l1jax.path(table, target * 1.0, l1jax.L1(), loss=loss, n_lams=5)
    assert (np.asarray(path.relative_gaps) <= 1e-10).all()


@pytest.mark.parametrize("loss", [l1jax.Huber(), l1jax.SquaredHinge()])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.slow
@pytest.mark.usefixtures("no_help")
def test_losses_with_row_shifts_are_solved_where_features_are_more(loss, seed):
    """With as many active features as rows of positive curvature, at λ far from one another."""

    rng = np.random.default_rng(seed)
    X = rng.normal(size=(25, 80)) * (rng.random((25, 80)) < 0.4)
    y, s = X[:, :3].sum(axis=1) + rng.standard_t(2, size=25), rng.uniform(0.2, 2, 25)
    s[seed] = 0
    y = y if isinstance(loss, l1jax.Huber) else (y > 0) * 1.0
    pen = l1jax.L1(weights=np.where(np.arange(80) == 7, 0, 1))
    options = {"loss": loss, "sample_weight": s}
    most = float(l1jax.lambda_max(X, y, pen, **options))
    for fraction in (0.3, 0.02, 0.002):
        fit = l1jax.fit(X, y, pen.with_strength(fraction * most), **options)
        eta, weight = fit.predict(X, kind="link"), s / s.sum()
        if isinstance(loss, l1jax.Huber):
            slope = weight * np.clip(eta - y, -1, 1)
        else:
            slope = -2 * weight * (2 * y - 1) * np.maximum(1 - (2 * y - 1) * eta, 0)
        # It is optimal by definition: slopes sum to zero, and no gradient exceeds its weight.
        coef, neg_gradient = np.asarray(fit.coef), -X.T @ slope
        weights = np.where(np.arange(80) == 7, 0, fraction * most)
        assert abs(slope.sum()) <= 1e-9
        assert (np.abs(neg_gradient) <= weights + 1e-9).all()
        np.testing.assert_allclose(
            neg_gradient[coef != 0], (weights * np.sign(coef))[coef != 0], atol=1e-9
        )


@pytest.mark.usefixtures("small_working_sets")
def test_one_fit_is_the_end_of_a_path():
    for lam in (0.3, 0.01, 0.0):
        found = l1jax.fit(X[:, :7], Y, l1jax.L1(lam), engine="working_set", tol=1e-12)
        stepped = l1jax.fit(X[:, :7], Y, l1jax.L1(lam), engine="fista", tol=1e-12)
        np.testing.assert_allclose(found.coef, stepped.coef, atol=1e-9)
    with pytest.raises(ValueError, match='engine="working_set" needs'):
        l1jax.fit(X, Y, l1jax.Ridge(1.0), engine="working_set")


def test_covariance_and_homotopy_are_the_same_path():
    paths = [
        l1jax.path(X, Y, l1jax.L1(), n_lams=12, engine=engine)
        for engine in ("working_set", "covariance", "homotopy")
    ]
    assert [path.knots is None for path in paths] == [True, True, False]
    for path in paths[1:]:
        np.testing.assert_allclose(path.fits.objective, paths[0].fits.objective, rtol=1e-12)


def test_a_path_is_linear_between_its_knots():
    some = np.delete(X, [7, 9, 11], axis=1)  # unique coefficients
    weights = np.delete(WEIGHTS, [7, 9, 11])
    for pen in (l1jax.L1(weights=weights), l1jax.NonNegativeL1()):
        path = l1jax.path(some, Y, pen, n_lams=5, engine="homotopy", standardize=True)
        knots = path.knots
        lams = np.asarray(knots.lams)
        assert (np.diff(lams) <= 0).all() and len(path[1:].knots) == len(knots)
        for lam in (lams[:-1] + lams[1:])[::4] / 2:
            exact = l1jax.fit(some, Y, pen.with_strength(lam), standardize=True, tol=1e-13)
            between = path.at(lam)
            np.testing.assert_allclose(between.coef, exact.coef, atol=1e-9)
            np.testing.assert_allclose(between.intercept, exact.intercept, atol=1e-9)


@pytest.mark.parametrize(
    ("engine", "arguments", "message"),
    [
        ("homotopy", {"pen": l1jax.ElasticNet()}, "straight between its knots"),
        ("covariance", {"pen": l1jax.L1(), "loss": l1jax.Huber()}, "needs SquaredError"),
        ("covariance", {"pen": l1jax.Ridge(), "lams": [1.0]}, "a weight per coordinate"),
        ("homotopy", {"pen": l1jax.GroupL1(groups=[0, 0, 1, 1, 2])}, "straight between its knots"),
    ],
)
def test_what_an_engine_cannot_do_is_an_error(engine, arguments, message):
    with pytest.raises(ValueError, match=message):
        l1jax.path(X[:, :5], Y, engine=engine, **arguments)


@pytest.mark.parametrize("name", ["l1", "weighted elastic net", "nonnegative"])
@pytest.mark.slow
def test_it_gives_the_coefficients_of_the_gradient_engine(name):
    some = np.delete(X, [7, 9, 11], axis=1)  # unique coefficients
    pen = PENALTIES[name]
    if name.startswith("weighted"):
        pen = type(pen)(**_other_fields(pen), weights=np.delete(WEIGHTS, [7, 9, 11]))
    found = l1jax.path(some, Y, pen, n_lams=15, engine="working_set", standardize=True)
    stepped = l1jax.path(some, Y, pen, n_lams=15, engine="sequential", standardize=True, tol=1e-13)
    np.testing.assert_allclose(found.lams, stepped.lams, rtol=1e-12)
    np.testing.assert_allclose(found.coefs, stepped.coefs, atol=1e-7)
    np.testing.assert_allclose(found.intercepts, stepped.intercepts, atol=1e-6)


def _other_fields(pen):
    return {"l1_ratio": pen.l1_ratio} if isinstance(pen, l1jax.ElasticNet) else {}


@given(
    st.lists(st.lists(st.integers(-2, 2), min_size=6, max_size=6), min_size=2, max_size=8),
    st.integers(0, 1000),
    st.booleans(),
)
def test_ties_and_dependent_columns_end_certified(rows, seed, fit_intercept):
    data = np.array(rows, float)
    y = np.random.default_rng(seed).integers(-3, 4, len(data)).astype(float)
    lams = np.array([2.0, 1.0, 0.5, 0.25, 0.1, 0.01])
    path = l1jax.path(data, y, l1jax.L1(), lams=lams, fit_intercept=fit_intercept)
    assert np.isfinite(path.coefs).all()
    assert (np.asarray(path.relative_gaps) <= 1e-6).all()
    assert (np.asarray(path.status) == l1jax.Status.CONVERGED).all()


@pytest.mark.slow
def test_the_grid_may_end_at_zero():
    path = l1jax.path(X, Y, l1jax.L1(), lams=[1.0, 0.1, 0.0], engine="working_set")
    # The objective there is ½·(the error)², and the gap is held to 1e-6 of the null deviance.
    assert path[2].relative_gap <= 1e-6
    np.testing.assert_allclose(path[2].predict(X), Y, atol=1e-5)
    tall = l1jax.path(X[:, :6], Y, l1jax.L1(), lams=[1.0, 0.0], engine="working_set")
    design = np.column_stack([np.ones(N), X[:, :6]])
    np.testing.assert_allclose(tall.coefs[1], np.linalg.lstsq(design, Y)[0][1:], atol=1e-9)


@pytest.mark.fast
def test_it_compiles_once_for_any_values(monkeypatch):
    counted = chex.assert_max_traces(_certified.report, n=1)
    monkeypatch.setattr(_certified, "report", counted)
    chex.clear_trace_counter()
    for change in (1.0, 2.0):
        l1jax.path(change * X[:17], Y[:17] + change, l1jax.L1(), n_lams=7, engine="working_set")


@pytest.mark.slow
def test_problems_that_it_does_not_serve_go_to_another_engine():
    few = X[:, :5]
    labels = (Y > 0).astype(float)
    ridge = l1jax.path(few, Y, l1jax.Ridge(), lams=[1.0, 0.1])
    groups = l1jax.GroupL1(groups=[0, 0, 1, 1, 2])
    robust = l1jax.path(few, labels, groups, n_lams=2, loss=l1jax.Huber())
    for path in (ridge, robust):
        assert (np.asarray(path.status) == l1jax.Status.CONVERGED).all()
    for arguments in (
        {"pen": l1jax.Ridge(), "lams": [1.0]},
        {"pen": groups, "loss": l1jax.Huber()},  # which has no curvature far out
        {"pen": groups, "loss": l1jax.StudentT(3.0)},  # which is not convex
    ):
        with pytest.raises(ValueError, match="working_set"):
            l1jax.path(few, labels, engine="working_set", **arguments)


@pytest.mark.float32
def test_float32_data_are_solved_in_float64():
    path = l1jax.path(jnp.asarray(X, jnp.float32), Y, l1jax.L1(), n_lams=10, engine="working_set")
    assert path.coefs.dtype == jnp.float32
    assert (np.asarray(path.relative_gaps) <= 1e-4).all()


def blas_threads():
    found = ThreadpoolController().select(user_api="blas")
    return [library.num_threads for library in found.lib_controllers]


def test_small_products_take_one_thread_and_give_the_others_back():
    before = blas_threads()
    with one_thread(), one_thread():
        assert set(blas_threads()) == {1}
    with pytest.raises(ZeroDivisionError), one_thread():
        1 / 0  # noqa: B018
    assert blas_threads() == before


CALLS = {
    "fit": lambda X, y: l1jax.fit(X, y, l1jax.L1(0.1)),
    "path": lambda X, y: l1jax.path(X, y, l1jax.L1(), n_lams=4),
    "lambda_max": lambda X, y: l1jax.lambda_max(X, y, l1jax.L1()),
    "cross_validate": lambda X, y: l1jax.cross_validate(X, y, l1jax.L1(), n_lams=4, n_folds=3),
    "nested": lambda X, y: entry_point(lambda: CALLS["fit"](X, y))(),
    "bad": lambda X, y: l1jax.fit(X, y[:3], l1jax.L1(0.1)),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_public_call_sets_the_number_of_threads_once(name, monkeypatch):
    calls = []
    controller = _threads._controller()

    class Counting:
        def limit(self, **arguments):
            calls.append(arguments)
            return controller.limit(**arguments)

    monkeypatch.setattr(_threads, "_controller", Counting)
    rng, before = np.random.default_rng(0), blas_threads()
    X = rng.normal(size=(20, 6))
    with pytest.raises(ValueError) if name == "bad" else contextlib.nullcontext():
        CALLS[name](X, X[:, 0] + rng.normal(size=20))
    assert calls == [{"limits": 1, "user_api": "blas"}]
    assert blas_threads() == before


def test_large_products_are_those_of_numpy_in_parts(monkeypatch):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(7, 40)), np.asfortranarray(rng.normal(size=(40, 11)))
    monkeypatch.setattr(_threads, "_LARGE", 0)
    for cores in (1, 3, 64):
        monkeypatch.setattr(_threads, "num_cores", lambda cores=cores: cores)
        out, square = np.empty((7, 11)), np.empty((11, 11), order="F")
        assert _threads.matmul(a, b, out=out) is out and _threads.gram(b, out=square) is square
        for found, exact in ((out, a @ b), (_threads.matmul(a, b), a @ b), (square, b.T @ b)):
            np.testing.assert_allclose(found, exact, rtol=1e-12, atol=1e-13)
        np.testing.assert_array_equal(_threads.gram(b[:5]), b[:5].T @ b[:5])  # too short for parts


def test_on_an_accelerator_it_is_chosen_where_active_sets_stay_small(monkeypatch):
    X = np.random.default_rng(0).normal(size=(9, 6))
    inputs = read(X, X[:, 0], l1jax.L1(), l1jax.SquaredError(), None, None, has_strength=False)
    problem = prepare_inputs(inputs, inputs.pen, inputs.loss, True, False)
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    plan = Plan(problem, l1jax.L1(), np.array([0.1]), problem.null.point, np.asarray(1e-6), 100)
    for largest, engine in ((6, "working_set"), (5, "compiled")):
        monkeypatch.setattr("l1jax.linear.engines._engine._MAX_HOST_SIZE", largest)
        assert choose_engine("auto", plan).name == engine
    assert choose_engine("working_set", plan).name == "working_set"


@pytest.mark.parametrize(
    ("n", "p", "pen", "engine"),
    [
        (101, 300, l1jax.L1(), "compiled"),
        (101, 300, l1jax.ElasticNet(), "working_set"),
        (101, 300, l1jax.ElasticNet(l1_ratio=1.0), "compiled"),
        (100, 300, l1jax.ElasticNet(), "compiled"),
        (50, 1001, l1jax.ElasticNet(), "working_set"),
        (50, 1001, l1jax.L1(), "compiled"),
        (257, 300, l1jax.L1(), "working_set"),
    ],
)
def test_on_a_cpu_it_is_chosen_for_paths_with_a_ridge_sooner(n, p, pen, engine):
    X = np.random.default_rng(0).normal(size=(n, p))
    inputs = read(X, X[:, 0], pen, l1jax.SquaredError(), None, None, has_strength=False)
    problem = prepare_inputs(inputs, inputs.pen, inputs.loss, True, False)
    lams = np.geomspace(1, 0.1, 10)
    plan = Plan(problem, inputs.pen, lams, problem.null.point, np.asarray(1e-6), 100)
    assert choose_engine("auto", plan).name == engine


BOUNDED = {
    "logistic": (l1jax.L1(), l1jax.Logistic(), (Y > 0).astype(float), _prox_newton, "solve_moved"),
    "huber": (l1jax.L1(), l1jax.Huber(0.5), Y, _row_shifts, "solve_moved"),
    "groups": (
        l1jax.GroupL1(groups=np.arange(P) // 4),
        l1jax.SquaredError(),
        Y,
        _group_newton.GroupNewton,
        "_step",
    ),
}


@pytest.mark.parametrize("name", BOUNDED)
@pytest.mark.slow
def test_a_path_that_has_spent_its_steps_is_finished_by_the_gradient_engine(monkeypatch, name):
    monkeypatch.setattr(OPTIONS, "min_steps", 12)
    monkeypatch.setattr(OPTIONS, "steps_per_lam", 0)
    pen, loss, y, owner, step = BOUNDED[name]
    count, original = 0, getattr(owner, step)

    def counted(*arguments):
        nonlocal count
        count += 1
        return original(*arguments)

    monkeypatch.setattr(owner, step, counted)
    path = l1jax.path(X, y, pen, loss=loss, n_lams=15, lam_min_ratio=0.1)
    assert count == 12
    assert (np.asarray(path.status) == l1jax.Status.CONVERGED).all()
    assert (np.asarray(path.relative_gaps) <= 1e-6).all()


@pytest.mark.parametrize(
    ("limits", "num_tries"),
    [
        ({"min_steps": 12, "steps_per_lam": 0, "max_breakdowns": 1000}, 13),
        ({"max_breakdowns": 5}, 16),  # the sixth failure
        ({"max_breakdowns": 1000}, 19),  # to the end of the path
    ],
)
def test_solves_that_fail_again_and_again_end_by_count(monkeypatch, limits, num_tries):
    for name, value in limits.items():
        monkeypatch.setattr(OPTIONS, name, value)
    tries, to = [], _row_shifts.RowShiftSolver.to

    def fails_once_in_three(self, lam):
        tries.append(lam)
        point = to(self, lam)
        if len(tries) % 3 == 1:
            raise NumericalBreakdown
        return point

    monkeypatch.setattr(_row_shifts.RowShiftSolver, "to", fails_once_in_three)
    path = l1jax.path(X, Y, l1jax.L1(), loss=l1jax.Huber(0.5), n_lams=15, lam_min_ratio=0.1)
    assert len(tries) == num_tries
    assert (np.asarray(path.status) == l1jax.Status.CONVERGED).all()


@pytest.mark.parametrize("interpolates", [False, True])
def test_steps_halve_where_they_fail_and_double_after_two_that_succeed(interpolates):
    control, grid = StepControl(interpolates), np.array([0.5, 0.25])
    np.testing.assert_array_equal(control.next_block(1.0, grid), grid)
    lengths = [1.0, 0.5, 0.25] if interpolates else [0.5, 0.25, 0.125]  # of the way to 0.5
    for length in lengths:
        control.fail()
        np.testing.assert_allclose(control.next_block(1.0, grid), [1 - 0.5 * length])
        assert control.ends_on_grid == (length == 1)
    while not control.is_block:
        length = control.fraction
        control.succeed()
        assert control.fraction == length
        control.succeed()
        assert control.fraction == min(2 * length, 1)
    np.testing.assert_array_equal(control.next_block(1.0, grid), grid)
    for _ in range(OPTIONS.max_step_halvings + interpolates):
        control.fail()
        assert not control.is_exhausted
    control.fail()
    assert control.is_exhausted


def test_blocks_of_lines_shorten_where_most_solutions_were_in_vain():
    control, grid = StepControl(interpolates=True), np.arange(20.0)[::-1]
    control.adapt(good=2, num_solved=4, reached=5, length=20)
    assert len(control.next_block(20.0, grid)) == 20  # few were
    control.adapt(good=1, num_solved=4, reached=3, length=20)
    lengths = []
    for _ in range(3):
        lengths.append(len(control.next_block(20.0, grid)))
        control.adapt(good=1, num_solved=1, reached=lengths[-1], length=lengths[-1])
    assert lengths == [3, 3, 6]  # it doubles after two that are good


def _counts(n):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, 500))
    return X, rng.poisson(np.exp(0.3 * X[:, :10].sum(axis=1))).astype(float)


def _newton_steps(monkeypatch, num_candidates, **options):
    """Returns the Newton steps of each solve of a path, on working sets that have to grow."""
    X, y = _counts(100)
    monkeypatch.setattr(OPTIONS, "max_columns", 0)
    monkeypatch.setattr(OPTIONS, "min_candidates", num_candidates)
    steps, to = [], _prox_newton.ProxNewtonSolver.to

    def counted(self, lam):
        point = to(self, lam)
        steps.append(point.num_steps)
        return point

    with monkeypatch.context() as patch:
        patch.setattr(_prox_newton.ProxNewtonSolver, "to", counted)
        path = l1jax.path(X, y, l1jax.L1(), loss=l1jax.Poisson(), engine="working_set", **options)
    assert (np.asarray(path.relative_gaps) <= options.get("tol", 1e-9)).all()
    return steps


def test_fewer_solutions_are_in_vain_where_blocks_shorten(monkeypatch):
    options = {"n_lams": 10, "lam_min_ratio": 0.05, "tol": 1e-3}
    shorter = _newton_steps(monkeypatch, 16, **options)
    monkeypatch.setattr(StepControl, "adapt", lambda *_, **__: None)
    longest = _newton_steps(monkeypatch, 16, **options)
    assert len(shorter) <= 0.75 * len(longest)


def test_a_rejected_solution_is_where_the_next_starts(monkeypatch):
    options = {"n_lams": 5, "lam_min_ratio": 0.05}
    warm = _newton_steps(monkeypatch, 2, **options)
    monkeypatch.setattr(_prox_newton.ProxNewton, "starts_anywhere", False)
    cold = _newton_steps(monkeypatch, 2, **options)
    assert sum(warm) < sum(cold)


def test_tall_data_take_some_of_their_columns(monkeypatch):
    X, y = _counts(2100)
    sizes, restricted = [], _prox_newton.ProxNewton.restricted_solver

    def sized(self, working, at, lam):
        sizes.append(len(working))
        return restricted(self, working, at, lam)

    monkeypatch.setattr(_prox_newton.ProxNewton, "restricted_solver", sized)
    options = {"loss": l1jax.Poisson(), "n_lams": 8, "lam_min_ratio": 0.1, "engine": "working_set"}
    few = l1jax.path(X, y, l1jax.L1(), **options)
    assert max(sizes) <= 150
    monkeypatch.setattr(OPTIONS, "max_entries", X.size)
    all_ = l1jax.path(X, y, l1jax.L1(), **options)
    assert sizes[-1] == 500
    # Both are exact: gradients miss their weights by 1e-13 of the largest, times the condition of the Hessian.
    np.testing.assert_allclose(few.coefs, all_.coefs, atol=1e-10)
