r"""Root-mean-square normalisation of the last axis.

Forward::

    r = (mean(x²) + ε)^{-1/2}            n = x r                    y = n ⊙ w

Backward, with dn = dy ⊙ w::

    dx = r (dn - n mean(dn ⊙ n))         dw = Σ_n dy ⊙ n            (sum over all leading axes)

Source: Zhang and Sennrich, *Root Mean Square Layer Normalization*, arXiv:1910.07467, eq. 4; ε inside the root as in
Llama.  Cost: two passes over memory forward; r is kept, n is computed again (one product).
"""

from __future__ import annotations

from typing import NamedTuple

from pymoe.backend import accumulator, namespace
from pymoe.backend.errors import check_shape
from pymoe.backend.namespace import Array
from pymoe.kernels import checks
from pymoe.ops._rows import column_sum, rows


class Cache(NamedTuple):
    x: Array  # (..., D)
    weight: Array  # (D,)
    r: Array  # (..., 1) 1 / root mean square


def forward(x: Array, weight: Array, *, eps: float = 1e-6) -> tuple[Array, Cache]:
    """y = x / √(mean(x²) + ε) ⊙ w: x (..., D), weight (D,) -> y (..., D).

    >>> import numpy as np
    >>> forward(np.array([[3.0, 4.0]]), np.array([1.0, 10.0]), eps=0.0)[0].round(4)
    array([[ 0.8485, 11.3137]])
    """
    xp = namespace(x, weight)
    checks.floating("x", x)
    width = x.shape[-1]
    check_shape("weight", weight, (width,))
    mean = xp.sum(x * x, axis=-1, keepdims=True, dtype=accumulator(x)) / width
    r = xp.astype(1 / xp.sqrt(mean + eps), x.dtype, copy=False)
    return x * r * weight, Cache(x, weight, r)


def backward(dy: Array, cache: Cache) -> tuple[Array, dict[str, Array]]:
    """dy (..., D) -> dx (..., D), {"weight": (D,)}.

    >>> import numpy as np
    >>> _, cache = forward(np.array([[3.0, 4.0]]), np.ones(2), eps=0.0)
    >>> dx, dp = backward(np.array([[1.0, 0.0]]), cache)
    >>> dx.round(4), dp["weight"].round(4)
    (array([[ 0.181 , -0.1358]]), array([0.8485, 0.    ]))
    """
    x, weight, r = cache
    width = x.shape[-1]
    n = x * r
    along = dy * n
    projection = (along @ weight)[..., None] / width  # mean(dn ⊙ n), as w is the same for every row
    return r * (dy * weight - n * projection), {"weight": column_sum(rows(along))}
