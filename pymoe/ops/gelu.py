r"""GELU, the exact one, y = x Φ(x) with Φ the normal distribution function.

Forward::

    y = x Φ(x)                                   Φ(x) = (1 + erf(x / √2)) / 2

Backward::

    dx = dy ⊙ (Φ(x) + x φ(x))                    φ(x) = e^{-x²/2} / √(2π)

Source: Hendrycks and Gimpel, *Gaussian Error Linear Units*, arXiv:1606.08415, section 2.
Cost: one erf an element forward, erf and exp backward; x is kept.
"""

from __future__ import annotations

from typing import NamedTuple

from pymoe import kernels
from pymoe.backend import namespace
from pymoe.backend.errors import check_shape
from pymoe.backend.namespace import Array
from pymoe.ops._rows import rows


class Cache(NamedTuple):
    x: Array  # (...)


def forward(x: Array) -> tuple[Array, Cache]:
    """y = x Φ(x), elementwise; x of any shape.

    >>> import numpy as np
    >>> forward(np.array([-1.0, 0.0, 2.0]))[0].round(4)
    array([-0.1587,  0.    ,  1.9545])
    """
    y = kernels.of(x).act_forward(rows(x), "gelu")  # y = x Φ(x)
    return namespace(x).reshape(y, x.shape), Cache(x)


def backward(dy: Array, cache: Cache) -> tuple[Array, dict[str, Array]]:
    """dx = dy ⊙ (Φ(x) + x φ(x)); no parameters.

    >>> import numpy as np
    >>> backward(np.array([1.0]), Cache(np.array([2.0])))[0].round(4)
    array([1.0852])
    """
    (x,) = cache
    check_shape("dy", dy, tuple(x.shape))
    dx = kernels.of(x).act_backward(rows(dy), rows(x), "gelu")
    return namespace(dy, x).reshape(dx, x.shape), {}
