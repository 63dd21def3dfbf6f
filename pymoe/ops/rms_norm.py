r"""Root-mean-square normalisation of the last axis.

Forward::

    r = (mean(x²) + ε)^{-1/2}            n = x r                    y = n ⊙ w

Backward, with dn = dy ⊙ w::

    dx = r (dn - n mean(dn ⊙ n))         dw = Σ_n dy ⊙ n            (sum over all leading axes)

Both run as kernels (``rms_norm``, ``rms_norm_backward``), with sums in ``accumulator(x)``: float64 for float32.
Source: Zhang and Sennrich, *Root Mean Square Layer Normalization*, arXiv:1910.07467, eq. 4; ε inside the root as in
Llama.  Cost: one pass over memory in each direction; r is kept, n is computed again (one product).
"""

from __future__ import annotations

from typing import NamedTuple

from pymoe import kernels
from pymoe.backend import namespace
from pymoe.backend.errors import check_shape
from pymoe.backend.namespace import Array
from pymoe.ops._rows import check_columns, rows


class Cache(NamedTuple):
    x: Array  # (..., D)
    weight: Array  # (D,)
    r: Array  # (N,) 1 / root mean square of each row, all leading axes as one


def forward(x: Array, weight: Array, *, eps: float = 1e-6) -> tuple[Array, Cache]:
    """y = x / √(mean(x²) + ε) ⊙ w: x (..., D), weight (D,) -> y (..., D).  D = 0 is a ShapeError.

    >>> import numpy as np
    >>> forward(np.array([[3.0, 4.0]]), np.array([1.0, 10.0]), eps=0.0)[0].round(4)
    array([[ 0.8485, 11.3137]])
    """
    check_columns("x", x)
    y, r = kernels.of(x).rms_norm(rows(x), weight, eps)
    return namespace(y).reshape(y, x.shape), Cache(x, weight, r)


def backward(dy: Array, cache: Cache) -> tuple[Array, dict[str, Array]]:
    """dy (..., D) -> dx (..., D), {"weight": (D,)}.

    >>> import numpy as np
    >>> _, cache = forward(np.array([[3.0, 4.0]]), np.ones(2), eps=0.0)
    >>> dx, dp = backward(np.array([[1.0, 0.0]]), cache)
    >>> dx.round(4), dp["weight"].round(4)
    (array([[ 0.181 , -0.1358]]), array([0.8485, 0.    ]))
    """
    x, weight, r = cache
    check_shape("dy", dy, tuple(x.shape))
    dx, dweight = kernels.of(x).rms_norm_backward(rows(dy), rows(x), weight, r)
    return namespace(dx).reshape(dx, x.shape), {"weight": dweight}
