r"""Rectifier, y = max(x, 0); its derivative at the kink is taken as 0.

Forward::

    y = max(x, 0)

Backward::

    dx = dy ⊙ 1[x > 0]

Source: Nair and Hinton, ICML 2010; Glorot, Bordes, Bengio, AISTATS 2011.
Cost: one comparison an element; x is kept.
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
    """y = max(x, 0), elementwise; x of any shape.

    >>> import numpy as np
    >>> forward(np.array([-1.0, 0.0, 2.0]))[0].round(4)
    array([0., 0., 2.])
    """
    y = kernels.of(x).act_forward(rows(x), "relu")  # y = max(x, 0)
    return namespace(x).reshape(y, x.shape), Cache(x)


def backward(dy: Array, cache: Cache) -> tuple[Array, dict[str, Array]]:
    """dx = dy ⊙ 1[x > 0]; no parameters.

    >>> import numpy as np
    >>> backward(np.array([1.0]), Cache(np.array([2.0])))[0].round(4)
    array([1.])
    """
    (x,) = cache
    check_shape("dy", dy, tuple(x.shape))
    dx = kernels.of(x).act_backward(rows(dy), rows(x), "relu")
    return namespace(dy, x).reshape(dx, x.shape), {}
