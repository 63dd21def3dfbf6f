r"""GELU in its tanh approximation, as GPT-2 and Gemma compute it.

Forward::

    y = x (1 + t) / 2                            t = tanh(c (x + a x³)), c = √(2/π), a = 0.044715

Backward::

    dx = dy ⊙ ((1 + t)/2 + x (1 - t²) c (1 + 3 a x²) / 2)

Source: Hendrycks and Gimpel, arXiv:1606.08415, section 2.
Cost: one tanh an element each way; x is kept.
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
    """y = x (1 + t) / 2, elementwise; x of any shape.

    >>> import numpy as np
    >>> forward(np.array([-1.0, 0.0, 2.0]))[0].round(4)
    array([-0.1588,  0.    ,  1.9546])
    """
    y = kernels.of(x).act_forward(rows(x), "gelu_tanh")  # y = x (1 + t) / 2
    return namespace(x).reshape(y, x.shape), Cache(x)


def backward(dy: Array, cache: Cache) -> tuple[Array, dict[str, Array]]:
    """dx = dy ⊙ ((1 + t)/2 + x (1 - t²) c (1 + 3 a x²) / 2); no parameters.

    >>> import numpy as np
    >>> backward(np.array([1.0]), Cache(np.array([2.0])))[0].round(4)
    array([1.0861])
    """
    (x,) = cache
    check_shape("dy", dy, tuple(x.shape))
    dx = kernels.of(x).act_backward(rows(dy), rows(x), "gelu_tanh")
    return namespace(dy, x).reshape(dx, x.shape), {}
