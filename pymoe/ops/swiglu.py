r"""SwiGLU, the gated activation of most experts: h = silu(g) ⊙ u on the concatenated halves x = [g | u].

Forward::

    h = silu(g) ⊙ u                          silu(g) = g σ(g)

Backward::

    dg = dh ⊙ u ⊙ silu'(g)                   silu'(g) = σ(g) (1 + g (1 - σ(g)))
    du = dh ⊙ silu(g)
    dx = [dg | du]

Source: Shazeer, *GLU Variants Improve Transformer*, arXiv:2002.05202, eq. 6 (both halves come from one matrix, as in
the ``gate_up_proj`` of published checkpoints: gate first).  Cost: one exponential a hidden unit, one pass over memory
in each direction (kernels ``glu_forward`` and ``glu_backward``; x is kept, σ(g) is computed again).
"""

from __future__ import annotations

from typing import NamedTuple

from pymoe import kernels
from pymoe.backend.errors import check_shape
from pymoe.backend.namespace import Array


class Cache(NamedTuple):
    x: Array  # (..., 2F) [g | u], the pre-activations


def forward(x: Array) -> tuple[Array, Cache]:
    """h = silu(g) ⊙ u for x = [g | u].

    x (..., 2F) -> h (..., F).  An odd last axis is a ShapeError.

    >>> import numpy as np
    >>> forward(np.array([[0.0, 2.0, 3.0, 5.0]]))[0].round(4)
    array([[0.   , 8.808]])
    """
    return kernels.of(x).glu_forward(x, "silu"), Cache(x)  # h = silu(g) ⊙ u


def backward(dh: Array, cache: Cache) -> tuple[Array, dict[str, Array]]:
    """dh (..., F) -> dx (..., 2F); no parameters.

    >>> import numpy as np
    >>> _, cache = forward(np.array([[0.0, 2.0]]))
    >>> backward(np.array([[1.0]]), cache)[0]
    array([[1., 0.]])
    """
    (x,) = cache
    check_shape("dh", dh, (*x.shape[:-1], x.shape[-1] // 2))
    return kernels.of(x).glu_backward(dh, x, "silu"), {}  # [dh ⊙ u ⊙ silu'(g) | dh ⊙ silu(g)]
