"""What `minimize` returns, how it prints, and when it warns."""

from __future__ import annotations

import warnings
from typing import Any, no_type_check

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int, PyTree

from .._status import Status, convergence_warning
from .._tracing import is_traced


class Solution(eqx.Module):
    """What `minimize` found, and how good it is: every number is recomputed at `params`.

    `params`: as `init`. `objective`: fun + pen.value. `residual`: ‖x − prox_s(x − s∇f(x))‖/s with
    s = `step`, in units of a gradient; `relative_residual` is what `tol` bounds. `num_steps`
    taken; `status`, int32 values of `l1jax.Status`; `aux` of fun at `params` (else None);
    `history`, the objective after each of the first steps, NaN where there were fewer (None
    unless asked for). Under vmap each has leading lanes.

    For R(A x) also, else None: `gap`, in units of the objective: if fun is convex, no x′ with ‖x′ − x‖ ≤ 2‖x‖
    has an objective lower by more, and further away it grows in proportion. It is R(Ax) + R*(u) − ⟨Ax, u⟩, plus
    2‖x‖ times the gradient ‖∇f(x) + Aᵀu‖ that is left. `dual`: u, a subgradient of R. `image`: A x with its
    zeros exact.

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> solution = l1jax.minimize(lambda x: jnp.sum((x - 3.0) ** 2), jnp.zeros(2), l1jax.L1(2.0))
    >>> print(solution.params, l1jax.Status(int(solution.status)).name)
    [2. 2.] CONVERGED

    ```
    """

    params: PyTree
    objective: Float[Array, "*lanes"]
    residual: Float[Array, "*lanes"]
    relative_residual: Float[Array, "*lanes"]
    num_steps: Int[Array, "*lanes"]
    status: Int[Array, "*lanes"]
    step: Float[Array, "*lanes"]
    aux: Any
    history: Float[Array, "*lanes k"] | None
    gap: Float[Array, "*lanes"] | None = None
    dual: PyTree = None
    image: PyTree = None

    def __repr__(self) -> str:
        shown = (*_SHOWN, "gap") if self.gap is not None else _SHOWN
        rows = {name: _show(getattr(self, name)) for name in shown}
        rows["status"] = _show_status(self.status)
        rows["params"] = eqx.tree_pformat(self.params, width=70)
        return "Solution\n" + "\n".join(f"  {name:<18} {row}" for name, row in rows.items())


_SHOWN = ("status", "objective", "residual", "relative_residual", "num_steps", "step")


@no_type_check  # a wrapper would be one more frame between the warning and the user
def warn_if_short(solution: Solution, tol: Any) -> None:
    if is_traced(solution.status):
        return
    status = np.asarray(solution.status)
    if (status != Status.CONVERGED).any():
        worst = np.max(np.asarray(solution.relative_residual))
        warnings.warn(
            f"minimize ended short of tol={float(tol):.1e}: {_show_status(status)} after "
            f"{np.max(solution.num_steps)} steps, relative residual {worst:.1e}. {_advice(status)}",
            convergence_warning(),
            stacklevel=3,
        )


def _advice(status: np.ndarray) -> str:
    if status == Status.MAX_STEPS:
        return "Raise max_steps, or bring the parameters to similar scales."
    if status == Status.PRECISION_LIMIT:
        return "Rounding allows no more: raise tol, or use float64."
    return (
        "Check that fun is bounded below, that it and its gradient are finite at init, and that a "
        "given step is short."
    )


def _show_status(status: Any) -> str:
    if isinstance(status, Tracer) or not hasattr(status, "dtype"):
        return _show(status)
    values, counts = np.unique(np.asarray(status), return_counts=True)
    names = [Status(int(value)).name for value in values]
    if np.ndim(status) == 0:
        return names[0]
    return ", ".join(f"{count} {name}" for name, count in zip(names, counts, strict=True))


def _show(value: Any) -> str:
    if isinstance(value, Tracer) or not hasattr(value, "dtype") or value.ndim:
        return eqx.tree_pformat(value)
    return f"{value:.6g}" if jnp.issubdtype(value.dtype, jnp.floating) else str(value)
