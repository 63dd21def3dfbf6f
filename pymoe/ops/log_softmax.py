r"""Log-softmax over the last axis.

Forward, with m = max(x)::

    y = (x - m) - log Σ e^{x - m}

Backward, with p = e^y::

    dx = dy - p Σ dy

In this order of subtraction p = e^y is exact to rounding even where |x| is large.  An entry of -inf has y = -inf and
p = 0; a row of nothing but -inf stays -inf.  Source: Blanchard, Higham, Higham, *Accurately computing the
log-sum-exp and softmax functions*, arXiv:1909.03469.  Cost: one exponential an element each way; y is kept.
"""

from __future__ import annotations

from typing import NamedTuple

from pymoe.backend import namespace, real
from pymoe.backend.errors import check_shape
from pymoe.backend.namespace import Array
from pymoe.kernels import checks
from pymoe.ops._rows import check_columns


class Cache(NamedTuple):
    y: Array  # (..., C) log softmax(x)


def forward(x: Array) -> tuple[Array, Cache]:
    """y = log softmax(x): x (..., C) -> y (..., C).  C = 0 is a ShapeError.

    >>> import numpy as np
    >>> forward(np.array([1000.0, 1000.0, 995.0]))[0].round(4)
    array([-0.6965, -0.6965, -5.6965])
    """
    checks.floating("x", x)
    check_columns("x", x)
    xp = namespace(x)
    m = xp.max(real(x), axis=-1, keepdims=True)
    m = xp.where(m == -xp.inf, xp.zeros_like(m), m)  # an all-masked row: -inf - 0, not -inf + inf
    shifted = x - m
    total = xp.sum(xp.exp(shifted), axis=-1, keepdims=True)
    y = shifted - xp.log(xp.where(real(total) == 0, xp.ones_like(total), total))
    return y, Cache(y)


def backward(dy: Array, cache: Cache) -> tuple[Array, dict[str, Array]]:
    """dx = dy - e^y Σ dy; no parameters.

    >>> import numpy as np
    >>> backward(np.array([1.0, 0.0]), Cache(np.log(np.array([0.25, 0.75]))))[0]
    array([ 0.75, -0.75])
    """
    (y,) = cache
    check_shape("dy", dy, tuple(y.shape))
    xp = namespace(dy, y)
    return dy - xp.exp(y) * xp.sum(dy, axis=-1, keepdims=True), {}
