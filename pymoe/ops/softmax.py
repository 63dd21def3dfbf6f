r"""Softmax over the last axis.

Forward, shifted by m = max(x) so that nothing overflows::

    p = e^{x - m} / Σ e^{x - m}

Backward::

    dx = p ⊙ (dp - ⟨p, dp⟩)

An entry of -inf (a masked one) has p = 0 exactly; a row of nothing but -inf is all zeros, with gradient zero.
Source: Bridle 1990, doi:10.1007/978-3-642-76153-9_28.  Cost: one exponential an element; p is kept, x is not.
"""

from __future__ import annotations

from typing import NamedTuple

from pymoe import kernels
from pymoe.backend import namespace
from pymoe.backend.errors import check_shape
from pymoe.backend.namespace import Array
from pymoe.kernels import checks
from pymoe.ops._rows import check_columns, rows


class Cache(NamedTuple):
    p: Array  # (..., C) softmax(x)


def forward(x: Array) -> tuple[Array, Cache]:
    """p = softmax(x): x (..., C) -> p (..., C).  C = 0 is a ShapeError.

    >>> import numpy as np
    >>> forward(np.array([[1000.0, 1000.0, -np.inf]]))[0]
    array([[0.5, 0.5, 0. ]])
    """
    checks.floating("x", x)
    check_columns("x", x)
    p = namespace(x).reshape(kernels.of(x).softmax(rows(x)), x.shape)
    return p, Cache(p)


def backward(dp: Array, cache: Cache) -> tuple[Array, dict[str, Array]]:
    """dx = p ⊙ (dp - ⟨p, dp⟩); no parameters.

    >>> import numpy as np
    >>> backward(np.array([[1.0, 0.0]]), Cache(np.array([[0.5, 0.5]])))[0]
    array([[ 0.25, -0.25]])
    """
    (p,) = cache
    check_shape("dp", dp, tuple(p.shape))
    dx = kernels.of(p).softmax_backward(rows(dp), rows(p))  # dx = p ⊙ (dp - ⟨p, dp⟩)
    return namespace(dp).reshape(dx, p.shape), {}
