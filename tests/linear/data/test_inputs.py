"""What `fit` and `path` refuse, and how: an error that names the argument, or a status when traced."""

import warnings

import jax
import jax.experimental.sparse
import jax.numpy as jnp
import numpy as np
import pandas as pd
import polars as pl
import pytest

import l1jax
from l1jax.tuning._criteria import Refit

N, P = 20, 4
RNG = np.random.default_rng(3)
X = RNG.standard_normal((N, P)) + 1.0
Y = X @ np.array([1.0, -0.5, 0.0, 0.0]) + 0.3 * RNG.standard_normal(N)
BCOO = jax.experimental.sparse.BCOO

# The runtime type checker of the tests is quicker than the library's own sentence for two of these.
BAD = [
    ({"X": X[:, 0]}, ValueError, "X must be a matrix"),
    ({"X": X[:0]}, ValueError, "X is empty"),
    ({"X": np.where(X[3, 2] == X, np.nan, X)}, ValueError, "X must be finite.*row 3, column 2"),
    ({"X": X.astype(str)}, TypeError, "X must hold real numbers"),
    ({"y": Y[:-1]}, ValueError, "y must have one row per row of X"),
    ({"y": np.where(Y[5] == Y, np.inf, Y)}, ValueError, "y must be finite.*row 5"),
    ({"y": ["a"] * N}, TypeError, "y must hold real numbers.*Labels become numbers"),
    ({"pen": 0.1}, TypeError, "pen' ?|pen must be an l1jax penalty"),
    ({"pen": l1jax.L1()}, ValueError, "no strength"),
    ({"pen": l1jax.GroupL1(0.1, [0, 1])}, ValueError, "groups has 2 ids"),
    ({"pen": l1jax.L1(0.1, weights=[1.0, 2.0])}, ValueError, "weight"),
    ({"loss": l1jax.Logistic()}, ValueError, "labels 0 and 1"),
    ({"loss": l1jax.Poisson()}, ValueError, "counts >= 0"),
    ({"sample_weight": -np.ones(N)}, ValueError, "sample_weight must be >= 0"),
    ({"sample_weight": np.zeros(N)}, ValueError, "sample_weight sums to zero"),
    ({"sample_weight": np.full(N, 1e308)}, ValueError, "sample_weight must have a finite sum"),
    ({"sample_weight": np.ones(3)}, ValueError, "sample_weight must have one entry"),
    ({"offset": np.ones(3)}, ValueError, "offset must have one entry"),
    ({"init": np.ones(3)}, ValueError, "init must be"),
    ({"tol": -1.0}, ValueError, "tol must be"),
    ({"max_steps": 0}, ValueError, "max_steps must be"),
    ({"engine": "warp"}, ValueError, "engine must be"),
    ({"fit_intercept": "yes"}, TypeError, "fit_intercept' ?|fit_intercept must be"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD)
def test_bad_input_is_an_error_that_names_the_argument(monkeypatch, change, error, message):
    def no_work(*_, **__):
        raise AssertionError("the solver was called")

    monkeypatch.setattr("l1jax.linear._fit.solve_plan", no_work)
    arguments = {"X": X, "y": Y, "pen": l1jax.L1(0.1)} | change
    with pytest.raises(error, match=message):
        l1jax.fit(**arguments)


SHUFFLED = pd.Series(Y, index=np.arange(N)[::-1])
MASKED = np.ma.masked_array(X, mask=X.max() - 1e-9 < X)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"X": MASKED}, ValueError, "X has masked entries"),
        ({"X": pd.DataFrame(X), "y": SHUFFLED}, ValueError, "y must have the index of X"),
        ({"X": BCOO.fromdense(jnp.asarray(X), n_dense=1)}, ValueError, "without batch or dense"),
        (
            {"X": BCOO.fromdense(jnp.asarray(X).at[3, 2].set(jnp.nan))},
            ValueError,
            "row 3, column 2",
        ),
        ({"X": 1e200 * X}, ValueError, "X must have entries whose squares float64 can hold"),
        ({"X": 1e-200 * X}, ValueError, "X must have entries whose squares float64 can hold"),
        ({"y": 1e200 * Y}, ValueError, "y must have entries whose squares"),
        ({"pen": l1jax.L1(np.array([0.1, 0.2]))}, ValueError, "lam must be one number"),
        ({"init": np.zeros(P, complex)}, ValueError, "init must be"),
        ({"init": np.full(P, np.nan)}, ValueError, "init must be finite"),
    ],
)
@pytest.mark.fast
def test_bad_kinds_of_data_are_errors(change, error, message):
    arguments = {"X": X, "y": Y, "pen": l1jax.L1(0.1)} | change
    with pytest.raises(error, match=message):
        l1jax.fit(**arguments)


