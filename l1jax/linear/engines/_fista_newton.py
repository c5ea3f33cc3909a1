"""FISTA to find the active set of the solution, Newton to polish it, a certificate to stop.

All of it is one traced function, so that `jit`, `vmap`, a grid and an eager call run the same solver. What
it leaves an eager call short of goes to `solve_ill_conditioned`, in which proximal point steps find
the active set: compiled by itself, since few fits need it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ..._status import Status
from ...composite._step import ProxGradState, advance, start
from ...penalties import Penalty
from ..data._precision import default_tolerance
from ..model._certificate import certify, is_inside
from ..model._newton import newton_step
from ..model._problem import Outcome, Point, Problem
from ..model._proximal_point import proximal_point_step
from ..model._unpenalised_newton import identified, polish_intercept

_FIRST_PERIOD = 10  # FISTA steps before the first certificate
_LONGEST_PERIOD = 320
_NEWTON_FRACTION = 0.1  # of its measure that a Newton step may leave for FISTA to restart from it
_STALLED_ROUNDS = 20  # certificates without progress after which rounding is taken for the cause
_EXTRA_ROUNDS = 3  # certificates after the tolerance is met, in which Newton may become exact
_ROUNDING = 10  # units of rounding within which objectives are equal
_FIRST_LENGTH = 1e3  # of a proximal point step, in units of a gradient step
_LONGEST = 1e10
_GROWTH = 10.0  # of the length after a step that went down; it falls as fast after others


class _Candidate(eqx.Module):
    """A point, its objective (inf outside of a constraint), and how far from optimal it may be."""

    point: Point
    objective: Float[Array, ""]
    measure: Float[Array, ""]

    def is_lower(self, other: _Candidate) -> Array:
        """Whether its objective is below the other's by more than rounding."""
        return self.objective < other.objective - self.rounding

    def is_better(self, other: _Candidate, tol: Array) -> Array:
        """Whether to return it in place of the other.

        Points that meet `tol` are ranked by their measure, unless the other's is rounding: where nothing is
        in, zeros stay. Others by their objective, since a gap is a bound that may be loose; by their measure
        only where rounding hides which objective is less.
        """
        meets, other_meets = self.measure <= tol, other.measure <= tol
        is_exact = other.measure <= jnp.finfo(tol.dtype).eps
        not_higher = self.objective <= other.objective + self.rounding
        lower = self.is_lower(other) | (not_higher & (self.measure < other.measure))
        gains = meets & (self.measure < other.measure) & ~is_exact
        return jnp.where(other_meets, gains, meets | lower)

    @property
    def rounding(self) -> Array:
        return _ROUNDING * jnp.finfo(self.objective.dtype).eps * jnp.abs(self.objective)


class _Round(eqx.Module):
    """The state between two certificates."""

    state: ProxGradState
    best: _Candidate
    least: Float[Array, ""]  # the least measure so far, of whatever point
    objective: Float[Array, ""]  # the least of where FISTA went on from
    support: Bool[Array, "p *k"]
    period: Int[Array, ""]  # FISTA steps before the next certificate: none before the first
    stalled: Int[Array, ""]  # rounds without progress
    met: Int[Array, ""]  # rounds since the tolerance was met
    length: Float[Array, ""]  # of the next proximal point step


class _Proposal(NamedTuple):
    """A point to go on from in place of FISTA's."""

    point: Point
    is_tried: Array  # else it is FISTA's own
    length: Array  # of the next proximal point step where this one goes down
    num_steps: Array  # that it took


def solve(problem: Problem, pen: Penalty, init: Point, tol: Array, max_steps: Array) -> Outcome:
    """Solves to `tol`, then tries to become exact; returns the best certified point.

    Rounds of: 1. FISTA steps, more in each round; 2. a Newton step on the active set, once that stays;
    3. the certificates of both; 4. the better one is kept, and FISTA restarts from a Newton step that gained
    an order of magnitude.
    """
    return _run(
        _Method(problem, pen, tol, max_steps, problem.metric(pen), problem.max_step(pen)), init
    )


