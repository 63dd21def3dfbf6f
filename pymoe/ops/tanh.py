r"""Hyperbolic tangent, t = tanh(x) = (eˣ - e⁻ˣ) / (eˣ + e⁻ˣ).

Forward::

    t = tanh(x)

Backward::

    dx = dt ⊙ (1 - t²)

Source: textbook.  Cost: one tanh an element forward, none backward; t is kept, x is not.
"""

from __future__ import annotations

from typing import NamedTuple

from pymoe.backend import namespace
from pymoe.backend.errors import check_shape
from pymoe.backend.namespace import Array
from pymoe.kernels import checks


class Cache(NamedTuple):
    t: Array  # (...) tanh(x)


def forward(x: Array) -> tuple[Array, Cache]:
    """t = tanh(x), elementwise; x of any shape.

    >>> import numpy as np
    >>> forward(np.array([-800.0, 0.0, 1.0]))[0].round(4)
    array([-1.    ,  0.    ,  0.7616])
    """
    checks.floating("x", x)
    t = namespace(x).tanh(x)
    return t, Cache(t)


def backward(dt: Array, cache: Cache) -> tuple[Array, dict[str, Array]]:
    """dx = dt ⊙ (1 - t²); no parameters.

    >>> import numpy as np
    >>> backward(np.array([1.0]), Cache(np.array([0.5])))[0]
    array([0.75])
    """
    (t,) = cache
    check_shape("dt", dt, tuple(t.shape))
    return dt * (1 - t * t), {}
