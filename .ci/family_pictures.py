"""Pictures of penalties and of losses, drawn from the objects: two panels, as SVG."""

import io
from contextlib import contextmanager

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from l1jax._arrays import is_in_numpy

BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#8a8a8a"
STYLES = [(BLUE, "-"), (ORANGE, "--"), (GREEN, "-.")]
SHADES = ["#9ecae1", "#c6dbef", "#deebf7"]
_AXIS = np.linspace(-2, 2, 101)  # of x₁ and of x₂; zero is one of them
_LEVELS = (0.5, 1.0, 1.5)  # the contours are those through these points of the first axis
_Z = np.linspace(-3, 3, 601)
_OTHERS = (0.0, 1.5)  # of z₂
_STEP = 1.0
_IN_SET = 0.02  # distance from a set up to which a point is drawn as one of it
_ETA = np.linspace(-3, 3, 241)
_HIGHEST = 5.0  # of a loss above its least, and of a slope
_JUMP = 0.1  # between neighbours of a line, from which on it is drawn with a gap


def penalty_picture(pen, place, has_prox=True):
    """The level sets of R, or the set and the distance from it; and the prox, if any, by z₁ at two z₂.

    `place` puts two numbers where they stand among the coefficients.
    """
    step = min(_STEP, 0.5 * float(pen.max_step))
    grid = np.stack(np.meshgrid(_AXIS, _AXIS), axis=-1).reshape(-1, 2)
    on_axis = np.array([[t, 0.0] for t in _LEVELS])
    lines = [np.stack([_Z, np.full_like(_Z, other)], axis=1) for other in _OTHERS]

    @jax.jit
    @jax.vmap
    def asked(point):
        z = place(point)
        x = pen.prox(z, step) if has_prox else z
        first = jnp.sum(jnp.where(place(jnp.array([1.0, 0.0])) == 1, x, 0))
        return pen.value(z), pen.violation(z), jnp.linalg.norm(x - z), first

    found = asked(np.concatenate([grid, on_axis, *lines]))  # as one program
    value, outside, away, first = map(np.asarray, found)
    n, square = len(grid), (len(_AXIS), len(_AXIS))
    value, levels = value[:n].reshape(square), np.unique(value[n : n + len(_LEVELS)].round(9))
    is_inside = outside[:n].reshape(square) <= 1e-9
    with two_panels() as (left, right, figure):
        if value[is_inside].any():
            draw_levels(left, np.where(is_inside, value, np.nan), levels)
        else:
            draw_set(left, away[:n].reshape(square))
        if has_prox:
            draw_prox(right, first[-2 * len(_Z) :].reshape(2, -1), step)
        else:
            right.set_axis_off()
        return as_svg(figure)


def draw_levels(ax, value, levels):
    """Contours of R of two coefficients; blank where it is not defined."""
    ax.contourf(_AXIS, _AXIS, value, [-1, *levels], colors=SHADES)
    ax.contour(_AXIS, _AXIS, value, levels, colors=BLUE, linewidths=1.2)
    as_square(ax, 2, title="level sets of R", xlabel="x₁", ylabel="x₂")


def draw_set(ax, distance):
    """A set of two coefficients, and contours of the distance from it."""
    ax.contour(_AXIS, _AXIS, distance, _LEVELS, colors=GREY, linewidths=0.8)
    ax.contourf(_AXIS, _AXIS, distance, [-1, _IN_SET], colors=[BLUE])
    as_square(ax, 2, title="the set, and distances from it", xlabel="x₁", ylabel="x₂")


def draw_prox(ax, lines, step):
    """The first coefficient of the prox by z₁; one line where z₂ does not matter."""
    ax.plot(_Z, _Z, color=GREY, linewidth=0.8, linestyle=":")
    if np.allclose(*lines, atol=1e-6):
        ax.plot(_Z, broken(lines[0]), color=BLUE, label="any z₂")
    else:
        for other, line, (colour, dashes) in zip(_OTHERS, lines, STYLES, strict=False):
            ax.plot(_Z, broken(line), color=colour, linestyle=dashes, label=f"z₂ = {other:g}")
    title = "prox: x₁" + ("" if step == _STEP else f", at step {step:g}")
    as_square(ax, 3, title=title, xlabel="z₁", ylabel="")
    ax.legend(loc="upper left")


