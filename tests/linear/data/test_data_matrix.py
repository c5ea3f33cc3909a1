"""Data matrices of one's own: fits of an operator are those of the array that it stands for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg

import l1jax
from l1jax.linear.data._matrix import CentredScaled, DenseMatrix, ReplacedColumns
from l1jax.linear.data._sparse import SparseMatrix

RNG = np.random.default_rng(0)
N, P, RANK = 40, 70, 12  # more columns than one block of moments has
U, V = RNG.normal(size=(N, RANK)), RNG.normal(size=(RANK, P))
SCALE, CENTRE = RNG.uniform(0.5, 2, P), RNG.normal(size=P)
WEIGHTS = np.where(np.arange(N) % 9 == 0, 0.0, RNG.uniform(0.5, 1.5, N))
X = (U @ V - CENTRE) * SCALE
Y = X[:, :3] @ np.array([0.4, -0.3, 0.2]) + 0.3 * RNG.normal(size=N) + 2
LABELS = (np.median(Y) < Y).astype(float)
LOSSES = {"squared error": (l1jax.SquaredError(), Y), "logistic": (l1jax.Logistic(), LABELS)}


class Blocks(l1jax.DataMatrix):
    """Blocks of rows, one below the other."""

    blocks: list

    @property
    def shape(self):
        return sum(len(block) for block in self.blocks), self.blocks[0].shape[1]

    @property
    def dtype(self):
        return self.blocks[0].dtype

    def dot(self, b):
        return jnp.concatenate([block @ b for block in self.blocks])

    def rdot(self, r):
        ends = np.cumsum([len(block) for block in self.blocks])[:-1]
        parts = jnp.split(r, ends)
        return sum(block.T @ part for block, part in zip(self.blocks, parts, strict=True))

    def columns(self, at):
        return jnp.concatenate([block[:, at] for block in self.blocks])


class LowRank(l1jax.DataMatrix):
    """(U V − 1 centreᵀ) diag(scale), never formed."""

    left: np.ndarray
    right: np.ndarray
    centre: np.ndarray
    scale: np.ndarray

    @property
    def shape(self):
        return self.left.shape[0], self.right.shape[1]

    @property
    def dtype(self):
        return self.left.dtype

    def dot(self, b):
        scaled = (self.scale * b.T).T
        return self.left @ (self.right @ scaled) - self.centre @ scaled

    def rdot(self, r):
        out = self.right.T @ (self.left.T @ r) - jnp.multiply.outer(self.centre, r.sum(axis=0))
        return (self.scale * out.T).T

    def columns(self, at):
        return (self.left @ self.right[:, at] - self.centre[at]) * self.scale[at]


LOW_RANK = LowRank(U, V, CENTRE, SCALE)


@pytest.fixture
def blocks(tmp_path):
    """The rows of X in three files, mapped into memory."""
    parts = []
    for i, rows in enumerate(np.split(X, [7, 25])):
        part = np.memmap(tmp_path / f"{i}.f64", np.float64, "w+", shape=rows.shape)
        part[:] = rows
        parts.append(part)
    return Blocks(parts)


def assert_same_fits(found, wanted, atol=1e-6):
    assert (np.asarray(found.status) == l1jax.Status.CONVERGED).all()
    gaps = np.asarray(found.gap) + np.asarray(wanted.gap)
    assert (abs(np.asarray(found.objective - wanted.objective)) <= gaps + 1e-12).all()
    np.testing.assert_allclose(found.coef, wanted.coef, atol=atol)
    np.testing.assert_allclose(found.intercept, wanted.intercept, atol=atol)


@pytest.mark.parametrize(
    ("name", "loss", "engine"),
    [
        ("blocks", "logistic", "working_set"),
        ("low rank", "logistic", "fista"),
        ("low rank", "squared error", "working_set"),
    ],
)
@pytest.mark.slow
def test_a_fit_of_an_operator_is_that_of_its_array(blocks, name, loss, engine):
    loss, y = LOSSES[loss]
    matrix = {"blocks": blocks, "low rank": LOW_RANK}[name]
    options = {"loss": loss, "tol": 1e-10, "standardize": True, "sample_weight": WEIGHTS}
    wanted = l1jax.fit(X, y, l1jax.L1(0.1), engine="working_set", **options)
    found = l1jax.fit(matrix, y, l1jax.L1(0.1), engine=engine, **options)
    assert 0 < wanted.n_nonzero < P
    # Of a gap of 1e-10 of the null deviance the coefficients may be off by its root.
    assert_same_fits(found, wanted, 1e-5 if engine == "fista" else 1e-9)


def test_lambda_max_the_path_and_predictions_of_an_operator_are_those_of_its_array():
    matrix = LOW_RANK
    critical, wanted = (float(l1jax.lambda_max(data, Y, l1jax.L1())) for data in (matrix, X))
    np.testing.assert_allclose(critical, wanted, rtol=1e-12)
    found, wanted = (l1jax.path(data, Y, l1jax.L1(), n_lams=8) for data in (matrix, X))
    assert_same_fits(found.fits, wanted.fits, 1e-9)
    np.testing.assert_allclose(found.predict(matrix), wanted.predict(X), atol=1e-9)


@pytest.mark.fast
def test_cross_validation_of_an_operator_is_that_of_its_array(blocks):
    matrix = blocks
    options = {"n_folds": 3, "n_lams": 8}
    found, wanted = (l1jax.cross_validate(data, Y, l1jax.L1(), **options) for data in (matrix, X))
    np.testing.assert_allclose(found.fold_scores, wanted.fold_scores, rtol=1e-7)
    assert found.lam_min == pytest.approx(wanted.lam_min)
    found, wanted = (
        l1jax.information_criterion(cv.path, data, Y) for cv, data in ((found, matrix), (wanted, X))
    )
    np.testing.assert_allclose(found.values, wanted.values, rtol=1e-7)


@pytest.mark.slow
def test_an_operator_of_arrays_is_fitted_under_jit_and_differentiated_by_them():
    def fitted(left, y):
        matrix = LowRank(left, V, CENTRE, SCALE)
        return l1jax.fit(matrix, y, l1jax.L1(0.1), tol=1e-12, max_steps=100_000)

    def dense(left, y):
        array = (left @ V - CENTRE) * SCALE
        return l1jax.fit(array, y, l1jax.L1(0.1), tol=1e-12)

    def with_slope(fit):
        def size(left):
            found = fit(left, Y)
            return (found.coef**2).sum(), found

        return jax.value_and_grad(size, has_aux=True)

    (_, found), slope = jax.jit(with_slope(fitted))(U)
    (_, wanted), expected = with_slope(dense)(jnp.asarray(U))
    assert_same_fits(found, wanted)
    np.testing.assert_allclose(slope, expected, rtol=1e-5, atol=1e-7)
    _, eager = with_slope(fitted)(jnp.asarray(U))
    np.testing.assert_allclose(eager, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_nearly_collinear_unpenalised_columns_of_an_operator_are_certified():
    trend = np.linspace(0, 1, N)
    left = np.column_stack([U, trend, trend + 1e-7 * RNG.normal(size=N)])
    right = np.zeros((RANK + 2, P + 2))
    right[:RANK, :P], right[RANK, P], right[RANK + 1, P + 1] = V, 1, 1
    matrix = LowRank(left, right, np.zeros(P + 2), np.ones(P + 2))
    pen = l1jax.L1(0.1, weights=np.append(np.ones(P), [0.0, 0.0]))
    found, wanted = (l1jax.fit(data, Y + 3 * trend, pen) for data in (matrix, left @ right))
    assert found.relative_gap <= 1e-6 and found.status == l1jax.Status.CONVERGED
    np.testing.assert_allclose(found.coef[:P], wanted.coef[:P], atol=1e-8)


def both(matrix, array):
    """An operator, and NumPy's array of the same entries."""
    return pytest.param(matrix, array, id=type(matrix).__name__)


