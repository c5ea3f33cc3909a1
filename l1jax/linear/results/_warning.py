"""The warning of a fit that ended short of its tolerance, and what to do about it."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from ..._status import Status, convergence_warning
from ..._tracing import is_traced

_ADVICE = {
    Status.MAX_STEPS: "Raise max_steps (max_iter of an estimator), standardise the columns, or accept "
    "a larger tol.",
    Status.PRECISION_LIMIT: "Rounding allows no more: standardise the columns or accept a larger tol.",
    Status.NOT_FINITE: "Objective and gradient overflow: bring the columns to smaller scales.",
    Status.INVALID_INPUT: "Some argument holds a value that fit refuses, such as a NaN in X or y, or a "
    "negative or NaN strength, weight or tol.",
    Status.INTERRUPTED: "To go on where it was stopped: l1jax.path(X, y, pen, resume=path), "
    "with the options that it was fitted with.",
}


def warn_if_short(status: Any, result: Any, tol: Any, if_interrupted: str = "") -> None:
    """Warns once that some solve of an eager call ended short of its tolerance."""
    if is_traced(status):
        return
    statuses = np.atleast_1d(np.asarray(status))
    short = np.flatnonzero(statuses != Status.CONVERGED)
    if not len(short):
        return
    first = int(short[0])
    status = Status(int(statuses[first]))
    objective = np.atleast_1d(np.asarray(getattr(result, "objective", 0.0)))
    what = f"{len(short)} of {len(statuses)} fits" if len(statuses) > 1 else "The fit"
    measures = {"relative gap": result.relative_gap, "relative kkt": result.relative_kkt}
    where, advice = "", _ADVICE[status]
    if status == Status.PRECISION_LIMIT and np.asarray(result.relative_gap).dtype != np.float64:
        advice += " float64 has more digits."
    if status == Status.PRECISION_LIMIT and np.isposinf(objective[min(first, objective.size - 1)]):
        advice = (
            "The penalty is infinite at what its prox returns: let the value of a constraint be 0, and "
            "its `violation` say how far a point is outside."
        )
    if status == Status.INTERRUPTED:
        measures, advice = {}, if_interrupted or advice
    for name, values in measures.items():
        value = np.atleast_1d(np.asarray(values))[first]
        if value > tol and np.isfinite(value):
            where = f" at a {name} of {value:.1e}, above tol={float(tol):.1e}"
            break
    warnings.warn(
        f"{what} ended with {status.name}{where}. {advice}",
        convergence_warning(),
        stacklevel=5,  # two frames of `entry_point` are between this call and the user's
    )
