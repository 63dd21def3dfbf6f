r"""Load balancing of several layers pooled into one loss, as transformers has it for Mixtral and 29 models after it.

Forward, z (L, T, E) the logits of L layers, p = softmax(z), T real tokens, all layers' rows in one heap::

    P_e = mean_{l, t} p_lte          f_e = (how often e is among the k largest of a row) / (K L T), a constant
    L   = a Σ_e f_e P_e,             a = K E

Backward, the same f for every layer, so each layer's gradient depends on the others' choices::

    dz_lt = (a dL / (L T)) p_lt ⊙ (f - ⟨f, p_lt⟩)

Traps.  Without the factor K that others have in f, the balanced value is K.  Four layers that collapsed on four
different experts look perfectly balanced (the value of one layer alone would be E).  It takes softmax of the raw logits
and their top-k whatever the model routes by: with sigmoid scores, groups or a selection bias it balances a router that
nobody uses.  ``losses.balance`` of each layer, and the mean of them (MegaBlocks, arXiv:2211.15841), has none of this.
Source: transformers, ``load_balancing_loss_func`` of ``models/mixtral``.  Cost: O(L T E) each way.
"""

from __future__ import annotations

from typing import NamedTuple

from pymoe import kernels
from pymoe.backend import namespace, real
from pymoe.backend.errors import check_shape
from pymoe.backend.namespace import Array
from pymoe.moe.decide import count
from pymoe.moe.losses import balance
from pymoe.ops import softmax


class Cache(NamedTuple):
    shape: tuple[int, int, int]  # of z
    softmax: softmax.Cache
    balance: balance.Cache


def forward(z: Array, k: int, mask: Array | None = None, *, factor: float | None = None) -> tuple[Array, Cache]:
    """The loss (0-d) of logits z (L, T, E), mask (T,) True for real tokens; factor: a, None is K E.

    >>> import numpy as np
    >>> collapsed = 99.0 * np.eye(4)[:, None, :]  # four layers, each with its one token on another expert
    >>> float(forward(collapsed, 1)[0].round(6)), float(forward(collapsed[:1], 1)[0].round(6))
    (1.0, 4.0)
    """
    check_shape("z", z, (None, None, None))
    xp = namespace(z)
    layers, tokens, experts = (int(n) for n in z.shape)
    p, soft = softmax.forward(xp.reshape(z, (layers * tokens, experts)))
    heap = None
    if mask is not None:
        check_shape("mask", mask, (tokens,))
        heap = xp.reshape(xp.broadcast_to(mask[None, :], (layers, tokens)), (-1,))
    idx = kernels.of(z).topk(real(p), k)
    n = count(idx, None if heap is None else xp.broadcast_to(heap[:, None], idx.shape), experts)
    f = xp.astype(n, xp.float64) / max(int(xp.sum(n)), 1)
    loss, own = balance.forward(p, f, heap, factor=float(k * experts) if factor is None else factor)
    return loss, Cache((layers, tokens, experts), soft, own)


def backward(dloss: Array, cache: Cache) -> tuple[Array, dict[str, Array]]:
    """dz (L, T, E); each layer takes its own slice, e.g. as ``dlogits`` of ``moe.backward``.

    >>> import numpy as np
    >>> _, cache = forward(np.array([[[0.0, 0.0]], [[0.0, np.log(3.0)]]]), 1)
    >>> backward(np.ones(()), cache)[0].tolist()  # f is even, so nothing pulls
    [[[0.0, 0.0]], [[0.0, 0.0]]]
    """
    dp, _ = balance.backward(dloss, cache.balance)
    dz, _ = softmax.backward(dp, cache.softmax)
    return namespace(dz).reshape(dz, cache.shape), {}
