r"""The network of the estimators: rows of many features, dense or scipy.sparse, to C numbers, through a sparse MoE.

Forward, x (N, V)::

    h = x U + u                                  (N, D)     the row as the sum of the vectors of its features
    n = rms(h) ⊙ w
    m = moe(n)                                   (N, D)     top-k of E experts, or one dense feed-forward
    r = rms(h + m) ⊙ v
    y = x W + Σ_k g_k (x W_{e_k} + b_{e_k}) + r Aᵀ + a      (N, C)

with e_k, g_k the choices of the MoE layer and their weights.  Three parts: wide, linear in the features; linear experts
(``linear_experts``), each of which corrects the wide part on the rows that are routed to it; deep, nonlinear, sees a
row through D numbers.

Backward, from the bottom up::

    dW = xᵀ dy                                   dA = dyᵀ r,   da = Σ_n dy_n
    dg, dW_e, db_e                               backward of ``linear_experts``
    d(h + m) = rms backward of dy A
    dn = moe backward of d(h + m) + router backward of dg + that of balance and z through the router's logits n Rᵀ
    dh = d(h + m) + rms backward of dn
    dU = xᵀ dh,   du = Σ_n dh_n
    dx = dy Wᵀ + dh Uᵀ                           None for a sparse x: data have no gradient

U (V, D) and W (V, C) lie by feature, as embedding tables do, so that a sparse row reads whole rows of them.  Losses:
"balance" and "z" of ``router_losses``, with the weights of the rows.  Sources: wide and deep, Cheng et al.,
arXiv:1606.07792; the sum of feature vectors, Joulin et al., arXiv:1607.01759; the layer, Shazeer et al.,
arXiv:1701.06538.  Cost: 2 nnz (C + D) flops for the tables each way, and 6 N K D F in the experts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse

from pymoe import moe
from pymoe.backend import namespace, real, tree
from pymoe.backend.errors import ConfigError, check_integer, check_shape
from pymoe.backend.namespace import Array
from pymoe.moe import MoEConfig, RouterConfig
from pymoe.nn import feed_forward
from pymoe.nn.feed_forward import FeedForwardConfig
from pymoe.ops import linear, rms_norm
from pymoe.pipeline.network import linear_experts, router_losses


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """V features, C outputs, D = d_model; n_experts = 0 is the dense network.

    n_experts, k, d_ff   E experts of width F, K of them a row; dense: one feed-forward of width F
    d_shared             width of the expert that every row passes
    wide, experts        whether y has the linear part x W, and the linear experts
    """

    n_features: int
    n_outputs: int
    d_model: int = 32
    n_experts: int = 8
    k: int = 2
    d_ff: int = 32
    d_shared: int = 0
    wide: bool = True
    experts: bool = True

    def __post_init__(self) -> None:
        for name in ("n_features", "n_outputs", "d_model", "k", "d_ff"):
            check_integer(name, getattr(self, name))
        for name in ("n_experts", "d_shared"):
            check_integer(name, getattr(self, name), 0)
        if self.n_experts == 0 and self.d_shared:
            raise ConfigError("a dense network has no shared expert: add its width to d_ff")
        if self.n_experts:
            self.moe  # noqa: B018 - made here, so that every setting is checked

    @cached_property
    def moe(self) -> MoEConfig:
        """The layer.  k = 1 keeps the softmax's weight: renormalised to 1 it would give the router no gradient."""
        router = RouterConfig(self.n_experts, self.k, norm="l1" if self.k > 1 else "none", losses=())
        return MoEConfig(self.d_model, self.d_ff, router, d_shared=self.d_shared)

    @property
    def dense(self) -> FeedForwardConfig:
        """The feed-forward of the dense network."""
        std = self.d_model**-0.5
        return FeedForwardConfig(self.d_model, self.d_ff, std=std, out_std=self.d_ff**-0.5)

    def twin(self) -> NetworkConfig:
        """The dense network of as many active parameters, but for the router and the biases.

        What a row of the sparse one reads of K linear experts, K C numbers a feature, widens the features' vectors.

        >>> twin = NetworkConfig(n_features=9, n_outputs=3, d_model=12, d_ff=8, k=2, d_shared=5).twin()
        >>> twin.d_model, twin.d_ff  # 12 + 2 · 3, (2 · 8 + 5) · 12 / 18
        (18, 14)
        """
        if not self.n_experts:
            return self
        d = self.d_model + (self.k * self.n_outputs if self.experts else 0)
        f = max(1, round((self.k * self.d_ff + self.d_shared) * self.d_model / d))
        return NetworkConfig(
            n_features=self.n_features, n_outputs=self.n_outputs, d_model=d, n_experts=0, d_ff=f, wide=self.wide
        )


