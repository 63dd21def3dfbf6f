"""The threshold of dynamic skipping, ``RouterConfig.skip``: half of the second choices of a text are below it.

    β = median over tokens of w₁ / w₀            drop choice j >= 1 where w_j < β w₀, then renormalise (K = 2: w₀ = 1)

Source: Lu et al., arXiv:2402.14800, sec. 3.  The ratio is the same before and after renormalisation, and with a scale.
Calibrate on a layer that drops nothing yet: a choice that a capacity or an earlier threshold dropped has weight 0, and
the median would count it.  Cost: O(T log T).  Decoding one token at a time, what is skipped is not computed.
"""

from __future__ import annotations

import numpy as np

from pymoe.backend.errors import DataError, NonFiniteError, check_shape


def skip_threshold(weights: np.ndarray) -> float:
    """β from the combine weights (T, 2) of the first two choices; a token whose w₀ is 0 (all dropped) is left out.

    DataError without any token, NonFiniteError for a weight that is NaN or infinite.  Above 1 only where a selection
    bias ranks an expert of a smaller score first.

    >>> skip_threshold(np.array([[0.8, 0.2], [0.5, 0.5], [0.75, 0.25]]))
    0.3333333333333333
    """
    check_shape("weights", weights, (None, 2))
    w = np.asarray(weights, dtype=np.float64)
    if not np.isfinite(w).all():
        token = int(np.flatnonzero(~np.isfinite(w).all(1))[0])
        raise NonFiniteError(
            f"the weights of token {token} are {w[token].tolist()}: the router's input or weights are NaN"
        )
    w = w[w[:, 0] > 0]
    if not len(w):
        raise DataError("no calibration token was routed: there is no ratio of weights to take the median of")
    return float(np.median(w[:, 1] / w[:, 0]))
