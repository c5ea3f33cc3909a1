"""The first engine: FISTA to find the face of the solution, Newton to land on it, a certificate to stop.

It is one traced function, so that `jit`, `vmap`, a grid and an eager call all run the same solver.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ..._status import Status
from ...composite._step import ProxGradState, advance, start
from ...penalties import Penalty
from ..data._inputs import default_tolerance
from ..model._certificate import certify, is_inside
from ..model._newton import newton_step
from ..model._problem import Outcome, Point, Problem
from ..model._unpenalised_newton import identified, polish_intercept

_FIRST_PERIOD = 10  # FISTA steps before the first look at the certificate
_LONGEST_PERIOD = 320
_LANDING = 0.1  # the share of the measure that a Newton step must leave to be started from
_STALLED_ROUNDS = 20  # looks without progress after which rounding is taken for the cause
_EXTRA_ROUNDS = 3  # looks spent on landing exactly, once the tolerance is met
_ROUNDING = 10  # units of it within which objectives are equal


class _Candidate(eqx.Module):
    """A point, its objective (inf outside of a constraint), and how far from optimal it may be."""

    point: Point
    objective: Float[Array, ""]
    measure: Float[Array, ""]

    def is_lower(self, other: _Candidate) -> Array:
        """Whether its objective is below the other's by more than rounding."""
        return self.objective < other.objective - self._rounding

    def is_better(self, other: _Candidate, tol: Array) -> Array:
        """Whether to return it in place of the other.

        Points that meet `tol` are ranked by their measure. Others by their objective, since a gap is
        a bound that may be loose; by their measure only where rounding hides which objective is less.
        """
        meets, other_meets = self.measure <= tol, other.measure <= tol
        not_higher = self.objective <= other.objective + self._rounding
        lower = self.is_lower(other) | (not_higher & (self.measure < other.measure))
        return jnp.where(other_meets, meets & (self.measure < other.measure), meets | lower)

    @property
    def _rounding(self) -> Array:
        return _ROUNDING * jnp.finfo(self.objective.dtype).eps * jnp.abs(self.objective)


class _Round(eqx.Module):
    state: ProxGradState
    best: _Candidate
    least: Float[Array, ""]  # the least measure so far, of whatever point
    face: Bool[Array, "p *k"]
    period: Int[Array, ""]  # FISTA steps before the next look: none before the first
    stalled: Int[Array, ""]
    met: Int[Array, ""]  # rounds since the tolerance was met


