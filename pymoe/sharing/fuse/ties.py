r"""TIES: trim what each model hardly changed, elect a sign for each weight, average those that agree.

With δ_i = w_i - base of a tensor of N weights::

    trim      δ̂_i = δ_i where |δ_i| is among the ⌊density N⌋ largest, else 0     (of equal ones the highest index stays)
    elect     γ = sign(Σ_i weight_i δ̂_i)
    mean      τ = Σ_{i in A} weight_i δ̂_i / Σ_{i in A} weight_i,      A = {i: sign(δ̂_i) = γ},  0 where A is empty
    merged    w = base + λ τ

density is read as the decimal it prints as.  A sum that is nothing but the rounding of the weights it was made from,
|Σ weight_i δ̂_i| <= 2 u Σ_i weight_i (|w_i| + |base|) over i with δ̂_i ≠ 0, u of their dtype, is a sum of 0: then nobody
is elected and the base stays.  Otherwise 0.4 - 0.3 and 0.2 - 0.3, equal and opposite, would elect whichever was rounded
up.

Source: Yadav et al., arXiv:2306.01708, section 4.2 and algorithm 1 (there trimmed over the whole model, here, as in
mergekit, tensor by tensor; all weights 1; density 0.2 is their k = 20 and λ = 1 their choice without a validation set).
Cost: one sort for each model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pymoe.backend import unit_roundoff
from pymoe.backend.errors import ConfigError, check_share
from pymoe.backend.namespace import Array
from pymoe.sharing.fuse import arithmetic
from pymoe.sparsity import masks


def merge(
    base: Array,
    tuned: Sequence[Array],
    *,
    density: float = 0.2,
    weights: Any = None,
    scale: float = 1.0,
    u: float | None = None,
) -> Array:
    """One tensor of the merged model.  density in [0, 1]: 1 trims nothing, 0 everything (the base comes out).

    u: the unit roundoff of the weights, where they were stored in fewer bits than they come in now.

    >>> base, tuned = np.zeros(4), [np.array([3.0, 0.1, -1.0, 2.0]), np.array([1.0, 0.2, 4.0, -0.1])]
    >>> merge(base, tuned, density=0.5)  # kept: 3 and 2 of the first, 1 and 4 of the second
    array([2., 0., 4., 2.])
    """
    start, deltas = arithmetic.differences(base, tuned)
    trimmed = [trim(d, density) for d in deltas]
    u = unit_roundoff(base) if u is None else u
    w = positive(weights, len(deltas))
    tau = elected_mean(trimmed, w, rounding(start, deltas, u))
    return arithmetic.added(base, start, arithmetic.number("scale", scale) * tau)


def rounding(start: np.ndarray, deltas: Sequence[np.ndarray], u: float) -> list[np.ndarray]:
    """How exact each difference of weights rounded to u is: 2 u (|w_i| + |base|), entry by entry."""
    return [2 * u * (np.abs(start + d) + np.abs(start)) for d in deltas]


def trim(delta: np.ndarray, density: float) -> np.ndarray:
    """delta with all but its ⌊density N⌋ largest magnitudes set to 0.

    >>> trim(np.array([1.0, -3.0, 1.0, 0.5]), 0.5)
    array([ 0., -3.,  1.,  0.])
    """
    n = masks.count(check_share("density", density), delta.size)
    kept = np.zeros(delta.size, dtype=bool)
    if n:
        kept[np.argsort(np.abs(delta), axis=None, kind="stable")[delta.size - n :]] = True
    return np.where(kept.reshape(delta.shape), delta, 0.0)


def elected_mean(
    deltas: Sequence[np.ndarray], weights: np.ndarray, noise: Sequence[np.ndarray] | None = None
) -> np.ndarray:
    """τ: at each place the mean of the deltas of the elected sign; noise: how exact each delta is, entry by entry.

    >>> elected_mean([np.array([3.0, 1.0]), np.array([-1.0, 1.0]), np.array([1.0, -5.0])], np.ones(3))
    array([ 2., -5.])
    """
    total, blur = np.zeros_like(deltas[0]), np.zeros_like(deltas[0])
    for i, (w, d) in enumerate(zip(weights, deltas, strict=True)):
        total = total + w * d
        if noise is not None:
            blur = blur + w * noise[i] * (d != 0)
    sign = np.where(np.abs(total) <= blur, 0.0, np.sign(total))
    above, below = np.zeros_like(total), np.zeros_like(total)
    for w, d in zip(weights, deltas, strict=True):
        agrees = (np.sign(d) == sign) & (sign != 0)
        above, below = above + w * np.where(agrees, d, 0.0), below + w * agrees
    return np.where(below > 0, above / np.where(below > 0, below, 1.0), 0.0)


def positive(weights: Any, n: int) -> np.ndarray:
    """(n,) factors of which none is negative: a vote against oneself has no meaning."""
    w = arithmetic.factors(weights, n)
    if (w < 0).any():
        raise ConfigError(f"weights of a vote must not be negative, got {w.tolist()}")
    return w