@jax.jit
def traced_fit(values):
    """The status and coefficients of a fit all of whose numbers are known only when it runs."""
    loss = l1jax.Huber(values["delta"]) if "delta" in values else l1jax.SquaredError()
    y = values["y"]
    if "label" in values:
        loss, y = l1jax.Logistic(), (y > 0).astype(float).at[0].set(values["label"])
    fit = l1jax.fit(
        jnp.asarray(X),
        y,
        l1jax.L1(weights=values["weights"]).with_strength(values["lam"]),
        loss=loss,
        **{name: values[name] for name in ("sample_weight", "offset", "init", "tol", "max_steps")},
    )
    return fit.status, fit.coef


def traced(**changes):
    values = {
        "y": Y,
        "lam": 0.1,
        "weights": np.ones(P),
        "sample_weight": np.ones(N),
        "offset": np.zeros(N),
        "init": np.zeros(P),
        "tol": 1e-6,
        "max_steps": 1000,
    }
    return traced_fit(jax.tree.map(jnp.asarray, values | changes))


@pytest.mark.parametrize(
    "bad",
    [
        {"lam": -0.1},
        {"lam": np.nan},
        {"weights": np.array([1.0, -1.0, 1.0, 1.0])},
        {"sample_weight": np.where(np.arange(N) == 2, -1.0, 1.0)},
        {"sample_weight": np.zeros(N)},
        {"offset": np.full(N, np.inf)},
        {"tol": -1.0},
        {"max_steps": 0},
        {"init": np.full(P, np.inf)},
        {"label": 2.0},
        {"delta": -1.0},
    ],
    ids=lambda bad: next(iter(bad)),
)
@pytest.mark.slow
def test_a_traced_value_that_an_eager_call_refuses_is_reported(bad):
    status, coef = traced(**bad)
    assert status == l1jax.Status.INVALID_INPUT
    assert jnp.isnan(coef).all()


def test_traced_values_that_an_eager_call_takes_are_solved():
    status, coef = traced()
    assert status == l1jax.Status.CONVERGED
    np.testing.assert_allclose(coef, l1jax.fit(X, Y, l1jax.L1(0.1)).coef, atol=1e-8)


@pytest.mark.parametrize("value", [np.nan, 1e300])
def test_a_row_of_weight_zero_may_hold_any_target(value):
    weights = np.where(np.arange(N) == 4, 0.0, 1.0)
    status, coef = traced(y=np.where(np.arange(N) == 4, value, Y), sample_weight=weights)
    alone = l1jax.fit(np.delete(X, 4, 0), np.delete(Y, 4), l1jax.L1(0.1))
    assert status == l1jax.Status.CONVERGED
    np.testing.assert_allclose(coef, alone.coef, atol=1e-8)


@pytest.mark.float32
def test_arrays_that_jax_has_traced_are_taken_in_their_own_precision():
    """Of a NumPy array within a loop JAX keeps a copy, of float32 where x64 is off, for ever."""
    table = np.random.default_rng(0).normal(size=(40, 3))
    y = (table[:, 0] > 0) * 1.0
    l1jax.minimize(lambda b: jnp.mean((y - table @ b) ** 2), jnp.zeros(3), l1jax.L1(0.1))
    fit = l1jax.fit(table, y, l1jax.L1(0.1), loss=l1jax.Logistic())
    assert fit.coef.dtype == np.float64
    other = l1jax.fit(table.copy(), y.copy(), l1jax.L1(0.1), loss=l1jax.Logistic())
    np.testing.assert_array_equal(fit.coef, other.coef)


