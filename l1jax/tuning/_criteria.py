"""What hyperparameters are chosen by: functions of fits, of which less is better."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._checks import check_number
from ..linear import Fit, Path
from ..linear.data._inputs import read_targets
from ..linear.selection._folds import (
    Split,
    check_n_folds,
    check_splits,
    random_folds,
    strata_labels,
)
from ..losses import Loss, SquaredError


@dataclasses.dataclass
class Refit:
    """The data, and fits of them with other targets or row weights; a batch for a path."""

    X: Any
    y: Any
    options: dict[str, Any]
    fits: Callable[[Any, Any], Fit] | None = None

    def __call__(self, y: Any = None, sample_weight: Any = None) -> Fit:
        assert self.fits is not None
        weight = self.options["sample_weight"] if sample_weight is None else sample_weight
        return self.fits(self.y if y is None else y, weight)

    def with_fits(self, fits: Callable[[Any, Any], Fit]) -> Refit:
        return dataclasses.replace(self, fits=fits)

    @property
    def loss(self) -> Loss:
        return self.options["loss"]

    @property
    def rest(self) -> dict[str, Any]:
        return {k: v for k, v in self.options.items() if k != "sample_weight"}

    @property
    def without_tol(self) -> dict[str, Any]:
        return {k: v for k, v in self.options.items() if k != "tol"}

    @property
    def weights(self) -> np.ndarray:
        given = self.options["sample_weight"]
        return np.ones(len(self.target)) if given is None else np.asarray(given, float)

    @property
    def target(self) -> np.ndarray:
        return np.asarray(read_targets(self.y, self.loss), float)


class Criterion(eqx.Module):
    """A number, or one for each lane of a batch of fits."""

    @abc.abstractmethod
    def __call__(self, refit: Refit) -> Array: ...


class UserCriterion(Criterion):
    """A function of one fit."""

    function: Callable[..., Any]

    def __call__(self, refit: Refit) -> Array:
        found = refit()
        if not np.ndim(found.num_steps):
            return self._checked(found)
        lanes = range(found.num_steps.shape[0])
        return jnp.stack([self._checked(_lane(found, i)) for i in lanes])

    def _checked(self, one: Fit) -> Array:
        value = jnp.asarray(self.function(one))
        if value.shape != ():
            raise TypeError(f"criterion must return a scalar, got shape {value.shape}.")
        return value


class HeldOut(Criterion):
    """The mean loss on other rows.

    Args: `X` (m, p), `y` (m,) or (m, k); `sample_weight`, `offset` (m,). Errors as of `Fit.predict`.

    **Example:**

    ```python
    >>> import numpy as np, l1jax
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(60, 8))
    >>> y = X[:, 0] + rng.normal(size=60)
    >>> tuned = l1jax.tune(X[:40], y[:40], l1jax.L1(), criterion=l1jax.HeldOut(X[40:], y[40:]))
    >>> bool(tuned.fit.support[0])
    True

    ```
    """

    X: Any
    y: Any
    sample_weight: Any = None
    offset: Any = None

    def __call__(self, refit: Refit) -> Array:
        found = refit()
        y = jnp.asarray(np.asarray(read_targets(self.y, refit.loss), float))
        weight = np.ones(y.shape[0]) if self.sample_weight is None else self.sample_weight
        weight = np.asarray(weight, float)
        eta = found.predict(self.X, offset=self.offset, kind="link")
        return _mean_loss(refit.loss, y, eta, weight)


class CrossValidation(Criterion):
    """The mean loss on held-out folds: the mean over folds of each fold's weighted mean.

    Args: `n_folds` ≥ 2, or `folds` (n,), the fold of each row; `seed` of the folds, in which the
    targets of a loss that classifies are in equal proportion in all folds.

    **Example:**

    ```python
    >>> import l1jax
    >>> l1jax.CrossValidation(n_folds=5, seed=1).n_folds
    5

    ```
    """

    n_folds: int = eqx.field(static=True)
    seed: int = eqx.field(static=True)
    folds: Any

    def __init__(self, n_folds: int = 5, seed: int = 0, folds: Any = None):
        self.n_folds = int(check_number(n_folds, "n_folds", 2, whole=True))
        self.seed = int(check_number(seed, "seed", 0, whole=True))
        self.folds = None if folds is None else np.asarray(folds)

    def __call__(self, refit: Refit) -> Array:
        folds, weights = self._folds(refit), refit.weights
        which = [Split(folds != fold, folds == fold) for fold in np.unique(folds)]
        given = None if self.folds is None else "folds"
        check_splits(which, refit.target, refit.loss, weights, given)
        values = []
        for _, inside in which:
            # Rows of weight 0 instead of fewer rows: one shape, compiled once.
            found = refit(sample_weight=np.where(inside, 0.0, weights))
            eta = found.predict(refit.X, offset=refit.options["offset"], kind="link")
            y = jnp.asarray(refit.target)
            values.append(_mean_loss(refit.loss, y, eta, np.where(inside, weights, 0.0)))
        return jnp.mean(jnp.stack(values), axis=0)

    def _folds(self, refit: Refit) -> np.ndarray:
        y = refit.target
        n = len(y)
        if self.folds is None:
            n_folds = check_n_folds(self.n_folds, n, "rows")
            return random_folds(n_folds, strata_labels(y, refit.loss, refit.weights), self.seed)
        if self.folds.shape != (n,):
            raise ValueError(
                f"folds must give the fold of each row, shape ({n},), got {self.folds.shape}."
            )
        return self.folds


class SURE(Criterion):
    """Stein's unbiased estimate of the risk ‖μ̂ − μ‖²/n of a least-squares model y = μ + noise.

        ‖y − μ̂(y)‖²/n − σ² + (2σ²/n) df,    df ≈ δᵀ(μ̂(y + εδ) − μ̂(y))/ε

    Args: `sigma` > 0, the deviation of the noise; `seed` of the one Gaussian direction δ that
    estimates the degrees of freedom. ε = 2σ/n^0.3. Source: Deledalle et al. (2014).

    **Example:**

    ```python
    >>> import l1jax
    >>> float(l1jax.SURE(0.5).sigma)
    0.5

    ```
    """

    sigma: Any
    seed: int = eqx.field(static=True)

    def __init__(self, sigma: Any, seed: int = 0):
        self.sigma = check_number(sigma, "sigma", 0)
        self.seed = int(check_number(seed, "seed", 0, whole=True))

    def __call__(self, refit: Refit) -> Array:
        if not isinstance(refit.loss, SquaredError) or refit.options["sample_weight"] is not None:
            raise ValueError("SURE needs SquaredError and no sample_weight.")
        y, sigma = refit.target, float(self.sigma)
        n = y.size
        delta = np.random.default_rng(self.seed).normal(size=y.shape)
        epsilon = 2 * sigma / n**0.3

        def fitted(y: np.ndarray) -> Any:
            return refit(y=y).predict(refit.X, offset=refit.options["offset"], kind="link")

        mean, moved = fitted(y), fitted(y + epsilon * delta)
        axes = tuple(range(-y.ndim, 0))
        freedom = jnp.sum(delta * (moved - mean), axis=axes) / epsilon
        return jnp.sum((y - mean) ** 2, axis=axes) / n - sigma**2 + 2 * sigma**2 * freedom / n


def _mean_loss(loss: Loss, y: Array, eta: Any, weight: np.ndarray) -> Array:
    """The weighted mean of the loss; of each lane where eta has lanes."""
    total = weight.sum()
    if not total > 0:
        raise ValueError("criterion: the held-out rows of some fold have no weight.")
    return _values(loss, loss.encode(y), eta, weight / total)


@eqx.filter_jit
def _values(loss: Loss, y: Any, eta: Any, s: Any) -> Array:
    y, s = y.astype(eta.dtype), s.astype(eta.dtype)
    if eta.ndim > len(loss.predictor_shape(y.shape)):
        return jax.vmap(lambda one: loss.value(y, one, s))(eta)
    return loss.value(y, eta, s)


def _lane(fits: Fit, i: int) -> Fit:
    return Path(fits)[i]
