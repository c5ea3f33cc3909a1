"""Centring and scaling of the columns of a data matrix by their weighted moments."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Float

from ..._tracing import frozen
from ..._types import Real
from ._matrix import DataMatrix

_CONSTANT = 10  # units of rounding of its largest entry: a column that deviates less is constant


class Standardised(NamedTuple):
    """(X − 1μᵀ) diag(1/σ), and what it takes to come back."""

    x: DataMatrix
    mean: Float[Real, " p"]  # μ: 0 unless centred
    inverse_scale: Float[Real, " p"]  # 1/σ: 1 unless scaled, and for a column that is constant
    norms: Float[Real, " p"]  # √Σᵢ sᵢ x̃ᵢⱼ², constants to derivatives


def standardise(x: DataMatrix, s: Float[Real, " n"], centre: bool, scale: bool) -> Standardised:
    """Centres and scales the columns as asked.

    σ is the weighted 1/n deviation about the mean, also without centring. A centred column that is
    rounding becomes one of zeros: its coefficient is what the penalty likes best, which is mostly 0.
    """
    xp = x.namespace(s)
    zeros = xp.zeros(x.shape[1], s.dtype)
    if not centre and not scale:
        squares = frozen(x).squares(frozen(s), zeros)
        return Standardised(x, zeros, zeros + 1, xp.sqrt(squares))
    means = x.means(s)
    variance = x.squares(s, means)
    rounding = _CONSTANT * jnp.finfo(s.dtype).eps * frozen(x).peaks(frozen(s))
    constant = variance <= rounding**2
    deviation = xp.sqrt(xp.where(constant, 1, variance))
    inverse_scale = xp.where(constant, 1, 1 / deviation if scale else 1).astype(s.dtype)
    squares = frozen(variance if centre else x.squares(s, zeros))
    mean = means if centre else zeros
    norms = xp.sqrt(xp.where(constant, 0, squares)) * frozen(inverse_scale)
    x = x.transform(mean, xp.where(constant, 0, inverse_scale))
    return Standardised(x, mean, inverse_scale, norms)
