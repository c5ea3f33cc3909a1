"""Separable penalties that are concave in |xⱼ|: they select as the lasso does, and shrink what is large less.

    R(x) = Σⱼ r(|xⱼ|; λ wⱼ),    r increasing and concave on t ≥ 0

What r, its slope and its curvature are is all that a class says of itself, and the least point of
½(x − z)²/s + r(x): the global one, for steps of any length. Solvers keep to steps below `max_step`, up to
which R + x²/(2 max_step) is convex and that point moves continuously.
"""

from __future__ import annotations

import abc
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .. import prox
from .._arrays import in_numpy, namespace
from .._types import Real
from ._base import number_above, total
from ._forms import LinearForm
from ._separable import _Separable


class ConcaveTerms(NamedTuple):
    """r, r′ and r″ at |xⱼ|, λ included: at 0 those of the right; r′ is infinite where nothing may leave 0."""

    value: Real
    slope: Real
    curvature: Real


class Concave(_Separable):
    """A penalty Σⱼ r(|xⱼ|; λ wⱼ), of a concave r that a subclass defines."""

    convex: ClassVar[bool] = False

    def __init__(self, lam: Any = None, weights: Any = None, lower: Any = None, upper: Any = None):
        super().__init__(lam, weights, lower, upper)

    @abc.abstractmethod
    def _value_at(self, t: Real, lam: Real) -> Real:
        """r(t; λ) for t ≥ 0."""

    @abc.abstractmethod
    def _slope_at(self, t: Real, lam: Real) -> Real:
        """r′(t; λ), at 0 from the right."""

    @abc.abstractmethod
    def _curvature_at(self, t: Real, lam: Real) -> Real:
        """r″(t; λ), at 0 from the right."""

    @abc.abstractmethod
    def _least_at(self, z: Array, lam: Array, step: Array) -> Array:
        """argmin over x ≥ 0 of ½(x − z)²/step + r(x; λ), for z ≥ 0."""

    def value(self, x: PyTree) -> Array:
        def term(leaf: Any, lam_w: Any, off: Any) -> Array:
            return jnp.sum(self._value_at(jnp.abs(leaf), lam_w), where=~off)

        return total(term(*terms) for terms in self._terms(x))

    def _near_at(self, z: Array, lam: Array, step: Array) -> Array:
        """The minimum that is nearest to 0, where there are two: mostly 0 itself."""
        del lam, step
        return 0 * z

    def _shrink(self, z: PyTree, step: Any) -> PyTree:
        least = self._least_within if self.has_limits else self._least_at
        limits = (self.lower, self.upper) if self.has_limits else ()
        return prox.map_even(least, z, self._lam(), step, self.weights, *limits)

    def _least_within(self, z: Array, lam: Array, step: Array, limit: Array) -> Array:
        """`_least_at` on 0 ≤ x ≤ limit: the limit, where that is less, or the minimum nearest to 0."""
        near = jnp.minimum(self._near_at(z, lam, step), limit)
        far = self._least_at(z, lam, step)
        is_out = far > limit
        at_limit = self._better(z, lam, step, near, jnp.where(is_out, limit, 0))
        return jnp.where(is_out, at_limit, far)

    def _better(self, z: Array, lam: Array, step: Array, near: Array, far: Array) -> Array:
        """Of two points the one where ½(x − z)²/step + r is less; the near one if they tie."""

        def objective(x: Array) -> Array:
            return 0.5 * (x - z) ** 2 + step * self._value_at(x, lam)

        return jnp.where(objective(far) < objective(near), far, near)

    def linear_form(self, shape: tuple[int, ...]) -> None:
        del shape  # it is concave

    def concave_terms(self, x: Real) -> ConcaveTerms:
        lam_w, excluded = self._array_terms(x)
        xp, t = namespace(lam_w, excluded, x), abs(x)
        slope = xp.where(excluded, np.inf, self._slope_at(t, lam_w))
        value, curvature = self._value_at(t, lam_w), self._curvature_at(t, lam_w)
        return ConcaveTerms(value, slope, xp.where(excluded, 0, curvature))

    def _weights_form(self, x: Real) -> LinearForm:
        """The weights of the tangents at |x|, by which R is bounded from above."""
        slope = self.concave_terms(x).slope
        return LinearForm(slope, slope, namespace(slope).zeros_like(slope))

    def conjugate(self, v: Array) -> Array:
        """R*(v), which is infinite unless v = 0: there is no certificate by a gap."""
        return jnp.where(jnp.any(v != 0), jnp.inf, 0).astype(v.dtype)

    def dual_scale(self, v: Array) -> Array:
        return jnp.where(jnp.any(v != 0), 0, 1).astype(v.dtype)


