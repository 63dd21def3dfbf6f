r"""One pre-norm transformer block, the only one: language model, classifier and both halves of seq2seq are made of it.

Forward, with the norms N₁, N₂, N₃, dropout after each part, and m = cfg.residual (1 unless given)::

    a = x + m attention(N₁ x)                               of one of the kinds in ``ATTENTION``
    c = a + m cross_attention(N₂ a, memory)                 in a decoder that reads a memory; else c = a
    y = c + m feed_forward(N₃ c)                            dense, or a Mixture-of-Experts layer

Backward, from bottom to top: each sum passes dy on to both its terms, and each reader of the stream adds its part::

    dc = dy + N₃ᵀ feed_forwardᵀ m dy
    da = dc + N₂ᵀ cross_attentionᵀ m dc,    dmemory = the cross-attention's second gradient
    dx = da + N₁ᵀ attentionᵀ m da

Source: pre-norm residual blocks, Xiong et al., arXiv:2002.04745, fig. 1(b); the MoE layer in the place of
the feed-forward, Shazeer et al., arXiv:1701.06538, and Lepikhin et al., arXiv:2006.16668; the residual multiplier, Yang
et al., arXiv:2310.02244.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pymoe import moe
from pymoe.backend import device, namespace, real
from pymoe.backend.errors import ConfigError
from pymoe.backend.namespace import Array
from pymoe.moe import MoEConfig
from pymoe.nn import cross_attention, feed_forward, initial, latent_attention, norm, self_attention
from pymoe.nn.cross_attention import CrossAttentionConfig
from pymoe.nn.feed_forward import FeedForwardConfig
from pymoe.nn.latent_attention import LatentAttentionConfig
from pymoe.nn.norm import NormConfig
from pymoe.nn.self_attention import KV, SelfAttentionConfig
from pymoe.ops import dropout

AttentionConfig = SelfAttentionConfig | LatentAttentionConfig
ATTENTION: dict[type, Any] = {SelfAttentionConfig: self_attention, LatentAttentionConfig: latent_attention}


@dataclass(frozen=True)
class BlockConfig:
    """What one block is made of; all its parts have the same d_model.

    std, out_std    start of the MoE layer's matrices, and of its down projections (the other parts know theirs)
    residual        the factor on what each part adds to the stream
    """

    attention: AttentionConfig
    feed_forward: FeedForwardConfig | MoEConfig
    norm: NormConfig
    cross: CrossAttentionConfig | None = None
    dropout: float = 0.0
    std: float = 0.02
    out_std: float = 0.02
    residual: float = 1.0

    def __post_init__(self) -> None:
        parts = {"attention": self.attention, "feed_forward": self.feed_forward, "norm": self.norm, "cross": self.cross}
        widths = {name: part.d_model for name, part in parts.items() if part is not None}
        if len(set(widths.values())) != 1:
            raise ConfigError(f"the parts of a block must have one d_model, got {widths}")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout must lie in [0, 1), got {self.dropout!r}")
        initial.check_std("BlockConfig", residual=self.residual)

    @property
    def sparse(self) -> bool:
        """Is the feed-forward a Mixture-of-Experts layer?"""
        return isinstance(self.feed_forward, MoEConfig)


class Draws(NamedTuple):
    """The random draws of one block as values; None where a part draws nothing."""

    attention: Array | None  # (B, S, D) bool, True = kept by dropout
    cross: Array | None  # (B, S, D) bool
    feed_forward: Array | None  # (B, S, D) bool
    moe: moe.Draws | None  # of ``moe.draw``


class Output(NamedTuple):
    y: Array  # (B, S, D)
    losses: dict[str, Array]  # of the MoE layer; empty for a dense block
    routing: Any  # of the MoE layer; None for a dense block
    kv: KV  # keys and values, past and present: ``past`` of the next step


class Cache(NamedTuple):
    cfg: BlockConfig
    c_norm_attention: norm.Cache
    c_attention: self_attention.Cache | latent_attention.Cache
    c_drop_attention: dropout.Cache | None
    c_norm_cross: norm.Cache | None
    c_cross: cross_attention.Cache | None
    c_drop_cross: dropout.Cache | None
    c_norm_feed_forward: norm.Cache
    c_feed_forward: Any  # of feed_forward or of moe
    c_drop_feed_forward: dropout.Cache | None


def init(rng: np.random.Generator, cfg: BlockConfig, dtype: Any = np.float32) -> dict[str, Any]:
    """The parameters at their start, under the names of published checkpoints.

    input_layernorm, self_attn, [cross_attn_layernorm, cross_attn,] post_attention_layernorm, mlp (dense or MoE).
    """
    p: dict[str, Any] = {"input_layernorm": norm.init(rng, cfg.norm, dtype)}
    p["self_attn"] = ATTENTION[type(cfg.attention)].init(rng, cfg.attention, dtype)
    if cfg.cross is not None:
        p["cross_attn_layernorm"] = norm.init(rng, cfg.norm, dtype)
        p["cross_attn"] = cross_attention.init(rng, cfg.cross, dtype)
    p["post_attention_layernorm"] = norm.init(rng, cfg.norm, dtype)
    if isinstance(cfg.feed_forward, MoEConfig):
        p["mlp"] = _restarted(moe.init(rng, cfg.feed_forward, dtype), cfg.std, cfg.out_std)
    else:
        p["mlp"] = feed_forward.init(rng, cfg.feed_forward, dtype)
    return p


def draw(rng: np.random.Generator, cfg: BlockConfig, batch: int, seq: int) -> Draws | None:
    """The draws of one training step over (batch, seq) tokens; None if the block draws nothing."""
    masks: list[Array | None] = [None, None, None]
    if cfg.dropout:
        shape = (batch, seq, cfg.attention.d_model)
        for i, present in enumerate((True, cfg.cross is not None, True)):
            masks[i] = keep_mask(rng, shape, cfg.dropout) if present else None
    for_moe = moe.draw(rng, cfg.feed_forward, batch * seq) if isinstance(cfg.feed_forward, MoEConfig) else None
    if for_moe is not None and all(part is None for part in for_moe):
        for_moe = None
    draws = Draws(masks[0], masks[1], masks[2], for_moe)
    return None if all(part is None for part in draws) else draws


def keep_mask(rng: np.random.Generator, shape: tuple[int, ...], rate: float) -> Array:
    """Bool mask for ``ops.dropout``, True with probability 1 - rate."""
    return rng.random(shape, dtype=np.float32) >= np.float32(rate)


def forward(
    x: Array,
    p: dict[str, Any],
    cfg: BlockConfig,
    memory: Array | None = None,
    *,
    mask: Array | None = None,
    memory_mask: Array | None = None,
    positions: Array | None = None,
    past: KV | None = None,
    memory_kv: KV | None = None,
    draws: Draws | None = None,
) -> tuple[Output, Cache]:
    """x (B, S, D) [, memory (B, Sm, D)] -> Output(y (B, S, D), ...).

    mask (B, n_past + S) bool, True = a real token: no query looks at another key, and the MoE layer gives the others
    no place in any count.  Without ``draws`` nothing is dropped and no noise is added (evaluation).
    """
    draws = Draws(None, None, None, None) if draws is None else draws
    h, c_n1 = norm.forward(x, p["input_layernorm"], cfg.norm)
    attend = ATTENTION[type(cfg.attention)].forward
    h, c_attention = attend(h, p["self_attn"], cfg.attention, mask=mask, positions=positions, past=past)
    h, c_d1 = drop(h, draws.attention, cfg.dropout)
    x = x + scaled(h, cfg.residual)

    c_n2 = c_cross = c_d2 = None
    if cfg.cross is not None:
        h, c_n2 = norm.forward(x, p["cross_attn_layernorm"], cfg.norm)
        h, c_cross = cross_attention.forward(h, p["cross_attn"], cfg.cross, memory, mask=memory_mask, kv=memory_kv)
        h, c_d2 = drop(h, draws.cross, cfg.dropout)
        x = x + scaled(h, cfg.residual)

    h, c_n3 = norm.forward(x, p["post_attention_layernorm"], cfg.norm)
    losses: dict[str, Array] = {}
    routing = None
    c_ff: Any
    if isinstance(cfg.feed_forward, MoEConfig):
        real_tokens = None if mask is None else mask[:, mask.shape[1] - x.shape[1] :]
        out, c_ff = moe.forward(h, p["mlp"], cfg.feed_forward, mask=real_tokens, draws=_like(h, draws.moe))
        h, losses, routing = out.y, out.losses, out.routing
    else:
        h, c_ff = feed_forward.forward(h, p["mlp"], cfg.feed_forward)
    h, c_d3 = drop(h, draws.feed_forward, cfg.dropout)
    cache = Cache(cfg, c_n1, c_attention, c_d1, c_n2, c_cross, c_d2, c_n3, c_ff, c_d3)
    return Output(x + scaled(h, cfg.residual), losses, routing, c_attention.kv), cache


def backward(
    dy: Array, cache: Cache, dlosses: dict[str, Any] | None = None
) -> tuple[Array, dict[str, Any], Array | None]:
    """dy (B, S, D), cotangents of the MoE layer's losses -> dx (B, S, D), dp, dmemory (None where none is read)."""
    cfg, c_n1, c_attention, c_d1, c_n2, c_cross, c_d2, c_n3, c_ff, c_d3 = cache
    dh = drop_backward(scaled(dy, cfg.residual), c_d3)
    dh, d_ff = moe.backward(dh, c_ff, dlosses) if cfg.sparse else feed_forward.backward(dh, c_ff)
    dh, d_n3 = norm.backward(dh, c_n3)
    dx = dy + dh

    dmemory = None
    d_cross: dict[str, Any] = {}
    if c_cross is not None and c_n2 is not None:
        dh, d_attn, dmemory = cross_attention.backward(drop_backward(scaled(dx, cfg.residual), c_d2), c_cross)
        dh, d_n2 = norm.backward(dh, c_n2)
        d_cross = {"cross_attn_layernorm": d_n2, "cross_attn": d_attn}
        dx = dx + dh

    dh = drop_backward(scaled(dx, cfg.residual), c_d1)
    dh, d_attention = ATTENTION[type(cfg.attention)].backward(dh, c_attention)
    dh, d_n1 = norm.backward(dh, c_n1)
    dp = {"input_layernorm": d_n1, "self_attn": d_attention, **d_cross, "post_attention_layernorm": d_n3, "mlp": d_ff}
    return dx + dh, dp, dmemory