class Output(NamedTuple):
    y: Array  # (N, C)
    losses: dict[str, Array]  # 0-d "balance" and "z"; empty where dense
    routing: Any  # ``moe.router.Routing``; None where dense


class Cache(NamedTuple):
    cfg: NetworkConfig
    x: Any  # (N, V)
    p: dict[str, Any]
    c_norm: rms_norm.Cache
    c_mix: Any  # of the MoE layer or of the feed-forward
    c_logits: linear.Cache | None  # of n Rᵀ
    c_losses: router_losses.Cache | None
    c_experts: linear_experts.Cache | None
    c_out: rms_norm.Cache
    c_head: linear.Cache


def init(rng: np.random.Generator, cfg: NetworkConfig, dtype: Any = np.float64) -> dict[str, Any]:
    """The parameters at their start: W = 0, A = 0, so that y = 0; U normal with std 1.

    >>> p = init(np.random.default_rng(0), NetworkConfig(n_features=7, n_outputs=3, d_model=4))
    >>> p["embed"]["weight"].shape, p["wide"]["weight"].shape, sorted(p["mix"])
    ((7, 4), (7, 3), ['experts', 'router'])
    """
    v, c, d = cfg.n_features, cfg.n_outputs, cfg.d_model
    p: dict[str, Any] = {
        "embed": {"weight": rng.standard_normal((v, d)).astype(dtype), "bias": np.zeros(d, dtype)},
        "norm": {"weight": np.ones(d, dtype)},
        "mix": moe.init(rng, cfg.moe, dtype) if cfg.n_experts else feed_forward.init(rng, cfg.dense, dtype),
        "out_norm": {"weight": np.ones(d, dtype)},
        "head": {"weight": np.zeros((c, d), dtype), "bias": np.zeros(c, dtype)},
    }
    if cfg.wide:
        p["wide"] = {"weight": np.zeros((v, c), dtype)}
    if cfg.experts and cfg.n_experts:
        p["experts"] = {"weight": np.zeros((cfg.n_experts, v, c), dtype), "bias": np.zeros((cfg.n_experts, c), dtype)}
    return p


def forward(x: Any, p: dict[str, Any], cfg: NetworkConfig, *, share: Array | None = None) -> tuple[Output, Cache]:
    """(out, cache) of x (N, V), dense or scipy.sparse; share (N,) of each row in the losses, None: 1/N each.

    >>> cfg = NetworkConfig(n_features=7, n_outputs=3, d_model=4)
    >>> out, _ = forward(np.ones((5, 7)), init(np.random.default_rng(0), cfg), cfg)
    >>> out.y.shape, out.routing.idx.shape, sorted(out.losses)
    ((5, 3), (5, 2), ['balance', 'z'])
    """
    check_shape("x", x, (None, cfg.n_features))
    h = times(x, p["embed"]["weight"]) + p["embed"]["bias"]
    xp = namespace(h)
    n, c_norm = rms_norm.forward(h, p["norm"]["weight"])
    losses: dict[str, Array] = {}
    routing, c_logits, c_losses = None, None, None
    c_mix: Any
    if cfg.n_experts:
        out, c_mix = moe.forward(n, p["mix"], cfg.moe)
        m, routing = out.y, out.routing
        logits, c_logits = linear.forward(n, p["mix"]["router"]["weight"])
        if share is None:
            share = xp.full((int(x.shape[0]),), 1 / max(int(x.shape[0]), 1), dtype=xp.float64)
        (balance, z), c_losses = router_losses.forward(logits, idx=routing.idx, share=share)
        losses = {"balance": balance, "z": z}
    else:
        m, c_mix = feed_forward.forward(n, p["mix"], cfg.dense)
    r, c_out = rms_norm.forward(h + m, p["out_norm"]["weight"])
    y, c_head = linear.forward(r, p["head"]["weight"], p["head"]["bias"])
    if cfg.wide:
        y = y + times(x, p["wide"]["weight"])
    c_experts = None
    if "experts" in p:
        assert routing is not None
        local, c_experts = linear_experts.forward(x, routing.weight, **p["experts"], idx=routing.idx)
        y = y + local
    cache = Cache(cfg, x, p, c_norm, c_mix, c_logits, c_losses, c_experts, c_out, c_head)
    return Output(y, losses, routing), cache


