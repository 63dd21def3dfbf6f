r"""Entropy of the routing: top-p routing pays for every token that it cannot decide.

Forward, over real tokens, p = softmax(z)::

    H_t = -Σ_e p_te log p_te         L = mean_t H_t

Backward::

    dz_te = -p_te (log p_te + H_t) dL / T

Source: Huang et al., *Harder Tasks Need More Experts*, arXiv:2403.07652.  Cost: an exponential a logit forward, and
again backward; p log p is 0 where p is.
"""

from __future__ import annotations

from typing import NamedTuple

from pymoe.backend import accumulator, namespace, real
from pymoe.backend.namespace import Array
from pymoe.ops import log_softmax


class Cache(NamedTuple):
    log_p: Array  # (T, E), 0 where p is
    p: Array  # (T, E)
    h: Array  # (T, 1)
    mask: Array | None  # (T,)
    tokens: int


def forward(z: Array, mask: Array | None = None) -> tuple[Array, Cache]:
    """L (0-d) from logits z (T, E).

    >>> import numpy as np
    >>> float(forward(np.zeros((3, 4)))[0].round(4)), float(np.log(4).round(4))
    (1.3863, 1.3863)
    """
    xp = namespace(z)
    log_p, _ = log_softmax.forward(z)
    p = xp.exp(log_p)
    log_p = xp.where(real(p) > 0, log_p, xp.zeros_like(log_p))
    h = -xp.sum(p * log_p, axis=1, keepdims=True)
    if mask is not None:
        h = xp.where(mask[:, None], h, xp.zeros_like(h))
    tokens = int(z.shape[0]) if mask is None else int(xp.sum(xp.astype(mask, xp.int64)))
    return xp.sum(xp.astype(h, accumulator(z))) / max(tokens, 1), Cache(log_p, p, h, mask, tokens)


def backward(dloss: Array, cache: Cache) -> tuple[Array, dict[str, Array]]:
    """dz (T, E) in the dtype of z.

    >>> import numpy as np
    >>> _, cache = forward(np.array([[0.0, np.log(3.0)]]))
    >>> backward(np.ones(()), cache)[0].round(4)
    array([[ 0.206, -0.206]])
    """
    log_p, p, h, mask, tokens = cache
    xp = namespace(p)
    dz = -p * (log_p + h) * (xp.astype(dloss, p.dtype) / max(tokens, 1))
    return (dz if mask is None else xp.where(mask[:, None], dz, xp.zeros_like(dz))), {}
