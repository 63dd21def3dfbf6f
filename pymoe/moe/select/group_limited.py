"""Group-limited top-k: first the best groups of experts, then the best experts within them.

    group score   max of the group (DeepSeek-V2, arXiv:2405.04434, sec. 2.2.2), the sum of its two best
                  (DeepSeek-V3, arXiv:2412.19437, sec. 2.1.2), or of its ``group_best`` best
    idx           top-k over the experts of the ``topk_group`` best groups; the others count as -inf

-inf, not 0: with a negative selection bias a kept expert may score below 0, and a 0 would let a forbidden one in.
"""

from __future__ import annotations

from pymoe import kernels
from pymoe.backend import namespace
from pymoe.backend.namespace import Array
from pymoe.moe.router_config import RouterConfig


def select(c: Array, cfg: RouterConfig, real_token: Array | None = None) -> tuple[Array, None]:
    """c (T, E) -> idx (T, k).

    >>> import numpy as np
    >>> cfg = RouterConfig(n_experts=4, k=1, select="group_limited", n_group=2, topk_group=1)
    >>> select(np.array([[0.9, 0.0, 0.6, 0.5]]), cfg)  # group scores 0.9 and 1.1: the best expert is not allowed
    (array([[2]]), None)
    """
    xp = namespace(c)
    kernel = kernels.of(c)
    tokens, experts = c.shape
    group = scores(c, cfg)
    chosen = kernel.topk(group, cfg.topk_group)
    allowed = kernel.expand(xp.ones_like(xp.take_along_axis(group, chosen, axis=1)), chosen, cfg.n_group) > 0
    shape = (tokens, cfg.n_group, experts // cfg.n_group)
    allowed = xp.reshape(xp.broadcast_to(allowed[:, :, None], shape), (tokens, experts))
    return kernel.topk(xp.where(allowed, c, xp.full_like(c, -xp.inf)), cfg.k), None


def scores(c: Array, cfg: RouterConfig) -> Array:
    """(T, n_group) the score of each group.

    >>> import numpy as np
    >>> cfg = RouterConfig(n_experts=4, k=1, select="group_limited", n_group=2, topk_group=1)
    >>> scores(np.array([[0.9, 0.0, 0.6, 0.5]]), cfg)
    array([[0.9, 1.1]])
    """
    xp = namespace(c)
    tokens, experts = c.shape
    size = experts // cfg.n_group
    if cfg.group_score == "max":
        return xp.max(xp.reshape(c, (tokens, cfg.n_group, size)), axis=2)
    best = min(2 if cfg.group_score == "top2" else cfg.group_best, size)
    rows = xp.reshape(c, (tokens * cfg.n_group, size))
    group = xp.sum(xp.take_along_axis(rows, kernels.of(c).topk(rows, best), axis=1), axis=1)
    return xp.reshape(group, (tokens, cfg.n_group))
