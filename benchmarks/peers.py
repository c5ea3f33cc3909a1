"""The solvers that are compared, each set up as it likes best.

A solver is a function of a `Problem`. It returns None where it does not serve that problem, else a
function of a tolerance that fits the whole grid and returns the coefficients (p, L), or (p, K, L)
of K classes. What is done outside of that function (Fortran order, labels ±1, columns divided by
their weights) is not timed.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import warnings
from collections.abc import Callable

import numpy as np
import scipy.sparse

from problems import Problem

Solve = Callable[[float], np.ndarray]


def by_column(X):
    """The layout that coordinate descent likes: Fortran order, or CSC."""
    return X.tocsc() if scipy.sparse.issparse(X) else np.asfortranarray(X)


def l1jax_penalty(problem: Problem):
    """The penalty and the loss, in the words of l1jax."""
    import l1jax

    penalties = {
        "l1": lambda: l1jax.L1(weights=problem.weights),
        "elastic_net": lambda: l1jax.ElasticNet(l1_ratio=problem.l1_ratio),
        "nonnegative": l1jax.NonNegativeL1,
        "group": lambda: l1jax.GroupL1(groups=problem.groups, weights=problem.weights),
    }
    losses = {
        "squared": l1jax.SquaredError,
        "logistic": l1jax.Logistic,
        "multinomial": lambda: l1jax.Multinomial(problem.coef_shape[1]),
    }
    return penalties[problem.penalty](), losses[problem.loss]()


def l1jax_path(problem: Problem) -> Solve:
    import l1jax

    pen, loss = l1jax_penalty(problem)

    def solve(tol: float) -> np.ndarray:
        lams, X, y = problem.lams, problem.X, problem.y
        path = l1jax.path(
            X, y, pen, lams=lams, loss=loss, fit_intercept=False, tol=tol, progress=False
        )
        solve.statuses = {l1jax.Status(int(s)).name for s in np.unique(path.status)}
        return np.moveaxis(np.asarray(path.coefs), 0, -1)

    return solve


def scikit_learn(problem: Problem) -> Solve | None:
    """Coordinate descent along the path; liblinear, without warm start, for two classes; SAGA for more."""
    from sklearn.linear_model import LogisticRegression, enet_path

    if problem.penalty == "group":
        return None
    if problem.loss != "squared":
        n = len(problem.y)

        def solve_labels(tol: float) -> np.ndarray:
            # Without intercept: liblinear would penalise it.
            model = LogisticRegression(
                l1_ratio=1,
                solver="liblinear" if problem.loss == "logistic" else "saga",
                fit_intercept=False,
                tol=tol,
                max_iter=100_000,
                warm_start=True,
            )
            fits = [
                model.set_params(C=1 / (n * lam)).fit(problem.X, problem.y).coef_.copy()
                for lam in problem.lams
            ]
            return np.stack(fits, axis=-1).swapaxes(0, 1).reshape(*problem.coef_shape, -1)

        return solve_labels

    weights = problem.weights if problem.weights is not None else np.ones(problem.X.shape[1])
    X = by_column(problem.X if problem.weights is None else problem.X / weights)

    def solve(tol: float) -> np.ndarray:
        coefs = enet_path(
            X,
            problem.y,
            l1_ratio=problem.l1_ratio,
            alphas=problem.lams,
            positive=problem.penalty == "nonnegative",
            tol=tol,
            max_iter=1_000_000,
            copy_X=False,
        )[1]
        return coefs / weights[:, None]

    return solve


def celer(problem: Problem) -> Solve | None:
    from celer import celer_path

    if problem.loss == "multinomial":
        return None

    X, n = by_column(problem.X), len(problem.y)
    common = {"max_iter": 100, "weights": problem.weights}
    if problem.loss == "logistic":  # a sum over the rows, labels ±1
        y, lams = 2 * problem.y - 1, n * problem.lams
        return lambda tol: celer_path(X, y, "logreg", alphas=lams, tol=tol, use_PN=True, **common)[
            1
        ]
    if problem.penalty == "group":
        sizes = np.bincount(problem.groups).tolist()
        groups = [part.tolist() for part in np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])]
        return lambda tol: celer_path(
            X, problem.y, "grouplasso", alphas=problem.lams, groups=groups, tol=tol, **common
        )[1]
    common |= {"l1_ratio": problem.l1_ratio, "positive": problem.penalty == "nonnegative"}
    return lambda tol: celer_path(X, problem.y, "lasso", alphas=problem.lams, tol=tol, **common)[1]


def skglm(problem: Problem) -> Solve | None:
    """Its tolerance is absolute, on the optimality conditions: given here as a share of λmax."""
    from skglm import datafits, penalties, solvers

    if problem.loss == "multinomial":
        return None

    X, y, p = by_column(problem.X), problem.y, problem.X.shape[1]
    positive = problem.penalty == "nonnegative"
    if problem.penalty == "group":
        sizes = np.bincount(problem.groups)
        layout = {
            "grp_ptr": np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32),
            "grp_indices": np.arange(p, dtype=np.int32),
        }
        datafit = datafits.QuadraticGroup(**layout)
        pen = penalties.WeightedGroupL2(1.0, problem.weights, positive=False, **layout)
        solver = solvers.GroupBCD(max_iter=1000, max_epochs=1000, fit_intercept=False)
    else:
        if problem.weights is not None:
            pen = penalties.WeightedL1(1.0, problem.weights, positive=positive)
        elif problem.l1_ratio < 1:
            pen = penalties.L1_plus_L2(1.0, problem.l1_ratio)
        else:
            pen = penalties.L1(1.0, positive=positive)
        if problem.loss == "logistic":
            datafit, y = datafits.Logistic(), 2 * y - 1
            solver = solvers.ProxNewton(max_iter=200, fit_intercept=False)
        else:
            datafit = datafits.Quadratic()
            solver = solvers.AndersonCD(max_iter=200, max_epochs=50_000, fit_intercept=False)

    def solve(tol: float) -> np.ndarray:
        solver.tol = tol * problem.lams[0]
        w, coefs = np.zeros(p), np.empty((p, len(problem.lams)), order="F")
        for i, lam in enumerate(problem.lams):
            pen.alpha = lam
            # It moves Xw along with w; made anew here, rounding does not add up along the path.
            inside = np.flatnonzero(w)
            Xw = X[:, inside] @ w[inside]
            w = solver.solve(X, y, datafit, pen, w, Xw)[0]
            coefs[:, i] = w
        return coefs

    return solve


def adelie(problem: Problem) -> Solve | None:
    """Told not to stop at 90 % of the deviance; one thread, which was no slower than two."""
    import adelie as ad

    if problem.loss == "multinomial":  # it takes the classes of a feature as a group
        return None
    sparse, p = scipy.sparse.issparse(problem.X), problem.X.shape[1]
    X = by_column(problem.X)
    X = ad.matrix.sparse(X, method="naive") if sparse else X
    family = ad.glm.binomial if problem.loss == "logistic" else ad.glm.gaussian
    starts = None
    if problem.penalty == "group":
        starts = np.unique(problem.groups, return_index=True)[1]

    def solve(tol: float) -> np.ndarray:
        walls = None
        if problem.penalty == "nonnegative":
            walls = [ad.constraint.lower(np.zeros(1)) for _ in range(p)]
        state = ad.grpnet(
            X,
            family(problem.y),
            lmda_path=problem.lams,
            alpha=problem.l1_ratio,
            penalty=problem.weights,
            groups=starts,
            constraints=walls,
            tol=tol,
            irls_tol=tol,
            max_iters=10_000_000,
            early_exit=False,
            intercept=False,
            progress_bar=False,
        )
        if state.betas.shape[0] < len(problem.lams):
            raise RuntimeError(f"ended after {state.betas.shape[0]} of {len(problem.lams)}")
        return state.betas.toarray().T

    return solve


def glmnet(problem: Problem) -> Solve | None:
    """The Fortran routines of R's glmnet, by the package python-glmnet."""
    from glmnet._glmnet import elnet, lognet

    if problem.penalty == "group" or scipy.sparse.issparse(problem.X):
        return None
    n, p = problem.X.shape
    weights = np.ones(p) if problem.weights is None else problem.weights
    # It scales weights to a mean of one, and overwrites X and y.
    first = {"parm": problem.l1_ratio, "jd": [0], "vp": weights, "nx": p, "ne": p, "flmin": 1.0}
    first |= {"ulam": problem.lams * weights.mean(), "isd": 0, "intr": 0, "maxit": 10_000_000}
    least = 0.0 if problem.penalty == "nonnegative" else -1e35
    limits = np.asfortranarray(np.repeat([[least], [1e35]], p, axis=1))

    def solve(tol: float) -> np.ndarray:
        X, how = np.array(problem.X, order="F"), {**first, "cl": limits.copy(), "thr": tol}
        if problem.loss == "squared":
            how |= {"ka": 1 if p < 500 else 2, "x": X, "y": problem.y.copy(), "w": np.ones(n)}
            count, _, values, features, sizes, *_ = elnet(**how)
            values = values[:, None]
        else:
            labels = np.array(one_hot(problem), order="F")
            is_binary = problem.loss == "logistic"
            how |= {"nc": 1 if is_binary else labels.shape[1], "x": X, "g": np.zeros_like(labels)}
            y = labels[:, ::-1].copy(order="F") if is_binary else labels
            count, _, values, features, sizes, *_ = lognet(y=y, **how)
        if count < len(problem.lams):
            raise RuntimeError(f"ended after {count} of {len(problem.lams)}")
        coefs = np.zeros((p, *values.shape[1:]))
        size = sizes.max(initial=0)
        coefs[features[:size] - 1] = values[:size]
        return coefs.reshape(*problem.coef_shape, -1)

    return solve


def one_hot(problem: Problem) -> np.ndarray:
    """Labels as rows, (n, K)."""
    return (problem.y[:, None] == np.arange(problem.y.max() + 1)).astype(float)


@dataclasses.dataclass(frozen=True)
class Peer:
    """A solver, what is imported to know whether it is installed, and the tolerances to search."""

    prepare: Callable[[Problem], Solve | None]
    package: str
    loosest: float = 1e-2
    tightest: float = 1e-15

    def version(self) -> str | None:
        try:
            return importlib.metadata.version(self.package)
        except importlib.metadata.PackageNotFoundError:
            return None


PEERS = {
    "l1jax": Peer(l1jax_path, "l1jax"),
    "scikit-learn": Peer(scikit_learn, "scikit-learn"),
    "celer": Peer(celer, "celer"),
    "skglm": Peer(skglm, "skglm"),
    # Their tolerances bound the last change of the objective, so that they have far to go.
    "adelie": Peer(adelie, "adelie", 1e-5, 1e-22),
    "glmnet": Peer(glmnet, "python-glmnet", 1e-3, 1e-22),
}


def quietly(solve: Solve, tol: float) -> np.ndarray:
    """Solves without the warnings of a solver that ends short: the certificate will say so."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return solve(tol)
