"""Masks by a threshold on |w|: absolute, or the quantile that prunes a share.

    threshold:  keep |w| >= t                     ties stay together, so the count is what the weights make it
    quantile:   t = |w| at place ⌊q N⌋ (from 0) of the ascending order, so threshold(w, t) prunes ⌊q N⌋ without ties

Source: Han et al., arXiv:1506.02626, section 3.1.
"""

from __future__ import annotations

import math
import numbers

from pymoe.backend import namespace
from pymoe.backend.errors import ConfigError
from pymoe.backend.namespace import Array
from pymoe.sparsity import inputs
from pymoe.sparsity.masks.amount import count


def threshold(w: Array, t: float) -> Array:
    """True where |w| >= t: equal magnitudes share one fate.  t is read in the precision of w; NaN t: ConfigError.

    >>> import numpy as np
    >>> threshold(np.array([0.5, -1.0, 2.0]), 1.0)
    array([False,  True,  True])
    """
    if isinstance(t, bool) or not isinstance(t, numbers.Real) or math.isnan(t):
        raise ConfigError(f"t, the smallest magnitude that stays, must be a number, got {t!r}")
    return namespace(w).abs(inputs.ranked("w", w)) >= float(t)


def quantile(w: Array, q: float) -> float:
    """The t for which ``threshold(w, t)`` prunes at most n = ⌊q N⌋ entries: exactly n unless |w| ties at place n.

    q = 1 gives inf, which prunes every finite weight.  O(N log N).  Errors as ``masks.by_score``.

    >>> import numpy as np
    >>> quantile(np.array([4.0, -1.0, 3.0, 2.0]), 0.5)
    3.0
    """
    xp = namespace(w)
    size = xp.sort(xp.abs(xp.reshape(inputs.ranked("w", w), (-1,))))
    n = count(q, int(size.shape[0]))
    return float(size[n]) if n < size.shape[0] else math.inf
