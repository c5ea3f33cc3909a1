"""A quadratic problem with separable prices, followed exactly while its data move.

    minimise over x:   ½ xᵀQx − cᵀx + Σⱼ (upⱼ xⱼ⁺ + downⱼ xⱼ⁻)

The solution lies on a face: coordinates outside of it are zero, those on it keep their sign. While c
and the prices move along a line, the solution does too, until a coordinate hits zero and leaves or
a gradient hits its price and enters. `Face.follow` walks from one such knot to the next, so that its
answer is exact. Everything here is NumPy on the host: sizes change at every knot.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.linalg import get_blas_funcs, get_lapack_funcs

from ._threads import one_thread

_SLOW = 1e-10  # a gradient that closes in on its price more slowly than this counts as parallel
_DEPENDENT = 1e-9  # a column with less than this share of itself outside of the face depends on it
_SETTLED = 1e-13  # residual of the equations on the face, as a share of the prices
_potrf, _potri = get_lapack_funcs(("potrf", "potri"), dtype=np.float64)
(_ger,) = get_blas_funcs(("ger",), dtype=np.float64)
_WIDE = 1e150  # stands for an infinite price where prices are subtracted


class Stop(NamedTuple):
    """A knot: how far along the line, and the solution there."""

    share: float
    x: np.ndarray


class Lost(Exception):
    """Rounding has led the walk astray; another solver must take over."""


class Face:
    """The solution, its gradient g = c − Qx, and the inverse of Q on the coordinates of its face."""

    def __init__(
        self,
        hessian: np.ndarray,
        gradient: np.ndarray,
        up: np.ndarray,
        down: np.ndarray,
        members: np.ndarray,
        signs: np.ndarray,
        values: np.ndarray,
        inverse: np.ndarray | None = None,
    ):
        """Starts at an optimal x: zero but for its `values` at the `members` of the face.

        Args: `hessian` Q (w, w); `gradient`, `up`, `down` (w,): a member's gradient is at the price
        of its sign, −down ≤ gradient ≤ up elsewhere. A member of sign 0 is free: it has no price
        and never leaves. `inverse`: of Q on the members, where it is known.
        """
        w, m = len(gradient), len(members)
        self.hessian = hessian
        self.x = np.zeros(w)
        self.x[members] = values
        self.gradient = gradient.copy()
        self.up, self.down = np.minimum(up, _WIDE), np.minimum(down, _WIDE)
        self.size = m
        room = _room(m)
        self._members = np.zeros(room, int)
        self._members[:m] = members
        self._signs = np.zeros(room)
        self._signs[:m] = signs
        self._inside = np.zeros(w, bool)
        self._inside[members] = True
        self._inverse = np.zeros((room, room), order="F")
        self._columns = np.empty((w, room), order="F")  # of Q, for the members
        self._columns[:, :m] = hessian[:, members]
        self._barred = np.zeros(w, bool)  # from entering, until the walk has moved on
        if inverse is None:
            self._factorise()
        else:
            self._inverse[:m, :m] = inverse

    @property
    def face(self) -> np.ndarray:
        """The members, in the order of `signs` and `inverse`."""
        return self._members[: self.size]

    @property
    def signs(self) -> np.ndarray:
        return self._signs[: self.size]

    @property
    def inverse(self) -> np.ndarray:
        return self._inverse[: self.size, : self.size]

    @one_thread()
    def follow(
        self, shift: np.ndarray, up: np.ndarray, down: np.ndarray, stops: list[Stop] | None = None
    ) -> int:
        """Moves the gradient by `shift` and the prices to `up` and `down`; returns the knots passed.

        `stops` collects the knots, where given. Raises `Lost` after too many of them.
        """
        up, down = np.minimum(up, _WIDE), np.minimum(down, _WIDE)
        rise_up, rise_down = up - self.up, down - self.down
        scale = max(np.abs(shift).max(), np.abs(rise_up).max(), np.abs(rise_down).max())
        slow = _SLOW * scale
        limit = 20 * (len(up) + 50)
        done, knots = 0.0, 0
        while True:
            face, signs = self.face, self.signs
            rise = np.where(signs > 0, rise_up[face], -rise_down[face])
            rise[signs == 0] = 0
            move = self.inverse @ (shift[face] - rise)
            drift = shift - self._columns[:, : self.size] @ move
            step, event, coordinate = self._next(move, drift, rise_up, rise_down, slow)
            last = step >= 1 - done
            step = 1 - done if last else step
            self.x[face] += step * move
            self.gradient += step * drift
            self.up += step * rise_up
            self.down += step * rise_down
            if step > 0:
                self._barred[:] = False
            if last:
                return knots
            done += step
            knots += 1
            if knots > limit:
                raise Lost
            if event == "leave":
                self._barred[face[coordinate]] = step == 0
                self._leave(coordinate)
            else:
                self._enter(coordinate, 1.0 if event == "up" else -1.0)
            if stops is not None:
                stops.append(Stop(done, self.x.copy()))

    @one_thread()
    def settle(self, linear: np.ndarray) -> None:
        """Solves the equations of the face afresh for the linear term c, against drift."""
        face, signs = self.face, self.signs
        prices = np.where(signs > 0, self.up[face], -self.down[face])
        prices[signs == 0] = 0
        enough = _SETTLED * max(np.abs(linear).max(initial=0), np.abs(prices).max(initial=0))
        worst = np.inf
        for attempt in range(6):
            self.gradient = linear - self._columns[:, : self.size] @ self.x[face]
            error = self.gradient[face] - prices
            size = np.abs(error).max(initial=0)
            if size <= enough:
                break
            if size > 0.5 * worst:
                if attempt > 3:
                    break
                self._factorise()
            worst = size
            self.x[face] += self.inverse @ error
        # A coordinate on the wrong side by rounding is at its knot.
        wrong = (self.x[face] * signs < 0) & (signs != 0)
        self.x[face[wrong]] = 0

    def bend(self, diagonal: np.ndarray) -> None:
        """Replaces Q by Q + diag(diagonal) at the same x and gradient."""
        self.hessian = self.hessian + np.diag(diagonal)
        self._columns[:, : self.size] = self.hessian[:, self.face]
        self._factorise()

    def _next(self, move, drift, rise_up, rise_down, slow):
        """(step, event, coordinate): the first knot ahead; the step is infinite where there is none."""
        step, event, coordinate = np.inf, "", -1
        if self.size:
            signs = self.signs
            shrinking = move * signs < 0
            if shrinking.any():
                at = np.flatnonzero(shrinking)
                steps = np.maximum(-self.x[self.face[at]] / move[at], 0)
                best = int(steps.argmin())
                step, event, coordinate = steps[best], "leave", int(at[best])
        waiting = ~(self._inside | self._barred)
        for kind, closing, room in (
            ("up", drift - rise_up, self.up - self.gradient),
            ("down", -drift - rise_down, self.down + self.gradient),
        ):
            at = np.flatnonzero(waiting & (closing > slow))
            if len(at):
                steps = np.maximum(room[at], 0) / closing[at]
                best = int(steps.argmin())
                if steps[best] < step:
                    step, event, coordinate = steps[best], kind, int(at[best])
        return step, event, coordinate

    def _enter(self, j: int, sign: float) -> None:
        q = self.hessian[self.face, j]
        u = self.inverse @ q
        pivot = self.hessian[j, j] - q @ u
        if pivot <= _DEPENDENT * self.hessian[j, j]:
            k = self._exchange(j, sign, u)
            if k is None:
                self._barred[j] = True
                return
            self._leave(k)
            self._enter_or_bar(j, sign)
            return
        self._append(j, sign, u, pivot)

    def _enter_or_bar(self, j: int, sign: float) -> None:
        q = self.hessian[self.face, j]
        u = self.inverse @ q
        pivot = self.hessian[j, j] - q @ u
        if pivot <= _DEPENDENT * self.hessian[j, j]:
            raise Lost
        self._append(j, sign, u, pivot)

    def _append(self, j: int, sign: float, u: np.ndarray, pivot: float) -> None:
        m = self.size
        if m == len(self._members):
            self._grow()
        self._rank_one(u, 1 / pivot)
        self._inverse[:m, m] = self._inverse[m, :m] = -u / pivot
        self._inverse[m, m] = 1 / pivot
        self._columns[:, m] = self.hessian[:, j]
        self._members[m], self._signs[m] = j, sign
        self._inside[j] = True
        self.size = m + 1

    def _grow(self) -> None:
        room = _room(self.size + 1)
        tables = {"_members": (room,), "_signs": (room,), "_inverse": (room, room)}
        tables["_columns"] = (len(self.x), room)
        for name, shape in tables.items():
            old = getattr(self, name)
            new = np.zeros(shape, old.dtype, order="F")
            new[tuple(slice(0, size) for size in old.shape)] = old
            setattr(self, name, new)

    def _exchange(self, j: int, sign: float, u: np.ndarray) -> int | None:
        """Moves along the null direction of a dependent column until a member is zero: its place.

        The fit does not change, and neither does the price, since the gradient of j is at its price.
        """
        face, signs = self.face, self.signs
        move = -sign * u
        shrinking = move * signs < 0
        if not shrinking.any():
            return None
        at = np.flatnonzero(shrinking)
        steps = np.maximum(-self.x[face[at]] / move[at], 0)
        best = int(steps.argmin())
        self.x[face] += steps[best] * move
        self.x[j] += steps[best] * sign
        return int(at[best])

    def _leave(self, k: int) -> None:
        last = self.size - 1
        j = self._members[k]
        if k != last:
            for table in (self._members, self._signs):
                table[k] = table[last]
            self._columns[:, k] = self._columns[:, last]
            inverse = self.inverse
            inverse[:, [k, last]] = inverse[:, [last, k]]
            inverse[[k, last], :] = inverse[[last, k], :]
        self.size = last
        b = self._inverse[:last, last].copy()
        self._rank_one(b, -1 / self._inverse[last, last])
        self._inside[j] = False
        self.x[j] = 0

    def _rank_one(self, u: np.ndarray, factor: float) -> None:
        """Adds factor · u uᵀ to the inverse, in place: half of the walk's time goes through here."""
        padded = np.zeros(len(self._inverse))
        padded[: len(u)] = u
        self._inverse = _ger(factor, padded, padded, a=self._inverse, overwrite_a=1)

    @one_thread()
    def _factorise(self) -> None:
        m = self.size
        if not m:
            return
        factor, failed = _potrf(self.hessian[np.ix_(self.face, self.face)], lower=1)
        if failed:
            raise Lost
        inverse, _ = _potri(factor, lower=1)
        inverse = np.tril(inverse)
        self._inverse[:m, :m] = inverse + np.tril(inverse, -1).T


def _room(size: int) -> int:
    """Space for this many members and some more."""
    return 64 * (size // 64 + 1)
