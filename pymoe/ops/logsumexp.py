r"""Log-sum-exp over the last axis, the smooth maximum; its square is the router z-loss.

Forward, with m = max(x)::

    y = m + log Σ e^{x - m}

Backward, with p = softmax(x)::

    dx = dy p

A row of nothing but -inf gives -inf and gradient zero.  Source: Blanchard, Higham, Higham, arXiv:1909.03469.
Cost: one exponential an element; p is kept, x is not.
"""

from __future__ import annotations

from typing import NamedTuple

from pymoe.backend import namespace, real
from pymoe.backend.errors import check_shape
from pymoe.backend.namespace import Array
from pymoe.kernels import checks
from pymoe.ops._rows import check_columns


class Cache(NamedTuple):
    p: Array  # (..., C) softmax(x)


def forward(x: Array) -> tuple[Array, Cache]:
    """y = log Σ eˣ over the last axis, which it drops: x (..., C) -> y (...).  C = 0 is a ShapeError.

    >>> import numpy as np
    >>> forward(np.array([[1000.0, 1000.0], [0.0, -np.inf]]))[0].round(4)
    array([1000.6931,    0.    ])
    """
    checks.floating("x", x)
    check_columns("x", x)
    xp = namespace(x)
    m = xp.max(real(x), axis=-1, keepdims=True)
    shift = xp.where(m == -xp.inf, xp.zeros_like(m), m)
    e = xp.exp(x - shift)
    total = xp.sum(e, axis=-1, keepdims=True)
    total = xp.where(real(total) == 0, xp.ones_like(total), total)  # an all-masked row: log 1 + m = -inf
    return xp.squeeze(m + xp.log(total), axis=-1), Cache(e / total)


def backward(dy: Array, cache: Cache) -> tuple[Array, dict[str, Array]]:
    """dy (...) -> dx (..., C) = dy p; no parameters.

    >>> import numpy as np
    >>> backward(np.array([2.0]), Cache(np.array([[0.25, 0.75]])))[0]
    array([[0.5, 1.5]])
    """
    (p,) = cache
    check_shape("dy", dy, tuple(p.shape[:-1]))
    return namespace(dy, p).expand_dims(dy, axis=-1) * p, {}
