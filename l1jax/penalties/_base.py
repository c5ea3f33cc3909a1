"""The protocol of a penalty: what it must define, and what follows from it.

A penalty is a small frozen `equinox.Module` whose strengths are leaves. Its author writes `value`
and `prox`; everything else here is a default derived from those two, which an override may sharpen.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import operator
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, PyTree

from .._arrays import namespace
from .._modules import Module, with_fields
from .._tracing import frozen, is_traced
from .._types import Real
from ._forms import EDGE, GroupForm, LinearForm

# Steps of bisection: float64 has 52 bits of fraction, and a bracket is at most a factor of two wide.
_BISECTIONS = 54
_DOUBLINGS = 64
# Of the proximal point steps for a conjugate: the first one's exponent, how they grow, how many there are
# at most, and units of rounding by which the subgradient at the last one may miss the point.
_FIRST_EXPONENT = -20
_GROWTH = 4.0
_MAX_CONJUGATE_STEPS = 60
_CONJUGATE_ULPS = 32
_BELOW_LIMIT = 0.9  # of `max_step`: at the limit itself a prox may divide by zero


class Masks(NamedTuple):
    """The coordinates that a penalty leaves free, and those that it fixes at zero."""

    unpenalised: Bool[Real, "..."]
    excluded: Bool[Real, "..."]


class Penalty(Module):
    """A penalty R on an array or a pytree of arrays: R(x), its prox, and what follows from them.

    A subclass must define `value` and `prox`. It names the field of its strength in the
    class attribute `strength` (`"lam"` unless said), says `convex = False` if it is not convex, with
    `max_step` if its prox takes no longer ones, and `metric = "diagonal"` if its `prox` also accepts
    a step per coordinate.

    The default certificate rests on one fact: u = (z - x)/t is a subgradient of R at x = prox_tR(z),
    and there the conjugate is known exactly, R*(u) = <x, u> - R(x). For a penalty with R(t x) = t R(x),
    such as a norm, say `homogeneous = True`: R* is then 0 where prox_R(v) = 0 and infinite elsewhere,
    which takes one prox to find out.

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> from jax.nn import relu
    >>> class Tilted(l1jax.Penalty):
    ...     lam: float
    ...     def value(self, x):
    ...         return self.lam * jnp.sum(2 * jnp.maximum(x, 0) + jnp.maximum(-x, 0))
    ...     def prox(self, z, step=1.0):
    ...         return relu(z - 2 * step * self.lam) - relu(-z - step * self.lam)
    >>> float(Tilted(0.5).lambda_max(jnp.array([3.0, -1.0])))
    3.0

    ```
    """

    strength: ClassVar[str] = "lam"
    convex: ClassVar[bool] = True
    homogeneous: ClassVar[bool] = False
    metric: ClassVar[Literal["scalar", "diagonal"]] = "scalar"

    @abc.abstractmethod
    def value(self, x: PyTree) -> Array:
        """R(x), a scalar. A constraint is worth 0 everywhere, since rounding puts points outside."""

    @abc.abstractmethod
    def prox(self, z: PyTree, step: Any = 1.0) -> PyTree:
        """argmin_x ½‖x − z‖²/step + R(x); `step` is a scalar, or like z where `metric` is diagonal."""

    def __add__(self, other: Any) -> Penalty:
        """Refuses a sum: its prox is not made of those of its terms."""
        name = getattr(type(other), "__name__", other)
        raise TypeError(
            f"{type(self).__name__} + {name} has no prox in closed form: take a penalty that is such a sum "
            "(ElasticNet, SparseGroupL1, FusedLasso), or write one with its value and prox."
        )

    __radd__ = __add__

    def __repr__(self) -> str:
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        shown = (f"{name}={_show(v)}" for name, v in fields.items() if v is not None)
        return f"{type(self).__name__}({', '.join(shown)})"

    def violation(self, x: PyTree) -> Array:
        """How far x is outside of the domain of R: by default from what a prox of step 0 makes of it."""
        moved = jax.tree.map(jnp.subtract, x, self.prox(x, jnp.zeros((), _dtype(x))))
        sizes = [jnp.max(jnp.abs(leaf), initial=0) for leaf in jax.tree.leaves(moved)]
        return jnp.max(jnp.stack(sizes)) if sizes else jnp.zeros((), _dtype(x))

    @property
    def max_step(self) -> Any:
        """The number below which all steps of `prox` must be: γ where R + ‖x‖²/(2γ) is convex; inf by default.

        Beyond, `prox` has no unique value. All solvers keep to it; the default certificate of a convex
        penalty takes steps of any length.
        """
        return float("inf")

    @property
    def has_strength(self) -> bool:
        """Whether there is a field for the strength, set or not."""
        return hasattr(self, self.strength)

    @property
    def strength_value(self) -> Any:
        """The strength; None where it is not set, or the penalty has none."""
        return getattr(self, self.strength, None)

    def with_strength(self, lam: Any) -> Penalty:
        """The same penalty with another strength; `lam` may be a tracer."""
        if not self.has_strength:
            raise AttributeError(
                f"{type(self).__name__} has no field {self.strength!r}: name the field of "
                "its strength in the class attribute `strength`."
            )
        return with_fields(self, **{self.strength: strength_leaf(lam, self.strength)})

    def on_scale(self, deviations: Real) -> Penalty:
        """Returns the penalty of σ∘β, for σ of each feature (p,), where this one is of β.

        Strengths and weights refer to σ∘β as they are, but limits are on β. By default there are none.
        """
        del deviations
        return self

    def is_valid(self) -> Bool[Array, ""]:
        """Whether its numbers are what an eager call would accept; for those that are traced."""
        strength = jnp.asarray(0.0 if self.strength_value is None else self.strength_value)
        return jnp.all((strength >= 0) & jnp.isfinite(strength))

    def masks(self, shape: tuple[int, ...]) -> Masks:
        """Returns the unpenalised and the excluded coordinates of an array of this shape."""
        nothing = jnp.zeros(shape, bool)
        return Masks(unpenalised=nothing, excluded=nothing)

    def linear_form(self, shape: tuple[int, ...]) -> LinearForm | None:
        """Returns the weights if R is Σⱼ upⱼ xⱼ⁺ + downⱼ xⱼ⁻ + ½ quadⱼ xⱼ²; None (the default) if it is not.

        With it a penalty gets the homotopy and the active-set engines.
        """
        del shape
        return None

    def concave_terms(self, x: Real) -> Any:
        """Returns rⱼ, rⱼ′ and rⱼ″ at |xⱼ| if R is Σⱼ rⱼ(|xⱼ|) of concave rⱼ; None (the default) if it is not.

        With it, and with `restricted`, a penalty that is not convex gets the active-set engine.
        """
        del x
        return None

    def restricted(self, features: Any) -> Penalty | None:
        """Returns the penalty of some of the features, by index; None (the default) if nobody needs it."""
        del features
        return None

    def group_form(self, shape: tuple[int, ...]) -> GroupForm | None:
        """Returns the weights if R is Σ_g (weight_g ‖x_g‖₂ + l1_g ‖x_g‖₁ + ½ quad_g ‖x_g‖₂²); else None.

        With it a penalty gets the active-set engine for groups.
        """
        del shape
        return None

    def composition(self) -> tuple[Penalty, Callable[[PyTree], PyTree]] | None:
        """Returns R and A if the penalty is R(A x) of a linear A without a prox of its own; else None.

        With it `minimize` takes a primal–dual solver, which needs only the prox of R.
        """
        return None

    def lambda_max(self, gradient: Array) -> Array:
        """λmax: the least strength at which x = 0 is optimal where the smooth part has this gradient.

        By default found by bisection on prox(−gradient) == 0, to rounding. Never below the true
        one.
        """

        def is_null(lam):
            pen = self.with_strength(lam)
            step = jnp.minimum(1.0, longest_step(pen, gradient.dtype))
            return jnp.all(pen.prox(-step * gradient, step) == 0)

        biggest = jnp.max(jnp.abs(gradient), initial=0)
        start = jnp.where(biggest > 0, biggest, 1).astype(gradient.dtype)

        def bracket(_, high):
            return jnp.where(is_null(high), high, 2 * high)

        def shrink(_, high):
            return jnp.where(is_null(high / 2), high / 2, high)

        high = jax.lax.fori_loop(0, _DOUBLINGS, bracket, start)
        high = jax.lax.fori_loop(0, _DOUBLINGS, shrink, high)
        high = _bisect(is_null, high / 2, high)
        # Out of the loop the edge itself may be rounded to the other side: see `_is_in_ball`.
        is_found = is_null(high * (1 + EDGE * jnp.finfo(high.dtype).eps))
        found = jnp.where(is_found, high, jnp.inf)
        return jnp.where(biggest > 0, found, 0).astype(gradient.dtype)

    def dual_norm(self, gradient: Real) -> Real:
        """The size of a gradient as this penalty weighs it; the yardstick of `relative_kkt`."""
        return abs(gradient).max(initial=0)

    def conjugate(self, v: Array) -> Array:
        """R*(v) = sup_x ⟨x, v⟩ − R(x); inf where that is not finite, or not attained.

        By default found by proximal point steps x ← prox_tR(x + t v) with growing t (Rockafellar, 1976).
        Each ends where u = v + (x_before − x)/t is a subgradient; they end once u is v to rounding.
        """
        if self.homogeneous:
            return jnp.where(self._is_in_ball(v), 0, jnp.inf).astype(v.dtype)
        size = jnp.max(jnp.abs(v), initial=0)
        rounding = _CONJUGATE_ULPS * jnp.finfo(v.dtype).eps * size

        def step(carry):
            x, t, count, _ = carry
            new = self.prox(x + t * v, t)
            distance = jnp.max(jnp.abs(x - new), initial=0) / t
            longer = jnp.minimum(_GROWTH * t, _step_over(0 * size, 0))
            return new, longer, count + 1, distance

        first = _step_over(size, _FIRST_EXPONENT)
        most = min((_longest(v.dtype) - _FIRST_EXPONENT) // 2, _MAX_CONJUGATE_STEPS)
        far = jnp.asarray(jnp.inf, v.dtype)
        start = (jnp.zeros_like(v), first, jnp.zeros((), jnp.int32), far)

        def is_far(carry):
            return ~(carry[3] <= rounding) & (carry[2] < most)

        x, _, _, distance = jax.lax.while_loop(is_far, step, start)
        # R*(u) = ⟨x, u⟩ − R(x) for a u within `distance`.
        found = jnp.sum(x * v) + distance * jnp.sum(jnp.abs(x)) - self.value(x)
        is_known = (distance <= rounding) & (found > -jnp.inf)
        return jnp.where(is_known, found, jnp.inf).astype(v.dtype)

    def _is_in_ball(self, v: Array) -> Bool[Array, ""]:
        """Whether prox(v) = 0, on the edge as well.

        The same numbers are rounded otherwise where they are compiled with others: `c * v` and what
        the prox takes from it may become one operation. So a c that bisection finds inside may be
        outside elsewhere, by as little.
        """
        return jnp.all(self.prox(v * (1 - EDGE * jnp.finfo(v.dtype).eps)) == 0)

    def dual_scale(self, v: Array) -> Array:
        """The largest c in [0, 1] for which R*(c v) is finite.

        By default found by bisection on the prox of the recession function lim_t R(t x)/t, which is
        lim_t prox_tR(t z)/t: it takes the points of the domain of R* to 0.
        """
        size = jnp.max(jnp.abs(v), initial=0)
        # A homogeneous penalty is its own recession function.
        t = 1.0 if self.homogeneous else _step_over(size, _longest(v.dtype))
        limit = 0.0 if self.homogeneous else EDGE * jnp.finfo(v.dtype).eps * size * t

        def is_outside(c):
            return ~jnp.all(jnp.abs(self.prox(c * v * t, t)) <= c * limit)

        one = jnp.ones((), v.dtype)
        needed = is_outside(one)

        def shrink(_, high):
            return jnp.where(is_outside(high / 2), high / 2, high)

        high = jax.lax.fori_loop(0, jnp.where(needed, _DOUBLINGS, 0), shrink, one)
        steps = jnp.where(needed, _BISECTIONS, 0)
        inside = _bisect(is_outside, high / 2, high, lower=True, steps=steps)
        inside = jnp.where(is_outside(inside * (1 - EDGE * jnp.finfo(v.dtype).eps)), 0, inside)
        return jnp.where(needed, inside, one).astype(v.dtype)

    def dual_scales(self, v: Array, x: Array) -> Array:
        """Scales c worth trying for the dual point; the certificate takes the best. (k,)"""
        del x
        return self.dual_scale(v)[None]

    def distance(self, x: Array, gradient: Array, step: Any = 1.0) -> Array:
        """dist(−gradient, ∂R(x)), per unit of the penalty.

        By default the residual |x − prox(x − step·gradient)|/step, which is never more; a step that
        suits the curvature of the smooth part makes it a fair measure of the other.
        """
        return jnp.abs(x - self.prox(x - step * gradient, step)) / step

    def margin(self, x: Array, gradient: Array, curvature: Array) -> Array:
        """Returns the least change of λ at which a coefficient enters or leaves, if each moves by itself.

        `gradient` and `curvature`, like x, are those of the smooth part along each coefficient. Out, one
        enters where λ falls to its own λmax; in, it leaves where λ rises by λ·curvature·|x|/|gradient|. At 0
        a solution is at a knot, where its derivatives to either side differ. NaN for an unset strength.
        """
        if self.strength_value is None:
            return jnp.full((), jnp.nan, gradient.dtype)
        lam = jnp.asarray(self.strength_value, gradient.dtype)
        enters = self.lambda_max(jnp.where(x == 0, gradient, 0))
        size = jnp.abs(gradient)
        moves = (x != 0) & (size > 0)
        rise = lam * curvature * jnp.abs(x) / jnp.where(moves, size, 1)
        return nearest_knot(lam, enters, jnp.where(moves, lam + rise, jnp.inf))

    def uniform_metric(self, squares: Array) -> Array:
        """Returns the least diagonal metric ≥ this one in which `uniform_prox` has its closed form.

        For groups that is one entry per group: the block soft threshold in place of a root. By default the
        metric itself.
        """
        return squares

    def uniform_prox(self, z: Array, step: Any = 1.0) -> Array:
        """Returns `prox`, where 1/step is a uniform metric."""
        return self.prox(z, step)

    def prox_jacobian(self, z: Array, step: Any = 1.0) -> Callable[[Array], Array]:
        """Returns the Jacobian of `uniform_prox` at z as a map u -> J u, self-adjoint in the metric 1/step."""
        return jax.linearize(lambda point: self.uniform_prox(point, step), z)[1]


def nearest_knot(lam: Any, enters: Real, leaves: Real, axis: Any = None) -> Real:
    """Returns the distance from λ to the largest λ ≤ it of `enters` or the least λ ≥ it of `leaves`.

    Both per coefficient or group: 0 in `enters` of what is in, inf in `leaves` of what is out.
    """
    xp = namespace(lam, enters, leaves)
    lam = xp.asarray(lam, enters.dtype)
    falls = lam - enters.max(axis=axis, initial=0)
    return xp.minimum(falls, leaves.min(axis=axis, initial=np.inf) - lam)


def check_max_step(pen: Penalty) -> None:
    """Raises unless the longest step of a prox is a number above 0; a traced one cannot be checked."""
    name, limit = f"{type(pen).__name__}.max_step", pen.max_step
    if callable(limit):
        raise TypeError(f"{name} must be a number: write @property above it.")
    if not is_traced(limit) and not (np.asarray(frozen(limit)) > 0).all():
        raise ValueError(
            f"{name} must be above 0, got {limit}: return the number below which the steps of prox must be, "
            "or inf."
        )


def longest_step(pen: Penalty, dtype: Any) -> Array:
    """Returns the longest step that solvers give to the prox of this penalty, somewhat below its limit."""
    check_max_step(pen)
    return _BELOW_LIMIT * jnp.asarray(pen.max_step, dtype)


def _step_over(size: Array, exponent: int) -> Array:
    """A step that takes something of this size to 2^exponent, unless its square would overflow."""
    most = 2.0 ** (jnp.finfo(size.dtype).maxexp // 2 - 1)
    step = 2.0**exponent / jnp.where(size > 0, size, 1)
    return jnp.where(size > 0, jnp.minimum(step, most), most).astype(size.dtype)


def _longest(dtype: Any) -> int:
    """The exponent of the longest step of a prox: what it squares must not overflow."""
    return jnp.finfo(dtype).maxexp // 10 * 4


def _bisect(
    is_true, low: Array, high: Array, lower: bool = False, steps: int | Array = _BISECTIONS
) -> Array:
    """The edge between low, where `is_true` is false, and high, where it is true; from above.

    With `lower`, from below: the last point where `is_true` is false.
    """

    def halve(_, bracket):
        low, high = bracket
        middle = low + (high - low) / 2
        true = is_true(middle)
        return jnp.where(true, low, middle), jnp.where(true, middle, high)

    low, high = jax.lax.fori_loop(0, steps, halve, (low, high))
    return low if lower else high


def _show(value: Any) -> str:
    value = frozen(value)
    if isinstance(value, Tracer) or not eqx.is_array_like(value):
        return repr(value)
    array = np.asarray(value)
    if array.ndim == 0 and array.dtype.kind == "f":
        return f"{float(array):.6g}"
    if array.dtype == object or array.size > 12:
        return f"{array.dtype}{list(array.shape)}"
    return np.array2string(array, precision=6, separator=", ")


def _dtype(x: PyTree):
    leaves = jax.tree.leaves(x)
    return jnp.result_type(*leaves) if leaves else jnp.result_type(float)


def total(terms: Iterable[Array]) -> Array:
    """The sum over the leaves of a tree, which has at least one."""
    return functools.reduce(operator.add, terms)


def strength_leaf(value: Any, name: str) -> Any:
    """A strength as a leaf: Python numbers become 0-d float64 NumPy arrays, so that no digit is rounded
    before it meets the data and no value forces a recompilation. Concrete values are checked."""
    if value is None:
        return None
    if isinstance(value, jax.Array):
        if not jnp.issubdtype(value.dtype, jnp.number):
            raise TypeError(f"{name} must be a number, got an array of dtype {value.dtype}.")
        if not is_traced(value):
            check_nonnegative(np.asarray(frozen(value)), name)
        return value
    if type(value) is object:  # a placeholder that tree transformations put in a leaf's place
        return value
    array = np.asarray(value)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name} must be a number, got {value!r} of type {type(value).__name__}.")
    array = array.astype(array.dtype if array.dtype.kind == "f" else np.float64)
    check_nonnegative(array, name)
    return array


def number_above(value: Any, name: str, least: int) -> Any:
    """A number as a leaf, checked to be above `least` where it is concrete."""
    leaf = strength_leaf(value, name)
    if leaf is None:
        raise TypeError(f"{name} must be a number above {least}, got None.")
    if not is_traced(leaf) and type(leaf) is not object:
        given = np.asarray(frozen(leaf))
        if not (given > least).all():
            raise ValueError(f"{name} must be above {least}, got {given.min()}.")
    return leaf


def check_nonnegative(array: np.ndarray, name: str, allow_inf: bool = False) -> None:
    """Raises a ValueError that names the first negative, NaN or (unless allowed) infinite entry."""
    bad = ~(array >= 0) if allow_inf else ~((array >= 0) & np.isfinite(array))
    if bad.any():
        where = np.argwhere(bad)[0]
        place = f" at index {tuple(int(i) for i in where)}" if array.ndim else ""
        kind = "non-negative" if allow_inf else "non-negative and finite"
        raise ValueError(f"{name} must be {kind}, got {array[tuple(where)]}{place}.")


def no_negative(weights: PyTree) -> Bool[Array, ""]:
    """Whether no weight is negative or NaN, for those that are traced."""
    leaves = [jnp.all(jnp.asarray(w) >= 0) for w in jax.tree.leaves(weights)]
    return jnp.stack(leaves).all() if leaves else jnp.ones((), bool)


def weight_leaves(weights: Any, name: str = "weights") -> tuple[PyTree, PyTree]:
    """Weights as (finite weights, excluded mask): inf means fixed at zero and enters no product."""
    if weights is None:
        return None, None

    def leaf(w):
        if not is_traced(w):
            concrete = np.asarray(frozen(w))
            if concrete.dtype.kind not in "fiub":
                raise TypeError(f"{name} must be numbers, got dtype {concrete.dtype}.")
            check_nonnegative(concrete, name, allow_inf=True)
            if not isinstance(w, jax.Array):
                w = concrete.astype(concrete.dtype if concrete.dtype.kind == "f" else np.float64)
        xp = jnp if isinstance(w, jax.Array) else np
        return xp.where(xp.isposinf(w), xp.zeros_like(w), w), xp.isposinf(w)

    if isinstance(weights, list | tuple) and not any(hasattr(w, "shape") for w in weights):
        weights = np.asarray(weights)  # a plain list of numbers, not a pytree of arrays
    leaves, structure = jax.tree.flatten(weights)
    finite, excluded = zip(*map(leaf, leaves), strict=True) if leaves else ((), ())
    return structure.unflatten(finite), structure.unflatten(excluded)
