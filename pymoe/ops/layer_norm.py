r"""Layer normalisation of the last axis.

Forward::

    μ = mean(x)       r = (mean((x - μ)²) + ε)^{-1/2}       n = (x - μ) r       y = n ⊙ w + b

Backward, with dn = dy ⊙ w::

    dx = r (dn - mean(dn) - n mean(dn ⊙ n))
    dw = Σ_n dy ⊙ n            db = Σ_n dy                  (sums over all leading axes)

Source: Ba, Kiros, Hinton, *Layer Normalization*, arXiv:1607.06450, eq. 3; the variance is the biased one.  Cost: three
passes over memory forward; μ and r are kept, n is computed again (a difference and a product).
"""

from __future__ import annotations

from typing import NamedTuple

from pymoe.backend import accumulator, namespace
from pymoe.backend.errors import check_shape
from pymoe.backend.namespace import Array
from pymoe.kernels import checks
from pymoe.ops._rows import check_columns, column_sum, rows


class Cache(NamedTuple):
    x: Array  # (..., D)
    weight: Array  # (D,)
    mu: Array  # (..., 1) mean
    r: Array  # (..., 1) 1 / standard deviation


def forward(x: Array, weight: Array, bias: Array, *, eps: float = 1e-5) -> tuple[Array, Cache]:
    """y = (x - μ) / √(σ² + ε) ⊙ w + b: x (..., D), weight (D,), bias (D,) -> y (..., D).  D = 0 is a ShapeError.

    >>> import numpy as np
    >>> forward(np.array([[1.0, 5.0]]), np.array([1.0, 2.0]), np.array([0.0, 0.5]), eps=0.0)[0]
    array([[-1. ,  2.5]])
    """
    xp = namespace(x, weight, bias)
    checks.floating("x", x)
    check_columns("x", x)
    width = x.shape[-1]
    check_shape("weight", weight, (width,))
    check_shape("bias", bias, (width,))
    mu = xp.astype(xp.sum(x, axis=-1, keepdims=True, dtype=accumulator(x)) / width, x.dtype, copy=False)
    centred = x - mu
    variance = xp.sum(centred * centred, axis=-1, keepdims=True, dtype=accumulator(x)) / width
    r = xp.astype(1 / xp.sqrt(variance + eps), x.dtype, copy=False)
    return centred * r * weight + bias, Cache(x, weight, mu, r)


def backward(dy: Array, cache: Cache) -> tuple[Array, dict[str, Array]]:
    """dy (..., D) -> dx (..., D), {"weight": (D,), "bias": (D,)}.

    >>> import numpy as np
    >>> _, cache = forward(np.array([[1.0, 2.0, 6.0]]), np.ones(3), np.zeros(3))
    >>> dx, dp = backward(np.array([[1.0, 0.0, 0.0]]), cache)
    >>> dx.round(4), dp["weight"].round(4), dp["bias"]
    (array([[ 0.1763, -0.2204,  0.0441]]), array([-0.9258,  0.    ,  0.    ]), array([1., 0., 0.]))
    """
    x, weight, mu, r = cache
    check_shape("dy", dy, tuple(x.shape))
    width = x.shape[-1]
    n = (x - mu) * r
    along = dy * n
    mean = (dy @ weight)[..., None] / width  # mean(dn), as w is the same for every row
    projection = (along @ weight)[..., None] / width  # mean(dn ⊙ n)
    dx = r * (dy * weight - mean - n * projection)
    return dx, {"weight": column_sum(rows(along)), "bias": column_sum(rows(dy))}