def backward(
    dy: Array, cache: Cache, dlosses: dict[str, Any] | None = None, *, below: bool = True
) -> tuple[Any, dict[str, Any]]:
    """dy (N, C), dlosses such as {"balance": 0.01} -> dx (N, V), None for a sparse x, and dp with the names of p.

    below: False leaves out what lies under h, which costs most: dU, du ("embed") and dx, None.

    >>> cfg = NetworkConfig(n_features=7, n_outputs=3, d_model=4)
    >>> _, cache = forward(np.ones((5, 7)), init(np.random.default_rng(0), cfg), cfg)
    >>> backward(np.ones((5, 3)), cache)[1]["head"]["bias"]
    array([5., 5., 5.])
    """
    cfg, x, p, c_norm, c_mix, c_logits, c_losses, c_experts, c_out, c_head = cache
    dlosses = dict(dlosses or {})
    xp = namespace(dy)
    dr, d_head = linear.backward(dy, c_head)
    dx_experts: Any = None
    d_experts: dict[str, Array] = {}
    dsum, d_out = rms_norm.backward(dr, c_out)
    if cfg.n_experts:
        dn, d_mix = moe.backward(dsum, c_mix)
        if any(name in dlosses for name in ("balance", "z")):
            assert c_losses is not None and c_logits is not None
            dc, _ = router_losses.backward((dlosses.get("balance", 0.0), dlosses.get("z", 0.0)), c_losses)
            dn_router, d_router = linear.backward(xp.astype(dc, dsum.dtype, copy=False), c_logits)
            dn = dn + dn_router
            d_mix = d_mix | {"router": tree.add(d_mix["router"], d_router)}
        if c_experts is not None:
            dx_experts, d_experts = linear_experts.backward(dy, c_experts)
            dn_router, d_router = moe.router.backward(d_experts["g"], {}, c_mix.router)
            dn = dn + dn_router
            d_mix = d_mix | {"router": tree.add(d_mix["router"], d_router)}
    else:
        dn, d_mix = feed_forward.backward(dsum, c_mix)
    dh_norm, d_norm = rms_norm.backward(dn, c_norm)
    dp: dict[str, Any] = {"norm": d_norm, "mix": d_mix, "out_norm": d_out, "head": d_head}
    if cfg.wide:
        dp["wide"] = {"weight": times(x.T, dy)}
    if c_experts is not None:
        dp["experts"] = {name: d_experts[name] for name in ("weight", "bias")}
    if not below:
        return None, dp
    dh = dsum + dh_norm
    dp["embed"] = {"weight": times(x.T, dh), "bias": xp.sum(dh, axis=0)}
    if scipy.sparse.issparse(x):
        return None, dp
    dx = dh @ p["embed"]["weight"].T
    dx = dx if dx_experts is None else dx + dx_experts
    return (dx + dy @ p["wide"]["weight"].T if cfg.wide else dx), dp


def times(x: Any, table: Array) -> Array:
    """x @ table, dense, of x dense or scipy.sparse, in the precision of the table.

    >>> times(scipy.sparse.csr_array([[0.0, 2.0]]), np.array([[1.0], [3.0]]))
    array([[6.]])
    """
    if not scipy.sparse.issparse(x):
        return x @ table
    dtype = real(table).dtype
    return np.asarray((x if x.dtype == dtype else x.astype(dtype)) @ table)
