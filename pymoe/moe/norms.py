"""The norm that a ``form.Norm`` names, on the last axis; formulas: ``ops.rms_norm`` and ``ops.scaled_rms_norm``."""

from __future__ import annotations

from typing import Any

from pymoe.backend.namespace import Array
from pymoe.moe.form import Norm
from pymoe.ops import rms_norm, scaled_rms_norm

Cache = Any  # of rms_norm or of scaled_rms_norm: x (N, D), weight (D,), r (N,)


def forward(x: Array, weight: Array, norm: Norm) -> tuple[Array, Cache]:
    """x (N, D), weight (D,) -> y (N, D).

    >>> import numpy as np
    >>> forward(np.array([[3.0, 4.0]]), np.array([1.0, 10.0]), Norm(0.0, "input"))[0].round(4)
    array([[0.1058, 1.4103]])
    """
    if norm.scale == "input":
        return scaled_rms_norm.forward(x, weight, eps=norm.eps)
    return rms_norm.forward(x, weight, eps=norm.eps)


def backward(dy: Array, cache: Cache) -> tuple[Array, Array]:
    """dx (N, D), dweight (D,).

    >>> import numpy as np
    >>> _, cache = forward(np.array([[3.0, 4.0]]), np.ones(2), Norm(0.0))
    >>> backward(np.array([[1.0, 0.0]]), cache)[1].round(4)
    array([0.8485, 0.    ])
    """
    op = scaled_rms_norm if isinstance(cache, scaled_rms_norm.Cache) else rms_norm
    dx, dp = op.backward(dy, cache)
    return dx, dp["weight"]


def again(cache: Cache) -> Array:
    """y (N, D) of a cache that keeps x: where keeping both would cost N·D numbers more.

    >>> import numpy as np
    >>> y, cache = forward(np.array([[3.0, 4.0]]), np.array([1.0, 10.0]), Norm(0.0))
    >>> bool((again(cache) == y).all())
    True
    """
    y: Array = cache.x * cache.r[:, None] * cache.weight
    return y
