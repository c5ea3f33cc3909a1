"""What every penalty's prox, conjugate and value must satisfy: checks that a class joins by one line.

A class joins with a `Case` in a table of its test file, and that file runs every check on every case:

    CASES = {"l1": Case(l1jax.L1(0.7), lambda x: 0.7 * abs(x), separable=True)}

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    @pytest.mark.parametrize("name", CASES)
    @settings(max_examples=15)
    @given(z=arrays(np.float64, (ROWS, SIZE), elements=st.floats(-4, 4)))
    def test_its_prox(name, check, z):
        check(CASES[name], z)

A check takes a case and points z (B, p), one per row, from anywhere; it returns whether it applies to the case.
`value`, `oracle` and `conjugate` are the test's own, in NumPy, and never call l1jax.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

ROWS, SIZE = 16, 5
STEP = 0.6
METRIC = np.array([0.6, 0.1, 0.35, 0.2, 0.45])
_ZOOMS, _AROUND = 12, np.linspace(-1, 1, 33, dtype=np.longdouble)


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """A penalty with its strength, and what is known of it without l1jax.

    - `value`: R of rows (B, p) as (B,), inf outside of its domain. Where it is `separable`: the terms of R,
      entry by entry, of arrays of any shape, in whatever precision they come.
    - `oracle`: prox_sR of rows (B, p), with the steps s (B, p). Of a separable penalty a brute-force search,
      unless given.
    - `conjugate`: R* of rows (B, p) as (B,); of a separable penalty its terms.
    - `tree`: how R of a pytree follows from that of arrays: "leaves", the sum over the leaves; "whole", R of
      all leaves as one vector; None, a pytree is not meant.
    - `step`, `metric`: the steps to test, below `max_step` where there is one; a metric is (5,).
    - `atol`: of the prox, in float64.
    """

    pen: Any
    value: Callable[[Any], Any]
    separable: bool = False
    oracle: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
    conjugate: Callable[[np.ndarray], np.ndarray] | None = None
    tree: str | None = "leaves"
    step: float = STEP
    metric: Any = dataclasses.field(default_factory=lambda: METRIC)
    atol: float = 1e-8

    def total(self, x: np.ndarray) -> np.ndarray:
        """R of rows."""
        found = self.value(x)
        return found.sum(axis=-1) if self.separable else found

    def steps(self) -> list[Any]:
        return [self.step, self.metric] if self.pen.metric == "diagonal" else [self.step]

    @functools.cached_property
    def prox(self) -> Callable[[Any, Any], Any]:
        """The prox of rows (B, p) in one program, with one step for all rows, a scalar or (p,)."""
        return _program(self.pen.prox, (0, None))

    @functools.cached_property
    def own_value(self) -> Callable[[Any], Any]:
        return _program(self.pen.value, (0,))

    @functools.cached_property
    def own_violation(self) -> Callable[[Any], Any]:
        return _program(self.pen.violation, (0,))

    @functools.cached_property
    def of_tree(self) -> Callable[[Any, Any], Any]:
        """The prox of a pytree and the value there, in one program."""

        def of_tree(tree: Any, step: Any) -> Any:
            x = self.pen.prox(tree, step)
            return x, self.pen.value(x)

        return jax.jit(of_tree)

    @functools.cached_property
    def own_conjugate(self) -> Callable[[Any], Any]:
        return _program(self.pen.conjugate, (0,))

    @functools.cached_property
    def slopes(self) -> Callable[..., Any]:
        """The derivatives of the prox of rows along rows: jvp."""

        def slope(z: Any, u: Any, step: Any) -> Any:
            return jax.jvp(lambda z: self.pen.prox(z, step), (z,), (u,))[1]

        return _program(slope, (0, 0, None))


def check_brute_force(case: Case, z: np.ndarray) -> bool:
    """prox is the minimiser that an independent search or oracle finds, for scalar steps and metrics."""
    if not (case.separable or case.oracle):
        return False
    for step in case.steps():
        steps = np.broadcast_to(step, z.shape)
        x = np.asarray(case.prox(z, step))
        if case.oracle is not None:
            np.testing.assert_allclose(x, case.oracle(z, steps), rtol=0, atol=case.atol)
            continue
        found = brute_force(case.value, z, steps)
        # Not above what the search finds, and the same point: near one minimum, values are equal to rounding
        # where points differ by its root. Of two minima that nearly tie the search may take the other.
        ours, theirs = (_terms(case.value, v, z, steps) for v in (x, found))
        assert (ours <= theirs + 1e-14 * (1 + abs(theirs))).all()
        is_another = (abs(x - found) > 1e-5 * (1 + abs(z))) & ~case.pen.convex
        np.testing.assert_allclose(np.where(is_another, found, x), found, rtol=0, atol=case.atol)
    return True


def check_nothing_nearby_is_better(case: Case, z: np.ndarray) -> bool:
    """½‖x − z‖²/s + R(x) at the prox is not above its value at random points and with entries at 0."""
    rng = np.random.default_rng(0)
    for step in case.steps():
        x = np.asarray(case.prox(z, step))

        def objective(v: np.ndarray, step: Any = step) -> np.ndarray:
            return 0.5 * ((v - z) ** 2 / step).sum(axis=-1) + case.total(v)

        here = objective(x)
        assert np.isfinite(here).all()  # in the domain
        tries = [x + size * rng.standard_normal(x.shape) for size in (1e-6, 1e-4, 1e-2, 1.0)]
        tries += [x * (rng.random(x.shape) > 0.5), np.where(rng.random(x.shape) > 0.5, x, z)]
        # A constraint is seldom met by chance, but by a prox.
        tries += [np.asarray(case.prox(v, step)) for v in tries]
        for other in tries:
            assert (here <= objective(other) + 1e-12 * (1 + abs(here))).all()
    return True


def check_value(case: Case, z: np.ndarray) -> bool:
    """`value` is R in the domain, `violation` 0 there and above 0 outside."""
    x = np.asarray(case.prox(z, case.step))
    np.testing.assert_allclose(case.own_value(x), case.total(x), rtol=1e-12, atol=1e-13)
    np.testing.assert_array_less(case.own_violation(x), 1e-12)
    is_outside = np.isinf(case.total(z + 0.1))
    outside = np.asarray(case.own_violation(z + 0.1))
    assert (outside[is_outside] > 0).all()
    return True


def check_firmly_nonexpansive(case: Case, z: np.ndarray) -> bool:
    """‖prox a − prox b‖² ≤ ⟨prox a − prox b, a − b⟩, in the metric 1/s; of convex penalties."""
    if not case.pen.convex:
        return False
    for step in case.steps():
        moved = np.asarray(case.prox(z, step))
        d, e = (np.roll(v, 1, axis=0) - v for v in (moved, z))
        assert ((d * d / step).sum(axis=1) <= (d * e / step).sum(axis=1) + 1e-11).all()
    return True


def check_moreau(case: Case, z: np.ndarray) -> bool:
    """With u = (z − prox_sR(z))/s: R(x) + R*(u) = ⟨x, u⟩, which is z = prox_sR(z) + s prox_R*/s(z/s)."""
    if not case.pen.convex:
        return False
    for step in case.steps():
        x = np.asarray(case.prox(z, step))
        u = (z - x) / step * (1 - 1e-12)  # on the edge of a dual ball, a little inside of it
        product = (x * u).sum(axis=1)
        size = 1 + abs(product) + (abs(x) * abs(u)).sum(axis=1)
        both = np.asarray(case.own_value(x)) + np.asarray(case.own_conjugate(u))
        assert (abs(both - product) <= 1e-10 * size).all()
    return True


def check_conjugate(case: Case, z: np.ndarray) -> bool:
    """`conjugate` is R*: the closed form, where there is one, and ≥ ⟨x, v⟩ − R(x) at every x."""
    if not case.pen.convex:
        return False
    found = np.asarray(case.own_conjugate(z))
    if case.conjugate is not None:
        expected = case.conjugate(z)
        expected = expected.sum(axis=1) if case.separable else expected
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)
    for shift in range(3):
        x = np.asarray(case.prox(np.roll(z, shift, axis=0), case.step))
        below = (x * z).sum(axis=1) - case.total(x)
        assert (found >= below - 1e-11 * (1 + abs(below))).all()
    return True


def check_derivative(case: Case, z: np.ndarray) -> bool:
    """The derivative of the prox by z and by the step is that of finite differences, off the kinks."""
    u, h = np.roll(z, 2, axis=0) / 4 + 0.1, 1e-6
    for step in case.steps():
        at, ahead, behind = (np.asarray(case.prox(z + k * h * u, step)) for k in (0, 1, -1))
        right, left = (ahead - at) / h, (at - behind) / h
        # Off the kinks both sides agree, up to the curvature times h.
        is_smooth = (abs(right - left) <= 1e-4).all(axis=1)
        slope = np.asarray(case.slopes(z, u, step))
        assert np.isfinite(slope).all()
        np.testing.assert_allclose(
            slope[is_smooth], ((ahead - behind) / (2 * h))[is_smooth], rtol=0, atol=1e-6
        )
    return True


def check_float32(case: Case, z: np.ndarray) -> bool:
    """In float32 the prox has that dtype and is that of float64 to rounding, with positive zeros."""
    short = np.asarray(z, np.float32)
    x = case.prox(short, np.float32(case.step))
    assert x.dtype == case.own_value(short).dtype == np.float32
    if not (jax.config.jax_enable_x64 and case.pen.convex):
        return True
    exact = np.asarray(case.prox(np.asarray(short, np.float64), case.step))
    np.testing.assert_allclose(x, exact, rtol=0, atol=2e-5)
    assert not np.signbit(np.asarray(x)[(np.asarray(x) == 0) & (abs(short) > 1e-30)]).any()
    return True


def check_zeros_and_nan(case: Case, z: np.ndarray) -> bool:
    """Zeros are positive; NaN stays NaN."""
    x = np.asarray(case.prox(z, case.step))
    assert not np.signbit(x[(x == 0) & (abs(z) > 1e-30)]).any()
    bad = np.asarray(case.prox(np.where(np.arange(z.shape[1]) == 0, np.nan, z), case.step))
    assert np.isnan(bad[:, 0]).all()
    return True


def check_pytree(case: Case, z: np.ndarray) -> bool:
    """The prox and the value of a pytree are those of its leaves, or of all leaves as one vector."""
    if case.tree is None:
        return False
    first, second = z[0], z[1]
    found, value = case.of_tree({"a": first, "b": (second,)}, case.step)
    if case.tree == "leaves":
        expected = np.asarray(case.prox(z, case.step))[:2]
        total = case.total(expected).sum()
    else:
        joined = np.concatenate([first, second])
        expected = np.asarray(case.of_tree(joined, case.step)[0]).reshape(2, -1)
        total = case.total(expected.reshape(1, -1))[0]
    np.testing.assert_allclose(np.stack([found["a"], found["b"][0]]), expected, atol=1e-13)
    np.testing.assert_allclose(value, total, rtol=1e-12, atol=1e-12)
    return True


def check_projection(case: Case, z: np.ndarray) -> bool:
    """A projection (R is 0 on a set) is idempotent, and does not depend on the step."""
    x = np.asarray(case.prox(z, case.step))
    if np.any(case.total(x)) or not case.pen.convex or not np.isinf(case.total(z + 100)).all():
        return False
    np.testing.assert_allclose(case.prox(x, case.step), x, atol=1e-12)
    if case.pen.metric == "scalar":
        np.testing.assert_allclose(case.prox(z, 3 * case.step), x, atol=1e-12)
    return True


CHECKS: list[Callable[[Case, np.ndarray], bool]] = [
    check_brute_force,
    check_nothing_nearby_is_better,
    check_value,
    check_firmly_nonexpansive,
    check_moreau,
    check_conjugate,
    check_derivative,
    check_float32,
    check_zeros_and_nan,
    check_pytree,
    check_projection,
]


def brute_force(value: Callable[[Any], Any], z: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """argmin_x ½(x − z)²/s + r(x), entry by entry, by zooming into a grid around the least value found.

    In extended precision, where a minimum is flat over its root of rounding: 3e-10. The kinks that a
    minimum may sit on, 0 and integers over 20, are among the points that are tried.
    """
    z, steps = (np.asarray(v, np.longdouble)[..., None] for v in (z, steps))
    kinks = np.arange(-100, 101, dtype=np.longdouble) / 20
    width = abs(z) + 3
    tried = [z / 2 + width * np.linspace(-1, 1, 257, dtype=np.longdouble), z]
    tried = np.concatenate([*tried, np.broadcast_to(kinks, (*z.shape[:-1], len(kinks)))], axis=-1)
    width = width / 64
    for _ in range(_ZOOMS):
        best = np.argmin(_terms(value, tried, z, steps), axis=-1)[..., None]
        centre = np.take_along_axis(tried, best, axis=-1)
        tried = centre + width * _AROUND
        width = width / 8
    return np.asarray(centre[..., 0], np.float64)


def _terms(value: Callable[[Any], Any], x: Any, z: Any, steps: Any) -> Any:
    x, z, steps = (np.asarray(v, np.longdouble) for v in (x, z, steps))
    return (x - z) ** 2 / (2 * steps) + value(x)


def _program(function: Callable[..., Any], in_axes: tuple[Any, ...]) -> Callable[..., Any]:
    return jax.jit(jax.vmap(function, in_axes=in_axes))
