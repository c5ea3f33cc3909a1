"""The optimality conditions, as a picture."""

from __future__ import annotations

from typing import Any, no_type_check

import jax.numpy as jnp
import numpy as np

from ..linear import Path
from ..linear.data._inputs import read
from ..linear.data._precision import precision
from ..linear.model._prepare import prepare_inputs
from ..linear.results._records import check_of_these_data
from ..penalties import L1, Penalty
from ._style import (
    BLACK,
    FALLING,
    Axes,
    axes_or_new,
    falling,
    line_style,
    name_tops,
    names_of,
    reached,
)

_L1: Any = L1
_OFF = 0.1  # of λ, by which features that are in may be off the boundary


@no_type_check  # checks its arguments itself, in sentences
def kkt(
    path: Path,
    X: Any,
    y: Any,
    pen: Penalty | None = None,
    *,
    fit_intercept: bool = True,
    standardize: bool = False,
    sample_weight: Any = None,
    offset: Any = None,
    top: int = 8,
    ax: Axes | None = None,
) -> Axes:
    """|xⱼᵀr|/n of every feature against λ: what is in the model sits on the boundary, the rest below.

    All arguments as they were for `l1jax.path`; `pen` is `L1()` unless given, and has a weight per
    coordinate: what is drawn is the gradient divided by that. (r: the residuals, or the slope of
    another loss.) The first `top` features to enter are coloured and named.
    """
    path = reached(path, positive=True)
    lams, inside = np.asarray(path.lams), np.asarray(path.fits.support)
    given = _L1() if pen is None else pen
    pulls = _pulls(path, X, y, given, fit_intercept, standardize, sample_weight, offset)
    off = np.abs(pulls / lams[:, None] - 1)[inside & (pulls > 0)]
    if off.size and np.median(off) > _OFF:
        raise ValueError(
            "the features of this path are not at their boundary on these data: pass X, y, pen, "
            "fit_intercept, standardize, sample_weight and offset as they were for l1jax.path."
        )
    ax, names = axes_or_new(ax), names_of(path)
    order = [j for _, j in path.entries()]
    floor = lams.min() / 5
    pulls = np.maximum(pulls, floor)
    others = [j for j in range(pulls.shape[1]) if j not in order[:top]]
    if others:
        ax.plot(lams, pulls[:, others], color="0.8", linewidth=0.8, zorder=1)
    ends = []
    for k, j in enumerate(order[:top]):
        style = line_style(k)
        ax.plot(lams, pulls[:, j], linewidth=1.2, zorder=3, **style)
        enters = int(np.argmax(inside[:, j]))
        ax.plot(lams[enters], lams[enters], "o", color=style["color"], markersize=5, zorder=4)
        ends.append((float(lams[enters]), names[j], style["color"]))
    ax.plot(lams, lams, color=BLACK, linewidth=3, alpha=0.35, zorder=2, solid_capstyle="butt")
    ax.fill_between(lams, lams, 3 * lams.max(), color="0.94", zorder=0, linewidth=0)
    falling(ax, lams)
    ax.set(yscale="log", ylim=(floor, 1.6 * lams.max()), xlabel=FALLING)
    ax.set_ylabel("|xⱼᵀr| / n: how hard a feature pulls")
    note = {"facecolor": "0.94", "edgecolor": "none", "pad": 2}
    ax.text(0.97, 0.93, "no feature may be here", transform=ax.transAxes, ha="right", va="top",
            color="0.35", bbox=note)  # fmt: skip
    name_tops(ax, ends)
    return ax


def _pulls(path: Path, X: Any, y: Any, pen: Penalty, intercept, standardize, weight, offset):
    """The gradient of every coordinate at every fit, in units of the coordinate's weight: (L, p)."""
    inputs = read(X, y, pen, path.fits.loss, weight, offset, has_strength=False)
    with precision(inputs.wants_x64):
        problem = prepare_inputs(inputs, inputs.pen, inputs.loss, intercept, standardize)
        shape = problem.coef_shape
        check_of_these_data(path, shape)
        rows = []
        for fit in (path[i] for i in range(len(path))):
            here = inputs.pen.with_strength(float(fit.lam))
            form = here.linear_form(shape)
            if form is None or len(shape) != 1:
                raise ValueError(
                    "plot.kkt needs a weight per coordinate, such as L1, and one response."
                )
            dtype = problem.y.dtype
            point = problem.from_user(
                jnp.asarray(fit.coef, dtype), jnp.asarray(fit.intercept, dtype)
            )
            slope = problem.loss.gradient(problem.y, problem.eta(point), problem.s)
            pull = -problem.x.rdot(slope) - form.quad * point.beta
            relative = jnp.maximum(_in_units(pull, form.up), _in_units(-pull, form.down))
            rows.append(np.asarray(relative * float(fit.lam)))
    return np.stack(rows)


def _in_units(pull: Any, weight: Any) -> Any:
    is_penalised = (weight > 0) & jnp.isfinite(weight)
    return jnp.where(is_penalised, pull / jnp.where(is_penalised, weight, 1), 0)
