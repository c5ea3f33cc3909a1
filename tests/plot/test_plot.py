"""Pictures show the numbers that they are given, and no name lies on another."""

import dataclasses
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import l1jax
from l1jax import plot
from l1jax.linear.results._resume import unreached
from l1jax.plot._certificate import _pulls
from l1jax.plot._style import apart
from l1jax.tuning._tune import Trial

N, P, L = 30, 6, 17
RNG = np.random.default_rng(5)
X = RNG.standard_normal((N, P))
Y = X @ np.array([2.0, -1.0, 0.5, 0.0, 0.0, 0.0]) + RNG.standard_normal(N)
NAMES = ["age", "body mass index", "c", "d", "é", "f"]
FRAME = pd.DataFrame(X, columns=NAMES)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def path():
    return l1jax.path(FRAME, Y, l1jax.L1(), n_lams=L, engine="homotopy")


@pytest.fixture(scope="module")
def wide(path):
    """A path of many features whose coefficients end close to each other; nothing has to be solved."""
    rises = np.clip(np.linspace(0, 2, L)[:, None] - np.linspace(0, 1, 40), 0, None)
    fits = dataclasses.replace(
        path.fits, stored_coef=rises * np.linspace(1, 1.02, 40), feature_names=None
    )
    return l1jax.Path(fits)


def drawn(ax):
    """Lines by colour-independent content: {(x, y)} of every line with data."""
    return [np.asarray(line.get_data(), float) for line in ax.lines]


def boxes(ax):
    """The rectangles of all texts that are drawn, in pixels."""
    ax.figure.canvas.draw()
    texts = [text for text in ax.figure.findobj(plt.Text) if text.get_text() and text.get_visible()]
    return {text.get_text(): plt.Text.get_window_extent(text) for text in texts}


def overlapping(names, ax):
    found = boxes(ax)
    names = [name for name in names if name in found]
    return [(a, b) for i, a in enumerate(names) for b in names[:i] if found[a].overlaps(found[b])]


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        ("lambda", lambda path: path.lams),
        ("norm", lambda path: np.abs(path.coefs).sum(axis=1)),
        ("deviance", lambda path: path.deviance_explained),
    ],
)
def test_a_path_is_drawn_where_its_features_are_in(path, x, expected):
    ax = plot.path(path, x=x, chosen={"best": float(path.lams[9])})
    xs, lines = np.asarray(expected(path)), drawn(ax)
    for j in range(P):
        (line,) = [v for v in lines if len(v[0]) == L and v[1][-1] == path.coefs[-1, j]]
        np.testing.assert_array_equal(line[0], xs)
        shown = np.isfinite(line[1])
        np.testing.assert_array_equal(line[1][shown], np.asarray(path.coefs)[shown, j])
        assert shown[np.asarray(path.coefs)[:, j] != 0].all()
    assert any(len(v[0]) == 2 and np.allclose(v[0], xs[9]) for v in lines)  # the mark
    assert set(NAMES) <= set(boxes(ax)) and not overlapping(NAMES, ax)


def test_many_names_do_not_overlap(wide):
    ax = plot.path(wide, top=14)
    named = [name for name in boxes(ax) if name.startswith("x")]
    assert len(named) == 14 and not overlapping(named, ax)
    frame, found = ax.figure.bbox, boxes(ax)
    assert all(frame.contains(*corner) for name in named for corner in found[name].get_points())
    left = min(found[name].x0 for name in named)
    lines = [text.arrow_patch for text in ax.texts if text.get_text() in named]
    assert len(lines) == 14 and all(line.get_window_extent().x1 <= left + 1 for line in lines)


def test_names_are_as_near_to_their_lines_as_room_allows():
    heights = np.array([0.5, 0.1, 0.52, 0.9, 0.51])
    spots = apart(heights, 0.1)
    np.testing.assert_allclose(spots, [0.41, 0.1, 0.61, 0.9, 0.51])  # three share their mean, .51
    crowded = np.sort(apart(np.full(30, 0.99), 0.1))
    assert crowded[0] >= 0 and crowded[-1] <= 1 + 1e-12
    np.testing.assert_allclose(np.diff(crowded), np.diff(crowded)[0])
    assert len(apart(np.zeros(0), 0.1)) == 0


def test_the_pulls_of_the_kkt_picture_are_those_of_the_residuals(path):
    ax = plot.kkt(path, FRAME, Y)
    residuals = Y - np.asarray(path.predict(FRAME))
    pulls = np.abs(residuals @ (X - X.mean(axis=0))) / N
    inside, lams = np.asarray(path.fits.support), np.asarray(path.lams)
    floor = lams.min() / 5
    lines = [v[1] for v in drawn(ax) if len(v[0]) == L]
    for j in range(P):
        # Of sums of 30 products of size one.
        assert any(np.allclose(line, np.maximum(pulls[:, j], floor), atol=1e-13) for line in lines)
        np.testing.assert_allclose(pulls[inside[:, j], j], lams[inside[:, j]], rtol=1e-10)
    assert not overlapping(NAMES, ax)


