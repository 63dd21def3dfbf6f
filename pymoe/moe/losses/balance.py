r"""Load balancing loss of Switch and GShard, per layer (never pooled over layers).

Forward, s (T, E) scores, T real tokens::

    q_te = s_te / Σ_e s_te                 (softmax scores: q = s)
    P_e  = mean_t q_te                     f_e = count_e / (K T), a constant
    L    = E Σ_e f_e P_e

Backward::

    dq_te = E f_e dL / T
    ds_te = (E dL / T) (f_e - ⟨f, q_t⟩) / Σ_e s_te

f counts the choices before any drop.  L = 1 when f or P is uniform; it can be below 1 (its infimum for top-1 routing
over 8 experts is 0.40), so 1 is not its minimum.  Sources: arXiv:2101.03961 eq. 4-6; sigmoid scores normalised as in
DeepSeek-V3, arXiv:2412.19437 eq. 17-20.  No ε in Σ s: a router can learn to hide in it.
Cost: O(T E) each way; the scores are kept by reference, 1 / Σ s anew.
"""

from __future__ import annotations

from typing import NamedTuple

from pymoe.backend import accumulator, namespace, real
from pymoe.backend.namespace import Array


class Cache(NamedTuple):
    s: Array  # (T, E)
    f: Array  # (E,) constant
    weight: Array  # (T, 1) 1 / Σ_e s for a real token, 0 for padding
    tokens: int  # real tokens


def forward(s: Array, f: Array, mask: Array | None = None) -> tuple[Array, Cache]:
    """L (0-d) from the scores s (T, E), the fractions f (E,) and the mask (T,) of real tokens.

    >>> import numpy as np
    >>> float(forward(np.array([[0.5, 0.5], [0.9, 0.1]]), np.array([1.0, 0.0]))[0])
    1.4
    """
    xp = namespace(s, f)
    acc = accumulator(s)
    total = xp.sum(s, axis=1, keepdims=True)
    alive = real(total) != 0
    if mask is not None:
        alive = alive & mask[:, None]
    weight = xp.where(alive, 1 / xp.where(alive, total, xp.ones_like(total)), xp.zeros_like(total))
    tokens = int(s.shape[0]) if mask is None else int(xp.sum(xp.astype(mask, xp.int64)))
    mean = xp.sum(s * weight, axis=0, dtype=acc) / max(tokens, 1)
    return xp.sum(xp.astype(f, acc) * mean) * int(s.shape[1]), Cache(s, f, weight, tokens)


def backward(dloss: Array, cache: Cache) -> tuple[Array, dict[str, Array]]:
    """ds (T, E) in the dtype of s; f is a count and has no gradient.

    >>> import numpy as np
    >>> _, cache = forward(np.array([[0.5, 0.5], [0.75, 0.25]]), np.array([1.0, 0.0]))
    >>> backward(np.ones(()), cache)[0]
    array([[ 0.5 , -0.5 ],
           [ 0.25, -0.75]])
    """
    s, f, weight, tokens = cache
    xp = namespace(s, f)
    f = xp.astype(f, s.dtype)
    scale = xp.astype(dloss, s.dtype) * (int(s.shape[1]) / max(tokens, 1))
    mixed = xp.sum(s * f, axis=1, keepdims=True) * weight  # ⟨f, q_t⟩
    return scale * weight * (f - mixed), {}
