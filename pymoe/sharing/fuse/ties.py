r"""Task arithmetic and TIES: models that were tuned from one base, merged by their differences to it.

    δ_i = w_i - base
    task arithmetic:  base + λ Σ_i c_i δ_i                                          arXiv:2212.04089
    TIES:  trim    δ̂_i = the ⌊d N⌋ largest \|δ_i\| of the tensor, 0 elsewhere        arXiv:2306.01708, alg. 1
           elect   s = sign(Σ_i c_i δ̂_i)
           merge   base + λ · mean of the δ̂_i that are not 0 and have the sign s, weighted by c_i

Of equal magnitudes the one of the lower flat index is trimmed first.  An entry whose signs cancel exactly (s = 0), or
that nobody kept, stays that of the base.  Cost: O(n N log N).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pymoe.backend.errors import ConfigError
from pymoe.sharing.fuse import average
from pymoe.sparsity import masks


def differences(base: np.ndarray, tuned: Sequence[np.ndarray]) -> list[np.ndarray]:
    """δ_i, in float64."""
    average.check([{"base": base}, *({"base": w} for w in tuned)])
    return [w.astype(np.float64) - base.astype(np.float64) for w in tuned]


def coefficients(weights: Sequence[float] | None, n: int) -> np.ndarray:
    """c_i: 1 each, or those given."""
    c = np.ones(n) if weights is None else np.asarray(weights, dtype=np.float64)
    if c.shape != (n,) or not np.isfinite(c).all() or (c < 0).any():
        raise ConfigError(f"{n} models need as many weights, finite and not negative, got {weights!r}")
    return c


def arithmetic(
    base: np.ndarray, tuned: Sequence[np.ndarray], *, weights: Sequence[float] | None = None, scale: float = 1.0
) -> np.ndarray:
    """Task arithmetic.

    >>> arithmetic(np.array([1.0]), [np.array([3.0]), np.array([0.0])], scale=0.5)
    array([1.5])
    """
    c = coefficients(weights, len(tuned))
    moved = sum((ci * d for ci, d in zip(c, differences(base, tuned), strict=True)), np.zeros(base.shape))
    return (base + scale * moved).astype(base.dtype)


def trim(delta: np.ndarray, density: float) -> np.ndarray:
    """δ̂: the ⌊density N⌋ entries of largest magnitude, 0 elsewhere.

    >>> trim(np.array([0.5, -3.0, 1.0]), 0.34)
    array([ 0., -3.,  0.])
    """
    if not 0 <= density <= 1:
        raise ConfigError(f"density is the share that is kept and must lie in [0, 1], got {density!r}")
    n = masks.count(density, delta.size)
    order = np.lexsort((-np.arange(delta.size), -np.abs(delta.reshape(-1))))  # of equals the higher index is kept
    kept = np.zeros(delta.size, dtype=bool)
    kept[order[:n]] = True
    return np.where(kept.reshape(delta.shape), delta, 0.0)


def merge(
    base: np.ndarray,
    tuned: Sequence[np.ndarray],
    *,
    density: float,
    weights: Sequence[float] | None = None,
    scale: float = 1.0,
) -> np.ndarray:
    """TIES.

    >>> base = np.zeros(3)
    >>> merge(base, [np.array([3.0, 1.0, 0.1]), np.array([1.0, -2.0, 0.2])], density=0.67)
    array([ 2., -2.,  0.])
    """
    return elect(base, [trim(d, density) for d in differences(base, tuned)], weights=weights, scale=scale)


def elect(
    base: np.ndarray, deltas: Sequence[np.ndarray], *, weights: Sequence[float] | None = None, scale: float = 1.0
) -> np.ndarray:
    """The second and third step of TIES on differences that are sparse already (trimmed, or dropped by DARE)."""
    c = coefficients(weights, len(deltas))
    stack = np.stack(list(deltas))
    share = c.reshape(-1, *(1,) * base.ndim)
    sign = np.sign((share * stack).sum(0))
    agrees = (np.sign(stack) == sign) & (stack != 0)
    total = np.where(agrees, share, 0.0).sum(0)
    mean = (share * np.where(agrees, stack, 0.0)).sum(0) / np.where(total > 0, total, 1.0)
    return (base + scale * mean).astype(base.dtype)
