r"""The balance loss and the z-loss of a router over rows that have weights: weight 2 is two rows.

Forward, c (N, E) the router's logits, idx (N, K) the choices, s_n >= 0 the share of row n, Σ s_n = 1::

    p    = softmax(c)
    f_e  = Σ_n s_n [e in idx_n] / K              a constant         P_e = Σ_n s_n p_ne
    balance = E Σ_e f_e P_e
    z       = Σ_n s_n lse(c_n)²

Backward::

    dc_n = s_n p_n ⊙ (E dbalance (f - ⟨f, p_n⟩) + 2 dz lse_n)

With s_n = 1/N these are the losses of ``pymoe.moe``, which count every row once.  Sources: arXiv:2101.03961, eq. 4-6;
arXiv:2202.08906, eq. 5.  Cost: one exponential a logit.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from pymoe.backend import namespace
from pymoe.backend.errors import check_shape
from pymoe.backend.namespace import Array
from pymoe.ops import logsumexp, softmax


class Cache(NamedTuple):
    p: Array  # (N, E) softmax(c)
    lse: Array  # (N,)
    f: Array  # (E,)
    share: Array  # (N,)


def forward(c: Array, *, idx: Array, share: Array) -> tuple[tuple[Array, Array], Cache]:
    """((balance, z), cache) of c (N, E), idx (N, K), share (N,); both 0-d.

    >>> c, idx = np.zeros((2, 4)), np.array([[0], [1]])
    >>> (balance, z), _ = forward(c, idx=idx, share=np.array([0.5, 0.5]))
    >>> float(balance), float(z.round(4))
    (1.0, 1.9218)
    """
    n, e = (int(size) for size in c.shape)
    check_shape("idx", idx, (n, None))
    check_shape("share", share, (n,))
    xp = namespace(c)
    counted = np.bincount(idx.reshape(-1), np.repeat(share, idx.shape[1]), e) / idx.shape[1]
    f = xp.asarray(counted, dtype=share.dtype)
    p, _ = softmax.forward(c)
    lse, _ = logsumexp.forward(c)
    balance = e * xp.sum(f * xp.sum(share[:, None] * p, axis=0))
    return (balance, xp.sum(share * lse * lse)), Cache(p, lse, f, share)


def backward(dlosses: tuple[Any, Any], cache: Cache) -> tuple[Array, dict[str, Array]]:
    """(dbalance, dz), 0-d each -> dc (N, E); no parameters.

    >>> _, cache = forward(np.zeros((1, 2)), idx=np.array([[0]]), share=np.ones(1))
    >>> backward((1.0, 0.0), cache)[0]
    array([[ 0.5, -0.5]])
    """
    p, lse, f, share = cache
    dbalance, dz = dlosses
    xp = namespace(p)
    lean = f - xp.sum(f * p, axis=1, keepdims=True)  # f - ⟨f, p⟩
    return share[:, None] * p * (p.shape[1] * dbalance * lean + 2 * dz * lse[:, None]), {}