def test_the_pulls_are_in_units_of_the_price():
    weights, scale = np.array([1.0, 3.0, 0.5, 1.0, np.inf, 0.0]), X.std(axis=0)
    pen, options = l1jax.ElasticNet(l1_ratio=0.5, weights=weights), {"standardize": True}
    weighted = l1jax.path(X, Y, pen, n_lams=L, **options)
    pulls = _pulls(weighted, X, Y, pen, True, True, None, None)
    inside, coefs = np.asarray(weighted.fits.support), np.asarray(weighted.coefs)
    residuals = Y - np.asarray(weighted.predict(X))
    gradient = residuals @ (X - X.mean(axis=0)) / scale / N
    lams = np.asarray(weighted.lams)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        by_hand = np.abs(gradient - 0.5 * lams * weights * scale * coefs) / (0.5 * weights)
    np.testing.assert_allclose(pulls[:, :4], by_hand[:, :4], atol=1e-12)
    assert not pulls[:, 4:].any()  # excluded, and free
    np.testing.assert_allclose((pulls / lams)[:, :4][inside[:, :4]], 1, atol=1e-9)


def test_stability_shows_frequencies_and_names_what_is_selected():
    stable = l1jax.stability(FRAME, Y, l1jax.L1(), q=3, n_pairs=4, n_lams=L)
    ax = plot.stability(stable)
    chosen, lines = np.flatnonzero(stable.selected), drawn(ax)
    assert 0 < len(chosen) < P
    for j in range(P):
        # What changes no more is left out: as many strengths as the other lines have.
        length = len(lines[0][0])
        end = stable.probabilities[length - 1 :, j]
        assert (end == end[0]).all()
        same = [v for v in lines if np.array_equal(v[1], stable.probabilities[:length, j])]
        assert same or not stable.probabilities[:, j].any()
        assert all(np.array_equal(v[0], stable.lams[:length]) for v in same)
    level = [v for v in lines if len(v[0]) == 2 and (v[1] == stable.threshold).all()]
    assert len(level) == 1
    named = {stable.names[j] for j in chosen}
    assert set(NAMES) & set(boxes(ax)) == named and not overlapping(NAMES, ax)
    colours = {line.get_color() for line in ax.lines}
    assert "0.8" in colours and len(colours) == len(chosen) + 2  # grey, and the threshold's
    for other in (l1jax.path(X, Y, l1jax.L1(), n_lams=2), 3):
        with pytest.raises(TypeError, match="stable must be a StabilitySelection, got"):
            plot.stability(other)


def test_cross_validation_shows_scores_errors_counts_and_choices(path):
    lams, mean = np.asarray(path.lams), np.linspace(2, 1, L) ** 2
    cv = SimpleNamespace(
        lams=lams, mean_score=mean, se_score=np.full(L, 0.1), higher_is_better=False, path=path,
        lam_min=lams[12], lam_1se=lams[8], score="squared_error",
    )  # fmt: skip
    ax = plot.cross_validation(cv)
    points, _, (bars,) = ax.containers[0]
    np.testing.assert_array_equal(points.get_data(), [lams, mean])
    ends = np.asarray([segment[:, 1] for segment in bars.get_segments()])
    np.testing.assert_allclose(ends, np.stack([mean - 0.1, mean + 0.1], axis=1))
    marks = {float(v[0][0]) for v in drawn(ax) if len(v[0]) == 2 and v[0][0] == v[0][1]}
    assert marks == {float(lams[12]), float(lams[8])}
    (above,) = ax.child_axes
    counts = dict(zip(lams, np.asarray(path.n_nonzero), strict=True))
    shown = zip(above.get_xticks(), above.get_xticklabels(), strict=True)
    assert all(counts[x] == int(label.get_text()) for x, label in shown)
    assert not overlapping(["best", "1 SE", "features in"], ax)