def sparse_of(array):
    coo = scipy.sparse.coo_array(array)
    return SparseMatrix(coo.data, *(at.astype(np.int32) for at in coo.coords), array.shape)


SPARSE = np.where(RNG.random((N, P)) < 0.2, X, 0)
AT, NEW = np.array([65, 2]), RNG.normal(size=(N, 2))
REPLACED = X.copy()
REPLACED[:, AT] = NEW


@pytest.mark.parametrize(
    ("matrix", "array"),
    [
        both(LOW_RANK, X),
        both(DenseMatrix(jnp.asarray(X)), X),
        both(sparse_of(SPARSE), SPARSE),
        both(
            sparse_of(SPARSE).transform(jnp.asarray(CENTRE), jnp.asarray(SCALE)),
            (SPARSE - CENTRE) * SCALE,
        ),
        both(CentredScaled(DenseMatrix(U @ V), jnp.asarray(CENTRE), jnp.asarray(SCALE)), X),
        both(ReplacedColumns(DenseMatrix(X), jnp.asarray(AT), jnp.asarray(NEW)), REPLACED),
    ],
)
@pytest.mark.slow
def test_what_every_matrix_answers_is_what_numpy_says_of_its_array(matrix, array):
    b, r = RNG.normal(size=(P, 2)), RNG.normal(size=(N, 2))
    s, centre = WEIGHTS / WEIGHTS.sum(), CENTRE + 0.1
    for product, vectors, expected in ((matrix.dot, b, array @ b), (matrix.rdot, r, array.T @ r)):
        np.testing.assert_allclose(product(jnp.asarray(vectors)), expected, atol=1e-12)
        one = product(jnp.asarray(vectors[:, 0]))
        np.testing.assert_allclose(one, expected[:, 0], atol=1e-12)
    at = np.array([P - 1, 2, 65, P])  # the last one is beyond
    padded = np.column_stack([array[:, at[:-1]], np.zeros(N)])
    np.testing.assert_allclose(matrix.columns(at[:-1]), array[:, at[:-1]], atol=1e-12)
    np.testing.assert_allclose(matrix.padded_columns(jnp.asarray(at)), padded, atol=1e-12)
    host, out = matrix.to_host(), np.empty((2, P))
    host.rdot(r, out)
    np.testing.assert_allclose(out, r.T @ array, atol=1e-12)
    host.add(at[:2])
    host.add(at[2:3])
    added = array[:, at[:3]]
    np.testing.assert_allclose(host.part(np.array([2, 0])).dense(), added[:, [2, 0]], atol=1e-12)
    np.testing.assert_allclose(host.part_of(at[:3]).dot(b[:3]), added @ b[:3], atol=1e-12)
    fresh = host.gram(slice(2, 3), s)
    np.testing.assert_allclose(fresh, added.T @ (s[:, None] * added[:, 2:]), atol=1e-12)
    if isinstance(matrix, CentredScaled):
        return  # whose moments, and rows, are those of the matrix within
    s, centre = jnp.asarray(s), jnp.asarray(centre)
    np.testing.assert_allclose(matrix.means(s), s @ array, atol=1e-12)
    np.testing.assert_allclose(matrix.squares(s, centre), s @ (array - centre) ** 2, rtol=1e-12)
    np.testing.assert_allclose(matrix.peaks(s), abs(array[s > 0]).max(axis=0), rtol=1e-12)
    rows, at = np.array([3, 0]), np.array([5, 1, 60])
    predicted = host.rows_dot(rows, at, b[:3])
    np.testing.assert_allclose(predicted, array[np.ix_(rows, at)] @ b[:3], atol=1e-12)


