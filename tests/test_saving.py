"""Results in files: what comes back is what went in, and no code is run."""

import dataclasses
import io
import json
import xml.etree.ElementTree
import zipfile

import jax
import numpy as np
import pandas as pd
import pytest

import l1jax

N, P, L = 30, 6, 17
RNG = np.random.default_rng(5)
X = RNG.standard_normal((N, P))
Y = X @ np.array([2.0, -1.0, 0.5, 0.0, 0.0, 0.0]) + RNG.standard_normal(N)
FRAME = pd.DataFrame(X, columns=["a", "b", "<c>", "d", "é", "f"])


class Steep(l1jax.Loss):
    """A loss of a user's own."""

    def per_row(self, y, eta):
        return (y - eta) ** 2


def there_and_back(result, **options):
    file = io.BytesIO()
    result.save(file)
    file.seek(0)
    return l1jax.load(file, **options)


def assert_same(result, other):
    assert type(result) is type(other)
    assert jax.tree.structure(result) == jax.tree.structure(other)
    for one, two in zip(jax.tree.leaves(result), jax.tree.leaves(other), strict=True):
        assert np.asarray(one).dtype == np.asarray(two).dtype
        np.testing.assert_array_equal(one, two)


@pytest.fixture(scope="module")
def path():
    return l1jax.path(FRAME, Y, l1jax.L1(), n_lams=L, engine="homotopy")


def test_a_path_comes_back_bit_for_bit(path):
    again = there_and_back(path)
    assert_same(path, again)
    assert_same(path[4], there_and_back(path[4]))
    np.testing.assert_array_equal(again.predict(X), path.predict(X))
    lam = float(path.lams[3])
    assert again.knots.at(lam)[1] == path.knots.at(lam)[1]
    assert str(again) == str(path)


LOSSES = [l1jax.Huber(0.7), l1jax.Logistic(), l1jax.Cox("efron"), l1jax.Multinomial(3)]
LOSSES += [l1jax.Ordinal(3, [0.0, 1.0])]


@pytest.mark.parametrize("loss", LOSSES)
def test_the_loss_comes_back_with_its_numbers(path, loss):
    fits = dataclasses.replace(path.fits, loss=loss)
    assert_same(fits, there_and_back(fits))


def test_other_precisions_and_several_responses(path):
    fits = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), path.fits)
    assert_same(fits, there_and_back(fits))
    pair = dataclasses.replace(
        path.fits, stored_coef=np.stack([path.coefs] * 2, -1), several_responses=True
    )
    assert_same(pair, there_and_back(pair))


@pytest.mark.parametrize(
    "pen",
    [
        l1jax.L1(weights=[0, 1, 2, np.inf, 1, 1]),
        l1jax.ElasticNet(l1_ratio=0.3),
        l1jax.SparseGroupL1(groups=[3, 3, 1, 1, 2, 2], l1_ratio=0.4),
        l1jax.L1Ball(),
        l1jax.SLOPE(0.1, [2.0, 1.0]),
        l1jax.TrendFilter(0.1, order=2),
        l1jax.OverlappingGroupL1(0.1, [[0, 1], [1, 2]]),
        l1jax.L1InfBall(1.0, [0, 1]),
        l1jax.Box(0.0, 1.0),
    ],
)
def test_what_it_was_fitted_with_comes_back(path, pen):
    options = dataclasses.replace(path.fits.options, pen=pen, sample_weight=np.ones(N))
    assert_same(options, there_and_back(path_with(path, options)).fits.options)


def test_a_penalty_of_ones_own_is_not_kept(path):
    class Own(l1jax.L1):
        pass

    again = there_and_back(path_with(path, dataclasses.replace(path.fits.options, pen=Own())))
    assert again.fits.options.pen is None
    np.testing.assert_array_equal(again.coefs, path.coefs)


def path_with(path, options):
    return l1jax.Path(dataclasses.replace(path.fits, options=options))


@pytest.mark.fast
def test_names_and_files_by_name(tmp_path):
    file = tmp_path / "fit of today.npz"
    fit = l1jax.fit(FRAME, Y, l1jax.L1(0.1))
    fit.save(file)
    again = l1jax.load(str(file))
    assert again.feature_names == tuple(FRAME.columns)
    with pytest.raises(ValueError, match="columns of the fit in their order"):
        again.predict(FRAME[["b", "a", "<c>", "d", "é", "f"]])


def test_a_cross_validation_comes_back_with_all_its_shares():
    cv = l1jax.cross_validate(FRAME, Y, l1jax.L1(), n_folds=3, n_lams=L, gammas=(0, 0.5, 1))
    again = there_and_back(cv)
    assert_same(cv, again)
    assert str(again) == str(cv) and again.score == "deviance"
    assert [one.gamma for one in again.by_gamma] == [0, 0.5, 1]
    assert (again.gamma, again.lam_1se) == (cv.gamma, cv.lam_1se)
    np.testing.assert_array_equal(again.fit_min.predict(FRAME), cv.fit_min.predict(FRAME))