@in_numpy
class MCP(Concave):
    """The minimax concave penalty: λt − t²/(2γ) up to t = γλ, and ½γλ² from there, of t = |xⱼ| and λwⱼ.

    It selects like the lasso, and coefficients beyond γλ are not shrunk at all. Not convex: a fit is a
    stationary point with its KKT residual; a path goes down from λmax, from each solution to the next.

    **Arguments and errors:** `lam`, `weights`, `lower` and `upper` as for `L1`, and

    - `gamma`: γ > 0, by default 3 as in ncvreg; large ones give the lasso, small ones best subsets. Where 1/γ
      is less than the curvature of the loss along each coefficient (1 for squared error and
      `standardize=True`), each coefficient by itself has one minimum.

    Source: Zhang (2010); Breheny and Huang (2011).

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> print(l1jax.MCP(1.0, gamma=3.0).prox(jnp.array([0.5, 2.0, 4.0])))
    [0.  1.5 4. ]

    ```
    """

    gamma: Any

    def __init__(
        self,
        lam: Any = None,
        gamma: Any = 3.0,
        weights: Any = None,
        *,
        lower: Any = None,
        upper: Any = None,
    ):
        super().__init__(lam, weights, lower, upper)
        self.gamma = number_above(gamma, "gamma", 0)

    def is_valid(self) -> Any:
        return super().is_valid() & (jnp.asarray(self.gamma) > 0)

    @property
    def max_step(self) -> Any:
        return self.gamma

    def _value_at(self, t: Real, lam: Real) -> Real:
        xp, gamma = _space(self.gamma, t)
        inner = xp.minimum(t, gamma * lam)
        return lam * inner - inner**2 / (2 * gamma)

    def _slope_at(self, t: Real, lam: Real) -> Real:
        xp, gamma = _space(self.gamma, t)
        return xp.maximum(lam - t / gamma, 0)

    def _curvature_at(self, t: Real, lam: Real) -> Real:
        xp, gamma = _space(self.gamma, t)
        return xp.where(t < gamma * lam, -1 / gamma, 0)

    def _least_at(self, z: Array, lam: Array, step: Array) -> Array:
        gamma = jnp.asarray(self.gamma, z.dtype)
        is_short = step < gamma
        inner = jnp.maximum(z - step * lam, 0) / jnp.where(is_short, 1 - step / gamma, 1)
        short = jnp.where(z <= gamma * lam, inner, z)
        # Beyond, all between 0 and γλ is concave: 0 or z.
        edge = lam * jnp.sqrt(gamma) * jnp.sqrt(jnp.where(is_short, gamma, step))
        return jnp.where(is_short, short, jnp.where(z <= edge, 0 * z, z))


