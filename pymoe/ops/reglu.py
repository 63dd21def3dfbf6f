r"""ReGLU, the linear unit gated by a rectifier: h = relu(g) ⊙ u on the concatenated halves x = [g | u].

Forward::

    h = relu(g) ⊙ u                          relu(g) = max(g, 0)

Backward::

    dg = dh ⊙ u ⊙ relu'(g)                   relu'(g) = 1[g > 0]
    du = dh ⊙ relu(g)
    dx = [dg | du]

Source: Shazeer, *GLU Variants Improve Transformer*, arXiv:2002.05202, eq. 6
(both halves come from one matrix, gate first, as in ``swiglu``).  Cost: one comparison a hidden unit,
one pass over memory in each direction (kernels ``glu_forward`` and ``glu_backward``; x is kept).
"""

from __future__ import annotations

from typing import NamedTuple

from pymoe import kernels
from pymoe.backend.errors import check_shape
from pymoe.backend.namespace import Array


class Cache(NamedTuple):
    x: Array  # (..., 2F) [g | u], the pre-activations


def forward(x: Array) -> tuple[Array, Cache]:
    """h = relu(g) ⊙ u for x = [g | u].

    x (..., 2F) -> h (..., F).  An odd last axis is a ShapeError.

    >>> import numpy as np
    >>> forward(np.array([[-1.0, 2.0, 3.0, 5.0]]))[0].round(4)
    array([[ 0., 10.]])
    """
    return kernels.of(x).glu_forward(x, "relu"), Cache(x)  # h = relu(g) ⊙ u


def backward(dh: Array, cache: Cache) -> tuple[Array, dict[str, Array]]:
    """dh (..., F) -> dx (..., 2F); no parameters.

    >>> import numpy as np
    >>> _, cache = forward(np.array([[2.0, 3.0]]))
    >>> backward(np.array([[1.0]]), cache)[0].round(4)
    array([[3., 2.]])
    """
    (x,) = cache
    check_shape("dh", dh, (*x.shape[:-1], x.shape[-1] // 2))
    return kernels.of(x).glu_backward(dh, x, "relu"), {}  # [dh ⊙ u ⊙ relu'(g) | dh ⊙ relu(g)]