def test_the_file_is_plain_arrays(tmp_path):
    fit = l1jax.fit(X, Y, l1jax.L1(0.1))
    fit.save(tmp_path / "fit.npz")
    with np.load(tmp_path / "fit.npz", allow_pickle=False) as contents:
        np.testing.assert_array_equal(contents["stored_coef"], fit.coef)
        assert all(contents[key].dtype.kind in "fiubU" for key in contents.files)
        assert json.loads(str(contents["about"]))["result"]["parts"]["loss"] == {
            "kind": "SquaredError",
            "parts": {},
            "settings": {},
        }


def test_a_loss_of_ones_own_is_asked_for():
    fit = l1jax.fit(X, Y, l1jax.L1(0.1), loss=Steep())
    with pytest.raises(ValueError, match=r"Steep.*loss=Steep\("):
        there_and_back(fit)
    np.testing.assert_array_equal(there_and_back(fit, loss=Steep()).predict(X), fit.predict(X))


@pytest.mark.parametrize("kind", ["text", "empty", "other arrays", "pickle", "newer"])
def test_other_files_are_refused(tmp_path, kind):
    file = tmp_path / "file.npz"
    if kind in ("text", "empty"):
        file.write_text("age,bmi\n" * (kind == "text"))
    elif kind == "newer":
        np.savez(file, about=np.asarray(json.dumps({"format": 99})))
    else:
        about = "not json" if kind == "other arrays" else np.array([{"format": 1}], object)
        np.savez(file, about=about, allow_pickle=True)
    with pytest.raises(ValueError, match=r"file\.npz (holds no result|has format 99)"):
        l1jax.load(file)


def test_traced_results_are_not_saved():
    with pytest.raises(ValueError, match="save needs concrete values"):
        jax.jit(lambda y: l1jax.fit(X, y, l1jax.L1(0.1)).save("never.npz"))(Y)


def test_tables_in_text_and_html(path):
    fit = l1jax.fit(FRAME, Y, l1jax.L1(0.01))
    inside = [name for name, is_in in zip(FRAME.columns, fit.support, strict=True) if is_in]
    lines = str(fit).splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["(intercept)", *inside]
    assert float(lines[3].split()[1]) == pytest.approx(float(fit.coef[0]), rel=1e-4)
    assert "&lt;c&gt;" in fit._repr_html_() and "<c>" not in fit._repr_html_()
    for result in (fit, path):
        table = xml.etree.ElementTree.fromstring(result._repr_html_())
        assert len(list(table.iter("tr"))) == len(str(result).splitlines()) - 1


def test_a_loss_of_ones_own_is_not_taken_for_one_of_the_same_name():
    class Logistic(l1jax.SquaredError):
        pass

    fit = l1jax.fit(X, Y, l1jax.L1(0.1), loss=Logistic())
    with pytest.raises(ValueError, match=r"loss=Logistic\("):
        there_and_back(fit)
    np.testing.assert_array_equal(there_and_back(fit, loss=Logistic()).predict(X), fit.predict(X))


def test_files_that_are_damaged_or_of_something_else_are_refused(tmp_path):
    fit = l1jax.fit(X, Y, l1jax.L1(0.1))
    fit.save(tmp_path / "whole.npz")
    whole = (tmp_path / "whole.npz").read_bytes()
    with np.load(tmp_path / "whole.npz") as contents:
        arrays = dict(contents)
    about = json.loads(str(arrays.pop("about")))

    def refused(content, message="holds no result"):
        (tmp_path / "bad.npz").write_bytes(content)
        with pytest.raises(ValueError, match=rf"bad\.npz {message}"):
            l1jax.load(tmp_path / "bad.npz")

    def archive(about, **arrays):
        file = io.BytesIO()
        np.savez(file, about=np.asarray(json.dumps(about)), **arrays)
        return file.getvalue()

    refused(whole[: len(whole) // 2])
    with zipfile.ZipFile(tmp_path / "whole.npz") as members:
        largest = max(members.infolist(), key=lambda member: member.compress_size)
    middle = largest.header_offset + 60 + largest.compress_size // 2  # after a header of 59 bytes
    refused(whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :])
    file = io.BytesIO()
    np.save(file, X)
    refused(file.getvalue())
    for other in (
        [1, 2],
        None,
        3,
        {},
        {"format": 4},
        about | {"result": None},
        about | {"result": []},
    ):
        refused(archive(other, **arrays))
    refused(archive(about | {"result": about["result"]["parts"]["loss"]}, **arrays))
    refused(archive(about))
    refused(archive(about | {"format": 1}, **arrays), "has format 1, this version of l1jax reads 4")
    (tmp_path / "bad.npz").write_bytes(archive(about, **arrays))
    assert_same(fit, l1jax.load(tmp_path / "bad.npz"))
    with pytest.raises(FileNotFoundError):
        l1jax.load(tmp_path / "none.npz")


def test_a_file_of_before_there_were_thresholds_is_read(tmp_path):
    fit = l1jax.fit(X, Y, l1jax.L1(0.1))
    fit.save(tmp_path / "fit.npz")
    with np.load(tmp_path / "fit.npz") as contents:
        arrays = dict(contents)
    about = json.loads(str(arrays.pop("about")))
    assert about["result"]["parts"].pop("thresholds") is None
    np.savez(tmp_path / "older.npz", about=np.asarray(json.dumps(about)), **arrays)
    assert_same(fit, l1jax.load(tmp_path / "older.npz"))
