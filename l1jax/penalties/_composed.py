"""A penalty of a linear map of the coefficients: R(A x), the generalised lasso and its like."""

from __future__ import annotations

from typing import Any

from jaxtyping import Array, Bool, PyTree

from .._modules import with_fields
from .._operators import Operator, as_operator
from ._base import Penalty


class Composed(Penalty):
    """The analysis penalty R(A x) of a convex penalty R and a linear A; with `L1` the generalised lasso.

    Total variation on a graph is `Composed(L1(lam), graph_differences(edges))`, trend filtering of any order
    `Composed(L1(lam), lambda x: jnp.diff(x, n=order + 1))`, a sum of norms over groups that overlap `GroupL1`
    of a matrix that repeats the features. A constraint makes limits of A x: `Box(0, jnp.inf)` of differences is
    monotone. Its prox has no closed form, so that only `l1jax.minimize` takes it, by
    `l1jax.AugmentedLagrangian`.

    **Arguments:**

    - `penalty`: R, convex, of what A returns; its strength is that of the whole.
    - `operator`: A, a matrix (m, p), dense or of `scipy.sparse` or BCOO, for x (p,) or (p, k); or a linear
      function of x, which may take and return pytrees. Its transpose is found by `jax.linear_transpose`. A
      function is static: one written in the call is compiled again each time.

    **Raises:** TypeError for an R that is no penalty or is not convex, and for an operator that is none of
    these; ValueError for a matrix of other than two axes, or not finite.
    Source: Tibshirani and Taylor (2011); Elad, Milanfar and Rubinstein (2007).

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> tv = l1jax.Composed(l1jax.L1(0.5), l1jax.graph_differences([(0, 1), (1, 2), (0, 2)]))
    >>> print(float(tv.value(jnp.array([1.0, 1.0, 3.0]))))
    2.0
    >>> y = jnp.array([1.0, 2.0, 9.0])
    >>> print(l1jax.minimize(lambda x: jnp.sum((x - y) ** 2) / 2, y, tv).params.round(4))
    [2. 2. 8.]

    ```
    """

    penalty: Penalty
    operator: Operator

    def __init__(self, penalty: Any, operator: Any):
        if not isinstance(penalty, Penalty):
            raise TypeError(
                f"penalty must be a l1jax.Penalty, got {type(penalty).__name__}: the penalty comes first, the "
                "operator second."
            )
        if not penalty.convex:
            raise TypeError(
                f"penalty must be convex, got {type(penalty).__name__}: the solver of R(A x) is for convex R."
            )
        if penalty.composition() is not None:
            raise TypeError("penalty is a Composed already: multiply the operators.")
        self.penalty = penalty
        self.operator = as_operator(operator)

    @property
    def strength(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.penalty.strength

    @property
    def has_strength(self) -> bool:
        return self.penalty.has_strength

    @property
    def strength_value(self) -> Any:
        return self.penalty.strength_value

    def with_strength(self, lam: Any) -> Penalty:
        return with_fields(self, penalty=self.penalty.with_strength(lam))

    def is_valid(self) -> Bool[Array, ""]:
        return self.penalty.is_valid()

    def composition(self) -> tuple[Penalty, Operator]:
        return self.penalty, self.operator

    def value(self, x: PyTree) -> Array:
        return self.penalty.value(self.operator(x))

    def violation(self, x: PyTree) -> Array:
        return self.penalty.violation(self.operator(x))

    def prox(self, z: PyTree, step: Any = 1.0) -> PyTree:
        """Refuses: it has no closed form."""
        del z, step
        raise TypeError(
            f"Composed of {type(self.penalty).__name__} has no prox in closed form, which fit, path and "
            "training steps need: pass it to l1jax.minimize, which needs none."
        )