def solve_ill_conditioned(
    problem: Problem, pen: Penalty, init: Point, tol: Array, max_steps: Array
) -> Outcome:
    """Solves as `solve` does, with proximal point steps in place of Newton's until `tol` is met.

    Of convex penalties: where columns are nearly equal, or far from zero without an intercept, gradient steps
    take forever, and Newton steps from a wrong active set lead nowhere.
    """
    return _run(
        _ProximalMethod(problem, pen, tol, max_steps, problem.metric(pen), problem.max_step(pen)),
        init,
    )


def _run(method: _Method, init: Point) -> Outcome:
    """Runs rounds until one is the last."""
    problem, first = method.problem, method.first_round(init)

    def body(carry: tuple[_Round, Array]) -> tuple[_Round, Array]:
        round_ = method.next_round(carry[0])
        return round_, method.is_done(round_)

    final, _ = jax.lax.while_loop(lambda carry: ~carry[1], body, (first, ~problem.is_valid))
    status = _status(problem, final, method.tol, method.max_steps)
    return Outcome(final.best.point, final.state.num_steps, status)


class _Method(NamedTuple):
    """The steps of `solve`, for one problem."""

    problem: Problem
    pen: Penalty
    tol: Array
    max_steps: Array
    metric: Point
    max_step: Point  # of the prox

    @property
    def wants_exact(self) -> Array:
        """Whether `tol` is no looser than usual; a user who asks for less need not wait for more."""
        return self.tol <= default_tolerance(self.problem.y.dtype)

    def first_round(self, init: Point) -> _Round:
        """Returns the state at the start: `init`, or the null model where that is better."""
        problem, pen = self.problem, self.pen
        init = _inside(problem, pen, init)
        null = problem.null.point
        worse = ~(self.objective(init) <= self.objective(null)) & is_inside(pen, null.beta)
        init = _where(problem.null.is_trivial | worse, null, init)
        far = jnp.asarray(jnp.inf, problem.y.dtype)
        zero = jnp.zeros((), jnp.int32)
        return _Round(
            state=start(init, problem.smoothness),
            best=_Candidate(init, far, far),
            least=far,
            objective=far,
            support=init.beta != 0,
            # 0 may be a stationary point of a penalty that is not convex, which steps can leave.
            period=zero if pen.convex else zero + _FIRST_PERIOD,
            stalled=zero,
            met=zero,
            length=jnp.asarray(_FIRST_LENGTH, problem.y.dtype),
        )

    def next_round(self, round_: _Round) -> _Round:
        """Returns the state after one round of FISTA, Newton and certificates."""
        state, best = self.fista(round_), round_.best
        proposal = self.propose(round_, state)
        attempt = proposal.is_tried
        state = eqx.tree_at(lambda s: s.num_steps, state, state.num_steps + proposal.num_steps)
        own, polished = self.certify_both(state.x, proposal.point)
        newton_wins = attempt & polished.is_better(own, self.tol)
        # A right active set gains orders of magnitude. A step that gains little is on a wrong one, where
        # restarting would cost the acceleration; one that gains nothing on the best would cycle.
        accept = newton_wins & (polished.measure < _NEWTON_FRACTION * own.measure)
        accept &= polished.measure < 0.9 * round_.least
        # On the way to it, FISTA is slow where a step lowers the objective by more than a whole round did.
        by_fista, by_newton = round_.objective - own.objective, own.objective - polished.objective
        is_least = polished.objective < round_.objective - own.rounding
        accept |= attempt & is_least & polished.is_lower(own) & (by_newton > by_fista)
        chosen = _where(newton_wins | accept, polished, own)

        progress = (chosen.measure < 0.9 * round_.least) | chosen.is_lower(best)
        progress |= own.objective < round_.objective - own.rounding
        best = _where(chosen.is_better(best, self.tol), chosen, best)
        # Where nothing is gained, rounding may have failed the test of a step size, and shortened them.
        usual = jnp.minimum(state.curvature, self.problem.smoothness)
        curvature = jnp.where(progress, state.curvature, usual)
        state = eqx.tree_at(lambda s: s.curvature, state, curvature)
        restarted = start(chosen.point, state.curvature)
        restarted = eqx.tree_at(lambda s: s.num_steps, restarted, state.num_steps)
        met = jnp.where(best.measure <= self.tol, round_.met + 1, 0)
        longer = jnp.clip(2 * round_.period, _FIRST_PERIOD, _LONGEST_PERIOD)
        return _Round(
            state=_where(accept, restarted, state),
            best=best,
            least=jnp.minimum(chosen.measure, round_.least),
            objective=jnp.minimum(
                round_.objective, jnp.where(accept, polished.objective, own.objective)
            ),
            support=state.x.beta != 0,
            period=jnp.where(accept | (met > 0), _FIRST_PERIOD, longer),
            stalled=jnp.where(progress, 0, round_.stalled + 1),
            met=met,
            length=jnp.where(
                polished.is_lower(own), proposal.length, jnp.maximum(round_.length / _GROWTH, 1)
            ),
        )

    def propose(self, round_: _Round, state: ProxGradState) -> _Proposal:
        """Returns a Newton step, once the active set stays."""
        attempt = jnp.all((state.x.beta != 0) == round_.support) | (round_.met > 0)
        attempt &= self.wants_exact | (round_.best.measure > self.tol)
        point = newton_step(self.problem, self.pen, state.x, state.curvature, attempt)
        return _Proposal(point, attempt, round_.length, jnp.zeros((), jnp.int32))

    def is_done(self, round_: _Round) -> Array:
        """Whether the tolerance is met and polished, the steps are spent, or nothing improves."""
        extra_rounds = jnp.where(self.wants_exact, _EXTRA_ROUNDS, 0)
        exact = round_.best.measure <= 100 * jnp.finfo(self.problem.y.dtype).eps
        met = (round_.met > extra_rounds) | ((round_.met > 0) & exact)
        spent = round_.state.num_steps >= self.max_steps
        stuck = round_.stalled >= _STALLED_ROUNDS
        return met | spent | stuck | round_.state.failed

    def fista(self, round_: _Round) -> ProxGradState:
        """Returns the state after the FISTA steps of a round."""
        count = jnp.minimum(round_.period, self.max_steps - round_.state.num_steps)

        def step(_: Array, state: ProxGradState) -> ProxGradState:
            moved = advance(
                self.problem.smooth, self.prox, state, metric=self.metric, max_step=self.max_step
            )
            return _where(state.failed, state, moved)

        return jax.lax.fori_loop(0, count, step, round_.state)

    def prox(self, z: Point, step: Point) -> Point:
        """Returns the prox of the penalty; the intercept is free, or zero where there is none."""
        has_intercept = self.problem.fit_intercept
        intercept = z.intercept if has_intercept else jnp.zeros_like(z.intercept)
        return Point(self.pen.uniform_prox(z.beta, step.beta), intercept)

    def objective(self, point: Point) -> Array:
        return self.problem.smooth(point) + self.pen.value(point.beta)

    def certify_both(self, own: Point, newton: Point) -> tuple[_Candidate, _Candidate]:
        """Returns both points with their certificates, from one product with X: it is what these cost."""
        both = jax.tree.map(lambda *leaves: jnp.stack(leaves), own, newton)
        both = jax.vmap(self.certify)(both)
        first, second = (jax.tree.map(lambda leaf, i=i: leaf[i], both) for i in range(2))
        return first, second

    def certify(self, point: Point) -> _Candidate:
        """Returns a point, its intercept polished, with its certificate."""
        fitted = self.problem.x.dot(point.beta)
        point = polish_intercept(self.problem, point, fitted)
        found = certify(self.problem, self.pen, point, fitted)
        measure = jnp.where(jnp.isnan(found.measure), jnp.inf, found.measure)
        objective = jnp.where(is_inside(self.pen, point.beta), found.objective, jnp.inf)
        return _Candidate(point, objective, measure)


class _ProximalMethod(_Method):
    """The steps of `solve_ill_conditioned`."""

    def propose(self, round_: _Round, state: ProxGradState) -> _Proposal:
        """Returns a proximal point step, and Newton steps once the tolerance is met."""
        newton, is_far = super().propose(round_, state), ~(round_.best.measure <= self.tol)
        sigma = round_.length / self.problem.smoothness
        step = proximal_point_step(self.problem, self.pen, state.x, sigma, is_far)
        longer = jnp.where(step.is_solved, _GROWTH, 1 / _GROWTH) * round_.length
        return _Proposal(
            _where(is_far, step.point, newton.point),
            is_far | newton.is_tried,
            jnp.where(is_far, jnp.clip(longer, 1, _LONGEST), round_.length),
            step.num_steps,
        )


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
