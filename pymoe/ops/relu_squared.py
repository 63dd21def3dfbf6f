r"""Squared ReLU, y = max(x, 0)².

Forward::

    y = max(x, 0)²

Backward::

    dx = 2 dy ⊙ max(x, 0)

Source: So et al., *Primer*, arXiv:2109.08668.
Cost: one comparison and a product an element; x is kept.
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
    """y = max(x, 0)², elementwise; x of any shape.

    >>> import numpy as np
    >>> forward(np.array([-1.0, 0.0, 2.0]))[0].round(4)
    array([0., 0., 4.])
    """
    y = kernels.of(x).act_forward(rows(x), "relu_squared")  # y = max(x, 0)²
    return namespace(x).reshape(y, x.shape), Cache(x)


def backward(dy: Array, cache: Cache) -> tuple[Array, dict[str, Array]]:
    """dx = 2 dy ⊙ max(x, 0); no parameters.

    >>> import numpy as np
    >>> backward(np.array([1.0]), Cache(np.array([2.0])))[0].round(4)
    array([4.])
    """
    (x,) = cache
    check_shape("dy", dy, tuple(x.shape))
    dx = kernels.of(x).act_backward(rows(dy), rows(x), "relu_squared")
    return namespace(dy, x).reshape(dx, x.shape), {}
