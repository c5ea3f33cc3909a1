"""What a derivative costs: beside the solve, beside jaxopt's, and a thousand at once.

python benchmarks/derivatives.py [--short] [--json PATH]

Times are medians; a ratio is of medians of interleaved runs, so that the noise of a machine meets
all alike.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import l1jax
import report
from measure import peak, resident
from problems import correlated, linear_target

HERE = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="tiny shapes: its times mean nothing")
    parser.add_argument("--json", type=Path, default=HERE / "output" / "derivatives.json")
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    short = arguments.short
    result = {
        "command": " ".join(["python", "benchmarks/derivatives.py", *sys.argv[1:]]),
        "machine": report.machine(),
        "beside the solve": beside_the_solve(*((40, 200, 2) if short else (500, 10_000, 15))),
        "beside jaxopt": beside_jaxopt(*((40, 100, 10, 2) if short else (500, 2000, 100, 15))),
        "in one batch": in_one_batch(*((30, 8, 3, 2) if short else (200, 30, 100, 10))),
    }
    print(report.machine_line(result["machine"]))
    for name, found in result.items():
        if isinstance(found, dict) and name != "machine":
            print(f"\n{name}")
            for what, value in found.items():
                print(f"  {what:48} {value if isinstance(value, str) else f'{value:.4g}'}")
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\nThe numbers: {arguments.json}")


def beside_the_solve(n: int, p: int, repeats: int) -> dict:
    """The gradient of a held-out loss, against the loss: eager, warm, at λmax/10."""
    X, y, X_held, y_held = data(n, p, active=50)
    lam = 0.1 * float(l1jax.lambda_max(X, y, l1jax.L1()))

    def held_out(lam):
        fit = l1jax.fit(X, y, l1jax.L1(lam))
        return jnp.mean((y_held - fit.predict(X_held)) ** 2), fit.n_nonzero

    loss, gradient = lambda lam: held_out(lam)[0], jax.value_and_grad(held_out, has_aux=True)
    (_, active), slope = gradient(lam)
    before = resident()
    gradient(1.01 * lam)
    memory = peak() - before
    h = 1e-5 * lam
    difference = (loss(lam + h) - loss(lam - h)) / (2 * h)
    solve, both = times(lambda: loss(lam), lambda: gradient(lam), repeats=repeats)
    return {
        "problem": f"{n} × {p}, AR(0.5), {int(active)} active, λmax/10",
        "solve and loss (ms)": 1e3 * solve,
        "with the gradient (ms)": 1e3 * both,
        "the gradient adds (%)": 100 * (both / solve - 1),
        "memory at most, beyond what was held (MB)": memory / 1e6,
        "a p × p matrix would take (MB)": 8 * p * p / 1e6,
        "off the difference quotient (relative)": float(abs(slope / difference - 1)),
    }


def beside_jaxopt(n: int, p: int, wanted: int, repeats: int) -> dict:
    """The derivative alone: of a function of the same, exact solution, by λ."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import jaxopt

    X, y, _, _ = data(n, p, active=wanted // 2)
    lam = strength_for(X, y, wanted)
    weight = jnp.asarray(np.random.default_rng(1).normal(size=p))

    def loss(beta, X, y):
        return 0.5 * jnp.mean((y - X @ beta) ** 2)

    solver = jaxopt.ProximalGradient(loss, jaxopt.prox.prox_lasso)
    found = l1jax.fit(X, y, l1jax.L1(lam), fit_intercept=False, tol=1e-13)
    # With the linear solver that is its default.
    pull = jaxopt.implicit_diff.root_vjp
    theirs = jax.jit(lambda x, lam: pull(solver.optimality_fun, x, (lam, X, y), weight)[0])
    ours, compiled = derivative_alone(X, y, found, weight)
    inside = np.asarray(found.coef) != 0
    part = np.asarray(X)[:, inside]
    gram = part.T @ part / n
    exact = -np.asarray(weight)[inside] @ np.linalg.solve(gram, np.sign(found.coef[inside]))
    coef = jnp.asarray(found.coef)
    program, own, other = times(
        lambda: compiled(coef, lam),
        lambda: ours(lam),
        lambda: theirs(coef, lam),
        repeats=repeats,
    )
    return {
        "problem": f"{n} × {p}, AR(0.5), {int(inside.sum())} active",
        "l1jax, compiled (ms)": 1e3 * program,
        "l1jax, eager, with JAX's tracing of it (ms)": 1e3 * own,
        "jaxopt, compiled (ms)": 1e3 * other,
        "times cheaper, both compiled": other / program,
        "times cheaper, l1jax eager": other / own,
        "l1jax off the closed form (relative)": float(
            max(abs(ours(lam) / exact - 1), abs(compiled(coef, lam) / exact - 1))
        ),
        "jaxopt off the closed form (relative)": float(abs(theirs(coef, lam) / exact - 1)),
    }


def derivative_alone(X, y, found, weight):
    """The derivative of weight·β(λ) from a solution that is known: as `fit` adds it, and its program.

    The first is a function of λ that JAX traces; the second is the compiled function that it calls.
    """
    from l1jax.linear.data._inputs import read
    from l1jax.linear.derivatives import _differentiable
    from l1jax.linear.model._prepare import data_of, prepare_inputs

    inputs = read(X, y, l1jax.L1(1.0), l1jax.SquaredError(), None, None)
    problem = prepare_inputs(inputs, inputs.pen, inputs.loss, False, False)
    given = data_of(inputs, inputs.loss, False, False)

    def inner(lam):
        return (
            weight @ _differentiable.differentiable_fit(found, problem, given, l1jax.L1(lam)).coef
        )

    calls = []
    program = _differentiable._columns
    _differentiable._columns = lambda *args: calls.append(args) or program(*args)
    jax.grad(inner)(float(found.lam))
    _differentiable._columns = program
    problem, tree, known, (place,), (_, *rest), at = calls[0]

    problem, known, rest, at = jax.device_put((problem, known, rest, at))

    @jax.jit
    def column(problem, known, values, at):  # X is an argument: none of it is a constant
        (found, *_), *_ = program(problem, tree, known, (place,), values, at)[0]
        return weight @ found

    def compiled(coef, lam):
        return column(problem, [*known[:place], lam, *known[place + 1 :]], (coef, *rest), at)

    return jax.grad(inner), compiled


def in_one_batch(n: int, p: int, n_lams: int, n_folds: int) -> dict:
    """Gradients of the held-out loss by λ: every strength and fold in one `vmap`."""
    X, y, _, _ = data(n, p, active=5)
    biggest = float(l1jax.lambda_max(X, y, l1jax.L1()))
    lams = biggest * jnp.logspace(-0.05, -2.5, n_lams)
    inside = np.arange(n) % n_folds == np.arange(n_folds)[:, None]

    def missed(lam, inside):
        fit = l1jax.fit(X, y, l1jax.L1(lam), sample_weight=jnp.where(inside, 0.0, 1.0), tol=1e-10)
        return jnp.sum(jnp.where(inside, (y - fit.predict(X)) ** 2, 0.0)) / jnp.sum(inside)

    one = jax.grad(missed)
    every = jax.jit(jax.vmap(jax.vmap(one, (None, 0)), (0, None)))
    start = time.perf_counter()
    gradients = jax.block_until_ready(every(lams, inside))
    first = time.perf_counter() - start
    (warm,) = times(lambda: every(lams, inside), repeats=3)
    some = [(i, j) for i in (1, n_lams // 2, n_lams - 1) for j in (0, n_folds - 1)]
    expected = np.array([one(lams[i], jnp.asarray(inside[j])) for i, j in some])
    batch = np.array([gradients[i, j] for i, j in some])
    return {
        "problem": f"{n} × {p}, {n_lams} strengths × {n_folds} folds",
        "first call (s)": first,
        "again (s)": warm,
        "per gradient (ms)": 1e3 * warm / (n_lams * n_folds),
        "off six single eager ones (relative)": float(
            np.max(np.abs(batch - expected)) / np.max(np.abs(expected))
        ),
    }


def data(n: int, p: int, active: int):
    rng = np.random.default_rng(0)
    both = correlated(rng, 2 * n, p)
    target = linear_target(rng, both, active)
    X, y = jnp.asarray(both), jnp.asarray(target)
    return X[:n], y[:n], X[n:], y[n:]


def strength_for(X, y, wanted: int) -> float:
    """A strength at which about so many features are in."""
    path = l1jax.path(X, y, l1jax.L1(), fit_intercept=False, progress=False)
    return float(path.lams[int(np.argmin(np.abs(np.asarray(path.n_nonzero) - wanted)))])


def times(*works, repeats: int) -> list[float]:
    """The median seconds of each, warm; one after the other, many times."""
    seconds = [[] for _ in works]
    for work in works:
        jax.block_until_ready(work())
    for _ in range(repeats):
        for one, work in zip(seconds, works, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(work())
            one.append(time.perf_counter() - start)
    return [statistics.median(one) for one in seconds]


if __name__ == "__main__":
    main()
