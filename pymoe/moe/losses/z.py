r"""Router z-loss: keeps the logits small, so that their exponentials keep their digits.

Forward, over real tokens::

    L = mean_t lse(z_t)²,     lse(z) = log Σ_e e^{z_e}

Backward::

    dz_te = 2 lse_t p_te dL / T,     p = softmax(z)

On the logits, never on probabilities.  Source: ST-MoE, arXiv:2202.08906, eq. 5.  Cost: one exponential a logit each
way; the logits are kept by reference.
"""

from __future__ import annotations

from typing import NamedTuple

from pymoe import kernels
from pymoe.backend import accumulator, namespace
from pymoe.backend.namespace import Array
from pymoe.ops import logsumexp


class Cache(NamedTuple):
    z: Array  # (T, E)
    lse: Array  # (T,)
    mask: Array | None  # (T,)
    tokens: int


def forward(z: Array, mask: Array | None = None) -> tuple[Array, Cache]:
    """L (0-d) from logits z (T, E).

    >>> import numpy as np
    >>> float(forward(np.zeros((3, 4)))[0].round(4)), float((np.log(4) ** 2).round(4))
    (1.9218, 1.9218)
    """
    xp = namespace(z)
    lse, _ = logsumexp.forward(z)
    if mask is not None:
        lse = xp.where(mask, lse, xp.zeros_like(lse))
    tokens = int(z.shape[0]) if mask is None else int(xp.sum(xp.astype(mask, xp.int64)))
    wide = xp.astype(lse, accumulator(z))
    return xp.sum(wide * wide) / max(tokens, 1), Cache(z, lse, mask, tokens)


def backward(dloss: Array, cache: Cache) -> tuple[Array, dict[str, Array]]:
    """dz (T, E) in the dtype of z.

    >>> import numpy as np
    >>> _, cache = forward(np.zeros((3, 4)))
    >>> backward(np.ones(()), cache)[0][0].round(4), float((2 * np.log(4) / 4 / 3).round(4))
    (array([0.231, 0.231, 0.231, 0.231]), 0.231)
    """
    z, lse, _, tokens = cache  # lse is 0 where the mask is: padding gets no gradient
    xp = namespace(z)
    p = kernels.of(z).softmax(z)
    return p * lse[:, None] * (xp.astype(dloss, z.dtype) * (2 / max(tokens, 1))), {}
