r"""Mixture of attention heads: an expert is a query projection and an output projection; keys and values are shared.

One routing a token, used twice: ``map`` takes the token to the queries of its K experts, ``reduce`` brings their
outputs back with the same weights.  G heads of width d in each expert; forward, x (B, S, D)::

    idx, g       = router(x)                           K experts a token
    q_tj         = W_q[idx_tj] x_t                     (G d)                   map
    k, v         = x W_kvᵀ                             (2 G d): all keys, then all values; k, q turned by positions
    o_tj         = softmax(q_tj kᵀ / √d) v             head by head: head i of every expert reads key head i
    y_t          = Σ_j g_tj W_o[idx_tj] o_tj (+ b)                             reduce

Backward, the same from bottom to top (``spread``, ``ops.attention``, ``router``)::

    do, dg, dW_o = reduceᵀ(dy)        dq, dk, dv = attentionᵀ(do)        dx += mapᵀ(dq)        dx += [dk | dv] W_kv
    dx          += routerᵀ(dg, losses)

The queries of a token that was dropped, or that is padding, are 0 and weigh nothing.  Sources: Zhang et al., Mixture of
Attention Heads, arXiv:2210.05144; JetMoe, arXiv:2404.07413, and its published code (one kv projection, a bias on the
sum).  Cost: 2 T K D G d multiply-adds in the experts, 2 T D G d for keys and values, 2 B K G S² d in attention, twice
that backward; kept: x, q, k, v, o and the attention weights (B, K G, S, S).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pymoe.backend import device, namespace
from pymoe.backend.errors import ConfigError, ShapeError, check_integer
from pymoe.backend.namespace import Array
from pymoe.moe import plan, router, router_parameters
from pymoe.moe.attention_experts import spread
from pymoe.moe.draws import Draws
from pymoe.moe.given import Given
from pymoe.moe.router_config import RouterConfig
from pymoe.moe.rules import form
from pymoe.ops import attention, linear, rope
from pymoe.ops._rows import column_sum


@dataclass(frozen=True)
class Config:
    """Attention experts of width D = d_model.

    router             E = n_experts, K = k, and how they are chosen (JetMoe: score_at="chosen", a softmax over the K)
    n_heads, d_head    G heads of width d in each expert, and as many of keys and values
    causal, rope_base  position i sees positions <= i; the base of rotary positions, None: none
    bias               a bias on the sum (JetMoe)
    """

    d_model: int
    n_heads: int
    d_head: int
    router: RouterConfig
    causal: bool = True
    rope_base: float | None = 10000.0
    bias: bool = False

    def __post_init__(self) -> None:
        for name in ("d_model", "n_heads", "d_head"):
            check_integer(f"moa: {name}", getattr(self, name))
        check_rope("moa", self.rope_base, self.d_head)
        r = self.router
        if r.gate_residual:
            raise ConfigError("moa: no logits of another layer come in here: leave gate_residual=False")
        if r.null_experts or r.norm == "joint" or r.scale_at != "weights" or r.select == "expert_choice":
            raise ConfigError(
                "moa: a token needs K experts with queries, and weights that are whole: leave null_experts=(), "
                "scale_at='weights', and choose neither norm='joint' nor select='expert_choice'"
            )


class Output(NamedTuple):
    y: Array  # like x
    losses: dict[str, Array]  # 0-d, by name, without coefficients
    routing: router.Routing


class Cache(NamedTuple):
    frame: form.Frame
    cfg: Config
    mask: Array | None  # (T,)
    router: router.Cache
    map: spread.Cache
    kv: linear.Cache
    rope: rope.Cache | None
    attention: attention.Cache
    reduce: spread.Cache


def check_rope(rule: str, base: float | None, d_head: int) -> None:
    """Rotary positions turn pairs of channels, by angles of a base above 1."""
    if base is not None and (d_head % 2 or not base > 1):
        raise ConfigError(
            f"{rule}: rotary positions need an even d_head and rope_base > 1 (or None: no positions), got {d_head} "
            f"and {base!r}"
        )


def shapes(cfg: Config) -> form.Shapes:
    """Dotted name -> shape, in the order of the tree.

    >>> from pymoe.moe import RouterConfig
    >>> shapes(Config(d_model=6, n_heads=2, d_head=4, router=RouterConfig(3, 2)))  # doctest: +NORMALIZE_WHITESPACE
    {'router.weight': (3, 6), 'q_proj': (3, 8, 6), 'kv_proj': (16, 6), 'o_proj': (3, 6, 8)}
    """
    d, e, wide = cfg.d_model, cfg.router.n_experts, cfg.n_heads * cfg.d_head
    found = {f"router.{n}": s for n, s in router_parameters.shapes(cfg.router, d).items()}
    found |= {"q_proj": (e, wide, d), "kv_proj": (2 * wide, d), "o_proj": (e, d, wide)}
    return found | ({"bias": (d,)} if cfg.bias else {})


def init(rng: np.random.Generator, cfg: Config, dtype: Any = np.float64) -> dict[str, Any]:
    """The parameters at their start: normal with std 1/√fan_in, biases 0, and the router's own.

    >>> p = init(np.random.default_rng(0), Config(6, 2, 4, RouterConfig(3, 2)))
    >>> p["q_proj"].shape, p["router"]["weight"].shape
    ((3, 8, 6), (3, 6))
    """
    own = {n: s for n, s in shapes(cfg).items() if not n.startswith("router.")}
    first = {
        n: router_parameters.first(rng, n, s, cfg.router, dtype)
        for n, s in router_parameters.shapes(cfg.router, cfg.d_model).items()
    }
    return {"router": first} | form.init(rng, own, dtype)


def forward(
    x: Array,
    p: Mapping[str, Any],
    cfg: Config,
    mask: Array | None = None,
    draws: Draws | None = None,
    positions: Array | None = None,
) -> tuple[Output, Cache]:
    """(out, cache) of x (B, S, D); mask (B, S), True for real tokens; positions (S,) or (B, S), default 0, 1, ...

    >>> cfg = Config(2, 1, 2, RouterConfig(3, 2, norm="l1", losses=()), rope_base=None)
    >>> p = init(np.random.default_rng(0), cfg)
    >>> out, cache = forward(np.ones((1, 4, 2)), p, cfg)
    >>> out.y.shape, out.routing.idx.shape
    ((1, 4, 2), (4, 2))
    """
    if x.ndim != 3:
        raise ShapeError(f"moa: attention takes x of shape (batch, sequence, {cfg.d_model}), got {tuple(x.shape)}")
    xp, (b, s, _), seen = namespace(x), x.shape, mask
    x, mask, frame = form.enter("moa", x, p, shapes(cfg), cfg.d_model, mask, tuple(cfg.router.losses))
    (routing, losses), c_router = router.forward(x, p["router"], cfg.router, mask, draws, Given(sequences=b))
    tokens, k = (int(n) for n in routing.idx.shape)
    h, d = cfg.n_heads, cfg.d_head
    plan_ = plan.make(routing.idx, routing.kept, cfg.router.n_experts)
    q, c_map = spread.forward(x, None, p["q_proj"], plan_, tokens * k)
    # (B, S, K, G, d) -> (B, G, K, S, d): head i of every expert beside the key head i that it reads
    q = xp.reshape(xp.permute_dims(xp.reshape(q, (b, s, k, h, d)), (0, 3, 2, 1, 4)), (b, h * k, s, d))
    kv, c_kv = linear.forward(x, p["kv_proj"])
    kv = xp.permute_dims(xp.reshape(kv, (b, s, 2 * h, d)), (0, 2, 1, 3))
    keys, values = kv[:, :h, :, :], kv[:, h:, :, :]
    c_rope = None
    if cfg.rope_base is not None:
        where = xp.arange(s, dtype=xp.int64, device=device(x)) if positions is None else positions
        qk, c_rope = rope.forward(xp.concat([q, keys], axis=1), where, base=cfg.rope_base)
        q, keys = qk[:, : h * k, :, :], qk[:, h * k :, :, :]
    o, c_attention = attention.forward(q, keys, values, seen, causal=cfg.causal)
    o = xp.reshape(xp.permute_dims(xp.reshape(o, (b, h, k, s, d)), (0, 3, 2, 1, 4)), (tokens * k, h * d))
    y, c_reduce = spread.forward(o, routing.weight, p["o_proj"], plan_, tokens)
    if cfg.bias:
        y = y + p["bias"]
        if mask is not None:
            y = xp.where(mask[:, None], y, xp.zeros_like(y))
    cache = Cache(frame, cfg, mask, c_router, c_map, c_kv, c_rope, c_attention, c_reduce)
    return Output(form.leave(y, frame), losses, routing), cache


def backward(
    dy: Array, cache: Cache, dlosses: Mapping[str, Any] | None = None, dlogits: Array | None = None
) -> tuple[Array, dict[str, Any]]:
    """(dx, dp) from dy like y, the cotangents of the losses and of out.routing.logits; dp has the names of p.

    >>> cfg = Config(2, 1, 2, RouterConfig(3, 2, norm="l1", losses=()), rope_base=None)
    >>> out, cache = forward(np.ones((1, 4, 2)), init(np.random.default_rng(0), cfg), cfg)
    >>> dx, dp = backward(np.ones((1, 4, 2)), cache)
    >>> dx.shape, sorted(dp)
    ((1, 4, 2), ['kv_proj', 'o_proj', 'q_proj', 'router'])
    """
    frame, cfg, mask, c_router, c_map, c_kv, c_rope, c_attention, c_reduce = cache
    xp, (b, s, _) = namespace(dy), frame.shape
    dy, dlosses = form.upstream(dy, frame, dlosses)
    if mask is not None:
        dy = xp.where(mask[:, None], dy, xp.zeros_like(dy))
    h, d = cfg.n_heads, cfg.d_head
    k = int(c_router.weigh.idx.shape[1])
    do, dg, d_out = spread.backward(dy, c_reduce)
    do = xp.reshape(xp.permute_dims(xp.reshape(do, (b, s, k, h, d)), (0, 3, 2, 1, 4)), (b, h * k, s, d))
    dq, inner = attention.backward(do, c_attention)
    dk, dv = inner["k"], inner["v"]
    if c_rope is not None:
        (dq, _), (dk, _) = rope.backward(dq, c_rope), rope.backward(dk, c_rope)
    dq = xp.reshape(xp.permute_dims(xp.reshape(dq, (b, h, k, s, d)), (0, 3, 2, 1, 4)), (b * s * k, h * d))
    dkv = xp.reshape(xp.permute_dims(xp.concat([dk, dv], axis=1), (0, 2, 1, 3)), (b * s, 2 * h * d))
    dx_map, _, d_query = spread.backward(dq, c_map)
    dx_kv, d_kv = linear.backward(dkv, c_kv)
    dx_router, d_router = router.backward(dg, dlosses, c_router, dlogits=dlogits)
    dx = dx_map + dx_kv + dx_router
    if mask is not None:  # the logits of padding are shown, but do not come from x
        dx = xp.where(mask[:, None], dx, xp.zeros_like(dx))
    dp = {"router": d_router, "q_proj": d_query, "kv_proj": d_kv["weight"], "o_proj": d_out}
    dp |= {"bias": column_sum(dy)} if cfg.bias else {}
    return form.leave(dx, frame), dp