@in_numpy
class SCAD(Concave):
    """The smoothly clipped absolute deviation: slope λ up to t = λ, falling to 0 at γλ, and 0 from there.

    In between it is (γλt − ½(t² + λ²))/(γ − 1), for t = |xⱼ| and λwⱼ. As `MCP`, it is not convex.

    **Arguments and errors:** `lam`, `weights`, `lower` and `upper` as for `L1`, and

    - `gamma`: γ > 2, by default 3.7 as in ncvreg; ∞ is the lasso.

    Source: Fan and Li (2001); Breheny and Huang (2011).

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> print(l1jax.SCAD(1.0, gamma=3.0).prox(jnp.array([0.5, 1.5, 2.5, 4.0])))
    [0.  0.5 2.  4. ]

    ```
    """

    gamma: Any

    def __init__(
        self,
        lam: Any = None,
        gamma: Any = 3.7,
        weights: Any = None,
        *,
        lower: Any = None,
        upper: Any = None,
    ):
        super().__init__(lam, weights, lower, upper)
        self.gamma = number_above(gamma, "gamma", 2)

    def is_valid(self) -> Any:
        return super().is_valid() & (jnp.asarray(self.gamma) > 2)

    @property
    def max_step(self) -> Any:
        return self.gamma - 1

    def _value_at(self, t: Real, lam: Real) -> Real:
        xp, gamma = _space(self.gamma, t)
        middle = xp.minimum(t, gamma * lam)
        middle = (gamma * lam * middle - (middle**2 + lam**2) / 2) / (gamma - 1)
        return xp.where(t <= lam, lam * t, middle)

    def _slope_at(self, t: Real, lam: Real) -> Real:
        xp, gamma = _space(self.gamma, t)
        return xp.minimum(lam, xp.maximum(gamma * lam - t, 0) / (gamma - 1))

    def _curvature_at(self, t: Real, lam: Real) -> Real:
        xp, gamma = _space(self.gamma, t)
        return xp.where((t >= lam) & (t < gamma * lam), -1 / (gamma - 1), 0)

    def _least_at(self, z: Array, lam: Array, step: Array) -> Array:
        gamma = jnp.asarray(self.gamma, z.dtype)
        is_short = step < gamma - 1
        soft = jnp.maximum(z - step * lam, 0)
        room = jnp.where(is_short, gamma - 1 - step, 1)
        middle = ((gamma - 1) * z - gamma * lam * step) / room
        short = jnp.where(z <= (1 + step) * lam, soft, jnp.where(z <= gamma * lam, middle, z))
        # Beyond, all between λ and γλ is concave.
        far = jnp.maximum(z, gamma * lam)
        long = self._better(z, lam, step, self._near_at(z, lam, step), far)
        return jnp.where(is_short, short, long)

    def _near_at(self, z: Array, lam: Array, step: Array) -> Array:
        return jnp.minimum(jnp.maximum(z - step * lam, 0), lam)


@in_numpy
class CappedL1(Concave):
    """The capped lasso λ Σⱼ wⱼ min(|xⱼ|, θ): the lasso up to θ, and no more from there. Not convex, as `MCP`.

    **Arguments and errors:** `lam`, `weights`, `lower` and `upper` as for `L1`, and

    - `theta`: θ > 0, in units of a coefficient.

    Source: Zhang (2010).

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> print(l1jax.CappedL1(1.0, theta=2.0).prox(jnp.array([0.5, 2.0, 4.0])))
    [0. 1. 4.]

    ```
    """

    theta: Any

    def __init__(
        self,
        lam: Any = None,
        theta: Any = 1.0,
        weights: Any = None,
        *,
        lower: Any = None,
        upper: Any = None,
    ):
        super().__init__(lam, weights, lower, upper)
        self.theta = number_above(theta, "theta", 0)

    def is_valid(self) -> Any:
        return super().is_valid() & (jnp.asarray(self.theta) > 0)

    def _value_at(self, t: Real, lam: Real) -> Real:
        xp, theta = _space(self.theta, t)
        return lam * xp.minimum(t, theta)

    def _slope_at(self, t: Real, lam: Real) -> Real:
        xp, theta = _space(self.theta, t)
        return xp.where(t < theta, lam, 0)

    def _curvature_at(self, t: Real, lam: Real) -> Real:
        return 0 * t * lam

    def _least_at(self, z: Array, lam: Array, step: Array) -> Array:
        theta = jnp.asarray(self.theta, z.dtype)
        near = self._near_at(z, lam, step)
        return self._better(z, lam, step, near, jnp.maximum(z, theta))

    def _near_at(self, z: Array, lam: Array, step: Array) -> Array:
        theta = jnp.asarray(self.theta, z.dtype)
        return jnp.minimum(jnp.maximum(z - step * lam, 0), theta)


