"""Poisson regression with the log link."""

from __future__ import annotations

from typing import ClassVar

from .._arrays import in_numpy
from ._tweedie import PowerVariance


@in_numpy
class Poisson(PowerVariance):
    """The Poisson loss exp(η) − yη, minus the log-likelihood of counts (or rates) y ≥ 0, (n,), with a log link.

    Its curvature exp(η) has no bound. Where y is 0 in all rows of positive weight the best intercept is minus
    infinity; the one returned leaves a mean at rounding.

    Source: Nelder and Wedderburn (1972).

    **Example:**

    ```python
    >>> import jax.numpy as jnp, l1jax
    >>> print(l1jax.Poisson().inverse_link(jnp.array([0.0])))
    [1.]

    ```
    """

    power: ClassVar[float] = 1.0

    def _wanted(self) -> str:
        return "counts >= 0 for Poisson"
