r"""DARE: drop most of what a tuned model changed, at random, and rescale the rest: on average the sum stays.

    m ~ Bernoulli(1 - p)          δ̃ = m ⊙ δ / (1 - p)          E[δ̃] = δ

    linear    w = base + λ Σ_i weight_i δ̃_i
    ties      w = base + λ τ,   τ the mean of the δ̃_i of the elected sign (``ties``); nothing is trimmed by size

The draw is a value: True = the difference stays.  Source: Yu et al., arXiv:2311.03099, eq. 1-2; with the sign election
of TIES, arXiv:2306.01708, as mergekit's dare_ties.  Cost: one pass and one random number a weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pymoe.backend import to_numpy, unit_roundoff
from pymoe.backend.errors import ConfigError, DtypeError, check_shape, check_share
from pymoe.backend.namespace import Array
from pymoe.sharing.fuse import arithmetic, ties
from pymoe.sharing.fuse import experts as single
from pymoe.sharing.split.copies import placed


def drop(rng: np.random.Generator, delta: Array, rate: float) -> tuple[Array, np.ndarray]:
    """(δ̃, the mask that was drawn) for a share ``rate`` in [0, 1) of dropped differences.

    >>> kept, mask = drop(np.random.default_rng(0), np.array([1.0, 2.0, 3.0, 4.0]), 0.5)
    >>> mask, kept
    (array([ True, False, False, False]), array([2., 0., 0., 0.]))
    """
    mask = draw(rng, tuple(delta.shape), rate)
    return apply(delta, mask, rate), mask


def draw(rng: np.random.Generator, shape: tuple[int, ...], rate: float) -> np.ndarray:
    """The mask: each True with probability 1 - rate."""
    return np.asarray(rng.random(shape) >= _rate(rate))


def apply(delta: Array, mask: Any, rate: float) -> Array:
    """δ̃ for a mask of one's own (bool, of delta's shape).

    >>> apply(np.array([1.0, 2.0]), np.array([False, True]), 0.75)
    array([0., 8.])
    """
    d = single.read("delta", delta)
    return placed(_thinned(d, mask, rate), delta)


def merge(
    base: Array,
    tuned: Sequence[Array],
    masks: Sequence[Any],
    *,
    rate: float,
    weights: Any = None,
    scale: float = 1.0,
    elect: bool = False,
) -> Array:
    """One tensor of the merged model, with the masks of ``draw``, one for each tuned tensor; elect: with TIES' vote.

    >>> base, tuned = np.zeros(2), [np.array([1.0, 2.0]), np.array([3.0, -4.0])]
    >>> masks = [np.array([True, True]), np.array([True, False])]
    >>> merge(base, tuned, masks, rate=0.5), merge(base, tuned, masks, rate=0.5, elect=True)
    (array([8., 4.]), array([4., 4.]))
    """
    start, deltas = arithmetic.differences(base, tuned)
    if len(masks) != len(deltas):
        raise ConfigError(f"one mask for each tuned tensor: got {len(deltas)} tensors and {len(masks)} masks")
    thin = [_thinned(d, m, rate) for d, m in zip(deltas, masks, strict=True)]
    if elect:
        noise = ties.rounding(start, deltas, unit_roundoff(base) / (1 - rate))
        total = ties.elected_mean(thin, ties.positive(weights, len(thin)), noise)
    else:
        total = np.zeros_like(start)
        for w, d in zip(arithmetic.factors(weights, len(thin)), thin, strict=True):
            total = total + w * d
    return arithmetic.added(base, start, arithmetic.number("scale", scale) * total)


def _thinned(delta: np.ndarray, mask: Any, rate: float) -> np.ndarray:
    kept = to_numpy(mask)
    if kept.dtype != np.bool_:
        raise DtypeError(f"the mask must be bool, True where the difference stays, got {kept.dtype}")
    check_shape("the mask", kept, delta.shape)
    return np.where(kept, delta / (1 - _rate(rate)), 0.0)


def _rate(rate: float) -> float:
    p = check_share("rate", rate)
    if p == 1:
        raise ConfigError("rate is the share that is dropped; at 1 nothing is left to rescale: take less than 1")
    return p
