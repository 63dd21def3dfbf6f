r"""GeGLU with the tanh approximation of GELU, h = gelu_tanh(g) ⊙ u on the concatenated halves x = [g | u].

Forward::

    h = gelu_tanh(g) ⊙ u                          t = tanh(c (g + a g³)), gelu_tanh(g) = g (1 + t) / 2

Backward::

    dg = dh ⊙ u ⊙ gelu_tanh'(g)                   (1 + t)/2 + g (1 - t²) c (1 + 3 a g²) / 2
    du = dh ⊙ gelu_tanh(g)
    dx = [dg | du]

Source: Shazeer, *GLU Variants Improve Transformer*, arXiv:2002.05202, eq. 6, with the approximation of
arXiv:1606.08415, section 2, where c = √(2/π) and a = 0.044715
(both halves come from one matrix, gate first, as in ``swiglu``).  Cost: one tanh a hidden unit,
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
    """h = gelu_tanh(g) ⊙ u for x = [g | u].

    x (..., 2F) -> h (..., F).  An odd last axis is a ShapeError.

    >>> import numpy as np
    >>> forward(np.array([[-1.0, 2.0, 3.0, 5.0]]))[0].round(4)
    array([[-0.4764,  9.773 ]])
    """
    return kernels.of(x).glu_forward(x, "gelu_tanh"), Cache(x)  # h = gelu_tanh(g) ⊙ u


def backward(dh: Array, cache: Cache) -> tuple[Array, dict[str, Array]]:
    """dh (..., F) -> dx (..., 2F); no parameters.

    >>> import numpy as np
    >>> _, cache = forward(np.array([[2.0, 3.0]]))
    >>> backward(np.array([[1.0]]), cache)[0].round(4)
    array([[3.2583, 1.9546]])
    """
    (x,) = cache
    check_shape("dh", dh, (*x.shape[:-1], x.shape[-1] // 2))
    return kernels.of(x).glu_backward(dh, x, "gelu_tanh"), {}  # [dh ⊙ u ⊙ gelu_tanh'(g) | dh ⊙ gelu_tanh(g)]
