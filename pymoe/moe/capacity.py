"""Who is dropped when more tokens want an expert than it takes: C places each, given out in queue order.

    kept[t, j] = rank of (t, j) in the queue of expert idx[t, j] < C

No gradient: ``kept`` is a decision.  Memory O(T K + E): ranks come from one stable counting sort, never from a
(T, E, C) array.  Sources: see ``router_config.Capacity``.
"""

from __future__ import annotations

import math

from pymoe import kernels
from pymoe.backend import device, namespace, real
from pymoe.backend.namespace import Array
from pymoe.moe.router_config import Capacity


def places(cfg: Capacity, tokens: int, experts: int, k: int) -> int:
    """C = max(minimum, min(T, r(factor · k · T / E))).

    >>> [places(Capacity(factor=1.25, rounding=r), tokens=100, experts=8, k=1) for r in ("floor", "ceil")]
    [15, 16]
    """
    exact = cfg.factor * k * tokens / experts
    return max(cfg.minimum, min(tokens, math.ceil(exact) if cfg.rounding == "ceil" else math.floor(exact)))


def _queue(cfg: Capacity, score: Array) -> Array:
    """The flat positions t K + j in the order in which they are served."""
    xp = namespace(score)
    tokens, k = score.shape
    flat = xp.reshape(xp.arange(tokens * k, dtype=xp.int64, device=device(score)), (tokens, k))
    if cfg.order == "token":
        return xp.reshape(flat, (-1,))
    if cfg.order == "probability":
        return xp.argsort(-xp.reshape(score, (-1,)), stable=True)
    if cfg.order == "score":
        flat = xp.take(flat, xp.argsort(-xp.max(score, axis=1), stable=True), axis=0)
    return xp.reshape(xp.permute_dims(flat, (1, 0)), (-1,))


def keep(cfg: Capacity, idx: Array, score: Array, alive: Array | None, experts: int, n_places: int) -> Array:
    """kept (T, K) bool: within capacity.  ``score`` (T, K) orders the queue; a choice not ``alive`` takes no place.

    >>> import numpy as np
    >>> idx, score = np.array([[0, 1], [0, 1], [0, 2]]), np.ones((3, 2))
    >>> keep(Capacity(), idx, score, None, 3, 2).astype(int)
    array([[1, 1],
           [1, 1],
           [0, 1]])
    """
    xp = namespace(idx, score)
    pairs = int(idx.size)
    if pairs == 0:
        return xp.zeros(idx.shape, dtype=xp.bool, device=device(idx))
    ids = idx if alive is None else xp.where(alive, idx, xp.full_like(idx, experts))  # one more queue for the dead
    kernel = kernels.of(ids)
    queue = xp.astype(_queue(cfg, real(score)), xp.int64)
    queued = xp.take(xp.reshape(ids, (-1,)), queue)
    order, start = kernel.counting_sort(queued, experts + 1)
    rank = xp.arange(pairs, dtype=xp.int64, device=device(idx)) - xp.take(start, xp.take(queued, order))
    where, _ = kernel.counting_sort(xp.take(queue, order), pairs)  # the inverse of the whole permutation
    kept = xp.reshape(xp.take(rank < n_places, where), idx.shape)
    return kept if alive is None else kept & alive