@pytest.mark.float32
def test_numpy_float64_beside_jax_arrays_takes_the_precision_of_jax():
    fit = l1jax.fit(X, jnp.asarray(Y), l1jax.L1(0.1))
    assert fit.coef.dtype == jnp.result_type(float)
    assert fit.status == l1jax.Status.CONVERGED


@pytest.mark.parametrize("kind", ["int", "bool", "longdouble", "float16"])
def test_other_kinds_of_numbers_are_taken(kind):
    table = (X > 1).astype(kind) if kind in ("int", "bool") else X.astype(kind)
    fit = l1jax.fit(table, Y, l1jax.L1(0.01))
    as_float = l1jax.fit(table.astype(fit.coef.dtype), Y, l1jax.L1(0.01))
    assert fit.coef.dtype == (np.float32 if kind == "float16" else np.float64)
    np.testing.assert_array_equal(fit.coef, as_float.coef)


def test_targets_without_an_index_or_with_that_of_x_are_taken():
    frame = pd.DataFrame(X, index=[f"row {i}" for i in range(N)])
    for y in (list(Y), Y, pd.Series(Y, index=frame.index)):
        assert l1jax.fit(frame, y, l1jax.L1(0.1)).n_nonzero > 0


def test_the_intercept_of_a_warm_start_is_dropped_without_an_intercept():
    start = l1jax.fit(X, Y + 3, l1jax.L1(0.1))
    fit = l1jax.fit(X, Y, l1jax.L1(0.1), fit_intercept=False, init=start)
    assert start.intercept != 0 and fit.intercept == 0
    alone = l1jax.fit(X, Y, l1jax.L1(0.1), fit_intercept=False)
    np.testing.assert_allclose(fit.coef, alone.coef, atol=1e-8)


@pytest.mark.parametrize("loss", [l1jax.SquaredError(), l1jax.Poisson()])
def test_a_start_far_from_the_solution_reaches_it(loss):
    y = np.round(np.abs(Y))
    near = l1jax.fit(X, y, l1jax.L1(0.1), loss=loss)
    far = l1jax.fit(X, y, l1jax.L1(0.1), loss=loss, init=np.full(P, 1e4))
    assert far.status == l1jax.Status.CONVERGED
    np.testing.assert_allclose(far.coef, near.coef, atol=1e-7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lams": []}, "lams must be a vector"),
        ({"lams": [1.0, -1.0]}, "lams must be >= 0.*index 1"),
        ({"n_lams": 0}, "n_lams must be"),
        ({"lam_min_ratio": 2.0}, "lam_min_ratio must lie"),
    ],
)
def test_a_bad_grid_is_an_error(change, message):
    with pytest.raises(ValueError, match=message):
        l1jax.path(X, Y, l1jax.L1(), **change)


@pytest.mark.parametrize(
    ("pen", "message"),
    [
        (l1jax.Ridge(), "Ridge has no strength.*pass lams"),
        (l1jax.L1Ball(1.0), "a budget, not a penalty weight.*pass lams"),
        (l1jax.L1(weights=np.full(P, np.inf)), "no feature with a weight above zero.*pass lams"),
    ],
)
def test_a_penalty_without_a_largest_strength_needs_a_grid(pen, message):
    with pytest.raises(ValueError, match=message):
        l1jax.path(X, Y, pen)


def test_numbers_in_a_users_penalty_are_no_constants_of_the_program():
    class Tilted(l1jax.Penalty):
        lam: float | None = None

        def value(self, x):
            return self.lam * jnp.sum(jnp.maximum(2 * x, -x))

        def prox(self, z, step=1.0):
            return jax.nn.relu(z - 2 * step * self.lam) - jax.nn.relu(-z - step * self.lam)

    l1jax.fit(X[:13], Y[:13], Tilted(0.1))
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: compiled.append(name)
    )
    try:
        l1jax.fit(X[:13], Y[:13], Tilted(0.2))
    finally:
        jax.monitoring.clear_event_listeners()
    assert not [name for name in compiled if "backend_compile" in name]


