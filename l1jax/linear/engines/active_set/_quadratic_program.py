"""A quadratic problem with separable prices, followed exactly while its data move.

    minimise over x:   ½ xᵀQx − cᵀx + Σⱼ (upⱼ xⱼ⁺ + downⱼ xⱼ⁻)

The solution lies on a face: coordinates outside of it are zero, those on it keep their sign. While c
and the prices move along a line, the solution does too, until a coordinate hits zero and leaves or
a gradient hits its price and enters. `Face.follow` walks from one such knot to the next, so that its
answer is exact. `Face.leap` guesses the face at the end of the line instead, and corrects the guess
until it is right (a primal-dual active set; Hintermüller, Ito and Kunisch 2002): several knots for
the price of one, where that settles. Everything here is NumPy on the host: sizes change at every knot.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.linalg import get_blas_funcs, get_lapack_funcs

from ...host._columns import GramPart
from ._bordered_cholesky import BorderedCholesky
from ._state import NumericalBreakdown

_SLOW = 1e-10  # a gradient that closes in on its price more slowly than this counts as parallel
_DEPENDENT = 1e-9  # a column with less than this share of itself outside of the face depends on it
_SETTLED = 1e-13  # residual of the equations on the face, as a share of the prices
_potrf, _potri = get_lapack_funcs(("potrf", "potri"), dtype=np.float64)
(_ger,) = get_blas_funcs(("ger",), dtype=np.float64)
_GUESSES = 8  # of a face, before it is walked to
_FEW = 16  # changes of a face by which a guess may be worse than the one before
_WIDEST = 48  # changes of a face before its factor is made anew
_OVER = 1e-12  # share of its price by which a gradient may pass it
_ROUNDING = 1e-15  # ... and of the largest gradient
_CLOSE = 1e-10  # ... by which a guess may miss its equations
_TOWARDS = np.array([[-1.0], [1.0]])  # a rising gradient comes nearer to `up` and goes from `down`
_STRIP = 64  # rows of a matrix mirrored at a time
_WIDE = 1e150  # stands for an infinite price where prices are subtracted


class Stop(NamedTuple):
    """A knot: how far along the line, and the solution there."""

    share: float
    x: np.ndarray


class Face:
    """The solution, its gradient g = c − Qx, and the inverse of Q on the coordinates of its face."""

    def __init__(
        self,
        hessian: np.ndarray | GramPart,
        gradient: np.ndarray,
        up: np.ndarray,
        down: np.ndarray,
        members: np.ndarray,
        signs: np.ndarray,
        values: np.ndarray,
        inverse: np.ndarray | None = None,
        ridge: np.ndarray | float = 0.0,
        linear: np.ndarray | None = None,
    ):
        """Starts at an optimal x: zero but for its `values` at the `members` of the face.

        Args: `hessian` and `ridge`: Q = hessian + diag(ridge), (w, w);
        `gradient`, `up`, `down` (w,): a member's gradient is at the price
        of its sign, −down ≤ gradient ≤ up elsewhere. A member of sign 0 is free: it has no price
        and never leaves. `inverse`: of Q on the members, where it is known. `linear`: c, where it
        never moves; what leaps and `settle` take gradients from, against drift.
        """
        w, m = len(gradient), len(members)
        if isinstance(hessian, np.ndarray) and not hessian.flags.c_contiguous:
            hessian = hessian.T  # for its rows
        self.hessian, self.ridge = hessian, np.broadcast_to(ridge, (w,))
        self.diagonal = hessian.diagonal()
        self.gradient, self.linear = gradient.copy(), linear
        self._has_drifted = True  # the gradient, or nobody knows
        self.is_far = False  # whether the last leap was too far to settle
        self.up, self.down = np.minimum(up, _WIDE), np.minimum(down, _WIDE)
        self.size = m
        room = _room(m)
        self._members = np.zeros(room, int)
        self._members[:m] = members
        self._signs = np.zeros(room)
        self._signs[:m] = signs
        self._values = np.zeros(room)
        self._values[:m] = values
        self._waiting = np.ones(w, bool)  # to enter
        self._waiting[members] = False
        self._barred: list[int] = []  # from entering, until the walk has moved on
        self._rows = np.empty((room, w))  # of `hessian`, for the members
        self._rows[:m] = hessian[members]
        self._inverse = np.zeros((room, room), order="F")
        self._has_inverse = inverse is not None
        if inverse is not None:
            self._inverse[:m, :m] = inverse
        self._factor: BorderedCholesky | None = None  # which has followed the face too

    @property
    def face(self) -> np.ndarray:
        """The members, in the order of `signs` and `inverse`."""
        return self._members[: self.size]

    @property
    def signs(self) -> np.ndarray:
        return self._signs[: self.size]

    @property
    def values(self) -> np.ndarray:
        return self._values[: self.size]

    @property
    def x(self) -> np.ndarray:
        x = np.zeros(len(self.gradient))
        x[self.face] = self.values
        return x

    @property
    def inverse(self) -> np.ndarray:
        if not self._has_inverse:
            self._invert()
        return self._inverse[: self.size, : self.size]

    @property
    def known_inverse(self) -> np.ndarray | None:
        """A copy of the inverse, where a walk has left one."""
        return self.inverse.copy() if self._has_inverse else None

    def hold(self) -> BorderedCholesky:
        """Q on the face, factored; raises `Lost` where it is singular."""
        if self._factor is None or len(self._factor.border) > _WIDEST:
            order = np.argsort(self.face)
            members, square = self.face[order], self._square(order)
            self._factor = BorderedCholesky(self.hessian, self.ridge, members, square, _DEPENDENT)
        return self._factor

    def move(self, shift: np.ndarray, up: np.ndarray, down: np.ndarray) -> int:
        """To other data and prices, as `follow` says: at once where that can be, else by the knots."""
        changed = self.leap(shift, up, down)
        return self.follow(shift, up, down) if changed is None else changed

    def leap(self, shift: np.ndarray, up: np.ndarray, down: np.ndarray) -> int | None:
        """Moves as `follow` does, without the knots between; returns how many coordinates changed.

        None, and nothing has moved, where guesses at the face do not settle; `is_far` says whether
        that is for each being worse than the one before.
        """
        up, down = np.minimum(up, _WIDE), np.minimum(down, _WIDE)
        before = self.face.copy(), self.signs.copy(), self.values.copy()
        gradient, has_inverse = self.gradient, self._has_inverse
        self._admit()
        self.gradient = self.gradient + shift
        size = np.abs(self.gradient).max(initial=0)
        high, low = (price + (_OVER * price + _ROUNDING * size) for price in (up, down))
        changed, last = 0, np.inf
        self.is_far = False
        try:
            for _ in range(_GUESSES):
                face, wanted = self.face, self._wanted(up, down)
                move = self.hold().solve(face, self.gradient[face] - wanted)
                self.values[:] += move
                if self.linear is None:
                    self.gradient -= self._product(move)
                else:
                    self._differentiate()
                if not np.abs(self.gradient[face] - wanted).max(initial=0) <= _CLOSE * size:
                    break  # members that depend on each other move far, and their gradients are rounding
                wrong = self.values * self.signs < 0
                over = self._waiting & ((self.gradient > high) | (self.gradient < -low))
                if not wrong.any() and not over.any():
                    if not self.hold().is_independent():
                        break  # optimal, and nothing to go on from: a singular face has no inverse
                    self.up, self.down = up, down
                    return changed
                wrong, entering = np.flatnonzero(wrong), np.flatnonzero(over)
                before_last, last = last, len(wrong) + len(entering)
                if last > max(before_last, _FEW):
                    self.is_far = True
                    break
                changed += last
                self._change(wrong, entering)
        except (NumericalBreakdown, np.linalg.LinAlgError):
            pass
        self.gradient, self._has_inverse = gradient, has_inverse
        self._return(*before)
        return None

    def _wanted(self, up: np.ndarray, down: np.ndarray) -> np.ndarray:
        """The gradients of the members where they are at the prices of their signs."""
        face, signs = self.face, self.signs
        return np.where(signs > 0, up[face], np.where(signs < 0, -down[face], 0))

    def _error(self, up: np.ndarray, down: np.ndarray) -> np.ndarray:
        """How far the gradients of the members are from that."""
        return self.gradient[self.face] - self._wanted(up, down)

    def _differentiate(self) -> None:
        """The gradient at the values, from the linear term."""
        self.gradient = self.linear - self._product(self.values)
        self._has_drifted = False

    def _product(self, move: np.ndarray) -> np.ndarray:
        """Q times a move of the members."""
        out = move @ self._rows[: self.size]
        out[self.face] += self.ridge[self.face] * move
        return out

    def _square(self, order: np.ndarray) -> np.ndarray:
        """Q on the members in some order; in ascending order they are gathered several times faster."""
        members = self.face[order]
        some = self._rows[: self.size].take(members, axis=1)[order]
        some.flat[:: self.size + 1] += self.ridge[members]
        return some

    def _change(self, wrong: np.ndarray, entering: np.ndarray) -> None:
        """The face without the members at some places, and with some coordinates, at zero."""
        members, gone = self.face[wrong], self.values[wrong]
        self.gradient += gone @ self._rows[wrong]
        self.gradient[members] += self.ridge[members] * gone
        self.hold().change(self.face[wrong], entering)
        self._has_inverse = False
        for k in wrong[::-1].tolist():
            self._drop(k)
        for j in entering.tolist():
            self._add(j, 1.0 if self.gradient[j] > 0 else -1.0, 0.0)

    def _return(self, face: np.ndarray, signs: np.ndarray, values: np.ndarray) -> None:
        """Back to a face where a leap began."""
        self.size = m = len(face)
        self._members[:m], self._signs[:m], self._values[:m] = face, signs, values
        self._rows[:m] = self.hessian[face]
        self._waiting[:] = True
        self._waiting[face] = False
        self._factor = None

    def follow(
        self, shift: np.ndarray, up: np.ndarray, down: np.ndarray, stops: list[Stop] | None = None
    ) -> int:
        """Moves the gradient by `shift` and the prices to `up` and `down`; returns the knots passed.

        `stops` collects the knots, where given. Raises `Lost` after too many of them.
        """
        up, down = np.minimum(up, _WIDE), np.minimum(down, _WIDE)
        self._factor, self._has_drifted = None, True
        rises = np.stack([up - self.up, down - self.down])
        slack = np.stack([self.up - self.gradient, self.down + self.gradient])
        is_still = not shift.any()
        slow = _SLOW * max(np.abs(shift).max(), np.abs(rises).max())
        limit = 20 * (len(up) + 50)
        done, knots = 0.0, 0
        while True:
            face, signs = self.face, self.signs
            push = -signs * rises[(signs < 0).view(np.int8), face]  # as its price rises
            if not is_still:
                push += shift[face]
            move = self.inverse @ push
            drift = -self._product(move)
            if not is_still:
                drift += shift
            rates = rises + _TOWARDS * drift
            step, event, coordinate = self._next(move, slack, rates, slow)
            last = step >= 1 - done
            step = 1 - done if last else step
            self._values[: self.size] += step * move
            self.gradient += step * drift
            if step > 0:
                self._admit()
            if last:
                self.up, self.down = up, down
                return knots
            slack += step * rates
            done += step
            knots += 1
            if knots > limit:
                raise NumericalBreakdown
            if event == "leave":
                j = int(face[coordinate])
                self._leave(coordinate)
                if step == 0:
                    self._bar(j)
            else:
                self._enter(coordinate, 1.0 if event == "up" else -1.0)
            if stops is not None:
                stops.append(Stop(done, self.x))

    def settle(self) -> None:
        """Solves the equations of the face afresh for its linear term, against drift."""
        assert self.linear is not None
        price = np.where(self.signs < 0, self.down[self.face], self.up[self.face])
        enough = max(
            np.abs(self.linear).max(initial=0), (price * np.abs(self.signs)).max(initial=0)
        )
        enough *= _SETTLED
        worst = np.inf
        for attempt in range(6):
            if self._has_drifted:
                self._differentiate()
            error = self._error(self.up, self.down)
            size = np.abs(error).max(initial=0)
            if size <= enough:
                break
            if size > 0.5 * worst:
                if attempt > 3:
                    break
                self._invert()
            worst = size
            self.values[:] += self._solve(error)
            self._has_drifted = True
        # A coordinate on the wrong side by rounding is at its knot.
        self.values[self.values * self.signs < 0] = 0

    def bend(self, diagonal: np.ndarray) -> None:
        """Replaces Q by Q + diag(diagonal) at the same x and gradient."""
        self.ridge = self.ridge + diagonal
        self._forget()

    def _solve(self, rhs: np.ndarray) -> np.ndarray:
        return self.inverse @ rhs if self._has_inverse else self.hold().solve(self.face, rhs)

    def _forget(self) -> None:
        """What is known of Q on the face does not serve any more."""
        self._has_inverse, self._factor = False, None

    def _next(self, move, slack, rates, slow):
        """(step, event, coordinate): the first knot ahead; the step is infinite where there is none."""
        coordinate, step = _first_zero(self.values, move, move * self.signs < 0)
        event = "leave"
        place, ahead = _first_zero(slack, rates, (rates < -slow) & self._waiting)
        if ahead < step:
            side, coordinate = divmod(place, rates.shape[1])
            step, event = ahead, ("up", "down")[side]
        return step, event, coordinate

    def _enter(self, j: int, sign: float) -> None:
        u, pivot = self._pivot(j)
        value = 0.0
        least = _DEPENDENT * (self.diagonal[j] + self.ridge[j])
        if pivot <= least:
            found = self._exchange(sign, u)
            if found is None:
                self._bar(j)
                return
            k, value = found
            self._leave(k)
            u, pivot = self._pivot(j)
            if pivot <= least:
                raise NumericalBreakdown
        self._append(j, sign, u, pivot, value)

    def _pivot(self, j: int) -> tuple[np.ndarray, float]:
        """What the members make of column j, and its square that they leave."""
        q = self.hessian[j][self.face]
        u = self.inverse @ q
        return u, self.diagonal[j] + self.ridge[j] - q @ u

    def _bar(self, j: int) -> None:
        self._waiting[j] = False
        self._barred.append(j)

    def _admit(self) -> None:
        """Lets those wait again that were barred."""
        if self._barred:
            self._waiting[self._barred] = True
            self._waiting[self.face] = False
            self._barred.clear()

    def _append(self, j: int, sign: float, u: np.ndarray, pivot: float, value: float) -> None:
        self._add(j, sign, value)
        m = self.size - 1
        self._rank_one(u, 1 / pivot)
        self._inverse[:m, m] = self._inverse[m, :m] = -u / pivot
        self._inverse[m, m] = 1 / pivot

    def _add(self, j: int, sign: float, value: float) -> None:
        """One more member, at the end; the inverse does not know of it."""
        m = self.size
        if m == len(self._members):
            self._grow()
        self._rows[m] = self.hessian[j]
        self._members[m], self._signs[m], self._values[m] = j, sign, value
        self._waiting[j] = False
        self.size = m + 1

    def _grow(self) -> None:
        room = _room(self.size + 1)
        tables = dict.fromkeys(("_members", "_signs", "_values"), (room,))
        tables |= {"_inverse": (room, room), "_rows": (room, len(self.gradient))}
        for name, shape in tables.items():
            old = getattr(self, name)
            new = np.zeros(shape, old.dtype, order="F" if name == "_inverse" else "C")
            new[tuple(slice(0, size) for size in old.shape)] = old
            setattr(self, name, new)

    def _exchange(self, sign: float, u: np.ndarray) -> tuple[int, float] | None:
        """Moves along the null direction of a dependent column until a member is zero.

        Returns the member's place, and the coefficient that the column has then. The fit does not
        change, and neither does the price, since the gradient of the column is at its price.
        """
        move = -sign * u
        place, step = _first_zero(self.values, move, move * self.signs < 0)
        if np.isinf(step):
            return None
        self._values[: self.size] += step * move
        return place, step * sign

    def _leave(self, k: int) -> None:
        last = self.size - 1
        if k != last:
            inverse = self.inverse
            inverse[:, [k, last]] = inverse[:, [last, k]]
            inverse[[k, last], :] = inverse[[last, k], :]
        self._drop(k)
        b = self._inverse[:last, last].copy()
        self._rank_one(b, -1 / self._inverse[last, last])

    def _drop(self, k: int) -> None:
        """One member less; the last takes its place. The inverse does not know of it."""
        last = self.size - 1
        self._waiting[self._members[k]] = True
        if k != last:
            for table in (self._members, self._signs, self._values, self._rows):
                table[k] = table[last]
        self.size = last

    def _rank_one(self, u: np.ndarray, factor: float) -> None:
        """Adds factor · u uᵀ to the inverse, in place: half of the walk's time goes through here."""
        padded = np.zeros(len(self._inverse))
        padded[: len(u)] = u
        self._inverse = _ger(factor, padded, padded, a=self._inverse, overwrite_a=1)

    def _invert(self) -> None:
        some = self._square(np.arange(m := self.size))
        if m:
            factor, failed = _potrf(some.T, lower=1, overwrite_a=1)
            if failed:
                raise NumericalBreakdown
            self._inverse[:m, :m] = _mirrored(_potri(factor, lower=1, overwrite_c=1)[0])
        self._has_inverse = True


def _mirrored(half: np.ndarray) -> np.ndarray:
    """A symmetric matrix from its lower half, in place."""
    for i in range(0, len(half), _STRIP):
        half[i : i + _STRIP, i + _STRIP :] = half[i + _STRIP :, i : i + _STRIP].T
        corner = np.tril(half[i : i + _STRIP, i : i + _STRIP])
        half[i : i + _STRIP, i : i + _STRIP] = corner + np.tril(corner, -1).T
    return half


def _first_zero(x: np.ndarray, rate: np.ndarray, some: np.ndarray) -> tuple[int, float]:
    """Which of some entries, that their rates take to zero, is there first, and when: never, if none is."""
    if not x.size:
        return -1, np.inf
    times = np.full(x.shape, -np.inf)
    np.divide(x, rate, out=times, where=some)
    place = int(times.argmax())
    return place, max(-times.flat[place], 0.0)


def _room(size: int) -> int:
    """Space for this many members and some more."""
    return 64 * (size // 64 + 1)
