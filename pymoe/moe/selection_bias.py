"""Loss-free balancing: move the selection bias against the load, once per optimiser step.

    b <- b + u sign(mean(n) - n),     n_e tokens that chose expert e in the whole batch, sign(0) = 0

n must be the sum over every micro-batch and worker of the step, without padding and without evaluation; that is what
``out.routing.load`` counts.  No gradient.  Source: arXiv:2408.15664, algorithm 1; DeepSeek-V3 uses u = 0.001.
"""

from __future__ import annotations

from pymoe.backend import namespace
from pymoe.backend.errors import check_shape
from pymoe.backend.namespace import Array


def update(bias: Array, load: Array, rate: float) -> Array:
    """The new bias (E,), a new array.

    >>> import numpy as np
    >>> update(np.zeros(3), np.array([4, 2, 0]), 0.25)
    array([-0.25,  0.  ,  0.25])
    """
    xp = namespace(bias, load)
    check_shape("load", load, tuple(bias.shape))
    n = xp.astype(load, xp.float64)
    return bias + rate * xp.astype(xp.sign(xp.mean(n) - n), bias.dtype)
