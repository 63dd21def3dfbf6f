r"""A decoder-only transformer language model whose feed-forward is dense or a Mixture-of-Experts, layer by layer.

Forward, with N the norm after the last block (``stack``) and U the head (tied: the embedding table W)::

    x      = m_e W[ids]                                  (B, S, D), multipliers m_e and m_l, 1 unless given
    y      = stack(x), causal
    logits = m_l y Uᵀ                                    (B, S, V)
    lm     = mean cross-entropy of logits against targets
    balance, z, ... = mean over the MoE layers           (``losses``)

Backward, from bottom to top; a tied table has two readers, so its gradient is a sum::

    dlogits += dlm · cross-entropy',     dy = m_l dlogits U,     dU = m_l dlogitsᵀ y
    dx, d(blocks) = stack backward(dy, dbalance, dz, ...)
    dW = scatter of m_e dx at ids        (+ dU where tied)

Sources: the decoder, Vaswani et al., arXiv:1706.03762, with pre-norm RMSNorm, RoPE and GLU as in Llama (Touvron et al.,
arXiv:2302.13971, section 2.2); tying, Press and Wolf, arXiv:1608.05859; experts, Mixtral, arXiv:2401.04088.
Cost: about 6 x (active parameters) flops a token for forward and backward, + 12 L S D for attention.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from pymoe.backend.namespace import Array
from pymoe.models import inputs, losses, stack
from pymoe.models.block import scaled
from pymoe.models.config import Attention, TransformerConfig, make_stack
from pymoe.models.losses import LayerLosses, LayerNames
from pymoe.models.stack import StackConfig
from pymoe.nn import embedding
from pymoe.nn.embedding import EmbeddingConfig
from pymoe.nn.self_attention import KV
from pymoe.ops import cross_entropy, linear

LOSS = "lm"  # the name of the loss that ``targets`` give


@dataclass(frozen=True, kw_only=True)
class LMConfig(TransformerConfig):
    """The language model's settings: those of ``TransformerConfig``, and

    tie         is the head the embedding table?
    attention   that of all blocks, or a tuple with that of each, in the place of what n_heads, n_kv_heads, head_dim,
                rope_base and bias describe
    """

    tie: bool = True
    attention: Attention = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.stack  # noqa: B018 - made once, here, so that every setting is checked

    @cached_property
    def stack(self) -> StackConfig:
        """The blocks."""
        return make_stack(self, self.n_layers, self.moe_layers, moe=self.moe, causal=True, attention=self.attention)

    @property
    def embedding(self) -> EmbeddingConfig:
        """The embedding table, and the head where it is not tied."""
        return EmbeddingConfig(self.vocab, self.d_model, self.std, self.multipliers.embedding)


class Output(NamedTuple):
    logits: Array  # (B, S, V)
    losses: dict[str, Array]  # 0-d: "lm" if targets were given; "balance", "z", ... means over the MoE layers
    layer_losses: LayerLosses  # the same losses layer by layer; empty where dense
    routing: tuple[Any, ...]  # layer by layer; None where dense

    @property
    def y(self) -> Array:
        """The logits, under the name that every layer's output has."""
        return self.logits


class Cache(NamedTuple):
    cfg: LMConfig
    c_embedding: embedding.Cache
    c_stack: stack.Cache
    c_head: linear.Cache
    c_loss: cross_entropy.Cache | None  # None without targets
    layer_names: LayerNames  # which losses each layer has


def init(rng: np.random.Generator, cfg: LMConfig, dtype: Any = np.float32) -> dict[str, Any]:
    """The parameters at their start: embed_tokens.weight, layers.<i>.*, norm.weight[, lm_head.weight].

    >>> p = init(np.random.default_rng(0), LMConfig(vocab=7, d_model=6, n_layers=2, n_heads=3, d_ff=4, context=5))
    >>> sorted(p), sorted(p["layers"]["1"])
    (['embed_tokens', 'layers', 'norm'], ['input_layernorm', 'mlp', 'post_attention_layernorm', 'self_attn'])
    """
    p = {"embed_tokens": embedding.init(rng, cfg.embedding, dtype)} | stack.init(rng, cfg.stack, dtype)
    return p if cfg.tie else p | {"lm_head": embedding.init(rng, cfg.embedding, dtype)}


def draw(rng: np.random.Generator, cfg: LMConfig, batch: int, seq: int) -> stack.Draws | None:
    """The random draws (dropout masks, router noise) of one training step; None if there are none."""
    return stack.draw(rng, cfg.stack, batch, seq)


