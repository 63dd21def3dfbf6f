"""Expert choice: each expert takes its best tokens, so the load is even by construction (arXiv:2202.09368, sec. 3.2).

    C = min(T, floor(k T / E)), T the number of real tokens
    expert e keeps its C largest c[:, e], ties to the lowest token

A token may get 0 to E experts, so idx is 0..E-1 for every token (K = E) and ``kept`` is the choice.  Not causal: which
expert a token gets depends on later tokens.
"""

from __future__ import annotations

from pymoe import kernels
from pymoe.backend import device, namespace
from pymoe.backend.namespace import Array
from pymoe.moe.router_config import RouterConfig


def select(c: Array, cfg: RouterConfig, real_token: Array | None = None) -> tuple[Array, Array]:
    """c (T, E) -> idx (T, E) = 0..E-1, kept (T, E).

    >>> import numpy as np
    >>> cfg = RouterConfig(n_experts=2, k=1, select="expert_choice")
    >>> select(np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.4, 0.6]]), cfg)[1].astype(int)
    array([[1, 0],
           [1, 0],
           [0, 1],
           [0, 1]])
    """
    xp = namespace(c)
    tokens, experts = c.shape
    real = tokens if real_token is None else int(xp.sum(xp.astype(real_token, xp.int64)))
    count = min(real, cfg.k * real // experts)
    idx = xp.broadcast_to(xp.arange(experts, dtype=xp.int64, device=device(c))[None, :], (tokens, experts))
    if count == 0:
        return idx, xp.zeros((tokens, experts), dtype=xp.bool, device=device(c))
    if real_token is not None:
        c = xp.where(real_token[:, None], c, xp.full_like(c, -xp.inf))
    by_expert = xp.permute_dims(c, (1, 0))
    kernel = kernels.of(by_expert)
    chosen = kernel.topk(by_expert, count)  # (E, C) token ids
    kept = kernel.expand(xp.ones((experts, count), dtype=c.dtype, device=device(c)), chosen, tokens) > 0
    return idx, xp.permute_dims(kept, (1, 0))
