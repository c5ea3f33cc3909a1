"""The solvers that `minimize` may be told to take."""

from __future__ import annotations

from typing import Any

import equinox as eqx
from jaxtyping import PyTree

from .._checks import numbers_as_leaves
from ..penalties._base import Penalty
from ._checks import check_step, positive_leaf, step_leaf


class ISTA(eqx.Module):
    """Proximal gradient descent: x⁺ = prox_{sR}(x − s∇f(x)), whose objective never goes up.

    **Arguments:**

    - `step`: the first (or only) s > 0; None: estimated from the curvature at the start. It is a leaf: another
      number is no recompilation.
    - `backtracking`: False never changes the given step, which must be at most 1/L for gradients with
      Lipschitz constant L, and below the `max_step` of the penalty.

    **Raises:** ValueError for a step that is not positive, or for `backtracking=False` without one.
    Source: Beck and Teboulle (2009), with a step that may also grow.

    **Example:**

    ```python
    >>> import l1jax
    >>> l1jax.ISTA(step=0.5, backtracking=False).backtracking
    False

    ```
    """

    step: Any
    backtracking: bool = eqx.field(static=True)

    def __init__(self, step: Any = None, *, backtracking: bool = True):
        self.step = step_leaf(step, backtracking)
        self.backtracking = backtracking


class FISTA(eqx.Module):
    """Accelerated proximal gradient descent: ISTA from a point extrapolated along the last move.

    **Arguments and errors:** as in `ISTA`, and

    - `restart`: drops the momentum whenever it points uphill, which makes the convergence linear without
      knowing the strong convexity of the objective. Without it steps only shrink, as in the original.

    Source: Beck and Teboulle (2009); restart by the gradient: O'Donoghue and Candès (2015).

    **Example:**

    ```python
    >>> import l1jax
    >>> l1jax.FISTA(restart=False).restart
    False

    ```
    """

    step: Any
    restart: bool = eqx.field(static=True)
    backtracking: bool = eqx.field(static=True)

    def __init__(self, step: Any = None, *, restart: bool = True, backtracking: bool = True):
        self.step = step_leaf(step, backtracking)
        self.restart = restart
        self.backtracking = backtracking


class AugmentedLagrangian(eqx.Module):
    """The method of multipliers for R(A x), with semismooth Newton steps: for `l1jax.Composed` penalties.

    It splits z = A x and takes the prox of R alone. A step solves with the Hessian of fun plus ρAᵀ(I − J)A, J
    the Jacobian of the prox: by Cholesky for up to 512 unknowns, above by conjugate gradients. So fun needs two
    derivatives, and badly scaled problems are solved too.

    **Arguments:**

    - `rho`: the first ρ > 0; None: the curvature of fun at the start over ‖A‖². It grows as needed.
    - `dual`: the multiplier to start from, like A x: `solution.dual` of a problem nearby, with its `params` as
      init.

    **Raises:** ValueError for a rho that is not positive.
    Source: Rockafellar (1976); Li, Sun and Toh (2018).

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> y, D = jnp.array([0.0, 1.0, 5.0]), jnp.array([[-1.0, 1.0, 0.0], [0.0, -1.0, 1.0]])
    >>> def loss(x):
    ...     return 0.5 * jnp.sum((x - y) ** 2)
    >>> first = l1jax.minimize(loss, y, l1jax.Composed(l1jax.L1(0.5), D))
    >>> warm = l1jax.AugmentedLagrangian(dual=first.dual)
    >>> near = l1jax.minimize(loss, first.params, l1jax.Composed(l1jax.L1(0.6), D), solver=warm)
    >>> print(near.params.round(4))
    [0.6 1.  4.4]

    ```
    """

    rho: Any
    dual: PyTree

    def __init__(self, rho: Any = None, *, dual: PyTree = None):
        self.rho = positive_leaf(rho, "rho")
        self.dual = numbers_as_leaves(dual)


_FISTA, _AUGMENTED = FISTA(), AugmentedLagrangian()


def solver_for(solver: Any, pen: Penalty) -> Any:
    """Returns the solver, by default that of the penalty; raises where the one does not serve the other."""
    is_composed = pen.composition() is not None
    if solver is None:
        return _AUGMENTED if is_composed else _FISTA
    if not isinstance(solver, ISTA | FISTA | AugmentedLagrangian):
        raise TypeError(
            "solver must be l1jax.FISTA(), l1jax.ISTA() or l1jax.AugmentedLagrangian(), got "
            f"{solver!r}."
        )
    if is_composed != isinstance(solver, AugmentedLagrangian):
        name, other = type(pen).__name__, "AugmentedLagrangian" if is_composed else "FISTA or ISTA"
        raise TypeError(
            f"{type(solver).__name__} does not serve {name}: leave solver out, or pass l1jax.{other}."
        )
    if not is_composed:
        check_step(solver, pen)
    return solver
