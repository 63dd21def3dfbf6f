"""Who is dropped when more tokens want an expert than it takes: C places each, given out in queue order.

    kept[t, j] = rank of (t, j) in the queue of expert idx[t, j] < C

No gradient: ``kept`` is a decision.  Memory O(T K + E): ranks come from one stable counting sort, never from a
(T, E, C) array.  Sources and formulas: ``router_config.Capacity``.
"""

from __future__ import annotations

import dataclasses
import math

from pymoe import kernels
from pymoe.backend import device, namespace, real
from pymoe.backend.namespace import Array
from pymoe.moe.router_config import Capacity


def places(cfg: Capacity, tokens: int, experts: int, k: int, fullest: int = 0) -> int:
    """C of ``tokens`` real tokens.

    fullest: the most choices that one expert is offered, or any greater number: what "nothing is dropped" means
    (megablocks, tutel).

    >>> [places(Capacity(factor=1.25, rounding=r), tokens=100, experts=8, k=1) for r in ("floor", "ceil")]
    [15, 16]
    >>> [places(Capacity(factor=1.5, rule=r), tokens=13, experts=4, k=2) for r in ("switch", "deepspeed", "maxtext")]
    [4, 10, 10]
    """
    cf, least = cfg.factor, cfg.minimum
    each = -(-tokens // experts)  # ceil(T / E)
    if cfg.rule == "plain":
        return max(least, min(tokens, _round(cfg, cf * k * tokens / experts)))
    if cfg.rule == "switch":
        return max(min(tokens, int(tokens * cf / experts)), least)
    if cfg.rule == "gshard":
        return max(k * tokens // experts, least)
    if cfg.rule == "deepspeed":
        return max(math.ceil(k * tokens / experts * cf), least)
    if cfg.rule == "megatron":
        return min(max(math.ceil(tokens * k / experts * cf), least), tokens)
    if cfg.rule == "megablocks":
        return int(cf * k * tokens / experts) if cf else fullest
    if cfg.rule == "tutel":
        n = k * int(cf * each) if cf > 0 else fullest if cf == 0 else min(fullest, k * int(-cf * each))
        return _multiple(n, cfg.multiple)
    if cfg.rule == "vmoe":
        return _multiple(_round(cfg, k * tokens * cf / experts), cfg.multiple)
    if cfg.rule == "maxtext":
        return int(max(math.ceil(tokens * k / experts) * cf, cf))
    if cfg.rule == "nllb":
        return 2 * each
    return math.ceil(cf * tokens)  # fraction


def _round(cfg: Capacity, exact: float) -> int:
    if cfg.rounding == "round":
        return round(exact)
    return math.ceil(exact) if cfg.rounding == "ceil" else math.floor(exact)


def _multiple(n: int, of: int) -> int:
    return -(-n // of) * of


def assign(
    cfg: Capacity,
    idx: Array,
    priority: Array,
    alive: Array | None,
    experts: int,
    mask: Array | None = None,
    draws: Array | None = None,
    sequences: int = 1,
) -> Array:
    """kept (T, K) bool: ``keep`` with the C of the settings, in the whole batch or in each of its sequences.

    >>> import numpy as np
    >>> cfg = Capacity(factor=1.0, per="sequence")
    >>> assign(cfg, np.array([[0], [0], [0], [1]]), np.ones((4, 1)), None, 2, sequences=2)
    array([[ True],
           [False],
           [ True],
           [ True]])
    """
    xp = namespace(idx)
    groups = sequences if cfg.per == "sequence" else 1
    tokens, k = (int(n) for n in idx.shape)
    size = tokens // groups
    real_tokens = [size] * groups
    if mask is not None:
        real_tokens = [int(n) for n in xp.sum(xp.astype(xp.reshape(mask, (groups, size)), xp.int64), axis=1)]
    each = [places(cfg, t, experts, k, fullest=size * k) for t in real_tokens]  # no queue is longer
    group = xp.arange(tokens, dtype=xp.int64, device=device(idx)) // size  # of no token: none
    limit = xp.take(xp.asarray(each, dtype=xp.int64, device=device(idx)), group)
    if cfg.order == "random":
        cfg = dataclasses.replace(cfg, order="token") if draws is None else cfg
        priority = priority if draws is None else draws
    return keep(cfg, idx + experts * group[:, None], priority, alive, experts * groups, limit)


def _queue(order: str, score: Array) -> Array:
    """The flat positions t K + j in the order in which they are served."""
    xp = namespace(score)
    tokens, k = score.shape
    flat = xp.reshape(xp.arange(tokens * k, dtype=xp.int64, device=device(score)), (tokens, k))
    if order == "probability":
        return xp.argsort(-xp.reshape(score, (-1,)), stable=True)
    if order in ("score", "score_token"):
        flat = xp.take(flat, xp.argsort(-xp.max(score, axis=1), stable=True), axis=0)
    if order in ("token", "score_token"):
        return xp.reshape(flat, (-1,))
    return xp.reshape(xp.permute_dims(flat, (1, 0)), (-1,))


def keep(cfg: Capacity, idx: Array, score: Array, alive: Array | None, experts: int, n_places: int | Array) -> Array:
    """kept (T, K) bool: within ``n_places``, one number or one a token.

    ``score`` (T, K) orders the queue, in the order "random" it is the draw; a choice not ``alive`` takes no place.

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
    order = {"interleaved": "token", "random": "probability"}.get(cfg.order, cfg.order)
    ids = idx if alive is None else xp.where(alive, idx, xp.full_like(idx, experts))  # one more queue for the dead
    kernel = kernels.of(ids)
    queue = xp.astype(_queue(order, real(score)), xp.int64)
    queued = xp.take(xp.reshape(ids, (-1,)), queue)
    by_expert, start = kernel.counting_sort(queued, experts + 1)
    rank = xp.arange(pairs, dtype=xp.int64, device=device(idx)) - xp.take(start, xp.take(queued, by_expert))
    where, _ = kernel.counting_sort(xp.take(queue, by_expert), pairs)  # the inverse of the whole permutation
    rank = xp.reshape(xp.take(rank, where), idx.shape)
    kept = rank < (n_places if isinstance(n_places, int) else n_places[:, None])
    return kept if alive is None else kept & alive