def solve(problem: Problem, pen: Penalty, init: Point, tol: Array, max_steps: Array) -> Outcome:
    """Solves to `tol`, then tries to land exactly; returns the best certified point it saw."""
    metric = problem.metric(pen)
    eps = jnp.finfo(problem.y.dtype).eps
    # Who asks for less than is usual is not made to wait for more.
    wants_exact = tol <= default_tolerance(problem.y.dtype)
    extra_rounds = jnp.where(wants_exact, _EXTRA_ROUNDS, 0)

    def prox(z: Point, step: Point) -> Point:
        return Point(
            pen.even_prox(z.beta, step.beta),
            z.intercept if problem.fit_intercept else jnp.zeros_like(z.intercept),
        )

    def objective(point: Point) -> Array:
        return problem.smooth(point) + pen.value(point.beta)

    def fista(state: ProxGradState) -> ProxGradState:
        return advance(problem.smooth, prox, state, metric=metric)

    def examine(point: Point) -> _Candidate:
        fitted = problem.x.dot(point.beta)
        point = polish_intercept(problem, point, fitted)
        found = certify(problem, pen, point, fitted)
        measure = jnp.where(jnp.isnan(found.measure), jnp.inf, found.measure)
        objective = jnp.where(is_inside(pen, point.beta), found.objective, jnp.inf)
        return _Candidate(point, objective, measure)

    def look(round_: _Round) -> _Round:
        state, best = round_.state, round_.best
        count = jnp.minimum(round_.period, max_steps - state.num_steps)
        state = jax.lax.fori_loop(0, count, lambda _, s: _where(s.failed, s, fista(s)), state)
        face = state.x.beta != 0
        attempt = jnp.all(face == round_.face) | (round_.met > 0)
        attempt &= wants_exact | (best.measure > tol)
        newton = newton_step(problem, pen, state.x, state.curvature, attempt)
        # Both in one product: the certificate is what a look costs.
        both = jax.tree.map(lambda *leaves: jnp.stack(leaves), state.x, newton)
        both = jax.vmap(examine)(both)
        own, landed = (jax.tree.map(lambda leaf, i=i: leaf[i], both) for i in range(2))
        newton_wins = attempt & landed.is_better(own, tol)
        # A step that lands gains orders of magnitude. One that gains little is on the wrong face,
        # where going on would cost the acceleration; one that gains nothing on the best would lead
        # in a circle.
        accept = newton_wins & (landed.measure < _LANDING * own.measure)
        accept &= landed.measure < 0.9 * round_.least
        chosen = _where(newton_wins, landed, own)

        progress = (chosen.measure < 0.9 * round_.least) | chosen.is_lower(best)
        best = _where(chosen.is_better(best, tol), chosen, best)
        restarted = start(chosen.point, state.curvature)
        restarted = eqx.tree_at(lambda s: s.num_steps, restarted, state.num_steps)
        met = jnp.where(best.measure <= tol, round_.met + 1, 0)
        longer = jnp.clip(2 * round_.period, _FIRST_PERIOD, _LONGEST_PERIOD)
        return _Round(
            state=_where(accept, restarted, state),
            best=best,
            least=jnp.minimum(chosen.measure, round_.least),
            face=face,
            period=jnp.where(accept | (met > 0), _FIRST_PERIOD, longer),
            stalled=jnp.where(progress, 0, round_.stalled + 1),
            met=met,
        )

    def is_done(round_: _Round) -> Array:
        exact = round_.best.measure <= 100 * eps
        met = (round_.met > extra_rounds) | ((round_.met > 0) & exact)
        spent = round_.state.num_steps >= max_steps
        stuck = round_.stalled >= _STALLED_ROUNDS
        return met | spent | stuck | round_.state.failed

    def body(carry: tuple[_Round, Array]) -> tuple[_Round, Array]:
        round_ = look(carry[0])
        return round_, is_done(round_)

    init = _inside(problem, pen, init)
    worse = ~(objective(init) <= objective(problem.null.point)) & is_inside(
        pen, problem.null.point.beta
    )
    init = _where(problem.null.is_trivial | worse, problem.null.point, init)
    far = jnp.asarray(jnp.inf, problem.y.dtype)
    first = _Round(
        state=start(init, problem.smoothness),
        best=_Candidate(init, far, far),
        least=far,
        face=init.beta != 0,
        period=jnp.zeros((), jnp.int32),
        stalled=jnp.zeros((), jnp.int32),
        met=jnp.zeros((), jnp.int32),
    )
    final, _ = jax.lax.while_loop(lambda c: ~c[1], body, (first, ~problem.is_valid))
    return Outcome(final.best.point, final.state.num_steps, _status(problem, final, tol, max_steps))


def _status(problem: Problem, final: _Round, tol: Array, max_steps: Array) -> Array:
    status = jnp.where(final.state.num_steps >= max_steps, Status.MAX_STEPS, Status.PRECISION_LIMIT)
    status = jnp.where(final.state.failed, Status.NOT_FINITE, status)
    status = jnp.where(final.best.measure <= tol, Status.CONVERGED, status)
    return jnp.where(problem.is_valid, status, Status.INVALID_INPUT).astype(jnp.int32)


def _inside(problem: Problem, pen: Penalty, point: Point) -> Point:
    """The start, moved into the domain of a constraint, and to where the loss identifies it."""
    free = pen.masks(point.beta.shape).unpenalised
    beta = pen.prox(point.beta, jnp.zeros((), point.beta.dtype))
    return Point(identified(problem, free, beta), point.intercept)


def _where(condition: Array, yes: Any, no: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)
