r"""Softplus, y = log(1 + eˣ), a smooth max(x, 0); the width of noisy top-k routing.

Forward, the form that neither overflows nor loses a small y::

    y = max(x, 0) + log1p(e^{-|x|})

Backward::

    dx = dy ⊙ σ(x)

Source: Dugas et al., *Incorporating Second-Order Functional Knowledge for Better Option Pricing*, NIPS 2000.
In routing: Shazeer et al., arXiv:1701.06538, eq. 4.  Cost: an exponential and a logarithm an element.
"""

from __future__ import annotations

from typing import NamedTuple

from pymoe.backend import namespace, real
from pymoe.backend.errors import check_shape
from pymoe.backend.namespace import Array
from pymoe.kernels import activations, checks


class Cache(NamedTuple):
    x: Array  # (...)


def forward(x: Array) -> tuple[Array, Cache]:
    """y = log(1 + eˣ), elementwise; x of any shape.

    >>> import numpy as np
    >>> forward(np.array([-800.0, 0.0, 80.0]))[0].round(4)
    array([ 0.    ,  0.6931, 80.    ])
    """
    checks.floating("x", x)
    xp = namespace(x)
    minus_magnitude = xp.where(real(x) > 0, -x, x)  # -|x|, written so that a complex step passes
    return activations.relu(x) + xp.log1p(xp.exp(minus_magnitude)), Cache(x)


def backward(dy: Array, cache: Cache) -> tuple[Array, dict[str, Array]]:
    """dx = dy ⊙ σ(x); no parameters.

    >>> import numpy as np
    >>> backward(np.array([2.0]), Cache(np.array([0.0])))[0]
    array([1.])
    """
    (x,) = cache
    check_shape("dy", dy, tuple(x.shape))
    return dy * activations.sigmoid(x), {}
