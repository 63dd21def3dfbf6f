r"""The learnt gate of an ensemble: who is asked about a row, as a router decides it, with the experts left as they are.

Forward, x (N, D) dense or scipy.sparse, log p_e (E, N, C) what the experts say, rows with weight s_n, S = Σ s_n::

    c    = x Rᵀ + r                              (N, E)      logits
    u    = softmax(c),  idx = the k largest of u, ties to the lowest expert
    λ    = u[idx] / Σ u[idx], 0 for the others               ``moe.weigh``, norm "l1"
    loss = -1/S Σ_n s_n log Σ_e λ_ne p_e(y_n) + l2/2 (‖R‖² + ‖r‖²)

Backward, from the bottom up::

    dλ_ne = -dloss s_n / S p_e(y_n) / Σ_j λ_nj p_j(y_n)      op ``mixture_nll``
    du    = ``moe.weigh`` backwards,  dc = softmax backwards (idx is a decision)
    dR    = dcᵀ x + dloss l2 R,  dr = Σ_n dc_n + dloss l2 r

With the experts inside one model this is the MoE layer, score -> select -> weigh of ``pymoe.moe``; only the first
product is another, for a sparse x.  Sources: Jacobs et al., *Adaptive mixtures of local experts*, Neural Computation 3,
1991, eq. 1.3; arXiv:1701.06538, eq. 2-5.  Cost: 2 nnz E multiply-adds each way, and O(N E C).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from pymoe import kernels
from pymoe.backend import namespace, real
from pymoe.backend.namespace import Array
from pymoe.moe import select, weigh
from pymoe.moe.router_config import RouterConfig
from pymoe.ops import mixture_nll, softmax
from pymoe.pipeline import softmax_regression


class Routes(NamedTuple):
    x: Any  # (N, D)
    score: softmax.Cache
    weigh: weigh.Cache
    idx: Array  # (N, k)


class Cache(NamedTuple):
    weight: Array  # R (E, D)
    bias: Array  # r (E,)
    routes: Routes
    nll: mixture_nll.Cache
    scale: Array  # (N,) N s_n / S: from the mean over rows to the weighted one
    l2: float


def route(x: Any, weight: Array, bias: Array, *, k: int | None = None) -> tuple[Array, Routes]:
    """λ (E, N) of x (N, D), weight R (E, D), bias r (E,): each column sums to 1, k of it (None: all) are not 0.

    >>> lam, _ = route(np.array([[1.0], [-1.0]]), np.log(np.array([[4.0], [2.0], [1.0]])), np.zeros(3), k=2)
    >>> lam.round(4).tolist()
    [[0.6667, 0.0], [0.3333, 0.3333], [0.0, 0.6667]]
    """
    experts = int(weight.shape[0])
    cfg = RouterConfig(n_experts=experts, k=experts if k is None else k, norm="l1", losses=())
    u, score = softmax.forward(softmax_regression.logits(x, weight, bias))
    idx, kept = select.get(cfg.select).select(real(u), cfg, None)
    g, own = weigh.forward(u, idx, kept, norm=cfg.norm)
    return kernels.of(g).expand(g, idx, experts).T, Routes(x, score, own, idx)


def route_backward(dlam: Array, routes: Routes) -> dict[str, Array]:
    """dλ (E, N) -> {"weight": dR (E, D), "bias": dr (E,)}."""
    x, score, own, idx = routes
    xp = namespace(dlam)
    du, _ = weigh.backward(xp.take_along_axis(dlam.T, idx, axis=1), own)
    dc, _ = softmax.backward(du, score)
    return {"weight": np.asarray(x.T @ dc).T, "bias": xp.sum(dc, axis=0)}


def forward(
    x: Any,
    weight: Array,
    bias: Array,
    log_p: Array,
    targets: Array,
    *,
    row_weight: Array | None = None,
    k: int | None = None,
    l2: float = 0.0,
) -> tuple[Array, Cache]:
    """x (N, D), weight (E, D), bias (E,), log_p (E, N, C), targets (N,), row_weight (N,) -> loss, 0-d.

    >>> log_p = np.log(np.array([[[0.9, 0.1]], [[0.8, 0.2]]]))
    >>> loss, _ = forward(np.ones((1, 1)), np.log(np.array([[6.0], [4.0]])), np.zeros(2), log_p, np.array([0]))
    >>> round(float(np.exp(-loss)), 12)  # 0.6 · 0.9 + 0.4 · 0.8
    0.86
    """
    lam, routes = route(x, weight, bias, k=k)
    xp = namespace(lam)
    n = int(x.shape[0])
    share = np.full(n, 1 / n) if row_weight is None else row_weight / row_weight.sum()
    _, nll = mixture_nll.forward(xp.astype(log_p, real(lam).dtype, copy=False), lam, targets)
    said = xp.take_along_axis(log_p, targets[None, :, None], axis=2)[:, :, 0]  # log p_e(y)
    loss = -xp.sum(share * xp.log(xp.sum(lam * xp.exp(said), axis=0)))
    if l2:
        loss = loss + l2 / 2 * (xp.sum(weight * weight) + xp.sum(bias * bias))
    return loss, Cache(weight, bias, routes, nll, share * n, l2)


def backward(dloss: Any, cache: Cache) -> dict[str, Array]:
    """dloss, 0-d -> {"weight": dR (E, D), "bias": dr (E,)}: of the experts and of x nothing.

    >>> log_p = np.log(np.array([[[0.9, 0.1]], [[0.8, 0.2]]]))
    >>> _, cache = forward(np.ones((1, 1)), np.log(np.array([[6.0], [4.0]])), np.zeros(2), log_p, np.array([0]))
    >>> (0.86 * backward(1.0, cache)["weight"]).round(6).tolist()  # 0.6 · 0.4 · (0.8 - 0.9)
    [[-0.024], [0.024]]
    """
    weight, bias, routes, nll, scale, l2 = cache
    _, d = mixture_nll.backward(dloss, nll)
    grads = route_backward(d["weight"] * scale[None, :], routes)
    if l2:
        return {"weight": grads["weight"] + dloss * l2 * weight, "bias": grads["bias"] + dloss * l2 * bias}
    return grads
