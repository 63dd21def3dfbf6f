"""N:M masks: of every m neighbours in a row, n stay: the pattern that tensor cores and ``kernels.nm_linear`` compute.

Sources: Mishra et al., arXiv:2104.08378 (2:4); Sun et al. (Wanda), arXiv:2306.11695, section 3.2, with any score.
"""

from __future__ import annotations

import numbers

from pymoe import kernels
from pymoe.backend import device, namespace
from pymoe.backend.errors import ConfigError, ShapeError
from pymoe.backend.namespace import Array
from pymoe.sparsity import inputs
from pymoe.sparsity.masks import pools


def nm(score: Array, n: int, m: int) -> Array:
    """Exactly n of each m neighbours along the last axis of score (..., D) stay, those of the highest score.

    Of equal scores the lowest column is *kept* (as by ``kernels.nm_mask``).  Scores have a sign: for the magnitude
    pattern give ``scores.magnitude(w)``, not w.  Zeros in the mask: (m - n) / m of all, exactly.  ConfigError unless
    0 < n <= m and m divides D (no ragged tail).  O(N m) compiled.

    >>> import numpy as np
    >>> nm(np.array([1.0, 3.0, 2.0, 3.0, 7.0, 7.0, 7.0, 8.0]), 2, 4)
    array([False,  True, False,  True,  True, False, False,  True])
    """
    if score.ndim < 1:
        raise ShapeError("score must have at least one axis, (..., D), got a single number")
    n, m = group(n, m, int(score.shape[-1]))
    xp, values = namespace(score), inputs.ranked("score", score)
    if not values.size:
        return xp.ones(values.shape, dtype=xp.bool, device=device(values))
    if float(xp.min(values)) >= 0:  # the kernel ranks by |score|
        flat = xp.reshape(values, (-1, values.shape[-1]))
        return xp.reshape(kernels.of(flat).nm_mask(flat, n, m), values.shape)
    return xp.reshape(pools.keep_highest(xp.reshape(values, (-1, m)), n), values.shape)


def group(n: int, m: int, width: int) -> tuple[int, int]:
    """(n, m) as integers, or ConfigError: not 0 < n <= m, or a row of ``width`` columns with a ragged tail."""
    integral = all(isinstance(k, numbers.Integral) and not isinstance(k, bool) for k in (n, m))
    if not integral or not 0 < n <= m:
        raise ConfigError(f"N:M needs integers 0 < n <= m, got {n!r}:{m!r}")
    if width % m:
        raise ConfigError(
            f"N:M needs rows that m divides: of {width} columns a tail of {width % m} is left with m = {m}"
        )
    return int(n), int(m)