@pytest.mark.fast
def test_sparsity_takes_tables_and_their_scalars():
    params = [{"a": np.arange(4.0) * (np.arange(4) > k), "b": np.zeros(2)} for k in range(4)]
    tables = [l1jax.sparsity(one) for one in params]
    for history in (tables, [table.scalars() for table in tables]):
        ax = plot.sparsity(history, steps=[0, 10, 20, 30])
        shown = {tuple(np.round(v[1])) for v in drawn(ax)}
        assert shown == {(25, 50, 75, 100), (100, 100, 100, 100), (50, 67, 83, 100)}
        assert not overlapping(["a", "b", "all"], ax)
    with pytest.raises(ValueError, match="steps must have one entry"):
        plot.sparsity(tables, steps=[1])
    with pytest.raises(ValueError, match="groups=True needs"):
        plot.sparsity(tables, groups=True)
    with pytest.raises(ValueError, match="history is empty"):
        plot.sparsity([])


def test_widths_before_and_after():
    ax = plot.widths({"conv": 32, "dense": 64}, {"conv": 9})
    assert [bar.get_width() for bar in ax.patches] == [32, 64, 9, 0]
    assert {"32 → 9", "64 → 0"} <= set(boxes(ax))
    with pytest.raises(ValueError, match="after has a layer 'head'"):
        plot.widths({"conv": 32}, {"head": 3})


@pytest.mark.parametrize("names", [("lam",), ("lam", "l1_ratio")])
def test_tuning_shows_every_trial_and_the_best(path, names):
    values = np.array([5.0, 3.0, 1.0, 2.0])
    lams = [1.0, 0.3, 0.1, 0.03]
    history = tuple(
        Trial(dict.fromkeys(names, np.asarray(lam)), value, np.array([0.1]))
        for lam, value in zip(lams, values, strict=True)
    )
    ax = plot.tuning(l1jax.Tuned(l1jax.L1(0.1), path[3], 1.0, np.zeros(1), history, num_fits=2))
    points = np.concatenate([v for v in drawn(ax) if len(v[0]) == 2 and v[0][1] != v[0][0]], axis=1)
    xs = lams if len(names) == 1 else range(4)
    assert set(zip(xs, values, strict=True)) <= set(map(tuple, points.T))
    assert any(v.shape == (2, 1) and v[1] == 1.0 for v in drawn(ax))


def test_the_axes_given_are_drawn_on(path):
    figure, axes = plt.subplots(1, 2, figsize=(12, 4))
    assert plot.path(path, ax=axes[0]) is axes[0]
    assert plot.widths({"a": 1}, {}, ax=axes[1]) is axes[1]
    assert len(plt.get_fignums()) == 1 and figure is axes[0].figure


def test_what_was_not_reached_is_left_out(path):
    gone = np.arange(L) >= 10
    ax = plot.path(l1jax.Path(unreached(path.fits, gone)))
    assert max(len(v[0]) for v in drawn(ax)) == 10
    with pytest.raises(ValueError, match="no fit to draw"):
        plot.path(l1jax.Path(unreached(path.fits, np.full(L, True))))


def test_what_cannot_be_drawn_is_an_error(path):
    with pytest.raises(ValueError, match='x must be "lambda"'):
        plot.path(path, x="time")
    with pytest.raises(ValueError, match="path must be a path of these data"):
        plot.kkt(path, X[:, :4], Y)
    with pytest.raises(ValueError, match="not at their boundary"):
        plot.kkt(path, X * np.arange(1, P + 1), Y)
    with pytest.raises(TypeError, match="of a Path, got a Fit"):
        plot.path(path[3])
    with pytest.raises(TypeError, match=r"pass its `\.path`"):
        plot.path(SimpleNamespace(path=path))
    with pytest.raises(ValueError, match="weight per coordinate"):
        plot.kkt(path, X, Y, l1jax.GroupL1(groups=[0, 0, 1, 1, 2, 2]))


def test_names_are_drawn_as_they_are_on_one_line_and_not_too_long():
    X = np.random.default_rng(0).normal(size=(20, 4))
    names = [
        "price_$_per_$",
        "$ in $US",
        "two\nlines",
        "a name that is much longer than pictures are",
    ]
    path = l1jax.path(pd.DataFrame(X, columns=names), X @ [4.0, 3, 2, 1], l1jax.L1(), n_lams=5)
    ax = plot.path(path)
    shown = [text.get_text() for text in ax.texts]
    ax.figure.canvas.draw()
    assert {r"price_\$_per_\$", r"\$ in \$US", "two lines"} <= set(shown)
    assert max(map(len, shown)) <= 28


def test_a_path_of_one_strength_is_seen_as_points(path):
    ax = plot.path(path[3:4])
    assert [line.get_marker() for line in ax.lines].count("o") == path[3].n_nonzero


def test_only_a_cross_validation_is_drawn_as_one(path):
    with pytest.raises(TypeError, match="got Path: pass what l1jax.cross_validate returns"):
        plot.cross_validation(path)
    with pytest.raises(TypeError, match=r"pass its `\.cv_`"):
        plot.cross_validation(SimpleNamespace(cv_=path))
