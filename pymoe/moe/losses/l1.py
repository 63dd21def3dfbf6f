r"""L1 of the scores, weighted by how often each expert fires: the sparsity loss of ReLU routing.

Forward, R (T, E) scores, none negative, T real tokens, K the number of experts that are wanted a token::

    f_e = E / (K T) #{t: R_te > 0}, a constant
    L   = (1 / (T E)) Σ_te f_e R_te

Backward::

    dR_te = f_e dL / (T E)

The derivative at R = 0 is left to the score (0 for ReLU).  The coefficient λ is the caller's; ReMoE moves it by the
measured sparsity S, λ <- λ α^{sign((1 - K/E) - S)}.  Source: arXiv:2412.14711.  Cost: O(T E) each way.
"""

from __future__ import annotations

from typing import NamedTuple

from pymoe.backend import accumulator, namespace, real
from pymoe.backend.namespace import Array


class Cache(NamedTuple):
    s: Array  # (T, E)
    f: Array  # (E,) constant
    mask: Array | None  # (T,)
    tokens: int


def forward(s: Array, k: int, mask: Array | None = None) -> tuple[Array, Cache]:
    """L (0-d) from the scores s (T, E).

    >>> import numpy as np
    >>> float(forward(np.array([[1.0, 0.0], [3.0, 0.0]]), 1)[0])
    2.0
    """
    xp = namespace(s)
    tokens, experts = (int(n) for n in s.shape)
    live = real(s) > 0
    if mask is not None:
        live = live & mask[:, None]
        tokens = int(xp.sum(xp.astype(mask, xp.int64)))
        s = xp.where(mask[:, None], s, xp.zeros_like(s))
    acc = accumulator(s)
    f = xp.sum(xp.astype(live, xp.float64), axis=0) * (experts / (k * max(tokens, 1)))
    loss = xp.sum(xp.astype(f, acc) * xp.sum(s, axis=0, dtype=acc)) / (max(tokens, 1) * experts)
    return loss, Cache(s, f, mask, tokens)


def backward(dloss: Array, cache: Cache) -> tuple[Array, dict[str, Array]]:
    """ds (T, E) in the dtype of s.

    >>> import numpy as np
    >>> _, cache = forward(np.array([[1.0, 0.0], [3.0, 0.0]]), 1)
    >>> backward(np.ones(()), cache)[0]
    array([[0.5, 0. ],
           [0.5, 0. ]])
    """
    s, f, mask, tokens = cache
    xp = namespace(s)
    ds = xp.ones_like(s) * xp.astype(f, s.dtype) * (xp.astype(dloss, s.dtype) / (max(tokens, 1) * int(s.shape[1])))
    return (ds if mask is None else xp.where(mask[:, None], ds, xp.zeros_like(ds))), {}
