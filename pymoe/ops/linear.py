r"""Linear map of the last axis, y = x Wᵀ + b, weight (out, in) as checkpoints store it.

Forward::

    y = x Wᵀ + b

Backward::

    dx = dy W                 dW = Σ_n dy_n ⊗ x_n = dyᵀ x                 db = Σ_n dy_n

with n over all leading axes.  Source: textbook (Rumelhart, Hinton, Williams, Nature 323, 1986).  Cost: 2 N·in·out
flops forward, twice that backward, one matrix product each; their bits are those of the BLAS at hand.
"""

from __future__ import annotations

from typing import NamedTuple

from pymoe.backend import namespace
from pymoe.backend.errors import ShapeError, check_shape
from pymoe.backend.namespace import Array
from pymoe.kernels import checks
from pymoe.ops._rows import column_sum, rows


class Cache(NamedTuple):
    x: Array  # (..., in)
    weight: Array  # (out, in)
    biased: bool  # was there a bias?


def forward(x: Array, weight: Array, bias: Array | None = None) -> tuple[Array, Cache]:
    """y = x Wᵀ + b: x (..., in), weight (out, in), bias (out,) or None -> y (..., out).

    >>> import numpy as np
    >>> forward(np.array([1.0, 2.0]), np.array([[3.0, 4.0], [5.0, 6.0], [0.0, 1.0]]), np.array([0.5, 0.0, 0.0]))[0]
    array([11.5, 17. ,  2. ])
    """
    xp = namespace(x, weight, bias)
    check_shape("weight", weight, (None, None))
    checks.floating("x", x)
    out, width = weight.shape
    if x.ndim == 0 or x.shape[-1] != width:
        raise ShapeError(f"x must have {width} columns, as weight {(out, width)} has, got {tuple(x.shape)}")
    y = rows(x) @ weight.T  # (N, out)
    if bias is not None:
        check_shape("bias", bias, (out,))
        y = y + bias
    return xp.reshape(y, (*x.shape[:-1], out)), Cache(x, weight, bias is not None)


def backward(dy: Array, cache: Cache) -> tuple[Array, dict[str, Array]]:
    """dy (..., out) -> dx (..., in), {"weight": (out, in), "bias": (out,)}; no key "bias" if there was none.

    >>> import numpy as np
    >>> _, cache = forward(np.array([[1.0, 2.0]]), np.array([[3.0, 4.0]]), np.zeros(1))
    >>> backward(np.array([[10.0]]), cache)
    (array([[30., 40.]]), {'weight': array([[10., 20.]]), 'bias': array([10.])})
    """
    x, weight, biased = cache
    check_shape("dy", dy, (*x.shape[:-1], weight.shape[0]))
    dy2 = rows(dy)  # (N, out)
    dp = {"weight": dy2.T @ rows(x)}
    if biased:
        dp["bias"] = column_sum(dy2)
    return namespace(dy).reshape(dy2 @ weight, x.shape), dp