def scaled(x: Array, factor: float) -> Array:
    """factor x; x itself where the factor is 1."""
    return x if factor == 1 else x * factor


def drop(x: Array, keep: Array | None, rate: float) -> tuple[Array, dropout.Cache | None]:
    """Dropout by a drawn mask; without one, x itself."""
    if keep is None:
        return x, None
    return dropout.forward(x, namespace(x).asarray(keep, device=device(x)), rate=rate)


def drop_backward(dy: Array, cache: dropout.Cache | None) -> Array:
    """The backward of ``drop``."""
    return dy if cache is None else dropout.backward(dy, cache)[0]


def _like(x: Array, draws: moe.Draws | None) -> moe.Draws | None:
    """The draws in the dtype and on the device of x."""
    if draws is None:
        return None
    xp, dtype, where = namespace(x), real(x).dtype, device(x)
    return moe.Draws(*(None if a is None else xp.astype(xp.asarray(a, device=where), dtype) for a in draws))


def _restarted(p: dict[str, Any], std: float, out_std: float) -> dict[str, Any]:
    """The tree of ``moe.init``, whose matrices have std 1/√fan_in, with those of this model."""

    def leaf(name: str, value: Array) -> Array:
        if value.ndim < 2:
            return value
        return value * value.dtype.type((out_std if name == "down_proj" else std) * math.sqrt(value.shape[-1]))

    return {
        name: _restarted(value, std, out_std) if isinstance(value, dict) else leaf(name, value)
        for name, value in p.items()
    }