@in_numpy
class LogSum(Concave):
    """The log-sum penalty λ Σⱼ wⱼ log(1 + |xⱼ|/ε), which reweighted lassos minimise. Not convex, as `MCP`.

    Its slope at 0 is λ/ε, so that λmax is ε times that of the lasso.

    **Arguments and errors:** `lam`, `weights`, `lower` and `upper` as for `L1`, and

    - `eps`: ε > 0, in units of a coefficient: smaller ones are shrunk like by a lasso of λ/ε.

    Source: Candès, Wakin and Boyd (2008).

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> print(l1jax.LogSum(1.0, eps=1.0).prox(jnp.array([0.5, 3.0])))
    [0.   2.73]

    ```
    """

    eps: Any

    def __init__(
        self,
        lam: Any = None,
        eps: Any = 1.0,
        weights: Any = None,
        *,
        lower: Any = None,
        upper: Any = None,
    ):
        super().__init__(lam, weights, lower, upper)
        self.eps = number_above(eps, "eps", 0)

    def is_valid(self) -> Any:
        return super().is_valid() & (jnp.asarray(self.eps) > 0)

    @property
    def max_step(self) -> Any:
        if self.lam is None:
            return float("inf")
        xp = namespace(self.lam, self.eps, *jax.tree.leaves(self.weights))
        most = 1.0
        for leaf in jax.tree.leaves(self.weights):
            most = xp.maximum(most, xp.max(leaf))
        lam = xp.asarray(self.lam) * most
        return xp.where(lam > 0, self.eps**2 / xp.where(lam > 0, lam, 1), xp.inf)

    def _value_at(self, t: Real, lam: Real) -> Real:
        xp, eps = _space(self.eps, t)
        return lam * xp.log1p(t / eps)

    def _slope_at(self, t: Real, lam: Real) -> Real:
        _, eps = _space(self.eps, t)
        return lam / (eps + t)

    def _curvature_at(self, t: Real, lam: Real) -> Real:
        _, eps = _space(self.eps, t)
        return -lam / (eps + t) ** 2

    def _critical_strengths(self, gradient: Real) -> Real:
        return super()._critical_strengths(gradient) * _space(self.eps, gradient)[1]

    def _least_at(self, z: Array, lam: Array, step: Array) -> Array:
        eps = jnp.asarray(self.eps, z.dtype)
        square = (z + eps) ** 2 - 4 * step * lam
        is_real = square > 0
        root = (z - eps + jnp.sqrt(jnp.where(is_real, square, 1))) / 2
        root = jnp.where(is_real & (root > 0), root, 0)
        return self._better(z, lam, step, 0 * z, root)


class _Steep(Concave):
    """A concave penalty whose slope at 0 is infinite: 0 is a stationary point at any λ, and is left by jumps.

    λmax is that of steps of length 1: at 0 no coefficient by itself has a better minimum, for columns of
    norm 1 (`standardize=True`).
    """

    def _critical_strengths(self, gradient: Real) -> Real:
        w, penalised = self._unit_weights(gradient)
        xp, size = namespace(w, gradient), abs(super()._critical_strengths(gradient))
        w = xp.where(penalised, w, 1)
        return xp.where(penalised, self._jump(size * w) / w, 0)

    def __init__(self, lam: Any = None, weights: Any = None, lower: Any = None, upper: Any = None):
        super().__init__(lam, weights, lower, upper)

    @abc.abstractmethod
    def _jump(self, z: Real) -> Real:
        """The λ from which on the least point of ½(x − z)² + r(x; λ) is 0."""


@in_numpy
class L0(_Steep):
    """The number of nonzero coefficients: λ Σⱼ wⱼ [xⱼ ≠ 0], whose prox is the hard threshold.

    Each subset of the features has a stationary point of its own; where a fit starts says which one it finds.

    **Arguments and errors:** as for `L1`.

    Source: Blumensath and Davies (2008).

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> print(l1jax.L0(2.0).prox(jnp.array([1.9, 2.1])))
    [0.  2.1]

    ```
    """

    def __init__(
        self, lam: Any = None, weights: Any = None, *, lower: Any = None, upper: Any = None
    ):
        super().__init__(lam, weights, lower, upper)

    def _value_at(self, t: Real, lam: Real) -> Real:
        return namespace(t, lam).where(t > 0, lam, 0)

    def _slope_at(self, t: Real, lam: Real) -> Real:
        return namespace(t, lam).where((t > 0) | (lam == 0), 0 * t, np.inf)

    def _curvature_at(self, t: Real, lam: Real) -> Real:
        return 0 * t * lam

    def _jump(self, z: Real) -> Real:
        return z**2 / 2

    def _least_at(self, z: Array, lam: Array, step: Array) -> Array:
        return jnp.where(z**2 <= 2 * step * lam, 0 * z, z)


