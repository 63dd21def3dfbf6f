r"""Logistic sigmoid, s = σ(x) = 1 / (1 + e^{-x}).

Forward, the branch that cannot overflow, with e = exp(-|x|) ∈ (0, 1]::

    s = 1 / (1 + e)   for x >= 0,     s = e / (1 + e)   for x < 0

Backward::

    dx = ds ⊙ s ⊙ (1 - s)

Source: textbook; as a router score DeepSeek-V3, arXiv:2412.19437, eq. 15.  Cost: one exponential an element.
"""

from __future__ import annotations

from typing import NamedTuple

from pymoe.backend.errors import check_shape
from pymoe.backend.namespace import Array
from pymoe.kernels import activations, checks


class Cache(NamedTuple):
    s: Array  # (...) σ(x)


def forward(x: Array) -> tuple[Array, Cache]:
    """s = σ(x), elementwise; x of any shape.  Never overflows: σ(-800) is 0, not a warning.

    >>> import numpy as np
    >>> forward(np.array([-800.0, 0.0, 800.0]))[0]
    array([0. , 0.5, 1. ])
    """
    checks.floating("x", x)
    s = activations.sigmoid(x)
    return s, Cache(s)


def backward(ds: Array, cache: Cache) -> tuple[Array, dict[str, Array]]:
    """dx = ds ⊙ s ⊙ (1 - s); no parameters.

    >>> import numpy as np
    >>> backward(np.array([1.0]), Cache(np.array([0.5])))[0]
    array([0.25])
    """
    (s,) = cache
    check_shape("ds", ds, tuple(s.shape))
    return ds * s * (1 - s), {}
