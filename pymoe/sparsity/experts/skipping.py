"""The threshold of dynamic skipping, ``RouterConfig.skip``: half of the second choices of a text are below it.

    β = median over tokens of w₁ / w₀            drop choice j >= 1 where w_j < β w₀, then renormalise (K = 2: w₀ = 1)

Source: Lu et al., arXiv:2402.14800, sec. 3.3.  The ratio is the same before and after renormalisation.
"""

from __future__ import annotations

import numpy as np

from pymoe.backend.errors import DataError, check_shape


def skip_threshold(weights: np.ndarray) -> float:
    """β from the combine weights (T, 2) of the first two choices; a token whose w₀ is 0 (all dropped) is left out.

    >>> skip_threshold(np.array([[0.8, 0.2], [0.5, 0.5], [0.75, 0.25]]))
    0.3333333333333333
    """
    check_shape("weights", weights, (None, 2))
    w = np.asarray(weights, dtype=np.float64)
    w = w[w[:, 0] > 0]
    if not len(w):
        raise DataError("no calibration token was routed: there is no ratio of weights to take the median of")
    return min(float(np.median(w[:, 1] / w[:, 0])), 1.0)