@in_numpy
class LHalf(_Steep):
    """The half penalty λ Σⱼ wⱼ √|xⱼ|, between the lasso and the number of nonzeros. Not convex, as `L0`.

    **Arguments and errors:** as for `L1`.

    Source: Xu, Chang, Xu and Zhang (2012).

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> print(l1jax.LHalf(1.0).prox(jnp.array([1.4, 3.0])))
    [0.   2.70]

    ```
    """

    def __init__(
        self, lam: Any = None, weights: Any = None, *, lower: Any = None, upper: Any = None
    ):
        super().__init__(lam, weights, lower, upper)

    def _value_at(self, t: Real, lam: Real) -> Real:
        return lam * _power(t, 0.5)

    def _slope_at(self, t: Real, lam: Real) -> Real:
        return _slope_of_power(t, lam, 0.5)

    def _curvature_at(self, t: Real, lam: Real) -> Real:
        return _curvature_of_power(t, lam, 0.5)

    def _jump(self, z: Real) -> Real:
        return (z / 1.5) ** 1.5

    def _least_at(self, z: Array, lam: Array, step: Array) -> Array:
        lam = step * lam
        stays = z <= 1.5 * lam ** (2 / 3)
        safe, lam = jnp.where(stays, 3, z), jnp.where(stays, 1, lam)
        angle = jnp.arccos(lam / 4 * (safe / 3) ** -1.5)
        return jnp.where(stays, 0 * z, 2 / 3 * safe * (1 + jnp.cos(2 / 3 * (jnp.pi - angle))))


@in_numpy
class LTwoThirds(_Steep):
    """The two-thirds penalty λ Σⱼ wⱼ |xⱼ|^⅔, between the lasso and `LHalf`. Not convex, as `L0`.

    **Arguments and errors:** as for `L1`.

    Source: Cao, Sun and Xu (2013).

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> print(l1jax.LTwoThirds(1.0).prox(jnp.array([1.2, 3.0])))
    [0.   2.51]

    ```
    """

    def __init__(
        self, lam: Any = None, weights: Any = None, *, lower: Any = None, upper: Any = None
    ):
        super().__init__(lam, weights, lower, upper)

    def _value_at(self, t: Real, lam: Real) -> Real:
        return lam * _power(t, 2 / 3)

    def _slope_at(self, t: Real, lam: Real) -> Real:
        return _slope_of_power(t, lam, 2 / 3)

    def _curvature_at(self, t: Real, lam: Real) -> Real:
        return _curvature_of_power(t, lam, 2 / 3)

    def _jump(self, z: Real) -> Real:
        return (z / 2) ** (4 / 3) * 1.5

    def _least_at(self, z: Array, lam: Array, step: Array) -> Array:
        lam = 2 * step * lam
        stays = z <= 2 / 3 * (3 * lam**3) ** 0.25
        safe, lam = jnp.where(stays, 2, z), jnp.where(stays, 1, lam)
        # λ = 0 is no penalty: below, the angle is infinite.
        is_free = lam == 0
        lam = jnp.where(is_free, 1, lam)
        ratio = jnp.where(is_free, 2, 27 / 16 * safe**2 * lam**-1.5)
        wide = 2 / 3**0.5 * lam**0.25 * jnp.sqrt(jnp.cosh(jnp.arccosh(ratio) / 3))
        root = ((wide + jnp.sqrt(jnp.where(is_free, 1, 2 * safe / wide - wide**2))) / 2) ** 3
        return jnp.where(stays, 0 * z, jnp.where(is_free, z, root))


def _space(number: Any, t: Real) -> tuple[Any, Real]:
    """The namespace of a formula, and a number in the precision of t."""
    xp = namespace(number, t)
    return xp, xp.asarray(number, t.dtype)


def _power(t: Real, power: float) -> Real:
    """t^power, with a finite derivative at 0."""
    xp = namespace(t)
    return xp.where(t > 0, xp.where(t > 0, t, 1) ** power, 0)


def _slope_of_power(t: Real, lam: Real, power: float) -> Real:
    xp = namespace(t, lam)
    slope = lam * power * xp.where(t > 0, t, 1) ** (power - 1)
    return xp.where((t > 0) | (lam == 0), slope, np.inf)


def _curvature_of_power(t: Real, lam: Real, power: float) -> Real:
    xp = namespace(t, lam)
    found = lam * power * (power - 1) * xp.where(t > 0, t, 1) ** (power - 2)
    return xp.where(t > 0, found, 0)
