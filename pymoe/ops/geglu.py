r"""GeGLU, the linear unit gated by the exact GELU: h = gelu(g) ⊙ u on the concatenated halves x = [g | u].

Forward::

    h = gelu(g) ⊙ u                          gelu(g) = g Φ(g)

Backward::

    dg = dh ⊙ u ⊙ gelu'(g)                   gelu'(g) = Φ(g) + g φ(g)
    du = dh ⊙ gelu(g)
    dx = [dg | du]

Source: Shazeer, *GLU Variants Improve Transformer*, arXiv:2002.05202, eq. 6
(both halves come from one matrix, gate first, as in ``swiglu``).  Cost: one erf a hidden unit, backward an exponential
more, one pass over memory in each direction (kernels ``glu_forward`` and ``glu_backward``; x is kept).
"""

from __future__ import annotations

from typing import NamedTuple

from pymoe import kernels
from pymoe.backend.errors import check_shape
from pymoe.backend.namespace import Array


class Cache(NamedTuple):
    x: Array  # (..., 2F) [g | u], the pre-activations


def forward(x: Array) -> tuple[Array, Cache]:
    """h = gelu(g) ⊙ u for x = [g | u].

    x (..., 2F) -> h (..., F).  An odd last axis is a ShapeError.

    >>> import numpy as np
    >>> forward(np.array([[-1.0, 2.0, 3.0, 5.0]]))[0].round(4)
    array([[-0.476 ,  9.7725]])
    """
    return kernels.of(x).glu_forward(x, "gelu"), Cache(x)  # h = gelu(g) ⊙ u


def backward(dh: Array, cache: Cache) -> tuple[Array, dict[str, Array]]:
    """dh (..., F) -> dx (..., 2F); no parameters.

    >>> import numpy as np
    >>> _, cache = forward(np.array([[2.0, 3.0]]))
    >>> backward(np.array([[1.0]]), cache)[0].round(4)
    array([[3.2557, 1.9545]])
    """
    (x,) = cache
    check_shape("dh", dh, (*x.shape[:-1], x.shape[-1] // 2))
    return kernels.of(x).glu_backward(dh, x, "gelu"), {}  # [dh ⊙ u ⊙ gelu'(g) | dh ⊙ gelu(g)]