def forward(
    ids: Array,
    p: dict[str, Any],
    cfg: LMConfig,
    *,
    targets: Array | None = None,
    mask: Array | None = None,
    draws: stack.Draws | None = None,
) -> tuple[Output, Cache]:
    """ids (B, S) -> Output(logits (B, S, V), losses, ...).

    targets (B, S): the id that follows each token, -100 = no target; mask (B, S) bool, True = a real token (the others
    are no key, no target and have no part in routing counts).  Without ``draws`` (evaluation) nothing is dropped.

    >>> cfg = LMConfig(vocab=7, d_model=6, n_layers=2, n_heads=3, d_ff=4, context=5)
    >>> ids = np.array([[1, 2, 3]])
    >>> out, cache = forward(ids, init(np.random.default_rng(0), cfg), cfg, targets=np.array([[2, 3, 4]]))
    >>> out.logits.shape, round(float(out.losses["lm"]), 1)  # near log 7: at the start all tokens are about as likely
    ((1, 3, 7), 2.0)
    """
    inputs.check_ids("ids", ids, cfg.context)
    inputs.check_mask("mask", mask, tuple(ids.shape))
    x, c_embedding = embedding.forward(ids, p["embed_tokens"], cfg.embedding)
    trunk, c_stack = stack.forward(x, p, cfg.stack, mask=mask, draws=draws)
    logits, c_head = linear.forward(scaled(trunk.y, cfg.multipliers.logits), _head(p, cfg))
    by_name: dict[str, Array] = {}
    c_loss = None
    if targets is not None:
        wanted = inputs.kept_targets(targets, mask)
        by_name[LOSS], c_loss = cross_entropy.forward(
            logits, wanted, ignore_index=inputs.IGNORE, label_smoothing=cfg.label_smoothing
        )
    by_name |= losses.mean(trunk.layer_losses)
    cache = Cache(cfg, c_embedding, c_stack, c_head, c_loss, losses.names(trunk.layer_losses))
    return Output(logits, by_name, trunk.layer_losses, trunk.routing), cache


def backward(dlogits: Array | None, cache: Cache, dlosses: dict[str, Any] | None = None) -> tuple[None, dict[str, Any]]:
    """dlogits (B, S, V) or None, dlosses such as {"lm": 1.0, "balance": 0.01} -> (None, dp).

    Two cotangents of the logits, the given one and the loss's, are summed; a loss that is not named has cotangent 0.

    >>> cfg = LMConfig(vocab=7, d_model=6, n_layers=2, n_heads=3, d_ff=4, context=5)
    >>> p = init(np.random.default_rng(0), cfg)
    >>> _, cache = forward(np.array([[1, 2, 3]]), p, cfg, targets=np.array([[2, 3, 4]]))
    >>> _, dp = backward(None, cache, {"lm": 1.0})
    >>> dp["layers"]["0"]["self_attn"]["qkv_proj"].shape == p["layers"]["0"]["self_attn"]["qkv_proj"].shape
    True
    """
    cfg, c_embedding, c_stack, c_head, c_loss, names = cache
    dloss, d_layers = losses.split(dlosses, LOSS, c_loss is not None, names)
    dy, d_head = linear.backward(losses.logits_backward(dlogits, dloss, c_loss, c_head), c_head)
    dx, dp, _ = stack.backward(scaled(dy, cfg.multipliers.logits), c_stack, losses.share(d_layers, names))
    _, d_embedding = embedding.backward(dx, c_embedding)
    if cfg.tie:  # the table is read as embedding and as head: the written sum
        return None, {"embed_tokens": {"weight": d_embedding["weight"] + d_head["weight"]}} | dp
    return None, {"embed_tokens": d_embedding} | dp | {"lm_head": d_head}


def step(
    ids: Array, p: dict[str, Any], cfg: LMConfig, past: tuple[KV, ...] | None = None
) -> tuple[Array, tuple[KV, ...]]:
    """The logits (B, V) after the last of ids (B, S), given the keys and values of what came before; and the new ones.

    This is generation: only new tokens are computed, and only the last one's logits.
    """
    inputs.check_ids("ids", ids, cfg.context, 0 if past is None else int(past[0].k.shape[2]))
    x, _ = embedding.forward(ids, p["embed_tokens"], cfg.embedding)
    trunk, _ = stack.forward(x, p, cfg.stack, past=past)
    logits, _ = linear.forward(scaled(trunk.y[:, -1, :], cfg.multipliers.logits), _head(p, cfg))
    return logits, trunk.kv


def _head(p: dict[str, Any], cfg: LMConfig) -> Array:
    return p["embed_tokens" if cfg.tie else "lm_head"]["weight"]
