r"""Product keys: a memory of n² values (PKM) or n² small experts (PEER, Doge), found by two halves of a query.

Forward, H heads, each token t and head h::

    q = x W_qᵀ (H, 2, d_key)        s[h, half] = keys[h, half] q[h, half]        (n scores of each half)
    or, without keys,               s = x W_rᵀ (H, 2, n)                         (Doge: H = 1)
    idx_h, g_h = retrieval(s[h])    the K best of n² by the sum of the halves    (``rules.retrieval``)

    PKM        y = Σ_h Σ_j g_hj values[idx_hj]
    experts    y = Σ_h Σ_j g_hj f_{idx_hj}(x),    f_e(x) = v_e act(u_eᵀ x) with d_ff = 1, or any form of expert
    d_shared   + the shared expert (Doge: a dense one)

Backward: that of the experts (of the memory: dvalues[e] = Σ g dy, dg = ⟨dy, values[idx]⟩), of retrieval, and::

    dkeys[h, half] = Σ_t ds ⊗ q        dq = keysᵀ ds        W_q, W_r, x as of any linear map

Two heads may choose the same expert; it gets both weights.  Constant: idx.  An expert that nobody chose gets exactly 0.
Traps: each token's halves are its own, scores laid out (T, H, 2, n).  transformers' Doge reshapes (B, S, 2n) with
``view(2, B S, n)``, so that a token is routed by the scores of two others, one of them later in the sequence; here a
token depends on itself only.  softmax over the chosen already sums to 1: normalising again changes nothing.  The
normalisation of the query that PKM and PEER may use is left to the caller.
Sources: PKM, arXiv:1907.05242; PEER, arXiv:2407.04153.  Cost: a token 2 H n d_key for the keys and H K times an expert.

Parameters: router.query (H 2 d_key, D) and router.keys (H, 2, n, d_key), or router.weight (H 2 n, D); values (n², D) or
experts.* with E = n² as in ``moe.parameters``; shared.*.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from pymoe import kernels
from pymoe.backend import namespace
from pymoe.backend.errors import ConfigError, check_integer
from pymoe.backend.namespace import Array
from pymoe.moe import experts, parameters, plan, shared
from pymoe.moe.config import MoEConfig
from pymoe.moe.router import Routing
from pymoe.moe.router_checks import one_of
from pymoe.moe.router_config import RouterConfig
from pymoe.moe.rules import form, retrieval
from pymoe.ops import linear

NAME = "product_keys"


@dataclasses.dataclass(frozen=True)
class Config(form.Form):
    """``form.Form`` with n_experts = n² a square, and

    k          choices a head, at most n
    heads      H
    d_key      width of half a query; 0: no keys, the scores are a linear map of x (Doge)
    score      "softmax" over the chosen, or "sigmoid" of each
    memory     values in the place of experts (PKM); d_ff, gated and activation then mean nothing
    d_shared   width of the shared expert
    shared_gated, shared_bias   its form: Doge's is gated, unlike its neurons
    """

    k: int = 8
    heads: int = 1
    d_key: int = 0
    score: str = "softmax"
    memory: bool = False
    d_shared: int = 0
    shared_gated: bool = True
    shared_bias: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("heads", self.heads)
        check_integer("d_key", self.d_key, 0)
        check_integer("d_shared", self.d_shared, 0)
        one_of("score", self.score, ("softmax", "sigmoid"))
        if self.n**2 != self.n_experts:
            raise ConfigError(
                f"n_experts must be a square, n² for two halves of n keys, got {self.n_experts}; "
                f"the nearest below is {self.n**2}"
            )
        form.choices("k", self.k, self.n)

    @property
    def n(self) -> int:
        """Keys of a half: √E, rounded down."""
        return math.isqrt(self.n_experts)

    @property
    def layer(self) -> MoEConfig:
        """The form of the shared expert."""
        return MoEConfig(
            self.d_model,
            self.d_ff,
            RouterConfig(1, 1),
            gated=self.shared_gated,
            activation=self.activation,
            bias=self.shared_bias,
            d_shared=self.d_shared,
        )


def pkm(d_model: int, n_keys: int = 512, *, k: int = 32, heads: int = 4, d_key: int = 256, **others: Any) -> Config:
    """Product-key memory with the sizes of arXiv:1907.05242: n_keys² values, no experts.

    >>> pkm(8, 3, k=2).n_experts
    9
    """
    return Config(d_model, 1, n_keys**2, k=k, heads=heads, d_key=d_key, memory=True, **others)


def peer(d_model: int, n_keys: int = 1024, *, k: int = 16, heads: int = 8, d_key: int = 128, **others: Any) -> Config:
    """PEER, arXiv:2407.04153: a million experts of one neuron, without a gate.

    >>> peer(8, 3, k=2).d_ff
    1
    """
    settings: dict[str, Any] = {"gated": False, "activation": "gelu", **others}
    return Config(d_model, 1, n_keys**2, k=k, heads=heads, d_key=d_key, **settings)


def doge(d_model: int, n_keys: int = 128, *, k: int = 64, **others: Any) -> Config:
    """Doge's cross-domain experts with each token's own scores: one neuron each, no keys, one head, d_shared gated.

    >>> doge(8, 3, k=2).d_key
    0
    """
    settings: dict[str, Any] = {"gated": False, "activation": "silu", **others}
    return Config(d_model, 1, n_keys**2, k=k, **settings)


class Cache(NamedTuple):
    frame: form.Frame
    query: linear.Cache
    q: Array | None  # (T, H, 2, d_key)
    keys: Array | None  # (H, 2, n, d_key)
    found: retrieval.Cache
    experts: experts.Cache | None
    memory: tuple[Array, Array, Array, plan.Plan] | None  # values (E, D), g (T, HK), their places, the plan
    shared: shared.Cache | None


def shapes(cfg: Config) -> form.Shapes:
    """Dotted name -> shape of every parameter."""
    found: form.Shapes = {}
    if cfg.d_key:
        found["router.query"] = (cfg.heads * 2 * cfg.d_key, cfg.d_model)
        found["router.keys"] = (cfg.heads, 2, cfg.n, cfg.d_key)
    else:
        found["router.weight"] = (cfg.heads * 2 * cfg.n, cfg.d_model)
    found |= {"values": (cfg.n_experts, cfg.d_model)} if cfg.memory else form.expert_shapes(cfg)
    return found | {n: s for n, s in parameters.shapes(cfg.layer).items() if n.startswith("shared.")}


def init(rng: np.random.Generator, cfg: Config, dtype: Any = np.float64) -> dict[str, Any]:
    """Parameters: normal with std 1/√fan_in, biases 0."""
    return form.init(rng, shapes(cfg), dtype)


def forward(
    x: Array, p: Mapping[str, Any], cfg: Config, mask: Array | None = None, draws: None = None
) -> tuple[form.Output, Cache]:
    """(out, cache) of x (T, D) or (B, S, D); out.routing.idx (T, H K), head by head.

    >>> cfg = peer(4, 3, k=2, heads=2, d_key=5)
    >>> p = init(np.random.default_rng(0), cfg)
    >>> out, cache = forward(np.ones((3, 4)), p, cfg)
    >>> dx, dp = backward(np.ones((3, 4)), cache)
    >>> out.routing.idx.shape, dp["router"]["keys"].shape
    ((3, 4), (2, 2, 3, 5))
    """
    x, mask, frame = form.enter(NAME, x, p, shapes(cfg), cfg.d_model, mask)
    xp = namespace(x)
    tokens, q, keys = int(x.shape[0]), None, None
    if cfg.d_key:
        flat, query = linear.forward(x, p["router"]["query"])
        q, keys = xp.reshape(flat, (tokens, cfg.heads, 2, cfg.d_key)), p["router"]["keys"]
        s = xp.permute_dims(_by_head(q) @ xp.matrix_transpose(keys), (2, 0, 1, 3))
    else:
        s, query = linear.forward(x, p["router"]["weight"])
    form.finite(NAME, xp.reshape(s, (tokens, cfg.heads * 2 * cfg.n)))
    s = xp.reshape(s, (tokens * cfg.heads, 2, cfg.n))
    (idx, g), found = retrieval.forward(s, cfg.k, competing=cfg.score == "softmax")
    idx, g = (xp.reshape(a, (tokens, cfg.heads * cfg.k)) for a in (idx, g))
    kept = form.of_tokens(mask, idx)
    if kept is not None:
        g = xp.where(kept, g, xp.zeros_like(g))
    experts_cache, memory = None, None
    if cfg.memory:
        chosen = plan.make(idx, kept, cfg.n_experts)
        slot = idx if kept is None else xp.where(kept, idx, xp.full_like(idx, -1))
        y = kernels.of(x).combine(p["values"], g, slot)
        memory = p["values"], g, slot, chosen
        routing = Routing(idx=idx, weight=g, kept=kept, load=chosen.start[1:] - chosen.start[:-1])
    else:
        y, routing, experts_cache = form.dispatch(x, g, p["experts"], idx, kept, cfg)
    shared_cache = None
    if cfg.d_shared:
        common, shared_cache = shared.forward(x, p["shared"], cfg.layer, mask)
        y = y + common
    return form.Output(form.leave(y, frame), {}, routing), Cache(
        frame, query, q, keys, found, experts_cache, memory, shared_cache
    )


def backward(dy: Array, cache: Cache, dlosses: Mapping[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
    """(dx, dp); there are no losses here."""
    frame, query, q, keys, found, experts_cache, memory, shared_cache = cache
    dy, _ = form.upstream(dy, frame, dlosses)
    xp = namespace(dy)
    dp: dict[str, Any] = {}
    if experts_cache is not None:
        dx, dg, dp["experts"] = form.collect(dy, experts_cache)
    else:
        assert memory is not None
        dx = xp.zeros_like(dy)
        dg, dp["values"] = _memory_backward(dy, *memory)
    ds, _ = retrieval.backward(xp.reshape(dg, found.idx.shape), found)
    router: dict[str, Any] = {}
    if q is not None and keys is not None:
        ds = _by_head(xp.reshape(ds, (int(q.shape[0]), *keys.shape[:3])))  # (H, 2, T, n)
        router["keys"] = xp.matrix_transpose(ds) @ _by_head(q)
        ds = xp.permute_dims(ds @ keys, (2, 0, 1, 3))  # dq
    dx_router, d = linear.backward(xp.reshape(ds, (int(dy.shape[0]), int(query.weight.shape[0]))), query)
    dp["router"] = {"weight" if q is None else "query": d["weight"], **router}
    dx = dx + dx_router
    if shared_cache is not None:
        dx_shared, dp["shared"] = shared.backward(dy, shared_cache)
        dx = dx + dx_shared
    return form.leave(dx, frame), {n: dp[n] for n in ("router", "values", "experts", "shared") if n in dp}


def _by_head(a: Array) -> Array:
    """(T, H, 2, ...) as (H, 2, T, ...): one matrix for each head and half."""
    return namespace(a).permute_dims(a, (1, 2, 0, 3))


def _memory_backward(dy: Array, values: Array, g: Array, slot: Array, chosen: plan.Plan) -> tuple[Array, Array]:
    """dg (T, HK) and dvalues (E, D): a value's gradient is summed over its rows of the plan."""
    xp, kernel = namespace(dy), kernels.of(dy)
    weight = xp.take(xp.reshape(g, (-1,)), chosen.pair)
    dvalues = kernel.segment_sum(weight[:, None] * kernel.gather(dy, chosen.token), chosen.start)
    return kernel.combine_dweight(dy, values, slot), dvalues