def test_an_operator_that_cannot_be_fitted_is_refused_at_once():
    class Odd(Blocks):
        name: str = "odd"

    with pytest.raises(
        TypeError, match=r"Odd must hold arrays, got 'odd' in a field: .*static=True"
    ):
        l1jax.fit(Odd([X]), Y, l1jax.L1(0.1))
    with pytest.raises(TypeError, match="Blocks.dtype must be float32 or float64, got int64"):
        l1jax.fit(Blocks([X.astype(np.int64)]), Y, l1jax.L1(0.1))
    with pytest.raises(ValueError, match=r"Blocks.shape must be \(n, p\) .* got \(0, 70\)"):
        l1jax.fit(Blocks([X[:0]]), Y, l1jax.L1(0.1))
    with pytest.raises(TypeError, match="a subclass of l1jax.DataMatrix"):
        l1jax.fit(scipy.sparse.linalg.aslinearoperator(X), Y, l1jax.L1(0.1))
    with pytest.raises(ValueError, match="y must have one row per row of X"):
        l1jax.fit(LOW_RANK, Y[:-1], l1jax.L1(0.1))


@pytest.mark.float32
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_precision_of_a_fit_is_that_of_its_operator(dtype):
    matrix = LowRank(*(leaf.astype(dtype) for leaf in jax.tree.leaves(LOW_RANK)))
    fits = [l1jax.fit(data, Y, l1jax.L1(0.1)) for data in (matrix, X.astype(dtype))]
    assert all(fit.coef.dtype == dtype for fit in fits)
    assert_same_fits(*fits, 1e-3 if dtype == np.float32 else 1e-9)