def loss_picture(loss, targets):
    """The loss by the linear predictor of one row, for some targets of it, and its slope.

    Where rows interact it is the loss of all targets together. The η of other rows, and of other classes,
    are 0.
    """
    y = np.asarray(loss.encode(targets), float)
    with two_panels(right=0.78) as (left, right, figure):
        lines = []
        for row, (colour, dashes) in zip(range(len(y)), STYLES, strict=False):
            value, slope = along(loss, y, row)
            style = {"color": colour, "linestyle": dashes, "label": f"y = {shown(targets[row])}"}
            left.plot(_ETA, value, **style)
            right.plot(_ETA, broken(slope), **style)
            lines.append(value)
        through_zero(left, right)
        low, last = np.min(lines), np.min(lines, axis=1).max()  # the least of the highest curve
        high = min(np.max(lines), max(low + _HIGHEST, last + _HIGHEST / 3))
        left.set(ylim=(low - 0.05 * (high - low), high), title="loss")
        low, high = right.get_ylim()
        right.set(ylim=(max(low, -_HIGHEST), min(high, _HIGHEST)), title="its slope by η")
        for ax in (left, right):
            ax.set(xlabel="η", xlim=(-3, 3), xticks=[-3, 0, 3])
        figure.legend(*left.get_legend_handles_labels(), loc="center right")
        return as_svg(figure)


def along(loss, y, row):
    """The loss, and its derivative, along the η of one row, by itself unless rows interact."""
    shape = loss.predictor_shape(y.shape)
    if stands_alone(loss, shape):
        y, shape, row = y[row : row + 1], (1, *shape[1:]), 0
    at = (slice(None), row, *(0 for _ in shape[1:]))  # the first class, where there are several
    eta, s = np.zeros((len(_ETA), *shape)), np.full(shape[0], 1 / shape[0])
    eta[at] = _ETA
    value, gradient = loss.value, loss.gradient
    if not is_in_numpy(loss):
        value, gradient = (jax.vmap(f, (None, 0, None)) for f in (value, gradient))
    return np.asarray(value(y, eta, s)), np.asarray(gradient(y, eta, s))[at]


def stands_alone(loss, shape):
    """Whether the loss of a row depends on its own η (of this shape for all rows) only."""
    return loss.is_separable or len(shape) > 1


def shown(target):
    """A target as a legend has it."""
    if np.ndim(target):
        return f"({', '.join(map(shown, target))})"
    return f"{target:g}".replace("-", "−")


def broken(line):
    """A line with gaps where it jumps: where a step is large, and not one of several."""
    steps = np.abs(np.diff(line, append=line[-1]))
    around = np.maximum(np.roll(steps, 1), np.roll(steps, -1))
    return np.where((steps > _JUMP) & (steps > 4 * around), np.nan, line)


def as_square(ax, reach, **words):
    """Equal axes from −reach to reach, with their names."""
    ends = {"xlim": (-reach, reach), "ylim": (-reach, reach)}
    ticks = {"xticks": [-reach, 0, reach], "yticks": [-reach, 0, reach]}
    ax.set(aspect="equal", **ends, **ticks, **words)
    through_zero(ax)


def through_zero(*axes):
    """Lines through zero, behind all else."""
    for ax in axes:
        ax.axhline(0, color="0.85", linewidth=0.8, zorder=0)
        ax.axvline(0, color="0.85", linewidth=0.8, zorder=0)


@contextmanager
def two_panels(right=0.97):
    """A figure with two axes side by side, in the style of all of them."""
    style = {"font.size": 9, "axes.titlesize": 9, "svg.hashsalt": "l1jax", "legend.frameon": False}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(6.4, 2.8))
        room = {"left": 0.07, "right": right, "bottom": 0.16, "top": 0.91, "wspace": 0.2}
        left, right = figure.subplots(1, 2, gridspec_kw=room)
        for ax in (left, right):
            for side in ("top", "right"):
                ax.spines[side].set_visible(False)
        yield left, right, figure


def as_svg(figure):
    """The figure as bytes, the same each time."""
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()
