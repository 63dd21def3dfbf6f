r"""The identity, y = x: the score of a router whose logits are its weights.

Forward::

    y = x

Backward::

    dx = dy

Source: textbook.  Cost: none.
"""

from __future__ import annotations

from typing import NamedTuple

from pymoe.backend.errors import check_shape
from pymoe.backend.namespace import Array
from pymoe.kernels import checks


class Cache(NamedTuple):
    shape: tuple[int, ...]  # of x


def forward(x: Array) -> tuple[Array, Cache]:
    """y = x, of any shape.

    >>> import numpy as np
    >>> forward(np.array([-1.0, 2.0]))[0]
    array([-1.,  2.])
    """
    checks.floating("x", x)
    return x, Cache(tuple(x.shape))


def backward(dy: Array, cache: Cache) -> tuple[Array, dict[str, Array]]:
    """dx = dy; no parameters.

    >>> import numpy as np
    >>> backward(np.array([1.0]), Cache((1,)))[0]
    array([1.])
    """
    check_shape("dy", dy, cache.shape)
    return dy, {}
