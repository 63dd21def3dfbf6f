r"""Branch-Train-MiX of linear sub-models: their weights become the experts of one MoE layer with a new router.

Forward, x (N, D) dense or scipy.sparse, expert e = (W_e, b_e), λ (E, N) as of ``gate.route``::

    z_e  = x W_eᵀ + b_e                                      (E, N, C)
    y    = Σ_e λ_e z_e                                       (N, C)   the layer adds logits, as a MoE layer does
    m_e  = 1/S Σ_n s_n λ_en                                  (E,)     how much of the rows is whose
    loss = 1/S Σ_n s_n CE(y_n, t_n) + balance (E Σ_e m_e² - 1)
           + l2/2 (Σ_e ‖W_e - A_e‖² + ‖b_e - a_e‖² + ‖R‖² + ‖r‖²)

Backward, dy_n = dloss s_n / S (softmax(y_n) - onehot(t_n))::

    dz_e = λ_e dy,  dλ_en = ⟨dy_n, z_en⟩ + dloss balance 2 E m_e s_n / S          ⟨.⟩: op ``mixture``
    dW_e = dz_eᵀ x + dloss l2 (W_e - A_e),  db_e likewise,  dR and dr by ``gate.route_backward``

The rule of ``sharing.btx``: what is a feed-forward is stacked, the router is new (N(0, std²)), all else would be
averaged, and then everything is trained on.  A linear sub-model is all feed-forward, so nothing is left to average.
The balance term is CV²(importance) of arXiv:1701.06538, eq. 6-7, with weighted rows: without it the router ends at one
expert for all rows (measured: sentiment, all of the weight on one of four).

Unlike the gate of an ensemble, which mixes probabilities and leaves the experts alone.  Source: Sukhbaatar et al.,
arXiv:2403.07816, section 3.2.  Cost: 2 nnz E (C + 1) multiply-adds each way: experts are this small that all of them
are computed and the k chosen ones used.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from pymoe.backend import namespace, real
from pymoe.backend.namespace import Array
from pymoe.ops import log_softmax, mixture
from pymoe.pipeline.ensemble import gate


class Cache(NamedTuple):
    p: dict[str, Array]
    x: Any  # (N, D)
    routes: gate.Routes
    mix: mixture.Cache
    log_p: Array  # (N, C)
    targets: Array  # (N,)
    share: Array  # (N,) s_n / S
    m: Array  # (E,)
    balance: float
    l2: float
    anchor: tuple[Array, Array] | None  # (C, D) and (C,), or (E, C, D) and (E, C)


def mixed(x: Any, p: dict[str, Array], *, k: int | None = None) -> tuple[Array, gate.Routes, mixture.Cache]:
    """y (N, C) of x and p = {"weight": (E, C, D), "bias": (E, C), "router": (E, D), "router_bias": (E,)}, caches."""
    lam, routes = gate.route(x, p["router"], p["router_bias"], k=k)
    z = expert_logits(x, p["weight"], p["bias"])
    y, mix = mixture.forward(z, lam)
    return y, routes, mix


def expert_logits(x: Any, weight: Array, bias: Array) -> Array:
    """z (E, N, C) of all experts in one product: x (N, D), weight (E, C, D), bias (E, C).

    >>> expert_logits(np.array([[1.0, 2.0]]), np.array([[[1.0, 0.0]], [[0.0, 1.0]]]), np.array([[0.5], [0.0]])).tolist()
    [[[1.5]], [[2.0]]]
    """
    e, c, d = (int(n) for n in weight.shape)
    z = np.asarray(x @ weight.reshape(e * c, d).T) + bias.reshape(-1)
    return np.ascontiguousarray(z.reshape(-1, e, c).transpose(1, 0, 2))


def forward(
    x: Any,
    p: dict[str, Array],
    targets: Array,
    *,
    row_weight: Array | None = None,
    k: int | None = None,
    balance: float = 0.0,
    l2: float = 0.0,
    anchor: tuple[Array, Array] | None = None,
) -> tuple[Array, Cache]:
    """x (N, D), p as of ``mixed``, targets (N,), anchor (A, a), for all or each its own, or None -> loss, 0-d.

    >>> p = {"weight": np.ones((2, 3, 1)), "bias": np.zeros((2, 3)), "router": np.zeros((2, 1)),
    ...      "router_bias": np.zeros(2)}
    >>> round(float(np.exp(-forward(np.ones((1, 1)), p, np.array([2]))[0])), 12)
    0.333333333333
    """
    y, routes, mix = mixed(x, p, k=k)
    xp = namespace(y)
    n = int(x.shape[0])
    log_p = log_softmax.forward(y)[0]
    share = np.full(n, 1 / n) if row_weight is None else row_weight / row_weight.sum()
    share = share.astype(real(y).dtype, copy=False)
    loss = -xp.sum(share * xp.take_along_axis(log_p, targets[:, None], axis=1)[:, 0])
    m = xp.sum(mix.weight * share[None, :], axis=1)
    if balance:
        loss = loss + balance * (int(m.shape[0]) * xp.sum(m * m) - 1)
    if l2:
        loss = loss + l2 / 2 * sum(xp.sum(a * a) for a in _pulled(p, anchor).values())
    return loss, Cache(p, x, routes, mix, log_p, targets, share, m, balance, l2, anchor)


def backward(dloss: Any, cache: Cache) -> tuple[Any, dict[str, Array]]:
    """dloss, 0-d -> (None, dp): data have no gradient; dp has the keys of p."""
    p, x, routes, mix, log_p, targets, share, m, balance, l2, anchor = cache
    xp = namespace(log_p)
    hit = xp.arange(int(log_p.shape[1]))[None, :] == targets[:, None]
    dy = (xp.exp(log_p) - xp.astype(hit, log_p.dtype)) * (dloss * share)[:, None]
    dz, d = mixture.backward(dy, mix)  # (E, N, C), dλ (E, N)
    dlam = d["weight"]
    if balance:
        dlam = dlam + dloss * balance * 2 * int(m.shape[0]) * m[:, None] * share[None, :]
    router = gate.route_backward(dlam, routes)
    e, n, c = (int(m) for m in dz.shape)
    dw = np.asarray(x.T @ np.ascontiguousarray(dz.transpose(1, 0, 2)).reshape(n, e * c)).T.reshape(e, c, -1)
    dp = {"weight": dw, "bias": xp.sum(dz, axis=1), "router": router["weight"], "router_bias": router["bias"]}
    if l2:
        dp = {name: dp[name] + dloss * l2 * a for name, a in _pulled(p, anchor).items()}
    return None, {name: dp[name] for name in p}


def _pulled(p: dict[str, Array], anchor: tuple[Array, Array] | None) -> dict[str, Array]:
    """The parameters less what they are pulled to."""
    if anchor is None:
        return p
    dtype = real(p["weight"]).dtype
    at = {"weight": anchor[0].astype(dtype), "bias": anchor[1].astype(dtype)}
    return {name: a - at[name] if name in at else a for name, a in p.items()}
