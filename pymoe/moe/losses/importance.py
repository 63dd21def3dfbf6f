r"""Importance loss: the CV² of the combine weight each expert receives, or of the scores (V-MoE).

Forward::

    I_e = Σ_{t, j: idx_tj = e} g_tj        L = CV²(I)
    of scores, q_te = s_te / Σ_e s_te:     I_e = Σ_t q_te over real tokens

Backward::

    dg_tj = dI_{idx_tj}
    of scores:  ds_te = (dI_e - ⟨dI, q_t⟩) / Σ_e s_te

g are the layer's combine weights: 0 for a dropped choice and for padding.  The scores are clean, without noise.
Sources: arXiv:1701.06538, eq. 6-7; of scores arXiv:2106.05974.
Cost: O(T E) forward (a sum in a fixed order, no scatter), O(T K) backward.
"""

from __future__ import annotations

from typing import NamedTuple

from pymoe import kernels
from pymoe.backend import accumulator, namespace, real
from pymoe.backend.namespace import Array
from pymoe.moe.losses import cv_squared


class Cache(NamedTuple):
    idx: Array  # (T, K)
    g: Array  # (T, K)
    kept: Array | None  # (T, K)
    cv: cv_squared.Cache


def forward(
    g: Array,
    idx: Array,
    experts: int,
    kept: Array | None = None,
    *,
    ddof: int = 0,
    eps: float = 0.0,
    distinct: bool = True,
) -> tuple[Array, Cache]:
    """L (0-d) from the weights g (T, K) of the experts idx (T, K); distinct=False: a token may name one twice.

    >>> import numpy as np
    >>> float(forward(np.array([[1.0], [1.0]]), np.array([[0], [1]]), 2)[0])
    0.0
    """
    xp = namespace(g, idx)
    columns = [(g, idx)] if distinct else [(g[:, j : j + 1], idx[:, j : j + 1]) for j in range(int(g.shape[1]))]
    parts = [xp.sum(kernels.of(g).expand(v, i, experts), axis=0, dtype=accumulator(g)) for v, i in columns]
    total = sum(parts[1:], parts[0])
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


class ScoresCache(NamedTuple):
    q: Array  # (T, E) shares, 0 for padding
    weight: Array  # (T, 1) 1 / Σ_e s, 0 for padding
    cv: cv_squared.Cache


def of_scores(s: Array, mask: Array | None = None, *, ddof: int = 0, eps: float = 0.0) -> tuple[Array, ScoresCache]:
    """L (0-d) from the scores s (T, E) and the mask (T,) of real tokens.

    >>> import numpy as np
    >>> float(of_scores(np.array([[0.5, 1.5], [0.5, 0.5]]))[0])  # I = (0.75, 1.25)
    0.0625
    """
    xp = namespace(s)
    total = xp.sum(s, axis=1, keepdims=True)
    alive = real(total) != 0
    if mask is not None:
        alive = alive & mask[:, None]
    weight = xp.where(alive, 1 / xp.where(alive, total, xp.ones_like(total)), xp.zeros_like(total))
    q = s * weight
    loss, cv = cv_squared.forward(xp.sum(q, axis=0, dtype=accumulator(s)), ddof=ddof, eps=eps)
    return loss, ScoresCache(q, weight, cv)


def of_scores_backward(dloss: Array, cache: ScoresCache) -> tuple[Array, dict[str, Array]]:
    """ds (T, E) in the dtype of s.

    >>> import numpy as np
    >>> _, cache = of_scores(np.array([[0.5, 1.5], [0.5, 0.5]]))
    >>> of_scores_backward(np.ones(()), cache)[0]
    array([[-0.1875,  0.0625],
           [-0.25  ,  0.25  ]])
    """
    q, weight, cv = cache
    xp = namespace(q)
    di = xp.astype(cv_squared.backward(dloss, cv)[0], q.dtype)[None, :]
    return weight * (di - xp.sum(di * q, axis=1, keepdims=True)), {}