def test_the_warning_says_what_would_help():
    with pytest.warns(l1jax.ConvergenceWarning, match="MAX_STEPS at a relative gap.*max_steps"):
        wide = RNG.standard_normal((10, 40)) + 5
        l1jax.fit(
            wide, wide[:, :6].sum(axis=1), l1jax.L1(1e-3), max_steps=1, tol=1e-12, engine="fista"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        l1jax.fit(X, Y, l1jax.L1(0.1))


@pytest.mark.parametrize("bad", [-0.1, float("nan"), float("inf")])
def test_a_bad_strength_is_an_error(bad):
    with pytest.raises(ValueError, match="lam must be non-negative and finite"):
        l1jax.L1(bad)


def test_text_and_missing_values_in_a_table_are_errors_with_advice():
    table = pd.DataFrame(X, columns=list("abcd"))
    text = table.assign(city=["Rome", "Oslo"] * (N // 2), colour=["red", "blue"] * (N // 2))
    with pytest.raises(TypeError, match="column 'city' .*one other column.*get_dummies"):
        l1jax.fit(text, Y, l1jax.L1(0.1))
    for column, advice in {
        "objects": (table["b"].astype(object), r"holds numbers.*pandas\.to_numeric\(X\['e'\]\)\."),
        "missing": (pd.Series([1, None, *Y[2:]], dtype=object), r"pandas\.to_numeric"),
        "marks": (pd.Series(["?", *map(str, Y[1:])]), r'errors="coerce"\); what is none'),
        "kinds": (pd.Series(np.arange(N) % 3).astype("category"), r"get_dummies"),
        "dates": (pd.Series(pd.date_range("2020", periods=N)), r"X\['e'\]\.min\(\)\)\.dt\.days"),
    }.values():
        with pytest.raises(TypeError, match=f"column 'e' .*{advice}"):
            l1jax.fit(table.assign(e=column), Y, l1jax.L1(0.1))
    gaps = table.mask((table > 1.5) & table.columns.isin(["b", "c"]))
    first = int(np.flatnonzero(gaps.isna().any(axis=1))[0])
    message = rf"nan at row {first}, column .*2 columns: 'b', 'c'.*fillna\(X.median\(\)\)"
    for kind in (gaps, gaps.convert_dtypes()):  # NaN, and pandas' own missing values
        with pytest.raises(ValueError, match=message):
            l1jax.fit(kind, Y, l1jax.L1(0.1))
    with pytest.raises(TypeError, match="people.csv'. A file is read first"):
        l1jax.fit("people.csv", Y, l1jax.L1(0.1))


def test_new_rows_need_the_columns_of_the_fit():
    table = pd.DataFrame(X, columns=list("abcd"))
    fit = l1jax.fit(table, Y, l1jax.L1(0.1))
    for other, message in (
        (table[["a", "b", "d"]], "lacks 'c'.*reindex"),
        (table.assign(e=1.0), "has 'e' besides"),
        (table[["b", "a", "c", "d"]], "has 'b' as column 0, the fit 'a'"),
    ):
        with pytest.raises(ValueError, match=message):
            fit.predict(other)
        known = other.reindex(columns=fit.feature_names, fill_value=0)
        wanted = fit.predict(table.assign(c=0.0) if "c" not in other else table)
        np.testing.assert_array_equal(fit.predict(known), wanted)
    with pytest.raises(ValueError, match="4 columns of the fit, got shape"):
        fit.predict(X[:, :3])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e160])
@pytest.mark.parametrize("order", ["C", "F", "strided"])
def test_entries_that_are_not_finite_are_found_in_any_memory_layout(bad, order):
    X = np.zeros((8, 6)) if order != "strided" else np.zeros((8, 12))[:, ::2]
    X = np.asfortranarray(X) if order == "F" else X
    X[:] = np.random.default_rng(0).standard_normal(X.shape)
    X[5, 4] = bad
    with pytest.raises(ValueError, match="X must"):
        l1jax.path(X, np.arange(8.0), l1jax.L1())


def test_a_penalty_is_checked_for_every_shape_it_is_used_with():
    from l1jax.linear.data._inputs import read

    def ask(X, pen):
        return read(X, Y, pen, l1jax.SquaredError(), None, None)

    pen = l1jax.L1(0.1, weights=np.ones(P))
    for _ in range(2):
        ask(X, pen)
        with pytest.raises(ValueError, match="weights"):
            ask(X[:, :2], pen)
        with pytest.raises(ValueError, match="weights"):
            ask(X, l1jax.L1(0.1, weights=np.ones(P - 1)))
        with pytest.raises(ValueError, match="lam"):
            ask(X, l1jax.L1(weights=np.ones(P)))


def test_errors_about_polars_tables_advise_in_polars():
    table = pl.DataFrame({"a": X[:, 0], "b": ["Rome", "Oslo"] * (N // 2)})
    with pytest.raises(TypeError, match=r"X\.to_dummies\('b'\)"):
        l1jax.fit(table, Y, l1jax.L1(0.1))
    gaps = pl.DataFrame({"a": [None, *X[1:, 0]], "b": X[:, 1]})
    with pytest.raises(ValueError, match=r"X\.fill_nan\(None\)\.fill_null"):
        l1jax.fit(gaps, Y, l1jax.L1(0.1))


def test_a_survival_table_of_times_and_truths_is_read():
    times = pd.DataFrame({"time": np.arange(1.0, N + 1), "event": np.arange(N) % 2 == 0})
    frame = l1jax.fit(X, times, l1jax.L1(0.05), loss=l1jax.Cox())
    array = l1jax.fit(X, times.to_numpy(float), l1jax.L1(0.05), loss=l1jax.Cox())
    np.testing.assert_array_equal(frame.coef, array.coef)
    with pytest.raises(TypeError, match=r"y must hold real numbers.*y\.astype\(float\)"):
        l1jax.fit(X, np.arange(N).astype(object), l1jax.L1(0.1))


def test_sparse_rows_are_taken_as_sparse_entries():
    table = jnp.asarray(X * (X > 0))
    rows = jax.experimental.sparse.BCSR.fromdense(table)
    fit = l1jax.fit(rows, Y, l1jax.L1(0.1))
    np.testing.assert_allclose(fit.coef, l1jax.fit(table, Y, l1jax.L1(0.1)).coef, atol=1e-10)


def test_overflow_within_a_poisson_fit_is_no_warning():
    table = np.random.default_rng(0).normal(size=(60, 8))
    counts = np.exp(5 + table[:, 0] - 0.5 * table[:, 1]).round()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path = l1jax.path(
            table, counts, l1jax.L1(), loss=l1jax.Poisson(), n_lams=4, fit_intercept=False
        )
    assert (np.asarray(path.status) == l1jax.Status.CONVERGED).all()


def test_a_table_of_one_column_is_one_response():
    series = l1jax.fit(X, pd.Series(Y), l1jax.L1(0.1))
    for y in (pd.DataFrame({"y": Y}), pl.DataFrame({"y": Y})):
        fit = l1jax.fit(X, y, l1jax.L1(0.1))
        assert fit.coef.shape == (P,) and fit.intercept.shape == () and fit.predict(X).shape == (N,)
        np.testing.assert_array_equal(fit.coef, series.coef)
    weights, shift = np.arange(1.0, N + 1), np.linspace(-1, 1, N)
    plain = l1jax.fit(X, Y, l1jax.L1(0.1), sample_weight=weights, offset=shift)
    tables = {"sample_weight": pd.DataFrame(weights), "offset": pd.DataFrame(shift)}
    np.testing.assert_array_equal(l1jax.fit(X, Y, l1jax.L1(0.1), **tables).coef, plain.coef)


def test_an_array_of_one_column_is_a_matrix_of_one_response():
    fit = l1jax.fit(X, Y[:, None], l1jax.L1(0.1))
    assert fit.coef.shape == (P, 1) and fit.predict(X).shape == (N, 1)
    np.testing.assert_allclose(fit.coef[:, 0], l1jax.fit(X, Y, l1jax.L1(0.1)).coef, atol=1e-9)
    with pytest.raises(ValueError, match=r"y must have shape \(n,\) for Logistic.*y\[:, 0\]"):
        l1jax.fit(X, (Y > 0)[:, None], l1jax.L1(0.1), loss=l1jax.Logistic())


def test_nullable_integers_of_pandas_are_read():
    whole = np.arange(N)
    nullable = l1jax.fit(X, pd.Series(whole, dtype="Int64"), l1jax.L1(0.1))
    np.testing.assert_array_equal(nullable.coef, l1jax.fit(X, whole, l1jax.L1(0.1)).coef)
    with pytest.raises(ValueError, match="y must be finite, got nan at row 0"):
        l1jax.fit(X, pd.Series([None, *whole[1:]], dtype="Int64"), l1jax.L1(0.1))


LABELS = np.array(["ja", "nein", "ja", "weiß nicht"] * (N // 4))


@pytest.mark.parametrize("kind", [np.asarray, pd.Series, pd.DataFrame, pl.Series, list])
def test_labels_as_targets_are_errors_whose_advice_works(kind):
    two, three = np.where(LABELS == "ja", "ja", "nein"), LABELS
    for loss in (l1jax.Logistic(), l1jax.Multinomial()):
        with pytest.raises(TypeError, match=r"\(y == 'nein'\)\.astype\(float\)"):
            l1jax.fit(X, kind(two), l1jax.L1(0.1), loss=loss)
        with pytest.raises(TypeError, match=r"The 3 labels.*Multinomial\(\) with numpy\.unique\(y"):
            l1jax.fit(X, kind(three), l1jax.L1(0.1), loss=loss)
    with pytest.raises(TypeError, match=r"It holds numbers.*y\.astype\(float\)"):
        l1jax.fit(X, kind(Y.round(1).astype(str)), l1jax.L1(0.1))


TIME, SEEN = np.abs(Y) + 0.1, np.arange(N) % 3 > 0


@pytest.mark.parametrize("names", [("event", "time"), ("Survival_in_days", "Status")])
def test_survival_times_of_scikit_survival_are_read(names):
    event_first = names[0] == "event"
    kinds, columns = ((bool, float), (SEEN, TIME)) if event_first else ((float, bool), (TIME, SEEN))
    y = np.empty(N, list(zip(names, kinds, strict=True)))
    for name, column in zip(names, columns, strict=True):
        y[name] = column
    plain = np.column_stack([TIME, SEEN])
    options = {"loss": l1jax.Cox()}
    fit = l1jax.fit(X, y, l1jax.L1(0.02), **options)
    np.testing.assert_array_equal(fit.coef, l1jax.fit(X, plain, l1jax.L1(0.02), **options).coef)
    np.testing.assert_array_equal(Refit(X, y, options).target, plain)
    assert "(intercept) 0" in " ".join(str(fit).split())  # there is none, nor is there a −0
    assert not np.signbit(l1jax.Cox().identify(jnp.array(-2.0)))


def test_other_named_fields_are_refused():
    y = np.zeros(N, [("event", bool), ("time", float)])
    with pytest.raises(TypeError, match=r"SquaredError, got the fields \('event', 'time'\).*Cox"):
        l1jax.fit(X, y, l1jax.L1(0.1))
    y = np.zeros(N, [("event", int), ("time", float)])
    with pytest.raises(ValueError, match="a boolean .was the event observed.*column_stack"):
        l1jax.fit(X, y, l1jax.L1(0.1), loss=l1jax.Cox())


def test_strings_are_ids_of_groups():
    named = l1jax.GroupL1(
        0.1, ["size", "age", "size", "age"], weights=[3.0, 1.0]
    )  # of age, of size
    plain = l1jax.GroupL1(0.1, [1, 0, 1, 0], weights=[3.0, 1.0])
    for ids in (named.groups.labels[named.groups.ids], pd.Series(["size", "age", "size", "age"])):
        assert l1jax.Groups(ids) == named.groups != plain.groups
    np.testing.assert_array_equal(l1jax.fit(X, Y, named).coef, l1jax.fit(X, Y, plain).coef)


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        ([[0, 1], [2]], ValueError, "got lists of features. The id of a feature is the number"),
        ([[0, 1], [1, 2]], ValueError, "Feature 1 is in two of them, and groups cannot overlap"),
        ([["a"], ["a", "b"]], ValueError, "Feature a is in two of them"),
        ([0.0, 1.0], TypeError, "integers or strings.*float64"),
        (["a", None], TypeError, "integers or strings.*object"),
        (3, ValueError, r"one id per feature.*got shape \(\)"),
    ],
)
def test_other_ids_of_groups_are_refused(ids, error, message):
    with pytest.raises(error, match=message):
        l1jax.GroupL1(0.1, ids)


def test_a_column_for_each_of_its_groups_is_the_advised_overlap():
    """Against a grid of the shares of the column that two groups share."""
    groups = ([0, 1], [1, 2])
    table = X[:, np.concatenate(groups)]
    fit = l1jax.fit(table, Y, l1jax.GroupL1(0.3, [0, 0, 1, 1], weights=[1.0, 1.0]), tol=1e-10)
    parts = np.asarray(fit.coef)
    shared = parts[1] + parts[2]
    shares = shared * np.linspace(-1, 2, 3001)
    price = np.hypot(parts[0], shares) + np.hypot(shared - shares, parts[3])
    assert np.hypot(*parts[:2]) + np.hypot(*parts[2:]) <= price.min() + 1e-8


@pytest.mark.float32
@pytest.mark.parametrize("unit", [1.0, 1e12, 1e15])
@pytest.mark.parametrize("kind", ["features", "groups"])
def test_large_counts_are_fitted_as_small_ones_in_another_unit(kind, unit):
    """The optimality conditions in the unit of the counts, by NumPy."""
    counts = np.exp(0.4 * X[:, 0]).round()
    dtype = jnp.result_type(float)
    pen = l1jax.L1(0.1 * unit)
    if kind == "groups":
        pen = l1jax.GroupL1(0.1 * unit, [0, 0, 1, 1], weights=[1.0, 1.0])
    data = jnp.asarray(X, dtype), jnp.asarray(unit * counts, dtype)
    fit = l1jax.fit(*data, pen, loss=l1jax.Poisson(), tol=1e-5)
    assert fit.status == l1jax.Status.CONVERGED
    coef = np.asarray(fit.coef, float)
    mean = np.exp(X @ coef + float(fit.intercept) - np.log(unit))
    slope = X.T @ (counts - mean) / N
    sizes = [np.abs, lambda v: np.hypot(v[::2], v[1::2])][kind == "groups"]
    inside = sizes(coef) > 0
    assert inside.any()
    np.testing.assert_allclose(sizes(slope)[inside], 0.1, atol=2e-3)
    assert (sizes(slope)[~inside] <= 0.1 + 2e-3).all()
    assert abs(np.mean(counts - mean)) < 2e-3


def test_without_an_intercept_a_large_mean_is_reached():
    counts = 1e15 * np.exp(0.4 * X[:, 0]).round()
    fit = l1jax.fit(X, counts, l1jax.L1(1e13), loss=l1jax.Poisson(), fit_intercept=False)
    assert fit.status == l1jax.Status.CONVERGED
    slope = X.T @ (counts - np.exp(X @ fit.coef)) / N
    np.testing.assert_allclose(slope[fit.support], 1e13 * np.sign(fit.coef[fit.support]), rtol=1e-5)
