r"""SiLU (Swish-1), y = x σ(x).

Forward::

    y = x σ(x)

Backward::

    dx = dy ⊙ σ(x) (1 + x (1 - σ(x)))

Source: Hendrycks and Gimpel, arXiv:1606.08415; Ramachandran et al., arXiv:1710.05941.
Cost: one exponential an element each way; x is kept.
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
    """y = x σ(x), elementwise; x of any shape.

    >>> import numpy as np
    >>> forward(np.array([-1.0, 0.0, 2.0]))[0].round(4)
    array([-0.2689,  0.    ,  1.7616])
    """
    y = kernels.of(x).act_forward(rows(x), "silu")  # y = x σ(x)
    return namespace(x).reshape(y, x.shape), Cache(x)


def backward(dy: Array, cache: Cache) -> tuple[Array, dict[str, Array]]:
    """dx = dy ⊙ σ(x) (1 + x (1 - σ(x))); no parameters.

    >>> import numpy as np
    >>> backward(np.array([1.0]), Cache(np.array([2.0])))[0].round(4)
    array([1.0908])
    """
    (x,) = cache
    check_shape("dy", dy, tuple(x.shape))
    dx = kernels.of(x).act_backward(rows(dy), rows(x), "silu")
    return namespace(dy, x).reshape(dx, x.shape), {}
