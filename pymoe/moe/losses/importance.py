r"""Importance loss: the CV² of the combine weight each expert receives.

Forward::

    I_e = Σ_{t, j: idx_tj = e} g_tj        L = CV²(I)

Backward::

    dg_tj = dI_{idx_tj}

g are the layer's combine weights: 0 for a dropped choice and for padding.  Source: arXiv:1701.06538, eq. 6-7.
Cost: O(T E) forward (a sum in a fixed order, no scatter), O(T K) backward.
"""

from __future__ import annotations

from typing import NamedTuple

from pymoe import kernels
from pymoe.backend import accumulator, namespace
from pymoe.backend.namespace import Array
from pymoe.moe.losses import cv_squared


class Cache(NamedTuple):
    idx: Array  # (T, K)
    g: Array  # (T, K)
    kept: Array | None  # (T, K)
    cv: cv_squared.Cache


def forward(
    g: Array, idx: Array, experts: int, kept: Array | None = None, *, ddof: int = 0, eps: float = 0.0
) -> tuple[Array, Cache]:
    """L (0-d) from the weights g (T, K) of the experts idx (T, K).

    >>> import numpy as np
    >>> float(forward(np.array([[1.0], [1.0]]), np.array([[0], [1]]), 2)[0])
    0.0
    """
    xp = namespace(g, idx)
    total = xp.sum(kernels.of(g).expand(g, idx, experts), axis=0, dtype=accumulator(g))
    loss, cv = cv_squared.forward(total, ddof=ddof, eps=eps)
    return loss, Cache(idx, g, kept, cv)


def backward(dloss: Array, cache: Cache) -> tuple[Array, dict[str, Array]]:
    """dg (T, K) in the dtype of g.

    >>> import numpy as np
    >>> _, cache = forward(np.array([[1.0], [3.0]]), np.array([[0], [1]]), 2)
    >>> backward(np.ones(()), cache)[0]
    array([[-0.375],
           [ 0.125]])
    """
    idx, g, kept, cv = cache
    xp = namespace(g, idx)
    di, _ = cv_squared.backward(dloss, cv)
    dg = xp.reshape(xp.take(xp.astype(di, g.dtype), xp.reshape(idx, (-1,))), idx.shape)
    return (dg if kept is None else xp.where(kept, dg, xp.zeros_like(dg))), {}
